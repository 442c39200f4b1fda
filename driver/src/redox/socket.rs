//! A scheme's socket: requests of clients as the kernel sends them, and the answers.
//!
//! One read takes as many requests as wait, one write gives as many answers as there are. An entry of the kernel is an
//! [`Sqe`]; what it asks is [`Request`]. A client's buffer has been mapped into this process as [`Lent`] memory, until
//! the request with that tag is answered.

#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use syscall::error::{EAGAIN, EINTR, EWOULDBLOCK, Error, Result};
use syscall::flag::StdFsCallKind;
use syscall::schemev2::{Cqe, CqeOpcode, NewFdFlags, Opcode, Sqe, SqeFlags};

use super::{Descriptor, System};
use crate::dma::Lent;

/// The most requests that one read takes.
pub const BATCH: usize = 64;

/// A scheme's socket.
#[derive(Debug)]
pub struct Socket(Descriptor);

impl Socket {
    /// A socket that no name leads to yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(system: &Arc<dyn System>) -> Result<Self> {
        Ok(Self(Descriptor::new(system, system.create_scheme()?)))
    }

    /// Makes it known as the scheme `name`, whose root has the number `root`.
    ///
    /// # Errors
    /// `EEXIST` if there is such a scheme, and whatever else the kernel says.
    pub fn register(&self, name: &str, root: u64) -> Result<()> {
        let root = usize::try_from(root).map_err(|_| Error::new(syscall::error::EINVAL))?;
        self.0.system().register_scheme(self.0.number(), name, root)
    }

    /// The kernel's number.
    pub const fn number(&self) -> usize {
        self.0.number()
    }

    /// Takes the requests that wait, at most [`BATCH`], into `batch`, whose old ones are gone. Does not wait: 0 if there
    /// are none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self, batch: &mut Batch) -> Result<usize> {
        let requests = &mut batch.0;
        requests.clear();
        requests.resize(BATCH, Sqe::default());
        let entries: &mut [Sqe] = requests;
        // SAFETY: an entry is whole numbers without padding (asserted below), of which any bytes are valid; the slice is
        // all of the vector's entries.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(entries.as_mut_ptr().cast::<u8>(), size_of_val(entries))
        };
        let taken = loop {
            match self.0.read(bytes) {
                Ok(taken) => break taken,
                Err(error) if error.errno == EINTR => {}
                Err(error) if error.errno == EAGAIN || error.errno == EWOULDBLOCK => break 0,
                Err(error) => {
                    requests.clear();
                    return Err(error);
                }
            }
        };
        requests.truncate(taken / size_of::<Sqe>());
        Ok(requests.len())
    }

    /// Gives answers, in one call where the kernel takes them so. One that it refuses is left out, with a word in the log.
    pub fn give(&self, answers: &[Cqe]) {
        let mut rest = answers;
        while !rest.is_empty() {
            // SAFETY: an entry is whole numbers without padding (asserted below); the slice is all of them.
            let bytes = unsafe { std::slice::from_raw_parts(rest.as_ptr().cast::<u8>(), size_of_val(rest)) };
            let given = match self.0.write(bytes) {
                Ok(written) => written / size_of::<Cqe>(),
                Err(error) if error.errno == EINTR => continue,
                Err(error) => {
                    log::warn!("the kernel refuses an answer: {error}");
                    1
                }
            };
            // A kernel that takes nothing and says so would be asked for ever.
            rest = rest.get(given.max(1)..).unwrap_or_default();
        }
    }
}

/// Requests as they came from a socket.
#[derive(Debug, Default)]
pub struct Batch(Vec<Sqe>);

impl Batch {
    /// What they are, each with the tag of its answer. Whoever has a request with memory answers it only when that
    /// memory is not used any more.
    pub fn requests(&mut self) -> impl Iterator<Item = (u32, Request)> {
        self.0.drain(..).map(|entry| {
            // SAFETY: the kernel sent it, and it has not been answered: nobody else knows it, since it is taken out of
            // here. What lent memory is for is said in the contract above and at `Lent`.
            (entry.tag, unsafe { Request::of(&entry) })
        })
    }
}

const _: () = assert!(size_of::<Sqe>() == 64 && align_of::<Sqe>() == 8);
const _: () = assert!(size_of::<Cqe>() == 16 && align_of::<Cqe>() == 8);

/// The answer to the request `tag`: a number or an error.
pub fn answer(tag: u32, result: Result<usize>) -> Cqe {
    Cqe {
        flags: CqeOpcode::RespondRegular as u8,
        extra_raw: [0; 3],
        tag,
        result: Error::mux(result) as u64,
    }
}

/// The answer to a request to open: a handle, whose position the kernel keeps.
pub fn opened(tag: u32, handle: u64) -> Cqe {
    Cqe {
        extra_raw: [NewFdFlags::POSITIONED.bits(), 0, 0],
        result: handle,
        ..answer(tag, Ok(0))
    }
}

/// What a client, or the kernel for it, asks. `handle` is what was opened, by the number that was answered then.
#[derive(Debug)]
pub enum Request {
    /// Opens `path` from the directory `handle`; the flags are `O_RDONLY` and so on.
    Open {
        /// The directory.
        handle: u64,
        /// Where; `None` if it is no text.
        path: Option<String>,
        /// `open`'s.
        flags: usize,
        /// Effective user and group.
        uid_gid: (u32, u32),
    },
    /// Reads.
    Read {
        /// Of what.
        handle: u64,
        /// From where.
        offset: u64,
        /// Where to.
        memory: Lent,
        /// Those of the file now, and of this call: `O_NONBLOCK`, ...
        flags: usize,
    },
    /// Writes.
    Write {
        /// To what.
        handle: u64,
        /// Where.
        offset: u64,
        /// What.
        memory: Lent,
        /// Those of the file now, and of this call: `O_APPEND`, ...
        flags: usize,
    },
    /// The length, as a number.
    Length {
        /// Of what.
        handle: u64,
    },
    /// About a node, as a `Stat`.
    Stat {
        /// Of what.
        handle: u64,
        /// Where to.
        memory: Lent,
    },
    /// Where the handle leads to, as text.
    Path {
        /// Of what.
        handle: u64,
        /// Where to.
        memory: Lent,
    },
    /// Entries of a directory from number `first` on.
    List {
        /// Of what.
        handle: u64,
        /// Where to.
        memory: Lent,
        /// Bytes of each entry's header.
        header_bytes: u16,
        /// How many entries the client has already.
        first: u64,
    },
    /// Makes durable what was written.
    Sync {
        /// Of what.
        handle: u64,
    },
    /// Makes it so long.
    Truncate {
        /// Of what.
        handle: u64,
        /// Bytes.
        len_bytes: u64,
    },
    /// Changes the mode.
    Mode {
        /// Of what.
        handle: u64,
        /// Permission bits.
        mode: u16,
    },
    /// Changes owner and group; all ones = leave it.
    Owner {
        /// Of what.
        handle: u64,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// Something that changes nothing here (flags, times, events): the answer is 0.
    Nothing {
        /// Of what.
        handle: u64,
    },
    /// The request with that tag is wanted back.
    Cancel {
        /// The other request's.
        tag: u32,
    },
    /// The last descriptor of a handle is gone. Not to be answered.
    Close {
        /// Of what.
        handle: u64,
    },
    /// Not to be answered, and of no interest.
    Notice,
    /// Nothing that this scheme has: to be answered with this error.
    Refused(Error),
}

impl Request {
    /// What `entry` asks.
    ///
    /// # Safety
    /// `entry` must be as the kernel sent it, and its request not be answered yet; the memory in what is returned must
    /// not be used after its answer.
    unsafe fn of(entry: &Sqe) -> Self {
        use syscall::error::{ENOSYS, EOPNOTSUPP};

        let [handle, address, len, third, fourth, fifth] = entry.args;
        // SAFETY: the kernel mapped these bytes for this request, by the contract.
        let memory = || unsafe { lent(address, len) };
        let Some(opcode) = Opcode::try_from_raw(entry.opcode) else {
            return Self::refused(entry, ENOSYS);
        };
        // The tag of what nobody waits for is none: with an answer to it, another's would be given. A cancellation has that
        // of what it is about.
        if entry.sqe_flags.contains(SqeFlags::ONEWAY) && !matches!(opcode, Opcode::Cancel) {
            return Self::Notice;
        }
        match opcode {
            Opcode::OpenAt => Self::Open {
                handle,
                path: String::from_utf8(memory().to_vec()).ok(),
                flags: third as usize,
                uid_gid: (fifth as u32, (fifth >> 32) as u32),
            },
            Opcode::Read => Self::Read {
                handle,
                offset: third,
                memory: memory(),
                flags: fourth as usize,
            },
            Opcode::Write => Self::Write {
                handle,
                offset: third,
                memory: memory(),
                flags: fourth as usize,
            },
            Opcode::Fsize => Self::Length { handle },
            Opcode::Fstat => Self::Stat {
                handle,
                memory: memory(),
            },
            Opcode::Fpath => Self::Path {
                handle,
                memory: memory(),
            },
            Opcode::Getdents => Self::List {
                handle,
                memory: memory(),
                header_bytes: third as u16,
                first: fourth,
            },
            Opcode::Fsync => Self::Sync { handle },
            Opcode::Ftruncate => Self::Truncate {
                handle,
                len_bytes: address,
            },
            Opcode::Fchmod => Self::Mode {
                handle,
                mode: address as u16,
            },
            Opcode::Fchown => Self::Owner {
                handle,
                uid: address as u32,
                gid: len as u32,
            },
            // No flag of a descriptor is of interest here, no time is kept, and nothing tells when it is ready.
            Opcode::Fcntl | Opcode::Futimens | Opcode::Fevent => Self::Nothing { handle },
            Opcode::StdFsCall => Self::standard(entry, memory),
            Opcode::Cancel => Self::Cancel { tag: entry.tag },
            Opcode::CloseMsg => Self::Close { handle },
            Opcode::Detach | Opcode::RequestMmap | Opcode::Msync => Self::Notice,
            _ => Self::refused(entry, EOPNOTSUPP),
        }
    }

    /// The calls that newer programs make: number 3 says which, 4 and 5 say more. Who calls is not in there.
    fn standard(entry: &Sqe, memory: impl FnOnce() -> Lent) -> Self {
        let [handle, _, _, kind, first, second] = entry.args;
        let kind = u8::try_from(kind).ok().and_then(StdFsCallKind::try_from_raw);
        if entry.sqe_flags.contains(SqeFlags::MULTIPLE_IDS) {
            return Self::refused(entry, syscall::error::EOPNOTSUPP);
        }
        match kind {
            Some(StdFsCallKind::Fstat) => Self::Stat {
                handle,
                memory: memory(),
            },
            Some(StdFsCallKind::Getdents) => Self::List {
                handle,
                memory: memory(),
                header_bytes: second as u16,
                first,
            },
            Some(StdFsCallKind::Fsync) => Self::Sync { handle },
            Some(StdFsCallKind::Ftruncate) => Self::Truncate {
                handle,
                len_bytes: first,
            },
            Some(StdFsCallKind::Fchmod) => Self::Mode {
                handle,
                mode: first as u16,
            },
            Some(StdFsCallKind::Fchown) => Self::Owner {
                handle,
                uid: first as u32,
                gid: second as u32,
            },
            Some(StdFsCallKind::Futimens) => Self::Nothing { handle },
            _ => Self::refused(entry, syscall::error::EOPNOTSUPP),
        }
    }

    /// A request that nobody waits for is left alone.
    fn refused(entry: &Sqe, errno: i32) -> Self {
        if entry.sqe_flags.contains(SqeFlags::ONEWAY) {
            Self::Notice
        } else {
            Self::Refused(Error::new(errno))
        }
    }
}

/// The memory of a request.
///
/// # Safety
/// The kernel must have mapped it, and it must not be used after the request's answer. An address that is no pointer has
/// length 0.
unsafe fn lent(address: u64, len: u64) -> Lent {
    let (address, len) = (address as usize, len as usize);
    let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address));
    match start {
        // SAFETY: by the contract.
        Some(start) if len <= isize::MAX as usize => unsafe { Lent::new(start, len) },
        // SAFETY: no bytes.
        _ => unsafe { Lent::new(NonNull::dangling(), 0) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(opcode: u8, args: [u64; 6]) -> Sqe {
        Sqe {
            opcode,
            tag: 7,
            args,
            ..Sqe::default()
        }
    }

    fn parse(entry: &Sqe) -> Request {
        // SAFETY: the tests give addresses of their own memory, which outlives what is made of it.
        unsafe { Request::of(entry) }
    }

    #[test]
    fn who_opens_is_in_the_last_argument() {
        let path = "1/stats";
        let args = [0, path.as_ptr() as u64, 7, 0x1_0000, 0, 1000 | (100 << 32)];
        match parse(&entry(Opcode::OpenAt as u8, args)) {
            Request::Open {
                handle: 0,
                path: Some(text),
                flags: 0x1_0000,
                uid_gid: (1000, 100),
            } => assert_eq!(text, path),
            other => panic!("{other:?}"),
        }
        let bad = [0xFFu8, 0xFE];
        let args = [0, bad.as_ptr() as u64, 2, 0, 0, 0];
        assert!(matches!(
            parse(&entry(Opcode::OpenAt as u8, args)),
            Request::Open { path: None, .. }
        ));
    }

    #[test]
    fn a_standard_call_says_what_an_old_one_did() {
        let mut buffer = [0u8; 64];
        let address = buffer.as_mut_ptr() as u64;
        let standard =
            |kind: StdFsCallKind, a, b| entry(Opcode::StdFsCall as u8, [9, address, 64, kind as u64, a, b]);
        assert!(matches!(
            parse(&standard(StdFsCallKind::Getdents, 3, 24)),
            Request::List { handle: 9, header_bytes: 24, first: 3, memory } if memory.len() == 64
        ));
        assert!(matches!(
            parse(&entry(Opcode::Getdents as u8, [9, address, 64, 24, 3, 0])),
            Request::List { handle: 9, header_bytes: 24, first: 3, memory } if memory.len() == 64
        ));
        assert!(matches!(
            parse(&standard(StdFsCallKind::Fsync, 0, 0)),
            Request::Sync { handle: 9 }
        ));
        assert!(matches!(
            parse(&standard(StdFsCallKind::Lock, 0, 0)),
            Request::Refused(_)
        ));
        let unknown = entry(Opcode::StdFsCall as u8, [9, address, 64, 1 << 40 | 4, 0, 0]);
        assert!(matches!(parse(&unknown), Request::Refused(_)));
    }

    #[test]
    fn what_nobody_waits_for_is_not_refused() {
        for opcode in 0..=255 {
            let mut sqe = entry(opcode, [0, 0, 0, 0, 0, 0]);
            let two_way = parse(&sqe);
            sqe.sqe_flags = SqeFlags::ONEWAY;
            let one_way = parse(&sqe);
            assert!(
                matches!(one_way, Request::Notice | Request::Cancel { .. }),
                "{opcode}: {two_way:?}"
            );
        }
    }

    #[test]
    fn memory_that_is_none_has_no_bytes() {
        let none = parse(&entry(Opcode::Read as u8, [1, 0, 4096, 0, 0, 0]));
        assert!(matches!(none, Request::Read { memory, .. } if memory.is_empty()));
        let absurd = parse(&entry(Opcode::Read as u8, [1, 4096, u64::MAX, 0, 0, 0]));
        assert!(matches!(absurd, Request::Read { memory, .. } if memory.is_empty()));
    }
}
