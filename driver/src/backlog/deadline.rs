//! Earliest deadline first; at equal deadlines reads before all else, then in order of arrival.
//!
//! **Promise.** A request waits for none that came after its own deadline, since those have later ones, unless they are merged into
//! one that it waits for. So nobody waits for ever, also when the device cannot keep up: then all are late, in the same order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Requests by place in the backlog.
pub(super) struct EarliestDeadline {
    /// Deadline, whether it is not a read, number and place, smallest first; also of requests that have been taken out.
    heap: BinaryHeap<Reverse<(u64, bool, u64, u32)>>,
    /// Of each place, the number of the request that is there; 0 if there is none.
    numbers: Box<[u64]>,
    requests: u64,
}

impl EarliestDeadline {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(2 * capacity),
            numbers: vec![0; capacity].into(),
            requests: 0,
        }
    }

    #[inline]
    pub(super) fn push(&mut self, place: u32, deadline_ns: u64, is_read: bool) {
        if self.heap.len() == 2 * self.numbers.len() {
            self.forget_taken();
        }
        self.requests += 1;
        if let Some(number) = self.numbers.get_mut(place as usize) {
            *number = self.requests;
        }
        self.heap
            .push(Reverse((deadline_ns, !is_read, self.requests, place)));
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        loop {
            let Reverse((_, _, number, place)) = self.heap.pop()?;
            if let Some(there) = self.numbers.get_mut(place as usize)
                && *there == number
            {
                *there = 0;
                return Some(place);
            }
        }
    }

    /// Takes the request in `place` out, whose turn it is not.
    pub(super) fn take(&mut self, place: u32) {
        if let Some(number) = self.numbers.get_mut(place as usize) {
            *number = 0;
        }
    }

    /// Half of what is there at least, so that it costs each request as good as nothing.
    #[cold]
    fn forget_taken(&mut self) {
        let numbers = &self.numbers;
        self.heap
            .retain(|Reverse((_, _, number, place))| numbers.get(*place as usize) == Some(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many are taken out before their turn comes, with whatever deadlines.
    #[test]
    fn what_was_taken_out_does_not_pile_up() {
        let mut earliest = EarliestDeadline::new(8);
        let room = earliest.heap.capacity();
        for number in 0..1000 {
            let place = number % 8;
            earliest.push(place, u64::MAX - u64::from(number), true);
            if number % 8 != 0 {
                earliest.take(place);
            } else {
                assert_eq!(earliest.pop(), Some(place));
            }
        }
        assert_eq!(earliest.pop(), None);
        assert_eq!(earliest.heap.capacity(), room);
    }
}
