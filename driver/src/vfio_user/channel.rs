//! Whole messages over a socket, with the descriptors that come with them.
//!
//! Every wait has an end: a peer that says half a message, or does not take what it is sent, is an error and not a hang.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use zerocopy::{FromBytes, IntoBytes};

use super::wire::{Command, HEADER_BYTES, Header, MAX_MESSAGE_FDS, WireError};

/// Bytes of control data that [`MAX_MESSAGE_FDS`] descriptors need.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_MESSAGE_FDS));

/// A message as it came.
#[derive(Debug)]
pub struct Message {
    /// What it begins with. Its size is that of the message.
    pub header: Header,
    /// What follows.
    pub payload: Vec<u8>,
    /// What came with it; each is closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Why there is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The other side has closed the socket, or is gone.
    #[error("the other side has closed the socket")]
    Closed,
    /// The other side did not send, or did not take, the rest of a message.
    #[error("the other side has stopped in the middle of a message for {0:?}")]
    Stalled(Duration),
    /// There was nothing within the time that was granted.
    #[error("nothing has come for {0:?}")]
    Silent(Duration),
    /// There is something to read elsewhere.
    #[error("something else wants to be looked at")]
    Elsewhere(Other),
    /// What came is no message. Where the next one begins is not known.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// More descriptors than any message has.
    #[error("a message came with more than {MAX_MESSAGE_FDS} descriptors")]
    TooManyDescriptors,
    /// The system's.
    #[error("the socket: {0}")]
    System(Errno),
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            errno => Self::System(errno),
        }
    }
}

/// What else may end a wait for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// [`Others::stop`].
    Stop,
    /// [`Others::aside`].
    Aside,
}

/// Descriptors that end a wait for a message when there is something to read at them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others<'fd> {
    /// Goes before a message.
    pub stop: Option<BorrowedFd<'fd>>,
    /// Goes after a message, and after the end of the socket.
    pub aside: Option<BorrowedFd<'fd>>,
}

/// Connects to whoever listens at the socket `path`, which has `patience` to have room for one more call: a server that
/// takes none, and has as many waiting as it wants, would be waited for without an end.
///
/// # Errors
/// The system's; `EAGAIN`: there was no room in time.
pub fn connect(path: &Path, patience: Duration) -> Result<OwnedFd, Errno> {
    let end_by = Instant::now() + patience;
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    loop {
        let left = end_by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::AGAIN);
        }
        // For a connect too. Nothing else waits in a call here: messages are sent and received without.
        set_socket_timeout(&socket, Timeout::Send, Some(left))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// One end of a connected stream socket.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// What the rest of a message may take, and what a peer may take to accept one.
    patience: Duration,
}

/// What a wait ended with.
enum Woken {
    Ready,
    Elsewhere(Other),
    TimedOut,
}

impl Channel {
    /// Over `socket`; the other side has `patience` for each message once it has begun.
    #[must_use]
    pub fn new(socket: OwnedFd, patience: Duration) -> Self {
        Self { socket, patience }
    }

    /// The next message. Waits for its beginning for `silence` at most (`None`: for ever), and not when there is
    /// something to read at one of `others`.
    ///
    /// # Errors
    /// See [`ChannelError`]. After any but [`ChannelError::Silent`] and [`ChannelError::Elsewhere`] the socket is of no
    /// more use.
    pub fn receive(&self, silence: Option<Duration>, others: Others<'_>) -> Result<Message, ChannelError> {
        let begin_by = silence.map(|silence| Instant::now() + silence);
        match self.wait(PollFlags::IN, begin_by, others)? {
            Woken::Ready => {}
            Woken::Elsewhere(other) => return Err(ChannelError::Elsewhere(other)),
            Woken::TimedOut => return Err(ChannelError::Silent(silence.unwrap_or_default())),
        }
        let end_by = Instant::now() + self.patience;
        let mut header = [0; HEADER_BYTES];
        let mut descriptors = Vec::new();
        self.fill(&mut header, Some(&mut descriptors), end_by)?;
        let header = Header::read_from_bytes(&header).map_err(|_| ChannelError::Closed)?;
        let mut payload = vec![0; header.payload_bytes()?];
        self.fill(&mut payload, None, end_by)?;
        Ok(Message {
            header,
            payload,
            descriptors,
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// See [`ChannelError`]: the socket is then of no more use.
    pub fn send(
        &self,
        header: &Header,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        if descriptors.len() > MAX_MESSAGE_FDS {
            return Err(ChannelError::TooManyDescriptors);
        }
        let end_by = Instant::now() + self.patience;
        let message = [header.as_bytes(), payload].concat();
        let mut rest = message.as_slice();
        let mut descriptors = descriptors;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(ChannelError::TooManyDescriptors);
            }
            let sent = sendmsg(
                &self.socket,
                &[IoSlice::new(rest)],
                &mut control,
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            );
            match sent {
                Ok(bytes) => {
                    rest = rest.get(bytes..).unwrap_or_default();
                    // They go with the first bytes.
                    descriptors = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.wait(PollFlags::OUT, Some(end_by), Others::default())? {
                    Woken::Ready => {}
                    _ => return Err(ChannelError::Stalled(self.patience)),
                },
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends command `command` with `id`.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn command(
        &self,
        id: u16,
        command: Command,
        payload: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        self.send(&Header::command(id, command, payload.len()), payload, descriptors)
    }

    /// Ends the connection for both sides; whoever waits at either end is told.
    pub fn shut_down(&self) {
        // It may be gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }

    /// Fills `bytes`, and keeps the descriptors that come with them where they are wanted; elsewhere the system closes
    /// them.
    fn fill(
        &self,
        bytes: &mut [u8],
        mut descriptors: Option<&mut Vec<OwnedFd>>,
        end_by: Instant,
    ) -> Result<(), ChannelError> {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
            let mut control = match descriptors {
                Some(_) => RecvAncillaryBuffer::new(&mut space),
                None => RecvAncillaryBuffer::default(),
            };
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match recvmsg(&self.socket, &mut [IoSliceMut::new(rest)], &mut control, flags) {
                Ok(received) => {
                    if let Some(descriptors) = &mut descriptors {
                        for message in control.drain() {
                            if let RecvAncillaryMessage::ScmRights(received) = message {
                                descriptors.extend(received);
                            }
                        }
                        if received.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_MESSAGE_FDS
                        {
                            return Err(ChannelError::TooManyDescriptors);
                        }
                    }
                    if received.bytes == 0 {
                        return Err(ChannelError::Closed);
                    }
                    filled += received.bytes;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match self.wait(PollFlags::IN, Some(end_by), Others::default())? {
                    Woken::Ready => {}
                    _ => return Err(ChannelError::Stalled(self.patience)),
                },
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready for `events` or has ended, until there is something to read at one of `others`, or
    /// until `by`.
    fn wait(
        &self,
        events: PollFlags,
        by: Option<Instant>,
        others: Others<'_>,
    ) -> Result<Woken, ChannelError> {
        loop {
            let left = match by.map(|by| by.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(Woken::TimedOut),
                left => left.and_then(|left| Timespec::try_from(left).ok()),
            };
            // In the order in which they are looked at.
            let stop = others
                .stop
                .as_ref()
                .map(|fd| (PollFd::new(fd, PollFlags::IN), Woken::Elsewhere(Other::Stop)));
            let socket = Some((PollFd::new(&self.socket, events), Woken::Ready));
            let aside = others.aside.as_ref();
            let aside = aside.map(|fd| (PollFd::new(fd, PollFlags::IN), Woken::Elsewhere(Other::Aside)));
            let (mut set, woken): (Vec<_>, Vec<_>) = [stop, socket, aside].into_iter().flatten().unzip();
            match poll(&mut set, left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let found = set
                .iter()
                .zip(woken)
                .find(|(polled, _)| !polled.revents().is_empty());
            if let Some((_, woken)) = found {
                return Ok(woken);
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
