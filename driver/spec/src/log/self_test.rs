//! Device Self-test (log page 06h).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::layout;
use crate::named::named_u8;
use crate::status::Status;

/// Device Self-test log page, 564 bytes (Base 2.0, section 5.16.1.7).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SelfTestLog {
    /// Current operation in bits 3:0: 0 = none in progress, 1 = short, 2 = extended, Eh = vendor specific.
    pub current_operation: u8,
    /// Completion of the current operation in bits 6:0, in percent.
    pub current_completion: u8,
    #[doc(hidden)]
    pub reserved2: [u8; 2],
    /// The last 20 results, newest first.
    pub results: [SelfTestResult; 20],
}

layout!(SelfTestLog, 564, { current_operation: 0, current_completion: 1, results: 4 });

impl SelfTestLog {
    /// Percent done of the operation in progress, None if there is none. Up to 127 if the device says so.
    pub const fn progress_percent(&self) -> Option<u8> {
        match self.current_operation & 0xF {
            0 => None,
            _ => Some(self.current_completion & 0x7F),
        }
    }
}

/// Self-test Result, 28 bytes (Base 2.0, section 5.16.1.7). Which of its fields hold is said by
/// [`valid`](Self::valid); the accessors heed it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SelfTestResult {
    /// Result in bits 3:0 ([`SelfTestResultCode`]), code of the operation in bits 7:4 (1 = short, 2 = extended).
    pub status: u8,
    /// Segment that failed first, if the result is 7.
    pub segment: u8,
    /// Valid Diagnostic Information: bit 0 NSID, bit 1 failing LBA, bit 2 SCT, bit 3 SC.
    pub valid: u8,
    #[doc(hidden)]
    pub reserved3: u8,
    /// Power On Hours when the test ended.
    pub power_on_hours: U64,
    /// Namespace of the failing LBA.
    pub nsid: U32,
    /// LBA that caused the failure.
    pub failing_lba: U64,
    /// Status Code Type in bits 2:0.
    pub sct: u8,
    /// Status Code.
    pub sc: u8,
    /// Vendor specific.
    pub vendor: U16,
}

layout!(SelfTestResult, 28, {
    status: 0, segment: 1, valid: 2, power_on_hours: 4, nsid: 12, failing_lba: 16, sct: 24, sc: 25, vendor: 26,
});

impl SelfTestResult {
    /// How the test ended.
    pub const fn result(&self) -> SelfTestResultCode {
        SelfTestResultCode(self.status & 0xF)
    }

    /// Which test it was: 1 = short, 2 = extended, Eh = vendor specific.
    pub const fn operation(&self) -> u8 {
        self.status >> 4
    }

    /// True if the entry holds a result.
    pub fn is_used(&self) -> bool {
        self.result() != SelfTestResultCode::UNUSED
    }

    /// Namespace of the failing LBA, if valid.
    pub fn valid_nsid(&self) -> Option<u32> {
        (self.valid & 1 != 0).then(|| self.nsid.get())
    }

    /// LBA that caused the failure, if valid.
    pub fn valid_failing_lba(&self) -> Option<u64> {
        (self.valid & 0b10 != 0).then(|| self.failing_lba.get())
    }

    /// Status of the failure, if both type and code are valid.
    pub fn valid_status(&self) -> Option<Status> {
        (self.valid & 0b1100 == 0b1100).then(|| Status::new(self.sct, self.sc))
    }
}

named_u8! {
    /// Self-test result, four bits (Base 2.0, section 5.16.1.7).
    SelfTestResultCode, "result" {
        PASSED = 0x0, "Operation completed without error";
        ABORTED_BY_COMMAND = 0x1, "Operation was aborted by a Device Self-test command";
        ABORTED_BY_RESET = 0x2, "Operation was aborted by a Controller Level Reset";
        ABORTED_BY_NAMESPACE_REMOVAL = 0x3, "Operation was aborted due to a removal of a namespace";
        ABORTED_BY_FORMAT = 0x4, "Operation was aborted due to the processing of a Format NVM command";
        FATAL_ERROR = 0x5, "A fatal error occurred and the operation did not complete";
        FAILED_SEGMENT_UNKNOWN = 0x6, "Operation completed with a segment that failed, which one is not known";
        FAILED_SEGMENT = 0x7, "Operation completed with one or more failed segments";
        ABORTED_UNKNOWN = 0x8, "Operation was aborted for an unknown reason";
        ABORTED_BY_SANITIZE = 0x9, "Operation was aborted due to a sanitize operation";
        UNUSED = 0xF, "Entry not used";
    }
}
