//! The driver's I/O scheduler, which is a file of its own: what it says is the name of the scheduler in force, and a name
//! that is written to it puts that one in force.

use serde::Serialize;
use serde_json::json;

use super::Select;
use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::tree::{Access, Errno, Tree, TreeError, read_document, write_all};

/// The file.
pub const PATH: &str = "controller/scheduler";
/// Longest name that is taken for one.
const MAX_NAME_BYTES: usize = 32;
const NAMES: &str = "none, roundrobin, cpuaffinity, priority and deadline are those there are";

/// The scheduler in force.
#[derive(Debug, Serialize)]
struct SchedulerDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    feature: &'static str,
    scheduler: String,
}

/// Prints the scheduler in force.
///
/// # Errors
/// Usage for any other than the current value, unsupported where the driver has no such file, what reading it gives.
pub fn get(tree: &dyn Tree, select: Select, output: &mut Output) -> Result<(), Error> {
    if select != Select::Current {
        return Err(Error::usage(
            "the scheduler is the driver's and has only a current value",
            "leave --select out",
        ));
    }
    let scheduler = read(tree)?;
    if output.format == Format::Json {
        return output.json(&SchedulerDocument {
            schema: "nvmectl-feature",
            version: "1.0",
            device: format!("{}:controller", tree.scheme()),
            feature: "scheduler",
            scheduler,
        });
    }
    output.text(&format!("scheduler  {scheduler}\n"))
}

/// Whether `name` can be the name of a scheduler; which there are, the driver knows.
///
/// # Errors
/// Usage.
pub fn check(name: Option<&str>) -> Result<(), Error> {
    let plain = |name: &str| {
        (1..=MAX_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    match name {
        Some(name) if plain(name) => Ok(()),
        Some(name) => Err(Error::usage(format!("{name} is no name of a scheduler"), NAMES)),
        None => Err(Error::usage("which scheduler is not said", NAMES)),
    }
}

/// Puts another scheduler in force.
///
/// # Errors
/// Usage for one that there is not, unsupported where the driver has no such file, what writing it gives.
pub fn set(tree: &dyn Tree, name: Option<&str>, dry_run: bool, output: &mut Output) -> Result<(), Error> {
    let name = name.unwrap_or_default();
    if dry_run {
        let before = read(tree)?;
        return if output.format == Format::Json {
            output.json(&json!({
                "schema": "nvmectl-dry-run", "version": "1.0",
                "would_set": { "device": format!("{}:controller", tree.scheme()), "feature": "scheduler", "scheduler": name },
            }))
        } else {
            output.text(&format!(
                "would set scheduler of {}:controller to {name}, which is {before} now\n",
                tree.scheme()
            ))
        };
    }
    let mut file = tree.open(PATH, Access::ReadWrite).map_err(failure)?;
    match write_all(file.as_mut(), PATH, name.as_bytes()) {
        Err(TreeError {
            errno: Errno::EINVAL, ..
        }) => Err(Error::usage(
            format!("the driver has no scheduler {name}, or not with the queues that it has"),
            NAMES,
        )),
        other => Ok(other?),
    }?;
    drop(file);
    get(tree, Select::Current, output)
}

fn read(tree: &dyn Tree) -> Result<String, Error> {
    let bytes = read_document(tree, PATH).map_err(failure)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::malformed(PATH, "it is no text"))?;
    let name = text.trim();
    check(Some(name)).map_err(|_| Error::malformed(PATH, format!("{name:?} is no name of a scheduler")))?;
    Ok(name.to_owned())
}

/// A driver without the file cannot be asked.
fn failure(error: TreeError) -> Error {
    if error.errno == Errno::ENOENT {
        return Error::unsupported(
            "this driver's scheduler cannot be asked for while it runs",
            "NVME_SCHEDULER sets it when the driver starts, and nvmectl stats shows it",
        );
    }
    error.into()
}
