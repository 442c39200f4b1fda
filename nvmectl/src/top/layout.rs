//! What `top` writes on a screen of a given size, as lines of text in tones.

use super::columns::{Column, DEVICES, QUEUES};
use super::model::{Model, Now, Shown, View};
use super::rows::{DeviceKind, DeviceRow, QueueRow};
use crate::style::{Align, printable, tone_of_state};
use crate::units::{Units, span};

pub use crate::style::Tone;

/// The smallest screen on which there is something to see.
pub const LEAST_COLUMNS: u16 = 20;
/// Lines of the same.
pub const LEAST_LINES: u16 = 5;

/// How a piece of text looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// As tables have it.
    Toned(Tone),
    /// Of what is not there any more.
    Faded,
    /// The column that the rows are sorted by, or a line at the screen's edge.
    Marked,
}

/// A line of pieces.
pub type Line = Vec<(String, Look)>;

const PLAIN: Look = Look::Toned(Tone::Plain);
const HEADING: Look = Look::Toned(Tone::Heading);
/// Blanks between columns.
const GAP: usize = 1;
/// Columns that a number has at least, so that they do not move with every digit.
const LEAST_WIDTH: usize = 6;
/// The sparkline's width at least and at most.
const SPARK: std::ops::RangeInclusive<usize> = 8..=40;

/// The lines of the screen, as many as it has.
pub fn lines(model: &mut Model, now: Now, units: Units) -> Vec<Line> {
    let (width, height) = model.size();
    if width < LEAST_COLUMNS || height < LEAST_LINES {
        let text = format!("{width}x{height} is too small, {LEAST_COLUMNS}x{LEAST_LINES} is enough");
        return wrapped(&text, usize::from(width))
            .into_iter()
            .take(usize::from(height))
            .map(|line| vec![(cut(&line, usize::from(width)), PLAIN)])
            .collect();
    }
    let (width, height) = (usize::from(width), usize::from(height));
    let shown = model.rows(now);
    let mut head = vec![title(model, width)];
    let mut body: Vec<Line>;
    if model.shows_help() {
        body = help(width);
    } else {
        let sorting = model.sorting();
        let marked = (sorting.column, sorting.reversed);
        let (header, rows) = match model.view() {
            View::Devices => devices(&shown, marked, width, units),
            View::Queues => queues(&shown, marked, width, units),
        };
        head.push(header);
        body = rows;
        if let Some(hint) = model.hint()
            && body.len() + head.len() + 2 < height
        {
            body.push(Vec::new());
            body.extend(
                wrapped(hint, width)
                    .into_iter()
                    .map(|line| vec![(line, Look::Faded)]),
            );
        }
        if differs(&shown, model.view()) && body.len() + head.len() + 2 < height {
            body.push(Vec::new());
            let note = "* the depth is not the one that rate and latency stand for: ? says more";
            body.push(vec![(cut(note, width), Look::Toned(Tone::Warning))]);
        }
    }
    let visible = height.saturating_sub(head.len() + 1);
    let first = model.scrolled(body.len(), visible);
    let below = body.len().saturating_sub(first + visible);
    let foot = footer(model, first, below, width, units);
    head.extend(body.into_iter().skip(first).take(visible));
    head.resize(height - 1, Vec::new());
    head.push(foot);
    head
}

fn title(model: &Model, width: usize) -> Line {
    let view = match model.view() {
        _ if model.shows_help() => "help",
        View::Devices => "devices",
        View::Queues => "queues",
    };
    let every = Units::Iec.duration(model.interval_ns() as f64);
    let mut text = format!("nvmectl top  {view}  every {every}");
    if model.sources() > 1 {
        text.push_str(&format!("  {} controllers", model.sources()));
    }
    if model.is_paused() {
        // Before what may not fit.
        text = format!("nvmectl top  PAUSED  {view}  every {every}");
    }
    vec![(padded(&cut(&text, width), width, Align::Left), Look::Marked)]
}

fn footer(model: &Model, above: usize, below: usize, width: usize, units: Units) -> Line {
    let sorting = model.sorting();
    let by = match model.view() {
        View::Devices => DEVICES.get(sorting.column).map(|column| column.title(units)),
        View::Queues => QUEUES.get(sorting.column).map(|column| column.title(units)),
    };
    let by = by.unwrap_or_default();
    let arrow = if sorting.reversed { "reversed" } else { "" };
    let mut parts = vec!["q quit".to_owned(), "? help".to_owned()];
    if above + below > 0 {
        parts.push(format!("{above} above, {below} below"));
    }
    if model.shows_help() {
        parts.push("? closes this".to_owned());
    } else {
        parts.push(format!("s sort: {by} {arrow}").trim_end().to_owned());
        parts.extend(["1 2 view", "r reverse", "space pause", "+ - interval"].map(str::to_owned));
    }
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        if text.chars().count() + gap.len() + part.chars().count() > width {
            break;
        }
        text.push_str(gap);
        text.push_str(&part);
    }
    vec![(padded(&text, width, Align::Left), Look::Marked)]
}

fn differs(shown: &Shown, view: View) -> bool {
    match view {
        View::Devices => shown.devices.iter().any(|(row, _)| row.depth_differs),
        View::Queues => shown.queues.iter().any(|row| row.depth_differs),
    }
}

fn devices(shown: &Shown, marked: (usize, bool), width: usize, units: Units) -> (Line, Vec<Line>) {
    let rows: Vec<DeviceRow> = shown.devices.iter().map(|(row, _)| row.clone()).collect();
    let grid = Grid::new(&DEVICES, &rows, width, units, |row, key| {
        key == "mean_queue_depth" && row.depth_differs
    });
    let spare = width.saturating_sub(grid.width() + 2 * GAP);
    let spark = (grid.is_whole() && spare >= *SPARK.start()).then(|| spare.min(*SPARK.end()));
    let mut header = grid.header(marked);
    if let Some(spark) = spark {
        header.push((padded("  HISTORY", spark + 2 * GAP, Align::Left), HEADING));
    }
    let line = |(row, history): &(DeviceRow, Vec<Option<f64>>)| {
        if let Some(absent_ms) = row.absent_ms {
            return absent_line(row, absent_ms, &grid, width);
        }
        let mut line = grid.line(row, |row, key| match key {
            "state" => Look::Toned(tone_of_state(&row.state)),
            "errors_per_s" if row.errors_per_s.is_some_and(|errors| errors > 0.0) => Look::Toned(Tone::Bad),
            "mean_queue_depth" if row.depth_differs => Look::Toned(Tone::Warning),
            "device" if row.kind == DeviceKind::Controller => HEADING,
            _ => PLAIN,
        });
        if let Some(spark) = spark {
            line.push((
                format!("  {}", sparkline(history, spark)),
                Look::Toned(Tone::Good),
            ));
        }
        line
    };
    (header, shown.devices.iter().map(line).collect())
}

/// The line of a driver that is gone: all that is to be said is that, for how long, and why.
fn absent_line(row: &DeviceRow, absent_ms: u64, grid: &Grid<DeviceRow>, width: usize) -> Line {
    let device = grid.line(row, |_, _| Look::Faded);
    let name = device
        .into_iter()
        .next()
        .map(|(text, _)| text)
        .unwrap_or_default();
    let time = span(absent_ms.saturating_mul(1_000_000));
    let said = match &row.why {
        _ if row.kind == DeviceKind::Namespace => String::new(),
        Some(why) => format!("{}, waiting for {time}: {why}", row.state),
        None => format!("{} for {time}", row.state),
    };
    let text = format!("{name} {}", printable(&said, false).replace('\n', " "));
    vec![(cut(&text, width), Look::Faded)]
}

fn queues(shown: &Shown, marked: (usize, bool), width: usize, units: Units) -> (Line, Vec<Line>) {
    let grid = Grid::new(&QUEUES, &shown.queues, width, units, |row, key| {
        key == "mean_queue_depth" && row.depth_differs
    });
    let line = |row: &QueueRow| {
        grid.line(row, |row, key| match key {
            _ if row.absent => Look::Faded,
            "errors_total" if row.errors_total.is_some_and(|errors| errors > 0) => Look::Toned(Tone::Bad),
            "timeouts_total" if row.timeouts_total.is_some_and(|timeouts| timeouts > 0) => {
                Look::Toned(Tone::Bad)
            }
            "mean_queue_depth" if row.depth_differs => Look::Toned(Tone::Warning),
            _ => PLAIN,
        })
    };
    let mut lines: Vec<Line> = shown.queues.iter().map(line).collect();
    if lines.is_empty() {
        let said = shown.devices.iter().find_map(|(row, _)| row.why.as_deref());
        let text = said.unwrap_or("no queue is known yet");
        lines.push(vec![(cut(&printable(text, false), width), Look::Faded)]);
    }
    (grid.header(marked), lines)
}

/// The columns that fit, and how wide each is.
struct Grid<R: 'static> {
    columns: Vec<(usize, &'static Column<R>, usize, Align)>,
    /// All of the table's columns.
    whole: bool,
    units: Units,
    is_starred: fn(&R, &str) -> bool,
}

impl<R> Grid<R> {
    fn new(
        columns: &'static [Column<R>],
        rows: &[R],
        width: usize,
        units: Units,
        is_starred: fn(&R, &str) -> bool,
    ) -> Self {
        let mut grid = Self {
            columns: Vec::new(),
            whole: true,
            units,
            is_starred,
        };
        let mut by_rank: Vec<(usize, &'static Column<R>)> = columns.iter().enumerate().collect();
        by_rank.sort_by_key(|(_, column)| column.rank);
        let mut used = 0;
        for (index, column) in by_rank {
            let align = column.align(rows);
            let least = match align {
                Align::Left => 0,
                Align::Right => LEAST_WIDTH,
            };
            let cells = rows.iter().map(|row| grid.cell(column, row).chars().count());
            let title = column.title(units).chars().count();
            let wide = cells.chain([title, least]).max().unwrap_or(0);
            let gap = if used == 0 { 0 } else { GAP };
            // The first column is cut where it does not fit, others are left out from there on.
            let wide = if used == 0 { wide.min(width) } else { wide };
            if used + gap + wide > width {
                grid.whole = false;
                break;
            }
            used += gap + wide;
            grid.columns.push((index, column, wide, align));
        }
        grid.columns.sort_by_key(|(index, ..)| *index);
        grid
    }

    fn is_whole(&self) -> bool {
        self.whole
    }

    fn width(&self) -> usize {
        let wide: usize = self.columns.iter().map(|(_, _, wide, _)| wide).sum();
        wide + GAP * self.columns.len().saturating_sub(1)
    }

    fn cell(&self, column: &Column<R>, row: &R) -> String {
        let text = (column.value)(row).text(self.units);
        if (self.is_starred)(row, column.key) {
            format!("*{text}")
        } else {
            text
        }
    }

    fn header(&self, (sorted_by, _): (usize, bool)) -> Line {
        let mut line = Line::new();
        for (index, column, wide, align) in &self.columns {
            if !line.is_empty() {
                line.push((" ".repeat(GAP), PLAIN));
            }
            let look = if *index == sorted_by {
                Look::Marked
            } else {
                HEADING
            };
            line.push((
                padded(&cut(&column.title(self.units), *wide), *wide, *align),
                look,
            ));
        }
        line
    }

    fn line(&self, row: &R, look: impl Fn(&R, &str) -> Look) -> Line {
        let mut line = Line::new();
        for (_, column, wide, align) in &self.columns {
            if !line.is_empty() {
                line.push((" ".repeat(GAP), PLAIN));
            }
            let text = cut(&self.cell(column, row), *wide);
            line.push((padded(&text, *wide, *align), look(row, column.key)));
        }
        line
    }
}

/// The last values as bars, the newest at the right; a blank where there was none.
fn sparkline(history: &[Option<f64>], width: usize) -> String {
    const BARS: [char; 8] = [
        '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}',
    ];
    let last = history.iter().rev().take(width).rev();
    let most = last.clone().flatten().copied().fold(0.0, f64::max);
    let bars: String = last
        .map(|value| match value {
            None => ' ',
            Some(value) if most > 0.0 => {
                let step = (value / most * (BARS.len() - 1) as f64).round();
                BARS.get(step as usize).copied().unwrap_or('\u{2588}')
            }
            Some(_) => '\u{2581}',
        })
        .collect();
    padded(&bars, width, Align::Right)
}

fn padded(text: &str, width: usize, align: Align) -> String {
    match align {
        Align::Left => format!("{text:<width$}"),
        Align::Right => format!("{text:>width$}"),
    }
}

/// The first `width` characters.
fn cut(text: &str, width: usize) -> String {
    text.chars().take(width).collect()
}

/// `text` in lines of at most `width` characters, between words where that is possible.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        while let Some(line) = lines.last_mut() {
            let gap = usize::from(!line.is_empty());
            if line.chars().count() + gap + word.chars().count() <= width {
                line.push_str(if gap == 1 { " " } else { "" });
                line.push_str(word);
                break;
            }
            if line.is_empty() {
                let (first, rest) = word.split_at(
                    word.char_indices()
                        .nth(width)
                        .map_or(word.len(), |(index, _)| index),
                );
                line.push_str(first);
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines
}

const HELP: &[(&str, &str)] = &[
    ("q, Esc, Ctrl-C", "quit"),
    ("?", "this help"),
    ("1 2", "devices, queues"),
    ("s", "sort by the next column"),
    ("r", "sort the other way round"),
    ("space", "pause, go on"),
    ("+ -", "longer, shorter intervals"),
    ("arrows, page keys", "scroll"),
    ("", ""),
    (
        "",
        "Rates, percentiles and means are of the last interval, by subtracting two snapshots.",
    ),
    (
        "R P50, P99 ...",
        "device latency, from doorbell to completion, from the driver's histograms; - where fewer than ten commands lie \
         beyond it (a p99 needs 1000 in the interval)",
    ),
    (
        "QD",
        "mean number of commands in flight: the growth of its integral over time, so that it is right while a device \
         hangs",
    ),
    (
        "*",
        "QD and completions per second x mean latency differ by more than 10 %, which Little's law does not allow where \
         as much completes as is submitted: commands hang, a load has just begun or ended, or the snapshots do not fit \
         together",
    ),
    ("OUT, OLDEST", "commands in flight now, and the age of the oldest"),
    (
        "ACTIVE",
        "time with a command in flight, of the busiest queue; it says nothing about saturation",
    ),
    ("FULL", "time without room for another command in the queue"),
    (
        "MAX, ERRORS, TIMEOUTS",
        "since the driver started; ERR/S is of the interval",
    ),
    (
        "BELLS/S, CPL/INT, EMPTY",
        "doorbell writes, completions per interrupt, share of looks that found nothing",
    ),
    (
        "HOST P99",
        "time from a request's acceptance to its doorbell: the driver's own share",
    ),
];

fn help(width: usize) -> Vec<Line> {
    let names = HELP
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    let side_by_side = width >= names + 30;
    let mut lines = Vec::new();
    for (name, text) in HELP {
        if side_by_side {
            let mut name = *name;
            for part in wrapped(text, width - names - 2) {
                lines.push(vec![
                    (padded(name, names + 2, Align::Left), HEADING),
                    (part, PLAIN),
                ]);
                name = "";
            }
            continue;
        }
        lines.push(vec![(cut(name, width), HEADING)]);
        let text = wrapped(text, width.saturating_sub(2));
        lines.extend(text.into_iter().map(|part| vec![(format!("  {part}"), PLAIN)]));
    }
    lines
}
