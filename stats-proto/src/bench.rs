//! What is written to and read from `nvme:N/bench`: a job in, JSON lines out.
//!
//! After a [`BenchJob`] was written, a read returns one JSON document per line: any number of
//! [`BenchProgress`], then one last line, a [`BenchResult`] or a [`BenchError`]. [`BenchLine`] reads any of
//! them.

mod fio;
mod job;
mod line;
mod result;

pub use fio::to_fio_json;
pub use job::{BenchJob, BenchJobSchema, JobError, JobPriority, MAX_DEADLINE_US, Pattern};
pub use line::{BenchError, BenchErrorSchema, BenchLine, BenchProgress, BenchProgressSchema, Phase};
pub use result::{
    BenchDevice, BenchJobResult, BenchResult, BenchResultSchema, Depth, Exact, Latencies, LatencySummary,
    PERCENTILES, Side,
};
