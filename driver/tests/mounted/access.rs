//! Who may do what, decided by the driver and enforced through the mount.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::rig::{Daemon, Folder, have, run};

const USER: u32 = 12_345;
const GROUP: u32 = 23_456;

/// Runs a shell command as a user who is not root, with `path` as `$1`.
fn as_user(command: &str, path: &Path) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(command)
        .arg("sh")
        .arg(path)
        .env("LC_ALL", "C")
        .uid(USER)
        .gid(USER)
        .output()
        .expect("a shell")
}

fn refused(command: &str, path: &Path) {
    let output = as_user(command, path);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("Permission denied"),
        "{command} {path:?}: {text}"
    );
}

fn allowed(command: &str, path: &Path) {
    let output = as_user(command, path);
    assert!(
        output.status.success(),
        "{command} {path:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn documents_are_for_everybody_and_the_rest_for_root() {
    if !have(&["sh", "cat", "find"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB", &folder.path("nvme"));
    allowed("find \"$1\"", &daemon.path(""));
    for document in [
        "controller/stats",
        "controller/stats?light",
        "controller/identify",
        "controller/log/smart",
        "controller/log/error",
        "controller/slow",
        "controller/events?now",
        "1/stats",
        "1/identify",
    ] {
        allowed("cat \"$1\" > /dev/null", &daemon.path(document));
        refused("echo x >> \"$1\"", &daemon.path(document));
    }
    for file in ["1/data", "1/bench", "1/io", "controller/admin"] {
        refused("cat < \"$1\"", &daemon.path(file));
        refused("echo x >> \"$1\"", &daemon.path(file));
        refused(
            "test -r \"$1\" || { echo Permission denied >&2; exit 1; }",
            &daemon.path(file),
        );
    }
    // Names with queries are as many as one likes; they are for those who may open what they name.
    refused("cat < \"$1\"", &daemon.path("1/data?deadline_us=7"));
    refused("stat \"$1\"", &daemon.path("1/data?deadline_us=8"));
    daemon.stop();
}

#[test]
fn the_disk_can_be_given_to_a_user_or_a_group() {
    if !have(&["sh", "setpriv"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start("size=1MiB,namespaces=2", &folder.path("nvme"));
    let disk = daemon.path("1/data");
    refused("head -c 1 \"$1\"", &disk);

    chown(&disk, Some(USER), None).expect("root gives it away");
    let metadata = fs::metadata(&disk).expect("it is there");
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (USER, 0, 0o600)
    );
    allowed("head -c 1 \"$1\"", &disk);
    allowed("printf x > \"$1\"", &disk);
    refused("head -c 1 \"$1\"", &daemon.path("2/data"));
    // Its owner is not root: what can erase the device or load it stays root's.
    refused("cat < \"$1\"", &daemon.path("controller/admin"));
    refused("cat < \"$1\"", &daemon.path("1/bench"));
    refused("cat < \"$1\"", &daemon.path("1/io"));

    fs::set_permissions(&disk, Permissions::from_mode(0o440)).expect("root changes its mode");
    allowed("head -c 1 \"$1\"", &disk);
    refused("printf x > \"$1\"", &disk);

    // A supplementary group is enough.
    chown(&disk, Some(0), Some(GROUP)).expect("root takes it back");
    refused("head -c 1 \"$1\"", &disk);
    run(Command::new("setpriv")
        .args([
            &format!("--reuid={USER}"),
            &format!("--regid={USER}"),
            &format!("--groups=1,{GROUP}"),
        ])
        .args(["head", "-c", "1"])
        .arg(&disk));

    // What is not a disk keeps its access.
    for file in ["controller/admin", "controller/stats", "1/bench", "1/io", "1"] {
        let error = fs::set_permissions(daemon.path(file), Permissions::from_mode(0o777)).expect_err(file);
        assert_eq!(error.raw_os_error(), Some(1), "EPERM: {file}");
    }
    daemon.stop();
}

#[test]
fn the_daemon_can_be_started_with_an_owner_and_a_mode_for_the_disks() {
    if !have(&["sh"]) {
        return;
    }
    let folder = Folder::new();
    let daemon = Daemon::start_with(
        "size=1MiB",
        &folder.path("nvme"),
        &["--data-owner", &format!("{USER}:{GROUP}"), "--data-mode", "640"],
        &[],
    );
    let metadata = fs::metadata(daemon.path("1/data")).expect("it is there");
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777),
        (USER, GROUP, 0o640)
    );
    allowed("printf x > \"$1\"", &daemon.path("1/data"));
    daemon.stop();
}
