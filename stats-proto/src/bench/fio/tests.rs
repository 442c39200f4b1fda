use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::to_fio_json;
use crate::bench::{BenchJob, BenchJobResult, Depth, Pattern, Side};
use crate::sample;

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The members that fio 3 prints for a side, apart from those that only some versions have.
const SIDE: [&str; 23] = [
    "io_bytes",
    "io_kbytes",
    "bw_bytes",
    "bw",
    "iops",
    "runtime",
    "total_ios",
    "short_ios",
    "drop_ios",
    "slat_ns",
    "clat_ns",
    "lat_ns",
    "bw_min",
    "bw_max",
    "bw_agg",
    "bw_mean",
    "bw_dev",
    "bw_samples",
    "iops_min",
    "iops_max",
    "iops_mean",
    "iops_stddev",
    "iops_samples",
];

#[test]
fn one_element_per_job_with_the_members_of_fio() {
    let result = sample::bench_result();
    let json = to_fio_json(&result);
    assert!(json["fio version"].as_str().unwrap().starts_with("fio-3"));
    let jobs = json["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 2);
    for job in jobs {
        for side in ["read", "write", "trim"] {
            assert_eq!(keys(&job[side]), BTreeSet::from(SIDE), "{side}");
        }
        let members = keys(job);
        for member in [
            "jobname",
            "groupid",
            "error",
            "elapsed",
            "job options",
            "sync",
            "job_runtime",
            "iodepth_level",
        ] {
            assert!(members.contains(member), "{member}");
        }
        assert_eq!(
            keys(&job["iodepth_level"]),
            BTreeSet::from(["1", "2", "4", "8", "16", "32", ">=64"])
        );
    }
    assert_eq!(
        (&jobs[0]["jobname"], &jobs[1]["jobname"]),
        (&json!("randrw-0"), &json!("randrw-1"))
    );
    assert_eq!(
        (&jobs[0]["error"], &jobs[1]["error"], &jobs[1]["total_err"]),
        (&json!(0), &json!(5), &json!(1))
    );
}

#[test]
fn a_side_has_its_counts_and_rates_in_the_units_of_fio() {
    let mut result = sample::bench_result();
    // 1000 reads of 4 KiB in half a second.
    result.jobs[0].elapsed_ns = 500_000_000;
    result.jobs[0].read = sample::side(&[80_000; 1000], 500_000_000);
    let read = &to_fio_json(&result)["jobs"][0]["read"];
    let expected = json!({
        "io_bytes": 4_096_000, "io_kbytes": 4000, "bw_bytes": 8_192_000, "bw": 8000, "bw_mean": 8000.0,
        "iops": 2000.0, "iops_mean": 2000.0, "runtime": 500, "total_ios": 1000,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&read[key], value, "{key}");
    }
}

#[test]
fn latencies_are_host_device_and_total_with_all_their_percentiles() {
    let result = sample::bench_result();
    let json = to_fio_json(&result);
    let (read, side) = (&json["jobs"][0]["read"], &result.jobs[0].read);
    let pairs = [
        (&read["slat_ns"], &side.latency_host),
        (&read["clat_ns"], &side.latency_device),
        (&read["lat_ns"], &side.latency_total),
    ];
    for (json, latency) in pairs {
        assert_eq!(
            keys(json),
            BTreeSet::from(["min", "max", "mean", "stddev", "N", "percentile"])
        );
        assert_eq!(
            (json["min"].as_u64(), json["max"].as_u64()),
            (latency.min_ns, latency.max_ns)
        );
        assert_eq!(
            (json["mean"].as_f64(), json["stddev"].as_f64()),
            (latency.mean_ns, latency.stddev_ns)
        );
        assert_eq!(json["N"], 4);
        let percentiles = json["percentile"].as_object().unwrap();
        assert_eq!(percentiles.len(), latency.percentiles_ns.len());
        for (ours, fio) in [
            ("1.00", "1.000000"),
            ("50.00", "50.000000"),
            ("99.00", "99.000000"),
            ("99.99", "99.990000"),
        ] {
            assert_eq!(percentiles[fio], latency.percentiles_ns[ours], "{fio}");
        }
    }
    assert_eq!(
        (&read["clat_ns"]["min"], &read["lat_ns"]["min"]),
        (&json!(80_000), &json!(81_000))
    );
}

#[test]
fn a_side_that_did_nothing_is_zeros_without_percentiles() {
    let json = to_fio_json(&sample::bench_result());
    let write = &json["jobs"][1]["write"];
    assert_eq!(
        write["clat_ns"],
        json!({ "min": 0, "max": 0, "mean": 0.0, "stddev": 0.0, "N": 0 })
    );
    for key in ["io_bytes", "bw", "bw_bytes", "runtime", "total_ios", "bw_samples"] {
        assert_eq!(write[key], 0, "{key}");
    }
    assert_eq!(write, &json["jobs"][0]["trim"]);
}

#[test]
fn shares_of_latency_are_by_unit_and_add_up_to_all() {
    let json = to_fio_json(&sample::bench_result());
    // Device latencies of 80, 81, 82, 3000 us (reads) and 20, 21 us (writes).
    let job = &json["jobs"][0];
    let near = |value: &Value, sixths: f64| (value.as_f64().unwrap() - sixths * 100.0 / 6.0).abs() < 1e-9;
    assert!(near(&job["latency_us"]["100"], 3.0), "{}", job["latency_us"]);
    assert!(near(&job["latency_ms"]["4"], 1.0), "{}", job["latency_ms"]);
    // 20,000 ns lies in a bucket from 19,968 ns, hence below fio's bound of 20 us; 21,000 ns above.
    assert!(
        near(&job["latency_us"]["20"], 1.0) && near(&job["latency_us"]["50"], 1.0),
        "{}",
        job["latency_us"]
    );
    // 90 us, and 500 ns, which is not below 500 ns.
    let second = &json["jobs"][1];
    assert_eq!(
        (&second["latency_ns"]["750"], &second["latency_us"]["100"]),
        (&json!(50.0), &json!(50.0))
    );
    for job in json["jobs"].as_array().unwrap() {
        let units = ["latency_ns", "latency_us", "latency_ms"].map(|unit| job[unit].as_object().unwrap());
        assert_eq!(units.map(|unit| unit.len()), [10, 10, 12]);
        let sum: f64 = units
            .iter()
            .flat_map(|unit| unit.values())
            .filter_map(Value::as_f64)
            .sum();
        assert!((sum - 100.0).abs() < 1e-9, "{sum}");
        assert!(!job.to_string().contains("-0.0"));
    }
}

#[test]
fn latencies_of_seconds_have_their_shares() {
    let mut result = sample::bench_result();
    result.jobs[0].read = sample::side(&[1_500_000_000, 10_000_000_000, u64::MAX / 2, 999], 1);
    result.jobs[0].write = Side::empty();
    let json = to_fio_json(&result);
    let job = &json["jobs"][0];
    assert_eq!(
        (&job["latency_ms"]["2000"], &job["latency_ms"][">=2000"]),
        (&json!(25.0), &json!(50.0))
    );
    assert_eq!(job["latency_ns"]["1000"], json!(25.0));
}

#[test]
fn the_depth_level_is_that_of_the_mean_achieved() {
    let level = |mean: f64| {
        let mut result = sample::bench_result();
        let depth = Depth {
            asked: 128,
            mean,
            max: 128,
            device_mean: mean,
        };
        result.jobs = vec![BenchJobResult {
            depth,
            ..result.jobs[0].clone()
        }];
        let job = to_fio_json(&result)["jobs"][0].clone();
        assert_eq!(job["achieved_depth"]["mean"], json!(mean));
        let levels = job["iodepth_level"].as_object().unwrap().clone();
        levels
            .into_iter()
            .filter(|(_, share)| *share == json!(100.0))
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let cases = [
        (0.2, "1"),
        (1.0, "1"),
        (2.4, "2"),
        (15.2, "8"),
        (31.6, "32"),
        (63.4, "32"),
        (64.0, ">=64"),
        (1e6, ">=64"),
    ];
    for (mean, name) in cases {
        assert_eq!(level(mean), [name], "{mean}");
    }
    assert_eq!(level(0.0), Vec::<String>::new());
}

#[test]
fn job_options_are_those_with_which_fio_would_do_the_same() {
    let json = to_fio_json(&sample::bench_result());
    let expected = json!({
        "rw": "randrw", "bs": "4096", "iodepth": "32", "numjobs": "2", "offset": "0", "randseed": "1", "rwmixread": "70",
        "size": "1073741824", "runtime": "2s", "time_based": "1", "ramp_time": "1500us",
    });
    assert_eq!(json["jobs"][0]["job options"], expected);
    let mut result = sample::bench_result();
    result.job = BenchJob {
        pattern: Pattern::Read,
        time_ns: None,
        ios: Some(9),
        ..BenchJob::default()
    };
    let expected = json!({
        "rw": "read", "bs": "4096", "iodepth": "1", "numjobs": "1", "offset": "0", "randseed": "1", "number_ios": "9",
    });
    assert_eq!(to_fio_json(&result)["jobs"][0]["job options"], expected);
}

#[test]
fn extreme_figures_are_still_numbers() {
    let mut result = sample::bench_result();
    result.jobs[0].read.iops = f64::NAN;
    result.jobs[0].read.bytes_per_s = f64::INFINITY;
    result.jobs[0].read.bytes = u64::MAX;
    result.jobs[0].read.errors = u64::MAX;
    result.jobs[0].write.errors = u64::MAX;
    result.jobs[0].elapsed_ns = u64::MAX;
    result.jobs[0].depth.mean = f64::NAN;
    let json = to_fio_json(&result);
    assert_eq!(json["jobs"][0]["read"]["bw_bytes"], json!(u64::MAX));
}
