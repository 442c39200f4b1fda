use proptest::prelude::*;

use super::*;

/// Runs a reader over `disk`; also says how many bytes it read.
fn read(disk: &[u8], block_bytes: usize) -> (Table, u64) {
    let blocks = (disk.len() / block_bytes) as u64;
    let Some((mut reader, mut step)) = TableReader::new(blocks, block_bytes as u32) else {
        return (Table::default(), 0);
    };
    let mut read_bytes = 0;
    loop {
        match step {
            Step::Done(table) => return (table, read_bytes),
            Step::Read { slba, blocks: count } => {
                assert!(count > 0 && slba + count <= blocks, "{count} blocks from {slba}");
                let start = slba as usize * block_bytes;
                let bytes = &disk[start..start + count as usize * block_bytes];
                read_bytes += bytes.len() as u64;
                (reader, step) = reader.turn(bytes);
            }
        }
    }
}

fn partitions(disk: &[u8], block_bytes: usize) -> Vec<(u32, u64, u64)> {
    let (table, _) = read(disk, block_bytes);
    let partitions = table.partitions.iter();
    partitions
        .map(|it| (it.number, it.first_block, it.blocks))
        .collect()
}

/// A disk with a GPT, as another program of this world makes it, and what is in it.
fn gpt_disk(block_bytes: usize, blocks: usize, lengths: &[u64]) -> (Vec<u8>, Vec<(u32, u64, u64)>) {
    let lb_size = LogicalBlockSize::try_from(block_bytes as u64).unwrap();
    let mut device = Cursor::new(vec![0; block_bytes * blocks]);
    let last = u32::try_from(blocks - 1).unwrap();
    gpt::mbr::ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut device)
        .unwrap();
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(lb_size)
        .create_from_device(device, None)
        .unwrap();
    for length in lengths {
        let bytes = length * block_bytes as u64;
        disk.add_partition("p", bytes, gpt::partition_types::LINUX_FS, 0, None)
            .unwrap();
    }
    let wanted = disk
        .partitions()
        .iter()
        .map(|(number, it)| (*number, it.first_lba, it.last_lba - it.first_lba + 1))
        .collect();
    (disk.write().unwrap().into_inner(), wanted)
}

#[test]
fn a_gpt_is_read_with_either_block_size() {
    for block_bytes in [512, 4096] {
        let (disk, wanted) = gpt_disk(block_bytes, 400, &[50, 1, 100]);
        assert_eq!(wanted.len(), 3);
        assert_eq!(partitions(&disk, block_bytes), wanted);
        assert_eq!(
            partitions(&disk, if block_bytes == 512 { 4096 } else { 512 }),
            [],
            "in the other one there is nothing where it should be"
        );
    }
}

#[test]
fn the_backup_is_read_where_the_first_is_damaged() {
    for block_bytes in [512, 4096] {
        let (disk, wanted) = gpt_disk(block_bytes, 400, &[50, 100]);
        // In the header, in its checksum, in the entries.
        for damage in [block_bytes, block_bytes + 16, 2 * block_bytes + 5] {
            let mut damaged = disk.clone();
            damaged[damage] ^= 1;
            assert_eq!(partitions(&damaged, block_bytes), wanted, "byte {damage}");
            // And neither.
            let last_block = damaged.len() - block_bytes;
            damaged[last_block + 40] ^= 1;
            assert_eq!(partitions(&damaged, block_bytes), [], "byte {damage}");
        }
    }
}

/// Changes entry `number` of a GPT of 512-byte blocks, and makes the checksums right again.
fn change_entry(disk: &mut [u8], number: usize, first_lba: u64, last_lba: u64) {
    let entry = 1024 + (number - 1) * 128;
    disk[entry + 32..entry + 40].copy_from_slice(&first_lba.to_le_bytes());
    disk[entry + 40..entry + 48].copy_from_slice(&last_lba.to_le_bytes());
    let entries = crc32(&disk[1024..1024 + 128 * 128]);
    disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    sign_header(disk);
}

fn sign_header(disk: &mut [u8]) {
    disk[512 + 16..512 + 20].fill(0);
    let header = crc32(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn an_entry_that_cannot_be_is_left_out_and_the_others_are_not() {
    let (disk, wanted) = gpt_disk(512, 400, &[50, 100]);
    let mut same = disk.clone();
    change_entry(&mut same, 1, wanted[0].1, wanted[0].1 + wanted[0].2 - 1);
    assert_eq!(same, disk, "the checksums of this test are right");
    for (first_lba, last_lba) in [
        (300, 299),
        (0, 50),
        (1, 50),
        (33, 50),
        (300, 399),
        (300, 367),
        (300, 400),
        (300, u64::MAX),
        (u64::MAX, u64::MAX),
        (u64::MAX, 3),
        (0, u64::MAX),
    ] {
        let mut disk = disk.clone();
        change_entry(&mut disk, 1, first_lba, last_lba);
        assert_eq!(partitions(&disk, 512), wanted[1..], "{first_lba} to {last_lba}");
    }
    // A header that allows all of it does not help.
    let mut disk = disk.clone();
    disk[512 + 40..512 + 48].fill(0);
    disk[512 + 48..512 + 56].fill(0xFF);
    for (first_lba, last_lba) in [(33, 50), (300, 399), (0, u64::MAX)] {
        change_entry(&mut disk, 1, first_lba, last_lba);
        assert_eq!(partitions(&disk, 512), wanted[1..]);
    }
    change_entry(&mut disk, 1, 34, 398);
    assert_eq!(partitions(&disk, 512)[0], (1, 34, 365), "as far as it can be");
}

#[test]
fn a_header_that_asks_too_much_is_not_believed() {
    let (disk, _) = gpt_disk(512, 400, &[50]);
    for (at, value) in [
        // Number of entries, bytes of one, where they are.
        (80, u32::MAX),
        (80, 0),
        (80, 1025),
        (84, 0),
        (84, 256),
        (84, 127),
        (72, 390),
        (72, u32::MAX),
        (72, 0),
        (72, 1),
        (24, 2),
    ] {
        let mut disk = disk.clone();
        disk[512 + at..512 + at + 4].copy_from_slice(&value.to_le_bytes());
        if at == 72 && value == u32::MAX {
            disk[512 + 76..512 + 80].fill(0xFF);
        }
        sign_header(&mut disk);
        let last_block = disk.len() - 512;
        disk[last_block] ^= 1;
        assert_eq!(partitions(&disk, 512), [], "{value} at {at}");
    }
}

/// Writes an MBR or an extended boot record into block `block`.
fn record(disk: &mut [u8], block_bytes: usize, block: usize, entries: &[(u8, u32, u32)]) {
    let record = &mut disk[block * block_bytes..][..512];
    record[446..510].fill(0);
    for (place, (kind, start, blocks)) in entries.iter().enumerate() {
        let entry = &mut record[446 + place * 16..][..16];
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&blocks.to_le_bytes());
    }
    record[510..512].copy_from_slice(&[0x55, 0xAA]);
}

#[test]
fn an_mbr_has_primary_and_logical_partitions() {
    for block_bytes in [512, 4096] {
        let mut disk = vec![0; block_bytes * 10_000];
        record(
            &mut disk,
            block_bytes,
            0,
            &[(0x83, 10, 90), (0, 0, 0), (0x07, 100, 50), (0x05, 3000, 600)],
        );
        record(&mut disk, block_bytes, 3000, &[(0x83, 2, 98), (0x05, 100, 100)]);
        record(&mut disk, block_bytes, 3100, &[(0x83, 1, 50), (0x0F, 300, 10)]);
        record(&mut disk, block_bytes, 3300, &[(0x82, 9, 1)]);
        let (table, _) = read(&disk, block_bytes);
        assert_eq!(table.far_blocks, [3000..3001, 3100..3101, 3300..3301]);
        assert_eq!(
            partitions(&disk, block_bytes),
            [
                (1, 10, 90),
                (3, 100, 50),
                (5, 3002, 98),
                (6, 3101, 50),
                (7, 3309, 1)
            ]
        );
    }
}

#[test]
fn a_chain_that_does_not_go_up_ends() {
    for next in [0, 50, 100, 599, 600, u32::MAX] {
        let mut disk = vec![0; 512 * 1000];
        record(&mut disk, 512, 0, &[(0x05, 200, 600)]);
        record(&mut disk, 512, 200, &[(0x83, 1, 9), (0x05, 100, 100)]);
        record(&mut disk, 512, 300, &[(0x83, 1, 9), (0x05, next, 100)]);
        assert_eq!(partitions(&disk, 512), [(5, 201, 9), (6, 301, 9)], "{next}");
    }
    // One that goes up for ever is followed for a while.
    let mut disk = vec![0; 512 * 1000];
    record(&mut disk, 512, 0, &[(0x05, 1, 999)]);
    for block in 1..999 {
        record(&mut disk, 512, block, &[(0x05, block as u32, 1)]);
    }
    let (table, read_bytes) = read(&disk, 512);
    assert_eq!(table.partitions, []);
    assert_eq!(read_bytes, 512 * (2 + MAX_EBRS as u64));
}

#[test]
fn an_mbr_entry_out_of_bounds_is_left_out() {
    let mut disk = vec![0; 512 * 1000];
    record(
        &mut disk,
        512,
        0,
        &[
            (0x83, 0, 10),
            (0x83, 990, 11),
            (0x83, 990, 10),
            (0x83, u32::MAX, u32::MAX),
        ],
    );
    assert_eq!(partitions(&disk, 512), [(3, 990, 10)]);
    // A logical one that leaves the extended one, or begins in its own record.
    record(&mut disk, 512, 0, &[(0x05, 200, 100)]);
    record(
        &mut disk,
        512,
        200,
        &[(0x83, 50, 51), (0x83, 0, 9), (0x83, 50, 50), (0x83, u32::MAX, 2)],
    );
    assert_eq!(partitions(&disk, 512), [(5, 250, 50)]);
    // The extended one itself.
    record(&mut disk, 512, 0, &[(0x83, 1, 1), (0x05, 200, 801)]);
    assert_eq!(partitions(&disk, 512), [(1, 1, 1)]);
}

#[test]
fn a_disk_without_a_table_has_no_partitions() {
    assert_eq!(partitions(&[0; 512 * 100], 512), []);
    assert_eq!(partitions(&[0xFF; 512 * 100], 512), []);
    // The boot sector of a FAT: a signature, and code where the entries would be.
    let mut fat = vec![0; 512 * 100];
    fat[..3].copy_from_slice(&[0xEB, 0x3C, 0x90]);
    fat[446..510].fill(b'r');
    fat[510..512].copy_from_slice(&[0x55, 0xAA]);
    assert_eq!(partitions(&fat, 512), []);
    // Too small for any.
    assert!(TableReader::new(1, 512).is_none());
    assert!(TableReader::new(0, 512).is_none());
    // A protective MBR without what it protects.
    let mut disk = vec![0; 512 * 100];
    record(&mut disk, 512, 0, &[(0xEE, 1, 99)]);
    assert_eq!(partitions(&disk, 512), []);
    for blocks in 2..6 {
        assert_eq!(partitions(&disk[..512 * blocks], 512), []);
    }
}

/// What must hold of anything that was read.
fn check(disk: &[u8], block_bytes: usize) -> Result<(), TestCaseError> {
    let blocks = (disk.len() / block_bytes) as u64;
    let (table, read_bytes) = read(disk, block_bytes);
    let most = 3 * block_bytes + 2 * (128 << 10) + MAX_EBRS * block_bytes;
    prop_assert!(read_bytes <= most as u64);
    for partition in &table.partitions {
        prop_assert!(partition.number > 0 && partition.blocks > 0 && partition.first_block > 0);
        prop_assert!(partition.first_block + partition.blocks <= blocks);
    }
    let numbers: Vec<u32> = table.partitions.iter().map(|it| it.number).collect();
    prop_assert!(numbers.is_sorted_by(|a, b| a < b));
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..8192),
        entries in prop::collection::vec((any::<u8>(), 0_u32..20, 0_u32..20), 0..4),
        large: bool,
    ) {
        let block_bytes = if large { 4096 } else { 512 };
        check(&bytes, block_bytes)?;
        let mut disk = bytes;
        disk.resize(20 * block_bytes, 0);
        // Records with all sorts of entries, links among them.
        for block in 0..20 {
            let entries: Vec<_> = entries
                .iter()
                .map(|(kind, start, blocks)| (*kind % 8, start + block as u32 % 3, *blocks))
                .collect();
            record(&mut disk, block_bytes, block, &entries);
        }
        check(&disk, block_bytes)?;
    }

    /// Tables that were good and then had bytes changed, also with checksums that were made right again.
    #[test]
    fn damaged_tables_are_survived(
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..20),
        signed: bool,
    ) {
        let (mut disk, _) = gpt_disk(512, 80, &[5, 1, 3]);
        for (at, value) in changes {
            // Mostly into the fields of the header and of the first entries.
            let at = match at {
                0..100 => 440 + at % 72,
                100..200 => 512 + at % 96,
                _ => 1024 + at - 200,
            };
            disk[at] = value;
        }
        if signed {
            let entries = crc32(&disk[1024..1024 + 128 * 128]);
            disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
            sign_header(&mut disk);
        }
        check(&disk, 512)?;
        check(&disk, 4096)?;
    }
}

#[test]
fn redox_counts_the_entries_that_hold_anything() {
    let positions = |disk: &[u8]| -> Vec<(u32, u32)> {
        let (table, _) = read(disk, 512);
        let by_position = table.by_position();
        by_position.map(|(position, it)| (position, it.number)).collect()
    };
    let (mut disk, wanted) = gpt_disk(512, 400, &[50, 20, 30, 10]);
    assert_eq!(wanted.len(), 4);
    assert_eq!(positions(&disk), [(0, 1), (1, 2), (2, 3), (3, 4)]);
    // An entry that is taken out does not count.
    disk[1024 + 128..1024 + 256].fill(0);
    change_entry(&mut disk, 1, wanted[0].1, wanted[0].1 + wanted[0].2 - 1);
    assert_eq!(positions(&disk), [(0, 1), (1, 3), (2, 4)]);
    // One that is left out does, and one without a type.
    change_entry(&mut disk, 1, 0, 50);
    assert_eq!(positions(&disk), [(1, 3), (2, 4)]);
    disk[1024 + 256..1024 + 272].fill(0);
    change_entry(&mut disk, 1, 0, 50);
    assert_eq!(positions(&disk), [(2, 4)]);
}
