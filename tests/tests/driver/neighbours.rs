//! A reader that asks for one block at a time beside a writer that keeps 256 requests out, on one queue of a device that is
//! busy, under each scheduler: the table of `docs::scheduling`, and what has to be true of it.
//!
//! In virtual time, with the driver and the device turned by hand, so that the figures are those of the order alone and the same on
//! every machine:
//!
//! ```text
//! NEIGHBOUR_READS=2000 cargo test -p nvme-tests --test driver neighbours -- --nocapture
//! ```

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::benchmark::{self, Failure, Listener, Stop};
use nvme_driver::clock::{Clock, ManualClock};
use nvme_driver::config::SchedulerKind;
use nvme_driver::controller::Opening;
use nvme_driver::{Config, Driver};
use stats_proto::bench::{BenchJob, BenchProgress, BenchResult, JobPriority, Pattern};

/// Eight channels that take about 80 us for a read and 100 us for a write.
const DEVICE: &str =
    "size=64MiB,backing=null,channels=8,latency=lognormal:80us:0.3,write-latency=lognormal:100us:0.3,seed=1";
/// Unless NEIGHBOUR_READS says otherwise: enough for the test, not for a percentile of 99.9.
const READS: u64 = 200;

fn wanted_reads() -> u64 {
    let wanted = std::env::var("NEIGHBOUR_READS").ok();
    wanted.map_or(READS, |wanted| wanted.parse().unwrap())
}

#[derive(Default)]
struct Outcome(Mutex<Option<BenchResult>>);

impl Listener for Outcome {
    fn progress(&self, _progress: BenchProgress) {}

    fn ended(&self, outcome: Result<BenchResult, Failure>) {
        *self.0.lock().unwrap() = Some(outcome.unwrap());
    }
}

impl Outcome {
    fn is_there(&self) -> bool {
        self.0.lock().unwrap().is_some()
    }

    fn take(&self) -> BenchResult {
        self.0.lock().unwrap().take().unwrap()
    }
}

/// What the two had.
struct Neighbours {
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    writes_per_s: f64,
    /// Of both.
    commands_per_s: f64,
    missed: u64,
}

fn neighbours(scheduler: SchedulerKind, window: u32) -> Neighbours {
    let clock = ManualClock::new(1);
    let backend = EmulatedBackend::stepped(DEVICE.parse().unwrap()).unwrap();
    let device = Arc::clone(backend.device());
    let config = Config {
        num_queues: 1,
        scheduler,
        scheduler_window: window,
        ..Config::default()
    };
    let mut opening = Opening::new(Arc::new(backend), &config, Clock::manual(clock.clone())).unwrap();
    while !opening.turn().unwrap() {
        device.step(clock.now_ns());
        clock.set(clock.now_ns() + 10_000);
    }
    let (driver, mut stepped) = Driver::stepped(opening.finish().unwrap()).unwrap();
    let start = |job: BenchJob| {
        let (stop, outcome) = (Stop::default(), Arc::new(Outcome::default()));
        let listener = Arc::clone(&outcome) as Arc<dyn Listener>;
        benchmark::start(&driver, 1, job, &stop, listener).unwrap();
        (stop, outcome)
    };
    let (stop, writer) = start(BenchJob {
        pattern: Pattern::RandWrite,
        queue_depth: 256,
        priority: JobPriority::Low,
        time_ns: Some(u64::MAX / 2),
        destructive: true,
        ..BenchJob::default()
    });
    let (_, reader) = start(BenchJob {
        pattern: Pattern::RandRead,
        priority: JobPriority::High,
        deadline_us: NonZeroU32::new(1000),
        time_ns: None,
        ios: Some(wanted_reads()),
        ..BenchJob::default()
    });
    while !writer.is_there() {
        if reader.is_there() {
            stop.stop();
        }
        let worked = stepped.turn_worker(0);
        let step = device.step(clock.now_ns());
        if !worked && !step.worked {
            // Nothing is left to be done at this moment.
            let due_ns = step.due_ns.expect("commands are out");
            clock.set(due_ns.max(clock.now_ns() + 1));
        }
    }
    let counters = driver.stats(false).queues[1].counters.clone();
    let missed = counters.map_or(0, |queue| {
        queue.deadlines_missed_host + queue.deadlines_missed_device
    });
    let (reads, writes) = (reader.take().total.read, writer.take().total.write);
    assert_eq!((reads.ios, reads.errors, writes.errors), (wanted_reads(), 0, 0));
    let percentile = |name: &str| reads.latency_total.percentiles_ns[name] as f64 / 1000.0;
    Neighbours {
        p50_us: percentile("50.00"),
        p99_us: percentile("99.00"),
        p999_us: percentile("99.90"),
        writes_per_s: writes.iops,
        commands_per_s: writes.iops + reads.iops,
        missed,
    }
}

#[test]
fn neighbours_under_each_scheduler() {
    println!("| scheduler | window | read p50 | p99 | p99.9 | reads late | writes/s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let row = |scheduler: SchedulerKind, window: u32| {
        let found = neighbours(scheduler, window);
        let Neighbours {
            p50_us,
            p99_us,
            p999_us,
            writes_per_s,
            missed,
            ..
        } = found;
        println!(
            "| {scheduler} | {window} | {p50_us:.0} us | {p99_us:.0} us | {p999_us:.0} us | {missed} | {writes_per_s:.0} |"
        );
        found
    };
    let none = row(SchedulerKind::None, 32);
    let cpu = row(SchedulerKind::CpuAffinity, 32);
    // One queue: there is nothing to choose from.
    assert_eq!(none.p99_us, cpu.p99_us);
    for scheduler in [
        SchedulerKind::RoundRobin,
        SchedulerKind::Priority,
        SchedulerKind::Deadline,
    ] {
        let whole = row(scheduler, 0);
        let mut before_us = whole.p99_us;
        for window in [64, 32, 8] {
            let found = row(scheduler, window);
            assert!(
                found.p99_us < before_us,
                "{scheduler} {window}: fewer commands are before it"
            );
            before_us = found.p99_us;
            // The device is as busy as before: it has more commands than channels.
            assert!(
                found.commands_per_s > 0.98 * none.commands_per_s,
                "{scheduler} {window}"
            );
            if window == 32 {
                assert!(found.p99_us < none.p99_us / 3.0, "{scheduler}");
            }
        }
        assert!(before_us < none.p99_us / 8.0, "{scheduler}");
    }
}
