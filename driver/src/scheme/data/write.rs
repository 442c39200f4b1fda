//! One write on its way: read what it touches in part, change it, write whole blocks.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::dma::Lent;

use super::{Answer, Buffer, Errno, Finished, Grant, Hint, Mode, Op, Pending, Reply, Span, Work, lock};

/// What is to be written.
pub(super) enum Data {
    /// In a buffer of the server's.
    Owned(Vec<u8>),
    /// In memory that the client has lent.
    Lent(Lent),
}

impl Data {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            Self::Lent(memory) => memory.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer: its first `len` bytes were written. What is lent is let go of.
    pub(super) fn written(self, len: usize) -> Reply {
        match self {
            Self::Owned(buffer) => Reply::Written { buffer, len },
            Self::Lent(_) => Reply::Moved { len },
        }
    }

    /// As the driver takes it: the first `len` bytes at least.
    fn into_buffer(self, len: usize) -> Buffer {
        match self {
            Self::Owned(bytes) => Buffer::heap(bytes),
            Self::Lent(memory) => Buffer::Lent(memory.shortened(len)),
        }
    }

    /// Back from the driver.
    fn from_buffer(buffer: Buffer) -> Option<Self> {
        match buffer {
            Buffer::Heap { bytes, .. } => Some(Self::Owned(bytes)),
            Buffer::Lent(memory) => Some(Self::Lent(memory)),
            _ => None,
        }
    }

    /// Puts the first bytes of it into all of `into`.
    fn copy_to(&self, into: &mut [u8]) {
        match self {
            Self::Owned(bytes) => {
                if let Some(from) = bytes.get(..into.len()) {
                    into.copy_from_slice(from);
                }
            }
            Self::Lent(memory) => {
                memory.copy_out(0, into);
            }
        }
    }
}

/// A write that was accepted.
pub(super) struct Write {
    hint: Hint,
    span: Span,
    data: Data,
    /// When its next request arrives at the driver: the first one when the client's call did.
    arrived_ns: u64,
    pending: Pending,
    /// All blocks touched, as they are to be written. Empty if `data` is that already.
    cover: Vec<u8>,
    /// Blocks of the cover that are to be read first.
    edges: [Option<Range<u64>>; 2],
}

impl Write {
    pub(super) fn new(hint: Hint, span: Span, data: Data, arrived_ns: u64, pending: Pending) -> Self {
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
                let buffer = if self.span.is_aligned() {
                    let data = std::mem::replace(&mut self.data, Data::Owned(Vec::new()));
                    data.into_buffer(self.span.len_bytes())
                } else {
                    Buffer::heap(self.merged())
                };
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
        if let Some(into) = cover.get_mut(self.span.in_cover()) {
            self.data.copy_to(into);
        }
        cover
    }

    fn failed(self, errno: Errno) {
        let Self { data, pending, .. } = self;
        // What is lent is not kept beyond the answer.
        drop(data);
        pending.answer(Err(errno));
    }

    fn answered(mut self: Box<Self>, grant: Grant, step: Step, finished: Finished<()>) {
        if matches!(step, Step::Last) {
            grant.changed();
        }
        let done = match finished.result {
            Ok(()) => Data::from_buffer(finished.buffer).ok_or(Errno::EIO),
            Err(error) => {
                drop(finished.buffer);
                Err(error.into())
            }
        };
        let done = match done {
            Ok(done) => done,
            Err(errno) => return self.failed(errno),
        };
        match step {
            Step::Edge(edge) => {
                if let Some(into) = self.cover.get_mut(self.span.cover_of(&edge)) {
                    done.copy_to(into);
                }
                self.arrived_ns = grant.volume.service.now_ns();
                self.next(grant);
            }
            Step::Last => {
                let Self {
                    span, data, pending, ..
                } = *self;
                let data = if span.is_aligned() { done } else { data };
                pending.answer(Ok(data.written(span.len_bytes())));
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
