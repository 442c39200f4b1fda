use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::hist::Unit;
use crate::sample::{self, Command, command, failed};
use crate::stats::StatsDocument;

const SECOND_NS: u64 = 1_000_000_000;

/// Two snapshots, `elapsed_ns` apart, of one I/O queue.
fn pair(elapsed_ns: u64, before: &[Command], since: &[Command]) -> (StatsDocument, StatsDocument) {
    let all = [before, since].concat();
    let earlier = sample::document_of(SECOND_NS, vec![sample::queue(1, before, 0)]);
    let later = sample::document_of(SECOND_NS + elapsed_ns, vec![sample::queue(1, &all, 0)]);
    (earlier, later)
}

fn counters(document: &mut StatsDocument) -> &mut QueueCounters {
    document.queues[0].counters.as_mut().unwrap()
}

#[test]
fn rates_and_means_are_of_what_happened_between() {
    let before = [command("read", 4096, 80_000, 300); 3];
    let since = [
        command("read", 8192, 100_000, 500),
        command("read", 8192, 300_000, 500),
    ];
    let (earlier, later) = pair(SECOND_NS / 2, &before, &since);
    let interval = StatsDocument::interval(&earlier, &later).unwrap();
    assert_eq!(
        (interval.elapsed_ns, interval.resets, interval.consistent),
        (SECOND_NS / 2, 0, true)
    );
    let queue = &interval.queues[0];
    assert_eq!((queue.qid, queue.submitted, queue.completed), (1, 2, 2));
    assert_eq!((queue.iops, queue.bytes_per_s), (4.0, 32768.0));
    // 400 us of one command in flight in 500 ms.
    assert_eq!(
        (queue.mean_queue_depth, queue.active_percent, queue.full_percent),
        (0.0008, 0.08, 0.0)
    );
    let read = &queue.ops["read"];
    assert_eq!(
        (read.count, read.bytes, read.iops, read.bytes_per_s),
        (2, 16384, 4.0, 32768.0)
    );
    assert_eq!(read.mean_ns, Some(200_000.0));
    assert_eq!(
        read.latency_device,
        Some(sample::histogram(Unit::Ns, &[100_000, 300_000]))
    );
    assert_eq!(read.latency_host, Some(sample::histogram(Unit::Ns, &[500, 500])));
}

/// The mean depth is of commands in flight, finished or not: a device that hangs with 32 commands shows 32.
#[test]
fn a_device_that_hangs_shows_its_depth() {
    let (earlier, mut later) = pair(SECOND_NS, &[], &[]);
    let hanging = counters(&mut later);
    hanging.submitted = 32;
    hanging.inflight = 32;
    hanging.qd_time_integral_ns = 32 * SECOND_NS;
    hanging.active_ns = SECOND_NS;
    hanging.inflight_age_max_ns = Some(SECOND_NS);
    let queue = StatsDocument::interval(&earlier, &later)
        .unwrap()
        .queues
        .remove(0);
    assert_eq!(
        (queue.iops, queue.mean_queue_depth, queue.active_percent),
        (0.0, 32.0, 100.0)
    );
    assert_eq!((queue.inflight, queue.inflight_age_max_ns), (32, Some(SECOND_NS)));
    assert!(
        queue.iops.is_sign_positive() && queue.bytes_per_s.is_sign_positive(),
        "-0.0 is no rate"
    );
}

#[test]
fn errors_by_status_are_those_that_occurred_between() {
    let before = [
        failed("read", 10, "Internal Error"),
        failed("read", 10, "Aborted"),
    ];
    let since = [
        failed("read", 10, "Internal Error"),
        failed("write", 10, "LBA Out of Range"),
    ];
    let (earlier, later) = pair(SECOND_NS, &before, &since);
    let queue = StatsDocument::interval(&earlier, &later)
        .unwrap()
        .queues
        .remove(0);
    let expected = BTreeMap::from([
        ("Internal Error".to_owned(), 1),
        ("LBA Out of Range".to_owned(), 1),
    ]);
    assert_eq!((queue.errors_by_status, queue.completed_error), (expected, 2));
}

#[test]
fn a_queue_and_an_operation_that_are_new_began_at_0() {
    let (mut earlier, later) = pair(SECOND_NS, &[], &[command("write", 512, 1_000, 10)]);
    let op_is_new = StatsDocument::interval(&earlier, &later).unwrap();
    earlier.queues.clear();
    let queue_is_new = StatsDocument::interval(&earlier, &later).unwrap();
    for interval in [op_is_new, queue_is_new] {
        let write = &interval.queues[0].ops["write"];
        assert_eq!(write.latency_device, Some(sample::histogram(Unit::Ns, &[1_000])));
    }
}

#[test]
fn queues_that_are_gone_or_do_not_count_are_left_out() {
    let (earlier, mut later) = pair(SECOND_NS, &[], &[]);
    later.queues[0].counters = None;
    assert_eq!(StatsDocument::interval(&earlier, &later).unwrap().queues, []);
    let (mut earlier, later) = pair(SECOND_NS, &[], &[]);
    earlier.queues[0].counters = None;
    assert_eq!(StatsDocument::interval(&earlier, &later).unwrap().queues, []);
    let (earlier, mut later) = pair(SECOND_NS, &[], &[]);
    later.queues.clear();
    assert_eq!(StatsDocument::interval(&earlier, &later).unwrap().queues, []);
}

#[test]
fn light_documents_have_rates_but_no_histograms() {
    let (mut earlier, later) = pair(
        SECOND_NS,
        &[command("read", 1, 2, 3)],
        &[command("read", 1, 4, 3)],
    );
    let light = counters(&mut earlier);
    light.completions_per_wakeup = None;
    light.ops.get_mut("read").unwrap().latency_device = None;
    let queue = StatsDocument::interval(&earlier, &later)
        .unwrap()
        .queues
        .remove(0);
    let read = &queue.ops["read"];
    assert_eq!(
        (read.count, read.mean_ns, &read.latency_device),
        (1, Some(4.0), &None)
    );
    assert_eq!(read.latency_host, Some(sample::histogram(Unit::Ns, &[3])));
    assert_eq!(queue.completions_per_wakeup, None);
}

#[test]
fn all_io_queues_together_are_added_without_the_admin_queue() {
    let reads = [command("read", 4096, 1_000, 10), command("read", 4096, 3_000, 10)];
    let others = [command("read", 4096, 8_000, 10), command("write", 512, 500, 10)];
    let admin = sample::queue(0, &[command("admin", 0, 5, 5)], 0);
    let idle = vec![
        sample::queue(0, &[], 0),
        sample::queue(1, &[], 0),
        sample::queue(2, &[], 0),
    ];
    let busy = vec![admin, sample::queue(1, &reads, 0), sample::queue(2, &others, 0)];
    let earlier = sample::document_of(SECOND_NS, idle);
    let later = sample::document_of(SECOND_NS * 2, busy);
    let ops = StatsDocument::interval(&earlier, &later).unwrap().io_ops;
    assert_eq!(ops.keys().collect::<Vec<_>>(), ["read", "write"]);
    let read = &ops["read"];
    assert_eq!(
        (read.count, read.iops, read.mean_ns, read.bytes),
        (3, 3.0, Some(4_000.0), 3 * 4096)
    );
    assert_eq!(
        read.latency_device,
        Some(sample::histogram(Unit::Ns, &[1_000, 3_000, 8_000]))
    );
}

#[test]
fn integrals_and_sums_wrap() {
    let (mut earlier, mut later) = pair(100, &[command("read", 0, 40, 1)], &[command("read", 0, 60, 1)]);
    for document in [&mut earlier, &mut later] {
        let near_the_end = counters(document);
        near_the_end.qd_time_integral_ns = near_the_end.qd_time_integral_ns.wrapping_add(u64::MAX - 50);
        let read = near_the_end.ops.get_mut("read").unwrap();
        read.sum_ns = read.sum_ns.wrapping_add(u64::MAX - 50);
    }
    assert!(later.queues[0].counters.as_ref().unwrap().qd_time_integral_ns < 100);
    let queue = StatsDocument::interval(&earlier, &later)
        .unwrap()
        .queues
        .remove(0);
    assert_eq!(
        (queue.mean_queue_depth, queue.ops["read"].mean_ns),
        (0.6, Some(60.0))
    );
    // Backwards by a little is not forwards by nearly the whole range.
    counters(&mut later).qd_time_integral_ns = counters(&mut earlier).qd_time_integral_ns - 1;
    let error = StatsDocument::interval(&earlier, &later).unwrap_err();
    assert!(
        error.to_string().contains("qd_time_integral_ns went back"),
        "{error}"
    );
}

#[test]
fn a_queue_read_a_little_later_is_not_active_for_more_than_all_of_the_time() {
    let (earlier, mut later) = pair(1_000, &[], &[]);
    counters(&mut later).active_ns = 1_005;
    let queue = StatsDocument::interval(&earlier, &later)
        .unwrap()
        .queues
        .remove(0);
    assert_eq!(queue.active_percent, 100.0);
}

#[test]
fn one_inconsistent_snapshot_makes_the_interval_inconsistent() {
    for which in 0..2 {
        let mut documents: [StatsDocument; 2] = pair(1_000, &[], &[]).into();
        documents[which].snapshot.consistent = false;
        documents[which].queues[0].consistent = false;
        let interval = StatsDocument::interval(&documents[0], &documents[1]).unwrap();
        assert!(!interval.consistent && !interval.queues[0].consistent);
    }
}

/// Brought up to the snapshot from figures that do not fit together, a sum over time may run ahead once.
#[test]
fn a_sum_over_time_that_ran_ahead_is_an_error_only_of_consistent_queues() {
    let sums: [fn(&mut QueueCounters) -> &mut u64; 3] = [
        |queue| &mut queue.qd_time_integral_ns,
        |queue| &mut queue.active_ns,
        |queue| &mut queue.full_ns,
    ];
    for sum in sums {
        let (mut earlier, later) = pair(1_000, &[], &[]);
        *sum(counters(&mut earlier)) = 900;
        assert!(matches!(
            StatsDocument::interval(&earlier, &later),
            Err(IntervalError::WentBack { .. })
        ));
        earlier.queues[0].consistent = false;
        let queue = StatsDocument::interval(&earlier, &later)
            .unwrap()
            .queues
            .remove(0);
        assert_eq!(
            (queue.mean_queue_depth, queue.active_percent, queue.full_percent),
            (0.0, 0.0, 0.0)
        );
        counters(&mut earlier).submitted = 1;
        assert!(StatsDocument::interval(&earlier, &later).is_err());
    }
}

#[test]
fn documents_of_different_runs_have_no_interval() {
    let (earlier, later) = pair(1_000, &[], &[]);
    let restarted = StatsDocument {
        instance_id: "other".to_owned(),
        ..later.clone()
    };
    assert_eq!(
        StatsDocument::interval(&earlier, &restarted),
        Err(IntervalError::Restarted)
    );
    let rebooted = StatsDocument {
        boot_id: Some("other".to_owned()),
        ..later
    };
    assert_eq!(
        StatsDocument::interval(&earlier, &rebooted),
        Err(IntervalError::Restarted)
    );
}

#[test]
fn the_second_document_must_be_later() {
    let (earlier, later) = pair(1_000, &[], &[]);
    let not_later = |earlier_ns, later_ns| Err(IntervalError::NotLater { earlier_ns, later_ns });
    assert_eq!(
        StatsDocument::interval(&earlier, &earlier),
        not_later(SECOND_NS, SECOND_NS)
    );
    assert_eq!(
        StatsDocument::interval(&later, &earlier),
        not_later(SECOND_NS + 1_000, SECOND_NS)
    );
}

#[test]
fn resets_are_counted_by_generation() {
    let (earlier, mut later) = pair(1_000, &[], &[]);
    later.generation = earlier.generation + 2;
    assert_eq!(StatsDocument::interval(&earlier, &later).unwrap().resets, 2);
    later.generation = 0;
    let error = StatsDocument::interval(&earlier, &later).unwrap_err();
    assert_eq!(
        error.to_string(),
        "controller: generation went back from 1 to 0, which no counter does"
    );
}

/// Every counter of a queue, one after the other, set back by one.
#[test]
fn a_counter_that_went_back_is_named() {
    let commands = [
        failed("read", 5_000, "Internal Error"),
        command("write", 512, 7_000, 10),
    ];
    let (earlier, later) = pair(1_000, &commands, &[]);
    let not_counters = [
        "qid",
        "depth",
        "cpu",
        "vector",
        "inflight",
        "inflight_max",
        "host_queued",
        "host_queued_max",
    ];
    let is_counter = |name: &str, value: &Value| value.is_u64() && !not_counters.contains(&name);
    // None of them 0, so that there is something to go back from.
    let full = |document: &StatsDocument| {
        let mut json = serde_json::to_value(document).unwrap();
        for (name, value) in json["queues"][0].as_object_mut().unwrap() {
            if is_counter(name, value) {
                *value = (value.as_u64().unwrap() + 1).into();
            }
        }
        json
    };
    let (earlier, later) = (full(&earlier), full(&later));
    let mut tried = 0;
    let members = later["queues"][0].as_object().unwrap();
    for (name, value) in members.iter().filter(|(name, value)| is_counter(name, value)) {
        let mut back = later.clone();
        back["queues"][0][name] = (value.as_u64().unwrap() - 1).into();
        assert_went_back(&earlier, &back, name);
        tried += 1;
    }
    assert_eq!(tried, 25);
    for kind in [
        "unknown_cid",
        "stale_cid",
        "duplicate_cid",
        "bad_sqhd",
        "bad_sqid",
    ] {
        let mut more = earlier.clone();
        more["queues"][0]["rejected"][kind] = 9.into();
        assert_went_back(&more, &later, &format!("rejected.{kind}"));
    }
    for member in ["count", "bytes", "errors", "sum_ns"] {
        let mut more = earlier.clone();
        more["queues"][0]["ops"]["write"][member] = 90_000.into();
        assert_went_back(&more, &later, &format!("write.{member}"));
    }
    let mut more = earlier.clone();
    more["queues"][0]["errors_by_status"]["Aborted"] = 1.into();
    assert_went_back(&more, &later, "errors_by_status.Aborted");
    let mut gone = later.clone();
    gone["queues"][0]["ops"].as_object_mut().unwrap().remove("write");
    assert_went_back(&earlier, &gone, "write.count");
}

fn assert_went_back(earlier: &Value, later: &Value, name: &str) {
    let read = |json: &Value| serde_json::from_value::<StatsDocument>(json.clone()).unwrap();
    match StatsDocument::interval(&read(earlier), &read(later)) {
        Err(IntervalError::WentBack { place, counter, .. }) => {
            assert_eq!((place.as_str(), counter.as_str()), ("queue 1", name));
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn a_histogram_that_went_back_is_named() {
    let (mut earlier, later) = pair(1_000, &[command("read", 0, 5_000, 10)], &[]);
    let read = counters(&mut earlier).ops.get_mut("read").unwrap();
    read.latency_device = Some(sample::histogram(Unit::Ns, &[9]));
    let error = StatsDocument::interval(&earlier, &later).unwrap_err().to_string();
    assert!(
        error.starts_with("queue 1: read.latency_device: bucket 9 went back from 1 to 0"),
        "{error}"
    );
}

fn any_command() -> impl Strategy<Value = Command> {
    let op = prop::sample::select(vec!["read", "write", "flush"]);
    (op, 0_u64..1 << 20, 0_u64..1 << 33, 0_u64..1 << 33, any::<bool>()).prop_map(
        |(op, bytes, device_ns, host_ns, fails)| {
            let status = fails.then_some("Internal Error");
            Command {
                op,
                bytes: if fails { 0 } else { bytes },
                device_ns,
                host_ns,
                status,
            }
        },
    )
}

proptest! {
    /// The interval of two snapshots is what a driver that began at the first one would have counted.
    #[test]
    fn an_interval_is_what_was_counted_since(
        before in vec(any_command(), 0..20),
        since in vec(any_command(), 0..20),
        elapsed_ns in 1_u64..1 << 40,
    ) {
        let (earlier, later) = pair(elapsed_ns, &before, &since);
        prop_assert_eq!(later.check(), Ok(()));
        let queue = StatsDocument::interval(&earlier, &later).unwrap().queues.remove(0);
        let expected = sample::queue(1, &since, 0).counters.unwrap();
        prop_assert_eq!(queue.completed, since.len() as u64);
        prop_assert_eq!(queue.completed_error, expected.completed_error);
        prop_assert_eq!(&queue.errors_by_status, &expected.errors_by_status);
        prop_assert_eq!(&queue.completions_per_wakeup, &expected.completions_per_wakeup);
        prop_assert_eq!(queue.mean_queue_depth, expected.qd_time_integral_ns as f64 / elapsed_ns as f64);
        for (name, op) in &queue.ops {
            let none = sample::queue(1, &[], 0).counters.unwrap().ops.remove(name).unwrap_or_default();
            let expected = expected.ops.get(name).unwrap_or(&none);
            prop_assert_eq!((op.count, op.bytes, op.errors), (expected.count, expected.bytes, expected.errors));
            let mean_ns = (expected.count > 0).then(|| expected.sum_ns as f64 / expected.count as f64);
            prop_assert_eq!(op.mean_ns, mean_ns);
            if expected.count > 0 {
                prop_assert_eq!(&op.latency_device, &expected.latency_device);
                prop_assert_eq!(&op.latency_host, &expected.latency_host);
            } else {
                prop_assert!(op.latency_device.as_ref().is_some_and(Histogram::is_empty));
            }
        }
    }
}
