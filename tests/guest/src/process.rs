//! QEMU's process: its end is waited for by a thread that lives as long, and it does not outlive this process.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Error;

/// A process that was started.
#[derive(Debug)]
pub struct Process {
    pidfd: OwnedFd,
    end: Arc<End>,
}

#[derive(Debug, Default)]
struct End {
    how: Mutex<Option<String>>,
    came: Condvar,
}

impl Process {
    /// Starts it. When it has ended, somebody connects to each of `sockets`, so that nobody waits there for it.
    pub fn start(mut command: Command, sockets: Vec<PathBuf>) -> Result<Self, Error> {
        let end = Arc::new(End::default());
        let keeper = Arc::clone(&end);
        let (tell, told) = mpsc::channel();
        // The child is killed when the thread that has started it is gone; so that one waits for it.
        thread::Builder::new()
            .name("qemu".to_owned())
            .spawn(move || {
                let started = command.spawn().and_then(|child| {
                    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                    let pid = pid.ok_or_else(|| std::io::Error::other("a process without a number"))?;
                    Ok((pidfd_open(pid, PidfdFlags::empty())?, child))
                });
                let mut child = match started {
                    Ok((pidfd, child)) => {
                        let _ = tell.send(Ok(pidfd));
                        child
                    }
                    Err(error) => {
                        let _ = tell.send(Err(error));
                        return;
                    }
                };
                let how = match child.wait() {
                    Ok(status) => format!("QEMU ended with {status}"),
                    Err(error) => format!("QEMU's end could not be waited for: {error}"),
                };
                *keeper.how.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
                keeper.came.notify_all();
                for socket in sockets {
                    let _ = UnixStream::connect(socket);
                }
            })
            .map_err(Error::file("setpriv"))?;
        let pidfd = told
            .recv()
            .map_err(|_| Error::Program("QEMU's keeper has died".to_owned()))?
            .map_err(Error::file("setpriv"))?;
        Ok(Self { pidfd, end })
    }

    /// How it ended, if it does so within `timeout`.
    pub fn ended(&self, timeout: Duration) -> Option<String> {
        let how = self.end.how.lock().unwrap_or_else(PoisonError::into_inner);
        self.end
            .came
            .wait_timeout_while(how, timeout, |how| how.is_none())
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.ended(Duration::from_secs(10));
    }
}
