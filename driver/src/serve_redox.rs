//! Serves a driver on Redox: started by pcid's spawner for one function, it registers its schemes, says that it is ready,
//! and stays.

use std::process::ExitCode;
use std::sync::Arc;

use nvme_driver::Driver;
use nvme_driver::backend::Backend;
use nvme_driver::backend::redox::RedoxBackend;
use nvme_driver::clock::Clock;
use nvme_driver::redox::daemon::{Daemon, Options, tell_ready};
use nvme_driver::redox::native::Kernel;
use nvme_driver::redox::{Descriptor, System};
use nvme_driver::scheme::Ownership;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use crate::{Args, fail};

/// The number of the descriptor that leads to pcid.
const CHANNEL: &str = "PCID_CLIENT_CHANNEL";
/// The number of the pipe that whoever started this process waits at.
const NOTIFY: &str = "INIT_NOTIFY";

/// Whether a function of PCI has been handed over to this process.
pub(crate) fn has_function() -> bool {
    std::env::var_os(CHANNEL).is_some()
}

/// The descriptor whose number the environment has as `name`, if it has; not to be inherited.
fn inherited(system: &Arc<dyn System>, name: &str) -> Result<Option<Descriptor>, String> {
    let Some(text) = std::env::var_os(name) else {
        return Ok(None);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    let number: usize =
        number.ok_or_else(|| format!("{name} is {text:?}, which is no descriptor's number"))?;
    let descriptor = Descriptor::new(system, number);
    system
        .set_close_on_exec(number)
        .map_err(|error| format!("{name} is {number}, which is no open descriptor: {error}"))?;
    Ok(Some(descriptor))
}

/// The function that pcid has handed over.
pub(crate) fn connect(clock: &Clock) -> Result<Arc<dyn Backend>, ExitCode> {
    let system = Kernel::system();
    let channel = inherited(&system, CHANNEL)
        .map_err(|error| fail(1, &error))?
        .ok_or_else(|| {
            fail(
                1,
                &format!("{CHANNEL} is not set: pcid's spawner starts this program for a function, by an entry in pcid.d"),
            )
        })?;
    let backend = RedoxBackend::connect(&system, channel, clock.clone()).map_err(|error| fail(1, &error))?;
    Ok(backend)
}

pub(crate) fn prepare(_args: &Args) -> Result<(), ExitCode> {
    Ok(())
}

/// Registers the schemes, says so, and stays for as long as the system runs.
pub(crate) fn serve(driver: &Driver, args: &Args) -> ExitCode {
    let system = Kernel::system();
    let notify = match inherited(&system, NOTIFY) {
        Ok(notify) => notify,
        Err(error) => return fail(1, &error),
    };
    let (uid, gid) = args.data_owner;
    let mode = args.data_mode;
    let pci = driver.identity().pci.as_deref();
    let mut options = Options {
        scheme: args.scheme.clone(),
        block_devices: Ownership { mode, uid, gid },
        ..Options::default()
    };
    if let Some(pci) = pci {
        // As Redox names functions.
        options.function = format!("pci-{}", pci.replace(':', "-"));
    }
    let daemon = match Daemon::start(&system, driver, &options) {
        Ok(daemon) => Arc::new(daemon),
        Err(failure) => return fail(1, &failure),
    };
    listen(&daemon);
    if let Some(notify) = notify
        && let Err(failure) = tell_ready(&notify)
    {
        // Nobody waits, so it seems; those who look for the disk will find it.
        log::warn!("{failure}");
    }
    for server in daemon.servers() {
        log::info!("serving /scheme/{}", server.name());
    }
    if let Err(error) = system.leave_namespace() {
        return fail(1, &format!("the namespace cannot be given up: {error}"));
    }
    match daemon.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(1, &failure),
    }
}

/// Ends in order when somebody sends SIGTERM: what was written is put on the medium, and the controller shut down.
fn listen(daemon: &Arc<Daemon>) {
    let mut signals = match Signals::new([SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            log::warn!("signals cannot be awaited, so a SIGTERM ends the driver without a flush: {error}");
            return;
        }
    };
    let daemon = Arc::clone(daemon);
    let thread = std::thread::Builder::new()
        .name("nvme-signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                let code = i32::from(!daemon.end());
                std::process::exit(code);
            }
        });
    if let Err(error) = thread {
        log::warn!("signals are not awaited: {error}");
    }
}
