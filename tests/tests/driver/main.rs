//! The driver against the emulated controller, both with their threads.
#![forbid(unsafe_code)]

mod bringup;
mod classes;
mod failure;
mod hostile;
mod loads;
#[cfg(feature = "performance-counters")]
mod neighbours;
#[cfg(feature = "performance-counters")]
mod statistics;
mod verify;
