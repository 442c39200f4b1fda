//! Bad controllers: the driver comes up, or says why not, in bounded time.

use nvme_driver::driver::Hint;
use nvme_driver::namespace::NamespaceState;
use nvme_driver::{Buffer, Config, Error, Op, Request};
use nvme_emulator::{Action, Emulator, Fault, Ready};
use nvme_spec::feature::FeatureId;
use nvme_spec::{AdminOpcode, Status};
use nvme_tests::{Answers, Rig};

/// A device that is ready at once or not at all, so that a bounded wait is a short one.
fn device(spec: &str) -> nvme_emulator::Config {
    let mut device: nvme_emulator::Config = spec.parse().unwrap();
    device.timeout_500ms = 1;
    device
}

fn open(spec: &str, prepare: impl FnOnce(&Emulator)) -> Result<Rig, Error> {
    Rig::with_device(
        device(spec),
        &Config {
            num_queues: 4,
            ..Config::default()
        },
        prepare,
    )
}

fn refused(prepare: impl FnOnce(&Emulator)) -> Error {
    match open("size=1MiB", prepare) {
        Ok(_) => panic!("the driver came up"),
        Err(error) => {
            assert!(
                error.to_string().len() > 30,
                "an error says what, why and what to do: {error}"
            );
            error
        }
    }
}

/// Puts bytes into what Identify says.
fn identify_says(cns: u8, offset_bytes: u64, bytes: &[u8]) -> Fault {
    Fault::on_identify(
        cns,
        Action::Corrupt {
            offset_bytes,
            bytes: bytes.to_vec(),
        },
    )
}

/// It is up, and reads and writes.
fn works(rig: &Rig) {
    let answers = Answers::default();
    let sink = answers.sink();
    let mut data = vec![0xA5; 64 << 10];
    for op in [Op::Write { fua: false }, Op::Read] {
        let request = Request {
            op,
            nsid: rig.driver.namespaces()[0].nsid,
            slba: 3,
            blocks: 16,
            buffer: Buffer::heap(std::mem::take(&mut data)),
            arrived_ns: 0,
            context: Answers::remote(&sink, 1),
        };
        rig.driver.submit(Hint::default(), request);
        let (_, finished) = answers.next();
        assert_eq!(finished.result, Ok(()));
        data = finished.buffer.as_slice().to_vec();
        assert!(data.iter().all(|byte| *byte == 0xA5));
        data.fill(if op == Op::Read { 0 } else { 0xA5 });
    }
}

#[test]
fn a_healthy_controller_comes_up_twice() {
    let rig = open("size=1MiB", |_| ()).unwrap();
    works(&rig);
    rig.driver.shutdown().unwrap();
    let again = rig.driver.shutdown();
    assert_eq!(again, Ok(()), "a second shutdown is the first");
}

#[test]
fn a_controller_that_never_gets_ready() {
    let mut config = device("size=1MiB");
    config.ready = Ready::Never;
    let error = Rig::with_device(config, &Config::default(), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::NotReady { wanted: "ready", .. }),
        "{error}"
    );
}

#[test]
fn a_controller_that_fails_when_it_is_enabled() {
    let mut config = device("size=1MiB");
    config.ready = Ready::CfsOnEnable;
    let error = Rig::with_device(config, &Config::default(), |_| ())
        .err()
        .unwrap();
    assert!(matches!(error, Error::Fatal { .. }), "{error}");
}

#[test]
fn a_controller_that_is_not_there() {
    assert_eq!(refused(Emulator::vanish), Error::Absent);
}

#[test]
fn a_controller_that_vanishes_or_fails_on_the_way() {
    for opcode in [
        AdminOpcode::IDENTIFY,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::CREATE_IO_SQ,
    ] {
        let error = refused(|device| {
            device.faults().add(Fault::on_admin(opcode, Action::Vanish));
        });
        assert_eq!(error, Error::Absent);
        let error = refused(|device| {
            device.faults().add(Fault::on_admin(opcode, Action::FatalStatus));
        });
        assert!(matches!(error, Error::Fatal { .. }), "{error}");
    }
}

#[test]
fn an_admin_command_that_is_not_answered() {
    for (opcode, name) in [
        (AdminOpcode::IDENTIFY, "Identify Controller"),
        (AdminOpcode::SET_FEATURES, "Set Features, Number of Queues"),
        (AdminOpcode::CREATE_IO_CQ, "Create I/O Completion Queue"),
    ] {
        let error = refused(|device| {
            device.faults().add(Fault::on_admin(opcode, Action::Drop));
        });
        assert!(
            matches!(error, Error::AdminTimeout { command, .. } if command == name),
            "{error}"
        );
    }
}

#[test]
fn an_admin_command_that_is_refused() {
    for opcode in [
        AdminOpcode::IDENTIFY,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::CREATE_IO_SQ,
    ] {
        let error = refused(|device| {
            device
                .faults()
                .add(Fault::on_admin(opcode, Action::Fail(Status::INTERNAL_ERROR)));
        });
        assert!(
            matches!(error, Error::Admin { status, .. } if status.is(Status::INTERNAL_ERROR)),
            "{error}"
        );
    }
}

#[test]
fn fewer_queues_than_asked_are_normal() {
    let rig = open("size=1MiB,queues=1", |_| ()).unwrap();
    assert_eq!(rig.driver.queues(), 1);
    works(&rig);
    // The controller grants four and makes two.
    for opcode in [AdminOpcode::CREATE_IO_CQ, AdminOpcode::CREATE_IO_SQ] {
        let rig = open("size=1MiB", |device| {
            let full = Action::Fail(Status::INVALID_QUEUE_IDENTIFIER);
            device.faults().add(Fault::on_admin(opcode, full).skip(2));
        })
        .unwrap();
        assert_eq!(rig.driver.queues(), 2);
        works(&rig);
        rig.driver.shutdown().unwrap();
    }
}

#[test]
fn queues_of_two_entries_work_and_of_one_are_refused() {
    let rig = open("size=1MiB,depth=2", |_| ()).unwrap();
    works(&rig);
    let mut config = device("size=1MiB");
    config.depth_entries = 1;
    let error = Rig::with_device(config, &Config::default(), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, Error::Unsupported { what } if what.contains("CAP.MQES")),
        "{error}"
    );
}

#[test]
fn one_vector_for_all_queues_works() {
    let rig = open("size=1MiB,vectors=1", |_| ()).unwrap();
    works(&rig);
}

#[test]
fn a_controller_with_other_entry_sizes_or_of_another_kind_is_refused() {
    for (offset, bytes, word) in [
        (512, &[0x77_u8][..], "SQES"),
        (513, &[0x00], "CQES"),
        (111, &[2], "discovery"),
        (111, &[3], "administrative"),
    ] {
        let error = refused(|device| {
            device.faults().add(identify_says(1, offset, bytes));
        });
        assert!(
            matches!(&error, Error::Unsupported { what } if what.contains(word)),
            "{error}"
        );
    }
}

#[test]
fn an_absurd_transfer_limit_does_no_harm() {
    for mdts in [0_u8, 1, 31, 63, 64, 255] {
        let rig = open("size=1MiB", |device| {
            device.faults().add(identify_says(1, 77, &[mdts]));
        })
        .unwrap();
        works(&rig);
    }
}

#[test]
fn text_that_is_no_text_is_shown_without_harm() {
    let rig = open("size=1MiB", |device| {
        device
            .faults()
            .add(identify_says(1, 4, &[0xFF, 0x1B, b'[', 0, 7, b'\n', b'x']));
    })
    .unwrap();
    let serial = &rig.driver.identity().serial;
    assert!(
        serial.chars().all(|c| c == ' ' || c.is_ascii_graphic()),
        "{serial:?}"
    );
}

#[test]
fn an_absurd_namespace_is_there_and_says_so() {
    for (offset, bytes, word) in [
        (0, &[0_u8; 8][..], "NSZE"),
        (0, &[0xFF; 8], "cannot be"),
        (26, &[0x6F], "FLBAS"),
        (128, &[0, 0, 40, 0, 0, 0, 40, 0], "LBADS"),
        (128, &[8, 0, 12, 0, 8, 0, 12, 0], "metadata"),
        (29, &[1], "protection"),
    ] {
        let rig = open("size=1MiB,namespaces=2", |device| {
            device.faults().add(identify_says(0, offset, bytes).nsid(1));
        })
        .unwrap();
        let namespaces = rig.driver.namespaces();
        match &namespaces[0].state {
            NamespaceState::Unusable(why) => assert!(why.contains(word), "{why}"),
            NamespaceState::Usable => panic!("{word}"),
        }
        assert!(namespaces[1].is_usable(), "the other one is as before");
    }
}

#[test]
fn a_namespace_list_that_does_not_end_or_does_not_ascend() {
    // All ones as a page: one number that is not above the last ends the list.
    let rig = open("size=1MiB", |device| {
        device
            .faults()
            .add(identify_says(2, 0, &[0x01, 0, 0, 0].repeat(1024)));
    })
    .unwrap();
    assert_eq!(rig.driver.namespaces().len(), 1);
    works(&rig);
    let ascending: Vec<u8> = (1..=1024_u32).flat_map(u32::to_le_bytes).collect();
    let rig = open("size=1MiB", |device| {
        device.faults().add(identify_says(2, 0, &ascending));
    })
    .unwrap();
    assert!(
        rig.driver
            .namespaces()
            .iter()
            .filter(|namespace| namespace.is_usable())
            .count()
            == 1
    );
}

#[test]
fn a_controller_without_the_list_of_namespaces_is_looked_through() {
    let rig = open("size=1MiB,namespaces=3", |device| {
        device
            .faults()
            .add(Fault::on_identify(2, Action::Fail(Status::INVALID_FIELD)));
    })
    .unwrap();
    let nsids: Vec<u32> = rig
        .driver
        .namespaces()
        .iter()
        .map(|namespace| namespace.nsid)
        .collect();
    assert_eq!(nsids, [1, 2, 3]);
    works(&rig);
}

#[test]
fn more_queues_granted_than_asked_are_not_taken() {
    let rig = open("size=1MiB,queues=64", |device| {
        // The answer to Set Features is not data; a controller that grants all that can be is one that says nothing.
        device.faults().add(Fault::on_set_features(
            FeatureId::NUMBER_OF_QUEUES.0,
            Action::Fail(Status::SUCCESS),
        ));
    })
    .unwrap();
    assert!(rig.driver.queues() >= 1 && rig.driver.queues() <= 4);
    works(&rig);
}
