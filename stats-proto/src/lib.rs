//! The JSON documents that the NVMe driver and `nvmectl` share.
#![forbid(unsafe_code)]

pub mod bench;
pub mod big_int;
pub mod hist;
pub mod stats;
mod version;

pub use version::{Version, VersionError};
