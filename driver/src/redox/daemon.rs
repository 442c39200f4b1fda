//! The driver of one controller as a daemon of Redox: two schemes, `nvme` and `disk.<pci name>-nvme`, from one process.
//!
//! The order of things is what the rest of the system relies on: the schemes are registered before whoever started the
//! driver is told that it is ready, since file systems look for the disk then; and everything that is needed has been
//! opened before the process gives up its namespace, after which it can open nothing more.

use std::sync::Arc;

use syscall::error::EEXIST;

use super::socket::Socket;
use super::{Descriptor, Failure, System};
use crate::driver::Driver;
use crate::embedded;
use crate::scheme::disk::DiskTree;
use crate::scheme::redox::clerk::Desk;
use crate::scheme::redox::takers::Takers;
use crate::scheme::redox::{ROOT, Server};
use crate::scheme::{Ownership, Scheme};

/// The scheme's name, if it is not taken and nobody wants another.
const DEFAULT_SCHEME: &str = "nvme";

/// How a driver is served.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the scheme `nvme`. If it is not given and `nvme` is taken, it is `nvme.` and the function's name.
    pub scheme: Option<String>,
    /// The controller's function as Redox names it, such as `pci-0000-00-02.0`.
    pub function: String,
    /// CPUs of the machine.
    pub cpus: u16,
    /// Whose the block devices of the scheme `nvme` are to begin with.
    pub block_devices: Ownership,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scheme: None,
            function: "emulated".to_owned(),
            cpus: crate::cpu::count(),
            block_devices: Ownership::default(),
        }
    }
}

/// The schemes of one driver.
pub struct Daemon {
    driver: Driver,
    scheme: Arc<Scheme>,
    servers: Vec<Arc<Server>>,
    takers: Arc<Takers>,
}

impl Daemon {
    /// Registers the schemes of `driver`, and lets its workers take requests.
    ///
    /// # Errors
    /// What the kernel said to what.
    pub fn start(system: &Arc<dyn System>, driver: &Driver, options: &Options) -> Result<Self, Failure> {
        let scheme = Scheme::with_ownership(driver.clone(), options.block_devices);
        let disks = DiskTree::new(Arc::clone(&scheme));
        let desk = Desk::new();
        let socket = || Socket::create(system).map_err(Failure::of("cannot make the socket of a scheme"));

        let disk_socket = socket()?;
        let disk_name = format!("disk.{}-nvme", options.function);
        register(&disk_socket, &disk_name)?;
        let tree = Box::new(move |id, call, answers: &_| disks.call(id, call, answers));
        let disk_server = Server::new(&disk_name, disk_socket, tree, &desk);

        let nvme_socket = socket()?;
        let nvme_name = match &options.scheme {
            Some(name) => register(&nvme_socket, name).map(|()| name.clone())?,
            None => register_default(&nvme_socket, &options.function)?,
        };
        let nodes = Arc::clone(&scheme);
        let tree = Box::new(move |id, call, answers: &_| nodes.call(id, call, answers));
        let nvme_server = Server::new(&nvme_name, nvme_socket, tree, &desk);

        let servers = vec![disk_server, nvme_server];
        let shown: Vec<_> = servers.iter().map(Arc::downgrade).collect();
        scheme.show_sockets(move || {
            let alive = shown.iter().filter_map(std::sync::Weak::upgrade);
            alive.map(|server| server.stats()).collect()
        });
        let takers = Takers::start(system, driver, servers.clone(), &desk, options.cpus)?;
        Ok(Self {
            driver: driver.clone(),
            scheme,
            servers,
            takers,
        })
    }

    /// The servers, of the disks first.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Does what the workers leave to the main thread, for as long as there are sockets.
    ///
    /// # Errors
    /// As [`Takers::serve`].
    pub fn serve(&self) -> Result<(), Failure> {
        self.takers.serve()
    }

    /// Puts what was written on the medium, and shuts the controller down. Requests are answered with errors from then
    /// on. Says whether all went well.
    pub fn end(&self) -> bool {
        let flushed = embedded::flush(&self.driver, &self.scheme);
        let down = self
            .driver
            .shutdown()
            .inspect_err(|error| log::error!("the controller was not shut down in order: {error}"))
            .is_ok();
        flushed && down
    }
}

fn register(socket: &Socket, name: &str) -> Result<(), Failure> {
    socket
        .register(name, ROOT)
        .map_err(Failure::of(format!("cannot register the scheme {name}")))
}

/// The first driver's scheme is `nvme`; the others' have their functions' names.
fn register_default(socket: &Socket, function: &str) -> Result<String, Failure> {
    match register(socket, DEFAULT_SCHEME) {
        Ok(()) => Ok(DEFAULT_SCHEME.to_owned()),
        Err(failure) if failure.error.errno == EEXIST => {
            let name = format!("{DEFAULT_SCHEME}.{function}");
            log::info!("there is another driver's scheme {DEFAULT_SCHEME}: this one's is {name}");
            register(socket, &name).map(|()| name)
        }
        Err(failure) => Err(failure),
    }
}

/// Tells whoever started this process, through the pipe `notify`, that it is ready.
///
/// # Errors
/// What the kernel said.
pub fn tell_ready(notify: &Descriptor) -> Result<(), Failure> {
    notify
        .write(&[0])
        .map(drop)
        .map_err(Failure::of("cannot say that the driver is ready"))
}
