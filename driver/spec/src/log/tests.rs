use proptest::collection::vec;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::command::NSID_ALL;
use crate::opcode::{AdminOpcode, NvmOpcode};
use crate::status::Status;
use crate::test_support::assert_bits;

fn page(length: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = std::vec![0; length];
    for (offset, part) in parts {
        bytes[*offset..*offset + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn bits() {
    assert_bits!(CriticalWarning(u8), reserved = 0xC0, {
        with_available_spare / available_spare = true => 0:0, with_temperature / temperature = true => 1:1,
        with_reliability / reliability = true => 2:2, with_read_only / read_only = true => 3:3,
        with_memory_backup / memory_backup = true => 4:4, with_persistent_memory / persistent_memory = true => 5:5,
    });
    assert_bits!(CommandEffects(u32), reserved = 0x0000_3FE0, {
        with_csupp / csupp = true => 0:0, with_lbcc / lbcc = true => 1:1, with_ncc / ncc = true => 2:2,
        with_nic / nic = true => 3:3, with_ccc / ccc = true => 4:4, with_cser / cser = 3 => 15:14,
        with_cse / cse = 7 => 18:16, with_uuid_selection / uuid_selection = true => 19:19,
        with_csp / csp = 0xFFF => 31:20,
    });
}

#[test]
fn error_entry_from_bytes() {
    let bytes = page(
        64,
        &[
            (0, &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x34, 0x12]),
            (12, &[0x05, 0x80, 0x2A, 0x05]),
            (16, &[0, 0, 0, 0, 2]),
            (24, &[3]),
        ],
    );
    let entry = ErrorLogEntry::read_from_bytes(&bytes).unwrap();
    assert!(entry.is_used() && !ErrorLogEntry::default().is_used());
    assert_eq!(
        (entry.error_count.get(), entry.sqid.get(), entry.cid.get()),
        (9, 1, 0x1234)
    );
    assert_eq!(entry.status(), Status::INVALID_FIELD.with_dnr(true));
    assert_eq!(entry.parameter_error_location.get(), 5 << 8 | 42);
    assert_eq!((entry.lba.get(), entry.nsid.get()), (2 << 32, 3));
}

#[test]
fn smart_from_bytes() {
    let bytes = page(
        512,
        &[
            (0, &[0b10, 0x36, 0x01, 97, 10, 105]),
            (32, &[0xFF; 16]),
            (48, &[2]),
            (96, &[0, 0, 0, 0, 0, 0, 0, 0, 1]),
            (176, &[7]),
            (192, &[60, 0, 0, 0, 1]),
            (200, &[0x2C, 0x01]),
            (228, &[0xEE]),
        ],
    );
    let smart = SmartLog::ref_from_bytes(&bytes).unwrap();
    assert!(CriticalWarning::from(smart.critical_warning).temperature());
    assert_eq!(kelvin_to_celsius(smart.composite_temperature.get()), Some(37));
    assert_eq!(
        (
            smart.available_spare,
            smart.available_spare_threshold,
            smart.percentage_used
        ),
        (97, 10, 105)
    );
    assert_eq!(data_units_to_bytes(smart.data_units_written.get()), 1_024_000);
    assert_eq!(data_units_to_bytes(smart.data_units_read.get()), u128::MAX);
    assert_eq!(smart.controller_busy_time.get(), 1 << 64);
    assert_eq!(smart.num_err_log_entries.get(), 7);
    assert_eq!(
        (
            smart.warning_temperature_time.get(),
            smart.critical_temperature_time.get()
        ),
        (60, 1)
    );
    assert_eq!(kelvin_to_celsius(smart.temperature_sensors[0].get()), Some(27));
    assert_eq!(kelvin_to_celsius(smart.temperature_sensors[1].get()), None);
    assert_eq!(smart.thermal_temp2_total_time.get(), 0xEE);
    assert_eq!(kelvin_to_celsius(1), Some(-272));
}

#[test]
fn firmware_slots() {
    let bytes = page(512, &[(0, &[0x21]), (8, b"1.0     "), (16, b"2.0\x07    ")]);
    let log = FirmwareSlotLog::ref_from_bytes(&bytes).unwrap();
    assert_eq!((log.active_slot(), log.next_slot()), (1, Some(2)));
    assert_eq!(log.revision(1).unwrap(), "1.0");
    assert_eq!(log.revision(2).unwrap(), "2.0?");
    for slot in [0, 3, 7, 8, 255] {
        assert_eq!(log.revision(slot), None, "slot {slot}");
    }
    assert_eq!(FirmwareSlotLog::default().next_slot(), None);
}

#[test]
fn changed_namespaces() {
    let some = ChangedNamespaces::new([2, 5]);
    assert!(!some.is_overflowed());
    assert!(some.iter().eq([2, 5]));
    assert!(ChangedNamespaces::new(1..=1024).iter().eq(1..=1024));
    let all = ChangedNamespaces::new(1..=1025);
    assert!(all.is_overflowed());
    assert_eq!(all.iter().count(), 0);
    assert_eq!((all.nsids[0].get(), all.nsids[1].get()), (NSID_ALL, 0));
}

#[test]
fn commands_supported() {
    let bytes = page(
        4096,
        &[
            (4 * 0x80, &[0x03, 0, 2]),
            (1024 + 4, &[0x03]),
            (1024 + 4 * 255, &[0x01]),
        ],
    );
    let log = CommandsSupported::ref_from_bytes(&bytes).unwrap();
    let format = log.admin(AdminOpcode::FORMAT_NVM);
    assert!(format.csupp() && format.lbcc());
    assert_eq!(format.cse(), 2);
    assert!(!log.admin(AdminOpcode::SANITIZE).csupp());
    assert!(log.io(NvmOpcode::WRITE).lbcc() && !log.io(NvmOpcode::READ).csupp());
    assert!(log.io(NvmOpcode(255)).csupp());
}

#[test]
fn supported_pages() {
    let bytes = page(1024, &[(8, &[1]), (4 * 0x81, &[1]), (4 * 3, &[2])]);
    let log = SupportedLogPages::ref_from_bytes(&bytes).unwrap();
    assert!(log.supports(LogId::SMART) && log.supports(LogId::SANITIZE_STATUS));
    assert!(!log.supports(LogId::FIRMWARE_SLOT) && !log.supports(LogId(255)));
}

#[test]
fn self_test() {
    let bytes = page(
        564,
        &[
            (0, &[0x01, 0xA5]),
            (4, &[0x27, 3, 0b1011, 0]),
            (8, &[100]),
            (16, &[1]),
            (20, &[0, 1]),
            (28, &[2, 0x81]),
            (32, &[0x1F]),
        ],
    );
    let log = SelfTestLog::ref_from_bytes(&bytes).unwrap();
    assert_eq!(log.progress_percent(), Some(0x25));
    let [failed, unused, passed, ..] = &log.results;
    assert_eq!(
        (failed.result(), failed.operation()),
        (SelfTestResultCode::FAILED_SEGMENT, 2)
    );
    assert_eq!((failed.segment, failed.power_on_hours.get()), (3, 100));
    assert_eq!(
        (failed.valid_nsid(), failed.valid_failing_lba()),
        (Some(1), Some(256))
    );
    // SC is valid here and SCT is not: half a status is none.
    assert_eq!(failed.valid_status(), None);
    let both = SelfTestResult {
        valid: 0b1100,
        ..*failed
    };
    assert_eq!(both.valid_status(), Some(Status::UNRECOVERED_READ_ERROR));
    assert_eq!((both.valid_nsid(), both.valid_failing_lba()), (None, None));
    assert!(!unused.is_used() && passed.is_used());
    assert_eq!(passed.result().to_string(), "Operation completed without error");
    assert_eq!(SelfTestLog::default().progress_percent(), None);
}

#[test]
fn names() {
    assert_eq!(LogId::SMART.to_string(), "SMART / Health Information");
    assert_eq!(LogId(0xC0).to_string(), "log page C0h");
    assert!(LogId::ALL.is_sorted());
}

proptest! {
    #[test]
    fn any_bytes_are_legal(bytes in vec(any::<u8>(), 4096)) {
        let changed = ChangedNamespaces::ref_from_bytes(&bytes).unwrap();
        prop_assert!(changed.iter().all(|nsid| nsid != 0));
        prop_assert_eq!(changed.as_bytes(), &bytes);
        let commands = CommandsSupported::ref_from_bytes(&bytes).unwrap();
        let (firmware, _) = FirmwareSlotLog::ref_from_prefix(&bytes).unwrap();
        let (pages, _) = SupportedLogPages::ref_from_prefix(&bytes).unwrap();
        for number in 0..=255 {
            prop_assert_eq!(u32::from(commands.io(NvmOpcode(number))), commands.iocs[usize::from(number)].get());
            prop_assert_eq!(firmware.revision(number).is_some_and(|text| !text.as_str().is_ascii()), false);
            let _ = pages.supports(LogId(number));
        }
        let (tests, _) = SelfTestLog::ref_from_prefix(&bytes).unwrap();
        prop_assert!(tests.progress_percent().is_none_or(|percent| percent < 128));
        for result in &tests.results {
            let _ = (result.valid_nsid(), result.valid_failing_lba(), result.result().to_string());
            prop_assert!(result.valid_status().is_none_or(|status| status.sct() < 8));
        }
        let (error, _) = ErrorLogEntry::ref_from_prefix(&bytes).unwrap();
        prop_assert_eq!(error.status().0, error.status_phase.get() >> 1);
        let (smart, _) = SmartLog::ref_from_prefix(&bytes).unwrap();
        let _ = data_units_to_bytes(smart.data_units_read.get());
        let _ = kelvin_to_celsius(smart.composite_temperature.get());
    }
}
