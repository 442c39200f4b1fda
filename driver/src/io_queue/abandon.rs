//! The end of a queue with commands out: what is answered, and whose memory comes back.

use super::IoQueue;
use crate::dma::Buffer;
use crate::error::IoError;
use crate::queue::NEVER;
use crate::recorder::Record;

impl<T> IoQueue<T> {
    /// Ends everything that is under way with `why`. Only when the device has been `stopped` (disabled, or gone) may
    /// buffers come back; otherwise it may still write to them, and they are leaked: the answers are without. What is
    /// lent for a call cannot be kept beyond its answer, so such a request is not answered then.
    pub(crate) fn abandon(&mut self, now_ns: u64, why: IoError, stopped: bool) {
        self.waiting.clear();
        self.again.clear();
        self.show_waiting();
        for mut completed in self.pair.abandon(now_ns) {
            let part = &completed.context;
            if let Some(Some(active)) = self.requests.get(part.request as usize)
                && completed.submitted_ns != NEVER
            {
                let namespace = &self.namespaces[active.namespace];
                self.recorder.keep(Record {
                    doorbell_ns: completed.submitted_ns,
                    ended_ns: now_ns,
                    ..active.record(part, namespace, self.pair.qid(), completed.entry.cid)
                });
            }
            if !stopped {
                continue;
            }
            if completed.context.window
                && let Some(windows) = &mut self.windows
            {
                windows.unmap(completed.slot);
            }
            self.pool.give_back(&mut completed.context.pages);
        }
        for number in 0..self.requests.len() as u32 {
            let Some(active) = &mut self.requests[number as usize] else {
                continue;
            };
            active.result = Err(why);
            if !stopped && active.commands_out > 0 {
                if matches!(active.request.buffer, Buffer::Lent(_)) {
                    log::error!("a request is not answered: its client's memory may still be written");
                    std::mem::forget(self.requests[number as usize].take());
                    continue;
                }
                std::mem::forget(std::mem::take(&mut active.request.buffer));
            }
            if active.doorbell_ns == u64::MAX {
                active.doorbell_ns = 0;
            }
            self.finish(number, now_ns);
        }
    }
}

impl<T> Drop for IoQueue<T> {
    /// Buffers that the device may still write to are never given back: they are leaked. (Rings and pages are the
    /// controller's to keep.)
    fn drop(&mut self) {
        if self.pair.busy() > 0 {
            log::error!(
                "queue {} was dropped with {} commands out; their buffers are not given back",
                self.pair.qid(),
                self.pair.busy()
            );
            std::mem::forget(std::mem::take(&mut self.requests));
            std::mem::forget(self.windows.take());
        }
    }
}
