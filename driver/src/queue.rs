//! A queue pair: the two rings, the commands that are out, and what was counted about them.
//!
//! It knows entries, identifiers and doorbells, nothing of data. It is `&mut` to its one owner, so there is neither a
//! lock nor an atomic read-modify-write here, and nothing is allocated after [`QueuePair::new`].
//!
//! A command identifier is the number of a slot in its low bits and the slot's generation in the others, so that a
//! completion for an earlier use of a slot shows. Whatever the device writes into its completion queue, the worst
//! that happens is a count under [`Rejected`].

use nvme_spec::{CompletionEntry, Status, SubmissionEntry};

use crate::bell::Bell;
use crate::dma::Region;
use crate::stats::{OpClass, QueueRecorder, Rejected};

/// Commands that one queue pair can have out: 12 bits of slot leave 4 bits of generation.
pub(crate) const MAX_SLOTS: usize = 4096;
const SQE_BYTES: usize = size_of::<SubmissionEntry>();
const CQE_BYTES: usize = size_of::<CompletionEntry>();
/// Of a completion queue that is polled, the part (1 / n) that may be taken without the device being told.
const UNTOLD_PART: u32 = 8;
/// No slot, in the list of those that are out.
const NIL: u16 = u16::MAX;

/// What a queue pair is made of.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) qid: u16,
    /// Entries of each ring, at least 2. One stays free: a full ring looks like an empty one otherwise (NVMe Base 2.0
    /// section 3.3.1.5).
    pub(crate) entries: u32,
    pub(crate) sq: Region,
    pub(crate) cq: Region,
    pub(crate) sq_bell: Bell,
    pub(crate) cq_bell: Bell,
    /// The controller does not interrupt for completions: it need not learn at once which of them have been taken.
    pub(crate) polled: bool,
}

/// A slot that [`QueuePair::reserve`] has set aside; becomes a command with [`QueuePair::push`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reserved(u16);

impl Reserved {
    pub(crate) fn slot(&self) -> u16 {
        self.0
    }
}

/// What is counted about a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accounting {
    pub(crate) op: OpClass,
    /// Place in the controller's list of namespaces.
    pub(crate) namespace: Option<usize>,
    pub(crate) bytes: u64,
    /// When the driver accepted the request that the command belongs to.
    pub(crate) arrived_ns: u64,
    /// The device answers when it has something to tell (Asynchronous Event Request): that takes as long as it takes, so the
    /// command is neither counted nor is it among those that are out.
    pub(crate) waits: bool,
}

/// The time at which something has not happened.
pub(crate) const NEVER: u64 = u64::MAX;

/// A command that has completed.
#[derive(Debug)]
pub(crate) struct Completed<T> {
    pub(crate) slot: u16,
    pub(crate) context: T,
    pub(crate) entry: CompletionEntry,
    /// When its doorbell was written; [`NEVER`] if it never was.
    pub(crate) submitted_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Reserved,
    /// In the ring; the doorbell has not been written.
    Queued,
    /// Handed to the device.
    Out,
}

struct Slot<T> {
    context: Option<T>,
    submitted_ns: u64,
    accounting: Accounting,
    state: State,
    /// Counts the slot's uses, in as many bits as the command identifier has left.
    generation: u16,
    /// Neighbours in the list of commands that are out, oldest first.
    older: u16,
    younger: u16,
}

/// A queue pair and its commands; `T` is what the owner wants back with each completion.
pub(crate) struct QueuePair<T> {
    rings: Rings,
    sq_tail: u32,
    cq_head: u32,
    /// Completions taken that the device has not been told of.
    untold: u32,
    /// The phase tag that new completions have (section 4.2.4).
    phase: bool,
    slots: Box<[Slot<T>]>,
    slot_bits: u32,
    free: Vec<u16>,
    /// Slots in the ring whose doorbell has not been written, in order.
    batch: Vec<u16>,
    out: usize,
    oldest: u16,
    youngest: u16,
    /// Completions reaped in the pass that is going on.
    pass: u64,
    in_pass: bool,
    /// Completions that fitted no command.
    rejections: u64,
    /// What the command took whose completion was taken last.
    last_took_ns: Option<u64>,
    pub(crate) recorder: QueueRecorder,
}

impl<T> QueuePair<T> {
    /// A queue pair over empty rings, for at most `limit` commands at once.
    pub(crate) fn new(rings: Rings, limit: usize, namespaces: usize) -> Self {
        let slots = limit
            .min(rings.entries.saturating_sub(1) as usize)
            .clamp(1, MAX_SLOTS);
        let slot_bits = usize::BITS - (slots - 1).leading_zeros();
        let slot = || Slot {
            context: None,
            submitted_ns: 0,
            accounting: Accounting {
                op: OpClass::Other,
                namespace: None,
                bytes: 0,
                arrived_ns: 0,
                waits: false,
            },
            state: State::Free,
            generation: 0,
            older: NIL,
            younger: NIL,
        };
        Self {
            rings,
            sq_tail: 0,
            cq_head: 0,
            untold: 0,
            phase: true,
            slots: (0..slots).map(|_| slot()).collect(),
            slot_bits,
            // The last one given back is the next one taken: its memory is warm.
            free: (0..slots as u16).rev().collect(),
            batch: Vec::with_capacity(slots),
            out: 0,
            oldest: NIL,
            youngest: NIL,
            pass: 0,
            in_pass: false,
            rejections: 0,
            last_took_ns: None,
            recorder: QueueRecorder::new(namespaces, slots),
        }
    }

    pub(crate) fn qid(&self) -> u16 {
        self.rings.qid
    }

    pub(crate) fn entries(&self) -> u32 {
        self.rings.entries
    }

    /// Commands that can be out at once.
    pub(crate) fn limit(&self) -> usize {
        self.slots.len()
    }

    /// Commands handed to the device and not completed, plus those in the ring that it does not know of yet.
    pub(crate) fn busy(&self) -> usize {
        self.out + self.batch.len()
    }

    /// Whether commands are in the ring whose doorbell has not been written.
    pub(crate) fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// When the oldest command that is out was submitted.
    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        self.slots
            .get(usize::from(self.oldest))
            .map(|slot| slot.submitted_ns)
    }

    /// When the youngest command that is out was submitted.
    pub(crate) fn youngest_ns(&self) -> Option<u64> {
        self.slots
            .get(usize::from(self.youngest))
            .map(|slot| slot.submitted_ns)
    }

    /// What the command took whose completion was taken last, if there was one since this was asked.
    #[inline]
    pub(crate) fn take_latency(&mut self) -> Option<u64> {
        self.last_took_ns.take()
    }

    /// Sets a slot aside for a command; `None` while as many are out as can be.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<Reserved> {
        let slot = self.free.pop()?;
        self.slots[usize::from(slot)].state = State::Reserved;
        Some(Reserved(slot))
    }

    /// Gives a slot back that was not needed.
    pub(crate) fn release(&mut self, reserved: Reserved) {
        self.slots[usize::from(reserved.0)].state = State::Free;
        self.free.push(reserved.0);
    }

    /// Writes `entry` into the ring, with its command identifier. The device learns of it with [`QueuePair::ring`].
    #[inline]
    pub(crate) fn push(
        &mut self,
        reserved: Reserved,
        mut entry: SubmissionEntry,
        accounting: Accounting,
        context: T,
    ) {
        let slot = &mut self.slots[usize::from(reserved.0)];
        // 0 is kept for "never used".
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        entry.cid = cid(reserved.0, slot.generation, self.slot_bits);
        if entry.cid == u16::MAX {
            // FFFFh stands for "no command" in the error log (section 5.16.1.2).
            slot.generation = slot.generation.checked_add(1).unwrap_or(1);
            entry.cid = cid(reserved.0, slot.generation, self.slot_bits);
        }
        // The slot is complete before the doorbell: a fast completion finds it.
        slot.context = Some(context);
        slot.accounting = accounting;
        slot.state = State::Queued;
        // There is room: at most `entries - 1` slots are in use, and a slot is free again only when its command has
        // completed, so that the device has fetched its entry (section 3.3.1.2).
        self.rings.sq.write(self.sq_tail as usize * SQE_BYTES, &entry);
        self.sq_tail = if self.sq_tail + 1 == self.rings.entries {
            0
        } else {
            self.sq_tail + 1
        };
        self.batch.push(reserved.0);
    }

    /// Writes the submission doorbell once for everything that was pushed since the last time; `now_ns` is when.
    #[inline]
    pub(crate) fn ring(&mut self, now_ns: u64) {
        if self.batch.is_empty() {
            return;
        }
        let mut waiting = 0;
        for index in 0..self.batch.len() {
            let number = self.batch[index];
            if self.slots[usize::from(number)].accounting.waits {
                self.slots[usize::from(number)].state = State::Out;
                waiting += 1;
                continue;
            }
            let youngest = std::mem::replace(&mut self.youngest, number);
            match self.slots.get_mut(usize::from(youngest)) {
                Some(slot) => slot.younger = number,
                None => self.oldest = number,
            }
            let slot = &mut self.slots[usize::from(number)];
            slot.submitted_ns = now_ns;
            slot.state = State::Out;
            slot.older = youngest;
            slot.younger = NIL;
        }
        let commands = self.batch.len() - waiting;
        self.batch.clear();
        self.out += commands;
        // Each command that is out needs a place in the completion queue, which what it has not been told of still takes.
        let full = self.untold as usize + self.out >= self.rings.entries as usize - 1;
        let tells = full && self.untold > 0 && self.publish_head();
        let rings = self.rings.sq_bell.publish(self.sq_tail);
        if commands > 0 || tells {
            self.recorder.begin();
            self.recorder.handed(now_ns, commands as u64);
            self.recorder.doorbells(u64::from(rings), u64::from(tells));
            self.recorder.oldest(self.oldest_ns().unwrap_or(0));
            self.recorder.end();
        }
        if tells {
            self.rings.cq_bell.ring();
        }
        if rings {
            self.rings.sq_bell.ring();
        }
    }

    /// Whether the next completion entry is new. Changes nothing.
    #[inline]
    pub(crate) fn has_completion(&self) -> bool {
        // The phase tag is bit 16 of dword 3; what the device wrote before it is seen after this load.
        (self.rings.cq.load_u32(self.cq_head as usize * CQE_BYTES + 12) >> 16) & 1 == u32::from(self.phase)
    }

    /// Takes the next completion of a command that is out, if there is one; `now_ns` is when it was seen. Entries that
    /// fit no such command are counted and passed over. A pass is as many calls as the owner likes, ended by
    /// [`QueuePair::end_pass`]; it takes at most one ring's worth of entries, so a device that never stops cannot
    /// keep it going.
    #[inline]
    pub(crate) fn reap(&mut self, now_ns: u64) -> Option<Completed<T>> {
        while self.pass < u64::from(self.rings.entries) && self.has_completion() {
            if !self.in_pass {
                self.in_pass = true;
                self.recorder.begin();
            }
            let entry: CompletionEntry = self.rings.cq.read(self.cq_head as usize * CQE_BYTES);
            self.cq_head += 1;
            if self.cq_head == self.rings.entries {
                self.cq_head = 0;
                self.phase = !self.phase;
            }
            self.pass += 1;
            match self.accept(&entry, now_ns) {
                Ok(completed) => return Some(completed),
                Err(why) => self.reject(&entry, why),
            }
        }
        None
    }

    fn accept(&mut self, entry: &CompletionEntry, now_ns: u64) -> Result<Completed<T>, Rejected> {
        if entry.sqid != self.rings.qid {
            return Err(Rejected::BadSqid);
        }
        let number = entry.cid & ((1u32 << self.slot_bits) - 1) as u16;
        let slot = self
            .slots
            .get_mut(usize::from(number))
            .ok_or(Rejected::UnknownCid)?;
        if slot.generation == 0 {
            return Err(Rejected::UnknownCid);
        }
        if entry.cid != cid(number, slot.generation, self.slot_bits) {
            return Err(Rejected::StaleCid);
        }
        match slot.state {
            State::Out => {}
            State::Queued => return Err(Rejected::StaleCid),
            State::Free | State::Reserved => return Err(Rejected::DuplicateCid),
        }
        let context = slot.context.take().ok_or(Rejected::DuplicateCid)?;
        slot.state = State::Free;
        let Slot {
            submitted_ns,
            accounting,
            older,
            younger,
            ..
        } = *slot;
        if accounting.waits {
            self.free.push(number);
            return Ok(Completed {
                slot: number,
                context,
                entry: *entry,
                submitted_ns,
            });
        }
        match self.slots.get_mut(usize::from(older)) {
            Some(slot) => slot.younger = younger,
            None => self.oldest = younger,
        }
        match self.slots.get_mut(usize::from(younger)) {
            Some(slot) => slot.older = older,
            None => self.youngest = older,
        }
        self.out -= 1;
        self.free.push(number);
        if u32::from(entry.sqhd) >= self.rings.entries {
            // Of no use to this driver, which counts slots; but a device that writes it is not well.
            self.recorder.rejected(Rejected::BadSqhd);
        }
        let took_ns = now_ns.saturating_sub(submitted_ns);
        self.last_took_ns = Some(took_ns);
        self.recorder.completed(
            accounting.op,
            accounting.namespace,
            accounting.bytes,
            took_ns,
            submitted_ns.saturating_sub(accounting.arrived_ns),
            entry.status(),
        );
        Ok(Completed {
            slot: number,
            context,
            entry: *entry,
            submitted_ns,
        })
    }

    #[cold]
    fn reject(&mut self, entry: &CompletionEntry, why: Rejected) {
        self.recorder.rejected(why);
        self.rejections += 1;
        // A device that keeps doing this must not fill the log: the 1st, 2nd, 4th, 8th ... are shown.
        if !self.rejections.is_power_of_two() {
            return;
        }
        log::warn!(
            "queue {}: completion number {} that fits no command was ignored ({why:?}): cid {:#06x}, sqid {}, sqhd {}, {}",
            self.rings.qid,
            self.rejections,
            entry.cid,
            entry.sqid,
            entry.sqhd,
            entry.status()
        );
    }

    /// Ends a reaping pass: one completion doorbell for all of it. Returns how many entries it took.
    #[inline]
    pub(crate) fn end_pass(&mut self, now_ns: u64) -> u64 {
        let taken = std::mem::take(&mut self.pass);
        if !std::mem::take(&mut self.in_pass) {
            self.recorder.polls_empty(1);
            return taken;
        }
        self.untold += taken as u32;
        // A controller that interrupts may wait for the doorbell before it does so again. To any other a write for every
        // few would tell nothing that matters, and cost as much as the command.
        let tells =
            (!self.rings.polled || self.untold >= self.rings.entries / UNTOLD_PART) && self.publish_head();
        if tells {
            self.rings.cq_bell.ring();
        }
        self.recorder.doorbells(0, u64::from(tells));
        self.recorder.out_is(now_ns, self.out as u64);
        self.recorder.pass(taken);
        self.recorder.oldest(self.oldest_ns().unwrap_or(0));
        self.recorder.end();
        taken
    }

    /// Tells how far completions have been taken; says whether the register is to be written too.
    #[inline]
    fn publish_head(&mut self) -> bool {
        self.untold = 0;
        self.rings.cq_bell.publish(self.cq_head)
    }

    /// Takes back the commands that are out, without their completions: to be called when the device has been
    /// disabled or is gone, so that it does not touch their memory any more. They are counted as aborted.
    pub(crate) fn abandon(&mut self, now_ns: u64) -> Vec<Completed<T>> {
        let out = |slot: &Slot<T>| matches!(slot.state, State::Queued | State::Out);
        let status = Status::ABORT_REQUESTED;
        let numbers: Vec<u16> = (0..self.slots.len() as u16)
            .filter(|n| out(&self.slots[usize::from(*n)]))
            .collect();
        self.batch.clear();
        self.recorder.begin();
        let mut abandoned = Vec::with_capacity(numbers.len());
        for number in numbers {
            let slot = &mut self.slots[usize::from(number)];
            let was_out = slot.state == State::Out;
            let Slot {
                submitted_ns,
                accounting:
                    Accounting {
                        op,
                        namespace,
                        bytes,
                        arrived_ns,
                        waits,
                    },
                ..
            } = *slot;
            slot.state = State::Free;
            if was_out && !waits {
                let (device_ns, host_ns) = (
                    now_ns.saturating_sub(submitted_ns),
                    submitted_ns.saturating_sub(arrived_ns),
                );
                self.recorder
                    .completed(op, namespace, bytes, device_ns, host_ns, status);
            }
            if let Some(context) = slot.context.take() {
                let cid = cid(number, slot.generation, self.slot_bits);
                let entry = CompletionEntry::new(0, 0, 0, self.rings.qid, cid, status, false);
                abandoned.push(Completed {
                    slot: number,
                    context,
                    entry,
                    submitted_ns: if was_out { submitted_ns } else { NEVER },
                });
            }
            self.free.push(number);
        }
        self.out = 0;
        (self.oldest, self.youngest) = (NIL, NIL);
        self.recorder.out_is(now_ns, 0);
        self.recorder.oldest(0);
        self.recorder.end();
        abandoned
    }
}

#[inline]
fn cid(slot: u16, generation: u16, slot_bits: u32) -> u16 {
    // With 16 bits of slot there would be no generation; MAX_SLOTS leaves 4.
    slot | (generation << slot_bits)
}

#[cfg(test)]
mod tests;
