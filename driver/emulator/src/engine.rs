//! The part of the device that walks queues: fetches commands, holds those that are not due, posts completions and raises
//! interrupts. What a command means is none of its business: whoever owns an engine asks it for the [`next`](Engine::next)
//! command, executes it and hands back the [`Finished`] one.

mod arbitration;
mod queues;
mod shadow;

use nvme_spec::{Status, SubmissionEntry};
use zerocopy::FromBytes;

use crate::device::Device;
use crate::fault::Action;
use crate::held::{Command, Held};
use crate::host::DmaFault;
use crate::rings::{Completion, CompletionQueue, Rung, SQE_BYTES, SubmissionQueue};
use crate::tally::Tally;

use arbitration::{Arbiter, Chosen};
pub(crate) use shadow::Shadow;

/// Commands fetched per pass at most, so that a flood on one engine does not keep the rest of the device waiting.
const PASS_COMMANDS: usize = 64;
/// Commands fetched from one queue before the next one has its turn (Base 2.0, section 3.4.4.1, round robin).
const TURN_COMMANDS: usize = 16;
/// Data moved after which what is done is posted, and no more is fetched in this pass: large commands are not to wait for
/// each other's completion.
const PASS_BYTES: u64 = 256 << 10;
/// Completions are posted in bursts of this many: a host that polls then takes its cache line from the device's hands
/// once per burst, not once per entry.
const BURST_COMPLETIONS: usize = 16;
/// Data moved after which a burst ends early.
const BURST_BYTES: u64 = 32 << 10;
/// How long a command that is to be overtaken waits for another one to do so.
const REORDER_LIMIT_NS: u64 = 1_000_000;

/// What an engine's work needs from around it.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub device: &'a Device,
    pub tally: &'a Tally,
    pub now_ns: u64,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Finished {
    pub status: Status,
    pub dw0: u32,
    pub dw1: u32,
    /// Data moved, in bytes.
    pub bytes: u64,
    /// For the error log: where in the command the fault lies (Base 2.0, section 5.16.1.2, Parameter Error Location).
    pub error_location: Option<u16>,
}

impl Finished {
    /// Success with nothing to say.
    pub const OK: Self = Self {
        status: Status::SUCCESS,
        dw0: 0,
        dw1: 0,
        bytes: 0,
        error_location: None,
    };

    /// Ended with `status`.
    pub const fn with(status: Status) -> Self {
        Self { status, ..Self::OK }
    }
}

/// Submission and completion queues that are turned together, under one lock.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    sqs: Vec<SubmissionQueue>,
    cqs: Vec<CompletionQueue>,
    held: Held,
    batch: Batch,
    arbiter: Arbiter,
    budget: usize,
    pass_bytes: u64,
    /// Completions to be posted: the completion queue's place in `cqs`, and the entry.
    staged: Vec<(usize, Completion)>,
    staged_bytes: u64,
    /// Vectors to be raised at the end of the pass, beyond what the completions ask for (a fault).
    spurious: Vec<u16>,
    raised: Vec<u16>,
    shadow: Option<Shadow>,
    last_pass_ns: u64,
    was_busy: bool,
}

/// Entries that were read from one queue together.
#[derive(Debug)]
struct Batch {
    bytes: Box<[u8]>,
    sq: usize,
    at: usize,
    end: usize,
}

impl Default for Batch {
    fn default() -> Self {
        let bytes = vec![0; TURN_COMMANDS * SQE_BYTES as usize].into_boxed_slice();
        Self {
            bytes,
            sq: 0,
            at: 0,
            end: 0,
        }
    }
}

/// One pass: [`begin`](Engine::begin), then [`next`](Engine::next) and [`complete`](Engine::complete) until there is no next,
/// then [`end`](Engine::end).
impl Engine {
    /// Begins a pass: looks at the doorbells, posts what was parked. True if the host has done anything.
    pub fn begin(&mut self, cx: Context<'_>) -> bool {
        if self.was_busy {
            cx.tally.busy_ns.add(cx.now_ns.saturating_sub(self.last_pass_ns));
        }
        self.last_pass_ns = cx.now_ns;
        self.budget = PASS_COMMANDS;
        self.pass_bytes = 0;
        match self.look(cx) {
            Ok(moved) => moved,
            Err(fault) => {
                cx.dma_fault(fault);
                false
            }
        }
    }

    /// The next command whose time has come, None when the pass is over. `due_ns` says when a command that was fetched
    /// now is due.
    #[inline]
    pub fn next(
        &mut self,
        cx: Context<'_>,
        mut due_ns: impl FnMut(&SubmissionEntry) -> u64,
    ) -> Option<Command> {
        loop {
            if cx.device.is_stopped() {
                return None;
            }
            if let Some((command, counted)) = self.held.pop_due(cx.now_ns) {
                let index = self.sq_index(&command);
                if let Some(sq) = index.and_then(|index| self.sqs.get_mut(index)) {
                    sq.live.remove(command.entry.cid);
                    // `complete` takes one off, whether the command was counted while it was held or not.
                    sq.in_flight += u32::from(!counted);
                }
                return Some(command);
            }
            if self.batch.at == self.batch.end && !self.fetch(cx) {
                return None;
            }
            if let Some(command) = self.admit(cx, &mut due_ns) {
                return Some(command);
            }
        }
    }

    /// Takes back a command that has ended, and stages its completion.
    #[inline]
    pub fn complete(&mut self, cx: Context<'_>, command: Command, finished: Finished) {
        let Some(index) = self.sq_index(&command) else {
            return;
        };
        let Some(sq) = self.sqs.get_mut(index) else { return };
        sq.in_flight = sq.in_flight.saturating_sub(1);
        if !sq.waiting.is_empty() {
            for id in std::mem::take(&mut sq.waiting) {
                self.held.release(id, cx.now_ns);
            }
        }
        let mut status = finished.status;
        if let Some(tally) = cx.tally.opcode(command.entry.opcode) {
            tally.completed.add(1);
            tally.bytes.add(finished.bytes);
            tally.errors.add(u64::from(!status.is_success()));
        }
        if !status.is_success() {
            status = cx.device.log_error(&command, finished);
            if status.is(Status::DATA_TRANSFER_ERROR) {
                cx.tally.dma_faults.add(1);
            }
        }
        let (cq, sqhd, sqid) = (sq.cq, sq.head(), sq.qid);
        if let Some(tally) = cx.device.queue_tally(sqid) {
            tally.completed.add(1);
        }
        let Finished { dw0, dw1, .. } = finished;
        let completion = Completion {
            dw0,
            dw1,
            sqhd,
            sqid,
            cid: command.entry.cid,
            status,
            interrupt: true,
        };
        match command.fault {
            None => self.staged.push((cq, completion)),
            Some(fault) => self.stage_wrong(cq, completion, &fault),
        }
        self.staged_bytes += finished.bytes;
        self.pass_bytes += finished.bytes;
        if self.staged.len() >= BURST_COMPLETIONS || self.staged_bytes >= BURST_BYTES {
            self.flush(cx);
        }
    }

    /// Keeps a command that ends when something happens ([`take`](Self::take)), not now.
    pub fn keep(&mut self, command: Command) {
        let index = self.sq_index(&command);
        if let Some(sq) = index.and_then(|index| self.sqs.get_mut(index)) {
            sq.in_flight = sq.in_flight.saturating_sub(1);
            sq.live.insert(command.entry.cid);
            self.held.hold(command, None, false);
        }
    }

    /// Takes out the command `cid` of submission queue `qid` that is held, to be handed to [`complete`](Self::complete).
    pub fn take(&mut self, qid: u16, cid: u16) -> Option<Command> {
        let (command, counted) = self.held.take(qid, cid)?;
        let index = self.sq_index(&command);
        if let Some(sq) = index.and_then(|index| self.sqs.get_mut(index)) {
            sq.live.remove(cid);
            sq.in_flight += u32::from(!counted);
        }
        Some(command)
    }

    /// Marks the command `cid` of submission queue `qid` that is still in the ring, so that it completes as aborted when
    /// it is fetched. False if it is not there.
    pub fn abort_pending(&mut self, cx: Context<'_>, qid: u16, cid: u16) -> bool {
        let Some(sq) = self.sqs.iter_mut().find(|sq| sq.qid == qid) else {
            return false;
        };
        match sq.is_pending(&*cx.device.memory, cid) {
            Ok(pending) => {
                if pending {
                    sq.aborted.insert(cid);
                }
                pending
            }
            Err(fault) => {
                cx.dma_fault(fault);
                false
            }
        }
    }

    /// Ends a pass: posts what is staged and raises the interrupts.
    pub fn end(&mut self, cx: Context<'_>) {
        self.flush(cx);
        self.raise(cx);
        self.was_busy = !self.held.is_empty() || self.budget < PASS_COMMANDS;
    }

    /// When there is something to do without the host doing anything first.
    pub fn due_ns(&mut self, device: &Device) -> Option<u64> {
        let waiting = |cq: &CompletionQueue| {
            let vector = cq
                .vector
                .filter(|vector| cq.unannounced > 0 && !device.registers.is_masked(*vector))?;
            let (_, limit_ns) = device.coalescing(cq.qid, vector)?;
            Some(cq.unannounced_since_ns.saturating_add(limit_ns))
        };
        let announce_ns = self.cqs.iter().filter_map(waiting).min();
        [self.held.next_due_ns(), announce_ns].into_iter().flatten().min()
    }
}

/// The steps of a pass.
impl Engine {
    /// Reads every doorbell, and posts parked completions where there is room now.
    fn look(&mut self, cx: Context<'_>) -> Result<bool, DmaFault> {
        let memory = &*cx.device.memory;
        let mut moved = false;
        for sq in &mut self.sqs {
            let index = usize::from(sq.qid) * 2;
            let value = match &self.shadow {
                Some(shadow) if shadow.covers(index) => shadow.doorbell(memory, index)?,
                _ => cx.device.registers.doorbell_value(index),
            };
            match sq.ring(value) {
                Rung::Same => continue,
                Rung::Moved => {}
                Rung::Invalid => cx.invalid_doorbell(),
            }
            moved = true;
            if let Some(tally) = cx.device.queue_tally(sq.qid) {
                tally.depth_max.raise_to(u64::from(sq.pending() + sq.in_flight));
            }
        }
        for cq in &mut self.cqs {
            let index = usize::from(cq.qid) * 2 + 1;
            let value = match &self.shadow {
                Some(shadow) if shadow.covers(index) => shadow.doorbell(memory, index)?,
                _ => cx.device.registers.doorbell_value(index),
            };
            match cq.ring(value) {
                Rung::Same => continue,
                Rung::Moved => {}
                Rung::Invalid => cx.invalid_doorbell(),
            }
            moved = true;
            if cq.has_parked() && cq.unpark(memory)? > 0 {
                cq.unannounced_since_ns = cx.now_ns;
            }
        }
        Ok(moved)
    }

    /// Reads the next entries of the next queue that has some. False if there is none, or the pass has done enough.
    fn fetch(&mut self, cx: Context<'_>) -> bool {
        if self.budget == 0 || self.pass_bytes >= PASS_BYTES {
            return false;
        }
        let rule = cx.device.arbitration();
        let mut most = self.budget;
        if rule.is_some() {
            // What a device has taken it has in its own order: it takes no more than keeps it busy, and the rest waits for
            // its turn.
            let limit = cx.device.busy_commands();
            let inside: u32 = self.sqs.iter().map(|sq| sq.in_flight).sum();
            most = most.min(limit.saturating_sub(inside as usize));
            if most == 0 {
                return false;
            }
        }
        let Self {
            arbiter, sqs, cqs, ..
        } = self;
        // A queue whose completions do not fit is left alone, and so is one with as many commands in flight as it has
        // entries: neither memory nor delay may grow with what a host throws at the device.
        let is_ready = |sq: &SubmissionQueue| {
            sq.pending() > 0 && cqs.get(sq.cq).is_some_and(|cq| !cq.has_parked()) && sq.size() > sq.in_flight
        };
        let chosen = match rule {
            None => arbiter.round_robin(sqs, is_ready),
            Some(rule) => arbiter.weighted(rule, sqs, is_ready),
        };
        let Some(Chosen { index, commands }) = chosen else {
            return false;
        };
        let Some(sq) = sqs.get_mut(index) else {
            return false;
        };
        let room = sq.size().saturating_sub(sq.in_flight) as usize;
        let count = commands.min(most).min(room);
        let Some(into) = self.batch.bytes.get_mut(..count * SQE_BYTES as usize) else {
            return false;
        };
        match sq.fetch(&*cx.device.memory, into) {
            Ok(count) => {
                arbiter.fetched(sq.qprio, count);
                self.batch.sq = index;
                self.batch.at = 0;
                self.batch.end = count;
                self.budget -= count;
                if let Some(tally) = cx.device.queue_tally(sq.qid) {
                    tally.fetched.add(count as u64);
                }
                count > 0
            }
            Err(fault) => {
                cx.dma_fault(fault);
                false
            }
        }
    }

    /// Takes the next entry of the batch in: None if it is not to be executed now.
    #[inline]
    fn admit(
        &mut self,
        cx: Context<'_>,
        due_ns: &mut impl FnMut(&SubmissionEntry) -> u64,
    ) -> Option<Command> {
        let at = self.batch.at * SQE_BYTES as usize;
        self.batch.at += 1;
        let bytes = self.batch.bytes.get(at..at + SQE_BYTES as usize)?;
        let entry = SubmissionEntry::read_from_bytes(bytes).ok()?;
        let sq = self.sqs.get_mut(self.batch.sq)?;
        let mut command = Command {
            entry,
            qid: sq.qid,
            sq_hint: self.batch.sq,
            fault: None,
        };
        if let Some(tally) = cx.tally.opcode(entry.opcode) {
            tally.fetched.add(1);
        }
        sq.in_flight += 1;
        if sq.live.contains(entry.cid) {
            self.complete(
                cx,
                command,
                Finished::with(Status::COMMAND_ID_CONFLICT.with_dnr(true)),
            );
            return None;
        }
        if sq.aborted.remove(entry.cid) {
            self.complete(cx, command, Finished::with(Status::ABORT_REQUESTED));
            return None;
        }
        let mut due_ns = due_ns(&entry);
        match cx.device.faults.strike(command.qid, &entry) {
            None => {}
            Some(Action::Drop) => {
                self.keep(command);
                return None;
            }
            Some(Action::FatalStatus) => {
                cx.device.fail("a fault asked for it");
                return None;
            }
            Some(Action::Vanish) => {
                cx.device.vanish();
                return None;
            }
            Some(Action::Delay { ns }) => due_ns = due_ns.max(cx.now_ns).saturating_add(ns),
            Some(Action::Reorder) => {
                sq.live.insert(entry.cid);
                // Were it the only one for good, it would never come: overtaken late is better than lost.
                let limit_ns = due_ns.max(cx.now_ns).saturating_add(REORDER_LIMIT_NS);
                let id = self.held.hold(command, Some(limit_ns), true);
                sq.waiting.push(id);
                return None;
            }
            Some(fault) => command.fault = Some(Box::new(fault)),
        }
        if due_ns <= cx.now_ns {
            return Some(command);
        }
        sq.live.insert(entry.cid);
        self.held.hold(command, Some(due_ns), true);
        None
    }

    /// Stages a completion as a fault wants it.
    #[cold]
    fn stage_wrong(&mut self, cq: usize, mut completion: Completion, fault: &Action) {
        let mut extra = None;
        match *fault {
            Action::DropCompletion => return,
            Action::Duplicate => extra = Some(completion),
            Action::WrongCid { cid } => completion.cid = cid,
            Action::XorCid { bits } => completion.cid ^= bits,
            Action::ExtraCompletion { cid, status } => {
                extra = Some(Completion {
                    cid,
                    status,
                    ..completion
                })
            }
            Action::Sqhd(sqhd) => completion.sqhd = sqhd,
            Action::SqId(sqid) => completion.sqid = sqid,
            Action::NoInterrupt => completion.interrupt = false,
            Action::SpuriousInterrupt => {
                self.spurious.extend(self.cqs.get(cq).and_then(|cq| cq.vector));
            }
            // Done before the command was executed, or by who executed it.
            Action::Fail(_)
            | Action::Drop
            | Action::Delay { .. }
            | Action::Reorder
            | Action::Corrupt { .. }
            | Action::FatalStatus
            | Action::Vanish
            | Action::LyingAbort => {}
        }
        self.staged.push((cq, completion));
        self.staged.extend(extra.map(|extra| (cq, extra)));
    }

    /// Posts what is staged.
    fn flush(&mut self, cx: Context<'_>) {
        self.staged_bytes = 0;
        if self.staged.is_empty() || cx.device.is_stopped() {
            return;
        }
        let memory = &*cx.device.memory;
        for (cq, completion) in self.staged.drain(..) {
            let Some(cq) = self.cqs.get_mut(cq) else { continue };
            if cq.unannounced == 0 {
                cq.unannounced_since_ns = cx.now_ns;
            }
            match cq.post(memory, completion) {
                Ok(posted) => cx.tally.parked.add(u64::from(!posted)),
                Err(fault) => return cx.dma_fault(fault),
            }
        }
    }

    /// Raises each vector that has something to announce, once.
    fn raise(&mut self, cx: Context<'_>) {
        self.raised.clear();
        for cq in &mut self.cqs {
            let Some(vector) = cq.vector.filter(|_| cq.unannounced > 0) else {
                continue;
            };
            // Taken by a host that polls while the interrupt was held back.
            if cq.posted() == 0 {
                cq.unannounced = 0;
                continue;
            }
            if cx.device.registers.is_masked(vector) {
                continue;
            }
            if let Some((threshold, limit_ns)) = cx.device.coalescing(cq.qid, vector)
                && cq.unannounced < threshold
                && cx.now_ns < cq.unannounced_since_ns.saturating_add(limit_ns)
            {
                continue;
            }
            cq.unannounced = 0;
            if !self.raised.contains(&vector) {
                self.raised.push(vector);
            }
        }
        self.raised.append(&mut self.spurious);
        if cx.device.is_stopped() {
            return;
        }
        for vector in &self.raised {
            cx.tally.interrupts.add(1);
            cx.device.interrupts.raise(*vector);
        }
    }

    #[inline]
    fn sq_index(&self, command: &Command) -> Option<usize> {
        match self.sqs.get(command.sq_hint) {
            Some(sq) if sq.qid == command.qid => Some(command.sq_hint),
            _ => self.sqs.iter().position(|sq| sq.qid == command.qid),
        }
    }
}

impl Context<'_> {
    /// The host's memory refused an access to a queue: without its queues the device cannot even say so.
    #[cold]
    pub(super) fn dma_fault(&self, fault: DmaFault) {
        self.tally.dma_faults.add(1);
        self.device.fail(&fault.to_string());
    }

    #[cold]
    fn invalid_doorbell(&self) {
        self.tally.invalid_doorbell_values.add(1);
        self.device.note_invalid_doorbell_value();
    }
}
