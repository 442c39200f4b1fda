//! Errors of the medium, and controllers that leave.

use std::time::Duration;

use serde_json::json;

use crate::rig::{self, slot};

#[test]
fn bad_blocks_are_errors_of_those_who_want_them() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::BAD_BLOCKS);
    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    let data = daemon.path("1/data");
    let fails = |command: &str| {
        let output = guest.run(command).expect("it ends");
        assert!(
            output.status() == Some(1) && output.complaint().contains("Input/output error"),
            "{}",
            guest.complain(command, &output)
        );
    };
    // Block 2048 is at 1 MiB and cannot be read, block 4096 at 2 MiB cannot be written.
    guest
        .check(&format!("dd if={data} of=/dev/null bs=512 count=1 skip=2047"))
        .expect("before it");
    fails(&format!("dd if={data} of=/dev/null bs=512 count=1 skip=2048"));
    guest
        .check(&format!("dd if={data} of=/dev/null bs=512 count=1 skip=2049"))
        .expect("after it");
    fails(&format!(
        "dd if=/dev/zero of={data} bs=512 count=1 seek=4096 conv=notrunc"
    ));
    guest
        .check(&format!(
            "dd if=/dev/zero of={data} bs=512 count=1 seek=4097 conv=notrunc,fsync"
        ))
        .expect("after it");
    let slow = guest
        .check(&format!("cat {}", daemon.path("controller/slow")))
        .expect("the slow and failed");
    // Unrecovered Read Error, Write Fault (NVM Command Set Specification, media and data integrity errors).
    for status in ["Unrecovered Read Error", "Write Fault"] {
        assert!(slow.to_lowercase().contains(&status.to_lowercase()), "{slow}");
    }
    daemon.stop().expect("it ends");
}

/// Asks a controller in a root port to leave, and waits until it has.
fn leave(guest: &nvme_guest::Guest, slot: u8) {
    let id = format!("leaves{slot}");
    guest
        .qmp()
        .execute("device_del", json!({"id": id}))
        .expect("it is asked to leave");
    guest
        .qmp()
        .event("DEVICE_DELETED", &json!({"device": id}), Duration::from_secs(100))
        .unwrap_or_else(|error| panic!("{error}\n{}", guest.console()));
}

#[test]
fn a_controller_that_has_nothing_to_do_leaves() {
    let Some(guest) = rig::guest() else { return };
    let function = guest.pci_behind(slot::LEAVES_IDLE).expect("it is there");
    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    leave(guest, slot::LEAVES_IDLE);
    let output = daemon.wait().expect("it ends");
    assert!(
        output.complaint().contains("wants the controller back"),
        "{}",
        guest.complain("nvme-driver", &output)
    );
}

#[test]
fn a_controller_leaves_during_io() {
    let Some(guest) = rig::guest() else { return };
    let function = guest.pci_behind(slot::LEAVES).expect("it is there");
    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    let data = daemon.path("1/data");
    let load = guest
        .start_command(
            &format!(
                "exec 2>/tmp/left; echo $$ > /tmp/load; \
                 while dd if={data} of=/dev/null bs=16k && dd if=/dev/zero of={data} bs=16k count=200 conv=notrunc; do \
                 touch /tmp/loaded; done"
            ),
            Duration::from_secs(200),
        )
        .expect("it starts");
    guest
        .check("for i in $(seq 600); do [ -e /tmp/loaded ] && exit 0; sleep 0.1; done; exit 1")
        .expect("the load runs");
    leave(guest, slot::LEAVES);
    // Whoever was at it is told.
    let load = load.wait().expect("it ends");
    let left = guest.check("tail -n 3 /tmp/left").expect("its complaint");
    assert!(load.status().is_some() && left.contains("dd:"), "{left} {load:?}");
    let output = daemon.wait().expect("it ends");
    assert!(
        output.status().is_some(),
        "{}",
        guest.complain("nvme-driver", &output)
    );
}
