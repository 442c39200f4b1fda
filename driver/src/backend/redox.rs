//! A controller on Redox: what pcid hands to its driver, by the kernel's calls ([`System`](crate::redox::System)).
//!
//! Compiled on every 64-bit system, since nothing in here calls the kernel but through that seam.

pub mod pcid;
#[allow(dead_code, reason = "whatever makes waiters comes next")]
pub(crate) mod waiter;

#[cfg(test)]
mod fake;
