//! Which submission queue commands are fetched from next (Base 2.0, section 3.4.4): round robin, or weighted round robin with
//! an urgent priority class.

use nvme_spec::command::{QPRIO_HIGH, QPRIO_LOW, QPRIO_MEDIUM, QPRIO_URGENT};
use nvme_spec::feature::Arbitration;

use super::TURN_COMMANDS;
use crate::rings::SubmissionQueue;

/// Arbitration Burst: no limit.
const AB_NO_LIMIT: u8 = 0b111;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Arbiter {
    /// The queue whose turn is next, of all and by class (`QPRIO_*`).
    turn: usize,
    turns: [usize; 4],
    /// Commands that the classes high, medium and low may still have fetched in this round.
    credits: [u32; 3],
}

/// A queue that is to be fetched from, and how many commands at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub index: usize,
    pub commands: usize,
}

impl Arbiter {
    /// Section 3.4.4.1. The queues that `is_ready` says have commands have their turns.
    pub fn round_robin(
        &mut self,
        queues: &[SubmissionQueue],
        is_ready: impl Fn(&SubmissionQueue) -> bool,
    ) -> Option<Chosen> {
        let index = next(&mut self.turn, queues, is_ready)?;
        Some(Chosen {
            index,
            commands: TURN_COMMANDS,
        })
    }

    /// Section 3.4.4.2: urgent queues before all others, among which a round gives each class as many commands as its
    /// weight; round robin within a class.
    pub fn weighted(
        &mut self,
        rule: Arbitration,
        queues: &[SubmissionQueue],
        is_ready: impl Fn(&SubmissionQueue) -> bool,
    ) -> Option<Chosen> {
        let burst = match rule.ab() {
            AB_NO_LIMIT => TURN_COMMANDS,
            ab => TURN_COMMANDS.min(1 << ab),
        };
        let [urgent, high, medium, low] = &mut self.turns;
        if let Some(index) = next(urgent, queues, |sq| sq.qprio == QPRIO_URGENT && is_ready(sq)) {
            return Some(Chosen {
                index,
                commands: burst,
            });
        }
        let mut classes = [(QPRIO_HIGH, high), (QPRIO_MEDIUM, medium), (QPRIO_LOW, low)];
        // A round ends when no class that still may have commands has any.
        for begins in [false, true] {
            if begins {
                self.credits =
                    [rule.hpw_z(), rule.mpw_z(), rule.lpw_z()].map(|weight_z| u32::from(weight_z) + 1);
            }
            for ((qprio, turn), credits) in classes.iter_mut().zip(&mut self.credits) {
                if *credits == 0 {
                    continue;
                }
                if let Some(index) = next(turn, queues, |sq| sq.qprio == *qprio && is_ready(sq)) {
                    let commands = burst.min(*credits as usize);
                    return Some(Chosen { index, commands });
                }
            }
        }
        None
    }

    /// `commands` were fetched from a queue of the class `qprio`.
    pub fn fetched(&mut self, qprio: u8, commands: usize) {
        let class = usize::from(qprio).checked_sub(usize::from(QPRIO_HIGH));
        if let Some(credits) = class.and_then(|class| self.credits.get_mut(class)) {
            *credits = credits.saturating_sub(commands as u32);
        }
    }
}

/// The next queue from `turn` on.
fn next(
    turn: &mut usize,
    queues: &[SubmissionQueue],
    is_ready: impl Fn(&SubmissionQueue) -> bool,
) -> Option<usize> {
    for _ in 0..queues.len() {
        let index = if *turn < queues.len() { *turn } else { 0 };
        *turn = index + 1;
        if queues.get(index).is_some_and(&is_ready) {
            return Some(index);
        }
    }
    None
}
