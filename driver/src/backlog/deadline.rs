//! Earliest deadline first; at equal deadlines reads before all else, then in order of arrival.
//!
//! **Promise.** A request waits for none that came after its own deadline, since those have later ones. So nobody waits for
//! ever, also when the device cannot keep up: then all are late, in the same order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Requests by place in the backlog.
pub(super) struct EarliestDeadline {
    /// Deadline, whether it is not a read, number and place, smallest first.
    heap: BinaryHeap<Reverse<(u64, bool, u64, u32)>>,
    requests: u64,
}

impl EarliestDeadline {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(capacity),
            requests: 0,
        }
    }

    #[inline]
    pub(super) fn push(&mut self, place: u32, deadline_ns: u64, is_read: bool) {
        self.requests += 1;
        self.heap
            .push(Reverse((deadline_ns, !is_read, self.requests, place)));
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        self.heap.pop().map(|Reverse((_, _, _, place))| place)
    }
}
