//! BAR0: the registers as the host reads and writes them, and the doorbells.
//!
//! The host's accesses and the device's turn meet here and nowhere else. What the host may write is kept under one lock (it is written a few times
//! per bring-up); what it polls, CSTS, and what it writes all day, the doorbells, are atomics. A write only records what was written and which edge
//! it was; the device acts on it in its next turn ([`Registers::take_writes`]), because a reset has to wait until nothing of the old life still
//! touches the host's memory. What the specification lets a host read back at once is applied at once.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nvme_spec::register::{self, Crto, NSSR_RESET};
use nvme_spec::{Aqa, Cap, Cc, Csts, Vs};

use crate::Doze;
use crate::host::DoorbellMemory;

/// CC.EN fell: everything is to be reset (Base 2.0, section 3.7.2).
const RESET: u32 = 1 << 0;
/// CC was written.
const CONFIGURED: u32 = 1 << 1;
/// NSSR was written with the magic number.
const SUBSYSTEM_RESET: u32 = 1 << 2;
/// Interrupts were unmasked.
const UNMASKED: u32 = 1 << 3;
/// A doorbell of a queue that does not exist was rung.
const INVALID_DOORBELL: u32 = 1 << 4;

/// Owner of a doorbell whose queue does not exist.
const NO_OWNER: u32 = u32::MAX;

/// What the host has written since the device looked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writes {
    pub reset: bool,
    pub subsystem_reset: bool,
    pub configured: bool,
    pub unmasked: bool,
    pub invalid_doorbell: bool,
}

/// The registers that the host configures the controller with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Configuration {
    pub cc: Cc,
    pub aqa: Aqa,
    pub asq: u64,
    pub acq: u64,
}

/// Both doorbells of one queue identifier, on a cache line of their own: queues of different threads share none.
#[derive(Debug)]
#[repr(align(64))]
struct Doorbells {
    sq: Doorbell,
    cq: Doorbell,
}

#[derive(Debug)]
struct Doorbell {
    value: AtomicU32,
    /// The device thread to wake, [`NO_OWNER`] if there is no such queue.
    owner: AtomicU32,
    writes: AtomicU64,
}

impl Doorbell {
    const fn new() -> Self {
        Self {
            value: AtomicU32::new(0),
            owner: AtomicU32::new(NO_OWNER),
            writes: AtomicU64::new(0),
        }
    }
}

/// The controller's registers in BAR0, shared between host and device.
///
/// Every access is allowed at every time and from every thread. Offsets that are no register, or not a multiple of 4, read as zero and ignore writes.
/// A device that has vanished from the bus reads as all ones everywhere.
pub struct Registers {
    cap: Cap,
    vs: Vs,
    /// `4 << dstrd` bytes from one doorbell to the next.
    stride_shift: u32,
    configuration: Mutex<Configuration>,
    csts: AtomicU32,
    interrupt_mask: AtomicU32,
    /// Bits [`RESET`] and so on.
    writes: AtomicU32,
    vanished: AtomicBool,
    doorbells: Box<[Doorbells]>,
    /// Where doorbells have their values instead, if the host stores them to memory.
    shared: Option<Arc<dyn DoorbellMemory>>,
    invalid_doorbell_writes: AtomicU64,
    threads: Arc<[Doze]>,
}

impl std::fmt::Debug for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registers")
            .field("cap", &self.cap)
            .field("csts", &self.csts())
            .finish_non_exhaustive()
    }
}

impl Registers {
    /// Registers of a controller with `queues` I/O queues whose turns are taken by the sleepers `threads`.
    /// Their doorbells are in `shared`, if there is that.
    pub(crate) fn new(
        cap: Cap,
        vs: Vs,
        queues: u16,
        threads: Arc<[Doze]>,
        shared: Option<Arc<dyn DoorbellMemory>>,
    ) -> Self {
        let pair = || Doorbells {
            sq: Doorbell::new(),
            cq: Doorbell::new(),
        };
        Self {
            cap,
            vs,
            stride_shift: 2 + u32::from(cap.dstrd()),
            configuration: Mutex::new(Configuration::default()),
            csts: AtomicU32::new(0),
            interrupt_mask: AtomicU32::new(0),
            writes: AtomicU32::new(0),
            vanished: AtomicBool::new(false),
            doorbells: (0..=queues).map(|_| pair()).collect(),
            shared,
            invalid_doorbell_writes: AtomicU64::new(0),
            threads,
        }
    }

    /// Size of BAR0, in bytes: the doorbells' end, rounded up to whole 4 KiB pages.
    pub fn len_bytes(&self) -> usize {
        let doorbells_bytes = (self.doorbells.len() * 2) << self.stride_shift;
        (register::DOORBELLS + doorbells_bytes).next_multiple_of(4096)
    }

    /// Reads the 32-bit register at `offset`.
    pub fn read32(&self, offset: usize) -> u32 {
        if self.is_vanished() {
            return u32::MAX;
        }
        let cap: u64 = self.cap.into();
        match offset {
            register::CAP => cap as u32,
            CAP_HIGH => (cap >> 32) as u32,
            register::VS => self.vs.into(),
            register::INTMS | register::INTMC => self.interrupt_mask.load(Ordering::Acquire),
            register::CC => self.configuration().cc.into(),
            register::CSTS => self.csts.load(Ordering::Acquire),
            register::AQA => self.configuration().aqa.into(),
            register::ASQ => self.configuration().asq as u32,
            ASQ_HIGH => (self.configuration().asq >> 32) as u32,
            register::ACQ => self.configuration().acq as u32,
            ACQ_HIGH => (self.configuration().acq >> 32) as u32,
            // There is one ready mode, and its timeout is CAP.TO (section 3.1.3.22).
            register::CRTO => Crto::new().with_crwmt(self.cap.to().into()).into(),
            // NSSR reads as zero (section 3.1.3.7), so do doorbells and what is not implemented.
            _ => 0,
        }
    }

    /// Reads the 64-bit register at `offset`; any two neighbouring 32-bit registers can be read so.
    pub fn read64(&self, offset: usize) -> u64 {
        let high = offset.checked_add(4).map_or(0, |next| self.read32(next));
        u64::from(high) << 32 | u64::from(self.read32(offset))
    }

    /// Writes the 32-bit register at `offset`. Doorbells may be written this way or, faster, by [`ring`](Self::ring).
    pub fn write32(&self, offset: usize, value: u32) {
        if self.is_vanished() {
            return;
        }
        if let Some(doorbell_bytes) = offset.checked_sub(register::DOORBELLS) {
            if doorbell_bytes.is_multiple_of(1 << self.stride_shift) {
                self.ring(doorbell_bytes >> self.stride_shift, value);
            }
            return;
        }
        log::trace!("register {offset:#x} is written {value:#x}");
        match offset {
            register::INTMS => {
                self.interrupt_mask.fetch_or(value, Ordering::AcqRel);
            }
            register::INTMC => {
                self.interrupt_mask.fetch_and(!value, Ordering::AcqRel);
                self.note(UNMASKED);
            }
            register::CC => self.write_cc(Cc::from(value)),
            register::CSTS => {
                // NSSRO is cleared by writing 1 (section 3.1.3.6); all else is read only.
                let clear: u32 = Csts::new().with_nssro(true).into();
                self.csts.fetch_and(!(value & clear), Ordering::AcqRel);
            }
            register::NSSR if value == NSSR_RESET && self.cap.nssrs() => {
                let mut configuration = self.configuration();
                *configuration = Configuration::default();
                self.note(SUBSYSTEM_RESET | RESET);
            }
            register::AQA => {
                let (sizes, mut configuration) = (Aqa::from(value), self.configuration());
                // Reserved bits do not stick.
                configuration.aqa = Aqa::new().with_asqs_z(sizes.asqs_z()).with_acqs_z(sizes.acqs_z());
            }
            register::ASQ => replace_low(&mut self.configuration().asq, value),
            ASQ_HIGH => replace_high(&mut self.configuration().asq, value),
            register::ACQ => replace_low(&mut self.configuration().acq, value),
            ACQ_HIGH => replace_high(&mut self.configuration().acq, value),
            _ => {}
        }
    }

    /// Writes the 64-bit register at `offset`, low half first.
    pub fn write64(&self, offset: usize, value: u64) {
        self.write32(offset, value as u32);
        if let Some(high) = offset.checked_add(4) {
            self.write32(high, (value >> 32) as u32);
        }
    }

    /// Rings doorbell `index`: `2 * qid` is submission queue `qid`'s tail, `2 * qid + 1` completion queue `qid`'s head.
    ///
    /// What was written to memory before is visible to the device when it sees the value. Wakes the device's thread only if it sleeps. A doorbell has
    /// one writer at a time, as the specification has it: the value is safe from any number of threads, the count of writes is not.
    #[inline]
    pub fn ring(&self, index: usize, value: u32) {
        let Some(doorbell) = self.doorbell(index) else {
            return self.ring_invalid();
        };
        let owner = doorbell.owner.load(Ordering::Relaxed);
        let Some(thread) = self.threads.get(owner as usize) else {
            return self.ring_invalid();
        };
        doorbell.writes.store(
            doorbell.writes.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        match &self.shared {
            None => doorbell.value.store(value, Ordering::Release),
            Some(shared) => self.store_shared(&**shared, index, value),
        }
        thread.wake();
    }

    #[cold]
    fn ring_invalid(&self) {
        // Doorbells of a controller that is not ready mean nothing (section 3.1.3.5, CSTS.RDY).
        if !self.is_vanished() && self.csts().rdy() {
            self.invalid_doorbell_writes.fetch_add(1, Ordering::Relaxed);
            self.note(INVALID_DOORBELL);
        }
    }

    fn write_cc(&self, cc: Cc) {
        let mut configuration = self.configuration();
        let old = std::mem::replace(&mut configuration.cc, cc);
        if old.en() && !cc.en() {
            // A controller that is not ready has nothing to drain, so a host that waits for RDY = 0 need not wait at all: what it reads next must
            // not be left over from before the reset.
            if !self.csts().rdy() {
                self.csts
                    .fetch_and(Csts::new().with_nssro(true).into(), Ordering::AcqRel);
            }
            self.note(RESET);
        }
        self.note(CONFIGURED);
    }

    fn note(&self, write: u32) {
        self.writes.fetch_or(write, Ordering::AcqRel);
        if let Some(thread) = self.threads.first() {
            thread.wake();
        }
    }

    fn doorbell(&self, index: usize) -> Option<&Doorbell> {
        let pair = self.doorbells.get(index / 2)?;
        Some(if index.is_multiple_of(2) {
            &pair.sq
        } else {
            &pair.cq
        })
    }

    fn configuration(&self) -> MutexGuard<'_, Configuration> {
        self.configuration
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The device's side.
impl Registers {
    /// CAP, which never changes.
    pub(crate) fn cap(&self) -> Cap {
        self.cap
    }

    /// True if the host has written something that [`take_writes`](Self::take_writes) would report.
    pub(crate) fn is_written(&self) -> bool {
        self.writes.load(Ordering::Acquire) != 0
    }

    /// What the host has written since the last call, and the registers as they are now.
    pub(crate) fn take_writes(&self) -> (Writes, Configuration) {
        let configuration = self.configuration();
        let bits = self.writes.swap(0, Ordering::AcqRel);
        let writes = Writes {
            reset: bits & RESET != 0,
            subsystem_reset: bits & SUBSYSTEM_RESET != 0,
            configured: bits & CONFIGURED != 0,
            unmasked: bits & UNMASKED != 0,
            invalid_doorbell: bits & INVALID_DOORBELL != 0,
        };
        (writes, *configuration)
    }

    /// CSTS as the host sees it.
    pub(crate) fn csts(&self) -> Csts {
        Csts::from(self.csts.load(Ordering::Acquire))
    }

    /// Ends the enabling that the device has been at: sets RDY, or CFS if it failed. Does nothing and says false if the host has disabled the
    /// controller meanwhile.
    pub(crate) fn finish_enable(&self, ok: bool) -> bool {
        let configuration = self.configuration();
        if !configuration.cc.en() || self.writes.load(Ordering::Acquire) & RESET != 0 {
            return false;
        }
        let set: u32 = Csts::new().with_rdy(ok).with_cfs(!ok).into();
        self.csts.fetch_or(set, Ordering::AcqRel);
        true
    }

    /// Ends a reset: no more ready, fatal or shut down. Interrupt masks are cleared, doorbells belong to nobody.
    pub(crate) fn finish_reset(&self, subsystem: bool) {
        let _configuration = self.configuration();
        for pair in &self.doorbells {
            release(&pair.sq);
            release(&pair.cq);
        }
        self.interrupt_mask.store(0, Ordering::Release);
        let keep: u32 = Csts::new().with_nssro(true).into();
        let set = if subsystem { keep } else { 0 };
        self.csts
            .store(self.csts.load(Ordering::Acquire) & keep | set, Ordering::Release);
    }

    /// Sets CSTS.SHST.
    pub(crate) fn set_shutdown_status(&self, shst: u8) {
        let _configuration = self.configuration();
        self.csts
            .store(self.csts().with_shst(shst).into(), Ordering::Release);
    }

    /// Sets CSTS.CFS: the controller can no longer say what is wrong in a completion.
    pub(crate) fn set_fatal(&self) {
        self.csts
            .fetch_or(Csts::new().with_cfs(true).into(), Ordering::AcqRel);
    }

    /// The registers that the host configures the controller with are as after power on, and nothing is left to be done
    /// of what it wrote.
    pub(crate) fn forget_configuration(&self) {
        let mut configuration = self.configuration();
        *configuration = Configuration::default();
        self.writes.store(0, Ordering::Release);
    }

    /// Takes the device off the bus, or puts it back as after power on.
    pub(crate) fn set_vanished(&self, vanished: bool) {
        let mut configuration = self.configuration();
        if !vanished {
            *configuration = Configuration::default();
        }
        self.vanished.store(vanished, Ordering::Release);
    }

    /// True from when the device has vanished.
    #[inline]
    pub(crate) fn is_vanished(&self) -> bool {
        self.vanished.load(Ordering::Acquire)
    }

    /// True if messages of `vector` are held back. Only the first 32 have a mask bit (section 3.1.3.3).
    pub(crate) fn is_masked(&self, vector: u16) -> bool {
        vector < 32 && self.interrupt_mask.load(Ordering::Acquire) >> vector & 1 != 0
    }

    /// Whether the host may ring without the device being told.
    pub(crate) fn has_shared_doorbells(&self) -> bool {
        self.shared.is_some()
    }

    /// The word of doorbell `index` in `shared`.
    fn shared_word<'a>(&self, shared: &'a dyn DoorbellMemory, index: usize) -> Option<&'a AtomicU32> {
        shared.words().get(index << (self.stride_shift - 2))
    }

    fn store_shared(&self, shared: &dyn DoorbellMemory, index: usize, value: u32) {
        if let Some(word) = self.shared_word(shared, index) {
            word.store(value, Ordering::Release);
        }
    }

    /// Gives a doorbell to a new queue of device thread `thread`, at zero.
    pub(crate) fn claim(&self, index: usize, thread: usize) {
        if let Some(doorbell) = self.doorbell(index) {
            doorbell.value.store(0, Ordering::Release);
            if let Some(shared) = &self.shared {
                // A host rings a queue's doorbells when it knows that the queue is there, which is after this.
                self.store_shared(&**shared, index, 0);
            }
            doorbell.owner.store(thread as u32, Ordering::Release);
        }
    }

    /// Takes a doorbell from a queue that is deleted.
    pub(crate) fn release(&self, index: usize) {
        if let Some(doorbell) = self.doorbell(index) {
            release(doorbell);
        }
    }

    /// The value last written to doorbell `index`.
    #[inline]
    pub(crate) fn doorbell_value(&self, index: usize) -> u32 {
        match &self.shared {
            None => self
                .doorbell(index)
                .map_or(0, |doorbell| doorbell.value.load(Ordering::Acquire)),
            Some(shared) => self
                .shared_word(&**shared, index)
                .map_or(0, |word| word.load(Ordering::Acquire)),
        }
    }

    /// Writes so far to the doorbells of submission queue and completion queue `qid`.
    pub(crate) fn doorbell_writes(&self, qid: usize) -> (u64, u64) {
        self.doorbells.get(qid).map_or((0, 0), |pair| {
            (
                pair.sq.writes.load(Ordering::Relaxed),
                pair.cq.writes.load(Ordering::Relaxed),
            )
        })
    }

    /// Writes so far to doorbells of queues that did not exist.
    pub(crate) fn invalid_doorbell_writes(&self) -> u64 {
        self.invalid_doorbell_writes.load(Ordering::Relaxed)
    }
}

const CAP_HIGH: usize = register::CAP + 4;
const ASQ_HIGH: usize = register::ASQ + 4;
const ACQ_HIGH: usize = register::ACQ + 4;

/// Base addresses are page aligned: bits 11:0 are reserved (sections 3.1.3.9 and 3.1.3.10) and read back as zero.
fn replace_low(register: &mut u64, low: u32) {
    *register = *register & !0xffff_ffff | u64::from(low & !0xfff);
}

fn replace_high(register: &mut u64, high: u32) {
    *register = *register & 0xffff_ffff | u64::from(high) << 32;
}

fn release(doorbell: &Doorbell) {
    doorbell.owner.store(NO_OWNER, Ordering::Release);
    doorbell.value.store(0, Ordering::Release);
}

#[cfg(test)]
mod tests;
