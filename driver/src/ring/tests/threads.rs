//! Clients on threads of their own: what they see at any moment, and what they are told of where their worker is.

use std::time::{Duration, Instant};

use crate::ring::layout::{Entry, word};
use crate::ring::rig::{ALL, Rig, Ring};
use crate::scheme::Errno;

/// The client learns where its worker is with the first results, and from time to time after that.
#[test]
fn a_client_is_told_its_workers_cpu() {
    // Where a thread runs is a matter of that thread.
    let test = || {
        let stay = crate::cpu::Stay::new().unwrap();
        let mut rig = Rig::new();
        let mut ring = rig.ring(ALL);
        assert_eq!(ring.load(word::CPU), 0, "nothing has been put there yet");
        for cpu in (0..1024).filter(|cpu| stay.on(&[*cpu]).unwrap()) {
            for _ in 0..256 {
                ring.submit(&[Entry::nop()]);
                rig.turn();
                let _ = ring.results();
            }
            assert_eq!(ring.load(word::CPU), cpu + 1);
        }
    };
    std::thread::spawn(test).join().unwrap();
}

/// A client on a CPU of its own takes a result the moment that it can see it, and waits for the next one at once.
#[test]
fn who_waits_right_after_a_result_is_not_told_that_there_was_none() {
    // Of which a few would find it. They take a second on two CPUs with nothing else to do; on busy ones fewer have to do.
    const ROUNDS: usize = 200_000;
    const LONG: Duration = Duration::from_secs(5);
    const TOO_LONG: Duration = Duration::from_secs(60);
    let mut rig = Rig::new();
    let mut ring = rig.ring(ALL);
    let client = std::thread::spawn(move || {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            if began.elapsed() >= LONG {
                break;
            }
            ring.submit(&[Entry::nop()]);
            let mut looks = 0_u32;
            while ring.results().is_empty() {
                looks += 1;
                if looks.is_multiple_of(100) {
                    // There may be one CPU for both.
                    std::thread::yield_now();
                    assert!(began.elapsed() < TOO_LONG, "no result");
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
