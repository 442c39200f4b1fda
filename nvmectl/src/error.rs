//! What can go wrong, said in full: what, why, what to do next, and the exit code.

use std::io;
use std::path::PathBuf;

use nvme_driver::backend::BackendError;
use serde::Serialize;

use crate::platform;
use crate::style::printable;
use crate::tree::{DEFAULT_SCHEME, Errno, TreeError};

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or the environment asks for what does not exist or does not fit together.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// No driver serves a tree at `root`.
    #[error("no driver is running: {}: {why}", root.display())]
    NoDriver { root: PathBuf, why: io::Error },
    /// What is at `root`, this user may not look at.
    #[error("this user may not look into {}: {why}", root.display())]
    RootDenied { root: PathBuf, why: io::Error },
    /// A driver's tree is still mounted at `root`, but the driver is gone.
    #[error("the driver that served {} has ended", root.display())]
    DriverEnded { root: PathBuf },
    /// Several drivers are running, and one has to be chosen.
    #[error("there are {count} controllers, and this needs to know which: {found}")]
    SeveralDrivers { count: usize, found: String },
    /// No driver serves a tree of this name.
    #[error("no driver is running as {scheme}:")]
    NoScheme { scheme: String, found: String },
    /// The controller has no namespace.
    #[error("the controller has no namespace")]
    NoNamespaces,
    /// The controller has namespaces, but not this one.
    #[error("there is no namespace {scheme}:{nsid}")]
    NoNamespace {
        scheme: String,
        nsid: u32,
        found: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The embedded driver did not start.
    #[error("the driver did not start: {0}")]
    Start(#[source] nvme_driver::Error),
    /// What a file holds is not what it should hold.
    #[error("{scheme}:{path} is not understood: {why}")]
    Malformed {
        scheme: String,
        path: String,
        why: String,
    },
    /// The device or the driver ended a benchmark.
    #[error("the benchmark failed: {message}")]
    Bench { message: String, errno: Errno },
    /// A benchmark ran to its end, and the device failed some of its requests.
    #[error("{count} requests failed: {statuses}")]
    RequestsFailed {
        count: u64,
        /// Each status with its count, the most frequent first.
        statuses: String,
        /// The device ends with this command, so that nothing more can be learnt from it.
        embedded: bool,
    },
    /// The controller or the driver does not have what was asked for.
    #[error("{message}")]
    Unsupported { message: String, hint: String },
    /// The device failed the command, or the driver did not let it pass.
    #[error("{message}")]
    Command {
        exit_code: u8,
        message: String,
        hint: Option<String>,
    },
    /// A function of PCI cannot be given to a driver.
    #[error("{message}")]
    Bind {
        exit_code: u8,
        message: String,
        hint: String,
    },
    /// Refused, because it would destroy data.
    #[error("refused: {lost}")]
    Refused { lost: String, hint: String },
    /// The device warns, and the command was asked to say so.
    #[error("the device warns: {warnings}")]
    HealthWarning { warnings: String },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl Error {
    /// A usage error.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Something that the controller or the driver does not have.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Unsupported {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A command that the device failed.
    pub fn command(message: impl Into<String>, hint: Option<String>) -> Self {
        Self::Command {
            exit_code: 1,
            message: message.into(),
            hint,
        }
    }

    /// An embedded driver on `spec` that did not start: the user's error where `spec` is, else the device's.
    pub fn start(spec: &str, error: nvme_driver::Error) -> Self {
        match error {
            nvme_driver::Error::Backend(BackendError::Emulator(why)) => {
                let why = why.strip_prefix("emulator: ").unwrap_or(&why);
                let why = why.replace("?; keys", "? Keys").replace("?;", "?");
                Self::usage(
                    format!("--emulate={spec}: {why}"),
                    "SPEC is key=value,... such as size=4GiB,namespaces=2,latency=80us, or nothing at all",
                )
            }
            error => Self::Start(error),
        }
    }

    /// A document that cannot be used.
    pub fn malformed(path: &str, why: impl ToString) -> Self {
        Self::Malformed {
            scheme: DEFAULT_SCHEME.to_owned(),
            path: path.to_owned(),
            why: why.to_string(),
        }
    }

    /// That one of the drivers of these schemes has to be chosen.
    pub fn several_drivers<'s>(schemes: impl Iterator<Item = &'s str>) -> Self {
        let names: Vec<String> = schemes.map(|scheme| format!("{scheme}:")).collect();
        Self::SeveralDrivers {
            count: names.len(),
            found: names.join(", "),
        }
    }

    /// Why the tree at `root` cannot be used.
    pub fn no_tree(root: PathBuf, why: io::Error) -> Self {
        match why.raw_os_error().map(Errno) {
            Some(ENOTCONN | Errno::ESHUTDOWN | ECONNABORTED) => Self::DriverEnded { root },
            _ if why.kind() == io::ErrorKind::PermissionDenied => Self::RootDenied { root, why },
            _ => Self::NoDriver { root, why },
        }
    }

    /// The same error, of a file in the tree of the scheme `name`.
    #[must_use]
    pub fn in_scheme(mut self, name: &str) -> Self {
        match &mut self {
            Self::Tree(error) => error.scheme = Some(name.to_owned()),
            Self::Malformed { scheme, .. } => name.clone_into(scheme),
            _ => {}
        }
        self
    }

    /// The exit code, as `nvmectl --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::SeveralDrivers { .. } => 2,
            Self::DriverEnded { .. } => 5,
            Self::RootDenied { .. } => 3,
            Self::NoDriver { .. } | Self::NoScheme { .. } | Self::NoNamespaces | Self::NoNamespace { .. } => {
                4
            }
            // What the driver refuses about a job is what the command line asked for.
            Self::Bench {
                errno: Errno::EINVAL, ..
            } => 2,
            Self::Tree(TreeError { errno, .. }) | Self::Bench { errno, .. } => exit_code_of(*errno),
            Self::Start(error) => exit_code_of_start(error),
            Self::Malformed { .. } | Self::RequestsFailed { .. } => 1,
            Self::Unsupported { .. } => 6,
            Self::Bind { exit_code, .. } | Self::Command { exit_code, .. } => *exit_code,
            Self::Refused { .. } => 8,
            Self::HealthWarning { .. } => 9,
            Self::Interrupted => 130,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => 1,
        }
    }

    /// A name for programs, stable between versions.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Usage { .. } => "usage",
            Self::NoDriver { .. } | Self::NoScheme { .. } => "no_driver",
            Self::RootDenied { .. } => "root_denied",
            Self::DriverEnded { .. } => "driver_ended",
            Self::SeveralDrivers { .. } => "several_drivers",
            Self::NoNamespaces | Self::NoNamespace { .. } => "no_namespace",
            Self::Tree(_) => "tree",
            Self::Start(_) => "start",
            Self::Malformed { .. } => "malformed",
            Self::Bench { .. } => "bench",
            Self::RequestsFailed { .. } => "requests_failed",
            Self::Unsupported { .. } => "unsupported",
            Self::Command { .. } => "command",
            Self::Bind { .. } => "bind",
            Self::Refused { .. } => "refused",
            Self::HealthWarning { .. } => "health_warning",
            Self::Interrupted => "interrupted",
            Self::Output(_) => "output",
        }
    }

    /// What to do next, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage { hint, .. }
            | Self::Refused { hint, .. }
            | Self::Bind { hint, .. }
            | Self::Unsupported { hint, .. } => hint.clone(),
            Self::Command { hint, .. } => hint.clone()?,
            Self::RootDenied { .. } => {
                "run as a user who may, name another folder with --root or NVME_ROOT, or add --emulate"
                    .to_owned()
            }
            Self::NoDriver { .. } => platform::HERE.no_driver.to_owned(),
            Self::DriverEnded { .. } => platform::HERE.driver_ended.to_owned(),
            Self::SeveralDrivers { .. } => {
                "name the device with its scheme, as in -d nvme:1 or -d nvme:controller".to_owned()
            }
            Self::NoScheme { found, .. } => format!("there is {found}; nvmectl list shows what they drive"),
            Self::NoNamespaces => "nvmectl identify --controller shows what the controller has".to_owned(),
            Self::NoNamespace { found, .. } => format!("there is {found}"),
            Self::Tree(TreeError { errno, .. }) | Self::Bench { errno, .. } => hint_of(*errno)?.to_owned(),
            Self::RequestsFailed { embedded: true, .. } => return None,
            Self::RequestsFailed { .. } => {
                "nvmectl error-log shows what the device says about them".to_owned()
            }
            Self::Malformed { .. } => {
                "driver and nvmectl may be of different versions: compare --version".to_owned()
            }
            Self::Start(_) | Self::HealthWarning { .. } | Self::Interrupted | Self::Output(_) => return None,
        };
        Some(hint)
    }

    /// True where nothing is to be said: the reader of the output has gone away, or the user has ended the command.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Interrupted) || self.exit_code() == 0
    }

    /// The text for stderr: two lines at most, without a newline at the end.
    pub fn text(&self) -> String {
        let text = match self.hint() {
            Some(hint) => format!("error: {self}\n hint: {hint}"),
            None => format!("error: {self}"),
        };
        printable(&text, false).into_owned()
    }

    /// The same as one line of JSON.
    pub fn json(&self) -> String {
        ErrorDocument::new(self.name(), self.to_string(), self.hint(), self.exit_code()).to_line()
    }
}

/// An error as JSON, for those who asked for JSON: one line on stderr, after the text.
#[derive(Debug, Serialize)]
pub struct ErrorDocument {
    schema: &'static str,
    version: &'static str,
    error: &'static str,
    message: String,
    hint: Option<String>,
    exit_code: u8,
}

impl ErrorDocument {
    /// The document of one error.
    pub fn new(error: &'static str, message: String, hint: Option<String>, exit_code: u8) -> Self {
        Self {
            schema: "nvmectl-error",
            version: "1.0",
            error,
            message,
            hint,
            exit_code,
        }
    }

    /// One line of JSON, without the newline.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Transport endpoint is not connected: the daemon behind a mount is gone.
const ENOTCONN: Errno = Errno(107);
/// Software caused connection abort: a mount that was taken down while it was used.
const ECONNABORTED: Errno = Errno(103);
/// Function not implemented.
const ENOSYS: Errno = Errno(38);

fn exit_code_of(errno: Errno) -> u8 {
    match errno {
        Errno::EPERM | Errno::EACCES => 3,
        Errno::ENOENT => 4,
        Errno::ENXIO | Errno::ENODEV | Errno::ETIMEDOUT | Errno::ESHUTDOWN | ENOTCONN | ECONNABORTED => 5,
        Errno::EOPNOTSUPP | ENOSYS => 6,
        _ => 1,
    }
}

fn hint_of(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::EPERM | Errno::EACCES => {
            "it needs root (data: whoever owns the device); list, identify, smart, mi, error-log, stats and top need \
             no privilege"
        }
        Errno::ENOENT => "nvmectl list shows what there is",
        Errno::EIO => "nvmectl error-log and nvmectl smart show what the device says about it",
        Errno::EBUSY => "someone else uses it: wait, or end what uses it",
        Errno::EAGAIN | Errno::ENOMEM | Errno::ENFILE => "the driver has no room for it now: try again later",
        Errno::ENXIO | Errno::ENODEV | Errno::ETIMEDOUT => {
            "the device is gone or does not answer: nvmectl stats shows its state and the oldest command still out"
        }
        Errno::ESHUTDOWN | ENOTCONN | ECONNABORTED => platform::HERE.ended_meanwhile,
        Errno::EOPNOTSUPP | ENOSYS => {
            "this controller or this driver does not have it: nvmectl identify shows what there is"
        }
        _ => return None,
    })
}

/// A driver that does not come up: bad settings are the user's, silence is a lost device, the rest an error of the device.
fn exit_code_of_start(error: &nvme_driver::Error) -> u8 {
    use nvme_driver::Error as Start;
    match error {
        Start::Config(_) => 2,
        Start::Absent
        | Start::NotReady { .. }
        | Start::AdminTimeout { .. }
        | Start::ShutdownTimeout { .. } => 5,
        Start::Unsupported { .. } => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Operation;

    #[test]
    fn errnos_become_exit_codes() {
        for (errno, exit_code) in [
            (Errno::EACCES, 3),
            (Errno::EPERM, 3),
            (Errno::ENOENT, 4),
            (Errno::ENODEV, 5),
            (Errno::ETIMEDOUT, 5),
            (Errno::EOPNOTSUPP, 6),
            (Errno::EIO, 1),
            (Errno::EINVAL, 1),
            (Errno(-7), 1),
        ] {
            assert_eq!(
                Error::from(TreeError::new(Operation::Read, "1/stats", errno)).exit_code(),
                exit_code,
                "{errno}"
            );
        }
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do_next() {
        let why = io::Error::from(io::ErrorKind::NotFound);
        let error = Error::NoDriver {
            root: PathBuf::from("/run/scheme/nvme"),
            why,
        };
        assert_eq!(
            error.text(),
            "error: no driver is running: /run/scheme/nvme: entity not found\n \
             hint: start nvme-driver, name its folder with --root or NVME_ROOT, or add --emulate"
        );
        let json: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
        assert_eq!(json["schema"], "nvmectl-error");
        assert_eq!(json["error"], "no_driver");
        assert_eq!(json["exit_code"], 4);
        assert!(json["hint"].as_str().unwrap().contains("--emulate"));
    }

    #[test]
    fn a_driver_that_ended_is_told_from_one_that_never_was() {
        let of = |errno: i32| {
            let root = PathBuf::from("/run/scheme/nvme");
            Error::no_tree(root, io::Error::from_raw_os_error(errno))
        };
        let ended = of(ENOTCONN.0);
        assert_eq!((ended.exit_code(), ended.name()), (5, "driver_ended"));
        assert_eq!(
            ended.text(),
            "error: the driver that served /run/scheme/nvme has ended\n \
             hint: start nvme-driver again, or add --emulate"
        );
        assert_eq!((of(2).exit_code(), of(2).name()), (4, "no_driver"));
        assert_eq!((of(13).exit_code(), of(13).name()), (3, "root_denied"));
        let denied = of(13).text();
        assert!(
            denied.starts_with("error: this user may not look into /run/scheme/nvme: ")
                && !denied.contains("driver is running"),
            "{denied}"
        );
    }

    #[test]
    fn a_missing_privilege_is_said_with_what_needs_none() {
        let error = Error::from(TreeError::new(Operation::Open, "1/bench", Errno::EACCES));
        let error = error.in_scheme("nvme.pci-00-02.0");
        assert_eq!(error.exit_code(), 3);
        let text = error.text();
        assert!(
            text.starts_with("error: cannot open nvme.pci-00-02.0:1/bench: "),
            "{text}"
        );
        for part in ["needs root", "owns the device", "stats and top need no privilege"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = Error::Output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(closed.is_silent());
        assert_eq!(closed.exit_code(), 0);
        let full = Error::Output(io::Error::from(io::ErrorKind::StorageFull));
        assert!(!full.is_silent());
        assert_eq!(full.exit_code(), 1);
    }
}
