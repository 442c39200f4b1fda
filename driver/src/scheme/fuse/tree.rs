//! Requests of the kernel as calls of the scheme, and answers as replies.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::super::gate::Gate;
use super::super::{Call, Errno, HandleId, NodeKind, OpenFlags, Permissions, Reply, may_share, may_wait};
use super::caller::caller;
use super::interrupts::Interrupts;
use super::names::{Names, file_type};
use super::{MAX_BACKGROUND, MAX_PIECE_BYTES, failure};
#[cfg(feature = "io-uring-compat")]
use crate::dma::SharedMemory;
#[cfg(feature = "io-uring-compat")]
use crate::ring::message::Message;
#[cfg(feature = "io-uring-compat")]
use crate::scheme::Quota;

/// What statfs(2) says of the longest name; the scheme's own limit is that of the path.
const MAX_NAME_BYTES: u32 = 255;

// fallocate(2). The flags are the kernel's, and the same on all machines.
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// Set in the kernel's number of a handle whose reads may wait for something to happen. The scheme counts its handles
/// from 1, one by one.
const WAITS: u64 = 1 << 63;
/// Set in that of a handle to which messages may be written that name memory to be shared.
const SHARES: u64 = 1 << 62;

/// One mounted tree.
pub(super) struct Tree {
    gate: Arc<Gate>,
    names: Names,
    interrupts: Arc<Interrupts>,
}

impl Tree {
    pub(super) fn new(gate: Arc<Gate>, interrupts: Arc<Interrupts>) -> Self {
        Self {
            names: Names::new(Arc::clone(&gate)),
            gate,
            interrupts,
        }
    }

    fn open_as(&self, req: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let place = match self.names.place(number) {
            Ok(place) => place,
            Err(errno) => return reply.error(errno),
        };
        let call = Call::Open {
            path: place.path.to_string(),
            flags,
            caller: caller(req),
        };
        let fopen = if flags.directory {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH
        };
        let marks =
            if may_wait(&place.path) { WAITS } else { 0 } | if may_share(&place.path) { SHARES } else { 0 };
        self.gate.call(call, move |result| match result {
            Ok(Reply::Opened(handle)) => reply.opened(file_handle(handle, marks), fopen),
            other => reply.error(failure(other)),
        });
    }

    /// A call that may take long, and whose client may be interrupted meanwhile.
    fn call_patiently(
        &self,
        req: &Request,
        handle: FileHandle,
        call: Call,
        then: impl FnOnce(Result<Reply, Errno>) + Send + 'static,
    ) {
        let (interrupts, request) = (Arc::clone(&self.interrupts), req.unique().0);
        interrupts.begin(request, req.pid(), handle_id(handle));
        self.gate.call(call, move |result| {
            interrupts.done(request);
            then(result);
        });
    }

    fn close(&self, handle: FileHandle, reply: ReplyEmpty) {
        let call = Call::Close {
            handle: handle_id(handle),
        };
        self.gate.call(call, move |result| done(result, reply));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.interrupts.end();
    }
}

const fn file_handle(handle: HandleId, marks: u64) -> FileHandle {
    FileHandle(handle.0 | marks)
}

const fn handle_id(handle: FileHandle) -> HandleId {
    HandleId(handle.0 & !(WAITS | SHARES))
}

/// What a client has written to a handle: a message that names memory comes with that memory. The client may not wait for the
/// answer (libaio), and its number be another process's by now: so the process must be the user's who wrote.
///
/// # Errors
/// It is not there, or is not to be shared.
fn write_call(req: &Request, handle: FileHandle, offset: u64, data: &[u8]) -> Result<Call, fuser::Errno> {
    #[cfg(feature = "io-uring-compat")]
    if handle.0 & SHARES != 0
        && let Some(message) = Message::decode(data)
        && let Some(name) = message.memory()
    {
        // Before it is mapped, which takes its pages and time.
        if name.len_bytes > Quota::of(req.uid()).kept_bytes as u64 {
            return Err(fuser::Errno::ENOMEM);
        }
        // A process that this one does not see has no number here.
        let memory = match req.pid() {
            0 => return Err(fuser::Errno::EACCES),
            pid => SharedMemory::of_process(pid, req.uid(), name.descriptor, name.len_bytes),
        };
        return match memory {
            Ok(memory) => Ok(Call::Share {
                handle: handle_id(handle),
                message: data.to_vec(),
                memory: Arc::new(memory),
            }),
            Err(error) => {
                log::info!("process {}: memory that it wants to share: {error}", req.pid());
                Err(error
                    .raw_os_error()
                    .map_or(fuser::Errno::EINVAL, fuser::Errno::from_i32))
            }
        };
    }
    #[cfg(not(feature = "io-uring-compat"))]
    let _ = req;
    Ok(Call::Write {
        handle: handle_id(handle),
        offset,
        data: data.to_vec(),
    })
}

fn done(result: Result<Reply, Errno>, reply: ReplyEmpty) {
    match result {
        Ok(Reply::Done) => reply.ok(),
        other => reply.error(failure(other)),
    }
}

const fn open_flags(flags: fuser::OpenFlags) -> OpenFlags {
    // Not a constant function of the library, so by hand: O_ACCMODE is the lowest two bits.
    match flags.0 & 3 {
        0 => OpenFlags::READ,
        1 => OpenFlags::WRITE,
        _ => OpenFlags::READ_WRITE,
    }
}

impl Filesystem for Tree {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an old kernel does not have costs speed, and nothing else.
        for wanted in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_PARALLEL_DIROPS] {
            if config.add_capabilities(wanted).is_err() {
                log::info!("the kernel's FUSE does not have {wanted:?}");
            }
        }
        let too_much = |_| io::Error::from(io::ErrorKind::InvalidInput);
        config.set_max_write(MAX_PIECE_BYTES).map_err(too_much)?;
        config
            .set_max_background(MAX_BACKGROUND)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        config
            .set_congestion_threshold(MAX_BACKGROUND)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = match (self.names.place(parent), name.to_str()) {
            (Ok(parent), Some(name)) => parent.child(name),
            _ => return reply.error(fuser::Errno::ENOENT),
        };
        if path.contains('?') {
            return self.names.clone().look_up_query(path, caller(req), reply);
        }
        self.names.clone().look_up(path, reply);
    }

    fn forget(&self, _req: &Request, number: INodeNo, count: u64) {
        self.names.forget(number, count);
    }

    fn getattr(&self, _req: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let call = match (handle, self.names.place(number)) {
            // Of a document, the handle knows more than its path: how long the snapshot is that it holds.
            (Some(handle), _) => Call::Stat {
                handle: handle_id(handle),
            },
            (None, Ok(place)) => Call::Lookup {
                path: place.path.to_string(),
                directory: place.directory,
            },
            (None, Err(errno)) => return reply.error(errno),
        };
        self.gate.call(call, self.names.reply_attr(number, reply));
    }

    fn setattr(
        &self,
        req: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let place = match self.names.place(number) {
            Ok(place) => place,
            Err(errno) => return reply.error(errno),
        };
        if mode.is_some() || uid.is_some() || gid.is_some() {
            let change = Permissions {
                // The kernel sends the file's type with it.
                mode: mode.map(|mode| (mode & 0o7777) as u16),
                uid,
                gid,
            };
            let call = Call::Permit {
                path: place.exact_path(),
                caller: caller(req),
                change,
            };
            return self.gate.call(call, self.names.reply_attr(number, reply));
        }
        let call = Call::Lookup {
            path: place.path.to_string(),
            directory: place.directory,
        };
        let answer = self.names.reply_attr(number, reply);
        self.gate.call(call, move |result| match (&result, size) {
            // Shells and dd shorten what they write to before they do. A device keeps its size and what is in it, and
            // to grow it is an error.
            (Ok(Reply::Stat(stat)), Some(size)) if size > stat.size_bytes => answer(Err(Errno::EINVAL)),
            // Times are not kept; to set them is not an error, or cp and tar would complain.
            _ => answer(result),
        });
    }

    fn open(&self, req: &Request, number: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        self.open_as(req, number, open_flags(flags), reply);
    }

    fn read(
        &self,
        req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let call = Call::Read {
            handle: handle_id(handle),
            offset,
            buffer: vec![0; size.min(MAX_PIECE_BYTES) as usize],
        };
        let answer = move |result| match result {
            Ok(Reply::Read { buffer, len }) => reply.data(buffer.get(..len).unwrap_or_default()),
            other => reply.error(failure(other)),
        };
        if handle.0 & WAITS == 0 {
            self.gate.call(call, answer);
        } else {
            self.call_patiently(req, handle, call, answer);
        }
    }

    fn write(
        &self,
        req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let call = match write_call(req, handle, offset, data) {
            Ok(call) => call,
            Err(errno) => return reply.error(errno),
        };
        self.gate.call(call, move |result| match result {
            // Not more than what was sent, which is at most `MAX_PIECE_BYTES`.
            Ok(Reply::Written { len, .. }) => reply.written(len as u32),
            other => reply.error(failure(other)),
        });
    }

    fn flush(
        &self,
        _req: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // close(2) promises nothing.
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.close(handle, reply);
    }

    fn fsync(
        &self,
        _req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let call = Call::Sync {
            handle: handle_id(handle),
        };
        self.gate.call(call, move |result| done(result, reply));
    }

    fn fallocate(
        &self,
        req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len_bytes: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // As of a block device: it cannot grow, so every mode is one that keeps the size.
        let deallocate = match mode & !KEEP_SIZE {
            PUNCH_HOLE => true,
            ZERO_RANGE => false,
            _ => return reply.error(fuser::Errno::EOPNOTSUPP),
        };
        let call = Call::Zero {
            handle: handle_id(handle),
            offset,
            len_bytes,
            deallocate,
        };
        // Of a whole disk it takes as long as the disk likes.
        self.call_patiently(req, handle, call, move |result| done(result, reply));
    }

    fn opendir(&self, req: &Request, number: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        self.open_as(req, number, OpenFlags::DIRECTORY, reply);
    }

    fn readdir(
        &self,
        _req: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let place = match self.names.place(number) {
            Ok(place) => place,
            Err(errno) => return reply.error(errno),
        };
        let call = Call::List {
            handle: handle_id(handle),
        };
        let names = self.names.clone();
        self.gate.call(call, move |result| {
            let entries = match result {
                Ok(Reply::List(entries)) => entries,
                other => return reply.error(failure(other)),
            };
            let dots = [".", ".."].map(|name| (name.to_owned(), NodeKind::Directory));
            let entries = entries.into_iter().map(|entry| (entry.name, entry.kind));
            let skip = usize::try_from(offset).unwrap_or(usize::MAX);
            for (position, (name, kind)) in dots.into_iter().chain(entries).enumerate().skip(skip) {
                // The number that a lookup would give, where there has been one; else one that says "unknown".
                let known = names.number(&place.child(&name)).unwrap_or(u64::from(u32::MAX));
                if reply.add(INodeNo(known), position as u64 + 1, file_type(kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.close(handle, reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn access(&self, req: &Request, number: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let place = match self.names.place(number) {
            Ok(place) => place,
            Err(errno) => return reply.error(errno),
        };
        if mask.contains(AccessFlags::X_OK) && !place.directory {
            return reply.error(fuser::Errno::EACCES);
        }
        let flags = OpenFlags {
            read: mask.contains(AccessFlags::R_OK),
            write: mask.contains(AccessFlags::W_OK),
            directory: place.directory,
        };
        if !flags.read && !flags.write {
            return reply.ok();
        }
        // The one who decides is asked in the one way there is.
        let call = Call::Open {
            path: place.path.to_string(),
            flags,
            caller: caller(req),
        };
        let gate = Arc::clone(&self.gate);
        self.gate.call(call, move |result| match result {
            Ok(Reply::Opened(handle)) => gate.call(Call::Close { handle }, move |result| done(result, reply)),
            Err(Errno::EISDIR) => reply.error(fuser::Errno::EACCES),
            other => reply.error(failure(other)),
        });
    }

    fn statfs(&self, _req: &Request, _number: INodeNo, reply: ReplyStatfs) {
        // Nothing can be stored in the tree itself.
        reply.statfs(0, 0, 0, 0, 0, 4096, MAX_NAME_BYTES, 0);
    }

    // The tree is the driver's: nobody adds to it or takes from it.

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(fuser::Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: INodeNo,
        _: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &std::path::Path, reply: ReplyEntry) {
        reply.error(fuser::Errno::EPERM);
    }

    // What the kernel does without when it hears ENOSYS, once and for all; the library would log a warning.

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(fuser::Errno::ENOSYS);
    }
}

#[cfg(test)]
mod tests {
    use fuser::OpenAccMode;

    use super::*;

    #[test]
    fn open_flags_are_the_kernels() {
        assert_eq!(open_flags(fuser::OpenFlags(0)), OpenFlags::READ);
        assert_eq!(open_flags(fuser::OpenFlags(0o100_001)), OpenFlags::WRITE);
        assert_eq!(open_flags(fuser::OpenFlags(0o101_002)), OpenFlags::READ_WRITE);
        for mode in [OpenAccMode::O_RDONLY, OpenAccMode::O_WRONLY, OpenAccMode::O_RDWR] {
            let flags = open_flags(fuser::OpenFlags(mode as i32));
            assert_eq!(flags.read, mode != OpenAccMode::O_WRONLY);
            assert_eq!(flags.write, mode != OpenAccMode::O_RDONLY);
        }
    }

    #[test]
    fn a_handle_whose_reads_wait_keeps_its_number() {
        assert_eq!(handle_id(file_handle(HandleId(7), WAITS | SHARES)), HandleId(7));
        assert_ne!(file_handle(HandleId(7), WAITS), file_handle(HandleId(7), 0));
    }
}
