//! The daemon `nvme-driver`: brings a controller up, serves its tree, and shuts it down in order when told to end.
//!
//! With `NVME_BENCHMARK=1` it runs the benchmark on the controller's first usable namespace instead, and
//! exits.
#![forbid(unsafe_code)]
// A driver that cannot start says why.
#![cfg_attr(
    not(test),
    warn(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

#[cfg(target_os = "redox")]
#[path = "serve_redox.rs"]
mod serve;
#[cfg(all(target_os = "linux", feature = "fuse"))]
mod serve;

#[cfg(target_os = "linux")]
mod emulate;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use nvme_driver::backend::{Backend, BackendError};
use nvme_driver::benchmark::{self, Report, Stop};
use nvme_driver::clock::Clock;
use nvme_driver::device::Device;
use nvme_driver::events::EventListener;
use nvme_driver::{Config, Controller, Driver};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use stats_proto::bench::{BenchJob, BenchResult, Pattern};

/// Exit code for a command line, a setting or a device specification that cannot be used.
const USAGE: u8 = 2;
/// Exit code where the system does not let this user, or this process with its limits, have what it needs.
const PERMISSION: u8 = 3;
/// Exit code after SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// A user-space NVMe driver that you can see into.
///
/// Brings up a controller and serves it as a tree of files: namespaces to read and write, statistics, identify, logs
/// and benchmarks as documents. Ends in order on SIGTERM or SIGINT.
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Args {
    #[cfg(target_os = "linux")]
    #[command(subcommand)]
    task: Option<Task>,
    /// The controller: `emulated`, or `emulated:SPEC` with SPEC such as `size=4GiB,latency=80us,backing=file:/tmp/disk`;
    /// on Linux also `vfio:0000:01:00.0`, a function that `nvmectl bind` has taken from the kernel's driver, and
    /// `vfio-user:SOCKET`, one that another process serves; on Redox also `pcid`: the function that pcid hands over. [default: pcid where there is one, else emulated]
    #[arg(long, value_name = "DEVICE")]
    device: Option<Device>,
    /// Where the tree is mounted; made if it is not there. [default: /run/scheme/NAME]
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// The name of the scheme, for a second driver on the same machine. [default: nvme]
    #[arg(long, value_name = "NAME", env = "NVME_SCHEME", value_parser = parse_scheme)]
    scheme: Option<String>,
    /// Whose the block devices are to begin with, besides root, as numbers; chown changes it later.
    #[arg(long, value_name = "UID[:GID]", default_value = "0:0", value_parser = parse_owner)]
    data_owner: (u32, u32),
    /// What owner, group and others may do with the block devices, in octal; chmod changes it later.
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = parse_mode)]
    data_mode: u16,
    /// Threads that take requests from the kernel; 0 is one for each CPU, from 2 to 8.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = parse_threads)]
    threads: usize,
    /// What is logged on standard error: error, warn, info, debug, trace, or a filter as RUST_LOG has it.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "RUST_LOG",
        default_value = "warn",
        global = true
    )]
    log: String,
    /// What the benchmark does. It never writes.
    #[arg(long, value_name = "PATTERN", default_value = "randread")]
    bench_pattern: BenchPattern,
    /// How long the benchmark measures, such as `10s` or `500ms`.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    bench_time: Duration,
    /// The size of each of the benchmark's requests in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    bench_block: u32,
    /// How many requests each of the benchmark's jobs keeps out.
    #[arg(long, value_name = "N", default_value_t = 32)]
    bench_depth: u32,
    /// How many jobs the benchmark runs, each on its own queue where there are enough.
    #[arg(long, value_name = "N", default_value_t = 1)]
    bench_jobs: u32,
    /// Print the benchmark's result as JSON.
    #[arg(long)]
    json: bool,
}

/// What else than driving a controller.
#[cfg(target_os = "linux")]
#[derive(clap::Subcommand, Debug)]
enum Task {
    Emulate(emulate::Emulate),
}

/// The FUSE library warns of what its users do not implement, and calls it an error when a client has been killed before
/// its answer came: neither is news.
const QUIET_FUSE: &str = ",fuser=error,fuser::reply=off";

const EXAMPLES: &str = "\
Environment (each with its default):
  NVME_NUM_QUEUES=0          I/O queue pairs, 0 = one for each CPU
  NVME_QUEUE_DEPTH=1024      entries of each
  NVME_POLLING_MODE=adaptive how completions are noticed: false, true, adaptive, or a
                             list: 1:true,2:false,adaptive is queues 1, 2 and the others
  NVME_POLL_INTERVAL_US=10   between two looks when polling, 0 = spin
  NVME_ZERO_COPY=true        DMA straight from and to the caller's buffer
  NVME_SCHEDULER=cpuaffinity none, roundrobin, cpuaffinity, priority, deadline
  NVME_SCHEDULER_WINDOW=32   commands of a queue at the device, beyond which requests wait
                             under roundrobin, priority and deadline; 0 = all it holds
  NVME_PRIORITY_WEIGHTS=16:4:1 shares of high:medium:low under priority, 1 to 256 each
  NVME_MERGE=false           true = small requests of adjacent blocks become one command
                             under deadline
  NVME_SLOW_US=10000         from how long on a command is kept as slow, 0 = failed ones only
  NVME_BENCHMARK=0           1 = run the benchmark (--bench-...) and exit

Examples:
  nvme-driver --device emulated:size=4GiB &
  cat /run/scheme/nvme/1/stats
  dd if=/run/scheme/nvme/1/data of=/dev/null bs=1M count=64
  nvmectl top

  nvme-driver --device emulated:backing=file:/tmp/disk,size=1GiB --mount /tmp/nvme --log info
  NVME_BENCHMARK=1 nvme-driver --bench-time 2s --json
  nvmectl bind 01:00.0 && nvme-driver --device vfio:01:00.0
  nvme-driver emulate --vfio-user /tmp/nvme.sock size=4GiB &
  NVME_BENCHMARK=1 nvme-driver --device vfio-user:/tmp/nvme.sock

Exit codes: 0 ok, 1 device error, or the device is in use, 2 usage, or not an NVMe
  controller, 3 permission, or too little memory may be locked, 4 no such device, or
  not bound to vfio-pci, or no IOMMU, 130 interrupted";

impl Args {
    #[cfg_attr(not(all(target_os = "linux", feature = "fuse")), expect(dead_code))]
    fn mount_dir(&self) -> PathBuf {
        match &self.mount {
            Some(dir) => dir.clone(),
            None => Path::new("/run/scheme").join(self.scheme.as_deref().unwrap_or("nvme")),
        }
    }
}

/// A name that is one component of a path.
fn parse_scheme(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let accepted = text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.len() <= 64
        && text.bytes().all(plain);
    if accepted {
        Ok(text.to_owned())
    } else {
        Err(
            "use a name of at most 64 letters, digits, dots, hyphens and underscores, such as nvme.2"
                .to_owned(),
        )
    }
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
    match (uid.parse(), gid.parse()) {
        // The last number is how chown(2) says "leave it".
        (Ok(uid), Ok(gid)) if uid != u32::MAX && gid != u32::MAX => Ok((uid, gid)),
        _ => Err("use numbers, such as 1000 or 0:6".to_owned()),
    }
}

fn parse_mode(text: &str) -> Result<u16, String> {
    u16::from_str_radix(text, 8)
        .ok()
        .filter(|mode| mode & !0o666 == 0)
        .ok_or_else(|| "use an octal mode without execution, such as 660".to_owned())
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| *threads <= 64)
        .ok_or_else(|| "use a number from 0 to 64".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BenchPattern {
    Randread,
    Read,
}

/// The controller, where nothing is said of it.
fn default_device() -> Device {
    #[cfg(target_os = "redox")]
    if serve::has_function() {
        return Device::Pcid;
    }
    Device::Emulated(Box::default())
}

/// A whole number with its unit.
fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let per_unit = match unit {
        "s" => Duration::from_secs(1),
        "ms" => Duration::from_millis(1),
        _ => return Err("use a whole number with s or ms, such as 10s".to_owned()),
    };
    let time = number
        .parse()
        .ok()
        .and_then(|number: u32| per_unit.checked_mul(number));
    time.filter(|time| !time.is_zero())
        .ok_or_else(|| "use a number from 1 to 4294967295".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let quiet = if args.log.contains("fuser") {
        ""
    } else {
        QUIET_FUSE
    };
    env_logger::Builder::new()
        .parse_filters(&format!("{}{quiet}", args.log))
        .init();
    #[cfg(target_os = "linux")]
    if let Some(Task::Emulate(emulate)) = args.task {
        return emulate::run(emulate);
    }
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    if !config.benchmark
        && let Err(code) = prepare(&args)
    {
        return code;
    }
    let device = args.device.clone().unwrap_or_else(default_device);
    let driver = match open(&device, &config) {
        Ok(driver) => driver,
        Err(code) => return code,
    };
    let code = if config.benchmark {
        run_benchmark(&driver, &args)
    } else {
        serve(&driver, &args)
    };
    match driver.shutdown() {
        Ok(()) => code,
        Err(error) => fail(1, &error),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("nvme-driver: {error}");
    ExitCode::from(code)
}

fn open(device: &Device, config: &Config) -> Result<Driver, ExitCode> {
    let clock = Clock::system();
    let failed = |error: nvme_driver::Error| fail(exit_code_of(&error), &error);
    let backend: Arc<dyn Backend> = match device {
        #[cfg(target_os = "redox")]
        Device::Pcid => serve::connect(&clock)?,
        device => {
            let opened = device.open(&clock);
            opened.map_err(|error| fail(error.kind().exit_code(), &error))?
        }
    };
    let controller = Controller::open(backend, config, clock).map_err(failed)?;
    Driver::start(controller).map_err(failed)
}

/// The exit code for a controller that could be opened and not be brought up.
fn exit_code_of(error: &nvme_driver::Error) -> u8 {
    match error {
        nvme_driver::Error::Backend(BackendError::NotPermitted(_)) => PERMISSION,
        _ => 1,
    }
}

#[cfg(any(target_os = "redox", all(target_os = "linux", feature = "fuse")))]
use serve::{prepare, serve};

/// Nothing to prepare where nothing is served.
#[cfg(not(any(target_os = "redox", all(target_os = "linux", feature = "fuse"))))]
fn prepare(_args: &Args) -> Result<(), ExitCode> {
    Ok(())
}

/// Without FUSE there is nothing on Linux to serve the tree with.
#[cfg(not(any(target_os = "redox", all(target_os = "linux", feature = "fuse"))))]
fn serve(_driver: &Driver, _args: &Args) -> ExitCode {
    fail(
        1,
        &"this build cannot serve the tree: it was built without the feature fuse, or not for Linux",
    )
}

/// Ends the benchmark early when the system wants the controller back, which waits for that.
struct Leaving {
    driver: Driver,
    stop: Stop,
}

impl EventListener for Leaving {
    fn news(&self) {
        if self.driver.removal_asked() {
            self.stop.stop();
        }
    }
}

fn run_benchmark(driver: &Driver, args: &Args) -> ExitCode {
    let namespaces = driver.namespaces();
    let Some(namespace) = namespaces.iter().find(|namespace| namespace.is_usable()) else {
        return fail(1, &"the controller has no namespace that can be used");
    };
    let job = BenchJob {
        pattern: match args.bench_pattern {
            BenchPattern::Randread => Pattern::RandRead,
            BenchPattern::Read => Pattern::Read,
        },
        block_bytes: args.bench_block,
        queue_depth: args.bench_depth,
        jobs: args.bench_jobs,
        time_ns: Some(u64::try_from(args.bench_time.as_nanos()).unwrap_or(u64::MAX)),
        ..BenchJob::default()
    };
    let stop = Stop::default();
    let signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => return fail(1, &format!("signals cannot be awaited: {error}")),
    };
    let handle = signals.handle();
    let waiter = std::thread::spawn({
        let stop = stop.clone();
        let mut signals = signals;
        // A signal ends the benchmark early; its result is still shown, and the controller shut down in
        // order.
        move || signals.forever().next().inspect(|_| stop.stop())
    });
    let leaving: Arc<dyn EventListener> = Arc::new(Leaving {
        driver: driver.clone(),
        stop: stop.clone(),
    });
    driver.events().listen(Arc::downgrade(&leaving));
    // It may have been asked for before anybody listened.
    leaving.news();
    log::info!("the benchmark runs on namespace {}", namespace.nsid);
    let outcome = benchmark::run_blocking(driver, namespace.nsid, &job, &stop, |_| ());
    handle.close();
    let signal = waiter.join().ok().flatten();
    match outcome {
        Ok(result) => match print(&shown(&result, args.json)) {
            Ok(()) if signal == Some(SIGINT) => ExitCode::from(INTERRUPTED),
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        },
        Err(failure @ (benchmark::Failure::Job(_) | benchmark::Failure::Unaligned { .. })) => {
            fail(USAGE, &failure)
        }
        Err(failure) => fail(1, &failure),
    }
}

fn shown(result: &BenchResult, json: bool) -> String {
    if json {
        serde_json::to_string(result).map_or_else(|error| error.to_string(), |text| text + "\n")
    } else {
        Report(result).to_string()
    }
}

/// Prints; a reader that has gone is no error.
fn print(text: &str) -> Result<(), ExitCode> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(fail(1, &format!("the result cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_time("1ms"), Ok(Duration::from_millis(1)));
        for text in ["", "10", "s", "0s", "-1s", "1.5s", "1us", "4294967296s", "1 s"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
