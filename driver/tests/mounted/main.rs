//! The daemon `nvme-driver` with its tree mounted, used by programs that know nothing of NVMe.
//!
//! Needs FUSE and root; what else a test needs it says. What is missing is said and skipped, and fails instead when
//! `NVME_TEST_REQUIRE=all` is set.
#![cfg(all(target_os = "linux", feature = "fuse"))]
#![forbid(unsafe_code)]

mod access;
mod concurrency;
mod crash;
mod data;
mod rig;
#[cfg(feature = "io-uring-compat")]
mod rings;
mod shutdown;
mod tools;
mod tree;
