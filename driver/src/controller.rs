//! A controller that has been brought up, and how it is put down again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use nvme_spec::command;
use nvme_spec::identify::IdentifyController;
use nvme_spec::register;

use crate::admin::{AdminAnswer, AdminData, AdminFinished, AdminQueue};
use crate::admin_worker::notices::Asked;
use crate::backend::{Backend, Waiter};
use crate::bringup::{Bringup, Progress, QueueParts};
use crate::clock::Clock;
use crate::config::Config;
use crate::dma::arena::Arena;
use crate::dma::{DmaBuffer, Region};
use crate::error::{Error, IoError};
use crate::io_queue::IoQueue;
use crate::namespace::Namespace;
use crate::recorder::Recorder;
use crate::registers::Registers;

/// Between two looks at a register that is to change.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);
/// What shutdown may take if the controller does not say (RTD3E 0).
const DEFAULT_SHUTDOWN_MS: u64 = 5_000;
/// The most that is granted to a controller that asks for more.
const MAX_SHUTDOWN_MS: u64 = 60_000;

/// To whom an admin command's answer belongs.
pub(crate) enum AdminContext {
    /// The driver's own command.
    Own,
    /// The driver's own, to learn what the controller reports.
    Notices(Asked),
    /// A client's; `smart` if it reads the controller's SMART log from its start.
    Client {
        sink: Arc<dyn AdminAnswer>,
        tag: u64,
        smart: bool,
    },
}

impl AdminContext {
    pub(crate) fn is_smart(&self) -> bool {
        match self {
            Self::Own => false,
            Self::Notices(asked) => *asked == Asked::Log(nvme_spec::log::LogId::SMART),
            Self::Client { smart, .. } => *smart,
        }
    }

    /// Tells the client, if it was one's.
    pub(crate) fn answer(self, result: Result<AdminFinished, IoError>) {
        if let Self::Client { sink, tag, .. } = self {
            sink.answer_admin(tag, result);
        }
    }
}

/// Who the controller says it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The backend's name: `emulated`, ...
    pub backend: &'static str,
    /// Whether the controller is software in this process: no data of anybody's is at stake.
    pub emulated: bool,
    /// PCI address, where there is one.
    pub pci: Option<String>,
    /// How interrupts come: `msix`, ...
    pub irq_mode: &'static str,
    /// The NUMA node that the controller is near to; `None` is one node, or nobody knows.
    pub numa_node: Option<u32>,
    /// PCI vendor id (VID).
    pub vendor_id: u16,
    /// Serial number (SN), printable.
    pub serial: String,
    /// Model number (MN), printable.
    pub model: String,
    /// Firmware revision (FR), printable.
    pub firmware: String,
    /// The most bytes that one command moves: MDTS, or the driver's own limit of 1 MiB.
    pub max_transfer_bytes: usize,
    /// MDTS in bytes; `None` if the controller sets no limit.
    pub mdts_bytes: Option<u64>,
    /// Number of namespaces (NN).
    pub nn: u32,
    /// The 4096 bytes of Identify Controller.
    pub identify_controller: Box<[u8; 4096]>,
    /// Whether its namespaces may have other I/O command sets than NVM (CAP.CSS).
    pub(crate) has_command_sets: bool,
    /// RTD3 Entry Latency, in microseconds.
    pub(crate) rtd3e_us: u32,
}

impl Identity {
    pub(crate) fn new(backend: &dyn Backend) -> Self {
        Self {
            backend: backend.name(),
            emulated: backend.name() == "emulated",
            pci: backend.pci(),
            irq_mode: backend.irq_mode(),
            numa_node: backend.numa_node(),
            vendor_id: 0,
            serial: String::new(),
            model: String::new(),
            firmware: String::new(),
            max_transfer_bytes: 0,
            mdts_bytes: None,
            nn: 0,
            identify_controller: Box::new([0; 4096]),
            has_command_sets: false,
            rtd3e_us: 0,
        }
    }

    pub(crate) fn learn(
        &mut self,
        identify: &IdentifyController,
        bytes: &[u8],
        max_transfer_bytes: usize,
        min_page_bytes: u64,
    ) {
        self.vendor_id = identify.vid.get();
        self.serial = identify.serial().to_string();
        self.model = identify.model().to_string();
        self.firmware = identify.firmware().to_string();
        self.max_transfer_bytes = max_transfer_bytes;
        self.mdts_bytes = match identify.mdts {
            0 => None,
            power => 1u64
                .checked_shl(u32::from(power))
                .and_then(|pages| pages.checked_mul(min_page_bytes)),
        };
        self.nn = identify.nn.get();
        self.rtd3e_us = identify.rtd3e.get();
        for (to, from) in self.identify_controller.iter_mut().zip(bytes) {
            *to = *from;
        }
    }
}

/// A controller that is being brought up, step by step: what [`Controller::open`] turns and waits for.
///
/// Dropped before its end, it disables the controller, so that the device leaves the memory alone.
pub struct Opening {
    /// `None` only between [`Opening::finish`] and the drop.
    parts: Option<(Bringup, Box<dyn Waiter>)>,
    config: Config,
    clock: Clock,
}

impl Opening {
    /// Nothing is touched before the first turn.
    ///
    /// # Errors
    /// The backend has no interrupt for the admin queue.
    pub fn new(backend: Arc<dyn Backend>, config: &Config, clock: Clock) -> Result<Self, Error> {
        let waiter = backend.waiter(0)?;
        let bringup = Bringup::new(backend, config, crate::cpu::count(), clock.now_ns());
        Ok(Self {
            parts: Some((bringup, waiter)),
            config: config.clone(),
            clock,
        })
    }

    /// Does what can be done now; says whether the controller is up.
    ///
    /// # Errors
    /// As [`Controller::open`].
    pub fn turn(&mut self) -> Result<bool, Error> {
        let (bringup, _) = self.parts.as_mut().ok_or(Error::Absent)?;
        Ok(bringup.turn(self.clock.now_ns())? == Progress::Ready)
    }

    /// The controller, once [`Opening::turn`] has said that it is up.
    ///
    /// # Errors
    /// It is not up; it is disabled now.
    pub fn finish(mut self) -> Result<Controller, Error> {
        let up = self.turn()?;
        let (bringup, waiter) = self.parts.take().ok_or(Error::Absent)?;
        let timeout_ms = bringup.timeout_ms();
        let controller = Controller::from_bringup(bringup, &self.config, self.clock.clone(), waiter);
        // What is not up is disabled by its drop.
        if up {
            Ok(controller)
        } else {
            Err(Error::NotReady {
                wanted: "ready",
                timeout_ms,
                csts: 0,
            })
        }
    }

    fn wait(&mut self) {
        if let Some((bringup, waiter)) = &mut self.parts {
            let admin = bringup.admin.as_ref();
            waiter.wait(Some(LOOK_INTERVAL), &mut || {
                admin.is_some_and(AdminQueue::has_completion)
            });
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((bringup, waiter)) = self.parts.take()
            && bringup.admin.is_some()
        {
            drop(Controller::from_bringup(
                bringup,
                &self.config,
                self.clock.clone(),
                waiter,
            ));
        }
    }
}

/// A controller with its queues, ready for work.
///
/// Dropped without [`Controller::shutdown`], it is disabled, so that the device leaves the memory alone; what its
/// write cache holds is then its own affair.
pub struct Controller {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) registers: Registers,
    pub(crate) arena: Arena,
    pub(crate) admin: Option<AdminQueue<AdminContext>>,
    pub(crate) waiter: Option<Box<dyn Waiter>>,
    pub(crate) queues: VecDeque<QueueParts>,
    /// All memory that the device has been told of. It goes when the device has been disabled, and never if it would
    /// not be.
    told: Vec<Region>,
    /// The SMART log at the end of the bring-up, and when that was.
    pub(crate) smart: Option<(u64, Vec<u8>)>,
    /// When the bring-up began: statistics count from then on.
    pub(crate) opened_ns: u64,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    identity: Arc<Identity>,
    namespaces: Arc<[Namespace]>,
    timeout_ms: u64,
    qids: Vec<u16>,
    down: bool,
}

impl Controller {
    /// Brings the controller behind `backend` up, whatever state it is in. Each step takes at most CAP.TO (at least 1 s).
    ///
    /// # Errors
    /// What the controller did or is that keeps it from working. It is then disabled, as far as it lets itself be.
    pub fn open(backend: Arc<dyn Backend>, config: &Config, clock: Clock) -> Result<Self, Error> {
        let mut opening = Opening::new(backend, config, clock)?;
        while !opening.turn()? {
            opening.wait();
        }
        opening.finish()
    }

    fn from_bringup(bringup: Bringup, config: &Config, clock: Clock, waiter: Box<dyn Waiter>) -> Self {
        let timeout_ms = bringup.timeout_ms();
        let Bringup {
            backend,
            registers,
            arena,
            admin,
            identity,
            namespaces,
            queues,
            told,
            smart,
            opened_ns,
            recorder,
            ..
        } = bringup;
        let qids = queues.iter().map(|queue| queue.parts.rings.qid).collect();
        log::debug!(
            "{} controller {} ({}): {} I/O queue pairs, {} namespaces",
            identity.backend,
            identity.model,
            identity.serial,
            queues.len(),
            namespaces.len()
        );
        Self {
            backend,
            registers,
            arena,
            admin,
            waiter: Some(waiter),
            queues: queues.into(),
            told,
            smart,
            opened_ns,
            recorder,
            clock,
            config: config.clone(),
            identity: Arc::new(identity),
            namespaces,
            timeout_ms,
            qids,
            down: false,
        }
    }

    /// Who the controller says it is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Its active namespaces, in ascending order of their numbers.
    pub fn namespaces(&self) -> &Arc<[Namespace]> {
        &self.namespaces
    }

    /// A zeroed buffer that the controller reaches by DMA, for [`Buffer::Dma`](crate::Buffer::Dma).
    ///
    /// # Errors
    /// No memory, or more than the backend gives in one piece (4 MiB on most).
    pub fn allocate(&self, len_bytes: usize) -> Result<DmaBuffer, Error> {
        Ok(self.arena.allocate(len_bytes)?)
    }

    /// I/O queue pairs that have not been taken.
    pub fn queues_left(&self) -> usize {
        self.queues.len()
    }

    /// Takes an I/O queue pair; `T` comes back with each answer.
    pub fn take_queue<T>(&mut self) -> Option<IoQueue<T>> {
        // Slots are of the heap, and touched here first.
        let _near = self.backend.near();
        self.queues.pop_front().map(|queue| IoQueue::new(queue.parts))
    }

    /// What bounds a wait for the controller, in milliseconds (CAP.TO).
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// Shuts the controller down in order: queues are deleted, then CC.SHN tells it to put away what it holds, and it
    /// is disabled (section 3.6.1). Queues that were taken must have been dropped or be idle.
    ///
    /// # Errors
    /// The controller did not answer, or did not finish within RTD3E. It has been disabled all the same, unless it
    /// would not be.
    pub fn shutdown(mut self) -> Result<(), Error> {
        self.put_down()
    }

    pub(crate) fn put_down(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.down, true) {
            return Ok(());
        }
        let result = self.delete_queues().and_then(|()| self.notify_shutdown());
        let disabled = self.disable();
        if disabled.is_err() {
            self.leak();
        }
        result.and(disabled)
    }

    fn delete_queues(&mut self) -> Result<(), Error> {
        let submission = self
            .qids
            .iter()
            .map(|qid| ("Delete I/O Submission Queue", command::delete_io_sq(*qid)));
        let completion = self
            .qids
            .iter()
            .map(|qid| ("Delete I/O Completion Queue", command::delete_io_cq(*qid)));
        let commands: Vec<_> = submission.chain(completion).collect();
        for (name, entry) in commands {
            let timeout = Error::AdminTimeout {
                command: name,
                timeout_ms: self.timeout_ms,
            };
            let admin = self.admin.as_mut().ok_or(Error::Absent)?;
            let now_ns = self.clock.now_ns();
            admin
                .submit(entry, &AdminData::None, now_ns, AdminContext::Own)
                .map_err(|_| timeout.clone())?;
            admin.ring(now_ns);
            let deadline_ns = now_ns.saturating_add(self.timeout_ms * 1_000_000);
            let status = loop {
                admin.reap(self.clock.now_ns());
                match admin.next_finished() {
                    Some((AdminContext::Own, finished)) => break finished.completion.status(),
                    Some((context, finished)) => {
                        context.answer(Ok(finished));
                        continue;
                    }
                    None => {}
                }
                if self.registers.csts().is_none() {
                    return Err(Error::Absent);
                }
                if self.clock.now_ns() >= deadline_ns || self.clock.is_manual() {
                    return Err(timeout);
                }
                if let Some(waiter) = &mut self.waiter {
                    waiter.wait(Some(LOOK_INTERVAL), &mut || admin.has_completion());
                }
            };
            if !status.is_success() {
                log::warn!("{name}: {status}");
            }
        }
        Ok(())
    }

    fn notify_shutdown(&mut self) -> Result<(), Error> {
        let timeout_ms = match u64::from(self.identity.rtd3e_us).div_ceil(1000) {
            0 => DEFAULT_SHUTDOWN_MS,
            // What the controller says is typical, not a bound (section 5.17.2.1): it gets twice as long.
            ms => ms.saturating_mul(2).min(MAX_SHUTDOWN_MS).max(self.timeout_ms),
        };
        self.registers
            .set_cc(self.registers.cc().with_shn(register::SHN_NORMAL));
        self.await_csts(timeout_ms, |csts| csts.shst() == register::SHST_COMPLETE)?
            .then_some(())
            .ok_or(Error::ShutdownTimeout { timeout_ms })
    }

    /// CC.EN to 0, and until CSTS.RDY is 0: from then on the device touches no memory.
    pub(crate) fn disable(&mut self) -> Result<(), Error> {
        self.registers.set_cc(self.registers.cc().with_en(false));
        let disabled = self.await_csts(self.timeout_ms, |csts| !csts.rdy())?;
        let csts = self.registers.csts().map_or(u32::MAX, u32::from);
        disabled.then_some(()).ok_or(Error::NotReady {
            wanted: "disabled",
            timeout_ms: self.timeout_ms,
            csts,
        })
    }

    /// The controller has failed and was disabled, or would not be: there is nothing left to put down.
    pub(crate) fn gave_up(&mut self, stopped: bool) {
        self.down = true;
        if !stopped {
            self.leak();
        }
    }

    /// Keeps what the device knows of for ever: it may still write there.
    fn leak(&mut self) {
        if self.backend.cut_off() {
            return;
        }
        log::error!("the controller could not be disabled; the memory that it knows of is not given back");
        std::mem::forget(std::mem::take(&mut self.told));
    }

    fn await_csts(
        &mut self,
        timeout_ms: u64,
        done: impl Fn(nvme_spec::register::Csts) -> bool,
    ) -> Result<bool, Error> {
        let deadline_ns = self.clock.now_ns().saturating_add(timeout_ms * 1_000_000);
        loop {
            if done(self.registers.csts().ok_or(Error::Absent)?) {
                return Ok(true);
            }
            // A clock that stands still would make this wait for ever.
            if self.clock.now_ns() >= deadline_ns || self.clock.is_manual() {
                return Ok(false);
            }
            if let Some(waiter) = &mut self.waiter {
                waiter.wait(Some(LOOK_INTERVAL), &mut || false);
            }
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if std::mem::replace(&mut self.down, true) {
            return;
        }
        if let Err(error) = self.disable() {
            log::error!("{error}");
            self.leak();
        }
    }
}
