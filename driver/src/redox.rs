//! What the driver asks of Redox, behind a seam: [`System`] is the kernel's calls, as few as there can be.
//!
//! Everything that is particular to Redox is written against this trait: the backend and the
//! server of the schemes. On Redox itself the calls are libredox's. Elsewhere a model of the kernel's side takes their
//! place, so that all of it runs, under load and with whatever goes wrong, on any machine.
//!
//! Numbers and structures (flags of `open`, entries of the scheme socket, events) are those of the crate
//! `redox_syscall`; errors are its [`Error`].

#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use syscall::error::{Error, Result};
use syscall::flag::MapFlags;

pub mod daemon;
#[cfg(target_os = "redox")]
pub mod native;
pub mod socket;

/// The kernel's calls. A descriptor is the number that the kernel gave; whoever opened it closes it once.
///
/// # Safety
/// What [`System::map`] returns must be mapped, readable and writable as its flags say, for as long as it is not
/// unmapped, and overlap nothing else that the process has.
pub unsafe trait System: Send + Sync + 'static {
    /// Opens `path`, absolute, with `flags` (`O_RDWR`, `O_CREAT`, ...).
    ///
    /// # Errors
    /// The kernel's, as everywhere here.
    fn open(&self, path: &str, flags: usize) -> Result<usize>;

    /// Opens `path` from the descriptor `directory`.
    fn openat(&self, directory: usize, path: &str, flags: usize) -> Result<usize>;

    /// Another descriptor from `descriptor`, which `name` says more about.
    fn dup(&self, descriptor: usize, name: &[u8]) -> Result<usize>;

    /// Gives a descriptor back.
    fn close(&self, descriptor: usize);

    /// Not to be inherited by what this process starts.
    fn set_close_on_exec(&self, descriptor: usize) -> Result<()>;

    /// Reads; how long it waits is the file's own affair.
    fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize>;

    /// Writes.
    fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize>;

    /// The scheme's own call, whose answer comes in `payload` (`call_ro`).
    fn call(&self, descriptor: usize, payload: &mut [u8], metadata: &[u64]) -> Result<usize>;

    /// The names in the directory `path`.
    fn list(&self, path: &str) -> Result<Vec<String>>;

    /// Maps `len_bytes` from `offset` of what is open as `descriptor`, anywhere.
    fn map(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MapFlags) -> Result<NonNull<u8>>;

    /// Takes a mapping away.
    ///
    /// # Safety
    /// It must be one that [`System::map`] gave, as a whole, and nobody may use it any more.
    unsafe fn unmap(&self, start: NonNull<u8>, len_bytes: usize);

    /// A scheme's socket, whose reads do not wait (`EAGAIN`).
    fn create_scheme(&self) -> Result<usize>;

    /// Makes the scheme of `socket` known as `name`, with `root` as the number of its root. `EEXIST` if there is one.
    fn register_scheme(&self, socket: usize, name: &str, root: usize) -> Result<()>;

    /// Gives up the right to open anything more.
    fn leave_namespace(&self) -> Result<()>;

    /// Lets the calling thread run on CPU `cpu` only.
    fn pin_thread(&self, cpu: u32) -> Result<()>;
}

/// An open descriptor, closed when it goes.
pub struct Descriptor {
    system: Arc<dyn System>,
    number: usize,
}

impl Descriptor {
    /// The owner of `number` from now on.
    pub fn new(system: &Arc<dyn System>, number: usize) -> Self {
        Self {
            system: Arc::clone(system),
            number,
        }
    }

    /// As [`System::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(system: &Arc<dyn System>, path: &str, flags: usize) -> Result<Self> {
        Ok(Self::new(system, system.open(path, flags)?))
    }

    /// As [`System::openat`].
    ///
    /// # Errors
    /// As there.
    pub fn openat(&self, path: &str, flags: usize) -> Result<Self> {
        Ok(Self::new(
            &self.system,
            self.system.openat(self.number, path, flags)?,
        ))
    }

    /// As [`System::dup`].
    ///
    /// # Errors
    /// As there.
    pub fn dup(&self, name: &[u8]) -> Result<Self> {
        Ok(Self::new(&self.system, self.system.dup(self.number, name)?))
    }

    /// As [`System::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, into: &mut [u8]) -> Result<usize> {
        self.system.read(self.number, into)
    }

    /// As [`System::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self, from: &[u8]) -> Result<usize> {
        self.system.write(self.number, from)
    }

    /// As [`System::call`].
    ///
    /// # Errors
    /// As there.
    pub fn call(&self, payload: &mut [u8], metadata: &[u64]) -> Result<usize> {
        self.system.call(self.number, payload, metadata)
    }

    /// The kernel's number.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Whose it is.
    pub const fn system(&self) -> &Arc<dyn System> {
        &self.system
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.system.close(self.number);
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({})", self.number)
    }
}

/// An error of the kernel in the words of whoever met it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {error}")]
pub struct Failure {
    /// What was tried.
    pub what: String,
    /// What the kernel said.
    pub error: Error,
}

impl Failure {
    /// For `map_err`: `what` was being done.
    pub fn of(what: impl Into<String>) -> impl FnOnce(Error) -> Self {
        let what = what.into();
        move |error| Self { what, error }
    }
}
