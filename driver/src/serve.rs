//! Serves a driver's tree until a signal comes, and then ends without losing anything.

use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nvme_driver::embedded;
use nvme_driver::events::EventListener;
use nvme_driver::namespace::NamespaceState;
use nvme_driver::scheme::{Ownership, Scheme};
use nvme_driver::{Driver, scheme::fuse};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Args, fail, print};

/// How long requests may take to finish when the daemon ends: longer than the driver gives an unanswered command, so
/// that even a device which hangs has been given up by then.
const PATIENCE: Duration = Duration::from_secs(40);

enum Event {
    Signal(i32),
    /// The tree is not mounted any more; whether that was somebody's wish.
    Unmounted(bool),
    /// The system wants the controller back.
    RemovalAsked,
}

/// Ends the daemon when the system wants the controller back.
struct Leaving {
    driver: Driver,
    sender: Sender<Event>,
}

impl EventListener for Leaving {
    fn news(&self) {
        if self.driver.removal_asked() {
            // The receiver is gone only when the process ends.
            let _ = self.sender.send(Event::RemovalAsked);
        }
    }
}

/// Sees to it, before the device is touched, that there is a place for the tree. The last daemon may just be ending: the
/// place is free when it has done with the device.
pub(crate) fn prepare(args: &Args) -> Result<(), ExitCode> {
    fuse::check(&args.mount_dir()).map_err(|error| fail(1, &error))
}

/// Mounts the tree, says so, stays until a signal comes or somebody unmounts it, and shuts the controller down.
pub(crate) fn serve(driver: &Driver, args: &Args) -> ExitCode {
    let (sender, events) = channel();
    // Before anything is mounted: a signal shall find somebody who unmounts it.
    if let Err(error) = listen(sender.clone()) {
        return fail(1, &format!("signals cannot be awaited: {error}"));
    }
    let (uid, gid) = args.data_owner;
    let mode = args.data_mode;
    let scheme = Scheme::with_ownership(driver.clone(), Ownership { mode, uid, gid });
    let options = fuse::Options {
        threads: args.threads,
    };
    let mount = match fuse::mount(&scheme, &args.mount_dir(), &options) {
        Ok(mount) => Arc::new(mount),
        Err(error) => return fail(1, &error),
    };
    let leaving: Arc<dyn EventListener> = Arc::new(Leaving {
        driver: driver.clone(),
        sender: sender.clone(),
    });
    driver.events().listen(Arc::downgrade(&leaving) as Weak<_>);
    // It may have been asked for before anybody listened.
    leaving.news();
    let watched = Arc::clone(&mount);
    std::thread::spawn(move || {
        let result = watched.wait();
        if let Err(error) = &result {
            log::error!("the mount has failed: {error}");
        }
        // The receiver is gone only when the process ends.
        let _ = sender.send(Event::Unmounted(result.is_ok()));
    });
    let greeting = format!("{}serving at {}\n", found(driver), mount.dir().display());
    let code = match print(&greeting) {
        Ok(()) => {
            notify(&[
                NotifyState::Ready,
                NotifyState::Status(greeting.lines().last().unwrap_or_default()),
            ]);
            match events.recv() {
                Ok(Event::Signal(signal)) => {
                    log::info!("signal {signal}: ending");
                    ExitCode::SUCCESS
                }
                Ok(Event::Unmounted(true)) => {
                    log::warn!("{} was unmounted: ending", mount.dir().display());
                    ExitCode::SUCCESS
                }
                Ok(Event::RemovalAsked) => {
                    log::warn!("the system wants the controller back: ending");
                    ExitCode::SUCCESS
                }
                Ok(Event::Unmounted(false)) | Err(_) => ExitCode::FAILURE,
            }
        }
        Err(code) => code,
    };
    notify(&[NotifyState::Stopping]);
    // From here on a signal means: do not wait.
    let impatient = Arc::clone(&mount);
    std::thread::spawn(move || hurry(&events, &impatient));
    if end(driver, &scheme, &mount) {
        code
    } else {
        ExitCode::FAILURE
    }
}

/// Ends the process at the next signal, whatever the device and the clients are doing.
fn hurry(events: &Receiver<Event>, mount: &fuse::Mount) {
    while let Ok(event) = events.recv() {
        if let Event::Signal(signal) = event {
            let out = mount.outstanding();
            log::error!(
                "signal {signal} again: ending at once, with {out} requests that have not been answered"
            );
            detach(mount);
            std::process::exit(1);
        }
    }
}

/// No new requests; what is out is finished, all that was written made durable, and the controller shut down. The mount
/// goes last: until then no other daemon takes the place, nor the device. Says whether all went well.
fn end(driver: &Driver, scheme: &Arc<Scheme>, mount: &fuse::Mount) -> bool {
    let out = mount.finish(PATIENCE);
    if out != 0 {
        log::error!("ending with {out} requests that have not been answered");
    }
    let flushed = embedded::flush(driver, scheme);
    // Whoever started this driver is told why, if it fails.
    let down = driver.shutdown().is_ok();
    let detached = detach(mount);
    out == 0 && flushed && down && detached
}

fn detach(mount: &fuse::Mount) -> bool {
    mount
        .detach()
        .inspect_err(|error| log::error!("cannot unmount {}: {error}", mount.dir().display()))
        .is_ok()
}

/// What the controller is, for whoever has started the daemon.
fn found(driver: &Driver) -> String {
    let identity = driver.identity();
    let mut text = format!(
        "{} controller {} (serial number {}, firmware {}): {} I/O queue pairs\n",
        identity.backend,
        identity.model,
        identity.serial,
        identity.firmware,
        driver.queues()
    );
    for namespace in &*driver.namespaces() {
        text += &match &namespace.state {
            NamespaceState::Usable => format!(
                "namespace {}: {} blocks of {} bytes\n",
                namespace.nsid,
                namespace.blocks,
                namespace.lba_bytes()
            ),
            NamespaceState::Unusable(why) => format!("namespace {} cannot be used: {why}\n", namespace.nsid),
        };
    }
    text
}

fn listen(sender: Sender<Event>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // Whoever started it with nohup does not want it to end with the terminal.
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    std::thread::Builder::new()
        .name("nvme-signals".to_owned())
        .spawn(move || {
            for signal in &mut signals {
                if sender.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .map(drop)
}

/// Whether this process was started with the signal ignored (proc_pid_status(5): a set of signals in hexadecimal).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> (signal - 1) & 1 == 1)
}

/// Tells a service manager that wants to know; there usually is none.
fn notify(states: &[NotifyState]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none_or(|address| address.is_empty()) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager could not be told: {error}");
    }
}
