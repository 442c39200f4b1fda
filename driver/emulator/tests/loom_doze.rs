//! Every interleaving of [`nvme_emulator::Doze`], under loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p nvme-emulator --release --test loom_doze`
//!
//! Loom reports a deadlock when every thread is parked, so a lost wake-up fails these tests by itself.
#![cfg(loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};
use nvme_emulator::Doze;

/// Sleeps until `done` is what was wanted. All loads are relaxed: the wake-up itself must not depend on the caller's
/// orderings.
fn wait_for(doze: &Doze, done: &AtomicUsize, wanted: usize) {
    while done.load(Ordering::Relaxed) != wanted {
        doze.sleep(None, || done.load(Ordering::Relaxed) == wanted);
    }
}

#[test]
fn one_waker_never_leaves_the_sleeper_behind() {
    loom::model(|| {
        let shared = Arc::new((Doze::new(), AtomicUsize::new(0)));
        let waker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.1.store(1, Ordering::Relaxed);
                shared.0.wake();
            })
        };
        wait_for(&shared.0, &shared.1, 1);
        waker.join().unwrap();
    });
}

#[test]
fn one_waker_that_rings_twice() {
    loom::model(|| {
        let shared = Arc::new((Doze::new(), AtomicUsize::new(0)));
        let waker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for ring in 1..=2 {
                    shared.1.store(ring, Ordering::Relaxed);
                    shared.0.wake();
                }
            })
        };
        wait_for(&shared.0, &shared.1, 2);
        waker.join().unwrap();
    });
}

/// The sleeper is a thread of its own here: loom takes an unpark that comes late for the end of a `join`.
#[test]
fn two_wakers_of_which_only_one_unparks() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let shared = Arc::new((Doze::new(), AtomicUsize::new(0)));
        let sleeper = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || wait_for(&shared.0, &shared.1, 2))
        };
        let waker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.1.fetch_add(1, Ordering::Relaxed);
                shared.0.wake();
            })
        };
        shared.1.fetch_add(1, Ordering::Relaxed);
        shared.0.wake();
        waker.join().unwrap();
        sleeper.join().unwrap();
    });
}
