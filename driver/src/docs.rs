//! Longer pages.

#[doc = include_str!("../docs/linux.md")]
pub mod linux {}

#[doc = include_str!("../docs/redox.md")]
pub mod redox {}

#[doc = include_str!("../docs/scheduling.md")]
pub mod scheduling {}

#[doc = include_str!("../docs/guests.md")]
pub mod guests {}

#[doc = include_str!("../docs/vfio-user.md")]
pub mod vfio_user {}

#[doc = include_str!("../docs/completion.md")]
pub mod completion {}

#[cfg(feature = "io-uring-compat")]
#[doc = include_str!("../docs/rings.md")]
pub mod rings {}
