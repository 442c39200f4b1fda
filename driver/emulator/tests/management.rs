//! NVMe-MI in band: what is answered, and what is refused with which response status.

mod common;

use common::{Host, PAGE};
use nvme_spec::identify::{Cns, Oacs};
use nvme_spec::log::{CommandsSupported, CriticalWarning, LogId, SmartLog};
use nvme_spec::mi::{
    ConfigurationId, ControllerHealthPoll, ControllerHealthSelect, MiDw0, MiOpcode, MiRequest, MiStatus,
};
use nvme_spec::{AdminOpcode, IdentifyController, Status, SubmissionEntry};

/// Sends a request in `opcode`, and says how it was answered: dword 0, and what is in the buffer.
fn carried(host: &mut Host, opcode: AdminOpcode, request: &MiRequest) -> (MiDw0, Vec<u8>) {
    let buffer = host.alloc(PAGE);
    host.write(buffer, &[0xAA; PAGE as usize]);
    let entry = SubmissionEntry {
        opcode: opcode.0,
        prp1: buffer,
        ..request.entry()
    };
    let dw0 = host.admin_ok(entry).dw0;
    (dw0.into(), host.read(buffer, PAGE as usize))
}

fn received(host: &mut Host, request: &MiRequest) -> (MiDw0, Vec<u8>) {
    carried(host, AdminOpcode::NVME_MI_RECEIVE, request)
}

/// The data of a request that succeeds: what was written of the buffer.
#[track_caller]
fn data(host: &mut Host, request: &MiRequest, len: usize) -> Vec<u8> {
    let (dw0, mut buffer) = received(host, request);
    assert_eq!(MiStatus(dw0.status()), MiStatus::SUCCESS);
    assert!(
        buffer[len..].iter().all(|byte| *byte == 0xAA),
        "more than {len} bytes were written"
    );
    buffer.truncate(len);
    buffer
}

fn subsystem(host: &mut Host, clear: bool) -> Vec<u8> {
    data(host, &MiRequest::subsystem_health_status_poll(clear), 8)
}

#[test]
fn the_subsystems_health_is_the_devices_own() {
    let mut host = Host::ready("temperature=300K,used=120%,spare=9%");
    // Functional, no reset required, linked; spare low (inverted bit 0); 27 degrees; 120%; enabled and ready: bits 0, 5
    // and 8.
    assert_eq!(
        subsystem(&mut host, false),
        [0x38, 0xFE, 27, 120, 0x21, 0x01, 0, 0]
    );
    let smart: SmartLog = host.log(LogId::SMART);
    assert_eq!((smart.available_spare, smart.percentage_used), (9, 120));
    assert!(CriticalWarning::from(smart.critical_warning).available_spare());

    let mut host = Host::ready("temperature=0K");
    assert_eq!(subsystem(&mut host, false)[1..4], [0xFF, 0x80, 0]);
}

#[test]
fn what_has_changed_is_told_until_it_is_cleared() {
    let mut host = Host::ready("");
    assert_eq!(subsystem(&mut host, true)[4..6], [0x21, 0x01]);
    assert_eq!(subsystem(&mut host, false)[4..6], [0, 0]);
    host.device.set_temperature(400, host.now_ns);
    host.step();
    // Temperature and critical warning: bits 9 and 12; the warning itself is bit 1, inverted.
    assert_eq!(subsystem(&mut host, false), [0x38, 0xFD, 0x7F, 0, 0, 0x12, 0, 0]);
    host.device.set_namespace_active(1, false).unwrap();
    host.step();
    assert_eq!(subsystem(&mut host, true)[4..6], [0x40, 0x13]);
    // The controller's own flags are not those of the subsystem.
    let poll = MiRequest::controller_health_status_poll(ControllerHealthPoll::everything(0));
    assert_eq!(data(&mut host, &poll, 16)[9..11], [0x61, 0x13]);
    // A reset clears none of it, and is told in turn.
    host.disable();
    host.enable();
    assert_eq!(subsystem(&mut host, false)[4] & 0x21, 0x21);
}

#[test]
fn a_controller_is_reported_if_it_is_meant() {
    let mut host = Host::ready("temperature=310K,used=3%,spare=97%");
    let everything = ControllerHealthPoll::everything(0);
    let ask = |host: &mut Host, poll| {
        let (dw0, buffer) = received(host, &MiRequest::controller_health_status_poll(poll));
        assert_eq!(MiStatus(dw0.status()), MiStatus::SUCCESS);
        (dw0.nmresp(), buffer)
    };
    let (nmresp, buffer) = ask(&mut host, everything);
    assert_eq!(nmresp, 0x01_0000, "one entry");
    // Controller 1: ready and enabled; 310 K; 3%; 97%; no warning; changed: ready, enabled, status.
    let entry = [0x01, 0, 0x21, 0, 0x36, 0x01, 3, 97, 0, 0x21, 0x01, 0, 0, 0, 0, 0];
    assert_eq!(buffer[..16], entry);
    for (poll, entries) in [
        (
            ControllerHealthPoll {
                first_controller: 1,
                ..everything
            },
            1,
        ),
        (
            ControllerHealthPoll {
                first_controller: 2,
                ..everything
            },
            0,
        ),
        (
            ControllerHealthPoll {
                functions: false,
                ..everything
            },
            0,
        ),
        (
            ControllerHealthPoll {
                all: false,
                ..everything
            },
            0,
        ),
        (
            ControllerHealthPoll {
                all: false,
                select: ControllerHealthSelect::new().with_spare(true),
                ..everything
            },
            0,
        ),
        (
            ControllerHealthPoll {
                all: false,
                select: ControllerHealthSelect::new().with_controller_status(true),
                clear: true,
                ..everything
            },
            1,
        ),
        // Cleared by the one before.
        (
            ControllerHealthPoll {
                all: false,
                select: ControllerHealthSelect::new().with_controller_status(true),
                ..everything
            },
            0,
        ),
    ] {
        let (nmresp, buffer) = ask(&mut host, poll);
        assert_eq!(nmresp, entries << 16, "{poll:?}");
        assert_eq!(buffer[0] == 0xAA, entries == 0, "{poll:?}");
    }
}

#[test]
fn vital_product_data_are_read_in_any_pieces_but_not_past_their_end() {
    let mut host = Host::ready("serial=S-7,model=Disk,firmware=F");
    let all = data(&mut host, &MiRequest::vpd_read(0, 256), 256);
    assert_eq!(all[..8], [1, 0, 0, 0, 1, 0, 0, 0xFE]);
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let area = &all[8..8 + usize::from(all[9]) * 8];
    assert_eq!(sum(area), 0);
    assert_eq!(area[..12], *b"\x01\x06\x19\xC8Emulated");
    assert_eq!(area[12..17], *b"\xC4Disk");
    assert_eq!(area[31..39], *b"\xC2F \xC3S-7\xC0");
    for (offset, len) in [(0, 0), (1, 9), (255, 1), (256, 0)] {
        let piece = data(&mut host, &MiRequest::vpd_read(offset, len), usize::from(len));
        let at = usize::from(offset);
        assert_eq!(piece, all[at..at + usize::from(len)]);
    }
    for (offset, len, byte) in [(0, 257, 12), (256, 1, 12), (257, 0, 8), (u16::MAX, u16::MAX, 8)] {
        let (dw0, buffer) = received(&mut host, &MiRequest::vpd_read(offset, len));
        assert_eq!(dw0, MiDw0::invalid_parameter(byte, 0), "{offset} {len}");
        assert_eq!(buffer[0], 0xAA, "nothing is written");
    }
}

#[test]
fn what_belongs_to_the_ports_is_not_told_in_band_unless_asked_to() {
    let answer = |host: &mut Host, id, port| {
        let (dw0, buffer) = received(host, &MiRequest::configuration_get(id, port));
        assert_eq!(buffer[0], 0xAA, "there are no data");
        u32::from(dw0)
    };
    let refused = |byte| u32::from(MiDw0::invalid_parameter(byte, 0));
    let mut host = Host::ready("");
    assert_eq!(answer(&mut host, ConfigurationId::HEALTH_STATUS_CHANGE, 0), 0);
    assert_eq!(answer(&mut host, ConfigurationId::SMBUS_FREQUENCY, 1), refused(8));
    assert_eq!(
        answer(&mut host, ConfigurationId::MCTP_TRANSMISSION_UNIT_SIZE, 1),
        refused(8)
    );
    assert_eq!(answer(&mut host, ConfigurationId(0x7F), 0), refused(8));
    let mut host = Host::ready("mi=full");
    assert_eq!(
        answer(&mut host, ConfigurationId::SMBUS_FREQUENCY, 0),
        refused(11)
    );
    assert_eq!(answer(&mut host, ConfigurationId::SMBUS_FREQUENCY, 1), 0x200);
    for (port, dw0) in [(0, 0x4000), (1, 0x4000), (2, refused(11))] {
        assert_eq!(
            answer(&mut host, ConfigurationId::MCTP_TRANSMISSION_UNIT_SIZE, port),
            dw0
        );
    }
}

#[test]
fn a_message_that_is_wrong_is_refused_in_the_response() {
    let mut host = Host::ready("");
    let poll = MiRequest::subsystem_health_status_poll(false);
    let header = poll.header.get();
    let with_header = |header: u32| MiRequest {
        header: header.into(),
        ..poll
    };
    for (request, dw0) in [
        (with_header(header & !0x7F | 5), MiDw0::invalid_parameter(0, 0)),
        (with_header(header | 1 << 7), MiDw0::invalid_parameter(0, 7)),
        (with_header(header | 1 << 8), MiDw0::invalid_parameter(1, 0)),
        (with_header(4 | 4 << 11), MiDw0::invalid_parameter(1, 3)),
        (with_header(header | 1 << 15), MiDw0::invalid_parameter(1, 7)),
        (with_header(header | 1 << 16), MiDw0::invalid_parameter(2, 0)),
        (with_header(header | 1 << 17), MiDw0::invalid_parameter(2, 1)),
    ] {
        let (answer, buffer) = received(&mut host, &request);
        assert_eq!((answer, buffer[0]), (dw0, 0xAA), "{request:?}");
    }
    let unknown = MiDw0::new().with_status(MiStatus::INVALID_COMMAND_OPCODE.0);
    for (carrier, request) in [
        (AdminOpcode::NVME_MI_RECEIVE, MiRequest::new(MiOpcode(0x20), 0, 0)),
        (AdminOpcode::NVME_MI_SEND, MiRequest::new(MiOpcode(0x20), 0, 0)),
        (
            AdminOpcode::NVME_MI_SEND,
            MiRequest::new(MiOpcode::VPD_WRITE, 0, 0),
        ),
        (
            AdminOpcode::NVME_MI_RECEIVE,
            MiRequest::new(MiOpcode::RESET, 0, 0),
        ),
        // Each goes one way only.
        (AdminOpcode::NVME_MI_SEND, poll),
    ] {
        let (answer, buffer) = carried(&mut host, carrier, &request);
        assert_eq!((answer, buffer[0]), (unknown, 0xAA), "{carrier} {request:?}");
    }
}

#[test]
fn without_it_there_is_none_and_it_says_so() {
    for (spec, has_it) in [("", true), ("mi=off", false)] {
        let mut host = Host::ready(spec);
        let identify: IdentifyController = host.identify(Cns::CONTROLLER, 0);
        assert_eq!(Oacs::from(identify.oacs.get()).nvme_mi(), has_it);
        assert_eq!(identify.nvmsr, u8::from(has_it));
        let commands: CommandsSupported = host.log(LogId::COMMANDS_SUPPORTED);
        for opcode in [AdminOpcode::NVME_MI_SEND, AdminOpcode::NVME_MI_RECEIVE] {
            assert_eq!(commands.admin(opcode).csupp(), has_it);
        }
        let poll = MiRequest::subsystem_health_status_poll(false).entry();
        if !has_it {
            host.admin_fails(poll, Status::INVALID_OPCODE);
        }
    }
}
