//! The JSON documents that the NVMe driver and `nvmectl` share.
#![forbid(unsafe_code)]

pub mod bench;
pub mod big_int;
pub mod hist;
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
