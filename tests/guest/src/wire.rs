//! What is said over the serial port: a line of JSON each way, and behind it as many raw bytes as the line says.

use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The name of the port, by which the agent finds it.
pub const PORT: &str = "nvme-guest";

/// The longest line.
const LINE_BYTES: u64 = 1 << 20;

/// What the host asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host, repeated in the reply. Several may be under way.
    pub id: u64,
    /// What to do.
    pub action: Action,
}

/// What can be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Action {
    /// Run a line of shell.
    Run {
        /// The line.
        command: String,
        /// After this long it is killed, with all that it started in its process group.
        timeout_ms: u64,
    },
    /// Write a file; its bytes follow.
    Put {
        /// Its name.
        path: String,
        /// Its permissions.
        mode: u32,
        /// How many bytes follow.
        bytes: usize,
    },
    /// Read a file.
    Get {
        /// Its name.
        path: String,
    },
}

/// What the agent says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Reply {
    /// Once, when it is ready.
    Ready {
        /// Since the kernel started.
        uptime_ms: u64,
    },
    /// A command has ended; what it wrote follows, first stdout.
    Ended {
        /// The request's.
        id: u64,
        /// How.
        ended: Ended,
        /// Bytes of stdout.
        stdout_bytes: usize,
        /// Bytes of stderr, after those.
        stderr_bytes: usize,
    },
    /// A file was written.
    Written {
        /// The request's.
        id: u64,
    },
    /// A file was read; its bytes follow.
    Read {
        /// The request's.
        id: u64,
        /// How many bytes follow.
        bytes: usize,
    },
    /// It could not be done.
    Failed {
        /// The request's.
        id: u64,
        /// Why.
        reason: String,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself.
    Exited(i32),
    /// By a signal that it got from elsewhere.
    Signalled(i32),
    /// It took too long and was killed.
    TimedOut,
}

/// Sends one line with the bytes that belong to it.
///
/// # Errors
///
/// Those of `to`.
pub fn send(to: &mut impl Write, line: &impl Serialize, bytes: &[&[u8]]) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    to.write_all(&text)?;
    for part in bytes {
        to.write_all(part)?;
    }
    to.flush()
}

/// Receives a line. None at the end.
///
/// # Errors
///
/// Those of `from`, and a line that is too long or not what is expected.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *from, LINE_BYTES).read_until(b'\n', &mut line)?;
    if read == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Receives bytes that a line has announced.
///
/// # Errors
///
/// Those of `from`, also when it ends too early.
pub fn receive_bytes(from: &mut impl BufRead, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; bytes];
    from.read_exact(&mut buffer)?;
    Ok(buffer)
}
