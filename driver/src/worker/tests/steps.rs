//! Workers, driver and device turned by hand, in time that is made by hand too.

use std::collections::BTreeMap;

use nvme_emulator::Emulator;
use nvme_spec::identify::{IdentifyNamespace, LbaFormat};
use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::clock::ManualClock;
use crate::controller::Opening;
use crate::driver::{Hint, Priority, Stepped};
use crate::namespace::Namespace;

/// Answers by their tags.
#[derive(Default)]
pub(super) struct Sink(Mutex<BTreeMap<u64, Finished<()>>>);

impl Sink {
    pub(super) fn of(&self, tag: u64) -> Option<Result<(), IoError>> {
        self.0.lock().unwrap().get(&tag).map(|finished| finished.result)
    }

    /// Whatever is in the buffer of the request that is done.
    pub(super) fn buffer_of(&self, tag: u64) -> Vec<u8> {
        let answers = self.0.lock().unwrap();
        answers.get(&tag).unwrap().buffer.as_slice().to_vec()
    }
}

impl Answer for Sink {
    fn answer(&self, tag: u64, finished: Finished<()>) {
        let before = self.0.lock().unwrap().insert(tag, finished);
        assert!(before.is_none(), "{tag} is answered once");
    }
}

fn request<T>(op: Op, arrived_ns: u64, context: T) -> Request<T> {
    let has_data = op.has_data();
    Request {
        op,
        nsid: 1,
        slba: 8,
        blocks: u64::from(has_data),
        buffer: if has_data {
            Buffer::heap(vec![0; 4096])
        } else {
            Buffer::None
        },
        arrived_ns,
        context,
    }
}

fn class(priority: Priority) -> Class {
    Class {
        priority,
        deadline_us: None,
    }
}

/// Everything that is turned by hand.
pub(super) struct Bench {
    pub(super) driver: Driver,
    pub(super) stepped: Stepped,
    pub(super) device: Arc<Emulator>,
    pub(super) time: ManualClock,
    pub(super) sink: Arc<Sink>,
}

impl Bench {
    pub(super) fn new(spec: &str, config: &Config) -> Self {
        Self::without(0, spec, config)
    }

    /// With a driver that has not got the first `taken` queues.
    fn without(taken: usize, spec: &str, config: &Config) -> Self {
        let time = ManualClock::new(1);
        let backend = EmulatedBackend::stepped(spec.parse().unwrap()).unwrap();
        let device = Arc::clone(backend.device());
        let mut opening = Opening::new(Arc::new(backend), config, Clock::manual(time.clone())).unwrap();
        while !opening.turn().unwrap() {
            device.step(time.now_ns());
            time.set(time.now_ns() + 10_000);
        }
        let mut controller = opening.finish().unwrap();
        for _ in 0..taken {
            drop(controller.take_queue::<u64>());
        }
        let (driver, stepped) = Driver::stepped(controller).unwrap();
        Self {
            driver,
            stepped,
            device,
            time,
            sink: Arc::default(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock::manual(self.time.clone())
    }

    fn submit(&self, op: Op, hint: Hint, tag: u64) {
        let sink = Arc::clone(&self.sink) as Arc<dyn Answer>;
        let remote = Remote { sink, tag };
        self.driver.submit(hint, request(op, self.time.now_ns(), remote));
    }

    /// Turns the device, and lets time go on to what it does next if nobody has `worked`.
    pub(super) fn step_device(&self, worked: bool) {
        let now_ns = self.time.now_ns();
        let step = self.device.step(now_ns);
        if !worked && !step.worked {
            let next_ns = step.due_ns.unwrap_or(now_ns + 1_000_000);
            self.time.set(next_ns.max(now_ns + 1));
        }
    }
}

/// Keeps 64 urgent reads out.
#[cfg(feature = "multi-queue")]
struct UrgentReads {
    out: usize,
}

#[cfg(feature = "multi-queue")]
impl Load for UrgentReads {
    fn turn(&mut self, now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        while self.out < 64
            && port
                .submit_as(class(Priority::Urgent), request(Op::Read, now_ns, 0))
                .is_ok()
        {
            self.out += 1;
        }
        LoadState::Running
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {
        self.out -= 1;
    }

    fn stopped(&mut self, _why: IoError) {}
}

#[cfg(feature = "multi-queue")]
#[test]
fn urgent_requests_of_one_queue_do_not_starve_another_queue_at_the_device() {
    let config = Config {
        num_queues: 4,
        scheduler: SchedulerKind::Priority,
        ..Config::default()
    };
    let mut bench = Bench::new("size=1MiB,channels=1,latency=100us,wrr=on,queues=4", &config);
    let urgent = bench.driver.queue_for(Priority::Urgent, 0);
    assert_ne!(urgent, bench.driver.queue_for(Priority::Low, 0));
    bench.driver.attach(urgent, Box::new(UrgentReads { out: 0 }));
    while bench.stepped.turn_worker(urgent) {
        bench.device.step(bench.time.now_ns());
    }
    let hint = Hint {
        cpu: Some(0),
        client: 2,
        class: class(Priority::Low),
    };
    bench.submit(Op::Read, hint, 7);
    let end_ns = bench.time.now_ns() + 1_000_000_000;
    while bench.sink.of(7).is_none() && bench.time.now_ns() < end_ns {
        let mut worked = bench.stepped.turn_admin();
        for number in 0..4 {
            worked |= bench.stepped.turn_worker(number);
        }
        bench.step_device(worked);
    }
    assert_eq!(bench.sink.of(7), Some(Ok(())));
}

#[cfg(feature = "multi-queue")]
#[test]
fn queues_have_no_classes_where_one_was_taken_before() {
    let config = Config {
        num_queues: 5,
        scheduler: SchedulerKind::Priority,
        ..Config::default()
    };
    for (taken, wanted) in [(0, [0, 1, 2, 3]), (1, [0; 4])] {
        let bench = Bench::without(taken, "size=1MiB,wrr=on,queues=5", &config);
        let queues = Priority::ALL.map(|priority| bench.driver.queue_for(priority, 0));
        assert_eq!(queues, wanted, "without the first {taken}");
    }
}

#[test]
fn what_waits_is_not_for_a_namespace_that_comes_back_with_other_blocks() {
    for scheduler in [SchedulerKind::None, SchedulerKind::Priority] {
        // One command at a time: the second write waits.
        let config = Config {
            num_queues: 1,
            queue_depth: 2,
            scheduler,
            scheduler_window: 1,
            ..Config::default()
        };
        let mut bench = Bench::new("size=1MiB,lba=4096,channels=1,latency=100us", &config);
        let mut worker = bench.stepped.take_worker(0).unwrap();
        for tag in 0..2 {
            bench.submit(Op::Write { fua: false }, Hint::default(), tag);
        }
        worker.turn(&bench.clock());
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.nsze = 2048.into();
        identify.lbaf[0] = LbaFormat {
            ms: 0.into(),
            lbads: 9,
            rp: 0,
        };
        let identify = Box::new(identify.as_bytes().try_into().unwrap());
        worker
            .namespaces
            .update(vec![Namespace::new(1, identify, 1 << 20)]);
        while bench.sink.of(0).is_none() || bench.sink.of(1).is_none() {
            let turn = worker.turn(&bench.clock());
            bench.step_device(turn == Turn::Worked);
        }
        let answers = [bench.sink.of(0), bench.sink.of(1)];
        let wanted = [Some(Ok(())), Some(Err(IoError::NoNamespace))];
        assert_eq!(answers, wanted, "{scheduler}");
    }
}

#[test]
fn a_request_that_a_retiring_backlog_refuses_to_take_does_not_keep_the_worker_awake() {
    let config = Config {
        num_queues: 1,
        queue_depth: 8,
        scheduler: SchedulerKind::Priority,
        ..Config::default()
    };
    let mut bench = Bench::new("size=1MiB,latency=1s", &config);
    let mut worker = bench.stepped.take_worker(0).unwrap();
    let clock = bench.clock();
    for tag in 0..200 {
        bench.submit(Op::Flush, Hint::default(), tag);
    }
    while worker.turn(&clock) == Turn::Worked {}
    bench.driver.set_scheduler(SchedulerKind::None);
    while worker.turn(&clock) == Turn::Worked {}
    bench.submit(Op::Flush, Hint::default(), 200);
    assert!(matches!(worker.turn(&clock), Turn::Idle { .. }));
    assert!(worker.has_backlog() && worker.queue.room() > 0 && !worker.has_news());
    // A worker whose backlog takes what comes wakes for it.
    bench.driver.set_scheduler(SchedulerKind::Priority);
    while worker.turn(&clock) == Turn::Worked {}
    bench.submit(Op::Flush, Hint::default(), 201);
    assert!(worker.has_news());
}

/// Reads once, and always has something to do.
#[derive(Default)]
struct Busy {
    has_read: bool,
}

impl Load for Busy {
    fn turn(&mut self, now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        if !std::mem::replace(&mut self.has_read, true) {
            assert!(port.submit(request(Op::Read, now_ns, 0)).is_ok());
        }
        LoadState::Worked
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {}
}

#[test]
fn a_worker_that_drains_sleeps_whatever_its_loads_said_before() {
    let config = Config {
        num_queues: 1,
        ..Config::default()
    };
    let mut bench = Bench::new("size=1MiB,latency=1s", &config);
    let mut worker = bench.stepped.take_worker(0).unwrap();
    worker.shared().attach(Box::new(Busy::default()));
    for _ in 0..3 {
        assert_eq!(worker.turn(&bench.clock()), Turn::Worked);
    }
    worker.shared().give_drain();
    assert!(matches!(worker.turn(&bench.clock()), Turn::Idle { .. }));
}

#[test]
fn late_commands_leave_room_for_failed_ones_in_the_recorder() {
    let own = Class {
        deadline_us: std::num::NonZeroU32::new(1),
        ..class(Priority::Urgent)
    };
    for (class, wanted) in [(own, 1), (class(Priority::Urgent), 0)] {
        let config = Config {
            num_queues: 1,
            scheduler: SchedulerKind::Deadline,
            ..Config::default()
        };
        let mut bench = Bench::new("size=1MiB,channels=8,latency=1ms", &config);
        let hint = Hint {
            class,
            ..Hint::default()
        };
        for tag in 0..8 {
            bench.submit(Op::Read, hint, tag);
        }
        while bench.stepped.turn_worker(0) {}
        let end_ns = bench.time.now_ns() + 5_000_000;
        while bench.time.now_ns() < end_ns {
            bench.step_device(false);
        }
        bench.stepped.turn_worker(0);
        assert!((0..8).all(|tag| bench.sink.of(tag) == Some(Ok(()))));
        assert_eq!(bench.driver.slow_commands().len(), wanted, "{class:?}");
    }
}
