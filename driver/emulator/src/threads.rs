//! Threads that run a device: they watch the doorbells for a while after the last thing there was to do, then sleep until
//! something rings or is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::emulator::Emulator;

/// Nothing that is due sooner than this is slept for: waking up takes about as long.
const SLEEP_MIN_NS: u64 = 100_000;
/// A thread that has looked in vain for this long lets others run between its looks: the host whose next command it
/// waits for may want this very processor; if nobody does, it is back at once.
const YIELD_AFTER_NS: u64 = 200;
/// But not when a command is to be done so soon.
const YIELD_MIN_NS: u64 = 10_000;
/// How long a thread sleeps at first between two looks at doorbells that ring without a sound, and how long at most: each
/// look in vain doubles it.
const LOOK_MIN_NS: u64 = 20_000;
const LOOK_MAX_NS: u64 = 1_000_000;
/// Idle looks between two readings of the clock.
const LOOKS_PER_READING: u32 = 8;

/// A device that runs on threads of its own. Dropping this stops and joins them.
#[derive(Debug)]
#[must_use = "the device stops when this is dropped"]
pub struct Running {
    emulator: Arc<Emulator>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(emulator: &Arc<Emulator>, clock: Arc<dyn Fn() -> u64 + Send + Sync>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spawn = |thread: usize| {
            let (emulator, clock, stop) = (Arc::clone(emulator), Arc::clone(&clock), Arc::clone(&stop));
            std::thread::Builder::new()
                .name(format!("nvme-emulator-{thread}"))
                .spawn(move || run(&emulator, thread, &*clock, &stop))
        };
        let threads = 0..usize::from(emulator.config().threads);
        // A thread that the system refuses leaves its share of the queues without service: say so, do not pretend.
        let threads = threads
            .filter_map(|thread| {
                spawn(thread)
                    .inspect_err(|error| log::error!("no thread for the device: {error}"))
                    .ok()
            })
            .collect();
        Self {
            emulator: Arc::clone(emulator),
            stop,
            threads,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.emulator.device().wake_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn run(emulator: &Emulator, thread: usize, clock: &(dyn Fn() -> u64 + Send + Sync), stop: &AtomicBool) {
    let spin_ns = emulator.config().spin_ns;
    let mut idle_since_ns = None;
    let mut look_ns = LOOK_MIN_NS;
    while !stop.load(Ordering::Acquire) {
        if emulator.turn(thread, clock) {
            idle_since_ns = None;
            look_ns = LOOK_MIN_NS;
            continue;
        }
        let now_ns = clock();
        let idle_since_ns = *idle_since_ns.get_or_insert(now_ns);
        let due_ns = emulator.due_ns(thread);
        let sleep_ns = due_ns.map(|due_ns| due_ns.saturating_sub(now_ns));
        let is_due_soon = sleep_ns.is_some_and(|sleep_ns| sleep_ns < SLEEP_MIN_NS);
        if is_due_soon || now_ns.saturating_sub(idle_since_ns) < spin_ns {
            let about_to_work = sleep_ns.is_some_and(|sleep_ns| sleep_ns < YIELD_MIN_NS);
            if now_ns.saturating_sub(idle_since_ns) > YIELD_AFTER_NS && !about_to_work {
                std::thread::yield_now();
            }
            for _ in 0..LOOKS_PER_READING {
                std::hint::spin_loop();
            }
            continue;
        }
        if let Some(doze) = emulator.device().threads.get(thread) {
            // Wakes early enough to spin for the rest: a timer of the system is late more often than not.
            let mut timeout_ns = sleep_ns.map(|sleep_ns| sleep_ns - SLEEP_MIN_NS / 2);
            // Doorbells of a device that is stopped mean nothing; once it runs, whoever sleeps without an end is woken.
            let device = emulator.device();
            let looks = device.registers.has_shared_doorbells() && !device.is_stopped();
            if looks {
                timeout_ns = Some(timeout_ns.map_or(look_ns, |ns| ns.min(look_ns)));
                look_ns = (look_ns * 2).min(LOOK_MAX_NS);
            }
            let has_started = || device.registers.has_shared_doorbells() && !looks && !device.is_stopped();
            let mut worked = false;
            doze.sleep(timeout_ns.map(Duration::from_nanos), || {
                worked = stop.load(Ordering::Acquire)
                    || has_started()
                    || emulator.arm_shard(thread, now_ns)
                    || emulator.turn(thread, clock);
                worked
            });
            if worked {
                look_ns = LOOK_MIN_NS;
            }
        }
    }
}
