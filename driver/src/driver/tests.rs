//! What the driver's threads do for their backend.

#![allow(unsafe_code)]

use std::sync::mpsc::{Sender, channel};
use std::thread::ThreadId;
use std::time::Duration;

use super::*;
use crate::Config;
use crate::backend::emulated::EmulatedBackend;
use crate::backend::{Backend, BackendError, Doorbell, Waker, Windows};
use crate::dma::Region;
use crate::error::IoError;
use crate::request::Finished;
use crate::worker::{LoadPort, LoadState};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Pinned(Option<String>, ThreadId, u32),
    Collected(ThreadId),
}

/// An emulated controller whose vector n fires on CPU 10 + n, and whose waiters tell when they collect.
struct Pinning {
    inner: EmulatedBackend,
    seen: Mutex<Sender<Seen>>,
}

impl Pinning {
    fn sender(&self) -> Sender<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

struct Collecting {
    inner: Box<dyn Waiter>,
    seen: Sender<Seen>,
}

impl Waiter for Collecting {
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut dyn FnMut() -> bool) {
        self.inner.wait(timeout, ready);
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn take_interrupts(&mut self) -> u64 {
        self.inner.take_interrupts()
    }

    fn collect(&mut self) {
        let _ = self.seen.send(Seen::Collected(std::thread::current().id()));
    }
}

// SAFETY: all memory and windows are the emulated backend's.
unsafe impl Backend for Pinning {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.inner.write32(offset, value);
    }

    fn write64(&self, offset: usize, value: u64) {
        self.inner.write64(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, BackendError> {
        self.inner.doorbell(offset)
    }

    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        self.inner.allocate(len_bytes)
    }

    fn vectors(&self) -> u16 {
        self.inner.vectors()
    }

    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError> {
        let inner = self.inner.waiter(vector)?;
        let seen = self.sender();
        Ok(Box::new(Collecting { inner, seen }))
    }

    fn windows(&self, qid: u16, slots: usize, page_bytes: usize) -> Option<Box<dyn Windows>> {
        self.inner.windows(qid, slots, page_bytes)
    }

    fn cpu_of(&self, vector: u16) -> Option<u32> {
        Some(10 + u32::from(vector))
    }

    fn pin_thread(&self, cpu: u32) {
        let thread = std::thread::current();
        let name = thread.name().map(str::to_owned);
        let _ = self.sender().send(Seen::Pinned(name, thread.id(), cpu));
    }
}

/// Has something to do at every moment, so that its worker never sleeps.
struct Restless;

impl Load for Restless {
    fn turn(&mut self, now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        LoadState::WaitUntil(now_ns)
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

#[test]
fn each_worker_binds_itself_to_its_vectors_cpu_and_collects_when_it_does_not_sleep() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let clock = Clock::system();
    let (sender, seen) = channel();
    let device = "vectors=3".parse().expect("a device");
    let inner = EmulatedBackend::start(device, clock.clone()).expect("starts");
    let backend = Arc::new(Pinning {
        inner,
        seen: Mutex::new(sender),
    });
    let config = Config {
        num_queues: 2,
        ..Config::default()
    };
    let driver = Driver::start(Controller::open(backend, &config, clock).expect("comes up")).expect("starts");
    let mut pinned = std::collections::HashMap::new();
    while pinned.len() < 2 {
        if let Seen::Pinned(name, thread, cpu) = seen.recv_timeout(PATIENCE).expect("pins") {
            assert_eq!(pinned.insert(name.expect("a name"), (thread, cpu)), None);
        }
    }
    for queue in &driver.0.queues {
        let (_, cpu) = pinned[&format!("nvme-q{}", queue.qid)];
        assert_eq!(cpu, 10 + u32::from(queue.vector));
        assert_eq!(queue.cpu, Some(cpu));
    }
    let shown: Vec<_> = driver.stats(false).queues.iter().map(|queue| queue.cpu).collect();
    assert_eq!(shown, [None, driver.0.queues[0].cpu, driver.0.queues[1].cpu]);

    driver.attach(1, Box::new(Restless));
    let (restless, _) = pinned[&format!("nvme-q{}", driver.qid(1))];
    while seen.recv_timeout(PATIENCE).expect("collects") != Seen::Collected(restless) {}
    driver.shutdown().expect("in order");
}
