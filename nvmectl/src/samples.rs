//! Documents as a driver would send them, for tests.

use std::collections::BTreeMap;

use stats_proto::Version;
use stats_proto::bench::{
    BenchDevice, BenchJob, BenchJobResult, BenchResult, Depth, Latencies, LatencySummary, Side,
};
use stats_proto::hist::{Histogram, Unit, index_of};
use stats_proto::stats::{
    ControllerInfo, DriverInfo, Events, NamespaceOpStats, NamespaceStats, OpStats, QueueCounters, QueueKind,
    QueueMode, QueueStats, SnapshotInfo, StatsDocument, Time,
};

/// A histogram of `count` values at each of `values_ns`.
pub fn histogram(values_ns: &[u64], count: u64) -> Histogram {
    let mut buckets = BTreeMap::<u64, u64>::new();
    for value in values_ns.iter().filter(|_| count > 0) {
        *buckets.entry(index_of(*value) as u64).or_default() += count;
    }
    Histogram::from_buckets(Unit::Ns, buckets, 0).unwrap()
}

/// A controller that has been up for ten seconds and has done `reads` reads of 4 KiB.
pub fn stats(reads: u64, at_s: u64) -> StatsDocument {
    let op = OpStats {
        count: reads,
        bytes: reads * 4096,
        errors: 0,
        sum_ns: reads * 20_000,
        min_ns: Some(10_000),
        max_ns: Some(30_000),
        latency_device: Some(histogram(&[20_000], reads)),
        latency_host: Some(histogram(&[500], reads)),
    };
    let counters = QueueCounters {
        submitted: reads + 3,
        completed: reads,
        inflight: 3,
        inflight_max: 32,
        inflight_age_max_ns: Some(15_000),
        qd_time_integral_ns: at_s * 16_000_000_000,
        active_ns: at_s * 500_000_000,
        sq_doorbells: reads / 4,
        cq_doorbells: reads / 8,
        polls: reads / 2,
        polls_empty: reads / 4,
        interrupts: 7,
        ops: BTreeMap::from([("read".to_owned(), op)]),
        ..QueueCounters::default()
    };
    StatsDocument {
        schema: Default::default(),
        version: Version::STATS,
        driver: DriverInfo {
            name: "nvme-driver".into(),
            version: "0.1.0".into(),
            features: vec![],
        },
        boot_id: None,
        instance_id: "1".into(),
        generation: 0,
        time: Time {
            monotonic_ns: at_s * 1_000_000_000,
            wall_unix_ns: 0,
            clock: "tsc".into(),
            clock_hz: Some(2_000_000_000),
            started_monotonic_ns: 0,
        },
        snapshot: SnapshotInfo {
            duration_ns: 100,
            consistent: true,
            retries: 0,
        },
        controller: ControllerInfo {
            pci: None,
            backend: "emulated".into(),
            vendor_id: 0x1b36,
            model: "A disk".into(),
            serial: "S1".into(),
            firmware: "1.0".into(),
            state: "ready".into(),
            mdts_bytes: Some(1 << 20),
            irq_mode: "msix".into(),
            numa_node: None,
            scheduler: "cpuaffinity".into(),
        },
        health: None,
        queues: vec![QueueStats {
            qid: 1,
            kind: QueueKind::Io,
            depth: 1023,
            cpu: Some(0),
            vector: Some(1),
            mode: QueueMode::Adaptive,
            consistent: true,
            counters: Some(counters),
        }],
        namespaces: vec![NamespaceStats {
            nsid: 1,
            lba_bytes: 4096,
            blocks: 262_144,
            ops: Some(BTreeMap::from([(
                "read".to_owned(),
                NamespaceOpStats {
                    count: reads,
                    bytes: reads * 4096,
                    errors: 0,
                },
            )])),
        }],
        events: Events::default(),
        clients: None,
        sockets: Vec::new(),
        slow_commands: None,
    }
}

/// The same of a controller that has these namespaces, as the bytes of a document.
pub fn stats_of(nsids: &[u32]) -> Vec<u8> {
    let mut document = stats(0, 10);
    let namespace = document.namespaces.remove(0);
    document.namespaces = nsids
        .iter()
        .map(|&nsid| NamespaceStats {
            nsid,
            ..namespace.clone()
        })
        .collect();
    serde_json::to_vec(&document).unwrap()
}

/// A minute of random reads by `jobs` jobs, some of which failed.
pub fn bench_result(jobs: u32, job: BenchJob) -> BenchResult {
    let elapsed_ns = 10_000_000_000;
    let summary = |values: &[u64]| LatencySummary::new(histogram(values, 1000), None).unwrap();
    let side = Side::new(
        2_000,
        2_000 * 4096,
        BTreeMap::from([("Unrecovered Read Error".to_owned(), 3)]),
        Latencies {
            total: summary(&[20_000, 40_000]),
            device: summary(&[19_000, 39_000]),
            host: summary(&[500]),
        },
        elapsed_ns,
    );
    let jobs: Vec<BenchJobResult> = (0..jobs)
        .map(|number| BenchJobResult {
            job: Some(number),
            qid: Some(1),
            elapsed_ns,
            depth: Depth {
                asked: 32,
                mean: 31.9,
                max: 32,
                device_mean: 31.2,
            },
            read: side.clone(),
            write: Side::empty(),
        })
        .collect();
    BenchResult {
        schema: Default::default(),
        version: Version::CURRENT,
        job,
        device: BenchDevice {
            model: "A disk".into(),
            serial: "S1".into(),
            firmware: "1.0".into(),
            nsid: 1,
            lba_bytes: 4096,
            backend: "emulated".into(),
        },
        total: BenchJobResult::total(&jobs).unwrap(),
        jobs,
    }
}
