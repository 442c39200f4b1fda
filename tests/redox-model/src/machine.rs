//! The machine: a kernel, CPUs, a bus with controllers, and whoever runs on it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nvme_driver::redox::System;

use crate::calls::Calls;
use crate::client::Client;
use crate::controller::Controller;
use crate::device::Running;
use crate::kernel::{Kernel, Object};
use crate::process::Process;
use crate::violation::Violation;

/// Where a function is on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PciAddress {
    pub segment: u16,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

/// What kind of function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PciIds {
    pub vendor: u16,
    pub device: u16,
    pub class: u8,
    pub subclass: u8,
    pub interface: u8,
    pub revision: u8,
}

impl Default for PciIds {
    /// QEMU's NVMe controller.
    fn default() -> Self {
        Self {
            vendor: 0x1B36,
            device: 0x0010,
            class: 1,
            subclass: 8,
            interface: 2,
            revision: 2,
        }
    }
}

/// A controller, as it is plugged in.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The emulator's text, such as `size=64MiB,namespaces=2`. What it says of vectors is overruled by [`msix`](Self::msix).
    pub spec: String,
    /// Where it is.
    pub address: PciAddress,
    /// What it says that it is.
    pub ids: PciIds,
    /// Entries of the MSI-X table; `None`: no MSI-X.
    pub msix: Option<u16>,
    /// The BAR that the table is in.
    pub msix_bar: u8,
    /// Whether it has MSI, with one message.
    pub msi: bool,
    /// The line of its INTx, 0 to 15; `None`: it has none.
    pub line: Option<u8>,
    /// Whether its BARs are of 64 bits.
    pub bars_64bit: bool,
}

impl ControllerConfig {
    /// A controller of `spec` with MSI-X of 65 vectors in BAR 0, MSI, and line 11, at 0000:00:02.0.
    #[must_use]
    pub fn new(spec: &str) -> Self {
        Self {
            spec: spec.to_owned(),
            address: PciAddress {
                segment: 0,
                bus: 0,
                device: 2,
                function: 0,
            },
            ids: PciIds::default(),
            msix: Some(65),
            msix_bar: 0,
            msi: true,
            line: Some(11),
            bars_64bit: true,
        }
    }
}

/// How the kernel is odd, or short of something.
#[derive(Clone, Debug)]
pub struct Quirks {
    /// Every so many readings, the clock says one to three ticks less than it should.
    pub clock_steps_back_every: Option<u32>,
    /// Step of the clock, and of timeouts.
    pub tick: Duration,
    /// The time stands still but for [`Machine::advance`].
    pub manual_time: bool,
    /// Pages that nobody has mapped through the kernel have physical addresses too, as the heap's have on Redox.
    pub translates_heap: bool,
    /// Most memory that the driver gets.
    pub memory_bytes: usize,
    /// Interrupts that are free on each CPU; `None`: nearly all.
    pub free_irqs: Option<usize>,
}

impl Default for Quirks {
    fn default() -> Self {
        Self {
            clock_steps_back_every: None,
            tick: Duration::from_millis(4),
            manual_time: false,
            translates_heap: false,
            memory_bytes: 1 << 30,
            free_irqs: None,
        }
    }
}

/// A machine, as it is built.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// How many CPUs there are, 1 to 255. The first is the boot CPU.
    pub cpus: u8,
    /// What is on the bus.
    pub controllers: Vec<ControllerConfig>,
    /// What is odd.
    pub quirks: Quirks,
    /// Where chance comes from.
    pub seed: u64,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            cpus: 1,
            controllers: Vec::new(),
            quirks: Quirks::default(),
            seed: 0,
        }
    }
}

/// A machine that runs Redox, as far as a driver and its clients can tell. Dropping it ends its devices.
pub struct Machine {
    kernel: Arc<Kernel>,
    controllers: Vec<Arc<Controller>>,
    running: Vec<Running>,
    ticking: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("controllers", &self.controllers)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// Builds a machine and switches it on.
    ///
    /// # Panics
    /// If the configuration is of none.
    #[must_use]
    pub fn new(config: MachineConfig) -> Arc<Self> {
        let kernel = Arc::new(Kernel::new(
            u32::from(config.cpus),
            config.quirks.clone(),
            config.seed,
        ));
        if let Some(left) = config.quirks.free_irqs {
            let mut state = kernel.lock();
            (0..u32::from(config.cpus)).for_each(|cpu| state.irqs.take_all_but(cpu, left));
        }
        let plug = |controller| Controller::new(&kernel, controller);
        let controllers: Vec<_> = config.controllers.into_iter().map(plug).collect();
        let running = controllers
            .iter()
            .zip(0..)
            .map(|(controller, number)| Running::start(controller, number));
        Arc::new(Self {
            running: running.collect(),
            ticking: Some(kernel.start_ticking()),
            controllers,
            kernel,
        })
    }

    /// A process of the driver's kind: root, and free to open anything until it leaves its namespace.
    #[must_use]
    pub fn system(&self) -> Arc<dyn System> {
        Arc::new(Process::new(&self.kernel))
    }

    /// A client of the machine's schemes.
    #[must_use]
    pub fn client(&self, uid: u32, gid: u32) -> Client {
        Client::new(&self.kernel, uid, gid)
    }

    /// Controller `number`, in the order of the configuration.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn controller(&self, number: usize) -> &Arc<Controller> {
        &self.controllers[number]
    }

    /// A descriptor of the channel to pcid for controller `number`, as a driver finds its number in its environment.
    ///
    /// # Panics
    /// If there is no such controller.
    #[must_use]
    pub fn pcid_channel(&self, number: usize) -> usize {
        let controller = Arc::clone(&self.controllers[number]);
        let path = format!("pcid's channel of controller {number}");
        self.kernel.lock().insert(Object::Channel(controller), 0, &path)
    }

    /// A pipe that a driver is to say in that it is ready: the end that writes, and what to look at.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn init_notify(&self) -> (usize, Notified) {
        let mut state = self.kernel.lock();
        let (pipe, reader) = state.open_pipe(0, "the pipe of INIT_NOTIFY");
        let writer = state.open_pipe_writer(pipe, 0).expect("a new pipe has no writer");
        state.hide(reader);
        let notified = Notified {
            kernel: Arc::clone(&self.kernel),
            pipe,
        };
        (writer, notified)
    }

    /// What was asked of the kernel by drivers.
    #[must_use]
    pub fn calls(&self) -> Calls {
        self.kernel.lock().calls.clone()
    }

    /// Descriptors that are open: number, path, and whether they close on exec.
    #[must_use]
    pub fn open_descriptors(&self) -> Vec<(usize, String, bool)> {
        self.kernel.lock().open_descriptors()
    }

    /// What the driver did and should not have, so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let mut violations = self.kernel.lock().violations.clone();
        violations.extend(self.kernel.pages.violations().iter().copied());
        violations
    }

    /// Interrupts that drivers have reserved, as CPU and number.
    #[must_use]
    pub fn reserved_irqs(&self) -> Vec<(u32, u8)> {
        self.kernel.lock().irqs.reserved_by_drivers()
    }

    /// Interrupt `irq` happens, for whatever reason.
    pub fn trigger_irq(&self, irq: u8) {
        self.kernel.lock().trigger_irq(irq);
    }

    /// Which threads were pinned to which CPU, by the threads' names, in order.
    #[must_use]
    pub fn affinity(&self) -> Vec<(String, u32)> {
        self.kernel.lock().affinity.clone()
    }

    /// Timeouts that wait at the moment.
    #[must_use]
    pub fn timeouts_pending(&self) -> usize {
        self.kernel.lock().time.pending()
    }

    /// Timeouts that there have ever been.
    #[must_use]
    pub fn timeouts_registered(&self) -> u64 {
        self.kernel.lock().time.registered()
    }

    /// Moves the time on, and fires what is due.
    ///
    /// # Panics
    /// If the machine was not built with [`Quirks::manual_time`].
    pub fn advance(&self, by: Duration) {
        self.kernel.advance(by);
    }

    /// Events that wait in queues, and subscriptions that there are.
    #[must_use]
    pub fn events(&self) -> (usize, usize) {
        let state = self.kernel.lock();
        (state.events.waiting(), state.events.subscribed())
    }

    /// Bytes of memory that the driver has mapped.
    #[must_use]
    pub fn driver_bytes(&self) -> usize {
        self.kernel.pages.own_bytes()
    }

    /// Bytes that clients lend at the moment, in whole pages.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        self.kernel.pages.lent_bytes()
    }

    /// Names of the schemes that are registered.
    #[must_use]
    pub fn schemes(&self) -> Vec<String> {
        self.kernel.lock().schemes.keys().cloned().collect()
    }

    /// Calls of clients that wait for an answer.
    #[must_use]
    pub fn calls_waiting(&self) -> usize {
        let state = self.kernel.lock();
        state.sockets.values().map(|socket| socket.waiting(None).0).sum()
    }

    /// Answers of daemons that the kernel did not take.
    #[must_use]
    pub fn answers_refused(&self) -> u64 {
        self.kernel
            .lock()
            .sockets
            .values()
            .map(|socket| socket.refused)
            .sum()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.running.clear();
        let mut state = self.kernel.lock();
        state.time.ends = true;
        // Channels keep their controllers.
        let left = state.forget_descriptors();
        drop(state);
        drop(left);
        self.kernel.timers.notify_all();
        if let Some(ticking) = self.ticking.take() {
            let _ = ticking.join();
        }
    }
}

/// The other end of a driver's `INIT_NOTIFY`.
pub struct Notified {
    kernel: Arc<Kernel>,
    pipe: u64,
}

impl Notified {
    /// What was written since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        self.kernel.lock().drain_pipe(self.pipe)
    }

    /// Waits until something is written, and takes it.
    #[must_use]
    pub fn wait(&self) -> Vec<u8> {
        let mut state = self.kernel.lock();
        loop {
            let bytes = state.drain_pipe(self.pipe);
            if !bytes.is_empty() {
                return bytes;
            }
            state = self.kernel.wait(&self.kernel.progress, state);
        }
    }
}
