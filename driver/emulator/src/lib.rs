//! A software NVMe controller.
#![forbid(unsafe_code)]

mod config;
mod doze;
mod fault;
mod host;
mod registers;

pub use config::{Backing, Config, ConfigError, Latency, NamespaceConfig, Ready, SPEC_KEYS};
pub use doze::Doze;
pub use fault::{Action, Fault, FaultId, Faults, QueueMatch};
pub use host::{CountedInterrupts, DmaFault, HostMemory, Interrupts, NoInterrupts, VecMemory};
pub use registers::Registers;
