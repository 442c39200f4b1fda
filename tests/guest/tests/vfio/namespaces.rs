//! Namespaces that are not for this driver, and namespaces that come and go.

use nvme_guest::Guest;

use crate::rig::{self, slot};

/// Waits in the guest until `condition` holds, which it does within a minute or never.
fn wait(guest: &Guest, condition: &str) {
    let text = format!("for i in $(seq 600); do if {condition}; then exit 0; fi; sleep 0.1; done; exit 1");
    guest
        .check(&text)
        .unwrap_or_else(|error| panic!("it does not come to {condition}: {error}"));
}

/// QEMU attaches a zoned namespace when a host asks for more than the NVM Command Set (CC.CSS), which ours does not: it
/// is none of the active ones until another driver has had the controller, and is shown and not used from then on.
#[test]
fn a_zoned_namespace_is_not_there_and_the_one_beside_it_works() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::ZONED);
    function.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    let list = guest.check(&format!("ls {}", daemon.path(""))).expect("listed");
    assert_eq!(list, "1\ncontroller\n");
    guest
        .check(&format!(
            "dd if=/dev/urandom of=/tmp/beside bs=64k count=8 && \
             dd if=/tmp/beside of={data} bs=64k conv=fsync,notrunc && dd if={data} bs=64k count=8 | cmp - /tmp/beside",
            data = daemon.path("1/data")
        ))
        .expect("the namespace beside it works");
    daemon.stop().expect("it ends");
    let kernel = function.bind_kernel(2).expect("the kernel's driver takes it");
    let zoned = kernel.namespace(2).expect("the kernel's driver has it");
    let model = guest
        .check(&format!("cat /sys/block/$(basename {zoned})/queue/zoned"))
        .expect("read");
    assert_eq!(model, "host-managed\n");
    function.bind("vfio-pci").expect("vfio-pci takes it again");
    let daemon = guest.daemon(&rig::device(&function), "").expect("it serves");
    let output = guest
        .run(&format!(
            "dd if={} of=/dev/null bs=4k count=1",
            daemon.path("2/data")
        ))
        .expect("it is tried");
    assert!(
        !output.success(),
        "a zoned namespace is read as if it were a disk"
    );
    guest
        .check(&format!(
            "dd if={} of=/dev/null bs=4k count=1",
            daemon.path("1/data")
        ))
        .expect("the namespace beside it still works");
    let greeting = daemon.greeting().expect("it is read");
    assert!(
        greeting.contains("namespace 2 cannot be used") && greeting.contains("zoned"),
        "{greeting}"
    );
    daemon.stop().expect("it ends");
}

#[test]
fn namespaces_are_attached_and_detached_by_another_controller() {
    let Some(guest) = rig::guest() else { return };
    let other = rig::function(guest, slot::SUBSYSTEM_ONE);
    let ours = rig::function(guest, slot::SUBSYSTEM_TWO);
    let kernel = other.bind_kernel(0).expect("the kernel's driver takes it");
    ours.bind("vfio-pci").expect("vfio-pci takes it");
    let daemon = guest.daemon(&rig::device(&ours), "").expect("it serves");
    let (tree, data) = (daemon.path(""), daemon.path("2/data"));
    let identify = guest.get(&daemon.path("controller/identify")).expect("identify");
    let cntlid = u16::from_le_bytes([identify[78], identify[79]]);
    assert_eq!(
        guest
            .check(&format!("ls {tree}"))
            .expect("listed")
            .matches('2')
            .count(),
        0
    );
    guest
        .check(&format!(
            "nvme attach-ns {} -n 2 -c {cntlid}",
            kernel.controller()
        ))
        .expect("attached");
    wait(guest, &format!("[ -e {data} ]"));
    guest
        .check(&format!(
            "dd if=/dev/urandom of=/tmp/late bs=64k count=8 && \
             dd if=/tmp/late of={data} bs=64k conv=fsync,notrunc && dd if={data} bs=64k count=8 | cmp - /tmp/late"
        ))
        .expect("it works");
    guest
        .check(&format!(
            "nvme detach-ns {} -n 2 -c {cntlid}",
            kernel.controller()
        ))
        .expect("detached");
    wait(guest, &format!("! [ -e {data} ]"));
    let events = guest
        .check(&format!("cat '{}'", daemon.path("controller/events?now")))
        .expect("events");
    println!("{events}");
    daemon.stop().expect("it ends");
}
