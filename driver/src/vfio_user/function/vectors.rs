//! MSI-X: where each vector's messages go, and what keeps them back.
//!
//! A message is a write to an eventfd of the client's. It goes out if MSI-X is enabled and neither the function nor the
//! vector is masked; while something is masked it is pending, and goes out when that ends. What a client writes to the
//! table's entries changes nothing, see [`QUIRKS`](crate::vfio_user::QUIRKS).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nvme_emulator::Interrupts;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// Vectors that a function can have (PCI Local Bus 3.0, section 6.8.2.3).
pub(crate) const MAX_VECTORS: u16 = 2048;

/// What [`Vectors::unblocking`] gives its task before it is looked for a client that holds it up.
const PATIENCE: Duration = Duration::from_secs(1);

/// All vectors of the function.
pub(crate) struct Vectors {
    enabled: AtomicBool,
    masked: AtomicBool,
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    eventfd: RwLock<Option<Arc<OwnedFd>>>,
    masked: AtomicBool,
    pending: AtomicBool,
}

impl Vectors {
    /// `count` vectors that go nowhere.
    pub(crate) fn new(count: u16) -> Self {
        Self {
            enabled: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            slots: (0..count).map(|_| Slot::default()).collect(),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// MSI-X Enable and Function Mask are so now.
    pub(crate) fn set_control(&self, enabled: bool, masked: bool) {
        self.enabled.store(enabled, Ordering::Release);
        self.masked.store(masked, Ordering::Release);
        if !enabled {
            for slot in &self.slots {
                slot.pending.store(false, Ordering::Release);
            }
        }
        self.release();
    }

    /// From now on `vector` goes to `eventfd`; `None`: nowhere.
    ///
    /// # Errors
    /// What is no eventfd could make the device wait for whoever has the other end. No such vector.
    pub(crate) fn set_eventfd(&self, vector: u32, eventfd: Option<OwnedFd>) -> Result<(), Errno> {
        let slot = self.slot(vector)?;
        if let Some(eventfd) = &eventfd
            && !is_eventfd(eventfd)
        {
            return Err(Errno::INVAL);
        }
        *slot.eventfd.write().unwrap_or_else(PoisonError::into_inner) = eventfd.map(Arc::new);
        Ok(())
    }

    /// Masks or unmasks `vector`.
    ///
    /// # Errors
    /// No such vector.
    pub(crate) fn set_masked(&self, vector: u32, masked: bool) -> Result<(), Errno> {
        self.slot(vector)?.masked.store(masked, Ordering::Release);
        self.release();
        Ok(())
    }

    /// Fires `vector` because a client wants it to.
    ///
    /// # Errors
    /// No such vector.
    pub(crate) fn trigger(&self, vector: u32) -> Result<(), Errno> {
        self.slot(vector)?.signal();
        Ok(())
    }

    /// Bit n % 64 of word n / 64: vector n is pending.
    pub(crate) fn pending_words(&self) -> impl Iterator<Item = u64> + '_ {
        self.slots.chunks(64).map(|slots| {
            let bits = slots.iter().enumerate();
            bits.fold(0, |word, (bit, slot)| {
                word | u64::from(slot.pending.load(Ordering::Acquire)) << bit
            })
        })
    }

    /// No client any more: everything goes nowhere, and is as new.
    pub(crate) fn forget(&self) {
        for slot in &self.slots {
            *slot.eventfd.write().unwrap_or_else(PoisonError::into_inner) = None;
            slot.masked.store(false, Ordering::Release);
        }
        self.set_control(false, false);
    }

    /// Does `task`, in which somebody tells interrupts or is waited for who does. A client may have filled up an eventfd that
    /// it has not made non-blocking: whoever writes to it then waits, and is freed.
    pub(crate) fn unblocking<R>(&self, task: impl FnOnce() -> R) -> R {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let helper = std::thread::Builder::new().name("nvme-unblock".to_owned());
            let unblock = move || {
                while is_done.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    log::warn!("an interrupt of the client's is waited in: its eventfds are emptied");
                    self.unblock();
                }
            };
            if let Err(error) = helper.spawn_scoped(scope, unblock) {
                log::warn!("what waits for a client's interrupts is not watched over: {error}");
            }
            let result = task();
            drop(done);
            result
        })
    }

    /// Empties the eventfds that are full, so that whoever waits in a write to one goes on. They do not block any more after
    /// this: only for clients that have brought something to a stop.
    fn unblock(&self) {
        for slot in &self.slots {
            let Some(eventfd) = slot.target() else { continue };
            // One that is not full is nobody's trouble, and reading it could be: its client may make it block again.
            if has_room(&eventfd) {
                continue;
            }
            let unblocked = rustix::fs::fcntl_getfl(&eventfd)
                .and_then(|flags| rustix::fs::fcntl_setfl(&eventfd, flags | OFlags::NONBLOCK));
            if unblocked.is_ok() {
                let _ = rustix::io::read(&eventfd, &mut [0; 8]);
            }
        }
    }

    fn slot(&self, vector: u32) -> Result<&Slot, Errno> {
        self.slots.get(vector as usize).ok_or(Errno::INVAL)
    }

    fn passes(&self, slot: &Slot) -> bool {
        self.enabled.load(Ordering::Acquire)
            && !self.masked.load(Ordering::Acquire)
            && !slot.masked.load(Ordering::Acquire)
    }

    /// Sends what was pending and is not masked any more.
    fn release(&self) {
        // Either this sees what `raise` has marked, or that sees what has changed.
        fence(Ordering::SeqCst);
        for slot in &self.slots {
            if slot.pending.load(Ordering::Acquire)
                && self.passes(slot)
                && slot.pending.swap(false, Ordering::AcqRel)
            {
                slot.signal();
            }
        }
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        let Some(slot) = self.slots.get(usize::from(vector)) else {
            return;
        };
        if self.passes(slot) {
            return slot.signal();
        }
        if self.enabled.load(Ordering::Acquire) {
            slot.pending.store(true, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.passes(slot) && slot.pending.swap(false, Ordering::AcqRel) {
                slot.signal();
            }
        }
    }
}

impl Slot {
    fn target(&self) -> Option<Arc<OwnedFd>> {
        self.eventfd
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn signal(&self) {
        // Without the lock, so that whoever sets another one never waits for this write.
        if let Some(eventfd) = self.target() {
            // One that is full has been told often enough.
            if let Err(error) = rustix::io::write(&eventfd, &1u64.to_ne_bytes())
                && error != Errno::AGAIN
            {
                log::debug!("an interrupt could not be told: {error}");
            }
        }
    }
}

/// Whether it is an eventfd: the system gives all of them one name. Room for one more write is what a new one has.
fn is_eventfd(descriptor: &OwnedFd) -> bool {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
    let named = name.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]");
    named && has_room(descriptor)
}

/// Whether a write to an eventfd would not wait, as it is now.
fn has_room(eventfd: &OwnedFd) -> bool {
    let fd = eventfd.as_fd();
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&at_once)) == Ok(1)
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn with_eventfd(count: u16, vector: u32) -> (Vectors, OwnedFd) {
        let vectors = Vectors::new(count);
        let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        vectors
            .set_eventfd(vector, Some(ours.try_clone().unwrap()))
            .unwrap();
        (vectors, ours)
    }

    fn told(eventfd: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(eventfd, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                0
            }
        }
    }

    #[test]
    fn nothing_is_told_before_msix_is_enabled() {
        let (vectors, ours) = with_eventfd(4, 2);
        vectors.raise(2);
        assert_eq!(told(&ours), 0);
        vectors.set_control(true, false);
        assert_eq!(told(&ours), 0, "a message that was not sent is not kept");
        vectors.raise(2);
        vectors.raise(1);
        vectors.raise(9);
        assert_eq!(told(&ours), 1);
        vectors.set_control(false, false);
        vectors.raise(2);
        assert_eq!(told(&ours), 0);
    }

    #[test]
    fn what_is_masked_is_pending_and_comes_afterwards_once() {
        let (vectors, ours) = with_eventfd(70, 65);
        vectors.set_control(true, true);
        vectors.raise(65);
        vectors.raise(65);
        assert_eq!(told(&ours), 0);
        assert_eq!(vectors.pending_words().collect::<Vec<_>>(), [0, 2]);
        vectors.set_masked(65, true).unwrap();
        vectors.set_control(true, false);
        assert_eq!(told(&ours), 0, "still masked by itself");
        vectors.set_masked(65, false).unwrap();
        assert_eq!(told(&ours), 1);
        assert_eq!(vectors.pending_words().collect::<Vec<_>>(), [0, 0]);
        vectors.set_control(true, true);
        vectors.raise(65);
        vectors.forget();
        vectors.set_control(true, false);
        assert_eq!(told(&ours), 0);
    }

    #[test]
    fn only_eventfds_are_taken() {
        let vectors = Vectors::new(1);
        let memory = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(vectors.set_eventfd(0, Some(memory)), Err(Errno::INVAL));
        let (read, _write) = std::io::pipe().unwrap();
        assert_eq!(vectors.set_eventfd(0, Some(read.into())), Err(Errno::INVAL));
        assert_eq!(vectors.set_eventfd(1, None), Err(Errno::INVAL));
        let full = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&full, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(vectors.set_eventfd(0, Some(full)), Err(Errno::INVAL));
    }

    #[test]
    fn a_device_that_waits_in_a_full_eventfd_is_freed() {
        let vectors = Vectors::new(1);
        let ours = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        vectors.set_eventfd(0, Some(ours.try_clone().unwrap())).unwrap();
        vectors.set_control(true, false);
        rustix::io::write(&ours, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        std::thread::scope(|scope| {
            let device = scope.spawn(|| vectors.raise(0));
            while !device.is_finished() {
                vectors.unblock();
                std::thread::yield_now();
            }
        });
    }
}
