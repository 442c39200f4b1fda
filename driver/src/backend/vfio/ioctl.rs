//! The calls of VFIO, one by one: what is passed is what the kernel's `linux/vfio.h` says, in the structures that the crate
//! vfio-bindings has made of it.

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use vfio_bindings::bindings::vfio::{
    VFIO_BASE, VFIO_TYPE, vfio_device_info, vfio_group_status, vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap, vfio_irq_info,
};

/// A call with an argument that is a number or an address.
struct Call {
    number: u8,
    argument: *mut c_void,
}

// SAFETY: whoever makes one says why the argument is what the call of that number takes, and nothing but the returned
// number is taken from it.
unsafe impl Ioctl for Call {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // All of them are `_IO`: without a direction and a size.
        opcode::none(VFIO_TYPE, VFIO_BASE as u8 + self.number)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// # Safety
/// `argument` must be what call `number` of `file` takes: for an address, valid for reads and writes of what the kernel
/// puts there.
unsafe fn call(file: BorrowedFd<'_>, number: u8, argument: *mut c_void) -> io::Result<i32> {
    // SAFETY: by the contract.
    Ok(unsafe { rustix::ioctl::ioctl(file, Call { number, argument })? })
}

/// A call that takes a number, or nothing (0).
///
/// # Safety
/// Call `number` of VFIO must be one of those.
unsafe fn call_with_number(file: BorrowedFd<'_>, number: u8, argument: usize) -> io::Result<i32> {
    // SAFETY: by the contract.
    unsafe { call(file, number, ptr::without_provenance_mut(argument)) }
}

/// `VFIO_GET_API_VERSION` of a container.
pub(super) fn api_version(container: &OwnedFd) -> io::Result<i32> {
    // SAFETY: takes nothing.
    unsafe { call_with_number(container.as_fd(), 0, 0) }
}

/// `VFIO_CHECK_EXTENSION` of a container.
pub(super) fn has_extension(container: &OwnedFd, extension: u32) -> io::Result<bool> {
    // SAFETY: takes a number.
    Ok(unsafe { call_with_number(container.as_fd(), 1, extension as usize)? } > 0)
}

/// `VFIO_SET_IOMMU` of a container.
pub(super) fn set_iommu(container: &OwnedFd, kind: u32) -> io::Result<()> {
    // SAFETY: takes a number.
    unsafe { call_with_number(container.as_fd(), 2, kind as usize) }.map(drop)
}

/// `VFIO_GROUP_GET_STATUS`: its flags.
pub(super) fn group_flags(group: &OwnedFd) -> io::Result<u32> {
    let mut status = vfio_group_status {
        argsz: size_of::<vfio_group_status>() as u32,
        flags: 0,
    };
    // SAFETY: takes this structure, whose size it is told.
    unsafe { call(group.as_fd(), 3, (&raw mut status).cast())? };
    Ok(status.flags)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(super) fn set_container(group: &OwnedFd, container: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let descriptor = container.as_raw_fd();
    // SAFETY: takes the address of a descriptor's number.
    unsafe { call(group.as_fd(), 4, (&raw const descriptor).cast_mut().cast()) }.map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`.
pub(super) fn device(group: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    // SAFETY: takes the address of a string that ends with a zero.
    let descriptor = unsafe { call(group.as_fd(), 6, name.as_ptr().cast_mut().cast())? };
    // SAFETY: a descriptor that the kernel has just made for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// `VFIO_DEVICE_GET_INFO`.
pub(super) fn device_info(device: &OwnedFd) -> io::Result<vfio_device_info> {
    let mut info = vfio_device_info {
        argsz: size_of::<vfio_device_info>() as u32,
        ..Default::default()
    };
    // SAFETY: takes this structure, whose size it is told.
    unsafe { call(device.as_fd(), 7, (&raw mut info).cast())? };
    Ok(info)
}

/// `VFIO_DEVICE_GET_IRQ_INFO` of the interrupts with this index.
pub(super) fn irq_info(device: &OwnedFd, index: u32) -> io::Result<vfio_irq_info> {
    let mut info = vfio_irq_info {
        argsz: size_of::<vfio_irq_info>() as u32,
        index,
        ..Default::default()
    };
    // SAFETY: takes this structure, whose size it is told.
    unsafe { call(device.as_fd(), 9, (&raw mut info).cast())? };
    Ok(info)
}

/// `VFIO_DEVICE_SET_IRQS`, on `count` interrupts from `start` on, with what `flags` says: nothing, or as many descriptors of
/// eventfds (-1: none). Returns what the kernel returns: 0, or how many interrupts there would have been.
pub(super) fn set_irqs(
    device: &OwnedFd,
    flags: u32,
    index: u32,
    (start, count): (u32, u32),
    eventfds: &[i32],
) -> io::Result<i32> {
    const HEADER_WORDS: usize = 5;
    debug_assert!(eventfds.is_empty() || eventfds.len() == count as usize);
    let argsz = (HEADER_WORDS + eventfds.len()) * size_of::<u32>();
    let mut words = vec![argsz as u32, flags, index, start, count];
    words.extend(eventfds.iter().map(|descriptor| descriptor.cast_unsigned()));
    // SAFETY: takes `vfio_irq_set`, which is five words, and then as many descriptors as it is told there are bytes for.
    unsafe { call(device.as_fd(), 10, words.as_mut_ptr().cast()) }
}

/// `VFIO_DEVICE_RESET`.
pub(super) fn reset(device: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes nothing.
    unsafe { call_with_number(device.as_fd(), 11, 0) }.map(drop)
}

/// `VFIO_DEVICE_GET_REGION_INFO` of region `index`, as bytes with its capabilities.
pub(super) fn region_info(device: &OwnedFd, index: u32) -> io::Result<Vec<u8>> {
    // Size, flags, index, offset of the capabilities, then two numbers of 64 bits.
    // SAFETY: takes `vfio_region_info`, of which this is the beginning, and is told how much there is.
    unsafe { with_capabilities(device.as_fd(), 8, &[0, 0, index, 0, 0, 0, 0, 0]) }
}

/// `VFIO_IOMMU_GET_INFO`, as bytes with its capabilities.
pub(super) fn iommu_info(container: &OwnedFd) -> io::Result<Vec<u8>> {
    // SAFETY: takes `vfio_iommu_type1_info`, which is six words, and is told how much there is.
    unsafe { with_capabilities(container.as_fd(), 12, &[0; 6]) }
}

/// A call whose answer is a structure, whose first word is its length, with capabilities behind it.
///
/// # Safety
/// Call `number` of `file` must be one of those, and `start` its structure.
unsafe fn with_capabilities(file: BorrowedFd<'_>, number: u8, start: &[u32]) -> io::Result<Vec<u8>> {
    /// More than any kernel has to say.
    const MAX_BYTES: usize = 1 << 20;
    let mut len = size_of_val(start);
    loop {
        let mut words = vec![0_u64; len.div_ceil(8)];
        let mut bytes: Vec<u8> = start.iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.resize(words.len() * 8, 0);
        let argsz = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_ne_bytes();
        for (byte, of) in bytes.iter_mut().zip(argsz) {
            *byte = of;
        }
        for (word, of) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(of.try_into().unwrap_or_default());
        }
        // SAFETY: by the contract, with as many bytes as the first word says, aligned to 8.
        unsafe { call(file, number, words.as_mut_ptr().cast())? };
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let wanted = super::chain::word(&bytes, 0).unwrap_or(0) as usize;
        if wanted <= bytes.len() || wanted > MAX_BYTES {
            return Ok(bytes);
        }
        len = wanted;
    }
}

/// `VFIO_IOMMU_MAP_DMA`: lets devices read and write `len` bytes at `address` of this process, as `iova`.
///
/// # Safety
/// The bytes must be valid for reads and writes by a device for as long as they are mapped, and no references to them be
/// made.
pub(super) unsafe fn map_dma(container: &OwnedFd, address: *mut u8, len: usize, iova: u64) -> io::Result<()> {
    use vfio_bindings::bindings::vfio::{VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE};
    let mut map = vfio_iommu_type1_dma_map {
        argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
        flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        vaddr: address.expose_provenance() as u64,
        iova,
        size: len as u64,
    };
    // SAFETY: takes this structure, whose size it is told; what the device then does with the bytes is the contract's.
    unsafe { call(container.as_fd(), 13, (&raw mut map).cast()) }.map(drop)
}

/// `VFIO_IOMMU_UNMAP_DMA`: how many bytes have been unmapped.
pub(super) fn unmap_dma(container: &OwnedFd, iova: u64, len: usize) -> io::Result<u64> {
    let mut unmap = vfio_iommu_type1_dma_unmap {
        argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
        flags: 0,
        iova,
        size: len as u64,
        ..Default::default()
    };
    // SAFETY: takes this structure, whose size it is told.
    unsafe { call(container.as_fd(), 14, (&raw mut unmap).cast())? };
    Ok(unmap.size)
}
