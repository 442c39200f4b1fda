//! What the tests that cross crates share: a driver on an emulated controller, and a place where answers arrive.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvme_driver::admin::{AdminAnswer, AdminFinished};
use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::clock::Clock;
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Config, Controller, Driver, Error, Finished, IoError};
use nvme_emulator::Emulator;

/// No answer takes this long, however slow the machine is: it is there so that a failure is a failure and not a hang.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A driver with its threads on an emulated controller with its own.
pub struct Rig {
    /// The driver.
    pub driver: Driver,
    /// The device, which knows what it has really done.
    pub device: Arc<Emulator>,
}

impl Rig {
    /// A rig for a device of `spec`.
    ///
    /// # Panics
    /// If `spec` is none, or the driver does not come up.
    pub fn new(spec: &str, config: &Config) -> Self {
        let device = spec.parse().expect("the test's SPEC");
        Self::with_device(device, config, |_| ()).expect("the driver comes up")
    }

    /// A rig for `device`, on which `prepare` may put faults before the driver sees it.
    ///
    /// # Errors
    /// What keeps the driver from coming up.
    ///
    /// # Panics
    /// If the device cannot be made.
    pub fn with_device(
        device: nvme_emulator::Config,
        config: &Config,
        prepare: impl FnOnce(&Emulator),
    ) -> Result<Self, Error> {
        let clock = Clock::system();
        let backend = EmulatedBackend::start(device, clock.clone()).expect("the emulated device");
        let device = Arc::clone(backend.device());
        prepare(&device);
        let controller = Controller::open(Arc::new(backend), config, clock)?;
        Ok(Self {
            driver: Driver::start(controller)?,
            device,
        })
    }
}

/// Collects answers from any thread.
pub struct Answers {
    sender: Mutex<Sender<(u64, Finished<()>)>>,
    receiver: Receiver<(u64, Finished<()>)>,
}

/// The half of [`Answers`] that the driver holds.
struct Sink(Mutex<Sender<(u64, Finished<()>)>>);

impl Answer for Sink {
    fn answer(&self, tag: u64, finished: Finished<()>) {
        // A test that has failed already does not listen any more.
        let _ = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((tag, finished));
    }
}

impl Default for Answers {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self {
            sender: Mutex::new(sender),
            receiver,
        }
    }
}

impl Answers {
    /// Something to hand requests over with.
    pub fn sink(&self) -> Arc<dyn Answer> {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Arc::new(Sink(Mutex::new(sender)))
    }

    /// The context of a request whose answer is to come here.
    pub fn remote(sink: &Arc<dyn Answer>, tag: u64) -> Remote {
        Remote {
            sink: Arc::clone(sink),
            tag,
        }
    }

    /// The next answer.
    ///
    /// # Panics
    /// If none comes.
    pub fn next(&self) -> (u64, Finished<()>) {
        self.receiver.recv_timeout(PATIENCE).expect("an answer comes")
    }

    /// An answer, if one has come.
    pub fn try_next(&self) -> Option<(u64, Finished<()>)> {
        self.receiver.try_recv().ok()
    }
}

/// The answer to one admin command.
pub type AdminResult = Result<AdminFinished, IoError>;

struct AdminSink(Mutex<Sender<AdminResult>>);

impl AdminAnswer for AdminSink {
    fn answer_admin(&self, _tag: u64, result: AdminResult) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(result);
    }
}

/// Sends one admin command and waits for its answer.
///
/// # Panics
/// If none comes.
pub fn admin(
    driver: &Driver,
    entry: nvme_spec::SubmissionEntry,
    data: nvme_driver::admin::AdminData,
) -> AdminResult {
    let (sender, receiver) = channel();
    let sink = Arc::new(AdminSink(Mutex::new(sender)));
    driver.admin(nvme_driver::admin::AdminRequest {
        entry,
        data,
        tag: 0,
        sink,
    });
    receiver.recv_timeout(PATIENCE).expect("an answer comes")
}
