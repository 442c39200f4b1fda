//! Memory for DMA: one arena of few large chunks, each a memfd that is mapped here and for the device.
//!
//! ```text
//! chunk    16 MiB, then as much again as there is, at most 32 of them; address here and for the device (IOVA) are
//!          multiples of 2 MiB, so that one entry of a page table covers that much where pages are as large
//! region   cut from a chunk in pages of 4 KiB, zeroed, and given back when nobody has it any more
//! ```
//!
//! A device's side has room for few mappings (64 for some servers of vfio-user) and mapping is slow, so a chunk is mapped
//! once and stays until the arena and all regions have gone. How the device is told is the backend's: [`Mapper`].
//!
//! Memory that is shared with clients ([`Memory::register`]) comes and goes beside the chunks, wherever addresses are free.

use std::any::Any;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::BackendError;
use crate::dma::runs::Runs;
use crate::dma::{Places, Region, Registration, SharedMemory};

mod chunk;
#[cfg(test)]
mod tests;

use chunk::Chunk;

/// The granularity of regions. Also what NVMe calls the smallest memory page (CC.MPS 0).
const PAGE_BYTES: usize = 4096;
/// The granularity of chunks: what one entry of a page table's second level covers, on x86 and on ARM with 4 KiB pages.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Address 0 is what a PRP entry that is not there looks like, so nothing is put there.
const LOWEST_IOVA: u64 = HUGE_PAGE_BYTES as u64;

/// How a device is told of memory.
///
/// # Safety
/// The device must reach no more than [`Mapper::map`] was given, and nothing of it once [`Mapper::unmap`] has returned
/// true.
pub unsafe trait Mapper: Send + Sync + 'static {
    /// Lets the device reach `piece`. Returns where it is for the device: [`Piece::iova`], but where there is no IOMMU and
    /// the machine says.
    ///
    /// # Errors
    /// It cannot, in words for whoever starts the driver.
    fn map(&self, piece: &Piece<'_>) -> Result<u64, BackendError>;

    /// Takes away what was mapped as a whole at `iova`. Whether the device surely does not reach it any more; if not, the
    /// memory is leaked.
    fn unmap(&self, iova: u64, len_bytes: usize) -> bool;
}

/// A chunk or a client's memory, as a [`Mapper`] needs it.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The memory as a file, which cannot be made shorter or longer any more; the piece is all of it.
    pub memfd: BorrowedFd<'a>,
    /// Where it is mapped here; a multiple of 2 MiB, or of 4096 if it is a client's.
    pub address: NonNull<u8>,
    /// Its length; a multiple of 2 MiB, or of 4096 if it is a client's.
    pub len_bytes: usize,
    /// Where it is to be for the device; a multiple of 2 MiB.
    pub iova: u64,
}

/// What the memory is to be like.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Addresses that the device's side can translate, in ascending order. Within these are those of the chunks.
    pub iovas: Vec<RangeInclusive<u64>>,
    /// The first chunk's length; a multiple of 2 MiB.
    pub first_chunk_bytes: usize,
    /// No chunk is longer, if a region does not need it; a multiple of 2 MiB.
    pub largest_chunk_bytes: usize,
    /// How many chunks there may be.
    pub max_chunks: usize,
    /// No other pages than huge ones, since each is in one piece physically.
    pub only_huge_pages: bool,
    /// The NUMA node that pages are to come from, where it has some.
    pub numa_node: Option<u32>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            iovas: vec![0..=u64::MAX],
            first_chunk_bytes: 16 << 20,
            largest_chunk_bytes: 1 << 30,
            max_chunks: 32,
            only_huge_pages: false,
            numa_node: None,
        }
    }
}

/// The arena.
pub struct Memory(Arc<Inner>);

struct Inner {
    mapper: Arc<dyn Mapper>,
    plan: Plan,
    chunks: Mutex<Chunks>,
}

#[derive(Default)]
struct Chunks {
    parts: Vec<Part>,
    /// Addresses for the device at which clients' memory is, in no order.
    registered: Vec<Range<u64>>,
}

/// A chunk and what of it is free.
struct Part {
    chunk: Chunk,
    free: Runs,
}

impl Memory {
    /// An arena that has nothing yet.
    pub fn new(mapper: Arc<dyn Mapper>, plan: Plan) -> Self {
        Self(Arc::new(Inner {
            mapper,
            plan,
            chunks: Mutex::default(),
        }))
    }

    /// The longest region that [`Memory::allocate`] can give, where there is memory.
    pub fn max_region_bytes(&self) -> usize {
        self.0.plan.first_chunk_bytes.min(self.0.plan.largest_chunk_bytes)
    }

    /// Zeroed memory in one piece for the device, in whole pages.
    ///
    /// # Errors
    /// It is more than [`Memory::max_region_bytes`], there is no memory or no address for it, or the [`Mapper`] says why
    /// not.
    pub fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        let no_memory = BackendError::NoMemory { len_bytes };
        let rounded = len_bytes.max(1).checked_next_multiple_of(PAGE_BYTES);
        let Some(len) = rounded.filter(|len| *len <= self.max_region_bytes()) else {
            return Err(no_memory);
        };
        let mut chunks = self.0.chunks();
        let mut found = take(&mut chunks.parts, len);
        if found.is_none() {
            let chunk = self.0.grow(&chunks, len)?;
            let free = Runs::all(chunk.len_bytes());
            chunks.parts.push(Part { chunk, free });
            found = take(&mut chunks.parts, len);
        }
        let (number, offset) = found.ok_or(no_memory.clone())?;
        let chunk = &chunks.parts.get(number).ok_or(no_memory)?.chunk;
        let lease = Lease {
            inner: Arc::clone(&self.0),
            number,
            offset,
            len,
        };
        let iova = chunk.iova() + offset as u64;
        // SAFETY: free until now, so inside the chunk, which stays mapped while the lease's `inner` has it.
        let base = unsafe { chunk.address().add(offset) };
        drop(chunks);
        // SAFETY: as above, and nobody else has these bytes before the region below exists.
        unsafe { base.as_ptr().write_bytes(0, len) };
        let memory = Arc::new(lease) as Arc<dyn Any + Send + Sync>;
        // SAFETY: readable, writable and zeroed while the lease keeps the chunk; nobody else gets the bytes before it is
        // dropped; chunks and runs are aligned to pages.
        Ok(unsafe { Region::new(base, iova, len, memory) })
    }

    /// Lets the device reach `memory` until the answer's lease is dropped.
    ///
    /// # Errors
    /// No address is free for it, or the [`Mapper`] says why not.
    pub fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        let len = memory.len();
        let no_memory = BackendError::NoMemory { len_bytes: len };
        if self.0.plan.only_huge_pages {
            let what = "without an IOMMU only huge pages are where the device can be told of, and a client's are not";
            return Err(BackendError::System(what.to_owned()));
        }
        let address = NonNull::new(memory.at(0)).ok_or(no_memory.clone())?;
        let taken = {
            let mut chunks = self.0.chunks();
            let iova = self.0.next_iova(&chunks, len).ok_or(no_memory)?;
            let taken = iova..iova + len as u64;
            chunks.registered.push(taken.clone());
            taken
        };
        let told = self.0.mapper.map(&Piece {
            memfd: memory.descriptor(),
            address,
            len_bytes: len,
            iova: taken.start,
        });
        match told {
            Ok(iova) => Ok(Registration {
                places: Places::Contiguous(iova),
                lease: Box::new(ClientLease {
                    inner: Arc::clone(&self.0),
                    memory: Some(Arc::clone(memory)),
                    taken,
                }),
            }),
            Err(error) => {
                self.0.free_addresses(&taken);
                Err(error)
            }
        }
    }
}

/// A client's memory, mapped here for as long as the device knows of it.
struct ClientLease {
    inner: Arc<Inner>,
    memory: Option<Arc<SharedMemory>>,
    taken: Range<u64>,
}

impl Drop for ClientLease {
    fn drop(&mut self) {
        let memory = self.memory.take();
        let len_bytes = memory.as_ref().map_or(0, |memory| memory.len());
        if self.inner.mapper.unmap(self.taken.start, len_bytes) {
            self.inner.free_addresses(&self.taken);
        } else {
            log::error!(
                "{len_bytes} bytes of a client's memory cannot be taken from the device, which may still write to them; they \
                 stay mapped until the process ends"
            );
            std::mem::forget(memory);
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for part in &self.0.chunks().parts {
            list.entry(&part.chunk);
        }
        list.finish()
    }
}

/// The first `len` free bytes in one piece: in which chunk, and where in it.
fn take(chunks: &mut [Part], len: usize) -> Option<(usize, usize)> {
    let mut parts = chunks.iter_mut().enumerate();
    parts.find_map(|(number, part)| Some((number, part.free.take(len)?)))
}

/// Bytes of a chunk that a region has.
struct Lease {
    inner: Arc<Inner>,
    number: usize,
    offset: usize,
    len: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(part) = self.inner.chunks().parts.get_mut(self.number) {
            part.free.give_back(self.offset, self.len);
        }
    }
}

impl Inner {
    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        // Nothing that panics runs under the lock with the list half changed.
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another chunk beside `chunks`, for `len` bytes at least.
    fn grow(&self, chunks: &Chunks, len: usize) -> Result<Chunk, BackendError> {
        let no_memory = BackendError::NoMemory { len_bytes: len };
        if chunks.parts.len() >= self.plan.max_chunks {
            return Err(no_memory);
        }
        let needed = len.next_multiple_of(HUGE_PAGE_BYTES);
        let all: usize = chunks.parts.iter().map(|part| part.chunk.len_bytes()).sum();
        let mut wanted = all
            .clamp(self.plan.first_chunk_bytes, self.plan.largest_chunk_bytes)
            .max(needed);
        loop {
            let error = match self.make(chunks, wanted) {
                Ok(chunk) => return Ok(chunk),
                Err(error) => error,
            };
            if wanted == needed {
                return Err(error);
            }
            // What is left, or allowed, may be less.
            log::debug!("a chunk of {wanted} bytes of memory for DMA: {error}; trying less");
            wanted = (wanted / 2).next_multiple_of(HUGE_PAGE_BYTES).max(needed);
        }
    }

    fn make(&self, chunks: &Chunks, len: usize) -> Result<Chunk, BackendError> {
        let iova = self.next_iova(chunks, len);
        let iova = iova.ok_or(BackendError::NoMemory { len_bytes: len })?;
        Chunk::new(&self.mapper, len, iova, &self.plan)
    }

    /// An address beside all that is taken.
    fn next_iova(&self, chunks: &Chunks, len: usize) -> Option<u64> {
        let parts = chunks
            .parts
            .iter()
            .map(|part| part.chunk.iova()..part.chunk.end_of_iovas());
        let mut taken: Vec<Range<u64>> = parts.chain(chunks.registered.iter().cloned()).collect();
        taken.sort_unstable_by_key(|range| range.start);
        free_iova(&self.plan.iovas, &taken, len)
    }

    fn free_addresses(&self, taken: &Range<u64>) {
        self.chunks().registered.retain(|range| range != taken);
    }
}

/// The first address at which `len` bytes fit into one of `ranges` beside all that is `taken`, which is sorted.
fn free_iova(ranges: &[RangeInclusive<u64>], taken: &[Range<u64>], len: usize) -> Option<u64> {
    let mut from = LOWEST_IOVA;
    for range in taken {
        let iova = next_iova(ranges, from, len)?;
        if iova.saturating_add(len as u64) <= range.start {
            return Some(iova);
        }
        from = from.max(range.end);
    }
    next_iova(ranges, from, len)
}

/// The first address from `from` on at which `len` bytes fit into one of `ranges`; a multiple of 2 MiB.
fn next_iova(ranges: &[RangeInclusive<u64>], from: u64, len: usize) -> Option<u64> {
    ranges.iter().find_map(|range| {
        let first = from.max(*range.start());
        let iova = first.checked_next_multiple_of(HUGE_PAGE_BYTES as u64)?;
        let last = iova.checked_add(len as u64)?.checked_sub(1)?;
        (last <= *range.end()).then_some(iova)
    })
}
