//! A benchmark whose load is made here, through `nvme:N/ring`.

use nvme_driver::benchmark::ring::{self, Target};
use nvme_driver::benchmark::{Failure, Stop};
use stats_proto::bench::{BenchDevice, BenchJob, BenchProgress};
use stats_proto::stats::StatsDocument;

use super::progress::ProgressLine;
use super::{Ended, job};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::tree::{Errno, Tree};

/// The namespace as the driver's statistics describe it.
///
/// # Errors
/// It is not there any more.
pub fn target(stats: &StatsDocument, nsid: u32) -> Result<Target, Error> {
    let controller = &stats.controller;
    let mut namespaces = stats.namespaces.iter();
    let namespace = namespaces
        .find(|namespace| namespace.nsid == nsid)
        .ok_or(Error::Bench {
            message: format!("there is no namespace {nsid}"),
            errno: Errno::ENODEV,
        })?;
    Ok(Target {
        device: BenchDevice {
            model: controller.model.clone(),
            serial: controller.serial.clone(),
            firmware: controller.firmware.clone(),
            nsid,
            lba_bytes: namespace.lba_bytes,
            backend: controller.backend.clone(),
        },
        blocks: namespace.blocks,
    })
}

/// Runs `job` to its end, or until somebody interrupts.
///
/// # Errors
/// What the driver or the device answers.
pub fn drive(
    tree: &dyn Tree,
    target: Target,
    job: &BenchJob,
    interrupt: &Interrupt,
    line: &ProgressLine,
) -> Result<Ended, Error> {
    let path = format!("{}/ring", target.device.nsid);
    let stop = Stop::default();
    let (sender, heard) = std::sync::mpsc::channel::<BenchProgress>();
    let open = || tree.ring(&path).map_err(|error| error.errno);
    // The rings are opened here, where the tree is; what runs them is the library's threads.
    let prepared = ring::prepare(&target, job, &stop, open, move |progress| {
        // Nobody hears it after the end.
        let _ = sender.send(progress);
    });
    let prepared = prepared.map_err(|failure| refused(&failure))?;
    let mut interrupted = false;
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| prepared.run());
        for progress in heard {
            if interrupt.requested() && !interrupted {
                interrupted = true;
                line.say_stopping();
                stop.stop();
            }
            if !interrupted {
                line.show(&progress);
            }
        }
        running
            .join()
            .unwrap_or(Err(Failure::Io(nvme_driver::IoError::Stopped)))
    });
    let result = result.map_err(|failure| refused(&failure))?;
    let text = serde_json::to_string(&result).map_err(|error| Error::malformed(&path, error))?;
    Ok(Ended {
        text,
        result,
        interrupted,
    })
}

fn refused(failure: &Failure) -> Error {
    Error::Bench {
        message: job::with_options(&failure.to_string()),
        errno: failure.errno(),
    }
}
