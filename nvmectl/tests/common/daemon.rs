//! Trees that are really mounted.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to serve on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this is root and can mount a tree; says it where not, which is an error where nothing may be left out.
pub fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && rustix::process::geteuid().is_root();
    if !can {
        left_out("/dev/fuse or root");
    }
    can
}

fn left_out(what: &str) {
    assert!(
        std::env::var_os("NVME_TEST_REQUIRE").is_none_or(|value| value != "all"),
        "{what} is missing"
    );
    println!("left out: {what} is missing");
}

/// A daemon that is killed at the end, and its mount taken away.
pub struct Daemon {
    child: Child,
    mount: PathBuf,
}

impl Daemon {
    /// A daemon on an emulated device. None where it was not built beside `nvmectl`, or cannot mount anything here.
    pub fn start(mount: &Path, spec: &str) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let program = PathBuf::from(env!("CARGO_BIN_EXE_nvmectl")).with_file_name("nvme-driver");
        if !program.exists() {
            left_out("nvme-driver beside nvmectl");
            return None;
        }
        let mut command = Command::new(program);
        command.args(["--device", &format!("emulated:{spec}"), "--mount"]);
        command.arg(mount);
        command.stdin(Stdio::null());
        command.stdout(Stdio::null());
        command.stderr(Stdio::null());
        Some(Self {
            child: command.spawn().unwrap(),
            mount: mount.to_owned(),
        })
    }

    pub fn wait_until_it_serves(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.mount.join("controller/stats").exists() {
            assert!(Instant::now() < deadline, "the daemon does not serve");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many pieces of memory it has mapped whose names have `name` in them.
    pub fn maps(&self, name: &str) -> usize {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap();
        maps.lines().filter(|line| line.contains(name)).count()
    }

    pub fn kill(&mut self) {
        // Ended already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
    }
}
