//! Who uses a controller: mounts, swap, other devices on top of its disks, processes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use nvme_driver::backend::vfio::host::{Function, Host, names_in, text_of};

use super::System;
use crate::error::Error;

/// A disk of the controller's, or a partition of one.
#[derive(Debug)]
struct Block {
    name: String,
    /// `MAJOR:MINOR`.
    number: String,
    is_partition: bool,
    /// One path of a disk with several: the disk itself is another one.
    is_hidden: bool,
}

/// Sees to it that nobody uses `function`, and that nobody begins to for as long as what is returned is kept.
///
/// # Errors
/// Refused, saying who does; permission.
pub(super) fn check(host: &Host, function: &Function, system: &dyn System) -> Result<Vec<File>, Error> {
    let address = function.address;
    let refused = |who: String, hint: &str| Error::Refused {
        lost: format!("{address} is in use: {who}"),
        hint: hint.to_owned(),
    };
    let blocks = blocks_of(host, function);
    let mounts = mounts(host);
    let swaps = swaps(host);
    let lent = lent(host);
    for block in &blocks {
        let Block { name, number, .. } = block;
        if let Some(mount) = mounts
            .iter()
            .find(|it| it.number == *number || it.source == *name)
        {
            let hint = format!("umount {}", mount.at);
            return Err(refused(format!("{name} is mounted at {}", mount.at), &hint));
        }
        if swaps.contains(name) {
            return Err(refused(
                format!("{name} is swap space"),
                &format!("swapoff /dev/{name}"),
            ));
        }
        if let Some((_, by)) = lent.iter().find(|(of, _)| of == name) {
            let hint = "take that down first: losetup -d, or nvmetcli clear";
            return Err(refused(format!("{by} is made of {name}"), hint));
        }
        if let Some(holder) = names_in(&host.path("sys/class/block").join(name).join("holders")).first() {
            let called = text_of(&host.path("sys/class/block").join(holder).join("dm/name"));
            let called = called.map_or(String::new(), |called| format!(" ({called})"));
            return Err(refused(
                format!("{holder}{called} is made of {name}"),
                "take that down first: it is LVM's, a mapping of the device mapper's, or a RAID",
            ));
        }
    }
    let mut nodes: Vec<PathBuf> = blocks
        .iter()
        .map(|block| host.path("dev").join(&block.name))
        .collect();
    nodes.extend(
        controllers_of(host, function)
            .iter()
            .map(|name| host.path("dev").join(name)),
    );
    nodes.extend(
        function
            .group
            .iter()
            .filter(|_| function.is_bound())
            .map(|it| host.group_node(it)),
    );
    // The same function without its group, as programs that use iommufd have it.
    nodes.extend(
        names_in(&host.function_dir(address).join("vfio-dev"))
            .iter()
            .map(|name| host.path("dev/vfio/devices").join(name)),
    );
    for node in &nodes {
        if let Some((pid, program)) = host.holders_of(node).first() {
            return Err(refused(
                format!("{program} (process {pid}) has {} open", node.display()),
                "end that first",
            ));
        }
    }
    let mut claimed = Vec::new();
    for block in blocks.iter().filter(|block| !block.is_partition) {
        let disk = host.path("dev").join(&block.name);
        match system.claim(&disk) {
            Ok(file) => claimed.push(file),
            // A path of a disk with several has no node of its own; any other disk's may be missing here and be in use all
            // the same, as in a container, where mounts of the machine's cannot be seen either.
            Err(error) if error.kind() == io::ErrorKind::NotFound && block.is_hidden => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refused(
                    format!(
                        "whether {} is cannot be found out, since {} is not there",
                        block.name,
                        disk.display()
                    ),
                    "run it where the machine's /dev is, not in a container",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return Err(refused(
                    format!("{} is somebody's alone, who cannot be seen from here", block.name),
                    "look in other namespaces of mounts (containers), and at programs that write to the disk",
                ));
            }
            Err(error) => {
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                return Err(Error::Bind {
                    exit_code: if denied { 3 } else { 1 },
                    message: format!(
                        "whether {} is in use cannot be found out: {error}",
                        disk.display()
                    ),
                    hint: "run it as root".to_owned(),
                });
            }
        }
    }
    Ok(claimed)
}

/// The kernel's names of the controllers that it has made of the function: `nvme0`.
fn controllers_of(host: &Host, function: &Function) -> Vec<String> {
    names_in(&host.function_dir(function.address).join("nvme"))
}

/// The disks of the function, and their partitions.
fn blocks_of(host: &Host, function: &Function) -> Vec<Block> {
    let mut places: Vec<PathBuf> = fs::canonicalize(host.function_dir(function.address))
        .into_iter()
        .collect();
    // Disks with several paths are the subsystem's.
    let controllers: BTreeSet<_> = controllers_of(host, function).into_iter().collect();
    let subsystems = host.path("sys/class/nvme-subsystem");
    for subsystem in names_in(&subsystems) {
        let dir = subsystems.join(subsystem);
        let names = names_in(&dir);
        if names.iter().any(|name| controllers.contains(name)) {
            let disks = names.iter().filter(|name| is_disk(name));
            places.extend(disks.filter_map(|name| fs::canonicalize(dir.join(name)).ok()));
        }
    }
    let class = host.path("sys/class/block");
    let mut blocks = Vec::new();
    for name in names_in(&class) {
        let dir = class.join(&name);
        let is_here = fs::canonicalize(&dir).is_ok_and(|at| places.iter().any(|place| at.starts_with(place)));
        if is_here {
            blocks.push(Block {
                number: text_of(&dir.join("dev")).unwrap_or_default(),
                is_partition: dir.join("partition").exists(),
                is_hidden: text_of(&dir.join("hidden")).is_ok_and(|hidden| hidden == "1"),
                name,
            });
        }
    }
    blocks
}

/// Whether this is a name such as `nvme0n1`.
fn is_disk(name: &str) -> bool {
    let parts = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'));
    parts.is_some_and(|(controller, namespace)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number(controller) && is_number(namespace)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// `MAJOR:MINOR` of the device; of some file systems it is not a device's.
    number: String,
    /// The name of what is mounted, in `/dev`.
    source: String,
    at: String,
}

/// What is mounted anywhere that this process can see: each process's mounts, since containers have their own.
fn mounts(host: &Host) -> Vec<Mount> {
    let mut texts = BTreeSet::new();
    let proc = host.path("proc");
    for name in names_in(&proc) {
        if name == "self" || name.bytes().all(|byte| byte.is_ascii_digit()) {
            texts.extend(fs::read_to_string(proc.join(name).join("mountinfo")).ok());
        }
    }
    texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| mount(host, line))
        .collect()
}

/// A line of `mountinfo` (proc(5)): number, parent, MAJOR:MINOR, root, place, options, more of them, `-`, type, source.
fn mount(host: &Host, line: &str) -> Option<Mount> {
    let mut fields = line.split(' ');
    let number = fields.nth(2)?.to_owned();
    let at = unescaped(fields.nth(1)?);
    let (_, rest) = line.split_once(" - ")?;
    let source = unescaped(rest.split(' ').nth(1)?);
    Some(Mount {
        number,
        source: name_of(host, &source),
        at,
    })
}

/// The names of the devices on which there is swap space.
fn swaps(host: &Host) -> Vec<String> {
    let text = fs::read_to_string(host.path("proc/swaps")).unwrap_or_default();
    let rows = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    rows.map(|path| name_of(host, &unescaped(path))).collect()
}

/// Devices that the kernel itself has open without having them for itself alone, which neither processes nor a claim show:
/// the name of each, and what has it. Loop devices, and namespaces that are exported over a network.
fn lent(host: &Host) -> Vec<(String, String)> {
    let mut lent = Vec::new();
    let blocks = host.path("sys/class/block");
    for name in names_in(&blocks) {
        if let Ok(path) = text_of(&blocks.join(&name).join("loop/backing_file")) {
            lent.push((name_of(host, &path), name));
        }
    }
    let subsystems = host.path("sys/kernel/config/nvmet/subsystems");
    for subsystem in names_in(&subsystems) {
        let namespaces = subsystems.join(&subsystem).join("namespaces");
        for namespace in names_in(&namespaces) {
            let dir = namespaces.join(&namespace);
            let enabled = text_of(&dir.join("enable")).is_ok_and(|enabled| enabled == "1");
            if let (true, Ok(path)) = (enabled, text_of(&dir.join("device_path"))) {
                let by = format!("namespace {namespace} of the exported subsystem {subsystem}");
                lent.push((name_of(host, &path), by));
            }
        }
    }
    lent
}

/// What the node `path` is called by the kernel: links such as `/dev/disk/by-uuid/...` lead there.
fn name_of(host: &Host, path: &str) -> String {
    let below = host.path(path.trim_start_matches('/'));
    let node = fs::canonicalize(&below).unwrap_or(below);
    let name = node.file_name().and_then(|name| name.to_str());
    name.unwrap_or_default().to_owned()
}

/// Octal escapes, as these files have them for what would end a field, taken back.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_read() {
        let host = Host::below("/nonexistent");
        let line = "36 35 259:1 / /mnt/a\\040b rw,noatime shared:1 - ext4 /dev/nvme0n1p1 rw";
        assert_eq!(
            mount(&host, line),
            Some(Mount {
                number: "259:1".to_owned(),
                source: "nvme0n1p1".to_owned(),
                at: "/mnt/a b".to_owned(),
            })
        );
        for line in ["", "1 2 3", "36 35 0:1 / / rw - proc"] {
            assert_eq!(mount(&host, line), None, "{line}");
        }
    }

    #[test]
    fn escapes_are_octal() {
        assert_eq!(unescaped("a\\040b\\011\\134"), "a b\t\\");
        assert_eq!(unescaped("\\0"), "\\0");
        assert_eq!(unescaped("\\999"), "\\999");
    }

    #[test]
    fn names_of_disks() {
        assert!(is_disk("nvme0n1") && is_disk("nvme10n22"));
        for name in ["nvme0", "nvme0c0n1", "nvme0n1p1", "subsystem", "nvmen1"] {
            assert!(!is_disk(name), "{name}");
        }
    }
}
