//! Memory of the machine: pages that somebody may map, and the addresses that a device knows them by.
//!
//! A physical address here is a number that only this table understands. Every page has one of its own, far from its
//! neighbour's unless it was asked for as contiguous, and it is given once: whatever a device does with an address
//! whose page is gone is refused and remembered as a [`Violation`].
#![allow(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nvme_emulator::DmaFault;
use rustix::mm::{MapFlags, MprotectFlags, MsyncFlags, ProtFlags};
use syscall::error::{EFAULT, ENOMEM, Error, Result};

use crate::violation::{Stray, Violation};

/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
const PAGE_SHIFT: u32 = 12;
/// The kernel's largest block of contiguous pages.
pub(crate) const MAX_CONTIGUOUS_BYTES: usize = 4 << 20;

/// First frames of the three kinds of memory.
const CONTIGUOUS_FRAME: u64 = 1 << 20;
const SCATTERED_FRAME: u64 = 1 << 34;
const HEAP_FRAME: u64 = 1 << 35;
/// Frames that a kind of memory has room for.
const FRAMES: u64 = 1 << 32;
/// Odd, so that multiplying by it shuffles the frames and loses none.
const SHUFFLE: u64 = 0x9E37_79B1;

/// Where payloads appear: addresses that are used again only after all others have been.
const ARENA_BYTES: usize = 64 << 30;

fn shuffled(index: u64) -> u64 {
    index.wrapping_mul(SHUFFLE) % FRAMES
}

fn unshuffled(frame: u64) -> u64 {
    // Newton's iteration: each step doubles the bits of the inverse that are right; three are right at first.
    let inverse = (0..5).fold(SHUFFLE, |inverse, _| {
        inverse.wrapping_mul(2_u64.wrapping_sub(SHUFFLE.wrapping_mul(inverse)))
    });
    frame.wrapping_mul(inverse) % FRAMES
}

/// What a mapping is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Zeroed memory of the driver's own, contiguous or not.
    Own { contiguous: bool },
    /// What a client has lent, until its call is answered.
    Payload { writable: bool },
    /// Registers of a device.
    Bar,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    pages: usize,
    kind: Kind,
    /// Number of its first page within its kind of memory.
    first: u64,
}

#[derive(Default)]
struct Table {
    /// By address of the first page.
    mappings: BTreeMap<usize, Mapping>,
    /// Address of the first page, by number of the first page.
    contiguous: BTreeMap<u64, usize>,
    scattered: BTreeMap<u64, usize>,
    next_contiguous: u64,
    next_scattered: u64,
    /// Pages of the heap whose address somebody has asked for.
    heap: HashMap<usize, u64>,
    heap_pages: Vec<usize>,
    /// Where the next payload may appear, from the arena's start.
    next_payload_bytes: usize,
}

/// All pages of one machine.
pub(crate) struct Pages {
    table: RwLock<Table>,
    violations: Mutex<Vec<Violation>>,
    arena: NonNull<u8>,
    /// Whether pages of the heap have physical addresses too.
    translates_heap: bool,
    /// This process's memory, for pages of the heap, which may go at any time.
    own_memory: Option<File>,
}

// SAFETY: the arena is address space and nothing that a thread owns; who may touch which part of it is in the table.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    pub fn new(translates_heap: bool) -> Self {
        // SAFETY: anywhere that is free, and nothing can be touched there.
        let arena = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                ARENA_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let own_memory = File::options().read(true).write(true).open("/proc/self/mem");
        Self {
            table: RwLock::default(),
            violations: Mutex::default(),
            arena: arena
                .ok()
                .and_then(|start| NonNull::new(start.cast()))
                .expect("address space"),
            translates_heap,
            own_memory: own_memory.ok(),
        }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn violations(&self) -> MutexGuard<'_, Vec<Violation>> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn blame(&self, violation: Violation) {
        self.violations().push(violation);
    }

    /// Bytes of memory that the driver has.
    pub fn own_bytes(&self) -> usize {
        self.mapped_bytes(|kind| matches!(kind, Kind::Own { .. }))
    }

    /// Bytes that clients lend at the moment, in whole pages.
    pub fn lent_bytes(&self) -> usize {
        self.mapped_bytes(|kind| matches!(kind, Kind::Payload { .. }))
    }

    fn mapped_bytes(&self, is_counted: impl Fn(Kind) -> bool) -> usize {
        let table = self.table();
        let counted = table.mappings.values().filter(|mapping| is_counted(mapping.kind));
        counted.map(|mapping| mapping.pages * PAGE_BYTES).sum()
    }

    /// Zeroed memory of `len_bytes`, a multiple of a page, for the driver.
    pub fn map_own(&self, len_bytes: usize, contiguous: bool, writable: bool) -> Result<NonNull<u8>> {
        let mut protection = ProtFlags::READ;
        protection.set(ProtFlags::WRITE, writable);
        // SAFETY: anywhere that is free.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len_bytes, protection, MapFlags::PRIVATE)
        };
        let start = NonNull::new(start.map_err(|_| Error::new(ENOMEM))?.cast()).ok_or(Error::new(ENOMEM))?;
        self.table_mut().enter(start, len_bytes, Kind::Own { contiguous });
        Ok(start)
    }

    /// `len_bytes` of `file` from `offset`, shared.
    pub fn map_bar(&self, file: &File, offset: u64, len_bytes: usize) -> Result<NonNull<u8>> {
        // SAFETY: anywhere that is free; the file is as long as that.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                offset,
            )
        };
        let start = NonNull::new(start.map_err(|_| Error::new(ENOMEM))?.cast()).ok_or(Error::new(ENOMEM))?;
        self.table_mut().enter(start, len_bytes, Kind::Bar);
        Ok(start)
    }

    /// Takes away what [`map_own`](Self::map_own) or [`map_bar`](Self::map_bar) gave, as a whole. False if it is not that.
    pub fn unmap(&self, start: NonNull<u8>, len_bytes: usize) -> bool {
        let mut table = self.table_mut();
        let address = start.as_ptr() as usize;
        let is_whole = table.mappings.get(&address).is_some_and(|mapping| {
            !matches!(mapping.kind, Kind::Payload { .. }) && mapping.pages == len_bytes.div_ceil(PAGE_BYTES)
        });
        if !is_whole {
            drop(table);
            self.blame(Violation::Unmap { address, len_bytes });
            return false;
        }
        table.leave(address);
        // SAFETY: one mapping of this table's, which neither a device can reach any more (the lock is held) nor,
        // by the contract of `unmap`, its owner.
        let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), len_bytes) };
        true
    }

    /// `pages` pages in the daemon for a payload, writable for now.
    pub fn lend(&self, pages: usize, writable: bool) -> Result<NonNull<u8>> {
        let len_bytes = pages * PAGE_BYTES;
        let mut table = self.table_mut();
        let offset = table.place_payload(self.arena.as_ptr() as usize, len_bytes)?;
        // SAFETY: within the arena.
        let start = unsafe { self.arena.add(offset) };
        // SAFETY: pages of the arena that nothing lies in.
        unsafe {
            rustix::mm::mprotect(
                start.as_ptr().cast(),
                len_bytes,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        }
        .map_err(|_| Error::new(ENOMEM))?;
        table.enter(start, len_bytes, Kind::Payload { writable });
        Ok(start)
    }

    /// A payload that has been filled and is only to be read from now on.
    pub fn make_read_only(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: pages of the arena that were lent a moment ago and that nobody else knows yet.
        let _ =
            unsafe { rustix::mm::mprotect(start.as_ptr().cast(), pages * PAGE_BYTES, MprotectFlags::READ) };
    }

    /// Takes a payload back: whoever touches it from now on is ended by the system, and a device is refused.
    pub fn take_back(&self, start: NonNull<u8>, pages: usize) {
        let mut table = self.table_mut();
        table.leave(start.as_ptr() as usize);
        // SAFETY: within the arena, and in no table any more. Mapped anew, without access and without content.
        let _ = unsafe {
            rustix::mm::mmap_anonymous(
                start.as_ptr().cast(),
                pages * PAGE_BYTES,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
    }

    /// Physical address of the page that `virtual_address` lies in, without the offset in it.
    pub fn translate(&self, virtual_address: usize) -> Option<u64> {
        let page = virtual_address & !(PAGE_BYTES - 1);
        if let Some(frame) = self.table().frame_of(page) {
            return Some(frame << PAGE_SHIFT);
        }
        if !self.translates_heap || !is_mapped(page) || self.is_in_arena(page) {
            return None;
        }
        let mut table = self.table_mut();
        let next = table.heap_pages.len() as u64;
        let index = *table.heap.entry(page).or_insert(next);
        if index == next {
            table.heap_pages.push(page);
        }
        Some((HEAP_FRAME + shuffled(index)) << PAGE_SHIFT)
    }

    fn is_in_arena(&self, page: usize) -> bool {
        let start = self.arena.as_ptr() as usize;
        (start..start + ARENA_BYTES).contains(&page)
    }

    /// A device reads.
    pub fn device_reads(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: into.len() as u64,
        };
        let table = self.table();
        let mut at = address;
        let mut rest = into;
        while !rest.is_empty() {
            let chunk_bytes = rest.len().min(to_page_end(at));
            let (chunk, later) = rest.split_at_mut(chunk_bytes);
            match self.reach(&table, at, false).ok_or(fault)? {
                // SAFETY: a page that is mapped as long as the table is locked, and the chunk does not leave it. Others
                // may write it meanwhile, as they may with any device.
                Reached::Page(page) => unsafe {
                    page.copy_to_nonoverlapping(chunk.as_mut_ptr(), chunk_bytes);
                },
                Reached::Heap(offset) => self.heap_reads(offset, chunk).map_err(|_| fault)?,
            }
            at += chunk_bytes as u64;
            rest = later;
        }
        Ok(())
    }

    /// A device writes.
    pub fn device_writes(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: from.len() as u64,
        };
        let table = self.table();
        let mut at = address;
        let mut rest = from;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(rest.len().min(to_page_end(at)));
            match self.reach(&table, at, true).ok_or(fault)? {
                // SAFETY: as in `device_reads`; whoever lent it writably expects it to change.
                Reached::Page(page) => unsafe {
                    page.copy_from_nonoverlapping(chunk.as_ptr(), chunk.len());
                },
                Reached::Heap(offset) => self.heap_writes(offset, chunk).map_err(|_| fault)?,
            }
            at += chunk.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// A device reads a word, at once.
    pub fn device_loads(&self, address: u64) -> Result<u32, DmaFault> {
        self.with_word(address, false, |word| word.load(Ordering::Acquire))
    }

    /// A device writes a word, at once and after everything before.
    pub fn device_stores(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        self.with_word(address, true, |word| word.store(value, Ordering::Release))
    }

    fn with_word<T>(
        &self,
        address: u64,
        writes: bool,
        act: impl FnOnce(&AtomicU32) -> T,
    ) -> Result<T, DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: 4,
        };
        let table = self.table();
        match self.reach(&table, address, writes) {
            Some(Reached::Page(word)) if address.is_multiple_of(4) => {
                // SAFETY: aligned, and mapped as long as the table is locked.
                Ok(act(unsafe { AtomicU32::from_ptr(word.cast()) }))
            }
            _ => Err(fault),
        }
    }

    /// Where `address` is in this process, if a device may go there.
    fn reach(&self, table: &Table, address: u64, writes: bool) -> Option<Reached> {
        let offset = address as usize % PAGE_BYTES;
        let (why, page) = match table.page_of(address >> PAGE_SHIFT) {
            Ok(Found::Heap(page)) => return Some(Reached::Heap((page + offset) as u64)),
            Ok(Found::Page(page, kind)) => {
                let why = match kind {
                    Kind::Own { .. } | Kind::Payload { writable: true } => None,
                    Kind::Payload { writable: false } => writes.then_some(Stray::LentForReading),
                    Kind::Bar => Some(Stray::NoMemory),
                };
                (why, page)
            }
            Err(why) => (Some(why), 0),
        };
        if let Some(why) = why {
            self.blame(Violation::Dma { address, writes, why });
            return None;
        }
        Some(Reached::Page((page + offset) as *mut u8))
    }

    fn heap_reads(&self, at: u64, into: &mut [u8]) -> Result<()> {
        let memory = self.own_memory.as_ref().ok_or(Error::new(EFAULT))?;
        memory
            .read_exact_at(into, at)
            .map_err(|_| self.heap_is_gone(at, false))
    }

    fn heap_writes(&self, at: u64, from: &[u8]) -> Result<()> {
        let memory = self.own_memory.as_ref().ok_or(Error::new(EFAULT))?;
        memory
            .write_all_at(from, at)
            .map_err(|_| self.heap_is_gone(at, true))
    }

    fn heap_is_gone(&self, address: u64, writes: bool) -> Error {
        self.blame(Violation::Dma {
            address,
            writes,
            why: Stray::Gone,
        });
        Error::new(EFAULT)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: nobody has payloads any more when the machine is gone.
        let _ = unsafe { rustix::mm::munmap(self.arena.as_ptr().cast(), ARENA_BYTES) };
    }
}

/// What an address is that a device uses.
enum Found {
    Page(usize, Kind),
    Heap(usize),
}

enum Reached {
    Page(*mut u8),
    Heap(u64),
}

fn to_page_end(address: u64) -> usize {
    PAGE_BYTES - address as usize % PAGE_BYTES
}

/// Whether something is mapped at the page `page`: `msync` says so and does nothing else to memory that no file backs.
fn is_mapped(page: usize) -> bool {
    // SAFETY: it reads and writes nothing.
    unsafe { rustix::mm::msync(page as *mut _, PAGE_BYTES, MsyncFlags::ASYNC) }.is_ok()
}

impl Table {
    fn enter(&mut self, start: NonNull<u8>, len_bytes: usize, kind: Kind) {
        let (address, pages) = (start.as_ptr() as usize, len_bytes / PAGE_BYTES);
        let (by_number, next) = if kind == (Kind::Own { contiguous: true }) {
            (&mut self.contiguous, &mut self.next_contiguous)
        } else {
            (&mut self.scattered, &mut self.next_scattered)
        };
        let first = *next;
        // One number is left out, so that running over the end meets nothing.
        *next += pages as u64 + 1;
        by_number.insert(first, address);
        self.mappings.insert(address, Mapping { pages, kind, first });
    }

    fn leave(&mut self, address: usize) {
        if let Some(mapping) = self.mappings.remove(&address) {
            if mapping.kind == (Kind::Own { contiguous: true }) {
                self.contiguous.remove(&mapping.first);
            } else {
                self.scattered.remove(&mapping.first);
            }
        }
    }

    /// Where in the arena at `arena` there is room for `len_bytes` with a hole behind them.
    fn place_payload(&mut self, arena: usize, len_bytes: usize) -> Result<usize> {
        let whole_bytes = len_bytes + PAGE_BYTES;
        let mut has_wrapped = false;
        loop {
            let offset = self.next_payload_bytes;
            if offset + whole_bytes > ARENA_BYTES {
                if has_wrapped {
                    return Err(Error::new(ENOMEM));
                }
                (self.next_payload_bytes, has_wrapped) = (0, true);
                continue;
            }
            let (start, end) = (arena + offset, arena + offset + whole_bytes);
            let before = self.mappings.range(..end).next_back();
            let in_the_way = before.map(|(at, mapping)| at + (mapping.pages + 1) * PAGE_BYTES);
            match in_the_way.filter(|end_of_other| *end_of_other > start) {
                Some(end_of_other) => self.next_payload_bytes = end_of_other - arena,
                None => {
                    self.next_payload_bytes = offset + whole_bytes;
                    return Ok(offset);
                }
            }
        }
    }

    fn frame_of(&self, page: usize) -> Option<u64> {
        let (start, mapping) = self.mappings.range(..=page).next_back()?;
        let index = (page - start) / PAGE_BYTES;
        (index < mapping.pages).then(|| {
            let number = mapping.first + index as u64;
            if mapping.kind == (Kind::Own { contiguous: true }) {
                CONTIGUOUS_FRAME + number
            } else {
                SCATTERED_FRAME + shuffled(number)
            }
        })
    }

    fn page_of(&self, frame: u64) -> Result<Found, Stray> {
        let (by_number, number, next) = if let Some(index) = within(frame, HEAP_FRAME) {
            let page = usize::try_from(unshuffled(index))
                .ok()
                .and_then(|index| self.heap_pages.get(index));
            return page.map(|page| Found::Heap(*page)).ok_or(Stray::NeverThere);
        } else if let Some(index) = within(frame, SCATTERED_FRAME) {
            (&self.scattered, unshuffled(index), self.next_scattered)
        } else if let Some(index) = within(frame, CONTIGUOUS_FRAME) {
            (&self.contiguous, index, self.next_contiguous)
        } else {
            return Err(Stray::NeverThere);
        };
        let mapping = by_number
            .range(..=number)
            .next_back()
            .and_then(|(first, start)| Some((number - first, *start, self.mappings.get(start)?)));
        match mapping {
            Some((index, start, mapping)) if (index as usize) < mapping.pages => {
                Ok(Found::Page(start + index as usize * PAGE_BYTES, mapping.kind))
            }
            _ if number < next => Err(Stray::Gone),
            _ => Err(Stray::NeverThere),
        }
    }
}

fn within(frame: u64, first: u64) -> Option<u64> {
    frame.checked_sub(first).filter(|index| *index < FRAMES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_loses_nothing() {
        for index in [0, 1, 2, 4095, 1 << 20, FRAMES - 1] {
            assert_eq!(unshuffled(shuffled(index)), index);
        }
        assert_ne!(shuffled(2).abs_diff(shuffled(1)), 1);
    }

    #[test]
    fn payloads_get_addresses_that_are_free() {
        let pages = Pages::new(false);
        let (first, second) = (pages.lend(3, true).unwrap(), pages.lend(1, true).unwrap());
        assert_eq!(second.as_ptr() as usize - first.as_ptr() as usize, 4 * PAGE_BYTES);
        pages.take_back(second, 1);
        // As if all other addresses had been used: the first is still in use, so it is the next free one.
        pages.table_mut().next_payload_bytes = ARENA_BYTES - PAGE_BYTES;
        assert_eq!(pages.lend(1, true).unwrap(), second);
        pages.take_back(first, 3);
        assert_eq!(pages.lent_bytes(), PAGE_BYTES);
    }
}
