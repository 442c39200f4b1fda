//! What a client does with files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use syscall::data::{Stat, StatVfs, StdFsCallMeta};
use syscall::dirent::DirentHeader;
use syscall::error::{EBADF, EIO, ENOENT, Error, Result};
use syscall::flag::{EventFlags, F_GETFL, MapFlags, MunmapFlags, O_CLOEXEC, StdFsCallKind};
use syscall::schemev2::Opcode;

use super::{Client, Description, regular, target};
use crate::socket::Response;

impl Client {
    /// Opens `path`, `/scheme/NAME/...`, with `flags` of `open`.
    ///
    /// # Errors
    /// `ENOENT` if no scheme has that name; else what the daemon answers, as everywhere here.
    pub fn open(&self, path: &str, flags: usize) -> Result<usize> {
        let (scheme, rest) = target(path)?;
        let (socket, root) = self.socket_of(scheme).map_err(|_| Error::new(ENOENT))?;
        let args = [root as u64, 0, 0, (flags & !O_CLOEXEC) as u64, 0];
        // It is the manager of namespaces that opens: its number is told and not the client's.
        let sqe = syscall::schemev2::Sqe {
            caller: 0,
            ..self.sqe(Opcode::OpenAt, args)
        };
        let answer = self.tell_path(socket, sqe, rest)?;
        self.opened(socket, flags, answer)
    }

    /// Opens `path` from the file `directory`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn openat(&self, directory: usize, path: &str, flags: usize) -> Result<usize> {
        let from = self.find(directory)?;
        let sqe = self.sqe(Opcode::OpenAt, [from.number, 0, 0, flags as u64, 0]);
        let answer = self.tell_path(from.socket, sqe, path)?;
        self.opened(from.socket, flags, answer)
    }

    /// Another descriptor: with an empty `name` of the same file, else what the daemon makes of `name`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn dup(&self, descriptor: usize, name: &[u8]) -> Result<usize> {
        let file = self.find(descriptor)?;
        if name.is_empty() {
            return Ok(self.files.insert(file));
        }
        let sqe = self.sqe(Opcode::Dup, [file.number, 0, 0, 0, 0]);
        let answer = self.tell(file.socket, sqe, name)?;
        self.opened(file.socket, file.flags, answer)
    }

    /// Closes a descriptor. The daemon hears of it when it was the file's last, and does not answer.
    ///
    /// # Errors
    /// `EBADF` if it is none.
    pub fn close(&self, descriptor: usize) -> Result<()> {
        let file = self.files.lock().remove(&descriptor).ok_or(Error::new(EBADF))?;
        self.let_go(&file);
        Ok(())
    }

    /// The daemon's number for a file.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn number(&self, descriptor: usize) -> Result<usize> {
        Ok(self.find(descriptor)?.number as usize)
    }

    /// Reads where the file's position is, if the daemon has it so; else at `u64::MAX`, which means "no position".
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        let file = self.find(descriptor)?;
        let count = self.read_file(&file, into, position(&file))?;
        step(&file, count);
        Ok(count)
    }

    /// Writes, as [`read`](Self::read) reads.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize> {
        let file = self.find(descriptor)?;
        let count = self.write_file(&file, from, position(&file))?;
        step(&file, count);
        Ok(count)
    }

    /// Reads at `offset`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn pread(&self, descriptor: usize, into: &mut [u8], offset: u64) -> Result<usize> {
        self.read_file(&*self.find(descriptor)?, into, offset)
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn pwrite(&self, descriptor: usize, from: &[u8], offset: u64) -> Result<usize> {
        self.write_file(&*self.find(descriptor)?, from, offset)
    }

    fn read_file(&self, file: &Description, into: &mut [u8], offset: u64) -> Result<usize> {
        let args = [file.number, 0, 0, offset, file.flags as u32 as u64];
        self.ask(file.socket, self.sqe(Opcode::Read, args), into)
    }

    fn write_file(&self, file: &Description, from: &[u8], offset: u64) -> Result<usize> {
        let args = [file.number, 0, 0, offset, file.flags as u32 as u64];
        self.tell(file.socket, self.sqe(Opcode::Write, args), from)
            .and_then(regular)
    }

    /// The file's size, as the daemon says.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fsize(&self, descriptor: usize) -> Result<u64> {
        Ok(self.plain(descriptor, Opcode::Fsize, [0; 2])? as u64)
    }

    /// Moves the file's position to its end, as everybody does who wants to know the size.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn seek_end(&self, descriptor: usize) -> Result<u64> {
        let size_bytes = self.fsize(descriptor)?;
        let file = self.find(descriptor)?;
        file.position.store(size_bytes as usize, Ordering::Relaxed);
        Ok(size_bytes)
    }

    /// Moves the file's position.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn seek(&self, descriptor: usize, position: usize) -> Result<()> {
        self.find(descriptor)?.position.store(position, Ordering::Relaxed);
        Ok(())
    }

    /// Waits until what was written is on the medium.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fsync(&self, descriptor: usize) -> Result<()> {
        if self.older {
            return self.plain(descriptor, Opcode::Fsync, [0; 2]).map(drop);
        }
        self.std_fs_call(descriptor, StdFsCallKind::Fsync, [0, 0], &mut [])
            .map(drop)
    }

    /// Sets the file's length.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn ftruncate(&self, descriptor: usize, len_bytes: u64) -> Result<()> {
        if self.older {
            return self
                .plain(descriptor, Opcode::Ftruncate, [len_bytes, 0])
                .map(drop);
        }
        self.std_fs_call(descriptor, StdFsCallKind::Ftruncate, [len_bytes, 0], &mut [])
            .map(drop)
    }

    /// What the file is.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fstat(&self, descriptor: usize) -> Result<Stat> {
        let mut stat = Stat::default();
        self.describe(descriptor, Opcode::Fstat, StdFsCallKind::Fstat, &mut stat)?;
        Ok(stat)
    }

    /// What the file's file system is.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fstatvfs(&self, descriptor: usize) -> Result<StatVfs> {
        let mut stat = StatVfs::default();
        self.describe(descriptor, Opcode::Fstatvfs, StdFsCallKind::Fstatvfs, &mut stat)?;
        Ok(stat)
    }

    fn describe(&self, descriptor: usize, old: Opcode, new: StdFsCallKind, into: &mut [u8]) -> Result<()> {
        if self.older {
            let file = self.find(descriptor)?;
            let sqe = self.sqe(old, [file.number, 0, 0, 0, 0]);
            return self.ask(file.socket, sqe, into).map(drop);
        }
        self.std_fs_call(descriptor, new, [0, 0], into).map(drop)
    }

    /// Entries of a directory from `opaque` on, as the daemon puts them into `into`; how many bytes of it are used.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn getdents(&self, descriptor: usize, into: &mut [u8], opaque: u64) -> Result<usize> {
        let header_bytes = size_of::<DirentHeader>() as u64;
        if self.older {
            let file = self.find(descriptor)?;
            let sqe = self.sqe(Opcode::Getdents, [file.number, 0, 0, header_bytes, opaque]);
            return self.ask(file.socket, sqe, into);
        }
        self.std_fs_call(descriptor, StdFsCallKind::Getdents, [opaque, header_bytes], into)
    }

    /// All names in a directory, read a few at a time.
    ///
    /// # Errors
    /// See [`open`](Self::open); `EIO` if what the daemon says makes no sense.
    pub fn list(&self, descriptor: usize) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let (mut buffer, mut opaque) = ([0; 256], 0);
        loop {
            let used = self.getdents(descriptor, &mut buffer, opaque)?;
            let mut entries = buffer.get(..used).ok_or(Error::new(EIO))?;
            if entries.is_empty() {
                return Ok(names);
            }
            while !entries.is_empty() {
                let (name, next, len_bytes) = entry(entries).ok_or(Error::new(EIO))?;
                names.push(name);
                opaque = next;
                entries = entries.get(len_bytes..).ok_or(Error::new(EIO))?;
            }
        }
    }

    /// The file's path, as the daemon says.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fpath(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        let file = self.find(descriptor)?;
        let sqe = self.sqe(Opcode::Fpath, [file.number, 0, 0, 0, 0]);
        self.ask(file.socket, sqe, into)
    }

    /// `fcntl`, which the daemon is asked about first.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fcntl(&self, descriptor: usize, command: usize, argument: usize) -> Result<usize> {
        let file = self.find(descriptor)?;
        let args = [command as u64, argument as u64];
        self.plain(descriptor, Opcode::Fcntl, args)?;
        Ok(if command == F_GETFL { file.flags } else { 0 })
    }

    /// Which events of the file are wanted; what holds already.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn fevent(&self, descriptor: usize, wanted: EventFlags) -> Result<EventFlags> {
        let ready = self.plain(descriptor, Opcode::Fevent, [wanted.bits() as u64, 0])?;
        Ok(EventFlags::from_bits_truncate(ready))
    }

    /// Events of the file that the daemon has sent so far.
    ///
    /// # Errors
    /// `EBADF` if it is not open.
    pub fn events(&self, descriptor: usize) -> Result<Vec<EventFlags>> {
        let file = self.find(descriptor)?;
        let state = self.kernel.lock();
        let all = state
            .sockets
            .get(&file.socket)
            .map(|socket| socket.fevents.iter());
        let own = all
            .into_iter()
            .flatten()
            .filter(|(number, _)| *number as u64 == file.number);
        Ok(own.map(|(_, flags)| *flags).collect())
    }

    /// The scheme's own call: `metadata`, of which three words arrive, and a payload to be read and written.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn call(&self, descriptor: usize, payload: &mut [u8], metadata: &[u64]) -> Result<usize> {
        let file = self.find(descriptor)?;
        let sqe = self.sqe_with(Opcode::Call, &file, metadata);
        self.send(file.socket, sqe, payload).and_then(regular)
    }

    /// `StdFsCall` of any `kind`, with its two arguments.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn std_fs_call(
        &self,
        descriptor: usize,
        kind: StdFsCallKind,
        arguments: [u64; 2],
        payload: &mut [u8],
    ) -> Result<usize> {
        let file = self.find(descriptor)?;
        let [first, second] = arguments;
        let metadata = StdFsCallMeta::new(kind, first, second);
        let sqe = self.sqe_with(Opcode::StdFsCall, &file, &metadata);
        match self.send(file.socket, sqe, payload)?.response {
            Response::Regular(result, _, tells_detach) => {
                file.tells_detach.store(tells_detach, Ordering::Release);
                result
            }
            Response::Descriptor | Response::Descriptors => Err(Error::new(EIO)),
        }
    }

    /// Asks for the file to be mapped. The daemon's answer, which would be an address in its own memory.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn mmap(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MapFlags) -> Result<usize> {
        let file = self.find(descriptor)?;
        let args = [file.number, len_bytes as u64, flags.bits() as u64, offset, 0];
        regular(
            self.kernel
                .call(file.socket, self.id, self.sqe(Opcode::MmapPrep, args), None)?,
        )
    }

    /// Says that a mapping is gone.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn munmap(&self, descriptor: usize, offset: u64, len_bytes: usize, flags: MunmapFlags) -> Result<()> {
        let file = self.find(descriptor)?;
        let args = [file.number, len_bytes as u64, flags.bits() as u64, offset, 0];
        regular(
            self.kernel
                .call(file.socket, self.id, self.sqe(Opcode::Munmap, args), None)?,
        )
        .map(drop)
    }

    /// Sends `count` descriptors, of nothing, to the file.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn sendfd(&self, descriptor: usize, argument: u64, count: usize) -> Result<usize> {
        let file = self.find(descriptor)?;
        let args = [file.number, 0, argument, count as u64, 0];
        regular(
            self.kernel
                .call(file.socket, self.id, self.sqe(Opcode::Sendfd, args), None)?,
        )
    }

    /// Asks the file for `count` descriptors; how many came, which is none here.
    ///
    /// # Errors
    /// See [`open`](Self::open); `EIO` if the daemon answers as if something else had been asked.
    pub fn recvfd(&self, descriptor: usize, count: usize) -> Result<usize> {
        let file = self.find(descriptor)?;
        let args = [file.number, 0, count as u64, 0, 0];
        let answer = self
            .kernel
            .call(file.socket, self.id, self.sqe(Opcode::Recvfd, args), None)?;
        match answer.response {
            Response::Descriptors => Ok(0),
            Response::Regular(Err(error), ..) => Err(error),
            Response::Regular(Ok(_), ..) | Response::Descriptor => Err(Error::new(EIO)),
        }
    }

    /// Removes `path` from the directory `descriptor`.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn unlinkat(&self, descriptor: usize, path: &str, flags: usize) -> Result<()> {
        let file = self.find(descriptor)?;
        let sqe = self.sqe(Opcode::UnlinkAt, [file.number, 0, 0, flags as u64, 0]);
        self.tell_path(file.socket, sqe, path).and_then(regular).map(drop)
    }

    /// Any call without a payload, by its opcode: a file, and two arguments.
    ///
    /// # Errors
    /// See [`open`](Self::open).
    pub fn plain(&self, descriptor: usize, opcode: Opcode, arguments: [u64; 2]) -> Result<usize> {
        let file = self.find(descriptor)?;
        let [first, second] = arguments;
        let sqe = self.sqe(opcode, [file.number, first, second, 0, 0]);
        regular(self.kernel.call(file.socket, self.id, sqe, None)?)
    }

    /// An entry whose last three arguments are the caller's own, so that who calls is not in it.
    fn sqe_with(&self, opcode: Opcode, file: &Arc<Description>, metadata: &[u64]) -> syscall::schemev2::Sqe {
        let mut sqe = self.sqe(opcode, [file.number, 0, 0, 0, 0]);
        sqe.args[5] = 0;
        for (argument, word) in sqe.args[3..].iter_mut().zip(metadata) {
            *argument = *word;
        }
        sqe
    }
}

fn position(file: &Description) -> u64 {
    if file.positioned {
        file.position.load(Ordering::Relaxed) as u64
    } else {
        u64::MAX
    }
}

fn step(file: &Description, count: usize) {
    if file.positioned {
        file.position.fetch_add(count, Ordering::Relaxed);
    }
}

/// The first of `entries`: its name, where the next one starts for the daemon, and its length.
fn entry(entries: &[u8]) -> Option<(String, u64, usize)> {
    // struct DirentHeader: inode, opaque identifier of the next, length of the record, kind; then the name and a zero.
    let next = u64::from_ne_bytes(*entries.get(8..16)?.first_chunk()?);
    let len_bytes = usize::from(u16::from_ne_bytes(*entries.get(16..18)?.first_chunk()?));
    let name = entries.get(size_of::<DirentHeader>()..len_bytes)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((String::from_utf8(name.to_vec()).ok()?, next, len_bytes))
}
