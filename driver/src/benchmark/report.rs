//! A result as text.

use std::fmt::{self, Write};

use stats_proto::bench::{BenchResult, LatencySummary, Side};

/// Shows a result as a small table, ending in a line feed: what `nvme-driver` prints. `nvmectl bench` prints
/// more.
pub struct Report<'a>(pub &'a BenchResult);

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(BenchResult {
            job, device, total, ..
        }) = self;
        writeln!(
            f,
            "{} {} ({}), namespace {}",
            device.backend, device.model, device.serial, device.nsid
        )?;
        let jobs = if job.jobs == 1 {
            String::new()
        } else {
            format!(", {} jobs", job.jobs)
        };
        let (pattern, block_bytes, depth) = (job.pattern.fio_name(), job.block_bytes, job.queue_depth);
        let elapsed_s = total.elapsed_ns as f64 / 1e9;
        writeln!(
            f,
            "{pattern}, {block_bytes} bytes, queue depth {depth}{jobs}, {elapsed_s:.1} s"
        )?;
        for (name, side) in [("read", &total.read), ("write", &total.write)] {
            if side.ios > 0 {
                write_side(f, name, side)?;
            }
        }
        let depth = &total.depth;
        writeln!(
            f,
            "depth: asked {}, mean {:.1}, max {}, at the device {:.1}",
            depth.asked, depth.mean, depth.max, depth.device_mean
        )?;
        writeln!(f, "service latency, closed loop, QD={}", depth.asked)
    }
}

fn write_side(f: &mut fmt::Formatter<'_>, name: &str, side: &Side) -> fmt::Result {
    writeln!(
        f,
        "{name}: IOPS={}, BW={}B/s",
        scaled(side.iops),
        scaled(side.bytes_per_s)
    )?;
    let rows = [
        ("total", &side.latency_total),
        ("device", &side.latency_device),
        ("host", &side.latency_host),
    ];
    let columns = [
        "latency", "min", "mean", "stddev", "p50", "p90", "p99", "p99.9", "p99.99", "max",
    ];
    writeln!(
        f,
        "{}",
        columns
            .iter()
            .enumerate()
            .fold(String::new(), |line, (at, name)| cell(line, at, name))
    )?;
    for (name, latency) in rows {
        let cells = std::iter::once(name.to_owned()).chain(row(latency));
        writeln!(
            f,
            "{}",
            cells
                .enumerate()
                .fold(String::new(), |line, (at, text)| cell(line, at, &text))
        )?;
    }
    for (status, count) in &side.errors_by_status {
        writeln!(f, "  {count} failed: {status}")?;
    }
    Ok(())
}

fn row(latency: &LatencySummary) -> impl Iterator<Item = String> {
    let percentile = |key: &str| {
        latency
            .percentiles_ns
            .get(key)
            .map(|latency_ns| *latency_ns as f64)
    };
    let whole = |latency_ns: Option<u64>| latency_ns.map(|latency_ns| latency_ns as f64);
    [
        whole(latency.min_ns),
        latency.mean_ns,
        latency.stddev_ns,
        percentile("50.00"),
        percentile("90.00"),
        percentile("99.00"),
        percentile("99.90"),
        percentile("99.99"),
        whole(latency.max_ns),
    ]
    .into_iter()
    .map(|latency_ns| latency_ns.map_or_else(|| "-".to_owned(), duration))
}

/// The first column to the left, the others to the right.
fn cell(mut line: String, at: usize, text: &str) -> String {
    // Writing to a string does not fail.
    let _ = if at == 0 {
        write!(line, "  {text:<8}")
    } else {
        write!(line, " {text:>9}")
    };
    line
}

fn duration(latency_ns: f64) -> String {
    match latency_ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
}

/// Three digits or so, with k, M or G for powers of a thousand.
fn scaled(value: f64) -> String {
    match value {
        value if value < 1e3 => format!("{value:.0}"),
        value if value < 1e6 => format!("{:.1}k", value / 1e3),
        value if value < 1e9 => format!("{:.2}M", value / 1e6),
        value => format!("{:.2}G", value / 1e9),
    }
}
