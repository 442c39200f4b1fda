//! Faults: what the device is to do wrong, to which command, and how often.
//!
//! A [`Fault`] picks commands by their queue and by the 64 bytes of the submission entry under a mask, and says what is
//! done to them ([`Action`]). [`Faults`] holds those in force. With none, a command costs one relaxed load. Chance
//! ([`Fault::one_in`]) comes from a seeded generator per fault, so the same commands in the same order meet the same
//! faults again.

use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};

use nvme_spec::{AdminOpcode, NvmOpcode, Status, SubmissionEntry};
use zerocopy::IntoBytes;

/// What happens to a command that a fault has picked. A command meets one action at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Not executed; completes with this status. A success here is a command that claims to have been done.
    Fail(Status),
    /// Not executed, and no completion: it stays out until it is aborted, its queue is deleted or the controller reset.
    Drop,
    /// Executed, but its completion is lost.
    DropCompletion,
    /// Executed; the completion is posted this much later.
    Delay {
        /// Added to the time it would have been due, in nanoseconds.
        ns: u64,
    },
    /// Executed; the completion is held back until the next completion of the same submission queue went out, or for 1 ms
    /// if none does.
    Reorder,
    /// Executed; then these bytes overwrite the data that went to the host, from `offset_bytes` on. What lies beyond
    /// the command's data is not touched. No effect on commands that return no data.
    Corrupt {
        /// Where in the command's data.
        offset_bytes: u64,
        /// What is put there.
        bytes: Vec<u8>,
    },
    /// Executed; the completion is posted twice.
    Duplicate,
    /// Executed; the completion carries this command identifier.
    WrongCid {
        /// The identifier the host will see.
        cid: u16,
    },
    /// Executed; the completion carries the command's identifier with these bits flipped.
    XorCid {
        /// The bits to flip.
        bits: u16,
    },
    /// Executed and completed; a completion for a command nobody sent follows it.
    ExtraCompletion {
        /// Identifier of the invented command.
        cid: u16,
        /// Its status.
        status: Status,
    },
    /// Executed; the completion claims this submission queue head.
    Sqhd(u16),
    /// Executed; the completion claims to come from this submission queue.
    SqId(u16),
    /// Executed; the completion is posted without an interrupt.
    NoInterrupt,
    /// Executed and completed; one more interrupt is raised on the queue's vector, with no completion behind it.
    SpuriousInterrupt,
    /// Not executed: the controller sets CSTS.CFS and stops.
    FatalStatus,
    /// Not executed: the controller is gone from the bus. Every register reads all ones, for good.
    Vanish,
    /// An Abort that reports success (dword 0 bit 0 clear) and aborts nothing. Other commands are executed as usual.
    LyingAbort,
}

/// Which queues a fault looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueMatch {
    /// All of them.
    #[default]
    Any,
    /// The admin queue.
    Admin,
    /// All I/O queues.
    Io,
    /// The submission queue with this identifier.
    Qid(u16),
}

impl QueueMatch {
    fn matches(self, qid: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Admin => qid == 0,
            Self::Io => qid != 0,
            Self::Qid(wanted) => qid == wanted,
        }
    }
}

/// Byte offsets within the submission entry (Base 2.0, section 3.3.3.1) that the builders match on.
const OPCODE_AT: usize = 0;
const NSID_AT: usize = 4;
const CDW10_AT: usize = 40;

/// One thing to do wrong.
///
/// ```
/// use nvme_emulator::{Action, Fault};
/// use nvme_spec::{NvmOpcode, Status};
///
/// // The third and fourth read of namespace 2 end in an unrecovered error.
/// let fault = Fault::on_opcode(NvmOpcode::READ, Action::Fail(Status::UNRECOVERED_READ_ERROR))
///     .nsid(2)
///     .skip(2)
///     .times(2);
/// assert_eq!(fault.pattern[0], 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Queues it looks at.
    pub queue: QueueMatch,
    /// The submission entry wanted, where `mask` has a bit set.
    pub pattern: [u8; 64],
    /// Bits of `pattern` that count. All zero matches every command.
    pub mask: [u8; 64],
    /// How many matching commands pass before the first is hit.
    pub skip: u64,
    /// How many commands are hit at most. `None` = no limit.
    pub times: Option<u64>,
    /// Of the matching commands one in so many is hit, by seeded chance. `None` (and 0 and 1) = every one.
    pub one_in: Option<u32>,
    /// What is done to a command that is hit.
    pub action: Action,
}

impl Fault {
    /// Every command of every queue.
    #[must_use]
    pub fn new(action: Action) -> Self {
        Self {
            queue: QueueMatch::Any,
            pattern: [0; 64],
            mask: [0; 64],
            skip: 0,
            times: None,
            one_in: None,
            action,
        }
    }

    /// Commands on the I/O queues with this opcode.
    #[must_use]
    pub fn on_opcode(opcode: NvmOpcode, action: Action) -> Self {
        Self::new(action)
            .queue(QueueMatch::Io)
            .bytes(OPCODE_AT, &[opcode.0], &[0xFF])
    }

    /// Admin commands with this opcode.
    #[must_use]
    pub fn on_admin(opcode: AdminOpcode, action: Action) -> Self {
        Self::new(action)
            .queue(QueueMatch::Admin)
            .bytes(OPCODE_AT, &[opcode.0], &[0xFF])
    }

    /// Identify commands with this CNS (CDW10 bits 7:0).
    #[must_use]
    pub fn on_identify(cns: u8, action: Action) -> Self {
        Self::on_admin(AdminOpcode::IDENTIFY, action).bytes(CDW10_AT, &[cns], &[0xFF])
    }

    /// Set Features and nothing else, for this feature identifier (CDW10 bits 7:0).
    #[must_use]
    pub fn on_set_features(fid: u8, action: Action) -> Self {
        Self::on_admin(AdminOpcode::SET_FEATURES, action).bytes(CDW10_AT, &[fid], &[0xFF])
    }

    /// Narrowed to these queues.
    #[must_use]
    pub fn queue(mut self, queue: QueueMatch) -> Self {
        self.queue = queue;
        self
    }

    /// Narrowed to this namespace.
    #[must_use]
    pub fn nsid(self, nsid: u32) -> Self {
        self.bytes(NSID_AT, &nsid.to_le_bytes(), &[0xFF; 4])
    }

    /// Narrowed to this starting LBA (CDW10 and CDW11).
    #[must_use]
    pub fn lba(self, lba: u64) -> Self {
        self.bytes(CDW10_AT, &lba.to_le_bytes(), &[0xFF; 8])
    }

    /// Narrowed to commands whose entry has `pattern` at byte `at`, where `mask` has a bit set. Bytes past the entry's
    /// 64, or past the shorter of the two, are ignored.
    #[must_use]
    pub fn bytes(mut self, at: usize, pattern: &[u8], mask: &[u8]) -> Self {
        let place = self.pattern.iter_mut().zip(&mut self.mask).skip(at);
        for ((to, to_mask), (byte, byte_mask)) in place.zip(pattern.iter().zip(mask)) {
            *to = *byte;
            *to_mask = *byte_mask;
        }
        self
    }

    /// Lets this many matching commands pass first.
    #[must_use]
    pub fn skip(mut self, commands: u64) -> Self {
        self.skip = commands;
        self
    }

    /// Hits this many commands and no more.
    #[must_use]
    pub fn times(mut self, commands: u64) -> Self {
        self.times = Some(commands);
        self
    }

    /// Hits one command and no more.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Hits one in so many of the matching commands, by chance.
    #[must_use]
    pub fn one_in(mut self, commands: u32) -> Self {
        self.one_in = Some(commands);
        self
    }

    /// Whether queue and bytes are those wanted (regardless of `skip`, `times` and `one_in`).
    #[must_use]
    pub fn matches(&self, qid: u16, entry: &SubmissionEntry) -> bool {
        self.queue.matches(qid)
            && entry
                .as_bytes()
                .iter()
                .zip(&self.pattern)
                .zip(&self.mask)
                .all(|((have, want), mask)| (have ^ want) & mask == 0)
    }
}

/// Names a fault that was added, for [`Faults::remove`] and [`Faults::hits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Entry {
    id: FaultId,
    fault: Fault,
    seen: u64,
    hits: u64,
    chance: fastrand::Rng,
}

impl Entry {
    /// Counts a matching command; true if it is to be hit.
    fn strikes(&mut self) -> bool {
        self.seen += 1;
        if self.seen <= self.fault.skip || self.fault.times.is_some_and(|times| self.hits >= times) {
            return false;
        }
        let lucky = match self.fault.one_in {
            Some(one_in) if one_in > 1 => self.chance.u32(..one_in) == 0,
            _ => true,
        };
        self.hits += u64::from(lucky);
        lucky
    }
}

#[derive(Debug, Default)]
struct Inner {
    entries: Vec<Entry>,
    /// Hits of faults that are gone, so that their count can still be asked for.
    retired: Vec<(FaultId, u64)>,
    next_id: u64,
}

/// The faults in force. May be changed at any time, from any thread; a change counts for commands fetched after it.
#[derive(Debug)]
pub struct Faults {
    /// Number of entries, so that the usual case (none) is one load.
    armed: AtomicUsize,
    seed: u64,
    inner: Mutex<Inner>,
}

impl Faults {
    /// None yet. `seed` decides every `one_in` to come.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            armed: AtomicUsize::new(0),
            seed,
            inner: Mutex::default(),
        }
    }

    /// Puts a fault in force. Where several match one command, the one added first strikes and the others do not count
    /// the command.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut inner = self.lock();
        let id = FaultId(inner.next_id);
        inner.next_id += 1;
        // Every fault has its own sequence, so that adding one does not change what the others do.
        let chance = fastrand::Rng::with_seed(self.seed ^ (id.0 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        inner.entries.push(Entry {
            id,
            fault,
            seen: 0,
            hits: 0,
            chance,
        });
        self.armed.store(inner.entries.len(), Ordering::Relaxed);
        id
    }

    /// Puts several in force, in order.
    pub fn add_all(&self, faults: impl IntoIterator<Item = Fault>) -> Vec<FaultId> {
        faults.into_iter().map(|fault| self.add(fault)).collect()
    }

    /// Takes a fault out of force; false if there is none of that name (any more).
    pub fn remove(&self, id: FaultId) -> bool {
        let mut inner = self.lock();
        let Some(index) = inner.entries.iter().position(|entry| entry.id == id) else {
            return false;
        };
        let entry = inner.entries.remove(index);
        inner.retired.push((entry.id, entry.hits));
        self.armed.store(inner.entries.len(), Ordering::Relaxed);
        true
    }

    /// Takes all faults out of force.
    pub fn clear(&self) {
        let mut inner = self.lock();
        let Inner { entries, retired, .. } = &mut *inner;
        retired.extend(entries.drain(..).map(|entry| (entry.id, entry.hits)));
        self.armed.store(0, Ordering::Relaxed);
    }

    /// How many commands the fault has hit, also after it was removed.
    #[must_use]
    pub fn hits(&self, id: FaultId) -> u64 {
        let inner = self.lock();
        let live = inner
            .entries
            .iter()
            .find(|entry| entry.id == id)
            .map(|entry| entry.hits);
        live.or_else(|| {
            inner
                .retired
                .iter()
                .find(|(retired, _)| *retired == id)
                .map(|(_, hits)| *hits)
        })
        .unwrap_or(0)
    }

    /// How many commands were hit by any fault, in force or removed.
    #[must_use]
    pub fn total_hits(&self) -> u64 {
        let inner = self.lock();
        let live: u64 = inner.entries.iter().map(|entry| entry.hits).sum();
        live + inner.retired.iter().map(|(_, hits)| hits).sum::<u64>()
    }

    /// Whether no fault is in force. One relaxed load.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.armed.load(Ordering::Relaxed) == 0
    }

    /// To be asked once for each command fetched from submission queue `qid`: what is to go wrong with it. One relaxed
    /// load while no fault is in force.
    #[inline]
    #[must_use]
    pub fn strike(&self, qid: u16, entry: &SubmissionEntry) -> Option<Action> {
        if self.is_empty() {
            None
        } else {
            self.strike_armed(qid, entry)
        }
    }

    #[cold]
    fn strike_armed(&self, qid: u16, entry: &SubmissionEntry) -> Option<Action> {
        let mut inner = self.lock();
        inner.entries.iter_mut().find_map(|armed| {
            (armed.fault.matches(qid, entry) && armed.strikes()).then(|| armed.fault.action.clone())
        })
    }

    /// A mix for soak tests: rare faults of every kind that a good driver survives without losing acknowledged data.
    /// The seed picks which kinds there are and how rare each is.
    ///
    /// There is nothing in it that lies to the host about data (no corruption, no success that was not) and nothing the
    /// device cannot come back from (no vanishing).
    #[must_use]
    pub fn seeded_mix(seed: u64) -> Vec<Fault> {
        let mut rng = fastrand::Rng::with_seed(seed);
        // (one in how many at the least, what): the more it disturbs, the rarer.
        let kinds = [
            (200, Action::Fail(Status::COMMAND_INTERRUPTED)),
            (400, Action::Fail(Status::UNRECOVERED_READ_ERROR.with_dnr(true))),
            (200, Action::Fail(Status::NAMESPACE_NOT_READY.with_crd(1))),
            (
                100,
                Action::Delay {
                    ns: rng.u64(1_000..5_000_000),
                },
            ),
            (50, Action::Reorder),
            (2_000, Action::Drop),
            (2_000, Action::DropCompletion),
            (500, Action::Duplicate),
            (2_000, Action::XorCid { bits: rng.u16(1..) }),
            (
                500,
                Action::ExtraCompletion {
                    cid: rng.u16(..),
                    status: Status::SUCCESS,
                },
            ),
            (2_000, Action::Sqhd(u16::MAX)),
            (2_000, Action::SqId(u16::MAX)),
            (300, Action::NoInterrupt),
            (100, Action::SpuriousInterrupt),
            (20_000, Action::FatalStatus),
        ];
        let mut mix = Vec::new();
        for (at_least, action) in kinds {
            // Each kind is present in two mixes of three, so that they also meet each other alone.
            if rng.u32(..3) > 0 {
                let one_in = rng.u32(at_least..at_least * 4);
                mix.push(Fault::new(action).queue(QueueMatch::Io).one_in(one_in));
            }
        }
        mix.push(Fault::on_admin(AdminOpcode::ABORT, Action::LyingAbort).one_in(rng.u32(2..10)));
        mix
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock can panic half way through an update, so a poisoned one is still in order.
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests;
