//! The PCI function that is served: what its regions hold, around an emulated controller.
//!
//! | region | |
//! | --- | --- |
//! | 0 | BAR 0: the controller's registers, and from 1000h on its doorbells |
//! | 4 | BAR 4: the MSI-X table and its pending bits |
//! | 7 | the configuration space, 4096 bytes |
//!
//! It has no line (INTx), no MSI and no ROM.

use std::sync::Arc;

use nvme_emulator::Emulator;
use rustix::io::Errno;

use super::wire::RegionInfo;
use crate::backend::vfio_user::shared::ClientMemory;

mod config_space;
pub(crate) mod vectors;

use config_space::{Bars, CONFIG_BYTES, ConfigSpace};
pub(crate) use config_space::{CLASS, COMMAND, Effect, MSIX_ENABLE, MSIX_ID};
use vectors::Vectors;

/// Regions of a PCI function in VFIO's order: BARs 0 to 5, ROM, configuration space, VGA.
pub const REGIONS: u32 = 9;
/// Kinds of interrupts in VFIO's order: INTx, MSI, MSI-X. There is no notice of errors and none of the system's wanting the
/// function back, which come after these.
pub const IRQS: u32 = 3;
/// BAR 0.
pub const REGION_REGISTERS: u32 = 0;
/// BAR 4.
pub const REGION_MSIX: u32 = 4;
/// The configuration space.
pub const REGION_CONFIG: u32 = 7;
/// MSI-X.
pub const IRQ_MSIX: u32 = 2;

const PAGE_BYTES: u64 = 4096;
/// Bytes of an entry of the MSI-X table.
const ENTRY_BYTES: usize = 16;
/// Vector Control of an entry, and in it the mask bit, which is set after a reset.
const VECTOR_CONTROL: usize = 12;

/// The function. One thread turns it; the device's threads see what of it concerns them by [`Vectors`] and
/// [`ClientMemory`].
pub(crate) struct Function {
    emulator: Arc<Emulator>,
    vectors: Arc<Vectors>,
    memory: Arc<ClientMemory>,
    bars: Bars,
    config: ConfigSpace,
    table: Box<[u8]>,
}

impl Function {
    /// The function around `emulator`, as after power on.
    pub(crate) fn new(emulator: Arc<Emulator>, vectors: Arc<Vectors>, memory: Arc<ClientMemory>) -> Self {
        let count = u16::try_from(vectors.count()).unwrap_or(u16::MAX);
        let table_bytes = (u64::from(count) * ENTRY_BYTES as u64).next_multiple_of(PAGE_BYTES);
        let bars = Bars {
            registers_bytes: (emulator.registers().len_bytes() as u64).next_power_of_two(),
            msix_bytes: (table_bytes + PAGE_BYTES).next_power_of_two(),
            pba_offset: u32::try_from(table_bytes).unwrap_or(u32::MAX),
            vectors: count,
        };
        Self {
            config: ConfigSpace::new(bars),
            table: new_table(count),
            emulator,
            vectors,
            memory,
            bars,
        }
    }

    /// Bytes and flags of a region; without any if there is none.
    pub(crate) fn region(&self, index: u32) -> (u64, u32) {
        let read_write = RegionInfo::READ | RegionInfo::WRITE;
        match index {
            REGION_REGISTERS => (self.bars.registers_bytes, read_write),
            REGION_MSIX => (self.bars.msix_bytes, read_write),
            REGION_CONFIG => (CONFIG_BYTES as u64, read_write),
            _ => (0, 0),
        }
    }

    /// Reads a region.
    ///
    /// # Errors
    /// What is not all inside, and accesses to registers that are not of a size or alignment that they can have.
    pub(crate) fn read(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), Errno> {
        let offset = self.check(region, offset, into.len())?;
        match region {
            REGION_REGISTERS => self.read_registers(offset, into),
            REGION_MSIX => {
                self.read_msix(offset, into);
                Ok(())
            }
            _ => {
                self.config.read(offset, into);
                Ok(())
            }
        }
    }

    /// Writes a region.
    ///
    /// # Errors
    /// As [`Function::read`].
    pub(crate) fn write(&mut self, region: u32, offset: u64, from: &[u8]) -> Result<Effect, Errno> {
        let offset = self.check(region, offset, from.len())?;
        match region {
            REGION_REGISTERS => self.write_registers(offset, from).map(|()| Effect::None),
            REGION_MSIX => {
                for (at, byte) in (offset..).zip(from) {
                    if let Some(place) = self.table.get_mut(at) {
                        *place = *byte;
                    }
                }
                Ok(Effect::None)
            }
            _ => {
                let effect = self.config.write(offset, from);
                self.apply_config();
                Ok(effect)
            }
        }
    }

    /// The configuration space and the table are as after power on.
    pub(crate) fn reset(&mut self) {
        self.config = ConfigSpace::new(self.bars);
        self.table = new_table(self.bars.vectors);
        self.apply_config();
    }

    fn apply_config(&self) {
        self.memory.set_bus_master(self.config.is_bus_master());
        let (enabled, masked) = self.config.msix();
        self.vectors.set_control(enabled, masked);
    }

    fn check(&self, region: u32, offset: u64, len: usize) -> Result<usize, Errno> {
        let (bytes, _) = self.region(region);
        let inside = offset <= bytes && len as u64 <= bytes - offset;
        usize::try_from(offset)
            .ok()
            .filter(|_| inside && bytes > 0)
            .ok_or(Errno::INVAL)
    }

    /// Registers are read by whole dwords, of which a part may be wanted.
    fn read_registers(&self, offset: usize, into: &mut [u8]) -> Result<(), Errno> {
        let registers = self.emulator.registers();
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let skip = at % 4;
            let bytes = registers.read32(at - skip).to_le_bytes();
            let part = bytes.get(skip..).unwrap_or_default();
            let len = part.len().min(rest.len());
            let (to, left) = rest.split_at_mut_checked(len).ok_or(Errno::INVAL)?;
            to.copy_from_slice(part.get(..len).ok_or(Errno::INVAL)?);
            at += len;
            rest = left;
        }
        Ok(())
    }

    /// Registers are written by whole dwords (NVMe Base 2.0, section 3.1.3: what a part of one would do is undefined).
    fn write_registers(&self, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let (dwords, []) = from.as_chunks::<4>() else {
            return Err(Errno::INVAL);
        };
        if !offset.is_multiple_of(4) {
            return Err(Errno::INVAL);
        }
        for (at, dword) in (offset..).step_by(4).zip(dwords) {
            self.emulator.registers().write32(at, u32::from_le_bytes(*dword));
        }
        Ok(())
    }

    fn read_msix(&self, offset: usize, into: &mut [u8]) {
        let pba: Vec<u8> = self.vectors.pending_words().flat_map(u64::to_le_bytes).collect();
        for (at, byte) in (offset..).zip(into) {
            let pending = || pba.get(at.checked_sub(self.bars.pba_offset as usize)?);
            *byte = self.table.get(at).or_else(pending).copied().unwrap_or(0);
        }
    }
}

/// All vectors masked, as after a reset.
fn new_table(vectors: u16) -> Box<[u8]> {
    let mut table = vec![0; usize::from(vectors) * ENTRY_BYTES];
    for control in table.iter_mut().skip(VECTOR_CONTROL).step_by(ENTRY_BYTES) {
        *control = 1;
    }
    table.into()
}

#[cfg(test)]
mod tests;
