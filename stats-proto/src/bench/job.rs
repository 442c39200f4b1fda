use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::big_int::{big_u64, big_u64_option};

/// The value of `schema` in this document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BenchJobSchema {
    /// `"nvme-bench-job"`.
    #[default]
    #[serde(rename = "nvme-bench-job")]
    NvmeBenchJob,
}

/// What a job does, in which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Sequential reads.
    Read,
    /// Sequential writes.
    Write,
    /// Reads at random places.
    #[default]
    RandRead,
    /// Writes at random places.
    RandWrite,
    /// A sequential mix of reads and writes.
    Rw,
    /// A mix of reads and writes at random places.
    RandRw,
}

impl Pattern {
    /// Whether it is a mix of reads and writes.
    #[must_use]
    pub const fn is_mix(self) -> bool {
        matches!(self, Self::Rw | Self::RandRw)
    }

    /// Whether places are chosen at random.
    #[must_use]
    pub const fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    /// The name that fio gives it.
    #[must_use]
    pub const fn fio_name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::Rw => "rw",
            Self::RandRw => "randrw",
        }
    }
}

/// How the requests of a job stand against others'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobPriority {
    /// Before all others.
    Urgent,
    /// Before others.
    High,
    /// As everybody.
    #[default]
    Medium,
    /// When hardly anybody else wants to.
    Low,
}

/// The longest deadline of a job's requests, in microseconds.
pub const MAX_DEADLINE_US: u32 = 30_000_000;

/// A benchmark that the driver is asked to run: the document written to `nvme:N/bench`.
///
/// Members with a default may be left out; members that are not known are refused, so that a misspelt one is
/// not silently without effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchJob {
    /// `"nvme-bench-job"`.
    pub schema: BenchJobSchema,
    /// The version of the document's shape.
    pub version: Version,
    /// What to do.
    pub pattern: Pattern,
    /// The share of reads in percent, for a mix; without meaning for other patterns. Default 50.
    #[serde(default = "default_read_percent")]
    pub read_percent: u8,
    /// The size of each request in bytes.
    pub block_bytes: u32,
    /// How many requests each job keeps outstanding.
    pub queue_depth: u32,
    /// How many jobs run at the same time, each on its own queue where there are enough. Default 1.
    #[serde(default = "default_jobs")]
    pub jobs: u32,
    /// How long to run after the warm-up, in ns; `null`: until `ios` are done.
    #[serde(with = "big_u64_option", default)]
    pub time_ns: Option<u64>,
    /// How many requests each job does after the warm-up; `null`: until the time is over. With both, what
    /// comes first.
    #[serde(with = "big_u64_option", default)]
    pub ios: Option<u64>,
    /// How long to run before anything is measured, in ns. Default 0.
    #[serde(with = "big_u64", default)]
    pub warmup_ns: u64,
    /// The first byte of the region, from the start of the namespace. Default 0.
    #[serde(with = "big_u64", default)]
    pub offset_bytes: u64,
    /// The size of the region in bytes; `null`: to the end of the namespace.
    #[serde(with = "big_u64_option", default)]
    pub size_bytes: Option<u64>,
    /// The seed of everything that is random: the same seed does the same requests. Default 1.
    #[serde(with = "big_u64", default = "default_random_seed")]
    pub random_seed: u64,
    /// The class of its requests, which a scheduler that orders requests heeds. Default medium.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: JobPriority,
    /// In how many microseconds from its arrival each request should be done, up to 30 s; `null`: that does not
    /// matter.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deadline_us: Option<NonZeroU32>,
    /// That the data in the region may be overwritten. Without it a job that writes is refused. Default
    /// false.
    #[serde(default)]
    pub destructive: bool,
    /// The serial number of the device that the user means to write to; the driver refuses a job for another
    /// one.
    #[serde(default)]
    pub serial: Option<String>,
}

/// Members that an older driver does not know are written only if they say something.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn default_read_percent() -> u8 {
    50
}

const fn default_jobs() -> u32 {
    1
}

const fn default_random_seed() -> u64 {
    1
}

impl Default for BenchJob {
    /// Random reads of 4 KiB at a depth of 1 over the whole namespace, for 10 s.
    fn default() -> Self {
        Self {
            schema: BenchJobSchema::default(),
            version: Version::CURRENT,
            pattern: Pattern::RandRead,
            read_percent: default_read_percent(),
            block_bytes: 4096,
            queue_depth: 1,
            jobs: default_jobs(),
            time_ns: Some(10_000_000_000),
            ios: None,
            warmup_ns: 0,
            offset_bytes: 0,
            size_bytes: None,
            random_seed: default_random_seed(),
            priority: JobPriority::default(),
            deadline_us: None,
            destructive: false,
            serial: None,
        }
    }
}

/// What is wrong with a job, as far as it shows without a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// `read_percent` above 100.
    #[error("read_percent is {0}: a share lies between 0 and 100")]
    ReadPercent(u8),
    /// `block_bytes` is 0, no multiple of 512, or too large.
    #[error("block_bytes is {0}: it must be a multiple of 512, from 512 to {max}", max = BenchJob::MAX_BLOCK_BYTES)]
    BlockBytes(u32),
    /// `queue_depth` is 0 or too large.
    #[error("queue_depth is {0}: it must lie between 1 and {max}", max = BenchJob::MAX_QUEUE_DEPTH)]
    QueueDepth(u32),
    /// `jobs` is 0 or too large.
    #[error("jobs is {0}: it must lie between 1 and {max}", max = BenchJob::MAX_JOBS)]
    Jobs(u32),
    /// Neither `time_ns` nor `ios`.
    #[error("neither time_ns nor ios is given: without one of them the job would never end")]
    NoEnd,
    /// `time_ns` or `ios` is 0.
    #[error("{0} is 0: the job would do nothing; leave it out or give at least 1")]
    Nothing(&'static str),
    /// A time beyond any clock.
    #[error("warmup_ns and time_ns add up to more than 2^64 - 1 ns: choose shorter times")]
    TooLong,
    /// The region's start or size is no multiple of 512.
    #[error("{member} is {bytes}: it must be a multiple of 512, the smallest block there is")]
    Unaligned {
        /// `offset_bytes` or `size_bytes`.
        member: &'static str,
        /// Its value.
        bytes: u64,
    },
    /// The region holds less than one request.
    #[error("size_bytes is {size_bytes}: the region has no room for one request of {block_bytes} bytes")]
    TooSmall {
        /// The region's size.
        size_bytes: u64,
        /// The request's size.
        block_bytes: u32,
    },
    /// The region ends beyond 2^64.
    #[error("offset_bytes and size_bytes add up to more than 2^64 - 1: no namespace is that large")]
    TooFar,
    /// A job that writes without leave to.
    #[error(
        "pattern {} writes, which destroys what is on the device: set destructive to true if that is what you want",
        .0.fio_name()
    )]
    NotDestructive(Pattern),
    /// `deadline_us` is too long.
    #[error("deadline_us is {0}: it must lie between 1 and {MAX_DEADLINE_US}")]
    Deadline(u32),
    /// `serial` is empty.
    #[error("serial is empty: give the device's serial number, or null to leave it out")]
    EmptySerial,
}

impl BenchJob {
    /// The largest request: 64 MiB.
    pub const MAX_BLOCK_BYTES: u32 = 64 << 20;
    /// The largest depth: a queue has at most 65,536 entries, one of which stays free.
    pub const MAX_QUEUE_DEPTH: u32 = 65_535;
    /// The most jobs: a controller has at most 65,535 I/O queues.
    pub const MAX_JOBS: u32 = 65_535;

    /// Whether it writes anything.
    #[must_use]
    pub const fn writes(&self) -> bool {
        match self.pattern {
            Pattern::Read | Pattern::RandRead => false,
            Pattern::Write | Pattern::RandWrite => true,
            Pattern::Rw | Pattern::RandRw => self.read_percent < 100,
        }
    }

    /// Whether it reads anything.
    #[must_use]
    pub const fn reads(&self) -> bool {
        match self.pattern {
            Pattern::Read | Pattern::RandRead => true,
            Pattern::Write | Pattern::RandWrite => false,
            Pattern::Rw | Pattern::RandRw => self.read_percent > 0,
        }
    }

    /// The memory that all requests of the job together need, in bytes: what a driver compares with what it
    /// has before it starts.
    #[must_use]
    pub const fn buffer_bytes(&self) -> u128 {
        self.block_bytes as u128 * self.queue_depth as u128 * self.jobs as u128
    }

    /// Checks everything that can be checked without knowing the device. What is left: that sizes are
    /// multiples of its logical block, that the region lies on it, that the serial number is its own, and
    /// that there is memory enough.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), JobError> {
        const SECTOR: u64 = 512;
        if self.read_percent > 100 {
            return Err(JobError::ReadPercent(self.read_percent));
        }
        let whole = u64::from(self.block_bytes).is_multiple_of(SECTOR);
        if self.block_bytes == 0 || self.block_bytes > Self::MAX_BLOCK_BYTES || !whole {
            return Err(JobError::BlockBytes(self.block_bytes));
        }
        if !(1..=Self::MAX_QUEUE_DEPTH).contains(&self.queue_depth) {
            return Err(JobError::QueueDepth(self.queue_depth));
        }
        if !(1..=Self::MAX_JOBS).contains(&self.jobs) {
            return Err(JobError::Jobs(self.jobs));
        }
        match (self.time_ns, self.ios) {
            (None, None) => return Err(JobError::NoEnd),
            (Some(0), _) => return Err(JobError::Nothing("time_ns")),
            (_, Some(0)) => return Err(JobError::Nothing("ios")),
            _ => {}
        }
        if self.warmup_ns.checked_add(self.time_ns.unwrap_or(0)).is_none() {
            return Err(JobError::TooLong);
        }
        let size_bytes = self.size_bytes.unwrap_or(u64::from(self.block_bytes));
        for (member, bytes) in [("offset_bytes", self.offset_bytes), ("size_bytes", size_bytes)] {
            if !bytes.is_multiple_of(SECTOR) {
                return Err(JobError::Unaligned { member, bytes });
            }
        }
        if size_bytes < u64::from(self.block_bytes) {
            return Err(JobError::TooSmall {
                size_bytes,
                block_bytes: self.block_bytes,
            });
        }
        if self.offset_bytes.checked_add(size_bytes).is_none() {
            return Err(JobError::TooFar);
        }
        if let Some(deadline_us) = self
            .deadline_us
            .filter(|deadline_us| deadline_us.get() > MAX_DEADLINE_US)
        {
            return Err(JobError::Deadline(deadline_us.get()));
        }
        if self.writes() && !self.destructive {
            return Err(JobError::NotDestructive(self.pattern));
        }
        if self.serial.as_deref() == Some("") {
            return Err(JobError::EmptySerial);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn with(change: impl FnOnce(&mut BenchJob)) -> Result<(), JobError> {
        let mut job = BenchJob::default();
        change(&mut job);
        job.validate()
    }

    #[test]
    fn the_default_job_is_valid() {
        assert_eq!(BenchJob::default().validate(), Ok(()));
    }

    #[test]
    fn each_mistake_has_its_error() {
        assert_eq!(
            with(|job| job.read_percent = 101),
            Err(JobError::ReadPercent(101))
        );
        for bytes in [0, 511, 4097, BenchJob::MAX_BLOCK_BYTES + 512] {
            assert_eq!(
                with(|job| job.block_bytes = bytes),
                Err(JobError::BlockBytes(bytes))
            );
        }
        for depth in [0, BenchJob::MAX_QUEUE_DEPTH + 1] {
            assert_eq!(
                with(|job| job.queue_depth = depth),
                Err(JobError::QueueDepth(depth))
            );
        }
        for jobs in [0, BenchJob::MAX_JOBS + 1] {
            assert_eq!(with(|job| job.jobs = jobs), Err(JobError::Jobs(jobs)));
        }
        assert_eq!(with(|job| job.time_ns = None), Err(JobError::NoEnd));
        assert_eq!(
            with(|job| job.time_ns = Some(0)),
            Err(JobError::Nothing("time_ns"))
        );
        assert_eq!(with(|job| job.ios = Some(0)), Err(JobError::Nothing("ios")));
        assert_eq!(with(|job| job.warmup_ns = u64::MAX), Err(JobError::TooLong));
        assert_eq!(
            with(|job| job.offset_bytes = 100),
            Err(JobError::Unaligned {
                member: "offset_bytes",
                bytes: 100
            })
        );
        assert_eq!(
            with(|job| job.size_bytes = Some(8193)),
            Err(JobError::Unaligned {
                member: "size_bytes",
                bytes: 8193
            })
        );
        assert_eq!(
            with(|job| job.size_bytes = Some(3584)),
            Err(JobError::TooSmall {
                size_bytes: 3584,
                block_bytes: 4096
            })
        );
        assert_eq!(
            with(|job| job.offset_bytes = u64::MAX - 511),
            Err(JobError::TooFar)
        );
        assert_eq!(
            with(|job| job.serial = Some(String::new())),
            Err(JobError::EmptySerial)
        );
    }

    #[test]
    fn a_job_that_writes_needs_leave_to() {
        for pattern in [Pattern::Write, Pattern::RandWrite, Pattern::Rw, Pattern::RandRw] {
            assert_eq!(
                with(|job| job.pattern = pattern),
                Err(JobError::NotDestructive(pattern))
            );
            let allowed = with(|job| {
                job.pattern = pattern;
                job.destructive = true;
            });
            assert_eq!(allowed, Ok(()));
        }
        let only_reads = with(|job| {
            job.pattern = Pattern::RandRw;
            job.read_percent = 100;
        });
        assert_eq!(only_reads, Ok(()));
    }

    #[test]
    fn what_a_job_does_follows_from_pattern_and_share() {
        let does = |pattern, read_percent| {
            let job = BenchJob {
                pattern,
                read_percent,
                ..BenchJob::default()
            };
            (job.reads(), job.writes())
        };
        assert_eq!(does(Pattern::Read, 0), (true, false));
        assert_eq!(does(Pattern::RandWrite, 100), (false, true));
        assert_eq!(does(Pattern::Rw, 50), (true, true));
        assert_eq!(does(Pattern::RandRw, 0), (false, true));
        assert_eq!(does(Pattern::RandRw, 100), (true, false));
    }

    #[test]
    fn an_unknown_member_is_refused_by_name() {
        let mut json = serde_json::to_value(BenchJob::default()).unwrap();
        json["queue_dept"] = json!(32);
        let error = serde_json::from_value::<BenchJob>(json).unwrap_err().to_string();
        assert!(error.contains("queue_dept"), "{error}");
    }

    #[test]
    fn the_buffers_of_the_largest_job_are_counted_without_overflow() {
        let job = BenchJob {
            block_bytes: u32::MAX,
            queue_depth: u32::MAX,
            jobs: u32::MAX,
            ..BenchJob::default()
        };
        assert_eq!(job.buffer_bytes(), u128::from(u32::MAX).pow(3));
    }

    fn any_job() -> impl Strategy<Value = BenchJob> {
        let patterns = prop::sample::select(vec![Pattern::Read, Pattern::RandWrite, Pattern::RandRw]);
        let shape = (patterns, 0_u8..104, 0_u32..10, 0_u32..4, 0_u32..3);
        let ends = (
            prop::option::of(0_u64..3),
            prop::option::of(any::<u64>()),
            any::<u64>(),
        );
        let region = (any::<u64>(), prop::option::of(0_u64..20), any::<bool>());
        (shape, ends, region).prop_map(|(shape, ends, region)| BenchJob {
            pattern: shape.0,
            read_percent: shape.1,
            block_bytes: shape.2 * 256,
            queue_depth: shape.3,
            jobs: shape.4,
            ios: ends.0,
            time_ns: ends.1,
            warmup_ns: ends.2 >> 1,
            offset_bytes: region.0 & !0xff,
            size_bytes: region.1.map(|size| size * 512),
            destructive: region.2,
            ..BenchJob::default()
        })
    }

    #[test]
    fn a_valid_job_passes_the_schema_and_is_read_back() {
        let schema = serde_json::from_str(schema::BENCH).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let mut valid = 0;
        proptest!(|(job in any_job())| {
            let json = serde_json::to_value(&job).unwrap();
            if job.validate().is_ok() {
                prop_assert!(validator.is_valid(&json), "{}", json);
            }
            prop_assert_eq!(serde_json::from_value::<BenchJob>(json).unwrap(), job);
        });
        // The strategy is of use only if some of its jobs are valid.
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for _ in 0..500 {
            let tree = any_job().new_tree(&mut runner).unwrap();
            valid += u32::from(proptest::strategy::ValueTree::current(&tree).validate().is_ok());
        }
        assert!(valid > 10, "{valid}");
    }
}
