//! Every bad input that the command line can be given: what is said, and the exit code. None of it needs a device.

mod common;

use common::{nvmectl, refused, run};

/// Arguments, and words of the message. All of it is usage: exit code 2.
const USAGE: &[(&str, &[&str])] = &[
    // Commands.
    ("", &["Usage: nvmectl"]),
    ("top-secret", &["unrecognized subcommand 'top-secret'"]),
    ("lst", &["unrecognized subcommand 'lst'", "'list'"]),
    ("list extra", &["unexpected argument 'extra'"]),
    // Global options.
    ("list --frobnicate", &["unexpected argument '--frobnicate'"]),
    ("list -x", &["unexpected argument '-x'"]),
    (
        "list --output yaml",
        &[
            "invalid value 'yaml' for '--output <FORMAT>'",
            "table, json, jsonl, csv, raw, hex",
        ],
    ),
    ("list --output", &["a value is required for '--output <FORMAT>'"]),
    (
        "list -o json --json",
        &["'--output <FORMAT>' cannot be used with '--json'"],
    ),
    (
        "list --units furlongs",
        &["invalid value 'furlongs' for '--units <UNITS>'", "iec, si, raw"],
    ),
    (
        "list --color sometimes",
        &[
            "invalid value 'sometimes' for '--color <COLOR>'",
            "auto, always, never",
        ],
    ),
    ("list --json=yes", &["unexpected value 'yes' for '--json'"]),
    ("list --root", &["a value is required for '--root <DIR>'"]),
    (
        "list --root /x --emulate",
        &["'--root <DIR>' cannot be used with '--emulate[=<SPEC>]'"],
    ),
    ("list --emulate size=1GiB", &["unexpected argument 'size=1GiB'"]),
    // Devices.
    ("identify -d", &["a value is required for '--device <DEVICE>'"]),
    (
        "identify -d nvme0n1",
        &[
            "invalid value 'nvme0n1' for '--device <DEVICE>'",
            "nvme:N or N (namespace N, from 1)",
        ],
    ),
    ("identify -d nvme:0", &["invalid value 'nvme:0'", "from 1"]),
    ("identify -d 01", &["invalid value '01'"]),
    ("identify -d -1", &["unexpected argument '-1'"]),
    ("identify -d nvme:1p0", &["invalid value 'nvme:1p0'"]),
    (
        "identify -d nvme:1p1",
        &[
            "1p1 is a partition, and identify does not work on one",
            "its namespace is 1: -d 1",
        ],
    ),
    (
        "bench -d 2p3",
        &["2p3 is a partition, and bench does not work on one", "-d 2"],
    ),
    ("identify -d nv/me:1", &["invalid value 'nv/me:1'"]),
    ("identify -d 4294967295", &["invalid value '4294967295'"]),
    ("identify -d nvme:", &["invalid value 'nvme:'"]),
    // identify.
    ("identify --ns", &["a value is required for '--ns <N>'"]),
    ("identify --ns one", &["invalid value 'one' for '--ns <N>'"]),
    ("identify --ns 0", &["invalid value '0' for '--ns <N>'"]),
    ("identify --ns -1", &["unexpected argument '-1'"]),
    (
        "identify --ns 4294967296",
        &["invalid value '4294967296' for '--ns <N>'"],
    ),
    (
        "identify --ns 1 --controller",
        &["'--ns <N>' cannot be used with '--controller'"],
    ),
    (
        "identify --ns 1 -d nvme:2",
        &[
            "--device 2 and --ns name different devices",
            "give one of the two",
        ],
    ),
    (
        "identify --controller -d nvme:2",
        &["--controller and --device 2 name different devices"],
    ),
    (
        "id-ns --ns 1 -d controller",
        &["--device controller and --ns name different devices"],
    ),
    ("id-ctrl --ns 1", &["unexpected argument '--ns'"]),
    // stats.
    (
        "stats --watch fast",
        &[
            "invalid value 'fast' for '--watch [<SECONDS>]'",
            "does not start with a number",
        ],
    ),
    (
        "stats --watch 0",
        &["invalid value '0'", "the shortest interval is 10ms"],
    ),
    ("stats --watch 9ms", &["the shortest interval is 10ms"]),
    (
        "stats --watch 1d",
        &["unknown unit \"d\"", "ns, us, ms, s, m or h"],
    ),
    ("stats -n 3", &["--watch [<SECONDS>]", "required"]),
    ("stats --watch -n 0", &["invalid value '0' for '--count <N>'"]),
    (
        "stats --watch -n many",
        &["invalid value 'many' for '--count <N>'"],
    ),
    ("stats --ns x", &["invalid value 'x' for '--ns <N>'"]),
    (
        "stats --ns 2 -d 1",
        &["--device 1 and --ns name different devices"],
    ),
    // smart, error-log.
    ("smart --check=yes", &["unexpected value 'yes' for '--check'"]),
    ("smart --ns 1", &["unexpected argument '--ns'"]),
    ("error-log 5", &["unexpected argument '5'"]),
    // top.
    (
        "top --interval 50ms",
        &["invalid value '50ms'", "from 100ms to 60s"],
    ),
    ("top --interval 61", &["from 100ms to 60s"]),
    (
        "top --interval often",
        &[
            "invalid value 'often' for '--interval <DURATION>'",
            "does not start with a number",
        ],
    ),
    ("top -n 0", &["invalid value '0' for '--count <N>'"]),
    ("top --once -n 3", &["cannot be used with"]),
    (
        "top --view latencies",
        &["invalid value 'latencies' for '--view <VIEW>'"],
    ),
    (
        "top -b --sort speed",
        &[
            "--sort speed: this view has no such column",
            "read_iops",
            "temperature_celsius",
        ],
    ),
    (
        "top -b --view queues --sort read_iops",
        &["this view has no such column", "polls_empty_percent"],
    ),
    (
        "top -b --load randread",
        &[
            "--load makes an embedded driver work, and there is none",
            "--emulate",
        ],
    ),
    (
        "top -b --emulate=size=1MiB --load trim",
        &["invalid value 'trim' for '--load <LOAD>'", "randread:qd=8,bs=4k"],
    ),
    (
        "top -b --emulate=size=1MiB --load randread:bs=512",
        &["--bs", "512"],
    ),
    (
        "top -d 1p1 -b",
        &["1p1 is a partition, and top does not work on one"],
    ),
    // bind and unbind.
    ("bind", &["<ADDRESS>"]),
    (
        "bind nvme0",
        &["\"nvme0\" is not the address of a PCI function", "0000:01:00.0"],
    ),
    ("unbind 01:00.8", &["\"01:00.8\""]),
    ("bind 01:00.0 -o hex", &["bind cannot be printed as hex"]),
    (
        "unbind 01:00.0 -d nvme:1",
        &["unbind is about a function of PCI", "without --emulate"],
    ),
    ("bind 01:00.0 --emulate", &["bind is about a function of PCI"]),
    // bench: patterns.
    ("bench --read --write", &["cannot be used with"]),
    ("bench --randread --rw randread", &["cannot be used with"]),
    (
        "bench --rw trim",
        &[
            "invalid value 'trim' for '--rw <PATTERN>'",
            "read, write, randread, randwrite, rw, randrw",
        ],
    ),
    ("bench --rw", &["a value is required for '--rw <PATTERN>'"]),
    (
        "bench --mix 101",
        &["invalid value '101' for '--mix <PERCENT>'", "0..=100"],
    ),
    (
        "bench --mix 70/30",
        &["invalid value '70/30' for '--mix <PERCENT>'"],
    ),
    (
        "bench --rwmixread=-1",
        &["invalid value '-1' for '--mix <PERCENT>'"],
    ),
    (
        "bench --read --mix 70",
        &["--mix does not go with the pattern read", "--rw randrw"],
    ),
    // bench: load.
    ("bench --bs", &["a value is required for '--bs <SIZE>'"]),
    (
        "bench --bs 4x",
        &[
            "invalid value '4x' for '--bs <SIZE>'",
            "unknown unit \"x\"",
            "KiB, MiB, GiB, TiB",
        ],
    ),
    (
        "bench --bs big",
        &[
            "invalid value 'big' for '--bs <SIZE>'",
            "does not start with a number",
        ],
    ),
    ("bench --bs 4kib", &["unknown unit \"kib\""]),
    ("bench --bs=-4k", &["invalid value '-4k' for '--bs <SIZE>'"]),
    ("bench --bs 0.3k", &["no whole number of bytes"]),
    ("bench --bs 0", &["error: --bs is 0", "multiple of 512"]),
    ("bench --bs 1000", &["error: --bs is 1000", "multiple of 512"]),
    (
        "bench --bs 128m",
        &["error: --bs is 134217728", "from 512 to 67108864"],
    ),
    (
        "bench --bs 4t",
        &["--bs 4398046511104 is too large", "at most 67108864 bytes"],
    ),
    ("bench --bs 99999999t", &["too large; the largest is 16 EiB"]),
    ("bench --qd 0", &["invalid value '0' for '--qd <N>'", "1..=65535"]),
    ("bench --qd0", &["invalid value '0' for '--qd <N>'"]),
    ("bench --qd many", &["invalid value 'many' for '--qd <N>'"]),
    ("bench --qd32x", &["invalid value '32x' for '--qd <N>'"]),
    ("bench --qdx", &["unexpected argument '--qdx'"]),
    ("bench --iodepth=-1", &["invalid value '-1' for '--qd <N>'"]),
    (
        "bench --qd 65536",
        &[
            "invalid value '65536' for '--qd <N>'",
            "65536 is not in 1..=65535",
        ],
    ),
    ("bench --jobs 0", &["invalid value '0' for '--jobs <N>'"]),
    (
        "bench --numjobs 65536",
        &[
            "invalid value '65536' for '--jobs <N>'",
            "65536 is not in 1..=65535",
        ],
    ),
    (
        "bench --time soon",
        &[
            "invalid value 'soon' for '--time <DURATION>'",
            "does not start with a number",
        ],
    ),
    (
        "bench --runtime 10x",
        &["unknown unit \"x\"", "ns, us, ms, s, m or h"],
    ),
    ("bench --time 0", &["error: --time is 0"]),
    ("bench --time 0.1ns", &["no whole number of nanoseconds"]),
    (
        "bench --time 9999999999h",
        &["too large; the largest is 584 years"],
    ),
    (
        "bench --time 5000000h --warmup 5000000h",
        &["error: --warmup and --time add up to more than"],
    ),
    ("bench --ios 0", &["invalid value '0' for '--ios <N>'"]),
    ("bench --number-ios 1e6", &["invalid value '1e6' for '--ios <N>'"]),
    (
        "bench --warmup never",
        &["invalid value 'never' for '--warmup <DURATION>'"],
    ),
    ("bench --offset 1", &["error: --offset is 1", "multiple of 512"]),
    ("bench --offset x", &["invalid value 'x' for '--offset <SIZE>'"]),
    ("bench --size 1", &["error: --size is 1", "multiple of 512"]),
    ("bench --size 50%", &["unknown unit \"%\""]),
    (
        "bench --size 4k --bs 8k",
        &["error: --size is 4096", "no room for one request of 8192 bytes"],
    ),
    (
        "bench --offset 16000000t --size 16000000t",
        &["error: --offset and --size add up to more than"],
    ),
    ("bench --random-seed -1", &["unexpected argument '-1'"]),
    (
        "bench --randseed x",
        &["invalid value 'x' for '--random-seed <N>'"],
    ),
    (
        "bench --random-seed 18446744073709551616",
        &["invalid value '18446744073709551616'"],
    ),
    // bench: the rest.
    (
        "bench --ns 2 -d 1",
        &["--device 1 and --ns name different devices"],
    ),
    ("bench --yes-destroy=S1", &["required", "--destructive"]),
    ("bench --write --over-existing", &["required", "--destructive"]),
    (
        "bench --write --destructive --yes-destroy=",
        &["--yes-destroy is empty: give the device's serial number, or leave the option out"],
    ),
    (
        "bench --fio-json=yes",
        &["unexpected value 'yes' for '--fio-json'"],
    ),
];

#[test]
fn bad_arguments_are_refused_with_what_is_accepted() {
    for (line, words) in USAGE {
        refused(|| nvmectl(line), line, 2, words);
    }
}

#[test]
fn a_format_that_a_command_does_not_have_is_refused() {
    for command in ["list", "stats", "bench"] {
        for format in ["raw", "hex"] {
            let line = format!("--emulate=size=1MiB {command} -o {format}");
            let words = format!("{command} cannot be printed as {format}");
            refused(
                || nvmectl(&line),
                &line,
                2,
                &[&words, "--output takes table, json here"],
            );
        }
    }
}

#[test]
fn without_a_driver_it_says_what_to_do() {
    for command in [
        "list",
        "identify",
        "id-ns",
        "smart",
        "error-log",
        "stats",
        "stats --watch",
        "bench",
        "top -b",
        "top -o jsonl",
    ] {
        let words = [
            "no driver is running: /nonexistent: ",
            "start nvme-driver",
            "--root or NVME_ROOT",
            "add --emulate",
        ];
        refused(|| nvmectl(command), command, 4, &words);
    }
    refused(
        || nvmectl("list --root /nowhere"),
        "--root",
        4,
        &["no driver is running: /nowhere: "],
    );
    refused(
        || nvmectl("list --root /dev/null"),
        "a file",
        4,
        &["no driver is running: /dev/null: "],
    );
    refused(
        || nvmectl("list --root /dev"),
        "no tree",
        4,
        &["/dev: it has no entry \"controller\""],
    );
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, words) in [
        ("--help", "--emulate[=<SPEC>]"),
        ("-h", "Exit codes: 0 ok, 1 device error, 2 usage"),
        ("bench --help", "nvmectl --emulate bench --randread --qd32"),
        ("top --help", "space pause, + - interval"),
        ("--version", concat!("nvmectl ", env!("CARGO_PKG_VERSION"))),
    ] {
        let ran = run(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}");
        assert!(ran.stdout.contains(words), "{line}: {}", ran.stdout);
    }
}

/// No machine has as many buses in its last domain.
#[test]
fn a_function_that_is_not_there_is_not_found() {
    for line in ["bind ffffffff:ff:1f.7", "unbind ffffffff:ff:1f.7 --dry-run"] {
        let words = ["there is no PCI function ffffffff:ff:1f.7", "NVMe controllers"];
        refused(|| nvmectl(line), line, 4, &words);
    }
}
