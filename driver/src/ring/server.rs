//! The driver's side of a ring. It lives on a worker's own thread as a [`Load`]: in each turn it takes entries, submits
//! them to the worker's queue, and puts answers into the completion ring.
//!
//! What the client may do at any time, and what is done about it:
//!
//! | in the shared pages | here |
//! | --- | --- |
//! | entries change while they are looked at | each is copied first, once |
//! | an index jumps | the ring is broken: nothing is taken or put there any more, and waiting reads are told |
//! | the completion ring is full | nothing is taken until there is room: an answer always has its place |
//! | entries without an end | a turn takes a few, and no more than the queue has room for |
//! | the driver's own words are overwritten | it keeps its own count, and does not read them |
//!
//! Time, threads and system calls are elsewhere, so that all of this runs under a clock that is moved by hand. The one exception
//! is where the worker is, which the system is asked and the client is told, and which means nothing here.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use super::layout::{
    Completion, DEVICE_ADDRESS, Entry, Geometry, MAGIC, MAX_BUFFERS, MAX_RUNS, VERSION, flag, word,
};
use super::outcome::{NotStarted, Outcome, outcome_of};
use super::shared::{Order, Shared, Then, load, store};
use crate::dma::{Buffer, RegisteredBuffer, RegisteredMemory, SharedMemory};
use crate::error::IoError;
use crate::request::{Finished, Op, Request};
use crate::scheme::Errno;
use crate::worker::{Load, LoadPort, LoadState};

/// Entries taken in one turn: what needs no command costs the worker's other clients time all the same.
const TURN_ENTRIES: u32 = 32;
/// After so many results the client is told anew on which CPU its worker is: where that is a call to the system, it is a rare one.
const CPU_RESULTS: u32 = 256;
/// No slot.
const NIL: u32 = u32::MAX;

/// What the client of a ring may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Have data read.
    pub(crate) read: bool,
    /// Have it changed.
    pub(crate) write: bool,
    /// Name the device's own addresses, and be told them.
    pub(crate) physical: bool,
}

/// Who is told that blocks have been changed: bytes from the namespace's start, and its size.
pub(crate) type Changed = Box<dyn Fn(&Range<u64>, u64) + Send>;
/// Writes the runs of `of` into the first page of the ring in `memory`.
fn tell_runs(memory: &SharedMemory, of: &RegisteredMemory) {
    let runs = of.runs();
    for (number, (address, run)) in runs.iter().take(MAX_RUNS).enumerate() {
        memory.store(word::RUNS + number * 16, [*address, run.len() as u64]);
    }
    store(memory, word::RUN_COUNT, runs.len() as u32);
}

/// A buffer of the client's.
struct Registered {
    memory: Arc<RegisteredMemory>,
    /// Its first byte that is for the device.
    first: usize,
    /// Ways to it that no request has: so that none costs an atomic operation.
    spare: Vec<Arc<RegisteredMemory>>,
    /// Requests that have one.
    out: u32,
    /// It is to go when no request has it any more.
    going: Option<Then<()>>,
}

impl Registered {
    fn new(memory: Arc<RegisteredMemory>, first: usize) -> Self {
        Self {
            memory,
            first,
            spare: Vec::new(),
            out: 0,
            going: None,
        }
    }

    fn lend(&mut self, offset: usize, len: usize) -> Option<RegisteredBuffer> {
        let memory = self.spare.pop().unwrap_or_else(|| Arc::clone(&self.memory));
        let buffer = RegisteredBuffer::new(memory, offset, len)?;
        self.out += 1;
        Some(buffer)
    }
}

/// An entry that was taken and has not been answered.
#[derive(Clone, Copy)]
struct Slot {
    entry: Entry,
    /// Which buffer its request has, or [`NIL`].
    buffer: u32,
    /// The slot that waits for its success, or [`NIL`].
    next: u32,
}

/// What the entry before the next one says about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing.
    Free,
    /// It waits for this slot.
    Pending(u32),
    /// It waited for one that is over: whether that succeeded.
    Over(bool),
}

/// The driver's side of one ring.
pub(crate) struct Server {
    shared: Arc<Shared>,
    memory: Arc<SharedMemory>,
    geometry: Geometry,
    nsid: u32,
    rights: Rights,
    changed: Changed,
    buffers: Vec<Option<Registered>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots whose requests may begin, as soon as the queue has room.
    ready: VecDeque<u32>,
    before: Before,
    /// Entries taken, ever.
    sq_head: u32,
    /// Results put there, ever, and of these those that the client may see.
    cq_tail: u32,
    published: u32,
    /// Results that the client has taken, as far as was looked.
    cq_head: u32,
    flags: u32,
    cq_full: u32,
    /// Results put there when the client was last told where its worker is.
    told_cpu_at: u32,
    is_full: bool,
    /// The queue had no room for more: what frees some wakes the worker.
    is_held_up: bool,
    closing: bool,
}

impl Server {
    /// A ring in `memory`, which is new: its indices are 0. Its requests are for namespace `nsid`, on queue pair `qid`.
    ///
    /// # Errors
    /// `EINVAL`: such a ring there cannot be, or not in this memory.
    pub(crate) fn new(
        memory: Arc<RegisteredMemory>,
        geometry: Geometry,
        (nsid, qid): (u32, u16),
        rights: Rights,
        tells_runs: bool,
        changed: Changed,
    ) -> Result<(Self, Arc<Shared>), Errno> {
        let pages = Arc::clone(memory.memory());
        if !geometry.is_valid() || geometry.data_offset() > pages.len() {
            return Err(Errno::EINVAL);
        }
        if tells_runs && !rights.physical {
            return Err(Errno::EACCES);
        }
        for (offset, value) in [
            (word::SQ_TAIL, 0),
            (word::SQ_HEAD, 0),
            (word::CQ_TAIL, 0),
            (word::CQ_HEAD, 0),
            (word::FLAGS, 0),
            (word::SQ_DROPPED, 0),
            (word::CQ_FULL, 0),
            (word::CPU, 0),
            (word::RUN_COUNT, 0),
            (word::VERSION, VERSION),
            (word::SQ_ENTRIES, geometry.sq_entries),
            (word::CQ_ENTRIES, geometry.cq_entries),
            (word::SQ_OFFSET, geometry.sq_offset() as u32),
            (word::CQ_OFFSET, geometry.cq_offset() as u32),
            (word::DATA_OFFSET, geometry.data_offset() as u32),
            (word::QID, u32::from(qid)),
        ] {
            store(&pages, offset, value);
        }
        if tells_runs {
            tell_runs(&pages, &memory);
        }
        pages.store(word::MAGIC, [MAGIC]);
        let shared = Arc::new(Shared::new(&pages, geometry));
        let slot = Slot {
            entry: Entry::nop(),
            buffer: NIL,
            next: NIL,
        };
        let slots = geometry.cq_entries;
        let mut buffers: Vec<Option<Registered>> = (0..MAX_BUFFERS).map(|_| None).collect();
        if let Some(first) = buffers.first_mut() {
            *first = Some(Registered::new(memory, geometry.data_offset()));
        }
        let server = Self {
            shared: Arc::clone(&shared),
            memory: pages,
            geometry,
            nsid,
            rights,
            changed,
            buffers,
            slots: vec![slot; slots as usize],
            free: (0..slots).rev().collect(),
            ready: VecDeque::with_capacity(slots as usize),
            before: Before::Free,
            sq_head: 0,
            cq_tail: 0,
            published: 0,
            cq_head: 0,
            flags: 0,
            cq_full: 0,
            told_cpu_at: 0_u32.wrapping_sub(CPU_RESULTS),
            is_full: false,
            is_held_up: false,
            closing: false,
        };
        Ok((server, shared))
    }

    fn set_flags(&mut self, flags: u32) {
        if flags != self.flags {
            self.flags = flags;
            store(&self.memory, word::FLAGS, flags);
        }
    }

    const fn is_broken(&self) -> bool {
        self.flags & flag::BROKEN != 0
    }

    /// The client says what cannot be.
    #[cold]
    fn break_ring(&mut self, what: &str) {
        log::info!("a ring of namespace {} is given up: {what}", self.nsid);
        let left = load(&self.memory, word::SQ_TAIL).wrapping_sub(self.sq_head);
        store(&self.memory, word::SQ_DROPPED, left);
        self.set_flags(self.flags | flag::BROKEN);
        self.shared.end(Errno::EIO);
    }

    /// Slots that an entry has.
    fn taken(&self) -> u32 {
        (self.slots.len() - self.free.len()) as u32
    }

    /// Whether there is a place for the answer to one more entry.
    #[inline]
    fn has_place(&mut self) -> bool {
        let places = self.geometry.cq_entries;
        let used = |server: &Self| server.cq_tail.wrapping_sub(server.cq_head) + server.taken();
        if used(self) < places {
            return true;
        }
        let head = load(&self.memory, word::CQ_HEAD);
        if self.cq_tail.wrapping_sub(head) > places
            || self.cq_tail.wrapping_sub(head) > self.cq_tail.wrapping_sub(self.cq_head)
        {
            self.break_ring("it has taken results that are not there, or has put some back");
            return false;
        }
        self.cq_head = head;
        used(self) < places
    }

    /// Entries that wait to be taken.
    #[inline]
    fn waiting_entries(&mut self) -> u32 {
        let waiting = load(&self.memory, word::SQ_TAIL).wrapping_sub(self.sq_head);
        if waiting > self.geometry.sq_entries {
            self.break_ring("it has submitted more entries than the ring has");
            return 0;
        }
        waiting
    }

    /// Takes entries as long as there is room for them and for their answers; says whether there were any.
    #[inline]
    fn take(&mut self, port: &mut LoadPort<'_>) -> bool {
        if self.flags & (flag::BROKEN | flag::ENDED) != 0 || self.closing {
            return false;
        }
        let waiting = self.waiting_entries().min(TURN_ENTRIES);
        let mut left = waiting;
        while left > 0 && port.room() > 0 && self.ready.is_empty() {
            let has_place = self.has_place();
            if !has_place && !self.is_full {
                self.cq_full = self.cq_full.wrapping_add(1);
                store(&self.memory, word::CQ_FULL, self.cq_full);
            }
            self.is_full = !has_place;
            if !has_place {
                break;
            }
            let copied = self.memory.load(self.geometry.entry_at(self.sq_head));
            let (Some(words), Some(number)) = (copied, self.free.pop()) else {
                break;
            };
            self.sq_head = self.sq_head.wrapping_add(1);
            left -= 1;
            self.taken_one(number, Entry::decode(words), port);
        }
        if left == waiting {
            return false;
        }
        store(&self.memory, word::SQ_HEAD, self.sq_head);
        true
    }

    #[inline]
    fn taken_one(&mut self, number: u32, entry: Entry, port: &mut LoadPort<'_>) {
        let slot = Slot {
            entry,
            buffer: NIL,
            next: NIL,
        };
        if let Some(place) = self.slots.get_mut(number as usize) {
            *place = slot;
        }
        let after = if entry.is_linked() {
            Before::Pending(number)
        } else {
            Before::Free
        };
        match std::mem::replace(&mut self.before, after) {
            Before::Free | Before::Over(true) => self.begin(number, port),
            Before::Over(false) => self.settle(number, Outcome::CANCELED, port),
            Before::Pending(before) => {
                if let Some(before) = self.slots.get_mut(before as usize) {
                    before.next = number;
                }
            }
        }
    }

    /// Begins the request of a slot, or settles it.
    #[inline]
    fn begin(&mut self, number: u32, port: &mut LoadPort<'_>) {
        match self.start(number, port) {
            Ok(()) => {}
            Err(NotStarted::Busy) => self.ready.push_back(number),
            Err(NotStarted::Over(outcome)) => self.settle(number, outcome, port),
        }
    }

    #[inline]
    fn start(&mut self, number: u32, port: &mut LoadPort<'_>) -> Result<(), NotStarted> {
        let slot = self.slots.get(number as usize).ok_or(Errno::EIO)?;
        let entry = slot.entry;
        let Some(op) = entry.op()? else {
            return Err(NotStarted::Over(Outcome::of(None)));
        };
        let allowed = match op {
            Op::Read | Op::Compare | Op::Verify => self.rights.read,
            _ => self.rights.write,
        };
        if !allowed {
            return Err(Errno::EBADF.into());
        }
        let (lba_shift, _) = port.shape_of(self.nsid).ok_or(Errno::ENODEV)?;
        let mut buffer = Buffer::None;
        let mut index = NIL;
        if op.has_data() {
            let bytes = u64::from(entry.blocks).checked_shl(lba_shift).unwrap_or(u64::MAX);
            let len = usize::try_from(bytes).map_err(|_| Errno::EFAULT)?;
            let (found, offset) = self.find(&entry, len)?;
            let registered = self.buffers.get_mut(found as usize).and_then(Option::as_mut);
            let lent = registered.and_then(|registered| registered.lend(offset, len));
            (buffer, index) = (Buffer::Registered(lent.ok_or(Errno::EFAULT)?), found);
        }
        if let Some(slot) = self.slots.get_mut(number as usize) {
            slot.buffer = index;
        }
        let request = Request {
            op,
            nsid: self.nsid,
            slba: entry.slba,
            blocks: u64::from(entry.blocks),
            buffer,
            arrived_ns: port.now_ns(),
            context: u64::from(number),
        };
        let class = entry.class().unwrap_or_default();
        port.submit_as(class, request).map_err(|(request, why)| {
            self.give_back(number, request.buffer);
            match why {
                IoError::Busy => NotStarted::Busy,
                why => NotStarted::Over(outcome_of(why)),
            }
        })
    }

    /// In which buffer an entry's data of `len` bytes is, and where in there.
    #[inline]
    fn find(&self, entry: &Entry, len: usize) -> Result<(u32, usize), Errno> {
        let address = entry.place.address;
        if address & DEVICE_ADDRESS != 0 {
            return self.find_device_address(entry, len);
        }
        let index = entry.place.buffer;
        let registered = self.buffers.get(index as usize).and_then(Option::as_ref);
        let registered = registered.filter(|it| it.going.is_none()).ok_or(Errno::EFAULT)?;
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let offset = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let all = registered.memory.memory().len();
        if offset < registered.first || offset > all || len > all - offset {
            return Err(Errno::EFAULT);
        }
        Ok((index, offset))
    }

    /// The same for an address of the device's own: only what this handle has registered may be named, and only by whom
    /// the kernel lets do anything.
    #[cold]
    fn find_device_address(&self, entry: &Entry, len: usize) -> Result<(u32, usize), Errno> {
        if !self.rights.physical {
            return Err(Errno::EACCES);
        }
        let address = entry.place.address & !DEVICE_ADDRESS;
        if !address.is_multiple_of(4) || entry.place.buffer != 0 {
            return Err(Errno::EFAULT);
        }
        let found = (0_u32..).zip(&self.buffers).find_map(|(index, registered)| {
            let registered = registered.as_ref().filter(|it| it.going.is_none())?;
            let offset = registered.memory.offset_of(address, len)?;
            (offset >= registered.first).then_some((index, offset))
        });
        found.ok_or(Errno::EFAULT)
    }

    /// A request's buffer is back.
    #[inline]
    fn give_back(&mut self, number: u32, buffer: Buffer) {
        let Some(slot) = self.slots.get_mut(number as usize) else {
            return;
        };
        let index = std::mem::replace(&mut slot.buffer, NIL);
        let Some(place) = self.buffers.get_mut(index as usize) else {
            return;
        };
        let Some(registered) = place else { return };
        // One that did not come back may still be written by the device: it counts as out for ever.
        if let Buffer::Registered(buffer) = buffer {
            registered.out -= 1;
            registered.spare.push(buffer.into_memory());
            if registered.out == 0
                && let Some(then) = registered.going.take()
            {
                let_go(place.take());
                then(Ok(()));
            }
        }
    }

    /// Answers a slot, and those that waited for it and are not to begin.
    fn settle(&mut self, number: u32, outcome: Outcome, port: &mut LoadPort<'_>) {
        let mut settled = Some((number, outcome));
        while let Some((number, outcome)) = settled.take() {
            let Some(slot) = self.slots.get(number as usize).copied() else {
                return;
            };
            let is_success = outcome.errno.is_none();
            self.post(&slot.entry, outcome);
            self.free.push(number);
            if self.before == Before::Pending(number) {
                self.before = Before::Over(is_success);
            }
            let next = slot.next;
            if next == NIL {
                return;
            }
            if !is_success {
                settled = Some((next, Outcome::CANCELED));
                continue;
            }
            match self.start(next, port) {
                Ok(()) => {}
                Err(NotStarted::Busy) => self.ready.push_back(next),
                Err(NotStarted::Over(outcome)) => settled = Some((next, outcome)),
            }
        }
    }

    /// Puts an answer into the completion ring; there is a place for it.
    #[inline]
    fn post(&mut self, entry: &Entry, outcome: Outcome) {
        if self.is_broken() {
            return;
        }
        let completion = Completion {
            user_data: entry.user_data,
            errno: outcome.errno.map_or(0, |errno| errno.0.unsigned_abs()),
            status: outcome.status,
            bytes: outcome.bytes,
            host_ns: outcome.host_ns,
            device_ns: outcome.device_ns,
        };
        let at = self.geometry.result_at(self.cq_tail);
        self.memory.store(at, completion.encode());
        self.cq_tail = self.cq_tail.wrapping_add(1);
    }

    /// Lets the client see what was posted, and tells it if it waits for that.
    #[inline]
    fn publish(&mut self) {
        if self.published == self.cq_tail {
            return;
        }
        self.published = self.cq_tail;
        if self.cq_tail.wrapping_sub(self.told_cpu_at) >= CPU_RESULTS {
            self.told_cpu_at = self.cq_tail;
            let cpu = crate::cpu::running_on().map_or(0, |cpu| cpu.wrapping_add(1));
            store(&self.memory, word::CPU, cpu);
        }
        // Before the client can see a result: who waits after it has taken one must not seem to have taken what is not there.
        self.shared.posted.store(self.cq_tail, Ordering::Relaxed);
        store(&self.memory, word::CQ_TAIL, self.cq_tail);
        // Either who waits sees it, or is seen here.
        fence(Ordering::SeqCst);
        if self.shared.has_waiting.load(Ordering::Relaxed) {
            self.shared.answer_waiting();
        }
    }

    #[cold]
    fn obey(&mut self) {
        let orders = {
            let mut state = self.shared.lock();
            self.shared.has_orders.store(false, Ordering::Relaxed);
            self.closing = self.shared.closed.load(Ordering::Relaxed);
            std::mem::take(&mut state.orders)
        };
        for order in orders {
            match order {
                Order::Register(index, memory, tells_runs, then) => {
                    then(self.register(index, memory, tells_runs));
                }
                Order::Unregister(index, then) => self.unregister(index, then),
            }
        }
    }

    fn register(&mut self, index: u32, memory: Arc<RegisteredMemory>, tells_runs: bool) -> Result<(), Errno> {
        let place = self.buffers.get_mut(index as usize).ok_or(Errno::EINVAL)?;
        if place.is_some() {
            return Err(Errno::EBUSY);
        }
        if tells_runs && self.rights.physical {
            tell_runs(&self.memory, &memory);
        }
        *place = Some(Registered::new(memory, 0));
        Ok(())
    }

    fn unregister(&mut self, index: u32, then: Then<()>) {
        let place = self.buffers.get_mut(index as usize).filter(|_| index != 0);
        let Some(place) = place else {
            return then(Err(Errno::EINVAL));
        };
        match place {
            None => then(Err(Errno::EINVAL)),
            Some(registered) if registered.going.is_some() => then(Err(Errno::EBUSY)),
            Some(registered) if registered.out > 0 => registered.going = Some(then),
            Some(_) => {
                let_go(place.take());
                then(Ok(()));
            }
        }
    }

    /// Answers what has not begun, when the ring closes.
    fn cancel_unbegun(&mut self, port: &mut LoadPort<'_>) {
        while let Some(number) = self.ready.pop_front() {
            self.settle(number, Outcome::CANCELED, port);
        }
    }
}

/// Drops memory on a thread of its own: to take it from a device, and out of this process's pages, may take milliseconds,
/// which the other clients of a queue do not have.
fn let_go<T: Send + 'static>(memory: T) {
    let dropped = std::thread::Builder::new()
        .name("nvme-ring-end".to_owned())
        .spawn(move || drop(memory));
    if let Err(error) = dropped {
        log::debug!("no thread for the end of a ring, so it ends here: {error}");
    }
}

impl Load for Server {
    fn turn(&mut self, _now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        self.set_flags(self.flags & !flag::NEED_WAKEUP);
        // What the last pass brought.
        self.publish();
        if self.shared.has_orders.load(Ordering::Acquire) {
            self.obey();
        }
        if self.closing {
            self.cancel_unbegun(port);
            return match port.inflight() {
                0 => LoadState::Done,
                _ => LoadState::Running,
            };
        }
        let mut retries = self.ready.len();
        while retries > 0 && port.room() > 0 {
            retries -= 1;
            if let Some(number) = self.ready.pop_front() {
                self.begin(number, port);
            }
        }
        let took = self.take(port);
        self.is_held_up = port.room() == 0 || !self.ready.is_empty();
        // What was refused at once.
        self.publish();
        if took {
            LoadState::Worked
        } else {
            LoadState::Running
        }
    }

    fn turned(&mut self) {
        self.publish();
    }

    fn is_for_a_program(&self) -> bool {
        self.taken() == 0 || load(&self.memory, word::CQ_HEAD) != self.published
    }

    fn sleeps(&mut self) -> bool {
        if self.flags & (flag::BROKEN | flag::ENDED) != 0 || self.closing {
            return true;
        }
        self.set_flags(self.flags | flag::NEED_WAKEUP);
        // The client does it the other way round: it publishes its entries, fences, and looks at the flag.
        fence(Ordering::SeqCst);
        self.is_held_up || self.waiting_entries() == 0 || !self.has_place()
    }

    fn finished(&mut self, done: Finished<u64>, port: &mut LoadPort<'_>) {
        let number = done.context as u32;
        self.give_back(number, done.buffer);
        let (lba_shift, size_bytes) = port.shape_of(self.nsid).unwrap_or((0, 0));
        if matches!(
            done.op,
            Op::Write { .. } | Op::WriteZeroes { .. } | Op::Deallocate
        ) {
            let start = done.slba << lba_shift;
            let bytes = start..start.saturating_add(done.blocks << lba_shift);
            (self.changed)(&bytes, size_bytes);
        }
        let nanoseconds = |from: u64, to: u64| u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
        let outcome = match done.result {
            Ok(()) => Outcome {
                bytes: if done.op.has_data() {
                    done.blocks << lba_shift
                } else {
                    0
                },
                ..Outcome::of(None)
            },
            Err(why) => outcome_of(why),
        };
        let outcome = Outcome {
            host_ns: nanoseconds(done.arrived_ns, done.doorbell_ns),
            device_ns: nanoseconds(done.doorbell_ns, done.completed_ns),
            ..outcome
        };
        self.settle(number, outcome, port);
    }

    fn stopped(&mut self, why: IoError) {
        self.publish();
        let left = load(&self.memory, word::SQ_TAIL).wrapping_sub(self.sq_head);
        store(&self.memory, word::SQ_DROPPED, left);
        self.set_flags(self.flags & !flag::NEED_WAKEUP | flag::ENDED);
        self.shared.end(why.into());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.end(Errno::ESHUTDOWN);
        for place in self.buffers.iter_mut().flatten() {
            if let Some(then) = place.going.take() {
                then(Err(Errno::ESHUTDOWN));
            }
        }
        let_go(std::mem::take(&mut self.buffers));
    }
}
