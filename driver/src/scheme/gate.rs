//! The way into a scheme that can be shut: a server counts what is out, and ends without leaving a client waiting.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Answers, Call, Errno, Reply, Scheme, lock};

/// How often those who wait for something to happen are sent away from a gate that is shut.
const WAKE_AGAIN: Duration = Duration::from_millis(50);

/// Set in [`Gate::state`] when the gate is shut; the other bits count the calls that are out.
const SHUT: usize = 1 << (usize::BITS - 1);

/// The calls of one server to one scheme.
pub struct Gate {
    scheme: Arc<Scheme>,
    state: AtomicUsize,
    /// For [`Self::shut`] to sleep on: the last answer behind a shut gate locks it, then says so.
    idle: (Mutex<()>, Condvar),
}

impl Gate {
    /// A gate that is open.
    pub fn new(scheme: Arc<Scheme>) -> Arc<Self> {
        Arc::new(Self {
            scheme,
            state: AtomicUsize::new(0),
            idle: (Mutex::new(()), Condvar::new()),
        })
    }

    /// Calls that have not been answered.
    pub fn outstanding(&self) -> usize {
        self.state.load(Ordering::Relaxed) & !SHUT
    }

    /// Makes a call; `then` gets the answer, exactly once, from any thread, perhaps before this returns. It must not
    /// block. Behind a shut gate everything but `Close` is `ESHUTDOWN`.
    pub fn call(self: &Arc<Self>, call: Call, then: impl FnOnce(Result<Reply, Errno>) + Send + 'static) {
        let before = self.state.fetch_add(1, Ordering::Acquire);
        if before & SHUT != 0 && !matches!(call, Call::Close { .. }) {
            then(Err(Errno::ESHUTDOWN));
            return self.answered();
        }
        let once = Arc::new(Once {
            gate: Arc::clone(self),
            then: Mutex::new(Some(then)),
        });
        self.scheme.call(0, call, &(once as Arc<dyn Answers>));
    }

    /// Shuts the gate, ends the reads that wait for something to happen (`EINTR`), and waits until what is out has been
    /// answered, or for `patience`. Says how many calls are still out.
    pub fn shut(&self, patience: Duration) -> usize {
        self.state.fetch_or(SHUT, Ordering::AcqRel);
        let (idle, changed) = &self.idle;
        let since = Instant::now();
        loop {
            // Again and again: a read that had passed the gate may begin to wait only now.
            self.scheme.wake_readers();
            let left = patience.saturating_sub(since.elapsed());
            let out = |_: &mut ()| self.outstanding() != 0;
            drop(changed.wait_timeout_while(lock(idle), left.min(WAKE_AGAIN), out));
            if self.outstanding() == 0 || left.is_zero() {
                return self.outstanding();
            }
        }
    }

    fn answered(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == SHUT | 1 {
            // Locked, so that it cannot come between a sleeper's look at the count and its sleep.
            drop(lock(&self.idle.0));
            self.idle.1.notify_all();
        }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} calls out)", self.outstanding())
    }
}

/// Who waits for one answer.
struct Once<F> {
    gate: Arc<Gate>,
    then: Mutex<Option<F>>,
}

impl<F: FnOnce(Result<Reply, Errno>) + Send> Answers for Once<F> {
    fn answer(&self, _id: u64, result: Result<Reply, Errno>) {
        let then = lock(&self.then).take();
        if let Some(then) = then {
            // The client first: a gate that counts nothing more has let everybody go.
            then(result);
            self.gate.answered();
        }
    }
}
