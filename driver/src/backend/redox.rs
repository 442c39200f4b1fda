//! A controller on Redox: what pcid hands to its driver, by the kernel's calls ([`System`]).
//!
//! Compiled on every 64-bit system, since nothing in here calls the kernel but through that seam.
//!
//! | file | subject |
//! | --- | --- |
//! | [`pcid`] | the channel to pcid, and what the function is |
//! | `bar` | registers and doorbells |
//! | `irq` | MSI-X, MSI and the line; numbers and CPUs |
//! | `memory` | memory for DMA, and clients' pages |
//! | `waiter` | how a thread sleeps |
//!
//! What is needed later is opened at the start, but for waiters: those are made, with the interrupts that they wait for,
//! before the process gives up its namespace.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Backend, BackendError, Doorbell, Waiter};
use crate::clock::Clock;
use crate::dma::{Region, Registration, SharedMemory};
use crate::redox::{Descriptor, Failure, System};

mod bar;
mod irq;
mod memory;
pub mod pcid;
pub(crate) mod waiter;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use bar::MappedBar;
use irq::{BUS_MASTER, COMMAND, Interrupts};
use memory::Memory;
use pcid::{Function, Pcid, PcidError};
use waiter::RedoxWaiter;

/// BAR 0 has at least the registers and the doorbells of the admin queue (NVMe over PCIe Transport 1.0 section 3.1.2).
const MIN_BAR_BYTES: u64 = 0x1008;

/// Why a controller could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// pcid did not do its part.
    #[error(transparent)]
    Pcid(#[from] PcidError),
    /// The kernel refused something.
    #[error(transparent)]
    Kernel(#[from] Failure),
    /// A BAR is not what it has to be.
    #[error("BAR {number} of the function cannot be used: {what}")]
    Bar {
        /// Which.
        number: u8,
        /// What is wrong.
        what: String,
    },
    /// The table of MSI-X is not what it has to be.
    #[error("the table of MSI-X cannot be used: {0}")]
    Table(String),
    /// All interrupt numbers are taken.
    #[error(
        "no interrupt number is free on any CPU; those of drivers that were started again and again are back after a reboot"
    )]
    NoNumber,
    /// There is no way in which the function could interrupt.
    #[error(
        "the function has no interrupts: neither MSI-X nor MSI can be used, and it has no line; see the messages before this \
         one, and the firmware's settings of the device"
    )]
    NoInterrupt,
    /// Nothing answers where the function was.
    #[error("nothing answers where the function is on the bus; was the device taken out?")]
    Absent,
}

/// A controller on Redox, as pcid has handed it over.
pub struct RedoxBackend {
    system: Arc<dyn System>,
    clock: Clock,
    pcid: Pcid,
    function: Function,
    bar: Arc<MappedBar>,
    memory: Memory,
    interrupts: Interrupts,
}

impl RedoxBackend {
    /// The controller behind `channel`, which pcid has handed over; interrupts are spread over all CPUs.
    ///
    /// # Errors
    /// What pcid, the kernel or the function do not give, in words that a log can have.
    pub fn connect(
        system: &Arc<dyn System>,
        channel: Descriptor,
        clock: Clock,
    ) -> Result<Arc<Self>, ConnectError> {
        Self::connect_on(system, channel, clock, crate::cpu::count())
    }

    /// As [`RedoxBackend::connect`], on a machine of `cpus` CPUs that have been started.
    ///
    /// # Errors
    /// As there.
    pub fn connect_on(
        system: &Arc<dyn System>,
        channel: Descriptor,
        clock: Clock,
        cpus: u16,
    ) -> Result<Arc<Self>, ConnectError> {
        let pcid = Pcid::new(channel);
        let function = pcid.function()?;
        log::info!(
            "{}: vendor {:#06x}, device {:#06x}, revision {:#04x}",
            function.address(),
            function.vendor_id,
            function.device_id,
            function.revision
        );
        if pcid.read_config(COMMAND)? == u32::MAX {
            return Err(ConnectError::Absent);
        }
        let bar = MappedBar::map(pcid.channel(), &function, 0, MIN_BAR_BYTES)?;
        let memory = Memory::open(system)?;
        let interrupts = Interrupts::set_up(system, &pcid, &function, &bar, cpus)?;
        Ok(Arc::new(Self {
            system: Arc::clone(system),
            clock,
            pcid,
            function,
            bar,
            memory,
            interrupts,
        }))
    }

    /// As Redox names schemes after the function: `pci-0000-00-02.0`.
    pub fn pci_name(&self) -> String {
        self.function.name()
    }

    /// Clears the bit that lets the function write to memory; whether it is clear then.
    fn clear_bus_master(&self) -> Result<bool, PcidError> {
        let command = self.pcid.read_config(COMMAND)?;
        if command == u32::MAX {
            // It is not on the bus.
            return Ok(true);
        }
        // The upper half are states, which a written 1 clears.
        self.pcid.write_config(COMMAND, command & 0xFFFF & !BUS_MASTER)?;
        let command = self.pcid.read_config(COMMAND)?;
        Ok(command == u32::MAX || command & BUS_MASTER == 0)
    }
}

// SAFETY: each region is a mapping of its own, whose pages the kernel gives to nobody else while it stands. A window has no
// mapping that could be left behind: clients' pages are the device's while a command is out on them, and the kernel keeps
// them until the call is answered, which is after that.
unsafe impl Backend for RedoxBackend {
    fn name(&self) -> &'static str {
        "redox"
    }

    fn pci(&self) -> Option<String> {
        Some(self.function.address())
    }

    fn irq_mode(&self) -> &'static str {
        self.interrupts.mode()
    }

    fn read32(&self, offset: usize) -> u32 {
        self.bar.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.bar.write32(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, BackendError> {
        self.bar.doorbell(offset)
    }

    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        self.memory.allocate(len_bytes)
    }

    fn max_region_bytes(&self) -> usize {
        memory::MAX_REGION_BYTES
    }

    fn vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError> {
        let interrupt = self.interrupts.get(vector)?;
        let waiter = RedoxWaiter::new(&self.system, interrupt, self.clock.clone())
            .map_err(|failure| BackendError::System(failure.to_string()))?;
        Ok(Box::new(waiter))
    }

    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        self.memory.register(memory)
    }

    #[cfg(feature = "zero-copy")]
    fn windows(&self, _qid: u16, _slots: usize, page_bytes: usize) -> Option<Box<dyn super::Windows>> {
        self.memory.windows(page_bytes)
    }

    fn cut_off(&self) -> bool {
        match self.clear_bus_master() {
            Ok(true) => true,
            Ok(false) => {
                log::error!(
                    "the function stays bus master though it was told not to be; it may write to memory"
                );
                false
            }
            Err(error) => {
                log::error!("bus mastering cannot be turned off: {error}; the device may write to memory");
                false
            }
        }
    }

    fn cpu_of(&self, vector: u16) -> Option<u32> {
        self.interrupts.cpu_of(vector)
    }

    fn pin_thread(&self, cpu: u32) {
        if let Err(error) = self.system.pin_thread(cpu) {
            log::warn!("a thread cannot be bound to CPU {cpu}: {error}; it runs anywhere");
        }
    }

    fn shortest_sleep(&self) -> Duration {
        waiter::SHORTEST_SLEEP
    }
}

impl fmt::Debug for RedoxBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedoxBackend({})", self.function.address())
    }
}
