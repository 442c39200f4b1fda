//! The tree of a driver inside this process, on an emulated controller: no daemon, no privilege.

use nvme_driver::Config;
use nvme_driver::embedded::{self, Client, EmbeddedDriver, Handle};
use nvme_driver::ring::client::Transport;
use nvme_driver::scheme::OpenFlags;

use super::{Access, Operation, Tree, TreeError, TreeFile};
use crate::error::Error;

/// An embedded driver's tree. Dropping it shuts the controller down in order.
#[derive(Debug)]
pub struct Embedded {
    client: EmbeddedClient,
    _driver: EmbeddedDriver,
}

/// The tree of an embedded driver, as another thread may use it. After the driver's end its calls fail.
#[derive(Clone, Debug)]
pub struct EmbeddedClient {
    client: Client,
}

impl Embedded {
    /// Starts an emulated controller as `spec` describes it (empty is the default one), and a driver on it.
    ///
    /// # Errors
    /// Usage for a `spec` that cannot be used; otherwise why the driver did not come up.
    pub fn start(spec: &str, config: &Config) -> Result<Self, Error> {
        let driver = embedded::start(spec, config).map_err(|error| Error::start(spec, error))?;
        // Whoever can start the device owns it.
        let client = EmbeddedClient {
            client: driver.client(0, 0, std::process::id()),
        };
        log::info!("an embedded driver is running on an emulated controller");
        Ok(Self {
            client,
            _driver: driver,
        })
    }

    /// The same tree for another thread.
    pub fn client(&self) -> EmbeddedClient {
        self.client.clone()
    }
}

impl Tree for Embedded {
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        self.client.open(path, access)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        self.client.list(path)
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        self.client.size_bytes(path)
    }

    fn ring(&self, path: &str) -> Result<Box<dyn Transport>, TreeError> {
        self.client.ring(path)
    }
}

impl Tree for EmbeddedClient {
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        let flags = match access {
            Access::Read => OpenFlags::READ,
            Access::ReadWrite => OpenFlags::READ_WRITE,
        };
        match self.client.open(path, flags) {
            Ok(handle) => Ok(Box::new(EmbeddedFile {
                handle,
                path: path.to_owned(),
            })),
            Err(errno) => Err(TreeError::new(Operation::Open, path, errno)),
        }
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        let stat = self
            .client
            .open(path, OpenFlags::READ)
            .and_then(|handle| handle.stat());
        stat.map(|stat| stat.size_bytes)
            .map_err(|errno| TreeError::new(Operation::Stat, path, errno))
    }

    fn ring(&self, path: &str) -> Result<Box<dyn Transport>, TreeError> {
        match self.client.open(path, OpenFlags::READ_WRITE) {
            Ok(handle) => Ok(Box::new(handle)),
            Err(errno) => Err(TreeError::new(Operation::Open, path, errno)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        match self.client.list(path) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).collect()),
            Err(errno) => Err(TreeError::new(Operation::List, path, errno)),
        }
    }
}

struct EmbeddedFile {
    handle: Handle,
    path: String,
}

impl TreeFile for EmbeddedFile {
    fn read_at(&mut self, into: &mut [u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.handle
            .read_at(into, offset_bytes)
            .map_err(|errno| TreeError::new(Operation::Read, &self.path, errno))
    }

    fn write_at(&mut self, from: &[u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.handle
            .write_at(from, offset_bytes)
            .map_err(|errno| TreeError::new(Operation::Write, &self.path, errno))
    }
}
