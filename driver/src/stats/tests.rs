use std::sync::atomic::{AtomicBool, Ordering};

use nvme_spec::Status;
use stats_proto::hist::{BUCKETS, MAX_VALUE, index_of};

use super::*;

fn read(recorder: &mut QueueRecorder, device_ns: u64) {
    recorder.completed(
        OpClass::Read,
        Some(0),
        4096,
        device_ns,
        device_ns / 2,
        Status::SUCCESS,
    );
}

#[test]
fn what_was_recorded_is_what_is_read() {
    let mut recorder = QueueRecorder::new(1, 4);
    recorder.begin();
    recorder.handed(1_000, 3);
    recorder.doorbells(1, 0);
    recorder.end();
    recorder.begin();
    read(&mut recorder, 100);
    read(&mut recorder, 70_000);
    recorder.completed(
        OpClass::Write,
        Some(0),
        512,
        MAX_VALUE + 5,
        1,
        Status::WRITE_FAULT,
    );
    recorder.out_is(3_000, 0);
    recorder.pass(3);
    recorder.end();
    let snapshot = recorder.stats().snapshot(9_000, true);
    assert!(snapshot.consistent);
    let read = &snapshot.ops[OpClass::Read as usize];
    assert_eq!(
        (read.count, read.bytes, read.errors, read.sum_ns),
        (2, 8192, 0, 70_100)
    );
    assert_eq!((read.min_ns, read.max_ns), (Some(100), Some(70_000)));
    assert_eq!(read.latency_device[index_of(70_000)], 1);
    assert_eq!(read.latency_host[index_of(35_000)], 1);
    let write = &snapshot.ops[OpClass::Write as usize];
    assert_eq!((write.count, write.bytes, write.errors), (1, 0, 1));
    assert_eq!(
        (write.latency_device[BUCKETS - 1], write.latency_device[BUCKETS]),
        (1, 1),
        "beyond the last bucket"
    );
    assert!(snapshot.ops[OpClass::Flush as usize].latency_device.is_empty());
    assert_eq!(snapshot.statuses, [(Status::WRITE_FAULT.code(), 1)]);
    assert_eq!(snapshot.counters.qd_time_integral_ns, 6_000);
    assert_eq!(snapshot.counters.active_ns, 2_000, "nothing was out after 3000");
    assert_eq!(snapshot.namespaces[0][OpClass::Read as usize].bytes, 8192);
    let light = recorder.stats().snapshot(9_000, false);
    assert!(light.ops[OpClass::Read as usize].latency_device.is_empty());
}

#[test]
fn sums_over_time_grow_while_commands_hang_and_never_go_down() {
    let mut recorder = QueueRecorder::new(0, 4);
    recorder.begin();
    recorder.handed(1_000, 2);
    recorder.doorbells(1, 0);
    recorder.end();
    let stats = recorder.stats();
    let at = |now_ns| stats.snapshot(now_ns, false).counters;
    assert_eq!(
        (at(2_000).qd_time_integral_ns, at(2_000).active_ns),
        (2_000, 1_000)
    );
    assert_eq!(at(5_000).qd_time_integral_ns, 8_000);
    // The completion's time was taken before that reading.
    recorder.begin();
    recorder.out_is(4_000, 0);
    recorder.end();
    assert_eq!(
        (at(6_000).qd_time_integral_ns, at(6_000).active_ns),
        (8_000, 4_000)
    );
}

#[test]
fn more_statuses_than_fit_are_counted_together() {
    let mut recorder = QueueRecorder::new(0, 4);
    recorder.begin();
    for sc in 1..=60 {
        recorder.completed(OpClass::Read, None, 0, 1, 1, Status::new(0, sc));
    }
    recorder.end();
    let snapshot = recorder.stats().snapshot(0, false);
    let counted: u64 = snapshot.statuses.iter().map(|(_, count)| count).sum();
    assert_eq!(
        (counted + snapshot.other_statuses, snapshot.statuses.len()),
        (60, 48)
    );
}

#[test]
fn a_writer_in_the_middle_of_a_change_makes_no_consistent_snapshot() {
    let recorder = QueueRecorder::new(0, 4);
    recorder.begin();
    assert!(!recorder.stats().snapshot(0, false).consistent);
    recorder.end();
    assert!(recorder.stats().snapshot(0, false).consistent);
}

/// Ends the writer also when the reader fails: otherwise the failure would be a hang.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A writer that never pauses, and a reader: the writer leaves copies, and each is of one moment.
#[test]
fn a_reader_of_a_busy_writer_gets_one_moment() {
    let mut recorder = QueueRecorder::new(0, 1 << 20);
    let stats = recorder.stats();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut now_ns = 0;
            while !stop.load(Ordering::Relaxed) {
                now_ns += 10;
                recorder.begin();
                recorder.handed(now_ns, 2);
                recorder.doorbells(1, 0);
                recorder.end();
                recorder.begin();
                read(&mut recorder, now_ns % 1_000_000);
                read(&mut recorder, now_ns % 777);
                recorder.out_is(now_ns + 5, 0);
                recorder.pass(2);
                recorder.end();
                recorder.leave_copy_if_asked();
            }
        });
        let _stop_at_end = StopAtEnd(&stop);
        let (mut consistent, mut before) = (0, 0);
        for round in 0..300 {
            let snapshot = stats.snapshot(0, round % 2 == 0);
            if !snapshot.consistent {
                continue;
            }
            consistent += 1;
            let (counters, op) = (&snapshot.counters, &snapshot.ops[OpClass::Read as usize]);
            assert_eq!(op.count, counters.completed);
            assert!(counters.submitted - counters.completed <= 2);
            assert!(counters.completed >= before);
            before = counters.completed;
            if round % 2 == 0 && op.count > 0 {
                for histogram in [&op.latency_device, &op.latency_host] {
                    assert_eq!(histogram[..BUCKETS].iter().sum::<u64>(), op.count);
                }
            }
        }
        assert!(consistent > 250, "{consistent}");
    });
}
