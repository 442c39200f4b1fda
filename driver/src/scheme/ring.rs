//! The rings' file: `N/ring`.

use std::sync::{Arc, Mutex};

use super::data::Volume;
use super::pending::Pending;
use super::quota::{Client, Kept};
use super::service::{BlockService, RegisteredMemory, SharedMemory};
use super::{Errno, Reply, lock};
use crate::ring::layout::Geometry;
use crate::ring::message::Message;
use crate::ring::server::{Rights, Server};
use crate::ring::shared::{Shared, Then};

/// What a read answers with: results that are there and flags, 32 bits each.
const ANSWER_BYTES: usize = 8;
/// What the file is said to have. Linux does one write after the other where they would make a file longer, so that one client's
/// message would wait for the answer to another's.
pub(crate) const SHOWN_BYTES: u64 = 4096;

/// What a memory costs its user at least: it is a descriptor and a mapping of the driver's, which are not without end either.
const LEAST_COST_BYTES: usize = 256 << 10;

/// One open `N/ring`.
pub(crate) struct RingFile {
    volume: Arc<Volume>,
    service: Arc<dyn BlockService>,
    client: Arc<Client>,
    rights: Rights,
    /// The handle's number, by which rings are spread over queues.
    id: u64,
    state: Mutex<State>,
}

enum State {
    New,
    SettingUp,
    Open { shared: Arc<Shared>, queue: usize },
    Closed,
}

impl RingFile {
    /// For a handle that may or may not be read.
    pub(crate) fn new(
        volume: Arc<Volume>,
        service: Arc<dyn BlockService>,
        client: Arc<Client>,
        reads: bool,
        id: u64,
    ) -> Arc<Self> {
        let rights = Rights {
            read: reads,
            write: true,
            physical: client.uid() == 0,
        };
        Arc::new(Self {
            volume,
            service,
            client,
            rights,
            id,
            state: Mutex::new(State::New),
        })
    }

    /// A message by itself. Memory comes with [`RingFile::share`], where the system's servers know how it is named.
    pub(crate) fn write(&self, data: Vec<u8>, pending: Pending) {
        #[cfg(target_os = "redox")]
        if let Some(name) = Message::decode(&data).as_ref().and_then(Message::memory) {
            // Nothing there says whose memory it is.
            if self.client.uid() != 0 {
                return pending.answer(Err(Errno::EACCES));
            }
            return match SharedMemory::of_name(&name.name, name.len_bytes) {
                Ok(memory) => self.share(data, Some(Arc::new(memory)), pending),
                Err(error) => pending.answer(Err(error.raw_os_error().map_or(Errno::EINVAL, Errno))),
            };
        }
        self.share(data, None, pending);
    }

    /// A message, with the memory that it names.
    pub(crate) fn share(&self, data: Vec<u8>, memory: Option<Arc<SharedMemory>>, pending: Pending) {
        let Some(message) = Message::decode(&data) else {
            return pending.answer(Err(Errno::EINVAL));
        };
        let len = data.len();
        let then: Then<()> = Box::new(move |result| {
            pending.answer(result.map(|()| Reply::Written { buffer: data, len }));
        });
        match (message, memory) {
            (
                Message::Setup {
                    geometry, tells_runs, ..
                },
                Some(memory),
            ) => then(self.set_up(geometry, memory, tells_runs)),
            (Message::Register { tells_runs: true, .. }, Some(_)) if !self.rights.physical => {
                then(Err(Errno::EACCES));
            }
            (
                Message::Register {
                    index, tells_runs, ..
                },
                Some(memory),
            ) => match self.taken(memory) {
                Ok(memory) => {
                    self.with_ring(then, |shared, then| {
                        shared.register(index, memory, tells_runs, then)
                    });
                }
                Err(errno) => then(Err(errno)),
            },
            (Message::Unregister { index }, None) => {
                self.with_ring(then, |shared, then| shared.unregister(index, then));
            }
            (Message::Wake, None) => self.with_ring(then, |_, then| then(Ok(()))),
            _ => then(Err(Errno::EINVAL)),
        }
    }

    /// Does something with the ring, and has its worker look.
    fn with_ring(&self, then: Then<()>, what: impl FnOnce(&Shared, Then<()>)) {
        match self.ring() {
            Ok((shared, queue)) => {
                what(&shared, then);
                self.service.nudge(queue);
            }
            Err(errno) => then(Err(errno)),
        }
    }

    fn ring(&self) -> Result<(Arc<Shared>, usize), Errno> {
        match &*lock(&self.state) {
            State::Open { shared, queue } => Ok((Arc::clone(shared), *queue)),
            State::New | State::SettingUp => Err(Errno::EINVAL),
            State::Closed => Err(Errno::EBADF),
        }
    }

    /// Memory at the client's cost, known to the device.
    fn taken(&self, memory: Arc<SharedMemory>) -> Result<Arc<RegisteredMemory>, Errno> {
        let mut kept = Kept::new(Arc::clone(&self.client));
        kept.set(memory.len().max(LEAST_COST_BYTES))
            .map_err(|_| Errno::ENOMEM)?;
        Ok(self.service.register(memory, Box::new(kept)))
    }

    fn set_up(&self, geometry: Geometry, memory: Arc<SharedMemory>, tells_runs: bool) -> Result<(), Errno> {
        {
            let mut state = lock(&self.state);
            match *state {
                State::New => *state = State::SettingUp,
                State::SettingUp | State::Open { .. } => return Err(Errno::EBUSY),
                State::Closed => return Err(Errno::EBADF),
            }
        }
        let made = self.make(geometry, memory, tells_runs);
        let mut state = lock(&self.state);
        match made {
            Ok((server, shared, queue)) if !matches!(*state, State::Closed) => {
                *state = State::Open { shared, queue };
                drop(state);
                self.service.attach(queue, Box::new(server));
                Ok(())
            }
            Ok(_) => Err(Errno::EBADF),
            Err(errno) => {
                if matches!(*state, State::SettingUp) {
                    *state = State::New;
                }
                Err(errno)
            }
        }
    }

    fn make(
        &self,
        geometry: Geometry,
        memory: Arc<SharedMemory>,
        tells_runs: bool,
    ) -> Result<(Server, Arc<Shared>, usize), Errno> {
        let memory = self.taken(memory)?;
        let (queue, qid) = self.service.queue_for(self.id);
        // Not the volume: it has the driver, which would then have itself.
        let partitions = Arc::clone(&self.volume.partitions);
        let changed = Box::new(move |bytes: &_, size_bytes| partitions.changed(bytes, size_bytes));
        let ids = (self.volume.nsid(), qid);
        let (server, shared) = Server::new(memory, geometry, ids, self.rights, tells_runs, changed)?;
        Ok((server, shared, queue))
    }

    /// Is answered when there are results.
    pub(crate) fn read(&self, mut buffer: Vec<u8>, pending: Pending) {
        if buffer.len() < ANSWER_BYTES {
            return pending.answer(Err(Errno::EINVAL));
        }
        let (shared, queue) = match self.ring() {
            Ok(ring) => ring,
            Err(errno) => return pending.answer(Err(errno)),
        };
        shared.wait(Box::new(move |available| {
            pending.answer(available.map(|(available, flags)| {
                for (into, from) in buffer
                    .iter_mut()
                    .zip(available.to_le_bytes().into_iter().chain(flags.to_le_bytes()))
                {
                    *into = from;
                }
                Reply::Read {
                    buffer,
                    len: ANSWER_BYTES,
                }
            }));
        }));
        if shared.needs_wakeup() {
            self.service.nudge(queue);
        }
    }

    /// Who waits is told to come again (`EINTR`).
    pub(crate) fn wake(&self) {
        if let Ok((shared, _)) = self.ring() {
            shared.end_waiting(Err(Errno::EINTR));
        }
    }

    /// The handle is gone: the ring ends when all that was taken is answered.
    pub(crate) fn close(&self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Closed);
        if let State::Open { shared, queue } = state {
            shared.close();
            self.service.nudge(queue);
        }
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        // The tree may go with handles that are open.
        self.close();
    }
}
