//! What is looked at before a request is taken.

use super::IoQueue;
use crate::dma::Buffer;
use crate::error::IoError;
use crate::namespace::Namespace;
use crate::passthrough::shape;
use crate::request::{Op, Request};

impl<T> IoQueue<T> {
    /// The place of the namespace that a request is for.
    ///
    /// # Errors
    /// Why the request cannot be done as it is.
    #[inline]
    pub(crate) fn place_for(&self, request: &Request<T>) -> Result<usize, IoError> {
        let namespace = self
            .namespaces
            .iter()
            .position(|namespace| namespace.nsid == request.nsid)
            .ok_or(IoError::NoNamespace)?;
        let Namespace {
            blocks, lba_shift, ..
        } = self.namespaces[namespace];
        if !self.namespaces[namespace].is_usable() {
            return Err(IoError::Unusable);
        }
        match request.op {
            Op::Flush => return Ok(namespace),
            Op::Passthrough => return self.check_passthrough(request, lba_shift).map(|()| namespace),
            _ => {}
        }
        if request.blocks == 0 {
            return Err(IoError::Empty);
        }
        if request.slba >= blocks || request.blocks > blocks - request.slba {
            return Err(IoError::OutOfRange);
        }
        // Cannot overflow: the namespace's bytes fit 64 bits.
        if request.op.has_data() && (request.buffer.len() as u64) < request.blocks << lba_shift {
            return Err(IoError::BufferTooSmall);
        }
        Ok(namespace)
    }

    #[cold]
    fn check_passthrough(&self, request: &Request<T>, lba_shift: u32) -> Result<(), IoError> {
        let Buffer::Passthrough(command) = &request.buffer else {
            return Err(IoError::NotAllowed);
        };
        let data_bytes = command.data.len();
        let fits =
            shape(&command.entry, lba_shift).is_some_and(|shape| shape.data_bytes == data_bytes as u64);
        if fits && data_bytes <= self.limits.max_transfer_bytes {
            Ok(())
        } else {
            Err(IoError::NotAllowed)
        }
    }

    /// Whether the namespace in this place is `nsid` still. What has that number next stands in another place.
    #[inline]
    pub(crate) fn is_still(&self, place: usize, nsid: u32) -> bool {
        self.namespaces
            .get(place)
            .is_some_and(|namespace| namespace.nsid == nsid)
    }

    /// The block size, as the exponent of a power of two, and the size in bytes of a namespace that can be used.
    #[inline]
    pub(crate) fn shape_of(&self, nsid: u32) -> Option<(u32, u64)> {
        let namespace = self.namespaces.iter().find(|namespace| namespace.nsid == nsid)?;
        let shape = (namespace.lba_shift, namespace.blocks << namespace.lba_shift);
        namespace.is_usable().then_some(shape)
    }
}
