//! The client's end of the socket: one command at a time, and a thread that reads what comes.
//!
//! That thread is there all the time, so that the server's end is noticed when nobody waits for an answer. Whatever goes
//! wrong on the socket ends the connection for good: an answer that comes too late must not be taken for another one's.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::linux::waiter::Signal;
use super::errno_text;
use crate::vfio_user::channel::{Channel, ChannelError, Message, Others};
use crate::vfio_user::wire::{Command, WireError};

/// What a server has for an answer. A reset may take a while.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// Why a command has no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The server says no.
    #[error("it is refused: {}", errno_text(*.0))]
    Refused(u32),
    /// The connection has ended, for the reason given.
    #[error("{0}")]
    Gone(String),
    /// The answer is shorter than it has to be, or not what was asked for.
    #[error("the answer has {0} bytes, which is not what was asked for")]
    Short(usize),
    /// The answer cannot be read.
    #[error("the answer cannot be read: {0}")]
    Malformed(WireError),
}

/// A connection to a server.
pub(crate) struct Connection {
    link: Arc<Link>,
    reader: Option<JoinHandle<()>>,
    /// One command at a time; the number of the next.
    turn: Mutex<u16>,
    patience: Duration,
}

/// What the reading thread shares.
struct Link {
    channel: Channel,
    /// Whoever sends a message has this: an answer of the reading thread's must not get into the middle of a command.
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
    answered: Condvar,
    gone: AtomicBool,
    /// Why it is gone, from whoever saw it first; whether the server has closed the socket.
    why: OnceLock<(String, bool)>,
    /// This side closes the connection itself.
    closing: AtomicBool,
    notice: Arc<Signal>,
}

#[derive(Default)]
struct Waiting {
    wanted: Option<(u16, Command)>,
    answer: Option<Message>,
}

impl Connection {
    /// Over `socket`, whose server has `patience` for each answer.
    ///
    /// # Errors
    /// The system's: no thread, or no eventfd.
    pub(crate) fn new(socket: OwnedFd, patience: Duration) -> io::Result<Arc<Self>> {
        let link = Arc::new(Link {
            channel: Channel::new(socket, patience),
            sending: Mutex::default(),
            waiting: Mutex::default(),
            answered: Condvar::new(),
            gone: AtomicBool::new(false),
            why: OnceLock::new(),
            closing: AtomicBool::new(false),
            notice: Signal::new()?,
        });
        let reader = std::thread::Builder::new()
            .name("nvme-vfio-user".to_owned())
            .spawn({
                let link = Arc::clone(&link);
                move || link.read()
            })?;
        Ok(Arc::new(Self {
            link,
            reader: Some(reader),
            turn: Mutex::new(0),
            patience,
        }))
    }

    /// Sends a command, and waits for its answer.
    ///
    /// # Errors
    /// See [`CallError`]. After [`CallError::Gone`] there is nothing but that.
    pub(crate) fn call(
        &self,
        command: Command,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Message, CallError> {
        let mut next = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *next = next.wrapping_add(1);
        let link = &self.link;
        *link.waiting() = Waiting {
            wanted: Some((*next, command)),
            answer: None,
        };
        if let Some(gone) = link.gone() {
            return Err(gone);
        }
        let sent = {
            let _sending = link.sending();
            link.channel.command(*next, command, payload, descriptors)
        };
        if let Err(error) = sent {
            return Err(link.lose(
                &format!("{command:?} could not be sent: {error}"),
                error == ChannelError::Closed,
            ));
        }
        let give_up = Instant::now() + self.patience;
        let mut waiting = link.waiting();
        let message = loop {
            if let Some(message) = waiting.answer.take() {
                break message;
            }
            if let Some(gone) = link.gone() {
                return Err(gone);
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(waiting);
                return Err(link.lose(
                    &format!("it has not answered {command:?} for {:?}", self.patience),
                    false,
                ));
            }
            let (guard, _) = link
                .answered
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner);
            waiting = guard;
        };
        match message.header.failure() {
            Some(errno) => Err(CallError::Refused(errno)),
            None => Ok(message),
        }
    }

    /// Whether the connection has ended. Costs a load.
    pub(crate) fn is_gone(&self) -> bool {
        self.link.gone.load(Ordering::Acquire)
    }

    /// Whether the server has closed it.
    pub(crate) fn was_closed(&self) -> bool {
        self.link.why.get().is_some_and(|(_, closed)| *closed)
    }

    /// What fires when the connection ends.
    pub(crate) fn notice(&self) -> &Arc<Signal> {
        &self.link.notice
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.link.closing.store(true, Ordering::Release);
        self.link.channel.shut_down();
        if let Some(reader) = self.reader.take() {
            // One that panicked has said so already.
            let _ = reader.join();
        }
    }
}

impl Link {
    /// The reading thread.
    fn read(&self) {
        loop {
            let message = match self.channel.receive(None, Others::default()) {
                Ok(message) => message,
                Err(error) => {
                    let closed = error == ChannelError::Closed;
                    let why = match &error {
                        ChannelError::Closed => {
                            "the server has closed the connection, or has ended".to_owned()
                        }
                        error => format!("the server does not speak vfio-user any more: {error}"),
                    };
                    self.lose(&why, closed);
                    return;
                }
            };
            let kept = if message.header.is_reply() {
                self.take_answer(message)
            } else {
                self.refuse(&message)
            };
            if let Err(why) = kept {
                self.lose(&why, false);
                return;
            }
        }
    }

    fn take_answer(&self, message: Message) -> Result<(), String> {
        let mut waiting = self.waiting();
        let header = message.header;
        match waiting.wanted.take() {
            Some((id, command)) if header.id == id && header.command == command as u16 => {
                waiting.answer = Some(message);
                self.answered.notify_all();
                Ok(())
            }
            _ => Err(format!(
                "the server has answered command {} number {}, which nobody waits for",
                header.command, header.id
            )),
        }
    }

    /// The server may ask too. All memory that it knows of came with a descriptor, so it has nothing to ask for.
    fn refuse(&self, message: &Message) -> Result<(), String> {
        log::debug!("the server asks for command {}: refused", message.header.command);
        if !message.header.wants_reply() {
            return Ok(());
        }
        let errno = Errno::OPNOTSUPP.raw_os_error().unsigned_abs();
        let _sending = self.sending();
        self.channel
            .send(&message.header.error_reply(errno), &[], &[])
            .map_err(|error| format!("the server does not take an answer: {error}"))
    }

    /// The connection has ended. Whoever waits is told.
    fn lose(&self, why: &str, closed: bool) -> CallError {
        let first = self.why.set((why.to_owned(), closed)).is_ok();
        if first && !self.closing.load(Ordering::Acquire) {
            log::info!("the connection to the vfio-user server has ended: {why}");
        }
        self.gone.store(true, Ordering::Release);
        self.channel.shut_down();
        // Under the lock, so that nobody is between the look at `gone` and the wait.
        drop(self.waiting());
        self.answered.notify_all();
        if let Err(error) = rustix::io::write(&*self.notice, &1_u64.to_ne_bytes()) {
            log::debug!("that the server has gone could not be told: {error}");
        }
        self.gone().unwrap_or_else(|| CallError::Gone(why.to_owned()))
    }

    fn gone(&self) -> Option<CallError> {
        self.gone.load(Ordering::Acquire).then(|| {
            let why = self.why.get().map(|(why, _)| why.clone());
            CallError::Gone(why.unwrap_or_default())
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sending(&self) -> MutexGuard<'_, ()> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
