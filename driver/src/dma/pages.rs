//! Pages for one queue: bounce pages for data that the device cannot reach, and pages for PRP lists.

use super::Region;

/// No page.
pub(crate) const NIL: u32 = u32::MAX;

/// A fixed number of pages, given out and taken back in chains. Belongs to one queue; taking a page costs a load and
/// a store.
#[derive(Debug)]
pub(crate) struct PagePool {
    regions: Vec<Region>,
    pages_per_region: u32,
    page_bytes: usize,
    /// For each page the one after it: in the free list, or in the chain of a command.
    next: Box<[u32]>,
    free: u32,
    available: usize,
}

/// Pages that belong to one command, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    first: u32,
    last: u32,
}

impl Chain {
    /// No pages.
    pub(crate) const EMPTY: Self = Self {
        first: NIL,
        last: NIL,
    };

    pub(crate) fn first(&self) -> Option<u32> {
        (self.first != NIL).then_some(self.first)
    }
}

impl PagePool {
    /// All pages of `regions`, which are of one length, a multiple of `page_bytes`.
    pub(crate) fn new(regions: Vec<Region>, page_bytes: usize) -> Self {
        let pages_per_region = regions
            .first()
            .map_or(1, |region| (region.len() / page_bytes).max(1)) as u32;
        let count = regions.len() as u32 * pages_per_region;
        let next = (0..count)
            .map(|page| if page + 1 < count { page + 1 } else { NIL })
            .collect();
        let free = if count > 0 { 0 } else { NIL };
        Self {
            regions,
            pages_per_region,
            page_bytes,
            next,
            free,
            available: count as usize,
        }
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Free pages.
    pub(crate) fn available(&self) -> usize {
        self.available
    }

    /// Moves a free page to the end of `chain` and returns its number.
    pub(crate) fn take(&mut self, chain: &mut Chain) -> Option<u32> {
        let page = self.free;
        let slot = self.next.get_mut(page as usize)?;
        self.free = std::mem::replace(slot, NIL);
        self.available -= 1;
        match self.next.get_mut(chain.last as usize) {
            Some(last) => *last = page,
            None => chain.first = page,
        }
        chain.last = page;
        Some(page)
    }

    /// Takes all pages of `chain` back.
    pub(crate) fn give_back(&mut self, chain: &mut Chain) {
        let mut page = chain.first;
        while let Some(next) = self.next.get_mut(page as usize) {
            let following = std::mem::replace(next, self.free);
            self.free = page;
            self.available += 1;
            page = following;
        }
        *chain = Chain::EMPTY;
    }

    /// Moves the pages of `tail` to the end of `chain`.
    pub(crate) fn join(&mut self, chain: &mut Chain, tail: &mut Chain) {
        if tail.first == NIL {
            return;
        }
        match self.next.get_mut(chain.last as usize) {
            Some(last) => *last = tail.first,
            None => chain.first = tail.first,
        }
        chain.last = tail.last;
        *tail = Chain::EMPTY;
    }

    /// The page after `page` in its chain.
    pub(crate) fn after(&self, page: u32) -> Option<u32> {
        self.next.get(page as usize).copied().filter(|next| *next != NIL)
    }

    /// The page's memory: its region and its offset there in bytes.
    ///
    /// # Panics
    /// If `page` did not come from [`PagePool::take`].
    #[inline]
    pub(crate) fn place(&self, page: u32) -> (&Region, usize) {
        let region = &self.regions[(page / self.pages_per_region) as usize];
        (region, (page % self.pages_per_region) as usize * self.page_bytes)
    }

    /// The page's address for the device.
    ///
    /// # Panics
    /// As [`PagePool::place`].
    #[inline]
    pub(crate) fn iova(&self, page: u32) -> u64 {
        let (region, offset) = self.place(page);
        region.iova() + offset as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::Backend;
    use crate::backend::emulated::EmulatedBackend;

    fn pool(regions: usize, region_bytes: usize) -> PagePool {
        let backend = EmulatedBackend::stepped(Default::default()).unwrap();
        PagePool::new(
            (0..regions)
                .map(|_| backend.allocate(region_bytes).unwrap())
                .collect(),
            4096,
        )
    }

    #[test]
    fn every_page_is_given_out_once_and_comes_back() {
        let mut pool = pool(2, 3 * 4096);
        for _ in 0..3 {
            assert_eq!(pool.available(), 6);
            let (mut one, mut other) = (Chain::EMPTY, Chain::EMPTY);
            let mut addresses = BTreeSet::new();
            for number in 0..6 {
                let page = pool
                    .take(if number % 2 == 0 { &mut one } else { &mut other })
                    .unwrap();
                assert!(addresses.insert(pool.iova(page)));
            }
            assert_eq!(pool.take(&mut one), None);
            let first = one.first().unwrap();
            let second = pool.after(first).unwrap();
            let third = pool.after(second).unwrap();
            assert_eq!(pool.after(third), None);
            pool.give_back(&mut one);
            assert_eq!((pool.available(), one), (3, Chain::EMPTY));
            pool.give_back(&mut other);
            pool.give_back(&mut other);
        }
    }

    #[test]
    fn no_pages_is_no_trouble() {
        let mut pool = pool(0, 4096);
        assert_eq!(pool.take(&mut Chain::EMPTY.clone()), None);
    }
}
