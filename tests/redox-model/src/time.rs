//! `/scheme/time`: a clock that steps, steps back at times if it is told to, and timeouts that pile up.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use syscall::data::TimeSpec;
use syscall::error::{EINVAL, Error, Result};
use syscall::flag::EventFlags;

use crate::kernel::{ClockUse, Kernel, State};
use crate::machine::Quirks;

/// The machine has been up for this long already.
const BOOT_NS: u64 = 3_000_000_000;

#[derive(Clone, Copy)]
struct Timeout {
    clock: u64,
    at_ns: u128,
}

/// The clock and what waits for it.
pub(crate) struct Time {
    started: Instant,
    /// The time that a test has set, if it does that.
    manual_ns: Option<u64>,
    tick_ns: u64,
    steps_back_every: Option<u32>,
    reads: u32,
    random: fastrand::Rng,
    timeouts: Vec<Timeout>,
    registered: u64,
    pub ends: bool,
}

impl Time {
    pub fn new(quirks: &Quirks, seed: u64) -> Self {
        Self {
            started: Instant::now(),
            manual_ns: quirks.manual_time.then_some(0),
            tick_ns: u64::try_from(quirks.tick.as_nanos()).unwrap_or(u64::MAX).max(1),
            steps_back_every: quirks.clock_steps_back_every,
            reads: 0,
            random: fastrand::Rng::with_seed(seed),
            timeouts: Vec::new(),
            registered: 0,
            ends: false,
        }
    }

    /// Time since boot, to the nanosecond: what the machine's hardware knows.
    fn exact_ns(&self) -> u64 {
        let elapsed_ns = || u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        BOOT_NS.saturating_add(self.manual_ns.unwrap_or_else(elapsed_ns))
    }

    /// What the kernel counts: whole ticks.
    fn ticks_ns(&self) -> u64 {
        self.exact_ns() / self.tick_ns * self.tick_ns
    }

    /// What a reader is told.
    fn read_ns(&mut self) -> u64 {
        self.reads = self.reads.wrapping_add(1);
        let now_ns = self.ticks_ns();
        match self.steps_back_every {
            Some(every) if every > 0 && self.reads.is_multiple_of(every) => {
                now_ns.saturating_sub(self.tick_ns * self.random.u64(1..=3))
            }
            _ => now_ns,
        }
    }

    /// Timeouts that are waited for.
    pub fn pending(&self) -> usize {
        self.timeouts.len()
    }

    /// Timeouts that have ever been.
    pub fn registered(&self) -> u64 {
        self.registered
    }
}

impl State {
    /// Fires what is due, as the kernel does on a tick.
    fn fire(&mut self) {
        let now_ns = u128::from(self.time.ticks_ns());
        let mut index = 0;
        while let Some(timeout) = self.time.timeouts.get(index).copied() {
            if timeout.at_ns > now_ns {
                index += 1;
                continue;
            }
            self.time.timeouts.swap_remove(index);
            self.events.trigger(timeout.clock, EventFlags::EVENT_READ);
        }
    }
}

impl Kernel {
    pub fn read_clock(&self, clock: ClockUse, into: &mut [u8]) -> Result<usize> {
        let mut state = self.lock();
        let mut read_bytes = 0;
        for room in into.chunks_exact_mut(size_of::<TimeSpec>()) {
            let time_ns = match clock {
                ClockUse::Both | ClockUse::Reading => state.time.read_ns(),
                ClockUse::Resolution => state.time.tick_ns,
                ClockUse::Timer => return Err(Error::new(EINVAL)),
            };
            room.copy_from_slice(&TimeSpec::from_nanos(time_ns.into()));
            read_bytes += room.len();
        }
        Ok(read_bytes)
    }

    pub fn write_clock(&self, description: u64, clock: ClockUse, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let mut written_bytes = 0;
        for bytes in from.chunks_exact(size_of::<TimeSpec>()) {
            if !matches!(clock, ClockUse::Both | ClockUse::Timer) {
                return Err(Error::new(EINVAL));
            }
            let mut at = TimeSpec::default();
            at.copy_from_slice(bytes);
            let seconds = (at.tv_sec as u128).wrapping_mul(1_000_000_000);
            state.time.timeouts.push(Timeout {
                clock: description,
                at_ns: seconds.wrapping_add(at.tv_nsec as u128),
            });
            state.time.registered += 1;
            written_bytes += bytes.len();
        }
        self.timers.notify_all();
        Ok(written_bytes)
    }

    /// Moves the time of a machine whose time is the test's.
    ///
    /// # Panics
    /// If it is not.
    pub fn advance(&self, by: Duration) {
        let mut state = self.lock();
        let manual_ns = state
            .time
            .manual_ns
            .as_mut()
            .expect("the machine has `manual_time`");
        *manual_ns += u64::try_from(by.as_nanos()).expect("a sensible time");
        state.fire();
    }

    /// The thread that is the tick: it runs only while there are timeouts.
    pub fn start_ticking(self: &Arc<Self>) -> JoinHandle<()> {
        let kernel = Arc::clone(self);
        std::thread::spawn(move || {
            let mut state = kernel.lock();
            while !state.time.ends {
                let next_ns = state.time.timeouts.iter().map(|timeout| timeout.at_ns).min();
                let Some(next_ns) = next_ns.filter(|_| state.time.manual_ns.is_none()) else {
                    state = kernel.wait(&kernel.timers, state);
                    continue;
                };
                let tick_ns = u128::from(state.time.tick_ns);
                let due_ns = next_ns.div_ceil(tick_ns) * tick_ns;
                let now_ns = u128::from(state.time.exact_ns());
                if due_ns <= now_ns {
                    state.fire();
                    continue;
                }
                // Far away is looked at again after an hour.
                let wait_ns = u64::try_from(due_ns - now_ns)
                    .unwrap_or(u64::MAX)
                    .min(3_600_000_000_000);
                let waited = kernel.timers.wait_timeout(state, Duration::from_nanos(wait_ns));
                state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            }
        })
    }
}
