//! Device Self-test (Base 2.0, sections 5.9 and 8.6): a test that takes its time, and the log of those that have ended.

use std::collections::VecDeque;

use nvme_spec::command::NSID_ALL;
use nvme_spec::log::{SelfTestLog, SelfTestResult, SelfTestResultCode};
use nvme_spec::{Status, SubmissionEntry};

use super::{Admin, CDW10_BYTE, Reply, fail_at};
use crate::engine::{Context, Finished};

/// CDW10 bits 3:0: start a short test.
const SHORT: u8 = 1;
/// CDW10 bits 3:0: start an extended test.
const EXTENDED: u8 = 2;
/// CDW10 bits 3:0: abort the test in progress.
const ABORT: u8 = 0xF;

/// Results that the log page has room for.
const RESULTS: usize = 20;

/// A short test may take two minutes (section 8.6.1); this one is quick.
const SHORT_NS: u64 = 2_000_000_000;
/// EDSTT: nominal time of an extended test.
pub(super) const EXTENDED_MINUTES: u16 = 1;
const EXTENDED_NS: u64 = EXTENDED_MINUTES as u64 * 60_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Running {
    code: u8,
    nsid: u32,
    started_ns: u64,
    ends_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct SelfTests {
    running: Option<Running>,
    /// Newest first.
    results: VecDeque<SelfTestResult>,
}

impl SelfTests {
    /// When the test in progress is over.
    pub fn due_ns(&self) -> Option<u64> {
        self.running.map(|running| running.ends_ns)
    }

    /// Ends the test whose time is over. True if there was one.
    pub fn turn(&mut self, now_ns: u64, power_on_hours: u64) -> bool {
        let is_over = self.running.is_some_and(|running| running.ends_ns <= now_ns);
        if is_over {
            self.end(SelfTestResultCode::PASSED, power_on_hours);
        }
        is_over
    }

    /// A reset ends a short test. An extended one goes on (section 8.6.2).
    pub fn reset(&mut self, power_on_hours: u64) {
        if self.running.is_some_and(|running| running.code == SHORT) {
            self.end(SelfTestResultCode::ABORTED_BY_RESET, power_on_hours);
        }
    }

    /// Format NVM ends a test.
    pub fn abort_by_format(&mut self, power_on_hours: u64) {
        self.end(SelfTestResultCode::ABORTED_BY_FORMAT, power_on_hours);
    }

    fn end(&mut self, code: SelfTestResultCode, power_on_hours: u64) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.results.push_front(SelfTestResult {
            status: running.code << 4 | code.0,
            // NSID is valid, unless the test was of the controller alone.
            valid: u8::from(running.nsid != 0),
            nsid: running.nsid.into(),
            power_on_hours: power_on_hours.into(),
            ..Default::default()
        });
        self.results.truncate(RESULTS);
    }

    /// The log page.
    pub fn log(&self, now_ns: u64) -> SelfTestLog {
        let unused = SelfTestResult {
            status: SelfTestResultCode::UNUSED.0,
            ..Default::default()
        };
        let mut log = SelfTestLog {
            results: [unused; RESULTS],
            ..Default::default()
        };
        if let Some(running) = self.running {
            let done_ns = now_ns.saturating_sub(running.started_ns);
            let all_ns = running.ends_ns.saturating_sub(running.started_ns).max(1);
            log.current_operation = running.code;
            log.current_completion = (u128::from(done_ns) * 100 / u128::from(all_ns)).min(99) as u8;
        }
        for (to, from) in log.results.iter_mut().zip(&self.results) {
            *to = *from;
        }
        log
    }
}

impl Admin {
    pub(super) fn device_self_test(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        if entry.nsid != 0 && entry.nsid != NSID_ALL {
            self.active_namespace(cx, entry.nsid)?;
        }
        let code = (entry.cdw10 & 0xF) as u8;
        let takes_ns = match code {
            SHORT => SHORT_NS,
            EXTENDED => EXTENDED_NS,
            ABORT => {
                self.self_tests.end(
                    SelfTestResultCode::ABORTED_BY_COMMAND,
                    self.life.power_on_hours(cx.now_ns),
                );
                return Ok(Finished::OK);
            }
            _ => return Err(fail_at(CDW10_BYTE)),
        };
        if self.self_tests.running.is_some() {
            return Err(Status::SELF_TEST_IN_PROGRESS.into());
        }
        let ends_ns = cx.now_ns.saturating_add(takes_ns);
        self.self_tests.running = Some(Running {
            code,
            nsid: entry.nsid,
            started_ns: cx.now_ns,
            ends_ns,
        });
        Ok(Finished::OK)
    }
}
