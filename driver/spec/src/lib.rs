//! The structures of the NVMe specification (Base 2.0, NVM Command Set 1.0) as plain Rust types.
#![no_std]
#![forbid(unsafe_code)]

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
mod named;
pub mod opcode;
pub mod register;
pub mod status;

pub use command::{
    AbortCdw10, AsyncEventDw0, CreateCqCdw11, CreateQueueCdw10, CreateSqCdw11, DsmCdw10, DsmCdw11, DsmRange,
    FormatCdw10, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11, IdentifyCdw10, IdentifyCdw11, NumberOfQueues,
    ReadWriteCdw12, SetFeaturesCdw10, SupportedCapabilities,
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
