//! Sparse memory: chunks that exist once they are written.

mod chunk;

use std::sync::{
    OnceLock, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use self::chunk::Chunk;
use super::{StorageError, show_zeroes};

/// Memory is taken and given back in pieces of this many bytes. Each has a lock of its own, so two commands meet only
/// if they are this near to each other.
pub const CHUNK_BYTES: u64 = chunk::CHUNK_BYTES as u64;

/// Chunks whose slots are made together, when the first of them is written: 1 GiB.
const LEAF_CHUNKS: u64 = 512;
const LEAF_BYTES: u64 = LEAF_CHUNKS * CHUNK_BYTES;

/// A chunk, or none yet.
type Slot = RwLock<Option<Chunk>>;

/// Memory of which only what was written takes room.
///
/// Two levels: the root has an entry per GiB, and each leaf that was ever written has a slot per chunk. Finding a
/// chunk costs two loads and its lock; nothing else is shared, and nothing is allocated but on the first write.
#[derive(Debug)]
pub struct SparseMemory {
    leaves: Box<[OnceLock<Box<[Slot]>>]>,
    allocated_chunks: AtomicU64,
}

/// A stretch of bytes within one chunk.
#[derive(Clone, Copy)]
struct Place {
    leaf: usize,
    slot: usize,
    start: usize,
    len: usize,
}

impl Place {
    /// As much of `len_bytes` at `offset_bytes` as lies in one chunk. `offset_bytes` is below the capacity, so the casts
    /// keep their values.
    #[inline]
    fn first_of(offset_bytes: u64, len_bytes: u64) -> Self {
        let start = offset_bytes % CHUNK_BYTES;
        Self {
            leaf: (offset_bytes / LEAF_BYTES) as usize,
            slot: (offset_bytes / CHUNK_BYTES % LEAF_CHUNKS) as usize,
            start: start as usize,
            len: len_bytes.min(CHUNK_BYTES - start) as usize,
        }
    }
}

impl SparseMemory {
    /// For `size_bytes`, with room in the table to grow to four times as much.
    #[must_use]
    pub fn new(size_bytes: u64) -> Self {
        let leaves = size_bytes.saturating_mul(4).div_ceil(LEAF_BYTES).max(1);
        Self {
            leaves: (0..leaves).map(|_| OnceLock::new()).collect(),
            allocated_chunks: AtomicU64::new(0),
        }
    }

    /// See [`Storage::read`](super::Storage::read).
    #[inline]
    pub fn read<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pieces(offset_bytes, len_bytes, |place| {
            let Some(slot) = self.slot(place) else {
                return show_zeroes(place.len as u64, &mut sink);
            };
            let chunk = slot.read().unwrap_or_else(PoisonError::into_inner);
            match chunk
                .as_ref()
                .and_then(|bytes| bytes.get(place.start..place.start + place.len))
            {
                Some(bytes) => sink(bytes),
                None => {
                    // Zeroes need no lock.
                    drop(chunk);
                    show_zeroes(place.len as u64, &mut sink)
                }
            }
        })
    }

    /// See [`Storage::write`](super::Storage::write).
    #[inline]
    pub fn write<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut source: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.pieces(offset_bytes, len_bytes, |place| {
            let mut chunk = self
                .slot_or_new(place)?
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let bytes = chunk.get_or_insert_with(|| self.new_chunk());
            match bytes.get_mut(place.start..place.start + place.len) {
                Some(bytes) => source(bytes),
                None => Err(out_of_range(offset_bytes, len_bytes).into()),
            }
        })
    }

    /// Frees the chunks that lie inside, and zeroes what else there is.
    pub fn deallocate(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), StorageError> {
        let end_bytes = self.end(offset_bytes, len_bytes)?;
        let mut at_bytes = offset_bytes;
        while at_bytes < end_bytes {
            let place = Place::first_of(at_bytes, end_bytes - at_bytes);
            let Some(slot) = self.slot(place) else {
                // Nothing here up to the end of the leaf, if it does not exist; the table is walked by leaves then.
                at_bytes = (at_bytes / LEAF_BYTES + 1) * LEAF_BYTES;
                continue;
            };
            let mut chunk = slot.write().unwrap_or_else(PoisonError::into_inner);
            if place.len as u64 == CHUNK_BYTES {
                if chunk.take().is_some() {
                    self.allocated_chunks.fetch_sub(1, Ordering::Relaxed);
                }
            } else if let Some(bytes) = chunk
                .as_mut()
                .and_then(|bytes| bytes.get_mut(place.start..place.start + place.len))
            {
                bytes.fill(0);
            }
            at_bytes += place.len as u64;
        }
        Ok(())
    }

    /// Bytes in chunks that exist.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_chunks.load(Ordering::Relaxed) * CHUNK_BYTES
    }

    /// Bytes that the table has room for.
    pub fn capacity_bytes(&self) -> u64 {
        self.leaves.len() as u64 * LEAF_BYTES
    }

    /// Calls `each` for every chunk that the range touches.
    #[inline]
    fn pieces<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        mut each: impl FnMut(Place) -> Result<(), E>,
    ) -> Result<(), E> {
        let end_bytes = self.end(offset_bytes, len_bytes)?;
        let mut at_bytes = offset_bytes;
        while at_bytes < end_bytes {
            let place = Place::first_of(at_bytes, end_bytes - at_bytes);
            each(place)?;
            at_bytes += place.len as u64;
        }
        Ok(())
    }

    /// End of a range, if there is room for it.
    #[inline]
    fn end(&self, offset_bytes: u64, len_bytes: u64) -> Result<u64, StorageError> {
        offset_bytes
            .checked_add(len_bytes)
            .filter(|end_bytes| *end_bytes <= self.capacity_bytes())
            .ok_or_else(|| out_of_range(offset_bytes, len_bytes))
    }

    #[inline]
    fn slot(&self, place: Place) -> Option<&Slot> {
        self.leaves.get(place.leaf)?.get()?.get(place.slot)
    }

    #[inline]
    fn slot_or_new(&self, place: Place) -> Result<&Slot, StorageError> {
        self.leaves
            .get(place.leaf)
            .and_then(|leaf| leaf.get_or_init(new_leaf).get(place.slot))
            .ok_or_else(|| out_of_range(place.leaf as u64 * LEAF_BYTES, place.len as u64))
    }

    #[cold]
    fn new_chunk(&self) -> Chunk {
        self.allocated_chunks.fetch_add(1, Ordering::Relaxed);
        Chunk::new()
    }
}

#[cold]
fn new_leaf() -> Box<[Slot]> {
    (0..LEAF_CHUNKS).map(|_| RwLock::new(None)).collect()
}

#[cold]
fn out_of_range(offset_bytes: u64, len_bytes: u64) -> StorageError {
    StorageError::OutOfRange {
        offset_bytes,
        len_bytes,
    }
}
