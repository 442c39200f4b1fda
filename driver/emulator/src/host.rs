//! What the device sees of the machine it is plugged into: memory it reaches by DMA, and interrupts it can raise.

mod vec_memory;

pub use vec_memory::VecMemory;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A DMA access that the host's memory refused: the address is not mapped for the device, or the range runs out of the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "DMA of {len_bytes} bytes at {address:#x} was refused: map that memory for the device before giving it the address"
)]
pub struct DmaFault {
    /// First bus address of the access.
    pub address: u64,
    /// Length of the access, in bytes.
    pub len_bytes: u64,
}

/// Memory that the device reaches by DMA.
///
/// Addresses are bus addresses, as the driver puts them in PRPs, SGLs and queue base registers. An access is either done whole or refused; a refused
/// access may have moved some of its bytes. Bytes may change under the device at any time, as on hardware: nothing that is read twice is the same.
pub trait HostMemory: Send + Sync {
    /// Copies `into.len()` bytes from `address` to `into`.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault>;

    /// Copies `from` to `address`.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault>;

    /// Reads the little-endian 32-bit word at `address` (a multiple of 4) as one access, with acquire ordering.
    fn load_u32(&self, address: u64) -> Result<u32, DmaFault>;

    /// Writes the little-endian 32-bit word at `address` (a multiple of 4) as one access, with release ordering: who loads it with acquire also
    /// sees all that the device wrote before it.
    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault>;
}

/// Doorbells in memory that the host stores to without the device being told: a page that it shares with the process that
/// the device runs in, say.
///
/// The device then looks at them of its own accord, see [`Emulator::with_doorbells`](crate::Emulator::with_doorbells).
pub trait DoorbellMemory: Send + Sync {
    /// The words from BAR0 + 1000h on, the same at every call. A doorbell beyond their end always reads 0.
    fn words(&self) -> &[AtomicU32];
}

/// Where interrupt messages go.
pub trait Interrupts: Send + Sync {
    /// Signals interrupt `vector`. Called after the completion entries it announces are visible in memory, from a thread of the device; it must not
    /// block and must not call into the device.
    fn raise(&self, vector: u16);
}

/// Interrupts that are dropped: for a host that polls.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoInterrupts;

impl Interrupts for NoInterrupts {
    fn raise(&self, _vector: u16) {}
}

/// Interrupts that are only counted, per vector: for a host that polls and wants to know what it would have been told.
#[derive(Debug)]
pub struct CountedInterrupts {
    raised: Vec<AtomicU64>,
}

impl CountedInterrupts {
    /// Counts vectors `0..vectors`; what is raised beyond is ignored.
    pub fn new(vectors: u16) -> Self {
        Self {
            raised: (0..vectors).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How often `vector` was raised.
    pub fn raised(&self, vector: u16) -> u64 {
        self.raised
            .get(usize::from(vector))
            .map_or(0, |count| count.load(Ordering::Acquire))
    }
}

impl Interrupts for CountedInterrupts {
    fn raise(&self, vector: u16) {
        if let Some(count) = self.raised.get(usize::from(vector)) {
            count.fetch_add(1, Ordering::Release);
        }
    }
}
