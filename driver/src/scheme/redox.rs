//! Serving a tree as a scheme of Redox.
//!
//! A [`Server`] is one socket and the tree behind it. Workers of the driver take its requests themselves
//! ([`Takers`](takers::Takers)): a request to a block device that is alone goes from the socket into that worker's own
//! queue, and its answer back to the socket, on one thread. What is no block device is done by another thread, the
//! [clerk], so that nobody's statistics hold data up.
//!
//! What is particular here:
//! - **Memory.** The kernel has mapped the client's buffer. Whole blocks go between it and the device; it is not touched
//!   when the request has been answered.
//! - **Batches.** One read of the socket takes all requests that wait, up to [`BATCH`](crate::redox::socket::BATCH); one
//!   write gives all answers that are ready, in whatever order they became so.
//! - **Interrupted clients.** A read that waits for something to happen is given up (`ECANCELED`, which the kernel makes
//!   `EINTR`); everything else is finished, which takes no longer than the device does.
//! - **Flags.** A read with `O_NONBLOCK` that would wait for something to happen is `EAGAIN`. What is written with
//!   `O_APPEND` to a block device goes where there is no room (`ENOSPC`), and not over its first blocks. `O_CREAT` creates
//!   nothing; with `O_EXCL`, what is there is `EEXIST`. `O_TRUNC` changes nothing.
//! - **Names.** A namespace `N` is its block device, and with a slash or `O_DIRECTORY` a directory. `O_STAT` opens
//!   anything to be looked at.
//! - **Owners and modes** can be changed by who has opened the node as uid 0: newer programs' calls do not say who makes
//!   them.
//! - To shorten a block device changes nothing, to make it longer is `EINVAL`. Flags and times are accepted and not kept.
//!   It cannot be mapped.

pub mod clerk;
mod dirents;
mod reply;
pub mod takers;

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use stats_proto::stats::SocketStats;
use syscall::error::{ENAMETOOLONG, ENOENT, EPERM, Error};
use syscall::flag::{O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NONBLOCK, O_RDONLY, O_STAT, O_WRONLY};
use syscall::schemev2::Cqe;

use self::clerk::Desk;
use self::reply::{Out, Then};
use super::{Answers, Call, Caller, Errno, HandleId, OpenFlags, Permissions, Reply, lock};
use crate::dma::Lent;
use crate::redox::socket::{self, Batch, Request, Socket};

/// The number of the tree's root, from which everything is opened. Handles count from 1.
pub const ROOT: u64 = 0;

/// Set in the kernel's number of a block device's handle, so that what is most asked for needs no table to be told.
pub const DEVICE: u64 = 1 << 62;

/// The longest path of a handle, all directories that it was opened from included, in bytes.
const MAX_PATH_BYTES: usize = 4096;

/// The most bytes that one read of what is no block device gives; what is longer is read in pieces. It bounds the buffers
/// of calls at the desk, which nobody's quota counts yet.
const MAX_COPIED_BYTES: usize = 1 << 20;

/// Under which number the tree answers what nobody waits for.
const NOBODY: u64 = u64::MAX;

/// The tree that is served: takes a call and answers it under the number given, as
/// [`Scheme::call`](super::Scheme::call) does.
pub type Tree = Box<dyn Fn(u64, Call, &Arc<dyn Answers>) + Send + Sync>;

thread_local! {
    /// Whether this thread gives answers together, at the end of its turn.
    static GATHERS: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread's answers are given when [`Server::give`] is called, or at once.
pub(crate) fn gather_answers(gathers: bool) {
    GATHERS.set(gathers);
}

/// One scheme: its socket, its tree, and what is under way.
pub struct Server {
    me: Weak<Self>,
    name: String,
    socket: Socket,
    tree: Tree,
    desk: Arc<Desk>,
    handles: RwLock<HashMap<u64, Opened>>,
    /// By tag.
    out: Mutex<HashMap<u32, Out>>,
    /// Answers that have not been given to the kernel.
    ready: Mutex<Vec<Cqe>>,
    counters: Counters,
    /// The socket could not be read, and that has been said.
    has_failed: AtomicBool,
}

/// What a server has done, as [`SocketStats`] has it.
#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    reads_empty: AtomicU64,
    requests: AtomicU64,
    writes: AtomicU64,
    answers: AtomicU64,
}

/// What a client has open.
struct Opened {
    path: Arc<str>,
    caller: Caller,
}

impl Server {
    /// Serves `tree` at `socket`, under the name that the socket is or will be registered with. What takes longer is
    /// left to `desk`.
    pub fn new(name: &str, socket: Socket, tree: Tree, desk: &Arc<Desk>) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            name: name.to_owned(),
            socket,
            tree,
            desk: Arc::clone(desk),
            handles: RwLock::default(),
            out: Mutex::default(),
            ready: Mutex::default(),
            counters: Counters::default(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// The scheme's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket.
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What it has done.
    pub fn stats(&self) -> SocketStats {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SocketStats {
            scheme: self.name.clone(),
            handles: self.open_handles() as u64,
            outstanding: self.outstanding() as u64,
            requests: now(&self.counters.requests),
            answers: now(&self.counters.answers),
            reads: now(&self.counters.reads),
            reads_empty: now(&self.counters.reads_empty),
            writes: now(&self.counters.writes),
        }
    }

    /// Requests that have not been answered.
    pub fn outstanding(&self) -> usize {
        lock(&self.out).len()
    }

    /// What clients have open.
    pub fn open_handles(&self) -> usize {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes the requests that wait, one batch of them, and begins each. Says how many there were.
    pub fn take(self: &Arc<Self>, batch: &mut Batch) -> usize {
        let taken = match self.socket.take(batch) {
            Ok(taken) => taken,
            Err(error) => {
                // Once: whoever looks will look again.
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    log::error!("scheme {}: its socket cannot be read: {error}", self.name);
                }
                0
            }
        };
        let counter = if taken > 0 {
            &self.counters.reads
        } else {
            &self.counters.reads_empty
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.counters.requests.fetch_add(taken as u64, Ordering::Relaxed);
        for (tag, request) in batch.requests() {
            self.begin(tag, request);
        }
        taken
    }

    /// Gives the answers that are ready to the kernel.
    pub fn give(&self) {
        let mut ready = lock(&self.ready);
        if ready.is_empty() {
            return;
        }
        let answers = std::mem::take(&mut *ready);
        drop(ready);
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters
            .answers
            .fetch_add(answers.len() as u64, Ordering::Relaxed);
        self.socket.give(&answers);
        // The allocation is used again, unless somebody else has begun another.
        let mut ready = lock(&self.ready);
        if ready.capacity() == 0 {
            *ready = answers;
            ready.clear();
        }
    }

    fn begin(self: &Arc<Self>, tag: u32, request: Request) {
        let on = |handle: u64| HandleId(handle & !DEVICE);
        match request {
            Request::Open {
                handle,
                path,
                flags,
                uid_gid,
            } => self.open(tag, handle, path, flags, uid_gid),
            Request::Read {
                handle,
                offset,
                memory,
                flags,
            } => {
                if is_device(handle) {
                    let call = Call::ReadInto {
                        handle: on(handle),
                        offset,
                        memory,
                    };
                    self.call(tag, Then::Move, call);
                } else {
                    let at_once = flags & O_NONBLOCK != 0;
                    self.read_copied(tag, on(handle), offset, memory, at_once);
                }
            }
            Request::Write {
                handle,
                offset,
                memory,
                flags,
            } => {
                let is_device = is_device(handle);
                if is_device && flags & O_APPEND != 0 && !memory.is_empty() {
                    return self.answer_now(socket::answer(tag, Err(Error::new(Errno::ENOSPC.0))));
                }
                let call = Call::WriteFrom {
                    handle: on(handle),
                    offset,
                    memory,
                };
                if is_device {
                    self.call(tag, Then::Move, call);
                } else {
                    self.leave(tag, Then::Move, call);
                }
            }
            Request::Length { handle } => self.call(tag, Then::Length, Call::Stat { handle: on(handle) }),
            Request::Stat { handle, memory } => {
                self.call(tag, Then::Stat(memory), Call::Stat { handle: on(handle) });
            }
            Request::Path { handle, memory } => self.path(tag, handle, memory),
            Request::List {
                handle,
                memory,
                header_bytes,
                first,
            } => {
                let then = Then::List {
                    memory,
                    header_bytes,
                    first,
                };
                self.leave(tag, then, Call::List { handle: on(handle) });
            }
            Request::Sync { handle } => self.call(tag, Then::Done, Call::Sync { handle: on(handle) }),
            Request::Truncate { handle, len_bytes } => {
                let call = Call::Stat { handle: on(handle) };
                self.call(tag, Then::Truncate { len_bytes }, call);
            }
            Request::Mode { handle, mode } => {
                // The kernel sends the file's type with it.
                let mode = Some(mode & 0o7777);
                let change = Permissions {
                    mode,
                    ..Permissions::default()
                };
                self.permit(tag, handle, change);
            }
            Request::Owner { handle, uid, gid } => {
                let asked = |id: u32| (id != u32::MAX).then_some(id);
                let change = Permissions {
                    uid: asked(uid),
                    gid: asked(gid),
                    ..Permissions::default()
                };
                self.permit(tag, handle, change);
            }
            Request::Nothing { handle } => {
                let known = self.opened(handle, |_| 0);
                let result = known.ok_or(Error::new(Errno::EBADF.0));
                self.answer_now(socket::answer(tag, result));
            }
            Request::Cancel { tag } => self.cancel(tag),
            Request::Close { handle } => {
                let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
                let known = handles.remove(&(handle & !DEVICE)).is_some();
                drop(handles);
                if known {
                    self.ask(NOBODY, Call::Close { handle: on(handle) });
                }
            }
            Request::Notice => {}
            Request::Refused(error) => self.answer_now(socket::answer(tag, Err(error))),
        }
    }

    fn open(
        self: &Arc<Self>,
        tag: u32,
        directory: u64,
        path: Option<String>,
        flags: usize,
        (uid, gid): (u32, u32),
    ) {
        let Some(path) = path else {
            return self.answer_now(socket::answer(tag, Err(Error::new(ENOENT))));
        };
        let path: Arc<str> = if directory == ROOT {
            path.into()
        } else {
            match self.opened(directory, |opened| Arc::clone(&opened.path)) {
                Some(above) => format!("{above}/{path}").into(),
                None => return self.answer_now(socket::answer(tag, Err(Error::new(Errno::EBADF.0)))),
            }
        };
        if path.len() > MAX_PATH_BYTES {
            return self.answer_now(socket::answer(tag, Err(Error::new(ENAMETOOLONG))));
        }
        if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
            let call = Call::Lookup {
                path: path.to_string(),
                directory: flags & O_DIRECTORY == O_DIRECTORY,
            };
            return self.leave(tag, Then::Absent, call);
        }
        // The namespace manager opens for its clients, so whose process it is is not known.
        let caller = Caller::new(uid, gid, 0);
        let call = Call::Open {
            path: path.to_string(),
            flags: open_flags(flags),
            caller: caller.clone(),
        };
        self.leave(tag, Then::Open { path, caller }, call);
    }

    fn read_copied(self: &Arc<Self>, tag: u32, handle: HandleId, offset: u64, memory: Lent, at_once: bool) {
        let call = read_call(handle, offset, &memory);
        let then = Then::CopyIn {
            handle,
            offset,
            memory,
            at_once,
        };
        self.leave(tag, then, call);
        if at_once {
            // Behind the read, which is ended if it waits.
            self.desk.leave(self, NOBODY, Call::Wake { handle });
        }
    }

    /// Readers of a handle have been told to come again. If the client of `tag` was not meant, its read is made again,
    /// and this says so.
    fn read_again(self: &Arc<Self>, tag: u32) -> bool {
        let again = match lock(&self.out).get(&tag) {
            Some(Out {
                then:
                    Then::CopyIn {
                        handle,
                        offset,
                        memory,
                        at_once: false,
                    },
                cancelled: false,
            }) => (*handle, read_call(*handle, *offset, memory)),
            _ => return false,
        };
        let (handle, call) = again;
        self.desk.leave(self, u64::from(tag), call);
        // Whoever has cancelled it since was perhaps too early for this read.
        if lock(&self.out).get(&tag).is_some_and(|out| out.cancelled) {
            self.desk.leave(self, NOBODY, Call::Wake { handle });
        }
        true
    }

    fn path(&self, tag: u32, handle: u64, mut memory: Lent) {
        let path = if handle == ROOT {
            Some(Arc::from(""))
        } else {
            self.opened(handle, |opened| Arc::clone(&opened.path))
        };
        let result = path.map_or(Err(Error::new(Errno::EBADF.0)), |path| {
            let path = format!("/scheme/{}/{}", self.name, path.trim_matches('/'));
            Ok(memory.copy_in(0, path.as_bytes()))
        });
        self.answer_now(socket::answer(tag, result));
    }

    fn permit(self: &Arc<Self>, tag: u32, handle: u64, change: Permissions) {
        let found = self.opened(handle, |opened| (Arc::clone(&opened.path), opened.caller.clone()));
        match found {
            Some((path, caller)) if !path.is_empty() => {
                let call = Call::Permit {
                    path: path.to_string(),
                    caller,
                    change,
                };
                self.leave(tag, Then::Done, call);
            }
            Some(_) => self.answer_now(socket::answer(tag, Err(Error::new(EPERM)))),
            None => self.answer_now(socket::answer(tag, Err(Error::new(Errno::EBADF.0)))),
        }
    }

    /// The client of `tag` has been interrupted.
    fn cancel(self: &Arc<Self>, tag: u32) {
        let waiting = match lock(&self.out).get_mut(&tag) {
            Some(Out {
                then: Then::CopyIn { handle, .. },
                cancelled,
            }) => {
                *cancelled = true;
                Some(*handle)
            }
            // The device will be done with it soon. Or it has been answered already.
            _ => None,
        };
        if let Some(handle) = waiting {
            // By the desk, as the read was: not before it.
            self.desk.leave(self, NOBODY, Call::Wake { handle });
        }
    }

    /// Makes a call for the client of `tag` on this thread.
    fn call(self: &Arc<Self>, tag: u32, then: Then, call: Call) {
        if self.expect(tag, then) {
            self.ask(u64::from(tag), call);
        }
    }

    /// Leaves a call for the client of `tag` to the desk.
    fn leave(self: &Arc<Self>, tag: u32, then: Then, call: Call) {
        if self.expect(tag, then) {
            self.desk.leave(self, u64::from(tag), call);
        }
    }

    fn expect(&self, tag: u32, then: Then) -> bool {
        let new = Out {
            then,
            cancelled: false,
        };
        let mut out = lock(&self.out);
        match out.entry(tag) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(new);
                true
            }
            std::collections::hash_map::Entry::Occupied(_) => {
                log::error!("scheme {}: tag {tag} was sent twice", self.name);
                false
            }
        }
    }

    fn ask(self: &Arc<Self>, id: u64, call: Call) {
        let answers = Arc::clone(self) as Arc<dyn Answers>;
        (self.tree)(id, call, &answers);
    }

    fn opened<R>(&self, handle: u64, then: impl FnOnce(&Opened) -> R) -> Option<R> {
        let handles = self.handles.read().unwrap_or_else(PoisonError::into_inner);
        handles.get(&(handle & !DEVICE)).map(then)
    }

    fn answer_now(&self, answer: Cqe) {
        lock(&self.ready).push(answer);
        if !GATHERS.get() {
            self.give();
        }
    }
}

impl Answers for Server {
    fn answer(&self, id: u64, result: Result<Reply, Errno>) {
        // Nobody waits for a handle to be closed, or for others to be woken. And whoever answers has an `Arc` of this.
        let (Ok(tag), Some(me)) = (u32::try_from(id), self.me.upgrade()) else {
            return;
        };
        // Only what waits for something to happen is ended so.
        if matches!(result, Err(Errno::EINTR)) && me.read_again(tag) {
            return;
        }
        let taken = lock(&self.out).remove(&tag);
        let Some(out) = taken else {
            log::error!("scheme {}: tag {tag} was answered twice", self.name);
            return;
        };
        if let Some(answer) = me.translate(tag, out, result) {
            self.answer_now(answer);
        }
    }
}

const fn is_device(handle: u64) -> bool {
    handle & DEVICE != 0
}

/// A read that is copied to `memory`.
fn read_call(handle: HandleId, offset: u64, memory: &Lent) -> Call {
    Call::Read {
        handle,
        offset,
        buffer: vec![0; memory.len().min(MAX_COPIED_BYTES)],
    }
}

fn open_flags(flags: usize) -> OpenFlags {
    // To look at a node is neither to read nor to write it.
    let access = if flags & O_STAT == O_STAT { 0 } else { flags };
    OpenFlags {
        read: access & O_RDONLY != 0,
        write: access & O_WRONLY != 0,
        directory: flags & O_DIRECTORY == O_DIRECTORY,
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({}, {} requests out)", self.name, self.outstanding())
    }
}
