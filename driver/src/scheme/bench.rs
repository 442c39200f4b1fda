//! The benchmark's transaction file: `N/bench`.

use std::sync::{Arc, Mutex};

use stats_proto::Version;
use stats_proto::bench::{BenchError, BenchErrorSchema, BenchJob, BenchProgress, BenchResult};

use super::data::Volume;
use super::pending::{Pending, WaitingRead};
use super::service::{BlockService, Failure, Listener, Stop};
use super::{Errno, Reply, lock};

/// The longest job that is read, in bytes.
const MAX_JOB_BYTES: usize = 64 << 10;
/// The most reads of one handle that wait for a line.
const MAX_WAITING_READS: usize = 16;
/// Progress lines that nobody reads are kept up to this many bytes; more are left out. The last line is
/// always kept.
const MAX_UNREAD_BYTES: usize = 1 << 20;
/// Lines that were read are forgotten when there are this many bytes of them.
const MAX_READ_BYTES: usize = 64 << 10;

/// One open `N/bench`.
pub(crate) struct BenchFile {
    volume: Arc<Volume>,
    service: Arc<dyn BlockService>,
    state: Mutex<State>,
}

struct State {
    /// The job that runs, until its last line.
    job: Option<Stop>,
    /// Which job: what an earlier one still has to say is not heard.
    generation: u64,
    /// The lines, from `start` on.
    text: Vec<u8>,
    /// The offset of the first byte of `text`; what was before it was read and is forgotten.
    start: u64,
    /// Up to where it was read.
    read_to: u64,
    waiting: Vec<WaitingRead>,
    closed: bool,
}

impl BenchFile {
    pub(crate) fn new(volume: Arc<Volume>, service: Arc<dyn BlockService>) -> Arc<Self> {
        let state = State {
            job: None,
            generation: 0,
            text: Vec::new(),
            start: 0,
            read_to: 0,
            waiting: Vec::new(),
            closed: false,
        };
        Arc::new(Self {
            volume,
            service,
            state: Mutex::new(state),
        })
    }

    pub(crate) fn write(self: &Arc<Self>, data: Vec<u8>, pending: Pending) {
        let result = if data.trim_ascii() == b"stop" {
            self.stop()
        } else {
            self.start(&data)
        };
        let len = data.len();
        pending.answer(result.map(|()| Reply::Written { buffer: data, len }));
    }

    /// Ends the job early: its result is of what was done.
    fn stop(&self) -> Result<(), Errno> {
        lock(&self.state)
            .job
            .as_ref()
            .map(Stop::stop)
            .ok_or(Errno::EINVAL)
    }

    fn start(self: &Arc<Self>, data: &[u8]) -> Result<(), Errno> {
        let stop = Stop::default();
        let generation = {
            let mut state = lock(&self.state);
            if state.closed {
                return Err(Errno::EBADF);
            }
            if state.job.is_some() {
                return Err(Errno::EBUSY);
            }
            state.job = Some(stop.clone());
            state.generation += 1;
            state.text.clear();
            (state.start, state.read_to) = (0, 0);
            state.generation
        };
        let lines = Arc::new(Lines {
            file: Arc::clone(self),
            generation,
        });
        let started = parse(data).and_then(|job| {
            let listener = Arc::clone(&lines) as Arc<dyn Listener>;
            let nsid = self.volume.nsid();
            let started = self.service.start_benchmark(nsid, job, &stop, listener);
            started.map_err(|failure| (failure.errno(), failure.to_string()))
        });
        started.map_err(|(errno, why)| {
            lines.error(errno, why);
            errno
        })
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        let mut read = WaitingRead {
            offset,
            buffer,
            pending,
        };
        let answer = {
            let mut state = lock(&self.state);
            match state.at(offset) {
                Err(errno) => Err(errno),
                Ok(rest) if rest.is_empty() && !read.buffer.is_empty() && state.job.is_some() => {
                    if state.waiting.len() < MAX_WAITING_READS {
                        return state.waiting.push(read);
                    }
                    Err(Errno::EAGAIN)
                }
                Ok(rest) => {
                    let len = super::copy_from(rest, 0, &mut read.buffer);
                    state.read_to = state.read_to.max(offset.saturating_add(len as u64));
                    Ok(len)
                }
            }
        };
        read.answer(answer);
    }

    /// Who waits for a line is told to come again (`EINTR`); the job goes on.
    pub(crate) fn wake(&self) {
        let waiting = std::mem::take(&mut lock(&self.state).waiting);
        for read in waiting {
            read.answer(Err(Errno::EINTR));
        }
    }

    /// The handle is gone: the job stops, and who waits for a line is told.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.closed = true;
            if let Some(stop) = &state.job {
                stop.stop();
            }
            std::mem::take(&mut state.waiting)
        };
        for read in waiting {
            read.answer(Err(Errno::EBADF));
        }
    }
}

impl State {
    /// What there is to read from `offset`.
    fn at(&self, offset: u64) -> Result<&[u8], Errno> {
        // What was read and forgotten is not there any more.
        let from = offset.checked_sub(self.start).ok_or(Errno::EINVAL)?;
        Ok(usize::try_from(from)
            .ok()
            .and_then(|from| self.text.get(from..))
            .unwrap_or(&[]))
    }

    /// Forgets lines that were read, when they are many.
    fn forget(&mut self) {
        let read_bytes = usize::try_from(self.read_to.saturating_sub(self.start)).unwrap_or(usize::MAX);
        if read_bytes >= MAX_READ_BYTES {
            let read_bytes = read_bytes.min(self.text.len());
            self.text.drain(..read_bytes);
            self.start += read_bytes as u64;
        }
    }

    /// The reads that need wait no longer, each with its answer.
    fn answered(&mut self) -> Vec<(WaitingRead, Result<usize, Errno>)> {
        let mut answered = Vec::new();
        for mut read in std::mem::take(&mut self.waiting) {
            let len = self
                .at(read.offset)
                .map(|rest| super::copy_from(rest, 0, &mut read.buffer));
            match len {
                Ok(0) if self.job.is_some() => self.waiting.push(read),
                Ok(len) => {
                    self.read_to = self.read_to.max(read.offset.saturating_add(len as u64));
                    answered.push((read, Ok(len)));
                }
                Err(errno) => answered.push((read, Err(errno))),
            }
        }
        answered
    }
}

/// What one job has to say.
struct Lines {
    file: Arc<BenchFile>,
    generation: u64,
}

impl Lines {
    fn line(&self, line: serde_json::Result<Vec<u8>>, last: bool) {
        // All that could fail is a map whose keys are no strings, and these documents have none.
        let mut line = line.unwrap_or_default();
        line.push(b'\n');
        let answered = {
            let mut state = lock(&self.file.state);
            if state.generation != self.generation {
                return;
            }
            state.forget();
            if last || state.text.len() + line.len() <= MAX_UNREAD_BYTES {
                state.text.extend_from_slice(&line);
            }
            if last {
                state.job = None;
            }
            state.answered()
        };
        for (read, len) in answered {
            read.answer(len);
        }
    }

    fn error(&self, errno: Errno, error: String) {
        let (schema, version) = (BenchErrorSchema::default(), Version::CURRENT);
        self.line(
            serde_json::to_vec(&BenchError {
                schema,
                version,
                error,
                errno: errno.0,
            }),
            true,
        );
    }
}

impl Listener for Lines {
    fn progress(&self, progress: BenchProgress) {
        self.line(serde_json::to_vec(&progress), false);
    }

    fn ended(&self, outcome: Result<BenchResult, Failure>) {
        // It writes past the volume.
        self.file.volume.partitions.forget();
        match outcome {
            Ok(result) => self.line(serde_json::to_vec(&result), true),
            Err(failure) => self.error(failure.errno(), failure.to_string()),
        }
    }
}

fn parse(data: &[u8]) -> Result<BenchJob, (Errno, String)> {
    if data.len() > MAX_JOB_BYTES {
        return Err((
            Errno::EINVAL,
            format!("the job has {} bytes, more than {MAX_JOB_BYTES}", data.len()),
        ));
    }
    serde_json::from_slice(data).map_err(|error| (Errno::EINVAL, format!("the job cannot be read: {error}")))
}
