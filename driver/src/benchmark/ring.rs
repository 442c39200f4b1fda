//! The same load through rings, from the client's side: a thread and a ring for each job.
//!
//! Latencies are the client's: from when a request is put into the ring to when its result is seen. The device's part is
//! what the driver says of each; all else, the way through memory included, is the host's.

use std::sync::{Arc, Mutex, PoisonError};

use nvme_spec::Status;
use stats_proto::bench::{BenchDevice, BenchJob, BenchProgress, BenchResult};

use super::generator::{Generator, Port};
use super::plan::{Device, Plan};
use super::shared::Shared;
use super::{Failure, Listener, Stop};
use crate::clock::Clock;
use crate::cpu;
use crate::dma::Buffer;
use crate::driver::Class;
use crate::error::IoError;
use crate::request::{Finished, Op, Request};
use crate::ring::client::{Client, RingError, Settings, Transport};
use crate::ring::layout::{Completion, Entry, Geometry, MAX_ENTRIES};
use crate::scheme::Errno;
use crate::worker::LoadState;

/// What computes where the device is a program of this machine too: a job, its worker and the device.
const PROGRAMS: u32 = 3;

/// The namespace behind the rings, as the driver's documents describe it.
#[derive(Clone, Debug)]
pub struct Target {
    /// What the result says of it.
    pub device: BenchDevice,
    /// Its size in blocks.
    pub blocks: u64,
}

/// A job whose rings are set up.
pub struct Prepared {
    jobs: Vec<Job>,
    outcome: Arc<dyn Ending>,
}

/// Sets `job` up on rings that `open` opens, one for each job. It will end on its own account or because of `stop`.
/// `progress` is called on a job's thread, about four times a second.
///
/// # Errors
/// Why it cannot be run.
pub fn prepare(
    target: &Target,
    job: &BenchJob,
    stop: &Stop,
    mut open: impl FnMut() -> Result<Box<dyn Transport>, Errno>,
    progress: impl Fn(BenchProgress) + Send + Sync + 'static,
) -> Result<Prepared, Failure> {
    let device = Device {
        serial: &target.device.serial,
        emulated: target.device.backend == "emulated",
        nsid: target.device.nsid,
        lba_bytes: u64::from(target.device.lba_bytes),
        blocks: target.blocks,
    };
    let plan = Plan::for_device(job, &device)?;
    let settings = settings(&plan)?;
    let is_emulated = device.emulated;
    let outcome = Arc::new(Outcome {
        progress,
        outcome: Mutex::new(None),
    });
    let listener = Arc::clone(&outcome) as Arc<dyn Listener>;
    let shared = Shared::new(job.clone(), target.device.clone(), plan, stop.clone(), listener);
    let shared = Arc::new(shared);
    let jobs = (0..plan.jobs).map(|index| {
        let transport = open().map_err(|errno| {
            let why = match errno {
                Errno::ENOENT => {
                    " (a driver that was built without the feature io-uring-compat has no rings)"
                }
                _ => "",
            };
            Failure::Ring {
                message: format!("opening it: {errno}{why}"),
                errno,
            }
        })?;
        let ring = Client::open(transport, settings).map_err(failure)?;
        Job::new(&shared, index, ring, &plan, is_emulated)
    });
    // Those that were made go down with the others, without a word to the listener.
    let jobs = jobs
        .collect::<Result<Vec<_>, _>>()
        .inspect_err(|_| shared.silence())?;
    drop(shared);
    Ok(Prepared { jobs, outcome })
}

impl Prepared {
    /// Runs it to its end, on a thread for each job.
    ///
    /// # Errors
    /// Why it has no result.
    pub fn run(self) -> Result<BenchResult, Failure> {
        let Self { jobs, outcome } = self;
        std::thread::scope(|scope| {
            for job in jobs {
                let spawned = std::thread::Builder::new()
                    .name("nvme-ring-job".to_owned())
                    .spawn_scoped(scope, move || job.run());
                // One that does not run counts as stopped when it is dropped.
                if let Err(error) = spawned {
                    log::error!("no thread for a job: {error}");
                }
            }
        });
        outcome.take().unwrap_or(Err(Failure::Io(IoError::Stopped)))
    }
}

/// How a job ended, taken once.
trait Ending: Send + Sync {
    fn take(&self) -> Option<Result<BenchResult, Failure>>;
}

/// A ring in which all requests of a job have room, with their buffers.
fn settings(plan: &Plan) -> Result<Settings, Failure> {
    let entries = plan.queue_depth.next_power_of_two();
    let sides = usize::from(plan.mix.reads()) + usize::from(plan.mix.writes());
    let data_bytes = (plan.queue_depth as usize)
        .checked_mul(stride(plan))
        .and_then(|bytes| bytes.checked_mul(sides));
    match data_bytes {
        Some(data_bytes) if entries <= MAX_ENTRIES => Ok(Settings {
            geometry: Geometry {
                sq_entries: entries,
                cq_entries: entries * 2,
            },
            data_bytes,
            tells_runs: false,
        }),
        _ => Err(Failure::Ring {
            message: format!("it has at most {MAX_ENTRIES} entries: lower queue_depth"),
            errno: Errno::EINVAL,
        }),
    }
}

/// Buffers begin with pages.
fn stride(plan: &Plan) -> usize {
    plan.block_bytes.next_multiple_of(4096)
}

fn failure(error: RingError) -> Failure {
    let errno = match &error {
        RingError::Driver { errno, .. } => *errno,
        RingError::Memory(_) => Errno::ENOMEM,
        RingError::Ended => Errno::ESHUTDOWN,
        RingError::Full | RingError::Idle | RingError::Broken => Errno::EIO,
    };
    Failure::Ring {
        message: error.to_string(),
        errno,
    }
}

struct Outcome<F> {
    progress: F,
    outcome: Mutex<Option<Result<BenchResult, Failure>>>,
}

impl<F: Fn(BenchProgress) + Send + Sync> Listener for Outcome<F> {
    fn progress(&self, progress: BenchProgress) {
        (self.progress)(progress);
    }

    fn ended(&self, outcome: Result<BenchResult, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    }
}

impl<F: Send + Sync> Ending for Outcome<F> {
    fn take(&self) -> Option<Result<BenchResult, Failure>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One job and its ring.
struct Job {
    shared: Arc<Shared>,
    index: u32,
    is_emulated: bool,
    generator: Generator,
    port: RingPort,
}

impl Job {
    fn new(
        shared: &Arc<Shared>,
        index: u32,
        ring: Client,
        plan: &Plan,
        is_emulated: bool,
    ) -> Result<Self, Failure> {
        let mut taken = 0;
        let stride = stride(plan);
        let allocate = || {
            let buffer = ring.buffer(taken, plan.block_bytes);
            taken += stride;
            buffer.map(Buffer::Registered).ok_or(())
        };
        let generator = Generator::new(shared, index, ring.qid(), allocate)
            .map_err(|()| Failure::NoMemory("a ring is too small".to_owned()))?;
        let out = (0..plan.queue_depth).map(|_| None).collect();
        Ok(Self {
            shared: Arc::clone(shared),
            index,
            is_emulated,
            generator,
            port: RingPort { ring, out },
        })
    }

    fn run(mut self) {
        if let Err(error) = self.drive() {
            self.shared.over(self.index, Err(failure(error)));
            // It has nothing more to say.
            self.generator.discard();
        }
    }

    fn drive(&mut self) -> Result<(), RingError> {
        let clock = Clock::system();
        let mut place = self.is_emulated.then(Place::new).flatten();
        let Self { generator, port, .. } = self;
        loop {
            if let Some(place) = &mut place {
                place.beside(port.ring.worker_cpu());
            }
            if generator.step(clock.now_ns(), port) == LoadState::Done {
                return Ok(());
            }
            port.ring.submit()?;
            let mut next = Some(port.ring.wait()?);
            let now_ns = clock.now_ns();
            while let Some(completion) = next {
                if let Some(done) = port.finished(&completion, now_ns) {
                    generator.done(done, port);
                }
                next = port.ring.complete()?;
            }
        }
    }
}

/// Where a job's thread runs, if there are fewer CPUs than [`PROGRAMS`]: on its worker's. The two wait for each other and lose
/// little by taking turns there, and the system finds that the other CPU is free for the device. Left to itself it puts the
/// device beside the job as often as not, and there they do not wait for each other.
struct Place {
    stay: cpu::Stay,
    /// What was last done about it.
    worker_cpu: Option<u32>,
}

impl Place {
    /// Of the calling thread; `None` if it is left to the system.
    fn new() -> Option<Self> {
        let stay = cpu::Stay::new().ok()?;
        (2..PROGRAMS).contains(&stay.cpus()).then_some(Self {
            stay,
            worker_cpu: None,
        })
    }

    /// The worker was last seen on `worker_cpu`. If this thread may not run there, it runs where it likes.
    #[inline]
    fn beside(&mut self, worker_cpu: Option<u32>) {
        if worker_cpu != self.worker_cpu {
            self.worker_cpu = worker_cpu;
            self.go();
        }
    }

    #[cold]
    fn go(&self) {
        let is_beside = |cpu| self.stay.on(&[cpu]).unwrap_or(false);
        if !self.worker_cpu.is_some_and(is_beside)
            && let Err(error) = self.stay.anywhere()
        {
            log::debug!("a job stays on one CPU: {error}");
        }
    }
}

/// Requests into a ring.
struct RingPort {
    ring: Client,
    /// What is out, by slot.
    out: Vec<Option<Request<u64>>>,
}

impl Port for RingPort {
    fn submit(&mut self, class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
        let Buffer::Registered(buffer) = &request.buffer else {
            return Err((request, IoError::NotAllowed));
        };
        let place = self.ring.place_of(buffer);
        let blocks = u32::try_from(request.blocks).unwrap_or(u32::MAX);
        let entry = match request.op {
            Op::Write { .. } => Entry::write(request.slba, blocks, place),
            _ => Entry::read(request.slba, blocks, place),
        };
        let entry = entry.with_class(class);
        let slot = request.context >> 1;
        let place = usize::try_from(slot).ok().and_then(|slot| self.out.get_mut(slot));
        match (place, self.ring.prepare(&entry.with_user_data(slot))) {
            (Some(place), Ok(())) => {
                *place = Some(request);
                Ok(())
            }
            (_, Err(RingError::Full)) => Err((request, IoError::Busy)),
            _ => Err((request, IoError::Lost)),
        }
    }
}

impl RingPort {
    /// The request that a result is of; none if it was never asked.
    fn finished(&mut self, completion: &Completion, completed_ns: u64) -> Option<Finished<u64>> {
        let slot = usize::try_from(completion.user_data).ok()?;
        let request = self.out.get_mut(slot)?.take()?;
        let result = match (completion.errno, Status(completion.status)) {
            (0, _) => Ok(()),
            (_, status) if !status.is_success() => Err(IoError::Status(status)),
            (errno, _) if errno == Errno::ESHUTDOWN.0.unsigned_abs() => Err(IoError::Stopped),
            _ => Err(IoError::Lost),
        };
        let device_ns = u64::from(completion.device_ns);
        Some(Finished {
            op: request.op,
            nsid: request.nsid,
            slba: request.slba,
            blocks: request.blocks,
            buffer: request.buffer,
            context: request.context,
            result,
            arrived_ns: request.arrived_ns,
            doorbell_ns: completed_ns.saturating_sub(device_ns).max(request.arrived_ns),
            completed_ns,
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity};

    use super::*;

    #[test]
    fn a_job_goes_where_its_worker_is_and_no_further_than_it_may() {
        // Where a thread runs is a matter of that thread.
        let test = || {
            let allowed = sched_getaffinity(None).unwrap();
            let numbers = |is_allowed| {
                let all = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu) == is_allowed);
                all.map(|cpu| u32::try_from(cpu).unwrap()).collect::<Vec<_>>()
            };
            let mut place = Place {
                stay: cpu::Stay::new().unwrap(),
                worker_cpu: None,
            };
            assert_eq!(Place::new().is_some(), allowed.count() == 2);
            place.beside(None);
            assert_eq!(sched_getaffinity(None).unwrap(), allowed);
            for cpu in numbers(true) {
                place.beside(Some(cpu));
                let now = sched_getaffinity(None).unwrap();
                assert!(now.is_set(cpu as usize) && now.count() == 1);
                // Of one that it may not use, or none, it is no nearer anywhere.
                let forbidden = numbers(false).first().copied();
                for elsewhere in [forbidden, Some(u32::MAX), None] {
                    place.beside(elsewhere);
                    assert_eq!(sched_getaffinity(None).unwrap(), allowed, "{elsewhere:?}");
                    place.beside(Some(cpu));
                    assert_eq!(sched_getaffinity(None).unwrap(), now);
                }
            }
        };
        std::thread::spawn(test).join().unwrap();
    }
}
