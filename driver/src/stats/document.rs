//! From what the queues counted to the document that `stats` shows.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use stats_proto::Version;
use stats_proto::stats::{
    ControllerInfo, DriverInfo, Events, NamespaceStats, QueueKind, QueueMode, QueueStats, SnapshotInfo,
    StatsDocument, StatsSchema, Time,
};

use super::QueueSnapshot;
use super::health::health;
use crate::config::PollingMode;
use crate::driver::Inner;

/// Cargo features that change what the driver does, as far as they are on.
fn features() -> Vec<String> {
    let all = [
        ("performance-counters", cfg!(feature = "performance-counters")),
        ("multi-queue", cfg!(feature = "multi-queue")),
        ("zero-copy", cfg!(feature = "zero-copy")),
        ("nvme-mi", cfg!(feature = "nvme-mi")),
        ("io-uring-compat", cfg!(feature = "io-uring-compat")),
    ];
    all.into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name.to_owned())
        .collect()
}

fn mode_of(mode: PollingMode) -> QueueMode {
    match mode {
        PollingMode::Interrupt => QueueMode::Interrupt,
        PollingMode::Polling => QueueMode::Polling,
        PollingMode::Adaptive => QueueMode::Adaptive,
    }
}

pub(crate) fn render(driver: &Inner, histograms: bool) -> StatsDocument {
    let begun_ns = driver.clock.now_ns();
    let mut admin = driver.admin.stats.take(histograms);
    let mut io: Vec<QueueSnapshot> = driver
        .queues
        .iter()
        .map(|queue| queue.stats.take(histograms))
        .collect();
    // Read after the copies: their sums over time reach up to the time that the document bears.
    let done_ns = driver.clock.now_ns();
    driver.admin.stats.extend(&mut admin, done_ns);
    for (queue, snapshot) in driver.queues.iter().zip(&mut io) {
        queue.stats.extend(snapshot, done_ns);
    }

    let mut queues = vec![QueueStats {
        qid: 0,
        kind: QueueKind::Admin,
        depth: driver.admin.entries,
        cpu: None,
        vector: Some(0),
        mode: QueueMode::Interrupt,
        consistent: consistent(&admin),
        counters: counters(&admin, 0, done_ns, histograms),
    }];
    queues.extend(driver.queues.iter().zip(&io).map(|(queue, snapshot)| QueueStats {
        qid: queue.qid,
        kind: QueueKind::Io,
        depth: queue.entries,
        cpu: queue.cpu,
        vector: Some(queue.vector),
        mode: mode_of(queue.mode),
        consistent: consistent(snapshot),
        counters: counters(snapshot, queue.waiting(), done_ns, histograms),
    }));
    for (queue, stats) in driver.queues.iter().zip(queues.iter_mut().skip(1)) {
        if let Some(counters) = &mut stats.counters {
            counters.host_queued_max = queue.raise_queued_max(counters.host_queued_max);
        }
    }
    let identity = &driver.identity;
    let state = driver.admin.shared.health();
    let failure = driver.admin.shared.failure();
    StatsDocument {
        schema: StatsSchema::NvmeStats,
        version: Version::STATS,
        driver: DriverInfo {
            name: "nvme-driver".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            features: features(),
        },
        boot_id: boot_id(),
        instance_id: driver.instance_id.clone(),
        generation: 0,
        time: Time {
            monotonic_ns: done_ns,
            wall_unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            clock: driver.clock.name().to_owned(),
            clock_hz: driver.clock.hz(),
            started_monotonic_ns: driver.started_ns,
        },
        snapshot: SnapshotInfo {
            duration_ns: done_ns.saturating_sub(begun_ns),
            consistent: queues.iter().all(|queue| queue.consistent),
            retries: retries(&admin) + io.iter().map(retries).sum::<u64>(),
        },
        controller: ControllerInfo {
            pci: identity.pci.clone(),
            backend: identity.backend.to_owned(),
            vendor_id: identity.vendor_id,
            model: identity.model.clone(),
            serial: identity.serial.clone(),
            firmware: identity.firmware.clone(),
            state: state.name().to_owned(),
            mdts_bytes: identity.mdts_bytes,
            irq_mode: identity.irq_mode.to_owned(),
            numa_node: identity.numa_node,
            scheduler: driver.scheduler().to_string(),
        },
        health: driver
            .admin
            .shared
            .smart()
            .and_then(|(read_ns, log)| health(read_ns, &log)),
        namespaces: driver
            .namespaces
            .with_places()
            .into_iter()
            .map(|(namespace, places)| NamespaceStats {
                nsid: namespace.nsid,
                lba_bytes: namespace.lba_bytes() as u32,
                blocks: namespace.blocks,
                ops: namespace_ops(&io, &places),
            })
            .collect(),
        queues,
        events: Events {
            // A controller that fails is reset once, and for good.
            resets: u64::from(failure.is_some()),
            last_reset_reason: failure,
            last_reset_monotonic_ns: None,
            aer_by_type: {
                let counts = driver.admin.shared.event_counts().by_type();
                counts.fold(BTreeMap::new(), |mut by_type, (name, count)| {
                    *by_type.entry(name.to_owned()).or_default() += count;
                    by_type
                })
            },
        },
        // The tree's business, which fills it in.
        clients: None,
        sockets: Vec::new(),
        slow_commands: Some(driver.recorder.recorded()),
    }
}

/// Different for each boot of the machine, where the system says.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(feature = "performance-counters")]
use with_counters::{consistent, counters, namespace_ops, retries};

#[cfg(feature = "performance-counters")]
mod with_counters {
    use std::collections::BTreeMap;

    use nvme_spec::Status;
    use stats_proto::hist::{BUCKETS, Histogram, Unit};
    use stats_proto::stats::{NamespaceOpStats, OpStats, QueueCounters, Rejected};

    use crate::stats::{OpClass, QueueSnapshot};

    pub(in crate::stats) fn consistent(snapshot: &QueueSnapshot) -> bool {
        snapshot.consistent
    }

    pub(in crate::stats) fn retries(snapshot: &QueueSnapshot) -> u64 {
        u64::from(snapshot.retries)
    }

    /// A histogram from its cells: the buckets, then how many values were beyond the last.
    fn histogram(unit: Unit, cells: &[u64]) -> Option<Histogram> {
        if cells.is_empty() {
            return None;
        }
        let (buckets, beyond) = cells.split_at(BUCKETS.min(cells.len()));
        let overflow = beyond.first().copied().unwrap_or(0);
        // An inconsistent copy may hold an overflow without its bucket; it is left out then.
        Histogram::from_counts(unit, buckets.iter().copied(), overflow).ok()
    }

    pub(in crate::stats) fn counters(
        snapshot: &QueueSnapshot,
        in_inbox: u64,
        now_ns: u64,
        histograms: bool,
    ) -> Option<QueueCounters> {
        let QueueSnapshot {
            counters,
            ops,
            statuses,
            other_statuses,
            completions_per_wakeup,
            ..
        } = snapshot;
        let mut errors_by_status: BTreeMap<String, u64> = BTreeMap::new();
        for (code, count) in statuses {
            let status = Status(*code);
            let name = status.name().map_or_else(
                || format!("sct {} sc {}", status.sct(), status.sc()),
                str::to_owned,
            );
            *errors_by_status.entry(name).or_default() += count;
        }
        if *other_statuses > 0 {
            errors_by_status.insert("others".to_owned(), *other_statuses);
        }
        Some(QueueCounters {
            submitted: counters.submitted,
            completed: counters.completed,
            completed_error: counters.completed_error,
            timeouts: counters.timeouts,
            aborts: 0,
            retries: counters.retries,
            errors_by_status,
            rejected: Rejected {
                unknown_cid: counters.unknown_cid,
                stale_cid: counters.stale_cid,
                duplicate_cid: counters.duplicate_cid,
                bad_sqhd: counters.bad_sqhd,
                bad_sqid: counters.bad_sqid,
            },
            inflight: counters.submitted.saturating_sub(counters.completed),
            inflight_max: counters.inflight_max,
            inflight_age_max_ns: (counters.oldest_ns != 0).then(|| now_ns.saturating_sub(counters.oldest_ns)),
            qd_time_integral_ns: counters.qd_time_integral_ns,
            active_ns: counters.active_ns,
            full_ns: counters.full_ns,
            host_queued: counters.host_queued + in_inbox,
            host_queued_max: counters.host_queued_max.max(counters.host_queued + in_inbox),
            class_urgent: counters.class_urgent,
            class_high: counters.class_high,
            class_medium: counters.class_medium,
            class_low: counters.class_low,
            merged: counters.merged,
            deadlines_met: counters.deadlines_met,
            deadlines_missed_host: counters.deadlines_missed_host,
            deadlines_missed_device: counters.deadlines_missed_device,
            sq_doorbells: counters.sq_doorbells,
            cq_doorbells: counters.cq_doorbells,
            polls: counters.polls,
            polls_empty: counters.polls_empty,
            interrupts: counters.interrupts,
            spurious_interrupts: counters.spurious_interrupts,
            bytes_copied: counters.bytes_copied,
            bytes_zero_copy: counters.bytes_zero_copy,
            completions_per_wakeup: histogram(Unit::Count, completions_per_wakeup),
            ops: OpClass::ALL
                .iter()
                .zip(ops)
                .filter(|(_, op)| op.count > 0)
                .map(|(class, op)| {
                    let stats = OpStats {
                        count: op.count,
                        bytes: op.bytes,
                        errors: op.errors,
                        sum_ns: op.sum_ns,
                        min_ns: op.min_ns,
                        max_ns: op.max_ns,
                        latency_device: histogram(Unit::Ns, &op.latency_device).filter(|_| histograms),
                        latency_host: histogram(Unit::Ns, &op.latency_host).filter(|_| histograms),
                    };
                    (class.name().to_owned(), stats)
                })
                .collect(),
        })
    }

    pub(in crate::stats) fn namespace_ops(
        queues: &[QueueSnapshot],
        places: &[usize],
    ) -> Option<BTreeMap<String, NamespaceOpStats>> {
        let mut ops: BTreeMap<String, NamespaceOpStats> = BTreeMap::new();
        let in_queue = |queue: &QueueSnapshot, place: usize| queue.namespaces.get(place).cloned();
        let of_queues = queues
            .iter()
            .flat_map(|queue| places.iter().filter_map(|place| in_queue(queue, *place)));
        for of_queue in of_queues {
            for (class, op) in OpClass::ALL.iter().zip(&of_queue).filter(|(_, op)| op.count > 0) {
                let sum = ops.entry(class.name().to_owned()).or_default();
                sum.count += op.count;
                sum.bytes += op.bytes;
                sum.errors += op.errors;
            }
        }
        Some(ops)
    }
}

#[cfg(not(feature = "performance-counters"))]
use without_counters::{consistent, counters, namespace_ops, retries};

#[cfg(not(feature = "performance-counters"))]
mod without_counters {
    use std::collections::BTreeMap;

    use stats_proto::stats::{NamespaceOpStats, QueueCounters};

    use crate::stats::QueueSnapshot;

    pub(in crate::stats) fn consistent(_: &QueueSnapshot) -> bool {
        true
    }

    pub(in crate::stats) fn retries(_: &QueueSnapshot) -> u64 {
        0
    }

    pub(in crate::stats) fn counters(_: &QueueSnapshot, _: u64, _: u64, _: bool) -> Option<QueueCounters> {
        None
    }

    pub(in crate::stats) fn namespace_ops(
        _: &[QueueSnapshot],
        _: &[usize],
    ) -> Option<BTreeMap<String, NamespaceOpStats>> {
        None
    }
}
