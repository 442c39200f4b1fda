//! What a client lends, as the daemon and a device find it.

use nvme_redox_model::{Machine, MachineConfig, PAGE_BYTES};
use proptest::prelude::*;
use syscall::schemev2::Opcode;

use crate::daemon::{Daemon, FILE, Keeper, answer, payload};

/// `len_bytes` at `offset` within a page.
fn placed(buffer: &mut Vec<u8>, offset: usize, len_bytes: usize) -> &mut [u8] {
    buffer.resize(len_bytes + 2 * PAGE_BYTES, 0x11);
    let start = buffer.as_ptr().align_offset(PAGE_BYTES) + offset;
    &mut buffer[start..start + len_bytes]
}

/// A daemon with an open file, and what goes with it.
fn with_file(test: impl FnOnce(&Machine, &Daemon, &nvme_redox_model::Client, usize)) {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "lent");
    let client = machine.client(0, 0);
    let file = std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let opened = scope.spawn(|| client.open("/scheme/lent/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        opened.join().unwrap()
    });
    test(&machine, &daemon, &client, file);
}

/// The whole pages that a payload touches.
fn pages(address: u64, len_bytes: u64) -> &'static [u8] {
    let start = address as usize & !(PAGE_BYTES - 1);
    let end = ((address + len_bytes) as usize).next_multiple_of(PAGE_BYTES);
    // SAFETY: lent by the model until the request is answered.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(start as *const u8, end - start)
    }
}

#[test]
fn whole_pages_are_the_clients_and_ends_are_not() {
    with_file(|machine, daemon, client, file| {
        let mut buffer = Vec::new();
        let into = placed(&mut buffer, 4000, 200 + PAGE_BYTES);
        into.fill(0x22);
        std::thread::scope(|scope| {
            let daemon = daemon.guard();
            let read = scope.spawn(move || (client.pread(file, into, 0), into));
            let sqe = daemon.take_one(Opcode::Read);
            assert_eq!((sqe.args[1] % 4096, sqe.args[2]), (4000, 200 + 4096));
            // Of what is to be written, a whole page is as the client has it, the ends are clear.
            let lent = pages(sqe.args[1], sqe.args[2]);
            assert_eq!(lent.len(), 3 * PAGE_BYTES);
            assert!(lent[..PAGE_BYTES].iter().all(|byte| *byte == 0));
            assert!(lent[PAGE_BYTES..2 * PAGE_BYTES].iter().all(|byte| *byte == 0x22));
            assert!(lent[2 * PAGE_BYTES..].iter().all(|byte| *byte == 0));
            // What a short answer does not count, the client gets all the same.
            payload(sqe)[0] = 0x33;
            daemon.answer(&[answer(&sqe, Ok(1))]).unwrap();
            assert_eq!(machine.lent_bytes(), 0);
            let (count, into) = read.join().unwrap();
            assert_eq!(count, Ok(1));
            assert_eq!(into[..2], [0x33, 0]);
            assert!(into[96..96 + PAGE_BYTES].iter().all(|byte| *byte == 0x22));
            assert!(into[96 + PAGE_BYTES..].iter().all(|byte| *byte == 0));
        });
    });
}

#[test]
fn bytes_around_a_write_are_clear() {
    with_file(|_, daemon, client, file| {
        let mut buffer = Vec::new();
        let from = placed(&mut buffer, 100, 50);
        from.fill(0x44);
        std::thread::scope(|scope| {
            let daemon = daemon.guard();
            scope.spawn(|| client.pwrite(file, from, 0).unwrap());
            let sqe = daemon.take_one(Opcode::Write);
            let lent = pages(sqe.args[1], sqe.args[2]);
            let expected: Vec<u8> = (0..PAGE_BYTES)
                .map(|at| if (100..150).contains(&at) { 0x44 } else { 0 })
                .collect();
            assert_eq!(lent, expected);
            daemon.answer(&[answer(&sqe, Ok(50))]).unwrap();
        });
    });
}

#[test]
fn nothing_is_lent_at_an_address_that_is_none() {
    with_file(|machine, daemon, client, file| {
        std::thread::scope(|scope| {
            let daemon = daemon.guard();
            scope.spawn(|| client.pread(file, &mut [], 0).unwrap());
            let sqe = daemon.take_one(Opcode::Read);
            assert_eq!((sqe.args[1], sqe.args[2]), (1 << 63, 0));
            assert_eq!(machine.lent_bytes(), 0);
            daemon.answer(&[answer(&sqe, Ok(0))]).unwrap();
        });
    });
}

#[test]
fn no_address_is_lent_twice_in_a_row() {
    with_file(|_, daemon, client, file| {
        let mut addresses = std::collections::HashSet::new();
        for _ in 0..100 {
            std::thread::scope(|scope| {
                let daemon = daemon.guard();
                scope.spawn(|| client.pread(file, &mut [0; 64], 0).unwrap());
                let sqe = daemon.take_one(Opcode::Read);
                assert!(addresses.insert(sqe.args[1] & !4095));
                daemon.answer(&[answer(&sqe, Ok(0))]).unwrap();
            });
        }
    });
}

/// What happens to whoever touches a page after the answer is nothing that a test survives, so a child does it.
#[test]
fn a_page_that_was_taken_back_cannot_be_touched() {
    const ROLE: &str = "NVME_REDOX_MODEL_TOUCH";
    const NAME: &str = "payloads::a_page_that_was_taken_back_cannot_be_touched";
    if let Ok(role) = std::env::var(ROLE) {
        with_file(|_, daemon, client, file| {
            std::thread::scope(|scope| {
                let daemon = daemon.guard();
                scope.spawn(|| client.pread(file, &mut [0; 64], 0).unwrap());
                let sqe = daemon.take_one(Opcode::Read);
                payload(sqe)[0] = 1;
                daemon.answer(&[answer(&sqe, Ok(64))]).unwrap();
                if role == "late" {
                    payload(sqe)[1] = 2;
                }
                scope.spawn(|| client.pwrite(file, &[0; 64], 0).unwrap());
                let sqe = daemon.take_one(Opcode::Write);
                if role == "write" {
                    payload(sqe)[0] = 1;
                }
                daemon.answer(&[answer(&sqe, Ok(64))]).unwrap();
            });
        });
        return;
    }
    let run = |role: &str| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let child = child.args([NAME, "--exact", "--nocapture"]).env(ROLE, role);
        std::os::unix::process::ExitStatusExt::signal(&child.output().unwrap().status)
    };
    const SEGV: i32 = 11;
    assert_eq!(run("polite"), None);
    assert_eq!(run("late"), Some(SEGV));
    assert_eq!(run("write"), Some(SEGV), "what is written from is read only");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_buffer_arrives_and_comes_back(
        offset in 0..PAGE_BYTES,
        len_bytes in prop_oneof![0..100_usize, 4000..4200_usize, 0..20_000_usize],
        seed in any::<u64>(),
    ) {
        let machine = Machine::new(MachineConfig::default());
        let keeper = Keeper::start(&machine, "echo", 1 << 16, 1);
        let client = machine.client(0, 0);
        let file = client.open("/scheme/echo/", 0).unwrap();
        let (mut from, mut into) = (Vec::new(), Vec::new());
        let from = placed(&mut from, offset, len_bytes);
        fastrand::Rng::with_seed(seed).fill(from);
        prop_assert_eq!(client.pwrite(file, from, 7), Ok(len_bytes));
        let target = placed(&mut into, (offset * 7) % PAGE_BYTES, len_bytes);
        prop_assert_eq!(client.pread(file, target, 7), Ok(len_bytes));
        prop_assert_eq!(&*target, &*from);
        // Nothing around it has changed.
        let changed = into.iter().filter(|byte| **byte != 0x11).count();
        prop_assert!(changed <= len_bytes);
        drop(keeper);
        prop_assert_eq!(machine.lent_bytes(), 0);
    }
}
