//! The statistics since the driver started, as tables.

use stats_proto::hist::Histogram;
use stats_proto::stats::{OpStats, QueueCounters, QueueKind, QueueMode, StatsDocument};

use crate::style::{Align, Style, Tone, tone_of_state};
use crate::units::span;

/// The text of `document`, of the driver behind `scheme`.
pub fn text(document: &StatsDocument, scheme: &str, style: &Style) -> String {
    let mut out = head(document, style);
    out.push_str(&queues(document, style));
    if document.queues.iter().all(|queue| queue.counters.is_none()) {
        out.push_str("\nthe driver was built without the feature performance-counters: it counts nothing\n");
    }
    out.push_str(&operations(document, style));
    out.push_str(&namespaces(document, scheme, style));
    out.push_str(&troubles(document, style));
    out
}

fn head(document: &StatsDocument, style: &Style) -> String {
    let (controller, time, events) = (&document.controller, &document.time, &document.events);
    let mut facts = vec![
        format!(
            "up {}",
            span(time.monotonic_ns.saturating_sub(time.started_monotonic_ns))
        ),
        format!("scheduler {}", controller.scheduler),
        format!("interrupts {}", controller.irq_mode),
        format!("clock {}", time.clock),
        format!("resets {}", events.resets),
    ];
    if !document.snapshot.consistent {
        facts.push(style.paint(Tone::Warning, "snapshot not consistent"));
    }
    if let Some(celsius) = document
        .health
        .as_ref()
        .and_then(|health| health.temperature_celsius)
    {
        facts.push(format!("{celsius} \u{b0}C"));
    }
    format!(
        "{}, serial {}, firmware {}, {}, {}\n{}\n\n",
        style.paint(Tone::Heading, &controller.model),
        controller.serial,
        controller.firmware,
        controller.backend,
        style.paint(tone_of_state(&controller.state), &controller.state),
        facts.join(", "),
    )
}

fn queues(document: &StatsDocument, style: &Style) -> String {
    let mut table = style.table(&[
        ("QUEUE", Align::Left),
        ("CPU", Align::Right),
        ("MODE", Align::Left),
        ("DEPTH", Align::Right),
        ("SUBMITTED", Align::Right),
        ("ERRORS", Align::Right),
        ("IN FLIGHT", Align::Right),
        ("MOST", Align::Right),
        ("OLDEST", Align::Right),
        ("MEAN QD", Align::Right),
        ("ACTIVE", Align::Right),
        ("DOORBELLS", Align::Right),
        ("POLLS", Align::Right),
        ("EMPTY", Align::Right),
        ("INTERRUPTS", Align::Right),
    ]);
    let time = &document.time;
    let elapsed_ns = time.monotonic_ns.saturating_sub(time.started_monotonic_ns);
    for queue in &document.queues {
        let mut row = vec![
            match queue.kind {
                QueueKind::Admin => format!("{} admin", queue.qid),
                QueueKind::Io => queue.qid.to_string(),
            },
            or_dash(queue.cpu),
            mode(queue.mode).to_owned(),
            queue.depth.to_string(),
        ];
        match &queue.counters {
            Some(counters) => row.extend(counted(counters, elapsed_ns, style)),
            None => row.extend(std::iter::repeat_n("-".to_owned(), 11)),
        }
        table.row(row);
    }
    table.lines(0)
}

fn counted(counters: &QueueCounters, elapsed_ns: u64, style: &Style) -> [String; 11] {
    let count = |count: u64| style.units.count(count as f64);
    let percent = |part: u64, whole: u64| {
        if whole == 0 {
            "-".to_owned()
        } else {
            percent(part, whole)
        }
    };
    [
        count(counters.submitted),
        counters.completed_error.to_string(),
        counters.inflight.to_string(),
        counters.inflight_max.to_string(),
        counters
            .inflight_age_max_ns
            .map_or_else(|| "-".to_owned(), |ns| style.units.duration(ns as f64)),
        mean_depth(counters.qd_time_integral_ns, elapsed_ns),
        percent(counters.active_ns, elapsed_ns),
        count(counters.sq_doorbells),
        count(counters.polls),
        percent(counters.polls_empty, counters.polls),
        count(counters.interrupts),
    ]
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}%", part as f64 * 100.0 / whole as f64)
}

fn mean_depth(integral_ns: u64, elapsed_ns: u64) -> String {
    if elapsed_ns == 0 {
        "-".to_owned()
    } else {
        format!("{:.2}", integral_ns as f64 / elapsed_ns as f64)
    }
}

fn operations(document: &StatsDocument, style: &Style) -> String {
    let mut table = style.table(&[
        ("QUEUE", Align::Left),
        ("OPERATION", Align::Left),
        ("COUNT", Align::Right),
        ("BYTES", Align::Right),
        ("ERRORS", Align::Right),
        ("MIN", Align::Right),
        ("MEAN", Align::Right),
        ("P50", Align::Right),
        ("P99", Align::Right),
        ("P99.9", Align::Right),
        ("MAX", Align::Right),
        ("HOST P99", Align::Right),
    ]);
    let mut any = false;
    for queue in &document.queues {
        let counted = queue
            .counters
            .iter()
            .flat_map(|counters| &counters.ops)
            .filter(|(_, op)| op.count > 0);
        for (name, op) in counted {
            any = true;
            table.row(operation(queue.qid, name, op, style));
        }
    }
    if any {
        format!("\n{}", table.lines(0))
    } else {
        String::new()
    }
}

fn operation(qid: u16, name: &str, op: &OpStats, style: &Style) -> [String; 12] {
    let units = style.units;
    let ns = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), |ns| units.duration(ns as f64));
    let quantile = |histogram: &Option<Histogram>, q: f64| ns(quantile(histogram.as_ref(), q));
    [
        qid.to_string(),
        name.to_owned(),
        units.count(op.count as f64),
        units.bytes(u128::from(op.bytes)),
        op.errors.to_string(),
        ns(op.min_ns),
        units.duration(op.sum_ns as f64 / op.count as f64),
        quantile(&op.latency_device, 0.5),
        quantile(&op.latency_device, 0.99),
        quantile(&op.latency_device, 0.999),
        ns(op.max_ns),
        quantile(&op.latency_host, 0.99),
    ]
}

/// A quantile that enough values stand behind: ten beyond it.
pub fn quantile(histogram: Option<&Histogram>, q: f64) -> Option<u64> {
    let histogram = histogram?;
    if is_backed(q, histogram.count()) {
        histogram.quantile(q)
    } else {
        None
    }
}

/// Whether of `count` values ten lie beyond the quantile `q`. One that fewer stand behind is chance.
pub fn is_backed(q: f64, count: u64) -> bool {
    count as f64 >= (10.0 / (1.0 - q)).round()
}

fn namespaces(document: &StatsDocument, scheme: &str, style: &Style) -> String {
    let mut table = style.table(&[
        ("NAMESPACE", Align::Left),
        ("SIZE", Align::Right),
        ("BLOCK", Align::Right),
        ("OPERATION", Align::Left),
        ("COUNT", Align::Right),
        ("BYTES", Align::Right),
        ("ERRORS", Align::Right),
    ]);
    let units = style.units;
    for namespace in &document.namespaces {
        let size = u128::from(namespace.blocks) * u128::from(namespace.lba_bytes);
        let about = [
            format!("{scheme}:{}", namespace.nsid),
            units.bytes(size),
            units.bytes(u128::from(namespace.lba_bytes)),
        ];
        let counted: Vec<_> = namespace
            .ops
            .iter()
            .flatten()
            .filter(|(_, op)| op.count > 0)
            .collect();
        if counted.is_empty() {
            table.row(about.into_iter().chain(std::iter::repeat_n("-".to_owned(), 4)));
            continue;
        }
        for (name, op) in counted {
            table.row(about.clone().into_iter().chain([
                name.clone(),
                units.count(op.count as f64),
                units.bytes(u128::from(op.bytes)),
                op.errors.to_string(),
            ]));
        }
    }
    if document.namespaces.is_empty() {
        String::new()
    } else {
        format!("\n{}", table.lines(0))
    }
}

/// What went wrong, only where something did.
fn troubles(document: &StatsDocument, style: &Style) -> String {
    let mut lines = Vec::new();
    for queue in &document.queues {
        let Some(counters) = &queue.counters else { continue };
        let rejected = &counters.rejected;
        let counts = [
            ("timeouts", counters.timeouts),
            ("aborts", counters.aborts),
            ("retries", counters.retries),
            ("spurious interrupts", counters.spurious_interrupts),
            ("completions with an unknown command id", rejected.unknown_cid),
            ("completions with a stale command id", rejected.stale_cid),
            ("duplicate completions", rejected.duplicate_cid),
            ("completions with a bad SQHD", rejected.bad_sqhd),
            ("completions with a bad SQID", rejected.bad_sqid),
        ];
        for (what, count) in counts.iter().filter(|(_, count)| *count > 0) {
            lines.push(format!("queue {}: {count} {what}", queue.qid));
        }
        for (status, count) in &counters.errors_by_status {
            lines.push(format!("queue {}: {count} {status}", queue.qid));
        }
    }
    for (kind, count) in &document.events.aer_by_type {
        lines.push(format!("events: {count} {kind}"));
    }
    if let Some(reason) = &document.events.last_reset_reason {
        lines.push(format!("last reset: {reason}"));
    }
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "\n{}\n",
        lines
            .iter()
            .map(|line| style.paint(Tone::Warning, line))
            .collect::<Vec<_>>()
            .join("\n")
    )
}

fn mode(mode: QueueMode) -> &'static str {
    match mode {
        QueueMode::Interrupt => "interrupt",
        QueueMode::Polling => "polling",
        QueueMode::Adaptive => "adaptive",
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
