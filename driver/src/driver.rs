//! A running driver: a controller, one worker for each of its I/O queue pairs, and one for the admin queue.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use stats_proto::event::Event;

use crate::admin::AdminRequest;
use crate::admin_worker::{self, AdminWorker};
use crate::backend::{Waiter, Watcher};
use crate::backlog::Item;
use crate::clock::Clock;
use crate::config::{PollingMode, SchedulerKind};
use crate::controller::{Controller, Identity};
use crate::dma::arena::Arena;
use crate::dma::{DmaBuffer, Held, RegisteredMemory, SharedMemory};
use crate::error::Error;
use crate::events::EventLog;
use crate::io_scheduler::IoScheduler;
use crate::namespace::Namespace;
use crate::namespace::table::NamespaceTable;
use crate::recorder::Recorder;
use crate::request::Request;
use crate::stats::QueueStats;
use crate::worker::{self, Load, Remote, Scheduling, Waiting, Worker};

pub use crate::io_scheduler::{Class, Hint, Priority};

#[cfg(test)]
mod tests;

/// A running driver. Cheap to clone; all clones are the same driver, which shuts down when the last one goes or when
/// one of them says so.
#[derive(Clone)]
pub struct Driver(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) identity: Arc<Identity>,
    pub(crate) namespaces: Arc<NamespaceTable>,
    pub(crate) clock: Clock,
    pub(crate) queues: Vec<QueueHandle>,
    pub(crate) admin: AdminHandle,
    /// The [`SchedulerKind`].
    scheduler: AtomicU8,
    /// Held while that is changed, so that the queues' are what it is in the end.
    changes_scheduler: Mutex<()>,
    /// Whether each of the controller's queues is for one class.
    has_classes: bool,
    pub(crate) instance_id: String,
    pub(crate) started_ns: u64,
    pub(crate) recorder: Arc<Recorder>,
    events: Arc<EventLog>,
    shutdown_begun: AtomicBool,
    arena: Arena,
    requests: AtomicU64,
    threads: Mutex<Threads>,
}

pub(crate) struct QueueHandle {
    pub(crate) qid: u16,
    pub(crate) entries: u32,
    pub(crate) vector: u16,
    pub(crate) mode: PollingMode,
    /// To which the queue's worker is bound.
    pub(crate) cpu: Option<u32>,
    pub(crate) stats: Arc<QueueStats>,
    shared: Arc<worker::Shared>,
    watcher: Option<Arc<dyn Watcher>>,
    /// The most requests that any document has shown as waiting.
    queued_max: AtomicU64,
}

impl QueueHandle {
    /// Requests that the queue's worker has not taken yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.shared.waiting() as u64
    }

    /// The most that waited, now that a document is about to say `queued_max`.
    pub(crate) fn raise_queued_max(&self, queued_max: u64) -> u64 {
        self.queued_max
            .fetch_max(queued_max, Ordering::Relaxed)
            .max(queued_max)
    }
}

pub(crate) struct AdminHandle {
    pub(crate) entries: u32,
    pub(crate) stats: Arc<QueueStats>,
    pub(crate) shared: Arc<admin_worker::Shared>,
}

#[derive(Default)]
struct Threads {
    workers: Vec<JoinHandle<()>>,
    admin: Option<JoinHandle<Result<(), Error>>>,
    result: Option<Result<(), Error>>,
}

/// The turning parts of a driver without threads: for simulations under a clock that is moved by hand.
///
/// Turned in any order, as often as one likes, it does what the threads would do.
pub struct Stepped {
    workers: Vec<Option<(Worker, Box<dyn Waiter>)>>,
    admin: Option<(AdminWorker, Box<dyn Waiter>)>,
    shared: Arc<admin_worker::Shared>,
    clock: Clock,
}

impl Stepped {
    /// Queue pairs, of which each has a worker to be turned.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// One worker, for a thread of the test's.
    #[cfg(test)]
    pub(crate) fn take_worker(&mut self, number: usize) -> Option<Worker> {
        self.workers
            .get_mut(number)
            .and_then(Option::take)
            .map(|(worker, _)| worker)
    }

    /// Turns one worker; says whether it did anything.
    pub fn turn_worker(&mut self, number: usize) -> bool {
        let Some(place) = self.workers.get_mut(number) else {
            return false;
        };
        let Some((worker, _)) = place else { return false };
        match worker.turn(&self.clock) {
            worker::Turn::Worked => true,
            worker::Turn::Idle { .. } => false,
            worker::Turn::Ended => {
                *place = None;
                true
            }
            worker::Turn::TimedOut => {
                self.shared.fail(timeout_text(worker.queue.qid()));
                true
            }
        }
    }

    /// Turns the admin worker; says whether it did anything.
    pub fn turn_admin(&mut self) -> bool {
        let Some((worker, _)) = &mut self.admin else {
            return false;
        };
        match worker.turn(&self.clock) {
            worker::Turn::Worked | worker::Turn::TimedOut => true,
            worker::Turn::Idle { .. } => false,
            worker::Turn::Ended => {
                if let Some((worker, _)) = self.admin.take()
                    && let Err(error) = worker.finish()
                {
                    log::error!("shutdown: {error}");
                }
                true
            }
        }
    }
}

fn timeout_text(qid: u16) -> String {
    let seconds = worker::COMMAND_TIMEOUT_NS / 1_000_000_000;
    format!("a command on queue {qid} was not answered within {seconds} s")
}

impl Driver {
    /// Starts the workers of `controller`.
    ///
    /// # Errors
    /// A thread could not be started, or no queue pair is left. The controller is then disabled.
    pub fn start(controller: Controller) -> Result<Self, Error> {
        let config = controller.config.clone();
        let shortest_sleep = controller.backend.shortest_sleep();
        let backend = Arc::clone(&controller.backend);
        let (
            driver,
            Stepped {
                workers,
                admin,
                shared,
                clock,
            },
        ) = Self::stepped(controller)?;
        let waiting = Waiting {
            mode: PollingMode::default(),
            poll_interval_ns: u64::from(config.poll_interval_us) * 1000,
            may_spin: crate::cpu::count() > 1,
            spins_for_one: !driver.identity().emulated,
            shortest_sleep_ns: u64::try_from(shortest_sleep.as_nanos()).unwrap_or(u64::MAX),
        };
        let mut threads = Threads::default();
        let spawned = (|| {
            for ((worker, waiter), queue) in workers.into_iter().flatten().zip(&driver.0.queues) {
                let (clock, shared) = (clock.clone(), Arc::clone(&shared));
                let (backend, cpu) = (Arc::clone(&backend), queue.cpu);
                let name = format!("nvme-q{}", worker.queue.qid());
                let of_worker = worker.shared();
                let waiting = Waiting {
                    mode: queue.mode,
                    ..waiting
                };
                let thread = std::thread::Builder::new().name(name).spawn(move || {
                    match cpu {
                        Some(cpu) => backend.pin_thread(cpu),
                        None => backend.settle_thread(),
                    }
                    // The controller keeps it; the worker has no more need of it.
                    drop(backend);
                    let on_timeout = |qid| shared.fail(timeout_text(qid));
                    let run = || worker::run(worker, waiter, &clock, waiting, &on_timeout);
                    // A client's `Answer` or `Load` runs here too; its panic must not leave others without answers.
                    if catch_unwind(AssertUnwindSafe(run)).is_err() {
                        of_worker.end_after_panic(clock.now_ns());
                        shared.fail("a worker of the driver panicked".to_owned());
                    }
                });
                threads
                    .workers
                    .push(thread.map_err(|error| Error::Thread(error.to_string()))?);
            }
            if let Some((worker, waiter)) = admin {
                let (clock, shared) = (clock.clone(), Arc::clone(&shared));
                let workers: Vec<_> = driver
                    .0
                    .queues
                    .iter()
                    .map(|queue| Arc::clone(&queue.shared))
                    .collect();
                let events = Arc::clone(&driver.0.events);
                let thread = std::thread::Builder::new()
                    .name("nvme-admin".to_owned())
                    .spawn(move || {
                        let run = || admin_worker::run(worker, waiter, &clock);
                        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
                            shared.end_after_panic();
                            for worker in &workers {
                                worker.give_order(worker::Order::LostRunning);
                            }
                            events.push(Event::ControllerFailed {
                                reason: Error::Panicked.to_string(),
                            });
                            events.close();
                            Err(Error::Panicked)
                        })
                    });
                threads.admin = Some(thread.map_err(|error| Error::Thread(error.to_string()))?);
            }
            Ok(())
        })();
        *driver.threads() = threads;
        // On an error the driver goes, and joins what was started.
        spawned.map(|()| driver)
    }

    /// The same without threads: `Stepped` is turned by hand.
    ///
    /// # Errors
    /// The backend has no more waiters, or no queue pair is left.
    pub fn stepped(mut controller: Controller) -> Result<(Self, Stepped), Error> {
        let clock = controller.clock.clone();
        let config = controller.config.clone();
        let namespaces = Arc::new(NamespaceTable::new(Arc::clone(controller.namespaces())));
        let mut workers = Vec::new();
        let mut queues = Vec::new();
        let mut has_classes = controller.queues.len() >= Priority::ALL.len();
        while let Some((vector, class)) = controller.queues.front().map(|queue| (queue.vector, queue.class)) {
            // A queue that was taken before leaves the others in places of other classes than their own.
            has_classes &= class == Some(queues.len() % Priority::ALL.len());
            let waiter = controller.backend.waiter(vector)?;
            let Some(queue) = controller.take_queue() else {
                break;
            };
            let shared = Arc::new(worker::Shared::new(waiter.waker(), config.scheduler));
            queue.recorder().set_waker(Some(waiter.waker()));
            queues.push(QueueHandle {
                qid: queue.qid(),
                entries: queue.entries(),
                vector,
                mode: config.polling.of(queue.qid()),
                cpu: controller.backend.cpu_of(vector),
                stats: queue.stats(),
                shared: Arc::clone(&shared),
                watcher: waiter.watcher(),
                queued_max: AtomicU64::new(0),
            });
            workers.push(Some((
                Worker::new(queue, shared, Arc::clone(&namespaces), Scheduling::of(&config)),
                waiter,
            )));
        }
        if queues.is_empty() {
            let what = "all of its I/O queue pairs have been taken; leave one for the driver".to_owned();
            return Err(Error::Unsupported { what });
        }
        let mut waiter = match controller.waiter.take() {
            Some(waiter) => waiter,
            None => controller.backend.waiter(0)?,
        };
        // Those of the bring-up have been dealt with.
        waiter.take_interrupts();
        let shared = Arc::new(admin_worker::Shared::new(waiter.waker()));
        let admin_queue = controller.admin.as_ref().ok_or(Error::Absent)?;
        admin_queue.recorder().set_waker(Some(waiter.waker()));
        let admin = AdminHandle {
            entries: admin_queue.entries(),
            stats: admin_queue.stats(),
            shared: Arc::clone(&shared),
        };
        let events = Arc::new(EventLog::new(clock.clone()));
        let inner = Inner {
            identity: Arc::clone(controller.identity()),
            namespaces: Arc::clone(&namespaces),
            scheduler: AtomicU8::new(config.scheduler as u8),
            changes_scheduler: Mutex::default(),
            has_classes,
            instance_id: instance_id(),
            started_ns: controller.opened_ns,
            recorder: Arc::clone(&controller.recorder),
            events: Arc::clone(&events),
            shutdown_begun: AtomicBool::new(false),
            arena: controller.arena.clone(),
            clock: clock.clone(),
            queues,
            admin,
            requests: AtomicU64::new(0),
            threads: Mutex::default(),
        };
        let of_workers = inner
            .queues
            .iter()
            .map(|queue| Arc::clone(&queue.shared))
            .collect();
        let admin_worker = AdminWorker::new(
            controller,
            Arc::clone(&shared),
            of_workers,
            namespaces,
            Arc::clone(&events),
        );
        events.push(inner.started());
        let stepped = Stepped {
            workers,
            admin: Some((admin_worker, waiter)),
            shared,
            clock,
        };
        Ok((Self(Arc::new(inner)), stepped))
    }

    /// The active namespaces as they are now, in ascending order of their numbers.
    pub fn namespaces(&self) -> Arc<[Namespace]> {
        self.0.namespaces.listed()
    }

    /// Who the controller says it is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The driver's clock: `arrived_ns` of requests is its time.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// I/O queue pairs.
    pub fn queues(&self) -> usize {
        self.0.queues.len()
    }

    /// The number of I/O queue pair `queue` (from 0), or 0.
    pub fn qid(&self, queue: usize) -> u16 {
        self.0.queues.get(queue).map_or(0, |queue| queue.qid)
    }

    /// What adds to the descriptors of the operating system that wake the worker of I/O queue pair `queue` (from 0);
    /// `None` where its waiter has nothing of the kind.
    pub fn watcher(&self, queue: usize) -> Option<Arc<dyn Watcher>> {
        self.0.queues.get(queue)?.watcher.clone()
    }

    /// A zeroed buffer that the controller reaches by DMA.
    ///
    /// # Errors
    /// No memory, or more than the backend gives in one piece (4 MiB on most).
    pub fn allocate(&self, len_bytes: usize) -> Result<DmaBuffer, Error> {
        Ok(self.0.arena.allocate(len_bytes)?)
    }

    /// Tells the controller of memory that is shared with others, so that data moves straight there
    /// ([`Buffer::Registered`](crate::Buffer::Registered)). Where the backend cannot do that it is copied, and counted so. May
    /// take milliseconds.
    pub fn register(&self, memory: &Arc<SharedMemory>) -> Arc<RegisteredMemory> {
        self.register_with(Arc::clone(memory), Box::new(()))
    }

    /// The same; `held` goes with the memory.
    pub(crate) fn register_with(&self, memory: Arc<SharedMemory>, held: Held) -> Arc<RegisteredMemory> {
        Arc::new(RegisteredMemory::new(memory, &self.0.arena, held))
    }

    /// Hands a request over to the queue that the scheduler chooses. Never waits; the request is answered exactly
    /// once through its sink, also when it is refused, possibly before this returns.
    pub fn submit(&self, mut hint: Hint, request: Request<Remote>) {
        let mut turn = 0;
        let kind = self.0.scheduler();
        match kind {
            SchedulerKind::None => {}
            SchedulerKind::RoundRobin => turn = self.0.requests.fetch_add(1, Ordering::Relaxed),
            SchedulerKind::CpuAffinity | SchedulerKind::Priority | SchedulerKind::Deadline => {
                hint.cpu = hint.cpu.or_else(crate::cpu::current);
            }
        }
        let queue = self.0.io_scheduler(kind).choose(hint, turn);
        if let Some(queue) = self.0.queues.get(queue) {
            let Hint { client, class, .. } = hint;
            let item = Item {
                request,
                client,
                class,
                place: 0,
            };
            queue.shared.submit(item, self.0.clock.now_ns());
        }
    }

    /// How requests are scheduled.
    pub fn scheduler(&self) -> SchedulerKind {
        self.0.scheduler()
    }

    /// Which I/O queue pair (from 0) is for the load `number` of `priority`: its number modulo how many there are for
    /// its class.
    pub fn queue_for(&self, priority: Priority, number: usize) -> usize {
        self.0.io_scheduler(self.scheduler()).of_class(priority, number)
    }

    /// Schedules requests so from now on, those that wait too: none of them is lost, and none is answered twice.
    pub fn set_scheduler(&self, kind: SchedulerKind) {
        let changes = &self.0.changes_scheduler;
        let _changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.scheduler();
        if before == kind {
            return;
        }
        self.0.scheduler.store(kind as u8, Ordering::Relaxed);
        for queue in &self.0.queues {
            queue.shared.set_scheduler(kind);
        }
        self.0.events.push(Event::SchedulerChanged {
            before: before.to_string(),
            now: kind.to_string(),
        });
    }

    /// Hands an admin command over, as [`Driver::submit`] does.
    pub fn admin(&self, request: AdminRequest) {
        self.0.admin.shared.submit(request);
    }

    /// Runs `load` on the worker that owns I/O queue pair `queue` (from 0; beyond the last it goes round).
    pub fn attach(&self, queue: usize, load: Box<dyn Load>) {
        if let Some(queue) = self.0.queues.get(queue % self.0.queues.len().max(1)) {
            queue.shared.attach(load);
        }
    }

    /// Gives the loads of I/O queue pair `queue` (from 0) a turn, also if their worker sleeps.
    pub fn nudge(&self, queue: usize) {
        if let Some(queue) = self.0.queues.get(queue) {
            queue.shared.nudge();
        }
    }

    /// What the driver has counted, with or without the histograms.
    pub fn stats(&self, histograms: bool) -> stats_proto::stats::StatsDocument {
        crate::stats::document::render(&self.0, histograms)
    }

    /// The last commands, of all queues, that failed, were slow ([`Config::slow_us`](crate::Config::slow_us)) or were
    /// never answered: at most 256, oldest first. Holds no queue up.
    pub fn slow_commands(&self) -> Vec<stats_proto::slow::SlowCommand> {
        self.0.recorder.commands()
    }

    /// What happens to the driver and its controller.
    pub fn events(&self) -> &Arc<EventLog> {
        &self.0.events
    }

    /// Whether the system wants the controller's function back ([`Event::RemovalAsked`]): whoever has the driver is to shut
    /// it down and drop it, since the system waits for that.
    pub fn removal_asked(&self) -> bool {
        self.0.admin.shared.removal_asked()
    }

    /// Shuts down in order: nothing new is taken, what is out is awaited, the controller is told and disabled. Called
    /// on one of the driver's own threads (by an [`Answer`](crate::worker::Answer), say), it only gives the order.
    /// Afterwards requests are answered with [`IoError::Stopped`](crate::IoError::Stopped). A second call gives the
    /// result of the first.
    ///
    /// # Errors
    /// The controller did not answer or finish in time.
    pub fn shutdown(&self) -> Result<(), Error> {
        self.0.shutdown()
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Threads> {
        self.0.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn io_scheduler(&self, kind: SchedulerKind) -> IoScheduler {
        IoScheduler::new(kind, self.queues.len()).with_classes(self.has_classes)
    }

    /// How requests are scheduled.
    pub(crate) fn scheduler(&self) -> SchedulerKind {
        SchedulerKind::of(self.scheduler.load(Ordering::Relaxed))
    }

    /// The first event.
    fn started(&self) -> Event {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Event::DriverStarted {
            driver_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: self.instance_id.clone(),
            model: self.identity.model.clone(),
            serial: self.identity.serial.clone(),
            firmware: self.identity.firmware.clone(),
            io_queues: count(self.queues.len()),
            namespaces: count(self.namespaces.listed().len()),
        }
    }

    fn shutdown(&self) -> Result<(), Error> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &threads.result {
            return result.clone();
        }
        if !self.shutdown_begun.swap(true, Ordering::Relaxed) {
            self.events.push(Event::ShutdownBegun);
        }
        for queue in &self.queues {
            queue.shared.give_drain();
        }
        let here = std::thread::current().id();
        let of_admin = threads.admin.as_ref().map(|admin| admin.thread().id());
        if of_admin == Some(here) || threads.workers.iter().any(|worker| worker.thread().id() == here) {
            // Nobody can wait for himself; the threads end by themselves, the admin thread last.
            self.admin.shared.drain();
            return Ok(());
        }
        let panicked = |_| Error::Panicked;
        let mut result = Ok(());
        for worker in threads.workers.drain(..) {
            result = result.and(worker.join().map_err(panicked));
        }
        self.admin.shared.drain();
        if let Some(admin) = threads.admin.take() {
            result = result.and(admin.join().unwrap_or_else(|panic| Err(panicked(panic))));
        }
        threads.result = Some(result.clone());
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            log::error!("shutdown: {error}");
        }
    }
}

/// Different for each driver that is started: the time, and the process.
fn instance_id() -> String {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{number}", since_epoch.as_nanos(), std::process::id())
}
