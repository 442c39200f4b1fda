//! A machine that runs the driver, and clients that know what they wrote.

use std::sync::Arc;

use nvme_driver::backend::redox::RedoxBackend;
use nvme_driver::clock::Clock;
use nvme_driver::redox::Descriptor;
use nvme_driver::redox::daemon::{Daemon, Options, tell_ready};
use nvme_driver::{Config, Controller, Driver};
use nvme_emulator::Emulator;
use nvme_redox_model::{Client, ControllerConfig, Machine, MachineConfig, Quirks};
use stats_proto::stats::StatsDocument;
use syscall::flag::{O_DIRECTORY, O_RDONLY, O_RDWR};

/// The scheme of its disks.
pub const DISKS: &str = "/scheme/disk.pci-0000-00-02.0-nvme";

/// A machine whose only controller the driver drives and serves, as it does on Redox.
pub struct Rig {
    pub machine: Arc<Machine>,
    pub daemon: Arc<Daemon>,
}

impl Rig {
    pub fn new(spec: &str) -> Self {
        Self::with(spec, &Config::default())
    }

    pub fn with(spec: &str, config: &Config) -> Self {
        Self::on(1, ControllerConfig::new(spec), Quirks::default(), config)
    }

    /// On a machine of `cpus` CPUs.
    pub fn on(cpus: u8, controller: ControllerConfig, quirks: Quirks, config: &Config) -> Self {
        let machine = Machine::new(MachineConfig {
            cpus,
            controllers: vec![controller],
            quirks,
            seed: 7,
        });
        let system = machine.system();
        let channel = Descriptor::new(&system, machine.pcid_channel(0));
        let clock = Clock::system();
        let backend = RedoxBackend::connect_on(&system, channel, clock.clone(), cpus.into()).unwrap();
        let function = backend.pci_name();
        let driver = Driver::start(Controller::open(backend, config, clock).unwrap()).unwrap();
        let options = Options {
            function,
            cpus: cpus.into(),
            ..Options::default()
        };
        let daemon = Arc::new(Daemon::start(&system, &driver, &options).unwrap());
        let (notify, notified) = machine.init_notify();
        tell_ready(&Descriptor::new(&system, notify)).unwrap();
        assert_eq!(notified.wait(), [0]);
        system.leave_namespace().unwrap();
        // The driver's process ends with its machine, in the middle of whatever it does: no destructor runs there, and
        // one that did would wait for threads which nothing on a machine that is gone can wake.
        std::mem::forget(Arc::clone(&daemon));
        // As a driver's main thread does; it ends with the process.
        let main = Arc::clone(&daemon);
        std::thread::spawn(move || main.serve());
        Self { machine, daemon }
    }

    /// The device, as only an emulated one can be seen.
    pub fn device(&self) -> &Arc<Emulator> {
        self.machine.controller(0).device()
    }

    pub fn root(&self) -> Client {
        self.machine.client(0, 0)
    }

    /// What `stats` of the whole controller shows to anybody.
    pub fn stats(&self) -> StatsDocument {
        let client = self.machine.client(1000, 1000);
        let text = read_all(&client, "/scheme/nvme/controller/stats");
        serde_json::from_slice(&text).unwrap()
    }

    /// Nothing is under way, nothing was done that must not be done, and every answer was wanted.
    pub fn check(&self) {
        assert_eq!(self.machine.violations(), []);
        assert_eq!(self.machine.answers_refused(), 0);
        assert_eq!(self.device().counters().dma_faults, 0);
        for server in self.daemon.servers() {
            assert_eq!(server.outstanding(), 0, "{server:?}");
        }
        assert_eq!(self.machine.lent_bytes(), 0);
    }
}

/// All of a file, in pieces.
pub fn read_all(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open(path, O_RDONLY).unwrap();
    let mut all = Vec::new();
    let mut piece = vec![0; 3000];
    loop {
        let len = client.read(file, &mut piece).unwrap();
        if len == 0 {
            client.close(file).unwrap();
            return all;
        }
        all.extend_from_slice(&piece[..len]);
    }
}

/// The names in a directory.
pub fn names(client: &Client, path: &str) -> Vec<String> {
    let directory = client.open(path, O_RDONLY | O_DIRECTORY).unwrap();
    let names = client.list(directory).unwrap();
    client.close(directory).unwrap();
    names
}

/// A buffer of `len` bytes that starts `skew` bytes into a page.
pub struct Skewed {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Skewed {
    pub fn new(len: usize, skew: usize) -> Self {
        let bytes = vec![0xEE; len + 2 * 4096];
        let start = bytes.as_ptr().align_offset(4096) + skew;
        Self { bytes, start, len }
    }

    pub fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

/// Opens a disk to read and write.
pub fn open(client: &Client, path: &str) -> usize {
    client.open(path, O_RDWR).unwrap()
}
