//! What backends on Linux share: how a thread sleeps, memory for DMA, and a BAR.
//!
//! | file | subject |
//! | --- | --- |
//! | [`waiter`] | a thread's sleep, on eventfds |
//! | [`memory`] | one arena of memory for DMA, in memfds |
//! | [`bar`] | registers, mapped or not, and doorbells |
//!
//! Calls of the system are rustix's.

pub mod bar;
pub mod memory;
pub mod waiter;
