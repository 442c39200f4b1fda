//! Creating and deleting I/O queues (Base 2.0, sections 5.4 to 5.7), and where their doorbells are (5.8).

use std::collections::BTreeMap;

use nvme_spec::register::{IOCQES, IOSQES};
use nvme_spec::{CreateCqCdw11, CreateQueueCdw10, CreateSqCdw11, Status, SubmissionEntry};

use super::{Admin, CDW10_BYTE, CDW11_BYTE, Failure, PRP1_BYTE, PRP2_BYTE, Reply, fail_at};
use crate::engine::{Context, Finished, Shadow};
use crate::rings::{CompletionQueue, Place, SubmissionQueue};
use crate::shard::ShardSlot;

/// The I/O queues there are, as the admin commands see them.
#[derive(Debug, Default)]
pub(super) struct IoQueues {
    /// Completion queues, and the shard each is on.
    cqs: BTreeMap<u16, usize>,
    /// Submission queues, and the completion queue of each.
    sqs: BTreeMap<u16, u16>,
    shadow: Option<Shadow>,
}

impl IoQueues {
    pub fn is_empty(&self) -> bool {
        self.cqs.is_empty() && self.sqs.is_empty()
    }

    /// The shard that submission queue `qid` is on.
    pub fn shard_of_sq(&self, qid: u16) -> Option<usize> {
        self.cqs.get(self.sqs.get(&qid)?).copied()
    }
}

impl Admin {
    pub(super) fn create_io_cq(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = CreateQueueCdw10::from(entry.cdw10);
        let cdw11 = CreateCqCdw11::from(entry.cdw11);
        let (_, granted) = self.granted_queues(cx);
        let qid = cdw10.qid();
        if qid == 0 || qid > granted || self.queues.cqs.contains_key(&qid) {
            return Err(at(Status::INVALID_QUEUE_IDENTIFIER, CDW10_BYTE));
        }
        let size = self.queue_size(cx, cdw10)?;
        if self.cc.iocqes() != IOCQES {
            // The size of an entry is part of the size of the queue, and this one was never said.
            return Err(at(Status::INVALID_QUEUE_SIZE, CDW10_BYTE + 2));
        }
        if cdw11.iv() >= cx.device.config.vectors {
            return Err(at(Status::INVALID_INTERRUPT_VECTOR, CDW11_BYTE + 2));
        }
        let place = self.place(cx, entry, cdw11.pc(), u64::from(size) << IOCQES)?;
        let shards = &cx.device.shards;
        let index = usize::from(qid - 1) % shards.len().max(1);
        let vector = cdw11.ien().then(|| cdw11.iv());
        let slot = shard(cx, index)?;
        cx.device.registers.claim(usize::from(qid) * 2 + 1, index);
        slot.borrow()
            .engine
            .add_cq(CompletionQueue::new(qid, place, size, vector));
        self.queues.cqs.insert(qid, index);
        Ok(Finished::OK)
    }

    pub(super) fn create_io_sq(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = CreateQueueCdw10::from(entry.cdw10);
        let cdw11 = CreateSqCdw11::from(entry.cdw11);
        let (granted_sqs, granted_cqs) = self.granted_queues(cx);
        let (qid, cqid) = (cdw10.qid(), cdw11.cqid());
        if qid == 0 || qid > granted_sqs || self.queues.sqs.contains_key(&qid) {
            return Err(at(Status::INVALID_QUEUE_IDENTIFIER, CDW10_BYTE));
        }
        if cqid == 0 || cqid > granted_cqs {
            return Err(at(Status::INVALID_QUEUE_IDENTIFIER, CDW11_BYTE + 2));
        }
        let Some(index) = self.queues.cqs.get(&cqid).copied() else {
            return Err(at(Status::COMPLETION_QUEUE_INVALID, CDW11_BYTE + 2));
        };
        let size = self.queue_size(cx, cdw10)?;
        if self.cc.iosqes() != IOSQES {
            return Err(at(Status::INVALID_QUEUE_SIZE, CDW10_BYTE + 2));
        }
        let place = self.place(cx, entry, cdw11.pc(), u64::from(size) << IOSQES)?;
        let slot = shard(cx, index)?;
        cx.device.registers.claim(usize::from(qid) * 2, index);
        slot.borrow().engine.add_sq(SubmissionQueue::with_priority(
            qid,
            cqid,
            cdw11.qprio(),
            place,
            size,
        ));
        self.queues.sqs.insert(qid, cqid);
        Ok(Finished::OK)
    }

    pub(super) fn delete_io_sq(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let qid = CreateQueueCdw10::from(entry.cdw10).qid();
        let Some(index) = self.queues.shard_of_sq(qid) else {
            return Err(at(Status::INVALID_QUEUE_IDENTIFIER, CDW10_BYTE));
        };
        let slot = shard(cx, index)?;
        slot.borrow().engine.delete_sq(
            Context {
                tally: &slot.tally,
                ..cx
            },
            qid,
        );
        cx.device.registers.release(usize::from(qid) * 2);
        self.queues.sqs.remove(&qid);
        Ok(Finished::OK)
    }

    pub(super) fn delete_io_cq(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let qid = CreateQueueCdw10::from(entry.cdw10).qid();
        let Some(index) = self.queues.cqs.get(&qid).copied() else {
            return Err(at(Status::INVALID_QUEUE_IDENTIFIER, CDW10_BYTE));
        };
        if self.queues.sqs.values().any(|cqid| *cqid == qid) {
            return Err(at(Status::INVALID_QUEUE_DELETION, CDW10_BYTE));
        }
        shard(cx, index)?.borrow().engine.delete_cq(qid);
        cx.device.registers.release(usize::from(qid) * 2 + 1);
        self.queues.cqs.remove(&qid);
        Ok(Finished::OK)
    }

    /// Base 2.0, section 5.8. The admin queue's doorbells stay in BAR0: drivers in the field never write its shadows.
    pub(super) fn doorbell_buffer_config(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let page_bytes = cx.device.page_bytes();
        for (address, byte) in [(entry.prp1, PRP1_BYTE), (entry.prp2, PRP2_BYTE)] {
            if !address.is_multiple_of(page_bytes) || address == 0 {
                return Err(fail_at(byte));
            }
        }
        let shadow = Shadow {
            doorbells: entry.prp1,
            event_indexes: entry.prp2,
            stride_shift: 2 + u32::from(cx.device.config.dstrd),
            len_bytes: page_bytes,
        };
        self.queues.shadow = Some(shadow);
        for slot in &cx.device.shards {
            slot.borrow().engine.set_shadow(Some(shadow));
        }
        // Doorbells rung in memory from now on are for threads that may be asleep, with no event index to wake them.
        cx.device.wake_all();
        Ok(Finished::OK)
    }

    fn queue_size(&self, cx: Context<'_>, cdw10: CreateQueueCdw10) -> Result<u32, Failure> {
        let size_z = cdw10.qsize_z();
        if size_z == 0 || size_z > cx.device.config.mqes_z() {
            return Err(at(Status::INVALID_QUEUE_SIZE, CDW10_BYTE + 2));
        }
        Ok(u32::from(size_z) + 1)
    }

    /// Where a queue of `len_bytes` lies: at PRP1, or in the pages that the list at PRP1 names.
    fn place(
        &self,
        cx: Context<'_>,
        entry: &SubmissionEntry,
        contiguous: bool,
        len_bytes: u64,
    ) -> Result<Place, Failure> {
        let page_bytes = cx.device.page_bytes();
        if !entry.prp1.is_multiple_of(page_bytes) || entry.prp1 == 0 {
            return Err(at(Status::INVALID_PRP_OFFSET, PRP1_BYTE));
        }
        if contiguous {
            return Ok(Place::Contiguous(entry.prp1));
        }
        if cx.device.config.contiguous_queues {
            return Err(fail_at(CDW11_BYTE));
        }
        // The list is in one page, or chained where it does not fit (section 4.1.1, PRP list).
        let mut pages = Vec::new();
        let wanted = len_bytes.div_ceil(page_bytes);
        let (mut list, mut left) = (entry.prp1, page_bytes / 8);
        while (pages.len() as u64) < wanted {
            let mut pointer = [0; 8];
            let read = cx.device.memory.read(list, &mut pointer);
            read.map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            let pointer = u64::from_le_bytes(pointer);
            if !pointer.is_multiple_of(page_bytes) {
                return Err(at(Status::INVALID_PRP_OFFSET, PRP1_BYTE));
            }
            let is_chain = left == 1 && (pages.len() as u64) + 1 < wanted;
            if is_chain {
                (list, left) = (pointer, page_bytes / 8);
            } else {
                pages.push(pointer);
                (list, left) = (list.wrapping_add(8), left - 1);
            }
        }
        Ok(Place::Pages {
            pages,
            page_shift: cx.device.page_shift().into(),
        })
    }
}

fn shard(cx: Context<'_>, index: usize) -> Result<&ShardSlot, Failure> {
    cx.device.shards.get(index).ok_or(Status::INTERNAL_ERROR.into())
}

fn at(status: Status, byte: u16) -> Failure {
    Failure {
        status,
        location: Some(byte),
    }
}
