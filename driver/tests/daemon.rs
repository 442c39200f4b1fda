//! The program `nvme-driver`, as a user starts it: settings that it refuses, and its benchmark. What it serves is in
//! the tests `mounted`.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use stats_proto::bench::BenchResult;

/// The program, with no settings but those that a test gives it.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-driver"));
    for variable in nvme_driver::config::VARIABLES {
        command.env_remove(variable);
    }
    command.env_remove("RUST_LOG");
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn run(command: &mut Command) -> (Option<i32>, Output) {
    let output = command.output().expect("the program starts");
    (output.status.code(), output)
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, signal).expect("it runs");
}

#[test]
fn the_benchmark_prints_a_table_or_json_and_exits() {
    let benchmark = |arguments: &[&str]| {
        run(program()
            .env("NVME_BENCHMARK", "1")
            .args(["--device=emulated:size=4MiB", "--bench-time=50ms"])
            .args(arguments))
    };
    let (code, output) = benchmark(&[
        "--json",
        "--bench-depth",
        "4",
        "--bench-pattern",
        "read",
        "--bench-block",
        "8192",
    ]);
    assert_eq!((code, text(&output.stderr)), (Some(0), ""));
    let result: BenchResult = serde_json::from_slice(&output.stdout).expect("one document");
    assert!(result.total.read.ios > 0 && result.total.elapsed_ns >= 50_000_000);
    assert_eq!(
        (
            result.job.queue_depth,
            result.job.block_bytes,
            result.total.depth.max
        ),
        (4, 8192, 4)
    );
    let (code, output) = benchmark(&[]);
    assert_eq!((code, text(&output.stderr)), (Some(0), ""));
    let table = text(&output.stdout);
    assert!(
        table.contains("randread, 4096 bytes, queue depth 32, "),
        "{table}"
    );
    assert!(
        table.contains("depth: asked 32, mean ") && table.contains("read: IOPS="),
        "{table}"
    );
    assert!(!table.contains("write"), "{table}");
}

#[test]
fn an_interrupted_benchmark_shows_what_was_done() {
    let mut child = program()
        .args(["--device=emulated:size=4MiB", "--bench-time=4000000s", "--json"])
        .env("NVME_BENCHMARK", "1")
        .env("RUST_LOG", "nvme_driver=info")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut lines = stderr.lines().map(|line| line.expect("a line"));
    assert!(
        lines.any(|line| line.contains("the benchmark runs")),
        "it says when it begins"
    );
    signal(&child, Signal::INT);
    // The pipe is emptied, or the program could wait for it.
    lines.for_each(drop);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let result: BenchResult = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!(result.total.read.errors, 0);
}

#[test]
fn what_cannot_be_used_is_named_with_what_is_accepted() {
    for (variable, value, arguments, words) in [
        (
            "NVME_QUEUE_DEPTH",
            "1",
            &[][..],
            &["NVME_QUEUE_DEPTH", "\"1\"", "2 to 65536"][..],
        ),
        ("NVME_BENCHMARK", "maybe", &[], &["NVME_BENCHMARK", "maybe"]),
        (
            "NVME_BENCHMARK",
            "1",
            &["--bench-time", "10"],
            &["--bench-time", "10s"],
        ),
        (
            "NVME_BENCHMARK",
            "1",
            &["--bench-depth", "0"],
            &["queue_depth is 0", "between 1 and"],
        ),
        (
            "NVME_BENCHMARK",
            "1",
            &["--bench-block", "512"],
            &["block_bytes is 512", "4096"],
        ),
        (
            "NVME_BENCHMARK",
            "1",
            &["--bench-pattern", "randwrite"],
            &["randwrite", "randread"],
        ),
        (
            "NVME_BENCHMARK",
            "0",
            &["--device", "pci:1"],
            &["\"pci\"", "emulated"],
        ),
        ("NVME_BENCHMARK", "0", &["--device", "emulated:size=0"], &["size"]),
        (
            "NVME_BENCHMARK",
            "0",
            &["--device", "emulated:siez=1MiB"],
            &["siez", "size"],
        ),
        ("NVME_BENCHMARK", "0", &["--frobnicate"], &["--frobnicate"]),
    ] {
        let (code, output) = run(program().env(variable, value).args(arguments));
        let stderr = text(&output.stderr);
        assert_eq!(code, Some(2), "{variable}={value} {arguments:?}: {stderr}");
        assert!(output.stdout.is_empty());
        for word in words {
            assert!(stderr.contains(word), "{word} in {stderr}");
        }
        assert!(!stderr.contains("panicked"));
    }
}
