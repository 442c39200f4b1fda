//! A model of Redox, as the driver sees it: the kernel's calls, pcid, and a device on the bus.
//!
//! [`Machine::system`] is a [`System`](nvme_driver::redox::System): what runs on it is the very code that runs on Redox,
//! with all its threads. [`Machine::client`] is a process that uses the driver's schemes. The device is
//! [`nvme_emulator`]'s, behind a BAR of plain memory.
//!
//! ```
//! use nvme_redox_model::{ControllerConfig, Machine, MachineConfig};
//!
//! let machine = Machine::new(MachineConfig {
//!     cpus: 2,
//!     controllers: vec![ControllerConfig::new("size=16MiB")],
//!     ..MachineConfig::default()
//! });
//! let system = machine.system();
//! let names = system.list("/scheme/irq").unwrap();
//! assert_eq!(names, ["bsp", "cpu-00", "cpu-01"]);
//! let channel = machine.pcid_channel(0);
//! assert_eq!(system.write(channel, &1_u32.to_le_bytes()), Ok(4));
//! ```
//!
//! # What it models
//!
//! Redox's kernel of May 2026, redox_syscall 0.8, read and not guessed.
//!
//! | file | subject |
//! | --- | --- |
//! | `machine` | what a machine is made of, and what a test can ask it |
//! | `process` | the calls, and which object answers them |
//! | `kernel` | descriptors and descriptions; one lock for all but memory |
//! | `event` | queues of events: nothing is merged, subscriptions keep the data they were made with |
//! | `pipe`, `time`, `irq` | the schemes of the kernel's that a driver waits with |
//! | `pages` | memory: mappings, physical addresses, and what a device may reach |
//! | `socket`, `capture` | a scheme's socket, and what clients lend with a call |
//! | `client` | a client |
//! | `controller`, `bar`, `device` | a controller on the bus: configuration space, BARs, its thread |
//! | `pcid` | the channel to pcid |
//! | `violation`, `calls` | what no driver may do, and what it asked for |
//!
//! What is faithful and often surprises:
//!
//! - `translation` answers the page's address, without the offset in it. Physical pages are scattered, but for what was
//!   asked for as contiguous, which is at most 4 MiB at a time.
//! - Events are of an interrupt's number, whichever CPU it is of; the numbers 0 to 15 are free on every CPU but the first,
//!   and are the numbers of the lines there. A reserved number stays reserved for ever.
//! - A line is not delivered again before its count was written back; a message needs nothing of the kind.
//! - A timeout is registered by each write and fires once. The clock steps, and steps back if it is told to.
//! - What a client lends is there until its call is answered: from then on a thread that touches it dies, and a device is
//!   refused and found out ([`Machine::violations`]). No address is used again soon.
//! - Of a buffer that is not aligned, both ends come in pages of their own, with zeroes around; what is in there when the
//!   call is answered is copied to the client, whatever the answer says.
//! - An answer to a tag that is not waited for is refused, and with it all that come after it in the same write.
//! - Cancelling a call sends its tag once more. Killing a client sends nothing, and its tag stays in use until it is
//!   answered.
//!
//! # What it does not model
//!
//! - Scheduling, priorities, time slices, page faults: threads are those of the system that this runs on.
//! - Address spaces: driver, clients and device share one process. `translation` knows what was mapped here, and the heap's
//!   pages only with [`Quirks::translates_heap`].
//! - Descriptors that travel. A descriptor that a daemon answers with is closed, and the client is told `EIO`; what a client
//!   sends is nothing, and cannot be obtained.
//! - The files of the rest of Redox, and a driver that opens schemes other than the kernel's.
//! - A file that is closed while another thread's call on it is under way: the kernel may then never tell the daemon; here it
//!   tells at once.
//! - The registers of a device are looked at, not trapped: what a driver writes is seen within some ten microseconds while the
//!   device is busy, and half a millisecond when it has long been idle. INTMC reads as zero. A controller that was never ready
//!   looks for as long as it did before after it was reset.
//! - The level of a line: what was asserted while it was being served asserts it once more, and nothing else does.
#![cfg(target_os = "linux")]

mod bar;
mod calls;
mod capture;
mod client;
mod controller;
mod device;
mod event;
mod irq;
mod kernel;
mod machine;
mod pages;
mod pcid;
mod pipe;
mod process;
mod socket;
mod time;
mod violation;

pub use calls::{Calls, Operation, What};
pub use client::Client;
pub use controller::{Controller, Delivery, Held};
pub use machine::{ControllerConfig, Machine, MachineConfig, Notified, PciAddress, PciIds, Quirks};
pub use pages::PAGE_BYTES;
pub use pcid::{PcidQuirk, PcidRequest};
pub use violation::{Stray, Violation};
