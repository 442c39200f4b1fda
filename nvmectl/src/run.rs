//! From a parsed command line to the command that does it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nvme_driver::config::Config;
use serde::Serialize;

use crate::args::{Cli, Command, Format, Global};
use crate::bench::Bench;
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::identify::{self, Subject};
use crate::output::Output;
use crate::stats::Stats;
use crate::style::{Style, printable};
use crate::tree::{self, Embedded, MountedTree, Tree};
use crate::{error_log, list, smart};

/// Does what the command line says.
///
/// # Errors
/// The command's.
pub fn run(cli: &Cli) -> Result<(), Error> {
    let global = &cli.global;
    start_log(global);
    // Not through the library's own handle, which takes what cannot be written at all (EBADF) for written.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut output = Output::new(
        &mut stdout,
        global.format(),
        Style::of_stdout(global.color, global.units),
    );
    match &cli.command {
        Command::List => {
            output.check_format("list", &[])?;
            let paths = ["controller/stats?light", "N/identify of each namespace N"];
            let Some(tree) = to_read(global, global.device, &paths, &mut output)? else {
                return Ok(());
            };
            list::run(&*tree, global.device, &mut output)
        }
        Command::Identify(args) => {
            let subject = match (args.controller, device::asked(global.device, args.ns)?) {
                (true, Some(DeviceName::Namespace(nsid))) => {
                    // One that does not exist is the more helpful thing to say, where that can be known.
                    if let Ok(tree) = connect(global) {
                        device::check(&*tree, Some(DeviceName::Namespace(nsid)))?;
                    }
                    return Err(Error::usage(
                        format!("--controller and --device nvme:{nsid} name different devices"),
                        "give one of the two",
                    ));
                }
                (true, _) | (false, None | Some(DeviceName::Controller)) => Subject::Controller,
                (false, namespace) => Subject::Namespace(namespace),
            };
            run_identify(global, subject, &mut output)
        }
        Command::IdCtrl => run_identify(global, Subject::Controller, &mut output),
        Command::IdNs(args) => run_identify(
            global,
            Subject::Namespace(device::asked(global.device, args.ns)?),
            &mut output,
        ),
        Command::Smart(args) => {
            output.check_format("smart", &[Format::Raw, Format::Hex])?;
            let Some(tree) = to_read(global, global.device, &[smart::PATH], &mut output)? else {
                return Ok(());
            };
            smart::run(&*tree, args.check, &mut output)
        }
        Command::ErrorLog => {
            output.check_format("error-log", &[Format::Raw, Format::Hex])?;
            let paths = [error_log::PATH, smart::PATH];
            let Some(tree) = to_read(global, global.device, &paths, &mut output)? else {
                return Ok(());
            };
            error_log::run(&*tree, &mut output)
        }
        Command::Stats(args) => {
            output.check_format("stats", &[])?;
            let stats = Stats::new(args, global.device)?;
            let asked = device::asked(global.device, args.ns)?;
            let Some(tree) = to_read(global, asked, &[&stats.path()], &mut output)? else {
                return Ok(());
            };
            stats.run(&*tree, &mut output)
        }
        Command::Bench(args) => {
            let bench = Bench::new(args, global)?;
            bench.run(&*connect(global)?, global.dry_run, &mut output)
        }
    }
}

fn run_identify(global: &Global, subject: Subject, output: &mut Output) -> Result<(), Error> {
    output.check_format("identify", &[Format::Raw, Format::Hex])?;
    let (asked, path) = match subject {
        Subject::Namespace(Some(DeviceName::Namespace(nsid))) => {
            (Some(DeviceName::Namespace(nsid)), format!("{nsid}/identify"))
        }
        Subject::Namespace(None) => (None, "N/identify of the only namespace N".to_owned()),
        // The controller of a namespace: that one has to be there.
        Subject::Controller | Subject::Namespace(Some(DeviceName::Controller)) => {
            (global.device, "controller/identify".to_owned())
        }
    };
    let Some(tree) = to_read(global, asked, &[&path], output)? else {
        return Ok(());
    };
    identify::run(&*tree, subject, output)
}

/// The tree that a command which changes nothing reads, once it is sure that `asked` is in it. None with `--dry-run`:
/// then what would be read has been said, after the refusals that the command itself would have met.
fn to_read(
    global: &Global,
    asked: Option<DeviceName>,
    paths: &[&str],
    output: &mut Output,
) -> Result<Option<Box<dyn Tree>>, Error> {
    let tree = connect(global)?;
    device::check(&*tree, asked)?;
    if !global.dry_run {
        return Ok(Some(tree));
    }
    if output.format == Format::Json {
        output.json(&DryRun {
            schema: "nvmectl-dry-run",
            version: "1.0",
            would_read: paths,
        })?;
    } else {
        output.text(&format!("would read nvme:{}\n", paths.join(", nvme:")))?;
    }
    Ok(None)
}

/// What a command with `--dry-run` would have done.
#[derive(Debug, Serialize)]
struct DryRun<'p> {
    schema: &'static str,
    version: &'static str,
    /// Paths of the driver's tree, relative to its root.
    would_read: &'p [&'p str],
}

/// The tree that the command line means: an embedded driver's, or that of a daemon.
fn connect(global: &Global) -> Result<Box<dyn Tree>, Error> {
    if let Some(spec) = &global.emulate {
        let config = Config::from_env()
            .map_err(|error| Error::usage(error.to_string(), "set it right, or unset it"))?;
        return Ok(Box::new(Embedded::start(spec, &config)?));
    }
    let root = match (&global.root, std::env::var_os("NVME_ROOT")) {
        (Some(root), _) => root.clone(),
        (None, Some(root)) if root.is_empty() => {
            return Err(Error::usage(
                "NVME_ROOT is empty",
                "set it to the folder under which a driver serves its tree, or unset it",
            ));
        }
        (None, Some(root)) => PathBuf::from(root),
        (None, None) => tree::default_root().to_owned(),
    };
    match MountedTree::new(root.clone()) {
        Ok(tree) => Ok(Box::new(tree)),
        Err(why) => Err(Error::NoDriver { root, why }),
    }
}

/// This program's warnings and the driver's errors always, more with `-v`; to standard error, without times, for a person
/// who reads along.
fn start_log(global: &Global) {
    use log::LevelFilter::{Debug, Error, Info, Trace, Warn};
    let (own, all) = match global.verbose {
        0 => (Warn, Error),
        1 => (Info, Info),
        2 => (Debug, Debug),
        _ => (Trace, Trace),
    };
    let mut builder = env_logger::Builder::new();
    builder
        .filter_level(all)
        .filter_module(env!("CARGO_CRATE_NAME"), own)
        .format(|line, record| {
            use std::io::Write;
            let text = record.args().to_string();
            writeln!(
                line,
                "{}: {}",
                record.level().as_str().to_lowercase(),
                printable(&text, false)
            )
        });
    // A second logger is no reason to stop.
    let _ = builder.try_init();
}
