//! Serves a driver's tree until a signal comes, and then ends without losing anything.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nvme_driver::embedded::Client;
use nvme_driver::namespace::NamespaceState;
use nvme_driver::scheme::{OpenFlags, Ownership, Scheme};
use nvme_driver::{Driver, scheme::fuse};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Args, fail, print};

/// How long requests may take to finish when the daemon ends: longer than the driver gives an unanswered command, so
/// that even a device which hangs has been given up by then.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often a second signal is looked for meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

enum Event {
    Signal(i32),
    Unmounted,
}

/// Mounts the tree, says so, and stays until a signal comes or somebody unmounts it. The controller is still to be
/// shut down afterwards.
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
    let watched = Arc::clone(&mount);
    std::thread::spawn(move || {
        if let Err(error) = watched.wait() {
            log::error!("the mount has failed: {error}");
        }
        // The receiver is gone only when the process ends.
        let _ = sender.send(Event::Unmounted);
    });
    let greeting = format!("{}serving at {}\n", found(driver), mount.dir().display());
    let code = match print(&greeting) {
        Ok(()) => {
            notify(&[
                NotifyState::Ready,
                NotifyState::Status(greeting.lines().last().unwrap_or_default()),
            ]);
            match events.recv() {
                Ok(Event::Signal(signal)) => log::info!("signal {signal}: ending"),
                Ok(Event::Unmounted) | Err(_) => {
                    log::warn!("{} was unmounted: ending", mount.dir().display())
                }
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    };
    notify(&[NotifyState::Stopping]);
    end(&scheme, &mount, &events);
    code
}

/// No new requests; what is out is finished, and all that was written made durable. Then the mount goes: after the
/// answers, because taking it away while the kernel waits for one makes that an error.
fn end(scheme: &Arc<Scheme>, mount: &fuse::Mount, events: &Receiver<Event>) {
    let until = Instant::now() + PATIENCE;
    loop {
        let out = mount.finish(LOOK_AGAIN);
        if out == 0 {
            break;
        }
        let again = matches!(events.try_recv(), Ok(Event::Signal(_)));
        if again || Instant::now() > until {
            log::error!("ending with {out} requests that have not been answered");
            break;
        }
    }
    flush(scheme);
    if let Err(error) = mount.detach() {
        log::error!("cannot unmount {}: {error}", mount.dir().display());
    }
}

/// A Flush of each namespace whose writes could be in a cache.
fn flush(scheme: &Arc<Scheme>) {
    let client = Client::new(scheme, 0, 0, std::process::id());
    let entries = client.list("").unwrap_or_default();
    for name in entries.iter().map(|entry| &entry.name) {
        if name.bytes().all(|byte| byte.is_ascii_digit())
            && let Err(error) = client
                .open(name, OpenFlags::READ_WRITE)
                .and_then(|disk| disk.sync())
        {
            log::error!("namespace {name} could not be flushed: {error}");
        }
    }
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
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
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

/// Tells a service manager that wants to know; there usually is none.
fn notify(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager could not be told: {error}");
    }
}
