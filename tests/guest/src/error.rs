//! What goes wrong with a guest.

use std::path::PathBuf;
use std::time::Duration;

/// Why a guest, or something in it, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of this machine is missing.
    #[error("guests need {0}; .ci/guest gets it")]
    Missing(String),
    /// A file of this machine.
    #[error("{path}: {error}")]
    File {
        /// Its name.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Programs for the guest could not be built or looked into.
    #[error("{0}")]
    Program(String),
    /// A module that the kernel does not have.
    #[error("the guest's kernel has no module {0}")]
    Module(String),
    /// QEMU ended, or never talked.
    #[error("the guest did not boot: {reason}\n{console}")]
    Boot {
        /// What happened.
        reason: String,
        /// The end of what the guest said on its console.
        console: String,
    },
    /// The guest ended while something was asked of it.
    #[error("the guest ended while it was asked for {asked}: {reason}\n{console}")]
    Gone {
        /// What it was asked for.
        asked: String,
        /// How QEMU ended.
        reason: String,
        /// The end of what the guest said on its console.
        console: String,
    },
    /// The guest did not answer.
    #[error("no answer within {waited:?} to {asked}\n{console}")]
    Silent {
        /// What it was asked for.
        asked: String,
        /// For how long.
        waited: Duration,
        /// The end of what the guest said on its console.
        console: String,
    },
    /// A command in the guest did not end well.
    #[error(
        "in the guest: {command}\n{ended}\n-- stdout\n{stdout}\n-- stderr\n{stderr}\n-- console\n{console}"
    )]
    Command {
        /// The command.
        command: String,
        /// How it ended.
        ended: String,
        /// What it wrote.
        stdout: String,
        /// What it complained of.
        stderr: String,
        /// The end of what the guest said on its console.
        console: String,
    },
    /// The agent could not do what it was told.
    #[error("the guest's agent: {asked}: {reason}")]
    Agent {
        /// What it was asked for.
        asked: String,
        /// Why not.
        reason: String,
    },
    /// QEMU's monitor refused, or did not answer.
    #[error("QEMU's monitor: {command}: {reason}")]
    Qmp {
        /// The command.
        command: String,
        /// What was wrong.
        reason: String,
    },
}

impl Error {
    /// For `map_err` after what is done with the file `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self::File { path, error }
    }
}
