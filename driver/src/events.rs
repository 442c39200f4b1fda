//! What happens to a driver and its controller, in order: a bounded log that readers follow.
//!
//! Events are rare, so the log is simply locked; each is written out once, when it happens. Readers hold their own
//! place ([`EventLog::since`]) and are told when there is more ([`EventListener`]).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use stats_proto::Version;
use stats_proto::event::{Event, EventLine, EventSchema};

use crate::clock::Clock;

/// Events that are kept.
pub const KEPT_EVENTS: usize = 1024;

/// Who is told that the log has grown or was closed.
pub trait EventListener: Send + Sync {
    /// Called by whoever caused the event: must not wait. The log may be read from in here.
    fn news(&self);
}

/// The events of one driver.
pub struct EventLog {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each a line of JSON with its newline.
    lines: VecDeque<Vec<u8>>,
    /// The sequence number of the first of `lines`.
    first: u64,
    closed: bool,
    listeners: Vec<Weak<dyn EventListener>>,
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }
}

/// A part of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Since {
    /// Lines of JSON. If some are not kept any more, the first line says how many ([`Event::EventsMissed`]).
    pub text: Vec<u8>,
    /// The sequence number of the event after them.
    pub next: u64,
    /// Whether they are the last.
    pub ended: bool,
}

impl EventLog {
    /// An empty log.
    pub fn new(clock: Clock) -> Self {
        let state = Mutex::default();
        Self { clock, state }
    }

    /// Adds an event; not any more when the log is closed.
    pub fn push(&self, event: Event) {
        let listeners = {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let line = self.line(state.next(), event);
            if state.lines.len() >= KEPT_EVENTS {
                state.lines.pop_front();
                state.first += 1;
            }
            state.lines.push_back(line);
            state.listeners.clone()
        };
        tell(&listeners);
    }

    /// Nothing more happens: who waits for more comes to the end.
    pub fn close(&self) {
        let listeners = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.listeners)
        };
        tell(&listeners);
    }

    /// The events from number `next` on: at least one if there is one, and no more than fit `max_bytes` beyond it.
    pub fn since(&self, next: u64, max_bytes: usize) -> Since {
        let state = self.lock();
        let (mut text, mut at) = (Vec::new(), next.max(state.first));
        if let Some(missed) = state.first.checked_sub(next).filter(|missed| *missed > 0) {
            text = self.line(next, Event::EventsMissed { missed });
        }
        let skipped = usize::try_from(at - state.first).unwrap_or(usize::MAX);
        for line in state.lines.iter().skip(skipped) {
            if at > next && text.len() + line.len() > max_bytes {
                break;
            }
            text.extend_from_slice(line);
            at += 1;
        }
        Since {
            text,
            ended: state.closed && at >= state.next(),
            next: at,
        }
    }

    /// Tells `listener` of what comes, for as long as it lives.
    pub fn listen(&self, listener: Weak<dyn EventListener>) {
        let mut state = self.lock();
        state.listeners.retain(|listener| listener.strong_count() > 0);
        state.listeners.push(listener);
    }

    fn line(&self, sequence: u64, event: Event) -> Vec<u8> {
        let line = EventLine {
            schema: EventSchema::default(),
            version: Version::EVENT,
            sequence,
            monotonic_ns: self.clock.now_ns(),
            wall_unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)),
            event,
        };
        // All that could fail is a map whose keys are no strings, and there is none.
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(listeners: &[Weak<dyn EventListener>]) {
    for listener in listeners.iter().filter_map(Weak::upgrade) {
        listener.news();
    }
}

/// Closes a log when it goes, with whatever part of the driver would have caused the last event.
pub(crate) struct EventsEnd(pub(crate) Arc<EventLog>);

impl Drop for EventsEnd {
    fn drop(&mut self) {
        // Whoever caught the panic closes it: a listener that panics too would end the process here.
        if !std::thread::panicking() {
            self.0.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::ManualClock;

    fn log() -> EventLog {
        EventLog::new(Clock::manual(ManualClock::new(7)))
    }

    fn failed(number: u64) -> Event {
        Event::ControllerFailed {
            reason: number.to_string(),
        }
    }

    fn read(since: &Since) -> Vec<(u64, Event)> {
        let text = std::str::from_utf8(&since.text).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .map(|line: EventLine| {
                assert_eq!(line.monotonic_ns, 7);
                (line.sequence, line.event)
            })
            .collect()
    }

    #[test]
    fn each_reader_keeps_its_own_place() {
        let log = log();
        let empty = log.since(0, usize::MAX);
        assert_eq!((empty.text.len(), empty.next, empty.ended), (0, 0, false));
        (0..3).for_each(|number| log.push(failed(number)));
        let all = log.since(0, usize::MAX);
        assert_eq!(read(&all), [(0, failed(0)), (1, failed(1)), (2, failed(2))]);
        assert_eq!(all.next, 3);
        // A line does not fit, but one there is at least.
        let one = log.since(1, 1);
        assert_eq!((read(&one), one.next), (vec![(1, failed(1))], 2));
        log.close();
        assert!(!log.since(1, 1).ended, "there is another");
        assert!(log.since(2, 1).ended);
        log.push(failed(9));
        let end = log.since(3, usize::MAX);
        assert_eq!((end.text.len(), end.ended), (0, true));
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_is_gone() {
        let log = log();
        let all = KEPT_EVENTS as u64 + 5;
        (0..all).for_each(|number| log.push(failed(number)));
        let since = log.since(2, 1);
        assert_eq!(
            read(&since),
            [(2, Event::EventsMissed { missed: 3 })],
            "that is one line; the next one does not fit"
        );
        let rest = log.since(since.next, usize::MAX);
        assert_eq!(rest.next, all);
        let rest = read(&rest);
        assert_eq!(rest.len(), KEPT_EVENTS);
        assert_eq!(rest.first(), Some(&(5, failed(5))));
    }

    #[test]
    fn listeners_are_told_as_long_as_they_live() {
        struct Counter(AtomicUsize);
        impl EventListener for Counter {
            fn news(&self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let log = log();
        let counters: Vec<_> = (0..2).map(|_| Arc::new(Counter(AtomicUsize::new(0)))).collect();
        for counter in &counters {
            log.listen(Arc::downgrade(counter) as Weak<dyn EventListener>);
        }
        log.push(failed(0));
        let [first, second] = counters.try_into().unwrap_or_else(|_| panic!("two"));
        drop(second);
        let third = Arc::new(Counter(AtomicUsize::new(0)));
        log.listen(Arc::downgrade(&third) as Weak<dyn EventListener>);
        assert_eq!(log.lock().listeners.len(), 2, "the dead are forgotten");
        log.close();
        assert_eq!(first.0.load(Ordering::Relaxed), 2);
        assert_eq!(third.0.load(Ordering::Relaxed), 1);
    }
}
