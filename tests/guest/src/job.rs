//! The same commands for two controllers: what is asked comes from a seed, legal and illegal, and each answer is a line.
//!
//! `nvme-guest-job DEVICE SEED COMMANDS` drives a controller by hand, over nothing of the driver but its backends: it makes
//! its own queues and entries, so that it can say what the driver never would. It prints one line for each command: its
//! number, what it was, and how it ended; for a read that succeeded also a sum of what was read.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_driver::backend::{Backend, Doorbell};
use nvme_driver::clock::Clock;
use nvme_driver::device::Device;
use nvme_driver::dma::Region;
use nvme_spec::command;
use nvme_spec::identify::Cns;
use nvme_spec::register::{self, Aqa, Cap, Cc, Csts};
use nvme_spec::{AdminOpcode, CompletionEntry, FeatureId, NvmOpcode, Status, SubmissionEntry};

/// For how long a command may be out. None of these should ever take so long: one that does was lost.
const PATIENCE: Duration = Duration::from_secs(20);
const ADMIN_ENTRIES: u16 = 16;
const IO_ENTRIES: u16 = 16;
/// Bytes of data that a command may move here at most.
const DATA_BYTES: usize = 256 << 10;
const PAGE: usize = 4096;

type Failure = Box<dyn std::error::Error>;

struct Ring {
    qid: u16,
    entries: u16,
    sq: Region,
    cq: Region,
    tail: u16,
    head: u16,
    phase: bool,
    bells: (Doorbell, Doorbell),
}

struct Host {
    backend: Arc<dyn Backend>,
    cap: Cap,
    next_cid: u16,
    admin: Ring,
    data: Region,
    list: Region,
}

impl Ring {
    fn new(backend: &dyn Backend, cap: Cap, qid: u16, entries: u16) -> Result<Self, Failure> {
        let bell = |completion| backend.doorbell(register::doorbell_offset(qid, completion, cap.dstrd()));
        Ok(Self {
            qid,
            entries,
            sq: backend.allocate(usize::from(entries) * 64)?,
            cq: backend.allocate(usize::from(entries) * 16)?,
            tail: 0,
            head: 0,
            phase: true,
            bells: (bell(false)?, bell(true)?),
        })
    }

    fn send(&mut self, entry: &SubmissionEntry) {
        self.sq.write(usize::from(self.tail) * 64, entry);
        self.tail = (self.tail + 1) % self.entries;
        self.bells.0.ring(self.tail.into());
    }

    fn take(&mut self) -> Option<CompletionEntry> {
        let at = usize::from(self.head) * 16;
        if (self.cq.load_u32(at + 12) >> 16) & 1 != u32::from(self.phase) {
            return None;
        }
        let entry = self.cq.read(at);
        self.head = (self.head + 1) % self.entries;
        self.phase ^= self.head == 0;
        self.bells.1.ring(self.head.into());
        Some(entry)
    }

    fn execute(&mut self, entry: &SubmissionEntry) -> Result<CompletionEntry, Failure> {
        self.send(entry);
        let begun = Instant::now();
        loop {
            if let Some(completion) = self.take() {
                if completion.cid != entry.cid || completion.sqid != self.qid {
                    return Err(
                        format!("an answer to nothing: {completion:?}, awaited was {entry:?}").into(),
                    );
                }
                return Ok(completion);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no answer to {entry:?}").into());
            }
            std::thread::yield_now();
        }
    }
}

impl Host {
    fn open(backend: Arc<dyn Backend>) -> Result<Self, Failure> {
        let cap = Cap::from(backend.read64(register::CAP));
        let wait = |ready: bool| {
            let begun = Instant::now();
            while Csts::from(backend.read32(register::CSTS)).rdy() != ready {
                if begun.elapsed() > PATIENCE {
                    return Err(format!("CSTS.RDY does not become {ready}"));
                }
                std::thread::yield_now();
            }
            Ok(())
        };
        backend.write32(register::CC, 0);
        wait(false)?;
        let admin = Ring::new(&*backend, cap, 0, ADMIN_ENTRIES)?;
        let size_z = ADMIN_ENTRIES - 1;
        backend.write32(
            register::AQA,
            Aqa::new().with_asqs_z(size_z).with_acqs_z(size_z).into(),
        );
        backend.write64(register::ASQ, admin.sq.iova());
        backend.write64(register::ACQ, admin.cq.iova());
        let cc = Cc::new()
            .with_iosqes(register::IOSQES)
            .with_iocqes(register::IOCQES)
            .with_en(true);
        backend.write32(register::CC, cc.into());
        wait(true)?;
        Ok(Self {
            admin,
            cap,
            next_cid: 0,
            data: backend.allocate(DATA_BYTES)?,
            list: backend.allocate(PAGE)?,
            backend,
        })
    }

    fn numbered(&mut self, entry: SubmissionEntry) -> SubmissionEntry {
        self.next_cid = (self.next_cid + 1) % 0x8000;
        SubmissionEntry {
            cid: self.next_cid,
            ..entry
        }
    }

    fn admin(&mut self, entry: SubmissionEntry) -> Result<CompletionEntry, Failure> {
        let entry = self.numbered(entry);
        self.admin.execute(&entry)
    }

    /// Both queues of a pair, that must be made.
    fn pair(&mut self, qid: u16) -> Result<Ring, Failure> {
        let ring = Ring::new(&*self.backend, self.cap, qid, IO_ENTRIES)?;
        let size_z = IO_ENTRIES - 1;
        for entry in [
            command::create_io_cq(qid, size_z, ring.cq.iova(), None),
            command::create_io_sq(qid, size_z, ring.sq.iova(), qid, 0),
        ] {
            let status = self.admin(entry)?.status();
            if !status.is_success() {
                return Err(format!("queue {qid} cannot be made: {status}").into());
            }
        }
        Ok(ring)
    }

    /// Lets `entry` move `len` bytes at `offset` of the data.
    fn describe(&self, entry: &mut SubmissionEntry, offset: usize, len: usize) {
        let address = |at: usize| self.data.iova() + at as u64;
        entry.prp1 = address(offset);
        let end = offset + len.max(1);
        let second = (offset / PAGE + 1) * PAGE;
        if end <= second {
            return;
        }
        if end <= second + PAGE {
            entry.prp2 = address(second);
            return;
        }
        for (number, page) in (second..end).step_by(PAGE).enumerate() {
            self.list.write(number * 8, &address(page));
        }
        entry.prp2 = self.list.iova();
    }
}

/// What is asked, from the seed alone: the same for every controller.
struct Chance(fastrand::Rng);

impl Chance {
    fn one_in(&mut self, of: u32) -> bool {
        self.0.u32(0..of) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(0..choices.len())]
    }
}

/// A namespace as Identify says it is.
struct Shape {
    blocks: u64,
    block_bytes: usize,
}

/// Admin opcodes that would change what the rest of the job relies on, or that wait: they are not sent.
const NOT_SENT: [AdminOpcode; 12] = [
    AdminOpcode::ASYNC_EVENT_REQUEST,
    AdminOpcode::FORMAT_NVM,
    AdminOpcode::SANITIZE,
    AdminOpcode::NAMESPACE_MANAGEMENT,
    AdminOpcode::NAMESPACE_ATTACHMENT,
    AdminOpcode::DOORBELL_BUFFER_CONFIG,
    AdminOpcode::CREATE_IO_SQ,
    AdminOpcode::CREATE_IO_CQ,
    AdminOpcode::DELETE_IO_SQ,
    AdminOpcode::DELETE_IO_CQ,
    AdminOpcode::DEVICE_SELF_TEST,
    AdminOpcode::VIRTUALIZATION_MANAGEMENT,
];

const NSIDS: [u32; 8] = [1, 1, 1, 0, 2, 3, u32::MAX, u32::MAX - 1];

fn io_command(
    host: &mut Host,
    chance: &mut Chance,
    shape: &Shape,
) -> (String, SubmissionEntry, Option<(usize, usize)>) {
    let opcodes = [
        NvmOpcode::READ,
        NvmOpcode::READ,
        NvmOpcode::READ,
        NvmOpcode::WRITE,
        NvmOpcode::WRITE,
        NvmOpcode::WRITE_ZEROES,
        NvmOpcode::COMPARE,
        NvmOpcode::FLUSH,
        NvmOpcode::DATASET_MANAGEMENT,
        NvmOpcode::VERIFY,
        NvmOpcode::WRITE_UNCORRECTABLE,
    ];
    let opcode = if chance.one_in(12) {
        NvmOpcode(chance.0.u8(..))
    } else {
        chance.of(&opcodes)
    };
    let nsid = if chance.one_in(8) { chance.of(&NSIDS) } else { 1 };
    let max_blocks = (DATA_BYTES / shape.block_bytes - 8) as u32;
    let blocks = match chance.0.u32(0..10) {
        0 => max_blocks,
        1 => 1,
        _ => chance.0.u32(1..=16),
    };
    let slba = match chance.0.u32(0..10) {
        0 => shape.blocks - u64::from(blocks),
        1 => shape.blocks - u64::from(blocks) + 1,
        2 => shape.blocks,
        3 => chance.of(&[u64::MAX, u64::MAX - 7, 1 << 63, shape.blocks + 1]),
        _ => chance.0.u64(0..64),
    };
    let mut entry = command::read(nsid, slba, blocks);
    entry.opcode = opcode.0;
    let len = blocks as usize * shape.block_bytes;
    let offset = chance.of(&[0, 0, 0, 4, 512, 2048]);
    let mut text = format!("{opcode} nsid {nsid:#x} slba {slba:#x} blocks {blocks} at {offset}");
    if opcode == NvmOpcode::DATASET_MANAGEMENT {
        // Ranges: context, blocks, first block.
        let ranges = chance.0.u32(1..=3);
        entry.cdw10 = ranges - 1;
        entry.cdw11 = chance.of(&[4, 4, 0, 2]);
        entry.cdw12 = 0;
        for number in 0..ranges {
            // Where nothing is read: what a deallocated block holds is the controller's affair.
            let first = if chance.one_in(4) {
                shape.blocks - 1
            } else {
                chance.0.u64(4000..4064)
            };
            host.data.write(
                offset + number as usize * 16,
                &(u64::from(chance.0.u32(2..5)) << 32),
            );
            host.data.write(offset + number as usize * 16 + 8, &first);
            let _ = write!(text, " range {first:#x}");
        }
        let _ = write!(text, " attributes {}", entry.cdw11);
    } else if opcode == NvmOpcode::WRITE {
        let pattern: Vec<u8> = (0..len).map(|_| chance.0.u8(..)).collect();
        host.data.copy_in(offset, &pattern);
    } else if opcode == NvmOpcode::COMPARE {
        // Admin commands leave there what each controller says of itself.
        host.data.copy_in(offset, &vec![0; len]);
    } else if chance.one_in(10) {
        entry.cdw12 |= chance.of(&[1 << 30, 1 << 31, 1 << 25, 1 << 26, 0xF << 26]);
        let _ = write!(text, " cdw12 {:#x}", entry.cdw12);
    }
    host.describe(&mut entry, offset, len);
    if chance.one_in(8) {
        // No address leads out of the data: QEMU's controller never ends a command that it cannot reach the memory of, nor
        // lets itself be reset afterwards.
        // What is written stays the same for every controller: none is asked whether it takes a write that is wrong.
        let how = if opcode == NvmOpcode::WRITE {
            chance.0.u32(4..6)
        } else {
            chance.0.u32(0..6)
        };
        match how {
            0 => entry.prp1 |= 1,
            1 => entry.prp1 |= 2,
            // Without metadata nobody looks there.
            2 => entry.mptr = 0x1234_5678,
            3 if entry.prp2 == host.list.iova() => host.list.write(8, &(host.data.iova() | 0x10)),
            4 => entry.flags |= 0xC0,
            5 => entry.flags |= 3,
            _ => {}
        }
        let _ = write!(text, " spoilt {how}");
    }
    let reads = (opcode == NvmOpcode::READ).then_some((offset, len));
    (text, entry, reads)
}

fn admin_command(host: &mut Host, chance: &mut Chance) -> (String, SubmissionEntry) {
    let nsid = chance.of(&NSIDS);
    let (text, mut entry) = match chance.0.u32(0..10) {
        0..3 => {
            let cns = if chance.one_in(6) {
                chance.0.u8(..)
            } else {
                chance.0.u8(0..0x20)
            };
            (
                format!("Identify cns {cns:#x}"),
                command::identify(Cns(cns), nsid, chance.of(&[0, 0, 1, 0xFFFF])),
            )
        }
        3..5 => {
            let lid = if chance.one_in(4) {
                chance.0.u8(..)
            } else {
                chance.0.u8(0..6)
            };
            let bytes = chance.of(&[4, 512, 512, 4096]);
            let offset = chance.of(&[0, 0, 0, 4, 512, 1 << 40]);
            (
                format!("Get Log Page lid {lid:#x} bytes {bytes} offset {offset:#x}"),
                command::get_log_page(nvme_spec::log::LogId(lid), nsid, bytes, offset, true),
            )
        }
        5..7 => {
            let fid = if chance.one_in(4) {
                chance.0.u8(..)
            } else {
                chance.0.u8(1..0x12)
            };
            let select = chance.0.u32(0..8);
            let entry = SubmissionEntry {
                opcode: AdminOpcode::GET_FEATURES.0,
                nsid,
                cdw10: u32::from(fid) | select << 8,
                cdw11: chance.of(&[0, 0, 1, 0xFFFF]),
                ..Default::default()
            };
            (
                format!(
                    "Get Features fid {fid:#x} select {select} cdw11 {:#x}",
                    entry.cdw11
                ),
                entry,
            )
        }
        7 => {
            let fid = chance.of(&[
                FeatureId::TEMPERATURE_THRESHOLD,
                FeatureId::VOLATILE_WRITE_CACHE,
                FeatureId::NUMBER_OF_QUEUES,
                FeatureId::INTERRUPT_COALESCING,
                FeatureId::ARBITRATION,
                FeatureId(0),
                FeatureId(0x7F),
            ]);
            let value = chance.of(&[0, 1, 0x0001_0001, 0xFFFF_FFFF, 0x1FF]);
            (
                format!("Set Features {fid} value {value:#x}"),
                command::set_features(fid, nsid, value, chance.one_in(4)),
            )
        }
        8 => {
            let (sqid, cid) = (chance.0.u16(0..5), chance.0.u16(..));
            (
                format!("Abort sqid {sqid} cid {cid:#x}"),
                command::abort(sqid, cid),
            )
        }
        _ => loop {
            let opcode = AdminOpcode(chance.0.u8(..));
            if !NOT_SENT.contains(&opcode) {
                let entry = SubmissionEntry {
                    opcode: opcode.0,
                    nsid,
                    ..Default::default()
                };
                break (format!("{opcode}"), entry);
            }
        },
    };
    host.describe(&mut entry, 0, PAGE);
    (format!("{text} nsid {nsid:#x}"), entry)
}

/// Commands about queues, most of them wrong, on pair 2, which is there or not.
fn queue_command(host: &mut Host, chance: &mut Chance) -> (String, SubmissionEntry) {
    let qid = chance.of(&[2, 2, 2, 3, 0, 1, 4000, 0xFFFF]);
    let size_z = chance.of(&[15, 15, 15, 0, 1, 0xFFFF]);
    let address = host.data.iova() + chance.of(&[0, 0, 0, 8, 2048]);
    match chance.0.u32(0..4) {
        0 => {
            let vector = chance.of(&[None, None, Some(0), Some(5000)]);
            let mut entry = command::create_io_cq(qid, size_z, address, vector);
            if chance.one_in(6) {
                entry.cdw11 &= !1;
            }
            (
                format!(
                    "Create CQ {qid} size {size_z} vector {vector:?} cdw11 {:#x} at {:#x}",
                    entry.cdw11,
                    address & 0xFFF
                ),
                entry,
            )
        }
        1 => {
            let cqid = chance.of(&[qid, qid, qid, 0, 1, 3, 0xFFFF]);
            let mut entry = command::create_io_sq(qid, size_z, address, cqid, chance.0.u8(0..4));
            if chance.one_in(6) {
                entry.cdw11 &= !1;
            }
            (
                format!(
                    "Create SQ {qid} size {size_z} cq {cqid} cdw11 {:#x} at {:#x}",
                    entry.cdw11,
                    address & 0xFFF
                ),
                entry,
            )
        }
        // Pair 1 is in use: it stays.
        2 if qid != 1 => (format!("Delete SQ {qid}"), command::delete_io_sq(qid)),
        _ => (format!("Delete CQ {qid}"), command::delete_io_cq(qid)),
    }
}

/// FNV-1a: enough to tell whether two have read the same.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)
    })
}

fn shown(status: Status) -> String {
    format!(
        "{}/{:02x}{}",
        status.sct(),
        status.sc(),
        if status.dnr() { " DNR" } else { "" }
    )
}

fn run(device: &str, seed: u64, commands: u64) -> Result<(), Failure> {
    let device: Device = device.parse()?;
    let backend = device.open(&Clock::system())?;
    let mut host = Host::open(backend)?;
    let mut io = host.pair(1)?;
    let mut identify = command::identify(Cns::NAMESPACE, 1, 0);
    host.describe(&mut identify, 0, PAGE);
    let status = host.admin(identify)?.status();
    if !status.is_success() {
        return Err(format!("namespace 1 is not identified: {status}").into());
    }
    let format = usize::from(host.data.read::<u8>(26) & 0xF);
    let shape = Shape {
        blocks: host.data.read(0),
        block_bytes: 1 << host.data.read::<u8>(128 + format * 4 + 2),
    };
    println!("{} blocks of {} bytes", shape.blocks, shape.block_bytes);
    let mut chance = Chance(fastrand::Rng::with_seed(seed));
    for number in 0..commands {
        let (text, completion, read) = match chance.0.u32(0..10) {
            0..7 => {
                let (text, entry, read) = io_command(&mut host, &mut chance, &shape);
                let entry = host.numbered(entry);
                (text, io.execute(&entry)?, read)
            }
            7 => {
                let (text, entry) = queue_command(&mut host, &mut chance);
                (text, host.admin(entry)?, None)
            }
            _ => {
                let (text, entry) = admin_command(&mut host, &mut chance);
                (text, host.admin(entry)?, None)
            }
        };
        let status = completion.status();
        let read = read.filter(|_| status.is_success()).map(|(offset, len)| {
            let mut bytes = vec![0; len];
            host.data.copy_out(offset, &mut bytes);
            format!(" read {:016x}", sum(&bytes))
        });
        println!("{number} {text}: {}{}", shown(status), read.unwrap_or_default());
    }
    host.backend.write32(register::CC, 0);
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, seed, commands] = &arguments[..] else {
        eprintln!("usage: nvme-guest-job DEVICE SEED COMMANDS");
        return ExitCode::from(2);
    };
    let (Ok(seed), Ok(commands)) = (seed.parse(), commands.parse()) else {
        eprintln!("nvme-guest-job: SEED and COMMANDS are numbers");
        return ExitCode::from(2);
    };
    match run(device, seed, commands) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nvme-guest-job: {error}");
            ExitCode::FAILURE
        }
    }
}
