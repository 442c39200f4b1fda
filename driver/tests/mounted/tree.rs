//! The tree as programs see it: names, kinds, sizes, documents, and what cannot be done.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use nvme_spec::{CompletionEntry, Status, SubmissionEntry, command};
use stats_proto::bench::BenchJob;
use zerocopy::{FromBytes, IntoBytes};

use crate::rig::{Daemon, Folder, have, run};

#[test]
fn every_node_is_listed_with_its_kind_size_and_mode() {
    if !have(&["find"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=3MiB,lba=512/4096,namespaces=2", &folder.path("nvme"));
    let output = run(Command::new("find").arg(daemon.path("")).args([
        "-mindepth",
        "1",
        "-printf",
        "%P %y %m %s %U %G\n",
    ]));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for line in [
        "1 d 555 0 0 0",
        "1/data f 600 3145728 0 0",
        "1/identify f 444 4096 0 0",
        "1/stats f 444 0 0 0",
        "1/bench f 600 0 0 0",
        "1/io f 600 0 0 0",
        "2/data f 600 3145728 0 0",
        "controller d 555 0 0 0",
        "controller/admin f 600 0 0 0",
        "controller/identify f 444 4096 0 0",
        "controller/stats f 444 0 0 0",
        "controller/slow f 444 0 0 0",
        "controller/log d 555 0 0 0",
        "controller/log/smart f 444 512 0 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let blksize = |path| fs::metadata(daemon.path(path)).expect("it is there").blksize();
    assert_eq!((blksize("1/data"), blksize("2/data")), (512, 4096));
    // A listing does not open: queries are not listed, and work.
    assert!(fs::metadata(daemon.path("1/stats?light")).is_ok());
    for missing in [
        "3",
        "0",
        "01",
        "1/Data",
        "1/stats?dark",
        "1/data?prio=odd",
        "controller/log/telemetry",
    ] {
        let error = fs::metadata(daemon.path(missing)).expect_err(missing);
        assert!(matches!(error.raw_os_error(), Some(2 | 22)), "{missing}: {error}");
    }
    daemon.stop();
}

#[test]
fn a_document_is_one_snapshot_in_whatever_pieces_it_is_read() {
    if !have(&["jq", "cat"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB", &folder.path("nvme"));
    let path = daemon.path("controller/stats");
    let mut file = File::open(&path).expect("it opens");
    let disk = File::open(daemon.path("1/data")).expect("the disk");
    let mut text = Vec::new();
    let mut piece = [0; 97];
    loop {
        // The device is busy meanwhile, so that a second rendering would differ.
        disk.read_at(&mut [0; 4096], 0).expect("a read");
        let len = file.read(&mut piece).expect("a piece");
        if len == 0 {
            break;
        }
        text.extend_from_slice(&piece[..len]);
    }
    let stats: stats_proto::stats::StatsDocument = serde_json::from_slice(&text).expect("one document");
    drop(file);
    // Whoever reads it with jq has the numbers.
    let jq = |query: &str| {
        let output = run(Command::new("jq").arg("-r").arg(query).arg(&path));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    assert_eq!(jq(".schema"), "nvme-stats");
    assert_eq!(jq(".instance_id"), stats.instance_id);
    let output = run(Command::new("cat").arg(daemon.path("1/identify")));
    assert_eq!(output.stdout.len(), 4096);
    drop(disk);
    daemon.stop();
}

#[test]
fn transaction_files_work_through_the_mount() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB,serial=XYZ", &folder.path("nvme"));
    // Identify Controller: opcode 06h, CNS 01h in CDW10, 4096 bytes expected.
    let mut entry = [0; 64];
    entry[0] = 0x06;
    entry[24..32].copy_from_slice(&4096_u64.to_le_bytes());
    entry[40] = 1;
    let mut admin = OpenOptions::new()
        .read(true)
        .write(true)
        .open(daemon.path("controller/admin"))
        .expect("it opens");
    admin.write_all(&entry).expect("the command");
    let mut answer = vec![0; 16 + 4096];
    admin.read_exact_at(&mut answer, 0).expect("the answer");
    assert_eq!(&answer[16 + 4..16 + 7], b"XYZ");

    let job = serde_json::to_vec(&BenchJob {
        ios: Some(1000),
        time_ns: None,
        ..BenchJob::default()
    })
    .expect("JSON");
    let mut bench = OpenOptions::new()
        .read(true)
        .write(true)
        .open(daemon.path("1/bench"))
        .expect("it opens");
    bench.write_all(&job).expect("the job");
    let mut lines = String::new();
    let mut at = 0;
    loop {
        let mut piece = [0; 4096];
        let len = bench.read_at(&mut piece, at).expect("a piece");
        if len == 0 {
            break;
        }
        at += len as u64;
        lines += std::str::from_utf8(&piece[..len]).expect("UTF-8");
    }
    let result: serde_json::Value =
        serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert!(result.to_string().contains("\"ios\":1000"), "{result}");
    drop((admin, bench));
    daemon.stop();
}

/// Writes a submission entry and what follows it, and reads the completion and what follows that.
fn transact(file: &File, command: &[u8], answer_bytes: usize) -> (CompletionEntry, Vec<u8>) {
    file.write_all_at(command, 0).expect("the command");
    let mut answer = vec![0; 16 + answer_bytes];
    file.read_exact_at(&mut answer, 0).expect("the answer");
    let end = file.read_at(&mut [0; 1], answer.len() as u64).expect("the end");
    assert_eq!(end, 0, "nothing behind the data");
    let data = answer.split_off(16);
    (CompletionEntry::read_from_bytes(&answer).expect("16 bytes"), data)
}

#[test]
fn a_client_sends_io_commands_of_its_own() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB,lba=4096", &folder.path("nvme"));
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(daemon.path("1/data"))
        .expect("the disk");
    let mut random = fastrand::Rng::with_seed(7);
    let mut block = || {
        std::iter::repeat_with(|| random.u8(..))
            .take(4096)
            .collect::<Vec<u8>>()
    };
    let (first, second) = (block(), block());
    disk.write_all_at(&first, 3 * 4096).expect("a write");
    let io = OpenOptions::new()
        .read(true)
        .write(true)
        .open(daemon.path("1/io"))
        .expect("it opens");

    let read = |slba: u64| SubmissionEntry {
        prp1: 4096,
        ..command::read(1, slba, 1)
    };
    let (completion, data) = transact(&io, read(3).as_bytes(), 4096);
    assert_eq!(completion.status(), Status::SUCCESS);
    assert!(data == first, "what the disk holds");
    // A Write is the entry with its data, and the disk has it.
    let write = [command::write(1, 5, 1, false).as_bytes(), &second].concat();
    let (completion, _) = transact(&io, &write, 0);
    assert_eq!(completion.status(), Status::SUCCESS);
    let mut found = vec![0; 4096];
    disk.read_exact_at(&mut found, 5 * 4096).expect("a read");
    assert!(found == second);
    // The controller's refusal is an answer.
    let (completion, _) = transact(&io, read(256).as_bytes(), 0);
    assert!(
        completion.status().is(Status::LBA_OUT_OF_RANGE),
        "{}",
        completion.status()
    );
    drop((io, disk));
    daemon.stop();
}

#[test]
fn the_tree_itself_cannot_be_changed() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB", &folder.path("nvme"));
    let eperm = |what: &str, result: std::io::Result<()>| {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(1), "{what}: {error}");
    };
    eperm("mkdir", fs::create_dir(daemon.path("new")));
    eperm("create", fs::write(daemon.path("1/new"), "x"));
    eperm("unlink", fs::remove_file(daemon.path("1/data")));
    eperm("rmdir", fs::remove_dir(daemon.path("1")));
    eperm(
        "rename",
        fs::rename(daemon.path("1/data"), daemon.path("1/other")),
    );
    let disk = OpenOptions::new()
        .write(true)
        .open(daemon.path("1/data"))
        .expect("the disk");
    let error = disk.set_len(2 << 20).expect_err("a device does not grow");
    assert_eq!(error.raw_os_error(), Some(22), "{error}");
    disk.set_len(1 << 20).expect("its own size");
    assert_eq!(disk.metadata().expect("its size").len(), 1 << 20);
    drop(disk);
    daemon.stop();
}
