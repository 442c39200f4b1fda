//! The writer's side of a queue's statistics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nvme_spec::Status;
use stats_proto::hist::{MAX_VALUE, index_of};

use super::shared::{HIST_CELLS, HISTS_PER_OP, QueueStats, add};
use super::{OpClass, Rejected};
use crate::backend::Waker;
use crate::io_scheduler::{MissedIn, Priority};

/// Counts what one queue pair does. Belongs to the queue pair's owner.
pub(crate) struct QueueRecorder {
    stats: Arc<QueueStats>,
    inflight: u64,
    limit: u64,
    changed_ns: u64,
    bytes_copied: u64,
    bytes_zero_copy: u64,
    host_queued: u64,
    host_queued_max: u64,
    scheduled: Scheduled,
}

/// What is counted of requests, not of commands: kept aside too.
#[derive(Default)]
struct Scheduled {
    /// By [`Priority`].
    classes: [u64; Priority::ALL.len()],
    met: u64,
    missed_host: u64,
    missed_device: u64,
    merged: u64,
    retries: u64,
    /// Whether there is anything to be shown.
    any: bool,
}

impl QueueRecorder {
    /// A recorder for a queue that can have `limit` commands out, on a controller with `namespaces` namespaces.
    pub(crate) fn new(namespaces: usize, limit: usize) -> Self {
        let stats = Arc::new(QueueStats::new(namespaces, limit));
        Self {
            stats,
            inflight: 0,
            limit: limit as u64,
            changed_ns: 0,
            bytes_copied: 0,
            bytes_zero_copy: 0,
            host_queued: 0,
            host_queued_max: 0,
            scheduled: Scheduled::default(),
        }
    }

    /// The reader's side.
    pub(crate) fn stats(&self) -> Arc<QueueStats> {
        Arc::clone(&self.stats)
    }

    pub(crate) fn set_waker(&self, waker: Option<Waker>) {
        self.stats.set_waker(waker);
    }

    /// To be called before any of the methods below.
    #[inline]
    pub(crate) fn begin(&self) {
        self.stats.begin();
    }

    /// To be called after them; the time in between is when a reader has to wait.
    #[inline]
    pub(crate) fn end(&self) {
        self.stats.end();
    }

    /// Once a turn, outside of `begin` and `end`.
    #[inline]
    pub(crate) fn leave_copy_if_asked(&self) {
        self.stats.leave_copy_if_asked();
    }

    /// Whether a reader waits for [`QueueRecorder::leave_copy_if_asked`].
    pub(crate) fn copy_asked(&self) -> bool {
        self.stats.asked()
    }

    /// `commands` commands were handed to the device at `now_ns`.
    #[inline]
    pub(crate) fn handed(&mut self, now_ns: u64, commands: u64) {
        self.advance(now_ns);
        self.inflight += commands;
        let live = &self.stats.live;
        add(&live.submitted, commands);
        self.show();
        if self.inflight > live.inflight_max.load(Ordering::Relaxed) {
            live.inflight_max.store(self.inflight, Ordering::Relaxed);
        }
    }

    /// So many doorbell registers were or are now written, of the submission and of the completion queue.
    #[inline]
    pub(crate) fn doorbells(&self, sq: u64, cq: u64) {
        add(&self.stats.live.sq_doorbells, sq);
        add(&self.stats.live.cq_doorbells, cq);
    }

    /// One command has completed.
    #[inline]
    pub(crate) fn completed(
        &mut self,
        op: OpClass,
        namespace: Option<usize>,
        bytes: u64,
        device_ns: u64,
        host_ns: u64,
        status: Status,
    ) {
        let live = &self.stats.ops[op as usize];
        add(&live.count, 1);
        add(&live.sum_ns, device_ns);
        let min_plus_1_ns = live.min_plus_1_ns.load(Ordering::Relaxed);
        if min_plus_1_ns == 0 || device_ns < min_plus_1_ns - 1 {
            live.min_plus_1_ns
                .store(device_ns.saturating_add(1), Ordering::Relaxed);
        }
        if device_ns > live.max_ns.load(Ordering::Relaxed) {
            live.max_ns.store(device_ns, Ordering::Relaxed);
        }
        self.count_latency(op, 0, device_ns);
        self.count_latency(op, 1, host_ns);
        let namespace = namespace.and_then(|namespace| self.stats.namespaces.get(namespace));
        if let Some(ops) = namespace {
            add(&ops[op as usize].count, 1);
        }
        if status.is_success() {
            add(&live.bytes, bytes);
            if let Some(ops) = namespace {
                add(&ops[op as usize].bytes, bytes);
            }
        } else {
            add(&live.errors, 1);
            if let Some(ops) = namespace {
                add(&ops[op as usize].errors, 1);
            }
            self.count_status(status);
        }
    }

    #[inline]
    fn count_latency(&self, op: OpClass, kind: usize, value_ns: u64) {
        let start = (op as usize * HISTS_PER_OP + kind) * HIST_CELLS;
        add(&self.stats.hists[start + index_of(value_ns)], 1);
        if value_ns > MAX_VALUE {
            add(&self.stats.hists[start + HIST_CELLS - 1], 1);
        }
    }

    #[cold]
    fn count_status(&self, status: Status) {
        add(&self.stats.live.completed_error, 1);
        let code_plus_1 = u64::from(status.code()) + 1;
        for slot in &self.stats.statuses {
            let taken = slot.code_plus_1.load(Ordering::Relaxed);
            if taken == 0 {
                slot.code_plus_1.store(code_plus_1, Ordering::Relaxed);
            }
            if taken == 0 || taken == code_plus_1 {
                return add(&slot.count, 1);
            }
        }
        add(&self.stats.other_statuses, 1);
    }

    /// After some have completed, `out` commands are still out at `now_ns`.
    #[inline]
    pub(crate) fn out_is(&mut self, now_ns: u64, out: u64) {
        self.advance(now_ns);
        add(&self.stats.live.completed, self.inflight.saturating_sub(out));
        self.inflight = out;
        self.show();
    }

    /// A pass over the completion queue that took `entries` entries.
    #[inline]
    pub(crate) fn pass(&self, entries: u64) {
        let live = &self.stats.live;
        add(&live.polls, 1);
        add(&self.stats.wakeup_hist[index_of(entries)], 1);
    }

    /// So many looks at the completion queue that found nothing, outside of `begin` and `end`.
    #[inline]
    pub(crate) fn polls_empty(&self, looks: u64) {
        self.begin();
        add(&self.stats.live.polls, looks);
        add(&self.stats.live.polls_empty, looks);
        self.show();
        self.end();
    }

    /// `fired` interrupts came, and there was or was not anything to reap.
    pub(crate) fn interrupts(&self, fired: u64, spurious: bool) {
        self.begin();
        add(&self.stats.live.interrupts, fired);
        if spurious {
            add(&self.stats.live.spurious_interrupts, fired);
        }
        self.end();
    }

    /// A completion was rejected, after which the queue is still as it was.
    #[cold]
    pub(crate) fn rejected(&self, why: Rejected) {
        let live = &self.stats.live;
        let cell = match why {
            Rejected::UnknownCid => &live.unknown_cid,
            Rejected::StaleCid => &live.stale_cid,
            Rejected::DuplicateCid => &live.duplicate_cid,
            Rejected::BadSqhd => &live.bad_sqhd,
            Rejected::BadSqid => &live.bad_sqid,
        };
        add(cell, 1);
    }

    /// A command was out for longer than the limit.
    #[cold]
    pub(crate) fn timed_out(&self) {
        self.begin();
        add(&self.stats.live.timeouts, 1);
        self.end();
    }

    /// When the oldest command that is out was submitted; 0 if none is.
    #[inline]
    pub(crate) fn oldest(&self, submitted_ns: u64) {
        self.stats.live.oldest_ns.store(submitted_ns, Ordering::Relaxed);
    }

    /// A command's data goes through bounce pages, or does not. Shows with the next doorbell.
    #[inline]
    pub(crate) fn moved(&mut self, bytes: u64, copied: bool) {
        if copied {
            self.bytes_copied += bytes;
        } else {
            self.bytes_zero_copy += bytes;
        }
    }

    /// Requests that wait for a slot. Shows with the next doorbell or pass.
    #[inline]
    pub(crate) fn host_queued(&mut self, requests: u64) {
        self.host_queued = requests;
        self.host_queued_max = self.host_queued_max.max(requests);
    }

    /// The turn of a request of this class has come. Shows with the next doorbell or pass.
    #[inline]
    pub(crate) fn scheduled(&mut self, priority: Priority) {
        if let Some(count) = self.scheduled.classes.get_mut(priority as usize) {
            *count += 1;
            self.scheduled.any = true;
        }
    }

    /// A request with a deadline is done: in time, or late and where. Shows with the next doorbell or pass.
    #[inline]
    pub(crate) fn deadline(&mut self, missed_in: Option<MissedIn>) {
        let count = match missed_in {
            None => &mut self.scheduled.met,
            Some(MissedIn::Host) => &mut self.scheduled.missed_host,
            Some(MissedIn::Device) => &mut self.scheduled.missed_device,
        };
        *count += 1;
        self.scheduled.any = true;
    }

    /// So many requests go with another one's command. Shows with the next doorbell or pass.
    #[inline]
    pub(crate) fn merged(&mut self, requests: u64) {
        self.scheduled.merged += requests;
        self.scheduled.any = true;
    }

    /// A request goes to the device once more, on its own. Shows with the next doorbell or pass.
    #[cold]
    pub(crate) fn retried(&mut self) {
        self.scheduled.retries += 1;
        self.scheduled.any = true;
    }

    #[cold]
    fn show_scheduled(&self) {
        let live = &self.stats.live;
        let cells = [
            &live.class_low,
            &live.class_medium,
            &live.class_high,
            &live.class_urgent,
        ];
        for (cell, count) in cells.into_iter().zip(self.scheduled.classes) {
            cell.store(count, Ordering::Relaxed);
        }
        live.deadlines_met.store(self.scheduled.met, Ordering::Relaxed);
        live.deadlines_missed_host
            .store(self.scheduled.missed_host, Ordering::Relaxed);
        live.deadlines_missed_device
            .store(self.scheduled.missed_device, Ordering::Relaxed);
        live.merged.store(self.scheduled.merged, Ordering::Relaxed);
        live.retries.store(self.scheduled.retries, Ordering::Relaxed);
    }

    /// What is kept aside between doorbells and passes, made visible.
    #[inline]
    fn show(&self) {
        let live = &self.stats.live;
        live.host_queued.store(self.host_queued, Ordering::Relaxed);
        live.host_queued_max
            .store(self.host_queued_max, Ordering::Relaxed);
        live.bytes_copied.store(self.bytes_copied, Ordering::Relaxed);
        live.bytes_zero_copy
            .store(self.bytes_zero_copy, Ordering::Relaxed);
        if self.scheduled.any {
            self.show_scheduled();
        }
    }

    /// Brings the sums over time up to `now_ns`.
    #[inline]
    fn advance(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.changed_ns);
        self.changed_ns = self.changed_ns.max(now_ns);
        let live = &self.stats.live;
        live.changed_ns.store(self.changed_ns, Ordering::Relaxed);
        if self.inflight > 0 {
            add(&live.qd_time_integral_ns, self.inflight * elapsed_ns);
            add(&live.active_ns, elapsed_ns);
            if self.inflight >= self.limit {
                add(&live.full_ns, elapsed_ns);
            }
        }
    }
}
