//! Any offset and any length, by several threads at once, against a plain file that the same is done to.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::rig::{Daemon, Folder, have, run};

const THREADS: u64 = 4;
/// The bytes that belong to a thread: every fourth piece of this length, so that blocks are shared by two threads.
const PIECE_BYTES: u64 = 1777;

/// What one thread does.
#[derive(Clone, Debug)]
enum Step {
    Write { place: u64, len: u64, seed: u64 },
    Read { place: u64, len: u64 },
    Hole { place: u64, len: u64 },
    Zero { place: u64, len: u64 },
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let span = || {
        (
            any::<u64>(),
            prop_oneof![4 => 1..PIECE_BYTES, 1 => Just(PIECE_BYTES), 1 => 1..16_u64],
        )
    };
    let step = prop_oneof![
        6 => (span(), any::<u64>()).prop_map(|((place, len), seed)| Step::Write { place, len, seed }),
        4 => span().prop_map(|(place, len)| Step::Read { place, len }),
        1 => span().prop_map(|(place, len)| Step::Hole { place, len }),
        1 => span().prop_map(|(place, len)| Step::Zero { place, len }),
        1 => Just(Step::Sync),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Where a span of a thread's own bytes is: within one of its pieces.
fn offset(thread: u64, place: u64, len: u64, size_bytes: u64) -> u64 {
    let rounds = size_bytes / (PIECE_BYTES * THREADS);
    let round = place % rounds;
    let within = (place / rounds) % (PIECE_BYTES - len + 1);
    (round * THREADS + thread) * PIECE_BYTES + within
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(len as usize)
        .collect()
}

fn allocate(file: &File, flags: rustix::fs::FallocateFlags, offset: u64, len: u64) {
    rustix::fs::fallocate(file, flags | rustix::fs::FallocateFlags::KEEP_SIZE, offset, len)
        .expect("fallocate");
}

fn play(thread: u64, steps: &[Step], disk: &File, model: &File, size_bytes: u64) {
    use rustix::fs::FallocateFlags;
    for step in steps {
        match *step {
            Step::Write { place, len, seed } => {
                let offset = offset(thread, place, len, size_bytes);
                let bytes = noise(seed, len);
                disk.write_all_at(&bytes, offset).expect("a write");
                model.write_all_at(&bytes, offset).expect("a write");
            }
            Step::Read { place, len } => {
                let offset = offset(thread, place, len, size_bytes);
                let (mut ours, mut theirs) = (vec![1; len as usize], vec![2; len as usize]);
                disk.read_exact_at(&mut ours, offset).expect("a read");
                model.read_exact_at(&mut theirs, offset).expect("a read");
                assert!(ours == theirs, "{len} bytes at {offset}");
            }
            Step::Hole { place, len } => {
                let offset = offset(thread, place, len, size_bytes);
                allocate(disk, FallocateFlags::PUNCH_HOLE, offset, len);
                model
                    .write_all_at(&vec![0; len as usize], offset)
                    .expect("a write");
            }
            Step::Zero { place, len } => {
                let offset = offset(thread, place, len, size_bytes);
                allocate(disk, FallocateFlags::ZERO_RANGE, offset, len);
                model
                    .write_all_at(&vec![0; len as usize], offset)
                    .expect("a write");
            }
            Step::Sync => disk.sync_all().expect("a flush"),
        }
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file opens")
}

/// Plays many cases on `disk`, of which `model` is a copy all the time.
fn agrees(disk: &Path, model: &Path, cases: u32) {
    let size_bytes = fs::metadata(disk).expect("its size").len();
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let threads = proptest::collection::vec(steps(), THREADS as usize);
    runner
        .run(&threads, |threads| {
            let (disk_file, model_file) = (open(disk), open(model));
            std::thread::scope(|scope| {
                for (thread, steps) in threads.iter().enumerate() {
                    let (disk, model) = (&disk_file, &model_file);
                    scope.spawn(move || play(thread as u64, steps, disk, model, size_bytes));
                }
            });
            prop_assert!(fs::read(disk).expect("the disk") == fs::read(model).expect("the model"));
            Ok(())
        })
        .expect("they agree");
}

fn model_of(disk: &Path, folder: &Folder) -> std::path::PathBuf {
    let model = folder.path("model");
    fs::copy(disk, &model).expect("a copy");
    model
}

#[test]
fn odd_offsets_and_lengths_agree_with_a_plain_file() {
    if !have(&[]) {
        return;
    }
    for lba in [512, 4096] {
        let folder = Folder::new();
        let daemon = Daemon::start(&format!("size=1MiB,lba={lba}"), &folder.path("nvme"));
        let disk = daemon.path("1/data");
        agrees(&disk, &model_of(&disk, &folder), 24);
        daemon.stop();
    }
}

/// A GUID partition table with `parts`, each a start and a length in MiB.
fn partition(disk: &Path, parts: &[(u32, u32)]) {
    let mut command = Command::new("sgdisk");
    command.arg("--clear");
    for (number, (start, len)) in parts.iter().enumerate() {
        command.arg(format!("--new={}:{start}MiB:+{len}MiB", number + 1));
    }
    run(command.arg(disk));
}

#[test]
fn a_partition_agrees_too_and_its_ends_hold() {
    if !have(&["sgdisk"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=8MiB,lba=512", &folder.path("nvme"));
    let whole = open(&daemon.path("1/data"));
    let pattern = noise(3, 8 << 20);
    whole.write_all_at(&pattern, 0).expect("a write");
    partition(&daemon.path("1/data"), &[(1, 1), (2, 1), (3, 2)]);
    let names: Vec<String> = fs::read_dir(daemon.path(""))
        .expect("the root")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    for name in ["1", "1p1", "1p2", "1p3", "controller"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }

    let path = daemon.path("1p2/data");
    assert_eq!(fs::metadata(&path).expect("its size").len(), 1 << 20);
    assert!(fs::read(&path).expect("the partition") == pattern[2 << 20..3 << 20]);
    agrees(&path, &model_of(&path, &folder), 12);

    // Up to the end and not beyond, from either side of it, with whole blocks and without.
    let end = 1_u64 << 20;
    let part = open(&path);
    let bytes = noise(5, 4096);
    assert_eq!(part.write_at(&bytes, end - 1000).expect("a short write"), 1000);
    assert_eq!(part.write_at(&bytes, end - 1).expect("a short write"), 1);
    for past in [end, end + 1, end + 4096, u64::MAX / 4] {
        let error = part.write_at(&bytes, past).expect_err("no room");
        assert_eq!(error.raw_os_error(), Some(28), "ENOSPC at {past}: {error}");
        assert_eq!(part.read_at(&mut [0; 512], past).expect("nothing"), 0);
    }
    let mut into = [0; 512];
    assert_eq!(part.read_at(&mut into, end - 100).expect("a short read"), 100);
    // The neighbours are as they were.
    let all = fs::read(daemon.path("1/data")).expect("the disk");
    assert!(all[1 << 20..2 << 20] == pattern[1 << 20..2 << 20]);
    assert!(all[3 << 20..5 << 20] == pattern[3 << 20..5 << 20]);
    assert!(all[2 << 20..3 << 20] == fs::read(&path).expect("the partition")[..]);
    drop((part, whole));
    daemon.stop();
}

#[test]
fn direct_clients_read_and_write() {
    if !have(&[]) {
        return;
    }
    const O_DIRECT: i32 = 0o40000;
    let folder = Folder::new();
    let daemon = Daemon::start("size=4MiB,lba=4096", &folder.path("nvme"));
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(daemon.path("1/data"))
        .expect("it opens with O_DIRECT");
    // Aligned as O_DIRECT wants it, wherever the vector is; and longer than one request can be.
    let mut block = vec![0; (3 << 20) + 4096];
    let shift = block.as_ptr().align_offset(4096);
    let aligned = &mut block[shift..shift + (3 << 20)];
    aligned.copy_from_slice(&noise(11, 3 << 20));
    assert_eq!(disk.write_at(aligned, 1 << 20).expect("a write"), 3 << 20);
    let mut back = vec![0; 3 << 20];
    disk.read_exact_at(&mut back, 1 << 20).expect("a read");
    assert!(back == aligned);
    drop(disk);
    daemon.stop();
}

#[test]
fn fsync_is_flush_and_a_hole_is_given_back() {
    if !have(&[]) || !cfg!(feature = "performance-counters") {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=4MiB,lba=4096", &folder.path("nvme"));
    let disk = open(&daemon.path("1/data"));
    let count = |op: &str| {
        let stats = daemon.stats();
        let ops = stats.namespaces[0].ops.as_ref().expect("counters");
        ops.get(op).map_or((0, 0), |op| (op.count, op.bytes))
    };
    disk.write_all_at(&[7; 65536], 0).expect("a write");
    assert_eq!(count("flush").0, 0);
    disk.sync_all().expect("fsync");
    assert_eq!(count("flush").0, 1);
    disk.sync_data().expect("fdatasync");
    assert_eq!(count("flush").0, 2);

    assert_eq!(count("dsm").0, 0);
    allocate(&disk, rustix::fs::FallocateFlags::PUNCH_HOLE, 4096, 16384);
    assert_eq!(count("dsm").0, 1);
    let mut back = [1; 65536];
    disk.read_exact_at(&mut back, 0).expect("a read");
    for (place, byte) in back.iter().enumerate() {
        assert_eq!(*byte == 0, (4096..4096 + 16384).contains(&place), "at {place}");
    }
    for (offset, len) in [(4 << 20, 4096), (u64::MAX / 4, 4096)] {
        let error = rustix::fs::fallocate(
            &disk,
            rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )
        .expect_err("it is past the end");
        assert_eq!(error, rustix::io::Errno::INVAL);
    }
    let error =
        rustix::fs::fallocate(&disk, rustix::fs::FallocateFlags::empty(), 0, 4096).expect_err("no such mode");
    assert_eq!(error, rustix::io::Errno::OPNOTSUPP);
    drop(disk);
    daemon.stop();
}
