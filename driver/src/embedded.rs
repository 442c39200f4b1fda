//! A driver inside the calling program: an emulated controller, the driver on it, and a client of its scheme.
//!
//! ```
//! use nvme_driver::Config;
//! use nvme_driver::embedded;
//! use nvme_driver::scheme::OpenFlags;
//!
//! let driver = embedded::start("size=16MiB,lba=512", &Config::default())?;
//! let client = driver.client(0, 0, std::process::id());
//! let disk = client.open("1", OpenFlags::READ_WRITE)?;
//! disk.write_at(b"hello", 1234)?;
//! disk.sync()?;
//! let mut back = [0; 5];
//! assert_eq!(disk.read_at(&mut back, 1234)?, 5);
//! assert_eq!(&back, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::backend::BackendError;
use crate::backend::emulated::EmulatedBackend;
use crate::clock::Clock;
use crate::config::Config;
use crate::controller::Controller;
use crate::driver::Driver;
use crate::error::Error;
use crate::scheme::{Answers, Call, Caller, Entry, Errno, HandleId, OpenFlags, Reply, Scheme, Stat};

/// How long a call that the driver has no room for is tried again. The first pause, and what it doubles up
/// to.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// After so many tries (about 10 s) the caller is told.
const MAX_TRIES: u32 = 2000;

/// Starts an emulated controller described by `spec` (such as `size=4GiB,latency=80us`; empty is the default,
/// see [`nvme_emulator::Config`]) and a driver on it.
///
/// # Errors
/// A `spec` that cannot be read, with what is wrong with it, or a controller that cannot be brought up.
pub fn start(spec: &str, config: &Config) -> Result<EmbeddedDriver, Error> {
    let device = spec.parse::<nvme_emulator::Config>();
    let device = device.map_err(|error| BackendError::Emulator(error.to_string()))?;
    let clock = Clock::system();
    let backend = Arc::new(EmulatedBackend::start(device, clock.clone())?);
    let controller = Controller::open(
        Arc::clone(&backend) as Arc<dyn crate::backend::Backend>,
        config,
        clock,
    )?;
    let driver = Driver::start(controller)?;
    let scheme = Scheme::new(driver.clone());
    Ok(EmbeddedDriver {
        scheme,
        driver,
        backend,
    })
}

/// A driver and the emulated controller that it drives. Dropped, it shuts the controller down in order.
pub struct EmbeddedDriver {
    scheme: Arc<Scheme>,
    driver: Driver,
    backend: Arc<EmulatedBackend>,
}

impl EmbeddedDriver {
    /// A client of the driver's scheme, as the user `uid` of group `gid` and process `pid`. Clients outlive
    /// the driver: their calls then fail.
    pub fn client(&self, uid: u32, gid: u32, pid: u32) -> Client {
        Client::new(&self.scheme, uid, gid, pid)
    }

    /// The driver itself.
    pub fn driver(&self) -> &Driver {
        &self.driver
    }

    /// The tree that the clients use.
    pub fn scheme(&self) -> &Arc<Scheme> {
        &self.scheme
    }

    /// The controller, as only an emulated one can be seen: its faults and its true counters.
    pub fn device(&self) -> &Arc<nvme_emulator::Emulator> {
        self.backend.device()
    }

    /// Shuts down in order, as dropping it does, and says how that went.
    ///
    /// # Errors
    /// The controller did not answer or finish in time.
    pub fn shutdown(self) -> Result<(), Error> {
        self.driver.shutdown()
    }
}

impl Drop for EmbeddedDriver {
    fn drop(&mut self) {
        // Also when clients and clones of the driver live on.
        if let Err(error) = self.driver.shutdown() {
            log::error!("shutdown: {error}");
        }
    }
}

impl std::fmt::Debug for EmbeddedDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedDriver")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

/// A client of a scheme in the same process, whose calls wait for their answers. Threads may share it.
#[derive(Clone, Debug)]
pub struct Client {
    scheme: Arc<Scheme>,
    caller: Caller,
}

impl Client {
    /// A client of `scheme`, as the user `uid` of group `gid` and process `pid`.
    pub fn new(scheme: &Arc<Scheme>, uid: u32, gid: u32, pid: u32) -> Self {
        Self {
            scheme: Arc::clone(scheme),
            caller: Caller::new(uid, gid, pid),
        }
    }

    /// Opens a node of the tree ([`scheme`](crate::scheme) lists them).
    ///
    /// # Errors
    /// As [`Call::Open`].
    pub fn open(&self, path: &str, flags: OpenFlags) -> Result<Handle, Errno> {
        let call = || Call::Open {
            path: path.to_owned(),
            flags,
            caller: self.caller.clone(),
        };
        match persistently(&self.scheme, call)? {
            Reply::Opened(id) => Ok(Handle {
                scheme: Arc::clone(&self.scheme),
                id,
            }),
            _ => Err(Errno::EIO),
        }
    }

    /// The entries of a directory.
    ///
    /// # Errors
    /// As [`Call::Open`] and [`Call::List`].
    pub fn list(&self, path: &str) -> Result<Vec<Entry>, Errno> {
        self.open(path, OpenFlags::DIRECTORY)?.list()
    }
}

/// An open node. Threads may share it and have calls out at once. Dropped, it is closed.
#[derive(Debug)]
pub struct Handle {
    scheme: Arc<Scheme>,
    id: HandleId,
}

impl Handle {
    /// Reads at `offset`; returns how many bytes there were: fewer than `into` holds near the end, 0 at the
    /// end.
    ///
    /// # Errors
    /// Those of the node; `EAGAIN` if the driver has had no room for a long time.
    pub fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let reply = self.persistently(|handle| Call::Read {
            handle,
            offset,
            buffer: vec![0; into.len()],
        })?;
        let Reply::Read { buffer, len } = reply else {
            return Err(Errno::EIO);
        };
        let (Some(to), Some(from)) = (into.get_mut(..len), buffer.get(..len)) else {
            return Err(Errno::EIO);
        };
        to.copy_from_slice(from);
        Ok(len)
    }

    /// Writes at `offset`; returns how many bytes were written: fewer than `from` has where they do not all
    /// fit.
    ///
    /// # Errors
    /// Those of the node; `EAGAIN` if the driver has had no room for a long time.
    pub fn write_at(&self, from: &[u8], offset: u64) -> Result<usize, Errno> {
        match self.persistently(|handle| Call::Write {
            handle,
            offset,
            data: from.to_vec(),
        })? {
            Reply::Written { len, .. } => Ok(len),
            _ => Err(Errno::EIO),
        }
    }

    /// Writes a message to `N/ring`, with the memory that it names.
    ///
    /// # Errors
    /// Those of the node.
    #[cfg(feature = "io-uring-compat")]
    pub fn share(&self, message: &[u8], memory: Option<&Arc<crate::dma::SharedMemory>>) -> Result<(), Errno> {
        let Some(memory) = memory else {
            return self.write_at(message, 0).map(drop);
        };
        self.persistently(|handle| Call::Share {
            handle,
            message: message.to_owned(),
            memory: Arc::clone(memory),
        })
        .map(drop)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of the node.
    pub fn sync(&self) -> Result<(), Errno> {
        self.persistently(|handle| Call::Sync { handle }).map(drop)
    }

    /// About the node.
    ///
    /// # Errors
    /// Those of the node.
    pub fn stat(&self) -> Result<Stat, Errno> {
        match wait(&self.scheme, Call::Stat { handle: self.id })? {
            Reply::Stat(stat) => Ok(stat),
            _ => Err(Errno::EIO),
        }
    }

    /// The entries, if it is a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn list(&self) -> Result<Vec<Entry>, Errno> {
        match self.persistently(|handle| Call::List { handle })? {
            Reply::List(entries) => Ok(entries),
            _ => Err(Errno::EIO),
        }
    }

    /// Its number, for calls to the [`Scheme`] that do not wait.
    pub fn id(&self) -> HandleId {
        self.id
    }

    fn persistently(&self, call: impl Fn(HandleId) -> Call) -> Result<Reply, Errno> {
        persistently(&self.scheme, || call(self.id))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The handle is open, so this cannot fail.
        let _ = wait(&self.scheme, Call::Close { handle: self.id });
    }
}

/// Makes a call, again and again while the driver has no room for it: nothing was done then.
fn persistently(scheme: &Arc<Scheme>, call: impl Fn() -> Call) -> Result<Reply, Errno> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..MAX_TRIES {
        match wait(scheme, call()) {
            Err(Errno::EAGAIN) => std::thread::sleep(pause),
            outcome => return outcome,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    wait(scheme, call())
}

/// Where one answer is waited for.
#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Result<Reply, Errno>>>,
    came: Condvar,
}

impl Answers for Slot {
    fn answer(&self, _id: u64, result: Result<Reply, Errno>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.came.notify_one();
    }
}

fn wait(scheme: &Arc<Scheme>, call: Call) -> Result<Reply, Errno> {
    let slot = Arc::new(Slot::default());
    scheme.call(0, call, &(Arc::clone(&slot) as Arc<dyn Answers>));
    let answer = slot.answer.lock().unwrap_or_else(PoisonError::into_inner);
    let mut answer = slot
        .came
        .wait_while(answer, |answer| answer.is_none())
        .unwrap_or_else(PoisonError::into_inner);
    answer.take().unwrap_or(Err(Errno::EIO))
}
/// A Flush of each namespace of `driver` that can be used, whose writes could be in a cache. Says whether all were done;
/// what was not is logged.
pub fn flush(driver: &Driver, scheme: &Arc<Scheme>) -> bool {
    let client = Client::new(scheme, 0, 0, std::process::id());
    let flushed = |nsid: u32| {
        client
            .open(&nsid.to_string(), OpenFlags::READ_WRITE)
            .and_then(|disk| disk.sync())
            .inspect_err(|error| log::error!("namespace {nsid} could not be flushed: {error}"))
            .is_ok()
    };
    let namespaces = driver.namespaces();
    let usable = namespaces.iter().filter(|namespace| namespace.is_usable());
    // Each, also behind one that failed.
    usable.filter(|namespace| !flushed(namespace.nsid)).count() == 0
}
