//! The progress line of a benchmark, on standard error and only where that is a terminal.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stats_proto::bench::{BenchProgress, Phase};

use crate::units::Units;

/// A line that is drawn over and over, and gone at the end.
pub struct ProgressLine {
    bar: ProgressBar,
    units: Units,
}

impl ProgressLine {
    /// A line that shows nothing yet, and never anything where standard error is no terminal.
    pub fn new(units: Units) -> Self {
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { bar, units }
    }

    /// Shows `progress`.
    pub fn show(&self, progress: &BenchProgress) {
        self.bar.set_message(text(progress, self.units));
        self.bar.tick();
    }

    /// Takes the line away for good, and says how a user who is in a hurry can end it at once.
    pub fn say_stopping(&self) {
        self.bar.finish_and_clear();
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(io::stderr(), "{STOPPING}");
    }
}

const STOPPING: &str = "interrupted: waiting for the last requests; Ctrl-C again ends at once";

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `running 3s of 10s  read 1.21M/s 4.70GiB/s`.
pub fn text(progress: &BenchProgress, units: Units) -> String {
    let phase = match progress.phase {
        Phase::Warmup => "warming up",
        Phase::Running => "running",
        Phase::Draining => "waiting for the last requests",
    };
    let mut out = format!("{phase} {}", units.duration(progress.elapsed_ns as f64));
    if let Some(total_ns) = progress.total_ns {
        out.push_str(&format!(" of {}", units.duration(total_ns as f64)));
    }
    for (side, iops, bytes_per_s) in [
        ("read", progress.read_iops, progress.read_bytes_per_s),
        ("write", progress.write_iops, progress.write_bytes_per_s),
    ] {
        if iops > 0.0 {
            out.push_str(&format!(
                "  {side} {}/s {}",
                units.count(iops),
                units.bytes_per_s(bytes_per_s)
            ));
        }
    }
    if progress.errors > 0 {
        out.push_str(&format!("  {} errors", progress.errors));
    }
    out
}
