use std::string::ToString;

use super::*;
use crate::identify::Oaes;
use crate::test_support::assert_bits;

#[test]
fn names() {
    assert_eq!(FeatureId::NUMBER_OF_QUEUES.to_string(), "Number of Queues");
    assert_eq!(FeatureId(0xC1).to_string(), "feature C1h");
    assert!(FeatureId::ALL.is_sorted());
}

#[test]
fn bits() {
    assert_bits!(Arbitration(u32), reserved = 0x0000_00F8, {
        with_ab / ab = 7 => 2:0, with_lpw_z / lpw_z = 255 => 15:8, with_mpw_z / mpw_z = 255 => 23:16,
        with_hpw_z / hpw_z = 255 => 31:24,
    });
    assert_bits!(PowerManagement(u32), reserved = 0xFFFF_FF00, {
        with_ps / ps = 31 => 4:0, with_wh / wh = 7 => 7:5,
    });
    assert_bits!(TemperatureThreshold(u32), reserved = 0xFFC0_0000, {
        with_tmpth / tmpth = 0xFFFF => 15:0, with_tmpsel / tmpsel = 15 => 19:16, with_thsel / thsel = 3 => 21:20,
    });
    assert_bits!(ErrorRecovery(u32), reserved = 0xFFFE_0000, {
        with_tler / tler = 0xFFFF => 15:0, with_dulbe / dulbe = true => 16:16,
    });
    assert_bits!(VolatileWriteCache(u32), reserved = 0xFFFF_FFFE, { with_wce / wce = true => 0:0 });
    assert_bits!(InterruptCoalescing(u32), reserved = 0xFFFF_0000, {
        with_thr_z / thr_z = 255 => 7:0, with_time / time = 255 => 15:8,
    });
    assert_bits!(InterruptVectorConfiguration(u32), reserved = 0xFFFE_0000, {
        with_iv / iv = 0xFFFF => 15:0, with_cd / cd = true => 16:16,
    });
    assert_bits!(WriteAtomicity(u32), reserved = 0xFFFF_FFFE, { with_dn / dn = true => 0:0 });
    assert_bits!(AsyncEventConfiguration(u32), reserved = 0x77FF_0000, {
        with_smart / smart = 255 => 7:0, with_namespace_attribute / namespace_attribute = true => 8:8,
        with_firmware_activation / firmware_activation = true => 9:9, with_telemetry / telemetry = true => 10:10,
        with_ana_change / ana_change = true => 11:11, with_predictable_latency / predictable_latency = true => 12:12,
        with_lba_status / lba_status = true => 13:13, with_endurance_group / endurance_group = true => 14:14,
        with_normal_shutdown / normal_shutdown = true => 15:15, with_zone_descriptor / zone_descriptor = true => 27:27,
        with_discovery_log / discovery_log = true => 31:31,
    });
    assert_bits!(Apst(u32), reserved = 0xFFFF_FFFE, { with_apste / apste = true => 0:0 });
    assert_bits!(ApstEntry(u64), reserved = 0xFFFF_FFFF_0000_0007, {
        with_itps / itps = 31 => 7:3, with_itpt / itpt = 0xFF_FFFF => 31:8,
    });
    assert_bits!(HostMemoryBuffer(u32), reserved = 0xFFFF_FFFC, {
        with_ehm / ehm = true => 0:0, with_mr / mr = true => 1:1,
    });
    assert_bits!(Timestamp(u64), reserved = 0xFFF0_0000_0000_0000, {
        with_milliseconds / milliseconds = 0xFFFF_FFFF_FFFF => 47:0, with_synch / synch = true => 48:48,
        with_origin / origin = 7 => 51:49,
    });
    assert_bits!(HostControlledThermalManagement(u32), reserved = 0, {
        with_tmt2 / tmt2 = 0xFFFF => 15:0, with_tmt1 / tmt1 = 0xFFFF => 31:16,
    });
    assert_bits!(NonOperationalPowerState(u32), reserved = 0xFFFF_FFFE, { with_noppme / noppme = true => 0:0 });
    assert_bits!(NamespaceWriteProtection(u32), reserved = 0xFFFF_FFF8, { with_wps / wps = 7 => 2:0 });
}

/// The notices that Identify Controller offers are enabled by the same bits; a controller may mask one by the other.
#[test]
fn notices_are_at_the_bits_of_oaes() {
    let offered = Oaes::new()
        .with_namespace_attribute(true)
        .with_firmware_activation(true);
    let enabled = AsyncEventConfiguration::from(u32::from(offered));
    assert!(enabled.namespace_attribute() && enabled.firmware_activation());
}
