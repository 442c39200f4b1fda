//! The device as its users hold it.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::admin::Event;
use crate::config::{Config, ConfigError};
use crate::controller::Controller;
use crate::device::Device;
use crate::engine::Context;
use crate::fault::Faults;
use crate::host::{DoorbellMemory, HostMemory, Interrupts};
use crate::registers::Registers;
use crate::storage::StorageError;
use crate::tally::{DeviceCounters, QueueCounters, Tally, opcode_counters};
use crate::threads::Running;

/// Rounds of passes that one [`Emulator::step`] takes at most. A host that submits from another thread as fast as the device
/// works must not keep the caller for ever.
const STEP_ROUNDS: usize = 4096;

/// Why a device could not be made, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    /// The configuration is not one of a device.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The backing store of a namespace could not be opened or changed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no such namespace.
    #[error("the device has no namespace {nsid}: it was made with namespaces 1 to {count}")]
    NoNamespace {
        /// What was asked for.
        nsid: u32,
        /// How many there are.
        count: u32,
    },
}

/// What a [`step`](Emulator::step) came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// The device has done something.
    pub worked: bool,
    /// When it will have something to do even if the host does nothing; None: never.
    pub due_ns: Option<u64>,
}

/// An NVMe controller in software, with its namespaces.
///
/// All methods take `&self`, from any thread. The host side is [`registers`](Self::registers) and the memory and interrupts
/// given to [`new`](Self::new). To make it do something, either call [`step`](Self::step) or let threads [`run`](Self::run).
pub struct Emulator {
    device: Device,
    controller: Mutex<Controller>,
    admin_tally: Tally,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator")
            .field("config", &self.device.config)
            .finish_non_exhaustive()
    }
}

impl Emulator {
    /// A device as `config` says, powered on and not yet enabled, that reaches `memory` by DMA and raises `interrupts`.
    pub fn new(
        config: Config,
        memory: Arc<dyn HostMemory>,
        interrupts: Arc<dyn Interrupts>,
    ) -> Result<Arc<Self>, EmulatorError> {
        Self::build(config, memory, interrupts, None)
    }

    /// As [`new`](Self::new), with doorbells to which the host may store at any time without a call of
    /// [`Registers::ring`]. While it is enabled, the device then never sleeps longer than a millisecond, and finds what
    /// was rung by looking. Writes to doorbells are neither counted nor checked for queues that do not exist.
    pub fn with_doorbells(
        config: Config,
        memory: Arc<dyn HostMemory>,
        interrupts: Arc<dyn Interrupts>,
        doorbells: Arc<dyn DoorbellMemory>,
    ) -> Result<Arc<Self>, EmulatorError> {
        Self::build(config, memory, interrupts, Some(doorbells))
    }

    fn build(
        config: Config,
        memory: Arc<dyn HostMemory>,
        interrupts: Arc<dyn Interrupts>,
        doorbells: Option<Arc<dyn DoorbellMemory>>,
    ) -> Result<Arc<Self>, EmulatorError> {
        Ok(Arc::new(Self {
            device: Device::new(config, memory, interrupts, doorbells)?,
            controller: Mutex::new(Controller::new()),
            admin_tally: Tally::new(),
        }))
    }

    /// What the device was made from.
    pub fn config(&self) -> &Config {
        &self.device.config
    }

    /// BAR0.
    pub fn registers(&self) -> &Registers {
        &self.device.registers
    }

    /// What is to go wrong. May be changed at any time.
    pub fn faults(&self) -> &Faults {
        &self.device.faults
    }

    /// What the device was asked and did.
    pub fn counters(&self) -> DeviceCounters {
        let io = || self.device.shards.iter().map(|slot| &slot.tally);
        let all = || io().chain([&self.admin_tally]);
        let queue = |qid: u16| {
            let tally = self.device.queue_tally(qid)?;
            let (sq_doorbells, cq_doorbells) = self.device.registers.doorbell_writes(qid.into());
            let completed = tally.completed.get();
            let counters = QueueCounters {
                qid,
                fetched: tally.fetched.get(),
                completed,
                depth_max: tally.depth_max.get(),
                sq_doorbells,
                cq_doorbells,
            };
            (counters
                != QueueCounters {
                    qid,
                    ..Default::default()
                })
            .then_some(counters)
        };
        DeviceCounters {
            admin: opcode_counters([&self.admin_tally].into_iter()),
            io: opcode_counters(io()),
            queues: (0..=self.device.config.queues).filter_map(queue).collect(),
            interrupts: all().map(|tally| tally.interrupts.get()).sum(),
            dma_faults: all().map(|tally| tally.dma_faults.get()).sum(),
            invalid_doorbell_values: all().map(|tally| tally.invalid_doorbell_values.get()).sum(),
            invalid_doorbell_writes: self.device.registers.invalid_doorbell_writes(),
            parked: all().map(|tally| tally.parked.get()).sum(),
            resets: self.controller().resets(),
            passes: all().map(|tally| tally.passes.get()).sum(),
        }
    }

    /// Does everything that can be done at the time `now_ns`, and returns. The time must not go back from call to call.
    ///
    /// Nothing here blocks or sleeps. Memory is not touched after it returns, so the host may look at leisure.
    pub fn step(&self, now_ns: u64) -> Step {
        let mut step = Step::default();
        for _ in 0..STEP_ROUNDS {
            let mut worked = self.turn_controller(now_ns);
            for slot in &self.device.shards {
                worked |= slot.pass(&self.device, now_ns, &|| now_ns);
            }
            step.worked |= worked;
            if !worked && !self.arm(now_ns) {
                let due = (0..self.device.shards.len()).filter_map(|thread| self.due_ns(thread));
                step.due_ns = due.min();
                return step;
            }
        }
        step.due_ns = Some(now_ns);
        step
    }

    /// Runs the device on `config.threads` threads of its own until the value returned is dropped. `clock` gives the time
    /// in nanoseconds; it never goes back. Only one run at a time makes sense.
    pub fn run(self: &Arc<Self>, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Running {
        Running::start(self, clock)
    }

    /// Power is lost and comes back at `now_ns`: queues and commands are gone, the namespaces' data is not (but for what a
    /// volatile write cache held of a file). Also brings back a device that has vanished.
    pub fn power_cycle(&self, now_ns: u64) {
        self.controller().power_cycle(&self.device, now_ns);
    }

    /// Resets the function at `now_ns`, as its bus does it (PCI Express Base, section 6.6.2, Function Level Reset): queues,
    /// commands and registers are gone, data and whatever outlives a Controller Level Reset is not. When this returns, no
    /// memory of the host is touched.
    pub fn reset_function(&self, now_ns: u64) {
        self.controller().reset_function(&self.device, now_ns);
    }

    /// The device leaves the bus at once: all registers read as ones, memory is not touched any more.
    pub fn vanish(&self) {
        self.device.vanish();
        for slot in &self.device.shards {
            drop(slot.borrow());
        }
        drop(self.controller());
    }

    /// Sets CSTS.CFS and stops, as on an internal error.
    pub fn fail(&self) {
        self.device.fail("it was told to");
    }

    /// Sets the composite temperature, in kelvin; reports it to the host if it passes a threshold that the host has asked to
    /// hear of.
    pub fn set_temperature(&self, kelvin: u16, now_ns: u64) {
        self.device.set_temperature_kelvin(kelvin);
        let mut controller = self.controller();
        let cx = Context {
            device: &self.device,
            tally: &self.admin_tally,
            now_ns,
        };
        controller.admin.check_temperature(cx);
        drop(controller);
        self.device.wake_controller();
    }

    /// Grows or shrinks a namespace to `blocks`, and tells the host by an asynchronous event.
    pub fn resize_namespace(&self, nsid: u32, blocks: u64) -> Result<(), EmulatorError> {
        let count = self.device.namespaces.count();
        let namespace = self.device.namespaces.get_allocated(nsid);
        namespace
            .ok_or(EmulatorError::NoNamespace { nsid, count })?
            .resize(blocks)?;
        self.note_namespace_change(nsid);
        Ok(())
    }

    /// Detaches a namespace from the controller (`active` = false) or attaches it again, and tells the host by an
    /// asynchronous event. Its data stays.
    pub fn set_namespace_active(&self, nsid: u32, active: bool) -> Result<(), EmulatorError> {
        if !self.device.namespaces.set_active(nsid, active) {
            let count = self.device.namespaces.count();
            return Err(EmulatorError::NoNamespace { nsid, count });
        }
        self.note_namespace_change(nsid);
        Ok(())
    }

    fn note_namespace_change(&self, nsid: u32) {
        self.device.namespaces.note_change(nsid);
        self.controller().events.push(Event::NAMESPACE_ATTRIBUTE);
        self.device.wake_controller();
    }

    fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// For the threads: thread 0 turns the controller, each thread its shard.
impl Emulator {
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// What thread `thread` is there for. True if it has done something.
    #[inline]
    pub(crate) fn turn(&self, thread: usize, clock: &dyn Fn() -> u64) -> bool {
        let now_ns = clock();
        let worked = thread == 0 && self.turn_controller(now_ns);
        let slot = self.device.shards.get(thread);
        worked | slot.is_some_and(|slot| slot.pass(&self.device, now_ns, clock))
    }

    /// When thread `thread` has something to do without being woken.
    pub(crate) fn due_ns(&self, thread: usize) -> Option<u64> {
        let controller_ns = (thread == 0)
            .then(|| self.controller().due_ns(&self.device))
            .flatten();
        let slot = self
            .device
            .shards
            .get(thread)
            .filter(|_| !self.device.is_stopped());
        let shard_ns = slot.and_then(|slot| slot.borrow().engine.due_ns(&self.device));
        [controller_ns, shard_ns].into_iter().flatten().min()
    }

    /// Asks the host to ring doorbells of thread `thread` that are in memory. True if there is something to do after all.
    pub(crate) fn arm_shard(&self, thread: usize, now_ns: u64) -> bool {
        let slot = self
            .device
            .shards
            .get(thread)
            .filter(|_| !self.device.is_stopped());
        slot.is_some_and(|slot| {
            let cx = Context {
                device: &self.device,
                tally: &slot.tally,
                now_ns,
            };
            slot.borrow().engine.arm(cx)
        })
    }

    fn arm(&self, now_ns: u64) -> bool {
        (0..self.device.shards.len()).fold(false, |armed, thread| armed | self.arm_shard(thread, now_ns))
    }

    #[inline]
    fn turn_controller(&self, now_ns: u64) -> bool {
        self.controller().turn(&self.device, &self.admin_tally, now_ns)
    }
}
