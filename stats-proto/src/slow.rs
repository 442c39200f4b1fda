//! What `nvme:controller/slow` returns: one [`SlowCommand`] per line, oldest first.
//!
//! The driver keeps the last commands that failed, that took longer than its setting `NVME_SLOW_US`, or that
//! it gave up, each with its timeline. What it could not keep shows as a gap in [`SlowCommand::sequence`].

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::big_int::{big_u64, big_u64_option};

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlowSchema {
    /// `"nvme-slow"`.
    #[default]
    #[serde(rename = "nvme-slow")]
    NvmeSlow,
}

/// Why a command is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowKind {
    /// It succeeded and took longer than `NVME_SLOW_US`, or than its request's deadline allowed.
    Slow,
    /// The controller failed it, fast or slowly.
    Failed,
    /// The controller never answered it, and the driver gave it up.
    Lost,
}

/// Where a command that was late spent most of its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissedIn {
    /// In the driver, before its doorbell.
    Host,
    /// At the device, after it.
    Device,
}

/// The status of a completion (NVMe Base 2.0, section 3.3.3.2.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandStatus {
    /// The specification's name, such as `"LBA Out of Range"`; `null` for one without.
    pub name: Option<String>,
    /// Status Code Type.
    pub sct: u8,
    /// Status Code.
    pub sc: u8,
    /// Command Retry Delay.
    pub crd: u8,
    /// More: the error log holds more about it.
    pub more: bool,
    /// Do Not Retry.
    pub dnr: bool,
}

/// One command that failed, was slow or was lost.
///
/// One request of a client may have been several commands; they share the time at which it was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowCommand {
    /// `"nvme-slow"`.
    pub schema: SlowSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// Its number among all such commands of this run of the driver, from 0. A gap is one that is not kept any
    /// more.
    #[serde(with = "big_u64")]
    pub sequence: u64,
    /// Why it is shown.
    pub kind: SlowKind,
    /// The queue; 0 is the admin queue.
    pub qid: u16,
    /// The command identifier.
    pub cid: u16,
    /// The opcode.
    pub opcode: u8,
    /// The opcode's name in the specification, such as `"Read"`; `null` for one without.
    pub opcode_name: Option<String>,
    /// The namespace (NSID) as the command had it; 0 where it had none.
    pub nsid: u32,
    /// The first block; `null` for a command without blocks.
    #[serde(with = "big_u64_option", default)]
    pub slba: Option<u64>,
    /// How many blocks; `null` for a command without blocks.
    #[serde(with = "big_u64_option", default)]
    pub blocks: Option<u64>,
    /// The monotonic clock when the driver accepted the request that it belongs to, in ns.
    #[serde(with = "big_u64")]
    pub accepted_monotonic_ns: u64,
    /// The monotonic clock when the doorbell told the controller of it, in ns.
    #[serde(with = "big_u64")]
    pub doorbell_monotonic_ns: u64,
    /// The monotonic clock when its completion was seen, in ns; `null` if it was lost.
    #[serde(with = "big_u64_option", default)]
    pub completed_monotonic_ns: Option<u64>,
    /// From accepted to doorbell, in ns.
    #[serde(with = "big_u64")]
    pub latency_host_ns: u64,
    /// From doorbell to completion, in ns; of a lost command how long it was waited for.
    #[serde(with = "big_u64")]
    pub latency_device_ns: u64,
    /// From accepted to completion, in ns; of a lost command how long it was waited for.
    #[serde(with = "big_u64")]
    pub latency_total_ns: u64,
    /// The monotonic clock when its request should have been done, in ns; `null` if it had no deadline.
    #[serde(with = "big_u64_option", default)]
    pub deadline_monotonic_ns: Option<u64>,
    /// Where it spent most of its time, if it was over after that; `null` if it was in time.
    #[serde(default)]
    pub deadline_missed_in: Option<MissedIn>,
    /// What the controller answered; `null` if it did not.
    pub status: Option<CommandStatus>,
}
