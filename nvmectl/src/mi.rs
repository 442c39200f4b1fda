//! `mi`: what the controller's management interface says in band of its health, its configuration and itself.
//!
//! The driver serves the answers as response messages (`controller/mi/...`), to be read by anybody; they are decoded here.
//! One that is short, of another type or has a reserved value is an error with its reason.

mod config;
mod health;
mod vpd;

use clap::{Args, Subcommand};
use nvme_spec::identify::{IdentifyController, Oacs};
use nvme_spec::mi::{MalformedMessage, MiStatus};

use crate::args::Format;
use crate::error::Error;
use crate::identify;
use crate::output::Output;
use crate::tree::{Errno, Tree, TreeError, read_document};

/// Arguments of `mi`.
#[derive(Debug, Args)]
pub struct MiArgs {
    #[command(subcommand)]
    pub command: MiCommand,
}

/// What to ask.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum MiCommand {
    /// Health of the NVM subsystem and of its controllers
    Health {
        /// Exit with 9 when the device warns
        #[arg(long)]
        check: bool,
    },
    /// Settings of the management interface's ports, as far as they are told in band
    Config,
    /// Vital Product Data: who made it, and its serial number
    Vpd,
}

const IDENTIFY: &str = "controller/identify";

impl MiCommand {
    /// The documents that it reads.
    pub fn paths(self) -> &'static [&'static str] {
        match self {
            Self::Health { .. } => &[health::SUBSYSTEM, health::CONTROLLERS],
            Self::Config => &[config::PATH],
            Self::Vpd => &[vpd::PATH],
        }
    }

    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// Unsupported where the controller or the driver has no NVMe-MI; malformed answers; what reading them gives.
    pub fn run(self, tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
        check_supported(tree)?;
        match self {
            Self::Health { check } => health::run(tree, check, output),
            Self::Config => config::run(tree, output),
            Self::Vpd => vpd::run(tree, output),
        }
    }
}

/// The formats beside tables and JSON: the messages themselves.
pub const FORMATS: [Format; 2] = [Format::Raw, Format::Hex];

fn check_supported(tree: &dyn Tree) -> Result<(), Error> {
    let bytes = read_document(tree, IDENTIFY)?;
    let identify: IdentifyController = identify::decode(&bytes, IDENTIFY)?;
    if Oacs::from(identify.oacs.get()).nvme_mi() {
        return Ok(());
    }
    Err(Error::unsupported(
        "the controller has no NVMe-MI in band: it says so in Identify Controller (OACS bit 6)",
        "nvmectl smart shows its health all the same",
    ))
}

/// The answer at `path`.
fn read(tree: &dyn Tree, path: &str) -> Result<Vec<u8>, Error> {
    match read_document(tree, path) {
        Err(TreeError {
            errno: Errno::ENOENT, ..
        }) => Err(Error::unsupported(
            "the driver was built without NVMe-MI",
            "use one that was built with the feature nvme-mi",
        )),
        other => Ok(other?),
    }
}

/// Why the answer at `path` cannot be shown. `asked` is the management command.
fn failure(path: &str, asked: &str, why: MalformedMessage) -> Error {
    match why {
        MalformedMessage::Refused(
            status @ (MiStatus::INVALID_COMMAND_OPCODE | MiStatus::INVALID_PARAMETER),
        ) => Error::unsupported(
            format!("the management interface does not answer {asked} in band: {status}"),
            "of these commands a controller may leave some out",
        ),
        MalformedMessage::Refused(status) => Error::command(
            format!("the management interface refused {asked}: {status}"),
            None,
        ),
        malformed => Error::malformed(path, malformed),
    }
}
