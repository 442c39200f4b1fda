//! A guest that runs.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{AGENT, CONSOLE, Folder, QMP};
use crate::process::Process;
use crate::wire::{self, Action, Ended, Reply, Request};
use crate::{Error, Qmp};

/// For how long a command may run that says nothing else.
const COMMAND: Duration = Duration::from_secs(120);
/// How much longer than the agent the host waits.
const GRACE: Duration = Duration::from_secs(30);
/// How much of the console is shown with an error.
const CONSOLE_BYTES: u64 = 8 << 10;
/// How much more than this of a command's text is not repeated in an error.
const ASKED_CHARS: usize = 2000;

/// A guest that runs. Dropped, QEMU is killed.
#[derive(Debug)]
pub struct Guest {
    agent: Mutex<UnixStream>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
    qmp: Qmp,
    output: Outputs,
    boot_time: Duration,
    process: Process,
}

/// How a command in the guest ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.ended == Ended::Exited(0)
    }

    /// With which status it exited, if it did.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        match self.ended {
            Ended::Exited(status) => Some(status),
            Ended::Signalled(_) | Ended::TimedOut => None,
        }
    }

    /// What it wrote, as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it complained of, as text.
    #[must_use]
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A command that was started in the guest.
#[derive(Debug)]
pub struct Running<'a> {
    guest: &'a Guest,
    command: String,
    deadline: Instant,
    timeout: Duration,
    answer: Receiver<Answer>,
}

/// A reply and the bytes that came with it.
type Answer = (Reply, Vec<u8>, Vec<u8>);

/// Who waits for which reply. None when no more will come.
#[derive(Debug)]
struct Waiting(Mutex<Option<HashMap<u64, Sender<Answer>>>>);

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, Sender<Answer>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Files that QEMU writes, which have lost their names when the guest runs.
#[derive(Debug)]
struct Outputs {
    console: File,
    errors: File,
}

impl Outputs {
    fn new(folder: &Folder) -> Result<Self, Error> {
        let create = |name: &str| {
            let path = folder.path(name);
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(Error::file(path))
        };
        Ok(Self {
            console: create(CONSOLE)?,
            errors: create("errors")?,
        })
    }

    /// The end of both, for an error.
    fn tail(&self) -> String {
        let mut text = String::new();
        for (name, file) in [("QEMU's stderr", &self.errors), ("console", &self.console)] {
            let end = read_end(file, CONSOLE_BYTES);
            if !end.is_empty() {
                let _ = writeln!(text, "-- {name}\n{end}");
            }
        }
        text
    }

    /// The line in which the guest's kernel gave up.
    fn panic(&self) -> Option<String> {
        read_end(&self.console, u64::MAX)
            .lines()
            .find_map(|line| Some(line.get(line.find("Kernel panic")?..)?.to_owned()))
    }
}

fn read_end(file: &File, most: u64) -> String {
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let start = bytes.saturating_sub(most);
    let mut buffer = vec![0; usize::try_from(bytes.saturating_sub(start)).unwrap_or(0)];
    let read = file.read_at(&mut buffer, start).unwrap_or(0);
    buffer.truncate(read);
    String::from_utf8_lossy(&buffer).replace('\r', "")
}

impl Guest {
    /// Starts QEMU with `command`, which connects to the sockets `agent` and `qmp` in `folder`. The folder is gone when
    /// the guest runs: QEMU has everything open.
    pub(crate) fn start(mut command: Command, folder: Folder, timeout: Duration) -> Result<Self, Error> {
        let start = Instant::now();
        let end = start + timeout;
        let output = Outputs::new(&folder)?;
        let errors = output.errors.try_clone().map_err(Error::file("QEMU's stderr"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(errors));
        let sockets: [PathBuf; 2] = [folder.path(AGENT), folder.path(QMP)];
        let [agent, qmp] = sockets.each_ref().map(|path| accept(path));
        let process = Process::start(command, sockets.to_vec())?;
        let failed = |reason: String| Error::Boot {
            reason,
            console: output.tail(),
        };
        let connected = |accepted: Receiver<std::io::Result<UnixStream>>| {
            let stream = accepted
                .recv_timeout(end.saturating_duration_since(Instant::now()))
                .map_err(|_| failed("QEMU does not connect".to_owned()))?
                .map_err(|error| failed(error.to_string()))?;
            match process.ended(Duration::ZERO) {
                Some(how) => Err(failed(how)),
                None => Ok(stream),
            }
        };
        let qmp = connected(qmp?)?;
        let agent = connected(agent?)?;
        let qmp = Qmp::new(qmp).map_err(|error| match process.ended(Duration::from_secs(1)) {
            Some(how) => failed(how),
            None => error,
        })?;
        agent
            .set_write_timeout(Some(COMMAND))
            .map_err(Error::file("the agent's port"))?;
        let from = agent.try_clone().map_err(Error::file("the agent's port"))?;
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let (ready, is_ready) = channel();
        let listening = Arc::clone(&waiting);
        thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || listen(from, &listening, &ready))
            .map_err(Error::file("the agent's port"))?;
        match is_ready.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => return Err(failed(format!("not ready within {timeout:?}"))),
            Err(RecvTimeoutError::Disconnected) => {
                let how = process
                    .ended(GRACE)
                    .unwrap_or_else(|| "its agent has ended".to_owned());
                return Err(failed(output.panic().unwrap_or(how)));
            }
        }
        Ok(Self {
            agent: Mutex::new(agent),
            waiting,
            next_id: AtomicU64::new(1),
            qmp,
            boot_time: start.elapsed(),
            output,
            process,
        })
    }

    /// Runs a line of shell. However it ends, that is no error. What it leaves running in the background must have its
    /// output sent elsewhere, since the end of that is waited for.
    ///
    /// # Errors
    ///
    /// The guest is gone or silent.
    pub fn run(&self, command: &str) -> Result<Output, Error> {
        self.start_command(command, COMMAND)?.wait()
    }

    /// Runs a line of shell, which must end well, and returns what it wrote.
    ///
    /// # Errors
    ///
    /// It did not end with 0, or wrote what is no text; otherwise as [`Guest::run`].
    pub fn check(&self, command: &str) -> Result<String, Error> {
        self.check_for(command, COMMAND)
    }

    /// As [`Guest::check`], with another time after which it is killed than two minutes.
    ///
    /// # Errors
    ///
    /// As [`Guest::check`].
    pub fn check_for(&self, command: &str, timeout: Duration) -> Result<String, Error> {
        let output = self.start_command(command, timeout)?.wait()?;
        if !output.success() {
            return Err(self.complain(command, &output));
        }
        Ok(output.text())
    }

    /// That `command` did not do what was wanted, with all that is known of it.
    #[must_use]
    pub fn complain(&self, command: &str, output: &Output) -> Error {
        Error::Command {
            command: shorten(command),
            ended: format!("{:?}", output.ended),
            stdout: output.text(),
            stderr: output.complaint(),
            console: self.output.tail(),
        }
    }

    /// Starts a line of shell, which is killed after `timeout`. Others can be run meanwhile.
    ///
    /// # Errors
    ///
    /// The guest is gone.
    pub fn start_command(&self, command: &str, timeout: Duration) -> Result<Running<'_>, Error> {
        let action = Action::Run {
            command: command.to_owned(),
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = self.ask(action, &[], command)?;
        let timeout = timeout + GRACE;
        Ok(Running {
            guest: self,
            command: command.to_owned(),
            deadline: Instant::now() + timeout,
            timeout,
            answer,
        })
    }

    /// Writes a file in the guest.
    ///
    /// # Errors
    ///
    /// It cannot be written there; the guest is gone or silent.
    pub fn put(&self, path: &str, permissions: u32, contents: &[u8]) -> Result<(), Error> {
        let action = Action::Put {
            path: path.to_owned(),
            mode: permissions,
            bytes: contents.len(),
        };
        let asked = format!("writing {path}");
        let answer = self.ask(action, contents, &asked)?;
        self.wait_for(&answer, &asked, COMMAND).map(|_| ())
    }

    /// Reads a file of the guest's.
    ///
    /// # Errors
    ///
    /// It cannot be read there; the guest is gone or silent.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let action = Action::Get {
            path: path.to_owned(),
        };
        let asked = format!("reading {path}");
        let answer = self.ask(action, &[], &asked)?;
        let (_, contents, _) = self.wait_for(&answer, &asked, COMMAND)?;
        Ok(contents)
    }

    /// QEMU's monitor.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// All that the guest has said on its console.
    #[must_use]
    pub fn console(&self) -> String {
        read_end(&self.output.console, u64::MAX)
    }

    /// From QEMU's start to the agent's first word.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    fn ask(&self, action: Action, contents: &[u8], asked: &str) -> Result<Receiver<Answer>, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(id, tell),
            None => return Err(self.gone(asked)),
        };
        let mut agent = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&mut *agent, &Request { id, action }, &[contents]).map_err(|_| self.gone(asked))?;
        Ok(told)
    }

    fn wait_for(&self, answer: &Receiver<Answer>, asked: &str, timeout: Duration) -> Result<Answer, Error> {
        match answer.recv_timeout(timeout) {
            Ok((Reply::Failed { reason, .. }, ..)) => Err(Error::Agent {
                asked: shorten(asked),
                reason,
            }),
            Ok(answer) => Ok(answer),
            Err(RecvTimeoutError::Disconnected) => Err(self.gone(asked)),
            Err(RecvTimeoutError::Timeout) => Err(Error::Silent {
                asked: shorten(asked),
                waited: timeout,
                console: self.output.tail(),
            }),
        }
    }

    fn gone(&self, asked: &str) -> Error {
        let how = self.process.ended(GRACE);
        let how = how.unwrap_or_else(|| "its agent has ended, QEMU has not".to_owned());
        Error::Gone {
            asked: shorten(asked),
            reason: self.output.panic().unwrap_or(how),
            console: self.output.tail(),
        }
    }
}

impl Running<'_> {
    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// The guest is gone or silent.
    pub fn wait(self) -> Result<Output, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let answer = self.guest.wait_for(&self.answer, &self.command, left);
        match answer {
            Ok((Reply::Ended { ended, .. }, stdout, stderr)) => Ok(Output {
                ended,
                stdout,
                stderr,
            }),
            Ok((other, ..)) => Err(Error::Agent {
                asked: shorten(&self.command),
                reason: format!("answered with {other:?}"),
            }),
            Err(Error::Silent { asked, console, .. }) => Err(Error::Silent {
                asked,
                waited: self.timeout,
                console,
            }),
            Err(error) => Err(error),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(ASKED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A thread that takes one connection at `path`. It ends when somebody connects; see [`Process::start`].
fn accept(path: &Path) -> Result<Receiver<std::io::Result<UnixStream>>, Error> {
    let listener = UnixListener::bind(path).map_err(Error::file(path))?;
    let (tell, told) = channel();
    thread::Builder::new()
        .name("accept".to_owned())
        .spawn(move || {
            let _ = tell.send(listener.accept().map(|(stream, _)| stream));
        })
        .map_err(Error::file(path))?;
    Ok(told)
}

/// Hands out what the agent says, until it says no more.
fn listen(from: UnixStream, waiting: &Waiting, ready: &Sender<()>) {
    let mut from = BufReader::new(from);
    while let Ok(Some(reply)) = wire::receive::<Reply>(&mut from) {
        let (id, sizes) = match &reply {
            Reply::Ready { .. } => {
                let _ = ready.send(());
                continue;
            }
            Reply::Ended {
                id,
                stdout_bytes,
                stderr_bytes,
                ..
            } => (*id, [*stdout_bytes, *stderr_bytes]),
            Reply::Read { id, bytes } => (*id, [*bytes, 0]),
            Reply::Written { id } | Reply::Failed { id, .. } => (*id, [0, 0]),
        };
        let [first, second] = sizes.map(|bytes| wire::receive_bytes(&mut from, bytes));
        let (Ok(first), Ok(second)) = (first, second) else {
            break;
        };
        let sender = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(sender) = sender {
            let _ = sender.send((reply, first, second));
        }
    }
    *waiting.lock() = None;
}
