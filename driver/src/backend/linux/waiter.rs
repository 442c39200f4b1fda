//! How a thread sleeps on Linux: in one `ppoll`.
//!
//! It waits there for an eventfd of its own, into which wakers write, for the eventfd of its interrupt, and for whatever
//! the [`Watcher`] adds.
//!
//! - **No wake-up is lost**, for the reason that [`nvme_emulator::Arming`] gives: the sleeper arms its bell and looks again.
//!   What comes after that look finds the bell armed and writes to the eventfd, which stays readable until it is read. An
//!   interrupt writes to its own always; what was read from it by a waiter that was awake is found by that look.
//! - **An eventfd has one count**, and several waiters may share an interrupt (a function with fewer vectors than queues,
//!   or a line). Whoever reads the count adds it to what the [`Signal`] has had altogether and wakes the others.
//! - **A line** (INTx) stays masked once it has fired until it is let again ([`Signal::line`]), which a waiter does before
//!   it sleeps: its owner has looked at its queue by then. A queue of another waiter that has not been looked at makes the
//!   line fire again, until it has.
//! - **Whoever cannot sleep looks.** A call that fails is reported once, and the owner looks again after a while.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nvme_emulator::Arming;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::backend::{BackendError, Waiter, Waker, Watched, Watcher};

#[cfg(test)]
mod tests;

/// How long a waiter that cannot sleep sleeps instead.
const PAUSE: Duration = Duration::from_millis(1);

/// Something that an eventfd tells: an interrupt of the function, or a notice of the system's. Any number of waiters may
/// wait for it; each is woken.
pub struct Signal {
    descriptor: OwnedFd,
    /// What has been read from the eventfd, all in all.
    fired: AtomicU64,
    waiters: Mutex<Vec<Weak<Shared>>>,
    line: Option<Line>,
}

/// What is particular to a line.
struct Line {
    /// It has fired and has not been let again.
    is_masked: AtomicBool,
    unmask: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

impl Signal {
    /// Something that needs no answer: a message (MSI, MSI-X), or a notice.
    ///
    /// # Errors
    /// The system's: this process has too many files open, say.
    pub fn new() -> io::Result<Arc<Self>> {
        Self::with(None)
    }

    /// A line, which is masked when it has fired, until `unmask` is called.
    ///
    /// # Errors
    /// As [`Signal::new`].
    pub fn line(unmask: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> io::Result<Arc<Self>> {
        Self::with(Some(Line {
            is_masked: AtomicBool::new(false),
            unmask: Box::new(unmask),
        }))
    }

    fn with(line: Option<Line>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            descriptor: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            fired: AtomicU64::new(0),
            waiters: Mutex::default(),
            line,
        }))
    }

    /// How often it has fired. What the eventfd still holds is taken in by [`Signal::take_in`] or by a waiter.
    pub fn fired(&self) -> u64 {
        self.fired.load(Ordering::Relaxed)
    }

    /// Reads the eventfd, and wakes all who wait for this if it held something.
    ///
    /// # Errors
    /// The system's.
    pub fn take_in(&self) -> io::Result<()> {
        self.take_in_by(None)
    }

    /// As [`Signal::take_in`], by the waiter `reader`, which is awake.
    fn take_in_by(&self, reader: Option<&Shared>) -> io::Result<()> {
        let count = read_count(&self.descriptor)?;
        if count == 0 {
            return Ok(());
        }
        if let Some(line) = &self.line {
            line.is_masked.store(true, Ordering::Release);
        }
        self.fired.fetch_add(count, Ordering::Relaxed);
        for waiter in self.waiters().iter().filter_map(Weak::upgrade) {
            if !reader.is_some_and(|reader| std::ptr::eq(reader, &raw const *waiter)) {
                waiter.wake();
            }
        }
        Ok(())
    }

    /// Lets a line fire again, if it has.
    fn unmask(&self) -> io::Result<()> {
        match &self.line {
            Some(line) if line.is_masked.swap(false, Ordering::AcqRel) => (line.unmask)().inspect_err(|_| {
                line.is_masked.store(true, Ordering::Release);
            }),
            _ => Ok(()),
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Signal {
    /// The eventfd: whoever is to tell writes to it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signal({} times)", self.fired())
    }
}

/// Puts the thread of one queue to sleep. See the module.
pub struct LinuxWaiter {
    shared: Arc<Shared>,
    interrupt: Arc<Signal>,
    /// Of [`Signal::fired`], what has been taken already.
    taken: u64,
    notices: Vec<Arc<Signal>>,
    /// Something does not work, and it has been said.
    is_reported: bool,
}

/// What wakers, signals and the watcher need.
struct Shared {
    arming: Arming,
    bell: OwnedFd,
    watched: Mutex<WatchedList>,
}

#[derive(Default)]
struct WatchedList {
    entries: Vec<(usize, Arc<Watched>)>,
    /// The waiter is gone.
    is_closed: bool,
}

impl LinuxWaiter {
    /// A waiter for `interrupt`, which `notices` wake too.
    ///
    /// # Errors
    /// The system's.
    pub fn new(interrupt: &Arc<Signal>, notices: &[Arc<Signal>]) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            arming: Arming::new(),
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            watched: Mutex::default(),
        });
        for signal in notices.iter().chain([interrupt]) {
            signal.waiters().push(Arc::downgrade(&shared));
        }
        Ok(Self {
            shared,
            taken: interrupt.fired(),
            interrupt: Arc::clone(interrupt),
            notices: notices.to_vec(),
            is_reported: false,
        })
    }

    /// Sleeps in `ppoll`, and takes in what it says.
    fn sleep(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(timespec_of);
        let signals = || [&self.interrupt].into_iter().chain(&self.notices);
        // Those that are added from now on ring the bell.
        let watched: Vec<(usize, Arc<Watched>)> = self.shared.watched().entries.clone();
        let mut set = Vec::with_capacity(1 + 1 + self.notices.len() + watched.len());
        set.push(PollFd::new(&self.shared.bell, PollFlags::IN));
        for signal in signals() {
            set.push(PollFd::new(&**signal, PollFlags::IN));
        }
        for (descriptor, _) in &watched {
            let number = i32::try_from(*descriptor).map_err(|_| Errno::BADF)?;
            // SAFETY: used for `poll` only, which answers for any number: one that is closed is said to be. Whoever has it
            // watched keeps it open until it has said `ignore`.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            set.push(PollFd::from_borrowed_fd(borrowed, PollFlags::IN));
        }
        let polled = poll(&mut set, timeout.as_ref());
        self.shared.arming.disarm();
        match polled {
            Ok(0) | Err(Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut told = set.iter().map(PollFd::revents);
        if told.next().is_some_and(|told| !told.is_empty()) {
            read_count(&self.shared.bell)?;
        }
        for signal in signals() {
            if told.next().is_some_and(|told| !told.is_empty()) {
                signal.take_in_by(Some(&self.shared))?;
            }
        }
        for ((descriptor, watched), told) in watched.iter().zip(told) {
            if !told.is_empty() {
                watched.set();
            }
            // Nothing to read now or later; it would be said again and again.
            let ended = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
            if told.intersects(ended) && !told.contains(PollFlags::IN) {
                self.shared.forget(*descriptor, watched);
            }
        }
        Ok(())
    }

    /// Says once what does not work.
    fn report(&mut self, what: &str, error: &io::Error) {
        if !std::mem::replace(&mut self.is_reported, true) {
            log::error!(
                "{what}: {error}; its thread looks every {PAUSE:?} instead of sleeping until it is wanted, which works but \
                 is slow: restart the driver"
            );
        }
    }

    fn unmask(&mut self) -> bool {
        let unmasked = self.interrupt.unmask();
        if let Err(error) = &unmasked {
            self.report("unmasking the controller's interrupt", error);
        }
        unmasked.is_ok()
    }
}

impl Waiter for LinuxWaiter {
    fn wait(&mut self, timeout: Option<Duration>, ready: &mut dyn FnMut() -> bool) {
        // The owner has looked at its queue since the interrupt. From here on a line may fire again, and what came before
        // is found by the look below.
        let is_unmasked = self.unmask();
        if self
            .shared
            .arming
            .arm(|| ready() || timeout == Some(Duration::ZERO))
        {
            // A line that stays masked would not wake the owner.
            let timeout = if is_unmasked {
                timeout
            } else {
                Some(timeout.map_or(PAUSE, |timeout| timeout.min(PAUSE)))
            };
            if let Err(error) = self.sleep(timeout) {
                self.report("waiting for events", &error);
                std::thread::sleep(PAUSE);
            }
            self.shared.arming.disarm();
        }
    }

    fn waker(&self) -> Waker {
        let shared = Arc::clone(&self.shared);
        Waker::new(move || shared.wake())
    }

    fn take_interrupts(&mut self) -> u64 {
        let fired = self.interrupt.fired();
        fired.wrapping_sub(std::mem::replace(&mut self.taken, fired))
    }

    fn collect(&mut self) {
        if let Err(error) = self.interrupt.take_in_by(Some(&self.shared)) {
            self.report("reading the controller's interrupts", &error);
        }
        self.unmask();
        let watched = self.shared.watched().entries.clone();
        if !watched.is_empty() || !self.notices.is_empty() {
            // Does not sleep, and finds what is watched.
            if let Err(error) = self.sleep(Some(Duration::ZERO)) {
                self.report("looking for events", &error);
            }
        }
    }

    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        Some(Arc::clone(&self.shared) as Arc<dyn Watcher>)
    }
}

impl Drop for LinuxWaiter {
    fn drop(&mut self) {
        for signal in self.notices.iter().chain([&self.interrupt]) {
            let own = Arc::as_ptr(&self.shared);
            signal
                .waiters()
                .retain(|waiter| !std::ptr::eq(waiter.as_ptr(), own));
        }
        // What this one has read, the others that share the line will not.
        if let Err(error) = self.interrupt.unmask() {
            log::error!("unmasking the controller's interrupt: {error}");
        }
        let mut watched = self.shared.watched();
        watched.is_closed = true;
        watched.entries.clear();
    }
}

impl fmt::Debug for LinuxWaiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinuxWaiter")
    }
}

impl Shared {
    #[inline]
    fn wake(&self) {
        if self.arming.fire() {
            self.ring();
        }
    }

    /// The rare half of a wake-up.
    #[cold]
    fn ring(&self) {
        match rustix::io::write(&self.bell, &1_u64.to_ne_bytes()) {
            // A count that is full has told the sleeper already.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => {
                log::warn!("a waker could not write to its eventfd: {error}");
                self.arming.give_back();
            }
        }
    }

    fn watched(&self) -> MutexGuard<'_, WatchedList> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches `descriptor` no more, if it is still the one that `watched` was made for.
    fn forget(&self, descriptor: usize, watched: &Arc<Watched>) {
        let mut list = self.watched();
        list.entries
            .retain(|(of, with)| *of != descriptor || !Arc::ptr_eq(with, watched));
    }
}

impl Watcher for Shared {
    fn watch(&self, descriptor: usize) -> Result<Arc<Watched>, BackendError> {
        if i32::try_from(descriptor).is_err() {
            return Err(BackendError::System(format!(
                "{descriptor} cannot be watched: it is not a descriptor"
            )));
        }
        let mut list = self.watched();
        if list.is_closed {
            return Err(BackendError::System(format!(
                "descriptor {descriptor} cannot be watched: the thread that would be woken has ended"
            )));
        }
        let found = list.entries.iter().find(|(of, _)| *of == descriptor);
        let watched = match found {
            Some((_, watched)) => Arc::clone(watched),
            None => {
                let watched = Arc::new(Watched::default());
                list.entries.push((descriptor, Arc::clone(&watched)));
                watched
            }
        };
        drop(list);
        // What is there already is found by the owner's first look, or by the `poll` that it then goes to.
        self.wake();
        Ok(watched)
    }

    fn ignore(&self, descriptor: usize) {
        self.watched().entries.retain(|(of, _)| *of != descriptor);
        // A sleeper must not go on with a number that may be another file's next.
        self.wake();
    }
}

/// What an eventfd has counted since it was read last.
fn read_count(descriptor: &OwnedFd) -> io::Result<u64> {
    let mut count = [0; 8];
    match rustix::io::read(descriptor, &mut count) {
        Ok(8) => Ok(u64::from_ne_bytes(count)),
        // Somebody else has read it. A signal cannot interrupt what does not wait, but nothing would be lost.
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) => Err(error.into()),
    }
}

fn timespec_of(timeout: Duration) -> Timespec {
    // Longer than anybody waits, and not so long that a kernel would refuse it.
    const LONGEST: Duration = Duration::from_secs(1 << 31);
    let timeout = timeout.min(LONGEST);
    Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    }
}
