//! What a generator keeps of each answer: counts in arrays that only it writes.

use std::collections::BTreeMap;

use nvme_spec::Status;
use stats_proto::bench::{Exact, Latencies, LatencySummary, Side};
use stats_proto::hist::{BUCKETS, HistError, Histogram, MAX_VALUE, Unit, index_of};

/// One distribution of latencies.
struct Latency {
    counts: Box<[u64]>,
    overflow: u64,
    exact: Exact,
}

impl Latency {
    fn new() -> Self {
        let exact = Exact {
            min_ns: u64::MAX,
            max_ns: 0,
            sum_ns: 0,
        };
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            overflow: 0,
            exact,
        }
    }

    #[inline]
    fn record(&mut self, latency_ns: u64) {
        if let Some(count) = self.counts.get_mut(index_of(latency_ns)) {
            *count += 1;
        }
        self.overflow += u64::from(latency_ns > MAX_VALUE);
        self.exact.min_ns = self.exact.min_ns.min(latency_ns);
        self.exact.max_ns = self.exact.max_ns.max(latency_ns);
        self.exact.sum_ns += u128::from(latency_ns);
    }

    fn summary(&self) -> Result<LatencySummary, HistError> {
        let histogram = Histogram::from_counts(Unit::Ns, self.counts.iter().copied(), self.overflow)?;
        LatencySummary::new(histogram, Some(self.exact))
    }
}

/// The reads or the writes of a generator.
pub(super) struct SideRecord {
    ok: u64,
    errors: u64,
    errors_by_status: BTreeMap<u16, u64>,
    total: Latency,
    device: Latency,
    host: Latency,
}

impl SideRecord {
    pub(super) fn new() -> Self {
        Self {
            ok: 0,
            errors: 0,
            errors_by_status: BTreeMap::new(),
            total: Latency::new(),
            device: Latency::new(),
            host: Latency::new(),
        }
    }

    /// A request that was done. `host_ns` + `device_ns` is its total latency.
    #[inline]
    pub(super) fn done(&mut self, host_ns: u64, device_ns: u64) {
        self.ok += 1;
        self.total.record(host_ns + device_ns);
        self.device.record(device_ns);
        self.host.record(host_ns);
    }

    /// A request that failed: counted, but how fast a device refuses is no latency of its reads or writes.
    #[cold]
    pub(super) fn failed(&mut self, status: Status) {
        self.errors += 1;
        *self.errors_by_status.entry(status.code()).or_default() += 1;
    }

    /// All requests answered.
    #[inline]
    pub(super) fn ios(&self) -> u64 {
        self.ok + self.errors
    }

    pub(super) fn side(&self, block_bytes: u64, elapsed_ns: u64) -> Result<Side, HistError> {
        let latencies = Latencies {
            total: self.total.summary()?,
            device: self.device.summary()?,
            host: self.host.summary()?,
        };
        let errors = self
            .errors_by_status
            .iter()
            .map(|(code, count)| (name(Status(*code)), *count))
            .collect();
        Ok(Side::new(
            self.ios(),
            self.ok.saturating_mul(block_bytes),
            errors,
            latencies,
            elapsed_ns,
        ))
    }
}

/// The name under which documents count a status.
fn name(status: Status) -> String {
    match status.name() {
        Some(name) => name.to_owned(),
        None => format!("sct {} sc {}", status.sct(), status.sc()),
    }
}
