//! Queue entries: the 64-byte command, the 16-byte completion, and the SGL descriptor a command may carry.
//!
//! The two entries are naturally aligned native integers, because both sides touch them once per command; the
//! crate therefore refuses big-endian hosts. Everything else in this crate is alignment 1, little endian.

use core::fmt;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;
use crate::status::Status;

/// `SubmissionEntry::psdt` value: PRPs describe the data (Base 2.0, section 3.3.3.1).
pub const PSDT_PRP: u8 = 0;
/// `SubmissionEntry::psdt` value: SGL1 describes the data, MPTR is the address of a contiguous metadata buffer.
pub const PSDT_SGL_MPTR_BUFFER: u8 = 1;
/// `SubmissionEntry::psdt` value: SGL1 describes the data, MPTR is the address of one SGL segment for metadata.
pub const PSDT_SGL_MPTR_SGL: u8 = 2;

/// `SubmissionEntry::fuse` value: not part of a fused operation.
pub const FUSE_NONE: u8 = 0;
/// `SubmissionEntry::fuse` value: first command of a fused operation.
pub const FUSE_FIRST: u8 = 1;
/// `SubmissionEntry::fuse` value: second command of a fused operation.
pub const FUSE_SECOND: u8 = 2;

/// Submission queue entry, 64 bytes (Base 2.0, section 3.3.3.1, "Common Command Format").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubmissionEntry {
    /// Opcode (CDW0 bits 7:0), an [`AdminOpcode`](crate::AdminOpcode) or an [`NvmOpcode`](crate::NvmOpcode).
    pub opcode: u8,
    /// CDW0 bits 15:8: FUSE in bits 1:0, PSDT in bits 7:6.
    pub flags: u8,
    /// Command identifier, echoed in the completion.
    pub cid: u16,
    /// Namespace identifier.
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Metadata pointer.
    pub mptr: u64,
    /// PRP entry 1, or the first 8 bytes of SGL1.
    pub prp1: u64,
    /// PRP entry 2, or the last 8 bytes of SGL1.
    pub prp2: u64,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
    /// Command dword 14.
    pub cdw14: u32,
    /// Command dword 15.
    pub cdw15: u32,
}

layout!(SubmissionEntry, 64, { opcode: 0, flags: 1, cid: 2, nsid: 4, cdw2: 8, cdw3: 12, mptr: 16, prp1: 24, prp2: 32, cdw10: 40, cdw11: 44, cdw12: 48, cdw13: 52, cdw14: 56, cdw15: 60 });

impl SubmissionEntry {
    /// PRP or SGL for Data Transfer (`PSDT_*`; 3 is reserved).
    pub const fn psdt(&self) -> u8 {
        self.flags >> 6
    }

    /// Fused operation (`FUSE_*`; 3 is reserved).
    pub const fn fuse(&self) -> u8 {
        self.flags & 0b11
    }

    /// The data pointer read as an SGL descriptor; meaningful when [`psdt`](Self::psdt) is 1 or 2.
    pub fn sgl1(&self) -> SglDescriptor {
        let [l0, l1, l2, l3, r0, r1, r2, identifier] = self.prp2.to_le_bytes();
        SglDescriptor {
            address: U64::new(self.prp1),
            length: U32::from_bytes([l0, l1, l2, l3]),
            reserved: [r0, r1, r2],
            identifier,
        }
    }

    /// Puts `sgl` in the data pointer. Does not touch PSDT in [`flags`](Self::flags), which the caller chooses.
    pub fn set_sgl1(&mut self, sgl: SglDescriptor) {
        let [l0, l1, l2, l3] = sgl.length.to_bytes();
        let [r0, r1, r2] = sgl.reserved;
        self.prp1 = sgl.address.get();
        self.prp2 = u64::from_le_bytes([l0, l1, l2, l3, r0, r1, r2, sgl.identifier]);
    }

    /// Starting LBA: CDW10 is the low half, CDW11 the high half. For the NVM commands that address blocks.
    pub const fn lba(&self) -> u64 {
        (self.cdw11 as u64) << 32 | self.cdw10 as u64
    }

    /// Number of logical blocks, 0's based: CDW12 bits 15:0. For the NVM commands that address blocks.
    pub const fn nlb_z(&self) -> u16 {
        self.cdw12 as u16
    }
}

/// Completion queue entry, 16 bytes (Base 2.0, section 3.3.3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompletionEntry {
    /// Dword 0, command specific.
    pub dw0: u32,
    /// Dword 1, command specific.
    pub dw1: u32,
    /// Submission queue head pointer at the time the entry was made.
    pub sqhd: u16,
    /// Submission queue the command came from.
    pub sqid: u16,
    /// Command identifier of the command that completed.
    pub cid: u16,
    /// Phase tag in bit 0, status field in bits 15:1.
    pub status_phase: u16,
}

layout!(CompletionEntry, 16, { dw0: 0, dw1: 4, sqhd: 8, sqid: 10, cid: 12, status_phase: 14 });

impl CompletionEntry {
    /// An entry with every field given.
    pub const fn new(
        dw0: u32,
        dw1: u32,
        sqhd: u16,
        sqid: u16,
        cid: u16,
        status: Status,
        phase: bool,
    ) -> Self {
        Self {
            dw0,
            dw1,
            sqhd,
            sqid,
            cid,
            status_phase: status.0 << 1 | phase as u16,
        }
    }

    /// Phase tag: flips each time the controller passes the end of the ring.
    pub const fn phase(&self) -> bool {
        self.status_phase & 1 != 0
    }

    /// Status field, without the phase.
    pub const fn status(&self) -> Status {
        Status(self.status_phase >> 1)
    }
}

/// Type of an SGL descriptor: bits 7:4 of its last byte (Base 2.0, section 4.1.2, "SGL Descriptor Type").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SglKind(pub u8);

impl SglKind {
    /// A buffer that data is moved to or from.
    pub const DATA_BLOCK: Self = Self(0);
    /// Data read that is to be dropped.
    pub const BIT_BUCKET: Self = Self(1);
    /// Another segment follows, which is not the last.
    pub const SEGMENT: Self = Self(2);
    /// The next segment is the last.
    pub const LAST_SEGMENT: Self = Self(3);
    /// A data block with a key (message-based transports).
    pub const KEYED_DATA_BLOCK: Self = Self(4);
    /// Data carried by the transport itself.
    pub const TRANSPORT_DATA_BLOCK: Self = Self(5);

    /// The specification's name, None for a type this crate does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::DATA_BLOCK => "SGL Data Block",
            Self::BIT_BUCKET => "SGL Bit Bucket",
            Self::SEGMENT => "SGL Segment",
            Self::LAST_SEGMENT => "SGL Last Segment",
            Self::KEYED_DATA_BLOCK => "Keyed SGL Data Block",
            Self::TRANSPORT_DATA_BLOCK => "Transport SGL Data Block",
            _ => return None,
        })
    }
}

impl fmt::Display for SglKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "SGL type {:X}h", self.0),
        }
    }
}

/// SGL descriptor, 16 bytes (Base 2.0, section 4.1.2).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SglDescriptor {
    /// Address of the data or of the next segment; reserved in a bit bucket.
    pub address: U64,
    /// Length in bytes; for the segment kinds a multiple of 16.
    pub length: U32,
    /// Reserved.
    pub reserved: [u8; 3],
    /// Type in bits 7:4, sub type in bits 3:0 (0 = address, 1 = offset).
    pub identifier: u8,
}

layout!(SglDescriptor, 16, { address: 0, length: 8, identifier: 15 });

impl SglDescriptor {
    /// A descriptor of `kind` with sub type 0 (address).
    pub const fn new(kind: SglKind, address: u64, length_bytes: u32) -> Self {
        Self {
            address: U64::new(address),
            length: U32::new(length_bytes),
            reserved: [0; 3],
            identifier: kind.0 << 4,
        }
    }

    /// A buffer of `length_bytes` at `address`.
    pub const fn data_block(address: u64, length_bytes: u32) -> Self {
        Self::new(SglKind::DATA_BLOCK, address, length_bytes)
    }

    /// `length_bytes` of read data to drop.
    pub const fn bit_bucket(length_bytes: u32) -> Self {
        Self::new(SglKind::BIT_BUCKET, 0, length_bytes)
    }

    /// Another segment of `length_bytes`, not the last.
    pub const fn segment(address: u64, length_bytes: u32) -> Self {
        Self::new(SglKind::SEGMENT, address, length_bytes)
    }

    /// The last segment, of `length_bytes`.
    pub const fn last_segment(address: u64, length_bytes: u32) -> Self {
        Self::new(SglKind::LAST_SEGMENT, address, length_bytes)
    }

    /// Descriptor type.
    pub const fn kind(&self) -> SglKind {
        SglKind(self.identifier >> 4)
    }

    /// Descriptor sub type: 0 = address, 1 = offset, Ah to Fh = transport specific.
    pub const fn sub_type(&self) -> u8 {
        self.identifier & 0xF
    }
}

#[cfg(test)]
mod tests;
