//! `/scheme/event`: queues of events.
//!
//! An event says which descriptor, of those that a queue is subscribed to, has something new. Nothing is merged: what
//! happens n times is n events.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar};

use syscall::data::Event;
use syscall::error::{EAGAIN, EBADF, EINVAL, Error, Result};
use syscall::flag::{EventFlags, O_NONBLOCK};

use crate::kernel::{Kernel, Object, State};

/// One queue.
#[derive(Default)]
pub(crate) struct Queue {
    events: VecDeque<Event>,
    changed: Arc<Condvar>,
}

struct Subscription {
    queue: u64,
    id: usize,
    data: usize,
    flags: EventFlags,
}

/// All queues, by their descriptions, and who is subscribed to what.
#[derive(Default)]
pub(crate) struct Events {
    queues: HashMap<u64, Queue>,
    /// By the description that the events are of.
    subscriptions: HashMap<u64, Vec<Subscription>>,
}

impl Events {
    pub fn open(&mut self, description: u64) {
        self.queues.insert(description, Queue::default());
    }

    /// A description is gone: its subscriptions go, and the queue, if it is one. Subscriptions *of* a queue stay, and do
    /// nothing.
    pub fn close(&mut self, description: u64) {
        self.subscriptions.remove(&description);
        if let Some(queue) = self.queues.remove(&description) {
            queue.changed.notify_all();
        }
    }

    /// Events that wait in all queues.
    pub fn waiting(&self) -> usize {
        self.queues.values().map(|queue| queue.events.len()).sum()
    }

    /// Subscriptions that there are.
    pub fn subscribed(&self) -> usize {
        self.subscriptions.values().map(Vec::len).sum()
    }

    fn subscribe(&mut self, source: u64, queue: u64, event: Event) {
        let subscriptions = self.subscriptions.entry(source).or_default();
        let known = subscriptions
            .iter_mut()
            .position(|subscription| subscription.queue == queue && subscription.id == event.id);
        match known {
            Some(index) if event.flags.is_empty() => {
                subscriptions.swap_remove(index);
            }
            // The data of the first time stays: the kernel's table replaces the value of a key that it has, not the
            // key, and the data is part of the key.
            Some(index) => subscriptions[index].flags = event.flags,
            None if event.flags.is_empty() => {}
            None => subscriptions.push(Subscription {
                queue,
                id: event.id,
                data: event.data,
                flags: event.flags,
            }),
        }
    }

    /// Which events anybody wants of `source`.
    fn wanted(&self, source: u64) -> EventFlags {
        let subscriptions = self.subscriptions.get(&source).into_iter().flatten();
        subscriptions.fold(EventFlags::empty(), |wanted, subscription| {
            wanted | subscription.flags
        })
    }

    /// `flags` happened to `source`: an event for each queue that wants to know, and for who waits for those.
    pub fn trigger(&mut self, source: u64, flags: EventFlags) {
        let mut sources = vec![(source, flags)];
        let mut done = Vec::new();
        while let Some((source, flags)) = sources.pop() {
            for subscription in self.subscriptions.get(&source).into_iter().flatten() {
                let common = subscription.flags & flags;
                let Some(queue) = self
                    .queues
                    .get_mut(&subscription.queue)
                    .filter(|_| !common.is_empty())
                else {
                    continue;
                };
                queue.events.push_back(Event {
                    id: subscription.id,
                    flags: common,
                    data: subscription.data,
                });
                queue.changed.notify_all();
                if !done.contains(&subscription.queue) {
                    done.push(subscription.queue);
                    sources.push((subscription.queue, EventFlags::EVENT_READ));
                }
            }
        }
    }
}

/// What of `wanted` holds of a description at this moment.
fn ready(state: &State, description: u64, object: &Object, wanted: EventFlags) -> EventFlags {
    let ready = match object {
        Object::Socket(socket) => {
            let has_requests = state
                .sockets
                .get(socket)
                .is_some_and(|socket| socket.has_requests());
            if has_requests {
                EventFlags::EVENT_READ
            } else {
                EventFlags::empty()
            }
        }
        Object::PipeReader(pipe) => state
            .pipes
            .get(pipe)
            .map_or(EventFlags::empty(), |pipe| pipe.ready_to_read()),
        Object::PipeWriter(pipe) => state
            .pipes
            .get(pipe)
            .map_or(EventFlags::empty(), |pipe| pipe.ready_to_write()),
        Object::EventQueue => {
            let queue = state.events.queues.get(&description);
            let has_events = queue.is_some_and(|queue| !queue.events.is_empty());
            let readable = if has_events {
                EventFlags::EVENT_READ
            } else {
                EventFlags::empty()
            };
            readable | EventFlags::EVENT_WRITE
        }
        // Neither an interrupt nor a timer is ever ready: both only happen.
        _ => EventFlags::empty(),
    };
    ready & wanted
}

impl Kernel {
    /// Subscribes, or with no flags unsubscribes.
    pub fn write_events(&self, queue: u64, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let mut written_bytes = 0;
        for bytes in from.chunks_exact(size_of::<Event>()) {
            let mut event = Event::default();
            event.copy_from_slice(bytes);
            let source = state.description_of(event.id).ok_or(Error::new(EBADF))?;
            if source == queue {
                return Err(Error::new(EBADF));
            }
            let (_, object) = state.find(event.id)?;
            state.events.subscribe(source, queue, event);
            // Whoever is subscribed is told, not just this one.
            let wanted = state.events.wanted(source);
            let ready = ready(&state, source, &object, wanted);
            if !ready.is_empty() {
                state.events.trigger(source, ready);
            }
            written_bytes += bytes.len();
        }
        Ok(written_bytes)
    }

    /// As many events as there are and fit, waiting for the first.
    pub fn read_events(&self, queue: u64, into: &mut [u8]) -> Result<usize> {
        let mut state = self.lock();
        let waits = state.flags_of(queue) & O_NONBLOCK == 0;
        loop {
            let events = state.events.queues.get_mut(&queue).ok_or(Error::new(EBADF))?;
            if !events.events.is_empty() {
                let room = into.chunks_exact_mut(size_of::<Event>());
                let mut read_bytes = 0;
                for room in room {
                    let Some(event) = events.events.pop_front() else {
                        break;
                    };
                    room.copy_from_slice(&event);
                    read_bytes += room.len();
                }
                return Ok(read_bytes);
            }
            if !waits && into.is_empty() {
                return Ok(0);
            }
            if !waits {
                let fits = into.len() >= size_of::<Event>();
                return Err(Error::new(if fits { EAGAIN } else { EINVAL }));
            }
            let changed = Arc::clone(&events.changed);
            state = self.wait(&changed, state);
        }
    }
}
