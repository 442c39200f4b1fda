use proptest::prelude::*;
use std::string::ToString;

use super::*;
use crate::test_support::assert_bits;

#[test]
fn bits() {
    assert_bits!(Cap(u64), reserved = 0xE000_0000_00F8_0000, {
        with_mqes_z / mqes_z = 0xFFFF => 15:0, with_cqr / cqr = true => 16:16, with_ams / ams = 3 => 18:17,
        with_to / to = 255 => 31:24, with_dstrd / dstrd = 15 => 35:32, with_nssrs / nssrs = true => 36:36,
        with_css / css = 255 => 44:37, with_bps / bps = true => 45:45, with_cps / cps = 3 => 47:46,
        with_mpsmin / mpsmin = 15 => 51:48, with_mpsmax / mpsmax = 15 => 55:52, with_pmrs / pmrs = true => 56:56,
        with_cmbs / cmbs = true => 57:57, with_nsss / nsss = true => 58:58, with_crms / crms = 3 => 60:59,
    });
    assert_bits!(Cc(u32), reserved = 0xFE00_000E, {
        with_en / en = true => 0:0, with_css / css = 7 => 6:4, with_mps / mps = 15 => 10:7,
        with_ams / ams = 7 => 13:11, with_shn / shn = 3 => 15:14, with_iosqes / iosqes = 15 => 19:16,
        with_iocqes / iocqes = 15 => 23:20, with_crime / crime = true => 24:24,
    });
    assert_bits!(Csts(u32), reserved = 0xFFFF_FF80, {
        with_rdy / rdy = true => 0:0, with_cfs / cfs = true => 1:1, with_shst / shst = 3 => 3:2,
        with_nssro / nssro = true => 4:4, with_pp / pp = true => 5:5, with_st / st = true => 6:6,
    });
    assert_bits!(Aqa(u32), reserved = 0xF000_F000, {
        with_asqs_z / asqs_z = 0xFFF => 11:0, with_acqs_z / acqs_z = 0xFFF => 27:16,
    });
    assert_bits!(Vs(u32), reserved = 0, {
        with_tertiary / tertiary = 255 => 7:0, with_minor / minor = 255 => 15:8,
        with_major / major = 0xFFFF => 31:16,
    });
    assert_bits!(Crto(u32), reserved = 0, {
        with_crwmt / crwmt = 0xFFFF => 15:0, with_crimt / crimt = 0xFFFF => 31:16,
    });
}

/// 2048 entries, 7.5 s, a stride of 16 bytes, NVM and other command sets, pages of 4 to 64 KiB.
#[test]
fn cap_quantities() {
    let cap = Cap::from(0x004008220F0107FF);
    assert_eq!(cap.mqes_z(), 2047);
    assert!(cap.cqr());
    assert_eq!((cap.to(), cap.timeout_ms()), (15, 7500));
    assert_eq!((cap.dstrd(), cap.doorbell_stride_bytes()), (2, 16));
    assert_eq!(cap.css(), CAP_CSS_NVM | CAP_CSS_IO_COMMAND_SETS);
    assert_eq!((cap.mpsmin_bytes(), cap.mpsmax_bytes()), (4096, 65536));
    assert_eq!(Cap::from(u64::MAX).mpsmax_bytes(), 1 << 27);
    assert_eq!(Cap::from(u64::MAX).timeout_ms(), 127_500);
    assert_eq!(Cc::from(u32::MAX).mps_bytes(), 1 << 27);
}

#[test]
fn versions() {
    assert_eq!(Vs::from(0x0001_0400).to_string(), "1.4.0");
    assert_eq!(Vs::from(0x0001_0201).to_string(), "1.2.1");
    assert!(Vs::from(0x0002_0000) > Vs::from(0x0001_0400));
}

/// NVMe over PCIe Transport 1.0, section 3.1.2: `1000h + (2y * (4 << CAP.DSTRD))` and `(2y + 1)`.
#[test]
fn doorbells() {
    assert_eq!(doorbell_offset(0, false, 0), 0x1000);
    assert_eq!(doorbell_offset(0, true, 0), 0x1004);
    assert_eq!(doorbell_offset(3, false, 0), 0x1018);
    assert_eq!(doorbell_offset(3, true, 0), 0x101C);
    assert_eq!(doorbell_offset(3, true, 2), 0x1070);
    assert_eq!(doorbell_offset(1, false, 0x10), doorbell_offset(1, false, 0));
}

proptest! {
    #[test]
    fn doorbells_never_overlap(qid: u16, completion: bool, other: u16, other_completion: bool, dstrd in 0_u8..16) {
        prop_assume!((qid, completion) != (other, other_completion));
        let distance = doorbell_offset(qid, completion, dstrd).abs_diff(doorbell_offset(other, other_completion, dstrd));
        prop_assert!(distance >= 4 << dstrd);
    }

    #[test]
    fn any_offset_can_be_computed(qid: u16, completion: bool, dstrd: u8) {
        prop_assert!(doorbell_offset(qid, completion, dstrd) >= DOORBELLS);
    }
}
