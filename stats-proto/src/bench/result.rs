use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BenchJob;
use crate::Version;
use crate::big_int::{big_u64, big_u64_map, big_u64_option};
use crate::hist::{HistError, Histogram, Unit};

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchResultSchema {
    /// `"nvme-bench-result"`.
    #[default]
    #[serde(rename = "nvme-bench-result")]
    NvmeBenchResult,
}

/// What a benchmark measured: the last line that `nvme:N/bench` returns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchResult {
    /// `"nvme-bench-result"`.
    pub schema: BenchResultSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// What was asked for.
    pub job: BenchJob,
    /// What it ran on.
    pub device: BenchDevice,
    /// What each job did.
    pub jobs: Vec<BenchJobResult>,
    /// All jobs together ([`BenchJobResult::total`]).
    pub total: BenchJobResult,
}

/// The device that a benchmark ran on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchDevice {
    /// The model number (MN) without padding.
    pub model: String,
    /// The serial number (SN) without padding.
    pub serial: String,
    /// The firmware revision (FR) without padding.
    pub firmware: String,
    /// The namespace identifier.
    pub nsid: u32,
    /// The size of a logical block in bytes.
    pub lba_bytes: u32,
    /// The backend: `"redox"`, `"vfio"`, `"vfio-user"` or `"emulated"`.
    pub backend: String,
}

/// What one job did, or all of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchJobResult {
    /// The job's number from 0; `null` for all together.
    pub job: Option<u32>,
    /// The queue it ran on; `null` for all together, or if it used several.
    pub qid: Option<u16>,
    /// The measured time in ns.
    #[serde(with = "big_u64")]
    pub elapsed_ns: u64,
    /// The queue depth that was asked for and the one that was achieved.
    pub depth: Depth,
    /// The reads.
    pub read: Side,
    /// The writes.
    pub write: Side,
}

/// Queue depths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    /// The depth that was asked for; over all jobs their sum.
    pub asked: u32,
    /// The integral over time of the requests handed to the driver and not yet answered, divided by the elapsed time; over
    /// all jobs their sum.
    pub mean: f64,
    /// The most requests that were outstanding at once; over all jobs the sum of theirs, which bounds it from above.
    pub max: u32,
    /// The integral over time of the commands between doorbell and completion, divided by the elapsed time.
    pub device_mean: f64,
}

/// What the reads or the writes of a job did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Requests answered, failed ones included.
    #[serde(with = "big_u64")]
    pub ios: u64,
    /// Data bytes of the successful ones.
    #[serde(with = "big_u64")]
    pub bytes: u64,
    /// Those that failed.
    #[serde(with = "big_u64")]
    pub errors: u64,
    /// `errors` by the status' name in the specification, or `"sct N sc N"` for one without a name.
    #[serde(with = "big_u64_map")]
    pub errors_by_status: BTreeMap<String, u64>,
    /// Requests answered per second.
    pub iops: f64,
    /// Data bytes per second.
    pub bytes_per_s: f64,
    /// From handing the request in to its answer.
    pub latency_total: LatencySummary,
    /// From doorbell to completion.
    pub latency_device: LatencySummary,
    /// From handing the request in to the doorbell.
    pub latency_host: LatencySummary,
}

/// The percentiles that a [`LatencySummary`] lists, as its keys: those that fio prints.
pub const PERCENTILES: [&str; 17] = [
    "1.00", "5.00", "10.00", "20.00", "30.00", "40.00", "50.00", "60.00", "70.00", "80.00", "90.00", "95.00",
    "99.00", "99.50", "99.90", "99.95", "99.99",
];

/// A distribution of latencies. If it is empty, everything but the histogram is `null` or empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// The lowest in ns.
    #[serde(with = "big_u64_option", default)]
    pub min_ns: Option<u64>,
    /// The highest in ns.
    #[serde(with = "big_u64_option", default)]
    pub max_ns: Option<u64>,
    /// The mean in ns.
    pub mean_ns: Option<f64>,
    /// The standard deviation in ns, from the histogram.
    pub stddev_ns: Option<f64>,
    /// Percentiles in ns, from the histogram; keys are [`PERCENTILES`].
    #[serde(with = "big_u64_map")]
    pub percentiles_ns: BTreeMap<String, u64>,
    /// All of them, in ns.
    pub histogram: Histogram,
}

/// What was measured exactly beside a histogram, over the same values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// The lowest value in ns.
    pub min_ns: u64,
    /// The highest value in ns.
    pub max_ns: u64,
    /// The sum of all values in ns.
    pub sum_ns: u128,
}

impl LatencySummary {
    /// Summarises a histogram. With `exact`, minimum, maximum and mean come from there instead of the buckets.
    ///
    /// # Errors
    /// A histogram that is not in ns.
    pub fn new(_histogram: Histogram, _exact: Option<Exact>) -> Result<Self, HistError> {
        let _ = Unit::Ns;
        todo!()
    }
}
