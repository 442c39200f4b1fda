//! `top` without a terminal: what it prints for people, for programs and for spreadsheets.

mod common;

use std::collections::BTreeMap;

use common::{Folder, Ran, nvmectl, refused, run, succeed};
use serde_json::Value;

const LOAD: &str = "--emulate=size=16MiB,latency=200us --load randread:qd=8";

/// The lines of CSV by their column names. No cell of these tests holds a comma.
fn csv(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), header.len(), "{line}");
            header
                .iter()
                .zip(cells)
                .map(|(name, cell)| ((*name).to_owned(), cell.to_owned()))
                .collect()
        })
        .collect()
}

#[test]
fn lines_of_json_show_what_a_load_does() {
    let ran = succeed(&format!("top -n 3 --interval 300ms -o jsonl {LOAD}"));
    let documents: Vec<Value> = ran
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert_eq!(documents.len(), 3, "{}", ran.stdout);
    for document in &documents {
        assert_eq!(document["schema"], "nvmectl-top");
        let (controller, namespace) = (&document["devices"][0], &document["devices"][1]);
        assert_eq!(controller["device"], "nvme:controller");
        assert_eq!(namespace["device"], "nvme:1");
        assert_eq!(controller["state"], "ready");
        assert_eq!(document["queues"][0]["kind"], "admin");
    }
    let last = &documents[2];
    let controller = &last["devices"][0];
    let figure = |name: &str| {
        controller[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {controller}"))
    };
    // Eight at a time, each of which takes at least 200 us.
    assert!(
        figure("read_iops") > 0.0 && figure("read_iops") <= 8.0 * 5100.0,
        "{controller}"
    );
    assert!(figure("read_p50_ns") >= 200_000.0, "{controller}");
    assert!(
        figure("mean_queue_depth") > 1.0 && figure("mean_queue_depth") <= 8.0,
        "{controller}"
    );
    assert_eq!(figure("write_iops"), 0.0);
    assert_eq!(controller["write_p50_ns"], Value::Null);
    // The namespace is counted apart from the queues, and a moment later.
    let (of_queues, of_namespace) = (
        figure("read_iops"),
        last["devices"][1]["read_iops"].as_f64().unwrap(),
    );
    assert!(
        (of_queues - of_namespace).abs() < of_queues / 4.0,
        "{of_queues} {of_namespace}"
    );
    let bytes = figure("read_bytes_per_s") / figure("read_iops");
    assert!((bytes - 4096.0).abs() < 1.0, "{bytes}");
}

#[test]
fn csv_has_a_header_a_time_and_the_same_members() {
    for view in ["devices", "queues"] {
        let ran = succeed(&format!("top -n 2 --interval 200ms -o csv --view {view} {LOAD}"));
        let rows = csv(&ran.stdout);
        let json = succeed(&format!("top --once --interval 200ms -o json {LOAD}")).json();
        let members = json[view][0].as_object().unwrap();
        for name in rows[0].keys().filter(|name| *name != "time_unix_ms") {
            assert!(members.contains_key(name), "{name}");
        }
        let times: Vec<u64> = rows
            .iter()
            .map(|row| row["time_unix_ms"].parse().unwrap())
            .collect();
        assert!(times.is_sorted() && times[0] > 1_700_000_000_000, "{times:?}");
        let devices: Vec<&str> = rows.iter().map(|row| row["device"].as_str()).collect();
        assert_eq!(rows.len() % 2, 0, "two intervals of the same rows: {devices:?}");
        let (first, second) = devices.split_at(devices.len() / 2);
        assert_eq!(first, second);
        for row in rows
            .iter()
            .filter(|row| view == "devices" && row["device"] == "nvme:1")
        {
            assert_eq!(row["read_p50_ns"], "", "what is not known is empty");
            assert!(row["read_iops"].parse::<f64>().unwrap() >= 0.0);
        }
    }
}

#[test]
fn tables_are_plain_text_and_sorted_as_asked() {
    let ran = succeed(&format!(
        "top -b -n 1 --interval 200ms --view queues --sort iops {LOAD}"
    ));
    assert!(!ran.stdout.contains('\u{1b}'), "{:?}", ran.stdout);
    let first = ran.stdout.lines().nth(1).unwrap();
    assert!(
        first.contains(" io "),
        "the busy queue comes first: {}",
        ran.stdout
    );
    let once = succeed("top --once --interval 200ms --emulate=size=1MiB");
    let header: Vec<&str> = once.stdout.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(&header[..3], &["DEVICE", "STATE", "IOPS"]);
    assert_eq!(
        once.stdout
            .lines()
            .filter(|line| line.starts_with("nvme"))
            .count(),
        2
    );
}

#[test]
fn the_namespace_asked_for_is_shown_and_loaded() {
    let ran = succeed(
        "top -n 2 --interval 300ms -o jsonl -d nvme:2 --emulate=size=4MiB,namespaces=3 --load randrw:qd=4,mix=50",
    );
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    let devices: Vec<&str> = last["devices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["device"].as_str().unwrap())
        .collect();
    assert_eq!(devices, ["nvme:controller", "nvme:2"]);
    for name in ["read_iops", "write_iops"] {
        assert!(last["devices"][1][name].as_f64().unwrap() > 0.0, "{last}");
    }
    refused(
        || nvmectl("top -b -d nvme:4 --emulate=size=1MiB,namespaces=3"),
        "no namespace",
        4,
        &["there is no namespace nvme:4", "nvme:1, nvme:2 or nvme:3"],
    );
    let dry = succeed("--dry-run top -b --emulate=size=1MiB");
    assert_eq!(dry.stdout, "would read nvme:controller/stats, again and again\n");
}

/// A tree whose statistics never change, for as long as it is there.
fn tree(folder: Folder, root: &str) -> Folder {
    let stats = run("--emulate=size=1MiB stats --json").stdout;
    folder.file(&format!("{root}controller/stats"), stats.as_bytes())
}

#[test]
fn every_controller_is_watched_and_one_that_hangs_holds_up_none() {
    let folder = tree(tree(Folder::new("top-several"), "nvme/"), "nvme.b/");
    let watch = |line: &str| -> Ran {
        let mut command = nvmectl(line);
        command.arg("--root").arg(folder.path());
        command.output().unwrap().into()
    };
    let ran = watch("top --once --interval 100ms -o jsonl");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let names = |document: &Value| -> Vec<String> {
        let rows = document["devices"].as_array().unwrap().iter();
        rows.map(|row| {
            format!(
                "{} {}",
                row["device"].as_str().unwrap(),
                row["state"].as_str().unwrap()
            )
        })
        .collect()
    };
    assert_eq!(
        names(&ran.json()),
        [
            "nvme.b:controller ready",
            "nvme.b:1 ready",
            "nvme:controller ready",
            "nvme:1 ready"
        ]
    );
    let only = watch("top --once --interval 100ms -o jsonl -d nvme.b:controller").json();
    assert_eq!(names(&only).len(), 2);
    assert_eq!(watch("top --once -o jsonl -d 1").code, Some(2));

    // A pipe that nobody writes to is a driver that does not answer.
    let path = folder.path().join("nvme/controller/stats");
    std::fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let ran = watch("top -n 3 --interval 600ms -o jsonl");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let last: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(
        names(&last),
        [
            "nvme.b:controller ready",
            "nvme.b:1 ready",
            "nvme:controller no answer"
        ]
    );
}

#[test]
fn a_tree_that_cannot_be_read_at_all_is_an_error() {
    let folder = tree(Folder::new("top-unreadable"), "").file("controller/stats", b"nonsense");
    let command = || {
        let mut command = nvmectl("top -b");
        command.arg("--root").arg(folder.path());
        command
    };
    refused(
        command,
        "nonsense",
        1,
        &["nvme:controller/stats is not understood", "compare --version"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_it_with_its_own_exit_code() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    for signal in [Signal::INT, Signal::TERM] {
        let mut command = nvmectl(&format!("top -b --interval 100ms {LOAD}"));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It prints, so it listens to signals.
        assert!(lines.next().unwrap().unwrap().starts_with("DEVICE"));
        kill_process(Pid::from_child(&child), signal).unwrap();
        while lines.next().is_some() {}
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    let mut command = nvmectl(&format!("top -b --interval 100ms {LOAD}"));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_terminal_that_is_none_is_refused() {
    // With --json it would be a batch.
    let ran = run("--emulate=size=1MiB top");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(ran.stderr.contains("add -b to print"), "{ran:?}");
}
