//! Memory that the server shares with its client: the client's memory, which the device reaches by DMA, and the page of
//! doorbells.
//!
//! **A client cannot bring the server down by making its file shorter.** An access to a mapped page that its file does not
//! have any more ends the process (SIGBUS), so memory is taken only from files that cannot shrink: memfds that are sealed
//! against it, or let themselves be sealed here. Their length is looked at after the seal. Other files (hugetlbfs, tmpfs, a
//! disk's) cannot be sealed; they are taken only where the server was told to trust its client
//! ([`Trust::Unsealed`]).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use nvme_emulator::{DmaFault, DoorbellMemory, HostMemory};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::vfio_user::wire::DmaMap;

const PAGE_BYTES: u64 = 4096;
/// Mappings that a client may have at a time.
pub(crate) const MAX_DMA_MAPS: usize = 4096;
/// Bytes that a client may have mapped altogether: a part of what a process can address, so that the rest has room.
const MAX_MAPPED_BYTES: u64 = 16 << 40;

/// Which memory is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// What cannot shrink.
    #[default]
    Sealed,
    /// Any; a client that makes its file shorter ends the server.
    Unsealed,
}

/// A mapping of a file of the client's, or of the doorbells.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; whoever accesses the bytes says why that is sound.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: impl AsFd, offset: u64, len: usize, prot: ProtFlags) -> Result<Self, Errno> {
        // SAFETY: a new mapping, anywhere.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, offset)? };
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?,
            len,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole by `new`. The only accesses are under the lock of the list that this was in, or by
        // references that borrow the owner.
        if let Err(error) = unsafe { munmap(self.start.as_ptr().cast(), self.len) } {
            log::error!("shared memory could not be unmapped: {error}");
        }
    }
}

/// The doorbells, in a memfd of their own that the client maps.
pub(crate) struct DoorbellPages {
    file: OwnedFd,
    mapping: Mapping,
}

impl DoorbellPages {
    /// `len_bytes` of doorbells at `offset` of a file, as a client finds them at that offset of the BAR.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(offset: u64, len_bytes: usize) -> Result<Self, Errno> {
        let file = memfd_create("nvme-doorbells", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, offset + len_bytes as u64)?;
        // A client that could make it shorter would end the server.
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Mapping::new(&file, offset, len_bytes, ProtFlags::READ | ProtFlags::WRITE)?;
        Ok(Self { file, mapping })
    }

    /// What a client maps.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DoorbellMemory for DoorbellPages {
    fn words(&self) -> &[AtomicU32] {
        let start = self.mapping.start.as_ptr().cast::<AtomicU32>();
        // SAFETY: mapped, aligned to a page, and of a file that cannot shrink, for as long as this is borrowed. The client
        // stores whole words; whatever it does, an atomic has some value.
        unsafe { std::slice::from_raw_parts(start, self.mapping.len / size_of::<AtomicU32>()) }
    }
}

/// What a client has mapped for the device.
#[derive(Default)]
pub(crate) struct ClientMemory {
    trust: Trust,
    windows: RwLock<Vec<Window>>,
    is_bus_master: AtomicBool,
}

/// A range of the device's addresses.
struct Window {
    address: u64,
    len: u64,
    /// `None` if it came without a descriptor.
    mapping: Option<Mapping>,
    read: bool,
    write: bool,
}

impl ClientMemory {
    /// Nothing is mapped.
    pub(crate) fn new(trust: Trust) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }

    /// Whether the device may reach memory at all (PCI Local Bus 3.0, section 6.2.2, Bus Master).
    pub(crate) fn set_bus_master(&self, is_bus_master: bool) {
        self.is_bus_master.store(is_bus_master, Ordering::Release);
    }

    /// See [`ClientMemory::set_bus_master`].
    #[cfg(test)]
    pub(crate) fn is_bus_master(&self) -> bool {
        self.is_bus_master.load(Ordering::Acquire)
    }

    /// Lets the device reach what `map` says, which is in `file`; without a file it knows of the range, and every access
    /// is refused.
    ///
    /// # Errors
    /// `EEXIST`: some of it is mapped already. `EINVAL`: it is empty, goes beyond the end of addresses or of the file, has
    /// unknown flags, or is not made of whole pages. `EPERM`: the file could be made shorter. `ENOSPC`: too many mappings,
    /// or too large ones. Others are the system's.
    pub(crate) fn map(&self, map: &DmaMap, file: Option<OwnedFd>) -> Result<(), Errno> {
        let end = map.address.checked_add(map.size).ok_or(Errno::INVAL)?;
        if map.size == 0 || map.flags & !(DmaMap::READ | DmaMap::WRITE | DmaMap::MMAP) != 0 {
            return Err(Errno::INVAL);
        }
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        let at = windows.partition_point(|window| window.address < map.address);
        let before = at.checked_sub(1).and_then(|before| windows.get(before));
        let overlaps = before.is_some_and(|before| before.address + before.len > map.address)
            || windows.get(at).is_some_and(|after| after.address < end);
        if overlaps {
            return Err(Errno::EXIST);
        }
        let mapped: u64 = windows
            .iter()
            .filter(|window| window.mapping.is_some())
            .map(|window| window.len)
            .sum();
        let too_large = file.is_some() && mapped.saturating_add(map.size) > MAX_MAPPED_BYTES;
        if windows.len() >= MAX_DMA_MAPS || too_large {
            return Err(Errno::NOSPC);
        }
        let (read, write) = (map.flags & DmaMap::READ != 0, map.flags & DmaMap::WRITE != 0);
        let mapping = match file {
            Some(file) => Some(self.map_file(map, &file, write)?),
            None => None,
        };
        let window = Window {
            address: map.address,
            len: map.size,
            mapping,
            read,
            write,
        };
        windows.insert(at, window);
        Ok(())
    }

    fn map_file(&self, map: &DmaMap, file: &OwnedFd, write: bool) -> Result<Mapping, Errno> {
        let pages = [map.offset, map.address, map.size];
        if !pages.iter().all(|value| value.is_multiple_of(PAGE_BYTES)) {
            return Err(Errno::INVAL);
        }
        if self.trust == Trust::Sealed {
            seal(file)?;
        }
        let file_end = map.offset.checked_add(map.size).ok_or(Errno::INVAL)?;
        if u64::try_from(fstat(file)?.st_size).map_err(|_| Errno::INVAL)? < file_end {
            return Err(Errno::INVAL);
        }
        let len = usize::try_from(map.size).map_err(|_| Errno::INVAL)?;
        let prot = if write {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        Mapping::new(file, map.offset, len, prot)
    }

    /// Takes back all that was mapped within the `size` bytes at `address`, if there is anything. When this returns the
    /// device does not reach it any more.
    ///
    /// # Errors
    /// `EINVAL`: a mapping is within only in part, or the range goes beyond the end of addresses. Nothing is taken back.
    pub(crate) fn unmap(&self, address: u64, size: u64) -> Result<(), Errno> {
        // A range may end with the last address.
        let last = address.checked_add(size.checked_sub(1).ok_or(Errno::INVAL)?);
        let last = last.ok_or(Errno::INVAL)?;
        let ends = |window: &Window| (window.address, window.address + (window.len - 1));
        // The device holds the lock while it copies.
        let mut windows = self.windows.write().unwrap_or_else(PoisonError::into_inner);
        let is_cut = windows.iter().map(ends).any(|(from, to)| {
            let touched = from <= last && address <= to;
            touched && !(address <= from && to <= last)
        });
        if is_cut {
            return Err(Errno::INVAL);
        }
        windows.retain(|window| {
            let (from, to) = ends(window);
            !(address <= from && to <= last)
        });
        Ok(())
    }

    /// Takes back everything.
    pub(crate) fn clear(&self) {
        self.windows
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Calls `access` with the address and the length of each piece of the `len` bytes at `address`, in order; they stay
    /// valid during the call. Nothing is called if not all of it may be reached.
    fn with(
        &self,
        address: u64,
        len: usize,
        write: bool,
        mut access: impl FnMut(*mut u8, usize),
    ) -> Result<(), DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: len as u64,
        };
        if !self.is_bus_master.load(Ordering::Acquire) {
            return Err(fault);
        }
        // Held during the copy: whoever unmaps waits for it.
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly always one; neighbours are walked through twice, so that nothing is done by halves.
        let mut at = address;
        let mut left = len;
        while left > 0 {
            let (_, part) = piece(&windows, at, left, write).ok_or(fault)?;
            if part == len {
                break;
            }
            at += part as u64;
            left -= part;
        }
        let (mut at, mut left) = (address, len);
        while left > 0 {
            let (start, part) = piece(&windows, at, left, write).ok_or(fault)?;
            access(start.as_ptr(), part);
            at += part as u64;
            left -= part;
        }
        Ok(())
    }

    fn with_word<R>(
        &self,
        address: u64,
        write: bool,
        access: impl Fn(&AtomicU32) -> R,
    ) -> Result<R, DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: 4,
        };
        let mut result = None;
        if address.is_multiple_of(4) {
            self.with(address, 4, write, |word, _| {
                // SAFETY: four valid bytes in one piece: mapped ranges are made of whole pages here and there, so that the
                // word is aligned. What the client does to them meanwhile is atomic for this side.
                result = Some(access(unsafe { AtomicU32::from_ptr(word.cast()) }));
            })?;
        }
        result.ok_or(fault)
    }
}

/// Where the byte at `address` is, and how many of the `len` from there on are behind it in the same window.
fn piece(windows: &[Window], address: u64, len: usize, write: bool) -> Option<(NonNull<u8>, usize)> {
    let at = windows.partition_point(|window| window.address <= address);
    let window = windows.get(at.checked_sub(1)?)?;
    let offset = address - window.address;
    if offset >= window.len || !(if write { window.write } else { window.read }) {
        return None;
    }
    let mapping = window.mapping.as_ref()?;
    let part = usize::try_from(window.len - offset)
        .unwrap_or(usize::MAX)
        .min(len);
    // SAFETY: the window is as long as its mapping, and the offset is less.
    Some((unsafe { mapping.start.add(offset as usize) }, part))
}

/// Sees to it that `file` cannot be made shorter.
fn seal(file: &OwnedFd) -> Result<(), Errno> {
    // What is no memfd has no seals: EINVAL.
    let seals = fcntl_get_seals(file).map_err(|_| Errno::PERM)?;
    if seals.contains(SealFlags::SHRINK) {
        return Ok(());
    }
    fcntl_add_seals(file, SealFlags::SHRINK).map_err(|_| Errno::PERM)
}

impl HostMemory for ClientMemory {
    #[inline]
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        let to = into.as_mut_ptr();
        self.with(address, into.len(), false, |from, len| {
            // SAFETY: `with` gives valid bytes, as many as `into` has in all; `into` is elsewhere, being borrowed mutably.
            // The client may change them meanwhile: the copy is then of anything, which is what bytes from outside are.
            unsafe { to.add(done).copy_from_nonoverlapping(from, len) };
            done += len;
        })
    }

    #[inline]
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        let mut done = 0;
        let source = from.as_ptr();
        self.with(address, from.len(), true, |into, len| {
            // SAFETY: `with` gives valid bytes, as many as `from` has in all, mapped for writing. Nothing of this process
            // refers to them.
            unsafe { into.copy_from_nonoverlapping(source.add(done), len) };
            done += len;
        })
    }

    #[inline]
    fn load_u32(&self, address: u64) -> Result<u32, DmaFault> {
        self.with_word(address, false, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        self.with_word(address, true, |word| word.store(value, Ordering::Release))
    }
}

impl fmt::Debug for ClientMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        write!(f, "ClientMemory({} mappings)", windows.len())
    }
}

#[cfg(test)]
mod tests;
