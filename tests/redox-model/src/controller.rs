//! A controller on the bus: its configuration space, its BARs, and how its interrupts travel.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use nvme_emulator::{Config, DmaFault, Emulator, HostMemory, Interrupts};
use syscall::error::{EINVAL, Error, Result};
use syscall::flag::MapFlags;

use crate::bar::{Bars, Layout};
use crate::kernel::Kernel;
use crate::machine::ControllerConfig;
use crate::pages::{PAGE_BYTES, Pages};
use crate::pcid::Channel;

/// Command register: memory space, bus master, interrupt disable.
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;

/// How a device says that something has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// By its line.
    Line,
    /// By one message for all vectors.
    Msi,
    /// By a message for each vector.
    MsiX,
}

/// What the configuration space holds, as far as anybody here looks.
#[derive(Clone, Copy)]
pub(crate) struct Space {
    pub command: u32,
    pub msix_enabled: bool,
    pub msix_masked: bool,
    pub msi_enabled: bool,
    pub msi_vectors_log2: u8,
    pub msi_address: u64,
    pub msi_data: u32,
    pub msi_mask: u32,
}

/// A controller on the bus of a [`Machine`](crate::Machine).
pub struct Controller {
    pub(crate) config: ControllerConfig,
    pub(crate) bars: Bars,
    pub(crate) channel: Mutex<Channel>,
    space: Mutex<Space>,
    /// Messages that were held back, by vector.
    pending: Mutex<Vec<bool>>,
    kernel: Weak<Kernel>,
    pages: Arc<Pages>,
    /// DMA that was refused because the bus master bit is clear.
    blocked: AtomicU64,
    gone: AtomicBool,
    /// How many want it to stand still.
    holders: AtomicUsize,
    /// Had by the device while it works.
    working: Mutex<()>,
    device: OnceLock<Arc<Emulator>>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A device that stands still. See [`Controller::hold`].
#[must_use = "the device goes on when this is dropped"]
#[derive(Debug)]
pub struct Held<'a>(&'a Controller);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::Release);
    }
}

/// The device's way to memory.
struct Dma(Weak<Controller>);

/// The device's way to the CPUs.
struct Vectors(Weak<Controller>);

impl Controller {
    pub(crate) fn new(kernel: &Arc<Kernel>, config: ControllerConfig) -> Arc<Self> {
        let mut device: Config = config.spec.parse().expect("the SPEC of the controller");
        let vectors = config.msix.unwrap_or(1).max(1);
        device.vectors = vectors;
        let controller = |of: &Weak<Self>| {
            let memory = Arc::new(Dma(Weak::clone(of)));
            let interrupts = Arc::new(Vectors(Weak::clone(of)));
            let device = Emulator::new(device, memory, interrupts).expect("the emulated controller");
            let layout = Layout::new(&config, device.registers().len_bytes());
            Self {
                bars: Bars::new(layout),
                channel: Mutex::default(),
                space: Mutex::new(Space {
                    // pcid-spawner has enabled it.
                    command: COMMAND_MEMORY | COMMAND_MASTER,
                    msix_enabled: false,
                    msix_masked: false,
                    msi_enabled: false,
                    msi_vectors_log2: 0,
                    msi_address: 0,
                    msi_data: 0,
                    msi_mask: 0,
                }),
                pending: Mutex::new(vec![false; usize::from(vectors)]),
                kernel: Arc::downgrade(kernel),
                pages: Arc::clone(&kernel.pages),
                blocked: AtomicU64::new(0),
                gone: AtomicBool::new(false),
                holders: AtomicUsize::new(0),
                working: Mutex::default(),
                device: OnceLock::from(device),
                config,
            }
        };
        Arc::new_cyclic(controller)
    }

    /// The device: to put faults on it, and to ask what it has really done. Who writes its registers here goes past the BAR.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn device(&self) -> &Arc<Emulator> {
        self.device.get().expect("set when it was made")
    }

    /// As it was configured.
    #[must_use]
    pub fn config(&self) -> &ControllerConfig {
        &self.config
    }

    /// How its interrupts travel at the moment. With MSI-X and MSI both enabled, which is not allowed, MSI-X.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        let space = self.space();
        match *space {
            Space {
                msix_enabled: true, ..
            } => Delivery::MsiX,
            Space {
                msi_enabled: true, ..
            } => Delivery::Msi,
            _ => Delivery::Line,
        }
    }

    /// Whether it may reach memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.space().command & COMMAND_MASTER != 0
    }

    /// DMA that was refused because it was no bus master.
    #[must_use]
    pub fn blocked_dma(&self) -> u64 {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Takes the device off the bus: everything reads as ones.
    pub fn unplug(&self) {
        self.gone.store(true, Ordering::Release);
        self.device().vanish();
    }

    /// Lets the device stand still until what this returns is dropped: what it has been asked meanwhile stays
    /// unanswered, however long the test takes.
    pub fn hold(&self) -> Held<'_> {
        self.holders.fetch_add(1, Ordering::AcqRel);
        // What it is just doing comes to its end first.
        drop(self.working.lock().unwrap_or_else(PoisonError::into_inner));
        Held(self)
    }

    /// Lets the device do `work`, unless it is to stand still.
    pub(crate) fn work<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let _working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        (self.holders.load(Ordering::Acquire) == 0).then(work)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(crate) fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dword at `offset` of the configuration space.
    pub(crate) fn read_space(&self, offset: u16) -> u32 {
        if self.is_gone() {
            return u32::MAX;
        }
        let ids = &self.config.ids;
        match offset & !3 {
            0x00 => u32::from(ids.device) << 16 | u32::from(ids.vendor),
            // Status: there is a list of capabilities.
            0x04 => self.space().command | 1 << 20,
            0x08 => {
                u32::from(ids.class) << 24
                    | u32::from(ids.subclass) << 16
                    | u32::from(ids.interface) << 8
                    | u32::from(ids.revision)
            }
            0x3C => u32::from(self.config.line.unwrap_or(0xFF)) | 1 << 8,
            _ => 0,
        }
    }

    pub(crate) fn write_space(&self, offset: u16, value: u32) {
        if offset & !3 == 4 && !self.is_gone() {
            self.space().command = value & 0x07FF;
        }
    }

    pub(crate) fn enable(&self) {
        self.space().command |= COMMAND_MEMORY | COMMAND_MASTER;
    }

    /// Maps a BAR, as the offset says: number, type of memory, and where in it.
    pub(crate) fn map_bar(
        &self,
        offset: u64,
        len_bytes: usize,
        flags: MapFlags,
    ) -> Result<std::ptr::NonNull<u8>> {
        let (bar, within) = ((offset >> 61) as usize, offset & ((1 << 59) - 1));
        let is_type = offset >> 59 & 3 < 3;
        let is_shared = flags.contains(MapFlags::MAP_SHARED) && !flags.contains(MapFlags::MAP_PRIVATE);
        let file = self.bars.file(bar).ok_or(Error::new(EINVAL))?;
        let whole_bytes = len_bytes.next_multiple_of(PAGE_BYTES) as u64;
        let fits =
            within.is_multiple_of(PAGE_BYTES as u64) && within + whole_bytes <= self.bars.len_bytes(bar);
        if !is_type || !is_shared || !fits {
            return Err(Error::new(EINVAL));
        }
        self.pages.map_bar(file, within, whole_bytes as usize)
    }

    fn raise(&self, vector: u16) {
        let Some(kernel) = self.kernel.upgrade() else {
            return;
        };
        match self.delivery() {
            Delivery::MsiX => {
                if self.is_held_back(vector) {
                    self.set_pending(vector, true);
                } else if let Some((address, data)) = self.bars.message(vector) {
                    kernel.lock().deliver_message(address, data);
                }
            }
            Delivery::Msi => {
                let space = *self.space();
                if space.msi_mask & 1 != 0 {
                    self.set_pending(0, true);
                } else {
                    kernel.lock().deliver_message(space.msi_address, space.msi_data);
                }
            }
            Delivery::Line => {
                let is_off = self.space().command & COMMAND_NO_INTX != 0;
                if let Some(line) = self.config.line.filter(|_| !is_off) {
                    kernel.lock().assert_line(line);
                }
            }
        }
    }

    fn is_held_back(&self, vector: u16) -> bool {
        self.space().msix_masked || self.bars.is_masked(vector)
    }

    fn set_pending(&self, vector: u16, is_pending: bool) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = pending.get_mut(usize::from(vector)) {
            *pending = is_pending;
        }
        drop(pending);
        self.bars.set_pending(vector, is_pending);
    }

    /// Sends what was held back and is not any more. True if there was any.
    pub(crate) fn send_pending(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let vectors: Vec<u16> = (0..)
            .zip(pending.iter())
            .filter(|(_, is)| **is)
            .map(|(vector, _)| vector)
            .collect();
        drop(pending);
        let mut sent = false;
        for vector in vectors {
            let held_back = match self.delivery() {
                Delivery::MsiX => self.is_held_back(vector),
                Delivery::Msi => self.space().msi_mask & 1 != 0,
                Delivery::Line => true,
            };
            if !held_back {
                self.set_pending(vector, false);
                self.raise(vector);
                sent = true;
            }
        }
        sent
    }
}

impl Dma {
    fn pages(&self, address: u64, len_bytes: usize) -> Result<Arc<Controller>, DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: len_bytes as u64,
        };
        let controller = self.0.upgrade().ok_or(fault)?;
        if !controller.is_bus_master() {
            controller.blocked.fetch_add(1, Ordering::Relaxed);
            return Err(fault);
        }
        Ok(controller)
    }
}

impl HostMemory for Dma {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        self.pages(address, into.len())?.pages.device_reads(address, into)
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        self.pages(address, from.len())?
            .pages
            .device_writes(address, from)
    }

    fn load_u32(&self, address: u64) -> Result<u32, DmaFault> {
        self.pages(address, 4)?.pages.device_loads(address)
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        self.pages(address, 4)?.pages.device_stores(address, value)
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        if let Some(controller) = self.0.upgrade() {
            controller.raise(vector);
        }
    }
}
