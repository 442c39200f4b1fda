//! `list`: the controller, its namespaces and their partitions.
//!
//! What it says of the first two is in the statistics and in the Identify structures that the driver keeps, so that no
//! device's error log grows by being looked at. For the partitions alone the driver may have to read their tables from
//! the device, where it has not or where they were written since: this is the one command without a device's work in it
//! that a device which hangs holds up, until the driver gives the reads up.

use nvme_spec::identify::IdentifyNamespace;
use serde::Serialize;
use stats_proto::big_int::big_u64_option;
use stats_proto::stats::StatsDocument;

use crate::args::Format;
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::identify;
use crate::output::Output;
use crate::snapshot;
use crate::style::{Align, Tone, tone_of_state};
use crate::tree::{Tree, read_document};
use crate::values::Wide;

/// Prints the list; with `asked` a namespace, only that one of the namespaces.
///
/// # Errors
/// What reading the tree's root and the statistics gives. A namespace that cannot be read is listed without its size.
pub fn run(tree: &dyn Tree, asked: Option<DeviceName>, output: &mut Output) -> Result<(), Error> {
    output.check_format("list", &[])?;
    let document = ListDocument::read(tree, asked)?;
    match output.format {
        Format::Json => output.json(&document),
        _ => {
            let text = document.text(output);
            output.text(&text)
        }
    }
}

/// A controller and its namespaces.
#[derive(Debug, Serialize)]
pub struct ListDocument {
    schema: &'static str,
    version: &'static str,
    controller: Controller,
    namespaces: Vec<Namespace>,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Controller {
    device: String,
    model: String,
    serial: String,
    firmware: String,
    backend: String,
    pci: Option<String>,
    state: String,
}

#[derive(Debug, Serialize)]
struct Namespace {
    device: String,
    nsid: u32,
    size_bytes: Option<Wide>,
    used_bytes: Option<Wide>,
    #[serde(with = "big_u64_option")]
    lba_bytes: Option<u64>,
    metadata_bytes: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Partition {
    device: String,
    nsid: u32,
    partition: u32,
    size_bytes: Option<Wide>,
}

impl ListDocument {
    fn read(tree: &dyn Tree, asked: Option<DeviceName>) -> Result<Self, Error> {
        let StatsDocument {
            controller: stats,
            namespaces,
            ..
        } = snapshot::read_light(tree)?;
        let namespaces = namespaces
            .into_iter()
            .map(|namespace| namespace.nsid)
            .filter(|nsid| match asked {
                Some(DeviceName::Namespace(asked) | DeviceName::Partition(asked, _)) => asked == *nsid,
                Some(DeviceName::Controller) | None => true,
            })
            .map(|nsid| Namespace::read(tree, nsid))
            .collect();
        let partitions = device::partitions(tree)?
            .into_iter()
            .filter(|(nsid, partition)| match asked {
                Some(DeviceName::Namespace(asked)) => asked == *nsid,
                Some(DeviceName::Partition(of, asked)) => (of, asked) == (*nsid, *partition),
                Some(DeviceName::Controller) | None => true,
            })
            .map(|(nsid, partition)| Partition::read(tree, nsid, partition))
            .collect();
        Ok(Self {
            schema: "nvmectl-list",
            version: "1.0",
            controller: Controller {
                device: format!("{}:controller", tree.scheme()),
                model: stats.model,
                serial: stats.serial,
                firmware: stats.firmware,
                backend: stats.backend,
                pci: stats.pci,
                state: stats.state,
            },
            namespaces,
            partitions,
        })
    }

    fn text(&self, output: &Output) -> String {
        let style = &output.style;
        let controller = &self.controller;
        let mut out = String::new();
        let mut about = style.table(&[
            ("CONTROLLER", Align::Left),
            ("MODEL", Align::Left),
            ("SERIAL", Align::Left),
            ("FIRMWARE", Align::Left),
            ("BACKEND", Align::Left),
            ("STATE", Align::Left),
        ]);
        let backend = match &controller.pci {
            Some(pci) => format!("{} {pci}", controller.backend),
            None => controller.backend.clone(),
        };
        about.toned_row([
            (controller.device.clone(), Tone::Plain),
            (controller.model.clone(), Tone::Plain),
            (controller.serial.clone(), Tone::Plain),
            (controller.firmware.clone(), Tone::Plain),
            (backend, Tone::Plain),
            (controller.state.clone(), tone_of_state(&controller.state)),
        ]);
        out.push_str(&about.lines(0));
        out.push('\n');

        if self.namespaces.is_empty() {
            out.push_str("no namespaces\n");
            return out;
        }
        let mut table = style.table(&[
            ("NAMESPACE", Align::Left),
            ("SIZE", Align::Right),
            ("USED", Align::Right),
            ("BLOCK", Align::Right),
            ("METADATA", Align::Right),
        ]);
        let bytes =
            |bytes: Option<u128>| bytes.map_or_else(|| "-".to_owned(), |bytes| style.units.bytes(bytes));
        for namespace in &self.namespaces {
            table.row([
                namespace.device.clone(),
                bytes(namespace.size_bytes.map(|Wide(bytes)| bytes)),
                bytes(namespace.used_bytes.map(|Wide(bytes)| bytes)),
                bytes(namespace.lba_bytes.map(u128::from)),
                bytes(namespace.metadata_bytes.map(u128::from)),
            ]);
        }
        out.push_str(&table.lines(0));
        if !self.partitions.is_empty() {
            let mut table = style.table(&[("PARTITION", Align::Left), ("SIZE", Align::Right)]);
            for partition in &self.partitions {
                let size = bytes(partition.size_bytes.map(|Wide(bytes)| bytes));
                table.row([partition.device.clone(), size]);
            }
            out.push('\n');
            out.push_str(&table.lines(0));
        }
        out
    }
}

impl Partition {
    fn read(tree: &dyn Tree, nsid: u32, partition: u32) -> Self {
        let size = tree.size_bytes(&format!("{nsid}p{partition}/data"));
        Self {
            device: format!("{}:{nsid}p{partition}", tree.scheme()),
            nsid,
            partition,
            size_bytes: size
                .inspect_err(|error| log::warn!("{error}"))
                .ok()
                .map(|bytes| Wide(u128::from(bytes))),
        }
    }
}

impl Namespace {
    fn read(tree: &dyn Tree, nsid: u32) -> Self {
        let path = format!("{nsid}/identify");
        let identify = read_document(tree, &path)
            .map_err(Error::from)
            .and_then(|bytes| identify::decode::<IdentifyNamespace>(&bytes, &path))
            .inspect_err(|error| log::warn!("{error}"))
            .ok();
        let format = identify.as_ref().and_then(IdentifyNamespace::current_format);
        let lba_bytes = format.and_then(|format| format.block_bytes());
        let bytes = |blocks: u64| lba_bytes.map(|lba_bytes| Wide(u128::from(blocks) * u128::from(lba_bytes)));
        Self {
            device: format!("{}:{nsid}", tree.scheme()),
            nsid,
            size_bytes: identify.as_ref().and_then(|identify| bytes(identify.nsze.get())),
            used_bytes: identify.as_ref().and_then(|identify| bytes(identify.nuse.get())),
            lba_bytes,
            metadata_bytes: format.map(|format| format.ms.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::identify::LbaFormat;
    use serde_json::json;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::samples;
    use crate::style::Style;
    use crate::tree::fake::FakeTree;
    use crate::units::Units;

    fn tree() -> FakeTree {
        let mut identify = IdentifyNamespace::default();
        identify.nsze.set(262_144);
        identify.nuse.set(256);
        identify.lbaf[0] = LbaFormat::new(12, 8);
        FakeTree::new()
            .file("controller/stats?light", &samples::stats_of(&[1, 2]))
            .file("1/identify", identify.as_bytes())
            .failing_file("2/identify", crate::tree::Errno::EIO)
            .file("1p1/data", &[0; 4096])
            .failing_file("1p2/data", crate::tree::Errno::EIO)
    }

    fn printed(format: Format) -> String {
        let mut out = Vec::new();
        run(
            &tree(),
            None,
            &mut Output::new(&mut out, format, Style::plain(Units::Iec)),
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_namespace_that_cannot_be_read_is_listed_too() {
        assert_eq!(
            printed(Format::Table),
            "CONTROLLER       MODEL   SERIAL  FIRMWARE  BACKEND   STATE\n\
             nvme:controller  A disk  S1      1.0       emulated  ready\n\n\
             NAMESPACE     SIZE     USED    BLOCK  METADATA\n\
             nvme:1     1.00GiB  1.00MiB  4.00KiB        8B\n\
             nvme:2           -        -        -         -\n\n\
             PARTITION     SIZE\n\
             nvme:1p1   4.00KiB\n\
             nvme:1p2         -\n"
        );
        let document: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!(document["controller"]["serial"], "S1");
        assert_eq!(document["namespaces"][0]["size_bytes"], "1073741824");
        assert_eq!(
            document["namespaces"][1],
            json!({
                "device": "nvme:2", "nsid": 2, "size_bytes": null, "used_bytes": null, "lba_bytes": null,
                "metadata_bytes": null
            })
        );
    }

    #[test]
    fn no_namespace_is_said() {
        let tree = FakeTree::new().file("controller/stats?light", &samples::stats_of(&[]));
        let mut out = Vec::new();
        run(
            &tree,
            None,
            &mut Output::new(&mut out, Format::Table, Style::plain(Units::Iec)),
        )
        .unwrap();
        assert!(out.ends_with(b"\nno namespaces\n"));
    }
}
