//! What can go wrong, with what to do about it.

use nvme_spec::Status;

use crate::backend::BackendError;
use crate::config::ConfigError;

/// Why the driver could not be brought up, or could not do something for the controller as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The place where the driver runs.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Every register reads all ones.
    #[error("the controller does not answer: its registers read all ones; it was removed or lost power")]
    Absent,
    /// CSTS.RDY did not become what it should in time.
    #[error(
        "the controller did not become {wanted} within {timeout_ms} ms (CAP.TO), CSTS is {csts:#010x}; \
         reset it or power-cycle it"
    )]
    NotReady {
        /// `ready` or `disabled`.
        wanted: &'static str,
        /// The bound.
        timeout_ms: u64,
        /// Controller Status as it was then.
        csts: u32,
    },
    /// CSTS.CFS is set.
    #[error(
        "the controller reports a fatal error (CSTS.CFS) while {doing}; reset it or power-cycle it, and look at its \
         error log"
    )]
    Fatal {
        /// What was going on.
        doing: &'static str,
    },
    /// A property of the controller that this driver cannot work with.
    #[error("this controller cannot be driven: {what}")]
    Unsupported {
        /// The property, with its value.
        what: String,
    },
    /// An admin command failed.
    #[error("the controller refused {command}: {status}")]
    Admin {
        /// The command.
        command: &'static str,
        /// Its status.
        status: Status,
    },
    /// An admin command was not answered.
    #[error("the controller did not answer {command} within {timeout_ms} ms; reset it or power-cycle it")]
    AdminTimeout {
        /// The command.
        command: &'static str,
        /// The bound.
        timeout_ms: u64,
    },
    /// Shutdown processing did not end in time.
    #[error(
        "the controller did not finish its shutdown within {timeout_ms} ms; what was not flushed may be lost"
    )]
    ShutdownTimeout {
        /// The bound.
        timeout_ms: u64,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}; the limit on processes may be too low")]
    Thread(String),
    /// A thread of the driver panicked: an error in it, or in a client's `Answer` or `Load`.
    #[error("a thread of the driver panicked; everything it had was answered as lost")]
    Panicked,
}

/// Why a request was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The controller's answer to one of its commands (the first that failed).
    #[error("{0}")]
    Status(Status),
    /// The controller failed or is gone; whether the request was done is not known.
    #[error("the controller failed or was removed; whether the request was done is not known")]
    Lost,
    /// The driver is shutting down.
    #[error("the driver is shutting down")]
    Stopped,
    /// No namespace has that number.
    #[error("there is no such namespace")]
    NoNamespace,
    /// The namespace has a format that this driver does not use.
    #[error("the namespace has a format that this driver does not use; its state says which")]
    Unusable,
    /// Beyond the end of the namespace.
    #[error("beyond the end of the namespace")]
    OutOfRange,
    /// The buffer does not hold as many blocks.
    #[error("the buffer is smaller than the blocks asked for")]
    BufferTooSmall,
    /// A length of 0 blocks.
    #[error("a length of 0 blocks")]
    Empty,
    /// A client's own command that is the driver's alone, changes what the driver relies on, or would move another amount
    /// of data than its buffer holds.
    #[error(
        "this command may not be sent: it is the driver's alone, is not known, or its buffer does not fit"
    )]
    NotAllowed,
    /// Too much is waiting already.
    #[error("too many requests are waiting; try again when some are answered")]
    Busy,
}
