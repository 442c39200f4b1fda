//! The path tree of a controller and its handles, the same on every operating system.
//!
//! ```text
//! /                         directory: controller/ and one entry per namespace and partition
//! N                         namespace N as a block device (N/ is the directory)
//! N/data                    the same block device under a plain name
//! NpM, NpM/data             partition M of namespace N as a block device (NpM/ is the directory)
//! N?prio=high&deadline_us=500  (any block device) class and deadline of what is done through the handle
//! N/stats, N/stats?light    the statistics with this namespace only, with and without histograms (JSON)
//! N/identify                4096 bytes, Identify Namespace
//! N/io                      transaction file: write an I/O command (and data), read the completion (and data)
//! N/bench                   transaction file: write a job (JSON), read progress lines and the result
//! N/ring                    rings in shared memory: write messages, read to wait (feature io-uring-compat)
//! controller/identify       4096 bytes, Identify Controller
//! controller/stats[?light]  the statistics of the whole controller (JSON)
//! controller/events[?now]   what happens to the driver and its controller, as it happens, or so far (JSON lines)
//! controller/slow           the last commands that failed, were slow or were lost, with their timelines (JSON lines)
//! controller/log/smart, error, firmware, changed-namespaces, commands, self-test
//! controller/scheduler      the name of the I/O scheduler, to be read and to be changed
//! controller/admin          transaction file: write a command (and data), read the completion (and data)
//! controller/mi/health, controllers, config, vpd  what the management interface answers (feature `nvme-mi`)
//! controller/mi/request     transaction file: write a request of NVMe-MI (and data), read the response (and data)
//! ```
//!
//! [`Scheme`] is what a server of this tree talks to, be it a Redox scheme socket, a FUSE session or the
//! embedded [`Client`](crate::embedded::Client). It never blocks: [`Scheme::call`] takes one [`Call`] and the
//! answer comes through [`Answers`], from any thread, in any order, perhaps before `call` has returned. Any
//! number of calls may be out at once, also on one handle.
//!
//! On Redox the disks are there a second time, as the rest of that system looks for them: [`disk`].
//!
//! What the nodes promise:
//! - **Documents** (`identify`, `stats`, `slow`, `events?now`, `log/...`, `mi/...`) are rendered by a read at offset 0 and kept by the
//!   handle: a reader in small pieces sees one snapshot. A log page that the controller does not have is
//!   `EOPNOTSUPP`.
//! - **The block device** takes any offset and length. A read covers them with whole blocks; a write of part
//!   of a block reads the block, changes it and writes it, and no other write of this scheme gets in between.
//!   Past the end a read is short (0 bytes at the end), a write is short, and at the end a write is `ENOSPC`.
//!   A call moves at most [`MAX_TRANSFER_BYTES`], beyond that it is short. `Sync` is a Flush command.
//!   `Zero` makes any range read as zeroes: with Write Zeroes where the controller has it, otherwise by
//!   writing zeroes; to give storage up as well (Dataset Management, which promises nothing of what is read
//!   afterwards) changes nothing of that. It is not atomic as a whole: it goes piece by piece, of 256 MiB (1 MiB
//!   where the zeroes are written) and of each block that it touches in part, and keeps writes out of one piece
//!   at a time as another write does. It can be ended between pieces (`EINTR`).
//! - **Partitions** are those of a GPT (the one at the end where the first is not whole) or an MBR with its
//!   logical partitions, numbered as Linux does; a namespace with a file system and no table has none, and
//!   the extended partition itself is none. An entry that reaches out of the namespace or into the table is
//!   left out. The table is read when somebody asks for a partition or lists the root, and again after what
//!   may have changed it: a write through this tree where it is, a benchmark, a command of a client's own. If
//!   it cannot be read there are no partitions, until the next who asks; `EAGAIN` if there was no room to ask.
//!   An open partition stays where it was when it was opened, but ends with the namespace; formatted with
//!   another block size, it is `ENODEV`. Partitions share the locks of their namespace, and are in its statistics:
//!   they have none of their own. `Sync` is a Flush of the whole namespace.
//! - **Class and deadline**: `prio` is `urgent`, `high`, `medium` (unless said otherwise; `normal` is the same) or
//!   `low`, `deadline_us` 1 to [`MAX_DEADLINE_US`]; in any order, each at most once, anything else is `EINVAL`. They go with each
//!   request of the handle to the driver, whose I/O scheduler may heed them.
//! - **The scheduler** (`controller/scheduler`) is a name of [`SchedulerKind`](crate::config::SchedulerKind) and a line
//!   feed. Anybody may read it; uid 0 may write another name, white space around it does not matter, and from then on requests are
//!   scheduled so, those that wait too. What is no such name is `EINVAL` and changes nothing.
//! - **A namespace that the driver cannot use** (metadata, an absurd block size) is listed and its `stats`
//!   and `identify` work; to open its block device or `bench` is `EOPNOTSUPP`, and its size is 0.
//! - **Access** is by mode, owner and group, as the next section has it, and is decided when a node is opened. To be
//!   looked at (`Stat`) anything can be opened by anybody, to be neither read nor written.
//! - **The transaction files** belong to the handle: nobody sees another handle's answers. See the files
//!   [`admin`](self#admin), [`mi`](self#mi), [`io`](self#io) and [`bench`](self#bench).
//! - **Limits**: [`MAX_HANDLES`] open handles, then `ENFILE`, and of each user as many handles (`EMFILE`),
//!   calls and bytes that are out (`EAGAIN`) as the [quotas](self#quotas) have it. Where a queue is full,
//!   `EAGAIN` too: nothing was done.
//!
//! # Access
//! | node | mode | who |
//! | --- | --- | --- |
//! | directories | 0555 | anyone, to list |
//! | `identify`, `stats`, `slow`, `events`, `log/...`, `mi/...` | 0444 | anyone, to read: they change nothing and show no data |
//! | `controller/scheduler` | 0644 | anyone, to read; uid 0, to write: it changes how long others wait |
//! | `N`, `N/data`, `NpM`, `NpM/data` | 0600 of 0:0 at first | as mode, owner and group say; uid 0 always |
//! | `controller/admin`, `controller/mi/request` | 0600 | uid 0: they can erase the disk |
//! | `N/io` | 0600 | uid 0: it is the disk itself, without the rules of the block device |
//! | `N/bench` | 0600 | uid 0: it loads the disk, and may overwrite it |
//! | `N/ring` | as `N/data` | as `N/data`; to be set up it is opened to be written, and read if data is to be |
//!
//! Mode, owner and group of a block device are uid 0's to change ([`Call::Permit`]) and kept for the life of
//! the scheme; those of all else are fixed. What is made of a partition's rights holds while its number means
//! the same blocks: a partition that is put elsewhere begins as all do.
//!
//! # Quotas
//! | | handles | calls that are out | bytes of those calls | bytes kept for readers |
//! | --- | --- | --- | --- | --- |
//! | one user ([`USER_QUOTA`]) | 1024 | 4096 | 256 MiB | 32 MiB |
//! | all users but uid 0 together ([`ALL_USERS_QUOTA`]) | 3072 | 16384 | 512 MiB | 64 MiB |
//! | uid 0 ([`ROOT_QUOTA`]) | 3072 | 16384 | 1 GiB | 128 MiB |
//! | `Lookup`, which is nobody's | | 4096 | | |
//!
//! The memory of rings counts among the bytes that are kept, each of them 256 KiB at least; more than that is `ENOMEM`. What a handle keeps for its readers is the snapshot of a document or a piece of the events, until it is
//! replaced or the handle is closed. A read that would keep too much is `EAGAIN`.
//!
//! A client is the user who opened, in as many processes as he likes. uid 0 always has handles left whatever the
//! users do, and they have theirs whatever uid 0 does. `Close` is always possible.
//!
//! # admin
//! Write a 64-byte submission entry, followed by the data if the command sends any; the write is answered
//! when the command has completed, whatever its status. Then read: the 16-byte completion entry, followed by
//! the data if the command returns any. A write that is refused leaves nothing to read. `prp1` holds the number
//! of data bytes expected from the device, at most [`MAX_ADMIN_DATA_BYTES`]; `prp2` and `mptr` are 0; the
//! command identifier is the driver's to choose.
//! What would take queues, events, memory or the controller itself from the driver is `EPERM`; a format that changes the block size,
//! and namespace management, are `EOPNOTSUPP` because the driver would not learn of it.
//!
//! # mi
//! NVMe-MI in band, as messages of that interface ([`nvme_spec::mi`]): NVMe-MI Send and Receive carry the same in pieces.
//! A controller that does not take these commands (OACS bit 6) is `EOPNOTSUPP`. The documents are response messages, each
//! beginning with its header of 8 bytes, of a refusal too; flags of what has changed stay as they are:
//! - `health`: to NVM Subsystem Health Status Poll, with 8 bytes of data;
//! - `controllers`: to Controller Health Status Poll, with 16 bytes for each of the first 255 controllers;
//! - `config`: to five of Configuration Get, without data: Health Status Change, then SMBus/I2C Frequency of ports 0 and 1,
//!   then MCTP Transmission Unit Size of ports 0 and 1;
//! - `vpd`: to VPD Read, with all of the Vital Product Data, which are read in pieces of 256 bytes up to the first that is
//!   refused.
//!
//! `request` is for whatever else: write a request message of 16 bytes, followed by the data if it sends any; then read the
//! response message. The header is that of a command, with no slot and no integrity check; how much comes back follows from
//! the request. Reset and Shutdown would take the controller from the driver and are `EPERM`.
//!
//! # io
//! As `admin`, for one command of the NVM Command Set at a time. `nsid` is `N`, or 0 and filled in; `prp1`
//! and the data that follow the entry are exactly as long as the command says, and no longer than one command
//! can move (MDTS): a longer one is not split but `EINVAL`. Flush, Read, Write, Compare, Verify, Write Zeroes,
//! Write Uncorrectable, Dataset Management and Copy (descriptor formats 0h and 1h) can be sent. All others,
//! reservations and vendors' own included, and fused ones are `EOPNOTSUPP`: how much data they move does not
//! follow from the entry, and the device could go past the memory that it is given.
//!
//! Whether the blocks exist is for the controller to say, as a status. The command is counted like any other
//! of its kind, but the range locks do not know of it: it may come between the reading and the writing of an
//! unaligned write to the same block.
//!
//! # events
//! Read at growing offsets: JSON lines ([`EventLine`](stats_proto::event::EventLine)), first those that the
//! driver still keeps (the last [`KEPT_EVENTS`](crate::events::KEPT_EVENTS)). Each handle has its own place. A
//! read that finds nothing new is answered when something happens, or `EINTR` when the server of the tree
//! wants it back ([`Scheme::wake_readers`]). A reader that falls too far behind reads how many it missed. When
//! the driver has shut down comes the end of the file. What was read long ago, or is further on than what
//! was read, is `EINVAL`. With `?now` it is a document: what is kept, and then the end.
//!
//! # bench
//! Write a job ([`BenchJob`](stats_proto::bench::BenchJob) as JSON, in one write). Then read at growing
//! offsets: JSON lines, about four of progress in a second and last the result or an error, then the end of
//! the file. A read that finds nothing yet is answered when a line comes. Writing `stop` ends the job early,
//! with the result so far; closing the handle ends it without. A job that is refused is `EINVAL`, `EPERM` or
//! what else fits, and the line to read says why.
//!
//! # ring
//! Messages are written, and memory that they name is found by the server of the tree; the feature's page on rings
//! (`docs::rings`) has them. A read is answered, with the number of results and flags, 32 bits each, when
//! there are results that the client has not taken; it also wakes the driver. What is done through a ring is counted like all
//! else, but the range locks do not know of it, as with `io`. When the handle is closed, what was taken is still done.

mod access;
mod admin;
mod bench;
mod call;
mod data;
pub mod disk;
mod documents;
mod errno;
mod events;
#[cfg(all(target_os = "linux", feature = "fuse"))]
pub mod fuse;
pub mod gate;
mod handle;
mod io;
mod lent;
mod list;
mod partitions;
mod path;
mod pending;
mod query;
mod quota;
mod range_lock;
#[cfg(target_pointer_width = "64")]
pub mod redox;
#[cfg(feature = "io-uring-compat")]
mod ring;
mod scheduler;
mod service;
mod transaction;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    allow(
        dead_code,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test's own"
    )
)]
pub(crate) mod fake;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test's own"
    )
)]
pub mod fuzz;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stats_proto::stats::SocketStats;

pub use crate::admin::MAX_ADMIN_DATA_BYTES;
pub use access::{Caller, OpenFlags, Ownership, Permissions};
pub use call::{Answers, Call, Entry, HandleId, NodeKind, Reply, Stat};
pub use data::MAX_TRANSFER_BYTES;
pub use errno::Errno;
pub use query::MAX_DEADLINE_US;
pub use quota::{ALL_USERS_QUOTA, Quota, ROOT_QUOTA, USER_QUOTA};
pub use service::BlockService;

use access::Owners;
use data::{Geometry, Volumes};
use handle::{Handle, Handles, NO_BLOCK_BYTES, Opening};
use partitions::{Partition, Table};
use path::Node;
use pending::Pending;
use quota::{Client, Clients};
use service::{Class, Namespace};

/// The most handles that are open at once.
pub const MAX_HANDLES: usize = 4096;

/// The tree of one controller. See [the module](self).
pub struct Scheme {
    service: Arc<dyn BlockService>,
    handles: Handles,
    volumes: Arc<Volumes>,
    owners: Owners,
    clients: Arc<Clients>,
}

impl Scheme {
    /// The tree of what `service` drives: a [`Driver`](crate::Driver), or in tests anything else. Block
    /// devices are for uid 0 only until it says otherwise.
    pub fn new(service: impl BlockService + 'static) -> Arc<Self> {
        Self::with_ownership(service, Ownership::default())
    }

    /// The same, with another mode, owner and group of block devices to begin with.
    pub fn with_ownership(service: impl BlockService + 'static, block_devices: Ownership) -> Arc<Self> {
        let service: Arc<dyn BlockService> = Arc::new(service);
        Arc::new(Self {
            volumes: Arc::new(Volumes::new(Arc::clone(&service))),
            handles: Handles::new(MAX_HANDLES),
            owners: Owners::new(block_devices),
            clients: Arc::new(Clients::new()),
            service,
        })
    }

    /// Handles that are open now.
    pub fn open_handles(&self) -> usize {
        self.handles.len()
    }

    /// Ends the reads that wait for something to happen (of `controller/events` and of `bench`), and each
    /// [`Call::Zero`] at its next piece: they are answered `EINTR`, and whoever still wants it asks again. For a
    /// server that cannot take a call back when its client is interrupted, and before it stops.
    pub fn wake_readers(&self) {
        self.handles.wake_readers();
    }

    /// From now on `stats` shows what `sockets` says of those through which clients come.
    pub fn show_sockets(&self, sockets: impl Fn() -> Vec<SocketStats> + Send + Sync + 'static) {
        self.clients.show_sockets(Box::new(sockets));
    }

    /// Calls that have not been answered.
    pub fn outstanding_calls(&self) -> usize {
        self.clients.calls()
    }

    /// Takes one call. Never blocks; `answers` gets the answer under `id`, perhaps before this returns.
    pub fn call(self: &Arc<Self>, id: u64, call: Call, answers: &Arc<dyn Answers>) {
        let pending = Pending::new(id, Arc::clone(answers));
        match call {
            Call::Open { path, flags, caller } => self.open(&path, flags, caller, pending),
            Call::Lookup { path, directory } => {
                let client = self.clients.lookups();
                self.find(&path, directory, &client, pending, |scheme, found| {
                    scheme.stat(found.node, found.partition).map(Reply::Stat)
                });
            }
            Call::Permit { path, caller, change } => {
                let client = self.clients.of_uid(caller.uid);
                self.find(&path, false, &client, pending, move |scheme, found| {
                    scheme
                        .owners
                        .change(found.node, found.partition, &caller, change)?;
                    scheme.stat(found.node, found.partition).map(Reply::Stat)
                });
            }
            Call::Read {
                handle,
                offset,
                buffer,
            } => self.on(handle, Need::Read, buffer.len(), pending, |handle, pending| {
                handle.read(offset, buffer, pending);
            }),
            Call::Write { handle, offset, data } => {
                self.on(handle, Need::Write, data.len(), pending, |handle, pending| {
                    handle.write(offset, data, pending);
                });
            }
            Call::ReadInto {
                handle,
                offset,
                memory,
            } => self.on(handle, Need::Read, memory.len(), pending, |handle, pending| {
                handle.read_into(offset, memory, pending);
            }),
            Call::WriteFrom {
                handle,
                offset,
                memory,
            } => self.on(handle, Need::Write, memory.len(), pending, |handle, pending| {
                handle.write_from(offset, memory, pending);
            }),
            #[cfg(feature = "io-uring-compat")]
            Call::Share {
                handle,
                message,
                memory,
            } => self.on(handle, Need::Write, message.len(), pending, |handle, pending| {
                handle.share(message, memory, pending);
            }),
            Call::Zero {
                handle,
                offset,
                len_bytes,
                deallocate,
            } => self.on(handle, Need::Write, 0, pending, |handle, pending| {
                handle.zero(offset, len_bytes, deallocate, pending);
            }),
            Call::Sync { handle } => self.on(handle, Need::Either, 0, pending, |handle, pending| {
                handle.sync(pending);
            }),
            Call::Stat { handle } => self.on(handle, Need::Nothing, 0, pending, |handle, pending| {
                pending.answer(handle.stat(&self.owners).map(Reply::Stat));
            }),
            Call::List { handle } => self.on(handle, Need::Read, 0, pending, |handle, pending| {
                self.list(handle.node(), pending);
            }),
            // At nobody's cost, as the next: they make room.
            Call::Wake { handle } => pending.answer(self.handles.get(handle).map(|handle| {
                handle.wake();
                Reply::Done
            })),
            Call::Close { handle } => pending.answer(match self.handles.remove(handle) {
                Ok(handle) => {
                    handle.close();
                    Ok(Reply::Done)
                }
                Err(errno) => Err(errno),
            }),
        }
    }

    /// Does `then` with an open handle, at the cost of who opened it.
    fn on(
        &self,
        handle: HandleId,
        need: Need,
        bytes: usize,
        pending: Pending,
        then: impl FnOnce(&Handle, Pending),
    ) {
        let handle = match self.handles.get(handle) {
            Ok(handle) => handle,
            Err(errno) => return pending.answer(Err(errno)),
        };
        let OpenFlags { read, write, .. } = handle.flags();
        let possible = match need {
            Need::Read => read,
            Need::Write => write,
            Need::Either => read || write,
            Need::Nothing => true,
        };
        if !possible {
            return pending.answer(Err(Errno::EBADF));
        }
        if let Some(pending) = pending.charged(handle.client(), bytes) {
            then(&handle, pending);
        }
    }

    fn open(self: &Arc<Self>, path: &str, flags: OpenFlags, caller: Caller, pending: Pending) {
        let client = self.clients.of_uid(caller.uid);
        let by = Arc::clone(&client);
        self.find(path, flags.directory, &client, pending, move |scheme, found| {
            scheme.owners.check(found.node, found.partition, flags, &caller)?;
            scheme.open_found(found, flags, &by).map(Reply::Opened)
        });
    }

    /// Opens what was found, for one who may.
    fn open_found(&self, found: Found, flags: OpenFlags, client: &Arc<Client>) -> Result<HandleId, Errno> {
        let Found {
            node,
            class,
            partition,
        } = found;
        let opening = Opening {
            node,
            class,
            flags,
            client: Arc::clone(client),
            partition,
        };
        let make = |id| Handle::new(id, opening, &self.service, &self.volumes, &self.clients);
        self.handles.insert(client, make)
    }

    /// Answers with what `then` says of what is at `path`, at the cost of `client`: at once, unless it is a
    /// partition and the namespace's table has to be read first.
    fn find(
        self: &Arc<Self>,
        path: &str,
        directory: bool,
        client: &Arc<Client>,
        pending: Pending,
        then: impl FnOnce(&Self, Found) -> Result<Reply, Errno> + Send + 'static,
    ) {
        let Some(pending) = pending.charged(client, 0) else {
            return;
        };
        let parsed = Node::parse(path, directory);
        let exists =
            parsed.and_then(|parsed| namespace_of(parsed.0, &self.service.namespaces()).map(|_| parsed));
        let (node, class) = match exists {
            Ok(parsed) => parsed,
            Err(errno) => return pending.answer(Err(errno)),
        };
        let found = move |partition| Found {
            node,
            class,
            partition,
        };
        let Some(id) = node.partition() else {
            return pending.answer(then(self, found(None)));
        };
        let Ok(volume) = self.volumes.get(id.nsid) else {
            // What cannot be read has no partitions.
            return pending.answer(Err(Errno::ENOENT));
        };
        let scheme = Arc::clone(self);
        let with_table = move |table: Result<Arc<Table>, Errno>| {
            let partition = table.and_then(|table| table.get(id.number).ok_or(Errno::ENOENT));
            let reply = partition.and_then(|partition| {
                scheme.owners.found(node, partition);
                then(&scheme, found(Some(partition)))
            });
            pending.answer(reply);
        };
        partitions::with_table(&volume, Box::new(with_table));
    }

    /// What `node` is, without opening it.
    fn stat(&self, node: Node, partition: Option<Partition>) -> Result<Stat, Errno> {
        let namespaces = self.service.namespaces();
        let namespace = namespace_of(node, &namespaces)?;
        let (size_bytes, block_bytes) = match (node, namespace) {
            (Node::Data(_) | Node::Partition(_), Some(namespace)) => {
                let usable = Geometry::new(namespace.lba_shift, namespace.blocks).ok();
                let whole = usable.filter(|_| namespace.is_usable());
                whole.map_or((0, NO_BLOCK_BYTES), |whole| {
                    let device = partition.map_or(whole, |it| whole.part(it.first_block, it.blocks));
                    (device.size_bytes(), device.block_bytes())
                })
            }
            (Node::Document(kind), _) => (kind.fixed_bytes().unwrap_or(0), NO_BLOCK_BYTES),
            #[cfg(feature = "io-uring-compat")]
            (Node::Ring(_), _) => (ring::SHOWN_BYTES, NO_BLOCK_BYTES),
            _ => (0, NO_BLOCK_BYTES),
        };
        Ok(handle::stat(
            (node, partition),
            size_bytes,
            block_bytes,
            &self.owners,
        ))
    }

    fn list(&self, node: Node, pending: Pending) {
        match node {
            Node::Root => list::root(&self.service.namespaces(), &self.volumes, pending),
            _ => pending.answer(list::fixed(node).map(Reply::List)),
        }
    }
}

/// What a handle must have been opened for.
enum Need {
    Read,
    Write,
    /// One of them: it is not there to be looked at only.
    Either,
    Nothing,
}

/// What is at a path.
struct Found {
    node: Node,
    class: Class,
    partition: Option<Partition>,
}

/// Whether reads of what is at `path` are answered when something happens, however long that takes. For servers that
/// have to look after such clients.
#[cfg(all(target_os = "linux", feature = "fuse"))]
fn may_wait(path: &str) -> bool {
    Node::parse(path, false).is_ok_and(|(node, _)| node.waits())
}

/// Whether what is written to `path` may name memory to be shared, which only a server of the tree can find.
#[cfg(all(target_os = "linux", feature = "fuse"))]
fn may_share(path: &str) -> bool {
    Node::parse(path, false).is_ok_and(|(node, _)| node.shares())
}

impl std::fmt::Debug for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scheme({} handles)", self.open_handles())
    }
}

/// The namespace that `node` is of, if it is of one.
///
/// # Errors
/// `ENOENT` if there is no such namespace.
fn namespace_of(node: Node, namespaces: &[Namespace]) -> Result<Option<&Namespace>, Errno> {
    let Some(nsid) = node.nsid() else {
        return Ok(None);
    };
    let namespace = namespaces.iter().find(|namespace| namespace.nsid == nsid);
    namespace.map(Some).ok_or(Errno::ENOENT)
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
