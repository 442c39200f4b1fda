//! A controller that fails while it works: everything is answered, nothing hangs.

use std::sync::Arc;

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::Clock;
use nvme_driver::controller::Opening;
use nvme_driver::driver::Hint;
use nvme_driver::worker::Answer;
use nvme_driver::{Buffer, Config, Controller, Driver, Error, IoError, Op, Request};
use nvme_emulator::{Action, Emulator, Fault};
use nvme_spec::identify::Cns;
use nvme_spec::log::LogId;
use nvme_spec::{AdminOpcode, command};
use nvme_tests::{Answers, Rig, admin};

fn send(driver: &Driver, answers: &Answers, requests: u64) {
    let sink = answers.sink();
    for tag in 0..requests {
        let request = Request {
            op: Op::Read,
            nsid: 1,
            slba: tag,
            blocks: 1,
            buffer: Buffer::heap(vec![0; 4096]),
            arrived_ns: 0,
            context: Answers::remote(&sink, tag),
        };
        driver.submit(
            Hint {
                cpu: Some(tag as u32),
                client: tag,
                ..Hint::default()
            },
            request,
        );
    }
}

/// With commands out that never come back, the controller fails; each request is answered as lost.
fn all_are_answered_when(fail: impl FnOnce(&Emulator)) {
    let rig = Rig::new(
        "size=1MiB,latency=600s,channels=0",
        &Config {
            num_queues: 2,
            ..Config::default()
        },
    );
    let answers = Answers::default();
    send(&rig.driver, &answers, 100);
    fail(&rig.device);
    for _ in 0..100 {
        assert_eq!(answers.next().1.result, Err(IoError::Lost));
    }
    // And so is whatever comes later.
    send(&rig.driver, &answers, 3);
    for _ in 0..3 {
        assert_eq!(answers.next().1.result, Err(IoError::Lost));
    }
    let identify = command::identify(Cns::CONTROLLER, 0, 0);
    let answer = admin(
        &rig.driver,
        identify,
        nvme_driver::admin::AdminData::FromDevice(4096),
    );
    assert_eq!(answer, Err(IoError::Lost));
    let stats = rig.driver.stats(true);
    assert_eq!(stats.controller.state, "failed");
    assert!(stats.events.last_reset_reason.is_some());
    #[cfg(feature = "performance-counters")]
    stats.check().unwrap();
    rig.driver.shutdown().unwrap();
    assert!(answers.try_next().is_none(), "nothing is answered twice");
}

#[test]
fn the_controller_reports_a_fatal_error() {
    all_are_answered_when(Emulator::fail);
}

#[test]
fn the_controller_vanishes() {
    all_are_answered_when(Emulator::vanish);
}

#[test]
fn after_shutdown_everything_is_refused() {
    let rig = Rig::new("size=1MiB", &Config::default());
    let answers = Answers::default();
    send(&rig.driver, &answers, 64);
    rig.driver.shutdown().unwrap();
    // What was out before was done.
    for _ in 0..64 {
        assert!(matches!(answers.next().1.result, Ok(()) | Err(IoError::Stopped)));
    }
    send(&rig.driver, &answers, 1);
    assert_eq!(answers.next().1.result, Err(IoError::Stopped));
    let identify = command::identify(Cns::CONTROLLER, 0, 0);
    let answer = admin(
        &rig.driver,
        identify,
        nvme_driver::admin::AdminData::FromDevice(4096),
    );
    assert_eq!(answer, Err(IoError::Stopped));
    assert_eq!(rig.driver.stats(true).controller.state, "down");
}

#[test]
fn a_shutdown_that_the_controller_may_take_minutes_for_is_no_trouble() {
    // CAP.TO at its largest, and an RTD3E below it.
    let rig = Rig::new(
        "size=1MiB,timeout=127500ms,shutdown-delay=1ms",
        &Config::default(),
    );
    rig.driver.shutdown().unwrap();
    assert_eq!(rig.driver.stats(false).controller.state, "down");
}

#[test]
fn an_admin_command_that_hangs_does_not_keep_the_driver_from_stopping() {
    let mut device: nvme_emulator::Config = "size=1MiB".parse().unwrap();
    device.timeout_500ms = 1;
    let rig = Rig::with_device(device, &Config::default(), |_| ()).unwrap();
    rig.device
        .faults()
        .add(Fault::on_admin(AdminOpcode::GET_LOG_PAGE, Action::Drop));
    let (sender, receiver) = std::sync::mpsc::channel();
    let driver = rig.driver.clone();
    let waiting = std::thread::spawn(move || {
        let log = command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
        sender.send(()).unwrap();
        admin(&driver, log, nvme_driver::admin::AdminData::FromDevice(512))
    });
    receiver.recv().unwrap();
    // Whether the command was taken before or is refused: it is answered, and the driver ends.
    rig.driver.shutdown().unwrap();
    assert_eq!(waiting.join().unwrap(), Err(IoError::Stopped));
}

/// Panics at its first answer, as a client's own error might.
struct Faulty;

impl Answer for Faulty {
    fn answer(&self, _tag: u64, _finished: nvme_driver::Finished<()>) {
        panic!("a client's own error");
    }
}

#[test]
fn a_client_that_panics_takes_nobody_with_it_for_ever() {
    let rig = Rig::new(
        "size=1MiB",
        &Config {
            num_queues: 1,
            ..Config::default()
        },
    );
    let faulty: Arc<dyn Answer> = Arc::new(Faulty);
    let buffer = Buffer::heap(vec![0; 4096]);
    let context = Answers::remote(&faulty, 0);
    rig.driver.submit(
        Hint::default(),
        Request {
            op: Op::Read,
            nsid: 1,
            slba: 0,
            blocks: 1,
            buffer,
            arrived_ns: 0,
            context,
        },
    );
    while rig.driver.stats(false).controller.state == "ready" {
        std::thread::yield_now();
    }
    let answers = Answers::default();
    send(&rig.driver, &answers, 10);
    for _ in 0..10 {
        assert_eq!(answers.next().1.result, Err(IoError::Lost));
    }
    rig.driver.shutdown().unwrap();
}

#[test]
fn a_driver_without_a_queue_is_refused() {
    let clock = Clock::system();
    let backend = EmulatedBackend::start("size=1MiB".parse().unwrap(), clock.clone()).unwrap();
    let mut controller = Controller::open(Arc::new(backend), &Config::default(), clock).unwrap();
    while controller.take_queue::<()>().is_some() {}
    assert!(matches!(
        Driver::start(controller),
        Err(Error::Unsupported { .. })
    ));
}

#[test]
fn a_bring_up_that_is_given_up_leaves_the_controller_disabled() {
    let clock = Clock::system();
    let backend = EmulatedBackend::start("size=1MiB".parse().unwrap(), clock.clone()).unwrap();
    let device = Arc::clone(backend.device());
    let mut opening = Opening::new(Arc::new(backend), &Config::default(), clock).unwrap();
    let rdy = || device.registers().read32(nvme_spec::register::CSTS) & 1;
    while rdy() == 0 {
        assert!(!opening.turn().unwrap());
    }
    drop(opening);
    assert_eq!(rdy(), 0);
    // And one that is opened and dropped with a queue in use.
    let clock = Clock::system();
    let backend = EmulatedBackend::start("size=1MiB".parse().unwrap(), clock.clone()).unwrap();
    let device = Arc::clone(backend.device());
    let mut controller = Controller::open(Arc::new(backend), &Config::default(), clock).unwrap();
    let queue = controller.take_queue::<()>().unwrap();
    drop(controller);
    assert_eq!(device.registers().read32(nvme_spec::register::CSTS) & 1, 0);
    drop(queue);
}
