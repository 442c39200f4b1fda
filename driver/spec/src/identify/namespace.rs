//! Identify Namespace: the NVM Command Set's (CNS 00h and 05h) and the one of all command sets (CNS 08h).

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::capability::Flbas;
use crate::layout::{layout, zeroed_default};

/// Identify Namespace for the NVM Command Set, CNS 00h, 4096 bytes (NVM Command Set 1.0, section 4.1.5.1). All zero for an
/// inactive namespace, which is not an error.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespace {
    /// Namespace Size in logical blocks: LBAs 0 to n - 1 exist.
    pub nsze: U64,
    /// Namespace Capacity in logical blocks: how many may be allocated at a time.
    pub ncap: U64,
    /// Namespace Utilization in logical blocks: how many are allocated.
    pub nuse: U64,
    /// Namespace Features ([`Nsfeat`](super::Nsfeat)).
    pub nsfeat: u8,
    /// Number of LBA Formats, 0's based.
    pub nlbaf_z: u8,
    /// Formatted LBA Size ([`Flbas`]); see [`current_format`](Self::current_format).
    pub flbas: u8,
    /// Metadata Capabilities: bit 0 extended LBA, bit 1 separate buffer.
    pub mc: u8,
    /// End-to-end Data Protection Capabilities: bits 2:0 types 1 to 3, bit 3 first bytes, bit 4 last bytes.
    pub dpc: u8,
    /// End-to-end Data Protection Type Settings ([`Dps`](super::Dps)).
    pub dps: u8,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities: bit 0 may be attached to several controllers.
    pub nmic: u8,
    /// Reservation Capabilities.
    pub rescap: u8,
    /// Format Progress Indicator: bit 7 supported, bits 6:0 percent that remain.
    pub fpi: u8,
    /// Deallocate Logical Block Features ([`Dlfeat`](super::Dlfeat)).
    pub dlfeat: u8,
    /// Namespace Atomic Write Unit Normal in logical blocks, 0's based.
    pub nawun: U16,
    /// Namespace Atomic Write Unit Power Fail in logical blocks, 0's based.
    pub nawupf: U16,
    /// Namespace Atomic Compare and Write Unit in logical blocks, 0's based.
    pub nacwu: U16,
    /// Namespace Atomic Boundary Size Normal in logical blocks, 0's based unless 0 = no boundary.
    pub nabsn: U16,
    /// Namespace Atomic Boundary Offset: LBA of the first boundary.
    pub nabo: U16,
    /// Namespace Atomic Boundary Size Power Fail in logical blocks, 0's based unless 0 = no boundary.
    pub nabspf: U16,
    /// Namespace Optimal I/O Boundary in logical blocks, 0 = not reported.
    pub noiob: U16,
    /// NVM Capacity in bytes.
    pub nvmcap: U128,
    /// Namespace Preferred Write Granularity in logical blocks, 0's based.
    pub npwg: U16,
    /// Namespace Preferred Write Alignment in logical blocks, 0's based.
    pub npwa: U16,
    /// Namespace Preferred Deallocate Granularity in logical blocks, 0's based.
    pub npdg: U16,
    /// Namespace Preferred Deallocate Alignment in logical blocks, 0's based.
    pub npda: U16,
    /// Namespace Optimal Write Size in logical blocks, 0's based.
    pub nows: U16,
    /// Maximum Single Source Range Length of Copy, in logical blocks.
    pub mssrl: U16,
    /// Maximum Copy Length, in logical blocks.
    pub mcl: U32,
    /// Maximum Source Range Count of Copy, 0's based.
    pub msrc: u8,
    #[doc(hidden)]
    pub reserved81: u8,
    /// Number of Unique Attribute LBA Formats, which follow the first ones. Reserved (zero) in NVM Command Set 1.0, in use
    /// by later revisions.
    pub nulbaf: u8,
    #[doc(hidden)]
    pub reserved83: [u8; 9],
    /// ANA Group Identifier.
    pub anagrpid: U32,
    #[doc(hidden)]
    pub reserved96: [u8; 3],
    /// Namespace Attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM Set Identifier.
    pub nvmsetid: U16,
    /// Endurance Group Identifier.
    pub endgid: U16,
    /// Namespace Globally Unique Identifier, big endian, zero = none.
    pub nguid: [u8; 16],
    /// IEEE Extended Unique Identifier, big endian, zero = none.
    pub eui64: [u8; 8],
    /// LBA Format Support; see [`formats`](Self::formats).
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}

layout!(IdentifyNamespace, 4096, {
    nsze: 0, ncap: 8, nuse: 16, nsfeat: 24, nlbaf_z: 25, flbas: 26, mc: 27, dpc: 28, dps: 29, nmic: 30,
    rescap: 31, fpi: 32, dlfeat: 33, nawun: 34, nawupf: 36, nacwu: 38, nabsn: 40, nabo: 42, nabspf: 44,
    noiob: 46, nvmcap: 48, npwg: 64, npwa: 66, npdg: 68, npda: 70, nows: 72, mssrl: 74, mcl: 76, msrc: 80,
    nulbaf: 82, anagrpid: 92, nsattr: 99, nvmsetid: 100, endgid: 102, nguid: 104, eui64: 120, lbaf: 128,
    vs: 384,
});

impl IdentifyNamespace {
    /// The valid LBA formats, by index. A number beyond the 64 that the table has is cut.
    pub fn formats(&self) -> &[LbaFormat] {
        let count = usize::from(self.nlbaf_z) + 1 + usize::from(self.nulbaf);
        self.lbaf.get(..count.min(self.lbaf.len())).unwrap_or_default()
    }

    /// The format the namespace is formatted with: FLBAS bits 3:0 and 6:5. None if that index is not a valid format.
    pub fn current_format(&self) -> Option<LbaFormat> {
        let index = Flbas::from(self.flbas).format_index();
        self.formats().get(usize::from(index)).copied()
    }
}

/// LBA Format, 4 bytes (NVM Command Set 1.0, section 4.1.5.1, "LBA Format Data Structure").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct LbaFormat {
    /// Metadata Size in bytes per block.
    pub ms: U16,
    /// LBA Data Size, 2^n bytes; below 9 is not a format; see [`block_bytes`](Self::block_bytes).
    pub lbads: u8,
    /// Relative Performance, bits 1:0: 0 best, 1 better, 2 good, 3 degraded.
    pub rp: u8,
}

layout!(LbaFormat, 4, { ms: 0, lbads: 2, rp: 3 });

impl LbaFormat {
    /// A format of `1 << lbads` data bytes and `ms` metadata bytes, of best performance.
    pub const fn new(lbads: u8, ms: u16) -> Self {
        Self {
            ms: U16::new(ms),
            lbads,
            rp: 0,
        }
    }

    /// Data bytes of a block, without metadata. None if LBADS is not a size that the specification allows (below 512) or
    /// that 64 bits can express.
    pub const fn block_bytes(&self) -> Option<u64> {
        match self.lbads {
            9..64 => Some(1 << self.lbads),
            _ => None,
        }
    }
}

/// I/O Command Set specific Identify Namespace for the NVM Command Set, CNS 05h, CSI 00h, 4096 bytes (NVM Command Set 1.0,
/// section 4.1.5.3).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespaceNvm {
    /// Logical Block Storage Tag Mask.
    pub lbstm: U64,
    /// Protection Information Capabilities.
    pub pic: u8,
    #[doc(hidden)]
    pub reserved9: [u8; 3],
    /// Extended LBA Format Support ([`ExtendedLbaFormat`]), by the index of the LBA format.
    pub elbaf: [U32; 64],
    #[doc(hidden)]
    pub reserved268: [u8; 3828],
}

layout!(IdentifyNamespaceNvm, 4096, { lbstm: 0, pic: 8, elbaf: 12, reserved268: 268 });

/// Extended LBA Format (NVM Command Set 1.0, section 4.1.5.3, "Extended LBA Format Data Structure").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ExtendedLbaFormat {
    /// Storage Tag Size in bits.
    #[bits(7)]
    pub sts: u8,
    /// Protection Information Format: 0 = 16-bit guard, 1 = 32-bit guard, 2 = 64-bit guard.
    #[bits(2)]
    pub pif: u8,
    #[bits(23)]
    __: u32,
}

/// I/O Command Set Independent Identify Namespace, CNS 08h, 4096 bytes (Base 2.0, section 5.17.2.8).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyNamespaceIndependent {
    /// Common Namespace Features.
    pub nsfeat: u8,
    /// Namespace Multi-path I/O and Namespace Sharing Capabilities.
    pub nmic: u8,
    /// Reservation Capabilities.
    pub rescap: u8,
    /// Format Progress Indicator.
    pub fpi: u8,
    /// ANA Group Identifier.
    pub anagrpid: U32,
    /// Namespace Attributes: bit 0 write protected.
    pub nsattr: u8,
    #[doc(hidden)]
    pub reserved9: u8,
    /// NVM Set Identifier.
    pub nvmsetid: U16,
    /// Endurance Group Identifier.
    pub endgid: U16,
    /// Namespace Status: bit 0 ready.
    pub nstat: u8,
    #[doc(hidden)]
    pub reserved15: [u8; 4081],
}

layout!(IdentifyNamespaceIndependent, 4096, {
    nsfeat: 0, nmic: 1, rescap: 2, fpi: 3, anagrpid: 4, nsattr: 8, nvmsetid: 10, endgid: 12, nstat: 14,
});

zeroed_default!(
    IdentifyNamespace,
    IdentifyNamespaceNvm,
    IdentifyNamespaceIndependent
);
