//! The load generator: closed loops that run on the workers' own threads, so that what is measured is the
//! driver and the device and not a hand-over.
//!
//! A job keeps `queue_depth` requests out: each answer is followed by the next request at once. Its latencies
//! are service latencies: a device that stalls is asked less, which hides part of the stall (the maximum and
//! [`Depth`] show it).
//!
//! What is counted: the requests that were handed in after the warm-up, all of them, until each is answered.
//! The time is from the end of the warm-up to the last answer. Hence mean depth = requests per second times
//! mean total latency, exactly (Little's law). A request that fails with a status counts among the errors and
//! the job goes on; a lost device ends it.
//!
//! Jobs of a sequential pattern start at evenly spaced places of the region and go round in it. Everything
//! random comes from the job's seed and number.
//!
//! [`Depth`]: stats_proto::bench::Depth

mod generator;
mod plan;
mod record;
mod report;
#[cfg(feature = "io-uring-compat")]
pub mod ring;
mod shared;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use stats_proto::bench::{BenchDevice, BenchJob, BenchProgress, BenchResult, JobError};

use crate::backend::BackendError;
use crate::dma::Buffer;
use crate::driver::Driver;
use crate::error::{Error, IoError};
use crate::scheme::Errno;

pub use report::Report;

use generator::Generator;
use plan::Plan;
use shared::Shared;

/// Memory that the buffers and histograms of one benchmark may take.
pub const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Why a benchmark was not run, or has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The job makes no sense on any device.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The job names another device.
    #[error(
        "the job is meant for the device with the serial number \"{asked}\", but this one's is \"{serial}\": \
         check which device you mean"
    )]
    OtherDevice {
        /// The job's serial number.
        asked: String,
        /// The device's.
        serial: String,
    },
    /// A job that writes to a real device does not name it.
    #[error(
        "the job writes to a device that is not emulated: put its serial number, \"{serial}\", in the job's serial if \
         its data may be destroyed"
    )]
    SerialNeeded {
        /// The device's serial number.
        serial: String,
    },
    /// No such namespace.
    #[error("there is no namespace {0}: list the namespaces that there are")]
    NoNamespace(u32),
    /// The namespace cannot be used.
    #[error("namespace {nsid} cannot be used: {why}")]
    Unusable {
        /// The namespace.
        nsid: u32,
        /// What is wrong with it.
        why: String,
    },
    /// A size that is no multiple of the logical block.
    #[error("{member} is {bytes}: it must be a multiple of the namespace's blocks of {lba_bytes} bytes")]
    Unaligned {
        /// The job's member.
        member: &'static str,
        /// Its value.
        bytes: u64,
        /// The block.
        lba_bytes: u64,
    },
    /// The region is not on the namespace.
    #[error(
        "the region from offset {offset_bytes} with a size of {size_bytes} bytes is not on the namespace, which has \
         {namespace_bytes} bytes, or has no room for one request: choose another offset_bytes or size_bytes"
    )]
    Region {
        /// Its start.
        offset_bytes: u64,
        /// Its size.
        size_bytes: u64,
        /// The namespace's size.
        namespace_bytes: u64,
    },
    /// Too much memory.
    #[error(
        "the job needs {bytes} bytes of memory, more than the {MAX_MEMORY_BYTES} that a benchmark may take: lower \
         queue_depth, jobs or block_bytes"
    )]
    TooLarge {
        /// What it would need.
        bytes: u128,
    },
    /// The memory is not to be had.
    #[error("no memory for the job's buffers ({0}): lower queue_depth, jobs or block_bytes")]
    NoMemory(String),
    /// A request ended in a way after which there is nothing to measure.
    #[error("the benchmark ended early: {0}")]
    Io(#[from] IoError),
    /// A ring through which requests go has ended, or could not be set up.
    #[cfg(feature = "io-uring-compat")]
    #[error("the benchmark's ring: {message}")]
    Ring {
        /// What happened.
        message: String,
        /// The error number that fits best.
        errno: Errno,
    },
    /// Two results could not be put together.
    #[error("the results could not be put together: {0}")]
    Result(#[from] stats_proto::hist::HistError),
}

impl Failure {
    /// The error number that fits best.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Job(JobError::NotDestructive(_)) | Self::OtherDevice { .. } | Self::SerialNeeded { .. } => {
                Errno::EPERM
            }
            Self::Job(_) | Self::Unaligned { .. } | Self::Region { .. } | Self::TooLarge { .. } => {
                Errno::EINVAL
            }
            Self::NoNamespace(_) => Errno::ENODEV,
            Self::Unusable { .. } => Errno::EOPNOTSUPP,
            Self::NoMemory(_) => Errno::ENOMEM,
            Self::Io(error) => (*error).into(),
            #[cfg(feature = "io-uring-compat")]
            Self::Ring { errno, .. } => *errno,
            Self::Result(_) => Errno::EIO,
        }
    }
}

/// Hears of one benchmark. Called on the workers' threads: must not block.
pub trait Listener: Send + Sync {
    /// How far it is, about four times a second.
    fn progress(&self, progress: BenchProgress);

    /// It is over. The last call.
    fn ended(&self, outcome: Result<BenchResult, Failure>);
}

/// Ends a benchmark before its time: requests that are out are waited for, and the result is of what was
/// done.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// No more requests.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`stop`](Self::stop) was called.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts `job` on namespace `nsid`, to run until it is over or `stop` says so. Job number j runs on queue j
/// modulo the number of queues (for its class, where queues have classes).
///
/// # Errors
/// Why it cannot be run; `listener` then hears nothing.
pub fn start(
    driver: &Driver,
    nsid: u32,
    job: BenchJob,
    stop: &Stop,
    listener: Arc<dyn Listener>,
) -> Result<(), Failure> {
    let identity = driver.identity();
    let namespaces = driver.namespaces();
    let namespace = namespaces
        .iter()
        .find(|namespace| namespace.nsid == nsid)
        .ok_or(Failure::NoNamespace(nsid))?;
    let plan = Plan::new(&job, identity, namespace)?;
    let device = BenchDevice {
        model: identity.model.clone(),
        serial: identity.serial.clone(),
        firmware: identity.firmware.clone(),
        nsid,
        lba_bytes: 1 << namespace.lba_shift,
        backend: identity.backend.to_owned(),
    };
    let queue_of = |index: usize| driver.queue_for(plan.class.priority, index);
    let shared = Arc::new(Shared::new(job, device, plan, stop.clone(), listener));
    let generators = (0..plan.jobs)
        .map(|index| {
            let allocate = || buffer(driver, plan.block_bytes);
            Generator::new(&shared, index, driver.qid(queue_of(index as usize)), allocate)
                .map_err(|error| Failure::NoMemory(error.to_string()))
        })
        .collect::<Result<Vec<_>, _>>();
    // Those that were made go down with the others, without a word to the listener.
    let generators = generators.inspect_err(|_| shared.silence())?;
    for (index, generator) in generators.into_iter().enumerate() {
        driver.attach(queue_of(index), Box::new(generator));
    }
    Ok(())
}

/// Runs `job` on namespace `nsid` and waits until it is over, on its own account or because of `stop`.
/// `progress` is called on a worker's thread, about four times a second.
///
/// # Errors
/// Why it could not be run or has no result.
pub fn run_blocking(
    driver: &Driver,
    nsid: u32,
    job: &BenchJob,
    stop: &Stop,
    progress: impl Fn(BenchProgress) + Send + Sync + 'static,
) -> Result<BenchResult, Failure> {
    let waiter = Arc::new(Waiter {
        progress,
        outcome: Mutex::new(None),
        ended: Condvar::new(),
    });
    start(
        driver,
        nsid,
        job.clone(),
        stop,
        Arc::clone(&waiter) as Arc<dyn Listener>,
    )?;
    let outcome = waiter.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    let mut outcome = waiter
        .ended
        .wait_while(outcome, |outcome| outcome.is_none())
        .unwrap_or_else(PoisonError::into_inner);
    outcome.take().unwrap_or(Err(Failure::Io(IoError::Stopped)))
}

struct Waiter<F> {
    progress: F,
    outcome: Mutex<Option<Result<BenchResult, Failure>>>,
    ended: Condvar,
}

impl<F: Fn(BenchProgress) + Send + Sync> Listener for Waiter<F> {
    fn progress(&self, progress: BenchProgress) {
        (self.progress)(progress);
    }

    fn ended(&self, outcome: Result<BenchResult, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.ended.notify_all();
    }
}

/// A buffer for one request: memory for DMA, or, where the backend does not give that much in one piece, any memory.
fn buffer(driver: &Driver, len_bytes: usize) -> Result<Buffer, Error> {
    match driver.allocate(len_bytes) {
        Err(Error::Backend(BackendError::NoMemory { .. })) => Ok(Buffer::heap(vec![0; len_bytes])),
        buffer => buffer.map(Buffer::Dma),
    }
}
