//! `feature`: what the controller is set to, and setting it.
//!
//! Features are read and written with Get Features and Set Features through the driver's `controller/admin`, which is
//! root's; the driver's I/O scheduler, which is none of the controller's, through `controller/scheduler`. What the driver
//! relies on is not set here: it is told how to ask the driver for it instead.

mod known;
mod scheduler;
mod value;

use clap::{Args, Subcommand, ValueEnum};
use nvme_spec::command::{
    SEL_CURRENT, SEL_DEFAULT, SEL_SAVED, SEL_SUPPORTED_CAPABILITIES, SupportedCapabilities, get_features,
    set_features,
};
use nvme_spec::identify::{IdentifyController, Oncs};
use nvme_spec::{FeatureId, Status, SubmissionEntry};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::args::Format;
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::identify;
use crate::output::Output;
use crate::tree::{Tree, read_document};
use crate::values::flags;
use crate::{admin, view};

pub use known::FeatureName;
use known::Setting;
use value::{Parts, Which, new_value};

/// Arguments of `feature`.
#[derive(Debug, Args)]
pub struct FeatureArgs {
    #[command(subcommand)]
    pub command: FeatureCommand,
}

/// What to do with features.
#[derive(Debug, Subcommand)]
pub enum FeatureCommand {
    /// Every feature that the controller has, with its current value
    List,
    /// One feature: its current, default or saved value, or what can be done with it
    Get(GetArgs),
    /// Set a feature; what is not said of its value stays as it is
    Set(SetArgs),
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The feature
    #[arg(value_name = "FEATURE", value_enum)]
    pub name: FeatureName,
    /// Which of its values: current, default, saved; or supported, what can be done with it
    #[arg(
        long,
        value_name = "SELECT",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub select: Select,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLES)]
pub struct SetArgs {
    /// The feature
    #[arg(value_name = "FEATURE", value_enum)]
    pub name: FeatureName,
    /// Its value: on or off, a power state, a temperature, a time, the name of a scheduler
    #[arg(value_name = "VALUE")]
    pub value: Option<String>,
    #[command(flatten)]
    pub parts: Parts,
    #[command(flatten)]
    pub which: Which,
    /// Keep it over resets and power cycles
    #[arg(long)]
    pub save: bool,
}

const SET_EXAMPLES: &str = "\
Examples:
  nvmectl feature set interrupt-coalescing --threshold 8 --time 200us
  nvmectl feature set temperature-threshold 75C --save
  nvmectl feature set volatile-write-cache off
  nvmectl feature set scheduler roundrobin";

/// Which value of a feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Select {
    /// The value in force
    #[default]
    Current,
    /// What it is without a setting
    Default,
    /// What it is after a reset
    Saved,
    /// Not a value: whether it can be changed and saved
    Supported,
}

impl Select {
    const fn sel(self) -> u8 {
        match self {
            Self::Current => SEL_CURRENT,
            Self::Default => SEL_DEFAULT,
            Self::Saved => SEL_SAVED,
            Self::Supported => SEL_SUPPORTED_CAPABILITIES,
        }
    }

    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Room for the data of those features that have some (Base 2.0, section 5.15): 4096 bytes at the most.
const DATA_BYTES: u16 = 4096;
const IDENTIFY: &str = "controller/identify";

/// Does what `args` say, of the device `asked`.
///
/// # Errors
/// Usage and refusals before anything is sent; unsupported; the controller's refusal.
pub fn run(
    tree: &dyn Tree,
    args: &FeatureArgs,
    asked: Option<DeviceName>,
    dry_run: bool,
    output: &mut Output,
) -> Result<(), Error> {
    output.check_format("feature", &[])?;
    let controller = Controller { tree, asked };
    match &args.command {
        FeatureCommand::List => controller.list(output),
        FeatureCommand::Get(get) if get.name == FeatureName::Scheduler => {
            scheduler::get(tree, get.select, output)
        }
        FeatureCommand::Get(get) => {
            let document = controller.get(get.name, get.select, get.which)?;
            show(&document, output)
        }
        FeatureCommand::Set(set) if set.name == FeatureName::Scheduler => {
            check_settable(set)?;
            scheduler::set(tree, set.value.as_deref(), dry_run, output)
        }
        FeatureCommand::Set(set) => {
            check_settable(set)?;
            controller.set(set, dry_run, output)
        }
    }
}

/// Refuses what is wrong on the command line, or not for this program to set, before there is a device.
///
/// # Errors
/// Usage, or a refusal.
pub fn check_settable(set: &SetArgs) -> Result<(), Error> {
    let name = set.name.text();
    match set.name.setting() {
        Setting::Here if set.name == FeatureName::Scheduler => {
            if set.save {
                return Err(Error::usage(
                    "the scheduler is the driver's, and not saved in the controller",
                    "NVME_SCHEDULER sets it when the driver starts",
                ));
            }
            scheduler::check(set.value.as_deref())
        }
        Setting::Here => {
            // The controller's own value is only needed for the parts that are not said.
            new_value(set.name, set.value.as_deref(), &set.parts, set.which, 0).map(|_| ())
        }
        Setting::Driver(why) => Err(Error::Refused {
            lost: format!("{name} is the driver's own: {why}"),
            hint: format!("nvmectl feature get {name} shows it"),
        }),
        Setting::NotHere => Err(Error::usage(
            format!("{name} can be read, not set"),
            "controller/admin takes any command that is no danger to the driver",
        )),
    }
}

struct Controller<'t> {
    tree: &'t dyn Tree,
    asked: Option<DeviceName>,
}

/// One feature, decoded. `value` is dword 0 as it came; with `select` `supported` the settings are what can be done with it.
#[derive(Debug, Serialize)]
struct FeatureDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    feature: String,
    name: String,
    feature_id: u8,
    select: String,
    value: u32,
    settings: Map<String, Value>,
}

/// What the controller has.
#[derive(Debug, Serialize)]
struct ListDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    features: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    feature: String,
    feature_id: u8,
    value: u32,
    settings: Map<String, Value>,
    /// Null where the controller does not say (Identify Controller, ONCS bit 4).
    changeable: Option<bool>,
    saveable: Option<bool>,
}

fn show(document: &FeatureDocument, output: &mut Output) -> Result<(), Error> {
    if output.format == Format::Json {
        return output.json(document);
    }
    let text = view::render(document, &["feature_id", "value"], &output.style);
    output.text(&text)
}

impl Controller<'_> {
    fn oncs(&self) -> Result<Oncs, Error> {
        let bytes = read_document(self.tree, IDENTIFY)?;
        let identify: IdentifyController = identify::decode(&bytes, IDENTIFY)?;
        Ok(identify.oncs.get().into())
    }

    fn nsid(&self, name: FeatureName) -> Result<u32, Error> {
        if name.is_of_namespace() {
            device::one_namespace(self.tree, self.asked, &format!("feature {}", name.text()))
        } else {
            Ok(0)
        }
    }

    /// Get Features: dword 0 and the data, or the status that it failed with.
    fn read(
        &self,
        id: FeatureId,
        nsid: u32,
        sel: u8,
        cdw11: u32,
    ) -> Result<Result<(u32, Vec<u8>), Status>, Error> {
        let entry = SubmissionEntry {
            cdw11,
            ..get_features(id, nsid, sel)
        };
        let (completion, data) = admin::send(self.tree, entry, &[], DATA_BYTES)?;
        let status = completion.status();
        Ok(if status.is_success() {
            Ok((completion.dw0, data))
        } else {
            Err(status)
        })
    }

    fn get(&self, name: FeatureName, select: Select, which: Which) -> Result<FeatureDocument, Error> {
        let Some(id) = name.id() else {
            return Err(Error::usage(
                "it is no feature of the controller",
                "nvmectl feature list shows those",
            ));
        };
        if select != Select::Current && !self.oncs()?.save_select() {
            return Err(Error::unsupported(
                "the controller has only current values of its features (Identify Controller, ONCS bit 4)",
                "leave --select out",
            ));
        }
        let nsid = self.nsid(name)?;
        let (value, data) = self
            .read(id, nsid, select.sel(), which.cdw11(name))?
            .map_err(|status| get_failed(name, status))?;
        let settings = match select {
            Select::Supported => capabilities(value),
            _ => name.settings(value, &data),
        };
        Ok(FeatureDocument {
            schema: "nvmectl-feature",
            version: "1.0",
            device: match nsid {
                0 => format!("{}:controller", self.tree.scheme()),
                nsid => format!("{}:{nsid}", self.tree.scheme()),
            },
            feature: name.text(),
            name: id.to_string(),
            feature_id: id.0,
            select: select.text(),
            value,
            settings,
        })
    }

    fn set(&self, set: &SetArgs, dry_run: bool, output: &mut Output) -> Result<(), Error> {
        let SetArgs { name, which, .. } = *set;
        let before = self.get(name, Select::Current, which)?;
        let value = new_value(name, set.value.as_deref(), &set.parts, which, before.value)?;
        let nsid = self.nsid(name)?;
        let entry = set_features(FeatureId(before.feature_id), nsid, value, set.save);
        if dry_run {
            let device = &before.device;
            let (feature, id) = (&before.feature, before.feature_id);
            return if output.format == Format::Json {
                output.json(&json!({
                    "schema": "nvmectl-dry-run", "version": "1.0",
                    "would_set": {
                        "device": device, "feature": feature, "feature_id": id, "value": value, "save": set.save,
                        "settings": name.settings(value, &[]),
                    },
                }))
            } else {
                let saved = if set.save { " and save it" } else { "" };
                output.text(&format!(
                    "would set {feature} ({id:02X}h) of {device} to {value:#x}{saved}: {}\n",
                    words(&name.settings(value, &[]), output)
                ))
            };
        }
        let (completion, _) = admin::send(self.tree, entry, &[], 0)?;
        let status = completion.status();
        if !status.is_success() {
            return Err(set_failed(name, status));
        }
        show(&self.get(name, Select::Current, which)?, output)
    }

    fn list(&self, output: &mut Output) -> Result<(), Error> {
        let says_more = self.oncs()?.save_select();
        let mut features = Vec::new();
        for name in FeatureName::value_variants() {
            let (name, Some(id)) = (*name, name.id()) else {
                continue;
            };
            let nsid = match self.asked {
                _ if !name.is_of_namespace() => 0,
                Some(DeviceName::Namespace(nsid)) => nsid,
                // Of several namespaces the first speaks for all.
                _ => match device::namespaces(self.tree)?.first() {
                    Some(nsid) => *nsid,
                    None => continue,
                },
            };
            let which = Which::default();
            // One that the controller does not have is not an error here.
            let Ok((value, data)) = self.read(id, nsid, SEL_CURRENT, which.cdw11(name))? else {
                continue;
            };
            let capabilities = match says_more {
                true => self.read(id, nsid, SEL_SUPPORTED_CAPABILITIES, 0)?.ok(),
                false => None,
            }
            .map(|(value, _)| SupportedCapabilities::from(value));
            features.push(Row {
                feature: name.text(),
                feature_id: id.0,
                value,
                settings: name.settings(value, &data),
                changeable: capabilities.map(|capabilities| capabilities.changeable()),
                saveable: capabilities.map(|capabilities| capabilities.saveable()),
            });
        }
        let document = ListDocument {
            schema: "nvmectl-feature-list",
            version: "1.0",
            device: format!("{}:controller", self.tree.scheme()),
            features,
        };
        if output.format == Format::Json {
            return output.json(&document);
        }
        let text = table(&document, output);
        output.text(&text)
    }
}

fn table(document: &ListDocument, output: &Output) -> String {
    use crate::style::Align;
    let mut grid = output.style.table(&[
        ("FEATURE", Align::Left),
        ("ID", Align::Left),
        ("CHANGE", Align::Left),
        ("SAVE", Align::Left),
        ("CURRENT", Align::Left),
    ]);
    let answer = |answer: Option<bool>| match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    for row in &document.features {
        grid.row([
            row.feature.clone(),
            format!("{:02X}h", row.feature_id),
            answer(row.changeable).to_owned(),
            answer(row.saveable).to_owned(),
            words(&row.settings, output),
        ]);
    }
    grid.lines(0)
}

/// Settings in a row: what is set of plain flags, and everything else with its name.
fn words(settings: &Map<String, Value>, output: &Output) -> String {
    let words: Vec<String> = settings
        .iter()
        .filter_map(|(key, value)| {
            let name = key.replace('_', " ");
            match value {
                Value::Bool(true) => Some(name),
                Value::Bool(false) => None,
                Value::Null => Some(format!("{name} none")),
                other => Some(view::one(key, other, &output.style)),
            }
        })
        .collect();
    match words.is_empty() {
        true => "off".to_owned(),
        false => words.join(", "),
    }
}

fn capabilities(value: u32) -> Map<String, Value> {
    let flags = flags!(
        SupportedCapabilities::from(value),
        saveable,
        namespace_specific,
        changeable
    );
    flags
        .0
        .into_iter()
        .map(|(name, set)| (name.to_owned(), set.into()))
        .collect()
}

/// Why Get Features failed: a feature that is not there is an invalid field (Base 2.0, section 5.15).
fn get_failed(name: FeatureName, status: Status) -> Error {
    if status.is(Status::INVALID_FIELD) || status.is(Status::INVALID_OPCODE) {
        return Error::unsupported(
            format!(
                "the controller does not have {}, or not this one: {status}",
                name.text()
            ),
            "nvmectl feature list shows what it has",
        );
    }
    Error::command(format!("{} cannot be read: {status}", name.text()), None)
}

/// Why Set Features failed, for a feature that could be read.
fn set_failed(name: FeatureName, status: Status) -> Error {
    let message = format!("{} cannot be set: {status}", name.text());
    if status.is(Status::FEATURE_IDENTIFIER_NOT_SAVEABLE) {
        return Error::unsupported(message, "without --save it holds until the next reset");
    }
    if status.is(Status::FEATURE_NOT_CHANGEABLE) || status.is(Status::INVALID_OPCODE) {
        return Error::unsupported(message, "nvmectl feature list shows what can be changed");
    }
    let refused = status.is(Status::INVALID_FIELD);
    Error::command(
        message,
        refused.then(|| {
            "the controller does not take this value: nvmectl identify shows what it can do".to_owned()
        }),
    )
}

#[cfg(test)]
mod tests;
