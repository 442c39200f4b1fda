//! A controller on Linux that is bound to vfio-pci: the kernel hands the function over, and its IOMMU keeps the function to
//! the memory that this process maps for it.
//!
//! | file | subject |
//! | --- | --- |
//! | [`host`] | what sysfs says of functions, before any is opened |
//! | [`error`] | why a function cannot be had, with what to do |
//! | `container` | a group with its IOMMU; memory is mapped there |
//! | `function` | regions, configuration space, reset |
//! | `irq` | MSI-X, MSI or the line, each vector an eventfd; the system's notices |
//! | `physical` | memory without an IOMMU |
//! | `chain`, `ioctl` | the kernel's structures and calls |
//!
//! Groups and containers (type 1, version 2) are what is used: every kernel since 4.0 has them. Structures and constants
//! are those of the crate vfio-bindings, calls are rustix's. The crate vfio-ioctls would do the calls, but brings
//! vm-memory and vmm-sys-util along, maps what those describe, and answers a missing IOMMU with the same error as a missing
//! permission.
//!
//! The kernel resets a function when it is opened and when it is closed, if that can be done. Here it is reset before it
//! is closed, since a mapping of its BAR may keep it open.

use std::any::Any;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::linux::bar::Bar;
use super::linux::memory::{Mapper, Memory, Plan};
use super::linux::numa;
use super::{Backend, BackendError, Departure, Doorbell, Waiter, Windows};
use crate::dma::{Region, Registration, SharedMemory};

mod chain;
mod container;
pub mod error;
mod function;
pub mod host;
mod ioctl;
mod irq;
mod physical;

#[cfg(test)]
pub(crate) mod tests;

use container::Container;
use error::VfioError;
use function::OpenFunction;
use host::{Function, Group, Host, PciAddress};
use irq::Interrupts;
pub use irq::IrqMode;
use physical::Physical;

/// What the driver needs at least with one I/O queue: it is tried before the controller is touched.
const NEEDED_REGIONS: usize = 5;
const NEEDED_REGION_BYTES: usize = 2 << 20;

/// Which function, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VfioDevice {
    /// Where it is.
    pub address: PciAddress,
    /// Without an IOMMU: nothing keeps the device from any memory of the machine.
    pub is_unprotected: bool,
    /// No other kind of interrupt than this.
    pub irq_mode: Option<IrqMode>,
}

impl FromStr for VfioDevice {
    type Err = String;

    /// `0000:01:00.0`, then options: `noiommu`, `irq=msix`, `irq=msi`, `irq=intx`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut device = Self {
            address: parts.next().unwrap_or_default().parse()?,
            is_unprotected: false,
            irq_mode: None,
        };
        for option in parts {
            match option.split_once('=') {
                None if option == "noiommu" => device.is_unprotected = true,
                Some(("irq", mode)) => device.irq_mode = Some(mode.parse()?),
                _ => {
                    return Err(format!(
                        "\"{option}\" is not an option of vfio; there are noiommu and irq=msix|msi|intx"
                    ));
                }
            }
        }
        Ok(device)
    }
}

impl VfioDevice {
    /// The function and its group, if it can be opened as far as sysfs tells.
    ///
    /// # Errors
    /// Why not.
    pub fn find(&self, host: &Host) -> Result<(Function, Group), VfioError> {
        let address = self.address;
        let function = host.function(address).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                VfioError::NoFunction {
                    address,
                    others: host.controllers_in_words(),
                }
            } else {
                VfioError::of(format!("asking sysfs for {address}"))(error)
            }
        })?;
        if !function.is_nvme() {
            return Err(VfioError::NotNvme {
                address,
                class: function.class,
                others: host.controllers_in_words(),
            });
        }
        let group = function.group.clone();
        match &group {
            Some(group) if group.is_made_up != self.is_unprotected => {
                return Err(if self.is_unprotected {
                    let why = "this machine's IOMMU protects it, so leave noiommu out".to_owned();
                    VfioError::Unprotected { address, why }
                } else {
                    let why = "the kernel's driver has been told to do without (enable_unsafe_noiommu_mode)";
                    VfioError::NoIommu { address, why }
                });
            }
            None if !self.is_unprotected => {
                let why = if host.has_iommu() {
                    "the machine has one, but this function is not behind it"
                } else {
                    "turn it on in the firmware (VT-d, AMD-Vi, SMMU), and on machines of Intel's also by the kernel's parameter \
                     intel_iommu=on; a virtual machine needs a virtual one (for QEMU: -device intel-iommu,intremap=on)"
                };
                return Err(VfioError::NoIommu { address, why });
            }
            _ => {}
        }
        if !function.is_bound() {
            let driver = match &function.driver {
                Some(driver) => format!("the kernel's driver {driver}"),
                None => "no driver".to_owned(),
            };
            return Err(VfioError::NotBound { address, driver });
        }
        let group = group.ok_or_else(|| VfioError::Unprotected {
            address,
            why: "the kernel has not made a group for it: load vfio with enable_unsafe_noiommu_mode=1 (a kernel built with \
                  CONFIG_VFIO_NOIOMMU has that) before nvmectl bind"
                .to_owned(),
        })?;
        Ok((function, group))
    }
}

/// A controller behind VFIO.
pub struct VfioBackend {
    address: PciAddress,
    numa_node: Option<u32>,
    /// CPUs of that node.
    cpus: Vec<u32>,
    // In this order, when it goes.
    interrupts: Interrupts,
    bar: Arc<Bar>,
    function: Arc<OpenFunction>,
    memory: Memory,
}

impl VfioBackend {
    /// Opens `device`, which must be bound to vfio-pci.
    ///
    /// # Errors
    /// Why it cannot be had, with what to do about it.
    pub fn open(host: &Host, device: &VfioDevice) -> Result<Self, VfioError> {
        let (function, group) = device.find(host)?;
        let address = function.address;
        let container = Arc::new(Container::open(host, &function, &group)?);
        let memory = if device.is_unprotected {
            log::warn!(
                "{address} is used without an IOMMU: a fault in the device, in its firmware or in this program can overwrite \
                 any memory of this machine"
            );
            let pagemap = Physical::new(&host.path("proc/self/pagemap"), &container)
                .map_err(VfioError::of("opening /proc/self/pagemap"))?;
            let plan = Plan {
                numa_node: function.numa_node,
                ..Physical::plan()
            };
            Memory::new(Arc::new(pagemap), plan)
        } else {
            let plan = Plan {
                iovas: container.iovas(),
                numa_node: function.numa_node,
                ..Plan::default()
            };
            Memory::new(Arc::clone(&container) as Arc<dyn Mapper>, plan)
        };
        // Before the controller is touched. What is given back is there for those who need it.
        let tried = (0..NEEDED_REGIONS).map(|_| memory.allocate(NEEDED_REGION_BYTES));
        let tried = tried.collect::<Result<Vec<_>, _>>();
        match tried {
            Err(BackendError::NoMemory { .. }) if device.is_unprotected => {
                return Err(VfioError::Unprotected {
                    address,
                    why: format!(
                        "it takes huge pages, whose place in memory is known, at least {NEEDED_REGIONS} of them, and there are \
                         not as many free: sysctl vm.nr_hugepages=64"
                    ),
                });
            }
            tried => drop(tried?),
        }
        let function_file = OpenFunction::open(&container, address)?;
        let bar = function_file.bar()?;
        let interrupts = Interrupts::set_up(&function_file, address, device.irq_mode)?;
        function_file.enable()?;
        log::info!(
            "{address}: group {}, NUMA node {:?}, {bar:?}",
            group.number,
            function.numa_node
        );
        Ok(Self {
            address,
            numa_node: function.numa_node,
            cpus: function
                .numa_node
                .map_or_else(Vec::new, |node| host.cpus_of_node(node)),
            interrupts,
            bar,
            function: function_file,
            memory,
        })
    }
}

// SAFETY: the arena gives each byte to one region only; there are no windows.
unsafe impl Backend for VfioBackend {
    fn name(&self) -> &'static str {
        "vfio"
    }

    fn pci(&self) -> Option<String> {
        Some(self.address.to_string())
    }

    fn irq_mode(&self) -> &'static str {
        self.interrupts.mode().name()
    }

    fn numa_node(&self) -> Option<u32> {
        self.numa_node
    }

    fn near(&self) -> Option<Box<dyn Any>> {
        let preference = numa::Preference::of(self.numa_node?)?;
        Some(Box::new(preference))
    }

    fn settle_thread(&self) {
        let Some(node) = self.numa_node else { return };
        if let Some(preference) = numa::Preference::of(node) {
            preference.keep();
        }
        if let Err(error) = numa::keep_to(&self.cpus) {
            log::info!(
                "{}: a worker runs anywhere, not near NUMA node {node}: {error}",
                self.address
            );
        }
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
        self.memory.max_region_bytes()
    }

    fn vectors(&self) -> u16 {
        self.interrupts.vectors()
    }

    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError> {
        Ok(Box::new(self.interrupts.waiter(vector)?))
    }

    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        self.memory.register(memory)
    }

    /// The IOMMU's table is too slow to change for each command.
    fn windows(&self, _qid: u16, _slots: usize, _page_bytes: usize) -> Option<Box<dyn Windows>> {
        None
    }

    fn cut_off(&self) -> bool {
        match self.function.clear_bus_master() {
            Ok(true) => true,
            Ok(false) => {
                log::error!(
                    "{} stays bus master though it was told not to be; it may write to the memory mapped for it",
                    self.address
                );
                false
            }
            Err(error) => {
                log::error!("bus mastering of {} cannot be turned off: {error}", self.address);
                false
            }
        }
    }

    fn departure(&self) -> Option<Departure> {
        self.interrupts.departure()
    }
}

impl Drop for VfioBackend {
    fn drop(&mut self) {
        // Doorbells may keep the function open. From here on it does nothing by itself.
        self.cut_off();
        self.interrupts.disable();
        self.function.reset();
    }
}

impl fmt::Debug for VfioBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VfioBackend({})", self.address)
    }
}
