//! `N/io`: the file, over a driver that is turned by hand.

use nvme_spec::{CompletionEntry, Status, SubmissionEntry, command};
use zerocopy::{FromBytes, IntoBytes};

use super::super::service::{IoError, Op};
use super::*;

fn read_two_blocks() -> SubmissionEntry {
    SubmissionEntry {
        prp1: 8192,
        ..command::read(1, 3, 2)
    }
}

fn completion(text: &[u8]) -> CompletionEntry {
    CompletionEntry::read_from_bytes(&text[..16]).unwrap()
}

#[test]
fn a_command_is_written_and_its_completion_and_data_are_read() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/io");
    assert_eq!(desk.read_now(handle, 0, 100), Ok(vec![]), "nothing yet");
    desk.write(handle, 0, read_two_blocks().as_bytes());
    assert!(desk.take().is_empty(), "answered when the command has completed");
    assert_eq!(*lock(&desk.fake.seen), [(Op::Passthrough, 3, 2)]);
    assert_eq!(desk.read_now(handle, 0, 100), Err(Errno::EBUSY));
    let again = Call::Write {
        handle,
        offset: 0,
        data: read_two_blocks().as_bytes().to_vec(),
    };
    assert_eq!(desk.now(again), Err(Errno::EBUSY));
    desk.fake.complete(0);
    assert_eq!(desk.one().map(written), Some(Ok(64)));
    let text = desk.read_now(handle, 0, 1 << 16).unwrap();
    assert_eq!(
        (completion(&text).status(), completion(&text).dw0),
        (Status::SUCCESS, 7)
    );
    assert_eq!(text[16..], [9; 8192]);
    // What is written comes back as a completion alone, and the answer counts the data too.
    let mut bytes = command::write(1, 0, 1, false).as_bytes().to_vec();
    bytes.extend_from_slice(&[5; 4096]);
    desk.write(handle, 0, &bytes);
    desk.fake.complete(0);
    assert_eq!(desk.one().map(written), Some(Ok(64 + 4096)));
    assert_eq!(desk.read_now(handle, 0, 1 << 16).map(|text| text.len()), Ok(16));
}

#[test]
fn a_command_that_fails_is_a_completion_and_one_that_is_lost_is_none() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/io");
    // It is the controller that knows where its blocks end.
    let beyond = SubmissionEntry {
        prp1: 4096,
        ..command::read(1, u64::MAX, 1)
    };
    desk.write(handle, 0, beyond.as_bytes());
    let status = Status::LBA_OUT_OF_RANGE.with_dnr(true);
    desk.fake.answer(0, Err(IoError::Status(status)));
    assert_eq!(desk.one().map(written), Some(Ok(64)));
    let text = desk.read_now(handle, 0, 1 << 16).unwrap();
    assert_eq!((text.len(), completion(&text).status()), (16, status));
    for (error, errno) in [
        (IoError::Lost, Errno::ENODEV),
        (IoError::Stopped, Errno::ESHUTDOWN),
        (IoError::Busy, Errno::EAGAIN),
    ] {
        desk.write(handle, 0, read_two_blocks().as_bytes());
        desk.fake.answer(0, Err(error));
        assert_eq!(desk.one(), Some(Err(errno)));
        assert_eq!(desk.read_now(handle, 0, 16), Ok(vec![]), "the old answer is gone");
    }
}

#[test]
fn what_is_refused_does_not_reach_the_device() {
    let desk = Desk::new(&[(12, 8), (9, 8)]);
    let handle = desk.open("1/io");
    let vendor = SubmissionEntry {
        opcode: 0xC1,
        ..Default::default()
    };
    for (data, errno) in [
        (vec![], Errno::EINVAL),
        (vec![0; 63], Errno::EINVAL),
        (vendor.as_bytes().to_vec(), Errno::EOPNOTSUPP),
        (command::flush(2).as_bytes().to_vec(), Errno::EINVAL),
        // As many bytes as two blocks of the other namespace have.
        (
            SubmissionEntry {
                prp1: 1024,
                ..command::read(1, 3, 2)
            }
            .as_bytes()
            .to_vec(),
            Errno::EINVAL,
        ),
    ] {
        desk.write(handle, 0, command::flush(1).as_bytes());
        desk.fake.complete_all();
        assert_eq!(desk.one().map(written), Some(Ok(64)));
        assert_eq!(desk.read_now(handle, 0, 16).map(|answer| answer.len()), Ok(16));
        assert_eq!(
            desk.now(Call::Write {
                handle,
                offset: 0,
                data
            }),
            Err(errno)
        );
        assert_eq!(
            desk.read_now(handle, 0, 16),
            Ok(vec![]),
            "not the last one's answer"
        );
    }
    assert_eq!(desk.fake.out(), 0);
    assert_eq!(desk.now(Call::Sync { handle }), Err(Errno::EINVAL));
    desk.fake.set_namespaces(vec![]);
    assert_eq!(
        desk.now(Call::Write {
            handle,
            offset: 0,
            data: command::flush(1).as_bytes().to_vec()
        }),
        Err(Errno::ENODEV)
    );
}
