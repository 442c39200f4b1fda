//! A daemon on a mount point of its own, and what is needed to run it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use stats_proto::stats::StatsDocument;

/// Whether everything is there: FUSE, root and `programs`. Says what is missing; panics instead where everything is
/// required.
pub fn have(programs: &[&str]) -> bool {
    let mut missing: Vec<String> = programs
        .iter()
        .filter(|program| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            !std::env::split_paths(&path)
                .chain(["/usr/sbin".into(), "/sbin".into()])
                .any(|dir| dir.join(program).is_file())
        })
        .map(|program| format!("the program {program}"))
        .collect();
    if !Path::new("/dev/fuse").exists() {
        missing.push("/dev/fuse".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    assert_ne!(
        std::env::var_os("NVME_TEST_REQUIRE").unwrap_or_default(),
        "all",
        "missing: {missing}"
    );
    eprintln!("skipped, for want of {missing}");
    false
}

/// A folder that is removed again.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nvme-mounted-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running daemon. Dropped, it is killed and its mount taken away.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    stderr: Option<ChildStderr>,
    ended: bool,
}

impl Daemon {
    /// Starts one on `spec`, mounted at `dir`, and waits until it serves.
    pub fn start(spec: &str, dir: &Path) -> Self {
        Self::start_with(spec, dir, &[], &[])
    }

    pub fn start_with(spec: &str, dir: &Path, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut child = program()
            .args(["--device", &format!("emulated:{spec}"), "--mount"])
            .arg(dir)
            .args(arguments)
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let stderr = child.stderr.take();
        let mut daemon = Self {
            child,
            dir: dir.to_owned(),
            stderr,
            ended: false,
        };
        let serving = stdout
            .lines()
            .map(|line| line.expect("a line"))
            .any(|line| line.starts_with("serving at "));
        if !serving {
            let (status, text) = daemon.wait();
            panic!("the daemon ended before it served: {status}, {text}");
        }
        daemon
    }

    pub fn path(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process");
        kill_process(pid, signal).expect("it runs");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end; what it said on standard error.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let mut text = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            stderr.read_to_string(&mut text).expect("text");
        }
        let status = self.child.wait().expect("its end");
        self.ended = true;
        (status, text)
    }

    /// Kills it as a crash would, and leaves its mount behind.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.wait();
        // Not dropped: the mount is for the next one to find.
        std::mem::forget(self);
    }

    /// Ends it in order.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let (status, text) = self.wait();
        assert_eq!((status.code(), text.as_str()), (Some(0), ""));
        assert!(!is_mounted(&self.dir), "a mount is left");
    }

    pub fn stats(&self) -> StatsDocument {
        let text = fs::read(self.path("controller/stats")).expect("a document");
        serde_json::from_slice(&text).expect("JSON")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        while is_mounted(&self.dir) {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
    }
}

/// The program, with no settings but those that a test gives it.
pub fn program() -> Command {
    let mut command = undisturbed(env!("CARGO_BIN_EXE_nvme-driver"));
    for variable in nvme_driver::config::VARIABLES {
        command.env_remove(variable);
    }
    for variable in ["RUST_LOG", "NVME_SCHEME", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    command
}

/// A command to which every signal means what it usually means. What a test is started with may have had some ignored, as
/// nohup and shells without job control do, and programs inherit that.
pub fn undisturbed(program: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program);
    command
}

pub fn is_mounted(dir: &Path) -> bool {
    let dir = dir.display().to_string();
    fs::read_to_string("/proc/self/mountinfo")
        .expect("the table of mounts")
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(dir.as_str()))
}

/// Runs a command that has to succeed; what it said.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
