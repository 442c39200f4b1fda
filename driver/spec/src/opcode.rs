//! Command opcodes, admin and NVM, as open sets: an unknown opcode is a value like any other.

use crate::named::named_u8;

/// Which way a command moves data: bits 1:0 of its opcode (Base 2.0, section 3.3.3.1, "Data Transfer").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// 00b: no data.
    None,
    /// 01b: host memory to controller.
    ToDevice,
    /// 10b: controller to host memory.
    FromDevice,
    /// 11b: both ways. No command of the specifications covered here uses it, a vendor's may.
    Bidirectional,
}

impl Direction {
    /// Reads bits 1:0 of `opcode`.
    pub const fn of_opcode(opcode: u8) -> Self {
        match opcode & 0b11 {
            0b00 => Self::None,
            0b01 => Self::ToDevice,
            0b10 => Self::FromDevice,
            _ => Self::Bidirectional,
        }
    }
}

named_u8! {
    /// Opcode of a command on the admin queue (Base 2.0, section 5, "Opcodes for Admin Commands").
    AdminOpcode, "opcode" {
        DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
        CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
        GET_LOG_PAGE = 0x02, "Get Log Page";
        DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
        CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
        IDENTIFY = 0x06, "Identify";
        ABORT = 0x08, "Abort";
        SET_FEATURES = 0x09, "Set Features";
        GET_FEATURES = 0x0A, "Get Features";
        ASYNC_EVENT_REQUEST = 0x0C, "Asynchronous Event Request";
        NAMESPACE_MANAGEMENT = 0x0D, "Namespace Management";
        FIRMWARE_COMMIT = 0x10, "Firmware Commit";
        FIRMWARE_IMAGE_DOWNLOAD = 0x11, "Firmware Image Download";
        DEVICE_SELF_TEST = 0x14, "Device Self-test";
        NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
        KEEP_ALIVE = 0x18, "Keep Alive";
        DIRECTIVE_SEND = 0x19, "Directive Send";
        DIRECTIVE_RECEIVE = 0x1A, "Directive Receive";
        VIRTUALIZATION_MANAGEMENT = 0x1C, "Virtualization Management";
        NVME_MI_SEND = 0x1D, "NVMe-MI Send";
        NVME_MI_RECEIVE = 0x1E, "NVMe-MI Receive";
        CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
        LOCKDOWN = 0x24, "Lockdown";
        DOORBELL_BUFFER_CONFIG = 0x7C, "Doorbell Buffer Config";
        FABRICS = 0x7F, "Fabrics Commands";
        FORMAT_NVM = 0x80, "Format NVM";
        SECURITY_SEND = 0x81, "Security Send";
        SECURITY_RECEIVE = 0x82, "Security Receive";
        SANITIZE = 0x84, "Sanitize";
        GET_LBA_STATUS = 0x86, "Get LBA Status";
    }
}

named_u8! {
    /// Opcode of a command on an I/O queue (NVM Command Set 1.0, section 3, "Opcodes for NVM Commands").
    NvmOpcode, "opcode" {
        FLUSH = 0x00, "Flush";
        WRITE = 0x01, "Write";
        READ = 0x02, "Read";
        WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
        COMPARE = 0x05, "Compare";
        WRITE_ZEROES = 0x08, "Write Zeroes";
        DATASET_MANAGEMENT = 0x09, "Dataset Management";
        VERIFY = 0x0C, "Verify";
        RESERVATION_REGISTER = 0x0D, "Reservation Register";
        RESERVATION_REPORT = 0x0E, "Reservation Report";
        RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
        RESERVATION_RELEASE = 0x15, "Reservation Release";
        COPY = 0x19, "Copy";
    }
}

impl AdminOpcode {
    /// Which way the command moves data, by the rule that holds for unknown opcodes too.
    pub const fn transfers(self) -> Direction {
        Direction::of_opcode(self.0)
    }
}

impl NvmOpcode {
    /// Which way the command moves data, by the rule that holds for unknown opcodes too.
    pub const fn transfers(self) -> Direction {
        Direction::of_opcode(self.0)
    }
}

#[cfg(test)]
mod tests;
