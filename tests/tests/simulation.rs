//! The whole driver under a clock that is moved by hand, against a device that is stepped by hand, with faults: all of
//! it from a seed, so that a failure replays.
//!
//! Whatever happens, each request is answered exactly once, a read gives what some write put there that was not
//! overwritten, and what was acknowledged is not lost.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::{Clock, ManualClock};
use nvme_driver::config::SchedulerKind;
use nvme_driver::controller::Opening;
use nvme_driver::driver::{Class, Driver, Hint, Priority, Stepped};
use nvme_driver::passthrough::Passthrough;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Finished, IoError, Op, Request};
use nvme_emulator::{Action, Emulator, Fault, QueueMatch};
use nvme_spec::{NvmOpcode, Status, command};
use stats_proto::slow::{SlowCommand, SlowKind};

const LBA_BYTES: usize = 512;
const BLOCKS: u64 = 2048;
/// Some commands are slower than this, some are not.
const SLOW_US: u64 = 2000;

#[derive(Default)]
struct Answers(Mutex<VecDeque<(u64, Finished<()>)>>);

impl Answer for Answers {
    fn answer(&self, tag: u64, finished: Finished<()>) {
        self.0.lock().unwrap().push_back((tag, finished));
    }
}

/// What may be on the disk: for each block the numbers of the writes that may be what it holds now. 0 is "never".
struct Model {
    blocks: Vec<BTreeSet<u64>>,
}

/// A request that is out.
struct Out {
    op: Op,
    slba: u64,
    blocks: u64,
    /// A write's number, which its blocks are filled with.
    number: u64,
    /// What a read may find, block by block: what may have been there at any time since it was sent.
    may_find: Vec<BTreeSet<u64>>,
    /// Whether another write to any of its blocks was out at the same time: then nobody knows which of them was last.
    disputed: bool,
}

impl Out {
    fn overlaps(&self, slba: u64, blocks: u64) -> bool {
        slba < self.slba + self.blocks && self.slba < slba + blocks
    }

    fn is_write(&self) -> bool {
        matches!(self.op, Op::Write { .. })
    }
}

fn scheduler(rng: &mut fastrand::Rng) -> SchedulerKind {
    SchedulerKind::ALL[rng.usize(0..SchedulerKind::ALL.len())]
}

struct Simulation {
    seed: u64,
    rng: fastrand::Rng,
    /// What has to do with schedulers: the rest of a run is the same without it.
    scheduling: fastrand::Rng,
    clock: ManualClock,
    device: Arc<Emulator>,
    driver: Driver,
    stepped: Stepped,
    answers: Arc<Answers>,
    model: Model,
    out: BTreeMap<u64, Out>,
    next_tag: u64,
    results: BTreeMap<String, u64>,
    log: Vec<u64>,
}

impl Simulation {
    fn new(seed: u64, spec: &str, faults: Vec<Fault>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut scheduling = fastrand::Rng::with_seed(!seed);
        let clock = ManualClock::new(1);
        let mut device: nvme_emulator::Config = spec.parse().unwrap();
        device.seed = seed;
        let backend = EmulatedBackend::stepped(device).unwrap();
        let device = Arc::clone(backend.device());
        let config = Config {
            num_queues: 2,
            queue_depth: 16,
            zero_copy: rng.bool(),
            slow_us: SLOW_US as u32,
            scheduler: scheduler(&mut scheduling),
            scheduler_window: scheduling.u32(0..8),
            merge: scheduling.bool(),
            ..Config::default()
        };
        let mut opening = Opening::new(Arc::new(backend), &config, Clock::manual(clock.clone())).unwrap();
        while !opening.turn().unwrap() {
            device.step(clock.now_ns());
            clock.set(clock.now_ns() + 10_000);
        }
        let (driver, stepped) = Driver::stepped(opening.finish().unwrap()).unwrap();
        device.faults().add_all(faults);
        let model = Model {
            blocks: vec![BTreeSet::from([0]); BLOCKS as usize],
        };
        Self {
            seed,
            rng,
            scheduling,
            clock,
            device,
            driver,
            stepped,
            answers: Arc::default(),
            model,
            out: BTreeMap::new(),
            next_tag: 1,
            results: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn submit(&mut self) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let most = if self.rng.u8(0..8) == 0 { 100 } else { 8 };
        let blocks = self.rng.u64(1..=most);
        let slba = self.rng.u64(0..=BLOCKS - blocks);
        let op = match self.rng.u8(0..10) {
            0..5 => Op::Read,
            5..9 => Op::Write { fua: self.rng.bool() },
            _ => Op::Flush,
        };
        let mut bytes = vec![
            0xEE;
            if op == Op::Flush {
                0
            } else {
                blocks as usize * LBA_BYTES
            }
        ];
        let range = slba as usize..(slba + blocks) as usize;
        let mut out = Out {
            op,
            slba,
            blocks,
            number: tag,
            may_find: Vec::new(),
            disputed: false,
        };
        match op {
            Op::Write { .. } => {
                for word in bytes.chunks_exact_mut(8) {
                    word.copy_from_slice(&tag.to_le_bytes());
                }
                for other in self.out.values_mut().filter(|other| other.overlaps(slba, blocks)) {
                    if other.is_write() {
                        other.disputed = true;
                        out.disputed = true;
                    }
                    for (block, may_find) in (other.slba..).zip(&mut other.may_find) {
                        if (slba..slba + blocks).contains(&block) {
                            may_find.insert(tag);
                        }
                    }
                }
                for block in &mut self.model.blocks[range] {
                    block.insert(tag);
                }
            }
            Op::Read => out.may_find = self.model.blocks[range].to_vec(),
            _ => {}
        }
        self.out.insert(tag, out);
        let sink: Arc<dyn Answer> = Arc::clone(&self.answers) as Arc<dyn Answer>;
        // Some are clients' own commands; the device moves 8 KiB with one.
        let own = (blocks <= 16 && self.rng.u8(0..4) == 0).then(|| {
            let entry = match op {
                Op::Read => command::read(1, slba, blocks as u32),
                Op::Write { fua } => command::write(1, slba, blocks as u32, fua),
                _ => command::flush(1),
            };
            Buffer::Passthrough(Box::new(Passthrough::new(entry, bytes.clone())))
        });
        let request = Request {
            op: if own.is_some() { Op::Passthrough } else { op },
            nsid: 1,
            slba,
            blocks: if op == Op::Flush { 0 } else { blocks },
            buffer: own.unwrap_or_else(|| Buffer::heap(bytes)),
            arrived_ns: self.clock.now_ns(),
            context: Remote { sink, tag },
        };
        self.driver.submit(
            Hint {
                cpu: Some(self.rng.u32(..)),
                client: tag % 5,
                class: Class {
                    priority: Priority::ALL[self.scheduling.usize(0..4)],
                    deadline_us: None,
                },
            },
            request,
        );
    }

    fn take_answers(&mut self) {
        loop {
            let answer = self.answers.0.lock().unwrap().pop_front();
            let Some((tag, finished)) = answer else { return };
            let seed = self.seed;
            let out = self
                .out
                .remove(&tag)
                .unwrap_or_else(|| panic!("{tag} was answered twice, seed {seed}"));
            self.log
                .extend([tag, finished.completed_ns, u64::from(finished.result.is_ok())]);
            *self
                .results
                .entry(format!(
                    "{:?}",
                    finished.result.map_err(|e| std::mem::discriminant(&e))
                ))
                .or_default() += 1;
            if let Buffer::Passthrough(own) = &finished.buffer {
                // The controller's answer is there if it gave one, and says the same.
                let answered = own.completion.map(|completion| match completion.status() {
                    status if status.is_success() => Ok(()),
                    status => Err(IoError::Status(status)),
                });
                let lost = matches!(
                    finished.result,
                    Err(IoError::Lost | IoError::Stopped | IoError::Busy)
                );
                assert_eq!(answered, (!lost).then_some(finished.result), "{tag}, seed {seed}");
            }
            if finished.result.is_err() {
                continue;
            }
            match out.op {
                Op::Read => {
                    for (block, (bytes, may_find)) in finished
                        .buffer
                        .as_slice()
                        .chunks_exact(LBA_BYTES)
                        .zip(&out.may_find)
                        .enumerate()
                    {
                        let words: BTreeSet<u64> = bytes
                            .chunks_exact(8)
                            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
                            .collect();
                        // One block is of one write: the emulated device does not tear.
                        assert!(
                            words.len() == 1 && words.is_subset(may_find),
                            "read {tag} of block {} found {words:?}, may find {may_find:?}, seed {seed}",
                            out.slba + block as u64
                        );
                    }
                }
                Op::Write { .. } if !out.disputed => {
                    for block in &mut self.model.blocks[out.slba as usize..(out.slba + out.blocks) as usize] {
                        // Whatever was sent later may be there already; nothing earlier can be.
                        block.retain(|number| *number >= out.number);
                    }
                }
                _ => {}
            }
        }
    }

    /// One of the actors does what it can at this moment.
    fn act(&mut self) {
        if self.scheduling.u8(0..100) == 0 {
            let kind = scheduler(&mut self.scheduling);
            self.driver.set_scheduler(kind);
        }
        match self.rng.u8(0..10) {
            0..3 => {
                self.device.step(self.clock.now_ns());
            }
            3..6 => {
                let worker = self.rng.usize(0..self.stepped.workers());
                self.stepped.turn_worker(worker);
            }
            6 => {
                self.stepped.turn_admin();
            }
            _ => self.clock.set(self.clock.now_ns() + self.rng.u64(0..20_000)),
        }
        self.take_answers();
    }

    fn run(mut self, requests: u64) -> Self {
        while self.next_tag <= requests {
            if self.out.len() < 60 && self.rng.u8(0..3) == 0 {
                self.submit();
            } else {
                self.act();
            }
        }
        // However bad the device is: in bounded time everything has been answered.
        let deadline_ns = self.clock.now_ns() + 600_000_000_000;
        while !self.out.is_empty() {
            for _ in 0..20 {
                self.act();
            }
            assert!(
                self.clock.now_ns() < deadline_ns,
                "{} are not answered, seed {}",
                self.out.len(),
                self.seed
            );
            if self.rng.u8(0..4) == 0 {
                self.clock.set(self.clock.now_ns() + 100_000_000);
            }
        }
        let stats = self.driver.stats(true);
        #[cfg(feature = "performance-counters")]
        stats
            .check()
            .unwrap_or_else(|error| panic!("{error}, seed {}", self.seed));
        drop(stats);
        self.check_slow_commands();
        self
    }

    /// The recorder agrees with the answers: nothing failed or was lost that no request was told of, its times are in
    /// order, and what the device failed is there with the device's status.
    fn check_slow_commands(&self) {
        let commands = self.driver.slow_commands();
        assert!(commands.is_sorted_by(|a, b| a.sequence < b.sequence));
        let all_succeed = self.results.keys().all(|result| !result.contains("Err"));
        for command in commands.iter().filter(|command| command.qid != 0) {
            assert_eq!(
                command.latency_total_ns,
                command.latency_host_ns + command.latency_device_ns
            );
            assert!(command.accepted_monotonic_ns + command.latency_total_ns <= self.clock.now_ns());
            assert_eq!(
                command.completed_monotonic_ns.is_none(),
                command.kind == SlowKind::Lost
            );
            match command.kind {
                SlowKind::Slow => assert!(
                    command.latency_total_ns >= SLOW_US * 1000 || command.deadline_missed_in.is_some(),
                    "{command:?}, seed {}",
                    self.seed
                ),
                SlowKind::Failed | SlowKind::Lost => assert!(!all_succeed, "{command:?}, seed {}", self.seed),
            }
        }
        // Unless what was slow later has overwritten it.
        if !all_succeed && commands.first().is_some_and(|command| command.sequence == 0) {
            let bad = |command: &SlowCommand| command.kind != SlowKind::Slow;
            assert!(commands.iter().any(bad), "seed {}", self.seed);
        }
    }
}

const SPEC: &str = "size=1MiB,lba=512,mdts=8KiB,latency=lognormal:60us:0.8,channels=6";

fn strange(action: Action, one_in: u32) -> Fault {
    Fault::new(action).queue(QueueMatch::Io).one_in(one_in)
}

#[test]
fn a_healthy_device() {
    for seed in 0..12 {
        let simulation = Simulation::new(seed, SPEC, Vec::new()).run(400);
        assert_eq!(
            simulation.results.len(),
            1,
            "all succeed: {:?}",
            simulation.results
        );
        assert_eq!(simulation.device.counters().dma_faults, 0);
    }
}

#[test]
fn a_device_that_reorders_delays_doubles_and_invents() {
    for seed in 100..112 {
        let faults = vec![
            strange(Action::Reorder, 5),
            strange(Action::Delay { ns: 3_000_000 }, 7),
            strange(Action::Duplicate, 9),
            strange(
                Action::ExtraCompletion {
                    cid: seed as u16 * 31,
                    status: Status::SUCCESS,
                },
                11,
            ),
            strange(Action::Sqhd(999), 13),
            strange(Action::NoInterrupt, 3),
        ];
        let simulation = Simulation::new(seed, SPEC, faults).run(400);
        assert!(simulation.device.faults().total_hits() > 20);
        assert_eq!(
            simulation.results.len(),
            1,
            "all succeed: {:?}",
            simulation.results
        );
    }
}

#[test]
fn a_device_that_fails_commands() {
    for seed in 200..212 {
        let faults = vec![
            strange(Action::Fail(Status::INTERNAL_ERROR), 9),
            Fault::on_opcode(NvmOpcode::WRITE, Action::Fail(Status::WRITE_FAULT)).one_in(6),
        ];
        let simulation = Simulation::new(seed, SPEC, faults).run(400);
        assert_eq!(
            simulation.results.len(),
            2,
            "some succeed, some do not: {:?}",
            simulation.results
        );
    }
}

#[test]
fn a_device_that_loses_a_command_is_given_up_and_everything_is_answered() {
    for seed in 300..308 {
        let lost = [
            Action::Drop,
            Action::DropCompletion,
            Action::FatalStatus,
            Action::Vanish,
        ];
        let fault = Fault::new(lost[seed as usize % 4].clone())
            .queue(QueueMatch::Io)
            .skip(120)
            .once();
        let simulation = Simulation::new(seed, SPEC, vec![fault]).run(300);
        assert_eq!(simulation.driver.stats(false).controller.state, "failed");
        assert_eq!(
            simulation.results.len(),
            2,
            "some before, the rest lost: {:?}",
            simulation.results
        );
    }
}

#[test]
fn a_completion_for_the_wrong_command_harms_no_other() {
    for seed in 400..406 {
        // The command's own completion never comes; what comes fits none.
        let fault = strange(Action::XorCid { bits: 0x8000 }, 60).times(1);
        let simulation = Simulation::new(seed, SPEC, vec![fault]).run(300);
        let lost = simulation
            .results
            .keys()
            .filter(|result| result.contains("Err"))
            .count();
        assert_eq!(lost, 1, "{:?}", simulation.results);
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let faults = || {
        vec![
            strange(Action::Reorder, 4),
            strange(Action::Fail(Status::INTERNAL_ERROR), 10),
        ]
    };
    let run = |seed| Simulation::new(seed, SPEC, faults()).run(300).log;
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_driver_that_stops_answers_what_is_out() {
    let mut simulation = Simulation::new(9, SPEC, Vec::new());
    for _ in 0..40 {
        simulation.submit();
    }
    simulation.driver.shutdown().unwrap();
    simulation.submit();
    while !simulation.out.is_empty() {
        simulation.act();
    }
    let stopped = std::mem::discriminant(&IoError::Stopped);
    let results = [format!("{:?}", Err::<(), _>(stopped)), "Ok(())".to_owned()];
    assert_eq!(simulation.results.keys().cloned().collect::<Vec<_>>(), results);
}
