//! A very small host: it brings the controller up through its registers, submits and polls, and steps the device by hand
//! under a clock of its own. What a driver does, without any of its cleverness.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nvme_emulator::{
    Config, CountedInterrupts, DoorbellMemory, Emulator, HostMemory, Running, Step, VecMemory,
};
use nvme_spec::identify::Cns;
use nvme_spec::{Aqa, Cc, CompletionEntry, Csts, Status, SubmissionEntry, command, register};
use zerocopy::{FromBytes, IntoBytes};

pub const PAGE: u64 = 4096;
const ADMIN_ENTRIES: u32 = 32;
const VECTORS: u16 = 256;
/// After this the device is taken to hang. Nothing else depends on it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Doorbells that the host stores to without the device being told.
#[derive(Debug)]
pub struct Words(Box<[AtomicU32]>);

impl DoorbellMemory for Words {
    fn words(&self) -> &[AtomicU32] {
        &self.0
    }
}

/// A queue pair as the host sees it.
#[derive(Debug)]
pub struct Queue {
    pub sq: u64,
    pub cq: u64,
    pub entries: u32,
    pub tail: u32,
    pub head: u32,
    pub phase: bool,
    pub sqhd: u16,
}

impl Queue {
    /// Puts an entry in the submission ring.
    pub fn put(&mut self, memory: &VecMemory, entry: SubmissionEntry) {
        memory
            .write(self.sq + u64::from(self.tail) * 64, entry.as_bytes())
            .unwrap();
        self.tail = (self.tail + 1) % self.entries;
    }

    /// Takes the next entry of the completion ring, if it is there.
    pub fn take(&mut self, memory: &VecMemory) -> Option<CompletionEntry> {
        let address = self.cq + u64::from(self.head) * 16;
        // The last dword first, with acquire: what belongs to it is there once the phase is.
        let phase = memory.load_u32(address + 12).unwrap() >> 16 & 1 != 0;
        if phase != self.phase {
            return None;
        }
        let entry = CompletionEntry::read_from_bytes(&memory.read_vec(address, 16).unwrap()).unwrap();
        self.head = (self.head + 1) % self.entries;
        self.phase ^= self.head == 0;
        self.sqhd = entry.sqhd;
        Some(entry)
    }
}

pub struct Host {
    pub device: Arc<Emulator>,
    pub memory: Arc<VecMemory>,
    pub interrupts: Arc<CountedInterrupts>,
    pub queues: BTreeMap<u16, Queue>,
    pub now_ns: u64,
    words: Option<Arc<Words>>,
    is_threaded: bool,
    next_page: u64,
    next_cid: u16,
}

impl Host {
    /// A device made from `spec`, and 64 MiB of memory; nothing is enabled.
    pub fn new(spec: &str) -> Self {
        Self::with(spec.parse().unwrap())
    }

    pub fn with(config: Config) -> Self {
        let memory = Arc::new(VecMemory::new(64 << 20));
        let interrupts = Arc::new(CountedInterrupts::new(VECTORS));
        let device = Emulator::new(config, memory.clone(), interrupts.clone()).unwrap();
        Self::of(device, memory, interrupts)
    }

    /// A device whose doorbells are in memory.
    pub fn with_shared_doorbells(spec: &str) -> Self {
        let memory = Arc::new(VecMemory::new(64 << 20));
        let interrupts = Arc::new(CountedInterrupts::new(VECTORS));
        let words = Arc::new(Words((0..1024).map(|_| AtomicU32::new(0)).collect()));
        let device = Emulator::with_doorbells(
            spec.parse().unwrap(),
            memory.clone(),
            interrupts.clone(),
            words.clone(),
        );
        Self {
            words: Some(words),
            ..Self::of(device.unwrap(), memory, interrupts)
        }
    }

    fn of(device: Arc<Emulator>, memory: Arc<VecMemory>, interrupts: Arc<CountedInterrupts>) -> Self {
        Self {
            device,
            words: None,
            memory,
            interrupts,
            queues: BTreeMap::new(),
            now_ns: 0,
            is_threaded: false,
            next_page: VecMemory::BASE + PAGE,
            next_cid: 0,
        }
    }

    /// A device that is ready.
    pub fn ready(spec: &str) -> Self {
        let mut host = Self::new(spec);
        host.enable();
        host
    }

    /// A device that is ready and has I/O queue pair 1 of 64 entries, on vector 1.
    pub fn with_queue(spec: &str) -> Self {
        let mut host = Self::ready(spec);
        host.create_queue(1, 64, 1);
        host
    }

    /// Fresh zeroed memory, page aligned.
    pub fn alloc(&mut self, len_bytes: u64) -> u64 {
        let address = self.next_page;
        self.next_page += len_bytes.next_multiple_of(PAGE);
        self.memory.write(address, &vec![0; len_bytes as usize]).unwrap();
        address
    }

    pub fn read(&self, address: u64, len_bytes: usize) -> Vec<u8> {
        self.memory.read_vec(address, len_bytes).unwrap()
    }

    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write(address, bytes).unwrap();
    }

    /// Has the device do what there is to do; with threads of its own it does that by itself.
    pub fn step(&self) -> Step {
        if self.is_threaded {
            std::thread::yield_now();
            return Step {
                worked: true,
                due_ns: Some(self.now_ns),
            };
        }
        self.device.step(self.now_ns)
    }

    /// From now on the device runs on threads of its own, by the system's clock, until what is returned is dropped.
    pub fn run_threads(&mut self) -> Running {
        self.is_threaded = true;
        let begin = std::time::Instant::now();
        self.device
            .run(Arc::new(move || begin.elapsed().as_nanos() as u64))
    }

    /// Lets time pass up to the next thing that is due, as long as something is and `until` does not hold.
    pub fn run_until(&mut self, mut until: impl FnMut(&mut Self) -> bool) -> bool {
        let begin = std::time::Instant::now();
        while begin.elapsed() < PATIENCE {
            let step = self.step();
            if until(self) {
                return true;
            }
            match step.due_ns {
                Some(due_ns) => self.now_ns = self.now_ns.max(due_ns),
                None => return false,
            }
        }
        false
    }

    pub fn csts(&self) -> Csts {
        Csts::from(self.device.registers().read32(register::CSTS))
    }

    pub fn write_cc(&self, cc: Cc) {
        self.device.registers().write32(register::CC, cc.into());
    }

    pub fn cc() -> Cc {
        Cc::new()
            .with_en(true)
            .with_iosqes(register::IOSQES)
            .with_iocqes(register::IOCQES)
    }

    /// Sets up the admin queue's memory and registers, without setting CC.EN.
    pub fn prepare_admin_queue(&mut self) {
        let queue = self.new_queue(ADMIN_ENTRIES);
        let registers = self.device.registers();
        let size_z = (ADMIN_ENTRIES - 1) as u16;
        registers.write32(
            register::AQA,
            Aqa::new().with_asqs_z(size_z).with_acqs_z(size_z).into(),
        );
        registers.write64(register::ASQ, queue.sq);
        registers.write64(register::ACQ, queue.cq);
        self.queues.clear();
        self.queues.insert(0, queue);
    }

    /// Brings the controller up.
    pub fn enable(&mut self) {
        self.prepare_admin_queue();
        self.write_cc(Self::cc());
        assert!(
            self.run_until(|host| host.csts().rdy()),
            "not ready: {:?}",
            self.csts()
        );
    }

    /// Clears CC.EN and waits for RDY to follow.
    pub fn disable(&mut self) {
        self.write_cc(Cc::new());
        assert!(self.run_until(|host| !host.csts().rdy()));
    }

    pub fn new_queue(&mut self, entries: u32) -> Queue {
        let sq = self.alloc(u64::from(entries) * 64);
        let cq = self.alloc(u64::from(entries) * 16);
        Queue {
            sq,
            cq,
            entries,
            tail: 0,
            head: 0,
            phase: true,
            sqhd: 0,
        }
    }

    /// Creates I/O queue pair `qid`.
    pub fn create_queue(&mut self, qid: u16, entries: u32, vector: u16) {
        let queue = self.new_queue(entries);
        let size_z = (entries - 1) as u16;
        self.admin_ok(command::create_io_cq(qid, size_z, queue.cq, Some(vector)));
        self.admin_ok(command::create_io_sq(qid, size_z, queue.sq, qid, 0));
        self.queues.insert(qid, queue);
    }

    /// Puts `entry` in the ring with a fresh command identifier, and does not ring.
    pub fn put(&mut self, qid: u16, entry: SubmissionEntry) -> u16 {
        let cid = self.next_cid;
        self.next_cid = self.next_cid.wrapping_add(1);
        self.put_cid(qid, entry, cid);
        cid
    }

    pub fn put_cid(&mut self, qid: u16, entry: SubmissionEntry, cid: u16) {
        self.queues
            .get_mut(&qid)
            .unwrap()
            .put(&self.memory, SubmissionEntry { cid, ..entry });
    }

    pub fn ring_sq(&self, qid: u16) {
        self.ring(usize::from(qid) * 2, self.queues[&qid].tail);
    }

    pub fn ring_cq(&self, qid: u16) {
        self.ring(usize::from(qid) * 2 + 1, self.queues[&qid].head);
    }

    fn ring(&self, index: usize, value: u32) {
        match &self.words {
            Some(words) => {
                let stride_words =
                    1 << nvme_spec::Cap::from(self.device.registers().read64(register::CAP)).dstrd();
                words.words()[index * stride_words].store(value, Ordering::Release);
            }
            None => self.device.registers().ring(index, value),
        }
    }

    /// Puts and rings.
    pub fn submit(&mut self, qid: u16, entry: SubmissionEntry) -> u16 {
        let cid = self.put(qid, entry);
        self.ring_sq(qid);
        cid
    }

    /// Takes the completions there are, without telling the device.
    pub fn peek(&mut self, qid: u16) -> Vec<CompletionEntry> {
        let queue = self.queues.get_mut(&qid).unwrap();
        std::iter::from_fn(|| queue.take(&self.memory)).collect()
    }

    /// Takes the completions there are and rings the completion queue's doorbell.
    pub fn reap(&mut self, qid: u16) -> Vec<CompletionEntry> {
        let taken = self.peek(qid);
        if !taken.is_empty() {
            self.ring_cq(qid);
        }
        taken
    }

    /// Submits one command and waits for it, letting time pass.
    pub fn run(&mut self, qid: u16, entry: SubmissionEntry) -> CompletionEntry {
        let cid = self.submit(qid, entry);
        let mut found = None;
        self.run_until(|host| {
            found = found.or_else(|| host.reap(qid).into_iter().find(|entry| entry.cid == cid));
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("command {cid} of queue {qid} never completed: {entry:?}"))
    }

    pub fn admin(&mut self, entry: SubmissionEntry) -> CompletionEntry {
        self.run(0, entry)
    }

    #[track_caller]
    pub fn admin_ok(&mut self, entry: SubmissionEntry) -> CompletionEntry {
        let completion = self.admin(entry);
        assert!(
            completion.status().is_success(),
            "{}: {entry:?}",
            completion.status()
        );
        completion
    }

    #[track_caller]
    pub fn admin_fails(&mut self, entry: SubmissionEntry, status: Status) {
        let completion = self.admin(entry);
        assert!(
            completion.status().is(status),
            "{} instead of {status}: {entry:?}",
            completion.status()
        );
    }

    #[track_caller]
    pub fn io_ok(&mut self, qid: u16, entry: SubmissionEntry) -> CompletionEntry {
        let completion = self.run(qid, entry);
        assert!(
            completion.status().is_success(),
            "{}: {entry:?}",
            completion.status()
        );
        completion
    }

    /// Points `entry` at `len_bytes` of page-aligned memory, with a PRP list if it takes one.
    pub fn with_data(&mut self, mut entry: SubmissionEntry, address: u64, len_bytes: u64) -> SubmissionEntry {
        entry.prp1 = address;
        let pages = len_bytes.div_ceil(PAGE);
        if pages == 2 {
            entry.prp2 = address + PAGE;
        } else if pages > 2 {
            assert!(
                pages - 1 <= PAGE / 8,
                "one page of list is enough for these tests"
            );
            let list = self.alloc(PAGE);
            for page in 1..pages {
                self.write(list + (page - 1) * 8, &(address + page * PAGE).to_le_bytes());
            }
            entry.prp2 = list;
        }
        entry
    }

    /// Runs an admin command that returns `T`.
    #[track_caller]
    pub fn admin_data<T: FromBytes>(&mut self, entry: SubmissionEntry) -> T {
        let buffer = self.alloc(size_of::<T>() as u64);
        let entry = self.with_data(entry, buffer, size_of::<T>() as u64);
        self.admin_ok(entry);
        T::read_from_bytes(&self.read(buffer, size_of::<T>())).unwrap()
    }

    #[track_caller]
    pub fn identify<T: FromBytes>(&mut self, cns: Cns, nsid: u32) -> T {
        self.admin_data(command::identify(cns, nsid, 0))
    }

    #[track_caller]
    pub fn log<T: FromBytes>(&mut self, lid: nvme_spec::log::LogId) -> T {
        let len_bytes = size_of::<T>() as u32;
        self.admin_data(command::get_log_page(lid, command::NSID_ALL, len_bytes, 0, false))
    }

    /// Writes `data` to namespace `nsid` at `slba`, blocks of 4096 bytes.
    #[track_caller]
    pub fn write_blocks(&mut self, qid: u16, nsid: u32, slba: u64, data: &[u8]) {
        let buffer = self.alloc(data.len() as u64);
        self.write(buffer, data);
        let entry = command::write(nsid, slba, data.len() as u32 / 4096, false);
        let entry = self.with_data(entry, buffer, data.len() as u64);
        self.io_ok(qid, entry);
    }

    #[track_caller]
    pub fn read_blocks(&mut self, qid: u16, nsid: u32, slba: u64, blocks: u32) -> Vec<u8> {
        let len_bytes = u64::from(blocks) * 4096;
        let buffer = self.alloc(len_bytes);
        let entry = self.with_data(command::read(nsid, slba, blocks), buffer, len_bytes);
        self.io_ok(qid, entry);
        self.read(buffer, len_bytes as usize)
    }
}
