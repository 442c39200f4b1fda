//! The last commands that failed, were slow or were never answered, with their timelines.
//!
//! For whoever completes a command that is one comparison with [`Recorder::slow_ns`], beside the look at its status.
//! Only what is remarkable goes further, into a ring of places that are locked one by one: a writer that finds
//! its place taken leaves its command out, so a reader never holds a queue up, and nothing is allocated. What was
//! left out or overwritten shows as a gap in the sequence numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use nvme_spec::{AdminOpcode, NvmOpcode, Status};
use stats_proto::Version;
use stats_proto::slow::{self, CommandStatus, SlowCommand, SlowKind, SlowSchema};

use crate::io_scheduler::MissedIn;

/// Commands that are kept, of all queues together.
pub const KEPT_COMMANDS: usize = 256;

/// One remarkable command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) qid: u16,
    pub(crate) cid: u16,
    pub(crate) opcode: u8,
    pub(crate) nsid: u32,
    /// First block and number of blocks, where it has any.
    pub(crate) blocks: Option<(u64, u64)>,
    pub(crate) arrived_ns: u64,
    pub(crate) doorbell_ns: u64,
    /// When its completion was seen, or when it was given up.
    pub(crate) ended_ns: u64,
    /// `None` if it was given up.
    pub(crate) status: Option<Status>,
    /// When its request should have been done; `u64::MAX` if it had no deadline.
    pub(crate) deadline_ns: u64,
}

/// A command with its sequence number, or nothing yet.
type Place = Mutex<Option<(u64, Record)>>;

/// Where a driver's remarkable commands are kept. All its queues write to one.
pub(crate) struct Recorder {
    slow_ns: u64,
    next: AtomicU64,
    places: Box<[Place]>,
}

impl Recorder {
    /// A command that succeeds is slow if it takes at least `slow_us` from being accepted; 0 means that none is.
    pub(crate) fn new(slow_us: u32) -> Self {
        Self {
            slow_ns: if slow_us == 0 {
                u64::MAX
            } else {
                u64::from(slow_us) * 1000
            },
            next: AtomicU64::new(0),
            places: (0..KEPT_COMMANDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// The least total latency that is slow; `u64::MAX` if none is. For owners of queues to keep at hand.
    pub(crate) fn slow_ns(&self) -> u64 {
        self.slow_ns
    }

    /// Keeps a command. Waits for nobody.
    #[cold]
    pub(crate) fn keep(&self, record: Record) {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(place) = self.places.get((sequence % KEPT_COMMANDS as u64) as usize) else {
            return;
        };
        let mut kept = match place.try_lock() {
            Ok(kept) => kept,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A reader is just copying it, or a writer a whole round behind or ahead writes it.
            Err(TryLockError::WouldBlock) => return,
        };
        if kept.is_none_or(|(other, _)| other < sequence) {
            *kept = Some((sequence, record));
        }
    }

    /// How many commands it was given, kept or not.
    pub(crate) fn recorded(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// What is kept, oldest first.
    pub(crate) fn commands(&self) -> Vec<SlowCommand> {
        let mut kept: Vec<(u64, Record)> = self.places.iter().filter_map(|place| *lock(place)).collect();
        kept.sort_unstable_by_key(|(sequence, _)| *sequence);
        kept.iter()
            .map(|(sequence, record)| record.shown(*sequence))
            .collect()
    }
}

fn lock(place: &Place) -> MutexGuard<'_, Option<(u64, Record)>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Record {
    fn shown(&self, sequence: u64) -> SlowCommand {
        let Self {
            qid,
            cid,
            opcode,
            nsid,
            blocks,
            arrived_ns,
            doorbell_ns,
            ended_ns,
            status,
            deadline_ns,
        } = *self;
        let name = match qid {
            0 => AdminOpcode(opcode).name(),
            _ => NvmOpcode(opcode).name(),
        };
        // A caller whose clock runs ahead does not get a doorbell from before its request.
        let doorbell_ns = doorbell_ns.max(arrived_ns);
        let ended_ns = ended_ns.max(doorbell_ns);
        SlowCommand {
            schema: SlowSchema::default(),
            version: Version::CURRENT,
            sequence,
            kind: match status {
                None => SlowKind::Lost,
                Some(status) if status.is_success() => SlowKind::Slow,
                Some(_) => SlowKind::Failed,
            },
            qid,
            cid,
            opcode,
            opcode_name: name.map(str::to_owned),
            nsid,
            slba: blocks.map(|(slba, _)| slba),
            blocks: blocks.map(|(_, blocks)| blocks),
            accepted_monotonic_ns: arrived_ns,
            doorbell_monotonic_ns: doorbell_ns,
            completed_monotonic_ns: status.map(|_| ended_ns),
            latency_host_ns: doorbell_ns - arrived_ns,
            latency_device_ns: ended_ns - doorbell_ns,
            latency_total_ns: ended_ns - arrived_ns,
            deadline_monotonic_ns: (deadline_ns != u64::MAX).then_some(deadline_ns),
            deadline_missed_in: MissedIn::of(deadline_ns, arrived_ns, doorbell_ns, ended_ns).map(
                |missed_in| match missed_in {
                    MissedIn::Host => slow::MissedIn::Host,
                    MissedIn::Device => slow::MissedIn::Device,
                },
            ),
            status: status.map(shown),
        }
    }
}

/// A status as the documents have it.
pub(crate) fn shown(status: Status) -> CommandStatus {
    CommandStatus {
        name: status.name().map(str::to_owned),
        sct: status.sct(),
        sc: status.sc(),
        crd: status.crd(),
        more: status.more(),
        dnr: status.dnr(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn record(arrived_ns: u64) -> Record {
        Record {
            qid: 1,
            cid: 5,
            opcode: NvmOpcode::READ.0,
            nsid: 1,
            blocks: Some((arrived_ns, 1)),
            arrived_ns,
            doorbell_ns: arrived_ns + 10,
            ended_ns: arrived_ns + 100,
            status: Some(Status::SUCCESS),
            deadline_ns: u64::MAX,
        }
    }

    fn sequences(commands: &[SlowCommand]) -> Vec<u64> {
        commands.iter().map(|command| command.sequence).collect()
    }

    #[test]
    fn the_last_ones_are_kept_in_order() {
        let recorder = Recorder::new(1);
        assert_eq!(recorder.commands(), []);
        let all = KEPT_COMMANDS as u64 + 10;
        for arrived_ns in 0..all {
            recorder.keep(record(arrived_ns));
        }
        let commands = recorder.commands();
        assert_eq!(sequences(&commands), (10..all).collect::<Vec<_>>());
        assert!(
            commands
                .iter()
                .all(|command| command.slba == Some(command.sequence))
        );
    }

    #[test]
    fn a_reader_in_the_way_costs_the_command_and_not_the_writer() {
        let recorder = Recorder::new(1);
        recorder.keep(record(0));
        let reading = lock(&recorder.places[1]);
        recorder.keep(record(1));
        recorder.keep(record(2));
        drop(reading);
        assert_eq!(sequences(&recorder.commands()), [0, 2], "the gap shows");
    }

    #[test]
    fn what_it_says_of_a_command_is_what_became_of_it() {
        let recorder = Recorder::new(0);
        assert_eq!(recorder.slow_ns(), u64::MAX, "0 is never");
        let failed = Record {
            status: Some(Status::LBA_OUT_OF_RANGE.with_dnr(true)),
            ..record(1000)
        };
        let lost = Record {
            qid: 0,
            opcode: AdminOpcode::FORMAT_NVM.0,
            blocks: None,
            status: None,
            // Its caller's clock runs ahead.
            arrived_ns: 5000,
            doorbell_ns: 4000,
            ended_ns: 6000,
            ..failed
        };
        let unnamed = Record {
            opcode: 0xEE,
            status: Some(Status::new(7, 0xEE)),
            ..failed
        };
        let late = Record {
            deadline_ns: 1099,
            ..record(1000)
        };
        let waited = Record {
            doorbell_ns: 1060,
            ..late
        };
        for record in [record(1000), failed, lost, unnamed, late, waited] {
            recorder.keep(record);
        }
        let [slow, failed, lost, unnamed, late, waited] = recorder.commands().try_into().unwrap();
        assert_eq!(
            (slow.deadline_monotonic_ns, slow.deadline_missed_in),
            (None, None)
        );
        let at_device = (Some(1099), Some(slow::MissedIn::Device));
        assert_eq!((late.deadline_monotonic_ns, late.deadline_missed_in), at_device);
        assert_eq!(waited.deadline_missed_in, Some(slow::MissedIn::Host));
        assert_eq!(slow.kind, SlowKind::Slow);
        assert_eq!(
            (
                slow.latency_host_ns,
                slow.latency_device_ns,
                slow.latency_total_ns
            ),
            (10, 90, 100)
        );
        assert_eq!(slow.completed_monotonic_ns, Some(1100));
        assert_eq!(failed.kind, SlowKind::Failed);
        let status = failed.status.unwrap();
        assert_eq!(
            (status.name.as_deref(), status.sct, status.sc, status.dnr),
            (Some("LBA Out of Range"), 0, 0x80, true)
        );
        assert_eq!((lost.kind, lost.status), (SlowKind::Lost, None));
        assert_eq!(lost.opcode_name.as_deref(), Some("Format NVM"));
        assert_eq!((lost.completed_monotonic_ns, lost.slba), (None, None));
        assert_eq!((lost.latency_host_ns, lost.latency_total_ns), (0, 1000));
        assert_eq!((unnamed.opcode_name, unnamed.status.unwrap().name), (None, None));
    }

    #[test]
    fn readers_see_whole_records_while_others_write() {
        let recorder = Arc::new(Recorder::new(1));
        let done = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for arrived_ns in 0..20_000 {
                            recorder.keep(record(arrived_ns));
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let commands = recorder.commands();
                    assert!(sequences(&commands).is_sorted_by(|a, b| a < b));
                    for command in commands {
                        assert_eq!(command.slba, Some(command.accepted_monotonic_ns));
                        assert_eq!(command.latency_total_ns, 100);
                    }
                }
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(recorder.next.load(Ordering::Relaxed), 40_000);
        assert!(recorder.commands().len() > KEPT_COMMANDS / 2);
    }
}
