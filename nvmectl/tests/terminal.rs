//! What only happens on a terminal: prompts, the progress line, colours.
#![cfg(target_os = "linux")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};

use common::{Folder, nvmectl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A command whose standard input, output and error are one terminal.
struct Session {
    child: Child,
    terminal: File,
    seen: String,
}

impl Session {
    fn start(mut command: Command) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let open = || {
            let path = std::ffi::OsStr::from_bytes(name.as_bytes());
            OpenOptions::new().read(true).write(true).open(path).unwrap()
        };
        if command.get_envs().all(|(name, _)| name != "TERM") {
            command.env("TERM", "xterm");
        }
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().unwrap();
        Self {
            child,
            terminal: File::from(terminal),
            seen: String::new(),
        }
    }

    /// Reads until `words` were seen.
    fn wait_for(&mut self, words: &str) {
        while !self.seen.contains(words) {
            assert!(self.read(), "\"{words}\" never came: {}", self.seen);
        }
    }

    fn write_line(&mut self, line: &str) {
        self.terminal
            .write_all(line.as_bytes())
            .and_then(|()| self.terminal.write_all(b"\n"))
            .unwrap();
    }

    /// Reads to the end; what was seen in all, and the exit code.
    fn end(mut self) -> (String, Option<i32>) {
        while self.read() {}
        (self.seen, self.child.wait().unwrap().code())
    }

    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.terminal.read(&mut bytes) {
            Ok(count) if count > 0 => self.seen.push_str(&String::from_utf8_lossy(&bytes[..count])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The last of the other side is gone.
            _ => return false,
        }
        true
    }
}

/// A device that is not emulated, as far as the tree tells.
fn real_device(name: &str) -> Folder {
    let stats = nvmectl("--emulate=size=1MiB,serial=S1 stats --json")
        .output()
        .unwrap()
        .stdout;
    let stats = String::from_utf8(stats)
        .unwrap()
        .replace("\"emulated\"", "\"vfio\"");
    Folder::new(name)
        .file("controller/stats?light", stats.as_bytes())
        .file("1/data", &[0; 4096])
        .file("1/bench", b"")
}

#[test]
fn the_serial_number_is_asked_for_and_has_to_be_right() {
    for (typed, code, is_sent) in [
        ("S1", 1, true),
        ("S2", 8, false),
        ("", 8, false),
        ("yes", 8, false),
    ] {
        let folder = real_device(&format!("prompt-{typed}"));
        let mut command = nvmectl("bench --randwrite --destructive --ios 1");
        command.arg("--root").arg(folder.path());
        let mut session = Session::start(command);
        session.wait_for("type its serial number to go on: ");
        session.write_line(typed);
        let (seen, ended) = session.end();
        assert!(
            seen.contains("this would overwrite 1.00MiB, bytes 0 to 1048575, of nvme:1"),
            "{seen}"
        );
        assert_eq!(ended, Some(code), "{typed}: {seen}");
        let sent = std::fs::read_to_string(folder.path().join("1/bench")).unwrap();
        assert_eq!(sent.contains("\"serial\":\"S1\""), is_sent, "{typed}: {sent}");
    }
}

#[test]
fn progress_is_drawn_and_gone_at_the_end() {
    let session = Session::start(nvmectl("--emulate=size=1MiB bench --time 1s --warmup 0 --qd 2"));
    let (seen, code) = session.end();
    assert_eq!(code, Some(0), "{seen}");
    let (progress, report) = seen.split_once("randread").unwrap();
    assert!(
        progress.contains("running ") && progress.contains(" of 1.00s  read "),
        "{seen:?}"
    );
    assert!(!report.contains("running "), "{seen:?}");
}

#[test]
fn colours_are_shown_unless_unwanted() {
    let seen = |line: &str, no_color: &str| {
        let mut command = nvmectl(line);
        command.env("NO_COLOR", no_color);
        let (seen, code) = Session::start(command).end();
        assert_eq!(code, Some(0), "{seen}");
        seen
    };
    assert!(seen("--emulate=size=1MiB list", "").contains('\u{1b}'));
    assert!(!seen("--emulate=size=1MiB list", "1").contains('\u{1b}'));
    assert!(!seen("--emulate=size=1MiB list --color never", "").contains('\u{1b}'));
    assert!(seen("--emulate=size=1MiB list --color always", "1").contains('\u{1b}'));
    // A terminal that does not know its size does not squeeze the table.
    assert!(seen("--emulate=size=1MiB list", "1").contains("nvme:controller  Emulated NVMe Controller  "));
}

#[test]
fn colours_are_kept_from_help_and_refusals_too() {
    for (line, code) in [
        ("--help", 0),
        ("list --frobnicate", 2),
        ("--emulate=size=1MiB list", 0),
    ] {
        let seen = |option: &str, term: &str| {
            let mut command = nvmectl(&format!("{option} {line}"));
            command.env("TERM", term);
            let (seen, ended) = Session::start(command).end();
            assert_eq!(ended, Some(code), "{line}: {seen}");
            seen
        };
        assert!(seen("", "xterm").contains('\u{1b}'), "{line}");
        assert!(!seen("--color never", "xterm").contains('\u{1b}'), "{line}");
        assert!(!seen("--color=never", "xterm").contains('\u{1b}'), "{line}");
        assert!(!seen("", "dumb").contains('\u{1b}'), "{line}");
    }
}

#[test]
fn raw_bytes_are_kept_from_the_terminal() {
    for command in ["identify", "smart", "error-log"] {
        let line = format!("--emulate=size=1MiB {command} -o raw");
        let (seen, code) = Session::start(nvmectl(&line)).end();
        assert_eq!(code, Some(2), "{seen:?}");
        assert!(
            seen.contains("not for a terminal") && seen.contains("--output hex"),
            "{seen:?}"
        );
    }
}

#[test]
fn an_interrupt_takes_the_progress_line_away() {
    use rustix::process::{Pid, Signal, kill_process};
    let mut session = Session::start(nvmectl("--emulate=size=1MiB bench --time 1h --warmup 0"));
    session.wait_for("running ");
    kill_process(Pid::from_child(&session.child), Signal::INT).unwrap();
    let (seen, code) = session.end();
    assert_eq!(code, Some(130), "{seen}");
    let (before, after) = seen.split_once("interrupted: waiting").unwrap();
    assert!(
        before.ends_with("\u{1b}[2K") || before.ends_with("\u{1b}[K"),
        "{before:?}"
    );
    assert!(after.starts_with(" for the last requests; Ctrl-C again ends at once"));
    assert!(!after.contains("running "), "{after:?}");
}
