//! CPUs: how many there are, and which one this is.

use std::cell::Cell;
use std::sync::OnceLock;

/// CPUs that this process may use; 1 if the system does not say. Asked of the system once: on Redox that takes a file,
/// and the process gives up the right to open any.
pub fn count() -> u16 {
    static COUNT: OnceLock<u16> = OnceLock::new();
    *COUNT.get_or_init(count_of_system)
}

#[cfg(not(target_os = "redox"))]
fn count_of_system() -> u16 {
    std::thread::available_parallelism().map_or(1, |count| u16::try_from(count.get()).unwrap_or(u16::MAX))
}

#[cfg(target_os = "redox")]
fn count_of_system() -> u16 {
    let file = "/scheme/sys/cpu";
    let counted = std::fs::read_to_string(file).map_err(|error| error.to_string());
    let counted = counted.and_then(|text| count_in(&text).ok_or_else(|| "it does not say".to_owned()));
    counted.unwrap_or_else(|error| {
        log::warn!(
            "how many CPUs there are, of {file}: {error}; taking it for 1, so there will be one I/O queue"
        );
        1
    })
}

/// The number of CPUs in what Redox's kernel says of them: a line `CPUs: 4`.
#[cfg(any(target_os = "redox", test))]
fn count_in(text: &str) -> Option<u16> {
    let count = text.lines().find_map(|line| line.strip_prefix("CPUs:"))?;
    count.trim().parse().ok().filter(|count| *count > 0)
}

thread_local! {
    static SETTLED: Cell<Option<u32>> = const { Cell::new(None) };
}

/// From now on the calling thread is one of `cpu`, whatever the system says: the worker of that CPU's queue.
pub(crate) fn settle(cpu: u32) {
    SETTLED.set(Some(cpu));
}

/// The CPU that the calling thread is one of: that which it has been settled as, or else which it runs on, where the system
/// says.
pub fn current() -> Option<u32> {
    SETTLED.get().or_else(running_on)
}

/// The CPU that the calling thread runs on, whatever it has been settled as, where the system says.
#[cfg(target_os = "linux")]
pub(crate) fn running_on() -> Option<u32> {
    u32::try_from(rustix::thread::sched_getcpu()).ok()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn running_on() -> Option<u32> {
    None
}

/// Where a thread may run, as it was when this was made: nothing that is done with it goes beyond.
#[cfg_attr(
    not(feature = "io-uring-compat"),
    allow(dead_code, reason = "for the clients of rings")
)]
pub(crate) struct Stay {
    #[cfg(target_os = "linux")]
    allowed: rustix::thread::CpuSet,
}

#[cfg(target_os = "linux")]
#[cfg_attr(
    not(feature = "io-uring-compat"),
    allow(dead_code, reason = "for the clients of rings")
)]
impl Stay {
    /// Where the calling thread may run.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new() -> std::io::Result<Self> {
        let allowed = rustix::thread::sched_getaffinity(None)?;
        Ok(Self { allowed })
    }

    /// Has the calling thread run on those of `cpus` that it may run on, and on no others; says whether there are any. If
    /// not, nothing changes.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn on(&self, cpus: &[u32]) -> std::io::Result<bool> {
        use rustix::thread::{CpuSet, sched_setaffinity};
        let mut set = CpuSet::new();
        for cpu in cpus.iter().filter_map(|cpu| usize::try_from(*cpu).ok()) {
            if cpu < CpuSet::MAX_CPU && self.allowed.is_set(cpu) {
                set.set(cpu);
            }
        }
        if set.count() == 0 {
            return Ok(false);
        }
        sched_setaffinity(None, &set)?;
        Ok(true)
    }

    /// Lets the calling thread run wherever it might at first.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn anywhere(&self) -> std::io::Result<()> {
        Ok(rustix::thread::sched_setaffinity(None, &self.allowed)?)
    }

    /// On how many CPUs.
    pub(crate) fn cpus(&self) -> u32 {
        self.allowed.count()
    }
}

#[cfg(not(target_os = "linux"))]
#[cfg_attr(
    not(feature = "io-uring-compat"),
    allow(dead_code, reason = "for the clients of rings")
)]
impl Stay {
    /// # Errors
    /// Always: the system does not say.
    pub(crate) fn new() -> std::io::Result<Self> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Never on any: there is none of these.
    pub(crate) fn on(&self, _cpus: &[u32]) -> std::io::Result<bool> {
        Ok(false)
    }

    /// It does.
    pub(crate) fn anywhere(&self) -> std::io::Result<()> {
        Ok(())
    }

    /// Not known.
    pub(crate) fn cpus(&self) -> u32 {
        0
    }
}

/// Lets a short sleep of the calling thread be short: Linux adds 50 us to each by default.
pub(crate) fn sharpen_timers() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1_000)) {
        log::debug!("the timer slack could not be set: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_cpu_and_their_number_stays() {
        assert!(count() > 0);
        assert_eq!(count(), count());
    }

    #[test]
    fn what_redox_says_of_its_cpus_is_read() {
        assert_eq!(count_in("CPUs: 4\nVendor: x\nModel: y CPUs: 9\n"), Some(4));
        assert_eq!(count_in("CPUs: 1"), Some(1));
        assert_eq!(count_in("Vendor: x\r\nCPUs:  128 \r\n"), Some(128));
        for text in [
            "",
            "CPUs:",
            "CPUs: 0",
            "CPUs: -1",
            "CPUs: 4 of 8",
            "CPUs: 70000",
            "cpus: 4",
        ] {
            assert_eq!(count_in(text), None, "{text:?}");
        }
    }
}
