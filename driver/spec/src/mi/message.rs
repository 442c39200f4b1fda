//! Requests and responses, and the admin commands that carry them.

use bitfield_struct::bitfield;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::health::ControllerHealthPoll;
use super::{CONTROLLER_HEALTH_BYTES, ConfigurationId, MalformedMessage, MiMessageType, MiOpcode, MiStatus};
use crate::entry::SubmissionEntry;
use crate::layout::layout;
use crate::opcode::AdminOpcode;

/// The MCTP message type of NVMe-MI messages.
pub const MESSAGE_TYPE_NVME_MI: u8 = 4;
/// Bytes of a request before its data.
pub const REQUEST_BYTES: usize = 16;
/// Bytes of a response before its data.
pub const RESPONSE_HEADER_BYTES: usize = 8;

/// NVMe-MI Message Header, bytes 3:0 of a message and CDW10 of the command that carries it (NVMe-MI 1.2, section 3.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MiHeader {
    /// Message Type, [`MESSAGE_TYPE_NVME_MI`].
    #[bits(7)]
    pub mt: u8,
    /// Integrity Check: a CRC follows. Clear in band.
    pub ic: bool,
    /// Command Slot Identifier. Clear in band.
    pub csi: bool,
    #[bits(2)]
    __: u8,
    /// NVMe-MI Message Type ([`MiMessageType`]).
    #[bits(4)]
    pub nmimt: u8,
    /// Request or Response: set in a response.
    pub ror: bool,
    /// Management Endpoint Buffer: the data is in there. Clear in band.
    pub meb: bool,
    /// Command Initiated Auto Pause. Clear in band.
    pub ciap: bool,
    #[bits(14)]
    __: u16,
}

impl MiHeader {
    /// The header of a command of the management interface, as it is in band.
    pub const REQUEST: Self = Self::new()
        .with_mt(MESSAGE_TYPE_NVME_MI)
        .with_nmimt(MiMessageType::COMMAND.0);
    /// The header of the response to one.
    pub const RESPONSE: Self = Self::REQUEST.with_ror(true);

    /// [`nmimt`](Self::nmimt), with its name.
    pub const fn message_type(self) -> MiMessageType {
        MiMessageType(self.nmimt())
    }
}

/// The first 16 bytes of a request message, and CDW10 to CDW13 of the command that carries it (NVMe-MI 1.2, sections 4.3
/// and 5). Request data follow in a message; in band they are in the command's data buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MiRequest {
    /// NVMe-MI Message Header ([`MiHeader`]).
    pub header: U32,
    /// Opcode ([`MiOpcode`]).
    pub opc: u8,
    #[doc(hidden)]
    pub reserved5: [u8; 3],
    /// NVMe Management Dword 0.
    pub nmd0: U32,
    /// NVMe Management Dword 1.
    pub nmd1: U32,
}

layout!(MiRequest, 16, { header: 0, opc: 4, reserved5: 5, nmd0: 8, nmd1: 12 });

/// `MiRequest::nmd1` of NVM Subsystem Health Status Poll: Clear Status, of the composite controller status.
const CLEAR_STATUS: u32 = 1 << 31;

impl MiRequest {
    /// A command of the management interface.
    pub const fn new(opc: MiOpcode, nmd0: u32, nmd1: u32) -> Self {
        Self {
            header: U32::new(MiHeader::REQUEST.into_bits()),
            opc: opc.0,
            reserved5: [0; 3],
            nmd0: U32::new(nmd0),
            nmd1: U32::new(nmd1),
        }
    }

    /// NVM Subsystem Health Status Poll (section 5.6): answered with 8 bytes ([`SubsystemHealth`](super::SubsystemHealth)).
    /// With `clear` what has changed is forgotten once it was told.
    pub const fn subsystem_health_status_poll(clear: bool) -> Self {
        let nmd1 = if clear { CLEAR_STATUS } else { 0 };
        Self::new(MiOpcode::SUBSYSTEM_HEALTH_STATUS_POLL, 0, nmd1)
    }

    /// Controller Health Status Poll (section 5.3): answered with 16 bytes for each controller
    /// ([`ControllerHealthList`](super::ControllerHealthList)).
    pub fn controller_health_status_poll(poll: ControllerHealthPoll) -> Self {
        let (nmd0, nmd1) = poll.dwords();
        Self::new(MiOpcode::CONTROLLER_HEALTH_STATUS_POLL, nmd0, nmd1)
    }

    /// Configuration Get (section 5.2) of `id`, for the port `port` where it is one of a port. The answer is the management
    /// response; there are no data.
    pub const fn configuration_get(id: ConfigurationId, port: u8) -> Self {
        Self::new(MiOpcode::CONFIGURATION_GET, (port as u32) << 24 | id.0 as u32, 0)
    }

    /// VPD Read (section 5.11) of `len_bytes` from `offset_bytes`. What is not all inside is refused as an invalid parameter.
    pub const fn vpd_read(offset_bytes: u16, len_bytes: u16) -> Self {
        Self::new(MiOpcode::VPD_READ, offset_bytes as u32, len_bytes as u32)
    }

    /// The request that a command carries.
    pub const fn of_entry(entry: &SubmissionEntry) -> Self {
        let [opc, r5, r6, r7] = entry.cdw11.to_le_bytes();
        Self {
            header: U32::new(entry.cdw10),
            opc,
            reserved5: [r5, r6, r7],
            nmd0: U32::new(entry.cdw12),
            nmd1: U32::new(entry.cdw13),
        }
    }

    /// The admin command that carries it, NVMe-MI Send or NVMe-MI Receive as its opcode wants it.
    pub fn entry(&self) -> SubmissionEntry {
        let opcode = if self.opcode().is_sent() {
            AdminOpcode::NVME_MI_SEND
        } else {
            AdminOpcode::NVME_MI_RECEIVE
        };
        let [r5, r6, r7] = self.reserved5;
        SubmissionEntry {
            opcode: opcode.0,
            cdw10: self.header.get(),
            cdw11: u32::from_le_bytes([self.opc, r5, r6, r7]),
            cdw12: self.nmd0.get(),
            cdw13: self.nmd1.get(),
            ..Default::default()
        }
    }

    /// [`opc`](Self::opc), with its name.
    pub const fn opcode(&self) -> MiOpcode {
        MiOpcode(self.opc)
    }

    /// [`header`](Self::header), read.
    pub fn message_header(&self) -> MiHeader {
        self.header.get().into()
    }

    /// The most bytes of data that move for it, either way: the buffer must not be smaller. Of what is not known it is
    /// what the 16 bits say which are a length in all commands that have one (NMD1 bits 15:0), 4096 at the least.
    pub fn data_bytes(&self) -> usize {
        let length = usize::from(self.nmd1.get() as u16);
        match self.opcode() {
            MiOpcode::SUBSYSTEM_HEALTH_STATUS_POLL => super::SubsystemHealth::BYTES,
            MiOpcode::CONTROLLER_HEALTH_STATUS_POLL => {
                let poll = ControllerHealthPoll::of_dwords(self.nmd0.get(), self.nmd1.get());
                (usize::from(poll.max_entries_z) + 1) * CONTROLLER_HEALTH_BYTES
            }
            MiOpcode::CONFIGURATION_GET
            | MiOpcode::CONFIGURATION_SET
            | MiOpcode::RESET
            | MiOpcode::SHUTDOWN => 0,
            MiOpcode::VPD_READ
            | MiOpcode::VPD_WRITE
            | MiOpcode::SES_RECEIVE
            | MiOpcode::SES_SEND
            | MiOpcode::ENDPOINT_BUFFER_READ
            | MiOpcode::ENDPOINT_BUFFER_WRITE => length,
            _ => length.max(4096),
        }
    }

    /// How many bytes of the buffer are the response, of those `data_bytes` asked for; `dw0` is what the completion says.
    /// A controller that claims more than it was asked for gets no more.
    pub fn response_bytes(&self, dw0: MiDw0) -> usize {
        if dw0.status() != MiStatus::SUCCESS.0 || self.opcode().is_sent() {
            return 0;
        }
        let said = match self.opcode() {
            // RENT, NVMe Management Response bits 23:16.
            MiOpcode::CONTROLLER_HEALTH_STATUS_POLL => {
                usize::from((dw0.nmresp() >> 16) as u8) * CONTROLLER_HEALTH_BYTES
            }
            // Response Data Length, bits 15:0.
            MiOpcode::READ_DATA_STRUCTURE => usize::from(dw0.nmresp() as u16),
            _ => usize::MAX,
        };
        said.min(self.data_bytes())
    }
}

/// Dword 0 of the completion: bytes 7:4 of the response message (NVMe-MI 1.2, section 4.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MiDw0 {
    /// Tunneled Status ([`MiStatus`]).
    #[bits(8)]
    pub status: u8,
    /// Tunneled NVMe Management Response, of the command.
    #[bits(24)]
    pub nmresp: u32,
}

impl MiDw0 {
    /// Invalid Parameter, and where in the request message: the first byte of the parameter, and its lowest bit in there
    /// (NVMe-MI 1.2, section 4.1.2.2).
    pub const fn invalid_parameter(byte: u16, bit: u8) -> Self {
        Self::new()
            .with_status(MiStatus::INVALID_PARAMETER.0)
            .with_nmresp((byte as u32) << 8 | (bit & 0b111) as u32)
    }
}

/// A response message of the management interface: header, status, management response, data. In band the header is not
/// transferred; who keeps a response as a message puts [`MiHeader::RESPONSE`] there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MiResponse<'a> {
    /// How it ended.
    pub status: MiStatus,
    /// NVMe Management Response, 24 bits, of the command.
    pub nmresp: u32,
    /// Response data.
    pub data: &'a [u8],
}

impl<'a> MiResponse<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// That it is too short, or no response of the management interface.
    pub fn parse(message: &'a [u8]) -> Result<Self, MalformedMessage> {
        let short = MalformedMessage::Short {
            what: "the response",
            wanted_bytes: RESPONSE_HEADER_BYTES,
            bytes: message.len(),
        };
        let (head, data) = message
            .split_first_chunk::<RESPONSE_HEADER_BYTES>()
            .ok_or(short)?;
        let [h0, h1, h2, h3, d0, d1, d2, d3] = *head;
        let header = MiHeader::from(u32::from_le_bytes([h0, h1, h2, h3]));
        let dw0 = MiDw0::from(u32::from_le_bytes([d0, d1, d2, d3]));
        if header.mt() != MESSAGE_TYPE_NVME_MI {
            return Err(MalformedMessage::NotNvmeMi(header.mt()));
        }
        if header.message_type() != MiMessageType::COMMAND {
            return Err(MalformedMessage::NotACommand(header.message_type()));
        }
        if !header.ror() {
            return Err(MalformedMessage::NotAResponse);
        }
        if header.ic() {
            return Err(MalformedMessage::IntegrityCheck);
        }
        Ok(Self {
            status: MiStatus(dw0.status()),
            nmresp: dw0.nmresp(),
            data,
        })
    }

    /// The first 8 bytes of the message.
    pub fn head(dw0: MiDw0) -> [u8; RESPONSE_HEADER_BYTES] {
        let [h0, h1, h2, h3] = u32::from(MiHeader::RESPONSE).to_le_bytes();
        let [d0, d1, d2, d3] = u32::from(dw0).to_le_bytes();
        [h0, h1, h2, h3, d0, d1, d2, d3]
    }

    /// Itself if the command succeeded.
    ///
    /// # Errors
    /// That it was refused, with the status.
    pub const fn succeeded(self) -> Result<Self, MalformedMessage> {
        if self.status.0 == MiStatus::SUCCESS.0 {
            Ok(self)
        } else {
            Err(MalformedMessage::Refused(self.status))
        }
    }

    /// Where the parameter is that the status Invalid Parameter is about: byte and bit of the request message (NVMe-MI 1.2,
    /// section 4.1.2.2).
    pub const fn parameter_error_location(&self) -> Option<(u16, u8)> {
        if self.status.0 == MiStatus::INVALID_PARAMETER.0 {
            Some(((self.nmresp >> 8) as u16, (self.nmresp & 0b111) as u8))
        } else {
            None
        }
    }
}
