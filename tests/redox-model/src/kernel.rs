//! What the kernel knows, under one lock, and what wakes whom.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use syscall::error::{EBADF, Error, Result};

use crate::calls::{Calls, Operation, What};
use crate::controller::Controller;
use crate::event::Events;
use crate::irq::Irqs;
use crate::machine::Quirks;
use crate::pages::Pages;
use crate::pipe::Pipe;
use crate::socket::Socket;
use crate::time::Time;
use crate::violation::Violation;

/// What a descriptor stands for.
#[derive(Clone)]
pub(crate) enum Object {
    EventQueue,
    PipeReader(u64),
    PipeWriter(u64),
    Clock(ClockUse),
    Irq(u8),
    IrqBsp,
    Directory,
    /// A file of `/scheme/sys`, with what was in it when it was opened.
    Text(Arc<[u8]>),
    MemoryRoot,
    Memory(MemoryUse),
    Translation,
    Socket(u64),
    Channel(Arc<Controller>),
}

/// What a descriptor of `/scheme/time` is good for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClockUse {
    Both,
    Reading,
    Resolution,
    Timer,
}

/// What a descriptor of `/scheme/memory` maps.
#[derive(Clone, Copy)]
pub(crate) enum MemoryUse {
    Zeroed,
    ZeroedContiguous,
    Physical,
}

impl Object {
    pub fn what(&self) -> What {
        match self {
            Self::EventQueue => What::Event,
            Self::PipeReader(_) | Self::PipeWriter(_) => What::Pipe,
            Self::Clock(_) => What::Time,
            Self::Irq(_) | Self::IrqBsp => What::Irq,
            Self::Directory => What::Other,
            Self::Text(_) => What::Sys,
            Self::MemoryRoot | Self::Memory(_) | Self::Translation => What::Memory,
            Self::Socket(_) => What::Socket,
            Self::Channel(_) => What::Pcid,
        }
    }
}

/// What descriptors share that were made of each other by a plain `dup`.
pub(crate) struct Description {
    pub object: Object,
    /// As given to `open`: `O_NONBLOCK` is what matters here.
    pub flags: usize,
    /// How far a text has been read.
    pub position: usize,
    descriptors: usize,
    /// The path it was opened by, for whoever looks for leaks.
    path: String,
}

#[derive(Clone, Copy)]
struct Descriptor {
    description: u64,
    closes_on_exec: bool,
}

/// Everything that the kernel knows but memory.
pub(crate) struct State {
    descriptors: BTreeMap<usize, Descriptor>,
    descriptions: HashMap<u64, Description>,
    next_descriptor: usize,
    next_id: u64,
    pub calls: Calls,
    pub events: Events,
    pub pipes: HashMap<u64, Pipe>,
    pub time: Time,
    pub irqs: Irqs,
    pub sockets: HashMap<u64, Socket>,
    /// Socket and root, by name.
    pub schemes: BTreeMap<String, (u64, usize)>,
    pub affinity: Vec<(String, u32)>,
    pub violations: Vec<Violation>,
}

impl State {
    /// A number that nothing has yet.
    pub fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A descriptor for `object`. Numbers are not used twice, so that a descriptor that was closed stays one.
    pub fn insert(&mut self, object: Object, flags: usize, path: &str) -> usize {
        let id = self.next_id();
        self.insert_as(id, object, flags, path)
    }

    /// As [`insert`](Self::insert), where the description has to have the number `id`.
    pub fn insert_as(&mut self, id: u64, object: Object, flags: usize, path: &str) -> usize {
        self.descriptions.insert(
            id,
            Description {
                object,
                flags,
                position: 0,
                descriptors: 0,
                path: path.to_owned(),
            },
        );
        self.insert_again(id)
    }

    /// One more descriptor for what has one already.
    pub fn insert_again(&mut self, description: u64) -> usize {
        if let Some(shared) = self.descriptions.get_mut(&description) {
            shared.descriptors += 1;
        }
        let number = self.next_descriptor;
        self.next_descriptor += 1;
        self.descriptors.insert(
            number,
            Descriptor {
                description,
                closes_on_exec: false,
            },
        );
        number
    }

    /// What `descriptor` stands for, as its description's number and the object.
    pub fn find(&mut self, descriptor: usize) -> Result<(u64, Object)> {
        let found = self.descriptors.get(&descriptor).and_then(|open| {
            let description = self.descriptions.get(&open.description)?;
            Some((open.description, description.object.clone()))
        });
        if found.is_none() {
            self.violations.push(Violation::Descriptor { number: descriptor });
        }
        found.ok_or(Error::new(EBADF))
    }

    /// As [`find`](Self::find), and counted as a call.
    pub fn find_for(&mut self, operation: Operation, descriptor: usize) -> Result<(u64, Object)> {
        let found = self.find(descriptor);
        let what = found.as_ref().map_or(What::Other, |(_, object)| object.what());
        self.calls.note(operation, what);
        found
    }

    pub fn description(&mut self, id: u64) -> Option<&mut Description> {
        self.descriptions.get_mut(&id)
    }

    pub fn flags_of(&self, id: u64) -> usize {
        self.descriptions
            .get(&id)
            .map_or(0, |description| description.flags)
    }

    pub fn path_of(&self, id: u64) -> String {
        let description = self.descriptions.get(&id);
        description
            .map(|description| description.path.clone())
            .unwrap_or_default()
    }

    /// Whether it is open, for `fevent`: no violation if it is not.
    pub fn description_of(&self, descriptor: usize) -> Option<u64> {
        Some(self.descriptors.get(&descriptor)?.description)
    }

    pub fn set_close_on_exec(&mut self, descriptor: usize) -> Result<()> {
        self.find_for(Operation::SetCloseOnExec, descriptor)?;
        if let Some(open) = self.descriptors.get_mut(&descriptor) {
            open.closes_on_exec = true;
        }
        Ok(())
    }

    /// Takes `descriptor` away; what it stood for, if it was the last one.
    pub fn remove(&mut self, descriptor: usize) -> Result<Option<(u64, Object)>> {
        self.find_for(Operation::Close, descriptor)?;
        let Some(open) = self.descriptors.remove(&descriptor) else {
            return Ok(None);
        };
        let Some(description) = self.descriptions.get_mut(&open.description) else {
            return Ok(None);
        };
        description.descriptors -= 1;
        if description.descriptors > 0 {
            return Ok(None);
        }
        let description = self.descriptions.remove(&open.description);
        Ok(description.map(|description| (open.description, description.object)))
    }

    /// Takes the number from `descriptor`, which stays open: it is nobody's in the machine.
    pub fn hide(&mut self, descriptor: usize) {
        self.descriptors.remove(&descriptor);
    }

    /// Open descriptors: number, path, and whether it closes on exec.
    pub fn open_descriptors(&self) -> Vec<(usize, String, bool)> {
        let open = self.descriptors.iter();
        open.map(|(number, open)| (*number, self.path_of(open.description), open.closes_on_exec))
            .collect()
    }

    /// Forgets all descriptors, as at the end of the machine.
    pub fn forget_descriptors(&mut self) -> Vec<Object> {
        self.descriptors.clear();
        self.descriptions
            .drain()
            .map(|(_, description)| description.object)
            .collect()
    }
}

/// The kernel.
pub(crate) struct Kernel {
    state: Mutex<State>,
    pub pages: Arc<Pages>,
    pub quirks: Quirks,
    pub cpus: u32,
    /// There is a new timeout, the time was moved, or the machine ends.
    pub timers: Condvar,
    /// A call was made, read or answered: for tests that wait for that.
    pub progress: Condvar,
}

impl Kernel {
    pub fn new(cpus: u32, quirks: Quirks, seed: u64) -> Self {
        Self {
            state: Mutex::new(State {
                descriptors: BTreeMap::new(),
                descriptions: HashMap::new(),
                // The first three are the standard streams everywhere.
                next_descriptor: 3,
                next_id: 0,
                calls: Calls::default(),
                events: Events::default(),
                pipes: HashMap::new(),
                time: Time::new(&quirks, seed),
                irqs: Irqs::new(cpus),
                sockets: HashMap::new(),
                schemes: BTreeMap::new(),
                affinity: Vec::new(),
                violations: Vec::new(),
            }),
            pages: Arc::new(Pages::new(quirks.translates_heap)),
            quirks,
            cpus,
            timers: Condvar::new(),
            progress: Condvar::new(),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A test that failed with the lock held has said so; the others see a state that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `condvar`, which must be one of this kernel's.
    pub fn wait<'a>(&self, condvar: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        condvar.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}
