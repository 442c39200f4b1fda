use std::collections::BTreeMap;

use serde::Serialize;

use super::{QueueKind, StatsDocument};
use crate::big_int::{big_u64, big_u64_map, big_u64_option};
use crate::hist::{HistError, Histogram};

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
    #[error("queue {qid}: {counter} went back from {earlier} to {later}, which no counter does")]
    WentBack {
        /// The queue.
        qid: u16,
        /// The counter's name.
        counter: String,
        /// Before.
        earlier: u64,
        /// After.
        later: u64,
    },
    /// Two histograms cannot be subtracted.
    #[error("queue {qid}: {histogram}: {source}")]
    Histogram {
        /// The queue.
        qid: u16,
        /// The histogram's name.
        histogram: String,
        /// Why.
        source: HistError,
    },
}

impl StatsDocument {
    /// What happened between two documents.
    ///
    /// # Errors
    /// See [`IntervalError`].
    pub fn interval(_earlier: &Self, _later: &Self) -> Result<Interval, IntervalError> {
        todo!()
    }
}
