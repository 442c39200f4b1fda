//! The emulated controller under the kernel's driver and nvme-cli: served by vfio-user to QEMU (10.1 or newer), and in the
//! guest a PCI function like any other.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nvme_driver::clock::Clock;
use nvme_driver::vfio_user::server::{Server, Trust};
use nvme_emulator::Emulator;
use nvme_guest::{Guest, Machine, Shared, Tools};

/// The first version of QEMU that has vfio-user-pci.
const QEMU_VERSION: (u32, u32) = (10, 1);
const NVME: &str = "/dev/nvme0n1";
const FUNCTION: &str = "0000:00:04.0";

static EMULATOR: OnceLock<Arc<Emulator>> = OnceLock::new();

static GUEST: Shared = Shared::new(|| {
    let socket = socket();
    std::fs::create_dir_all(socket.parent().expect("a folder")).expect("it can be made");
    let config = "size=128MiB,namespaces=2,lba=512,serial=served,queues=8,vectors=9";
    let config = config.parse().expect("a configuration");
    let mut server = Server::bind(&socket, config, Trust::Sealed, Clock::system()).expect("a server");
    EMULATOR
        .set(Arc::clone(server.emulator()))
        .expect("the first server");
    // Serves as long as there are tests.
    std::thread::spawn(move || {
        let (never, _writer) = std::io::pipe().expect("a pipe");
        server.serve(never.as_fd()).expect("it serves");
    });
    let device = serde_json::json!({
        "driver": "vfio-user-pci",
        "addr": "4",
        "socket": {"type": "unix", "path": socket},
    });
    Machine::new()
        .cpus(2)
        .device(&device.to_string())
        .modules(&["nvme", "ext4", "vfio-pci", "vfio_iommu_type1"])
        .programs(&["fio", "mkfs.ext4", "e2fsck"])
});

fn socket() -> std::path::PathBuf {
    let folder = format!("nvme-guest-served-{}", std::process::id());
    std::env::temp_dir().join(folder).join("socket")
}

/// The guest, for one case at a time, since all use the same device.
fn guest() -> Option<(&'static Guest, MutexGuard<'static, ()>)> {
    static TURN: Mutex<()> = Mutex::new(());
    if !Shared::wanted() {
        return None;
    }
    let version = Tools::find().expect("it is there").qemu_version;
    if version < QEMU_VERSION {
        assert_ne!(
            std::env::var_os("NVME_TEST_REQUIRE").unwrap_or_default(),
            "all",
            "QEMU {version:?} has no vfio-user-pci"
        );
        eprintln!("skipped: QEMU {version:?} has no vfio-user-pci, {QEMU_VERSION:?} has");
        return None;
    }
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let guest = GUEST.get()?;
    // It is connected: nobody needs the socket any more.
    let _ = std::fs::remove_dir_all(socket().parent().expect("a folder"));
    Some((guest, turn))
}

/// Runs what has to succeed; what it said.
fn check(guest: &Guest, command: &str) -> String {
    guest
        .check_for(command, Duration::from_secs(120))
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_kernels_driver_brings_it_up() {
    let Some((guest, _turn)) = guest() else { return };
    let serial = check(guest, "cat /sys/class/nvme/nvme0/serial");
    assert_eq!(serial.trim(), "served");
    assert_eq!(check(guest, "cat /sys/class/nvme/nvme0/state"), "live\n");
    assert_eq!(check(guest, "cat /sys/block/nvme0n1/size"), "262144\n");
    assert_eq!(
        check(guest, "cat /sys/block/nvme0n2/queue/logical_block_size"),
        "512\n"
    );
    // The admin queue and one queue for each CPU, each with a vector of its own.
    assert_eq!(check(guest, "grep -c nvme0q /proc/interrupts"), "3\n");
    let said = check(guest, "dmesg | grep -i 'nvme nvme0' || true");
    for bad in ["error", "timeout", "fail", "invalid", "disabl"] {
        assert!(!said.to_lowercase().contains(bad), "{said}");
    }
}

#[test]
fn nvme_cli_reads_everything() {
    let Some((guest, _turn)) = guest() else { return };
    for command in [
        "list",
        "id-ctrl /dev/nvme0 -H",
        "id-ns /dev/nvme0n1 -H",
        "ns-descs /dev/nvme0n1",
        "list-ns /dev/nvme0",
        "list-ctrl /dev/nvme0",
        "nvm-id-ctrl /dev/nvme0",
        "smart-log /dev/nvme0",
        "error-log /dev/nvme0",
        "fw-log /dev/nvme0",
        "effects-log /dev/nvme0",
        "changed-ns-list-log /dev/nvme0",
        "self-test-log /dev/nvme0",
        "get-feature /dev/nvme0 -f 1 -H",
        "get-feature /dev/nvme0 -f 2 -H",
        "get-feature /dev/nvme0 -f 4 -H",
        "get-feature /dev/nvme0 -f 6 -H",
        "get-feature /dev/nvme0 -f 7 -H",
        "get-feature /dev/nvme0 -f 8 -H",
        "get-feature /dev/nvme0 -f 11 -H",
    ] {
        check(guest, &format!("nvme {command} 2>&1"));
    }
    let identify = check(guest, "nvme id-ctrl /dev/nvme0 -o json");
    let identify: serde_json::Value = serde_json::from_str(&identify).expect("JSON");
    assert_eq!(
        identify["mn"].as_str().map(str::trim),
        Some("Emulated NVMe Controller")
    );
    assert_eq!(identify["nn"], 2);
    // What is not there is refused, and not by silence.
    let refused = guest
        .run("nvme get-log /dev/nvme0 -i 0xc0 -l 512")
        .expect("it runs");
    assert!(!refused.success() && refused.complaint().to_lowercase().contains("nvme status"));
}

#[test]
fn what_is_written_is_read_again() {
    let Some((guest, _turn)) = guest() else { return };
    check(
        guest,
        &format!(
            "fio --name=verify --filename={NVME} --direct=1 --ioengine=libaio --rw=randwrite --bsrange=512-64k \
             --iodepth=16 --size=32M --verify=crc32c --verify_fatal=1 --randseed=7"
        ),
    );
    check(
        guest,
        &format!(
            "set -e; dd if=/dev/urandom of=/tmp/data bs=64k count=16; nvme write {NVME} -s 2048 -c 127 -z 65536 \
             -d /tmp/data; nvme compare {NVME} -s 2048 -c 127 -z 65536 -d /tmp/data; nvme read {NVME} -s 2048 -c 127 \
             -z 65536 -d /tmp/read; cmp -n 65536 /tmp/data /tmp/read; nvme flush {NVME}; nvme verify {NVME} -s 2048 -c 127; \
             nvme write-zeroes {NVME} -s 2048 -c 63; nvme read {NVME} -s 2048 -c 127 -z 65536 -d /tmp/read; \
             cmp -n 32768 /tmp/read /dev/zero; dd if=/tmp/data bs=512 skip=64 count=64 of=/tmp/upper; \
             dd if=/tmp/read bs=512 skip=64 count=64 | cmp -n 32768 /tmp/upper -; nvme dsm {NVME} -d -s 2112 -b 64 -n 1"
        ),
    );
    let different = guest
        .run(&format!(
            "nvme compare {NVME} -s 2048 -c 127 -z 65536 -d /tmp/data"
        ))
        .expect("it runs");
    assert!(
        different.complaint().to_uppercase().contains("COMPARE"),
        "{}",
        different.complaint()
    );
}

#[test]
fn a_file_system_lives_on_it() {
    let Some((guest, _turn)) = guest() else { return };
    check(
        guest,
        "set -e; mkfs.ext4 -q -F /dev/nvme0n2; trap 'cd /; umount /mnt 2>/dev/null || true' EXIT; mount -t ext4 /dev/nvme0n2 /mnt; \
         for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/$n bs=1M count=2; done; \
         cd /mnt; sha256sum [1-8] > /tmp/sums; cd /; rm /mnt/3; umount /mnt; e2fsck -f -n /dev/nvme0n2; \
         mount -t ext4 /dev/nvme0n2 /mnt; cd /mnt; grep -v ' 3$' /tmp/sums | sha256sum -c; cd /; umount /mnt",
    );
}

#[test]
fn resets_lose_nothing() {
    let Some((guest, _turn)) = guest() else { return };
    check(
        guest,
        &format!(
            "dd if=/dev/urandom of=/tmp/kept bs=1M count=4; dd if=/tmp/kept of={NVME} bs=1M seek=64 oflag=direct"
        ),
    );
    let resets = EMULATOR.get().expect("it serves").counters().resets;
    for reset in [
        "echo 1 > /sys/class/nvme/nvme0/reset_controller".to_owned(),
        format!(
            "echo flr > /sys/bus/pci/devices/{FUNCTION}/reset_method && echo 1 > /sys/bus/pci/devices/{FUNCTION}/reset"
        ),
        "nvme reset /dev/nvme0".to_owned(),
    ] {
        check(
            guest,
            &format!(
                "set -e; {reset}; until grep -q live /sys/class/nvme/nvme0/state; do sleep 0.1; done; \
                 dd if={NVME} bs=1M skip=64 count=4 iflag=direct | cmp - /tmp/kept"
            ),
        );
    }
    assert!(EMULATOR.get().expect("it serves").counters().resets >= resets + 3);
}

#[test]
fn the_kernel_hears_that_a_namespace_has_changed() {
    let Some((guest, _turn)) = guest() else { return };
    let emulator = EMULATOR.get().expect("it serves");
    let blocks = |blocks: u64| {
        emulator.resize_namespace(2, blocks).expect("it has two");
        check(
            guest,
            &format!("until grep -qx {blocks} /sys/block/nvme0n2/size; do sleep 0.1; done"),
        );
    };
    blocks(200_000);
    blocks(262_144);
    emulator.set_namespace_active(2, false).expect("it has two");
    check(guest, "while [ -e /sys/block/nvme0n2 ]; do sleep 0.1; done");
    emulator.set_namespace_active(2, true).expect("it has two");
    check(guest, "until [ -e /dev/nvme0n2 ]; do sleep 0.1; done");
}

#[test]
fn our_driver_in_the_guest_drives_it_too() {
    let Some((guest, _turn)) = guest() else { return };
    let function = guest.pci(FUNCTION);
    function.bind("vfio-pci").expect("it is taken");
    for polling in ["false", "true"] {
        let said = check(
            guest,
            &format!(
                "NVME_BENCHMARK=1 NVME_POLLING_MODE={polling} nvme-driver --device vfio:{FUNCTION} --bench-time 500ms --json"
            ),
        );
        let result: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert!(
            result["total"]["read"]["ios"].as_u64().is_some_and(|ios| ios > 0),
            "{said}"
        );
    }
    function.bind("nvme").expect("it goes back");
    check(guest, &format!("until [ -e {NVME} ]; do sleep 0.1; done"));
}
