//! What all parts of the device share: its surroundings, its registers, whether it runs, and what the hot path has to know
//! of the features.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use nvme_spec::feature::{Arbitration, InterruptCoalescing};
use nvme_spec::{Cap, Status, Vs};

use crate::config::Config;
use crate::doze::Doze;
use crate::emulator::EmulatorError;
use crate::engine::Finished;
use crate::error_log::ErrorLog;
use crate::fault::Faults;
use crate::held::Command;
use crate::host::{DoorbellMemory, HostMemory, Interrupts};
use crate::namespaces::Namespaces;
use crate::registers::Registers;
use crate::shard::ShardSlot;
use crate::tally::QueueTally;

/// Specification that the controller conforms to.
pub(crate) const VERSION: Vs = Vs::new().with_major(2).with_minor(0);

/// CAP.CSS: the NVM command set, which may also be selected as the only one of "all supported".
const COMMAND_SETS: u8 = nvme_spec::register::CAP_CSS_NVM | nvme_spec::register::CAP_CSS_IO_COMMAND_SETS;

/// Not ready: disabled, starting, shut down, failed or gone. Memory is not touched.
const STOPPED: u8 = 0;
/// Ready.
const RUNNING: u8 = 1;

/// Unit of the interrupt coalescing feature's time (Base 2.0, section 5.27.1.6).
const COALESCING_UNIT_NS: u64 = 100_000;

pub(crate) struct Device {
    pub config: Config,
    pub memory: Arc<dyn HostMemory>,
    pub interrupts: Arc<dyn Interrupts>,
    pub registers: Registers,
    pub faults: Faults,
    /// The sleepers of the device's threads.
    pub threads: Arc<[Doze]>,
    pub namespaces: Namespaces,
    /// The I/O queues, one share for each thread.
    pub shards: Box<[ShardSlot]>,
    error_log: Mutex<ErrorLog>,
    queue_tallies: Box<[QueueTally]>,
    state: AtomicU8,
    /// CC.MPS as it was when the controller was enabled: pages of `1 << page_shift` bytes.
    page_shift: AtomicU8,
    /// Events for the controller to report.
    invalid_doorbell_value: AtomicBool,
    /// Whether the volatile write cache is enabled.
    write_cache: AtomicBool,
    /// Interrupt coalescing (feature 08h), and for each vector whether it is left out (feature 09h).
    coalescing: AtomicU32,
    coalescing_disabled: Box<[AtomicBool]>,
    /// Arbitration (feature 01h), and whether CC.AMS says that its weights hold.
    arbitration: AtomicU32,
    is_weighted: AtomicBool,
    temperature_kelvin: AtomicU16,
}

impl Device {
    pub fn new(
        config: Config,
        memory: Arc<dyn HostMemory>,
        interrupts: Arc<dyn Interrupts>,
        doorbells: Option<Arc<dyn DoorbellMemory>>,
    ) -> Result<Self, EmulatorError> {
        config.validate()?;
        let cap = Cap::new()
            .with_mqes_z(config.mqes_z())
            .with_ams(u8::from(config.wrr))
            .with_cqr(config.contiguous_queues)
            .with_to(config.timeout_500ms)
            .with_dstrd(config.dstrd)
            .with_nssrs(true)
            .with_css(COMMAND_SETS)
            .with_mpsmax(config.mpsmax)
            // Ready with media, as CSTS.RDY always was (CRTO).
            .with_crms(0b01);
        let threads: Arc<[Doze]> = (0..config.threads).map(|_| Doze::new()).collect();
        let count = config.threads;
        Ok(Self {
            registers: Registers::new(cap, VERSION, config.queues, Arc::clone(&threads), doorbells),
            faults: Faults::new(config.seed),
            threads,
            namespaces: Namespaces::open(&config)?,
            shards: (0..count)
                .map(|index| ShardSlot::new(&config, index, count))
                .collect(),
            error_log: Mutex::default(),
            queue_tallies: (0..=config.queues).map(|_| QueueTally::default()).collect(),
            state: AtomicU8::new(STOPPED),
            page_shift: AtomicU8::new(12),
            invalid_doorbell_value: AtomicBool::new(false),
            write_cache: AtomicBool::new(config.vwc),
            coalescing: AtomicU32::new(0),
            coalescing_disabled: (0..config.vectors).map(|_| AtomicBool::new(false)).collect(),
            arbitration: AtomicU32::new(0),
            is_weighted: AtomicBool::new(false),
            temperature_kelvin: AtomicU16::new(config.temperature_kelvin),
            config,
            memory,
            interrupts,
        })
    }

    /// True unless the controller is ready and well: then nobody fetches, posts or raises.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNNING
    }

    /// Lets the engines run, or stops them. Who stops them must then take every engine's lock once to know that they have.
    pub fn set_running(&self, running: bool) {
        self.state
            .store(if running { RUNNING } else { STOPPED }, Ordering::Release);
    }

    /// The controller cannot go on: CSTS.CFS, and nothing more happens until a reset.
    #[cold]
    pub fn fail(&self, why: &str) {
        log::warn!("the controller fails: {why}");
        self.set_running(false);
        self.registers.set_fatal();
    }

    /// The device leaves the bus.
    #[cold]
    pub fn vanish(&self) {
        log::warn!("the controller vanishes");
        self.set_running(false);
        self.registers.set_vanished(true);
    }

    /// Host pages are of this size, in bytes.
    #[inline]
    pub fn page_bytes(&self) -> u64 {
        1 << self.page_shift.load(Ordering::Relaxed)
    }

    /// The same, as a power of two.
    pub fn page_shift(&self) -> u8 {
        self.page_shift.load(Ordering::Relaxed)
    }

    /// Host pages are of `4096 << mps` bytes from now on.
    pub fn set_page_size(&self, mps: u8) {
        self.page_shift.store(12 + mps, Ordering::Relaxed);
    }

    /// Logs a command that failed; returns the status to complete it with.
    #[cold]
    pub fn log_error(&self, command: &Command, finished: Finished) -> Status {
        self.error_log().push(command, finished)
    }

    pub fn error_log(&self) -> MutexGuard<'_, ErrorLog> {
        self.error_log
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counters of queue pair `qid`.
    #[inline]
    pub fn queue_tally(&self, qid: u16) -> Option<&QueueTally> {
        self.queue_tallies.get(usize::from(qid))
    }

    /// Has the controller report a doorbell value that cannot be.
    pub fn note_invalid_doorbell_value(&self) {
        self.invalid_doorbell_value.store(true, Ordering::Release);
        self.wake_controller();
    }

    /// True if the controller is to report a doorbell value that cannot be; says so once.
    pub fn take_invalid_doorbell_value(&self) -> bool {
        self.invalid_doorbell_value.load(Ordering::Relaxed)
            && self.invalid_doorbell_value.swap(false, Ordering::AcqRel)
    }

    /// Wakes the thread that takes the controller's turns.
    pub fn wake_controller(&self) {
        if let Some(thread) = self.threads.first() {
            thread.wake();
        }
    }

    /// Wakes every thread.
    pub fn wake_all(&self) {
        for thread in self.threads.iter() {
            thread.wake();
        }
    }

    /// Whether a write may stay in the cache.
    #[inline]
    pub fn has_write_cache(&self) -> bool {
        self.write_cache.load(Ordering::Relaxed)
    }

    /// Enables or disables the volatile write cache. What it holds when it is disabled goes to the media (Base 2.0,
    /// section 5.27.1.4).
    pub fn set_write_cache(&self, enabled: bool) {
        let was_enabled = self.write_cache.swap(enabled, Ordering::Relaxed);
        if was_enabled && !enabled {
            self.empty_write_cache();
        }
    }

    /// Brings what was written to the media, when the commands that are being done have ended. Those that begin
    /// meanwhile are the caller's to prevent, or are not to be left in the cache any more.
    pub fn empty_write_cache(&self) {
        for slot in &self.shards {
            drop(slot.borrow());
        }
        for namespace in self.namespaces.allocated() {
            if let Err(status) = namespace.flush() {
                log::error!("namespace {} was not flushed: {status}", namespace.nsid());
            }
        }
    }

    /// How interrupts of completion queue `qid` on `vector` are coalesced: entries to wait for, and for how long at most,
    /// in nanoseconds. None if they are not: the admin queue's never are (Base 2.0, section 5.27.1.6).
    #[inline]
    pub fn coalescing(&self, qid: u16, vector: u16) -> Option<(u32, u64)> {
        let value = self.coalescing.load(Ordering::Relaxed);
        if value == 0 || qid == 0 {
            return None;
        }
        let feature = InterruptCoalescing::from(value);
        let disabled = self
            .coalescing_disabled
            .get(usize::from(vector))
            .is_none_or(|disabled| disabled.load(Ordering::Relaxed));
        if feature.time() == 0 || feature.thr_z() == 0 || disabled {
            return None;
        }
        Some((
            u32::from(feature.thr_z()) + 1,
            u64::from(feature.time()) * COALESCING_UNIT_NS,
        ))
    }

    pub fn set_coalescing(&self, feature: InterruptCoalescing) {
        self.coalescing.store(feature.into(), Ordering::Relaxed);
    }

    pub fn set_coalescing_disabled(&self, vector: u16, disabled: bool) {
        if let Some(flag) = self.coalescing_disabled.get(usize::from(vector)) {
            flag.store(disabled, Ordering::Relaxed);
        }
    }

    /// The weights by which queues have their turns; None if all have the same.
    #[inline]
    pub fn arbitration(&self) -> Option<Arbitration> {
        self.is_weighted
            .load(Ordering::Relaxed)
            .then(|| self.arbitration.load(Ordering::Relaxed).into())
    }

    pub fn set_arbitration(&self, feature: Arbitration) {
        self.arbitration.store(feature.into(), Ordering::Relaxed);
    }

    /// Whether the controller is enabled with weighted round robin.
    pub fn set_weighted(&self, is_weighted: bool) {
        self.is_weighted.store(is_weighted, Ordering::Relaxed);
    }

    /// Commands that keep all channels of one shard busy: one that works and one that waits for each.
    pub fn busy_commands(&self) -> usize {
        match self.config.channels {
            0 => usize::MAX,
            channels => 2 * channels.div_ceil(u32::from(self.config.threads.max(1))) as usize,
        }
    }

    /// Composite temperature, in kelvin.
    pub fn temperature_kelvin(&self) -> u16 {
        self.temperature_kelvin.load(Ordering::Relaxed)
    }

    pub fn set_temperature_kelvin(&self, kelvin: u16) {
        self.temperature_kelvin.store(kelvin, Ordering::Relaxed);
    }
}
