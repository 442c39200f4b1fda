//! Our programs in a guest, on an emulated controller there: static binaries that serve their tree on another kernel.

use nvme_guest::{Machine, Shared};

static GUEST: Shared = Shared::new(|| Machine::new().cpus(2).modules(&["fuse"]));

#[test]
fn the_daemon_serves_its_tree_and_ends_in_order() {
    let Some(guest) = GUEST.get() else { return };
    let daemon = guest
        .daemon("emulated:size=16MiB", "NVME_NUM_QUEUES=2")
        .expect("it serves");
    let data = daemon.path("1/data");
    guest
        .check(&format!(
            "dd if=/dev/urandom of=/tmp/data bs=1M count=4 && dd if=/tmp/data of={data} bs=256k conv=fsync,notrunc && \
             dd if={data} bs=1M count=4 | cmp - /tmp/data"
        ))
        .expect("what is read is what was written");
    let model = guest
        .check(&daemon.nvmectl("identify | head -3"))
        .expect("nvmectl finds it");
    assert!(model.contains("Emulated NVMe Controller"), "{model}");
    daemon.stop().expect("it ends");
}

#[test]
fn a_daemon_that_cannot_start_says_why() {
    let Some(guest) = GUEST.get() else { return };
    let error = guest
        .daemon("emulated:lba=513", "")
        .expect_err("no such size")
        .to_string();
    assert!(error.contains("Exited(2)") && error.contains("513"), "{error}");
}
