//! `top`: what devices and queues do right now, on a screen or as lines.
//!
//! What is known is in the [`model`], which has no clock and no I/O. It is fed by the [`sampler`], whose threads read
//! each driver's statistics; [`ui`] draws it on a terminal, [`batch`] prints it. The [`rows`] are the same for both, so
//! text, JSON and CSV cannot differ.

mod batch;
mod columns;
mod layout;
mod load;
mod model;
mod rows;
mod sampler;
mod screen;
mod ui;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::args::{Format, Global, TopArgs, ViewName};
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::run::{discover, start_embedded};
use crate::snapshot;
use crate::tree::{DEFAULT_SCHEME, Discovered, Embedded, Tree};

use batch::Batch;
use columns::Column;
pub use load::Load;
use load::Running;
pub use model::{INTERVAL_MAX_NS, INTERVAL_MIN_NS};
use model::{Model, Now, Sorting, SourceName, View};
use sampler::{OpenTree, Sampler};

/// The formats that lines can have beside tables and JSON.
const FORMATS: [Format; 2] = [Format::Jsonl, Format::Csv];

/// A `top` as the command line asks for it.
pub struct Top<'g> {
    global: &'g Global,
    interval_ns: u64,
    count: Option<u64>,
    batch: bool,
    view: View,
    sorting: Sorting,
    load: Option<Load>,
}

/// Whom to watch.
struct Watched {
    /// The driver of this process, if it is one of its own.
    embedded: Option<Embedded>,
    names: Vec<SourceName>,
    /// How each of them is reached.
    trees: Vec<OpenTree>,
}

impl<'g> Top<'g> {
    /// A `top` as `args` ask for it.
    ///
    /// # Errors
    /// Usage.
    pub fn new(args: &TopArgs, global: &'g Global) -> Result<Self, Error> {
        if args.load.is_some() && global.emulate.is_none() {
            return Err(Error::usage(
                "--load makes an embedded driver work, and there is none",
                "add --emulate, or start the load with nvmectl bench or fio beside this",
            ));
        }
        let view = match args.view {
            ViewName::Devices => View::Devices,
            ViewName::Queues => View::Queues,
        };
        let column = match (&args.sort, view) {
            (None, _) => 0,
            (Some(name), View::Devices) => find(&columns::DEVICES, name)?,
            (Some(name), View::Queues) => find(&columns::QUEUES, name)?,
        };
        Ok(Self {
            global,
            interval_ns: args.interval,
            count: if args.once { Some(1) } else { args.count },
            batch: args.batch || args.once || global.format() != Format::Table,
            view,
            sorting: Sorting {
                column,
                reversed: args.reverse,
            },
            load: args.load.clone(),
        })
    }

    /// Shows or prints until the user has seen enough.
    ///
    /// # Errors
    /// Usage where the output is no terminal; no driver; interrupted; those of the terminal or the output.
    pub fn run(self, output: &mut Output) -> Result<(), Error> {
        output.check_format("top", &FORMATS)?;
        if !self.batch && !output.style.terminal {
            return Err(Error::usage(
                "top draws on a terminal, and standard output is none",
                "add -b to print a table for each interval, or -o jsonl or -o csv for programs",
            ));
        }
        let Watched {
            embedded,
            names,
            trees,
        } = self.sources()?;
        if self.global.dry_run {
            return dry_run(&names, output);
        }
        let interrupt = if self.batch {
            Interrupt::listen_to_requests()?
        } else {
            Interrupt::listen_on_screen()?
        };
        let load = match (&self.load, &embedded) {
            (Some(load), Some(embedded)) => {
                let nsid = match self.global.device_name() {
                    Some(DeviceName::Namespace(nsid)) => nsid,
                    _ => *device::namespaces(embedded)?.first().ok_or(Error::NoNamespaces)?,
                };
                Some(Running::start(load.clone(), embedded.client(), nsid)?)
            }
            _ => None,
        };
        let sampler = Sampler::start(trees)?;
        let mut model = Model::new(names, self.interval_ns, self.view, self.sorting);
        if embedded.is_some() && load.is_none() {
            model.set_hint("nothing is asked of this device: --load randread:qd=8 makes it work");
        }
        let ended = if self.batch {
            let batch = Batch {
                count: self.count,
                view: self.view,
                load: load.as_ref(),
            };
            batch::run(&mut model, &sampler, &batch, &interrupt, output)
        } else {
            ui::run(
                &mut model,
                &sampler,
                load.as_ref(),
                self.count,
                &interrupt,
                &output.style,
            )
        };
        // In this order: a job ends at once with its driver, and its thread with the job.
        if let Some(load) = &load {
            load.stop();
        }
        drop(embedded);
        drop(load);
        ended
    }

    fn sources(&self) -> Result<Watched, Error> {
        let asked = self.global.device_name();
        let nsid = match asked {
            Some(DeviceName::Namespace(nsid)) => Some(nsid),
            _ => None,
        };
        if let Some(spec) = &self.global.emulate {
            let embedded = start_embedded(self.global, spec)?;
            device::check(&embedded, asked)?;
            let client = embedded.client();
            let open: OpenTree = Box::new(move || Ok(Box::new(client.clone()) as Box<dyn Tree>));
            let name = SourceName {
                scheme: DEFAULT_SCHEME.to_owned(),
                nsid,
            };
            return Ok(Watched {
                embedded: Some(embedded),
                names: vec![name],
                trees: vec![open],
            });
        }
        let found = discover(self.global)?;
        if let (Some(device), 2..) = (&self.global.device, found.len())
            && device.scheme.is_none()
        {
            return Err(Error::several_drivers(
                found.iter().map(|found| found.scheme.as_str()),
            ));
        }
        let mut names = Vec::new();
        let mut trees: Vec<OpenTree> = Vec::new();
        for Discovered { scheme, root, tree } in found {
            // One that has ended is waited for.
            if let Ok(tree) = &tree {
                device::check(tree, asked).map_err(|error| error.in_scheme(&scheme))?;
            }
            names.push(SourceName {
                scheme: scheme.clone(),
                nsid,
            });
            trees.push(Box::new(move || {
                let Discovered { root, tree, .. } = Discovered::at(root.clone(), &scheme);
                match tree {
                    Ok(tree) => Ok(Box::new(tree) as Box<dyn Tree>),
                    Err(why) => Err(Error::no_tree(root, why)),
                }
            }));
        }
        Ok(Watched {
            embedded: None,
            names,
            trees,
        })
    }
}

/// The position of the column that `--sort` calls `name`.
fn find<R>(columns: &[Column<R>], name: &str) -> Result<usize, Error> {
    let found = columns.iter().position(|column| column.is_called(name));
    found.ok_or_else(|| {
        let keys: Vec<&str> = columns.iter().map(|column| column.key).collect();
        Error::usage(
            format!("--sort {name}: this view has no such column"),
            format!("its columns are {}", keys.join(", ")),
        )
    })
}

fn dry_run(names: &[SourceName], output: &mut Output) -> Result<(), Error> {
    let paths = names
        .iter()
        .map(|name| format!("{}:{}", name.scheme, snapshot::path(None, false)));
    let paths: Vec<String> = paths.collect();
    match output.format {
        Format::Table => output.text(&format!("would read {}, again and again\n", paths.join(", "))),
        _ => output.json(&serde_json::json!({
            "schema": "nvmectl-dry-run", "version": "1.0", "would_read": paths
        })),
    }
}

/// The time for the model, and for whom it is shown to.
pub struct Clock {
    started: Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// How long until the model's `next_ns`; nothing where that has passed, or is at once.
    fn until(&self, next_ns: Option<u64>) -> Duration {
        let now_ns = self.now().monotonic_ns;
        Duration::from_nanos(next_ns.unwrap_or(0).saturating_sub(now_ns))
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
