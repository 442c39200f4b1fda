//! Any sequence of calls to the scheme, with a driver that answers in any order and fails as it likes.
//!
//! ```text
//! cd driver/fuzz && cargo +nightly fuzz run scheme_requests
//! ```
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nvme_driver::scheme::fuzz::run(bytes));
