//! What the controller reports by itself (Base 2.0, section 5.2): requests for events are kept out, each event is told
//! and its log page read, and when namespaces have changed they are looked at again.
//!
//! At most one command is out at a time, besides the event requests. A controller that reports without end is heard
//! [`EVENTS_IN_WINDOW`] times a second.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use nvme_spec::SubmissionEntry;
use nvme_spec::command::{self, AsyncEventDw0, NSID_ALL};
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId};
use nvme_spec::identify::{IdentifyController, Oaes};
use nvme_spec::log::LogId;
use stats_proto::event::Event;
use zerocopy::FromBytes;

use crate::admin::{AdminData, AdminFinished, AdminQueue};
use crate::controller::{AdminContext, Identity};
use crate::events::EventLog;
use crate::namespace::scan::{Bounds, IDENTIFY_BYTES, Look, Scan};
use crate::namespace::table::{Change, NamespaceTable};

#[cfg(test)]
mod tests;

/// Event requests that are kept out, as far as the controller takes them (AERL).
const REQUESTS: usize = 4;
/// Events that are heard in a window of time.
const EVENTS_IN_WINDOW: u32 = 32;
const WINDOW_NS: u64 = 1_000_000_000;
/// The warnings of SMART that can be asked for in every version of the specification (section 5.27.1.8).
const SMART_WARNINGS: u8 = 0x1F;
/// What is read of a log page whose length is not looked up: reading it is what lets the next event of its kind through.
const LOG_BYTES: usize = 512;

/// A command of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To be told when there is an event.
    Event,
    /// Which events are to be told.
    Configuration,
    /// A log page.
    Log(LogId),
    /// What namespaces there are.
    Look(Look),
}

/// Events by type, for the statistics.
#[derive(Debug, Default)]
pub(crate) struct EventCounts([AtomicU64; 8]);

/// The names of the types of event (section 5.2.1).
const TYPES: [Option<&str>; 8] = [
    Some("error"),
    Some("smart"),
    Some("notice"),
    Some("immediate"),
    None,
    None,
    Some("io_command_set"),
    Some("vendor"),
];

impl EventCounts {
    fn count(&self, event_type: u8) {
        if let Some(count) = self.0.get(usize::from(event_type)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that there have been, by the name of their type.
    pub(crate) fn by_type(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let named = TYPES
            .iter()
            .zip(counts)
            .map(|(name, count)| (name.unwrap_or("reserved"), count));
        named.filter(|(_, count)| *count > 0)
    }
}

/// Where what is learnt goes.
pub(crate) struct Told<'a> {
    pub(crate) events: &'a EventLog,
    pub(crate) counts: &'a EventCounts,
    pub(crate) namespaces: &'a NamespaceTable,
}

/// See the [module](self).
pub(crate) struct Notices {
    /// To be sent, in order.
    due: VecDeque<Asked>,
    /// A command other than an event request is out.
    out: bool,
    /// Event requests to have out, and those that are.
    requests: usize,
    requests_out: usize,
    /// When the window of time began in which `heard` events were told.
    window_ns: u64,
    heard: u32,
    enabled: AsyncEventConfiguration,
    bounds: Bounds,
    /// The namespaces are being looked at.
    looking: bool,
    /// They have changed since that began.
    again: bool,
    scan: Scan,
}

impl Notices {
    pub(crate) fn new(identity: &Identity) -> Self {
        let identify = IdentifyController::read_from_bytes(identity.identify_controller.as_slice()).ok();
        let (oaes, aerl) = identify.map_or((0, 0), |identify| (identify.oaes.get(), identify.aerl));
        let offered = Oaes::from(oaes);
        Self {
            due: [Asked::Configuration].into(),
            out: false,
            requests: REQUESTS.min(usize::from(aerl) + 1),
            requests_out: 0,
            window_ns: 0,
            heard: 0,
            enabled: AsyncEventConfiguration::new()
                .with_smart(SMART_WARNINGS)
                .with_namespace_attribute(offered.namespace_attribute())
                .with_firmware_activation(offered.firmware_activation()),
            bounds: Bounds::of(identity),
            looking: false,
            again: false,
            scan: Scan::default(),
        }
    }

    /// Writes what is to be sent and may be; says when there may be more although nothing was answered.
    pub(crate) fn send(&mut self, admin: &mut AdminQueue<AdminContext>, now_ns: u64) -> Option<u64> {
        if !self.out
            && let Some(&asked) = self.due.front()
        {
            let (entry, data) = self.command(asked);
            // While there is no room, clients' commands come to an end, and then this is called again.
            if admin
                .submit(entry, &data, now_ns, AdminContext::Notices(asked))
                .is_ok()
            {
                self.due.pop_front();
                self.out = true;
            }
        }
        if now_ns.saturating_sub(self.window_ns) >= WINDOW_NS {
            (self.window_ns, self.heard) = (now_ns, 0);
        }
        // An event's log page is read first: until then the controller has nothing more of its kind to tell.
        while self.due.is_empty() && !self.out && self.requests_out < self.requests {
            if self.heard + self.requests_out as u32 >= EVENTS_IN_WINDOW {
                return Some(self.window_ns + WINDOW_NS);
            }
            let entry = command::async_event_request();
            let context = AdminContext::Notices(Asked::Event);
            if admin.submit(entry, &AdminData::None, now_ns, context).is_err() {
                break;
            }
            self.requests_out += 1;
        }
        None
    }

    fn command(&self, asked: Asked) -> (SubmissionEntry, AdminData) {
        match asked {
            Asked::Event => (command::async_event_request(), AdminData::None),
            Asked::Configuration => (
                command::set_features(
                    FeatureId::ASYNC_EVENT_CONFIGURATION,
                    0,
                    self.enabled.into(),
                    false,
                ),
                AdminData::None,
            ),
            Asked::Log(lid) => {
                let bytes = match lid {
                    LogId::CHANGED_NAMESPACES => IDENTIFY_BYTES,
                    _ => LOG_BYTES,
                };
                (
                    command::get_log_page(lid, NSID_ALL, bytes as u32, 0, false),
                    AdminData::FromDevice(bytes),
                )
            }
            Asked::Look(look) => (self.scan.command(look), AdminData::FromDevice(IDENTIFY_BYTES)),
        }
    }

    /// Takes the answer to one of its commands.
    pub(crate) fn take(&mut self, asked: Asked, finished: &AdminFinished, told: &Told<'_>) {
        let status = finished.completion.status();
        if asked != Asked::Event {
            self.out = false;
        }
        match asked {
            Asked::Event => {
                self.requests_out = self.requests_out.saturating_sub(1);
                if status.is_success() {
                    self.heard += 1;
                    self.hear(finished.completion.dw0.into(), told);
                } else {
                    // It takes no more of them than are still out.
                    log::warn!("the controller refused to report events: {status}");
                    self.requests = self.requests_out;
                }
            }
            Asked::Configuration if !status.is_success() => {
                log::info!("the controller does not let its events be chosen: {status}");
            }
            // What has changed since the namespaces were read, and before this was asked for, is told to nobody.
            Asked::Configuration if self.enabled.namespace_attribute() => self.look(),
            Asked::Log(LogId::CHANGED_NAMESPACES) => self.look(),
            Asked::Configuration | Asked::Log(_) => {}
            Asked::Look(Look::List(_)) if !status.is_success() => {
                log::warn!("the controller does not list its namespaces any more: {status}");
                self.looking = false;
            }
            Asked::Look(look) => match self.scan.take(look, status, &finished.data, &self.bounds) {
                Some(next) => self.due.push_back(Asked::Look(next)),
                None => self.looked(told),
            },
        }
    }

    fn hear(&mut self, event: AsyncEventDw0, told: &Told<'_>) {
        let (event_type, info, log_page) = (event.event_type(), event.info(), event.log_page());
        let meaning = meaning(event_type, info);
        log::warn!(
            "the controller reports an event: {} (type {event_type}, information {info:#04x}, log page {log_page:#04x})",
            meaning.unwrap_or("not known")
        );
        told.counts.count(event_type);
        told.events.push(Event::AsynchronousEvent {
            event_type,
            info,
            log_page,
            meaning: meaning.map(str::to_owned),
        });
        let log = Asked::Log(LogId(log_page));
        if event_type != command::EVENT_IMMEDIATE && !self.due.contains(&log) {
            self.due.push_back(log);
        }
    }

    /// Looks at all namespaces, from the start.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            self.again = true;
            return;
        }
        self.scan = Scan::default();
        self.due.push_back(Asked::Look(Look::FIRST));
    }

    /// All have been looked at.
    fn looked(&mut self, told: &Told<'_>) {
        self.looking = false;
        for change in told.namespaces.update(std::mem::take(&mut self.scan).finish()) {
            tell(&change, told);
        }
        if std::mem::take(&mut self.again) {
            self.look();
        }
    }
}

fn tell(change: &Change, told: &Told<'_>) {
    let listed = told.namespaces.listed();
    let of = |nsid: u32| {
        let namespace = listed.iter().find(|namespace| namespace.nsid == nsid);
        namespace.map_or((0, 0), |namespace| {
            (
                namespace.blocks,
                u32::try_from(namespace.lba_bytes()).unwrap_or(u32::MAX),
            )
        })
    };
    let event = match *change {
        Change::Added(nsid) => {
            let (blocks, block_bytes) = of(nsid);
            log::warn!("namespace {nsid} is there now: {blocks} blocks of {block_bytes} bytes");
            Event::NamespaceAdded {
                nsid,
                blocks,
                block_bytes,
            }
        }
        Change::Changed(nsid) => {
            let (blocks, block_bytes) = of(nsid);
            log::warn!("namespace {nsid} has changed: {blocks} blocks of {block_bytes} bytes");
            Event::NamespaceChanged {
                nsid,
                blocks,
                block_bytes,
            }
        }
        Change::Removed(nsid) => {
            log::warn!("namespace {nsid} is not there any more");
            Event::NamespaceRemoved { nsid }
        }
    };
    told.events.push(event);
}

/// What an event means (section 5.2.1).
fn meaning(event_type: u8, info: u8) -> Option<&'static str> {
    Some(match (event_type, info) {
        (command::EVENT_ERROR, 0x00) => "a doorbell of a queue that does not exist was written",
        (command::EVENT_ERROR, 0x01) => "a doorbell was written with a value that cannot be",
        (command::EVENT_ERROR, 0x02) => "a diagnostic failed",
        (command::EVENT_ERROR, 0x03) => "a persistent internal error",
        (command::EVENT_ERROR, 0x04) => "a transient internal error",
        (command::EVENT_ERROR, 0x05) => "a firmware image could not be loaded",
        (command::EVENT_SMART, 0x00) => "the NVM subsystem is not reliable any more",
        (command::EVENT_SMART, 0x01) => "the temperature has passed a threshold",
        (command::EVENT_SMART, 0x02) => "the available spare has fallen below its threshold",
        (command::EVENT_NOTICE, 0x00) => "namespaces have changed",
        (command::EVENT_NOTICE, 0x01) => "firmware is being activated",
        (command::EVENT_NOTICE, 0x02) => "there is new telemetry",
        (command::EVENT_NOTICE, 0x03) => "the asymmetric access to namespaces has changed",
        (command::EVENT_NOTICE, 0x04) => "the predictable latency log has changed",
        (command::EVENT_NOTICE, 0x05) => "there is new LBA status information",
        (command::EVENT_NOTICE, 0x06) => "the endurance group log has changed",
        (command::EVENT_NOTICE, 0xEF) => "zone descriptors have changed",
        (command::EVENT_NOTICE, 0xF0) => "the discovery log has changed",
        (command::EVENT_IMMEDIATE, 0x00) => "the NVM subsystem shuts down",
        (command::EVENT_IMMEDIATE, 0x01) => "the temperature has come back from beyond a threshold",
        (command::EVENT_IO_COMMAND, 0x00) => "there is a reservation notification",
        (command::EVENT_IO_COMMAND, 0x01) => "a sanitize operation has ended",
        (command::EVENT_IO_COMMAND, 0x02) => "a sanitize operation has ended, and blocks were deallocated",
        (command::EVENT_VENDOR, _) => "an event of the vendor's own",
        _ => return None,
    })
}
