//! The events as they happen: `controller/events`.

use std::sync::{Arc, Mutex, Weak};

use super::pending::WaitingRead;
use super::quota::{Client, Kept};
use super::service::{EventListener, EventLog};
use super::{Errno, Pending, lock};

/// The most reads of one handle that wait for an event.
const MAX_WAITING_READS: usize = 16;
/// Events are taken from the log in pieces of about so many bytes, and forgotten when they were read and there
/// are as many of them.
const PIECE_BYTES: usize = 64 << 10;

/// One open `controller/events`, with its own place in the log.
pub(crate) struct EventsFile {
    log: Arc<EventLog>,
    state: Mutex<State>,
}

struct State {
    /// The event that was not taken from the log yet.
    next: u64,
    /// What was taken, from `start` on.
    text: Vec<u8>,
    /// What that costs.
    kept: Kept,
    /// The offset of the first byte of `text`; what was before it was read and is forgotten.
    start: u64,
    /// Reads at the end of `text`.
    waiting: Vec<WaitingRead>,
    closed: bool,
}

impl EventsFile {
    pub(crate) fn new(log: Arc<EventLog>, client: Arc<Client>) -> Arc<Self> {
        let state = Mutex::new(State {
            next: 0,
            text: Vec::new(),
            kept: Kept::new(client),
            start: 0,
            waiting: Vec::new(),
            closed: false,
        });
        let file = Arc::new(Self {
            log: Arc::clone(&log),
            state,
        });
        log.listen(Arc::downgrade(&file) as Weak<dyn EventListener>);
        file
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        let mut read = WaitingRead {
            offset,
            buffer,
            pending,
        };
        let answer = {
            let mut state = lock(&self.state);
            match state.take(&self.log, offset, &mut read.buffer) {
                Ok(None) if state.closed => Err(Errno::EBADF),
                Ok(None) if state.waiting.len() >= MAX_WAITING_READS => Err(Errno::EAGAIN),
                Ok(None) => return state.waiting.push(read),
                Ok(Some(len)) => Ok(len),
                Err(errno) => Err(errno),
            }
        };
        read.answer(answer);
    }

    /// Who waits is told to come again (`EINTR`).
    pub(crate) fn wake(&self) {
        self.end_waiting(Errno::EINTR);
    }

    /// The handle is gone, and who waits is told.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.end_waiting(Errno::EBADF);
    }

    fn end_waiting(&self, errno: Errno) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for read in waiting {
            read.answer(Err(errno));
        }
    }
}

impl EventListener for EventsFile {
    fn news(&self) {
        let mut answered = Vec::new();
        {
            let mut state = lock(&self.state);
            for mut read in std::mem::take(&mut state.waiting) {
                match state.take(&self.log, read.offset, &mut read.buffer) {
                    Ok(None) => state.waiting.push(read),
                    Ok(Some(len)) => answered.push((read, Ok(len))),
                    Err(errno) => answered.push((read, Err(errno))),
                }
            }
        }
        for (read, answer) in answered {
            read.answer(answer);
        }
    }
}

impl State {
    /// Copies what there is from `offset` on and says how many bytes; `None` if there is nothing yet, 0 at the
    /// end of all events.
    ///
    /// # Errors
    /// `EINVAL` for an offset that was read long ago, and for one beyond what was read: events are read in
    /// order. `EAGAIN` if the client keeps too much.
    fn take(&mut self, log: &EventLog, offset: u64, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        let from = offset.checked_sub(self.start).ok_or(Errno::EINVAL)?;
        let mut from = usize::try_from(from).map_err(|_| Errno::EINVAL)?;
        if from > self.text.len() {
            return Err(Errno::EINVAL);
        }
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let mut ended = false;
        if from == self.text.len() {
            if from >= PIECE_BYTES {
                self.text.clear();
                self.start = offset;
                from = 0;
            }
            let since = log.since(self.next, PIECE_BYTES);
            if let Err(errno) = self.kept.set(self.text.len() + since.text.len()) {
                // All of it has been read; what is new is still in the log.
                self.text = Vec::new();
                self.start = offset;
                return Err(errno);
            }
            self.text.extend_from_slice(&since.text);
            (self.next, ended) = (since.next, since.ended);
        }
        match super::copy_from(&self.text, from as u64, buffer) {
            0 if !ended => Ok(None),
            len => Ok(Some(len)),
        }
    }
}
