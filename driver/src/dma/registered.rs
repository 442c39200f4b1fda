//! Shared memory that a device has been told of, so that data moves straight there.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Region;
use super::arena::Arena;
use super::shared::{PAGE_BYTES, SharedMemory};
use crate::backend::{BackendError, Mapping};

/// Where memory is for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Places {
    /// All in one piece from this address on.
    Contiguous(u64),
    /// Each page of 4096 bytes anywhere, in order.
    Pages(Box<[u64]>),
}

/// What a backend answers when it has told its device of memory.
pub struct Registration {
    /// Where that memory is.
    pub places: Places,
    /// Dropped, it takes the memory from the device again; if that cannot be done, it keeps the memory for ever.
    pub lease: Box<dyn Any + Send + Sync>,
}

/// Memory that one driver's controller reaches, for as long as this is alive. Where the backend cannot tell its device, data
/// goes through pages of the driver's own instead, and is counted as copied.
pub struct RegisteredMemory {
    // In this order: from the device before from here.
    registration: Option<Registration>,
    memory: Arc<SharedMemory>,
    arena: Option<Arena>,
    _held: Held,
}

/// What goes with memory: what it costs somebody, say.
pub(crate) type Held = Box<dyn Any + Send + Sync>;

impl RegisteredMemory {
    /// Tells the controller of `arena` of `memory`.
    pub(crate) fn new(memory: Arc<SharedMemory>, arena: &Arena, held: Held) -> Self {
        let registration = arena.register(&memory);
        if let Err(error) = &registration {
            log::info!("the device cannot be told of {memory:?}: {error}; its data is copied");
        }
        Self {
            registration: registration.ok(),
            memory,
            arena: Some(arena.clone()),
            _held: held,
        }
    }

    /// Memory that no device knows of: as a client has it.
    #[cfg(feature = "io-uring-compat")]
    pub(crate) fn unknown(memory: Arc<SharedMemory>) -> Self {
        Self::copied(memory, Box::new(()))
    }

    /// The same; `held` goes with the memory.
    #[cfg(feature = "io-uring-compat")]
    pub(crate) fn copied(memory: Arc<SharedMemory>, held: Held) -> Self {
        Self {
            registration: None,
            memory,
            arena: None,
            _held: held,
        }
    }

    /// The memory.
    pub fn memory(&self) -> &Arc<SharedMemory> {
        &self.memory
    }

    /// Where it is for the device, if that reaches it.
    pub fn places(&self) -> Option<&Places> {
        self.registration
            .as_ref()
            .map(|registration| &registration.places)
    }

    /// The pieces of it that the device sees in one piece, each as its address there and its part of the memory in bytes,
    /// as few as there can be and in order.
    pub fn runs(&self) -> Vec<(u64, Range<usize>)> {
        let len = self.memory.len();
        match self.places() {
            None => Vec::new(),
            Some(Places::Contiguous(start)) => vec![(*start, 0..len)],
            Some(Places::Pages(pages)) => {
                let mut runs: Vec<(u64, Range<usize>)> = Vec::new();
                for (number, address) in pages.iter().enumerate() {
                    let start = number * PAGE_BYTES;
                    match runs.last_mut() {
                        Some((first, run)) if first.checked_add(run.len() as u64) == Some(*address) => {
                            run.end += PAGE_BYTES;
                        }
                        _ => runs.push((*address, start..start + PAGE_BYTES)),
                    }
                }
                runs
            }
        }
    }

    /// Where in the memory the `len` bytes are that the device sees at `address`; `None` unless they are all in one of the
    /// [`runs`](Self::runs).
    #[cfg_attr(not(feature = "io-uring-compat"), allow(dead_code, reason = "for rings"))]
    pub(crate) fn offset_of(&self, address: u64, len: usize) -> Option<usize> {
        let within = |first: u64, bytes: usize| {
            let into = usize::try_from(address.checked_sub(first)?).ok()?;
            (into < bytes).then_some(into)
        };
        match self.places()? {
            Places::Contiguous(first) => {
                let into = within(*first, self.memory.len())?;
                (len <= self.memory.len() - into).then_some(into)
            }
            Places::Pages(pages) => {
                let mut numbered = pages.iter().enumerate();
                let (number, into) =
                    numbered.find_map(|(number, first)| Some((number, within(*first, PAGE_BYTES)?)))?;
                let needed = into.checked_add(len)?.div_ceil(PAGE_BYTES);
                let run = pages.get(number..)?.get(..needed)?;
                let side_by_side =
                    |pair: &[u64]| matches!(pair, [one, next] if one + PAGE_BYTES as u64 == *next);
                run.windows(2)
                    .all(side_by_side)
                    .then(|| number * PAGE_BYTES + into)
            }
        }
    }
}

impl fmt::Debug for RegisteredMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            memory, registration, ..
        } = self;
        write!(
            f,
            "RegisteredMemory({memory:?}, at the device: {})",
            registration.is_some()
        )
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({:?})", self.places)
    }
}

impl Arena {
    /// Tells the controller of `memory`.
    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        let registration = self.backend().register(memory)?;
        if let Places::Pages(pages) = &registration.places
            && pages.len() * PAGE_BYTES != memory.len()
        {
            let what = "the backend tells of other pages than the memory has".to_owned();
            return Err(BackendError::System(what));
        }
        Ok(registration)
    }
}

/// A part of registered memory, as the buffer of a request. The memory stays the device's until this has gone.
#[derive(Clone, Debug)]
pub struct RegisteredBuffer {
    memory: Arc<RegisteredMemory>,
    offset: usize,
    len: usize,
}

impl RegisteredBuffer {
    /// `len` bytes from `offset` of `memory`; `None` if they are not all inside.
    pub fn new(memory: Arc<RegisteredMemory>, offset: usize, len: usize) -> Option<Self> {
        let all = memory.memory.len();
        (offset <= all && len <= all - offset).then_some(Self { memory, offset, len })
    }

    /// The memory, when this is not needed any more.
    #[cfg_attr(not(feature = "io-uring-compat"), allow(dead_code, reason = "for rings"))]
    pub(crate) fn into_memory(self) -> Arc<RegisteredMemory> {
        self.memory
    }

    /// Whether it is a part of `memory`.
    #[cfg_attr(not(feature = "io-uring-compat"), allow(dead_code, reason = "for rings"))]
    #[inline]
    pub(crate) fn is_of(&self, memory: &Arc<RegisteredMemory>) -> bool {
        Arc::ptr_eq(&self.memory, memory)
    }

    /// The first byte's place in the memory.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `from` to `offset` of the buffer; false, with nothing done, if it does not fit.
    pub fn copy_in(&self, offset: usize, from: &[u8]) -> bool {
        let fits = offset <= self.len && from.len() <= self.len - offset;
        fits && self.memory.memory.copy_in(self.offset + offset, from)
    }

    /// Copies from `offset` of the buffer to `into`; false, with nothing done, if there is not as much.
    pub fn copy_out(&self, offset: usize, into: &mut [u8]) -> bool {
        let fits = offset <= self.len && into.len() <= self.len - offset;
        fits && self.memory.memory.copy_out(self.offset + offset, into)
    }

    /// Where `len` bytes from `offset` of the buffer on are for the controller of `arena`, whose pages are `page_bytes`
    /// long; `None` if they are to be copied.
    #[inline]
    pub(crate) fn mapping(
        &self,
        arena: &Arena,
        page_bytes: usize,
        offset: usize,
        len: usize,
    ) -> Option<DeviceRange<'_>> {
        if !self.memory.arena.as_ref()?.is(arena) {
            return None;
        }
        let start = self.offset.checked_add(offset)?;
        match self.memory.places()? {
            // PRP entries are multiples of 4 (NVMe Base 2.0 section 4.1.1).
            _ if !start.is_multiple_of(4) => None,
            Places::Contiguous(first) => Some(DeviceRange {
                mapping: Mapping::Contiguous(first + start as u64),
                offset: 0,
            }),
            Places::Pages(_) if page_bytes != PAGE_BYTES => None,
            Places::Pages(pages) => {
                let last = start.checked_add(len.checked_sub(1)?)?;
                let pages = pages.get(start / PAGE_BYTES..=last / PAGE_BYTES)?;
                Some(DeviceRange {
                    mapping: Mapping::Pages(pages),
                    offset: (start % PAGE_BYTES) as u64,
                })
            }
        }
    }

    /// Copies the part `range` of the buffer to `offset` of `region`, if it is all there.
    pub(super) fn copy_to_region(&self, range: Range<usize>, region: &Region, offset: usize) {
        if range.start <= range.end && range.end <= self.len {
            let from = self.memory.memory.at(self.offset + range.start);
            // SAFETY: inside the shared memory, as checked, which is valid while `self` is, and no region of the arena.
            unsafe { region.copy_in_raw(offset, from, range.len()) }
        }
    }

    /// Copies from `offset` of `region` to the part `range` of the buffer, if it is all there.
    pub(super) fn copy_from_region(&self, range: Range<usize>, region: &Region, offset: usize) {
        if range.start <= range.end && range.end <= self.len {
            let into = self.memory.memory.at(self.offset + range.start);
            // SAFETY: as for `copy_to_region`.
            unsafe { region.copy_out_raw(offset, into, range.len()) }
        }
    }
}

/// Where a command's data is for the device.
pub(crate) struct DeviceRange<'a> {
    pub(crate) mapping: Mapping<'a>,
    /// To be added to the address of the first page.
    pub(crate) offset: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_pages(pages: &[u64]) -> RegisteredMemory {
        RegisteredMemory {
            registration: Some(Registration {
                places: Places::Pages(pages.into()),
                lease: Box::new(()),
            }),
            memory: Arc::new(SharedMemory::create(pages.len() * PAGE_BYTES).unwrap()),
            arena: None,
            _held: Box::new(()),
        }
    }

    #[test]
    fn pages_side_by_side_are_one_run() {
        let memory = of_pages(&[0x9000, 0x5000, 0x6000, 0x7000, 0x1000]);
        assert_eq!(
            memory.runs(),
            [(0x9000, 0..4096), (0x5000, 4096..16384), (0x1000, 16384..20480)]
        );
        assert_eq!(memory.offset_of(0x5FFC, 8), Some(4096 + 0xFFC));
        for (address, len) in [
            (0x9FFC, 8),
            (0x4FFF, 1),
            (0x8000, 1),
            (u64::MAX, 1),
            (0x5000, 12289),
        ] {
            assert_eq!(memory.offset_of(address, len), None, "{address:#x}");
        }
        assert_eq!(memory.offset_of(0x5000, 12288), Some(4096));
    }

    proptest! {
        /// An address is found exactly where each of its bytes is.
        #[test]
        fn an_address_is_found_where_all_of_its_bytes_are(
            pages in prop::collection::vec(1_u64..12, 1..8),
            address in 0_u64..0xE000,
            len in 1_usize..9000,
        ) {
            // Each page is at one place only.
            let mut pages: Vec<u64> = pages.iter().map(|page| page << 12).collect();
            let mut seen = std::collections::BTreeSet::new();
            pages.retain(|page| seen.insert(*page));
            let memory = of_pages(&pages);
            let byte = |at: u64| {
                pages.iter().position(|page| *page == at & !0xFFF).map(|page| page * PAGE_BYTES + (at & 0xFFF) as usize)
            };
            let all: Option<Vec<usize>> = (address..address + len as u64).map(byte).collect();
            let wanted = all.filter(|all| all.windows(2).all(|two| two[0] + 1 == two[1])).map(|all| all[0]);
            prop_assert_eq!(memory.offset_of(address, len), wanted);
        }
    }
}
