//! What is asked of the driver, and its answer.

use crate::dma::Buffer;
use crate::error::IoError;

/// What to do with the blocks of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read them into the buffer.
    Read,
    /// Write them from the buffer; with `fua` (force unit access) they are on the medium when it is answered.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Put everything that was written before on the medium. Has no blocks and no buffer.
    Flush,
    /// Make them read as zeroes.
    WriteZeroes {
        /// Allow the controller to give their storage up.
        deallocate: bool,
    },
    /// Give their storage up (Dataset Management, deallocate). What they read as afterwards is the controller's choice.
    Deallocate,
    /// Compare them with the buffer; a difference is the status Compare Failure.
    Compare,
    /// Check that they can be read, without moving them.
    Verify,
    /// The command in the buffer ([`Buffer::Passthrough`]), as one command. The request's blocks are not looked at, and
    /// the controller is the judge of the command's own: what it answers is in the buffer afterwards.
    Passthrough,
}

impl Op {
    /// Whether the device writes into the buffer. Of [`Op::Passthrough`] the command says it.
    pub fn fills_buffer(self) -> bool {
        matches!(self, Self::Read)
    }

    /// Whether a request of this kind has, or may have, data in its buffer.
    pub fn has_data(self) -> bool {
        matches!(
            self,
            Self::Read | Self::Write { .. } | Self::Compare | Self::Passthrough
        )
    }
}

/// One request to a namespace, of any length: what is longer than one command can be is split.
#[derive(Debug)]
pub struct Request<T> {
    /// What to do.
    pub op: Op,
    /// The namespace.
    pub nsid: u32,
    /// The first block.
    pub slba: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The data: at least that many blocks, or [`Buffer::None`] if `op` has none.
    pub buffer: Buffer,
    /// When the request came to the driver, in nanoseconds of its [`Clock`](crate::clock::Clock).
    pub arrived_ns: u64,
    /// The caller's own; comes back with the answer.
    pub context: T,
}

impl<T> Request<T> {
    /// The same request with another context.
    #[inline]
    pub fn map<U>(self, context: impl FnOnce(T) -> U) -> Request<U> {
        Request {
            op: self.op,
            nsid: self.nsid,
            slba: self.slba,
            blocks: self.blocks,
            buffer: self.buffer,
            arrived_ns: self.arrived_ns,
            context: context(self.context),
        }
    }
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub struct Finished<T> {
    /// As in the request.
    pub op: Op,
    /// As in the request.
    pub nsid: u32,
    /// As in the request.
    pub slba: u64,
    /// As in the request.
    pub blocks: u64,
    /// The request's buffer.
    pub buffer: Buffer,
    /// The request's context.
    pub context: T,
    /// What became of it. If one of several commands fails the others are still done, and the first failure shows.
    pub result: Result<(), IoError>,
    /// As in the request.
    pub arrived_ns: u64,
    /// When the doorbell of its first command was written; `arrived_ns` if there was no command.
    pub doorbell_ns: u64,
    /// When its last completion was seen.
    pub completed_ns: u64,
}

impl<T> Finished<T> {
    /// The context, and the answer without it.
    #[inline]
    pub fn take_context(self) -> (T, Finished<()>) {
        let Self {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            context,
            result,
            arrived_ns,
            doorbell_ns,
            completed_ns,
        } = self;
        let rest = Finished {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            context: (),
            result,
            arrived_ns,
            doorbell_ns,
            completed_ns,
        };
        (context, rest)
    }

    /// The same answer with another context.
    #[inline]
    pub fn with_context<U>(self, context: U) -> Finished<U> {
        Finished {
            op: self.op,
            nsid: self.nsid,
            slba: self.slba,
            blocks: self.blocks,
            buffer: self.buffer,
            context,
            result: self.result,
            arrived_ns: self.arrived_ns,
            doorbell_ns: self.doorbell_ns,
            completed_ns: self.completed_ns,
        }
    }

    /// An answer to `request` without any command.
    pub(crate) fn without_command(request: Request<T>, result: Result<(), IoError>, now_ns: u64) -> Self {
        let Request {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            arrived_ns,
            context,
        } = request;
        Self {
            op,
            nsid,
            slba,
            blocks,
            buffer,
            context,
            result,
            arrived_ns,
            doorbell_ns: arrived_ns,
            completed_ns: now_ns.max(arrived_ns),
        }
    }
}
