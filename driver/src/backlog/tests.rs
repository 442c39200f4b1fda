//! What each order promises, over seeded loads.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::priority::{URGENT_RUN, longest_wait};
use super::*;
use crate::dma::Buffer;

/// A request of `client`, by number.
fn item(number: u64, client: u64, op: Op, bytes: usize, class: Class, arrived_ns: u64) -> Item<u64> {
    Item {
        request: Request {
            op,
            nsid: 1,
            slba: number,
            blocks: 1,
            buffer: if bytes == 0 {
                Buffer::None
            } else {
                Buffer::heap(vec![0; bytes])
            },
            arrived_ns,
            context: number,
        },
        client,
        class,
        place: 0,
    }
}

fn of_class(priority: Priority, number: u64) -> Item<u64> {
    let class = Class {
        priority,
        deadline_us: None,
    };
    item(number, number % 3, Op::Read, 4096, class, 0)
}

fn backlog(kind: SchedulerKind) -> Backlog<u64> {
    Backlog::new(kind, Weights::default()).unwrap()
}

fn pop(backlog: &mut Backlog<u64>) -> Option<Item<u64>> {
    backlog.pop().map(|popped| popped.item)
}

#[test]
fn only_those_that_order_requests_have_a_backlog() {
    let with: Vec<SchedulerKind> = SchedulerKind::ALL
        .into_iter()
        .filter(|kind| Backlog::<u64>::new(*kind, Weights::default()).is_some())
        .collect();
    let wanted = [
        SchedulerKind::RoundRobin,
        SchedulerKind::Priority,
        SchedulerKind::Deadline,
    ];
    assert_eq!(with, wanted);
}

#[test]
fn a_client_with_a_thousand_requests_does_not_hold_another_up() {
    let mut backlog = backlog(SchedulerKind::RoundRobin);
    let class = Class::default();
    for number in 0..1000 {
        backlog.push(item(number, 1, Op::Read, 4096, class, 0)).unwrap();
    }
    for number in 1000..1020 {
        backlog.push(item(number, 2, Op::Read, 4096, class, 0)).unwrap();
        // One of the other's at most is before it.
        let next = [
            pop(&mut backlog).unwrap().client,
            pop(&mut backlog).unwrap().client,
        ];
        assert!(next.contains(&2), "{next:?}");
    }
}

#[test]
fn whoever_asks_for_little_does_not_get_less_for_it() {
    let mut backlog = backlog(SchedulerKind::RoundRobin);
    let class = Class::default();
    for number in 0..64 {
        backlog
            .push(item(number, 1, Op::Read, 1 << 20, class, 0))
            .unwrap();
    }
    for number in 0..256 {
        backlog.push(item(number, 2, Op::Read, 4096, class, 0)).unwrap();
    }
    // Two of 1 MiB and what the others have in the meantime, which is 256 and one.
    let mut large = 0;
    for _ in 0..256 {
        large += usize::from(pop(&mut backlog).unwrap().client == 1);
    }
    assert!(large <= 2, "{large}");
}

#[test]
fn another_client_finds_room_whatever_one_asks_for() {
    for kind in [
        SchedulerKind::RoundRobin,
        SchedulerKind::Priority,
        SchedulerKind::Deadline,
    ] {
        let mut backlog = backlog(kind);
        let class = Class::default();
        let taken = (0..10_000)
            .filter(|number| backlog.push(item(*number, 1, Op::Read, 0, class, 0)).is_ok())
            .count();
        assert_eq!(taken, BACKLOG_REQUESTS / 2);
        for client in 2..9 {
            assert!(backlog.push(item(1, client, Op::Read, 0, class, 0)).is_ok());
        }
    }
}

#[test]
fn another_client_finds_room_whatever_many_ask_for() {
    let mut backlog = backlog(SchedulerKind::RoundRobin);
    let class = Class::default();
    for client in 1..=40 {
        let taken = (0..3000)
            .filter(|number| backlog.push(item(*number, client, Op::Read, 0, class, 0)).is_ok())
            .count();
        assert!(taken > 0, "client {client} finds room");
    }
}

#[test]
fn urgent_goes_first_and_not_for_ever() {
    let mut backlog = backlog(SchedulerKind::Priority);
    for number in 0..500 {
        backlog.push(of_class(Priority::Urgent, number)).unwrap();
    }
    backlog.push(of_class(Priority::Low, 0)).unwrap();
    for _ in 0..URGENT_RUN {
        assert_eq!(pop(&mut backlog).unwrap().class.priority, Priority::Urgent);
    }
    assert_eq!(pop(&mut backlog).unwrap().class.priority, Priority::Low);
    // With nobody else there is no run to be broken, and one that comes later waits for a whole one again.
    for _ in 0..2 * URGENT_RUN {
        assert_eq!(pop(&mut backlog).unwrap().class.priority, Priority::Urgent);
    }
}

/// As the page on scheduling says it.
#[test]
fn the_bound_for_low_requests_is_as_documented() {
    assert_eq!(longest_wait(Weights::default(), Priority::Low), 758);
}

#[test]
fn the_sharing_classes_share_by_weight() {
    let mut backlog = backlog(SchedulerKind::Priority);
    for number in 0..500 {
        for priority in [Priority::Low, Priority::Medium, Priority::High] {
            backlog.push(of_class(priority, number)).unwrap();
        }
    }
    let mut given = BTreeMap::new();
    for _ in 0..21 * 20 {
        *given
            .entry(pop(&mut backlog).unwrap().class.priority)
            .or_insert(0) += 1;
    }
    let wanted = BTreeMap::from([(Priority::Low, 20), (Priority::Medium, 80), (Priority::High, 320)]);
    assert_eq!(given, wanted);
}

#[test]
fn at_equal_deadlines_reads_are_first() {
    let mut backlog = backlog(SchedulerKind::Deadline);
    let class = Class {
        deadline_us: NonZeroU32::new(100),
        ..Class::default()
    };
    let write = Op::Write { fua: false };
    for (number, op) in [
        (1, write),
        (2, Op::Flush),
        (3, Op::Read),
        (4, write),
        (5, Op::Read),
    ] {
        backlog.push(item(number, 1, op, 4096, class, 7)).unwrap();
    }
    let order: Vec<u64> = std::iter::from_fn(|| pop(&mut backlog))
        .map(|item| item.request.context)
        .collect();
    assert_eq!(order, [3, 5, 1, 2, 4]);
}

/// Only `deadline` lets anybody go before his turn, and only if it is asked to.
#[test]
fn others_do_not_look_for_neighbours() {
    let wanted = Wanted {
        place: 0,
        op: Op::Read,
        slba: 1,
        most_blocks: 8,
    };
    for kind in SchedulerKind::ALL {
        for finds in [false, true] {
            let Some(mut backlog) = Backlog::<u64>::new(kind, Weights::default()) else {
                continue;
            };
            if finds {
                backlog = backlog.finding_neighbours();
            }
            backlog
                .push(item(1, 1, Op::Read, 4096, Class::default(), 0))
                .unwrap();
            let found = backlog.pop_next(wanted).is_some();
            assert_eq!(found, finds && kind == SchedulerKind::Deadline, "{kind}");
        }
    }
}

fn priority() -> impl Strategy<Value = Priority> {
    (0usize..4).prop_map(|index| Priority::ALL[index])
}

/// One step of a load: a request comes, or so many go.
#[derive(Clone, Debug)]
enum Step {
    Push {
        client: u64,
        op: Op,
        bytes: usize,
        class: Class,
    },
    Pop(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![Just(Op::Read), Just(Op::Write { fua: false }), Just(Op::Flush)];
    let deadline_us = prop_oneof![Just(None), (1u32..20_000).prop_map(NonZeroU32::new)];
    prop_oneof![
        4 => (0u64..6, op, 1usize..100_000, priority(), deadline_us).prop_map(
            |(client, op, bytes, priority, deadline_us)| Step::Push {
                client,
                op,
                bytes: if op == Op::Flush { 0 } else { bytes },
                class: Class { priority, deadline_us },
            }
        ),
        1 => (1u8..8).prop_map(Step::Pop),
    ]
}

/// What the test knows of a request that waits.
struct Known {
    client: u64,
    priority: Priority,
    deadline_ns: u64,
    is_read: bool,
}

/// Runs a load; `see` is shown each request that goes, with what still waits.
fn run(
    kind: SchedulerKind,
    weights: Weights,
    steps: Vec<Step>,
    mut see: impl FnMut(&Popped<u64>, &BTreeMap<u64, Known>) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut backlog = Backlog::new(kind, weights).unwrap();
    let mut waiting = BTreeMap::new();
    let (mut number, mut now_ns) = (0, 0);
    let drain = std::iter::once(Step::Pop(u8::MAX));
    for step in steps.into_iter().chain(drain) {
        now_ns += 1000;
        match step {
            Step::Push {
                client,
                op,
                bytes,
                class,
            } => {
                number += 1;
                let is_read = op == Op::Read;
                let in_ns = match class.deadline_us {
                    Some(deadline_us) => u64::from(deadline_us.get()) * 1000,
                    None => default_deadline_ns(class.priority, is_read),
                };
                let known = Known {
                    client,
                    priority: class.priority,
                    deadline_ns: now_ns + in_ns,
                    is_read,
                };
                waiting.insert(number, known);
                prop_assert!(
                    backlog
                        .push(item(number, client, op, bytes, class, now_ns))
                        .is_ok()
                );
            }
            Step::Pop(times) => {
                for _ in 0..times {
                    let Some(popped) = backlog.pop() else { break };
                    let known = waiting.remove(&popped.item.request.context);
                    prop_assert!(known.is_some(), "given out twice");
                    see(&popped, &waiting)?;
                }
            }
        }
        prop_assert_eq!(backlog.len(), waiting.len());
    }
    prop_assert!(backlog.is_empty(), "nothing is lost");
    Ok(())
}

proptest! {
    #[test]
    fn bytes_are_shared_fairly(steps in prop::collection::vec(step(), 1..200)) {
        const LARGEST_BYTES: u64 = 100_000;
        // Bytes given to each pair of clients since both have had requests waiting.
        let mut given: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
        run(SchedulerKind::RoundRobin, Weights::default(), steps, |popped, waiting| {
            let (client, cost_bytes) = (popped.item.client, popped.item.cost_bytes());
            let waits = |client: u64| waiting.values().any(|known| known.client == client);
            for one in 0..6 {
                for other in one + 1..6 {
                    let (of_one, of_other) = given.entry((one, other)).or_default();
                    if client == one {
                        *of_one += cost_bytes;
                    } else if client == other {
                        *of_other += cost_bytes;
                    }
                    prop_assert!(of_one.abs_diff(*of_other) <= 2 * LARGEST_BYTES, "{} {}", of_one, of_other);
                    if !waits(one) || !waits(other) {
                        (*of_one, *of_other) = (0, 0);
                    }
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn no_class_waits_for_ever(
        steps in prop::collection::vec(step(), 1..400),
        high in 1u16..=256,
        medium in 1u16..=256,
        low in 1u16..=256,
    ) {
        let weights = Weights { high, medium, low };
        let mut waited: BTreeMap<Priority, u32> = BTreeMap::new();
        run(SchedulerKind::Priority, weights, steps, |popped, waiting| {
            let given = popped.item.class.priority;
            for priority in [Priority::High, Priority::Medium, Priority::Low] {
                let count = waited.entry(priority).or_default();
                let waits = waiting.values().any(|known| known.priority == priority);
                if given == priority || !waits {
                    *count = 0;
                } else {
                    *count += 1;
                    let bound = longest_wait(weights, priority);
                    prop_assert!(*count <= bound, "{:?} waited for {}, bound {}", priority, count, bound);
                }
            }
            let urgent_waits = waiting.values().any(|known| known.priority == Priority::Urgent);
            let others = waited.entry(Priority::Urgent).or_default();
            *others = if given == Priority::Urgent || !urgent_waits { 0 } else { *others + 1 };
            prop_assert!(*others <= 1, "urgent waits for one at most");
            Ok(())
        })?;
    }

    #[test]
    fn the_earliest_deadline_is_first(steps in prop::collection::vec(step(), 1..200)) {
        run(SchedulerKind::Deadline, Weights::default(), steps, |popped, waiting| {
            let key = (popped.deadline_ns, !popped.item.is_read());
            for known in waiting.values() {
                prop_assert!(key <= (known.deadline_ns, !known.is_read));
            }
            Ok(())
        })?;
    }

    /// Whatever is taken out of turn, the rest has its turn as it should.
    #[test]
    fn who_goes_on_where_another_ends_is_found_and_the_others_keep_their_order(
        steps in prop::collection::vec((0u8..8, 0u64..12, 1u64..4, any::<bool>(), 0u64..4, 0usize..2), 1..300),
    ) {
        let mut backlog = Backlog::with_capacity(SchedulerKind::Deadline, Weights::default(), 1024)
            .unwrap()
            .finding_neighbours();
        // By deadline, whether it is not a read, and number: its first block, how many, and the place of its namespace.
        let mut waiting = BTreeMap::new();
        for (number, (what, slba, blocks, is_read, due_us, place)) in (0..).zip(steps) {
            let op = if is_read { Op::Read } else { Op::Write { fua: false } };
            match what {
                0..4 => {
                    let class = Class { deadline_us: NonZeroU32::new(due_us as u32 + 1), ..Class::default() };
                    let mut item = item(number, number % 3, op, 4096, class, 0);
                    (item.request.slba, item.request.blocks, item.place) = (slba, blocks, place);
                    waiting.insert(((due_us + 1) * 1000, !is_read, number), (slba, blocks, place));
                    prop_assert!(backlog.push(item).is_ok());
                }
                4 => {
                    let first = waiting.pop_first().map(|((_, _, number), _)| number);
                    prop_assert_eq!(pop(&mut backlog).map(|item| item.request.context), first);
                }
                _ => {
                    let wanted = Wanted { place, op, slba, most_blocks: blocks };
                    let known = waiting
                        .iter()
                        .filter(|((_, is_other, _), known)| {
                            *is_other != is_read && (known.0, known.2) == (slba, place) && known.1 <= blocks
                        })
                        .map(|(key, _)| *key)
                        .min_by_key(|(_, _, number)| *number);
                    if let Some(key) = known {
                        waiting.remove(&key);
                    }
                    let found = backlog.pop_next(wanted).map(|popped| popped.item.request.context);
                    prop_assert_eq!(found, known.map(|(_, _, number)| number));
                }
            }
            prop_assert_eq!(backlog.len(), waiting.len());
        }
        let rest: Vec<u64> = std::iter::from_fn(|| pop(&mut backlog)).map(|item| item.request.context).collect();
        let wanted: Vec<u64> = waiting.into_keys().map(|(_, _, number)| number).collect();
        prop_assert_eq!(rest, wanted);
    }

    #[test]
    fn what_moves_to_another_scheduler_is_all_there_once(
        steps in prop::collection::vec(step(), 1..200),
        kinds in prop::collection::vec(0usize..3, 1..4),
    ) {
        let kind = |index: usize| [
            SchedulerKind::RoundRobin,
            SchedulerKind::Priority,
            SchedulerKind::Deadline,
        ][index];
        let mut backlog = backlog(kind(0));
        let mut pushed = Vec::new();
        for (number, step) in (0..).zip(steps) {
            if let Step::Push { client, op, bytes, class } = step {
                backlog.push(item(number, client, op, bytes, class, number)).unwrap();
                pushed.push(number);
            }
        }
        for index in kinds {
            let mut after = Backlog::new(kind(index), Weights::default()).unwrap();
            after.take_over(&mut backlog);
            prop_assert!(backlog.is_empty());
            backlog = after;
        }
        let mut popped: Vec<u64> = std::iter::from_fn(|| pop(&mut backlog))
            .map(|item| item.request.context)
            .collect();
        popped.sort_unstable();
        prop_assert_eq!(popped, pushed);
    }
}
