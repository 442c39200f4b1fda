//! Any bytes as a sequence of calls: what a client may do, and how a driver may answer.
//!
//! [`run`] is what the fuzz target `scheme_requests` calls; the tests call it with random bytes. Whatever
//! happens: nothing panics, every call is answered once, and when everything is closed nothing is left.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nvme_spec::Status;

use super::fake::{Fake, namespace};
use super::service::{Failure, IoError};
use super::{
    Answers, Call, Caller, Errno, HandleId, MAX_TRANSFER_BYTES, OpenFlags, Ownership, Permissions, Reply,
    Scheme, lock,
};

/// The most steps of one run.
const MAX_STEPS: usize = 400;
/// The longest read or write of one step.
const MAX_LEN: usize = 40_000;

/// Does what `bytes` say.
///
/// # Panics
/// If a promise of the scheme does not hold.
pub fn run(bytes: &[u8]) {
    let mut bench = Bench::new();
    let mut input = Input(bytes);
    for _ in 0..MAX_STEPS {
        if input.0.is_empty() {
            break;
        }
        bench.step(&mut input);
        bench.look();
    }
    let (fake, scheme) = (Arc::downgrade(&bench.fake), Arc::downgrade(&bench.scheme));
    bench.end();
    assert!(
        scheme.upgrade().is_none(),
        "nothing that is over keeps the scheme"
    );
    assert!(fake.upgrade().is_none(), "nor the driver");
}

/// What is left of the bytes; zeroes after their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Mostly where something is: near the ends of the small namespaces, of blocks and of partitions.
    fn offset(&mut self) -> u64 {
        match self.byte() % 4 {
            0 => u64::from(self.short()),
            1 => u64::from(self.byte() % 17) * 4096,
            2 => (u64::from(self.byte() % 17) * 4096).wrapping_sub(u64::from(self.byte())),
            _ => u64::from_le_bytes(self.bytes()),
        }
    }

    fn len(&mut self) -> usize {
        match self.byte() % 3 {
            0 => usize::from(self.byte()),
            1 => usize::from(self.byte() % 9) * 4096,
            _ => usize::from(self.short()).min(MAX_LEN),
        }
    }

    fn path(&mut self) -> String {
        const KNOWN: [&str; 32] = [
            "",
            "1",
            "1/",
            "1/data",
            "2/data",
            "2",
            "3",
            "3/data",
            "1p1",
            "1p2/data",
            "1p2/",
            "1p5",
            "1p6",
            "2p1",
            "1?prio=high&deadline_us=9",
            "1p1?prio=low",
            "1/stats",
            "2/stats?light",
            "1/identify",
            "1/bench",
            "2/bench",
            "1/io",
            "controller",
            "controller/admin",
            "controller/identify",
            "controller/log/smart",
            "controller/log/error",
            "controller/events",
            "controller/scheduler",
            "controller/slow",
            "controller/mi/vpd",
            "controller/mi/request",
        ];
        let which = usize::from(self.byte());
        match KNOWN.get(which % 40) {
            Some(known) => (*known).to_owned(),
            None => {
                let len = usize::from(self.byte() % 24);
                let text: Vec<u8> = (0..len).map(|_| self.byte()).collect();
                String::from_utf8_lossy(&text).into_owned()
            }
        }
    }

    fn caller(&mut self) -> Caller {
        let byte = self.byte();
        Caller {
            groups: vec![u32::from(byte >> 4)],
            ..Caller::new(u32::from(byte % 3), u32::from(byte >> 2 & 3), 1)
        }
    }

    fn data(&mut self) -> Vec<u8> {
        match self.byte() % 6 {
            0 => {
                let len = self.len();
                vec![self.byte(); len]
            }
            1 => {
                let len = usize::from(self.byte());
                (0..len).map(|_| self.byte()).collect()
            }
            2 => {
                let mut entry = vec![0; 64];
                entry[0] = self.byte();
                entry[24..26].copy_from_slice(&self.bytes::<2>());
                entry[40..44].copy_from_slice(&self.bytes::<4>());
                entry
            }
            3 => br#"{"schema":"nvme-bench-job","version":"1.0","pattern":"read","block_bytes":4096,"queue_depth":1,"ios":1}"#.to_vec(),
            4 => b"stop".to_vec(),
            _ => {
                let entries = self.bytes::<12>();
                record(&[[entries[0], entries[1], entries[2]], [entries[3], entries[4], entries[5]]])
            }
        }
    }

    fn error(&mut self) -> IoError {
        match self.byte() % 5 {
            0 => IoError::Lost,
            1 => IoError::Busy,
            2 => IoError::Stopped,
            3 => IoError::OutOfRange,
            _ => IoError::Status(Status(self.short() & 0x7FFF)),
        }
    }
}

/// A block of 4096 bytes with a boot record: type, first block and length of each entry.
fn record(entries: &[[u8; 3]]) -> Vec<u8> {
    let mut record = vec![0; 4096];
    for (entry, [kind, start, blocks]) in record[446..510].chunks_mut(16).zip(entries) {
        (entry[4], entry[8], entry[12]) = (*kind, *start, *blocks);
    }
    record[510..512].copy_from_slice(&[0x55, 0xAA]);
    record
}

/// What each call was, as far as its answer depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Open,
    Read { len: usize },
    Write { len: usize },
    Stat,
    List,
    Other,
}

/// The answers, counted.
#[derive(Default)]
struct Inbox(Mutex<Received>);

#[derive(Default)]
struct Received {
    asked: HashMap<u64, Asked>,
    /// Handles that nobody has looked at yet.
    opened: Vec<HandleId>,
}

impl Answers for Inbox {
    fn answer(&self, id: u64, result: Result<Reply, Errno>) {
        let mut received = lock(&self.0);
        let asked = received
            .asked
            .remove(&id)
            .expect("an answer to a call that is out");
        match (asked, result) {
            (_, Err(errno)) => assert!(errno.0 > 0),
            (Asked::Open, Ok(Reply::Opened(handle))) => received.opened.push(handle),
            (Asked::Read { len: asked }, Ok(Reply::Read { buffer, len })) => {
                assert!(buffer.len() == asked && len <= asked.min(MAX_TRANSFER_BYTES));
            }
            (Asked::Write { len: asked }, Ok(Reply::Written { buffer, len })) => {
                assert!(buffer.len() == asked && len <= asked.min(MAX_TRANSFER_BYTES));
            }
            (Asked::Stat, Ok(Reply::Stat(stat))) => assert!(stat.block_bytes.is_power_of_two()),
            (Asked::List, Ok(Reply::List(entries))) => assert!(!entries.is_empty()),
            (Asked::Other, Ok(Reply::Done)) => {}
            (_, Ok(reply)) => panic!("not what was asked: {reply:?}"),
        }
    }
}

/// A scheme, its driver and its clients.
struct Bench {
    fake: Arc<Fake>,
    scheme: Arc<Scheme>,
    inbox: Arc<Inbox>,
    calls: u64,
    handles: Vec<HandleId>,
    /// Benchmarks that were told that they have ended.
    ended: usize,
}

impl Bench {
    fn new() -> Self {
        let mut identify = [0; 4096];
        // ONCS: Write Zeroes and Dataset Management.
        identify[520] = 0b1100;
        let fake = Fake::with(&[(12, 16), (9, 64), (12, 0)], identify, 1 << 20);
        let mut disk = record(&[[0x83, 2, 3], [0x83, 5, 2], [0x05, 8, 8]]);
        disk.resize(8 * 4096, 7);
        disk.extend(record(&[[0x83, 1, 2], [0x05, 4, 4]]));
        disk.resize(12 * 4096, 7);
        disk.extend(record(&[[0x83, 1, 3]]));
        disk.resize(16 * 4096, 7);
        fake.fill(1, &disk);
        let disks = Ownership {
            mode: 0o640,
            uid: 1,
            gid: 2,
        };
        Self {
            scheme: Scheme::with_ownership(Arc::clone(&fake), disks),
            fake,
            inbox: Arc::default(),
            calls: 0,
            handles: vec![HandleId(u64::MAX)],
            ended: 0,
        }
    }

    fn call(&mut self, asked: Asked, call: Call) {
        self.calls += 1;
        lock(&self.inbox.0).asked.insert(self.calls, asked);
        let answers: Arc<dyn Answers> = Arc::clone(&self.inbox) as _;
        self.scheme.call(self.calls, call, &answers);
    }

    fn pick(&self, input: &mut Input<'_>) -> HandleId {
        let which = usize::from(input.byte());
        self.handles[which % self.handles.len()]
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 20 {
            0..=2 => {
                let path = input.path();
                let bits = input.byte();
                let flags = OpenFlags {
                    read: bits & 1 == 0,
                    write: bits & 2 != 0,
                    directory: bits & 28 == 28,
                };
                let caller = input.caller();
                self.call(Asked::Open, Call::Open { path, flags, caller });
            }
            3 => {
                let (path, directory) = (input.path(), input.flag());
                self.call(Asked::Stat, Call::Lookup { path, directory });
            }
            4 => {
                let (path, caller) = (input.path(), input.caller());
                let some = |value: u16, bits: u8, bit: u8| (bits & bit != 0).then_some(value);
                let bits = input.byte();
                let change = Permissions {
                    mode: some(input.short(), bits, 1),
                    uid: some(input.short() % 3, bits, 2).map(u32::from),
                    gid: some(input.short() % 3, bits, 4).map(u32::from),
                };
                self.call(Asked::Stat, Call::Permit { path, caller, change });
            }
            5 | 6 => {
                let (handle, offset, len) = (self.pick(input), input.offset(), input.len());
                let buffer = vec![0; len];
                self.call(
                    Asked::Read { len },
                    Call::Read {
                        handle,
                        offset,
                        buffer,
                    },
                );
            }
            7 | 8 => {
                let (handle, offset, data) = (self.pick(input), input.offset(), input.data());
                let len = data.len();
                self.call(Asked::Write { len }, Call::Write { handle, offset, data });
            }
            9 => {
                let handle = self.pick(input);
                self.call(Asked::Other, Call::Sync { handle });
            }
            10 => {
                let (handle, offset) = (self.pick(input), input.offset());
                let (len_bytes, deallocate) = (input.offset(), input.flag());
                self.call(
                    Asked::Other,
                    Call::Zero {
                        handle,
                        offset,
                        len_bytes,
                        deallocate,
                    },
                );
            }
            11 => {
                let handle = self.pick(input);
                self.call(Asked::Stat, Call::Stat { handle });
            }
            12 => {
                let handle = self.pick(input);
                self.call(Asked::List, Call::List { handle });
            }
            13 => {
                let handle = self.pick(input);
                self.call(Asked::Other, Call::Close { handle });
            }
            14 | 15 => {
                self.fake.complete(usize::from(input.byte()));
            }
            16 => {
                let which = usize::from(input.byte());
                self.fake.answer(which, Err(input.error()));
            }
            17 if !self.fake.admin_out().is_empty() => match input.byte() % 3 {
                0 => self.fake.fail_admin(input.error()),
                1 => self.fake.drop_admin(),
                _ => self
                    .fake
                    .complete_admin(Status(input.short() & 0x7FFF & 0x0102), input.byte()),
            },
            18 => self.end_benchmark(),
            _ => self.happen(input),
        }
    }

    /// What no client does.
    fn happen(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 => self.scheme.wake_readers(),
            1 | 2 => {
                let busy = self.fake.busy.load(Ordering::Relaxed);
                self.fake.busy.store(!busy, Ordering::Relaxed);
            }
            3 => {
                let (shift, blocks) = match input.byte() % 4 {
                    0 => (12, 16),
                    1 => (12, 6),
                    2 => (9, 128),
                    _ => (12, 0),
                };
                self.fake
                    .set_namespaces(vec![namespace(1, shift, blocks), namespace(2, 9, 64)]);
            }
            4 => self.fake.set_namespaces(vec![namespace(2, 9, 64)]),
            _ => {
                self.fake.complete_all();
            }
        }
    }

    fn end_benchmark(&mut self) {
        if let Some(benchmark) = self.fake.benchmarks().get(self.ended) {
            self.ended += 1;
            benchmark.listener.ended(Err(Failure::Io(IoError::Lost)));
        }
    }

    /// Takes the handles that came.
    fn look(&mut self) {
        let opened = std::mem::take(&mut lock(&self.inbox.0).opened);
        assert!(
            opened.iter().all(|handle| !self.handles.contains(handle)),
            "a number is given once"
        );
        self.handles.extend(opened);
        let out = lock(&self.inbox.0).asked.len();
        assert_eq!(self.scheme.outstanding_calls(), out);
    }

    /// Lets everything end, and checks that nothing is left.
    fn end(mut self) {
        self.fake.busy.store(false, Ordering::Relaxed);
        let drained = |fake: &Fake| {
            fake.complete_all();
            while !fake.admin_out().is_empty() {
                fake.complete_admin(Status::SUCCESS, 1);
            }
        };
        drained(&self.fake);
        self.look();
        for handle in std::mem::take(&mut self.handles) {
            self.call(Asked::Other, Call::Close { handle });
        }
        drained(&self.fake);
        for _ in 0..self.fake.benchmarks().len() {
            self.end_benchmark();
        }
        assert!(lock(&self.inbox.0).asked.is_empty(), "every call is answered");
        assert_eq!(self.scheme.open_handles(), 0);
        assert_eq!(self.fake.out(), 0);
        assert!(self.scheme.clients.are_idle(), "everything was given back");

        // No lock was left behind, and the tree is as good as new.
        self.fake.set_namespaces(vec![namespace(1, 12, 16)]);
        let flags = OpenFlags::READ_WRITE;
        let path = "1/data".to_owned();
        let caller = Caller::root(1);
        self.call(Asked::Open, Call::Open { path, flags, caller });
        let handle = lock(&self.inbox.0).opened.pop().expect("it opens");
        let data = vec![5; 60_000];
        let len = data.len();
        self.call(
            Asked::Write { len },
            Call::Write {
                handle,
                offset: 1,
                data,
            },
        );
        self.fake.complete_all();
        assert!(lock(&self.inbox.0).asked.is_empty());
        assert!(self.fake.disk(1)[1..=len] == vec![5; len]);
        self.call(Asked::Other, Call::Close { handle });
        assert!(self.scheme.clients.are_idle());
        self.fake.forget_benchmarks();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn any_bytes_are_a_sequence_of_calls_that_ends_well(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            super::run(&bytes);
        }
    }
}
