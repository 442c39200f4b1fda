//! A device that takes reads and never completes them: what one asks then is answered, and asks nothing of the device.
#![cfg(target_os = "linux")]

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use common::daemon::can_mount;
use common::{Folder, Ran, nvmectl};
use nvme_driver::Config;
use nvme_driver::embedded;
use nvme_driver::scheme::fuse;
use nvme_emulator::{Action, Fault};
use nvme_spec::NvmOpcode;

#[test]
fn what_one_asks_when_a_device_hangs_is_answered_without_it() {
    if !can_mount() {
        return;
    }
    let folder = Folder::new("hanging");
    let driver = embedded::start("size=16MiB,namespaces=2", &Config::default()).expect("a driver");
    let dir = folder.path().join("nvme");
    let mount = fuse::mount(driver.scheme(), &dir, &fuse::Options::default()).expect("a mount");
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, Action::Drop));
    // Whatever was known of the partitions is known no longer: to list the tree, the driver would have to read.
    let disk = OpenOptions::new()
        .write(true)
        .open(dir.join("1/data"))
        .expect("the disk");
    disk.write_all_at(&[0; 4096], 0).expect("a whole block");
    drop(disk);
    let taken = || {
        let counters = driver.device().counters();
        let queues = counters.queues.iter().filter(|queue| queue.qid != 0);
        queues.map(|queue| queue.fetched).sum::<u64>()
    };
    let before = taken();
    for root in [folder.path(), &dir] {
        for (line, words) in [
            ("stats", "nvme:"),
            ("stats -d nvme:2", "nvme:2"),
            ("stats --light --json -d controller", "\"nvme-stats\""),
            ("top -b -n 1 --interval 100ms", "ready"),
            ("top -b -n 1 --interval 100ms -d nvme:1", "ready"),
            ("smart", "K"),
            ("error-log", "no errors"),
            ("identify", "Emulated NVMe Controller"),
            ("identify -d 2", "nvme:2"),
        ] {
            let output = nvmectl(line).arg("--root").arg(root).output();
            let ran = Ran::from(output.expect("it can be started"));
            assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
            assert!(ran.stdout.contains(words), "{line}: {}", ran.stdout);
            assert_eq!(taken(), before, "{line}: commands for the device");
        }
    }
    driver.device().vanish();
    mount.unmount().expect("it unmounts");
}
