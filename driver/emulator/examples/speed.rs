//! How fast the device is by itself: random reads of 4 KiB from memory, without a latency model, by one host thread that
//! does nothing but fill the ring and take completions. Prints reads per second of the device's own time.
//!
//! `cargo run --release -p nvme-emulator --example speed [-- SPEC]`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use nvme_emulator::{Config, DmaFault, Emulator, HostMemory, NoInterrupts};
use nvme_spec::{Aqa, Cc, CompletionEntry, SubmissionEntry, command, register};
use zerocopy::{FromBytes, IntoBytes};

const PAGE: u64 = 4096;
const ENTRIES: u32 = 64;
const BURST: u32 = 32;
const SECONDS: f64 = 2.0;
const BASE: u64 = 0x1000_0000;
const DATA: u64 = BASE + (1 << 20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spec = std::env::args().nth(1).unwrap_or_else(|| "size=64MiB".into());
    let config: Config = spec.parse()?;
    let blocks = config
        .namespaces
        .first()
        .map_or(0, |namespace| namespace.size_bytes / PAGE);
    let memory = Arc::new(Flat(Mutex::new(vec![0; 16 << 20])));
    let device = Emulator::new(config, memory.clone(), Arc::new(NoInterrupts))?;
    let mut host = Host {
        device,
        memory,
        queues: [Queue::at(0), Queue::at(1)],
        cid: 0,
    };
    host.bring_up();

    // Every block is written once, so that reads really copy.
    for slba in 0..blocks {
        host.put(
            1,
            SubmissionEntry {
                prp1: DATA,
                ..command::write(1, slba, 1, false)
            },
        );
        host.turn(1);
    }
    let mut random = fastrand::Rng::with_seed(1);
    let (mut reads, mut device_s, begin) = (0u64, 0.0, Instant::now());
    while begin.elapsed().as_secs_f64() < SECONDS {
        for slot in 0..BURST {
            let prp1 = DATA + u64::from(slot) * PAGE;
            host.put(
                1,
                SubmissionEntry {
                    prp1,
                    ..command::read(1, random.u64(..blocks), 1)
                },
            );
        }
        device_s += host.turn(1);
        reads += u64::from(BURST);
    }
    println!(
        "{:.2} M reads/s, {:.0} ns per read",
        reads as f64 / device_s / 1e6,
        device_s * 1e9 / reads as f64
    );
    Ok(())
}

/// Memory that is copied to and from as fast as the machine can; the lock is never contended.
struct Flat(Mutex<Vec<u8>>);

impl Flat {
    fn with<R>(&self, address: u64, len: usize, access: impl FnOnce(&mut [u8]) -> R) -> Result<R, DmaFault> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = address.wrapping_sub(BASE) as usize;
        let range = start..start.wrapping_add(len);
        bytes.get_mut(range).map(access).ok_or(DmaFault {
            address,
            len_bytes: len as u64,
        })
    }
}

impl HostMemory for Flat {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        self.with(address, into.len(), |bytes| into.copy_from_slice(bytes))
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        self.with(address, from.len(), |bytes| bytes.copy_from_slice(from))
    }

    fn load_u32(&self, address: u64) -> Result<u32, DmaFault> {
        let mut word = [0; 4];
        self.read(address, &mut word)?;
        Ok(u32::from_le_bytes(word))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        self.write(address, &value.to_le_bytes())
    }
}

struct Queue {
    sq: u64,
    cq: u64,
    tail: u32,
    head: u32,
    phase: bool,
}

impl Queue {
    fn at(index: u64) -> Self {
        let sq = BASE + index * 0x10000;
        Self {
            sq,
            cq: sq + 0x8000,
            tail: 0,
            head: 0,
            phase: true,
        }
    }
}

struct Host {
    device: Arc<Emulator>,
    memory: Arc<Flat>,
    queues: [Queue; 2],
    cid: u16,
}

impl Host {
    fn bring_up(&mut self) {
        let registers = self.device.registers();
        let size_z = (ENTRIES - 1) as u16;
        registers.write32(
            register::AQA,
            Aqa::new().with_asqs_z(size_z).with_acqs_z(size_z).into(),
        );
        registers.write64(register::ASQ, self.queues[0].sq);
        registers.write64(register::ACQ, self.queues[0].cq);
        let cc = Cc::new()
            .with_en(true)
            .with_iosqes(register::IOSQES)
            .with_iocqes(register::IOCQES);
        registers.write32(register::CC, cc.into());
        self.device.step(0);
        self.put(0, command::create_io_cq(1, size_z, self.queues[1].cq, None));
        self.turn(0);
        self.put(0, command::create_io_sq(1, size_z, self.queues[1].sq, 1, 0));
        self.turn(0);
    }

    fn put(&mut self, qid: usize, mut entry: SubmissionEntry) {
        self.cid = (self.cid + 1) % 1024;
        entry.cid = self.cid;
        let queue = &mut self.queues[qid];
        self.memory
            .write(queue.sq + u64::from(queue.tail) * 64, entry.as_bytes())
            .expect("mapped");
        queue.tail = (queue.tail + 1) % ENTRIES;
    }

    /// Rings, lets the device work, takes all completions; says how long the device took, in seconds.
    fn turn(&mut self, qid: usize) -> f64 {
        self.device.registers().ring(qid * 2, self.queues[qid].tail);
        let begin_s = cpu_s();
        self.device.step(0);
        let device_s = cpu_s() - begin_s;
        let queue = &mut self.queues[qid];
        let mut bytes = [0; 16];
        loop {
            self.memory
                .read(queue.cq + u64::from(queue.head) * 16, &mut bytes)
                .expect("mapped");
            let entry = CompletionEntry::read_from_bytes(&bytes).expect("16 bytes");
            if entry.phase() != queue.phase {
                break;
            }
            assert!(entry.status().is_success(), "{}", entry.status());
            queue.head = (queue.head + 1) % ENTRIES;
            queue.phase ^= queue.head == 0;
        }
        self.device.registers().ring(qid * 2 + 1, queue.head);
        device_s
    }
}

/// CPU time of this thread, in seconds: other processes on the machine do not count.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
