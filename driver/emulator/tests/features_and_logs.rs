//! Features and log pages: values, refusals, and counters that are true.

mod common;

use common::{Host, PAGE};
use nvme_spec::command::{
    self, GetFeaturesCdw10, NSID_ALL, SEL_CURRENT, SEL_DEFAULT, SEL_SAVED, SEL_SUPPORTED_CAPABILITIES,
};
use nvme_spec::feature::{FeatureId, InterruptVectorConfiguration, TemperatureThreshold, Timestamp};
use nvme_spec::identify::Cns;
use nvme_spec::log::{
    CommandsSupported, ErrorLogEntry, FirmwareSlotLog, LogId, SelfTestLog, SelfTestResultCode, SmartLog,
    SupportedLogPages,
};
use nvme_spec::{AdminOpcode, NvmOpcode, Status, SubmissionEntry};

#[test]
fn features_have_current_default_and_saved_values() {
    let mut host = Host::ready("");
    let fid = FeatureId::TEMPERATURE_THRESHOLD;
    let get = |host: &mut Host, sel| host.admin_ok(command::get_features(fid, 0, sel)).dw0;
    let default = get(&mut host, SEL_DEFAULT);
    assert_eq!(get(&mut host, SEL_CURRENT), default);
    let set = |kelvin, save| {
        command::set_features(
            fid,
            0,
            TemperatureThreshold::new().with_tmpth(kelvin).into(),
            save,
        )
    };
    host.admin_ok(set(400, true));
    host.admin_ok(set(401, false));
    assert_eq!(
        [SEL_CURRENT, SEL_DEFAULT, SEL_SAVED].map(|sel| get(&mut host, sel)),
        [401, default, 400]
    );
    assert_eq!(get(&mut host, SEL_SUPPORTED_CAPABILITIES), 0b101);
    host.disable();
    host.enable();
    assert_eq!(
        get(&mut host, SEL_CURRENT),
        400,
        "a reset brings the saved value back"
    );
}

#[test]
fn features_are_refused_for_each_reason() {
    let mut host = Host::ready("vectors=4,vwc=off");
    let get = |fid, sel: u8| {
        let cdw10 = GetFeaturesCdw10::new().with_fid(fid).with_sel(sel);
        SubmissionEntry {
            opcode: AdminOpcode::GET_FEATURES.0,
            cdw10: cdw10.into(),
            ..Default::default()
        }
    };
    let set = |fid: FeatureId, nsid, value, save| command::set_features(fid, nsid, value, save);
    for (entry, status) in [
        (get(0x00, 0), Status::INVALID_FIELD),
        (get(0x0C, 0), Status::INVALID_FIELD),
        (get(FeatureId::VOLATILE_WRITE_CACHE.0, 0), Status::INVALID_FIELD),
        (get(FeatureId::ARBITRATION.0, 4), Status::INVALID_FIELD),
        (
            get(FeatureId::ERROR_RECOVERY.0, 0),
            Status::INVALID_NAMESPACE_OR_FORMAT,
        ),
        (
            set(FeatureId::VOLATILE_WRITE_CACHE, 0, 1, false),
            Status::INVALID_FIELD,
        ),
        (
            set(FeatureId::NUMBER_OF_QUEUES, 0, 1, true),
            Status::FEATURE_IDENTIFIER_NOT_SAVEABLE,
        ),
        (
            set(FeatureId::ARBITRATION, 1, 0, false),
            Status::FEATURE_NOT_NAMESPACE_SPECIFIC,
        ),
        (
            set(FeatureId::POWER_MANAGEMENT, 0, 1, false),
            Status::INVALID_FIELD,
        ),
        (
            set(FeatureId::INTERRUPT_VECTOR_CONFIGURATION, 0, 4, false),
            Status::INVALID_FIELD,
        ),
        (
            set(FeatureId::ERROR_RECOVERY, 1, 1 << 16, false),
            Status::INVALID_FIELD,
        ),
        (
            set(FeatureId::TEMPERATURE_THRESHOLD, 0, 1 << 16, false),
            Status::INVALID_FIELD,
        ),
    ] {
        host.admin_fails(entry, status);
    }
    let config = InterruptVectorConfiguration::new().with_iv(3).with_cd(true);
    host.admin_ok(set(
        FeatureId::INTERRUPT_VECTOR_CONFIGURATION,
        0,
        config.into(),
        false,
    ));
    let mut entry = get(FeatureId::INTERRUPT_VECTOR_CONFIGURATION.0, 0);
    entry.cdw11 = 3;
    assert_eq!(
        InterruptVectorConfiguration::from(host.admin_ok(entry).dw0),
        config
    );
    entry.cdw11 = 2;
    assert!(!InterruptVectorConfiguration::from(host.admin_ok(entry).dw0).cd());
    host.admin_ok(set(FeatureId::ERROR_RECOVERY, NSID_ALL, 5, false));
    assert_eq!(
        host.admin_ok(command::get_features(FeatureId::ERROR_RECOVERY, 1, SEL_CURRENT))
            .dw0,
        5
    );
}

#[test]
fn the_timestamp_goes_on_from_what_was_set() {
    let mut host = Host::ready("");
    let get = command::get_features(FeatureId::TIMESTAMP, 0, SEL_CURRENT);
    host.now_ns = 5_000_000;
    let timestamp = Timestamp::from(host.admin_data::<u64>(get));
    assert_eq!((timestamp.milliseconds(), timestamp.origin()), (5, 0));
    let buffer = host.alloc(PAGE);
    host.write(buffer, &1_700_000_000_000u64.to_le_bytes());
    let set = command::set_features(FeatureId::TIMESTAMP, 0, 0, false);
    host.admin_ok(SubmissionEntry { prp1: buffer, ..set });
    host.now_ns += 3_000_000;
    let timestamp = Timestamp::from(host.admin_data::<u64>(get));
    assert_eq!(
        (timestamp.milliseconds(), timestamp.origin()),
        (1_700_000_000_003, 1)
    );
}

#[test]
fn errors_are_logged_and_say_more() {
    let mut host = Host::with_queue("");
    let failed = host.run(
        1,
        SubmissionEntry {
            nsid: 9,
            cdw10: 123,
            ..command::flush(9)
        },
    );
    assert!(failed.status().more() && failed.status().is(Status::INVALID_NAMESPACE_OR_FORMAT));
    let cid = failed.cid;
    let refused = host.admin(command::identify(Cns(0xee), 0, 0));
    assert!(refused.status().more());
    let log: [ErrorLogEntry; 64] = host.log(LogId::ERROR_INFORMATION);
    assert_eq!(log.iter().filter(|entry| entry.is_used()).count(), 2);
    let [newest, older, ..] = log;
    assert_eq!(
        (
            newest.error_count.get(),
            newest.sqid.get(),
            newest.parameter_error_location.get()
        ),
        (2, 0, 40)
    );
    assert_eq!(
        (
            older.sqid.get(),
            older.cid.get(),
            older.nsid.get(),
            older.lba.get()
        ),
        (1, cid, 9, 123)
    );
    assert!(older.status().is(failed.status()));
    assert_eq!(host.log::<SmartLog>(LogId::SMART).num_err_log_entries.get(), 2);
}

#[test]
fn smart_counts_what_was_done() {
    let mut host = Host::with_queue("temperature=300K");
    host.write_blocks(1, 1, 0, &vec![7; 250 * 4096]);
    host.read_blocks(1, 1, 0, 2);
    host.read_blocks(1, 1, 0, 1);
    host.now_ns = 2 * 3_600_000_000_000;
    let smart: SmartLog = host.log(LogId::SMART);
    assert_eq!(smart.composite_temperature.get(), 300);
    assert_eq!(
        (smart.host_read_commands.get(), smart.host_write_commands.get()),
        (2, 1)
    );
    // Units of 512,000 bytes, rounded up.
    assert_eq!(
        (smart.data_units_read.get(), smart.data_units_written.get()),
        (1, 2)
    );
    assert_eq!(
        (
            smart.power_cycles.get(),
            smart.unsafe_shutdowns.get(),
            smart.power_on_hours.get()
        ),
        (1, 0, 2)
    );
    host.device.power_cycle(host.now_ns);
    host.enable();
    host.write_cc(Host::cc().with_shn(nvme_spec::register::SHN_NORMAL));
    host.step();
    host.device.power_cycle(host.now_ns);
    host.enable();
    let smart: SmartLog = host.log(LogId::SMART);
    // The second time it was shut down before.
    assert_eq!(
        (
            smart.power_cycles.get(),
            smart.unsafe_shutdowns.get(),
            smart.power_on_hours.get()
        ),
        (3, 1, 2)
    );
    host.admin_fails(
        command::get_log_page(LogId::SMART, 1, 512, 0, false),
        Status::INVALID_FIELD,
    );
}

#[test]
fn busy_time_is_the_time_with_commands_out() {
    let mut host = Host::with_queue("latency=90s");
    let buffer = host.alloc(PAGE);
    host.now_ns = 1_000_000_000_000;
    host.run(
        1,
        SubmissionEntry {
            prp1: buffer,
            ..command::read(1, 0, 1)
        },
    );
    host.run(
        1,
        SubmissionEntry {
            prp1: buffer,
            ..command::read(1, 0, 1)
        },
    );
    assert_eq!(host.log::<SmartLog>(LogId::SMART).controller_busy_time.get(), 3);
}

#[test]
fn log_pages_by_offset_and_beyond() {
    let mut host = Host::ready("firmware=7.1");
    let firmware: FirmwareSlotLog = host.log(LogId::FIRMWARE_SLOT);
    assert_eq!(
        (firmware.active_slot(), firmware.revision(1).unwrap().as_str()),
        (1, "7.1")
    );
    let part: [u8; 8] = host.admin_data(command::get_log_page(LogId::FIRMWARE_SLOT, 0, 8, 8, false));
    assert_eq!(&part, b"7.1     ");
    let commands: CommandsSupported = host.log(LogId::COMMANDS_SUPPORTED);
    assert!(commands.io(NvmOpcode::VERIFY).csupp() && !commands.io(NvmOpcode(0xcc)).csupp());
    assert!(commands.admin(AdminOpcode::FORMAT_NVM).lbcc());
    let pages: SupportedLogPages = host.log(LogId::SUPPORTED_LOG_PAGES);
    assert!(pages.supports(LogId::SMART) && !pages.supports(LogId::TELEMETRY_HOST));
    for lid in [LogId::TELEMETRY_HOST, LogId::SANITIZE_STATUS, LogId(0xff)] {
        host.admin_fails(
            command::get_log_page(lid, 0, 512, 0, false),
            Status::INVALID_LOG_PAGE,
        );
    }
    let past_the_end = command::get_log_page(LogId::SMART, 0, 512, 516, false);
    host.admin_fails(past_the_end, Status::INVALID_FIELD);
    let mut unaligned = command::get_log_page(LogId::SMART, 0, 512, 0, false);
    unaligned.cdw12 = 2;
    host.admin_fails(unaligned, Status::INVALID_FIELD);
    host.admin_fails(
        command::get_log_page(LogId::SMART, 0, 2 << 20, 0, false),
        Status::INVALID_FIELD,
    );
    let by_index = SubmissionEntry {
        cdw14: 1 << 23,
        ..command::get_log_page(LogId::SMART, 0, 512, 0, false)
    };
    host.admin_fails(by_index, Status::INVALID_FIELD);
}

#[test]
fn self_tests_take_their_time_and_leave_a_result() {
    let mut host = Host::ready("");
    let test = |code| SubmissionEntry {
        opcode: AdminOpcode::DEVICE_SELF_TEST.0,
        cdw10: code,
        ..Default::default()
    };
    host.admin_ok(test(1));
    host.admin_fails(test(2), Status::SELF_TEST_IN_PROGRESS);
    let log: SelfTestLog = host.log(LogId::DEVICE_SELF_TEST);
    assert_eq!((log.current_operation, log.progress_percent()), (1, Some(0)));
    let ends_ns = host.step().due_ns.unwrap();
    host.now_ns = (host.now_ns + ends_ns) / 2;
    assert_eq!(
        host.log::<SelfTestLog>(LogId::DEVICE_SELF_TEST)
            .progress_percent(),
        Some(50)
    );
    host.now_ns = ends_ns;
    host.step();
    let log: SelfTestLog = host.log(LogId::DEVICE_SELF_TEST);
    assert_eq!(log.progress_percent(), None);
    assert_eq!(
        (log.results[0].operation(), log.results[0].result()),
        (1, SelfTestResultCode::PASSED)
    );
    assert_eq!(log.results[1].result(), SelfTestResultCode::UNUSED);
    host.admin_ok(test(2));
    host.admin_ok(test(0xf));
    host.admin_ok(test(1));
    host.disable();
    host.enable();
    let log: SelfTestLog = host.log(LogId::DEVICE_SELF_TEST);
    assert_eq!(log.results[0].result(), SelfTestResultCode::ABORTED_BY_RESET);
    assert_eq!(
        (log.results[1].operation(), log.results[1].result()),
        (2, SelfTestResultCode::ABORTED_BY_COMMAND)
    );
    host.admin_fails(test(7), Status::INVALID_FIELD);
}
