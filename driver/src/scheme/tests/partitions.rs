//! Partitions of the tree: when their table is read, and where they end.

use nvme_spec::{Status, command};
use stats_proto::bench::BenchJob;
use zerocopy::IntoBytes;

use super::super::fake::namespace;
use super::super::service::{Failure, IoError, Op};
use super::tree::names;
use super::*;

pub(super) const BLOCK: usize = 512;
/// 8 MiB: there is a middle that is far from both ends.
pub(super) const BLOCKS: usize = 16384;
const SIZE: usize = BLOCK * BLOCKS;

/// An MBR or an extended boot record with entries of type, first block and length.
pub(super) fn record(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut record = vec![0; BLOCK];
    for (place, (kind, start, blocks)) in entries.iter().enumerate() {
        let entry = &mut record[446 + place * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&blocks.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

pub(super) fn pattern() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8).collect()
}

/// Two partitions side by side in the middle, 10 blocks each from block 8000.
fn two() -> Vec<u8> {
    record(&[(0x83, 8000, 10), (0x83, 8010, 10)])
}

pub(super) fn desk(first_block: &[u8]) -> Desk {
    let desk = Desk::new(&[(9, BLOCKS as u64)]);
    let mut disk = pattern();
    disk[..BLOCK].copy_from_slice(first_block);
    desk.fake.fill(1, &disk);
    desk
}

/// Opens, and has the table read if that is needed.
fn open(desk: &Desk, path: &str) -> Result<HandleId, Errno> {
    desk.call(Call::Open {
        path: path.to_owned(),
        flags: OpenFlags::READ_WRITE,
        caller: ROOT,
    });
    desk.fake.complete_all();
    match desk.one().expect("an answer")? {
        Reply::Opened(handle) => Ok(handle),
        other => panic!("{other:?}"),
    }
}

fn lookup(desk: &Desk, path: &str) -> u64 {
    desk.call(Call::Lookup {
        path: path.to_owned(),
        directory: false,
    })
}

/// Requests that were made since the last look.
fn requests(desk: &Desk) -> Vec<(Op, u64, u64)> {
    std::mem::take(&mut *lock(&desk.fake.seen))
}

#[test]
fn partitions_are_listed_looked_at_and_opened_with_one_reading() {
    let desk = desk(&two());
    let listed: Vec<String> = names(&desk, "/").into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, ["controller", "1", "1p1", "1p2"]);
    assert_eq!(requests(&desk), [(Op::Read, 0, 2)]);
    assert_eq!(names(&desk, "1p2"), [("data".to_owned(), NodeKind::BlockDevice)]);
    for path in ["1p1", "1p1/data"] {
        let stat = Stat {
            size_bytes: 5120,
            block_bytes: 512,
            kind: NodeKind::BlockDevice,
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        lookup(&desk, path);
        assert_eq!(desk.one(), Some(Ok(Reply::Stat(stat))));
        let handle = open(&desk, path).unwrap();
        assert_eq!(desk.now(Call::Stat { handle }), Ok(Reply::Stat(stat)));
    }
    for path in ["1p3", "1p3/data", "2p1"] {
        assert_eq!(open(&desk, path), Err(Errno::ENOENT), "{path}");
    }
    assert_eq!(
        desk.open_as("1p1", OpenFlags::READ, USER),
        Err(Errno::EACCES),
        "as the disk"
    );
    assert_eq!(requests(&desk), [], "all from what is known");
}

#[test]
fn a_partition_is_given_away_alone() {
    let desk = desk(&two());
    desk.call(Call::Permit {
        path: "1p2".to_owned(),
        caller: ROOT,
        change: Permissions {
            uid: Some(1000),
            ..Default::default()
        },
    });
    desk.fake.complete_all();
    assert!(matches!(desk.one(), Some(Ok(Reply::Stat(stat))) if stat.uid == 1000));
    assert!(desk.open_as("1p2/data", OpenFlags::READ_WRITE, USER).is_ok());
    for path in ["1p1", "1"] {
        assert_eq!(desk.open_as(path, OpenFlags::READ, USER), Err(Errno::EACCES));
    }
}

#[test]
fn rights_stay_with_the_blocks_and_not_with_the_number() {
    let desk = desk(&two());
    let disk = open(&desk, "1").unwrap();
    let give = |path: &str| {
        desk.call(Call::Permit {
            path: path.to_owned(),
            caller: ROOT,
            change: Permissions {
                uid: Some(1000),
                ..Default::default()
            },
        });
        desk.fake.complete_all();
        assert!(matches!(desk.one(), Some(Ok(Reply::Stat(stat))) if stat.uid == 1000));
    };
    let repartition = |entries: &[(u8, u32, u32)]| {
        desk.write(disk, 0, &record(entries));
        desk.fake.complete_all();
        assert_eq!(desk.one().map(written), Some(Ok(BLOCK)));
        // Somebody looks, so that the table is known.
        names(&desk, "/");
    };
    let opens = |path: &str| desk.open_as(path, OpenFlags::READ, USER).map(drop);
    let uid = |handle| match desk.now(Call::Stat { handle }) {
        Ok(Reply::Stat(stat)) => stat.uid,
        other => panic!("{other:?}"),
    };
    give("1p1");
    let held = open(&desk, "1p1").unwrap();
    assert_eq!(opens("1p1"), Ok(()));
    assert_eq!(uid(held), 1000);
    // The first one's number is what the second one was, then only its beginning.
    for entry in [(0x83, 8010, 10), (0x83, 8000, 9)] {
        give("1p1");
        repartition(&[entry]);
        assert_eq!(opens("1p1"), Err(Errno::EACCES), "{entry:?}");
        assert_eq!(uid(open(&desk, "1p1").unwrap()), 0, "{entry:?}");
    }
    // What is open stays where it was, and has nothing of what somebody makes of the number later.
    give("1p1");
    assert_eq!(uid(held), 0);
    // Nor does what was forgotten come back with the old table.
    repartition(&[(0x83, 8000, 10)]);
    give("1p1");
    repartition(&[(0x83, 8001, 9)]);
    assert_eq!(opens("1p1"), Err(Errno::EACCES));
    repartition(&[(0x83, 8000, 10)]);
    assert_eq!(opens("1p1"), Err(Errno::EACCES));
    give("1p1");
    repartition(&[(0x83, 8000, 10), (0x83, 9000, 10)]);
    assert_eq!(opens("1p1"), Ok(()), "it is where it was");
}

#[test]
fn the_ends_of_a_partition_hold() {
    let desk = desk(&two());
    let before = desk.fake.disk(1);
    let handle = open(&desk, "1p1").unwrap();
    let (start, size) = (8000 * BLOCK, 10 * BLOCK);
    // All of it and more is asked for.
    desk.read(handle, 0, size + 1000);
    desk.fake.complete_all();
    assert_eq!(
        desk.one().map(bytes),
        Some(Ok(before[start..start + size].to_vec()))
    );
    assert_eq!(desk.read_now(handle, size as u64, 10), Ok(vec![]));
    // An unaligned write over the end is cut, and the neighbour keeps its bytes.
    desk.write(handle, size as u64 - 100, &[9; 3000]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(100)));
    desk.write(handle, size as u64, &[9; 1]);
    assert_eq!(desk.one().map(written), Some(Err(Errno::ENOSPC)));
    desk.write(handle, 3, &[8; 5]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(5)));
    desk.call(Call::Zero {
        handle,
        offset: 1000,
        len_bytes: u64::MAX,
        deallocate: true,
    });
    desk.fake.complete_all();
    assert_eq!(desk.one(), Some(Ok(Reply::Done)));
    let mut wanted = before;
    wanted[start + 3..start + 8].fill(8);
    wanted[start + 1000..start + size].fill(0);
    assert_eq!(desk.fake.disk(1), wanted);
}

#[test]
fn a_partition_and_its_disk_share_their_locks() {
    let desk = desk(&two());
    let (disk, part) = (open(&desk, "1").unwrap(), open(&desk, "1p1").unwrap());
    desk.write(part, 1, &[9; 10]);
    desk.write(disk, 8000 * BLOCK as u64 + 20, &[8; 10]);
    assert_eq!(desk.fake.out(), 1, "the second waits");
    desk.fake.complete_all();
    assert_eq!(desk.take().len(), 2);
    let start = 8000 * BLOCK;
    let block = &desk.fake.disk(1)[start..start + 40];
    assert_eq!((&block[1..11], &block[20..30]), (&[9; 10][..], &[8; 10][..]));
}

#[test]
fn those_who_ask_at_once_share_one_reading_and_the_disk_does_not_wait_for_it() {
    let desk = desk(&two());
    let first = lookup(&desk, "1p1");
    let second = lookup(&desk, "1p2");
    let third = lookup(&desk, "1p3");
    assert_eq!(desk.fake.out(), 1);
    let whole = desk.open_as("1", OpenFlags::READ, ROOT);
    assert!(whole.is_ok(), "answered at once");
    desk.fake.complete_all();
    let answers = desk.take();
    let ids: Vec<u64> = answers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [first, second, third]);
    assert!(answers[0].1.is_ok() && answers[1].1.is_ok());
    assert_eq!(answers[2].1, Err(Errno::ENOENT));
    assert_eq!(requests(&desk).len(), 1);
}

#[test]
fn a_reading_that_fails_is_tried_again() {
    let desk = desk(&two());
    lookup(&desk, "1p1");
    desk.fake
        .answer(0, Err(IoError::Status(Status::UNRECOVERED_READ_ERROR)));
    assert_eq!(desk.one(), Some(Err(Errno::ENOENT)), "no partitions");
    lookup(&desk, "1p1");
    desk.fake.answer(0, Err(IoError::Busy));
    assert_eq!(
        desk.one(),
        Some(Err(Errno::EAGAIN)),
        "no room, which says nothing of the table"
    );
    assert!(open(&desk, "1p1").is_ok());
}

/// Looks whether the table is read again, and sees `wanted` partitions.
fn expect(desk: &Desk, again: bool, wanted: usize, why: &str) {
    requests(desk);
    assert_eq!(names(desk, "/").len(), 2 + wanted, "{why}");
    assert_eq!(!requests(desk).is_empty(), again, "{why}");
}

#[test]
fn whatever_may_have_changed_the_table_has_it_read_again() {
    let desk = desk(&two());
    let disk = open(&desk, "1").unwrap();
    expect(&desk, true, 2, "the first look");
    expect(&desk, false, 2, "the second");
    let end = SIZE as u64;
    for (offset, again) in [
        (0, true),
        (100, true),
        ((1 << 20) - 1, true),
        (1 << 20, false),
        (end / 2, false),
        (end - (1 << 20) - 1, false),
        (end - (1 << 20), true),
        (end - 1, true),
    ] {
        // Bytes that are there already: only where they are counts.
        let byte = desk.fake.disk(1)[offset as usize];
        desk.write(disk, offset, &[byte]);
        desk.fake.complete_all();
        assert_eq!(desk.one().map(written), Some(Ok(1)));
        expect(&desk, again, 2, &format!("a write at {offset}"));
    }
    desk.write(disk, 0, &record(&[(0x83, 8000, 10)]));
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    expect(&desk, true, 1, "a table of one");
    desk.call(Call::Zero {
        handle: disk,
        offset: 0,
        len_bytes: 4096,
        deallocate: false,
    });
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    expect(&desk, true, 0, "no table");
    // A write that failed may have been done.
    let mut data = desk.fake.disk(1);
    data[..BLOCK].copy_from_slice(&two());
    desk.fake.fill(1, &data);
    expect(&desk, false, 0, "nobody has said so");
    desk.write(disk, 0, &[0; 512]);
    desk.fake
        .answer(0, Err(IoError::Status(Status::DATA_TRANSFER_ERROR)));
    assert!(desk.one().is_some());
    expect(&desk, true, 2, "a write that failed");
    // Reads change nothing.
    desk.read(disk, 0, 4096);
    desk.call(Call::Sync { handle: disk });
    desk.fake.complete_all();
    assert_eq!(desk.take().len(), 2);
    expect(&desk, false, 2, "a read and a flush");

    let admin = desk.open("controller/admin");
    let mut entry = vec![0; 64];
    entry[0] = 0xC0;
    desk.write(admin, 0, &entry);
    desk.fake.complete_admin(Status::SUCCESS, 0);
    assert!(desk.one().is_some());
    expect(&desk, true, 2, "an admin command");

    let io = desk.open("1/io");
    for (entry, again) in [
        (command::flush(1), false),
        (command::verify(1, 0, 1), false),
        (command::write_zeroes(1, 5000, 1), true),
    ] {
        desk.write(io, 0, entry.as_bytes());
        desk.fake.answer(0, Ok(()));
        assert!(desk.one().is_some());
        expect(&desk, again, 2, &format!("a client's own {entry:?}"));
    }

    let bench = desk.open("1/bench");
    let job = BenchJob {
        ios: Some(1),
        ..BenchJob::default()
    };
    desk.write(bench, 0, &serde_json::to_vec(&job).unwrap());
    assert!(desk.one().is_some_and(|outcome| outcome.is_ok()));
    desk.fake
        .benchmark(0)
        .listener
        .ended(Err(Failure::Io(IoError::Lost)));
    expect(&desk, true, 2, "a benchmark");

    desk.fake.set_namespaces(vec![namespace(1, 9, 8005)]);
    expect(&desk, true, 0, "a namespace that is smaller now");
}

#[test]
fn a_write_to_a_boot_record_far_from_the_ends_counts_and_its_neighbours_do_not() {
    let desk = desk(&record(&[(0x05, 8000, 1000)]));
    let mut data = desk.fake.disk(1);
    data[8000 * BLOCK..8001 * BLOCK].copy_from_slice(&record(&[(0x83, 1, 10), (0x05, 100, 100)]));
    data[8100 * BLOCK..8101 * BLOCK].copy_from_slice(&record(&[(0x83, 1, 10)]));
    desk.fake.fill(1, &data);
    let disk = open(&desk, "1").unwrap();
    expect(&desk, true, 2, "the first look");
    for (block, again) in [(8001, false), (8099, false), (8101, false), (8100, true)] {
        let bytes = &data[block * BLOCK..][..BLOCK];
        desk.write(disk, (block * BLOCK) as u64, bytes);
        desk.fake.complete_all();
        assert!(desk.one().is_some());
        expect(&desk, again, 2, &format!("block {block}"));
    }
    desk.write(disk, 8100 * BLOCK as u64, &[0; BLOCK]);
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    expect(&desk, true, 1, "a link less");
}

/// A disk with a GPT whose entries are somewhere in the middle, from `ENTRIES_BLOCK` on, with one partition.
fn far_gpt() -> Vec<u8> {
    let mut disk = vec![0; SIZE];
    disk[..BLOCK].copy_from_slice(&record(&[(0xEE, 1, BLOCKS as u32 - 1)]));
    set_entry(&mut disk, 9000);
    disk
}

const ENTRIES_BLOCK: usize = 8000;
/// 128 entries of 128 bytes.
const ENTRIES_BYTES: usize = 128 * 128;

/// Makes the one partition ten blocks from `first_block`, and both checksums right (UEFI 2.10, section 5.3.2).
fn set_entry(disk: &mut [u8], first_block: u64) {
    let at = ENTRIES_BLOCK * BLOCK;
    disk[at..at + 32].fill(0x11);
    disk[at + 32..at + 40].copy_from_slice(&first_block.to_le_bytes());
    disk[at + 40..at + 48].copy_from_slice(&(first_block + 9).to_le_bytes());
    let entries = crc32(&disk[at..at + ENTRIES_BYTES]);
    let header = &mut disk[BLOCK..BLOCK + 92];
    header.fill(0);
    header[..8].copy_from_slice(b"EFI PART");
    header[10] = 1;
    header[12] = 92;
    let last = BLOCKS as u64 - 1;
    for (at, value) in [
        (24, 1),
        (32, last),
        (40, 34),
        (48, last - 34),
        (72, ENTRIES_BLOCK as u64),
    ] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[80] = 128;
    header[84] = 128;
    header[88..92].copy_from_slice(&entries.to_le_bytes());
    let checksum = crc32(header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn the_entries_of_a_gpt_count_wherever_they_are() {
    let desk = Desk::new(&[(9, BLOCKS as u64)]);
    let mut data = far_gpt();
    desk.fake.fill(1, &data);
    let disk = open(&desk, "1").unwrap();
    let write = |block: usize, data: &[u8]| {
        desk.write(disk, (block * BLOCK) as u64, data);
        desk.fake.complete_all();
        assert_eq!(desk.one().map(written), Some(Ok(data.len())));
    };
    expect(&desk, true, 1, "the first look");
    let end = ENTRIES_BLOCK + ENTRIES_BYTES / BLOCK;
    for (block, again) in [
        (ENTRIES_BLOCK - 1, false),
        (end, false),
        (ENTRIES_BLOCK, true),
        (end - 1, true),
    ] {
        write(block, &data[block * BLOCK..][..BLOCK]);
        expect(&desk, again, 1, &format!("block {block}"));
    }
    // The header's checksum is right before the entries are: they are damaged, until they are written too.
    set_entry(&mut data, 9100);
    write(0, &data[..2 * BLOCK]);
    expect(
        &desk,
        true,
        0,
        "the old entries with the new header, and no other table",
    );
    write(ENTRIES_BLOCK, &data[ENTRIES_BLOCK * BLOCK..][..BLOCK]);
    expect(&desk, true, 1, "the new entries");
    let part = open(&desk, "1p1").unwrap();
    desk.write(part, 0, &[9; BLOCK]);
    desk.fake.complete_all();
    assert_eq!(desk.one().map(written), Some(Ok(BLOCK)));
    assert_eq!(desk.fake.disk(1)[9100 * BLOCK..9101 * BLOCK], [9; BLOCK]);
    // A change while they are being read is not missed either.
    write(0, &data[..2 * BLOCK]);
    lookup(&desk, "1p1");
    desk.fake.complete(0);
    desk.write(disk, (ENTRIES_BLOCK * BLOCK) as u64, &[0; BLOCK]);
    desk.fake.complete(1);
    assert_eq!(desk.one().map(written), Some(Ok(BLOCK)));
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    expect(&desk, true, 0, "what came out was the old one");
}

#[test]
fn an_extended_partition_that_was_empty_is_looked_at_again_when_it_gets_its_first_record() {
    let desk = desk(&record(&[(0x05, 8000, 1000)]));
    let disk = open(&desk, "1").unwrap();
    expect(&desk, true, 0, "the first look");
    desk.write(disk, 8000 * BLOCK as u64, &record(&[(0x83, 1, 10)]));
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    expect(&desk, true, 1, "the first record");
}

/// The reading began before the write was done, so what it shows is for those who asked before.
#[test]
fn who_asks_after_a_write_sees_what_was_written() {
    for (block, elsewhere) in [(0, false), (8000, true)] {
        let desk = desk(&record(&[(0x05, 8000, 1000)]));
        let mut data = desk.fake.disk(1);
        data[8000 * BLOCK..8001 * BLOCK].copy_from_slice(&record(&[(0x83, 1, 10)]));
        desk.fake.fill(1, &data);
        let disk = open(&desk, "1").unwrap();
        lookup(&desk, "1p5");
        if elsewhere {
            // The record is read, but its reader has not seen it yet.
            desk.fake.complete(0);
        }
        desk.write(disk, block * BLOCK as u64, &record(&[]));
        // The write is out behind the reading, and done before it.
        desk.fake.complete(1);
        assert_eq!(desk.one().map(written), Some(Ok(BLOCK)));
        let before = lookup(&desk, "1p5");
        desk.fake.complete_all();
        let answers = desk.take();
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[1], (before, Err(Errno::ENOENT)), "block {block}");
        expect(&desk, false, 0, "and that is known now");
    }
}

#[test]
fn an_open_partition_stays_where_it_was_but_ends_with_its_namespace() {
    let desk = desk(&two());
    let (disk, part) = (open(&desk, "1").unwrap(), open(&desk, "1p2").unwrap());
    desk.write(disk, 0, &record(&[]));
    desk.fake.complete_all();
    assert!(desk.one().is_some());
    assert_eq!(open(&desk, "1p2"), Err(Errno::ENOENT));
    desk.read(part, 0, 4);
    desk.fake.complete_all();
    let start = 8010 * BLOCK;
    assert_eq!(
        desk.one().map(bytes),
        Some(Ok(pattern()[start..start + 4].to_vec()))
    );
    desk.fake.set_namespaces(vec![namespace(1, 9, 8015)]);
    assert_eq!(desk.read_now(part, 5 * BLOCK as u64, 10), Ok(vec![]));
    desk.fake.set_namespaces(vec![namespace(1, 9, 8000)]);
    assert_eq!(desk.read_now(part, 0, 10), Ok(vec![]));
    // Its blocks are other blocks now.
    desk.fake.set_namespaces(vec![namespace(1, 12, 2000)]);
    assert_eq!(desk.read_now(part, 0, 10), Err(Errno::ENODEV));
}

#[test]
fn a_namespace_that_cannot_be_used_has_no_partitions() {
    let desk = Desk::new(&[(12, 0), (9, 1)]);
    assert_eq!(names(&desk, "/").len(), 3);
    for path in ["1p1", "2p1"] {
        assert_eq!(open(&desk, path), Err(Errno::ENOENT));
    }
}
