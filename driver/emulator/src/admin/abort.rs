//! Abort (Base 2.0, section 5.1).

use nvme_spec::{AbortCdw10, Status, SubmissionEntry};

use super::{Admin, Reply};
use crate::engine::{Context, Finished};

/// Dword 0 of the completion: the command was not aborted.
const NOT_ABORTED: u32 = 1;

impl Admin {
    /// Really aborts: a command that is held completes at once as aborted, one that is still in the ring will when it is
    /// fetched. `lies` is a fault: says so and does nothing.
    pub(super) fn abort(&mut self, cx: Context<'_>, entry: &SubmissionEntry, lies: bool) -> Reply {
        let target = AbortCdw10::from(entry.cdw10);
        let (qid, cid) = (target.sqid(), target.cid());
        let aborted = if lies {
            true
        } else if qid == 0 {
            self.abort_admin(cx, cid)
        } else {
            self.abort_io(cx, qid, cid)
        };
        let dw0 = if aborted { 0 } else { NOT_ABORTED };
        Ok(Finished { dw0, ..Finished::OK })
    }

    fn abort_admin(&mut self, cx: Context<'_>, cid: u16) -> bool {
        if let Some(command) = self.engine.take(0, cid) {
            self.events.forget(cid);
            self.engine
                .complete(cx, command, Finished::with(Status::ABORT_REQUESTED));
            return true;
        }
        self.engine.abort_pending(cx, 0, cid)
    }

    fn abort_io(&mut self, cx: Context<'_>, qid: u16, cid: u16) -> bool {
        let slot = self
            .queues
            .shard_of_sq(qid)
            .and_then(|index| cx.device.shards.get(index));
        let Some(slot) = slot else {
            // No such queue, so no such command (section 5.1 knows no status for it).
            return false;
        };
        let cx = Context {
            tally: &slot.tally,
            ..cx
        };
        let mut shard = slot.borrow();
        if let Some(command) = shard.engine.take(qid, cid) {
            shard
                .engine
                .complete(cx, command, Finished::with(Status::ABORT_REQUESTED));
            shard.engine.end(cx);
            return true;
        }
        shard.engine.abort_pending(cx, qid, cid)
    }
}
