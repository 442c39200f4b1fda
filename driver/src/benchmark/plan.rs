//! A job held against the device that it is to run on.

use stats_proto::bench::{BenchJob, JobPriority, Pattern};
use stats_proto::hist::BUCKETS;

use super::{Failure, MAX_MEMORY_BYTES};
use crate::controller::Identity;
use crate::io_scheduler::{Class, Priority};
use crate::namespace::{Namespace, NamespaceState};

/// What a generator does, in the device's terms. Everything is checked: no request of it can leave the
/// namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) nsid: u32,
    pub(super) jobs: u32,
    pub(super) queue_depth: u32,
    pub(super) block_bytes: usize,
    /// Blocks of the namespace in one request.
    pub(super) blocks: u64,
    /// The region's first block.
    pub(super) first_block: u64,
    /// Requests that the region has room for, side by side.
    pub(super) places: u64,
    pub(super) random: bool,
    pub(super) mix: Mix,
    pub(super) warmup_ns: u64,
    pub(super) time_ns: Option<u64>,
    pub(super) ios: Option<u64>,
    pub(super) random_seed: u64,
    pub(super) class: Class,
}

/// Which requests are reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    Reads,
    Writes,
    /// So many of a hundred are reads.
    Percent(u8),
}

impl Mix {
    pub(super) const fn reads(self) -> bool {
        !matches!(self, Self::Writes)
    }

    pub(super) const fn writes(self) -> bool {
        !matches!(self, Self::Reads)
    }
}

/// The device that a job is held against.
pub(super) struct Device<'a> {
    pub(super) serial: &'a str,
    /// A program, whose data is nobody's.
    pub(super) emulated: bool,
    pub(super) nsid: u32,
    pub(super) lba_bytes: u64,
    pub(super) blocks: u64,
}

impl Plan {
    pub(super) fn new(job: &BenchJob, identity: &Identity, namespace: &Namespace) -> Result<Self, Failure> {
        job.validate()?;
        if let NamespaceState::Unusable(why) = &namespace.state {
            return Err(Failure::Unusable {
                nsid: namespace.nsid,
                why: why.clone(),
            });
        }
        let device = Device {
            serial: &identity.serial,
            emulated: identity.emulated,
            nsid: namespace.nsid,
            lba_bytes: namespace.lba_bytes(),
            blocks: namespace.blocks,
        };
        Self::for_device(job, &device)
    }

    pub(super) fn for_device(job: &BenchJob, device: &Device<'_>) -> Result<Self, Failure> {
        job.validate()?;
        match &job.serial {
            Some(asked) if *asked != device.serial => {
                return Err(Failure::OtherDevice {
                    asked: asked.clone(),
                    serial: device.serial.to_owned(),
                });
            }
            None if job.writes() && !device.emulated => {
                return Err(Failure::SerialNeeded {
                    serial: device.serial.to_owned(),
                });
            }
            _ => {}
        }
        let lba_bytes = device.lba_bytes.max(1);
        let namespace_bytes = device.blocks.saturating_mul(lba_bytes);
        let size_bytes = job
            .size_bytes
            .unwrap_or(namespace_bytes.saturating_sub(job.offset_bytes));
        let block_bytes = u64::from(job.block_bytes);
        for (member, bytes) in [
            ("block_bytes", block_bytes),
            ("offset_bytes", job.offset_bytes),
            ("size_bytes", size_bytes),
        ] {
            if !bytes.is_multiple_of(lba_bytes) {
                return Err(Failure::Unaligned {
                    member,
                    bytes,
                    lba_bytes,
                });
            }
        }
        let places = size_bytes / block_bytes;
        let on_it = job
            .offset_bytes
            .checked_add(size_bytes)
            .is_some_and(|end| end <= namespace_bytes);
        if !on_it || places == 0 {
            return Err(Failure::Region {
                offset_bytes: job.offset_bytes,
                size_bytes,
                namespace_bytes,
            });
        }
        let bytes = memory_bytes(job);
        if bytes > u128::from(MAX_MEMORY_BYTES) {
            return Err(Failure::TooLarge { bytes });
        }
        Ok(Self {
            nsid: device.nsid,
            jobs: job.jobs,
            queue_depth: job.queue_depth,
            block_bytes: job.block_bytes as usize,
            blocks: block_bytes / lba_bytes,
            first_block: job.offset_bytes / lba_bytes,
            places,
            random: job.pattern.is_random(),
            mix: match job.pattern {
                Pattern::Read | Pattern::RandRead => Mix::Reads,
                Pattern::Write | Pattern::RandWrite => Mix::Writes,
                Pattern::Rw | Pattern::RandRw => match job.read_percent {
                    0 => Mix::Writes,
                    100 => Mix::Reads,
                    percent => Mix::Percent(percent),
                },
            },
            warmup_ns: job.warmup_ns,
            time_ns: job.time_ns,
            ios: job.ios,
            random_seed: job.random_seed,
            class: Class {
                priority: match job.priority {
                    JobPriority::Urgent => Priority::Urgent,
                    JobPriority::High => Priority::High,
                    JobPriority::Medium => Priority::Medium,
                    JobPriority::Low => Priority::Low,
                },
                deadline_us: job.deadline_us,
            },
        })
    }

    /// When the job alone, after the warm-up, has to end for its time: `u64::MAX` if it ends with a number of
    /// requests.
    pub(super) const fn end_ns(&self, started_ns: u64) -> u64 {
        match self.time_ns {
            Some(time_ns) => started_ns.saturating_add(time_ns),
            None => u64::MAX,
        }
    }
}

/// Buffers in whole pages, one set for each side, and three histograms for each side.
fn memory_bytes(job: &BenchJob) -> u128 {
    let sides = u128::from(job.reads()) + u128::from(job.writes());
    let buffer = u128::from(job.block_bytes).next_multiple_of(4096);
    let histograms = 3 * BUCKETS as u128 * size_of::<u64>() as u128;
    u128::from(job.jobs) * sides * (u128::from(job.queue_depth) * buffer + histograms)
}
