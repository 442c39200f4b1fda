//! QEMU's monitor: its machine protocol (docs/interop/qmp-spec in QEMU), a line of JSON for each message.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use std::sync::Arc;

use crate::Error;

/// For how long an answer is waited for. QEMU answers at once, unless this machine is very busy.
const ANSWER: Duration = Duration::from_secs(30);

/// The monitor of a guest that runs.
#[derive(Debug)]
pub struct Qmp {
    /// Held for a whole exchange: one command at a time.
    to: Mutex<UnixStream>,
    said: Arc<Said>,
}

/// What QEMU has said and nobody has asked for yet.
#[derive(Debug, Default)]
struct Said {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answers: Vec<Value>,
    events: Vec<Value>,
    ended: bool,
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `take` finds something, for at most `timeout`.
    fn wait<T>(&self, timeout: Duration, mut take: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(taken) = take(&mut state) {
                return Some(taken);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            state = self
                .more
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Qmp {
    /// Takes over the connection that QEMU has made.
    pub(crate) fn new(stream: UnixStream) -> Result<Self, Error> {
        let said = Arc::new(Said::default());
        let from = stream.try_clone().map_err(Error::file("QEMU's monitor"))?;
        let listening = Arc::clone(&said);
        thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || listen(from, &listening))
            .map_err(Error::file("QEMU's monitor"))?;
        let qmp = Self {
            to: Mutex::new(stream),
            said,
        };
        // The greeting needs no answer; commands are taken after this one.
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns what it returns.
    ///
    /// # Errors
    ///
    /// What QEMU says against it, or that it says nothing.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, Error> {
        let failed = |reason: String| Error::Qmp {
            command: command.to_owned(),
            reason,
        };
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(to, "{line}").map_err(|error| failed(error.to_string()))?;
        let answer = self.said.wait(ANSWER, |state| {
            (!state.answers.is_empty()).then(|| state.answers.remove(0))
        });
        drop(to);
        let answer = answer.ok_or_else(|| failed("no answer".to_owned()))?;
        if let Some(error) = answer.get("error") {
            return Err(failed(error.to_string()));
        }
        Ok(answer.get("return").cloned().unwrap_or(Value::Null))
    }

    /// Waits for an event `name` whose data has everything that `data` has. Events that came earlier count, each once.
    ///
    /// # Errors
    ///
    /// None came in time.
    pub fn event(&self, name: &str, data: &Value, timeout: Duration) -> Result<Value, Error> {
        let matches = |event: &Value| {
            event.get("event").is_some_and(|found| found == name)
                && data.as_object().is_none_or(|wanted| {
                    wanted
                        .iter()
                        .all(|(key, value)| event.get("data").and_then(|data| data.get(key)) == Some(value))
                })
        };
        self.said
            .wait(timeout, |state| {
                let index = state.events.iter().position(matches)?;
                Some(state.events.remove(index))
            })
            .ok_or_else(|| Error::Qmp {
                command: format!("event {name} with {data}"),
                reason: format!("not within {timeout:?}"),
            })
    }
}

fn listen(from: UnixStream, said: &Said) {
    for line in BufReader::new(from).lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let mut state = said.lock();
        if message.get("event").is_some() {
            state.events.push(message);
        } else if message.get("QMP").is_none() {
            state.answers.push(message);
        }
        said.more.notify_all();
    }
    said.lock().ended = true;
    said.more.notify_all();
}
