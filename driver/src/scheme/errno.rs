//! Error numbers, as every client of a file system knows them.

use std::fmt;

use nvme_spec::Status;

use crate::error::IoError;

/// Why a call failed: the number that the client's system call returns. The numbers are those of Linux, which
/// Redox shares. An open set: any number is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Self = Self($number);)*

            /// What the number means, in words; `"unknown error"` for one that is not listed here.
            pub const fn message(self) -> &'static str {
                match self.0 {
                    $($number => $text,)*
                    _ => "unknown error",
                }
            }

            /// The constant's name, such as `ENOENT`.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "operation not permitted";
    ENOENT = 2, "no such file or directory";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "resource temporarily unavailable, try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "permission denied";
    EFAULT = 14, "bad address";
    EBUSY = 16, "device or resource busy";
    ENODEV = 19, "no such device";
    ENOTDIR = 20, "not a directory";
    EISDIR = 21, "is a directory";
    EINVAL = 22, "invalid argument";
    ENFILE = 23, "too many open files in system";
    EMFILE = 24, "too many open files";
    ENOSPC = 28, "no space left on device";
    EROFS = 30, "read-only file system";
    ENAMETOOLONG = 36, "file name too long";
    ENOLCK = 37, "no lock to be had";
    EBADMSG = 74, "bad message";
    EOPNOTSUPP = 95, "operation not supported";
    ESHUTDOWN = 108, "the driver has shut down";
    ETIMEDOUT = 110, "timed out";
    ECANCELED = 125, "canceled";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.message()),
            None => write!(f, "{} (errno {})", self.message(), self.0),
        }
    }
}

impl std::error::Error for Errno {}

impl From<Status> for Errno {
    /// What a client is told about a command that the controller failed. The exact status is counted in
    /// `stats`.
    fn from(status: Status) -> Self {
        let is = |one_of: &[Status]| one_of.iter().any(|other| status.is(*other));
        if is(&[
            Status::INVALID_OPCODE,
            Status::INVALID_LOG_PAGE,
            Status::INVALID_FIELD,
        ]) {
            Self::EOPNOTSUPP
        } else if is(&[Status::CAPACITY_EXCEEDED]) {
            Self::ENOSPC
        } else if is(&[
            Status::NAMESPACE_WRITE_PROTECTED,
            Status::ATTEMPTED_WRITE_TO_READ_ONLY_RANGE,
        ]) {
            Self::EROFS
        } else if is(&[Status::ACCESS_DENIED, Status::OPERATION_DENIED]) {
            Self::EACCES
        } else if is(&[
            Status::RESERVATION_CONFLICT,
            Status::FORMAT_IN_PROGRESS,
            Status::SANITIZE_IN_PROGRESS,
        ]) {
            Self::EBUSY
        } else if is(&[
            Status::END_TO_END_GUARD_CHECK_ERROR,
            Status::END_TO_END_APPLICATION_TAG_CHECK_ERROR,
            Status::END_TO_END_REFERENCE_TAG_CHECK_ERROR,
        ]) {
            Self::EBADMSG
        } else {
            Self::EIO
        }
    }
}

impl From<IoError> for Errno {
    fn from(error: IoError) -> Self {
        match error {
            IoError::Status(status) => status.into(),
            IoError::Lost | IoError::NoNamespace => Self::ENODEV,
            IoError::Stopped => Self::ESHUTDOWN,
            IoError::Unusable => Self::EOPNOTSUPP,
            // The scheme checks bounds against the namespace's size: if the driver disagrees, it shrank in
            // between.
            IoError::OutOfRange => Self::ENXIO,
            IoError::BufferTooSmall | IoError::Empty => Self::EINVAL,
            IoError::NotAllowed => Self::EPERM,
            IoError::Busy => Self::EAGAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_says_its_name_and_meaning() {
        assert_eq!(Errno::ENOENT.to_string(), "no such file or directory (ENOENT)");
        assert_eq!(Errno(9999).to_string(), "unknown error (errno 9999)");
        assert_eq!(Errno(13), Errno::EACCES);
    }

    #[test]
    fn a_status_keeps_its_meaning_whatever_its_retry_bits() {
        assert_eq!(
            Errno::from(Status::INVALID_LOG_PAGE.with_dnr(true)),
            Errno::EOPNOTSUPP
        );
        assert_eq!(
            Errno::from(Status::CAPACITY_EXCEEDED.with_more(true)),
            Errno::ENOSPC
        );
        assert_eq!(Errno::from(Status::UNRECOVERED_READ_ERROR), Errno::EIO);
        assert_eq!(
            Errno::from(Status::new(7, 0x42)),
            Errno::EIO,
            "a status without a name is an I/O error"
        );
    }
}
