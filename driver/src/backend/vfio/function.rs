//! An open function: its regions, its configuration space, its reset.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, vfio_irq_info,
};

use super::chain::Region;
use super::container::Container;
use super::error::VfioError;
use super::host::PciAddress;
use super::ioctl;
use crate::backend::linux::bar::{Access, Area, Bar};

/// Offset of the register Command in the configuration space (PCI Local Bus 3.0 section 6.2.2).
const COMMAND: u64 = 4;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;

/// BAR 0 has at least the registers and the doorbells of the admin queue (NVMe over PCIe Transport 1.0 section 3.1.2).
const MIN_BAR_BYTES: u64 = 0x1008;
/// No more of a BAR is mapped than this. The registers and doorbells of any number of queues that this driver makes are
/// within, while a BAR may hold gigabytes of other things besides.
const MAX_MAPPED_BYTES: u64 = 2 << 20;

/// An open function. Its container stays for as long as it is open.
#[derive(Debug)]
pub(super) struct OpenFunction {
    // In this order, when it goes.
    file: OwnedFd,
    _container: Arc<Container>,
    address: PciAddress,
    config: Region,
    can_reset: bool,
}

impl OpenFunction {
    /// Opens the function. The kernel resets it then, if it can be reset at all.
    pub(super) fn open(container: &Arc<Container>, address: PciAddress) -> Result<Arc<Self>, VfioError> {
        let file = container.device(address)?;
        let info =
            ioctl::device_info(&file).map_err(VfioError::of(format!("asking {address} what it is")))?;
        let config = region(&file, address, VFIO_PCI_CONFIG_REGION_INDEX)?;
        Ok(Arc::new(Self {
            file,
            _container: Arc::clone(container),
            address,
            config,
            can_reset: info.flags & VFIO_DEVICE_FLAGS_RESET != 0,
        }))
    }

    /// Maps BAR 0.
    pub(super) fn bar(self: &Arc<Self>) -> Result<Arc<Bar>, VfioError> {
        let region = region(&self.file, self.address, VFIO_PCI_BAR0_REGION_INDEX)?;
        let Some(len) = usize::try_from(region.len_bytes)
            .ok()
            .filter(|_| region.len_bytes >= MIN_BAR_BYTES)
        else {
            return Err(VfioError::Function {
                address: self.address,
                what: format!(
                    "its BAR 0 has {} bytes, and a controller's registers need {MIN_BAR_BYTES}",
                    region.len_bytes
                ),
            });
        };
        let mut areas = Vec::new();
        for (start, area_bytes) in region.mappable {
            let area_bytes = area_bytes.min(MAX_MAPPED_BYTES.saturating_sub(start));
            if area_bytes == 0 {
                continue;
            }
            let area = Area::map(
                &self.file,
                region.offset + start,
                start as usize,
                area_bytes as usize,
            );
            areas.push(area.map_err(VfioError::of(format!(
                "mapping {area_bytes} bytes at {start:#x} of BAR 0 of {}",
                self.address
            )))?);
        }
        let calls = Calls {
            function: Arc::clone(self),
            offset: region.offset,
        };
        Ok(Bar::new(len, areas, calls))
    }

    /// How the function can interrupt by the way `index`.
    pub(super) fn irq_info(&self, index: u32) -> io::Result<vfio_irq_info> {
        ioctl::irq_info(&self.file, index)
    }

    /// See [`ioctl::set_irqs`].
    pub(super) fn set_irqs(
        &self,
        flags: u32,
        index: u32,
        range: (u32, u32),
        eventfds: &[i32],
    ) -> io::Result<i32> {
        ioctl::set_irqs(&self.file, flags, index, range, eventfds)
    }

    /// Lets the function answer, and write to memory.
    pub(super) fn enable(&self) -> Result<(), VfioError> {
        let enable = || {
            let command = self.command()?;
            self.set_command(command | MEMORY_SPACE | BUS_MASTER)
        };
        enable().map_err(VfioError::of(format!("making {} bus master", self.address)))
    }

    /// Keeps the function from writing to memory; whether it is kept from that then.
    pub(super) fn clear_bus_master(&self) -> io::Result<bool> {
        let command = self.command()?;
        // All ones: it is not on the bus any more.
        if command != u16::MAX {
            self.set_command(command & !BUS_MASTER)?;
        }
        let command = self.command()?;
        Ok(command == u16::MAX || command & BUS_MASTER == 0)
    }

    /// Resets the function; whether it could be.
    pub(super) fn reset(&self) -> bool {
        if !self.can_reset {
            return false;
        }
        ioctl::reset(&self.file)
            .inspect_err(|error| log::warn!("resetting {}: {error}", self.address))
            .is_ok()
    }

    fn command(&self) -> io::Result<u16> {
        let mut bytes = [0; 2];
        read(&self.file, self.config.offset + COMMAND, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn set_command(&self, command: u16) -> io::Result<()> {
        write(&self.file, self.config.offset + COMMAND, &command.to_le_bytes())
    }
}

fn region(file: &OwnedFd, address: PciAddress, index: u32) -> Result<Region, VfioError> {
    let bytes = ioctl::region_info(file, index)
        .map_err(VfioError::of(format!("asking {address} for its region {index}")))?;
    let page_bytes = rustix::param::page_size() as u64;
    Region::parse(&bytes, page_bytes).ok_or_else(|| VfioError::Function {
        address,
        what: format!("what the kernel says of its region {index} makes no sense"),
    })
}

/// A BAR by calls: for what of it is not mapped.
struct Calls {
    function: Arc<OpenFunction>,
    offset: u64,
}

impl Access for Calls {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        read(&self.function.file, self.offset.saturating_add(offset), into)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        write(&self.function.file, self.offset.saturating_add(offset), from)
    }
}

/// A register is read by one call, or not at all.
fn read(file: &OwnedFd, offset: u64, into: &mut [u8]) -> io::Result<()> {
    match rustix::io::pread(file, &mut *into, offset)? {
        read if read == into.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn write(file: &OwnedFd, offset: u64, from: &[u8]) -> io::Result<()> {
    match rustix::io::pwrite(file, from, offset)? {
        written if written == from.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
