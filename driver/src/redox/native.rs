//! [`System`] on Redox itself: the calls of libredox, one by one.

use std::ptr::NonNull;
use std::sync::Arc;

use libredox::call;
use syscall::error::{EINVAL, Error, Result};
use syscall::flag::{CallFlags, F_SETFD, MapFlags, O_CLOEXEC};

use super::System;

unsafe extern "C" {
    /// relibc's: the descriptor of the calling thread, which stays relibc's own.
    fn redox_cur_thrfd_v0() -> usize;
}

/// The kernel that this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Kernel {
    /// The kernel, as everything takes it.
    pub fn system() -> Arc<dyn System> {
        Arc::new(Self)
    }
}

fn flags_of(flags: usize) -> i32 {
    // The same bits; libredox takes them as C does.
    flags as u32 as i32
}

// SAFETY: the kernel maps what was not mapped before, as its flags say.
unsafe impl System for Kernel {
    fn open(&self, path: &str, flags: usize) -> Result<usize> {
        Ok(call::open(path, flags_of(flags | O_CLOEXEC), 0)?)
    }

    fn openat(&self, directory: usize, path: &str, flags: usize) -> Result<usize> {
        Ok(call::openat(directory, path, flags_of(flags | O_CLOEXEC), 0)?)
    }

    fn dup(&self, descriptor: usize, name: &[u8]) -> Result<usize> {
        Ok(call::dup(descriptor, name)?)
    }

    fn close(&self, descriptor: usize) {
        if let Err(error) = call::close(descriptor) {
            log::debug!("descriptor {descriptor} could not be closed: {error}");
        }
    }

    fn set_close_on_exec(&self, descriptor: usize) -> Result<()> {
        syscall::fcntl(descriptor, F_SETFD, O_CLOEXEC).map(drop)
    }

    fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        Ok(call::read(descriptor, into)?)
    }

    fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize> {
        Ok(call::write(descriptor, from)?)
    }

    fn call(&self, descriptor: usize, payload: &mut [u8], metadata: &[u64]) -> Result<usize> {
        Ok(call::call_ro(descriptor, payload, CallFlags::empty(), metadata)?)
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        let errno = |error: std::io::Error| Error::new(error.raw_os_error().unwrap_or(syscall::error::EIO));
        std::fs::read_dir(path)
            .map_err(errno)?
            .map(|entry| Ok(entry.map_err(errno)?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn map(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MapFlags) -> Result<NonNull<u8>> {
        let protection = flags & (MapFlags::PROT_READ | MapFlags::PROT_WRITE | MapFlags::PROT_EXEC);
        let arguments = call::MmapArgs {
            addr: std::ptr::null_mut(),
            length: len_bytes,
            prot: protection.bits() as u32,
            flags: (flags - protection).bits() as u32,
            fd: descriptor,
            offset,
        };
        // SAFETY: no address is asked for, so the kernel takes one where nothing is mapped.
        let start = unsafe { call::mmap(arguments)? };
        NonNull::new(start.cast()).ok_or(Error::new(EINVAL))
    }

    unsafe fn unmap(&self, start: NonNull<u8>, len_bytes: usize) {
        // SAFETY: a mapping that nobody uses any more, by the contract of `unmap`.
        if let Err(error) = unsafe { call::munmap(start.as_ptr().cast(), len_bytes) } {
            log::warn!("{len_bytes} bytes could not be unmapped: {error}");
        }
    }

    fn create_scheme(&self) -> Result<usize> {
        Ok(redox_scheme::Socket::nonblock()?.into_inner().into_raw())
    }

    fn register_scheme(&self, socket: usize, name: &str, root: usize) -> Result<()> {
        // SAFETY: a socket of `create_scheme`, lent to the library for this call and not closed by it.
        let socket =
            std::mem::ManuallyDrop::new(unsafe { redox_scheme::Socket::from_fd(libredox::Fd::new(socket)) });
        redox_scheme::scheme::register_scheme_inner(&socket, name, root)
    }

    fn leave_namespace(&self) -> Result<()> {
        Ok(call::setrens(0, 0).map(drop)?)
    }

    fn pin_thread(&self, cpu: u32) -> Result<()> {
        let mask = 1u128.checked_shl(cpu).ok_or(Error::new(EINVAL))?;
        // SAFETY: takes nothing and returns a number.
        let thread = unsafe { redox_cur_thrfd_v0() };
        let affinity = libredox::Fd::new(call::dup(thread, b"sched-affinity")?);
        affinity.write(&mask.to_le_bytes())?;
        Ok(())
    }
}
