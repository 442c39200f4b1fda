//! From a parsed command line to the command that does it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nvme_driver::config::Config;
use serde::Serialize;

use crate::args::{BindArgs, Cli, Command, Format, Global};
use crate::bench::Bench;
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::feature::FeatureCommand;
use crate::identify::{self, Subject};
use crate::output::Output;
use crate::stats::Stats;
use crate::style::{Style, printable};
use crate::top::Top;
use crate::tree::{self, Discovered, Embedded, Tree};
use crate::{error_log, feature, list, mi, smart};

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
    let device = global.device_name();
    match (&cli.command, device) {
        (Command::List, _) => {}
        (command, Some(partition @ DeviceName::Partition(..))) => {
            return Err(device::no_partitions(partition, command.name()));
        }
        _ => {}
    }
    match &cli.command {
        Command::List => run_list(global, &mut output),
        Command::Identify(args) => {
            let subject = match (args.controller, device::asked(device, args.ns)?) {
                (true, Some(DeviceName::Namespace(nsid))) => {
                    // One that does not exist is the more helpful thing to say, where that can be known.
                    if let Ok(tree) = connect(global) {
                        device::check(&*tree, Some(DeviceName::Namespace(nsid)))?;
                    }
                    return Err(Error::usage(
                        format!("--controller and --device {nsid} name different devices"),
                        "give one of the two",
                    ));
                }
                (false, namespace @ Some(DeviceName::Namespace(_))) => Subject::Namespace(namespace),
                _ => Subject::Controller,
            };
            run_identify(global, subject, &mut output)
        }
        Command::IdCtrl => run_identify(global, Subject::Controller, &mut output),
        Command::IdNs(args) => run_identify(
            global,
            Subject::Namespace(device::asked(device, args.ns)?),
            &mut output,
        ),
        Command::Smart(args) => {
            output.check_format("smart", &[Format::Raw, Format::Hex])?;
            let Some(tree) = to_read(global, device, &[smart::PATH], &mut output)? else {
                return Ok(());
            };
            on(&*tree, |tree| smart::run(tree, args.check, &mut output))
        }
        Command::ErrorLog => {
            output.check_format("error-log", &[Format::Raw, Format::Hex])?;
            let paths = [error_log::PATH, smart::PATH];
            let Some(tree) = to_read(global, device, &paths, &mut output)? else {
                return Ok(());
            };
            on(&*tree, |tree| error_log::run(tree, &mut output))
        }
        Command::Mi(args) => {
            output.check_format("mi", &mi::FORMATS)?;
            let Some(tree) = to_read(global, device, args.command.paths(), &mut output)? else {
                return Ok(());
            };
            on(&*tree, |tree| args.command.run(tree, &mut output))
        }
        Command::Feature(args) => {
            output.check_format("feature", &[])?;
            if let FeatureCommand::Set(set) = &args.command {
                feature::check_settable(set)?;
            }
            let tree = connect(global)?;
            on(&*tree, |tree| {
                device::check(tree, device)?;
                feature::run(tree, args, device, global.dry_run, &mut output)
            })
        }
        Command::Stats(args) => {
            output.check_format("stats", &[])?;
            let stats = Stats::new(args, device)?;
            let asked = device::asked(device, args.ns)?;
            let Some(tree) = to_read(global, asked, &[&stats.path()], &mut output)? else {
                return Ok(());
            };
            on(&*tree, |tree| stats.run(tree, &mut output))
        }
        Command::Bench(args) => {
            let bench = Bench::new(args, global)?;
            let tree = connect(global)?;
            on(&*tree, |tree| bench.run(tree, global.dry_run, &mut output))
        }
        Command::Top(args) => Top::new(args, global)?.run(&mut output),
        Command::Bind(args) => run_bind(global, args, true, &mut output),
        Command::Unbind(args) => run_bind(global, args, false, &mut output),
    }
}

/// Gives a controller to vfio-pci, or back to the kernel's own driver.
fn run_bind(global: &Global, args: &BindArgs, to_vfio: bool, output: &mut Output) -> Result<(), Error> {
    let name = if to_vfio { "bind" } else { "unbind" };
    if global.emulate.is_some() || global.root.is_some() || global.device.is_some() {
        return Err(Error::usage(
            format!("{name} is about a function of PCI, not about what a driver serves"),
            format!(
                "nvmectl {name} {}, without --emulate, --root and --device",
                args.address
            ),
        ));
    }
    output.check_format(name, &[])?;
    bind_on_this_system(global, args, to_vfio, output)
}

#[cfg(target_os = "linux")]
fn bind_on_this_system(
    global: &Global,
    args: &BindArgs,
    to_vfio: bool,
    output: &mut Output,
) -> Result<(), Error> {
    use crate::bind::{Bind, To};
    let to = if to_vfio { To::Vfio } else { To::Kernel };
    Bind::new(&args.address, to)?.run(global.dry_run, output)
}

#[cfg(not(target_os = "linux"))]
fn bind_on_this_system(_: &Global, _: &BindArgs, _: bool, _: &mut Output) -> Result<(), Error> {
    Err(Error::Bind {
        exit_code: 6,
        message: "drivers of the kernel are given their devices like this on Linux only".to_owned(),
        hint: "here pcid hands controllers over".to_owned(),
    })
}

/// What `run` does with `tree`; its errors say in whose tree they happened.
fn on<T>(tree: &dyn Tree, run: impl FnOnce(&dyn Tree) -> Result<T, Error>) -> Result<T, Error> {
    run(tree).map_err(|error| error.in_scheme(tree.scheme()))
}

/// Lists every controller that there is, or the one that was asked for.
fn run_list(global: &Global, output: &mut Output) -> Result<(), Error> {
    output.check_format("list", &[])?;
    let device = global.device_name();
    let trees = if global.dry_run || device.is_some() {
        let paths = ["controller/stats?light", "N/identify of each namespace N"];
        match to_read(global, device, &paths, output)? {
            Some(tree) => vec![tree],
            None => return Ok(()),
        }
    } else {
        connect_all(global)?
    };
    for (position, tree) in trees.iter().enumerate() {
        if position > 0 && output.format == Format::Table {
            output.text("\n")?;
        }
        on(&**tree, |tree| list::run(tree, device, output))?;
    }
    Ok(())
}

fn run_identify(global: &Global, subject: Subject, output: &mut Output) -> Result<(), Error> {
    output.check_format("identify", &[Format::Raw, Format::Hex])?;
    let (asked, path) = match subject {
        Subject::Namespace(Some(DeviceName::Namespace(nsid))) => {
            (Some(DeviceName::Namespace(nsid)), format!("{nsid}/identify"))
        }
        Subject::Namespace(None) => (None, "N/identify of the only namespace N".to_owned()),
        // The controller of a namespace: that one has to be there.
        Subject::Controller | Subject::Namespace(_) => {
            (global.device_name(), "controller/identify".to_owned())
        }
    };
    let Some(tree) = to_read(global, asked, &[&path], output)? else {
        return Ok(());
    };
    on(&*tree, |tree| identify::run(tree, subject, output))
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
    on(&*tree, |tree| device::check(tree, asked))?;
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
        let scheme = tree.scheme();
        output.text(&format!(
            "would read {scheme}:{}\n",
            paths.join(&format!(", {scheme}:"))
        ))?;
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

/// The one tree that the command line means: an embedded driver's, or that of a daemon.
fn connect(global: &Global) -> Result<Box<dyn Tree>, Error> {
    let mut trees = connect_all(global)?;
    if trees.len() > 1 {
        return Err(Error::several_drivers(trees.iter().map(|tree| tree.scheme())));
    }
    // Never empty: that would have been an error.
    trees.pop().ok_or(Error::NoNamespaces)
}

/// Every tree that the command line may mean, at least one. Where a driver has ended, that is said, and is an error only
/// where no other is running.
fn connect_all(global: &Global) -> Result<Vec<Box<dyn Tree>>, Error> {
    if let Some(spec) = &global.emulate {
        return Ok(vec![Box::new(start_embedded(global, spec)?)]);
    }
    let mut trees: Vec<Box<dyn Tree>> = Vec::new();
    let mut failed = Vec::new();
    for Discovered { root, tree, .. } in discover(global)? {
        match tree {
            Ok(tree) => trees.push(Box::new(tree)),
            Err(why) => failed.push(Error::no_tree(root, why)),
        }
    }
    match (trees.is_empty(), failed.pop()) {
        (true, Some(last)) => Err(failed.into_iter().next().unwrap_or(last)),
        (_, last) => {
            for error in failed.iter().chain(&last) {
                log::warn!("{error}");
            }
            Ok(trees)
        }
    }
}

/// A driver inside this process, on a controller that `spec` describes.
///
/// # Errors
/// Usage for what cannot be used; not found for a device in another scheme; otherwise why it did not come up.
pub fn start_embedded(global: &Global, spec: &str) -> Result<Embedded, Error> {
    if let Some(scheme) = other_scheme(global, tree::DEFAULT_SCHEME) {
        return Err(no_scheme(scheme, &[tree::DEFAULT_SCHEME]));
    }
    let config =
        Config::from_env().map_err(|error| Error::usage(error.to_string(), "set it right, or unset it"))?;
    Embedded::start(spec, &config)
}

/// The places where drivers serve trees, or did; at least one.
///
/// # Errors
/// No driver is running, or none of the scheme that was asked for.
pub fn discover(global: &Global) -> Result<Vec<Discovered>, Error> {
    let root = root(global)?;
    let asked = global.device.as_ref().and_then(|device| device.scheme.as_deref());
    match tree::discover(&root, asked) {
        // A tree that was named itself is the one that is meant by `nvme`, whatever its name.
        Ok(found) => match found.as_slice() {
            [only] if only.root == root => match other_scheme(global, &only.scheme) {
                Some(asked) if asked != tree::DEFAULT_SCHEME => Err(no_scheme(asked, &[&only.scheme])),
                _ => Ok(found),
            },
            _ => Ok(found),
        },
        Err(why) => match (asked, tree::discover(&root, None)) {
            (Some(asked), Ok(others)) => {
                let names: Vec<&str> = others.iter().map(|other| other.scheme.as_str()).collect();
                Err(no_scheme(asked, &names))
            }
            _ => Err(Error::no_tree(root, why)),
        },
    }
}

/// The scheme that was asked for, if it is not `scheme`.
fn other_scheme<'g>(global: &'g Global, scheme: &str) -> Option<&'g str> {
    let asked = global.device.as_ref()?.scheme.as_deref()?;
    (asked != scheme).then_some(asked)
}

fn no_scheme(asked: &str, found: &[&str]) -> Error {
    Error::NoScheme {
        scheme: asked.to_owned(),
        found: format!("{}:", found.join(":, ")),
    }
}

/// The folder below which the command line has drivers' trees looked for.
fn root(global: &Global) -> Result<PathBuf, Error> {
    match (&global.root, std::env::var_os("NVME_ROOT")) {
        (Some(root), _) => Ok(root.clone()),
        (None, Some(root)) if root.is_empty() => Err(Error::usage(
            "NVME_ROOT is empty",
            "set it to the folder under which a driver serves its tree, or unset it",
        )),
        (None, Some(root)) => Ok(PathBuf::from(root)),
        (None, None) => Ok(tree::default_root().to_owned()),
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
