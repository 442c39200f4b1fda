//! Clients' memory that the device has been told of.

use std::ptr::NonNull;
use std::sync::{Arc, PoisonError, RwLock};

use nvme_emulator::DmaFault;

use super::{Memory, Open};
use crate::backend::BackendError;
use crate::dma::{Places, Registration, SharedMemory};

/// Where the device sees it: number n begins at this address plus n GiB.
pub(super) const BASE: u64 = 1 << 44;
const SHIFT: u32 = 30;
const MAX_REGISTERED: usize = 1024;

/// What the device has been told of; `None` where there is room.
pub(super) struct Table(Box<[RwLock<Option<Open>>]>);

impl Table {
    pub(super) fn new() -> Self {
        Self((0..MAX_REGISTERED).map(|_| RwLock::default()).collect())
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
        let place = usize::try_from(rest >> SHIFT)
            .ok()
            .and_then(|number| self.0.get(number));
        // Held during the copy: whoever takes the memory back waits for it.
        let place = place.ok_or(fault)?.read().unwrap_or_else(PoisonError::into_inner);
        let open = place.as_ref().ok_or(fault)?;
        let offset = (rest & ((1 << SHIFT) - 1)) as usize;
        open.at(offset, len).map(access).ok_or(fault)
    }
}

impl Memory {
    pub(super) fn register(
        self: &Arc<Self>,
        memory: &Arc<SharedMemory>,
    ) -> Result<Registration, BackendError> {
        let len = memory.len();
        let start = NonNull::new(memory.at(0)).filter(|_| len <= 1 << SHIFT);
        let start = start.ok_or(BackendError::NoMemory { len_bytes: len })?;
        for (number, place) in self.registered.0.iter().enumerate() {
            let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
            if place.is_none() {
                *place = Some(Open { memory: start, len });
                drop(place);
                let lease = Box::new(Lease {
                    table: Arc::clone(self),
                    number,
                    _memory: Arc::clone(memory),
                });
                let places = Places::Contiguous(BASE + ((number as u64) << SHIFT));
                return Ok(Registration { places, lease });
            }
        }
        let what = format!("the device knows of {MAX_REGISTERED} pieces of clients' memory, and of no more");
        Err(BackendError::System(what))
    }
}

/// Keeps memory there for as long as the device knows of it.
struct Lease {
    table: Arc<Memory>,
    number: usize,
    _memory: Arc<SharedMemory>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(place) = self.table.registered.0.get(self.number) {
            // Waits for a copy that is being made: the device holds this lock meanwhile.
            *place.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use nvme_emulator::HostMemory;

    use super::*;

    #[test]
    fn the_device_reaches_what_it_was_told_of_until_that_is_taken_back() {
        let table = Arc::new(Memory::new());
        let memories: Vec<_> = (0..2)
            .map(|_| Arc::new(SharedMemory::create(8192).unwrap()))
            .collect();
        let told: Vec<_> = memories
            .iter()
            .map(|memory| table.register(memory).unwrap())
            .collect();
        let Places::Contiguous(second) = told[1].places else {
            panic!("{told:?}");
        };
        table.write(second + 8190, &[7, 8]).unwrap();
        let mut seen = [0; 2];
        assert!(memories[1].copy_out(8190, &mut seen));
        assert_eq!(seen, [7, 8]);
        for (address, len) in [
            (second + 8191, 2),
            (second + 8192, 1),
            (second - 1, 1),
            (second + (1 << SHIFT), 1),
        ] {
            assert!(table.write(address, &vec![0; len]).is_err(), "{address:#x}");
        }
        drop(told);
        assert!(table.write(second, &[0]).is_err());
        assert_eq!(Arc::strong_count(&memories[1]), 1, "nothing keeps it");
        let again = table.register(&memories[0]).unwrap();
        assert_eq!(
            again.places,
            Places::Contiguous(BASE),
            "the first place is free again"
        );
    }
}
