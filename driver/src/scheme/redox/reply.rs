//! What the tree's replies are for the kernel.

use std::sync::{Arc, PoisonError};

use syscall::data::Stat as RedoxStat;
use syscall::error::{ECANCELED, EEXIST, EINVAL, Error};
use syscall::flag::{MODE_DIR, MODE_FILE};
use syscall::schemev2::Cqe;

use super::super::{Call, Caller, Errno, HandleId, NodeKind, Reply, Stat};
use super::{DEVICE, NOBODY, Opened, Server, dirents};
use crate::dma::Lent;
use crate::redox::socket;

/// A request that has not been answered.
pub(super) struct Out {
    pub(super) then: Then,
    /// The client does not want it any more.
    pub(super) cancelled: bool,
}

/// What the tree's reply is made into.
pub(super) enum Then {
    Open {
        path: Arc<str>,
        caller: Caller,
    },
    /// It must not be there.
    Absent,
    /// It is open; what is it?
    Learn {
        handle: u64,
        path: Arc<str>,
        caller: Caller,
    },
    Move,
    CopyIn {
        handle: HandleId,
        offset: u64,
        memory: Lent,
        /// The client does not wait for something to happen (`O_NONBLOCK`).
        at_once: bool,
    },
    Stat(Lent),
    Length,
    Truncate {
        len_bytes: u64,
    },
    List {
        memory: Lent,
        header_bytes: u16,
        first: u64,
    },
    Done,
}

impl Server {
    /// What the tree said of `tag`, as the kernel is to hear it; `None` if it has been asked something more.
    pub(super) fn translate(
        self: &Arc<Self>,
        tag: u32,
        out: Out,
        result: Result<Reply, Errno>,
    ) -> Option<Cqe> {
        let number = |result: Result<usize, Errno>| {
            Some(socket::answer(tag, result.map_err(|errno| Error::new(errno.0))))
        };
        let reply = match (result, out.then) {
            (Err(Errno::EINTR), Then::CopyIn { at_once: true, .. }) if !out.cancelled => {
                return number(Err(Errno::EAGAIN));
            }
            (Err(Errno::EINTR), _) => return number(Err(Errno(ECANCELED))),
            (Err(errno), Then::Learn { handle, .. }) => {
                self.ask(
                    NOBODY,
                    Call::Close {
                        handle: HandleId(handle),
                    },
                );
                return number(Err(errno));
            }
            (Err(errno), _) => return number(Err(errno)),
            (Ok(reply), then) => (reply, then),
        };
        match reply {
            (Reply::Opened(handle), Then::Open { path, caller }) => {
                let then = Then::Learn {
                    handle: handle.0,
                    path,
                    caller,
                };
                self.call(tag, then, Call::Stat { handle });
                None
            }
            (Reply::Stat(stat), Then::Learn { handle, path, caller }) => {
                let opened = Opened { path, caller };
                let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
                handles.insert(handle, opened);
                let device = if stat.kind == NodeKind::BlockDevice {
                    DEVICE
                } else {
                    0
                };
                Some(socket::opened(tag, handle | device))
            }
            (Reply::Stat(_), Then::Absent) => number(Err(Errno(EEXIST))),
            (Reply::Moved { len }, Then::Move) => number(Ok(len)),
            (Reply::Read { buffer, len }, Then::CopyIn { mut memory, .. }) => {
                number(Ok(memory.copy_in(0, buffer.get(..len).unwrap_or_default())))
            }
            (Reply::Stat(stat), Then::Stat(mut memory)) => {
                let stat = redox_stat(&stat);
                if memory.len() < stat.len() {
                    return number(Err(Errno(EINVAL)));
                }
                memory.copy_in(0, &stat);
                number(Ok(0))
            }
            (Reply::Stat(stat), Then::Length) => {
                number(Ok(usize::try_from(stat.size_bytes).unwrap_or(usize::MAX)))
            }
            (Reply::Stat(stat), Then::Truncate { len_bytes }) => {
                if len_bytes > stat.size_bytes || stat.kind == NodeKind::Directory {
                    return number(Err(Errno(EINVAL)));
                }
                number(Ok(0))
            }
            (
                Reply::List(entries),
                Then::List {
                    memory,
                    header_bytes,
                    first,
                },
            ) => number(dirents::write(&entries, memory, header_bytes, first)),
            (Reply::Done | Reply::Stat(_), Then::Done) => number(Ok(0)),
            (reply, _) => {
                log::error!("scheme {}: {reply:?} is no answer to what was asked", self.name);
                number(Err(Errno::EIO))
            }
        }
    }
}

fn redox_stat(stat: &Stat) -> RedoxStat {
    let kind = match stat.kind {
        NodeKind::Directory => MODE_DIR,
        // As disks are on Redox.
        NodeKind::File | NodeKind::BlockDevice => MODE_FILE,
    };
    RedoxStat {
        st_mode: kind | stat.mode,
        st_nlink: 1,
        st_uid: stat.uid,
        st_gid: stat.gid,
        st_size: stat.size_bytes,
        st_blksize: stat.block_bytes,
        st_blocks: stat.size_bytes / u64::from(stat.block_bytes.max(1)),
        ..RedoxStat::default()
    }
}
