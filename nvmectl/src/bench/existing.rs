//! What is already on a namespace: partition tables and file systems, by the marks they leave.

use crate::error::Error;
use crate::tree::{Access, Tree, read_some};

/// A mark: these bytes at this offset.
struct Mark {
    name: &'static str,
    offset: usize,
    bytes: &'static [u8],
}

const fn mark(name: &'static str, offset: usize, bytes: &'static [u8]) -> Mark {
    Mark { name, offset, bytes }
}

/// The first that is found is named, so what may carry another's marks inside it comes first.
const MARKS: &[Mark] = &[
    mark("a GPT partition table", 512, b"EFI PART"),
    mark("a GPT partition table", 4096, b"EFI PART"),
    mark("a LUKS encrypted volume", 0, b"LUKS\xba\xbe"),
    mark("an LVM physical volume", 512, b"LABELONE"),
    mark("a RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    mark("a RedoxFS file system", 0, b"RedoxFS\0"),
    mark("an ext2, ext3 or ext4 file system", 1080, b"\x53\xef"),
    mark("an XFS file system", 0, b"XFSB"),
    mark("a Btrfs file system", 65_600, b"_BHRfS_M"),
    mark("an F2FS file system", 1024, b"\x10\x20\xf5\xf2"),
    mark(
        "a bcachefs or bcache volume",
        4120,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
    ),
    mark("an NTFS file system", 3, b"NTFS    "),
    mark("an exFAT file system", 3, b"EXFAT   "),
    mark("a FAT file system", 54, b"FAT"),
    mark("a FAT file system", 82, b"FAT32"),
    mark("an ISO 9660 file system", 32_769, b"CD001"),
    mark("swap space", 4086, b"SWAPSPACE2"),
    mark("swap space", 4086, b"SWAP-SPACE"),
];

/// Enough to see every mark.
const LOOK_BYTES: usize = 128 << 10;

/// What is on namespace `nsid`, None if nothing that is known here.
///
/// # Errors
/// Those of reading its first 128 KiB.
pub fn look(tree: &dyn Tree, nsid: u32) -> Result<Option<&'static str>, Error> {
    let path = format!("{nsid}/data");
    let mut file = tree.open(&path, Access::Read)?;
    let mut start = vec![0; LOOK_BYTES];
    let mut filled = 0;
    while let Some(rest) = start.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_some(file.as_mut(), rest, filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(recognise(start.get(..filled).unwrap_or_default()))
}

fn recognise(start: &[u8]) -> Option<&'static str> {
    let is_there = |mark: &&Mark| {
        start
            .get(mark.offset..)
            .is_some_and(|rest| rest.starts_with(mark.bytes))
    };
    let marked = MARKS.iter().find(is_there).map(|mark| mark.name);
    marked.or_else(|| has_partitions(start).then_some("a partition table (MBR)"))
}

/// A Master Boot Record: its signature, and a partition of a type and a size.
fn has_partitions(start: &[u8]) -> bool {
    const ENTRIES: std::ops::Range<usize> = 446..510;
    const ENTRY_BYTES: usize = 16;
    let is_used =
        |entry: &[u8]| entry.get(4).is_some_and(|kind| *kind != 0) && entry.get(12..) != Some(&[0; 4]);
    let signed = start.get(510..512) == Some(&[0x55, 0xaa]);
    signed
        && start
            .get(ENTRIES)
            .is_some_and(|entries| entries.chunks(ENTRY_BYTES).any(is_used))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fake::FakeTree;

    #[test]
    fn every_mark_is_seen_through_the_tree() {
        for mark in MARKS {
            let mut disk = vec![0; 1 << 20];
            disk[mark.offset..mark.offset + mark.bytes.len()].copy_from_slice(mark.bytes);
            let tree = FakeTree::new().file("1/data", &disk).pieces_of(5000);
            assert_eq!(look(&tree, 1).unwrap(), Some(mark.name));
        }
    }

    #[test]
    fn a_boot_record_counts_only_with_a_partition() {
        let mut disk = vec![0; 4096];
        (disk[510], disk[511]) = (0x55, 0xaa);
        assert_eq!(recognise(&disk), None);
        disk[446 + 16 + 4] = 0x83;
        assert_eq!(recognise(&disk), None, "a partition of no size");
        disk[446 + 16 + 12] = 1;
        assert_eq!(recognise(&disk), Some("a partition table (MBR)"));
    }

    #[test]
    fn nothing_is_on_an_empty_or_a_tiny_disk() {
        for bytes in [0, 1, 511, 4096, 1 << 20] {
            assert_eq!(
                look(&FakeTree::new().file("1/data", &vec![0; bytes]), 1).unwrap(),
                None,
                "{bytes}"
            );
        }
    }
}
