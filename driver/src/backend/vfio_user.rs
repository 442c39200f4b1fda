//! A controller in another process, over vfio-user: SPDK's target, libvfio-user's devices, our own
//! [server](crate::vfio_user::server).
//!
//! | what | how |
//! | --- | --- |
//! | registers | messages; they are needed for bring-up, and once a second to see that all is well |
//! | doorbells | a page of the server's, mapped |
//! | memory for DMA | [`linux::memory`](super::linux::memory): few large memfds, told to the server once each |
//! | interrupts | eventfds, [`linux::waiter`](super::linux::waiter) |
//! | the server's end | a thread reads the socket: when that ends, or says nonsense, the function is [gone](Departure::Gone) |
//!
//! Each wait for the server has an end. What it does beyond the protocol is in [`QUIRKS`](crate::vfio_user::QUIRKS).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nvme_spec::register::DOORBELLS;
use rustix::fs::{SealFlags, fcntl_add_seals, fstat};
use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::linux::bar::{Access, Area, Bar};
use super::linux::memory::{Mapper, Memory, Piece, Plan};
use super::linux::waiter::{LinuxWaiter, Signal};
use super::{Backend, BackendError, Departure, Doorbell, Waiter, Windows};
use crate::dma::{Region, Registration, SharedMemory};
use crate::vfio_user::channel;
use crate::vfio_user::function::{IRQ_MSIX, REGION_CONFIG, REGION_REGISTERS};
use crate::vfio_user::wire::{
    Capabilities, Command, DeviceInfo, DmaMap, DmaUnmap, IrqInfo, MAJOR, MAX_DATA_XFER_BYTES,
    MAX_MESSAGE_FDS, MINOR, RegionAccess, RegionInfo, SetIrqs, SparseArea, SparseHeader, Version, WireError,
};

mod config;
mod connection;
pub(crate) mod shared;

use connection::Connection;
pub use connection::{CallError, DEFAULT_PATIENCE};

/// Vectors that are used at most: each is a descriptor here and one there.
const MAX_VECTORS: u32 = 256;
/// Areas of a region for which there is room in an answer.
const MAX_AREAS: usize = 64;
/// Chunks of memory at most: SPDK's target takes 64 mappings.
const MAX_CHUNKS: usize = 32;
const PAGE_BYTES: u64 = 4096;

/// Why a controller could not be reached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing is there.
    #[error(
        "there is no socket {0}: start the server (such as nvme-driver emulate --vfio-user {0}), or mend the path"
    )]
    NoSocket(PathBuf),
    /// Nobody listens.
    #[error("nobody listens at {0} any more: start the server that has made the socket again")]
    NobodyListens(PathBuf),
    /// Not for this user.
    #[error(
        "no permission for the socket {0}: be a user who may write to it, or have its owner change its mode"
    )]
    Permission(PathBuf),
    /// The system's.
    #[error("connecting to {path}: {error}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        error: String,
    },
    /// It takes no calls.
    #[error(
        "the server at {0} has not taken the call for {1:?}: it serves another client while more of them wait, or it has \
         stopped; end the others, or start it again"
    )]
    Full(PathBuf, Duration),
    /// It ended at once.
    #[error("the server at {0} has hung up: it serves another client, or wants another version of vfio-user")]
    Busy(PathBuf),
    /// The server did not do its part.
    #[error("the server at {path} does not play its part: {what}: {error}")]
    Call {
        /// Where.
        path: PathBuf,
        /// What it was asked for.
        what: &'static str,
        /// What came of it.
        error: CallError,
    },
    /// What it serves cannot be used.
    #[error("what is served at {path} cannot be used: {what}")]
    Function {
        /// Where.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// What it serves is no NVMe controller.
    #[error(
        "what is served at {path} is no NVMe controller: it is a function of class {class:06x}, not 010802"
    )]
    NotNvme {
        /// Where.
        path: PathBuf,
        /// Base class, subclass and programming interface.
        class: u32,
    },
    /// The system refuses something that is needed here.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: String,
    },
}

/// A controller behind a vfio-user socket.
pub struct VfioUserBackend {
    bar: Arc<Bar>,
    memory: Memory,
    vectors: Box<[Arc<Signal>]>,
    connection: Arc<Connection>,
    can_reset: bool,
}

impl VfioUserBackend {
    /// Connects to the server at `path`, and sets its function up.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(path: &Path) -> Result<Arc<Self>, ConnectError> {
        let socket = channel::connect(path, DEFAULT_PATIENCE).map_err(|errno| match errno {
            Errno::NOENT => ConnectError::NoSocket(path.to_owned()),
            Errno::CONNREFUSED => ConnectError::NobodyListens(path.to_owned()),
            Errno::ACCESS | Errno::PERM => ConnectError::Permission(path.to_owned()),
            Errno::AGAIN => ConnectError::Full(path.to_owned(), DEFAULT_PATIENCE),
            errno => ConnectError::Socket {
                path: path.to_owned(),
                error: errno.to_string(),
            },
        })?;
        Self::over(socket, path, DEFAULT_PATIENCE)
    }

    /// As [`VfioUserBackend::connect`], over a socket that is connected to a server, which has `patience` for each answer;
    /// `path` is what messages call it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn over(socket: OwnedFd, path: &Path, patience: Duration) -> Result<Arc<Self>, ConnectError> {
        let opening = Opening {
            connection: Connection::new(socket, patience).map_err(|error| ConnectError::System {
                what: "starting the thread that reads the server's messages",
                error: error.to_string(),
            })?,
            path,
        };
        opening.finish()
    }
}

/// A function that is being set up.
struct Opening<'a> {
    connection: Arc<Connection>,
    path: &'a Path,
}

impl Opening<'_> {
    fn finish(self) -> Result<Arc<VfioUserBackend>, ConnectError> {
        let capabilities = self.version()?;
        let info: DeviceInfo = self.ask(
            "its device",
            Command::DeviceGetInfo,
            &DeviceInfo {
                argsz: size_of::<DeviceInfo>() as u32,
                ..DeviceInfo::default()
            },
        )?;
        if info.flags & DeviceInfo::PCI == 0 || info.num_regions <= REGION_CONFIG {
            return Err(self.unusable("it is not a PCI function".to_owned()));
        }
        let can_reset = info.flags & DeviceInfo::RESET != 0;
        if can_reset {
            self.call("a reset", Command::DeviceReset, &[], &[])?;
        }
        config::set_up(&self.connection).map_err(|error| self.config(error))?;
        let bar = self.bar()?;
        let vectors = self.interrupts(&capabilities)?;
        config::enable_msix(&self.connection).map_err(|error| self.config(error))?;
        let plan = Plan {
            max_chunks: usize::try_from(capabilities.max_dma_maps)
                .map_or(MAX_CHUNKS, |maps| maps.min(MAX_CHUNKS)),
            ..Plan::default()
        };
        let memory = Memory::new(Arc::new(Maps(Arc::clone(&self.connection))), plan);
        Ok(Arc::new(VfioUserBackend {
            bar,
            memory,
            vectors,
            connection: self.connection,
            can_reset,
        }))
    }

    fn version(&self) -> Result<Capabilities, ConnectError> {
        let ours = Capabilities {
            max_msg_fds: MAX_MESSAGE_FDS,
            max_data_xfer_bytes: MAX_DATA_XFER_BYTES,
            ..Capabilities::default()
        };
        let version = Version {
            major: MAJOR,
            minor: MINOR,
        };
        let asked = [version.as_bytes(), &ours.encode()].concat();
        let what = "its version";
        let answer = match self.connection.call(Command::Version, &asked, &[]) {
            Err(CallError::Gone(_)) if self.connection.was_closed() => {
                return Err(ConnectError::Busy(self.path.to_owned()));
            }
            answer => answer.map_err(|error| self.failed(what, error))?,
        };
        let short = || self.failed(what, CallError::Short(answer.payload.len()));
        let (version, rest) = Version::read_from_prefix(&answer.payload).map_err(|_| short())?;
        if version.major != MAJOR || version.minor > MINOR {
            return Err(self.unusable(format!(
                "the server speaks version {}.{} of vfio-user, and {MAJOR}.0 to {MAJOR}.{MINOR} are known here",
                version.major, version.minor
            )));
        }
        let capabilities = Capabilities::decode(rest).map_err(|error| self.failed(what, error.into()))?;
        if capabilities.page_sizes & PAGE_BYTES == 0 {
            return Err(self.unusable("the server does not map memory in pages of 4 KiB".to_owned()));
        }
        if capabilities.max_msg_fds == 0 || capabilities.max_dma_maps == 0 {
            return Err(self.unusable("the server takes no descriptors".to_owned()));
        }
        log::debug!("the server at {} has {capabilities:?}", self.path.display());
        Ok(capabilities)
    }

    /// BAR 0: the doorbells are mapped, all else is messages.
    fn bar(&self) -> Result<Arc<Bar>, ConnectError> {
        let room = size_of::<RegionInfo>() + size_of::<SparseHeader>() + MAX_AREAS * size_of::<SparseArea>();
        let asked = RegionInfo {
            argsz: room as u32,
            index: REGION_REGISTERS,
            ..RegionInfo::default()
        };
        let what = "BAR 0";
        let answer = self.call(what, Command::DeviceGetRegionInfo, asked.as_bytes(), &[])?;
        let (info, areas) =
            RegionInfo::decode(&answer.payload).map_err(|error| self.failed(what, error.into()))?;
        let len = usize::try_from(info.size).ok().filter(|len| *len > DOORBELLS);
        let len =
            len.ok_or_else(|| self.unusable(format!("BAR 0 has {} bytes, and no doorbells", info.size)))?;
        let whole = || {
            vec![SparseArea {
                offset: 0,
                size: info.size,
            }]
        };
        let areas = areas.unwrap_or_else(whole);
        let doorbells = DOORBELLS as u64;
        let found = areas
            .iter()
            .position(|area| area.offset <= doorbells && doorbells < area.offset.saturating_add(area.size));
        let found = found.filter(|_| info.flags & RegionInfo::MMAP != 0);
        let (number, area) = found
            .and_then(|number| Some((number, areas.get(number)?)))
            .ok_or_else(|| {
                self.unusable(
                    "its doorbells cannot be mapped; messages are too slow for each command, so have the server offer the \
                     page at 1000h of BAR 0 for mapping"
                        .to_owned(),
                )
            })?;
        // One for each area, or one for all.
        let file = match answer.descriptors.as_slice() {
            [one] => Some(one),
            many if many.len() == areas.len() => many.get(number),
            _ => None,
        };
        let file = file.ok_or_else(|| {
            self.unusable(format!(
                "{} descriptors came for {} areas of BAR 0",
                answer.descriptors.len(),
                areas.len()
            ))
        })?;
        let end = area.offset.saturating_add(area.size);
        if end > info.size || !end.is_multiple_of(PAGE_BYTES) || !info.offset.is_multiple_of(PAGE_BYTES) {
            return Err(self.unusable(format!(
                "the area with the doorbells, {:#x} to {end:#x}, is not made of pages of BAR 0",
                area.offset
            )));
        }
        let at = info.offset.checked_add(doorbells);
        let file_end = info.offset.checked_add(end);
        let (Some(at), Some(file_end)) = (at, file_end) else {
            return Err(self.unusable("the doorbells are beyond the end of files".to_owned()));
        };
        // Where it can be had; the length is looked at afterwards.
        if let Err(error) = fcntl_add_seals(file, SealFlags::SHRINK) {
            log::debug!("the file with the doorbells cannot be kept from getting shorter: {error}");
        }
        let file_bytes = fstat(file).map(|found| u64::try_from(found.st_size).unwrap_or(0));
        if file_bytes.map_err(|error| self.system("looking at the file with the doorbells", error))?
            < file_end
        {
            return Err(
                self.unusable("the file with the doorbells is shorter than the server says".to_owned())
            );
        }
        let len_bytes = usize::try_from(end - doorbells).unwrap_or(0);
        let area = Area::map(file, at, DOORBELLS, len_bytes)
            .map_err(|error| self.system("mapping the doorbells", error))?;
        Ok(Bar::new(len, vec![area], Registers(Arc::clone(&self.connection))))
    }

    /// An eventfd for each vector, told to the server.
    fn interrupts(&self, capabilities: &Capabilities) -> Result<Box<[Arc<Signal>]>, ConnectError> {
        let asked = IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            index: IRQ_MSIX,
            ..IrqInfo::default()
        };
        let info: IrqInfo = self.ask("its interrupts", Command::DeviceGetIrqInfo, &asked)?;
        if info.count == 0 || info.flags & IrqInfo::EVENTFD == 0 {
            return Err(self.unusable("it has no MSI-X".to_owned()));
        }
        let signals: io::Result<Vec<Arc<Signal>>> =
            (0..info.count.min(MAX_VECTORS)).map(|_| Signal::new()).collect();
        let signals =
            signals.map_err(|error| self.system("making an eventfd for each interrupt vector", error))?;
        let mut start = 0;
        for some in signals.chunks(capabilities.max_msg_fds.clamp(1, MAX_MESSAGE_FDS)) {
            let set = SetIrqs {
                argsz: size_of::<SetIrqs>() as u32,
                flags: SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER,
                index: IRQ_MSIX,
                start,
                count: some.len() as u32,
            };
            let eventfds: Vec<BorrowedFd<'_>> = some.iter().map(|signal| signal.as_fd()).collect();
            self.call(
                "its interrupts",
                Command::DeviceSetIrqs,
                set.as_bytes(),
                &eventfds,
            )?;
            start += some.len() as u32;
        }
        Ok(signals.into())
    }

    /// A command whose answer is a structure as the one that is sent.
    fn ask<T: IntoBytes + FromBytes + FromZeros + Immutable>(
        &self,
        what: &'static str,
        command: Command,
        asked: &T,
    ) -> Result<T, ConnectError> {
        let answer = self.call(what, command, asked.as_bytes(), &[])?;
        T::read_from_prefix(&answer.payload)
            .map(|(told, _)| told)
            .map_err(|_| self.failed(what, CallError::Short(answer.payload.len())))
    }

    fn call(
        &self,
        what: &'static str,
        command: Command,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<channel::Message, ConnectError> {
        self.connection
            .call(command, payload, descriptors)
            .map_err(|error| self.failed(what, error))
    }

    fn failed(&self, what: &'static str, error: CallError) -> ConnectError {
        ConnectError::Call {
            path: self.path.to_owned(),
            what,
            error,
        }
    }

    fn config(&self, error: config::ConfigError) -> ConnectError {
        match error {
            config::ConfigError::Call(error) => self.failed("its configuration space", error),
            config::ConfigError::Class(class) => ConnectError::NotNvme {
                path: self.path.to_owned(),
                class,
            },
            config::ConfigError::NoMsix => {
                self.unusable("its configuration space has no MSI-X capability".to_owned())
            }
        }
    }

    fn unusable(&self, what: String) -> ConnectError {
        ConnectError::Function {
            path: self.path.to_owned(),
            what,
        }
    }

    fn system(&self, what: &'static str, error: impl Into<io::Error>) -> ConnectError {
        ConnectError::System {
            what,
            error: error.into().to_string(),
        }
    }
}

/// Registers by messages.
struct Registers(Arc<Connection>);

impl Access for Registers {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0
            .read_region(REGION_REGISTERS, offset, into)
            .map_err(io::Error::other)
    }

    fn write(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0
            .write_region(REGION_REGISTERS, offset, from)
            .map_err(io::Error::other)
    }
}

/// Memory, told to the server.
struct Maps(Arc<Connection>);

// SAFETY: the server reaches what is in the memfd, all of which it is given; and it goes on reaching that, and nothing
// else, whatever it was told. When the arena unmaps a chunk here, the chunk's memfd has been this chunk's alone, so
// nothing that this process has is in it any more. A client's memory is the client's, who may find it changed by a server
// that goes on writing; nothing else is in it.
unsafe impl Mapper for Maps {
    fn map(&self, piece: &Piece<'_>) -> Result<u64, BackendError> {
        let map = DmaMap {
            argsz: size_of::<DmaMap>() as u32,
            flags: DmaMap::READ | DmaMap::WRITE,
            offset: 0,
            address: piece.iova,
            size: piece.len_bytes as u64,
        };
        self.0
            .call(Command::DmaMap, map.as_bytes(), &[piece.memfd])
            .map(|_| piece.iova)
            .map_err(|error| {
                BackendError::System(format!(
                    "the vfio-user server does not take {} bytes of memory for DMA: {error}",
                    piece.len_bytes
                ))
            })
    }

    fn unmap(&self, iova: u64, len_bytes: usize) -> bool {
        let unmap = DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            address: iova,
            size: len_bytes as u64,
        };
        if let Err(error) = self.0.call(Command::DmaUnmap, unmap.as_bytes(), &[]) {
            log::debug!(
                "the vfio-user server could not be told that memory is not for DMA any more: {error}"
            );
        }
        true
    }
}

// SAFETY: the arena gives each byte to one region only; there are no windows.
unsafe impl Backend for VfioUserBackend {
    fn name(&self) -> &'static str {
        "vfio-user"
    }

    fn read32(&self, offset: usize) -> u32 {
        self.bar.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.bar.write32(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, BackendError> {
        self.bar.doorbell(offset)
    }

    fn allocate(&self, len_bytes: usize) -> Result<Region, BackendError> {
        self.memory.allocate(len_bytes)
    }

    fn max_region_bytes(&self) -> usize {
        self.memory.max_region_bytes()
    }

    fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    fn waiter(&self, vector: u16) -> Result<Box<dyn Waiter>, BackendError> {
        let available = self.vectors();
        let signal = self
            .vectors
            .get(usize::from(vector))
            .ok_or(BackendError::NoVector { vector, available })?;
        let notices: &[Arc<Signal>] = if vector == 0 {
            std::slice::from_ref(self.connection.notice())
        } else {
            &[]
        };
        let waiter = LinuxWaiter::new(signal, notices)
            .map_err(|error| BackendError::System(format!("an eventfd for a thread to sleep on: {error}")))?;
        Ok(Box::new(waiter))
    }

    fn register(&self, memory: &Arc<SharedMemory>) -> Result<Registration, BackendError> {
        self.memory.register(memory)
    }

    fn windows(&self, _qid: u16, _slots: usize, _page_bytes: usize) -> Option<Box<dyn Windows>> {
        None
    }

    fn cut_off(&self) -> bool {
        // The memory that a server knows of is the arena's, which goes with this backend: one that cannot be told any more
        // writes to what nobody uses.
        self.connection.is_gone() || config::clear_bus_master(&self.connection).unwrap_or(false)
    }

    fn departure(&self) -> Option<Departure> {
        self.connection.is_gone().then_some(Departure::Gone)
    }
}

impl Drop for VfioUserBackend {
    fn drop(&mut self) {
        // The next client shall find it as new; not every server sees to that by itself.
        if self.can_reset
            && !self.connection.is_gone()
            && let Err(error) = self.connection.call(Command::DeviceReset, &[], &[])
        {
            log::debug!("the function could not be reset at the end: {error}");
        }
    }
}

impl fmt::Debug for VfioUserBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VfioUserBackend({:?})", self.bar)
    }
}

impl From<WireError> for CallError {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

impl Connection {
    /// Reads from a region.
    fn read_region(&self, region: u32, offset: u64, into: &mut [u8]) -> Result<(), CallError> {
        let access = RegionAccess {
            offset,
            region,
            count: into.len() as u32,
        };
        let answer = self.call(Command::RegionRead, access.as_bytes(), &[])?;
        let short = CallError::Short(answer.payload.len());
        let (told, data) = RegionAccess::read_from_prefix(&answer.payload).map_err(|_| short.clone())?;
        if told.count != access.count {
            return Err(short);
        }
        into.copy_from_slice(data.get(..into.len()).ok_or(short)?);
        Ok(())
    }

    /// Writes to a region. When this returns the server has done it.
    fn write_region(&self, region: u32, offset: u64, from: &[u8]) -> Result<(), CallError> {
        let access = RegionAccess {
            offset,
            region,
            count: from.len() as u32,
        };
        let payload = [access.as_bytes(), from].concat();
        let answer = self.call(Command::RegionWrite, &payload, &[])?;
        let told = RegionAccess::read_from_prefix(&answer.payload);
        match told {
            Ok((told, _)) if told.count == access.count => Ok(()),
            _ => Err(CallError::Short(answer.payload.len())),
        }
    }
}

/// The errno of an error reply, in words.
fn errno_text(errno: u32) -> String {
    match i32::try_from(errno) {
        Ok(raw) if raw > 0 => io::Error::from(Errno::from_raw_os_error(raw)).to_string(),
        _ => "no reason given".to_owned(),
    }
}
