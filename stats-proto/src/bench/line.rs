use serde::{Deserialize, Serialize};

use super::BenchResult;
use crate::Version;
use crate::big_int::{big_u64, big_u64_option};

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchProgressSchema {
    /// `"nvme-bench-progress"`.
    #[default]
    #[serde(rename = "nvme-bench-progress")]
    NvmeBenchProgress,
}

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchErrorSchema {
    /// `"nvme-bench-error"`.
    #[default]
    #[serde(rename = "nvme-bench-error")]
    NvmeBenchError,
}

/// What a benchmark is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Running, not yet measuring.
    Warmup,
    /// Measuring.
    Running,
    /// Over, waiting for the last requests.
    Draining,
}

/// How far a benchmark is, over all its jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchProgress {
    /// `"nvme-bench-progress"`.
    pub schema: BenchProgressSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// What it is doing.
    pub phase: Phase,
    /// The time since the phase began, in ns.
    #[serde(with = "big_u64")]
    pub elapsed_ns: u64,
    /// How long the phase will take, in ns; `null` if it ends with a number of requests.
    #[serde(with = "big_u64_option", default)]
    pub total_ns: Option<u64>,
    /// Requests answered since the phase began.
    #[serde(with = "big_u64")]
    pub ios_done: u64,
    /// Reads per second since the last progress line.
    pub read_iops: f64,
    /// Writes per second since the last progress line.
    pub write_iops: f64,
    /// Bytes read per second since the last progress line.
    pub read_bytes_per_s: f64,
    /// Bytes written per second since the last progress line.
    pub write_bytes_per_s: f64,
    /// Requests that failed since the phase began.
    #[serde(with = "big_u64")]
    pub errors: u64,
}

/// Why a benchmark has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchError {
    /// `"nvme-bench-error"`.
    pub schema: BenchErrorSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// What went wrong, why, and what to do next.
    pub error: String,
    /// The errno that fits it best, as a positive number of the system that the driver runs on.
    pub errno: i32,
}

/// One line that `nvme:N/bench` returns.
#[derive(Clone, Debug, PartialEq)]
pub enum BenchLine {
    /// More lines follow.
    Progress(BenchProgress),
    /// The last line of a benchmark that ran.
    Result(Box<BenchResult>),
    /// The last line of one that did not.
    Error(BenchError),
}

impl BenchLine {
    /// Reads one line by what its `schema` says it is.
    ///
    /// # Errors
    /// No JSON, a `schema` that is none of the three, or a document that does not fit it.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            schema: Kind,
        }
        #[derive(Deserialize)]
        enum Kind {
            #[serde(rename = "nvme-bench-progress")]
            Progress,
            #[serde(rename = "nvme-bench-result")]
            Result,
            #[serde(rename = "nvme-bench-error")]
            Error,
        }
        match serde_json::from_str::<Head>(line)?.schema {
            Kind::Progress => serde_json::from_str(line).map(Self::Progress),
            Kind::Result => serde_json::from_str(line).map(Self::Result),
            Kind::Error => serde_json::from_str(line).map(Self::Error),
        }
    }
}
