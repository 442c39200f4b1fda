//! A memfd that is mapped here.
//!
//! Of what a client names, nothing is believed, and nothing is done with it before it is known to be a memfd: to open a tape
//! or a pipe does something, and to ask a file system of the client's own, even about a size, may take for ever. So it is
//! opened as a mere place (`O_PATH`) first, and what that is, is asked of the kernel alone. It must be memory that cannot be
//! made shorter, since what is not there any more is SIGBUS for whoever touches it; and the client must be able to write to it
//! itself, since this process, as root, could open what it cannot.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use rustix::fs::{
    FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, memfd_create, open, openat,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

use super::SharedMemory;

/// What keeps all of it there.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// The mapping and its file.
pub(super) struct Origin {
    memfd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

impl Origin {
    pub(super) fn create(len: usize) -> io::Result<SharedMemory> {
        let memfd = memfd_create("nvme-shared", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, len as u64)?;
        fcntl_add_seals(&memfd, SEALS)?;
        Self::map(memfd, len)
    }

    pub(super) fn of_process(pid: u32, uid: u32, descriptor: u32, len: usize) -> io::Result<SharedMemory> {
        // Held open, this is that process or, when it has ended, none: never another one that has got its number since.
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = open(format!("/proc/{pid}"), folder, Mode::empty())?;
        // A write that is asynchronous does not keep its thread from ending, so the number may be somebody else's already.
        if owner_of(&process)? != [uid; 4] {
            return Err(Errno::ACCESS.into());
        }
        let place = OFlags::PATH | OFlags::CLOEXEC;
        let seen = openat(&process, format!("fd/{descriptor}"), place, Mode::empty())?;
        let about = OpenFile::of("self", seen.as_raw_fd())?;
        // Memfds with huge pages are elsewhere: of these a hole that the client makes may not be filled again.
        if about.mount != memfd_mount()? || u64::try_from(fstat(&seen)?.st_size).ok() != Some(len as u64) {
            return Err(Errno::INVAL.into());
        }
        // Flags and inode come from one look at one open file, so there is nothing to exchange in between.
        let text = text_of(&process, &format!("fdinfo/{descriptor}"))?;
        let theirs = OpenFile::parse(&text).ok_or(Errno::OPNOTSUPP)?;
        if !theirs.is_writable || (theirs.mount, theirs.inode) != (about.mount, about.inode) {
            return Err(Errno::ACCESS.into());
        }
        // It has not become another user's by execve(2) meanwhile.
        if owner_of(&process)? != [uid; 4] {
            return Err(Errno::ACCESS.into());
        }
        let again = format!("/proc/self/fd/{}", seen.as_raw_fd());
        let memfd = open(again, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        if !fcntl_get_seals(&memfd)?.contains(SEALS) {
            return Err(Errno::INVAL.into());
        }
        Self::map(memfd, len)
    }

    fn map(memfd: OwnedFd, len: usize) -> io::Result<SharedMemory> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, anywhere, of a file that stays as long as it is.
        let start = unsafe { mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, &memfd, 0)? };
        let base = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        let origin = Self { memfd, base, len };
        // What cannot be had is better heard of now than at the first access.
        // SAFETY: this mapping, whole; no byte of it changes.
        match unsafe { madvise(start, len, Advice::LinuxPopulateWrite) } {
            // Linux before 5.14 does not know it.
            Err(Errno::INVAL) => fallocate(&origin.memfd, FallocateFlags::empty(), 0, len as u64)?,
            populated => populated?,
        }
        Ok(SharedMemory { base, len, origin })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // SAFETY: mapped as a whole by `map`, and whoever had the address had what owns this.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) } {
            log::debug!("shared memory could not be unmapped: {error}");
        }
    }
}

/// What proc_pid_fdinfo(5) tells of an open file. No file system is asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenFile {
    /// It was opened to be read and written, not as a mere place.
    is_writable: bool,
    mount: u64,
    inode: u64,
}

impl OpenFile {
    fn of(process: &str, descriptor: i32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{process}/fdinfo/{descriptor}"))?;
        // Linux before 5.14 does not tell the inode.
        Self::parse(&text).ok_or_else(|| Errno::OPNOTSUPP.into())
    }

    fn parse(text: &str) -> Option<Self> {
        let member = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
        };
        let flags = u32::from_str_radix(member("flags:")?, 8).ok()?;
        Some(Self {
            is_writable: flags & OFlags::RWMODE.bits() == OFlags::RDWR.bits()
                && flags & OFlags::PATH.bits() == 0,
            mount: member("mnt_id:")?.parse().ok()?,
            inode: member("ino:")?.parse().ok()?,
        })
    }
}

fn text_of(process: &OwnedFd, name: &str) -> io::Result<String> {
    let file = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

/// The real, effective, saved and file system user of a process.
fn owner_of(process: &OwnedFd) -> io::Result<[u32; 4]> {
    let text = text_of(process, "status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    let mut numbers = line.unwrap_or_default().split_whitespace().map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).ok_or(Errno::OPNOTSUPP);
    Ok([next()?, next()?, next()?, next()?])
}

/// The kernel's own mount on which all memfds of ordinary pages are.
fn memfd_mount() -> io::Result<u64> {
    static MOUNT: OnceLock<u64> = OnceLock::new();
    if let Some(mount) = MOUNT.get() {
        return Ok(*mount);
    }
    let memfd = memfd_create("nvme-mount", MemfdFlags::CLOEXEC)?;
    let mount = OpenFile::of("self", memfd.as_raw_fd())?.mount;
    Ok(*MOUNT.get_or_init(|| mount))
}

#[cfg(test)]
mod tests {
    use std::os::fd::RawFd;

    use super::*;

    const LEN: usize = 8192;

    fn errno_of(descriptor: RawFd, len: u64) -> Option<Errno> {
        let number = u32::try_from(descriptor).unwrap();
        let error = SharedMemory::of_process(
            std::process::id(),
            rustix::process::geteuid().as_raw(),
            number,
            len,
        )
        .err()?;
        Some(Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    }

    fn memfd(flags: MemfdFlags, seals: SealFlags) -> OwnedFd {
        let memfd = memfd_create("test", flags | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memfd, LEN as u64).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    #[test]
    fn a_process_of_another_user_is_not_looked_into() {
        let ours = SharedMemory::create(LEN).unwrap();
        let number = u32::try_from(ours.descriptor().as_raw_fd()).unwrap();
        let other = rustix::process::geteuid().as_raw().wrapping_add(1);
        let refused = SharedMemory::of_process(std::process::id(), other, number, LEN as u64);
        let error = refused.err().and_then(|error| Errno::from_io_error(&error));
        assert_eq!(error, Some(Errno::ACCESS));
    }

    #[test]
    fn both_sides_see_one_memory() {
        let ours = SharedMemory::create(LEN).unwrap();
        let number = u32::try_from(ours.descriptor().as_raw_fd()).unwrap();
        let theirs = SharedMemory::of_process(
            std::process::id(),
            rustix::process::geteuid().as_raw(),
            number,
            LEN as u64,
        )
        .unwrap();
        assert!(ours.copy_in(5000, b"hello"));
        let mut seen = [0; 5];
        assert!(theirs.copy_out(5000, &mut seen));
        assert_eq!(&seen, b"hello");
        assert_ne!(ours.at(0), theirs.at(0));
    }

    #[test]
    fn memory_that_may_go_away_is_refused() {
        let whole = memfd(MemfdFlags::empty(), SEALS);
        assert_eq!(errno_of(whole.as_raw_fd(), LEN as u64), None);
        for len in [0, 4096, LEN as u64 + 4096, 5, u64::MAX] {
            assert_eq!(errno_of(whole.as_raw_fd(), len), Some(Errno::INVAL), "{len}");
        }
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            let memfd = memfd(MemfdFlags::empty(), SEALS.difference(missing));
            assert_eq!(
                errno_of(memfd.as_raw_fd(), LEN as u64),
                Some(Errno::INVAL),
                "{missing:?}"
            );
        }
        let file = fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(errno_of(file.as_raw_fd(), LEN as u64), Some(Errno::INVAL));
        let folder = fs::File::open("/proc").unwrap();
        assert_eq!(errno_of(folder.as_raw_fd(), LEN as u64), Some(Errno::INVAL));
        let (pipe, _other_end) = std::io::pipe().unwrap();
        assert_eq!(errno_of(pipe.as_raw_fd(), LEN as u64), Some(Errno::INVAL));
        assert_eq!(errno_of(9_999_999, LEN as u64), Some(Errno::NOENT));
    }

    #[test]
    fn memory_that_the_client_cannot_write_itself_is_refused() {
        let whole = memfd(MemfdFlags::empty(), SEALS);
        let path = format!("/proc/self/fd/{}", whole.as_raw_fd());
        for flags in [
            OFlags::RDONLY,
            OFlags::WRONLY,
            OFlags::PATH,
            OFlags::PATH | OFlags::RDWR,
        ] {
            let other = open(path.as_str(), flags, Mode::empty()).unwrap();
            assert_eq!(
                errno_of(other.as_raw_fd(), LEN as u64),
                Some(Errno::ACCESS),
                "{flags:?}"
            );
        }
        let sealed = memfd(MemfdFlags::empty(), SealFlags::WRITE | SEALS);
        assert_eq!(errno_of(sealed.as_raw_fd(), LEN as u64), Some(Errno::PERM));
    }

    #[test]
    fn what_the_system_says_of_an_open_file_is_read() {
        let text = |flags: &str| format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t15\nino:\t1066\n");
        let is_writable = |flags| OpenFile::parse(&text(flags)).unwrap().is_writable;
        let known = OpenFile {
            is_writable: true,
            mount: 15,
            inode: 1066,
        };
        assert_eq!(OpenFile::parse(&text("02000002")), Some(known));
        assert!(!is_writable("0100000") && !is_writable("01") && !is_writable("010000002"));
        assert_eq!(OpenFile::parse("flags:\t02\nmnt_id:\t1\n"), None);
        assert_eq!(OpenFile::parse(""), None);
    }
}
