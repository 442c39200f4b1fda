//! Longer pages.

#[doc = include_str!("../docs/redox.md")]
pub mod redox {}
