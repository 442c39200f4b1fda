//! vfio-user: the driver on our own server, on servers that do not do their part, and our server under clients that do not
//! do theirs.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod client;
mod hostile;
mod pair;
mod process;
mod rig;
