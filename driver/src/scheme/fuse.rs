//! The tree as a file system of Linux: mounted with FUSE, so that every program that can open a file is a client.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use nvme_driver::Config;
//! use nvme_driver::embedded;
//! use nvme_driver::scheme::fuse;
//!
//! let driver = embedded::start("size=64MiB", &Config::default())?;
//! let mount = fuse::mount(driver.scheme(), Path::new("/tmp/nvme"), &fuse::Options::default())?;
//! println!("try: cat /tmp/nvme/controller/stats");
//! mount.wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What is particular here:
//! - **A namespace `N` is a directory**, because a node of a file system is either a file or a directory; its data is
//!   `N/data`. Queries are part of a file's name: `N/stats?light`, `N/data?prio=high`.
//! - **The block device is a regular file** with the namespace's size, so that what works on image files works on it
//!   (`mkfs.ext4 -F`, `dd`, `fio`). To shorten it, as shells and `dd` do before they write, changes nothing; to make it
//!   longer is `EINVAL`.
//! - **Nothing is cached**: each read and write of a client is a call of the scheme, in pieces of at most
//!   [`MAX_PIECE_BYTES`]. Other programs, benchmarks and passthrough commands are seen at once. `fsync` and
//!   `fdatasync` are Flush; `close` is not. A shared mapping is `ENODEV`, since its pages would be a cache.
//! - **No request waits for another**: several threads take requests from the kernel and make calls of them; the
//!   answer goes to the kernel from whichever thread completes it.
//! - **Owners and modes** are the scheme's, which is who decides, not the kernel: supplementary groups count,
//!   capabilities do not. `chmod` and `chown` of a block device work for root, until the driver ends.
//! - `fallocate` makes holes and zeroes ranges within the device ([`Call::Zero`](super::Call::Zero)).

mod caller;
mod inodes;
mod interrupts;
mod mount_point;
mod names;
mod tree;

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};

use super::gate::Gate;
use super::{Errno, Reply, Scheme, lock};
use interrupts::Interrupts;
use mount_point::MountPoint;
use tree::Tree;

pub use mount_point::MountError;

/// The most bytes that the kernel puts in one request; a client's longer call becomes several, one after the other.
pub const MAX_PIECE_BYTES: u32 = 1 << 20;

/// The most requests that the kernel sends for asynchronous I/O (io_uring, libaio) and has not got answers for. The
/// rest waits in the kernel. Half of what one queue's worker takes in, so that no client hears `EAGAIN` from a queue
/// that is full.
const MAX_BACKGROUND: u16 = 2048;

/// How long [`Mount::unmount`] lets the session end by itself.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a tree is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Threads that take requests from the kernel; 0 is one for each CPU, from 2 to 8.
    pub threads: usize,
}

impl Options {
    fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 8)),
            threads => threads,
        }
    }
}

/// A mounted tree. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mount {
    point: MountPoint,
    gate: Arc<Gate>,
    unmounter: Mutex<SessionUnmounter>,
    session: Mutex<Option<JoinHandle<()>>>,
    ended: Mutex<Receiver<io::Result<()>>>,
}

/// Mounts `scheme` at `dir`, which is made if it is not there. The mount of a daemon that has been killed is taken
/// over. For everybody if this process is root's, else for its user alone.
///
/// # Errors
/// [`MountError`], each with what to do about it.
pub fn mount(scheme: &Arc<Scheme>, dir: &Path, options: &Options) -> Result<Mount, MountError> {
    let (point, claim) = MountPoint::claim(dir)?;
    let failed = |error| MountError::Mount {
        dir: point.dir().to_owned(),
        error,
    };
    let everybody = rustix::process::geteuid().is_root();
    if !everybody {
        log::warn!("not started by root: only this user will see the tree");
    }
    let gate = Gate::new(Arc::clone(scheme));
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(MountPoint::source()),
        MountOption::Subtype("nvme".to_owned()),
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
    ];
    config.acl = if everybody {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    config.n_threads = Some(options.threads());
    config.clone_fd = true;
    let interrupts = Arc::new(Interrupts::default());
    let tree = Tree::new(Arc::clone(&gate), Arc::clone(&interrupts));
    let mut session = Session::new(tree, point.dir(), &config).map_err(failed)?;
    drop(claim);
    let unmounter = Mutex::new(session.unmount_callable());
    let watched = Arc::clone(&gate);
    // It ends with the session, which has the tree.
    std::thread::Builder::new()
        .name("nvme-fuse-signals".to_owned())
        .spawn(move || interrupts.watch(&watched))
        .map_err(failed)?;
    let (sender, ended) = channel();
    let session = std::thread::Builder::new()
        .name("nvme-fuse".to_owned())
        .spawn(move || {
            // The receiver is gone only if nobody wants to know.
            let _ = sender.send(session.run());
        })
        .map_err(failed)?;
    Ok(Mount {
        point,
        gate,
        unmounter,
        session: Mutex::new(Some(session)),
        ended: Mutex::new(ended),
    })
}

/// Whether `dir` could be mounted on, as [`mount`] would find it: makes it, takes it over, waits a little for a daemon
/// that is just ending.
///
/// # Errors
/// As [`mount`].
pub fn check(dir: &Path) -> Result<(), MountError> {
    MountPoint::claim(dir).map(drop)
}

impl Mount {
    /// Where it is mounted: an absolute path without symbolic links.
    pub fn dir(&self) -> &Path {
        self.point.dir()
    }

    /// Calls of clients that have not been answered.
    pub fn outstanding(&self) -> usize {
        self.gate.outstanding()
    }

    /// Sleeps until the tree is not mounted any more, because somebody unmounted it or [`Self::detach`] was called
    /// and the last file is closed; or because the session failed, which is what it returns then.
    ///
    /// # Errors
    /// What talking to the kernel failed with.
    pub fn wait(&self) -> io::Result<()> {
        // The sender goes without a word only if the session's thread panicked.
        lock(&self.ended)
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the FUSE session's thread has died")))
    }

    /// Takes the mount away: no path leads to the tree any more. Files that are open go on working.
    ///
    /// # Errors
    /// What the system call failed with.
    pub fn detach(&self) -> io::Result<()> {
        if !self.point.is_ours()? {
            return Ok(());
        }
        // The library's way first, whether or not it works: otherwise it would unmount once more when the session ends,
        // and by then the directory may be another daemon's.
        if let Err(error) = lock(&self.unmounter).unmount() {
            log::debug!("{}: {error}", self.dir().display());
        }
        self.point.detach()
    }

    /// Answers every further call `ESHUTDOWN`, ends the reads that wait for something to happen, and waits until what is out has been answered, or for `patience`.
    /// Says how many calls are still out.
    pub fn finish(&self, patience: Duration) -> usize {
        self.gate.shut(patience)
    }

    /// Detaches, and ends the session if no files are open; else it ends with the process.
    ///
    /// # Errors
    /// What the system call failed with.
    pub fn unmount(self) -> io::Result<()> {
        self.end()
    }

    fn end(&self) -> io::Result<()> {
        self.detach()?;
        let Some(session) = lock(&self.session).take() else {
            return Ok(());
        };
        let until = Instant::now() + PATIENCE;
        while !session.is_finished() {
            if Instant::now() > until {
                log::debug!("clients have files open; the session ends with them");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        session
            .join()
            .map_err(|_| io::Error::other("the FUSE session's thread has died"))
    }
}

/// The errno of an answer that is not the one hoped for.
fn failure(result: Result<Reply, Errno>) -> fuser::Errno {
    match result {
        Ok(_) => fuser::Errno::EIO,
        Err(errno) => fuser::Errno::from_i32(errno.0),
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            log::error!("cannot unmount {}: {error}", self.dir().display());
        }
    }
}
