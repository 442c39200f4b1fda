//! A software NVMe controller.
#![forbid(unsafe_code)]

mod config;
mod device;
mod doze;
mod engine;
mod error_log;
mod fault;
mod held;
mod host;
mod latency;
mod namespace;
mod nvm;
mod registers;
mod rings;
mod storage;
mod tally;
mod transfer;

pub use config::{Backing, Config, ConfigError, Latency, NamespaceConfig, Ready, SPEC_KEYS};
pub use doze::Doze;
pub use fault::{Action, Fault, FaultId, Faults, QueueMatch};
pub use host::{CountedInterrupts, DmaFault, HostMemory, Interrupts, NoInterrupts, VecMemory};
pub use registers::Registers;
pub use tally::{DeviceCounters, OpcodeCounters, QueueCounters};
pub use latency::LatencyModel;
pub use namespace::{Format, Namespace};
pub use nvm::{Limits, Outcome, execute};
pub use storage::{FileStorage, SparseMemory, Storage, StorageError};
pub use transfer::{Cursor, DataPointer, Scratch, Segment, map};
