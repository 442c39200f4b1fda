//! The scheme over a driver that is turned by hand.

mod bench;
mod data;
mod disk;
mod documents;
mod events;
mod gate;
mod io;
mod lent;
#[cfg(feature = "nvme-mi")]
mod management;
mod partitions;
mod quotas;
mod rights;
mod scheduler;
mod transactions;
mod tree;
mod zero;

use std::sync::{Arc, Mutex};

use super::fake::Fake;
use super::*;

pub(super) const ROOT: Caller = Caller::root(1);
pub(super) const USER: Caller = Caller::new(1000, 1000, 2);

type Outcome = Result<Reply, Errno>;

/// Answers as they came.
#[derive(Default)]
struct Inbox(Mutex<Vec<(u64, Outcome)>>);

impl Answers for Inbox {
    fn answer(&self, id: u64, result: Outcome) {
        lock(&self.0).push((id, result));
    }
}

/// A scheme, its driver and one client.
struct Desk {
    fake: Arc<Fake>,
    scheme: Arc<Scheme>,
    inbox: Arc<Inbox>,
    calls: std::cell::Cell<u64>,
}

impl Desk {
    fn new(shapes: &[(u32, u64)]) -> Self {
        Self::over(Fake::new(shapes))
    }

    fn over(fake: Arc<Fake>) -> Self {
        let scheme = Scheme::new(Arc::clone(&fake));
        Self {
            fake,
            scheme,
            inbox: Arc::default(),
            calls: std::cell::Cell::new(0),
        }
    }

    /// Makes a call and says under which number.
    fn call(&self, call: Call) -> u64 {
        let id = self.calls.get();
        self.calls.set(id + 1);
        let answers: Arc<dyn Answers> = Arc::clone(&self.inbox) as _;
        self.scheme.call(id, call, &answers);
        id
    }

    /// The answers that came since the last look.
    fn take(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut *lock(&self.inbox.0))
    }

    /// The one answer that came since the last look, if any.
    fn one(&self) -> Option<Outcome> {
        let mut answers = self.take();
        assert!(answers.len() <= 1, "{answers:?}");
        answers.pop().map(|(_, outcome)| outcome)
    }

    /// Makes a call that is answered before it returns.
    fn now(&self, call: Call) -> Outcome {
        assert!(self.take().is_empty());
        self.call(call);
        self.one().expect("an answer at once")
    }

    fn open_as(&self, path: &str, flags: OpenFlags, caller: Caller) -> Result<HandleId, Errno> {
        match self.now(Call::Open {
            path: path.to_owned(),
            flags,
            caller,
        })? {
            Reply::Opened(handle) => Ok(handle),
            other => panic!("{other:?}"),
        }
    }

    fn open(&self, path: &str) -> HandleId {
        let flags = match path {
            "1" | "1/data" | "1/bench" | "1/io" | "controller/admin" => OpenFlags::READ_WRITE,
            _ => OpenFlags::READ,
        };
        self.open_as(path, flags, ROOT).expect(path)
    }

    fn read(&self, handle: HandleId, offset: u64, len: usize) -> u64 {
        self.call(Call::Read {
            handle,
            offset,
            buffer: vec![0xEE; len],
        })
    }

    fn write(&self, handle: HandleId, offset: u64, data: &[u8]) -> u64 {
        self.call(Call::Write {
            handle,
            offset,
            data: data.to_vec(),
        })
    }

    /// Reads what is there at once.
    fn read_now(&self, handle: HandleId, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        assert!(self.take().is_empty());
        self.read(handle, offset, len);
        bytes(self.one().expect("an answer at once"))
    }
}

/// The bytes of a read's answer.
fn bytes(outcome: Outcome) -> Result<Vec<u8>, Errno> {
    match outcome? {
        Reply::Read { mut buffer, len } => {
            buffer.truncate(len);
            Ok(buffer)
        }
        other => panic!("{other:?}"),
    }
}

fn written(outcome: Outcome) -> Result<usize, Errno> {
    match outcome? {
        Reply::Written { len, .. } => Ok(len),
        other => panic!("{other:?}"),
    }
}
