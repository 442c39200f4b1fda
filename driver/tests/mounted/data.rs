//! Any offset and any length, by several threads at once, against a plain file that the same is done to.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::rig::{Daemon, Folder, have};

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
