//! What is left of the statistics without the feature `performance-counters`: the calls, which do nothing.

use std::sync::Arc;

use nvme_spec::Status;

use super::{OpClass, Rejected};
use crate::backend::Waker;
use crate::io_scheduler::{MissedIn, Priority};

/// Counts nothing.
pub(crate) struct QueueRecorder;

/// Holds nothing.
#[derive(Debug)]
pub struct QueueStats(());

/// Nothing was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSnapshot(());

impl QueueStats {
    /// Nothing.
    pub fn snapshot(&self, _now_ns: u64, _histograms: bool) -> QueueSnapshot {
        QueueSnapshot(())
    }

    pub(crate) fn take(&self, _histograms: bool) -> QueueSnapshot {
        QueueSnapshot(())
    }

    pub(crate) fn extend(&self, _snapshot: &mut QueueSnapshot, _now_ns: u64) {}
}

#[allow(clippy::unused_self)]
impl QueueRecorder {
    pub(crate) fn new(_namespaces: usize, _limit: usize) -> Self {
        Self
    }

    pub(crate) fn stats(&self) -> Arc<QueueStats> {
        Arc::new(QueueStats(()))
    }

    pub(crate) fn set_waker(&self, _waker: Option<Waker>) {}
    pub(crate) fn begin(&self) {}
    pub(crate) fn end(&self) {}
    pub(crate) fn leave_copy_if_asked(&self) {}

    pub(crate) fn copy_asked(&self) -> bool {
        false
    }

    pub(crate) fn handed(&mut self, _now_ns: u64, _commands: u64) {}
    pub(crate) fn doorbells(&self, _sq: u64, _cq: u64) {}

    pub(crate) fn completed(
        &mut self,
        _op: OpClass,
        _namespace: Option<usize>,
        _bytes: u64,
        _device_ns: u64,
        _host_ns: u64,
        _status: Status,
    ) {
    }

    pub(crate) fn out_is(&mut self, _now_ns: u64, _out: u64) {}
    pub(crate) fn pass(&self, _entries: u64) {}
    pub(crate) fn polls_empty(&self, _looks: u64) {}
    pub(crate) fn interrupts(&self, _fired: u64, _spurious: bool) {}
    pub(crate) fn rejected(&self, _why: Rejected) {}
    pub(crate) fn timed_out(&self) {}
    pub(crate) fn oldest(&self, _submitted_ns: u64) {}
    pub(crate) fn moved(&mut self, _bytes: u64, _copied: bool) {}
    pub(crate) fn host_queued(&mut self, _requests: u64) {}
    pub(crate) fn scheduled(&mut self, _priority: Priority) {}
    pub(crate) fn merged(&mut self, _requests: u64) {}
    pub(crate) fn retried(&mut self) {}
    pub(crate) fn deadline(&mut self, _missed_in: Option<MissedIn>) {}
}
