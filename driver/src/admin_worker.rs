//! The owner of the admin queue: clients' admin commands, the watch over the controller, and its end.
//!
//! Like a queue's worker it is turned with the time and never waits; the thread around it is [`run`].

pub(crate) mod notices;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use nvme_spec::AdminOpcode;
use nvme_spec::command::GetLogCdw10;
use nvme_spec::log::LogId;
use stats_proto::event::Event;

use crate::admin::{AdminFinished, AdminQueue, AdminRequest, check};
use crate::backend::{Departure, Waiter, Waker};
use crate::clock::Clock;
use crate::controller::{AdminContext, Controller};
use crate::error::{Error, IoError};
use crate::events::{EventLog, EventsEnd};
use crate::namespace::Namespace;
use crate::namespace::table::NamespaceTable;
use crate::worker;
use notices::{EventCounts, Notices, Told};

/// Admin requests that may wait before the worker has taken them.
const INBOX_REQUESTS: usize = 256;
/// Between two looks at CSTS while all is well.
const WATCH_INTERVAL_NS: u64 = 1_000_000_000;
/// Requests taken from the inbox in one turn.
const INBOX_BATCH: usize = 16;
/// An admin command that is out for longer is lost, and with it the controller. Formatting takes minutes.
const ADMIN_TIMEOUT_NS: u64 = 600_000_000_000;
const SMART_LOG_BYTES: usize = 512;
const ALL_NAMESPACES: u32 = u32::MAX;

/// Whether the controller can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Health {
    Live = 0,
    /// It failed; it is being disabled.
    Failing = 1,
    /// It failed and is disabled, gone, or past hope.
    Failed = 2,
    /// It was shut down.
    Down = 3,
}

impl Health {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "ready",
            Self::Failing => "resetting",
            Self::Failed => "failed",
            Self::Down => "down",
        }
    }
}

/// What other threads share with the admin worker.
pub(crate) struct Shared {
    inbox: ArrayQueue<AdminRequest>,
    drain: AtomicBool,
    ended: AtomicBool,
    health: AtomicU8,
    /// Why the controller is to be given up, from whoever saw it first.
    failure: Mutex<Option<String>>,
    has_failure: AtomicBool,
    /// The system wants the function back.
    removal_asked: AtomicBool,
    /// What the controller has reported.
    event_counts: EventCounts,
    /// The SMART log as it was last read by anybody, and when.
    smart: Mutex<Option<(u64, Vec<u8>)>>,
    waker: Waker,
}

impl Shared {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            inbox: ArrayQueue::new(INBOX_REQUESTS),
            drain: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            health: AtomicU8::new(Health::Live as u8),
            failure: Mutex::default(),
            has_failure: AtomicBool::new(false),
            removal_asked: AtomicBool::new(false),
            event_counts: EventCounts::default(),
            smart: Mutex::default(),
            waker,
        }
    }

    pub(crate) fn submit(&self, request: AdminRequest) {
        if let Some(why) = self.why_refused() {
            return request.sink.answer_admin(request.tag, Err(why));
        }
        if let Err(request) = self.inbox.push(request) {
            return request.sink.answer_admin(request.tag, Err(IoError::Busy));
        }
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.ended.load(Ordering::Relaxed) {
            self.refuse_all();
        }
        self.waker.wake();
    }

    fn why_refused(&self) -> Option<IoError> {
        match self.health() {
            Health::Live if self.drain.load(Ordering::Acquire) => Some(IoError::Stopped),
            Health::Live => None,
            Health::Down => Some(IoError::Stopped),
            Health::Failing | Health::Failed => Some(IoError::Lost),
        }
    }

    fn refuse_all(&self) {
        let why = self.why_refused().unwrap_or(IoError::Stopped);
        while let Some(request) = self.inbox.pop() {
            request.sink.answer_admin(request.tag, Err(why));
        }
    }

    pub(crate) fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Live,
            1 => Health::Failing,
            2 => Health::Failed,
            _ => Health::Down,
        }
    }

    fn set_health(&self, health: Health) {
        self.health.store(health as u8, Ordering::SeqCst);
    }

    /// Gives the controller up. The first reason stays.
    pub(crate) fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        drop(failure);
        self.has_failure.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Why the controller was given up, if it was.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What the controller has reported.
    pub(crate) fn event_counts(&self) -> &EventCounts {
        &self.event_counts
    }

    /// Whether the system wants the function back.
    pub(crate) fn removal_asked(&self) -> bool {
        self.removal_asked.load(Ordering::Acquire)
    }

    /// The SMART log as it was last read, and when.
    pub(crate) fn smart(&self) -> Option<(u64, Vec<u8>)> {
        self.smart.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn drain(&self) {
        self.drain.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Whether there is something for a worker that has or has not seen that the driver stops.
    fn has_news(&self, drain_seen: bool) -> bool {
        !self.inbox.is_empty()
            || (!drain_seen && self.drain.load(Ordering::Acquire))
            || self.has_failure.load(Ordering::Acquire)
    }

    /// The admin thread has panicked: nothing more is taken or done.
    pub(crate) fn end_after_panic(&self) {
        self.set_health(Health::Failed);
        self.fail("the driver's admin thread panicked".to_owned());
        self.ended.store(true, Ordering::SeqCst);
        self.refuse_all();
    }
}

/// The owner of the admin queue and of the controller.
pub(crate) struct AdminWorker {
    controller: Controller,
    shared: Arc<Shared>,
    workers: Vec<Arc<worker::Shared>>,
    namespaces: Arc<NamespaceTable>,
    notices: Notices,
    next_look_ns: u64,
    /// When the driver stops: until when commands that are out are awaited.
    drain_deadline_ns: Option<u64>,
    state: State,
    events: Arc<EventLog>,
    /// Without this worker nothing more happens.
    _events_end: EventsEnd,
}

enum State {
    Running,
    /// CC.EN is 0; CSTS.RDY is to become 0 before this time.
    Disabling {
        deadline_ns: u64,
    },
    Failed,
}

impl AdminWorker {
    pub(crate) fn new(
        controller: Controller,
        shared: Arc<Shared>,
        workers: Vec<Arc<worker::Shared>>,
        namespaces: Arc<NamespaceTable>,
        events: Arc<EventLog>,
    ) -> Self {
        let notices = Notices::new(controller.identity());
        *shared.smart.lock().unwrap_or_else(PoisonError::into_inner) = controller.smart.clone();
        let (next_look_ns, drain_deadline_ns, state) = (0, None, State::Running);
        Self {
            controller,
            shared,
            workers,
            namespaces,
            notices,
            next_look_ns,
            drain_deadline_ns,
            state,
            _events_end: EventsEnd(Arc::clone(&events)),
            events,
        }
    }

    /// Does what can be done now.
    pub(crate) fn turn(&mut self, clock: &Clock) -> worker::Turn {
        let now_ns = clock.now_ns();
        if let Some(admin) = &self.controller.admin {
            admin.recorder().leave_copy_if_asked();
        }
        match self.state {
            State::Running => self.running(now_ns),
            State::Disabling { deadline_ns } => self.disabling(now_ns, deadline_ns),
            State::Failed => {
                self.shared.refuse_all();
                self.ended_if_drained(now_ns)
            }
        }
    }

    fn running(&mut self, now_ns: u64) -> worker::Turn {
        if now_ns >= self.next_look_ns {
            self.next_look_ns = now_ns + WATCH_INTERVAL_NS;
            self.watch(now_ns);
        }
        self.see_departure();
        if self.shared.has_failure.load(Ordering::Acquire) {
            self.give_up(now_ns);
            return worker::Turn::Worked;
        }
        let Some(admin) = &mut self.controller.admin else {
            return self.ended_if_drained(now_ns);
        };
        let mut worked = admin.reap(now_ns) > 0;
        while let Some((context, finished)) = admin.next_finished() {
            if let AdminContext::Notices(asked) = context {
                let told = Told {
                    events: &self.events,
                    counts: &self.shared.event_counts,
                    namespaces: &self.namespaces,
                };
                self.notices.take(asked, &finished, &told);
            }
            answer(&self.shared, context, finished, now_ns);
        }
        let until_ns = self.notices.send(admin, now_ns);
        for _ in 0..INBOX_BATCH {
            let Some(request) = self.shared.inbox.pop() else {
                break;
            };
            worked = true;
            start(admin, request, &self.namespaces.listed(), now_ns);
        }
        admin.ring(now_ns);
        let busy = admin.busy() > 0;
        if self.may_end() {
            let deadline_ns = *self
                .drain_deadline_ns
                .get_or_insert(now_ns + self.controller.timeout_ms() * 1_000_000);
            if !busy || now_ns >= deadline_ns {
                return self.end(now_ns);
            }
            if !worked {
                return worker::Turn::Idle {
                    until_ns: Some(deadline_ns),
                };
            }
        }
        if worked {
            return worker::Turn::Worked;
        }
        worker::Turn::Idle {
            until_ns: Some(until_ns.map_or(self.next_look_ns, |until_ns| until_ns.min(self.next_look_ns))),
        }
    }

    /// A function that is gone is given up. One that is wanted back is its owner's to shut down: that takes whatever its
    /// clients need to come to an end.
    fn see_departure(&self) {
        match self.controller.backend.departure() {
            None => {}
            Some(Departure::Gone) => self
                .shared
                .fail("it was taken out, or what serves it has ended".to_owned()),
            Some(Departure::Asked) if !self.shared.removal_asked.swap(true, Ordering::AcqRel) => {
                log::warn!("the system wants the controller back");
                self.events.push(Event::RemovalAsked);
            }
            Some(Departure::Asked) => {}
        }
    }

    /// Whether there is a departure that [`AdminWorker::see_departure`] has not seen.
    fn has_departure(controller: &Controller, shared: &Shared) -> bool {
        match controller.backend.departure() {
            None => false,
            Some(Departure::Gone) => true,
            Some(Departure::Asked) => !shared.removal_asked(),
        }
    }

    /// CSTS.CFS, all ones, and commands that are out for too long (section 9.5).
    fn watch(&mut self, now_ns: u64) {
        match self.controller.registers.csts() {
            None => self
                .shared
                .fail("it does not answer: its registers read all ones".to_owned()),
            Some(csts) if csts.cfs() => self.shared.fail("it reports a fatal error (CSTS.CFS)".to_owned()),
            Some(_) => {}
        }
        let oldest_ns = self.controller.admin.as_ref().and_then(AdminQueue::oldest_ns);
        if oldest_ns.is_some_and(|oldest_ns| now_ns.saturating_sub(oldest_ns) > ADMIN_TIMEOUT_NS) {
            self.shared
                .fail("an admin command was not answered in time".to_owned());
        }
    }

    /// The controller has failed: nobody touches the queues, and it is disabled before any memory comes back.
    fn give_up(&mut self, now_ns: u64) {
        let why = self.shared.failure().unwrap_or_default();
        log::error!("the controller is given up: {why}");
        self.events.push(Event::ControllerFailed { reason: why });
        self.shared.set_health(Health::Failing);
        for worker in &self.workers {
            worker.give_order(worker::Order::Hold);
        }
        let registers = &self.controller.registers;
        registers.set_cc(registers.cc().with_en(false));
        let deadline_ns = now_ns.saturating_add(self.controller.timeout_ms() * 1_000_000);
        self.state = State::Disabling { deadline_ns };
    }

    fn disabling(&mut self, now_ns: u64, deadline_ns: u64) -> worker::Turn {
        let stopped = match self.controller.registers.csts() {
            Some(csts) if csts.rdy() && now_ns < deadline_ns => {
                return worker::Turn::Idle {
                    until_ns: Some(now_ns + 1_000_000),
                };
            }
            Some(csts) => !csts.rdy(),
            // It may come back, and what it then still writes nobody knows.
            None => false,
        };
        let stopped = stopped || self.controller.backend.cut_off();
        self.state = State::Failed;
        self.shared.set_health(Health::Failed);
        self.controller.gave_up(stopped);
        let order = if stopped {
            worker::Order::LostStopped
        } else {
            worker::Order::LostRunning
        };
        for worker in &self.workers {
            worker.give_order(order);
        }
        if let Some(admin) = &mut self.controller.admin {
            for context in admin.abandon(now_ns, stopped) {
                context.answer(Err(IoError::Lost));
            }
        }
        self.shared.refuse_all();
        self.events.push(Event::ControllerGivenUp { disabled: stopped });
        worker::Turn::Worked
    }

    /// The queues' workers need the controller until their own end.
    fn may_end(&self) -> bool {
        self.shared.drain.load(Ordering::Acquire) && self.workers.iter().all(|worker| worker.has_ended())
    }

    fn ended_if_drained(&mut self, now_ns: u64) -> worker::Turn {
        if self.may_end() {
            return self.end(now_ns);
        }
        worker::Turn::Idle { until_ns: None }
    }

    fn end(&mut self, now_ns: u64) -> worker::Turn {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.refuse_all();
        if let Some(admin) = &mut self.controller.admin {
            admin.recorder().set_waker(None);
            // What was not answered within CAP.TO will not be waited for. Its memory is the device's until it is disabled.
            for context in admin.abandon(now_ns, false) {
                context.answer(Err(IoError::Stopped));
            }
        }
        worker::Turn::Ended
    }

    /// After the end: shuts the controller down in order, if it is still up.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let result = self.controller.put_down();
        if self.shared.health() == Health::Live {
            self.shared.set_health(Health::Down);
        }
        let error = result.as_ref().err().map(Error::to_string);
        self.events.push(Event::ShutdownDone { error });
        result
    }
}

fn start(admin: &mut AdminQueue<AdminContext>, request: AdminRequest, namespaces: &[Namespace], now_ns: u64) {
    let AdminRequest {
        mut entry,
        data,
        tag,
        sink,
    } = request;
    if let Err(why) = check::check(&entry, &data, namespaces) {
        return sink.answer_admin(tag, Err(why));
    }
    // Where the data is, is the driver's affair alone.
    (entry.prp1, entry.prp2, entry.mptr, entry.flags) = (0, 0, 0, 0);
    let smart = AdminOpcode(entry.opcode) == AdminOpcode::GET_LOG_PAGE
        && GetLogCdw10::from(entry.cdw10).lid() == LogId::SMART.0
        && (entry.nsid, entry.cdw12, entry.cdw13) == (ALL_NAMESPACES, 0, 0);
    let context = AdminContext::Client { sink, tag, smart };
    if let Err((context, why)) = admin.submit(entry, &data, now_ns, context) {
        context.answer(Err(why));
    }
}

fn answer(shared: &Shared, context: AdminContext, finished: AdminFinished, now_ns: u64) {
    if finished.data.len() == SMART_LOG_BYTES
        && finished.completion.status().is_success()
        && context.is_smart()
    {
        *shared.smart.lock().unwrap_or_else(PoisonError::into_inner) = Some((now_ns, finished.data.clone()));
    }
    context.answer(Ok(finished));
}

/// The admin worker's thread.
pub(crate) fn run(mut worker: AdminWorker, mut waiter: Box<dyn Waiter>, clock: &Clock) -> Result<(), Error> {
    loop {
        match worker.turn(clock) {
            worker::Turn::Worked | worker::Turn::TimedOut => {}
            worker::Turn::Ended => {
                worker.controller.waiter = Some(waiter);
                return worker.finish();
            }
            worker::Turn::Idle { until_ns } => {
                let timeout =
                    until_ns.map(|until_ns| Duration::from_nanos(until_ns.saturating_sub(clock.now_ns())));
                let AdminWorker {
                    controller,
                    shared,
                    state,
                    drain_deadline_ns,
                    ..
                } = &worker;
                let admin = controller.admin.as_ref();
                waiter.wait(timeout, &mut || {
                    let asked = admin.is_some_and(|admin| admin.recorder().copy_asked());
                    asked
                        || match state {
                            State::Running => {
                                shared.has_news(drain_deadline_ns.is_some())
                                    || AdminWorker::has_departure(controller, shared)
                                    || admin.is_some_and(AdminQueue::has_completion)
                            }
                            State::Disabling { .. } => false,
                            State::Failed => !shared.inbox.is_empty() || shared.drain.load(Ordering::Acquire),
                        }
                });
                let fired = waiter.take_interrupts();
                if let Some(admin) = &worker.controller.admin
                    && fired > 0
                {
                    admin.recorder().interrupts(fired, !admin.has_completion());
                }
            }
        }
    }
}
