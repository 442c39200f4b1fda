//! Temporary
#[path = "../../driver/src/config.rs"]
pub mod config;
#[derive(Debug, thiserror::Error)]
#[error("temporary")]
pub struct Error;
