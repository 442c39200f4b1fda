//! The driver's workers take requests from the sockets themselves.
//!
//! At any time one worker listens. What it takes goes into its own queue (unless the I/O scheduler has another in mind)
//! and is answered by it, so that a request which is alone crosses no thread, and only one thread is woken for it. A
//! worker that gets a whole batch at once has its hands full: the next one listens, until all of them are busy.
//!
//! When the workers end, because the controller has failed or the driver stops, the thread that attends the desk takes
//! their place: every client gets an answer, and statistics can still be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use syscall::data::Event;
use syscall::error::EINTR;
use syscall::flag::{EventFlags, O_RDWR};

use super::clerk::Desk;
use super::{Server, gather_answers};
use crate::backend::Watched;
use crate::driver::Driver;
use crate::error::IoError;
use crate::redox::socket::{BATCH, Batch};
use crate::redox::{Descriptor, Failure, System};
use crate::request::Finished;
use crate::worker::{Load, LoadPort, LoadState};

/// A listener that is awake looks at the sockets again after this time, where somebody on another CPU could have sent
/// something meanwhile.
const LOOK_NS: u64 = 20_000;
/// How often it looks where nothing tells it.
const LOOK_UNTOLD_NS: u64 = 1_000_000;
/// Batches that are taken in one turn.
const BATCHES: usize = 4;

/// Those who take requests for some servers.
pub struct Takers {
    driver: Driver,
    servers: Vec<Arc<Server>>,
    desk: Arc<Desk>,
    /// For when the workers have ended.
    events: Descriptor,
    listener: AtomicUsize,
    ended: Box<[AtomicBool]>,
    looks_often: bool,
}

impl Takers {
    /// The workers of `driver` take the requests of `servers` from now on, on a machine of `cpus` CPUs. To be called before the process gives up its
    /// namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(
        system: &Arc<dyn System>,
        driver: &Driver,
        servers: Vec<Arc<Server>>,
        desk: &Arc<Desk>,
        cpus: u16,
    ) -> Result<Arc<Self>, Failure> {
        let events = Descriptor::open(system, "/scheme/event", O_RDWR)
            .map_err(Failure::of("cannot make an event queue"))?;
        let takers = Arc::new(Self {
            driver: driver.clone(),
            servers,
            desk: Arc::clone(desk),
            events,
            listener: AtomicUsize::new(0),
            ended: (0..driver.queues()).map(|_| AtomicBool::new(false)).collect(),
            looks_often: cpus > 1,
        });
        for queue in 0..driver.queues() {
            let taker = Taker {
                takers: Arc::clone(&takers),
                queue,
                batch: Batch::default(),
                sockets: Vec::new(),
                listens: false,
                settled: false,
                looked_ns: 0,
            };
            driver.attach(queue, Box::new(taker));
        }
        Ok(takers)
    }

    /// Does what the workers leave, and what they did when they have ended. Returns only if the kernel says that there
    /// are no sockets any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn serve(&self) -> Result<(), Failure> {
        self.desk.attend();
        log::info!("the workers have ended: requests are answered by the main thread");
        for (number, server) in self.servers.iter().enumerate() {
            let event = Event {
                id: server.socket().number(),
                flags: EventFlags::EVENT_READ,
                data: number,
            };
            self.events
                .write(&event)
                .map_err(Failure::of(format!("cannot listen for scheme {}", server.name())))?;
        }
        let mut batch = Batch::default();
        loop {
            // In turn: clients who keep one socket full do not keep those of the other waiting.
            let mut more = true;
            while more {
                more = false;
                for server in &self.servers {
                    more |= server.take(&mut batch) == BATCH;
                }
            }
            let mut event = Event::default();
            match self.events.read(&mut event) {
                Ok(_) => {}
                Err(error) if error.errno == EINTR => {}
                Err(error) => return Err(Failure::of("cannot wait for requests")(error)),
            }
        }
    }

    /// Another one than `queue` listens from now on, if there is one left.
    fn hand_on(&self, queue: usize) -> bool {
        let count = self.ended.len();
        let mut after = (1..count).map(|distance| (queue + distance) % count);
        let is_left = |queue: &usize| {
            self.ended
                .get(*queue)
                .is_some_and(|ended| !ended.load(Ordering::SeqCst))
        };
        let next = after.find(is_left);
        if let Some(next) = next {
            self.listener.store(next, Ordering::SeqCst);
            self.driver.nudge(next);
        }
        next.is_some()
    }

    /// The worker of `queue` takes nothing more.
    fn end(&self, queue: usize) {
        if let Some(ended) = self.ended.get(queue) {
            ended.store(true, Ordering::SeqCst);
        }
        // Also when another one was to listen, who may have ended between its choice and now.
        let listener = self.listener.load(Ordering::SeqCst);
        let has_listener = self
            .ended
            .get(listener)
            .is_some_and(|ended| !ended.load(Ordering::SeqCst));
        if !has_listener && !self.hand_on(queue) {
            self.desk.close();
        }
    }
}

/// One worker's part.
struct Taker {
    takers: Arc<Takers>,
    queue: usize,
    batch: Batch,
    /// For each server whether there is something, where the worker's waiter says so.
    sockets: Vec<Option<Arc<Watched>>>,
    listens: bool,
    settled: bool,
    looked_ns: u64,
}

impl Taker {
    fn listen(&mut self) {
        let watcher = self.takers.driver.watcher(self.queue);
        self.sockets = self
            .takers
            .servers
            .iter()
            .map(|server| {
                let watched = watcher.as_ref()?.watch(server.socket().number());
                let failed = |error: &_| {
                    log::error!("scheme {}: {error}; it is looked at now and then", server.name())
                };
                watched.inspect_err(failed).ok()
            })
            .collect();
        self.listens = true;
    }

    fn ignore(&mut self) {
        self.listens = false;
        if let Some(watcher) = self.takers.driver.watcher(self.queue) {
            for (server, watched) in self.takers.servers.iter().zip(&self.sockets) {
                if watched.is_some() {
                    watcher.ignore(server.socket().number());
                }
            }
        }
    }

    /// Whether nothing says when there is something at one of the sockets.
    fn is_untold(&self) -> bool {
        self.sockets.iter().any(Option::is_none)
    }

    /// Takes what there is; says how many requests that were, and whether there may be more.
    fn take(&mut self, all: bool) -> (usize, bool) {
        let (mut taken, mut more) = (0, false);
        for (server, watched) in self.takers.servers.iter().zip(&self.sockets) {
            if all || watched.as_ref().is_some_and(|watched| watched.take()) {
                let full = (0..BATCHES).all(|_| {
                    let batch = server.take(&mut self.batch);
                    taken += batch;
                    batch == BATCH
                });
                if full && let Some(watched) = watched {
                    watched.set();
                }
                more |= full;
            }
        }
        (taken, more)
    }

    fn give(&self) {
        for server in &self.takers.servers {
            server.give();
        }
    }
}

impl Load for Taker {
    fn turn(&mut self, now_ns: u64, _port: &mut LoadPort<'_>) -> LoadState {
        if !std::mem::replace(&mut self.settled, true) {
            gather_answers(true);
            crate::cpu::settle(self.queue as u32);
        }
        let mut taken = 0;
        if self.takers.listener.load(Ordering::SeqCst) == self.queue {
            let begins = !self.listens;
            if begins {
                self.listen();
            }
            let interval_ns = if self.takers.looks_often {
                LOOK_NS
            } else if self.is_untold() {
                LOOK_UNTOLD_NS
            } else {
                u64::MAX
            };
            let again = now_ns.saturating_sub(self.looked_ns) >= interval_ns;
            if begins || again {
                self.looked_ns = now_ns;
            }
            let more;
            (taken, more) = self.take(begins || again);
            if more && self.takers.hand_on(self.queue) {
                self.ignore();
            }
        } else if self.listens {
            self.ignore();
        }
        if taken > 0 {
            // What was taken is in the inbox now.
            LoadState::WaitUntil(now_ns)
        } else if self.listens && self.is_untold() {
            LoadState::WaitUntil(now_ns + LOOK_UNTOLD_NS)
        } else {
            LoadState::Running
        }
    }

    fn turned(&mut self) {
        // Only now: other loads, such as a benchmark, answer clients in their turns too. And also while the worker has
        // orders to end, when what the device has finished need not wait for the rest.
        self.give();
    }

    fn finished(&mut self, _done: Finished<u64>, _port: &mut LoadPort<'_>) {}

    fn stopped(&mut self, _why: IoError) {
        if self.listens {
            self.ignore();
        }
        gather_answers(false);
        self.give();
        self.takers.end(self.queue);
    }
}
