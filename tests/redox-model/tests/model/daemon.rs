//! A scheme that keeps bytes: the least that a daemon can be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nvme_driver::redox::System;
use nvme_redox_model::Machine;
use syscall::data::Event;
use syscall::error::{EAGAIN, EINVAL, ENOSYS, Error, Result};
use syscall::flag::EventFlags;
use syscall::schemev2::{Cqe, CqeOpcode, Opcode, Sqe};

pub const ROOT: usize = 7;
pub const FILE: usize = 8;

/// A daemon's socket, with a queue of events to wait for it.
pub struct Daemon {
    pub system: Arc<dyn System>,
    pub socket: usize,
    queue: usize,
}

pub fn answer(sqe: &Sqe, result: Result<usize>) -> Cqe {
    Cqe {
        flags: CqeOpcode::RespondRegular as u8,
        extra_raw: [0; 3],
        tag: sqe.tag,
        result: Error::mux(result) as u64,
    }
}

impl Daemon {
    pub fn new(machine: &Machine, name: &str) -> Self {
        let system = machine.system();
        let socket = system.create_scheme().unwrap();
        let queue = system.open("/scheme/event", syscall::O_RDWR).unwrap();
        let subscribe = Event {
            id: socket,
            flags: EventFlags::EVENT_READ,
            data: 1,
        };
        assert_eq!(system.write(queue, &subscribe), Ok(size_of::<Event>()));
        system.register_scheme(socket, name, ROOT).unwrap();
        Self {
            system,
            socket,
            queue,
        }
    }

    /// At most `N` requests, waiting for the first.
    pub fn take<const N: usize>(&self) -> Vec<Sqe> {
        loop {
            match self.try_take::<N>() {
                Ok(taken) => return taken,
                Err(error) => assert_eq!(error.errno, EAGAIN),
            }
            let mut event = Event::default();
            assert_eq!(self.system.read(self.queue, &mut event), Ok(size_of::<Event>()));
            assert_eq!((event.id, event.data), (self.socket, 1));
        }
    }

    pub fn try_take<const N: usize>(&self) -> Result<Vec<Sqe>> {
        let mut bytes = vec![0; N * size_of::<Sqe>()];
        let count = self.system.read(self.socket, &mut bytes)?;
        let entries = bytes[..count].chunks_exact(size_of::<Sqe>());
        Ok(entries
            .map(|entry| {
                let mut sqe = Sqe::default();
                sqe.copy_from_slice(entry);
                sqe
            })
            .collect())
    }

    pub fn answer(&self, answers: &[Cqe]) -> Result<usize> {
        let bytes: Vec<u8> = answers.iter().flat_map(|cqe| cqe.to_vec()).collect();
        Ok(self.system.write(self.socket, &bytes)? / size_of::<Cqe>())
    }

    /// The next request, which is `opcode`.
    pub fn take_one(&self, opcode: Opcode) -> Sqe {
        let taken = self.take::<1>();
        assert_eq!(taken[0].opcode, opcode as u8, "{taken:?}");
        taken[0]
    }

    /// For a scope with clients in it: a test that fails lets them go, so that it ends.
    pub fn guard(&self) -> Guard<'_> {
        Guard(self)
    }
}

/// A daemon that goes when its test fails.
pub struct Guard<'a>(&'a Daemon);

impl std::ops::Deref for Guard<'_> {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        self.0
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.system.close(self.0.socket);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.system.close(self.queue);
        self.system.close(self.socket);
    }
}

/// The payload of a request as the daemon sees it.
pub fn payload<'a>(sqe: Sqe) -> &'a mut [u8] {
    // SAFETY: lent by the model until the request is answered, which these tests do afterwards.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(sqe.args[1] as *mut u8, sqe.args[2] as usize)
    }
}

/// Bytes of one file, kept by a daemon of several threads, that answers out of order.
pub struct Keeper {
    stop: Arc<AtomicBool>,
    daemon: Arc<Daemon>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Keeper {
    pub fn start(machine: &Machine, name: &str, len_bytes: usize, threads: u64) -> Self {
        let daemon = Arc::new(Daemon::new(machine, name));
        let kept = Arc::new(Mutex::new(vec![0_u8; len_bytes]));
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |seed| {
            let (daemon, kept, stop) = (Arc::clone(&daemon), Arc::clone(&kept), Arc::clone(&stop));
            std::thread::spawn(move || keep(&daemon, &kept, &stop, seed))
        };
        Self {
            threads: (0..threads).map(spawn).collect(),
            stop,
            daemon,
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Events are not merged: as many bytes, as many events, and each thread takes one.
        let system = &self.daemon.system;
        let pipe = system.open("/scheme/pipe", 0).unwrap();
        let writer = system.dup(pipe, b"write").unwrap();
        let subscribe = Event {
            id: pipe,
            flags: EventFlags::EVENT_READ,
            data: 2,
        };
        system.write(self.daemon.queue, &subscribe).unwrap();
        for _ in &self.threads {
            system.write(writer, b"x").unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        system.close(writer);
        system.close(pipe);
    }
}

fn keep(daemon: &Daemon, kept: &Mutex<Vec<u8>>, stop: &AtomicBool, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    while !stop.load(Ordering::Acquire) {
        let Ok(taken) = daemon.try_take::<8>() else {
            let mut event = Event::default();
            daemon.system.read(daemon.queue, &mut event).unwrap();
            continue;
        };
        let mut answers: Vec<Cqe> = taken
            .iter()
            .filter(|sqe| sqe.opcode != Opcode::CloseMsg as u8)
            .map(|sqe| answer(sqe, handle(sqe, &mut kept.lock().unwrap())))
            .collect();
        random.shuffle(&mut answers);
        assert_eq!(daemon.answer(&answers), Ok(answers.len()));
    }
}

fn handle(sqe: &Sqe, kept: &mut [u8]) -> Result<usize> {
    let at = sqe.args[3] as usize..(sqe.args[3] + sqe.args[2]) as usize;
    match Opcode::try_from_raw(sqe.opcode) {
        Some(Opcode::OpenAt) => Ok(FILE),
        Some(Opcode::Read) => {
            payload(*sqe).copy_from_slice(kept.get(at).ok_or(Error::new(EINVAL))?);
            Ok(sqe.args[2] as usize)
        }
        Some(Opcode::Write) => {
            kept.get_mut(at)
                .ok_or(Error::new(EINVAL))?
                .copy_from_slice(payload(*sqe));
            Ok(sqe.args[2] as usize)
        }
        _ => Err(Error::new(ENOSYS)),
    }
}
