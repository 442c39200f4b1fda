//! A machine that runs the driver, and clients that know what they wrote.

use std::sync::Arc;

use nvme_driver::Config;
use nvme_driver::embedded::{self, EmbeddedDriver};
use nvme_driver::redox::daemon::{Daemon, Options};
use nvme_redox_model::{Client, Machine, MachineConfig};
use stats_proto::stats::StatsDocument;
use syscall::flag::{O_DIRECTORY, O_RDONLY, O_RDWR};

/// The function that the daemon is told it drives.
pub const FUNCTION: &str = "pci-0000-00-02.0";
/// The scheme of its disks.
pub const DISKS: &str = "/scheme/disk.pci-0000-00-02.0-nvme";

/// A driver of an emulated controller in this process, served on a machine that has nothing else.
pub struct Rig {
    pub machine: Arc<Machine>,
    pub daemon: Arc<Daemon>,
    pub driver: EmbeddedDriver,
}

impl Rig {
    pub fn new(spec: &str) -> Self {
        Self::with(spec, &Config::default())
    }

    pub fn with(spec: &str, config: &Config) -> Self {
        let machine = Machine::new(MachineConfig::default());
        let system = machine.system();
        let driver = embedded::start(spec, config).unwrap();
        let options = Options {
            function: FUNCTION.to_owned(),
            ..Options::default()
        };
        let daemon = Arc::new(Daemon::start(&system, driver.driver(), &options).unwrap());
        system.leave_namespace().unwrap();
        // As a driver's main thread does; it ends with the process.
        let main = Arc::clone(&daemon);
        std::thread::spawn(move || main.serve());
        Self {
            machine,
            daemon,
            driver,
        }
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
