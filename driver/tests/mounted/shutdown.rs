//! The daemon's life: readiness, signals under load, mounts that are left or in use.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Daemon, Folder, have, is_mounted, program, run};

#[test]
fn a_service_manager_is_told_when_it_is_ready_and_when_it_stops() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let address = folder.path("notify");
    let socket = UnixDatagram::bind(&address).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a time limit");
    let setting = address.display().to_string();
    let daemon = Daemon::start_with(
        "size=1MiB",
        &folder.path("nvme"),
        &[],
        &[("NOTIFY_SOCKET", &setting)],
    );
    let mut message = [0; 4096];
    let mut next = || {
        let len = socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..len].to_vec()).expect("text")
    };
    let ready = next();
    assert!(ready.contains("READY=1"), "{ready}");
    assert!(ready.contains("STATUS=serving at "), "{ready}");
    daemon.stop();
    assert_eq!(next().trim(), "STOPPING=1");
}

#[test]
fn it_says_what_it_found_and_where_it_serves_it() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut child = program()
            .args([
                "--device",
                "emulated:size=1MiB,namespaces=2,lba=512/4096,serial=XYZ",
                "--mount",
            ])
            .arg(&dir)
            .env("NVME_NUM_QUEUES", "2")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut lines = Vec::new();
        for _ in 0..4 {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            lines.push(line);
        }
        assert!(
            lines[0].starts_with("emulated controller Emulated NVMe Controller (serial number XYZ, "),
            "{lines:?}"
        );
        assert!(lines[0].ends_with("2 I/O queue pairs\n"), "{lines:?}");
        assert_eq!(lines[1], "namespace 1: 2048 blocks of 512 bytes\n");
        assert_eq!(lines[2], "namespace 2: 256 blocks of 4096 bytes\n");
        assert_eq!(lines[3], format!("serving at {}\n", dir.display()));
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        kill_process(pid, signal).expect("it runs");
        drop(stdout);
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0), "{signal:?}");
        assert!(!is_mounted(&dir));
    }
}

/// A number that can be told from any other block's and from an older one.
fn block(thread: u64, number: u64) -> [u8; 4096] {
    let mut block = [0; 4096];
    for (position, word) in block.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(thread << 56 | number << 16 | position as u64).to_le_bytes());
    }
    block
}

#[test]
fn a_signal_under_load_loses_nothing_that_was_answered() {
    if !have(&[]) {
        return;
    }
    const THREADS: u64 = 4;
    const BLOCKS: u64 = 64;
    for signal in [Signal::TERM, Signal::INT] {
        let folder = Folder::new();
        let file = folder.path("disk");
        let mut daemon = Daemon::start(
            &format!(
                "size=1MiB,lba=4096,cache=volatile,backing=file:{}",
                file.display()
            ),
            &folder.path("nvme"),
        );
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .open(daemon.path("1/data"))
            .expect("the disk");
        let written: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
        let (early, (status, text)) = std::thread::scope(|scope| {
            let mut writers = Vec::new();
            for (thread, written) in written.iter().enumerate() {
                let (disk, thread) = (&disk, thread as u64);
                writers.push(scope.spawn(move || {
                    // Around and around, until the driver is gone; the disk stays open meanwhile.
                    for number in 1.. {
                        let place = (thread * BLOCKS + number % BLOCKS) * 4096;
                        match disk.write_at(&block(thread, number), place) {
                            Ok(len) => assert_eq!(len, 4096),
                            Err(_) => return,
                        }
                        written.store(number, Ordering::SeqCst);
                    }
                }));
            }
            // Told after the daemon's end, which the other writers wait for.
            let mut early = false;
            while !early
                && written
                    .iter()
                    .any(|written| written.load(Ordering::SeqCst) < 2 * BLOCKS)
            {
                early = writers.iter().any(|writer| writer.is_finished());
                std::thread::yield_now();
            }
            daemon.signal(signal);
            (early, daemon.wait())
        });
        assert!(!early, "a write failed before the signal: {status}, {text}");
        assert_eq!((status.code(), text.as_str()), (Some(0), ""), "{signal:?}");
        assert!(!is_mounted(&folder.path("nvme")), "no mount is left");
        drop(disk);
        let store = fs::read(&file).expect("the store");
        for (thread, written) in written.iter().enumerate() {
            let (thread, last) = (thread as u64, written.load(Ordering::SeqCst));
            for number in last - BLOCKS + 2..=last {
                let place = ((thread * BLOCKS + number % BLOCKS) * 4096) as usize;
                assert!(
                    store[place..place + 4096] == block(thread, number),
                    "write {number} of thread {thread}, whose last is {last}"
                );
            }
        }
    }
}

#[test]
fn the_mount_of_a_daemon_that_was_killed_is_taken_over() {
    if !have(&["umount"]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    let first = Daemon::start("size=1MiB,serial=ONE", &dir);
    let open = File::open(first.path("controller/identify")).expect("a document");
    first.kill();
    assert!(is_mounted(&dir));
    assert_eq!(
        fs::metadata(&dir)
            .expect_err("its server has gone")
            .raw_os_error(),
        Some(107),
        "ENOTCONN"
    );
    let second = Daemon::start_with("size=1MiB,serial=TWO", &dir, &["--log=error"], &[]);
    let text = fs::read_to_string(second.path("controller/stats")).expect("statistics");
    assert!(text.contains("\"TWO\""), "{text}");
    // What was open belongs to the one that has gone.
    open.read_at(&mut [0; 16], 0).expect_err("its server has gone");
    second.stop();
    assert!(!is_mounted(&dir));
}

#[test]
fn a_mount_in_use_is_left_alone() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    let first = Daemon::start("size=1MiB", &dir);
    let second = program()
        .args(["--device=emulated:size=1MiB", "--mount"])
        .arg(&dir)
        .output()
        .expect("the program runs");
    let text = String::from_utf8(second.stderr).expect("UTF-8");
    assert_eq!(second.status.code(), Some(1), "{text}");
    for word in [
        format!("process {}", first.pid()),
        dir.display().to_string(),
        "--scheme".to_owned(),
    ] {
        assert!(text.contains(&word), "{word} in {text}");
    }
    assert!(!first.stats().controller.serial.is_empty());
    first.stop();
}

#[test]
fn what_cannot_be_mounted_on_is_said() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let full = folder.path("full");
    fs::create_dir(&full).expect("a folder");
    fs::write(full.join("file"), "precious").expect("a file");
    for (dir, words) in [
        (full.clone(), "is not empty"),
        (full.join("file"), "Not a directory"),
        ("/proc".into(), "type proc"),
        ("/proc/nothing".into(), "cannot make the directory"),
    ] {
        let output = program()
            .args(["--device=emulated:size=1MiB", "--mount"])
            .arg(&dir)
            .output()
            .expect("the program runs");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{dir:?}: {text}");
        assert!(text.contains(words), "{words} in {text}");
    }
    assert_eq!(fs::read(full.join("file")).expect("the file"), b"precious");
}

#[test]
fn a_daemon_whose_mount_is_taken_away_ends_in_order() {
    if !have(&["umount"]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    let mut daemon = Daemon::start("size=1MiB", &dir);
    run(Command::new("umount").arg(&dir));
    let (status, text) = daemon.wait();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("was unmounted"), "{text}");
}

#[test]
fn two_daemons_live_side_by_side() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let first = Daemon::start("size=1MiB,serial=ONE", &folder.path("nvme"));
    let second = Daemon::start("size=1MiB,serial=TWO", &folder.path("nvme.2"));
    assert_eq!(first.stats().controller.serial, "ONE");
    assert_eq!(second.stats().controller.serial, "TWO");
    first.stop();
    assert_eq!(second.stats().controller.serial, "TWO");
    second.stop();
}

#[test]
fn the_next_daemon_waits_until_the_last_one_is_done_with_the_device() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let (dir, file) = (folder.path("nvme"), folder.path("disk"));
    let spec = format!("size=1MiB,backing=file:{}", file.display());
    let mut first = Daemon::start(&format!("{spec},shutdown-delay=500ms"), &dir);
    first.signal(Signal::TERM);
    // The directory is one daemon's at a time, and the file one device's. So the mount must not go before the device
    // does, and the next daemon waits for it.
    let second = Daemon::start(&spec, &dir);
    let (status, text) = first.wait();
    assert_eq!((status.code(), text.as_str()), (Some(0), ""));
    second.stop();
}

#[test]
fn a_mount_point_may_be_a_symbolic_link() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let (dir, link) = (folder.path("nvme"), folder.path("link"));
    fs::create_dir(&dir).expect("a folder");
    std::os::unix::fs::symlink("nvme", &link).expect("a link");
    let first = Daemon::start("size=1MiB", &link);
    assert!(is_mounted(&dir));
    first.kill();
    let second = Daemon::start_with("size=1MiB", &link, &["--log=error"], &[]);
    second.stop();
    assert!(!is_mounted(&dir));
}

#[test]
fn a_second_signal_does_not_wait_and_says_so() {
    if !have(&[]) || !cfg!(feature = "performance-counters") {
        return;
    }
    let folder = Folder::new();
    let mut daemon = Daemon::start("size=1MiB,latency=600s", &folder.path("nvme"));
    let disk = File::open(daemon.path("1/data")).expect("the disk");
    let (status, text) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| disk.read_at(&mut [0; 4096], 0));
        let is_out = || {
            let stats = daemon.stats();
            let mut io = stats.queues.iter().filter(|queue| queue.qid != 0);
            io.any(|queue| {
                queue
                    .counters
                    .as_ref()
                    .is_some_and(|counters| counters.inflight != 0)
            })
        };
        while !is_out() {
            std::thread::yield_now();
        }
        // Two of one kind would be one if it has not been looked at yet.
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::INT);
        let ended = daemon.wait();
        reader.join().expect("no panic").expect_err("it was not read");
        ended
    });
    assert!(text.contains("at once, with 1 requests"), "{text}");
    assert_eq!(status.code(), Some(1), "{text}");
}

#[test]
fn a_daemon_that_hangs_is_named_and_left_alone() {
    if !have(&[]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    let first = Daemon::start("size=1MiB", &dir);
    first.signal(Signal::STOP);
    // Whoever looked at the directory now would hang with it.
    let second = program()
        .args(["--device=emulated:size=1MiB", "--mount"])
        .arg(&dir)
        .output()
        .expect("the program runs");
    first.signal(Signal::CONT);
    let text = String::from_utf8(second.stderr).expect("UTF-8");
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("process {}", first.pid())), "{text}");
    first.stop();
}

#[test]
fn nohup_is_respected() {
    if !have(&["nohup"]) {
        return;
    }
    let folder = Folder::new();
    let dir = folder.path("nvme");
    let mut child = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_nvme-driver"))
        .args(["--device=emulated:size=1MiB", "--mount"])
        .arg(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("nohup starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut lines = lines.map(|line| line.expect("a line"));
    assert!(lines.any(|line| line.starts_with("serving at ")));
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process");
    kill_process(pid, Signal::HUP).expect("it runs");
    // Had it listened to that one, this would be the second signal.
    assert!(fs::read(dir.join("1/identify")).is_ok());
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(!is_mounted(&dir));
}
