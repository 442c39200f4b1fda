//! Commands: bit fields of the command dwords, which both sides use, and a constructor per command for the host.
//!
//! A constructor returns an entry with command identifier 0 and, unless the pointer is part of the command itself, no
//! data pointer: whoever submits it fills both in. Counts are given as they are meant (1 = one), never 0's based, except
//! where the name ends in `_z`.

use core::mem::{offset_of, size_of};

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::entry::SubmissionEntry;
use crate::feature::FeatureId;
use crate::identify::Cns;
use crate::log::LogId;
use crate::opcode::{AdminOpcode, NvmOpcode};

/// The NSID that stands for all namespaces.
pub const NSID_ALL: u32 = 0xFFFF_FFFF;

/// Most blocks one command can name: NLB is 16 bits, 0's based.
pub const MAX_BLOCKS: u32 = 1 << 16;

/// Most ranges one Dataset Management command can name: NR is 8 bits, 0's based.
pub const MAX_DSM_RANGES: u16 = 1 << 8;

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

/// Get Features with SEL = 3, completion dword 0 (Base 2.0, section 5.15.1).
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

const _: () = {
    assert!(size_of::<DsmRange>() == 16);
    assert!(offset_of!(DsmRange, length_blocks) == 4);
    assert!(offset_of!(DsmRange, slba) == 8);
};

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

/// Identify: returns 4096 bytes. `nsid` and `cntid` are zero where `cns` does not use them.
pub fn identify(cns: Cns, nsid: u32, cntid: u16) -> SubmissionEntry {
    let cdw10 = IdentifyCdw10::new().with_cns(cns.0).with_cntid(cntid);
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        ..admin(AdminOpcode::IDENTIFY)
    }
}

/// Identify for a CNS that is specific to the I/O command set `csi` (0 = NVM).
pub fn identify_csi(cns: Cns, csi: u8, nsid: u32, cntid: u16) -> SubmissionEntry {
    SubmissionEntry {
        cdw11: IdentifyCdw11::new().with_csi(csi).into(),
        ..identify(cns, nsid, cntid)
    }
}

/// Create I/O Completion Queue `qid` of `qsize_z + 1` entries, contiguous at `prp1`, interrupting on vector `iv` or not at
/// all.
pub fn create_io_cq(qid: u16, qsize_z: u16, prp1: u64, iv: Option<u16>) -> SubmissionEntry {
    let cdw10 = CreateQueueCdw10::new().with_qid(qid).with_qsize_z(qsize_z);
    let cdw11 = CreateCqCdw11::new()
        .with_pc(true)
        .with_ien(iv.is_some())
        .with_iv(iv.unwrap_or(0));
    SubmissionEntry {
        prp1,
        cdw10: cdw10.into(),
        cdw11: cdw11.into(),
        ..admin(AdminOpcode::CREATE_IO_CQ)
    }
}

/// Create I/O Submission Queue `qid` of `qsize_z + 1` entries, contiguous at `prp1`, completing to `cqid`. `qprio` is two
/// bits (`QPRIO_*`).
pub fn create_io_sq(qid: u16, qsize_z: u16, prp1: u64, cqid: u16, qprio: u8) -> SubmissionEntry {
    let cdw10 = CreateQueueCdw10::new().with_qid(qid).with_qsize_z(qsize_z);
    let cdw11 = CreateSqCdw11::new()
        .with_pc(true)
        .with_qprio(qprio & 0b11)
        .with_cqid(cqid);
    SubmissionEntry {
        prp1,
        cdw10: cdw10.into(),
        cdw11: cdw11.into(),
        ..admin(AdminOpcode::CREATE_IO_SQ)
    }
}

/// Delete I/O Submission Queue `qid`.
pub fn delete_io_sq(qid: u16) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: qid.into(),
        ..admin(AdminOpcode::DELETE_IO_SQ)
    }
}

/// Delete I/O Completion Queue `qid`, after the submission queues that complete to it.
pub fn delete_io_cq(qid: u16) -> SubmissionEntry {
    SubmissionEntry {
        cdw10: qid.into(),
        ..admin(AdminOpcode::DELETE_IO_CQ)
    }
}

/// Get Log Page: `length_bytes` from `offset_bytes`, both multiples of 4; the length is not zero. With `rae` the
/// asynchronous event that points to the page stays pending. `nsid` is [`NSID_ALL`] or 0 for the controller's own pages.
///
/// A length that breaks the rule is a programming error (asserted in debug builds) and is rounded down to dwords, so that
/// the controller never writes past the buffer; the smallest transfer that can be expressed is 4 bytes.
pub fn get_log_page(
    lid: LogId,
    nsid: u32,
    length_bytes: u32,
    offset_bytes: u64,
    rae: bool,
) -> SubmissionEntry {
    debug_assert!(length_bytes >= 4 && length_bytes.is_multiple_of(4));
    debug_assert!(offset_bytes.is_multiple_of(4));
    let numd_z = (length_bytes / 4).saturating_sub(1);
    let cdw10 = GetLogCdw10::new()
        .with_lid(lid.0)
        .with_rae(rae)
        .with_numdl(numd_z as u16);
    let cdw11 = GetLogCdw11::new().with_numdu((numd_z >> 16) as u16);
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        cdw11: cdw11.into(),
        cdw12: offset_bytes as u32,
        cdw13: (offset_bytes >> 32) as u32,
        ..admin(AdminOpcode::GET_LOG_PAGE)
    }
}

/// Get Features. `sel` is three bits (`SEL_*`).
pub fn get_features(fid: FeatureId, nsid: u32, sel: u8) -> SubmissionEntry {
    let cdw10 = GetFeaturesCdw10::new().with_fid(fid.0).with_sel(sel & 0b111);
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        ..admin(AdminOpcode::GET_FEATURES)
    }
}

/// Set Features to the value in `cdw11`, to be kept over resets if `save`.
pub fn set_features(fid: FeatureId, nsid: u32, cdw11: u32, save: bool) -> SubmissionEntry {
    let cdw10 = SetFeaturesCdw10::new().with_fid(fid.0).with_sv(save);
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        cdw11,
        ..admin(AdminOpcode::SET_FEATURES)
    }
}

/// Abort command `cid` of submission queue `sqid`. In its completion, bit 0 of dword 0 is clear if the command was
/// aborted.
pub fn abort(sqid: u16, cid: u16) -> SubmissionEntry {
    let cdw10 = AbortCdw10::new().with_sqid(sqid).with_cid(cid);
    SubmissionEntry {
        cdw10: cdw10.into(),
        ..admin(AdminOpcode::ABORT)
    }
}

/// Asynchronous Event Request: completes when there is an event ([`AsyncEventDw0`]).
pub fn async_event_request() -> SubmissionEntry {
    admin(AdminOpcode::ASYNC_EVENT_REQUEST)
}

/// Format NVM: erases `nsid`.
pub fn format_nvm(nsid: u32, cdw10: FormatCdw10) -> SubmissionEntry {
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        ..admin(AdminOpcode::FORMAT_NVM)
    }
}

/// Doorbell Buffer Config: shadow doorbells at `prp1`, event indexes at `prp2`, one memory page each.
pub fn doorbell_buffer_config(prp1: u64, prp2: u64) -> SubmissionEntry {
    SubmissionEntry {
        prp1,
        prp2,
        ..admin(AdminOpcode::DOORBELL_BUFFER_CONFIG)
    }
}

/// Read `blocks` (1 to 65,536) logical blocks from `slba`. Other counts: see [`nlb_z`].
pub fn read(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    block_command(
        NvmOpcode::READ,
        nsid,
        slba,
        ReadWriteCdw12::new().with_nlb_z(nlb_z(blocks)),
    )
}

/// Write `blocks` (1 to 65,536) logical blocks at `slba`; with `fua` they are on the medium when the command completes.
pub fn write(nsid: u32, slba: u64, blocks: u32, fua: bool) -> SubmissionEntry {
    let cdw12 = ReadWriteCdw12::new().with_nlb_z(nlb_z(blocks)).with_fua(fua);
    block_command(NvmOpcode::WRITE, nsid, slba, cdw12)
}

/// Write zeroes to `blocks` (1 to 65,536) logical blocks at `slba`. Whether they may be deallocated (DEAC) and FUA are
/// bits the caller may add in CDW12.
pub fn write_zeroes(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    block_command(
        NvmOpcode::WRITE_ZEROES,
        nsid,
        slba,
        ReadWriteCdw12::new().with_nlb_z(nlb_z(blocks)),
    )
}

/// Compare `blocks` (1 to 65,536) logical blocks at `slba` with host memory.
pub fn compare(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    block_command(
        NvmOpcode::COMPARE,
        nsid,
        slba,
        ReadWriteCdw12::new().with_nlb_z(nlb_z(blocks)),
    )
}

/// Verify that `blocks` (1 to 65,536) logical blocks at `slba` can be read; moves no data.
pub fn verify(nsid: u32, slba: u64, blocks: u32) -> SubmissionEntry {
    block_command(
        NvmOpcode::VERIFY,
        nsid,
        slba,
        ReadWriteCdw12::new().with_nlb_z(nlb_z(blocks)),
    )
}

/// Flush the volatile write cache of `nsid`.
pub fn flush(nsid: u32) -> SubmissionEntry {
    SubmissionEntry {
        nsid,
        ..nvm(NvmOpcode::FLUSH)
    }
}

/// Dataset Management over `ranges` (1 to 256) [`DsmRange`]s in the data buffer; with `deallocate` they are deallocated.
/// A count out of range is a programming error, asserted in debug builds, and is clamped.
pub fn dataset_management(nsid: u32, ranges: u16, deallocate: bool) -> SubmissionEntry {
    debug_assert!((1..=MAX_DSM_RANGES).contains(&ranges));
    let nr_z = ranges.clamp(1, MAX_DSM_RANGES) - 1;
    let cdw10 = DsmCdw10::new().with_nr_z(nr_z as u8);
    let cdw11 = DsmCdw11::new().with_ad(deallocate);
    SubmissionEntry {
        nsid,
        cdw10: cdw10.into(),
        cdw11: cdw11.into(),
        ..nvm(NvmOpcode::DATASET_MANAGEMENT)
    }
}

/// A number of blocks (1 to [`MAX_BLOCKS`]) as NLB has it, 0's based. A number out of range is a programming error,
/// asserted in debug builds, and is clamped: a command cannot say "no blocks".
pub fn nlb_z(blocks: u32) -> u16 {
    debug_assert!((1..=MAX_BLOCKS).contains(&blocks));
    (blocks.clamp(1, MAX_BLOCKS) - 1) as u16
}

fn admin(opcode: AdminOpcode) -> SubmissionEntry {
    SubmissionEntry {
        opcode: opcode.0,
        ..Default::default()
    }
}

fn nvm(opcode: NvmOpcode) -> SubmissionEntry {
    SubmissionEntry {
        opcode: opcode.0,
        ..Default::default()
    }
}

fn block_command(opcode: NvmOpcode, nsid: u32, slba: u64, cdw12: ReadWriteCdw12) -> SubmissionEntry {
    SubmissionEntry {
        nsid,
        cdw10: slba as u32,
        cdw11: (slba >> 32) as u32,
        cdw12: cdw12.into(),
        ..nvm(opcode)
    }
}
