//! Clients on threads of their own: what they see at any moment, and where they run.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dma::SharedMemory;
use crate::ring::client::{Client, Settings, Transport};
use crate::ring::layout::{Entry, word};
use crate::ring::message::Message;
use crate::ring::rig::{ALL, Rig, Ring};
use crate::scheme::Errno;

/// Nobody at the other end.
struct Deaf;

impl Transport for Deaf {
    fn send(&mut self, _message: &Message, _memory: Option<&Arc<SharedMemory>>) -> Result<(), Errno> {
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Errno> {
        Err(Errno::EIO)
    }
}

/// The numbers of all CPUs in `set`.
fn all(set: &rustix::thread::CpuSet) -> Vec<u32> {
    let cpus = 0..rustix::thread::CpuSet::MAX_CPU;
    cpus.filter(|cpu| set.is_set(*cpu))
        .map(|cpu| cpu as u32)
        .collect()
}

/// The client learns where its worker is, and goes there if it has said so: nowhere else, and no further than it may.
#[test]
fn a_client_learns_its_workers_cpu_and_keeps_to_it() {
    use rustix::thread::{CpuSet, sched_getaffinity};
    // Where a thread runs is a matter of that thread.
    let test = || {
        let allowed = sched_getaffinity(None).unwrap();
        let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let stay = crate::cpu::Stay::new().unwrap();
        let mut rig = Rig::new();
        let mut ring = rig.ring(ALL);
        let mut client = Client::open(Box::new(Deaf), Settings::default()).unwrap();
        assert_eq!(ring.load(word::CPU), 0, "nothing has been put there yet");
        let to_word = |cpu: usize| u32::try_from(cpu + 1).unwrap();
        let forbidden = (0..CpuSet::MAX_CPU).find(|cpu| !allowed.is_set(*cpu)).unwrap();
        let tell = |client: &Client, cpu: u32| {
            let word = client.memory().word(word::CPU).unwrap();
            word.store(cpu, Ordering::Release);
        };
        for cpu in cpus {
            assert!(stay.on(&[cpu as u32]).unwrap());
            ring.submit(&[Entry::nop()]);
            rig.settle();
            assert_eq!(ring.load(word::CPU), to_word(cpu));

            assert!(stay.on(&all(&allowed)).unwrap());
            tell(&client, to_word(cpu));
            client.follow();
            assert_eq!(sched_getaffinity(None).unwrap(), allowed, "it was not asked to");
            client.share_cpu();
            client.follow();
            let kept = sched_getaffinity(None).unwrap();
            assert!(kept.is_set(cpu) && kept.count() == 1);
            // It is the driver's word, and still not believed.
            for word_of_none in [0, u32::MAX, 1 << 16, to_word(forbidden)] {
                tell(&client, word_of_none);
                client.follow();
                assert_eq!(sched_getaffinity(None).unwrap(), kept, "{word_of_none}");
            }
            assert!(stay.on(&all(&allowed)).unwrap());
            client = Client::open(Box::new(Deaf), Settings::default()).unwrap();
        }
    };
    std::thread::spawn(test).join().unwrap();
}

/// A client on a CPU of its own takes a result the moment that it can see it, and waits for the next one at once.
#[test]
fn who_waits_right_after_a_result_is_not_told_that_there_was_none() {
    const ROUNDS: usize = 200_000;
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let client = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            ring.submit(&[Entry::nop()]);
            let mut looks = 0_u32;
            while ring.results().is_empty() {
                looks += 1;
                if looks.is_multiple_of(100) {
                    // There may be one CPU for both.
                    std::thread::yield_now();
                }
            }
            let (told, then) = Ring::told();
            ring.shared.wait(then);
            let seen = told.lock().unwrap().clone();
            if !seen.is_empty() {
                return seen;
            }
            ring.shared.end_waiting(Err(Errno::EINTR));
        }
        Vec::new()
    });
    while !client.is_finished() {
        if !rig.turn() {
            std::thread::yield_now();
        }
    }
    assert_eq!(client.join().unwrap(), []);
}
