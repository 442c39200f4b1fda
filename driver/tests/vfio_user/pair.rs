//! The driver on our own server, in one process.

use nvme_driver::backend::vfio_user::{ConnectError, VfioUserBackend};
use nvme_driver::backend::{Backend, Departure};
use nvme_driver::config::PollingMode;
use nvme_driver::{Buffer, IoError, Op};
use nvme_spec::register;

use crate::rig::{Client, PATIENCE, Served};

#[test]
fn data_is_kept_with_interrupts_and_with_polling() {
    let served = Served::start("size=16MiB,threads=2");
    for (round, polling) in [
        PollingMode::Interrupt,
        PollingMode::Polling,
        PollingMode::Adaptive,
    ]
    .into_iter()
    .enumerate()
    {
        let client = Client::open(&served.socket, polling, 3);
        let queues = if cfg!(feature = "multi-queue") { 3 } else { 1 };
        assert_eq!(client.driver.queues(), queues);
        assert_eq!(client.driver.identity().backend, "vfio-user");
        client.verify(round as u64, 1000);
        client.driver.shutdown().unwrap();
    }
    let counters = served.emulator.counters();
    assert!(counters.interrupts > 0, "{counters:?}");
    assert_eq!(
        (counters.dma_faults, counters.invalid_doorbell_values),
        (0, 0),
        "{counters:?}"
    );
}

#[test]
fn interrupts_come_by_eventfd_when_nobody_looks() {
    let served = Served::start("size=4MiB,latency=2ms");
    let client = Client::open(&served.socket, PollingMode::Interrupt, 1);
    for block in 0..4 {
        client.write(block, vec![block as u8; 4096], 4096).unwrap();
    }
    let stats = client.driver.stats(false);
    let queue = stats.queues.iter().find(|queue| queue.qid == 1).unwrap();
    if let Some(counters) = &queue.counters {
        assert!(counters.interrupts > 0, "{counters:?}");
    }
    client.driver.shutdown().unwrap();
}

#[test]
fn the_next_client_finds_the_data_and_nothing_else_of_the_last_one() {
    let served = Served::start("size=4MiB");
    for round in 0..5u8 {
        let client = Client::open(&served.socket, PollingMode::Interrupt, 2);
        let found = client.read(7, 4096, 4096).unwrap();
        assert_eq!(found, vec![round; 4096]);
        client.write(7, vec![round + 1; 4096], 4096).unwrap();
        // In order the first time, and as if it had crashed afterwards.
        if round == 0 {
            client.driver.shutdown().unwrap();
        }
        drop(client);
    }
}

#[test]
fn a_second_client_is_sent_away_and_the_first_one_goes_on() {
    let served = Served::start("size=4MiB");
    let client = Client::open(&served.socket, PollingMode::Interrupt, 1);
    let second = VfioUserBackend::connect(&served.socket);
    assert!(matches!(second, Err(ConnectError::Busy(_))), "{second:?}");
    client.verify(1, 200);
    client.driver.shutdown().unwrap();
}

#[test]
fn several_block_sizes_strides_and_few_vectors() {
    for spec in [
        "size=4MiB,lba=512,dstrd=2",
        "size=4MiB,lba=512,vectors=1,queues=8",
        "size=4MiB,lba=512,vectors=2048,queues=200,threads=4,mdts=8KiB",
        "size=4MiB,lba=512,dbbuf=off,spin=0us",
    ] {
        let served = Served::start(spec);
        let client = Client::open(&served.socket, PollingMode::Adaptive, 4);
        for block in 0..50 {
            client.write(block, vec![block as u8; 512 * 40], 512).unwrap();
            assert_eq!(
                client.read(block, 512 * 40, 512).unwrap(),
                vec![block as u8; 512 * 40],
                "{spec}"
            );
        }
        client.driver.shutdown().unwrap();
    }
}

/// Whatever the driver is doing, the end of the server answers all of it.
#[test]
fn a_server_that_ends_at_any_moment_answers_every_request() {
    for seed in 0..12u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let polling = [
            PollingMode::Interrupt,
            PollingMode::Polling,
            PollingMode::Adaptive,
        ][random.usize(..3)];
        // Slow enough that something is out all the time.
        let mut served = Served::start("size=4MiB,latency=300us,channels=4");
        let client = Client::open(&served.socket, polling, 2);
        let after = random.usize(1..300);
        let (mut sent, mut answered, mut lost) = (0, 0, 0);
        while sent < after + 64 {
            if sent - answered < 64 {
                let op = if random.bool() {
                    Op::Read
                } else {
                    Op::Write { fua: false }
                };
                client.submit(op, random.u64(..1000), 1, Buffer::heap(vec![1; 4096]));
                sent += 1;
                if sent == after {
                    served.stop();
                }
                continue;
            }
            lost += usize::from(client.answer().result.is_err());
            answered += 1;
        }
        while answered < sent {
            let finished = client.answer();
            lost += usize::from(finished.result == Err(IoError::Lost));
            answered += 1;
        }
        assert!(lost > 0, "seed {seed}: nothing was out when the server ended");
        client.submit(Op::Read, 0, 1, Buffer::heap(vec![0; 4096]));
        assert_eq!(client.answer().result, Err(IoError::Lost), "seed {seed}");
        // It has nothing to shut down any more, and says so without waiting.
        let begin = std::time::Instant::now();
        let _ = client.driver.shutdown();
        assert!(begin.elapsed() < PATIENCE);
    }
}

#[test]
fn a_backend_whose_server_has_ended_reads_all_ones() {
    let mut served = Served::start("");
    let backend = VfioUserBackend::connect(&served.socket).unwrap();
    assert_eq!(backend.departure(), None);
    assert_ne!(backend.read64(register::CAP), u64::MAX);
    let mut waiter = backend.waiter(0).unwrap();
    // Woken by the end itself, which comes when the waiter is about to sleep.
    let (order, orders) = std::sync::mpsc::channel();
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        let served = &mut served;
        scope.spawn(move || {
            orders.recv().unwrap();
            served.stop();
        });
        while backend.departure().is_none() {
            waiter.wait(Some(PATIENCE), &mut || {
                let _ = order.send(());
                backend.departure().is_some()
            });
        }
    });
    assert!(begin.elapsed() < PATIENCE, "nobody was woken");
    assert_eq!(backend.departure(), Some(Departure::Gone));
    assert_eq!(
        (backend.read32(register::CSTS), backend.read64(register::CAP)),
        (u32::MAX, u64::MAX)
    );
    backend.write32(register::CC, 1);
    backend.doorbell(register::DOORBELLS).unwrap().ring(1);
    assert!(backend.allocate(64 << 20).is_err() && backend.cut_off());
}

#[test]
fn no_server_no_listener_and_no_permission_are_told_apart() {
    let folder = crate::rig::Folder::new();
    let path = folder.path("none");
    assert!(matches!(
        VfioUserBackend::connect(&path),
        Err(ConnectError::NoSocket(_))
    ));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(
        VfioUserBackend::connect(&path),
        Err(ConnectError::NobodyListens(_))
    ));
}
