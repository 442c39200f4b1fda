//! Whatever is merged, by clients who ask for anything: each request has one answer, which is its own, and its own data.
//!
//! `MERGING_SEEDS=1000+200` runs so many seeds from one on; a run that fails says which it was.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use nvme_emulator::{Action, Emulator, Fault};
use nvme_spec::{NvmOpcode, Status};

use super::*;
use crate::clock::ManualClock;
use crate::controller::Opening;
use crate::dma::Lent;
use crate::driver::{Hint, Priority, Stepped};
use crate::namespace::Namespace;

/// Blocks of each namespace that are asked for.
const BLOCKS: u64 = 250;
const FILL: u8 = 0xEE;

#[derive(Default)]
struct Answers(Mutex<Vec<(u64, Finished<()>)>>);

impl Answer for Answers {
    fn answer(&self, tag: u64, finished: Finished<()>) {
        self.0.lock().unwrap().push((tag, finished));
    }
}

/// A request that has not been answered.
struct Asked {
    op: Op,
    nsid: u32,
    slba: u64,
    blocks: u64,
    /// Which writing of its blocks it is.
    version: u64,
    /// The data, if it is lent.
    lent: Option<Lent>,
    /// Where in its buffer the data starts.
    offset: usize,
    /// What it has to be refused with.
    wrong: Option<IoError>,
}

/// What is known of a block: what it may hold, and who is at it.
#[derive(Clone)]
struct Block {
    versions: Vec<u64>,
    readers: u32,
    is_written: bool,
}

/// How a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Drained,
    Lost,
    /// The device may still write.
    LostRunning,
}

struct Client {
    rng: fastrand::Rng,
    driver: Driver,
    _stepped: Stepped,
    device: Arc<Emulator>,
    time: ManualClock,
    answers: Arc<Answers>,
    asked: BTreeMap<u64, Asked>,
    tag: u64,
    lba_bytes: usize,
    /// Of the two namespaces.
    blocks: [Vec<Block>; 2],
    /// What was done last.
    op: Op,
    /// Where the last request of each began and ended.
    last: [(u64, u64); 2],
    fails: bool,
    shakes: bool,
    ended: bool,
}

/// What a block holds after it was written for the `version`th time.
fn pattern(nsid: u32, block: u64, version: u64, lba_bytes: usize) -> Vec<u8> {
    if version == 0 {
        return vec![0; lba_bytes];
    }
    let word = version << 32 | u64::from(nsid) << 24 | block << 8 | 0x5A;
    word.to_le_bytes().repeat(lba_bytes / 8)
}

impl Client {
    fn new(seed: u64) -> (Self, Worker, End) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let end = [End::Done, End::Done, End::Drained, End::Lost, End::LostRunning][rng.usize(..5)];
        let lba_bytes = if rng.u8(..4) == 0 { 4096 } else { 512 };
        let config = Config {
            num_queues: 1,
            queue_depth: rng.u32(2..=16),
            scheduler: SchedulerKind::Deadline,
            scheduler_window: rng.u32(..=4),
            merge: true,
            zero_copy: rng.bool(),
            ..Config::default()
        };
        let mdts = ["8KiB", "16KiB", "64KiB", "none"][rng.usize(..4)];
        let channels = rng.u8(1..=4);
        let spec = format!(
            "size=1MiB,namespaces=2,lba={lba_bytes},channels={channels},latency=10us,mdts={mdts},seed={seed}"
        );
        let time = ManualClock::new(1);
        let backend = EmulatedBackend::stepped(spec.parse().unwrap()).unwrap();
        let device = Arc::clone(backend.device());
        // AWUPF.
        let bytes = vec![[0, 3, 7, 255][rng.usize(..4)], 0];
        let atomic = Action::Corrupt {
            offset_bytes: 528,
            bytes,
        };
        device.faults().add(Fault::on_identify(1, atomic));
        let mut opening = Opening::new(Arc::new(backend), &config, Clock::manual(time.clone())).unwrap();
        while !opening.turn().unwrap() {
            device.step(time.now_ns());
            time.set(time.now_ns() + 10_000);
        }
        let (driver, mut stepped) = Driver::stepped(opening.finish().unwrap()).unwrap();
        let worker = stepped.take_worker(0).unwrap();
        let fails = rng.bool();
        if fails {
            let faults = device.faults();
            let one_in = rng.u32(2..12);
            let fail = |status| Action::Fail(status);
            faults
                .add(Fault::on_opcode(NvmOpcode::READ, fail(Status::UNRECOVERED_READ_ERROR)).one_in(one_in));
            faults.add(Fault::on_opcode(NvmOpcode::WRITE, fail(Status::WRITE_FAULT)).one_in(one_in));
        }
        if rng.u8(..4) == 0 {
            device
                .faults()
                .add(Fault::on_opcode(NvmOpcode::READ, Action::Duplicate).one_in(5));
            device
                .faults()
                .add(Fault::on_opcode(NvmOpcode::WRITE, Action::Reorder).one_in(5));
        }
        if rng.u8(..3) == 0 {
            // NOIOB, and atomic boundaries (NSFEAT bit 1, NABSPF).
            let (noiob, nabspf, nsfeat) = (rng.u8(..20), rng.u8(..2), rng.u8(..2) << 1);
            let listed = worker.namespaces.listed();
            let changed = listed.iter().map(|of| {
                let mut identify = of.identify.clone();
                (identify[46], identify[44], identify[24]) = (noiob, nabspf, nsfeat);
                Namespace::new(of.nsid, identify, 1 << 20)
            });
            let changed = changed.collect();
            worker.namespaces.update(changed);
        }
        let block = Block {
            versions: vec![0],
            readers: 0,
            is_written: false,
        };
        let client = Self {
            shakes: rng.u8(..4) == 0,
            rng,
            driver,
            _stepped: stepped,
            device,
            time,
            answers: Arc::default(),
            asked: BTreeMap::new(),
            tag: 0,
            lba_bytes,
            blocks: [(); 2].map(|()| vec![block.clone(); BLOCKS as usize]),
            op: Op::Read,
            last: [(0, 0); 2],
            fails,
            ended: false,
        };
        (client, worker, end)
    }

    fn of(&mut self, nsid: u32, slba: u64, blocks: u64) -> &mut [Block] {
        let blocks = slba as usize..(slba + blocks) as usize;
        &mut self.blocks[nsid as usize - 1][blocks]
    }

    /// Asks for something, unless others are at those blocks.
    fn ask(&mut self) {
        let nsid = 1 + u32::from(self.rng.u8(..4) == 0);
        let of = nsid as usize - 1;
        let op = match self.rng.u8(..100) {
            0 => Op::Flush,
            1 => Op::Verify,
            2 => Op::Compare,
            3..10 => Op::Read,
            10..12 => Op::Write { fua: true },
            12..20 => Op::Write { fua: false },
            // As before, as a rule.
            _ => self.op,
        };
        if matches!(op, Op::Read | Op::Write { .. }) {
            self.op = op;
        }
        let mut blocks = match self.rng.u8(..10) {
            0 => self.rng.u64(1..=40),
            1..4 => self.rng.u64(1..=8),
            4..6 => 2,
            _ => 1,
        };
        let (first, end) = self.last[of];
        let mut slba = match self.rng.u8(..10) {
            0..6 => end,
            6..8 => first.saturating_sub(blocks),
            _ => self.rng.u64(..BLOCKS),
        };
        if slba + blocks > BLOCKS {
            slba = self.rng.u64(..200);
        }
        if op == Op::Flush {
            (slba, blocks) = (0, 0);
        }
        self.last[of] = (slba, slba + blocks);
        let writes = matches!(op, Op::Write { .. });
        let busy = |block: &Block| block.is_written || (writes && block.readers > 0);
        let known = |block: &Block| block.versions.len() == 1;
        let range = self.of(nsid, slba, blocks);
        if range.iter().any(busy) || (op == Op::Compare && !range.iter().all(known)) {
            return;
        }
        self.tag += 1;
        let (tag, lba_bytes) = (self.tag, self.lba_bytes);
        let mut bytes = Vec::new();
        for (block, of) in (slba..).zip(self.of(nsid, slba, blocks)) {
            match op {
                Op::Write { .. } => bytes.extend(pattern(nsid, block, tag, lba_bytes)),
                Op::Compare => bytes.extend(pattern(nsid, block, of.versions[0], lba_bytes)),
                _ => bytes.resize(bytes.len() + lba_bytes, FILL),
            }
        }
        let wrong = match self.rng.u8(..60) {
            0 if op != Op::Flush => Some(IoError::Empty),
            1 if op != Op::Flush => Some(IoError::OutOfRange),
            2 if op.has_data() => Some(IoError::BufferTooSmall),
            _ => None,
        };
        match wrong {
            Some(IoError::Empty) => blocks = 0,
            Some(IoError::OutOfRange) => slba = [1 << 40, u64::MAX - 1, u64::MAX][self.rng.usize(..3)],
            Some(_) => bytes.truncate(bytes.len() - 1),
            None => {
                for block in self.of(nsid, slba, blocks) {
                    block.is_written |= writes;
                    block.readers += u32::from(!writes);
                }
                // More than need be.
                bytes.resize(bytes.len() + self.rng.usize(..600), FILL);
            }
        }
        let mut offset = 0;
        let mut lent = None;
        let buffer = match self.rng.u8(..3) {
            _ if !op.has_data() => Buffer::None,
            0 => {
                let (given, kept) = Lent::leaked(bytes);
                lent = Some(kept);
                Buffer::Lent(given)
            }
            1 => {
                offset = self.rng.usize(..9);
                bytes.splice(..0, vec![FILL; offset]);
                Buffer::Heap { bytes, offset }
            }
            _ => Buffer::heap(bytes),
        };
        let deadline_us = match self.rng.u8(..3) {
            0 => None,
            _ => NonZeroU32::new(self.rng.u32(1..1000)),
        };
        let class = Class {
            priority: Priority::ALL[self.rng.usize(..4)],
            deadline_us,
        };
        let hint = Hint {
            class,
            client: self.rng.u64(..5),
            ..Hint::default()
        };
        let asked = Asked {
            op,
            nsid,
            slba,
            blocks,
            version: tag,
            lent,
            offset,
            wrong,
        };
        self.asked.insert(tag, asked);
        let sink = Arc::clone(&self.answers) as Arc<dyn Answer>;
        let request = Request {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            arrived_ns: self.time.now_ns(),
            context: Remote { sink, tag },
        };
        self.driver.submit(hint, request);
    }

    /// Looks at the answers that have come.
    fn look(&mut self) {
        let answers = std::mem::take(&mut *self.answers.0.lock().unwrap());
        for (tag, finished) in answers {
            let asked = self.asked.remove(&tag).expect("one answer, to what was asked");
            let what = format!(
                "{tag}: {:?} of {}+{} of {}: {:?}",
                asked.op, asked.slba, asked.blocks, asked.nsid, finished.result
            );
            assert_eq!((finished.op, finished.nsid), (asked.op, asked.nsid), "{what}");
            assert_eq!(
                (finished.slba, finished.blocks),
                (asked.slba, asked.blocks),
                "{what}"
            );
            let excused = match finished.result {
                Ok(()) => false,
                Err(IoError::Status(_)) => self.fails,
                Err(IoError::NoNamespace) => self.shakes,
                Err(IoError::Busy) => true,
                Err(IoError::Lost | IoError::Stopped) => self.ended,
                Err(_) => false,
            };
            if let Some(wrong) = asked.wrong {
                assert!(excused || finished.result == Err(wrong), "{what}");
                continue;
            }
            assert!(excused || finished.result.is_ok(), "{what}");
            let lba_bytes = self.lba_bytes;
            let bytes = match &asked.lent {
                Some(lent) => lent.to_vec(),
                None => match finished.buffer {
                    Buffer::Heap { bytes, .. } => bytes,
                    _ => Vec::new(),
                },
            };
            let end = asked.offset + asked.blocks as usize * lba_bytes;
            if bytes.len() >= end {
                let around = bytes[..asked.offset].iter().chain(&bytes[end..]);
                assert!(around.into_iter().all(|byte| *byte == FILL), "{what}");
            }
            let is_ok = finished.result.is_ok();
            for index in 0..asked.blocks {
                let block = asked.slba + index;
                let [of] = self.of(asked.nsid, block, 1) else {
                    unreachable!()
                };
                match asked.op {
                    Op::Write { .. } => {
                        of.is_written = false;
                        if is_ok {
                            of.versions.clear();
                        }
                        of.versions.push(asked.version);
                    }
                    _ => of.readers -= 1,
                }
                if asked.op == Op::Read && is_ok {
                    let start = asked.offset + index as usize * lba_bytes;
                    let seen = &bytes[start..start + lba_bytes];
                    let versions = of.versions.iter();
                    let mut wanted = versions.map(|version| pattern(asked.nsid, block, *version, lba_bytes));
                    assert!(wanted.any(|wanted| wanted == seen), "block {block} of {what}");
                }
            }
        }
    }

    fn turn(&mut self, worker: &mut Worker) -> Turn {
        let turn = worker.turn(&Clock::manual(self.time.clone()));
        self.look();
        turn
    }

    fn step_device(&self, worked: bool) {
        let now_ns = self.time.now_ns();
        let step = self.device.step(now_ns);
        if !worked && !step.worked {
            let next_ns = step.due_ns.unwrap_or(now_ns + 1_000_000);
            self.time.set(next_ns.max(now_ns + 1));
        }
    }
}

/// Returns how many requests have gone with others', and how many have been done again.
fn run(seed: u64) -> (u64, u64) {
    let (mut client, mut worker, end) = Client::new(seed);
    let all = worker.namespaces.listed();
    let room = worker.queue.room();
    let burst = client.rng.u32(2..60);
    for _ in 0..client.rng.u32(4..60) {
        for _ in 0..client.rng.u32(..burst) {
            client.ask();
        }
        for _ in 0..client.rng.u32(..4) {
            let turn = client.turn(&mut worker);
            if client.rng.bool() {
                client.step_device(turn == Turn::Worked);
            }
        }
        match client.rng.u8(..60) {
            0 => {
                let kind = SchedulerKind::ALL[client.rng.usize(..SchedulerKind::ALL.len())];
                client.driver.set_scheduler(kind);
            }
            1..4 => client.driver.set_scheduler(SchedulerKind::Deadline),
            4..8 if client.shakes => {
                let there = all.iter().filter(|_| client.rng.bool()).cloned();
                let there = there.collect();
                worker.namespaces.update(there);
            }
            8..16 => {
                worker.namespaces.update(all.to_vec());
            }
            _ => {}
        }
    }
    client.look();
    client.ended = end != End::Done;
    match end {
        End::Done => {}
        End::Drained => worker.shared().give_drain(),
        End::Lost => worker.shared().give_order(Order::LostStopped),
        End::LostRunning => worker.shared().give_order(Order::LostRunning),
    }
    let end_ns = client.time.now_ns() + 1_000_000_000;
    loop {
        let turn = client.turn(&mut worker);
        let rests = worker.queue.inflight() == 0 && !worker.has_backlog() && !worker.has_news();
        if turn == Turn::Ended || (end == End::Done && rests) {
            break;
        }
        client.step_device(turn == Turn::Worked);
        assert!(
            client.time.now_ns() < end_ns,
            "{seed}: {} never end",
            client.asked.len()
        );
    }
    // What is lent cannot be answered while the device may still write to it.
    let is_left = |asked: &Asked| end == End::LostRunning && asked.lent.is_some();
    assert!(client.asked.values().all(is_left), "{seed}: all have an answer");
    if end != End::LostRunning {
        assert_eq!(worker.queue.room(), room, "{seed}");
    }
    let stats = client.driver.stats(false);
    let queue = stats.queues.iter().find(|queue| queue.qid == 1).unwrap();
    let counted = queue.counters.as_ref().map(|of| (of.merged, of.retries));
    counted.unwrap_or_default()
}

#[test]
fn whatever_is_merged_each_has_its_own_answer_and_its_own_data() {
    let (first, seeds) = match std::env::var("MERGING_SEEDS") {
        Ok(seeds) => {
            let (first, seeds) = seeds.split_once('+').unwrap();
            (first.parse().unwrap(), seeds.parse().unwrap())
        }
        // The seed 84 has a run that waits when its namespace goes.
        Err(_) => (50u64, 40),
    };
    let (mut merged, mut retries) = (0, 0);
    for seed in first..first + seeds {
        let of = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("MERGING_SEEDS={seed}+1"));
        merged += of.0;
        retries += of.1;
    }
    println!("{merged} merged, {retries} retries");
    if cfg!(feature = "performance-counters") && seeds >= 40 {
        assert!(merged > 300 && retries > 30, "{merged} merged, {retries} retries");
    }
}
