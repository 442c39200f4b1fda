//! `top` on a terminal: keys in, [`super::layout`]'s lines out. Everything else is the model's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::Frame;
use ratatui::style::{Color, Modifier, Style as Paint};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::Clock;
use super::layout::{self, Look, Tone};
use super::load::Running;
use super::model::{Action, Model, Now, View};
use super::sampler::{Sampler, absence};
use super::screen::Screen;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::style::Style;

/// How long the screen may show a size or a signal's consequence too late. Not every system tells of a new size.
const LONGEST_SLEEP: Duration = Duration::from_millis(200);
/// How often it is looked whether a driver that was asked has answered.
const ANSWER_SLEEP: Duration = Duration::from_millis(20);

/// Shows `model` until a key or a signal ends it, or `count` intervals have been shown.
///
/// # Errors
/// Interrupted, by a signal; why the load has ended; those of the terminal.
pub fn run(
    model: &mut Model,
    sampler: &Sampler,
    load: Option<&Running>,
    count: Option<u64>,
    interrupt: &Interrupt,
    style: &Style,
) -> Result<(), Error> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut screen = Screen::enter(out)?;
    let events = events()?;
    let clock = Clock::start();
    let mut drawn = None;
    let mut rounds: u64 = 0;
    while !model.wants_to_quit() {
        if interrupt.requested() {
            return Err(Error::Interrupted);
        }
        if let Some(error) = load.and_then(Running::failure) {
            return Err(error);
        }
        if !screen.is_taken() {
            return Err(Error::Output(io::Error::other(
                "a thread of nvmectl has panicked",
            )));
        }
        if let Some(sources) = model.turn(clock.now()) {
            rounds += 1;
            // The first round makes no interval yet, and the last interval is to be seen.
            if count.is_some_and(|count| rounds > count.saturating_add(1)) {
                return Ok(());
            }
            for source in sources {
                sampler.ask(source);
            }
        }
        while let Some(answer) = sampler.answer(Duration::ZERO) {
            let document = answer.document.map_err(|error| absence(&error));
            model.hear(answer.source, document, clock.now());
            drawn = None;
        }
        let size = screen.terminal().size()?;
        model.resize(size.width, size.height);
        // What waits is drawn anew each second, since it shows for how long.
        let moment = (size, clock.now().monotonic_ns / 1_000_000_000);
        if drawn != Some(moment) {
            let now = clock.now();
            screen.terminal().draw(|frame| draw(frame, model, now, style))?;
            drawn = Some(moment);
        }
        let patience = if model.is_waiting() {
            ANSWER_SLEEP
        } else {
            LONGEST_SLEEP
        };
        match events.recv_timeout(patience.min(clock.until(model.next_turn_ns()))) {
            Ok(event) => {
                if let Event::Key(key) = event?
                    && let Some(action) = action(key)
                {
                    model.act(action, clock.now());
                }
                drawn = None;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Output(io::Error::other("the terminal gives no more keys")));
            }
        }
    }
    Ok(())
}

/// Keys and sizes, read on a thread of its own: on a terminal that is gone the read never returns, and the signal that
/// says so has to be seen nevertheless. The thread ends with the process.
fn events() -> io::Result<Receiver<io::Result<Event>>> {
    let (heard, events) = channel();
    thread::Builder::new()
        .name("top-keys".to_owned())
        .spawn(move || {
            loop {
                let event = event::read();
                let is_last = event.is_err();
                if heard.send(event).is_err() || is_last {
                    return;
                }
            }
        })?;
    Ok(events)
}

/// What a key asks for.
fn action(key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if control => Action::Quit,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char('q' | 'Q') => Action::Quit,
        KeyCode::Esc => Action::Back,
        KeyCode::Char('?' | 'h') => Action::Help,
        KeyCode::Char('1') => Action::Show(View::Devices),
        KeyCode::Char('2') => Action::Show(View::Queues),
        KeyCode::Char('s') => Action::SortNext,
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Char(' ') => Action::Pause,
        KeyCode::Char('+' | '=') => Action::Slower,
        KeyCode::Char('-' | '_') => Action::Faster,
        KeyCode::Up | KeyCode::Char('k') => Action::Scroll(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Scroll(1),
        KeyCode::PageUp => Action::Page(-1),
        KeyCode::PageDown => Action::Page(1),
        KeyCode::Home | KeyCode::Char('g') => Action::Home,
        KeyCode::End | KeyCode::Char('G') => Action::End,
        _ => return None,
    })
}

/// Draws what there is to see now.
pub fn draw(frame: &mut Frame, model: &mut Model, now: Now, style: &Style) {
    let area = frame.area();
    model.resize(area.width, area.height);
    let lines: Vec<Line> = layout::lines(model, now, style.units)
        .into_iter()
        .map(|line| {
            let spans = line
                .into_iter()
                .map(|(text, look)| Span::styled(text, paint(look, style.color)));
            Line::from_iter(spans)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// How a piece looks; without colour by weight alone.
fn paint(look: Look, color: bool) -> Paint {
    let colored = |color_of: Color| {
        if color {
            Paint::new().fg(color_of)
        } else {
            Paint::new()
        }
    };
    match look {
        Look::Toned(Tone::Plain) => Paint::new(),
        Look::Toned(Tone::Heading) => Paint::new().add_modifier(Modifier::BOLD),
        Look::Toned(Tone::Good) => colored(Color::Green),
        Look::Toned(Tone::Warning) => colored(Color::Yellow),
        Look::Toned(Tone::Bad) => colored(Color::Red).add_modifier(Modifier::BOLD),
        Look::Faded => colored(Color::DarkGray).add_modifier(Modifier::DIM),
        Look::Marked => Paint::new().add_modifier(Modifier::REVERSED),
    }
}
