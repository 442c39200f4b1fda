//! `/scheme/pipe`: opened, it is the end that reads; `dup` with "write" gives the other one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar};

use syscall::error::{EAGAIN, EBADF, EINVAL, EPIPE, Error, Result};
use syscall::flag::{EventFlags, O_NONBLOCK};

use crate::kernel::{Kernel, Object, State};

const CAPACITY_BYTES: usize = 65536;

/// A pipe.
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    /// Descriptions of the ends, for events. 0: not open, or not any more.
    reader: u64,
    writer: u64,
    reader_lives: bool,
    writer_lives: bool,
    has_run_dup: bool,
    changed: Arc<Condvar>,
}

impl Pipe {
    pub fn ready_to_read(&self) -> EventFlags {
        if self.bytes.is_empty() && self.writer_lives {
            EventFlags::empty()
        } else {
            EventFlags::EVENT_READ
        }
    }

    pub fn ready_to_write(&self) -> EventFlags {
        if self.bytes.len() > CAPACITY_BYTES && self.reader_lives {
            EventFlags::empty()
        } else {
            EventFlags::EVENT_WRITE
        }
    }
}

impl State {
    /// A new pipe, with the end that reads.
    pub fn open_pipe(&mut self, flags: usize, path: &str) -> (u64, usize) {
        let (pipe, reader) = (self.next_id(), self.next_id());
        self.pipes.insert(
            pipe,
            Pipe {
                bytes: VecDeque::new(),
                reader,
                writer: 0,
                reader_lives: true,
                // As the kernel has it: there is a writer until there was one.
                writer_lives: true,
                has_run_dup: false,
                changed: Arc::default(),
            },
        );
        (
            pipe,
            self.insert_as(reader, Object::PipeReader(pipe), flags, path),
        )
    }

    /// The end that writes, once.
    pub fn open_pipe_writer(&mut self, pipe: u64, flags: usize) -> Result<usize> {
        let writer = self.next_id();
        let ends = self.pipes.get_mut(&pipe).ok_or(Error::new(EBADF))?;
        if std::mem::replace(&mut ends.has_run_dup, true) {
            return Err(Error::new(EBADF));
        }
        ends.writer = writer;
        Ok(self.insert_as(writer, Object::PipeWriter(pipe), flags, "/scheme/pipe/write"))
    }

    pub fn close_pipe(&mut self, pipe: u64, is_writer: bool) {
        let Some(ends) = self.pipes.get_mut(&pipe) else {
            return;
        };
        ends.changed.notify_all();
        let (other, flags) = if is_writer {
            ends.writer_lives = false;
            (ends.reader, EventFlags::EVENT_READ)
        } else {
            ends.reader_lives = false;
            (ends.writer, EventFlags::EVENT_WRITE)
        };
        if !ends.reader_lives && !ends.writer_lives {
            self.pipes.remove(&pipe);
        }
        self.events.trigger(other, flags);
    }

    /// What has been written and not read, without waiting.
    pub fn drain_pipe(&mut self, pipe: u64) -> Vec<u8> {
        let bytes = self
            .pipes
            .get_mut(&pipe)
            .map(|ends| ends.bytes.drain(..).collect());
        bytes.unwrap_or_default()
    }
}

impl Kernel {
    pub fn read_pipe(&self, description: u64, pipe: u64, into: &mut [u8]) -> Result<usize> {
        let mut state = self.lock();
        let waits = state.flags_of(description) & O_NONBLOCK == 0;
        loop {
            let ends = state.pipes.get_mut(&pipe).ok_or(Error::new(EBADF))?;
            let count = ends.bytes.len().min(into.len());
            if count > 0 {
                for (to, byte) in into.iter_mut().zip(ends.bytes.drain(..count)) {
                    *to = byte;
                }
                ends.changed.notify_all();
                let writer = ends.writer;
                state.events.trigger(writer, EventFlags::EVENT_WRITE);
                return Ok(count);
            }
            if into.is_empty() || !ends.writer_lives {
                return Ok(0);
            }
            if !waits {
                return Err(Error::new(EAGAIN));
            }
            let changed = Arc::clone(&ends.changed);
            state = self.wait(&changed, state);
        }
    }

    pub fn write_pipe(&self, description: u64, pipe: u64, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let waits = state.flags_of(description) & O_NONBLOCK == 0;
        loop {
            let ends = state.pipes.get_mut(&pipe).ok_or(Error::new(EBADF))?;
            if !ends.reader_lives {
                return Err(Error::new(EPIPE));
            }
            let count = from.len().min(CAPACITY_BYTES.saturating_sub(ends.bytes.len()));
            if count > 0 {
                ends.bytes.extend(&from[..count]);
                ends.changed.notify_all();
                let reader = ends.reader;
                state.events.trigger(reader, EventFlags::EVENT_READ);
                self.progress.notify_all();
                return Ok(count);
            }
            if from.is_empty() {
                return Ok(0);
            }
            if !waits {
                return Err(Error::new(EAGAIN));
            }
            let changed = Arc::clone(&ends.changed);
            state = self.wait(&changed, state);
        }
    }

    pub fn dup_pipe(&self, description: u64, pipe: u64, name: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        if name.get(..5) != Some(b"write") {
            return Err(Error::new(EINVAL));
        }
        let flags = state.flags_of(description);
        state.open_pipe_writer(pipe, flags)
    }
}
