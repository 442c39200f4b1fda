//! From the command line to the job that the driver is asked to run.

use std::num::NonZeroU32;

use stats_proto::Version;
use stats_proto::bench::{BenchJob, BenchJobSchema, JobError, JobPriority, MAX_DEADLINE_US, Pattern};

use crate::args::{BenchArgs, PatternName, PriorityName};
use crate::error::Error;

const DEFAULT_TIME_NS: u64 = 10_000_000_000;

/// The job of a command line, checked as far as that is possible without a device. Whether it may write is checked by
/// [`safety`](super::safety), which knows what would be lost.
///
/// # Errors
/// Usage, naming the option, its value and what is accepted.
pub fn from_args(args: &BenchArgs) -> Result<BenchJob, Error> {
    let pattern = pattern(args)?;
    let job = BenchJob {
        schema: BenchJobSchema::default(),
        version: Version::CURRENT,
        pattern,
        read_percent: read_percent(args).unwrap_or(50),
        block_bytes: u32::try_from(args.bs).map_err(|_| {
            Error::usage(
                format!("--bs {} is too large", args.bs),
                format!("a request has at most {} bytes", BenchJob::MAX_BLOCK_BYTES),
            )
        })?,
        queue_depth: args.qd,
        jobs: args.jobs,
        time_ns: args.time.or(if args.ios.is_none() {
            Some(DEFAULT_TIME_NS)
        } else {
            None
        }),
        ios: args.ios,
        warmup_ns: args.warmup,
        offset_bytes: args.offset,
        size_bytes: args.size,
        random_seed: args.random_seed,
        priority: match args.prio {
            PriorityName::Urgent => JobPriority::Urgent,
            PriorityName::High => JobPriority::High,
            PriorityName::Medium => JobPriority::Medium,
            PriorityName::Low => JobPriority::Low,
        },
        deadline_us: args.deadline.map(deadline_us).transpose()?,
        destructive: args.destructive,
        serial: args.yes_destroy.clone(),
    };
    match job.validate() {
        Ok(()) | Err(JobError::NotDestructive(_)) => Ok(job),
        Err(error) => Err(Error::usage(in_options(&error), "nvmectl bench --help")),
    }
}

fn deadline_us(deadline_ns: u64) -> Result<NonZeroU32, Error> {
    u32::try_from(deadline_ns.div_ceil(1000))
        .ok()
        .filter(|deadline_us| *deadline_us <= MAX_DEADLINE_US)
        .and_then(NonZeroU32::new)
        .ok_or_else(|| Error::usage("--deadline must lie between 1us and 30s", "nvmectl bench --help"))
}

/// The pattern that fio calls `name`.
pub fn pattern_of(name: PatternName) -> Pattern {
    match name {
        PatternName::Read => Pattern::Read,
        PatternName::Write => Pattern::Write,
        PatternName::Randread => Pattern::RandRead,
        PatternName::Randwrite => Pattern::RandWrite,
        PatternName::Rw => Pattern::Rw,
        PatternName::Randrw => Pattern::RandRw,
    }
}

fn pattern(args: &BenchArgs) -> Result<Pattern, Error> {
    let by_flag = [
        (args.read, Pattern::Read),
        (args.write, Pattern::Write),
        (args.randread, Pattern::RandRead),
        (args.randwrite, Pattern::RandWrite),
        (args.randrw, Pattern::RandRw),
    ];
    let by_flag = by_flag.iter().find(|(set, _)| *set).map(|(_, pattern)| *pattern);
    let by_name = args.rw.map(pattern_of);
    match (by_flag.or(by_name), read_percent(args)) {
        (Some(pattern), Some(_)) if !pattern.is_mix() => Err(Error::usage(
            format!(
                "--mix does not go with the pattern {}, which is no mix",
                pattern.fio_name()
            ),
            "use --rw rw or --rw randrw with it, or --mix alone",
        )),
        (Some(pattern), _) => Ok(pattern),
        (None, Some(_)) => Ok(Pattern::RandRw),
        (None, None) => Ok(Pattern::RandRead),
    }
}

/// The share of reads, from whichever of the two options gives it.
fn read_percent(args: &BenchArgs) -> Option<u8> {
    let by_writes = args.mix_write.map(|percent| 100u8.saturating_sub(percent));
    args.mix.or(by_writes)
}

/// What `error` says, in the words of the command line.
fn in_options(error: &JobError) -> String {
    match error {
        JobError::EmptySerial => {
            "--yes-destroy is empty: give the device's serial number, or leave the option out".to_owned()
        }
        JobError::Jobs(_) => format!("--{error}"),
        error => with_options(&error.to_string()),
    }
}

/// `message` about a job with the job's members as the options that set them.
pub fn with_options(message: &str) -> String {
    const OPTIONS: [(&str, &str); 10] = [
        ("queue_depth, jobs or block_bytes", "--qd, --jobs or --bs"),
        ("block_bytes", "--bs"),
        ("queue_depth", "--qd"),
        ("offset_bytes", "--offset"),
        ("size_bytes", "--size"),
        ("time_ns", "--time"),
        ("warmup_ns", "--warmup"),
        ("read_percent", "--mix"),
        ("nor ios is", "nor --ios is"),
        ("in the job's serial if", "after --yes-destroy= if"),
    ];
    let message = OPTIONS
        .iter()
        .fold(message.to_owned(), |message, (member, option)| {
            message.replace(member, option)
        });
    match message.strip_prefix("ios is ") {
        Some(rest) => format!("--ios is {rest}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn job(line: &str) -> Result<BenchJob, Error> {
        let cli =
            Cli::try_parse_from(["nvmectl", "bench"].into_iter().chain(line.split_whitespace())).unwrap();
        match cli.command {
            Command::Bench(args) => from_args(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_said_is_a_short_random_read() {
        let wanted = BenchJob {
            warmup_ns: 1_000_000_000,
            ..BenchJob::default()
        };
        assert_eq!(job("").unwrap(), wanted);
    }

    #[test]
    fn every_pattern_by_flag_and_by_name() {
        for (line, pattern) in [
            ("--read", Pattern::Read),
            ("--write", Pattern::Write),
            ("--randread", Pattern::RandRead),
            ("--randwrite", Pattern::RandWrite),
            ("--randrw", Pattern::RandRw),
            ("--rw read", Pattern::Read),
            ("--rw write", Pattern::Write),
            ("--rw randread", Pattern::RandRead),
            ("--rw randwrite", Pattern::RandWrite),
            ("--rw rw", Pattern::Rw),
            ("--rw readwrite", Pattern::Rw),
            ("--readwrite rw", Pattern::Rw),
            ("--rw randrw", Pattern::RandRw),
            ("--mix 70", Pattern::RandRw),
            ("--rw rw --mix 70", Pattern::Rw),
        ] {
            assert_eq!(job(line).unwrap().pattern, pattern, "{line}");
        }
        assert_eq!(job("--mix 70").unwrap().read_percent, 70);
        let by_writes = job("--rwmixwrite 30").unwrap();
        assert_eq!((by_writes.pattern, by_writes.read_percent), (Pattern::RandRw, 70));
    }

    #[test]
    fn an_end_by_number_has_no_time_of_its_own() {
        let by_number = job("--ios 100").unwrap();
        assert_eq!((by_number.time_ns, by_number.ios), (None, Some(100)));
        let both = job("--ios 100 --time 5s").unwrap();
        assert_eq!((both.time_ns, both.ios), (Some(5_000_000_000), Some(100)));
    }

    #[test]
    fn what_cannot_work_names_its_option() {
        for (line, part) in [
            ("--bs 100", "--bs is 100: "),
            ("--bs 0", "--bs is 0: "),
            ("--bs 1g", "--bs is 1073741824: "),
            ("--bs 1t", "--bs 1099511627776 is too large"),
            ("--time 0", "--time is 0: "),
            ("--offset 100", "--offset is 100: "),
            ("--size 100", "--size is 100: "),
            ("--size 0", "--size is 0: "),
            ("--bs 8k --size 4k", "--size is 4096: "),
            (
                "--offset 16777215t --size 16777215t",
                "--offset and --size add up",
            ),
            ("--read --mix 70", "--mix does not go with the pattern read"),
            (
                "--rw randwrite --mix 70",
                "--mix does not go with the pattern randwrite",
            ),
            ("--write --destructive --yes-destroy=", "--yes-destroy is empty: "),
        ] {
            let error = job(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().starts_with(part), "{line}: {error}");
        }
    }
}
