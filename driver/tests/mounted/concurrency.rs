//! Many requests at once through one mount, and none that waits for another.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nvme_driver::Config;
use nvme_driver::embedded;
use nvme_driver::scheme::fuse;
use nvme_emulator::{Action, Fault};
use nvme_spec::NvmOpcode;
use rustix::process::{Pid, Signal, kill_process};
use stats_proto::stats::StatsDocument;

use crate::rig::{Daemon, Folder, have, undisturbed};

const CLIENTS: u64 = 64;

/// Longer than anything here takes on the slowest machine.
const FOR_EVER: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < FOR_EVER, "{what} never comes");
        std::thread::yield_now();
    }
}

#[test]
fn sixty_four_reads_are_on_the_device_at_once_and_a_document_does_not_wait_for_them() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = embedded::start("size=16MiB,queues=2", &Config::default()).expect("a driver");
    let mount =
        fuse::mount(driver.scheme(), &folder.path("nvme"), &fuse::Options::default()).expect("a mount");
    // The device takes reads and never completes them: all that can be out at once will be.
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, Action::Drop));
    let disk = File::open(mount.dir().join("1/data")).expect("the disk");
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let disk = &disk;
                scope.spawn(move || disk.read_at(&mut [0; 4096], client * 8192))
            })
            .collect();
        let on_the_device = || {
            let counters = driver.device().counters();
            let queues = counters.queues.iter().filter(|queue| queue.qid != 0);
            queues.map(|queue| queue.fetched - queue.completed).sum::<u64>()
        };
        wait_until("a depth of 64", || on_the_device() == CLIENTS);

        // All of them hang, and the statistics say so.
        let text = fs::read_to_string(mount.dir().join("controller/stats?light")).expect("statistics");
        let stats: StatsDocument = serde_json::from_str(&text).expect("JSON");
        let inflight: u64 = stats
            .queues
            .iter()
            .filter(|queue| queue.qid != 0)
            .filter_map(|queue| queue.counters.as_ref().map(|counters| counters.inflight))
            .sum();
        let clients = stats.clients.expect("it is read from a tree").root;
        assert_eq!(clients.calls, CLIENTS + 1, "the reads, and that of the document");
        if cfg!(feature = "performance-counters") {
            assert_eq!(inflight, CLIENTS, "{text:?} {:?}", driver.device().counters());
        }
        assert!(
            fs::read(mount.dir().join("1/identify"))
                .expect("a document")
                .len()
                == 4096
        );
        assert_eq!(on_the_device(), CLIENTS);
        wait_until("the end of the others", || mount.outstanding() as u64 == CLIENTS);

        // Without a device, each is answered once.
        driver.device().vanish();
        for reader in readers {
            reader.join().expect("no panic").expect_err("it was not read");
        }
    });
    wait_until("the end of the calls", || mount.outstanding() == 0);
    drop(disk);
    wait_until("the end of the handles", || driver.scheme().open_handles() == 0);
    mount.unmount().expect("it unmounts");
}

#[test]
fn calls_are_answered_out_of_order() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = embedded::start("size=16MiB", &Config::default()).expect("a driver");
    let mount = fuse::mount(
        driver.scheme(),
        &folder.path("nvme"),
        &fuse::Options { threads: 2 },
    )
    .expect("a mount");
    // One block's reads hang; there are more of them than threads that serve.
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, Action::Drop).lba(1));
    let disk = File::open(mount.dir().join("1/data")).expect("the disk");
    let started = Barrier::new(5);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                started.wait();
                disk.read_at(&mut [0; 4096], 4096)
                    .expect_err("it is never answered")
            });
        }
        started.wait();
        wait_until("four reads", || mount.outstanding() == 4);
        for _ in 0..100 {
            assert_eq!(disk.read_at(&mut [0; 4096], 0).expect("another block"), 4096);
        }
        wait_until("the end of the others", || mount.outstanding() == 4);
        driver.device().vanish();
    });
    drop(disk);
    mount.unmount().expect("it unmounts");
}

#[test]
fn who_waits_for_events_can_be_interrupted_and_killed() {
    if !have(&["cat"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB", &folder.path("nvme"));
    for signal in [Signal::INT, Signal::KILL] {
        let mut cat = undisturbed("cat")
            .arg(daemon.path("controller/events"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat starts");
        let mut stdout = BufReader::new(cat.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("what has happened so far");
        assert!(line.starts_with('{'), "{line}");
        let pid = i32::try_from(cat.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        // In a read, or about to be.
        kill_process(pid, signal).expect("it runs");
        let status = cat.wait().expect("it ends");
        assert_eq!(status.signal(), Some(signal.as_raw()));
    }
    daemon.stop();
}

#[test]
fn who_waits_for_events_does_not_keep_the_daemon() {
    if !have(&["cat"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB", &folder.path("nvme"));
    let mut cat = Command::new("cat")
        .arg(daemon.path("controller/events"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("cat starts");
    let events = File::open(daemon.path("controller/events")).expect("it opens");
    assert_ne!(
        events
            .read_at(&mut [0; 4096], 0)
            .expect("what has happened so far"),
        0
    );
    drop(events);
    daemon.stop();
    assert!(!cat.wait().expect("it ends").success());
}

#[test]
fn who_zeroes_a_disk_can_be_interrupted_and_killed() {
    if !have(&["fallocate"]) || !cfg!(feature = "performance-counters") {
        return;
    }
    let folder = Folder::new();
    // As large as would take an hour.
    let daemon = Daemon::start("size=16TiB,backing=null,latency=50ms", &folder.path("nvme"));
    for signal in [Signal::INT, Signal::KILL] {
        let zeroed = || {
            let stats = daemon.stats();
            let ops = stats.namespaces[0].ops.as_ref().expect("counters");
            ops.get("write_zeroes").map_or(0, |op| op.count)
        };
        let before = zeroed();
        let mut fallocate = undisturbed("fallocate")
            .args(["--zero-range", "--keep-size", "--length=16TiB"])
            .arg(daemon.path("1/data"))
            .spawn()
            .expect("fallocate starts");
        wait_until("the first piece", || zeroed() > before);
        let pid = i32::try_from(fallocate.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        kill_process(pid, signal).expect("it runs");
        let status = fallocate.wait().expect("it ends");
        assert_eq!(status.signal(), Some(signal.as_raw()));
    }
    daemon.stop();
}
