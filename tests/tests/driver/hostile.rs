//! Completions that fit no command: counted, and nobody is harmed.

use nvme_driver::driver::Hint;
use nvme_driver::{Buffer, Config, IoError, Op, Request};
use nvme_emulator::{Action, Fault, QueueMatch};
use nvme_spec::{NvmOpcode, Status};
use nvme_tests::{Answers, Rig};

fn rig() -> Rig {
    Rig::new(
        "size=1MiB,lba=512",
        &Config {
            num_queues: 1,
            ..Config::default()
        },
    )
}

/// Reads block after block while `fault` strikes; every read is answered with its own data.
fn reads_are_right_under(rig: &Rig, fault: Option<Fault>, reads: u64) {
    let answers = Answers::default();
    let sink = answers.sink();
    let send = |op, slba: u64, byte: u8| {
        let buffer = Buffer::heap(vec![byte; 512]);
        let context = Answers::remote(&sink, slba);
        rig.driver.submit(
            Hint::default(),
            Request {
                op,
                nsid: 1,
                slba,
                blocks: 1,
                buffer,
                arrived_ns: 0,
                context,
            },
        );
    };
    for slba in 0..reads {
        send(Op::Write { fua: false }, slba, slba as u8 ^ 0x55);
    }
    for _ in 0..reads {
        assert_eq!(answers.next().1.result, Ok(()));
    }
    let fault = fault.map(|fault| rig.device.faults().add(fault));
    for slba in 0..reads {
        send(Op::Read, slba, 0);
    }
    let mut seen = vec![0; reads as usize];
    for _ in 0..reads {
        let (tag, finished) = answers.next();
        assert_eq!(finished.result, Ok(()));
        assert!(
            finished
                .buffer
                .as_slice()
                .iter()
                .all(|byte| *byte == tag as u8 ^ 0x55),
            "block {tag}"
        );
        seen[tag as usize] += 1;
    }
    assert!(seen.iter().all(|count| *count == 1), "each is answered once");
    if let Some(fault) = fault {
        assert!(rig.device.faults().hits(fault) > 0);
        rig.device.faults().clear();
    }
}

#[cfg(feature = "performance-counters")]
fn rejected(rig: &Rig) -> stats_proto::stats::Rejected {
    rig.driver.stats(false).queues[1]
        .counters
        .clone()
        .unwrap()
        .rejected
}

#[test]
fn a_completion_that_comes_twice() {
    let rig = rig();
    reads_are_right_under(
        &rig,
        Some(Fault::on_opcode(NvmOpcode::READ, Action::Duplicate).times(20)),
        100,
    );
    #[cfg(feature = "performance-counters")]
    {
        let rejected = rejected(&rig);
        // Which of the two the second one looks like depends on whether the slot is in use again.
        assert_eq!(rejected.duplicate_cid + rejected.stale_cid, 20, "{rejected:?}");
        assert_eq!(rejected.unknown_cid, 0);
    }
    reads_are_right_under(&rig, None, 50);
}

#[test]
fn completions_for_commands_that_nobody_sent() {
    let rig = rig();
    for cid in [0xFFFF, 0x03FF, 0x8000] {
        let extra = Action::ExtraCompletion {
            cid,
            status: Status::SUCCESS,
        };
        reads_are_right_under(&rig, Some(Fault::on_opcode(NvmOpcode::READ, extra).times(5)), 60);
    }
    #[cfg(feature = "performance-counters")]
    {
        let rejected = rejected(&rig);
        let all = rejected.unknown_cid + rejected.stale_cid + rejected.duplicate_cid;
        assert_eq!(all, 15, "{rejected:?}");
    }
}

#[test]
fn a_head_pointer_or_a_queue_number_that_cannot_be() {
    let rig = rig();
    let beyond = Fault::on_opcode(NvmOpcode::READ, Action::Sqhd(0xFFFF)).times(7);
    reads_are_right_under(&rig, Some(beyond), 60);
    #[cfg(feature = "performance-counters")]
    assert_eq!(rejected(&rig).bad_sqhd, 7);
}

#[test]
fn interrupts_without_completions_and_completions_without_interrupts() {
    let config = Config {
        num_queues: 1,
        ..Config::default()
    };
    let rig = Rig::new("size=1MiB,lba=512", &config);
    let spurious = Fault::on_opcode(NvmOpcode::READ, Action::SpuriousInterrupt);
    reads_are_right_under(&rig, Some(spurious), 60);
}

#[test]
fn statuses_are_kept_and_counted_under_their_names() {
    let rig = rig();
    let answers = Answers::default();
    let sink = answers.sink();
    let unknown = Status::new(7, 0x42);
    let statuses = [
        Status::UNRECOVERED_READ_ERROR.with_dnr(true),
        Status::LBA_OUT_OF_RANGE,
        unknown,
    ];
    for status in statuses {
        rig.device.faults().clear();
        rig.device
            .faults()
            .add(Fault::new(Action::Fail(status)).queue(QueueMatch::Io));
        let context = Answers::remote(&sink, 0);
        let buffer = Buffer::heap(vec![9; 512]);
        let request = Request {
            op: Op::Read,
            nsid: 1,
            slba: 0,
            blocks: 1,
            buffer,
            arrived_ns: 0,
            context,
        };
        rig.driver.submit(Hint::default(), request);
        let (_, finished) = answers.next();
        match finished.result {
            Err(IoError::Status(seen)) => {
                assert_eq!((seen.code(), seen.dnr()), (status.code(), status.dnr()))
            }
            other => panic!("{other:?}"),
        }
    }
    #[cfg(feature = "performance-counters")]
    {
        let counters = rig.driver.stats(false).queues[1].counters.clone().unwrap();
        assert_eq!(counters.completed_error, 3);
        let names: Vec<&str> = counters.errors_by_status.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["LBA Out of Range", "Unrecovered Read Error", "sct 7 sc 66"]
        );
    }
}
