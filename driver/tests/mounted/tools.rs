//! Programs that people use on disks: fio, mkfs and fsck, dd, and what shells do.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::rig::{Daemon, Folder, have, run};

fn fio(device: &Path, arguments: &[&str]) -> serde_json::Value {
    let output = run(Command::new("fio")
        .arg("--name=test")
        .arg(format!("--filename={}", device.display()))
        // Or it leaves files with what it has verified where it is run.
        .args(["--verify_state_save=0"])
        .args(["--output-format=json", "--direct=1", "--allow_file_create=0"])
        .args(arguments));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // Notes may come before the document.
    let start = text.find('{').expect("a document");
    serde_json::from_str(&text[start..]).expect("JSON")
}

#[test]
fn fio_verifies_what_it_wrote_with_several_jobs_and_depths() {
    if !have(&["fio"]) {
        return;
    }
    let folder = Folder::new();
    for (lba, engine, jobs, depth) in [
        ("512", "psync", "4", "1"),
        ("4096", "libaio", "4", "16"),
        ("4096", "io_uring", "2", "32"),
    ] {
        let daemon = Daemon::start(&format!("size=64MiB,lba={lba}"), &folder.path("nvme"));
        let report = fio(
            &daemon.path("1/data"),
            &[
                "--rw=randrw",
                "--bs=4k",
                "--size=16m",
                "--offset_increment=16m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                &format!("--ioengine={engine}"),
                &format!("--numjobs={jobs}"),
                &format!("--iodepth={depth}"),
                "--group_reporting",
            ],
        );
        let job = &report["jobs"][0];
        assert_eq!(job["error"], 0, "{engine}");
        assert!(
            job["write"]["total_ios"].as_u64().unwrap() > 4000,
            "{engine}: {job}"
        );
        assert!(
            job["read"]["total_ios"].as_u64().unwrap() > 4000,
            "{engine}: {job}"
        );
        let stats = daemon.stats();
        for counters in stats.queues.iter().filter_map(|queue| queue.counters.as_ref()) {
            assert_eq!((counters.completed_error, counters.inflight), (0, 0), "{engine}");
        }
        daemon.stop();
    }
}

#[test]
fn a_file_system_is_made_filled_and_found_clean() {
    if !have(&["mkfs.ext4", "debugfs", "e2fsck", "cmp"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=64MiB", &folder.path("nvme"));
    let disk = daemon.path("1/data");
    run(Command::new("mkfs.ext4").args(["-F", "-q"]).arg(&disk));
    // A tree of files of many sizes, written through the file system's own code.
    let source = folder.path("source");
    let mut commands = String::from("mkdir d\n");
    fs::create_dir_all(&source).expect("a folder");
    let mut random = fastrand::Rng::with_seed(7);
    for number in 0..40 {
        let len = random.usize(0..200_000);
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        fs::write(source.join(format!("f{number}")), bytes).expect("a file");
        commands += &format!("write {}/f{number} d/f{number}\n", source.display());
    }
    let script = folder.path("script");
    fs::write(&script, commands).expect("a script");
    run(Command::new("debugfs")
        .arg("-w")
        .arg("-f")
        .arg(&script)
        .arg(&disk));
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&disk));
    let back = folder.path("back");
    fs::create_dir_all(&back).expect("a folder");
    run(Command::new("debugfs")
        .arg("-R")
        .arg(format!("rdump d {}", back.display()))
        .arg(&disk));
    for number in 0..40 {
        let name = format!("f{number}");
        assert!(
            fs::read(source.join(&name)).expect("the file")
                == fs::read(back.join("d").join(&name)).expect("its copy"),
            "{name}"
        );
    }
    daemon.stop();
}

#[test]
fn dd_and_shells_write_without_truncating() {
    if !have(&["dd", "sh"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=8MiB", &folder.path("nvme"));
    let disk = daemon.path("1/data");
    let image: Vec<u8> = (0..3_000_001_u32).map(|i| (i * 7 / 3) as u8).collect();
    let file = folder.path("image");
    fs::write(&file, &image).expect("an image");
    // Without conv=notrunc: dd opens with O_TRUNC, then truncates to where it starts.
    run(Command::new("dd")
        .arg(format!("if={}", file.display()))
        .arg(format!("of={}", disk.display()))
        .args(["bs=64k", "conv=fsync"]));
    assert_eq!(fs::metadata(&disk).expect("its size").len(), 8 << 20);
    run(Command::new("sh")
        .arg("-c")
        .arg("printf hello > \"$1\"")
        .arg("sh")
        .arg(&disk));
    let back = fs::read(&disk).expect("the disk");
    assert_eq!(back.len(), 8 << 20);
    assert_eq!(&back[..5], b"hello");
    assert!(back[5..image.len()] == image[5..]);
    assert!(back[image.len()..].iter().all(|byte| *byte == 0));
    // Whole, unbuffered.
    let copy = folder.path("copy");
    run(Command::new("dd")
        .arg(format!("if={}", disk.display()))
        .arg(format!("of={}", copy.display()))
        .args(["bs=1M", "iflag=direct"]));
    assert!(fs::read(&copy).expect("the copy") == back);
    // Past the end there is no room, and that is what it says.
    let output = Command::new("dd")
        .env("LC_ALL", "C")
        .args(["if=/dev/zero", "bs=1M", "count=9"])
        .arg(format!("of={}", disk.display()))
        .output()
        .expect("dd runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("No space left on device"),
        "{text}"
    );
    assert!(text.contains("8388608 bytes"), "{text}");
    daemon.stop();
}

#[test]
fn fio_and_the_statistics_agree() {
    if !have(&["fio"]) {
        return;
    }
    let folder = Folder::new();
    // A latency, so that both have an interval of some length with few enough requests for a slow machine.
    let daemon = Daemon::start("size=64MiB,latency=200us", &folder.path("nvme"));
    let before = daemon.stats();
    let report = fio(
        &daemon.path("1/data"),
        &[
            "--rw=randread",
            "--bs=4k",
            "--ioengine=io_uring",
            "--iodepth=8",
            "--runtime=2",
            "--time_based",
        ],
    );
    let after = daemon.stats();
    let reads = |stats: &stats_proto::stats::StatsDocument| {
        let ops = stats.namespaces[0].ops.as_ref().expect("counters");
        ops.get("read").map_or(0, |read| read.count)
    };
    let ours = reads(&after) - reads(&before);
    let theirs = report["jobs"][0]["read"]["total_ios"].as_u64().expect("a count");
    // The same interval has the same requests in it, so they must agree to the last one: fio reads nothing else.
    assert_eq!(ours, theirs);
    daemon.stop();
}
