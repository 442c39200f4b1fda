//! The memory that a queue's recorder writes and anybody reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use stats_proto::hist::BUCKETS;
use zerocopy::FromZeros;

use super::OpClass;
use crate::backend::Waker;

/// How often a reader tries to copy between two changes before it asks the writer for a copy.
const DIRECT_TRIES: u32 = 4;
/// How often a reader that has asked looks again, yielding its CPU in between, before it gives up. A writer at work
/// looks once a pass, a few microseconds; one that sleeps has been woken.
const ASKED_TRIES: u32 = 2_000;

/// Statuses that are counted by themselves; further ones are counted together.
const STATUSES: usize = 48;
/// A histogram's buckets and, last, how many values were beyond them.
pub(super) const HIST_CELLS: usize = BUCKETS + 1;
/// Device latency and host latency.
pub(super) const HISTS_PER_OP: usize = 2;
const OPS: usize = OpClass::ALL.len();

/// Defines one group of counters twice: as the writer keeps them and as a snapshot holds them.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters of a queue as its worker keeps them.
        #[derive(Default)]
        #[repr(align(128))]
        pub(super) struct Live { $(pub(super) $name: AtomicU64),+ }

        /// Counters of a queue at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64),+ }

        impl Live {
            fn copy(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

counters! {
    /// Commands whose doorbell has been written.
    submitted,
    /// Commands whose completion has been seen.
    completed,
    /// Of them those that did not succeed.
    completed_error,
    /// The most commands that were out at once.
    inflight_max,
    /// When the oldest command that is out was submitted; 0 if none is.
    oldest_ns,
    /// When inflight changed last: the time up to which the three sums below reach.
    changed_ns,
    /// Sum over time of commands out.
    qd_time_integral_ns,
    /// Time with at least one command out.
    active_ns,
    /// Time without room for one more.
    full_ns,
    /// Requests accepted and waiting for a slot, now.
    host_queued,
    /// The most that waited.
    host_queued_max,
    /// Submission doorbells written.
    sq_doorbells,
    /// Completion doorbells written.
    cq_doorbells,
    /// Looks at the completion queue.
    polls,
    /// Of them those that found nothing.
    polls_empty,
    /// Interrupts.
    interrupts,
    /// Of them those after which there was nothing to reap.
    spurious_interrupts,
    /// Commands that were out longer than the time limit.
    timeouts,
    /// Completions for a slot that does not exist.
    unknown_cid,
    /// Completions for a slot's earlier use.
    stale_cid,
    /// Completions for a command that had completed.
    duplicate_cid,
    /// Completions with a head pointer beyond the submission queue.
    bad_sqhd,
    /// Completions with another queue's number.
    bad_sqid,
    /// Bytes that went through bounce pages.
    bytes_copied,
    /// Bytes that the device moved from or to the caller's memory.
    bytes_zero_copy,
    /// Requests of the class low whose turn came, under a scheduler that orders requests.
    class_low,
    /// The same of the class medium.
    class_medium,
    /// The same of the class high.
    class_high,
    /// The same of the class urgent.
    class_urgent,
    /// Requests with a deadline that were done in time.
    deadlines_met,
    /// Those that were late, and spent most of their time in the driver.
    deadlines_missed_host,
    /// Those that were late, and spent most of their time at the device.
    deadlines_missed_device,
    /// Requests that were sent with another one's command.
    merged,
    /// Requests that went to the device again, on their own, after such a command had failed.
    retries,
}

/// One operation's counters.
#[derive(Default)]
pub(super) struct LiveOp {
    pub(super) count: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) sum_ns: AtomicU64,
    /// One more than the value, so that 0 is "none yet".
    pub(super) min_plus_1_ns: AtomicU64,
    pub(super) max_ns: AtomicU64,
}

/// One operation of one queue at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpSnapshot {
    /// Commands completed.
    pub count: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Commands that did not succeed.
    pub errors: u64,
    /// Sum of the device latencies.
    pub sum_ns: u64,
    /// The smallest device latency, once there is one.
    pub min_ns: Option<u64>,
    /// The largest.
    pub max_ns: Option<u64>,
    /// Device latency: [`BUCKETS`] counts, then how many values were beyond the last. Empty if nothing was counted
    /// or no histograms were asked for.
    pub latency_device: Vec<u64>,
    /// Host latency, in the same form.
    pub latency_host: Vec<u64>,
}

/// One operation on one namespace, through one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceOp {
    /// Commands completed.
    pub count: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Commands that did not succeed.
    pub errors: u64,
}

#[derive(Default)]
pub(super) struct LiveNamespaceOp {
    pub(super) count: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) errors: AtomicU64,
}

#[derive(Default)]
pub(super) struct LiveStatus {
    /// One more than the status code, so that 0 is "free".
    pub(super) code_plus_1: AtomicU64,
    pub(super) count: AtomicU64,
}

/// What a queue counted, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// Whether everything here is of one moment.
    pub consistent: bool,
    /// How often the copy was begun again.
    pub retries: u32,
    /// The queue's counters.
    pub counters: Counters,
    /// Per operation, in the order of [`OpClass::ALL`].
    pub ops: Vec<OpSnapshot>,
    /// Per namespace (in the order of the controller's list) and operation.
    pub namespaces: Vec<[NamespaceOp; OPS]>,
    /// Status codes (type << 8 | code) and how often each occurred.
    pub statuses: Vec<(u16, u64)>,
    /// Completions with statuses beyond those that fit the table.
    pub other_statuses: u64,
    /// Completions reaped per wake-up or pass that found any.
    pub completions_per_wakeup: Vec<u64>,
}

impl QueueSnapshot {
    fn without_histograms(mut self) -> Self {
        self.completions_per_wakeup = Vec::new();
        for op in &mut self.ops {
            (op.latency_device, op.latency_host) = (Vec::new(), Vec::new());
        }
        self
    }
}

/// A queue's statistics, shared between its worker and whoever reads them.
pub struct QueueStats {
    sequence: AtomicU64,
    pub(super) live: Live,
    pub(super) ops: [LiveOp; OPS],
    pub(super) statuses: [LiveStatus; STATUSES],
    pub(super) other_statuses: AtomicU64,
    pub(super) namespaces: Box<[[LiveNamespaceOp; OPS]]>,
    /// `(op * HISTS_PER_OP + kind) * HIST_CELLS + bucket`.
    pub(super) hists: Box<[AtomicU64]>,
    pub(super) wakeup_hist: Box<[AtomicU64]>,
    copies: Copies,
    reported: Reported,
    /// Commands that can be out at once.
    limit: u64,
}

/// Where the writer leaves a copy for readers that asked.
#[derive(Default)]
struct Copies {
    asked: AtomicBool,
    with_histograms: AtomicBool,
    /// Copies made so far.
    made: AtomicU64,
    latest: Mutex<Option<Arc<QueueSnapshot>>>,
    waker: Mutex<Option<Waker>>,
}

/// The largest values that the three sums over time were reported with. A reader extends them to its own time, and
/// might be ahead of a completion whose time was taken earlier; they must not go down for that.
#[derive(Default)]
struct Reported {
    qd_time_integral_ns: AtomicU64,
    active_ns: AtomicU64,
    full_ns: AtomicU64,
}

/// Zeroes straight from the allocator: pages that nothing is counted in are never touched.
fn zeroed(count: usize) -> Box<[AtomicU64]> {
    <[AtomicU64]>::new_box_zeroed_with_elems(count)
        .unwrap_or_else(|_| (0..count).map(|_| AtomicU64::new(0)).collect())
}

#[inline]
pub(super) fn add(cell: &AtomicU64, amount: u64) {
    // One writer: a load and a store, not a read-modify-write.
    cell.store(
        cell.load(Ordering::Relaxed).wrapping_add(amount),
        Ordering::Relaxed,
    );
}

impl QueueStats {
    pub(super) fn new(namespaces: usize, limit: usize) -> Self {
        Self {
            sequence: AtomicU64::new(0),
            live: Live::default(),
            ops: Default::default(),
            statuses: std::array::from_fn(|_| LiveStatus::default()),
            other_statuses: AtomicU64::new(0),
            namespaces: (0..namespaces).map(|_| Default::default()).collect(),
            hists: zeroed(OPS * HISTS_PER_OP * HIST_CELLS),
            wakeup_hist: zeroed(HIST_CELLS),
            copies: Copies::default(),
            reported: Reported::default(),
            limit: limit as u64,
        }
    }

    /// The writer announces that counters are about to change.
    #[inline]
    pub(super) fn begin(&self) {
        self.sequence.store(
            self.sequence.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        // The odd number is seen before any of the changes.
        fence(Ordering::Release);
    }

    /// The writer has changed what it had to.
    #[inline]
    pub(super) fn end(&self) {
        self.sequence.store(
            self.sequence.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    /// Between two changes: leaves a copy if somebody has asked for one. A relaxed load when nobody has.
    #[inline]
    pub(super) fn leave_copy_if_asked(&self) {
        if self.copies.asked.load(Ordering::Relaxed) {
            self.leave_copy();
        }
    }

    #[cold]
    fn leave_copy(&self) {
        // A reader holds this lock only to clone an `Arc`; should it be held up with it, the next turn will do.
        let Ok(mut latest) = self.copies.latest.try_lock() else {
            return;
        };
        self.copies.asked.store(false, Ordering::Relaxed);
        let histograms = self.copies.with_histograms.swap(false, Ordering::Relaxed);
        let copy = Arc::new(QueueSnapshot {
            consistent: true,
            ..self.copy(histograms)
        });
        let before = latest.replace(copy);
        drop(latest);
        self.copies.made.fetch_add(1, Ordering::Release);
        drop(before);
    }

    /// Whether somebody waits for the writer to leave a copy.
    pub(crate) fn asked(&self) -> bool {
        self.copies.asked.load(Ordering::Relaxed)
    }

    /// Who wakes the writer, so that a reader need not wait for it to wake by itself.
    pub(crate) fn set_waker(&self, waker: Option<Waker>) {
        *self.copies.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
    }

    fn copy(&self, histograms: bool) -> QueueSnapshot {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let ops = self
            .ops
            .iter()
            .enumerate()
            .map(|(op, live)| {
                let count = load(&live.count);
                let hist = |kind: usize| match histograms && count > 0 {
                    true => {
                        let start = (op * HISTS_PER_OP + kind) * HIST_CELLS;
                        self.hists[start..start + HIST_CELLS].iter().map(load).collect()
                    }
                    false => Vec::new(),
                };
                OpSnapshot {
                    count,
                    bytes: load(&live.bytes),
                    errors: load(&live.errors),
                    sum_ns: load(&live.sum_ns),
                    min_ns: load(&live.min_plus_1_ns).checked_sub(1),
                    max_ns: (count > 0).then(|| load(&live.max_ns)),
                    latency_device: hist(0),
                    latency_host: hist(1),
                }
            })
            .collect();
        let namespaces = self
            .namespaces
            .iter()
            .map(|ops| {
                std::array::from_fn(|op| NamespaceOp {
                    count: load(&ops[op].count),
                    bytes: load(&ops[op].bytes),
                    errors: load(&ops[op].errors),
                })
            })
            .collect();
        let statuses = self
            .statuses
            .iter()
            .filter_map(|status| {
                Some((
                    load(&status.code_plus_1).checked_sub(1)? as u16,
                    load(&status.count),
                ))
            })
            .collect();
        QueueSnapshot {
            consistent: false,
            retries: 0,
            counters: self.live.copy(),
            ops,
            namespaces,
            statuses,
            other_statuses: load(&self.other_statuses),
            completions_per_wakeup: if histograms {
                self.wakeup_hist.iter().map(load).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Everything that was counted, of one moment where that can be had within bounds, with the sums over time
    /// extended to `now_ns`.
    pub fn snapshot(&self, now_ns: u64, histograms: bool) -> QueueSnapshot {
        let mut snapshot = self.take(histograms);
        self.extend(&mut snapshot, now_ns);
        snapshot
    }

    /// Extends the sums over time to `now_ns`, which was read after the copy.
    pub(crate) fn extend(&self, snapshot: &mut QueueSnapshot, now_ns: u64) {
        let counters = &mut snapshot.counters;
        let inflight = counters.submitted.saturating_sub(counters.completed);
        let since_ns = now_ns.saturating_sub(counters.changed_ns);
        if !snapshot.consistent {
            return;
        }
        if inflight > 0 {
            counters.qd_time_integral_ns = counters
                .qd_time_integral_ns
                .wrapping_add(inflight.wrapping_mul(since_ns));
            counters.active_ns += since_ns;
            if inflight >= self.limit {
                counters.full_ns += since_ns;
            }
        }
        let up = |cell: &AtomicU64, value: u64| cell.fetch_max(value, Ordering::Relaxed).max(value);
        counters.qd_time_integral_ns = up(&self.reported.qd_time_integral_ns, counters.qd_time_integral_ns);
        counters.active_ns = up(&self.reported.active_ns, counters.active_ns);
        counters.full_ns = up(&self.reported.full_ns, counters.full_ns);
    }

    /// A copy as it is, without the time since the last change.
    pub(crate) fn take(&self, histograms: bool) -> QueueSnapshot {
        for retries in 0..DIRECT_TRIES {
            if let Some(snapshot) = self.copy_between_changes(histograms) {
                return QueueSnapshot { retries, ..snapshot };
            }
            std::hint::spin_loop();
        }
        // The second copy made from now on was begun after the request, so it has the histograms if they were wanted
        // and is not older than this call; the first may have been under way.
        let made = self.copies.made.load(Ordering::Acquire);
        for tries in 0..ASKED_TRIES {
            if histograms {
                self.copies.with_histograms.store(true, Ordering::Relaxed);
            }
            if !self.copies.asked.swap(true, Ordering::Release)
                && let Some(waker) = &*self.copies.waker.lock().unwrap_or_else(PoisonError::into_inner)
            {
                waker.wake();
            }
            std::thread::yield_now();
            if self.copies.made.load(Ordering::Acquire) >= made + 2 {
                let latest = self
                    .copies
                    .latest
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                if let Some(latest) = latest
                    && (!histograms || !latest.completions_per_wakeup.is_empty())
                {
                    let copy = QueueSnapshot {
                        retries: DIRECT_TRIES + tries,
                        ..(*latest).clone()
                    };
                    return if histograms {
                        copy
                    } else {
                        copy.without_histograms()
                    };
                }
            }
            // The load may have stopped meanwhile.
            if tries % 16 == 15
                && let Some(snapshot) = self.copy_between_changes(histograms)
            {
                return QueueSnapshot {
                    retries: DIRECT_TRIES + tries,
                    ..snapshot
                };
            }
        }
        QueueSnapshot {
            retries: DIRECT_TRIES + ASKED_TRIES,
            ..self.copy(histograms)
        }
    }

    fn copy_between_changes(&self, histograms: bool) -> Option<QueueSnapshot> {
        let before = self.sequence.load(Ordering::Acquire);
        if before % 2 == 1 {
            return None;
        }
        let copy = self.copy(histograms);
        // All of the copy's loads come before the second look.
        fence(Ordering::Acquire);
        (self.sequence.load(Ordering::Relaxed) == before).then_some(QueueSnapshot {
            consistent: true,
            ..copy
        })
    }
}
