//! How completions are noticed, by the queue, on a device with threads of its own.
#![forbid(unsafe_code)]
#![cfg(all(feature = "multi-queue", feature = "performance-counters"))]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::Clock;
use nvme_driver::driver::Hint;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Controller, Driver, Finished, Op, Request};
use stats_proto::stats::{QueueMode, StatsDocument};

struct Sink(Mutex<Sender<Finished<()>>>);

impl Answer for Sink {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let _ = self.0.lock().expect("nobody panicked").send(finished);
    }
}

struct Rig {
    driver: Driver,
    sink: Arc<Sink>,
    answers: Receiver<Finished<()>>,
}

impl Rig {
    fn new(device: &str, modes: &str, queues: u16) -> Self {
        let clock = Clock::system();
        let backend =
            EmulatedBackend::start(device.parse().expect("a device"), clock.clone()).expect("starts");
        let config = Config {
            num_queues: queues,
            polling: modes.parse().expect("modes"),
            ..Config::default()
        };
        let controller = Controller::open(Arc::new(backend), &config, clock).expect("comes up");
        let (sender, answers) = channel();
        Self {
            driver: Driver::start(controller).expect("starts"),
            sink: Arc::new(Sink(Mutex::new(sender))),
            answers,
        }
    }

    /// Hands reads of one block over to I/O queue `queue` (from 0), `count` at once.
    fn read(&self, queue: u32, count: u64) {
        for tag in 0..count {
            let request = Request {
                op: Op::Read,
                nsid: 1,
                slba: tag,
                blocks: 1,
                buffer: Buffer::heap(vec![0xFF; 4096]),
                arrived_ns: self.driver.clock().now_ns(),
                context: Remote {
                    sink: self.sink.clone(),
                    tag,
                },
            };
            let hint = Hint {
                cpu: Some(queue),
                ..Hint::default()
            };
            self.driver.submit(hint, request);
        }
    }

    /// A completion that is slept on is found only when its command is taken for lost, half a minute later, and is an error
    /// then.
    fn answered(&self, count: u64) {
        for _ in 0..count {
            assert_eq!(self.answers.recv().expect("an answer").result, Ok(()));
        }
    }

    /// Of each I/O queue: completions and interrupts.
    fn counts(&self, stats: &StatsDocument) -> Vec<(u64, u64)> {
        let counters = |queue: &stats_proto::stats::QueueStats| queue.counters.clone().expect("they are on");
        let queues = stats.queues.iter().skip(1).map(counters);
        queues
            .map(|counters| (counters.completed, counters.interrupts))
            .collect()
    }
}

#[test]
fn each_queue_has_the_mode_that_it_is_given() {
    let rig = Rig::new(
        "size=1MiB,queues=3,latency=50us",
        "1:polling,2:interrupt,adaptive",
        3,
    );
    for queue in 0..3 {
        for _ in 0..20 {
            rig.read(queue, 1);
            rig.answered(1);
        }
    }
    let stats = rig.driver.stats(false);
    let modes: Vec<_> = stats.queues.iter().skip(1).map(|queue| queue.mode).collect();
    assert_eq!(
        modes,
        [QueueMode::Polling, QueueMode::Interrupt, QueueMode::Adaptive]
    );
    let counts = rig.counts(&stats);
    assert!(counts.iter().all(|(completed, _)| *completed == 20), "{counts:?}");
    // The completion queue of one that polls has interrupts off; one that does not is told of each.
    assert_eq!(counts[0].1, 0, "{counts:?}");
    assert!(counts[1].1 > 0, "{counts:?}");
}

/// Latencies on both sides of what an adaptive queue looks for, so that it changes between looking and sleeping all the time,
/// with pauses in which it falls asleep with nothing out.
#[test]
fn an_adaptive_queue_sleeps_on_no_completion_when_it_changes_between_looking_and_sleeping() {
    let rig = Rig::new(
        "size=1MiB,queues=1,latency=lognormal:150us:1.0,seed=7",
        "adaptive",
        1,
    );
    for round in 0..300 {
        let count = [1, 1, 2, 7][round % 4];
        rig.read(0, count);
        rig.answered(count);
    }
    let stats = rig.driver.stats(false);
    let wanted: u64 = (0..300).map(|round| [1, 1, 2, 7][round % 4]).sum();
    assert_eq!(rig.counts(&stats)[0].0, wanted);
}

/// Two vectors: one for the admin queue, one for four I/O queues; and one for all.
#[test]
fn queues_that_share_a_vector_are_all_woken_by_it() {
    for (vectors, shared) in [(2, 1), (1, 0)] {
        let rig = Rig::new(
            &format!("size=1MiB,queues=4,vectors={vectors},latency=100us"),
            "interrupt",
            4,
        );
        for _ in 0..25 {
            for queue in 0..4 {
                rig.read(queue, 2);
            }
            rig.answered(8);
        }
        let stats = rig.driver.stats(false);
        let of_queues: Vec<_> = stats.queues.iter().skip(1).map(|queue| queue.vector).collect();
        assert_eq!(of_queues, [Some(shared); 4]);
        let counts = rig.counts(&stats);
        assert!(
            counts
                .iter()
                .all(|(completed, interrupts)| *completed == 50 && *interrupts > 0),
            "{counts:?}"
        );
    }
}
