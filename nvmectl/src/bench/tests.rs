//! The conversation over `nvme:N/bench`, with a driver made of lines.

use stats_proto::Version;
use stats_proto::bench::{BenchProgressSchema, Phase};

use super::*;
use crate::tree::fake::FakeTree;

fn progress(ios_done: u64) -> BenchProgress {
    BenchProgress {
        schema: BenchProgressSchema::default(),
        version: Version::CURRENT,
        phase: Phase::Running,
        elapsed_ns: 3_000_000_000,
        total_ns: Some(10_000_000_000),
        ios_done,
        read_iops: 1_210_000.0,
        write_iops: 0.0,
        read_bytes_per_s: 4096.0 * 1_210_000.0,
        write_bytes_per_s: 0.0,
        errors: 0,
    }
}

fn line(document: &impl serde::Serialize) -> String {
    serde_json::to_string(document).unwrap() + "\n"
}

fn driven(tree: &FakeTree, interrupt: &Interrupt) -> (Result<Ended, Error>, Vec<BenchProgress>) {
    let mut seen = Vec::new();
    let job = BenchJob::default();
    let ended = drive(tree, 1, &job, interrupt, &mut |heard| {
        if let Heard::Progress(progress) = heard {
            seen.push(progress);
        }
    });
    (ended, seen)
}

#[test]
fn the_job_is_written_and_lines_are_read_in_whatever_pieces_they_come() {
    let error = r#"{"schema":"nvme-bench-error","version":"1.0","error":"the device is gone","errno":19}"#;
    let lines = format!("{}{}{error}\n", line(&progress(1)), line(&progress(2)));
    for piece_bytes in [1, 7, 1 << 20] {
        let tree = FakeTree::new()
            .file("1/bench", lines.as_bytes())
            .pieces_of(piece_bytes);
        let (ended, seen) = driven(&tree, &Interrupt::default());
        assert_eq!(seen, [progress(1), progress(2)]);
        let error = ended.err().unwrap();
        assert_eq!((error.name(), error.exit_code()), ("bench", 5));
        assert_eq!(error.to_string(), "the benchmark failed: the device is gone");
        let written: BenchJob = serde_json::from_slice(&tree.written("1/bench")).unwrap();
        assert_eq!(written, BenchJob::default());
    }
}

#[test]
fn what_is_no_benchmark_line_is_malformed() {
    for text in [
        "",
        "\n",
        "{}\n",
        "{\"schema\":\"nvme-stats\"}\n",
        "no end",
        "\u{ff}\n",
        &line(&progress(1)),
    ] {
        let tree = FakeTree::new().file("1/bench", text.as_bytes());
        let (ended, _) = driven(&tree, &Interrupt::default());
        assert_eq!(ended.err().unwrap().name(), "malformed", "{text:?}");
    }
    let tree = FakeTree::new().file("1/bench", b"\xff\xfe\n");
    assert_eq!(
        driven(&tree, &Interrupt::default()).0.err().unwrap().name(),
        "malformed"
    );
    let tree = FakeTree::new().endless_file("1/bench");
    assert_eq!(
        driven(&tree, &Interrupt::default()).0.err().unwrap().name(),
        "malformed"
    );
}

#[test]
fn an_interrupt_stops_the_job_and_its_result_so_far_is_taken() {
    let result = line(&crate::samples::bench_result(1, BenchJob::default()));
    let lines = line(&progress(1)) + &line(&progress(2)) + &result;
    let tree = FakeTree::new().file("1/bench", lines.as_bytes());
    let interrupt = Interrupt::default();
    let mut seen = Vec::new();
    let ended = drive(&tree, 1, &BenchJob::default(), &interrupt, &mut |heard| {
        seen.push(matches!(heard, Heard::Progress(_)));
        interrupt.request();
    })
    .ok()
    .unwrap();
    assert_eq!(
        seen,
        [true, false],
        "no progress is heard after the interrupt that was"
    );
    assert!(ended.interrupted);
    assert_eq!(ended.text + "\n", result);
    assert!(tree.written("1/bench").ends_with(b"}stop"));
}

#[test]
fn a_result_is_given_as_the_driver_wrote_it() {
    let result = line(&crate::samples::bench_result(1, BenchJob::default()));
    let tree = FakeTree::new().file("1/bench", result.as_bytes());
    let ended = driven(&tree, &Interrupt::default()).0.ok().unwrap();
    assert!(!ended.interrupted);
    assert_eq!(ended.text + "\n", result);
    assert_eq!(tree.written("1/bench").last(), Some(&b'}'));
}

#[test]
fn a_driver_that_refuses_the_job_is_heard() {
    let tree = FakeTree::new().failing_file("1/bench", crate::tree::Errno::EACCES);
    assert_eq!(
        driven(&tree, &Interrupt::default()).0.err().unwrap().exit_code(),
        3
    );
}

#[test]
fn progress_is_one_line() {
    let units = crate::units::Units::Iec;
    assert_eq!(
        progress::text(&progress(1), units),
        "running 3.00s of 10.0s  read 1.21M/s 4.62GiB/s"
    );
    let mut failing = progress(1);
    (failing.phase, failing.total_ns, failing.errors, failing.read_iops) = (Phase::Warmup, None, 3, 0.0);
    assert_eq!(progress::text(&failing, units), "warming up 3.00s  3 errors");
}

#[test]
fn a_benchmark_with_failed_requests_is_printed_and_an_error() {
    let stats = serde_json::to_vec(&crate::samples::stats(0, 1)).unwrap();
    let result = line(&crate::samples::bench_result(1, BenchJob::default()));
    let tree = FakeTree::new()
        .file("controller/stats?light", &stats)
        .file("1/bench", result.as_bytes());
    for (format, printed) in [
        (
            Format::Table,
            "errors: 3 (0.30/s)\n    read: 3 Unrecovered Read Error",
        ),
        (Format::Json, &result),
    ] {
        let bench = Bench {
            job: BenchJob::default(),
            device: None,
            fio_json: false,
            over_existing: false,
            engine: crate::args::EngineName::Driver,
            embedded: format == Format::Json,
        };
        let mut out = Vec::new();
        let style = crate::style::Style::plain(crate::units::Units::Iec);
        let error = bench
            .run(&tree, false, &mut Output::new(&mut out, format, style))
            .unwrap_err();
        assert_eq!((error.name(), error.exit_code()), ("requests_failed", 1));
        assert_eq!(
            error.to_string(),
            "3 requests failed: 3 with Unrecovered Read Error"
        );
        assert_eq!(
            error.hint().is_some(),
            format == Format::Table,
            "an embedded device's log is gone"
        );
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(printed), "{out}");
    }
}

#[test]
fn what_the_driver_says_of_a_job_is_said_of_options() {
    let error = r#"{"schema":"nvme-bench-error","version":"1.0","error":"choose another offset_bytes or size_bytes","errno":22}"#;
    let tree = FakeTree::new().file("1/bench", format!("{error}\n").as_bytes());
    let error = driven(&tree, &Interrupt::default()).0.err().unwrap();
    assert_eq!(
        error.to_string(),
        "the benchmark failed: choose another --offset or --size"
    );
}
