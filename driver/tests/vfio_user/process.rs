//! Server and driver as programs.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
#[cfg(feature = "fuse")]
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::rig::Folder;
#[cfg(feature = "fuse")]
use crate::rig::PATIENCE;

/// The program, with no settings but those that a test gives it, and with signals that mean what they usually mean.
fn program() -> Command {
    let mut command = Command::new("env");
    command
        .arg("--default-signal")
        .arg(env!("CARGO_BIN_EXE_nvme-driver"))
        .stdin(Stdio::null());
    for variable in nvme_driver::config::VARIABLES {
        command.env_remove(variable);
    }
    for variable in ["RUST_LOG", "NVME_SCHEME", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    command
}

/// A program that has said that it serves. Dropped, it is killed.
struct Serving(Child);

impl Serving {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let serving = stdout
            .lines()
            .any(|line| line.unwrap().starts_with("serving at "));
        let mut serving_program = Self(child);
        assert!(serving, "{}", serving_program.last_words());
        serving_program
    }

    fn emulator(socket: &Path, spec: &str) -> Self {
        Self::start(program().args(["emulate", "--vfio-user"]).arg(socket).arg(spec))
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// What it has said on standard error up to its end.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn end(mut self) -> (Option<i32>, String) {
        let text = self.last_words();
        (self.0.wait().unwrap().code(), text)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn device(socket: &Path) -> String {
    format!("vfio-user:{}", socket.display())
}

fn benchmark(socket: &Path, polling: &str) -> Output {
    program()
        .env("NVME_BENCHMARK", "1")
        .env("NVME_POLLING_MODE", polling)
        .args(["--device", &device(socket), "--bench-time=200ms", "--json"])
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_benchmark_runs_on_a_controller_of_another_process() {
    let folder = Folder::new();
    let socket = folder.path("nvme.sock");
    let serving = Serving::emulator(&socket, "size=64MiB");
    for polling in ["false", "true", "adaptive"] {
        let output = benchmark(&socket, polling);
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
        let result: stats_proto::bench::BenchResult = serde_json::from_slice(&output.stdout).unwrap();
        assert!(result.total.read.ios > 0, "{polling}");
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.end(), (Some(0), String::new()));
    assert!(!socket.exists(), "the socket is left");
}

#[test]
fn a_socket_that_is_in_use_is_refused_and_one_that_was_left_is_replaced() {
    let folder = Folder::new();
    let socket = folder.path("nvme.sock");
    let emulate = |path: &Path| {
        program()
            .args(["emulate", "--vfio-user"])
            .arg(path)
            .output()
            .unwrap()
    };
    let serving = Serving::emulator(&socket, "");
    let output = emulate(&socket);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another server listens"));
    assert_eq!(benchmark(&socket, "true").status.code(), Some(0), "it goes on");
    serving.signal(Signal::KILL);
    drop(serving);
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());
    let serving = Serving::emulator(&socket, "");
    assert_eq!(benchmark(&socket, "true").status.code(), Some(0));
    drop(serving);

    let file = folder.path("file");
    std::fs::write(&file, b"mine").unwrap();
    let output = emulate(&file);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("is not a socket"));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn what_cannot_be_is_said_with_an_exit_code() {
    let folder = Folder::new();
    let socket = folder.path("nvme.sock");
    let output = benchmark(&socket, "true");
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("there is no socket"));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let output = benchmark(&socket, "true");
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("nobody listens"));
    for (arguments, said) in [
        (vec!["--device", "vfio-user"], "vfio-user:/path"),
        (vec!["--device", "vfio-user:"], "vfio-user:/path"),
        (vec!["emulate"], "--vfio-user"),
        (vec!["emulate", "--vfio-user", "/tmp/x", "lba=3"], "lba"),
        (
            vec!["--mount", "/tmp/x", "emulate", "--vfio-user", "/tmp/x"],
            "cannot be used",
        ),
    ] {
        let output = program().args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            text(&output.stderr).contains(said),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}

/// Whether everything is there to mount the tree; panics where everything is required.
#[cfg(feature = "fuse")]
fn can_mount() -> bool {
    let there = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !there {
        assert_ne!(std::env::var_os("NVME_TEST_REQUIRE").unwrap_or_default(), "all");
        eprintln!("skipped, for want of /dev/fuse and root");
    }
    there
}

#[cfg(feature = "fuse")]
#[test]
fn whoever_has_a_file_open_gets_enodev_when_the_server_is_killed() {
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    if !can_mount() {
        return;
    }
    const ENODEV: i32 = 19;
    let folder = Folder::new();
    let (socket, mount) = (folder.path("nvme.sock"), folder.path("nvme"));
    for polling in ["false", "true"] {
        let serving = Serving::emulator(&socket, "size=64MiB,latency=200us");
        let daemon = Serving::start(
            program()
                .env("NVME_POLLING_MODE", polling)
                .args(["--device", &device(&socket), "--mount"])
                .arg(&mount),
        );
        let data = mount.join("1/data");
        let mut dd = Command::new("dd")
            .env("LC_ALL", "C")
            .arg(format!("if={}", data.display()))
            .args(["of=/dev/null", "bs=64k", "iflag=direct"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let disk = OpenOptions::new().read(true).write(true).open(&data).unwrap();
        for block in 0..50u64 {
            disk.write_all_at(&[block as u8; 4096], block * 4096).unwrap();
        }
        let mut block = [0; 4096];
        disk.read_exact_at(&mut block, 7 * 4096).unwrap();
        assert_eq!(block, [7; 4096]);
        serving.signal(Signal::KILL);
        let begin = Instant::now();
        // What is under way and what comes afterwards.
        let error = loop {
            match disk.read_at(&mut block, 0) {
                Ok(_) => assert!(begin.elapsed() < PATIENCE),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(ENODEV), "{error}");
        let status = dd.wait().unwrap();
        let mut said = String::new();
        dd.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        // It may have come to the end before the kill.
        assert!(status.success() || said.contains("No such device"), "{said}");
        drop(disk);
        daemon.signal(Signal::TERM);
        let (code, words) = daemon.end();
        assert!(code.is_some() && begin.elapsed() < PATIENCE, "{words}");
        assert!(!words.contains("panicked"), "{words}");
        drop(serving);
    }
}
