//! What happened between two snapshots, by subtraction.

use serde::Serialize;
use stats_proto::big_int::big_u64;
use stats_proto::stats::{Interval, OpInterval, QueueInterval, QueueKind, StatsDocument};

use super::totals::quantile;
use crate::style::{Align, Style, Tone};
use crate::units::span;

/// One interval: what each queue and each namespace did in it.
#[derive(Debug, Serialize)]
pub struct Rates {
    schema: &'static str,
    version: &'static str,
    /// The monotonic clock at its end.
    #[serde(with = "big_u64")]
    monotonic_ns: u64,
    #[serde(with = "big_u64")]
    up_ns: u64,
    #[serde(flatten)]
    interval: Interval,
    namespaces: Vec<NamespaceRates>,
}

/// What was done to one namespace by one operation.
#[derive(Debug, Serialize)]
struct NamespaceRates {
    nsid: u32,
    operation: String,
    #[serde(with = "big_u64")]
    count: u64,
    #[serde(with = "big_u64")]
    bytes: u64,
    #[serde(with = "big_u64")]
    errors: u64,
    iops: f64,
    bytes_per_s: f64,
}

impl Rates {
    /// The rates of `interval`, which is the one from `earlier` to `later`.
    pub fn new(earlier: &StatsDocument, later: &StatsDocument, interval: Interval) -> Self {
        let seconds = interval.elapsed_ns as f64 / 1e9;
        Self {
            schema: "nvmectl-stats-interval",
            version: "1.0",
            monotonic_ns: later.time.monotonic_ns,
            up_ns: later
                .time
                .monotonic_ns
                .saturating_sub(later.time.started_monotonic_ns),
            namespaces: namespaces(earlier, later, seconds),
            interval,
        }
    }

    /// The text; the column names only where `with_header` is set, so that intervals line up below each other.
    pub fn text(&self, style: &Style, with_header: bool) -> String {
        let columns = [
            ("TIME", Align::Right),
            ("QUEUE", Align::Left),
            ("READ/S", Align::Right),
            ("WRITE/S", Align::Right),
            ("OTHER/S", Align::Right),
            ("READ BW", Align::Right),
            ("WRITE BW", Align::Right),
            ("R P50", Align::Right),
            ("R P99", Align::Right),
            ("W P50", Align::Right),
            ("W P99", Align::Right),
            ("QD", Align::Right),
            ("IN FLIGHT", Align::Right),
            ("OLDEST", Align::Right),
            ("ACTIVE", Align::Right),
            ("FULL", Align::Right),
            ("ERRORS", Align::Right),
        ];
        let mut table = style.table(&columns);
        // Every interval is a table of its own: columns are as wide as what usually stands in them.
        for (index, (name, _)) in columns.iter().enumerate() {
            table.at_least(index, name.len().max(9));
        }
        for queue in &self.interval.queues {
            table.toned_row(self.row(queue, style));
        }
        let mut lines = table.lines(0);
        if !with_header {
            lines = lines
                .split_once('\n')
                .map(|(_, rest)| rest.to_owned())
                .unwrap_or_default();
        }
        if self.interval.resets > 0 {
            lines.push_str(&style.paint(
                Tone::Warning,
                &format!("{} controller resets", self.interval.resets),
            ));
            lines.push('\n');
        }
        lines
    }

    fn row(&self, queue: &QueueInterval, style: &Style) -> Vec<(String, Tone)> {
        let units = style.units;
        let op = |name: &str| queue.ops.get(name);
        let rate = |op: Option<&OpInterval>| units.count(op.map_or(0.0, |op| op.iops).round());
        let bandwidth =
            |op: Option<&OpInterval>| units.bytes_per_s(op.map_or(0.0, |op| op.bytes_per_s).round());
        let percentile = |op: Option<&OpInterval>, q: f64| {
            quantile(op.and_then(|op| op.latency_device.as_ref()), q)
                .map_or_else(|| "-".to_owned(), |ns| units.duration(ns as f64))
        };
        let (read, write) = (op("read"), op("write"));
        let others = queue.iops - read.map_or(0.0, |op| op.iops) - write.map_or(0.0, |op| op.iops);
        let plain = |text: String| (text, Tone::Plain);
        vec![
            plain(span(self.up_ns)),
            plain(match queue.kind {
                QueueKind::Admin => format!("{} admin", queue.qid),
                QueueKind::Io => queue.qid.to_string(),
            }),
            plain(rate(read)),
            plain(rate(write)),
            plain(units.count(others.max(0.0).round())),
            plain(bandwidth(read)),
            plain(bandwidth(write)),
            plain(percentile(read, 0.5)),
            plain(percentile(read, 0.99)),
            plain(percentile(write, 0.5)),
            plain(percentile(write, 0.99)),
            plain(format!("{:.1}", queue.mean_queue_depth)),
            plain(queue.inflight.to_string()),
            plain(
                queue
                    .inflight_age_max_ns
                    .map_or_else(|| "-".to_owned(), |ns| units.duration(ns as f64)),
            ),
            plain(format!("{:.0}%", queue.active_percent)),
            plain(format!("{:.0}%", queue.full_percent)),
            (
                queue.completed_error.to_string(),
                if queue.completed_error > 0 {
                    Tone::Bad
                } else {
                    Tone::Plain
                },
            ),
        ]
    }
}

fn namespaces(earlier: &StatsDocument, later: &StatsDocument, seconds: f64) -> Vec<NamespaceRates> {
    let mut rates = Vec::new();
    for namespace in &later.namespaces {
        let before = earlier
            .namespaces
            .iter()
            .find(|before| before.nsid == namespace.nsid);
        for (operation, op) in namespace.ops.iter().flatten() {
            let before = before
                .and_then(|before| before.ops.as_ref()?.get(operation))
                .cloned()
                .unwrap_or_default();
            let count = op.count.saturating_sub(before.count);
            let bytes = op.bytes.saturating_sub(before.bytes);
            rates.push(NamespaceRates {
                nsid: namespace.nsid,
                operation: operation.clone(),
                count,
                bytes,
                errors: op.errors.saturating_sub(before.errors),
                iops: count as f64 / seconds,
                bytes_per_s: bytes as f64 / seconds,
            });
        }
    }
    rates
}
