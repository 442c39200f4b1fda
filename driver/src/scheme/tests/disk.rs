//! The tree that the rest of Redox expects of a driver of disks.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::disk::DiskTree;
use super::super::fake::namespace;
use super::super::service::{IoError, Op};
use super::partitions::{BLOCK, BLOCKS, desk, pattern, record};
use super::*;
use crate::dma::Lent;

/// A client of the tree.
struct Room {
    desk: Desk,
    tree: Arc<DiskTree>,
}

impl Room {
    fn over(desk: Desk) -> Self {
        let tree = DiskTree::new(Arc::clone(&desk.scheme));
        Self { desk, tree }
    }

    /// One disk of [`BLOCKS`] blocks of which the first is this one.
    fn new(first_block: &[u8]) -> Self {
        Self::over(desk(first_block))
    }

    /// Makes a call; what it needs of the device is done.
    fn call(&self, call: Call) -> Outcome {
        self.begin(call);
        self.desk.fake.complete_all();
        self.desk.one().expect("an answer")
    }

    /// Makes a call.
    fn begin(&self, call: Call) {
        assert!(self.desk.take().is_empty());
        let answers: Arc<dyn Answers> = Arc::clone(&self.desk.inbox) as _;
        self.tree.call(7, call, &answers);
    }

    fn open_as(&self, path: &str, flags: OpenFlags, caller: Caller) -> Result<HandleId, Errno> {
        match self.call(Call::Open {
            path: path.to_owned(),
            flags,
            caller,
        })? {
            Reply::Opened(handle) => Ok(handle),
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, path: &str) -> Result<HandleId, Errno> {
        self.open_as(path, OpenFlags::READ_WRITE, ROOT)
    }

    fn close(&self, handle: HandleId) {
        assert_eq!(self.call(Call::Close { handle }), Ok(Reply::Done));
    }

    fn read(&self, handle: HandleId, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        bytes(self.call(Call::Read {
            handle,
            offset,
            buffer: vec![0xEE; len],
        }))
    }

    fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        written(self.call(Call::Write {
            handle,
            offset,
            data: data.to_vec(),
        }))
    }

    fn stat(&self, handle: HandleId) -> Stat {
        match self.call(Call::Stat { handle }) {
            Ok(Reply::Stat(stat)) => stat,
            other => panic!("{other:?}"),
        }
    }

    /// The names in the directory, from its text.
    fn names(&self) -> Vec<String> {
        let handle = self.open_as("", OpenFlags::DIRECTORY, ROOT).unwrap();
        let text = String::from_utf8(self.read(handle, 0, 10_000).unwrap()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        let Ok(Reply::List(entries)) = self.call(Call::List { handle }) else {
            panic!("no list")
        };
        let names: Vec<String> = entries.into_iter().map(|entry| entry.name).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), names);
        self.close(handle);
        names
    }

    /// Requests of the driver since the last look, without the reading of partition tables.
    fn requests(&self) -> Vec<(Op, u64, u64)> {
        let seen = std::mem::take(&mut *lock(&self.desk.fake.seen));
        seen.into_iter().filter(|it| *it != (Op::Read, 0, 2)).collect()
    }
}

/// Two partitions side by side, 10 blocks each, in entries 1 and 3.
fn table() -> Vec<u8> {
    record(&[(0x83, 8000, 10), (0, 0, 0), (0x83, 8010, 10)])
}

const PART_BYTES: usize = 10 * BLOCK;

#[test]
fn partitions_are_numbered_from_0_in_the_order_of_the_table() {
    let room = Room::new(&table());
    assert_eq!(room.names(), ["1", "1p0", "1p1"]);
    for (path, block) in [("1p0", 8000), ("/1p1/", 8010)] {
        let handle = room.open(path).unwrap();
        let at = block * BLOCK;
        assert_eq!(
            room.read(handle, 0, 100_000).unwrap(),
            pattern()[at..at + PART_BYTES],
            "{path}"
        );
        let stat = room.stat(handle);
        assert_eq!((stat.size_bytes, stat.block_bytes), (PART_BYTES as u64, 512));
        assert_eq!(stat.kind, NodeKind::BlockDevice);
        room.close(handle);
    }
    let disk = room.open("1").unwrap();
    assert_eq!(room.stat(disk).size_bytes, (BLOCKS * BLOCK) as u64);
}

#[test]
fn what_redox_counts_and_nobody_can_open_keeps_its_number() {
    // Beyond the end; the extended partition, which has no record; one without a type; and a partition.
    let mut first_block = record(&[
        (0x83, 8000, 1 << 20),
        (5, 100, 50),
        (0, 8000, 10),
        (0x83, 8010, 10),
    ]);
    let room = Room::new(&first_block);
    assert_eq!(room.names(), ["1", "1p3"]);
    let last = room.open("1p3").unwrap();
    assert_eq!(room.read(last, 0, 1).unwrap(), pattern()[8010 * BLOCK..][..1]);
    for path in ["1p0", "1p1", "1p2", "1p4"] {
        assert_eq!(room.open(path), Err(Errno::ENOENT), "{path}");
    }
    // Redox would count the others: here it is no table at all, as to Linux.
    first_block[446 + 3 * 16] = 0x17;
    assert_eq!(Room::new(&first_block).names(), ["1"]);
}

#[test]
fn logical_partitions_come_after_what_redox_counts() {
    let room = Room::new(&record(&[(5, 100, 50), (0x83, 8000, 10)]));
    let mut disk = room.desk.fake.disk(1);
    disk[100 * BLOCK..101 * BLOCK].copy_from_slice(&record(&[(0x83, 5, 3)]));
    room.desk.fake.fill(1, &disk);
    assert_eq!(room.names(), ["1", "1p1", "1p2"]);
    let logical = room.open("1p2").unwrap();
    assert_eq!(room.read(logical, 0, 9).unwrap(), disk[105 * BLOCK..][..9]);
}

#[test]
fn only_root_opens_and_only_what_is_there() {
    let room = Room::over(Desk::new(&[(9, 8), (9, 0)]));
    assert_eq!(room.names(), ["1"], "what cannot be used is not there");
    for path in ["1", "", "9"] {
        for flags in [OpenFlags::READ, OpenFlags::DIRECTORY] {
            assert_eq!(room.open_as(path, flags, USER), Err(Errno::EACCES), "{path}");
        }
    }
    for path in [
        "0",
        "2",
        "01",
        "+1",
        "-1",
        "1 ",
        "x",
        "p",
        "1p",
        "p0",
        "1p0",
        "1p00",
        "1p0p0",
        "2p0",
        "1/data",
        "1/stats",
        "controller",
        "controller/admin",
        "1?prio=high",
        "4294967296",
        "..",
    ] {
        assert_eq!(room.open(path), Err(Errno::ENOENT), "{path}");
    }
    let directory = OpenFlags::DIRECTORY;
    assert_eq!(room.open_as("1", directory, ROOT), Err(Errno::ENOTDIR));
    for flags in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ_WRITE] {
        assert_eq!(room.open_as("/", flags, ROOT), Err(Errno::EISDIR), "{flags:?}");
        let directory = OpenFlags {
            directory: true,
            ..flags
        };
        let opened = room.open_as("/", directory, ROOT);
        assert_eq!(opened.is_err(), flags.write, "{flags:?}");
    }
    assert_eq!(room.open("1").map(|_| ()), Ok(()), "nothing of this left a lock");
}

#[test]
fn the_directory_is_read_in_pieces_of_one_moment() {
    let room = Room::new(&table());
    let handle = room.open_as("/", OpenFlags::DIRECTORY, ROOT).unwrap();
    assert_eq!(room.stat(handle).kind, NodeKind::Directory);
    let text = b"1\n1p0\n1p1\n";
    assert_eq!(room.stat(handle).size_bytes, text.len() as u64);
    assert_eq!(room.read(handle, 0, 4).unwrap(), text[..4]);
    room.desk.fake.set_namespaces(vec![namespace(3, 12, 64)]);
    assert_eq!(room.read(handle, 4, 100).unwrap(), text[4..]);
    for end in [text.len() as u64, u64::MAX] {
        assert_eq!(room.read(handle, end, 4).unwrap(), b"");
    }
    let (memory, look) = Lent::leaked(vec![0xAA; 100]);
    let offset = 2;
    let into = Call::ReadInto {
        handle,
        offset,
        memory,
    };
    assert_eq!(room.call(into), Ok(Reply::Moved { len: 8 }));
    assert_eq!(look.to_vec()[..9], *b"1p0\n1p1\n\xAA");
    assert_eq!(room.names(), ["3"], "another one is of another moment");
}

#[test]
fn the_directory_is_only_listed() {
    let room = Room::new(&table());
    let handle = room.open_as("/", OpenFlags::DIRECTORY, ROOT).unwrap();
    let data = vec![1];
    let offset = 0;
    for (call, errno) in [
        (Call::Write { handle, offset, data }, Errno::EBADF),
        (
            Call::WriteFrom {
                handle,
                offset,
                memory: Lent::leaked(vec![1]).0,
            },
            Errno::EBADF,
        ),
        (
            Call::Zero {
                handle,
                offset,
                len_bytes: 1,
                deallocate: false,
            },
            Errno::EBADF,
        ),
        (Call::Sync { handle }, Errno::EINVAL),
    ] {
        let text = format!("{call:?}");
        assert_eq!(room.call(call), Err(errno), "{text}");
    }
    assert_eq!(room.call(Call::Wake { handle }), Ok(Reply::Done));
    room.close(handle);
    assert_eq!(room.requests(), [], "and nothing was flushed");
    let disk = room.open("1").unwrap();
    assert_eq!(room.call(Call::List { handle: disk }), Err(Errno::ENOTDIR));
}

#[test]
fn a_disk_and_its_partitions_keep_each_other_out() {
    let room = Room::new(&table());
    let first = room.open("1p0").unwrap();
    for path in ["1", "1p0"] {
        for flags in [OpenFlags::READ, OpenFlags::WRITE] {
            assert_eq!(room.open_as(path, flags, ROOT), Err(Errno::ENOLCK), "{path}");
        }
    }
    let second = room.open("1p1").unwrap();
    room.close(first);
    assert_eq!(room.open("1"), Err(Errno::ENOLCK), "the other one is open");
    room.close(second);
    let disk = room.open("1").unwrap();
    for path in ["1", "1p0", "1p1"] {
        assert_eq!(room.open(path), Err(Errno::ENOLCK), "{path}");
    }
    room.names();
    room.close(disk);
    room.open("1p1").unwrap();
}

#[test]
fn a_look_at_the_size_takes_nothing_and_is_not_refused() {
    let room = Room::new(&table());
    let size = |path: &str| {
        let handle = room.open_as(path, OpenFlags::default(), ROOT).expect(path);
        assert_eq!(room.read(handle, 0, 1), Err(Errno::EBADF));
        assert_eq!(room.write(handle, 0, b"x"), Err(Errno::EBADF));
        (handle, room.stat(handle).size_bytes)
    };
    let (look, disk_bytes) = size("1");
    assert_eq!(disk_bytes, (BLOCKS * BLOCK) as u64);
    let part = room.open("1p0").unwrap();
    assert_eq!(size("1p0").1, PART_BYTES as u64);
    assert_eq!(size("1").1, disk_bytes);
    room.close(look);
    assert_eq!(
        room.open("1p0"),
        Err(Errno::ENOLCK),
        "nor did it take the lock along"
    );
    room.close(part);
    room.open("1").unwrap();
    assert_eq!(room.requests(), [], "a write that was refused is not flushed");
}

#[test]
fn whoever_cannot_be_given_a_handle_has_no_lock() {
    let room = Room::new(&table());
    let desk = &room.desk;
    let mut taken = Vec::new();
    while let Ok(handle) = desk.open_as("controller/stats", OpenFlags::READ, ROOT) {
        taken.push(handle);
    }
    assert_eq!(room.open("1"), Err(Errno::EMFILE));
    assert_eq!(room.open("1p1"), Err(Errno::EMFILE));
    let handle = taken[0];
    assert_eq!(desk.now(Call::Close { handle }), Ok(Reply::Done));
    let part = room.open("1p1").unwrap();
    room.close(part);
    room.open("1").unwrap();
}

#[test]
fn closing_makes_way_at_once_and_what_is_out_is_answered() {
    let room = Room::new(&table());
    let part = room.open("1p0").unwrap();
    room.begin(Call::Read {
        handle: part,
        offset: 0,
        buffer: vec![0; BLOCK],
    });
    assert_eq!(room.desk.one(), None);
    let answers: Arc<dyn Answers> = Arc::clone(&room.desk.inbox) as _;
    room.tree.call(8, Call::Close { handle: part }, &answers);
    room.tree.call(
        9,
        Call::Open {
            path: "1".into(),
            flags: OpenFlags::READ_WRITE,
            caller: ROOT,
        },
        &answers,
    );
    let answers = room.desk.take();
    assert!(
        matches!(answers[..], [(8, Ok(Reply::Done)), (9, Ok(Reply::Opened(_)))]),
        "{answers:?}"
    );
    room.desk.fake.complete_all();
    assert_eq!(
        bytes(room.desk.one().unwrap()).unwrap(),
        pattern()[8000 * BLOCK..][..BLOCK]
    );
    let closed = room.call(Call::Close { handle: part });
    assert_eq!(closed, Err(Errno::EBADF), "once is enough");
    assert_eq!(room.read(part, 0, 1), Err(Errno::EBADF));
}

#[test]
fn a_partition_is_written_up_to_its_end() {
    let room = Room::new(&table());
    let part = room.open("1p0").unwrap();
    let mut wanted = pattern();
    wanted[..BLOCK].copy_from_slice(&table());
    let end = PART_BYTES as u64;
    assert_eq!(room.write(part, end - 100, &[7; 300]), Ok(100), "short");
    wanted[8010 * BLOCK - 100..8010 * BLOCK].fill(7);
    assert_eq!(room.write(part, end, &[7]), Err(Errno::ENOSPC));
    assert_eq!(room.write(part, u64::MAX, &[7]), Err(Errno::ENOSPC));
    let memory = Lent::leaked(vec![9; 2 * BLOCK]).0;
    let from = Call::WriteFrom {
        handle: part,
        offset: end - BLOCK as u64,
        memory,
    };
    assert_eq!(room.call(from), Ok(Reply::Moved { len: BLOCK }));
    wanted[8009 * BLOCK..8010 * BLOCK].fill(9);
    assert!(room.desk.fake.disk(1) == wanted);
    assert_eq!(room.read(part, end, 10).unwrap(), b"");
    let (memory, look) = Lent::leaked(vec![0; 2 * BLOCK]);
    let into = Call::ReadInto {
        handle: part,
        offset: end - BLOCK as u64,
        memory,
    };
    assert_eq!(room.call(into), Ok(Reply::Moved { len: BLOCK }));
    assert_eq!(look.to_vec()[..BLOCK + 1], [&[9; BLOCK][..], &[0]].concat());
    let reader = room.open_as("1p1", OpenFlags::READ, ROOT).unwrap();
    assert_eq!(room.write(reader, 0, b"x"), Err(Errno::EBADF));
}

const FLUSH: (Op, u64, u64) = (Op::Flush, 0, 0);

#[test]
fn what_was_written_is_flushed_when_the_handle_is_closed() {
    let room = Room::new(&table());
    let disk = room.open("1").unwrap();
    room.read(disk, 0, 512).unwrap();
    assert_eq!(room.call(Call::Sync { handle: disk }), Ok(Reply::Done));
    assert_eq!(room.requests(), [(Op::Read, 0, 1), FLUSH], "fsync is a flush");
    room.close(disk);
    assert_eq!(room.requests(), [], "nothing was written");
    let offset = 8 * BLOCK as u64;
    let writes: [fn(HandleId, u64) -> Call; 3] = [
        |handle, offset| Call::Write {
            handle,
            offset,
            data: vec![1; BLOCK],
        },
        |handle, offset| Call::WriteFrom {
            handle,
            offset,
            memory: Lent::leaked(vec![1; BLOCK]).0,
        },
        |handle, offset| Call::Zero {
            handle,
            offset,
            len_bytes: BLOCK as u64,
            deallocate: false,
        },
    ];
    for (place, write) in writes.into_iter().enumerate() {
        let disk = room.open("1").unwrap();
        assert!(room.call(write(disk, offset)).is_ok());
        assert_ne!(room.requests(), [], "write {place}");
        room.begin(Call::Close { handle: disk });
        assert_eq!(room.desk.one(), Some(Ok(Reply::Done)), "who closes does not wait");
        assert_eq!(room.requests(), [FLUSH], "write {place}");
        // Whether it can be done or not: nobody is told.
        assert!(room.desk.fake.answer(0, Err(IoError::Lost)));
        assert_eq!(room.desk.one(), None);
    }
    assert_eq!(room.desk.scheme.outstanding_calls(), 0);
}

#[test]
fn a_disk_that_is_partitioned_anew_shows_it_at_once() {
    let room = Room::new(&table());
    let disk = room.open("1").unwrap();
    let part = room.open_as("1p0", OpenFlags::default(), ROOT).unwrap();
    let new = record(&[(0x83, 4000, 4), (0x83, 5000, 5), (0x83, 8015, 30)]);
    assert_eq!(room.write(disk, 0, &new), Ok(BLOCK));
    assert_eq!(room.names(), ["1", "1p0", "1p1", "1p2"]);
    assert_eq!(
        room.stat(part).size_bytes,
        PART_BYTES as u64,
        "what is open stays where it was"
    );
    room.close(disk);
    let part = room.open("1p2").unwrap();
    assert_eq!(room.read(part, 0, 3).unwrap(), pattern()[8015 * BLOCK..][..3]);
    // By the other tree, which does not know of the locks: where the open one is there is another now.
    let whole = room.desk.open("1");
    room.desk
        .write(whole, 0, &record(&[(0x83, 8000, 16), (0x83, 8045, 10)]));
    room.desk.fake.complete_all();
    assert_eq!(room.desk.take().len(), 1);
    assert_eq!(room.open("1p0"), Err(Errno::ENOLCK), "they overlap in block 8015");
    room.open("1p1").unwrap();
}

#[test]
fn the_other_trees_handles_are_none_here() {
    let room = Room::new(&table());
    let other = room.desk.open("controller/admin");
    assert_eq!(room.read(other, 0, 1), Err(Errno::EBADF));
    assert_eq!(room.call(Call::Close { handle: other }), Err(Errno::EBADF));
    assert_eq!(room.desk.now(Call::Close { handle: other }), Ok(Reply::Done));
}

#[test]
fn a_look_up_needs_no_handle_and_rights_are_fixed() {
    let room = Room::new(&table());
    let look_up = |path: &str, directory| {
        room.call(Call::Lookup {
            path: path.to_owned(),
            directory,
        })
    };
    for (path, kind, size_bytes) in [
        ("", NodeKind::Directory, 0),
        ("1", NodeKind::BlockDevice, (BLOCKS * BLOCK) as u64),
        ("1p1", NodeKind::BlockDevice, PART_BYTES as u64),
    ] {
        let Ok(Reply::Stat(stat)) = look_up(path, false) else {
            panic!("{path}")
        };
        assert_eq!((stat.kind, stat.size_bytes), (kind, size_bytes));
        let directory = kind == NodeKind::Directory;
        assert_eq!(look_up(path, true).is_ok(), directory, "{path}");
    }
    assert_eq!(look_up("1p2", false), Err(Errno::ENOENT));
    let path = "1".to_owned();
    let (caller, change) = (ROOT, Permissions::default());
    let permit = Call::Permit { path, caller, change };
    assert_eq!(room.call(permit), Err(Errno::EPERM));
}

#[test]
fn listings_are_kept_at_roots_cost_and_given_back() {
    let room = Room::new(&table());
    let handles: Vec<_> = (0..10)
        .map(|_| room.open_as("", OpenFlags::DIRECTORY, ROOT).unwrap())
        .collect();
    assert!(!room.desk.scheme.clients.are_idle());
    handles.into_iter().for_each(|handle| room.close(handle));
    assert!(room.desk.scheme.clients.are_idle());
}

#[test]
fn a_table_that_there_is_no_room_to_read_is_to_be_asked_for_again() {
    let room = Room::new(&table());
    let busy = |busy| {
        room.desk
            .fake
            .busy
            .store(busy, std::sync::atomic::Ordering::Relaxed)
    };
    busy(true);
    assert_eq!(room.open("1p0"), Err(Errno::EAGAIN));
    assert_eq!(room.open_as("", OpenFlags::DIRECTORY, ROOT), Err(Errno::EAGAIN));
    busy(false);
    assert_eq!(room.names(), ["1", "1p0", "1p1"]);
    room.open("1").unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any opens and closes, against what was said of the locks: a whole disk is alone, a partition is alone in itself.
    #[test]
    fn locks_are_those_of_the_open_handles(
        steps in prop::collection::vec((0usize..5, any::<bool>(), any::<prop::sample::Index>(), 0u8..3), 1..60),
    ) {
        let small = Desk::new(&[(9, 64)]);
        let mut disk = record(&[(0x83, 10, 10), (0x83, 20, 10)]);
        disk.resize(64 * BLOCK, 0);
        small.fake.fill(1, &disk);
        let room = Room::over(small);
        // Name, namespace and partition.
        let places = [("1", 0, None), ("1p0", 0, Some(0)), ("1p1", 0, Some(1)), ("", 9, None), ("1p7", 0, Some(7))];
        let mut open: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
        for (place, close, which, flags) in steps {
            if close && !open.is_empty() {
                let id = *which.get(&open.keys().copied().collect::<Vec<_>>());
                open.remove(&id);
                room.close(HandleId(id));
                continue;
            }
            let flags = [OpenFlags::READ_WRITE, OpenFlags::READ, OpenFlags::default()][usize::from(flags)];
            let looks = flags == OpenFlags::default();
            let (name, nsid, part) = places[place];
            let taken = open.values().any(|(other, other_looks)| {
                let (_, other_nsid, other_part) = places[*other];
                nsid == other_nsid && !other_looks && (part.is_none() || other_part.is_none() || part == other_part)
            });
            let wanted = match name {
                "1p7" => Err(Errno::ENOENT),
                "" if !looks => Err(Errno::EISDIR),
                "" => Ok(()),
                _ if taken && !looks => Err(Errno::ENOLCK),
                _ => Ok(()),
            };
            let opened = room.open_as(name, flags, ROOT);
            prop_assert_eq!(opened.map(|_| ()), wanted, "{}", name);
            if let Ok(handle) = opened {
                open.insert(handle.0, (place, looks));
            }
        }
        for id in open.into_keys() {
            room.close(HandleId(id));
        }
        room.open("1").unwrap();
        prop_assert_eq!(room.desk.scheme.open_handles(), 1);
    }
}
