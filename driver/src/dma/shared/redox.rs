//! A file of the scheme `shm` that is mapped here.
//!
//! What is there stays there while somebody has it open; it cannot be made shorter.

use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libredox::{Fd, call, flag};

use super::SharedMemory;

const FOLDER: &str = "/scheme/shm";

/// The mapping and its file.
pub(super) struct Origin {
    name: String,
    base: NonNull<u8>,
    len: usize,
    /// Unlinked when it goes, if it was made here.
    made_here: bool,
    _file: Fd,
}

/// The scheme, for a process that gives up its namespace; see [`SharedMemory::prepare`].
static SCHEME: OnceLock<Option<Fd>> = OnceLock::new();

impl SharedMemory {
    /// Opens what [`SharedMemory::of_name`] needs. To be called before the process gives up its namespace.
    pub fn prepare() {
        SCHEME.get_or_init(|| {
            Fd::open(FOLDER, flag::O_DIRECTORY | flag::O_CLOEXEC, 0)
                .inspect_err(|error| log::warn!("{FOLDER}: {error}; there will be no rings"))
                .ok()
        });
    }
}

impl Origin {
    pub(super) fn create(len: usize) -> io::Result<SharedMemory> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("nvme-{}-{number}", std::process::id());
        let flags = flag::O_RDWR | flag::O_CREAT | flag::O_EXCL | flag::O_CLOEXEC;
        let file = Fd::open(&format!("{FOLDER}/{name}"), flags, 0o600).map_err(in_words)?;
        call::ftruncate(file.raw(), len).map_err(in_words)?;
        Self::map(file, name, len, true)
    }

    pub(super) fn of_name(name: &str, len: usize) -> io::Result<SharedMemory> {
        let invalid = io::Error::from(io::ErrorKind::InvalidInput);
        if name.is_empty() || name.contains('/') {
            return Err(invalid);
        }
        let flags = flag::O_RDWR | flag::O_CLOEXEC;
        let file = match SCHEME.get() {
            Some(Some(scheme)) => scheme.openat(name, flags, 0),
            _ => Fd::open(&format!("{FOLDER}/{name}"), flags, 0),
        };
        let file = file.map_err(in_words)?;
        let about = file.stat().map_err(in_words)?;
        if u64::try_from(about.st_size).ok() != Some(len as u64) {
            return Err(invalid);
        }
        Self::map(file, name.to_owned(), len, false)
    }

    fn map(file: Fd, name: String, len: usize, made_here: bool) -> io::Result<SharedMemory> {
        let arguments = call::MmapArgs {
            addr: null_mut(),
            length: len,
            prot: flag::PROT_READ | flag::PROT_WRITE,
            flags: flag::MAP_SHARED,
            fd: file.raw(),
            offset: 0,
        };
        // SAFETY: no address is asked for, so the kernel takes one where nothing is mapped.
        let start = unsafe { call::mmap(arguments) }.map_err(in_words)?;
        let base = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let origin = Self {
            name,
            base,
            len,
            made_here,
            _file: file,
        };
        let memory = SharedMemory { base, len, origin };
        // A page may not be there before it is touched, and the device does not touch pages as this processor does.
        for page in (0..len).step_by(super::PAGE_BYTES) {
            if let Some(word) = memory.word(page) {
                word.fetch_or(0, Ordering::Relaxed);
            }
        }
        Ok(memory)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole by `map`, and whoever had the address had what owns this.
        if let Err(error) = unsafe { call::munmap(self.base.as_ptr().cast(), self.len) } {
            log::debug!("shared memory could not be unmapped: {error}");
        }
        if self.made_here
            && let Err(error) = std::fs::remove_file(format!("{FOLDER}/{}", self.name))
        {
            log::debug!("shared memory could not be removed: {error}");
        }
    }
}

fn in_words(error: libredox::error::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
