//! The owner of one I/O queue pair: takes requests from other threads, runs loads of its own, reaps and answers.
//!
//! `Worker::turn` does what can be done at one moment and says when to come back; it never waits. The thread around
//! it is `run`, in `waiting`.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;

use crate::backend::Waker;
use crate::backlog::Item;
use crate::clock::Clock;
use crate::config::SchedulerKind;
use crate::error::IoError;
use crate::io_queue::{IoQueue, Rejected};
use crate::io_scheduler::Class;
use crate::namespace::table::NamespaceTable;
use crate::request::{Finished, Request};

pub(crate) use self::scheduled::Scheduling;
use self::scheduled::{LOAD_CLIENTS, Scheduled};
pub(crate) use self::waiting::{Waiting, run};

mod scheduled;
mod waiting;

/// Requests that other threads may have handed over before the worker has taken them.
const INBOX_REQUESTS: usize = 4096;
/// Requests taken from the inbox in one turn.
const INBOX_BATCH: usize = 64;
/// Looks at the completion queue between two turns, and two readings of the clock, of a worker that spins.
const LOOKS: u64 = 64;
/// A command that is out for longer is lost, and with it the controller.
pub(crate) const COMMAND_TIMEOUT_NS: u64 = 30_000_000_000;

/// To whom an answer goes.
pub trait Answer: Send + Sync {
    /// `tag` is the request's. Called by the worker that did the request: must not wait.
    fn answer(&self, tag: u64, finished: Finished<()>);
}

/// Where the answer to a request from another thread goes.
pub struct Remote {
    /// Who gets it.
    pub sink: Arc<dyn Answer>,
    /// The caller's own; comes back with the answer.
    pub tag: u64,
}

/// Work that lives on the worker's own thread, without a hand-over: the load generator, say.
pub trait Load: Send {
    /// Once a turn, before the doorbell is rung; may submit.
    fn turn(&mut self, now_ns: u64, port: &mut LoadPort<'_>) -> LoadState;
    /// At the end of each turn of the worker, also of one in which loads have none: all of them have had theirs, and
    /// nothing more is answered before the next one.
    fn turned(&mut self) {}
    /// The worker is about to sleep, and has said so to those who would wake it: the last moment to tell those who would
    /// have to [nudge](crate::Driver::nudge) it. Whether it may; if not it turns once more.
    fn sleeps(&mut self) -> bool {
        true
    }
    /// Whether a program of this machine has to run before this load gets on: one that has results to take, say. A worker
    /// that finds nothing to do lets others run sooner then.
    fn is_for_a_program(&self) -> bool {
        false
    }
    /// One answer; may submit again at once.
    fn finished(&mut self, done: Finished<u64>, port: &mut LoadPort<'_>);
    /// The driver stops ([`IoError::Stopped`]) or has lost the device ([`IoError::Lost`]). All requests have been
    /// answered before.
    fn stopped(&mut self, why: IoError);
}

/// What a load wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadState {
    /// It goes on as its answers come.
    Running,
    /// As `Running`, and it has done something in this turn: the worker looks for more before it sleeps.
    Worked,
    /// As `Running`, and it wants a turn at this time at the latest.
    WaitUntil(u64),
    /// It is over. If answers are outstanding they are still given.
    Done,
}

/// A load's way to its worker's queue.
pub struct LoadPort<'a> {
    queue: &'a mut IoQueue<Origin>,
    backlog: Option<&'a mut Scheduled>,
    load: u32,
    now_ns: u64,
    /// Why the worker takes nothing more, if so: a load that goes on for ever would keep it from its end.
    closed: Option<IoError>,
    outstanding: &'a mut usize,
}

impl LoadPort<'_> {
    /// Takes a request of the default class, as [`IoQueue::submit`] does.
    ///
    /// # Errors
    /// As [`LoadPort::submit_as`].
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn submit(&mut self, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
        self.submit_as(Class::default(), request)
    }

    /// Takes a request of `class`. Under a scheduler that orders requests it has its turn among those of other loads and
    /// of other threads, and this load is a client like any; otherwise it goes straight to the queue.
    ///
    /// # Errors
    /// As [`IoQueue::submit`], and [`IoError::Stopped`] or [`IoError::Lost`] once the driver stops or has lost the device.
    /// After [`IoError::Busy`] there may be room in the load's next turn.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub fn submit_as(&mut self, class: Class, request: Request<u64>) -> Result<(), (Request<u64>, IoError)> {
        if let Some(why) = self.closed {
            return Err((request, why));
        }
        let load = self.load;
        let taken = match &mut self.backlog {
            None => {
                let deadline_ns = class.deadline_ns(request.arrived_ns);
                self.queue
                    .submit_by(request.map(|tag| Origin::Load { load, tag }), deadline_ns)
            }
            Some(backlog) => {
                let item = Item {
                    request: request.map(|tag| Origin::Load { load, tag }),
                    client: LOAD_CLIENTS | u64::from(load),
                    class,
                    place: 0,
                };
                backlog.take(self.queue, item)
            }
        };
        match taken {
            Ok(()) => {
                *self.outstanding += 1;
                Ok(())
            }
            Err(Rejected { request, why }) => {
                let tag_of = |origin| {
                    if let Origin::Load { tag, .. } = origin {
                        tag
                    } else {
                        0
                    }
                };
                Err((request.map(tag_of), why))
            }
        }
    }

    /// Requests that the queue itself has room for: as many as [`LoadPort::submit`] still takes, unless the scheduler orders
    /// requests. Under one that does they wait in the driver instead, and each client has its share of the places there.
    #[inline]
    pub fn room(&self) -> usize {
        self.queue.room()
    }

    /// The block size (a power of two, the number of its zeroes) and the size in bytes of a namespace that can be used, as
    /// requests are checked against in this turn.
    #[inline]
    pub fn shape_of(&self, nsid: u32) -> Option<(u32, u64)> {
        self.queue.shape_of(nsid)
    }

    /// The time of this turn.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// This load's requests that have not been answered.
    #[inline]
    pub fn inflight(&self) -> usize {
        *self.outstanding
    }
}

/// Where a request of the queue came from.
pub(crate) enum Origin {
    Load { load: u32, tag: u64 },
    Remote(Remote),
}

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Order {
    /// Work.
    Run = 0,
    /// Take nothing more; end when all is answered.
    Drain = 1,
    /// The device has failed but may still write to memory: touch nothing until the next order.
    Hold = 2,
    /// The device is disabled or gone: give everything back as lost, and end.
    LostStopped = 3,
    /// The device could not be disabled: answer everything as lost, keep its memory, and end.
    LostRunning = 4,
}

impl Order {
    fn of(value: u8) -> Self {
        match value {
            0 => Self::Run,
            1 => Self::Drain,
            2 => Self::Hold,
            3 => Self::LostStopped,
            _ => Self::LostRunning,
        }
    }
}

/// What other threads share with a worker.
pub(crate) struct Shared {
    inbox: ArrayQueue<Item<Remote>>,
    /// The [`SchedulerKind`] that there is to be.
    kind: AtomicU8,
    loads: Mutex<Vec<Box<dyn Load>>>,
    has_loads: AtomicBool,
    order: AtomicU8,
    ended: AtomicBool,
    waker: Waker,
}

impl Shared {
    pub(crate) fn new(waker: Waker, kind: SchedulerKind) -> Self {
        Self {
            kind: AtomicU8::new(kind as u8),
            inbox: ArrayQueue::new(INBOX_REQUESTS),
            loads: Mutex::default(),
            has_loads: AtomicBool::new(false),
            order: AtomicU8::new(Order::Run as u8),
            ended: AtomicBool::new(false),
            waker,
        }
    }

    /// Hands a request over. It is answered at once if it cannot be taken.
    pub(crate) fn submit(&self, item: Item<Remote>, now_ns: u64) {
        if self.order() != Order::Run || self.ended.load(Ordering::Acquire) {
            return refuse(item.request, self.why_refused(), now_ns);
        }
        if let Err(item) = self.inbox.push(item) {
            return refuse(item.request, IoError::Busy, now_ns);
        }
        // The worker may have ended between the look and the push, and nobody looks into the inbox any more.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.ended.load(Ordering::Relaxed) {
            self.refuse_all(now_ns);
        }
        self.waker.wake();
    }

    pub(crate) fn attach(&self, load: Box<dyn Load>) {
        let mut loads = self.loads.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Acquire) || self.order() != Order::Run {
            drop(loads);
            let mut load = load;
            return load.stopped(self.why_refused());
        }
        loads.push(load);
        self.has_loads.store(true, Ordering::Release);
        drop(loads);
        self.waker.wake();
    }

    /// From its next turn on the worker orders requests so, those that wait too.
    pub(crate) fn set_scheduler(&self, kind: SchedulerKind) {
        self.kind.store(kind as u8, Ordering::Release);
        self.waker.wake();
    }

    #[inline]
    fn scheduler(&self) -> SchedulerKind {
        SchedulerKind::of(self.kind.load(Ordering::Acquire))
    }

    /// Gives the worker's loads a turn, also if it sleeps.
    pub(crate) fn nudge(&self) {
        // There are none to take; but it looks, and turns all it has.
        self.has_loads.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn give_order(&self, order: Order) {
        self.order.store(order as u8, Ordering::SeqCst);
        self.waker.wake();
    }

    /// The driver stops; a failure that is being dealt with goes on being dealt with.
    pub(crate) fn give_drain(&self) {
        let (run, drain) = (Order::Run as u8, Order::Drain as u8);
        // Fails if there is another order already, which goes further than this one.
        let _ = self
            .order
            .compare_exchange(run, drain, Ordering::SeqCst, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Requests that the worker has not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// Whether the worker has ended, so that its queue is not used any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn order(&self) -> Order {
        Order::of(self.order.load(Ordering::Acquire))
    }

    fn why_refused(&self) -> IoError {
        if self.order() == Order::Drain {
            IoError::Stopped
        } else {
            IoError::Lost
        }
    }

    fn refuse_all(&self, now_ns: u64) {
        while let Some(item) = self.inbox.pop() {
            refuse(item.request, self.why_refused(), now_ns);
        }
    }

    /// Whether there is something for a worker that has seen the order `seen` and has or has not got `room`.
    fn has_news(&self, seen: Order, room: bool) -> bool {
        self.order() != seen
            || (seen < Order::Hold && room && !self.inbox.is_empty())
            || (seen == Order::Run && self.has_loads.load(Ordering::Acquire))
    }

    /// The worker's thread has panicked: what it had not taken is answered, and nothing more is taken.
    pub(crate) fn end_after_panic(&self, now_ns: u64) {
        self.order.store(Order::LostRunning as u8, Ordering::SeqCst);
        self.ended.store(true, Ordering::SeqCst);
        self.refuse_all(now_ns);
        let loads = std::mem::take(&mut *self.loads.lock().unwrap_or_else(PoisonError::into_inner));
        for mut load in loads {
            load.stopped(self.why_refused());
        }
    }
}

fn refuse(request: Request<Remote>, why: IoError, now_ns: u64) {
    answer(Finished::without_command(request, Err(why), now_ns));
}

#[inline]
fn answer(finished: Finished<Remote>) {
    let (Remote { sink, tag }, finished) = finished.take_context();
    sink.answer(tag, finished);
}

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something was done: turn again.
    Worked,
    /// Nothing to do before this time, or before a wake-up.
    Idle { until_ns: Option<u64> },
    /// The worker is done for good.
    Ended,
    /// The oldest command has been out for too long: the controller is to be given up.
    TimedOut,
}

struct ActiveLoad {
    load: Box<dyn Load>,
    outstanding: usize,
    state: LoadState,
}

/// The owner of one I/O queue pair.
pub(crate) struct Worker {
    pub(crate) queue: IoQueue<Origin>,
    shared: Arc<Shared>,
    scheduling: Scheduling,
    /// What waits under a scheduler that orders requests.
    backlog: Option<Scheduled>,
    /// What waited and could not be done when its turn came.
    refused: VecDeque<Finished<Origin>>,
    loads: Vec<Option<ActiveLoad>>,
    /// Which load, modulo their number, had the last turn first.
    first_load: usize,
    namespaces: Arc<NamespaceTable>,
    /// The version of the namespaces that the queue knows.
    version: u64,
    order: Order,
    timed_out: bool,
    /// The time of the last turn: the clock's last reading in it, but for that before the doorbell.
    turned_ns: u64,
}

impl Worker {
    pub(crate) fn new(
        queue: IoQueue<Origin>,
        shared: Arc<Shared>,
        namespaces: Arc<NamespaceTable>,
        scheduling: Scheduling,
    ) -> Self {
        Self {
            namespaces,
            version: 0,
            backlog: scheduling.backlog(),
            scheduling,
            refused: VecDeque::new(),
            queue,
            shared,
            loads: Vec::new(),
            first_load: 0,
            order: Order::Run,
            timed_out: false,
            turned_ns: 0,
        }
    }

    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Does what can be done now. The clock is read once before the pass and once before the doorbell.
    #[inline]
    pub(crate) fn turn(&mut self, clock: &Clock) -> Turn {
        self.order = self.shared.order();
        // In this order: a completion that came after the clock was read would seem to have come before.
        let seen = self.order < Order::Hold && self.queue.has_completion();
        let now_ns = clock.now_ns();
        self.turned_ns = now_ns;
        if self.order >= Order::Hold {
            return self.held(now_ns);
        }
        // Before what waits is sent on and loads go on: a namespace that has gone, or has blocks of another size now, is not
        // for them any more.
        self.know_namespaces();
        self.know_scheduler();
        let mut worked = if seen {
            self.queue.reap(now_ns) > 0
        } else {
            self.queue.reap_nothing(now_ns)
        };
        self.dispatch(now_ns);
        // While draining too: what is in the inbox was taken before the order to end.
        worked |= self.take_requests(now_ns);
        if self.order == Order::Run {
            self.take_loads();
        }
        let (until_ns, loads_worked) = self.turn_loads(now_ns);
        worked |= loads_worked;
        worked |= self.release(now_ns);
        if self.queue.has_batch() {
            worked = true;
            self.queue.ring(clock.now_ns());
        }
        // Looked at in every turn: a device that keeps a worker busy with nonsense must not put them off.
        if self.order == Order::Drain
            && self.queue.inflight() == 0
            && !self.has_backlog()
            && self.shared.inbox.is_empty()
        {
            self.end(now_ns);
            return Turn::Ended;
        }
        let oldest_ns = self.queue.oldest_ns().filter(|_| !self.timed_out);
        let limit_ns = oldest_ns.map(|oldest_ns| oldest_ns.saturating_add(COMMAND_TIMEOUT_NS));
        if limit_ns.is_some_and(|limit_ns| now_ns >= limit_ns) {
            self.timed_out = true;
            self.queue.recorder().timed_out();
            return Turn::TimedOut;
        }
        if worked {
            return Turn::Worked;
        }
        Turn::Idle {
            until_ns: [until_ns, limit_ns].into_iter().flatten().min(),
        }
    }

    fn held(&mut self, now_ns: u64) -> Turn {
        self.queue.recorder().leave_copy_if_asked();
        if self.order == Order::Hold {
            return Turn::Idle { until_ns: None };
        }
        self.queue
            .abandon(now_ns, IoError::Lost, self.order == Order::LostStopped);
        self.refuse_backlog(IoError::Lost, now_ns);
        self.dispatch(now_ns);
        self.end(now_ns);
        Turn::Ended
    }

    fn end(&mut self, now_ns: u64) {
        for active in self.loads.iter_mut().filter_map(Option::take) {
            let mut load = active.load;
            load.stopped(self.shared.why_refused());
        }
        let mut late = self.shared.loads.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.ended.store(true, Ordering::SeqCst);
        for mut load in late.drain(..) {
            load.stopped(self.shared.why_refused());
        }
        drop(late);
        self.shared.refuse_all(now_ns);
        self.queue.recorder().set_waker(None);
    }

    /// Looks for a completion a few times with nothing else in between, which sees it sooner than whole turns do, and
    /// stops at the first or when there is other news.
    #[inline]
    fn look(&mut self) {
        let mut vain = 0;
        while vain < LOOKS && !self.queue.has_completion() && !self.has_news() {
            vain += 1;
        }
        self.queue.recorder().polls_empty(vain);
    }

    /// Whether there is something new for it since its last turn, but for completions.
    #[inline]
    fn has_news(&self) -> bool {
        self.shared.has_news(self.order, self.takes_requests())
    }

    /// Gives each answer to whom it belongs.
    #[inline]
    fn dispatch(&mut self, now_ns: u64) {
        let closed = (self.order != Order::Run).then(|| self.shared.why_refused());
        while let Some(finished) = self.next_finished() {
            let (origin, finished) = finished.take_context();
            match origin {
                Origin::Load { load, tag } => {
                    let Some(Some(active)) = self.loads.get_mut(load as usize) else {
                        continue;
                    };
                    active.outstanding -= 1;
                    let outstanding = &mut active.outstanding;
                    let mut port = LoadPort {
                        queue: &mut self.queue,
                        backlog: self.backlog.as_mut(),
                        load,
                        now_ns,
                        closed,
                        outstanding,
                    };
                    active.load.finished(finished.with_context(tag), &mut port);
                }
                Origin::Remote(remote) => answer(finished.with_context(remote)),
            }
        }
    }

    #[inline]
    fn take_requests(&mut self, now_ns: u64) -> bool {
        let mut taken = 0;
        while taken < INBOX_BATCH && self.takes_requests() {
            let Some(Item {
                request,
                client,
                class,
                ..
            }) = self.shared.inbox.pop()
            else {
                break;
            };
            taken += 1;
            // After the request was taken: its sender may have learnt of the namespace just before.
            self.know_namespaces();
            let request = request.map(Origin::Remote);
            let submitted = match &mut self.backlog {
                None => {
                    let deadline_ns = class.deadline_ns(request.arrived_ns);
                    self.queue.submit_by(request, deadline_ns)
                }
                Some(backlog) => backlog.take(
                    &self.queue,
                    Item {
                        request,
                        client,
                        class,
                        place: 0,
                    },
                ),
            };
            if let Err(Rejected { request, why }) = submitted {
                let (origin, finished) = Finished::without_command(request, Err(why), now_ns).take_context();
                if let Origin::Remote(remote) = origin {
                    answer(finished.with_context(remote));
                }
            }
        }
        taken > 0
    }

    #[inline]
    fn take_loads(&mut self) {
        if !self.shared.has_loads.load(Ordering::Acquire) {
            return;
        }
        let mut new = self.shared.loads.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.has_loads.store(false, Ordering::Release);
        for load in new.drain(..) {
            let active = Some(ActiveLoad {
                load,
                outstanding: 0,
                state: LoadState::Running,
            });
            match self.loads.iter_mut().find(|place| place.is_none()) {
                Some(place) => *place = active,
                None => self.loads.push(active),
            }
        }
        drop(new);
        self.know_namespaces();
    }

    /// Sees to it that the queue knows the namespaces as they are now.
    #[inline]
    fn know_namespaces(&mut self) {
        if self.namespaces.version() != self.version {
            let (version, places) = self.namespaces.places();
            self.version = version;
            self.queue.set_namespaces(places);
        }
    }

    /// Gives each load its turn; returns when the first of them wants another, and whether one of them has done something.
    #[inline]
    fn turn_loads(&mut self, now_ns: u64) -> (Option<u64>, bool) {
        let mut until_ns: Option<u64> = None;
        let mut worked = false;
        // Another one first each time, since that one has all of the room.
        self.first_load = self.first_load.wrapping_add(1);
        let count = self.loads.len();
        let first = self.first_load.checked_rem(count).unwrap_or(0);
        for load in (first..count).chain(0..first) {
            let Some(place) = self.loads.get_mut(load) else {
                continue;
            };
            let Some(active) = place else { continue };
            if active.state != LoadState::Done && self.order == Order::Run {
                let mut port = LoadPort {
                    queue: &mut self.queue,
                    backlog: self.backlog.as_mut(),
                    load: load as u32,
                    now_ns,
                    closed: None,
                    outstanding: &mut active.outstanding,
                };
                active.state = active.load.turn(now_ns, &mut port);
            }
            match active.state {
                LoadState::Done if active.outstanding == 0 => *place = None,
                // Its turn is one of before: while draining it has none.
                LoadState::Worked if self.order == Order::Run => worked = true,
                LoadState::WaitUntil(at_ns) if self.order == Order::Run => {
                    until_ns = Some(until_ns.map_or(at_ns, |until| until.min(at_ns)))
                }
                _ => {}
            }
        }
        for active in self.loads.iter_mut().flatten() {
            active.load.turned();
        }
        (until_ns, worked)
    }
}

/// Whether some load gets on only when a program of this machine has run.
fn loads_wait(loads: &[Option<ActiveLoad>]) -> bool {
    let mut active = loads.iter().flatten();
    active.any(|active| active.state != LoadState::Done && active.load.is_for_a_program())
}

/// Tells all loads that the worker is about to sleep; whether it may.
fn loads_sleep(loads: &mut [Option<ActiveLoad>]) -> bool {
    let mut may = true;
    for active in loads.iter_mut().flatten() {
        // Each of them, also behind one that says no.
        may &= active.state == LoadState::Done || active.load.sleeps();
    }
    may
}

#[cfg(test)]
mod tests;
