//! Rings against a driver that is turned by hand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_emulator::{Action, Fault};
use nvme_spec::{NvmOpcode, Status};
use proptest::prelude::*;

use super::layout::{DEVICE_ADDRESS, Entry, Geometry, Place, entry_flag, flag, opcode, word};
use super::rig::{ALL, DATA_BYTES, Rig, Ring, SMALL};
use super::server::Rights;
use crate::Config;
use crate::dma::SharedMemory;
use crate::scheme::Errno;

#[cfg(target_os = "linux")]
mod threads;

/// What [`moved`] says of `bytes` that are in buffers of the client's, all of which the device knows.
#[cfg(feature = "performance-counters")]
fn in_place(bytes: u64) -> (u64, u64) {
    if cfg!(feature = "zero-copy") {
        (0, bytes)
    } else {
        (bytes, 0)
    }
}

fn moved(rig: &Rig) -> (u64, u64) {
    let queues = rig.driver.stats(false).queues;
    let io = queues
        .iter()
        .filter(|queue| queue.qid > 0)
        .filter_map(|queue| queue.counters.as_ref());
    io.fold((0, 0), |(copied, direct), counters| {
        (copied + counters.bytes_copied, direct + counters.bytes_zero_copy)
    })
}

#[test]
fn data_goes_to_the_device_and_back_without_a_copy() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let data: Vec<u8> = (0..12288_u32).map(|at| (at * 7) as u8).collect();
    assert!(ring.memory.copy_in(ring.geometry.data_offset() + 4, &data));
    ring.submit(&[Entry::write(5, 3, ring.at(4)).with_fua().with_user_data(1)]);
    rig.settle();
    ring.submit(&[
        Entry::read(5, 3, ring.at(20_000)).with_user_data(2),
        Entry::compare(5, 3, ring.at(4)).with_user_data(3),
        Entry::flush().with_user_data(4),
        Entry::nop().with_user_data(5),
    ]);
    rig.settle();
    let results = ring.results();
    let mut done: Vec<_> = results
        .iter()
        .map(|it| (it.user_data, it.errno, it.bytes))
        .collect();
    done.sort_unstable();
    assert_eq!(
        done,
        [(1, 0, 12288), (2, 0, 12288), (3, 0, 12288), (4, 0, 0), (5, 0, 0)]
    );
    assert!(results.iter().any(|it| it.device_ns > 0));
    let mut seen = vec![0; data.len()];
    assert!(
        ring.memory
            .copy_out(ring.geometry.data_offset() + 20_000, &mut seen)
    );
    assert!(seen == data);
    #[cfg(feature = "performance-counters")]
    assert_eq!(moved(&rig), in_place(3 * 12288));
    assert_eq!(
        ring.changes.load(Ordering::Relaxed),
        1,
        "a write, of which the partitions hear"
    );
    assert_eq!(ring.load(word::SQ_HEAD), 5);
    assert_eq!(rig.device.counters().dma_faults, 0);
}

#[test]
fn without_zero_copy_the_data_is_the_same_and_counted_as_copied() {
    let mut rig = Rig::with(Config {
        zero_copy: false,
        ..Config::default()
    });
    let mut ring = rig.ring(ALL);
    assert!(ring.memory.copy_in(ring.geometry.data_offset(), b"abc"));
    ring.submit(&[
        Entry::write(0, 2, ring.at(0)).linked().with_user_data(1),
        Entry::read(0, 2, ring.at(8192)).with_user_data(2),
    ]);
    rig.settle();
    assert_eq!(ring.errors(), [(1, 0), (2, 0)]);
    let mut seen = [0; 3];
    assert!(
        ring.memory
            .copy_out(ring.geometry.data_offset() + 8192, &mut seen)
    );
    assert_eq!(&seen, b"abc");
    #[cfg(feature = "performance-counters")]
    assert_eq!(moved(&rig), (2 * 8192, 0));
}

#[test]
fn what_makes_no_sense_is_answered_with_an_error_number() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let place = ring.at(0);
    let read = |slba, blocks, place| Entry::read(slba, blocks, place);
    let with = |change: fn(&mut Entry)| {
        let mut entry = read(0, 1, place);
        change(&mut entry);
        entry
    };
    let cases = [
        (with(|it| it.opcode = 8), Errno::EINVAL),
        (with(|it| it.opcode = 0xFF), Errno::EINVAL),
        (with(|it| it.flags = entry_flag::FUA), Errno::EINVAL),
        (with(|it| it.flags = 0x80), Errno::EINVAL),
        (with(|it| it.class = 4), Errno::EINVAL),
        (with(|it| it.reserved[0] = 1), Errno::EINVAL),
        (with(|it| it.reserved[3] = 1), Errno::EINVAL),
        (with(|it| it.place.address += 2), Errno::EINVAL),
        (with(|it| it.place.buffer = 1), Errno::EFAULT),
        (with(|it| it.place.buffer = 64), Errno::EFAULT),
        (with(|it| it.place.buffer = u32::MAX), Errno::EFAULT),
        (with(|it| it.blocks = u32::MAX), Errno::EFAULT),
        (with(|it| it.place.address = 0), Errno::EFAULT),
        (with(|it| it.place.address -= 4), Errno::EFAULT),
        (with(|it| it.place.address = !3), Errno::EFAULT),
        (read(0, 1, ring.at(DATA_BYTES - 4092)), Errno::EFAULT),
        (read(0, 0, place), Errno::EINVAL),
        (read(256, 1, place), Errno::ENXIO),
        (read(u64::MAX, 1, place), Errno::ENXIO),
    ];
    for (number, (entry, errno)) in cases.into_iter().enumerate() {
        ring.submit(&[entry.with_user_data(number as u64)]);
        rig.settle();
        assert_eq!(ring.errors(), [(number as u64, errno.0)], "{entry:?}");
    }
    ring.submit(&[read(255, 1, ring.at(DATA_BYTES - 4096))]);
    rig.settle();
    assert_eq!(ring.errors(), [(0, 0)]);
}

#[test]
fn what_the_handle_may_not_do_the_ring_does_not() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(Rights { read: false, ..ALL });
    ring.submit(&[
        Entry::read(0, 1, ring.at(0)).with_user_data(1),
        Entry::compare(0, 1, ring.at(0)).with_user_data(2),
        Entry::without_data(opcode::VERIFY, 0, 1).with_user_data(3),
        Entry::write(0, 1, ring.at(0)).with_user_data(4),
    ]);
    rig.settle();
    let ebadf = Errno::EBADF.0;
    assert_eq!(ring.errors(), [(1, ebadf), (2, ebadf), (3, ebadf), (4, 0)]);
}

#[test]
fn a_chain_goes_on_as_long_as_it_succeeds() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let place = ring.at(0);
    let write = |slba| Entry::write(slba, 1, place);
    rig.device
        .faults()
        .add(Fault::on_opcode(NvmOpcode::WRITE, Action::Fail(Status::WRITE_FAULT)).lba(3));
    ring.submit(&[
        write(1).linked().with_user_data(1),
        write(2).linked().with_user_data(2),
        write(3).linked().with_user_data(3),
        write(4).linked().with_user_data(4),
        write(5).with_user_data(5),
        write(6).with_user_data(6),
    ]);
    assert!(rig.turn());
    assert_eq!(
        (ring.load(word::SQ_HEAD), ring.load(word::CQ_TAIL)),
        (6, 0),
        "all are taken"
    );
    rig.settle();
    let errors = ring.errors();
    let (eio, canceled) = (Errno::EIO.0, Errno::ECANCELED.0);
    let chain: Vec<_> = errors
        .iter()
        .copied()
        .filter(|(number, _)| *number != 6)
        .collect();
    assert_eq!(chain, [(1, 0), (2, 0), (3, eio), (4, canceled), (5, canceled)]);
    assert!(errors.contains(&(6, 0)), "one that waits for none");
    assert_eq!(rig.device.counters().dma_faults, 0);
}

#[test]
fn an_entry_waits_for_one_that_was_submitted_before_whenever_it_comes() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    ring.submit(&[Entry::read(0, 1, ring.at(0)).linked().with_user_data(1)]);
    rig.settle();
    assert_eq!(ring.errors(), [(1, 0)]);
    // Its success is known; so is the failure of the next one.
    ring.submit(&[Entry::read(999, 1, ring.at(0)).linked().with_user_data(2)]);
    rig.settle();
    ring.submit(&[
        Entry::nop().linked().with_user_data(3),
        Entry::nop().with_user_data(4),
        Entry::nop().with_user_data(5),
    ]);
    rig.settle();
    let canceled = Errno::ECANCELED.0;
    assert_eq!(
        ring.errors(),
        [(2, Errno::ENXIO.0), (3, canceled), (4, canceled), (5, 0)]
    );
}

#[test]
fn no_answer_is_lost_when_the_completion_ring_is_full() {
    let mut rig = Rig::new();
    let geometry = Geometry {
        sq_entries: 8,
        cq_entries: 8,
    };
    let mut ring = Ring::open(&rig.driver, geometry, ALL, false).unwrap();
    let mut submitted = 0;
    let mut answered = Vec::new();
    let more = |ring: &mut Ring, submitted: &mut u64| {
        while ring.load(word::SQ_TAIL).wrapping_sub(ring.load(word::SQ_HEAD)) < 8 {
            *submitted += 1;
            ring.submit(&[Entry::read(*submitted % 256, 1, ring.at(0)).with_user_data(*submitted)]);
        }
    };
    more(&mut ring, &mut submitted);
    for round in 0..50 {
        rig.settle();
        more(&mut ring, &mut submitted);
        rig.settle();
        assert_eq!(
            ring.load(word::CQ_TAIL),
            (round + 1) * 8,
            "as many as there is room for"
        );
        assert_eq!(ring.load(word::CQ_FULL), round + 1);
        answered.extend(ring.errors());
    }
    rig.settle();
    answered.extend(ring.errors());
    answered.sort_unstable();
    let all: Vec<(u64, i32)> = (1..=submitted).map(|number| (number, 0)).collect();
    assert_eq!(answered[..], all[..answered.len()]);
    assert!(answered.len() >= 400);
}

type Break = fn(&Ring);

#[test]
fn indices_that_jump_break_this_ring_and_no_other() {
    let breaks: [(&str, Break); 4] = [
        ("more entries than there are", |ring| ring.store(word::SQ_TAIL, 9)),
        ("entries taken back", |ring| ring.store(word::SQ_TAIL, u32::MAX)),
        ("results that are not there", |ring| {
            ring.store(word::CQ_HEAD, 100)
        }),
        ("results put back", |ring| ring.store(word::CQ_HEAD, u32::MAX)),
    ];
    for (what, break_it) in breaks {
        let mut rig = Rig::new();
        let mut ring = rig.ring(ALL);
        let mut other = rig.ring(ALL);
        // As many results as there is room for, so that their index is looked at.
        for _ in 0..2 {
            ring.submit(&[Entry::nop(); 8]);
            rig.settle();
        }
        ring.submit(&[Entry::nop()]);
        rig.settle();
        let (told, then) = Ring::told();
        let _ = ring.results();
        rig.settle();
        let _ = ring.results();
        ring.shared.wait(then);
        for _ in 0..2 {
            ring.submit(&[Entry::nop(); 8]);
            rig.turn();
        }
        break_it(&ring);
        let mut tries = 0;
        while !ring.has(flag::BROKEN) && tries < 40 {
            let tail = ring.load(word::SQ_TAIL);
            if tail.wrapping_sub(ring.load(word::SQ_HEAD)) < 8 {
                ring.store(word::SQ_TAIL, tail.wrapping_add(1));
            }
            rig.settle();
            tries += 1;
        }
        assert!(ring.has(flag::BROKEN), "{what}");
        let waited = told.lock().unwrap().clone();
        assert_eq!(waited.len(), 1, "{what}: who waits is told");
        let (told, then) = Ring::told();
        ring.shared.wait(then);
        assert_eq!(*told.lock().unwrap(), [Err(Errno::EIO)], "{what}");
        other.submit(&[Entry::read(1, 1, other.at(0)).with_user_data(7)]);
        rig.settle();
        assert_eq!(other.errors(), [(7, 0)], "{what}");
        assert!(rig.still_works(9, 0xA5), "{what}");
    }
}

#[test]
fn a_read_is_answered_when_there_are_results() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let (told, then) = Ring::told();
    ring.shared.wait(then);
    rig.settle();
    assert!(told.lock().unwrap().is_empty());
    ring.submit(&[Entry::read(0, 1, ring.at(0)), Entry::nop()]);
    rig.settle();
    let answer = told.lock().unwrap()[0];
    assert!(matches!(answer, Ok((1..=2, _))), "{answer:?}");
    // What is there already is not waited for.
    let (told, then) = Ring::told();
    ring.shared.wait(then);
    assert_eq!(told.lock().unwrap()[0].map(|(available, _)| available), Ok(2));
    assert_eq!(ring.results().len(), 2);
    let (told, then) = Ring::told();
    ring.shared.wait(then);
    ring.shared.end_waiting(Err(Errno::EINTR));
    assert_eq!(*told.lock().unwrap(), [Err(Errno::EINTR)]);
}

#[test]
fn a_buffer_goes_when_no_command_has_it_and_its_memory_with_it() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let memory = Arc::new(SharedMemory::create(8192).unwrap());
    let (told, then) = Ring::told();
    ring.shared.register(3, rig.driver.register(&memory), false, then);
    rig.turn();
    assert_eq!(*told.lock().unwrap(), [Ok(())]);
    let place = Place {
        buffer: 3,
        address: 0,
    };
    ring.submit(&[Entry::read(0, 2, place).with_user_data(1)]);
    rig.turn();
    // The command is with the device.
    let (told, then) = Ring::told();
    ring.shared.unregister(3, then);
    let (twice, then) = Ring::told();
    ring.shared.unregister(3, then);
    rig.turn();
    assert!(told.lock().unwrap().is_empty(), "a command has it");
    assert_eq!(*twice.lock().unwrap(), [Err(Errno::EBUSY)]);
    assert!(Arc::strong_count(&memory) > 1);
    ring.submit(&[Entry::read(0, 2, place).with_user_data(2)]);
    rig.turn();
    assert_eq!(ring.errors(), [(2, Errno::EFAULT.0)], "no new ones");
    rig.settle();
    assert_eq!(ring.errors(), [(1, 0)]);
    assert_eq!(*told.lock().unwrap(), [Ok(())]);
    // It is dropped on a thread of its own.
    while Arc::strong_count(&memory) > 1 {
        std::thread::yield_now();
    }
    for (index, errno) in [(0, Errno::EINVAL), (3, Errno::EINVAL), (64, Errno::EINVAL)] {
        let (told, then) = Ring::told();
        ring.shared.unregister(index, then);
        rig.turn();
        assert_eq!(*told.lock().unwrap(), [Err(errno)], "{index}");
    }
    for (index, errno) in [(0, Errno::EBUSY), (64, Errno::EINVAL)] {
        let (told, then) = Ring::told();
        ring.shared
            .register(index, rig.driver.register(&memory), false, then);
        rig.turn();
        assert_eq!(*told.lock().unwrap(), [Err(errno)], "{index}");
    }
}

#[test]
fn a_client_that_goes_leaves_nothing_behind_but_what_the_device_still_has() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    ring.registered = None;
    let memory = Arc::downgrade(&ring.memory);
    ring.submit(&[
        Entry::read(0, 2, ring.at(0)).linked(),
        Entry::read(2, 2, ring.at(8192)),
        Entry::read(2, 2, ring.at(8192)),
    ]);
    rig.turn();
    ring.shared.close();
    drop(ring);
    rig.turn();
    assert!(memory.upgrade().is_some(), "the device may still write to it");
    rig.settle();
    while memory.upgrade().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(rig.device.counters().dma_faults, 0);
    assert!(rig.still_works(3, 0x3C));
}

#[test]
fn what_the_driver_has_when_it_ends_is_answered_and_who_waits_is_told() {
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    ring.submit(&[Entry::read(0, 1, ring.at(0)).with_user_data(1)]);
    rig.turn();
    let (told, then) = Ring::told();
    ring.shared.wait(then);
    rig.driver.shutdown().unwrap();
    rig.settle();
    assert_eq!(told.lock().unwrap().len(), 1);
    assert!(ring.has(flag::ENDED));
    assert_eq!(ring.errors(), [(1, 0)]);
    let (told, then) = Ring::told();
    ring.shared.wait(then);
    assert_eq!(*told.lock().unwrap(), [Err(Errno::ESHUTDOWN)]);
}

/// The ring's first run, and a second buffer's.
fn with_runs(rig: &mut Rig, rights: Rights) -> (Ring, [u64; 2], Arc<SharedMemory>) {
    let ring = Ring::open(&rig.driver, SMALL, rights, rights.physical).unwrap();
    let first = ring.memory.load(word::RUNS).unwrap();
    let memory = Arc::new(SharedMemory::create(8192).unwrap());
    let (told, then) = Ring::told();
    ring.shared
        .register(1, rig.driver.register(&memory), rights.physical, then);
    rig.turn();
    assert_eq!(*told.lock().unwrap(), [Ok(())]);
    let [second, len] = ring.memory.load(word::RUNS).unwrap();
    if rights.physical {
        assert_eq!(first, [first[0], ring.memory.len() as u64]);
        assert_eq!((len, ring.load(word::RUN_COUNT)), (8192, 1));
    }
    (ring, [first[0], second], memory)
}

#[test]
fn the_devices_own_addresses_work_where_they_were_told_and_nowhere_else() {
    let mut rig = Rig::new();
    let (mut ring, [first, second], memory) = with_runs(&mut rig, ALL);
    assert!(memory.copy_in(0, &[0x5A; 4096]));
    let at = |address: u64| Place {
        buffer: 0,
        address: address | DEVICE_ADDRESS,
    };
    let data = first + ring.geometry.data_offset() as u64;
    ring.submit(&[
        Entry::write(9, 1, at(second)).linked().with_user_data(1),
        Entry::read(9, 1, at(second + 4096)).linked().with_user_data(2),
        Entry::read(9, 1, at(data + 8)).with_user_data(3),
    ]);
    rig.settle();
    assert_eq!(ring.errors(), [(1, 0), (2, 0), (3, 0)]);
    let mut seen = [0; 4096];
    assert!(memory.copy_out(4096, &mut seen));
    assert_eq!(seen, [0x5A; 4096]);
    assert!(ring.memory.copy_out(ring.geometry.data_offset() + 8, &mut seen));
    assert_eq!(seen, [0x5A; 4096]);
    #[cfg(feature = "performance-counters")]
    assert_eq!(moved(&rig), in_place(3 * 4096));
    for (what, address, blocks) in [
        ("before", second - 4096, 1),
        ("crossing the end", second + 4100, 1),
        ("longer", second, 3),
        ("behind", second + 8192, 1),
        ("unaligned", second + 2, 1),
        ("the rings' own pages", first, 1),
        ("the page before the data", data - 4, 1),
        ("nobody's", 0x1000, 1),
        ("the driver's queues", 1 << 32, 1),
        ("overflowing", !0xFFF, 1),
        ("overflowing", second, u32::MAX),
    ] {
        ring.submit(&[Entry::read(9, blocks, at(address))]);
        rig.settle();
        assert_eq!(ring.errors(), [(0, Errno::EFAULT.0)], "{what}: {address:#x}");
    }
    // A buffer's number with it says two things.
    let mut both = Entry::read(9, 1, at(second));
    both.place.buffer = 1;
    ring.submit(&[both]);
    rig.settle();
    assert_eq!(ring.errors(), [(0, Errno::EFAULT.0)]);
    // What was taken back is nobody's.
    let (told, then) = Ring::told();
    ring.shared.unregister(1, then);
    rig.turn();
    assert_eq!(*told.lock().unwrap(), [Ok(())]);
    ring.submit(&[Entry::read(9, 1, at(second))]);
    rig.settle();
    assert_eq!(ring.errors(), [(0, Errno::EFAULT.0)]);
    assert_eq!(
        rig.device.counters().dma_faults,
        0,
        "the device heard of none of it"
    );
}

#[test]
fn a_ring_that_is_not_roots_is_told_no_addresses_and_may_name_none() {
    let mut rig = Rig::new();
    let (_roots, [_, theirs], _memory) = with_runs(&mut rig, ALL);
    let rights = Rights {
        physical: false,
        ..ALL
    };
    let refused = Ring::open(&rig.driver, SMALL, rights, true).map(drop);
    assert_eq!(refused, Err(Errno::EACCES));
    let (mut ring, told, _kept) = with_runs(&mut rig, rights);
    assert_eq!(told, [0, 0]);
    for address in [theirs, 0, 0x1000, u64::MAX] {
        let place = Place {
            buffer: 0,
            address: address | DEVICE_ADDRESS,
        };
        ring.submit(&[Entry::read(9, 1, place)]);
        rig.settle();
        assert_eq!(ring.errors(), [(0, Errno::EACCES.0)], "{address:#x}");
    }
    // One of root's, of another handle, is not root's here either.
    let mut other = rig.ring(ALL);
    other.submit(&[Entry::read(
        9,
        1,
        Place {
            buffer: 0,
            address: theirs | DEVICE_ADDRESS,
        },
    )]);
    rig.settle();
    assert_eq!(other.errors(), [(0, Errno::EFAULT.0)]);
}

#[test]
fn rings_that_cannot_be_are_refused() {
    let rig = Rig::new();
    for (sq_entries, cq_entries) in [(0, 0), (3, 4), (8, 4), (8192, 8192)] {
        let geometry = Geometry {
            sq_entries,
            cq_entries,
        };
        let len = 1 << 20;
        let memory = rig.driver.register(&Arc::new(SharedMemory::create(len).unwrap()));
        let made = super::server::Server::new(memory, geometry, (1, 1), ALL, false, Box::new(|_, _| {}));
        assert_eq!(made.map(drop), Err(Errno::EINVAL));
    }
    let memory = rig
        .driver
        .register(&Arc::new(SharedMemory::create(8192).unwrap()));
    let made = super::server::Server::new(memory, SMALL, (1, 1), ALL, false, Box::new(|_, _| {}));
    assert_eq!(made.map(drop), Err(Errno::EINVAL), "too little memory");
}

#[test]
fn a_turn_takes_a_few_entries_also_of_those_that_cost_the_client_nothing() {
    let mut rig = Rig::new();
    let geometry = Geometry {
        sq_entries: 256,
        cq_entries: 256,
    };
    let mut greedy = Ring::open(&rig.driver, geometry, ALL, false).unwrap();
    let mut honest = rig.ring(ALL);
    rig.settle();
    greedy.submit(&[Entry::nop(); 200]);
    honest.submit(&[Entry::nop().with_user_data(1)]);
    rig.turn();
    assert_eq!(greedy.load(word::SQ_HEAD), 32);
    assert_eq!(honest.errors(), [(1, 0)], "in the same turn");
    rig.settle();
    assert_eq!(greedy.errors().len(), 200);
}

/// Random inputs from seed `first` on.
fn hostile_clients(first: u64, count: u64) {
    for seed in first..first + count {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; random.usize(..2000)];
        random.fill(&mut bytes);
        let outcome = std::panic::catch_unwind(|| super::fuzz::run(&bytes));
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// As many as there is time for: `NVME_FUZZ_SECONDS` of it, without which there is none. They are done by processes, a
/// hundred by each, since a driver that is turned by hand and goes keeps the memory that its device could still write to.
/// What fails says with which seed; `NVME_FUZZ_FIRST=SEED` begins there.
#[test]
fn hostile_clients_for_as_long_as_is_asked() {
    const EACH: u64 = 100;
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(first) = number("NVME_FUZZ_FIRST") {
        return hostile_clients(first, EACH);
    }
    let Some(seconds) = number("NVME_FUZZ_SECONDS") else {
        println!("NVME_FUZZ_SECONDS is not set: skipped");
        return;
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut first = 0;
    while std::time::Instant::now() < end {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ring::tests::hostile_clients_for_as_long_as_is_asked",
                "--nocapture",
            ])
            .env("NVME_FUZZ_FIRST", first.to_string())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        let complaint = String::from_utf8_lossy(&child.stderr);
        assert!(
            child.status.success() && told.contains("1 passed"),
            "{told}{complaint}"
        );
        first += EACH;
    }
    assert!(first > 0);
    println!("{first} hostile clients");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever bytes a client puts where: see `fuzz`.
    #[test]
    fn a_hostile_client_harms_nobody(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        super::fuzz::run(&bytes);
    }
}
