//! Small requests for blocks that follow each other, done as one command.
//!
//! Their data goes through pages of the queue's own, where it lies without gaps whatever the callers' buffers are. A command of
//! several requests that fails is done again as one for each, so that each has the answer that is its own.
//!
//! What is a promise to the writer of one request stays one: a write of more than a block is merged only as far as the controller
//! writes in one piece if its power fails (AWUPF), and not where such pieces end at boundaries (NABSN, NABSPF; NVM Command Set
//! specification 1.0, section 2.1.4). A single block is taken to be in one piece in any command, as everybody does.

use nvme_spec::identify::{IdentifyNamespace, Nsfeat};
use nvme_spec::{CompletionEntry, Status};
use zerocopy::FromBytes;

use super::active::{Active, NIL, Part};
use super::command::{attach_copied, command_for, next_blocks};
use super::{IoQueue, Rejected, Stalled};
use crate::backlog::MOST_MERGED_BYTES;
use crate::dma::pages::{Chain, PagePool};
use crate::queue::Accounting;
use crate::recorder::Record;
use crate::request::{Op, Request};
use crate::stats::OpClass;

/// What requests are merged to at most: whoever is next waits for all of it.
const MOST_RUN_BYTES: u64 = 64 * 1024;

/// A request that [`IoQueue::enter`] has taken, and those that have joined it.
pub(crate) struct Run {
    /// Its last request.
    last: u32,
    /// The place of its namespace.
    pub(crate) place: usize,
    /// What is done with the blocks.
    pub(crate) op: Op,
    /// The block after its last one.
    pub(crate) end_slba: u64,
    /// The blocks that it may still grow by.
    room_blocks: u64,
    /// What one request more may have at most.
    most_request_blocks: u64,
}

impl Run {
    /// How many blocks one that joins next may have; 0 if none may.
    pub(crate) fn room_blocks(&self) -> u64 {
        self.room_blocks.min(self.most_request_blocks)
    }
}

impl<T> IoQueue<T> {
    /// What may join the request `number`, which has been entered and not been sent; `None` if nothing may.
    pub(crate) fn run_of(&self, number: u32) -> Option<Run> {
        let active = self.requests.get(number as usize)?.as_ref()?;
        let Request { op, slba, blocks, .. } = active.request;
        let namespace = self.namespaces.get(active.namespace)?;
        let in_blocks = |bytes: u64| bytes >> namespace.lba_shift;
        if !matches!(op, Op::Read | Op::Write { .. }) || blocks > in_blocks(MOST_MERGED_BYTES as u64) {
            return None;
        }
        let mut most_blocks = next_blocks(&self.limits, namespace, op, slba, in_blocks(MOST_RUN_BYTES));
        let mut most_request_blocks = in_blocks(MOST_MERGED_BYTES as u64);
        if op != Op::Read {
            let identify = IdentifyNamespace::ref_from_bytes(&namespace.identify[..]).ok()?;
            let has_boundaries = Nsfeat::from(identify.nsfeat).atomic_write_units()
                && (identify.nabsn.get(), identify.nabspf.get()) != (0, 0);
            let whole_blocks = if has_boundaries {
                1
            } else {
                self.limits.atomic_blocks
            };
            if most_blocks > whole_blocks {
                if blocks == 1 {
                    most_request_blocks = 1;
                } else {
                    most_blocks = whole_blocks;
                }
            }
        }
        Some(Run {
            last: number,
            place: active.namespace,
            op,
            end_slba: slba + blocks,
            room_blocks: most_blocks.saturating_sub(blocks),
            most_request_blocks,
        })
    }

    /// Takes a request that goes on where `run` ends and is no longer than that has room for.
    ///
    /// # Errors
    /// As [`IoQueue::submit`].
    #[allow(clippy::result_large_err)]
    pub(crate) fn join(
        &mut self,
        run: &mut Run,
        request: Request<T>,
        deadline_ns: u64,
        shows_late: bool,
    ) -> Result<(), Rejected<T>> {
        debug_assert!(request.slba == run.end_slba && request.blocks <= run.room_blocks());
        let blocks = request.blocks;
        let number = self.take_in(request, deadline_ns, shows_late)?;
        if let Some(Some(last)) = self.requests.get_mut(run.last as usize) {
            last.next = number;
        }
        run.last = number;
        run.end_slba += blocks;
        run.room_blocks = run.room_blocks.saturating_sub(blocks);
        Ok(())
    }

    /// Writes the command of the run that begins with the request `first`.
    pub(super) fn send_run(&mut self, first: u32) -> Result<(), Stalled> {
        let Some(Some(active)) = self.requests.get(first as usize) else {
            return Ok(());
        };
        let reserved = self.pair.reserve().ok_or(Stalled)?;
        let Request { op, nsid, slba, .. } = active.request;
        let place = active.namespace;
        let shift = self
            .namespaces
            .get(place)
            .map_or(0, |namespace| namespace.lba_shift);
        let (mut requests, mut blocks, mut arrived_ns) = (0, 0, u64::MAX);
        for member in members(&self.requests, first) {
            requests += 1;
            blocks += member.request.blocks;
            arrived_ns = arrived_ns.min(member.request.arrived_ns);
        }
        let mut part = Part {
            request: first,
            pages: Chain::EMPTY,
            offset: 0,
            len: (blocks << shift) as usize,
            copied: true,
            window: false,
        };
        let mut entry = command_for(op, nsid, slba, blocks);
        let page_bytes = self.limits.page_bytes;
        if attach_copied(&mut self.pool, page_bytes, None, &mut entry, &mut part).is_none() {
            self.pool.give_back(&mut part.pages);
            self.pair.release(reserved);
            return Err(Stalled);
        }
        let mut pages = Pages::of(&self.pool, &part.pages);
        let mut number = first;
        while let Some(Some(member)) = self.requests.get_mut(number as usize) {
            let Request { blocks, buffer, .. } = &member.request;
            if !op.fills_buffer() {
                pages.each((*blocks << shift) as usize, |range, region, offset| {
                    buffer.copy_to(range, region, offset);
                });
            }
            member.sent_blocks = *blocks;
            member.sent_all = true;
            member.commands_out = 1;
            number = member.next;
        }
        let bytes = part.len as u64;
        self.pair.recorder.moved(bytes, true);
        self.pair.recorder.merged(requests - 1);
        let accounting = Accounting {
            op: OpClass::of_nvm(entry.opcode),
            namespace: Some(place),
            bytes,
            arrived_ns,
            waits: false,
        };
        self.pair.push(reserved, entry, accounting, part);
        Ok(())
    }

    /// The command of a run has completed.
    #[inline(never)]
    pub(super) fn complete_run(
        &mut self,
        mut part: Part,
        entry: CompletionEntry,
        submitted_ns: u64,
        now_ns: u64,
    ) {
        let first = part.request;
        let status = entry.status();
        self.keep_run(&part, entry, submitted_ns, now_ns);
        if status.is_success() {
            let mut pages = Pages::of(&self.pool, &part.pages);
            let mut number = first;
            while let Some(Some(member)) = self.requests.get_mut(number as usize) {
                let place = self.namespaces.get(member.namespace);
                let shift = place.map_or(0, |namespace| namespace.lba_shift);
                let Request {
                    op, blocks, buffer, ..
                } = &mut member.request;
                if op.fills_buffer() {
                    pages.each((*blocks << shift) as usize, |range, region, offset| {
                        buffer.copy_from(range, region, offset);
                    });
                }
                number = member.next;
            }
        }
        self.pool.give_back(&mut part.pages);
        let mut number = first;
        while let Some(Some(member)) = self.requests.get_mut(number as usize) {
            let next = std::mem::replace(&mut member.next, NIL);
            member.commands_out = 0;
            member.doorbell_ns = member.doorbell_ns.min(submitted_ns);
            if status.is_success() {
                self.done(number, now_ns);
            } else {
                (member.sent_blocks, member.sent_all) = (0, false);
                self.again.push_back(number);
            }
            number = next;
        }
    }

    /// Keeps the command of a run for who wants to see it, if it failed or one of its requests was slow or late.
    fn keep_run(&mut self, part: &Part, entry: CompletionEntry, submitted_ns: u64, now_ns: u64) {
        let slow_ns = self.slow_ns;
        let is_late = |member: &Active<T>| now_ns > member.deadline_ns && member.shows_late;
        let is_slow = |member: &Active<T>| now_ns.saturating_sub(member.request.arrived_ns) >= slow_ns;
        let late = !self.kept_late && members(&self.requests, part.request).any(is_late);
        let slow = members(&self.requests, part.request).any(is_slow);
        let status: Status = entry.status();
        if (late || slow || !status.is_success())
            && let Some(Some(active)) = self.requests.get(part.request as usize)
            && let Some(namespace) = self.namespaces.get(active.namespace)
        {
            self.kept_late |= late;
            self.recorder.keep(Record {
                doorbell_ns: submitted_ns,
                ended_ns: now_ns,
                status: Some(status),
                ..active.record(part, namespace, self.pair.qid(), entry.cid)
            });
        }
    }

    /// Writes the command of one request of a run that has failed; says whether there was one.
    #[inline]
    pub(crate) fn send_again(&mut self) -> bool {
        let Some(number) = self.again.pop_front() else {
            return false;
        };
        self.pair.recorder.retried();
        self.waiting.push_back(number);
        self.send_waiting();
        true
    }

    /// Makes single requests of the run that begins with `first`, which has not been sent. Those that have joined wait on their own.
    #[cold]
    pub(super) fn scatter(&mut self, first: u32) {
        let mut number = first;
        while let Some(Some(member)) = self.requests.get_mut(number as usize) {
            if number != first {
                self.waiting.push_back(number);
            }
            number = std::mem::replace(&mut member.next, NIL);
        }
    }
}

/// The requests of the run that begins with `first`.
fn members<T>(requests: &[Option<Active<T>>], first: u32) -> impl Iterator<Item = &Active<T>> {
    let at = |number: u32| requests.get(number as usize)?.as_ref();
    std::iter::successors(at(first), move |member| at(member.next))
}

/// The bytes of a chain of pages, one after the other.
struct Pages<'a> {
    pool: &'a PagePool,
    page: Option<u32>,
    used: usize,
}

impl<'a> Pages<'a> {
    fn of(pool: &'a PagePool, chain: &Chain) -> Self {
        let (page, used) = (chain.first(), 0);
        Self { pool, page, used }
    }

    /// The next `len` bytes, in pieces: which of the `len` they are, and where they lie.
    fn each(
        &mut self,
        len: usize,
        mut piece: impl FnMut(std::ops::Range<usize>, &crate::dma::Region, usize),
    ) {
        let page_bytes = self.pool.page_bytes();
        let mut done = 0;
        while done < len
            && let Some(page) = self.page
        {
            let bytes = (page_bytes - self.used).min(len - done);
            let (region, offset) = self.pool.place(page);
            piece(done..done + bytes, region, offset + self.used);
            done += bytes;
            self.used += bytes;
            if self.used == page_bytes {
                (self.page, self.used) = (self.pool.after(page), 0);
            }
        }
    }
}
