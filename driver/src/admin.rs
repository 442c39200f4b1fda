//! The admin queue pair: commands with up to a mebibyte of data, one owner, never waiting.

pub(crate) mod check;

use std::collections::VecDeque;
use std::sync::Arc;

use nvme_spec::{AdminOpcode, CompletionEntry, Status, SubmissionEntry};

use crate::dma::pages::{Chain, PagePool};
use crate::error::IoError;
use crate::prp;
use crate::queue::{Accounting, Completed, NEVER, QueuePair, Rings};
use crate::recorder::{Record, Recorder};
use crate::stats::{OpClass, QueueRecorder, QueueStats};

/// The most data of one admin command, in bytes.
pub const MAX_ADMIN_DATA_BYTES: usize = 1 << 20;

/// What moves with an admin command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminData {
    /// Nothing.
    None,
    /// These bytes, to the device.
    ToDevice(Vec<u8>),
    /// So many bytes, from the device.
    FromDevice(usize),
}

impl AdminData {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::ToDevice(bytes) => bytes.len(),
            Self::FromDevice(len) => *len,
        }
    }
}

/// The controller's answer to an admin command, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminFinished {
    /// The completion queue entry.
    pub completion: CompletionEntry,
    /// What the device sent; empty if the command failed.
    pub data: Vec<u8>,
}

/// Who is told of an admin command's end.
pub trait AdminAnswer: Send + Sync {
    /// `tag` is the request's. An error status of the controller is `Ok`.
    fn answer_admin(&self, tag: u64, result: Result<AdminFinished, IoError>);
}

/// An admin command for a running [`Driver`](crate::Driver).
pub struct AdminRequest {
    /// The command. Its identifier and data pointers are the driver's to fill in.
    pub entry: SubmissionEntry,
    /// Its data.
    pub data: AdminData,
    /// The caller's own; comes back with the answer.
    pub tag: u64,
    /// Who gets the answer.
    pub sink: Arc<dyn AdminAnswer>,
}

/// The admin queue pair; `T` comes back with each answer.
pub(crate) struct AdminQueue<T> {
    pair: QueuePair<Part<T>>,
    pool: PagePool,
    recorder: Arc<Recorder>,
    finished: VecDeque<(T, AdminFinished)>,
}

struct Part<T> {
    context: T,
    pages: Chain,
    /// Bytes expected from the device.
    from_device: usize,
    opcode: u8,
    nsid: u32,
    arrived_ns: u64,
}

impl<T> Part<T> {
    fn record(
        &self,
        entry: &CompletionEntry,
        submitted_ns: u64,
        now_ns: u64,
        status: Option<Status>,
    ) -> Record {
        Record {
            qid: 0,
            cid: entry.cid,
            opcode: self.opcode,
            nsid: self.nsid,
            blocks: None,
            arrived_ns: self.arrived_ns,
            doorbell_ns: submitted_ns,
            ended_ns: now_ns,
            status,
            deadline_ns: u64::MAX,
        }
    }
}

/// Whether a command is answered when there is something to tell, and not before.
fn waits(opcode: u8) -> bool {
    AdminOpcode(opcode) == AdminOpcode::ASYNC_EVENT_REQUEST
}

impl<T> AdminQueue<T> {
    /// Over empty rings; data goes through `pool`. Commands that fail or are slow go to `recorder`.
    pub(crate) fn new(rings: Rings, pool: PagePool, recorder: Arc<Recorder>) -> Self {
        let limit = rings.entries as usize;
        Self {
            pair: QueuePair::new(rings, limit, 0),
            pool,
            recorder,
            finished: VecDeque::new(),
        }
    }

    pub(crate) fn stats(&self) -> Arc<QueueStats> {
        self.pair.recorder.stats()
    }

    pub(crate) fn recorder(&self) -> &QueueRecorder {
        &self.pair.recorder
    }

    pub(crate) fn entries(&self) -> u32 {
        self.pair.entries()
    }

    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        self.pair.oldest_ns()
    }

    pub(crate) fn busy(&self) -> usize {
        self.pair.busy()
    }

    /// Writes a command; the device learns of it with [`AdminQueue::ring`]. Gives `context` back with
    /// [`IoError::Busy`] while there is no room.
    pub(crate) fn submit(
        &mut self,
        mut entry: SubmissionEntry,
        data: &AdminData,
        arrived_ns: u64,
        context: T,
    ) -> Result<(), (T, IoError)> {
        let len = data.len();
        if len > MAX_ADMIN_DATA_BYTES {
            return Err((context, IoError::OutOfRange));
        }
        let Some(reserved) = self.pair.reserve() else {
            return Err((context, IoError::Busy));
        };
        let mut pages = Chain::EMPTY;
        if self.attach(&mut entry, data, len, &mut pages).is_none() {
            self.pool.give_back(&mut pages);
            self.pair.release(reserved);
            return Err((context, IoError::Busy));
        }
        let from_device = if let AdminData::FromDevice(len) = data {
            *len
        } else {
            0
        };
        let accounting = Accounting {
            op: OpClass::Admin,
            namespace: None,
            bytes: len as u64,
            arrived_ns,
            waits: waits(entry.opcode),
        };
        let part = Part {
            context,
            pages,
            from_device,
            opcode: entry.opcode,
            nsid: entry.nsid,
            arrived_ns,
        };
        self.pair.push(reserved, entry, accounting, part);
        Ok(())
    }

    fn attach(
        &mut self,
        entry: &mut SubmissionEntry,
        data: &AdminData,
        len: usize,
        pages: &mut Chain,
    ) -> Option<()> {
        if len == 0 {
            // The data pointers are as given: queue creation has a ring's address there.
            return Some(());
        }
        let page_bytes = self.pool.page_bytes();
        let count = prp::data_pages(0, len, page_bytes);
        for index in 0..count {
            let page = self.pool.take(pages)?;
            let (region, offset) = self.pool.place(page);
            match data {
                AdminData::ToDevice(bytes) => {
                    let end = ((index + 1) * page_bytes).min(len);
                    region.copy_in(offset, bytes.get(index * page_bytes..end)?);
                }
                // What the device does not fill must not be what an earlier command left.
                _ => region.zero(offset, page_bytes),
            }
        }
        let mut page = pages.first()?;
        let address = |pool: &PagePool, _: usize| {
            let address = pool.iova(page);
            page = pool.after(page).unwrap_or(page);
            address
        };
        let mut lists = Chain::EMPTY;
        let described = prp::describe(entry, count, address, &mut self.pool, &mut lists);
        self.pool.join(pages, &mut lists);
        described
    }

    pub(crate) fn ring(&mut self, now_ns: u64) {
        self.pair.ring(now_ns);
    }

    pub(crate) fn has_completion(&self) -> bool {
        self.pair.has_completion()
    }

    /// Takes completions; the answers are then at [`AdminQueue::next_finished`].
    pub(crate) fn reap(&mut self, now_ns: u64) -> usize {
        while let Some(completed) = self.pair.reap(now_ns) {
            self.complete(completed, now_ns);
        }
        self.pair.end_pass(now_ns) as usize
    }

    fn complete(&mut self, completed: Completed<Part<T>>, now_ns: u64) {
        let Completed {
            context: mut part,
            entry,
            submitted_ns,
            ..
        } = completed;
        let status = entry.status();
        let slow = now_ns.saturating_sub(part.arrived_ns) >= self.recorder.slow_ns();
        if !waits(part.opcode) && (slow || !status.is_success()) {
            self.recorder
                .keep(part.record(&entry, submitted_ns, now_ns, Some(status)));
        }
        let mut data = Vec::new();
        if status.is_success() && part.from_device > 0 {
            data.resize(part.from_device, 0);
            let pages = std::iter::successors(part.pages.first(), |page| self.pool.after(*page));
            for (chunk, page) in data.chunks_mut(self.pool.page_bytes()).zip(pages) {
                let (region, offset) = self.pool.place(page);
                region.copy_out(offset, chunk);
            }
        }
        self.pool.give_back(&mut part.pages);
        self.finished.push_back((
            part.context,
            AdminFinished {
                completion: entry,
                data,
            },
        ));
    }

    pub(crate) fn next_finished(&mut self) -> Option<(T, AdminFinished)> {
        self.finished.pop_front()
    }

    /// The contexts of all commands that are out, which will not be answered any more. Only when the device has been
    /// `stopped` does their memory come back.
    pub(crate) fn abandon(&mut self, now_ns: u64, stopped: bool) -> Vec<T> {
        let abandoned = self.pair.abandon(now_ns);
        let contexts = abandoned.into_iter().map(|mut completed| {
            let Completed {
                context,
                entry,
                submitted_ns,
                ..
            } = &completed;
            if *submitted_ns != NEVER && !waits(context.opcode) {
                self.recorder
                    .keep(context.record(entry, *submitted_ns, now_ns, None));
            }
            if stopped {
                self.pool.give_back(&mut completed.context.pages);
            }
            completed.context.context
        });
        contexts.collect()
    }
}
