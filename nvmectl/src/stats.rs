//! `stats`: what the driver counts, as totals since it started or as rates while one watches.

mod rates;
mod totals;

pub use totals::{is_backed, quantile};

use std::time::{Duration, Instant};

use stats_proto::stats::{IntervalError, StatsDocument};

use crate::args::{Format, StatsArgs};
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::snapshot;
use crate::tree::Tree;

/// The statistics that the command line asks for.
#[derive(Debug)]
pub struct Stats {
    nsid: Option<u32>,
    light: bool,
    watch: Option<Watch>,
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    interval: Duration,
    /// How many intervals to show; None: until interrupted.
    count: Option<u64>,
}

impl Stats {
    /// The statistics of a command line.
    ///
    /// # Errors
    /// Usage, when two different devices are named.
    pub fn new(args: &StatsArgs, device: Option<DeviceName>) -> Result<Self, Error> {
        let nsid = match device::asked(device, args.ns)? {
            Some(DeviceName::Namespace(nsid)) => Some(nsid),
            Some(DeviceName::Controller | DeviceName::Partition(..)) | None => None,
        };
        let watch = args.watch.map(|ns| Watch {
            interval: Duration::from_nanos(ns),
            count: args.count,
        });
        Ok(Self {
            nsid,
            light: args.light,
            watch,
        })
    }

    /// The path that is read.
    pub fn path(&self) -> String {
        snapshot::path(self.nsid, self.light)
    }

    /// Prints them.
    ///
    /// # Errors
    /// What reading them gives; interrupted, when watching without an end.
    pub fn run(&self, tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
        output.check_format("stats", &[])?;
        if let Some(nsid) = self.nsid {
            // A missing namespace is then said to be missing, with what there is.
            device::one_namespace(tree, Some(DeviceName::Namespace(nsid)), "stats")?;
        }
        match self.watch {
            Some(watch) => self.watch(tree, watch, &Interrupt::listen()?, output),
            None => self.once(tree, output),
        }
    }

    fn once(&self, tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
        let (text, document) = snapshot::read(tree, &self.path())?;
        match output.format {
            // As the driver wrote it, so that nothing is lost that a newer driver says.
            Format::Json => output.json_text(&text),
            _ => {
                let text = totals::text(&document, tree.scheme(), &output.style);
                output.text(&text)
            }
        }
    }

    fn watch(
        &self,
        tree: &dyn Tree,
        watch: Watch,
        interrupt: &Interrupt,
        output: &mut Output,
    ) -> Result<(), Error> {
        let read = || snapshot::read(tree, &self.path()).map(|(_, document)| document);
        let mut earlier: StatsDocument = read()?;
        let mut shown = 0;
        let mut next = Instant::now() + watch.interval;
        while watch.count.is_none_or(|count| shown < count) {
            if !interrupt.sleep_until(next) {
                return Err(Error::Interrupted);
            }
            // From one mark to the next, so that the time it takes to read does not add up.
            next = (next + watch.interval).max(Instant::now());
            let later = read()?;
            match StatsDocument::interval(&earlier, &later) {
                Ok(interval) => {
                    let rates = rates::Rates::new(&earlier, &later, interval);
                    match output.format {
                        Format::Json => output.json_line(&rates)?,
                        _ => {
                            let text = rates.text(&output.style, shown == 0);
                            output.text(&text)?;
                        }
                    }
                    shown += 1;
                }
                Err(error @ IntervalError::Restarted) => log::warn!("{error}"),
                Err(error) => return Err(Error::malformed(&self.path(), error)),
            }
            earlier = later;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
