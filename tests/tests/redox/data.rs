//! Data through both schemes, by many clients at a time.

use super::rig::{DISKS, Rig, Skewed, open};
use nvme_driver::Config;
use nvme_driver::config::SchedulerKind;
use nvme_redox_model::{ControllerConfig, Quirks};

const BLOCK: usize = 512;
/// Each thread's own part of the disk.
const PART: usize = 256 * BLOCK;

/// One thread's reads and writes, at any offset and length and from any address, against a copy of its own.
fn work(client: &nvme_redox_model::Client, disk: usize, part: usize, seed: u64, rounds: usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let base = (part * PART) as u64;
    let mut model = vec![0u8; PART];
    assert_eq!(client.pwrite(disk, &model, base), Ok(PART));
    for round in 0..rounds {
        let aligned = random.bool();
        let (mut offset, mut len) = (random.usize(..PART), random.usize(1..20_000));
        if aligned {
            (offset, len) = (offset / BLOCK * BLOCK, len.next_multiple_of(BLOCK));
        }
        len = len.min(PART - offset);
        let skew = match random.u8(..3) {
            0 => 0,
            1 => random.usize(..1024) * 4,
            _ => random.usize(..4096),
        };
        let mut buffer = Skewed::new(len, skew);
        let at = base + offset as u64;
        if random.bool() {
            let bytes = buffer.get();
            random.fill(bytes);
            assert_eq!(client.pwrite(disk, bytes, at), Ok(len), "round {round}");
            model[offset..offset + len].copy_from_slice(bytes);
        } else {
            assert_eq!(client.pread(disk, buffer.get(), at), Ok(len), "round {round}");
            assert_eq!(
                buffer.get(),
                &model[offset..offset + len],
                "round {round} at {offset}, {len} bytes"
            );
        }
    }
}

/// Two namespaces: one is worked on through its disk, the other through the scheme `nvme`.
const TWO_DISKS: &str = "size=16MiB,namespaces=2,lba=512,seed=3";

fn sixty_four_clients(rig: &Rig) {
    let client = rig.root();
    let disks = [
        open(&client, &format!("{DISKS}/1")),
        open(&client, "/scheme/nvme/2"),
    ];
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let client = &client;
            let disk = disks[thread % 2];
            scope.spawn(move || work(client, disk, thread / 2, thread as u64, 40));
        }
    });
    for disk in disks {
        assert_eq!(client.fsync(disk), Ok(()));
        assert_eq!(client.older().fsync(disk), Ok(()));
        client.close(disk).unwrap();
    }
    rig.check();
}

#[test]
fn sixty_four_clients_over_two_schemes_read_what_they_wrote() {
    sixty_four_clients(&Rig::new(TWO_DISKS));
}

#[test]
fn also_with_a_queue_on_each_of_two_cpus() {
    let config = Config {
        num_queues: 2,
        ..Config::default()
    };
    sixty_four_clients(&Rig::on(
        2,
        ControllerConfig::new(TWO_DISKS),
        Quirks::default(),
        &config,
    ));
}

#[test]
fn also_with_a_line_and_small_commands_and_a_clock_that_steps_back() {
    let controller = ControllerConfig {
        msix: None,
        msi: false,
        ..ControllerConfig::new("size=16MiB,namespaces=2,lba=512,mdts=8KiB")
    };
    let quirks = Quirks {
        clock_steps_back_every: Some(7),
        ..Quirks::default()
    };
    sixty_four_clients(&Rig::on(1, controller, quirks, &Config::default()));
}

#[test]
fn also_when_requests_go_to_other_workers_than_those_who_took_them() {
    let config = Config {
        num_queues: 3,
        scheduler: SchedulerKind::RoundRobin,
        ..Config::default()
    };
    sixty_four_clients(&Rig::on(
        2,
        ControllerConfig::new(TWO_DISKS),
        Quirks::default(),
        &config,
    ));
}

/// A device that answers nothing for a while sees as many commands as there are clients; requests come in batches, and
/// whoever asks how things stand is answered meanwhile.
#[test]
fn all_that_clients_ask_is_with_the_device_and_answers_go_together() {
    let rig = Rig::with(
        "size=16MiB,lba=512",
        &Config {
            num_queues: 1,
            ..Config::default()
        },
    );
    let client = rig.root();
    let disk = open(&client, "/scheme/nvme/1");
    let held = rig.machine.controller(0).hold();
    std::thread::scope(|scope| {
        for thread in 0..64_u64 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..4 {
                    let mut bytes = [0; 4096];
                    assert_eq!(
                        client.pread(disk, &mut bytes, (thread * 4 + round) * 4096),
                        Ok(4096)
                    );
                }
            });
        }
        client.wait_until_taken(64);
        assert!(rig.stats().clients.unwrap().root.calls >= 1);
        drop(held);
    });
    let stats = rig.stats();
    let socket = stats
        .sockets
        .iter()
        .find(|socket| socket.scheme == "nvme")
        .unwrap();
    assert!(socket.requests >= 256);
    assert!(socket.reads < socket.requests, "{socket:?}");
    assert!(socket.writes < socket.answers, "{socket:?}");
    #[cfg(feature = "performance-counters")]
    {
        let queue = stats.queues.iter().find(|queue| queue.qid == 1).unwrap();
        let counters = queue.counters.as_ref().unwrap();
        assert_eq!(counters.inflight_max, 64);
    }
    rig.check();
}

#[test]
fn ends_are_where_they_are() {
    let rig = Rig::new("size=1MiB,lba=512");
    let client = rig.root();
    let disk = open(&client, &format!("{DISKS}/1"));
    let end = 1 << 20;
    assert_eq!(client.fsize(disk), Ok(end));
    assert_eq!(client.seek_end(disk), Ok(end));
    let mut bytes = [1; 1024];
    assert_eq!(client.pread(disk, &mut bytes, end - 100), Ok(100));
    assert_eq!(client.pread(disk, &mut bytes, end), Ok(0));
    assert_eq!(client.pread(disk, &mut bytes, u64::MAX - 10), Ok(0));
    assert_eq!(client.pwrite(disk, &bytes, end - 512), Ok(512));
    let no_space = client.pwrite(disk, &bytes, end).unwrap_err();
    assert_eq!(no_space.errno, syscall::error::ENOSPC);
    assert_eq!(client.pread(disk, &mut [], 0), Ok(0));
    assert_eq!(client.ftruncate(disk, 5), Ok(()), "changes nothing");
    assert_eq!(
        client.ftruncate(disk, end + 1).unwrap_err().errno,
        syscall::error::EINVAL
    );
    assert_eq!(client.fsize(disk), Ok(end));
    rig.check();
}
