//! `bench`: the driver's load generator, asked through `nvme:N/bench`.
//!
//! The load is made where the driver is, so that what is measured is the device and the driver and not the way to it.

mod existing;
pub mod job;
mod progress;
mod report;
mod ring;
mod safety;

use std::collections::BTreeMap;

use stats_proto::bench::{BenchJob, BenchJobResult, BenchLine, BenchProgress, BenchResult, to_fio_json};

use crate::args::{BenchArgs, EngineName, Format, Global};
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::snapshot;
use crate::tree::{Access, DOCUMENT_MAX_BYTES, Errno, Tree, TreeFile, read_some, write_all};
use progress::ProgressLine;
use safety::{Rehearsal, Target, Terminal};

/// A benchmark as the command line asks for it, checked as far as that is possible without a device.
#[derive(Debug)]
pub struct Bench {
    job: BenchJob,
    device: Option<DeviceName>,
    fio_json: bool,
    over_existing: bool,
    engine: EngineName,
    /// The device is of this process and ends with it.
    embedded: bool,
}

impl Bench {
    /// The benchmark of a command line.
    ///
    /// # Errors
    /// Usage.
    pub fn new(args: &BenchArgs, global: &Global) -> Result<Self, Error> {
        Ok(Self {
            job: job::from_args(args)?,
            device: device::asked(global.device_name(), args.ns)?,
            fio_json: args.fio_json,
            over_existing: args.over_existing,
            engine: args.engine,
            embedded: global.emulate.is_some(),
        })
    }

    /// Runs it and prints its result.
    ///
    /// # Errors
    /// Refused, where data would be lost without leave; what the driver or the device answers; interrupted, after what
    /// was measured so far was printed.
    pub fn run(mut self, tree: &dyn Tree, dry_run: bool, output: &mut Output) -> Result<(), Error> {
        output.check_format("bench", &[])?;
        let nsid = device::one_namespace(tree, self.device, "bench")?;
        let stats = snapshot::read_light(tree)?;
        let target = Target::new(tree.scheme(), nsid, &self.job, &stats);
        let units = output.style.units;
        // A dry run is refused what the run itself would be.
        self.job.serial = if dry_run {
            target.permit(&self.job, units, &mut Rehearsal(target.serial()))?
        } else {
            target.permit(&self.job, units, &mut Terminal)?
        };
        if self.job.writes() && !self.over_existing {
            target.permit_over(existing::look(tree, nsid)?, units)?;
        }
        if dry_run {
            return self.describe(tree.scheme(), nsid, &target, output);
        }

        let interrupt = Interrupt::listen()?;
        let line = ProgressLine::new(output.style.units);
        let ended = match self.engine {
            EngineName::Driver => drive(tree, nsid, &self.job, &interrupt, &mut |heard| match heard {
                Heard::Progress(progress) => line.show(&progress),
                Heard::Interrupt => line.say_stopping(),
            }),
            EngineName::Ring => ring::drive(tree, ring::target(&stats, nsid)?, &self.job, &interrupt, &line),
        };
        drop(line);
        let ended = ended?;
        self.print(&ended, tree.scheme(), output)?;
        match failures(&ended.result.total, self.embedded) {
            _ if ended.interrupted => Err(Error::Interrupted),
            Some(failures) => Err(failures),
            None => Ok(()),
        }
    }

    fn describe(&self, scheme: &str, nsid: u32, target: &Target, output: &mut Output) -> Result<(), Error> {
        if output.format == Format::Json || self.fio_json {
            return output.json(&self.job);
        }
        let how = match self.engine {
            EngineName::Driver => format!("write this job to {scheme}:{nsid}/bench"),
            EngineName::Ring => format!("run this job through {scheme}:{nsid}/ring"),
        };
        let mut text = format!("would {how}:\n");
        text.push_str(&crate::view::render(&self.job, &[], &output.style));
        if self.job.writes() {
            text.push_str(&format!("{}\n", target.lost(output.style.units)));
        }
        output.text(&text)
    }

    fn print(&self, ended: &Ended, scheme: &str, output: &mut Output) -> Result<(), Error> {
        if self.fio_json {
            return output.json(&to_fio_json(&ended.result));
        }
        match output.format {
            // As the driver wrote it, so that nothing is lost that a newer driver says.
            Format::Json => output.json_text(&ended.text),
            _ => {
                let mut report = report::text(&ended.result, scheme, &output.style);
                if ended.interrupted {
                    report.push_str("  interrupted: this is what was measured until then\n");
                }
                output.text(&report)
            }
        }
    }
}

/// The requests that failed, None if none did.
fn failures(total: &BenchJobResult, embedded: bool) -> Option<Error> {
    let count = total.read.errors.saturating_add(total.write.errors);
    let mut by_status = BTreeMap::<&str, u64>::new();
    for (status, count) in total
        .read
        .errors_by_status
        .iter()
        .chain(&total.write.errors_by_status)
    {
        let sum = by_status.entry(status).or_default();
        *sum = sum.saturating_add(*count);
    }
    let mut statuses: Vec<(&str, u64)> = by_status.into_iter().collect();
    statuses.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let statuses: Vec<String> = statuses
        .iter()
        .map(|(status, count)| format!("{count} with {status}"))
        .collect();
    (count > 0).then(|| Error::RequestsFailed {
        count,
        statuses: statuses.join(", "),
        embedded,
    })
}

/// What is heard while a job runs.
enum Heard {
    /// How far it is.
    Progress(BenchProgress),
    /// It was asked to end early; nothing follows but its end.
    Interrupt,
}

/// A benchmark that ended.
struct Ended {
    /// The line that said so, as the driver wrote it.
    text: String,
    result: BenchResult,
    /// It was asked to end early.
    interrupted: bool,
}

/// What ends a running job early, with the result of what it did so far.
pub const STOP: &[u8] = b"stop";

/// Has the driver run `job` and reads its lines to the last. Closing the file, however this ends, stops the job.
fn drive(
    tree: &dyn Tree,
    nsid: u32,
    job: &BenchJob,
    interrupt: &Interrupt,
    hear: &mut dyn FnMut(Heard),
) -> Result<Ended, Error> {
    let path = format!("{nsid}/bench");
    let request = serde_json::to_vec(job).map_err(|error| Error::malformed(&path, error))?;
    let mut lines = Lines::new(tree.open(&path, Access::ReadWrite)?, &path);
    // Of a job that it refuses the driver says why in a line; without one, the errno has to do.
    let refused = write_all(lines.file.as_mut(), &path, &request).err();
    if refused.is_none() {
        log::info!("the job is running");
    }
    let mut interrupted = false;
    loop {
        if interrupt.requested() && !interrupted {
            interrupted = true;
            hear(Heard::Interrupt);
            // A job that has just ended cannot be stopped any more; its result is the next line.
            let _ = lines.file.write_at(STOP, 0);
        }
        let text = match (lines.next(), &refused) {
            (Ok(text), _) => text,
            (Err(_), Some(refused)) => return Err(refused.clone().into()),
            (Err(error), None) => return Err(error),
        };
        match BenchLine::parse(&text).map_err(|error| Error::malformed(&path, error))? {
            BenchLine::Progress(_) if interrupted => {}
            BenchLine::Progress(progress) => hear(Heard::Progress(progress)),
            BenchLine::Result(result) => {
                return Ok(Ended {
                    text,
                    result: *result,
                    interrupted,
                });
            }
            BenchLine::Error(error) => {
                return Err(Error::Bench {
                    message: job::with_options(&error.error),
                    errno: Errno(error.errno),
                });
            }
        }
    }
}

/// The lines of a file that is read while it is written.
pub struct Lines<'p> {
    file: Box<dyn TreeFile>,
    path: &'p str,
    /// Read and not yet given out.
    pending: Vec<u8>,
    offset_bytes: u64,
}

impl<'p> Lines<'p> {
    /// The lines of `file`, which is the one at `path`.
    pub fn new(file: Box<dyn TreeFile>, path: &'p str) -> Self {
        Self {
            file,
            path,
            pending: Vec::new(),
            offset_bytes: 0,
        }
    }

    /// The file, to be written to.
    pub fn file(&mut self) -> &mut dyn TreeFile {
        self.file.as_mut()
    }

    /// The next line, without its newline. Blocks until there is one.
    ///
    /// # Errors
    /// What reading gives; malformed, when the file ends or a line does not.
    pub fn next(&mut self) -> Result<String, Error> {
        let mut searched = 0;
        loop {
            let fresh = self.pending.get(searched..).unwrap_or_default();
            if let Some(length) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + length + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.pop();
                return String::from_utf8(line).map_err(|error| Error::malformed(self.path, error));
            }
            searched = self.pending.len();
            if searched > DOCUMENT_MAX_BYTES {
                return Err(Error::malformed(self.path, "a line does not end"));
            }
            let mut piece = [0; 16 << 10];
            let count = read_some(self.file.as_mut(), &mut piece, self.offset_bytes)?;
            if count == 0 {
                return Err(Error::malformed(self.path, "it ended without a result"));
            }
            self.pending
                .extend_from_slice(piece.get(..count).unwrap_or_default());
            self.offset_bytes += count as u64;
        }
    }
}

#[cfg(test)]
mod tests;
