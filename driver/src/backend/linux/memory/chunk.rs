//! One chunk: a memfd, mapped here and for the device.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::{HUGE_PAGE_BYTES, Mapper, Piece, Plan};
use crate::backend::BackendError;
use crate::backend::linux::numa;

/// A chunk. It goes from the device's side before it goes from this one.
pub(super) struct Chunk {
    mapper: Arc<dyn Mapper>,
    mapping: Option<Mapping>,
    address: NonNull<u8>,
    len: usize,
    iova: u64,
}

// SAFETY: an address and a length; whoever accesses the bytes says why that is sound.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// `len` bytes (a multiple of 2 MiB), which the device is to find at `iova`.
    pub(super) fn new(
        mapper: &Arc<dyn Mapper>,
        len: usize,
        iova: u64,
        plan: &Plan,
    ) -> Result<Self, BackendError> {
        let no_memory = |error: Errno| {
            log::debug!("{len} bytes of memory for DMA: {error}");
            BackendError::NoMemory { len_bytes: len }
        };
        let huge = Mapping::new(len, true, plan.numa_node);
        let is_huge = huge.is_ok();
        let mapping = match huge {
            Ok(mapping) => mapping,
            Err(error) if plan.only_huge_pages => return Err(no_memory(error)),
            Err(_) => Mapping::new(len, false, plan.numa_node).map_err(no_memory)?,
        };
        let address = mapping.address;
        let iova = mapper.map(&Piece {
            memfd: mapping.memfd.as_fd(),
            address,
            len_bytes: len,
            iova,
        })?;
        let pages = if is_huge { "huge pages" } else { "ordinary pages" };
        log::info!("{len} bytes of memory for DMA at {iova:#x}, in {pages}");
        Ok(Self {
            mapper: Arc::clone(mapper),
            mapping: Some(mapping),
            address,
            len,
            iova,
        })
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len
    }

    pub(super) fn iova(&self) -> u64 {
        self.iova
    }

    /// The address for the device after the last byte.
    pub(super) fn end_of_iovas(&self) -> u64 {
        self.iova.saturating_add(self.len as u64)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let mapping = self.mapping.take();
        if !self.mapper.unmap(self.iova, self.len) {
            log::error!(
                "{self:?} cannot be taken from the device, which may still write to it; it is left in place until the \
                 process ends"
            );
            std::mem::forget(mapping);
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({:#x}, {} bytes)", self.iova, self.len)
    }
}

/// A memfd that is mapped here.
struct Mapping {
    memfd: OwnedFd,
    address: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// `len` bytes at a multiple of 2 MiB, all of them there: no access to them can fail later.
    fn new(len: usize, is_huge: bool, numa_node: Option<u32>) -> Result<Self, Errno> {
        let pages = if is_huge {
            MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB
        } else {
            MemfdFlags::empty()
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
        let memfd = memfd_create("nvme-dma", flags)?;
        ftruncate(&memfd, len as u64)?;
        // Whoever shares it need not fear that it ends under them.
        fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let address = if is_huge {
            map_huge(&memfd, len)?
        } else {
            map_aligned(&memfd, len)?
        };
        let mapping = Self { memfd, address, len };
        if !is_huge {
            // It says no where huge pages are not configured for such files; then they are small ones.
            let _ = mapping.advise(Advice::LinuxHugepage);
        }
        if let Some(node) = numa_node
            && let Err(error) = numa::place(address, len, node)
        {
            log::info!("memory for DMA is taken from anywhere, not from NUMA node {node}: {error}");
        }
        match mapping.advise(Advice::LinuxPopulateWrite) {
            // Linux before 5.14 does not know it.
            Err(Errno::INVAL) => fallocate(&mapping.memfd, FallocateFlags::empty(), 0, len as u64)?,
            populated => populated?,
        }
        Ok(mapping)
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: this mapping, whole; neither advice takes bytes away or changes them.
        unsafe { madvise(self.address.as_ptr().cast(), self.len, advice) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole by `new`, and whoever had the address had what owns this.
        if let Err(error) = unsafe { munmap(self.address.as_ptr().cast(), self.len) } {
            log::debug!("memory for DMA could not be unmapped: {error}");
        }
    }
}

/// Maps `len` bytes of `memfd`, which has huge pages: the system puts them at multiples of their size by itself. It often
/// has none, and says so here; see [`map_aligned`] for why that must not be tried at an address that is in use.
fn map_huge(memfd: &OwnedFd, len: usize) -> Result<NonNull<u8>, Errno> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, anywhere.
    let start = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, memfd, 0)? };
    if !start.addr().is_multiple_of(HUGE_PAGE_BYTES) {
        // SAFETY: the mapping that has just been made, of which nobody else knows.
        unsafe { munmap(start, len)? };
        return Err(Errno::NOMEM);
    }
    NonNull::new(start.cast()).ok_or(Errno::NOMEM)
}

/// Maps `len` bytes of `memfd` at a multiple of 2 MiB.
fn map_aligned(memfd: &OwnedFd, len: usize) -> Result<NonNull<u8>, Errno> {
    let reserved = len.checked_add(HUGE_PAGE_BYTES).ok_or(Errno::NOMEM)?;
    // SAFETY: a new mapping of nothing, anywhere.
    let start = unsafe { mmap_anonymous(ptr::null_mut(), reserved, ProtFlags::empty(), MapFlags::PRIVATE)? };
    let padding = start.align_offset(HUGE_PAGE_BYTES);
    let aligned = start.wrapping_byte_add(padding);
    // SAFETY: within what has just been reserved, of which nobody else knows.
    let mapped = unsafe {
        mmap(
            aligned,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED,
            memfd,
            0,
        )
    };
    let rest = HUGE_PAGE_BYTES - padding;
    // Kernels before 6.12 may have taken away what was in the middle before they said no, and another thread may have mapped
    // something there since: it is not touched then. What is lost in other cases is addresses, without memory.
    let leftovers = [(start, padding), (aligned.wrapping_byte_add(len), rest)];
    for (start, len) in leftovers.into_iter().filter(|(_, len)| *len > 0) {
        // SAFETY: what was reserved above on both sides of the mapping, which nothing has replaced.
        unsafe { munmap(start, len)? };
    }
    NonNull::new(mapped?.cast()).ok_or(Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of the policy of a mapping.
    #[test]
    fn pages_are_asked_for_from_the_node() {
        let mapping = Mapping::new(HUGE_PAGE_BYTES, false, Some(0)).unwrap();
        let Ok(maps) = std::fs::read_to_string("/proc/self/numa_maps") else {
            eprintln!("skipped: this kernel knows no nodes");
            return;
        };
        if let Err(error) = numa::place(mapping.address, mapping.len, 0) {
            eprintln!("skipped: this process may not choose a node: {error}");
            return;
        }
        let start = format!("{:x} ", mapping.address.addr());
        let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
        assert!(line.contains(" prefer"), "{line}");
        // One that is not there: the memory comes from anywhere.
        assert!(Mapping::new(HUGE_PAGE_BYTES, false, Some(1023)).is_ok());
    }
}
