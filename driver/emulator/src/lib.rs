//! A software NVMe controller.
#![forbid(unsafe_code)]

mod doze;
mod host;

pub use doze::Doze;
pub use host::{CountedInterrupts, DmaFault, HostMemory, Interrupts, NoInterrupts, VecMemory};
