//! A driver that has nothing to do, or can do nothing, costs next to nothing. A test program of its own, and one test:
//! what others do must not count.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use nvme_driver::config::PollingMode;
use nvme_driver::driver::Hint;
use nvme_driver::{Buffer, Config, IoError, Op, Request};
use nvme_tests::{Answers, Rig};

/// Time on a processor of all threads of this process that bear the driver's or the device's names, in nanoseconds.
fn cpu_ns() -> u64 {
    let mut sum = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("nvme-") {
            let schedstat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += schedstat
                .split(' ')
                .next()
                .and_then(|ns| ns.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    sum
}

/// The part of a processor that is used, once everybody had the time to fall asleep. What is measured is time on a
/// processor, not time that passes, so a slow machine does not matter.
fn used() -> f64 {
    std::thread::sleep(Duration::from_millis(300));
    let (begun, begun_ns) = (Instant::now(), cpu_ns());
    std::thread::sleep(Duration::from_secs(2));
    (cpu_ns() - begun_ns) as f64 / begun.elapsed().as_nanos() as f64
}

#[test]
fn who_has_nothing_to_do_sleeps() {
    let modes = [
        PollingMode::Adaptive,
        PollingMode::Interrupt,
        PollingMode::Polling,
    ];
    let rigs = modes.map(|polling| {
        Rig::new(
            "size=1MiB,queues=4",
            &Config {
                num_queues: 4,
                polling: polling.into(),
                ..Config::default()
            },
        )
    });
    // Three drivers and three devices; 2% is allowed for one.
    let idle = used();
    assert!(
        idle < 0.02,
        "idle drivers used {:.1}% of a processor",
        idle * 100.0
    );
    drop(rigs);

    // A full queue on a device that hangs, and more in the inbox than there is room for.
    let rig = Rig::new(
        "size=1MiB,latency=600s",
        &Config {
            num_queues: 1,
            queue_depth: 4,
            ..Config::default()
        },
    );
    let answers = Answers::default();
    let sink = answers.sink();
    for tag in 0..300 {
        let context = Answers::remote(&sink, tag);
        let buffer = Buffer::heap(vec![0; 4096]);
        let request = Request {
            op: Op::Read,
            nsid: 1,
            slba: 0,
            blocks: 1,
            buffer,
            arrived_ns: 0,
            context,
        };
        rig.driver.submit(Hint::default(), request);
    }
    let hung = used();
    assert!(
        hung < 0.02,
        "a driver that waits used {:.1}% of a processor",
        hung * 100.0
    );
    #[cfg(feature = "performance-counters")]
    {
        let counters = rig.driver.stats(false).queues[1].counters.clone().unwrap();
        assert_eq!((counters.inflight, counters.host_queued), (3, 297));
        assert!(
            counters.full_ns > 1_000_000_000,
            "a full queue counts as full while it hangs"
        );
    }
    rig.device.fail();
    for _ in 0..300 {
        assert_eq!(answers.next().1.result, Err(IoError::Lost));
    }
}
