//! What the kernel is told of names: numbers and attributes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEntry};

use super::super::gate::Gate;
use super::super::{Call, Caller, Errno, NodeKind, OpenFlags, Reply, Stat, lock};
use super::failure;
use super::inodes::{Inodes, Place};

/// How long the kernel may believe that a name exists.
const NAME_TTL: Duration = Duration::from_secs(1);
/// Sizes, modes and owners change under the kernel's eyes; it asks each time.
const ATTR_TTL: Duration = Duration::ZERO;

/// The names of one tree. Cheap to clone; all clones know the same.
#[derive(Clone)]
pub(super) struct Names {
    gate: Arc<Gate>,
    inodes: Arc<Mutex<Inodes>>,
    /// What all nodes show as their time: nothing here keeps any.
    since: SystemTime,
}

impl Names {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            inodes: Arc::new(Mutex::new(Inodes::new())),
            since: SystemTime::now(),
        }
    }

    pub(super) fn place(&self, number: INodeNo) -> Result<Place, fuser::Errno> {
        lock(&self.inodes).get(number.0).ok_or(fuser::Errno::ENOENT)
    }

    pub(super) fn forget(&self, number: INodeNo, count: u64) {
        lock(&self.inodes).forget(number.0, count);
    }

    /// The number that a lookup of `path` would give, if the kernel has looked it up.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        lock(&self.inodes).number(path)
    }

    /// Answers with the number and the attributes of what is at `path`: the directory or, if it is none, the file.
    pub(super) fn look_up(self, path: String, reply: ReplyEntry) {
        let call = |path, directory| Call::Lookup { path, directory };
        let gate = Arc::clone(&self.gate);
        gate.call(call(path.clone(), true), move |result| match result {
            // Only files have queries.
            Err(Errno::ENOTDIR | Errno::EINVAL) => {
                let gate = Arc::clone(&self.gate);
                gate.call(call(path.clone(), false), move |result| {
                    self.entry(&path, result, reply)
                });
            }
            result => self.entry(&path, result, reply),
        });
    }

    /// The same for a name with a query, of which there are millions: only for those who could open it, so that nobody
    /// else fills the memory with names.
    pub(super) fn look_up_query(self, path: String, caller: Caller, reply: ReplyEntry) {
        self.look_up_for(OpenFlags::READ, path, caller, reply);
    }

    fn look_up_for(self, flags: OpenFlags, path: String, caller: Caller, reply: ReplyEntry) {
        let call = Call::Open {
            path: path.clone(),
            flags,
            caller: caller.clone(),
        };
        let gate = Arc::clone(&self.gate);
        gate.call(call, move |result| match result {
            Ok(Reply::Opened(handle)) => {
                let gate = Arc::clone(&self.gate);
                gate.call(Call::Close { handle }, move |_| self.look_up(path, reply));
            }
            // Who may only write it may open it too.
            Err(Errno::EACCES) if flags.read => self.look_up_for(OpenFlags::WRITE, path, caller, reply),
            other => reply.error(failure(other)),
        });
    }

    fn entry(&self, path: &str, result: Result<Reply, Errno>, reply: ReplyEntry) {
        match result {
            Ok(Reply::Stat(stat)) => {
                let number = lock(&self.inodes).look_up(path, stat.kind == NodeKind::Directory);
                let attr = attr(self.since, number, &stat);
                reply.entry_with_ttls(&ATTR_TTL, &NAME_TTL, &attr, Generation(0));
            }
            other => reply.error(failure(other)),
        }
    }

    /// Who answers a request for the attributes of `number`.
    pub(super) fn reply_attr(
        &self,
        number: INodeNo,
        reply: ReplyAttr,
    ) -> impl FnOnce(Result<Reply, Errno>) + Send + use<> {
        let since = self.since;
        move |result| match result {
            Ok(Reply::Stat(stat)) => reply.attr(&ATTR_TTL, &attr(since, number.0, &stat)),
            other => reply.error(failure(other)),
        }
    }
}

fn attr(since: SystemTime, number: u64, stat: &Stat) -> FileAttr {
    let directory = stat.kind == NodeKind::Directory;
    FileAttr {
        ino: INodeNo(number),
        size: stat.size_bytes,
        blocks: stat.size_bytes.div_ceil(512),
        atime: since,
        mtime: since,
        ctime: since,
        crtime: since,
        kind: file_type(stat.kind),
        perm: stat.mode,
        nlink: if directory { 2 } else { 1 },
        uid: stat.uid,
        gid: stat.gid,
        rdev: 0,
        blksize: stat.block_bytes,
        flags: 0,
    }
}

pub(super) const fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Directory => FileType::Directory,
        NodeKind::File | NodeKind::BlockDevice => FileType::RegularFile,
    }
}
