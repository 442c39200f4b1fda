//! Events of an emulated controller that is stepped by hand, and answers that no controller should give.

use std::sync::Arc;

use nvme_spec::log::LogId;
use nvme_spec::{CompletionEntry, Status};

use super::*;
use crate::Config;
use crate::backend::emulated::EmulatedBackend;
use crate::clock::{Clock, ManualClock};
use crate::controller::{Controller, Opening};
use crate::driver::{Driver, Stepped};

struct Bench {
    clock: ManualClock,
    device: Arc<nvme_emulator::Emulator>,
    driver: Driver,
    stepped: Stepped,
}

fn bench(spec: &str) -> Bench {
    bench_with(spec, |_| {})
}

/// With something that happens between the start and the driver's first turn.
fn bench_with(spec: &str, meanwhile: impl FnOnce(&nvme_emulator::Emulator)) -> Bench {
    let clock = ManualClock::new(1);
    let backend = Arc::new(EmulatedBackend::stepped(spec.parse().unwrap()).unwrap());
    let device = Arc::clone(backend.device());
    let mut opening = Opening::new(backend, &Config::default(), Clock::manual(clock.clone())).unwrap();
    while !opening.turn().unwrap() {
        clock.set(clock.now_ns() + 1_000_000);
        device.step(Clock::manual(clock.clone()).now_ns());
    }
    let controller: Controller = opening.finish().unwrap();
    let (driver, stepped) = Driver::stepped(controller).unwrap();
    meanwhile(&device);
    let mut bench = Bench {
        clock,
        device,
        driver,
        stepped,
    };
    bench.settle();
    bench
}

impl Bench {
    fn advance(&self, by_ns: u64) {
        self.clock.set(self.clock.now_ns() + by_ns);
    }

    fn step(&mut self) -> bool {
        let now_ns = self.driver.clock().now_ns();
        self.stepped.turn_admin() | self.device.step(now_ns).worked
    }

    /// Until nobody has anything to do at this time.
    fn settle(&mut self) {
        while self.step() {}
    }

    fn events(&self) -> Vec<String> {
        let text = String::from_utf8(self.driver.events().since(0, usize::MAX).text).unwrap();
        let line = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let nsid = value.get("nsid").map(ToString::to_string).unwrap_or_default();
            format!("{}{nsid}", value["event"].as_str().unwrap())
        };
        text.lines().map(line).collect()
    }

    fn nsids(&self) -> Vec<u32> {
        self.driver
            .namespaces()
            .iter()
            .map(|namespace| namespace.nsid)
            .collect()
    }

    fn asked(&self, opcode: u8) -> u64 {
        let admin = self.device.counters().admin;
        admin
            .iter()
            .find(|count| count.opcode == opcode)
            .map_or(0, |count| count.fetched)
    }
}

#[test]
fn namespaces_come_go_and_change_while_the_driver_runs() {
    let mut bench = bench("size=1MiB,namespaces=2");
    bench.device.set_namespace_active(1, false).unwrap();
    bench.settle();
    assert_eq!(bench.nsids(), [2]);
    bench.device.set_namespace_active(1, true).unwrap();
    bench.device.resize_namespace(2, 10).unwrap();
    bench.settle();
    assert_eq!(bench.nsids(), [1, 2]);
    assert_eq!(bench.driver.namespaces()[1].blocks, 10);
    assert_eq!(
        bench.events(),
        [
            "driver_started",
            "asynchronous_event",
            "namespace_removed1",
            "asynchronous_event",
            "namespace_added1",
            "namespace_changed2",
        ]
    );
    let stats = bench.driver.stats(false);
    assert_eq!(stats.events.aer_by_type.get("notice"), Some(&2));
    // Null without the counters.
    if let Some(admin) = &stats.queues[0].counters {
        assert_eq!(admin.inflight, 0, "a request that waits is not out");
    }
}

/// The controller tells nobody of it, since nobody has asked yet.
#[test]
fn what_changes_before_the_driver_asks_to_be_told_is_seen_too() {
    let bench = bench_with("size=1MiB,namespaces=2", |device| {
        device.set_namespace_active(2, false).unwrap();
        device.resize_namespace(1, 10).unwrap();
    });
    assert_eq!(bench.nsids(), [1]);
    assert_eq!(bench.driver.namespaces()[0].blocks, 10);
    assert_eq!(
        bench.events(),
        ["driver_started", "namespace_removed2", "namespace_changed1"]
    );
}

#[test]
fn a_hot_device_is_told_of_and_its_log_read() {
    let mut bench = bench("size=1MiB");
    let at = bench.driver.clock().now_ns();
    bench.device.set_temperature(400, at);
    bench.settle();
    assert_eq!(bench.events()[1..], ["asynchronous_event"]);
    let health = bench.driver.stats(false).health.expect("health");
    assert_eq!(health.temperature_kelvin, Some(400), "as it is since the event");
}

#[test]
fn requests_that_wait_for_events_are_neither_late_nor_in_the_way_of_the_end() {
    let mut bench = bench("size=1MiB");
    bench.advance(2_000_000_000_000);
    bench.settle();
    assert_eq!(
        bench.events(),
        ["driver_started"],
        "nobody is given up for an event that did not come"
    );
    assert_eq!(bench.driver.slow_commands(), []);
    bench.driver.shutdown().unwrap();
    for _ in 0..10_000 {
        let workers = bench.stepped.workers();
        let worked = (0..workers).fold(false, |worked, worker| worked | bench.stepped.turn_worker(worker));
        if !worked && !bench.step() {
            break;
        }
        bench.advance(1_000_000);
    }
    assert_eq!(bench.events().last().map(String::as_str), Some("shutdown_done"));
}

#[test]
fn a_controller_that_reports_without_end_is_heard_so_often_in_a_second() {
    let mut bench = bench("size=1MiB,namespaces=1");
    let before = bench.asked(0x0C);
    for round in 0..200u32 {
        bench
            .device
            .resize_namespace(1, 1 + u64::from(round % 7))
            .unwrap();
        bench.settle();
    }
    let heard = bench
        .events()
        .iter()
        .filter(|event| *event == "asynchronous_event")
        .count();
    assert_eq!(heard, EVENTS_IN_WINDOW as usize);
    assert!(bench.asked(0x0C) - before <= u64::from(EVENTS_IN_WINDOW));
    bench.advance(WINDOW_NS);
    bench.settle();
    assert_eq!(
        bench.driver.namespaces()[0].blocks,
        1 + 199 % 7,
        "and what it has to say is heard in the end"
    );
}

fn finished(status: Status, dw0: u32, data: Vec<u8>) -> AdminFinished {
    let mut completion = CompletionEntry::new(0, 0, 0, 0, 0, status, false);
    completion.dw0 = dw0;
    AdminFinished { completion, data }
}

#[test]
fn answers_that_cannot_be_change_nothing() {
    let events = EventLog::new(Clock::manual(ManualClock::new(1)));
    let counts = EventCounts::default();
    let namespaces = NamespaceTable::new(Arc::new([]));
    let told = Told {
        events: &events,
        counts: &counts,
        namespaces: &namespaces,
    };
    let identity = crate::scheme::fake::identity([0; 4096], 4096);
    let mut notices = Notices::new(&identity);
    notices.due.clear();
    // A list that does not ascend ends where it stops ascending; one that is refused or short is none.
    let list: Vec<u8> = [5u32, 3, 9]
        .iter()
        .flat_map(|nsid| nsid.to_le_bytes())
        .chain([0; 4084])
        .collect();
    notices.take(
        Asked::Log(LogId::CHANGED_NAMESPACES),
        &finished(Status::SUCCESS, 0, Vec::new()),
        &told,
    );
    assert_eq!(notices.due.pop_front(), Some(Asked::Look(Look::FIRST)));
    notices.take(
        Asked::Look(Look::FIRST),
        &finished(Status::SUCCESS, 0, list),
        &told,
    );
    assert_eq!(notices.due.pop_front(), Some(Asked::Look(Look::Identify(0))));
    notices.take(
        Asked::Look(Look::Identify(0)),
        &finished(Status::SUCCESS, 0, vec![1; 17]),
        &told,
    );
    assert_eq!(namespaces.listed().len(), 1);
    assert!(!namespaces.listed()[0].is_usable());
    notices.take(
        Asked::Look(Look::Identify(7)),
        &finished(Status::INVALID_FIELD, 0, Vec::new()),
        &told,
    );
    notices.take(
        Asked::Look(Look::FIRST),
        &finished(Status::INVALID_FIELD, 0, Vec::new()),
        &told,
    );
    assert_eq!(notices.due, []);
    // Event requests that are refused are not sent again.
    notices.requests_out = 2;
    notices.take(
        Asked::Event,
        &finished(Status::INVALID_FIELD, 0, Vec::new()),
        &told,
    );
    assert_eq!((notices.requests, notices.requests_out), (1, 1));
    // Events of every kind there could be, each with a log page of any number.
    for dw0 in 0..=0xFF_FFFF_u32 {
        if dw0 % 4099 == 0 {
            notices.take(
                Asked::Event,
                &finished(Status::SUCCESS, dw0 << 8 | dw0 >> 16, Vec::new()),
                &told,
            );
        }
    }
    assert!(counts.by_type().all(|(name, _)| !name.is_empty()));
    assert!(notices.due.len() <= 256);
}
