//! Guests in QEMU, for tests: Debian's kernel, a controller that nobody here wrote, and our programs in there.
//!
//! [`Machine`] says what a guest is made of and boots it; [`Guest`] is one that runs, and runs shell commands. It has no
//! disk to boot from: all that is in there is an initramfs that is made for it, with busybox, the kernel's modules,
//! `nvme-driver` and `nvmectl` as static binaries, nvme-cli, and whatever programs of this machine are asked for.
//!
//! ```no_run
//! use nvme_guest::Machine;
//!
//! let guest = Machine::new()
//!     .cpus(2)
//!     .disk("disk", 64 << 20)
//!     .device("nvme,id=ssd,serial=one,drive=disk,addr=4")
//!     .modules(&["nvme"])
//!     .boot()?;
//! let name = guest.check("nvme id-ctrl /dev/nvme0 | grep ^mn")?;
//! assert!(name.contains("QEMU NVMe Ctrl"));
//! # Ok::<(), nvme_guest::Error>(())
//! ```
//!
//! # How it is made
//!
//! | file | subject |
//! | --- | --- |
//! | `machine` | what a guest is made of, and QEMU's command line |
//! | `guest` | a guest that runs: commands, files, its console, its end |
//! | `shared` | one guest for all cases of a test file, and when cases are left out |
//! | `daemon` | the daemon nvme-driver in a guest |
//! | `process` | QEMU, which does not outlive who started it |
//! | `qmp` | QEMU's monitor: devices that come and go |
//! | `pci` | a function of the bus and the driver that has it |
//! | `tools` | what of this machine is used, and where it is |
//! | `programs` | our static binaries, built once, and other programs with their libraries |
//! | `modules` | the kernel's modules and what they depend on |
//! | `image`, `archive` | the initramfs |
//! | `wire` | what is said over the serial port between [`Guest`] and the agent |
//! | `agent` | the program in the guest: its init, which does what it is told |
//!
//! Nothing waits without a bound: booting, each command and each message to QEMU's monitor have a deadline, and a guest that
//! panics ends at once, with what it said on its console in the error. QEMU does not outlive the process that started
//! it, however that ends.
//!
//! # What it does not do
//!
//! There is no network, and nothing is kept: a guest's disks are files without a name, gone when QEMU is.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

mod archive;
mod daemon;
mod error;
mod guest;
mod image;
mod machine;
mod modules;
mod pci;
mod process;
mod programs;
mod qmp;
mod shared;
mod tools;
pub mod wire;

pub use daemon::Daemon;
pub use error::Error;
pub use guest::{Guest, Output, Running};
pub use machine::Machine;
pub use pci::{KernelDisk, PciFunction};
pub use qmp::Qmp;
pub use shared::Shared;
pub use tools::Tools;
