//! A result in the shape that fio prints, for everything that reads fio's output.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use super::{BenchJob, BenchJobResult, BenchResult, Depth, LatencySummary, Side};
use crate::hist::{Histogram, lowest_value};

/// The errno that fio puts in `error` of a job that met errors: EIO, the same number everywhere.
const EIO: i32 = 5;

/// The result in the shape of fio 3's `--output-format=json`, one element of `jobs` per job.
///
/// What maps to what, and where it differs from fio:
/// - `lat_ns` is the total latency (handing in to answer), `slat_ns` the host latency (handing in to
///   doorbell), `clat_ns` the device latency (doorbell to completion). All three have their percentiles.
/// - `latency_ns`, `latency_us` and `latency_ms` are shares of the device latencies of reads and writes. A
///   bucket of the histogram counts where its lowest value lies, an error of at most 0.79% in latency.
/// - `iodepth_level` has 100% at the level of the *mean* depth that was achieved: the driver measures the
///   depth's time integral, not its distribution. The exact figures are in `achieved_depth`, a member that
///   fio does not have.
/// - `bw_*` and `iops_*` have one sample, the whole run.
/// - What is not measured (`usr_cpu`, `sys_cpu`, `ctx`, `iodepth_submit`, `disk_util`, the time of day) is
///   left out, not set to 0.
#[must_use]
pub fn to_fio_json(result: &BenchResult) -> Value {
    let options = job_options(&result.job);
    json!({
        // Readers look for "fio-3" to choose a parser.
        "fio version": format!("fio-3.0 (the shape; measured by nvme-bench-result {})", result.version),
        "global options": {},
        "jobs": result.jobs.iter().map(|job| job_json(result, job, &options)).collect::<Vec<_>>(),
    })
}

fn job_json(result: &BenchResult, job: &BenchJobResult, options: &Map<String, Value>) -> Value {
    let errors = job.read.errors.saturating_add(job.write.errors);
    let mut members = object(json!({
        "jobname": format!("{}-{}", result.job.pattern.fio_name(), job.job.unwrap_or(0)),
        "groupid": 0,
        "error": if errors == 0 { 0 } else { EIO },
        "total_err": errors,
        "eta": 0,
        "elapsed": job.elapsed_ns.div_ceil(1_000_000_000),
        "job options": options,
        "read": side_json(&job.read, job.elapsed_ns),
        "write": side_json(&job.write, job.elapsed_ns),
        "trim": side_json(&Side::empty(), job.elapsed_ns),
        "sync": { "total_ios": 0, "lat_ns": latency_json(&LatencySummary::empty()) },
        "job_runtime": job.elapsed_ns / 1_000_000,
        "iodepth_level": depth_levels(&job.depth),
        "latency_depth": job.depth.asked,
        "achieved_depth": {
            "asked": job.depth.asked,
            "mean": job.depth.mean,
            "max": job.depth.max,
            "device_mean": job.depth.device_mean,
        },
    }));
    members.extend(latency_shares([
        &job.read.latency_device.histogram,
        &job.write.latency_device.histogram,
    ]));
    Value::Object(members)
}

fn side_json(side: &Side, elapsed_ns: u64) -> Value {
    let bytes_per_s = side.bytes_per_s.round() as u64;
    let kib_per_s = side.bytes_per_s / 1024.0;
    let samples = u8::from(side.ios > 0);
    json!({
        "io_bytes": side.bytes,
        "io_kbytes": side.bytes / 1024,
        "bw_bytes": bytes_per_s,
        "bw": bytes_per_s / 1024,
        "iops": side.iops,
        "runtime": if side.ios == 0 { 0 } else { elapsed_ns / 1_000_000 },
        "total_ios": side.ios,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": latency_json(&side.latency_host),
        "clat_ns": latency_json(&side.latency_device),
        "lat_ns": latency_json(&side.latency_total),
        "bw_min": bytes_per_s / 1024,
        "bw_max": bytes_per_s / 1024,
        "bw_agg": if side.bytes == 0 { 0.0 } else { 100.0 },
        "bw_mean": kib_per_s,
        "bw_dev": 0.0,
        "bw_samples": samples,
        "iops_min": side.iops.round() as u64,
        "iops_max": side.iops.round() as u64,
        "iops_mean": side.iops,
        "iops_stddev": 0.0,
        "iops_samples": samples,
    })
}

/// fio prints zeros, and no percentiles, for a distribution of nothing.
fn latency_json(latency: &LatencySummary) -> Value {
    let mut members = object(json!({
        "min": latency.min_ns.unwrap_or(0),
        "max": latency.max_ns.unwrap_or(0),
        "mean": latency.mean_ns.unwrap_or(0.0),
        "stddev": latency.stddev_ns.unwrap_or(0.0),
        "N": latency.histogram.count(),
    }));
    if !latency.percentiles_ns.is_empty() {
        // fio's keys have six decimals, ours two.
        let percentiles = latency
            .percentiles_ns
            .iter()
            .map(|(key, value)| (format!("{key}0000"), json!(value)));
        members.insert("percentile".to_owned(), Value::Object(percentiles.collect()));
    }
    Value::Object(members)
}

/// The options with which fio would do the same. fio keeps them as strings.
fn job_options(job: &BenchJob) -> Map<String, Value> {
    let mut options = vec![
        ("rw", job.pattern.fio_name().to_owned()),
        ("bs", job.block_bytes.to_string()),
        ("iodepth", job.queue_depth.to_string()),
        ("numjobs", job.jobs.to_string()),
        ("offset", job.offset_bytes.to_string()),
        ("randseed", job.random_seed.to_string()),
    ];
    if job.pattern.is_mix() {
        options.push(("rwmixread", job.read_percent.to_string()));
    }
    if let Some(size_bytes) = job.size_bytes {
        options.push(("size", size_bytes.to_string()));
    }
    if let Some(time_ns) = job.time_ns {
        options.push(("runtime", fio_time(time_ns)));
        options.push(("time_based", "1".to_owned()));
    }
    if let Some(ios) = job.ios {
        options.push(("number_ios", ios.to_string()));
    }
    if job.warmup_ns > 0 {
        options.push(("ramp_time", fio_time(job.warmup_ns)));
    }
    options
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect()
}

/// fio's finest unit of time is the microsecond.
fn fio_time(time_ns: u64) -> String {
    if time_ns.is_multiple_of(1_000_000_000) {
        format!("{}s", time_ns / 1_000_000_000)
    } else {
        format!("{}us", time_ns.div_ceil(1000))
    }
}

fn depth_levels(depth: &Depth) -> Value {
    const LEVELS: [(&str, u64); 7] = [
        ("1", 1),
        ("2", 2),
        ("4", 4),
        ("8", 8),
        ("16", 16),
        ("32", 32),
        (">=64", 64),
    ];
    let mean = (depth.mean.round() as u64).max(1);
    let reached = LEVELS.iter().rposition(|&(_, lowest)| lowest <= mean);
    let ran = depth.mean > 0.0;
    let share = |level: usize| if ran && reached == Some(level) { 100.0 } else { 0.0 };
    LEVELS
        .iter()
        .enumerate()
        .map(|(level, &(name, _))| (name.to_owned(), json!(share(level))))
        .collect()
}

/// The share of latencies below each of fio's bounds and not below the one before, in percent: three objects,
/// by unit.
fn latency_shares(histograms: [&Histogram; 2]) -> Map<String, Value> {
    const NAMES: [&str; 10] = ["2", "4", "10", "20", "50", "100", "250", "500", "750", "1000"];
    const BOUNDS: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1000];
    let total = histograms
        .iter()
        .map(|histogram| u128::from(histogram.count()))
        .sum::<u128>();
    let share = |from_ns: u64, below_ns: u64| {
        let buckets = histograms.iter().flat_map(|histogram| histogram.buckets());
        let inside =
            buckets.filter(|&&(index, _)| (from_ns..below_ns).contains(&lowest_value(index as usize)));
        let count = inside.map(|&(_, count)| u128::from(count)).sum::<u128>();
        json!(if total > 0 {
            count as f64 * 100.0 / total as f64
        } else {
            0.0
        })
    };
    let mut units = Map::new();
    let mut from_ns = 0;
    for (name, unit_ns) in [("latency_ns", 1), ("latency_us", 1000), ("latency_ms", 1_000_000)] {
        let mut shares = Map::new();
        for (bound_name, bound) in NAMES.into_iter().zip(BOUNDS) {
            // The first bound of a unit lies above the last of the unit before: 1000 ns is 1 us, below 2 us.
            shares.insert(bound_name.to_owned(), share(from_ns, bound * unit_ns));
            from_ns = bound * unit_ns;
        }
        units.insert(name.to_owned(), Value::Object(shares));
    }
    const SECONDS_2_NS: u64 = 2_000_000_000;
    if let Some(Value::Object(milliseconds)) = units.get_mut("latency_ms") {
        milliseconds.insert("2000".to_owned(), share(from_ns, SECONDS_2_NS));
        milliseconds.insert(">=2000".to_owned(), share(SECONDS_2_NS, u64::MAX));
    }
    units
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
