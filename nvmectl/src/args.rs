//! The command line.
//!
//! Everything that can be refused without a device is refused here or in the command's own `check`, so that bad input
//! never starts anything.

use std::path::PathBuf;

use clap::builder::RangedI64ValueParser;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, ColorChoice, Parser, Subcommand, ValueEnum};
use stats_proto::bench::BenchJob;

use crate::device::{DeviceArg, DeviceName};
use crate::feature::FeatureArgs;
use crate::mi::MiArgs;
use crate::platform;
use crate::top::{INTERVAL_MAX_NS, INTERVAL_MIN_NS, Load};
use crate::units::{Units, parse_duration_ns, parse_size};

mod raw;

pub use raw::{asks_for_json, color_of, rewrite};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  nvmectl --emulate bench --randread --qd32      1 GiB in memory, no device needed
  nvmectl smart --check                          exit code 9 when the device warns
  nvmectl stats --watch 1                        rates and percentiles, every second
  nvmectl --emulate top --load randread:qd=8     rates, latencies, queues, live
  nvmectl -d nvme:2 identify -o json

Exit codes: 0 ok, 1 device error, 2 usage, 3 permission, 4 not found,
  5 device lost or timed out, 6 unsupported, 7 verify mismatch,
  8 refused for safety, 9 health warning (--check), 130 interrupted";

const BENCH_EXAMPLES: &str = "\
Examples:
  nvmectl --emulate bench --randread --qd32
  nvmectl bench --rw randread --bs 4k --iodepth 32 --runtime 10         fio's spelling
  nvmectl --emulate=latency=80us bench --randread                       p50 is 80us
  nvmectl bench --randrw --mix 70 --destructive --yes-destroy=SERIAL    erases data

Ctrl-C ends it early, prints what was measured until then and exits with 130;
with --json or --fio-json the last line of stderr is then an nvmectl-error
document whose \"error\" is \"interrupted\".";

const TOP_EXAMPLES: &str = "\
Examples:
  nvmectl --emulate top --load randread:qd=8        alive on any machine
  nvmectl top --interval 500ms --sort r-p99
  nvmectl top -b -n 60 -o csv > minute.csv          one line per device and second
  nvmectl top --view queues --once
  nvmectl top -o jsonl | jq '.devices[0].read_p99_ns'

Keys: q quit, ? help, 1 devices, 2 queues, s sort by the next column,
  r the other way round, space pause, + - interval, arrows and page keys scroll.

Percentiles are of the interval and of the device latency (doorbell to
completion), and shown where at least ten commands lie beyond them: a p50
needs 20 in the interval, a p99 1000. QD is the mean depth over the interval,
right also while a device hangs; * marks one that is not the rate times the
mean latency (Little's law). ? says more.";

/// See what NVMe devices do
#[derive(Debug, Parser)]
#[command(name = "nvmectl", version, styles = STYLES, after_help = EXAMPLES, max_term_width = 110)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes, before or after its name.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Use an embedded driver on an emulated controller, such as size=4GiB,namespaces=2,lba=4096,latency=80us
    #[arg(long, global = true, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub emulate: Option<String>,

    #[arg(long, global = true, value_name = "DIR", conflicts_with = "emulate", help = platform::HERE.root_help)]
    pub root: Option<PathBuf>,

    /// The device: nvme:1 or 1 for namespace 1, controller for the controller; list names them
    #[arg(short, long, global = true, value_name = "DEVICE")]
    pub device: Option<DeviceArg>,

    /// What to print: table, json, raw (the device's bytes) or hex (the same, to read); top has jsonl and csv
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        hide_possible_values = true
    )]
    pub output: Option<Format>,

    /// The same as --output json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,

    /// How numbers are printed: iec (KiB), si (kB) or raw
    #[arg(long, global = true, value_enum, default_value_t, hide_possible_values = true)]
    pub units: Units,

    /// When to use colours: auto, always or never; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, hide_possible_values = true)]
    pub color: ColorChoice,

    /// Say what would be done, and do nothing
    #[arg(long, global = true)]
    pub dry_run: bool,

    /// Say more on stderr; twice: the driver's details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Command {
    /// The name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Identify(_) | Self::IdCtrl | Self::IdNs(_) => "identify",
            Self::Smart(_) => "smart",
            Self::ErrorLog => "error-log",
            Self::Mi(_) => "mi",
            Self::Feature(_) => "feature",
            Self::Stats(_) => "stats",
            Self::Bench(_) => "bench",
            Self::Top(_) => "top",
            Self::Bind(_) => "bind",
            Self::Unbind(_) => "unbind",
        }
    }
}

impl Global {
    /// The format asked for, tables by default.
    pub fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            self.output.unwrap_or_default()
        }
    }

    /// The device asked for, within whichever driver's scheme.
    pub fn device_name(&self) -> Option<DeviceName> {
        self.device.as_ref().map(|device| device.name)
    }
}

/// What is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned text
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON document in each line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
    /// The device's bytes
    Raw,
    /// The device's bytes, to read
    Hex,
}

impl Format {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Raw => "raw",
            Self::Hex => "hex",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List controllers, namespaces and partitions; reads no more of a device than partition tables
    List,
    /// What the controller or a namespace says about itself; also id-ctrl and id-ns
    Identify(IdentifyArgs),
    /// The same as identify --controller
    #[command(hide = true)]
    IdCtrl,
    /// The same as identify --ns N
    #[command(hide = true)]
    IdNs(IdNsArgs),
    /// The device's health
    #[command(visible_alias = "smart-log")]
    Smart(SmartArgs),
    /// The device's last errors
    ErrorLog,
    /// The management interface in band (NVMe-MI): health, configuration, Vital Product Data
    Mi(MiArgs),
    /// What the controller is set to, and setting it; needs root
    Feature(FeatureArgs),
    /// What the driver counts: queues, latencies, namespaces
    Stats(StatsArgs),
    /// Measure IOPS, bandwidth and latency; reads only, unless told otherwise
    Bench(BenchArgs),
    /// Watch devices and queues: rates, percentiles, depths, on a screen or as lines
    Top(TopArgs),
    /// On Linux, take a controller on PCI from the kernel's driver, for nvme-driver --device vfio:ADDRESS; not one in use
    Bind(BindArgs),
    /// On Linux, give a controller back to the kernel's driver
    Unbind(BindArgs),
}

#[derive(Debug, Args)]
pub struct BindArgs {
    /// The controller's address, such as 0000:01:00.0 or 01:00.0
    #[arg(value_name = "ADDRESS")]
    pub address: String,
}

#[derive(Debug, Args)]
pub struct IdentifyArgs {
    /// Namespace N
    #[arg(long, value_name = "N", conflicts_with = "controller", value_parser = nsid())]
    pub ns: Option<u32>,
    /// The controller (the default)
    #[arg(long)]
    pub controller: bool,
}

#[derive(Debug, Args)]
pub struct IdNsArgs {
    /// Namespace N; not needed where there is only one
    #[arg(long, value_name = "N", value_parser = nsid())]
    pub ns: Option<u32>,
}

#[derive(Debug, Args)]
pub struct SmartArgs {
    /// Exit with 9 when the device warns
    #[arg(long)]
    pub check: bool,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Only namespace N
    #[arg(long, value_name = "N", value_parser = nsid())]
    pub ns: Option<u32>,
    /// Without latency histograms
    #[arg(long)]
    pub light: bool,
    /// Show rates every SECONDS, until interrupted
    #[arg(
        short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = parse_interval_ns
    )]
    pub watch: Option<u64>,
    /// With --watch: stop after N intervals
    #[arg(short = 'n', long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// Who makes the load of a benchmark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
    /// The driver, on its own threads
    #[default]
    Driver,
    /// This program, through nvme:N/ring
    Ring,
}

#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchArgs {
    /// Sequential reads
    #[arg(long, group = "pattern", help_heading = "Pattern")]
    pub read: bool,
    /// Sequential writes
    #[arg(long, group = "pattern", help_heading = "Pattern")]
    pub write: bool,
    /// Random reads (the default)
    #[arg(long, group = "pattern", help_heading = "Pattern")]
    pub randread: bool,
    /// Random writes
    #[arg(long, group = "pattern", help_heading = "Pattern")]
    pub randwrite: bool,
    /// Random reads and writes
    #[arg(long, group = "pattern", help_heading = "Pattern")]
    pub randrw: bool,
    /// A pattern by fio's name: read, write, randread, randwrite, rw, randrw
    #[arg(
        long,
        visible_alias = "readwrite",
        value_name = "PATTERN",
        value_enum,
        group = "pattern",
        hide_possible_values = true,
        help_heading = "Pattern"
    )]
    pub rw: Option<PatternName>,
    /// Percentage of reads in a mix; alone it means --randrw [default: 50]
    #[arg(
        long, visible_alias = "rwmixread", value_name = "PERCENT", help_heading = "Pattern",
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub mix: Option<u8>,
    /// Percentage of writes in a mix, as fio also says it
    #[arg(
        long = "rwmixwrite", value_name = "PERCENT", help_heading = "Pattern", conflicts_with = "mix",
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    pub mix_write: Option<u8>,

    /// Bytes of each request
    #[arg(
        long, visible_aliases = ["block-size", "blocksize"], value_name = "SIZE", default_value = "4k", help_heading = "Load",
        value_parser = parse_size
    )]
    pub bs: u64,
    /// Requests in flight, for each job; --qd32 works too
    #[arg(
        long, visible_aliases = ["iodepth", "queue-depth"], value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BenchJob::MAX_QUEUE_DEPTH))
    )]
    pub qd: u32,
    /// Jobs at once, each on a queue of its own where there are enough
    #[arg(
        long, visible_alias = "numjobs", value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(BenchJob::MAX_JOBS))
    )]
    pub jobs: u32,
    /// Where the load is made: in the driver, or here, through a ring in shared memory for each job
    #[arg(
        long, visible_alias = "ioengine", value_name = "ENGINE", value_enum, default_value_t = EngineName::Driver,
        help_heading = "Load"
    )]
    pub engine: EngineName,
    /// How long to measure [default: 10s, or as long as --ios takes]
    #[arg(
        long, visible_alias = "runtime", value_name = "DURATION", help_heading = "Load", value_parser = parse_duration_ns
    )]
    pub time: Option<u64>,
    /// Taken for fio's sake, without effect: --time needs no leave
    #[arg(long = "time_based", alias = "time-based", help_heading = "Load")]
    pub time_based: bool,
    /// Stop after N requests of each job
    #[arg(
        long, visible_aliases = ["number-ios", "number_ios"], value_name = "N", help_heading = "Load",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub ios: Option<u64>,
    /// How long to run before measuring
    #[arg(
        long, visible_alias = "ramp_time", value_name = "DURATION", default_value = "1s", help_heading = "Load",
        value_parser = parse_duration_ns
    )]
    pub warmup: u64,
    /// Where to start
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Load", value_parser = parse_size)]
    pub offset: u64,
    /// How much to use from there [default: the rest]
    #[arg(long, value_name = "SIZE", help_heading = "Load", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Seed of addresses and data
    #[arg(
        long,
        visible_alias = "randseed",
        value_name = "N",
        default_value_t = 1,
        help_heading = "Load"
    )]
    pub random_seed: u64,
    /// The class of the requests, for schedulers that order them: urgent, high, medium, low
    #[arg(
        long,
        visible_alias = "priority",
        value_name = "CLASS",
        value_enum,
        default_value_t,
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Load"
    )]
    pub prio: PriorityName,
    /// In which time each request should be done; what is late is counted
    #[arg(long, value_name = "DURATION", help_heading = "Load", value_parser = parse_duration_ns)]
    pub deadline: Option<u64>,

    /// Namespace N; the same as -d
    #[arg(long, value_name = "N", value_parser = nsid())]
    pub ns: Option<u32>,
    /// Print the result as fio's JSON
    #[arg(long)]
    pub fio_json: bool,
    /// Allow what destroys data
    #[arg(long, help_heading = "Writing")]
    pub destructive: bool,
    /// The serial number of the device whose data may be destroyed, instead of typing it
    #[arg(
        long,
        value_name = "SERIAL",
        requires = "destructive",
        help_heading = "Writing"
    )]
    pub yes_destroy: Option<String>,
    /// Write even where there is a partition table or a file system
    #[arg(long, requires = "destructive", help_heading = "Writing")]
    pub over_existing: bool,
}

#[derive(Debug, Args)]
#[command(after_help = TOP_EXAMPLES)]
pub struct TopArgs {
    /// The time between two looks, from 100ms to 60s
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_top_interval_ns)]
    pub interval: u64,
    /// Stop after N intervals
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print lines instead of drawing a screen; -o json, jsonl or csv do too
    #[arg(short, long)]
    pub batch: bool,
    /// Print one interval and end; the same as -b -n 1
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// Sort by this column, by its title or its name in CSV
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// Sort the other way round
    #[arg(long)]
    pub reverse: bool,
    /// What to show first: devices or queues
    #[arg(long, value_enum, default_value_t, hide_possible_values = true)]
    pub view: ViewName,
    /// With --emulate: what to make the device do, such as randread:qd=8,bs=4k or randrw:mix=70
    #[arg(long, value_name = "LOAD")]
    pub load: Option<Load>,
}

/// The views of `top`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ViewName {
    /// Controllers and namespaces
    #[default]
    Devices,
    /// Queue pairs
    Queues,
}

/// The names of classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PriorityName {
    /// Before all others
    Urgent,
    /// Before others
    High,
    /// As everybody
    #[default]
    #[value(alias = "normal")]
    Medium,
    /// When hardly anybody else wants to
    Low,
}

/// fio's names of patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatternName {
    /// Sequential reads
    Read,
    /// Sequential writes
    Write,
    /// Random reads
    Randread,
    /// Random writes
    Randwrite,
    /// Sequential reads and writes
    #[value(alias = "readwrite")]
    Rw,
    /// Random reads and writes
    Randrw,
}

/// What a namespace's number can be (Base 2.0, section 3.2.1: neither 0 nor FFFFFFFFh).
fn nsid() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=0xFFFF_FFFE)
}

fn parse_top_interval_ns(text: &str) -> Result<u64, String> {
    match parse_duration_ns(text) {
        Ok(ns) if (INTERVAL_MIN_NS..=INTERVAL_MAX_NS).contains(&ns) => Ok(ns),
        Ok(_) => Err("an interval is from 100ms to 60s".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_interval_ns(text: &str) -> Result<u64, String> {
    const LEAST_NS: u64 = 10_000_000;
    match parse_duration_ns(text) {
        Ok(ns) if ns < LEAST_NS => Err("the shortest interval is 10ms".to_owned()),
        Ok(ns) => Ok(ns),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
