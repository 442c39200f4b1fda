//! What the driver's threads do for their backend.

#![allow(unsafe_code)]

use std::sync::mpsc::{Sender, channel};
use std::thread::ThreadId;
use std::time::Duration;

use super::*;
use crate::Config;
use crate::backend::emulated::EmulatedBackend;
use crate::backend::{Backend, BackendError, Departure, Doorbell, Waker, Windows};
use crate::dma::Region;
use crate::error::IoError;
use crate::request::Finished;
#[cfg(feature = "multi-queue")]
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
    departure: Mutex<Option<Departure>>,
    /// Of vector 0.
    wakers: Mutex<Vec<Waker>>,
}

impl Pinning {
    fn new(device: &str, clock: Clock, seen: Sender<Seen>) -> Arc<Self> {
        let device = device.parse().expect("a device");
        Arc::new(Self {
            inner: EmulatedBackend::start(device, clock).expect("starts"),
            seen: Mutex::new(seen),
            departure: Mutex::default(),
            wakers: Mutex::default(),
        })
    }

    fn sender(&self) -> Sender<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn depart(&self, how: Departure) {
        *self.departure.lock().unwrap() = Some(how);
        self.wakers.lock().unwrap().iter().for_each(Waker::wake);
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
        if vector == 0 {
            self.wakers.lock().unwrap().push(inner.waker());
        }
        let seen = self.sender();
        Ok(Box::new(Collecting { inner, seen }))
    }

    fn windows(&self, qid: u16, slots: usize, page_bytes: usize) -> Option<Box<dyn Windows>> {
        self.inner.windows(qid, slots, page_bytes)
    }

    fn departure(&self) -> Option<Departure> {
        *self.departure.lock().unwrap()
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
#[cfg(feature = "multi-queue")]
struct Restless;

#[cfg(feature = "multi-queue")]
impl Load for Restless {
    fn turn(&mut self, now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        LoadState::WaitUntil(now_ns)
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

#[test]
#[cfg(feature = "multi-queue")]
fn each_worker_binds_itself_to_its_vectors_cpu_and_collects_when_it_does_not_sleep() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let clock = Clock::system();
    let (sender, seen) = channel();
    let backend = Pinning::new("vectors=3", clock.clone(), sender);
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

/// What is told of events, one after the other.
struct News(Mutex<Sender<()>>);

impl crate::events::EventListener for News {
    fn news(&self) {
        let _ = self.0.lock().unwrap().send(());
    }
}

fn lines(driver: &Driver) -> String {
    String::from_utf8(driver.events().since(0, usize::MAX).text).expect("text")
}

#[test]
fn a_function_that_is_wanted_back_is_announced_once_and_goes_on_working() {
    let clock = Clock::system();
    let backend = Pinning::new("size=1MiB", clock.clone(), channel().0);
    let controller = Controller::open(backend.clone(), &Config::default(), clock).expect("comes up");
    let driver = Driver::start(controller).expect("starts");
    let (sender, news) = channel();
    let listener: Arc<dyn crate::events::EventListener> = Arc::new(News(Mutex::new(sender)));
    driver.events().listen(Arc::downgrade(&listener));
    assert!(!driver.removal_asked());
    backend.depart(Departure::Asked);
    news.recv().expect("an event");
    assert!(driver.removal_asked());
    backend.depart(Departure::Asked);
    driver.shutdown().expect("in order");
    let events = lines(&driver);
    assert_eq!(events.matches("removal_asked").count(), 1, "{events}");
    assert!(!events.contains("controller_failed"), "{events}");
}

#[test]
fn a_function_that_is_gone_is_given_up_and_everybody_gets_an_answer() {
    let clock = Clock::system();
    // Nothing is answered within the time of this test.
    let backend = Pinning::new("size=1MiB,latency=600s", clock.clone(), channel().0);
    let controller = Controller::open(backend.clone(), &Config::default(), clock).expect("comes up");
    let driver = Driver::start(controller).expect("starts");
    let (sender, answers) = channel();
    struct Sink(Mutex<Sender<Result<(), IoError>>>);
    impl crate::worker::Answer for Sink {
        fn answer(&self, _tag: u64, finished: Finished<()>) {
            let _ = self.0.lock().unwrap().send(finished.result);
        }
    }
    let sink = Arc::new(Sink(Mutex::new(sender)));
    for tag in 0..8 {
        let request = Request {
            op: crate::Op::Read,
            nsid: 1,
            slba: tag,
            blocks: 1,
            buffer: crate::Buffer::heap(vec![0; 4096]),
            arrived_ns: driver.clock().now_ns(),
            context: Remote {
                sink: sink.clone(),
                tag,
            },
        };
        driver.submit(Hint::default(), request);
    }
    backend.depart(Departure::Gone);
    for _ in 0..8 {
        assert_eq!(answers.recv().expect("an answer"), Err(IoError::Lost));
    }
    let events = lines(&driver);
    assert!(events.contains("taken out"), "{events}");
}

#[test]
fn a_change_of_the_scheduler_is_an_event_and_the_same_one_again_is_none() {
    let device = "size=1MiB".parse().unwrap();
    let backend = EmulatedBackend::start(device, Clock::system()).unwrap();
    let controller = Controller::open(Arc::new(backend), &Config::default(), Clock::system()).unwrap();
    let driver = Driver::start(controller).unwrap();
    for kind in [
        SchedulerKind::CpuAffinity,
        SchedulerKind::Deadline,
        SchedulerKind::Deadline,
    ] {
        driver.set_scheduler(kind);
        assert_eq!(driver.scheduler(), kind);
    }
    let events = String::from_utf8(driver.events().since(0, usize::MAX).text).unwrap();
    assert_eq!(events.matches("scheduler_changed").count(), 1, "{events}");
    assert!(
        events.contains(r#""event":"scheduler_changed","before":"cpuaffinity","now":"deadline""#),
        "{events}"
    );
    driver.shutdown().unwrap();
}
