//! The JSON documents that the NVMe driver and `nvmectl` share: their types, their JSON Schema files, and the
//! arithmetic that every reader needs.
//!
//! | document | written by | where | type | schema |
//! | --- | --- | --- | --- | --- |
//! | `nvme-stats` | the driver | `nvme:controller/stats`, `nvme:N/stats` | [`stats::StatsDocument`] | [`schema::STATS`] |
//! | `nvme-bench-job` | `nvmectl` | `nvme:N/bench` | [`bench::BenchJob`] | [`schema::BENCH`] |
//! | `nvme-bench-progress`, `-result`, `-error` | the driver | `nvme:N/bench` | [`bench::BenchLine`] | [`schema::BENCH`] |
//! | `nvme-event` | the driver | `nvme:controller/events` | [`event::EventLine`] | [`schema::EVENT`] |
//! | `nvme-slow` | the driver | `nvme:controller/slow` | [`slow::SlowCommand`] | [`schema::SLOW`] |
//!
//! Rules for all of them: keys are snake_case and end in their unit; what is not known is `null`; integers
//! above 2^53 are strings ([`big_int`]); the version is inside ([`Version`]); histograms are in [the form of
//! HdrHistogram](hist).
//!
//! What to do with them:
//! - [`stats::StatsDocument::interval`] subtracts two snapshots: rates, mean queue depth, interval
//!   histograms.
//! - [`stats::StatsDocument::check`] tells whether the figures of a snapshot fit together.
//! - [`hist::Histogram`] adds, subtracts and gives quantiles; [`hist::Histogram::to_hdr`] hands it to the
//!   crate hdrhistogram and its formats. [`hist::index_of`] is what a recorder calls for each value.
//! - [`bench::to_fio_json`] turns a benchmark's result into what fio prints.
//!
//! There is no I/O here, no clock and nothing of an operating system. Bytes that were read may be anything:
//! reading them gives an error or a value whose invariants hold. How large a document may be is for whoever
//! reads the file to bound.
//!
//! ```
//! use stats_proto::stats::StatsDocument;
//!
//! /// Reads per second of all I/O queues between two reads of `nvme:controller/stats`.
//! fn read_iops(earlier: &str, later: &str) -> Result<f64, Box<dyn std::error::Error>> {
//!     let earlier: StatsDocument = serde_json::from_str(earlier)?;
//!     let later: StatsDocument = serde_json::from_str(later)?;
//!     let interval = StatsDocument::interval(&earlier, &later)?;
//!     Ok(interval.io_ops.get("read").map_or(0.0, |read| read.iops))
//! }
//! ```
#![forbid(unsafe_code)]

pub mod bench;
pub mod big_int;
pub mod event;
pub mod hist;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod slow;
pub mod stats;
mod version;

pub use version::{Version, VersionError};

/// A count in `elapsed_ns` as a rate per second; 0 where no time has passed.
pub(crate) fn per_second(count: u64, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 {
        0.0
    } else {
        count as f64 * 1e9 / elapsed_ns as f64
    }
}
