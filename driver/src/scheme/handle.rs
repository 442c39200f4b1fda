//! Open nodes: the table of handles, and what each kind does with a call.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::{Arc, RwLock};

use super::access::{OpenFlags, Owners, Ownership};
use super::admin::{AdminFile, Dialect};
use super::bench::BenchFile;
use super::data::{DataFile, MAX_TRANSFER_BYTES, Volumes};
use super::documents::Document;
use super::events::EventsFile;
use super::io::IoFile;
use super::partitions::Partition;
use super::path::Node;
use super::pending::Pending;
use super::quota::{Client, Clients, HandleCharge};
#[cfg(feature = "io-uring-compat")]
use super::ring::RingFile;
use super::scheduler::SchedulerFile;
#[cfg(feature = "io-uring-compat")]
use super::service::SharedMemory;
use super::service::{BlockService, Class};
use super::{Errno, HandleId, NodeKind, Stat, lent};
use crate::dma::Lent;

/// The open handles by number.
pub(crate) struct Handles {
    max: usize,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    /// Numbers are given once, so that a client which closes twice does not close another's handle.
    last: u64,
    open: HashMap<HandleId, (Arc<Handle>, HandleCharge)>,
}

impl Handles {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            table: RwLock::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .len()
    }

    /// Puts in what `make` makes for the number that it is given, at the cost of `client`.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, and those of `make`.
    pub(crate) fn insert(
        &self,
        client: &Arc<Client>,
        make: impl FnOnce(HandleId) -> Result<Handle, Errno>,
    ) -> Result<HandleId, Errno> {
        let charge = client.charge_handle()?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.open.len() >= self.max {
            return Err(Errno::ENFILE);
        }
        let id = HandleId(table.last.checked_add(1).ok_or(Errno::ENFILE)?);
        let handle = make(id)?;
        table.last = id.0;
        table.open.insert(id, (Arc::new(handle), charge));
        Ok(id)
    }

    pub(crate) fn get(&self, id: HandleId) -> Result<Arc<Handle>, Errno> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let open = table.open.get(&id);
        open.map(|(handle, _)| Arc::clone(handle)).ok_or(Errno::EBADF)
    }

    /// [Wakes](Handle::wake) all handles.
    pub(crate) fn wake_readers(&self) {
        let waiting: Vec<Arc<Handle>> = {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            let may_wait =
                |handle: &&Arc<Handle>| handle.node.waits() || matches!(handle.file, File::Data(_));
            let handles = table.open.values().map(|(handle, _)| handle);
            handles.filter(may_wait).map(Arc::clone).collect()
        };
        waiting.iter().for_each(|handle| handle.wake());
    }

    pub(crate) fn remove(&self, id: HandleId) -> Result<Arc<Handle>, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let open = table.open.remove(&id);
        open.map(|(handle, _)| handle).ok_or(Errno::EBADF)
    }
}

/// What reads and writes should be a multiple of where there are no blocks.
pub(crate) const NO_BLOCK_BYTES: u32 = 4096;

/// What is to be said of a node and, if it is a partition, of where that is.
pub(crate) fn stat(
    (node, partition): (Node, Option<Partition>),
    size_bytes: u64,
    block_bytes: u32,
    owners: &Owners,
) -> Stat {
    let Ownership { mode, uid, gid } = owners.of(node, partition);
    let kind = match node {
        _ if node.is_block_device() => NodeKind::BlockDevice,
        _ if node.is_directory() => NodeKind::Directory,
        _ => NodeKind::File,
    };
    Stat {
        size_bytes,
        block_bytes,
        kind,
        mode,
        uid,
        gid,
    }
}

/// What is opened, and how.
pub(crate) struct Opening {
    pub(crate) node: Node,
    pub(crate) class: Class,
    pub(crate) flags: OpenFlags,
    /// By whom.
    pub(crate) client: Arc<Client>,
    /// Where it is, if it is a partition.
    pub(crate) partition: Option<Partition>,
}

/// One open node.
pub(crate) struct Handle {
    node: Node,
    flags: OpenFlags,
    client: Arc<Client>,
    file: File,
}

enum File {
    Directory,
    Document(Arc<Document>),
    Data(DataFile),
    Admin(Arc<AdminFile>),
    Bench(Arc<BenchFile>),
    Events(Arc<EventsFile>),
    Io(Arc<IoFile>),
    Scheduler(SchedulerFile),
    #[cfg(feature = "io-uring-compat")]
    Ring(Arc<RingFile>),
}

impl Handle {
    pub(crate) fn new(
        id: HandleId,
        opening: Opening,
        service: &Arc<dyn BlockService>,
        volumes: &Arc<Volumes>,
        clients: &Arc<Clients>,
    ) -> Result<Self, Errno> {
        let Opening {
            node,
            class,
            flags,
            client,
            partition,
        } = opening;
        let data = |nsid| DataFile::new(volumes.get(nsid)?, partition, id.0, class);
        let admin = |dialect| {
            let (service, volumes) = (Arc::clone(service), Arc::clone(volumes));
            File::Admin(AdminFile::new(service, volumes, client.uid(), dialect))
        };
        let file = match node {
            Node::Root | Node::Controller | Node::Logs | Node::Namespace(_) | Node::PartitionDirectory(_) => {
                File::Directory
            }
            #[cfg(feature = "nvme-mi")]
            Node::Management => File::Directory,
            Node::Document(kind) => File::Document(Document::new(
                kind,
                Arc::clone(service),
                Arc::clone(clients),
                Arc::clone(&client),
            )),
            Node::Data(nsid) => File::Data(data(nsid)?),
            Node::Partition(id) => File::Data(data(id.nsid)?),
            Node::Admin => admin(Dialect::Commands),
            #[cfg(feature = "nvme-mi")]
            Node::ManagementRequest => admin(Dialect::Messages),
            Node::Bench(nsid) => File::Bench(BenchFile::new(volumes.get(nsid)?, Arc::clone(service))),
            Node::Io(nsid) => File::Io(IoFile::new(volumes.get(nsid)?, Arc::clone(service), id.0)),
            Node::Scheduler => File::Scheduler(SchedulerFile::new(Arc::clone(service))),
            #[cfg(feature = "io-uring-compat")]
            Node::Ring(nsid) => File::Ring(RingFile::new(
                volumes.get(nsid)?,
                Arc::clone(service),
                Arc::clone(&client),
                flags.read,
                id.0,
            )),
            Node::Events => File::Events(EventsFile::new(Arc::clone(service.events()), Arc::clone(&client))),
        };
        Ok(Self {
            node,
            flags,
            client,
            file,
        })
    }

    pub(crate) const fn node(&self) -> Node {
        self.node
    }

    pub(crate) const fn flags(&self) -> OpenFlags {
        self.flags
    }

    /// Who opened it: all calls on it are at his cost.
    pub(crate) const fn client(&self) -> &Arc<Client> {
        &self.client
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        match &self.file {
            File::Directory => pending.answer(Err(Errno::EISDIR)),
            File::Document(document) => document.read(offset, buffer, pending),
            File::Data(data) => data.read(offset, buffer, pending),
            File::Admin(admin) => admin.read(offset, buffer, pending),
            File::Bench(bench) => bench.read(offset, buffer, pending),
            File::Events(events) => events.read(offset, buffer, pending),
            File::Io(io) => io.read(offset, buffer, pending),
            File::Scheduler(scheduler) => scheduler.read(offset, buffer, pending),
            #[cfg(feature = "io-uring-compat")]
            File::Ring(ring) => ring.read(buffer, pending),
        }
    }

    pub(crate) fn read_into(&self, offset: u64, memory: Lent, pending: Pending) {
        match &self.file {
            File::Data(data) => data.read_into(offset, memory, pending),
            _ => {
                let buffer = vec![0; memory.len().min(MAX_TRANSFER_BYTES)];
                self.read(offset, buffer, lent::copied_into(memory, pending));
            }
        }
    }

    pub(crate) fn write_from(&self, offset: u64, memory: Lent, pending: Pending) {
        match &self.file {
            File::Data(file) => file.write_from(offset, memory, pending),
            _ => {
                let data = memory.shortened(MAX_TRANSFER_BYTES).to_vec();
                self.write(offset, data, lent::moved(pending));
            }
        }
    }

    pub(crate) fn write(&self, offset: u64, data: Vec<u8>, pending: Pending) {
        match &self.file {
            // None of them can be opened to be written.
            File::Directory | File::Document(_) | File::Events(_) => pending.answer(Err(Errno::EBADF)),
            File::Data(file) => file.write(offset, data, pending),
            File::Admin(admin) => admin.write(data, pending),
            File::Bench(bench) => bench.write(data, pending),
            File::Io(io) => io.write(data, pending),
            File::Scheduler(scheduler) => scheduler.write(data, pending),
            #[cfg(feature = "io-uring-compat")]
            File::Ring(ring) => ring.write(data, pending),
        }
    }

    /// A write with the memory that it names.
    #[cfg(feature = "io-uring-compat")]
    pub(crate) fn share(&self, message: Vec<u8>, memory: Arc<SharedMemory>, pending: Pending) {
        match &self.file {
            File::Ring(ring) => ring.share(message, Some(memory), pending),
            _ => pending.answer(Err(Errno::EINVAL)),
        }
    }

    pub(crate) fn zero(&self, offset: u64, len_bytes: u64, deallocate: bool, pending: Pending) {
        match &self.file {
            File::Data(data) => data.zero(offset, len_bytes, deallocate, pending),
            File::Directory
            | File::Document(_)
            | File::Admin(_)
            | File::Bench(_)
            | File::Events(_)
            | File::Scheduler(_)
            | File::Io(_) => {
                pending.answer(Err(Errno::EOPNOTSUPP));
            }
            #[cfg(feature = "io-uring-compat")]
            File::Ring(_) => pending.answer(Err(Errno::EOPNOTSUPP)),
        }
    }

    pub(crate) fn sync(&self, pending: Pending) {
        match &self.file {
            File::Data(data) => data.sync(pending),
            File::Directory
            | File::Document(_)
            | File::Admin(_)
            | File::Bench(_)
            | File::Events(_)
            | File::Scheduler(_)
            | File::Io(_) => {
                pending.answer(Err(Errno::EINVAL));
            }
            #[cfg(feature = "io-uring-compat")]
            File::Ring(_) => pending.answer(Err(Errno::EINVAL)),
        }
    }

    pub(crate) fn stat(&self, owners: &Owners) -> Result<Stat, Errno> {
        let mut partition = None;
        let (size_bytes, block_bytes) = match &self.file {
            File::Document(document) => (document.len_bytes(), NO_BLOCK_BYTES),
            File::Scheduler(scheduler) => (scheduler.len_bytes(), NO_BLOCK_BYTES),
            File::Directory | File::Admin(_) | File::Bench(_) | File::Events(_) | File::Io(_) => {
                (0, NO_BLOCK_BYTES)
            }
            #[cfg(feature = "io-uring-compat")]
            File::Ring(_) => (super::ring::SHOWN_BYTES, NO_BLOCK_BYTES),
            File::Data(data) => {
                partition = data.partition();
                let geometry = data.geometry()?;
                (geometry.size_bytes(), geometry.block_bytes())
            }
        };
        Ok(stat((self.node, partition), size_bytes, block_bytes, owners))
    }

    /// The last call on a handle.
    pub(crate) fn close(&self) {
        match &self.file {
            File::Bench(bench) => bench.close(),
            #[cfg(feature = "io-uring-compat")]
            File::Ring(ring) => ring.close(),
            File::Events(events) => events.close(),
            File::Data(data) => data.wake(),
            File::Directory | File::Document(_) | File::Admin(_) | File::Io(_) | File::Scheduler(_) => {}
        }
    }

    /// Ends the reads that wait for something to happen, and zeroings.
    pub(crate) fn wake(&self) {
        match &self.file {
            File::Bench(bench) => bench.wake(),
            #[cfg(feature = "io-uring-compat")]
            File::Ring(ring) => ring.wake(),
            File::Events(events) => events.wake(),
            File::Data(data) => data.wake(),
            File::Directory | File::Document(_) | File::Admin(_) | File::Io(_) | File::Scheduler(_) => {}
        }
    }
}
