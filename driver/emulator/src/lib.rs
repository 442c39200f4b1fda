//! A software NVMe controller.
#![forbid(unsafe_code)]

mod admin;
mod config;
mod controller;
mod device;
mod doze;
mod emulator;
mod engine;
mod error_log;
mod fault;
mod held;
mod host;
mod latency;
mod namespace;
mod namespaces;
mod nvm;
mod registers;
mod rings;
mod shard;
mod storage;
mod tally;
mod threads;
mod transfer;

pub use config::{Backing, Config, ConfigError, Latency, NamespaceConfig, Ready, SPEC_KEYS};
pub use doze::Doze;
pub use emulator::{Emulator, EmulatorError, Step};
pub use fault::{Action, Fault, FaultId, Faults, QueueMatch};
pub use host::{CountedInterrupts, DmaFault, HostMemory, Interrupts, NoInterrupts, VecMemory};
pub use latency::LatencyModel;
pub use namespace::{Format, Namespace};
pub use nvm::{Limits, Outcome, execute};
pub use registers::Registers;
pub use storage::{FileStorage, SparseMemory, Storage, StorageError};
pub use tally::{DeviceCounters, OpcodeCounters, QueueCounters};
pub use threads::Running;
pub use transfer::{Cursor, DataPointer, Scratch, Segment, map};
