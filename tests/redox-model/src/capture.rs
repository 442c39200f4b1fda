//! What a client lends with a call, as it appears in the daemon: whole pages as they are, the ends in a page of their own.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use syscall::error::{EINVAL, Error, Result};

use crate::pages::{PAGE_BYTES, Pages};

/// What an empty payload's address is: nothing that can be touched.
const DANGLING: u64 = 1 << 63;

/// What is in the rest of a page that a path came in: the kernel does not clear it.
const STALE: u8 = 0xA5;

/// What the daemon may do with a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Read it: the client writes.
    Read,
    /// Write it: the client reads.
    Write,
    /// Both.
    Both,
}

/// A payload in the daemon. Gone from there when this is dropped.
pub(crate) struct Capture {
    pages: Arc<Pages>,
    /// `None` if nothing was lent.
    mapped: Option<(NonNull<u8>, usize)>,
    offset: usize,
    len_bytes: usize,
    access: Access,
}

// SAFETY: the pages are the capture's own, and reached through it by one thread at a time.
unsafe impl Send for Capture {}

impl Capture {
    /// Lends `bytes`, which lie at an address that ends in the same `offset` within a page as `bytes` does in the client.
    pub fn new(pages: &Arc<Pages>, bytes: &[u8], access: Access) -> Result<Self> {
        let offset = bytes.as_ptr() as usize % PAGE_BYTES;
        if bytes.is_empty() {
            return Ok(Self::none(pages, access));
        }
        let mut capture = Self::map(pages, bytes.len(), offset, access)?;
        let head_bytes = if offset == 0 {
            0
        } else {
            bytes.len().min(PAGE_BYTES - offset)
        };
        let whole_bytes = (bytes.len() - head_bytes) / PAGE_BYTES * PAGE_BYTES;
        let (head, rest) = bytes.split_at(head_bytes);
        let (whole, tail) = rest.split_at(whole_bytes);
        let window = capture.window_mut();
        // Whole pages are the client's own, with what is in them; the ends are copied only if they are to be read.
        window[head_bytes..head_bytes + whole_bytes].copy_from_slice(whole);
        if access != Access::Write {
            window[..head_bytes].copy_from_slice(head);
            window[head_bytes + whole_bytes..].copy_from_slice(tail);
        }
        capture.seal();
        Ok(capture)
    }

    /// Lends a path: at the start of one page, and always to be read only.
    pub fn path(pages: &Arc<Pages>, path: &[u8]) -> Result<Self> {
        if path.len() > PAGE_BYTES {
            return Err(Error::new(EINVAL));
        }
        let mut capture = Self::map(pages, PAGE_BYTES, 0, Access::Read)?;
        let window = capture.window_mut();
        window.fill(STALE);
        window[..path.len()].copy_from_slice(path);
        capture.len_bytes = path.len();
        capture.seal();
        Ok(capture)
    }

    /// Lends nothing.
    pub fn none(pages: &Arc<Pages>, access: Access) -> Self {
        Self {
            pages: Arc::clone(pages),
            mapped: None,
            offset: 0,
            len_bytes: 0,
            access,
        }
    }

    fn map(pages: &Arc<Pages>, len_bytes: usize, offset: usize, access: Access) -> Result<Self> {
        let count = (offset + len_bytes).div_ceil(PAGE_BYTES);
        let start = pages.lend(count, access != Access::Read)?;
        Ok(Self {
            pages: Arc::clone(pages),
            mapped: Some((start, count)),
            offset,
            len_bytes,
            access,
        })
    }

    /// Nobody else has the address yet.
    fn window_mut(&mut self) -> &mut [u8] {
        match self.mapped {
            // SAFETY: the pages are as many as the payload needs, writable, and nobody else's before the address is given
            // away.
            Some((start, _)) => unsafe {
                std::slice::from_raw_parts_mut(start.as_ptr().add(self.offset), self.len_bytes)
            },
            None => &mut [],
        }
    }

    fn seal(&self) {
        if let Some((start, count)) = self.mapped.filter(|_| self.access == Access::Read) {
            self.pages.make_read_only(start, count);
        }
    }

    /// Where the daemon finds it.
    pub fn address(&self) -> u64 {
        self.mapped.map_or(DANGLING, |(start, _)| {
            (start.as_ptr() as usize + self.offset) as u64
        })
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes as u64
    }

    /// Takes it back. What is in it now goes to the client, all of it, whatever the answer was; `None` if the daemon could
    /// not write it.
    pub fn finish(self) -> Option<Vec<u8>> {
        let (start, _) = self.mapped.filter(|_| self.access != Access::Read)?;
        let mut bytes = vec![0; self.len_bytes];
        // SAFETY: mapped until `self` is dropped, and `bytes` is as long. A device or thread of the daemon's that still
        // writes is wrong, and then what is copied is whatever it is.
        unsafe {
            start
                .as_ptr()
                .add(self.offset)
                .copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
        Some(bytes)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some((start, count)) = self.mapped {
            self.pages.take_back(start, count);
        }
    }
}
