//! How fast a counter counts, by a clock that is not to be trusted.
//!
//! The clock may stand still for some milliseconds and then step, step back for a moment or for good, jump, or be
//! frozen. So it is looked at without a pause, and only the moments count at which it shows more than ever before (the
//! *edges*): that is when it steps, if it is a coarse one. The rate is taken over spans from edge to edge; what the
//! median of them agrees with is summed up, and if that is less than half of them, there is no rate. An edge that came
//! while this thread did not run says little of when: spans end at edges that were seen at once.

/// One look: the counter, the clock, the counter. The next look follows at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) ticks: u64,
    /// The counter again, after the clock.
    pub(super) after_ticks: u64,
    /// From any moment on; may be negative, and less than at the look before.
    pub(super) clock_ns: i64,
}

/// How long to look. Of the two limits on all the looking the first that is reached ends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// What a span is to last, by the clock, so that a look's length at either end is of no account.
    pub(super) span_ns: i64,
    pub(super) spans: usize,
    /// For a clock that is frozen or steps back so often that no span ends.
    pub(super) max_ticks: u64,
    /// For a counter that is frozen too.
    pub(super) max_looks: u64,
}

/// Spans agree when their rates are this close to the median, one part in so many.
const AGREEMENT: u128 = 100;

/// What is not known of when a span began and ended is less than one part in so many of it.
const PRECISION: u64 = 400;

/// A rate: so many ticks in so many nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) ticks: u64,
    pub(super) ns: u64,
}

impl Rate {
    /// Ticks per second.
    pub(super) fn hz(self) -> Option<u64> {
        let hz = u128::from(self.ticks) * 1_000_000_000;
        u64::try_from(hz.checked_div(self.ns.into())?).ok()
    }

    /// Of a counter that counts `hz` times a second.
    pub(super) const fn of_hz(hz: u64) -> Self {
        Self {
            ticks: hz,
            ns: 1_000_000_000,
        }
    }

    fn cmp(self, other: Self) -> std::cmp::Ordering {
        let left = u128::from(self.ticks) * u128::from(other.ns);
        left.cmp(&(u128::from(other.ticks) * u128::from(self.ns)))
    }

    /// Whether the two are within one part in [`AGREEMENT`] of each other.
    pub(super) fn agrees_with(self, other: Self) -> bool {
        let left = u128::from(self.ticks).saturating_mul(other.ns.into());
        let right = u128::from(other.ticks).saturating_mul(self.ns.into());
        left.abs_diff(right) <= right / AGREEMENT
    }
}

/// The rate of the counter, by a clock that may be bad; `None` if it does not say the same often enough.
pub(super) fn rate(mut look: impl FnMut() -> Look, plan: Plan) -> Option<Rate> {
    let first = look();
    let mut last = first;
    let mut highest_ns = first.clock_ns;
    // Where the last span ended, and within how many ticks that was; the first begins at an edge, not at any moment.
    let mut edge: Option<(Look, u64)> = None;
    let mut spans = Vec::with_capacity(plan.spans);
    for _ in 0..plan.max_looks {
        let now = look();
        let within = now.after_ticks.wrapping_sub(last.ticks);
        last = now;
        if now.ticks.wrapping_sub(first.ticks) > plan.max_ticks || spans.len() >= plan.spans {
            break;
        }
        if now.clock_ns <= highest_ns {
            continue;
        }
        highest_ns = now.clock_ns;
        let Some((begin, begin_within)) = edge else {
            edge = Some((now, within));
            continue;
        };
        let ns = now.clock_ns.saturating_sub(begin.clock_ns);
        if ns < plan.span_ns {
            continue;
        }
        let ticks = now.ticks.wrapping_sub(begin.ticks);
        if within.saturating_add(begin_within) <= ticks / PRECISION {
            let ns = ns.unsigned_abs();
            spans.push(Rate { ticks, ns });
        } else if within >= begin_within {
            // The next edge may be a better end.
            continue;
        }
        edge = Some((now, within));
    }
    spans.sort_by(|left, right| left.cmp(*right));
    let median = *spans.get(spans.len() / 2)?;
    let (mut sum, mut agreeing) = (Rate { ticks: 0, ns: 0 }, 0);
    for span in &spans {
        if span.agrees_with(median) {
            sum.ticks = sum.ticks.saturating_add(span.ticks);
            sum.ns = sum.ns.saturating_add(span.ns);
            agreeing += 1;
        }
    }
    // One span has nothing to agree with.
    (agreeing >= 3 && agreeing * 2 > spans.len() && sum.ticks > 0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        span_ns: 16_000_000,
        spans: 9,
        max_ticks: 600_000_000,
        max_looks: 1_000_000,
    };
    const TICK_NS: i64 = 4_000_000;
    /// 3 GHz.
    const HZ: u64 = 3_000_000_000;

    const fn look_at(ticks: u64, clock_ns: i64) -> Look {
        Look {
            ticks,
            after_ticks: ticks,
            clock_ns,
        }
    }

    /// A counter of 3 GHz and what `clock` shows at each of its moments; a look takes a microsecond or so.
    fn looks(mut clock: impl FnMut(i64, u64) -> i64) -> impl FnMut() -> Look {
        let (mut ns, mut count) = (1_000_u64, 0_u64);
        let mut random = fastrand::Rng::with_seed(7);
        move || {
            ns += random.u64(500..1500);
            count += 1;
            look_at(ns * 3, clock(ns as i64, count))
        }
    }

    /// Parts in a million that the rate is off by.
    fn error_ppm(rate: Option<Rate>) -> u64 {
        let hz = rate.expect("a rate").hz().expect("in range");
        hz.abs_diff(HZ) * 1_000_000 / HZ
    }

    const fn coarse(ns: i64) -> i64 {
        ns / TICK_NS * TICK_NS
    }

    #[test]
    fn a_fine_and_a_coarse_clock_give_the_rate() {
        assert!(error_ppm(rate(looks(|ns, _| ns), PLAN)) < 50);
        assert!(error_ppm(rate(looks(|ns, _| coarse(ns)), PLAN)) < 50);
        assert!(error_ppm(rate(looks(|ns, _| coarse(ns) - 5_000_000_000), PLAN)) < 50);
    }

    #[test]
    fn momentary_steps_back_are_not_taken_for_edges() {
        for every in [2, 3, 7, 1000, 3999] {
            let clock = move |ns, look: u64| {
                let back = if look.is_multiple_of(every) {
                    3 * TICK_NS
                } else {
                    0
                };
                coarse(ns) - back
            };
            let error_ppm = error_ppm(rate(looks(clock), PLAN));
            assert!(error_ppm < 50, "{every}: {error_ppm}");
        }
    }

    #[test]
    fn a_few_jumps_and_steps_back_for_good_do_not_matter() {
        let jumps = |ns| if ns > 50_000_000 { 700_000_000 } else { 0 };
        assert!(error_ppm(rate(looks(move |ns, _| coarse(ns) + jumps(ns)), PLAN)) < 50);
        let backs = |ns| if ns > 50_000_000 { 30_000_000 } else { 0 };
        assert!(error_ppm(rate(looks(move |ns, _| coarse(ns) - backs(ns)), PLAN)) < 50);
    }

    #[test]
    fn a_thread_that_runs_half_of_the_time_measures_too() {
        // Every 12 ms somebody else runs for as long, on average between two looks or in the midst of one.
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut ns, mut slice_ns) = (random.u64(1..12_000_000), 0);
            let contended = move || {
                let mut pass = |by_ns: u64| {
                    ns += by_ns;
                    slice_ns += by_ns;
                    if slice_ns > 12_000_000 {
                        ns += random.u64(9_000_000..15_000_000);
                        slice_ns = 0;
                    }
                    ns
                };
                let ticks = pass(500) * 3;
                let clock_ns = coarse(pass(200) as i64);
                let after_ticks = pass(300) * 3;
                Look {
                    ticks,
                    after_ticks,
                    clock_ns,
                }
            };
            let plan = Plan {
                max_ticks: 3_000_000_000,
                ..PLAN
            };
            let error_ppm = error_ppm(rate(contended, plan));
            assert!(error_ppm < 100, "{seed}: {error_ppm}");
        }
    }

    #[test]
    fn a_late_tick_is_evened_out() {
        // Each tick comes up to 80 us late, by chance: the whole is as good as its ends.
        let mut random = fastrand::Rng::with_seed(3);
        let (mut tick, mut late_ns) = (0, 0);
        let clock = move |ns: i64, _| {
            if ns / TICK_NS != tick {
                tick = ns / TICK_NS;
                late_ns = random.i64(0..80_000);
            }
            coarse(ns - late_ns)
        };
        assert!(error_ppm(rate(looks(clock), PLAN)) < 1000);
    }

    #[test]
    fn a_clock_that_never_says_the_same_gives_none() {
        let mut at_ns = 0;
        let mut random = fastrand::Rng::with_seed(9);
        let wild = move |_, _| {
            at_ns += random.i64(1..40_000_000) * i64::from(random.u8(0..2));
            at_ns
        };
        assert_eq!(rate(looks(wild), PLAN), None);
    }

    #[test]
    fn frozen_clocks_and_counters_end_after_a_bounded_number_of_looks() {
        let mut asked = 0_u64;
        let mut frozen = looks(|_, _| 42);
        let count = || {
            asked += 1;
            frozen()
        };
        assert_eq!(rate(count, PLAN), None);
        // 600 million ticks of 3 GHz are 200 ms, at a microsecond for each look.
        assert!((150_000..250_000).contains(&asked), "{asked}");
        let mut asked = 0;
        let dead = || {
            asked += 1;
            look_at(5, 5)
        };
        assert_eq!(rate(dead, PLAN), None);
        assert_eq!(asked, PLAN.max_looks + 1);
        // A counter that stands still under a clock that runs has no rate either.
        let mut ns = 0;
        let stuck = || {
            ns += 1_000_000;
            look_at(5, ns)
        };
        assert_eq!(rate(stuck, PLAN), None);
        // Nor has one that steps back only.
        assert_eq!(rate(looks(|ns, _| -ns), PLAN), None);
    }

    #[test]
    fn rates_agree_within_a_hundredth() {
        let of = Rate::of_hz;
        assert!(of(3_000_000_000).agrees_with(of(2_980_000_000)));
        assert!(of(2_980_000_000).agrees_with(of(3_000_000_000)));
        assert!(!of(3_000_000_000).agrees_with(of(2_900_000_000)));
        assert_eq!(of(2_500_000_000).hz(), Some(2_500_000_000));
        assert_eq!(Rate { ticks: 1, ns: 0 }.hz(), None);
    }
}
