//! Where a tree is mounted: claimed before anything is served, taken over from a daemon that was killed, and given
//! back without waiting for clients that still have files open.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

/// The file system type of our mounts; with a subtype behind a dot where a helper program has mounted it.
const TYPE: &str = "fuse";
/// The source of our mounts, followed by the number of the process that serves it and by when that was started: the
/// number alone may be another's by now.
const SOURCE: &str = "nvme-driver:";
/// How long a daemon that has been killed may take to be gone, and another one to have mounted.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory is not there and cannot be made.
    #[error("cannot make the directory {}: {error}; make it, or name another one with --mount", dir.display())]
    Make {
        /// Where.
        dir: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It cannot be looked at.
    #[error("cannot use {} as the mount point: {error}", dir.display())]
    Look {
        /// Where.
        dir: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It has entries, which the mount would hide.
    #[error("{} is not empty, and a mount would hide what is in it; name an empty directory with --mount", dir.display())]
    NotEmpty {
        /// Where.
        dir: PathBuf,
    },
    /// Another daemon serves its tree there.
    #[error(
        "another nvme-driver{} serves its tree at {}; stop it, or give this one a name of its own with --scheme or NVME_SCHEME",
        Process(*pid), dir.display()
    )]
    InUse {
        /// Where.
        dir: PathBuf,
        /// Which process, if it said so.
        pid: Option<u32>,
    },
    /// Some other file system is mounted there.
    #[error("a file system of type {kind} is mounted at {}; name another directory with --mount", dir.display())]
    Foreign {
        /// Where.
        dir: PathBuf,
        /// What.
        kind: String,
    },
    /// The mount itself failed.
    #[error("cannot mount at {}: {error}{}", dir.display(), hint(error))]
    Mount {
        /// Where.
        dir: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

struct Process(Option<u32>);

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, " (process {pid})"),
            None => Ok(()),
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; FUSE is needed: is the kernel module fuse loaded, and /dev/fuse there?",
        io::ErrorKind::PermissionDenied => "; run as root, or install fusermount3",
        _ => "",
    }
}

/// A directory that is fit to be mounted on.
#[derive(Debug)]
pub(super) struct MountPoint {
    dir: PathBuf,
}

/// No other daemon looks for a place in the same directory while this is held. From before the look at what is mounted
/// until our own mount is there: else two that start at once could each take the other's mount for a dead one's.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    fn new(dir: &Path) -> Result<Self, MountError> {
        let parent = dir.parent().unwrap_or(dir);
        let look = |error| MountError::Look {
            dir: parent.to_owned(),
            error,
        };
        let lock = File::open(parent).map_err(look)?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(fs::TryLockError::Error(error)) => return Err(look(error)),
                Err(fs::TryLockError::WouldBlock) if since.elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK_AGAIN)
                }
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(MountError::InUse {
                        dir: dir.to_owned(),
                        pid: None,
                    });
                }
            }
        }
    }
}

impl MountPoint {
    /// Makes `dir` if need be, and takes it from a daemon that is no more. To be mounted on while the claim is held.
    pub(super) fn claim(dir: &Path) -> Result<(Self, Claim), MountError> {
        let look = |error| MountError::Look {
            dir: dir.to_owned(),
            error,
        };
        make(dir)?;
        let dir = resolve(dir).map_err(look)?;
        let claim = Claim::new(&dir)?;
        take_over(&dir)?;
        if fs::read_dir(&dir).map_err(look)?.next().is_some() {
            return Err(MountError::NotEmpty { dir });
        }
        Ok((Self { dir }, claim))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The mount's source: how the next daemon knows whose it was.
    pub(super) fn source() -> String {
        let pid = std::process::id();
        format!("{SOURCE}{pid}:{}", started(pid).unwrap_or(0))
    }

    /// Whether this process's mount is the uppermost here.
    pub(super) fn is_ours(&self) -> io::Result<bool> {
        Ok(top_mount(&self.dir)?.is_some_and(|mount| mount.source == Self::source()))
    }

    /// Takes the mount away at once, if it is there and ours. Files that are open stay open until this process ends.
    pub(super) fn detach(&self) -> io::Result<()> {
        if self.is_ours()? {
            detach(&self.dir)?;
        }
        Ok(())
    }
}

/// Makes the directory and those above it, without a look at it: it may be the mount of a server that hangs.
fn make(dir: &Path) -> Result<(), MountError> {
    let above = dir.parent().map_or(Ok(()), fs::create_dir_all);
    match above.and_then(|()| fs::create_dir(dir)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(MountError::Make {
            dir: dir.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}

/// The path as the kernel's table of mounts has it, again without a look at the directory itself.
fn resolve(dir: &Path) -> io::Result<PathBuf> {
    let mut dir = std::path::absolute(dir)?;
    // The kernel follows no more symbolic links either.
    for _ in 0..40 {
        let (Some(parent), Ok(target)) = (dir.parent(), fs::read_link(&dir)) else {
            break;
        };
        dir = parent.join(target);
    }
    match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        // The root, or a path that ends in two dots.
        _ => fs::canonicalize(dir),
    }
}

fn has_ended(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error())
}

/// Unmounts what daemons left that have ended.
fn take_over(dir: &Path) -> Result<(), MountError> {
    let look = |error| MountError::Look {
        dir: dir.to_owned(),
        error,
    };
    let since = Instant::now();
    let mut ending = None;
    while let Some(mount) = top_mount(dir).map_err(look)? {
        if !mount.is_ours() {
            return Err(MountError::Foreign {
                dir: dir.to_owned(),
                kind: mount.kind,
            });
        }
        let server = mount.source.strip_prefix(SOURCE).unwrap_or_default();
        let (pid, start) = server.split_once(':').unwrap_or((server, ""));
        let (pid, start) = (pid.parse().ok(), start.parse().ok());
        // A file system whose server has ended says so at once; one whose server hangs would never answer, so it is
        // asked only if its process is not there.
        let gone = match pid {
            Some(pid) if runs(pid, start) => false,
            _ => fs::metadata(dir).is_err_and(|error| has_ended(&error)),
        };
        if gone {
            log::warn!(
                "{}: taking over the mount of a driver that has ended",
                dir.display()
            );
            detach(dir).map_err(look)?;
        } else if since.elapsed() < PATIENCE {
            ending = pid.map(|pid| (pid, start));
            std::thread::sleep(LOOK_AGAIN);
        } else {
            return Err(MountError::InUse {
                dir: dir.to_owned(),
                pid,
            });
        }
    }
    // Its mount is the last thing that a daemon gives back but one: the device goes with the process.
    while ending.is_some_and(|(pid, start)| runs(pid, start)) && since.elapsed() < PATIENCE {
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Whether there is such a process, started at that time, other than this one and other than one that only waits to be
/// waited for.
fn runs(pid: u32, start: Option<u64>) -> bool {
    pid != std::process::id() && start.is_none_or(|start| started(pid) == Some(start)) && is_alive(pid)
}

/// The fields of proc_pid_stat(5) behind the name, which is in parentheses and may hold anything: the state comes first.
fn stat_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next().map(str::to_owned)
}

fn is_alive(pid: u32) -> bool {
    stat_of(pid).is_some_and(|stat| !stat.starts_with(['Z', 'X']))
}

/// When a process was started, in ticks since the boot: field 22, of which the state is field 3.
fn started(pid: u32) -> Option<u64> {
    stat_of(pid)?.split(' ').nth(22 - 3)?.parse().ok()
}

fn detach(dir: &Path) -> io::Result<()> {
    match unmount(dir, UnmountFlags::DETACH) {
        // Not root: what mounted it may unmount it.
        Err(rustix::io::Errno::PERM) => {
            let status = Command::new("fusermount3")
                .arg("-uz")
                .arg("--")
                .arg(dir)
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::PermissionDenied))
            }
        }
        result => Ok(result?),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    kind: String,
    source: String,
}

impl Mounted {
    /// Whether a daemon of ours mounted it.
    fn is_ours(&self) -> bool {
        self.kind.split('.').next() == Some(TYPE) && self.source.starts_with(SOURCE)
    }
}

/// What is mounted at `dir`, the uppermost.
fn top_mount(dir: &Path) -> io::Result<Option<Mounted>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(last_mount(&table, dir))
}

/// The last line for `dir` in a table as proc_pid_mountinfo(5) has it: number, parent, device, root, mount point,
/// options, optional fields, a hyphen, type, source, more options.
fn last_mount(table: &[u8], dir: &Path) -> Option<Mounted> {
    let of_line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = unescaped(fields.nth(4)?);
        if place.as_path() != dir {
            return None;
        }
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let text = |field: &[u8]| unescaped(field).to_string_lossy().into_owned();
        Some(Mounted {
            kind: text(fields.next()?),
            source: text(fields.next()?),
        })
    };
    table.split(|byte| *byte == b'\n').filter_map(of_line).next_back()
}

/// Space, tabulator, newline and backslash are written as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let code = tail
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(code);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_mount_of_a_directory_is_found() {
        let table = b"22 1 0:20 / /proc rw - proc proc rw\n\
            30 22 0:40 / /run/scheme/nvme rw,nosuid shared:7 master:3 - fuse.nvme nvme-driver:17 rw,user_id=0\n\
            31 22 0:41 / /run/a\\040b\\134 rw - tmpfs none rw\n\
            32 30 0:42 / /run/scheme/nvme rw - fuse.nvme nvme-driver:18 rw\n\
            short line\n";
        let at = |dir: &str| last_mount(table, Path::new(dir)).map(|mount| (mount.kind, mount.source));
        let found = |kind: &str, source: &str| Some((kind.to_owned(), source.to_owned()));
        assert_eq!(at("/run/scheme/nvme"), found("fuse.nvme", "nvme-driver:18"));
        assert_eq!(at("/run/a b\\"), found("tmpfs", "none"));
        assert_eq!(at("/run/scheme"), None);
        assert_eq!(at("/"), None);
    }

    #[test]
    fn a_process_runs_until_it_has_ended() {
        assert!(runs(1, None));
        assert!(runs(1, started(1)));
        assert!(
            !runs(1, started(1).map(|start| start + 1)),
            "another one that had the number"
        );
        let this = std::process::id();
        assert!(started(this) > started(1));
        assert!(!runs(this, None), "what this process has left is for it to take");
        assert!(!runs(u32::MAX, None));
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Not waited for, it stays as a zombie, which serves nobody.
        while runs(pid, started(pid)) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!runs(pid, None));
    }

    #[test]
    fn a_directory_is_made_locked_and_not_hidden() {
        let parent = std::env::temp_dir().join(format!("nvme-mount-point-{}", std::process::id()));
        let dir = parent.join("deep").join("nvme");
        let claimed = MountPoint::claim(&dir).unwrap();
        assert_eq!(claimed.0.dir().file_name(), dir.file_name());
        assert!(matches!(
            MountPoint::claim(&dir),
            Err(MountError::InUse { pid: None, .. })
        ));
        drop(claimed);
        let link = parent.join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        let by_link = MountPoint::claim(&link).unwrap();
        assert_eq!(by_link.0.dir(), fs::canonicalize(&dir).unwrap());
        drop(by_link);
        fs::write(dir.join("file"), "x").unwrap();
        assert!(matches!(
            MountPoint::claim(&dir),
            Err(MountError::NotEmpty { .. })
        ));
        assert!(matches!(
            MountPoint::claim(&dir.join("file")),
            Err(MountError::Look { .. })
        ));
        assert!(matches!(
            MountPoint::claim(Path::new("/proc")),
            Err(MountError::Foreign { kind, .. }) if kind == "proc"
        ));
        fs::remove_dir_all(parent).unwrap();
    }
}
