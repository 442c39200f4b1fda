//! Zeroed memory, in pieces of the size that the processor maps at once where the system lets it.
//!
//! A chunk is touched a block at a time, in any order. With small pages each block would cost a page fault on its first
//! write, and a second one (with all processors interrupted) if it had been read before: at hundreds of thousands of
//! writes a second that would be what a benchmark measures.

use std::ops::{Deref, DerefMut};

/// Bytes of a chunk: a huge page of x86-64.
pub(super) const CHUNK_BYTES: usize = 2 << 20;

/// [`CHUNK_BYTES`] bytes, zero at first.
#[derive(Debug)]
pub(super) enum Chunk {
    /// A mapping of its own, for which huge pages were asked.
    #[cfg(target_os = "linux")]
    Mapped(memmap2::MmapMut),
    /// From the allocator: where there is no such thing, or it was refused.
    Allocated(Box<[u8]>),
}

impl Chunk {
    pub(super) fn new() -> Self {
        #[cfg(target_os = "linux")]
        if let Ok(map) = memmap2::MmapMut::map_anon(CHUNK_BYTES) {
            // Without huge pages it works all the same.
            if let Err(error) = map.advise(memmap2::Advice::HugePage) {
                log::debug!("no huge pages for the emulated namespace: {error}");
            }
            return Self::Mapped(map);
        }
        Self::Allocated(vec![0; CHUNK_BYTES].into_boxed_slice())
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            #[cfg(target_os = "linux")]
            Self::Mapped(map) => map,
            Self::Allocated(bytes) => bytes,
        }
    }
}

impl DerefMut for Chunk {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            #[cfg(target_os = "linux")]
            Self::Mapped(map) => map,
            Self::Allocated(bytes) => bytes,
        }
    }
}
