//! NVMe-MI in band: messages of the management interface in NVMe-MI Send and NVMe-MI Receive (NVMe-MI 1.2, section 4.3).
//!
//! One admin command carries one request, and its completion the response: CDW10 to CDW13 are the first 16 bytes of the
//! request message ([`MiRequest`]), dword 0 of the completion is bytes 4 to 7 of the response message ([`MiDw0`]), and the
//! data buffer holds the request's or the response's data. The command itself succeeds whether or not the management
//! interface refuses what it carries: that is in the response's status.
//!
//! ```
//! use nvme_spec::mi::{MiRequest, MiResponse, MiStatus, SubsystemHealth};
//!
//! // The host: how is the subsystem? As bytes of an NVMe-MI Receive command.
//! let entry = MiRequest::subsystem_health_status_poll(false).entry();
//! assert_eq!((entry.opcode, entry.cdw10, entry.cdw11), (0x1E, 0x0000_0804, 0x01));
//!
//! // The answer, as a message: header, status and management response, data.
//! let message = [0x04, 0x88, 0, 0, 0, 0, 0, 0, 0x38, 0xFF, 0x32, 0x07, 0x21, 0x03, 0, 0];
//! let response = MiResponse::parse(&message)?;
//! assert_eq!(response.status, MiStatus::SUCCESS);
//! let health = SubsystemHealth::parse(&response)?;
//! assert_eq!((health.ctemp.celsius(), health.pdlu), (Some(50), 7));
//! # Ok::<(), nvme_spec::mi::MalformedMessage>(())
//! ```

mod config;
mod fru;
mod health;
mod message;

pub use config::{ConfigurationId, SmbusFrequency, mctp_transmission_unit_bytes, smbus_frequency};
pub use fru::{FruError, FruField, FruProduct, FruText, product_info};
pub use health::{
    CONTROLLER_HEALTH_BYTES, CompositeTemperature, ControllerHealth, ControllerHealthEntry,
    ControllerHealthList, ControllerHealthPoll, ControllerHealthSelect, HealthChanges, MiControllerStatus,
    SubsystemHealth, SubsystemHealthData, SubsystemStatus,
};
pub use message::{
    MESSAGE_TYPE_NVME_MI, MiDw0, MiHeader, MiRequest, MiResponse, REQUEST_BYTES, RESPONSE_HEADER_BYTES,
};

use core::fmt;

use crate::named::named_u8;

named_u8! {
    /// Opcode of a command of the Management Interface Command Set (NVMe-MI 1.2, section 5, "Opcodes for Management
    /// Interface Commands").
    MiOpcode, "management opcode" {
        READ_DATA_STRUCTURE = 0x00, "Read NVMe-MI Data Structure";
        SUBSYSTEM_HEALTH_STATUS_POLL = 0x01, "NVM Subsystem Health Status Poll";
        CONTROLLER_HEALTH_STATUS_POLL = 0x02, "Controller Health Status Poll";
        CONFIGURATION_SET = 0x03, "Configuration Set";
        CONFIGURATION_GET = 0x04, "Configuration Get";
        VPD_READ = 0x05, "VPD Read";
        VPD_WRITE = 0x06, "VPD Write";
        RESET = 0x07, "Reset";
        SES_RECEIVE = 0x08, "SES Receive";
        SES_SEND = 0x09, "SES Send";
        ENDPOINT_BUFFER_READ = 0x0A, "Management Endpoint Buffer Read";
        ENDPOINT_BUFFER_WRITE = 0x0B, "Management Endpoint Buffer Write";
        SHUTDOWN = 0x0C, "Shutdown";
    }
}

impl MiOpcode {
    /// Whether in band the command travels in NVMe-MI Send, because it changes something, and not in NVMe-MI Receive
    /// (NVMe-MI 1.2, section 4.3). One that is not known is taken to change something.
    pub const fn is_sent(self) -> bool {
        !matches!(
            self,
            Self::READ_DATA_STRUCTURE
                | Self::SUBSYSTEM_HEALTH_STATUS_POLL
                | Self::CONTROLLER_HEALTH_STATUS_POLL
                | Self::CONFIGURATION_GET
                | Self::VPD_READ
                | Self::SES_RECEIVE
                | Self::ENDPOINT_BUFFER_READ
        )
    }
}

named_u8! {
    /// NVMe-MI Message Type (NVMe-MI 1.2, section 3.1, NMIMT). In band there are only commands of the management interface.
    MiMessageType, "message type" {
        CONTROL_PRIMITIVE = 0x0, "Control Primitive";
        COMMAND = 0x1, "NVMe-MI Command";
        ADMIN_COMMAND = 0x2, "NVMe Admin Command";
        PCIE_COMMAND = 0x4, "PCIe Command";
        ASYNCHRONOUS_EVENT = 0x5, "Asynchronous Event";
    }
}

named_u8! {
    /// Response Message Status (NVMe-MI 1.2, section 4.1.2, "Response Message Status Values").
    MiStatus, "response status" {
        SUCCESS = 0x00, "Success";
        MORE_PROCESSING_REQUIRED = 0x01, "More Processing Required";
        INTERNAL_ERROR = 0x02, "Internal Error";
        INVALID_COMMAND_OPCODE = 0x03, "Invalid Command Opcode";
        INVALID_PARAMETER = 0x04, "Invalid Parameter";
        INVALID_COMMAND_SIZE = 0x05, "Invalid Command Size";
        INVALID_COMMAND_INPUT_DATA_SIZE = 0x06, "Invalid Command Input Data Size";
        ACCESS_DENIED = 0x07, "Access Denied";
        VPD_UPDATES_EXCEEDED = 0x20, "VPD Updates Exceeded";
        PCIE_INACCESSIBLE = 0x21, "PCIe Inaccessible";
        ENDPOINT_BUFFER_CLEARED = 0x22, "Management Endpoint Buffer Cleared Due to Sanitize";
        ENCLOSURE_SERVICES_FAILURE = 0x23, "Enclosure Services Failure";
        ENCLOSURE_SERVICES_TRANSFER_FAILURE = 0x24, "Enclosure Services Transfer Failure";
        ENCLOSURE_FAILURE = 0x25, "Enclosure Failure";
        ENCLOSURE_SERVICES_TRANSFER_REFUSED = 0x26, "Enclosure Services Transfer Refused";
        UNSUPPORTED_ENCLOSURE_FUNCTION = 0x27, "Unsupported Enclosure Function";
        ENCLOSURE_SERVICES_UNAVAILABLE = 0x28, "Enclosure Services Unavailable";
        ENCLOSURE_DEGRADED = 0x29, "Enclosure Degraded";
        SANITIZE_IN_PROGRESS = 0x2A, "Sanitize In Progress";
    }
}

/// Why bytes are no message, or no answer to what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedMessage {
    /// Fewer bytes than there must be.
    Short {
        /// What they should have been.
        what: &'static str,
        /// How many there must be.
        wanted_bytes: usize,
        /// How many there are.
        bytes: usize,
    },
    /// More bytes than belong to it.
    Long {
        /// What they should have been.
        what: &'static str,
        /// How many there may be.
        wanted_bytes: usize,
        /// How many there are.
        bytes: usize,
    },
    /// The MCTP message type is not that of NVMe-MI.
    NotNvmeMi(u8),
    /// It is an NVMe-MI message of another type than a command.
    NotACommand(MiMessageType),
    /// It is a request.
    NotAResponse,
    /// It says that an integrity check follows, which in band there is not.
    IntegrityCheck,
    /// The command was refused: there is nothing to decode.
    Refused(MiStatus),
    /// A field has a value that is reserved.
    Reserved {
        /// The field, by the specification's abbreviation.
        field: &'static str,
        /// Its value.
        value: u32,
    },
}

impl fmt::Display for MalformedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Short {
                what,
                wanted_bytes,
                bytes,
            } => write!(f, "{what} has {bytes} bytes instead of {wanted_bytes}"),
            Self::Long {
                what,
                wanted_bytes,
                bytes,
            } => write!(f, "{what} has {bytes} bytes, more than its {wanted_bytes}"),
            Self::NotNvmeMi(mt) => write!(f, "its message type is {mt:X}h and not 4h, NVMe-MI"),
            Self::NotACommand(nmimt) => write!(
                f,
                "it is a message of the type {nmimt} and not {}",
                MiMessageType::COMMAND
            ),
            Self::NotAResponse => f.write_str("it is a request and not a response"),
            Self::IntegrityCheck => f.write_str("it promises an integrity check, which in band there is not"),
            Self::Refused(status) => write!(f, "the management interface refused: {status}"),
            Self::Reserved { field, value } => write!(f, "{field} is {value:X}h, which is reserved"),
        }
    }
}

impl core::error::Error for MalformedMessage {}

#[cfg(test)]
mod tests;
