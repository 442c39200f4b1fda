//! `nvmectl bench --engine ring`: load through rings, in one process and from another.

mod common;

#[cfg(target_os = "linux")]
use common::Folder;
use common::{nvmectl, refused, succeed};

const JOB: &str = "bench --engine ring --qd 32 --warmup 0s --json";

#[test]
fn a_ring_in_one_process_does_all_that_it_is_asked() {
    for pattern in [
        "--randread",
        "--randwrite --destructive",
        "--rw rw --mix 50 --bs 128k --destructive",
    ] {
        let spec = "--emulate=size=64MiB";
        let result = succeed(&format!("{spec} {JOB} {pattern} --ios 2000 --jobs 2")).json();
        let total = &result["total"];
        let ios = |side: &str| total[side]["ios"].as_u64().unwrap_or(0);
        assert_eq!(ios("read") + ios("write"), 4000, "{pattern}: {total}");
        assert_eq!(
            (&total["read"]["errors"], &total["write"]["errors"]),
            (&0.into(), &0.into())
        );
        assert!(result["jobs"][0]["qid"].as_u64() >= Some(1), "{pattern}");
    }
}

#[test]
fn what_a_ring_cannot_be_is_said() {
    let line = "--emulate=size=64MiB bench --engine ring --qd 4097";
    refused(|| nvmectl(line), line, 2, &["at most 4096 entries", "lower --qd"]);
    let line = "--emulate=size=64MiB bench --engine ring --qd 1024 --bs 256k";
    refused(
        || nvmectl(line),
        line,
        1,
        &["setting the ring up", "out of memory"],
    );
    let line = "--emulate=size=1MiB --dry-run bench --engine ring";
    let text = succeed(line).stdout;
    assert!(
        text.starts_with("would run this job through nvme:1/ring:\n"),
        "{text}"
    );
}

/// The sums over I/O queues of what a served driver says.
#[cfg(target_os = "linux")]
fn counted(root: &std::path::Path, member: &str) -> u64 {
    let text = std::fs::read(root.join("controller/stats?light")).unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let queues = stats["queues"].as_array().unwrap().iter();
    let value = |queue: &serde_json::Value| match &queue[member] {
        serde_json::Value::String(text) => text.parse().unwrap(),
        value => value.as_u64().unwrap(),
    };
    queues.filter(|queue| queue["kind"] == "io").map(value).sum()
}

#[cfg(target_os = "linux")]
#[test]
fn a_ring_of_another_process_copies_nothing_and_goes_when_that_is_killed() {
    use common::daemon::Daemon;

    let folder = Folder::new("rings");
    let mount = folder.path().join("nvme");
    let Some(daemon) = Daemon::start(&mount, "size=64MiB,latency=20us") else {
        return;
    };
    daemon.wait_until_it_serves();
    let on = |line: &str| {
        let mut command = nvmectl(line);
        command.arg("--root").arg(&mount);
        command
    };
    let before = counted(&mount, "bytes_copied");
    let output = on(&format!("{JOB} --randread --ios 5000")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &result["total"]["read"]["ios"],
            &result["total"]["read"]["errors"]
        ),
        (&5000.into(), &0.into())
    );
    assert_eq!(counted(&mount, "bytes_copied"), before);
    assert!(counted(&mount, "bytes_zero_copy") >= 5000 * 4096);

    // Killed in the middle of it, again and again.
    for _ in 0..5 {
        let mut killed = on(&format!("{JOB} --randrw --destructive --time 60s"))
            .spawn()
            .unwrap();
        let done = counted(&mount, "completed");
        while counted(&mount, "completed") < done + 100 {
            assert_eq!(killed.try_wait().unwrap(), None, "it ended by itself");
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
    }
    // Another client is served, and nothing of theirs is left.
    assert!(
        on(&format!("{JOB} --randread --ios 100"))
            .output()
            .unwrap()
            .status
            .success()
    );
    while counted(&mount, "inflight") > 0 || daemon.maps("nvme-shared") > 0 {
        std::thread::yield_now();
    }
}
