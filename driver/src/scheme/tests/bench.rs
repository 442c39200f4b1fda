//! `N/bench`: the file, without a load generator behind it.

use stats_proto::bench::{
    BenchError, BenchJob, BenchJobResult, BenchLine, BenchProgress, BenchResult, Phase,
};

use super::super::service::Failure;
use super::*;

fn job() -> Vec<u8> {
    serde_json::to_vec(&BenchJob {
        ios: Some(5),
        ..Default::default()
    })
    .unwrap()
}

fn progress(ios_done: u64) -> BenchProgress {
    BenchProgress {
        schema: Default::default(),
        version: Default::default(),
        phase: Phase::Running,
        elapsed_ns: 1,
        total_ns: None,
        ios_done,
        read_iops: 0.0,
        write_iops: 0.0,
        read_bytes_per_s: 0.0,
        write_bytes_per_s: 0.0,
        errors: 0,
    }
}

fn result(nsid: u32) -> BenchResult {
    BenchResult {
        schema: Default::default(),
        version: Default::default(),
        job: BenchJob::default(),
        device: stats_proto::bench::BenchDevice {
            model: String::new(),
            serial: String::new(),
            firmware: String::new(),
            nsid,
            lba_bytes: 4096,
            backend: "fake".into(),
        },
        jobs: vec![],
        total: BenchJobResult::total(&[]).unwrap(),
    }
}

fn lines(text: &[u8]) -> Vec<BenchLine> {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| BenchLine::parse(line).unwrap()).collect()
}

fn start(desk: &Desk) -> HandleId {
    let handle = desk.open("1/bench");
    assert_eq!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        })),
        Ok(job().len())
    );
    handle
}

#[test]
fn a_read_waits_for_a_line_and_the_last_line_is_the_result() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = start(&desk);
    let benchmark = desk.fake.benchmark(0);
    assert_eq!((benchmark.nsid, benchmark.job.ios), (1, Some(5)));
    desk.read(handle, 0, 1 << 16);
    assert!(desk.take().is_empty(), "held");
    benchmark.listener.progress(progress(3));
    let first = desk.one().map(bytes).unwrap().unwrap();
    assert!(matches!(&lines(&first)[..], [BenchLine::Progress(progress)] if progress.ios_done == 3));
    // Two lines come before the next read: it gets both, in pieces if it wants.
    benchmark.listener.progress(progress(4));
    benchmark.listener.ended(Ok(result(1)));
    let at = first.len() as u64;
    let piece = desk.read_now(handle, at, 10).unwrap();
    let rest = desk.read_now(handle, at + 10, 1 << 16).unwrap();
    let both = [piece, rest].concat();
    assert!(matches!(
        &lines(&both)[..],
        [BenchLine::Progress(_), BenchLine::Result(_)]
    ));
    assert_eq!(
        desk.read_now(handle, at + both.len() as u64, 10),
        Ok(vec![]),
        "the end"
    );
    // All of it can be read again.
    assert_eq!(
        desk.read_now(handle, 0, 1 << 16).map(|text| lines(&text).len()),
        Ok(3)
    );
}

#[test]
fn the_end_wakes_every_reader() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = start(&desk);
    for offset in [0, 0, 1 << 20] {
        desk.read(handle, offset, 1 << 16);
    }
    assert_eq!(
        desk.read_now(handle, 0, 0),
        Ok(vec![]),
        "nothing asked, nothing to wait for"
    );
    desk.fake.benchmark(0).listener.ended(Ok(result(1)));
    let answers: Vec<_> = desk
        .take()
        .into_iter()
        .map(|(_, outcome)| bytes(outcome).unwrap())
        .collect();
    assert_eq!(
        answers.iter().map(|text| lines(text).len()).collect::<Vec<_>>(),
        [1, 1, 0]
    );
}

#[test]
fn a_job_that_is_refused_says_why() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/bench");
    let writing = BenchJob {
        pattern: stats_proto::bench::Pattern::Write,
        ..Default::default()
    };
    for (data, errno, word) in [
        (b"{".to_vec(), Errno::EINVAL, "cannot be read"),
        (vec![0xFF; 10], Errno::EINVAL, "cannot be read"),
        (vec![b' '; (64 << 10) + 1], Errno::EINVAL, "65537 bytes"),
        (br#"{"schema":"nvme-bench-job","version":"1.0","pattern":"read","block_bytes":7,"queue_depth":1,"ios":1}"#.to_vec(), Errno::EINVAL, "block_bytes is 7"),
        (serde_json::to_vec(&writing).unwrap(), Errno::EPERM, "destructive"),
    ] {
        assert_eq!(written(desk.now(Call::Write { handle, offset: 0, data })), Err(errno), "{word}");
        let text = desk.read_now(handle, 0, 4096).unwrap();
        match &lines(&text)[..] {
            [BenchLine::Error(BenchError { error, errno: number, .. })] => {
                assert_eq!(*number, errno.0);
                assert!(error.contains(word), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    // And the handle is as good as new.
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok()
    );
}

#[test]
fn a_device_that_fails_ends_the_job_with_an_error_line() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = start(&desk);
    desk.read(handle, 0, 4096);
    desk.fake
        .benchmark(0)
        .listener
        .ended(Err(Failure::Io(super::super::service::IoError::Lost)));
    let text = desk.one().map(bytes).unwrap().unwrap();
    assert!(matches!(&lines(&text)[..], [BenchLine::Error(error)] if error.errno == Errno::ENODEV.0));
}

#[test]
fn one_job_at_a_time_and_the_next_one_starts_a_new_text() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = start(&desk);
    assert_eq!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        })),
        Err(Errno::EBUSY)
    );
    let first = desk.fake.benchmark(0);
    first.listener.progress(progress(1));
    first.listener.ended(Ok(result(1)));
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok()
    );
    // Nothing of the first is left, not even if it had more to say.
    first.listener.progress(progress(9));
    desk.read(handle, 0, 4096);
    assert!(desk.take().is_empty());
    desk.fake.benchmark(1).listener.progress(progress(2));
    let text = desk.one().map(bytes).unwrap().unwrap();
    assert!(matches!(&lines(&text)[..], [BenchLine::Progress(progress)] if progress.ios_done == 2));
}

#[test]
fn stop_ends_early_with_a_result_and_close_ends_without() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/bench");
    let stop = || {
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: b"stop\n".to_vec(),
        }))
    };
    assert_eq!(stop(), Err(Errno::EINVAL), "nothing to stop");
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok()
    );
    assert!(!desk.fake.benchmark(0).stop.is_stopped());
    assert_eq!(stop(), Ok(5));
    assert!(desk.fake.benchmark(0).stop.is_stopped());
    desk.fake.benchmark(0).listener.ended(Ok(result(1)));
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok()
    );
    let id = desk.read(handle, 0, 10);
    let close = desk.call(Call::Close { handle });
    assert!(desk.fake.benchmark(1).stop.is_stopped());
    assert_eq!(desk.take(), [(id, Err(Errno::EBADF)), (close, Ok(Reply::Done))]);
    // Its last words are heard by nobody.
    desk.fake.benchmark(1).listener.ended(Ok(result(1)));
    assert!(desk.take().is_empty());
}

#[test]
fn a_job_may_be_over_before_its_start_returns() {
    let desk = Desk::new(&[(12, 8)]);
    *lock(&desk.fake.ends_at_once) = Some(Ok(result(1)));
    let handle = start(&desk);
    let text = desk.read_now(handle, 0, 1 << 16).unwrap();
    assert!(matches!(&lines(&text)[..], [BenchLine::Result(_)]));
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok(),
        "not busy"
    );
}

#[test]
fn memory_is_bounded_whether_lines_are_read_or_not() {
    let desk = Desk::new(&[(12, 8)]);
    // Nobody reads: lines are left out at some point, but not the result.
    let handle = start(&desk);
    let benchmark = desk.fake.benchmark(0);
    for ios_done in 0..6000 {
        benchmark.listener.progress(progress(ios_done));
    }
    benchmark.listener.ended(Ok(result(1)));
    let text = desk.read_now(handle, 0, 16 << 20).unwrap();
    assert!(text.len() < (1 << 20) + 65_536, "{}", text.len());
    assert!(matches!(lines(&text).last(), Some(BenchLine::Result(_))));
    // Somebody reads: all lines arrive, and what was read is forgotten.
    assert!(
        written(desk.now(Call::Write {
            handle,
            offset: 0,
            data: job()
        }))
        .is_ok()
    );
    let benchmark = desk.fake.benchmark(1);
    let mut at = 0;
    for ios_done in 0..1000 {
        benchmark.listener.progress(progress(ios_done));
        let text = desk.read_now(handle, at, 1 << 16).unwrap();
        assert!(
            matches!(&lines(&text)[..], [BenchLine::Progress(progress)] if progress.ios_done == ios_done)
        );
        at += text.len() as u64;
    }
    assert_eq!(desk.read_now(handle, 0, 10), Err(Errno::EINVAL), "long gone");
}

#[test]
fn waiting_reads_are_bounded() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = start(&desk);
    for _ in 0..20 {
        desk.read(handle, 0, 10);
    }
    let refused = desk.take();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|(_, outcome)| *outcome == Err(Errno::EAGAIN)));
}

#[test]
fn without_a_job_there_is_nothing_to_read() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/bench");
    assert_eq!(desk.read_now(handle, 0, 10), Ok(vec![]));
}
