//! The thread of a worker: how it waits between two turns.

use std::time::Duration;

use super::{Order, Turn, Worker, loads_sleep, loads_wait};
use crate::backend::Waiter;
use crate::clock::Clock;
use crate::config::PollingMode;
use crate::io_queue::IoQueue;

use pace::Pace;

mod pace;

/// How long an adaptive worker looks for work of any kind before it sleeps.
const IDLE_SPIN_NS: u64 = 20_000;
/// How far away a completion may be that it looks for while commands are out, instead of sleeping until the interrupt: past
/// the latency of a flash read. It looks no longer than that for one that is late, either.
const SPIN_NS: u64 = 200_000;
/// A worker that has looked in vain for this long lets others run between its looks.
const YIELD_AFTER_NS: u64 = 10_000;
/// And for so long where a program of this machine has to run before there is more to do.
const YIELD_SOON_NS: u64 = 200;
/// How long an adaptive worker looks on the only CPU, and only while a single command is out: with more of them there
/// are clients who want to run. A small part of a time slice.
const LONE_SPIN_NS: u64 = 50_000;
/// How often a worker that does not sleep has its waiter collect what the system keeps for it.
const COLLECT_NS: u64 = 4_000_000;

/// How a worker's thread waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) mode: PollingMode,
    pub(crate) poll_interval_ns: u64,
    /// Whether there is a second CPU for whoever is waited for.
    pub(crate) may_spin: bool,
    /// Whether the device is not a program on this very machine, so that it gets on while the only CPU spins.
    pub(crate) spins_for_one: bool,
    /// Between two looks a polling worker sleeps only if the interval is at least this.
    pub(crate) shortest_sleep_ns: u64,
}

/// The worker's thread: turns it until it ends, and waits in between. `on_timeout` is called (once) when a command has
/// been out for too long.
pub(crate) fn run(
    mut worker: Worker,
    mut waiter: Box<dyn Waiter>,
    clock: &Clock,
    waiting: Waiting,
    on_timeout: &dyn Fn(u16),
) {
    crate::cpu::sharpen_timers();
    let mut worked_ns = clock.now_ns();
    let mut collected_ns = worked_ns;
    let mut pace = Pace::default();
    let mut slept = false;
    loop {
        let turn = worker.turn(clock);
        if slept {
            let fired = waiter.take_interrupts();
            if fired > 0 {
                worker.queue.recorder().interrupts(fired, turn != Turn::Worked);
            }
            slept = false;
        }
        match turn {
            Turn::Worked => {
                worked_ns = worker.turned_ns;
                if let Some(latency_ns) = worker.queue.take_latency() {
                    pace.took(latency_ns);
                }
                collect(&worker, &mut *waiter, worked_ns, &mut collected_ns);
            }
            Turn::Ended => return,
            Turn::TimedOut => on_timeout(worker.queue.qid()),
            Turn::Idle { until_ns } => {
                // The turn's own: it had nothing to do, which takes no time that matters here.
                let now_ns = worker.turned_ns;
                let idle_ns = now_ns.saturating_sub(worked_ns);
                let commands = worker.queue.commands();
                let commands_out = commands > 0;
                if collect(&worker, &mut *waiter, now_ns, &mut collected_ns) {
                    continue;
                }
                let is_expected = |limit_ns| pace.expects_of(&worker.queue, now_ns, limit_ns);
                if waiting.spins(commands, idle_ns, is_expected) {
                    let soon = idle_ns > YIELD_SOON_NS && loads_wait(&worker.loads);
                    if soon || waiting.yields(commands, idle_ns) {
                        std::thread::yield_now();
                    }
                    if waiting.mode == PollingMode::Polling && commands_out && waiting.poll_interval_ns > 0 {
                        let next_ns = now_ns.saturating_add(waiting.poll_interval_ns);
                        while clock.now_ns() < next_ns && !worker.has_news() {
                            std::hint::spin_loop();
                        }
                    } else if commands_out {
                        // With no pause in between: it takes as long as several looks, and under a hypervisor may leave
                        // the CPU.
                        worker.look();
                    } else {
                        std::hint::spin_loop();
                    }
                    continue;
                }
                let now_ns = clock.now_ns();
                // What came while it was awake has been dealt with.
                let fired = waiter.take_interrupts();
                if fired > 0 {
                    worker.queue.recorder().interrupts(fired, false);
                }
                let mut until_ns = until_ns;
                if waiting.mode == PollingMode::Polling && commands_out {
                    let next_ns = now_ns.saturating_add(waiting.poll_interval_ns);
                    until_ns = Some(until_ns.map_or(next_ns, |until_ns| until_ns.min(next_ns)));
                }
                let timeout = until_ns.map(|until_ns| Duration::from_nanos(until_ns.saturating_sub(now_ns)));
                if timeout == Some(Duration::ZERO) {
                    continue;
                }
                let polls = waiting.mode == PollingMode::Polling;
                let takes = worker.takes_requests();
                let Worker {
                    queue,
                    shared,
                    order,
                    loads,
                    ..
                } = &mut worker;
                waiter.wait(timeout, &mut || {
                    (*order == Order::Run && !loads_sleep(loads))
                        || shared.has_news(*order, takes)
                        || queue.recorder().copy_asked()
                        || (!polls && *order < Order::Hold && queue.has_completion())
                });
                slept = true;
                collected_ns = clock.now_ns();
            }
        }
    }
}

/// Has `waiter` collect what the system keeps for it, if it has not done so for a while; says whether it did. What it
/// brings, such as a [`Watched`](crate::backend::Watched) descriptor, is for the worker's next turn to find: a sleep before
/// that would not end for it.
#[inline]
fn collect(worker: &Worker, waiter: &mut dyn Waiter, now_ns: u64, collected_ns: &mut u64) -> bool {
    if now_ns.saturating_sub(*collected_ns) < COLLECT_NS {
        return false;
    }
    *collected_ns = now_ns;
    waiter.collect();
    let fired = waiter.take_interrupts();
    if fired > 0 {
        worker.queue.recorder().interrupts(fired, false);
    }
    true
}

impl Pace {
    /// Whether the oldest or the youngest command of `queue` that is out is expected so soon; those between them are not
    /// looked at. The oldest alone would not do: it may be one that takes long, with short ones behind it.
    #[inline]
    fn expects_of<T>(&self, queue: &IoQueue<T>, now_ns: u64, limit_ns: u64) -> bool {
        [queue.oldest_ns(), queue.youngest_ns()]
            .into_iter()
            .flatten()
            .any(|handed_ns| self.expects(handed_ns, now_ns, limit_ns))
    }
}

impl Waiting {
    /// Whether a worker that has had nothing to do for `idle_ns` looks again at once. `is_expected` says whether one of its
    /// commands is to complete within a time.
    #[inline]
    fn spins(&self, commands: usize, idle_ns: u64, is_expected: impl FnOnce(u64) -> bool) -> bool {
        if !self.may_spin {
            return match self.mode {
                PollingMode::Interrupt => false,
                // Where a sleep is no shorter than a time slice, others run between two looks instead.
                PollingMode::Polling => commands > 0 && self.spins_for_one && self.is_sleepless(),
                PollingMode::Adaptive => {
                    commands == 1 && self.spins_for_one && idle_ns < LONE_SPIN_NS && is_expected(LONE_SPIN_NS)
                }
            };
        }
        match (self.mode, commands > 0) {
            (PollingMode::Interrupt, _) => false,
            (PollingMode::Polling, true) => self.is_sleepless(),
            (PollingMode::Polling, false) | (PollingMode::Adaptive, false) => idle_ns < IDLE_SPIN_NS,
            (PollingMode::Adaptive, true) => is_expected(SPIN_NS),
        }
    }

    /// Whether such a worker lets others run first: an emulated device, say, or the client whose next request it waits for,
    /// may want this very CPU. Where the device is none of this machine's programs, and has commands, no one is waited for
    /// who needs one.
    #[inline]
    fn yields(&self, commands: usize, idle_ns: u64) -> bool {
        if self.may_spin {
            idle_ns > YIELD_AFTER_NS && !(self.spins_for_one && commands > 0)
        } else {
            idle_ns > YIELD_AFTER_NS || self.mode == PollingMode::Polling
        }
    }

    /// Whether the polling interval is too short for a sleep.
    fn is_sleepless(&self) -> bool {
        self.poll_interval_ns < self.shortest_sleep_ns
    }
}

#[cfg(test)]
mod tests;
