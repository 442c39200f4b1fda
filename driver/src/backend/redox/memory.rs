//! Memory for DMA, and where memory is for the device.
//!
//! Everything is opened at the start: a driver that has given up its namespace goes on allocating.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use syscall::error::{EFAULT, ENOMEM, Error, Result};
use syscall::flag::{MapFlags, O_CLOEXEC, O_RDWR};

use crate::backend::{BackendError, Mapping, MemoryOf, Windows};
use crate::dma::Region;
use crate::redox::{Descriptor, Failure, System};

/// What the kernel gives in one piece.
pub const MAX_REGION_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4096;
/// Physical addresses have no more bits than this.
const ADDRESS_BITS: u32 = 52;

/// The kernel's memory scheme.
pub struct Memory {
    /// What maps zeroed memory, physically in one piece, write-back: on x86, DMA is coherent with caches.
    zeroed: Descriptor,
    translation: Arc<Translation>,
}

impl Memory {
    /// Opens what is needed later.
    ///
    /// # Errors
    /// The kernel's: only root may have such memory.
    pub fn open(system: &Arc<dyn System>) -> std::result::Result<Self, Failure> {
        let flags = O_RDWR | O_CLOEXEC;
        let root_path = "/scheme/memory/scheme-root";
        let root = Descriptor::open(system, root_path, flags).map_err(Failure::of(format!(
            "opening {root_path}, for memory that the device reaches"
        )))?;
        let openat = |path: &str, why: &str| {
            root.openat(path, flags).map_err(Failure::of(format!(
                "opening {path} of {root_path}, {why}; the driver must run as root"
            )))
        };
        Ok(Self {
            zeroed: openat("zeroed@wb?phys_contiguous", "for memory that the device reaches")?,
            translation: Arc::new(Translation(openat(
                "translation",
                "for where memory is for the device",
            )?)),
        })
    }

    /// Zeroed memory in one piece, at least `len_bytes` long: a power of two of pages.
    ///
    /// # Errors
    /// None is left, it is too much for one piece, or it is not in one piece.
    pub fn allocate(&self, len_bytes: usize) -> std::result::Result<Region, BackendError> {
        let no_memory = BackendError::NoMemory { len_bytes };
        // The kernel takes a power of two of pages from its free ones whatever it is asked for, and gets back only those
        // that it was asked for: the others are lost until the system goes down.
        let rounded = len_bytes.max(PAGE_BYTES).checked_next_power_of_two();
        // More than that the kernel refuses, having tried.
        let Some(rounded) = rounded.filter(|rounded| *rounded <= MAX_REGION_BYTES) else {
            return Err(no_memory);
        };
        let system = self.zeroed.system();
        let flags = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_PRIVATE;
        let start = match system.map(self.zeroed.number(), 0, rounded, flags) {
            Ok(start) => start,
            Err(error) if error.errno == ENOMEM => return Err(no_memory),
            Err(error) => {
                let what = format!("mapping {rounded} bytes of memory for DMA: {error}");
                return Err(BackendError::System(what));
            }
        };
        let piece = Piece {
            system: Arc::clone(system),
            start,
            len: rounded,
        };
        let iova = self.place_of(&piece).map_err(|what| {
            log::error!("{what}; the memory is given back unused");
            BackendError::System(what)
        })?;
        let memory = Arc::new(piece) as Arc<dyn Any + Send + Sync>;
        // SAFETY: just mapped, readable and writable, zeroed and page-aligned, for as long as `memory` is alive; nobody
        // else has the address.
        Ok(unsafe { Region::new(start, iova, rounded, memory) })
    }

    /// Where `piece` is for the device. Asked once: the pages stay where they are.
    fn place_of(&self, piece: &Piece) -> std::result::Result<u64, String> {
        let address = piece.start.as_ptr() as usize;
        if !address.is_multiple_of(PAGE_BYTES) {
            return Err(format!("memory for DMA is mapped at {address:#x}, within a page"));
        }
        let last_offset = piece.len - PAGE_BYTES;
        let translate = |offset: usize| {
            let address = address + offset;
            self.translation
                .translate(address)
                .map_err(|error| format!("where the page at {address:#x} is for the device: {error}"))
        };
        let first = translate(0)?;
        let last = translate(last_offset)?;
        if first.checked_add(last_offset as u64) != Some(last) {
            let len = piece.len;
            return Err(format!(
                "{len} bytes of memory for DMA begin at {first:#x} for the device, with the last page at {last:#x}: they are \
                 not in one piece, as was asked for"
            ));
        }
        Ok(first)
    }

    /// Windows on clients' memory for one queue; `None` if the controller's pages are not the kernel's.
    pub fn windows(&self, page_bytes: usize) -> Option<Box<dyn Windows>> {
        if page_bytes != PAGE_BYTES {
            log::warn!(
                "the controller's pages have {page_bytes} bytes, the system's {PAGE_BYTES}: clients' data is copied"
            );
            return None;
        }
        Some(Box::new(ClientWindows {
            translation: Arc::clone(&self.translation),
            pages: Vec::with_capacity(MAX_WINDOW_PAGES),
        }))
    }
}

/// A mapping of memory for DMA. It goes with the last region in it, since from then on nobody tells the device of it.
struct Piece {
    system: Arc<dyn System>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; whoever accesses the bytes says why that is sound.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: mapped by `Memory::allocate`, as a whole; every region in it holds the `Arc` that has just gone.
        unsafe { self.system.unmap(self.start, self.len) }
    }
}

/// What tells where a page of this process is for the device.
struct Translation(Descriptor);

impl Translation {
    /// Where the byte at `address` is for the device.
    fn translate(&self, address: usize) -> Result<u64> {
        let offset = address % PAGE_BYTES;
        // The kernel answers with the page alone, whatever the offset was. So the page is what it is asked for.
        let mut payload = ((address - offset) as u64).to_ne_bytes();
        self.0.call(&mut payload, &[])?;
        let page = u64::from_ne_bytes(payload);
        if !page.is_multiple_of(PAGE_BYTES as u64) || page >> ADDRESS_BITS != 0 {
            return Err(Error::new(EFAULT));
        }
        Ok(page + offset as u64)
    }
}

/// As many as the longest command has, wherever in a page it begins.
const MAX_WINDOW_PAGES: usize = MAX_REGION_BYTES / PAGE_BYTES + 1;

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
        if last_page - first_page >= MAX_WINDOW_PAGES {
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
    use crate::backend::redox::fake::{Fake, File};

    fn memory() -> (Arc<Fake>, Memory) {
        let fake = Fake::new();
        let memory = Memory::open(&fake.system()).unwrap();
        (fake, memory)
    }

    #[test]
    fn memory_is_mapped_private_in_whole_pages_and_unmapped_with_its_last_region() {
        let (fake, memory) = memory();
        let region = memory.allocate(5000).unwrap();
        let flags = MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::MAP_PRIVATE;
        assert_eq!(fake.lock().maps, [(File::Zeroed, 0, 8192, flags)]);
        assert_eq!(region.len(), 8192);
        assert_eq!(region.iova(), fake.lock().physical[&(region.as_ptr() as usize)]);
        let part = region.part(4096, 100).unwrap();
        drop(region);
        assert_eq!(fake.lock().mapped.len(), 1);
        drop(part);
        assert!(fake.lock().mapped.is_empty());
    }

    #[test]
    fn what_is_needed_is_open_before_the_namespace_is_left() {
        let (fake, memory) = memory();
        fake.system().leave_namespace().unwrap();
        assert!(memory.allocate(4096).is_ok());
        drop(memory);
        assert!(fake.lock().files.is_empty());
    }

    #[test]
    fn more_than_4_mib_is_not_even_asked_for() {
        let (fake, memory) = memory();
        for len_bytes in [MAX_REGION_BYTES + 1, 8 << 20, usize::MAX] {
            let error = memory.allocate(len_bytes).unwrap_err();
            assert_eq!(error, BackendError::NoMemory { len_bytes });
        }
        assert!(fake.lock().maps.is_empty());
        assert_eq!(memory.allocate(MAX_REGION_BYTES).unwrap().len(), MAX_REGION_BYTES);
        // Where it is, is asked for its first page and its last one.
        assert_eq!(fake.lock().translations, 2);
    }

    #[test]
    fn pieces_are_powers_of_two_of_pages() {
        let (fake, memory) = memory();
        for (len_bytes, mapped_bytes) in [(1, 4096), (8193, 16384), (5 * 4096, 32768), (3 << 20, 4 << 20)] {
            let region = memory.allocate(len_bytes).unwrap();
            assert_eq!(region.len(), mapped_bytes);
            let (.., mapped, _) = *fake.lock().maps.last().unwrap();
            assert_eq!(mapped, mapped_bytes);
        }
    }

    #[test]
    fn memory_that_is_not_in_one_piece_is_refused_and_given_back() {
        let (fake, memory) = memory();
        fake.lock().scattered = true;
        assert!(memory.allocate(4096).is_ok());
        assert!(matches!(memory.allocate(8192), Err(BackendError::System(_))));
        assert!(fake.lock().mapped.is_empty());
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
