//! Waiters on a small kernel of this file's own.

use std::collections::{HashMap, VecDeque};
use std::ptr::NonNull;
use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use syscall::error::{EACCES, EBADF, EINTR, ENOENT};
use syscall::flag::MapFlags;

use super::*;
use crate::clock::ManualClock;

/// A read that waits for longer than this has missed its wake-up.
const LOST_AFTER: Duration = Duration::from_secs(20);
const LONG: Option<Duration> = Some(Duration::from_secs(30));

#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: usize,
    queues: HashMap<usize, VecDeque<Event>>,
    /// By the descriptor of the reading end.
    pipes: HashMap<usize, VecDeque<u8>>,
    /// The writing end's reading end.
    writers: HashMap<usize, usize>,
    timers: HashMap<usize, Vec<u128>>,
    timers_set: usize,
    interrupts: HashMap<usize, Irq>,
    subscriptions: Vec<(usize, usize)>,
    now_ns: u128,
    steps_back_ns: u128,
    /// Fails what is written to and read from queues.
    broken: bool,
    read_batches: usize,
    /// So many writes to pipes are interrupted.
    interrupted_writes: usize,
    /// Nothing can be opened any more.
    closed: bool,
}

#[derive(Default)]
struct Irq {
    count: usize,
    acknowledged: usize,
    reads: usize,
    writes: usize,
    /// What happens between the next read and the write after it.
    fires_after_read: bool,
}

impl State {
    fn trigger(&mut self, source: usize) {
        let event = Event {
            id: source,
            flags: EVENT_READ,
            data: 0,
        };
        for (of, queue) in &self.subscriptions {
            if *of == source
                && let Some(queue) = self.queues.get_mut(queue)
            {
                queue.push_back(event);
            }
        }
    }

    fn fire(&mut self, irq: usize) {
        self.interrupts.get_mut(&irq).unwrap().count += 1;
        self.trigger(irq);
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn irq(self: &Arc<Self>, acknowledge: bool) -> (usize, Arc<Interrupt>) {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.interrupts.insert(number, Irq::default());
        drop(state);
        let system = Arc::clone(self) as Arc<dyn System>;
        let interrupt = Interrupt::new(Descriptor::new(&system, number), acknowledge);
        (number, Arc::new(interrupt))
    }

    fn waiter(self: &Arc<Self>, interrupt: &Arc<Interrupt>) -> (RedoxWaiter, ManualClock) {
        let clock = ManualClock::new(1);
        let system = Arc::clone(self) as Arc<dyn System>;
        let waiter =
            RedoxWaiter::new(&system, Arc::clone(interrupt), Clock::manual(clock.clone())).expect("opens");
        (waiter, clock)
    }

    fn fire(&self, irq: usize) {
        self.state().fire(irq);
        self.changed.notify_all();
    }

    /// Moves the kernel's clock and fires what is due.
    fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.now_ns += by.as_nanos();
        let now_ns = state.now_ns;
        let mut due = Vec::new();
        for (timer, at_ns) in &mut state.timers {
            let set = at_ns.len();
            at_ns.retain(|at_ns| *at_ns > now_ns);
            due.extend(std::iter::repeat_n(*timer, set - at_ns.len()));
        }
        for timer in due {
            state.trigger(timer);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn pending_timers(&self) -> usize {
        self.state().timers.values().map(Vec::len).sum()
    }

    fn waiting_events(&self) -> usize {
        self.state().queues.values().map(VecDeque::len).sum()
    }
}

// SAFETY: maps nothing.
unsafe impl System for Fake {
    fn open(&self, path: &str, flags: usize) -> Result<usize> {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        match path {
            _ if state.closed => return Err(Error::new(ENOENT)),
            "/scheme/event" => drop(state.queues.insert(number, VecDeque::new())),
            "/scheme/pipe" if flags & O_NONBLOCK != 0 => drop(state.pipes.insert(number, VecDeque::new())),
            "/scheme/time/4" => drop(state.timers.insert(number, Vec::new())),
            _ => return Err(Error::new(ENOENT)),
        }
        Ok(number)
    }

    fn openat(&self, _directory: usize, _path: &str, _flags: usize) -> Result<usize> {
        Err(Error::new(EACCES))
    }

    fn dup(&self, descriptor: usize, name: &[u8]) -> Result<usize> {
        assert_eq!(name, b"write");
        let mut state = self.state();
        assert!(state.pipes.contains_key(&descriptor));
        state.next += 1;
        let number = state.next;
        state.writers.insert(number, descriptor);
        Ok(number)
    }

    fn close(&self, descriptor: usize) {
        let mut state = self.state();
        state.queues.remove(&descriptor);
        state.pipes.remove(&descriptor);
        state.timers.remove(&descriptor);
    }

    fn set_close_on_exec(&self, _descriptor: usize) -> Result<()> {
        Ok(())
    }

    fn read(&self, descriptor: usize, into: &mut [u8]) -> Result<usize> {
        let mut state = self.state();
        if let Some(irq) = state.interrupts.get_mut(&descriptor) {
            irq.reads += 1;
            if irq.acknowledged == irq.count {
                return Ok(0);
            }
            into.copy_from_slice(&irq.count.to_ne_bytes());
            if std::mem::take(&mut irq.fires_after_read) {
                state.fire(descriptor);
            }
            return Ok(into.len());
        }
        if state.timers.contains_key(&descriptor) {
            into.copy_from_slice(&time_of(state.now_ns - state.steps_back_ns));
            return Ok(into.len());
        }
        if let Some(pipe) = state.pipes.get_mut(&descriptor) {
            let bytes = into.len().min(pipe.len());
            assert!(bytes > 0, "a read of an empty pipe");
            pipe.drain(..bytes);
            return Ok(bytes);
        }
        loop {
            if state.broken {
                return Err(Error::new(EIO));
            }
            state.read_batches += 1;
            let queue = state.queues.get_mut(&descriptor).ok_or(Error::new(EBADF))?;
            if !queue.is_empty() {
                let mut bytes = 0;
                for room in into.chunks_exact_mut(EVENT_BYTES) {
                    let Some(event) = queue.pop_front() else { break };
                    room.copy_from_slice(&event);
                    bytes += EVENT_BYTES;
                }
                return Ok(bytes);
            }
            let (next, timed_out) = self.changed.wait_timeout(state, LOST_AFTER).unwrap();
            state = next;
            assert!(!timed_out.timed_out(), "a wake-up was lost");
        }
    }

    fn write(&self, descriptor: usize, from: &[u8]) -> Result<usize> {
        let mut state = self.state();
        if let Some(irq) = state.interrupts.get_mut(&descriptor) {
            irq.writes += 1;
            let count = usize::from_ne_bytes(from.try_into().unwrap());
            if count != irq.count {
                return Ok(0);
            }
            irq.acknowledged = count;
        } else if let Some(pipe) = state.writers.get(&descriptor).copied() {
            if state.interrupted_writes > 0 {
                state.interrupted_writes -= 1;
                return Err(Error::new(EINTR));
            }
            state.pipes.get_mut(&pipe).ok_or(Error::new(EBADF))?.extend(from);
            state.trigger(pipe);
            self.changed.notify_all();
        } else if state.timers.contains_key(&descriptor) {
            let at_ns = ns_of(from.try_into().unwrap());
            state.timers.get_mut(&descriptor).unwrap().push(at_ns);
            state.timers_set += 1;
        } else if state.broken {
            return Err(Error::new(EIO));
        } else if state.queues.contains_key(&descriptor) {
            let mut event = Event::default();
            event.copy_from_slice(from);
            let key = (event.id, descriptor);
            state.subscriptions.retain(|subscription| *subscription != key);
            if !event.flags.is_empty() {
                state.subscriptions.push(key);
            }
        } else {
            return Err(Error::new(EBADF));
        }
        Ok(from.len())
    }

    fn call(&self, _descriptor: usize, _payload: &mut [u8], _metadata: &[u64]) -> Result<usize> {
        Err(Error::new(EACCES))
    }

    fn list(&self, _path: &str) -> Result<Vec<String>> {
        Err(Error::new(EACCES))
    }

    fn map(&self, _descriptor: usize, _offset: u64, _len: usize, _flags: MapFlags) -> Result<NonNull<u8>> {
        Err(Error::new(EACCES))
    }

    unsafe fn unmap(&self, _start: NonNull<u8>, _len_bytes: usize) {}

    fn create_scheme(&self) -> Result<usize> {
        Err(Error::new(EACCES))
    }

    fn register_scheme(&self, _socket: usize, _name: &str, _root: usize) -> Result<()> {
        Err(Error::new(EACCES))
    }

    fn leave_namespace(&self) -> Result<()> {
        Ok(())
    }

    fn pin_thread(&self, _cpu: u32) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_ready_is_not_slept_over() {
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    waiter.wait(LONG, &mut || true);
    waiter.wait(Some(Duration::ZERO), &mut || false);
    assert_eq!(fake.state().read_batches, 0);
    assert_eq!(fake.pending_timers(), 0);
}

#[test]
fn a_wake_between_the_announcement_and_the_sleep_is_kept() {
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let waker = waiter.waker();
    waker.wake();
    assert_eq!(fake.waiting_events(), 0, "nobody sleeps, so nothing is written");
    waiter.wait(None, &mut || {
        waker.wake();
        waker.wake();
        false
    });
    assert_eq!(fake.waiting_events(), 0, "two wakers, one byte");
    waker.wake();
    assert_eq!(fake.waiting_events(), 0);
}

#[test]
fn a_waker_whose_write_fails_leaves_the_sleeper_to_the_next_one() {
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let waker = waiter.waker();
    fake.state().interrupted_writes = 1;
    waiter.wait(None, &mut || {
        waker.wake();
        assert_eq!(fake.waiting_events(), 0, "the write has failed");
        waker.wake();
        false
    });
    assert_eq!(fake.state().interrupted_writes, 0);
}

#[test]
fn no_wake_up_is_lost_between_two_threads() {
    const ROUNDS: u64 = 5_000;
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    let (mut ping, _) = fake.waiter(&interrupt);
    let (mut pong, _) = fake.waiter(&interrupt);
    let (wake_ping, wake_pong) = (ping.waker(), pong.waker());
    let turn = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                while turn.load(Ordering::Relaxed) != 2 * round + 1 {
                    ping.wait(None, &mut || turn.load(Ordering::Relaxed) == 2 * round + 1);
                }
                turn.store(2 * round + 2, Ordering::Relaxed);
                wake_pong.wake();
            }
        });
        for round in 0..ROUNDS {
            turn.store(2 * round + 1, Ordering::Relaxed);
            wake_ping.wake();
            while turn.load(Ordering::Relaxed) != 2 * round + 2 {
                pong.wait(None, &mut || turn.load(Ordering::Relaxed) == 2 * round + 2);
            }
        }
    });
}

#[test]
fn interrupts_wake_each_that_shares_them_and_are_counted() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (mut one, _) = fake.waiter(&interrupt);
    let (mut other, _) = fake.waiter(&interrupt);
    fake.fire(irq);
    fake.fire(irq);
    one.wait(LONG, &mut || false);
    assert_eq!((one.take_interrupts(), one.take_interrupts()), (2, 0));
    other.wait(LONG, &mut || {
        fake.fire(irq);
        false
    });
    assert_eq!(other.take_interrupts(), 3);
    let state = fake.state();
    assert_eq!(
        (state.interrupts[&irq].reads, state.interrupts[&irq].writes),
        (0, 0)
    );
}

#[test]
fn a_line_fires_again_only_when_its_owner_has_looked() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(true);
    fake.fire(irq);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let acknowledged = || fake.state().interrupts[&irq].acknowledged;
    // What was there before the subscription too, and before the look, which finds what it brought.
    waiter.wait(LONG, &mut || {
        assert_eq!(acknowledged(), 1);
        fake.fire(irq);
        false
    });
    assert_eq!(acknowledged(), 1, "the owner has not looked yet");
    waiter.wait(LONG, &mut || {
        assert_eq!(acknowledged(), 2);
        true
    });
    let reads = fake.state().interrupts[&irq].reads;
    waiter.wait(LONG, &mut || true);
    assert_eq!(fake.state().interrupts[&irq].reads, reads, "nothing new, no call");
}

#[test]
fn a_line_that_fires_during_its_acknowledgement_is_acknowledged_after_the_next_look() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(true);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let (mut other, _) = fake.waiter(&interrupt);
    let acknowledged = || fake.state().interrupts[&irq].acknowledged;
    waiter.wait(LONG, &mut || true);
    fake.fire(irq);
    waiter.wait(LONG, &mut || false);
    fake.state().interrupts.get_mut(&irq).unwrap().fires_after_read = true;
    waiter.wait(LONG, &mut || false);
    assert_eq!(acknowledged(), 0, "the count had moved on");
    waiter.wait(LONG, &mut || true);
    assert_eq!(acknowledged(), 2);
    // For the other there is nothing left to acknowledge.
    let writes = fake.state().interrupts[&irq].writes;
    other.wait(LONG, &mut || true);
    assert_eq!(fake.state().interrupts[&irq].writes, writes);
}

#[test]
fn timers_do_not_pile_up() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (mut waiter, clock) = fake.waiter(&interrupt);
    for step in 0..1000 {
        clock.set(step * 20_000);
        fake.fire(irq);
        waiter.wait(LONG, &mut || false);
        assert_eq!(waiter.take_interrupts(), 1);
    }
    assert_eq!(fake.state().timers_set, 1);
    // Each is wanted earlier than all before.
    for step in 0..1000 {
        fake.fire(irq);
        waiter.wait(Some(Duration::from_millis(20_000 - 15 * step)), &mut || false);
    }
    assert!(
        fake.pending_timers() <= MAX_TIMERS + 5,
        "{}",
        fake.pending_timers()
    );
}

#[test]
fn a_timer_ends_the_sleep_and_the_next_sleep_has_one_too() {
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    let (mut waiter, clock) = fake.waiter(&interrupt);
    let (watching, sleeping) = (Arc::clone(&fake), AtomicBool::new(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while sleeping.load(Ordering::Relaxed) {
                if watching.pending_timers() > 0 {
                    watching.advance(Duration::from_millis(1));
                }
                std::thread::yield_now();
            }
        });
        for round in 1..=20_u64 {
            let before_ns = fake.state().now_ns;
            waiter.wait(Some(Duration::from_millis(10)), &mut || false);
            let slept_ns = fake.state().now_ns - before_ns;
            assert!(slept_ns >= 10_000_000, "{slept_ns}");
            assert_eq!(fake.state().timers_set as u64, round);
            clock.set(round * 10_000_000);
        }
        sleeping.store(false, Ordering::Relaxed);
    });
}

#[test]
fn an_earlier_deadline_gets_a_timer_of_its_own_and_a_lost_one_is_replaced() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (mut waiter, clock) = fake.waiter(&interrupt);
    fake.state().now_ns = 5_000_000_000;
    fake.state().steps_back_ns = 12_000_000;
    let mut wait = |ms| {
        fake.fire(irq);
        waiter.wait(Some(Duration::from_millis(ms)), &mut || false);
        let mut pending: Vec<_> = fake.state().timers.values().flatten().copied().collect();
        pending.sort_unstable();
        pending
    };
    assert_eq!(wait(100), [5_088_000_000]);
    assert_eq!(wait(50), [5_038_000_000, 5_088_000_000]);
    assert_eq!(wait(70), [5_038_000_000, 5_088_000_000]);
    clock.set(2_000_000_000);
    assert_eq!(wait(50), [5_038_000_000, 5_038_000_000, 5_088_000_000]);
}

#[test]
fn what_piles_up_is_collected_without_a_sleep() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    waiter.collect();
    assert_eq!((waiter.take_interrupts(), fake.waiting_events()), (0, 0));
    for _ in 0..1000 {
        fake.fire(irq);
    }
    waiter.collect();
    assert_eq!((waiter.take_interrupts(), fake.waiting_events()), (1000, 0));
    // A sleep after a long time without does not take a look for each batch of old ones.
    for _ in 0..1000 {
        fake.fire(irq);
    }
    waiter.wait(LONG, &mut || false);
    assert_eq!((waiter.take_interrupts(), fake.waiting_events()), (1000, 0));
    // However many there are, it comes to an end.
    for _ in 0..2 * BATCH * COLLECT_READS {
        fake.fire(irq);
    }
    waiter.collect();
    assert_eq!(waiter.take_interrupts() as usize, BATCH * COLLECT_READS);
}

#[test]
fn wakes_that_nobody_slept_through_do_not_keep_what_is_behind_them() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let waker = waiter.waker();
    // A busy owner: each time it is about to sleep it is woken, and finds work before it does.
    let rounds = 10 * BATCH;
    for _ in 0..rounds {
        fake.fire(irq);
        waiter.wait(LONG, &mut || {
            waker.wake();
            true
        });
    }
    assert_eq!(fake.waiting_events(), 2 * rounds);
    waiter.collect();
    assert_eq!(
        (waiter.take_interrupts() as usize, fake.waiting_events()),
        (rounds, 0)
    );
    // As many events as one read takes, with a wake among them: nothing says that more will come.
    for events in [BATCH - 1, BATCH, BATCH + 1] {
        waiter.wait(LONG, &mut || {
            waker.wake();
            true
        });
        for _ in 1..events {
            fake.fire(irq);
        }
        waiter.collect();
        assert_eq!(
            (waiter.take_interrupts() as usize, fake.waiting_events()),
            (events - 1, 0)
        );
    }
}

#[test]
fn watched_descriptors_wake_until_they_are_ignored() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(false);
    let (socket, _kept) = fake.irq(false);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let watcher = waiter.watcher().unwrap();
    let watched = watcher.watch(socket).unwrap();
    assert!(watched.take(), "the first look is on the house");
    assert!(!watched.take());
    assert!(Arc::ptr_eq(&watched, &watcher.watch(socket).unwrap()));
    watched.take();
    waiter.wait(None, &mut || {
        fake.fire(socket);
        false
    });
    assert!(watched.take() && !watched.take());
    assert_eq!(waiter.take_interrupts(), 0);
    watcher.ignore(socket);
    watcher.ignore(socket);
    fake.fire(socket);
    fake.fire(irq);
    waiter.wait(LONG, &mut || false);
    assert!(!watched.take());
    // A new subscription by another thread wakes the sleeper, since something may be there already.
    waiter.wait(None, &mut || {
        assert!(watcher.watch(socket).unwrap().take());
        false
    });
    drop(waiter);
    assert_eq!(fake.state().subscriptions, []);
    assert!(matches!(watcher.watch(socket), Err(BackendError::System(_))));
    assert_eq!(fake.state().subscriptions, []);
}

#[test]
fn a_broken_kernel_slows_the_owner_down_and_no_more() {
    let fake = Arc::new(Fake::default());
    let (irq, interrupt) = fake.irq(true);
    let (mut waiter, _) = fake.waiter(&interrupt);
    let watcher = waiter.watcher().unwrap();
    fake.state().broken = true;
    let mut looks = 0;
    for _ in 0..3 {
        waiter.wait(None, &mut || {
            looks += 1;
            false
        });
        waiter.collect();
    }
    assert_eq!(looks, 3);
    assert!(watcher.watch(77).is_err());
    fake.state().broken = false;
    fake.fire(irq);
    waiter.wait(None, &mut || false);
    assert_eq!(waiter.take_interrupts(), 1);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let fake = Arc::new(Fake::default());
    let (_, interrupt) = fake.irq(false);
    fake.state().closed = true;
    let system = Arc::clone(&fake) as Arc<dyn System>;
    let failure = RedoxWaiter::new(&system, interrupt, Clock::manual(ManualClock::new(0))).err();
    let failure = failure.expect("nothing opens").to_string();
    assert!(failure.contains("/scheme/event"), "{failure}");
}
