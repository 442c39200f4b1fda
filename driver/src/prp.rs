//! Physical Region Pages: how a command tells the device where its data is (NVMe Base 2.0 section 4.1.1).
//!
//! The first entry may start anywhere in a page at a multiple of 4 bytes, all others are whole pages. With one or two
//! pages the entries are in the command itself; with more, PRP2 points to a list. A list that fills its page goes on
//! in another, which its last entry points to.

use nvme_spec::SubmissionEntry;

use crate::dma::pages::{Chain, PagePool};

/// Entries that a list page holds.
fn entries_per_page(page_bytes: usize) -> usize {
    page_bytes / 8
}

/// Data pages that `len` bytes touch from `offset` within a page on.
pub(crate) fn data_pages(offset: usize, len: usize, page_bytes: usize) -> usize {
    (offset % page_bytes + len).div_ceil(page_bytes)
}

/// List pages that a command with that many data pages needs.
pub(crate) fn list_pages(data_pages: usize, page_bytes: usize) -> usize {
    let per_page = entries_per_page(page_bytes);
    match data_pages.saturating_sub(1) {
        0 | 1 => 0,
        // Each list page but the last gives an entry to the pointer to the next.
        entries if entries <= per_page => 1,
        entries => 1 + (entries - per_page).div_ceil(per_page - 1),
    }
}

/// Writes PRP1 and PRP2 of `entry`, for data whose `n`th page is at `address(pool, n)` (asked once for each page, in
/// order), and the lists that takes, into pages from `pool` that are added to `lists`. `None`, with `lists` holding
/// what was taken, if the pool ran out.
#[inline]
pub(crate) fn describe(
    entry: &mut SubmissionEntry,
    pages: usize,
    mut address: impl FnMut(&PagePool, usize) -> u64,
    pool: &mut PagePool,
    lists: &mut Chain,
) -> Option<()> {
    entry.prp1 = address(pool, 0);
    entry.prp2 = 0;
    match pages {
        0 | 1 => {}
        2 => entry.prp2 = address(pool, 1),
        _ => {
            let per_page = entries_per_page(pool.page_bytes());
            let mut list = pool.take(lists)?;
            entry.prp2 = pool.iova(list);
            let mut place = 0;
            for page in 1..pages {
                if place == per_page - 1 && page + 1 < pages {
                    let next = pool.take(lists)?;
                    write_entry(pool, list, place, pool.iova(next));
                    (list, place) = (next, 0);
                }
                let address = address(pool, page);
                write_entry(pool, list, place, address);
                place += 1;
            }
        }
    }
    Some(())
}

#[inline]
fn write_entry(pool: &PagePool, list: u32, place: usize, address: u64) {
    let (region, offset) = pool.place(list);
    region.write(offset + place * 8, &address);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::Backend;
    use crate::backend::emulated::EmulatedBackend;

    /// The device's side, written from the specification: collects the addresses of all data pages.
    fn walk(entry: &SubmissionEntry, pages: usize, pool: &PagePool, lists: &Chain) -> Vec<u64> {
        let mut found = vec![entry.prp1];
        if pages == 2 {
            found.push(entry.prp2);
        }
        if pages > 2 {
            let mut list = entry.prp2;
            let mut left = pages - 1;
            while left > 0 {
                assert_eq!(list % 4096, 0);
                let mut page = lists.first();
                while let Some(number) = page.filter(|number| pool.iova(*number) != list) {
                    page = pool.after(number);
                }
                let (region, offset) = pool.place(page.expect("a list lies in the command's own pages"));
                let goes_on = left > 512;
                for place in 0..left.min(512) {
                    let address: u64 = region.read(offset + place * 8);
                    if place == 511 && goes_on {
                        list = address;
                    } else {
                        found.push(address);
                        left -= 1;
                    }
                }
            }
        }
        found
    }

    proptest! {
        #[test]
        fn the_device_finds_every_page(pages in prop_oneof![1usize..6, 500usize..530, 1usize..2600], offset in 0usize..1024) {
            let backend = EmulatedBackend::stepped(Default::default()).unwrap();
            let mut pool = PagePool::new(vec![backend.allocate(8 * 4096).unwrap()], 4096);
            let address = |page: usize| 0x5000_0000 + page as u64 * 0x2000 + if page == 0 { offset as u64 * 4 } else { 0 };
            let mut entry = SubmissionEntry::default();
            let mut lists = Chain::EMPTY;
            describe(&mut entry, pages, |_, page| address(page), &mut pool, &mut lists).unwrap();
            let wanted: Vec<u64> = (0..pages).map(address).collect();
            prop_assert!(walk(&entry, pages, &pool, &lists) == wanted);
            prop_assert_eq!(8 - pool.available(), list_pages(pages, 4096));
        }

        #[test]
        fn a_length_touches_as_many_pages_as_its_bytes_are_on(offset in 0usize..5000, len in 1usize..100_000) {
            let start = offset % 4096;
            let touched = (start + len - 1) / 4096 + 1;
            prop_assert_eq!(data_pages(offset, len, 4096), touched);
        }
    }

    #[test]
    fn a_pool_that_runs_out_is_said_so() {
        let backend = EmulatedBackend::stepped(Default::default()).unwrap();
        let mut pool = PagePool::new(vec![backend.allocate(4096).unwrap()], 4096);
        let (mut entry, mut lists) = (SubmissionEntry::default(), Chain::EMPTY);
        assert_eq!(
            describe(
                &mut entry,
                600,
                |_, page| page as u64 * 4096,
                &mut pool,
                &mut lists
            ),
            None
        );
        pool.give_back(&mut lists);
        assert_eq!(pool.available(), 1);
    }
}
