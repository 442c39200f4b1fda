//! The program in the guest. As its init it mounts what everything needs, loads modules, starts itself once more as the
//! agent, and turns the machine off when that ends. The agent does what it is told over a serial port.
//!
//! What goes wrong is said on the console, and ends the guest.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
fn main() {
    let ended = if std::process::id() == 1 {
        linux::init()
    } else {
        linux::agent()
    };
    if let Err(error) = ended {
        eprintln!("nvme-guest-agent: {error}");
    }
    if std::process::id() == 1 {
        linux::power_off();
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, File};
    use std::io::{self, BufReader, Read};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::thread;
    use std::time::{Duration, Instant};

    use nvme_guest::wire::{self, Action, Ended, Reply, Request};
    use rustix::io::Errno;
    use rustix::mount::{MountFlags, mount};
    use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
    use rustix::system::{RebootCommand, finit_module, reboot};

    /// What is mounted where.
    const MOUNTS: [(&str, &str); 5] = [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
    ];

    /// For how long the port is waited for, which the kernel makes some time after its module was loaded.
    const PORT: Duration = Duration::from_secs(60);

    /// The first process: waits for all others, until the agent has ended.
    pub fn init() -> io::Result<()> {
        for (kind, path) in MOUNTS {
            mount(kind, path, kind, MountFlags::empty(), None)?;
        }
        for path in fs::read_to_string("/etc/modules")?.lines() {
            match finit_module(File::open(path)?, c"", 0) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(io::Error::other(format!("{path}: {error}"))),
            }
        }
        let agent = Command::new("/bin/nvme-guest-agent")
            .env_clear()
            .env("PATH", "/bin")
            .env("HOME", "/root")
            .current_dir("/root")
            .spawn()?;
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(agent.id()) => {
                    return Err(io::Error::other(format!("the agent has ended: {status:?}")));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Does not come back, unless the kernel does not let it; then it is the end all the same.
    pub fn power_off() {
        rustix::fs::sync();
        if let Err(error) = reboot(RebootCommand::PowerOff) {
            eprintln!("nvme-guest-agent: no power off: {error}");
        }
    }

    /// Does what the host says, until it says no more.
    pub fn agent() -> io::Result<()> {
        let port = find_port()?;
        let port = File::options().read(true).write(true).open(&port)?;
        let to = Arc::new(Mutex::new(port.try_clone()?));
        // Once that is written, the host is there, and a read waits for what it says.
        say(
            &to,
            &Reply::Ready {
                uptime_ms: uptime_ms()?,
            },
            &[],
        )?;
        let mut from = BufReader::new(port);
        while let Some(request) = wire::receive::<Request>(&mut from)? {
            let contents = match &request.action {
                Action::Put { bytes, .. } => wire::receive_bytes(&mut from, *bytes)?,
                Action::Run { .. } | Action::Get { .. } => Vec::new(),
            };
            let to = Arc::clone(&to);
            thread::spawn(move || {
                if let Err(error) = answer(&to, request, &contents) {
                    eprintln!("nvme-guest-agent: {error}");
                }
            });
        }
        Ok(())
    }

    fn say(to: &Mutex<File>, reply: &Reply, bytes: &[&[u8]]) -> io::Result<()> {
        wire::send(
            &mut *to.lock().unwrap_or_else(PoisonError::into_inner),
            reply,
            bytes,
        )
    }

    fn answer(to: &Mutex<File>, request: Request, contents: &[u8]) -> io::Result<()> {
        let id = request.id;
        let failed = |error: io::Error| Reply::Failed {
            id,
            reason: error.to_string(),
        };
        match request.action {
            Action::Run { command, timeout_ms } => match run(&command, Duration::from_millis(timeout_ms)) {
                Ok((ended, stdout, stderr)) => {
                    let reply = Reply::Ended {
                        id,
                        ended,
                        stdout_bytes: stdout.len(),
                        stderr_bytes: stderr.len(),
                    };
                    say(to, &reply, &[&stdout, &stderr])
                }
                Err(error) => say(to, &failed(error), &[]),
            },
            Action::Put { path, mode, .. } => {
                let written = fs::write(&path, contents)
                    .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)));
                match written {
                    Ok(()) => say(to, &Reply::Written { id }, &[]),
                    Err(error) => say(to, &failed(error), &[]),
                }
            }
            Action::Get { path } => match fs::read(&path) {
                Ok(contents) => say(
                    to,
                    &Reply::Read {
                        id,
                        bytes: contents.len(),
                    },
                    &[&contents],
                ),
                Err(error) => say(to, &failed(error), &[]),
            },
        }
    }

    /// Runs a command in a process group of its own, all of which is killed when its time is over.
    fn run(command: &str, timeout: Duration) -> io::Result<(Ended, Vec<u8>, Vec<u8>)> {
        let end = Instant::now() + timeout;
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        let (tell, told) = channel();
        thread::spawn(move || {
            // Whoever still has the pipes is waited for as well.
            let stdout = stdout
                .map(|reader| reader.join().unwrap_or_default())
                .unwrap_or_default();
            let stderr = stderr
                .map(|reader| reader.join().unwrap_or_default())
                .unwrap_or_default();
            let _ = tell.send((status(&mut child), stdout, stderr));
        });
        let left = end.saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok((ended, stdout, stderr)) => Ok((ended?, stdout, stderr)),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the thread that waited has died")),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::KILL);
                }
                // A process that the kernel does not let go of must not keep the host waiting.
                let (stdout, stderr) = match told.recv_timeout(Duration::from_secs(5)) {
                    Ok((_, stdout, stderr)) => (stdout, stderr),
                    Err(_) => (Vec::new(), b"(it cannot be killed)".to_vec()),
                };
                Ok((Ended::TimedOut, stdout, stderr))
            }
        }
    }

    fn status(child: &mut Child) -> io::Result<Ended> {
        let status = child.wait()?;
        Ok(match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Signalled(signal.unwrap_or_default()),
        })
    }

    fn collect(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            bytes
        })
    }

    /// The device node of the port with our name. There is no udev to make links, nor to tell when it is there.
    fn find_port() -> io::Result<std::path::PathBuf> {
        let end = Instant::now() + PORT;
        let ports = Path::new("/sys/class/virtio-ports");
        loop {
            for port in fs::read_dir(ports).into_iter().flatten() {
                let port = port?;
                let named = fs::read_to_string(port.path().join("name")).unwrap_or_default();
                let node = Path::new("/dev").join(port.file_name());
                if named.trim() == wire::PORT && node.exists() {
                    return Ok(node);
                }
            }
            if Instant::now() > end {
                return Err(io::Error::other(format!(
                    "no port {} within {PORT:?}",
                    wire::PORT
                )));
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn uptime_ms() -> io::Result<u64> {
        let text = fs::read_to_string("/proc/uptime")?;
        let seconds: f64 = text
            .split_whitespace()
            .next()
            .and_then(|seconds| seconds.parse().ok())
            .ok_or_else(|| io::Error::other(format!("/proc/uptime says {text:?}")))?;
        Ok(Duration::from_secs_f64(seconds)
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX))
    }
}
