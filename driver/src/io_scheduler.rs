//! Which queue a request goes to: a decision without a clock, a lock or a thread. In which order it has its turn there is the
//! business of the queue's [`backlog`](crate::backlog).

use std::num::NonZeroU32;
use std::str::FromStr;

use crate::config::SchedulerKind;

/// What is known of a request when its queue is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The CPU on which it was made; `None` for the one that the calling thread runs on.
    pub cpu: Option<u32>,
    /// Who made it: any number that stays the same for one client (a handle, say).
    pub client: u64,
    /// How urgent it is to its client.
    pub class: Class,
}

/// How urgent a request is to its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    /// Against others'.
    pub priority: Priority,
    /// In how many microseconds from its arrival it should be done, if that matters.
    pub deadline_us: Option<NonZeroU32>,
}

impl Class {
    /// When a request that has come at `arrived_ns` should be done; `u64::MAX` if that does not matter.
    #[inline]
    pub(crate) fn deadline_ns(self, arrived_ns: u64) -> u64 {
        self.deadline_us.map_or(u64::MAX, |deadline_us| {
            arrived_ns.saturating_add(u64::from(deadline_us.get()) * 1000)
        })
    }
}

/// How a request stands against others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// When nobody else wants to, or hardly anybody.
    Low,
    /// As everybody.
    #[default]
    Medium,
    /// Before others.
    High,
    /// Before all others.
    Urgent,
}

impl Priority {
    /// All of them, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Urgent, Self::High, Self::Medium, Self::Low];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Urgent => "urgent",
        }
    }
}

impl FromStr for Priority {
    type Err = ();

    /// By its name; `normal` is another one of `medium`.
    fn from_str(name: &str) -> Result<Self, ()> {
        let named = Self::ALL.into_iter().find(|priority| priority.name() == name);
        named.or((name == "normal").then_some(Self::Medium)).ok_or(())
    }
}

/// Where a request that was late spent most of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissedIn {
    /// Before its doorbell: it waited in the driver.
    Host,
    /// After it.
    Device,
}

impl MissedIn {
    /// `None` if it was in time.
    pub(crate) fn of(deadline_ns: u64, arrived_ns: u64, doorbell_ns: u64, completed_ns: u64) -> Option<Self> {
        if completed_ns <= deadline_ns {
            return None;
        }
        let host_ns = doorbell_ns.saturating_sub(arrived_ns);
        let device_ns = completed_ns.saturating_sub(doorbell_ns);
        Some(if host_ns > device_ns {
            Self::Host
        } else {
            Self::Device
        })
    }
}

/// Chooses queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IoScheduler {
    kind: SchedulerKind,
    queues: usize,
    /// Whether queue n is the controller's queue of the class [`Priority::ALL`]`[n % 4]`.
    has_classes: bool,
}

impl IoScheduler {
    /// For `queues` queues, at least 1.
    pub(crate) fn new(kind: SchedulerKind, queues: usize) -> Self {
        Self {
            kind,
            queues: queues.max(1),
            has_classes: false,
        }
    }

    /// The same, where the controller knows classes of queues and each has some.
    pub(crate) fn with_classes(self, has_classes: bool) -> Self {
        Self { has_classes, ..self }
    }

    /// Of the queues for `priority`, the one with this number modulo how many there are.
    #[inline]
    pub(crate) fn of_class(&self, priority: Priority, number: usize) -> usize {
        const CLASSES: usize = Priority::ALL.len();
        if self.kind != SchedulerKind::Priority || !self.has_classes || self.queues < CLASSES {
            return number % self.queues;
        }
        let class = CLASSES - 1 - priority as usize;
        let own = (self.queues - class).div_ceil(CLASSES);
        class + CLASSES * (number % own)
    }

    /// The queue, from 0, for a request; `turn` is the number of the request among all, which only `roundrobin` looks
    /// at.
    #[inline]
    pub(crate) fn choose(&self, hint: Hint, turn: u64) -> usize {
        let of_client = (hint.client % self.queues as u64) as usize;
        match self.kind {
            SchedulerKind::None => of_client,
            SchedulerKind::RoundRobin => (turn % self.queues as u64) as usize,
            // CPU n's queue is queue n; further CPUs share. Where the system does not name the CPU, a client at least
            // keeps its queue.
            // Those that order requests do so within a queue; which one it is, is chosen for the CPU's sake.
            SchedulerKind::CpuAffinity | SchedulerKind::Deadline => {
                hint.cpu.map_or(of_client, |cpu| cpu as usize % self.queues)
            }
            SchedulerKind::Priority => {
                let number = hint.cpu.map_or(of_client, |cpu| cpu as usize);
                self.of_class(hint.class.priority, number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hint(cpu: Option<u32>, client: u64) -> Hint {
        Hint {
            cpu,
            client,
            ..Hint::default()
        }
    }

    proptest! {
        #[test]
        fn a_queue_that_exists_is_chosen(queues in 0usize..70, cpu in any::<Option<u32>>(), client: u64, turn: u64) {
            for kind in SchedulerKind::ALL {
                let chosen = IoScheduler::new(kind, queues).choose(hint(cpu, client), turn);
                prop_assert!(chosen < queues.max(1));
            }
        }

        #[test]
        fn none_keeps_a_client_where_it_is(queues in 1usize..70, client: u64, cpu: u32, turns in any::<[u64; 2]>()) {
            let none = IoScheduler::new(SchedulerKind::None, queues);
            let first = none.choose(hint(Some(cpu), client), turns[0]);
            prop_assert_eq!(first, none.choose(hint(None, client), turns[1]));
        }

        #[test]
        fn roundrobin_gives_every_queue_its_turn(queues in 1usize..70, start in 0u64..1 << 60) {
            let mut seen = vec![0; queues];
            for turn in start..start + 3 * queues as u64 {
                seen[IoScheduler::new(SchedulerKind::RoundRobin, queues).choose(Hint::default(), turn)] += 1;
            }
            prop_assert!(seen.iter().all(|count| *count == 3));
        }
    }

    #[test]
    fn queues_with_classes_are_for_their_class() {
        for queues in 1..20 {
            let scheduler = IoScheduler::new(SchedulerKind::Priority, queues).with_classes(true);
            let mut used = vec![false; queues];
            for (class, priority) in Priority::ALL.into_iter().enumerate() {
                for number in 0..40 {
                    let queue = scheduler.of_class(priority, number);
                    assert!(
                        queues < 4 || queue % 4 == class,
                        "{priority:?} goes to {queue} of {queues}"
                    );
                    used[queue] = true;
                }
            }
            assert!(used.iter().all(|used| *used), "all of {queues} are used");
        }
    }

    #[test]
    fn cpuaffinity_goes_to_the_queue_of_the_cpu() {
        let affinity = IoScheduler::new(SchedulerKind::CpuAffinity, 4);
        for cpu in 0..8 {
            assert_eq!(affinity.choose(hint(Some(cpu), 3), 9), cpu as usize % 4);
        }
        assert_eq!(affinity.choose(hint(None, 7), 9), 3);
    }
}
