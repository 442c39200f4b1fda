//! `nvmectl feature` on an embedded driver, as a user runs it.

mod common;

use common::{nvmectl, refused, run, succeed};
use serde_json::json;

const DEVICE: &str = "--emulate=size=1MiB,queues=4";

#[test]
fn the_list_has_every_feature_of_the_controller() {
    let document = succeed(&format!("{DEVICE} feature list --json")).json();
    let features = document["features"].as_array().unwrap();
    let find = |name: &str| features.iter().find(|row| row["feature"] == name);
    for name in [
        "arbitration",
        "power-management",
        "temperature-threshold",
        "error-recovery",
        "volatile-write-cache",
        "number-of-queues",
        "interrupt-coalescing",
        "interrupt-vector-config",
        "write-atomicity",
        "async-event-config",
        "timestamp",
    ] {
        assert!(find(name).is_some(), "{name}: {document}");
    }
    // The emulated controller has none of these.
    for name in ["host-memory-buffer", "keep-alive", "scheduler"] {
        assert!(find(name).is_none(), "{name}");
    }
    let threshold = &find("temperature-threshold").unwrap()["settings"];
    assert_eq!(threshold["threshold_celsius"], 70);
    let cache = find("volatile-write-cache").unwrap();
    assert_eq!(
        (&cache["changeable"], &cache["saveable"]),
        (&json!(true), &json!(true))
    );
    let text = succeed(&format!("{DEVICE} feature list")).stdout;
    assert_eq!(text.lines().count(), features.len() + 1, "{text}");
}

#[test]
fn what_is_set_is_in_force_in_the_units_it_was_given_in() {
    for (line, settings) in [
        (
            "interrupt-coalescing --threshold 8 --time 200us",
            json!({"threshold_completions": 8, "time_us": 200}),
        ),
        (
            "interrupt-coalescing --time 0.5ms --save",
            json!({"threshold_completions": 1, "time_us": 500}),
        ),
        (
            "interrupt-vector-config on --vector 2",
            json!({"vector": 2, "coalescing": true}),
        ),
        (
            "temperature-threshold 75C",
            json!({"threshold_celsius": 75, "threshold_kelvin": 348}),
        ),
        (
            "temperature-threshold 260K --under",
            json!({"threshold_celsius": -13, "threshold_kelvin": 260}),
        ),
        ("volatile-write-cache off", json!({"enabled": false})),
        (
            "arbitration --burst 8 --high 4",
            json!({"burst_commands": 8, "high_weight": 4, "medium_weight": 1, "low_weight": 1}),
        ),
        (
            "error-recovery 1.5s",
            json!({"time_limit_ms": 1500, "error_if_deallocated": false}),
        ),
        (
            "power-management 0 --workload 1",
            json!({"power_state": 0, "workload_hint": 1}),
        ),
        ("write-atomicity off", json!({"only_for_power_failures": true})),
    ] {
        let document = succeed(&format!("{DEVICE} feature set {line} --json")).json();
        assert_eq!(document["settings"], settings, "{line}");
        assert_eq!(document["select"], "current", "{line}");
    }
}

#[test]
fn a_value_is_the_current_the_default_or_the_saved_one() {
    let get = |rest: &str| succeed(&format!("{DEVICE} feature get {rest} --json")).json();
    assert_eq!(
        get("number-of-queues --select default")["settings"],
        json!({"submission_queues": 4, "completion_queues": 4})
    );
    assert_eq!(
        get("timestamp --select saved")["settings"],
        json!({"timestamp_ms": 0, "set_by_host": false, "may_have_stopped": false})
    );
    assert_eq!(
        get("interrupt-coalescing --select supported")["settings"],
        json!({"saveable": true, "namespace_specific": false, "changeable": true})
    );
    // What the driver has asked to hear of: namespaces that change, and warnings.
    assert_eq!(get("async-event-config")["settings"]["namespace_attribute"], true);
    assert_eq!(get("error-recovery")["device"], "nvme:1");
}

#[test]
fn what_is_not_to_be_set_or_not_there_is_refused() {
    for (line, code, words) in [
        (
            "feature set number-of-queues 4",
            8,
            &["refused: number-of-queues is the driver's own", "NVME_NUM_QUEUES"][..],
        ),
        ("feature set async-event-config off", 8, &["the driver's own"]),
        (
            "feature set keep-alive 5",
            2,
            &["keep-alive can be read, not set"],
        ),
        (
            "feature set interrupt-coalescing --time 150us",
            2,
            &["--time is in steps of 100us up to 25.5ms"],
        ),
        (
            "feature set volatile-write-cache",
            2,
            &["is not said", "takes on or off"],
        ),
        (
            "feature set power-management 1",
            1,
            &["Invalid Field in Command", "does not take this value"],
        ),
        (
            "feature set interrupt-vector-config on --vector 3 --save",
            6,
            &["Feature Identifier Not Saveable", "without --save"],
        ),
        (
            "feature get host-memory-buffer",
            6,
            &["the controller does not have host-memory-buffer", "feature list"],
        ),
        (
            "feature get interrupt-vector-config --vector 65535",
            6,
            &["Invalid Field in Command"],
        ),
        (
            "feature get scheduler --select saved",
            2,
            &["only a current value"],
        ),
        ("feature set scheduler", 2, &["which scheduler is not said"]),
        ("feature get -d nvme:7 error-recovery", 4, &["nvme:7"]),
    ] {
        let line = format!("{DEVICE} {line}");
        refused(|| nvmectl(&line), &line, code, words);
    }
    for (line, words) in [
        ("feature", "Usage: nvmectl feature"),
        ("feature get speed", "invalid value 'speed' for '<FEATURE>'"),
        (
            "feature get arbitration --select best",
            "invalid value 'best' for '--select <SELECT>'",
        ),
        (
            "feature set interrupt-coalescing --threshold 0",
            "0 is not in 1..=256",
        ),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
        assert!(ran.stderr.contains(words), "{line}: {ran:?}");
    }
}

#[test]
fn the_drivers_scheduler_is_read_and_changed() {
    let get = succeed(&format!("{DEVICE} feature get scheduler --json")).json();
    assert_eq!(
        (&get["feature"], &get["scheduler"]),
        (&json!("scheduler"), &json!("cpuaffinity"))
    );
    for name in ["roundrobin", "deadline"] {
        let line = format!("{DEVICE} feature set scheduler {name}");
        assert_eq!(succeed(&line).stdout, format!("scheduler  {name}\n"));
    }
    let line = format!("{DEVICE} feature set scheduler fastest");
    refused(
        || nvmectl(&line),
        &line,
        2,
        &["the driver has no scheduler fastest", "roundrobin"],
    );
}

#[test]
fn a_dry_run_sets_nothing() {
    let line =
        format!("{DEVICE} --dry-run feature set interrupt-coalescing --threshold 8 --time 200us --save");
    assert_eq!(
        succeed(&line).stdout,
        "would set interrupt-coalescing (08h) of nvme:controller to 0x207 and save it: threshold completions 8, time 200 \
         us\n"
    );
}
