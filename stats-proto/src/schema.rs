//! The JSON Schema files (draft 2020-12) of the documents, as text.
//!
//! They describe exactly what this version writes: every member is described, required members are listed,
//! and members that are not listed are refused. A reader of documents of a later minor version should use
//! that version's file, or none: this crate's types skip members that they do not know.

#[cfg(test)]
mod tests;

/// `schema/nvme-stats-1.4.json`: [`crate::stats::StatsDocument`].
pub const STATS: &str = include_str!("../schema/nvme-stats-1.4.json");

/// `schema/nvme-bench-1.1.json`: [`crate::bench::BenchJob`] and each [`crate::bench::BenchLine`].
pub const BENCH: &str = include_str!("../schema/nvme-bench-1.1.json");

/// `schema/nvme-event-1.2.json`: [`crate::event::EventLine`].
pub const EVENT: &str = include_str!("../schema/nvme-event-1.2.json");

/// `schema/nvme-slow-1.1.json`: [`crate::slow::SlowCommand`].
pub const SLOW: &str = include_str!("../schema/nvme-slow-1.1.json");
