//! What is to be read from a transaction file.

use std::sync::{Arc, Mutex};

use super::pending::WaitingRead;
use super::{Errno, Pending, lock};

/// One open transaction file: one command at a time, and the last one's answer.
pub(crate) struct Transaction(Mutex<State>);

enum State {
    /// What there is to read: nothing before the first command, then the last one's completion and data.
    Idle(Arc<[u8]>),
    /// A command is out.
    Busy,
}

impl Transaction {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State::Idle(Arc::from([]))))
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        let text = match &*lock(&self.0) {
            State::Idle(text) => Some(Arc::clone(text)),
            State::Busy => None,
        };
        match text {
            Some(text) => WaitingRead {
                offset,
                buffer,
                pending,
            }
            .answer_from(&text),
            None => pending.answer(Err(Errno::EBUSY)),
        }
    }

    /// A command is about to be sent: the last one's answer is gone.
    ///
    /// # Errors
    /// `EBUSY` if one is out.
    pub(crate) fn begin(&self) -> Result<(), Errno> {
        match std::mem::replace(&mut *lock(&self.0), State::Busy) {
            State::Idle(_) => Ok(()),
            State::Busy => Err(Errno::EBUSY),
        }
    }

    /// A command was refused before it was sent, with `errno`: there is nothing to read, so that the last one's
    /// answer is not taken for its. One that is out stays out.
    pub(crate) fn refuse(&self, errno: Errno, pending: Pending) {
        if let State::Idle(text) = &mut *lock(&self.0) {
            *text = Arc::from([]);
        }
        pending.answer(Err(errno));
    }

    /// The command that was out has ended, with `text` to read.
    pub(crate) fn end(&self, text: Vec<u8>) {
        *lock(&self.0) = State::Idle(Arc::from(text));
    }
}
