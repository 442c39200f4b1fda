//! What controllers allow, from one end to the other: sizes of transfers, queues, interrupt vectors, and what else QEMU's
//! can be made to have.

use crate::rig::{self, Exercise, slot};

fn mdts(power: u8) {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        requests: 150,
        ..Exercise::new(slot::MDTS + power)
    }
    .run(guest);
    // In units of the smallest page, 4 KiB (Base Specification, Identify Controller, MDTS).
    assert_eq!(stats["controller"]["mdts_bytes"].as_u64(), Some(4096 << power));
    // All of the namespace is written and read in requests of 1 MiB, which are split; each of the others is a command.
    let whole = 2 * rig::DISK_BYTES / (4096 << power);
    rig::check(
        rig::sum(&stats, "submitted") >= whole + 150,
        &stats,
        &"requests are split",
    );
}

#[test]
fn transfers_of_8_kib() {
    mdts(1);
}

#[test]
fn transfers_of_16_kib() {
    mdts(2);
}

#[test]
fn transfers_of_32_kib() {
    mdts(3);
}

#[test]
fn transfers_of_64_kib() {
    mdts(4);
}

#[test]
fn transfers_of_128_kib() {
    mdts(5);
}

#[test]
fn transfers_of_256_kib() {
    mdts(6);
}

#[test]
fn transfers_of_512_kib() {
    mdts(7);
}

#[test]
fn one_io_queue() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_NUM_QUEUES=8",
        ..Exercise::new(slot::ONE_QUEUE)
    }
    .run(guest);
    assert_eq!(rig::io_queues(&stats).len(), 1);
}

#[test]
fn two_io_queues_of_four_entries() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_NUM_QUEUES=8 NVME_POLLING_MODE=false NVME_SCHEDULER=roundrobin",
        ..Exercise::new(slot::TWO_QUEUES)
    }
    .run(guest);
    let queues = rig::io_queues(&stats);
    assert_eq!(queues.len(), 2);
    assert!(queues.iter().all(|queue| queue["depth"] == 4), "{queues:?}");
    // A ring is full with one entry less (Base Specification, Full Queue).
    assert!(
        queues.iter().all(|queue| queue["inflight_max"] == 3),
        "{queues:?}"
    );
}

#[test]
fn sixty_four_io_queues() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_NUM_QUEUES=64 NVME_QUEUE_DEPTH=16 NVME_SCHEDULER=roundrobin NVME_POLLING_MODE=false",
        requests: 600,
        ..Exercise::new(slot::SIXTY_FOUR_QUEUES)
    }
    .run(guest);
    let queues = rig::io_queues(&stats);
    assert_eq!(queues.len(), 64);
    for queue in queues {
        rig::check(
            queue["interrupts"].as_u64() > Some(0),
            &stats,
            &"each queue has interrupts",
        );
    }
}

#[test]
fn one_interrupt_vector_for_all_queues() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_NUM_QUEUES=3 NVME_POLLING_MODE=false NVME_SCHEDULER=roundrobin",
        ..Exercise::new(slot::ONE_VECTOR)
    }
    .run(guest);
    let queues = rig::io_queues(&stats);
    assert_eq!(queues.len(), 3);
    assert!(queues.iter().all(|queue| queue["vector"] == 0), "{queues:?}");
}

#[test]
fn two_interrupt_vectors() {
    let Some(guest) = rig::guest() else { return };
    let stats = Exercise {
        settings: "NVME_NUM_QUEUES=3 NVME_POLLING_MODE=false NVME_SCHEDULER=roundrobin",
        ..Exercise::new(slot::TWO_VECTORS)
    }
    .run(guest);
    let queues = rig::io_queues(&stats);
    assert_eq!(queues.len(), 3);
    assert!(
        queues.iter().all(|queue| queue["vector"].as_u64() < Some(2)),
        "{queues:?}"
    );
}

/// A controller memory buffer is there and is left alone.
#[test]
fn a_controller_memory_buffer_is_no_hindrance() {
    let Some(guest) = rig::guest() else { return };
    Exercise::new(slot::MEMORY_BUFFER).run(guest);
}

/// Shadow doorbells are offered by all the others and used by none.
#[test]
fn a_controller_without_shadow_doorbells() {
    let Some(guest) = rig::guest() else { return };
    Exercise::new(slot::NO_SHADOW_DOORBELLS).run(guest);
}
