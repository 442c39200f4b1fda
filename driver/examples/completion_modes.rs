//! What the three ways to notice completions cost and give, side by side, on the emulated controller: the table of the page
//! on completion.
//!
//! ```text
//! cargo run --release -p nvme-driver --example completion_modes
//! ```
//!
//! Each round runs every mode once, so that what else the machine does meets all of them; the figures are medians of the
//! rounds (5, or as many as the first argument says). Time on a processor is that of the driver's worker alone, from
//! `/proc`: elsewhere than on Linux it is not known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_driver::backend::emulated::EmulatedBackend;
use nvme_driver::benchmark::{Stop, run_blocking};
use nvme_driver::clock::Clock;
use nvme_driver::config::PollingMode;
use nvme_driver::{Config, Controller, Driver};
use stats_proto::bench::{BenchJob, BenchResult, Pattern};

type Failure = Box<dyn std::error::Error>;

const MODES: [PollingMode; 3] = [
    PollingMode::Interrupt,
    PollingMode::Polling,
    PollingMode::Adaptive,
];
/// What each round measures of a mode.
const FIGURES: [&str; 5] = [
    "80 us device, QD 1: p50",
    "p99",
    "its CPU",
    "2 ms device, QD 1: CPU",
    "idle: CPU",
];

fn main() -> Result<(), Failure> {
    let rounds: usize = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "5".to_owned())
        .parse()?;
    let mut figures = MODES.map(|_| FIGURES.map(|_| Vec::new()));
    for round in 0..rounds.max(1) {
        for (mode, figures) in MODES.into_iter().zip(&mut figures) {
            let measured = [measure_flash(mode)?, measure_rest(mode)?].concat();
            eprintln!("round {}, {mode}: {measured:?}", round + 1);
            for (values, value) in figures.iter_mut().zip(measured) {
                values.push(value);
            }
        }
    }
    println!("| `NVME_POLLING_MODE` | {} |", FIGURES.join(" | "));
    println!("| --- {}|", "| --- ".repeat(FIGURES.len()));
    for (mode, mut figures) in MODES.into_iter().zip(figures) {
        let medians: Vec<f64> = figures.iter_mut().map(|values| median(values)).collect();
        let shown = medians.iter().enumerate().map(|(figure, median)| match figure {
            0 | 1 => format!("{:.1} us", median / 1000.0),
            _ => format!("{:.1}%", median * 100.0),
        });
        println!("| `{mode}` | {} |", shown.collect::<Vec<_>>().join(" | "));
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Latencies and CPU with a device like flash.
fn measure_flash(mode: PollingMode) -> Result<Vec<f64>, Failure> {
    let driver = open(mode, "size=64MiB,queues=1,latency=80us")?;
    let (result, cpu) = read(&driver, Duration::from_secs(1))?;
    let percentiles = &result.total.read.latency_total.percentiles_ns;
    let percentile = |name| percentiles.get(name).map_or(f64::NAN, |ns| *ns as f64);
    driver.shutdown()?;
    Ok(vec![percentile("50.00"), percentile("99.00"), cpu])
}

/// CPU with a command out that takes long, and with none.
fn measure_rest(mode: PollingMode) -> Result<Vec<f64>, Failure> {
    let driver = open(mode, "size=64MiB,queues=1,latency=2ms")?;
    let (_, busy) = read(&driver, Duration::from_millis(500))?;
    let begun = (Instant::now(), cpu_ns());
    std::thread::sleep(Duration::from_millis(500));
    let idle = share(begun);
    driver.shutdown()?;
    Ok(vec![busy, idle])
}

fn open(mode: PollingMode, device: &str) -> Result<Driver, Failure> {
    let clock = Clock::system();
    let backend = EmulatedBackend::start(device.parse()?, clock.clone())?;
    let config = Config {
        num_queues: 1,
        polling: mode.into(),
        ..Config::default()
    };
    Ok(Driver::start(Controller::open(
        Arc::new(backend),
        &config,
        clock,
    )?)?)
}

/// Reads 4 KiB after 4 KiB, anywhere; says which part of a processor the worker had meanwhile.
fn read(driver: &Driver, time: Duration) -> Result<(BenchResult, f64), Failure> {
    let job = BenchJob {
        pattern: Pattern::RandRead,
        block_bytes: 4096,
        queue_depth: 1,
        jobs: 1,
        time_ns: Some(u64::try_from(time.as_nanos())?),
        ..BenchJob::default()
    };
    let begun = (Instant::now(), cpu_ns());
    let result = run_blocking(driver, 1, &job, &Stop::default(), |_| {})?;
    Ok((result, share(begun)))
}

fn share((begun, begun_ns): (Instant, u64)) -> f64 {
    cpu_ns().saturating_sub(begun_ns) as f64 / begun.elapsed().as_nanos() as f64
}

/// Time on a processor of the threads of this process that are workers.
fn cpu_ns() -> u64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return 0;
    };
    let of_task = |task: std::path::PathBuf| {
        let name = std::fs::read_to_string(task.join("comm")).ok()?;
        let schedstat = std::fs::read_to_string(task.join("schedstat")).ok()?;
        let used_ns: u64 = schedstat.split(' ').next()?.parse().ok()?;
        Some(if name.starts_with("nvme-q") { used_ns } else { 0 })
    };
    tasks.flatten().filter_map(|task| of_task(task.path())).sum()
}
