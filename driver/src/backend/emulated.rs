//! A controller in this process: [`nvme_emulator`] behind the seam.
//!
//! The device reaches memory through an IOMMU of its own, as a real one would: regions that the driver allocated, and
//! windows that are open while a command is out on a caller's buffer. Any other address is a fault that the device
//! answers with Data Transfer Error.
//!
//! ```text
//! region n    BASE + n * 16 MiB, at most 4 MiB long: an overrun hits a hole, not its neighbour
//! registered  bit 44, then 1 GiB for each piece of clients' memory
//! window      bit 46, then 10 bits of queue, 12 bits of slot, 23 bits of offset
//! ```

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use nvme_emulator::{Config, DmaFault, Doze, Emulator, HostMemory, Interrupts, Running};

use super::{Backend, BackendError, Doorbell, DoorbellKind, Waiter, Waker};
use crate::clock::Clock;
use crate::dma::{Region, Registration, SharedMemory};

mod registered;

#[cfg(feature = "zero-copy")]
mod windows;

const REGION_BASE: u64 = 1 << 32;
const REGION_SHIFT: u32 = 24;
const MAX_REGIONS: usize = 4096;
const MAX_REGION_BYTES: usize = 4 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// An emulated controller as a [`Backend`].
pub struct EmulatedBackend {
    /// Stops and joins the device's threads when the backend goes; `None` if somebody steps it by hand.
    _running: Option<Running>,
    device: Arc<Emulator>,
    memory: Arc<Memory>,
    interrupts: Arc<Vectors>,
}

impl EmulatedBackend {
    /// A controller with threads of its own, on the same clock as the driver.
    ///
    /// # Errors
    /// What the emulator says of `config`: a backing file that cannot be opened, say.
    pub fn start(config: Config, clock: Clock) -> Result<Self, BackendError> {
        let mut backend = Self::stepped(config)?;
        backend._running = Some(backend.device.run(Arc::new(move || clock.now_ns())));
        Ok(backend)
    }

    /// A controller without threads: it does something only when [`Emulator::step`] is called.
    ///
    /// # Errors
    /// As [`EmulatedBackend::start`].
    pub fn stepped(config: Config) -> Result<Self, BackendError> {
        let memory = Arc::new(Memory::new());
        let interrupts = Arc::new(Vectors::new(config.vectors));
        let device = Emulator::new(
            config,
            Arc::clone(&memory) as Arc<dyn HostMemory>,
            Arc::clone(&interrupts) as Arc<dyn Interrupts>,
        )
        .map_err(|error| BackendError::Emulator(error.to_string()))?;
        Ok(Self {
            _running: None,
            device,
            memory,
            interrupts,
        })
    }

    /// The device behind the registers: to step it, to put faults on it, to ask what it has really done.
    pub fn device(&self) -> &Arc<Emulator> {
        &self.device
    }
}

// SAFETY: every region is a block of its own, which the table keeps for ever; a window is closed, and registered memory taken
// back, under the lock that the device holds while it copies.
unsafe impl Backend for EmulatedBackend {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn read32(&self, offset: usize) -> u32 {
        self.device.registers().read32(offset)
    }

    fn read64(&self, offset: usize) -> u64 {
        self.device.registers().read64(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.device.registers().write32(offset, value);
    }

    fn write64(&self, offset: usize, value: u64) {
        self.device.registers().write64(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, BackendError> {
        let len_bytes = self.device.registers().len_bytes();
        let beyond = BackendError::BeyondBar { offset, len_bytes };
        let stride_bytes = 4 << nvme_spec::register::Cap::from(self.read64(nvme_spec::register::CAP)).dstrd();
        if offset >= len_bytes {
            return Err(beyond);
        }
        let index = offset.checked_sub(nvme_spec::register::DOORBELLS).ok_or(beyond)? / stride_bytes;
        Ok(Doorbell(DoorbellKind::Emulated {
            device: Arc::clone(&self.device),
            index,
        }))
    }

    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        self.memory.allocate(len_bytes)
    }

    fn max_region_bytes(&self) -> usize {
        MAX_REGION_BYTES
    }

    fn vectors(&self) -> u16 {
        self.interrupts.0.len() as u16
    }

    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError> {
        let available = self.vectors();
        let slot = self
            .interrupts
            .0
            .get(usize::from(vector))
            .ok_or(BackendError::NoVector { vector, available })?;
        let bell = Arc::new(Bell::default());
        slot.write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&bell));
        Ok(Box::new(EmulatedWaiter { bell, seen: 0 }))
    }

    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        self.memory.register(memory)
    }

    #[cfg(feature = "zero-copy")]
    fn windows(&self, qid: u16, slots: usize, _page_bytes: usize) -> Option<Box<dyn super::Windows>> {
        windows::open(&self.memory, qid, slots)
    }
}

// ---- interrupts

/// Per vector those who wait for it.
struct Vectors(Box<[RwLock<Vec<Arc<Bell>>>]>);

#[derive(Default)]
struct Bell {
    doze: Doze,
    fired: AtomicU64,
}

impl Vectors {
    fn new(count: u16) -> Self {
        Self((0..count.max(1)).map(|_| RwLock::default()).collect())
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        if let Some(bells) = self.0.get(usize::from(vector)) {
            for bell in bells.read().unwrap_or_else(PoisonError::into_inner).iter() {
                bell.fired.fetch_add(1, Ordering::Relaxed);
                bell.doze.wake();
            }
        }
    }
}

struct EmulatedWaiter {
    bell: Arc<Bell>,
    seen: u64,
}

impl Waiter for EmulatedWaiter {
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut dyn FnMut() -> bool) {
        self.bell.doze.sleep(timeout, ready);
    }

    fn waker(&self) -> Waker {
        let bell = Arc::clone(&self.bell);
        Waker::new(move || bell.doze.wake())
    }

    fn take_interrupts(&mut self) -> u64 {
        let fired = self.bell.fired.load(Ordering::Relaxed);
        fired - std::mem::replace(&mut self.seen, fired)
    }
}

// ---- memory

/// What the device can reach, and how.
struct Memory {
    regions: Box<[OnceLock<Arc<Block>>]>,
    allocated: AtomicU32,
    #[cfg(feature = "zero-copy")]
    windows: windows::Table,
    registered: registered::Table,
}

/// Zeroed memory, aligned to its size up to a huge page.
struct Block {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: an address and a size; whoever accesses the bytes says why that is sound.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn new(len_bytes: usize) -> Option<Self> {
        let align = if len_bytes >= HUGE_PAGE_BYTES {
            HUGE_PAGE_BYTES
        } else {
            4096
        };
        let layout = Layout::from_size_align(len_bytes, align)
            .ok()
            .filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, layout })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout. The table of regions and every Region hold an `Arc` of this, so nobody
        // has the address any more.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Memory of others, for as long as the device may reach it.
struct Open {
    memory: NonNull<u8>,
    len: usize,
}

// SAFETY: whoever opens it makes the bytes valid while it is open, for any thread.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Open {
    /// The `len` bytes at `offset`; `None` unless all of them are in it.
    fn at(&self, offset: usize, len: usize) -> Option<*mut u8> {
        if offset > self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: inside the memory, as checked.
        Some(unsafe { self.memory.add(offset) }.as_ptr())
    }
}

impl Memory {
    fn new() -> Self {
        Self {
            regions: (0..MAX_REGIONS).map(|_| OnceLock::new()).collect(),
            allocated: AtomicU32::new(0),
            #[cfg(feature = "zero-copy")]
            windows: windows::Table::new(),
            registered: registered::Table::new(),
        }
    }

    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        let no_memory = BackendError::NoMemory { len_bytes };
        let rounded = len_bytes
            .max(1)
            .checked_next_multiple_of(4096)
            .ok_or(no_memory.clone())?;
        if rounded > MAX_REGION_BYTES {
            return Err(no_memory);
        }
        let number = self.allocated.fetch_add(1, Ordering::Relaxed);
        let Some(slot) = self.regions.get(number as usize) else {
            self.allocated.fetch_sub(1, Ordering::Relaxed);
            return Err(no_memory);
        };
        let block = Arc::new(Block::new(rounded).ok_or(no_memory)?);
        let base = slot.get_or_init(|| Arc::clone(&block)).base;
        let iova = REGION_BASE + (u64::from(number) << REGION_SHIFT);
        // SAFETY: the block is zeroed, aligned to 4096 bytes, `rounded` long, and lives as long as the `Arc` does. No
        // reference to its bytes is ever made in this file.
        Ok(unsafe { Region::new(base, iova, rounded, block) })
    }

    /// Calls `access` with the address of the `len` bytes at `address`; they stay valid during the call.
    #[inline]
    fn with<R>(&self, address: u64, len: usize, access: impl FnOnce(*mut u8) -> R) -> Result<R, DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: len as u64,
        };
        #[cfg(feature = "zero-copy")]
        if address >= windows::BASE {
            return self.windows.with(address, len, access);
        }
        if address >= registered::BASE {
            return self.registered.with(address, len, access);
        }
        let number = address.checked_sub(REGION_BASE).ok_or(fault)? >> REGION_SHIFT;
        let offset = (address & ((1 << REGION_SHIFT) - 1)) as usize;
        let block = usize::try_from(number)
            .ok()
            .and_then(|number| self.regions.get(number))
            .and_then(OnceLock::get)
            .ok_or(fault)?;
        if offset > block.layout.size() || len > block.layout.size() - offset {
            return Err(fault);
        }
        // SAFETY: inside the block, as checked.
        Ok(access(unsafe { block.base.add(offset) }.as_ptr()))
    }

    fn with_word<R>(&self, address: u64, access: impl FnOnce(&AtomicU32) -> R) -> Result<R, DmaFault> {
        if !address.is_multiple_of(4) {
            return Err(DmaFault {
                address,
                len_bytes: 4,
            });
        }
        self.with(address, 4, |word| {
            // SAFETY: four valid bytes, aligned since regions and windows keep the offset within a page (a window's
            // mapping starts at a multiple of 4, see `map`); the driver accesses such words atomically too.
            access(unsafe { AtomicU32::from_ptr(word.cast()) })
        })
    }
}

impl HostMemory for Memory {
    #[inline]
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        self.with(address, into.len(), |from| {
            // SAFETY: `with` gives as many valid bytes as asked for; `into` is elsewhere, being borrowed mutably.
            unsafe { into.as_mut_ptr().copy_from_nonoverlapping(from, into.len()) }
        })
    }

    #[inline]
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        self.with(address, from.len(), |into| {
            // SAFETY: `with` gives as many valid bytes as asked for. That the driver does not look at them meanwhile
            // is the protocol of NVMe: they belong to the device until it completes the command.
            unsafe { into.copy_from_nonoverlapping(from.as_ptr(), from.len()) }
        })
    }

    #[inline]
    fn load_u32(&self, address: u64) -> Result<u32, DmaFault> {
        self.with_word(address, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        self.with_word(address, |word| word.store(value, Ordering::Release))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_reaches_regions_and_nothing_beside_them() {
        let memory = Memory::new();
        let first = memory.allocate(5000).unwrap();
        let second = memory.allocate(4096).unwrap();
        assert_eq!(first.len(), 8192);
        memory.write(first.iova() + 8190, &[1, 2]).unwrap();
        let mut bytes = [0; 2];
        first.copy_out(8190, &mut bytes);
        assert_eq!(bytes, [1, 2]);
        for (address, len) in [
            (first.iova() + 8191, 2),
            (first.iova() + 8192, 1),
            (second.iova() + 4096, 1),
            (first.iova() - 1, 1),
            (0, 1),
            (u64::MAX, 1),
            (1 << 46, 1),
            (second.iova() + (1 << REGION_SHIFT), 1),
        ] {
            let fault = Err(DmaFault {
                address,
                len_bytes: len as u64,
            });
            assert_eq!(memory.write(address, &vec![0; len]), fault, "{address:#x}");
            assert_eq!(memory.read(address, &mut vec![0; len]), fault, "{address:#x}");
        }
        assert!(memory.load_u32(first.iova() + 2).is_err(), "not aligned");
        memory.store_u32(first.iova() + 4, 7).unwrap();
        assert_eq!(first.load_u32(4), 7);
    }

    #[test]
    fn an_interrupt_wakes_and_is_counted() {
        let vectors = Vectors::new(2);
        let bell = Arc::new(Bell::default());
        vectors.0[1].write().unwrap().push(Arc::clone(&bell));
        let mut waiter = EmulatedWaiter { bell, seen: 0 };
        vectors.raise(0);
        vectors.raise(7);
        assert_eq!(waiter.take_interrupts(), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| vectors.raise(1));
            let mut fired = 0;
            while fired == 0 {
                let bell = Arc::clone(&waiter.bell);
                waiter.wait(None, &mut || bell.fired.load(Ordering::Relaxed) > 0);
                fired = waiter.take_interrupts();
            }
            assert_eq!(fired, 1);
        });
    }
}
