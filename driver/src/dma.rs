//! Memory that the controller reaches by DMA: regions, and buffers for callers.

#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) mod arena;
pub(crate) mod pages;

use crate::backend::Windows;
use crate::passthrough::Passthrough;
use arena::Arena;

/// A piece of memory that the device reaches by DMA at [`Region::iova`].
///
/// The device may write it at any time, so there is no reference into it: bytes are copied in and out, and single
/// words are read and written atomically.
#[derive(Clone)]
pub struct Region {
    base: NonNull<u8>,
    iova: u64,
    len: usize,
    memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a Region is an address and an owner; all access goes through its methods, which copy or are atomic, and which
// only this crate can call. That no two threads copy to the same bytes at once is this crate's arrangement: each ring,
// page and buffer has one owner.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// The `len` bytes at `base`, which the device sees at `iova`.
    ///
    /// # Safety
    /// The bytes must be valid for reads and writes, and initialised, for as long as `memory` is alive, and nobody but
    /// the region's holder and the device may access them. `base` must be aligned to 4096 bytes.
    pub unsafe fn new(base: NonNull<u8>, iova: u64, len: usize, memory: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            base,
            iova,
            len,
            memory,
        }
    }

    /// The first byte's address for the device.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset`, or `None` if they are not all inside.
    pub(crate) fn part(&self, offset: usize, len: usize) -> Option<Self> {
        self.check(offset, len)?;
        // SAFETY: inside the region, as checked.
        let base = unsafe { self.base.add(offset) };
        Some(Self {
            base,
            iova: self.iova + offset as u64,
            len,
            memory: Arc::clone(&self.memory),
        })
    }

    #[inline]
    fn check(&self, offset: usize, len: usize) -> Option<()> {
        (offset <= self.len && len <= self.len - offset).then_some(())
    }

    /// Copies `value` to `offset`.
    ///
    /// # Panics
    /// If it does not fit: offsets are the driver's own, never a device's or a client's.
    #[inline]
    pub(crate) fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        self.copy_in(offset, value.as_bytes());
    }

    /// Copies a value out from `offset`.
    ///
    /// # Panics
    /// If it is not inside.
    #[inline]
    pub(crate) fn read<T: FromBytes>(&self, offset: usize) -> T {
        assert!(self.check(offset, size_of::<T>()).is_some());
        // SAFETY: inside, as asserted; any bytes are a `T`.
        unsafe { self.base.add(offset).cast::<T>().read_unaligned() }
    }

    /// Copies `from` to `offset`.
    ///
    /// # Panics
    /// If it does not fit.
    #[inline]
    pub(crate) fn copy_in(&self, offset: usize, from: &[u8]) {
        assert!(self.check(offset, from.len()).is_some());
        // SAFETY: inside, as asserted; `from` cannot overlap since no references into the region exist.
        unsafe {
            self.base
                .add(offset)
                .as_ptr()
                .copy_from_nonoverlapping(from.as_ptr(), from.len())
        }
    }

    /// Copies from `offset` to `into`.
    ///
    /// # Panics
    /// If it is not all inside.
    #[inline]
    pub(crate) fn copy_out(&self, offset: usize, into: &mut [u8]) {
        assert!(self.check(offset, into.len()).is_some());
        // SAFETY: inside, as asserted; `into` cannot overlap since no references into the region exist.
        unsafe {
            self.base
                .add(offset)
                .as_ptr()
                .copy_to_nonoverlapping(into.as_mut_ptr(), into.len())
        }
    }

    /// Zeroes `len` bytes from `offset` on.
    ///
    /// # Panics
    /// If they are not all inside.
    pub(crate) fn zero(&self, offset: usize, len: usize) {
        assert!(self.check(offset, len).is_some());
        // SAFETY: inside, as asserted.
        unsafe { self.base.add(offset).as_ptr().write_bytes(0, len) }
    }

    /// The 32-bit word at `offset`, read so that what the device wrote before it is seen after it.
    ///
    /// # Panics
    /// If it is not inside or not aligned.
    #[inline]
    pub(crate) fn load_u32(&self, offset: usize) -> u32 {
        assert!(self.check(offset, 4).is_some() && (self.base.as_ptr() as usize + offset).is_multiple_of(4));
        // SAFETY: inside and aligned, as asserted; accessed only atomically or by the device.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()).load(Ordering::Acquire) }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:#x}, {} bytes)", self.iova, self.len)
    }
}

/// A buffer for data, in memory that the controller reaches by DMA: what is read into it or written from it is not
/// copied. It reads as a byte slice; while a command works on it the driver owns it.
pub struct DmaBuffer {
    region: Region,
    len: usize,
    arena: Arena,
}

impl DmaBuffer {
    pub(crate) fn new(region: Region, len: usize, arena: Arena) -> Self {
        debug_assert!(len <= region.len());
        Self { region, len, arena }
    }

    /// The first byte's address for the device, aligned to 4096 bytes.
    pub fn iova(&self) -> u64 {
        self.region.iova()
    }

    /// Whether the controller that `arena` is of reaches this buffer.
    #[inline]
    pub(crate) fn belongs_to(&self, arena: &Arena) -> bool {
        self.arena.is(arena)
    }
}

/// Opens the window of `slot` on `len` bytes of `buffer` from `offset` on; `None` if that cannot be, or if it is no heap
/// memory.
///
/// The caller keeps the buffer, untouched, until it has closed the window, and leaks it if it cannot close it.
#[inline]
pub(crate) fn map_part(
    windows: &mut dyn Windows,
    slot: u16,
    buffer: &mut Buffer,
    offset: usize,
    len: usize,
) -> Option<u64> {
    let Buffer::Heap { bytes, offset: data } = buffer else {
        return None;
    };
    let start = data.checked_add(offset)?;
    if start.checked_add(len)? > bytes.len() {
        return None;
    }
    // No slice is made of the bytes: other parts of the same buffer may be the device's at this moment.
    let memory = bytes.as_mut_ptr().wrapping_add(start);
    // SAFETY: inside the allocation, as checked. The buffer is owned by the request, the request by its queue, and the
    // queue closes the window (or leaks the buffer) before it gives the buffer back; see `IoQueue::complete`,
    // `IoQueue::abandon` and its `Drop`.
    unsafe { windows.map(slot, memory, len) }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the arena gave these bytes to this buffer alone, they are initialised (regions start zeroed), and
        // the driver holds the buffer by value while a command is out on it.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr(), self.len) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `&mut self` is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.region.as_ptr(), self.len) }
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        self.arena.free(&self.region);
    }
}

impl fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaBuffer({:#x}, {} bytes)", self.iova(), self.len)
    }
}

/// Where a request's data is. It moves into the driver with the request and comes back with the answer.
#[derive(Debug, Default)]
pub enum Buffer {
    /// No data.
    #[default]
    None,
    /// Memory of the driver's own, from [`Controller::allocate`](crate::Controller::allocate): never copied.
    Dma(DmaBuffer),
    /// Anybody's memory: the data is `bytes[offset..]`. Copied only if the backend cannot map it, or if zero copy is
    /// off, or if it does not start at a multiple of 4 bytes.
    Heap {
        /// The allocation.
        bytes: Vec<u8>,
        /// Where in it the data starts, in bytes.
        offset: usize,
    },
    /// A client's own command with its data, for [`Op::Passthrough`](crate::Op::Passthrough). Always copied.
    Passthrough(Box<Passthrough>),
}

impl Buffer {
    /// Heap memory whose data starts at its first byte.
    pub fn heap(bytes: Vec<u8>) -> Self {
        Self::Heap { bytes, offset: 0 }
    }

    /// The data.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Dma(buffer) => buffer,
            Self::Heap { bytes, offset } => bytes.get(*offset..).unwrap_or(&[]),
            Self::Passthrough(command) => &command.data,
        }
    }

    /// The data.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::None => &mut [],
            Self::Dma(buffer) => buffer,
            Self::Heap { bytes, offset } => bytes.get_mut(*offset..).unwrap_or(&mut []),
            Self::Passthrough(command) => &mut command.data,
        }
    }

    /// Bytes of data.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Dma(buffer) => buffer.len,
            Self::Heap { bytes, offset } => bytes.len().saturating_sub(*offset),
            Self::Passthrough(command) => command.data.len(),
        }
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
