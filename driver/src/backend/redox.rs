//! A controller on Redox: what pcid hands to its driver, by the kernel's calls ([`System`](crate::redox::System)).
//!
//! Compiled on every 64-bit system, since nothing in here calls the kernel but through that seam.

pub mod pcid;

#[cfg(test)]
mod fake;
