//! From a parsed command line to the command that does it.

use std::io;
use std::path::PathBuf;

use nvme_driver::config::Config;

use crate::args::{Cli, Command, Global};
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
    let mut stdout = io::stdout().lock();
    let mut output = Output::new(
        &mut stdout,
        global.format(),
        Style::of_stdout(global.color, global.units),
    );
    match &cli.command {
        Command::List => {
            if would_read(
                global,
                "controller/stats?light and the namespaces' identify",
                &mut output,
            )? {
                return Ok(());
            }
            list::run(&*connect(global)?, &mut output)
        }
        Command::Identify(args) => {
            let subject = match (args.controller, device::asked(global.device, args.ns)?) {
                (true, Some(DeviceName::Namespace(nsid))) => {
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
            if would_read(global, "controller/log/smart", &mut output)? {
                return Ok(());
            }
            smart::run(&*connect(global)?, args.check, &mut output)
        }
        Command::ErrorLog => {
            if would_read(global, "controller/log/error", &mut output)? {
                return Ok(());
            }
            error_log::run(&*connect(global)?, &mut output)
        }
        Command::Stats(args) => {
            let stats = Stats::new(args, global.device)?;
            if would_read(global, &stats.path(), &mut output)? {
                return Ok(());
            }
            stats.run(&*connect(global)?, &mut output)
        }
        Command::Bench(args) => {
            let bench = Bench::new(args, global.device)?;
            bench.run(&*connect(global)?, global.dry_run, &mut output)
        }
    }
}

fn run_identify(global: &Global, subject: Subject, output: &mut Output) -> Result<(), Error> {
    let path = match subject {
        Subject::Controller | Subject::Namespace(Some(DeviceName::Controller)) => {
            "controller/identify".to_owned()
        }
        Subject::Namespace(Some(DeviceName::Namespace(nsid))) => format!("{nsid}/identify"),
        Subject::Namespace(None) => "the only namespace's identify".to_owned(),
    };
    if would_read(global, &path, output)? {
        return Ok(());
    }
    identify::run(&*connect(global)?, subject, output)
}

/// With `--dry-run`: says what a command that changes nothing would read, and is true.
fn would_read(global: &Global, what: &str, output: &mut Output) -> Result<bool, Error> {
    if global.dry_run {
        output.text(&format!("would read nvme:{what}\n"))?;
    }
    Ok(global.dry_run)
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
