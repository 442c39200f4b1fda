//! The document `nvme-stats`: what a controller, its queues and its namespaces have done.
//!
//! The driver only ever counts up; rates and interval percentiles are the reader's subtraction of two
//! documents ([`StatsDocument::interval`]). Definitions that hold everywhere:
//!
//! - *device latency*: from the doorbell that told the controller of a command to its completion being seen.
//!   *Host latency*: from the request being accepted to that doorbell, the share of router and scheduler.
//! - *in flight*: submitted and not completed. A command that is given up (a reset, a removed device) counts
//!   as completed and in error, so that `submitted = completed + inflight` always holds. Asynchronous Event
//!   Requests, which wait in the controller by design, are counted nowhere.
//! - *active* is the time with at least one command in flight. It is no measure of saturation: a device that
//!   works on many commands at once is 100% active long before it is busy.

mod check;
mod counters;
mod health;
mod interval;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::big_int::{big_u64, big_u64_map, big_u64_option};
use crate::hist::Histogram;

pub use check::Inconsistency;
pub use health::Health;
pub use interval::{Interval, IntervalError, OpInterval, QueueInterval};

/// The names that [`QueueCounters::ops`] and [`NamespaceStats::ops`] use as keys.
pub const OPS: [&str; 9] = [
    "read",
    "write",
    "flush",
    "dsm",
    "write_zeroes",
    "compare",
    "verify",
    "admin",
    "other",
];

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatsSchema {
    /// `"nvme-stats"`.
    #[default]
    #[serde(rename = "nvme-stats")]
    NvmeStats,
}

/// A snapshot of one controller: what a read of `nvme:controller/stats` or `nvme:N/stats` returns.
///
/// With `?light` the histograms are left out (`null`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatsDocument {
    /// `"nvme-stats"`.
    pub schema: StatsSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// Who wrote it.
    pub driver: DriverInfo,
    /// Identifies the boot of the machine; `null` where the operating system has no such thing.
    pub boot_id: Option<String>,
    /// Identifies this run of the driver: counters of two documents can be subtracted only if it is the same.
    pub instance_id: String,
    /// How often the controller was reset since the driver started. Counters carry on across resets.
    #[serde(with = "big_u64")]
    pub generation: u64,
    /// When the snapshot was taken.
    pub time: Time,
    /// How the snapshot was taken.
    pub snapshot: SnapshotInfo,
    /// The controller.
    pub controller: ControllerInfo,
    /// The last reading of the SMART / Health log; `null` if there was none yet.
    pub health: Option<Health>,
    /// The queue pairs in ascending order of `qid`; 0 is the admin queue.
    pub queues: Vec<QueueStats>,
    /// The active namespaces in ascending order of `nsid`.
    pub namespaces: Vec<NamespaceStats>,
    /// What happened to the controller.
    pub events: Events,
    /// What the clients of the tree hold now; `null` where the document was not read from a tree, and from a driver
    /// that writes 1.0.
    #[serde(default)]
    pub clients: Option<Clients>,
    /// Commands that were slow, failed or never answered, as `controller/slow` counts them; `null` from a driver
    /// that writes 1.0.
    #[serde(with = "big_u64_option", default)]
    pub slow_commands: Option<u64>,
    /// The sockets of the schemes through which clients come, on Redox; empty elsewhere, and from a driver that writes 1.1
    /// or less.
    #[serde(default)]
    pub sockets: Vec<SocketStats>,
}

/// One scheme's socket. All but `handles` and `outstanding` only ever grows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStats {
    /// The scheme's name.
    pub scheme: String,
    /// Open handles.
    #[serde(with = "big_u64")]
    pub handles: u64,
    /// Requests that have not been answered, the one that reads this document among them.
    #[serde(with = "big_u64")]
    pub outstanding: u64,
    /// Requests and notices of the kernel.
    #[serde(with = "big_u64")]
    pub requests: u64,
    /// Answers to the kernel.
    #[serde(with = "big_u64")]
    pub answers: u64,
    /// Reads of the socket that brought requests: `requests / reads` is the mean batch.
    #[serde(with = "big_u64")]
    pub reads: u64,
    /// Reads of the socket that brought none.
    #[serde(with = "big_u64")]
    pub reads_empty: u64,
    /// Writes of answers to the socket.
    #[serde(with = "big_u64")]
    pub writes: u64,
}

/// Those who use the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clients {
    /// uid 0.
    pub root: ClientCounts,
    /// All others together.
    pub others: ClientCounts,
}

/// What clients hold now, and how often they were refused more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCounts {
    /// Open handles.
    #[serde(with = "big_u64")]
    pub handles: u64,
    /// Calls that have not been answered, the one that reads this document among them.
    #[serde(with = "big_u64")]
    pub calls: u64,
    /// Bytes of reads and writes that have not been answered.
    #[serde(with = "big_u64")]
    pub bytes: u64,
    /// Opens and calls that were refused because a quota was used up.
    #[serde(with = "big_u64")]
    pub refused: u64,
}

/// The program that wrote a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverInfo {
    /// Its name, such as `"nvme-driver"`.
    pub name: String,
    /// Its version, such as `"0.1.0"`.
    pub version: String,
    /// The cargo features that it was built with.
    pub features: Vec<String>,
}

/// The clocks at the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// The monotonic clock when the snapshot began, in ns; same origin as every other `*_monotonic_ns`.
    #[serde(with = "big_u64")]
    pub monotonic_ns: u64,
    /// The wall clock at that moment, in ns since 1970-01-01 00:00 UTC without leap seconds.
    #[serde(with = "big_u64")]
    pub wall_unix_ns: u64,
    /// What latencies are measured with: `"tsc"`, `"monotonic"` or `"virtual"` (simulation).
    pub clock: String,
    /// That clock's ticks per second; `null` where it counts nanoseconds.
    #[serde(with = "big_u64_option", default)]
    pub clock_hz: Option<u64>,
    /// The monotonic clock when the driver started counting, in ns.
    #[serde(with = "big_u64")]
    pub started_monotonic_ns: u64,
}

/// How good the snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// How long reading all queues took, in ns.
    #[serde(with = "big_u64")]
    pub duration_ns: u64,
    /// Whether every queue's set of counters is consistent in itself. (Queues are read one after the other.)
    pub consistent: bool,
    /// How often a queue had to be read again because it was counting meanwhile.
    #[serde(with = "big_u64")]
    pub retries: u64,
}

/// The controller and how it is driven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerInfo {
    /// The PCI address, such as `"0000:01:00.0"`; `null` where there is none.
    pub pci: Option<String>,
    /// The backend: `"redox"`, `"vfio"`, `"vfio-user"` or `"emulated"`.
    pub backend: String,
    /// The PCI vendor id (VID of Identify Controller).
    pub vendor_id: u16,
    /// The model number (MN) without padding.
    pub model: String,
    /// The serial number (SN) without padding.
    pub serial: String,
    /// The firmware revision (FR) without padding.
    pub firmware: String,
    /// What the controller is doing: `"ready"`, `"resetting"` (it failed and is being
    /// disabled), `"failed"`, or `"down"` after an orderly shutdown.
    pub state: String,
    /// The largest transfer of one command in bytes (from MDTS); `null` if the controller sets no limit.
    #[serde(with = "big_u64_option", default)]
    pub mdts_bytes: Option<u64>,
    /// How interrupts arrive: `"msix"`, `"msi"`, `"intx"` or `"none"`.
    pub irq_mode: String,
    /// The NUMA node that the controller is near to; `null` where there is one node or nobody knows, and from a driver that
    /// writes 1.2 or less.
    #[serde(default)]
    pub numa_node: Option<u32>,
    /// The scheduler that chooses queues: `"none"`, `"roundrobin"`, `"cpuaffinity"`, ...
    pub scheduler: String,
}

/// What a queue pair is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    /// The admin queue pair, `qid` 0.
    Admin,
    /// An I/O queue pair.
    Io,
}

/// How a queue's completions are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueMode {
    /// The worker sleeps until an interrupt.
    Interrupt,
    /// The worker looks for them, at intervals if it is told to.
    Polling,
    /// The worker looks while one is expected soon and sleeps otherwise.
    Adaptive,
}

/// One queue pair.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStats {
    /// The queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// What it is for.
    pub kind: QueueKind,
    /// How many commands it can have in flight.
    pub depth: u32,
    /// The CPU its worker is bound to; `null` if it is not bound.
    pub cpu: Option<u32>,
    /// Its interrupt vector; `null` if it has none.
    pub vector: Option<u16>,
    /// How completions are found.
    pub mode: QueueMode,
    /// Whether the counters below were all read at one moment. If not, each is right but they may not fit
    /// together.
    pub consistent: bool,
    /// What it counted. `None` if the driver was built without the feature `performance-counters`; in JSON
    /// the counters are members of the queue itself, all `null` in that case.
    #[serde(flatten, with = "counters")]
    pub counters: Option<QueueCounters>,
}

/// What a queue pair counts. All counters start at 0 when the driver starts and never go down or reset;
/// gauges say so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct QueueCounters {
    /// Commands written to the submission queue and told of by a doorbell.
    #[serde(with = "big_u64")]
    pub submitted: u64,
    /// Commands that are over, with whatever status; given up ones included.
    #[serde(with = "big_u64")]
    pub completed: u64,
    /// Those of them that did not succeed.
    #[serde(with = "big_u64")]
    pub completed_error: u64,
    /// Commands that exceeded their time limit.
    #[serde(with = "big_u64")]
    pub timeouts: u64,
    /// Abort commands sent for commands of this queue.
    #[serde(with = "big_u64")]
    pub aborts: u64,
    /// Requests that the driver has sent again, each alone, after a command of several had failed.
    #[serde(with = "big_u64")]
    pub retries: u64,
    /// `completed_error` by the status' name in the specification, or `"sct N sc N"` for one without a name;
    /// `"others"` for what came after a recorder had no place for yet another status.
    #[serde(with = "big_u64_map")]
    pub errors_by_status: BTreeMap<String, u64>,
    /// Completion entries that were not believed.
    pub rejected: Rejected,
    /// Gauge: commands in flight at the snapshot.
    #[serde(with = "big_u64")]
    pub inflight: u64,
    /// The most commands that ever were in flight.
    #[serde(with = "big_u64")]
    pub inflight_max: u64,
    /// Gauge: the age of the oldest command in flight, in ns; `null` if there is none.
    #[serde(with = "big_u64_option", default)]
    pub inflight_age_max_ns: Option<u64>,
    /// The integral over time of the number of commands in flight, up to the snapshot, in
    /// command-nanoseconds. Its growth divided by the time is the mean queue depth. Wraps at 2^64 (after half
    /// a year at a constant depth of 1024).
    #[serde(with = "big_u64")]
    pub qd_time_integral_ns: u64,
    /// Time with at least one command in flight, up to the snapshot, in ns.
    #[serde(with = "big_u64")]
    pub active_ns: u64,
    /// Time with no room for another command, up to the snapshot, in ns.
    #[serde(with = "big_u64")]
    pub full_ns: u64,
    /// Gauge: requests that wait in the host for a place in the queue.
    #[serde(with = "big_u64")]
    pub host_queued: u64,
    /// The most requests that ever waited.
    #[serde(with = "big_u64")]
    pub host_queued_max: u64,
    /// Requests of the class urgent whose turn came, under a scheduler that orders requests.
    #[serde(with = "big_u64", default)]
    pub class_urgent: u64,
    /// The same of the class high.
    #[serde(with = "big_u64", default)]
    pub class_high: u64,
    /// The same of the class medium.
    #[serde(with = "big_u64", default)]
    pub class_medium: u64,
    /// The same of the class low.
    #[serde(with = "big_u64", default)]
    pub class_low: u64,
    /// Requests that were sent with another one's command: small ones of adjacent blocks, under the scheduler `deadline`, if
    /// merging is switched on.
    #[serde(with = "big_u64", default)]
    pub merged: u64,
    /// Requests with a deadline, their own or (under the scheduler `deadline`) their class's, that were done in
    /// time.
    #[serde(with = "big_u64", default)]
    pub deadlines_met: u64,
    /// Those that were late, and spent most of their time in the driver.
    #[serde(with = "big_u64", default)]
    pub deadlines_missed_host: u64,
    /// Those that were late, and spent most of their time at the device.
    #[serde(with = "big_u64", default)]
    pub deadlines_missed_device: u64,
    /// Writes to the register of the submission queue's tail doorbell. Where doorbells are in memory too, only those that the controller asked
    /// for.
    #[serde(with = "big_u64")]
    pub sq_doorbells: u64,
    /// The same of the completion queue's head doorbell, which is written late where completions are polled for.
    #[serde(with = "big_u64")]
    pub cq_doorbells: u64,
    /// Passes over the completion queue.
    #[serde(with = "big_u64")]
    pub polls: u64,
    /// Those of them that found nothing.
    #[serde(with = "big_u64")]
    pub polls_empty: u64,
    /// Interrupts received.
    #[serde(with = "big_u64")]
    pub interrupts: u64,
    /// Those of them that came with no completion.
    #[serde(with = "big_u64")]
    pub spurious_interrupts: u64,
    /// Data bytes that went through a bounce buffer.
    #[serde(with = "big_u64")]
    pub bytes_copied: u64,
    /// Data bytes that the device moved from or to the caller's own buffer.
    #[serde(with = "big_u64")]
    pub bytes_zero_copy: u64,
    /// How many completions a pass that found any found, in `count`; `null` in a light document.
    pub completions_per_wakeup: Option<Histogram>,
    /// The same by operation; keys are those of [`OPS`]. An operation that never completed may be left out.
    pub ops: BTreeMap<String, OpStats>,
}

/// Completion queue entries that named no command in flight or made no sense.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The command id belongs to no slot of the queue.
    #[serde(with = "big_u64")]
    pub unknown_cid: u64,
    /// The command id is of an earlier use of its slot.
    #[serde(with = "big_u64")]
    pub stale_cid: u64,
    /// The command id is of the slot's last use, which was completed already.
    #[serde(with = "big_u64")]
    pub duplicate_cid: u64,
    /// SQHD lies outside the submission queue.
    #[serde(with = "big_u64")]
    pub bad_sqhd: u64,
    /// SQID is not this queue's.
    #[serde(with = "big_u64")]
    pub bad_sqid: u64,
}

/// What a queue counts for one operation, at completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OpStats {
    /// Commands completed, with whatever status.
    #[serde(with = "big_u64")]
    pub count: u64,
    /// Data bytes of the successful ones.
    #[serde(with = "big_u64")]
    pub bytes: u64,
    /// Those that did not succeed.
    #[serde(with = "big_u64")]
    pub errors: u64,
    /// The sum of the device latencies of all of them, in ns, exact. Wraps at 2^64.
    #[serde(with = "big_u64")]
    pub sum_ns: u64,
    /// The lowest device latency in ns, exact; `null` if none completed.
    #[serde(with = "big_u64_option", default)]
    pub min_ns: Option<u64>,
    /// The highest device latency in ns, exact; `null` if none completed.
    #[serde(with = "big_u64_option", default)]
    pub max_ns: Option<u64>,
    /// Device latencies of all of them; `null` in a light document.
    pub latency_device: Option<Histogram>,
    /// Host latencies of all of them; `null` in a light document.
    pub latency_host: Option<Histogram>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStats {
    /// The namespace identifier.
    pub nsid: u32,
    /// The size of a logical block in bytes.
    pub lba_bytes: u32,
    /// The number of logical blocks (NSZE).
    #[serde(with = "big_u64")]
    pub blocks: u64,
    /// What was done, by operation (keys: [`OPS`]); `null` if the driver does not count it.
    pub ops: Option<BTreeMap<String, NamespaceOpStats>>,
}

/// What was done to a namespace by one operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceOpStats {
    /// Commands completed, with whatever status.
    #[serde(with = "big_u64")]
    pub count: u64,
    /// Data bytes of the successful ones.
    #[serde(with = "big_u64")]
    pub bytes: u64,
    /// Those that did not succeed.
    #[serde(with = "big_u64")]
    pub errors: u64,
}

/// What happened to the controller since the driver started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Controller resets after the first bring-up.
    #[serde(with = "big_u64")]
    pub resets: u64,
    /// Why the last one was done; `null` if there was none.
    pub last_reset_reason: Option<String>,
    /// The monotonic clock when the last one began, in ns; `null` if there was none.
    #[serde(with = "big_u64_option", default)]
    pub last_reset_monotonic_ns: Option<u64>,
    /// Asynchronous events by type: `"error"`, `"smart_health"`, `"notice"`, `"immediate"`, `"one_shot"`,
    /// `"io_command_set"`, `"vendor"`, or `"type N"`.
    #[serde(with = "big_u64_map")]
    pub aer_by_type: BTreeMap<String, u64>,
}
