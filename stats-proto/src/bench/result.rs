use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::BenchJob;
use crate::Version;
use crate::big_int::{big_u64, big_u64_map, big_u64_option};
use crate::hist::{HistError, Histogram, Unit};
use crate::per_second;

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
    /// The integral over time of the requests handed to the driver and not yet answered, divided by the
    /// elapsed time; over all jobs their sum.
    pub mean: f64,
    /// The most requests that were outstanding at once; over all jobs the sum of theirs, which bounds it from
    /// above.
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
    /// Summarises a histogram in ns. With `exact`, minimum, maximum and mean come from there instead of the
    /// buckets, and no percentile exceeds the maximum (a bucket's upper edge may).
    ///
    /// # Errors
    /// [`HistError::Units`] for a histogram that is not in ns.
    pub fn new(histogram: Histogram, exact: Option<Exact>) -> Result<Self, HistError> {
        let exact = exact.filter(|_| !histogram.is_empty());
        let mean = exact.map(|exact| exact.sum_ns as f64 / histogram.count() as f64);
        let edges = (exact.map(|exact| exact.min_ns), exact.map(|exact| exact.max_ns));
        Self::summarise(histogram, edges, mean)
    }

    /// The summary of nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            min_ns: None,
            max_ns: None,
            mean_ns: None,
            stddev_ns: None,
            percentiles_ns: BTreeMap::new(),
            histogram: Histogram::empty(Unit::Ns),
        }
    }

    /// The summary of all values of several: histograms are added and percentiles are taken from the sum,
    /// never averaged.
    ///
    /// # Errors
    /// Histograms that cannot be added.
    pub fn merged<'a, I>(parts: I) -> Result<Self, HistError>
    where
        I: IntoIterator<Item = &'a Self>,
    {
        let mut histogram = Histogram::empty(Unit::Ns);
        let (mut min, mut max, mut sum) = (None::<u64>, None::<u64>, 0.0);
        for part in parts {
            histogram.add(&part.histogram)?;
            // `None` is less than everything, hence not `min` for both.
            min = min.into_iter().chain(part.min_ns).min();
            max = max.max(part.max_ns);
            sum += part.mean_ns.unwrap_or(0.0) * part.histogram.count() as f64;
        }
        let mean = (!histogram.is_empty()).then(|| sum / histogram.count() as f64);
        Self::summarise(histogram, (min, max), mean)
    }

    fn summarise(
        histogram: Histogram,
        (min_ns, max_ns): (Option<u64>, Option<u64>),
        mean_ns: Option<f64>,
    ) -> Result<Self, HistError> {
        if histogram.unit() != Unit::Ns {
            return Err(HistError::Units {
                left: Unit::Ns,
                right: histogram.unit(),
            });
        }
        let percentile = |key: &str| {
            let edge = histogram.quantile(key.parse::<f64>().ok()? / 100.0)?;
            Some((key.to_owned(), max_ns.map_or(edge, |max| edge.min(max))))
        };
        Ok(Self {
            min_ns: min_ns.or_else(|| histogram.min()),
            max_ns: max_ns.or_else(|| histogram.max()),
            mean_ns: mean_ns.or_else(|| histogram.mean()),
            stddev_ns: histogram.stddev(),
            percentiles_ns: PERCENTILES.iter().filter_map(|key| percentile(key)).collect(),
            histogram,
        })
    }
}

impl Depth {
    /// From time integrals in request-nanoseconds (device: command-nanoseconds) over `elapsed_ns`.
    #[must_use]
    pub fn new(asked: u32, max: u32, integral_ns: u128, device_integral_ns: u128, elapsed_ns: u64) -> Self {
        let mean = |integral_ns: u128| {
            if elapsed_ns == 0 {
                0.0
            } else {
                integral_ns as f64 / elapsed_ns as f64
            }
        };
        Self {
            asked,
            mean: mean(integral_ns),
            max,
            device_mean: mean(device_integral_ns),
        }
    }
}

/// The latency distributions of one side of a job, in ns.
#[derive(Clone, Debug, PartialEq)]
pub struct Latencies {
    /// From handing the request in to its answer.
    pub total: LatencySummary,
    /// From doorbell to completion.
    pub device: LatencySummary,
    /// From handing the request in to the doorbell.
    pub host: LatencySummary,
}

impl Side {
    /// From what was counted in `elapsed_ns`: the rates and the number of errors follow.
    #[must_use]
    pub fn new(
        ios: u64,
        bytes: u64,
        errors_by_status: BTreeMap<String, u64>,
        latencies: Latencies,
        elapsed_ns: u64,
    ) -> Self {
        let errors = errors_by_status
            .values()
            .fold(0, |sum: u64, &count| sum.saturating_add(count));
        Self {
            ios,
            bytes,
            errors,
            errors_by_status,
            iops: per_second(ios, elapsed_ns),
            bytes_per_s: per_second(bytes, elapsed_ns),
            latency_total: latencies.total,
            latency_device: latencies.device,
            latency_host: latencies.host,
        }
    }

    /// A side that did nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            ios: 0,
            bytes: 0,
            errors: 0,
            errors_by_status: BTreeMap::new(),
            iops: 0.0,
            bytes_per_s: 0.0,
            latency_total: LatencySummary::empty(),
            latency_device: LatencySummary::empty(),
            latency_host: LatencySummary::empty(),
        }
    }

    fn merged<'a>(parts: impl Iterator<Item = &'a Self> + Clone, elapsed_ns: u64) -> Result<Self, HistError> {
        let mut errors_by_status = BTreeMap::<String, u64>::new();
        for (status, &count) in parts.clone().flat_map(|part| &part.errors_by_status) {
            let sum = errors_by_status.entry(status.clone()).or_default();
            *sum = sum.saturating_add(count);
        }
        let sum = |of: fn(&Self) -> u64| parts.clone().map(of).fold(0, u64::saturating_add);
        let latencies = Latencies {
            total: LatencySummary::merged(parts.clone().map(|part| &part.latency_total))?,
            device: LatencySummary::merged(parts.clone().map(|part| &part.latency_device))?,
            host: LatencySummary::merged(parts.clone().map(|part| &part.latency_host))?,
        };
        Ok(Self::new(
            sum(|part| part.ios),
            sum(|part| part.bytes),
            errors_by_status,
            latencies,
            elapsed_ns,
        ))
    }
}

impl BenchJobResult {
    /// All jobs together. The elapsed time is the longest one's, counts and depths are sums, rates are counts
    /// by elapsed time, and latencies are those of [`LatencySummary::merged`].
    ///
    /// # Errors
    /// Histograms that cannot be added.
    pub fn total(jobs: &[Self]) -> Result<Self, HistError> {
        let elapsed_ns = jobs.iter().map(|job| job.elapsed_ns).max().unwrap_or(0);
        // A mean counts for as long as its job ran.
        let mean = |of: fn(&Depth) -> f64| {
            let integral: f64 = jobs
                .iter()
                .map(|job| of(&job.depth) * job.elapsed_ns as f64)
                .sum();
            if elapsed_ns == 0 {
                0.0
            } else {
                integral / elapsed_ns as f64
            }
        };
        let sum = |of: fn(&Depth) -> u32| jobs.iter().map(|job| of(&job.depth)).fold(0, u32::saturating_add);
        Ok(Self {
            job: None,
            qid: None,
            elapsed_ns,
            depth: Depth {
                asked: sum(|depth| depth.asked),
                mean: mean(|depth| depth.mean),
                max: sum(|depth| depth.max),
                device_mean: mean(|depth| depth.device_mean),
            },
            read: Side::merged(jobs.iter().map(|job| &job.read), elapsed_ns)?,
            write: Side::merged(jobs.iter().map(|job| &job.write), elapsed_ns)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hist::{MAX_VALUE, highest_value, index_of};
    use crate::sample;

    #[test]
    fn a_summary_has_exact_edges_and_percentiles_of_the_histogram() {
        let summary = sample::summary(&[80_001, 81_003, 950_007]);
        assert_eq!((summary.min_ns, summary.max_ns), (Some(80_001), Some(950_007)));
        assert_eq!(summary.mean_ns, Some((80_001 + 81_003 + 950_007) as f64 / 3.0));
        assert_eq!(summary.stddev_ns, summary.histogram.stddev());
        assert_eq!(summary.percentiles_ns.len(), PERCENTILES.len());
        assert_eq!(summary.percentiles_ns["50.00"], highest_value(index_of(81_003)));
        // The bucket's edge is above the highest value that there was.
        assert!(highest_value(index_of(950_007)) > 950_007);
        assert_eq!(summary.percentiles_ns["99.99"], 950_007);
    }

    #[test]
    fn without_exact_figures_a_summary_has_those_of_the_buckets() {
        let histogram = sample::histogram(Unit::Ns, &[1000, 2000]);
        let summary = LatencySummary::new(histogram.clone(), None).unwrap();
        assert_eq!(
            (summary.min_ns, summary.max_ns),
            (histogram.min(), histogram.max())
        );
        assert_eq!(summary.mean_ns, histogram.mean());
    }

    #[test]
    fn a_summary_of_nothing_is_empty_whatever_is_said_beside_it() {
        let exact = Exact {
            min_ns: 0,
            max_ns: 0,
            sum_ns: 0,
        };
        let summary = LatencySummary::new(Histogram::empty(Unit::Ns), Some(exact)).unwrap();
        assert_eq!(summary, LatencySummary::empty());
        let none: [&LatencySummary; 0] = [];
        assert_eq!(LatencySummary::merged(none).unwrap(), LatencySummary::empty());
    }

    #[test]
    fn a_summary_is_of_nanoseconds() {
        let error = LatencySummary::new(Histogram::empty(Unit::Count), None).unwrap_err();
        assert_eq!(
            error,
            HistError::Units {
                left: Unit::Ns,
                right: Unit::Count
            }
        );
    }

    /// 99 fast requests on one job and one slow one on the other: the mean of the two medians would be 25 ms.
    #[test]
    fn percentiles_of_several_are_those_of_the_sum() {
        let (fast, slow) = ([1000; 99], [50_000_000; 1]);
        let merged = LatencySummary::merged([&sample::summary(&fast), &sample::summary(&slow)]).unwrap();
        let together = sample::summary(&[&fast[..], &slow[..]].concat());
        assert_eq!(merged, together);
        assert_eq!(merged.percentiles_ns["50.00"], highest_value(index_of(1000)));
    }

    #[test]
    fn merging_with_nothing_changes_nothing() {
        let some = sample::summary(&[5, 5000, MAX_VALUE]);
        let merged =
            LatencySummary::merged([&LatencySummary::empty(), &some, &LatencySummary::empty()]).unwrap();
        assert_eq!(merged, some);
    }

    #[test]
    fn a_side_has_the_rates_of_its_counts() {
        let side = sample::side(&[80_000; 500], 250_000_000);
        assert_eq!(
            (side.ios, side.iops, side.bytes_per_s),
            (500, 2000.0, 2000.0 * 4096.0)
        );
        let at_once = sample::side(&[80_000], 0);
        assert_eq!((at_once.iops, at_once.bytes_per_s), (0.0, 0.0));
    }

    #[test]
    fn errors_are_the_sum_of_those_by_status() {
        let errors = BTreeMap::from([("Internal Error".to_owned(), 2), ("sct 7 sc 1".to_owned(), 3)]);
        let empty = Side::empty();
        let latencies = Latencies {
            total: empty.latency_total,
            device: empty.latency_device,
            host: empty.latency_host,
        };
        assert_eq!(Side::new(9, 0, errors, latencies, 1).errors, 5);
    }

    #[test]
    fn the_total_sums_counts_and_weighs_depths_by_time() {
        let result = sample::bench_result();
        let total = &result.total;
        assert_eq!(
            (total.job, total.qid, total.elapsed_ns),
            (None, None, 2_000_000_000)
        );
        assert_eq!(
            (total.read.ios, total.write.ios, total.read.bytes),
            (6, 2, 6 * 4096)
        );
        // Six reads in two seconds, though the second job took only one for its two.
        assert_eq!(total.read.iops, 3.0);
        assert_eq!((total.read.errors, total.read.errors_by_status.len()), (1, 1));
        assert_eq!((total.depth.asked, total.depth.max), (64, 62));
        // 32 for two seconds and 20 for one of the two; on the device 30 and 10.
        assert_eq!((total.depth.mean, total.depth.device_mean), (42.0, 35.0));
        let device = &total.read.latency_device;
        assert_eq!(
            (device.min_ns, device.max_ns, device.histogram.count()),
            (Some(500), Some(3_000_000), 6)
        );
    }

    #[test]
    fn the_total_of_one_job_is_that_job() {
        let job = sample::bench_result().jobs.remove(0);
        let total = BenchJobResult::total(std::slice::from_ref(&job)).unwrap();
        assert_eq!(
            total,
            BenchJobResult {
                job: None,
                qid: None,
                ..job
            }
        );
    }

    #[test]
    fn a_depth_over_no_time_is_no_nan() {
        assert_eq!(
            Depth::new(4, 1, 0, 0, 0),
            Depth {
                asked: 4,
                mean: 0.0,
                max: 1,
                device_mean: 0.0
            }
        );
    }
}
