//! What becomes of an entry.

use super::layout::Malformed;
use crate::error::IoError;
use crate::scheme::Errno;

/// What became of an entry, but for its `user_data`.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) errno: Option<Errno>,
    pub(super) status: u16,
    pub(super) bytes: u64,
    pub(super) host_ns: u32,
    pub(super) device_ns: u32,
}

impl Outcome {
    pub(super) const fn of(errno: Option<Errno>) -> Self {
        Self {
            errno,
            status: 0,
            bytes: 0,
            host_ns: 0,
            device_ns: 0,
        }
    }

    pub(super) const CANCELED: Self = Self::of(Some(Errno::ECANCELED));
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Self {
        Self::of(Some(errno))
    }
}

/// Why a slot's request is not under way.
pub(super) enum NotStarted {
    Over(Outcome),
    /// The queue has no room now.
    Busy,
}

impl From<Errno> for NotStarted {
    fn from(errno: Errno) -> Self {
        Self::Over(errno.into())
    }
}

impl From<Malformed> for NotStarted {
    fn from(_: Malformed) -> Self {
        Errno::EINVAL.into()
    }
}

pub(super) fn outcome_of(why: IoError) -> Outcome {
    let status = match why {
        IoError::Status(status) => status.code(),
        _ => 0,
    };
    Outcome {
        status,
        ..Outcome::of(Some(why.into()))
    }
}
