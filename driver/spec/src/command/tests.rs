use proptest::prelude::*;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::identify::CSI_ZONED;
use crate::test_support::assert_bits;

#[test]
fn admin_bits() {
    assert_bits!(IdentifyCdw10(u32), reserved = 0x0000_FF00, {
        with_cns / cns = 255 => 7:0, with_cntid / cntid = 0xFFFF => 31:16,
    });
    assert_bits!(IdentifyCdw11(u32), reserved = 0x00FF_0000, {
        with_cns_specific / cns_specific = 0xFFFF => 15:0, with_csi / csi = 255 => 31:24,
    });
    assert_bits!(CreateQueueCdw10(u32), reserved = 0, {
        with_qid / qid = 0xFFFF => 15:0, with_qsize_z / qsize_z = 0xFFFF => 31:16,
    });
    assert_bits!(CreateCqCdw11(u32), reserved = 0x0000_FFFC, {
        with_pc / pc = true => 0:0, with_ien / ien = true => 1:1, with_iv / iv = 0xFFFF => 31:16,
    });
    assert_bits!(CreateSqCdw11(u32), reserved = 0x0000_FFF8, {
        with_pc / pc = true => 0:0, with_qprio / qprio = 3 => 2:1, with_cqid / cqid = 0xFFFF => 31:16,
    });
    assert_bits!(GetLogCdw10(u32), reserved = 0, {
        with_lid / lid = 255 => 7:0, with_lsp / lsp = 0x7F => 14:8, with_rae / rae = true => 15:15,
        with_numdl / numdl = 0xFFFF => 31:16,
    });
    assert_bits!(GetLogCdw11(u32), reserved = 0, {
        with_numdu / numdu = 0xFFFF => 15:0, with_lsi / lsi = 0xFFFF => 31:16,
    });
    assert_bits!(SetFeaturesCdw10(u32), reserved = 0x7FFF_FF00, {
        with_fid / fid = 255 => 7:0, with_sv / sv = true => 31:31,
    });
    assert_bits!(GetFeaturesCdw10(u32), reserved = 0xFFFF_F800, {
        with_fid / fid = 255 => 7:0, with_sel / sel = 7 => 10:8,
    });
    assert_bits!(SupportedCapabilities(u32), reserved = 0xFFFF_FFF8, {
        with_saveable / saveable = true => 0:0, with_namespace_specific / namespace_specific = true => 1:1,
        with_changeable / changeable = true => 2:2,
    });
    assert_bits!(AbortCdw10(u32), reserved = 0, {
        with_sqid / sqid = 0xFFFF => 15:0, with_cid / cid = 0xFFFF => 31:16,
    });
    assert_bits!(NumberOfQueues(u32), reserved = 0, {
        with_nsqr_z / nsqr_z = 0xFFFF => 15:0, with_ncqr_z / ncqr_z = 0xFFFF => 31:16,
    });
    assert_bits!(FormatCdw10(u32), reserved = 0xFFFF_C000, {
        with_lbafl / lbafl = 15 => 3:0, with_mset / mset = true => 4:4, with_pi / pi = 7 => 7:5,
        with_pil / pil = true => 8:8, with_ses / ses = 7 => 11:9, with_lbafu / lbafu = 3 => 13:12,
    });
    assert_bits!(AsyncEventDw0(u32), reserved = 0xFF00_00F8, {
        with_event_type / event_type = 7 => 2:0, with_info / info = 255 => 15:8,
        with_log_page / log_page = 255 => 23:16,
    });
}

#[test]
fn nvm_bits() {
    assert_bits!(ReadWriteCdw12(u32), reserved = 0x000F_0000, {
        with_nlb_z / nlb_z = 0xFFFF => 15:0, with_dtype / dtype = 15 => 23:20, with_stc / stc = true => 24:24,
        with_deac / deac = true => 25:25, with_prinfo / prinfo = 15 => 29:26, with_fua / fua = true => 30:30,
        with_lr / lr = true => 31:31,
    });
    assert_bits!(DsmCdw10(u32), reserved = 0xFFFF_FF00, { with_nr_z / nr_z = 255 => 7:0 });
    assert_bits!(DsmCdw11(u32), reserved = 0xFFFF_FFF8, {
        with_idr / idr = true => 0:0, with_idw / idw = true => 1:1, with_ad / ad = true => 2:2,
    });
}

/// What a constructor leaves for the submitter to fill in is zero; the rest is compared with dwords typed by hand.
#[track_caller]
fn assert_command(entry: SubmissionEntry, opcode: u8, nsid: u32, dwords: [u32; 4], prps: [u64; 2]) {
    let [cdw10, cdw11, cdw12, cdw13] = dwords;
    let [prp1, prp2] = prps;
    let expected = SubmissionEntry {
        opcode,
        nsid,
        cdw10,
        cdw11,
        cdw12,
        cdw13,
        prp1,
        prp2,
        ..Default::default()
    };
    assert_eq!(entry, expected);
}

#[test]
fn admin_commands() {
    const NO_PRP: [u64; 2] = [0, 0];
    assert_command(identify(Cns::CONTROLLER, 0, 0), 0x06, 0, [0x01, 0, 0, 0], NO_PRP);
    assert_command(
        identify(Cns::NAMESPACE_CONTROLLERS, 9, 5),
        0x06,
        9,
        [0x0005_0012, 0, 0, 0],
        NO_PRP,
    );
    let zoned = identify_csi(Cns::IO_NAMESPACE, CSI_ZONED, 1, 0);
    assert_command(zoned, 0x06, 1, [0x05, 0x0200_0000, 0, 0], NO_PRP);
    assert_command(
        create_io_cq(2, 1023, 0xABCD_E000, Some(3)),
        0x05,
        0,
        [0x03FF_0002, 0x0003_0003, 0, 0],
        [0xABCD_E000, 0],
    );
    assert_command(
        create_io_cq(2, 1, 0x1000, None),
        0x05,
        0,
        [0x0001_0002, 0x0000_0001, 0, 0],
        [0x1000, 0],
    );
    assert_command(
        create_io_sq(4, 63, 0x2000, 2, QPRIO_MEDIUM),
        0x01,
        0,
        [0x003F_0004, 0x0002_0005, 0, 0],
        [0x2000, 0],
    );
    assert_command(delete_io_sq(7), 0x00, 0, [7, 0, 0, 0], NO_PRP);
    assert_command(delete_io_cq(8), 0x04, 0, [8, 0, 0, 0], NO_PRP);
    assert_command(
        get_log_page(LogId::SMART, NSID_ALL, 512, 0, false),
        0x02,
        NSID_ALL,
        [0x007F_0002, 0, 0, 0],
        NO_PRP,
    );
    // 1 MiB + 4 bytes need NUMDU, and an offset above 4 GiB needs LPOU.
    assert_command(
        get_log_page(LogId::PERSISTENT_EVENT, 0, 0x10_0004, 0x3_0000_0010, true),
        0x02,
        0,
        [0x0000_800D, 0x0000_0004, 0x10, 0x3],
        NO_PRP,
    );
    assert_command(
        get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, SEL_SAVED),
        0x0A,
        0,
        [0x0204, 0, 0, 0],
        NO_PRP,
    );
    assert_command(
        set_features(FeatureId::VOLATILE_WRITE_CACHE, 0, 1, true),
        0x09,
        0,
        [0x8000_0006, 1, 0, 0],
        NO_PRP,
    );
    assert_command(abort(3, 0x1234), 0x08, 0, [0x1234_0003, 0, 0, 0], NO_PRP);
    assert_command(async_event_request(), 0x0C, 0, [0; 4], NO_PRP);
    let format = FormatCdw10::new().with_format_index(0x21).with_ses(SES_USER_DATA);
    assert_command(format_nvm(1, format), 0x80, 1, [0x2201, 0, 0, 0], NO_PRP);
    assert_command(
        doorbell_buffer_config(0x1000, 0x2000),
        0x7C,
        0,
        [0; 4],
        [0x1000, 0x2000],
    );
}

#[test]
fn nvm_commands() {
    const LBA: u64 = 0x0000_0002_0000_0001;
    for (entry, opcode) in [
        (read(5, LBA, 8), 0x02),
        (write(5, LBA, 8, false), 0x01),
        (write_zeroes(5, LBA, 8), 0x08),
        (compare(5, LBA, 8), 0x05),
        (verify(5, LBA, 8), 0x0C),
    ] {
        assert_command(entry, opcode, 5, [1, 2, 7, 0], [0, 0]);
    }
    assert_command(write(1, 0, 65_536, true), 0x01, 1, [0, 0, 0x4000_FFFF, 0], [0, 0]);
    assert_command(flush(NSID_ALL), 0x00, NSID_ALL, [0; 4], [0, 0]);
    assert_command(dataset_management(1, 256, true), 0x09, 1, [255, 4, 0, 0], [0, 0]);
    assert_command(dataset_management(1, 1, false), 0x09, 1, [0, 0, 0, 0], [0, 0]);
}

#[test]
fn dsm_range_bytes() {
    let range = DsmRange::new(0x1122_3344_5566_7788, 0x99AA_BBCC);
    let bytes = [
        0, 0, 0, 0, 0xCC, 0xBB, 0xAA, 0x99, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
    ];
    assert_eq!(range.as_bytes(), bytes);
    assert_eq!(
        DsmRange::read_from_bytes(&bytes).unwrap().slba,
        U64::new(0x1122_3344_5566_7788)
    );
}

proptest! {
    #[test]
    fn blocks_round_trip(nsid: u32, slba: u64, blocks in 1..=MAX_BLOCKS) {
        let entry = read(nsid, slba, blocks);
        prop_assert_eq!((entry.nsid, entry.lba(), u32::from(entry.nlb_z()) + 1), (nsid, slba, blocks));
    }

    #[test]
    fn log_length_and_offset_round_trip(dwords in 1_u32..=0x3FFF_FFFF, offset: u64, lid: u8) {
        let entry = get_log_page(LogId(lid), 0, dwords * 4, offset & !3, false);
        let cdw10 = GetLogCdw10::from(entry.cdw10);
        prop_assert_eq!(cdw10.lid(), lid);
        prop_assert_eq!(cdw10.length_bytes(entry.cdw11.into()), u64::from(dwords) * 4);
        prop_assert_eq!(u64::from(entry.cdw13) << 32 | u64::from(entry.cdw12), offset & !3);
    }

    #[test]
    fn any_log_length_is_four_bytes_to_16_gib(cdw10: u32, cdw11: u32) {
        let length = GetLogCdw10::from(cdw10).length_bytes(cdw11.into());
        prop_assert!((4..=16 << 30).contains(&length) && length.is_multiple_of(4));
    }

    #[test]
    fn format_index_round_trip(raw: u32, index in 0_u8..64) {
        let cdw10 = FormatCdw10::from(raw).with_format_index(index);
        prop_assert_eq!(cdw10.format_index(), index);
        prop_assert_eq!((u32::from(cdw10) ^ raw) & !0x300F, 0);
    }
}
