//! A driver that is turned by hand, on a controller that is stepped by hand, with rings whose pages a test writes itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nvme_emulator::Emulator;

use super::layout::{Completion, Entry, Geometry, Place, word};
use super::server::{Rights, Server};
use super::shared::Shared;
use crate::backend::emulated::EmulatedBackend;
use crate::clock::{Clock, ManualClock};
use crate::controller::Opening;
use crate::dma::{Buffer, RegisteredMemory, SharedMemory};
use crate::driver::{Hint, Stepped};
use crate::request::{Finished, Op, Request};
use crate::scheme::Errno;
use crate::worker::{Answer, Remote};
use crate::{Config, Driver};

pub(super) const ALL: Rights = Rights {
    read: true,
    write: true,
    physical: true,
};
pub(super) const SMALL: Geometry = Geometry {
    sq_entries: 8,
    cq_entries: 16,
};
pub(super) const DATA_BYTES: usize = 64 << 10;

/// The driver and its controller: one queue of 16 entries, namespace 1 of 256 blocks of 4096 bytes.
pub(super) struct Rig {
    pub(super) clock: ManualClock,
    pub(super) device: Arc<Emulator>,
    pub(super) driver: Driver,
    stepped: Stepped,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let clock = ManualClock::new(1);
        let device = "size=1MiB,lba=4096".parse().expect("a device");
        let backend = EmulatedBackend::stepped(device).expect("a backend");
        let device = Arc::clone(backend.device());
        let config = Config {
            num_queues: 1,
            queue_depth: 16,
            ..config
        };
        let mut opening =
            Opening::new(Arc::new(backend), &config, Clock::manual(clock.clone())).expect("opens");
        while !opening.turn().expect("comes up") {
            device.step(clock.now_ns());
            clock.set(clock.now_ns() + 10_000);
        }
        let controller = opening.finish().expect("is up");
        let (driver, stepped) = Driver::stepped(controller).expect("has a queue");
        Self {
            clock,
            device,
            driver,
            stepped,
        }
    }

    pub(super) fn turn(&mut self) -> bool {
        self.stepped.turn_worker(0)
    }

    pub(super) fn step(&mut self) {
        self.clock.set(self.clock.now_ns() + 1000);
        self.device.step(self.clock.now_ns());
    }

    /// Until nothing happens any more.
    pub(super) fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 40 {
            let worked = self.turn();
            self.step();
            quiet = if worked { 0 } else { quiet + 1 };
        }
    }

    pub(super) fn ring(&self, rights: Rights) -> Ring {
        Ring::open(&self.driver, SMALL, rights, false).expect("a ring")
    }

    /// Whether an honest client's write and read, past all rings, still do what they are to do.
    pub(super) fn still_works(&mut self, block: u64, byte: u8) -> bool {
        let answers = Arc::new(Kept::default());
        let ask = |rig: &mut Self, op, fill| {
            let request = Request {
                op,
                nsid: 1,
                slba: block,
                blocks: 1,
                buffer: Buffer::heap(vec![fill; 4096]),
                arrived_ns: rig.clock.now_ns(),
                context: Remote {
                    sink: Arc::clone(&answers) as Arc<dyn Answer>,
                    tag: 0,
                },
            };
            rig.driver.submit(Hint::default(), request);
            for _ in 0..1000 {
                rig.turn();
                rig.step();
                if let Some(finished) = answers.0.lock().expect("answers").take() {
                    return Some(finished);
                }
            }
            None
        };
        let wrote = ask(self, Op::Write { fua: false }, byte);
        let read = ask(self, Op::Read, !byte);
        wrote.is_some_and(|done| done.result.is_ok())
            && read.is_some_and(|done| {
                done.result.is_ok() && done.buffer.as_slice().iter().all(|seen| *seen == byte)
            })
    }
}

#[derive(Default)]
struct Kept(Mutex<Option<Finished<()>>>);

impl Answer for Kept {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        *self.0.lock().expect("answers") = Some(finished);
    }
}

/// What a `then` was told.
pub(super) type Told<T> = Arc<Mutex<Vec<Result<T, Errno>>>>;
/// A `then` that tells it.
pub(super) type Tells<T> = Box<dyn FnOnce(Result<T, Errno>) + Send>;

/// A ring as its client sees the memory, with none of [`Client`](super::client::Client)'s good manners.
pub(super) struct Ring {
    pub(super) memory: Arc<SharedMemory>,
    pub(super) registered: Option<Arc<RegisteredMemory>>,
    pub(super) shared: Arc<Shared>,
    pub(super) geometry: Geometry,
    pub(super) changes: Arc<AtomicU32>,
    tail: u32,
    head: u32,
}

impl Ring {
    pub(super) fn open(
        driver: &Driver,
        geometry: Geometry,
        rights: Rights,
        tells_runs: bool,
    ) -> Result<Self, Errno> {
        let len = geometry.data_offset() + DATA_BYTES;
        let memory = Arc::new(SharedMemory::create(len).expect("memory"));
        let registered = driver.register(&memory);
        let changes = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&changes);
        let changed = Box::new(move |_: &_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let kept = Arc::clone(&registered);
        let (server, shared) = Server::new(registered, geometry, (1, 1), rights, tells_runs, changed)?;
        driver.attach(0, Box::new(server));
        Ok(Self {
            memory,
            registered: Some(kept),
            shared,
            geometry,
            changes,
            tail: 0,
            head: 0,
        })
    }

    /// The place `offset` bytes into the data.
    pub(super) fn at(&self, offset: usize) -> Place {
        Place {
            buffer: 0,
            address: (self.geometry.data_offset() + offset) as u64,
        }
    }

    pub(super) fn load(&self, word: usize) -> u32 {
        self.memory.word(word).expect("a word").load(Ordering::Acquire)
    }

    pub(super) fn store(&self, word: usize, value: u32) {
        self.memory
            .word(word)
            .expect("a word")
            .store(value, Ordering::Release);
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.load(word::FLAGS) & flag != 0
    }

    /// Puts entries in, and lets the driver see them.
    pub(super) fn submit(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.memory
                .store(self.geometry.entry_at(self.tail), entry.encode())
                .expect("room");
            self.tail = self.tail.wrapping_add(1);
        }
        self.store(word::SQ_TAIL, self.tail);
    }

    /// The results that are there, taken.
    pub(super) fn results(&mut self) -> Vec<Completion> {
        let mut results = Vec::new();
        while self.head != self.load(word::CQ_TAIL) {
            results.push(self.peek());
            self.head = self.head.wrapping_add(1);
        }
        self.store(word::CQ_HEAD, self.head);
        results
    }

    fn peek(&self) -> Completion {
        Completion::decode(
            self.memory
                .load(self.geometry.result_at(self.head))
                .expect("a result"),
        )
    }

    /// What each result says: its `user_data` and error.
    pub(super) fn errors(&mut self) -> Vec<(u64, i32)> {
        let results = self.results();
        results
            .iter()
            .map(|done| (done.user_data, done.errno as i32))
            .collect()
    }

    pub(super) fn told<T: Send + 'static>() -> (Told<T>, Tells<T>) {
        let told = Told::default();
        let into = Arc::clone(&told);
        (
            told,
            Box::new(move |result| into.lock().expect("told").push(result)),
        )
    }
}
