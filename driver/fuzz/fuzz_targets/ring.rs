//! A client of a ring that writes anything to its pages, on a driver and a controller that are turned by hand.
//!
//! ```text
//! cd driver/fuzz && cargo +nightly fuzz run ring
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvme_driver::ring::fuzz::run(bytes));
