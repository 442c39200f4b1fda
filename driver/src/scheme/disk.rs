//! The tree `disk.<pci name>-nvme`: the disks as the rest of Redox expects them of a driver.
//!
//! On Redox, file systems, the installer and the boot process look for disks in schemes whose names begin with
//! `disk.`. [`DiskTree`] is what they find there, beside the tree of [`Scheme`] and over the same handles, quotas
//! and statistics: a server calls it in the same way. It knows no operating system.
//!
//! ```text
//! /        directory: one entry per disk and partition
//! N        namespace N as a disk
//! NpM      partition M of namespace N, from 0
//! ```
//!
//! # Names
//! Redox counts the entries of a partition table from 0 in their order: the entries of a GPT that are not all zeroes, or
//! those of the four of an MBR that have blocks. So a GPT with entries 1, 2 and 5 has `1p0`, `1p1` and `1p2`, which in
//! the tree `nvme` are `1p1`, `1p2` and `1p5`. Entries that are no partitions there (they reach beyond the end, have no
//! type, or are the extended partition itself) keep their number and are not shown.
//! What Redox's own driver does not have comes after these numbers, so that it takes nobody's name: the logical
//! partitions of an MBR. Block sizes other than 512 and 4096 have partitions too. It is less ready to take something
//! for a table: a GPT counts only behind a protective boot record, and is not shown as an MBR if it is damaged; a boot
//! record with a boot flag that is none (neither 0 nor 80h) is a file system's.
//!
//! The table is what it is when somebody opens or lists, as in the other tree: a disk that is partitioned anew shows
//! its new partitions at once.
//!
//! # Opening
//! Only uid 0 opens. The blocks of what is open are nobody else's: a disk keeps its partitions out, each of them keeps
//! the disk out, and two of them keep each other out if they overlap, which those of a sound table do not. What counts
//! is where a partition was when it was opened. A handle that neither reads nor writes (`O_STAT`) is there to be asked
//! for sizes: it takes nothing from anybody, and is not refused. [`Call::Close`] makes way at once, also while calls on
//! the handle are out; an open that was refused leaves nothing behind. The tree `nvme` neither takes these locks nor
//! heeds them: it is how one looks at a disk that is in use.
//!
//! # Reading and writing
//! As in [the other tree](super): any offset and length, short at the end, `ENOSPC` for a write there. `Sync` is a Flush
//! command. File systems of Redox do not ask for one, so when a handle is closed that could write and did, one is
//! sent: what was answered by then is in it. Nobody waits for it; that it failed is logged. `Stat` says
//! [`NodeKind::BlockDevice`]; Redox's own driver says that it is a plain file, and so may a server.
//!
//! The directory can be listed by `List` and by `Read`: names, each with a newline behind it. Both are of the moment when
//! it was opened.
//!
//! # Errors
//! | errno | when |
//! | --- | --- |
//! | `EACCES` | to open as anyone but uid 0 |
//! | `ENOENT` | to open a name that is none, a namespace that is not there or that the driver cannot use, a partition that is not in the table |
//! | `EISDIR` | to open the directory to be read or written without asking for a directory (`O_DIRECTORY`); to open it to be written |
//! | `ENOTDIR` | to ask for a directory where a disk is; to list a disk |
//! | `ENOLCK` | to open what somebody has |
//! | `EBADF` | a handle that is none, or not opened for this; to write to the directory or to zero in it |
//! | `EINVAL` | `Sync` of the directory |
//! | `EPERM` | `Permit`: what uid 0 alone opens needs no mode |
//! | `EAGAIN`, `EMFILE`, `ENFILE` | [quotas](super#quotas), and no room to read a partition table; the text of a listing is kept at uid 0's cost |
//! | `ENOSPC`, `ENODEV`, `EIO`, ... | as the block devices of the other tree |

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::list::{self, Tables};
use super::partitions::{self, Partition};
use super::path::{Node, PartitionId};
use super::pending::Pending;
use super::quota::{Client, Kept};
use super::service::Class;
use super::{
    Answers, Call, Entry, Errno, Found, HandleId, NodeKind, OpenFlags, Reply, Scheme, copy_from, lent,
};

/// The disks of one controller. See [the module](self).
pub struct DiskTree {
    scheme: Arc<Scheme>,
    open: RwLock<HashMap<HandleId, Open>>,
}

/// An open node. Its number is that of a handle of the scheme.
enum Open {
    Directory(Listing),
    Disk(Disk),
}

/// What the directory's readers see.
struct Listing {
    text: Arc<str>,
    /// At whose cost.
    _kept: Kept,
}

struct Disk {
    nsid: u32,
    /// Blocks that are nobody else's as long as it is open.
    held: Range<u64>,
    may_write: bool,
    /// Something was written, or may have been.
    written: AtomicBool,
}

/// What a path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Directory,
    Disk { nsid: u32 },
    Partition { nsid: u32, position: u32 },
}

impl DiskTree {
    /// The disks of `scheme`.
    pub fn new(scheme: Arc<Scheme>) -> Arc<Self> {
        Arc::new(Self {
            scheme,
            open: RwLock::default(),
        })
    }

    /// Takes one call, as [`Scheme::call`]: never blocks, and `answers` gets the answer under `id`, perhaps before this
    /// returns.
    pub fn call(self: &Arc<Self>, id: u64, call: Call, answers: &Arc<dyn Answers>) {
        let refuse = |errno| answers.answer(id, Err(errno));
        let handle = match &call {
            Call::Open { path, flags, caller } => {
                if caller.uid != 0 {
                    return refuse(Errno::EACCES);
                }
                return self.open(path, *flags, Pending::new(id, Arc::clone(answers)));
            }
            Call::Lookup { path, directory } => {
                return self.look_up(path, *directory, Pending::new(id, Arc::clone(answers)));
            }
            Call::Permit { .. } => return refuse(Errno::EPERM),
            Call::Close { handle } => {
                return match self.close(*handle) {
                    Ok(()) => self.scheme.call(id, call, answers),
                    Err(errno) => refuse(errno),
                };
            }
            Call::Read { handle, .. }
            | Call::Write { handle, .. }
            | Call::ReadInto { handle, .. }
            | Call::WriteFrom { handle, .. }
            | Call::Sync { handle }
            | Call::Stat { handle }
            | Call::List { handle }
            | Call::Zero { handle, .. }
            | Call::Wake { handle } => *handle,
            #[cfg(feature = "io-uring-compat")]
            Call::Share { handle, .. } => *handle,
        };
        let writes = matches!(
            call,
            Call::Write { .. } | Call::WriteFrom { .. } | Call::Zero { .. }
        );
        let found = self.read_open().get(&handle).map(|open| match open {
            Open::Directory(listing) => Some(Arc::clone(&listing.text)),
            Open::Disk(disk) => {
                if writes && disk.may_write {
                    disk.written.store(true, Ordering::Relaxed);
                }
                None
            }
        });
        match found {
            Some(Some(text)) => self.on_directory(&text, id, call, answers),
            Some(None) => self.scheme.call(id, call, answers),
            None => refuse(Errno::EBADF),
        }
    }

    fn on_directory(&self, text: &Arc<str>, id: u64, call: Call, answers: &Arc<dyn Answers>) {
        let pending = Pending::new(id, Arc::clone(answers));
        let read = |offset, mut buffer: Vec<u8>, pending: Pending| {
            let len = copy_from(text.as_bytes(), offset, &mut buffer);
            pending.answer(Ok(Reply::Read { buffer, len }));
        };
        match call {
            Call::Read { offset, buffer, .. } => read(offset, buffer, pending),
            Call::ReadInto { offset, memory, .. } => {
                // No longer than the text, whatever was lent.
                let buffer = vec![0; memory.len().min(text.len())];
                read(offset, buffer, lent::copied_into(memory, pending));
            }
            Call::List { .. } => {
                let entries = text.lines().map(|name| Entry {
                    name: name.to_owned(),
                    kind: NodeKind::BlockDevice,
                });
                pending.answer(Ok(Reply::List(entries.collect())));
            }
            Call::Stat { .. } => pending.answer(self.scheme.stat(Node::Root, None).map(|mut stat| {
                stat.size_bytes = text.len() as u64;
                Reply::Stat(stat)
            })),
            Call::Sync { .. } => pending.answer(Err(Errno::EINVAL)),
            Call::Wake { .. } => pending.answer(Ok(Reply::Done)),
            _ => pending.answer(Err(Errno::EBADF)),
        }
    }

    fn open(self: &Arc<Self>, path: &str, flags: OpenFlags, pending: Pending) {
        let client = self.scheme.clients.of_uid(0);
        let Some(pending) = pending.charged(&client, 0) else {
            return;
        };
        let place = match Place::parse(path) {
            Some(place) => place,
            None => return pending.answer(Err(Errno::ENOENT)),
        };
        if place == Place::Directory {
            // To be asked for its size is enough (O_STAT).
            let asked = flags.directory || !flags.read;
            if flags.write || !asked {
                return pending.answer(Err(Errno::EISDIR));
            }
            return self.open_directory(client, pending);
        }
        let tree = Arc::clone(self);
        let then = move |found: Result<Found, Errno>| {
            let opened = found.and_then(|found| {
                if flags.directory {
                    return Err(Errno::ENOTDIR);
                }
                tree.open_disk(found, flags, &client)
            });
            pending.answer(opened.map(Reply::Opened));
        };
        self.find(place, Box::new(then));
    }

    fn look_up(self: &Arc<Self>, path: &str, directory: bool, pending: Pending) {
        let client = self.scheme.clients.lookups();
        let Some(pending) = pending.charged(&client, 0) else {
            return;
        };
        let Some(place) = Place::parse(path) else {
            return pending.answer(Err(Errno::ENOENT));
        };
        let tree = Arc::clone(self);
        let then = move |found: Result<Found, Errno>| {
            let stat = found.and_then(|found| {
                if directory && !found.node.is_directory() {
                    return Err(Errno::ENOTDIR);
                }
                tree.scheme.stat(found.node, found.partition)
            });
            pending.answer(stat.map(Reply::Stat));
        };
        self.find(place, Box::new(then));
    }

    /// Says what is at `place`: at once, unless it is a partition and the table has to be read first.
    fn find(&self, place: Place, then: Box<dyn FnOnce(Result<Found, Errno>) + Send>) {
        let (nsid, position) = match place {
            Place::Directory => return then(Ok(found(Node::Root, None))),
            Place::Disk { nsid } => (nsid, None),
            Place::Partition { nsid, position } => (nsid, Some(position)),
        };
        // Neither is there what cannot be used.
        let Ok(volume) = self.scheme.volumes.get(nsid) else {
            return then(Err(Errno::ENOENT));
        };
        let Some(position) = position else {
            return then(Ok(found(Node::Data(nsid), None)));
        };
        let scheme = Arc::clone(&self.scheme);
        let with_table = move |table: Result<Arc<partitions::Table>, Errno>| {
            then(table.and_then(|table| {
                let mut partitions = table.by_position();
                let (_, partition) = partitions.find(|it| it.0 == position).ok_or(Errno::ENOENT)?;
                let number = partition.number;
                let node = Node::Partition(PartitionId { nsid, number });
                scheme.owners.found(node, partition);
                Ok(found(node, Some(partition)))
            }));
        };
        partitions::with_table(&volume, Box::new(with_table));
    }

    fn open_disk(&self, found: Found, flags: OpenFlags, client: &Arc<Client>) -> Result<HandleId, Errno> {
        let nsid = found.node.nsid().ok_or(Errno::ENOENT)?;
        let uses_data = flags.read || flags.write;
        let held = match found.partition {
            _ if !uses_data => 0..0,
            None => 0..u64::MAX,
            Some(Partition {
                first_block, blocks, ..
            }) => first_block..first_block.saturating_add(blocks),
        };
        let mut open = self.write_open();
        let taken = open.values().any(|other| other.holds(nsid, &held));
        if taken {
            return Err(Errno::ENOLCK);
        }
        let handle = self.scheme.open_found(found, flags, client)?;
        let disk = Disk {
            nsid,
            held,
            may_write: flags.write,
            written: AtomicBool::new(false),
        };
        open.insert(handle, Open::Disk(disk));
        Ok(handle)
    }

    /// Opens the directory when all partition tables have been read.
    fn open_directory(self: &Arc<Self>, client: Arc<Client>, pending: Pending) {
        let namespaces = self.scheme.service.namespaces();
        let usable: Vec<_> = namespaces.iter().filter(|it| it.is_usable()).cloned().collect();
        let tree = Arc::clone(self);
        let then = move |tables: Tables| {
            let opened = text_of(&tables).and_then(|text| {
                let mut kept = Kept::new(Arc::clone(&client));
                kept.set(text.len())?;
                let listing = Listing {
                    text: text.into(),
                    _kept: kept,
                };
                let root = found(Node::Root, None);
                let mut open = tree.write_open();
                let handle = tree.scheme.open_found(root, OpenFlags::DIRECTORY, &client)?;
                open.insert(handle, Open::Directory(listing));
                Ok(handle)
            });
            pending.answer(opened.map(Reply::Opened));
        };
        list::with_tables(&usable, &self.scheme.volumes, Box::new(then));
    }

    /// Forgets a handle, and has what was written through it made durable.
    fn close(&self, handle: HandleId) -> Result<(), Errno> {
        let closed = self.write_open().remove(&handle).ok_or(Errno::EBADF)?;
        if let Open::Disk(Disk { nsid, written, .. }) = closed
            && written.into_inner()
        {
            let answers: Arc<dyn Answers> = Arc::new(FlushOnClose { nsid });
            self.scheme.call(0, Call::Sync { handle }, &answers);
        }
        Ok(())
    }

    fn read_open(&self) -> RwLockReadGuard<'_, HashMap<HandleId, Open>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_open(&self) -> RwLockWriteGuard<'_, HashMap<HandleId, Open>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for DiskTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskTree({} handles)", self.read_open().len())
    }
}

impl Open {
    /// Whether blocks of `wanted` are its own.
    fn holds(&self, nsid: u32, wanted: &Range<u64>) -> bool {
        match self {
            Self::Directory(_) => false,
            Self::Disk(disk) => {
                disk.nsid == nsid && disk.held.start.max(wanted.start) < disk.held.end.min(wanted.end)
            }
        }
    }
}

impl Place {
    /// Slashes around it do not matter. Numbers are written in the one way that the directory has.
    fn parse(path: &str) -> Option<Self> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Some(Self::Directory);
        }
        match path.split_once('p') {
            None => Some(Self::Disk {
                nsid: parse_number(path)?,
            }),
            Some((nsid, position)) => Some(Self::Partition {
                nsid: parse_number(nsid)?,
                position: parse_number(position)?,
            }),
        }
    }
}

fn parse_number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = plain && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

/// A node of the other tree, opened without a class.
fn found(node: Node, partition: Option<Partition>) -> Found {
    Found {
        node,
        class: Class::default(),
        partition,
    }
}

/// The directory's text.
fn text_of(tables: &Tables) -> Result<String, Errno> {
    let mut text = String::new();
    for (nsid, table) in tables {
        let table = match table {
            Ok(table) => table,
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            // The namespace went while its table was to be read.
            Err(_) => continue,
        };
        text.push_str(&format!("{nsid}\n"));
        let mut positions: Vec<u32> = table.by_position().map(|(position, _)| position).collect();
        positions.sort_unstable();
        for position in positions {
            text.push_str(&format!("{nsid}p{position}\n"));
        }
    }
    Ok(text)
}

/// Nobody has asked for it, so nobody is told.
struct FlushOnClose {
    nsid: u32,
}

impl Answers for FlushOnClose {
    fn answer(&self, _id: u64, result: Result<Reply, Errno>) {
        if let Err(errno) = result {
            log::warn!(
                "namespace {}: a disk was closed, and what was written to it is perhaps not durable: its flush failed: \
                 {errno}",
                self.nsid
            );
        }
    }
}
