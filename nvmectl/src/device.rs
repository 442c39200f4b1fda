//! Which device is meant: names on the command line, and what a tree has.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::snapshot;
use crate::tree::{Errno, Operation, Tree, TreeError};

/// A device as the command line names it: `[SCHEME:]NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceArg {
    /// The driver's scheme, such as `nvme` or `nvme.pci-00-02.0`; None: of whichever driver there is.
    pub scheme: Option<String>,
    /// The device in that scheme.
    pub name: DeviceName,
}

impl FromStr for DeviceArg {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let (scheme, name) = match text.rsplit_once(':') {
            Some((scheme, name)) => (Some(scheme), name),
            None => (None, text),
        };
        let is_plain = |scheme: &str| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            !scheme.is_empty() && scheme.chars().all(is_plain) && !scheme.starts_with(['.', '-'])
        };
        if scheme.is_some_and(|scheme| !is_plain(scheme)) {
            return Err(DeviceNameError);
        }
        Ok(Self {
            scheme: scheme.map(str::to_owned),
            name: name.parse()?,
        })
    }
}

/// A device's name within a scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    /// `controller`.
    Controller,
    /// `N`: namespace N, from 1.
    Namespace(u32),
    /// `NpM`: partition M, from 1, of namespace N.
    Partition(u32, u32),
}

/// A text that names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a device is nvme:N or N (namespace N, from 1), nvme:NpM or NpM (its partition M), or controller; in place of nvme \
     stands the driver's scheme"
)]
pub struct DeviceNameError;

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let name = match text.split_once('p') {
            _ if text == "controller" => Some(Self::Controller),
            Some((nsid, partition)) => parse_nsid(nsid)
                .zip(parse_nsid(partition))
                .map(|(nsid, partition)| Self::Partition(nsid, partition)),
            None => parse_nsid(text).map(Self::Namespace),
        };
        name.ok_or(DeviceNameError)
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller => f.write_str("controller"),
            Self::Namespace(nsid) => write!(f, "{nsid}"),
            Self::Partition(nsid, partition) => write!(f, "{nsid}p{partition}"),
        }
    }
}

/// A namespace's number as the tree writes it: decimal, without sign or leading zeros, and one that a namespace can
/// have (Base 2.0, section 3.2.1: neither 0 nor FFFFFFFFh).
fn parse_nsid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|&nsid| plain && nsid != u32::MAX)
}

/// The namespaces of a tree, ascending; from its statistics, which are there at once whatever the device does.
///
/// # Errors
/// What reading the statistics gives.
pub fn namespaces(tree: &dyn Tree) -> Result<Vec<u32>, Error> {
    let stats = snapshot::read_light(tree)?;
    let mut found: Vec<u32> = stats.namespaces.iter().map(|namespace| namespace.nsid).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The partitions of a tree, as (namespace, partition), ascending. The driver may have to read partition tables from the
/// device for it: only for those who want to know the partitions.
///
/// # Errors
/// What listing the tree's root gives.
pub fn partitions(tree: &dyn Tree) -> Result<Vec<(u32, u32)>, Error> {
    let mut found: Vec<(u32, u32)> = tree
        .list("")?
        .iter()
        .filter_map(|name| match name.parse() {
            Ok(DeviceName::Partition(nsid, partition)) => Some((nsid, partition)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// What the command line says about the device, from the places where it can be said.
///
/// # Errors
/// Usage, when `-d` and `--ns` name different devices.
pub fn asked(device: Option<DeviceName>, ns: Option<u32>) -> Result<Option<DeviceName>, Error> {
    let ns = ns.map(DeviceName::Namespace);
    match (device, ns) {
        (Some(device), Some(ns)) if device != ns => Err(Error::usage(
            format!("--device {device} and --ns name different devices"),
            "give one of the two",
        )),
        (device, ns) => Ok(device.or(ns)),
    }
}

/// Refuses a device that `tree` does not have.
///
/// # Errors
/// Not found, with what there is.
pub fn check(tree: &dyn Tree, asked: Option<DeviceName>) -> Result<(), Error> {
    let nsid = match asked {
        None | Some(DeviceName::Controller) => return Ok(()),
        Some(DeviceName::Namespace(nsid)) => nsid,
        Some(DeviceName::Partition(nsid, partition)) => {
            if partitions(tree)?.contains(&(nsid, partition)) {
                return Ok(());
            }
            let path = format!("{nsid}p{partition}");
            return Err(TreeError::new(Operation::Stat, &path, Errno::ENOENT).into());
        }
    };
    let found = namespaces(tree)?;
    if found.contains(&nsid) {
        return Ok(());
    }
    Err(Error::NoNamespace {
        nsid,
        scheme: tree.scheme().to_owned(),
        found: Names(tree.scheme(), &found).to_string(),
    })
}

/// The namespace that a command about one namespace is to use: the one asked for, or the only one.
///
/// # Errors
/// Usage when the controller was asked for, or when nothing was and there are several namespaces; not found when there
/// is none, or none of that number.
pub fn one_namespace(tree: &dyn Tree, asked: Option<DeviceName>, command: &str) -> Result<u32, Error> {
    let found = namespaces(tree)?;
    match asked {
        Some(DeviceName::Controller) => Err(Error::usage(
            format!("{command} works on a namespace, not on the controller"),
            format!("name one: -d {}", Names(tree.scheme(), &found)),
        )),
        Some(partition @ DeviceName::Partition(..)) => Err(no_partitions(partition, command)),
        Some(DeviceName::Namespace(nsid)) if found.contains(&nsid) => Ok(nsid),
        Some(DeviceName::Namespace(nsid)) => Err(Error::NoNamespace {
            nsid,
            scheme: tree.scheme().to_owned(),
            found: Names(tree.scheme(), &found).to_string(),
        }),
        None => match found.as_slice() {
            [] => Err(Error::NoNamespaces),
            [only] => Ok(*only),
            several => Err(Error::usage(
                format!(
                    "there are {} namespaces, and {command} works on one",
                    several.len()
                ),
                format!("name it: -d {}", Names(tree.scheme(), several)),
            )),
        },
    }
}

/// That `command` does not work on a partition.
pub fn no_partitions(partition: DeviceName, command: &str) -> Error {
    let hint = match partition {
        DeviceName::Partition(nsid, _) => format!("its namespace is {nsid}: -d {nsid}"),
        _ => "nvmectl list shows what there is".to_owned(),
    };
    Error::usage(
        format!("{partition} is a partition, and {command} does not work on one"),
        hint,
    )
}

/// `nvme:1, nvme:2 or nvme:3`, shortened when there are many.
struct Names<'n>(&'n str, &'n [u32]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        for (position, nsid) in self.1.iter().take(SHOWN).enumerate() {
            let separator = match position {
                0 => "",
                _ if position + 1 == self.1.len() => " or ",
                _ => ", ",
            };
            write!(f, "{separator}{}:{nsid}", self.0)?;
        }
        match self.1.len() {
            0 => f.write_str("none"),
            count if count > SHOWN => write!(f, " ... ({} more)", count - SHOWN),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::samples;
    use crate::tree::fake::FakeTree;

    fn tree(nsids: &[u32]) -> FakeTree {
        FakeTree::new()
            .file("controller/stats?light", &samples::stats_of(nsids))
            .unlistable()
    }

    #[test]
    fn names_of_devices() {
        for (text, scheme, name) in [
            ("nvme:1", Some("nvme"), DeviceName::Namespace(1)),
            ("12", None, DeviceName::Namespace(12)),
            ("controller", None, DeviceName::Controller),
            ("nvme:controller", Some("nvme"), DeviceName::Controller),
            (
                "nvme.pci-00-02.0:3p4",
                Some("nvme.pci-00-02.0"),
                DeviceName::Partition(3, 4),
            ),
            ("1p128", None, DeviceName::Partition(1, 128)),
        ] {
            let scheme = scheme.map(str::to_owned);
            assert_eq!(text.parse(), Ok(DeviceArg { scheme, name }), "{text}");
        }
        for bad in [
            "",
            "nvme:",
            "0",
            "nvme:0",
            "01",
            "+1",
            "-1",
            "1p",
            "p1",
            "1p0",
            "0p1",
            "1p01",
            "1p2p3",
            "nvme0n1",
            ":1",
            "..:1",
            "a/b:1",
            "nvme:1:2",
            "nvme:1:",
            "-d:1",
            "4294967295",
            "4294967296",
            " 1",
        ] {
            assert_eq!(bad.parse::<DeviceArg>(), Err(DeviceNameError), "{bad}");
        }
    }

    #[test]
    fn one_namespace_is_used_several_are_listed() {
        assert_eq!(one_namespace(&tree(&[7]), None, "bench").unwrap(), 7);
        assert_eq!(
            one_namespace(&tree(&[1, 10, 2]), Some(DeviceName::Namespace(2)), "bench").unwrap(),
            2
        );
        assert_eq!(namespaces(&tree(&[1, 10, 2])).unwrap(), [1, 2, 10]);
        check(&tree(&[1, 2]), Some(DeviceName::Namespace(2))).unwrap();

        let several = one_namespace(&tree(&[1, 2, 3]), None, "bench").unwrap_err();
        assert_eq!(several.exit_code(), 2);
        assert_eq!(several.hint().unwrap(), "name it: -d nvme:1, nvme:2 or nvme:3");
        let missing = one_namespace(&tree(&[1, 2]), Some(DeviceName::Namespace(3)), "bench").unwrap_err();
        assert_eq!(
            (missing.exit_code(), missing.to_string().contains("nvme:3")),
            (4, true)
        );
        assert_eq!(
            one_namespace(&tree(&[]), None, "bench").unwrap_err().exit_code(),
            4
        );
        let controller = one_namespace(&tree(&[1]), Some(DeviceName::Controller), "bench").unwrap_err();
        assert_eq!(controller.exit_code(), 2);
    }

    #[test]
    fn many_namespaces_are_not_all_spelt_out() {
        let many: Vec<u32> = (1..=100).collect();
        let text = Names("nvme", &many).to_string();
        assert!(text.ends_with("nvme:8 ... (92 more)"), "{text}");
    }

    #[test]
    fn two_names_must_agree() {
        let (one, two) = (Some(DeviceName::Namespace(1)), Some(DeviceName::Namespace(2)));
        assert_eq!(asked(one, None).unwrap(), one);
        assert_eq!(asked(None, Some(2)).unwrap(), two);
        assert_eq!(asked(one, Some(1)).unwrap(), one);
        assert_eq!(asked(one, Some(2)).unwrap_err().exit_code(), 2);
        assert_eq!(
            asked(Some(DeviceName::Controller), Some(1))
                .unwrap_err()
                .exit_code(),
            2
        );
    }

    proptest! {
        #[test]
        fn names_are_printed_as_they_are_read(nsid in 1u32..u32::MAX) {
            let name = DeviceName::Namespace(nsid);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = text.parse::<DeviceArg>();
        }
    }
}
