//! One write on its way: read what it touches in part, change it, write whole blocks.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::{Answer, Buffer, Errno, Finished, Grant, Hint, Mode, Op, Pending, Reply, Span, Work, lock};

/// A write that was accepted.
pub(super) struct Write {
    hint: Hint,
    span: Span,
    data: Vec<u8>,
    /// When its next request arrives at the driver: the first one when the client's call did.
    arrived_ns: u64,
    pending: Pending,
    /// All blocks touched, as they are to be written. Empty if `data` is that already.
    cover: Vec<u8>,
    /// Blocks of the cover that are to be read first.
    edges: [Option<Range<u64>>; 2],
}

impl Write {
    pub(super) fn new(hint: Hint, span: Span, data: Vec<u8>, arrived_ns: u64, pending: Pending) -> Self {
        Self {
            hint,
            span,
            data,
            arrived_ns,
            pending,
            cover: Vec::new(),
            edges: span.edges(),
        }
    }

    /// Reads the next edge, or writes when there is none.
    fn next(mut self: Box<Self>, grant: Grant) {
        let volume = Arc::clone(&grant.volume);
        let (hint, arrived_ns, slba) = (self.hint, self.arrived_ns, self.span.slba());
        let edge = self.edges.iter_mut().find_map(Option::take);
        let (op, blocks, buffer, step) = match edge {
            Some(edge) => {
                let bytes = vec![0; self.span.cover_of(&edge).len()];
                let blocks = (slba + edge.start, edge.end - edge.start);
                (
                    Op::Read,
                    blocks,
                    Buffer::Heap { bytes, offset: 0 },
                    Step::Edge(edge),
                )
            }
            None => {
                let bytes = if self.span.is_aligned() {
                    std::mem::take(&mut self.data)
                } else {
                    self.merged()
                };
                let buffer = Buffer::Heap { bytes, offset: 0 };
                (
                    Op::Write { fua: false },
                    (slba, self.span.blocks()),
                    buffer,
                    Step::Last,
                )
            }
        };
        let sink = Arc::new(Out(Mutex::new(Some((self, grant, step)))));
        volume.submit(op, hint, blocks, buffer, arrived_ns, sink);
    }

    /// The cover, with the client's bytes in it.
    fn merged(&mut self) -> Vec<u8> {
        let mut cover = std::mem::take(&mut self.cover);
        let into = cover.get_mut(self.span.in_cover());
        let from = self.data.get(..self.span.len_bytes());
        if let (Some(into), Some(from)) = (into, from) {
            into.copy_from_slice(from);
        }
        cover
    }

    fn failed(self, errno: Errno) {
        self.pending.answer(Err(errno));
    }

    fn answered(mut self: Box<Self>, grant: Grant, step: Step, finished: Finished<()>) {
        if matches!(step, Step::Last) {
            grant.changed();
        }
        let bytes = match (finished.result, finished.buffer) {
            (Ok(()), Buffer::Heap { bytes, .. }) => bytes,
            (Ok(()), _) => return self.failed(Errno::EIO),
            (Err(error), _) => return self.failed(error.into()),
        };
        match step {
            Step::Edge(edge) => {
                if let Some(into) = self.cover.get_mut(self.span.cover_of(&edge))
                    && into.len() == bytes.len()
                {
                    into.copy_from_slice(&bytes);
                }
                self.arrived_ns = grant.volume.service.now_ns();
                self.next(grant);
            }
            Step::Last => {
                let buffer = if self.span.is_aligned() {
                    bytes
                } else {
                    std::mem::take(&mut self.data)
                };
                let len = self.span.len_bytes();
                self.pending.answer(Ok(Reply::Written { buffer, len }));
            }
        }
    }
}

impl Work for Write {
    fn locked_bytes(&self) -> Range<u64> {
        self.span.covered()
    }

    fn mode(&self) -> Mode {
        if self.span.is_aligned() {
            Mode::Shared
        } else {
            Mode::Exclusive
        }
    }

    fn refuse(self: Box<Self>, errno: Errno) {
        self.failed(errno);
    }

    fn begin(mut self: Box<Self>, grant: Grant) {
        if !self.span.is_aligned() {
            // Only now: those who wait need no second buffer.
            self.cover = vec![0; self.span.cover_bytes()];
        }
        self.next(grant);
    }
}

/// What the request that is out was for.
enum Step {
    /// These blocks of the cover.
    Edge(Range<u64>),
    /// The write itself.
    Last,
}

/// A write whose request is with the driver. The grant is dropped last: after the answer, so that answers
/// come in the order in which the writes took effect.
struct Out(Mutex<Option<(Box<Write>, Grant, Step)>>);

impl Answer for Out {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let out = lock(&self.0).take();
        if let Some((write, grant, step)) = out {
            write.answered(grant, step, finished);
        }
    }
}
