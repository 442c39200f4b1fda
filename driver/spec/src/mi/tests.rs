use proptest::collection::vec;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;
use zerocopy::IntoBytes;

use super::*;
use crate::entry::SubmissionEntry;
use crate::log::CriticalWarning;
use crate::test_support::assert_bits;

#[test]
fn bits() {
    assert_bits!(MiHeader(u32), reserved = 0xFFFC_0600, {
        with_mt / mt = 0x7F => 6:0, with_ic / ic = true => 7:7, with_csi / csi = true => 8:8,
        with_nmimt / nmimt = 0xF => 14:11, with_ror / ror = true => 15:15, with_meb / meb = true => 16:16,
        with_ciap / ciap = true => 17:17,
    });
    assert_bits!(MiDw0(u32), reserved = 0, {
        with_status / status = 0xFF => 7:0, with_nmresp / nmresp = 0xFF_FFFF => 31:8,
    });
    assert_bits!(SubsystemStatus(u8), reserved = 0b1100_0011, {
        with_port1_link_active / port1_link_active = true => 2:2,
        with_port0_link_active / port0_link_active = true => 3:3,
        with_reset_not_required / reset_not_required = true => 4:4,
        with_drive_functional / drive_functional = true => 5:5,
    });
    assert_bits!(HealthChanges(u16), reserved = 0xC008, {
        with_ready / ready = true => 0:0, with_fatal / fatal = true => 1:1,
        with_shutdown_status / shutdown_status = true => 2:2, with_subsystem_reset / subsystem_reset = true => 4:4,
        with_enable / enable = true => 5:5, with_namespace_attribute / namespace_attribute = true => 6:6,
        with_firmware_activated / firmware_activated = true => 7:7,
        with_controller_status / controller_status = true => 8:8, with_temperature / temperature = true => 9:9,
        with_used / used = true => 10:10, with_spare / spare = true => 11:11,
        with_critical_warning / critical_warning = true => 12:12, with_telemetry / telemetry = true => 13:13,
    });
    assert_bits!(MiControllerStatus(u16), reserved = 0xFE00, {
        with_rdy / rdy = true => 0:0, with_cfs / cfs = true => 1:1, with_shst / shst = 3 => 3:2,
        with_nssro / nssro = true => 4:4, with_ceco / ceco = true => 5:5, with_nac / nac = true => 6:6,
        with_fa / fa = true => 7:7, with_tcida / tcida = true => 8:8,
    });
    assert_bits!(ControllerHealthSelect(u8), reserved = 0xE0, {
        with_controller_status / controller_status = true => 0:0, with_temperature / temperature = true => 1:1,
        with_used / used = true => 2:2, with_spare / spare = true => 3:3,
        with_critical_warning / critical_warning = true => 4:4,
    });
}

#[test]
fn requests_as_bytes() {
    // Header: message type 4h, NVMe-MI Command (1h in bits 14:11), request; opcode; two dwords.
    let health = [0x04, 0x08, 0, 0, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
    assert_eq!(MiRequest::subsystem_health_status_poll(true).as_bytes(), health);
    // All controllers from 0102h on, 255 of them, of every kind; nothing cleared.
    let poll = ControllerHealthPoll::everything(0x0102);
    let controllers = [
        0x04, 0x08, 0, 0, 0x02, 0, 0, 0, 0x02, 0x01, 0xFE, 0x87, 0, 0, 0, 0,
    ];
    assert_eq!(
        MiRequest::controller_health_status_poll(poll).as_bytes(),
        controllers
    );
    // One controller, if it is one that warns; its flags are cleared.
    let poll = ControllerHealthPoll {
        functions: true,
        select: ControllerHealthSelect::new()
            .with_critical_warning(true)
            .with_spare(true),
        clear: true,
        ..Default::default()
    };
    let warning = [0x04, 0x08, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0x01, 0x18, 0, 0, 0x80];
    assert_eq!(MiRequest::controller_health_status_poll(poll).as_bytes(), warning);
    let frequency = [0x04, 0x08, 0, 0, 0x04, 0, 0, 0, 0x01, 0, 0, 0x02, 0, 0, 0, 0];
    assert_eq!(
        MiRequest::configuration_get(ConfigurationId::SMBUS_FREQUENCY, 2).as_bytes(),
        frequency
    );
    let vpd = [0x04, 0x08, 0, 0, 0x05, 0, 0, 0, 0x34, 0x12, 0, 0, 0, 0x01, 0, 0];
    assert_eq!(MiRequest::vpd_read(0x1234, 256).as_bytes(), vpd);
}

#[test]
fn a_request_is_four_dwords_of_a_command() {
    let entry = MiRequest::vpd_read(256, 16).entry();
    assert_eq!(
        entry,
        SubmissionEntry {
            opcode: 0x1E,
            cdw10: 0x804,
            cdw11: 5,
            cdw12: 256,
            cdw13: 16,
            ..Default::default()
        }
    );
    assert_eq!(MiRequest::new(MiOpcode::VPD_WRITE, 0, 0).entry().opcode, 0x1D);
    assert_eq!(MiRequest::new(MiOpcode(0x20), 0, 0).entry().opcode, 0x1D);
}

#[test]
fn the_buffer_is_as_large_as_the_request_may_make_it() {
    for (request, bytes) in [
        (MiRequest::subsystem_health_status_poll(false), 8),
        (
            MiRequest::controller_health_status_poll(ControllerHealthPoll::everything(0)),
            255 * 16,
        ),
        (
            MiRequest::new(MiOpcode::CONTROLLER_HEALTH_STATUS_POLL, 0x00FF_0000, 0),
            4096,
        ),
        (MiRequest::configuration_get(ConfigurationId(2), 0), 0),
        (MiRequest::vpd_read(0, 0), 0),
        (MiRequest::vpd_read(0, u16::MAX), 65535),
        (MiRequest::new(MiOpcode::SES_SEND, 0, 0x1_0007), 7),
        (MiRequest::new(MiOpcode::READ_DATA_STRUCTURE, 0, 0), 4096),
        (MiRequest::new(MiOpcode(0xC5), 0, 5000), 5000),
    ] {
        assert_eq!(request.data_bytes(), bytes, "{request:?}");
    }
}

#[test]
fn a_response_is_as_long_as_the_controller_says_and_no_longer_than_was_asked_for() {
    let controllers = MiRequest::new(MiOpcode::CONTROLLER_HEALTH_STATUS_POLL, 0x0001_0000, 0);
    let structure = MiRequest::new(MiOpcode::READ_DATA_STRUCTURE, 0, 0);
    let vpd = MiRequest::vpd_read(0, 256);
    for (request, dw0, bytes) in [
        (controllers, 0x0100_0000, 16),
        (controllers, 0x0200_0000, 32),
        (controllers, 0xFF00_0000, 32),
        (controllers, 0x0200_0004, 0),
        (structure, 0x0000_2000, 32),
        (structure, 0x00FF_FF00, 4096),
        (vpd, 0, 256),
        (vpd, 0x0008_0004, 0),
        (MiRequest::new(MiOpcode::VPD_WRITE, 0, 9), 0, 0),
    ] {
        assert_eq!(request.response_bytes(dw0.into()), bytes, "{request:?} {dw0:08X}");
    }
}

/// A response to a command of the management interface that succeeded.
fn success(nmresp: u32, data: &[u8]) -> Vec<u8> {
    let mut message = MiResponse::head(MiDw0::new().with_nmresp(nmresp)).to_vec();
    message.extend_from_slice(data);
    message
}

#[test]
fn subsystem_health_from_bytes() {
    // Header: message type 4h, NVMe-MI Command, response. Status 0. Drive functional, no reset required, port 0 linked;
    // temperature and reliability warnings (inverted); -3 degrees; 120% used; ready, enabled, status, temperature changed.
    let message = [
        0x04, 0x88, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x38, 0xF9, 0xFD, 0x78, 0x21, 0x03, 0x00, 0x00,
    ];
    let health = SubsystemHealth::parse(&MiResponse::parse(&message).unwrap()).unwrap();
    assert_eq!(
        health,
        SubsystemHealth {
            nss: SubsystemStatus::new()
                .with_drive_functional(true)
                .with_reset_not_required(true)
                .with_port0_link_active(true),
            warnings: CriticalWarning::new()
                .with_temperature(true)
                .with_reliability(true),
            ctemp: CompositeTemperature(0xFD),
            pdlu: 120,
            ccs: HealthChanges::new()
                .with_ready(true)
                .with_enable(true)
                .with_controller_status(true)
                .with_temperature(true),
        }
    );
    assert_eq!(health.ctemp.celsius(), Some(-3));
    assert_eq!(health.to_data().as_bytes(), &message[8..]);
}

#[test]
fn controller_health_from_bytes() {
    let mut data = Vec::new();
    // Controller 0001h: ready, 310 K, 3% used, 97% spare, no warning; controller 0201h: fatal, shutting down, spare low.
    data.extend([
        0x01, 0x00, 0x21, 0x00, 0x36, 0x01, 0x03, 0x61, 0x00, 0x21, 0x01, 0, 0, 0, 0, 0,
    ]);
    data.extend([
        0x01, 0x02, 0x06, 0x00, 0x00, 0x00, 0xFF, 0x04, 0x01, 0x00, 0x18, 0, 0, 0, 0, 0,
    ]);
    let message = success(0x02_0000, &data);
    let response = MiResponse::parse(&message).unwrap();
    let list = ControllerHealthList::parse(&response).unwrap();
    let found: Vec<ControllerHealth> = list.iter().collect();
    let [one, two] = found[..] else {
        panic!("{found:?}")
    };
    assert_eq!((one.ctlid, one.ctemp, one.pdlu, one.spare), (1, 310, 3, 97));
    assert_eq!(one.csts, MiControllerStatus::new().with_rdy(true).with_ceco(true));
    assert!(one.chsc.ready() && one.chsc.enable() && one.chsc.controller_status());
    assert_eq!((two.ctlid, two.ctemp, two.pdlu, two.spare), (0x201, 0, 255, 4));
    assert_eq!(two.csts, MiControllerStatus::new().with_cfs(true).with_shst(1));
    assert!(two.cwarn.available_spare() && two.chsc.spare() && two.chsc.critical_warning());
    let again: Vec<u8> = list
        .iter()
        .flat_map(|health| health.to_entry().as_bytes().to_vec())
        .collect();
    assert_eq!(again, data);
}

#[test]
fn temperatures_at_the_edges() {
    for (value, celsius) in [
        (0x00, Some(0)),
        (0x7E, Some(126)),
        (0x7F, Some(127)),
        (0x80, None),
        (0x81, None),
        (0x82, None),
        (0xC3, None),
        (0xC4, Some(-60)),
        (0xC5, Some(-59)),
        (0xFF, Some(-1)),
    ] {
        assert_eq!(CompositeTemperature(value).celsius(), celsius, "{value:02X}");
    }
    for (kelvin, value) in [
        (0, 0x80),
        (1, 0xC4),
        (213, 0xC4),
        (214, 0xC5),
        (272, 0xFF),
        (273, 0x00),
        (399, 0x7E),
        (400, 0x7F),
        (u16::MAX, 0x7F),
    ] {
        assert_eq!(CompositeTemperature::of_kelvin(kelvin).0, value, "{kelvin} K");
    }
}

#[test]
fn configuration_from_bytes() {
    for (nmresp, frequency) in [
        (0, SmbusFrequency::Disabled),
        (1, SmbusFrequency::KHz100),
        (0xFF_FFF2, SmbusFrequency::KHz400),
        (3, SmbusFrequency::MHz1),
    ] {
        let message = success(nmresp, &[]);
        assert_eq!(
            smbus_frequency(&MiResponse::parse(&message).unwrap()),
            Ok(frequency)
        );
    }
    assert_eq!(
        [SmbusFrequency::Disabled, SmbusFrequency::MHz1].map(SmbusFrequency::hz),
        [None, Some(1_000_000)]
    );
    let message = success(0x40, &[]);
    assert_eq!(
        mctp_transmission_unit_bytes(&MiResponse::parse(&message).unwrap()),
        Ok(64)
    );
}

#[test]
fn malformed_answers_are_refused_in_words() {
    let message = success(0, &[0x38, 0xFF, 0x32, 0, 0, 0, 0, 0]);
    let with = |at: usize, value: u8| {
        let mut changed = message.clone();
        changed[at] = value;
        changed
    };
    let subsystem = |message: &[u8]| {
        MiResponse::parse(message)
            .and_then(|response| SubsystemHealth::parse(&response))
            .unwrap_err()
            .to_string()
    };
    for (message, words) in [
        (message[..7].to_vec(), "the response has 7 bytes instead of 8"),
        (Vec::new(), "the response has 0 bytes instead of 8"),
        (with(0, 0x05), "its message type is 5h and not 4h, NVMe-MI"),
        (
            with(0, 0x84),
            "it promises an integrity check, which in band there is not",
        ),
        (
            with(1, 0x90),
            "it is a message of the type NVMe Admin Command and not NVMe-MI Command",
        ),
        (with(1, 0x08), "it is a request and not a response"),
        (
            with(4, 0x04),
            "the management interface refused: Invalid Parameter",
        ),
        (
            with(4, 0x77),
            "the management interface refused: response status 77h",
        ),
        (
            message[..15].to_vec(),
            "the NVM Subsystem Health Data Structure has 7 bytes instead of 8",
        ),
        (
            [&message[..], &[0]].concat(),
            "the NVM Subsystem Health Data Structure has 9 bytes, more than its 8",
        ),
        (with(10, 0x82), "CTEMP is 82h, which is reserved"),
    ] {
        assert_eq!(subsystem(&message), words);
    }
    let controllers = |nmresp, data: &[u8]| {
        let message = success(nmresp, data);
        let response = MiResponse::parse(&message).unwrap();
        ControllerHealthList::parse(&response)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        controllers(0x02_0000, &[0; 16]),
        "the list of Controller Health Data Structures has 16 bytes instead of 32"
    );
    assert_eq!(
        controllers(0x01_0000, &[0; 17]),
        "the list of Controller Health Data Structures has 17 bytes, more than its 16"
    );
    let mut entry = [0; 16];
    entry[7] = 101;
    assert_eq!(controllers(0x01_0000, &entry), "SPARE is 65h, which is reserved");
    entry[7] = 100;
    entry[2] = 0x0C;
    assert_eq!(
        controllers(0x01_0000, &entry),
        "CSTS.SHST is 3h, which is reserved"
    );
    let config = success(0x04, &[]);
    let config = MiResponse::parse(&config).unwrap();
    assert_eq!(
        smbus_frequency(&config).unwrap_err().to_string(),
        "SFREQ is 4h, which is reserved"
    );
    assert_eq!(
        mctp_transmission_unit_bytes(&config).unwrap_err().to_string(),
        "MTUS is 4h, which is reserved"
    );
}

#[test]
fn an_invalid_parameter_says_where() {
    let dw0 = MiDw0::invalid_parameter(8, 3);
    assert_eq!(u32::from(dw0), 0x0008_0304);
    let message = MiResponse::head(dw0);
    let response = MiResponse::parse(&message).unwrap();
    assert_eq!(response.parameter_error_location(), Some((8, 3)));
    let message = success(0, &[]);
    assert_eq!(
        MiResponse::parse(&message).unwrap().parameter_error_location(),
        None
    );
}

/// The checksum of `bytes`, at their end.
fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    bytes.push(sum.wrapping_neg());
    bytes
}

fn vpd(fields: &[u8]) -> Vec<u8> {
    let mut vpd = summed(std::vec![1, 0, 0, 0, 1, 0, 0]);
    let units = (fields.len() + 4).div_ceil(8);
    let mut area = std::vec![1, units as u8, 25];
    area.extend_from_slice(fields);
    area.resize(units * 8 - 1, 0);
    vpd.extend(summed(area));
    vpd.resize(256, 0xFF);
    vpd
}

#[test]
fn vital_product_data_from_bytes() {
    // By hand: common header 01 00 00 00 01 00 00 FE, Product Info Area at 8, 32 bytes of it.
    let bytes = [
        0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0xFE, 0x01, 0x04, 0x19, 0xC4, b'A', b'c', b'm', b'e', 0xC3,
        b'S', b'S', b'D', 0xC2, b'P', b'1', 0x41, 0x12, 0xC3, b'S', b'N', b'7', 0x00, 0xC1, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x09,
    ];
    let product = product_info(&bytes).unwrap();
    let text = |field: FruField<'_>| field.text().to_string();
    assert_eq!(product.language, 25);
    assert_eq!(
        [
            product.manufacturer,
            product.product,
            product.part_number,
            product.serial
        ]
        .map(text),
        ["Acme", "SSD", "P1", "SN7"]
    );
    // BCD plus, low digit first.
    assert_eq!(text(product.version), "21");
    assert_eq!(text(product.asset_tag), "");
}

#[test]
fn fields_of_every_code_are_text() {
    let text = |kind, bytes| FruField { kind, bytes }.text().to_string();
    assert_eq!(text(3, b"Name  \0"), "Name");
    assert_eq!(text(3, b"a\x1b[2Jb"), "a?[2Jb");
    assert_eq!(text(0, &[0x1B, 0xA0]), "1ba0");
    assert_eq!(text(1, &[0x21, 0xC3, 0xAA]), "123.");
    // 6-bit ASCII, three bytes for four characters: the specification's example, "IPMI".
    assert_eq!(text(2, &[0x29, 0xDC, 0xA6]), "IPMI");
}

#[test]
fn damaged_vital_product_data_are_refused_in_words() {
    let good = vpd(&[0xC1]);
    assert!(product_info(&good).is_ok());
    let with = |at: usize, value: u8| {
        let mut changed = good.clone();
        changed[at] = value;
        changed
    };
    for (bytes, words) in [
        (Vec::new(), "the common header is cut off"),
        (with(7, 0), "the checksum of the common header is wrong"),
        (
            summed(std::vec![2, 0, 0, 0, 1, 0, 0]),
            "the common header has the format version 2 and not 1",
        ),
        (
            summed(std::vec![1, 0, 0, 0, 0, 0, 0]),
            "there is no Product Info Area",
        ),
        (good[..8].to_vec(), "the Product Info Area is cut off"),
        (good[..15].to_vec(), "the Product Info Area is cut off"),
        (with(9, 0), "the Product Info Area is cut off"),
        (with(12, 1), "the checksum of the Product Info Area is wrong"),
        (
            vpd(&[0xFF, b'x']),
            "the field Manufacturer Name reaches out of the Product Info Area",
        ),
        (
            vpd(&[
                0xC3, b'a', b'b', b'c', 0xC3, b'a', b'b', b'c', 0xC3, b'a', b'b', b'c',
            ]),
            "the field Product Version reaches out of the Product Info Area",
        ),
    ] {
        assert_eq!(product_info(&bytes).unwrap_err().to_string(), words);
    }
}

proptest! {
    #[test]
    fn requests_keep_their_dwords(opc: u8, nmd0: u32, nmd1: u32) {
        let request = MiRequest::new(MiOpcode(opc), nmd0, nmd1);
        prop_assert_eq!(MiRequest::of_entry(&request.entry()), request);
        prop_assert!(request.data_bytes() <= 65536);
    }

    #[test]
    fn polls_keep_what_they_ask_for(nmd0: u32, nmd1: u32) {
        let poll = ControllerHealthPoll::of_dwords(nmd0, nmd1);
        let (again0, again1) = poll.dwords();
        prop_assert_eq!(ControllerHealthPoll::of_dwords(again0, again1), poll);
        prop_assert_eq!(again0, nmd0 & 0x87FF_FFFF);
        prop_assert_eq!(again1, nmd1 & 0x8000_001F);
    }

    #[test]
    fn subsystem_health_keeps_its_bytes(nss: u8, sw: u8, ctemp: u8, pdlu: u8, ccs: u16) {
        let data = SubsystemHealthData { nss, sw, ctemp, pdlu, ccs: ccs.into(), reserved6: [0; 2] };
        let message = success(0, data.as_bytes());
        match SubsystemHealth::parse(&MiResponse::parse(&message).unwrap()) {
            Ok(health) => prop_assert_eq!(health.to_data(), data),
            Err(_) => prop_assert!(CompositeTemperature(ctemp).is_reserved()),
        }
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(
        bytes in vec(any::<u8>(), 0..96), nmresp in 0_u32..1 << 24, data in vec(any::<u8>(), 0..96),
    ) {
        for message in [bytes, success(nmresp, &data)] {
            if let Ok(response) = MiResponse::parse(&message) {
                let _ = SubsystemHealth::parse(&response);
                if let Ok(list) = ControllerHealthList::parse(&response) {
                    prop_assert_eq!(list.iter().count() * 16, response.data.len());
                }
                let _ = (smbus_frequency(&response), mctp_transmission_unit_bytes(&response));
            }
        }
    }

    #[test]
    fn any_bytes_are_vital_product_data_or_an_error(mut bytes in vec(any::<u8>(), 0..300), kind in 0_u8..4, sums: bool) {
        if sums && bytes.len() >= 16 {
            // Past the checksums, or next to nothing would be.
            bytes[0] = 1;
            bytes[4] = 1;
            bytes[7] = 0;
            bytes[7] = bytes[..8].iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
            bytes[8] = 1;
            let end = 8 + usize::from(bytes[9]) * 8;
            if end > 8 && end <= bytes.len() {
                bytes[end - 1] = 0;
                bytes[end - 1] = bytes[8..end].iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
            }
        }
        let printable = |text: std::string::String| text.chars().all(|c| (' '..='~').contains(&c));
        if let Ok(product) = product_info(&bytes) {
            for field in [product.manufacturer, product.product, product.part_number, product.version, product.serial] {
                prop_assert!(printable(field.text().to_string()));
            }
        }
        let text = FruField { kind, bytes: &bytes }.text().to_string();
        prop_assert!(printable(text));
    }
}
