//! Every bad SPEC that `--emulate` can be given: what is said, and the exit code.

mod common;

use common::{nvmectl, refused, run};

/// Key, bad values, and words that say what is accepted.
const KEYS: &[(&str, &[&str], &str)] = &[
    (
        "size",
        &["", "0", "1000", "-1", "big", "65TiB", "1GB/", "1GiB//1GiB"],
        "",
    ),
    (
        "namespaces",
        &["", "0", "129", "-1", "two", "1.5"],
        "a number from 1 to 128",
    ),
    ("lba", &["", "0", "513", "1024", "8192", "4k", "512/4k"], ""),
    (
        "backing",
        &["", "disk", "file", "file:"],
        "memory, null or file:PATH",
    ),
    (
        "queues",
        &["", "0", "4097", "many"],
        "a number of I/O queue pairs from 1 to 4096",
    ),
    (
        "depth",
        &["", "0", "65537", "deep"],
        "a number of entries from 1 to 65536",
    ),
    (
        "mdts",
        &["", "0", "4KiB", "100KiB", "8GiB", "small"],
        "a power of two from 8KiB to 4GiB, or none",
    ),
    ("vectors", &["", "0", "2049"], "a number from 1 to 2048"),
    ("threads", &["", "0", "65"], "a number from 1 to 64"),
    (
        "seed",
        &["", "-1", "x", "18446744073709551616"],
        "a number below 2^64",
    ),
    (
        "serial",
        &["", "\u{fc}", "012345678901234567890"],
        "1 to 20 printable ASCII characters",
    ),
    ("model", &["", "\u{fc}"], "1 to 40 printable ASCII characters"),
    (
        "firmware",
        &["", "123456789"],
        "1 to 8 printable ASCII characters",
    ),
    (
        "latency",
        &[
            "",
            "80",
            "fast",
            "-1us",
            "601s",
            "lognormal",
            "lognormal:80us",
            "lognormal:80us:4",
        ],
        "a time such as 80us",
    ),
    ("write-latency", &["", "80", "slow"], "same (as latency)"),
    (
        "channels",
        &["", "-1", "65537"],
        "a number of commands that the medium works on at once",
    ),
    ("bandwidth", &["", "fast", "0"], "bytes per second such as 7GiB/s"),
    ("dbbuf", &["", "yes", "1"], "on or off"),
    ("wrr", &["", "yes", "1"], "on or off"),
    ("sgl", &["", "maybe"], "on or off"),
    ("vwc", &["", "true"], "on or off"),
    (
        "cache",
        &["", "on", "volatile"],
        "loses what was not flushed when the process is killed",
    ),
    (
        "temperature",
        &["", "hot", "65536K", "-1K"],
        "kelvin such as 310K",
    ),
    ("spare", &["", "101%", "-1"], "available spare in percent"),
    (
        "used",
        &["", "256%", "half"],
        "how much of the device's life is used",
    ),
    ("mi", &["", "maybe"], "on, off, or full"),
    ("ready", &["", "soon"], "normal, never or cfs"),
    ("ready-delay", &["", "5", "601s"], "a time such as 100ms"),
    ("shutdown-delay", &["", "5"], "a time such as 100ms"),
    (
        "timeout",
        &["", "1ms", "128000ms"],
        "a multiple of 500ms up to 127500ms",
    ),
];

fn refused_spec(spec: &str, words: &[&str]) {
    let command = || {
        let mut command = nvmectl("list");
        command.arg(format!("--emulate={spec}"));
        command
    };
    let named = format!("--emulate={spec}: ");
    let named = named.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain([named.as_str(), "SPEC is key=value"])
        .collect();
    refused(command, spec, 2, &words);
}

#[test]
fn a_bad_value_names_the_key_the_value_and_what_is_accepted() {
    for (key, values, accepted) in KEYS {
        for value in *values {
            refused_spec(&format!("{key}={value}"), &[&format!("`{key}`"), accepted]);
        }
    }
}

#[test]
fn what_is_no_spec_is_refused() {
    for (spec, words) in [
        ("fast", "`fast` is not of the form key=value"),
        ("size", "`size` is not of the form key=value"),
        ("1GiB", "`1GiB` is not of the form key=value"),
        ("=1", "unknown key ``"),
        ("colour=red", "unknown key `colour`"),
        ("sise=1GiB", "did you mean `size`? Keys are size,"),
        ("Size=1GiB", "unknown key `Size`"),
        ("seed=1,seed=1", "`seed` is given more than once"),
        ("size=1GiB,,seed=1", ""),
        ("size=1GiB;seed=1", "bad value `1GiB;seed=1` for `size`"),
        (
            "lba=512/4096,namespaces=3",
            "`lba` lists 2 values for 3 namespaces",
        ),
        (
            "size=1GiB/2GiB,namespaces=3",
            "`size` lists 2 values for 3 namespaces",
        ),
    ] {
        refused_spec(spec, &[words]);
    }
}

#[test]
fn a_file_that_cannot_be_had_is_named() {
    refused_spec("backing=file:/nonexistent/disk.img", &["/nonexistent/disk.img"]);
}

#[test]
fn a_controller_that_does_not_come_up_is_a_lost_device() {
    for (spec, code, words) in [
        ("ready=never,timeout=500ms", 5, "did not become ready within"),
        ("ready=cfs,timeout=500ms", 1, "fatal error (CSTS.CFS)"),
    ] {
        let line = format!("list --emulate={spec}");
        refused(
            || nvmectl(&line),
            spec,
            code,
            &["the driver did not start: ", words],
        );
    }
}

#[test]
fn good_specs_are_taken() {
    for spec in [
        "size=4GiB,namespaces=2,lba=4096,queues=4,latency=80us,seed=1",
        "lba=512/4096,size=1MiB/2MiB",
        "backing=null,size=64TiB",
        "depth=2",
        "queues=1,vectors=1",
        "mdts=none",
    ] {
        let ran = run(&format!("list --emulate={spec}"));
        assert_eq!(ran.code, Some(0), "{spec}: {ran:?}");
    }
}
