//! The columns of `top`'s two views: what stands in them, how it is written, and which give way on a narrow screen.

use std::cmp::Ordering;

use stats_proto::stats::{QueueKind, QueueMode};

use super::rows::{DeviceKind, DeviceRow, QueueRow};
use crate::style::{Align, printable};
use crate::units::Units;

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Not known, or nothing to be known.
    Unknown,
    /// Words.
    Text(String),
    /// A device's name.
    Device(String),
    /// A number that names something and measures nothing.
    Id(u64),
    /// A number of things.
    Count(u64),
    /// A rate of things per second.
    PerS(f64),
    /// Bytes per second.
    BytesPerS(f64),
    /// Nanoseconds.
    Ns(u64),
    /// A share of a whole.
    Percent(f64),
    /// A mean.
    Mean(f64),
    /// Degrees.
    Celsius(i32),
}

impl Value {
    fn of<T>(value: Option<T>, make: fn(T) -> Self) -> Self {
        value.map_or(Self::Unknown, make)
    }

    /// For people.
    pub fn text(&self, units: Units) -> String {
        match self {
            Self::Unknown => "-".to_owned(),
            Self::Text(text) => printable(text, false).replace('\n', "?"),
            // A controller is known by its scheme.
            Self::Device(name) => {
                let name = name.strip_suffix(":controller").unwrap_or(name);
                printable(name, false).replace('\n', "?")
            }
            Self::Id(id) => id.to_string(),
            // Depths and the like are better known to the last digit.
            Self::Count(count) if *count < 100_000 => count.to_string(),
            Self::Count(count) => units.count(*count as f64),
            // Fractions of an event matter where there are few.
            Self::PerS(rate) if *rate < 9.95 => units.count((rate * 100.0).round() / 100.0),
            Self::PerS(rate) => units.count(rate.round()),
            Self::BytesPerS(rate) => scaled_bytes(*rate, units),
            Self::Ns(ns) => units.duration(*ns as f64),
            Self::Percent(percent) => format!("{percent:.0}%"),
            Self::Mean(mean) => format!("{mean:.1}"),
            Self::Celsius(celsius) => format!("{celsius}\u{b0}C"),
        }
    }

    /// For programs: plain numbers in the unit that the column's key names, nothing for what is not known.
    pub fn csv(&self) -> String {
        match self {
            Self::Unknown => String::new(),
            Self::Text(text) | Self::Device(text) => {
                let text = printable(text, false).replace('\n', "?");
                if text.contains(['"', ',']) {
                    format!("\"{}\"", text.replace('"', "\"\""))
                } else {
                    text
                }
            }
            Self::Id(id) => id.to_string(),
            Self::Count(count) | Self::Ns(count) => count.to_string(),
            Self::PerS(number) | Self::BytesPerS(number) | Self::Percent(number) | Self::Mean(number) => {
                format!("{number:.3}")
            }
            Self::Celsius(celsius) => celsius.to_string(),
        }
    }

    fn align(&self) -> Align {
        match self {
            Self::Text(_) | Self::Device(_) => Align::Left,
            _ => Align::Right,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Unknown | Self::Text(_) | Self::Device(_) | Self::Id(_) => None,
            Self::Count(count) | Self::Ns(count) => Some(*count as f64),
            Self::PerS(number) | Self::BytesPerS(number) | Self::Percent(number) | Self::Mean(number) => {
                Some(*number)
            }
            Self::Celsius(celsius) => Some(f64::from(*celsius)),
        }
    }
}

/// Bytes per second in the unit that [`Column::title`] names.
fn scaled_bytes(bytes_per_s: f64, units: Units) -> String {
    let scaled = match units {
        Units::Iec => bytes_per_s / (1024.0 * 1024.0),
        Units::Si => bytes_per_s / 1e6,
        Units::Raw => return format!("{bytes_per_s:.0}"),
    };
    match scaled {
        0.0 => "0".to_owned(),
        scaled if scaled < 9.995 => format!("{scaled:.2}"),
        scaled if scaled < 99.95 => format!("{scaled:.1}"),
        scaled => format!("{scaled:.0}"),
    }
}

/// One column of rows of type `R`.
pub struct Column<R> {
    /// Its name for `--sort` and in CSV, with its unit; that of the row's member.
    pub key: &'static str,
    title: &'static str,
    /// Columns of a higher rank give way first.
    pub rank: u8,
    /// What stands in it.
    pub value: fn(&R) -> Value,
}

impl<R> Column<R> {
    /// What stands above it: `{B}` is the unit of bytes.
    pub fn title(&self, units: Units) -> String {
        let unit = match units {
            Units::Iec => "MiB",
            Units::Si => "MB",
            Units::Raw => "B",
        };
        self.title.replace("{B}", unit)
    }

    /// Where its values stand.
    pub fn align(&self, rows: &[R]) -> Align {
        let known = rows
            .iter()
            .map(|row| (self.value)(row))
            .find(|value| *value != Value::Unknown);
        known.map_or(Align::Right, |value| value.align())
    }

    /// Whether `--sort` may call it `name`.
    pub fn is_called(&self, name: &str) -> bool {
        let title = |units| self.title(units).to_lowercase().replace(' ', "-");
        name.eq_ignore_ascii_case(self.key)
            || name.to_lowercase().replace([' ', '_'], "-") == title(Units::Iec)
    }

    /// The order of two rows by this column: large numbers first, words and names by the alphabet, unless `reversed`. What is not
    /// known comes last either way.
    pub fn compare(&self, left: &R, right: &R, reversed: bool) -> Ordering {
        let (left, right) = ((self.value)(left), (self.value)(right));
        let order = match (&left, &right) {
            (Value::Unknown, Value::Unknown) => return Ordering::Equal,
            (Value::Unknown, _) => return Ordering::Greater,
            (_, Value::Unknown) => return Ordering::Less,
            (Value::Text(left), Value::Text(right)) | (Value::Device(left), Value::Device(right)) => {
                left.cmp(right)
            }
            (Value::Id(left), Value::Id(right)) => left.cmp(right),
            _ => match (left.number(), right.number()) {
                (Some(left), Some(right)) => right.total_cmp(&left),
                _ => Ordering::Equal,
            },
        };
        if reversed { order.reverse() } else { order }
    }
}

/// The columns of the overview.
pub static DEVICES: [Column<DeviceRow>; 18] = [
    Column {
        key: "device",
        title: "DEVICE",
        rank: 0,
        value: |row| Value::Device(row.device.clone()),
    },
    Column {
        key: "state",
        title: "STATE",
        rank: 5,
        value: |row| match row.kind {
            DeviceKind::Controller if !row.state.is_empty() => Value::Text(row.state.clone()),
            _ => Value::Unknown,
        },
    },
    Column {
        key: "iops",
        title: "IOPS",
        rank: 16,
        value: |row| Value::of(row.iops, Value::PerS),
    },
    Column {
        key: "read_iops",
        title: "R/S",
        rank: 1,
        value: |row| Value::of(row.read_iops, Value::PerS),
    },
    Column {
        key: "write_iops",
        title: "W/S",
        rank: 2,
        value: |row| Value::of(row.write_iops, Value::PerS),
    },
    Column {
        key: "other_iops",
        title: "OTHER/S",
        rank: 17,
        value: |row| Value::of(row.other_iops, Value::PerS),
    },
    Column {
        key: "read_bytes_per_s",
        title: "R {B}/S",
        rank: 9,
        value: |row| Value::of(row.read_bytes_per_s, Value::BytesPerS),
    },
    Column {
        key: "write_bytes_per_s",
        title: "W {B}/S",
        rank: 10,
        value: |row| Value::of(row.write_bytes_per_s, Value::BytesPerS),
    },
    Column {
        key: "read_p50_ns",
        title: "R P50",
        rank: 13,
        value: |row| Value::of(row.read_p50_ns, Value::Ns),
    },
    Column {
        key: "read_p99_ns",
        title: "R P99",
        rank: 6,
        value: |row| Value::of(row.read_p99_ns, Value::Ns),
    },
    Column {
        key: "write_p50_ns",
        title: "W P50",
        rank: 14,
        value: |row| Value::of(row.write_p50_ns, Value::Ns),
    },
    Column {
        key: "write_p99_ns",
        title: "W P99",
        rank: 7,
        value: |row| Value::of(row.write_p99_ns, Value::Ns),
    },
    Column {
        key: "mean_queue_depth",
        title: "QD",
        rank: 4,
        value: |row| Value::of(row.mean_queue_depth, Value::Mean),
    },
    Column {
        key: "inflight",
        title: "OUT",
        rank: 3,
        value: |row| Value::of(row.inflight, Value::Count),
    },
    Column {
        key: "inflight_age_max_ns",
        title: "OLDEST",
        rank: 8,
        value: |row| Value::of(row.inflight_age_max_ns, Value::Ns),
    },
    Column {
        key: "active_percent",
        title: "ACTIVE",
        rank: 11,
        value: |row| Value::of(row.active_percent, Value::Percent),
    },
    Column {
        key: "errors_per_s",
        title: "ERR/S",
        rank: 12,
        value: |row| Value::of(row.errors_per_s, Value::PerS),
    },
    Column {
        key: "temperature_celsius",
        title: "TEMP",
        rank: 15,
        value: |row| Value::of(row.temperature_celsius, Value::Celsius),
    },
];

/// The columns of the view of queues.
pub static QUEUES: [Column<QueueRow>; 24] = [
    Column {
        key: "device",
        title: "DEVICE",
        rank: 6,
        value: |row| Value::Device(row.device.clone()),
    },
    Column {
        key: "qid",
        title: "QUEUE",
        rank: 0,
        value: |row| Value::Id(u64::from(row.qid)),
    },
    Column {
        key: "kind",
        title: "KIND",
        rank: 11,
        value: |row| {
            Value::Text(
                match row.kind {
                    QueueKind::Admin => "admin",
                    QueueKind::Io => "io",
                }
                .to_owned(),
            )
        },
    },
    Column {
        key: "cpu",
        title: "CPU",
        rank: 12,
        value: |row| Value::of(row.cpu.map(u64::from), Value::Id),
    },
    Column {
        key: "vector",
        title: "VEC",
        rank: 21,
        value: |row| Value::of(row.vector.map(u64::from), Value::Id),
    },
    Column {
        key: "mode",
        title: "MODE",
        rank: 15,
        value: |row| {
            Value::Text(
                match row.mode {
                    QueueMode::Interrupt => "interrupt",
                    QueueMode::Polling => "polling",
                    QueueMode::Adaptive => "adaptive",
                }
                .to_owned(),
            )
        },
    },
    Column {
        key: "depth",
        title: "DEPTH",
        rank: 16,
        value: |row| Value::Count(u64::from(row.depth)),
    },
    Column {
        key: "inflight",
        title: "OUT",
        rank: 2,
        value: |row| Value::of(row.inflight, Value::Count),
    },
    Column {
        key: "inflight_age_max_ns",
        title: "OLDEST",
        rank: 7,
        value: |row| Value::of(row.inflight_age_max_ns, Value::Ns),
    },
    Column {
        key: "mean_queue_depth",
        title: "QD",
        rank: 3,
        value: |row| Value::of(row.mean_queue_depth, Value::Mean),
    },
    Column {
        key: "inflight_max",
        title: "MAX",
        rank: 13,
        value: |row| Value::of(row.inflight_max, Value::Count),
    },
    Column {
        key: "full_percent",
        title: "FULL",
        rank: 9,
        value: |row| Value::of(row.full_percent, Value::Percent),
    },
    Column {
        key: "submits_per_s",
        title: "SUBM/S",
        rank: 18,
        value: |row| Value::of(row.submits_per_s, Value::PerS),
    },
    Column {
        key: "iops",
        title: "IOPS",
        rank: 1,
        value: |row| Value::of(row.iops, Value::PerS),
    },
    Column {
        key: "bytes_per_s",
        title: "{B}/S",
        rank: 8,
        value: |row| Value::of(row.bytes_per_s, Value::BytesPerS),
    },
    Column {
        key: "p50_ns",
        title: "P50",
        rank: 5,
        value: |row| Value::of(row.p50_ns, Value::Ns),
    },
    Column {
        key: "p99_ns",
        title: "P99",
        rank: 4,
        value: |row| Value::of(row.p99_ns, Value::Ns),
    },
    Column {
        key: "p999_ns",
        title: "P99.9",
        rank: 10,
        value: |row| Value::of(row.p999_ns, Value::Ns),
    },
    Column {
        key: "doorbells_per_s",
        title: "BELLS/S",
        rank: 19,
        value: |row| Value::of(row.doorbells_per_s, Value::PerS),
    },
    Column {
        key: "completions_per_interrupt",
        title: "CPL/INT",
        rank: 20,
        value: |row| Value::of(row.completions_per_interrupt, Value::Mean),
    },
    Column {
        key: "polls_empty_percent",
        title: "EMPTY",
        rank: 22,
        value: |row| Value::of(row.polls_empty_percent, Value::Percent),
    },
    Column {
        key: "errors_total",
        title: "ERRORS",
        rank: 14,
        value: |row| Value::of(row.errors_total, Value::Count),
    },
    Column {
        key: "timeouts_total",
        title: "TIMEOUTS",
        rank: 17,
        value: |row| Value::of(row.timeouts_total, Value::Count),
    },
    Column {
        key: "host_p99_ns",
        title: "HOST P99",
        rank: 23,
        value: |row| Value::of(row.host_p99_ns, Value::Ns),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_names_are_unambiguous() {
        fn check<R>(columns: &[Column<R>]) {
            let mut ranks: Vec<u8> = columns.iter().map(|column| column.rank).collect();
            ranks.sort_unstable();
            let wanted: Vec<u8> = (0..).take(columns.len()).collect();
            assert_eq!(ranks, wanted);
            for column in columns {
                for name in [column.key.to_owned(), column.title(Units::Iec)] {
                    let called = columns.iter().filter(|column| column.is_called(&name));
                    assert_eq!(called.count(), 1, "{name}");
                }
            }
        }
        check(&DEVICES);
        check(&QUEUES);
    }

    #[test]
    fn values_for_people_and_for_programs() {
        for (value, text, csv) in [
            (Value::Unknown, "-", ""),
            (Value::PerS(0.0), "0", "0.000"),
            (Value::PerS(0.333_333), "0.33", "0.333"),
            (Value::PerS(12_345.6), "12.3k", "12345.600"),
            (Value::BytesPerS(0.0), "0", "0.000"),
            (Value::BytesPerS(3_221_225_472.0), "3072", "3221225472.000"),
            (Value::BytesPerS(10_000.0), "0.01", "10000.000"),
            (Value::Ns(81_920), "81.9us", "81920"),
            (Value::Percent(99.6), "100%", "99.600"),
            (Value::Celsius(-4), "-4\u{b0}C", "-4"),
            (Value::Text("a,\"b\"\x1b".into()), "a,\"b\"?", "\"a,\"\"b\"\"?\""),
        ] {
            assert_eq!(
                (value.text(Units::Iec).as_str(), value.csv().as_str()),
                (text, csv)
            );
        }
    }

    #[test]
    fn the_unknown_comes_last_whichever_way() {
        let column = Column {
            key: "x",
            title: "X",
            rank: 0,
            value: |row: &Option<f64>| Value::of(*row, Value::Mean),
        };
        for (reversed, wanted) in [
            (false, [Some(2.0), Some(1.0), None]),
            (true, [Some(1.0), Some(2.0), None]),
        ] {
            let mut rows = [None, Some(1.0), Some(2.0)];
            rows.sort_by(|left, right| column.compare(left, right, reversed));
            assert_eq!(rows, wanted);
        }
    }
}
