//! The kernel's driver and ours beside each other: one guest, one boot, two controllers whose disks do nothing.
//!
//! What comes out is a table. An emulated CPU is not a real one: what is compared is how much a driver does for each
//! request, all of which is emulated the same way. Nothing here fails for being slow, but for being slower than the
//! kernel's.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nvme_guest::{Guest, Machine, Shared};
use serde_json::Value;

/// One, so that on a machine with two the other is QEMU's own thread's, which is the device.
const CPUS: u32 = 1;

fn machine() -> Machine {
    Machine::new()
        .cpus(CPUS)
        .argument("-blockdev")
        .argument("driver=null-co,node-name=n0,size=4294967296,read-zeroes=off")
        .argument("-blockdev")
        .argument("driver=null-co,node-name=n1,size=4294967296,read-zeroes=off")
        .device("nvme,id=theirs,serial=theirs,drive=n0,addr=4")
        .device("nvme,id=ours,serial=ours,drive=n1,addr=5")
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1", "fuse"])
        .programs(&["fio"])
}

/// A kernel as it is by itself where there is an IOMMU: both drivers' devices reach by DMA what is mapped for them and nothing
/// else, for which the kernel's driver maps each request's pages and ours all of its memory once; and the CPU is not trusted.
static TRANSLATED: Shared = Shared::new(|| {
    machine()
        .kernel_argument("iommu=nopt")
        .kernel_argument("mitigations=auto")
});

/// The kernel's own drivers are not held to the IOMMU; ours is.
static PASSED_THROUGH: Shared = Shared::new(machine);

const OURS: &str = "0000:00:05.0";
const TIMEOUT: Duration = Duration::from_secs(180);
/// What a measurement takes, in seconds.
const SECONDS: u32 = 2;

/// Measurements of each, taken in turn; the median is shown.
fn rounds() -> usize {
    let asked = std::env::var("NVME_GUEST_ROUNDS").ok();
    asked
        .and_then(|rounds| rounds.parse().ok())
        .filter(|rounds| *rounds > 0)
        .unwrap_or(1)
}

struct Job {
    name: &'static str,
    pattern: &'static str,
    block: &'static str,
    depth: u32,
}

const JOBS: [Job; 5] = [
    Job {
        name: "4 KiB random reads, QD 1",
        pattern: "randread",
        block: "4k",
        depth: 1,
    },
    Job {
        name: "4 KiB random reads, QD 32",
        pattern: "randread",
        block: "4k",
        depth: 32,
    },
    Job {
        name: "4 KiB random reads, QD 128",
        pattern: "randread",
        block: "4k",
        depth: 128,
    },
    Job {
        name: "128 KiB random reads, QD 32",
        pattern: "randread",
        block: "128k",
        depth: 32,
    },
    Job {
        name: "4 KiB 70/30, QD 32",
        pattern: "randrw",
        block: "4k",
        depth: 32,
    },
];

#[derive(Clone, Copy)]
enum Way {
    Kernel(&'static str),
    Ours(&'static str),
}

const WAYS: [(&str, Way); 4] = [
    ("kernel, io_uring", Way::Kernel("io_uring")),
    ("kernel, libaio", Way::Kernel("libaio")),
    ("ours, polling", Way::Ours("true")),
    ("ours, interrupts", Way::Ours("false")),
];

#[derive(Clone, Copy, Debug)]
struct Figures {
    iops: f64,
    p50_us: f64,
    p99_us: f64,
    /// CPUs that were busy on average.
    cpus: f64,
}

/// Runs `command`, and measures how busy the guest's CPUs are meanwhile.
fn measured(guest: &Guest, command: &str) -> (String, f64) {
    let busy = "awk '/^cpu / {print $2+$3+$4+$7+$8, $2+$3+$4+$5+$6+$7+$8}' /proc/stat";
    let text = format!(
        "{busy} >/tmp/before; {command} >/tmp/out || exit 1; {busy} >/tmp/after; cat /tmp/before /tmp/after; cat /tmp/out"
    );
    let output = guest.check_for(&text, TIMEOUT).expect("it is measured");
    let mut lines = output.splitn(3, '\n');
    let mut numbers = || -> (f64, f64) {
        let (busy, all) = lines
            .next()
            .and_then(|line| line.split_once(' '))
            .expect("two numbers");
        (busy.parse().expect("a number"), all.parse().expect("a number"))
    };
    let ((busy_before, all_before), (busy_after, all_after)) = (numbers(), numbers());
    let cpus = f64::from(CPUS) * (busy_after - busy_before) / (all_after - all_before).max(1.0);
    (lines.next().unwrap_or_default().to_owned(), cpus)
}

/// fio's own document, and ours in its shape.
fn figures(text: &str, cpus: f64) -> Figures {
    let start = text.find('{').expect("JSON");
    let document: Value = serde_json::from_str(&text[start..]).expect("JSON");
    let job = &document["jobs"][0];
    let iops = job["read"]["iops"].as_f64().unwrap_or(0.0) + job["write"]["iops"].as_f64().unwrap_or(0.0);
    let percentile = |which: &str| {
        job["read"]["clat_ns"]["percentile"][which]
            .as_f64()
            .expect("a percentile")
            / 1000.0
    };
    Figures {
        iops,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        cpus,
    }
}

fn kernel(guest: &Guest, engine: &str, job: &Job) -> Figures {
    let Job {
        pattern,
        block,
        depth,
        ..
    } = job;
    let (text, cpus) = measured(
        guest,
        &format!(
            "fio --name=job --filename=/dev/nvme0n1 --direct=1 --ioengine={engine} --rw={pattern} --rwmixread=70 --bs={block} \
         --iodepth={depth} --time_based --runtime={SECONDS} --output-format=json"
        ),
    );
    figures(&text, cpus)
}

fn ours(guest: &Guest, polling: &str, job: &Job) -> Figures {
    let Job {
        pattern,
        block,
        depth,
        ..
    } = job;
    let destructive = if *pattern == "randrw" {
        "--mix 70 --destructive --yes-destroy=ours"
    } else {
        ""
    };
    guest
        .check(&format!(
            "mkdir -p /run/scheme; NVME_POLLING_MODE={polling} NVME_POLL_INTERVAL_US=0 NVME_NUM_QUEUES=1 \
             nvme-driver --device vfio:{OURS} >/tmp/daemon 2>&1 & \
             until grep -q serving /tmp/daemon; do sleep 0.1; done"
        ))
        .expect("the daemon serves");
    let (text, cpus) = measured(
        guest,
        &format!(
            "nvmectl bench --rw {pattern} --bs {block} --qd {depth} --time {SECONDS}s {destructive} --fio-json"
        ),
    );
    guest
        .check("killall nvme-driver; while pidof nvme-driver >/dev/null; do sleep 0.1; done")
        .expect("it ends");
    figures(&text, cpus)
}

fn median(mut of: Vec<Figures>) -> Figures {
    of.sort_by(|a, b| a.iops.total_cmp(&b.iops));
    of[of.len() / 2]
}

/// Held while something is measured.
static QUIET: Mutex<()> = Mutex::new(());

fn compare(guest: &Guest, jobs: &[Job]) {
    guest.pci(OURS).bind("vfio-pci").expect("it is taken");
    println!("| job | driver | IOPS | p50 us | p99 us | CPUs busy | times io_uring |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: |");
    let mut faster = Vec::new();
    for job in jobs {
        let mut all: [Vec<Figures>; WAYS.len()] = Default::default();
        for _ in 0..rounds() {
            for ((_, way), all) in WAYS.iter().zip(&mut all) {
                all.push(match way {
                    Way::Kernel(engine) => kernel(guest, engine, job),
                    Way::Ours(polling) => ours(guest, polling, job),
                });
            }
        }
        let medians = all.map(median);
        for ((name, _), figures) in WAYS.iter().zip(medians) {
            println!(
                "| {} | {name} | {:.0} | {:.0} | {:.0} | {:.2} | {:.1} |",
                job.name,
                figures.iops,
                figures.p50_us,
                figures.p99_us,
                figures.cpus,
                figures.iops / medians[0].iops
            );
        }
        faster.push((job.name, medians[2].iops > medians[0].iops));
    }
    for (name, faster) in faster.iter().filter(|(name, _)| name.starts_with("4 KiB random")) {
        assert!(faster, "{name}: ours is slower than the kernel's");
    }
}

#[test]
fn both_behind_the_iommu() {
    let _quiet = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(guest) = TRANSLATED.get() else { return };
    compare(guest, &JOBS);
}

#[test]
fn the_kernels_driver_passed_through() {
    let _quiet = QUIET.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(guest) = PASSED_THROUGH.get() else { return };
    compare(guest, &JOBS[..3]);
}
