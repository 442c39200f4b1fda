//! Clients that are interrupted while they wait for something to happen.
//!
//! A read of `events` or `bench` is answered when there is something to read. The kernel tells a FUSE server that the
//! client has been interrupted meanwhile, but the library has no ears for it; and a client whose request is with the
//! server does not die before the answer, not even of SIGKILL. So it is looked at from time to time whether one of
//! those who wait has a signal pending; its reads are then ended with `EINTR`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::super::gate::Gate;
use super::super::{Call, HandleId, lock};

/// How long ^C may take.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many are looked at each time, one after the other in turn: thousands that wait shall not keep a CPU busy.
const LOOKS: usize = 64;

/// The calls that may take long.
#[derive(Default)]
pub(super) struct Interrupts {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By the number of the request: who waits, and on what.
    waiting: BTreeMap<u64, (u32, HandleId)>,
    ended: bool,
}

impl Interrupts {
    /// A read of the thread `tid` begins.
    pub(super) fn begin(&self, request: u64, tid: u32, handle: HandleId) {
        let mut state = lock(&self.state);
        state.waiting.insert(request, (tid, handle));
        if state.waiting.len() == 1 {
            self.changed.notify_one();
        }
    }

    /// It has been answered.
    pub(super) fn done(&self, request: u64) {
        lock(&self.state).waiting.remove(&request);
    }

    /// Nobody will read any more: [`Self::watch`] returns.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_one();
    }

    /// Wakes those who have a signal pending, until [`Self::end`]. Sleeps while nobody waits.
    pub(super) fn watch(&self, gate: &Arc<Gate>) {
        let mut last = 0;
        loop {
            let waiting: Vec<(u64, (u32, HandleId))> = {
                let state = lock(&self.state);
                let idle = |state: &mut State| !state.ended && state.waiting.is_empty();
                let state = self
                    .changed
                    .wait_while(state, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                if state.ended {
                    return;
                }
                let behind = state
                    .waiting
                    .range((Bound::Excluded(last), Bound::Unbounded))
                    .chain(state.waiting.range(..=last));
                behind.map(|(number, who)| (*number, *who)).take(LOOKS).collect()
            };
            for (number, (tid, handle)) in waiting {
                last = number;
                if has_signal(tid) {
                    gate.call(Call::Wake { handle }, drop);
                }
            }
            let state = lock(&self.state);
            drop(
                self.changed
                    .wait_timeout_while(state, LOOK_AGAIN, |state| !state.ended),
            );
        }
    }
}

/// Whether a thread has a signal pending that it neither blocks nor ignores. One that is not there has none.
fn has_signal(tid: u32) -> bool {
    fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(|status| is_pending(&status))
}

/// The same, from the text that proc_pid_status(5) describes: sets of signals in hexadecimal.
fn is_pending(status: &str) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .unwrap_or(0)
    };
    (set("SigPnd:") | set("ShdPnd:")) & !set("SigBlk:") & !set("SigIgn:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_if_it_is_neither_blocked_nor_ignored() {
        let status = |own: u64, shared: u64, blocked: u64, ignored: u64| {
            format!(
                "Name:\tcat\nSigQ:\t0/95\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\n\
                 SigIgn:\t{ignored:016x}\nSigCgt:\t0\n"
            )
        };
        assert!(is_pending(&status(2, 0, 0, 0)));
        assert!(is_pending(&status(0, 2, 0, 0)));
        assert!(is_pending(&status(0x100, 2, 2, 0)));
        assert!(!is_pending(&status(0, 0, 0, 0)));
        assert!(!is_pending(&status(2, 4, 2, 4)));
        assert!(!is_pending(""));
        assert!(!has_signal(u32::MAX));
    }
}
