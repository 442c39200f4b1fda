//! A tree below a folder, as a daemon serves it: what is read, and what is said about a tree that cannot be trusted.

mod common;

use common::{Folder, Ran, nvmectl, refused};

/// What an embedded driver serves, as files, with `edit` applied to its statistics.
fn served(name: &str, edit: impl Fn(String) -> String) -> Folder {
    let read = |line: &str| {
        nvmectl(&format!("--emulate=size=64MiB,serial=S1 {line}"))
            .output()
            .unwrap()
            .stdout
    };
    let stats = edit(String::from_utf8(read("stats --json")).unwrap());
    Folder::new(name)
        .file("controller/stats", stats.as_bytes())
        .file("controller/stats?light", stats.as_bytes())
        .file("controller/identify", &read("identify -o raw"))
        .file("controller/log/smart", &read("smart -o raw"))
        .file("controller/log/error", &read("error-log -o raw"))
        .file("1/stats", stats.as_bytes())
        .file("1/identify", &read("id-ns -o raw"))
        .file("1/bench", b"")
}

fn on(folder: &Folder, line: &str) -> std::process::Command {
    let mut command = nvmectl(line);
    command.arg("--root").arg(folder.path());
    command
}

fn ran(folder: &Folder, line: &str) -> Ran {
    on(folder, line).output().unwrap().into()
}

#[test]
fn a_served_tree_says_what_an_embedded_one_says() {
    let folder = served("served", |stats| stats);
    for line in [
        "list",
        "identify",
        "id-ns",
        "smart --check",
        "error-log",
        "list --json",
        "identify -o hex",
    ] {
        let mounted = ran(&folder, line);
        let embedded: Ran = nvmectl(&format!("--emulate=size=64MiB,serial=S1 {line}"))
            .output()
            .unwrap()
            .into();
        assert_eq!((mounted.code, mounted.stderr.as_str()), (Some(0), ""), "{line}");
        assert_eq!(mounted.stdout, embedded.stdout, "{line}");
    }
    assert_eq!(ran(&folder, "stats --ns 1").code, Some(0));
    // The environment names it as well.
    let mut command = nvmectl("list");
    command.env("NVME_ROOT", folder.path());
    assert_eq!(
        Ran::from(command.output().unwrap()).stdout,
        ran(&folder, "list").stdout
    );
}

#[test]
fn writing_to_a_real_device_needs_its_serial_number() {
    let folder = served("real", |stats| stats.replace("\"emulated\"", "\"vfio\""));
    for (line, hint) in [
        (
            "bench --randwrite",
            "add --destructive --yes-destroy=S1 if that is what you want",
        ),
        (
            "bench --randwrite --destructive",
            "add --destructive --yes-destroy=S1 if that is what you want",
        ),
        (
            "bench --randwrite --destructive --yes-destroy=S2",
            "--yes-destroy=S2 is not its serial number",
        ),
    ] {
        let words = [
            "refused: this would overwrite 64.0MiB, bytes 0 to 67108863, of nvme:1",
            "serial number S1",
            hint,
        ];
        refused(|| on(&folder, line), line, 8, &words);
    }
    assert_eq!(
        std::fs::read(folder.path().join("1/bench")).unwrap(),
        b"",
        "no job was sent"
    );
}

#[test]
fn a_tree_that_answers_nonsense_is_an_error_and_no_more() {
    let bad = |path: &str, bytes: &[u8]| served("nonsense", |stats| stats).file(path, bytes);
    for (path, bytes, line, words) in [
        (
            "controller/stats?light",
            &b"{}"[..],
            "list",
            "nvme:controller/stats?light is not understood: ",
        ),
        (
            "controller/stats",
            b"\xff",
            "stats",
            "nvme:controller/stats is not understood: invalid utf-8",
        ),
        (
            "controller/stats",
            b"",
            "stats",
            "nvme:controller/stats is not understood: ",
        ),
        (
            "controller/identify",
            b"short",
            "identify",
            "it has 5 bytes instead of 4096",
        ),
        (
            "1/identify",
            &[0; 4097],
            "id-ns",
            "it has 4097 bytes instead of 4096",
        ),
        (
            "controller/log/smart",
            b"",
            "smart",
            "it has 0 bytes instead of 512",
        ),
        (
            "controller/log/error",
            &[0; 63],
            "error-log",
            "its 63 bytes are no whole number of entries of 64",
        ),
        ("1/bench", b"", "bench", "nvme:1/bench is not understood: "),
    ] {
        let folder = bad(path, bytes);
        refused(|| on(&folder, line), path, 1, &[words, "compare --version"]);
    }
}

#[test]
fn a_file_that_is_not_there_is_not_found() {
    let folder = served("missing", |stats| stats);
    std::fs::remove_file(folder.path().join("controller/log/smart")).unwrap();
    refused(
        || on(&folder, "smart"),
        "smart",
        4,
        &["cannot open nvme:controller/log/smart: no such file or directory"],
    );
    // It only explains an empty error log, which is shown without it too.
    assert_eq!(ran(&folder, "error-log").stdout, "no errors\n");
}

#[test]
fn what_a_tree_says_cannot_command_a_terminal() {
    let folder = served("escapes", |stats| {
        stats.replace("Emulated NVMe Controller", "\\u001b]0;owned\\u0007\\u001b[2J")
    });
    for line in [
        "list",
        "stats",
        "list --color always",
        "bench --write --ios 1",
        "--dry-run bench --write",
    ] {
        let ran = ran(&folder, line);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("?]0;owned??[2J"), "{line}: {said:?}");
        assert!(
            !said.contains("\u{1b}]") && !said.contains("\u{1b}[2J") && !said.contains('\u{7}'),
            "{line}: {said:?}"
        );
    }
}
