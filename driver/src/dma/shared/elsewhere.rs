//! Systems on which memory is shared within one process only.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

use super::{PAGE_BYTES, SharedMemory};

/// What is allocated.
pub(super) struct Origin(NonNull<u8>, Layout);

impl Origin {
    pub(super) fn create(len: usize) -> io::Result<SharedMemory> {
        let layout = Layout::from_size_align(len, PAGE_BYTES).map_err(io::Error::other)?;
        // SAFETY: its size is not zero, as was checked.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(io::ErrorKind::OutOfMemory)?;
        let origin = Self(base, layout);
        Ok(SharedMemory { base, len, origin })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; whoever had the address had what owns this.
        unsafe { dealloc(self.0.as_ptr(), self.1) }
    }
}
