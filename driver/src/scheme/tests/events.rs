//! `controller/events`, and how waiting reads end.

use nvme_spec::command::{self, NSID_ALL};
use nvme_spec::{FormatCdw10, Status, SubmissionEntry};
use stats_proto::event::{Event, EventLine};
use zerocopy::IntoBytes;

use super::super::service::IoError;
use super::*;
use crate::events::KEPT_EVENTS;

pub(super) fn failed(number: u64) -> Event {
    Event::ControllerFailed {
        reason: number.to_string(),
    }
}

fn events(text: &[u8]) -> Vec<Event> {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
    text.lines()
        .map(|line| serde_json::from_str::<EventLine>(line).unwrap().event)
        .collect()
}

fn open(desk: &Desk) -> HandleId {
    desk.open_as("controller/events", OpenFlags::READ, USER).unwrap()
}

/// The one answer that came, which is a read's.
fn came(desk: &Desk) -> Vec<Event> {
    events(&desk.one().map(bytes).expect("an answer").unwrap())
}

#[test]
fn a_reader_begins_with_what_is_kept_and_then_waits() {
    let desk = Desk::new(&[(12, 8)]);
    desk.fake.events.push(failed(0));
    let handle = open(&desk);
    desk.fake.events.push(failed(1));
    let first = desk.read_now(handle, 0, 10).unwrap();
    let rest = desk.read_now(handle, 10, 1 << 16).unwrap();
    let text = [first, rest].concat();
    assert_eq!(events(&text), [failed(0), failed(1)]);
    let end = text.len() as u64;
    desk.read(handle, end, 1 << 16);
    assert!(desk.take().is_empty(), "held");
    desk.fake.events.push(failed(2));
    assert_eq!(came(&desk), [failed(2)]);
    // Another handle has another place, and what was read can be read again.
    let other = open(&desk);
    assert_eq!(
        desk.read_now(other, 0, 1 << 16).map(|text| events(&text).len()),
        Ok(3)
    );
    assert_eq!(
        desk.read_now(handle, 0, 1 << 16).map(|text| events(&text).len()),
        Ok(3)
    );
}

#[test]
fn every_waiting_read_gets_the_event() {
    let desk = Desk::new(&[(12, 8)]);
    let (one, two) = (open(&desk), open(&desk));
    for handle in [one, two, one] {
        desk.read(handle, 0, 1 << 16);
    }
    assert_eq!(
        desk.read_now(one, 0, 0),
        Ok(vec![]),
        "nothing asked, nothing to wait for"
    );
    desk.fake.events.push(failed(0));
    let answers = desk.take();
    assert_eq!(answers.len(), 3);
    for (_, answer) in answers {
        assert_eq!(events(&bytes(answer).unwrap()), [failed(0)]);
    }
}

#[test]
fn a_server_gets_its_readers_back_and_they_lose_nothing() {
    let desk = Desk::new(&[(12, 8)]);
    let (handle, bench) = (open(&desk), desk.open("1/bench"));
    let job = serde_json::to_vec(&stats_proto::bench::BenchJob::default()).unwrap();
    desk.write(bench, 0, &job);
    assert!(desk.one().map(written).unwrap().is_ok());
    let mut reads = [
        desk.read(handle, 0, 10),
        desk.read(handle, 0, 10),
        desk.read(bench, 0, 10),
    ];
    assert!(desk.take().is_empty());
    desk.scheme.wake_readers();
    let mut answers = desk.take();
    answers.sort_by_key(|(id, _)| *id);
    reads.sort_unstable();
    let ended: Vec<_> = reads.iter().map(|id| (*id, Err(Errno::EINTR))).collect();
    assert_eq!(answers, ended);
    desk.scheme.wake_readers();
    assert!(desk.take().is_empty(), "nobody waits");
    desk.read(handle, 0, 1 << 16);
    desk.fake.events.push(failed(0));
    assert_eq!(came(&desk), [failed(0)]);
    assert!(!desk.fake.benchmark(0).stop.is_stopped(), "the job goes on");
}

#[test]
fn the_end_of_all_events_is_the_end_of_the_file() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = open(&desk);
    desk.read(handle, 0, 1 << 16);
    desk.fake.events.push(Event::ShutdownBegun);
    let text = desk.one().map(bytes).unwrap().unwrap();
    let end = text.len() as u64;
    desk.read(handle, end, 10);
    desk.fake.events.close();
    assert_eq!(desk.one().map(bytes), Some(Ok(vec![])));
    assert_eq!(desk.read_now(handle, end, 10), Ok(vec![]), "and again");
    // Who opens it afterwards can still see what there was.
    let late = open(&desk);
    assert_eq!(desk.read_now(late, 0, 1 << 16), Ok(text));
    assert_eq!(desk.read_now(late, end, 1 << 16), Ok(vec![]));
}

#[test]
fn a_handle_that_is_closed_leaves_no_read_waiting() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = open(&desk);
    let read = desk.read(handle, 0, 10);
    let close = desk.call(Call::Close { handle });
    assert_eq!(desk.take(), [(read, Err(Errno::EBADF)), (close, Ok(Reply::Done))]);
    desk.fake.events.push(failed(0));
    desk.scheme.wake_readers();
    assert!(desk.take().is_empty());
}

#[test]
fn a_reader_that_falls_behind_is_told_so() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = open(&desk);
    desk.fake.events.push(failed(0));
    let text = desk.read_now(handle, 0, 1 << 16).unwrap();
    for number in 1..=KEPT_EVENTS as u64 + 3 {
        desk.fake.events.push(failed(number));
    }
    let mut at = text.len() as u64;
    let first = desk.read_now(handle, at, 1 << 16).unwrap();
    assert_eq!(
        events(&first)[..2],
        [Event::EventsMissed { missed: 3 }, failed(4)]
    );
    // All of the rest comes in pieces, and what is long gone is not kept.
    let mut all = events(&first).len() - 1;
    at += first.len() as u64;
    while all < KEPT_EVENTS {
        let piece = desk.read_now(handle, at, 1 << 20).unwrap();
        assert!(piece.len() <= 64 << 10);
        all += events(&piece).len();
        at += piece.len() as u64;
    }
    assert_eq!(desk.read_now(handle, 0, 10), Err(Errno::EINVAL));
    desk.read(handle, at, 10);
    assert!(desk.take().is_empty(), "that was all");
}

#[test]
fn offsets_elsewhere_and_too_many_reads_are_refused() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = open(&desk);
    for offset in [1, u64::MAX] {
        assert_eq!(desk.read_now(handle, offset, 10), Err(Errno::EINVAL));
    }
    for _ in 0..20 {
        desk.read(handle, 0, 10);
    }
    let refused = desk.take();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|(_, answer)| *answer == Err(Errno::EAGAIN)));
    for flags in [OpenFlags::WRITE, OpenFlags::READ_WRITE] {
        assert_eq!(desk.open_as("controller/events", flags, ROOT), Err(Errno::EACCES));
    }
}

#[test]
fn now_is_a_document() {
    let desk = Desk::new(&[(12, 8)]);
    desk.fake.events.push(failed(0));
    let handle = desk
        .open_as("controller/events?now", OpenFlags::READ, USER)
        .unwrap();
    let text = desk.read_now(handle, 0, 1 << 16).unwrap();
    assert_eq!(events(&text), [failed(0)]);
    desk.fake.events.push(failed(1));
    let end = text.len() as u64;
    assert_eq!(
        desk.read_now(handle, end, 10),
        Ok(vec![]),
        "the end of this snapshot"
    );
    assert_eq!(
        desk.read_now(handle, 0, 1 << 16).map(|text| events(&text).len()),
        Ok(2)
    );
}

#[test]
fn what_a_client_may_have_changed_shows_with_its_user() {
    let desk = Desk::new(&[(12, 8)]);
    let admin = desk.open("controller/admin");
    let format = command::format_nvm(NSID_ALL, FormatCdw10::new().with_format_index(1));
    let identify = SubmissionEntry {
        prp1: 4096,
        ..command::identify(nvme_spec::Cns::CONTROLLER, 0, 0)
    };
    let send = |entry: SubmissionEntry| desk.write(admin, 0, entry.as_bytes());
    send(format);
    desk.fake.complete_admin(Status::SUCCESS, 0);
    send(identify);
    desk.fake.complete_admin(Status::SUCCESS, 0);
    send(format);
    desk.fake.fail_admin(IoError::Busy);
    send(format);
    desk.fake.fail_admin(IoError::Lost);
    assert_eq!(desk.take().len(), 4);
    let now = desk
        .open_as("controller/events?now", OpenFlags::READ, USER)
        .unwrap();
    let all = events(&desk.read_now(now, 0, 1 << 16).unwrap());
    let statuses: Vec<_> = all
        .iter()
        .map(|event| match event {
            Event::AdminCommand {
                opcode: 0x80,
                opcode_name: Some(name),
                nsid: NSID_ALL,
                uid: 0,
                status,
                ..
            } if name == "Format NVM" => status.as_ref().map(|status| status.sc),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(statuses, [Some(0), None], "what was not sent changed nothing");
}
