//! The model itself: each thing that surprises on Redox, in a few lines written directly against the kernel's calls.
#![cfg(target_os = "linux")]

mod bus;
mod daemon;
mod device;
mod memory;
mod payloads;
mod pcid;
mod schemes;
mod waiting;
