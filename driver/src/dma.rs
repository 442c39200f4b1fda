//! Memory that the controller reaches by DMA: regions, and buffers for callers.

#![allow(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(crate) mod arena;
#[allow(
    clippy::indexing_slicing,
    reason = "pages by numbers of the pool's own, several times per command"
)]
pub(crate) mod pages;
pub(crate) mod registered;
pub(crate) mod runs;
pub(crate) mod shared;

use crate::backend::{Mapping, MemoryOf, Windows};
use crate::passthrough::Passthrough;
use arena::Arena;

pub(crate) use registered::Held;
pub use registered::{Places, RegisteredBuffer, RegisteredMemory, Registration};
pub use shared::SharedMemory;

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
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) {
        self.copy_in(offset, value.as_bytes());
    }

    /// Copies a value out from `offset`.
    ///
    /// # Panics
    /// If it is not inside.
    #[inline]
    pub fn read<T: FromBytes>(&self, offset: usize) -> T {
        assert!(self.check(offset, size_of::<T>()).is_some());
        // SAFETY: inside, as asserted; any bytes are a `T`.
        unsafe { self.base.add(offset).cast::<T>().read_unaligned() }
    }

    /// Copies `from` to `offset`.
    ///
    /// # Panics
    /// If it does not fit.
    #[inline]
    pub fn copy_in(&self, offset: usize, from: &[u8]) {
        // SAFETY: a slice is valid, and cannot overlap since no references into the region exist.
        unsafe { self.copy_in_raw(offset, from.as_ptr(), from.len()) }
    }

    /// Copies `len` bytes from `from` to `offset`.
    ///
    /// # Panics
    /// If they do not fit.
    ///
    /// # Safety
    /// They must be valid for reads, and not in this region.
    #[inline]
    unsafe fn copy_in_raw(&self, offset: usize, from: *const u8, len: usize) {
        assert!(self.check(offset, len).is_some());
        // SAFETY: inside, as asserted, and by the contract.
        unsafe { self.base.add(offset).as_ptr().copy_from_nonoverlapping(from, len) }
    }

    /// Copies from `offset` to `into`.
    ///
    /// # Panics
    /// If it is not all inside.
    #[inline]
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) {
        // SAFETY: a slice is valid, and cannot overlap since no references into the region exist.
        unsafe { self.copy_out_raw(offset, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `len` bytes from `offset` to `into`.
    ///
    /// # Panics
    /// If they are not all inside.
    ///
    /// # Safety
    /// `into` must be valid for as many writes, and not in this region.
    #[inline]
    unsafe fn copy_out_raw(&self, offset: usize, into: *mut u8, len: usize) {
        assert!(self.check(offset, len).is_some());
        // SAFETY: inside, as asserted, and by the contract.
        unsafe { self.base.add(offset).as_ptr().copy_to_nonoverlapping(into, len) }
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
    pub fn load_u32(&self, offset: usize) -> u32 {
        assert!(self.check(offset, 4).is_some() && (self.base.as_ptr() as usize + offset).is_multiple_of(4));
        // SAFETY: inside and aligned, as asserted; accessed only atomically or by the device.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()).load(Ordering::Acquire) }
    }

    /// Writes the 32-bit word at `offset`, so that the device sees what was written before it first.
    ///
    /// # Panics
    /// If it is not inside or not aligned.
    #[inline]
    pub(crate) fn store_u32(&self, offset: usize, value: u32) {
        assert!(self.check(offset, 4).is_some() && (self.base.as_ptr() as usize + offset).is_multiple_of(4));
        // SAFETY: inside and aligned, as asserted; accessed only atomically or by the device.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()).store(value, Ordering::Release) }
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

/// Memory of a client's that the system lends this process for one call: mapped here, pinned, and gone when the call has
/// been answered.
///
/// The client may change it at any time, so there is no reference into it: bytes are copied in and out, or moved by the
/// device.
pub struct Lent {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an address and a length; the contract of `new` makes the bytes valid on every thread.
unsafe impl Send for Lent {}

impl Lent {
    /// The `len` bytes at `start`.
    ///
    /// # Safety
    /// They must be valid for reads, and for writes if anything is to be put there, for as long as this is used; and whoever
    /// has it must not use it any more when the call is answered.
    pub unsafe fn new(start: NonNull<u8>, len: usize) -> Self {
        Self { start, len }
    }

    /// `bytes`, for ever, lent twice: to be given away, and to be looked at.
    #[cfg(any(test, feature = "fuzzing"))]
    #[allow(dead_code)]
    pub(crate) fn leaked(bytes: Vec<u8>) -> (Self, Self) {
        let bytes = bytes.leak();
        let (start, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        (Self { start, len }, Self { start, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `from` to `offset`, or as much of it as there is room for; says how much.
    pub fn copy_in(&mut self, offset: usize, from: &[u8]) -> usize {
        let len = self.len.saturating_sub(offset).min(from.len());
        if len > 0 {
            // SAFETY: inside the memory, which is valid by the contract of `new`; `from` is elsewhere, since nobody has a
            // reference to what is lent.
            unsafe {
                self.start
                    .as_ptr()
                    .add(offset)
                    .copy_from_nonoverlapping(from.as_ptr(), len)
            };
        }
        len
    }

    /// Copies from `offset` to `into`, or as much as there is; says how much.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> usize {
        let len = self.len.saturating_sub(offset).min(into.len());
        if len > 0 {
            // SAFETY: as for `copy_in`.
            unsafe {
                self.start
                    .as_ptr()
                    .add(offset)
                    .copy_to_nonoverlapping(into.as_mut_ptr(), len)
            };
        }
        len
    }

    /// All of it.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_out(0, &mut bytes);
        bytes
    }

    /// The first `len` bytes, or all if there are not as many.
    pub fn shortened(self, len: usize) -> Self {
        Self {
            len: self.len.min(len),
            ..self
        }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({} bytes)", self.len)
    }
}

/// Opens the window of `slot` on `len` bytes of `buffer` from `offset` on; `None` if that cannot be, or if it is neither
/// heap memory nor lent.
///
/// The caller keeps the buffer, untouched, until it has closed the window, and leaks it if it cannot close it.
#[inline]
pub(crate) fn map_part<'a>(
    windows: &'a mut dyn Windows,
    slot: u16,
    buffer: &mut Buffer,
    offset: usize,
    len: usize,
) -> Option<Mapping<'a>> {
    // No slice is made of the bytes: other parts of the same buffer may be the device's at this moment.
    let (memory, all_bytes, start, of) = match buffer {
        Buffer::Heap { bytes, offset: data } => {
            let start = data.checked_add(offset)?;
            (bytes.as_mut_ptr(), bytes.len(), start, MemoryOf::Process)
        }
        Buffer::Lent(lent) => (lent.start.as_ptr(), lent.len, offset, MemoryOf::Client),
        _ => return None,
    };
    if start.checked_add(len)? > all_bytes {
        return None;
    }
    // SAFETY: inside the memory, as checked. The buffer is owned by the request, the request by its queue, and the
    // queue closes the window (or leaks the buffer, or what is lent with the duty to answer) before it gives the buffer
    // back; see `IoQueue::complete`, `IoQueue::abandon` and its `Drop`.
    unsafe { windows.map(slot, memory.wrapping_add(start), len, of) }
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
    /// A client's memory for the time of its call. Copied only where the backend cannot map it, as for
    /// [`Buffer::Heap`]. It shows no slice.
    Lent(Lent),
    /// A part of memory that was [registered](crate::Driver::register). Copied only where the backend could not tell its
    /// device of it, if zero copy is off, or if it does not start at a multiple of 4 bytes. It shows no slice.
    Registered(RegisteredBuffer),
    /// A client's own command with its data, for [`Op::Passthrough`](crate::Op::Passthrough). Always copied.
    Passthrough(Box<Passthrough>),
}

impl Buffer {
    /// Heap memory whose data starts at its first byte.
    pub fn heap(bytes: Vec<u8>) -> Self {
        Self::Heap { bytes, offset: 0 }
    }

    /// The data; nothing if it is [`Buffer::Lent`] or [`Buffer::Registered`].
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::None | Self::Lent(_) | Self::Registered(_) => &[],
            Self::Dma(buffer) => buffer,
            Self::Heap { bytes, offset } => bytes.get(*offset..).unwrap_or(&[]),
            Self::Passthrough(command) => &command.data,
        }
    }

    /// The data; nothing if it is [`Buffer::Lent`] or [`Buffer::Registered`].
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::None | Self::Lent(_) | Self::Registered(_) => &mut [],
            Self::Dma(buffer) => buffer,
            Self::Heap { bytes, offset } => bytes.get_mut(*offset..).unwrap_or(&mut []),
            Self::Passthrough(command) => &mut command.data,
        }
    }

    /// Copies the part `range` of the data to `offset` of `region`, if it is all there.
    pub(crate) fn copy_to(&self, range: Range<usize>, region: &Region, offset: usize) {
        match self {
            Self::Lent(lent) if range.end <= lent.len && range.start <= range.end => {
                // SAFETY: inside the memory, as checked, and valid by the contract of `Lent::new`.
                unsafe { region.copy_in_raw(offset, lent.start.as_ptr().add(range.start), range.len()) }
            }
            Self::Registered(buffer) => buffer.copy_to_region(range, region, offset),
            _ => {
                if let Some(from) = self.as_slice().get(range) {
                    region.copy_in(offset, from);
                }
            }
        }
    }

    /// Copies from `offset` of `region` to the part `range` of the data, if it is all there.
    pub(crate) fn copy_from(&mut self, range: Range<usize>, region: &Region, offset: usize) {
        match self {
            Self::Lent(lent) if range.end <= lent.len && range.start <= range.end => {
                // SAFETY: as for `copy_to`.
                unsafe { region.copy_out_raw(offset, lent.start.as_ptr().add(range.start), range.len()) }
            }
            Self::Registered(buffer) => buffer.copy_from_region(range, region, offset),
            _ => {
                if let Some(into) = self.as_mut_slice().get_mut(range) {
                    region.copy_out(offset, into);
                }
            }
        }
    }

    /// Bytes of data.
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Dma(buffer) => buffer.len,
            Self::Heap { bytes, offset } => bytes.len().saturating_sub(*offset),
            Self::Lent(lent) => lent.len,
            Self::Registered(buffer) => buffer.len(),
            Self::Passthrough(command) => command.data.len(),
        }
    }

    /// Whether there is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
