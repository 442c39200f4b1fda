//! Whether it pays to look on for a completion instead of sleeping until its interrupt, by what commands have taken lately.

/// A completion that is late is looked for at least this long, however regular the device was: about what it costs to fall
/// asleep and to be woken.
const GRACE_NS: u64 = 50_000;

/// What commands of one queue take, as far as it has been seen: a mean that follows, and how far from it they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// 0: none has been seen.
    typical_ns: u64,
    spread_ns: u64,
}

impl Pace {
    /// A command has taken this long, from its doorbell to its completion being seen.
    #[inline]
    pub(super) fn took(&mut self, latency_ns: u64) {
        let Self {
            typical_ns,
            spread_ns,
        } = *self;
        if typical_ns == 0 {
            self.typical_ns = latency_ns.max(1);
            self.spread_ns = latency_ns / 2;
            return;
        }
        // One that took very long, such as a Flush, says little of the next one; a device that has become slower is
        // believed after a few.
        let latency_ns = latency_ns.min(typical_ns.saturating_mul(4).saturating_add(GRACE_NS));
        self.spread_ns = spread_ns - spread_ns / 4 + latency_ns.abs_diff(typical_ns) / 4;
        self.typical_ns = (typical_ns - typical_ns / 8 + latency_ns / 8).max(1);
    }

    /// Whether a command that was handed to the device at `handed_ns` is expected so soon that it pays to look for it:
    /// within `limit_ns`, or since a little while, which is no longer than that either.
    #[inline]
    pub(super) fn expects(&self, handed_ns: u64, now_ns: u64, limit_ns: u64) -> bool {
        let out_ns = now_ns.saturating_sub(handed_ns);
        if self.typical_ns == 0 {
            return out_ns < limit_ns;
        }
        match self.typical_ns.checked_sub(out_ns) {
            Some(left_ns) => left_ns <= limit_ns,
            None => {
                let late_ns = out_ns - self.typical_ns;
                late_ns < self.spread_ns.saturating_mul(4).max(GRACE_NS).min(limit_ns)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT_NS: u64 = 200_000;

    fn after(latencies_ns: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        latencies_ns.into_iter().for_each(|ns| pace.took(ns));
        pace
    }

    #[test]
    fn of_a_device_that_is_not_known_a_completion_is_looked_for_up_to_the_limit() {
        let pace = Pace::default();
        assert!(pace.expects(1000, 1000 + LIMIT_NS - 1, LIMIT_NS));
        assert!(!pace.expects(1000, 1000 + LIMIT_NS, LIMIT_NS));
    }

    #[test]
    fn a_flash_read_is_looked_for_until_it_is_late() {
        let pace = after([80_000; 50]);
        for out_ns in [0, 79_000, 80_000, 80_000 + GRACE_NS - 1000] {
            assert!(pace.expects(5, 5 + out_ns, LIMIT_NS), "{out_ns}");
        }
        for out_ns in [80_000 + GRACE_NS + 1000, 300_000, u64::MAX] {
            assert!(!pace.expects(5, out_ns.saturating_add(5), LIMIT_NS), "{out_ns}");
        }
    }

    #[test]
    fn what_is_far_away_is_slept_on_until_it_is_near() {
        let pace = after([1_000_000; 50]);
        assert!(!pace.expects(0, 0, LIMIT_NS));
        assert!(!pace.expects(0, 790_000, LIMIT_NS));
        assert!(pace.expects(0, 810_000, LIMIT_NS));
    }

    #[test]
    fn one_long_command_does_not_change_the_mind_and_a_slower_device_does() {
        let mut pace = after([80_000; 50]);
        pace.took(50_000_000);
        assert!(pace.expects(0, 0, LIMIT_NS));
        for _ in 0..20 {
            pace.took(50_000_000);
        }
        assert!(!pace.expects(0, 0, LIMIT_NS));
        for _ in 0..100 {
            pace.took(80_000);
        }
        assert!(pace.expects(0, 0, LIMIT_NS));
    }

    proptest! {
        /// However wild the device is.
        #[test]
        fn nothing_is_looked_for_longer_than_twice_the_limit(
            latencies_ns in proptest::collection::vec(any::<u64>(), 0..40),
            handed_ns in 0u64..1 << 62,
            limit_ns in 0u64..1 << 40,
        ) {
            let pace = after(latencies_ns);
            let typical_ns = pace.typical_ns;
            let looked = |out_ns: u64| pace.expects(handed_ns, handed_ns.saturating_add(out_ns), limit_ns);
            if typical_ns > limit_ns {
                prop_assert!(!looked(0));
                prop_assert!(!looked(typical_ns - limit_ns - 1));
            }
            if let Some(end_ns) = typical_ns.checked_add(limit_ns) && end_ns < 1 << 62 {
                prop_assert!(!looked(end_ns));
            }
        }
    }
}
