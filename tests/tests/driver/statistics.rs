//! Under full load, readers of the statistics see only what fits together; and in the end everything was counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nvme_driver::driver::Hint;
use nvme_driver::worker::{Answer, Load, LoadPort, LoadState};
use nvme_driver::{Buffer, Config, Driver, Finished, Op, Request};
use nvme_tests::{Answers, Rig};
use stats_proto::stats::StatsDocument;

const READERS: usize = 10;

/// A closed loop on a worker's own thread, until it is told to stop.
struct Loop {
    stop: Arc<AtomicBool>,
    done: Arc<Done>,
    waiting: Vec<Buffer>,
    rng: fastrand::Rng,
    blocks: u64,
}

/// What the clients did.
#[derive(Default)]
struct Done {
    reads: AtomicU64,
    writes: AtomicU64,
    loops_ended: AtomicU64,
}

impl Loop {
    fn send(&mut self, buffer: Buffer, port: &mut LoadPort<'_>) {
        let op = if self.rng.u8(0..10) < 7 {
            Op::Read
        } else {
            Op::Write { fua: false }
        };
        let request = Request {
            op,
            nsid: 1,
            slba: self.rng.u64(0..self.blocks),
            blocks: 1,
            buffer,
            arrived_ns: port.now_ns(),
            context: 0,
        };
        port.submit(request).map_err(|(_, why)| why).unwrap();
    }
}

impl Load for Loop {
    fn turn(&mut self, _now_ns: u64, port: &mut LoadPort<'_>) -> LoadState {
        for buffer in std::mem::take(&mut self.waiting) {
            self.send(buffer, port);
        }
        if self.stop.load(Ordering::Relaxed) && port.inflight() == 0 {
            self.done.loops_ended.fetch_add(1, Ordering::Relaxed);
            return LoadState::Done;
        }
        LoadState::Running
    }

    fn finished(&mut self, done: Finished<u64>, port: &mut LoadPort<'_>) {
        assert_eq!(done.result, Ok(()));
        assert!(done.arrived_ns <= done.doorbell_ns && done.doorbell_ns <= done.completed_ns);
        let count = if done.op == Op::Read {
            &self.done.reads
        } else {
            &self.done.writes
        };
        count.fetch_add(1, Ordering::Relaxed);
        if !self.stop.load(Ordering::Relaxed) {
            self.send(done.buffer, port);
        }
    }

    fn stopped(&mut self, _why: nvme_driver::IoError) {
        self.done.loops_ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every counter of a document by its path, for comparing two documents.
fn counters(document: &StatsDocument) -> BTreeMap<String, u64> {
    let gauges = ["inflight", "inflight_age_max_ns", "host_queued", "min_ns"];
    let mut found = BTreeMap::new();
    for queue in &document.queues {
        if !queue.consistent {
            continue;
        }
        let value = serde_json::to_value(queue).unwrap();
        for (key, value) in value.as_object().unwrap() {
            if let Some(value) = value.as_u64().filter(|_| !gauges.contains(&key.as_str())) {
                found.insert(format!("{}.{key}", queue.qid), value);
            }
        }
        for (op, value) in value["ops"].as_object().unwrap() {
            for (key, value) in value.as_object().unwrap() {
                if let Some(value) = value.as_u64().filter(|_| !gauges.contains(&key.as_str())) {
                    found.insert(format!("{}.{op}.{key}", queue.qid), value);
                }
            }
        }
    }
    found
}

fn read_statistics(driver: &Driver, schema: &jsonschema::Validator, stop: &AtomicBool) -> (u64, u64) {
    let (mut documents, mut consistent) = (0, 0);
    let mut before = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let document = driver.stats(documents % 4 != 3);
        let text = serde_json::to_string(&document).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        if let Err(error) = schema.validate(&value) {
            panic!(
                "a document does not fit the schema: {error} at {}",
                error.instance_path()
            );
        }
        documents += 1;
        consistent += u64::from(document.snapshot.consistent);
        for queue in document.queues.iter().filter(|queue| queue.consistent) {
            let counters = queue.counters.as_ref().unwrap();
            assert_eq!(counters.submitted, counters.completed + counters.inflight);
            let mut sum = 0;
            for (name, op) in &counters.ops {
                sum += op.count;
                for histogram in [&op.latency_device, &op.latency_host].into_iter().flatten() {
                    assert_eq!(histogram.count(), op.count, "queue {} {name}", queue.qid);
                }
            }
            assert_eq!(sum, counters.completed, "queue {}", queue.qid);
        }
        document.check().unwrap();
        let now = counters(&document);
        for (key, value) in &now {
            let earlier = before.get(key).copied().unwrap_or(0);
            assert!(*value >= earlier, "{key} went from {earlier} to {value}");
        }
        before.extend(now);
    }
    (documents, consistent)
}

#[test]
fn ten_readers_under_full_load_see_only_what_fits_together() {
    let rig = Rig::new(
        "size=4MiB,lba=4096",
        &Config {
            num_queues: 2,
            ..Config::default()
        },
    );
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(Done::default());
    for queue in 0..2 {
        let waiting = (0..32)
            .map(|_| Buffer::Dma(rig.driver.allocate(4096).unwrap()))
            .collect();
        let (stop, done, rng) = (
            Arc::clone(&stop),
            Arc::clone(&done),
            fastrand::Rng::with_seed(queue as u64),
        );
        rig.driver.attach(
            queue,
            Box::new(Loop {
                stop,
                done,
                waiting,
                rng,
                blocks: 1024,
            }),
        );
    }
    let schema: serde_json::Value = serde_json::from_str(stats_proto::schema::STATS).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let readers_stop = AtomicBool::new(false);
    let seen = Mutex::new((0, 0));
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                let (documents, consistent) = read_statistics(&rig.driver, &schema, &readers_stop);
                let mut seen = seen.lock().unwrap();
                *seen = (seen.0 + documents, seen.1 + consistent);
            });
        }
        // Enough of both: the load is measured in requests, not in seconds.
        while done.reads.load(Ordering::Relaxed) + done.writes.load(Ordering::Relaxed) < 150_000 {
            std::thread::yield_now();
        }
        readers_stop.store(true, Ordering::Relaxed);
    });
    stop.store(true, Ordering::Relaxed);
    while done.loops_ended.load(Ordering::Relaxed) < 2 {
        std::thread::yield_now();
    }
    let (documents, consistent) = *seen.lock().unwrap();
    assert!(documents >= READERS as u64);
    assert!(
        consistent * 10 >= documents * 9,
        "{consistent} of {documents} documents were consistent"
    );

    // What the queues counted equals what the clients did, exactly, and what the device did.
    let (reads, writes) = (
        done.reads.load(Ordering::Relaxed),
        done.writes.load(Ordering::Relaxed),
    );
    let document = rig.driver.stats(true);
    let sum = |op: &str, of: fn(&stats_proto::stats::OpStats) -> u64| -> u64 {
        let queues = document.queues.iter().filter_map(|queue| queue.counters.as_ref());
        queues.filter_map(|counters| counters.ops.get(op)).map(of).sum()
    };
    assert_eq!(
        (sum("read", |op| op.count), sum("write", |op| op.count)),
        (reads, writes)
    );
    assert_eq!(
        (sum("read", |op| op.bytes), sum("write", |op| op.bytes)),
        (reads * 4096, writes * 4096)
    );
    let namespace = document.namespaces[0].ops.as_ref().unwrap();
    assert_eq!(
        (namespace["read"].count, namespace["write"].bytes),
        (reads, writes * 4096)
    );
    let device = rig.device.counters();
    let opcode = |opcode| device.io_opcode(opcode).completed;
    assert_eq!(
        (
            opcode(nvme_spec::NvmOpcode::READ),
            opcode(nvme_spec::NvmOpcode::WRITE)
        ),
        (reads, writes)
    );
    for queue in document.queues.iter().filter(|queue| queue.qid > 0) {
        let (counters, device) = (queue.counters.as_ref().unwrap(), device.queue(queue.qid));
        assert_eq!(counters.sq_doorbells, device.sq_doorbells, "queue {}", queue.qid);
        assert_eq!(counters.cq_doorbells, device.cq_doorbells, "queue {}", queue.qid);
        assert!(counters.inflight_max <= 32 && counters.inflight_max >= device.depth_max.min(32) / 2);
        assert_eq!(counters.bytes_copied, 0);
        assert_eq!(counters.inflight, 0);
    }
}

/// Keeps answers from being given until it is dropped.
struct Blackhole;

impl Answer for Blackhole {
    fn answer(&self, _tag: u64, _finished: Finished<()>) {}
}

#[test]
fn a_hung_device_shows_at_once() {
    let rig = Rig::new(
        "size=1MiB,latency=600s",
        &Config {
            num_queues: 1,
            ..Config::default()
        },
    );
    let sink: Arc<dyn Answer> = Arc::new(Blackhole);
    for slba in 0..5 {
        let buffer = Buffer::heap(vec![0; 4096]);
        let context = Answers::remote(&sink, slba);
        rig.driver.submit(
            Hint::default(),
            Request {
                op: Op::Read,
                nsid: 1,
                slba,
                blocks: 1,
                buffer,
                arrived_ns: rig.driver.clock().now_ns(),
                context,
            },
        );
    }
    let queue = |document: &StatsDocument| document.queues[1].counters.clone().unwrap();
    let first = loop {
        let document = rig.driver.stats(false);
        if queue(&document).inflight == 5 {
            break document;
        }
        std::thread::yield_now();
    };
    // Some time passes; how much does not matter.
    let later = loop {
        let document = rig.driver.stats(false);
        if document.time.monotonic_ns > first.time.monotonic_ns + 1_000_000 {
            break document;
        }
    };
    let (before, after) = (queue(&first), queue(&later));
    assert!(first.queues[1].consistent && later.queues[1].consistent);
    let elapsed_ns = later.time.monotonic_ns - first.time.monotonic_ns;
    assert!(after.inflight_age_max_ns.unwrap() >= before.inflight_age_max_ns.unwrap() + elapsed_ns);
    // Mean depth of the interval: 5, though nothing completed. The two readings of the clock are not the same moment.
    let depth = (after.qd_time_integral_ns - before.qd_time_integral_ns) as f64 / elapsed_ns as f64;
    assert!((4.5..5.5).contains(&depth), "{depth}");
    assert!(after.active_ns > before.active_ns);
    rig.device.fail();
}
