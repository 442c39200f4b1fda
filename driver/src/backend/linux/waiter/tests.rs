use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

fn waiter(signal: &Arc<Signal>) -> LinuxWaiter {
    LinuxWaiter::new(signal, &[]).unwrap()
}

fn fire(signal: &Signal) {
    rustix::io::write(signal, &1_u64.to_ne_bytes()).unwrap();
}

/// What wakers have written and nobody has read.
fn unread(waiter: &LinuxWaiter) -> u64 {
    read_count(&waiter.shared.bell).unwrap()
}

#[test]
fn an_interrupt_ends_a_sleep_and_is_counted_once() {
    let signal = Signal::new().unwrap();
    let mut waiter = waiter(&signal);
    fire(&signal);
    fire(&signal);
    waiter.wait(None, &mut || false);
    assert_eq!(waiter.take_interrupts(), 2);
    assert_eq!(waiter.take_interrupts(), 0);
    thread::scope(|scope| {
        scope.spawn(|| fire(&signal));
        waiter.wait(None, &mut || false);
    });
    assert_eq!(waiter.take_interrupts(), 1);
}

#[test]
fn a_waiter_counts_from_its_own_start() {
    let signal = Signal::new().unwrap();
    fire(&signal);
    signal.take_in().unwrap();
    assert_eq!(signal.fired(), 1);
    assert_eq!(waiter(&signal).take_interrupts(), 0);
}

#[test]
fn a_waker_writes_only_to_one_that_sleeps_or_is_about_to() {
    let mut waiter = waiter(&Signal::new().unwrap());
    let waker = waiter.waker();
    waker.wake();
    assert_eq!(unread(&waiter), 0);
    // Between the last look and the sleep.
    waiter.wait(None, &mut || {
        waker.wake();
        waker.wake();
        false
    });
    assert_eq!(unread(&waiter), 0, "one of two wakers wrote, and that was read");
    waiter.wait(None, &mut || true);
    waiter.wait(Some(Duration::ZERO), &mut || false);
    waker.wake();
    assert_eq!(unread(&waiter), 0);
}

#[test]
fn a_timeout_ends_a_sleep() {
    let mut waiter = waiter(&Signal::new().unwrap());
    let started = std::time::Instant::now();
    waiter.wait(Some(Duration::from_millis(3)), &mut || false);
    assert!(started.elapsed() >= Duration::from_millis(3));
    assert_eq!(timespec_of(Duration::MAX).tv_nsec, 0);
    let short = timespec_of(Duration::from_nanos(1_000_000_007));
    assert_eq!((short.tv_sec, short.tv_nsec), (1, 7));
}

#[test]
fn all_waiters_of_a_signal_are_told_whoever_reads_it() {
    let signal = Signal::new().unwrap();
    let mut reader = waiter(&signal);
    let mut others = [waiter(&signal), waiter(&signal)];
    let asleep = AtomicUsize::new(0);
    thread::scope(|scope| {
        for other in &mut others {
            let (asleep, signal) = (&asleep, &signal);
            scope.spawn(move || {
                // Each has announced its sleep before the signal fires; one of them may read it, or the other thread.
                other.wait(None, &mut || {
                    asleep.fetch_add(1, Ordering::SeqCst);
                    false
                });
                while signal.fired() == 0 {
                    other.wait(None, &mut || signal.fired() > 0);
                }
            });
        }
        while asleep.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        fire(&signal);
        reader.collect();
    });
    for waiter in others.iter_mut().chain([&mut reader]) {
        assert_eq!(waiter.take_interrupts(), 1);
    }
}

#[test]
fn one_that_has_gone_is_not_told() {
    let signal = Signal::new().unwrap();
    let (first, second) = (waiter(&signal), waiter(&signal));
    drop(first);
    assert_eq!(signal.waiters().len(), 1);
    drop(second);
    assert!(signal.waiters().is_empty());
}

#[test]
fn no_wake_is_lost_between_two_threads_that_wake_each_other() {
    const ROUNDS: usize = 20_000;
    let signal = Signal::new().unwrap();
    let turn = AtomicUsize::new(0);
    let mut waiters = [waiter(&signal), waiter(&signal)];
    let wakers = [waiters[1].waker(), waiters[0].waker()];
    thread::scope(|scope| {
        for (number, (waiter, other)) in waiters.iter_mut().zip(wakers).enumerate() {
            let turn = &turn;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let wanted = 2 * round + number;
                    while turn.load(Ordering::Relaxed) != wanted {
                        waiter.wait(None, &mut || turn.load(Ordering::Relaxed) == wanted);
                    }
                    turn.store(wanted + 1, Ordering::Relaxed);
                    other.wake();
                }
            });
        }
    });
    assert_eq!(turn.into_inner(), 2 * ROUNDS);
}

#[test]
fn a_line_is_unmasked_once_for_each_time_it_fired_and_before_the_next_sleep() {
    let unmasked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&unmasked);
    let signal = Signal::line(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
    .unwrap();
    let (mut waiter, mut other) = (waiter(&signal), waiter(&signal));
    waiter.wait(None, &mut || true);
    assert_eq!(unmasked.load(Ordering::SeqCst), 0, "it has not fired");
    fire(&signal);
    waiter.wait(None, &mut || false);
    assert_eq!(unmasked.load(Ordering::SeqCst), 0, "the owner has not looked yet");
    waiter.wait(None, &mut || true);
    other.wait(None, &mut || true);
    assert_eq!(unmasked.load(Ordering::SeqCst), 1);
    fire(&signal);
    waiter.collect();
    assert_eq!(unmasked.load(Ordering::SeqCst), 2);
    // One that reads it and goes leaves it unmasked for the others.
    fire(&signal);
    waiter.wait(None, &mut || false);
    drop(waiter);
    assert_eq!(unmasked.load(Ordering::SeqCst), 3);
}

#[test]
fn a_line_that_cannot_be_unmasked_does_not_let_its_owner_sleep_for_ever() {
    let signal = Signal::line(|| Err(io::ErrorKind::Other.into())).unwrap();
    let mut waiter = waiter(&signal);
    fire(&signal);
    waiter.collect();
    for _ in 0..3 {
        waiter.wait(None, &mut || false);
    }
    assert!(waiter.is_reported);
}

#[test]
fn a_notice_wakes_the_waiters_that_want_it_and_is_no_interrupt() {
    let (signal, notice) = (Signal::new().unwrap(), Signal::new().unwrap());
    let mut waiter = LinuxWaiter::new(&signal, &[Arc::clone(&notice)]).unwrap();
    fire(&notice);
    waiter.wait(None, &mut || false);
    assert_eq!((notice.fired(), waiter.take_interrupts()), (1, 0));
    fire(&notice);
    waiter.collect();
    assert_eq!(notice.fired(), 2);
}

#[test]
fn a_watched_descriptor_wakes_while_there_is_something_to_read() {
    let mut waiter = waiter(&Signal::new().unwrap());
    let watcher = waiter.watcher().unwrap();
    let pipe = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    let number = pipe.as_raw_fd() as usize;
    let watched = watcher.watch(number).unwrap();
    assert!(Arc::ptr_eq(&watched, &watcher.watch(number).unwrap()));
    waiter.wait(None, &mut || false);
    assert!(watched.take());
    waiter.collect();
    assert!(watched.take(), "still there");
    read_count(&pipe).unwrap();
    waiter.collect();
    assert!(!watched.take());
    thread::scope(|scope| {
        scope.spawn(|| rustix::io::write(&pipe, &1_u64.to_ne_bytes()).unwrap());
        waiter.wait(None, &mut || false);
    });
    assert!(watched.take());
    watcher.ignore(number);
    waiter.collect();
    assert!(!watched.take());
}

#[test]
fn whoever_sleeps_already_watches_what_is_added() {
    let mut waiter = waiter(&Signal::new().unwrap());
    let watcher = waiter.watcher().unwrap();
    let pipe = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    let mut watched = None;
    waiter.wait(None, &mut || {
        watched = Some(watcher.watch(pipe.as_raw_fd() as usize).unwrap());
        false
    });
    let watched = watched.unwrap();
    while !watched.take() {
        waiter.wait(None, &mut || false);
    }
}

#[test]
fn a_watched_descriptor_that_is_closed_is_told_once() {
    let mut waiter = waiter(&Signal::new().unwrap());
    let watcher = waiter.watcher().unwrap();
    // Far beyond what this process opens.
    let watched = watcher.watch(1_000_000).unwrap();
    waiter.collect();
    assert!(watched.take());
    waiter.collect();
    assert!(!watched.take());
    assert!(waiter.shared.watched().entries.is_empty());
    assert!(watcher.watch(usize::MAX).is_err());
    drop(waiter);
    assert!(watcher.watch(0).is_err());
}
