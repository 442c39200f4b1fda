//! The two rings in host memory, as the device walks them: it consumes submission entries and produces completion entries.

use std::collections::VecDeque;

use nvme_spec::command::QPRIO_URGENT;
use nvme_spec::{CompletionEntry, Status};
use zerocopy::IntoBytes;

use crate::held::{CidSet, HeldId};
use crate::host::{DmaFault, HostMemory};

/// Bytes of a submission entry.
pub(crate) const SQE_BYTES: u64 = 64;
/// Bytes of a completion entry.
const CQE_BYTES: u64 = 16;

/// What a doorbell's value says that the device did not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Nothing: it has not changed.
    Same,
    /// The pointer moved.
    Moved,
    /// The value cannot be right. It is ignored and is to be reported as an asynchronous event (Base 2.0, section 5.2.1,
    /// "Invalid Doorbell Write Value").
    Invalid,
}

/// A ring pointer that the host moves by a doorbell.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostPointer {
    /// Where it is, by the last valid value.
    at: u32,
    /// The last value seen, valid or not: an invalid one is reported once.
    seen: u32,
}

impl HostPointer {
    /// Where it is, by the last value that could be.
    pub fn at(self) -> u32 {
        self.at
    }

    /// The value the doorbell had when it was looked at last.
    pub fn seen(self) -> u32 {
        self.seen
    }

    /// Takes a doorbell's `value`. `limit` is how far the pointer may have moved on a ring of `size` entries.
    fn take(&mut self, value: u32, size: u32, limit: u32) -> Rung {
        if value == self.seen {
            return Rung::Same;
        }
        self.seen = value;
        if value >= size || distance(self.at, value, size) > limit {
            return Rung::Invalid;
        }
        if value == self.at {
            return Rung::Same;
        }
        self.at = value;
        Rung::Moved
    }
}

/// Steps from `from` to `to` on a ring of `size` entries.
fn distance(from: u32, to: u32, size: u32) -> u32 {
    if to >= from { to - from } else { to + size - from }
}

/// Where a ring lies in host memory.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In one piece, at this address.
    Contiguous(u64),
    /// In pages of `1 << page_shift` bytes (Base 2.0, section 5.4, PC = 0).
    Pages {
        /// Address of each page.
        pages: Vec<u64>,
        /// Their size, as a power of two.
        page_shift: u32,
    },
}

impl Place {
    /// Address of the byte `offset` of the ring, and how many bytes lie there in one piece. Entries never straddle pages:
    /// their size is a power of two below that of a page.
    #[inline]
    fn at(&self, offset: u64) -> Result<(u64, u64), DmaFault> {
        match self {
            Self::Contiguous(base) => Ok((base.wrapping_add(offset), u64::MAX)),
            Self::Pages { pages, page_shift } => {
                let within = offset & ((1 << page_shift) - 1);
                let page = pages.get((offset >> page_shift) as usize);
                let page = page.ok_or(DmaFault {
                    address: offset,
                    len_bytes: 1,
                })?;
                Ok((page.wrapping_add(within), (1 << page_shift) - within))
            }
        }
    }
}

/// A submission queue.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    pub qid: u16,
    /// The completion queue that its commands complete to.
    pub cqid: u16,
    /// Its class under weighted round robin (`QPRIO_*`).
    pub qprio: u8,
    place: Place,
    size: u32,
    head: u32,
    tail: HostPointer,
    /// Commands fetched and not yet completed, without those that wait for an event of their own.
    pub in_flight: u32,
    /// Identifiers of the commands that are held.
    pub live: CidSet,
    /// Identifiers of commands in the ring that are to be aborted when they are fetched.
    pub aborted: CidSet,
    /// Where its completion queue is among the engine's.
    pub cq: usize,
    /// Commands that wait for the next completion of this queue to go out before them.
    pub waiting: Vec<HeldId>,
}

impl SubmissionQueue {
    /// An empty queue of `size` entries (2 to 65,536), at `place`.
    pub fn new(qid: u16, cqid: u16, place: Place, size: u32) -> Self {
        Self::with_priority(qid, cqid, QPRIO_URGENT, place, size)
    }

    /// The same, of the class `qprio`.
    pub fn with_priority(qid: u16, cqid: u16, qprio: u8, place: Place, size: u32) -> Self {
        let tail = HostPointer::default();
        Self {
            qid,
            cqid,
            qprio,
            place,
            size,
            head: 0,
            tail,
            in_flight: 0,
            live: CidSet::default(),
            aborted: CidSet::default(),
            cq: 0,
            waiting: Vec::new(),
        }
    }

    /// Entries of the ring.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Takes what the tail doorbell reads. The host cannot add more than there is room for, seen from here: what it knows
    /// to be free is never more than what is free.
    pub fn ring(&mut self, value: u32) -> Rung {
        let free = self.size - 1 - self.pending();
        self.tail.take(value, self.size, free)
    }

    /// Entries that the host has submitted and the device has not fetched.
    pub fn pending(&self) -> u32 {
        distance(self.head, self.tail.at, self.size)
    }

    /// The tail, as the device knows it.
    pub fn tail(&self) -> HostPointer {
        self.tail
    }

    /// SQHD: where the device will fetch next.
    pub fn head(&self) -> u16 {
        self.head as u16
    }

    /// Whether command `cid` is among the pending ones. Reads them all: for Abort.
    pub fn is_pending(&self, memory: &dyn HostMemory, cid: u16) -> Result<bool, DmaFault> {
        for ahead in 0..self.pending() {
            let index = (self.head + ahead) % self.size;
            let (address, _) = self.place.at(u64::from(index) * SQE_BYTES)?;
            // Command dword 0: the identifier is its high half (Base 2.0, section 3.3.3.1).
            if (memory.load_u32(address)? >> 16) as u16 == cid {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the next entries to `into` (a multiple of 64 bytes), as many as fit, are pending, and lie in one piece; says
    /// how many. They are consumed: the host may reuse their places once it learns of the new head.
    pub fn fetch(&mut self, memory: &dyn HostMemory, into: &mut [u8]) -> Result<usize, DmaFault> {
        let fit = (into.len() as u64 / SQE_BYTES).min(u64::from(u32::MAX)) as u32;
        let count = fit.min(self.pending()).min(self.size - self.head);
        let (address, piece_bytes) = self.place.at(u64::from(self.head) * SQE_BYTES)?;
        let count = u64::from(count).min(piece_bytes / SQE_BYTES) as u32;
        let Some(into) = into.get_mut(..count as usize * SQE_BYTES as usize) else {
            return Ok(0);
        };
        if count > 0 {
            memory.read(address, into)?;
            self.head = (self.head + count) % self.size;
        }
        Ok(count as usize)
    }
}

/// What a completion entry is made of, before it has a place in the queue and so a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub dw0: u32,
    pub dw1: u32,
    pub sqhd: u16,
    pub sqid: u16,
    pub cid: u16,
    pub status: Status,
    /// False if the host is not to be told by an interrupt (a fault).
    pub interrupt: bool,
}

/// A completion queue.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    pub qid: u16,
    /// The vector to raise, None if the queue was created without interrupts.
    pub vector: Option<u16>,
    place: Place,
    size: u32,
    head: HostPointer,
    tail: u32,
    phase: bool,
    /// Completions that found no room. In order: nothing overtakes them.
    parked: VecDeque<Completion>,
    /// Entries posted that no interrupt was raised for.
    pub unannounced: u32,
    /// When the first of them was posted.
    pub unannounced_since_ns: u64,
}

impl CompletionQueue {
    /// An empty queue of `size` entries (2 to 65,536), at `place`.
    pub fn new(qid: u16, place: Place, size: u32, vector: Option<u16>) -> Self {
        Self {
            qid,
            vector,
            place,
            size,
            head: HostPointer::default(),
            tail: 0,
            // The host zeroes the ring, so the first round's phase is 1 (Base 2.0, section 3.3.3.2.2).
            phase: true,
            parked: VecDeque::new(),
            unannounced: 0,
            unannounced_since_ns: 0,
        }
    }

    /// Takes what the head doorbell reads. The host cannot have consumed more than was posted.
    pub fn ring(&mut self, value: u32) -> Rung {
        let posted = self.posted();
        self.head.take(value, self.size, posted)
    }

    /// The head, as the device knows it.
    pub fn head(&self) -> HostPointer {
        self.head
    }

    /// Entries posted that the host has not consumed.
    pub fn posted(&self) -> u32 {
        distance(self.head.at, self.tail, self.size)
    }

    /// True if no entry can be posted: one place stays free, else full would look like empty.
    pub fn is_full(&self) -> bool {
        self.posted() == self.size - 1
    }

    /// True if completions wait for room.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Posts `completion`, or parks it if there is no room. Says whether it was posted.
    pub fn post(&mut self, memory: &dyn HostMemory, completion: Completion) -> Result<bool, DmaFault> {
        if self.has_parked() || self.is_full() {
            self.parked.push_back(completion);
            return Ok(false);
        }
        self.write(memory, completion)?;
        Ok(true)
    }

    /// Posts what is parked, as far as there is room; says how many.
    pub fn unpark(&mut self, memory: &dyn HostMemory) -> Result<u32, DmaFault> {
        let mut posted = 0;
        while !self.is_full()
            && let Some(completion) = self.parked.pop_front()
        {
            self.write(memory, completion)?;
            posted += 1;
        }
        Ok(posted)
    }

    fn write(&mut self, memory: &dyn HostMemory, completion: Completion) -> Result<(), DmaFault> {
        let Completion {
            dw0,
            dw1,
            sqhd,
            sqid,
            cid,
            status,
            interrupt,
        } = completion;
        let entry = CompletionEntry::new(dw0, dw1, sqhd, sqid, cid, status, self.phase);
        let (address, _) = self.place.at(u64::from(self.tail) * CQE_BYTES)?;
        // The host looks at the phase, so the dword that holds it goes last and with release.
        if let Some((first, _)) = entry.as_bytes().split_at_checked(12) {
            memory.write(address, first)?;
        }
        let last = u32::from(entry.status_phase) << 16 | u32::from(cid);
        memory.store_u32(address.wrapping_add(12), last)?;
        self.tail += 1;
        if self.tail == self.size {
            self.tail = 0;
            self.phase = !self.phase;
        }
        self.unannounced += u32::from(interrupt);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::VecMemory;

    const BASE: u64 = VecMemory::BASE;
    const AT: Place = Place::Contiguous(BASE);

    fn completion(cid: u16) -> Completion {
        Completion {
            dw0: 7,
            dw1: 0,
            sqhd: 3,
            sqid: 1,
            cid,
            status: Status::SUCCESS,
            interrupt: true,
        }
    }

    fn entry(memory: &VecMemory, index: u64) -> CompletionEntry {
        zerocopy::FromBytes::read_from_bytes(&memory.read_vec(BASE + index * 16, 16).unwrap()[..]).unwrap()
    }

    #[test]
    fn fetches_in_order_and_wraps() {
        let memory = VecMemory::new(4 * 64);
        for index in 0..4u8 {
            memory.write(BASE + u64::from(index) * 64, &[index; 64]).unwrap();
        }
        let mut queue = SubmissionQueue::new(1, 1, AT, 4);
        let mut into = [0; 4 * 64];
        assert_eq!(queue.ring(3), Rung::Moved);
        assert_eq!(queue.fetch(&memory, &mut into[..128]), Ok(2));
        assert_eq!((into[0], into[64], queue.head(), queue.pending()), (0, 1, 2, 1));
        assert_eq!(queue.ring(1), Rung::Moved);
        assert_eq!(
            queue.fetch(&memory, &mut into),
            Ok(2),
            "only up to the end of the ring"
        );
        assert_eq!((into[0], into[64]), (2, 3));
        assert_eq!(queue.fetch(&memory, &mut into), Ok(1));
        assert_eq!((into[0], queue.pending()), (0, 0));
    }

    #[test]
    fn a_ring_in_pages_is_one_ring() {
        let memory = VecMemory::new(4 * 128);
        let at = |page: u64, entry: u64, byte: u8| {
            memory.write(BASE + page * 128 + entry * 64, &[byte; 64]).unwrap();
        };
        at(3, 0, 1);
        at(3, 1, 2);
        at(0, 0, 3);
        let pages = Place::Pages {
            pages: vec![BASE + 3 * 128, BASE],
            page_shift: 7,
        };
        let mut queue = SubmissionQueue::new(1, 1, pages.clone(), 4);
        let mut into = [0; 4 * 64];
        queue.ring(3);
        assert_eq!(queue.fetch(&memory, &mut into), Ok(2), "a page at a time");
        assert_eq!((into[0], into[64]), (1, 2));
        assert_eq!(queue.fetch(&memory, &mut into), Ok(1));
        assert_eq!(into[0], 3);

        let mut queue = CompletionQueue::new(1, pages, 16, None);
        for cid in 0..9 {
            queue.post(&memory, completion(cid)).unwrap();
        }
        assert_eq!(entry(&memory, 3 * 8 + 7).cid, 7);
        assert_eq!(entry(&memory, 0).cid, 8);
    }

    #[test]
    fn refuses_doorbells_that_cannot_be() {
        let mut queue = SubmissionQueue::new(1, 1, AT, 4);
        assert_eq!(queue.ring(4), Rung::Invalid);
        assert_eq!(queue.ring(4), Rung::Same, "reported once");
        assert_eq!(queue.ring(2), Rung::Moved);
        assert_eq!(
            queue.ring(1),
            Rung::Invalid,
            "two are pending, three more do not fit"
        );
        assert_eq!(queue.pending(), 2);
        assert_eq!(queue.ring(2), Rung::Same);

        let memory = VecMemory::new(64);
        let mut queue = CompletionQueue::new(1, AT, 4, None);
        queue.post(&memory, completion(1)).unwrap();
        assert_eq!(queue.ring(2), Rung::Invalid, "only one was posted");
        assert_eq!(queue.ring(1), Rung::Moved);
        assert_eq!(queue.posted(), 0);
    }

    #[test]
    fn parks_when_full_and_keeps_the_order() {
        let memory = VecMemory::new(3 * 16);
        let mut queue = CompletionQueue::new(1, AT, 3, None);
        assert_eq!(queue.post(&memory, completion(10)), Ok(true));
        assert_eq!(queue.post(&memory, completion(11)), Ok(true));
        assert_eq!(queue.post(&memory, completion(12)), Ok(false));
        assert_eq!(queue.post(&memory, completion(13)), Ok(false));
        assert_eq!(queue.unpark(&memory), Ok(0));
        assert_eq!(queue.ring(1), Rung::Moved);
        assert_eq!(
            queue.post(&memory, completion(14)),
            Ok(false),
            "must not overtake"
        );
        assert_eq!(queue.unpark(&memory), Ok(1));
        assert_eq!((entry(&memory, 2).cid, entry(&memory, 2).phase()), (12, true));
        assert_eq!(queue.ring(0), Rung::Moved);
        assert_eq!(queue.unpark(&memory), Ok(2));
        assert_eq!((entry(&memory, 0).cid, entry(&memory, 0).phase()), (13, false));
        assert_eq!((entry(&memory, 1).cid, entry(&memory, 1).phase()), (14, false));
        assert!(queue.is_full() && !queue.has_parked());
    }

    proptest! {
        /// Whatever is written to the doorbell, the device never believes in more entries than the ring has.
        #[test]
        fn pending_stays_below_size(size in 2u32..70, rings in proptest::collection::vec((0u32..80, 0usize..5), 0..200)) {
            let memory = VecMemory::new(70 * 64);
            let mut queue = SubmissionQueue::new(1, 1, AT, size);
            let mut into = [0; 4 * 64];
            for (value, fetch) in rings {
                let before = queue.pending();
                match queue.ring(value) {
                    Rung::Moved => prop_assert!(queue.pending() > before),
                    Rung::Same | Rung::Invalid => prop_assert_eq!(queue.pending(), before),
                }
                prop_assert!(queue.pending() < size);
                let fetched = queue.fetch(&memory, &mut into[..fetch.min(4) * 64]).unwrap();
                prop_assert!(fetched <= fetch);
            }
        }
    }
}
