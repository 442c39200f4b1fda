//! Doorbells in host memory (Base 2.0, section 5.8, Doorbell Buffer Config): the host writes a doorbell there, and the real
//! one only if the device asked for it by the event index.

use std::sync::atomic::{Ordering, fence};

use crate::host::{DmaFault, HostMemory};
use crate::rings::{CompletionQueue, SubmissionQueue};

/// The two buffers, each laid out like the doorbell registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shadow {
    /// Shadow doorbells: written by the host.
    pub doorbells: u64,
    /// Event indexes: written by the device.
    pub event_indexes: u64,
    /// One doorbell is `1 << stride_shift` bytes from the next.
    pub stride_shift: u32,
    /// Length of each buffer: one memory page.
    pub len_bytes: u64,
}

impl Shadow {
    /// Whether doorbell `index` lies in the buffers. One beyond is in BAR0 as ever.
    pub fn covers(&self, index: usize) -> bool {
        (index as u64 + 1) << self.stride_shift <= self.len_bytes
    }

    /// The value of doorbell `index`, which is covered.
    pub fn doorbell(&self, memory: &dyn HostMemory, index: usize) -> Result<u32, DmaFault> {
        memory.load_u32(self.at(self.doorbells, index))
    }

    /// Asks the host to ring each doorbell at its next step. True if a doorbell has moved since the device looked last:
    /// then the host may have gone by without ringing, and the device must look again.
    pub fn arm(
        &self,
        memory: &dyn HostMemory,
        sqs: &[SubmissionQueue],
        cqs: &[CompletionQueue],
    ) -> Result<bool, DmaFault> {
        let known = || {
            let tails = sqs.iter().map(|sq| (usize::from(sq.qid) * 2, sq.tail()));
            let heads = cqs.iter().map(|cq| (usize::from(cq.qid) * 2 + 1, cq.head()));
            tails.chain(heads).filter(|(index, _)| self.covers(*index))
        };
        for (index, pointer) in known() {
            memory.store_u32(self.at(self.event_indexes, index), pointer.at())?;
        }
        // The host does the same the other way round: writes the doorbell, fences, reads the event index.
        fence(Ordering::SeqCst);
        for (index, pointer) in known() {
            if self.doorbell(memory, index)? != pointer.seen() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn at(&self, buffer: u64, index: usize) -> u64 {
        buffer.wrapping_add((index as u64) << self.stride_shift)
    }
}
