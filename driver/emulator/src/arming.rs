//! Look, arm, look again, sleep: how a thread goes from looking to sleeping and misses nothing.
//!
//! A thread that looks for its work itself wants no bell; one that sleeps does. In between is the moment that loses
//! wake-ups: what comes after the last look and before the bell is armed rings for nobody. So the bell is armed first, and
//! then there is another look, which finds what came before; what comes after it finds the bell armed.
//!
//! [`Arming`] is that step, without the sleep itself, which differs: [`Doze`](crate::Doze) parks its thread, others wait for
//! files of the operating system. `tests/loom_arming.rs` walks through every interleaving, with wakers, with interrupts that
//! have been taken in by somebody who was awake, with a line that stays masked, and with several sleepers at one interrupt.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether one sleeper wants to be rung for. One thread arms it; any number look whether it is.
///
/// ```
/// use nvme_emulator::Arming;
///
/// let (arming, work) = (Arming::new(), std::cell::Cell::new(false));
/// assert!(arming.arm(|| work.get()), "nothing to do: sleep now");
/// work.set(true); // publish first,
/// assert!(arming.fire(), "then look whether to ring");
/// assert!(!arming.fire(), "once is enough");
/// arming.disarm(); // awake again
/// assert!(!arming.arm(|| work.get()), "the second look has found something");
/// ```
#[derive(Debug)]
pub struct Arming {
    /// From just before the second look until the sleeper is awake, or somebody has taken over the duty to ring.
    armed: AtomicBool,
}

impl Default for Arming {
    fn default() -> Self {
        Self::new()
    }
}

impl Arming {
    /// Nobody sleeps yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            armed: AtomicBool::new(false),
        }
    }

    /// Arms, and looks again with `found_work`, which must look at everything whose publishers call [`Arming::fire`], and at
    /// everything whose bell may have rung while its sleeper was awake. Whether to sleep now; afterwards, and not before,
    /// [`Arming::disarm`].
    #[inline]
    #[must_use]
    pub fn arm(&self, found_work: impl FnOnce() -> bool) -> bool {
        // Release, so that whoever sees it also sees what the sleeper has made ready to be rung.
        self.armed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if found_work() {
            self.disarm();
            return false;
        }
        true
    }

    /// The sleeper is awake, and will look before it sleeps again.
    #[inline]
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }

    /// To be called once work has been published, by any store: whether the caller is to ring. Of several callers one is
    /// told so; the others may leave, since the sleeper looks at everything before it sleeps the next time. Costs a fence and
    /// a load while nobody sleeps.
    #[inline]
    #[must_use]
    pub fn fire(&self) -> bool {
        fence(Ordering::SeqCst);
        self.armed.load(Ordering::Relaxed) && self.take()
    }

    /// The rare half of [`Arming::fire`].
    #[cold]
    fn take(&self) -> bool {
        self.armed.swap(false, Ordering::AcqRel)
    }

    /// Who was to ring could not: the next one is to try. If the sleeper sleeps no more, it is woken once too often.
    pub fn give_back(&self) {
        self.armed.store(true, Ordering::Release);
    }

    /// Whether somebody sleeps, or is about to. A snapshot, for counters and tests.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }
}
