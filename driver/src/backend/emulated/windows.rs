//! Windows onto callers' memory: what the emulated device reaches there, while they are open.

use std::ptr::NonNull;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use nvme_emulator::DmaFault;

use super::{Memory, Open};
use crate::backend::{Mapping, MemoryOf, Windows};

/// From this address on.
pub(super) const BASE: u64 = 1 << 46;
const SHIFT: u32 = 23;
const SLOT_BITS: u32 = 12;
const QUEUE_BITS: u32 = 10;
/// A mapping may be this long, so that with an offset within the first page it stays inside its window.
const MAX_BYTES: usize = 4 << 20;
const PAGE_MASK: usize = 4095;

/// Windows for `slots` commands of queue `qid`.
pub(super) fn open(memory: &Arc<Memory>, qid: u16, slots: usize) -> Option<Box<dyn Windows>> {
    if slots > 1 << SLOT_BITS {
        return None;
    }
    let of_queue = memory.windows.0.get(usize::from(qid))?;
    of_queue.get_or_init(|| (0..1 << SLOT_BITS).map(|_| RwLock::default()).collect());
    Some(Box::new(EmulatedWindows {
        memory: Arc::clone(memory),
        qid,
    }))
}

/// One slot's window; `None` while it is closed.
type Window = RwLock<Option<Open>>;

/// The windows of all queues that have any.
pub(super) struct Table(Box<[OnceLock<Box<[Window]>>]>);

impl Table {
    pub(super) fn new() -> Self {
        Self((0..1 << QUEUE_BITS).map(|_| OnceLock::new()).collect())
    }

    /// As [`Memory::with`], of an address from [`BASE`] on.
    #[inline(never)]
    pub(super) fn with<R>(
        &self,
        address: u64,
        len: usize,
        access: impl FnOnce(*mut u8) -> R,
    ) -> Result<R, DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: len as u64,
        };
        let rest = address.checked_sub(BASE).ok_or(fault)?;
        let offset = (rest & ((1 << SHIFT) - 1)) as usize;
        let slot = (rest >> SHIFT) as usize & ((1 << SLOT_BITS) - 1);
        let qid = (rest >> (SHIFT + SLOT_BITS)) as usize;
        let window = self
            .0
            .get(qid)
            .and_then(OnceLock::get)
            .and_then(|slots| slots.get(slot))
            .ok_or(fault)?;
        // Held during the copy: whoever closes the window waits for it, so the memory cannot go away under it.
        let window = window.read().unwrap_or_else(PoisonError::into_inner);
        let mapping = window.as_ref().ok_or(fault)?;
        let within = offset
            .checked_sub(mapping.memory.as_ptr() as usize & PAGE_MASK)
            .and_then(|offset| mapping.at(offset, len));
        within.map(access).ok_or(fault)
    }
}

struct EmulatedWindows {
    memory: Arc<Memory>,
    qid: u16,
}

impl EmulatedWindows {
    fn set(&self, slot: u16, mapping: Option<Open>) -> Option<()> {
        let of_queue = self.memory.windows.0.get(usize::from(self.qid))?;
        let window = of_queue.get()?.get(usize::from(slot))?;
        *window.write().unwrap_or_else(PoisonError::into_inner) = mapping;
        Some(())
    }
}

impl Windows for EmulatedWindows {
    unsafe fn map(&mut self, slot: u16, memory: *mut u8, len: usize, _of: MemoryOf) -> Option<Mapping<'_>> {
        let address = memory as usize;
        if len > MAX_BYTES || !address.is_multiple_of(4) {
            return None;
        }
        self.set(
            slot,
            Some(Open {
                memory: NonNull::new(memory)?,
                len,
            }),
        )?;
        let place = (u64::from(self.qid) << SLOT_BITS) | u64::from(slot);
        let start = BASE + (place << SHIFT) + (address & PAGE_MASK) as u64;
        Some(Mapping::Contiguous(start))
    }

    fn unmap(&mut self, slot: u16) {
        self.set(slot, None);
    }
}

#[cfg(test)]
mod tests {
    use nvme_emulator::HostMemory;

    use super::*;

    #[test]
    fn a_window_shows_a_callers_memory_until_it_is_closed() {
        let memory = Arc::new(Memory::new());
        let mut windows = open(&memory, 3, 16).unwrap();
        let mut bytes = vec![0u32; 4096];
        let start = bytes.as_mut_ptr().cast::<u8>();
        // SAFETY: `bytes` outlives the mapping and is not touched until it is closed.
        let mapped = unsafe { windows.map(5, start, 16384, MemoryOf::Process) };
        let Some(Mapping::Contiguous(address)) = mapped else {
            panic!("{mapped:?}")
        };
        assert_eq!(address as usize & PAGE_MASK, start as usize & PAGE_MASK);
        memory.write(address + 16382, &[8, 9]).unwrap();
        assert!(memory.write(address + 16383, &[0, 0]).is_err());
        assert!(memory.read(address - 1, &mut [0]).is_err());
        windows.unmap(5);
        assert!(memory.write(address, &[0]).is_err());
        assert_eq!(bytes[4095] >> 16, 0x0908);
        // SAFETY: never used by the device: the address is refused.
        let mapped = unsafe { windows.map(5, start.add(1), 8, MemoryOf::Process) };
        assert_eq!(mapped, None, "not a multiple of 4");
    }
}
