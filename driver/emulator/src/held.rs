//! Commands that were fetched and do not complete yet: because of the latency model, because a fault says so, or
//! because they wait for something to happen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nvme_spec::SubmissionEntry;

use crate::fault::Action;

/// A command on its way through the device.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub entry: SubmissionEntry,
    /// The submission queue it came from.
    pub qid: u16,
    /// Where that queue probably is among the engine's.
    pub sq_hint: usize,
    /// What is to go wrong with it. Boxed: nearly always there is nothing.
    pub fault: Option<Box<Action>>,
}

#[derive(Debug)]
struct Slot {
    command: Command,
    /// Tells this command from earlier ones in the same slot, and orders commands that are due at the same time.
    sequence: u64,
    /// False if it does not count against the commands its queue may have in flight.
    counted: bool,
}

/// Names a command that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldId {
    slot: u32,
    sequence: u64,
}

/// The commands held, each in a slot, some with a time at which they are due.
#[derive(Debug, Default)]
pub(crate) struct Held {
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    due: BinaryHeap<Reverse<(u64, u64, u32)>>,
    next_sequence: u64,
}

impl Held {
    /// Holds `command` until `due_ns`, or until it is taken out if that is None. `counted` is given back when it leaves.
    pub fn hold(&mut self, command: Command, due_ns: Option<u64>, counted: bool) -> HeldId {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let held = Some(Slot {
            command,
            sequence,
            counted,
        });
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(None);
                // A queue holds at most 65,536 commands, each with a command identifier of its own.
                (self.slots.len() - 1) as u32
            }
        };
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = held;
        }
        if let Some(due_ns) = due_ns {
            self.due.push(Reverse((due_ns, sequence, slot)));
            self.forget_stale();
        }
        HeldId { slot, sequence }
    }

    /// Makes a command due at `due_ns`, if it is still held; an earlier time given before stands.
    pub fn release(&mut self, id: HeldId, due_ns: u64) {
        if self.sequence(id.slot) == Some(id.sequence) {
            self.due.push(Reverse((due_ns, id.sequence, id.slot)));
        }
    }

    /// Takes out the next command that is due at `now_ns`, in order of time; with it whether it was counted.
    #[inline]
    pub fn pop_due(&mut self, now_ns: u64) -> Option<(Command, bool)> {
        while let Some(Reverse((due_ns, sequence, slot))) = self.due.peek().copied() {
            if due_ns > now_ns {
                return None;
            }
            self.due.pop();
            if self.sequence(slot) == Some(sequence) {
                return self.take_slot(slot);
            }
        }
        None
    }

    /// When the next command is due.
    pub fn next_due_ns(&mut self) -> Option<u64> {
        while let Some(Reverse((due_ns, sequence, slot))) = self.due.peek().copied() {
            if self.sequence(slot) == Some(sequence) {
                return Some(due_ns);
            }
            self.due.pop();
        }
        None
    }

    /// Takes out the command `cid` of submission queue `qid`; with it whether it was counted. A walk through all: for
    /// Abort, not for every command.
    pub fn take(&mut self, qid: u16, cid: u16) -> Option<(Command, bool)> {
        let is_it = |held: &Slot| held.command.qid == qid && held.command.entry.cid == cid;
        let slot = self
            .slots
            .iter()
            .position(|slot| slot.as_ref().is_some_and(is_it))?;
        self.take_slot(slot as u32)
    }

    fn take_slot(&mut self, slot: u32) -> Option<(Command, bool)> {
        let held = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some((held.command, held.counted))
    }

    /// Takes out everything of submission queue `qid`, in the order it was fetched.
    pub fn drain(&mut self, qid: u16) -> Vec<(Command, bool)> {
        let mut slots: Vec<(u64, u32)> = (0u32..)
            .zip(&self.slots)
            .filter_map(|(index, slot)| {
                slot.as_ref()
                    .filter(|held| held.command.qid == qid)
                    .map(|held| (held.sequence, index))
            })
            .collect();
        slots.sort_unstable();
        slots
            .into_iter()
            .filter_map(|(_, slot)| self.take_slot(slot))
            .collect()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Times of commands that were taken out before stay in the heap until they pass; a host that aborts and submits for
    /// ever must not make it grow for ever.
    fn forget_stale(&mut self) {
        if self.due.len() <= 2 * self.slots.len() + 64 {
            return;
        }
        let slots = &self.slots;
        self.due.retain(|Reverse((_, sequence, slot))| {
            slots
                .get(*slot as usize)
                .and_then(Option::as_ref)
                .is_some_and(|held| held.sequence == *sequence)
        });
    }

    fn sequence(&self, slot: u32) -> Option<u64> {
        self.slots.get(slot as usize)?.as_ref().map(|held| held.sequence)
    }
}

/// The command identifiers of one submission queue that are held. Costs nothing until the first is.
#[derive(Debug, Default)]
pub(crate) struct CidSet {
    words: Vec<u64>,
}

impl CidSet {
    #[inline]
    pub fn contains(&self, cid: u16) -> bool {
        self.words
            .get(usize::from(cid) / 64)
            .is_some_and(|word| word >> (cid % 64) & 1 != 0)
    }

    pub fn insert(&mut self, cid: u16) {
        if self.words.is_empty() {
            self.words = vec![0; 65_536 / 64];
        }
        if let Some(word) = self.words.get_mut(usize::from(cid) / 64) {
            *word |= 1 << (cid % 64);
        }
    }

    /// True if it was in the set.
    #[inline]
    pub fn remove(&mut self, cid: u16) -> bool {
        let Some(word) = self.words.get_mut(usize::from(cid) / 64) else {
            return false;
        };
        let was = *word >> (cid % 64) & 1 != 0;
        *word &= !(1 << (cid % 64));
        was
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn command(qid: u16, cid: u16) -> Command {
        Command {
            entry: SubmissionEntry {
                cid,
                ..Default::default()
            },
            qid,
            sq_hint: 0,
            fault: None,
        }
    }

    fn due_cids(held: &mut Held, now_ns: u64) -> Vec<u16> {
        std::iter::from_fn(|| held.pop_due(now_ns))
            .map(|(command, _)| command.entry.cid)
            .collect()
    }

    #[test]
    fn comes_out_by_time_and_then_by_arrival() {
        let mut held = Held::default();
        held.hold(command(1, 1), Some(30), true);
        held.hold(command(1, 2), Some(10), true);
        held.hold(command(1, 3), Some(10), true);
        held.hold(command(1, 4), None, true);
        assert_eq!(due_cids(&mut held, 9), []);
        assert_eq!(held.next_due_ns(), Some(10));
        assert_eq!(due_cids(&mut held, 29), [2, 3]);
        assert_eq!(due_cids(&mut held, u64::MAX), [1]);
        assert!(!held.is_empty(), "one is held without a time");
    }

    #[test]
    fn a_slot_used_again_does_not_inherit_the_old_time() {
        let mut held = Held::default();
        let first = held.hold(command(1, 1), Some(10), true);
        assert!(held.take(2, 1).is_none() && held.take(1, 1).is_some() && held.take(1, 1).is_none());
        let second = held.hold(command(1, 2), Some(50), true);
        assert_eq!(first.slot, second.slot);
        held.release(first, 0);
        assert_eq!(held.next_due_ns(), Some(50));
        assert_eq!(due_cids(&mut held, 49), []);
        assert_eq!(due_cids(&mut held, 50), [2]);
        assert!(held.is_empty());
    }

    #[test]
    fn times_of_commands_that_are_gone_do_not_pile_up() {
        let mut held = Held::default();
        for cid in 0..10_000 {
            held.hold(command(1, cid), Some(1_000_000), true);
            assert!(held.take(1, cid).is_some());
        }
        assert!(held.due.len() < 100);
        assert_eq!(held.next_due_ns(), None);
    }

    #[test]
    fn drains_one_queue_in_order() {
        let mut held = Held::default();
        held.hold(command(1, 1), Some(30), true);
        held.hold(command(2, 2), Some(10), true);
        held.hold(command(1, 3), None, false);
        let drained: Vec<_> = held
            .drain(1)
            .into_iter()
            .map(|(command, counted)| (command.entry.cid, counted))
            .collect();
        assert_eq!(drained, [(1, true), (3, false)]);
        assert_eq!(due_cids(&mut held, 100), [2]);
    }

    #[test]
    fn release_makes_due_once() {
        let mut held = Held::default();
        let id = held.hold(command(1, 1), Some(100), true);
        held.release(id, 5);
        assert_eq!(due_cids(&mut held, 5), [1]);
        assert_eq!(due_cids(&mut held, 100), []);
    }

    proptest! {
        #[test]
        fn cid_set_is_a_set(changes in proptest::collection::vec((any::<bool>(), 0u16..300), 0..200)) {
            let (mut set, mut model) = (CidSet::default(), std::collections::BTreeSet::new());
            for (insert, cid) in changes {
                if insert {
                    set.insert(cid);
                    model.insert(cid);
                } else {
                    prop_assert_eq!(set.remove(cid), model.remove(&cid));
                }
            }
            for cid in 0..300 {
                prop_assert_eq!(set.contains(cid), model.contains(&cid));
            }
        }
    }
}
