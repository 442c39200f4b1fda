//! Memory that two processes share: the pages of a ring, and the data that moves through it.
//!
//! Whoever has it may change it at any time, and may be up to no good. So there is no reference into it but to atomic
//! words; all else is copied in and out, and what was copied out is what is looked at.

use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(not(any(target_os = "linux", target_os = "redox")))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "redox")]
mod redox;

#[cfg(not(any(target_os = "linux", target_os = "redox")))]
use elsewhere::Origin;
#[cfg(target_os = "linux")]
use linux::Origin;
#[cfg(target_os = "redox")]
use redox::Origin;

/// What lengths are a multiple of.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Zeroed at first, mapped to be read and written, all of it there for as long as this is alive, whatever others do.
pub struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    origin: Origin,
}

// SAFETY: an address and a length; all access goes through methods that copy or are atomic.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

#[cfg_attr(not(feature = "io-uring-compat"), allow(dead_code, reason = "for rings"))]
impl SharedMemory {
    /// The longest there is.
    pub const MAX_BYTES: usize = 1 << 30;

    /// New memory of `len_bytes` rounded up to whole pages, to be shared with a driver.
    ///
    /// # Errors
    /// None at all or more than [`SharedMemory::MAX_BYTES`]; what the system says.
    pub fn create(len_bytes: usize) -> io::Result<Self> {
        let len = len_bytes
            .checked_next_multiple_of(PAGE_BYTES)
            .unwrap_or(usize::MAX);
        Origin::create(checked(len)?)
    }

    /// Memory that the process of thread `pid`, which is user `uid`'s, knows under the number `descriptor`, `len_bytes` long.
    ///
    /// # Errors
    /// `EACCES` if that process could not write to it itself or is another user's, `EINVAL` if it is no memory of which all will stay there
    /// (see the page on rings, `docs::rings`) or has another length, and what the system says.
    #[cfg(target_os = "linux")]
    pub fn of_process(pid: u32, uid: u32, descriptor: u32, len_bytes: u64) -> io::Result<Self> {
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        Origin::of_process(pid, uid, descriptor, checked(len)?)
    }

    /// Memory that another process has made under `name`, `len_bytes` long.
    ///
    /// # Errors
    /// `EINVAL` for another length or no name, and what the system says.
    #[cfg(target_os = "redox")]
    pub fn of_name(name: &str, len_bytes: u64) -> io::Result<Self> {
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        Origin::of_name(name, checked(len)?)
    }

    /// Bytes, in whole pages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory's file, which can be made neither shorter nor longer.
    #[cfg(target_os = "linux")]
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.origin.descriptor()
    }

    /// The name under which others find it.
    #[cfg(target_os = "redox")]
    pub fn name(&self) -> &str {
        self.origin.name()
    }

    #[inline]
    fn inside(&self, offset: usize, len: usize) -> bool {
        offset <= self.len && len <= self.len - offset
    }

    /// The word at `offset`; `None` if it is not inside, or not aligned.
    #[inline]
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU32> {
        if !self.inside(offset, 4) || !offset.is_multiple_of(4) {
            return None;
        }
        // SAFETY: inside and aligned, as checked (the mapping begins with a page), valid for as long as `self` is, and
        // accessed by copies and atomically only.
        Some(unsafe { AtomicU32::from_ptr(self.base.add(offset).cast().as_ptr()) })
    }

    /// A copy of the `N` words from `offset` on; `None` if they are not inside, or not aligned.
    #[inline]
    pub(crate) fn load<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        if !self.inside(offset, N * 8) || !offset.is_multiple_of(8) {
            return None;
        }
        let words = self.base.as_ptr().wrapping_add(offset).cast::<u64>();
        // SAFETY: as for `word`.
        let word = |index| unsafe { AtomicU64::from_ptr(words.wrapping_add(index)) };
        Some(std::array::from_fn(|index| word(index).load(Ordering::Relaxed)))
    }

    /// Puts `words` at `offset`; `None` if they do not fit there, or it is not aligned.
    #[inline]
    pub(crate) fn store<const N: usize>(&self, offset: usize, words: [u64; N]) -> Option<()> {
        if !self.inside(offset, N * 8) || !offset.is_multiple_of(8) {
            return None;
        }
        let into = self.base.as_ptr().wrapping_add(offset).cast::<u64>();
        for (index, value) in words.into_iter().enumerate() {
            // SAFETY: as for `word`.
            unsafe { AtomicU64::from_ptr(into.wrapping_add(index)) }.store(value, Ordering::Relaxed);
        }
        Some(())
    }

    /// Copies `from` to `offset`; false, with nothing done, if it does not fit.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> bool {
        let fits = self.inside(offset, from.len());
        if fits {
            // SAFETY: inside, as checked; a slice is elsewhere, since no references into this memory exist.
            unsafe {
                self.at(offset)
                    .copy_from_nonoverlapping(from.as_ptr(), from.len())
            }
        }
        fits
    }

    /// Copies from `offset` to `into`; false, with nothing done, if there is not as much.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> bool {
        let fits = self.inside(offset, into.len());
        if fits {
            // SAFETY: as for `copy_in`.
            unsafe {
                self.at(offset)
                    .copy_to_nonoverlapping(into.as_mut_ptr(), into.len())
            }
        }
        fits
    }

    /// The address of the byte at `offset`, which is to be inside.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(offset)
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedMemory({} bytes)", self.len)
    }
}

/// `len`, if memory may be as long.
fn checked(len: usize) -> io::Result<usize> {
    if len == 0 || len > SharedMemory::MAX_BYTES || !len.is_multiple_of(PAGE_BYTES) {
        let what = format!(
            "shared memory of {len} bytes: it takes whole pages of {PAGE_BYTES}, and at most {}",
            SharedMemory::MAX_BYTES
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_inside_or_not_aligned_is_not_touched() {
        let memory = SharedMemory::create(5000).unwrap();
        assert_eq!(memory.len(), 8192);
        assert!(memory.copy_in(8190, &[1, 2]));
        let mut bytes = [0; 2];
        assert!(memory.copy_out(8190, &mut bytes));
        assert_eq!(bytes, [1, 2]);
        assert!(!memory.copy_in(8191, &[0; 2]) && !memory.copy_out(usize::MAX, &mut bytes));
        assert!(memory.word(8188).is_some());
        for offset in [2, 8190, 8192, usize::MAX - 3] {
            assert!(memory.word(offset).is_none(), "{offset}");
        }
        assert_eq!(memory.store(8176, [3, 4]), Some(()));
        assert_eq!(memory.load(8176), Some([3_u64, 4]));
        for offset in [4, 8184, 8192, usize::MAX - 7] {
            assert_eq!(memory.load::<2>(offset), None, "{offset}");
            assert_eq!(memory.store(offset, [0_u64; 2]), None, "{offset}");
        }
        for len in [0, SharedMemory::MAX_BYTES + 1, usize::MAX] {
            assert!(SharedMemory::create(len).is_err(), "{len}");
        }
    }
}
