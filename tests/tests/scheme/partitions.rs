//! Partitions on a controller with its threads.

use super::*;

const MIB: u64 = 1 << 20;

/// An MBR with partitions from `first` for `blocks` blocks each.
fn mbr(partitions: &[(u32, u32)]) -> Vec<u8> {
    let mut record = vec![0; 512];
    for (entry, (first, blocks)) in record[446..510].chunks_mut(16).zip(partitions) {
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&blocks.to_le_bytes());
    }
    record[510..].copy_from_slice(&[0x55, 0xAA]);
    record
}

#[test]
fn a_disk_that_is_partitioned_shows_its_partitions_at_once() {
    for (lba, blocks_a_mib) in [("512", 2048), ("4096", 256)] {
        let driver = start(&format!("size=16MiB,lba={lba}"));
        let client = root(&driver);
        let disk = client.open("1", OpenFlags::READ_WRITE).unwrap();
        let names = || -> Vec<String> {
            let entries = user(&driver).list("/").unwrap();
            entries.into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names(), ["controller", "1"]);
        for count in 1..=3 {
            let table: Vec<(u32, u32)> = (1..=count)
                .map(|number| (number * 4 * blocks_a_mib, blocks_a_mib))
                .collect();
            disk.write_at(&mbr(&table), 0).unwrap();
            assert_eq!(names().len(), 2 + count as usize);
        }
        assert_eq!(names(), ["controller", "1", "1p1", "1p2", "1p3"]);

        let part = client.open("1p2/data", OpenFlags::READ_WRITE).unwrap();
        assert_eq!(part.stat().unwrap().size_bytes, MIB);
        assert_eq!(part.write_at(b"last", MIB - 3), Ok(3));
        assert_eq!(part.write_at(b"!", MIB), Err(Errno::ENOSPC));
        part.sync().unwrap();
        let mut back = [9; 6];
        assert_eq!(disk.read_at(&mut back, 9 * MIB - 4), Ok(6));
        assert_eq!(&back, b"\0las\0\0");
        assert_eq!(part.read_at(&mut back, MIB - 3), Ok(3));

        disk.write_at(&[0; 512], 0).unwrap();
        assert_eq!(names(), ["controller", "1"]);
        assert!(matches!(client.open("1p2", OpenFlags::READ), Err(Errno::ENOENT)));
        assert_eq!(
            part.read_at(&mut back, MIB - 3),
            Ok(3),
            "who has it open keeps it"
        );
    }
}
