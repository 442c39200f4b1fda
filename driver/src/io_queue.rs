//! One I/O queue pair as its owner uses it: requests in, answers out.
//!
//! A request of any length becomes as many commands as the controller's limits ask for. Its data moves straight from
//! and to its buffer where the device reaches it, otherwise through pages of the queue's own. Like the queue pair
//! below it, this belongs to one owner, takes the time as an argument and never waits:
//!
//! ```
//! use nvme_driver::backend::emulated::EmulatedBackend;
//! use nvme_driver::clock::Clock;
//! use nvme_driver::{Buffer, Config, Controller, Op, Request};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Clock::system();
//! let backend = EmulatedBackend::start("size=64MiB".parse()?, clock.clone())?;
//! let mut controller = Controller::open(std::sync::Arc::new(backend), &Config::default(), clock.clone())?;
//! let mut queue = controller.take_queue::<u32>().ok_or("no queue is left")?;
//!
//! let mut buffer = controller.allocate(8192)?;
//! buffer.fill(0x5A);
//! let write = Request {
//!     op: Op::Write { fua: true },
//!     nsid: 1,
//!     slba: 10,
//!     blocks: 2,
//!     buffer: Buffer::Dma(buffer),
//!     arrived_ns: clock.now_ns(),
//!     context: 7,
//! };
//! queue.submit(write).map_err(|rejected| rejected.why)?;
//! queue.ring(clock.now_ns()); // one doorbell for all that was submitted
//! let finished = loop {
//!     queue.reap(clock.now_ns());
//!     if let Some(finished) = queue.next_finished() {
//!         break finished;
//!     }
//! };
//! assert_eq!((finished.context, finished.result), (7, Ok(())));
//! drop(queue);
//! controller.shutdown()?;
//! # Ok(())
//! # }
//! ```

mod abandon;
mod active;
mod check;
mod command;
mod run;

use std::collections::VecDeque;
use std::sync::Arc;

use self::active::{Active, NIL, Part};
use self::command::{
    answer_passthrough, attach_data, attach_passthrough, attach_range, command_for, copy_from_pages,
    next_blocks,
};
use crate::backend::Windows;
use crate::dma::arena::Arena;
use crate::dma::pages::{Chain, PagePool};
use crate::error::IoError;
use crate::io_scheduler::{MissedIn, Priority};
use crate::namespace::Namespace;
use crate::namespace::table::SPARE_PLACES;
use crate::passthrough::counted_bytes;
use crate::queue::{Accounting, Completed, QueuePair};
use crate::recorder::{Record, Recorder};
use crate::request::{Finished, Op, Request};
use crate::stats::{OpClass, QueueStats};

/// Completions taken in one pass. Small, so that answers are not held back by their successors and the next doorbell
/// comes soon; a pass costs two readings of the clock and a doorbell.
const PASS: usize = 16;

/// What one command may be, from Identify and the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of data (MDTS, or what the driver sets itself), a multiple of the page size.
    pub(crate) max_transfer_bytes: usize,
    /// The controller's memory page (CC.MPS).
    pub(crate) page_bytes: usize,
    /// Data straight from and to callers' memory.
    pub(crate) zero_copy: bool,
    /// Bytes of Write Zeroes (WZSL).
    pub(crate) max_zeroes_bytes: u64,
    /// Bytes of Verify (VSL).
    pub(crate) max_verify_bytes: u64,
    /// Blocks of one range of Dataset Management (DMRSL).
    pub(crate) max_range_blocks: u64,
    /// Blocks that are written in one piece if power fails (AWUPF).
    pub(crate) atomic_blocks: u64,
}

/// What an [`IoQueue`] is made of.
pub(crate) struct Parts {
    pub(crate) rings: crate::queue::Rings,
    pub(crate) limit: usize,
    pub(crate) pool: PagePool,
    pub(crate) windows: Option<Box<dyn Windows>>,
    pub(crate) limits: Limits,
    pub(crate) namespaces: Arc<[Namespace]>,
    pub(crate) arena: Arena,
    pub(crate) recorder: Arc<Recorder>,
}

/// A request that was not taken, and why.
#[derive(Debug)]
pub struct Rejected<T> {
    /// The request, unchanged.
    pub request: Request<T>,
    /// Why.
    pub why: IoError,
}

/// An I/O queue pair that takes requests. See the [module](self).
pub struct IoQueue<T> {
    pair: QueuePair<Part>,
    pool: PagePool,
    windows: Option<Box<dyn Windows>>,
    limits: Limits,
    namespaces: Arc<[Namespace]>,
    arena: Arena,
    recorder: Arc<Recorder>,
    /// The recorder's, at hand: looked at for each command.
    slow_ns: u64,
    requests: Vec<Option<Active<T>>>,
    free: Vec<u32>,
    /// Requests with commands still to be sent, in order.
    waiting: VecDeque<u32>,
    /// Requests of runs that have failed, each to be sent alone.
    again: VecDeque<u32>,
    /// Requests that have not got here yet and are shown as waiting too.
    behind: u64,
    finished: VecDeque<Finished<T>>,
    /// Whether this pass has kept a late command.
    kept_late: bool,
}

/// A command could not be sent yet, for want of a slot or of pages.
struct Stalled;

impl<T> IoQueue<T> {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            rings,
            limit,
            pool,
            windows,
            limits,
            namespaces,
            arena,
            recorder,
        } = parts;
        let pair = QueuePair::new(rings, limit, namespaces.len() + SPARE_PLACES);
        let capacity = Self::capacity_for(pair.limit());
        Self {
            pair,
            pool,
            windows,
            limits,
            namespaces,
            arena,
            slow_ns: recorder.slow_ns(),
            recorder,
            requests: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            waiting: VecDeque::with_capacity(capacity),
            again: VecDeque::with_capacity(capacity),
            behind: 0,
            finished: VecDeque::with_capacity(capacity),
            kept_late: false,
        }
    }

    /// Requests that can be under way: enough to keep every slot busy with single commands while as many wait.
    fn capacity_for(slots: usize) -> usize {
        (slots * 2).max(64)
    }

    /// From now on requests are for these, in the same places as before as far as they were there.
    pub(crate) fn set_namespaces(&mut self, places: Arc<[Namespace]>) {
        self.namespaces = places;
    }

    /// The queue's number.
    pub fn qid(&self) -> u16 {
        self.pair.qid()
    }

    /// Entries of the rings.
    pub fn entries(&self) -> u32 {
        self.pair.entries()
    }

    /// Commands that can be out at once.
    pub fn limit(&self) -> usize {
        self.pair.limit()
    }

    /// Requests that can still be submitted before some are finished.
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Requests under way.
    pub fn inflight(&self) -> usize {
        self.requests.len() - self.free.len()
    }

    /// Commands that are out, and those in the ring whose doorbell has not been written.
    pub(crate) fn commands(&self) -> usize {
        self.pair.busy()
    }

    /// When the oldest command that is out was handed to the device.
    pub fn oldest_ns(&self) -> Option<u64> {
        self.pair.oldest_ns()
    }

    /// When the youngest command that is out was handed to the device.
    pub(crate) fn youngest_ns(&self) -> Option<u64> {
        self.pair.youngest_ns()
    }

    /// What the command took whose completion was taken last, if there was one since this was asked.
    #[inline]
    pub(crate) fn take_latency(&mut self) -> Option<u64> {
        self.pair.take_latency()
    }

    /// What this queue counts.
    pub fn stats(&self) -> Arc<QueueStats> {
        self.pair.recorder.stats()
    }

    pub(crate) fn recorder(&self) -> &crate::stats::QueueRecorder {
        &self.pair.recorder
    }

    /// Takes a request; its first commands are written as far as there is room. The device learns of them with
    /// [`IoQueue::ring`].
    ///
    /// # Errors
    /// A request that cannot be done as it is, or [`IoError::Busy`] if as many are under way as can be. Nothing has
    /// changed then.
    // The error is the request itself: boxing it would allocate on the data path.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn submit(&mut self, request: Request<T>) -> Result<(), Rejected<T>> {
        self.submit_by(request, u64::MAX)
    }

    /// As [`IoQueue::submit`], of a request that should be done at `deadline_ns` at the latest. It is done in any case;
    /// whether it was in time is counted, and shown if it was not. `u64::MAX` is no deadline.
    ///
    /// # Errors
    /// As there.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn submit_by(&mut self, request: Request<T>, deadline_ns: u64) -> Result<(), Rejected<T>> {
        let is_next = self.waiting.is_empty();
        self.enter(request, deadline_ns, true)?;
        if is_next {
            self.send_waiting();
        } else {
            self.show_waiting();
        }
        Ok(())
    }

    /// As [`IoQueue::submit_by`], but its commands are not written before [`IoQueue::send_waiting`]: others may
    /// [join](IoQueue::join) it first. `shows_late` says whether a recorder may keep it for being late. Returns its number.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub(crate) fn enter(
        &mut self,
        request: Request<T>,
        deadline_ns: u64,
        shows_late: bool,
    ) -> Result<u32, Rejected<T>> {
        let number = self.take_in(request, deadline_ns, shows_late)?;
        self.waiting.push_back(number);
        Ok(number)
    }

    /// Gives a request a number.
    #[allow(clippy::result_large_err)]
    #[inline]
    fn take_in(
        &mut self,
        request: Request<T>,
        deadline_ns: u64,
        shows_late: bool,
    ) -> Result<u32, Rejected<T>> {
        let namespace = match self.place_for(&request) {
            Ok(namespace) => namespace,
            Err(why) => return Err(Rejected { request, why }),
        };
        let Some(number) = self.free.pop() else {
            return Err(Rejected {
                request,
                why: IoError::Busy,
            });
        };
        let doorbell_ns = u64::MAX;
        self.requests[number as usize] = Some(Active {
            request,
            namespace,
            sent_blocks: 0,
            sent_all: false,
            commands_out: 0,
            result: Ok(()),
            doorbell_ns,
            deadline_ns,
            shows_late,
            next: NIL,
        });
        Ok(number)
    }

    /// Whether there are requests with commands still to be sent.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Writes the doorbell for all commands that were written since the last time; `now_ns` is when.
    #[inline]
    pub fn ring(&mut self, now_ns: u64) {
        self.pair.ring(now_ns);
        self.pair.recorder.leave_copy_if_asked();
    }

    /// Whether there are commands that the device has not been told of.
    #[inline]
    pub fn has_batch(&self) -> bool {
        self.pair.has_batch()
    }

    /// Whether [`IoQueue::reap`] would find something.
    #[inline]
    pub fn has_completion(&self) -> bool {
        self.pair.has_completion()
    }

    /// A look at the completion queue that found nothing. Always false: nothing was done.
    #[inline]
    pub(crate) fn reap_nothing(&mut self, now_ns: u64) -> bool {
        self.pair.end_pass(now_ns);
        self.pair.recorder.leave_copy_if_asked();
        false
    }

    /// Takes completions, up to a pass of them, seen at `now_ns` (best read after [`IoQueue::has_completion`]), and writes commands of waiting requests into the
    /// slots that have become free. Returns how many completion entries there were. Answers are then at
    /// [`IoQueue::next_finished`].
    #[inline]
    pub fn reap(&mut self, now_ns: u64) -> usize {
        self.kept_late = false;
        for _ in 0..PASS {
            let Some(completed) = self.pair.reap(now_ns) else {
                break;
            };
            self.complete(completed, now_ns);
        }
        let entries = self.pair.end_pass(now_ns) as usize;
        if entries > 0 && !self.waiting.is_empty() {
            self.send_waiting();
        }
        self.pair.recorder.leave_copy_if_asked();
        entries
    }

    /// Shows how many requests wait for a slot.
    #[inline]
    fn show_waiting(&mut self) {
        self.pair
            .recorder
            .host_queued(self.waiting.len() as u64 + self.behind);
    }

    /// A request of this class is about to be submitted, its turn having come.
    #[inline]
    pub(crate) fn scheduled(&mut self, priority: Priority) {
        self.pair.recorder.scheduled(priority);
    }

    /// So many requests wait elsewhere for this queue.
    #[inline]
    pub(crate) fn show_behind(&mut self, requests: usize) {
        if self.behind != requests as u64 {
            self.behind = requests as u64;
            self.show_waiting();
        }
    }

    /// The next request that is done.
    #[inline]
    pub fn next_finished(&mut self) -> Option<Finished<T>> {
        self.finished.pop_front()
    }

    #[inline]
    fn complete(&mut self, completed: Completed<Part>, now_ns: u64) {
        let Completed {
            slot,
            context: mut part,
            entry,
            submitted_ns,
        } = completed;
        if part.window
            && let Some(windows) = &mut self.windows
        {
            windows.unmap(slot);
        }
        let Some(active) = &mut self.requests[part.request as usize] else {
            return;
        };
        if active.next != NIL {
            return self.complete_run(part, entry, submitted_ns, now_ns);
        }
        let status = entry.status();
        // One of a pass: where many are late they would push others' failed commands out of the recorder.
        let keeps_late = now_ns > active.deadline_ns && active.shows_late && !self.kept_late;
        if now_ns.saturating_sub(active.request.arrived_ns) >= self.slow_ns
            || !status.is_success()
            || keeps_late
        {
            self.kept_late |= keeps_late;
            let namespace = &self.namespaces[active.namespace];
            let record = active.record(&part, namespace, self.pair.qid(), entry.cid);
            self.recorder.keep(Record {
                doorbell_ns: submitted_ns,
                ended_ns: now_ns,
                status: Some(status),
                ..record
            });
        }
        if part.copied {
            let Request { op, buffer, .. } = &mut active.request;
            if *op == Op::Passthrough {
                answer_passthrough(&self.pool, &part, buffer, &entry);
            } else if status.is_success() && op.fills_buffer() {
                copy_from_pages(&self.pool, &part, buffer);
            }
        }
        if !status.is_success() && active.result.is_ok() {
            active.result = Err(IoError::Status(status));
        }
        if part.pages != Chain::EMPTY {
            self.pool.give_back(&mut part.pages);
        }
        active.commands_out -= 1;
        active.doorbell_ns = active.doorbell_ns.min(submitted_ns);
        if active.commands_out == 0 && active.sent_all {
            self.done(part.request, now_ns);
        }
    }

    /// The device has answered all of a request's commands.
    #[inline]
    fn done(&mut self, number: u32, now_ns: u64) {
        if let Some(Some(active)) = self.requests.get(number as usize)
            && active.deadline_ns != u64::MAX
        {
            let missed_in = MissedIn::of(
                active.deadline_ns,
                active.request.arrived_ns,
                active.doorbell_ns,
                now_ns,
            );
            self.pair.recorder.deadline(missed_in);
        }
        self.finish(number, now_ns);
    }

    fn finish(&mut self, number: u32, now_ns: u64) {
        let Some(active) = self.requests[number as usize].take() else {
            return;
        };
        self.free.push(number);
        let Active {
            request,
            result,
            doorbell_ns,
            ..
        } = active;
        let Request {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            arrived_ns,
            context,
        } = request;
        // A caller whose clock runs ahead does not get a doorbell from before its request.
        let doorbell_ns = doorbell_ns.max(arrived_ns);
        let completed_ns = now_ns.max(doorbell_ns);
        self.finished.push_back(Finished {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            context,
            result,
            arrived_ns,
            doorbell_ns,
            completed_ns,
        });
    }

    /// As [`IoQueue::finish`], of a request none of whose commands is out any more; the device may not even have seen one.
    #[cold]
    fn finish_unsent(&mut self, number: u32) {
        if let Some(Some(active)) = self.requests.get_mut(number as usize)
            && active.doorbell_ns == u64::MAX
        {
            active.doorbell_ns = 0;
        }
        self.finish(number, 0);
    }

    /// Writes commands of waiting requests, in order, for as long as there are slots and pages.
    #[inline]
    pub(crate) fn send_waiting(&mut self) {
        while let Some(&number) = self.waiting.front() {
            match self.send_one(number) {
                Ok(true) => {
                    self.waiting.pop_front();
                }
                Ok(false) => {}
                Err(Stalled) => break,
            }
        }
        self.show_waiting();
    }

    /// Writes the next command of a request; says whether that was its last.
    #[inline]
    fn send_one(&mut self, number: u32) -> Result<bool, Stalled> {
        let Some(active) = &mut self.requests[number as usize] else {
            return Ok(true);
        };
        let namespace = &self.namespaces[active.namespace];
        if active.next != NIL {
            if namespace.nsid == active.request.nsid {
                return self.send_run(number).map(|()| true);
            }
            self.scatter(number);
            return Ok(false);
        }
        if namespace.nsid != active.request.nsid {
            // It went after the request was accepted. What has its number next may have blocks of another size, for which
            // the request's memory is not meant.
            active.result = active.result.and(Err(IoError::NoNamespace));
            active.sent_all = true;
            if active.commands_out == 0 {
                self.finish_unsent(number);
            }
            return Ok(true);
        }
        let reserved = self.pair.reserve().ok_or(Stalled)?;
        let request = &active.request;
        let slba = request.slba + active.sent_blocks;
        let blocks = next_blocks(
            &self.limits,
            namespace,
            request.op,
            slba,
            request.blocks - active.sent_blocks,
        );
        let mut part = Part {
            request: number,
            pages: Chain::EMPTY,
            offset: (active.sent_blocks << namespace.lba_shift) as usize,
            len: (blocks << namespace.lba_shift) as usize,
            copied: false,
            window: false,
        };
        let mut entry = command_for(request.op, request.nsid, slba, blocks);
        let attached = match request.op {
            Op::Flush | Op::WriteZeroes { .. } | Op::Verify => Some(()),
            Op::Deallocate => attach_range(&mut self.pool, &mut entry, &mut part, slba, blocks),
            Op::Passthrough => attach_passthrough(
                &mut self.pool,
                &self.limits,
                &active.request,
                &mut entry,
                &mut part,
            ),
            Op::Read | Op::Write { .. } | Op::Compare => attach_data(
                &mut self.pool,
                &mut self.windows,
                &self.limits,
                &self.arena,
                &mut active.request,
                &reserved,
                &mut entry,
                &mut part,
            ),
        };
        if attached.is_none() {
            self.pool.give_back(&mut part.pages);
            if part.window
                && let Some(windows) = &mut self.windows
            {
                windows.unmap(reserved.slot());
            }
            self.pair.release(reserved);
            return Err(Stalled);
        }
        let request = &active.request;
        let op = OpClass::of_nvm(entry.opcode);
        if request.op.has_data() {
            self.pair.recorder.moved(part.len as u64, part.copied);
        }
        let bytes = match request.op {
            Op::Flush => 0,
            Op::Passthrough => counted_bytes(&entry, namespace.lba_shift),
            _ => part.len as u64,
        };
        let accounting = Accounting {
            op,
            namespace: Some(active.namespace),
            bytes,
            arrived_ns: request.arrived_ns,
            waits: false,
        };
        active.sent_blocks += blocks;
        active.sent_all =
            active.sent_blocks == request.blocks || matches!(request.op, Op::Flush | Op::Passthrough);
        active.commands_out += 1;
        let sent_all = active.sent_all;
        self.pair.push(reserved, entry, accounting, part);
        Ok(sent_all)
    }
}

#[cfg(test)]
mod tests;
