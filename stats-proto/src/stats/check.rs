#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{OPS, OpStats, QueueCounters, QueueKind, QueueStats, StatsDocument};
use crate::hist::{Histogram, Unit};

/// What does not fit together in a document that claims to be consistent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// The document claims to be consistent and one of its queues does not, or the other way round.
    #[error("snapshot.consistent is {document}, but the queues together are {queues}")]
    Snapshot {
        /// What the document says.
        document: bool,
        /// Whether all queues say they are consistent.
        queues: bool,
    },
    /// Two queues or two namespaces of the same number, or not in ascending order.
    #[error("{place}: its number is not above that of the one before")]
    Order {
        /// Which one.
        place: String,
    },
    /// Queue 0 is not the admin queue, or another one is.
    #[error("queue {qid} is of kind {kind:?}: queue 0 is the admin queue and no other is")]
    Kind {
        /// The queue.
        qid: u16,
        /// What it says it is.
        kind: QueueKind,
    },
    /// An operation that is not in [`OPS`].
    #[error("{place}: the operation {op:?} is unknown")]
    Op {
        /// The queue or namespace.
        place: String,
        /// The name.
        op: String,
    },
    /// Two figures that must be equal are not.
    #[error("{place}: {left} is {left_value}, but {right} is {right_value}")]
    NotEqual {
        /// The queue and, if it is about one, the operation.
        place: String,
        /// What the first figure is.
        left: &'static str,
        /// Its value.
        left_value: u128,
        /// What the other figure is.
        right: &'static str,
        /// Its value.
        right_value: u128,
    },
    /// A figure is above one that bounds it.
    #[error("{place}: {part} is {part_value}, above {whole}, which is {whole_value}")]
    Above {
        /// The queue and, if it is about one, the operation.
        place: String,
        /// The figure.
        part: &'static str,
        /// Its value.
        part_value: u128,
        /// What bounds it.
        whole: &'static str,
        /// Its value.
        whole_value: u128,
    },
    /// A figure is `null` though there is something it describes, or the other way round.
    #[error("{place}: {figure} is {}, but {what} is {value}", if *.known { "known" } else { "null" })]
    Presence {
        /// The queue and, if it is about one, the operation.
        place: String,
        /// The figure.
        figure: &'static str,
        /// Whether it is there.
        known: bool,
        /// What it goes with.
        what: &'static str,
        /// The value of that.
        value: u64,
    },
    /// A histogram in the wrong unit.
    #[error("{place}: {histogram} is in {unit}")]
    Unit {
        /// The queue and, if it is about one, the operation.
        place: String,
        /// The histogram.
        histogram: &'static str,
        /// Its unit.
        unit: Unit,
    },
}

impl StatsDocument {
    /// Checks everything that must hold between the figures of a consistent document. Of a queue that says it
    /// is not consistent, nothing is checked.
    ///
    /// Per queue: `submitted = completed + inflight`; the errors by status, and those by operation, add up to
    /// `completed_error`; the operations' counts add up to `completed`; what is a part of something does not
    /// exceed it. Per operation: the count is that of both histograms (where there are any), and minimum,
    /// maximum and sum agree.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let queues = self.queues.iter().all(|queue| queue.consistent);
        if self.snapshot.consistent != queues {
            return Err(Inconsistency::Snapshot {
                document: self.snapshot.consistent,
                queues,
            });
        }
        ascending(self.queues.iter().map(|queue| u32::from(queue.qid)), "queue")?;
        ascending(
            self.namespaces.iter().map(|namespace| namespace.nsid),
            "namespace",
        )?;
        for queue in &self.queues {
            check_queue(queue)?;
        }
        for namespace in &self.namespaces {
            let ops = namespace.ops.as_ref();
            let place = format!("namespace {}", namespace.nsid);
            check_names(&place, ops.into_iter().flat_map(BTreeMap::keys))?;
            for (op, stats) in ops.into_iter().flatten() {
                let place = Place(format!("{place}, {op}"));
                place.within(("errors", stats.errors), ("count", stats.count))?;
            }
        }
        Ok(())
    }
}

fn ascending(numbers: impl Iterator<Item = u32>, what: &str) -> Result<(), Inconsistency> {
    let mut last = None;
    for number in numbers {
        if last.is_some_and(|last| last >= number) {
            return Err(Inconsistency::Order {
                place: format!("{what} {number}"),
            });
        }
        last = Some(number);
    }
    Ok(())
}

fn check_names<'a>(place: &str, mut names: impl Iterator<Item = &'a String>) -> Result<(), Inconsistency> {
    match names.find(|name| !OPS.contains(&name.as_str())) {
        Some(op) => Err(Inconsistency::Op {
            place: place.to_owned(),
            op: op.clone(),
        }),
        None => Ok(()),
    }
}

fn check_queue(queue: &QueueStats) -> Result<(), Inconsistency> {
    if (queue.qid == 0) != (queue.kind == QueueKind::Admin) {
        return Err(Inconsistency::Kind {
            qid: queue.qid,
            kind: queue.kind,
        });
    }
    let Some(counters) = queue.counters.as_ref().filter(|_| queue.consistent) else {
        return Ok(());
    };
    let place = Place(format!("queue {}", queue.qid));
    check_names(&place.0, counters.ops.keys())?;
    check_sums(&place, counters)?;
    check_bounds(&place, counters, queue.depth)?;
    place.histogram(
        "completions_per_wakeup",
        counters.completions_per_wakeup.as_ref(),
        Unit::Count,
    )?;
    if let Some(histogram) = &counters.completions_per_wakeup {
        place.within(
            ("the count of completions_per_wakeup", histogram.count()),
            ("polls", counters.polls),
        )?;
    }
    counters
        .ops
        .iter()
        .try_for_each(|(op, stats)| check_op(&Place(format!("queue {}, {op}", queue.qid)), stats))
}

fn check_sums(place: &Place, counters: &QueueCounters) -> Result<(), Inconsistency> {
    let over_ops = |of: fn(&OpStats) -> u64| counters.ops.values().map(|op| u128::from(of(op))).sum::<u128>();
    let by_status = counters
        .errors_by_status
        .values()
        .map(|&count| u128::from(count))
        .sum::<u128>();
    let completed = u128::from(counters.completed);
    let errors = u128::from(counters.completed_error);
    let over_or_out = completed + u128::from(counters.inflight);
    place.equal(
        ("submitted", counters.submitted.into()),
        ("completed + inflight", over_or_out),
    )?;
    place.equal(
        ("the sum over ops of count", over_ops(|op| op.count)),
        ("completed", completed),
    )?;
    place.equal(
        ("the sum over ops of errors", over_ops(|op| op.errors)),
        ("completed_error", errors),
    )?;
    place.equal(
        ("the sum of errors_by_status", by_status),
        ("completed_error", errors),
    )
}

fn check_bounds(place: &Place, counters: &QueueCounters, depth: u32) -> Result<(), Inconsistency> {
    place.within(
        ("completed_error", counters.completed_error),
        ("completed", counters.completed),
    )?;
    place.within(
        ("inflight", counters.inflight),
        ("inflight_max", counters.inflight_max),
    )?;
    place.within(("inflight_max", counters.inflight_max), ("depth", depth.into()))?;
    place.within(
        ("host_queued", counters.host_queued),
        ("host_queued_max", counters.host_queued_max),
    )?;
    place.within(("polls_empty", counters.polls_empty), ("polls", counters.polls))?;
    place.within(
        ("spurious_interrupts", counters.spurious_interrupts),
        ("interrupts", counters.interrupts),
    )?;
    place.within(("full_ns", counters.full_ns), ("active_ns", counters.active_ns))?;
    // One doorbell tells of at least one command.
    place.within(
        ("sq_doorbells", counters.sq_doorbells),
        ("submitted", counters.submitted),
    )?;
    place.presence(
        "inflight_age_max_ns",
        counters.inflight_age_max_ns,
        ("inflight", counters.inflight),
    )
}

fn check_op(place: &Place, op: &OpStats) -> Result<(), Inconsistency> {
    place.within(("errors", op.errors), ("count", op.count))?;
    for (name, histogram) in [
        ("latency_device", &op.latency_device),
        ("latency_host", &op.latency_host),
    ] {
        place.histogram(name, histogram.as_ref(), Unit::Ns)?;
        if let Some(histogram) = histogram {
            place.equal(("count", op.count.into()), (name, histogram.count().into()))?;
        }
    }
    place.presence("min_ns", op.min_ns, ("count", op.count))?;
    place.presence("max_ns", op.max_ns, ("count", op.count))?;
    let (Some(min_ns), Some(max_ns)) = (op.min_ns, op.max_ns) else {
        return Ok(());
    };
    place.within(("min_ns", min_ns), ("max_ns", max_ns))?;
    // The sum wraps at 2^64; only where it cannot have done so does it say anything.
    match (op.count.checked_mul(min_ns), op.count.checked_mul(max_ns)) {
        (Some(least), Some(most)) => {
            place.within(("count * min_ns", least), ("sum_ns", op.sum_ns))?;
            place.within(("sum_ns", op.sum_ns), ("count * max_ns", most))
        }
        _ => Ok(()),
    }
}

/// The queue, namespace or operation that a check is about.
struct Place(String);

impl Place {
    fn equal(&self, left: (&'static str, u128), right: (&'static str, u128)) -> Result<(), Inconsistency> {
        if left.1 == right.1 {
            return Ok(());
        }
        Err(Inconsistency::NotEqual {
            place: self.0.clone(),
            left: left.0,
            left_value: left.1,
            right: right.0,
            right_value: right.1,
        })
    }

    fn within(&self, part: (&'static str, u64), whole: (&'static str, u64)) -> Result<(), Inconsistency> {
        if part.1 <= whole.1 {
            return Ok(());
        }
        Err(Inconsistency::Above {
            place: self.0.clone(),
            part: part.0,
            part_value: part.1.into(),
            whole: whole.0,
            whole_value: whole.1.into(),
        })
    }

    /// `figure` is known exactly if the number in `of` is not 0.
    fn presence(
        &self,
        figure: &'static str,
        value: Option<u64>,
        of: (&'static str, u64),
    ) -> Result<(), Inconsistency> {
        if value.is_some() == (of.1 > 0) {
            return Ok(());
        }
        let known = value.is_some();
        Err(Inconsistency::Presence {
            place: self.0.clone(),
            figure,
            known,
            what: of.0,
            value: of.1,
        })
    }

    fn histogram(
        &self,
        name: &'static str,
        histogram: Option<&Histogram>,
        unit: Unit,
    ) -> Result<(), Inconsistency> {
        match histogram.filter(|histogram| histogram.unit() != unit) {
            Some(wrong) => Err(Inconsistency::Unit {
                place: self.0.clone(),
                histogram: name,
                unit: wrong.unit(),
            }),
            None => Ok(()),
        }
    }
}
