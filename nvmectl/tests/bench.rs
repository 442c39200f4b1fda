//! Benchmarks on an embedded driver, ended by a number of requests so that their results are known.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use common::{Ran, nvmectl, refused, run, succeed};
use stats_proto::bench::{BenchResult, Pattern};

fn result(line: &str) -> BenchResult {
    let ran = succeed(&format!("{line} --json"));
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{line}: {error}: {ran:?}"))
}

#[test]
fn it_does_as_many_requests_as_it_is_told() {
    for (line, pattern, reads_only) in [
        ("bench --randread --ios 1000 --warmup 0", Pattern::RandRead, true),
        (
            "bench --read --bs 64k --qd8 --ios 1000 --warmup 0",
            Pattern::Read,
            true,
        ),
        (
            "bench --rw randread --iodepth 32 --number-ios 1000 --warmup 0",
            Pattern::RandRead,
            true,
        ),
        (
            "bench --randwrite --destructive --ios 1000 --warmup 0",
            Pattern::RandWrite,
            false,
        ),
        (
            "bench --write --destructive --qd 4 --ios 1000 --warmup 0",
            Pattern::Write,
            false,
        ),
    ] {
        let result = result(&format!("--emulate=size=64MiB {line}"));
        assert_eq!(result.job.pattern, pattern, "{line}");
        let (side, other) = if reads_only {
            (&result.total.read, &result.total.write)
        } else {
            (&result.total.write, &result.total.read)
        };
        assert_eq!((side.ios, side.errors, other.ios), (1000, 0, 0), "{line}");
        assert_eq!(side.bytes, 1000 * u64::from(result.job.block_bytes), "{line}");
        assert_eq!(side.latency_total.histogram.count(), 1000, "{line}");
        assert_eq!(side.latency_total.percentiles_ns.len(), 17, "{line}");
        assert!(result.total.depth.max <= result.job.queue_depth, "{line}");
    }
}

#[test]
fn a_mix_is_mixed_and_jobs_add_up() {
    let result =
        result("--emulate=queues=2 bench --mix 70 --destructive --jobs 2 --qd 4 --ios 2000 --warmup 0");
    assert_eq!(result.job.pattern, Pattern::RandRw);
    assert_eq!(result.jobs.len(), 2);
    let (reads, writes) = (result.total.read.ios, result.total.write.ios);
    assert_eq!(reads + writes, 4000);
    assert!((2600..3000).contains(&reads), "{reads} reads of 4000");
    assert_eq!(reads, result.jobs.iter().map(|job| job.read.ios).sum::<u64>());
}

#[test]
fn the_same_seed_does_the_same() {
    let line = "--emulate bench --randrw --mix 40 --destructive --ios 500 --warmup 0 --random-seed 7";
    assert_eq!(result(line).total.read.ios, result(line).total.read.ios);
}

#[test]
fn the_report_says_what_was_asked_and_what_was_achieved() {
    let text = succeed("--emulate bench --randread --qd32 --ios 5000 --warmup 0 --random-seed 9").stdout;
    for words in [
        "randread: nvme:1 (Emulated NVMe Controller, EMU0000000000001, emulated)\n",
        "  bs=4.00KiB, qd=32, jobs=1, ios=5000, seed=9\n",
        "  read: IOPS=",
        ", 5000 requests)\n",
        "service latency, closed loop, QD=32",
        "99.50=",
        "  queue depth: 32 asked, ",
        "  errors: none\n",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    assert!(!text.contains("write:"), "{text}");
    assert!(
        !text.contains("99.90="),
        "five requests beyond it are too few: {text}"
    );
}

#[test]
fn fios_own_shape() {
    let fio = succeed("--emulate bench --randread --ios 300 --warmup 0 --fio-json").json();
    assert_eq!(fio["jobs"][0]["read"]["total_ios"], 300, "{fio}");
    assert_eq!(fio["jobs"][0]["write"]["total_ios"], 0);
    assert!(
        fio["jobs"][0]["read"]["clat_ns"]["percentile"]["99.990000"].is_u64(),
        "{fio}"
    );
    assert!(fio["jobs"][0]["job options"]["iodepth"].is_string(), "{fio}");
}

#[test]
fn what_does_not_fit_the_device_is_refused() {
    for (line, words) in [
        (
            "--emulate=size=1MiB bench --bs 512 --ios 1",
            "--bs is 512: it must be a multiple of the namespace's blocks of 4096 bytes",
        ),
        (
            "--emulate=size=1MiB bench --offset 512 --ios 1",
            "--offset is 512: it must be a multiple of the namespace's blocks of 4096 bytes",
        ),
        (
            "--emulate=size=1MiB bench --offset 1m --ios 1",
            "choose another --offset or --size",
        ),
        ("--emulate=size=1MiB bench --size 2m --ios 1", "the region"),
        ("--emulate=size=1MiB bench --bs 2m --ios 1", "the region"),
        (
            "--emulate bench --bs 64m --qd 65535 --jobs 65535 --ios 1",
            "lower --qd, --jobs or --bs",
        ),
    ] {
        refused(|| nvmectl(line), line, 2, &["the benchmark failed: ", words]);
    }
}

#[test]
fn writing_needs_leave() {
    for pattern in [
        "--write",
        "--randwrite",
        "--randrw",
        "--rw rw",
        "--mix 99",
        "--rw randwrite",
    ] {
        let line = format!("--emulate=size=1MiB,serial=S1 bench {pattern} --ios 1 --size 64k");
        let words = [
            "refused: this would overwrite 64.0KiB, bytes 0 to 65535, of nvme:1 (Emulated NVMe Controller, serial number S1)",
            "add --destructive if that is what you want",
        ];
        refused(|| nvmectl(&line), &line, 8, &words);
        let line = format!("{line} --destructive --yes-destroy=S2");
        refused(
            || nvmectl(&line),
            &line,
            8,
            &["refused: ", "--yes-destroy=S2 is not its serial number"],
        );
    }
    succeed("--emulate=size=1MiB,serial=S1 bench --write --ios 1 --warmup 0 --destructive --yes-destroy=S1");
    // A mix of nothing but reads writes nothing.
    succeed("--emulate=size=1MiB bench --mix 100 --ios 1 --warmup 0");
}

#[test]
fn a_dry_run_does_nothing() {
    let ran = succeed("--emulate=size=1MiB --dry-run bench --randwrite --qd32 --destructive");
    assert!(
        ran.stdout.starts_with("would write this job to nvme:1/bench:\n"),
        "{ran:?}"
    );
    assert!(
        ran.stdout
            .contains("this would overwrite 1.00MiB, bytes 0 to 1048575, of nvme:1"),
        "{ran:?}"
    );
    assert!(ran.stdout.contains(" 10.0s\n"), "{ran:?}");
    let job = succeed("--emulate=size=1MiB --dry-run bench --qd32 --json").json();
    assert_eq!(
        (&job["schema"], &job["queue_depth"]),
        (&"nvme-bench-job".into(), &32.into())
    );
}

#[test]
#[cfg(target_os = "linux")]
fn an_interrupt_shows_what_was_measured() {
    for (format, wanted) in [
        ("table", "interrupted: this is what was measured until then"),
        ("json", "nvme-bench-result"),
        ("table --fio-json", "\"jobs\""),
    ] {
        let line = format!("-v --emulate bench --qd 4 --time 1h --warmup 0 -o {format}");
        let mut child = nvmectl(&line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for(&mut child, "the job is running");
        interrupt(&child);
        let ran: Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.stdout.contains(wanted), "{ran:?}");
        assert!(ran.stderr.contains("Ctrl-C again ends at once"), "{ran:?}");
        if format == "table" {
            assert!(!ran.stderr.contains("error"), "{ran:?}");
        } else {
            let error = ran.json_error();
            assert_eq!(
                (&error["error"], &error["exit_code"]),
                (&"interrupted".into(), &130.into())
            );
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn watching_ends_when_interrupted() {
    let mut child = nvmectl("--emulate stats --watch 10ms")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.contains("READ/S"), "{first}");
    interrupt(&child);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(130), ""), "{ran:?}");
}

/// Reads standard error up to a line with `words`.
fn wait_for(child: &mut std::process::Child, words: &str) {
    let stderr = child.stderr.as_mut().unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains(words) {
        let count = std::io::Read::read(stderr, &mut byte).unwrap();
        assert_eq!(count, 1, "it ended with: {seen}");
        seen.push(char::from(byte[0]));
    }
}

#[cfg(target_os = "linux")]
fn interrupt(child: &std::process::Child) {
    use rustix::process::{Pid, Signal, kill_process};
    kill_process(Pid::from_child(child), Signal::INT).unwrap();
}

#[test]
fn it_ends_by_time_too() {
    let ran = run("--emulate=size=1MiB bench --time 50ms --warmup 10ms");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("time=50.0ms"), "{ran:?}");
}
