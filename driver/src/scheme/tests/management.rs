//! `controller/mi/`: what is asked, and how the answers are put together.

use nvme_spec::mi::{ControllerHealthPoll, MiDw0, MiOpcode, MiRequest};
use nvme_spec::{AdminOpcode, Status, SubmissionEntry};
use zerocopy::IntoBytes;

use super::super::service::IoError;
use super::*;

/// OACS bit 6: NVMe-MI Send and Receive.
fn desk() -> Desk {
    let mut identify = [0; 4096];
    identify[256] = 1 << 6;
    Desk::over(Fake::with(&[(12, 8)], identify, 1 << 20))
}

fn success(nmresp: u32) -> u32 {
    MiDw0::new().with_nmresp(nmresp).into()
}

/// A response message: its head by hand.
fn message(dw0: u32, data: &[u8]) -> Vec<u8> {
    [&[0x04, 0x88, 0, 0], &dw0.to_le_bytes()[..], data].concat()
}

#[test]
fn a_health_document_is_the_response_to_one_poll() {
    let desk = desk();
    for (path, request, dw0, len) in [
        (
            "controller/mi/health",
            MiRequest::subsystem_health_status_poll(false),
            success(0),
            8,
        ),
        (
            "controller/mi/controllers",
            MiRequest::controller_health_status_poll(ControllerHealthPoll::everything(0)),
            success(0x02_0000),
            32,
        ),
    ] {
        let handle = desk.open_as(path, OpenFlags::READ, USER).expect("anybody may");
        desk.read(handle, 0, 4096);
        assert_eq!(desk.fake.admin_out(), [request.entry()], "{path}");
        assert_eq!(request.entry().opcode, AdminOpcode::NVME_MI_RECEIVE.0);
        desk.fake.answer_admin(dw0, &[7; 4096]);
        // As much as the response has, of what is in the buffer.
        assert_eq!(
            desk.one().map(bytes),
            Some(Ok(message(dw0, &vec![7; len]))),
            "{path}"
        );
    }
}

#[test]
fn a_refusal_of_the_management_interface_is_what_there_is_to_read() {
    let desk = desk();
    let refused = u32::from(MiDw0::invalid_parameter(8, 0));
    for path in ["controller/mi/health", "controller/mi/vpd"] {
        desk.read(desk.open(path), 0, 4096);
        desk.fake.answer_admin(refused, &[7; 4096]);
        assert_eq!(desk.one().map(bytes), Some(Ok(message(refused, &[]))), "{path}");
        assert!(desk.fake.admin_out().is_empty());
    }
}

#[test]
fn configuration_is_asked_of_both_ports_whatever_the_answers() {
    let desk = desk();
    desk.read(desk.open("controller/mi/config"), 0, 4096);
    let mut wanted = Vec::new();
    // Health Status Change; SMBus frequency of ports 0 and 1; MCTP transmission unit size of ports 0 and 1.
    for (nmd0, dw0) in [
        (0x0000_0002, success(0)),
        (0x0000_0001, MiDw0::invalid_parameter(11, 0).into()),
        (0x0100_0001, success(2)),
        (0x0000_0003, success(64)),
        (0x0100_0003, success(250)),
    ] {
        let asked = MiRequest::new(MiOpcode::CONFIGURATION_GET, nmd0, 0);
        assert_eq!(desk.fake.admin_out(), [asked.entry()]);
        assert!(desk.take().is_empty());
        desk.fake.answer_admin(dw0, &[]);
        wanted.extend(message(dw0, &[]));
    }
    assert_eq!(desk.one().map(bytes), Some(Ok(wanted)));
}

#[test]
fn vital_product_data_are_read_until_there_is_no_more() {
    let desk = desk();
    let handle = desk.open("controller/mi/vpd");
    let whole = |pieces: u8| {
        let data: Vec<u8> = (0..pieces).flat_map(|piece| [piece; 256]).collect();
        message(success(0), &data)
    };
    for (pieces, more) in [(1, true), (3, true), (16, false)] {
        desk.read(handle, 0, 8192);
        for piece in 0..pieces {
            let asked = MiRequest::vpd_read(u16::from(piece) * 256, 256);
            assert_eq!(desk.fake.admin_out(), [asked.entry()]);
            desk.fake.answer_admin(success(0), &[piece; 4096]);
        }
        assert_eq!(desk.fake.admin_out().len(), usize::from(more), "{pieces} pieces");
        if more {
            desk.fake
                .answer_admin(MiDw0::invalid_parameter(8, 0).into(), &[9; 4096]);
        }
        assert_eq!(desk.one().map(bytes), Some(Ok(whole(pieces))), "{pieces} pieces");
    }
}

#[test]
fn what_fails_on_the_way_fails_the_whole() {
    let desk = desk();
    let handle = desk.open("controller/mi/vpd");
    for (fail, errno) in [
        (
            (|desk: &Desk| desk.fake.complete_admin(Status::INVALID_OPCODE, 0)) as fn(&Desk),
            Errno::EOPNOTSUPP,
        ),
        (|desk| desk.fake.fail_admin(IoError::Lost), Errno::ENODEV),
        (|desk| desk.fake.drop_admin(), Errno::EIO),
    ] {
        desk.read(handle, 0, 8192);
        desk.fake.answer_admin(success(0), &[1; 256]);
        fail(&desk);
        assert_eq!(desk.one(), Some(Err(errno)));
        assert!(desk.fake.admin_out().is_empty());
    }
}

#[test]
fn a_controller_without_it_is_not_asked() {
    let desk = Desk::new(&[(12, 8)]);
    for path in ["health", "controllers", "config", "vpd"] {
        let handle = desk.open(&format!("controller/mi/{path}"));
        assert_eq!(desk.read_now(handle, 0, 64), Err(Errno::EOPNOTSUPP), "{path}");
    }
    let handle = desk
        .open_as("controller/mi/request", OpenFlags::READ_WRITE, ROOT)
        .expect("uid 0 may");
    let data = MiRequest::subsystem_health_status_poll(true).as_bytes().to_vec();
    let call = Call::Write {
        handle,
        offset: 0,
        data,
    };
    assert_eq!(desk.now(call), Err(Errno::EOPNOTSUPP));
    assert!(desk.fake.admin_out().is_empty());
}

fn transaction(desk: &Desk) -> HandleId {
    let path = "controller/mi/request";
    for flags in [OpenFlags::READ, OpenFlags::WRITE] {
        assert_eq!(desk.open_as(path, flags, USER), Err(Errno::EACCES));
    }
    desk.open_as(path, OpenFlags::READ_WRITE, ROOT).expect(path)
}

#[test]
fn a_request_is_written_and_its_response_is_read() {
    let desk = desk();
    let handle = transaction(&desk);
    let request = MiRequest::vpd_read(5, 300);
    desk.write(handle, 0, request.as_bytes());
    assert_eq!(desk.fake.admin_out(), [request.entry()]);
    desk.fake.answer_admin(success(1), &[3; 4096]);
    assert_eq!(desk.one().map(written), Some(Ok(16)));
    assert_eq!(desk.read_now(handle, 0, 4096), Ok(message(success(1), &[3; 300])));

    // One that changes something is sent with its data, and told of.
    let request = MiRequest::new(MiOpcode::VPD_WRITE, 0, 4);
    desk.write(handle, 0, &[request.as_bytes(), b"data"].concat());
    assert_eq!(
        desk.fake.admin_out(),
        [SubmissionEntry {
            opcode: AdminOpcode::NVME_MI_SEND.0,
            cdw10: 0x804,
            cdw11: 6,
            cdw13: 4,
            ..Default::default()
        }]
    );
    desk.fake.answer_admin(success(0), &[]);
    assert_eq!(desk.one().map(written), Some(Ok(20)));
    assert_eq!(desk.read_now(handle, 0, 64), Ok(message(success(0), &[])));
    let events = String::from_utf8(desk.fake.events.since(0, usize::MAX).text).unwrap();
    assert_eq!(events.matches("NVMe-MI").count(), 1, "{events}");
}

#[test]
fn what_is_no_request_or_is_too_much_does_not_reach_the_controller() {
    let desk = desk();
    let handle = transaction(&desk);
    let poll = MiRequest::subsystem_health_status_poll(false);
    let with = |request: MiRequest, data: &[u8]| [request.as_bytes(), data].concat();
    let header = |header: u32| MiRequest {
        header: header.into(),
        ..poll
    };
    for (data, errno) in [
        (vec![], Errno::EINVAL),
        (poll.as_bytes()[..15].to_vec(), Errno::EINVAL),
        // Nothing is sent with a poll.
        (with(poll, &[0]), Errno::EINVAL),
        // Other types of message, responses, integrity checks.
        (with(header(0x0000_1004), &[]), Errno::EINVAL),
        (with(header(0x0000_8804), &[]), Errno::EINVAL),
        (with(header(0x0000_0884), &[]), Errno::EINVAL),
        (with(header(0x0004_0804), &[]), Errno::EINVAL),
        // The controller would fetch more than there is.
        (
            with(MiRequest::new(MiOpcode::VPD_WRITE, 0, 5), b"data"),
            Errno::EINVAL,
        ),
        // It would go down under the driver.
        (with(MiRequest::new(MiOpcode::RESET, 0, 0), &[]), Errno::EPERM),
        (with(MiRequest::new(MiOpcode::SHUTDOWN, 0, 0), &[]), Errno::EPERM),
    ] {
        let call = Call::Write {
            handle,
            offset: 0,
            data: data.clone(),
        };
        assert_eq!(desk.now(call), Err(errno), "{data:02X?}");
        assert_eq!(desk.read_now(handle, 0, 64), Ok(vec![]));
    }
    // Nor through the other door, with a buffer that is too small.
    let admin = desk.open("controller/admin");
    for (request, prp1) in [
        (MiRequest::vpd_read(0, 4097), 4096),
        (MiRequest::vpd_read(0, 1), 0),
        (MiRequest::new(MiOpcode::READ_DATA_STRUCTURE, 0, 0), 4095),
        (
            MiRequest::new(MiOpcode::CONTROLLER_HEALTH_STATUS_POLL, 0x00FF_0000, 0),
            16,
        ),
    ] {
        let entry = SubmissionEntry {
            prp1,
            ..request.entry()
        };
        let call = Call::Write {
            handle: admin,
            offset: 0,
            data: entry.as_bytes().to_vec(),
        };
        assert_eq!(desk.now(call), Err(Errno::EINVAL), "{request:?}");
    }
    let reset = MiRequest::new(MiOpcode::RESET, 0, 0).entry();
    let call = Call::Write {
        handle: admin,
        offset: 0,
        data: reset.as_bytes().to_vec(),
    };
    assert_eq!(desk.now(call), Err(Errno::EPERM));
    assert!(desk.fake.admin_out().is_empty());
}

#[test]
fn an_answer_that_claims_more_than_there_is_gets_no_more() {
    let desk = desk();
    let handle = transaction(&desk);
    let poll = ControllerHealthPoll {
        max_entries_z: 0,
        ..ControllerHealthPoll::everything(0)
    };
    let request = MiRequest::controller_health_status_poll(poll);
    desk.write(handle, 0, request.as_bytes());
    let dw0 = success(0xFF_0000);
    desk.fake.answer_admin(dw0, &[5; 4096]);
    assert_eq!(desk.one().map(written), Some(Ok(16)));
    assert_eq!(desk.read_now(handle, 0, 8192), Ok(message(dw0, &[5; 16])));
}
