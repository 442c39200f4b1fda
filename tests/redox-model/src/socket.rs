//! The socket of a scheme: requests to read, answers to write, and who waits for which.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar};

use syscall::error::{
    EAGAIN, EBADF, EBADFD, ECANCELED, EEXIST, EINTR, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP, Error, Result,
};
use syscall::flag::{EventFlags, FobtainFdFlags, O_NONBLOCK};
use syscall::schemev2::{Cqe, CqeOpcode, Opcode, Sqe, SqeFlags};

use crate::capture::Capture;
use crate::kernel::{Kernel, Object, State};

/// A client's call, as the client waits for it.
pub(crate) struct Call {
    pub client: u64,
    answered: Condvar,
    killed: AtomicBool,
}

/// What a client is told.
#[derive(Debug)]
pub(crate) enum Response {
    /// A result, what `extra` of the answer says, and whether the scheme wants to know of the next close.
    Regular(Result<usize>, u8, bool),
    /// A descriptor, which the model has closed: see the crate's documentation.
    Descriptor,
    /// Descriptors that were received, none here.
    Descriptors,
}

/// The answer to a call.
pub(crate) struct Answer {
    pub response: Response,
    /// What the payload came back with.
    pub payload: Option<Vec<u8>>,
}

enum Slot {
    Free,
    Waiting {
        /// `None` if the client was killed meanwhile.
        call: Option<Arc<Call>>,
        capture: Option<Capture>,
        canceling: bool,
        /// The daemon has read it.
        taken: bool,
    },
    Answered(Answer),
}

/// A scheme.
pub(crate) struct Socket {
    /// Its description, for events.
    pub description: u64,
    todo: VecDeque<Sqe>,
    slots: Vec<Slot>,
    /// Tags of the slots that are free; the one that was freed last is used first.
    free: Vec<u32>,
    changed: Arc<Condvar>,
    /// What `SendFevent` has said, in order: a file's number and flags.
    pub fevents: Vec<(usize, EventFlags)>,
    /// Answers that the kernel did not take.
    pub refused: u64,
}

impl Socket {
    fn new(description: u64) -> Self {
        Self {
            description,
            todo: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            changed: Arc::default(),
            fevents: Vec::new(),
            refused: 0,
        }
    }

    pub fn has_requests(&self) -> bool {
        !self.todo.is_empty()
    }

    fn enter(&mut self, slot: Slot) -> u32 {
        if let Some(tag) = self.free.pop() {
            self.slots[tag as usize] = slot;
            return tag;
        }
        self.slots.push(slot);
        (self.slots.len() - 1) as u32
    }

    fn leave(&mut self, tag: u32) -> Option<Answer> {
        let slot = self.slots.get_mut(tag as usize)?;
        match std::mem::replace(slot, Slot::Free) {
            Slot::Answered(answer) => {
                self.free.push(tag);
                Some(answer)
            }
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Calls that wait for an answer, of `client` or of all, and how many of those the daemon has read.
    pub fn waiting(&self, client: Option<u64>) -> (usize, usize) {
        let mut counts = (0, 0);
        for slot in &self.slots {
            if let Slot::Waiting { call, taken, .. } = slot {
                let is_meant = client.is_none() || call.as_ref().map(|call| call.client) == client;
                counts.0 += usize::from(is_meant);
                counts.1 += usize::from(is_meant && *taken);
            }
        }
        counts
    }

    /// Answers one entry. The payload is gone from the daemon when this returns.
    fn respond(&mut self, tag: u32, mut response: Response) -> Result<()> {
        let slot = self.slots.get_mut(tag as usize).ok_or(Error::new(EBADFD))?;
        match std::mem::replace(slot, Slot::Free) {
            Slot::Free => Err(Error::new(EBADFD)),
            answered @ Slot::Answered(_) => {
                *slot = answered;
                Err(Error::new(EINVAL))
            }
            Slot::Waiting {
                call,
                capture,
                canceling,
                ..
            } => {
                if let Response::Regular(result, ..) = &mut response {
                    let from_to = if canceling {
                        (ECANCELED, EINTR)
                    } else {
                        (EINTR, EIO)
                    };
                    if *result == Err(Error::new(from_to.0)) {
                        *result = Err(Error::new(from_to.1));
                    }
                }
                match call {
                    Some(call) => {
                        let payload = capture.and_then(Capture::finish);
                        *slot = Slot::Answered(Answer { response, payload });
                        call.answered.notify_all();
                    }
                    // Nobody is there any more; what was lent goes with `capture`.
                    None => self.free.push(tag),
                }
                Ok(())
            }
        }
    }
}

impl State {
    pub fn create_socket(&mut self) -> usize {
        let (socket, description) = (self.next_id(), self.next_id());
        self.sockets.insert(socket, Socket::new(description));
        // The library makes it so that it does not wait.
        self.insert_as(
            description,
            Object::Socket(socket),
            O_NONBLOCK,
            "a scheme's socket",
        )
    }

    pub fn register_scheme(&mut self, socket: u64, name: &str, root: usize) -> Result<()> {
        if self.schemes.contains_key(name) {
            return Err(Error::new(EEXIST));
        }
        self.schemes.insert(name.to_owned(), (socket, root));
        Ok(())
    }

    /// The daemon is gone: its names are, and whoever waits for it is told.
    pub fn close_socket(&mut self, socket: u64) {
        self.schemes.retain(|_, (of, _)| *of != socket);
        if let Some(gone) = self.sockets.remove(&socket) {
            gone.changed.notify_all();
            for slot in &gone.slots {
                if let Slot::Waiting { call: Some(call), .. } = slot {
                    call.answered.notify_all();
                }
            }
        }
    }

    /// Queues a message that nobody waits for an answer to. False if the daemon is gone.
    pub fn send_oneway(&mut self, socket: u64, sqe: Sqe) -> bool {
        let Some(to) = self.sockets.get_mut(&socket) else {
            return false;
        };
        to.todo.push_back(sqe);
        to.changed.notify_all();
        let description = to.description;
        self.events.trigger(description, EventFlags::EVENT_READ);
        true
    }

    /// Asks the daemon to stop what `client` waits for, as a signal does. How many calls that were.
    pub fn cancel_calls(&mut self, client: u64) -> usize {
        let mut cancels = Vec::new();
        for (socket, of) in &mut self.sockets {
            for (slot, tag) in of.slots.iter_mut().zip(0..) {
                if let Slot::Waiting {
                    call: Some(call),
                    canceling: canceling @ false,
                    ..
                } = slot
                    && call.client == client
                {
                    *canceling = true;
                    cancels.push((*socket, tag));
                }
            }
        }
        for (socket, tag) in &cancels {
            self.send_oneway(
                *socket,
                Sqe {
                    opcode: Opcode::Cancel as u8,
                    sqe_flags: SqeFlags::ONEWAY,
                    tag: *tag,
                    ..Sqe::default()
                },
            );
        }
        cancels.len()
    }

    /// `client` is killed: its calls return at once, what it lent stays until the daemon has answered.
    pub fn kill_calls(&mut self, client: u64) {
        for of in self.sockets.values_mut() {
            for slot in &mut of.slots {
                if let Slot::Waiting { call, .. } = slot
                    && let Some(killed) = call.take_if(|call| call.client == client)
                {
                    killed.killed.store(true, Ordering::Release);
                    killed.answered.notify_all();
                }
            }
        }
    }
}

impl Kernel {
    /// Sends `sqe` to the daemon of `socket` and waits for the answer. The entry's tag is made here, and so are the two
    /// arguments that say where the payload is, if there is a `capture`.
    pub fn call(&self, socket: u64, client: u64, mut sqe: Sqe, capture: Option<Capture>) -> Result<Answer> {
        let call = Arc::new(Call {
            client,
            answered: Condvar::new(),
            killed: AtomicBool::new(false),
        });
        if let Some(capture) = &capture {
            (sqe.args[1], sqe.args[2]) = (capture.address(), capture.len_bytes());
        }
        let mut state = self.lock();
        let to = state.sockets.get_mut(&socket).ok_or(Error::new(ENODEV))?;
        let tag = to.enter(Slot::Waiting {
            call: Some(Arc::clone(&call)),
            capture,
            canceling: false,
            taken: false,
        });
        state.send_oneway(socket, Sqe { tag, ..sqe });
        self.progress.notify_all();
        loop {
            let to = state.sockets.get_mut(&socket).ok_or(Error::new(ENODEV))?;
            if call.killed.load(Ordering::Acquire) {
                // The slot may be somebody else's by now.
                return Err(Error::new(EINTR));
            }
            if let Some(answer) = to.leave(tag) {
                self.progress.notify_all();
                return Ok(answer);
            }
            state = self.wait(&call.answered, state);
        }
    }

    /// As many requests as there are and fit.
    pub fn read_socket(&self, description: u64, socket: u64, into: &mut [u8]) -> Result<usize> {
        let mut state = self.lock();
        let waits = state.flags_of(description) & O_NONBLOCK == 0;
        loop {
            let from = state.sockets.get_mut(&socket).ok_or(Error::new(EBADF))?;
            if !from.todo.is_empty() {
                let mut read_bytes = 0;
                for room in into.chunks_exact_mut(size_of::<Sqe>()) {
                    let Some(sqe) = from.todo.pop_front() else { break };
                    room.copy_from_slice(&sqe);
                    read_bytes += room.len();
                    if let Some(Slot::Waiting { taken, .. }) = from.slots.get_mut(sqe.tag as usize) {
                        *taken |= has_answer(&sqe);
                    }
                }
                self.progress.notify_all();
                return Ok(read_bytes);
            }
            if !waits && into.is_empty() {
                return Ok(0);
            }
            if !waits {
                let fits = into.len() >= size_of::<Sqe>();
                return Err(Error::new(if fits { EAGAIN } else { EINVAL }));
            }
            let changed = Arc::clone(&from.changed);
            state = self.wait(&changed, state);
        }
    }

    /// Takes answers, up to the first that is none. An error only if that is the very first.
    pub fn write_socket(&self, socket: u64, from: &[u8]) -> Result<usize> {
        let mut state = self.lock();
        let mut written_bytes = 0;
        for bytes in from.chunks_exact(size_of::<Cqe>()) {
            let mut cqe = Cqe::default();
            cqe.copy_from_slice(bytes);
            match take_answer(&mut state, socket, &cqe) {
                Ok(()) => written_bytes += bytes.len(),
                Err(error) => {
                    if let Some(socket) = state.sockets.get_mut(&socket) {
                        socket.refused += 1;
                    }
                    if written_bytes > 0 {
                        break;
                    }
                    return Err(error);
                }
            }
        }
        self.progress.notify_all();
        Ok(written_bytes)
    }
}

/// Whether the tag of `sqe` is one: closing says 0 and means nothing by it, cancelling names another's.
fn has_answer(sqe: &Sqe) -> bool {
    const NO_ANSWER: [u8; 2] = [Opcode::CloseMsg as u8, Opcode::Detach as u8];
    !sqe.sqe_flags.contains(SqeFlags::ONEWAY) && !NO_ANSWER.contains(&sqe.opcode)
}

fn take_answer(state: &mut State, socket: u64, cqe: &Cqe) -> Result<()> {
    let opcode = CqeOpcode::try_from_raw(cqe.flags & 0b111).ok_or(Error::new(EINVAL))?;
    let result = || Error::demux(cqe.result as usize);
    let to = state.sockets.get_mut(&socket).ok_or(Error::new(EBADF))?;
    match opcode {
        CqeOpcode::RespondRegular => {
            to.respond(cqe.tag, Response::Regular(result(), cqe.extra_raw[0], false))
        }
        CqeOpcode::RespondAndNotifyOnDetach => {
            to.respond(cqe.tag, Response::Regular(result(), cqe.extra_raw[0], true))
        }
        CqeOpcode::RespondWithMultipleFds => to.respond(cqe.tag, Response::Descriptors),
        CqeOpcode::RespondWithFd => {
            // The descriptor goes before the tag is looked at.
            let descriptor = cqe.result as usize;
            state.description_of(descriptor).ok_or(Error::new(EINVAL))?;
            if let Some((description, object)) = state.remove(descriptor)? {
                state.close_object(description, &object);
            }
            let to = state.sockets.get_mut(&socket).ok_or(Error::new(EBADF))?;
            to.respond(cqe.tag, Response::Descriptor)
        }
        CqeOpcode::SendFevent => {
            let flags = EventFlags::from_bits(cqe.tag as usize).ok_or(Error::new(EINVAL))?;
            to.fevents.push((cqe.result as usize, flags));
            Ok(())
        }
        CqeOpcode::ObtainFd => {
            FobtainFdFlags::from_bits(cqe.extra() as usize).ok_or(Error::new(EINVAL))?;
            match to.slots.get(cqe.tag as usize) {
                // Nothing that was sent can be had here: see the crate's documentation.
                Some(Slot::Waiting { .. }) => Err(Error::new(EOPNOTSUPP)),
                Some(Slot::Answered(_)) => Err(Error::new(ENOENT)),
                _ => Err(Error::new(EINVAL)),
            }
        }
    }
}
