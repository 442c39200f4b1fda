use std::collections::BTreeMap;

use super::{IntervalError, OpInterval};
use crate::hist::Histogram;
use crate::per_second;
use crate::stats::{OpStats, Rejected};

/// The growth of one queue's counters.
pub(super) struct Growth {
    /// The queue, for messages.
    pub place: String,
    /// The time between the two snapshots; not 0.
    pub elapsed_ns: u64,
    /// Whether both snapshots of the queue are consistent.
    pub consistent: bool,
}

impl Growth {
    pub fn counter(&self, name: &str, earlier: u64, later: u64) -> Result<u64, IntervalError> {
        later
            .checked_sub(earlier)
            .ok_or_else(|| self.went_back(name, earlier, later))
    }

    /// The growth of a counter that wraps at 2^64. A growth of half the range is taken for a counter that
    /// went back.
    pub fn wrapping(&self, name: &str, earlier: u64, later: u64) -> Result<u64, IntervalError> {
        let growth = later.wrapping_sub(earlier);
        if growth < 1 << 63 {
            Ok(growth)
        } else {
            Err(self.went_back(name, earlier, later))
        }
    }

    /// The growth of a sum over time. Such a sum is brought up to the moment of the snapshot; from figures
    /// that do not fit together it may come out too high, and the next one lower. That is then no growth, not
    /// an error.
    pub fn time(&self, name: &str, earlier: u64, later: u64) -> Result<u64, IntervalError> {
        let growth = self.wrapping(name, earlier, later);
        if self.consistent {
            growth
        } else {
            Ok(growth.unwrap_or(0))
        }
    }

    /// The entries that grew.
    pub fn map(
        &self,
        name: &str,
        earlier: &BTreeMap<String, u64>,
        later: &BTreeMap<String, u64>,
    ) -> Result<BTreeMap<String, u64>, IntervalError> {
        let mut grown = BTreeMap::new();
        for key in earlier.keys().chain(later.keys()) {
            let of = |map: &BTreeMap<String, u64>| map.get(key).copied().unwrap_or(0);
            let growth = self.counter(&format!("{name}.{key}"), of(earlier), of(later))?;
            if growth > 0 {
                grown.insert(key.clone(), growth);
            }
        }
        Ok(grown)
    }

    pub fn rejected(&self, earlier: &Rejected, later: &Rejected) -> Result<u64, IntervalError> {
        let counter = |name: &str, of: fn(&Rejected) -> u64| {
            self.counter(&format!("rejected.{name}"), of(earlier), of(later))
        };
        let grown = [
            counter("unknown_cid", |rejected| rejected.unknown_cid)?,
            counter("stale_cid", |rejected| rejected.stale_cid)?,
            counter("duplicate_cid", |rejected| rejected.duplicate_cid)?,
            counter("bad_sqhd", |rejected| rejected.bad_sqhd)?,
            counter("bad_sqid", |rejected| rejected.bad_sqid)?,
        ];
        Ok(grown.into_iter().fold(0, u64::saturating_add))
    }

    pub fn ops(
        &self,
        earlier: &BTreeMap<String, OpStats>,
        later: &BTreeMap<String, OpStats>,
    ) -> Result<BTreeMap<String, OpInterval>, IntervalError> {
        if let Some((name, gone)) = earlier
            .iter()
            .find(|&(name, op)| op.count > 0 && !later.contains_key(name))
        {
            return Err(self.went_back(&format!("{name}.count"), gone.count, 0));
        }
        later
            .iter()
            .map(|(name, op)| Ok((name.clone(), self.op(name, earlier.get(name), op)?)))
            .collect()
    }

    fn op(&self, name: &str, before: Option<&OpStats>, later: &OpStats) -> Result<OpInterval, IntervalError> {
        let nothing = OpStats::default();
        let earlier = before.unwrap_or(&nothing);
        let counter = |member: &str, of: fn(&OpStats) -> u64| {
            self.counter(&format!("{name}.{member}"), of(earlier), of(later))
        };
        let histogram = |member: &str, of: fn(&OpStats) -> &Option<Histogram>| {
            self.histogram(&format!("{name}.{member}"), before.map(of), of(later))
        };
        let count = counter("count", |op| op.count)?;
        let bytes = counter("bytes", |op| op.bytes)?;
        let sum_ns = self.wrapping(&format!("{name}.sum_ns"), earlier.sum_ns, later.sum_ns)?;
        Ok(OpInterval {
            count,
            bytes,
            errors: counter("errors", |op| op.errors)?,
            iops: per_second(count, self.elapsed_ns),
            bytes_per_s: per_second(bytes, self.elapsed_ns),
            mean_ns: (count > 0).then(|| sum_ns as f64 / count as f64),
            latency_device: histogram("latency_device", |op| &op.latency_device)?,
            latency_host: histogram("latency_host", |op| &op.latency_host)?,
        })
    }

    /// `earlier` is `None` where there was nothing before, and `Some(None)` where what there was is not
    /// known.
    pub fn histogram(
        &self,
        name: &str,
        earlier: Option<&Option<Histogram>>,
        later: &Option<Histogram>,
    ) -> Result<Option<Histogram>, IntervalError> {
        match (earlier, later) {
            (None, later) => Ok(later.clone()),
            (Some(Some(earlier)), Some(later)) => {
                later
                    .subtract(earlier)
                    .map(Some)
                    .map_err(|source| IntervalError::Histogram {
                        histogram: format!("{}: {name}", self.place),
                        source,
                    })
            }
            _ => Ok(None),
        }
    }

    /// The share of the interval. Snapshots take time, so that a queue may be read a little later in the
    /// second one; more than all of the time is still all of it.
    pub fn percent(&self, ns: u64) -> f64 {
        (ns as f64 * 100.0 / self.elapsed_ns as f64).min(100.0)
    }

    fn went_back(&self, counter: &str, earlier: u64, later: u64) -> IntervalError {
        IntervalError::WentBack {
            place: self.place.clone(),
            counter: counter.to_owned(),
            earlier,
            later,
        }
    }
}
