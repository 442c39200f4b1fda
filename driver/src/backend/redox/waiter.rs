//! How a thread sleeps on Redox: in one read of an event queue of its own.
//!
//! The queue is subscribed to the interrupt, to a pipe into which wakers write, to a timer, and to whatever the
//! [`Watcher`] adds. What the kernel does there decides how this looks:
//!
//! - **Nothing is merged.** Each interrupt is an event that waits in the kernel until it is read. A read takes many, and
//!   an owner that never sleeps calls [`Waiter::collect`] now and then.
//! - **Timers pile up.** Each write to the timer is one more entry that the kernel looks at on every tick, and none can
//!   be taken back. So one is set only if none that is set already comes in time.
//! - **The clock is coarse, and may step back.** A timer that fires early costs a look; one that never fires is
//!   forgotten after [`LOST_NS`].
//! - **Events are not levels.** An interrupt from before the subscription is not told; the owner's look at its queue,
//!   after the announcement, finds what it brought.
//!
//! No wake-up is lost, for the reason that [`nvme_emulator::Arming`] gives: the sleeper arms its bell and looks again. What
//! comes after that look finds the bell armed, and puts an event into the queue, which stays there until it is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nvme_emulator::Arming;
use syscall::data::Event;
use syscall::error::{EAGAIN, EINTR, EIO, Error, Result};
use syscall::flag::{EVENT_READ, EventFlags, O_NONBLOCK, O_RDWR};

use super::super::{BackendError, Waiter, Waker, Watched, Watcher};
use crate::clock::Clock;
use crate::redox::{Descriptor, Failure, System};

#[cfg(test)]
mod tests;

/// The kernel looks at its timers on each tick, which is about this long. A shorter sleep with a timeout lasts until
/// the next tick. It is not cut shorter by looking again and again instead, not even while the controller starts: that
/// has a few such sleeps in all, and whoever else runs on the CPU meanwhile needs it.
pub(crate) const SHORTEST_SLEEP: Duration = Duration::from_millis(4);
const TICK_NS: u64 = 4_000_000;
/// A timer that comes later than wanted by no more than this will do.
const SLACK_NS: u64 = 1_000_000;
/// Timers that a waiter has set and that have not fired. With as many it sleeps a tick at a time until they have.
const MAX_TIMERS: usize = 16;
/// A timer that should have fired this long ago is not waited for any more.
const LOST_NS: u64 = 1_000_000_000;

const EVENT_BYTES: usize = size_of::<Event>();
/// Events that one read takes.
const BATCH: usize = 64;
/// Reads for which [`Waiter::collect`] goes on at most.
const COLLECT_READS: usize = 64;

/// An interrupt of the function, as a descriptor of `/scheme/irq`. Waiters may share it: each is told of it by itself.
#[derive(Debug)]
pub(crate) struct Interrupt {
    descriptor: Descriptor,
    acknowledge: bool,
}

impl Interrupt {
    /// The interrupt behind `descriptor`. `acknowledge`: a line (INTx), which is masked when it has fired until its
    /// count is written back. A message (MSI, MSI-X) needs nothing.
    pub(crate) const fn new(descriptor: Descriptor, acknowledge: bool) -> Self {
        Self {
            descriptor,
            acknowledge,
        }
    }

    /// Lets the line fire again. If it has been let already, by another waiter, nothing happens; if it has fired again
    /// meanwhile, neither, since that is another event, after which this is called again.
    fn acknowledge(&self) -> Result<()> {
        let mut count = [0; size_of::<usize>()];
        if self.descriptor.read(&mut count)? == count.len() {
            self.descriptor.write(&count)?;
        }
        Ok(())
    }
}

/// Puts the thread of one queue to sleep. See the module.
pub(crate) struct RedoxWaiter {
    shared: Arc<Shared>,
    interrupt: Arc<Interrupt>,
    pipe: Descriptor,
    timers: Timers,
    buffer: Box<[u8]>,
    interrupts: u64,
    /// An interrupt was seen that is not acknowledged yet; also at first, since the line may have fired before.
    unacknowledged: bool,
    /// Something does not work, and it has been said.
    reported: bool,
}

/// What wakers and the watcher need.
struct Shared {
    arming: Arming,
    queue: Descriptor,
    pipe: Descriptor,
    watched: Mutex<WatchedList>,
}

#[derive(Default)]
struct WatchedList {
    /// By descriptor, which an event names.
    entries: Vec<(usize, Arc<Watched>)>,
    /// The waiter is gone.
    closed: bool,
}

/// The timer and what has been asked of it.
struct Timers {
    descriptor: Descriptor,
    clock: Clock,
    /// When those that have not fired are to, on `clock`.
    set_ns: Vec<u64>,
}

/// What a read of the queue has brought.
struct Batch {
    full: bool,
    woken: bool,
}

impl RedoxWaiter {
    /// A waiter for `interrupt`. Opens all that it will need.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(
        system: &Arc<dyn System>,
        interrupt: Arc<Interrupt>,
        clock: Clock,
    ) -> std::result::Result<Self, Failure> {
        let open = |path: &str, flags| {
            Descriptor::open(system, path, flags).map_err(Failure::of(format!("opening {path} for a waiter")))
        };
        let queue = open("/scheme/event", O_RDWR)?;
        let pipe = open("/scheme/pipe", O_RDWR | O_NONBLOCK)?;
        let writer = pipe
            .dup(b"write")
            .map_err(Failure::of("opening the other end of a waiter's pipe"))?;
        let timer = open("/scheme/time/4", O_RDWR)?;
        let shared = Shared {
            arming: Arming::new(),
            queue,
            pipe: writer,
            watched: Mutex::default(),
        };
        for (what, descriptor) in [
            ("pipe", &pipe),
            ("timer", &timer),
            ("interrupt", &interrupt.descriptor),
        ] {
            shared
                .subscribe(descriptor.number(), EVENT_READ)
                .map_err(Failure::of(format!(
                    "subscribing a waiter's event queue to its {what}"
                )))?;
        }
        Ok(Self {
            shared: Arc::new(shared),
            unacknowledged: interrupt.acknowledge,
            interrupt,
            pipe,
            timers: Timers {
                descriptor: timer,
                clock,
                set_ns: Vec::with_capacity(MAX_TIMERS + 8),
            },
            buffer: vec![0; BATCH * EVENT_BYTES].into(),
            interrupts: 0,
            reported: false,
        })
    }

    fn acknowledge(&mut self) {
        if std::mem::take(&mut self.unacknowledged)
            && let Err(error) = self.interrupt.acknowledge()
        {
            self.unacknowledged = true;
            self.report("acknowledging the controller's interrupt", error);
        }
    }

    /// Reads what is in the queue, at most [`BATCH`] events; waits if there is none.
    fn take(&mut self) -> Result<Batch> {
        let bytes = self.shared.queue.read(&mut self.buffer)?;
        let (mut events, mut wakes) = (0, 0);
        for bytes in self.buffer.chunks_exact(EVENT_BYTES).take(bytes / EVENT_BYTES) {
            let mut event = Event::default();
            event.copy_from_slice(bytes);
            events += 1;
            if event.id == self.interrupt.descriptor.number() {
                self.interrupts += 1;
                self.unacknowledged = self.interrupt.acknowledge;
            } else if event.id == self.pipe.number() {
                wakes += 1;
            } else if event.id == self.timers.descriptor.number() {
                self.timers.fired();
            } else if let Some(watched) = self.shared.watched().find(event.id) {
                watched.set();
            }
        }
        if events == 0 {
            return Err(Error::new(EIO));
        }
        if wakes > 0 {
            // One byte for each event, and no more: a read of an empty pipe may wait.
            let mut bytes = [0; BATCH];
            if let Some(bytes) = bytes.get_mut(..wakes)
                && let Err(error) = self.pipe.read(bytes)
                && error != Error::new(EAGAIN)
            {
                return Err(error);
            }
        }
        Ok(Batch {
            full: events == BATCH,
            woken: wakes > 0,
        })
    }

    /// Reads what is in the queue, without waiting: there is always an event in it that it has put there itself.
    fn drain(&mut self) -> Result<()> {
        let mut rings = true;
        for _ in 0..COLLECT_READS {
            if rings {
                match self.shared.ring() {
                    // A full pipe has its events in the queue.
                    Err(error) if error != Error::new(EAGAIN) => return Err(error),
                    _ => {}
                }
            }
            let batch = self.take()?;
            // A wake may be an old one, with more behind it: only a read that had room left has seen the end.
            if batch.woken && !batch.full {
                break;
            }
            rings = batch.woken;
        }
        Ok(())
    }

    /// Says once what does not work.
    fn report(&mut self, what: &str, error: Error) {
        if !std::mem::replace(&mut self.reported, true) {
            log::error!(
                "{what}: {error}; its thread looks every {SHORTEST_SLEEP:?} instead of sleeping until it is wanted, \
                 which works but is slow: restart the driver"
            );
        }
    }

    /// Says what went wrong, and lets the owner look again after a while.
    fn fail(&mut self, what: &str, error: Error) {
        if error == Error::new(EINTR) {
            return;
        }
        self.report(what, error);
        std::thread::sleep(SHORTEST_SLEEP);
    }
}

impl Waiter for RedoxWaiter {
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut dyn FnMut() -> bool) {
        // The owner has looked at its queue since the interrupt. From here on the line may fire again, and what came
        // before is found by the look below.
        self.acknowledge();
        if self
            .shared
            .arming
            .arm(|| ready() || timeout == Some(Duration::ZERO))
        {
            let slept = match timeout.map_or(Ok(()), |timeout| self.timers.set(timeout)) {
                Ok(()) if self.unacknowledged && self.interrupt.acknowledge => Err(None),
                Ok(()) => self.take().map_err(|error| Some(("waiting for events", error))),
                Err(error) => Err(Some(("setting a timer", error))),
            };
            self.shared.arming.disarm();
            match slept {
                // There may be more, from a time without sleep; without this each would cost its owner a look.
                Ok(batch) if batch.full => self.collect(),
                Ok(_) => {}
                Err(Some((what, error))) => self.fail(what, error),
                // The line stays masked: nothing would wake the owner.
                Err(None) => std::thread::sleep(SHORTEST_SLEEP),
            }
        }
    }

    fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.shared);
        Waker::new(move || shared.wake())
    }

    fn take_interrupts(&mut self) -> u64 {
        std::mem::take(&mut self.interrupts)
    }

    fn collect(&mut self) {
        if let Err(error) = self.drain() {
            self.report("reading events", error);
        }
        self.acknowledge();
    }

    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Watcher>)
    }
}

impl Drop for RedoxWaiter {
    fn drop(&mut self) {
        // Wakers and the watcher may outlive the waiter, and with them the queue, which nobody reads any more. The
        // kernel does not take subscriptions away with a queue either.
        let mut watched = self.shared.watched();
        watched.closed = true;
        let watched = watched.entries.drain(..).map(|(descriptor, _)| descriptor);
        for descriptor in watched.chain([
            self.interrupt.descriptor.number(),
            self.pipe.number(),
            self.timers.descriptor.number(),
        ]) {
            self.shared.unsubscribe(descriptor);
        }
    }
}

impl Shared {
    fn wake(&self) {
        if self.arming.fire()
            && let Err(error) = self.ring()
            // A pipe that is full has told the sleeper already.
            && error != Error::new(EAGAIN)
        {
            log::warn!("a waker could not write to its pipe: {error}");
            self.arming.give_back();
        }
    }

    fn ring(&self) -> Result<()> {
        self.pipe.write(&[0]).map(drop)
    }

    fn watched(&self) -> MutexGuard<'_, WatchedList> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel put `flags` of `descriptor` into the queue; none: no more. An event says the descriptor's number.
    fn subscribe(&self, descriptor: usize, flags: EventFlags) -> Result<()> {
        let subscription = Event {
            id: descriptor,
            flags,
            data: descriptor,
        };
        match self.queue.write(&subscription)? {
            EVENT_BYTES => Ok(()),
            _ => Err(Error::new(EIO)),
        }
    }

    fn unsubscribe(&self, descriptor: usize) {
        if let Err(error) = self.subscribe(descriptor, EventFlags::empty()) {
            log::debug!("an event queue could not be taken off descriptor {descriptor}: {error}");
        }
    }
}

impl WatchedList {
    fn find(&self, descriptor: usize) -> Option<&Arc<Watched>> {
        let mut entries = self.entries.iter();
        let (_, watched) = entries.find(|(of, _)| *of == descriptor)?;
        Some(watched)
    }
}

impl Watcher for Shared {
    fn watch(&self, descriptor: usize) -> std::result::Result<Arc<Watched>, BackendError> {
        let mut list = self.watched();
        if list.closed {
            return Err(BackendError::System(format!(
                "descriptor {descriptor} cannot be watched: the thread that would be woken has ended"
            )));
        }
        let watched = match list.find(descriptor) {
            Some(watched) => Arc::clone(watched),
            None => {
                self.subscribe(descriptor, EVENT_READ).map_err(|error| {
                    BackendError::System(format!("descriptor {descriptor} cannot be watched: {error}"))
                })?;
                let watched = Arc::new(Watched::default());
                list.entries.push((descriptor, Arc::clone(&watched)));
                watched
            }
        };
        drop(list);
        // Not every scheme tells what was there before the subscription.
        watched.set();
        self.wake();
        Ok(watched)
    }

    fn ignore(&self, descriptor: usize) {
        let mut list = self.watched();
        let watched = list.entries.len();
        list.entries.retain(|(of, _)| *of != descriptor);
        if list.entries.len() < watched {
            self.unsubscribe(descriptor);
        }
    }
}

impl Timers {
    /// Sees to it that a timer fires when `timeout` is over: at the first tick after, or a little later.
    fn set(&mut self, timeout: Duration) -> Result<()> {
        let now_ns = self.clock.now_ns();
        let mut timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.set_ns.retain(|at_ns| at_ns.saturating_add(LOST_NS) > now_ns);
        if self.set_ns.len() >= MAX_TIMERS {
            timeout_ns = timeout_ns.min(TICK_NS);
        }
        let at_ns = now_ns.saturating_add(timeout_ns);
        let enough_ns = at_ns.saturating_add(SLACK_NS);
        if self.set_ns.iter().any(|set_ns| *set_ns <= enough_ns) {
            return Ok(());
        }
        // The kernel's own clock, which need not run as this one does.
        let mut time = [0; TIME_BYTES];
        if self.descriptor.read(&mut time)? != TIME_BYTES {
            return Err(Error::new(EIO));
        }
        let kernel_at_ns = ns_of(time).saturating_add(timeout_ns.into());
        if self.descriptor.write(&time_of(kernel_at_ns))? != TIME_BYTES {
            return Err(Error::new(EIO));
        }
        self.set_ns.push(at_ns);
        Ok(())
    }

    /// One has fired: the earliest.
    fn fired(&mut self) {
        let earliest = self.set_ns.iter().enumerate().min_by_key(|(_, at_ns)| **at_ns);
        if let Some((index, _)) = earliest {
            self.set_ns.swap_remove(index);
        }
    }
}

/// A time as the kernel writes it (`TimeSpec`): seconds in 8 bytes, nanoseconds in 4, and 4 bytes of nothing.
const TIME_BYTES: usize = 16;
const NS_PER_S: u128 = 1_000_000_000;

fn ns_of(time: [u8; TIME_BYTES]) -> u128 {
    let time = u128::from_le_bytes(time);
    u128::from(time as u64) * NS_PER_S + u128::from((time >> 64) as u32)
}

fn time_of(ns: u128) -> [u8; TIME_BYTES] {
    ((ns / NS_PER_S) | ((ns % NS_PER_S) << 64)).to_le_bytes()
}
