//! What backends on Linux share: how a thread sleeps, memory for DMA, and a BAR.
//!
//! | file | subject |
//! | --- | --- |
//! | [`waiter`] | a thread's sleep, on eventfds |
//! | [`memory`] | one arena of memory for DMA, in memfds |
//! | [`bar`] | registers, mapped or not, and doorbells |
//! | [`numa`] | memory and threads near a device |
//!
//! Calls of the system are rustix's, but for those of NUMA, which it does not have.

pub mod bar;
pub mod memory;
pub mod numa;
pub mod waiter;
