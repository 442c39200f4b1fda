//! The admin queue: the commands that set the controller up and ask it about itself (Base 2.0, section 5).

mod abort;
mod events;
mod features;
mod format;
mod identify;
mod logs;
mod management;
mod queues;
mod self_test;

use nvme_spec::{AdminOpcode, Cc, Direction, Status, SubmissionEntry, entry::FUSE_NONE};

use crate::config::ManagementInterface;
use crate::engine::{Context, Engine, Finished};
use crate::fault::Action;
use crate::held::Command;
use crate::transfer::{self, DataPointer, Scratch};

pub(crate) use events::Event;
use events::Events;
use features::Features;
use management::Management;
use queues::IoQueues;
use self_test::SelfTests;

/// Warning Composite Temperature Threshold (WCTEMP), in kelvin.
const WARNING_TEMPERATURE_KELVIN: u16 = 343;
/// Critical Composite Temperature Threshold (CCTEMP), in kelvin.
const CRITICAL_TEMPERATURE_KELVIN: u16 = 353;

/// Where CDW10 begins in a command, for parameter error locations.
const CDW10_BYTE: u16 = 40;
const CDW11_BYTE: u16 = 44;
const CDW12_BYTE: u16 = 48;
const CDW14_BYTE: u16 = 56;
const NSID_BYTE: u16 = 4;
const PRP1_BYTE: u16 = 24;
const PRP2_BYTE: u16 = 32;

/// Why an admin command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    status: Status,
    /// First byte of the field that is wrong.
    location: Option<u16>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self {
            status,
            location: None,
        }
    }
}

/// Invalid Field in Command, and the byte of the command that the field begins at.
fn fail_at(byte: u16) -> Failure {
    Failure {
        status: Status::INVALID_FIELD,
        location: Some(byte),
    }
}

type Reply = Result<Finished, Failure>;

/// The admin queue and what its commands have set.
#[derive(Debug)]
pub(crate) struct Admin {
    engine: Engine,
    scratch: Scratch,
    features: Features,
    events: Events,
    self_tests: SelfTests,
    management: Management,
    queues: IoQueues,
    /// CC as it was when the controller was enabled.
    cc: Cc,
    /// Whether the temperature is beyond a threshold.
    is_hot: bool,
    life: Life,
}

/// What SMART tells of the device's life beyond what is counted elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Life {
    /// When power came first.
    powered_ns: u64,
    pub power_cycles: u64,
    pub unsafe_shutdowns: u64,
}

impl Life {
    /// Power cycles take no time here, so this is the time since the first.
    fn power_on_hours(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.powered_ns) / 3_600_000_000_000
    }
}

impl Admin {
    pub fn new() -> Self {
        Self {
            engine: Engine::default(),
            scratch: Scratch::new(),
            features: Features::default(),
            events: Events::default(),
            self_tests: SelfTests::default(),
            management: Management::default(),
            queues: IoQueues::default(),
            cc: Cc::new(),
            is_hot: false,
            life: Life {
                power_cycles: 1,
                ..Life::default()
            },
        }
    }

    /// The queue pair.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub fn life(&mut self) -> &mut Life {
        &mut self.life
    }

    /// The first time the device learns of is when it was switched on.
    pub fn power_on(&mut self, now_ns: u64) {
        self.life.powered_ns = now_ns;
        self.features.reset(now_ns);
    }

    /// The controller has become ready.
    pub fn enable(&mut self, cx: Context<'_>, cc: Cc) {
        self.cc = cc;
        self.management.enabled();
        self.apply_features(cx);
    }

    /// A reset: everything that was set is at its saved value again; requests that wait are forgotten.
    pub fn reset(&mut self, now_ns: u64) {
        self.engine.clear();
        self.features.reset(now_ns);
        self.events = Events::default();
        self.self_tests.reset(self.life.power_on_hours(now_ns));
        self.queues = IoQueues::default();
        self.is_hot = false;
    }

    /// Something happened that the host may want to hear of.
    pub fn notify(&mut self, cx: Context<'_>, event: Event) {
        if event == Event::NAMESPACE_ATTRIBUTE {
            self.management.namespace_changed();
        }
        if self.is_wanted(cx, event) {
            self.events.notify(event);
        }
    }

    /// When something is due without the host doing anything.
    pub fn due_ns(&mut self, device: &crate::device::Device) -> Option<u64> {
        [self.engine.due_ns(device), self.self_tests.due_ns()]
            .into_iter()
            .flatten()
            .min()
    }

    /// One pass over the admin queue. True if there was something to do.
    pub fn pass(&mut self, cx: Context<'_>) -> bool {
        let mut worked = self.engine.begin(cx);
        worked |= self
            .self_tests
            .turn(cx.now_ns, self.life.power_on_hours(cx.now_ns));
        while let Some(command) = self.engine.next(cx, |_| cx.now_ns) {
            worked = true;
            self.run(cx, command);
        }
        while let Some((cid, dw0)) = self.events.report() {
            worked = true;
            if let Some(request) = self.engine.take(0, cid) {
                self.engine
                    .complete(cx, request, Finished { dw0, ..Finished::OK });
            }
        }
        self.engine.end(cx);
        cx.tally.passes.add(u64::from(worked));
        worked
    }

    fn run(&mut self, cx: Context<'_>, command: Command) {
        let fault = command.fault.as_deref();
        if let Some(Action::Fail(status)) = fault {
            let failed = Finished::with(*status);
            return self.engine.complete(cx, command, failed);
        }
        let entry = command.entry;
        if AdminOpcode(entry.opcode) == AdminOpcode::ASYNC_EVENT_REQUEST && entry.fuse() == FUSE_NONE {
            if self.events.request(entry.cid) {
                return self.engine.keep(command);
            }
            let status = Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.with_dnr(true);
            return self.engine.complete(cx, command, Finished::with(status));
        }
        let lies = fault == Some(&Action::LyingAbort);
        let mut finished = match self.execute(cx, &entry, lies) {
            Ok(finished) => finished,
            // What is wrong with a command stays wrong however often it is sent; a transfer error may pass.
            Err(Failure { status, location }) => Finished {
                status: status
                    .with_dnr(!status.is(Status::DATA_TRANSFER_ERROR) && !status.is(Status::INTERNAL_ERROR)),
                error_location: location,
                ..Finished::OK
            },
        };
        if let Some(Action::Corrupt { offset_bytes, bytes }) = fault
            && finished.status.is_success()
            && AdminOpcode(entry.opcode).transfers() == Direction::FromDevice
            && let Err(status) = self.scratch.overwrite(&*cx.device.memory, *offset_bytes, bytes)
        {
            finished = Finished::with(status);
        }
        self.engine.complete(cx, command, finished);
    }

    fn execute(&mut self, cx: Context<'_>, entry: &SubmissionEntry, lies: bool) -> Reply {
        // There are no fused admin commands, and over PCIe admin commands use PRPs (Base 2.0, section 3.3.3.1).
        if entry.fuse() != FUSE_NONE || entry.psdt() != nvme_spec::entry::PSDT_PRP {
            return Err(fail_at(1));
        }
        match AdminOpcode(entry.opcode) {
            AdminOpcode::DELETE_IO_SQ => self.delete_io_sq(cx, entry),
            AdminOpcode::CREATE_IO_SQ => self.create_io_sq(cx, entry),
            AdminOpcode::GET_LOG_PAGE => self.get_log_page(cx, entry),
            AdminOpcode::DELETE_IO_CQ => self.delete_io_cq(cx, entry),
            AdminOpcode::CREATE_IO_CQ => self.create_io_cq(cx, entry),
            AdminOpcode::IDENTIFY => self.identify(cx, entry),
            AdminOpcode::ABORT => self.abort(cx, entry, lies),
            AdminOpcode::SET_FEATURES => self.set_features(cx, entry),
            AdminOpcode::GET_FEATURES => self.get_features(cx, entry),
            AdminOpcode::DEVICE_SELF_TEST => self.device_self_test(cx, entry),
            AdminOpcode::DOORBELL_BUFFER_CONFIG if cx.device.config.dbbuf => {
                self.doorbell_buffer_config(cx, entry)
            }
            AdminOpcode::FORMAT_NVM => self.format_nvm(cx, entry),
            AdminOpcode::NVME_MI_SEND | AdminOpcode::NVME_MI_RECEIVE
                if cx.device.config.management != ManagementInterface::Off =>
            {
                self.manage(cx, entry)
            }
            _ => Err(Status::INVALID_OPCODE.into()),
        }
    }

    /// Sends `data` to where the command's data pointer says.
    fn reply_with(&mut self, cx: Context<'_>, entry: &SubmissionEntry, data: &[u8]) -> Reply {
        self.map(cx, entry, data.len(), Direction::FromDevice)?;
        self.scratch.cursor().scatter(&*cx.device.memory, data)?;
        Ok(Finished {
            bytes: data.len() as u64,
            ..Finished::OK
        })
    }

    /// Fetches `data` from there.
    fn read_data(
        &mut self,
        cx: Context<'_>,
        entry: &SubmissionEntry,
        data: &mut [u8],
    ) -> Result<(), Failure> {
        self.map(cx, entry, data.len(), Direction::ToDevice)?;
        Ok(self.scratch.cursor().gather(&*cx.device.memory, data)?)
    }

    fn map(
        &mut self,
        cx: Context<'_>,
        entry: &SubmissionEntry,
        len_bytes: usize,
        direction: Direction,
    ) -> Result<(), Failure> {
        let pointer = DataPointer {
            page_bytes: cx.device.page_bytes(),
            sgl: false,
        };
        let memory = &*cx.device.memory;
        Ok(transfer::map(
            entry,
            len_bytes as u64,
            direction,
            pointer,
            memory,
            &mut self.scratch,
        )?)
    }

    /// Checks that a namespace is there and active.
    fn active_namespace(&self, cx: Context<'_>, nsid: u32) -> Result<(), Failure> {
        match cx.device.namespaces.get(nsid) {
            Some(_) => Ok(()),
            None => Err(Failure {
                status: Status::INVALID_NAMESPACE_OR_FORMAT,
                location: Some(NSID_BYTE),
            }),
        }
    }

    fn has_io_queues(&self) -> bool {
        !self.queues.is_empty()
    }
}
