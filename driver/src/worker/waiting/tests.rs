//! How a worker's thread waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::backend::emulated::EmulatedBackend;
use crate::backend::{Waker, Watched};
use crate::clock::ManualClock;
use crate::error::IoError;
use crate::request::Finished;
use crate::worker::{Load, LoadPort, LoadState, Shared};
use crate::{Config, Controller, Driver};

/// How often the worker sleeps before it is to end.
const SLEEPS: usize = 5;

/// Has something for its owner whenever it collects.
struct Full {
    watched: Arc<Watched>,
    shared: Arc<Shared>,
    sleeps: usize,
    overslept: Arc<AtomicUsize>,
}

impl Waiter for Full {
    fn wait(&mut self, _timeout: Option<Duration>, _ready: &mut dyn FnMut() -> bool) {
        if self.watched.take() {
            self.overslept.fetch_add(1, Ordering::Relaxed);
        }
        self.sleeps += 1;
        if self.sleeps == SLEEPS {
            self.shared.give_drain();
        }
    }

    fn waker(&self) -> Waker {
        Waker::new(|| {})
    }

    fn take_interrupts(&mut self) -> u64 {
        0
    }

    fn collect(&mut self) {
        self.watched.set();
    }
}

/// Looks at the descriptor. Where there is nothing its turn is long, once, and it wants another one.
struct Looks {
    watched: Arc<Watched>,
    clock: ManualClock,
    was_long: bool,
    found: Arc<AtomicUsize>,
}

impl Load for Looks {
    fn turn(&mut self, now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        if self.watched.take() {
            self.found.fetch_add(1, Ordering::Relaxed);
            self.was_long = false;
        } else if !self.was_long {
            self.clock.set(now_ns + COLLECT_NS);
            self.was_long = true;
            return LoadState::WaitUntil(now_ns);
        }
        LoadState::Running
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

/// What was collected from the system would not end a sleep any more: it is looked at before.
#[test]
fn nothing_that_was_collected_is_slept_on() {
    let device = "size=1MiB".parse().unwrap();
    let backend = EmulatedBackend::start(device, Clock::system()).unwrap();
    let controller = Controller::open(Arc::new(backend), &Config::default(), Clock::system()).unwrap();
    let (_driver, mut stepped) = Driver::stepped(controller).unwrap();
    let worker = stepped.take_worker(0).unwrap();
    let shared = worker.shared();
    let manual = ManualClock::new(1);
    let watched = Arc::new(Watched::default());
    let (found, overslept) = (Arc::default(), Arc::default());
    shared.attach(Box::new(Looks {
        watched: Arc::clone(&watched),
        clock: manual.clone(),
        was_long: false,
        found: Arc::clone(&found),
    }));
    let waiter = Full {
        watched,
        shared,
        sleeps: 0,
        overslept: Arc::clone(&overslept),
    };
    let waiting = Waiting {
        mode: PollingMode::Interrupt,
        poll_interval_ns: 0,
        may_spin: false,
        spins_for_one: false,
        shortest_sleep_ns: 0,
    };
    run(worker, Box::new(waiter), &Clock::manual(manual), waiting, &|_| {});
    assert_eq!(overslept.load(Ordering::Relaxed), 0);
    assert_eq!(found.load(Ordering::Relaxed), SLEEPS);
}

#[test]
fn others_run_between_looks_unless_the_device_is_all_that_is_waited_for() {
    let spins = |may_spin, spins_for_one| Waiting {
        mode: PollingMode::Polling,
        poll_interval_ns: 0,
        may_spin,
        spins_for_one,
        shortest_sleep_ns: 1,
    };
    let (soon_ns, later_ns) = (YIELD_AFTER_NS, YIELD_AFTER_NS + 1);
    // A real device needs no CPU of this machine.
    assert!(!spins(true, true).yields(1, later_ns));
    // An emulated one does, and so does the client that has not asked yet.
    assert!(spins(true, false).yields(1, later_ns));
    assert!(spins(true, true).yields(0, later_ns));
    assert!(!spins(true, false).yields(1, soon_ns));
    // On the only CPU whoever polls lets others run at once.
    assert!(spins(false, true).yields(1, 0));
}

#[test]
fn an_adaptive_worker_looks_for_what_is_expected_and_sleeps_on_what_is_not() {
    let adaptive = |may_spin, spins_for_one| Waiting {
        mode: PollingMode::Adaptive,
        poll_interval_ns: 0,
        may_spin,
        spins_for_one,
        shortest_sleep_ns: 1,
    };
    let within = |left_ns: u64| move |limit_ns: u64| left_ns <= limit_ns;
    let two_cpus = adaptive(true, false);
    assert!(two_cpus.spins(3, 0, within(SPIN_NS)));
    assert!(!two_cpus.spins(3, 0, within(SPIN_NS + 1)));
    // Nothing is out: for a moment, whatever was expected.
    assert!(two_cpus.spins(0, IDLE_SPIN_NS - 1, within(u64::MAX)));
    assert!(!two_cpus.spins(0, IDLE_SPIN_NS, within(0)));
    // On the only CPU, for one command of a device that needs none.
    let one_cpu = adaptive(false, true);
    assert!(one_cpu.spins(1, 0, within(LONE_SPIN_NS)));
    assert!(!one_cpu.spins(1, 0, within(LONE_SPIN_NS + 1)));
    assert!(!one_cpu.spins(2, 0, within(0)));
    assert!(!adaptive(false, false).spins(1, 0, within(0)));
}
