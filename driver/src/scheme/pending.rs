//! A call that has not been answered yet.

use std::sync::Arc;

use super::{Answers, Errno, Reply};

/// The duty to answer one call. Dropped without an answer, it answers `EIO`: no client waits for ever because
/// something else went wrong.
pub(crate) struct Pending {
    id: u64,
    answers: Option<Arc<dyn Answers>>,
}

impl Pending {
    pub(crate) const fn new(id: u64, answers: Arc<dyn Answers>) -> Self {
        Self {
            id,
            answers: Some(answers),
        }
    }

    /// Answers. Not to be called while a lock is held: the server may make the next call from in there.
    pub(crate) fn answer(mut self, result: Result<Reply, Errno>) {
        if let Some(answers) = self.answers.take() {
            answers.answer(self.id, result);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            log::error!("call {} was dropped without an answer", self.id);
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
        self.pending.answer(Ok(Reply::Read {
            buffer: self.buffer,
            len,
        }));
    }
}
