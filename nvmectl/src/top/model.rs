//! The state of `top`: what was heard of each driver, what is shown, and what a key changes.
//!
//! No clock, no thread and no terminal is in here. The model is told the time, the answers of the drivers and the keys;
//! it says whom to ask next ([`Model::turn`]) and what there is to show ([`Model::rows`]).

use std::collections::VecDeque;

use stats_proto::stats::StatsDocument;

use super::columns::{Column, DEVICES, QUEUES};
use super::rows::{Between, DeviceKind, DeviceRow, QueueRow, Rows};

/// The time, as the model is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// A clock that never goes back, of any origin.
    pub monotonic_ns: u64,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End.
    Quit,
    /// Close the help, or end.
    Back,
    /// Show or close the help.
    Help,
    /// Show this view.
    Show(View),
    /// Sort by the next column.
    SortNext,
    /// Sort the other way round.
    Reverse,
    /// Keep what is shown as it is, or go on.
    Pause,
    /// Shorter intervals.
    Faster,
    /// Longer intervals.
    Slower,
    /// Scroll by lines, down where positive.
    Scroll(isize),
    /// Scroll by screens, down where positive.
    Page(isize),
    /// To the first line.
    Home,
    /// To the last line.
    End,
}

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Devices.
    Devices,
    /// Queue pairs.
    Queues,
}

/// Why a driver gave no document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence {
    /// In a word or two, for the place of the state.
    pub state: &'static str,
    /// In a sentence.
    pub why: String,
}

/// Whose documents are shown.
#[derive(Clone, Debug)]
pub struct SourceName {
    /// The driver's scheme.
    pub scheme: String,
    /// Only this one of its namespaces.
    pub nsid: Option<u32>,
}

/// How rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sorting {
    /// The position of the column.
    pub column: usize,
    /// The other way round than the column's own.
    pub reversed: bool,
}

/// All rows of all drivers, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Controllers, each followed by its namespaces, with the IOPS of its last intervals.
    pub devices: Vec<(DeviceRow, Vec<Option<f64>>)>,
    /// Queue pairs.
    pub queues: Vec<QueueRow>,
}

struct Source {
    name: SourceName,
    /// The last document: the beginning of the next interval.
    earlier: Option<Box<StatsDocument>>,
    rows: Rows,
    absent: Option<(Absence, u64)>,
    asked_ns: Option<u64>,
    /// IOPS of the last intervals; None where there was none.
    history: VecDeque<Option<f64>>,
}

/// The state of `top`.
pub struct Model {
    sources: Vec<Source>,
    interval_ns: u64,
    next_round_ns: Option<u64>,
    view: View,
    sorting: [Sorting; 2],
    paused: Option<Shown>,
    help: bool,
    quit: bool,
    scroll: usize,
    size: (u16, u16),
    /// Something to be said below the rows.
    hint: Option<&'static str>,
    /// Lines of the view that can be scrolled, at the last drawing.
    scrolled_lines: usize,
}

/// The shortest and the longest interval.
pub const INTERVAL_MIN_NS: u64 = 100_000_000;
/// The longest.
pub const INTERVAL_MAX_NS: u64 = 60_000_000_000;
/// Intervals that the keys go through.
const INTERVALS_NS: [u64; 9] = [
    INTERVAL_MIN_NS,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    INTERVAL_MAX_NS,
];
/// Two snapshots nearer to each other than this make no rate that means anything.
const LEAST_ELAPSED_NS: u64 = 1_000_000;
/// A driver that has not answered for so long is said not to answer.
const NO_ANSWER_NS: u64 = 1_000_000_000;
/// Intervals that are remembered for the sparkline.
const HISTORY: usize = 120;

impl Model {
    /// A model of these drivers, sampled every `interval_ns`.
    pub fn new(names: Vec<SourceName>, interval_ns: u64, view: View, sorting: Sorting) -> Self {
        let sources = names.into_iter().map(|name| Source {
            rows: Rows::unheard_of(&name.scheme),
            name,
            earlier: None,
            absent: None,
            asked_ns: None,
            history: VecDeque::new(),
        });
        let mut by_view = [Sorting::default(), Sorting::default()];
        if let Some(place) = by_view.get_mut(position(view)) {
            *place = sorting;
        }
        Self {
            sources: sources.collect(),
            interval_ns: interval_ns.clamp(INTERVAL_MIN_NS, INTERVAL_MAX_NS),
            next_round_ns: None,
            view,
            sorting: by_view,
            paused: None,
            help: false,
            quit: false,
            scroll: 0,
            size: (80, 24),
            hint: None,
            scrolled_lines: 0,
        }
    }

    /// If a round begins now: the drivers to ask for a document. One that has not answered yet is not asked again.
    pub fn turn(&mut self, now: Now) -> Option<Vec<usize>> {
        let now_ns = now.monotonic_ns;
        if self.next_round_ns.is_some_and(|next| now_ns < next) {
            return None;
        }
        // From mark to mark, so that the time it takes to answer does not add up; after a sleep of the machine anew.
        let next = self
            .next_round_ns
            .unwrap_or(now_ns)
            .saturating_add(self.interval_ns);
        self.next_round_ns = Some(if next > now_ns {
            next
        } else {
            now_ns.saturating_add(self.interval_ns)
        });
        let idle = self
            .sources
            .iter_mut()
            .enumerate()
            .filter(|(_, source)| source.asked_ns.is_none());
        let asked = idle.map(|(index, source)| {
            source.asked_ns = Some(now_ns);
            index
        });
        Some(asked.collect())
    }

    /// When [`turn`](Self::turn) has something to do next; `None`: at once.
    pub fn next_turn_ns(&self) -> Option<u64> {
        self.next_round_ns
    }

    /// Whether a driver is yet to answer.
    pub fn is_waiting(&self) -> bool {
        self.sources.iter().any(|source| source.asked_ns.is_some())
    }

    /// What the driver `index` answered.
    pub fn hear(&mut self, index: usize, answer: Result<Box<StatsDocument>, Absence>, now: Now) {
        if let Some(source) = self.sources.get_mut(index) {
            source.asked_ns = None;
            match answer {
                Ok(document) => source.hear(document),
                Err(absence) => source.miss(absence, now.monotonic_ns),
            }
        }
    }

    /// Does what a key asks for.
    pub fn act(&mut self, action: Action, now: Now) {
        match action {
            Action::Quit => self.quit = true,
            Action::Back if self.help => self.close_help(),
            Action::Back => self.quit = true,
            Action::Help if self.help => self.close_help(),
            Action::Help => {
                self.help = true;
                self.scroll = 0;
            }
            Action::Show(view) => {
                self.close_help();
                self.view = view;
            }
            Action::SortNext => {
                let count = self.titles_count();
                self.edit_sorting(|sorting| {
                    sorting.column = (sorting.column + 1) % count.max(1);
                    sorting.reversed = false;
                });
            }
            Action::Reverse => self.edit_sorting(|sorting| sorting.reversed = !sorting.reversed),
            Action::Pause => {
                self.paused = match self.paused {
                    Some(_) => None,
                    None => Some(self.gather(now)),
                }
            }
            Action::Faster => self.change_interval(now, |known| {
                INTERVALS_NS.iter().rev().copied().find(|other| *other < known)
            }),
            Action::Slower => self.change_interval(now, |known| {
                INTERVALS_NS.iter().copied().find(|other| *other > known)
            }),
            Action::Scroll(lines) => self.scroll = self.scroll.saturating_add_signed(lines),
            Action::Page(pages) => {
                let lines = isize::try_from(self.body_lines()).unwrap_or(isize::MAX);
                self.scroll = self.scroll.saturating_add_signed(pages.saturating_mul(lines));
            }
            Action::Home => self.scroll = 0,
            Action::End => self.scroll = usize::MAX,
        }
    }

    /// The terminal's size in characters.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.size = (columns, lines);
    }

    /// The terminal's size in characters.
    pub fn size(&self) -> (u16, u16) {
        self.size
    }

    /// Whether a key asked for the end.
    pub fn wants_to_quit(&self) -> bool {
        self.quit
    }

    /// Sets what is to be said below the rows of devices, for as long as they do nothing.
    pub fn set_hint(&mut self, hint: &'static str) {
        self.hint = Some(hint);
    }

    /// What is to be said below the rows.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// The time from one round to the next.
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// What is shown.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whether the help is shown instead.
    pub fn shows_help(&self) -> bool {
        self.help
    }

    /// Whether what is shown is kept as it is.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// How many drivers there are.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// How the present view is sorted.
    pub fn sorting(&self) -> Sorting {
        self.sorting.get(position(self.view)).copied().unwrap_or_default()
    }

    /// The first of `lines` to be shown where `visible` fit, now that their number is known.
    pub fn scrolled(&mut self, lines: usize, visible: usize) -> usize {
        self.scrolled_lines = visible;
        self.scroll = self.scroll.min(lines.saturating_sub(visible));
        self.scroll
    }

    /// What is to be shown: what there is now, or was when it was paused; sorted.
    pub fn rows(&self, now: Now) -> Shown {
        let mut shown = match &self.paused {
            Some(kept) => kept.clone(),
            None => self.gather(now),
        };
        let [devices, queues] = self.sorting;
        if let Some(column) = DEVICES.get(devices.column) {
            shown.devices = sorted_devices(shown.devices, column, devices.reversed);
        }
        if let Some(column) = QUEUES.get(queues.column) {
            shown
                .queues
                .sort_by(|left, right| column.compare(left, right, queues.reversed));
        }
        shown
    }

    fn gather(&self, now: Now) -> Shown {
        let mut shown = Shown::default();
        for source in &self.sources {
            let rows = source.present(now.monotonic_ns);
            let history: Vec<Option<f64>> = source.history.iter().copied().collect();
            let of_row = |row: &DeviceRow| match row.kind {
                DeviceKind::Controller => history.clone(),
                DeviceKind::Namespace => Vec::new(),
            };
            shown
                .devices
                .extend(rows.devices.into_iter().map(|row| (row.clone(), of_row(&row))));
            shown.queues.extend(rows.queues);
        }
        shown
    }

    fn close_help(&mut self) {
        self.help = false;
        self.scroll = 0;
    }

    fn titles_count(&self) -> usize {
        match self.view {
            View::Devices => DEVICES.len(),
            View::Queues => QUEUES.len(),
        }
    }

    fn edit_sorting(&mut self, edit: impl FnOnce(&mut Sorting)) {
        if let Some(sorting) = self.sorting.get_mut(position(self.view)) {
            edit(sorting);
        }
    }

    fn change_interval(&mut self, now: Now, choose: impl FnOnce(u64) -> Option<u64>) {
        if let Some(chosen) = choose(self.interval_ns) {
            self.interval_ns = chosen;
            self.next_round_ns = Some(now.monotonic_ns.saturating_add(chosen));
        }
    }

    fn body_lines(&self) -> usize {
        self.scrolled_lines.max(1)
    }
}

impl Source {
    fn hear(&mut self, later: Box<StatsDocument>) {
        self.absent = None;
        let Some(earlier) = &self.earlier else {
            return self.begin(later);
        };
        // Counters carry on across a reset of the controller, but what they count is another life of the device.
        if earlier.generation != later.generation {
            return self.begin(later);
        }
        // A document that is no continuation, whatever the reason: what was before is of no use any more.
        let Ok(interval) = StatsDocument::interval(earlier, &later) else {
            return self.begin(later);
        };
        if interval.elapsed_ns < LEAST_ELAPSED_NS {
            return;
        }
        let between = Between {
            earlier,
            interval: &interval,
        };
        self.rows = Rows::new(&self.name.scheme, self.name.nsid, &later, Some(between));
        let iops = self.rows.devices.first().and_then(|row| row.iops);
        self.remember(iops);
        self.earlier = Some(later);
    }

    /// The first document of a run: gauges, and no rate yet.
    fn begin(&mut self, document: Box<StatsDocument>) {
        self.rows = Rows::new(&self.name.scheme, self.name.nsid, &document, None);
        self.remember(None);
        self.earlier = Some(document);
    }

    fn miss(&mut self, absence: Absence, now_ns: u64) {
        self.earlier = None;
        self.remember(None);
        let since_ns = self.absent.as_ref().map_or(now_ns, |(_, since_ns)| *since_ns);
        self.absent = Some((absence, since_ns));
    }

    fn remember(&mut self, iops: Option<f64>) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(iops);
    }

    /// The rows as they are to be seen at this time.
    fn present(&self, now_ns: u64) -> Rows {
        let ms = |since_ns: u64| now_ns.saturating_sub(since_ns) / 1_000_000;
        if let Some((absence, since_ns)) = &self.absent {
            return self.rows.absent(absence.state, ms(*since_ns), Some(&absence.why));
        }
        match self.asked_ns {
            Some(asked_ns) if now_ns.saturating_sub(asked_ns) >= NO_ANSWER_NS => {
                self.rows.absent("no answer", ms(asked_ns), None)
            }
            _ => self.rows.clone(),
        }
    }
}

fn position(view: View) -> usize {
    match view {
        View::Devices => 0,
        View::Queues => 1,
    }
}

type WithHistory = (DeviceRow, Vec<Option<f64>>);

/// Sorted controllers, each followed by its namespaces, sorted too.
fn sorted_devices(rows: Vec<WithHistory>, column: &Column<DeviceRow>, reversed: bool) -> Vec<WithHistory> {
    let mut groups: Vec<Vec<WithHistory>> = Vec::new();
    for row in rows {
        match groups.last_mut() {
            Some(group) if row.0.kind == DeviceKind::Namespace => group.push(row),
            _ => groups.push(vec![row]),
        }
    }
    for group in &mut groups {
        if let Some((_, namespaces)) = group.split_first_mut() {
            namespaces.sort_by(|(left, _), (right, _)| column.compare(left, right, reversed));
        }
    }
    groups.sort_by(|left, right| match (left.first(), right.first()) {
        (Some((left, _)), Some((right, _))) => column.compare(left, right, reversed),
        _ => std::cmp::Ordering::Equal,
    });
    groups.into_iter().flatten().collect()
}
