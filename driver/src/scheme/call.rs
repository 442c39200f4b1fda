//! What a client asks of the tree, and what it is answered.

use super::access::{Caller, OpenFlags, Permissions};
use super::errno::Errno;
use crate::dma::Lent;

/// One open node, until [`Call::Close`]. Never used twice by one scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// What a client asks.
#[derive(Debug)]
pub enum Call {
    /// Opens a node; answered by [`Reply::Opened`].
    Open {
        /// Where, as the table of [the module](super) has it, without the scheme's name.
        path: String,
        /// What for.
        flags: OpenFlags,
        /// By whom.
        caller: Caller,
    },
    /// Reads at most `buffer.len()` bytes; answered by [`Reply::Read`].
    Read {
        /// What was opened.
        handle: HandleId,
        /// From where, in bytes.
        offset: u64,
        /// Where the bytes are put; comes back with the answer.
        buffer: Vec<u8>,
    },
    /// Writes; answered by [`Reply::Written`].
    Write {
        /// What was opened.
        handle: HandleId,
        /// Where to, in bytes. Transaction files do not look at it.
        offset: u64,
        /// The bytes; come back with the answer.
        data: Vec<u8>,
    },
    /// As [`Call::Read`], into memory that a client has lent; answered by [`Reply::Moved`]. What is whole blocks of a
    /// block device is not copied, where the backend reaches that memory. The memory is not touched after the answer.
    ReadInto {
        /// What was opened.
        handle: HandleId,
        /// From where, in bytes.
        offset: u64,
        /// Where the bytes are put.
        memory: Lent,
    },
    /// As [`Call::Write`], from memory that a client has lent; answered by [`Reply::Moved`]. As [`Call::ReadInto`].
    WriteFrom {
        /// What was opened.
        handle: HandleId,
        /// Where to, in bytes.
        offset: u64,
        /// The bytes.
        memory: Lent,
    },
    /// As [`Call::Write`] of a message to `N/ring` that names memory, with that memory; answered by [`Reply::Written`].
    #[cfg(feature = "io-uring-compat")]
    Share {
        /// What was opened.
        handle: HandleId,
        /// The message, a [`Message`](crate::ring::message::Message).
        message: Vec<u8>,
        /// What it names.
        memory: std::sync::Arc<crate::dma::SharedMemory>,
    },
    /// Makes what was written durable (a Flush command); answered by [`Reply::Done`].
    Sync {
        /// What was opened.
        handle: HandleId,
    },
    /// Answered by [`Reply::Stat`].
    Stat {
        /// What was opened.
        handle: HandleId,
    },
    /// Lists a directory; answered by [`Reply::List`].
    List {
        /// What was opened.
        handle: HandleId,
    },
    /// What a path is, without opening it: needs no permission. Answered by [`Reply::Stat`], with the errors
    /// of [`Call::Open`] for a path that is none.
    Lookup {
        /// Where, as in [`Call::Open`].
        path: String,
        /// `N` is the directory and not the block device, and a file is `ENOTDIR`.
        directory: bool,
    },
    /// Changes mode, owner or group of a block device (`chmod`, `chown`), also for handles that are open when
    /// it comes to `Stat`, but not to what they may do. Answered by [`Reply::Stat`], as it is then. `EPERM`
    /// for anyone but uid 0, and for every other node: their access is fixed.
    Permit {
        /// Where, as in [`Call::Open`].
        path: String,
        /// By whom.
        caller: Caller,
        /// What to change.
        change: Permissions,
    },
    /// Makes bytes of a block device read as zeroes; answered by [`Reply::Done`]. What is beyond the end is
    /// left out; a length of 0, or nothing before the end, is `EINVAL`, as it is to `fallocate` on Linux. It is
    /// done piece by piece and not atomic as a whole: others may write in between. [`Call::Wake`],
    /// [`Call::Close`] and [`Scheme::wake_readers`](super::Scheme::wake_readers) end it between two pieces with
    /// `EINTR`. A failure may leave a part of it done; it may be asked again.
    Zero {
        /// What was opened.
        handle: HandleId,
        /// From where, in bytes.
        offset: u64,
        /// How much, in bytes, without a bound.
        len_bytes: u64,
        /// Let the controller give the storage up as well (`FALLOC_FL_PUNCH_HOLE`).
        deallocate: bool,
    },
    /// Ends what may take long on the handle: reads that wait for something to happen, and each
    /// [`Call::Zero`] when the piece of it that is with the device has been done. They are answered `EINTR`.
    /// Answered by [`Reply::Done`].
    Wake {
        /// What was opened.
        handle: HandleId,
    },
    /// Gives the handle back; answered by [`Reply::Done`]. Calls that are out on it are still answered.
    Close {
        /// What was opened.
        handle: HandleId,
    },
}

/// What a client is answered.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// The new handle.
    Opened(HandleId),
    /// The first `len` bytes of `buffer` were read; what is behind them has no meaning. 0 = the end.
    Read {
        /// The caller's buffer, of the length that it had.
        buffer: Vec<u8>,
        /// Bytes.
        len: usize,
    },
    /// The first `len` bytes of `buffer` were written.
    Written {
        /// The caller's buffer, untouched.
        buffer: Vec<u8>,
        /// Bytes.
        len: usize,
    },
    /// The first `len` bytes of the lent memory were read or written. 0 of a read = the end.
    Moved {
        /// Bytes.
        len: usize,
    },
    /// It is done.
    Done,
    /// About a node.
    Stat(Stat),
    /// What is in a directory, in order.
    List(Vec<Entry>),
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Can be listed.
    Directory,
    /// A document or a transaction file.
    File,
    /// A namespace's data.
    BlockDevice,
}

/// About a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The block device's size, 0 if the driver cannot use it; the length of a structure whose length is
    /// fixed; otherwise that of the snapshot which the handle holds, 0 before the first read.
    pub size_bytes: u64,
    /// What reads and writes should be a multiple of: the logical block, 4096 where there is none.
    pub block_bytes: u32,
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, such as 0o444.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// One line of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name within the directory.
    pub name: String,
    /// What it is. A namespace `N` is shown as a directory, though `N` opened as a file is the block device.
    pub kind: NodeKind,
}

/// Where answers go: the server of the tree implements it.
pub trait Answers: Send + Sync {
    /// The answer to the call that was given `id`, exactly once for each call. Must not block.
    fn answer(&self, id: u64, result: Result<Reply, Errno>);
}
