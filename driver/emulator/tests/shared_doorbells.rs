//! Doorbells that ring without a sound: the host stores to memory, and the device looks.

mod common;

use common::Host;
use nvme_spec::{Cc, Csts, command, register};

fn comes_up_and_keeps_data(mut host: Host) {
    host.enable();
    host.create_queue(1, 8, 1);
    for block in 0..100u8 {
        host.write_blocks(1, 1, block.into(), &[block; 4096]);
    }
    for block in 0..100u8 {
        assert_eq!(host.read_blocks(1, 1, block.into(), 1), vec![block; 4096]);
    }
}

#[test]
fn a_device_that_is_stepped_finds_what_was_rung() {
    comes_up_and_keeps_data(Host::with_shared_doorbells("size=1MiB"));
}

#[test]
fn doorbells_lie_apart_as_the_stride_says() {
    comes_up_and_keeps_data(Host::with_shared_doorbells("size=1MiB,dstrd=3"));
}

#[test]
fn a_device_on_threads_wakes_up_by_itself() {
    // It sleeps whenever there is nothing to do: every ring has to be found by a look.
    let mut host = Host::with_shared_doorbells("size=1MiB,spin=0us,threads=3");
    let _running = host.run_threads();
    for round in 0..20u8 {
        host.enable();
        for qid in 1..=6 {
            host.create_queue(qid, 8, 1);
            host.write_blocks(qid, 1, qid.into(), &[round; 4096]);
        }
        for qid in 1..=6 {
            assert_eq!(host.read_blocks(qid, 1, qid.into(), 1), vec![round; 4096]);
        }
        host.disable();
    }
}

#[test]
fn registers_ring_too() {
    let mut host = Host::with_shared_doorbells("");
    host.enable();
    let cid = host.put(0, command::abort(9, 9));
    host.device
        .registers()
        .write32(register::DOORBELLS, host.queues[&0].tail);
    host.step();
    assert_eq!(host.reap(0).first().map(|entry| entry.cid), Some(cid));
}

#[test]
fn a_queue_begins_at_zero_whatever_was_rung_before_it_was_there() {
    let mut host = Host::with_shared_doorbells("");
    host.enable();
    host.create_queue(1, 8, 1);
    host.write_blocks(1, 1, 0, &[1; 4096]);
    host.disable();
    host.enable();
    host.create_queue(1, 8, 1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), vec![1; 4096]);
    assert_eq!(host.device.counters().invalid_doorbell_values, 0);
}

#[test]
fn a_function_that_is_reset_is_as_new_but_for_its_data() {
    for mut host in [Host::new("size=1MiB"), Host::with_shared_doorbells("size=1MiB")] {
        host.enable();
        host.create_queue(1, 8, 1);
        host.write_blocks(1, 1, 3, &[7; 4096]);
        host.submit(1, command::flush(1));
        host.device.reset_function(host.now_ns);
        let registers = host.device.registers();
        assert_eq!(host.csts(), Csts::new());
        assert_eq!(Cc::from(registers.read32(register::CC)), Cc::new());
        assert_eq!(
            (registers.read32(register::AQA), registers.read64(register::ASQ)),
            (0, 0)
        );
        assert!(!host.step().worked, "nothing is left to be done");
        assert!(host.peek(1).is_empty());
        host.enable();
        host.create_queue(1, 8, 1);
        assert_eq!(host.read_blocks(1, 1, 3, 1), vec![7; 4096]);
        assert_eq!(host.device.counters().resets, 1);
    }
}
