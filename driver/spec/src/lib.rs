//! The structures of the NVMe specification as plain Rust types: Base specification 2.0, NVM Command Set 1.0, Management
//! Interface 1.2 in band, and the part of the PCIe transport that is registers. `no_std`, no `unsafe`, no I/O, no allocation.
//!
//! A driver encodes commands and decodes what the device says; a software controller does the reverse. Both use this crate
//! and nothing else in common, so that neither can hide the other's mistakes.
//!
//! ```
//! use nvme_spec::identify::Oncs;
//! use nvme_spec::zerocopy::{FromBytes, IntoBytes};
//! use nvme_spec::{command, CompletionEntry, IdentifyController, NvmOpcode, Status, SubmissionEntry};
//!
//! // The host: read 8 blocks from LBA 4096 of namespace 1 to the page at 0x7000.
//! let command = SubmissionEntry { cid: 17, prp1: 0x7000, ..command::read(1, 4096, 8) };
//! let wire: &[u8] = command.as_bytes();
//!
//! // The controller: decode it, refuse it.
//! let seen = SubmissionEntry::read_from_bytes(wire).unwrap();
//! assert_eq!(NvmOpcode(seen.opcode).to_string(), "Read");
//! assert_eq!((seen.lba(), seen.nlb_z()), (4096, 7));
//! let status = Status::LBA_OUT_OF_RANGE.with_dnr(true);
//! let answer = CompletionEntry::new(0, 0, 1, 1, seen.cid, status, true);
//!
//! // The host again: a status keeps all it says, and has a name.
//! assert!(answer.status().is(Status::LBA_OUT_OF_RANGE));
//! assert_eq!(answer.status().to_string(), "LBA Out of Range (SCT 0h SC 80h, DNR)");
//!
//! // Identify data are read where they lie; bit fields have types of their own.
//! let mut page = vec![0; 4096];
//! page[520] = 0b1000_0100;
//! let identify = IdentifyController::ref_from_bytes(&page).unwrap();
//! let oncs = Oncs::from(identify.oncs.get());
//! assert!(oncs.dataset_management() && oncs.verify() && !oncs.compare());
//! ```
//!
//! # Where things are
//!
//! | module | what |
//! | --- | --- |
//! | [`entry`] | the 64-byte submission entry, the 16-byte completion entry, the SGL descriptor |
//! | [`opcode`] | admin and NVM opcodes, and which way each moves data |
//! | [`status`] | the status field, with the specification's names |
//! | [`register`] | BAR0: offsets, CAP, VS, CC, CSTS, AQA, doorbells |
//! | [`command`] | command dwords, and a constructor per command |
//! | [`identify`] | controller, namespace, power states, lists, identification descriptors |
//! | [`log`] | error, SMART, firmware slots, changed namespaces, commands supported, self-test, supported pages |
//! | [`feature`] | feature identifiers and the dwords of the common ones |
//! | [`mi`] | NVMe-MI in band: requests and responses, the health polls, configuration, Vital Product Data |
//!
//! The types are re-exported here; constructors, offsets and field values stay in their modules (`command::read`,
//! `register::CC`, `register::SHN_NORMAL`).
//!
//! # How it is built
//!
//! * **Names** are the specification's, in lower case: `cdw10`, `prp1`, `mdts`. A field that is 0's based says so, in this
//!   crate's own fields by ending in `_z`; Identify's keep their abbreviations (`aerl`, `npwg`) and say it in their text.
//! * **Open sets.** Opcodes, statuses, CNS, log page and feature identifiers are newtypes over the number, with a constant
//!   for each known value. Any number is legal; one without a name is displayed as a number.
//! * **Any bytes are legal.** Every structure can be read from any bytes of its size and written back unchanged. Accessors
//!   that compute something heed the specification's limits and answer `None`, or cut, where the bytes do not; none panics.
//! * **Layout** is proved at compile time: size and field offsets are asserted against the specification's tables. All
//!   but the two queue entries are alignment 1 with little-endian field types, to be read from a DMA buffer in place. The
//!   queue entries are naturally aligned native integers, for which the host must be little endian.
//! * **Bit fields** have `new()` (all zero), and per field a getter, `with_` and `set_`. A `with_` or `set_` panics if the
//!   value has more bits than the field: for a value from outside use `with_..._checked`, or mask it.
//!
//! # What it does not do
//!
//! No queues, no registers' side effects, no rules of what a controller must answer. No NVMe over Fabrics, Zoned or Key
//! Value command sets, no Directives, Reservations, Copy, Sanitize or Firmware dwords; of the log pages not telemetry,
//! endurance groups, ANA, persistent events; of the features' data structures none but APST's entries and the timestamp; of
//! NVMe-MI neither enclosures nor what only exists out of band. What is left out can be sent all the same: the dwords of [`SubmissionEntry`] are plain numbers.
#![no_std]
#![forbid(unsafe_code)]
// Most of the bytes that this crate decodes are a device's.
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

#[cfg(test)]
extern crate std;

#[cfg(target_endian = "big")]
compile_error!(
    "SubmissionEntry and CompletionEntry use native integers for speed: nvme-spec needs a little-endian host"
);

pub mod command;
pub mod entry;
pub mod feature;
pub mod identify;
mod layout;
pub mod log;
pub mod mi;
mod named;
pub mod opcode;
pub mod register;
pub mod status;
#[cfg(test)]
mod test_support;

pub use command::{
    AbortCdw10, AsyncEventDw0, CopyCdw12, CreateCqCdw11, CreateQueueCdw10, CreateSqCdw11, DsmCdw10, DsmCdw11,
    DsmRange, FormatCdw10, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11, IdentifyCdw10, IdentifyCdw11,
    NumberOfQueues, ReadWriteCdw12, SetFeaturesCdw10, SupportedCapabilities,
};
pub use entry::{CompletionEntry, SglDescriptor, SglKind, SubmissionEntry};
pub use feature::FeatureId;
pub use identify::{
    AsciiField, Cns, ControllerList, IdentifyController, IdentifyControllerNvm, IdentifyNamespace,
    IdentifyNamespaceIndependent, IdentifyNamespaceNvm, IoCommandSetList, LbaFormat, NamespaceDescriptor,
    NamespaceDescriptors, NamespaceList, Nidt, PowerStateDescriptor,
};
pub use log::{
    ChangedNamespaces, CommandEffects, CommandsSupported, ErrorLogEntry, FirmwareSlotLog, LogId, SelfTestLog,
    SelfTestResult, SmartLog, SupportedLogPages,
};
pub use opcode::{AdminOpcode, Direction, NvmOpcode};
pub use register::{Aqa, Cap, Cc, Crto, Csts, Vs, doorbell_offset};
pub use status::Status;
/// The crate whose traits read and write these structures ([`FromBytes`](zerocopy::FromBytes),
/// [`IntoBytes`](zerocopy::IntoBytes)), in the version that implements them.
pub use zerocopy;
