//! Any sequence of keys, sizes and documents: nothing panics, no figure is absurd, and nothing is drawn beyond the screen.

use proptest::prelude::*;
use stats_proto::stats::{Health, QueueKind, StatsDocument};

use super::super::layout;
use super::super::model::{Action, Model, Sorting, View};
use super::{S, at, document, drawn, gone, names};
use crate::units::Units;

/// A step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Act(u8),
    Size(u16, u16),
    Pass(u64),
    Hear(usize, u64, u64, u8),
    Miss(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u8..17).prop_map(Step::Act),
        (0u16..220, 0u16..50).prop_map(|(columns, lines)| Step::Size(columns, lines)),
        (0u64..5 * S).prop_map(Step::Pass),
        (0usize..3, 0u64..4000, 0u64..20, any::<u8>())
            .prop_map(|(source, reads, at_s, edits)| Step::Hear(source, reads, at_s, edits)),
        (0usize..3).prop_map(Step::Miss),
    ];
    prop::collection::vec(step, 1..40)
}

fn action(number: u8) -> Action {
    const ACTIONS: [Action; 17] = [
        Action::Quit,
        Action::Back,
        Action::Help,
        Action::Show(View::Devices),
        Action::Show(View::Queues),
        Action::SortNext,
        Action::Reverse,
        Action::Pause,
        Action::Faster,
        Action::Slower,
        Action::Scroll(1),
        Action::Scroll(-1),
        Action::Page(1),
        Action::Page(-1),
        Action::Page(isize::MIN),
        Action::Home,
        Action::End,
    ];
    ACTIONS[usize::from(number)]
}

/// A document with some of what a driver, old, new or mad, may send.
fn edited(reads: u64, at_s: u64, edits: u8) -> Box<StatsDocument> {
    let mut document = document(reads, at_s);
    let counters = document.queues[0].counters.as_mut().unwrap();
    match edits % 8 {
        0 => document.queues[0].counters = None,
        1 => counters.ops.clear(),
        2 => {
            counters.qd_time_integral_ns = u64::MAX - reads;
            counters.active_ns = u64::MAX;
            counters.inflight = u64::MAX;
            counters.completed_error = u64::MAX;
        }
        3 => {
            let op = counters.ops.get_mut("read").unwrap();
            (op.latency_device, op.latency_host, op.sum_ns) = (None, None, u64::MAX);
        }
        4 => {
            let queue = document.queues[0].clone();
            document.queues = (0..300)
                .map(|qid| {
                    let mut queue = queue.clone();
                    queue.qid = qid;
                    queue.kind = if qid == 0 { QueueKind::Admin } else { QueueKind::Io };
                    queue
                })
                .collect();
        }
        5 => document.queues.clear(),
        _ => {}
    }
    match edits / 8 % 4 {
        0 => document.namespaces.clear(),
        1 => document.namespaces[0].ops = None,
        2 => document.instance_id = edits.to_string(),
        _ => {}
    }
    document.snapshot.consistent = edits < 128;
    document.generation = u64::from(edits / 64);
    if (edits / 32).is_multiple_of(2) {
        document.time.monotonic_ns = document.time.monotonic_ns.wrapping_add(u64::from(edits));
        document.health = health();
    }
    document
}

fn health() -> Option<Health> {
    serde_json::from_value(serde_json::json!({
        "read_monotonic_ns": 1, "critical_warning": 0, "critical_warnings": [], "temperature_kelvin": 65_535,
        "temperature_celsius": 65_262, "available_spare_percent": 100, "available_spare_threshold_percent": 10,
        "percentage_used": 1, "data_units_read": "1", "bytes_read": "512000", "data_units_written": "1",
        "bytes_written": "512000", "host_read_commands": "1", "host_write_commands": "1",
        "controller_busy_minutes": "0", "power_cycles": "1", "power_on_hours": "1", "unsafe_shutdowns": "0",
        "media_errors": "0", "error_log_entries": "0", "warning_temperature_minutes": 0,
        "critical_temperature_minutes": 0,
        "temperature_sensors_kelvin": [null, null, null, null, null, null, null, null]
    }))
    .unwrap()
}

/// Every figure of a row in JSON: none is below 0 but a temperature, and none is anything but a number or null.
fn check_figures(row: &serde_json::Value) -> Result<(), TestCaseError> {
    for (key, value) in row.as_object().unwrap() {
        if let Some(number) = value.as_f64() {
            prop_assert!(number.is_finite() && number >= 0.0, "{key}: {number}");
        }
        if key.ends_with("_percent") {
            prop_assert!(
                value.as_f64().is_none_or(|percent| percent <= 100.0),
                "{key}: {value}"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_keys_sizes_and_documents_are_taken(steps in steps()) {
        let mut model =
            Model::new(names(&["nvme", "nvme.b", "nvme.c"]), S, View::Devices, Sorting::default());
        let mut now = at(0);
        for step in steps {
            match step {
                Step::Act(number) => model.act(action(number), now),
                Step::Size(columns, lines) => model.resize(columns, lines),
                Step::Pass(ns) => {
                    now.monotonic_ns += ns;
                    model.turn(now);
                }
                Step::Hear(source, reads, at_s, edits) => model.hear(source, Ok(edited(reads, at_s, edits)), now),
                Step::Miss(source) => model.hear(source, Err(gone()), now),
            }
            let (columns, lines) = model.size();
            let text = layout::lines(&mut model, now, Units::Iec);
            prop_assert!(text.len() <= usize::from(lines), "{} lines of {lines}", text.len());
            for line in &text {
                let width: usize = line.iter().map(|(text, _)| text.chars().count()).sum();
                prop_assert!(width <= usize::from(columns), "{width} of {columns}: {line:?}");
            }
            let shown = model.rows(now);
            for (row, history) in &shown.devices {
                check_figures(&serde_json::to_value(row).unwrap())?;
                prop_assert!(history.iter().flatten().all(|iops| iops.is_finite() && *iops >= 0.0));
            }
            for row in &shown.queues {
                check_figures(&serde_json::to_value(row).unwrap())?;
            }
        }
        // And once more on a terminal.
        let (columns, lines) = model.size();
        drawn(&mut model, now, columns, lines);
    }
}
