//! Windows onto clients' memory: where its pages are for the device.

use std::sync::Arc;

use super::{MAX_REGION_BYTES, PAGE_BYTES, Translation};
use crate::backend::{Mapping, MemoryOf, Windows};

/// As many as the longest command has, wherever in a page it begins.
const MAX_PAGES: usize = MAX_REGION_BYTES / PAGE_BYTES + 1;

/// See [`Memory::windows`](super::Memory::windows).
pub(super) fn open(translation: &Arc<Translation>, page_bytes: usize) -> Option<Box<dyn Windows>> {
    if page_bytes != PAGE_BYTES {
        log::warn!(
            "the controller's pages have {page_bytes} bytes, the system's {PAGE_BYTES}: clients' data is copied"
        );
        return None;
    }
    Some(Box::new(ClientWindows {
        translation: Arc::clone(translation),
        pages: Vec::with_capacity(MAX_PAGES),
    }))
}

/// Memory of clients, as the device sees it for the time of one call.
///
/// It is looked up each time, page by page. That cannot be spared by remembering: the kernel maps each call's pages anew,
/// and the same address is another page at the next call. What is remembered is where regions are, which stay.
struct ClientWindows {
    translation: Arc<Translation>,
    /// The pages of the window that was opened last; they are in a command by the time the next one is.
    pages: Vec<u64>,
}

impl Windows for ClientWindows {
    unsafe fn map(&mut self, _slot: u16, memory: *mut u8, len: usize, of: MemoryOf) -> Option<Mapping<'_>> {
        // A page of the heap may not be there before it is touched, or be the one page of zeroes that all share: only what
        // the kernel has lent is pinned.
        if of != MemoryOf::Client {
            return None;
        }
        let start = memory as usize;
        let last = start.checked_add(len.checked_sub(1)?)?;
        // PRP entries are multiples of 4 (NVMe Base 2.0 section 4.1.1).
        if !start.is_multiple_of(4) {
            return None;
        }
        let (first_page, last_page) = (start / PAGE_BYTES, last / PAGE_BYTES);
        if last_page - first_page >= MAX_PAGES {
            return None;
        }
        self.pages.clear();
        for page in first_page..=last_page {
            let address = start.max(page * PAGE_BYTES);
            match self.translation.translate(address) {
                Ok(place) => self.pages.push(place),
                Err(error) => {
                    log::debug!("where a client's page is for the device: {error}; its data is copied");
                    return None;
                }
            }
        }
        Some(Mapping::Pages(&self.pages))
    }

    fn unmap(&mut self, _slot: u16) {
        // There is nothing between the device and memory that could be closed: that it is done with these pages is what
        // the command's completion says, and the kernel keeps them in place until the call is answered after that.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::redox::fake::Fake;
    use crate::backend::redox::memory::Memory;

    fn memory() -> (Arc<Fake>, Memory) {
        let fake = Fake::new();
        let memory = Memory::open(&fake.system()).unwrap();
        (fake, memory)
    }

    /// Pages that lie about as a client's do.
    fn lent(fake: &Fake, pages: usize) -> (*mut u8, Vec<u64>) {
        let memory = vec![0_u8; (pages + 1) * PAGE_BYTES].leak();
        let start = memory.as_ptr().align_offset(PAGE_BYTES);
        let start = &raw mut memory[start];
        let places: Vec<u64> = (0..pages as u64)
            .map(|page| 0x7000_0000 - page * 0x5000)
            .collect();
        for (page, place) in places.iter().enumerate() {
            fake.lock()
                .physical
                .insert(start as usize + page * PAGE_BYTES, *place);
        }
        (start, places)
    }

    fn map(
        windows: &mut dyn Windows,
        start: *mut u8,
        offset: usize,
        len: usize,
        of: MemoryOf,
    ) -> Option<Vec<u64>> {
        // SAFETY: leaked, and nobody touches it.
        match unsafe { windows.map(0, start.wrapping_add(offset), len, of) } {
            Some(Mapping::Pages(pages)) => Some(pages.to_vec()),
            Some(Mapping::Contiguous(_)) => panic!("a client's pages lie anywhere"),
            None => None,
        }
    }

    #[test]
    fn clients_pages_are_where_the_kernel_says_with_the_offset_added() {
        let (fake, memory) = memory();
        let (start, places) = lent(&fake, 3);
        let mut windows = memory.windows(4096).unwrap();
        let mut map = |offset, len| map(&mut *windows, start, offset, len, MemoryOf::Client);
        assert_eq!(map(0, 12288).as_deref(), Some(&places[..]));
        assert_eq!(map(512, 512), Some(vec![places[0] + 512]));
        assert_eq!(map(4092, 8), Some(vec![places[0] + 4092, places[1]]));
        assert_eq!(map(4100, 4096), Some(vec![places[1] + 4, places[2]]));
    }

    #[test]
    fn the_same_address_is_looked_up_anew_each_time() {
        let (fake, memory) = memory();
        let (start, _) = lent(&fake, 1);
        let mut windows = memory.windows(4096).unwrap();
        for place in [0x1000, 0x9000] {
            fake.lock().physical.insert(start as usize, place);
            let pages = map(&mut *windows, start, 0, 4096, MemoryOf::Client);
            assert_eq!(pages, Some(vec![place]));
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_left_to_be_copied() {
        let (fake, memory) = memory();
        let (start, _) = lent(&fake, 2);
        let mut windows = memory.windows(4096).unwrap();
        let mut map = |offset, len, of| map(&mut *windows, start, offset, len, of);
        assert_eq!(map(0, 4096, MemoryOf::Process), None);
        assert_eq!(map(2, 4096, MemoryOf::Client), None);
        assert_eq!(map(0, 0, MemoryOf::Client), None);
        assert_eq!(map(0, usize::MAX, MemoryOf::Client), None);
        assert_eq!(map(0, MAX_REGION_BYTES + 4097, MemoryOf::Client), None);
        assert_eq!(fake.lock().translations, 0);
        // The third page is nobody's.
        assert_eq!(map(0, 8193, MemoryOf::Client), None);
        // What the kernel says is no page.
        for place in [0x1004, 1 << 60] {
            fake.lock().physical.insert(start as usize, place);
            assert_eq!(map(0, 4096, MemoryOf::Client), None);
        }
        assert!(memory.windows(8192).is_none());
    }
}
