//! The data of a namespace or of a partition at any offset and length.

mod span;
mod write;
mod zero;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::partitions::{Partition, Partitions};
use super::pending::Pending;
use super::range_lock::{Claim, Mode, RangeLock, Ticket};
use super::service::{
    Answer, BlockService, Buffer, Class, Finished, Hint, NamespaceState, Op, Remote, Request,
};
use super::{Errno, Reply, lock};
use crate::dma::Lent;

pub(crate) use span::Geometry;
use span::Span;
use write::{Data, Write};
use zero::Zero;

/// The most bytes that one call moves; a longer one is answered short.
pub const MAX_TRANSFER_BYTES: usize = 16 << 20;

/// The most writes and zeroings of one namespace that wait for another to leave their blocks.
const MAX_WAITING_WRITES: usize = 1024;

/// The namespaces that somebody opened, each with the lock that all its writers share.
pub(crate) struct Volumes {
    service: Arc<dyn BlockService>,
    by_nsid: Mutex<BTreeMap<u32, Arc<Volume>>>,
}

impl Volumes {
    pub(crate) const fn new(service: Arc<dyn BlockService>) -> Self {
        Self {
            service,
            by_nsid: Mutex::new(BTreeMap::new()),
        }
    }

    /// # Errors
    /// `ENODEV` if there is no such namespace, `EOPNOTSUPP` if the driver cannot use it.
    pub(crate) fn get(&self, nsid: u32) -> Result<Arc<Volume>, Errno> {
        let mut volumes = lock(&self.by_nsid);
        let volume = volumes.entry(nsid).or_insert_with(|| {
            Arc::new(Volume {
                nsid,
                service: Arc::clone(&self.service),
                writers: Mutex::new(Writers {
                    ranges: RangeLock::new(MAX_WAITING_WRITES),
                    ready: VecDeque::new(),
                    pumping: false,
                }),
                partitions: Arc::default(),
            })
        });
        volume.geometry()?;
        Ok(Arc::clone(volume))
    }

    /// Something was done that may have changed the data of any namespace, past the volumes.
    pub(crate) fn forget_tables(&self) {
        for volume in lock(&self.by_nsid).values() {
            volume.partitions.forget();
        }
    }
}

/// One namespace and those who write to it.
pub(crate) struct Volume {
    nsid: u32,
    service: Arc<dyn BlockService>,
    writers: Mutex<Writers>,
    pub(crate) partitions: Arc<Partitions>,
}

/// Something that changes blocks, and waits for them to be free.
trait Work: Send {
    /// What has to be locked: whole blocks, in bytes from the namespace's start.
    fn locked_bytes(&self) -> Range<u64>;

    fn mode(&self) -> Mode;

    /// A part of it is done: it is not refused any more, however many wait.
    fn has_begun(&self) -> bool {
        false
    }

    /// The blocks are free.
    fn begin(self: Box<Self>, grant: Grant);

    /// They will not be: nothing was done.
    fn refuse(self: Box<Self>, errno: Errno);
}

struct Writers {
    ranges: RangeLock<Box<dyn Work>>,
    /// Granted, but not begun yet.
    ready: VecDeque<(Ticket, Box<dyn Work>)>,
    /// Somebody begins what is in `ready`. Others leave it to them: a release inside an answer inside a
    /// release would otherwise nest as deep as there are writers.
    pumping: bool,
}

impl Volume {
    pub(crate) const fn nsid(&self) -> u32 {
        self.nsid
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.service.now_ns()
    }

    /// These bytes, from the namespace's start, have been changed, or may have been.
    fn changed(&self, bytes: &Range<u64>) {
        let size_bytes = self.geometry().map_or(0, Geometry::size_bytes);
        self.partitions.changed(bytes, size_bytes);
    }

    /// The namespace's shape as it is now: it may be formatted or resized under an open handle.
    pub(crate) fn geometry(&self) -> Result<Geometry, Errno> {
        let namespaces = self.service.namespaces();
        let namespace = namespaces
            .iter()
            .find(|namespace| namespace.nsid == self.nsid)
            .ok_or(Errno::ENODEV)?;
        match &namespace.state {
            NamespaceState::Usable => Geometry::new(namespace.lba_shift, namespace.blocks)
                .map(|geometry| geometry.of_revision(namespace.revision)),
            NamespaceState::Unusable(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// What the controller has to make blocks read as zeroes.
    fn how_to_zero(&self, deallocate: bool) -> Result<zero::How, Errno> {
        let namespaces = self.service.namespaces();
        let namespace = namespaces
            .iter()
            .find(|namespace| namespace.nsid == self.nsid)
            .ok_or(Errno::ENODEV)?;
        Ok(zero::How::new(self.service.identity(), namespace, deallocate))
    }

    pub(crate) fn submit(
        &self,
        op: Op,
        hint: Hint,
        span: (u64, u64),
        buffer: Buffer,
        arrived_ns: u64,
        sink: Arc<dyn Answer>,
    ) {
        let (slba, blocks) = span;
        let context = Remote { sink, tag: 0 };
        let request = Request {
            op,
            nsid: self.nsid,
            slba,
            blocks,
            buffer,
            arrived_ns,
            context,
        };
        let cpu = crate::cpu::current();
        self.service.submit(Hint { cpu, ..hint }, request);
    }

    /// Begins `work` now or when its blocks are free.
    fn change(self: &Arc<Self>, work: Box<dyn Work>) {
        let (bytes, mode) = (work.locked_bytes(), work.mode());
        let may_refuse = !work.has_begun();
        let claim = lock(&self.writers).ranges.claim(bytes, mode, may_refuse, work);
        match claim {
            Claim::Granted(ticket, work) => self.begin(ticket, work),
            Claim::Waiting => {}
            Claim::Full(work) => work.refuse(Errno::EAGAIN),
        }
    }

    fn begin(self: &Arc<Self>, ticket: Ticket, work: Box<dyn Work>) {
        let grant = Grant::new(self, work.locked_bytes(), ticket);
        work.begin(grant);
    }

    fn release(self: &Arc<Self>, ticket: Ticket) {
        {
            let mut writers = lock(&self.writers);
            let Writers {
                ranges,
                ready,
                pumping,
            } = &mut *writers;
            ranges.release(ticket, ready);
            if *pumping || ready.is_empty() {
                return;
            }
            *pumping = true;
        }
        loop {
            let next = {
                let mut writers = lock(&self.writers);
                let next = writers.ready.pop_front();
                writers.pumping = next.is_some();
                next
            };
            match next {
                Some((ticket, work)) => self.begin(ticket, work),
                None => return,
            }
        }
    }
}

/// The right to write a range, given back when it is dropped.
struct Grant {
    volume: Arc<Volume>,
    bytes: Range<u64>,
    ticket: Option<Ticket>,
}

impl Grant {
    fn new(volume: &Arc<Volume>, bytes: Range<u64>, ticket: Ticket) -> Self {
        Self {
            volume: Arc::clone(volume),
            bytes,
            ticket: Some(ticket),
        }
    }

    /// The range has been changed, or may have been. To be called before the client is answered.
    fn changed(&self) {
        self.volume.changed(&self.bytes);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.volume.release(ticket);
        }
    }
}

/// Until when those who asked for something that takes long want to wait: until [`DataFile::wake`].
struct Patience {
    wakes: Arc<AtomicU64>,
    wakes_then: u64,
}

impl Patience {
    fn is_over(&self) -> bool {
        self.wakes.load(Ordering::Relaxed) != self.wakes_then
    }
}

/// An open block device.
pub(crate) struct DataFile {
    /// How often those who wait were told not to.
    wakes: Arc<AtomicU64>,
    volume: Arc<Volume>,
    /// By whom, for schedulers that keep a client on one queue, and how urgent it is.
    hint: Hint,
    /// The part of the namespace that it is, as it was when it was opened, with the block size then.
    part: Option<(Partition, u32)>,
}

impl DataFile {
    /// # Errors
    /// The namespace is gone or cannot be used.
    pub(crate) fn new(
        volume: Arc<Volume>,
        partition: Option<Partition>,
        client: u64,
        class: Class,
    ) -> Result<Self, Errno> {
        let block_bytes = volume.geometry()?.block_bytes();
        let hint = Hint {
            cpu: None,
            client,
            class,
        };
        let part = partition.map(|partition| (partition, block_bytes));
        Ok(Self {
            wakes: Arc::default(),
            volume,
            hint,
            part,
        })
    }

    /// Ends what takes long (`EINTR`), when the piece of it that is with the device has been done.
    pub(crate) fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
    }

    fn patience(&self) -> Patience {
        Patience {
            wakes: Arc::clone(&self.wakes),
            wakes_then: self.wakes.load(Ordering::Relaxed),
        }
    }

    /// The partition that it is, as it was when it was opened.
    pub(crate) fn partition(&self) -> Option<Partition> {
        self.part.map(|(partition, _)| partition)
    }

    /// Where it is and how large, now: a partition ends where the namespace does.
    pub(crate) fn geometry(&self) -> Result<Geometry, Errno> {
        let whole = self.volume.geometry()?;
        match self.part {
            None => Ok(whole),
            Some((partition, block_bytes)) if block_bytes == whole.block_bytes() => {
                Ok(whole.part(partition.first_block, partition.blocks))
            }
            // Formatted with another block size: what the partition was is gone.
            Some(_) => Err(Errno::ENODEV),
        }
    }

    pub(crate) fn read(&self, offset: u64, mut buffer: Vec<u8>, pending: Pending) {
        let geometry = match self.geometry() {
            Ok(geometry) => geometry,
            Err(errno) => return pending.answer(Err(errno)),
        };
        let Some(span) = geometry.span(offset, buffer.len().min(MAX_TRANSFER_BYTES)) else {
            return pending.answer(Ok(Reply::Read { buffer, len: 0 }));
        };
        let asked_bytes = buffer.len();
        if !span.is_aligned() {
            // What was in there has no meaning, so it is not copied when the buffer has to move to grow.
            buffer.clear();
            buffer.resize(span.cover_bytes(), 0);
        }
        self.submit_read(span, Buffer::heap(buffer), Into::Buffer { asked_bytes }, pending);
    }

    /// As [`Self::read`], into memory that is lent: whole blocks of it are the device's to fill.
    pub(crate) fn read_into(&self, offset: u64, memory: Lent, pending: Pending) {
        let geometry = match self.geometry() {
            Ok(geometry) => geometry,
            Err(errno) => return pending.answer(Err(errno)),
        };
        let Some(span) = geometry.span(offset, memory.len().min(MAX_TRANSFER_BYTES)) else {
            return pending.answer(Ok(Reply::Moved { len: 0 }));
        };
        let (buffer, into) = if span.is_aligned() {
            (Buffer::Lent(memory.shortened(span.len_bytes())), Into::Place)
        } else {
            (Buffer::heap(vec![0; span.cover_bytes()]), Into::Lent(memory))
        };
        self.submit_read(span, buffer, into, pending);
    }

    fn submit_read(&self, span: Span, buffer: Buffer, into: Into, pending: Pending) {
        let read = Arc::new(Read(Mutex::new(Some((span, into, pending)))));
        let arrived_ns = self.volume.service.now_ns();
        let blocks = (span.slba(), span.blocks());
        self.volume
            .submit(Op::Read, self.hint, blocks, buffer, arrived_ns, read);
    }

    pub(crate) fn write(&self, offset: u64, data: Vec<u8>, pending: Pending) {
        self.write_data(offset, Data::Owned(data), pending);
    }

    /// As [`Self::write`], from memory that is lent: whole blocks of it are the device's to fetch.
    pub(crate) fn write_from(&self, offset: u64, memory: Lent, pending: Pending) {
        self.write_data(offset, Data::Lent(memory), pending);
    }

    fn write_data(&self, offset: u64, data: Data, pending: Pending) {
        let geometry = match self.geometry() {
            Ok(geometry) => geometry,
            Err(errno) => {
                drop(data);
                return pending.answer(Err(errno));
            }
        };
        match geometry.span(offset, data.len().min(MAX_TRANSFER_BYTES)) {
            Some(span) => {
                let arrived_ns = self.volume.service.now_ns();
                let write = Write::new(self.hint, span, data, arrived_ns, pending);
                self.volume.change(Box::new(write));
            }
            None if data.is_empty() => pending.answer(Ok(data.written(0))),
            None => {
                drop(data);
                pending.answer(Err(Errno::ENOSPC));
            }
        }
    }

    pub(crate) fn zero(&self, offset: u64, len_bytes: u64, deallocate: bool, pending: Pending) {
        let begun = self.geometry().and_then(|geometry| {
            let range = geometry.bytes(offset, len_bytes).ok_or(Errno::EINVAL)?;
            let how = self.volume.how_to_zero(deallocate)?;
            Ok((geometry, range, how))
        });
        match begun {
            Ok((geometry, range, how)) => {
                let arrived_ns = self.volume.service.now_ns();
                let patience = self.patience();
                let zero = Zero::new(self.hint, geometry, range, how, patience, arrived_ns, pending);
                self.volume.change(Box::new(zero));
            }
            Err(errno) => pending.answer(Err(errno)),
        }
    }

    pub(crate) fn sync(&self, pending: Pending) {
        if let Err(errno) = self.geometry() {
            return pending.answer(Err(errno));
        }
        let flush = Arc::new(Flush(Mutex::new(Some(pending))));
        let arrived_ns = self.volume.service.now_ns();
        self.volume
            .submit(Op::Flush, self.hint, (0, 0), Buffer::None, arrived_ns, flush);
    }
}

/// Where what is read goes.
enum Into {
    /// It is the client's buffer, which was so long.
    Buffer { asked_bytes: usize },
    /// It is where it belongs: what was lent.
    Place,
    /// A part of it is to be copied there.
    Lent(Lent),
}

/// A read that is out: what it covers, where to, and whom to answer.
struct Read(Mutex<Option<(Span, Into, Pending)>>);

impl Answer for Read {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let Some((span, into, pending)) = lock(&self.0).take() else {
            return;
        };
        let len = span.len_bytes();
        // What is lent is let go of in here, before the answer.
        let reply = match (finished.result, finished.buffer, into) {
            (
                Ok(()),
                Buffer::Heap {
                    bytes: mut buffer, ..
                },
                Into::Buffer { asked_bytes },
            ) => {
                if !span.is_aligned() {
                    buffer.copy_within(span.in_cover(), 0);
                    buffer.resize(asked_bytes, 0);
                }
                Ok(Reply::Read { buffer, len })
            }
            (Ok(()), Buffer::Lent(_), Into::Place) => Ok(Reply::Moved { len }),
            (Ok(()), Buffer::Heap { bytes, .. }, Into::Lent(mut memory)) => {
                memory.copy_in(0, bytes.get(span.in_cover()).unwrap_or_default());
                Ok(Reply::Moved { len })
            }
            (Ok(()), ..) => Err(Errno::EIO),
            (Err(error), ..) => Err(error.into()),
        };
        pending.answer(reply);
    }
}

/// A flush that is out.
struct Flush(Mutex<Option<Pending>>);

impl Answer for Flush {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let pending = lock(&self.0).take();
        if let Some(pending) = pending {
            pending.answer(finished.result.map(|()| Reply::Done).map_err(Errno::from));
        }
    }
}
