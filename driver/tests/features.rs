//! What the driver's cargo features change, whichever are on.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::Clock;
use nvme_driver::driver::Hint;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Controller, Driver, Finished, Op, Request};

fn driver() -> Driver {
    let clock = Clock::system();
    let device = "size=1MiB,queues=4".parse().expect("a device");
    let backend = EmulatedBackend::start(device, clock.clone()).expect("starts");
    let config = Config {
        num_queues: 4,
        ..Config::default()
    };
    let controller = Controller::open(Arc::new(backend), &config, clock).expect("comes up");
    Driver::start(controller).expect("starts")
}

struct Sink(Mutex<Sender<Finished<()>>>);

impl Answer for Sink {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let _ = self.0.lock().expect("nobody panicked").send(finished);
    }
}

/// One block of 4096 bytes, written from and read into memory of this process.
fn write_and_read(driver: &Driver) {
    let (sender, answers) = channel();
    let sink = Arc::new(Sink(Mutex::new(sender)));
    for (op, byte) in [(Op::Write { fua: false }, 0x5A), (Op::Read, 0)] {
        let request = Request {
            op,
            nsid: 1,
            slba: 7,
            blocks: 1,
            buffer: Buffer::heap(vec![byte; 4096]),
            arrived_ns: driver.clock().now_ns(),
            context: Remote {
                sink: sink.clone(),
                tag: 0,
            },
        };
        driver.submit(Hint::default(), request);
        let finished = answers.recv().expect("an answer");
        assert_eq!(finished.result, Ok(()));
        assert!(finished.buffer.as_slice().iter().all(|byte| *byte == 0x5A));
    }
}

#[test]
fn the_statistics_name_what_is_on() {
    let on = [
        ("performance-counters", cfg!(feature = "performance-counters")),
        ("multi-queue", cfg!(feature = "multi-queue")),
        ("zero-copy", cfg!(feature = "zero-copy")),
        ("nvme-mi", cfg!(feature = "nvme-mi")),
        ("io-uring-compat", cfg!(feature = "io-uring-compat")),
    ];
    let on: Vec<_> = on.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    assert_eq!(driver().stats(false).driver.features, on);
}

#[test]
fn there_are_several_queues_or_one() {
    let wanted = if cfg!(feature = "multi-queue") { 4 } else { 1 };
    let driver = driver();
    assert_eq!(driver.queues(), wanted);
    write_and_read(&driver);
}

#[test]
#[cfg(feature = "performance-counters")]
fn data_is_moved_in_place_or_copied() {
    let driver = driver();
    write_and_read(&driver);
    let (mut copied, mut in_place) = (0, 0);
    for queue in driver.stats(false).queues.iter().skip(1) {
        let counters = queue.counters.as_ref().expect("they are on");
        copied += counters.bytes_copied;
        in_place += counters.bytes_zero_copy;
    }
    let wanted = if cfg!(feature = "zero-copy") {
        (0, 8192)
    } else {
        (8192, 0)
    };
    assert_eq!((copied, in_place), wanted);
}
