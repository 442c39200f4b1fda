use super::*;
use crate::sample;

/// What `check` says of the sample document after `change` to it.
fn verdict(change: impl FnOnce(&mut StatsDocument)) -> String {
    let mut document = sample::document();
    change(&mut document);
    document
        .check()
        .map_or_else(|error| error.to_string(), |()| "consistent".to_owned())
}

fn counters(document: &mut StatsDocument) -> &mut QueueCounters {
    document.queues[1].counters.as_mut().unwrap()
}

/// What `check` says after `change` to the counters of queue 1.
fn queue(change: impl FnOnce(&mut QueueCounters)) -> String {
    verdict(|document| change(counters(document)))
}

/// What `check` says after `change` to the reads of queue 1, of which there are three.
fn read(change: impl FnOnce(&mut OpStats)) -> String {
    queue(|counters| change(counters.ops.get_mut("read").unwrap()))
}

#[test]
fn consistent_documents_pass() {
    for document in [
        sample::document(),
        sample::light_document(),
        sample::bare_document(),
    ] {
        assert_eq!(document.check(), Ok(()));
    }
}

#[test]
fn sums_that_do_not_add_up_are_named() {
    let cases = [
        (
            queue(|queue| queue.submitted += 1),
            "queue 1: submitted is 9, but completed + inflight is 8",
        ),
        (
            queue(|queue| queue.inflight -= 1),
            "queue 1: submitted is 8, but completed + inflight is 7",
        ),
        (
            queue(|queue| {
                queue.completed += 1;
                queue.submitted += 1;
            }),
            "queue 1: the sum over ops of count is 5, but completed is 6",
        ),
        (
            queue(|queue| queue.completed_error += 1),
            "queue 1: the sum over ops of errors is 1, but completed_error is 2",
        ),
        (
            queue(|queue| {
                queue.errors_by_status.insert("Internal Error".to_owned(), 1);
            }),
            "queue 1: the sum of errors_by_status is 2, but completed_error is 1",
        ),
        (
            read(|op| op.latency_device = Some(Histogram::empty(Unit::Ns))),
            "queue 1, read: count is 3, but latency_device is 0",
        ),
        (
            read(|op| op.latency_host = Some(sample::histogram(Unit::Ns, &[1; 4]))),
            "queue 1, read: count is 3, but latency_host is 4",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
}

#[test]
fn sums_above_64_bits_are_no_panic() {
    let message = queue(|queue| {
        queue.completed = u64::MAX;
        queue.inflight = u64::MAX;
        queue.ops.values_mut().for_each(|op| op.count = u64::MAX);
        queue
            .errors_by_status
            .insert("Internal Error".to_owned(), u64::MAX);
    });
    assert_eq!(
        message,
        "queue 1: submitted is 8, but completed + inflight is 36893488147419103230"
    );
}

#[test]
fn parts_above_their_whole_are_named() {
    let cases = [
        (
            queue(|queue| queue.inflight_max = 2),
            "inflight is 3, above inflight_max, which is 2",
        ),
        (
            queue(|queue| queue.inflight_max = 1024),
            "inflight_max is 1024, above depth, which is 1023",
        ),
        (
            queue(|queue| queue.host_queued = 1),
            "host_queued is 1, above host_queued_max, which is 0",
        ),
        (
            queue(|queue| queue.polls_empty = 11),
            "polls_empty is 11, above polls, which is 10",
        ),
        (
            queue(|queue| queue.spurious_interrupts = 6),
            "spurious_interrupts is 6, above interrupts, which is 5",
        ),
        (
            queue(|queue| queue.full_ns = u64::MAX),
            "full_ns is 18446744073709551615, above active_ns",
        ),
        (
            queue(|queue| queue.sq_doorbells = 9),
            "sq_doorbells is 9, above submitted, which is 8",
        ),
        (
            queue(|queue| queue.completions_per_wakeup = Some(sample::histogram(Unit::Count, &[1; 11]))),
            "the count of completions_per_wakeup is 11, above polls, which is 10",
        ),
        (
            read(|op| op.min_ns = Some(2_000_001)),
            "min_ns is 2000001, above max_ns, which is 2000000",
        ),
        (
            read(|op| op.sum_ns = 236_999),
            "count * min_ns is 237000, above sum_ns, which is 236999",
        ),
        (
            read(|op| op.sum_ns = 6_000_001),
            "sum_ns is 6000001, above count * max_ns, which is 6000000",
        ),
        (
            verdict(|document| {
                let reads = document.namespaces[0]
                    .ops
                    .as_mut()
                    .unwrap()
                    .get_mut("read")
                    .unwrap();
                reads.errors = 4;
            }),
            "namespace 1, read: errors is 4, above count, which is 3",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
}

/// A sum that has wrapped says nothing, and is no mistake.
#[test]
fn a_sum_that_may_have_wrapped_is_not_judged() {
    let wrapped = read(|op| {
        op.max_ns = Some(u64::MAX / 2);
        op.sum_ns = 5;
    });
    assert_eq!(wrapped, "consistent");
}

#[test]
fn figures_of_nothing_and_missing_figures_are_named() {
    let cases = [
        (
            queue(|queue| queue.inflight_age_max_ns = None),
            "inflight_age_max_ns is null, but inflight is 3",
        ),
        (read(|op| op.min_ns = None), "min_ns is null, but count is 3"),
        (read(|op| op.max_ns = None), "max_ns is null, but count is 3"),
        (
            verdict(|document| {
                let idle = document.queues[2].counters.as_mut().unwrap();
                idle.inflight_age_max_ns = Some(7);
            }),
            "queue 2: inflight_age_max_ns is known, but inflight is 0",
        ),
    ];
    for (message, expected) in cases {
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn histograms_in_the_wrong_unit_are_named() {
    let wrong = read(|op| op.latency_host = Some(sample::histogram(Unit::Count, &[1; 3])));
    assert_eq!(wrong, "queue 1, read: latency_host is in count");
    let wrong = queue(|queue| queue.completions_per_wakeup = Some(sample::histogram(Unit::Ns, &[1])));
    assert_eq!(wrong, "queue 1: completions_per_wakeup is in ns");
}

#[test]
fn queues_are_in_order_and_of_their_kind() {
    let twice = verdict(|document| document.queues[2].qid = 1);
    assert_eq!(twice, "queue 1: its number is not above that of the one before");
    let kind = verdict(|document| document.queues[1].kind = QueueKind::Admin);
    assert_eq!(
        kind,
        "queue 1 is of kind Admin: queue 0 is the admin queue and no other is"
    );
    let namespaces = verdict(|document| {
        let again = document.namespaces[0].clone();
        document.namespaces.push(again);
    });
    assert_eq!(
        namespaces,
        "namespace 1: its number is not above that of the one before"
    );
}

#[test]
fn operations_have_known_names() {
    let unknown = queue(|queue| {
        queue.ops.insert("peruse".to_owned(), OpStats::default());
    });
    assert_eq!(unknown, "queue 1: the operation \"peruse\" is unknown");
}

#[test]
fn a_queue_that_is_not_consistent_is_not_judged_but_the_document_must_say_so() {
    let hidden = verdict(|document| document.queues[1].consistent = false);
    assert_eq!(
        hidden,
        "snapshot.consistent is true, but the queues together are false"
    );
    let said = verdict(|document| {
        document.queues[1].consistent = false;
        document.snapshot.consistent = false;
        counters(document).submitted += 1;
    });
    assert_eq!(said, "consistent");
    let exaggerated = verdict(|document| document.snapshot.consistent = false);
    assert_eq!(
        exaggerated,
        "snapshot.consistent is false, but the queues together are true"
    );
}
