//! Scatter Gather Lists (Base 2.0, section 4.1.2).

use nvme_spec::{Direction, SglDescriptor, SglKind, Status};
use zerocopy::FromBytes;

use super::{Scratch, Segment, refused};
use crate::host::HostMemory;

/// Bytes of one descriptor.
const DESCRIPTOR_BYTES: usize = 16;

/// Descriptors that one command may use, so that a list that never ends (it may point to itself) does.
const MAX_DESCRIPTORS: u64 = 1 << 16;

/// Descriptors read from the host at once.
const BATCH: u64 = 256;

/// Which segment the descriptors come from: that decides what may stand at its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the command itself.
    Command,
    /// In a segment that is followed by another.
    Middle,
    /// In the last segment.
    Last,
}

/// Fills `scratch` with the data blocks of a transfer of `len_bytes` > 0.
pub(super) fn walk(
    first: SglDescriptor,
    len_bytes: u64,
    direction: Direction,
    memory: &dyn HostMemory,
    scratch: &mut Scratch,
) -> Result<(), Status> {
    let mut walk = Walk {
        scratch,
        rest_bytes: len_bytes,
        direction,
    };
    let mut pointer = walk.take(first, Place::Command, true)?;
    // Taken out, so that descriptors can be read from it while segments are added.
    let mut buffer = std::mem::take(&mut walk.scratch.list);
    let mut descriptors = 0;
    let outcome = loop {
        let Some((address, length_bytes, place)) = pointer else {
            break Ok(());
        };
        descriptors += u64::from(length_bytes) / DESCRIPTOR_BYTES as u64;
        if descriptors > MAX_DESCRIPTORS {
            break Err(refused(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
        }
        match walk.segment(address, length_bytes, place, memory, &mut buffer) {
            Ok(next) => pointer = next,
            Err(status) => break Err(status),
        }
    };
    walk.scratch.list = buffer;
    outcome?;
    // Shorter than the data: there is nowhere to put the rest.
    if walk.rest_bytes > 0 {
        Err(refused(Status::DATA_SGL_LENGTH_INVALID))
    } else {
        Ok(())
    }
}

/// Address, length in bytes and place of the next segment.
type Pointer = Option<(u64, u32, Place)>;

struct Walk<'a> {
    scratch: &'a mut Scratch,
    /// Data that no descriptor has taken yet.
    rest_bytes: u64,
    direction: Direction,
}

impl Walk<'_> {
    /// Takes all descriptors of one segment, and returns the next.
    fn segment(
        &mut self,
        mut address: u64,
        length_bytes: u32,
        place: Place,
        memory: &dyn HostMemory,
        buffer: &mut Vec<u8>,
    ) -> Result<Pointer, Status> {
        let mut left = u64::from(length_bytes) / DESCRIPTOR_BYTES as u64;
        let mut next = None;
        while left > 0 {
            let batch = left.min(BATCH);
            let batch_bytes = batch as usize * DESCRIPTOR_BYTES;
            buffer.resize(batch_bytes, 0);
            memory
                .read(address, buffer)
                .map_err(|_| Status::DATA_TRANSFER_ERROR)?;
            let (descriptors, _) = buffer.as_chunks::<DESCRIPTOR_BYTES>();
            for bytes in descriptors {
                left -= 1;
                let descriptor = SglDescriptor::read_from_bytes(bytes).unwrap_or_default();
                next = self.take(descriptor, place, left == 0)?;
            }
            if left > 0 {
                address = address
                    .checked_add(batch_bytes as u64)
                    .ok_or(Status::DATA_TRANSFER_ERROR)?;
            }
        }
        // Only the last segment may end without a pointer to another.
        if next.is_none() && place == Place::Middle {
            return Err(refused(Status::INVALID_SGL_SEGMENT_DESCRIPTOR));
        }
        Ok(next)
    }

    /// Takes one descriptor, which is the final one of its segment or not; a pointer to another segment is returned.
    fn take(&mut self, descriptor: SglDescriptor, place: Place, is_final: bool) -> Result<Pointer, Status> {
        let (address, length_bytes) = (descriptor.address.get(), descriptor.length.get());
        let kind = descriptor.kind();
        // Only addresses: offsets are for the controller memory buffer, the others for other transports.
        if descriptor.sub_type() != 0 {
            return Err(refused(Status::SGL_DESCRIPTOR_TYPE_INVALID));
        }
        match kind {
            SglKind::DATA_BLOCK => {
                self.claim(length_bytes)?;
                if length_bytes > 0 {
                    self.scratch.push(address, length_bytes.into());
                }
                Ok(None)
            }
            SglKind::BIT_BUCKET => {
                // It drops what the device sends. Towards the device it has no length, whatever it says.
                if self.direction == Direction::FromDevice && length_bytes > 0 {
                    self.claim(length_bytes)?;
                    self.scratch.segments.push(Segment {
                        address: 0,
                        len_bytes: length_bytes.into(),
                        is_hole: true,
                    });
                }
                Ok(None)
            }
            SglKind::SEGMENT | SglKind::LAST_SEGMENT => {
                if !is_final {
                    return Err(refused(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
                }
                let whole = length_bytes > 0 && (length_bytes as usize).is_multiple_of(DESCRIPTOR_BYTES);
                if place == Place::Last || !whole || !address.is_multiple_of(8) {
                    return Err(refused(Status::INVALID_SGL_SEGMENT_DESCRIPTOR));
                }
                let next = if kind == SglKind::SEGMENT {
                    Place::Middle
                } else {
                    Place::Last
                };
                Ok(Some((address, length_bytes, next)))
            }
            _ => Err(refused(Status::SGL_DESCRIPTOR_TYPE_INVALID)),
        }
    }

    /// Takes part of the data; more than there is, is an error (Identify's SGLS does not offer longer SGLs).
    fn claim(&mut self, length_bytes: u32) -> Result<(), Status> {
        self.rest_bytes = self
            .rest_bytes
            .checked_sub(length_bytes.into())
            .ok_or(refused(Status::DATA_SGL_LENGTH_INVALID))?;
        Ok(())
    }
}
