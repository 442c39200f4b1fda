//! Rings of another process: memory that the IOMMU maps for the device.

use serde_json::Value;

use crate::rig::{self, slot};

#[test]
fn a_ring_moves_data_in_place_also_by_the_devices_addresses() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::NO_SHADOW_DOORBELLS);
    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("a daemon");
    let read = |stats: &str| -> Value {
        let bytes = guest.get(&daemon.path(stats)).expect("statistics");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    // What was on the disk before.
    guest
        .check(&format!(
            "dd if=/dev/zero of={} bs=64k count=40 conv=notrunc,fsync",
            daemon.path("1/data")
        ))
        .expect("zeroes");
    let before = read("controller/stats");
    let moved = guest
        .check(&format!(
            "nvme-guest-ring {} {}",
            daemon.path("1/ring"),
            daemon.path("1/data")
        ))
        .expect("the ring does what it is asked");
    let moved: u64 = moved.trim().parse().expect("a number");
    let after = read("controller/stats");
    let grown = |counter| rig::sum(&after, counter) - rig::sum(&before, counter);
    rig::check(
        grown("bytes_zero_copy") >= moved,
        &after,
        &format!("{moved} in place"),
    );
    // What is read through the other file to compare it.
    rig::check(
        grown("bytes_copied") <= moved,
        &after,
        &"and nothing else is copied",
    );
    // The benchmark has memory of its own, and none of its data is copied.
    guest
        .check(&daemon.nvmectl("bench --engine ring --randread --qd 8 --ios 200 --json"))
        .expect("a benchmark");
    let last = read("controller/stats");
    assert_eq!(rig::sum(&last, "bytes_copied"), rig::sum(&after, "bytes_copied"));
    daemon.stop().expect("it ends");
}
