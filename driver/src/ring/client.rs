//! The client's side of a ring.
//!
//! A [`Client`] belongs to one thread at a time. What it cannot do is name memory that is not its ring's, or see a result
//! twice; what a driver that it does not trust could do to it is an error, too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use super::layout::{Completion, Entry, Geometry, MAX_RUNS, Place, flag, word};
use super::message::{MemoryName, Message};
use crate::dma::{RegisteredBuffer, RegisteredMemory, SharedMemory};
use crate::embedded;
use crate::scheme::Errno;

/// How long [`Client::wait`] looks for a result before it asks the system to be woken.
const SPIN: Duration = Duration::from_micros(100);
/// Looks between two readings of the clock.
const LOOKS: u32 = 16;

/// Why a ring does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The system has no memory to share.
    #[error("memory for the ring: {0}")]
    Memory(#[from] io::Error),
    /// The driver does not take something.
    #[error("{what}: {errno}")]
    Driver {
        /// What it was asked.
        what: &'static str,
        /// What it answered.
        errno: Errno,
    },
    /// As many entries are prepared as the ring has.
    #[error("the submission ring is full: submit what is prepared, and wait for a result")]
    Full,
    /// Nothing is under way.
    #[error("nothing was submitted that has not been answered, so nothing can be waited for")]
    Idle,
    /// The driver has given the ring up.
    #[error(
        "the driver has given the ring up, since an index in it jumped: something else writes to its memory; open another"
    )]
    Broken,
    /// The driver has ended.
    #[error("the driver has ended or lost its device: what was not answered may or may not have been done")]
    Ended,
}

/// The way to a driver's `N/ring`.
pub trait Transport: Send {
    /// Writes one message; `memory` is what it names.
    ///
    /// # Errors
    /// What the driver answers.
    fn send(&mut self, message: &Message, memory: Option<&Arc<SharedMemory>>) -> Result<(), Errno>;

    /// Sleeps until there are results, and has the driver look for entries.
    ///
    /// # Errors
    /// What the driver answers; `EINTR` if something else happened.
    fn wait(&mut self) -> Result<(), Errno>;
}

/// `N/ring` in this process's own driver.
impl Transport for embedded::Handle {
    fn send(&mut self, message: &Message, memory: Option<&Arc<SharedMemory>>) -> Result<(), Errno> {
        self.share(&message.encode(), memory)
    }

    fn wait(&mut self) -> Result<(), Errno> {
        self.read_at(&mut [0; 8], 0).map(drop)
    }
}

/// `N/ring` of a daemon's tree, opened to be read and written.
#[cfg(any(target_os = "linux", target_os = "redox"))]
impl Transport for std::fs::File {
    fn send(&mut self, message: &Message, _memory: Option<&Arc<SharedMemory>>) -> Result<(), Errno> {
        use std::os::unix::fs::FileExt;
        let bytes = message.encode();
        match self.write_at(&bytes, 0) {
            Ok(len) if len == bytes.len() => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(error) => Err(errno_of(&error)),
        }
    }

    fn wait(&mut self) -> Result<(), Errno> {
        use std::os::unix::fs::FileExt;
        match self.read_at(&mut [0; 8], 0) {
            Ok(8) => Ok(()),
            Ok(_) => Err(Errno::EIO),
            Err(error) => Err(errno_of(&error)),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "redox"))]
fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}

/// How large a ring is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The rings.
    pub geometry: Geometry,
    /// Bytes of data in the ring's own memory, which are buffer 0.
    pub data_bytes: usize,
    /// Be told where its memory is for the device ([`Client::runs`]); for uid 0.
    pub tells_runs: bool,
}

impl Default for Settings {
    /// 64 entries, 128 results, 1 MiB.
    fn default() -> Self {
        Self {
            geometry: Geometry {
                sq_entries: 64,
                cq_entries: 128,
            },
            data_bytes: 1 << 20,
            tells_runs: false,
        }
    }
}

/// A ring.
pub struct Client {
    transport: Box<dyn Transport>,
    /// All buffers by number; that with number 0 has the rings.
    buffers: Vec<Option<Arc<RegisteredMemory>>>,
    memory: Arc<SharedMemory>,
    geometry: Geometry,
    /// Entries prepared, ever, and of these those that the driver may see.
    sq_tail: u32,
    submitted: u32,
    /// Results taken, ever.
    cq_head: u32,
    /// Whether there is a second CPU, so that somebody gets on while this one looks.
    may_spin: bool,
}

impl Client {
    /// Sets a ring up on `transport`, which was just opened.
    ///
    /// # Errors
    /// No memory; what the driver says.
    pub fn open(mut transport: Box<dyn Transport>, settings: Settings) -> Result<Self, RingError> {
        let Settings {
            geometry,
            data_bytes,
            tells_runs,
        } = settings;
        if !geometry.is_valid() {
            let what = "a ring's lengths: powers of two, results at least as many as entries";
            return Err(RingError::Driver {
                what,
                errno: Errno::EINVAL,
            });
        }
        let len_bytes = geometry.data_offset().saturating_add(data_bytes);
        let memory = Arc::new(SharedMemory::create(len_bytes)?);
        let message = Message::Setup {
            geometry,
            memory: name_of(&memory),
            tells_runs,
        };
        let what = "setting the ring up";
        transport
            .send(&message, Some(&memory))
            .map_err(|errno| RingError::Driver { what, errno })?;
        Ok(Self {
            transport,
            buffers: vec![Some(Arc::new(RegisteredMemory::unknown(Arc::clone(&memory))))],
            memory,
            geometry,
            sq_tail: 0,
            submitted: 0,
            cq_head: 0,
            may_spin: crate::cpu::count() > 1,
        })
    }

    /// How long the rings are.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The queue pair that does the ring's requests.
    pub fn qid(&self) -> u16 {
        u16::try_from(self.load(word::QID)).unwrap_or(0)
    }

    /// The CPU that the driver's worker was last seen on; `None` where that is not known. It may move at any time.
    pub fn worker_cpu(&self) -> Option<u32> {
        self.load(word::CPU).checked_sub(1)
    }

    /// `len` bytes of the ring's own data from `offset` on; `None` if they are not all there.
    pub fn buffer(&self, offset: usize, len: usize) -> Option<RegisteredBuffer> {
        let memory = self.buffers.first()?.as_ref()?;
        let offset = self.geometry.data_offset().checked_add(offset)?;
        RegisteredBuffer::new(Arc::clone(memory), offset, len)
    }

    /// How an entry names `buffer`: of this ring, or else one that the driver will refuse.
    pub fn place_of(&self, buffer: &RegisteredBuffer) -> Place {
        let mut buffers = (0..).zip(&self.buffers);
        let found = buffers.find(|(_, memory)| memory.as_ref().is_some_and(|memory| buffer.is_of(memory)));
        Place {
            buffer: found.map_or(u32::MAX, |(index, _)| index),
            address: buffer.offset() as u64,
        }
    }

    /// Registers more memory, as buffer `index`.
    ///
    /// # Errors
    /// What the driver says: `EBUSY` if there is such a buffer.
    pub fn register(
        &mut self,
        index: u32,
        memory: &Arc<SharedMemory>,
        tells_runs: bool,
    ) -> Result<Arc<RegisteredMemory>, RingError> {
        let message = Message::Register {
            index,
            memory: name_of(memory),
            tells_runs,
        };
        self.send("registering memory", &message, Some(memory))?;
        let registered = Arc::new(RegisteredMemory::unknown(Arc::clone(memory)));
        let place = index as usize;
        if self.buffers.len() <= place {
            self.buffers.resize(place + 1, None);
        }
        if let Some(place) = self.buffers.get_mut(place) {
            *place = Some(Arc::clone(&registered));
        }
        Ok(registered)
    }

    /// Takes buffer `index` back, when no command uses it any more.
    ///
    /// # Errors
    /// What the driver says: `EINVAL` if there is no such buffer.
    pub fn unregister(&mut self, index: u32) -> Result<(), RingError> {
        self.send("taking memory back", &Message::Unregister { index }, None)?;
        if let Some(place) = self.buffers.get_mut(index as usize) {
            *place = None;
        }
        Ok(())
    }

    /// Where the memory is for the device that was registered last with the wish to be told: address there and length of
    /// each piece, in order, and whether these are all.
    pub fn runs(&self) -> (Vec<(u64, u64)>, bool) {
        let count = self.load(word::RUN_COUNT) as usize;
        let runs = (0..count.min(MAX_RUNS)).filter_map(|number| {
            let [address, len] = self.memory.load(word::RUNS + number * 16)?;
            Some((address, len))
        });
        (runs.collect(), count <= MAX_RUNS)
    }

    fn send(
        &mut self,
        what: &'static str,
        message: &Message,
        memory: Option<&Arc<SharedMemory>>,
    ) -> Result<(), RingError> {
        self.transport
            .send(message, memory)
            .map_err(|errno| RingError::Driver { what, errno })
    }

    #[inline]
    fn load(&self, offset: usize) -> u32 {
        self.memory
            .word(offset)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    #[inline]
    fn store(&self, offset: usize, value: u32) {
        if let Some(word) = self.memory.word(offset) {
            AtomicU32::store(word, value, Ordering::Release);
        }
    }

    /// Puts an entry into the ring. The driver sees it with the next [`Client::submit`].
    ///
    /// # Errors
    /// [`RingError::Full`].
    #[inline]
    pub fn prepare(&mut self, entry: &Entry) -> Result<(), RingError> {
        let untaken = self.sq_tail.wrapping_sub(self.load(word::SQ_HEAD));
        if untaken >= self.geometry.sq_entries {
            return Err(RingError::Full);
        }
        self.memory
            .store(self.geometry.entry_at(self.sq_tail), entry.encode())
            .ok_or(RingError::Broken)?;
        self.sq_tail = self.sq_tail.wrapping_add(1);
        Ok(())
    }

    /// Lets the driver see all that was prepared, and wakes it if it sleeps.
    ///
    /// # Errors
    /// The ring is over.
    #[inline]
    pub fn submit(&mut self) -> Result<(), RingError> {
        if self.submitted != self.sq_tail {
            self.submitted = self.sq_tail;
            self.store(word::SQ_TAIL, self.sq_tail);
            // The driver says that it sleeps, fences, and looks for entries.
            fence(Ordering::SeqCst);
        }
        match self.load(word::FLAGS) {
            0 => Ok(()),
            flags => self.heed(flags),
        }
    }

    #[cold]
    fn heed(&mut self, flags: u32) -> Result<(), RingError> {
        if flags & flag::BROKEN != 0 {
            return Err(RingError::Broken);
        }
        if flags & flag::ENDED != 0 {
            return Err(RingError::Ended);
        }
        let untaken = self.submitted != self.load(word::SQ_HEAD);
        if flags & flag::NEED_WAKEUP != 0 && untaken {
            self.send("waking the driver", &Message::Wake, None)?;
        }
        Ok(())
    }

    /// Entries that were submitted and whose results have not been taken.
    #[inline]
    pub fn outstanding(&self) -> u32 {
        self.submitted.wrapping_sub(self.cq_head)
    }

    /// The next result, if there is one.
    ///
    /// # Errors
    /// The ring is over, and all that was answered has been taken.
    #[inline]
    pub fn complete(&mut self) -> Result<Option<Completion>, RingError> {
        let available = self.load(word::CQ_TAIL).wrapping_sub(self.cq_head);
        if available == 0 {
            return match self.load(word::FLAGS) {
                0 => Ok(None),
                flags => self.heed(flags).map(|()| None),
            };
        }
        if available > self.geometry.cq_entries || available > self.outstanding() {
            return Err(RingError::Broken);
        }
        let words = self.memory.load(self.geometry.result_at(self.cq_head));
        self.cq_head = self.cq_head.wrapping_add(1);
        self.store(word::CQ_HEAD, self.cq_head);
        words
            .map(|words| Some(Completion::decode(words)))
            .ok_or(RingError::Broken)
    }

    /// The next result, waited for: by looking for a while, then asleep.
    ///
    /// # Errors
    /// [`RingError::Idle`]; as [`Client::complete`].
    pub fn wait(&mut self) -> Result<Completion, RingError> {
        let mut began = None;
        loop {
            if let Some(completion) = self.complete()? {
                return Ok(completion);
            }
            if self.outstanding() == 0 {
                return Err(RingError::Idle);
            }
            let began = began.get_or_insert_with(Instant::now);
            let waited = began.elapsed();
            if !self.may_spin || waited >= SPIN {
                match self.transport.wait() {
                    Ok(()) | Err(Errno::EINTR) => continue,
                    // It has said why in its flags.
                    Err(Errno::EIO | Errno::ESHUTDOWN) if self.is_over() => continue,
                    Err(errno) => {
                        let what = "waiting for a result";
                        return Err(RingError::Driver { what, errno });
                    }
                }
            }
            // The driver may want this very CPU; if nobody does, this comes back at once.
            std::thread::yield_now();
            for _ in 0..LOOKS {
                if self.load(word::CQ_TAIL) != self.cq_head {
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }

    fn is_over(&self) -> bool {
        self.load(word::FLAGS) & (flag::BROKEN | flag::ENDED) != 0
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Client({:?}, {} outstanding)",
            self.geometry,
            self.outstanding()
        )
    }
}

/// How a message names `memory`.
fn name_of(memory: &SharedMemory) -> MemoryName {
    MemoryName {
        #[cfg(target_os = "linux")]
        descriptor: {
            use std::os::fd::AsRawFd;
            memory.descriptor().as_raw_fd().unsigned_abs()
        },
        #[cfg(not(target_os = "linux"))]
        descriptor: 0,
        #[cfg(target_os = "redox")]
        name: memory.name().to_owned(),
        #[cfg(not(target_os = "redox"))]
        name: String::new(),
        len_bytes: memory.len() as u64,
    }
}
