//! Where a command's data is in host memory: PRPs and SGLs, walked into a flat list of segments.
//!
//! [`map`] reads the data pointer of a command (and the lists it points to) and fills a [`Scratch`] with segments that
//! add up to exactly the length wanted; neighbouring pages become one segment. [`Cursor`] then moves bytes along them.

mod prp;
mod sgl;

use nvme_spec::{Direction, Status, SubmissionEntry, entry};

use crate::host::HostMemory;

/// A contiguous piece of host memory, or a hole that takes bytes and forgets them (an SGL bit bucket).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First bus address. Means nothing in a hole.
    pub address: u64,
    /// Length in bytes; never 0.
    pub len_bytes: u64,
    /// The bytes that go here go nowhere.
    pub is_hole: bool,
}

/// Working memory for one thread of the device, reused from command to command so that none allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) segments: Vec<Segment>,
    /// One page of a PRP list, or one stretch of an SGL segment, as read from the host.
    list: Vec<u8>,
    /// Data on its way where it cannot be moved directly.
    pub(crate) bounce: Vec<u8>,
    /// A second one, for commands that hold two pieces of data against each other.
    pub(crate) other: Vec<u8>,
}

impl Scratch {
    /// Empty; it grows to what the commands need and stays there.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the data of the last command mapped is.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Moves along the segments from their beginning, as long as this command is the last that was mapped.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor::new(&self.segments)
    }

    /// Overwrites the last command's data in host memory from `offset_bytes` on; what would lie beyond its end is left
    /// out.
    pub fn overwrite(&self, memory: &dyn HostMemory, offset_bytes: u64, bytes: &[u8]) -> Result<(), Status> {
        let mut cursor = self.cursor();
        cursor.skip(offset_bytes);
        let fits = usize::try_from(cursor.remaining_bytes())
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        cursor.scatter(memory, bytes.get(..fits).unwrap_or_default())
    }

    /// Adds a piece of memory, as part of the segment before it where they touch.
    fn push(&mut self, address: u64, len_bytes: u64) {
        if let Some(last) = self.segments.last_mut()
            && !last.is_hole
            && last.address.checked_add(last.len_bytes) == Some(address)
        {
            last.len_bytes += len_bytes;
        } else {
            self.segments.push(Segment {
                address,
                len_bytes,
                is_hole: false,
            });
        }
    }
}

/// What the data pointer has to say, and what the controller supports of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataPointer {
    /// Host page size in bytes, from CC.MPS: a power of two, 4096 at the least.
    pub page_bytes: u64,
    /// Whether SGLs are supported for this command.
    pub sgl: bool,
}

/// Walks the data pointer of `entry` into `scratch`, for a transfer of `len_bytes` (0 = none, the pointer is not
/// looked at).
///
/// The segments add up to `len_bytes` if this succeeds. On an error nothing has been moved. The work is bounded by
/// `len_bytes` for PRPs and by a fixed number of descriptors for SGLs, whatever the lists contain.
pub fn map(
    entry: &SubmissionEntry,
    len_bytes: u64,
    direction: Direction,
    pointer: DataPointer,
    memory: &dyn HostMemory,
    scratch: &mut Scratch,
) -> Result<(), Status> {
    scratch.segments.clear();
    if len_bytes == 0 {
        return Ok(());
    }
    match entry.psdt() {
        entry::PSDT_PRP => prp::walk(entry, len_bytes, pointer.page_bytes, memory, scratch),
        entry::PSDT_SGL_MPTR_BUFFER | entry::PSDT_SGL_MPTR_SGL if pointer.sgl => {
            sgl::walk(entry.sgl1(), len_bytes, direction, memory, scratch)
        }
        _ => Err(refused(Status::INVALID_FIELD)),
    }
}

/// What the host did wrong it should not try again as it is.
pub(crate) fn refused(status: Status) -> Status {
    status.with_dnr(true)
}

/// Moves bytes along segments, in order.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    segments: &'a [Segment],
    /// Bytes of the first segment that are dealt with.
    done_bytes: u64,
}

impl<'a> Cursor<'a> {
    /// At the beginning of the first segment.
    #[must_use]
    pub fn new(segments: &'a [Segment]) -> Self {
        Self {
            segments,
            done_bytes: 0,
        }
    }

    /// Bytes to the end of the last segment.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        let total: u64 = self.segments.iter().map(|segment| segment.len_bytes).sum();
        total.saturating_sub(self.done_bytes)
    }

    /// Leaves out the next `len_bytes`.
    pub fn skip(&mut self, mut len_bytes: u64) {
        while let Some((piece, _)) = self.next(len_bytes) {
            len_bytes -= piece.len_bytes;
        }
    }

    /// Copies `from` to the host, at the next `from.len()` bytes.
    #[inline]
    pub fn scatter(&mut self, memory: &dyn HostMemory, mut from: &[u8]) -> Result<(), Status> {
        while !from.is_empty() {
            let (piece, len) = self.next(from.len() as u64).ok_or(Status::INTERNAL_ERROR)?;
            let (now, later) = from.split_at_checked(len).ok_or(Status::INTERNAL_ERROR)?;
            if !piece.is_hole {
                memory
                    .write(piece.address, now)
                    .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            }
            from = later;
        }
        Ok(())
    }

    /// Fills `into` from the host, from the next `into.len()` bytes. Holes read as zeroes.
    #[inline]
    pub fn gather(&mut self, memory: &dyn HostMemory, mut into: &mut [u8]) -> Result<(), Status> {
        while !into.is_empty() {
            let (piece, len) = self.next(into.len() as u64).ok_or(Status::INTERNAL_ERROR)?;
            let (now, later) = into.split_at_mut_checked(len).ok_or(Status::INTERNAL_ERROR)?;
            if piece.is_hole {
                now.fill(0);
            } else {
                memory
                    .read(piece.address, now)
                    .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            }
            into = later;
        }
        Ok(())
    }

    /// Takes up to `at_most` bytes that lie together. `None` at the end, or if nothing is wanted.
    #[inline]
    fn next(&mut self, at_most: u64) -> Option<(Segment, usize)> {
        let (first, rest) = self.segments.split_first()?;
        let len_bytes = (first.len_bytes - self.done_bytes).min(at_most);
        if len_bytes == 0 {
            return None;
        }
        let piece = Segment {
            address: first.address.wrapping_add(self.done_bytes),
            len_bytes,
            is_hole: first.is_hole,
        };
        self.done_bytes += len_bytes;
        if self.done_bytes == first.len_bytes {
            self.segments = rest;
            self.done_bytes = 0;
        }
        Some((piece, usize::try_from(len_bytes).ok()?))
    }
}

#[cfg(test)]
mod tests;
