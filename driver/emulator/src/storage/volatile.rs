//! A file behind a volatile write cache: what was written is in the memory of this process until it is flushed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

use super::{StorageError, file::FileStorage, file::for_pieces};

/// So much the cache holds; one that is fuller writes all of it out, as a real one does sooner or later.
const CACHE_MAX_BYTES: u64 = 64 << 20;

/// A [`FileStorage`] whose writes wait for a flush. Reads see them at once. Dropped or [killed with its
/// process](crate::Config::volatile_cache) before that, they were never made.
#[derive(Debug)]
pub struct CachedFile {
    file: FileStorage,
    cache: Mutex<Cache>,
}

/// What was written and is not in the file: runs of bytes by the place where they begin, none of which overlap.
#[derive(Debug, Default)]
struct Cache {
    runs: BTreeMap<u64, Vec<u8>>,
    len_bytes: u64,
}

impl CachedFile {
    /// Opens `path` as [`FileStorage::open`] does, with an empty cache before it.
    pub fn open(path: PathBuf, size_bytes: u64) -> Result<Self, StorageError> {
        Ok(Self {
            file: FileStorage::open(path, size_bytes)?,
            cache: Mutex::default(),
        })
    }

    /// See [`Storage::read`](super::Storage::read).
    pub fn read<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        bounce: &mut Vec<u8>,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for_pieces(offset_bytes, len_bytes, |at_bytes, piece_bytes| {
            // Locked over both, so that no flush moves bytes between the two looks.
            let cache = self.cache();
            self.file
                .read(at_bytes, piece_bytes, bounce, |_| Ok::<(), StorageError>(()))?;
            cache.show(at_bytes, bounce);
            drop(cache);
            sink(bounce)
        })
    }

    /// See [`Storage::write`](super::Storage::write).
    pub fn write<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        bounce: &mut Vec<u8>,
        mut source: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for_pieces(offset_bytes, len_bytes, |at_bytes, piece_bytes| {
            bounce.resize(piece_bytes as usize, 0);
            source(bounce)?;
            let mut cache = self.cache();
            cache.put(at_bytes, bounce);
            if cache.len_bytes > CACHE_MAX_BYTES {
                cache.write_out(&self.file)?;
            }
            Ok(())
        })
    }

    /// Deallocates in the file, at once: the cache is for data, and forgets what it had of these.
    pub fn deallocate(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), StorageError> {
        let mut cache = self.cache();
        cache.cut(offset_bytes, len_bytes);
        self.file.deallocate(offset_bytes, len_bytes)
    }

    /// Writes the cache to the file, and waits until that is on disk.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.cache().write_out(&self.file)?;
        // Not locked any more: what is written meanwhile is not this flush's.
        self.file.flush()
    }

    /// Power is lost: what was not flushed is gone.
    pub fn lose_power(&self) {
        *self.cache() = Cache::default();
    }

    /// Bytes the file takes on disk and the cache in memory.
    pub fn allocated_bytes(&self) -> u64 {
        self.file.allocated_bytes().saturating_add(self.cache().len_bytes)
    }

    /// Cuts or extends the file.
    pub fn resize(&self, size_bytes: u64) -> Result<(), StorageError> {
        let mut cache = self.cache();
        cache.cut(size_bytes, u64::MAX - size_bytes);
        self.file.resize(size_bytes)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Every change of the map is one call: a panic elsewhere leaves it whole.
        self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Cache {
    /// Copies what there is of the bytes from `at_bytes` over `into`.
    fn show(&self, at_bytes: u64, into: &mut [u8]) {
        let end_bytes = at_bytes.saturating_add(into.len() as u64);
        // Backwards, until one ends before the place: none overlap, so those before it end earlier still.
        for (&start_bytes, run) in self.runs.range(..end_bytes).rev() {
            if start_bytes + run.len() as u64 <= at_bytes {
                return;
            }
            let skipped = at_bytes.saturating_sub(start_bytes) as usize;
            let place = start_bytes.saturating_sub(at_bytes) as usize;
            let from = run.get(skipped..).unwrap_or_default();
            let to = into.get_mut(place..).unwrap_or_default();
            let len = from.len().min(to.len());
            if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// Takes `bytes` in place of what there was.
    fn put(&mut self, at_bytes: u64, bytes: &[u8]) {
        self.cut(at_bytes, bytes.len() as u64);
        self.keep(at_bytes, bytes.to_vec());
    }

    /// Forgets the `len_bytes` from `at_bytes`; what is left of a run at either side stays.
    fn cut(&mut self, at_bytes: u64, len_bytes: u64) {
        let end_bytes = at_bytes.saturating_add(len_bytes);
        while let Some((&start_bytes, run)) = self.runs.range(..end_bytes).next_back()
            && start_bytes + run.len() as u64 > at_bytes
        {
            let mut run = self.runs.remove(&start_bytes).unwrap_or_default();
            self.len_bytes -= run.len() as u64;
            if start_bytes + run.len() as u64 > end_bytes {
                self.keep(end_bytes, run.split_off((end_bytes - start_bytes) as usize));
            }
            if start_bytes < at_bytes {
                run.truncate((at_bytes - start_bytes) as usize);
                self.keep(start_bytes, run);
                // Those before it end where it begins, at the latest.
                return;
            }
        }
    }

    fn keep(&mut self, at_bytes: u64, run: Vec<u8>) {
        self.len_bytes += run.len() as u64;
        self.runs.insert(at_bytes, run);
    }

    /// Writes everything to `file`. What could not be written stays.
    fn write_out(&mut self, file: &FileStorage) -> Result<(), StorageError> {
        while let Some(first) = self.runs.first_entry() {
            file.write_whole(*first.key(), first.get())?;
            self.len_bytes -= first.remove().len() as u64;
        }
        Ok(())
    }
}
