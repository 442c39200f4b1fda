//! Documents: snapshots, and log pages that come later.

use nvme_spec::command::{NSID_ALL, get_log_page};
use nvme_spec::{LogId, Status};

use super::super::service::IoError;
use super::*;

/// Identify Controller of version 1.4 with `elpe_z` + 1 error log entries.
fn identify(elpe_z: u8) -> [u8; 4096] {
    let mut identify = [0; 4096];
    identify[80..84].copy_from_slice(&0x0001_0400_u32.to_le_bytes());
    identify[262] = elpe_z;
    identify
}

fn generation(text: &[u8]) -> u64 {
    let document: stats_proto::stats::StatsDocument = serde_json::from_slice(text).expect("a whole document");
    document.generation
}

#[test]
fn pieces_belong_to_one_snapshot_until_the_start_is_read_again() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/stats");
    let other = desk.open("controller/stats");
    let mut text = Vec::new();
    loop {
        let piece = desk.read_now(handle, text.len() as u64, 700).unwrap();
        // Another reader makes new snapshots all the time.
        desk.read_now(other, 0, 10).unwrap();
        if piece.is_empty() {
            break;
        }
        text.extend(piece);
    }
    assert_eq!(generation(&text), 0);
    let again = desk.read_now(handle, 0, 1 << 20).unwrap();
    assert!(generation(&again) > 0, "offset 0 renders anew");
    assert_eq!(desk.now(Call::Stat { handle }).map(size), Ok(again.len() as u64));
    assert_eq!(desk.read_now(handle, u64::MAX, 10), Ok(vec![]));
}

fn size(reply: Reply) -> u64 {
    match reply {
        Reply::Stat(stat) => stat.size_bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_first_read_behind_the_start_renders_too() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/stats");
    let tail = desk.read_now(handle, 100, 1 << 20).unwrap();
    let head = desk.read_now(desk.open("controller/stats"), 0, 100).unwrap();
    assert_eq!(generation(&[head, tail].concat()), 0);
}

#[test]
fn a_namespaces_statistics_are_its_own_and_light_leaves_the_histograms_out() {
    let desk = Desk::new(&[(12, 8), (9, 8)]);
    for (path, nsids, histograms) in [
        ("controller/stats", vec![1, 2], true),
        ("2/stats", vec![2], true),
        ("1/stats?light", vec![1], false),
        ("controller/stats?light", vec![1, 2], false),
    ] {
        let text = desk.read_now(desk.open(path), 0, 1 << 20).unwrap();
        let document: stats_proto::stats::StatsDocument = serde_json::from_slice(&text).unwrap();
        let shown: Vec<u32> = document
            .namespaces
            .iter()
            .map(|namespace| namespace.nsid)
            .collect();
        assert_eq!(shown, nsids, "{path}");
        assert_eq!(document.instance_id.ends_with("full"), histograms, "{path}");
    }
}

#[test]
fn identify_is_the_controllers_bytes_without_a_command() {
    let desk = Desk::over(Fake::with(&[(12, 8), (12, 8)], identify(3), 1 << 20));
    assert_eq!(
        desk.read_now(desk.open("controller/identify"), 0, 5000),
        Ok(identify(3).to_vec())
    );
    assert_eq!(desk.read_now(desk.open("2/identify"), 4090, 5000), Ok(vec![2; 6]));
    assert!(desk.fake.admin_out().is_empty());
}

#[test]
fn a_log_page_is_one_command_and_readers_on_other_handles_do_not_wait_for_each_other() {
    let desk = Desk::over(Fake::with(&[(12, 8)], identify(0), 1 << 20));
    let smart = desk.open("controller/log/smart");
    let selftest = desk.open("controller/log/self-test");
    let first = desk.read(smart, 0, 512);
    let second = desk.read(selftest, 0, 4096);
    assert_eq!(
        desk.fake.admin_out(),
        [
            get_log_page(LogId::SMART, NSID_ALL, 512, 0, true),
            get_log_page(LogId::DEVICE_SELF_TEST, NSID_ALL, 564, 0, true),
        ]
    );
    desk.fake.complete_admin(Status::SUCCESS, 1);
    desk.fake.complete_admin(Status::SUCCESS, 2);
    let mut answers = desk.take().into_iter();
    assert_eq!(
        answers.next().map(|(id, outcome)| (id, bytes(outcome))),
        Some((first, Ok(vec![1; 512])))
    );
    assert_eq!(
        answers.next().map(|(id, outcome)| (id, bytes(outcome))),
        Some((second, Ok(vec![2; 564])))
    );
}

#[test]
fn reads_that_come_while_the_page_is_fetched_see_the_page_that_comes() {
    let desk = Desk::over(Fake::with(&[(12, 8)], identify(0), 1 << 20));
    let handle = desk.open("controller/log/smart");
    desk.read(handle, 0, 100);
    desk.fake.complete_admin(Status::SUCCESS, 1);
    assert_eq!(desk.one().map(bytes), Some(Ok(vec![1; 100])));
    desk.read(handle, 0, 100);
    desk.read(handle, 100, 412);
    desk.read(handle, 512, 1);
    assert_eq!(desk.fake.admin_out().len(), 1, "one command for all of them");
    assert!(desk.take().is_empty());
    desk.fake.complete_admin(Status::SUCCESS, 2);
    let pieces: Vec<_> = desk
        .take()
        .into_iter()
        .map(|(_, outcome)| bytes(outcome))
        .collect();
    assert_eq!(pieces, [Ok(vec![2; 100]), Ok(vec![2; 412]), Ok(vec![])]);
}

#[test]
fn the_error_log_has_as_many_entries_as_the_controller_says_and_fit_in_a_transfer() {
    for (elpe_z, max_transfer_bytes, bytes) in [
        (0, 1 << 20, 64),
        (255, 1 << 20, 16384),
        (255, 4096, 4096),
        (9, 100, 64),
    ] {
        let desk = Desk::over(Fake::with(&[(12, 8)], identify(elpe_z), max_transfer_bytes));
        desk.read(desk.open("controller/log/error"), 0, 4096);
        assert_eq!(
            desk.fake.admin_out(),
            [get_log_page(LogId::ERROR_INFORMATION, NSID_ALL, bytes, 0, true)]
        );
        desk.fake.complete_admin(Status::SUCCESS, 0);
    }
}

#[test]
fn an_old_controller_is_not_asked_to_retain_events() {
    let desk = Desk::new(&[(12, 8)]);
    desk.read(desk.open("controller/log/smart"), 0, 512);
    assert_eq!(
        desk.fake.admin_out(),
        [get_log_page(LogId::SMART, NSID_ALL, 512, 0, false)]
    );
    desk.fake.complete_admin(Status::SUCCESS, 0);
}

#[test]
fn a_page_that_the_controller_refuses_is_an_error_and_the_handle_lives_on() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/log/self-test");
    for (status, errno) in [
        (Status::INVALID_LOG_PAGE.with_dnr(true), Errno::EOPNOTSUPP),
        (Status::INVALID_FIELD, Errno::EOPNOTSUPP),
        (Status::INVALID_OPCODE, Errno::EOPNOTSUPP),
        (Status::INTERNAL_ERROR, Errno::EIO),
    ] {
        desk.read(handle, 0, 64);
        desk.fake.complete_admin(status, 1);
        assert_eq!(desk.one(), Some(Err(errno)), "{status}");
    }
    desk.read(handle, 0, 64);
    desk.fake.fail_admin(IoError::Lost);
    assert_eq!(desk.one(), Some(Err(Errno::ENODEV)));
    desk.read(handle, 0, 64);
    desk.fake.drop_admin();
    assert_eq!(
        desk.one(),
        Some(Err(Errno::EIO)),
        "even a lost command is answered"
    );
    desk.read(handle, 0, 64);
    desk.fake.complete_admin(Status::SUCCESS, 7);
    assert_eq!(desk.one().map(bytes), Some(Ok(vec![7; 64])));
    // A failure takes the snapshot with it: pieces of an older one would pass for the new one's.
    desk.read(handle, 0, 64);
    desk.fake.complete_admin(Status::INTERNAL_ERROR, 0);
    assert_eq!(desk.one(), Some(Err(Errno::EIO)));
    desk.read(handle, 64, 64);
    desk.fake.complete_admin(Status::SUCCESS, 8);
    assert_eq!(desk.one().map(bytes), Some(Ok(vec![8; 64])));
}

#[test]
fn waiting_reads_are_bounded_and_survive_the_close() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("controller/log/smart");
    for _ in 0..70 {
        desk.read(handle, 0, 16);
    }
    let refused = desk.take();
    assert_eq!(refused.len(), 6);
    assert!(refused.iter().all(|(_, outcome)| *outcome == Err(Errno::EAGAIN)));
    assert_eq!(desk.now(Call::Close { handle }), Ok(Reply::Done));
    desk.fake.complete_admin(Status::SUCCESS, 5);
    let answers = desk.take();
    assert_eq!(answers.len(), 64);
    assert!(
        answers
            .into_iter()
            .all(|(_, outcome)| bytes(outcome) == Ok(vec![5; 16]))
    );
}
