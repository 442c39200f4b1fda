//! A server on a socket of its own, a client that is written by hand, and a driver whose requests are counted.

use std::io::{PipeWriter, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nvme_driver::backend::vfio_user::VfioUserBackend;
use nvme_driver::clock::Clock;
use nvme_driver::config::{PollingMode, SchedulerKind};
use nvme_driver::driver::Hint;
use nvme_driver::vfio_user::channel::{Channel, Message, Others};
use nvme_driver::vfio_user::server::{Server, Trust};
use nvme_driver::vfio_user::wire::{Capabilities, Request, Version};
use nvme_driver::worker::{Answer, Remote};
use nvme_driver::{Buffer, Config, Controller, Driver, Finished, IoError, Op};
use nvme_emulator::Emulator;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// After this something hangs. Nothing else depends on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that is removed again.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nvme-vfio-user-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server on a thread. Dropped, it ends.
pub struct Served {
    pub socket: PathBuf,
    pub emulator: Arc<Emulator>,
    stop: PipeWriter,
    thread: Option<JoinHandle<()>>,
    _folder: Folder,
}

impl Served {
    pub fn start(spec: &str) -> Self {
        let folder = Folder::new();
        let socket = folder.path("nvme.sock");
        let mut server =
            Server::bind(&socket, spec.parse().unwrap(), Trust::Sealed, Clock::system()).unwrap();
        let (stopped, stop) = pipe().unwrap();
        let emulator = Arc::clone(server.emulator());
        let thread = std::thread::spawn(move || server.serve(stopped.as_fd()).unwrap());
        Self {
            socket,
            emulator,
            stop,
            thread: Some(thread),
            _folder: folder,
        }
    }

    /// Ends the server, whoever is connected.
    pub fn stop(&mut self) {
        let _ = self.stop.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.stop.write_all(&[0]);
        // A server that hangs has failed the test already.
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

/// A client that sends what a test wants.
pub struct Hand {
    pub channel: Channel,
    next: u16,
}

impl Hand {
    /// Connected, and nothing said. Our server sends clients away while it still takes leave of the last one.
    pub fn connect(socket: &Path) -> Self {
        Self {
            channel: Channel::new(UnixStream::connect(socket).unwrap().into(), PATIENCE),
            next: 0,
        }
    }

    /// Connected, and versions exchanged.
    pub fn greeted(socket: &Path) -> Self {
        let mut hand = Self::connect(socket);
        let version = Request::Version(Version { major: 0, minor: 1 }, Capabilities::default());
        hand.ask(&version, &[]).unwrap();
        hand
    }

    /// Sends `request`; the payload of the answer, or the errno of an error reply.
    pub fn ask(&mut self, request: &Request<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<Vec<u8>, u32> {
        self.ask_all(request, descriptors).map(|message| message.payload)
    }

    pub fn ask_all(&mut self, request: &Request<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<Message, u32> {
        let (command, payload) = request.encode();
        self.next += 1;
        self.channel
            .command(self.next, command, &payload, descriptors)
            .unwrap();
        let answer = self.channel.receive(Some(PATIENCE), Others::default()).unwrap();
        assert!(answer.header.is_reply());
        assert_eq!(
            (answer.header.id, answer.header.command),
            (self.next, command as u16)
        );
        match answer.header.failure() {
            Some(errno) => {
                assert!(answer.payload.is_empty());
                Err(errno)
            }
            None => Ok(answer),
        }
    }
}

pub fn memfd(len: u64) -> OwnedFd {
    let file = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&file, len).unwrap();
    file
}

/// A driver, and the answers to its requests.
pub struct Client {
    pub driver: Driver,
    sender: Sender<Finished<()>>,
    answers: Receiver<Finished<()>>,
    clock: Clock,
}

struct ToChannel(Sender<Finished<()>>);

impl Answer for ToChannel {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        let _ = self.0.send(finished);
    }
}

impl Client {
    pub fn open(socket: &Path, polling: PollingMode, queues: u16) -> Self {
        let clock = Clock::system();
        let backend = VfioUserBackend::connect(socket).unwrap();
        let config = Config {
            polling: polling.into(),
            num_queues: queues,
            scheduler: SchedulerKind::RoundRobin,
            ..Config::default()
        };
        let driver = Driver::start(Controller::open(backend, &config, clock.clone()).unwrap()).unwrap();
        let (sender, answers) = channel();
        Self {
            driver,
            sender,
            answers,
            clock,
        }
    }

    pub fn submit(&self, op: Op, slba: u64, blocks: u64, buffer: Buffer) {
        self.driver.submit(
            Hint::default(),
            nvme_driver::Request {
                op,
                nsid: 1,
                slba,
                blocks,
                buffer,
                arrived_ns: self.clock.now_ns(),
                context: Remote {
                    sink: Arc::new(ToChannel(self.sender.clone())),
                    tag: 0,
                },
            },
        );
    }

    /// The next answer.
    pub fn answer(&self) -> Finished<()> {
        match self.answers.recv_timeout(PATIENCE) {
            Ok(finished) => finished,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                panic!("a request is never answered")
            }
        }
    }

    pub fn write(&self, slba: u64, data: Vec<u8>, lba_bytes: usize) -> Result<(), IoError> {
        let blocks = (data.len() / lba_bytes) as u64;
        self.submit(Op::Write { fua: false }, slba, blocks, Buffer::heap(data));
        self.answer().result
    }

    pub fn read(&self, slba: u64, len: usize, lba_bytes: usize) -> Result<Vec<u8>, IoError> {
        self.submit(
            Op::Read,
            slba,
            (len / lba_bytes) as u64,
            Buffer::heap(vec![0xEE; len]),
        );
        let finished = self.answer();
        finished.result.map(|()| finished.buffer.as_slice().to_vec())
    }

    /// Writes all of the first `blocks` blocks of 4096 bytes in a seeded order and in several sizes over all queues, many
    /// at a time, then reads all back in another order, and compares.
    pub fn verify(&self, seed: u64, blocks: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        for write in [true, false] {
            let mut pieces = Vec::new();
            let mut at = 0;
            while at < blocks {
                let len = [1, 1, 2, 8, 33, 300][random.usize(..6)].min(blocks - at);
                pieces.push((at, len));
                at += len;
            }
            random.shuffle(&mut pieces);
            let total = pieces.len();
            let (mut sent, mut answered) = (0, 0);
            while answered < total {
                while sent < total && sent - answered < 64 {
                    let (slba, len) = pieces[sent];
                    let op = if write { Op::Write { fua: false } } else { Op::Read };
                    let data = if write {
                        (slba..slba + len)
                            .flat_map(|block| content(seed, block))
                            .collect()
                    } else {
                        vec![0; len as usize * 4096]
                    };
                    self.submit(op, slba, len, Buffer::heap(data));
                    sent += 1;
                }
                let finished = self.answer();
                answered += 1;
                assert_eq!(finished.result, Ok(()), "{:?} at {}", finished.op, finished.slba);
                if !write {
                    let data = finished.buffer.as_slice();
                    for (block, found) in (finished.slba..).zip(data.chunks(4096)) {
                        assert!(found == content(seed, block), "block {block}");
                    }
                }
            }
        }
    }
}

/// What a block holds.
pub fn content(seed: u64, block: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed ^ block << 20);
    (0..512).flat_map(|_| random.u64(..).to_le_bytes()).collect()
}
