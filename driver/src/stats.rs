//! What a queue counts, and how it is read without stopping it.
//!
//! Each queue pair owns a `QueueRecorder`, which is the only writer of its counters: a relaxed load and a relaxed
//! store each, no read-modify-write. A reader takes a [`QueueSnapshot`] through the [`QueueStats`] that both share.
//!
//! **How a snapshot is consistent.** The writer makes a sequence number odd before it changes anything and even after
//! (a seqlock), so a reader that sees the same even number before and after its copy has copied one moment. A queue
//! under full load hardly ever leaves a reader the microseconds that it needs; then the reader asks, and the writer
//! itself leaves a copy between two passes. A writer that sleeps, or hangs with commands out, does not change
//! anything, so the first way works. If neither does within bounds, the snapshot says that it is not consistent.
//!
//! Definitions (they differ from those of many tools):
//! - *device latency*: doorbell written to completion seen. *host latency*: request accepted to doorbell written.
//! - *inflight*: submitted minus completed. A command counts as submitted when its doorbell is written.
//! - `qd_time_integral_ns`: the sum over time of inflight; its growth divided by the time that passed is the mean
//!   queue depth, also while commands hang. `active_ns`: time with at least one command out. `full_ns`: time with no
//!   room for one more.
//!
//! Without the feature `performance-counters` the recorder is an empty struct and nothing of this is compiled.

use nvme_spec::NvmOpcode;

#[cfg(feature = "performance-counters")]
mod recorder;
#[cfg(feature = "performance-counters")]
mod shared;
#[cfg(feature = "performance-counters")]
pub(crate) use recorder::QueueRecorder;
#[cfg(feature = "performance-counters")]
pub use shared::{Counters, NamespaceOp, OpSnapshot, QueueSnapshot, QueueStats};

#[cfg(not(feature = "performance-counters"))]
mod absent;
#[cfg(not(feature = "performance-counters"))]
pub(crate) use absent::QueueRecorder;
#[cfg(not(feature = "performance-counters"))]
pub use absent::{QueueSnapshot, QueueStats};

pub(crate) mod document;
mod health;

/// What a command is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OpClass {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
    /// Dataset Management.
    Dsm,
    /// Write Zeroes.
    WriteZeroes,
    /// Compare.
    Compare,
    /// Verify.
    Verify,
    /// Any admin command.
    Admin,
    /// Any other I/O command.
    Other,
}

impl OpClass {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Dsm,
        Self::WriteZeroes,
        Self::Compare,
        Self::Verify,
        Self::Admin,
        Self::Other,
    ];

    /// The key in the stats document.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Dsm => "dsm",
            Self::WriteZeroes => "write_zeroes",
            Self::Compare => "compare",
            Self::Verify => "verify",
            Self::Admin => "admin",
            Self::Other => "other",
        }
    }

    /// The class of an I/O command.
    pub fn of_nvm(opcode: u8) -> Self {
        match NvmOpcode(opcode) {
            NvmOpcode::READ => Self::Read,
            NvmOpcode::WRITE => Self::Write,
            NvmOpcode::FLUSH => Self::Flush,
            NvmOpcode::DATASET_MANAGEMENT => Self::Dsm,
            NvmOpcode::WRITE_ZEROES => Self::WriteZeroes,
            NvmOpcode::COMPARE => Self::Compare,
            NvmOpcode::VERIFY => Self::Verify,
            _ => Self::Other,
        }
    }
}

/// Something wrong with a completion entry. It is counted and, but for [`Rejected::BadSqhd`], whose command has
/// completed all the same, logged and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// No slot has that number.
    UnknownCid,
    /// The slot is in use again: its generation has moved on, or it has not been handed to the device yet.
    StaleCid,
    /// The slot's last command had this id and has completed already.
    DuplicateCid,
    /// The submission queue head pointer is beyond the queue.
    BadSqhd,
    /// Another queue's number.
    BadSqid,
}

#[cfg(all(test, feature = "performance-counters"))]
mod tests;
