use std::cell::RefCell;

use serde_json::Value;

use super::*;
use crate::samples;
use crate::style::Style;
use crate::tree::fake::FakeTree;
use crate::tree::{Access, Errno, Operation, TreeError, TreeFile};
use crate::units::Units;

fn bytes(document: &StatsDocument) -> Vec<u8> {
    serde_json::to_vec(document).unwrap()
}

fn totals() -> Stats {
    Stats {
        nsid: None,
        light: false,
        watch: None,
    }
}

fn printed(stats: &Stats, tree: &dyn Tree, format: Format) -> Result<String, Error> {
    let mut out = Vec::new();
    let mut output = Output::new(&mut out, format, Style::plain(Units::Iec));
    match stats.watch {
        Some(watch) => stats.watch(tree, watch, &Interrupt::default(), &mut output)?,
        None => stats.run(tree, &mut output)?,
    }
    Ok(String::from_utf8(out).unwrap())
}

/// Serves one document after the other, and the last one for ever.
struct Series(RefCell<Vec<StatsDocument>>);

impl Tree for Series {
    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        Err(TreeError::new(Operation::Stat, path, Errno::ENOENT))
    }

    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        let mut left = self.0.borrow_mut();
        let document = if left.len() > 1 {
            left.remove(0)
        } else {
            left[0].clone()
        };
        FakeTree::new().file(path, &bytes(&document)).open(path, access)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        Err(TreeError::new(Operation::List, path, Errno::ETIMEDOUT))
    }
}

fn watching(documents: Vec<StatsDocument>, count: u64, format: Format) -> Result<String, Error> {
    let watch = Some(Watch {
        interval: Duration::from_millis(1),
        count: Some(count),
    });
    printed(
        &Stats { watch, ..totals() },
        &Series(RefCell::new(documents)),
        format,
    )
}

#[test]
fn totals_are_tables() {
    let tree = FakeTree::new().file("controller/stats", &bytes(&samples::stats(100_000, 10)));
    let text = printed(&totals(), &tree, Format::Table).unwrap();
    let expected = "\
A disk, serial S1, firmware 1.0, emulated, ready
up 10s, scheduler cpuaffinity, interrupts msix, clock tsc, resets 0

QUEUE  CPU  MODE      DEPTH  SUBMITTED  ERRORS  IN FLIGHT  MOST  OLDEST  MEAN QD  ACTIVE  DOORBELLS  POLLS  EMPTY  INTERRUPTS
1        0  adaptive   1023       100k       0          3    32  15.0us    16.00   50.0%      25.0k  50.0k  50.0%           7

QUEUE  OPERATION  COUNT    BYTES  ERRORS     MIN    MEAN     P50     P99   P99.9     MAX  HOST P99
1      read        100k   391MiB       0  10.0us  20.0us  20.1us  20.1us  20.1us  30.0us     501ns

NAMESPACE     SIZE    BLOCK  OPERATION  COUNT   BYTES  ERRORS
nvme:1     1.00GiB  4.00KiB  read        100k  391MiB       0
";
    let squeezed = |text: &str| {
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(squeezed(&text), squeezed(expected), "{text}");
}

#[test]
fn percentiles_need_values_behind_them() {
    let few = samples::histogram(&[20_000], 999);
    assert_eq!(totals::quantile(Some(&few), 0.99), None);
    assert!(totals::quantile(Some(&few), 0.5).is_some());
    assert!(totals::quantile(Some(&samples::histogram(&[20_000], 1000)), 0.99).is_some());
    assert_eq!(totals::quantile(None, 0.5), None);
}

#[test]
fn troubles_are_named() {
    let mut document = samples::stats(1, 10);
    let counters = document.queues[0].counters.as_mut().unwrap();
    counters.timeouts = 2;
    counters.rejected.stale_cid = 1;
    counters.errors_by_status.insert("Write Fault".into(), 4);
    document.events.last_reset_reason = Some("CSTS.CFS".into());
    document.snapshot.consistent = false;
    let text = totals::text(&document, "nvme", &Style::plain(Units::Iec));
    for line in [
        "queue 1: 2 timeouts",
        "queue 1: 1 completions with a stale command id",
        "queue 1: 4 Write Fault",
        "last reset: CSTS.CFS",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("snapshot not consistent"), "{text}");
}

#[test]
fn a_driver_that_counts_nothing_is_said_to() {
    let mut document = samples::stats(1, 10);
    document.queues[0].counters = None;
    document.namespaces[0].ops = None;
    let text = totals::text(&document, "nvme", &Style::plain(Units::Iec));
    assert!(
        text.contains("without the feature performance-counters"),
        "{text}"
    );
}

#[test]
fn json_is_the_drivers_own_document() {
    let mut document = serde_json::to_value(samples::stats(5, 10)).unwrap();
    document["a_field_of_a_newer_driver"] = Value::from(1);
    document["version"] = Value::from("1.7");
    let tree = FakeTree::new().file("controller/stats", &serde_json::to_vec(&document).unwrap());
    let printed: Value = serde_json::from_str(&printed(&totals(), &tree, Format::Json).unwrap()).unwrap();
    assert_eq!(printed, document);
}

#[test]
fn namespace_and_light_choose_the_path() {
    let stats = Stats {
        nsid: Some(1),
        light: true,
        watch: None,
    };
    let tree = FakeTree::new()
        .file("1/stats?light", &bytes(&samples::stats(5, 10)))
        .file("controller/stats?light", &samples::stats_of(&[1]))
        .unlistable();
    assert!(printed(&stats, &tree, Format::Table).is_ok());
    let missing = printed(
        &Stats {
            nsid: Some(2),
            ..totals()
        },
        &tree,
        Format::Table,
    )
    .unwrap_err();
    assert_eq!(missing.exit_code(), 4);
}

#[test]
fn another_documents_are_malformed() {
    for text in [&b"{}"[..], b"", b"\xff", br#"{"schema":"nvme-bench-result"}"#] {
        let tree = FakeTree::new().file("controller/stats", text);
        assert_eq!(
            printed(&totals(), &tree, Format::Table).unwrap_err().name(),
            "malformed"
        );
    }
}

#[test]
fn watching_shows_the_difference_of_two_snapshots() {
    let documents = vec![
        samples::stats(100_000, 10),
        samples::stats(150_000, 11),
        samples::stats(150_000, 12),
    ];
    let text = watching(documents, 2, Format::Table).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{text}");
    assert_eq!(
        rows[1],
        [
            "11s", "1", "50.0k", "0", "0", "195MiB/s", "0B/s", "20.1us", "20.1us", "-", "-", "16.0", "3",
            "15.0us", "50%", "0%", "0"
        ],
        "{text}"
    );
    assert_eq!(rows[2][..5], ["12s", "1", "0", "0", "0"], "{text}");
    // The columns of all intervals stand below each other.
    let ends = |line: &str| line.find("QD").or(line.find("16.0")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(ends(lines[0]) + 2, ends(lines[1]) + 4, "{text}");
    assert_eq!(ends(lines[1]), ends(lines[2]), "{text}");
}

#[test]
fn watching_as_json_is_one_line_per_interval() {
    let documents = vec![
        samples::stats(100_000, 10),
        samples::stats(150_000, 11),
        samples::stats(160_000, 12),
    ];
    let text = watching(documents, 2, Format::Json).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["schema"], "nvmectl-stats-interval");
    assert_eq!(lines[0]["elapsed_ns"], 1_000_000_000);
    assert_eq!(lines[0]["queues"][0]["iops"], 50_000.0);
    assert_eq!(lines[1]["queues"][0]["iops"], 10_000.0);
    assert_eq!(lines[1]["namespaces"][0]["count"], 10_000);
}

#[test]
fn a_restarted_driver_is_watched_from_its_start() {
    let mut restarted = samples::stats(10, 11);
    restarted.instance_id = "2".into();
    let mut after = samples::stats(30, 12);
    after.instance_id = "2".into();
    let text = watching(
        vec![samples::stats(100_000, 10), restarted, after],
        1,
        Format::Json,
    )
    .unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["queues"][0]["completed"], 20);
}

#[test]
fn a_counter_that_went_back_is_malformed() {
    let documents = vec![samples::stats(100, 10), samples::stats(50, 11)];
    assert_eq!(
        watching(documents, 1, Format::Table).unwrap_err().name(),
        "malformed"
    );
}

#[test]
fn watching_ends_when_interrupted() {
    let interrupt = Interrupt::default();
    interrupt.request();
    let mut out = Vec::new();
    let mut output = Output::new(&mut out, Format::Table, Style::plain(Units::Iec));
    let watch = Watch {
        interval: Duration::from_secs(3600),
        count: None,
    };
    let tree = Series(RefCell::new(vec![samples::stats(1, 10)]));
    assert_eq!(
        totals()
            .watch(&tree, watch, &interrupt, &mut output)
            .unwrap_err()
            .exit_code(),
        130
    );
}
