//! A software NVMe controller.
#![forbid(unsafe_code)]

mod doze;
mod host;
mod registers;

pub use doze::Doze;
pub use host::{CountedInterrupts, DmaFault, HostMemory, Interrupts, NoInterrupts, VecMemory};
pub use registers::Registers;
