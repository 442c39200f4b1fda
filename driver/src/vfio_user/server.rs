//! The server: an emulated controller on a socket, for one client after the other.
//!
//! One thread takes the client's messages; the controller's own threads work as ever, on memory that the client has
//! mapped and on doorbells in a page that the client may map. A client that leaves, in whatever way, leaves the controller
//! as after a reset: nothing of its memory is mapped any more when the next one is served. Data stays.
//!
//! The client is not trusted: what it sends is an error reply, or the end of its connection, and never the end of the
//! server. It can hold up the one thread for no longer than [`PATIENCE`].

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nvme_emulator::{Config, DoorbellMemory, Emulator, EmulatorError, HostMemory, Interrupts, Running};
use nvme_spec::register::DOORBELLS;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::channel::{self, Channel, ChannelError, Message, Other, Others};
use super::function::vectors::Vectors;
use super::function::{Effect, Function, IRQ_MSIX, IRQS, REGION_CONFIG, REGION_REGISTERS, REGIONS};
use super::wire::{
    Capabilities, DeviceInfo, DmaUnmap, Header, IrqInfo, MAJOR, MAX_DATA_XFER_BYTES, MINOR, RegionAccess,
    RegionInfo, RegionIoFds, Request, SetIrqs, SparseArea, Version, WireError,
};
use crate::backend::vfio_user::shared::{ClientMemory, DoorbellPages, MAX_DMA_MAPS};
use crate::clock::Clock;

pub use crate::backend::vfio_user::shared::Trust;

/// What a client has for the rest of a message that it has begun, for taking an answer, and for its first message.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that a client may send with one message. QEMU refuses servers that take more, see
/// [`QUIRKS`](super::QUIRKS); a client that sends more of them all the same is not sent away.
const OFFERED_FDS: usize = 16;
/// What a server that is at the socket already has for a call, by which it is known.
const CALL_PATIENCE: Duration = Duration::from_secs(1);

/// Why a server cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody listens there.
    #[error(
        "another server listens at {0}: stop it, or use another path; a client that wants this controller can use that"
    )]
    InUse(PathBuf),
    /// There is something else than a socket.
    #[error("{0} is there and is not a socket: remove it, or use another path")]
    NotASocket(PathBuf),
    /// The system does not let the socket be made.
    #[error("no socket can be made at {path}: {error}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// The system's.
        error: io::Error,
    },
    /// The emulated controller cannot be made.
    #[error("the emulated controller: {0}")]
    Emulator(#[from] EmulatorError),
    /// The system refuses something else.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(Errno) -> ServeError {
    move |errno| ServeError::System {
        what,
        error: errno.into(),
    }
}

/// An emulated controller on a socket. When it goes, so does the socket.
pub struct Server {
    socket: Socket,
    device: Served,
}

impl Server {
    /// A controller as `config` says on threads of its own, at the socket `path`. A socket at which nobody listens any
    /// more is replaced.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn bind(path: &Path, config: Config, trust: Trust, clock: Clock) -> Result<Self, ServeError> {
        let socket = Socket::bind(path)?;
        Ok(Self {
            socket,
            device: Served::new(config, trust, clock)?,
        })
    }

    /// The controller: for what it has done, and for faults.
    pub fn emulator(&self) -> &Arc<Emulator> {
        &self.device.emulator
    }

    /// Serves clients until there is something to read at `stop`.
    ///
    /// # Errors
    /// The socket fails. What a client does is no error.
    pub fn serve(&mut self, stop: BorrowedFd<'_>) -> Result<(), ServeError> {
        loop {
            let listener = self.socket.listener.as_fd();
            let mut set = [
                PollFd::new(&stop, PollFlags::IN),
                PollFd::new(&listener, PollFlags::IN),
            ];
            match poll(&mut set, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("waiting for a client")(errno)),
            }
            let [stopped, called] = set.map(|polled| !polled.revents().is_empty());
            if stopped {
                return Ok(());
            }
            if !called {
                continue;
            }
            let Some(client) = self.socket.accept()? else {
                continue;
            };
            log::info!("a client has come");
            let channel = Channel::new(client.into(), PATIENCE);
            let ended = self.device.serve(&channel, &self.socket, stop);
            self.device.forget_client();
            match ended {
                ChannelError::Closed => log::info!("the client has gone"),
                ChannelError::Elsewhere(_) => return Ok(()),
                error => log::warn!("the client is sent away: {error}"),
            }
        }
    }
}

/// The socket at which clients call.
struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: whether it is still this one at the path.
    own: (u64, u64),
}

impl Socket {
    fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |error| ServeError::Socket {
            path: path.to_owned(),
            error,
        };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
                if !is_socket {
                    return Err(ServeError::NotASocket(path.to_owned()));
                }
                match channel::connect(path, CALL_PATIENCE) {
                    Err(Errno::CONNREFUSED | Errno::NOENT) => {}
                    _ => return Err(ServeError::InUse(path.to_owned())),
                }
                log::info!("the socket {} was left behind; it is replaced", path.display());
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                    _ => {}
                }
                UnixListener::bind(path).map_err(failed)?
            }
            bound => bound.map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        let found = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            own: (found.dev(), found.ino()),
        })
    }

    /// Who calls; `None` if nobody does any more.
    fn accept(&self) -> Result<Option<UnixStream>, ServeError> {
        match self.listener.accept() {
            Ok((client, _)) => Ok(Some(client)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::Interrupted
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset => Ok(None),
                _ => Err(ServeError::System {
                    what: "accepting a client",
                    error,
                }),
            },
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.own);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("the socket {} could not be removed: {error}", self.path.display());
        }
    }
}

/// The controller and what of it clients see.
struct Served {
    /// Stops the threads when this goes.
    _running: Running,
    emulator: Arc<Emulator>,
    function: Function,
    vectors: Arc<Vectors>,
    memory: Arc<ClientMemory>,
    doorbells: Arc<DoorbellPages>,
    clock: Clock,
}

/// What is sent back.
#[derive(Default)]
struct Reply<'a> {
    payload: Vec<u8>,
    descriptor: Option<BorrowedFd<'a>>,
}

impl Reply<'_> {
    fn of(payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: payload.into(),
            descriptor: None,
        }
    }
}

impl Served {
    fn new(config: Config, trust: Trust, clock: Clock) -> Result<Self, ServeError> {
        let memory = Arc::new(ClientMemory::new(trust));
        let vectors = Arc::new(Vectors::new(config.vectors));
        // As Registers::len_bytes has it: a pair for each queue and for the admin queue, in whole pages.
        let doorbells_bytes = ((usize::from(config.queues) + 1) * 2) << (2 + config.dstrd);
        let doorbells = DoorbellPages::new(DOORBELLS as u64, doorbells_bytes.next_multiple_of(4096))
            .map_err(system("memory for doorbells"))?;
        let doorbells = Arc::new(doorbells);
        let emulator = Emulator::with_doorbells(
            config,
            Arc::clone(&memory) as Arc<dyn HostMemory>,
            Arc::clone(&vectors) as Arc<dyn Interrupts>,
            Arc::clone(&doorbells) as Arc<dyn DoorbellMemory>,
        )?;
        let running = emulator.run(Arc::new({
            let clock = clock.clone();
            move || clock.now_ns()
        }));
        Ok(Self {
            _running: running,
            function: Function::new(Arc::clone(&emulator), Arc::clone(&vectors), Arc::clone(&memory)),
            emulator,
            vectors,
            memory,
            doorbells,
            clock,
        })
    }

    /// Serves one client until one of the two ends it; says why. Others that call meanwhile are sent away.
    fn serve(&mut self, channel: &Channel, socket: &Socket, stop: BorrowedFd<'_>) -> ChannelError {
        let others = Others {
            stop: Some(stop),
            aside: Some(socket.listener.as_fd()),
        };
        let mut is_known = false;
        loop {
            let silence = (!is_known).then_some(PATIENCE);
            match channel.receive(silence, others) {
                Ok(message) => {
                    if let Err(error) = self.answer(channel, message, &mut is_known) {
                        return error;
                    }
                }
                Err(ChannelError::Elsewhere(Other::Aside)) => match socket.accept() {
                    Ok(Some(_)) => {
                        log::warn!("another client has called and is sent away: there is one already")
                    }
                    Ok(None) => {}
                    Err(error) => {
                        log::error!("{error}");
                        return ChannelError::Closed;
                    }
                },
                Err(error) => return error,
            }
        }
    }

    fn answer(
        &mut self,
        channel: &Channel,
        message: Message,
        is_known: &mut bool,
    ) -> Result<(), ChannelError> {
        let Message {
            header,
            payload,
            descriptors,
        } = message;
        if header.is_reply() {
            // Nothing was asked: the client does not know what it does.
            return Err(WireError::Type { flags: header.flags }.into());
        }
        let mut end = Ok(());
        let result = match Request::decode(header.command, &payload) {
            Ok(Request::Version(version, capabilities)) if !*is_known => {
                let agreed = agree(version, &capabilities);
                match &agreed {
                    Ok(_) => *is_known = true,
                    Err(_) => end = Err(ChannelError::Closed),
                }
                agreed
            }
            Ok(_) if !*is_known => {
                log::warn!(
                    "a client has sent command {} before it has said its version",
                    header.command
                );
                end = Err(ChannelError::Closed);
                Err(Errno::INVAL)
            }
            Ok(request) => self.obey(&request, descriptors),
            Err(WireError::Command(command)) => {
                log::debug!("a client has sent command {command}, which is not known here");
                Err(Errno::OPNOTSUPP)
            }
            Err(error) => {
                log::warn!("a client has sent what cannot be read: {error}");
                Err(Errno::INVAL)
            }
        };
        if let Err(errno) = &result {
            log::debug!("command {} of a client is refused: {errno}", header.command);
        }
        if header.wants_reply() {
            match result {
                Ok(Reply { payload, descriptor }) => {
                    channel.send(&header.reply(payload.len()), &payload, descriptor.as_slice())?;
                }
                Err(errno) => channel.send(&error_reply(&header, errno), &[], &[])?,
            }
        }
        end
    }

    fn obey(&mut self, request: &Request<'_>, descriptors: Vec<OwnedFd>) -> Result<Reply<'_>, Errno> {
        match request {
            Request::DmaMap(map) => {
                let mut descriptors = descriptors.into_iter();
                let file = descriptors.next();
                if descriptors.next().is_some() {
                    return Err(Errno::INVAL);
                }
                let mapped = self.memory.map(map, file);
                if mapped == Err(Errno::PERM) {
                    log::warn!(
                        "memory of a client is refused: its file could be made shorter, which would end this server; use \
                         a memfd that can be sealed (QEMU: memory-backend-memfd), or start the server with \
                         --trust-client"
                    );
                }
                mapped.map(|()| Reply::default())
            }
            Request::DmaUnmap(unmap) => {
                if unmap.flags & DmaUnmap::ALL != 0 {
                    self.memory.clear();
                } else {
                    self.memory.unmap(unmap.address, unmap.size)?;
                }
                Ok(Reply::of(unmap.as_bytes()))
            }
            Request::DeviceGetInfo(_) => Ok(Reply::of(
                DeviceInfo {
                    argsz: size_of::<DeviceInfo>() as u32,
                    flags: DeviceInfo::RESET | DeviceInfo::PCI,
                    num_regions: REGIONS,
                    num_irqs: IRQS,
                }
                .as_bytes(),
            )),
            Request::DeviceGetRegionInfo(info) => self.region_info(info),
            Request::DeviceGetRegionIoFds(fds) if fds.index < REGIONS => Ok(Reply::of(
                RegionIoFds {
                    argsz: size_of::<RegionIoFds>() as u32,
                    flags: 0,
                    index: fds.index,
                    count: 0,
                }
                .as_bytes(),
            )),
            Request::DeviceGetIrqInfo(info) if info.index < IRQS => {
                let (flags, count) = match info.index {
                    IRQ_MSIX => (IrqInfo::EVENTFD | IrqInfo::MASKABLE, self.vectors.count()),
                    _ => (0, 0),
                };
                let info = IrqInfo {
                    argsz: size_of::<IrqInfo>() as u32,
                    flags,
                    index: info.index,
                    count,
                };
                Ok(Reply::of(info.as_bytes()))
            }
            Request::DeviceSetIrqs(set, data) => self
                .vectors
                .unblocking(|| self.set_irqs(set, data, descriptors))
                .map(|()| Reply::default()),
            Request::RegionRead(access) => {
                if access.count > MAX_DATA_XFER_BYTES {
                    return Err(Errno::INVAL);
                }
                let head = access.as_bytes();
                let mut payload = vec![0; head.len() + access.count as usize];
                let (to, data) = payload.split_at_mut(head.len());
                to.copy_from_slice(head);
                self.function.read(access.region, access.offset, data)?;
                Ok(Reply::of(payload))
            }
            Request::RegionWrite(access, data) => {
                self.write(access, data)?;
                Ok(Reply::of(access.as_bytes()))
            }
            Request::RegionWriteMulti(writes) => {
                for write in writes {
                    let data = write
                        .data
                        .get(..write.access.count as usize)
                        .ok_or(Errno::INVAL)?;
                    self.write(&write.access, data)?;
                }
                Ok(Reply::of((writes.len() as u64).as_bytes()))
            }
            Request::DeviceReset => {
                self.reset_device();
                Ok(Reply::default())
            }
            // Said twice, asked of the wrong side, or of what is not there.
            Request::Version(..)
            | Request::DmaRead(_)
            | Request::DmaWrite(..)
            | Request::DeviceGetRegionIoFds(_)
            | Request::DeviceGetIrqInfo(_) => Err(Errno::INVAL),
        }
    }

    fn region_info(&self, asked: &RegionInfo) -> Result<Reply<'_>, Errno> {
        if asked.index >= REGIONS {
            return Err(Errno::INVAL);
        }
        let (size, flags) = self.function.region(asked.index);
        let mut info = RegionInfo {
            flags,
            index: asked.index,
            size,
            ..RegionInfo::default()
        };
        if asked.index != REGION_REGISTERS {
            return Ok(Reply::of(info.encode(&[], asked.argsz).0));
        }
        info.flags |= RegionInfo::MMAP;
        let doorbells = SparseArea {
            offset: DOORBELLS as u64,
            size: size_of_val(self.doorbells.words()) as u64,
        };
        let (payload, is_whole) = info.encode(&[doorbells], asked.argsz);
        Ok(Reply {
            payload,
            descriptor: is_whole.then(|| self.doorbells.file()),
        })
    }

    fn write(&mut self, access: &RegionAccess, data: &[u8]) -> Result<(), Errno> {
        let Self {
            function, vectors, ..
        } = self;
        let mut write = || function.write(access.region, access.offset, data);
        let effect = if access.region == REGION_CONFIG {
            // Interrupts that were masked may go out.
            vectors.unblocking(write)
        } else {
            write()
        };
        match effect? {
            Effect::None => {}
            Effect::Reset => {
                self.reset_device();
                self.function.reset();
            }
        }
        Ok(())
    }

    fn set_irqs(&self, set: &SetIrqs, data: &[u8], descriptors: Vec<OwnedFd>) -> Result<(), Errno> {
        const DATA: u32 = SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL | SetIrqs::DATA_EVENTFD;
        let kind = set.flags & DATA;
        let action = set.flags & !DATA;
        if set.index >= IRQS {
            return Err(Errno::INVAL);
        }
        let count = if set.index == IRQ_MSIX {
            self.vectors.count()
        } else {
            0
        };
        let end = set.start.checked_add(set.count).filter(|end| *end <= count);
        let vectors = set.start..end.ok_or(Errno::INVAL)?;
        // "Disables all interrupts of the index."
        if kind == SetIrqs::DATA_NONE && action == SetIrqs::ACTION_TRIGGER && set.count == 0 {
            return (0..count).try_for_each(|vector| self.vectors.set_eventfd(vector, None));
        }
        let wanted = || {
            vectors.clone().enumerate().filter_map(|(at, vector)| {
                let wanted = kind == SetIrqs::DATA_NONE || data.get(at).is_some_and(|wanted| *wanted != 0);
                wanted.then_some(vector)
            })
        };
        match (kind, action) {
            (SetIrqs::DATA_EVENTFD, SetIrqs::ACTION_TRIGGER) => {
                if descriptors.is_empty() {
                    return vectors
                        .clone()
                        .try_for_each(|vector| self.vectors.set_eventfd(vector, None));
                }
                if descriptors.len() != vectors.len() {
                    return Err(Errno::INVAL);
                }
                vectors
                    .clone()
                    .zip(descriptors)
                    .try_for_each(|(vector, eventfd)| self.vectors.set_eventfd(vector, Some(eventfd)))
            }
            (SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL, SetIrqs::ACTION_TRIGGER) => {
                wanted().try_for_each(|vector| self.vectors.trigger(vector))
            }
            (SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL, SetIrqs::ACTION_MASK) => {
                wanted().try_for_each(|vector| self.vectors.set_masked(vector, true))
            }
            (SetIrqs::DATA_NONE | SetIrqs::DATA_BOOL, SetIrqs::ACTION_UNMASK) => {
                wanted().try_for_each(|vector| self.vectors.set_masked(vector, false))
            }
            _ => Err(Errno::INVAL),
        }
    }

    /// Resets the controller; the configuration space stays, as VFIO has it. When this returns, the device touches no
    /// memory of the client's.
    fn reset_device(&self) {
        self.vectors
            .unblocking(|| self.emulator.reset_function(self.clock.now_ns()));
    }

    /// The client has gone.
    fn forget_client(&mut self) {
        self.reset_device();
        self.function.reset();
        self.vectors.forget();
        self.memory.clear();
    }
}

/// What the first message comes to.
fn agree(version: Version, capabilities: &Capabilities) -> Result<Reply<'static>, Errno> {
    if version.major != MAJOR {
        log::warn!(
            "a client speaks version {}.{} of vfio-user; here it is {MAJOR}.{MINOR}",
            version.major,
            version.minor
        );
        return Err(Errno::INVAL);
    }
    log::debug!("a client has {capabilities:?}");
    let agreed = Version {
        major: MAJOR,
        minor: version.minor.min(MINOR),
    };
    let ours = Capabilities {
        max_msg_fds: OFFERED_FDS,
        max_data_xfer_bytes: MAX_DATA_XFER_BYTES,
        max_dma_maps: MAX_DMA_MAPS as u64,
        page_sizes: 4096,
        write_multiple: true,
    };
    Ok(Reply::of([agreed.as_bytes(), &ours.encode()].concat()))
}

fn error_reply(header: &Header, errno: Errno) -> Header {
    header.error_reply(errno.raw_os_error().unsigned_abs())
}
