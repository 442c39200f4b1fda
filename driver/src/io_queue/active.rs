//! What is under way: requests, and the commands that they have become.

use super::command::command_for;
use crate::dma::Buffer;
use crate::dma::pages::Chain;
use crate::error::IoError;
use crate::namespace::Namespace;
use crate::passthrough::shape;
use crate::recorder::Record;
use crate::request::{Op, Request};

/// No request.
pub(super) const NIL: u32 = u32::MAX;

/// A request under way.
pub(super) struct Active<T> {
    pub(super) request: Request<T>,
    /// Place in the list of namespaces.
    pub(super) namespace: usize,
    /// Blocks for which commands have been sent.
    pub(super) sent_blocks: u64,
    /// Whether all commands have been sent; a Flush has one and no blocks.
    pub(super) sent_all: bool,
    pub(super) commands_out: u32,
    pub(super) result: Result<(), IoError>,
    pub(super) doorbell_ns: u64,
    /// When it should be done; `u64::MAX` if that does not matter.
    pub(super) deadline_ns: u64,
    /// Whether its client has said so, who wants to see why it was late then.
    pub(super) shows_late: bool,
    /// The next request of its [run](super::run); [`NIL`] if it is done alone or is the last.
    pub(super) next: u32,
}

impl<T> Active<T> {
    /// What a recorder keeps of one of its commands, without what became of it.
    #[cold]
    pub(super) fn record(&self, part: &Part, namespace: &Namespace, qid: u16, cid: u16) -> Record {
        let Request {
            op,
            nsid,
            slba,
            arrived_ns,
            ..
        } = self.request;
        let shift = namespace.lba_shift;
        let (skipped, blocks) = (part.offset as u64 >> shift, part.len as u64 >> shift);
        let (opcode, blocks) = match (op, &self.request.buffer) {
            (Op::Passthrough, Buffer::Passthrough(command)) => (
                command.entry.opcode,
                shape(&command.entry, shift).and_then(|shape| shape.blocks),
            ),
            _ => (
                command_for(op, nsid, slba, blocks.max(1)).opcode,
                (op != Op::Flush).then_some((slba + skipped, blocks)),
            ),
        };
        Record {
            qid,
            cid,
            opcode,
            nsid,
            blocks,
            arrived_ns,
            doorbell_ns: 0,
            ended_ns: 0,
            status: None,
            deadline_ns: self.deadline_ns,
        }
    }
}

/// One command of a request.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: u32,
    /// Bounce pages, then PRP lists.
    pub(super) pages: Chain,
    /// Where in the request's buffer its data is.
    pub(super) offset: usize,
    pub(super) len: usize,
    pub(super) copied: bool,
    pub(super) window: bool,
}
