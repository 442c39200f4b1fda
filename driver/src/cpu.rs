//! CPUs: how many there are, and which one this is.

use std::cell::Cell;

/// CPUs that this process may use; 1 if the system does not say.
pub fn count() -> u16 {
    std::thread::available_parallelism().map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX))
}

thread_local! {
    static SETTLED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// From now on the calling thread is one of `cpu`, whatever the system says: the worker of that CPU's queue.
pub(crate) fn settle(cpu: u32) {
    SETTLED.set(Some(cpu));
}

/// The CPU that the calling thread runs on, where the system says.
pub fn current() -> Option<u32> {
    SETTLED.get().or_else(of_system)
}

#[cfg(target_os = "linux")]
fn of_system() -> Option<u32> {
    u32::try_from(rustix::thread::sched_getcpu()).ok()
}

#[cfg(not(target_os = "linux"))]
fn of_system() -> Option<u32> {
    None
}

/// Lets a short sleep of the calling thread be short: Linux adds 50 us to each by default.
pub(crate) fn sharpen_timers() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000)) {
        log::debug!("the timer slack could not be set: {error}");
    }
}
