//! A controller that fails while it works: everything is answered, nothing hangs.

use nvme_driver::driver::Hint;
use nvme_driver::{Buffer, Config, Driver, IoError, Op, Request};
use nvme_emulator::Emulator;
use nvme_spec::command;
use nvme_spec::identify::Cns;
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
