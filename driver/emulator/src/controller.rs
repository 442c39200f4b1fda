//! The controller's life: enabled, ready, shut down, reset (Base 2.0, sections 3.5 to 3.7). Everything the registers ask
//! for is done here, in the controller's turn.

use nvme_spec::register::{
    AMS_ROUND_ROBIN, AMS_WEIGHTED_ROUND_ROBIN, CAP_CSS_ADMIN_ONLY, CAP_CSS_IO_COMMAND_SETS, CAP_CSS_NVM,
    CC_CSS_ADMIN_ONLY, CC_CSS_ALL, CC_CSS_NVM, IOCQES, IOSQES, SHN_NONE, SHST_COMPLETE, SHST_IN_PROGRESS,
    SHST_NORMAL,
};
use nvme_spec::{Cap, Cc};

use crate::admin::{Admin, Event};
use crate::config::Ready;
use crate::device::Device;
use crate::engine::Context;
use crate::registers::{Configuration, Writes};
use crate::rings::{CompletionQueue, Place, SubmissionQueue};
use crate::tally::Tally;

/// Entries of an admin queue at least (AQA fields are 0's based, and 0 is not allowed).
const ADMIN_QUEUE_ENTRIES_MIN: u32 = 2;
/// The admin completion queue interrupts on vector 0.
const ADMIN_VECTOR: u16 = 0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// CC.EN is clear.
    Disabled,
    /// CC.EN is set, CSTS.RDY is not yet (None: never will be).
    Enabling {
        configuration: Settings,
        ready_at_ns: Option<u64>,
    },
    /// CC.EN was set and the controller did not like it: CSTS.CFS.
    Refused,
    /// CSTS.RDY is set.
    Ready,
}

/// What was in the registers when CC.EN was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    cc: Cc,
    asq: u64,
    acq: u64,
    asq_entries: u32,
    acq_entries: u32,
}

/// CC.SHN and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shutdown {
    None,
    InProgress { done_at_ns: u64 },
    Complete,
}

/// The controller, turned by one thread at a time.
#[derive(Debug)]
pub(crate) struct Controller {
    phase: Phase,
    shutdown: Shutdown,
    /// CC.SHN as it was last seen: a shutdown begins when it becomes something else than "none", not as long as it is.
    shn: u8,
    pub admin: Admin,
    resets: u64,
    /// The time is known: the first turn was taken.
    is_powered: bool,
    /// It was ready since power on or the last shutdown: losing power now is unsafe.
    is_dirty: bool,
    /// Events from outside the queues.
    pub events: Vec<Event>,
}

impl Controller {
    pub fn new() -> Self {
        Self {
            phase: Phase::Disabled,
            shutdown: Shutdown::None,
            shn: SHN_NONE,
            admin: Admin::new(),
            resets: 0,
            is_powered: false,
            is_dirty: false,
            events: Vec::new(),
        }
    }

    /// Controller resets done.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// One turn. True if there was something to do.
    pub fn turn(&mut self, device: &Device, tally: &Tally, now_ns: u64) -> bool {
        let cx = Context {
            device,
            tally,
            now_ns,
        };
        if device.registers.is_vanished() {
            return false;
        }
        if !self.is_powered {
            self.is_powered = true;
            self.admin.power_on(now_ns);
        }
        let mut worked = false;
        if device.registers.is_written() {
            worked = true;
            let (writes, configuration) = device.registers.take_writes();
            self.obey(cx, writes, configuration);
        }
        worked |= self.tick(cx);
        if device.is_stopped() {
            return worked;
        }
        if device.take_invalid_doorbell_value() {
            self.admin.notify(cx, Event::INVALID_DOORBELL_VALUE);
        }
        for event in std::mem::take(&mut self.events) {
            self.admin.notify(cx, event);
        }
        worked | self.admin.pass(cx)
    }

    /// When there is something to do without the host doing anything first.
    pub fn due_ns(&mut self, device: &Device) -> Option<u64> {
        if device.registers.is_vanished() {
            return None;
        }
        let ready_at_ns = match self.phase {
            Phase::Enabling { ready_at_ns, .. } => ready_at_ns,
            _ => None,
        };
        let shut_down_at_ns = match self.shutdown {
            Shutdown::InProgress { done_at_ns } => Some(done_at_ns),
            _ => None,
        };
        let admin_ns = if device.is_stopped() {
            None
        } else {
            self.admin.due_ns(device)
        };
        [ready_at_ns, shut_down_at_ns, admin_ns]
            .into_iter()
            .flatten()
            .min()
    }

    /// Power is lost and comes back: everything but the media and what was saved is as new.
    pub fn power_cycle(&mut self, device: &Device, now_ns: u64) {
        let life = self.admin.life();
        life.power_cycles += 1;
        life.unsafe_shutdowns += u64::from(std::mem::take(&mut self.is_dirty));
        self.shn = SHN_NONE;
        self.reset(device, false, now_ns);
        for namespace in device.namespaces.allocated() {
            namespace.storage().lose_power();
        }
        let _ = device.registers.take_writes();
        device.registers.set_vanished(false);
    }

    /// The function is reset: as a Controller Level Reset (Base 2.0, section 3.7.2), and the registers are new too.
    pub fn reset_function(&mut self, device: &Device, now_ns: u64) {
        if device.registers.is_vanished() {
            return;
        }
        device.registers.forget_configuration();
        self.shn = SHN_NONE;
        self.reset(device, false, now_ns);
    }

    /// Does what the host has written to the registers.
    fn obey(&mut self, cx: Context<'_>, writes: Writes, configuration: Configuration) {
        if writes.subsystem_reset {
            // CC is zero since the write.
            self.shn = SHN_NONE;
        }
        if writes.reset {
            self.reset(cx.device, writes.subsystem_reset, cx.now_ns);
        }
        if writes.unmasked {
            // What was held back is raised in each shard's next pass.
            cx.device.wake_all();
        }
        if writes.invalid_doorbell && !cx.device.is_stopped() {
            self.admin.notify(cx, Event::INVALID_DOORBELL_REGISTER);
        }
        if writes.configured {
            if configuration.cc.en() && self.phase == Phase::Disabled {
                self.enable(cx, configuration);
            }
            let shn = std::mem::replace(&mut self.shn, configuration.cc.shn());
            if shn == SHN_NONE && self.shn != SHN_NONE && self.shutdown == Shutdown::None {
                self.shut_down(cx);
            }
        }
    }

    /// What is due by the clock.
    fn tick(&mut self, cx: Context<'_>) -> bool {
        let mut worked = false;
        if let Phase::Enabling {
            configuration,
            ready_at_ns: Some(ready_at_ns),
        } = self.phase
            && ready_at_ns <= cx.now_ns
        {
            worked = true;
            self.become_ready(cx, configuration);
        }
        if let Shutdown::InProgress { done_at_ns } = self.shutdown
            && done_at_ns <= cx.now_ns
        {
            worked = true;
            self.shutdown = Shutdown::Complete;
            self.is_dirty = false;
            cx.device.registers.set_shutdown_status(SHST_COMPLETE);
        }
        worked
    }

    /// CC.EN was set. That also takes back a shutdown that was made while the controller was disabled.
    fn enable(&mut self, cx: Context<'_>, configuration: Configuration) {
        if self.shutdown != Shutdown::None {
            self.shutdown = Shutdown::None;
            cx.device.registers.set_shutdown_status(SHST_NORMAL);
        }
        let refused = match Settings::check(cx.device.registers.cap(), configuration) {
            Ok(_) if cx.device.config.ready == Ready::CfsOnEnable => Err("it is configured to"),
            checked => checked,
        };
        match refused {
            Ok(configuration) => {
                let delay_ns =
                    (cx.device.config.ready != Ready::Never).then_some(cx.device.config.ready_delay_ns);
                let ready_at_ns = delay_ns.map(|delay_ns| cx.now_ns.saturating_add(delay_ns));
                self.phase = Phase::Enabling {
                    configuration,
                    ready_at_ns,
                };
            }
            Err(why) => {
                log::warn!("the controller refuses to be enabled: {why}");
                self.phase = Phase::Refused;
                cx.device.registers.finish_enable(false);
            }
        }
    }

    fn become_ready(&mut self, cx: Context<'_>, settings: Settings) {
        let Settings {
            cc,
            asq,
            acq,
            asq_entries,
            acq_entries,
        } = settings;
        let device = cx.device;
        device.set_page_size(cc.mps());
        device.set_weighted(cc.ams() == AMS_WEIGHTED_ROUND_ROBIN);
        let engine = self.admin.engine();
        engine.add_cq(CompletionQueue::new(
            0,
            Place::Contiguous(acq),
            acq_entries,
            Some(ADMIN_VECTOR),
        ));
        engine.add_sq(SubmissionQueue::new(0, 0, Place::Contiguous(asq), asq_entries));
        device.registers.claim(0, 0);
        device.registers.claim(1, 0);
        self.admin.enable(cx, cc);
        self.phase = Phase::Ready;
        self.is_dirty = true;
        device.set_running(self.shutdown == Shutdown::None);
        // Those that have doorbells to look at begin to.
        device.wake_all();
        if !device.registers.finish_enable(true) {
            // Disabled again meanwhile: the reset that this asks for is on its way.
            device.set_running(false);
        }
    }

    /// CC.SHN was set: stop, and bring what was written to the media (section 3.6.1).
    fn shut_down(&mut self, cx: Context<'_>) {
        let device = cx.device;
        device.registers.set_shutdown_status(SHST_IN_PROGRESS);
        device.set_running(false);
        device.empty_write_cache();
        let done_at_ns = cx.now_ns.saturating_add(device.config.shutdown_delay_ns);
        self.shutdown = Shutdown::InProgress { done_at_ns };
    }

    /// Controller Level Reset (section 3.7.2). When this returns, no queue is left and no memory of the host is touched.
    fn reset(&mut self, device: &Device, subsystem: bool, now_ns: u64) {
        device.set_running(false);
        for slot in &device.shards {
            slot.borrow().reset();
        }
        self.admin.reset(now_ns);
        self.events.clear();
        self.phase = Phase::Disabled;
        self.shutdown = Shutdown::None;
        self.resets += 1;
        device.registers.finish_reset(subsystem);
    }
}

impl Settings {
    /// Whether the controller can work like this (section 3.1.3.5): if not, why.
    fn check(cap: Cap, configuration: Configuration) -> Result<Self, &'static str> {
        let Configuration { cc, aqa, asq, acq } = configuration;
        if cc.mps() < cap.mpsmin() || cc.mps() > cap.mpsmax() {
            return Err("CC.MPS is not between CAP.MPSMIN and CAP.MPSMAX");
        }
        let wanted = match cc.css() {
            CC_CSS_NVM => CAP_CSS_NVM,
            CC_CSS_ALL => CAP_CSS_IO_COMMAND_SETS,
            CC_CSS_ADMIN_ONLY => CAP_CSS_ADMIN_ONLY,
            _ => 0,
        };
        if cap.css() & wanted == 0 {
            return Err("CC.CSS is a command set that CAP.CSS does not offer");
        }
        let offered =
            cc.ams() == AMS_ROUND_ROBIN || (cc.ams() == AMS_WEIGHTED_ROUND_ROBIN && cap.ams() & 1 != 0);
        if !offered {
            return Err("CC.AMS is an arbitration that CAP.AMS does not offer");
        }
        // Entry sizes are needed only for I/O queues, but a size that is wrong will not become right.
        if ![0, IOSQES].contains(&cc.iosqes()) || ![0, IOCQES].contains(&cc.iocqes()) {
            return Err("CC.IOSQES or CC.IOCQES is an entry size that Identify Controller does not offer");
        }
        let (asq_entries, acq_entries) = (u32::from(aqa.asqs_z()) + 1, u32::from(aqa.acqs_z()) + 1);
        if asq_entries < ADMIN_QUEUE_ENTRIES_MIN || acq_entries < ADMIN_QUEUE_ENTRIES_MIN {
            return Err("AQA gives an admin queue fewer than 2 entries");
        }
        if !asq.is_multiple_of(cc.mps_bytes()) || !acq.is_multiple_of(cc.mps_bytes()) || asq == 0 || acq == 0
        {
            return Err("ASQ or ACQ is not the address of a page");
        }
        Ok(Self {
            cc,
            asq,
            acq,
            asq_entries,
            acq_entries,
        })
    }
}
