//! Physical Region Pages (Base 2.0, section 4.1.1).

use nvme_spec::{Status, SubmissionEntry};

use super::{Scratch, refused};
use crate::host::HostMemory;

/// Bytes of one PRP entry.
const ENTRY_BYTES: u64 = 8;

/// Fills `scratch` with the pages of a transfer of `len_bytes` > 0.
///
/// PRP1 may begin anywhere in its page, at a dword. PRP2 is nothing, the second page, or the address of a list, at a
/// qword. The list ends with its page: if more entries are needed than are left there, the last of them points to the
/// next list. All other entries begin their page.
pub(super) fn walk(
    entry: &SubmissionEntry,
    len_bytes: u64,
    page_bytes: u64,
    memory: &dyn HostMemory,
    scratch: &mut Scratch,
) -> Result<(), Status> {
    let page_mask = page_bytes.wrapping_sub(1);
    if !entry.prp1.is_multiple_of(4) {
        return Err(refused(Status::INVALID_PRP_OFFSET));
    }
    let first_bytes = (page_bytes - (entry.prp1 & page_mask)).min(len_bytes);
    scratch.push(entry.prp1, first_bytes);
    let rest_bytes = len_bytes - first_bytes;
    if rest_bytes == 0 {
        return Ok(());
    }
    if rest_bytes <= page_bytes {
        return push_page(scratch, entry.prp2, rest_bytes, page_mask);
    }
    walk_list(entry.prp2, rest_bytes, page_bytes, memory, scratch)
}

fn walk_list(
    mut list: u64,
    mut rest_bytes: u64,
    page_bytes: u64,
    memory: &dyn HostMemory,
    scratch: &mut Scratch,
) -> Result<(), Status> {
    let page_mask = page_bytes.wrapping_sub(1);
    if !list.is_multiple_of(ENTRY_BYTES) {
        return Err(refused(Status::INVALID_PRP_OFFSET));
    }
    // Taken out, so that its entries can be read while segments are added.
    let mut buffer = std::mem::take(&mut scratch.list);
    let outcome = loop {
        let wanted = rest_bytes.div_ceil(page_bytes);
        let room = (page_bytes - (list & page_mask)) / ENTRY_BYTES;
        let chained = wanted > room;
        // At least one entry, as the list begins at a qword within its page. A page of which only the last entry is
        // left holds nothing but the pointer to the next list.
        let entries = wanted.min(room);
        buffer.resize((entries * ENTRY_BYTES) as usize, 0);
        if memory.read(list, &mut buffer).is_err() {
            break Err(Status::DATA_TRANSFER_ERROR);
        }
        let (pages, _) = buffer.as_chunks::<{ ENTRY_BYTES as usize }>();
        let (pages, next) = match pages.split_last() {
            Some((next, pages)) if chained => (pages, Some(u64::from_le_bytes(*next))),
            _ => (pages, None),
        };
        if let Err(status) = pages.iter().try_for_each(|page| {
            let piece_bytes = rest_bytes.min(page_bytes);
            rest_bytes -= piece_bytes;
            push_page(scratch, u64::from_le_bytes(*page), piece_bytes, page_mask)
        }) {
            break Err(status);
        }
        match next {
            // Each list after the first has room for two entries at the least and so brings us nearer to the end.
            Some(next) if next & page_mask == 0 => list = next,
            Some(_) => break Err(refused(Status::INVALID_PRP_OFFSET)),
            None => break Ok(()),
        }
    };
    scratch.list = buffer;
    outcome
}

fn push_page(scratch: &mut Scratch, page: u64, len_bytes: u64, page_mask: u64) -> Result<(), Status> {
    if page & page_mask != 0 {
        return Err(refused(Status::INVALID_PRP_OFFSET));
    }
    scratch.push(page, len_bytes);
    Ok(())
}
