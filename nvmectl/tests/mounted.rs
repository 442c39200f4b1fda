//! A tree below a folder, as a daemon serves it: what is read, and what is said about a tree that cannot be trusted.

mod common;

use common::{Folder, Ran, nvmectl, refused};

/// What an embedded driver serves, as files, with `edit` applied to its statistics.
fn served(name: &str, edit: impl Fn(String) -> String) -> Folder {
    serve(Folder::new(name), "", edit)
}

/// The same below `root` of `folder`.
fn serve(folder: Folder, root: &str, edit: impl Fn(String) -> String) -> Folder {
    let read = |line: &str| {
        nvmectl(&format!("--emulate=size=64MiB,serial=S1 {line}"))
            .output()
            .unwrap()
            .stdout
    };
    let stats = edit(String::from_utf8(read("stats --json")).unwrap());
    let at = |path: &str| format!("{root}{path}");
    folder
        .file(&at("controller/stats"), stats.as_bytes())
        .file(&at("controller/stats?light"), stats.as_bytes())
        .file(&at("controller/identify"), &read("identify -o raw"))
        .file(&at("controller/log/smart"), &read("smart -o raw"))
        .file(&at("controller/log/error"), &read("error-log -o raw"))
        .file(&at("1/stats"), stats.as_bytes())
        .file(&at("1/identify"), &read("id-ns -o raw"))
        .file(&at("1/bench"), b"")
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

/// Two drivers' trees in one folder, as on a machine with two controllers.
fn two_controllers(name: &str) -> Folder {
    let folder = serve(Folder::new(name), "nvme/", |stats| stats);
    serve(folder, "nvme.pci-00-02.0/", |stats| stats.replace("S1", "S2"))
        .file("nvme.pci-00-02.0/2/identify", b"")
        .file("nvme.pci-00-02.0/1p3/data", &[0; 512])
}

#[test]
fn several_controllers_are_listed_and_each_can_be_named() {
    let folder = two_controllers("several");
    let list = ran(&folder, "list").stdout;
    let controllers: Vec<Vec<&str>> = list
        .lines()
        .filter(|line| line.contains(":controller "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let [first, second] = controllers.as_slice() else {
        panic!("{list}")
    };
    assert!(
        first[0] == "nvme:controller" && first.contains(&"S1"),
        "{first:?}"
    );
    assert!(
        second[0] == "nvme.pci-00-02.0:controller" && second.contains(&"S2"),
        "{second:?}"
    );
    let partition: Vec<&str> = list
        .lines()
        .last()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(partition, ["nvme.pci-00-02.0:1p3", "512B"], "{list}");

    for (line, words) in [
        (
            "smart --json -d nvme.pci-00-02.0:controller",
            "\"device\": \"nvme.pci-00-02.0:controller\"",
        ),
        ("id-ns -d nvme:1 --json", "\"device\": \"nvme:1\""),
        (
            "identify -d nvme.pci-00-02.0:1 --json",
            "\"device\": \"nvme.pci-00-02.0:1\"",
        ),
        ("stats -d nvme.pci-00-02.0:1", "nvme.pci-00-02.0:1"),
        (
            "--dry-run smart -d nvme:controller",
            "would read nvme:controller/log/smart",
        ),
    ] {
        let ran = ran(&folder, line);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(ran.stdout.contains(words), "{line}: {}", ran.stdout);
    }
    let only = ran(&folder, "list -d nvme.pci-00-02.0:1p3").stdout;
    assert!(
        only.contains(":1p3") && !only.contains("nvme:controller "),
        "{only}"
    );
}

#[test]
fn a_command_about_one_of_several_controllers_asks_which() {
    let folder = two_controllers("which");
    for line in ["identify", "smart", "stats", "bench --ios 1", "identify -d 1"] {
        refused(
            || on(&folder, line),
            line,
            2,
            &[
                "there are 2 controllers, and this needs to know which: nvme:, nvme.pci-00-02.0:",
                "-d nvme:1",
            ],
        );
    }
    for (line, words) in [
        (
            "smart -d nvme.none:1",
            "no driver is running as nvme.none: hint: there is nvme:, nvme.pci-00-02.0:",
        ),
        (
            "identify -d nvme.pci-00-02.0:7",
            "no namespace nvme.pci-00-02.0:7 hint: there is nvme.pci-00-02.0:1",
        ),
        (
            "list -d nvme:1p9",
            "cannot look at nvme:1p9: no such file or directory",
        ),
    ] {
        refused(|| on(&folder, line), line, 4, &[words]);
    }
    // What goes wrong is said of the right one.
    let folder = folder.file("nvme.pci-00-02.0/controller/identify", b"short");
    refused(
        || on(&folder, "identify -d nvme.pci-00-02.0:controller"),
        "malformed",
        1,
        &["nvme.pci-00-02.0:controller/identify is not understood"],
    );
    std::fs::remove_file(folder.path().join("nvme.pci-00-02.0/controller/log/smart")).unwrap();
    refused(
        || on(&folder, "smart -d nvme.pci-00-02.0:controller"),
        "missing",
        4,
        &["cannot open nvme.pci-00-02.0:controller/log/smart"],
    );
    // A refusal to write names the device that would lose its data.
    let folder = folder.file("nvme.pci-00-02.0/1/data", &[0; 4096]);
    refused(
        || on(&folder, "bench --randwrite -d nvme.pci-00-02.0:1"),
        "bench",
        8,
        &["of nvme.pci-00-02.0:1 (", "serial number S2"],
    );
}

#[test]
fn an_embedded_driver_is_the_scheme_nvme_and_no_other() {
    refused(
        || nvmectl("--emulate=size=1MiB smart -d nvme.pci-00-02.0:1"),
        "emulated",
        4,
        &["no driver is running as nvme.pci-00-02.0:", "there is nvme:"],
    );
}
