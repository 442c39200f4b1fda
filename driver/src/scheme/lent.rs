//! Memory that a client has lent, for nodes that know only buffers of their own.

use std::sync::{Arc, Mutex};

use super::pending::Pending;
use super::{Answers, Errno, Reply, lock};
use crate::dma::Lent;

/// The duty to answer a read: what is read into the buffer is copied to `memory`, and `pending` answered.
pub(crate) fn copied_into(memory: Lent, pending: Pending) -> Pending {
    translated(pending, move |reply| match reply {
        Reply::Read { buffer, len } => {
            let mut memory = memory;
            let len = memory.copy_in(0, buffer.get(..len).unwrap_or_default());
            Reply::Moved { len }
        }
        other => other,
    })
}

/// The duty to answer a write, whose buffer nobody wants back.
pub(crate) fn moved(pending: Pending) -> Pending {
    translated(pending, |reply| match reply {
        Reply::Written { len, .. } => Reply::Moved { len },
        other => other,
    })
}

fn translated(pending: Pending, how: impl FnOnce(Reply) -> Reply + Send + 'static) -> Pending {
    let answers = Arc::new(Translated(Mutex::new(Some((pending, how)))));
    Pending::new(0, answers)
}

struct Translated<F>(Mutex<Option<(Pending, F)>>);

impl<F: FnOnce(Reply) -> Reply + Send> Answers for Translated<F> {
    fn answer(&self, _id: u64, result: Result<Reply, Errno>) {
        let taken = lock(&self.0).take();
        if let Some((pending, how)) = taken {
            let result = match result {
                Ok(reply) => Ok(how(reply)),
                Err(errno) => {
                    // With what it has: lent memory is not kept beyond the answer.
                    drop(how);
                    Err(errno)
                }
            };
            pending.answer(result);
        }
    }
}
