//! Locks over ranges of bytes, without a thread that waits: whoever has to wait leaves its work here and gets
//! it back when its turn comes.
//!
//! Writes of whole blocks share (in which order overlapping ones land is nobody's promise), a
//! read-modify-write excludes every write of the blocks that it touches. First come, first served: nothing
//! overtakes what it conflicts with, so nobody starves.

use std::collections::VecDeque;
use std::ops::Range;

/// With whom a range is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With other shared ranges.
    Shared,
    /// With nobody.
    Exclusive,
}

/// What was granted, to be given to [`RangeLock::release`] once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket(usize);

/// How a claim came out.
#[derive(Debug)]
pub(crate) enum Claim<T> {
    /// Go on.
    Granted(Ticket, T),
    /// The work is kept; a later [`RangeLock::release`] hands it back.
    Waiting,
    /// Too many wait already; nothing was kept.
    Full(T),
}

#[derive(Debug)]
pub(crate) struct RangeLock<T> {
    /// Granted ranges; a free place is `None` and its index is in `free`.
    active: Vec<Option<Held>>,
    free: Vec<usize>,
    exclusive: usize,
    waiting: VecDeque<(Held, T)>,
    max_waiting: usize,
}

#[derive(Clone, Debug)]
struct Held {
    bytes: Range<u64>,
    mode: Mode,
}

impl Held {
    fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.bytes.start < other.bytes.end && other.bytes.start < self.bytes.end;
        overlap && (self.mode == Mode::Exclusive || other.mode == Mode::Exclusive)
    }
}

impl<T> RangeLock<T> {
    pub(crate) const fn new(max_waiting: usize) -> Self {
        Self {
            active: Vec::new(),
            free: Vec::new(),
            exclusive: 0,
            waiting: VecDeque::new(),
            max_waiting,
        }
    }

    /// Claims `bytes` for `work`; unless it `may_refuse` it waits however many do already.
    pub(crate) fn claim(&mut self, bytes: Range<u64>, mode: Mode, may_refuse: bool, work: T) -> Claim<T> {
        let wanted = Held { bytes, mode };
        // Usual case, without a look at the others: whole blocks, and nobody excludes anybody.
        let alone = mode == Mode::Shared && self.exclusive == 0;
        let granted = (alone || !self.active.iter().flatten().any(|held| held.conflicts(&wanted)))
            && !self.waiting.iter().any(|(earlier, _)| earlier.conflicts(&wanted));
        if granted {
            return Claim::Granted(self.grant(wanted), work);
        }
        if may_refuse && self.waiting.len() >= self.max_waiting {
            return Claim::Full(work);
        }
        self.waiting.push_back((wanted, work));
        Claim::Waiting
    }

    /// Gives a range back; what may go on now is pushed to `ready`, in the order in which it came.
    pub(crate) fn release(&mut self, ticket: Ticket, ready: &mut VecDeque<(Ticket, T)>) {
        let Some(held) = self.active.get_mut(ticket.0).and_then(Option::take) else {
            return;
        };
        self.free.push(ticket.0);
        if held.mode == Mode::Exclusive {
            self.exclusive -= 1;
        }
        // What waits still keeps back what came later and conflicts with it.
        let mut still: VecDeque<(Held, T)> = VecDeque::new();
        for (wanted, work) in std::mem::take(&mut self.waiting) {
            let blocked = self.active.iter().flatten().any(|held| held.conflicts(&wanted))
                || still.iter().any(|(earlier, _)| earlier.conflicts(&wanted));
            if blocked {
                still.push_back((wanted, work));
            } else {
                ready.push_back((self.grant(wanted), work));
            }
        }
        self.waiting = still;
    }

    fn grant(&mut self, held: Held) -> Ticket {
        if held.mode == Mode::Exclusive {
            self.exclusive += 1;
        }
        match self.free.pop() {
            Some(index) => {
                if let Some(place) = self.active.get_mut(index) {
                    *place = Some(held);
                }
                Ticket(index)
            }
            None => {
                self.active.push(Some(held));
                Ticket(self.active.len() - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn released(lock: &mut RangeLock<u32>, ticket: Ticket) -> Vec<(Ticket, u32)> {
        let mut ready = VecDeque::new();
        lock.release(ticket, &mut ready);
        ready.into()
    }

    fn granted(claim: Claim<u32>) -> Ticket {
        match claim {
            Claim::Granted(ticket, _) => ticket,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[test]
    fn shared_ranges_overlap_and_an_exclusive_one_waits_for_all_of_them() {
        let mut lock = RangeLock::new(8);
        let first = granted(lock.claim(0..8192, Mode::Shared, true, 1));
        let second = granted(lock.claim(4096..12288, Mode::Shared, true, 2));
        assert!(matches!(
            lock.claim(4096..8192, Mode::Exclusive, true, 3),
            Claim::Waiting
        ));
        assert_eq!(released(&mut lock, first), []);
        let ready = released(&mut lock, second);
        assert_eq!(ready.iter().map(|(_, work)| *work).collect::<Vec<_>>(), [3]);
        // Neighbours do not touch.
        granted(lock.claim(0..4096, Mode::Exclusive, true, 4));
        granted(lock.claim(8192..8193, Mode::Shared, true, 5));
    }

    #[test]
    fn nothing_overtakes_what_it_conflicts_with() {
        let mut lock = RangeLock::new(8);
        let first = granted(lock.claim(0..10, Mode::Shared, true, 1));
        assert!(matches!(
            lock.claim(5..15, Mode::Exclusive, true, 2),
            Claim::Waiting
        ));
        // Shares with 1, but 2 came before.
        assert!(matches!(lock.claim(8..10, Mode::Shared, true, 3), Claim::Waiting));
        // Shares with everything.
        granted(lock.claim(0..5, Mode::Shared, true, 4));
        let ready = released(&mut lock, first);
        assert_eq!(ready.len(), 1, "3 still waits for 2");
        let ready = ready.into_iter().next().map(|(ticket, work)| {
            assert_eq!(work, 2);
            released(&mut lock, ticket)
        });
        assert_eq!(
            ready.map(|ready| ready.iter().map(|(_, work)| *work).collect()),
            Some(vec![3])
        );
    }

    #[test]
    fn a_full_queue_gives_the_work_back() {
        let mut lock = RangeLock::new(1);
        granted(lock.claim(0..10, Mode::Exclusive, true, 1));
        assert!(matches!(
            lock.claim(0..10, Mode::Exclusive, true, 2),
            Claim::Waiting
        ));
        assert!(matches!(
            lock.claim(0..10, Mode::Exclusive, true, 3),
            Claim::Full(3)
        ));
        assert!(matches!(
            lock.claim(0..10, Mode::Exclusive, false, 3),
            Claim::Waiting
        ));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim { start: u64, len: u64, exclusive: bool },
        Release { which: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..40, 1_u64..12, any::<bool>()).prop_map(|(start, len, exclusive)| Step::Claim {
                start,
                len,
                exclusive
            }),
            (0_usize..16).prop_map(|which| Step::Release { which }),
        ]
    }

    proptest! {
        /// Holders never conflict, and conflicting claims are granted in the order in which they were made.
        #[test]
        fn exclusive_and_in_order(steps in prop::collection::vec(step(), 1..80)) {
            let mut lock = RangeLock::new(usize::MAX);
            let mut claims: Vec<Held> = Vec::new();
            let mut holders: Vec<(Ticket, usize)> = Vec::new();
            let mut granted = Vec::new();
            let drain = (0..200).map(|_| Step::Release { which: 0 });
            for step in steps.into_iter().chain(drain) {
                let mut ready = VecDeque::new();
                match step {
                    Step::Claim { start, len, exclusive } => {
                        let mode = if exclusive { Mode::Exclusive } else { Mode::Shared };
                        let bytes = start..start + len;
                        if let Claim::Granted(ticket, index) = lock.claim(bytes.clone(), mode, true, claims.len()) {
                            ready.push_back((ticket, index));
                        }
                        claims.push(Held { bytes, mode });
                    }
                    Step::Release { which } if !holders.is_empty() => {
                        let (ticket, _) = holders.remove(which % holders.len());
                        lock.release(ticket, &mut ready);
                    }
                    Step::Release { .. } => {}
                }
                for (ticket, index) in ready {
                    for (_, other) in &holders {
                        prop_assert!(!claims[index].conflicts(&claims[*other]));
                    }
                    holders.push((ticket, index));
                    granted.push(index);
                }
            }
            // Everybody had a turn.
            prop_assert_eq!(granted.len(), claims.len());
            for (position, later) in granted.iter().enumerate() {
                for earlier in &granted[position + 1..] {
                    prop_assert!(earlier > later || !claims[*earlier].conflicts(&claims[*later]));
                }
            }
        }
    }
}
