//! Four classes: urgent before all others, and those by weight. Within a class clients are treated fairly.
//!
//! The weights are of requests, as those of the specification's weighted round robin are of commands (NVMe Base 2.0,
//! section 3.4.4.2), but the classes' turns are spread evenly and not taken in bursts.
//!
//! **Promise.** Nobody waits for ever. Of [`URGENT_RUN`] + 1 requests in a row that are given out while one that is not
//! urgent waits, one is not urgent. And between two turns of a class that has requests waiting, each other class but urgent
//! has at most its weight divided by that class's, rounded up, plus one. `longest_wait` puts the two together.

use super::fair::Fair;
use crate::config::Weights;
use crate::io_scheduler::Priority;

/// Urgent requests given out in a row while others wait.
pub(crate) const URGENT_RUN: u32 = 32;
/// What a turn advances a class of weight 1 by.
const STRIDE: u64 = 1 << 24;
/// Where passes begin anew, far from the end of their range: there all classes would be level for good.
const MOST_PASS: u64 = 1 << 63;
/// Classes that share by weight.
const SHARING: usize = 3;

pub(super) struct Classes {
    urgent: Fair,
    /// High, medium and low.
    sharing: [Share; SHARING],
    /// Where the class is whose turn was last.
    pass: u64,
    /// Urgent requests given out since one of the others was, or since none of them waited.
    run: u32,
}

struct Share {
    requests: Fair,
    /// How far it has come: the class that is least far is next.
    pass: u64,
    stride: u64,
}

impl Classes {
    pub(super) fn new(weights: Weights, capacity: usize) -> Self {
        let share = |weight: u16| Share {
            requests: Fair::new(capacity),
            pass: 0,
            stride: STRIDE / u64::from(weight.max(1)),
        };
        Self {
            urgent: Fair::new(capacity),
            sharing: [share(weights.high), share(weights.medium), share(weights.low)],
            pass: 0,
            run: 0,
        }
    }

    #[inline]
    pub(super) fn push(
        &mut self,
        place: u32,
        priority: Priority,
        charged: Option<&mut u64>,
        cost_bytes: u64,
    ) {
        let [high, medium, low] = &mut self.sharing;
        let share = match priority {
            Priority::Urgent => return self.urgent.push(place, charged, cost_bytes),
            Priority::High => high,
            Priority::Medium => medium,
            Priority::Low => low,
        };
        if share.requests.is_empty() {
            // No claim to turns that it had no need of.
            share.pass = share.pass.max(self.pass);
        }
        share.requests.push(place, charged, cost_bytes);
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        let next = self
            .sharing
            .iter_mut()
            .filter(|share| !share.requests.is_empty())
            .min_by_key(|share| share.pass);
        let Some(share) = next else {
            self.run = 0;
            return self.urgent.pop();
        };
        if !self.urgent.is_empty() && self.run < URGENT_RUN {
            self.run += 1;
            return self.urgent.pop();
        }
        self.run = 0;
        self.pass = share.pass;
        share.pass = share.pass.saturating_add(share.stride);
        let place = share.requests.pop();
        if self.pass > MOST_PASS {
            self.begin_anew();
        }
        place
    }

    /// Only the distances between the passes count. A class that is behind with nothing waiting has no claim to be.
    #[cold]
    fn begin_anew(&mut self) {
        for share in &mut self.sharing {
            share.pass = share.pass.saturating_sub(self.pass);
        }
        self.pass = 0;
    }
}

/// How many requests at most are given out between two of the class `priority` while it has some waiting.
#[cfg(test)]
pub(crate) fn longest_wait(weights: Weights, priority: Priority) -> u32 {
    let all = [
        (Priority::High, weights.high),
        (Priority::Medium, weights.medium),
        (Priority::Low, weights.low),
    ];
    let own = all.iter().find(|(class, _)| *class == priority);
    let Some((_, own)) = own else { return 1 };
    let others = all.iter().filter(|(class, _)| *class != priority);
    let sharing: u32 = others
        .map(|(_, weight)| u32::from(weight.div_ceil(*own)) + 1)
        .sum();
    // A run of urgent ones before each of them, and before the class's own.
    sharing + (sharing + 1) * URGENT_RUN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_hold_at_the_end_of_the_range() {
        let mut classes = Classes::new(Weights::default(), 4096);
        let end = u64::MAX - 4 * STRIDE;
        classes.pass = end;
        for share in &mut classes.sharing {
            share.pass = end;
        }
        for place in 0..2000 {
            classes.push(place, Priority::High, None, 4096);
            classes.push(2000 + place, Priority::Low, None, 4096);
        }
        let low = (0..1700).filter(|_| classes.pop().unwrap() >= 2000).count();
        assert!(
            (99..=101).contains(&low),
            "{low} of 1700 are low at weights of 16 to 1"
        );
    }
}
