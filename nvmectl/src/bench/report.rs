//! A benchmark's result in the shape that fio's users know, with what fio leaves unsaid.
//!
//! The three latencies bear the driver's names: *host* is from handing a request in to the doorbell, *device* from the
//! doorbell to the completion, *total* from handing in to the answer.

use stats_proto::bench::{BenchJob, BenchJobResult, BenchResult, LatencySummary, Side};

use crate::stats::is_backed;
use crate::style::{Align, Style, Tone};

/// Percentiles in one line of the table, where the terminal is wide enough.
const PERCENTILES_IN_A_LINE: usize = 6;

/// The text of `result`, of a device behind `scheme`.
pub fn text(result: &BenchResult, scheme: &str, style: &Style) -> String {
    let mut out = head(result, scheme, style);
    let total = &result.total;
    for (name, side) in [("read", &total.read), ("write", &total.write)] {
        if side.ios > 0 || asked(&result.job, name) {
            out.push_str(&side_text(name, side, total, &result.job, style));
        }
    }
    let depth = &total.depth;
    out.push_str(&format!(
        "  queue depth: {} asked, {:.1} achieved (mean), {} most; {:.1} at the device (mean)\n",
        depth.asked, depth.mean, depth.max, depth.device_mean
    ));
    out.push_str(&errors(total, style));
    if result.jobs.len() > 1 {
        out.push_str(&jobs(&result.jobs, style));
    }
    out
}

fn asked(job: &BenchJob, side: &str) -> bool {
    if side == "read" { job.reads() } else { job.writes() }
}

fn head(result: &BenchResult, scheme: &str, style: &Style) -> String {
    let (job, device, units) = (&result.job, &result.device, style.units);
    let mut facts = vec![format!("bs={}", units.bytes(u128::from(job.block_bytes)))];
    if job.pattern.is_mix() {
        facts.push(format!(
            "mix={}/{}",
            job.read_percent,
            100u8.saturating_sub(job.read_percent)
        ));
    }
    facts.push(format!("qd={}", job.queue_depth));
    facts.push(format!("jobs={}", job.jobs));
    if let Some(time_ns) = job.time_ns {
        facts.push(format!("time={}", units.duration(time_ns as f64)));
    }
    if let Some(ios) = job.ios {
        facts.push(format!("ios={ios}"));
    }
    if job.offset_bytes > 0 {
        facts.push(format!("offset={}", units.bytes(u128::from(job.offset_bytes))));
    }
    if let Some(size_bytes) = job.size_bytes {
        facts.push(format!("size={}", units.bytes(u128::from(size_bytes))));
    }
    facts.push(format!("seed={}", job.random_seed));
    format!(
        "{}: {scheme}:{} ({}, {}, {})\n  {}\n",
        style.paint(Tone::Heading, job.pattern.fio_name()),
        device.nsid,
        device.model,
        device.serial,
        device.backend,
        facts.join(", ")
    )
}

fn side_text(name: &str, side: &Side, total: &BenchJobResult, job: &BenchJob, style: &Style) -> String {
    let units = style.units;
    let mut out = format!(
        "  {}: IOPS={}, BW={} ({} in {}, {} requests)\n",
        style.paint(Tone::Heading, name),
        units.count(successful_per_s(side)),
        units.bytes_per_s(side.bytes_per_s),
        units.bytes(u128::from(side.bytes)),
        units.duration(total.elapsed_ns as f64),
        side.ios.saturating_sub(side.errors),
    );
    if side.latency_total.histogram.is_empty() {
        return out;
    }
    let mut table = style.table(&[
        ("latency", Align::Left),
        ("min", Align::Right),
        ("avg", Align::Right),
        ("max", Align::Right),
        ("stddev", Align::Right),
    ]);
    for (name, latency) in [
        ("host", &side.latency_host),
        ("device", &side.latency_device),
        ("total", &side.latency_total),
    ] {
        let ns = |ns: Option<f64>| ns.map_or_else(|| "-".to_owned(), |ns| units.duration(ns));
        table.row([
            name.to_owned(),
            ns(latency.min_ns.map(|ns| ns as f64)),
            ns(latency.mean_ns),
            ns(latency.max_ns.map(|ns| ns as f64)),
            ns(latency.stddev_ns),
        ]);
    }
    out.push_str(&table.lines(4));
    out.push_str(&format!(
        "    total is service latency, closed loop, QD={}; ",
        job.queue_depth
    ));
    out.push_str(&match percentiles(&side.latency_total, style) {
        Some(percentiles) => format!("its percentiles:\n{percentiles}"),
        None => "too few requests for percentiles\n".to_owned(),
    });
    out
}

/// Successful requests per second. The driver's own rate is of all that were answered, and those that fail may be fast.
fn successful_per_s(side: &Side) -> f64 {
    if side.ios == 0 {
        return 0.0;
    }
    side.iops * (side.ios.saturating_sub(side.errors) as f64 / side.ios as f64)
}

/// `1.00=18.2us   5.00=19.1us ...` in aligned columns; only those that enough requests stand behind, None if none is.
fn percentiles(latency: &LatencySummary, style: &Style) -> Option<String> {
    const INDENT: usize = 3;
    let count = latency.histogram.count();
    let mut all: Vec<(f64, &str, u64)> = latency
        .percentiles_ns
        .iter()
        .filter_map(|(name, ns)| Some((name.parse().ok()?, name.as_str(), *ns)))
        .filter(|(percent, ..)| is_backed(percent / 100.0, count))
        .collect();
    all.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let cells: Vec<String> = all
        .iter()
        .map(|(_, name, ns)| format!("{name:>5}={}", style.units.duration(*ns as f64)))
        .collect();
    // One blank between them, so that a line of six fits on 80 columns.
    let longest = cells.iter().map(String::len).max()? + 1;
    let fit = |width: u16| (usize::from(width) + 1).saturating_sub(INDENT) / longest;
    let in_a_line = style.width.map_or(PERCENTILES_IN_A_LINE, fit);
    let mut table = style.columns();
    for line in cells.chunks(in_a_line.clamp(1, PERCENTILES_IN_A_LINE)) {
        table.row(line);
    }
    Some(table.lines_apart(INDENT, 1))
}

fn errors(total: &BenchJobResult, style: &Style) -> String {
    let count = total.read.errors.saturating_add(total.write.errors);
    if count == 0 {
        return "  errors: none\n".to_owned();
    }
    let rate = count as f64 * 1e9 / total.elapsed_ns.max(1) as f64;
    let text = format!("errors: {count} ({}/s)", style.units.count(rate));
    let mut out = format!("  {}\n", style.paint(Tone::Bad, &text));
    for (name, side) in [("read", &total.read), ("write", &total.write)] {
        for (status, count) in &side.errors_by_status {
            out.push_str(&format!("    {name}: {count} {status}\n"));
        }
    }
    out
}

fn jobs(jobs: &[BenchJobResult], style: &Style) -> String {
    let mut table = style.table(&[
        ("JOB", Align::Right),
        ("QUEUE", Align::Right),
        ("READ/S", Align::Right),
        ("WRITE/S", Align::Right),
        ("BW", Align::Right),
        ("R P50", Align::Right),
        ("R P99", Align::Right),
        ("W P50", Align::Right),
        ("W P99", Align::Right),
        ("QD", Align::Right),
        ("ERRORS", Align::Right),
    ]);
    let units = style.units;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for job in jobs {
        let percentile = |side: &Side, name: &str, q: f64| {
            or_dash(
                side.latency_total
                    .percentiles_ns
                    .get(name)
                    .filter(|_| is_backed(q, side.latency_total.histogram.count()))
                    .map(|ns| units.duration(*ns as f64)),
            )
        };
        table.row([
            or_dash(job.job.map(|job| job.to_string())),
            or_dash(job.qid.map(|qid| qid.to_string())),
            units.count(successful_per_s(&job.read)),
            units.count(successful_per_s(&job.write)),
            units.bytes_per_s(job.read.bytes_per_s + job.write.bytes_per_s),
            percentile(&job.read, "50.00", 0.5),
            percentile(&job.read, "99.00", 0.99),
            percentile(&job.write, "50.00", 0.5),
            percentile(&job.write, "99.00", 0.99),
            format!("{:.1}", job.depth.mean),
            job.read.errors.saturating_add(job.write.errors).to_string(),
        ]);
    }
    format!("\n{}", table.lines(2))
}

#[cfg(test)]
mod tests {
    use stats_proto::bench::Pattern;

    use super::*;
    use crate::samples;
    use crate::units::Units;

    fn printed(jobs: u32, job: BenchJob) -> String {
        text(
            &samples::bench_result(jobs, job),
            "nvme",
            &Style::plain(Units::Iec),
        )
    }

    #[test]
    fn one_job_in_fios_shape() {
        let job = BenchJob {
            queue_depth: 32,
            warmup_ns: 0,
            ..BenchJob::default()
        };
        let expected = "\
randread: nvme:1 (A disk, S1, emulated)
  bs=4.00KiB, qd=32, jobs=1, time=10.0s, seed=1
  read: IOPS=200, BW=800KiB/s (7.81MiB in 10.0s, 1997 requests)
    latency     min     avg     max  stddev
    host      500ns   501ns   501ns     0ns
    device   18.9us  29.0us  39.2us  10.0us
    total    20.0us  30.0us  40.2us  10.0us
    total is service latency, closed loop, QD=32; its percentiles:
    1.00=20.1us  5.00=20.1us 10.00=20.1us 20.00=20.1us 30.00=20.1us 40.00=20.1us
   50.00=20.1us 60.00=40.2us 70.00=40.2us 80.00=40.2us 90.00=40.2us 95.00=40.2us
   99.00=40.2us 99.50=40.2us
  queue depth: 32 asked, 31.9 achieved (mean), 32 most; 31.2 at the device (mean)
  errors: 3 (0.30/s)
    read: 3 Unrecovered Read Error
";
        let found = printed(1, job);
        assert_eq!(found, expected, "{found}");
    }

    #[test]
    fn percentiles_fit_the_terminal_and_are_never_taken_apart() {
        let result = samples::bench_result(1, BenchJob::default());
        for (width, in_a_line) in [(200, 6), (80, 6), (60, 4), (20, 1), (1, 1)] {
            let mut style = Style::plain(Units::Iec);
            style.width = Some(width);
            let text = text(&result, "nvme", &style);
            let lines: Vec<&str> = text
                .lines()
                .skip_while(|line| !line.ends_with("its percentiles:"))
                .skip(1)
                .take_while(|line| line.contains('='))
                .collect();
            assert!(
                width < 20 || lines.iter().all(|line| line.len() <= usize::from(width)),
                "{lines:?}"
            );
            let values: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
            assert_eq!(values.len(), 14, "{text}");
            assert!(values.iter().all(|value| value.ends_with("us")), "{text}");
            assert_eq!(lines[0].split_whitespace().count(), in_a_line, "{width}: {text}");
        }
    }

    #[test]
    fn rates_are_of_successful_requests() {
        let mut result = samples::bench_result(1, BenchJob::default());
        result.total.read.errors = 1_500;
        let text = text(&result, "nvme", &Style::plain(Units::Iec));
        assert!(text.contains("read: IOPS=50, "), "{text}");
        assert!(text.contains(", 500 requests)\n"), "{text}");
        assert!(text.contains("errors: 1500 (150/s)\n"), "{text}");
    }

    #[test]
    fn percentiles_that_nothing_stands_behind_are_left_out() {
        for (count, last) in [
            (9, None),
            (10, Some("1.00=20.1us")),
            (12, Some("10.00=20.1us")),
            (1000, Some("99.00=20.1us")),
        ] {
            let histogram = samples::histogram(&[20_000], count);
            let latency = LatencySummary::new(histogram, None).unwrap();
            let text = percentiles(&latency, &Style::plain(Units::Iec));
            let found = text.as_deref().and_then(|text| text.split_whitespace().last());
            assert_eq!(found, last, "{count}: {text:?}");
        }
    }

    #[test]
    fn a_mix_says_what_it_mixes_and_shows_a_side_that_did_nothing() {
        let job = BenchJob {
            pattern: Pattern::RandRw,
            read_percent: 70,
            ios: Some(5),
            time_ns: None,
            offset_bytes: 4096,
            size_bytes: Some(1 << 20),
            ..BenchJob::default()
        };
        let found = printed(1, job);
        assert!(
            found.contains("mix=70/30, qd=1, jobs=1, ios=5, offset=4.00KiB, size=1.00MiB, seed=1\n"),
            "{found}"
        );
        assert!(
            found.contains("  write: IOPS=0, BW=0B/s (0B in 10.0s, 0 requests)\n"),
            "{found}"
        );
    }

    #[test]
    fn several_jobs_have_a_line_each_and_depths_add_up() {
        let found = printed(
            3,
            BenchJob {
                jobs: 3,
                ..BenchJob::default()
            },
        );
        assert!(found.contains("queue depth: 96 asked, 95.7 achieved"), "{found}");
        assert_eq!(
            found.lines().rev().take_while(|line| !line.is_empty()).count(),
            4,
            "{found}"
        );
    }
}
