//! Data, as two drivers see it, in each of the ways in which ours learns of completions.

use crate::rig::{self, Exercise, slot};

#[test]
fn data_of_512_byte_blocks_is_the_same_for_both_drivers() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise::new(slot::PLAIN).run(guest);
    assert_eq!(stats["controller"]["backend"], "vfio");
    assert_eq!(stats["controller"]["pci"], "0000:00:03.0");
    assert_eq!(stats["controller"]["irq_mode"], "msix");
    let ops = &stats["namespaces"][0]["ops"];
    for op in [
        "read",
        "write",
        "flush",
        "write_zeroes",
        "dsm",
        "compare",
        "verify",
    ] {
        rig::check(ops[op]["count"].as_u64() > Some(0), &stats, &op);
    }
    // One queue for each CPU.
    assert_eq!(rig::io_queues(&stats).len(), 2);
}

#[test]
fn data_of_4096_byte_blocks_is_the_same_for_both_drivers() {
    let Some(guest) = rig::guest() else { return };
    Exercise::new(slot::BLOCKS_OF_4096).run(guest);
}

#[test]
fn data_of_several_namespaces_is_the_same_for_both_drivers() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        nsids: &[1, 2, 7],
        ..Exercise::new(slot::NAMESPACES)
    }
    .run(guest);
    let found: Vec<_> = stats["namespaces"]
        .as_array()
        .expect("namespaces")
        .iter()
        .map(|namespace| (namespace["nsid"].as_u64(), namespace["lba_bytes"].as_u64()))
        .collect();
    assert_eq!(
        found,
        [(Some(1), Some(512)), (Some(2), Some(4096)), (Some(7), Some(512))]
    );
}

#[test]
fn interrupts_alone_do() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_POLLING_MODE=false",
        ..Exercise::new(slot::PLAIN)
    }
    .run(guest);
    for queue in rig::io_queues(&stats) {
        rig::check(
            queue["interrupts"].as_u64() > Some(10),
            &stats,
            &"interrupts of each queue",
        );
    }
}

#[test]
fn polling_does_without_interrupts() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_POLLING_MODE=true",
        ..Exercise::new(slot::PLAIN)
    }
    .run(guest);
    rig::check(rig::sum(&stats, "interrupts") == 0, &stats, &"no interrupts");
    rig::check(rig::sum(&stats, "polls") > 0, &stats, &"polls");
}

#[test]
fn other_kinds_of_interrupts_do() {
    let Some(guest) = rig::guest() else { return };
    let function = rig::function(guest, slot::PLAIN);
    function.bind("vfio-pci").expect("vfio-pci takes it");
    for (option, mode) in [("irq=msix", "msix"), ("irq=intx", "intx")] {
        let daemon = guest
            .daemon(
                &format!("{},{option}", rig::device(&function)),
                "NVME_POLLING_MODE=false",
            )
            .unwrap_or_else(|error| panic!("{option}: {error}"));
        let (data, stats) = (daemon.path("1/data"), daemon.path("controller/stats"));
        guest
            .check(&format!(
                "dd if=/dev/urandom of=/tmp/irq bs=64k count=8 && dd if=/tmp/irq of={data} bs=4k conv=fsync,notrunc && \
                 dd if={data} bs=4k count=128 | cmp - /tmp/irq"
            ))
            .unwrap_or_else(|error| panic!("{option}: {error}"));
        let stats = guest.get(&stats).expect("statistics");
        let stats: serde_json::Value = serde_json::from_slice(&stats).expect("JSON");
        assert_eq!(stats["controller"]["irq_mode"], mode);
        rig::check(rig::sum(&stats, "interrupts") > 0, &stats, &option);
        daemon.stop().expect("it ends");
    }
}
