//! Every interleaving of [`nvme_emulator::Arming`] with what it is used for, under loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p nvme-emulator --release --test loom_arming`
//!
//! The devices, wakers and eventfds are models; the change from looking to sleeping is the one that the driver's waiters
//! make. Loom reports a deadlock when everybody sleeps, so a completion that is slept on fails these tests by itself: nothing
//! in here knows a timeout.
#![cfg(loom)]

use loom::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use nvme_emulator::Arming;

/// What one thread sleeps on: counts, as several eventfds in one `poll`.
#[derive(Default)]
struct Poll {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Default)]
struct Counts {
    interrupts: usize,
    bell: usize,
    /// A line: it has fired, and is masked until it is let again.
    is_masked: bool,
    /// A line: the device pulls it.
    is_pulled: bool,
}

impl Poll {
    /// A message of the device: it comes whether anybody sleeps or not.
    fn interrupt(&self) {
        self.counts.lock().unwrap().interrupts += 1;
        self.changed.notify_all();
    }

    /// The device posts a completion, and pulls the line.
    fn pull(&self, posted: &AtomicUsize) {
        let mut counts = self.counts.lock().unwrap();
        posted.fetch_add(1, Ordering::Relaxed);
        counts.is_pulled = true;
        if !counts.is_masked {
            counts.is_masked = true;
            counts.interrupts += 1;
            self.changed.notify_all();
        }
    }

    /// The line may fire again, and does at once if it is still pulled.
    fn unmask(&self) {
        let mut counts = self.counts.lock().unwrap();
        counts.is_masked = counts.is_pulled;
        counts.interrupts += usize::from(counts.is_pulled);
    }

    fn ring(&self) {
        self.counts.lock().unwrap().bell += 1;
        self.changed.notify_all();
    }

    /// Reads the interrupts without sleeping; says how many there were.
    fn collect(&self) -> usize {
        std::mem::take(&mut self.counts.lock().unwrap().interrupts)
    }

    /// Sleeps until something rings, and reads it; says how many interrupts there were.
    fn sleep(&self) -> usize {
        let mut counts = self.counts.lock().unwrap();
        while counts.interrupts == 0 && counts.bell == 0 {
            counts = self.changed.wait(counts).unwrap();
        }
        counts.bell = 0;
        std::mem::take(&mut counts.interrupts)
    }
}

/// A queue whose owner changes from looking to sleeping.
#[derive(Default)]
struct Queue {
    arming: Arming,
    poll: Poll,
    /// Completions that the device has posted.
    posted: AtomicUsize,
    /// Requests that clients have handed over.
    inbox: AtomicUsize,
}

impl Queue {
    fn post(&self) {
        self.posted.fetch_add(1, Ordering::Relaxed);
        self.poll.interrupt();
    }

    fn hand_over(&self) {
        self.inbox.fetch_add(1, Ordering::Relaxed);
        if self.arming.fire() {
            self.poll.ring();
        }
    }

    /// What there is, in all.
    fn look(&self) -> usize {
        self.posted.load(Ordering::Relaxed) + self.inbox.load(Ordering::Relaxed)
    }

    /// The owner: until it has seen as much as `wanted`.
    fn own(&self, wanted: usize) {
        let mut seen = 0;
        while seen < wanted {
            let there_is = self.look();
            if there_is > seen {
                seen = there_is;
                continue;
            }
            // Awake, it takes in interrupts of what it may not have found yet.
            self.poll.collect();
            if self.arming.arm(|| self.look() > seen) {
                self.poll.sleep();
                self.arming.disarm();
            }
        }
    }
}

#[test]
fn a_completion_is_not_slept_on_though_its_interrupt_has_been_taken_in() {
    loom::model(|| {
        let queue = Arc::new(Queue::default());
        let device = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                queue.post();
                queue.post();
            })
        };
        queue.own(2);
        device.join().unwrap();
    });
}

#[test]
fn neither_a_completion_nor_a_request_is_slept_on() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let queue = Arc::new(Queue::default());
        let device = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.post())
        };
        let client = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || queue.hand_over())
        };
        queue.own(2);
        device.join().unwrap();
        client.join().unwrap();
    });
}

/// A line tells once that it is pulled, and is masked then. Its owner takes completions, which lets the line go if there is
/// none left, and lets it fire again before it arms.
#[test]
fn a_line_that_was_masked_wakes_its_owner_for_what_came_meanwhile() {
    loom::model(|| {
        let queue = Arc::new(Queue::default());
        let device = {
            let queue = Arc::clone(&queue);
            thread::spawn(move || {
                for _ in 0..2 {
                    queue.poll.pull(&queue.posted);
                }
            })
        };
        let mut seen = 0;
        while seen < 2 {
            let there_is = queue.look();
            if there_is > seen {
                seen = there_is;
                // The doorbell: the line is let go if that was all.
                let mut counts = queue.poll.counts.lock().unwrap();
                counts.is_pulled = queue.look() > seen;
                continue;
            }
            queue.poll.unmask();
            if queue.arming.arm(|| queue.look() > seen) {
                queue.poll.sleep();
                queue.arming.disarm();
            }
        }
        device.join().unwrap();
    });
}

/// Two queues with one vector: whoever reads its count wakes the other one.
#[test]
fn who_shares_an_interrupt_is_woken_by_whoever_reads_it() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        struct Shared {
            armings: [Arming; 2],
            posted: [AtomicUsize; 2],
            counts: Mutex<(usize, [usize; 2])>,
            changed: Condvar,
        }
        let shared = Arc::new(Shared {
            armings: [Arming::new(), Arming::new()],
            posted: [AtomicUsize::new(0), AtomicUsize::new(0)],
            counts: Mutex::default(),
            changed: Condvar::new(),
        });
        let own = |shared: &Shared, me: usize| {
            while shared.posted[me].load(Ordering::Relaxed) == 0 {
                if !shared.armings[me].arm(|| shared.posted[me].load(Ordering::Relaxed) > 0) {
                    continue;
                }
                let mut counts = shared.counts.lock().unwrap();
                while counts.0 == 0 && counts.1[me] == 0 {
                    counts = shared.changed.wait(counts).unwrap();
                }
                counts.1[me] = 0;
                let fired = std::mem::take(&mut counts.0);
                drop(counts);
                shared.armings[me].disarm();
                if fired > 0 && shared.armings[1 - me].fire() {
                    shared.counts.lock().unwrap().1[1 - me] += 1;
                    shared.changed.notify_all();
                }
            }
        };
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || own(&shared, 1))
        };
        let device = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for queue in 0..2 {
                    shared.posted[queue].store(1, Ordering::Relaxed);
                    shared.counts.lock().unwrap().0 += 1;
                    shared.changed.notify_all();
                }
            })
        };
        own(&shared, 0);
        other.join().unwrap();
        device.join().unwrap();
    });
}
