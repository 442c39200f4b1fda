use proptest::prelude::*;
use std::string::ToString;
use zerocopy::{FromBytes, IntoBytes};

use super::*;

/// A Read as it would lie in memory, typed from Base 2.0 Figure "Common Command Format" and the Read command's dwords.
const READ: [u8; 64] = [
    0x02, 0x01, 0x34, 0x12, // opcode, flags (first of fused), cid
    0x05, 0x00, 0x00, 0x00, // nsid
    0xA2, 0x00, 0x00, 0x00, 0xA3, 0x00, 0x00, 0x00, // cdw2, cdw3
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // mptr
    0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // prp1
    0x00, 0x20, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, // prp2
    0x78, 0x56, 0x34, 0x12, // cdw10: SLBA low
    0xF0, 0xDE, 0xBC, 0x9A, // cdw11: SLBA high
    0x07, 0x00, 0x00, 0x40, // cdw12: NLB 7, FUA
    0xAD, 0x00, 0x00, 0x00, 0xAE, 0x00, 0x00, 0x00, 0xAF, 0x00, 0x00, 0x00, // cdw13 to cdw15
];

#[test]
fn submission_entry_from_bytes() {
    let entry = SubmissionEntry::read_from_bytes(&READ).unwrap();
    let expected = SubmissionEntry {
        opcode: 2,
        flags: 1,
        cid: 0x1234,
        nsid: 5,
        cdw2: 0xA2,
        cdw3: 0xA3,
        mptr: 0x0807_0605_0403_0201,
        prp1: 0x1_0000_1000,
        prp2: 0x2_0000_2000,
        cdw10: 0x1234_5678,
        cdw11: 0x9ABC_DEF0,
        cdw12: 0x4000_0007,
        cdw13: 0xAD,
        cdw14: 0xAE,
        cdw15: 0xAF,
    };
    assert_eq!(entry, expected);
    assert_eq!(entry.lba(), 0x9ABC_DEF0_1234_5678);
    assert_eq!(entry.nlb_z(), 7);
    assert_eq!(entry.fuse(), FUSE_FIRST);
    assert_eq!(entry.psdt(), PSDT_PRP);
    assert_eq!(entry.as_bytes(), READ);
}

#[test]
fn fuse_and_psdt_are_the_two_ends_of_flags() {
    let entry = SubmissionEntry {
        flags: 0b1000_0010,
        ..Default::default()
    };
    assert_eq!((entry.psdt(), entry.fuse()), (PSDT_SGL_MPTR_SGL, FUSE_SECOND));
    let reserved = SubmissionEntry {
        flags: 0b0011_1100,
        ..Default::default()
    };
    assert_eq!((reserved.psdt(), reserved.fuse()), (0, FUSE_NONE));
}

#[test]
fn sgl1_is_bytes_24_to_39() {
    let mut entry = SubmissionEntry::default();
    entry.set_sgl1(SglDescriptor::last_segment(0x1122_3344_5566_7788, 0x99AA_BBCC));
    let bytes = entry.as_bytes();
    assert_eq!(&bytes[24..32], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(&bytes[32..36], [0xCC, 0xBB, 0xAA, 0x99]);
    assert_eq!(&bytes[36..40], [0, 0, 0, 0x30]);
    assert!(bytes[..24].iter().chain(&bytes[40..]).all(|byte| *byte == 0));
}

#[test]
fn completion_entry_from_bytes() {
    let bytes = [
        0x01, 0x00, 0x02, 0x00, // dw0
        0x44, 0x33, 0x22, 0x11, // dw1
        0x0A, 0x00, 0x03, 0x00, // sqhd, sqid
        0x07, 0x01, // cid
        0x05, 0xC1, // DNR, M, SCT 0, SC 82h, phase 1
    ];
    let entry = CompletionEntry::read_from_bytes(&bytes).unwrap();
    assert_eq!((entry.dw0, entry.dw1), (0x2_0001, 0x1122_3344));
    assert_eq!((entry.sqhd, entry.sqid, entry.cid), (10, 3, 0x107));
    assert!(entry.phase());
    assert_eq!(
        entry.status(),
        Status::new(0, 0x82).with_dnr(true).with_more(true)
    );
    let again = CompletionEntry::new(0x2_0001, 0x1122_3344, 10, 3, 0x107, entry.status(), true);
    assert_eq!(again.as_bytes(), bytes);
}

#[test]
fn sgl_kinds_have_the_specified_numbers() {
    let kinds = [
        (SglDescriptor::data_block(1, 2), 0x00, "SGL Data Block"),
        (SglDescriptor::bit_bucket(2), 0x10, "SGL Bit Bucket"),
        (SglDescriptor::segment(1, 2), 0x20, "SGL Segment"),
        (SglDescriptor::last_segment(1, 2), 0x30, "SGL Last Segment"),
    ];
    for (descriptor, identifier, name) in kinds {
        assert_eq!(descriptor.as_bytes()[15], identifier);
        assert_eq!(descriptor.kind().to_string(), name);
        assert_eq!(descriptor.sub_type(), 0);
        assert_eq!(descriptor.length.get(), 2);
    }
    assert_eq!(
        SglDescriptor {
            identifier: 0xE5,
            ..Default::default()
        }
        .kind()
        .to_string(),
        "SGL type Eh"
    );
    assert_eq!(
        SglDescriptor {
            identifier: 0xE5,
            ..Default::default()
        }
        .sub_type(),
        5
    );
}

proptest! {
    #[test]
    fn any_submission_bytes_survive(bytes: [u8; 32], more: [u8; 32]) {
        let mut all = [0; 64];
        all[..32].copy_from_slice(&bytes);
        all[32..].copy_from_slice(&more);
        let entry = SubmissionEntry::read_from_bytes(&all).unwrap();
        prop_assert_eq!(entry.as_bytes(), all);
        let mut copy = entry;
        copy.prp1 = 0;
        copy.prp2 = 0;
        copy.set_sgl1(entry.sgl1());
        prop_assert_eq!(copy, entry);
        let sgl1 = entry.sgl1();
        prop_assert_eq!(sgl1.as_bytes(), &all[24..40]);
    }

    #[test]
    fn any_completion_bytes_survive(bytes: [u8; 16]) {
        let entry = CompletionEntry::read_from_bytes(&bytes).unwrap();
        let again = CompletionEntry::new(
            entry.dw0, entry.dw1, entry.sqhd, entry.sqid, entry.cid, entry.status(), entry.phase(),
        );
        prop_assert_eq!(again.as_bytes(), bytes);
    }

    /// Bit 15 of a `Status` is no part of the status field: it must not reach the wire or disturb the phase.
    #[test]
    fn a_status_cannot_touch_the_phase(status: u16, phase: bool) {
        let entry = CompletionEntry::new(0, 0, 0, 0, 0, Status(status), phase);
        prop_assert_eq!(entry.phase(), phase);
        prop_assert_eq!(entry.status().0, status & 0x7FFF);
    }
}
