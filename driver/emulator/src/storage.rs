//! Where the blocks of a namespace are kept: sparse memory, a file, or nowhere.
//!
//! Everything here is in bytes from the beginning of the namespace. Data is lent, not copied: [`Storage::read`] shows
//! the stored bytes to a closure piece by piece, and [`Storage::write`] lets one fill them in, so that they move once,
//! between the medium and the host's memory.

mod file;
mod memory;
mod volatile;

use std::{io, path::PathBuf};

use nvme_spec::Status;

use crate::config::{Backing, Config};

pub use file::FileStorage;
pub use memory::SparseMemory;
pub use volatile::CachedFile;

/// What reads as zeroes is shown in pieces of this, all of them the same memory.
const ZEROES_BYTES: usize = 64 << 10;
static ZEROES: &[u8; ZEROES_BYTES] = &AtAPage([0; ZEROES_BYTES]).0;

/// Like the blocks that are kept, and most buffers. Copies between places that differ by a little within a page take many
/// times as long on some CPUs (4 KiB: 2.3 us instead of 0.1 us where the source is up to 31 bytes before the target, on an
/// EPYC of the first generation), and where a static is otherwise changes with each build.
#[repr(align(4096))]
struct AtAPage([u8; ZEROES_BYTES]);

/// The medium of one namespace.
#[derive(Debug)]
pub enum Storage {
    /// Memory that is allocated where it is first written.
    Memory(SparseMemory),
    /// A file, sparse where the file system can.
    File(FileStorage),
    /// The same behind a volatile write cache.
    CachedFile(CachedFile),
    /// Reads return zeroes; writes are dropped without a look at the data.
    Null,
}

impl Storage {
    /// Opens the medium for namespace `nsid`, of `size_bytes`, as the configuration says.
    pub fn open(config: &Config, nsid: u32, size_bytes: u64) -> Result<Self, StorageError> {
        Ok(match &config.backing {
            Backing::Memory => Self::Memory(SparseMemory::new(size_bytes)),
            Backing::Null => Self::Null,
            Backing::File(path) => {
                let mut path = path.clone();
                if config.namespaces.len() > 1 {
                    path.as_mut_os_string().push(format!(".{nsid}"));
                }
                if config.volatile_cache {
                    Self::CachedFile(CachedFile::open(path, size_bytes)?)
                } else {
                    Self::File(FileStorage::open(path, size_bytes)?)
                }
            }
        })
    }

    /// Shows `sink` the `len_bytes` at `offset_bytes`, in order, in pieces that are at most 1 MiB each. `bounce` is used
    /// where the bytes are not in memory. Each piece is of one moment: a write beside it comes before or after.
    #[inline]
    pub fn read<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        bounce: &mut Vec<u8>,
        sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Memory(memory) => memory.read(offset_bytes, len_bytes, sink),
            Self::File(file) => file.read(offset_bytes, len_bytes, bounce, sink),
            Self::CachedFile(file) => file.read(offset_bytes, len_bytes, bounce, sink),
            Self::Null => show_zeroes(len_bytes, sink),
        }
    }

    /// Lets `source` fill in the `len_bytes` at `offset_bytes`, in order, piece by piece. A source that fails leaves its
    /// own piece undefined and what comes after it as it was.
    #[inline]
    pub fn write<E: From<StorageError>>(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        bounce: &mut Vec<u8>,
        source: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::Memory(memory) => memory.write(offset_bytes, len_bytes, source),
            Self::File(file) => file.write(offset_bytes, len_bytes, bounce, source),
            Self::CachedFile(file) => file.write(offset_bytes, len_bytes, bounce, source),
            Self::Null => Ok(()),
        }
    }

    /// Gives the bytes back: they read as zeroes from now on, and take no room where that can be helped.
    pub fn deallocate(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), StorageError> {
        match self {
            Self::Memory(memory) => memory.deallocate(offset_bytes, len_bytes),
            Self::File(file) => file.deallocate(offset_bytes, len_bytes),
            Self::CachedFile(file) => file.deallocate(offset_bytes, len_bytes),
            Self::Null => Ok(()),
        }
    }

    /// Deallocates everything, of which `size_bytes` are in use.
    pub fn erase(&self, size_bytes: u64) -> Result<(), StorageError> {
        match self {
            // To the end of the last chunk, which may reach beyond the size: it goes as a whole then.
            Self::Memory(memory) => memory.deallocate(0, memory.capacity_bytes()),
            Self::File(_) | Self::CachedFile(_) | Self::Null => self.deallocate(0, size_bytes),
        }
    }

    /// Makes all writes so far outlive a power failure, as far as the medium can.
    pub fn flush(&self) -> Result<(), StorageError> {
        match self {
            Self::File(file) => file.flush(),
            Self::CachedFile(file) => file.flush(),
            Self::Memory(_) | Self::Null => Ok(()),
        }
    }

    /// Power is lost: of a volatile write cache, what was not flushed is gone.
    pub fn lose_power(&self) {
        match self {
            Self::CachedFile(file) => file.lose_power(),
            Self::Memory(_) | Self::File(_) | Self::Null => {}
        }
    }

    /// Room taken, in bytes; counted in pieces that may be larger than blocks.
    pub fn allocated_bytes(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.allocated_bytes(),
            Self::File(file) => file.allocated_bytes(),
            Self::CachedFile(file) => file.allocated_bytes(),
            Self::Null => 0,
        }
    }

    /// The most it can hold, in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        match self {
            Self::Memory(memory) => memory.capacity_bytes(),
            Self::File(_) | Self::CachedFile(_) | Self::Null => crate::config::MAX_NAMESPACE_BYTES,
        }
    }

    /// Changes the size within the capacity. What is cut off is gone, what is added reads as zeroes.
    pub fn resize(&self, old_bytes: u64, new_bytes: u64) -> Result<(), StorageError> {
        if new_bytes > self.capacity_bytes() {
            return Err(StorageError::OutOfRange {
                offset_bytes: 0,
                len_bytes: new_bytes,
            });
        }
        match self {
            Self::File(file) => file.resize(new_bytes),
            Self::CachedFile(file) => file.resize(new_bytes),
            _ if new_bytes < old_bytes => self.deallocate(new_bytes, old_bytes - new_bytes),
            _ => Ok(()),
        }
    }
}

/// Shows `len_bytes` of zeroes.
fn show_zeroes<E>(mut len_bytes: u64, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    while len_bytes > 0 {
        // Both fit: the piece is no longer than the zeroes are.
        let piece = ZEROES
            .get(..len_bytes.min(ZEROES_BYTES as u64) as usize)
            .unwrap_or(ZEROES);
        sink(piece)?;
        len_bytes -= piece.len() as u64;
    }
    Ok(())
}

/// Why the medium did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The backing file cannot be opened or made.
    #[error("emulator: cannot open {}: {source}; give a path that can be read and written", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The backing file belongs to another emulator.
    #[error("emulator: {} is in use by another emulator; stop that one, or use another file", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The path is a directory, a device or the like.
    #[error("emulator: {} is not a regular file; give the path of one, or of none yet", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The backing file is larger than the namespace.
    #[error(
        "emulator: {} has {have_bytes} bytes, the namespace {want_bytes}; say size={have_bytes}, or use another file, a \
         new or empty one", path.display()
    )]
    OtherSize {
        /// The file.
        path: PathBuf,
        /// Its length.
        have_bytes: u64,
        /// The length wanted.
        want_bytes: u64,
    },
    /// Reading failed.
    #[error("emulator: reading {len_bytes} bytes at {offset_bytes} of the backing file failed: {source}")]
    Read {
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// Writing, flushing or deallocating failed.
    #[error("emulator: writing {len_bytes} bytes at {offset_bytes} of the backing file failed: {source}")]
    Write {
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much; 0 for a flush.
        len_bytes: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The medium ends before that.
    #[error("emulator: the medium does not reach to {len_bytes} bytes at {offset_bytes}")]
    OutOfRange {
        /// Where, in bytes.
        offset_bytes: u64,
        /// How much.
        len_bytes: u64,
    },
}

impl From<StorageError> for Status {
    /// What the host is told.
    fn from(error: StorageError) -> Self {
        log::warn!("{error}");
        match error {
            StorageError::Read { .. } => Self::UNRECOVERED_READ_ERROR,
            StorageError::Write { .. } => Self::WRITE_FAULT,
            _ => Self::INTERNAL_ERROR,
        }
    }
}

#[cfg(test)]
mod tests;
