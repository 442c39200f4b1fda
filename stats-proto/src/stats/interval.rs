mod growth;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

use growth::Growth;

use super::{QueueCounters, QueueKind, QueueStats, StatsDocument};
use crate::big_int::{big_u64, big_u64_map, big_u64_option};
use crate::hist::{HistError, Histogram};
use crate::per_second;

/// What happened between two documents of the same driver: rates, means, and histograms by subtraction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The time between the two snapshots in ns; never 0.
    #[serde(with = "big_u64")]
    pub elapsed_ns: u64,
    /// Controller resets in that time.
    #[serde(with = "big_u64")]
    pub resets: u64,
    /// Whether both documents were consistent.
    pub consistent: bool,
    /// The queues that the later document has and that count, in its order.
    pub queues: Vec<QueueInterval>,
    /// All I/O queues together, by operation: counts and rates are sums, histograms are added.
    pub io_ops: BTreeMap<String, OpInterval>,
}

/// What one queue did in an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueInterval {
    /// The queue identifier.
    pub qid: u16,
    /// What the queue is for.
    pub kind: QueueKind,
    /// How many commands it can have in flight.
    pub depth: u32,
    /// Whether both snapshots of this queue were consistent.
    pub consistent: bool,
    /// Commands submitted.
    #[serde(with = "big_u64")]
    pub submitted: u64,
    /// Commands completed.
    #[serde(with = "big_u64")]
    pub completed: u64,
    /// Those that did not succeed.
    #[serde(with = "big_u64")]
    pub completed_error: u64,
    /// Commands that exceeded their time limit.
    #[serde(with = "big_u64")]
    pub timeouts: u64,
    /// Abort commands sent for this queue's commands.
    #[serde(with = "big_u64")]
    pub aborts: u64,
    /// Commands submitted again.
    #[serde(with = "big_u64")]
    pub retries: u64,
    /// `completed_error` by status; only those that occurred.
    #[serde(with = "big_u64_map")]
    pub errors_by_status: BTreeMap<String, u64>,
    /// Completion entries that were not believed, of all kinds.
    #[serde(with = "big_u64")]
    pub rejected: u64,
    /// Completions per second.
    pub iops: f64,
    /// Data bytes of successful commands per second.
    pub bytes_per_s: f64,
    /// The mean number of commands in flight over the interval.
    pub mean_queue_depth: f64,
    /// The share of the time with at least one command in flight, in percent.
    pub active_percent: f64,
    /// The share of the time with no room for another command, in percent.
    pub full_percent: f64,
    /// Commands in flight at the end.
    #[serde(with = "big_u64")]
    pub inflight: u64,
    /// The most commands in flight since the driver started.
    #[serde(with = "big_u64")]
    pub inflight_max: u64,
    /// The age of the oldest command in flight at the end, in ns.
    #[serde(with = "big_u64_option")]
    pub inflight_age_max_ns: Option<u64>,
    /// Requests waiting in the host at the end.
    #[serde(with = "big_u64")]
    pub host_queued: u64,
    /// Requests of the class urgent whose turn came.
    #[serde(with = "big_u64")]
    pub class_urgent: u64,
    /// Of the class high.
    #[serde(with = "big_u64")]
    pub class_high: u64,
    /// Of the class medium.
    #[serde(with = "big_u64")]
    pub class_medium: u64,
    /// Of the class low.
    #[serde(with = "big_u64")]
    pub class_low: u64,
    /// Requests that were sent with another one's command.
    #[serde(with = "big_u64")]
    pub merged: u64,
    /// Requests with a deadline that were in time.
    #[serde(with = "big_u64")]
    pub deadlines_met: u64,
    /// Those that were late, most of it in the driver.
    #[serde(with = "big_u64")]
    pub deadlines_missed_host: u64,
    /// Those that were late, most of it at the device.
    #[serde(with = "big_u64")]
    pub deadlines_missed_device: u64,
    /// Submission doorbells.
    #[serde(with = "big_u64")]
    pub sq_doorbells: u64,
    /// Completion doorbells.
    #[serde(with = "big_u64")]
    pub cq_doorbells: u64,
    /// Passes over the completion queue.
    #[serde(with = "big_u64")]
    pub polls: u64,
    /// Those that found nothing.
    #[serde(with = "big_u64")]
    pub polls_empty: u64,
    /// Interrupts.
    #[serde(with = "big_u64")]
    pub interrupts: u64,
    /// Those that came with no completion.
    #[serde(with = "big_u64")]
    pub spurious_interrupts: u64,
    /// Bytes through a bounce buffer.
    #[serde(with = "big_u64")]
    pub bytes_copied: u64,
    /// Bytes without one.
    #[serde(with = "big_u64")]
    pub bytes_zero_copy: u64,
    /// Completions per pass that found any; `null` if a document was light.
    pub completions_per_wakeup: Option<Histogram>,
    /// By operation; only those that the later document has.
    pub ops: BTreeMap<String, OpInterval>,
}

/// What one operation did in an interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpInterval {
    /// Commands completed.
    #[serde(with = "big_u64")]
    pub count: u64,
    /// Data bytes of the successful ones.
    #[serde(with = "big_u64")]
    pub bytes: u64,
    /// Those that did not succeed.
    #[serde(with = "big_u64")]
    pub errors: u64,
    /// Completions per second.
    pub iops: f64,
    /// Data bytes per second.
    pub bytes_per_s: f64,
    /// The mean device latency in ns; `null` if none completed.
    pub mean_ns: Option<f64>,
    /// Device latencies; `null` if a document was light.
    pub latency_device: Option<Histogram>,
    /// Host latencies; `null` if a document was light.
    pub latency_host: Option<Histogram>,
}

/// Why two documents have no interval.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntervalError {
    /// The driver (or the machine) was started again between the two.
    #[error(
        "the driver was restarted between the two documents, so that its counters began anew: take the earlier one again"
    )]
    Restarted,
    /// The later document is not later.
    #[error(
        "the documents are of {earlier_ns} ns and {later_ns} ns on the monotonic clock: the second is not later than the first"
    )]
    NotLater {
        /// The first one's time.
        earlier_ns: u64,
        /// The second one's time.
        later_ns: u64,
    },
    /// A counter of the later document is lower.
    #[error("{place}: {counter} went back from {earlier} to {later}, which no counter does")]
    WentBack {
        /// The queue.
        place: String,
        /// The counter's name.
        counter: String,
        /// Before.
        earlier: u64,
        /// After.
        later: u64,
    },
    /// Two histograms cannot be subtracted, or those of several queues not be added.
    #[error("{histogram}: {source}")]
    Histogram {
        /// Which one.
        histogram: String,
        /// Why.
        source: HistError,
    },
}

impl StatsDocument {
    /// What happened between two documents, both of the same run of the driver: rates and means over the time
    /// between, and histograms by subtraction.
    ///
    /// A queue, operation or status that only the later document has is taken to have begun at 0. Queues that
    /// are gone, and queues without counters, are left out.
    ///
    /// Of a queue that is not consistent in one of the two, sums over time (depth, active, full) may be off,
    /// even lower than before, which then counts as no growth; counters and histograms are right one by one.
    ///
    /// # Errors
    /// Documents of different runs or in the wrong order, or a counter that went back.
    pub fn interval(earlier: &Self, later: &Self) -> Result<Interval, IntervalError> {
        if earlier.instance_id != later.instance_id || earlier.boot_id != later.boot_id {
            return Err(IntervalError::Restarted);
        }
        let (earlier_ns, later_ns) = (earlier.time.monotonic_ns, later.time.monotonic_ns);
        let elapsed_ns = later_ns
            .checked_sub(earlier_ns)
            .filter(|&elapsed_ns| elapsed_ns > 0);
        let elapsed_ns = elapsed_ns.ok_or(IntervalError::NotLater { earlier_ns, later_ns })?;
        let mut queues = Vec::with_capacity(later.queues.len());
        for queue in &later.queues {
            let before = earlier.queues.iter().find(|before| before.qid == queue.qid);
            queues.extend(queue_interval(before, queue, elapsed_ns)?);
        }
        let resets = (earlier.generation, later.generation);
        let resets = resets
            .1
            .checked_sub(resets.0)
            .ok_or_else(|| IntervalError::WentBack {
                place: "controller".to_owned(),
                counter: "generation".to_owned(),
                earlier: resets.0,
                later: resets.1,
            })?;
        let io_ops = io_ops(&queues)?;
        let consistent = earlier.snapshot.consistent && later.snapshot.consistent;
        Ok(Interval {
            elapsed_ns,
            resets,
            consistent,
            queues,
            io_ops,
        })
    }
}

/// `None` if the queue has no counters in either document.
fn queue_interval(
    before: Option<&QueueStats>,
    queue: &QueueStats,
    elapsed_ns: u64,
) -> Result<Option<QueueInterval>, IntervalError> {
    let Some(later) = &queue.counters else {
        return Ok(None);
    };
    let nothing = QueueCounters::default();
    let earlier = match before {
        None => &nothing,
        Some(QueueStats {
            counters: Some(counters),
            ..
        }) => counters,
        Some(_) => return Ok(None),
    };
    let consistent = queue.consistent && before.is_none_or(|before| before.consistent);
    let growth = Growth {
        place: format!("queue {}", queue.qid),
        elapsed_ns,
        consistent,
    };
    let counter = |name: &str, of: fn(&QueueCounters) -> u64| growth.counter(name, of(earlier), of(later));
    let ops = growth.ops(&earlier.ops, &later.ops)?;
    let completed = counter("completed", |queue| queue.completed)?;
    let time = |name: &str, of: fn(&QueueCounters) -> u64| growth.time(name, of(earlier), of(later));
    let depth_integral_ns = time("qd_time_integral_ns", |queue| queue.qd_time_integral_ns)?;
    let wakeups = (&earlier.completions_per_wakeup, &later.completions_per_wakeup);
    Ok(Some(QueueInterval {
        qid: queue.qid,
        kind: queue.kind,
        depth: queue.depth,
        consistent,
        submitted: counter("submitted", |queue| queue.submitted)?,
        completed,
        completed_error: counter("completed_error", |queue| queue.completed_error)?,
        timeouts: counter("timeouts", |queue| queue.timeouts)?,
        aborts: counter("aborts", |queue| queue.aborts)?,
        retries: counter("retries", |queue| queue.retries)?,
        errors_by_status: growth.map(
            "errors_by_status",
            &earlier.errors_by_status,
            &later.errors_by_status,
        )?,
        rejected: growth.rejected(&earlier.rejected, &later.rejected)?,
        iops: per_second(completed, elapsed_ns),
        bytes_per_s: per_second(
            ops.values().map(|op| op.bytes).fold(0, u64::saturating_add),
            elapsed_ns,
        ),
        mean_queue_depth: depth_integral_ns as f64 / elapsed_ns as f64,
        active_percent: growth.percent(time("active_ns", |queue| queue.active_ns)?),
        full_percent: growth.percent(time("full_ns", |queue| queue.full_ns)?),
        inflight: later.inflight,
        inflight_max: later.inflight_max,
        inflight_age_max_ns: later.inflight_age_max_ns,
        host_queued: later.host_queued,
        class_urgent: counter("class_urgent", |queue| queue.class_urgent)?,
        class_high: counter("class_high", |queue| queue.class_high)?,
        class_medium: counter("class_medium", |queue| queue.class_medium)?,
        class_low: counter("class_low", |queue| queue.class_low)?,
        merged: counter("merged", |queue| queue.merged)?,
        deadlines_met: counter("deadlines_met", |queue| queue.deadlines_met)?,
        deadlines_missed_host: counter("deadlines_missed_host", |queue| queue.deadlines_missed_host)?,
        deadlines_missed_device: counter("deadlines_missed_device", |queue| queue.deadlines_missed_device)?,
        sq_doorbells: counter("sq_doorbells", |queue| queue.sq_doorbells)?,
        cq_doorbells: counter("cq_doorbells", |queue| queue.cq_doorbells)?,
        polls: counter("polls", |queue| queue.polls)?,
        polls_empty: counter("polls_empty", |queue| queue.polls_empty)?,
        interrupts: counter("interrupts", |queue| queue.interrupts)?,
        spurious_interrupts: counter("spurious_interrupts", |queue| queue.spurious_interrupts)?,
        bytes_copied: counter("bytes_copied", |queue| queue.bytes_copied)?,
        bytes_zero_copy: counter("bytes_zero_copy", |queue| queue.bytes_zero_copy)?,
        completions_per_wakeup: growth.histogram(
            "completions_per_wakeup",
            before.map(|_| wakeups.0),
            wakeups.1,
        )?,
        ops,
    }))
}

fn io_ops(queues: &[QueueInterval]) -> Result<BTreeMap<String, OpInterval>, IntervalError> {
    let mut total = BTreeMap::<String, OpInterval>::new();
    let io = queues.iter().filter(|queue| queue.kind == QueueKind::Io);
    for (name, op) in io.flat_map(|queue| &queue.ops) {
        match total.get_mut(name) {
            None => {
                total.insert(name.clone(), op.clone());
            }
            Some(sum) => sum.add(op).map_err(|source| IntervalError::Histogram {
                histogram: name.clone(),
                source,
            })?,
        }
    }
    Ok(total)
}

impl OpInterval {
    fn add(&mut self, other: &Self) -> Result<(), HistError> {
        let sum_ns = |op: &Self| op.mean_ns.unwrap_or(0.0) * op.count as f64;
        let both_ns = sum_ns(self) + sum_ns(other);
        self.count = self.count.saturating_add(other.count);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.errors = self.errors.saturating_add(other.errors);
        self.iops += other.iops;
        self.bytes_per_s += other.bytes_per_s;
        self.mean_ns = (self.count > 0).then(|| both_ns / self.count as f64);
        add_histogram(&mut self.latency_device, other.latency_device.as_ref())?;
        add_histogram(&mut self.latency_host, other.latency_host.as_ref())
    }
}

/// A sum of which one part is not known is not known.
fn add_histogram(sum: &mut Option<Histogram>, other: Option<&Histogram>) -> Result<(), HistError> {
    match (sum.as_mut(), other) {
        (Some(known), Some(other)) => known.add(other),
        _ => {
            *sum = None;
            Ok(())
        }
    }
}
