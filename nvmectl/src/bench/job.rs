//! From the command line to the job that the driver is asked to run.

use stats_proto::Version;
use stats_proto::bench::{BenchJob, BenchJobSchema, JobError, Pattern};

use crate::args::{BenchArgs, PatternName};
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
        read_percent: args.mix.unwrap_or(50),
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
        destructive: args.destructive,
        serial: args.yes_destroy.clone(),
    };
    match job.validate() {
        Ok(()) | Err(JobError::NotDestructive(_)) => Ok(job),
        Err(error) => Err(Error::usage(
            format!("{}: {error}", option_of(&error)),
            "nvmectl bench --help",
        )),
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
    let by_name = args.rw.map(|name| match name {
        PatternName::Read => Pattern::Read,
        PatternName::Write => Pattern::Write,
        PatternName::Randread => Pattern::RandRead,
        PatternName::Randwrite => Pattern::RandWrite,
        PatternName::Rw => Pattern::Rw,
        PatternName::Randrw => Pattern::RandRw,
    });
    match (by_flag.or(by_name), args.mix) {
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

/// The option that set the member which `error` is about.
fn option_of(error: &JobError) -> &'static str {
    match error {
        JobError::ReadPercent(_) => "--mix",
        JobError::BlockBytes(_) => "--bs",
        JobError::QueueDepth(_) => "--qd",
        JobError::Jobs(_) => "--jobs",
        JobError::NoEnd | JobError::TooLong => "--time",
        JobError::Nothing(member) => {
            if *member == "ios" {
                "--ios"
            } else {
                "--time"
            }
        }
        JobError::Unaligned { member, .. } => {
            if *member == "offset_bytes" {
                "--offset"
            } else {
                "--size"
            }
        }
        JobError::TooSmall { .. } | JobError::TooFar => "--size",
        JobError::NotDestructive(_) => "--destructive",
        JobError::EmptySerial => "--yes-destroy",
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
            ("--bs 100", "--bs: "),
            ("--bs 0", "--bs: "),
            ("--bs 1g", "--bs: "),
            ("--bs 1t", "--bs 1099511627776 is too large"),
            ("--qd 65536", "--qd: "),
            ("--jobs 65536", "--jobs: "),
            ("--time 0", "--time: "),
            ("--offset 100", "--offset: "),
            ("--size 100", "--size: "),
            ("--size 0", "--size: "),
            ("--bs 8k --size 4k", "--size: "),
            ("--offset 16777215t --size 16777215t", "--size: "),
            ("--read --mix 70", "--mix does not go with the pattern read"),
            (
                "--rw randwrite --mix 70",
                "--mix does not go with the pattern randwrite",
            ),
            ("--write --destructive --yes-destroy=", "--yes-destroy: "),
        ] {
            let error = job(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().starts_with(part), "{line}: {error}");
        }
    }
}
