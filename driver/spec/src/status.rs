//! The status field of a completion: a code type, a code, and what may be done about it.

use core::fmt;

/// Status Code Type: generic command status.
pub const SCT_GENERIC: u8 = 0;
/// Status Code Type: command specific status.
pub const SCT_COMMAND_SPECIFIC: u8 = 1;
/// Status Code Type: media and data integrity errors.
pub const SCT_MEDIA: u8 = 2;
/// Status Code Type: path related status.
pub const SCT_PATH: u8 = 3;
/// Status Code Type: vendor specific.
pub const SCT_VENDOR: u8 = 7;

/// The 15-bit status field without the phase (Base 2.0, section 3.3.3.2.1): SC in bits 7:0, SCT in bits 10:8, CRD in
/// bits 12:11, More in bit 13, Do Not Retry in bit 14. Bit 15 is no part of it and is ignored.
///
/// Equality compares the whole field. To compare against a constant, which has neither DNR, More nor CRD, compare
/// [`code`](Self::code)s or use [`is`](Self::is).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(pub u16);

const MORE: u16 = 1 << 13;
const DNR: u16 = 1 << 14;

impl Status {
    /// A status of type `sct` (3 bits) and code `sc`, with CRD, More and DNR clear.
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self((sct as u16 & 0b111) << 8 | sc as u16)
    }

    /// Status Code Type (`SCT_*`).
    pub const fn sct(self) -> u8 {
        (self.0 >> 8) as u8 & 0b111
    }

    /// Status Code, to be read together with [`sct`](Self::sct).
    pub const fn sc(self) -> u8 {
        self.0 as u8
    }

    /// Command Retry Delay: 0 = retry at once, 1 to 3 = wait for Identify Controller's CRDT1 to CRDT3.
    pub const fn crd(self) -> u8 {
        (self.0 >> 11) as u8 & 0b11
    }

    /// More: the Error Information log page holds more about this command.
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Do Not Retry: the same command will fail again.
    pub const fn dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// The same status with Do Not Retry as given.
    pub const fn with_dnr(self, dnr: bool) -> Self {
        Self(if dnr { self.0 | DNR } else { self.0 & !DNR })
    }

    /// The same status with More as given.
    pub const fn with_more(self, more: bool) -> Self {
        Self(if more { self.0 | MORE } else { self.0 & !MORE })
    }

    /// The same status with the Command Retry Delay (2 bits) as given.
    pub const fn with_crd(self, crd: u8) -> Self {
        Self(self.0 & !(0b11 << 11) | (crd as u16 & 0b11) << 11)
    }

    /// True if the command succeeded: SCT and SC are zero, whatever the other bits.
    pub const fn is_success(self) -> bool {
        self.code() == 0
    }

    /// `SCT << 8 | SC`, without DNR, More and CRD: the key under which a status is counted.
    pub const fn code(self) -> u16 {
        self.0 & 0x7FF
    }

    /// True if type and code are those of `other`, whatever DNR, More and CRD.
    pub const fn is(self, other: Self) -> bool {
        self.code() == other.code()
    }
}

impl fmt::Display for Status {
    /// `Invalid Field in Command (SCT 0h SC 02h, DNR)`, or `status SCT 7h SC 12h` where there is no name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match name {
            Some(name) => write!(f, "{name} (")?,
            None => f.write_str("status ")?,
        }
        write!(f, "SCT {:X}h SC {:02X}h", self.sct(), self.sc())?;
        if self.crd() != 0 {
            write!(f, ", CRD {}", self.crd())?;
        }
        if self.more() {
            f.write_str(", More")?;
        }
        if self.dnr() {
            f.write_str(", DNR")?;
        }
        if name.is_some() { f.write_str(")") } else { Ok(()) }
    }
}

macro_rules! statuses {
    ($($name:ident = ($sct:literal, $sc:literal), $text:literal;)*) => {
        impl Status {
            $(#[doc = $text] pub const $name: Self = Self::new($sct, $sc);)*

            /// Every status that has a name, in ascending order of [`code`](Self::code).
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The specification's name of the status, None for one this crate does not know.
            pub const fn name(self) -> Option<&'static str> {
                match (self.sct(), self.sc()) {
                    $(($sct, $sc) => Some($text),)*
                    _ => None,
                }
            }
        }
    };
}

// Codes 80h and up depend on the I/O command set; these are the NVM Command Set's. The Fabrics and Key Value meanings
// of the same codes are left out.
statuses! {
    SUCCESS = (0, 0x00), "Successful Completion";
    INVALID_OPCODE = (0, 0x01), "Invalid Command Opcode";
    INVALID_FIELD = (0, 0x02), "Invalid Field in Command";
    COMMAND_ID_CONFLICT = (0, 0x03), "Command ID Conflict";
    DATA_TRANSFER_ERROR = (0, 0x04), "Data Transfer Error";
    ABORTED_POWER_LOSS = (0, 0x05), "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = (0, 0x06), "Internal Error";
    ABORT_REQUESTED = (0, 0x07), "Command Abort Requested";
    ABORTED_SQ_DELETION = (0, 0x08), "Command Aborted due to SQ Deletion";
    ABORTED_FAILED_FUSED = (0, 0x09), "Command Aborted due to Failed Fused Command";
    ABORTED_MISSING_FUSED = (0, 0x0A), "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE_OR_FORMAT = (0, 0x0B), "Invalid Namespace or Format";
    COMMAND_SEQUENCE_ERROR = (0, 0x0C), "Command Sequence Error";
    INVALID_SGL_SEGMENT_DESCRIPTOR = (0, 0x0D), "Invalid SGL Segment Descriptor";
    INVALID_NUMBER_OF_SGL_DESCRIPTORS = (0, 0x0E), "Invalid Number of SGL Descriptors";
    DATA_SGL_LENGTH_INVALID = (0, 0x0F), "Data SGL Length Invalid";
    METADATA_SGL_LENGTH_INVALID = (0, 0x10), "Metadata SGL Length Invalid";
    SGL_DESCRIPTOR_TYPE_INVALID = (0, 0x11), "SGL Descriptor Type Invalid";
    INVALID_USE_OF_CMB = (0, 0x12), "Invalid Use of Controller Memory Buffer";
    INVALID_PRP_OFFSET = (0, 0x13), "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = (0, 0x14), "Atomic Write Unit Exceeded";
    OPERATION_DENIED = (0, 0x15), "Operation Denied";
    SGL_OFFSET_INVALID = (0, 0x16), "SGL Offset Invalid";
    HOST_IDENTIFIER_INCONSISTENT_FORMAT = (0, 0x18), "Host Identifier Inconsistent Format";
    KEEP_ALIVE_TIMER_EXPIRED = (0, 0x19), "Keep Alive Timer Expired";
    KEEP_ALIVE_TIMEOUT_INVALID = (0, 0x1A), "Keep Alive Timeout Invalid";
    ABORTED_PREEMPT_AND_ABORT = (0, 0x1B), "Command Aborted due to Preempt and Abort";
    SANITIZE_FAILED = (0, 0x1C), "Sanitize Failed";
    SANITIZE_IN_PROGRESS = (0, 0x1D), "Sanitize In Progress";
    SGL_DATA_BLOCK_GRANULARITY_INVALID = (0, 0x1E), "SGL Data Block Granularity Invalid";
    COMMAND_NOT_SUPPORTED_FOR_QUEUE_IN_CMB = (0, 0x1F), "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = (0, 0x20), "Namespace is Write Protected";
    COMMAND_INTERRUPTED = (0, 0x21), "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = (0, 0x22), "Transient Transport Error";
    COMMAND_PROHIBITED_BY_LOCKDOWN = (0, 0x23), "Command Prohibited by Command and Feature Lockdown";
    ADMIN_COMMAND_MEDIA_NOT_READY = (0, 0x24), "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = (0, 0x80), "LBA Out of Range";
    CAPACITY_EXCEEDED = (0, 0x81), "Capacity Exceeded";
    NAMESPACE_NOT_READY = (0, 0x82), "Namespace Not Ready";
    RESERVATION_CONFLICT = (0, 0x83), "Reservation Conflict";
    FORMAT_IN_PROGRESS = (0, 0x84), "Format In Progress";

    COMPLETION_QUEUE_INVALID = (1, 0x00), "Completion Queue Invalid";
    INVALID_QUEUE_IDENTIFIER = (1, 0x01), "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = (1, 0x02), "Invalid Queue Size";
    ABORT_COMMAND_LIMIT_EXCEEDED = (1, 0x03), "Abort Command Limit Exceeded";
    ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED = (1, 0x05), "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = (1, 0x06), "Invalid Firmware Slot";
    INVALID_FIRMWARE_IMAGE = (1, 0x07), "Invalid Firmware Image";
    INVALID_INTERRUPT_VECTOR = (1, 0x08), "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = (1, 0x09), "Invalid Log Page";
    INVALID_FORMAT = (1, 0x0A), "Invalid Format";
    FIRMWARE_NEEDS_CONVENTIONAL_RESET = (1, 0x0B), "Firmware Activation Requires Conventional Reset";
    INVALID_QUEUE_DELETION = (1, 0x0C), "Invalid Queue Deletion";
    FEATURE_IDENTIFIER_NOT_SAVEABLE = (1, 0x0D), "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = (1, 0x0E), "Feature Not Changeable";
    FEATURE_NOT_NAMESPACE_SPECIFIC = (1, 0x0F), "Feature Not Namespace Specific";
    FIRMWARE_NEEDS_SUBSYSTEM_RESET = (1, 0x10), "Firmware Activation Requires NVM Subsystem Reset";
    FIRMWARE_NEEDS_CONTROLLER_RESET = (1, 0x11), "Firmware Activation Requires Controller Level Reset";
    FIRMWARE_NEEDS_MAXIMUM_TIME_VIOLATION = (1, 0x12), "Firmware Activation Requires Maximum Time Violation";
    FIRMWARE_ACTIVATION_PROHIBITED = (1, 0x13), "Firmware Activation Prohibited";
    OVERLAPPING_RANGE = (1, 0x14), "Overlapping Range";
    NAMESPACE_INSUFFICIENT_CAPACITY = (1, 0x15), "Namespace Insufficient Capacity";
    NAMESPACE_IDENTIFIER_UNAVAILABLE = (1, 0x16), "Namespace Identifier Unavailable";
    NAMESPACE_ALREADY_ATTACHED = (1, 0x18), "Namespace Already Attached";
    NAMESPACE_IS_PRIVATE = (1, 0x19), "Namespace Is Private";
    NAMESPACE_NOT_ATTACHED = (1, 0x1A), "Namespace Not Attached";
    THIN_PROVISIONING_NOT_SUPPORTED = (1, 0x1B), "Thin Provisioning Not Supported";
    CONTROLLER_LIST_INVALID = (1, 0x1C), "Controller List Invalid";
    SELF_TEST_IN_PROGRESS = (1, 0x1D), "Device Self-test In Progress";
    BOOT_PARTITION_WRITE_PROHIBITED = (1, 0x1E), "Boot Partition Write Prohibited";
    INVALID_CONTROLLER_IDENTIFIER = (1, 0x1F), "Invalid Controller Identifier";
    INVALID_SECONDARY_CONTROLLER_STATE = (1, 0x20), "Invalid Secondary Controller State";
    INVALID_NUMBER_OF_CONTROLLER_RESOURCES = (1, 0x21), "Invalid Number of Controller Resources";
    INVALID_RESOURCE_IDENTIFIER = (1, 0x22), "Invalid Resource Identifier";
    SANITIZE_PROHIBITED_PMR_ENABLED = (1, 0x23), "Sanitize Prohibited While Persistent Memory Region is Enabled";
    ANA_GROUP_IDENTIFIER_INVALID = (1, 0x24), "ANA Group Identifier Invalid";
    ANA_ATTACH_FAILED = (1, 0x25), "ANA Attach Failed";
    INSUFFICIENT_CAPACITY = (1, 0x26), "Insufficient Capacity";
    NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED = (1, 0x27), "Namespace Attachment Limit Exceeded";
    PROHIBITION_NOT_SUPPORTED = (1, 0x28), "Prohibition of Command Execution Not Supported";
    IO_COMMAND_SET_NOT_SUPPORTED = (1, 0x29), "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = (1, 0x2A), "I/O Command Set Not Enabled";
    IO_COMMAND_SET_COMBINATION_REJECTED = (1, 0x2B), "I/O Command Set Combination Rejected";
    INVALID_IO_COMMAND_SET = (1, 0x2C), "Invalid I/O Command Set";
    IDENTIFIER_UNAVAILABLE = (1, 0x2D), "Identifier Unavailable";
    CONFLICTING_ATTRIBUTES = (1, 0x80), "Conflicting Attributes";
    INVALID_PROTECTION_INFORMATION = (1, 0x81), "Invalid Protection Information";
    ATTEMPTED_WRITE_TO_READ_ONLY_RANGE = (1, 0x82), "Attempted Write to Read Only Range";
    COMMAND_SIZE_LIMIT_EXCEEDED = (1, 0x83), "Command Size Limit Exceeded";

    WRITE_FAULT = (2, 0x80), "Write Fault";
    UNRECOVERED_READ_ERROR = (2, 0x81), "Unrecovered Read Error";
    END_TO_END_GUARD_CHECK_ERROR = (2, 0x82), "End-to-end Guard Check Error";
    END_TO_END_APPLICATION_TAG_CHECK_ERROR = (2, 0x83), "End-to-end Application Tag Check Error";
    END_TO_END_REFERENCE_TAG_CHECK_ERROR = (2, 0x84), "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = (2, 0x85), "Compare Failure";
    ACCESS_DENIED = (2, 0x86), "Access Denied";
    DEALLOCATED_OR_UNWRITTEN_LOGICAL_BLOCK = (2, 0x87), "Deallocated or Unwritten Logical Block";
    END_TO_END_STORAGE_TAG_CHECK_ERROR = (2, 0x88), "End-to-End Storage Tag Check Error";

    INTERNAL_PATH_ERROR = (3, 0x00), "Internal Path Error";
    ASYMMETRIC_ACCESS_PERSISTENT_LOSS = (3, 0x01), "Asymmetric Access Persistent Loss";
    ASYMMETRIC_ACCESS_INACCESSIBLE = (3, 0x02), "Asymmetric Access Inaccessible";
    ASYMMETRIC_ACCESS_TRANSITION = (3, 0x03), "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = (3, 0x60), "Controller Pathing Error";
    HOST_PATHING_ERROR = (3, 0x70), "Host Pathing Error";
    ABORTED_BY_HOST = (3, 0x71), "Command Aborted By Host";
}

#[cfg(test)]
mod tests;
