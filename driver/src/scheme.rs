//! The path tree of a controller and its handles, the same on every operating system.
//!
//! ```text
//! /                         directory: controller/ and one entry per namespace
//! N                         namespace N as a block device (N/ is the directory)
//! N/data                    the same block device under a plain name
//! N/stats, N/stats?light    the statistics with this namespace only, with and without histograms (JSON)
//! N/identify                4096 bytes, Identify Namespace
//! N/bench                   transaction file: write a job (JSON), read progress lines and the result
//! controller/identify       4096 bytes, Identify Controller
//! controller/stats[?light]  the statistics of the whole controller (JSON)
//! controller/log/smart, error, firmware, changed-namespaces, commands, self-test
//! controller/admin          transaction file: write a command (and data), read the completion (and data)
//! ```
//!
//! [`Scheme`] is what a server of this tree talks to, be it a Redox scheme socket, a FUSE session or the
//! embedded [`Client`](crate::embedded::Client). It never blocks: [`Scheme::call`] takes one [`Call`] and the
//! answer comes through [`Answers`], from any thread, in any order, perhaps before `call` has returned. Any
//! number of calls may be out at once, also on one handle.
//!
//! What the nodes promise:
//! - **Documents** (`identify`, `stats`, `log/...`) are rendered by a read at offset 0 and kept by the
//!   handle: a reader in small pieces sees one snapshot. A log page that the controller does not have is
//!   `EOPNOTSUPP`.
//! - **The block device** takes any offset and length. A read covers them with whole blocks; a write of part
//!   of a block reads the block, changes it and writes it, and no other write of this scheme gets in between.
//!   Past the end a read is short (0 bytes at the end), a write is short, and at the end a write is `ENOSPC`.
//!   A call moves at most [`MAX_TRANSFER_BYTES`], beyond that it is short. `Sync` is a Flush command.
//! - **A namespace that the driver cannot use** (metadata, an absurd block size) is listed and its `stats`
//!   and `identify` work; to open its block device or `bench` is `EOPNOTSUPP`.
//! - **The transaction files** belong to the handle: nobody sees another handle's answers. See the files
//!   [`admin`](self#admin) and [`bench`](self#bench).
//! - **Limits**: [`MAX_HANDLES`] open handles, then `ENFILE`. Where a queue is full, `EAGAIN`: nothing was
//!   done.
//!
//! # admin
//! Write a 64-byte submission entry, followed by the data if the command sends any; the write is answered
//! when the command has completed, whatever its status. Then read: the 16-byte completion entry, followed by
//! the data if the command returns any. `prp1` holds the number of data bytes expected from the device, at
//! most [`MAX_ADMIN_DATA_BYTES`]; `prp2` and `mptr` are 0; the command identifier is the driver's to choose.
//! What would take queues, events or memory from the driver is `EPERM`; a format that changes the block size,
//! and namespace management, are `EOPNOTSUPP` because the driver would not learn of it.
//!
//! # bench
//! Write a job ([`BenchJob`](stats_proto::bench::BenchJob) as JSON, in one write). Then read at growing
//! offsets: JSON lines, about four of progress in a second and last the result or an error, then the end of
//! the file. A read that finds nothing yet is answered when a line comes. Writing `stop` ends the job early,
//! with the result so far; closing the handle ends it without. A job that is refused is `EINVAL`, `EPERM` or
//! what else fits, and the line to read says why.

mod access;
mod admin;
mod bench;
mod data;
mod documents;
mod errno;
mod handle;
mod path;
mod pending;
mod range_lock;
mod service;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use crate::admin::MAX_ADMIN_DATA_BYTES;
pub use access::{Caller, OpenFlags};
pub use data::MAX_TRANSFER_BYTES;
pub use errno::Errno;
pub use service::BlockService;

use data::Volumes;
use handle::{Handle, Handles};
use path::{LogPage, Node};
use pending::Pending;

/// The most handles that are open at once.
pub const MAX_HANDLES: usize = 4096;

/// One open node, until [`Call::Close`]. Never used twice by one scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// What a client asks.
#[derive(Debug)]
pub enum Call {
    /// Opens a node; answered by [`Reply::Opened`].
    Open {
        /// Where, as the table of [the module](self) has it, without the scheme's name.
        path: String,
        /// What for.
        flags: OpenFlags,
        /// By whom.
        caller: Caller,
    },
    /// Reads at most `buffer.len()` bytes; answered by [`Reply::Read`].
    Read {
        /// What was opened.
        handle: HandleId,
        /// From where, in bytes.
        offset: u64,
        /// Where the bytes are put; comes back with the answer.
        buffer: Vec<u8>,
    },
    /// Writes; answered by [`Reply::Written`].
    Write {
        /// What was opened.
        handle: HandleId,
        /// Where to, in bytes. Transaction files do not look at it.
        offset: u64,
        /// The bytes; come back with the answer.
        data: Vec<u8>,
    },
    /// Makes what was written durable (a Flush command); answered by [`Reply::Done`].
    Sync {
        /// What was opened.
        handle: HandleId,
    },
    /// Answered by [`Reply::Stat`].
    Stat {
        /// What was opened.
        handle: HandleId,
    },
    /// Lists a directory; answered by [`Reply::List`].
    List {
        /// What was opened.
        handle: HandleId,
    },
    /// Gives the handle back; answered by [`Reply::Done`]. Calls that are out on it are still answered.
    Close {
        /// What was opened.
        handle: HandleId,
    },
}

/// What a client is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The new handle.
    Opened(HandleId),
    /// The first `len` bytes of `buffer` were read; what is behind them has no meaning. 0 = the end.
    Read {
        /// The caller's buffer, of the length that it had.
        buffer: Vec<u8>,
        /// Bytes.
        len: usize,
    },
    /// The first `len` bytes of `buffer` were written.
    Written {
        /// The caller's buffer, untouched.
        buffer: Vec<u8>,
        /// Bytes.
        len: usize,
    },
    /// It is done.
    Done,
    /// About a node.
    Stat(Stat),
    /// What is in a directory, in order.
    List(Vec<Entry>),
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Can be listed.
    Directory,
    /// A document or a transaction file.
    File,
    /// A namespace's data.
    BlockDevice,
}

/// About a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The namespace's size; the length of a structure whose length is fixed; otherwise that of the snapshot
    /// which the handle holds, 0 before the first read.
    pub size_bytes: u64,
    /// What reads and writes should be a multiple of: the logical block, 4096 where there is none.
    pub block_bytes: u32,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, such as 0o444; the owner is uid 0.
    pub mode: u16,
}

/// One line of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name within the directory.
    pub name: String,
    /// What it is. A namespace `N` is shown as a directory, though `N` opened as a file is the block device.
    pub kind: NodeKind,
}

/// Where answers go: the server of the tree implements it.
pub trait Answers: Send + Sync {
    /// The answer to the call that was given `id`, exactly once for each call. Must not block.
    fn answer(&self, id: u64, result: Result<Reply, Errno>);
}

/// The tree of one controller. See [the module](self).
pub struct Scheme {
    service: Arc<dyn BlockService>,
    handles: Handles,
    volumes: Volumes,
}

impl Scheme {
    /// The tree of what `service` drives: a [`Driver`](crate::Driver), or in tests anything else.
    pub fn new(service: impl BlockService + 'static) -> Arc<Self> {
        let service: Arc<dyn BlockService> = Arc::new(service);
        Arc::new(Self {
            volumes: Volumes::new(Arc::clone(&service)),
            handles: Handles::new(MAX_HANDLES),
            service,
        })
    }

    /// Handles that are open now.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Takes one call. Never blocks; `answers` gets the answer under `id`, perhaps before this returns.
    pub fn call(&self, id: u64, call: Call, answers: &Arc<dyn Answers>) {
        let pending = Pending::new(id, Arc::clone(answers));
        match call {
            Call::Open { path, flags, caller } => {
                pending.answer(self.open(&path, flags, caller).map(Reply::Opened))
            }
            Call::Read {
                handle,
                offset,
                buffer,
            } => match self.readable(handle) {
                Ok(handle) => handle.read(offset, buffer, pending),
                Err(errno) => pending.answer(Err(errno)),
            },
            Call::Write { handle, offset, data } => match self.writable(handle) {
                Ok(handle) => handle.write(offset, data, pending),
                Err(errno) => pending.answer(Err(errno)),
            },
            Call::Sync { handle } => match self.handles.get(handle) {
                Ok(handle) => handle.sync(pending),
                Err(errno) => pending.answer(Err(errno)),
            },
            Call::Stat { handle } => {
                pending.answer(self.handles.get(handle).and_then(|it| it.stat()).map(Reply::Stat))
            }
            Call::List { handle } => pending.answer(self.list(handle).map(Reply::List)),
            Call::Close { handle } => pending.answer(match self.handles.remove(handle) {
                Ok(handle) => {
                    handle.close();
                    Ok(Reply::Done)
                }
                Err(errno) => Err(errno),
            }),
        }
    }

    fn open(&self, path: &str, flags: OpenFlags, caller: Caller) -> Result<HandleId, Errno> {
        let node = Node::parse(path, flags.directory)?;
        if let Some(nsid) = node.nsid()
            && !self
                .service
                .namespaces()
                .iter()
                .any(|namespace| namespace.nsid == nsid)
        {
            return Err(Errno::ENOENT);
        }
        access::check(node, flags, caller)?;
        self.handles
            .insert(|id| Handle::new(id, node, flags, &self.service, &self.volumes))
    }

    fn readable(&self, handle: HandleId) -> Result<Arc<Handle>, Errno> {
        let handle = self.handles.get(handle)?;
        if handle.flags().read {
            Ok(handle)
        } else {
            Err(Errno::EBADF)
        }
    }

    fn writable(&self, handle: HandleId) -> Result<Arc<Handle>, Errno> {
        let handle = self.handles.get(handle)?;
        if handle.flags().write {
            Ok(handle)
        } else {
            Err(Errno::EBADF)
        }
    }

    fn list(&self, handle: HandleId) -> Result<Vec<Entry>, Errno> {
        let entry = |name: &str, kind| Entry {
            name: name.to_owned(),
            kind,
        };
        let entries = match self.readable(handle)?.node() {
            Node::Root => {
                let namespaces = self.service.namespaces();
                let names = namespaces
                    .iter()
                    .map(|namespace| entry(&namespace.nsid.to_string(), NodeKind::Directory));
                std::iter::once(entry("controller", NodeKind::Directory))
                    .chain(names)
                    .collect()
            }
            Node::Controller => vec![
                entry("admin", NodeKind::File),
                entry("identify", NodeKind::File),
                entry("log", NodeKind::Directory),
                entry("stats", NodeKind::File),
            ],
            Node::Logs => LogPage::ALL
                .iter()
                .map(|page| entry(page.name(), NodeKind::File))
                .collect(),
            Node::Namespace(_) => vec![
                entry("bench", NodeKind::File),
                entry("data", NodeKind::BlockDevice),
                entry("identify", NodeKind::File),
                entry("stats", NodeKind::File),
            ],
            Node::Data(_) | Node::Document(_) | Node::Admin | Node::Bench(_) => return Err(Errno::ENOTDIR),
        };
        Ok(entries)
    }
}

impl std::fmt::Debug for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scheme({} handles)", self.open_handles())
    }
}

/// Locks. What the scheme's locks guard is consistent between any two statements, so a panic elsewhere does
/// not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies what `text` has from `offset` into `buffer`: a read of something that is all in memory.
fn copy_from(text: &[u8], offset: u64, buffer: &mut [u8]) -> usize {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| text.get(offset..))
        .unwrap_or(&[]);
    let len = rest.len().min(buffer.len());
    if let (Some(into), Some(from)) = (buffer.get_mut(..len), rest.get(..len)) {
        into.copy_from_slice(from);
    }
    len
}
