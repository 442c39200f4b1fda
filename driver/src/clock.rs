//! The driver's only clock: monotonic nanoseconds, cheap enough for the data path.
//!
//! On x86-64 with an invariant TSC a reading is one `rdtsc` and one multiplication (about 12 ns on the machines this
//! was measured on, against 33 ns for [`Instant::now`]). Elsewhere it is [`Instant`]. The core never reads a clock
//! by itself: whoever turns it hands a [`Clock`] or a reading in, so a test may hand in a [`ManualClock`].

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Where the time comes from. Cheap to clone; clones agree with each other.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Tsc(&'static Calibration),
    Instant(Instant),
    Manual(ManualClock),
}

/// A clock that stands still until it is told to move: for simulations and tests.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that shows `now_ns`.
    pub fn new(now_ns: u64) -> Self {
        Self(Arc::new(AtomicU64::new(now_ns)))
    }

    /// Moves the clock; all its clones move with it. A step back is ignored: time is monotonic here too.
    pub fn set(&self, now_ns: u64) {
        self.0.fetch_max(now_ns, Ordering::Relaxed);
    }

    /// What the clock shows, in nanoseconds.
    pub fn now_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// TSC ticks to nanoseconds: `ns = (ticks - base) * multiplier / 2^32`.
#[derive(Debug)]
struct Calibration {
    base_ticks: u64,
    multiplier: u64,
    hz: u64,
}

/// How long the TSC is held against [`Instant`] once per process. Two bracketed readings bound the error of each
/// end to the width of a bracket (tens of nanoseconds), so 5 ms give a rate good to about 20 parts in a million.
const CALIBRATION_NS: u64 = 5_000_000;

impl Clock {
    /// The best clock of this machine. The first call in a process takes 5 ms to calibrate the TSC.
    pub fn system() -> Self {
        static TSC: OnceLock<Option<Calibration>> = OnceLock::new();
        static START: OnceLock<Instant> = OnceLock::new();
        match TSC.get_or_init(Calibration::measure) {
            Some(calibration) => Self(Source::Tsc(calibration)),
            None => Self(Source::Instant(*START.get_or_init(Instant::now))),
        }
    }

    /// A clock that only `manual` moves.
    pub fn manual(manual: ManualClock) -> Self {
        Self(Source::Manual(manual))
    }

    /// Nanoseconds since an arbitrary moment before the first reading; never goes back.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        match &self.0 {
            Source::Tsc(calibration) => calibration.to_ns(read_tsc()),
            Source::Instant(start) => start.elapsed().as_nanos() as u64,
            Source::Manual(manual) => manual.now_ns(),
        }
    }

    /// `tsc`, `instant` or `manual`.
    pub fn name(&self) -> &'static str {
        match self.0 {
            Source::Tsc(_) => "tsc",
            Source::Instant(_) => "instant",
            Source::Manual(_) => "manual",
        }
    }

    /// Whether only a hand moves this clock, so that waiting for a time to come is of no use.
    pub(crate) fn is_manual(&self) -> bool {
        matches!(self.0, Source::Manual(_))
    }

    /// Ticks per second of the counter behind the clock, where there is one.
    pub fn hz(&self) -> Option<u64> {
        match self.0 {
            Source::Tsc(calibration) => Some(calibration.hz),
            _ => None,
        }
    }
}

impl Calibration {
    fn measure() -> Option<Self> {
        if !tsc_is_invariant() {
            return None;
        }
        let (start_ticks, start) = bracketed()?;
        let (end_ticks, elapsed_ns) = loop {
            let (ticks, now) = bracketed()?;
            let elapsed_ns = u64::try_from(now.duration_since(start).as_nanos()).ok()?;
            if elapsed_ns >= CALIBRATION_NS {
                break (ticks, elapsed_ns);
            }
            std::hint::spin_loop();
        };
        let ticks = end_ticks.checked_sub(start_ticks).filter(|ticks| *ticks > 0)?;
        let multiplier = u64::try_from((u128::from(elapsed_ns) << 32) / u128::from(ticks)).ok()?;
        let hz = u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(elapsed_ns)).ok()?;
        (multiplier > 0).then_some(Self {
            base_ticks: start_ticks,
            multiplier,
            hz,
        })
    }

    #[inline]
    fn to_ns(&self, ticks: u64) -> u64 {
        // A core whose TSC lags the calibrating one by a few ticks must not wrap round.
        let ticks = ticks.saturating_sub(self.base_ticks);
        ((u128::from(ticks) * u128::from(self.multiplier)) >> 32) as u64
    }
}

/// A TSC reading and the [`Instant`] next to it: of several tries the one whose bracket was the narrowest.
fn bracketed() -> Option<(u64, Instant)> {
    (0..8)
        .map(|_| {
            let before = read_tsc();
            let now = Instant::now();
            let after = read_tsc();
            (after.wrapping_sub(before), (before / 2 + after / 2, now))
        })
        .min_by_key(|(width, _)| *width)
        .map(|(_, reading)| reading)
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn read_tsc() -> u64 {
    // SAFETY: RDTSC reads a counter and touches no memory; user mode may execute it unless CR4.TSD is set, which no
    // system that this driver supports does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_tsc() -> u64 {
    0
}

/// CPUID Fn8000_0007_EDX bit 8: the TSC runs at one rate in all power states.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn tsc_is_invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(any(not(target_arch = "x86_64"), miri))]
fn tsc_is_invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_never_go_back() {
        let clock = Clock::system();
        let mut last_ns = clock.now_ns();
        for _ in 0..10_000 {
            let now_ns = clock.now_ns();
            assert!(now_ns >= last_ns);
            last_ns = now_ns;
        }
    }

    #[test]
    fn ticks_become_nanoseconds_exactly() {
        // 2 GHz: two ticks are a nanosecond.
        let calibration = Calibration {
            base_ticks: 1000,
            multiplier: 1 << 31,
            hz: 2_000_000_000,
        };
        assert_eq!(calibration.to_ns(1000), 0);
        assert_eq!(calibration.to_ns(3000), 1000);
        assert_eq!(calibration.to_ns(999), 0, "a core that lags does not wrap");
        // A century at 2 GHz does not overflow.
        assert_eq!(
            calibration.to_ns(1000 + 6_307_200_000_000_000_000),
            3_153_600_000_000_000_000
        );
    }

    #[test]
    fn a_manual_clock_moves_when_told_and_only_forward() {
        let manual = ManualClock::new(5);
        let clock = Clock::manual(manual.clone());
        assert_eq!(clock.now_ns(), 5);
        manual.set(9);
        manual.set(7);
        assert_eq!(clock.now_ns(), 9);
    }
}
