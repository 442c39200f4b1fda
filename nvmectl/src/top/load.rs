//! `--load`: a benchmark that an embedded driver runs while `top` watches, so that there is something to see anywhere.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use clap::ValueEnum;
use stats_proto::bench::{BenchJob, BenchLine};

use crate::args::PatternName;
use crate::bench::{Lines, STOP, job};
use crate::error::Error;
use crate::tree::{Access, Errno, Tree, write_all};
use crate::units::parse_size;

/// A load as the command line describes it: `randread:qd=8,bs=4k`.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    job: BenchJob,
}

/// A text that describes no load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{why}; a load is a pattern (read, write, randread, randwrite, rw, randrw), alone or as in randread:qd=8,bs=4k; keys are qd, bs, jobs and mix"
)]
pub struct LoadError {
    why: String,
}

/// Long enough that a job seldom has to be started again.
const JOB_NS: u64 = 3_600_000_000_000;

impl FromStr for Load {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<Self, LoadError> {
        let error = |why: String| LoadError { why };
        let (pattern, settings) = text.split_once(':').unwrap_or((text, ""));
        let pattern = PatternName::from_str(pattern, false)
            .map_err(|_| error(format!("\"{pattern}\" is no pattern")))?;
        let mut load = BenchJob {
            pattern: job::pattern_of(pattern),
            queue_depth: 1,
            jobs: 1,
            time_ns: Some(JOB_NS),
            warmup_ns: 0,
            // Only ever on an emulated controller of this process.
            destructive: true,
            ..BenchJob::default()
        };
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            let (key, value) = setting
                .split_once('=')
                .ok_or_else(|| error(format!("\"{setting}\" has no value")))?;
            let refused = |why: &dyn std::fmt::Display| error(format!("{key}={value}: {why}"));
            let number = || value.parse::<u32>().map_err(|why| refused(&why));
            match key {
                "qd" => load.queue_depth = number()?,
                "jobs" => load.jobs = number()?,
                "mix" if load.pattern.is_mix() => {
                    load.read_percent = value.parse().map_err(|why| refused(&why))?;
                }
                "mix" => return Err(refused(&"the pattern is no mix, as rw and randrw are")),
                "bs" => {
                    let bytes = parse_size(value).map_err(|why| refused(&why))?;
                    load.block_bytes = u32::try_from(bytes).map_err(|_| refused(&"it is too large"))?;
                }
                _ => return Err(error(format!("\"{key}\" is no key"))),
            }
        }
        match load.validate() {
            Ok(()) => Ok(Self { job: load }),
            Err(why) => Err(error(job::with_options(&why.to_string()))),
        }
    }
}

/// A load that is running until this is dropped.
pub struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    failed: Mutex<Option<Error>>,
}

impl Running {
    /// Starts `load` on namespace `nsid` of `tree`.
    ///
    /// # Errors
    /// The system has no thread left. What the driver says of the job is heard later, from [`failure`](Self::failure).
    pub fn start<T: Tree + Send + 'static>(load: Load, tree: T, nsid: u32) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("top-load".to_owned())
            .spawn(move || {
                if let Err(error) = run(&load, &tree, nsid, &theirs.stop) {
                    let mut failed = theirs.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    *failed = Some(error);
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Has it end soon, without waiting for that.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Why the load has ended, if it has.
    pub fn failure(&self) -> Option<Error> {
        let mut failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // It says how it went through `failed`.
            let _ = thread.join();
        }
    }
}

/// Runs the job again and again. A running job is heard of several times a second, which is when it can be stopped.
fn run(load: &Load, tree: &dyn Tree, nsid: u32, stop: &AtomicBool) -> Result<(), Error> {
    let path = format!("{nsid}/bench");
    let request = serde_json::to_vec(&load.job).map_err(|error| Error::malformed(&path, error))?;
    while !stop.load(Ordering::Relaxed) {
        let mut lines = Lines::new(tree.open(&path, Access::ReadWrite)?, &path);
        // Of a job that it refuses the driver says why in a line; without one, the errno has to do.
        let refused = write_all(lines.file(), &path, &request).err();
        let mut stopping = false;
        loop {
            let line = match (lines.next(), &refused) {
                (Err(_), Some(refused)) => return Err(refused.clone().into()),
                (line, _) => line?,
            };
            match BenchLine::parse(&line).map_err(|error| Error::malformed(&path, error))? {
                BenchLine::Progress(_) => {}
                BenchLine::Result(_) => break,
                BenchLine::Error(error) => {
                    return Err(Error::Bench {
                        message: job::with_options(&error.error),
                        errno: Errno(error.errno),
                    });
                }
            }
            if stop.load(Ordering::Relaxed) && !stopping {
                stopping = true;
                // A job that has just ended cannot be stopped any more.
                let _ = lines.file().write_at(STOP, 0);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use stats_proto::bench::Pattern;

    use super::*;

    #[test]
    fn loads_as_people_write_them() {
        let job = |text: &str| text.parse::<Load>().unwrap().job;
        let load = job("randread:qd=8,bs=16k,jobs=2");
        assert_eq!(
            (load.pattern, load.queue_depth, load.block_bytes, load.jobs),
            (Pattern::RandRead, 8, 16 << 10, 2)
        );
        assert_eq!(job("write").queue_depth, 1);
        let mix = job("randrw:mix=70");
        assert_eq!((mix.pattern, mix.read_percent), (Pattern::RandRw, 70));
        for (bad, part) in [
            ("", "\"\" is no pattern"),
            ("trim", "\"trim\" is no pattern"),
            ("randread:qd", "\"qd\" has no value"),
            ("randread:qd=0", "--qd is 0"),
            ("randread:qd=x", "qd=x: "),
            ("randread:bs=100", "--bs is 100"),
            ("randread:bs=1t", "too large"),
            ("randread:mix=70", "no mix"),
            ("randrw:mix=101", "--mix is 101"),
            ("randread:depth=3", "\"depth\" is no key"),
        ] {
            let error = bad.parse::<Load>().unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("randread:qd=8"),
                "{bad}: {error}"
            );
        }
    }
}
