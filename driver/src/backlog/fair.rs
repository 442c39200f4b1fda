//! Fair over clients: start-time fair queueing, a round robin whose turns are weighed in bytes.
//!
//! Each request bears the place in a common account at which it starts, which is where its client's last request ended
//! or where the account is now, whichever is further; the smallest start is next, and the account moves to it. Bytes and not
//! requests are shared, since a request of 1 MiB keeps a device as busy as hundreds of 4 KiB; one of less than
//! 4 KiB, or without data, costs 4 KiB. Against deficit round robin this needs no quantum, which would have to be as large
//! as the largest request, and so a client that has just come waits for less.
//!
//! **Promise.** While two clients both have requests waiting, the bytes that each is given differ by no more than the
//! largest request of the one and the largest of the other. Hence whoever has one request at a time waits for one of each
//! other client, and for no more of their bytes than its own last one had.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Requests of one class, by place in the backlog.
pub(super) struct Fair {
    /// Start, number and place, smallest first. The number keeps a client's requests in order.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    requests: u64,
    account: u64,
}

impl Fair {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            heap: BinaryHeap::with_capacity(capacity),
            requests: 0,
            account: 0,
        }
    }

    /// `charged` is up to where the request's client has been charged.
    #[inline]
    pub(super) fn push(&mut self, place: u32, charged: Option<&mut u64>, cost_bytes: u64) {
        let start = charged.map_or(self.account, |charged| {
            let start = self.account.max(*charged);
            *charged = start.saturating_add(cost_bytes);
            start
        });
        self.requests += 1;
        self.heap.push(Reverse((start, self.requests, place)));
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<u32> {
        let Reverse((start, _, place)) = self.heap.pop()?;
        self.account = self.account.max(start);
        Some(place)
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}
