//! The order in which submission queues have their turns (Base 2.0, section 3.4.4).

mod common;

use std::collections::BTreeMap;

use common::Host;
use nvme_spec::command::{self, QPRIO_HIGH, QPRIO_LOW, QPRIO_MEDIUM, QPRIO_URGENT};
use nvme_spec::feature::{Arbitration, FeatureId};
use nvme_spec::{Cap, register};

/// Queue `qid` is of the class `qid - 1`; all of them complete to completion queue 1, so that it has the order in which they
/// were fetched.
const CLASSES: [u8; 4] = [QPRIO_URGENT, QPRIO_HIGH, QPRIO_MEDIUM, QPRIO_LOW];

fn host(spec: &str, ams: u8) -> Host {
    let mut host = Host::new(spec);
    host.prepare_admin_queue();
    host.write_cc(Host::cc().with_ams(ams));
    assert!(host.run_until(|host| host.csts().rdy()));
    host
}

/// Creates a queue for each class, and has each of them full of `commands` reads.
fn fill(host: &mut Host, commands: u16) {
    let weights = Arbitration::new()
        .with_ab(1)
        .with_hpw_z(7)
        .with_mpw_z(3)
        .with_lpw_z(0);
    host.admin_ok(command::set_features(
        FeatureId::ARBITRATION,
        0,
        weights.into(),
        false,
    ));
    host.create_queue(1, 256, 1);
    for (qid, qprio) in (2..).zip(CLASSES.into_iter().skip(1)) {
        let queue = host.new_queue(256);
        host.admin_ok(command::create_io_sq(qid, 255, queue.sq, 1, qprio));
        host.queues.insert(qid, queue);
    }
    for qid in 1..=4 {
        for _ in 0..commands {
            host.put(qid, command::flush(1));
        }
        host.ring_sq(qid);
    }
}

/// The queues of the next `count` completions.
fn served(host: &mut Host, count: usize) -> Vec<u16> {
    let mut served = Vec::new();
    assert!(host.run_until(|host| {
        served.extend(host.reap(1).iter().map(|entry| entry.sqid));
        served.len() >= count
    }));
    served
}

#[test]
fn a_controller_without_it_does_not_start_with_it() {
    let mut host = Host::new("");
    assert_eq!(Cap::from(host.device.registers().read64(register::CAP)).ams(), 0);
    host.prepare_admin_queue();
    host.write_cc(Host::cc().with_ams(register::AMS_WEIGHTED_ROUND_ROBIN));
    assert!(host.run_until(|host| host.csts().cfs()));
}

#[test]
fn urgent_queues_are_first_and_the_others_share_by_weight() {
    let mut host = host("wrr=on", register::AMS_WEIGHTED_ROUND_ROBIN);
    assert_eq!(Cap::from(host.device.registers().read64(register::CAP)).ams(), 1);
    fill(&mut host, 52);
    let served = served(&mut host, 4 * 52);
    let (urgent, others) = served.split_at(52);
    assert!(urgent.iter().all(|qid| *qid == 1), "{urgent:?}");
    // Rounds of eight, four and one, for as long as the class high has some: 52 are six rounds and a half.
    for round in others.chunks_exact(13).take(6) {
        let mut counts = BTreeMap::new();
        for qid in round {
            *counts.entry(*qid).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([(2, 8), (3, 4), (4, 1)]), "{round:?}");
    }
}

#[test]
fn without_it_all_queues_are_alike() {
    let mut host = host("wrr=on", register::AMS_ROUND_ROBIN);
    fill(&mut host, 32);
    let served = served(&mut host, 4 * 32);
    for turns in served.chunks_exact(64) {
        for qid in 1..=4 {
            assert_eq!(
                turns.iter().filter(|served| **served == qid).count(),
                16,
                "{turns:?}"
            );
        }
    }
}

/// What the medium has not begun is not taken from the queues, where it could still be overtaken.
#[test]
fn an_urgent_command_does_not_wait_for_a_full_queue() {
    let mut host = host(
        "wrr=on,channels=2,latency=100us",
        register::AMS_WEIGHTED_ROUND_ROBIN,
    );
    fill(&mut host, 0);
    for _ in 0..200 {
        host.put(4, command::flush(1));
    }
    host.ring_sq(4);
    host.step();
    let began_ns = host.now_ns;
    host.put(1, command::flush(1));
    host.ring_sq(1);
    let mut urgent_ns = None;
    assert!(host.run_until(|host| {
        let came = host.reap(1).iter().any(|entry| entry.sqid == 1);
        urgent_ns = urgent_ns.or(came.then_some(host.now_ns - began_ns));
        urgent_ns.is_some()
    }));
    // Two on each of two channels are before it, of 100 us each.
    assert!(urgent_ns.is_some_and(|ns| ns <= 400_000), "{urgent_ns:?}");
}
