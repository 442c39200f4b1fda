//! What happens on the rings: order, fullness, doorbells, interrupts, aborts.

mod common;

use common::{Host, PAGE};
use nvme_emulator::HostMemory;
use nvme_spec::command::{self, EVENT_ERROR, NSID_ALL};
use nvme_spec::entry::PSDT_SGL_MPTR_BUFFER;
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId, InterruptCoalescing};
use nvme_spec::log::{ChangedNamespaces, ErrorLogEntry, LogId, SmartLog};
use nvme_spec::{AsyncEventDw0, NvmOpcode, SglDescriptor, Status, SubmissionEntry, register};

#[test]
fn the_ring_goes_round_many_times() {
    let mut host = Host::ready("depth=16");
    host.create_queue(1, 5, 1);
    for round in 0..100u64 {
        let sent: Vec<u16> = (0..1 + round % 4)
            .map(|_| host.put(1, command::flush(1)))
            .collect();
        host.ring_sq(1);
        host.step();
        let taken = host.reap(1);
        assert_eq!(taken.iter().map(|entry| entry.cid).collect::<Vec<_>>(), sent);
        assert!(
            taken
                .iter()
                .all(|entry| entry.sqid == 1 && entry.status().is_success())
        );
        assert_eq!(u32::from(host.queues[&1].sqhd), host.queues[&1].tail);
    }
    let counters = host.device.counters();
    assert_eq!(counters.io_opcode(NvmOpcode::FLUSH).completed, 250);
    assert_eq!(
        (
            counters.queue(1).fetched,
            counters.queue(1).completed,
            counters.queue(1).depth_max
        ),
        (250, 250, 4)
    );
    assert_eq!(
        (counters.queue(1).sq_doorbells, counters.queue(1).cq_doorbells),
        (100, 100)
    );
    assert_eq!(counters.invalid_doorbell_values, 0);
}

#[test]
fn doorbells_are_registers_too_at_any_stride() {
    for dstrd in [0, 4] {
        let mut host = Host::ready(&format!("dstrd={dstrd}"));
        host.create_queue(1, 8, 1);
        let cid = host.put(1, command::flush(1));
        let offset = nvme_spec::doorbell_offset(1, false, dstrd);
        assert!(offset < host.device.registers().len_bytes());
        host.device.registers().write32(offset, host.queues[&1].tail);
        host.step();
        assert_eq!(host.peek(1).first().map(|entry| entry.cid), Some(cid));
        host.device
            .registers()
            .write32(nvme_spec::doorbell_offset(1, true, dstrd), host.queues[&1].head);
        host.step();
        assert_eq!(host.device.counters().invalid_doorbell_values, 0);
    }
}

/// Two submission queues that share a completion queue, which is too small for what they complete.
#[test]
fn a_full_completion_queue_parks_and_loses_nothing() {
    let mut host = Host::ready("");
    host.create_queue(1, 4, 1);
    let sq = host.alloc(PAGE);
    host.admin_ok(command::create_io_sq(2, 63, sq, 1, 0));
    for cid in 100..140u16 {
        let entry = SubmissionEntry {
            cid,
            ..command::flush(1)
        };
        host.write(
            sq + u64::from(cid - 100) * 64,
            zerocopy::IntoBytes::as_bytes(&entry),
        );
    }
    host.device.registers().ring(4, 40);
    let mut taken = Vec::new();
    while taken.len() < 40 {
        assert!(host.step().worked);
        assert!(!host.step().worked, "nothing moves until there is room");
        let some = host.reap(1);
        assert!(
            (1..=3).contains(&some.len()),
            "three of four entries can be in use"
        );
        taken.extend(some.iter().map(|entry| (entry.sqid, entry.cid)));
    }
    assert_eq!(taken, (100..140).map(|cid| (2, cid)).collect::<Vec<_>>());
    assert!(host.device.counters().parked > 0);
}

#[test]
fn queues_take_turns() {
    let mut host = Host::ready("");
    host.create_queue(1, 128, 1);
    host.create_queue(2, 128, 2);
    for _ in 0..100 {
        host.put(1, command::flush(1));
    }
    host.ring_sq(1);
    let late = host.submit(2, command::flush(1));
    // One pass of the shard is not to be spent on the first queue alone; a step is many passes, so look at the order in
    // which the interrupts would have come: queue 2's is among the first.
    host.step();
    assert_eq!(host.reap(2).first().map(|entry| entry.cid), Some(late));
    assert_eq!(host.reap(1).len(), 100);
    assert!(host.interrupts.raised(1) > host.interrupts.raised(2));
}

#[test]
fn a_live_command_identifier_cannot_be_used_again() {
    let mut host = Host::with_queue("latency=1ms");
    host.put_cid(1, command::flush(1), 7);
    host.put_cid(1, command::flush(1), 7);
    host.ring_sq(1);
    host.step();
    let conflict = host.reap(1);
    assert_eq!(conflict.len(), 1);
    assert!(conflict[0].status().is(Status::COMMAND_ID_CONFLICT));
    host.now_ns = 1_000_000;
    host.step();
    assert!(host.reap(1)[0].status().is_success());
    host.put_cid(1, command::flush(1), 7);
    host.ring_sq(1);
    assert!(host.run_until(|host| host.reap(1).iter().any(|entry| entry.status().is_success())));
}

#[test]
fn latency_is_kept_to_the_nanosecond() {
    let mut host = Host::with_queue("latency=80us");
    let buffer = host.alloc(PAGE);
    host.now_ns = 1_000;
    host.submit(
        1,
        SubmissionEntry {
            prp1: buffer,
            ..command::read(1, 0, 1)
        },
    );
    assert_eq!(host.step().due_ns, Some(81_000));
    host.now_ns = 80_999;
    assert!(!host.step().worked);
    assert!(host.peek(1).is_empty());
    host.now_ns = 81_000;
    assert!(host.step().worked);
    assert_eq!(host.peek(1).len(), 1);
    assert_eq!(host.step().due_ns, None);
}

#[test]
fn no_more_is_in_flight_than_the_queue_has_entries() {
    let mut host = Host::ready("latency=1ms");
    host.create_queue(1, 8, 1);
    for _ in 0..2 {
        for _ in 0..7 {
            host.put(1, command::flush(1));
        }
        host.ring_sq(1);
        host.step();
    }
    assert_eq!(host.device.counters().queue(1).fetched, 8);
    assert!(host.run_until(|host| {
        host.reap(1);
        host.device.counters().queue(1).completed == 14
    }));
}

fn expect_event(host: &mut Host, info: u8) {
    let completion = host.reap(0);
    let event = AsyncEventDw0::from(completion[0].dw0);
    assert_eq!(
        (event.event_type(), event.info(), event.log_page()),
        (EVENT_ERROR, info, 1)
    );
    host.log::<[ErrorLogEntry; 64]>(LogId::ERROR_INFORMATION);
}

#[test]
fn impossible_doorbells_are_ignored_and_reported() {
    let mut host = Host::with_queue("");
    host.submit(0, command::async_event_request());
    host.step();
    host.device.registers().ring(2, 64);
    host.step();
    expect_event(&mut host, 1);
    host.submit(0, command::async_event_request());
    host.device.registers().ring(2 * 5, 1);
    host.step();
    expect_event(&mut host, 0);
    host.submit(0, command::async_event_request());
    host.device.registers().ring(3, 9);
    host.step();
    expect_event(&mut host, 1);
    let counters = host.device.counters();
    assert_eq!(
        (counters.invalid_doorbell_values, counters.invalid_doorbell_writes),
        (2, 1)
    );
    host.io_ok(1, command::flush(1));
}

#[test]
fn events_are_limited_by_aerl_and_masked_until_their_page_is_read() {
    let mut host = Host::ready("namespaces=2,size=1MiB");
    for _ in 0..4 {
        host.submit(0, command::async_event_request());
    }
    host.admin_fails(
        command::async_event_request(),
        Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
    );
    host.device.resize_namespace(1, 16).unwrap();
    host.step();
    assert!(host.reap(0).is_empty(), "nobody asked for notices");
    let config = AsyncEventConfiguration::new().with_namespace_attribute(true);
    host.admin_ok(command::set_features(
        FeatureId::ASYNC_EVENT_CONFIGURATION,
        0,
        config.into(),
        false,
    ));
    host.device.resize_namespace(2, 32).unwrap();
    host.device.set_namespace_active(1, false).unwrap();
    host.step();
    let events = host.reap(0);
    assert_eq!(
        events.iter().map(|entry| entry.dw0).collect::<Vec<_>>(),
        [0x0004_0002]
    );
    host.device.resize_namespace(2, 33).unwrap();
    host.step();
    assert!(host.reap(0).is_empty(), "masked");
    let retained = command::get_log_page(LogId::CHANGED_NAMESPACES, NSID_ALL, 4096, 0, true);
    let changed: ChangedNamespaces = host.admin_data(retained);
    assert_eq!(changed.iter().collect::<Vec<_>>(), [1, 2]);
    let changed: ChangedNamespaces = host.log(LogId::CHANGED_NAMESPACES);
    assert_eq!(
        changed.iter().collect::<Vec<_>>(),
        [1, 2],
        "the page was retained the first time"
    );
    assert_eq!(
        host.log::<ChangedNamespaces>(LogId::CHANGED_NAMESPACES)
            .iter()
            .count(),
        0
    );
    host.device.set_namespace_active(1, true).unwrap();
    host.step();
    assert_eq!(host.reap(0).len(), 1);
}

#[test]
fn heat_is_an_event_once_and_a_critical_warning_as_long_as_it_lasts() {
    let mut host = Host::ready("temperature=310K");
    let config = AsyncEventConfiguration::new().with_smart(0b10);
    host.admin_ok(command::set_features(
        FeatureId::ASYNC_EVENT_CONFIGURATION,
        0,
        config.into(),
        false,
    ));
    host.submit(0, command::async_event_request());
    host.device.set_temperature(400, 0);
    host.step();
    assert_eq!(host.reap(0).first().map(|entry| entry.dw0), Some(0x0002_0101));
    assert_eq!(host.log::<SmartLog>(LogId::SMART).critical_warning, 0b10);
    host.device.set_temperature(300, 0);
    assert_eq!(host.log::<SmartLog>(LogId::SMART).critical_warning, 0);
}

#[test]
fn requests_for_events_are_dropped_by_a_reset() {
    let mut host = Host::ready("");
    host.submit(0, command::async_event_request());
    host.step();
    host.disable();
    host.enable();
    host.device.registers().ring(40, 1);
    host.step();
    assert!(host.reap(0).is_empty());
}

#[test]
fn abort_ends_commands_wherever_they_are() {
    let mut host = Host::with_queue("latency=1s");
    let held = host.submit(1, command::flush(1));
    host.step();
    // Not fetched yet when the abort is executed: the controller's turn comes before the shard's.
    let pending = host.submit(1, command::flush(1));
    for cid in [held, pending] {
        assert_eq!(host.admin_ok(command::abort(1, cid)).dw0 & 1, 0);
        let aborted = host.reap(1);
        assert_eq!(aborted.iter().map(|entry| entry.cid).collect::<Vec<_>>(), [cid]);
        assert!(aborted[0].status().is(Status::ABORT_REQUESTED) && !aborted[0].status().more());
    }
    for (qid, cid) in [(1, held), (1, 999), (9, 0), (0, 4242)] {
        assert_eq!(
            host.admin_ok(command::abort(qid, cid)).dw0 & 1,
            1,
            "nothing to abort"
        );
    }
    let event = host.submit(0, command::async_event_request());
    host.step();
    let abort = host.submit(0, command::abort(0, event));
    host.step();
    let taken = host.reap(0);
    assert_eq!(
        taken.iter().map(|entry| entry.cid).collect::<Vec<_>>(),
        [event, abort]
    );
    assert!(taken[0].status().is(Status::ABORT_REQUESTED));
    assert_eq!(host.step().due_ns, None, "nothing is left");
}

#[test]
fn an_aborted_write_is_not_done() {
    let mut host = Host::with_queue("latency=1s");
    let buffer = host.alloc(PAGE);
    host.write(buffer, &[1; 4096]);
    let cid = host.submit(
        1,
        SubmissionEntry {
            prp1: buffer,
            ..command::write(1, 0, 1, false)
        },
    );
    host.step();
    host.admin_ok(command::abort(1, cid));
    host.reap(1);
    assert_eq!(host.read_blocks(1, 1, 0, 1), [0; 4096]);
}

#[test]
fn deleting_a_queue_ends_its_commands() {
    let mut host = Host::with_queue("latency=1s");
    let cids: Vec<u16> = (0..3).map(|_| host.submit(1, command::flush(1))).collect();
    host.step();
    host.admin_ok(command::delete_io_sq(1));
    let taken = host.reap(1);
    assert_eq!(taken.iter().map(|entry| entry.cid).collect::<Vec<_>>(), cids);
    assert!(
        taken
            .iter()
            .all(|entry| entry.status().is(Status::ABORTED_SQ_DELETION))
    );
    host.admin_ok(command::delete_io_cq(1));
    assert_eq!(host.step().due_ns, None);
    host.device.registers().ring(2, 1);
    host.step();
    assert_eq!(
        host.device.counters().invalid_doorbell_writes,
        1,
        "the doorbell is nobody's"
    );
    host.create_queue(1, 64, 1);
    host.io_ok(1, command::flush(1));
}

#[test]
fn interrupts_follow_completions_once_per_pass() {
    let mut host = Host::ready("");
    host.create_queue(1, 64, 3);
    for _ in 0..20 {
        host.put(1, command::flush(1));
    }
    host.ring_sq(1);
    host.step();
    assert_eq!(host.reap(1).len(), 20);
    assert_eq!(host.interrupts.raised(3), 1);
    assert_eq!(host.device.counters().interrupts, host.interrupts.raised(0) + 1);
}

#[test]
fn a_queue_without_interrupts_has_none() {
    let mut host = Host::ready("");
    host.create_queue(1, 64, 1);
    let cq = host.alloc(PAGE);
    host.admin_ok(command::create_io_cq(2, 63, cq, None));
    let before = host.device.counters().interrupts;
    let sq = host.alloc(PAGE);
    host.admin_ok(command::create_io_sq(2, 63, sq, 2, 0));
    let between = host.device.counters().interrupts;
    host.write(sq, zerocopy::IntoBytes::as_bytes(&command::flush(1)));
    host.device.registers().ring(4, 1);
    host.step();
    assert_eq!(host.device.counters().queue(2).completed, 1);
    assert_eq!(host.device.counters().interrupts, between);
    assert_eq!(between, before + 1, "the admin queue's own");
}

#[test]
fn a_masked_vector_is_raised_when_it_is_unmasked_if_there_is_still_something() {
    let mut host = Host::with_queue("");
    let registers = register::INTMS;
    host.device.registers().write32(registers, 1 << 1);
    host.submit(1, command::flush(1));
    host.step();
    assert_eq!((host.peek(1).len(), host.interrupts.raised(1)), (1, 0));
    host.device.registers().write32(register::INTMC, 1 << 1);
    host.step();
    assert_eq!(host.interrupts.raised(1), 1);
    host.ring_cq(1);
    host.device.registers().write32(register::INTMS, 1 << 1);
    host.submit(1, command::flush(1));
    host.step();
    host.reap(1);
    host.step();
    host.device.registers().write32(register::INTMC, 1 << 1);
    host.step();
    assert_eq!(host.interrupts.raised(1), 1, "polled meanwhile");
}

#[test]
fn coalescing_waits_for_entries_or_time() {
    let mut host = Host::with_queue("");
    let value = InterruptCoalescing::new().with_thr_z(3).with_time(2);
    host.admin_ok(command::set_features(
        FeatureId::INTERRUPT_COALESCING,
        0,
        value.into(),
        false,
    ));
    let admin = host.interrupts.raised(0);
    for _ in 0..3 {
        host.submit(1, command::flush(1));
        host.step();
    }
    assert_eq!(host.interrupts.raised(1), 0);
    host.submit(1, command::flush(1));
    host.step();
    assert_eq!(host.interrupts.raised(1), 1, "four entries");
    host.reap(1);
    host.submit(1, command::flush(1));
    assert_eq!(host.step().due_ns, Some(200_000));
    host.now_ns = 200_000;
    host.step();
    assert_eq!(host.interrupts.raised(1), 2, "or 200 us");
    host.admin_ok(command::abort(1, 9));
    assert_eq!(host.interrupts.raised(0), admin + 1, "never on the admin queue");
}

/// The host writes doorbells to memory, and rings the real one only when it passes the event index.
#[test]
fn shadow_doorbells_are_read_and_armed() {
    let mut host = Host::with_queue("");
    let (shadow, events) = (host.alloc(PAGE), host.alloc(PAGE));
    host.admin_fails(
        command::doorbell_buffer_config(shadow + 8, events),
        Status::INVALID_FIELD,
    );
    host.admin_fails(command::doorbell_buffer_config(shadow, 0), Status::INVALID_FIELD);
    host.admin_ok(command::doorbell_buffer_config(shadow, events));
    let (tail, head) = (shadow + 8, shadow + 12);
    for round in 1..200u32 {
        host.put(1, command::flush(1));
        host.memory.store_u32(tail, host.queues[&1].tail).unwrap();
        assert!(host.step().worked);
        assert_eq!(host.peek(1).len(), 1);
        host.memory.store_u32(head, host.queues[&1].head).unwrap();
        host.step();
        assert_eq!(
            host.memory.load_u32(events + 8),
            Ok(round % 64),
            "ring at the next step"
        );
        assert_eq!(host.memory.load_u32(events + 12), Ok(round % 64));
    }
    let counters = host.device.counters();
    assert_eq!(
        (counters.queue(1).sq_doorbells, counters.queue(1).cq_doorbells),
        (0, 0)
    );
    host.memory.store_u32(tail, 1000).unwrap();
    host.step();
    assert_eq!(host.device.counters().invalid_doorbell_values, 1);
    assert!(!host.step().worked);
    host.disable();
    host.enable();
    host.create_queue(1, 64, 1);
    host.io_ok(1, command::flush(1));
}

/// The buffers are one page each: doorbells beyond are rung in BAR0.
#[test]
fn shadow_doorbells_end_with_their_page() {
    let mut host = Host::ready("queues=600");
    let (shadow, events) = (host.alloc(PAGE), host.alloc(PAGE));
    let after = host.alloc(PAGE);
    assert_eq!(after, events + PAGE);
    host.write(after, &[0xaa; PAGE as usize]);
    host.create_queue(600, 64, 1);
    host.admin_ok(command::doorbell_buffer_config(shadow, events));
    host.io_ok(600, command::flush(1));
    host.step();
    assert_eq!(host.read(after, PAGE as usize), [0xaa; PAGE as usize]);
    assert_eq!(host.device.counters().queue(600).sq_doorbells, 1);
}

#[test]
fn io_commands_may_use_sgls_where_they_are_offered() {
    let mut host = Host::with_queue("");
    host.write_blocks(1, 1, 4, &[0x77; 4096]);
    let (buffer, segment) = (host.alloc(2 * PAGE), host.alloc(PAGE));
    let pieces = [
        SglDescriptor::data_block(buffer + 3, 1000),
        SglDescriptor::data_block(buffer + PAGE, 3096),
    ];
    host.write(segment, zerocopy::IntoBytes::as_bytes(&pieces));
    let mut entry = SubmissionEntry {
        flags: PSDT_SGL_MPTR_BUFFER << 6,
        ..command::read(1, 4, 1)
    };
    entry.set_sgl1(SglDescriptor::last_segment(segment, 32));
    host.io_ok(1, entry);
    assert_eq!(host.read(buffer, 4), [0, 0, 0, 0x77]);
    assert_eq!(host.read(buffer + 1002, 2), [0x77, 0]);
    assert_eq!(host.read(buffer + PAGE, 3096), [0x77; 3096]);
    let mut host = Host::with_queue("sgl=off");
    assert!(host.run(1, entry).status().is(Status::INVALID_FIELD));
}
