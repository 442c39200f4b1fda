//! Rings of other processes: whose memory the daemon takes, and whose not.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nvme_driver::dma::SharedMemory;
use nvme_driver::ring::client::{Client, Settings};
use nvme_driver::ring::layout::{Entry, Geometry};
use nvme_driver::ring::message::{MemoryName, Message};
use rustix::fs::{MemfdFlags, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;

use crate::rig::{Daemon, Folder, have};

const LEN: u64 = 1 << 20;

fn open(daemon: &Daemon) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(daemon.path("1/ring")).expect("a ring")
}

/// What the daemon says of a ring in `descriptor`.
fn set_up(file: &File, descriptor: &OwnedFd, len_bytes: u64) -> Option<Errno> {
    let message = Message::Setup {
        geometry: Geometry {
            sq_entries: 8,
            cq_entries: 16,
        },
        memory: MemoryName {
            descriptor: descriptor.as_raw_fd().unsigned_abs(),
            len_bytes,
            ..MemoryName::default()
        },
        tells_runs: false,
    };
    let error = file.write_at(&message.encode(), 0).err()?;
    Errno::from_io_error(&error)
}

fn memfd(seals: SealFlags, len: u64) -> OwnedFd {
    let memfd = memfd_create("ring", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).expect("memory");
    ftruncate(&memfd, len).expect("memory");
    fcntl_add_seals(&memfd, seals).expect("seals");
    memfd
}

#[test]
fn requests_and_data_go_through_memory() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=16MiB,lba=4096", &folder.path("nvme"));
    let mut ring = Client::open(Box::new(open(&daemon)), Settings::default()).expect("a ring");
    let (ours, theirs) = (
        ring.buffer(0, 8192).expect("room"),
        ring.buffer(8192, 8192).expect("room"),
    );
    assert!(ours.copy_in(4000, b"through memory"));
    let (from, into) = (ring.place_of(&ours), ring.place_of(&theirs));
    ring.prepare(&Entry::write(3, 2, from).linked().with_user_data(1))
        .expect("room");
    ring.prepare(&Entry::read(3, 2, into).with_user_data(2))
        .expect("room");
    ring.submit().expect("submitted");
    for user_data in [1, 2] {
        let done = ring.wait().expect("a result");
        assert_eq!((done.user_data, done.errno, done.bytes), (user_data, 0, 8192));
    }
    let mut seen = [0; 14];
    assert!(theirs.copy_out(4000, &mut seen));
    assert_eq!(&seen, b"through memory");
    // The file's readers see it, too; and a second buffer comes and goes.
    let mut seen = [0; 14];
    let data = File::open(daemon.path("1/data")).expect("the disk");
    data.read_exact_at(&mut seen, 3 * 4096 + 4000).expect("read");
    assert_eq!(&seen, b"through memory");
    let more = Arc::new(SharedMemory::create(4096).expect("memory"));
    let registered = ring.register(5, &more, true).expect("registered");
    let (runs, all) = ring.runs();
    assert!(all && runs.len() == 1 && runs[0].1 == 4096, "{runs:?}");
    let buffer = nvme_driver::dma::RegisteredBuffer::new(registered, 0, 4096).expect("all of it");
    ring.prepare(&Entry::read(4, 1, ring.place_of(&buffer)))
        .expect("room");
    ring.submit().expect("submitted");
    assert_eq!(ring.wait().expect("a result").errno, 0);
    ring.unregister(5).expect("taken back");
    ring.prepare(&Entry::read(
        4,
        1,
        nvme_driver::ring::layout::Place {
            buffer: 5,
            address: 0,
        },
    ))
    .expect("room");
    ring.submit().expect("submitted");
    assert_eq!(ring.wait().expect("a result").errno, 14);
    let counters = daemon
        .stats()
        .queues
        .into_iter()
        .filter_map(|queue| queue.counters);
    assert!(counters.map(|it| it.bytes_zero_copy).sum::<u64>() >= 20_480);
    drop((ring, data));
    daemon.stop();
}

#[test]
fn memory_that_may_go_away_or_is_not_the_clients_to_write_is_refused() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=16MiB", &folder.path("nvme"));
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let file = open(&daemon);
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        assert_eq!(
            set_up(&file, &memfd(all.difference(missing), LEN), LEN),
            Some(Errno::INVAL),
            "{missing:?}"
        );
    }
    let good = memfd(all, LEN);
    for len in [0, 4096, LEN - 1, LEN + 4096] {
        assert_eq!(set_up(&file, &good, len), Some(Errno::INVAL), "{len}");
    }
    // More than anybody's quota is not even looked for.
    for len in [1 << 30, u64::MAX] {
        assert_eq!(set_up(&file, &good, len), Some(Errno::NOMEM), "{len}");
    }
    let again = format!("/proc/self/fd/{}", good.as_raw_fd());
    let read_only = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    assert_eq!(
        set_up(&file, &read_only.expect("the same, to be read"), LEN),
        Some(Errno::ACCESS)
    );
    let disk: OwnedFd = File::open(daemon.path("1/data")).expect("the disk").into();
    assert_eq!(set_up(&file, &disk, 16 << 20), Some(Errno::INVAL));
    for nonsense in [&b""[..], &[0; 63], &[0xFF; 64], &[1; 4096]] {
        let written = file.write_at(nonsense, 0);
        assert!(nonsense.is_empty() || written.is_err(), "{written:?}");
    }
    // After all that it is still to be had, once.
    assert_eq!(set_up(&file, &good, LEN), None);
    assert_eq!(set_up(&file, &good, LEN), Some(Errno::BUSY));
    drop(file);
    daemon.stop();
}

/// However small they are: each is a descriptor and a mapping of the daemon's.
#[test]
fn nobody_has_memories_without_end() {
    /// The quota of uid 0, and what a memory counts at least.
    const MOST: usize = (128 << 20) / (256 << 10);
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=16MiB", &folder.path("nvme"));
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let small = memfd(all, 12_288);
    let mut rings = Vec::new();
    let refused = loop {
        let file = open(&daemon);
        match set_up(&file, &small, 12_288) {
            None => rings.push(file),
            Some(errno) => break errno,
        }
        assert!(rings.len() <= MOST, "there is an end");
    };
    assert_eq!((refused, rings.len()), (Errno::NOMEM, MOST));
    // What is given back can be had again, once the driver knows of it.
    drop(rings);
    let file = open(&daemon);
    while let Some(errno) = set_up(&file, &small, 12_288) {
        assert_eq!(errno, Errno::NOMEM);
    }
    drop(file);
    daemon.stop();
}

#[test]
fn a_ring_is_for_those_who_may_have_the_disk() {
    if !have(&["sh"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=16MiB", &folder.path("nvme"));
    let opens = |uid: u32| {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec 3<>\"$1\"", "sh"])
            .arg(daemon.path("1/ring"));
        shell.uid(uid).gid(uid).stderr(std::process::Stdio::null());
        shell.status().expect("a shell").success()
    };
    assert!(opens(0) && !opens(12_345));
    std::os::unix::fs::chown(daemon.path("1/data"), Some(12_345), None).expect("given away");
    assert!(opens(0) && opens(12_345) && !opens(12_346));
    daemon.stop();
}
