//! Documents for the tests, made as a driver would: by counting commands one by one.

use std::collections::BTreeMap;

use crate::Version;
use crate::bench::{
    BenchDevice, BenchJob, BenchJobResult, BenchResult, BenchResultSchema, Depth, Exact, Latencies,
    LatencySummary, Pattern, Side,
};
use crate::hist::{BUCKETS, Histogram, MAX_VALUE, Unit, index_of};
use crate::stats::{
    ClientCounts, Clients, ControllerInfo, DriverInfo, Events, Health, NamespaceOpStats, NamespaceStats,
    OpStats, QueueCounters, QueueKind, QueueMode, QueueStats, Rejected, SnapshotInfo, SocketStats,
    StatsDocument, StatsSchema, Time,
};

/// A histogram of `values`.
pub fn histogram(unit: Unit, values: &[u64]) -> Histogram {
    let mut counts = vec![0; BUCKETS];
    for &value in values {
        counts[index_of(value)] += 1;
    }
    let overflow = values.iter().filter(|&&value| value > MAX_VALUE).count() as u64;
    Histogram::from_counts(unit, counts, overflow).unwrap()
}

/// One completed command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    pub op: &'static str,
    pub bytes: u64,
    pub device_ns: u64,
    pub host_ns: u64,
    pub status: Option<&'static str>,
}

pub const fn command(op: &'static str, bytes: u64, device_ns: u64, host_ns: u64) -> Command {
    Command {
        op,
        bytes,
        device_ns,
        host_ns,
        status: None,
    }
}

pub const fn failed(op: &'static str, device_ns: u64, status: &'static str) -> Command {
    Command {
        op,
        bytes: 0,
        device_ns,
        host_ns: 150,
        status: Some(status),
    }
}

/// A queue that did `commands` one after the other, found one completion per pass, and has `inflight` more
/// out.
pub fn queue(qid: u16, commands: &[Command], inflight: u64) -> QueueStats {
    let completed = commands.len() as u64;
    let mut counters = QueueCounters {
        submitted: completed + inflight,
        completed,
        inflight,
        inflight_max: inflight.max(1),
        inflight_age_max_ns: (inflight > 0).then_some(5_000),
        sq_doorbells: completed + inflight,
        cq_doorbells: completed,
        polls: completed * 2,
        polls_empty: completed,
        interrupts: completed,
        spurious_interrupts: 0,
        completions_per_wakeup: Some(histogram(Unit::Count, &vec![1; commands.len()])),
        rejected: Rejected {
            stale_cid: 1,
            ..Rejected::default()
        },
        ..QueueCounters::default()
    };
    for command in commands {
        counters.qd_time_integral_ns += command.device_ns;
        counters.active_ns += command.device_ns;
        counters.bytes_zero_copy += command.bytes;
        if let Some(status) = command.status {
            counters.completed_error += 1;
            *counters.errors_by_status.entry(status.to_owned()).or_default() += 1;
        }
        counters.ops.entry(command.op.to_owned()).or_default();
    }
    for (op, stats) in &mut counters.ops {
        *stats = op_stats(
            commands
                .iter()
                .filter(|command| command.op == op)
                .cloned()
                .collect(),
        );
    }
    QueueStats {
        qid,
        kind: if qid == 0 { QueueKind::Admin } else { QueueKind::Io },
        depth: 1023,
        cpu: qid.checked_sub(1).map(u32::from),
        vector: Some(qid),
        mode: QueueMode::Adaptive,
        consistent: true,
        counters: Some(counters),
    }
}

fn op_stats(commands: Vec<Command>) -> OpStats {
    let device: Vec<u64> = commands.iter().map(|command| command.device_ns).collect();
    let host: Vec<u64> = commands.iter().map(|command| command.host_ns).collect();
    OpStats {
        count: commands.len() as u64,
        bytes: commands.iter().map(|command| command.bytes).sum(),
        errors: commands.iter().filter(|command| command.status.is_some()).count() as u64,
        sum_ns: device.iter().sum(),
        min_ns: device.iter().copied().min(),
        max_ns: device.iter().copied().max(),
        latency_device: Some(histogram(Unit::Ns, &device)),
        latency_host: Some(histogram(Unit::Ns, &host)),
    }
}

/// A snapshot of these queues at `monotonic_ns`.
pub fn document_of(monotonic_ns: u64, queues: Vec<QueueStats>) -> StatsDocument {
    StatsDocument {
        schema: StatsSchema::NvmeStats,
        version: Version::STATS,
        driver: DriverInfo {
            name: "nvme-driver".to_owned(),
            version: "0.1.0".to_owned(),
            features: vec!["performance-counters".to_owned()],
        },
        boot_id: Some("6f1c2f5e-0d6a-4f0e-9d0e-9a1c7d3b2a10".to_owned()),
        instance_id: "1f".to_owned(),
        generation: 1,
        time: Time {
            monotonic_ns,
            wall_unix_ns: 1_767_225_600_000_000_123,
            clock: "tsc".to_owned(),
            clock_hz: Some(2_445_000_000),
            started_monotonic_ns: 10,
        },
        snapshot: SnapshotInfo {
            duration_ns: 12_000,
            consistent: true,
            retries: 2,
        },
        controller: ControllerInfo {
            pci: Some("0000:01:00.0".to_owned()),
            backend: "vfio".to_owned(),
            vendor_id: 0x1b36,
            model: "Example SSD".to_owned(),
            serial: "S123".to_owned(),
            firmware: "1.0".to_owned(),
            state: "ready".to_owned(),
            mdts_bytes: Some(524_288),
            irq_mode: "msix".to_owned(),
            numa_node: Some(1),
            scheduler: "cpuaffinity".to_owned(),
        },
        health: Some(health()),
        queues,
        namespaces: vec![NamespaceStats {
            nsid: 1,
            lba_bytes: 4096,
            blocks: 1 << 28,
            ops: Some(BTreeMap::from([(
                "read".to_owned(),
                NamespaceOpStats {
                    count: 3,
                    bytes: (1 << 53) + 1,
                    errors: 1,
                },
            )])),
        }],
        events: Events {
            resets: 1,
            last_reset_reason: Some("CSTS.CFS was set".to_owned()),
            last_reset_monotonic_ns: Some(77),
            aer_by_type: BTreeMap::from([("notice".to_owned(), 2)]),
        },
        clients: Some(Clients {
            root: ClientCounts {
                handles: 2,
                calls: 64,
                bytes: 1 << 60,
                refused: 0,
            },
            others: ClientCounts {
                refused: 5,
                ..ClientCounts::default()
            },
        }),
        slow_commands: Some(3),
        sockets: vec![SocketStats {
            scheme: "nvme".to_owned(),
            requests: (1 << 53) + 1,
            ..SocketStats::default()
        }],
    }
}

fn health() -> Health {
    Health {
        read_monotonic_ns: 1_000,
        critical_warning: 0b10,
        critical_warnings: vec!["temperature".to_owned()],
        temperature_kelvin: Some(313),
        temperature_celsius: Some(40),
        available_spare_percent: 100,
        available_spare_threshold_percent: 10,
        percentage_used: 104,
        data_units_read: 1 << 100,
        bytes_read: Health::data_units_to_bytes(1 << 100),
        data_units_written: 7,
        bytes_written: 3_584_000,
        host_read_commands: 9_007_199_254_740_993,
        host_write_commands: 5,
        controller_busy_minutes: 6,
        power_cycles: 7,
        power_on_hours: 8,
        unsafe_shutdowns: 9,
        media_errors: 0,
        error_log_entries: 11,
        warning_temperature_minutes: 0,
        critical_temperature_minutes: 0,
        temperature_sensors_kelvin: [Some(313), Some(315), None, None, None, None, None, None],
    }
}

/// A consistent document in which every member is there and every kind of value occurs.
pub fn document() -> StatsDocument {
    let io = [
        command("read", 4096, 81_000, 300),
        command("read", 8192, 79_000, 250),
        failed("read", 2_000_000, "Unrecovered Read Error"),
        command("write", 4096, 20_000, 400),
        command("flush", 0, MAX_VALUE + 5, 100),
    ];
    document_of(
        5_000_000_000,
        vec![
            queue(0, &[command("admin", 4096, 1_500, 90)], 0),
            queue(1, &io, 3),
            queue(2, &io[..1], 0),
        ],
    )
}

/// The same without counters, health, or anything else that may be unknown.
pub fn bare_document() -> StatsDocument {
    let mut document = document();
    document.boot_id = None;
    document.time.clock_hz = None;
    document.controller.pci = None;
    document.controller.mdts_bytes = None;
    document.health = None;
    document.events = Events::default();
    for queue in &mut document.queues {
        queue.cpu = None;
        queue.vector = None;
        queue.counters = None;
    }
    for namespace in &mut document.namespaces {
        namespace.ops = None;
    }
    document
}

/// The same without histograms.
pub fn light_document() -> StatsDocument {
    let mut document = document();
    for counters in document
        .queues
        .iter_mut()
        .filter_map(|queue| queue.counters.as_mut())
    {
        counters.completions_per_wakeup = None;
        for op in counters.ops.values_mut() {
            op.latency_device = None;
            op.latency_host = None;
        }
    }
    document
}

pub fn summary(values: &[u64]) -> LatencySummary {
    let exact = values
        .iter()
        .min()
        .zip(values.iter().max())
        .map(|(&min_ns, &max_ns)| Exact {
            min_ns,
            max_ns,
            sum_ns: values.iter().map(|&value| u128::from(value)).sum(),
        });
    LatencySummary::new(histogram(Unit::Ns, values), exact).unwrap()
}

/// Requests of 4 KiB with these device latencies, 1000 ns in the host each.
pub fn side(device_ns: &[u64], elapsed_ns: u64) -> Side {
    let latencies = Latencies {
        total: summary(&device_ns.iter().map(|ns| ns + 1000).collect::<Vec<_>>()),
        device: summary(device_ns),
        host: summary(&vec![1000; device_ns.len()]),
    };
    let ios = device_ns.len() as u64;
    Side::new(ios, ios * 4096, BTreeMap::new(), latencies, elapsed_ns)
}

/// A mix on two queues; the second job met an error and ran half as long as the first.
pub fn bench_result() -> BenchResult {
    let job = BenchJob {
        pattern: Pattern::RandRw,
        read_percent: 70,
        queue_depth: 32,
        jobs: 2,
        time_ns: Some(2_000_000_000),
        warmup_ns: 1_500_000,
        size_bytes: Some(1 << 30),
        destructive: true,
        serial: Some("S123".to_owned()),
        ..BenchJob::default()
    };
    let first = BenchJobResult {
        job: Some(0),
        qid: Some(1),
        elapsed_ns: 2_000_000_000,
        depth: Depth::new(32, 32, 64_000_000_000, 60_000_000_000, 2_000_000_000),
        read: side(&[80_000, 81_000, 82_000, 3_000_000], 2_000_000_000),
        write: side(&[20_000, 21_000], 2_000_000_000),
    };
    let mut second = BenchJobResult {
        job: Some(1),
        qid: Some(2),
        elapsed_ns: 1_000_000_000,
        depth: Depth::new(32, 30, 20_000_000_000, 10_000_000_000, 1_000_000_000),
        read: side(&[500, 90_000], 1_000_000_000),
        write: Side::empty(),
    };
    second.read.errors = 1;
    second
        .read
        .errors_by_status
        .insert("Unrecovered Read Error".to_owned(), 1);
    let jobs = vec![first, second];
    BenchResult {
        schema: BenchResultSchema::NvmeBenchResult,
        version: Version::CURRENT,
        job,
        device: BenchDevice {
            model: "Example SSD".to_owned(),
            serial: "S123".to_owned(),
            firmware: "1.0".to_owned(),
            nsid: 1,
            lba_bytes: 4096,
            backend: "emulated".to_owned(),
        },
        total: BenchJobResult::total(&jobs).unwrap(),
        jobs,
    }
}
