//! The daemon `nvme-driver` in a guest, with its tree mounted.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Error, Guest, Output, Running};

/// For how long a daemon may run, and come up, and end.
const LIFE: Duration = Duration::from_secs(900);

/// A daemon that serves. Dropped, it runs on; [`Daemon::stop`] ends it.
#[derive(Debug)]
pub struct Daemon<'a> {
    guest: &'a Guest,
    running: Running<'a>,
    folder: String,
}

impl Guest {
    /// Starts a daemon on `device`, as its `--device` has it, with `settings` such as `NVME_POLLING_MODE=true` in its
    /// environment, and waits until it serves. Needs the module fuse.
    ///
    /// # Errors
    ///
    /// It does not come up: the error has what it says.
    pub fn daemon(&self, device: &str, settings: &str) -> Result<Daemon<'_>, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let folder = format!("/run/daemon-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let command = format!(
            "mkdir -p {folder} && echo $$ > {folder}/pid && \
             exec env {settings} nvme-driver --device '{device}' --mount {folder}/tree --log info > {folder}/out"
        );
        let running = self.start_command(&command, LIFE)?;
        // It ends, or it says that it serves.
        let serves = self.run(&format!(
            "until [ -s {folder}/pid ]; do sleep 0.02; done
             while [ -d /proc/$(cat {folder}/pid) ]; do grep -q '^serving' {folder}/out 2>&1 && exit 0; sleep 0.05; done
             exit 1"
        ))?;
        if !serves.success() {
            let output = running.wait()?;
            return Err(self.complain(&command, &output));
        }
        Ok(Daemon {
            guest: self,
            running,
            folder,
        })
    }
}

impl Daemon<'_> {
    /// The path of the tree, or of a node in it, such as `1/data`.
    #[must_use]
    pub fn path(&self, node: &str) -> String {
        format!("{}/tree/{node}", self.folder)
    }

    /// The command line of an `nvmectl` that talks to it.
    #[must_use]
    pub fn nvmectl(&self, arguments: &str) -> String {
        format!("nvmectl --root {}/tree {arguments}", self.folder)
    }

    /// What it has said of its device when it began to serve.
    ///
    /// # Errors
    ///
    /// Those of the guest.
    pub fn greeting(&self) -> Result<String, Error> {
        self.guest.check(&format!("cat {}/out", self.folder))
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    ///
    /// It does not end well.
    pub fn stop(self) -> Result<Output, Error> {
        self.guest
            .check(&format!("kill -TERM $(cat {}/pid)", self.folder))?;
        let guest = self.guest;
        let output = self.wait()?;
        if output.success() {
            Ok(output)
        } else {
            Err(guest.complain("nvme-driver, told to end", &output))
        }
    }

    /// Waits for its end, however it comes.
    ///
    /// # Errors
    ///
    /// Those of the guest.
    pub fn wait(self) -> Result<Output, Error> {
        self.running.wait()
    }
}
