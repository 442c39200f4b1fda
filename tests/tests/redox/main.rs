//! The driver as a daemon of Redox, with all its threads, over a model of the kernel's side.
#![cfg(target_os = "linux")]

mod cost;
mod data;
mod disks;
mod failure;
mod hostile;
#[cfg(feature = "multi-queue")]
mod listening;
mod nodes;
mod rig;
