//! The driver's only clock: monotonic nanoseconds, cheap enough for the data path.
//!
//! On x86-64 with an invariant TSC, or where Linux itself goes by the TSC, a reading is one `rdtsc` and one multiplication (about 12 ns on the machines this
//! was measured on, against 33 ns for [`Instant::now`]). Elsewhere it is [`Instant`]. The core never reads a clock
//! by itself: whoever turns it hands a [`Clock`] or a reading in, so a test may hand in a [`ManualClock`].
//!
//! On Redox the system's clock may step by milliseconds and was seen to step back, so there:
//!
//! - the TSC is measured for longer, about 150 ms, against the moments at which that clock steps;
//! - if that gives no rate, since the clock is frozen or says something else each time, the rate is what CPUID tells,
//!   or else 2 GHz: times in statistics are then off by a factor, but time goes on, and with it each timeout;
//! - a TSC that is not said to be invariant is taken under a hypervisor, whose TSC goes by the host's, but not
//!   elsewhere; then the clock is the system's, kept from going back.

#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

#[cfg(any(target_os = "redox", test))]
mod calibration;

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

/// For a clock that may be bad: nine spans of four ticks each, of which three will do.
#[cfg(any(target_os = "redox", test))]
const PATIENT: calibration::Plan = calibration::Plan {
    span_ns: 16_000_000,
    spans: 9,
    max_ticks: 1_000_000_000,
    max_looks: 4_000_000,
};

/// How fast the TSC is taken to be if nothing tells.
#[cfg(any(target_os = "redox", test))]
const ASSUMED_HZ: u64 = 2_000_000_000;

/// How long the TSC is held against [`Instant`] once per process. Two bracketed readings bound the error of each
/// end to the width of a bracket (tens of nanoseconds), so 5 ms give a rate good to about 20 parts in a million.
#[cfg(any(not(target_os = "redox"), test))]
const CALIBRATION_NS: u64 = 5_000_000;

impl Clock {
    /// The best clock of this machine. The first call in a process takes 5 ms to calibrate the TSC; on Redox 150 ms, or
    /// where the system's clock is of no use some 300 ms.
    pub fn system() -> Self {
        static TSC: OnceLock<Option<Calibration>> = OnceLock::new();
        static START: OnceLock<Instant> = OnceLock::new();
        match TSC.get_or_init(Calibration::of_system) {
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
            Source::Instant(start) => since(*start),
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

/// Nanoseconds since `start`. Everywhere but on Redox `Instant` keeps its promise by itself.
#[inline]
fn since(start: Instant) -> u64 {
    static HIGHEST_NS: AtomicU64 = AtomicU64::new(0);
    let elapsed_ns = start.elapsed().as_nanos() as u64;
    if cfg!(target_os = "redox") {
        never_less(elapsed_ns, &HIGHEST_NS)
    } else {
        elapsed_ns
    }
}

/// `now_ns`, or the highest there has been.
fn never_less(now_ns: u64, highest_ns: &AtomicU64) -> u64 {
    highest_ns.fetch_max(now_ns, Ordering::Relaxed).max(now_ns)
}

impl Calibration {
    #[cfg(not(target_os = "redox"))]
    fn of_system() -> Option<Self> {
        Self::measure()
    }

    #[cfg(target_os = "redox")]
    fn of_system() -> Option<Self> {
        if !tsc_is_invariant() && !is_under_hypervisor() {
            log::warn!(
                "the TSC is not invariant, so time is the system's, which may step by milliseconds: latencies in \
                 the statistics are not to be relied on"
            );
            return None;
        }
        Self::from_rate(read_tsc(), choose(patient_rate(), told_hz()))
    }

    #[cfg(any(target_os = "redox", test))]
    fn from_rate(base_ticks: u64, rate: calibration::Rate) -> Option<Self> {
        let hz = rate.hz()?;
        let multiplier = (u128::from(rate.ns) << 32).checked_div(rate.ticks.into())?;
        let multiplier = u64::try_from(multiplier)
            .ok()
            .filter(|multiplier| *multiplier > 0)?;
        Some(Self {
            base_ticks,
            multiplier,
            hz,
        })
    }

    #[cfg(any(not(target_os = "redox"), test))]
    fn measure() -> Option<Self> {
        if !tsc_is_invariant() && !system_goes_by_tsc() {
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

/// The rate of the TSC by the system's clock, however bad.
#[cfg(any(target_os = "redox", test))]
fn patient_rate() -> Option<calibration::Rate> {
    let start = Instant::now();
    let signed_ns = |duration: std::time::Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    let look = || {
        let ticks = read_tsc();
        let now = Instant::now();
        let after_ticks = read_tsc();
        let clock_ns = match now.checked_duration_since(start) {
            Some(since) => signed_ns(since),
            None => -signed_ns(start.saturating_duration_since(now)),
        };
        calibration::Look {
            ticks,
            after_ticks,
            clock_ns,
        }
    };
    calibration::rate(look, PATIENT)
}

/// The rate to go by: what was measured; else what the CPU tells; else a guess.
#[cfg(any(target_os = "redox", test))]
fn choose(measured: Option<calibration::Rate>, told_hz: Option<u64>) -> calibration::Rate {
    use calibration::Rate;
    match (measured, told_hz) {
        (Some(measured), told_hz) => {
            // A hypervisor may scale the TSC and still show the host's figure, so that the other is no better.
            if let Some(told_hz) = told_hz.filter(|told_hz| !measured.agrees_with(Rate::of_hz(*told_hz))) {
                log::warn!(
                    "the TSC runs at {:?} Hz by the system's clock and at {told_hz} Hz by CPUID; going by the clock",
                    measured.hz()
                );
            }
            measured
        }
        (None, Some(told_hz)) => {
            log::warn!(
                "the system's clock is too bad to measure by; the TSC runs at {told_hz} Hz, says CPUID"
            );
            Rate::of_hz(told_hz)
        }
        (None, None) => {
            log::warn!(
                "the system's clock is too bad to measure the TSC by, and CPUID does not tell its rate; taking it for \
                 {ASSUMED_HZ} Hz, so timeouts and all times in the statistics may be off by a factor"
            );
            Rate::of_hz(ASSUMED_HZ)
        }
    }
}

/// A TSC reading and the [`Instant`] next to it: of several tries the one whose bracket was the narrowest.
#[cfg(any(not(target_os = "redox"), test))]
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

/// Whether the system's own clock is the TSC: in many virtual machines CPUID does not call it invariant, but the kernel has
/// found nothing wrong with it, stops it in no power state, and keeps looking.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
fn system_goes_by_tsc() -> bool {
    let name = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    name.is_ok_and(|name| name.trim_end() == "tsc")
}

#[cfg(any(not(target_arch = "x86_64"), not(target_os = "linux"), miri))]
#[cfg_attr(target_os = "redox", allow(dead_code))]
fn system_goes_by_tsc() -> bool {
    false
}

/// CPUID Fn0000_0001_ECX bit 31: a hypervisor says that it is one.
#[cfg(all(target_arch = "x86_64", target_os = "redox"))]
fn is_under_hypervisor() -> bool {
    core::arch::x86_64::__cpuid(1).ecx & (1 << 31) != 0
}

#[cfg(all(not(target_arch = "x86_64"), target_os = "redox"))]
fn is_under_hypervisor() -> bool {
    false
}

/// The TSC's rate as CPUID tells it: Fn0000_0015 (the crystal's rate and a ratio), or else Fn0000_0016 (the base
/// frequency, which is the TSC's on the CPUs that have it).
#[cfg(all(target_arch = "x86_64", target_os = "redox"))]
fn told_hz() -> Option<u64> {
    use core::arch::x86_64::__cpuid;
    let highest = __cpuid(0).eax;
    let leaf = |number| {
        (highest >= number).then(|| {
            let leaf = __cpuid(number);
            [leaf.eax, leaf.ebx, leaf.ecx]
        })
    };
    hz_of_leaves(leaf(0x15), leaf(0x16))
}

#[cfg(all(not(target_arch = "x86_64"), target_os = "redox"))]
fn told_hz() -> Option<u64> {
    None
}

/// The TSC's rate from EAX, EBX and ECX of the two leaves.
#[cfg(any(target_os = "redox", test))]
fn hz_of_leaves(crystal: Option<[u32; 3]>, base: Option<[u32; 3]>) -> Option<u64> {
    let of_crystal = crystal.and_then(|[denominator, numerator, crystal_hz]| {
        (u64::from(crystal_hz) * u64::from(numerator)).checked_div(denominator.into())
    });
    let of_base = base.map(|[base_mhz, _, _]| u64::from(base_mhz & 0xFFFF) * 1_000_000);
    [of_crystal, of_base].into_iter().flatten().find(|hz| *hz > 0)
}

#[cfg(test)]
mod tests {
    use super::calibration::Rate;
    use super::*;

    #[test]
    fn what_was_measured_goes_before_what_is_told_and_that_before_a_guess() {
        let of = Rate::of_hz;
        assert_eq!(
            choose(Some(of(3_000_000_000)), Some(2_000_000_000)),
            of(3_000_000_000)
        );
        assert_eq!(choose(Some(of(3_000_000_000)), None), of(3_000_000_000));
        assert_eq!(choose(None, Some(2_400_000_000)), of(2_400_000_000));
        assert_eq!(choose(None, None), of(ASSUMED_HZ));
        let calibration = Calibration::from_rate(7, choose(None, None)).expect("a rate");
        assert_eq!(
            (calibration.to_ns(2_000_000_007), calibration.hz),
            (1_000_000_000, ASSUMED_HZ)
        );
        assert!(Calibration::from_rate(0, Rate { ticks: 0, ns: 1 }).is_none());
        assert!(Calibration::from_rate(0, Rate { ticks: 1, ns: 0 }).is_none());
    }

    #[test]
    fn cpuid_tells_the_rate_by_the_crystal_or_the_base_frequency() {
        let crystal = Some([2, 216, 24_000_000]);
        assert_eq!(
            hz_of_leaves(crystal, Some([2600, 4000, 100])),
            Some(2_592_000_000)
        );
        assert_eq!(
            hz_of_leaves(Some([2, 216, 0]), Some([2600, 4000, 100])),
            Some(2_600_000_000)
        );
        assert_eq!(hz_of_leaves(Some([0, 216, 24_000_000]), None), None);
        assert_eq!(hz_of_leaves(Some([0; 3]), Some([0; 3])), None);
        assert_eq!(hz_of_leaves(None, None), None);
        assert_eq!(
            hz_of_leaves(Some([1, u32::MAX, u32::MAX]), None),
            Some(u64::from(u32::MAX).pow(2))
        );
    }

    #[test]
    fn the_patient_way_measures_what_the_quick_way_measures() {
        let Some(quick) = Calibration::measure() else {
            return;
        };
        // Another program may take the CPU just when it matters; not every time.
        let agrees = (0..10).any(|_| {
            let rate = patient_rate();
            rate.is_some_and(|rate| rate.agrees_with(Rate::of_hz(quick.hz)))
        });
        assert!(agrees, "{} Hz", quick.hz);
    }

    #[test]
    fn a_clock_that_steps_back_is_kept_from_it() {
        let highest_ns = AtomicU64::new(0);
        let shown: Vec<_> = [5, 9, 7, 8, 12, 0]
            .map(|now_ns| never_less(now_ns, &highest_ns))
            .into();
        assert_eq!(shown, [5, 9, 9, 9, 12, 12]);
    }

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
