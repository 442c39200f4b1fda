//! Sleeping without missing a wake-up.
//!
//! A [`Doze`] belongs to one thread that looks for work, and to any number of threads that make some. The sleeper spins
//! as long as it likes, then calls [`Doze::sleep`]; whoever makes work publishes it and calls [`Doze::wake`], which costs
//! a fence and one load while nobody sleeps. That asymmetry is the point: a doorbell rings a million times a second, and
//! the thread behind it sleeps only when the rings have stopped.
//!
//! Why no wake-up is lost is [`Arming`]'s; `tests/loom_doze.rs` walks through every interleaving with this sleep.

use std::time::Duration;

#[cfg(loom)]
use loom::{
    sync::Mutex,
    thread::{self, Thread},
};
#[cfg(not(loom))]
use std::{
    sync::Mutex,
    thread::{self, Thread},
};

use crate::Arming;

/// The place where one thread sleeps until it is woken or its time is up.
///
/// At most one thread may be inside [`sleep`](Self::sleep) at a time (which thread may change from call to call); a
/// second one would not be woken. Any number of threads may [`wake`](Self::wake).
///
/// ```
/// use nvme_emulator::Doze;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// let (doze, rung) = (Doze::new(), AtomicBool::new(false));
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         while !rung.load(Ordering::Acquire) {
///             doze.sleep(None, || rung.load(Ordering::Acquire));
///         }
///     });
///     rung.store(true, Ordering::Release); // publish first,
///     doze.wake(); // then wake
/// });
/// ```
#[derive(Debug)]
pub struct Doze {
    arming: Arming,
    /// Whom to unpark. Written by the sleeper before it arms.
    sleeper: Mutex<Option<Thread>>,
}

impl Default for Doze {
    fn default() -> Self {
        Self::new()
    }
}

impl Doze {
    /// Nobody sleeps yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            arming: Arming::new(),
            sleeper: Mutex::new(None),
        }
    }

    /// Wakes the sleeper, if one sleeps. To be called after the work was published (any store will do, relaxed too: the
    /// fence in here orders it).
    #[inline]
    pub fn wake(&self) {
        if self.arming.fire() {
            self.unpark();
        }
    }

    /// The rare half of [`wake`](Self::wake), kept out of line so that the other half stays small.
    #[cold]
    fn unpark(&self) {
        // A poisoned lock still holds a good handle: nothing that runs under it can panic half way through an update.
        // The lock is released before the thread runs, which may want it again at once.
        let sleeper = self
            .sleeper
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone();
        if let Some(sleeper) = sleeper {
            sleeper.unpark();
        }
    }

    /// Sleeps until [`wake`](Self::wake) is called or `timeout` has passed, unless `ready` says that there is something
    /// to do already. `None` sleeps without a limit.
    ///
    /// It may also return for no reason at all (as [`std::thread::park`] may), so the caller looks for work again in a
    /// loop. `ready` is called once, after this thread has announced that it sleeps; it must look at everything whose
    /// publishers call `wake`, and must not call `sleep` itself.
    pub fn sleep(&self, timeout: Option<Duration>, mut ready: impl FnMut() -> bool) {
        let me = thread::current();
        {
            let mut sleeper = self
                .sleeper
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if sleeper.as_ref().map(Thread::id) != Some(me.id()) {
                *sleeper = Some(me);
            }
        }
        if self.arming.arm(&mut ready) {
            park(timeout);
            self.arming.disarm();
        }
    }

    /// Whether the sleeper has announced that it sleeps. A snapshot, for counters and tests.
    #[must_use]
    pub fn is_sleeping(&self) -> bool {
        self.arming.is_armed()
    }
}

#[cfg(not(loom))]
fn park(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => thread::park_timeout(timeout),
        None => thread::park(),
    }
}

/// The model knows no time: a sleep that only the timeout would end is a deadlock there, which is what it looks for.
#[cfg(loom)]
fn park(_timeout: Option<Duration>) {
    thread::park();
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    #[test]
    fn returns_at_once_when_there_is_work() {
        let doze = Doze::new();
        doze.sleep(None, || true);
        assert!(!doze.is_sleeping());
    }

    #[test]
    fn the_timeout_ends_a_sleep_nobody_disturbs() {
        let doze = Doze::new();
        doze.sleep(Some(Duration::from_millis(1)), || false);
        assert!(!doze.is_sleeping());
    }

    #[test]
    fn a_wake_before_the_sleep_is_not_remembered_as_work() {
        let doze = Doze::new();
        doze.wake();
        let mut asked = 0;
        doze.sleep(Some(Duration::from_millis(1)), || {
            asked += 1;
            false
        });
        assert_eq!(asked, 1);
    }

    #[test]
    fn ping_pong_between_two_sleepers_ends() {
        const ROUNDS: u64 = 10_000;
        let shared = Arc::new((Doze::new(), Doze::new(), AtomicU64::new(0)));
        let other = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let (ping, pong, turn) = &*other;
            for round in 0..ROUNDS {
                while turn.load(Ordering::Acquire) != 2 * round + 1 {
                    ping.sleep(None, || turn.load(Ordering::Acquire) == 2 * round + 1);
                }
                turn.store(2 * round + 2, Ordering::Release);
                pong.wake();
            }
        });
        let (ping, pong, turn) = &*shared;
        for round in 0..ROUNDS {
            turn.store(2 * round + 1, Ordering::Release);
            ping.wake();
            while turn.load(Ordering::Acquire) != 2 * round + 2 {
                pong.sleep(None, || turn.load(Ordering::Acquire) == 2 * round + 2);
            }
        }
        thread.join().expect("the other side ends too");
        assert_eq!(turn.load(Ordering::Acquire), 2 * ROUNDS);
    }
}
