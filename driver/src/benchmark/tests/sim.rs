//! A simulated queue and device for generators, and benchmarks set up on them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use stats_proto::bench::{LatencySummary, Side};

use super::super::generator::Port;
use super::super::*;
use crate::dma::Buffer;
use crate::io_scheduler::Class;
use crate::request::{Finished, Op, Request};
use crate::worker::LoadState;

pub(super) const LBA_SHIFT: u32 = 12;
pub(super) const NAMESPACE_BLOCKS: u64 = 1000;

/// What the listener heard.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) progress: Mutex<Vec<BenchProgress>>,
    pub(super) outcome: Mutex<Option<Result<BenchResult, Failure>>>,
    pub(super) outcomes: AtomicU64,
}

impl Listener for Heard {
    fn progress(&self, progress: BenchProgress) {
        self.progress.lock().unwrap().push(progress);
    }

    fn ended(&self, outcome: Result<BenchResult, Failure>) {
        *self.outcome.lock().unwrap() = Some(outcome);
        self.outcomes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Heard {
    pub(super) fn outcome(&self) -> Result<BenchResult, Failure> {
        assert_eq!(self.outcomes.load(Ordering::Relaxed), 1, "told once");
        self.outcome.lock().unwrap().clone().expect("an outcome")
    }
}

pub(super) fn plan(job: &BenchJob) -> Plan {
    let identity = crate::scheme::fake::identity([0; 4096], 1 << 20);
    Plan::new(job, &identity, &namespace()).expect("a job that can be run")
}

pub(super) fn namespace() -> crate::namespace::Namespace {
    let mut namespace = crate::namespace::Namespace::unknown(1, String::new());
    (namespace.lba_shift, namespace.blocks) = (LBA_SHIFT, NAMESPACE_BLOCKS);
    namespace.state = crate::namespace::NamespaceState::Usable;
    namespace
}

pub(super) fn heap(len_bytes: usize) -> Result<Buffer, IoError> {
    Ok(Buffer::heap(vec![0; len_bytes]))
}

/// What a simulated device does with a request.
#[derive(Clone, Copy)]
pub(super) struct Fate {
    /// From handing in to the doorbell.
    pub(super) host_ns: u64,
    /// From the doorbell to the completion.
    pub(super) device_ns: u64,
    pub(super) result: Result<(), IoError>,
}

pub(super) const fn after(device_ns: u64) -> Fate {
    Fate {
        host_ns: 0,
        device_ns,
        result: Ok(()),
    }
}

/// One generator, its queue and its device.
pub(super) struct Sim<F> {
    pub(super) now_ns: u64,
    pub(super) out: BTreeMap<(u64, u64), (Request<u64>, Fate)>,
    pub(super) number: u64,
    pub(super) room: usize,
    pub(super) refuse: Option<IoError>,
    pub(super) fate: F,
    /// What was asked, in order.
    pub(super) asked: Vec<(Op, u64, u64)>,
    /// The first bytes of what was written.
    pub(super) heads: Vec<u64>,
}

impl<F: FnMut(u64) -> Fate> Sim<F> {
    pub(super) fn new(fate: F) -> Self {
        Self {
            now_ns: 1_000_000,
            out: BTreeMap::new(),
            number: 0,
            room: usize::MAX,
            refuse: None,
            fate,
            asked: Vec::new(),
            heads: Vec::new(),
        }
    }

    /// Turns `generator` until it is done; then the virtual time.
    pub(super) fn run(&mut self, generator: &mut Generator) -> u64 {
        for _ in 0..1_000_000 {
            let state = generator.step(self.now_ns, self);
            let due_ns = self.out.first_key_value().map(|((due_ns, _), _)| *due_ns);
            let until_ns = match state {
                LoadState::Done => return self.now_ns,
                LoadState::Running | LoadState::Worked => due_ns.unwrap_or(self.now_ns + 1),
                LoadState::WaitUntil(at_ns) => due_ns.unwrap_or(u64::MAX).min(at_ns),
            };
            assert!(until_ns < u64::MAX, "nothing will ever happen again");
            self.now_ns = self.now_ns.max(until_ns);
            self.complete(generator);
        }
        panic!("it does not end");
    }

    /// Answers all that is due, as one pass.
    fn complete(&mut self, generator: &mut Generator) {
        let later = self.out.split_off(&(self.now_ns + 1, 0));
        for (_, (request, fate)) in std::mem::replace(&mut self.out, later) {
            let Request {
                op,
                nsid,
                slba,
                blocks,
                buffer,
                arrived_ns,
                context,
            } = request;
            let doorbell_ns = arrived_ns + fate.host_ns;
            let (completed_ns, result) = (self.now_ns, fate.result);
            let done = Finished {
                op,
                nsid,
                slba,
                blocks,
                buffer,
                context,
                result,
                arrived_ns,
                doorbell_ns,
                completed_ns,
            };
            generator.done(done, self);
        }
    }
}

impl<F: FnMut(u64) -> Fate> Port for Sim<F> {
    fn submit(&mut self, _class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
        if let Some(error) = self.refuse {
            return Err((request, error));
        }
        if self.out.len() >= self.room {
            return Err((request, IoError::Busy));
        }
        assert!(request.slba + request.blocks <= NAMESPACE_BLOCKS);
        assert_eq!(request.buffer.len() as u64, request.blocks << LBA_SHIFT);
        self.asked.push((request.op, request.slba, request.blocks));
        if let (Op::Write { .. }, Some(head)) = (request.op, request.buffer.as_slice().first_chunk()) {
            self.heads.push(u64::from_le_bytes(*head));
        }
        let fate = (self.fate)(self.number);
        let due_ns = self
            .now_ns
            .max(request.arrived_ns + fate.host_ns + fate.device_ns);
        self.out.insert((due_ns, self.number), (request, fate));
        self.number += 1;
        Ok(())
    }
}

/// A benchmark of one job, before its first turn.
pub(super) fn set_up(job: &BenchJob) -> (Generator, Arc<Heard>, Stop) {
    let (mut generators, heard, stop) = set_up_all(job);
    assert_eq!(generators.len(), 1);
    (generators.remove(0), heard, stop)
}

pub(super) fn set_up_all(job: &BenchJob) -> (Vec<Generator>, Arc<Heard>, Stop) {
    let (heard, stop) = (Arc::<Heard>::default(), Stop::default());
    let device = BenchDevice {
        model: "M".into(),
        serial: "S".into(),
        firmware: "F".into(),
        nsid: 1,
        lba_bytes: 4096,
        backend: "emulated".into(),
    };
    let plan = plan(job);
    let listener = Arc::clone(&heard) as Arc<dyn Listener>;
    let shared = Arc::new(Shared::new(job.clone(), device, plan, stop.clone(), listener));
    let generators = (0..plan.jobs)
        .map(|index| Generator::new(&shared, index, index as u16 + 1, || heap(plan.block_bytes)).unwrap());
    (generators.collect(), heard, stop)
}

/// Runs `job` to its end.
pub(super) fn run(job: &BenchJob, fate: impl FnMut(u64) -> Fate) -> (BenchResult, Vec<BenchProgress>) {
    let (mut generator, heard, _) = set_up(job);
    Sim::new(fate).run(&mut generator);
    let progress = heard.progress.lock().unwrap().clone();
    (heard.outcome().expect("a result"), progress)
}

pub(super) fn job(queue_depth: u32) -> BenchJob {
    BenchJob {
        queue_depth,
        time_ns: None,
        ios: Some(1000),
        destructive: true,
        ..Default::default()
    }
}

/// Mean depth = requests per second times mean latency.
pub(super) fn assert_littles_law(result: &BenchResult) {
    let total = &result.total;
    let share = |side: &Side, latency: &LatencySummary| side.iops / 1e9 * latency.mean_ns.unwrap_or(0.0);
    let mean =
        share(&total.read, &total.read.latency_total) + share(&total.write, &total.write.latency_total);
    let device =
        share(&total.read, &total.read.latency_device) + share(&total.write, &total.write.latency_device);
    assert!(
        (total.depth.mean - mean).abs() < 1e-6,
        "{} {mean}",
        total.depth.mean
    );
    assert!(
        (total.depth.device_mean - device).abs() < 1e-6,
        "{} {device}",
        total.depth.device_mean
    );
}
