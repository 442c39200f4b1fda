//! Who does what is no block device: opens, documents, transactions.
//!
//! Rendering a document takes longer than a read of the disk, so workers leave it at this desk, where the process's main
//! thread takes it up. There is no thread for each request.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::super::{Call, lock};
use super::Server;

/// Calls that are to be made, in order.
#[derive(Debug, Default)]
pub struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Not more than there are requests, of which each has a client that waits.
    jobs: VecDeque<Job>,
    /// Somebody takes them up.
    attended: bool,
    closing: bool,
}

#[derive(Debug)]
struct Job {
    server: Arc<Server>,
    id: u64,
    call: Call,
}

impl Desk {
    /// A desk where nobody sits yet: what is left there is done at once.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Leaves a call of `server` under the number `id`.
    pub(super) fn leave(&self, server: &Arc<Server>, id: u64, call: Call) {
        let mut state = lock(&self.state);
        if !state.attended {
            drop(state);
            return server.ask(id, call);
        }
        let server = Arc::clone(server);
        state.jobs.push_back(Job { server, id, call });
        drop(state);
        self.changed.notify_one();
    }

    /// Does what is left here, until [`Desk::close`]. Then, or if somebody does so already, it returns; what is left
    /// afterwards is done by who leaves it.
    pub fn attend(&self) {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.attended, true) {
            return;
        }
        loop {
            if let Some(Job { server, id, call }) = state.jobs.pop_front() {
                drop(state);
                server.ask(id, call);
                state = lock(&self.state);
            } else if std::mem::take(&mut state.closing) {
                state.attended = false;
                return;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Ends [`Desk::attend`], now or when it begins.
    pub fn close(&self) {
        lock(&self.state).closing = true;
        self.changed.notify_all();
    }
}
