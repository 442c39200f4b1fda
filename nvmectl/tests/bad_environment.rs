//! Every bad value that the environment can be given: what is said, and the exit code.

mod common;

use common::{nvmectl, refused, run};

/// Variable, bad values, and what the message says is accepted.
const SETTINGS: &[(&str, &[&str], &str)] = &[
    (
        "NVME_NUM_QUEUES",
        &["", "-1", "+1", "65536", "all", "1.5", "1e3", "0x10"],
        "a number from 0 (one per CPU) to 65535",
    ),
    (
        "NVME_QUEUE_DEPTH",
        &["", "0", "1", "65537", "-32", "deep", "1k"],
        "a number of entries from 2 to 65536",
    ),
    (
        "NVME_POLLING_MODE",
        &[
            "",
            "2",
            "sometimes",
            "adaptive!",
            "0:polling",
            "1:",
            "1:polling,1:adaptive",
        ],
        "1:polling,2:interrupt,adaptive",
    ),
    (
        "NVME_POLL_INTERVAL_US",
        &["", "-1", "1000001", "10us", "99999999999999999999"],
        "from 0 (spin) to 1000000",
    ),
    ("NVME_ZERO_COPY", &["", "2", "maybe", "truee"], "true or false"),
    (
        "NVME_SCHEDULER",
        &["", "fifo", "cpu-affinity"],
        "none, roundrobin, cpuaffinity, priority or deadline",
    ),
    (
        "NVME_SCHEDULER_WINDOW",
        &["", "-1", "65537", "many"],
        "from 0 (as many as the queue holds) to 65536",
    ),
    (
        "NVME_PRIORITY_WEIGHTS",
        &["", "16:4", "16:4:1:1", "0:4:1", "257:4:1", "a:b:c"],
        "such as 16:4:1, each from 1 to 256",
    ),
    ("NVME_MERGE", &["", "2", "adjacent"], "true or false"),
    (
        "NVME_SLOW_US",
        &["", "-1", "60000001", "10ms"],
        "from 0 (only failed commands) to 60000000",
    ),
    ("NVME_BENCHMARK", &["", "2", "please"], "true or false"),
];

#[test]
fn a_bad_setting_names_the_variable_the_value_and_what_is_accepted() {
    for (variable, values, accepted) in SETTINGS {
        for value in *values {
            let command = || {
                let mut command = nvmectl("--emulate list");
                command.env(variable, value);
                command
            };
            let what = format!("{variable}={value}");
            refused(
                command,
                &what,
                2,
                &[&format!("{variable}: \"{value}\" is not accepted"), accepted],
            );
        }
    }
}

#[test]
fn every_variable_is_tried() {
    let tried: Vec<&str> = SETTINGS.iter().map(|(variable, ..)| *variable).collect();
    assert_eq!(tried, nvme_driver::config::VARIABLES);
}

#[test]
#[cfg(unix)]
fn a_setting_that_is_no_text_is_refused_too() {
    use std::os::unix::ffi::OsStrExt;
    let command = || {
        let mut command = nvmectl("--emulate list");
        command.env("NVME_QUEUE_DEPTH", std::ffi::OsStr::from_bytes(b"\xff64"));
        command
    };
    refused(command, "not UTF-8", 2, &["NVME_QUEUE_DEPTH: "]);
}

#[test]
fn settings_of_a_driver_do_not_matter_where_none_is_started() {
    let mut command = nvmectl("list");
    command.env("NVME_QUEUE_DEPTH", "nonsense");
    let ran: common::Ran = command.output().unwrap().into();
    assert_eq!(ran.code, Some(4), "{ran:?}");
}

#[test]
fn the_root_is_named_where_it_is_wrong() {
    for (root, code, words) in [
        ("", 2, "NVME_ROOT is empty"),
        ("/nowhere", 4, "no driver is running: /nowhere"),
        ("/dev/null", 4, "no driver is running: /dev/null"),
        ("/dev", 4, "it has no entry \"controller\""),
    ] {
        let command = || {
            let mut command = nvmectl("list");
            command.env("NVME_ROOT", root);
            command
        };
        refused(command, root, code, &[words]);
    }
    // What the command line says comes first.
    let mut command = nvmectl("list --root /elsewhere");
    command.env("NVME_ROOT", "");
    let ran: common::Ran = command.output().unwrap().into();
    assert!(ran.stderr.contains("/elsewhere"), "{ran:?}");
    let mut command = nvmectl("list --emulate=size=1MiB");
    command.env("NVME_ROOT", "");
    assert!(command.output().unwrap().status.success());
}

#[test]
fn settings_reach_the_embedded_driver() {
    let mut command = nvmectl("--emulate=size=1MiB stats --light --json");
    command.envs([
        ("NVME_NUM_QUEUES", "3"),
        ("NVME_QUEUE_DEPTH", "16"),
        ("NVME_POLLING_MODE", "false"),
        ("NVME_SCHEDULER", "roundrobin"),
    ]);
    let ran: common::Ran = command.output().unwrap().into();
    let document = ran.json();
    let io: Vec<_> = document["queues"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|queue| queue["kind"] == "io")
        .collect();
    assert_eq!(io.len(), 3, "{document}");
    assert_eq!(io[0]["mode"], "interrupt");
    assert!(io[0]["depth"].as_u64().unwrap() <= 16);
    assert_eq!(document["controller"]["scheduler"], "roundrobin");
    assert_eq!(run("--emulate=size=1MiB,queues=2 list").code, Some(0));
}
