//! Queues of the controller's own classes.

use nvme_driver::Config;
use nvme_driver::config::SchedulerKind;
use nvme_driver::driver::{Class, Hint, Priority};
use nvme_driver::{Buffer, Op, Request};
use nvme_tests::{Answers, Rig};

/// How many commands each of the I/O queues has fetched, after eight reads of each class.
fn fetched(spec: &str, queues: u16, scheduler: SchedulerKind) -> Vec<u64> {
    let config = Config {
        num_queues: queues,
        scheduler,
        ..Config::default()
    };
    let rig = Rig::new(spec, &config);
    let answers = Answers::default();
    let sink = answers.sink();
    for priority in Priority::ALL {
        for number in 0..8 {
            let request = Request {
                op: Op::Read,
                nsid: 1,
                slba: number,
                blocks: 1,
                buffer: Buffer::heap(vec![0; 4096]),
                arrived_ns: rig.driver.clock().now_ns(),
                context: Answers::remote(&sink, number),
            };
            let hint = Hint {
                cpu: Some(number as u32),
                class: Class {
                    priority,
                    ..Class::default()
                },
                ..Hint::default()
            };
            rig.driver.submit(hint, request);
            assert_eq!(answers.next().1.result, Ok(()));
        }
    }
    let counters = rig.device.counters();
    let io = counters
        .queues
        .iter()
        .filter(|queue| (1..=queues).contains(&queue.qid));
    let fetched = io.map(|queue| queue.fetched).collect();
    rig.driver.shutdown().unwrap();
    fetched
}

#[test]
fn requests_go_to_queues_of_their_class_where_the_controller_has_them() {
    // Urgent has queues 1 and 5, high 2 and 6, medium and low one each.
    let with = fetched("size=1MiB,wrr=on,queues=6", 6, SchedulerKind::Priority);
    assert_eq!(with, [4, 4, 8, 8, 4, 4]);
    // With too few queues, without such classes, or under another scheduler the CPU chooses.
    let few = fetched("size=1MiB,wrr=on,queues=2", 2, SchedulerKind::Priority);
    assert_eq!(few, [16, 16]);
    for (spec, scheduler) in [
        ("size=1MiB,queues=8", SchedulerKind::Priority),
        ("size=1MiB,queues=8,wrr=on", SchedulerKind::CpuAffinity),
    ] {
        assert_eq!(fetched(spec, 8, scheduler), [4; 8], "{spec}");
    }
}
