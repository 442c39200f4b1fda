//! From whatever state a controller is in to one with queues (NVMe Base 2.0 section 3.5.1): a state machine that is
//! turned with the time, in named states, each with an end.

mod classes;
mod identify;

use std::sync::Arc;

use nvme_spec::SubmissionEntry;
use nvme_spec::command::{self, NSID_ALL, NumberOfQueues};
use nvme_spec::feature::FeatureId;
use nvme_spec::identify::Cns;
use nvme_spec::log::LogId;
use nvme_spec::register::{self, Cap, Cc};

use crate::admin::{AdminData, AdminFinished, AdminQueue};
use crate::backend::Backend;
use crate::bell::{Bell, ShadowPages};
use crate::config::{Config, PollingMode};
use crate::controller::{AdminContext, Identity};
use crate::dma::Region;
use crate::dma::arena::Arena;
use crate::dma::pages::PagePool;
use crate::error::Error;
use crate::io_queue::{Limits, Parts};
use crate::namespace::Namespace;
use crate::namespace::scan::{Bounds, IDENTIFY_BYTES, Look, Scan};
use crate::queue::{MAX_SLOTS, Rings};
use crate::recorder::Recorder;
use crate::registers::Registers;

/// Entries of the admin queues: few commands, and it fits a page.
const ADMIN_ENTRIES: u32 = 64;
/// The most data that one command moves, whatever the controller could do.
const MAX_TRANSFER_BYTES: usize = 1 << 20;
/// Bounce pages and PRP lists of one queue.
const POOL_BYTES: usize = 4 << 20;
/// The least that a wait is bounded by, where CAP.TO says less.
const MIN_TIMEOUT_MS: u64 = 1000;
const SMART_LOG_BYTES: usize = 512;

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Something is awaited; turn again soon.
    Waiting,
    /// The controller is ready.
    Ready,
}

/// Where the bring-up is.
enum State {
    /// Nothing has been touched.
    Start,
    /// CC.EN was 1 already, CSTS.RDY is to become 1 before it may be cleared (section 3.1.3.5).
    Settling,
    /// CC.EN is 0, CSTS.RDY is to become 0.
    Disabling,
    /// CC.EN is 1, CSTS.RDY is to become 1.
    Enabling,
    /// An admin command is out.
    Command(Step),
    /// All done.
    Ready,
    /// It failed; the controller is being disabled, so that it leaves our memory alone.
    Failing(Error),
}

/// The admin commands, in their order.
#[derive(Clone, Copy)]
enum Step {
    IdentifyController,
    IdentifyControllerNvm,
    SetNumberOfQueues,
    /// For queues of several classes: their weights.
    SetArbitration,
    /// For doorbells in memory, where the controller looks for them there.
    ConfigureDoorbells,
    /// So that the health is known from the start.
    ReadSmart,
    Look(Look),
    CreateCq(u16),
    CreateSq(u16),
    /// The submission queue could not be made: its completion queue is of no use.
    DeleteCq(u16),
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::IdentifyController => "Identify Controller",
            Self::IdentifyControllerNvm => "Identify I/O Command Set specific Controller",
            Self::SetNumberOfQueues => "Set Features, Number of Queues",
            Self::SetArbitration => "Set Features, Arbitration",
            Self::ConfigureDoorbells => "Doorbell Buffer Config",
            Self::ReadSmart => "Get Log Page, SMART / Health Information",
            Self::Look(look) => look.name(),
            Self::CreateCq(_) => "Create I/O Completion Queue",
            Self::CreateSq(_) => "Create I/O Submission Queue",
            Self::DeleteCq(_) => "Delete I/O Completion Queue",
        }
    }
}

/// What the state machine has learnt and made so far.
pub(crate) struct Bringup {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) registers: Registers,
    pub(crate) arena: Arena,
    pub(crate) admin: Option<AdminQueue<AdminContext>>,
    pub(crate) identity: Identity,
    pub(crate) namespaces: Arc<[Namespace]>,
    pub(crate) queues: Vec<QueueParts>,
    /// All memory that the controller has been told of, to be kept until it is disabled.
    pub(crate) told: Vec<Region>,
    /// The SMART log, and when it was read.
    pub(crate) smart: Option<(u64, Vec<u8>)>,
    pub(crate) opened_ns: u64,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) cap: Cap,
    config: Config,
    cpus: u16,
    state: State,
    deadline_ns: u64,
    /// Whether the wait for a command began with this turn's time, of which its preparing may have taken a lot.
    just_sent: bool,
    scan: Scan,
    limits: Limits,
    wanted_queues: u16,
    /// The controller looks for doorbells in memory, if it is told where.
    has_shadow_doorbells: bool,
    /// Where they are; until the controller has agreed, in `offered_shadows`.
    shadows: Option<ShadowPages>,
    offered_shadows: Option<ShadowPages>,
    making: Option<QueueParts>,
}

/// An I/O queue pair that the controller has agreed to.
pub(crate) struct QueueParts {
    pub(crate) vector: u16,
    /// Its class, as the place of one in [`Priority::ALL`](crate::io_scheduler::Priority::ALL), where the controller heeds it and there are queues for each.
    pub(crate) class: Option<usize>,
    pub(crate) parts: Parts,
}

impl Bringup {
    /// Nothing is touched before the first turn. `cpus` is how many queues `num_queues` 0 asks for.
    pub(crate) fn new(backend: Arc<dyn Backend>, config: &Config, cpus: u16, now_ns: u64) -> Self {
        let page_bytes = 4096;
        Self {
            registers: Registers::new(Arc::clone(&backend)),
            arena: Arena::new(Arc::clone(&backend)),
            admin: None,
            identity: Identity::new(&*backend),
            namespaces: Arc::new([]),
            queues: Vec::new(),
            told: Vec::new(),
            smart: None,
            opened_ns: now_ns,
            recorder: Arc::new(Recorder::new(config.slow_us)),
            cap: Cap::from(0),
            config: config.clone(),
            cpus: cpus.max(1),
            state: State::Start,
            deadline_ns: u64::MAX,
            just_sent: false,
            scan: Scan::default(),
            limits: Limits {
                max_transfer_bytes: MAX_TRANSFER_BYTES,
                page_bytes,
                zero_copy: config.zero_copy && cfg!(feature = "zero-copy"),
                max_zeroes_bytes: u64::MAX,
                max_verify_bytes: u64::MAX,
                max_range_blocks: u64::from(u32::MAX),
                atomic_blocks: 1,
            },
            wanted_queues: 0,
            has_shadow_doorbells: false,
            shadows: None,
            offered_shadows: None,
            making: None,
            backend,
        }
    }

    /// What bounds each wait: CAP.TO, in milliseconds.
    pub(crate) fn timeout_ms(&self) -> u64 {
        self.cap.timeout_ms().max(MIN_TIMEOUT_MS)
    }

    fn start_wait(&mut self, now_ns: u64, state: State) {
        self.deadline_ns = now_ns.saturating_add(self.timeout_ms() * 1_000_000);
        self.state = state;
    }

    /// Does what can be done at `now_ns`.
    ///
    /// # Errors
    /// Why the controller could not be brought up. It has been disabled by then, unless it would not be.
    pub(crate) fn turn(&mut self, now_ns: u64) -> Result<Progress, Error> {
        // Memory for a queue may have taken long, after the time that the last turn was given.
        if std::mem::take(&mut self.just_sent) {
            self.deadline_ns = now_ns.saturating_add(self.timeout_ms() * 1_000_000);
        }
        loop {
            let next = match &self.state {
                State::Start => self.start(now_ns),
                State::Settling => self.settling(now_ns),
                State::Disabling => self.disabling(now_ns),
                State::Enabling => self.enabling(now_ns),
                State::Command(step) => self.await_command(*step, now_ns),
                State::Ready => return Ok(Progress::Ready),
                State::Failing(_) => return self.failing(now_ns),
            };
            match next {
                Ok(true) => {}
                Ok(false) => return Ok(Progress::Waiting),
                Err(Error::Absent) => {
                    // Nothing answers, so nothing writes to memory either; but it may come back.
                    self.leak();
                    return Err(Error::Absent);
                }
                Err(error) if self.admin.is_some() => {
                    log::warn!("bring-up failed, the controller is being disabled: {error}");
                    self.registers.set_cc(self.registers.cc().with_en(false));
                    self.start_wait(now_ns, State::Failing(error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Says whether to go on at once.
    fn start(&mut self, now_ns: u64) -> Result<bool, Error> {
        let cap = self.registers.cap().ok_or(Error::Absent)?;
        self.cap = cap;
        if cap.css() & (register::CAP_CSS_NVM | register::CAP_CSS_IO_COMMAND_SETS) == 0 {
            let what = format!("it has no NVM command set (CAP.CSS is {:#04x})", cap.css());
            return Err(Error::Unsupported { what });
        }
        if cap.mqes_z() == 0 {
            let what =
                "its queues have room for 1 entry (CAP.MQES is 0), 2 are the least that works".to_owned();
            return Err(Error::Unsupported { what });
        }
        if cap.mpsmin() > 4 {
            let what = format!(
                "its smallest memory page is 2^{} bytes (CAP.MPSMIN)",
                12 + u32::from(cap.mpsmin())
            );
            return Err(Error::Unsupported { what });
        }
        self.limits.page_bytes = 4096 << cap.mpsmin();
        let csts = self.registers.csts().ok_or(Error::Absent)?;
        let next = if self.registers.cc().en() && !csts.rdy() {
            State::Settling
        } else {
            State::Disabling
        };
        if matches!(next, State::Disabling) {
            self.clear_enable();
        }
        self.start_wait(now_ns, next);
        Ok(true)
    }

    fn clear_enable(&self) {
        let cc = self.registers.cc();
        if cc.en() {
            self.registers
                .set_cc(cc.with_en(false).with_shn(register::SHN_NONE));
        }
    }

    fn settling(&mut self, now_ns: u64) -> Result<bool, Error> {
        let csts = self.registers.csts().ok_or(Error::Absent)?;
        if !csts.rdy() && !csts.cfs() && now_ns < self.deadline_ns {
            return Ok(false);
        }
        self.clear_enable();
        self.start_wait(now_ns, State::Disabling);
        Ok(true)
    }

    fn disabling(&mut self, now_ns: u64) -> Result<bool, Error> {
        let csts = self.registers.csts().ok_or(Error::Absent)?;
        if csts.rdy() {
            return self.not_yet("disabled", csts.into(), now_ns);
        }
        self.make_admin_queue()?;
        let css = if self.cap.css() & register::CAP_CSS_NVM != 0 {
            register::CC_CSS_NVM
        } else {
            register::CC_CSS_ALL
        };
        let cc = Cc::new()
            .with_css(css)
            .with_mps(self.cap.mpsmin())
            .with_ams(self.arbitration_mechanism())
            .with_iosqes(register::IOSQES)
            .with_iocqes(register::IOCQES);
        self.registers.set_cc(cc.with_en(true));
        self.start_wait(now_ns, State::Enabling);
        Ok(true)
    }

    /// After the number of queues is known.
    fn after_number_of_queues(&self) -> Step {
        if self.class(1).is_some() {
            Step::SetArbitration
        } else {
            self.after_arbitration()
        }
    }

    fn after_arbitration(&self) -> Step {
        if self.has_shadow_doorbells {
            Step::ConfigureDoorbells
        } else {
            Step::ReadSmart
        }
    }

    fn enabling(&mut self, now_ns: u64) -> Result<bool, Error> {
        let csts = self.registers.csts().ok_or(Error::Absent)?;
        if csts.cfs() {
            return Err(Error::Fatal {
                doing: "it is being enabled",
            });
        }
        if !csts.rdy() {
            return self.not_yet("ready", csts.into(), now_ns);
        }
        self.send(Step::IdentifyController, now_ns)?;
        Ok(true)
    }

    fn not_yet(&self, wanted: &'static str, csts: u32, now_ns: u64) -> Result<bool, Error> {
        if now_ns < self.deadline_ns {
            return Ok(false);
        }
        Err(Error::NotReady {
            wanted,
            timeout_ms: self.timeout_ms(),
            csts,
        })
    }

    fn failing(&mut self, now_ns: u64) -> Result<Progress, Error> {
        let disabled = match self.registers.csts() {
            Some(csts) if csts.rdy() && now_ns < self.deadline_ns => return Ok(Progress::Waiting),
            Some(csts) => !csts.rdy(),
            None => false,
        };
        if !disabled {
            log::error!(
                "the controller could not be disabled; the memory that it knows of is not given back"
            );
            self.leak();
        }
        match std::mem::replace(&mut self.state, State::Start) {
            State::Failing(error) => Err(error),
            _ => Err(Error::Absent),
        }
    }

    /// The controller may still write to what it was told of.
    fn leak(&mut self) {
        self.admin = None;
        std::mem::forget(std::mem::take(&mut self.told));
    }

    fn allocate(&mut self, len_bytes: usize) -> Result<Region, Error> {
        let region = self.backend.allocate(len_bytes)?;
        self.told.push(region.clone());
        Ok(region)
    }

    fn rings(&mut self, qid: u16, entries: u32) -> Result<Rings, Error> {
        Ok(Rings {
            qid,
            entries,
            sq: self.allocate(entries as usize * 64)?,
            cq: self.allocate(entries as usize * 16)?,
            sq_bell: self.bell(qid, false)?,
            cq_bell: self.bell(qid, true)?,
            polled: qid > 0 && self.config.polling.of(qid) == PollingMode::Polling,
        })
    }

    /// The doorbell of a queue. The admin queue's is always the register: drivers in the field never write its shadow, and
    /// controllers rely on that.
    fn bell(&self, qid: u16, completion: bool) -> Result<Bell, Error> {
        let register = self.registers.doorbell(qid, completion, self.cap)?;
        let shadows = self.shadows.as_ref().filter(|_| qid > 0);
        let offset = register::doorbell_offset(qid, completion, self.cap.dstrd()) - register::DOORBELLS;
        Ok(Bell::new(
            register,
            shadows.and_then(|pages| pages.shadow(offset)),
        ))
    }

    fn pool(&mut self) -> Result<PagePool, Error> {
        let region_bytes = POOL_BYTES.min(self.backend.max_region_bytes());
        let regions = (0..POOL_BYTES.div_ceil(region_bytes)).map(|_| self.allocate(region_bytes));
        Ok(PagePool::new(
            regions.collect::<Result<_, _>>()?,
            self.limits.page_bytes,
        ))
    }

    fn make_admin_queue(&mut self) -> Result<(), Error> {
        let rings = self.rings(0, ADMIN_ENTRIES)?;
        self.registers
            .set_admin_queues(ADMIN_ENTRIES, rings.sq.iova(), rings.cq.iova());
        let pool = self.pool()?;
        self.admin = Some(AdminQueue::new(rings, pool, Arc::clone(&self.recorder)));
        Ok(())
    }

    fn send(&mut self, step: Step, now_ns: u64) -> Result<(), Error> {
        let Some((entry, data)) = self.command(step)? else {
            self.state = State::Ready;
            return Ok(());
        };
        let timeout = Error::AdminTimeout {
            command: step.name(),
            timeout_ms: self.timeout_ms(),
        };
        let admin = self.admin.as_mut().ok_or(timeout.clone())?;
        admin
            .submit(entry, &data, now_ns, AdminContext::Own)
            .map_err(|_| timeout)?;
        admin.ring(now_ns);
        self.start_wait(now_ns, State::Command(step));
        self.just_sent = true;
        Ok(())
    }

    /// The command of a step; `None` if there is no memory for another queue, while there are some.
    fn command(&mut self, step: Step) -> Result<Option<(SubmissionEntry, AdminData)>, Error> {
        let from_device = AdminData::FromDevice(IDENTIFY_BYTES);
        let (entry, data): (SubmissionEntry, AdminData) = match step {
            Step::IdentifyController => (command::identify(Cns::CONTROLLER, 0, 0), from_device),
            Step::IdentifyControllerNvm => (
                command::identify_csi(Cns::IO_CONTROLLER, nvme_spec::identify::CSI_NVM, 0, 0),
                from_device,
            ),
            Step::SetNumberOfQueues => {
                let wanted_z = self.wanted_queues - 1;
                let queues = NumberOfQueues::new().with_nsqr_z(wanted_z).with_ncqr_z(wanted_z);
                (
                    command::set_features(FeatureId::NUMBER_OF_QUEUES, 0, queues.into(), false),
                    AdminData::None,
                )
            }
            Step::SetArbitration => (
                command::set_features(FeatureId::ARBITRATION, 0, self.arbitration().into(), false),
                AdminData::None,
            ),
            Step::ConfigureDoorbells => {
                let pages = ShadowPages {
                    doorbells: self.allocate(self.limits.page_bytes)?,
                    event_indexes: self.allocate(self.limits.page_bytes)?,
                };
                let (doorbells, event_indexes) = (pages.doorbells.iova(), pages.event_indexes.iova());
                self.offered_shadows = Some(pages);
                (
                    command::doorbell_buffer_config(doorbells, event_indexes),
                    AdminData::None,
                )
            }
            Step::ReadSmart => (
                command::get_log_page(LogId::SMART, NSID_ALL, SMART_LOG_BYTES as u32, 0, true),
                AdminData::FromDevice(SMART_LOG_BYTES),
            ),
            Step::Look(look) => (self.scan.command(look), from_device),
            Step::CreateCq(qid) => {
                let polled = self.config.polling.of(qid) == PollingMode::Polling;
                let making = match self.make_queue(qid) {
                    Ok(making) => making,
                    Err(error) => return self.enough_queues(qid, error).map(|()| None),
                };
                let interrupt = (!polled).then_some(making.vector);
                let size_z = (making.parts.rings.entries - 1) as u16;
                let iova = making.parts.rings.cq.iova();
                (
                    command::create_io_cq(qid, size_z, iova, interrupt),
                    AdminData::None,
                )
            }
            Step::CreateSq(qid) => {
                let rings = self.making.as_ref().map(|making| &making.parts.rings);
                let (size_z, iova) =
                    rings.map_or((0, 0), |rings| ((rings.entries - 1) as u16, rings.sq.iova()));
                let qprio = self.qprio(qid);
                (
                    command::create_io_sq(qid, size_z, iova, qid, qprio),
                    AdminData::None,
                )
            }
            Step::DeleteCq(qid) => (command::delete_io_cq(qid), AdminData::None),
        };
        Ok(Some((entry, data)))
    }

    fn await_command(&mut self, step: Step, now_ns: u64) -> Result<bool, Error> {
        let timeout_ms = self.timeout_ms();
        let timeout = Error::AdminTimeout {
            command: step.name(),
            timeout_ms,
        };
        let admin = self.admin.as_mut().ok_or(timeout.clone())?;
        admin.reap(now_ns);
        let Some((_, finished)) = admin.next_finished() else {
            let csts = self.registers.csts().ok_or(Error::Absent)?;
            if csts.cfs() {
                return Err(Error::Fatal { doing: step.name() });
            }
            return if now_ns < self.deadline_ns {
                Ok(false)
            } else {
                Err(timeout)
            };
        };
        match self.take_answer(step, finished, now_ns)? {
            Some(next) => self.send(next, now_ns)?,
            None => self.state = State::Ready,
        }
        Ok(true)
    }

    /// Takes the answer to `step` and says what comes next.
    fn take_answer(
        &mut self,
        step: Step,
        finished: AdminFinished,
        now_ns: u64,
    ) -> Result<Option<Step>, Error> {
        let status = finished.completion.status();
        let refused = Error::Admin {
            command: step.name(),
            status,
        };
        match step {
            Step::IdentifyController => {
                if !status.is_success() {
                    return Err(refused);
                }
                self.take_controller(&finished.data)?;
                // Older controllers log an error for a CNS that they do not know. There are some, QEMU's among them, that
                // say 1.4 and have it, with limits that are not those of MDTS.
                let knows_csi = self.identity.has_command_sets || self.registers.vs().major() >= 2;
                Ok(Some(if knows_csi {
                    Step::IdentifyControllerNvm
                } else {
                    Step::SetNumberOfQueues
                }))
            }
            Step::IdentifyControllerNvm => {
                if status.is_success() {
                    self.take_controller_nvm(&finished.data);
                }
                Ok(Some(Step::SetNumberOfQueues))
            }
            Step::SetNumberOfQueues => {
                if !status.is_success() {
                    return Err(refused);
                }
                let granted = NumberOfQueues::from(finished.completion.dw0);
                let granted = granted.nsqr_z().min(granted.ncqr_z()).saturating_add(1);
                if granted < self.wanted_queues {
                    log::info!(
                        "{} I/O queue pairs were asked for, the controller grants {granted}",
                        self.wanted_queues
                    );
                }
                self.wanted_queues = self.wanted_queues.min(granted);
                Ok(Some(self.after_number_of_queues()))
            }
            Step::SetArbitration => {
                // Weights of the controller's own do as well: the driver's hold in its backlogs.
                if !status.is_success() {
                    log::info!("the controller keeps its own arbitration: {status}");
                }
                Ok(Some(self.after_arbitration()))
            }
            Step::ConfigureDoorbells => {
                // It works without, too.
                self.shadows = self.offered_shadows.take().filter(|_| status.is_success());
                Ok(Some(Step::ReadSmart))
            }
            Step::ReadSmart => {
                // A controller without it can be driven all the same.
                self.smart = status.is_success().then_some((now_ns, finished.data));
                Ok(Some(Step::Look(Look::FIRST)))
            }
            Step::Look(look) => {
                let bounds = Bounds::of(&self.identity);
                if let Some(next) = self.scan.take(look, status, &finished.data, &bounds) {
                    return Ok(Some(Step::Look(next)));
                }
                self.namespaces = std::mem::take(&mut self.scan).finish().into();
                Ok(Some(Step::CreateCq(1)))
            }
            Step::CreateCq(qid) => {
                if status.is_success() {
                    return Ok(Some(Step::CreateSq(qid)));
                }
                self.making = None;
                self.enough_queues(qid, refused).map(|()| None)
            }
            Step::CreateSq(qid) => {
                if !status.is_success() {
                    self.enough_queues(qid, refused)?;
                    return Ok(Some(Step::DeleteCq(qid)));
                }
                self.queues.extend(self.making.take());
                Ok((qid < self.wanted_queues).then_some(Step::CreateCq(qid + 1)))
            }
            // Whether it is gone or not: its ring's memory is kept.
            Step::DeleteCq(_) => {
                self.making = None;
                Ok(None)
            }
        }
    }

    /// A queue pair could not be made: that is an error only if it was the first.
    fn enough_queues(&self, qid: u16, why: Error) -> Result<(), Error> {
        if qid == 1 {
            return Err(why);
        }
        log::warn!("{why}; going on with {} I/O queue pairs", self.queues.len());
        Ok(())
    }

    /// Memory for queue pair `qid`, as long as both sides can have it.
    fn make_queue(&mut self, qid: u16) -> Result<&QueueParts, Error> {
        let most = u32::from(self.cap.mqes_z()) + 1;
        let entries = self.config.queue_depth.min(most).clamp(2, MAX_SLOTS as u32);
        let rings = self.rings(qid, entries)?;
        let limit = entries as usize - 1;
        let parts = Parts {
            recorder: Arc::clone(&self.recorder),
            rings,
            limit,
            pool: self.pool()?,
            windows: if self.limits.zero_copy {
                self.backend.windows(qid, limit, self.limits.page_bytes)
            } else {
                None
            },
            limits: self.limits,
            namespaces: Arc::clone(&self.namespaces),
            arena: self.arena.clone(),
        };
        // Vector 0 is the admin queue's; with one vector all share it.
        let vector = match self.backend.vectors() {
            0 | 1 => 0,
            vectors => 1 + (qid - 1) % (vectors - 1),
        };
        let class = self.class(qid);
        Ok(self.making.insert(QueueParts { vector, class, parts }))
    }
}
