//! A file as the medium: positional reads and writes, sparse where the file system can.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

use super::{StorageError, ZEROES};

/// Data goes through memory in pieces of this many bytes at most.
const PIECE_BYTES: u64 = 1 << 20;

/// A file that holds the blocks of one namespace, byte for byte, and is locked against other emulators while it is open.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
}

impl FileStorage {
    /// Opens `path`, or makes it. An empty file grows to `size_bytes`; one of any other length is somebody's, perhaps not a
    /// disk at all, and is refused as it is.
    pub fn open(path: PathBuf, size_bytes: u64) -> Result<Self, StorageError> {
        match Self::try_open(&path, size_bytes) {
            Ok(opened) => opened,
            Err(source) => Err(StorageError::Open { path, source }),
        }
    }

    fn try_open(path: &PathBuf, size_bytes: u64) -> io::Result<Result<Self, StorageError>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Err(StorageError::NotAFile { path: path.clone() }));
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(Err(StorageError::InUse { path: path.clone() })),
            // Not every file system has locks. Where there is none we go without.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        let have_bytes = metadata.len();
        if have_bytes != 0 && have_bytes != size_bytes {
            let path = path.clone();
            return Ok(Err(StorageError::OtherSize {
                path,
                have_bytes,
                want_bytes: size_bytes,
            }));
        }
        if have_bytes == 0 {
            file.set_len(size_bytes)?;
        }
        Ok(Ok(Self { file }))
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
            bounce.resize(piece_bytes as usize, 0);
            self.read_piece(at_bytes, bounce)
                .map_err(|source| StorageError::Read {
                    offset_bytes: at_bytes,
                    len_bytes: piece_bytes,
                    source,
                })?;
            sink(bounce)
        })
    }

    /// Fills `into`; what lies behind the end (somebody has cut the file) are zeroes.
    fn read_piece(&self, mut at_bytes: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match self.file.read_at(into, at_bytes) {
                Ok(0) => {
                    into.fill(0);
                    break;
                }
                Ok(read) => {
                    at_bytes += read as u64;
                    into = into.get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
            Ok(self.write_whole(at_bytes, bounce)?)
        })
    }

    /// Writes all of `bytes` at `at_bytes`.
    pub(super) fn write_whole(&self, at_bytes: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_all_at(bytes, at_bytes)
            .map_err(failed_write(at_bytes, bytes.len() as u64))
    }

    /// Punches a hole, or writes zeroes where the file system cannot.
    pub fn deallocate(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), StorageError> {
        if len_bytes == 0 || punch_hole(&self.file, offset_bytes, len_bytes).is_ok() {
            return Ok(());
        }
        for_pieces(offset_bytes, len_bytes, |at_bytes, piece_bytes| {
            let zeroes = ZEROES.chunks(ZEROES.len()).cycle();
            let mut left = piece_bytes as usize;
            let mut at = at_bytes;
            for zeroes in zeroes {
                let now = zeroes.get(..left.min(zeroes.len())).unwrap_or_default();
                self.file
                    .write_all_at(now, at)
                    .map_err(failed_write(at, now.len() as u64))?;
                left -= now.len();
                at += now.len() as u64;
                if left == 0 {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Waits until the data is on disk.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.file.sync_data().map_err(failed_write(0, 0))
    }

    /// Bytes the file takes on disk, 0 if that cannot be found out.
    pub fn allocated_bytes(&self) -> u64 {
        // In units of 512 bytes, whatever the file system's block is (POSIX stat).
        self.file
            .metadata()
            .map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    }

    /// Cuts or extends the file.
    pub fn resize(&self, size_bytes: u64) -> Result<(), StorageError> {
        self.file.set_len(size_bytes).map_err(failed_write(0, size_bytes))
    }
}

fn failed_write(offset_bytes: u64, len_bytes: u64) -> impl Fn(io::Error) -> StorageError {
    move |source| StorageError::Write {
        offset_bytes,
        len_bytes,
        source,
    }
}

/// Calls `each` with place and length, in bytes, of one piece after the other.
pub(super) fn for_pieces<E>(
    mut at_bytes: u64,
    mut len_bytes: u64,
    mut each: impl FnMut(u64, u64) -> Result<(), E>,
) -> Result<(), E> {
    while len_bytes > 0 {
        let piece_bytes = len_bytes.min(PIECE_BYTES);
        each(at_bytes, piece_bytes)?;
        at_bytes += piece_bytes;
        len_bytes -= piece_bytes;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn punch_hole(file: &File, offset_bytes: u64, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, offset_bytes, len_bytes)?)
}

#[cfg(not(target_os = "linux"))]
fn punch_hole(_file: &File, _offset_bytes: u64, _len_bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
