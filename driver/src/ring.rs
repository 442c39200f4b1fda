//! Rings in shared memory: a client puts requests into one and takes answers from the other, without a call to the system
//! for each. [The page on rings](crate::docs::rings) has the protocol; [`layout`] and [`message`] have every byte.
//!
//! ```text
//! client                     memory that both have                    worker of one queue pair
//!        ── entry, tail ──▶  submission ring  ──▶ copied, checked ──▶
//! Client                     data ◀──────────────── the device ────▶  Server, a worker::Load
//!        ◀── result, tail ── completion ring  ◀──
//!        ── write: "wake" (when it sleeps) ─ read: wait ──▶ N/ring, a file of the tree
//! ```
//!
//! | file | subject |
//! | --- | --- |
//! | [`layout`] | where what is in the memory: words, entries, results |
//! | [`message`] | what is written to `N/ring` |
//! | `shared` | what the driver's side and other threads share |
//! | `server` | the driver's side: lives on the worker's thread, so a request crosses no thread |
//! | [`client`] | the client's side, for programs in Rust |
//!
//! ```
//! use nvme_driver::Config;
//! use nvme_driver::embedded;
//! use nvme_driver::ring::client::{Client, Settings};
//! use nvme_driver::ring::layout::Entry;
//! use nvme_driver::scheme::OpenFlags;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let driver = embedded::start("size=16MiB,lba=4096", &Config::default())?;
//! let file = driver.client(0, 0, std::process::id()).open("1/ring", OpenFlags::READ_WRITE)?;
//! let mut ring = Client::open(Box::new(file), Settings { data_bytes: 8192, ..Settings::default() })?;
//! let (ours, theirs) = (ring.buffer(0, 4096).ok_or("no room")?, ring.buffer(4096, 4096).ok_or("no room")?);
//! ours.copy_in(0, b"hello");
//! // The read begins when the write has succeeded.
//! ring.prepare(&Entry::write(7, 1, ring.place_of(&ours)).linked().with_user_data(1))?;
//! ring.prepare(&Entry::read(7, 1, ring.place_of(&theirs)).with_user_data(2))?;
//! ring.submit()?;
//! for user_data in [1, 2] {
//!     let done = ring.wait()?;
//!     assert_eq!((done.user_data, done.errno), (user_data, 0));
//! }
//! let mut seen = [0; 5];
//! theirs.copy_out(0, &mut seen);
//! assert_eq!(&seen, b"hello");
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod layout;
pub mod message;
mod outcome;
pub(crate) mod server;
pub(crate) mod shared;

#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    allow(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test's own"
    )
)]
pub mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    allow(
        dead_code,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        reason = "a test's own"
    )
)]
mod rig;
#[cfg(test)]
mod tests;
