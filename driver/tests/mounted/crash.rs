//! kill -9, again and again: what fsync has acknowledged is there afterwards.
//!
//! The device has a write cache that dies with the daemon, so that a write which only was answered is lost.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Signal;

use crate::rig::{Daemon, Folder, have};

const ROUNDS: u64 = 50;
const BLOCKS: u64 = 32;
const BLOCK_BYTES: u64 = 3000;

/// Of odd length, so that each write is one by read-modify-write, whose blocks are shared.
fn record(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(BLOCK_BYTES as usize - 8));
    bytes
}

#[test]
fn no_write_that_fsync_acknowledged_is_lost() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let (dir, file) = (folder.path("nvme"), folder.path("disk"));
    let spec = format!(
        "size=1MiB,lba=4096,cache=volatile,backing=file:{}",
        file.display()
    );
    let mut random = fastrand::Rng::with_seed(42);
    // The newest record of each place that fsync has acknowledged, and the newest one written there at all.
    let (mut safe, mut tried) = (vec![0_u64; BLOCKS as usize], vec![0_u64; BLOCKS as usize]);
    let mut number = 0;
    for round in 0..=ROUNDS {
        let daemon = Daemon::start_with(&spec, &dir, &["--log=error"], &[]);
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .open(daemon.path("1/data"))
            .expect("the disk");
        for place in 0..BLOCKS {
            let mut found = vec![0; BLOCK_BYTES as usize];
            disk.read_exact_at(&mut found, place * BLOCK_BYTES)
                .expect("a read");
            let (safe, tried) = (safe[place as usize], tried[place as usize]);
            let known = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
            if safe == tried {
                assert!(
                    found == record_or_zeroes(safe),
                    "round {round}: place {place} has {known}, not {safe}"
                );
            } else {
                // Written, not acknowledged: the old, the new, or a mixture of their bytes.
                let (old, new) = (record_or_zeroes(safe), record_or_zeroes(tried));
                let mixed = found
                    .iter()
                    .zip(old.iter().zip(&new))
                    .all(|(byte, (old, new))| byte == old || byte == new);
                assert!(
                    mixed,
                    "round {round}: place {place} has {known}, neither {safe} nor {tried}"
                );
                // Whatever it is now, it is what the next round starts from.
                disk.write_all_at(&old, place * BLOCK_BYTES).expect("a write");
            }
        }
        disk.sync_all().expect("a flush");
        tried.copy_from_slice(&safe);
        if round == ROUNDS {
            daemon.stop();
            return;
        }
        // Killed after so many acknowledgements, in the middle of whatever comes next.
        let (until, acknowledged) = (random.u64(1..20), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                loop {
                    let place = random.u64(..BLOCKS);
                    number += 1;
                    tried[place as usize] = number;
                    if disk.write_all_at(&record(number), place * BLOCK_BYTES).is_err()
                        || disk.sync_data().is_err()
                    {
                        return;
                    }
                    safe[place as usize] = number;
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
            // A writer that has ended already was refused something: the assertion below says so.
            while acknowledged.load(Ordering::SeqCst) < until && !writer.is_finished() {
                std::thread::yield_now();
            }
            daemon.signal(Signal::KILL);
            writer.join().expect("the writer ends");
        });
        let acknowledged = acknowledged.into_inner();
        assert!(
            acknowledged >= until,
            "round {round}: an error after {acknowledged} writes, before the kill"
        );
        drop(disk);
        daemon.kill();
    }
}

fn record_or_zeroes(number: u64) -> Vec<u8> {
    if number == 0 {
        vec![0; BLOCK_BYTES as usize]
    } else {
        record(number)
    }
}
