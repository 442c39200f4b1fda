//! Data: a seeded workload against a model of the disk.

use std::num::NonZeroU32;

use nvme_driver::config::{PollingMode, SchedulerKind};
use nvme_driver::driver::{Class, Hint, Priority};
use nvme_driver::{Buffer, Config, Driver, IoError, Op, Request};
use nvme_spec::Status;
use nvme_tests::{Answers, Rig};

/// One run: a device, a configuration, a seed.
struct Run {
    spec: &'static str,
    config: Config,
    seed: u64,
    requests: u32,
    /// Requests outstanding at most.
    depth: usize,
    /// Blocks of one request at most: several times MDTS.
    max_blocks: u64,
    /// Whether the scheduler changes now and then.
    changes: bool,
}

/// A request that is out, and what the model says of it.
struct Out {
    op: Op,
    slba: u64,
    blocks: u64,
    nsid: usize,
    /// What the device must have compared equal or not.
    differs: bool,
}

fn overlaps(out: &Out, nsid: usize, slba: u64, blocks: u64) -> bool {
    out.nsid == nsid && slba < out.slba + out.blocks && out.slba < slba + blocks
}

fn changes(op: Op) -> bool {
    matches!(op, Op::Write { .. } | Op::WriteZeroes { .. } | Op::Deallocate)
}

/// A buffer of `len` bytes: the driver's own memory, or anybody's at an odd place.
fn buffer(driver: &Driver, rng: &mut fastrand::Rng, len: usize) -> Buffer {
    match rng.u8(0..4) {
        0 if len <= 1 << 20 => Buffer::Dma(driver.allocate(len).unwrap()),
        1 => Buffer::heap(vec![0; len]),
        // Any place, also one that is no multiple of 4.
        _ => {
            let offset = rng.usize(0..5000);
            Buffer::Heap {
                bytes: vec![0; offset + len],
                offset,
            }
        }
    }
}

fn verify(run: &Run) {
    let rig = Rig::new(run.spec, &run.config);
    let driver = &rig.driver;
    let namespaces = driver.namespaces();
    let mut rng = fastrand::Rng::with_seed(run.seed);
    let mut disks: Vec<Vec<u8>> = namespaces
        .iter()
        .map(|namespace| vec![0; namespace.size_bytes() as usize])
        .collect();
    let answers = Answers::default();
    let sink = answers.sink();
    let mut out: Vec<Option<Out>> = Vec::new();
    let (mut sent, mut done, mut refused) = (0, 0, 0);
    while done < run.requests {
        let outstanding = (sent - done) as usize;
        if run.changes && rng.u8(0..16) == 0 {
            driver.set_scheduler(SchedulerKind::ALL[rng.usize(0..SchedulerKind::ALL.len())]);
        }
        if sent < run.requests && outstanding < run.depth {
            let nsid = rng.usize(0..namespaces.len());
            let namespace = &namespaces[nsid];
            let most = if rng.bool() { 4 } else { run.max_blocks };
            let blocks = 1 + rng.u64(0..most);
            let blocks = blocks.min(namespace.blocks);
            let slba = rng.u64(0..=namespace.blocks - blocks);
            let op = match rng.u8(0..100) {
                0..40 => Op::Read,
                40..75 => Op::Write { fua: rng.bool() },
                75..80 => Op::Flush,
                80..85 => Op::WriteZeroes {
                    deallocate: rng.bool(),
                },
                85..88 => Op::Deallocate,
                88..96 => Op::Compare,
                _ => Op::Verify,
            };
            // What is on the disk while two requests change the same blocks is nobody's promise.
            let clash = out
                .iter()
                .flatten()
                .any(|other| (changes(op) || changes(other.op)) && overlaps(other, nsid, slba, blocks));
            if !clash || outstanding == 0 {
                let bytes =
                    (slba << namespace.lba_shift) as usize..((slba + blocks) << namespace.lba_shift) as usize;
                let disk = &mut disks[nsid][bytes];
                let mut differs = false;
                let mut data = if op.has_data() {
                    buffer(driver, &mut rng, disk.len())
                } else {
                    Buffer::None
                };
                match op {
                    Op::Write { .. } => {
                        rng.fill(data.as_mut_slice());
                        disk.copy_from_slice(data.as_slice());
                    }
                    // The emulated device reads deallocated blocks as zeroes (DLFEAT says so).
                    Op::WriteZeroes { .. } | Op::Deallocate => disk.fill(0),
                    Op::Compare => {
                        data.as_mut_slice().copy_from_slice(disk);
                        differs = rng.bool();
                        if differs {
                            let at = rng.usize(0..disk.len());
                            data.as_mut_slice()[at] ^= 1 << rng.u8(0..8);
                        }
                    }
                    // What is there before the read must not look like its result.
                    Op::Read => data.as_mut_slice().fill(0xEE),
                    Op::Flush | Op::Verify | Op::Passthrough => {}
                }
                let tag = out.iter().position(Option::is_none).unwrap_or(out.len());
                if tag == out.len() {
                    out.push(None);
                }
                let blocks = if op == Op::Flush { 0 } else { blocks };
                out[tag] = Some(Out {
                    op,
                    slba,
                    blocks,
                    nsid,
                    differs,
                });
                let request = Request {
                    op,
                    nsid: namespace.nsid,
                    slba,
                    blocks,
                    buffer: data,
                    arrived_ns: driver.clock().now_ns(),
                    context: Answers::remote(&sink, tag as u64),
                };
                driver.submit(
                    Hint {
                        cpu: Some(rng.u32(..)),
                        client: rng.u64(..),
                        class: Class {
                            priority: Priority::ALL[rng.usize(0..4)],
                            deadline_us: NonZeroU32::new(rng.u32(0..3) * 100),
                        },
                    },
                    request,
                );
                sent += 1;
                continue;
            }
        }
        let (tag, finished) = answers.next();
        let Out {
            op,
            slba,
            blocks,
            nsid,
            differs,
        } = out[tag as usize].take().expect("answered once");
        done += 1;
        if finished.result == Err(IoError::Busy) {
            refused += 1;
            continue;
        }
        let wanted = if differs {
            Err(Status::COMPARE_FAILURE.code())
        } else {
            Ok(())
        };
        let got = finished.result.map_err(|error| match error {
            IoError::Status(status) => status.code(),
            other => panic!("{op:?} of {blocks} blocks at {slba}: {other}"),
        });
        assert_eq!(
            got, wanted,
            "{op:?} of {blocks} blocks at {slba}, seed {}",
            run.seed
        );
        if op == Op::Read {
            let shift = namespaces[nsid].lba_shift;
            let disk = &disks[nsid][(slba << shift) as usize..((slba + blocks) << shift) as usize];
            assert!(
                finished.buffer.as_slice() == disk,
                "read of {blocks} blocks at {slba}, seed {}",
                run.seed
            );
        }
    }
    assert_eq!(refused, 0, "the inbox holds more than the test has outstanding");
    assert_eq!(rig.device.counters().dma_faults, 0);
    let used = rig
        .device
        .counters()
        .queues
        .iter()
        .filter(|queue| queue.qid > 0 && queue.fetched > 0)
        .count();
    assert_eq!(used, driver.queues(), "all queues had work");
    driver.shutdown().unwrap();
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config {
        num_queues: 3,
        ..Config::default()
    };
    change(&mut config);
    config
}

#[test]
fn data_is_what_was_written_with_zero_copy() {
    verify(&Run {
        spec: "size=4MiB,lba=4096,mdts=128KiB,seed=1",
        config: config(|_| ()),
        seed: 1,
        requests: 3000,
        depth: 200,
        max_blocks: 150,
        changes: false,
    });
}

#[test]
fn data_is_what_was_written_through_bounce_pages() {
    verify(&Run {
        spec: "size=2MiB,lba=512,mdts=16KiB,seed=2",
        config: config(|config| config.zero_copy = false),
        seed: 2,
        requests: 3000,
        depth: 200,
        max_blocks: 200,
        changes: false,
    });
}

#[test]
fn data_is_what_was_written_on_several_namespaces_with_short_queues() {
    verify(&Run {
        spec: "size=1MiB,namespaces=3,lba=512/4096/512,mdts=8KiB,depth=4,seed=3",
        config: config(|config| {
            config.polling = PollingMode::Interrupt.into();
            config.scheduler = SchedulerKind::RoundRobin;
        }),
        seed: 3,
        requests: 2000,
        depth: 40,
        max_blocks: 60,
        changes: false,
    });
}

#[test]
fn data_is_what_was_written_without_a_limit_of_the_controller() {
    verify(&Run {
        spec: "size=8MiB,lba=4096,mdts=none,channels=4,latency=lognormal:20us:0.5,seed=4",
        config: config(|config| {
            config.polling = PollingMode::Polling.into();
            config.scheduler = SchedulerKind::None;
        }),
        seed: 4,
        requests: 600,
        depth: 24,
        max_blocks: 700,
        changes: false,
    });
}

/// More queues, and workers, than there are CPUs, under each scheduler.
#[test]
fn data_is_what_was_written_by_sixteen_workers_under_each_scheduler() {
    for (seed, scheduler) in (5..).zip(SchedulerKind::ALL) {
        verify(&Run {
            spec: "size=4MiB,lba=512,mdts=16KiB,queues=16,vectors=17,seed=5",
            config: config(|config| {
                config.num_queues = 16;
                config.queue_depth = 16;
                config.scheduler = scheduler;
                // Small, so that much waits.
                config.scheduler_window = 2;
                config.merge = true;
            }),
            seed,
            requests: 2000,
            depth: 200,
            max_blocks: 100,
            changes: false,
        });
    }
}

/// Requests change from one scheduler to the next while they wait.
#[test]
fn data_is_what_was_written_while_the_scheduler_changes() {
    verify(&Run {
        spec: "size=4MiB,lba=512,mdts=16KiB,channels=4,latency=lognormal:20us:0.5,seed=6",
        config: config(|config| {
            config.scheduler = SchedulerKind::Priority;
            config.scheduler_window = 1;
            config.merge = true;
        }),
        seed: 6,
        requests: 3000,
        depth: 200,
        max_blocks: 40,
        changes: true,
    });
}

#[test]
fn a_clients_own_command_whose_data_do_not_fit_it_is_refused() {
    use nvme_driver::passthrough::Passthrough;
    use nvme_spec::command;

    let rig = Rig::new("size=1MiB,lba=512,mdts=8KiB", &Config::default());
    let answers = Answers::default();
    let sink = answers.sink();
    let own = |entry, len| Buffer::Passthrough(Box::new(Passthrough::new(entry, vec![1; len])));
    let vendor = nvme_spec::SubmissionEntry {
        opcode: 0x82,
        ..Default::default()
    };
    for (buffer, wanted) in [
        (own(command::read(1, 0, 2), 1024), Ok(())),
        (own(command::read(1, 0, 2), 1023), Err(IoError::NotAllowed)),
        (own(command::read(1, 0, 2), 1536), Err(IoError::NotAllowed)),
        (
            own(command::write(1, 0, 17, false), 17 * 512),
            Err(IoError::NotAllowed),
        ),
        (own(vendor, 4096), Err(IoError::NotAllowed)),
        (Buffer::heap(vec![0; 512]), Err(IoError::NotAllowed)),
        (Buffer::None, Err(IoError::NotAllowed)),
    ] {
        let what = format!("{buffer:?}");
        let request = Request {
            op: Op::Passthrough,
            nsid: 1,
            slba: 0,
            blocks: 0,
            buffer,
            arrived_ns: 0,
            context: Answers::remote(&sink, 7),
        };
        rig.driver.submit(Hint::default(), request);
        assert_eq!(answers.next().1.result, wanted, "{what}");
    }
    assert_eq!(rig.device.counters().io_completed(), 1);
    assert_eq!(rig.device.counters().dma_faults, 0);
}

#[test]
fn a_request_that_cannot_be_is_refused_and_changes_nothing() {
    let rig = Rig::new("size=1MiB,lba=512", &Config::default());
    let answers = Answers::default();
    let sink = answers.sink();
    let blocks = rig.driver.namespaces()[0].blocks;
    let cases = [
        (Op::Read, 1, blocks, 1, 512, IoError::OutOfRange),
        (Op::Read, 1, u64::MAX, 1, 512, IoError::OutOfRange),
        (Op::Read, 1, 1, u64::MAX, 512, IoError::OutOfRange),
        (Op::Verify, 1, blocks - 1, 2, 0, IoError::OutOfRange),
        (Op::Read, 1, 0, 0, 512, IoError::Empty),
        (Op::Deallocate, 1, 0, 0, 0, IoError::Empty),
        (Op::Write { fua: false }, 1, 0, 2, 1023, IoError::BufferTooSmall),
        (Op::Read, 2, 0, 1, 512, IoError::NoNamespace),
        (Op::Flush, u32::MAX, 0, 0, 0, IoError::NoNamespace),
    ];
    for (op, nsid, slba, blocks, len, why) in cases {
        let context = Answers::remote(&sink, 7);
        let buffer = Buffer::heap(vec![1; len]);
        rig.driver.submit(
            Hint::default(),
            Request {
                op,
                nsid,
                slba,
                blocks,
                buffer,
                arrived_ns: 0,
                context,
            },
        );
        let (tag, finished) = answers.next();
        assert_eq!((tag, finished.result), (7, Err(why)), "{op:?} {slba} {blocks}");
        assert_eq!(
            finished.buffer.as_slice(),
            vec![1; len],
            "the buffer comes back as it was"
        );
    }
    assert_eq!(rig.device.counters().io_completed(), 0);
}
