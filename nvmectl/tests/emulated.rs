//! Every command on an embedded driver, as a user runs it.

mod common;

use common::{Folder, Ran, nvmectl, refused, run, succeed};
use nvme_driver::Config;
use nvme_driver::embedded;
use nvme_driver::scheme::OpenFlags;
use nvme_spec::AdminOpcode;
use nvme_spec::identify::{IdentifyController, IdentifyNamespace};
use nvme_spec::log::{ErrorLogEntry, SmartLog};
use serde_json::json;
use stats_proto::stats::StatsDocument;
use zerocopy::FromBytes;

fn raw(line: &str) -> Vec<u8> {
    let output = nvmectl(line).output().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    output.stdout
}

#[test]
fn list_shows_the_controller_and_every_namespace() {
    let spec = "--emulate=size=1GiB/2GiB,lba=512/4096,serial=S1,model=A disk,firmware=7";
    let list = |rest: &[&str]| Ran::from(nvmectl("list").arg(spec).args(rest).output().unwrap());
    let ran = list(&[]);
    let lines: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[1][..6],
        ["nvme:controller", "A", "disk", "S1", "7", "emulated"],
        "{ran:?}"
    );
    assert_eq!(lines[4], ["nvme:1", "1.00GiB", "0B", "512B", "0B"], "{ran:?}");
    assert_eq!(lines[5], ["nvme:2", "2.00GiB", "0B", "4.00KiB", "0B"], "{ran:?}");

    let document = list(&["--json"]).json();
    assert_eq!(document["schema"], "nvmectl-list");
    assert_eq!(document["controller"]["model"], "A disk");
    assert_eq!(document["namespaces"][1]["size_bytes"], (2u64 << 30).to_string());
    assert_eq!(document["namespaces"][0]["lba_bytes"], 512);
}

#[test]
fn list_sends_the_device_no_command() {
    // What list reads, read from a driver whose admin commands can be counted meanwhile.
    assert_eq!(
        succeed("--emulate=size=1MiB --dry-run list").stdout,
        "would read nvme:controller/stats?light, nvme:N/identify of each namespace N\n"
    );
    let driver = embedded::start("size=1MiB", &Config::default()).unwrap();
    let client = driver.client(0, 0, 1);
    let read = |path: &str| {
        let mut bytes = vec![0; 1 << 20];
        let length = client
            .open(path, OpenFlags::READ)
            .unwrap()
            .read_at(&mut bytes, 0)
            .unwrap();
        bytes.truncate(length);
        bytes
    };
    let admin_commands = || {
        let document: StatsDocument = serde_json::from_slice(&read("controller/stats?light")).unwrap();
        document.queues[0].counters.as_ref().unwrap().submitted
    };
    // The driver's own commands come first; the last of them asks for events.
    let last = AdminOpcode::ASYNC_EVENT_REQUEST;
    while driver.device().counters().admin_opcode(last).fetched == 0 {
        std::thread::yield_now();
    }
    let before = admin_commands();
    assert_eq!(read("1/identify").len(), 4096);
    assert_eq!(admin_commands(), before);
    assert_eq!(read("controller/log/error").len() % 64, 0);
    assert_eq!(
        admin_commands(),
        before + 1,
        "a log page does take a command, so the count is a real one"
    );
}

#[test]
fn identify_as_text_json_and_bytes_is_the_same() {
    let line = "--emulate=size=64MiB,serial=S77,mdts=128KiB identify";
    let bytes = raw(&format!("{line} -o raw"));
    let identify = IdentifyController::read_from_bytes(&bytes).unwrap();
    assert_eq!(identify.serial(), "S77");

    let document = succeed(&format!("{line} --json")).json();
    assert_eq!(document["serial"], "S77");
    assert_eq!(document["vendor_id"], identify.vid.get());
    assert_eq!(document["max_transfer_bytes"], 128 << 10);
    assert_eq!(
        document["limits"]["error_log_entries"],
        u64::from(identify.elpe) + 1
    );

    let text = succeed(line).stdout;
    assert!(
        text.lines()
            .any(|line| line.split_whitespace().eq(["serial", "S77"])),
        "{text}"
    );
    assert_eq!(succeed(&format!("{line} --controller")).stdout, text);
    assert_eq!(succeed(&line.replace("identify", "id-ctrl")).stdout, text);

    let hex = succeed(&format!("{line} -o hex")).stdout;
    let first: Vec<&str> = hex.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(first[1], format!("{:02x}", bytes[0]), "{hex}");
    assert!(hex.contains("|....S77         |") || hex.contains("S77"), "{hex}");
}

#[test]
fn identify_of_a_namespace_by_every_name() {
    let emulate = "--emulate=size=1MiB/2MiB,lba=512/4096";
    let wanted = succeed(&format!("{emulate} identify --ns 2 --json")).json();
    assert_eq!(wanted["device"], "nvme:2");
    assert_eq!(wanted["size_blocks"], 512);
    assert_eq!(wanted["formats"][1]["in_use"], true);
    for line in [
        "identify -d nvme:2",
        "-d 2 identify",
        "id-ns --ns 2",
        "id-ns -d 2",
        "-d nvme:2 id-ns",
    ] {
        assert_eq!(
            succeed(&format!("{emulate} {line} --json")).json(),
            wanted,
            "{line}"
        );
    }
    let bytes = raw(&format!("{emulate} identify --ns 2 -o raw"));
    assert_eq!(
        IdentifyNamespace::read_from_bytes(&bytes).unwrap().nsze.get(),
        512
    );
    assert_eq!(
        succeed("--emulate=size=1MiB id-ns --json").json()["device"],
        "nvme:1"
    );
}

#[test]
fn a_namespace_that_is_not_there_or_not_clear() {
    let emulate = "--emulate=size=1MiB,namespaces=3";
    for line in [
        "identify --ns 4",
        "id-ns -d nvme:4",
        "stats --ns 4",
        "bench --ns 4",
    ] {
        let line = format!("{emulate} {line}");
        refused(
            || nvmectl(&line),
            &line,
            4,
            &["there is no namespace nvme:4", "nvme:1, nvme:2 or nvme:3"],
        );
    }
    for line in ["id-ns", "bench"] {
        let line = format!("{emulate} {line}");
        let words = ["there are 3 namespaces", "-d nvme:1, nvme:2 or nvme:3"];
        refused(|| nvmectl(&line), &line, 2, &words);
    }
    for line in ["id-ns -d controller", "bench -d controller"] {
        let line = format!("{emulate} {line}");
        refused(
            || nvmectl(&line),
            &line,
            2,
            &["works on a namespace, not on the controller"],
        );
    }
}

#[test]
fn smart_has_units_and_exit_code_9_is_only_for_warnings() {
    let document = succeed("--emulate=temperature=310K smart --json").json();
    assert_eq!(
        (&document["temperature_kelvin"], &document["temperature_celsius"]),
        (&json!(310), &json!(37))
    );
    assert_eq!(document["data_units_read"], "0");
    assert_eq!(
        succeed("--emulate=temperature=310K smart-log --check --json").json(),
        document
    );
    assert!(succeed("--emulate smart").stdout.starts_with("healthy: "));
    let log = SmartLog::read_from_bytes(&raw("--emulate=temperature=310K smart -o raw")).unwrap();
    assert_eq!(log.composite_temperature.get(), 310);

    // Beyond the warning threshold the device warns.
    let hot = run("--emulate=temperature=360K smart --check");
    assert_eq!(hot.code, Some(9), "{hot:?}");
    assert!(hot.stdout.starts_with("warning: temperature\n"), "{hot:?}");
    assert_eq!(hot.stderr, "error: the device warns: temperature\n");
    let hot = run("--emulate=temperature=360K smart --check --json");
    assert_eq!(
        (hot.code, hot.json()["warnings"]["temperature"].as_bool()),
        (Some(9), Some(true))
    );
    assert_eq!(hot.json_error()["error"], "health_warning");
    assert_eq!(
        succeed("--emulate=temperature=360K smart --json").json()["critical_warning"],
        2
    );
}

#[test]
fn error_log_of_a_device_without_errors() {
    assert_eq!(succeed("--emulate error-log").stdout, "no errors\n");
    let document = succeed("--emulate error-log --json").json();
    assert_eq!(
        (&document["entries"], &document["errors_ever"]),
        (&json!([]), &json!("0"))
    );
    let bytes = raw("--emulate error-log -o raw");
    let entries = <[ErrorLogEntry]>::ref_from_bytes(&bytes).unwrap();
    assert_eq!(document["capacity_entries"], entries.len());
}

#[test]
fn stats_is_the_drivers_document() {
    let text = succeed("--emulate=namespaces=2,size=1MiB stats --json").stdout;
    let document: StatsDocument = serde_json::from_str(&text).unwrap();
    document.check().unwrap();
    assert_eq!(document.namespaces.len(), 2);

    let light: StatsDocument =
        serde_json::from_str(&succeed("--emulate=namespaces=2,size=1MiB stats --light --ns 2 --json").stdout)
            .unwrap();
    assert_eq!(
        light
            .namespaces
            .iter()
            .map(|namespace| namespace.nsid)
            .collect::<Vec<_>>(),
        [2]
    );
    let ops = light
        .queues
        .iter()
        .flat_map(|queue| &queue.counters)
        .flat_map(|counters| counters.ops.values());
    assert!(ops.into_iter().all(|op| op.latency_device.is_none()));

    let table = succeed("--emulate stats").stdout;
    assert!(
        table.contains("QUEUE") && table.contains("OPERATION") && table.contains("NAMESPACE"),
        "{table}"
    );
}

#[test]
fn watching_prints_one_block_or_one_line_per_interval() {
    let table = succeed("--emulate=queues=1 stats --watch 20ms -n 3").stdout;
    assert_eq!(
        table.lines().filter(|line| line.contains("READ/S")).count(),
        1,
        "{table}"
    );
    assert_eq!(
        table.lines().filter(|line| line.contains(" admin ")).count(),
        3,
        "{table}"
    );
    let lines = succeed("--emulate stats -w 0.02 -n 2 --json").stdout;
    let schemas: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["schema"].clone())
        .collect();
    assert_eq!(schemas, ["nvmectl-stats-interval", "nvmectl-stats-interval"]);
}

#[test]
fn a_dry_run_says_what_it_would_do() {
    for (line, said) in [
        (
            "list",
            "would read nvme:controller/stats?light, nvme:N/identify of each namespace N\n",
        ),
        ("identify", "would read nvme:controller/identify\n"),
        ("identify --ns 2", "would read nvme:2/identify\n"),
        ("smart", "would read nvme:controller/log/smart\n"),
        (
            "error-log",
            "would read nvme:controller/log/error, nvme:controller/log/smart\n",
        ),
        ("stats --ns 2 --light", "would read nvme:2/stats?light\n"),
    ] {
        let line = format!("--emulate=size=1MiB,namespaces=2 --dry-run {line}");
        assert_eq!(succeed(&line).stdout, said, "{line}");
        let document = succeed(&format!("{line} --json")).json();
        assert_eq!(document["schema"], "nvmectl-dry-run", "{line}");
        let paths = document["would_read"].as_array().unwrap();
        let first = paths[0].as_str().unwrap();
        assert!(
            said.starts_with(&format!("would read nvme:{first}")),
            "{line}: {document}"
        );
    }
}

#[test]
fn a_dry_run_is_refused_what_the_run_is() {
    for (line, code, words) in [
        ("list", 4, "no driver is running"),
        ("--emulate=size=0 list", 2, "bad value `0` for `size`"),
        (
            "--emulate=size=1MiB smart -d 7",
            4,
            "there is no namespace nvme:7",
        ),
        (
            "--emulate=size=1MiB list -o raw",
            2,
            "list cannot be printed as raw",
        ),
        ("--emulate=size=1MiB bench --write", 8, "add --destructive"),
        (
            "--emulate=size=1MiB bench --write --destructive --yes-destroy=S2",
            8,
            "is not its serial number",
        ),
        (
            "--emulate=size=1MiB bench -d 7",
            4,
            "there is no namespace nvme:7",
        ),
    ] {
        let line = format!("--dry-run {line}");
        refused(|| nvmectl(&line), &line, code, &[words]);
    }
}

#[test]
fn a_device_that_does_not_exist_is_not_found() {
    for command in [
        "list",
        "identify",
        "identify --controller",
        "id-ctrl",
        "id-ns",
        "smart",
        "error-log",
        "stats",
        "bench",
    ] {
        let line = format!("--emulate=size=1MiB,namespaces=2 -d nvme:7 {command}");
        let words = ["there is no namespace nvme:7", "there is nvme:1 or nvme:2"];
        refused(|| nvmectl(&line), &line, 4, &words);
    }
    let one = succeed("--emulate=size=1MiB,namespaces=2 -d nvme:2 list --json").json();
    assert_eq!(one["namespaces"].as_array().unwrap().len(), 1, "{one}");
    assert_eq!(one["namespaces"][0]["nsid"], 2);
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_that_cannot_be_written_is_an_error() {
    for (output, words) in [
        // Open for reading only.
        (std::fs::File::open("/dev/null").unwrap(), "Bad file descriptor"),
        (
            std::fs::File::options().write(true).open("/dev/full").unwrap(),
            "No space left",
        ),
    ] {
        let command = nvmectl("--emulate=size=1MiB list").stdout(output).output();
        let ran: common::Ran = command.unwrap().into();
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains("cannot write the output"), "{ran:?}");
        assert!(ran.stderr.contains(words), "{ran:?}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran: common::Ran = nvmectl("--help").stdout(full).output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("cannot write the output"), "{ran:?}");
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let escape = '\u{1b}';
    assert!(!succeed("--emulate list").stdout.contains(escape));
    assert!(!succeed("--emulate list --color never").stdout.contains(escape));
    assert!(succeed("--emulate list --color always").stdout.contains(escape));
    assert!(
        !succeed("--emulate list --color always --json")
            .stdout
            .contains(escape)
    );
}

#[test]
fn units_are_a_choice() {
    let size = |units: &str| {
        let ran = succeed(&format!("--emulate=size=1GiB list --units {units}"));
        ran.stdout
            .lines()
            .nth(4)
            .unwrap()
            .split_whitespace()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        [size("iec"), size("si"), size("raw")],
        ["1.00GiB", "1.07GB", "1073741824"]
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    for line in [
        "list",
        "identify -o hex",
        "stats --json",
        "stats --watch 10ms",
        "bench --ios 10 --warmup 0",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = nvmectl(&format!("--emulate {line}"));
        command.stdout(writer).stderr(std::process::Stdio::piped());
        let ran: Ran = command.output().unwrap().into();
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let mut command = nvmectl("--emulate list");
    command.stdout(full).stderr(std::process::Stdio::piped());
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.starts_with("error: cannot write the output: "),
        "{ran:?}"
    );
}

#[test]
fn a_device_backed_by_a_file_keeps_its_data_when_a_benchmark_is_refused() {
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i % 251) as u8).collect();
    let folder = Folder::new("backing").file("disk.img", &data);
    let path = folder.path().join("disk.img");
    let bench = |rest: &str| {
        let mut command = nvmectl(&format!("bench --ios 50 --warmup 0 {rest}"));
        command.arg(format!("--emulate=size=1MiB,backing=file:{}", path.display()));
        command
    };
    let words = [
        "refused: this would overwrite 1.00MiB, bytes 0 to 1048575, of nvme:1",
        "add --destructive if",
    ];
    for pattern in ["--write", "--randwrite", "--randrw", "--rw rw --mix 99"] {
        refused(|| bench(pattern), pattern, 8, &words);
    }
    assert!(std::fs::read(&path).unwrap() == data, "nothing was written");

    let ran: Ran = bench("--randwrite --destructive --offset 64k --size 64k")
        .output()
        .unwrap()
        .into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let after = std::fs::read(&path).unwrap();
    assert!(
        after[..64 << 10] == data[..64 << 10],
        "before the region nothing changes"
    );
    assert!(
        after[128 << 10..] == data[128 << 10..],
        "behind the region nothing changes"
    );
    assert!(
        after[64 << 10..128 << 10] != data[64 << 10..128 << 10],
        "the region was written"
    );
}

#[test]
fn what_is_on_a_device_is_not_overwritten_unasked() {
    let mut data = vec![0u8; 1 << 20];
    data[512..520].copy_from_slice(b"EFI PART");
    let folder = Folder::new("existing").file("disk.img", &data);
    let path = folder.path().join("disk.img");
    let bench = |rest: &str| {
        let mut command = nvmectl(&format!(
            "bench --write --size 64k --ios 16 --warmup 0 --destructive {rest}"
        ));
        command.arg(format!("--emulate=size=1MiB,backing=file:{}", path.display()));
        command
    };
    let words = [
        "refused: this would overwrite 64.0KiB, bytes 0 to 65535, of nvme:1",
        "which holds a GPT partition table",
        "add --over-existing if that is what you want",
    ];
    refused(|| bench(""), "a partition table", 8, &words);
    assert!(std::fs::read(&path).unwrap() == data, "nothing was written");
    let ran: Ran = bench("--over-existing").output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(std::fs::read(&path).unwrap() != data);
}
