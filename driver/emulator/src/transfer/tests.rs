use nvme_spec::{SglDescriptor, SglKind};
use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;
use crate::host::VecMemory;

const BASE: u64 = VecMemory::BASE;
const PAGE: u64 = 4096;
const PRP: DataPointer = DataPointer {
    page_bytes: PAGE,
    sgl: false,
};
const SGL: DataPointer = DataPointer {
    page_bytes: PAGE,
    sgl: true,
};

fn memory() -> VecMemory {
    VecMemory::new(256 << 10)
}

fn put_u64s(memory: &VecMemory, address: u64, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.write(address, &bytes).unwrap();
}

fn put_sgl(memory: &VecMemory, address: u64, descriptors: &[SglDescriptor]) {
    memory.write(address, descriptors.as_bytes()).unwrap();
}

fn prps(prp1: u64, prp2: u64) -> SubmissionEntry {
    SubmissionEntry {
        prp1,
        prp2,
        ..Default::default()
    }
}

fn sgl(descriptor: SglDescriptor) -> SubmissionEntry {
    let mut entry = SubmissionEntry {
        flags: entry::PSDT_SGL_MPTR_BUFFER << 6,
        ..Default::default()
    };
    entry.set_sgl1(descriptor);
    entry
}

fn walked(
    memory: &VecMemory,
    entry: &SubmissionEntry,
    len_bytes: u64,
    pointer: DataPointer,
) -> Result<Vec<(u64, u64)>, Status> {
    let mut scratch = Scratch::new();
    map(
        entry,
        len_bytes,
        Direction::ToDevice,
        pointer,
        memory,
        &mut scratch,
    )?;
    Ok(scratch
        .segments()
        .iter()
        .map(|segment| (segment.address, segment.len_bytes))
        .collect())
}

fn dnr(status: Status) -> Result<Vec<(u64, u64)>, Status> {
    Err(status.with_dnr(true))
}

#[test]
fn no_data_does_not_look_at_the_pointer() {
    assert_eq!(walked(&memory(), &prps(1, 3), 0, PRP), Ok(vec![]));
}

#[test]
fn one_and_two_pages() {
    let memory = memory();
    assert_eq!(
        walked(&memory, &prps(BASE + 0x10, u64::MAX), 4080, PRP),
        Ok(vec![(BASE + 0x10, 4080)])
    );
    assert_eq!(
        walked(&memory, &prps(BASE + 0xFFC, BASE + 0x5000), 4096, PRP),
        Ok(vec![(BASE + 0xFFC, 4), (BASE + 0x5000, 4092)])
    );
    // Pages that touch are one segment.
    assert_eq!(
        walked(&memory, &prps(BASE, BASE + PAGE), 8192, PRP),
        Ok(vec![(BASE, 8192)])
    );
}

#[test]
fn a_larger_host_page_is_one_page() {
    let pointer = DataPointer {
        page_bytes: 16 << 10,
        sgl: false,
    };
    assert_eq!(
        walked(&memory(), &prps(BASE + 4096, 0), 12 << 10, pointer),
        Ok(vec![(BASE + 4096, 12 << 10)])
    );
}

#[test]
fn offsets_where_none_may_be() {
    let memory = memory();
    let bad = dnr(Status::INVALID_PRP_OFFSET);
    assert_eq!(walked(&memory, &prps(BASE + 2, 0), 512, PRP), bad);
    assert_eq!(walked(&memory, &prps(BASE, BASE + PAGE + 512), 8192, PRP), bad);
    // A list may begin in the middle of a page, but at a qword.
    assert_eq!(walked(&memory, &prps(BASE, BASE + PAGE + 4), 12_288, PRP), bad);
    put_u64s(&memory, BASE + PAGE + 8, &[BASE + 0x8000, BASE + 0xA004]);
    assert_eq!(walked(&memory, &prps(BASE, BASE + PAGE + 8), 12_288, PRP), bad);
    put_u64s(&memory, BASE + PAGE + 8, &[BASE + 0x8000, BASE + 0xA000]);
    assert_eq!(
        walked(&memory, &prps(BASE, BASE + PAGE + 8), 12_288, PRP),
        Ok(vec![(BASE, 4096), (BASE + 0x8000, 4096), (BASE + 0xA000, 4096)])
    );
}

#[test]
fn a_full_list_page_chains_only_if_more_is_needed() {
    let memory = memory();
    // Two entries left in the list's page, two needed: both are pages.
    let list = BASE + 2 * PAGE - 16;
    put_u64s(&memory, list, &[BASE + 0x8000, BASE + 0xA000]);
    let expected = [(BASE, 4096), (BASE + 0x8000, 4096), (BASE + 0xA000, 4096)];
    assert_eq!(
        walked(&memory, &prps(BASE, list), 3 * PAGE, PRP),
        Ok(expected.to_vec())
    );
    // Three needed: the second leads to the next list.
    put_u64s(&memory, list, &[BASE + 0x8000, BASE + 0x4000]);
    put_u64s(&memory, BASE + 0x4000, &[BASE + 0xA000, BASE + 0xC000]);
    let mut expected = expected.to_vec();
    expected.push((BASE + 0xC000, 4096));
    assert_eq!(
        walked(&memory, &prps(BASE, list), 4 * PAGE, PRP),
        Ok(expected.clone())
    );
    // One entry left: nothing but the pointer to the next list.
    put_u64s(&memory, BASE + 2 * PAGE - 8, &[BASE + 0x4000]);
    put_u64s(
        &memory,
        BASE + 0x4000,
        &[BASE + 0x8000, BASE + 0xA000, BASE + 0xC000],
    );
    assert_eq!(
        walked(&memory, &prps(BASE, BASE + 2 * PAGE - 8), 4 * PAGE, PRP),
        Ok(expected)
    );
    // And that pointer begins a page.
    put_u64s(&memory, BASE + 2 * PAGE - 8, &[BASE + 0x4008]);
    assert_eq!(
        walked(&memory, &prps(BASE, BASE + 2 * PAGE - 8), 4 * PAGE, PRP),
        dnr(Status::INVALID_PRP_OFFSET)
    );
}

#[test]
fn a_list_that_chains_to_itself_ends_with_the_data() {
    let memory = memory();
    let entries: Vec<u64> = (0..512)
        .map(|index| BASE + PAGE * if index == 511 { 1 } else { index % 7 + 2 })
        .collect();
    put_u64s(&memory, BASE + PAGE, &entries);
    let len_bytes = 3000 * PAGE;
    let segments = walked(&memory, &prps(BASE, BASE + PAGE), len_bytes, PRP).unwrap();
    assert_eq!(segments.iter().map(|(_, len)| len).sum::<u64>(), len_bytes);
}

#[test]
fn what_cannot_be_read_is_a_transfer_error() {
    assert_eq!(
        walked(&memory(), &prps(BASE, 0x8000), 3 * PAGE, PRP),
        Err(Status::DATA_TRANSFER_ERROR)
    );
    // Addresses at the end of the address space do not wrap around.
    let top = !(PAGE - 1);
    assert_eq!(
        walked(&memory(), &prps(top, 0), 2 * PAGE, PRP),
        Ok(vec![(top, 4096), (0, 4096)])
    );
}

#[test]
fn psdt_must_be_known_and_supported() {
    let memory = memory();
    let block = sgl(SglDescriptor::data_block(BASE, 512));
    assert_eq!(walked(&memory, &block, 512, PRP), dnr(Status::INVALID_FIELD));
    assert_eq!(walked(&memory, &block, 512, SGL), Ok(vec![(BASE, 512)]));
    let reserved = SubmissionEntry {
        flags: 3 << 6,
        ..block
    };
    assert_eq!(walked(&memory, &reserved, 512, SGL), dnr(Status::INVALID_FIELD));
}

#[test]
fn sgl_segments_in_a_chain() {
    let memory = memory();
    let block = |page: u64, len| SglDescriptor::data_block(BASE + page * PAGE, len);
    put_sgl(
        &memory,
        BASE + 64,
        &[
            block(8, 512),
            block(10, 100),
            SglDescriptor::last_segment(BASE + 256, 48),
        ],
    );
    put_sgl(
        &memory,
        BASE + 256,
        &[block(12, 0), block(14, 300), block(16, 112)],
    );
    let entry = sgl(SglDescriptor::segment(BASE + 64, 48));
    assert_eq!(
        walked(&memory, &entry, 1024, SGL),
        Ok(vec![
            (BASE + 8 * PAGE, 512),
            (BASE + 10 * PAGE, 100),
            (BASE + 14 * PAGE, 300),
            (BASE + 16 * PAGE, 112)
        ])
    );
    assert_eq!(
        walked(&memory, &entry, 1023, SGL),
        dnr(Status::DATA_SGL_LENGTH_INVALID)
    );
    assert_eq!(
        walked(&memory, &entry, 1025, SGL),
        dnr(Status::DATA_SGL_LENGTH_INVALID)
    );
}

#[test]
fn sgl_descriptors_that_are_refused() {
    let memory = memory();
    let at = BASE + 64;
    let block = SglDescriptor::data_block(BASE, 512);
    let first = |descriptor| walked(&memory, &sgl(descriptor), 512, SGL);
    let within = |kind: fn(u64, u32) -> SglDescriptor, list: &[SglDescriptor]| {
        put_sgl(&memory, at, list);
        walked(&memory, &sgl(kind(at, list.len() as u32 * 16)), 512, SGL)
    };
    let segment: fn(u64, u32) -> SglDescriptor = SglDescriptor::segment;
    let last: fn(u64, u32) -> SglDescriptor = SglDescriptor::last_segment;

    for kind in [
        SglKind::KEYED_DATA_BLOCK,
        SglKind::TRANSPORT_DATA_BLOCK,
        SglKind(9),
        SglKind(15),
    ] {
        assert_eq!(
            first(SglDescriptor::new(kind, BASE, 512)),
            dnr(Status::SGL_DESCRIPTOR_TYPE_INVALID)
        );
    }
    let mut offset = block;
    offset.identifier |= 1;
    assert_eq!(first(offset), dnr(Status::SGL_DESCRIPTOR_TYPE_INVALID));
    for length in [0, 8, 17] {
        assert_eq!(
            first(last(at, length)),
            dnr(Status::INVALID_SGL_SEGMENT_DESCRIPTOR)
        );
    }
    assert_eq!(
        first(last(at + 4, 16)),
        dnr(Status::INVALID_SGL_SEGMENT_DESCRIPTOR)
    );
    assert_eq!(first(last(0x1000, 16)), Err(Status::DATA_TRANSFER_ERROR));
    // The last segment leads nowhere, any other does, and only its last descriptor.
    assert_eq!(
        within(last, &[block, last(at, 16)]),
        dnr(Status::INVALID_SGL_SEGMENT_DESCRIPTOR)
    );
    assert_eq!(
        within(segment, &[block]),
        dnr(Status::INVALID_SGL_SEGMENT_DESCRIPTOR)
    );
    assert_eq!(
        within(segment, &[last(at, 16), block]),
        dnr(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS)
    );
}

#[test]
fn an_sgl_that_never_ends_is_refused() {
    let memory = memory();
    let at = BASE + 64;
    put_sgl(
        &memory,
        at,
        &[SglDescriptor::data_block(BASE, 0), SglDescriptor::segment(at, 32)],
    );
    assert_eq!(
        walked(&memory, &sgl(SglDescriptor::segment(at, 32)), 512, SGL),
        dnr(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS)
    );
    assert_eq!(
        walked(
            &memory,
            &sgl(SglDescriptor::last_segment(BASE, 0xFFFF_FFF0)),
            512,
            SGL
        ),
        dnr(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS)
    );
}

#[test]
fn a_bit_bucket_swallows_what_the_device_sends_and_is_nothing_the_other_way() {
    let memory = memory();
    let list = [
        SglDescriptor::data_block(BASE, 4),
        SglDescriptor::bit_bucket(4),
        SglDescriptor::data_block(BASE + 4, 4),
    ];
    put_sgl(&memory, BASE + 64, &list);
    let entry = sgl(SglDescriptor::last_segment(BASE + 64, 48));
    let mut scratch = Scratch::new();
    map(&entry, 12, Direction::FromDevice, SGL, &memory, &mut scratch).unwrap();
    scratch.cursor().scatter(&memory, b"abcdefghijkl").unwrap();
    assert_eq!(memory.read_vec(BASE, 12).unwrap(), b"abcdijkl\0\0\0\0");
    map(&entry, 8, Direction::ToDevice, SGL, &memory, &mut scratch).unwrap();
    let mut bytes = [0; 8];
    scratch.cursor().gather(&memory, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abcdijkl");
}

#[test]
fn a_bit_bucket_is_no_neighbour_of_the_memory_behind_it() {
    let memory = memory();
    put_sgl(
        &memory,
        BASE,
        &[
            SglDescriptor::bit_bucket(512),
            SglDescriptor::data_block(512, 512),
        ],
    );
    let entry = sgl(SglDescriptor::last_segment(BASE, 32));
    let mut scratch = Scratch::new();
    map(&entry, 1024, Direction::FromDevice, SGL, &memory, &mut scratch).unwrap();
    let pieces: Vec<(bool, u64)> = scratch
        .segments()
        .iter()
        .map(|segment| (segment.is_hole, segment.len_bytes))
        .collect();
    assert_eq!(pieces, [(true, 512), (false, 512)]);
}

#[test]
fn overwriting_stays_inside_the_data() {
    let memory = memory();
    let mut scratch = Scratch::new();
    map(
        &prps(BASE + 0xFFC, BASE + 0x5000),
        8,
        Direction::FromDevice,
        PRP,
        &memory,
        &mut scratch,
    )
    .unwrap();
    scratch.overwrite(&memory, 2, b"abcd").unwrap();
    assert_eq!(memory.read_vec(BASE + 0xFFC, 4).unwrap(), b"\0\0ab");
    assert_eq!(memory.read_vec(BASE + 0x5000, 8).unwrap(), b"cd\0\0\0\0\0\0");
    scratch.overwrite(&memory, 7, b"xyz").unwrap();
    scratch.overwrite(&memory, u64::MAX, b"xyz").unwrap();
    assert_eq!(memory.read_vec(BASE + 0x5000, 8).unwrap(), b"cd\0x\0\0\0\0");
}

#[test]
fn a_cursor_does_not_go_beyond_the_end() {
    let memory = memory();
    let mut scratch = Scratch::new();
    map(
        &prps(BASE, 0),
        8,
        Direction::FromDevice,
        PRP,
        &memory,
        &mut scratch,
    )
    .unwrap();
    let mut cursor = scratch.cursor();
    assert_eq!(cursor.remaining_bytes(), 8);
    assert_eq!(cursor.scatter(&memory, &[1; 9]), Err(Status::INTERNAL_ERROR));
    assert_eq!(cursor.remaining_bytes(), 0);
}

/// Lays out the pages of a transfer as a driver would: PRP1 with an offset, then PRP2 or lists, the first of which begins
/// `list_room` entries before the end of its page.
fn lay_out(
    memory: &VecMemory,
    pages: &[u64],
    offset: u64,
    list_room: u64,
    page_bytes: u64,
) -> SubmissionEntry {
    let (first, rest) = pages.split_first().unwrap();
    let prp1 = first + offset;
    match rest {
        [] => prps(prp1, 0),
        [second] => prps(prp1, *second),
        _ => {
            // The last entry of a full list chains.
            let mut list_page = BASE;
            let mut rest = rest;
            let mut room = list_room;
            let start = list_page + page_bytes - room * 8;
            let mut at = start;
            loop {
                if rest.len() as u64 <= room {
                    put_u64s(memory, at, rest);
                    break;
                }
                let (now, later) = rest.split_at(room as usize - 1);
                put_u64s(memory, at, now);
                list_page += page_bytes;
                put_u64s(memory, at + now.len() as u64 * 8, &[list_page]);
                (at, rest, room) = (list_page, later, page_bytes / 8);
            }
            prps(prp1, start)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn prps_lead_to_every_byte_in_order(
        page_log in 12u32..14,
        page_indices in proptest::collection::vec(0u64..64, 1..1200),
        offset_dwords in 0u64..1024,
        cut_dwords in 0u64..1024,
        list_room in 1u64..=512,
    ) {
        let page_bytes = 1u64 << page_log;
        let memory = VecMemory::new(64 << 10);
        let pages: Vec<u64> = page_indices.iter().map(|index| BASE + index * page_bytes).collect();
        let offset = offset_dwords * 4;
        let entry = lay_out(&memory, &pages, offset, list_room, page_bytes);
        let len_bytes = (pages.len() as u64 * page_bytes - offset).saturating_sub(cut_dwords * 4).max(1);
        // Cutting may have made the last page superfluous, and then the list is one the command does not describe.
        prop_assume!((offset + len_bytes).div_ceil(page_bytes) == pages.len() as u64);

        let pointer = DataPointer { page_bytes, sgl: false };
        let segments = walked(&memory, &entry, len_bytes, pointer).unwrap();
        let mut expected: Vec<(u64, u64)> = pages.iter().map(|page| (*page, page_bytes)).collect();
        expected[0] = (pages[0] + offset, page_bytes - offset);
        let surplus = expected.iter().map(|(_, len)| len).sum::<u64>() - len_bytes;
        expected.last_mut().unwrap().1 -= surplus;
        // What touches is one segment.
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (at, len) in expected {
            match merged.last_mut() {
                Some(last) if last.0 + last.1 == at => last.1 += len,
                _ => merged.push((at, len)),
            }
        }
        prop_assert_eq!(segments, merged);
    }

    #[test]
    fn scatter_then_gather_is_what_it_was(
        lengths in proptest::collection::vec(0u32..300, 1..40),
        cuts in proptest::collection::vec(1usize..400, 1..40),
    ) {
        let memory = memory();
        let list: Vec<SglDescriptor> = lengths
            .iter()
            .enumerate()
            .map(|(index, len)| SglDescriptor::data_block(BASE + PAGE * (1 + index as u64), *len))
            .collect();
        put_sgl(&memory, BASE, &list);
        let total: u32 = lengths.iter().sum();
        let data: Vec<u8> = (0..total).map(|index| (index % 251) as u8).collect();
        let entry = sgl(SglDescriptor::last_segment(BASE, list.len() as u32 * 16));
        let mut scratch = Scratch::new();
        map(&entry, total.into(), Direction::FromDevice, SGL, &memory, &mut scratch).unwrap();

        let mut cursor = scratch.cursor();
        let mut rest = data.as_slice();
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            cursor.scatter(&memory, now).unwrap();
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let mut back = vec![0; data.len()];
        scratch.cursor().gather(&memory, &mut back).unwrap();
        prop_assert_eq!(back, data);
    }

    #[test]
    fn garbage_ends_in_a_status_or_in_exactly_the_length(
        words in proptest::collection::vec(prop_oneof![any::<u64>(), (0u64..64).prop_map(|page| BASE + page * 512)], 512),
        (prp1, prp2) in (prop_oneof![any::<u64>(), (0u64..64).prop_map(|at| BASE + at * 64)],
                         prop_oneof![any::<u64>(), (0u64..64).prop_map(|at| BASE + at * 64),
                                     (0u64..64, 0u64..4).prop_map(|(len, kind)| (kind << 60) | (len * 16))]),
        flags: u8,
        len_bytes in 0u64..1 << 22,
        from_device: bool,
    ) {
        let memory = memory();
        put_u64s(&memory, BASE, &words);
        let entry = SubmissionEntry { flags, prp1, prp2, ..Default::default() };
        let direction = if from_device { Direction::FromDevice } else { Direction::ToDevice };
        let mut scratch = Scratch::new();
        if map(&entry, len_bytes, direction, SGL, &memory, &mut scratch).is_ok() {
            prop_assert_eq!(scratch.cursor().remaining_bytes(), len_bytes);
        }
    }

    #[test]
    fn garbage_descriptors_end_in_a_status_or_in_exactly_the_length(
        list in proptest::collection::vec(
            (0u8..6, 0u64..64, prop_oneof![Just(0u32), Just(16), Just(32), Just(160), any::<u32>()]),
            10,
        ),
        len_bytes in 1u64..1000,
    ) {
        let memory = memory();
        let list: Vec<SglDescriptor> = list
            .into_iter()
            .map(|(kind, at, length)| SglDescriptor::new(SglKind(kind), BASE + at * 16, length))
            .collect();
        put_sgl(&memory, BASE, &list);
        let mut scratch = Scratch::new();
        for first in &list {
            if map(&sgl(*first), len_bytes, Direction::FromDevice, SGL, &memory, &mut scratch).is_ok() {
                prop_assert_eq!(scratch.cursor().remaining_bytes(), len_bytes);
            }
        }
    }
}
