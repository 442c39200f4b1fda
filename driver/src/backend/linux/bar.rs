//! A BAR: the areas of it that are mapped, and another way to the rest.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::backend::{BackendError, Doorbell};

/// The slow way to a BAR: by a call or a message for each access. What is not mapped is reached like this.
pub trait Access: Send + Sync + 'static {
    /// Reads from `offset` bytes of the BAR.
    ///
    /// # Errors
    /// The device is gone, say.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes to `offset` bytes of the BAR.
    ///
    /// # Errors
    /// As [`Access::read`].
    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()>;
}

/// A mapped part of a BAR.
pub struct Area {
    /// Where in the BAR it is.
    offset: usize,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address; what is behind it is accessed by volatile reads and writes and by atomic stores only, which a device
// takes from any thread.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Maps the `len_bytes` at `offset` of a BAR, which are at `at` in `file`.
    ///
    /// # Errors
    /// The system's.
    pub fn map(file: impl AsFd, at: u64, offset: usize, len_bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping, anywhere, to which no references are made.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                at,
            )?
        };
        Ok(Self {
            offset,
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?,
            len: len_bytes,
        })
    }

    /// The 32 bits at `offset` of the BAR, if they are inside and aligned.
    fn register(&self, offset: usize) -> Option<NonNull<u32>> {
        let within = offset.checked_sub(self.offset)?;
        if !within.is_multiple_of(4) || within.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping, as checked.
        Some(unsafe { self.start.add(within) }.cast())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole by `map`; whoever uses it holds what owns this.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            log::debug!("a BAR could not be unmapped: {error}");
        }
    }
}

/// A BAR.
pub struct Bar {
    len: usize,
    areas: Box<[Area]>,
    rest: Box<dyn Access>,
    /// Whether it has been said that an access failed.
    has_warned: AtomicBool,
}

impl Bar {
    /// A BAR of `len_bytes`, of which `areas` are mapped; `rest` is the way to everything else.
    pub fn new(len_bytes: usize, areas: Vec<Area>, rest: impl Access) -> Arc<Self> {
        Arc::new(Self {
            len: len_bytes,
            areas: areas.into(),
            rest: Box::new(rest),
            has_warned: AtomicBool::new(false),
        })
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    fn mapped(&self, offset: usize) -> Option<NonNull<u32>> {
        self.areas.iter().find_map(|area| area.register(offset))
    }

    /// Whether an access at `offset` is one to a register; says so if not, once.
    fn check(&self, offset: usize) -> io::Result<()> {
        let end = offset.checked_add(4);
        if !offset.is_multiple_of(4) || end.is_none_or(|end| end > self.len) {
            return Err(io::Error::other(format!(
                "it is not a register within the BAR's {} bytes",
                self.len
            )));
        }
        Ok(())
    }

    fn warn(&self, offset: usize, error: &io::Error) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::error!(
                "the register at {offset:#x} cannot be accessed: {error}; it reads as all ones, and what is written \
                 there is lost"
            );
        }
    }

    /// Reads 32 bits. All ones where there is nothing, as the bus has it.
    pub fn read32(&self, offset: usize) -> u32 {
        let value = match self.mapped(offset) {
            // SAFETY: mapped and aligned, as `mapped` says.
            Some(register) => unsafe { register.as_ptr().read_volatile() },
            None => {
                let mut bytes = [0; 4];
                let read = self
                    .check(offset)
                    .and_then(|()| self.rest.read(offset as u64, &mut bytes));
                match read {
                    Ok(()) => u32::from_le_bytes(bytes),
                    Err(error) => {
                        self.warn(offset, &error);
                        u32::MAX
                    }
                }
            }
        };
        // What the device wrote to memory before it changed the register is seen after it.
        fence(Ordering::Acquire);
        value
    }

    /// Writes 32 bits. Where there is nothing, nothing happens.
    pub fn write32(&self, offset: usize, value: u32) {
        // What was written to memory before is seen by a device that acts on this.
        fence(Ordering::Release);
        match self.mapped(offset) {
            // SAFETY: mapped and aligned, as `mapped` says.
            Some(register) => unsafe { register.as_ptr().write_volatile(value) },
            None => {
                let written = self
                    .check(offset)
                    .and_then(|()| self.rest.write(offset as u64, &value.to_le_bytes()));
                if let Err(error) = written {
                    self.warn(offset, &error);
                }
            }
        }
    }

    /// The doorbell at `offset`, which must be mapped: it is rung a million times a second.
    ///
    /// # Errors
    /// It is beyond the BAR, or not in an area that is mapped.
    pub fn doorbell(self: &Arc<Self>, offset: usize) -> Result<Doorbell, BackendError> {
        if self.check(offset).is_err() {
            return Err(BackendError::BeyondBar {
                offset,
                len_bytes: self.len,
            });
        }
        let register = self.mapped(offset).ok_or_else(|| {
            BackendError::System(format!(
                "the doorbell at {offset:#x} of the BAR cannot be mapped, and there is no fast way to it but that"
            ))
        })?;
        let mapping = Arc::clone(self) as Arc<dyn Any + Send + Sync>;
        // SAFETY: aligned and inside an area, which is unmapped with the last `Arc` of the BAR.
        Ok(unsafe { Doorbell::mapped(register.as_ptr(), mapping) })
    }
}

impl fmt::Debug for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bar({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// A file that is reached by calls.
    struct Calls(OwnedFd);

    impl Access for Calls {
        fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            let read = rustix::io::pread(&self.0, &mut *into, offset)?;
            (read == into.len())
                .then_some(())
                .ok_or(io::ErrorKind::UnexpectedEof.into())
        }

        fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
            assert_eq!(rustix::io::pwrite(&self.0, from, offset)?, from.len());
            Ok(())
        }
    }

    /// A BAR of 16 KiB in a file, whose second page is mapped, and the file.
    fn bar() -> (OwnedFd, Arc<Bar>) {
        let file = memfd_create("bar", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 0x4000).unwrap();
        let area = Area::map(&file, 0x1000, 0x1000, 0x1000).unwrap();
        let bar = Bar::new(0x4000, vec![area], Calls(file.try_clone().unwrap()));
        (file, bar)
    }

    fn word(file: &OwnedFd, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        rustix::io::pread(file, &mut bytes, offset).unwrap();
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn registers_are_where_they_are_said_to_be_mapped_or_not() {
        let (file, bar) = bar();
        // On both sides of where what is mapped begins and ends.
        for offset in [
            0x14, 0x28, 0x2C, 0xFFC, 0x1000, 0x1014, 0x1028, 0x102C, 0x1FFC, 0x2000,
        ] {
            let value = 0x0046_0000 + offset as u32;
            bar.write32(offset, value);
            assert_eq!(word(&file, offset as u64), value);
            assert_eq!(bar.read32(offset), value);
        }
        assert!(!bar.has_warned.load(Ordering::Relaxed));
    }

    #[test]
    fn nothing_is_touched_beyond_the_end_or_across_registers() {
        let (file, bar) = bar();
        for offset in [0x4000, 0x3FFE, 0x11, 0x1001, usize::MAX, usize::MAX - 3] {
            bar.write32(offset, 1);
            assert_eq!(bar.read32(offset), u32::MAX, "{offset:#x}");
            let len_bytes = 0x4000;
            let error = bar.doorbell(offset).unwrap_err();
            assert_eq!(error, BackendError::BeyondBar { offset, len_bytes });
        }
        assert_eq!(bar.read32(0x3FFC), 0, "the last one is inside");
        assert!((0..0x1000).all(|register| word(&file, register * 4) == 0));
    }

    #[test]
    fn a_device_that_is_gone_reads_as_all_ones() {
        let (file, bar) = bar();
        ftruncate(&file, 0x2000).unwrap();
        assert_eq!(bar.read32(0x3000), u32::MAX);
        assert!(bar.has_warned.load(Ordering::Relaxed));
    }

    #[test]
    fn a_doorbell_is_mapped_and_keeps_the_mapping() {
        let (file, bar) = bar();
        let doorbell = bar.doorbell(0x1004).unwrap();
        assert!(matches!(bar.doorbell(0xFFC), Err(BackendError::System(_))));
        drop(bar);
        doorbell.ring(7);
        assert_eq!(word(&file, 0x1004), 7);
    }
}
