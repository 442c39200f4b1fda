//! What no driver may do, remembered so that a test can say that there was none of it.

use std::fmt;

/// Why a device found nothing at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// No page ever had this address.
    NeverThere,
    /// The page that had it was taken back: a client's, whose call is answered, or one that was unmapped.
    Gone,
    /// A client lent it to be read and not to be written.
    LentForReading,
    /// It is registers and no memory.
    NoMemory,
}

/// Something that the driver did and should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It told a device an address that the device then was refused at.
    Dma {
        /// Physical address.
        address: u64,
        /// Whether the device wanted to write there.
        writes: bool,
        /// Why it was refused.
        why: Stray,
    },
    /// It unmapped what is no mapping of its own, or not all of it.
    Unmap {
        /// Virtual address.
        address: usize,
        /// How much of it.
        len_bytes: usize,
    },
    /// It used, or closed, a descriptor that is not open.
    Descriptor {
        /// Its number.
        number: usize,
    },
    /// It programmed a message that no handler waits for.
    Message {
        /// Where the device sent it.
        address: u64,
        /// What the device sent.
        data: u32,
    },
    /// It asked for an interrupt of a CPU that there is not: the kernel would not survive that.
    NoCpu {
        /// The CPU's number.
        cpu: u32,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dma { address, writes, why } => {
                let verb = if *writes { "write" } else { "read" };
                write!(f, "the device was told to {verb} {address:#x}: {why:?}")
            }
            Self::Unmap { address, len_bytes } => {
                write!(
                    f,
                    "{len_bytes} bytes at {address:#x} are no mapping that can be taken away"
                )
            }
            Self::Descriptor { number } => write!(f, "descriptor {number} is not open"),
            Self::Message { address, data } => {
                write!(f, "nobody waits for the message {data:#x} to {address:#x}")
            }
            Self::NoCpu { cpu } => write!(f, "there is no CPU {cpu}"),
        }
    }
}
