//! Memory for a device without an IOMMU: where it is physically, which nothing keeps the device to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::container::Container;
use crate::backend::BackendError;
use crate::backend::linux::memory::{HUGE_PAGE_BYTES, Mapper, Piece, Plan};

const PAGE_BYTES: usize = 4096;
/// Of an entry of `/proc/self/pagemap`: the page is in memory, and its number.
const PRESENT: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// Says where huge pages are.
pub(super) struct Physical {
    pagemap: File,
    /// Kept open for as long as there is memory.
    _container: Arc<Container>,
}

impl Physical {
    /// # Errors
    /// The kernel does not say where pages are: only a process that may do everything (`CAP_SYS_ADMIN`) is told.
    pub(super) fn new(pagemap: &Path, container: &Arc<Container>) -> io::Result<Self> {
        Ok(Self {
            pagemap: File::open(pagemap)?,
            _container: Arc::clone(container),
        })
    }

    /// Each chunk is one huge page: only within one is memory surely in one piece.
    pub(super) fn plan() -> Plan {
        Plan {
            first_chunk_bytes: HUGE_PAGE_BYTES,
            largest_chunk_bytes: HUGE_PAGE_BYTES,
            max_chunks: 2048,
            only_huge_pages: true,
            ..Plan::default()
        }
    }
}

/// The physical address of the page whose entry is `entry`.
fn place(entry: u64) -> Option<u64> {
    // Whoever may not know sees 0 as the number.
    let number = entry & NUMBER;
    (entry & PRESENT != 0 && number != 0).then_some(number * PAGE_BYTES as u64)
}

// SAFETY: nothing keeps the device to what it is told of, which the user has accepted by asking for this. The pages are
// those of hugetlbfs, which are not swapped, and are never given back before the process ends.
unsafe impl Mapper for Physical {
    fn map(&self, piece: &Piece<'_>) -> Result<u64, BackendError> {
        let wrong = |why: String| {
            BackendError::NotPermitted(format!("where memory is physically cannot be found out: {why}"))
        };
        let first = piece.address.as_ptr().addr() / PAGE_BYTES;
        let pages = piece.len_bytes / PAGE_BYTES;
        let mut entries = vec![0; pages * size_of::<u64>()];
        let at = first as u64 * size_of::<u64>() as u64;
        let read = self.pagemap.read_exact_at(&mut entries, at);
        read.map_err(|error| wrong(format!("reading /proc/self/pagemap: {error}")))?;
        let places: Option<Vec<u64>> = entries
            .chunks_exact(size_of::<u64>())
            .map(|entry| place(u64::from_ne_bytes(entry.try_into().ok()?)))
            .collect();
        let places = places.ok_or_else(|| {
            wrong("/proc/self/pagemap does not show it to this user; run as root (CAP_SYS_ADMIN)".to_owned())
        })?;
        let mut start = None;
        for (place, offset) in places.iter().zip((0_u64..).step_by(PAGE_BYTES)) {
            let begins = place.checked_sub(offset);
            if begins.is_none() || start.is_some_and(|start| begins != Some(start)) {
                return Err(wrong("a huge page is not in one piece".to_owned()));
            }
            start = begins;
        }
        start.ok_or_else(|| wrong("there is none".to_owned()))
    }

    fn unmap(&self, _iova: u64, _len_bytes: usize) -> bool {
        // Nobody can say.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_where_its_entry_says_if_it_says() {
        assert_eq!(place(PRESENT | 0x1234), Some(0x123_4000));
        assert_eq!(place(PRESENT | (1 << 61) | 5), Some(0x5000));
        assert_eq!(place(PRESENT), None, "hidden");
        assert_eq!(place(0x1234), None, "swapped");
    }

    #[test]
    fn chunks_are_huge_pages() {
        let plan = Physical::plan();
        assert!(plan.only_huge_pages && plan.largest_chunk_bytes == HUGE_PAGE_BYTES);
    }
}
