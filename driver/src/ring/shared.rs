//! What a ring's worker and other threads share: orders, and those who wait for results.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::{Geometry, flag, word};
use crate::dma::{RegisteredMemory, SharedMemory};
use crate::scheme::Errno;

/// Reads of one ring that may wait.
const MAX_WAITING: usize = 16;

/// Who is told that something is over.
pub(crate) type Then<T> = Box<dyn FnOnce(Result<T, Errno>) + Send>;

/// What the worker's thread and others share of a ring.
pub(crate) struct Shared {
    memory: Arc<SharedMemory>,
    geometry: Geometry,
    /// Results put there, ever. The word in the memory says the same a moment later, to those who may believe it.
    pub(super) posted: AtomicU32,
    pub(super) has_orders: AtomicBool,
    /// Nothing more is to be taken.
    pub(super) closed: AtomicBool,
    pub(super) has_waiting: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) orders: Vec<Order>,
    waiting: Vec<Then<(u32, u32)>>,
    /// Why nothing comes any more.
    over: Option<Errno>,
}

pub(super) enum Order {
    Register(u32, Arc<RegisteredMemory>, bool, Then<()>),
    Unregister(u32, Then<()>),
}

impl Shared {
    /// Of a ring that is new.
    pub(super) fn new(memory: &Arc<SharedMemory>, geometry: Geometry) -> Self {
        Self {
            memory: Arc::clone(memory),
            geometry,
            posted: AtomicU32::new(0),
            has_orders: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            has_waiting: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Results that the client has not taken.
    ///
    /// # Errors
    /// `EIO`: the client says that it has taken others than there are.
    fn available(&self) -> Result<u32, Errno> {
        let head = load(&self.memory, word::CQ_HEAD);
        let available = self.posted.load(Ordering::Relaxed).wrapping_sub(head);
        if available <= self.geometry.cq_entries {
            Ok(available)
        } else {
            Err(Errno::EIO)
        }
    }

    /// Calls `then` when there are results, with how many and the flags: at once, or on the worker's thread.
    pub(crate) fn wait(&self, then: Then<(u32, u32)>) {
        let refused = {
            let mut state = self.lock();
            match state.over {
                Some(why) => Some((then, why)),
                None if state.waiting.len() >= MAX_WAITING => Some((then, Errno::EAGAIN)),
                None => {
                    state.waiting.push(then);
                    self.has_waiting.store(true, Ordering::Relaxed);
                    None
                }
            }
        };
        if let Some((then, why)) = refused {
            return then(Err(why));
        }
        // Either the worker sees that somebody waits, or what it has posted is seen here.
        fence(Ordering::SeqCst);
        self.answer_waiting();
    }

    /// Tells those who wait, if there is something.
    pub(super) fn answer_waiting(&self) {
        let available = self.available();
        if available == Ok(0) {
            return;
        }
        self.end_waiting(available.map(|available| (available, load(&self.memory, word::FLAGS))));
    }

    /// Whether the worker has said that it sleeps. That the client may change the word harms nobody else.
    pub(crate) fn needs_wakeup(&self) -> bool {
        load(&self.memory, word::FLAGS) & flag::NEED_WAKEUP != 0
    }

    /// Those who wait are told this.
    pub(crate) fn end_waiting(&self, what: Result<(u32, u32), Errno>) {
        let waiting = {
            let mut state = self.lock();
            self.has_waiting.store(false, Ordering::Relaxed);
            std::mem::take(&mut state.waiting)
        };
        for then in waiting {
            then(what);
        }
    }

    /// Makes `memory` buffer `index`, and tells where it is for the device if asked; `then` is called when it is, or cannot be. The worker has to be nudged.
    pub(crate) fn register(
        &self,
        index: u32,
        memory: Arc<RegisteredMemory>,
        tells_runs: bool,
        then: Then<()>,
    ) {
        self.give(Order::Register(index, memory, tells_runs, then));
    }

    /// Takes buffer `index` back; `then` is called when no command uses it any more. The worker has to be nudged.
    pub(crate) fn unregister(&self, index: u32, then: Then<()>) {
        self.give(Order::Unregister(index, then));
    }

    /// Nothing more is to be taken, and the ring ends when all that was is answered. The worker has to be nudged.
    pub(crate) fn close(&self) {
        {
            // As `give`: who takes the orders clears the mark with this lock held.
            let _state = self.lock();
            self.closed.store(true, Ordering::Relaxed);
            // Also where no orders are taken any more.
            self.has_orders.store(true, Ordering::Release);
        }
        self.end_waiting(Err(Errno::EBADF));
    }

    fn give(&self, order: Order) {
        let mut state = self.lock();
        let Some(why) = state.over else {
            state.orders.push(order);
            return self.has_orders.store(true, Ordering::Release);
        };
        drop(state);
        order.refuse(why);
    }

    /// Nothing comes any more.
    pub(super) fn end(&self, why: Errno) {
        let orders = {
            let mut state = self.lock();
            state.over.get_or_insert(why);
            std::mem::take(&mut state.orders)
        };
        for order in orders {
            order.refuse(why);
        }
        self.end_waiting(Err(why));
    }
}

impl Order {
    fn refuse(self, why: Errno) {
        match self {
            Self::Register(_, _, _, then) | Self::Unregister(_, then) => then(Err(why)),
        }
    }
}

/// One of the driver's words. They are in the first page, which there is.
#[inline]
pub(super) fn load(memory: &SharedMemory, offset: usize) -> u32 {
    memory.word(offset).map_or(0, |word| word.load(Ordering::Acquire))
}

#[inline]
pub(super) fn store(memory: &SharedMemory, offset: usize, value: u32) {
    if let Some(word) = memory.word(offset) {
        word.store(value, Ordering::Release);
    }
}
