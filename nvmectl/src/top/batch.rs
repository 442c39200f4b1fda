//! `top --batch`: an interval after the other on standard output, for pipes and files.

use std::time::Duration;

use super::Clock;
use super::columns::{Column, DEVICES, QUEUES};
use super::load::Running;
use super::model::{Model, View};
use super::rows::TopDocument;
use super::sampler::{Sampler, absence};
use crate::args::Format;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::style::{Style, Tone};

/// How long an answer is waited for at a time, so that an interrupt is soon seen.
const PIECE: Duration = Duration::from_millis(20);

/// What ends a batch and what its lines look like.
pub struct Batch<'r> {
    /// Intervals to print; without an end where `None`.
    pub count: Option<u64>,
    /// Whose rows a table or CSV has.
    pub view: View,
    /// What the embedded driver is made to do.
    pub load: Option<&'r Running>,
}

/// Prints intervals until enough are printed or the user interrupts.
///
/// # Errors
/// No driver gave a first document: why the first one did not; interrupted; those of the output.
pub fn run(
    model: &mut Model,
    sampler: &Sampler,
    batch: &Batch,
    interrupt: &Interrupt,
    output: &mut Output,
) -> Result<(), Error> {
    let clock = Clock::start();
    let mut printed = 0;
    let mut in_round = false;
    let mut first_round = FirstRound::default();
    while batch.count.is_none_or(|count| printed < count) {
        if interrupt.requested() {
            return Err(Error::Interrupted);
        }
        if let Some(error) = batch.load.and_then(Running::failure) {
            return Err(error);
        }
        let now = clock.now();
        // A round is over when all have answered, or when the next one begins: then without those who have not.
        let is_over =
            !model.is_waiting() || model.next_turn_ns().is_some_and(|next| now.monotonic_ns >= next);
        if in_round && is_over {
            in_round = false;
            if first_round.is_over(model.is_waiting())? {
                let document = document(model, &clock);
                print(&document, batch.view, printed == 0, output)?;
                printed += 1;
                continue;
            }
        }
        if let Some(sources) = model.turn(now) {
            in_round = true;
            for source in sources {
                sampler.ask(source);
            }
        }
        let until_next = clock.until(model.next_turn_ns());
        if let Some(answer) = sampler.answer(until_next.min(PIECE)) {
            let heard = match answer.document {
                Ok(document) => {
                    first_round.heard(Ok(()));
                    Ok(document)
                }
                Err(error) => {
                    let absence = absence(&error);
                    first_round.heard(Err(error));
                    Err(absence)
                }
            };
            model.hear(answer.source, heard, clock.now());
        }
    }
    Ok(())
}

/// The first documents make no interval. If there is not one of them, there is nothing to watch.
#[derive(Default)]
struct FirstRound {
    one_is_good: bool,
    error: Option<Error>,
    over: bool,
}

impl FirstRound {
    fn heard(&mut self, answer: Result<(), Error>) {
        match answer {
            Ok(()) => self.one_is_good = true,
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    /// False for the round that is the first.
    fn is_over(&mut self, waiting: bool) -> Result<bool, Error> {
        if self.over {
            return Ok(true);
        }
        self.over = true;
        match self.error.take() {
            Some(error) if !self.one_is_good && !waiting => Err(error),
            _ => Ok(false),
        }
    }
}

fn document(model: &Model, clock: &Clock) -> TopDocument {
    let shown = model.rows(clock.now());
    TopDocument {
        schema: "nvmectl-top",
        version: "1.0",
        time_unix_ms: clock.unix_ms(),
        devices: shown.devices.into_iter().map(|(row, _)| row).collect(),
        queues: shown.queues,
    }
}

fn print(document: &TopDocument, view: View, is_first: bool, output: &mut Output) -> Result<(), Error> {
    match (output.format, view) {
        (Format::Jsonl, _) => output.json_line(document),
        (Format::Json, _) => output.json(document),
        (Format::Csv, View::Devices) => {
            let text = csv(&DEVICES, &document.devices, document.time_unix_ms, is_first);
            output.text(&text)
        }
        (Format::Csv, View::Queues) => {
            let text = csv(&QUEUES, &document.queues, document.time_unix_ms, is_first);
            output.text(&text)
        }
        (_, View::Devices) => {
            let text = table(&DEVICES, &document.devices, &output.style, |row| {
                row.absent_ms.is_some()
            });
            let notes = document.devices.iter().filter_map(|row| {
                let why = row.why.as_deref()?;
                Some(format!("{}: {why}\n", row.device))
            });
            let notes: String = notes.collect();
            output.text(&format!("{text}{notes}\n"))
        }
        (_, View::Queues) => {
            let text = table(&QUEUES, &document.queues, &output.style, |row| row.absent);
            output.text(&format!("{text}\n"))
        }
    }
}

fn table<R>(columns: &[Column<R>], rows: &[R], style: &Style, is_absent: fn(&R) -> bool) -> String {
    let titles: Vec<(String, crate::style::Align)> = columns
        .iter()
        .map(|column| (column.title(style.units), column.align(rows)))
        .collect();
    let titles: Vec<(&str, crate::style::Align)> = titles
        .iter()
        .map(|(title, align)| (title.as_str(), *align))
        .collect();
    let mut table = style.table(&titles);
    for row in rows {
        let tone = if is_absent(row) {
            Tone::Warning
        } else {
            Tone::Plain
        };
        table.toned_row(
            columns
                .iter()
                .map(|column| ((column.value)(row).text(style.units), tone)),
        );
    }
    table.lines(0)
}

fn csv<R>(columns: &[Column<R>], rows: &[R], time_unix_ms: u64, with_header: bool) -> String {
    let mut text = String::new();
    if with_header {
        text.push_str("time_unix_ms");
        for column in columns {
            text.push(',');
            text.push_str(column.key);
        }
        text.push('\n');
    }
    for row in rows {
        text.push_str(&time_unix_ms.to_string());
        for column in columns {
            text.push(',');
            text.push_str(&(column.value)(row).csv());
        }
        text.push('\n');
    }
    text
}
