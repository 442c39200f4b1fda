//! `nvmectl` on a mounted tree, as a user who is not root.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use common::daemon::Daemon;
use common::{Folder, Ran, nvmectl};

const USER: u32 = 12_345;

/// A daemon's tree, and the program where any user may start it.
struct Place {
    folder: Folder,
    program: PathBuf,
    _daemon: Daemon,
}

impl Place {
    /// None where nothing can be mounted.
    fn new(name: &str) -> Option<Self> {
        let folder = Folder::new(name);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let daemon = Daemon::start(&folder.path().join("nvme"), "size=1MiB,serial=S1")?;
        daemon.wait_until_it_serves();
        // What was built may lie below a folder that is its owner's alone. Copied by a program of its own: a file that
        // this process had open for writing might still be so in a child that another test is starting, and cannot
        // be run then (ETXTBSY).
        let program = folder.path().join("nvmectl");
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_nvmectl"))
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        Some(Self {
            folder,
            program,
            _daemon: daemon,
        })
    }

    /// Runs `line` as a user and in a group that own nothing here.
    fn ran(&self, line: &str) -> Ran {
        let like = nvmectl(line);
        let mut command = Command::new(&self.program);
        command.args(like.get_args());
        for (variable, value) in like.get_envs() {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        command.env("NVME_ROOT", self.folder.path());
        command.uid(USER).gid(USER);
        Ran::from(command.output().expect("it can be started"))
    }
}

#[test]
fn what_can_be_read_is_read_without_privilege() {
    let Some(place) = Place::new("user-reads") else {
        return;
    };
    for (line, words) in [
        ("list", "S1"),
        ("identify", "S1"),
        ("identify -d nvme:1", "nvme:1"),
        ("smart", "K"),
        ("error-log", "no errors"),
        ("stats", "nvme:1"),
        ("stats --json", "\"nvme-stats\""),
        ("top -b -n 1 --interval 100ms", "ready"),
    ] {
        let ran = place.ran(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(ran.stdout.contains(words), "{line}: {}", ran.stdout);
    }
    // A daemon that was built alone may be without it.
    let has_management = place.ran("stats --json").stdout.contains("\"nvme-mi\"");
    for (line, words) in [("mi health", "healthy"), ("mi config", "SMBUS"), ("mi vpd", "S1")] {
        let ran = place.ran(line);
        let (code, said) = if has_management {
            (0, &ran.stdout)
        } else {
            (6, &ran.stderr)
        };
        let words = if has_management {
            words
        } else {
            "built without NVMe-MI"
        };
        assert_eq!(ran.code, Some(code), "{line}: {ran:?}");
        assert!(said.contains(words), "{line}: {ran:?}");
    }
}

#[test]
fn features_are_for_root() {
    let Some(place) = Place::new("user-features") else {
        return;
    };
    for line in [
        "feature list",
        "feature get arbitration",
        "feature set volatile-write-cache off",
    ] {
        let ran = place.ran(line);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{line}: {ran:?}");
        let said = "error: cannot open nvme:controller/admin: ";
        assert!(
            ran.stderr.starts_with(said) && ran.stderr.contains("hint: it needs root"),
            "{line}: {}",
            ran.stderr
        );
    }
}

#[test]
fn what_loads_or_changes_the_device_is_refused_and_explained() {
    let Some(place) = Place::new("user-writes") else {
        return;
    };
    for line in [
        "bench --randread --ios 10 --warmup 0s",
        "bench --randwrite --ios 10 --warmup 0s --destructive --yes-destroy=S1",
        "bench --randwrite --ios 10 --warmup 0s --destructive --yes-destroy=S1 --over-existing",
    ] {
        let ran = place.ran(line);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{line}: {ran:?}");
        for words in [
            "error: cannot open nvme:1/",
            "hint: it needs root",
            "stats and top need no privilege",
        ] {
            assert!(ran.stderr.contains(words), "{line}: {}", ran.stderr);
        }
        let error = place.ran(&format!("{line} --json")).json_error();
        assert_eq!(
            (&error["exit_code"], &error["error"]),
            (&3.into(), &"tree".into()),
            "{error}"
        );
    }
}

#[test]
fn a_folder_that_may_not_be_looked_into_is_said_to_be_one() {
    let Some(place) = Place::new("user-outside") else {
        return;
    };
    let closed = place.folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    for line in ["stats", "list", "top -b -n 1"] {
        let ran = place.ran(&format!("{line} --root {}", closed.display()));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{line}: {ran:?}");
        let said = format!("error: this user may not look into {}: ", closed.display());
        assert!(
            ran.stderr.starts_with(&said) && ran.stderr.contains("hint: run as a user who may"),
            "{line}: {}",
            ran.stderr
        );
    }
}
