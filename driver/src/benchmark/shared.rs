//! What the generators of one benchmark share: how far each is, and the result that they put together.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stats_proto::bench::{
    BenchDevice, BenchJob, BenchJobResult, BenchProgress, BenchProgressSchema, BenchResult, Phase,
};

use super::plan::Plan;
use super::{Failure, Listener, Stop};

/// Time from one progress line to the next.
const PROGRESS_NS: u64 = 250_000_000;

pub(super) struct Shared {
    pub(super) plan: Plan,
    job: BenchJob,
    device: BenchDevice,
    listener: Arc<dyn Listener>,
    silent: AtomicBool,
    stop: Stop,
    lanes: Box<[Lane]>,
    /// When the next progress line is due; 0 until the first generator runs.
    next_progress_ns: AtomicU64,
    last: Mutex<Last>,
    outcomes: Mutex<Outcomes>,
}

/// How far one generator is. Only it writes, on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Lane {
    phase: AtomicU8,
    /// When the phase began.
    began_ns: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
    /// `reads` + `writes` and `errors` when the phase began.
    base_ios: AtomicU64,
    base_errors: AtomicU64,
}

const NOT_STARTED: u8 = 0;
const WARMUP: u8 = 1;
const RUNNING: u8 = 2;
const DRAINING: u8 = 3;
const OVER: u8 = 4;

impl Lane {
    #[inline]
    pub(super) fn count(&self, read: bool, total: u64) {
        let counter = if read { &self.reads } else { &self.writes };
        counter.store(total, Ordering::Relaxed);
    }

    pub(super) fn count_errors(&self, total: u64) {
        self.errors.store(total, Ordering::Relaxed);
    }

    pub(super) fn enter(&self, phase: Phase, now_ns: u64) {
        // Draining is the end of running: what was done keeps counting from where running began.
        let phase = match phase {
            Phase::Warmup => WARMUP,
            Phase::Running => RUNNING,
            Phase::Draining => DRAINING,
        };
        if phase != DRAINING {
            let ios = self.reads.load(Ordering::Relaxed) + self.writes.load(Ordering::Relaxed);
            self.base_ios.store(ios, Ordering::Relaxed);
            self.base_errors
                .store(self.errors.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.began_ns.store(now_ns, Ordering::Relaxed);
        self.phase.store(phase, Ordering::Relaxed);
    }
}

/// What the last progress line said, to tell the rates since then.
#[derive(Default)]
struct Last {
    when_ns: u64,
    reads: u64,
    writes: u64,
}

struct Outcomes {
    results: Vec<Option<BenchJobResult>>,
    left: usize,
    failure: Option<Failure>,
}

impl Shared {
    pub(super) fn new(
        job: BenchJob,
        device: BenchDevice,
        plan: Plan,
        stop: Stop,
        listener: Arc<dyn Listener>,
    ) -> Self {
        let jobs = plan.jobs as usize;
        Self {
            plan,
            job,
            device,
            listener,
            silent: AtomicBool::new(false),
            stop,
            lanes: (0..jobs).map(|_| Lane::default()).collect(),
            next_progress_ns: AtomicU64::new(0),
            last: Mutex::default(),
            outcomes: Mutex::new(Outcomes {
                results: vec![None; jobs],
                left: jobs,
                failure: None,
            }),
        }
    }

    #[inline]
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// From now on the listener hears nothing.
    pub(super) fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub(super) fn lane(&self, index: u32) -> Option<&Lane> {
        self.lanes.get(index as usize)
    }

    /// When [`progress`](Self::progress) wants to be called next.
    pub(super) fn next_progress_ns(&self) -> u64 {
        self.next_progress_ns.load(Ordering::Relaxed)
    }

    /// Tells the listener how far it is, if that is due. Any generator may call; one of them does it.
    pub(super) fn progress(&self, now_ns: u64) {
        let due_ns = self.next_progress_ns();
        if now_ns < due_ns {
            return;
        }
        let next_ns = now_ns.saturating_add(PROGRESS_NS);
        let mine =
            self.next_progress_ns
                .compare_exchange(due_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed);
        if mine.is_err() {
            return;
        }
        let mut last = self.last();
        if due_ns == 0 {
            // The first turn of all: nothing to tell yet.
            last.when_ns = now_ns;
            return;
        }
        let progress = self.tell(&mut last, now_ns);
        drop(last);
        if !self.silent.load(Ordering::Relaxed) {
            self.listener.progress(progress);
        }
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, last: &mut Last, now_ns: u64) -> BenchProgress {
        let sum = |of: fn(&Lane) -> &AtomicU64| {
            self.lanes
                .iter()
                .map(|lane| of(lane).load(Ordering::Relaxed))
                .fold(0, u64::saturating_add)
        };
        let (reads, writes) = (sum(|lane| &lane.reads), sum(|lane| &lane.writes));
        let interval_s = now_ns.saturating_sub(last.when_ns).max(1) as f64 / 1e9;
        let read_iops = reads.saturating_sub(last.reads) as f64 / interval_s;
        let write_iops = writes.saturating_sub(last.writes) as f64 / interval_s;
        *last = Last {
            when_ns: now_ns,
            reads,
            writes,
        };

        // All together are in the phase of the one that is the least far.
        let phases = self.lanes.iter().map(|lane| lane.phase.load(Ordering::Relaxed));
        let (phase, total_ns) = match phases.filter(|phase| *phase != OVER).min() {
            Some(NOT_STARTED | WARMUP) if self.plan.warmup_ns > 0 => {
                (Phase::Warmup, Some(self.plan.warmup_ns))
            }
            Some(NOT_STARTED | WARMUP | RUNNING) => (Phase::Running, self.plan.time_ns),
            _ => (Phase::Draining, None),
        };
        let began = self
            .lanes
            .iter()
            .map(|lane| lane.began_ns.load(Ordering::Relaxed))
            .filter(|began_ns| *began_ns > 0);
        BenchProgress {
            schema: BenchProgressSchema::default(),
            version: stats_proto::Version::CURRENT,
            phase,
            elapsed_ns: now_ns.saturating_sub(began.min().unwrap_or(now_ns)),
            total_ns,
            ios_done: reads
                .saturating_add(writes)
                .saturating_sub(sum(|lane| &lane.base_ios)),
            read_iops,
            write_iops,
            read_bytes_per_s: read_iops * self.plan.block_bytes as f64,
            write_bytes_per_s: write_iops * self.plan.block_bytes as f64,
            errors: sum(|lane| &lane.errors).saturating_sub(sum(|lane| &lane.base_errors)),
        }
    }

    /// Generator `index` is over; the last one's call tells the listener.
    pub(super) fn over(&self, index: u32, result: Result<BenchJobResult, Failure>) {
        if let Some(lane) = self.lane(index) {
            lane.phase.store(OVER, Ordering::Relaxed);
        }
        let outcome = {
            let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(result) => {
                    if let Some(place) = outcomes.results.get_mut(index as usize) {
                        *place = Some(result);
                    }
                }
                Err(failure) => {
                    // The others have nothing to wait for.
                    self.stop.stop();
                    outcomes.failure.get_or_insert(failure);
                }
            }
            outcomes.left = outcomes.left.saturating_sub(1);
            if outcomes.left > 0 {
                return;
            }
            match outcomes.failure.take() {
                Some(failure) => Err(failure),
                None => Ok(std::mem::take(&mut outcomes.results)),
            }
        };
        if !self.silent.load(Ordering::Relaxed) {
            self.listener
                .ended(outcome.and_then(|results| self.result(results)));
        }
    }

    fn result(&self, jobs: Vec<Option<BenchJobResult>>) -> Result<BenchResult, Failure> {
        let jobs: Vec<BenchJobResult> = jobs.into_iter().flatten().collect();
        let total = BenchJobResult::total(&jobs)?;
        Ok(BenchResult {
            schema: Default::default(),
            version: stats_proto::Version::CURRENT,
            job: self.job.clone(),
            device: self.device.clone(),
            jobs,
            total,
        })
    }
}
