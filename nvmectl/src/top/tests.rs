//! The model fed with documents of which it is known what they should make, and drawn on terminals of many sizes.

mod random;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use stats_proto::stats::StatsDocument;

use super::model::{
    Absence, Action, INTERVAL_MAX_NS, INTERVAL_MIN_NS, Model, Now, Sorting, SourceName, View,
};
use super::rows::{DeviceRow, QueueRow};
use super::ui;
use crate::samples;
use crate::style::Style;
use crate::units::Units;

const S: u64 = 1_000_000_000;

fn at(monotonic_ns: u64) -> Now {
    Now { monotonic_ns }
}

fn names(schemes: &[&str]) -> Vec<SourceName> {
    schemes
        .iter()
        .map(|scheme| SourceName {
            scheme: (*scheme).to_owned(),
            nsid: None,
        })
        .collect()
}

fn model() -> Model {
    Model::new(names(&["nvme"]), S, View::Devices, Sorting::default())
}

/// 1000 reads a second, 16 in flight on average, as `samples::stats` has it.
fn heard(seconds: std::ops::RangeInclusive<u64>) -> Model {
    let mut model = model();
    for second in seconds {
        model.turn(at(second * S));
        model.hear(0, Ok(document(1000 * second, second)), at(second * S));
    }
    model
}

fn document(reads: u64, at_s: u64) -> Box<StatsDocument> {
    Box::new(samples::stats(reads, at_s))
}

fn gone() -> Absence {
    Absence {
        state: "gone",
        why: "the driver that served /run/scheme/nvme has ended".to_owned(),
    }
}

fn controller(model: &Model, now: Now) -> DeviceRow {
    model.rows(now).devices[0].0.clone()
}

fn queue(model: &Model, now: Now) -> QueueRow {
    model.rows(now).queues[0].clone()
}

fn drawn(model: &mut Model, now: Now, columns: u16, lines: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal
        .draw(|frame| ui::draw(frame, model, now, &Style::plain(Units::Iec)))
        .unwrap();
    let buffer = terminal.backend().buffer();
    (0..lines)
        .map(|line| {
            let cells = (0..columns).map(|column| buffer[(column, line)].symbol());
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect()
}

#[test]
fn an_interval_is_the_difference_of_two_documents() {
    let mut model = heard(1..=1);
    let first = controller(&model, at(S));
    assert_eq!((first.read_iops, first.mean_queue_depth), (None, None));
    assert_eq!(
        (first.inflight, first.inflight_age_max_ns),
        (Some(3), Some(15_000)),
        "gauges need no interval"
    );

    model.hear(0, Ok(document(3000, 2)), at(2 * S));
    let row = controller(&model, at(2 * S));
    assert_eq!((row.read_iops, row.write_iops), (Some(2000.0), Some(0.0)));
    assert_eq!(row.read_bytes_per_s, Some(2000.0 * 4096.0));
    assert_eq!(row.mean_queue_depth, Some(16.0));
    assert_eq!(row.active_percent, Some(50.0));
    // 20 us are in the bucket that ends at 20095 ns.
    assert_eq!(
        (row.read_p50_ns, row.read_p99_ns, row.write_p50_ns),
        (Some(20_095), Some(20_095), None)
    );
    // 2000/s of 20 us each are 0.04 in flight, and not 16.
    assert!((row.expected_queue_depth.unwrap() - 0.04).abs() < 1e-9);
    assert!(row.depth_differs);
    let queue = queue(&model, at(2 * S));
    assert_eq!((queue.iops, queue.submits_per_s), (Some(2000.0), Some(2000.0)));
    assert_eq!(queue.doorbells_per_s, Some(750.0));
    assert_eq!(queue.polls_empty_percent, Some(50.0));
    assert_eq!(
        queue.completions_per_interrupt, None,
        "there was no interrupt in it"
    );
    assert_eq!(queue.p999_ns, None, "2000 commands are no base for a p99.9");
    let namespace = &model.rows(at(2 * S)).devices[1].0;
    assert_eq!(
        (namespace.device.as_str(), namespace.read_iops),
        ("nvme:1", Some(2000.0))
    );
}

#[test]
fn a_percentile_needs_ten_commands_beyond_it() {
    for (reads, p50, p99) in [
        (19, false, false),
        (20, true, false),
        (999, true, false),
        (1000, true, true),
    ] {
        let mut model = model();
        model.hear(0, Ok(document(500, 1)), at(S));
        model.hear(0, Ok(document(500 + reads, 2)), at(2 * S));
        let row = controller(&model, at(2 * S));
        assert_eq!(
            (row.read_p50_ns.is_some(), row.read_p99_ns.is_some()),
            (p50, p99),
            "{reads}"
        );
    }
}

#[test]
fn littles_law_is_checked_to_a_tenth() {
    // Of 1 s of 1000 reads that took `latency` each, with a mean depth of 1.
    let differs = |latency_ns: u64| {
        let mut earlier = document(0, 1);
        let mut later = document(1000, 2);
        for (document, integral_ns, sum_ns) in [(&mut earlier, 0, 0), (&mut later, S, 1000 * latency_ns)] {
            let counters = document.queues[0].counters.as_mut().unwrap();
            counters.qd_time_integral_ns = integral_ns;
            counters.ops.get_mut("read").unwrap().sum_ns = sum_ns;
        }
        let mut model = model();
        model.hear(0, Ok(earlier), at(S));
        model.hear(0, Ok(later), at(2 * S));
        assert_eq!(
            controller(&model, at(2 * S)).depth_differs,
            queue(&model, at(2 * S)).depth_differs
        );
        controller(&model, at(2 * S)).depth_differs
    };
    for (latency_us, wanted) in [
        (1000, false),
        (910, false),
        (890, true),
        (1090, false),
        (1120, true),
        (0, true),
    ] {
        assert_eq!(differs(latency_us * 1000), wanted, "{latency_us}");
    }
}

#[test]
fn a_hanging_device_is_seen() {
    let mut model = heard(1..=2);
    let mut hanging = document(2000, 3);
    let counters = hanging.queues[0].counters.as_mut().unwrap();
    counters.inflight_age_max_ns = Some(S);
    model.hear(0, Ok(hanging), at(3 * S));
    let row = controller(&model, at(3 * S));
    assert_eq!((row.read_iops, row.mean_queue_depth), (Some(0.0), Some(16.0)));
    assert_eq!((row.inflight, row.inflight_age_max_ns), (Some(3), Some(S)));
    assert!(row.depth_differs);
    assert_eq!(row.read_p50_ns, None);
}

#[test]
fn a_new_life_of_the_driver_or_the_controller_begins_an_interval_anew() {
    type Edit = fn(&mut StatsDocument);
    let edits: [(&str, Edit); 4] = [
        ("instance", |document| document.instance_id = "2".to_owned()),
        ("boot", |document| document.boot_id = Some("b".to_owned())),
        ("generation", |document| document.generation += 1),
        ("generation back", |document| document.generation = 0),
    ];
    for (what, edit) in edits {
        let mut model = model();
        for second in 1..=2 {
            let mut document = document(1_000_000 * second, second);
            document.generation = 3;
            model.hear(0, Ok(document), at(second * S));
        }
        assert!(controller(&model, at(2 * S)).read_iops.is_some());
        // Fewer reads than ever, at a later time; after a reset counters carry on.
        let reads = if what.starts_with("generation") {
            3_000_000
        } else {
            10
        };
        let mut anew = document(reads, 3);
        anew.generation = 3;
        edit(&mut anew);
        let mut next = anew.clone();
        next.time.monotonic_ns += S;
        next.queues[0].counters.as_mut().unwrap().completed += 5;
        model.hear(0, Ok(anew), at(3 * S));
        assert_eq!(controller(&model, at(3 * S)).read_iops, None, "{what}");
        assert_eq!(controller(&model, at(3 * S)).inflight, Some(3), "{what}");
        model.hear(0, Ok(next), at(4 * S));
        assert_eq!(queue(&model, at(4 * S)).iops, Some(5.0), "{what}");
    }
}

#[test]
fn a_document_that_goes_back_is_no_interval() {
    let mut model = heard(1..=2);
    model.hear(0, Ok(document(1500, 3)), at(3 * S));
    assert_eq!(
        controller(&model, at(3 * S)).read_iops,
        None,
        "fewer reads than before"
    );
    model.hear(0, Ok(document(1600, 4)), at(4 * S));
    assert_eq!(controller(&model, at(4 * S)).read_iops, Some(100.0));
    // The same document again is no interval of no length.
    model.hear(0, Ok(document(1600, 4)), at(5 * S));
    assert_eq!(controller(&model, at(5 * S)).read_iops, None);
    // Two that are next to nothing apart make no rate; the one after them does.
    let mut near = document(1700, 4);
    near.time.monotonic_ns += 10;
    model.hear(0, Ok(near), at(6 * S));
    assert_eq!(controller(&model, at(6 * S)).read_iops, None);
    model.hear(0, Ok(document(1800, 6)), at(7 * S));
    assert_eq!(controller(&model, at(7 * S)).read_iops, Some(100.0));
}

#[test]
fn a_driver_that_goes_away_stays_in_the_list_and_comes_back() {
    let mut model = heard(1..=3);
    for second in 4..=6 {
        model.hear(0, Err(gone()), at(second * S));
    }
    let row = controller(&model, at(7 * S));
    assert_eq!((row.state.as_str(), row.absent_ms), ("gone", Some(3000)));
    assert_eq!(
        (row.read_iops, row.inflight, row.mean_queue_depth),
        (None, None, None)
    );
    assert_eq!(row.device, "nvme:controller");
    assert!(queue(&model, at(7 * S)).absent);
    assert_eq!(queue(&model, at(7 * S)).errors_total, None);
    let screen = drawn(&mut model, at(7 * S), 100, 8);
    assert_eq!(
        screen[2],
        "nvme   gone, waiting for 3s: the driver that served /run/scheme/nvme has ended"
    );
    assert_eq!(screen[3].trim(), "nvme:1");
    // A new driver counts from 0; the interval begins anew.
    model.hear(0, Ok(document(10, 8)), at(8 * S));
    let row = controller(&model, at(8 * S));
    assert_eq!(
        (row.state.as_str(), row.read_iops, row.absent_ms),
        ("ready", None, None)
    );
    model.hear(0, Ok(document(30, 9)), at(9 * S));
    assert_eq!(controller(&model, at(9 * S)).read_iops, Some(20.0));
}

#[test]
fn one_that_does_not_answer_is_asked_once_and_holds_up_nobody() {
    let mut model = Model::new(names(&["nvme", "nvme.b"]), S, View::Devices, Sorting::default());
    assert_eq!(model.turn(at(0)), Some(vec![0, 1]));
    model.hear(1, Ok(document(0, 1)), at(1));
    assert_eq!(model.turn(at(S / 2)), None);
    assert_eq!(model.turn(at(S)), Some(vec![1]));
    assert!(model.is_waiting());
    model.hear(1, Ok(document(5, 2)), at(S));
    let shown = model.rows(at(3 * S));
    let states: Vec<(&str, &str)> = shown
        .devices
        .iter()
        .map(|(row, _)| (row.device.as_str(), row.state.as_str()))
        .collect();
    assert_eq!(
        states,
        [
            ("nvme.b:controller", "ready"),
            ("nvme.b:1", "ready"),
            ("nvme:controller", "no answer")
        ]
    );
    model.hear(0, Ok(document(0, 4)), at(3 * S));
    assert_eq!(model.turn(at(3 * S)), Some(vec![0, 1]));
}

#[test]
fn rounds_keep_to_their_marks() {
    let mut model = model();
    assert!(model.turn(at(S / 10)).is_some());
    model.hear(0, Ok(document(0, 1)), at(S / 2));
    assert!(model.turn(at(S)).is_none());
    assert!(model.turn(at(12 * S / 10)).is_some());
    assert_eq!(
        model.next_turn_ns(),
        Some(21 * S / 10),
        "not a tenth later each time"
    );
    // After a sleep of the machine there are no rounds to catch up on.
    model.hear(0, Ok(document(0, 2)), at(100 * S));
    assert!(model.turn(at(100 * S)).is_some());
    assert_eq!(model.next_turn_ns(), Some(101 * S));
}

#[test]
fn keys_change_the_interval_in_bounds() {
    let mut model = model();
    model.act(Action::Faster, at(0));
    assert_eq!(model.interval_ns(), S / 2);
    for _ in 0..20 {
        model.act(Action::Faster, at(0));
    }
    assert_eq!(model.interval_ns(), INTERVAL_MIN_NS);
    for _ in 0..20 {
        model.act(Action::Slower, at(7));
    }
    assert_eq!(
        (model.interval_ns(), model.next_turn_ns()),
        (INTERVAL_MAX_NS, Some(7 + INTERVAL_MAX_NS))
    );
}

#[test]
fn what_is_paused_stays() {
    let mut model = heard(1..=2);
    model.act(Action::Pause, at(2 * S));
    model.hear(0, Ok(document(9000, 3)), at(3 * S));
    assert_eq!(controller(&model, at(3 * S)).read_iops, Some(1000.0));
    model.hear(0, Err(gone()), at(4 * S));
    let screen = drawn(&mut model, at(9 * S), 80, 8);
    assert!(screen[0].contains("PAUSED"), "{screen:?}");
    assert!(screen[2].starts_with("nvme   ready"), "{screen:?}");
    model.act(Action::Pause, at(9 * S));
    assert_eq!(controller(&model, at(9 * S)).state, "gone");
}

#[test]
fn escape_closes_the_help_and_then_the_program() {
    let mut model = model();
    model.act(Action::Help, at(0));
    assert!(
        drawn(&mut model, at(0), 100, 40)
            .join("\n")
            .contains("Little's law")
    );
    model.act(Action::Back, at(0));
    assert!(!model.wants_to_quit() && !model.shows_help());
    model.act(Action::Back, at(0));
    assert!(model.wants_to_quit());
}

#[test]
fn rows_are_sorted_controllers_with_their_namespaces() {
    let mut model = Model::new(names(&["nvme", "nvme.b"]), S, View::Devices, Sorting::default());
    for (source, reads) in [(0, 1000), (1, 5000)] {
        model.hear(source, Ok(document(0, 1)), at(S));
        model.hear(source, Ok(document(reads, 2)), at(2 * S));
    }
    let order = |model: &Model| -> Vec<String> {
        let shown = model.rows(at(2 * S));
        shown.devices.into_iter().map(|(row, _)| row.device).collect()
    };
    assert_eq!(
        order(&model),
        ["nvme.b:controller", "nvme.b:1", "nvme:controller", "nvme:1"]
    );
    model.act(Action::Reverse, at(0));
    assert_eq!(
        order(&model),
        ["nvme:controller", "nvme:1", "nvme.b:controller", "nvme.b:1"]
    );
    for _ in 0..3 {
        model.act(Action::SortNext, at(0));
    }
    assert!(drawn(&mut model, at(2 * S), 80, 8)[7].contains("sort: R/S"));
    assert_eq!(order(&model)[0], "nvme.b:controller", "most reads first");
    model.act(Action::Reverse, at(0));
    assert_eq!(order(&model)[0], "nvme:controller");
}

#[test]
fn every_column_can_be_reached_and_the_first_comes_again() {
    for view in [View::Devices, View::Queues] {
        let mut model = Model::new(names(&["nvme"]), S, view, Sorting::default());
        let mut seen = Vec::new();
        loop {
            let footer = drawn(&mut model, at(0), 200, 6)[5].clone();
            if seen.contains(&footer) {
                assert_eq!(seen[0], footer);
                break;
            }
            seen.push(footer);
            model.act(Action::SortNext, at(0));
        }
        let columns = match view {
            View::Devices => super::columns::DEVICES.len(),
            View::Queues => super::columns::QUEUES.len(),
        };
        assert_eq!(seen.len(), columns);
    }
}

#[test]
fn rows_that_do_not_fit_are_scrolled_to() {
    let mut model = Model::new(names(&["nvme"]), S, View::Queues, Sorting::default());
    let mut many = document(100, 1);
    let queue = many.queues[0].clone();
    many.queues = (1..=300)
        .map(|qid| {
            let mut queue = queue.clone();
            queue.qid = qid;
            queue
        })
        .collect();
    model.hear(0, Ok(many), at(S));
    let first = |model: &mut Model| {
        let screen = drawn(model, at(S), 60, 15);
        let columns: Vec<&str> = screen[2].split_whitespace().collect();
        (columns[1].to_owned(), screen[14].clone())
    };
    assert_eq!(first(&mut model).0, "1");
    assert!(first(&mut model).1.contains("0 above, 288 below"));
    model.act(Action::Scroll(1), at(S));
    assert_eq!(first(&mut model).0, "2");
    model.act(Action::Page(1), at(S));
    assert_eq!(first(&mut model).0, "14");
    model.act(Action::End, at(S));
    assert_eq!(first(&mut model).0, "289");
    model.act(Action::Scroll(-1), at(S));
    assert_eq!(first(&mut model).0, "288", "the end was no further than it is");
    model.act(Action::Home, at(S));
    model.act(Action::Scroll(-5), at(S));
    assert_eq!(first(&mut model).0, "1");
}

#[test]
fn the_overview_at_four_sizes() {
    let mut model = heard(1..=4);
    let screen = drawn(&mut model, at(4 * S), 200, 40);
    assert_eq!(screen.len(), 40);
    assert_eq!(screen[0], "nvmectl top  devices  every 1.00s");
    assert_eq!(
        screen[1],
        "DEVICE STATE   IOPS    R/S    W/S OTHER/S R MiB/S W MiB/S  R P50  R P99  W P50  W P99     QD    OUT OLDEST \
         ACTIVE  ERR/S   TEMP  HISTORY"
    );
    assert_eq!(
        screen[2],
        "nvme   ready  1.00k  1.00k      0       0    3.91       0 20.1us 20.1us      -      -  *16.0      3 15.0us    \
         50%      0      -                                       \u{2588}\u{2588}\u{2588}"
    );
    assert_eq!(
        screen[3],
        "nvme:1 -      1.00k  1.00k      0       0    3.91       0      -      -      -      -      -      -      -      \
         -      0      -"
    );
    assert_eq!(
        screen[5],
        "* the depth is not the one that rate and latency stand for: ? says more"
    );
    assert_eq!(
        screen[39],
        "q quit  ? help  s sort: DEVICE  1 2 view  r reverse  space pause  + - interval"
    );

    let screen = drawn(&mut model, at(4 * S), 80, 24);
    assert_eq!(
        screen[1],
        "DEVICE STATE    R/S    W/S R MiB/S W MiB/S  R P99  W P99     QD    OUT OLDEST"
    );
    assert_eq!(
        screen[2],
        "nvme   ready  1.00k      0    3.91       0 20.1us      -  *16.0      3 15.0us"
    );

    let screen = drawn(&mut model, at(4 * S), 60, 15);
    assert_eq!(
        screen[1],
        "DEVICE STATE    R/S    W/S  R P99  W P99     QD    OUT"
    );
    assert_eq!(
        screen[2],
        "nvme   ready  1.00k      0 20.1us      -  *16.0      3"
    );

    let screen = drawn(&mut model, at(4 * S), 20, 5);
    assert_eq!(
        screen,
        [
            "nvmectl top  devices",
            "DEVICE    R/S    W/S",
            "nvme    1.00k      0",
            "nvme:1  1.00k      0",
            "q quit  ? help",
        ]
    );
    let screen = drawn(&mut model, at(4 * S), 19, 5);
    assert_eq!(screen[0], "19x5 is too small,");
    assert_eq!(screen[1], "20x5 is enough");
}

#[test]
fn the_queues_at_two_sizes() {
    let mut model = heard(1..=4);
    model.act(Action::Show(View::Queues), at(0));
    let screen = drawn(&mut model, at(4 * S), 200, 40);
    assert_eq!(
        screen[1],
        "DEVICE  QUEUE KIND    CPU    VEC MODE      DEPTH    OUT OLDEST     QD    MAX   FULL SUBM/S   IOPS  MiB/S    \
         P50    P99  P99.9 BELLS/S CPL/INT  EMPTY ERRORS TIMEOUTS HOST P99"
    );
    assert_eq!(
        screen[2],
        "nvme        1 io        0      1 adaptive   1023      3 15.0us  *16.0     32     0%  1.00k  1.00k   3.91 \
         20.1us 20.1us      -     375       -    50%      0        0    501ns"
    );
    let screen = drawn(&mut model, at(4 * S), 60, 15);
    assert_eq!(
        screen[1],
        "DEVICE  QUEUE    OUT OLDEST     QD   IOPS    P50    P99"
    );
}

#[test]
fn what_a_driver_says_cannot_command_a_terminal() {
    let mut model = model();
    let mut nasty = document(0, 1);
    nasty.controller.state = "\x1b]0;owned\x07\nready".to_owned();
    model.hear(0, Ok(nasty), at(S));
    let screen = drawn(&mut model, at(S), 120, 10).join("\n");
    assert!(screen.contains("?]0;owned??ready"), "{screen}");
    model.hear(
        0,
        Err(Absence {
            state: "gone",
            why: "\x1b[2J\u{9b}31m".to_owned(),
        }),
        at(S),
    );
    let screen = drawn(&mut model, at(S), 120, 10).join("\n");
    assert!(!screen.contains(['\x1b', '\u{9b}', '\x07']), "{screen:?}");
}
