//! The Error Information log (Base 2.0, section 5.16.1.2): the last commands that failed, newest first.

use std::collections::VecDeque;

use nvme_spec::Status;
use nvme_spec::log::ErrorLogEntry;

use crate::engine::Finished;
use crate::held::Command;

/// Entries that are kept. Identify Controller's ELPE is one less.
pub(crate) const ERROR_LOG_ENTRIES: usize = 64;

/// A parameter error location that points nowhere in particular.
const NO_LOCATION: u16 = 0xFFFF;

/// The entries and the count of all there ever were. Survives resets.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorLogEntry>,
    count: u64,
    media_errors: u64,
}

impl ErrorLog {
    /// Logs how `command` failed. Returns the status for its completion: with the bit that says that there is more about
    /// it in the log.
    pub fn push(&mut self, command: &Command, finished: Finished) -> Status {
        let status = finished.status;
        if is_ordered_end(status) {
            return status;
        }
        let status = status.with_more(true);
        self.count += 1;
        self.media_errors +=
            u64::from(status.sct() == nvme_spec::status::SCT_MEDIA && !is_miscompare(status));
        let is_io = command.qid != 0;
        let entry = ErrorLogEntry {
            error_count: self.count.into(),
            sqid: command.qid.into(),
            cid: command.entry.cid.into(),
            // Bit 0 is the phase tag of the completion, which is not known yet; it is no part of the status.
            status_phase: (status.0 << 1).into(),
            parameter_error_location: finished.error_location.unwrap_or(NO_LOCATION).into(),
            lba: if is_io {
                command.entry.lba().into()
            } else {
                0.into()
            },
            nsid: command.entry.nsid.into(),
            ..Default::default()
        };
        self.entries.push_front(entry);
        self.entries.truncate(ERROR_LOG_ENTRIES);
        status
    }

    /// Entries over the life of the controller.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them were unrecovered media or integrity errors.
    pub fn media_errors(&self) -> u64 {
        self.media_errors
    }

    /// The entries, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &ErrorLogEntry> {
        self.entries.iter()
    }
}

/// Ends that the host has asked for are no errors of the controller.
fn is_ordered_end(status: Status) -> bool {
    [Status::ABORT_REQUESTED, Status::ABORTED_SQ_DELETION]
        .iter()
        .any(|ordered| status.is(*ordered))
}

/// Compare found other data: that says nothing about the medium.
fn is_miscompare(status: Status) -> bool {
    status.is(Status::COMPARE_FAILURE)
}

#[cfg(test)]
mod tests {
    use nvme_spec::SubmissionEntry;

    use super::*;

    fn failed(cid: u16, status: Status) -> (Command, Finished) {
        let entry = SubmissionEntry {
            cid,
            nsid: 3,
            cdw10: 77,
            ..Default::default()
        };
        (
            Command {
                entry,
                qid: 2,
                sq_hint: 0,
                fault: None,
            },
            Finished::with(status),
        )
    }

    #[test]
    fn keeps_the_newest_and_counts_all() {
        let mut log = ErrorLog::default();
        for cid in 0..100 {
            let (command, finished) = failed(cid, Status::UNRECOVERED_READ_ERROR);
            assert!(log.push(&command, finished).more());
        }
        let (command, finished) = failed(7, Status::COMPARE_FAILURE);
        log.push(&command, finished);
        assert_eq!(
            (log.count(), log.media_errors(), log.entries().count()),
            (101, 100, ERROR_LOG_ENTRIES)
        );
        let newest: Vec<_> = log
            .entries()
            .take(2)
            .map(|entry| (entry.error_count.get(), entry.cid.get()))
            .collect();
        assert_eq!(newest, [(101, 7), (100, 99)]);
        let entry = log.entries().next().unwrap();
        assert_eq!((entry.sqid.get(), entry.nsid.get(), entry.lba.get()), (2, 3, 77));
        assert!(entry.status().is(Status::COMPARE_FAILURE));
    }

    #[test]
    fn what_the_host_asked_for_is_no_error() {
        let mut log = ErrorLog::default();
        let (command, finished) = failed(1, Status::ABORT_REQUESTED);
        assert_eq!(log.push(&command, finished), Status::ABORT_REQUESTED);
        assert_eq!(log.count(), 0);
    }
}
