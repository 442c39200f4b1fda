//! A user-space NVMe driver that you can see into: every queue counts what it does and keeps latency histograms,
//! always, and shows them as JSON while it works.
//!
//! # The way of one read
//!
//! ```text
//! client ── Scheme ── Driver ── IoScheduler ──▶ inbox of a Worker
//!                                                  │ IoQueue: splits, finds the data's pages
//!                                                  │ QueuePair: slot, entry, one doorbell a batch
//!                                                  ▼
//!                                             the controller
//!                                                  │ completion queue, one pass, one doorbell
//! client ◀── Answer ◀── Worker ◀── IoQueue ◀── QueuePair ──▶ QueueRecorder ──▶ stats
//! ```
//!
//! | layer | what it is | who has it |
//! | --- | --- | --- |
//! | [`scheme`] | the tree `nvme:` of paths and handles, the same on every system; asynchronous | any number of clients |
//! | [`Driver`] | a controller with a thread for each queue pair and one for the admin queue | cheap to clone |
//! | [`worker`] | owns one queue pair; takes requests from others, runs [loads](worker::Load) of its own | one thread |
//! | [`IoQueue`] | requests of any length in, answers out; PRPs, zero copy or bounce pages | one owner |
//! | `queue` | rings, command slots with generations, doorbells, counters | one owner |
//! | [`Controller`] | bring-up and shutdown, each step with an end in time | one owner |
//! | [`backend`] | the seam: registers, memory for DMA, interrupts | one for each kind of place |
//!
//! # As a library
//!
//! [`Controller::open`] and [`Controller::take_queue`] give queue pairs to a program that wants to own them, with
//! nothing in between: see the example at [`io_queue`]. [`Driver::start`] runs them instead:
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::mpsc::{Sender, channel};
//!
//! use nvme_driver::backend::emulated::EmulatedBackend;
//! use nvme_driver::clock::Clock;
//! use nvme_driver::driver::Hint;
//! use nvme_driver::worker::{Answer, Remote};
//! use nvme_driver::{Buffer, Config, Controller, Driver, Finished, Op, Request};
//!
//! /// Answers go into a channel.
//! struct ToChannel(Sender<Finished<()>>);
//!
//! impl Answer for ToChannel {
//!     fn answer(&self, _tag: u64, finished: Finished<()>) {
//!         let _ = self.0.send(finished);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = Clock::system();
//! let backend = EmulatedBackend::start("size=64MiB,lba=512".parse()?, clock.clone())?;
//! let driver = Driver::start(Controller::open(Arc::new(backend), &Config::default(), clock.clone())?)?;
//!
//! let (sender, answers) = channel();
//! let request = Request {
//!     op: Op::Read,
//!     nsid: 1,
//!     slba: 0,
//!     blocks: 8,
//!     buffer: Buffer::heap(vec![0xFF; 4096]),
//!     arrived_ns: clock.now_ns(),
//!     context: Remote { sink: Arc::new(ToChannel(sender)), tag: 0 },
//! };
//! driver.submit(Hint::default(), request); // never waits
//! let finished = answers.recv()?;
//! assert_eq!(finished.result, Ok(()));
//! assert!(finished.buffer.as_slice().iter().all(|byte| *byte == 0));
//!
//! let stats = driver.stats(true);
//! # #[cfg(feature = "performance-counters")]
//! assert_eq!(stats.namespaces[0].ops.as_ref().unwrap()["read"].count, 1);
//! driver.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! # How it is built
//!
//! - **One owner.** A queue pair is `&mut` to its worker: no lock, no allocation and no atomic read-modify-write for a
//!   command. Other threads hand requests over through a bounded queue.
//! - **Time comes in.** The core does not read a clock or sleep: [`clock::Clock`] is handed in, and
//!   [`Driver::stepped`] gives the whole driver without threads, to be turned by hand under a
//!   [`clock::ManualClock`] against a device that is stepped by hand. A failure replays from its seed.
//! - **The device is not trusted.** Completions that fit no command are counted and ignored; Identify data is checked
//!   before it is believed; each wait has an end. A controller that fails is disabled before memory comes back, and if
//!   it will not be disabled that memory is leaked rather than reused.
//! - **`unsafe`** is in [`backend`], [`dma`], [`clock`] and `redox` only, each block with its reason.
//!
//! On Linux it takes a controller from the kernel ([how](docs::linux)) or drives one that another process serves, and
//! serves its own emulated one to others ([how](docs::vfio_user)); on Redox it takes the place of that system's own driver
//! ([how](docs::redox)).
//!
//! # Features
//!
//! - `performance-counters` (default): counters and histograms. Without it the code that keeps them is gone and
//!   `stats` shows `null`.
//! - `multi-queue` (default): more than one I/O queue pair.
//! - `zero-copy`: windows onto callers' memory. Without it data is copied.
//! - `nvme-mi`: `controller/mi`.
//! - `fuse` (default): the tree, mounted on Linux.
//! - `io-uring-compat`: `nvme:N/ring`, rings in memory that is shared with clients (`docs::rings`).
//!
//! # What it does not do yet
//!
//! There is no recovery: a controller on which a command is not answered for 30 seconds, or that reports a fatal error, is
//! given up, and everything is answered as [lost](IoError::Lost). SGLs, metadata and end-to-end protection are not used.
//! Workers are bound to CPUs only where each interrupt vector has one, which is on Redox.
#![deny(unsafe_code)]
// What devices, clients and the kernel say must not end the driver.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod admin;
mod admin_worker;
pub mod backend;
mod backlog;
mod bell;
pub mod benchmark;
mod bringup;
pub mod clock;
pub mod config;
pub mod controller;
pub mod cpu;
pub mod device;
pub mod dma;
pub mod docs;
pub mod driver;
pub mod embedded;
pub mod error;
pub mod events;
#[allow(
    clippy::indexing_slicing,
    reason = "slots and namespaces by numbers of its own, once per command"
)]
pub mod io_queue;
mod io_scheduler;
pub mod namespace;
pub mod passthrough;
mod prp;
#[allow(
    clippy::indexing_slicing,
    reason = "slots by their own numbers, checked when a completion names one"
)]
mod queue;
mod recorder;
#[cfg(target_pointer_width = "64")]
pub mod redox;
mod registers;
pub mod request;
#[cfg(feature = "io-uring-compat")]
pub mod ring;
pub mod scheme;
#[allow(
    clippy::indexing_slicing,
    reason = "cells by an operation or by a bucket of fixed tables, several times per command"
)]
pub mod stats;
#[cfg(target_os = "linux")]
pub mod vfio_user;
pub mod worker;

pub use config::Config;
pub use controller::Controller;
pub use dma::Buffer;
pub use driver::Driver;
pub use error::{Error, IoError};
pub use io_queue::IoQueue;
pub use request::{Finished, Op, Request};
