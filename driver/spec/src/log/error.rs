//! Error Information (log page 01h).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;
use crate::status::Status;

/// One entry of the Error Information log page, 64 bytes, newest first (Base 2.0, section 5.16.1.2). All zero = unused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ErrorLogEntry {
    /// Error Count: counts up over the life of the controller, 0 = the entry is unused.
    pub error_count: U64,
    /// Submission Queue ID, FFFFh = the error belongs to no command.
    pub sqid: U16,
    /// Command ID, FFFFh = the error belongs to no command.
    pub cid: U16,
    /// Status field in bits 15:1 and perhaps the phase in bit 0, as in a completion; see [`status`](Self::status).
    pub status_phase: U16,
    /// Parameter Error Location: byte of the command in bits 7:0, bit in bits 10:8, FFFFh = no particular parameter.
    pub parameter_error_location: U16,
    /// First LBA that had the error.
    pub lba: U64,
    /// Namespace the error was in.
    pub nsid: U32,
    /// Vendor Specific Information Available: a log page with more, 0 = none.
    pub vendor_log_page: u8,
    /// Transport Type.
    pub trtype: u8,
    #[doc(hidden)]
    pub reserved30: [u8; 2],
    /// Command Specific Information.
    pub command_specific: U64,
    /// Transport Type Specific Information.
    pub transport_specific: U16,
    #[doc(hidden)]
    pub reserved42: [u8; 22],
}

layout!(ErrorLogEntry, 64, {
    error_count: 0, sqid: 8, cid: 10, status_phase: 12, parameter_error_location: 14, lba: 16, nsid: 24,
    vendor_log_page: 28, trtype: 29, command_specific: 32, transport_specific: 40,
});

impl ErrorLogEntry {
    /// Status of the command.
    pub const fn status(&self) -> Status {
        Status(self.status_phase.get() >> 1)
    }

    /// True if the entry holds an error.
    pub const fn is_used(&self) -> bool {
        self.error_count.get() != 0
    }
}
