//! nvme-driver
#![deny(unsafe_code)]

pub mod admin;
mod admin_worker;
pub mod backend;
pub mod benchmark;
mod bringup;
pub mod clock;
pub mod config;
pub mod controller;
pub mod cpu;
pub mod dma;
pub mod driver;
pub mod embedded;
pub mod error;
pub mod io_queue;
mod io_scheduler;
pub mod namespace;
mod prp;
mod queue;
mod registers;
pub mod request;
pub mod scheme;
pub mod stats;
pub mod worker;

pub use config::Config;
pub use controller::Controller;
pub use dma::Buffer;
pub use driver::Driver;
pub use error::{Error, IoError};
pub use io_queue::IoQueue;
pub use request::{Finished, Op, Request};
