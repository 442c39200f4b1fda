//! A driver for the scheme's tests that is turned by hand: requests lie there until the test completes them,
//! in any order. The disk is a vector, changed at the moment of completion, as a whole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nvme_spec::{CompletionEntry, NvmOpcode, Status, SubmissionEntry};
use stats_proto::bench::{BenchJob, BenchResult};
use stats_proto::slow::SlowCommand;
use stats_proto::stats::{
    ControllerInfo, DriverInfo, Events, NamespaceStats, SnapshotInfo, StatsDocument, Time,
};

use super::lock;
use super::service::{
    AdminData, AdminFinished, AdminRequest, BlockService, Buffer, EventLog, Failure, Finished, Hint,
    Identity, IoError, Listener, Namespace, NamespaceState, Op, Remote, Request, SchedulerKind, Stop,
};
#[cfg(feature = "io-uring-compat")]
use super::service::{Held, Load, RegisteredMemory, SharedMemory};
use crate::clock::{Clock, ManualClock};

pub(super) struct Fake {
    identity: Identity,
    namespaces: Mutex<Arc<[Namespace]>>,
    disks: Mutex<Vec<Vec<u8>>>,
    out: Mutex<Vec<Request<Remote>>>,
    admin_out: Mutex<Vec<AdminRequest>>,
    /// The namespaces are not those of the beginning any more.
    changed: AtomicBool,
    /// Every request is refused at once with `Busy`.
    pub(super) busy: AtomicBool,
    /// Grows by one with each snapshot of the statistics.
    snapshots: AtomicU64,
    benchmarks: Mutex<Vec<Benchmark>>,
    /// What happens, as the test says.
    pub(super) events: Arc<EventLog>,
    /// What the recorder is said to hold.
    pub(super) slow: Mutex<Vec<SlowCommand>>,
    /// Taken by the next benchmark: it ends before its start has returned.
    pub(super) ends_at_once: Mutex<Option<Result<BenchResult, Failure>>>,
    scheduler: Mutex<SchedulerKind>,
    /// Every submission seen, in order.
    pub(super) seen: Mutex<Vec<(Op, u64, u64)>>,
    /// What came with each of them.
    pub(super) hints: Mutex<Vec<Hint>>,
}

/// A benchmark that was started: the test is the load generator.
#[derive(Clone)]
pub(super) struct Benchmark {
    pub(super) nsid: u32,
    pub(super) job: BenchJob,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) stop: Stop,
}

impl Fake {
    /// One namespace after the other, numbered from 1: `(lba_shift, blocks)`; 0 blocks make an unusable one.
    pub(super) fn new(shapes: &[(u32, u64)]) -> Arc<Self> {
        Self::with(shapes, [0; 4096], 1 << 20)
    }

    pub(super) fn with(
        shapes: &[(u32, u64)],
        identify_controller: [u8; 4096],
        max_transfer_bytes: usize,
    ) -> Arc<Self> {
        let namespaces = (1..)
            .zip(shapes)
            .map(|(nsid, (lba_shift, blocks))| namespace(nsid, *lba_shift, *blocks));
        Arc::new(Self {
            identity: identity(identify_controller, max_transfer_bytes),
            namespaces: Mutex::new(namespaces.collect()),
            disks: Mutex::new(
                shapes
                    .iter()
                    .map(|(shift, blocks)| vec![0; (blocks << shift) as usize])
                    .collect(),
            ),
            out: Mutex::default(),
            admin_out: Mutex::default(),
            changed: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            snapshots: AtomicU64::new(0),
            benchmarks: Mutex::default(),
            events: Arc::new(EventLog::new(Clock::manual(ManualClock::new(1)))),
            slow: Mutex::default(),
            ends_at_once: Mutex::new(None),
            scheduler: Mutex::default(),
            seen: Mutex::default(),
            hints: Mutex::default(),
        })
    }

    fn namespaces(&self) -> Arc<[Namespace]> {
        Arc::clone(&lock(&self.namespaces))
    }

    /// Disks that are new or larger than before are zeroes there.
    pub(super) fn set_namespaces(&self, namespaces: Vec<Namespace>) {
        let mut disks = lock(&self.disks);
        for namespace in &namespaces {
            let (number, size) = (namespace.nsid as usize, namespace.size_bytes() as usize);
            let len = disks.len().max(number);
            disks.resize(len, Vec::new());
            let size = size.max(disks[number - 1].len());
            disks[number - 1].resize(size, 0);
        }
        drop(disks);
        self.changed.store(true, Ordering::Relaxed);
        *lock(&self.namespaces) = namespaces.into();
    }

    pub(super) fn disk(&self, nsid: u32) -> Vec<u8> {
        lock(&self.disks)[nsid as usize - 1].clone()
    }

    pub(super) fn fill(&self, nsid: u32, data: &[u8]) {
        lock(&self.disks)[nsid as usize - 1].copy_from_slice(data);
    }

    /// Requests that are out.
    pub(super) fn out(&self) -> usize {
        lock(&self.out).len()
    }

    /// Does one request that is out, whichever `which` picks. False if there is none.
    pub(super) fn complete(&self, which: usize) -> bool {
        self.answer(which, Ok(()))
    }

    pub(super) fn answer(&self, which: usize, result: Result<(), IoError>) -> bool {
        let mut request = {
            let mut out = lock(&self.out);
            if out.is_empty() {
                return false;
            }
            let which = which % out.len();
            out.remove(which)
        };
        let result = if request.op == Op::Passthrough {
            answer_passthrough(&mut request, result);
            result
        } else {
            result.and_then(|()| self.perform(&mut request))
        };
        finish(request, result);
        true
    }

    pub(super) fn complete_all(&self) {
        while self.complete(0) {}
    }

    /// Does it, unless the namespaces were changed and it is not possible any more.
    fn perform(&self, request: &mut Request<Remote>) -> Result<(), IoError> {
        let namespaces = self.namespaces();
        let namespace = find(&namespaces, request.nsid).ok_or(IoError::NoNamespace)?;
        let start = (request.slba << namespace.lba_shift) as usize;
        let bytes = start..start + (request.blocks << namespace.lba_shift) as usize;
        let mut disks = lock(&self.disks);
        let disk = disks[request.nsid as usize - 1].get_mut(bytes.clone());
        let disk = disk.ok_or(IoError::OutOfRange)?;
        let buffered = |buffer: &Buffer| buffer.len() >= bytes.len();
        if request.op.has_data() && !buffered(&request.buffer) {
            return Err(IoError::BufferTooSmall);
        }
        match request.op {
            Op::Read => match &mut request.buffer {
                Buffer::Lent(memory) => {
                    memory.copy_in(0, disk);
                }
                buffer => buffer.as_mut_slice()[..bytes.len()].copy_from_slice(disk),
            },
            Op::Write { .. } => match &request.buffer {
                Buffer::Lent(memory) => {
                    memory.copy_out(0, disk);
                }
                buffer => disk.copy_from_slice(&buffer.as_slice()[..bytes.len()]),
            },
            Op::WriteZeroes { .. } => disk.fill(0),
            // Anything may be read there now.
            Op::Deallocate => disk.fill(0xDD),
            _ => {}
        }
        Ok(())
    }

    /// The admin commands that are out.
    pub(super) fn admin_out(&self) -> Vec<SubmissionEntry> {
        lock(&self.admin_out)
            .iter()
            .map(|request| request.entry)
            .collect()
    }

    /// Answers the oldest admin command with `status`; data it returns are `fill` throughout.
    pub(super) fn complete_admin(&self, status: Status, fill: u8) {
        let request = lock(&self.admin_out).remove(0);
        let data = match request.data {
            AdminData::FromDevice(len) => vec![fill; len],
            AdminData::None | AdminData::ToDevice(_) => Vec::new(),
        };
        let completion = CompletionEntry::new(u32::from(fill), 0, 0, 0, 0, status, true);
        request
            .sink
            .answer_admin(request.tag, Ok(AdminFinished { completion, data }));
    }

    /// The same with dword 0 and data as given: successfully.
    #[cfg(all(test, feature = "nvme-mi"))]
    pub(super) fn answer_admin(&self, dw0: u32, data: &[u8]) {
        let request = lock(&self.admin_out).remove(0);
        let data = match request.data {
            AdminData::FromDevice(len) => data.iter().copied().take(len).collect(),
            AdminData::None | AdminData::ToDevice(_) => Vec::new(),
        };
        let completion = CompletionEntry::new(dw0, 0, 0, 0, 0, Status::SUCCESS, true);
        request
            .sink
            .answer_admin(request.tag, Ok(AdminFinished { completion, data }));
    }

    pub(super) fn fail_admin(&self, error: IoError) {
        let request = lock(&self.admin_out).remove(0);
        request.sink.answer_admin(request.tag, Err(error));
    }

    /// Loses the oldest admin command without an answer.
    pub(super) fn drop_admin(&self) {
        drop(lock(&self.admin_out).remove(0));
    }

    /// Those that were started, whether they have ended or not.
    /// Forgets who was told of benchmarks: they hold the driver.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn forget_benchmarks(&self) {
        lock(&self.benchmarks).clear();
    }

    pub(super) fn benchmarks(&self) -> Vec<Benchmark> {
        lock(&self.benchmarks).clone()
    }

    pub(super) fn benchmark(&self, which: usize) -> Benchmark {
        lock(&self.benchmarks)[which].clone()
    }
}

/// The controller's answer to a client's own command: dword 0 is 7, and all that it returns is nines.
fn answer_passthrough(request: &mut Request<Remote>, result: Result<(), IoError>) {
    let Buffer::Passthrough(command) = &mut request.buffer else {
        panic!("{:?} is no command", request.buffer)
    };
    let status = match result {
        Ok(()) => Status::SUCCESS,
        Err(IoError::Status(status)) => status,
        Err(_) => return,
    };
    command.completion = Some(CompletionEntry::new(7, 0, 0, 1, 0, status, true));
    if command.entry.opcode == NvmOpcode::READ.0 && status.is_success() {
        command.data.fill(9);
    }
}

fn find(namespaces: &[Namespace], nsid: u32) -> Option<&Namespace> {
    namespaces.iter().find(|namespace| namespace.nsid == nsid)
}

fn finish(request: Request<Remote>, result: Result<(), IoError>) {
    let Request {
        op,
        nsid,
        slba,
        blocks,
        buffer,
        arrived_ns,
        context,
    } = request;
    let (doorbell_ns, completed_ns) = (arrived_ns, arrived_ns);
    let finished = Finished {
        op,
        nsid,
        slba,
        blocks,
        buffer,
        context: (),
        result,
        arrived_ns,
        doorbell_ns,
        completed_ns,
    };
    context.sink.answer(context.tag, finished);
}

impl BlockService for Arc<Fake> {
    fn now_ns(&self) -> u64 {
        0
    }

    fn submit(&self, hint: Hint, request: Request<Remote>) {
        lock(&self.hints).push(hint);
        lock(&self.seen).push((request.op, request.slba, request.blocks));
        if self.busy.load(Ordering::Relaxed) {
            return finish(request, Err(IoError::Busy));
        }
        let namespaces = self.namespaces();
        // What a client sends itself is the controller's to judge.
        if request.op != Op::Passthrough
            && let Some(namespace) = find(&namespaces, request.nsid)
        {
            // Once the namespaces were changed, what has begun before may go beyond the end of what is there now.
            let inside = request.slba + request.blocks <= namespace.blocks;
            assert!(inside || self.changed.load(Ordering::Relaxed), "beyond the end");
            if request.op != Op::Flush {
                assert!(request.blocks > 0);
            }
            if matches!(request.op, Op::Read | Op::Write { .. }) && !self.changed.load(Ordering::Relaxed) {
                assert!(request.buffer.len() as u64 >= request.blocks << namespace.lba_shift);
            }
        }
        lock(&self.out).push(request);
    }

    fn admin(&self, request: AdminRequest) {
        lock(&self.admin_out).push(request);
    }

    fn stats(&self, histograms: bool) -> StatsDocument {
        let namespaces = self.namespaces();
        let namespaces = namespaces.iter().map(|namespace| NamespaceStats {
            nsid: namespace.nsid,
            lba_bytes: 1 << namespace.lba_shift,
            blocks: namespace.blocks,
            ops: None,
        });
        StatsDocument {
            schema: Default::default(),
            version: stats_proto::Version::STATS,
            driver: DriverInfo {
                name: "fake".into(),
                version: "0".into(),
                features: vec![],
            },
            boot_id: None,
            // Long enough to be read in pieces; with histograms it says so.
            instance_id: format!(
                "{}{}",
                "x".repeat(5000),
                if histograms { "full" } else { "light" }
            ),
            generation: self.snapshots.fetch_add(1, Ordering::Relaxed),
            time: Time {
                monotonic_ns: 0,
                wall_unix_ns: 0,
                clock: "virtual".into(),
                clock_hz: None,
                started_monotonic_ns: 0,
            },
            snapshot: SnapshotInfo {
                duration_ns: 0,
                consistent: true,
                retries: 0,
            },
            controller: ControllerInfo {
                pci: None,
                backend: "fake".into(),
                vendor_id: 0,
                model: String::new(),
                serial: String::new(),
                firmware: String::new(),
                state: "ready".into(),
                mdts_bytes: None,
                irq_mode: "none".into(),
                numa_node: None,
                scheduler: "none".into(),
            },
            health: None,
            queues: vec![],
            namespaces: namespaces.collect(),
            events: Events::default(),
            clients: None,
            sockets: Vec::new(),
            slow_commands: None,
        }
    }

    fn slow_commands(&self) -> Vec<SlowCommand> {
        lock(&self.slow).clone()
    }

    fn scheduler(&self) -> SchedulerKind {
        *lock(&self.scheduler)
    }

    fn set_scheduler(&self, kind: SchedulerKind) {
        *lock(&self.scheduler) = kind;
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.events
    }

    fn namespaces(&self) -> Arc<[Namespace]> {
        Fake::namespaces(self)
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn start_benchmark(
        &self,
        nsid: u32,
        job: BenchJob,
        stop: &Stop,
        listener: Arc<dyn Listener>,
    ) -> Result<(), Failure> {
        job.validate()?;
        if let Some(outcome) = lock(&self.ends_at_once).take() {
            listener.ended(outcome);
        }
        lock(&self.benchmarks).push(Benchmark {
            nsid,
            job,
            listener,
            stop: stop.clone(),
        });
        Ok(())
    }

    #[cfg(feature = "io-uring-compat")]
    fn register(&self, memory: Arc<SharedMemory>, held: Held) -> Arc<RegisteredMemory> {
        Arc::new(RegisteredMemory::copied(memory, held))
    }

    #[cfg(feature = "io-uring-compat")]
    fn queue_for(&self, _client: u64) -> (usize, u16) {
        (0, 1)
    }

    /// There is no worker, as after the driver's end.
    #[cfg(feature = "io-uring-compat")]
    fn attach(&self, _queue: usize, mut load: Box<dyn Load>) {
        load.stopped(IoError::Stopped);
    }

    #[cfg(feature = "io-uring-compat")]
    fn nudge(&self, _queue: usize) {}
}

/// A namespace whose identify bytes are its number throughout.
pub(super) fn namespace(nsid: u32, lba_shift: u32, blocks: u64) -> Namespace {
    let mut namespace = Namespace::unknown(nsid, "it has no blocks".into());
    (namespace.lba_shift, namespace.blocks) = (lba_shift, blocks);
    namespace.identify.fill(nsid as u8);
    if blocks > 0 {
        namespace.state = NamespaceState::Usable;
    }
    namespace
}

/// What an emulated controller without properties says of itself.
pub(crate) fn identity(identify_controller: [u8; 4096], max_transfer_bytes: usize) -> Identity {
    Identity {
        backend: "fake",
        emulated: true,
        pci: None,
        irq_mode: "msix",
        numa_node: None,
        vendor_id: 0,
        serial: "SERIAL".into(),
        model: "Model".into(),
        firmware: "1".into(),
        max_transfer_bytes,
        mdts_bytes: None,
        nn: 0,
        identify_controller: Box::new(identify_controller),
        has_command_sets: false,
        rtd3e_us: 0,
    }
}
