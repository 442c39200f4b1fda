//! The configuration space of the function that is served: 4096 bytes, of which a type 0 header and three capabilities
//! are anything else than 0 (PCI Express Base 5.0, sections 7.5 and 7.7).

use super::vectors::MAX_VECTORS;

/// Bytes of a PCI Express function's configuration space.
pub(crate) const CONFIG_BYTES: usize = 4096;
/// Bytes of the part that PCI has as well, where everything is.
const LEGACY_BYTES: usize = 256;

/// Vendor identifier: that of no vendor, as Identify Controller has it.
pub(crate) const VENDOR_ID: u16 = 0xFFFE;
/// Device identifier.
pub(crate) const DEVICE_ID: u16 = 0x4E56;
/// Mass storage, non-volatile memory, NVM Express (NVMe over PCIe Transport 1.0, section 3.8).
pub(crate) const CLASS: u32 = 0x01_08_02;

pub(crate) const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const BAR0: usize = 0x10;
const SUBSYSTEM: usize = 0x2C;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3C;

/// Command: memory space, bus master, interrupt disable.
const COMMAND_WRITABLE: u16 = 1 << 1 | BUS_MASTER | 1 << 10;
/// Command: the function may reach memory.
const BUS_MASTER: u16 = 1 << 2;
/// Status: there are capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// BAR: memory, anywhere in 64 bits.
const BAR_64: u32 = 0b100;

/// Power management.
const PM: usize = 0x40;
const PM_ID: u8 = 0x01;
/// Version 3.
const PM_VERSION: u16 = 3;
/// PMCSR: coming back from D3hot resets nothing.
const PM_NO_SOFT_RESET: u16 = 1 << 3;
/// PMCSR: the power state.
const PM_STATE: u16 = 0b11;

/// MSI-X.
pub(crate) const MSIX: usize = 0x50;
pub(crate) const MSIX_ID: u8 = 0x11;
/// Message Control: MSI-X Enable.
pub(crate) const MSIX_ENABLE: u16 = 1 << 15;
/// Message Control: Function Mask.
pub(crate) const MSIX_MASK: u16 = 1 << 14;

/// PCI Express.
const EXPRESS: usize = 0x60;
const EXPRESS_ID: u8 = 0x10;
/// An endpoint, version 2 of the capability.
const EXPRESS_ENDPOINT: u16 = 0x0002;
/// Device Capabilities: role-based error reporting, and Function Level Reset.
const DEVICE_CAPABILITIES: u32 = 1 << 15 | 1 << 28;
/// Device Control: Initiate Function Level Reset. Reads as 0.
const INITIATE_FLR: u16 = 1 << 15;
/// Device Control: what may be set and means nothing here.
const DEVICE_CONTROL_WRITABLE: u16 = 0x7FFF;
/// Link Capabilities and Status: 8 GT/s, four lanes.
const LINK: u32 = 0x43;

/// What the function has in its BARs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bars {
    /// Of BAR 0, a power of two.
    pub registers_bytes: u64,
    /// Of BAR 4, a power of two.
    pub msix_bytes: u64,
    /// Where in BAR 4 the pending bits are.
    pub pba_offset: u32,
    /// How many there are, 1 to 2048.
    pub vectors: u16,
}

/// What a write has come to, beyond the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Function Level Reset was asked for.
    Reset,
}

/// The bytes, and which of their bits can be written.
#[derive(Clone)]
pub(crate) struct ConfigSpace {
    bytes: [u8; LEGACY_BYTES],
    writable: [u8; LEGACY_BYTES],
}

impl ConfigSpace {
    /// As it is after power on.
    pub(crate) fn new(bars: Bars) -> Self {
        let mut space = Self {
            bytes: [0; LEGACY_BYTES],
            writable: [0; LEGACY_BYTES],
        };
        space.put(0, &VENDOR_ID.to_le_bytes());
        space.put(2, &DEVICE_ID.to_le_bytes());
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        // The revision, 0, is below the class.
        space.put(REVISION, &(CLASS << 8).to_le_bytes());
        space.put(SUBSYSTEM, &VENDOR_ID.to_le_bytes());
        space.put(SUBSYSTEM + 2, &DEVICE_ID.to_le_bytes());
        for (bar, bytes) in [(0, bars.registers_bytes), (4, bars.msix_bytes)] {
            let at = BAR0 + 4 * bar;
            space.put(at, &BAR_64.to_le_bytes());
            // Address bits below the size are 0 whatever is written, which is how it is found out.
            let address_bits = !(bytes - 1) & !0xF;
            space.allow(at, &address_bits.to_le_bytes());
        }
        space.put(CAPABILITIES, &[PM as u8]);
        space.allow(INTERRUPT_LINE, &[0xFF]);

        space.put(PM, &[PM_ID, MSIX as u8]);
        space.put(PM + 2, &PM_VERSION.to_le_bytes());
        space.put(PM + 4, &PM_NO_SOFT_RESET.to_le_bytes());
        space.allow(PM + 4, &PM_STATE.to_le_bytes());

        space.put(MSIX, &[MSIX_ID, EXPRESS as u8]);
        let table_size_z = bars.vectors.clamp(1, MAX_VECTORS) - 1;
        space.put(MSIX + 2, &table_size_z.to_le_bytes());
        space.allow(MSIX + 2, &(MSIX_ENABLE | MSIX_MASK).to_le_bytes());
        // Both are in BAR 4, the table from its start on.
        space.put(MSIX + 4, &4u32.to_le_bytes());
        space.put(MSIX + 8, &(bars.pba_offset | 4).to_le_bytes());

        space.put(EXPRESS, &[EXPRESS_ID, 0]);
        space.put(EXPRESS + 2, &EXPRESS_ENDPOINT.to_le_bytes());
        space.put(EXPRESS + 4, &DEVICE_CAPABILITIES.to_le_bytes());
        space.allow(EXPRESS + 8, &DEVICE_CONTROL_WRITABLE.to_le_bytes());
        space.put(EXPRESS + 0xC, &LINK.to_le_bytes());
        space.put(EXPRESS + 0x12, &(LINK as u16).to_le_bytes());
        space
    }

    /// Reads from `offset` on; what is beyond the legacy part reads as 0, which says that there are no extended
    /// capabilities.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        for (index, byte) in into.iter_mut().enumerate() {
            *byte = self.bytes.get(offset + index).copied().unwrap_or(0);
        }
    }

    /// Writes from `offset` on what can be written.
    pub(crate) fn write(&mut self, offset: usize, from: &[u8]) -> Effect {
        let mut effect = Effect::None;
        for (at, new) in (offset..).zip(from) {
            if at == EXPRESS + 9 && u16::from(*new) << 8 & INITIATE_FLR != 0 {
                effect = Effect::Reset;
            }
            if let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | new & mask;
            }
        }
        effect
    }

    /// Whether the function may reach memory.
    pub(crate) fn is_bus_master(&self) -> bool {
        self.word(COMMAND) & BUS_MASTER != 0
    }

    /// Whether MSI-X is enabled, and whether all of it is masked.
    pub(crate) fn msix(&self) -> (bool, bool) {
        let control = self.word(MSIX + 2);
        (control & MSIX_ENABLE != 0, control & MSIX_MASK != 0)
    }

    fn word(&self, at: usize) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(bits) {
            *to = *from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Bars {
            registers_bytes: 0x4000,
            msix_bytes: 0x2000,
            pba_offset: 0x1000,
            vectors: 65,
        })
    }

    fn dword(space: &ConfigSpace, at: usize) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn it_is_an_nvme_controller_with_its_capabilities() {
        let space = space();
        assert_eq!(dword(&space, 8) >> 8, CLASS);
        let mut found = Vec::new();
        let mut at = dword(&space, CAPABILITIES) as usize & 0xFF;
        while at != 0 && found.len() < 48 {
            let head = dword(&space, at);
            found.push(head as u8);
            at = (head >> 8) as usize & 0xFF;
        }
        assert_eq!(found, [PM_ID, MSIX_ID, EXPRESS_ID]);
        assert_eq!(dword(&space, MSIX) >> 16 & 0x7FF, 64);
        assert_eq!(dword(&space, MSIX + 8), 0x1004);
        assert_ne!(dword(&space, EXPRESS + 4) & 1 << 28, 0, "FLR");
        assert_eq!(dword(&space, 256), 0, "no extended capability");
    }

    #[test]
    fn sizes_of_bars_are_found_by_writing_ones() {
        let mut space = space();
        for (bar, bytes) in [(0, 0x4000u64), (4, 0x2000)] {
            let at = BAR0 + 4 * bar;
            space.write(at, &[0xFF; 8]);
            let low = u64::from(dword(&space, at));
            assert_eq!(low & 0xF, 4);
            let value = low & !0xF | u64::from(dword(&space, at + 4)) << 32;
            assert_eq!((!value).wrapping_add(1), bytes);
        }
        for bar in [2, 3] {
            space.write(BAR0 + 4 * bar, &[0xFF; 4]);
            assert_eq!(dword(&space, BAR0 + 4 * bar), 0);
        }
    }

    #[test]
    fn only_what_can_be_written_changes() {
        let mut space = space();
        let before = space.clone();
        assert!(!space.is_bus_master() && space.msix() == (false, false));
        space.write(COMMAND, &[0xFF, 0xFF]);
        space.write(MSIX + 2, &[0xFF, 0xFF]);
        assert!(space.is_bus_master() && space.msix() == (true, true));
        assert_eq!(dword(&space, COMMAND) as u16, COMMAND_WRITABLE);
        assert_eq!(dword(&space, MSIX) >> 16 & 0x7FF, 64);
        assert_eq!(space.write(0, &[0; 16][..4]), Effect::None);
        assert_eq!(dword(&space, 0), dword(&before, 0));
        // Beyond the end, and across it.
        space.write(250, &[0xFF; 16]);
        space.write(CONFIG_BYTES, &[0xFF; 16]);
        assert_eq!(dword(&space, 252), 0);
    }

    #[test]
    fn a_reset_is_asked_for_by_one_bit_which_does_not_stick() {
        let mut space = space();
        assert_eq!(space.write(EXPRESS + 8, &[0x10, 0x28]), Effect::None);
        assert_eq!(space.write(EXPRESS + 8, &[0x10, 0x28 | 0x80]), Effect::Reset);
        assert_eq!(dword(&space, EXPRESS + 8) as u16, 0x2810);
    }
}
