//! The bit fields of command and completion dwords, and the payloads that go with them.

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;

/// Identify, CDW10 (Base 2.0, section 5.17.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw10 {
    /// Controller or Namespace Structure ([`Cns`]).
    #[bits(8)]
    pub cns: u8,
    #[bits(8)]
    __: u8,
    /// Controller Identifier, for some CNS values.
    #[bits(16)]
    pub cntid: u16,
}

/// Identify, CDW11 (Base 2.0, section 5.17.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IdentifyCdw11 {
    /// CNS Specific Identifier, for some CNS values (NVM set, domain, endurance group).
    #[bits(16)]
    pub cns_specific: u16,
    #[bits(8)]
    __: u8,
    /// Command Set Identifier, for the I/O command set specific CNS values; 0 = NVM.
    #[bits(8)]
    pub csi: u8,
}

/// Create I/O Completion Queue and Create I/O Submission Queue, CDW10 (Base 2.0, sections 5.4 and 5.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateQueueCdw10 {
    /// Queue Identifier, 1 and up.
    #[bits(16)]
    pub qid: u16,
    /// Queue Size in entries, 0's based.
    #[bits(16)]
    pub qsize_z: u16,
}

/// Create I/O Completion Queue, CDW11 (Base 2.0, section 5.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateCqCdw11 {
    /// Physically Contiguous: PRP1 is the queue, not a list of its pages.
    pub pc: bool,
    /// Interrupts Enabled.
    pub ien: bool,
    #[bits(14)]
    __: u16,
    /// Interrupt Vector.
    #[bits(16)]
    pub iv: u16,
}

/// Create I/O Submission Queue, CDW11 (Base 2.0, section 5.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CreateSqCdw11 {
    /// Physically Contiguous: PRP1 is the queue, not a list of its pages.
    pub pc: bool,
    /// Queue Priority ([`QPRIO_URGENT`] and so on), used under weighted round robin only.
    #[bits(2)]
    pub qprio: u8,
    #[bits(13)]
    __: u16,
    /// Completion Queue Identifier that completions go to.
    #[bits(16)]
    pub cqid: u16,
}

/// `CreateSqCdw11::qprio`: urgent.
pub const QPRIO_URGENT: u8 = 0;
/// `CreateSqCdw11::qprio`: high.
pub const QPRIO_HIGH: u8 = 1;
/// `CreateSqCdw11::qprio`: medium.
pub const QPRIO_MEDIUM: u8 = 2;
/// `CreateSqCdw11::qprio`: low.
pub const QPRIO_LOW: u8 = 3;

/// Get Log Page, CDW10 (Base 2.0, section 5.16).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetLogCdw10 {
    /// Log Page Identifier ([`LogId`]).
    #[bits(8)]
    pub lid: u8,
    /// Log Specific Parameter.
    #[bits(7)]
    pub lsp: u8,
    /// Retain Asynchronous Event: reading the page does not clear the event that pointed to it.
    pub rae: bool,
    /// Number of Dwords, low 16 bits of a 0's based number.
    #[bits(16)]
    pub numdl: u16,
}

impl GetLogCdw10 {
    /// Bytes asked for: NUMDL and NUMDU taken together, 4 to 16 GiB.
    pub const fn length_bytes(self, cdw11: GetLogCdw11) -> u64 {
        let numd_z = (cdw11.numdu() as u64) << 16 | self.numdl() as u64;
        (numd_z + 1) * 4
    }
}

/// Get Log Page, CDW11 (Base 2.0, section 5.16).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetLogCdw11 {
    /// Number of Dwords, high 16 bits of a 0's based number.
    #[bits(16)]
    pub numdu: u16,
    /// Log Specific Identifier.
    #[bits(16)]
    pub lsi: u16,
}

/// Set Features, CDW10 (Base 2.0, section 5.27).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SetFeaturesCdw10 {
    /// Feature Identifier ([`FeatureId`]).
    #[bits(8)]
    pub fid: u8,
    #[bits(23)]
    __: u32,
    /// Save: the value is to survive power cycles and resets.
    pub sv: bool,
}

/// Get Features, CDW10 (Base 2.0, section 5.15).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct GetFeaturesCdw10 {
    /// Feature Identifier ([`FeatureId`]).
    #[bits(8)]
    pub fid: u8,
    /// Select: which value ([`SEL_CURRENT`] and so on).
    #[bits(3)]
    pub sel: u8,
    #[bits(21)]
    __: u32,
}

/// `GetFeaturesCdw10::sel`: the value in force.
pub const SEL_CURRENT: u8 = 0;
/// `GetFeaturesCdw10::sel`: the default value.
pub const SEL_DEFAULT: u8 = 1;
/// `GetFeaturesCdw10::sel`: the saved value.
pub const SEL_SAVED: u8 = 2;
/// `GetFeaturesCdw10::sel`: what can be done with the feature, as [`SupportedCapabilities`].
pub const SEL_SUPPORTED_CAPABILITIES: u8 = 3;

/// Get Features with SEL = 3, completion dword 0 (Base 2.0, section 5.15).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SupportedCapabilities {
    /// The feature can be saved.
    pub saveable: bool,
    /// The feature is namespace specific.
    pub namespace_specific: bool,
    /// The feature can be changed.
    pub changeable: bool,
    #[bits(29)]
    __: u32,
}

/// Abort, CDW10 (Base 2.0, section 5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AbortCdw10 {
    /// Submission Queue Identifier of the command to abort.
    #[bits(16)]
    pub sqid: u16,
    /// Command Identifier of the command to abort.
    #[bits(16)]
    pub cid: u16,
}

/// Number of Queues feature, CDW11 of Set Features and dword 0 of the completion (Base 2.0, section 5.27.1.5).
///
/// In the command these are the numbers requested, in the completion the numbers allocated, which may be smaller or
/// larger.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, 0's based.
    #[bits(16)]
    pub nsqr_z: u16,
    /// I/O completion queues, 0's based.
    #[bits(16)]
    pub ncqr_z: u16,
}

/// CDW12 of Read, Write, Compare, Verify and Write Zeroes (NVM Command Set 1.0, section 3.2). A field that a command
/// does not have is reserved in that command.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ReadWriteCdw12 {
    /// Number of Logical Blocks, 0's based.
    #[bits(16)]
    pub nlb_z: u16,
    #[bits(4)]
    __: u8,
    /// Directive Type (Write).
    #[bits(4)]
    pub dtype: u8,
    /// Storage Tag Check.
    pub stc: bool,
    /// Deallocate (Write Zeroes).
    pub deac: bool,
    /// Protection Information: PRACT in bit 3, PRCHK in bits 2:0.
    #[bits(4)]
    pub prinfo: u8,
    /// Force Unit Access.
    pub fua: bool,
    /// Limited Retry.
    pub lr: bool,
}

/// Dataset Management, CDW10 (NVM Command Set 1.0, section 3.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DsmCdw10 {
    /// Number of Ranges, 0's based.
    #[bits(8)]
    pub nr_z: u8,
    #[bits(24)]
    __: u32,
}

/// Dataset Management, CDW11 (NVM Command Set 1.0, section 3.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DsmCdw11 {
    /// Integral Dataset for Read.
    pub idr: bool,
    /// Integral Dataset for Write.
    pub idw: bool,
    /// Attribute, Deallocate.
    pub ad: bool,
    #[bits(29)]
    __: u32,
}

/// One range of Dataset Management, 16 bytes (NVM Command Set 1.0, section 3.2.3).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DsmRange {
    /// Context Attributes.
    pub cattr: U32,
    /// Length in logical blocks, not 0's based.
    pub length_blocks: U32,
    /// Starting LBA.
    pub slba: U64,
}

layout!(DsmRange, 16, { cattr: 0, length_blocks: 4, slba: 8 });

impl DsmRange {
    /// `length_blocks` from `slba`, without context attributes.
    pub const fn new(slba: u64, length_blocks: u32) -> Self {
        Self {
            cattr: U32::ZERO,
            length_blocks: U32::new(length_blocks),
            slba: U64::new(slba),
        }
    }
}

/// Copy, CDW12, as far as it says how long the command's data is (NVM Command Set 1.0, section 3.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CopyCdw12 {
    /// Number of Ranges, 0's based.
    #[bits(8)]
    pub nr_z: u8,
    /// Descriptor Format: how the source ranges are written.
    #[bits(4)]
    pub desc_format: u8,
    /// The fields that have no influence on it, as they are.
    #[bits(20)]
    pub others: u32,
}

impl CopyCdw12 {
    /// Bytes of a source range in the data, for the formats 0h and 1h; those after them name other namespaces to copy
    /// from.
    pub const fn range_bytes(self) -> Option<u64> {
        match self.desc_format() {
            0 => Some(32),
            1 => Some(40),
            _ => None,
        }
    }
}

/// Format NVM, CDW10 (Base 2.0, section 5.14).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct FormatCdw10 {
    /// LBA Format index, bits 3:0.
    #[bits(4)]
    pub lbafl: u8,
    /// Metadata Settings: set = metadata is part of an extended data block.
    pub mset: bool,
    /// Protection Information: 0 = none, 1 to 3 = type.
    #[bits(3)]
    pub pi: u8,
    /// Protection Information Location: set = first bytes of metadata.
    pub pil: bool,
    /// Secure Erase Settings ([`SES_NONE`] and so on).
    #[bits(3)]
    pub ses: u8,
    /// LBA Format index, bits 5:4.
    #[bits(2)]
    pub lbafu: u8,
    #[bits(18)]
    __: u32,
}

impl FormatCdw10 {
    /// LBA format index, 0 to 63: LBAFU and LBAFL taken together.
    pub const fn format_index(self) -> u8 {
        self.lbafu() << 4 | self.lbafl()
    }

    /// The same with the LBA format index (6 bits) as given.
    pub const fn with_format_index(self, index: u8) -> Self {
        self.with_lbafl(index & 0xF).with_lbafu(index >> 4 & 0b11)
    }
}

/// `FormatCdw10::ses`: no secure erase.
pub const SES_NONE: u8 = 0;
/// `FormatCdw10::ses`: user data erase.
pub const SES_USER_DATA: u8 = 1;
/// `FormatCdw10::ses`: cryptographic erase.
pub const SES_CRYPTOGRAPHIC: u8 = 2;

/// Asynchronous Event Request, completion dword 0 (Base 2.0, section 5.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventDw0 {
    /// Asynchronous Event Type ([`EVENT_ERROR`] and so on).
    #[bits(3)]
    pub event_type: u8,
    #[bits(5)]
    __: u8,
    /// Asynchronous Event Information, by type.
    #[bits(8)]
    pub info: u8,
    /// Log page to read, which also clears the event ([`LogId`]).
    #[bits(8)]
    pub log_page: u8,
    #[bits(8)]
    __: u8,
}

/// `AsyncEventDw0::event_type`: error status.
pub const EVENT_ERROR: u8 = 0;
/// `AsyncEventDw0::event_type`: SMART / health status.
pub const EVENT_SMART: u8 = 1;
/// `AsyncEventDw0::event_type`: notice.
pub const EVENT_NOTICE: u8 = 2;
/// `AsyncEventDw0::event_type`: immediate, no log page.
pub const EVENT_IMMEDIATE: u8 = 3;
/// `AsyncEventDw0::event_type`: I/O command specific status.
pub const EVENT_IO_COMMAND: u8 = 6;
/// `AsyncEventDw0::event_type`: vendor specific.
pub const EVENT_VENDOR: u8 = 7;
