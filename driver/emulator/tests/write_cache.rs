//! The write cache that loses what was not flushed (`cache=volatile`), and everything that empties it in time.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{Host, PAGE};
use nvme_emulator::Config;
use nvme_spec::command::{self, NSID_ALL};
use nvme_spec::feature::FeatureId;
use nvme_spec::register;

/// A backing file of a test's own, for two namespaces.
struct Disk(PathBuf);

impl Disk {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("nvme-write-cache-{}-{number}", std::process::id())))
    }

    fn host(&self) -> Host {
        Host::with_queue(&format!(
            "size=1MiB,namespaces=2,cache=volatile,backing=file:{}",
            self.0.display()
        ))
    }

    /// The first byte of block 0 of each namespace, as whoever reads the files sees it.
    fn stored(&self) -> [u8; 2] {
        [1, 2].map(|nsid| std::fs::read(format!("{}.{nsid}", self.0.display())).unwrap()[0])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for nsid in 1..=2 {
            let _ = std::fs::remove_file(format!("{}.{nsid}", self.0.display()));
        }
    }
}

/// Block 0 of each namespace is written, and neither is on the medium yet.
fn written(disk: &Disk) -> Host {
    let mut host = disk.host();
    for nsid in 1..=2 {
        host.write_blocks(1, nsid, 0, &[7; 4096]);
        assert_eq!(host.read_blocks(1, nsid, 0, 1), vec![7; 4096], "reads see it");
    }
    assert_eq!(disk.stored(), [0, 0]);
    host
}

#[test]
fn what_was_not_flushed_is_lost_with_the_power() {
    let disk = Disk::new();
    let mut host = written(&disk);
    host.io_ok(1, command::flush(2));
    assert_eq!(disk.stored(), [0, 7]);
    // A reset takes nothing, power does.
    host.disable();
    host.enable();
    host.create_queue(1, 64, 1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![7; 4096]);
    host.device.vanish();
    host.device.power_cycle(host.now_ns);
    host.enable();
    host.create_queue(1, 64, 1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![0; 4096]);
    assert_eq!(host.read_blocks(1, 2, 0, 1), vec![7; 4096]);
}

#[test]
fn what_was_not_flushed_is_lost_with_the_device() {
    let disk = Disk::new();
    drop(written(&disk));
    assert_eq!(disk.stored(), [0, 0]);
    let mut host = disk.host();
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![0; 4096]);
}

#[test]
fn a_flush_of_all_namespaces_empties_it() {
    let disk = Disk::new();
    let mut host = written(&disk);
    host.io_ok(1, command::flush(NSID_ALL));
    assert_eq!(disk.stored(), [7, 7]);
}

#[test]
fn a_write_with_fua_is_on_the_medium() {
    let disk = Disk::new();
    let mut host = disk.host();
    let buffer = host.alloc(PAGE);
    host.write(buffer, &[9; 4096]);
    let entry = host.with_data(command::write(1, 0, 1, true), buffer, PAGE);
    host.io_ok(1, entry);
    assert_eq!(disk.stored(), [9, 0]);
}

#[test]
fn a_shutdown_empties_it() {
    let disk = Disk::new();
    let mut host = written(&disk);
    // An inactive namespace's data is no less its host's.
    host.device.set_namespace_active(2, false).unwrap();
    host.write_cc(Host::cc().with_shn(register::SHN_NORMAL));
    assert!(host.run_until(|host| host.csts().shst() == register::SHST_COMPLETE));
    assert_eq!(disk.stored(), [7, 7]);
}

#[test]
fn to_disable_it_empties_it() {
    let disk = Disk::new();
    let mut host = written(&disk);
    host.admin_ok(command::set_features(
        FeatureId::VOLATILE_WRITE_CACHE,
        0,
        0,
        false,
    ));
    assert_eq!(disk.stored(), [7, 7]);
    host.write_blocks(1, 1, 0, &[8; 4096]);
    assert_eq!(disk.stored(), [8, 7], "and nothing stays in it any more");
}

#[test]
fn it_needs_a_medium_and_leave() {
    for spec in [
        "cache=volatile",
        "cache=volatile,backing=null",
        "cache=volatile,backing=file:x,vwc=off",
    ] {
        let error = spec.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("with backing=file:PATH and vwc=on"), "{error}");
    }
}
