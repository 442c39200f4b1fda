//! A software NVMe controller, faithful enough that a driver cannot tell.
//!
//! [`Emulator`] is a controller of the NVMe Base specification 2.0 with namespaces of the NVM Command Set 1.0. It knows
//! nothing of any driver: it has registers ([`Registers`], BAR0), reaches its host's memory by DMA ([`HostMemory`]) and raises
//! interrupts ([`Interrupts`]). What it is like is a [`Config`], which can be written as text
//! (`size=4GiB,namespaces=2,latency=80us`); what it does wrong is a set of [`Faults`]; what it was asked and did, it counts
//! ([`DeviceCounters`]), so that a driver's figures can be held against the truth.
//!
//! It runs in one of two ways. [`Emulator::step`] does what there is to do at the time given and returns: no thread, no clock,
//! so that a whole test replays from its seed. [`Emulator::run`] has threads do that, by a clock; they watch the doorbells for
//! a while and then sleep ([`Doze`]), so that an idle device costs nothing.
//!
//! # By hand
//!
//! ```
//! use std::sync::Arc;
//!
//! use nvme_emulator::{CountedInterrupts, Emulator, HostMemory, VecMemory};
//! use nvme_spec::identify::{Cns, IdentifyController};
//! use nvme_spec::{Aqa, Cc, CompletionEntry, Csts, SubmissionEntry, command, register};
//! use zerocopy::{FromBytes, IntoBytes};
//!
//! // 1 MiB of host memory, and the device.
//! let memory = Arc::new(VecMemory::new(1 << 20));
//! let interrupts = Arc::new(CountedInterrupts::new(65));
//! let device = Emulator::new("serial=S1".parse()?, memory.clone(), interrupts.clone())?;
//!
//! // Admin queues of 8 entries, one page each; then enable, and let the device take its turn.
//! let (asq, acq, buffer) = (VecMemory::BASE, VecMemory::BASE + 0x1000, VecMemory::BASE + 0x2000);
//! let registers = device.registers();
//! registers.write32(register::AQA, Aqa::new().with_asqs_z(7).with_acqs_z(7).into());
//! registers.write64(register::ASQ, asq);
//! registers.write64(register::ACQ, acq);
//! let cc = Cc::new().with_en(true).with_iosqes(register::IOSQES).with_iocqes(register::IOCQES);
//! registers.write32(register::CC, cc.into());
//! device.step(0);
//! assert!(Csts::from(registers.read32(register::CSTS)).rdy());
//!
//! // Identify Controller in the first entry of the ring, the doorbell, the completion.
//! let identify = SubmissionEntry { cid: 7, prp1: buffer, ..command::identify(Cns::CONTROLLER, 0, 0) };
//! memory.write(asq, identify.as_bytes())?;
//! registers.ring(0, 1);
//! device.step(0);
//! let completion = CompletionEntry::read_from_bytes(&memory.read_vec(acq, 16)?).unwrap();
//! assert!(completion.phase() && completion.cid == 7 && completion.status().is_success());
//! assert_eq!(interrupts.raised(0), 1);
//! let identify = IdentifyController::read_from_bytes(&memory.read_vec(buffer, 4096)?).unwrap();
//! assert_eq!(identify.serial(), "S1");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it is built
//!
//! | file | subject |
//! | --- | --- |
//! | `host` | the seam to the host: memory, interrupts; a plain memory for tests |
//! | `config` | the knobs, and their text form |
//! | `registers` | BAR0 and the doorbells, where host and device meet without waiting for each other |
//! | `controller` | what the registers ask for: enable, reset, shut down |
//! | `engine` | queues: fetch, hold, complete, interrupt. `rings`, `held` and `engine/shadow` are its parts |
//! | `admin` | the admin commands, a file for each family |
//! | `shard` | a share of the I/O queues, under one lock, turned by one thread |
//! | `nvm`, `transfer`, `namespace`, `storage` | the I/O commands: from data pointer to medium |
//! | `latency`, `fault` | how long it takes, and what goes wrong |
//! | `emulator`, `threads` | the device as its users hold it, and the threads that may run it |
//!
//! The controller and the admin queue are turned by thread 0. I/O queues are spread over the threads by the identifier of their
//! completion queue; a thread holds the lock of its share for one pass: at most 64 commands or 256 KiB. A pass reads entries in
//! one piece, executes them, posts completions in bursts (the dword with the phase last, with release) and raises each vector
//! once. There is no allocation, no lock and no atomic read-modify-write per command, beyond the medium's own. Commands with a
//! latency are held and executed when they are due, so that one that is aborted was not done.
//!
//! `cargo run --release -p nvme-emulator --example speed` measures the device alone: about 0.2 µs per 4 KiB read of CPU time,
//! half of it the copy, as long as the data is in the cache.
//!
//! # What it does
//!
//! - CAP, VS, INTMS/INTMC, CC, CSTS, NSSR, AQA, ASQ, ACQ, CRTO in 32 or 64 bits; every edge of CC.EN and CC.SHN; CSTS.CFS on settings
//!   that cannot be.
//! - Queues of every legal size, contiguous or in pages (`cqr=off`); full completion queues park, nothing is lost.
//! - Admin: Identify (CNS 00, 01, 02, 03, 05, 06, 07, 08, 10, 11, 12, 13, 1A, 1B, 1C), Get and Set Features (01, 02, 04 to 0B, 0E; current,
//!   default, saved), the queues, Get Log Page (00 to 06), Asynchronous Event Request, Abort, Format NVM, Device Self-test,
//!   Doorbell Buffer Config, NVMe-MI Receive (both health polls, VPD Read, Configuration Get).
//! - I/O: Read, Write, Flush, Compare, Verify, Write Zeroes, Dataset Management; PRPs with chains and SGLs.
//! - Everything a fault can do: see [`Action`].
//!
//! # What it does not do
//!
//! - Metadata and protection information, fused commands, Copy, reservations, zones, directives, streams.
//! - Namespace Management and Attachment commands (namespaces change by [`Emulator::resize_namespace`] and
//!   [`Emulator::set_namespace_active`]), firmware download, Sanitize, Security, telemetry, persistent event log.
//! - Weighted round robin: arbitration is round robin. Controller Memory Buffer, Persistent Memory Region, boot partitions.
//! - Several controllers in one subsystem; power states beyond the first.
//! - Lose what was not flushed, unless it is asked to (`cache=volatile`): with a file as the medium, that is otherwise in
//!   the page cache, which only the end of the machine empties.
#![forbid(unsafe_code)]

mod admin;
mod arming;
mod config;
mod controller;
mod device;
mod doze;
mod emulator;
mod engine;
mod error_log;
mod fault;
mod held;
mod host;
mod latency;
mod namespace;
mod namespaces;
mod nvm;
mod registers;
mod rings;
mod shard;
mod storage;
mod tally;
mod threads;
mod transfer;

pub use arming::Arming;
pub use config::{
    Backing, Config, ConfigError, Latency, ManagementInterface, NamespaceConfig, Ready, SPEC_KEYS,
};
pub use doze::Doze;
pub use emulator::{Emulator, EmulatorError, Step};
pub use fault::{Action, Fault, FaultId, Faults, QueueMatch};
pub use host::{
    CountedInterrupts, DmaFault, DoorbellMemory, HostMemory, Interrupts, NoInterrupts, VecMemory,
};
pub use latency::LatencyModel;
pub use namespace::{Format, Namespace};
pub use nvm::{Limits, Outcome, execute};
pub use registers::Registers;
pub use storage::{CachedFile, FileStorage, SparseMemory, Storage, StorageError};
pub use tally::{DeviceCounters, OpcodeCounters, QueueCounters};
pub use threads::Running;
pub use transfer::{Cursor, DataPointer, Scratch, Segment, map};
