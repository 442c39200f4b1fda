//! The driver's settings: the `NVME_*` environment variables in one struct.
//!
//! | variable | default | accepted |
//! | --- | --- | --- |
//! | `NVME_NUM_QUEUES` | 0 | 0 (one I/O queue pair per CPU) to 65535 |
//! | `NVME_QUEUE_DEPTH` | 1024 | 2 to 65536 entries; at most 4096 are used |
//! | `NVME_POLLING_MODE` | adaptive | false, true, adaptive, or a [list](PollingModes) for single queues |
//! | `NVME_POLL_INTERVAL_US` | 10 | 0 (spin) to 1000000 |
//! | `NVME_ZERO_COPY` | true | true, false |
//! | `NVME_SCHEDULER` | cpuaffinity | none, roundrobin, cpuaffinity, priority, deadline |
//! | `NVME_SCHEDULER_WINDOW` | 32 | 0 (as many as the queue holds) to 65536 commands of a queue at the device; the rest waits in the driver, where roundrobin, priority and deadline put it in order |
//! | `NVME_PRIORITY_WEIGHTS` | 16:4:1 | HIGH:MEDIUM:LOW, 1 to 256 each: their shares under priority |
//! | `NVME_MERGE` | false | true, false: whether deadline makes one command of small requests for adjacent blocks |
//! | `NVME_SLOW_US` | 10000 | 0 (only failed ones) to 60000000; commands that take as long are kept for `controller/slow` |
//! | `NVME_BENCHMARK` | 0 | 0, 1 |
//!
//! What is asked is an upper bound: the controller may grant fewer queues and shorter ones, which is normal and
//! shown in `stats`.

use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

mod polling;

pub use polling::{PollingMode, PollingModes};

/// Which queue a request goes to, and when it has its turn there (`NVME_SCHEDULER`). See
/// [`docs::scheduling`](crate::docs::scheduling).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum SchedulerKind {
    /// `none`: each client has one queue and stays on it.
    None,
    /// `roundrobin`: one queue after the other, and on each of them one client after the other.
    RoundRobin,
    /// `cpuaffinity`: the queue of the CPU on which the request was made.
    #[default]
    CpuAffinity,
    /// `priority`: by the request's class.
    Priority,
    /// `deadline`: the earliest deadline first.
    Deadline,
}

impl SchedulerKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::RoundRobin,
        Self::CpuAffinity,
        Self::Priority,
        Self::Deadline,
    ];

    /// What `value` is as a number.
    pub(crate) fn of(value: u8) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| *kind as u8 == value)
            .unwrap_or_default()
    }
}

/// The shares of the classes that have shares, under [`SchedulerKind::Priority`] (`NVME_PRIORITY_WEIGHTS`). Each is 1 to
/// 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Of the class high.
    pub high: u16,
    /// Of the class medium.
    pub medium: u16,
    /// Of the class low.
    pub low: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            high: 16,
            medium: 4,
            low: 1,
        }
    }
}

impl FromStr for Weights {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut weights = text
            .split(':')
            .map(|text| number(text.trim(), 1, 256).and_then(|weight| u16::try_from(weight).ok()));
        let mut next = || weights.next().flatten().ok_or(());
        let (high, medium, low) = (next()?, next()?, next()?);
        match weights.next() {
            None => Ok(Self { high, medium, low }),
            Some(_) => Err(()),
        }
    }
}

/// The driver's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// I/O queue pairs asked for; 0 asks for one per CPU.
    pub num_queues: u16,
    /// Entries of each I/O queue asked for, 2 to 65536; at most 4096 are used, so that command ids have room for generations.
    pub queue_depth: u32,
    /// How completions are noticed, by the queue.
    pub polling: PollingModes,
    /// Microseconds between two looks in polling mode; 0 spins.
    pub poll_interval_us: u32,
    /// Whether data moves by DMA straight from and to the caller's buffer where the backend can map it.
    pub zero_copy: bool,
    /// Which queue a request goes to, and when it has its turn there.
    pub scheduler: SchedulerKind,
    /// Commands of a queue that a scheduler which orders requests has at the device; 0 is as many as the queue holds.
    pub scheduler_window: u32,
    /// Whether small requests for adjacent blocks become one command under [`SchedulerKind::Deadline`].
    pub merge: bool,
    /// The shares of the classes under [`SchedulerKind::Priority`].
    pub weights: Weights,
    /// Commands that take at least so many microseconds from being accepted to being completed are kept, with their
    /// timelines, for `controller/slow`; 0 keeps only those that fail.
    pub slow_us: u32,
    /// Whether `nvme-driver` runs the benchmark and exits.
    pub benchmark: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            num_queues: 0,
            queue_depth: 1024,
            polling: PollingModes::default(),
            poll_interval_us: 10,
            zero_copy: true,
            scheduler: SchedulerKind::CpuAffinity,
            scheduler_window: 32,
            weights: Weights::default(),
            merge: false,
            slow_us: 10_000,
            benchmark: false,
        }
    }
}

/// A setting that cannot be used: which, what it was, and what it may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: \"{value}\" is not accepted; use {accepted}")]
pub struct ConfigError {
    /// The environment variable's name.
    pub variable: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be set to.
    pub accepted: &'static str,
}

/// The names of all variables, in the order of the table above.
pub const VARIABLES: [&str; 11] = [
    "NVME_NUM_QUEUES",
    "NVME_QUEUE_DEPTH",
    "NVME_POLLING_MODE",
    "NVME_POLL_INTERVAL_US",
    "NVME_ZERO_COPY",
    "NVME_SCHEDULER",
    "NVME_SCHEDULER_WINDOW",
    "NVME_PRIORITY_WEIGHTS",
    "NVME_MERGE",
    "NVME_SLOW_US",
    "NVME_BENCHMARK",
];

impl Config {
    /// Reads the environment of the process.
    ///
    /// # Errors
    /// The first variable with a value that is not accepted.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|variable| std::env::var_os(variable))
    }

    /// Reads settings from wherever `lookup` finds them; what it does not find keeps its default.
    ///
    /// # Errors
    /// The first variable with a value that is not accepted. An empty value is not accepted either.
    pub fn from_lookup(mut lookup: impl FnMut(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        for variable in VARIABLES {
            if let Some(value) = lookup(variable) {
                // What is not UTF-8 is no accepted value; shown with its bad bytes replaced.
                config.set(variable, &value.to_string_lossy())?;
            }
        }
        Ok(config)
    }

    /// Sets one of [`VARIABLES`] from its text; spaces around it and the case of words do not matter.
    ///
    /// # Errors
    /// A value that is not accepted; the settings are then as before. A name that is none of [`VARIABLES`] is
    /// answered the same way.
    pub fn set(&mut self, variable: &str, value: &str) -> Result<(), ConfigError> {
        const QUEUES: &str = "a number from 0 (one per CPU) to 65535";
        const DEPTH: &str = "a number of entries from 2 to 65536";
        const INTERVAL: &str = "a number of microseconds from 0 (spin) to 1000000";
        const SCHEDULER: &str = "none, roundrobin, cpuaffinity, priority or deadline";
        const WINDOW: &str = "a number of commands from 0 (as many as the queue holds) to 65536";
        const WEIGHTS: &str = "HIGH:MEDIUM:LOW such as 16:4:1, each from 1 to 256";
        const SLOW: &str = "a number of microseconds from 0 (only failed commands) to 60000000";
        const BOOL: &str = "true or false (or 1, 0, yes, no, on, off)";
        match variable {
            "NVME_NUM_QUEUES" => {
                self.num_queues = accept("NVME_NUM_QUEUES", value, QUEUES, |v| number(v, 0, 65535))? as u16;
            }
            "NVME_QUEUE_DEPTH" => {
                self.queue_depth = accept("NVME_QUEUE_DEPTH", value, DEPTH, |v| number(v, 2, 65536))?;
            }
            "NVME_POLLING_MODE" => {
                self.polling = accept("NVME_POLLING_MODE", value, polling::ACCEPTED, |v| v.parse().ok())?;
            }
            "NVME_POLL_INTERVAL_US" => {
                self.poll_interval_us = accept("NVME_POLL_INTERVAL_US", value, INTERVAL, |v| {
                    number(v, 0, 1_000_000)
                })?;
            }
            "NVME_ZERO_COPY" => {
                self.zero_copy = accept("NVME_ZERO_COPY", value, BOOL, boolean)?;
                if !cfg!(feature = "zero-copy") {
                    log::warn!(
                        "NVME_ZERO_COPY has no effect: this program is built without the cargo feature zero-copy, and copies"
                    );
                }
            }
            "NVME_SCHEDULER" => {
                self.scheduler = accept("NVME_SCHEDULER", value, SCHEDULER, |v| v.parse().ok())?;
            }
            "NVME_SCHEDULER_WINDOW" => {
                self.scheduler_window =
                    accept("NVME_SCHEDULER_WINDOW", value, WINDOW, |v| number(v, 0, 65_536))?;
            }
            "NVME_PRIORITY_WEIGHTS" => {
                self.weights = accept("NVME_PRIORITY_WEIGHTS", value, WEIGHTS, |v| v.parse().ok())?;
            }
            "NVME_MERGE" => self.merge = accept("NVME_MERGE", value, BOOL, boolean)?,
            "NVME_SLOW_US" => {
                self.slow_us = accept("NVME_SLOW_US", value, SLOW, |v| number(v, 0, 60_000_000))?;
            }
            "NVME_BENCHMARK" => self.benchmark = accept("NVME_BENCHMARK", value, BOOL, boolean)?,
            _ => {
                return Err(ConfigError {
                    variable: "NVME_*",
                    value: variable.to_owned(),
                    accepted: "one of NVME_NUM_QUEUES, NVME_QUEUE_DEPTH, NVME_POLLING_MODE, NVME_POLL_INTERVAL_US, \
                               NVME_ZERO_COPY, NVME_SCHEDULER, NVME_SCHEDULER_WINDOW, NVME_PRIORITY_WEIGHTS, NVME_MERGE, \
                               NVME_SLOW_US, NVME_BENCHMARK",
                });
            }
        }
        Ok(())
    }
}

fn accept<T>(
    variable: &'static str,
    value: &str,
    accepted: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ConfigError> {
    parse(&value.trim().to_ascii_lowercase()).ok_or_else(|| ConfigError {
        variable,
        value: value.to_owned(),
        accepted,
    })
}

fn number(text: &str, min: u32, max: u32) -> Option<u32> {
    // `parse` would take a plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl FromStr for SchedulerKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Self::None),
            "roundrobin" => Ok(Self::RoundRobin),
            "cpuaffinity" => Ok(Self::CpuAffinity),
            "priority" => Ok(Self::Priority),
            "deadline" => Ok(Self::Deadline),
            _ => Err(()),
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::RoundRobin => "roundrobin",
            Self::CpuAffinity => "cpuaffinity",
            Self::Priority => "priority",
            Self::Deadline => "deadline",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|variable| {
            pairs
                .iter()
                .find(|(name, _)| *name == variable)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(read(&[]), Ok(Config::default()));
    }

    #[test]
    fn each_variable_sets_its_field() {
        let config = read(&[
            ("NVME_NUM_QUEUES", "4"),
            ("NVME_QUEUE_DEPTH", "65536"),
            ("NVME_POLLING_MODE", " True "),
            ("NVME_POLL_INTERVAL_US", "0"),
            ("NVME_ZERO_COPY", "off"),
            ("NVME_SCHEDULER", "RoundRobin"),
            ("NVME_SCHEDULER_WINDOW", "0"),
            ("NVME_PRIORITY_WEIGHTS", "256:2:1"),
            ("NVME_MERGE", "yes"),
            ("NVME_SLOW_US", "0"),
            ("NVME_BENCHMARK", "1"),
        ]);
        let wanted = Config {
            num_queues: 4,
            queue_depth: 65536,
            polling: PollingMode::Polling.into(),
            poll_interval_us: 0,
            zero_copy: false,
            scheduler: SchedulerKind::RoundRobin,
            scheduler_window: 0,
            weights: Weights {
                high: 256,
                medium: 2,
                low: 1,
            },
            merge: true,
            slow_us: 0,
            benchmark: true,
        };
        assert_eq!(config, Ok(wanted));
        assert_eq!(
            read(&[("NVME_POLLING_MODE", "false")]).map(|c| c.polling),
            Ok(PollingMode::Interrupt.into())
        );
        for kind in SchedulerKind::ALL {
            let config = read(&[("NVME_SCHEDULER", &kind.to_string())]);
            assert_eq!(config.map(|config| config.scheduler), Ok(kind));
            assert_eq!(SchedulerKind::of(kind as u8), kind);
        }
    }

    #[test]
    fn a_bad_value_names_the_variable_the_value_and_what_is_accepted() {
        for (variable, value) in [
            ("NVME_NUM_QUEUES", "65536"),
            ("NVME_NUM_QUEUES", "-1"),
            ("NVME_NUM_QUEUES", "+1"),
            ("NVME_NUM_QUEUES", ""),
            ("NVME_QUEUE_DEPTH", "1"),
            ("NVME_QUEUE_DEPTH", "65537"),
            ("NVME_QUEUE_DEPTH", "1e3"),
            ("NVME_POLLING_MODE", "sometimes"),
            ("NVME_POLL_INTERVAL_US", "10us"),
            ("NVME_POLL_INTERVAL_US", "99999999999999999999"),
            ("NVME_ZERO_COPY", "maybe"),
            ("NVME_SCHEDULER", "fifo"),
            ("NVME_SCHEDULER_WINDOW", "65537"),
            ("NVME_PRIORITY_WEIGHTS", "16:4"),
            ("NVME_PRIORITY_WEIGHTS", "16:4:1:1"),
            ("NVME_PRIORITY_WEIGHTS", "16:4:0"),
            ("NVME_PRIORITY_WEIGHTS", "257:4:1"),
            ("NVME_PRIORITY_WEIGHTS", "16:+4:1"),
            ("NVME_MERGE", "sometimes"),
            ("NVME_SLOW_US", "60000001"),
            ("NVME_SLOW_US", "1ms"),
            ("NVME_BENCHMARK", "2"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err();
            assert_eq!((error.variable, error.value.as_str()), (variable, value));
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("{variable}: \"{value}\" is not accepted; use ")),
                "{text}"
            );
            assert!(!error.accepted.is_empty());
        }
    }
}
