//! One command of a request: how many blocks it does, what it says, and where its data is.

use nvme_spec::command::{self, DsmRange, ReadWriteCdw12};
use nvme_spec::{CompletionEntry, Direction, NvmOpcode, SubmissionEntry};

use super::{Limits, Part};
use crate::backend::{Mapping, Windows};
use crate::dma::arena::Arena;
use crate::dma::pages::{Chain, PagePool};
use crate::dma::{Buffer, Region};
use crate::namespace::Namespace;
use crate::prp;
use crate::queue::Reserved;
use crate::request::{Op, Request};

/// How many of the blocks from `slba` on the next command does.
#[inline]
pub(super) fn next_blocks(limits: &Limits, namespace: &Namespace, op: Op, slba: u64, left: u64) -> u64 {
    /// NLB has 16 bits and is 0's based.
    const MAX_NLB: u64 = 1 << 16;
    let shift = namespace.lba_shift;
    let most = match op {
        Op::Flush | Op::Passthrough => return 0,
        Op::Read | Op::Write { .. } | Op::Compare => (limits.max_transfer_bytes as u64 >> shift).min(MAX_NLB),
        Op::WriteZeroes { .. } => (limits.max_zeroes_bytes >> shift).min(MAX_NLB),
        Op::Verify => (limits.max_verify_bytes >> shift).min(MAX_NLB),
        Op::Deallocate => limits.max_range_blocks,
    }
    .max(1);
    // A command that crosses the namespace's optimal boundary (NOIOB) is slow on some controllers.
    let to_boundary = match namespace.boundary_blocks {
        0 => u64::MAX,
        boundary => boundary - slba % boundary,
    };
    left.min(most)
        .min(if op.has_data() { to_boundary } else { u64::MAX })
}

#[inline]
pub(super) fn command_for(op: Op, nsid: u32, slba: u64, blocks: u64) -> SubmissionEntry {
    // `next_blocks` keeps it within 1 to 65536 where it is a number of blocks.
    let blocks = blocks as u32;
    match op {
        Op::Read => command::read(nsid, slba, blocks),
        Op::Write { fua } => command::write(nsid, slba, blocks, fua),
        Op::Flush => command::flush(nsid),
        Op::WriteZeroes { deallocate } => {
            let mut entry = command::write_zeroes(nsid, slba, blocks);
            entry.cdw12 = ReadWriteCdw12::from(entry.cdw12).with_deac(deallocate).into();
            entry
        }
        Op::Deallocate => command::dataset_management(nsid, 1, true),
        Op::Compare => command::compare(nsid, slba, blocks),
        Op::Verify => command::verify(nsid, slba, blocks),
        // Comes from the buffer, with `attach_passthrough`.
        Op::Passthrough => SubmissionEntry::default(),
    }
}

/// Dataset Management takes its ranges as data: one range, in a page of the queue's own.
pub(super) fn attach_range(
    pool: &mut PagePool,
    entry: &mut SubmissionEntry,
    part: &mut Part,
    slba: u64,
    blocks: u64,
) -> Option<()> {
    let page = pool.take(&mut part.pages)?;
    let (region, offset) = pool.place(page);
    region.write(
        offset,
        &DsmRange {
            cattr: 0.into(),
            length_blocks: (blocks as u32).into(),
            slba: slba.into(),
        },
    );
    entry.prp1 = pool.iova(page);
    Some(())
}

/// Tells the device where the command's data is, and copies it there where it cannot be left in place.
#[allow(clippy::too_many_arguments)]
#[inline]
pub(super) fn attach_data<T>(
    pool: &mut PagePool,
    windows: &mut Option<Box<dyn Windows>>,
    limits: &Limits,
    arena: &Arena,
    request: &mut Request<T>,
    reserved: &Reserved,
    entry: &mut SubmissionEntry,
    part: &mut Part,
) -> Option<()> {
    let page_bytes = limits.page_bytes;
    let mut first_offset = 0;
    let in_place = match &mut request.buffer {
        Buffer::Registered(buffer) => {
            let place = limits
                .zero_copy
                .then(|| buffer.mapping(arena, page_bytes, part.offset, part.len))
                .flatten();
            place.map(|place| {
                first_offset = place.offset;
                place.mapping
            })
        }
        Buffer::Dma(buffer) if buffer.belongs_to(arena) => {
            Some(Mapping::Contiguous(buffer.iova() + part.offset as u64))
        }
        buffer => match windows {
            Some(windows) if limits.zero_copy => {
                let mapped = map(windows.as_mut(), reserved.slot(), buffer, part);
                part.window = mapped.is_some();
                mapped
            }
            _ => None,
        },
    };
    match in_place {
        Some(Mapping::Contiguous(start)) => {
            let pages = prp::data_pages(start as usize, part.len, page_bytes);
            if prp::list_pages(pages, page_bytes) > pool.available() {
                return None;
            }
            let first = start & !(page_bytes as u64 - 1);
            let address = |_: &PagePool, page: usize| match page {
                0 => start,
                _ => first + (page * page_bytes) as u64,
            };
            prp::describe(entry, pages, address, pool, &mut part.pages)
        }
        Some(Mapping::Pages(addresses)) => {
            let pages = addresses.len();
            if prp::list_pages(pages, page_bytes) > pool.available() {
                return None;
            }
            let address = |_: &PagePool, page: usize| {
                let address = addresses.get(page).copied().unwrap_or(0);
                if page == 0 {
                    address + first_offset
                } else {
                    address
                }
            };
            prp::describe(entry, pages, address, pool, &mut part.pages)
        }
        None => {
            let from = (!request.op.fills_buffer()).then_some(&request.buffer);
            attach_copied(pool, page_bytes, from, entry, part)
        }
    }
}

/// Gives the device pages of the queue's own for the part's data, filled from `from` if it is to read them.
#[inline(never)]
pub(super) fn attach_copied(
    pool: &mut PagePool,
    page_bytes: usize,
    from: Option<&Buffer>,
    entry: &mut SubmissionEntry,
    part: &mut Part,
) -> Option<()> {
    let pages = prp::data_pages(0, part.len, page_bytes);
    if pages + prp::list_pages(pages, page_bytes) > pool.available() {
        return None;
    }
    part.copied = true;
    for _ in 0..pages {
        pool.take(&mut part.pages)?;
    }
    if let Some(from) = from {
        copy_to_pages(pool, part, from);
    }
    let mut page = part.pages.first()?;
    let address = |pool: &PagePool, _: usize| {
        let address = pool.iova(page);
        page = pool.after(page).unwrap_or(page);
        address
    };
    let mut lists = Chain::EMPTY;
    let described = prp::describe(entry, pages, address, pool, &mut lists);
    pool.join(&mut part.pages, &mut lists);
    described
}

/// Puts the client's own command in place of `entry`.
#[cold]
pub(super) fn attach_passthrough<T>(
    pool: &mut PagePool,
    limits: &Limits,
    request: &Request<T>,
    entry: &mut SubmissionEntry,
    part: &mut Part,
) -> Option<()> {
    let Buffer::Passthrough(command) = &request.buffer else {
        return None;
    };
    *entry = SubmissionEntry {
        cid: 0,
        flags: 0,
        nsid: request.nsid,
        mptr: 0,
        prp1: 0,
        prp2: 0,
        ..command.entry
    };
    (part.len, part.copied) = (command.data.len(), true);
    if part.len == 0 {
        return Some(());
    }
    // Also what comes from the device: what it does not fill must not be what an earlier command left there.
    attach_copied(pool, limits.page_bytes, Some(&request.buffer), entry, part)
}

/// What became of a client's own command, into its buffer.
#[cold]
pub(super) fn answer_passthrough(
    pool: &PagePool,
    part: &Part,
    buffer: &mut Buffer,
    completion: &CompletionEntry,
) {
    if let Buffer::Passthrough(command) = buffer {
        command.completion = Some(*completion);
        let from_device = NvmOpcode(command.entry.opcode).transfers() == Direction::FromDevice;
        if from_device && completion.status().is_success() {
            copy_from_pages(pool, part, buffer);
        }
    }
}

/// Opens the slot's window on the part's bytes of the buffer.
fn map<'a>(windows: &'a mut dyn Windows, slot: u16, buffer: &mut Buffer, part: &Part) -> Option<Mapping<'a>> {
    crate::dma::map_part(windows, slot, buffer, part.offset, part.len)
}

fn pieces<'a>(
    pool: &'a PagePool,
    part: &'a Part,
) -> impl Iterator<Item = (&'a Region, usize, std::ops::Range<usize>)> {
    let page_bytes = pool.page_bytes();
    std::iter::successors(part.pages.first(), |page| pool.after(*page))
        .enumerate()
        .map_while(move |(index, page)| {
            let start = index * page_bytes;
            let end = (start + page_bytes).min(part.len);
            (start < end).then(|| {
                let (region, offset) = pool.place(page);
                (region, offset, part.offset + start..part.offset + end)
            })
        })
}

fn copy_to_pages(pool: &PagePool, part: &Part, buffer: &Buffer) {
    for (region, offset, range) in pieces(pool, part) {
        buffer.copy_to(range, region, offset);
    }
}

pub(super) fn copy_from_pages(pool: &PagePool, part: &Part, buffer: &mut Buffer) {
    for (region, offset, range) in pieces(pool, part) {
        buffer.copy_from(range, region, offset);
    }
}
