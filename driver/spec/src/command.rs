//! Commands: bit fields of the command dwords, which both sides use, and a constructor per command for the host.
//!
//! A constructor returns an entry with command identifier 0 and, unless the pointer is part of the command itself, no
//! data pointer: whoever submits it fills both in. Counts are given as they are meant (1 = one), never 0's based, except
//! where the name ends in `_z`.

mod dword;

pub use dword::*;

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

#[cfg(test)]
mod tests;
