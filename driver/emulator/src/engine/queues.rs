//! The queues of an engine come and go.

use nvme_spec::Status;

use super::{Context, Engine, Finished, Shadow};
use crate::rings::{CompletionQueue, SubmissionQueue};

impl Engine {
    /// Adds a completion queue.
    pub fn add_cq(&mut self, cq: CompletionQueue) {
        self.cqs.push(cq);
    }

    /// Adds a submission queue. Its completion queue is already there.
    pub fn add_sq(&mut self, mut sq: SubmissionQueue) {
        if let Some(cq) = self.cqs.iter().position(|cq| cq.qid == sq.cqid) {
            sq.cq = cq;
            self.sqs.push(sq);
        }
    }

    /// Deletes submission queue `qid`. Commands of it that were fetched are completed as aborted; those still in the
    /// ring are nobody's (Base 2.0, section 5.7).
    pub fn delete_sq(&mut self, cx: Context<'_>, qid: u16) {
        for (mut command, counted) in self.held.drain(qid) {
            command.fault = None;
            if let Some(sq) = self.sqs.iter_mut().find(|sq| sq.qid == qid) {
                sq.in_flight += u32::from(!counted);
            }
            self.complete(cx, command, Finished::with(Status::ABORTED_SQ_DELETION));
        }
        self.end(cx);
        self.sqs.retain(|sq| sq.qid != qid);
    }

    /// Deletes completion queue `qid`, which no submission queue uses any more.
    pub fn delete_cq(&mut self, qid: u16) {
        self.cqs.retain(|cq| cq.qid != qid);
        for sq in &mut self.sqs {
            sq.cq = self
                .cqs
                .iter()
                .position(|cq| cq.qid == sq.cqid)
                .unwrap_or(usize::MAX);
        }
    }

    /// From now on the doorbells of this engine are in memory (None: in BAR0).
    pub fn set_shadow(&mut self, shadow: Option<Shadow>) {
        self.shadow = shadow;
    }

    /// Before sleep: tells the host to ring the real doorbells again. True if it has moved one meanwhile.
    pub fn arm(&mut self, cx: Context<'_>) -> bool {
        let Some(shadow) = &self.shadow else { return false };
        let armed = shadow.arm(&*cx.device.memory, &self.sqs, &self.cqs);
        armed.unwrap_or_else(|fault| {
            cx.dma_fault(fault);
            false
        })
    }

    /// Forgets all queues and commands, as a reset does. Nothing is posted.
    pub fn clear(&mut self) {
        *self = Self {
            last_pass_ns: self.last_pass_ns,
            ..Self::default()
        };
    }
}
