//! One job: a closed loop on the thread of the worker that owns its queue.

use std::collections::VecDeque;
use std::sync::Arc;

use fastrand::Rng;
use stats_proto::bench::{BenchJobResult, Depth, Phase};
use stats_proto::hist::HistError;

use super::Failure;
use super::plan::{Mix, Plan};
use super::record::SideRecord;
use super::shared::Shared;
use crate::dma::Buffer;
use crate::error::IoError;
use crate::io_scheduler::Class;
use crate::request::{Finished, Op, Request};
use crate::worker::{Load, LoadPort, LoadState};

/// Where a generator hands requests in.
pub(super) trait Port {
    fn submit(&mut self, class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)>;
}

impl Port for LoadPort<'_> {
    #[inline]
    fn submit(&mut self, class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
        self.submit_as(class, request)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Before the first turn.
    New,
    Warmup,
    Measuring,
    /// Nothing more is handed in; what is out is waited for.
    Draining,
    /// The result is delivered.
    Over,
}

pub(super) struct Generator {
    shared: Arc<Shared>,
    index: u32,
    qid: u16,
    plan: Plan,
    stage: Stage,
    choice: Choice,
    /// The buffers that are not out, by slot. A request's context is its slot, twice, plus 1 if it is to be
    /// measured.
    read_buffers: Vec<Buffer>,
    write_buffers: Vec<Buffer>,
    /// Requests that the queue had no room for.
    parked: VecDeque<Request<u64>>,
    /// When the stage ends.
    edge_ns: u64,
    /// When measuring began.
    began_ns: u64,
    /// The last answer to a measured request.
    last_ns: u64,
    /// Measured requests that may still be handed in.
    left: u64,
    /// Handed in and not yet answered.
    out: u32,
    out_max: u32,
    /// Reads, writes and failures since the start, the warm-up's too.
    answered_reads: u64,
    answered_writes: u64,
    errors: u64,
    reads: SideRecord,
    writes: SideRecord,
    /// Time integrals of the measured requests: out, and between doorbell and completion.
    out_ns: u128,
    device_ns: u128,
    failure: Option<Failure>,
}

impl Generator {
    /// A generator whose buffers are there. `allocate` gives one of `plan.block_bytes`.
    pub(super) fn new<E>(
        shared: &Arc<Shared>,
        index: u32,
        qid: u16,
        mut allocate: impl FnMut() -> Result<Buffer, E>,
    ) -> Result<Self, E> {
        let plan = shared.plan;
        let mut buffers = |wanted: bool| {
            let count = if wanted { plan.queue_depth } else { 0 };
            (0..count).map(|_| allocate()).collect::<Result<Vec<_>, E>>()
        };
        let read_buffers = buffers(plan.mix.reads())?;
        let mut write_buffers = buffers(plan.mix.writes())?;
        let choice = Choice::new(&plan, index);
        let mut filler = choice.rng.clone();
        for buffer in &mut write_buffers {
            fill(&mut filler, buffer);
        }
        Ok(Self {
            shared: Arc::clone(shared),
            index,
            qid,
            plan,
            stage: Stage::New,
            choice,
            read_buffers,
            write_buffers,
            parked: VecDeque::new(),
            edge_ns: u64::MAX,
            began_ns: 0,
            last_ns: 0,
            left: plan.ios.unwrap_or(u64::MAX),
            out: 0,
            out_max: 0,
            answered_reads: 0,
            answered_writes: 0,
            errors: 0,
            reads: SideRecord::new(),
            writes: SideRecord::new(),
            out_ns: 0,
            device_ns: 0,
            failure: None,
        })
    }

    /// One turn of the worker.
    pub(super) fn step(&mut self, now_ns: u64, port: &mut impl Port) -> LoadState {
        if self.stage == Stage::New {
            self.begin(now_ns);
            for slot in 0..u64::from(self.plan.queue_depth) {
                self.issue(slot, now_ns, port);
            }
        }
        self.check_end(now_ns);
        // Up to the first that there is still no room for.
        while let Some(request) = self.parked.pop_front() {
            let waiting = self.parked.len();
            self.submit(request, port);
            if self.parked.len() > waiting {
                self.parked.rotate_right(1);
                break;
            }
        }
        self.shared.progress(now_ns);
        if self.stage == Stage::Draining && self.out == 0 {
            self.finish();
        }
        match self.stage {
            Stage::Over => LoadState::Done,
            _ if !self.parked.is_empty() => LoadState::Running,
            _ => LoadState::WaitUntil(self.edge_ns.min(self.shared.next_progress_ns())),
        }
    }

    /// One answer.
    #[inline]
    pub(super) fn done(&mut self, done: Finished<u64>, port: &mut impl Port) {
        let now_ns = done.completed_ns;
        let slot = done.context >> 1;
        let measured = done.context & 1 != 0;
        let read = matches!(done.op, Op::Read);
        self.out = self.out.saturating_sub(1);
        self.count(read);
        if measured {
            // A doorbell outside the request's life would make the two parts more than the whole.
            let doorbell_ns = done.doorbell_ns.max(done.arrived_ns).min(now_ns);
            let host_ns = doorbell_ns.saturating_sub(done.arrived_ns);
            let device_ns = now_ns.saturating_sub(doorbell_ns);
            self.out_ns += u128::from(host_ns + device_ns);
            self.device_ns += u128::from(device_ns);
            self.last_ns = self.last_ns.max(now_ns);
            if done.result.is_ok() {
                self.side(read).done(host_ns, device_ns);
            }
        }
        if let Err(error) = done.result {
            self.failed(error, measured, read);
        }
        self.give_back(read, slot, done.buffer);
        self.check_end(now_ns);
        self.issue(slot, now_ns, port);
    }

    fn begin(&mut self, now_ns: u64) {
        if self.plan.warmup_ns > 0 {
            self.stage = Stage::Warmup;
            self.edge_ns = now_ns.saturating_add(self.plan.warmup_ns);
            self.enter(Phase::Warmup, now_ns);
        } else {
            self.measure(now_ns);
        }
    }

    fn measure(&mut self, now_ns: u64) {
        self.stage = Stage::Measuring;
        self.began_ns = now_ns;
        self.edge_ns = self.plan.end_ns(now_ns);
        self.out_max = self.out;
        self.enter(Phase::Running, now_ns);
    }

    fn drain(&mut self, now_ns: u64) {
        if matches!(self.stage, Stage::New | Stage::Warmup | Stage::Measuring) {
            self.stage = Stage::Draining;
            self.edge_ns = u64::MAX;
            self.enter(Phase::Draining, now_ns);
        }
    }

    fn enter(&self, phase: Phase, now_ns: u64) {
        if let Some(lane) = self.shared.lane(self.index) {
            lane.enter(phase, now_ns);
        }
    }

    /// Whether the stage ends at `now_ns`, by its time, its number of requests, or because somebody wants it.
    #[inline]
    fn check_end(&mut self, now_ns: u64) {
        if now_ns >= self.edge_ns || self.left == 0 || self.shared.is_stopped() {
            self.end_stage(now_ns);
        }
    }

    #[cold]
    fn end_stage(&mut self, now_ns: u64) {
        if self.stage == Stage::Warmup && !self.shared.is_stopped() {
            self.measure(now_ns);
        } else {
            self.drain(now_ns);
        }
    }

    /// The next request, in the buffers of `slot`, unless there is to be none.
    #[inline]
    fn issue(&mut self, slot: u64, now_ns: u64, port: &mut impl Port) {
        let measured = match self.stage {
            Stage::Warmup => false,
            Stage::Measuring if self.left > 0 => {
                self.left -= 1;
                true
            }
            _ => return,
        };
        let read = self.choice.is_read();
        let buffers = if read {
            &mut self.read_buffers
        } else {
            &mut self.write_buffers
        };
        let Some(place) = buffers.get_mut(slot as usize) else {
            return;
        };
        let mut buffer = std::mem::take(place);
        if !read {
            self.choice.stamp(&mut buffer);
        }
        let request = Request {
            op: if read { Op::Read } else { Op::Write { fua: false } },
            nsid: self.plan.nsid,
            slba: self.plan.first_block + self.choice.place() * self.plan.blocks,
            blocks: self.plan.blocks,
            buffer,
            arrived_ns: now_ns,
            context: slot << 1 | u64::from(measured),
        };
        self.out += 1;
        self.out_max = self.out_max.max(self.out);
        self.submit(request, port);
    }

    #[inline]
    fn submit(&mut self, request: Request<u64>, port: &mut impl Port) {
        if let Err((request, error)) = port.submit(self.plan.class, request) {
            self.refused(request, error);
        }
    }

    #[cold]
    fn refused(&mut self, request: Request<u64>, error: IoError) {
        if error == IoError::Busy {
            self.parked.push_back(request);
        } else {
            self.out = self.out.saturating_sub(1);
            self.give_back(
                matches!(request.op, Op::Read),
                request.context >> 1,
                request.buffer,
            );
            self.failed(error, request.context & 1 != 0, matches!(request.op, Op::Read));
        }
    }

    #[cold]
    fn failed(&mut self, error: IoError, measured: bool, read: bool) {
        self.errors += 1;
        if let Some(lane) = self.shared.lane(self.index) {
            lane.count_errors(self.errors);
        }
        match error {
            IoError::Status(status) if measured => self.side(read).failed(status),
            IoError::Status(_) => {}
            error => {
                self.failure.get_or_insert(Failure::Io(error));
                self.drain(self.last_ns);
            }
        }
    }

    #[inline]
    fn side(&mut self, read: bool) -> &mut SideRecord {
        if read { &mut self.reads } else { &mut self.writes }
    }

    #[inline]
    fn count(&mut self, read: bool) {
        let total = if read {
            &mut self.answered_reads
        } else {
            &mut self.answered_writes
        };
        *total += 1;
        let total = *total;
        if let Some(lane) = self.shared.lane(self.index) {
            lane.count(read, total);
        }
    }

    #[inline]
    fn give_back(&mut self, read: bool, slot: u64, buffer: Buffer) {
        let buffers = if read {
            &mut self.read_buffers
        } else {
            &mut self.write_buffers
        };
        if let Some(place) = buffers.get_mut(slot as usize) {
            *place = buffer;
        }
    }

    /// Somebody else has said how it ended.
    #[cfg(feature = "io-uring-compat")]
    pub(super) fn discard(mut self) {
        self.stage = Stage::Over;
    }

    /// Delivers the result.
    fn finish(&mut self) {
        if self.stage == Stage::Over {
            return;
        }
        self.stage = Stage::Over;
        let result = match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.result().map_err(Failure::from),
        };
        self.shared.over(self.index, result);
    }

    fn result(&self) -> Result<BenchJobResult, HistError> {
        let elapsed_ns = self.last_ns.saturating_sub(self.began_ns);
        let block_bytes = self.plan.block_bytes as u64;
        Ok(BenchJobResult {
            job: Some(self.index),
            qid: Some(self.qid),
            elapsed_ns,
            depth: Depth::new(
                self.plan.queue_depth,
                self.out_max,
                self.out_ns,
                self.device_ns,
                elapsed_ns,
            ),
            read: self.reads.side(block_bytes, elapsed_ns)?,
            write: self.writes.side(block_bytes, elapsed_ns)?,
        })
    }
}

impl Load for Generator {
    fn turn(&mut self, now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        self.step(now_ns, port)
    }

    fn finished(&mut self, done: Finished<u64>, port: &mut LoadPort<'_>) {
        self.done(done, port);
    }

    fn stopped(&mut self, why: IoError) {
        self.failure.get_or_insert(Failure::Io(why));
        self.finish();
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // A driver that goes down before the first turn drops what was attached.
        Load::stopped(self, IoError::Stopped);
    }
}

/// What the next request is.
struct Choice {
    rng: Rng,
    mix: Mix,
    random: bool,
    places: u64,
    /// The next place of a sequential pattern.
    next: u64,
    /// Writes so far, so that no two blocks written are alike.
    writes: u64,
}

impl Choice {
    fn new(plan: &Plan, index: u32) -> Self {
        // An odd multiplier parts the seeds of the jobs; generators of neighbouring seeds have nothing in
        // common.
        let seed = plan.random_seed ^ u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let next = u128::from(plan.places) * u128::from(index) / u128::from(plan.jobs.max(1));
        Self {
            rng: Rng::with_seed(seed),
            mix: plan.mix,
            random: plan.random,
            places: plan.places,
            next: next as u64,
            writes: 0,
        }
    }

    #[inline]
    fn is_read(&mut self) -> bool {
        match self.mix {
            Mix::Reads => true,
            Mix::Writes => false,
            Mix::Percent(percent) => self.rng.u32(0..100) < u32::from(percent),
        }
    }

    /// The number of the place, below `places`.
    #[inline]
    fn place(&mut self) -> u64 {
        if self.random {
            return self.rng.u64(0..self.places);
        }
        let place = self.next;
        self.next += 1;
        if self.next >= self.places {
            self.next = 0;
        }
        place
    }

    /// Makes data to write different from all that was written before.
    #[inline]
    fn stamp(&mut self, buffer: &mut Buffer) {
        self.writes += 1;
        let stamp = self.writes.to_le_bytes();
        match buffer {
            Buffer::Registered(buffer) => {
                buffer.copy_in(0, &stamp);
            }
            buffer => {
                if let Some(head) = buffer.as_mut_slice().first_chunk_mut() {
                    *head = stamp;
                }
            }
        }
    }
}

/// Fills `buffer` with what cannot be compressed.
fn fill(rng: &mut Rng, buffer: &mut Buffer) {
    match buffer {
        Buffer::Registered(buffer) => {
            let mut data = vec![0; buffer.len()];
            rng.fill(&mut data);
            buffer.copy_in(0, &data);
        }
        buffer => rng.fill(buffer.as_mut_slice()),
    }
}
