//! A client that does what any bytes say: to its ring's pages, to its buffers, and to its handle.
//!
//! [`run`] is what the fuzz target `ring` calls; the tests call it with random bytes. Whatever happens: nothing panics, every
//! turn ends, another ring and a client without one are served, the device is never sent anywhere but to memory that was
//! registered, and when the ring is closed its memory is given back.

use std::sync::Arc;

use super::layout::{DEVICE_ADDRESS, Entry, Place, word};
use super::rig::{ALL, Rig, Ring};
use crate::dma::SharedMemory;

/// The most steps of one run.
const MAX_STEPS: usize = 300;
/// Looks for what another thread does, before it has failed to.
const LONG: u32 = 20_000_000;
const WORDS: [usize; 8] = [
    word::SQ_TAIL,
    word::CQ_HEAD,
    word::SQ_HEAD,
    word::CQ_TAIL,
    word::FLAGS,
    word::SQ_ENTRIES,
    word::SQ_OFFSET,
    word::RUN_COUNT,
];

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

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Mostly a little more than `from`.
    fn index(&mut self, from: u32) -> u32 {
        match self.byte() {
            0 => self.word() as u32,
            1 => u32::MAX,
            more => from.wrapping_add(u32::from(more % 11)),
        }
    }

    /// Mostly one that makes sense.
    fn entry(&mut self) -> Entry {
        if self.byte().is_multiple_of(4) {
            return Entry::decode(std::array::from_fn(|_| self.word()));
        }
        let address = match self.byte() % 4 {
            0 => self.word(),
            1 => (1 << 44 | u64::from(self.byte()) << 12) | DEVICE_ADDRESS,
            _ => u64::from(self.byte()) << 9,
        };
        let place = Place {
            buffer: u32::from(self.byte() % 4),
            address,
        };
        let (slba, blocks) = (u64::from(self.byte()), u32::from(self.byte() % 5));
        let mut entry = Entry::read(slba, blocks, place);
        entry.opcode = self.byte() % 9;
        entry.flags = self.byte() % 4;
        entry
    }
}

/// Does what `bytes` say.
///
/// # Panics
/// If a promise does not hold.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut rig = Rig::new();
    let mut honest = rig.ring(ALL);
    let mut ring = rig.ring(ALL);
    ring.registered = None;
    let mut registered = Vec::new();
    for step in 0..MAX_STEPS {
        if input.0.is_empty() {
            break;
        }
        match input.byte() % 12 {
            0..4 => {
                let at = ring.geometry.entry_at(u32::from(input.byte()));
                ring.memory.store(at, input.entry().encode()).expect("inside");
                let tail = input.index(ring.load(word::SQ_TAIL));
                ring.store(word::SQ_TAIL, tail);
            }
            4 => ring.store(word::CQ_HEAD, {
                let tail = ring.load(word::CQ_TAIL);
                if input.byte().is_multiple_of(8) {
                    input.index(tail)
                } else {
                    tail
                }
            }),
            5 => {
                let word = WORDS[usize::from(input.byte()) % WORDS.len()];
                let value = input.index(ring.load(word));
                ring.store(word, value);
            }
            6 => {
                let at = (input.word() as usize % ring.memory.len()) & !7;
                let _ = ring.memory.store(at, [input.word()]);
            }
            7 => {
                let memory = Arc::new(SharedMemory::create(8192).expect("memory"));
                registered.push(Arc::downgrade(&memory));
                let (_, then) = Ring::told();
                ring.shared.register(
                    u32::from(input.byte() % 5),
                    rig.driver.register(&memory),
                    true,
                    then,
                );
            }
            8 => {
                let (_, then) = Ring::told();
                ring.shared.unregister(u32::from(input.byte() % 5), then);
            }
            9 => {
                let (_, then) = Ring::told();
                ring.shared.wait(then);
            }
            10 => rig.step(),
            _ => {
                rig.turn();
            }
        }
        if step % 64 == 63 {
            look(&mut rig, &mut honest, step as u64);
        }
    }
    look(&mut rig, &mut honest, MAX_STEPS as u64);
    let memory = Arc::downgrade(&ring.memory);
    ring.shared.close();
    drop(ring);
    rig.settle();
    assert_eq!(
        rig.device.counters().dma_faults,
        0,
        "the device was sent where nothing is registered"
    );
    registered.push(memory);
    // It is dropped on a thread of its own, which gets its turn some time.
    let is_kept = || registered.iter().any(|memory| memory.strong_count() > 0);
    for _ in 0..LONG {
        if !is_kept() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("memory of a closed ring is kept");
}

fn look(rig: &mut Rig, honest: &mut Ring, number: u64) {
    let entry = Entry::read(number % 256, 1, honest.at(0)).with_user_data(number);
    honest.submit(&[entry]);
    rig.settle();
    assert_eq!(honest.errors(), [(number, 0)], "another ring is served");
    assert!(
        rig.still_works(number % 256, number as u8),
        "and a client without one"
    );
}
