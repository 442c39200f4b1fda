//! A client: a process that uses schemes, from any number of threads.

mod files;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syscall::error::{EBADF, EINVAL, EIO, ENODEV, Error, Result};
use syscall::schemev2::{NewFdFlags, Opcode, Sqe, SqeFlags};

use crate::capture::{Access, Capture};
use crate::kernel::Kernel;
use crate::process::split_path;
use crate::socket::{Answer, Response};

/// What a file's descriptors share.
struct Description {
    socket: u64,
    /// The scheme's number for it.
    number: u64,
    flags: usize,
    positioned: bool,
    position: AtomicUsize,
    /// Descriptors that it has; calls under way do not count.
    descriptors: AtomicUsize,
    /// The scheme wants to hear of the next close.
    tells_detach: AtomicBool,
}

/// A client of the machine's schemes. Its calls wait for their answers; each thread may have one under way.
///
/// Buffers are taken as they are: what is aligned to pages goes to the daemon as whole pages, the rest does not.
pub struct Client {
    kernel: Arc<Kernel>,
    id: u64,
    uid: u32,
    gid: u32,
    older: bool,
    files: Arc<Files>,
}

#[derive(Default)]
struct Files {
    open: Mutex<HashMap<usize, Arc<Description>>>,
    next: AtomicUsize,
}

impl Files {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Description>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, description: Arc<Description>) -> usize {
        description.descriptors.fetch_add(1, Ordering::Relaxed);
        let descriptor = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(descriptor, description);
        descriptor
    }
}

/// The two arguments of a call that are about who calls.
fn caller(uid: u32, gid: u32) -> u64 {
    u64::from(uid) | u64::from(gid) << 32
}

impl Client {
    pub(crate) fn new(kernel: &Arc<Kernel>, uid: u32, gid: u32) -> Self {
        Self {
            kernel: Arc::clone(kernel),
            id: kernel.lock().next_id(),
            uid,
            gid,
            older: false,
            files: Arc::default(),
        }
    }

    /// The same client, as programs were before `StdFsCall`: where there is an opcode of its own for something, it is used.
    #[must_use]
    pub fn older(&self) -> Self {
        Self {
            kernel: Arc::clone(&self.kernel),
            older: true,
            files: Arc::clone(&self.files),
            ..*self
        }
    }

    /// The number that the daemon is told.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.id
    }

    /// A signal: the daemon is asked to stop what this client's threads wait for. How many calls that were. A call that
    /// has been cancelled is not cancelled again.
    pub fn interrupt(&self) -> usize {
        self.kernel.lock().cancel_calls(self.id)
    }

    /// The end of the client: its calls return `EINTR` at once, and the daemon is not told of it. What was lent stays in the
    /// daemon until it has answered; the answer goes nowhere. Its files are closed.
    pub fn kill(&self) {
        self.kernel.lock().kill_calls(self.id);
        let open: Vec<_> = self.files.lock().drain().collect();
        for (_, description) in open {
            self.let_go(&description);
        }
    }

    /// Calls of this client that wait for an answer, and how many of those the daemon has read.
    #[must_use]
    pub fn calls_under_way(&self) -> (usize, usize) {
        let state = self.kernel.lock();
        let all = state.sockets.values().map(|socket| socket.waiting(Some(self.id)));
        all.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// Waits until the daemon has read `count` calls of this client that it has not answered.
    pub fn wait_until_taken(&self, count: usize) {
        self.wait_until(|(_, taken)| taken >= count);
    }

    /// Waits until `count` calls of this client wait, whether the daemon has read them or not.
    pub fn wait_until_sent(&self, count: usize) {
        self.wait_until(|(waiting, _)| waiting >= count);
    }

    fn wait_until(&self, enough: impl Fn((usize, usize)) -> bool) {
        let mut state = self.kernel.lock();
        loop {
            let all = state.sockets.values().map(|socket| socket.waiting(Some(self.id)));
            if enough(all.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))) {
                return;
            }
            state = self.kernel.wait(&self.kernel.progress, state);
        }
    }

    /// Sends `sqe` as it is to the daemon of `scheme`, but for the tag. With `ONEWAY` it is answered at once, here; else
    /// this waits for the daemon's answer.
    ///
    /// # Errors
    /// What the daemon answers; `ENODEV` if there is none.
    pub fn raw(&self, scheme: &str, sqe: Sqe) -> Result<usize> {
        let socket = self.socket_of(scheme)?.0;
        if sqe.sqe_flags.contains(SqeFlags::ONEWAY) {
            let sent = self.kernel.lock().send_oneway(socket, sqe);
            return if sent { Ok(0) } else { Err(Error::new(ENODEV)) };
        }
        regular(self.kernel.call(socket, self.id, sqe, None)?)
    }

    /// As [`raw`](Self::raw), with `payload` lent to be read and written; its place is in the second and third argument.
    ///
    /// # Errors
    /// As there.
    pub fn raw_with(&self, scheme: &str, sqe: Sqe, payload: &mut [u8]) -> Result<usize> {
        let socket = self.socket_of(scheme)?.0;
        self.send(socket, sqe, payload).and_then(regular)
    }

    fn socket_of(&self, scheme: &str) -> Result<(u64, usize)> {
        let state = self.kernel.lock();
        state.schemes.get(scheme).copied().ok_or(Error::new(ENODEV))
    }

    fn find(&self, descriptor: usize) -> Result<Arc<Description>> {
        self.files
            .lock()
            .get(&descriptor)
            .cloned()
            .ok_or(Error::new(EBADF))
    }

    fn sqe(&self, opcode: Opcode, args: [u64; 5]) -> Sqe {
        let [a, b, c, d, e] = args;
        Sqe {
            opcode: opcode as u8,
            args: [a, b, c, d, e, caller(self.uid, self.gid)],
            caller: self.id,
            ..Sqe::default()
        }
    }

    /// A call with a payload that the daemon may read and write.
    fn send(&self, socket: u64, sqe: Sqe, payload: &mut [u8]) -> Result<Answer> {
        let capture = Capture::new(&self.kernel.pages, payload, Access::Both)?;
        let mut answer = self.kernel.call(socket, self.id, sqe, Some(capture))?;
        give_back(&mut answer, payload);
        Ok(answer)
    }

    /// A call with a payload that the daemon is to write.
    fn ask(&self, socket: u64, sqe: Sqe, payload: &mut [u8]) -> Result<usize> {
        let capture = Capture::new(&self.kernel.pages, payload, Access::Write)?;
        let mut answer = self.kernel.call(socket, self.id, sqe, Some(capture))?;
        give_back(&mut answer, payload);
        regular(answer)
    }

    /// A call with a payload that the daemon is to read.
    fn tell(&self, socket: u64, sqe: Sqe, payload: &[u8]) -> Result<Answer> {
        let capture = Capture::new(&self.kernel.pages, payload, Access::Read)?;
        self.kernel.call(socket, self.id, sqe, Some(capture))
    }

    fn tell_path(&self, socket: u64, sqe: Sqe, path: &str) -> Result<Answer> {
        let capture = Capture::path(&self.kernel.pages, path.as_bytes())?;
        self.kernel.call(socket, self.id, sqe, Some(capture))
    }

    /// A file for the answer to an open or a dup.
    fn opened(&self, socket: u64, flags: usize, answer: Answer) -> Result<usize> {
        let Response::Regular(result, extra, _) = answer.response else {
            return Err(Error::new(EIO));
        };
        let number = result? as u64;
        let extra = NewFdFlags::from_bits(extra).ok_or(Error::new(EINVAL))?;
        Ok(self.files.insert(Arc::new(Description {
            socket,
            number,
            flags,
            positioned: extra.contains(NewFdFlags::POSITIONED),
            position: AtomicUsize::new(0),
            descriptors: AtomicUsize::new(0),
            tells_detach: AtomicBool::new(false),
        })))
    }

    /// One descriptor less; the daemon hears of it if it was the last.
    fn let_go(&self, description: &Description) {
        let message = |opcode: Opcode, caller| Sqe {
            opcode: opcode as u8,
            args: [description.number, 0, 0, 0, 0, 0],
            caller,
            ..Sqe::default()
        };
        let mut state = self.kernel.lock();
        if description.tells_detach.load(Ordering::Acquire) {
            state.send_oneway(description.socket, message(Opcode::Detach, self.id));
        }
        if description.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
            state.send_oneway(description.socket, message(Opcode::CloseMsg, 0));
        }
    }
}

/// What the daemon left in the payload is the client's.
fn give_back(answer: &mut Answer, payload: &mut [u8]) {
    if let Some(bytes) = answer.payload.take() {
        payload.copy_from_slice(&bytes);
    }
}

fn regular(answer: Answer) -> Result<usize> {
    match answer.response {
        Response::Regular(result, ..) => result,
        Response::Descriptor | Response::Descriptors => Err(Error::new(EIO)),
    }
}

/// `/scheme/NAME/rest` for a client: the scheme, and the path without a slash at its start.
fn target(path: &str) -> Result<(&str, &str)> {
    let (scheme, rest) = split_path(path)?;
    Ok((scheme, rest.trim_start_matches('/')))
}
