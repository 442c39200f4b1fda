//! `controller/admin`.

use nvme_spec::command::{NSID_ALL, get_log_page};
use nvme_spec::{CompletionEntry, LogId, Status, SubmissionEntry};
use zerocopy::{FromBytes, IntoBytes};

use super::super::service::IoError;
use super::*;

fn smart() -> SubmissionEntry {
    SubmissionEntry {
        prp1: 512,
        cid: 77,
        ..get_log_page(LogId::SMART, NSID_ALL, 512, 0, true)
    }
}

#[test]
fn a_command_is_written_and_its_completion_and_data_are_read() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/admin");
    assert_eq!(desk.read_now(handle, 0, 100), Ok(vec![]), "nothing yet");
    desk.write(handle, 0, smart().as_bytes());
    assert!(desk.take().is_empty(), "answered when the command has completed");
    assert_eq!(
        desk.fake.admin_out(),
        [SubmissionEntry {
            prp1: 0,
            cid: 0,
            ..smart()
        }],
        "addresses are the driver's"
    );
    assert_eq!(desk.read_now(handle, 0, 100), Err(Errno::EBUSY));
    assert_eq!(
        desk.now(Call::Write {
            handle,
            offset: 0,
            data: smart().as_bytes().to_vec()
        }),
        Err(Errno::EBUSY)
    );
    desk.fake.complete_admin(Status::SUCCESS, 9);
    assert_eq!(desk.one().map(written), Some(Ok(64)));
    let text = desk.read_now(handle, 0, 4096).unwrap();
    let (completion, data) = text.split_at(16);
    let completion = CompletionEntry::read_from_bytes(completion).unwrap();
    assert_eq!((completion.status(), completion.dw0), (Status::SUCCESS, 9));
    assert_eq!(
        data, [9; 512],
        "as much as was asked for, though the buffer was a page"
    );
    assert_eq!(desk.read_now(handle, 20, 4), Ok(vec![9; 4]), "in pieces too");
}

#[test]
fn a_command_that_fails_is_a_completion_like_any_other() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/admin");
    desk.write(handle, 0, smart().as_bytes());
    desk.fake
        .complete_admin(Status::INVALID_LOG_PAGE.with_dnr(true), 0);
    assert_eq!(desk.one().map(written), Some(Ok(64)));
    let text = desk.read_now(handle, 0, 16).unwrap();
    let status = CompletionEntry::read_from_bytes(&text).unwrap().status();
    assert_eq!(status, Status::INVALID_LOG_PAGE.with_dnr(true));
    // A command that the device never answered is not.
    desk.write(handle, 0, smart().as_bytes());
    desk.fake.fail_admin(IoError::Lost);
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
    assert_eq!(desk.read_now(handle, 0, 16), Ok(vec![]), "the old answer is gone");
    desk.write(handle, 0, smart().as_bytes());
    desk.fake.drop_admin();
    assert_eq!(desk.one(), Some(Err(Errno::ESHUTDOWN)));
    desk.write(handle, 0, smart().as_bytes());
    desk.fake.complete_admin(Status::SUCCESS, 1);
    assert_eq!(desk.one().map(written), Some(Ok(64)));
}

#[test]
fn two_handles_never_see_each_others_answers() {
    let desk = Desk::new(&[(12, 8)]);
    let (one, two) = (desk.open("controller/admin"), desk.open("controller/admin"));
    desk.write(one, 0, smart().as_bytes());
    desk.write(two, 0, smart().as_bytes());
    desk.fake.complete_admin(Status::SUCCESS, 1);
    assert_eq!(desk.take().len(), 1);
    assert_eq!(desk.read_now(two, 0, 600), Err(Errno::EBUSY));
    desk.fake.complete_admin(Status::SUCCESS, 2);
    assert_eq!(desk.take().len(), 1);
    assert_eq!(desk.read_now(one, 16, 600), Ok(vec![1; 512]));
    assert_eq!(desk.read_now(two, 16, 600), Ok(vec![2; 512]));
}

#[test]
fn what_is_refused_does_not_reach_the_device() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/admin");
    let delete_queue = SubmissionEntry {
        opcode: 0,
        cdw10: 1,
        ..Default::default()
    };
    for (data, errno) in [
        (vec![], Errno::EINVAL),
        (vec![0; 63], Errno::EINVAL),
        (delete_queue.as_bytes().to_vec(), Errno::EPERM),
        (
            SubmissionEntry {
                prp2: 0x1000,
                ..smart()
            }
            .as_bytes()
            .to_vec(),
            Errno::EINVAL,
        ),
    ] {
        desk.write(handle, 0, smart().as_bytes());
        desk.fake.complete_admin(Status::SUCCESS, 9);
        assert_eq!(desk.one().map(written), Some(Ok(64)));
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
    // What is refused while another is out is not that one's business.
    desk.write(handle, 0, smart().as_bytes());
    let data = vec![0; 63];
    let refused = Call::Write {
        handle,
        offset: 0,
        data,
    };
    assert_eq!(desk.now(refused), Err(Errno::EINVAL));
    desk.fake.complete_admin(Status::SUCCESS, 9);
    assert_eq!(desk.one().map(written), Some(Ok(64)));
    assert_eq!(desk.read_now(handle, 16, 2), Ok(vec![9; 2]));
    assert!(desk.fake.admin_out().is_empty());
    assert_eq!(desk.now(Call::Sync { handle }), Err(Errno::EINVAL));
}
