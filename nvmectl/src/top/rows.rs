//! The rows of `top`: what is known of each device and of each queue pair over one interval.
//!
//! A row is the same for the screen, the table, JSON and CSV. What is not known is `None` and never 0: a rate before the
//! second snapshot, a percentile that too few commands stand behind, everything of a driver that is gone.

use serde::Serialize;
use stats_proto::big_int::{big_u64, big_u64_option};
use stats_proto::hist::Histogram;
use stats_proto::stats::{
    Interval, NamespaceOpStats, NamespaceStats, OpInterval, QueueInterval, QueueKind, QueueMode, QueueStats,
    StatsDocument,
};

use crate::stats::quantile;

/// What a [`DeviceRow`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A controller.
    Controller,
    /// One of its namespaces.
    Namespace,
}

/// A controller or a namespace over one interval.
///
/// Rates and the depth are of the I/O queues together; errors, commands in flight and the oldest of them are of the admin
/// queue too. Of a namespace the driver counts commands, bytes and errors, no latencies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceRow {
    /// `nvme:controller` or `nvme:1`.
    pub device: String,
    /// Which of the two it is.
    pub kind: DeviceKind,
    /// The driver's word for the controller's state, or what is amiss with the driver: `gone`, `no answer`, ...
    pub state: String,
    /// For how long the driver has been amiss; `None` when all is well.
    pub absent_ms: Option<u64>,
    /// Why it is, in a sentence.
    pub why: Option<String>,
    /// The time between the two snapshots.
    #[serde(with = "big_u64_option")]
    pub elapsed_ns: Option<u64>,
    /// Commands completed per second.
    pub iops: Option<f64>,
    /// Reads completed per second.
    pub read_iops: Option<f64>,
    /// Writes completed per second.
    pub write_iops: Option<f64>,
    /// All other I/O commands completed per second.
    pub other_iops: Option<f64>,
    /// Bytes read per second.
    pub read_bytes_per_s: Option<f64>,
    /// Bytes written per second.
    pub write_bytes_per_s: Option<f64>,
    /// Median device latency of the interval's reads.
    #[serde(with = "big_u64_option")]
    pub read_p50_ns: Option<u64>,
    /// The 99th percentile of the same.
    #[serde(with = "big_u64_option")]
    pub read_p99_ns: Option<u64>,
    /// Median device latency of the interval's writes.
    #[serde(with = "big_u64_option")]
    pub write_p50_ns: Option<u64>,
    /// The 99th percentile of the same.
    #[serde(with = "big_u64_option")]
    pub write_p99_ns: Option<u64>,
    /// Mean number of commands in flight over the interval.
    pub mean_queue_depth: Option<f64>,
    /// What it would be by Little's law: completions per second times their mean device latency.
    pub expected_queue_depth: Option<f64>,
    /// The two differ by more than a tenth.
    pub depth_differs: bool,
    /// Commands in flight at the end of the interval.
    #[serde(with = "big_u64_option")]
    pub inflight: Option<u64>,
    /// The age of the oldest of them.
    #[serde(with = "big_u64_option")]
    pub inflight_age_max_ns: Option<u64>,
    /// Share of the interval with a command in flight, of the I/O queue where it is largest.
    pub active_percent: Option<f64>,
    /// Commands that failed, per second.
    pub errors_per_s: Option<f64>,
    /// The controller's composite temperature.
    pub temperature_celsius: Option<i32>,
}

/// A queue pair over one interval. Latencies are the device's, from doorbell to completion, of all operations together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueRow {
    /// The controller, such as `nvme:controller`.
    pub device: String,
    /// The queue's number; 0 is the admin queue.
    pub qid: u16,
    /// What it is for.
    pub kind: QueueKind,
    /// The CPU that its worker is bound to.
    pub cpu: Option<u32>,
    /// Its interrupt vector.
    pub vector: Option<u16>,
    /// How completions are found.
    pub mode: QueueMode,
    /// How many commands it can have in flight.
    pub depth: u32,
    /// The driver is gone or does not answer, and nothing more is known.
    pub absent: bool,
    /// Commands in flight at the end of the interval.
    #[serde(with = "big_u64_option")]
    pub inflight: Option<u64>,
    /// The age of the oldest of them.
    #[serde(with = "big_u64_option")]
    pub inflight_age_max_ns: Option<u64>,
    /// Mean number of commands in flight over the interval.
    pub mean_queue_depth: Option<f64>,
    /// What it would be by Little's law.
    pub expected_queue_depth: Option<f64>,
    /// The two differ by more than a tenth.
    pub depth_differs: bool,
    /// The most that were ever in flight since the driver started.
    #[serde(with = "big_u64_option")]
    pub inflight_max: Option<u64>,
    /// Share of the interval without room for another command.
    pub full_percent: Option<f64>,
    /// Commands submitted per second.
    pub submits_per_s: Option<f64>,
    /// Commands completed per second.
    pub iops: Option<f64>,
    /// Data bytes per second, both ways.
    pub bytes_per_s: Option<f64>,
    /// Median latency.
    #[serde(with = "big_u64_option")]
    pub p50_ns: Option<u64>,
    /// The 99th percentile.
    #[serde(with = "big_u64_option")]
    pub p99_ns: Option<u64>,
    /// The 99.9th percentile.
    #[serde(with = "big_u64_option")]
    pub p999_ns: Option<u64>,
    /// Doorbell writes per second, of both rings.
    pub doorbells_per_s: Option<f64>,
    /// Completions for each interrupt; `None` where there was no interrupt.
    pub completions_per_interrupt: Option<f64>,
    /// Share of the looks at the completion queue that found nothing.
    pub polls_empty_percent: Option<f64>,
    /// Commands that failed since the driver started.
    #[serde(with = "big_u64_option")]
    pub errors_total: Option<u64>,
    /// Commands that exceeded their time limit since the driver started.
    #[serde(with = "big_u64_option")]
    pub timeouts_total: Option<u64>,
    /// The 99th percentile of the time from a request's acceptance to its doorbell.
    #[serde(with = "big_u64_option")]
    pub host_p99_ns: Option<u64>,
}

/// The rows of one controller.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// The controller, then its namespaces.
    pub devices: Vec<DeviceRow>,
    /// Its queue pairs.
    pub queues: Vec<QueueRow>,
}

/// Two snapshots of one run of a driver and what happened between them.
#[derive(Clone, Copy, Debug)]
pub struct Between<'d> {
    /// The first snapshot.
    pub earlier: &'d StatsDocument,
    /// The growth from it to the second one.
    pub interval: &'d Interval,
}

impl Rows {
    /// The rows of the controller behind `scheme`, as `later` has it; rates only with what came before. With `only`, that
    /// namespace and no other.
    pub fn new(scheme: &str, only: Option<u32>, later: &StatsDocument, between: Option<Between>) -> Self {
        let interval = between.map(|between| between.interval);
        let mut devices = vec![controller(scheme, later, interval)];
        let namespaces = later.namespaces.iter();
        devices.extend(
            namespaces
                .filter(|namespace| only.is_none_or(|only| only == namespace.nsid))
                .map(|namespace| self::namespace(scheme, later, namespace, between)),
        );
        let device = format!("{scheme}:controller");
        let queues = later.queues.iter().map(|queue| {
            let grown = interval.and_then(|interval| {
                let grown = interval.queues.iter().find(|grown| grown.qid == queue.qid)?;
                Some((grown, interval.elapsed_ns))
            });
            self::queue(&device, queue, grown)
        });
        Self {
            queues: queues.collect(),
            devices,
        }
    }

    /// The rows of a controller of which nothing was ever heard.
    pub fn unheard_of(scheme: &str) -> Self {
        Self {
            devices: vec![DeviceRow::unknown(
                format!("{scheme}:controller"),
                DeviceKind::Controller,
                "",
            )],
            queues: Vec::new(),
        }
    }

    /// The same rows without anything that may have changed since, and why.
    #[must_use]
    pub fn absent(&self, state: &str, absent_ms: u64, why: Option<&str>) -> Self {
        let devices = self.devices.iter().map(|row| DeviceRow {
            absent_ms: Some(absent_ms),
            why: why.map(str::to_owned),
            ..DeviceRow::unknown(row.device.clone(), row.kind, state)
        });
        let queues = self.queues.iter().map(|row| QueueRow {
            absent: true,
            inflight: None,
            inflight_age_max_ns: None,
            mean_queue_depth: None,
            expected_queue_depth: None,
            depth_differs: false,
            inflight_max: None,
            full_percent: None,
            submits_per_s: None,
            iops: None,
            bytes_per_s: None,
            p50_ns: None,
            p99_ns: None,
            p999_ns: None,
            doorbells_per_s: None,
            completions_per_interrupt: None,
            polls_empty_percent: None,
            errors_total: None,
            timeouts_total: None,
            host_p99_ns: None,
            ..row.clone()
        });
        Self {
            devices: devices.collect(),
            queues: queues.collect(),
        }
    }
}

impl DeviceRow {
    fn unknown(device: String, kind: DeviceKind, state: &str) -> Self {
        Self {
            device,
            kind,
            state: state.to_owned(),
            absent_ms: None,
            why: None,
            elapsed_ns: None,
            iops: None,
            read_iops: None,
            write_iops: None,
            other_iops: None,
            read_bytes_per_s: None,
            write_bytes_per_s: None,
            read_p50_ns: None,
            read_p99_ns: None,
            write_p50_ns: None,
            write_p99_ns: None,
            mean_queue_depth: None,
            expected_queue_depth: None,
            depth_differs: false,
            inflight: None,
            inflight_age_max_ns: None,
            active_percent: None,
            errors_per_s: None,
            temperature_celsius: None,
        }
    }
}

fn controller(scheme: &str, later: &StatsDocument, interval: Option<&Interval>) -> DeviceRow {
    let state = &later.controller.state;
    let mut row = DeviceRow::unknown(format!("{scheme}:controller"), DeviceKind::Controller, state);
    row.temperature_celsius = later
        .health
        .as_ref()
        .and_then(|health| health.temperature_celsius);
    let counters = || later.queues.iter().filter_map(|queue| queue.counters.as_ref());
    if counters().next().is_some() {
        let inflight = counters().map(|counters| counters.inflight);
        row.inflight = Some(inflight.fold(0, u64::saturating_add));
        row.inflight_age_max_ns = counters()
            .filter_map(|counters| counters.inflight_age_max_ns)
            .max();
    }
    // A driver that counts nothing has no rate of 0, but none.
    let Some(interval) = interval.filter(|interval| !interval.queues.is_empty()) else {
        return row;
    };
    let op = |name: &str| interval.io_ops.get(name);
    let iops = |op: Option<&OpInterval>| op.map_or(0.0, |op| op.iops);
    let bytes_per_s = |op: Option<&OpInterval>| op.map_or(0.0, |op| op.bytes_per_s);
    let latency = |op: Option<&OpInterval>, q| quantile(op.and_then(|op| op.latency_device.as_ref()), q);
    let (read, write) = (op("read"), op("write"));
    let io = || interval.queues.iter().filter(|queue| queue.kind == QueueKind::Io);
    let all: f64 = interval.io_ops.values().map(|op| op.iops).sum();
    let others = interval
        .io_ops
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "read" | "write"));
    row.elapsed_ns = Some(interval.elapsed_ns);
    row.iops = finite(all);
    row.read_iops = finite(iops(read));
    row.write_iops = finite(iops(write));
    row.other_iops = finite(others.map(|(_, op)| op.iops).sum());
    row.read_bytes_per_s = finite(bytes_per_s(read));
    row.write_bytes_per_s = finite(bytes_per_s(write));
    row.read_p50_ns = latency(read, 0.5);
    row.read_p99_ns = latency(read, 0.99);
    row.write_p50_ns = latency(write, 0.5);
    row.write_p99_ns = latency(write, 0.99);
    row.mean_queue_depth = finite(io().map(|queue| queue.mean_queue_depth).sum());
    row.expected_queue_depth = finite(interval.io_ops.values().map(expected_depth).sum());
    row.depth_differs = interval.consistent && depth_differs(row.mean_queue_depth, row.expected_queue_depth);
    row.active_percent = finite(io().map(|queue| queue.active_percent).fold(0.0, f64::max));
    let errors = interval.queues.iter().map(|queue| queue.completed_error);
    row.errors_per_s = per_s(errors.fold(0, u64::saturating_add), interval.elapsed_ns);
    row
}

fn namespace(
    scheme: &str,
    later: &StatsDocument,
    namespace: &NamespaceStats,
    between: Option<Between>,
) -> DeviceRow {
    let device = format!("{scheme}:{}", namespace.nsid);
    let mut row = DeviceRow::unknown(device, DeviceKind::Namespace, &later.controller.state);
    let (Some(between), Some(ops)) = (between, namespace.ops.as_ref()) else {
        return row;
    };
    let earlier = between
        .earlier
        .namespaces
        .iter()
        .find(|before| before.nsid == namespace.nsid)
        .and_then(|before| before.ops.as_ref());
    let elapsed_ns = between.interval.elapsed_ns;
    let grown = |is_meant: &dyn Fn(&str) -> bool, of: fn(&NamespaceOpStats) -> u64| {
        let growth = ops.iter().filter(|(name, _)| is_meant(name)).map(|(name, op)| {
            let before = earlier.and_then(|earlier| earlier.get(name)).map_or(0, of);
            of(op).saturating_sub(before)
        });
        per_s(growth.fold(0, u64::saturating_add), elapsed_ns)
    };
    row.elapsed_ns = Some(elapsed_ns);
    row.iops = grown(&|_| true, |op| op.count);
    row.read_iops = grown(&|name| name == "read", |op| op.count);
    row.write_iops = grown(&|name| name == "write", |op| op.count);
    row.other_iops = grown(&|name| !matches!(name, "read" | "write"), |op| op.count);
    row.read_bytes_per_s = grown(&|name| name == "read", |op| op.bytes);
    row.write_bytes_per_s = grown(&|name| name == "write", |op| op.bytes);
    row.errors_per_s = grown(&|_| true, |op| op.errors);
    row
}

fn queue(device: &str, queue: &QueueStats, grown: Option<(&QueueInterval, u64)>) -> QueueRow {
    let counters = queue.counters.as_ref();
    let mut row = QueueRow {
        device: device.to_owned(),
        qid: queue.qid,
        kind: queue.kind,
        cpu: queue.cpu,
        vector: queue.vector,
        mode: queue.mode,
        depth: queue.depth,
        absent: false,
        inflight: counters.map(|counters| counters.inflight),
        inflight_age_max_ns: counters.and_then(|counters| counters.inflight_age_max_ns),
        mean_queue_depth: None,
        expected_queue_depth: None,
        depth_differs: false,
        inflight_max: counters.map(|counters| counters.inflight_max),
        full_percent: None,
        submits_per_s: None,
        iops: None,
        bytes_per_s: None,
        p50_ns: None,
        p99_ns: None,
        p999_ns: None,
        doorbells_per_s: None,
        completions_per_interrupt: None,
        polls_empty_percent: None,
        errors_total: counters.map(|counters| counters.completed_error),
        timeouts_total: counters.map(|counters| counters.timeouts),
        host_p99_ns: None,
    };
    let Some((grown, elapsed_ns)) = grown else {
        return row;
    };
    let device_latency = together(grown, |op| op.latency_device.as_ref());
    let host_latency = together(grown, |op| op.latency_host.as_ref());
    let doorbells = grown.sq_doorbells.saturating_add(grown.cq_doorbells);
    row.mean_queue_depth = finite(grown.mean_queue_depth);
    row.expected_queue_depth = finite(grown.ops.values().map(expected_depth).sum());
    row.depth_differs = grown.consistent && depth_differs(row.mean_queue_depth, row.expected_queue_depth);
    row.full_percent = finite(grown.full_percent);
    row.submits_per_s = per_s(grown.submitted, elapsed_ns);
    row.iops = finite(grown.iops);
    row.bytes_per_s = finite(grown.bytes_per_s);
    row.p50_ns = quantile(device_latency.as_ref(), 0.5);
    row.p99_ns = quantile(device_latency.as_ref(), 0.99);
    row.p999_ns = quantile(device_latency.as_ref(), 0.999);
    row.doorbells_per_s = per_s(doorbells, elapsed_ns);
    row.completions_per_interrupt = ratio(grown.completed, grown.interrupts);
    row.polls_empty_percent = ratio(grown.polls_empty, grown.polls).map(|share| (share * 100.0).min(100.0));
    row.host_p99_ns = quantile(host_latency.as_ref(), 0.99);
    row
}

/// One histogram of all operations; `None` where one of them has none.
fn together(queue: &QueueInterval, of: fn(&OpInterval) -> Option<&Histogram>) -> Option<Histogram> {
    let mut sum: Option<Histogram> = None;
    for op in queue.ops.values().filter(|op| op.count > 0) {
        let histogram = of(op)?;
        match &mut sum {
            None => sum = Some(histogram.clone()),
            Some(sum) => sum.add(histogram).ok()?,
        }
    }
    sum
}

/// Commands in flight on average that completions at this rate and latency stand for, by Little's law.
fn expected_depth(op: &OpInterval) -> f64 {
    op.iops * op.mean_ns.unwrap_or(0.0) / 1e9
}

/// Whether a mean depth and the one that Little's law gives differ by more than a tenth. Next to nothing in flight is no
/// base for such a judgement.
fn depth_differs(mean: Option<f64>, expected: Option<f64>) -> bool {
    const LEAST_DEPTH: f64 = 0.1;
    let (Some(mean), Some(expected)) = (mean, expected) else {
        return false;
    };
    let most = mean.max(expected);
    most >= LEAST_DEPTH && (mean - expected).abs() > most / 10.0
}

fn per_s(count: u64, elapsed_ns: u64) -> Option<f64> {
    finite(count as f64 * 1e9 / elapsed_ns as f64)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A device may make any figure of any counter; what is no number is not known.
fn finite(number: f64) -> Option<f64> {
    // The sum of nothing is -0.
    number.is_finite().then_some(number + 0.0)
}

/// What happened in one interval, on every device: a line of `--batch -o jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TopDocument {
    /// `"nvmectl-top"`.
    pub schema: &'static str,
    /// The version of its shape.
    pub version: &'static str,
    /// The wall clock at the end of the interval, in ms since 1970-01-01 00:00 UTC.
    #[serde(with = "big_u64")]
    pub time_unix_ms: u64,
    /// Controllers, each followed by its namespaces.
    pub devices: Vec<DeviceRow>,
    /// Their queue pairs.
    pub queues: Vec<QueueRow>,
}
