//! The scheme over the driver on the emulated controller, all with their threads.
#![forbid(unsafe_code)]

mod admin;
mod bench;
mod data;
mod documents;
mod events;
mod failure;
mod io;
mod partitions;
mod slow;

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use nvme_driver::Config;
use nvme_driver::embedded::{self, Client, EmbeddedDriver, Handle};
use nvme_driver::scheme::{Answers, Call, Caller, Errno, HandleId, OpenFlags, Reply, Scheme};

/// A driver with two queues on a device of `spec`.
fn start(spec: &str) -> EmbeddedDriver {
    embedded::start(
        spec,
        &Config {
            num_queues: 2,
            ..Config::default()
        },
    )
    .expect("the driver comes up")
}

const ROOT: Caller = Caller::root(1);

fn root(driver: &EmbeddedDriver) -> Client {
    driver.client(0, 0, std::process::id())
}

fn user(driver: &EmbeddedDriver) -> Client {
    driver.client(1000, 1000, std::process::id())
}

/// All that a document has to say, read in pieces of `piece_bytes`.
fn read_all(handle: &Handle, piece_bytes: usize) -> Result<Vec<u8>, Errno> {
    let (mut text, mut piece) = (Vec::new(), vec![0; piece_bytes]);
    loop {
        match handle.read_at(&mut piece, text.len() as u64)? {
            0 => return Ok(text),
            len => text.extend_from_slice(&piece[..len]),
        }
    }
}

fn document(client: &Client, path: &str) -> Result<Vec<u8>, Errno> {
    read_all(&client.open(path, OpenFlags::READ)?, 4096)
}

type Outcome = Result<Reply, Errno>;

/// Makes calls that nobody waits for, and collects their answers.
struct Desk {
    scheme: Arc<Scheme>,
    inbox: Arc<dyn Answers>,
    answers: Receiver<(u64, Outcome)>,
}

struct Inbox(Mutex<Sender<(u64, Outcome)>>);

impl Answers for Inbox {
    fn answer(&self, id: u64, result: Outcome) {
        // A test that has failed already does not listen any more.
        let _ = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send((id, result));
    }
}

impl Desk {
    fn new(driver: &EmbeddedDriver) -> Self {
        Self::over(Arc::clone(driver.scheme()))
    }

    fn over(scheme: Arc<Scheme>) -> Self {
        let (sender, answers) = channel();
        Self {
            scheme,
            inbox: Arc::new(Inbox(Mutex::new(sender))),
            answers,
        }
    }

    fn call(&self, id: u64, call: Call) {
        self.scheme.call(id, call, &self.inbox);
    }

    fn read(&self, id: u64, handle: HandleId, offset: u64, len_bytes: usize) {
        self.call(
            id,
            Call::Read {
                handle,
                offset,
                buffer: vec![0; len_bytes],
            },
        );
    }

    fn write(&self, id: u64, handle: HandleId, offset: u64, data: Vec<u8>) {
        self.call(id, Call::Write { handle, offset, data });
    }

    fn next(&self) -> (u64, Outcome) {
        self.answers
            .recv_timeout(nvme_tests::PATIENCE)
            .expect("an answer comes")
    }
}
