//! A program for the guest: seeded requests to a controller, through the library, and a model of what its namespaces
//! must hold; every answer is checked. What they hold in the end can be compared with what another driver reads.
//!
//! Prints the driver's statistics as JSON. What is not as it must be ends it with 1, and is said with its seed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use clap::Parser;
use nvme_driver::clock::Clock;
use nvme_driver::device::Device;
use nvme_driver::driver::Hint;
use nvme_driver::namespace::Namespace;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Controller, Driver, Finished, IoError, Op, Request};
use nvme_spec::Status;

/// No answer takes this long, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(100);

/// Requests with a model of the data.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// The controller, as nvme-driver's --device has it.
    #[arg(long)]
    device: Device,
    /// What all choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many requests.
    #[arg(long, default_value_t = 1000)]
    requests: u32,
    /// How many are out at most.
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// How many blocks one has at most.
    #[arg(long, default_value_t = 64)]
    max_blocks: u64,
    /// A folder. A file in it with the number of a namespace is what that namespace must hold at the start, and is then
    /// written with what it holds in the end. Namespaces without one are filled first.
    #[arg(long)]
    models: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("nvme-guest-workload: {reason} (seed {})", args.seed);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let config = Config::from_env().map_err(|error| error.to_string())?;
    let clock = Clock::system();
    let backend = args.device.open(&clock).map_err(|error| error.to_string())?;
    let controller = Controller::open(backend, &config, clock).map_err(|error| error.to_string())?;
    let driver = Driver::start(controller).map_err(|error| error.to_string())?;
    let mut disks = Vec::new();
    for namespace in driver
        .namespaces()
        .iter()
        .filter(|namespace| namespace.is_usable())
    {
        disks.push(Disk::new(namespace, args)?);
    }
    if disks.is_empty() {
        return Err("there is no namespace that can be used".to_owned());
    }
    let mut workload = Workload {
        driver,
        answers: Answers::new(),
        rng: fastrand::Rng::with_seed(args.seed),
        disks,
        out: Vec::new(),
    };
    workload.begin()?;
    workload.load(args)?;
    workload.read_all()?;
    for disk in &workload.disks {
        let path = args.models.join(disk.nsid.to_string());
        fs::write(&path, &disk.model).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let stats = serde_json::to_string(&workload.driver.stats(false)).map_err(|error| error.to_string())?;
    workload.driver.shutdown().map_err(|error| error.to_string())?;
    println!("{stats}");
    Ok(())
}

/// What a namespace must hold.
struct Disk {
    nsid: u32,
    lba_shift: u32,
    blocks: u64,
    model: Vec<u8>,
    /// Blocks that were deallocated and not read since: they are as in the model, or zeroes. A controller need not do
    /// anything when it is told that storage is not needed (NVM Command Set Specification, Dataset Management).
    unsure: BTreeSet<u64>,
    /// Whether the model was there before.
    given: bool,
}

impl Disk {
    fn new(namespace: &Namespace, args: &Args) -> Result<Self, String> {
        let bytes = usize::try_from(namespace.size_bytes()).map_err(|error| error.to_string())?;
        let path = args.models.join(namespace.nsid.to_string());
        let given = path.exists();
        let model = if given {
            fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?
        } else {
            vec![0; bytes]
        };
        if model.len() != bytes {
            return Err(format!(
                "{} has {} bytes, namespace {} has {bytes}",
                path.display(),
                model.len(),
                namespace.nsid
            ));
        }
        Ok(Self {
            nsid: namespace.nsid,
            lba_shift: namespace.lba_shift,
            blocks: namespace.blocks,
            model,
            unsure: BTreeSet::new(),
            given,
        })
    }

    fn bytes(&mut self, slba: u64, blocks: u64) -> &mut [u8] {
        let byte = |block: u64| usize::try_from(block << self.lba_shift).unwrap_or(usize::MAX);
        let range = byte(slba)..byte(slba + blocks);
        &mut self.model[range]
    }

    /// What was read, against the model; what was unsure is settled by it.
    fn check(&mut self, slba: u64, blocks: u64, read: &[u8]) -> Result<(), String> {
        let (nsid, block_bytes) = (self.nsid, 1 << self.lba_shift);
        for (block, found) in (slba..slba + blocks).zip(read.chunks(block_bytes)) {
            let unsure = self.unsure.remove(&block);
            let expected = self.bytes(block, 1);
            if unsure && found.iter().all(|byte| *byte == 0) {
                expected.fill(0);
            }
            if let Some(at) = (0..block_bytes).find(|at| found[*at] != expected[*at]) {
                return Err(format!(
                    "block {block} of namespace {nsid}, read at {slba} with {blocks} blocks: byte {at} is {:#04x}, not {:#04x}",
                    found[at], expected[at]
                ));
            }
        }
        Ok(())
    }
}

/// A request that is out.
struct Out {
    op: Op,
    disk: usize,
    slba: u64,
    blocks: u64,
    /// Whether a compare must find a difference.
    differs: bool,
}

impl Out {
    fn clashes(&self, op: Op, disk: usize, slba: u64, blocks: u64) -> bool {
        let overlap = self.disk == disk && slba < self.slba + self.blocks && self.slba < slba + blocks;
        overlap && (changes(op) || changes(self.op))
    }
}

fn changes(op: Op) -> bool {
    matches!(op, Op::Write { .. } | Op::WriteZeroes { .. } | Op::Deallocate)
}

struct Answers {
    sink: Arc<dyn Answer>,
    receiver: Receiver<(u64, Finished<()>)>,
}

struct Sink(std::sync::Mutex<Sender<(u64, Finished<()>)>>);

impl Answer for Sink {
    fn answer(&self, tag: u64, finished: Finished<()>) {
        let sender = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Nobody listens any more when something has failed already.
        let _ = sender.send((tag, finished));
    }
}

impl Answers {
    fn new() -> Self {
        let (sender, receiver) = channel();
        Self {
            sink: Arc::new(Sink(std::sync::Mutex::new(sender))),
            receiver,
        }
    }
}

struct Workload {
    driver: Driver,
    answers: Answers,
    rng: fastrand::Rng,
    disks: Vec<Disk>,
    out: Vec<Option<Out>>,
}

impl Workload {
    /// Namespaces are what they must be: read, or filled.
    fn begin(&mut self) -> Result<(), String> {
        for disk in 0..self.disks.len() {
            if self.disks[disk].given {
                self.whole(disk, Op::Read)?;
            } else {
                self.rng.fill(&mut self.disks[disk].model);
                self.whole(disk, Op::Write { fua: false })?;
            }
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<(), String> {
        (0..self.disks.len()).try_for_each(|disk| self.whole(disk, Op::Read))
    }

    /// All of a namespace, in requests of about 1 MiB, one after the other.
    fn whole(&mut self, disk: usize, op: Op) -> Result<(), String> {
        let step = (1 << 20) >> self.disks[disk].lba_shift;
        let mut slba = 0;
        while slba < self.disks[disk].blocks {
            let blocks = step.min(self.disks[disk].blocks - slba);
            self.send(op, disk, slba, blocks);
            self.receive()?;
            slba += blocks;
        }
        Ok(())
    }

    fn load(&mut self, args: &Args) -> Result<(), String> {
        let mut sent = 0;
        while sent < args.requests {
            let outstanding = self.out.iter().flatten().count();
            if outstanding >= args.depth {
                self.receive()?;
                continue;
            }
            let disk = self.rng.usize(0..self.disks.len());
            let most = if self.rng.bool() { 4 } else { args.max_blocks };
            let blocks = self.rng.u64(1..=most).min(self.disks[disk].blocks);
            let slba = self.rng.u64(0..=self.disks[disk].blocks - blocks);
            let mut op = match self.rng.u8(0..100) {
                0..40 => Op::Read,
                40..72 => Op::Write { fua: self.rng.bool() },
                72..77 => Op::Flush,
                77..83 => Op::WriteZeroes {
                    deallocate: self.rng.bool(),
                },
                83..87 => Op::Deallocate,
                87..95 => Op::Compare,
                _ => Op::Verify,
            };
            // What is not known cannot be compared with.
            if op == Op::Compare
                && self.disks[disk]
                    .unsure
                    .range(slba..slba + blocks)
                    .next()
                    .is_some()
            {
                op = Op::Read;
            }
            // What is on the disk while two requests change the same blocks is nobody's promise.
            while self
                .out
                .iter()
                .flatten()
                .any(|out| out.clashes(op, disk, slba, blocks))
            {
                self.receive()?;
            }
            self.send(op, disk, slba, blocks);
            sent += 1;
        }
        while self.out.iter().any(Option::is_some) {
            self.receive()?;
        }
        Ok(())
    }

    fn send(&mut self, op: Op, disk: usize, slba: u64, blocks: u64) {
        let blocks = if op == Op::Flush { 0 } else { blocks };
        let nsid = self.disks[disk].nsid;
        let mut differs = false;
        let mut buffer = Buffer::None;
        if op.has_data() {
            let model = self.disks[disk].bytes(slba, blocks);
            buffer = memory(&self.driver, &mut self.rng, model.len());
            match op {
                Op::Write { .. } => {
                    self.rng.fill(buffer.as_mut_slice());
                    model.copy_from_slice(buffer.as_slice());
                }
                Op::Compare => {
                    buffer.as_mut_slice().copy_from_slice(model);
                    differs = self.rng.bool();
                    if differs {
                        let at = self.rng.usize(0..model.len());
                        buffer.as_mut_slice()[at] ^= 1 << self.rng.u8(0..8);
                    }
                }
                // What is there before must not look like what is read.
                _ => buffer.as_mut_slice().fill(0xEE),
            }
        } else if let Op::WriteZeroes { .. } = op {
            self.disks[disk].bytes(slba, blocks).fill(0);
        }
        match op {
            Op::Deallocate => self.disks[disk].unsure.extend(slba..slba + blocks),
            Op::Write { .. } | Op::WriteZeroes { .. } => {
                self.disks[disk]
                    .unsure
                    .retain(|block| !(slba..slba + blocks).contains(block));
            }
            _ => {}
        }
        let tag = self
            .out
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.out.len());
        if tag == self.out.len() {
            self.out.push(None);
        }
        self.out[tag] = Some(Out {
            op,
            disk,
            slba,
            blocks,
            differs,
        });
        let hint = Hint {
            cpu: Some(self.rng.u32(..)),
            client: self.rng.u64(..),
            ..Hint::default()
        };
        let request = Request {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            arrived_ns: self.driver.clock().now_ns(),
            context: Remote {
                sink: Arc::clone(&self.answers.sink),
                tag: tag as u64,
            },
        };
        self.driver.submit(hint, request);
    }

    fn receive(&mut self) -> Result<(), String> {
        let (tag, finished) = self
            .answers
            .receiver
            .recv_timeout(PATIENCE)
            .map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        let out = usize::try_from(tag)
            .ok()
            .and_then(|tag| self.out.get_mut(tag)?.take())
            .ok_or("an answer to nothing")?;
        let Out {
            op,
            disk,
            slba,
            blocks,
            differs,
        } = out;
        let nsid = self.disks[disk].nsid;
        let expected = match differs {
            true => Err(Status::COMPARE_FAILURE.code()),
            false => Ok(()),
        };
        let found = finished.result.as_ref().map_err(|error| match error {
            IoError::Status(status) => status.code(),
            _ => u16::MAX,
        });
        if found != expected.as_ref().map_err(|code| *code) {
            return Err(format!(
                "{op:?} of {blocks} blocks at {slba} of namespace {nsid}: {:?}{}",
                finished.result,
                if differs {
                    ", where a difference had to be found"
                } else {
                    ""
                }
            ));
        }
        if op == Op::Read {
            self.disks[disk].check(slba, blocks, finished.buffer.as_slice())?;
        }
        Ok(())
    }
}

/// Memory for the data of a request: the driver's own, or anybody's at an odd place.
fn memory(driver: &Driver, rng: &mut fastrand::Rng, bytes: usize) -> Buffer {
    if rng.u8(0..3) == 0
        && let Ok(buffer) = driver.allocate(bytes)
    {
        return Buffer::Dma(buffer);
    }
    let offset = rng.usize(0..5000);
    Buffer::Heap {
        bytes: vec![0; offset + bytes],
        offset,
    }
}
