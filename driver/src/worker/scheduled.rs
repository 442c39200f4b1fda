//! What waits at a worker under a scheduler that orders requests, and when it goes on to the queue.

use super::{Finished, IoError, IoQueue, Origin, Rejected, Worker};
use crate::backlog::{Backlog, Item, Popped, Wanted};
use crate::config::{Config, SchedulerKind, Weights};
use crate::io_scheduler::Priority;

/// Loads are clients too, with numbers that no handle has.
pub(super) const LOAD_CLIENTS: u64 = 1 << 63;

/// How a worker is to schedule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheduling {
    kind: SchedulerKind,
    weights: Weights,
    /// Commands at the device after which the rest waits; 0 is as many as the queue holds.
    window: usize,
    /// Whether requests of adjacent blocks become one command.
    merges: bool,
}

impl Scheduling {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            kind: config.scheduler,
            weights: config.weights,
            window: config.scheduler_window as usize,
            merges: config.merge,
        }
    }

    pub(super) fn backlog(&self) -> Option<Scheduled> {
        let mut backlog = Backlog::new(self.kind, self.weights)?;
        if self.merges {
            backlog = backlog.finding_neighbours();
        }
        Some(Scheduled {
            backlog,
            window: if self.window == 0 { usize::MAX } else { self.window },
            retires: false,
            takes_again: false,
        })
    }
}

/// A backlog in use.
pub(super) struct Scheduled {
    backlog: Backlog<Origin>,
    /// Commands at the device after which the rest waits.
    window: usize,
    /// The scheduler now in force has no need of it: it takes nothing more, and goes when it is empty.
    retires: bool,
    /// Whether a request of a failed run is next, if there is one.
    takes_again: bool,
}

impl Scheduled {
    /// Takes a request that is for `queue`.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub(super) fn take(
        &mut self,
        queue: &IoQueue<Origin>,
        mut item: Item<Origin>,
    ) -> Result<(), Rejected<Origin>> {
        let (item, why) = match queue.place_for(&item.request) {
            Err(why) => (item, why),
            Ok(_) if self.retires => (item, IoError::Busy),
            Ok(place) => {
                item.place = place;
                match self.backlog.push(item) {
                    Ok(()) => return Ok(()),
                    Err(item) => (item, IoError::Busy),
                }
            }
        };
        let request = item.request;
        Err(Rejected { request, why })
    }
}

impl Worker {
    /// Whether requests of other threads can be taken now.
    #[inline]
    pub(super) fn takes_requests(&self) -> bool {
        match &self.backlog {
            None => self.queue.room() > 0,
            // Whoever has more than his share is refused.
            Some(backlog) => !backlog.retires,
        }
    }

    /// Whether requests wait behind the queue, or have been refused there and not yet answered.
    pub(super) fn has_backlog(&self) -> bool {
        let waits = self
            .backlog
            .as_ref()
            .is_some_and(|scheduled| !scheduled.backlog.is_empty());
        waits || !self.refused.is_empty()
    }

    /// The next answer.
    #[inline]
    pub(super) fn next_finished(&mut self) -> Option<Finished<Origin>> {
        self.queue.next_finished().or_else(|| self.refused.pop_front())
    }

    /// Sees to it that requests are scheduled as they are to be.
    #[inline]
    pub(super) fn know_scheduler(&mut self) {
        let kind = self.shared.scheduler();
        if kind != self.scheduling.kind {
            self.change_scheduler(kind);
        }
    }

    #[cold]
    fn change_scheduler(&mut self, kind: SchedulerKind) {
        self.scheduling.kind = kind;
        let before = self.backlog.take();
        self.backlog = match (self.scheduling.backlog(), before) {
            (Some(mut after), Some(mut before)) => {
                after.backlog.take_over(&mut before.backlog);
                Some(after)
            }
            // The queue may not have room at once for all that waits.
            (None, Some(mut before)) if !before.backlog.is_empty() => {
                before.retires = true;
                before.window = usize::MAX;
                Some(before)
            }
            (after, _) => after,
        };
    }

    /// Lets requests whose turn it is go on to the queue, as many as the device is to have. Says whether there were any.
    #[inline]
    pub(super) fn release(&mut self, now_ns: u64) -> bool {
        let mut released = false;
        let Some(scheduled) = &mut self.backlog else {
            // Of a scheduler that was in force before.
            while self.queue.send_again() {
                released = true;
            }
            return released;
        };
        // A request of several commands is sent whole before the next one.
        while self.queue.commands() < scheduled.window && !self.queue.has_waiting() {
            // Those of a run that has failed have had their turn, and may be many: each other one is theirs.
            scheduled.takes_again = !scheduled.takes_again;
            if scheduled.takes_again && self.queue.send_again() {
                released = true;
                continue;
            }
            let has_room = self.queue.room() > 0;
            let Some(Popped { item, deadline_ns }) = has_room.then(|| scheduled.backlog.pop()).flatten()
            else {
                if self.queue.send_again() {
                    released = true;
                    continue;
                }
                break;
            };
            released = true;
            let priority = item.class.priority;
            self.queue.scheduled(priority);
            // Its namespace may have gone meanwhile. One that has its number now may have blocks of another size, for which
            // it is not meant.
            let entered = if self.queue.is_still(item.place, item.request.nsid) {
                self.queue
                    .enter(item.request, deadline_ns, item.class.deadline_us.is_some())
            } else {
                let (request, why) = (item.request, IoError::NoNamespace);
                Err(Rejected { request, why })
            };
            let rejected = match entered {
                Ok(number) => {
                    let rejected = if self.scheduling.merges && priority != Priority::Urgent {
                        gather(&mut self.queue, &mut scheduled.backlog, number)
                    } else {
                        None
                    };
                    self.queue.send_waiting();
                    rejected
                }
                Err(rejected) => Some(rejected),
            };
            if let Some(Rejected { request, why }) = rejected {
                self.refused
                    .push_back(Finished::without_command(request, Err(why), now_ns));
            }
        }
        self.queue.show_behind(scheduled.backlog.len());
        if scheduled.retires && scheduled.backlog.is_empty() {
            // What it has not taken can come now.
            self.backlog = None;
            return true;
        }
        released
    }

    /// Nothing that waits will have its turn: it is answered with `why`.
    #[cold]
    pub(super) fn refuse_backlog(&mut self, why: IoError, now_ns: u64) {
        let Some(scheduled) = &mut self.backlog else {
            return;
        };
        while let Some(Popped { item, .. }) = scheduled.backlog.pop() {
            self.refused
                .push_back(Finished::without_command(item.request, Err(why), now_ns));
        }
        self.queue.show_behind(0);
    }
}

/// Lets those that wait and go on where the request `number` ends have their turn with it, one behind the other. What cannot be
/// done is returned, and ends the row.
fn gather(
    queue: &mut IoQueue<Origin>,
    backlog: &mut Backlog<Origin>,
    number: u32,
) -> Option<Rejected<Origin>> {
    let mut run = queue.run_of(number)?;
    while queue.room() > 0 && run.room_blocks() > 0 {
        let wanted = Wanted {
            place: run.place,
            op: run.op,
            slba: run.end_slba,
            most_blocks: run.room_blocks(),
        };
        let Popped { item, deadline_ns } = backlog.pop_next(wanted)?;
        queue.scheduled(item.class.priority);
        let shows_late = item.class.deadline_us.is_some();
        if let Err(rejected) = queue.join(&mut run, item.request, deadline_ns, shows_late) {
            return Some(rejected);
        }
    }
    None
}
