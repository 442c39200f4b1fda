//! A scheme's socket, from both sides.

use nvme_redox_model::{Machine, MachineConfig, Operation, What};
use syscall::error::{
    EACCES, EAGAIN, EBADF, EBADFD, ECANCELED, EEXIST, EINTR, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP, Error,
};
use syscall::flag::{EventFlags, MapFlags, MunmapFlags, StdFsCallKind};
use syscall::schemev2::{Cqe, CqeOpcode, Opcode, Sqe, SqeFlags};

use crate::daemon::{Daemon, FILE, Keeper, ROOT, answer, payload};

fn errno<T>(result: syscall::error::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno)
}

#[test]
fn eight_threads_keep_what_eight_threads_write() {
    const BLOCK_BYTES: usize = 6000;
    let machine = Machine::new(MachineConfig::default());
    let keeper = Keeper::start(&machine, "echo", 16 * BLOCK_BYTES, 8);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let client = machine.client(u32::from(thread), 0);
            scope.spawn(move || {
                let file = client.open("/scheme/echo/file", syscall::O_RDWR).unwrap();
                for round in 0..50_u8 {
                    let offset = u64::from(thread) * 2 * BLOCK_BYTES as u64;
                    let block = vec![thread ^ round; BLOCK_BYTES];
                    assert_eq!(client.pwrite(file, &block, offset), Ok(BLOCK_BYTES));
                    let mut back = vec![0; BLOCK_BYTES];
                    assert_eq!(client.pread(file, &mut back, offset), Ok(BLOCK_BYTES));
                    assert_eq!(back, block);
                    assert_eq!(errno(client.pread(file, &mut back, 1 << 40)), EINVAL);
                }
                client.close(file).unwrap();
            });
        }
    });
    drop(keeper);
    assert_eq!(machine.lent_bytes(), 0);
    assert_eq!(machine.answers_refused(), 0);
    assert_eq!(machine.open_descriptors(), []);
}

#[test]
fn one_read_takes_a_batch_and_one_write_answers_it() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "batch");
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let opened = scope.spawn(|| client.open("/scheme/batch/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        let file = opened.join().unwrap();
        for n in 0..8 {
            let client = &client;
            scope.spawn(move || {
                let mut byte = [0];
                assert_eq!(client.pread(file, &mut byte, n), Ok(1));
                assert_eq!(u64::from(byte[0]), 3 * n);
            });
        }
        client.wait_until_sent(8);
        let before = machine.calls();
        let taken = daemon.take::<16>();
        assert_eq!(taken.len(), 8);
        let mut answers: Vec<Cqe> = taken
            .iter()
            .map(|sqe| {
                payload(*sqe)[0] = 3 * sqe.args[3] as u8;
                answer(sqe, Ok(1))
            })
            .collect();
        answers.reverse();
        assert_eq!(daemon.answer(&answers), Ok(8));
        let calls = machine.calls().since(&before);
        assert_eq!(calls.count(Operation::Read, What::Socket), 1);
        assert_eq!(calls.count(Operation::Write, What::Socket), 1);
        assert_eq!(calls.total(), 2);
    });
    assert_eq!(errno(daemon.try_take::<1>()), EAGAIN);
}

#[test]
fn what_is_in_the_entries() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "entries");
    let client = machine.client(11, 22);
    let who = 11 | 22 << 32;
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let opened =
            scope.spawn(move || client.open("/scheme/entries/a/b", syscall::O_RDWR | syscall::O_CLOEXEC));
        let sqe = daemon.take_one(Opcode::OpenAt);
        // From the root, without a slash at the start, by somebody else.
        assert_eq!(
            (sqe.args[0], payload(sqe).to_vec()),
            (ROOT as u64, b"a/b".to_vec())
        );
        assert_eq!(
            (sqe.args[1] % 4096, sqe.args[3], sqe.args[5]),
            (0, syscall::O_RDWR as u64, who)
        );
        assert_eq!(sqe.caller, 0);
        let positioned = Cqe {
            extra_raw: [1, 0, 0],
            ..answer(&sqe, Ok(FILE))
        };
        daemon.answer(&[positioned]).unwrap();
        let file = opened.join().unwrap().unwrap();

        let done = scope.spawn(move || {
            let mut bytes = [0; 10];
            client.read(file, &mut bytes).unwrap();
            client.read(file, &mut bytes).unwrap();
            client.fstat(file).unwrap();
            client.older().fstat(file).unwrap();
            client.call(file, &mut bytes, &[1, 2, 3, 4]).unwrap();
            client.call(file, &mut bytes, &[1]).unwrap();
            client.getdents(file, &mut bytes, 5).unwrap();
            client.older().getdents(file, &mut bytes, 5).unwrap();
            client.seek_end(file).unwrap();
            client.write(file, b"!").unwrap();
            client.fcntl(file, syscall::F_GETFL, 6).unwrap()
        });
        let next = |opcode, result| {
            let sqe = daemon.take_one(opcode);
            daemon.answer(&[answer(&sqe, Ok(result))]).unwrap();
            assert_eq!((sqe.args[0], sqe.caller), (FILE as u64, client.pid()));
            sqe.args
        };
        let [.., offset, flags, caller] = next(Opcode::Read, 7);
        assert_eq!(
            (offset, flags, caller),
            (0, syscall::O_RDWR as u64 | syscall::O_CLOEXEC as u64, who)
        );
        assert_eq!(next(Opcode::Read, 3)[3], 7);
        // Three words of the caller's, and nothing of who it is.
        assert_eq!(
            next(Opcode::StdFsCall, 0)[3..],
            [StdFsCallKind::Fstat as u64, 0, 0]
        );
        assert_eq!(next(Opcode::Fstat, 0)[5], who);
        assert_eq!(next(Opcode::Call, 0)[3..], [1, 2, 3]);
        assert_eq!(next(Opcode::Call, 0)[3..], [1, 0, 0]);
        assert_eq!(
            next(Opcode::StdFsCall, 0)[3..],
            [StdFsCallKind::Getdents as u64, 5, 19]
        );
        assert_eq!(next(Opcode::Getdents, 0)[3..], [19, 5, who]);
        next(Opcode::Fsize, 4096);
        assert_eq!(next(Opcode::Write, 1)[3], 4096);
        assert_eq!(next(Opcode::Fcntl, 0)[1..3], [syscall::F_GETFL as u64, 6]);
        done.join().unwrap();
    });
}

#[test]
fn a_file_is_closed_when_its_last_descriptor_is() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "close");
    let client = machine.client(0, 0);
    let file = std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let opened = scope.spawn(|| client.open("/scheme/close/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        opened.join().unwrap()
    });
    let twin = client.dup(file, b"").unwrap();
    client.close(file).unwrap();
    assert_eq!(errno(client.close(file)), EBADF);
    assert_eq!(errno(daemon.try_take::<1>()), EAGAIN);
    client.close(twin).unwrap();
    let sqe = daemon.take_one(Opcode::CloseMsg);
    assert_eq!((sqe.args[0], sqe.caller, sqe.args[5]), (FILE as u64, 0, 0));
    // It has no answer: tag 0 is nothing of its own.
    assert_eq!(errno(daemon.answer(&[answer(&sqe, Ok(0))])), EBADFD);
}

#[test]
fn a_scheme_that_wants_to_hear_of_the_next_close_does() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "lock");
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let locked = scope.spawn(move || {
            let file = client.open("/scheme/lock/", 0).unwrap();
            client
                .std_fs_call(file, StdFsCallKind::Lock, [0, 0], &mut [])
                .unwrap();
            client.dup(file, b"").unwrap()
        });
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        let sqe = daemon.take_one(Opcode::StdFsCall);
        let notify = Cqe {
            flags: CqeOpcode::RespondAndNotifyOnDetach as u8,
            ..answer(&sqe, Ok(0))
        };
        daemon.answer(&[notify]).unwrap();
        client.close(locked.join().unwrap()).unwrap();
        let sqe = daemon.take_one(Opcode::Detach);
        assert_eq!((sqe.args[0], sqe.caller), (FILE as u64, client.pid()));
    });
}

#[test]
fn the_kernel_looks_at_answers() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "answers");
    let client = machine.client(0, 0);
    let unknown = Cqe {
        tag: 5,
        ..Cqe::default()
    };
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let call = |opcode| {
            scope.spawn(move || {
                client.raw(
                    "answers",
                    Sqe {
                        opcode,
                        ..Sqe::default()
                    },
                )
            })
        };
        assert_eq!(errno(daemon.answer(&[unknown])), EBADFD);
        let first = call(99);
        let sqe = daemon.take::<1>()[0];
        assert_eq!(sqe.opcode, 99);
        // An opcode that there is not is refused, a tag that waits stays.
        let nonsense = Cqe {
            flags: 7,
            ..answer(&sqe, Ok(1))
        };
        assert_eq!(errno(daemon.answer(&[nonsense])), EINVAL);
        let obtain = Cqe {
            flags: CqeOpcode::ObtainFd as u8,
            ..answer(&sqe, Ok(1))
        };
        assert_eq!(errno(daemon.answer(&[obtain])), EOPNOTSUPP);
        // The first one is taken, the ones from the bad one on are not.
        let second = call(98);
        let other = daemon.take::<1>()[0];
        let answers = [answer(&sqe, Ok(41)), unknown, answer(&other, Ok(42))];
        assert_eq!(daemon.answer(&answers), Ok(1));
        assert_eq!(first.join().unwrap(), Ok(41));
        assert_eq!(daemon.answer(&answers[2..]), Ok(1));
        assert_eq!(second.join().unwrap(), Ok(42));
        // EINTR and ECANCELED are no answers of their own to what nobody cancels.
        let third = call(97);
        let sqe = daemon.take::<1>()[0];
        daemon.answer(&[answer(&sqe, Err(Error::new(EINTR)))]).unwrap();
        assert_eq!(errno(third.join().unwrap()), EIO);
        let fourth = call(96);
        let sqe = daemon.take::<1>()[0];
        daemon
            .answer(&[answer(&sqe, Err(Error::new(ECANCELED)))])
            .unwrap();
        assert_eq!(errno(fourth.join().unwrap()), ECANCELED);
    });
    assert_eq!(machine.answers_refused(), 4);
}

#[test]
fn a_signal_asks_for_the_end_of_a_call() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "cancel");
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let call = || {
            scope.spawn(move || {
                client.raw(
                    "cancel",
                    Sqe {
                        opcode: 99,
                        ..Sqe::default()
                    },
                )
            })
        };
        let cancelled = call();
        let sqe = daemon.take::<1>()[0];
        assert_eq!(client.interrupt(), 1);
        assert_eq!(client.interrupt(), 0, "once is enough");
        let cancel = daemon.take_one(Opcode::Cancel);
        assert_eq!(
            (cancel.tag, cancel.sqe_flags.bits()),
            (sqe.tag, SqeFlags::ONEWAY.bits())
        );
        assert_eq!((cancel.args, cancel.caller), ([0; 6], 0));
        daemon
            .answer(&[answer(&sqe, Err(Error::new(ECANCELED)))])
            .unwrap();
        assert_eq!(errno(cancelled.join().unwrap()), EINTR);
        // A daemon may also finish.
        let finished = call();
        let sqe = daemon.take::<1>()[0];
        client.interrupt();
        daemon.answer(&[answer(&sqe, Ok(12))]).unwrap();
        assert_eq!(finished.join().unwrap(), Ok(12));
        // The cancellation is still there, with a tag that is somebody else's by now.
        let later = call();
        client.wait_until_sent(1);
        let taken = daemon.take::<4>();
        let opcodes: Vec<u8> = taken.iter().map(|sqe| sqe.opcode).collect();
        assert_eq!(opcodes, [Opcode::Cancel as u8, 99]);
        assert_eq!(taken[0].tag, taken[1].tag);
        daemon.answer(&[answer(&taken[1], Ok(13))]).unwrap();
        assert_eq!(later.join().unwrap(), Ok(13));
    });
}

#[test]
fn what_a_client_lent_outlives_it() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "kill");
    let (client, other) = (machine.client(0, 0), machine.client(0, 0));
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let opened = scope.spawn(move || client.open("/scheme/kill/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        let file = opened.join().unwrap();
        let killed = scope.spawn(move || client.pread(file, &mut vec![0; 20_000], 0));
        let sqe = daemon.take_one(Opcode::Read);
        client.kill();
        assert_eq!(errno(killed.join().unwrap()), EINTR);
        // No cancellation, and the file is closed. The pages are there.
        assert_eq!(daemon.take_one(Opcode::CloseMsg).args[0], FILE as u64);
        assert!(machine.lent_bytes() >= 20_000);
        payload(sqe).fill(1);
        // Nobody else gets the tag before it is answered.
        let other = &other;
        let call = || {
            scope.spawn(move || {
                other.raw(
                    "kill",
                    Sqe {
                        opcode: 99,
                        ..Sqe::default()
                    },
                )
            })
        };
        let first = call();
        let new = daemon.take::<1>()[0];
        assert_ne!(new.tag, sqe.tag);
        daemon.answer(&[answer(&sqe, Ok(20_000))]).unwrap();
        let second = call();
        let newer = daemon.take::<1>()[0];
        assert_eq!(newer.tag, sqe.tag);
        daemon
            .answer(&[answer(&new, Ok(5)), answer(&newer, Ok(6))])
            .unwrap();
        assert_eq!((first.join().unwrap(), second.join().unwrap()), (Ok(5), Ok(6)));
        assert_eq!(machine.lent_bytes(), 0);
    });
}

#[test]
fn whoever_waits_for_a_daemon_that_goes_is_told() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "gone");
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let client = &client;
        let call = scope.spawn(move || client.open("/scheme/gone/", 0));
        client.wait_until_sent(1);
        drop(daemon);
        assert_eq!(errno(call.join().unwrap()), ENODEV);
    });
    assert_eq!(errno(client.open("/scheme/gone/", 0)), ENOENT);
    assert_eq!(machine.lent_bytes(), 0);
    assert_eq!(machine.schemes(), Vec::<String>::new());
}

#[test]
fn names_are_taken_once_and_not_after_the_namespace_is_left() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "name");
    let system = machine.system();
    let socket = system.create_scheme().unwrap();
    assert_eq!(errno(system.register_scheme(socket, "name", 0)), EEXIST);
    assert_eq!(errno(system.register_scheme(socket, "irq", 0)), EEXIST);
    system.register_scheme(socket, "name.2", 0).unwrap();
    assert_eq!(machine.schemes(), ["name", "name.2"]);
    let root = system.open("/scheme/memory/scheme-root", 0).unwrap();
    system.leave_namespace().unwrap();
    assert_eq!(errno(system.open("/scheme/event", 0)), ENOENT);
    assert_eq!(errno(system.list("/scheme/irq")), ENOENT);
    assert_eq!(errno(system.create_scheme()), ENOENT);
    assert_eq!(errno(system.register_scheme(socket, "name.3", 0)), ENOENT);
    system.openat(root, "translation", 0).unwrap();
    // It is this process that has left.
    daemon.system.open("/scheme/event", 0).unwrap();
}

#[test]
fn requests_for_what_no_disk_has() {
    let machine = Machine::new(MachineConfig::default());
    let daemon = Daemon::new(&machine, "odd");
    let client = machine.client(0, 0);
    std::thread::scope(|scope| {
        let daemon = daemon.guard();
        let client = &client;
        let opened = scope.spawn(move || client.open("/scheme/odd/", 0).unwrap());
        let sqe = daemon.take_one(Opcode::OpenAt);
        daemon.answer(&[answer(&sqe, Ok(FILE))]).unwrap();
        let file = opened.join().unwrap();
        let done = scope.spawn(move || {
            let flags = MapFlags::PROT_READ | MapFlags::MAP_SHARED;
            assert_eq!(errno(client.mmap(file, 4096, 8192, flags)), EACCES);
            assert_eq!(
                errno(client.munmap(file, 0, 4096, MunmapFlags::NEEDS_SYNC)),
                EACCES
            );
            assert_eq!(errno(client.sendfd(file, 9, 1)), EACCES);
            assert_eq!(errno(client.recvfd(file, 2)), EACCES);
            assert_eq!(errno(client.unlinkat(file, "x", 0)), EACCES);
            assert_eq!(errno(client.fevent(file, EventFlags::EVENT_READ)), EACCES);
            assert_eq!(errno(client.dup(file, b"name")), EACCES);
            assert_eq!(errno(client.fpath(file, &mut [0; 8])), EACCES);
            // As if it were something else.
            assert_eq!(errno(client.recvfd(file, 2)), EIO);
            assert_eq!(
                errno(client.raw(
                    "odd",
                    Sqe {
                        sqe_flags: SqeFlags::ONEWAY,
                        ..Sqe::default()
                    }
                )),
                0
            );
        });
        let opcodes = [
            Opcode::MmapPrep,
            Opcode::Munmap,
            Opcode::Sendfd,
            Opcode::Recvfd,
            Opcode::UnlinkAt,
            Opcode::Fevent,
            Opcode::Dup,
            Opcode::Fpath,
        ];
        for opcode in opcodes {
            let sqe = daemon.take_one(opcode);
            daemon.answer(&[answer(&sqe, Err(Error::new(EACCES)))]).unwrap();
        }
        let sqe = daemon.take_one(Opcode::Recvfd);
        daemon.answer(&[answer(&sqe, Ok(0))]).unwrap();
        assert_eq!(daemon.take::<1>()[0].opcode, 0);
        done.join().unwrap();
        let event = Cqe {
            flags: CqeOpcode::SendFevent as u8,
            tag: EventFlags::EVENT_READ.bits() as u32,
            result: FILE as u64,
            ..Cqe::default()
        };
        daemon.answer(&[event, event]).unwrap();
        assert_eq!(client.events(file).unwrap(), [EventFlags::EVENT_READ; 2]);
    });
}
