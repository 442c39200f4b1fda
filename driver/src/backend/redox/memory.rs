//! Memory for DMA, and where memory is for the device.
//!
//! Everything is opened at the start: a driver that has given up its namespace goes on allocating.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use syscall::error::{EFAULT, ENOMEM, Error, Result};
use syscall::flag::{MapFlags, O_CLOEXEC, O_RDWR};

use crate::backend::BackendError;
use crate::dma::{Places, Region, Registration, SharedMemory};
use crate::redox::{Descriptor, Failure, System};

#[cfg(feature = "zero-copy")]
mod windows;

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

    /// Where each page of `memory` is for the device. They stay there while they are mapped here, which is what the lease
    /// sees to: the kernel moves no page, and gives none away that somebody has mapped.
    ///
    /// # Errors
    /// The kernel does not say of each page.
    pub fn register(&self, memory: &Arc<SharedMemory>) -> std::result::Result<Registration, BackendError> {
        let pages = (0..memory.len()).step_by(PAGE_BYTES).map(|offset| {
            let address = memory.at(offset) as usize;
            self.translation.translate(address).map_err(|error| {
                BackendError::System(format!(
                    "where the page at {address:#x} is for the device: {error}"
                ))
            })
        });
        Ok(Registration {
            places: Places::Pages(pages.collect::<std::result::Result<_, _>>()?),
            lease: Box::new(Arc::clone(memory)),
        })
    }

    /// Windows on clients' memory for one queue; `None` if the controller's pages are not the kernel's.
    #[cfg(feature = "zero-copy")]
    pub fn windows(&self, page_bytes: usize) -> Option<Box<dyn crate::backend::Windows>> {
        windows::open(&self.translation, page_bytes)
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
}
