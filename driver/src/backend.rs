//! The seam: what the driver needs of the place where it runs.
//!
//! A [`Backend`] gives access to one controller: its registers, memory that it can reach by DMA, and its interrupts.
//! Everything above this line is the same on every system and holds no `unsafe`; what is below it may hold any, each
//! block with its reason.

#![allow(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::dma::{Region, Registration, SharedMemory};

pub mod emulated;
#[cfg(target_os = "linux")]
pub mod linux;
#[cfg(target_pointer_width = "64")]
pub mod redox;
#[cfg(target_os = "linux")]
pub mod vfio;
#[cfg(target_os = "linux")]
pub mod vfio_user;

/// One controller, wherever it is.
///
/// # Safety
/// [`Backend::allocate`] must give each byte to one region only, for as long as that region or a clone of it is alive.
/// When [`Windows::unmap`] has returned, the device must not reach the memory through that window. When a lease of
/// [`Backend::register`] has gone, the device must not reach that memory any more, or the memory must stay mapped for ever;
/// and until then it must stay mapped.
pub unsafe trait Backend: Send + Sync {
    /// `emulated`, `vfio`, `redox`, ...
    fn name(&self) -> &'static str;

    /// The PCI address of the function, where there is one.
    fn pci(&self) -> Option<String> {
        None
    }

    /// How interrupts come: `msix`, `msi`, `intx`.
    fn irq_mode(&self) -> &'static str {
        "msix"
    }

    /// The NUMA node that the device is near to, where the system says; `None` is one node, or nobody knows. Memory of
    /// [`Backend::allocate`] is taken from there as far as it has some: on Linux with VFIO. Elsewhere nothing is known of
    /// nodes, and all this is nothing.
    fn numa_node(&self) -> Option<u32> {
        None
    }

    /// For as long as what this returns is there, memory of the heap that the calling thread is the first to touch is taken
    /// from near the device.
    fn near(&self) -> Option<Box<dyn std::any::Any>> {
        None
    }

    /// Has the calling thread, a worker, take its memory from near the device for good, and prefer CPUs there.
    fn settle_thread(&self) {}

    /// Reads a 32-bit register of BAR0 at `offset` bytes. A controller that is gone reads all ones.
    fn read32(&self, offset: usize) -> u32;
    /// Reads a 64-bit register, as two halves, the lower one first.
    ///
    /// It may be accessed whole or by aligned halves (NVMe over PCIe Transport 1.0 section 3.1); halves are what every bridge,
    /// every server and every controller can do. Registers of that width either do not change (CAP) or are written while
    /// the controller is disabled (ASQ, ACQ), so nobody sees two that do not fit.
    fn read64(&self, offset: usize) -> u64 {
        let low = self.read32(offset);
        let high = self.read32(offset.saturating_add(4));
        u64::from(low) | (u64::from(high) << 32)
    }
    /// Writes a 32-bit register. A write may be posted; whoever needs it done reads back.
    fn write32(&self, offset: usize, value: u32);
    /// Writes a 64-bit register, as [`Backend::read64`] reads it.
    fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        self.write32(offset.saturating_add(4), (value >> 32) as u32);
    }

    /// The doorbell at `offset` bytes of BAR0.
    ///
    /// # Errors
    /// An offset beyond the BAR.
    fn doorbell(&self, offset: usize) -> Result<Doorbell, BackendError>;

    /// Zeroed memory for DMA, contiguous for the device and aligned to 4096 bytes (of it and of `len_bytes`).
    ///
    /// # Errors
    /// No memory, or more than [`Backend::max_region_bytes`].
    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError>;

    /// The largest region that [`Backend::allocate`] can give.
    fn max_region_bytes(&self) -> usize {
        4 << 20
    }

    /// Interrupt vectors of the function, at least 1.
    fn vectors(&self) -> u16;

    /// Whatever sleeps until `vector` fires. Several waiters may share a vector.
    ///
    /// # Errors
    /// A vector that the function does not have, or that could not be set up.
    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError>;

    /// Windows through which the controller reaches memory of callers, one for each of `slots` commands of queue
    /// `qid`, described to it in pages of `page_bytes` (CC.MPS); `None` where the backend cannot map a caller's memory
    /// (without the feature `zero-copy`, none can) and data goes through bounce pages.
    fn windows(&self, _qid: u16, _slots: usize, _page_bytes: usize) -> Option<Box<dyn Windows>> {
        None
    }

    /// Tells the device of memory that is shared with a client, all of it, so that commands may name it until the answer's
    /// lease is dropped. The device writes there whatever the client does with it meanwhile.
    ///
    /// # Errors
    /// Why it cannot be told, in words; data then goes through pages of the driver's own.
    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        let what = format!("the backend {} does not do that with {memory:?}", self.name());
        Err(BackendError::System(what))
    }

    /// The last resort against a controller that will not be disabled: keeps it from reaching memory by other means
    /// than its registers (PCI bus mastering). Whether that is certain now.
    fn cut_off(&self) -> bool {
        false
    }

    /// Whether the function is leaving, as far as the system says so by itself; once it is, for good. Costs a load. What
    /// finds out wakes the waiters of vector 0, so that somebody asks.
    fn departure(&self) -> Option<Departure> {
        None
    }

    /// The CPU on which `vector` fires, where each vector has one: the best for whoever waits for it.
    fn cpu_of(&self, _vector: u16) -> Option<u32> {
        None
    }

    /// Lets the calling thread run on CPU `cpu` only, where that can be.
    fn pin_thread(&self, _cpu: u32) {}

    /// The shortest sleep with a timeout ([`Waiter::wait`]) that is not much longer than asked for.
    fn shortest_sleep(&self) -> Duration {
        Duration::from_micros(50)
    }
}

/// How a function leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The system wants it back: whoever has it is to shut it down in order, and close it.
    Asked,
    /// It is not there any more: taken out, or the process that serves it has ended.
    Gone,
}

/// Puts a thread to sleep until its controller or another thread wants it.
pub trait Waiter: Send {
    /// Sleeps until woken, until the interrupt, or until `timeout` is over; not at all if `ready` says that there
    /// is something to do. `ready` is asked after the waiter has announced that it sleeps, so that a wake-up between
    /// the caller's last look and the sleep is not lost. May return early.
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut dyn FnMut() -> bool);

    /// What wakes this waiter; may be kept and used by any thread.
    fn waker(&self) -> Waker;

    /// Interrupts that have fired since the last call.
    fn take_interrupts(&mut self) -> u64;

    /// Takes in what the system keeps for this waiter until it sleeps, without sleeping. To be called every few
    /// milliseconds by an owner that has too much to do for a sleep.
    fn collect(&mut self) {}

    /// What lets this waiter be woken by descriptors of the operating system too; `None` where it cannot be.
    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        None
    }
}

/// Adds descriptors of the operating system to what wakes one [`Waiter`].
pub trait Watcher: Send + Sync {
    /// Wakes the waiter when there is something to read at `descriptor`, from now on, and now if there is already.
    ///
    /// # Errors
    /// What the system says.
    fn watch(&self, descriptor: usize) -> Result<Arc<Watched>, BackendError>;

    /// Does not do so any more.
    fn ignore(&self, descriptor: usize);
}

/// Whether there has been something to read at a descriptor.
#[derive(Debug, Default)]
pub struct Watched(AtomicBool);

impl Watched {
    /// There is.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether there has been, since this was asked last.
    pub fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire)
    }
}

/// Wakes one [`Waiter`]. Costs a few nanoseconds when it is not asleep.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes the waiter, or keeps it from falling asleep.
    #[inline]
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// Windows through which the controller reaches callers' memory while one command is out.
pub trait Windows: Send {
    /// Lets the device reach `len` bytes at `memory`, which is `of` somebody, through the window of `slot`; returns
    /// where that is for the device. `None`: this memory cannot be mapped, use bounce pages.
    ///
    /// # Safety
    /// The memory must stay valid, and (where the command writes it) nobody else may touch it, until
    /// [`Windows::unmap`] of the same slot has returned.
    unsafe fn map(&mut self, slot: u16, memory: *mut u8, len: usize, of: MemoryOf) -> Option<Mapping<'_>>;

    /// Closes the window of `slot`. When this returns the device reaches nothing through it any more.
    fn unmap(&mut self, slot: u16);
}

/// Whose memory a window is to be opened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOf {
    /// This process's heap, of which a page may not be there yet, or be one that others read as zeroes.
    Process,
    /// A client's, which the system has pinned for the time of a call.
    Client,
}

/// Where memory behind a window is for the device. The offset within the first page is that of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping<'a> {
    /// In one piece from this address on.
    Contiguous(u64),
    /// The addresses of all pages touched, in order, the first with the offset.
    Pages(&'a [u64]),
}

/// A doorbell register: written with release ordering, so that what was written before is seen first.
pub struct Doorbell(DoorbellKind);

enum DoorbellKind {
    /// A device's register. The `Arc` keeps the mapping.
    Mapped {
        register: *const AtomicU32,
        _mapping: Arc<dyn std::any::Any + Send + Sync>,
    },
    /// A register of a device in this process.
    Emulated {
        device: Arc<nvme_emulator::Emulator>,
        index: usize,
    },
}

// SAFETY: the pointer is to a register that stays mapped while `_mapping` lives, and is only used atomically.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// A doorbell at `register`.
    ///
    /// # Safety
    /// `register` must be aligned to 4 bytes and valid for atomic stores for as long as `mapping` is alive.
    pub unsafe fn mapped(register: *mut u32, mapping: Arc<dyn std::any::Any + Send + Sync>) -> Self {
        Self(DoorbellKind::Mapped {
            register: register.cast_const().cast(),
            _mapping: mapping,
        })
    }

    /// Writes `value`.
    #[inline]
    pub fn ring(&self, value: u32) {
        match &self.0 {
            // SAFETY: valid while `_mapping` lives, by the contract of `mapped`.
            DoorbellKind::Mapped { register, .. } => unsafe { (**register).store(value, Ordering::Release) },
            DoorbellKind::Emulated { device, index } => device.registers().ring(*index, value),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doorbell")
    }
}

/// Why the place where the driver runs could not give it something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// No memory for DMA.
    #[error(
        "no memory for DMA: {len_bytes} bytes in one piece; for a buffer ask for less, for queues lower \
         NVME_QUEUE_DEPTH or NVME_NUM_QUEUES"
    )]
    NoMemory {
        /// What was asked for.
        len_bytes: usize,
    },
    /// An interrupt vector that the function does not have.
    #[error("the controller's function has {available} interrupt vectors, number {vector} is not among them")]
    NoVector {
        /// The vector.
        vector: u16,
        /// How many there are.
        available: u16,
    },
    /// A register beyond the BAR.
    #[error("register offset {offset:#x} is beyond the controller's BAR of {len_bytes} bytes")]
    BeyondBar {
        /// Where.
        offset: usize,
        /// The BAR's length.
        len_bytes: usize,
    },
    /// The emulated device could not be made.
    #[error("the emulated controller: {0}")]
    Emulator(String),
    /// The operating system refused something.
    #[error("{0}")]
    System(String),
    /// The operating system does not let this process have something, by its user or by a limit.
    #[error("{0}")]
    NotPermitted(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(String),
}
