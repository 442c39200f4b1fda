//! A call that has not been answered yet.

use std::sync::Arc;

use super::quota::{CallCharge, Client};
use super::{Answers, Errno, Reply};

/// The duty to answer one call. Dropped without an answer, it answers `EIO`: no client waits for ever because
/// something else went wrong.
pub(crate) struct Pending {
    id: u64,
    answers: Option<Arc<dyn Answers>>,
    /// Given back before the answer: the client may call again from in there.
    charge: Option<CallCharge>,
}

impl Pending {
    pub(crate) const fn new(id: u64, answers: Arc<dyn Answers>) -> Self {
        Self {
            id,
            answers: Some(answers),
            charge: None,
        }
    }

    /// Takes what the call costs `client`, until it is answered. Otherwise it is answered now.
    pub(crate) fn charged(mut self, client: &Arc<Client>, bytes: usize) -> Option<Self> {
        match client.charge_call(bytes) {
            Ok(charge) => {
                self.charge = Some(charge);
                Some(self)
            }
            Err(errno) => {
                self.answer(Err(errno));
                None
            }
        }
    }

    /// Answers. Not to be called while a lock is held: the server may make the next call from in there.
    pub(crate) fn answer(mut self, result: Result<Reply, Errno>) {
        drop(self.charge.take());
        if let Some(answers) = self.answers.take() {
            answers.answer(self.id, result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            log::error!("call {} was dropped without an answer", self.id);
            drop(self.charge.take());
            answers.answer(self.id, Err(Errno::EIO));
        }
    }
}

/// A read that waits for what it reads.
pub(crate) struct WaitingRead {
    pub(crate) offset: u64,
    pub(crate) buffer: Vec<u8>,
    pub(crate) pending: Pending,
}

impl WaitingRead {
    /// Answers with what `text` has at the offset.
    pub(crate) fn answer_from(mut self, text: &[u8]) {
        let len = super::copy_from(text, self.offset, &mut self.buffer);
        self.answer(Ok(len));
    }

    /// Answers: so many bytes of the buffer are what was read.
    pub(crate) fn answer(self, result: Result<usize, Errno>) {
        let Self { buffer, pending, .. } = self;
        pending.answer(result.map(|len| Reply::Read { buffer, len }));
    }
}
