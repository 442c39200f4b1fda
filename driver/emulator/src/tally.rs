//! What the device counts, so that a test can hold a driver's figures against the truth.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer at a time (whoever holds the lock of the queues it belongs to) and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`. Not an atomic addition: there is one writer.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.get().wrapping_add(amount), Ordering::Release);
    }

    /// Raises the counter to `value` if it is below.
    #[inline]
    pub fn raise_to(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Release);
        }
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Counters of one opcode.
#[derive(Debug, Default)]
pub(crate) struct OpcodeTally {
    pub fetched: Counter,
    pub completed: Counter,
    pub errors: Counter,
    pub bytes: Counter,
}

/// Counters of one submission queue and the completion queue of the same identifier.
#[derive(Debug, Default)]
pub(crate) struct QueueTally {
    pub fetched: Counter,
    pub completed: Counter,
    pub depth_max: Counter,
}

/// Counters of one engine.
#[derive(Debug)]
pub(crate) struct Tally {
    /// By opcode.
    pub opcodes: Box<[OpcodeTally]>,
    pub interrupts: Counter,
    pub dma_faults: Counter,
    pub invalid_doorbell_values: Counter,
    pub parked: Counter,
    pub passes: Counter,
    pub busy_ns: Counter,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            opcodes: (0..256).map(|_| OpcodeTally::default()).collect(),
            interrupts: Counter::default(),
            dma_faults: Counter::default(),
            invalid_doorbell_values: Counter::default(),
            parked: Counter::default(),
            passes: Counter::default(),
            busy_ns: Counter::default(),
        }
    }

    /// The counters of `opcode`, None never.
    #[inline]
    pub fn opcode(&self, opcode: u8) -> Option<&OpcodeTally> {
        self.opcodes.get(usize::from(opcode))
    }
}

/// Commands of one opcode, counted by the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpcodeCounters {
    /// The opcode, of the admin or of the NVM command set.
    pub opcode: u8,
    /// Commands read from a submission queue.
    pub fetched: u64,
    /// Commands completed, with any status. A completion that a fault lost, doubled or invented is counted as if it had
    /// been the one it should have been.
    pub completed: u64,
    /// Commands completed with a status other than success.
    pub errors: u64,
    /// Data moved between host and device, or zeroed, compared and so on, in bytes.
    pub bytes: u64,
}

/// One queue pair, counted by the device since it was made, over all lives of the queues with this identifier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Queue identifier, 0 is the admin queue.
    pub qid: u16,
    /// Commands read from the submission queue.
    pub fetched: u64,
    /// Completions of commands of the submission queue.
    pub completed: u64,
    /// Most commands of the submission queue seen at once, pending in the ring or in flight.
    pub depth_max: u64,
    /// Writes to the submission queue's doorbell register.
    pub sq_doorbells: u64,
    /// Writes to the completion queue's doorbell register.
    pub cq_doorbells: u64,
}

/// The truth about what the device was asked and did, since it was made. Nothing resets it.
///
/// Taken while the device runs, figures that belong together may be a few commands apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Admin commands, ascending by opcode, without those never seen.
    pub admin: Vec<OpcodeCounters>,
    /// I/O commands, ascending by opcode, without those never seen.
    pub io: Vec<OpcodeCounters>,
    /// Queues that were ever used, ascending by identifier.
    pub queues: Vec<QueueCounters>,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Accesses that the host's memory refused.
    pub dma_faults: u64,
    /// Doorbell values that could not be right, and were ignored.
    pub invalid_doorbell_values: u64,
    /// Writes to doorbells of queues that did not exist.
    pub invalid_doorbell_writes: u64,
    /// Completions that had to wait because their queue was full.
    pub parked: u64,
    /// Controller resets done: by CC.EN, NSSR or a power cycle.
    pub resets: u64,
    /// Turns taken in which the device looked at its queues.
    pub passes: u64,
}

impl DeviceCounters {
    /// The counters of admin command `opcode`, all zero if it was never seen.
    pub fn admin_opcode(&self, opcode: nvme_spec::AdminOpcode) -> OpcodeCounters {
        find(&self.admin, opcode.0)
    }

    /// The counters of NVM command `opcode`, all zero if it was never seen.
    pub fn io_opcode(&self, opcode: nvme_spec::NvmOpcode) -> OpcodeCounters {
        find(&self.io, opcode.0)
    }

    /// The counters of queue pair `qid`, all zero if it was never used.
    pub fn queue(&self, qid: u16) -> QueueCounters {
        let unused = QueueCounters {
            qid,
            ..Default::default()
        };
        self.queues
            .iter()
            .find(|queue| queue.qid == qid)
            .copied()
            .unwrap_or(unused)
    }

    /// I/O commands completed.
    pub fn io_completed(&self) -> u64 {
        self.io.iter().map(|opcode| opcode.completed).sum()
    }
}

fn find(counters: &[OpcodeCounters], opcode: u8) -> OpcodeCounters {
    let unseen = OpcodeCounters {
        opcode,
        ..Default::default()
    };
    counters
        .iter()
        .find(|counters| counters.opcode == opcode)
        .copied()
        .unwrap_or(unseen)
}

/// Adds up the opcodes that `tallies` have seen.
pub(crate) fn opcode_counters<'a>(tallies: impl Iterator<Item = &'a Tally> + Clone) -> Vec<OpcodeCounters> {
    (0..=u8::MAX)
        .map(|opcode| {
            let mut sum = OpcodeCounters {
                opcode,
                ..Default::default()
            };
            for tally in tallies.clone().filter_map(|tally| tally.opcode(opcode)) {
                // Completed before fetched, so that a reader never sees more completions than commands.
                sum.completed += tally.completed.get();
                sum.errors += tally.errors.get();
                sum.bytes += tally.bytes.get();
                sum.fetched += tally.fetched.get();
            }
            sum
        })
        .filter(|sum| sum.fetched > 0 || sum.completed > 0)
        .collect()
}
