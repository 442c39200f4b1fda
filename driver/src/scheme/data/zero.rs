//! Making bytes read as zeroes: whole blocks by commands without data, the ends by read-modify-write.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use nvme_spec::identify::{Dlfeat, IdentifyController, IdentifyNamespace, Oncs};
use zerocopy::FromBytes;

use super::super::service::{Identity, IoError, Namespace};
use super::{
    Answer, Buffer, Errno, Finished, Geometry, Grant, Hint, Mode, Op, Patience, Pending, Reply, Span, Volume,
    Work, lock,
};

/// The most that one request zeroes by commands without data, and locks. It bounds how many commands a request
/// becomes (Write Zeroes does at most 65536 blocks), so that other clients' requests get in between, and how
/// long one waits for it who wants it ended.
const MAX_COMMANDED_BYTES: u64 = 256 << 20;

/// The most that one request zeroes by writing a buffer.
const MAX_WRITTEN_BYTES: u64 = 1 << 20;

/// What the controller has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// Dataset Management first. It promises nothing of what is read afterwards.
    deallocate: bool,
    /// Write Zeroes; otherwise the zeroes are written from a buffer.
    write_zeroes: bool,
    /// Write Zeroes may deallocate (DEAC).
    deac: bool,
}

impl How {
    /// What `identity` (ONCS) and `namespace` (DLFEAT) have, to give storage up too if `deallocate`.
    pub(super) fn new(identity: &Identity, namespace: &Namespace, deallocate: bool) -> Self {
        let oncs = IdentifyController::read_from_bytes(identity.identify_controller.as_slice())
            .map_or(Oncs::new(), |controller| Oncs::from(controller.oncs.get()));
        let dlfeat = IdentifyNamespace::read_from_bytes(namespace.identify.as_slice())
            .map_or(Dlfeat::new(), |namespace| Dlfeat::from(namespace.dlfeat));
        Self {
            deallocate: deallocate && oncs.dataset_management(),
            write_zeroes: oncs.write_zeroes(),
            deac: deallocate && dlfeat.write_zeroes_deallocates(),
        }
    }

    const fn piece_bytes(self) -> u64 {
        if self.write_zeroes {
            MAX_COMMANDED_BYTES
        } else {
            MAX_WRITTEN_BYTES
        }
    }
}

/// A range that is being zeroed, piece by piece: each is locked by itself, so that other writers get in between
/// and whoever has lost patience can have it ended.
pub(super) struct Zero {
    hint: Hint,
    block_bytes: u32,
    /// The blocks that are touched in part, each to be read, changed and written.
    edges: [Option<Span>; 2],
    /// Whole blocks still to be zeroed.
    left: Range<u64>,
    how: How,
    patience: Patience,
    arrived_ns: u64,
    /// A piece of it has been granted already.
    begun: bool,
    pending: Pending,
}

impl Zero {
    /// `bytes` are in `geometry`, and not none.
    pub(super) fn new(
        hint: Hint,
        geometry: Geometry,
        bytes: Range<u64>,
        how: How,
        patience: Patience,
        arrived_ns: u64,
        pending: Pending,
    ) -> Self {
        let block_bytes = geometry.block_bytes();
        let inner =
            bytes.start.next_multiple_of(block_bytes.into())..bytes.end - bytes.end % u64::from(block_bytes);
        let edge = |start: u64, end: u64| {
            let len_bytes = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
            geometry.span(start, len_bytes)
        };
        let (edges, left) = if inner.start < inner.end {
            let left = geometry.block_at(inner.start)..geometry.block_at(inner.end);
            ([edge(bytes.start, inner.start), edge(inner.end, bytes.end)], left)
        } else {
            // No whole block: one read and one write, also if there are two neighbours.
            ([edge(bytes.start, bytes.end), None], 0..0)
        };
        Self {
            hint,
            block_bytes,
            edges,
            left,
            how,
            patience,
            arrived_ns,
            begun: false,
            pending,
        }
    }

    /// The edge that is next, before all pieces.
    fn edge(&self) -> Option<Span> {
        self.edges.iter().flatten().next().copied()
    }

    /// First block and number of blocks of the next piece; 0 when there is none.
    fn piece(&self) -> (u64, u64) {
        let most = self.how.piece_bytes() / u64::from(self.block_bytes);
        (
            self.left.start,
            (self.left.end - self.left.start).min(most.max(1)),
        )
    }

    /// Why it cannot go on, if it cannot.
    fn hindrance(&self, volume: &Volume) -> Option<Errno> {
        if self.patience.is_over() {
            return Some(Errno::EINTR);
        }
        match volume.geometry() {
            Ok(geometry) if geometry.block_bytes() == self.block_bytes => None,
            // Formatted in the middle of it: the blocks that are left are others now.
            Ok(_) => Some(Errno::ENODEV),
            Err(errno) => Some(errno),
        }
    }

    fn zero_piece(self: Box<Self>, grant: Grant) {
        let (slba, blocks) = self.piece();
        let (op, buffer) = if self.how.write_zeroes {
            let deallocate = self.how.deac;
            (Op::WriteZeroes { deallocate }, Buffer::None)
        } else {
            let len_bytes = blocks * u64::from(self.block_bytes);
            let zeroes = vec![0; usize::try_from(len_bytes).unwrap_or(0)];
            (Op::Write { fua: false }, heap(zeroes))
        };
        self.submit(grant, op, (slba, blocks), buffer, Step::Zero);
    }

    fn submit(self: Box<Self>, grant: Grant, op: Op, blocks: (u64, u64), buffer: Buffer, step: Step) {
        let volume = Arc::clone(&grant.volume);
        let (hint, arrived_ns) = (self.hint, self.arrived_ns);
        let sink = Arc::new(Out(Mutex::new(Some((self, grant, step)))));
        volume.submit(op, hint, blocks, buffer, arrived_ns, sink);
    }

    fn answered(mut self: Box<Self>, grant: Grant, step: Step, finished: Finished<()>) {
        if !matches!(step, Step::ReadEdge(_)) {
            grant.changed();
        }
        let hint_refused = matches!(
            (&step, finished.result),
            (Step::Deallocate, Err(IoError::Status(_)))
        );
        if let Err(error) = finished.result
            && !hint_refused
        {
            return self.pending.answer(Err(error.into()));
        }
        self.arrived_ns = grant.volume.service.now_ns();
        match (step, finished.buffer) {
            (Step::ReadEdge(span), Buffer::Heap { mut bytes, .. }) => {
                match bytes.get_mut(span.in_cover()) {
                    Some(zeroed) => zeroed.fill(0),
                    None => return self.pending.answer(Err(Errno::EIO)),
                }
                let blocks = (span.slba(), span.blocks());
                let write = Op::Write { fua: false };
                self.submit(grant, write, blocks, heap(bytes), Step::WriteEdge);
            }
            (Step::ReadEdge(_), _) => self.pending.answer(Err(Errno::EIO)),
            (Step::Deallocate, _) => self.zero_piece(grant),
            (Step::WriteEdge, _) => {
                self.edges.iter_mut().find_map(Option::take);
                self.go_on(grant);
            }
            (Step::Zero, _) => {
                self.left.start += self.piece().1;
                self.go_on(grant);
            }
        }
    }

    /// What was granted is done: asks for the next piece, or answers when there is none.
    fn go_on(self: Box<Self>, grant: Grant) {
        if self.edge().is_none() && self.piece().1 == 0 {
            return self.pending.answer(Ok(Reply::Done));
        }
        let volume = Arc::clone(&grant.volume);
        drop(grant);
        volume.change(self);
    }
}

const fn heap(bytes: Vec<u8>) -> Buffer {
    Buffer::Heap { bytes, offset: 0 }
}

impl Work for Zero {
    fn locked_bytes(&self) -> Range<u64> {
        let (slba, blocks) = self.piece();
        let block_bytes = u64::from(self.block_bytes);
        self.edge()
            .map_or(slba * block_bytes..(slba + blocks) * block_bytes, Span::covered)
    }

    fn mode(&self) -> Mode {
        match self.edge() {
            Some(_) => Mode::Exclusive,
            None => Mode::Shared,
        }
    }

    fn has_begun(&self) -> bool {
        self.begun
    }

    fn begin(mut self: Box<Self>, grant: Grant) {
        self.begun = true;
        if let Some(errno) = self.hindrance(&grant.volume) {
            return self.pending.answer(Err(errno));
        }
        if let Some(span) = self.edge() {
            let bytes = vec![0; span.cover_bytes()];
            let blocks = (span.slba(), span.blocks());
            return self.submit(grant, Op::Read, blocks, heap(bytes), Step::ReadEdge(span));
        }
        if self.how.deallocate {
            let piece = self.piece();
            return self.submit(grant, Op::Deallocate, piece, Buffer::None, Step::Deallocate);
        }
        self.zero_piece(grant);
    }

    fn refuse(self: Box<Self>, errno: Errno) {
        self.pending.answer(Err(errno));
    }
}

/// What the request that is out was for.
enum Step {
    /// The blocks of an edge, to change them.
    ReadEdge(Span),
    WriteEdge,
    /// A piece: its storage.
    Deallocate,
    /// A piece, as zeroes.
    Zero,
}

/// A step that is with the driver. The grant is dropped last, as with writes.
struct Out(Mutex<Option<(Box<Zero>, Grant, Step)>>);

impl Answer for Out {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let out = lock(&self.0).take();
        if let Some((zero, grant, step)) = out {
            zero.answered(grant, step, finished);
        }
    }
}
