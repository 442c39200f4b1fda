//! What `nvme:controller/events` returns: one [`EventLine`] per line, as things happen.
//!
//! A reader begins with what the driver still keeps and then waits for more; with `?now` it comes to the end
//! instead. A reader that is too slow for what is kept is told how many events it missed.

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::big_int::big_u64;
use crate::slow::CommandStatus;

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventSchema {
    /// `"nvme-event"`.
    #[default]
    #[serde(rename = "nvme-event")]
    NvmeEvent,
}

/// One event and when it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventLine {
    /// `"nvme-event"`.
    pub schema: EventSchema,
    /// The version of the document's shape. A kind of event that is added raises the minor version.
    pub version: Version,
    /// Its number in this run of the driver, from 0; of [`Event::EventsMissed`] that of the first one missed.
    #[serde(with = "big_u64")]
    pub sequence: u64,
    /// The monotonic clock, in ns; same origin as every other `*monotonic_ns`.
    #[serde(with = "big_u64")]
    pub monotonic_ns: u64,
    /// The wall clock, in ns since 1970-01-01 00:00 UTC without leap seconds.
    #[serde(with = "big_u64")]
    pub wall_unix_ns: u64,
    /// What happened; in JSON its kind is the member `event`, and the rest are members beside it.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The controller is up and requests are taken.
    DriverStarted {
        /// The driver's version, such as `"0.1.0"`.
        driver_version: String,
        /// Identifies this run of the driver, as `instance_id` of the statistics.
        instance_id: String,
        /// The model number (MN).
        model: String,
        /// The serial number (SN).
        serial: String,
        /// The firmware revision (FR).
        firmware: String,
        /// I/O queue pairs.
        io_queues: u32,
        /// Active namespaces.
        namespaces: u32,
    },
    /// The controller failed: it is being disabled, and nothing more is taken.
    ControllerFailed {
        /// What was seen.
        reason: String,
    },
    /// What was out on a controller that failed has been answered as lost.
    ControllerGivenUp {
        /// Whether it could be disabled first. If not, the memory that it knows of is never used again.
        disabled: bool,
    },
    /// A client sent an admin command that may have changed the controller, and it has ended.
    AdminCommand {
        /// The opcode.
        opcode: u8,
        /// The opcode's name in the specification, such as `"Format NVM"`; `null` for one without.
        opcode_name: Option<String>,
        /// The namespace (NSID) as the command had it.
        nsid: u32,
        /// Command dword 10, which for many commands says what is changed.
        cdw10: u32,
        /// The client's user.
        uid: u32,
        /// What the controller answered; `null` if it did not.
        status: Option<CommandStatus>,
    },
    /// The system wants the controller back: the driver shuts down in order.
    RemovalAsked,
    /// Requests are scheduled in another way from now on, those that wait too. The names are those of `NVME_SCHEDULER`.
    SchedulerChanged {
        /// The scheduler until now.
        before: String,
        /// The scheduler now.
        now: String,
    },
    /// The controller reported an event (Base 2.0, section 5.2).
    AsynchronousEvent {
        /// Asynchronous Event Type.
        event_type: u8,
        /// Asynchronous Event Information, by type.
        info: u8,
        /// The log page that tells more, which the driver reads then.
        log_page: u8,
        /// What type and information mean; `null` for what this version of the driver does not know.
        meaning: Option<String>,
    },
    /// A namespace is there that was not there before.
    NamespaceAdded {
        /// The namespace.
        nsid: u32,
        /// Its size in logical blocks; 0 if it cannot be used.
        #[serde(with = "big_u64")]
        blocks: u64,
        /// Bytes of a logical block.
        block_bytes: u32,
    },
    /// A namespace is not what it was: its size, its format or whether it can be used.
    NamespaceChanged {
        /// The namespace.
        nsid: u32,
        /// Its size in logical blocks now; 0 if it cannot be used.
        #[serde(with = "big_u64")]
        blocks: u64,
        /// Bytes of a logical block.
        block_bytes: u32,
    },
    /// A namespace is not there any more.
    NamespaceRemoved {
        /// The namespace.
        nsid: u32,
    },
    /// The driver shuts down: nothing more is taken.
    ShutdownBegun,
    /// The driver has shut down. The last event.
    ShutdownDone {
        /// What went wrong; `null` if nothing did.
        error: Option<String>,
    },
    /// This reader was too slow: events that it has not read are not kept any more.
    EventsMissed {
        /// How many.
        #[serde(with = "big_u64")]
        missed: u64,
    },
    /// A kind of event that a later version has added. Never written.
    #[serde(other)]
    Unknown,
}
