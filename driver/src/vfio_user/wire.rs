//! The messages of vfio-user as bytes.
//!
//! All numbers have the byte order of the machine: both ends are on the same one. A message is a [`Header`] and a
//! payload, whose shape its command says. What does not have that shape is a [`WireError`]; nothing is read beyond what
//! was received, and nothing is allocated by a number that the other side has sent but [`Header::payload_bytes`], which
//! is bounded.

use serde_json::Value;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major version of the protocol.
pub const MAJOR: u16 = 0;
/// The newest minor version that is spoken here.
pub const MINOR: u16 = 1;

/// Most data in one READ or WRITE, and what is assumed of a peer that does not say.
pub const MAX_DATA_XFER_BYTES: u32 = 1 << 20;
/// No message is longer than this: the most data, and room for the structures before it.
pub const MAX_MESSAGE_BYTES: u32 = MAX_DATA_XFER_BYTES + 4096;
/// Most descriptors with one message.
pub const MAX_MESSAGE_FDS: usize = 128;
/// What is assumed of a peer that does not say how many descriptors it takes.
const DEFAULT_MESSAGE_FDS: usize = 1;
/// What is assumed of a peer that does not say how many mappings it takes.
const DEFAULT_DMA_MAPS: u64 = 65_535;
/// What is assumed of a peer that does not say which pages it maps.
const DEFAULT_PAGE_SIZES: u64 = 4096;

/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 16;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// The first message: versions and capabilities.
    Version = 1,
    /// The client's memory, for DMA.
    DmaMap = 2,
    /// No longer.
    DmaUnmap = 3,
    /// What the device is.
    DeviceGetInfo = 4,
    /// What a region is.
    DeviceGetRegionInfo = 5,
    /// Descriptors instead of accesses to a region.
    DeviceGetRegionIoFds = 6,
    /// What a kind of interrupt is.
    DeviceGetIrqInfo = 7,
    /// Where interrupts go.
    DeviceSetIrqs = 8,
    /// Reads a region.
    RegionRead = 9,
    /// Writes a region.
    RegionWrite = 10,
    /// The server reads the client's memory.
    DmaRead = 11,
    /// The server writes the client's memory.
    DmaWrite = 12,
    /// Resets the device.
    DeviceReset = 13,
    /// Several small writes at once.
    RegionWriteMulti = 15,
}

impl Command {
    /// The command of this number, if it is known here.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Version,
            2 => Self::DmaMap,
            3 => Self::DmaUnmap,
            4 => Self::DeviceGetInfo,
            5 => Self::DeviceGetRegionInfo,
            6 => Self::DeviceGetRegionIoFds,
            7 => Self::DeviceGetIrqInfo,
            8 => Self::DeviceSetIrqs,
            9 => Self::RegionRead,
            10 => Self::RegionWrite,
            11 => Self::DmaRead,
            12 => Self::DmaWrite,
            13 => Self::DeviceReset,
            15 => Self::RegionWriteMulti,
            _ => return None,
        })
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any message is, or shorter than its own header.
    #[error(
        "a message says that it is {bytes} bytes long; from {HEADER_BYTES} to {MAX_MESSAGE_BYTES} are possible"
    )]
    Size {
        /// What it says.
        bytes: u32,
    },
    /// Neither a command nor a reply.
    #[error("a message is neither a command nor a reply (flags {flags:#x})")]
    Type {
        /// Its flags.
        flags: u32,
    },
    /// No such command.
    #[error("there is no command {0}")]
    Command(u16),
    /// The payload is shorter than its structure, or than what that says follows.
    #[error("the payload of {command:?} is {bytes} bytes long, which is not what it has to be")]
    Payload {
        /// Of which command.
        command: Command,
        /// What has come.
        bytes: usize,
    },
    /// The text with the capabilities is no JSON, or something in it is of the wrong kind.
    #[error("the capabilities cannot be read: {0}")]
    Capabilities(&'static str),
}

/// What every message begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The sender's own; a reply has that of its command.
    pub id: u16,
    /// [`Command`].
    pub command: u16,
    /// Of the whole message, in bytes.
    pub size: u32,
    /// [`Header::TYPE`], [`Header::NO_REPLY`], [`Header::ERROR`].
    pub flags: u32,
    /// An errno, in a reply with [`Header::ERROR`]; may be 0 even there.
    pub error: u32,
}

impl Header {
    /// The bits that tell a command (0) from a reply (1).
    pub const TYPE: u32 = 0xF;
    /// A reply, under [`Header::TYPE`].
    pub const REPLY: u32 = 1;
    /// The sender wants no reply.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command has failed.
    pub const ERROR: u32 = 1 << 5;

    /// Of a command with `payload_bytes` of payload.
    #[must_use]
    pub fn command(id: u16, command: Command, payload_bytes: usize) -> Self {
        Self {
            id,
            command: command as u16,
            size: message_bytes(payload_bytes),
            ..Self::default()
        }
    }

    /// Of the reply to this.
    #[must_use]
    pub fn reply(&self, payload_bytes: usize) -> Self {
        Self {
            size: message_bytes(payload_bytes),
            flags: Self::REPLY,
            error: 0,
            ..*self
        }
    }

    /// Of the reply that says that this has failed; it has no payload.
    #[must_use]
    pub fn error_reply(&self, errno: u32) -> Self {
        Self {
            size: message_bytes(0),
            flags: Self::REPLY | Self::ERROR,
            error: errno,
            ..*self
        }
    }

    /// Whether it is a reply's.
    #[must_use]
    pub fn is_reply(&self) -> bool {
        self.flags & Self::TYPE == Self::REPLY
    }

    /// Whether the sender wants a reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.flags & Self::NO_REPLY == 0
    }

    /// The errno of a reply that says that its command has failed.
    #[must_use]
    pub fn failure(&self) -> Option<u32> {
        (self.flags & Self::ERROR != 0).then_some(self.error)
    }

    /// How much follows.
    ///
    /// # Errors
    /// Sizes that no message has, and types that there are none of.
    pub fn payload_bytes(&self) -> Result<usize, WireError> {
        let bytes = self.size;
        if bytes < HEADER_BYTES as u32 || bytes > MAX_MESSAGE_BYTES {
            return Err(WireError::Size { bytes });
        }
        if self.flags & Self::TYPE > Self::REPLY {
            return Err(WireError::Type { flags: self.flags });
        }
        Ok(bytes as usize - HEADER_BYTES)
    }
}

fn message_bytes(payload_bytes: usize) -> u32 {
    u32::try_from(HEADER_BYTES.saturating_add(payload_bytes)).unwrap_or(u32::MAX)
}

/// What [`Command::Version`] begins with; the rest is JSON, ended by a NUL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Version {
    /// [`MAJOR`].
    pub major: u16,
    /// At most [`MINOR`].
    pub minor: u16,
}

/// What a peer can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Descriptors with one message.
    pub max_msg_fds: usize,
    /// Bytes of data in one message.
    pub max_data_xfer_bytes: u32,
    /// Mappings at a time.
    pub max_dma_maps: u64,
    /// Sizes of pages that can be mapped, or'ed together.
    pub page_sizes: u64,
    /// Whether it takes [`Command::RegionWriteMulti`].
    pub write_multiple: bool,
}

impl Default for Capabilities {
    /// What a peer has that says nothing.
    fn default() -> Self {
        Self {
            max_msg_fds: DEFAULT_MESSAGE_FDS,
            max_data_xfer_bytes: MAX_DATA_XFER_BYTES,
            max_dma_maps: DEFAULT_DMA_MAPS,
            page_sizes: DEFAULT_PAGE_SIZES,
            write_multiple: false,
        }
    }
}

impl Capabilities {
    /// From what follows [`Version`]: nothing, or JSON with a NUL at its end. What is not known here is passed over.
    ///
    /// # Errors
    /// No JSON, or a capability of the wrong kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut capabilities = Self::default();
        if bytes.is_empty() {
            return Ok(capabilities);
        }
        let text = bytes
            .strip_suffix(b"\0")
            .ok_or(WireError::Capabilities("there is no NUL at their end"))?;
        let all: Value =
            serde_json::from_slice(text).map_err(|_| WireError::Capabilities("they are no JSON"))?;
        let Some(listed) = all.get("capabilities") else {
            return Ok(capabilities);
        };
        let number = |key: &str| match listed.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or(WireError::Capabilities("one that has to be a number is none")),
        };
        if let Some(fds) = number("max_msg_fds")? {
            capabilities.max_msg_fds = usize::try_from(fds).unwrap_or(usize::MAX);
        }
        if let Some(bytes) = number("max_data_xfer_size")? {
            capabilities.max_data_xfer_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
        if let Some(maps) = number("max_dma_maps")? {
            capabilities.max_dma_maps = maps;
        }
        if let Some(sizes) = number("pgsizes")? {
            capabilities.page_sizes = sizes;
        }
        if let Some(value) = listed.get("write_multiple") {
            capabilities.write_multiple = value.as_bool().ok_or(WireError::Capabilities(
                "one that has to be true or false is neither",
            ))?;
        }
        Ok(capabilities)
    }

    /// As [`Capabilities::decode`] reads them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::json!({
            "capabilities": {
                "max_msg_fds": self.max_msg_fds,
                "max_data_xfer_size": self.max_data_xfer_bytes,
                "max_dma_maps": self.max_dma_maps,
                "pgsizes": self.page_sizes,
                "write_multiple": self.write_multiple,
            }
        })
        .to_string()
        .into_bytes();
        text.push(0);
        text
    }
}

/// A payload that is one structure.
macro_rules! payload {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

payload! {
    /// Of [`Command::DmaMap`]. The memory's descriptor comes with the message.
    DmaMap {
        /// Bytes of this.
        argsz: u32,
        /// [`DmaMap::READ`], [`DmaMap::WRITE`].
        flags: u32,
        /// Where the memory begins in what the descriptor is of, in bytes.
        offset: u64,
        /// Where the device finds it.
        address: u64,
        /// In bytes.
        size: u64,
    }
}

impl DmaMap {
    /// The device may read it.
    pub const READ: u32 = 1 << 0;
    /// The device may write it.
    pub const WRITE: u32 = 1 << 1;
    /// The descriptor is to be mapped: libvfio-user's, see [`QUIRKS`](super::QUIRKS).
    pub const MMAP: u32 = 1 << 2;
}

payload! {
    /// Of [`Command::DmaUnmap`], and of its reply.
    DmaUnmap {
        /// Bytes that the reply may have.
        argsz: u32,
        /// [`DmaUnmap::ALL`].
        flags: u32,
        /// As it was mapped.
        address: u64,
        /// As it was mapped.
        size: u64,
    }
}

impl DmaUnmap {
    /// Everything, whatever address and size say: see [`QUIRKS`](super::QUIRKS).
    pub const ALL: u32 = 1 << 1;
}

payload! {
    /// Of [`Command::DeviceGetInfo`] and its reply.
    DeviceInfo {
        /// Bytes that the reply may have, or has.
        argsz: u32,
        /// [`DeviceInfo::RESET`], [`DeviceInfo::PCI`].
        flags: u32,
        /// How many there are, numbered from 0.
        num_regions: u32,
        /// How many kinds there are, numbered from 0.
        num_irqs: u32,
    }
}

impl DeviceInfo {
    /// It can be reset.
    pub const RESET: u32 = 1 << 0;
    /// It is a PCI function.
    pub const PCI: u32 = 1 << 1;
}

mod region;

pub use region::{CapHeader, RegionInfo, SparseArea, SparseHeader};

payload! {
    /// Of [`Command::DeviceGetRegionIoFds`] and its reply.
    RegionIoFds {
        /// Bytes that the reply may have, or has.
        argsz: u32,
        /// 0.
        flags: u32,
        /// Which region.
        index: u32,
        /// Descriptors that follow.
        count: u32,
    }
}

payload! {
    /// Of [`Command::DeviceGetIrqInfo`] and its reply.
    IrqInfo {
        /// Bytes that the reply may have, or has.
        argsz: u32,
        /// [`IrqInfo::EVENTFD`] and so on.
        flags: u32,
        /// Which kind.
        index: u32,
        /// How many of that kind.
        count: u32,
    }
}

impl IrqInfo {
    /// They can be had as eventfds.
    pub const EVENTFD: u32 = 1 << 0;
    /// Each can be masked.
    pub const MASKABLE: u32 = 1 << 1;
}

payload! {
    /// Of [`Command::DeviceSetIrqs`]; with [`SetIrqs::DATA_BOOL`] a byte for each follows.
    SetIrqs {
        /// Bytes of this and what follows.
        argsz: u32,
        /// One of the data flags and one of the actions.
        flags: u32,
        /// Which kind.
        index: u32,
        /// The first.
        start: u32,
        /// How many.
        count: u32,
    }
}

impl SetIrqs {
    /// The action is done for all.
    pub const DATA_NONE: u32 = 1 << 0;
    /// The action is done for those whose byte is not 0.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// Eventfds come with the message; none: what was set is taken back.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Mask.
    pub const ACTION_MASK: u32 = 1 << 3;
    /// Unmask.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Fire, or whom to tell when it fires.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
}

payload! {
    /// Of [`Command::RegionRead`] and [`Command::RegionWrite`] and their replies, where data may follow.
    RegionAccess {
        /// Where in the region, in bytes.
        offset: u64,
        /// Which region.
        region: u32,
        /// Bytes.
        count: u32,
    }
}

payload! {
    /// Of [`Command::DmaRead`] and [`Command::DmaWrite`] and their replies, where data may follow.
    DmaAccess {
        /// As it was mapped.
        address: u64,
        /// Bytes.
        count: u64,
    }
}

/// One write of [`Command::RegionWriteMulti`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SmallWrite {
    /// Where, and how many bytes.
    pub access: RegionAccess,
    /// The first [`RegionAccess::count`] of these.
    pub data: [u8; 8],
}

/// A command and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// See [`Command::Version`].
    Version(Version, Capabilities),
    /// See [`Command::DmaMap`].
    DmaMap(DmaMap),
    /// See [`Command::DmaUnmap`].
    DmaUnmap(DmaUnmap),
    /// See [`Command::DeviceGetInfo`].
    DeviceGetInfo(DeviceInfo),
    /// See [`Command::DeviceGetRegionInfo`].
    DeviceGetRegionInfo(RegionInfo),
    /// See [`Command::DeviceGetRegionIoFds`].
    DeviceGetRegionIoFds(RegionIoFds),
    /// See [`Command::DeviceGetIrqInfo`].
    DeviceGetIrqInfo(IrqInfo),
    /// See [`Command::DeviceSetIrqs`]; the bytes of [`SetIrqs::DATA_BOOL`], as many as [`SetIrqs::count`] says.
    DeviceSetIrqs(SetIrqs, &'a [u8]),
    /// See [`Command::RegionRead`].
    RegionRead(RegionAccess),
    /// See [`Command::RegionWrite`]; as many bytes as [`RegionAccess::count`] says.
    RegionWrite(RegionAccess, &'a [u8]),
    /// See [`Command::DmaRead`].
    DmaRead(DmaAccess),
    /// See [`Command::DmaWrite`]; as many bytes as [`DmaAccess::count`] says.
    DmaWrite(DmaAccess, &'a [u8]),
    /// See [`Command::DeviceReset`].
    DeviceReset,
    /// See [`Command::RegionWriteMulti`].
    RegionWriteMulti(Vec<SmallWrite>),
}

impl<'a> Request<'a> {
    /// The request that `command` and `payload` are.
    ///
    /// # Errors
    /// No such command; a payload that is shorter than its structure, or whose structure says that more follows than
    /// does. Bytes beyond what is needed are passed over, as newer versions may have them.
    pub fn decode(command: u16, payload: &'a [u8]) -> Result<Self, WireError> {
        let command = Command::new(command).ok_or(WireError::Command(command))?;
        let wrong = WireError::Payload {
            command,
            bytes: payload.len(),
        };
        Ok(match command {
            Command::Version => {
                let (version, rest) = Version::read_from_prefix(payload).map_err(|_| wrong)?;
                Self::Version(version, Capabilities::decode(rest)?)
            }
            Command::DmaMap => Self::DmaMap(structure(payload, wrong)?.0),
            Command::DmaUnmap => Self::DmaUnmap(structure(payload, wrong)?.0),
            Command::DeviceGetInfo => Self::DeviceGetInfo(structure(payload, wrong)?.0),
            Command::DeviceGetRegionInfo => Self::DeviceGetRegionInfo(structure(payload, wrong)?.0),
            Command::DeviceGetRegionIoFds => Self::DeviceGetRegionIoFds(structure(payload, wrong)?.0),
            Command::DeviceGetIrqInfo => Self::DeviceGetIrqInfo(structure(payload, wrong)?.0),
            Command::DeviceSetIrqs => {
                let (set, rest): (SetIrqs, _) = structure(payload, wrong)?;
                let bytes = if set.flags & SetIrqs::DATA_BOOL == 0 {
                    0
                } else {
                    set.count as usize
                };
                Self::DeviceSetIrqs(set, rest.get(..bytes).ok_or(wrong)?)
            }
            Command::RegionRead => Self::RegionRead(structure(payload, wrong)?.0),
            Command::RegionWrite => {
                let (access, rest): (RegionAccess, _) = structure(payload, wrong)?;
                Self::RegionWrite(access, rest.get(..access.count as usize).ok_or(wrong)?)
            }
            Command::DmaRead => Self::DmaRead(structure(payload, wrong)?.0),
            Command::DmaWrite => {
                let (access, rest): (DmaAccess, _) = structure(payload, wrong)?;
                let bytes = usize::try_from(access.count).map_err(|_| wrong)?;
                Self::DmaWrite(access, rest.get(..bytes).ok_or(wrong)?)
            }
            Command::DeviceReset => Self::DeviceReset,
            Command::RegionWriteMulti => {
                let (count, rest): (u64, _) = structure(payload, wrong)?;
                let bytes = usize::try_from(count)
                    .ok()
                    .and_then(|count| count.checked_mul(size_of::<SmallWrite>()))
                    .and_then(|bytes| rest.get(..bytes))
                    .ok_or(wrong)?;
                let writes: Vec<SmallWrite> = bytes
                    .chunks_exact(size_of::<SmallWrite>())
                    .filter_map(|write| SmallWrite::read_from_bytes(write).ok())
                    .collect();
                if writes
                    .iter()
                    .any(|write| write.access.count as usize > write.data.len())
                {
                    return Err(wrong);
                }
                Self::RegionWriteMulti(writes)
            }
        })
    }

    /// What [`Request::decode`] reads.
    #[must_use]
    pub fn encode(&self) -> (Command, Vec<u8>) {
        fn with<T: IntoBytes + Immutable>(structure: &T, rest: &[u8]) -> Vec<u8> {
            [structure.as_bytes(), rest].concat()
        }
        match self {
            Self::Version(version, capabilities) => (Command::Version, with(version, &capabilities.encode())),
            Self::DmaMap(map) => (Command::DmaMap, with(map, &[])),
            Self::DmaUnmap(unmap) => (Command::DmaUnmap, with(unmap, &[])),
            Self::DeviceGetInfo(info) => (Command::DeviceGetInfo, with(info, &[])),
            Self::DeviceGetRegionInfo(info) => (Command::DeviceGetRegionInfo, with(info, &[])),
            Self::DeviceGetRegionIoFds(fds) => (Command::DeviceGetRegionIoFds, with(fds, &[])),
            Self::DeviceGetIrqInfo(info) => (Command::DeviceGetIrqInfo, with(info, &[])),
            Self::DeviceSetIrqs(set, flags) => (Command::DeviceSetIrqs, with(set, flags)),
            Self::RegionRead(access) => (Command::RegionRead, with(access, &[])),
            Self::RegionWrite(access, data) => (Command::RegionWrite, with(access, data)),
            Self::DmaRead(access) => (Command::DmaRead, with(access, &[])),
            Self::DmaWrite(access, data) => (Command::DmaWrite, with(access, data)),
            Self::DeviceReset => (Command::DeviceReset, Vec::new()),
            Self::RegionWriteMulti(writes) => (
                Command::RegionWriteMulti,
                with(&(writes.len() as u64), writes.as_bytes()),
            ),
        }
    }
}

/// The structure at the start of `payload`, and what follows.
fn structure<T: FromBytes>(payload: &[u8], wrong: WireError) -> Result<(T, &[u8]), WireError> {
    T::read_from_prefix(payload).map_err(|_| wrong)
}

#[cfg(test)]
mod tests;
