//! What VFIO says in structures with a chain of capabilities behind them: regions, and the IOMMU's addresses.
//!
//! ```text
//! capability    id: u16, version: u16, offset of the next one in the structure: u32 (0: none), then what it says
//! ```

use std::ops::RangeInclusive;

use vfio_bindings::bindings::vfio::{
    VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
};

const HEADER_BYTES: usize = 8;
/// Capabilities that are looked at in one chain.
const MAX_CAPABILITIES: usize = 64;
/// Entries that are taken from one capability.
const MAX_ENTRIES: usize = 1024;

/// The 32 bits at `offset`.
pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// What the capability `id` says, in a structure whose chain begins at `first`.
fn capability(bytes: &[u8], first: u32, id: u32) -> Option<&[u8]> {
    let mut offset = first as usize;
    for _ in 0..MAX_CAPABILITIES {
        if offset == 0 {
            return None;
        }
        let header = word(bytes, offset)?;
        if header & 0xFFFF == id {
            return bytes.get(offset + HEADER_BYTES..);
        }
        offset = word(bytes, offset + 4)? as usize;
    }
    None
}

/// Pairs of numbers behind their count, of which there is padding to 8 bytes.
fn pairs(capability: &[u8]) -> Vec<(u64, u64)> {
    let count = word(capability, 0).unwrap_or(0) as usize;
    let pair = |index: usize| {
        let offset = 8 + index * 16;
        Some((long(capability, offset)?, long(capability, offset + 8)?))
    };
    (0..count.min(MAX_ENTRIES)).map_while(pair).collect()
}

/// A region of a device's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// Its length; 0 where the function does not have it.
    pub(super) len_bytes: u64,
    /// Offsets within it and lengths of what can be mapped, in whole pages.
    pub(super) mappable: Vec<(u64, u64)>,
}

impl Region {
    /// What `vfio_region_info` says.
    pub(super) fn parse(bytes: &[u8], page_bytes: u64) -> Option<Self> {
        let flags = word(bytes, 4)?;
        let len_bytes = long(bytes, 16)?;
        let offset = long(bytes, 24)?;
        offset.checked_add(len_bytes)?;
        let sparse = (flags & VFIO_REGION_INFO_FLAG_CAPS != 0)
            .then(|| capability(bytes, word(bytes, 12)?, VFIO_REGION_INFO_CAP_SPARSE_MMAP))
            .flatten();
        let mut mappable = match sparse {
            _ if flags & VFIO_REGION_INFO_FLAG_MMAP == 0 => Vec::new(),
            Some(sparse) => pairs(sparse),
            None => vec![(0, len_bytes)],
        };
        mappable.retain(|(start, len)| {
            let end = start.checked_add(*len);
            *len > 0 && end.is_some_and(|end| end <= len_bytes) && start.is_multiple_of(page_bytes)
        });
        Some(Self {
            offset,
            len_bytes,
            mappable,
        })
    }
}

/// The addresses that devices can use, of what `vfio_iommu_type1_info` says; `None` where a kernel before 5.4 does not say.
pub(super) fn iova_ranges(bytes: &[u8]) -> Option<Vec<RangeInclusive<u64>>> {
    if word(bytes, 4)? & VFIO_IOMMU_INFO_CAPS == 0 {
        return None;
    }
    let ranges = capability(bytes, word(bytes, 16)?, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE)?;
    let mut ranges: Vec<_> = pairs(ranges)
        .into_iter()
        .filter(|(start, end)| start <= end)
        .map(|(start, end)| start..=end)
        .collect();
    ranges.sort_unstable_by_key(|range| *range.start());
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE_BYTES: u64 = 4096;

    fn bytes_of(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A region of 16 KiB at 2^40, with capabilities behind it.
    fn region(flags: u32, capabilities: &[u32]) -> Vec<u8> {
        let first = if capabilities.is_empty() { 0 } else { 32 };
        let mut words = vec![0, flags, 0, first, 0x4000, 0, 0, 0x100];
        words.extend(capabilities);
        words[0] = words.len() as u32 * 4;
        bytes_of(&words)
    }

    #[test]
    fn a_region_is_mapped_whole_in_parts_or_not_at_all() {
        let parse = |bytes: &[u8]| Region::parse(bytes, PAGE_BYTES).unwrap();
        let whole = parse(&region(VFIO_REGION_INFO_FLAG_MMAP, &[]));
        assert_eq!((whole.offset, whole.len_bytes), (1 << 40, 0x4000));
        assert_eq!(whole.mappable, [(0, 0x4000)]);
        assert_eq!(parse(&region(0, &[])).mappable, []);
        // Another capability first (that the table of MSI-X can be mapped), then two areas, one that is none, one beyond
        // the end, one within a page.
        let sparse = [
            3,
            40,
            VFIO_REGION_INFO_CAP_SPARSE_MMAP | (1 << 16),
            0,
            5,
            0,
            0,
            0,
            0x1000,
            0,
            0x3000,
            0,
            0x1000,
            0,
            0x2000,
            0,
            0,
            0,
            0x3000,
            0,
            0x1001,
            0,
            0x800,
            0,
            0x800,
            0,
        ];
        let flags = VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
        assert_eq!(
            parse(&region(flags, &sparse)).mappable,
            [(0, 0x1000), (0x3000, 0x1000)]
        );
        assert_eq!(parse(&region(VFIO_REGION_INFO_FLAG_CAPS, &sparse)).mappable, []);
        // A chain that goes round has an end too.
        assert_eq!(parse(&region(flags, &[3, 32])).mappable, [(0, 0x4000)]);
    }

    #[test]
    fn addresses_of_the_iommu_are_in_order() {
        let info = |capabilities: &[u32]| {
            let mut words = vec![0, VFIO_IOMMU_INFO_CAPS | 1, 0x1000, 0, 24, 0];
            words.extend(capabilities);
            bytes_of(&words)
        };
        let two = [1, 0, 2, 0, 0xFEF0_0000, 0, u32::MAX, 0x7F, 0, 0, 0xFEDF_FFFF, 0];
        assert_eq!(
            iova_ranges(&info(&two)),
            Some(vec![0..=0xFEDF_FFFF, 0xFEF0_0000..=0x7F_FFFF_FFFF])
        );
        assert_eq!(iova_ranges(&info(&[2, 0])), None);
        assert_eq!(iova_ranges(&bytes_of(&[24, 1, 0x1000, 0, 0, 0])), None);
    }

    proptest! {
        /// Whatever is there, something is said in the end, and what can be mapped is inside.
        #[test]
        fn any_bytes_are_read(words in prop::collection::vec(prop_oneof![any::<u32>(), 0_u32..64], 0..40)) {
            let bytes = bytes_of(&words);
            if let Some(region) = Region::parse(&bytes, PAGE_BYTES) {
                for (start, len) in region.mappable {
                    prop_assert!(start + len <= region.len_bytes);
                }
            }
            for range in iova_ranges(&bytes).into_iter().flatten() {
                prop_assert!(!range.is_empty());
            }
        }
    }
}
