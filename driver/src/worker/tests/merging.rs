//! Small requests for adjacent blocks under `deadline`.

use std::num::NonZeroU32;

use nvme_emulator::{Action, Fault};
use nvme_spec::{NvmOpcode, Status};

use super::steps::Bench;
use super::*;
use crate::driver::{Hint, Priority};

const BLOCK_BYTES: usize = 512;
/// Reads of a command each that go before what is to wait, with the earliest deadlines.
const PLUGS: u64 = 1_000_000;

/// One queue, one command at the device, and the rest waits.
fn bench(spec: &str) -> (Bench, Worker) {
    let config = Config {
        num_queues: 1,
        scheduler: SchedulerKind::Deadline,
        scheduler_window: 1,
        merge: true,
        ..Config::default()
    };
    let spec = format!("size=1MiB,lba=512,channels=1,latency=100us{spec}");
    let mut bench = Bench::new(&spec, &config);
    let worker = bench.stepped.take_worker(0).unwrap();
    (bench, worker)
}

fn pattern(block: u64) -> Vec<u8> {
    (0..BLOCK_BYTES as u64)
        .map(|byte| (block * 7 + byte % 251) as u8)
        .collect()
}

/// A request of class medium, due in `due_us`.
fn submit(bench: &Bench, op: Op, slba: u64, blocks: u64, buffer: Buffer, due_us: u32, tag: u64) {
    submit_as(bench, Priority::Medium, op, slba, blocks, buffer, due_us, tag);
}

#[allow(clippy::too_many_arguments)]
fn submit_as(
    bench: &Bench,
    priority: Priority,
    op: Op,
    slba: u64,
    blocks: u64,
    buffer: Buffer,
    due_us: u32,
    tag: u64,
) {
    let sink = Arc::clone(&bench.sink) as Arc<dyn Answer>;
    let class = Class {
        priority,
        deadline_us: NonZeroU32::new(due_us),
    };
    let hint = Hint {
        class,
        ..Hint::default()
    };
    let request = Request {
        op,
        nsid: 1,
        slba,
        blocks,
        buffer,
        arrived_ns: bench.time.now_ns(),
        context: Remote { sink, tag },
    };
    bench.driver.submit(hint, request);
}

/// Something that keeps the device busy until all else has come.
fn plug(bench: &Bench, worker: &mut Worker) {
    let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
    // A tag that no other has.
    let tag = PLUGS + bench.time.now_ns();
    submit(bench, Op::Read, 2000, 1, buffer, 1, tag);
    while worker.turn(&bench.clock()) == Turn::Worked {}
    assert_eq!(worker.queue.commands(), 1);
}

fn finish(bench: &Bench, worker: &mut Worker) {
    loop {
        let turn = worker.turn(&bench.clock());
        if worker.queue.inflight() == 0 && !worker.has_backlog() && !worker.has_news() {
            return;
        }
        bench.step_device(turn == Turn::Worked);
    }
}

/// I/O commands that the device has had. `merged` requests have gone with others' and there were `retries`, if that is counted.
#[track_caller]
fn commands(bench: &Bench, merged: u64, retries: u64) -> u64 {
    let stats = bench.driver.stats(false);
    let queue = stats.queues.iter().find(|queue| queue.qid == 1).unwrap();
    if let Some(counters) = &queue.counters {
        assert_eq!((counters.merged, counters.retries), (merged, retries));
    }
    bench
        .device
        .counters()
        .io
        .iter()
        .map(|opcode| opcode.fetched)
        .sum()
}

#[test]
fn adjacent_writes_and_reads_are_one_command_and_each_has_its_data() {
    let (bench, mut worker) = bench("");
    plug(&bench, &mut worker);
    // The first of them is due first; the others in any order, and one from somewhere else.
    let order = [8, 15, 9, 11, 10, 12, 14, 13, 100];
    for (due_us, block) in (10..).zip(order) {
        let buffer = Buffer::heap(pattern(block));
        submit(&bench, Op::Write { fua: false }, block, 1, buffer, due_us, block);
    }
    finish(&bench, &mut worker);
    for block in order {
        assert_eq!(bench.sink.of(block), Some(Ok(())), "block {block}");
    }
    assert_eq!(commands(&bench, 7, 0), 3);
    // Reads of one to three blocks, into buffers that are longer than need be.
    plug(&bench, &mut worker);
    for (due_us, (slba, blocks)) in (10..).zip([(8, 1), (9, 3), (12, 2), (14, 2)]) {
        let buffer = Buffer::heap(vec![0xEE; 5 * BLOCK_BYTES]);
        submit(&bench, Op::Read, slba, blocks, buffer, due_us, 1000 + slba);
    }
    finish(&bench, &mut worker);
    assert_eq!(commands(&bench, 10, 0), 5);
    for (slba, blocks) in [(8, 1), (9, 3), (12, 2), (14, 2)] {
        let mut wanted: Vec<u8> = (slba..slba + blocks).flat_map(pattern).collect();
        wanted.resize(5 * BLOCK_BYTES, 0xEE);
        assert_eq!(bench.sink.buffer_of(1000 + slba), wanted, "from block {slba}");
    }
}

#[test]
fn what_is_merged_is_alike_small_and_no_more_than_a_command_may_be() {
    const WRITE: Op = Op::Write { fua: false };
    for (first, second, merged, why) in [
        ((Op::Read, 1), (Op::Read, 1), 1, "reads"),
        ((Op::Read, 32), (Op::Read, 32), 1, "reads of 16 KiB"),
        (
            (Op::Read, 33),
            (Op::Read, 1),
            0,
            "one of more than 16 KiB, and another",
        ),
        (
            (Op::Read, 1),
            (Op::Read, 33),
            0,
            "one, and another of more than 16 KiB",
        ),
        ((WRITE, 1), (Op::Read, 1), 0, "a write and a read"),
        (
            (WRITE, 1),
            (Op::Write { fua: true }, 1),
            0,
            "only one of them is to be on the medium",
        ),
        ((Op::Verify, 1), (Op::Verify, 1), 0, "no data"),
        ((WRITE, 1), (WRITE, 1), 1, "writes of a block"),
        (
            (WRITE, 2),
            (WRITE, 1),
            0,
            "one that is to be written in one piece, if it can be",
        ),
        ((WRITE, 1), (WRITE, 2), 0, "the same the other way round"),
    ] {
        let (bench, mut worker) = bench("");
        plug(&bench, &mut worker);
        let mut slba = 64;
        for (tag, (op, blocks)) in (1..).zip([first, second]) {
            let buffer = Buffer::heap(vec![1; blocks as usize * BLOCK_BYTES]);
            submit(&bench, op, slba, blocks, buffer, 10 + tag as u32, tag);
            slba += blocks;
        }
        finish(&bench, &mut worker);
        assert_eq!([1, 2].map(|tag| bench.sink.of(tag)), [Some(Ok(())); 2], "{why}");
        assert_eq!(commands(&bench, merged, 0), 3 - merged, "{why}");
    }
    // 32 blocks of 2 KiB at most by MDTS, and 64 KiB at most.
    for (spec, wanted) in [(",mdts=8KiB", 1 + 10), ("", 1 + 2)] {
        let (bench, mut worker) = self::bench(spec);
        plug(&bench, &mut worker);
        for tag in 0..160 {
            let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
            submit(&bench, Op::Read, tag, 1, buffer, 10 + tag as u32, tag);
        }
        finish(&bench, &mut worker);
        assert_eq!(commands(&bench, 161 - wanted, 0), wanted, "{spec}");
    }
}

/// A block that cannot be read is not its neighbours' trouble.
#[test]
fn a_command_of_several_that_fails_is_done_again_for_each() {
    let (bench, mut worker) = bench("");
    plug(&bench, &mut worker);
    let fail = || Action::Fail(Status::UNRECOVERED_READ_ERROR);
    let faults = bench.device.faults();
    let merged = faults.add(Fault::on_opcode(NvmOpcode::READ, fail()).lba(20).once());
    let own = faults.add(Fault::on_opcode(NvmOpcode::READ, fail()).lba(22));
    for tag in 20..24 {
        let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
        submit(&bench, Op::Read, tag, 1, buffer, 10 + tag as u32, tag);
    }
    finish(&bench, &mut worker);
    let bad = Some(Err(IoError::Status(
        Status::UNRECOVERED_READ_ERROR.with_more(true),
    )));
    let good = Some(Ok(()));
    assert_eq!(
        [20, 21, 22, 23].map(|tag| bench.sink.of(tag)),
        [good, good, bad, good]
    );
    assert_eq!((faults.hits(merged), faults.hits(own)), (1, 1));
    assert_eq!(commands(&bench, 3, 4), 6);
    let shown: Vec<_> = bench
        .driver
        .slow_commands()
        .iter()
        .map(|command| (command.slba, command.blocks))
        .collect();
    assert!(
        shown.contains(&(Some(20), Some(4))) && shown.contains(&(Some(22), Some(1))),
        "{shown:?}"
    );
}

/// Those of a run that has failed are many, and have had their turn.
#[test]
fn a_run_that_fails_does_not_hold_up_who_is_urgent() {
    let (bench, mut worker) = bench("");
    plug(&bench, &mut worker);
    let fault = Fault::on_opcode(NvmOpcode::WRITE, Action::Fail(Status::WRITE_FAULT));
    bench.device.faults().add(fault);
    for tag in 0..64 {
        let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
        submit(&bench, Op::Write { fua: false }, tag, 1, buffer, 1000, tag);
    }
    while worker.queue.inflight() < 64 {
        let turn = worker.turn(&bench.clock());
        bench.step_device(turn == Turn::Worked);
    }
    let (buffer, asked_ns) = (Buffer::heap(vec![0; BLOCK_BYTES]), bench.time.now_ns());
    submit(&bench, Op::Read, 1000, 1, buffer, 1, 1000);
    while bench.sink.of(1000).is_none() {
        let turn = worker.turn(&bench.clock());
        bench.step_device(turn == Turn::Worked);
    }
    // That run, one request of it, and the read.
    let took_us = (bench.time.now_ns() - asked_ns) / 1000;
    assert!(took_us <= 400, "{took_us} us for a read of 100");
    finish(&bench, &mut worker);
    for tag in 0..64 {
        assert!(matches!(bench.sink.of(tag), Some(Err(IoError::Status(_)))));
    }
    assert_eq!(commands(&bench, 63, 64), 1 + 1 + 64 + 1);
}

#[test]
fn who_is_urgent_goes_alone() {
    let (bench, mut worker) = bench("");
    plug(&bench, &mut worker);
    for tag in 0..4 {
        let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
        let priority = if tag == 0 { Priority::Urgent } else { Priority::Low };
        submit_as(&bench, priority, Op::Read, tag, 1, buffer, 10 + tag as u32, tag);
    }
    finish(&bench, &mut worker);
    assert_eq!(commands(&bench, 2, 0), 1 + 1 + 1);
}

#[test]
fn what_is_merged_and_lost_is_answered_once() {
    for stopped in [false, true] {
        let (bench, mut worker) = bench("");
        plug(&bench, &mut worker);
        for tag in 0..8 {
            let buffer = Buffer::heap(vec![0; BLOCK_BYTES]);
            submit(&bench, Op::Read, tag, 1, buffer, 10, tag);
        }
        while worker.turn(&bench.clock()) == Turn::Worked || worker.queue.inflight() < 8 {
            bench.step_device(false);
        }
        assert_eq!((worker.queue.commands(), worker.queue.inflight()), (1, 8));
        let order = if stopped {
            Order::LostStopped
        } else {
            Order::LostRunning
        };
        worker.shared().give_order(order);
        assert_eq!(worker.turn(&bench.clock()), Turn::Ended);
        for tag in 0..8 {
            assert_eq!(bench.sink.of(tag), Some(Err(IoError::Lost)));
            // As of all that is with a device which nobody could stop.
            assert_eq!(bench.sink.buffer_of(tag).is_empty(), !stopped);
        }
        if !stopped {
            // The device may still write to what it was given.
            std::mem::forget(worker);
        }
    }
}
