//! `nvme-driver emulate`: an emulated controller for drivers in other processes and in guests.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nvme_driver::clock::Clock;
use nvme_driver::vfio_user::server::{ServeError, Server, Trust};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{PERMISSION, fail, print};

/// Serves an emulated controller to other programs.
///
/// Any client of vfio-user can drive it: this driver with `--device vfio-user:SOCKET`, SPDK, or a guest in QEMU with
/// `-device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"SOCKET"}}'`. One client at a time; the data stays
/// from one to the next. Ends in order on SIGTERM or SIGINT.
#[derive(clap::Args, Debug)]
pub(crate) struct Emulate {
    /// The socket at which clients find the controller.
    #[arg(long = "vfio-user", value_name = "SOCKET")]
    socket: PathBuf,
    /// What the controller is like, such as `size=4GiB,latency=80us,backing=file:/tmp/disk`.
    #[arg(value_name = "SPEC", default_value = "")]
    spec: nvme_emulator::Config,
    /// Take memory of clients whose file could be made shorter, which would end this server: for clients on huge pages of
    /// hugetlbfs, such as SPDK.
    #[arg(long)]
    trust_client: bool,
}

/// Serves until a signal comes.
pub(crate) fn run(emulate: Emulate) -> ExitCode {
    // Before there is a socket: a signal shall find somebody who removes it.
    let (stop, mut stopper) = match io::pipe() {
        Ok(pipe) => pipe,
        Err(error) => return fail(1, &format!("no pipe for signals: {error}")),
    };
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return fail(1, &format!("signals cannot be awaited: {error}")),
    };
    let trust = if emulate.trust_client {
        Trust::Unsealed
    } else {
        Trust::Sealed
    };
    let server = Server::bind(&emulate.socket, emulate.spec, trust, Clock::system());
    let mut server = match server {
        Ok(server) => server,
        Err(error) => return fail(code_of(&error), &error),
    };
    let handle = signals.handle();
    let waiter = std::thread::spawn(move || {
        for signal in &mut signals {
            log::info!("signal {signal}: ending");
            // A second byte that does not fit is not needed.
            if stopper.write_all(&[0]).is_err() {
                return;
            }
        }
    });
    if let Err(code) = print(&format!("serving at {}\n", emulate.socket.display())) {
        return code;
    }
    let served = server.serve(stop.as_fd());
    drop(server);
    handle.close();
    // One that panicked has said so already.
    let _ = waiter.join();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

fn code_of(error: &ServeError) -> u8 {
    match error {
        ServeError::Socket { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => PERMISSION,
        _ => 1,
    }
}
