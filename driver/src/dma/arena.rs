//! Where [`DmaBuffer`]s come from: regions cut into runs of pages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::runs::Runs;
use super::{DmaBuffer, Region};
use crate::backend::{Backend, BackendError};

/// The granularity. Also what NVMe calls the smallest memory page (CC.MPS 0).
const PAGE_BYTES: usize = 4096;
/// How much is asked of the backend at once, if a buffer is not larger by itself.
const CHUNK_BYTES: usize = 2 << 20;

/// Gives out and takes back runs of pages. Cheap to clone; not for the data path: buffers are made up front.
#[derive(Clone)]
pub(crate) struct Arena(Arc<Inner>);

struct Inner {
    backend: Arc<dyn Backend>,
    chunks: Mutex<Vec<Chunk>>,
}

struct Chunk {
    region: Region,
    free: Runs,
}

impl Arena {
    pub(crate) fn new(backend: Arc<dyn Backend>) -> Self {
        Self(Arc::new(Inner {
            backend,
            chunks: Mutex::default(),
        }))
    }

    /// Whose memory it is.
    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// Whether this is the same arena.
    #[inline]
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A zeroed buffer of `len` bytes.
    pub(crate) fn allocate(&self, len: usize) -> Result<DmaBuffer, BackendError> {
        let no_memory = BackendError::NoMemory { len_bytes: len };
        if len > self.0.backend.max_region_bytes() {
            return Err(no_memory);
        }
        let run = len
            .max(1)
            .checked_next_multiple_of(PAGE_BYTES)
            .ok_or(no_memory.clone())?;
        let mut chunks = self.chunks();
        let region = match chunks.iter_mut().find_map(|chunk| chunk.take(run)) {
            Some(region) => region,
            None => {
                let region = self.0.backend.allocate(run.max(CHUNK_BYTES))?;
                let free = Runs::all(region.len());
                chunks.push(Chunk { region, free });
                chunks
                    .last_mut()
                    .and_then(|chunk| chunk.take(run))
                    .ok_or(no_memory)?
            }
        };
        drop(chunks);
        let mut buffer = DmaBuffer::new(region, len, self.clone());
        buffer.fill(0);
        Ok(buffer)
    }

    /// Takes back what [`Arena::allocate`] cut off.
    pub(super) fn free(&self, region: &Region) {
        let mut chunks = self.chunks();
        let chunk = chunks.iter_mut().find(|chunk| {
            let start = chunk.region.iova();
            (start..start + chunk.region.len() as u64).contains(&region.iova())
        });
        if let Some(chunk) = chunk {
            chunk
                .free
                .give_back((region.iova() - chunk.region.iova()) as usize, region.len());
        }
    }

    fn chunks(&self) -> MutexGuard<'_, Vec<Chunk>> {
        // Nothing that panics runs under the lock with the list half changed.
        self.0.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chunk {
    fn take(&mut self, run: usize) -> Option<Region> {
        let offset = self.free.take(run)?;
        self.region.part(offset, run)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::emulated::EmulatedBackend;

    fn arena() -> Arena {
        Arena::new(Arc::new(EmulatedBackend::stepped(Default::default()).unwrap()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Live buffers never overlap, hold what was put into them, and everything that is given back can be had
        /// again in one piece.
        #[test]
        fn buffers_are_apart_and_memory_comes_back(
            steps in prop::collection::vec((1usize..30_000, any::<prop::sample::Index>(), any::<bool>()), 1..40),
        ) {
            let arena = arena();
            let mut live: Vec<(DmaBuffer, u8)> = Vec::new();
            for (number, (len, which, free)) in steps.into_iter().enumerate() {
                if free && !live.is_empty() {
                    live.swap_remove(which.index(live.len()));
                } else {
                    let mut buffer = arena.allocate(len).unwrap();
                    prop_assert_eq!(buffer.len(), len);
                    prop_assert!(buffer.iter().all(|byte| *byte == 0));
                    buffer.fill(number as u8 | 1);
                    live.push((buffer, number as u8 | 1));
                }
                for (buffer, byte) in &live {
                    prop_assert_eq!((buffer.first(), buffer.last()), (Some(byte), Some(byte)));
                }
            }
            live.clear();
            for chunk in arena.chunks().iter() {
                prop_assert_eq!(&chunk.free, &Runs::all(chunk.region.len()));
            }
        }
    }

    #[test]
    fn more_than_a_region_is_refused() {
        assert!(matches!(
            arena().allocate(usize::MAX),
            Err(BackendError::NoMemory { .. })
        ));
        assert!(matches!(
            arena().allocate((4 << 20) + 1),
            Err(BackendError::NoMemory { .. })
        ));
        assert_eq!(arena().allocate(4 << 20).unwrap().len(), 4 << 20);
    }
}
