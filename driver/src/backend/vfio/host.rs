//! What the system says of PCI functions before any of them is opened: sysfs, and the nodes of VFIO.
//!
//! Everything is looked up below a root, which is `/` but in tests.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backend::linux::numa::cpus_in;

/// The class of NVMe I/O controllers (NVMe over PCIe Transport 1.0 section 3.1.1.6: CC).
pub const NVME_CLASS: u32 = 0x01_08_02;
/// The kernel's driver that hands functions over to processes.
pub const VFIO_DRIVER: &str = "vfio-pci";

/// The address of a PCI function: `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The domain (segment).
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device, at most 1Fh.
    pub device: u8,
    /// The function, at most 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciAddress {
    type Err = String;

    /// `DDDD:BB:DD.F` in hexadecimal, or `BB:DD.F` in domain 0.
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
            let plain = digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u32::from_str_radix(text, 16).ok()).flatten()
        };
        let parse = || {
            let (rest, function) = text.rsplit_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
            Some(Self {
                domain: hex(domain, 4..=8)?,
                bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
                device: u8::try_from(hex(device, 2..=2)?).ok().filter(|it| *it < 32)?,
                function: u8::try_from(hex(function, 1..=1)?).ok().filter(|it| *it < 8)?,
            })
        };
        parse().ok_or_else(|| {
            format!(
                "\"{text}\" is not the address of a PCI function; use one such as 0000:01:00.0 or 01:00.0"
            )
        })
    }
}

/// The places where the system is asked.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self::below("/")
    }
}

/// A PCI function, as sysfs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Base class, subclass and programming interface.
    pub class: u32,
    /// The kernel's driver that has it.
    pub driver: Option<String>,
    /// The IOMMU's group that it is in.
    pub group: Option<Group>,
    /// The NUMA node that it is near to.
    pub numa_node: Option<u32>,
}

/// A group of functions that the IOMMU cannot tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// There is no IOMMU: VFIO has made this group up.
    pub is_made_up: bool,
}

impl Function {
    /// Whether it is an NVMe I/O controller.
    pub fn is_nvme(&self) -> bool {
        self.class == NVME_CLASS
    }

    /// Whether it can be opened through VFIO.
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some(VFIO_DRIVER)
    }
}

impl Host {
    /// The system whose `/sys`, `/dev` and `/proc` are below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// `path`, which starts without a slash, below the root.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The folder of a function in sysfs.
    pub fn function_dir(&self, address: PciAddress) -> PathBuf {
        self.path("sys/bus/pci/devices").join(address.to_string())
    }

    /// The node of VFIO for `group`.
    pub fn group_node(&self, group: &Group) -> PathBuf {
        let number = group.number;
        let name = if group.is_made_up {
            format!("noiommu-{number}")
        } else {
            number.to_string()
        };
        self.path("dev/vfio").join(name)
    }

    /// What sysfs says of the function at `address`.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn function(&self, address: PciAddress) -> io::Result<Function> {
        let dir = self.function_dir(address);
        let class = text_of(&dir.join("class"))?;
        let class = class.strip_prefix("0x").unwrap_or(&class);
        let class = u32::from_str_radix(class, 16)
            .map_err(|_| io::Error::other(format!("its class is said to be \"{class}\"")))?;
        // -1 where there is one node, or where nobody knows.
        let numa_node = text_of(&dir.join("numa_node")).ok();
        Ok(Function {
            address,
            class,
            driver: link_name(&dir.join("driver")),
            group: self.group_of(&dir),
            numa_node: numa_node.and_then(|text| text.parse().ok()),
        })
    }

    /// CPUs of a NUMA node; none where sysfs does not say.
    pub fn cpus_of_node(&self, node: u32) -> Vec<u32> {
        let list = text_of(&self.path(format!("sys/devices/system/node/node{node}/cpulist")));
        list.ok().and_then(|list| cpus_in(&list)).unwrap_or_default()
    }

    fn group_of(&self, dir: &Path) -> Option<Group> {
        let link = dir.join("iommu_group");
        let number = link_name(&link)?.parse().ok()?;
        let is_made_up = text_of(&link.join("name")).is_ok_and(|name| name == "vfio-noiommu");
        Some(Group { number, is_made_up })
    }

    /// All functions, in order of their addresses; what cannot be read is left out.
    pub fn functions(&self) -> Vec<Function> {
        let names = names_in(&self.path("sys/bus/pci/devices"));
        let addresses = names.iter().filter_map(|name| name.parse().ok());
        let mut functions: Vec<_> = addresses
            .filter_map(|address| self.function(address).ok())
            .collect();
        functions.sort_unstable_by_key(|function| function.address);
        functions
    }

    /// The NVMe controllers that there are, for whoever has named something else.
    pub fn controllers_in_words(&self) -> String {
        let mut all = self.functions();
        all.retain(Function::is_nvme);
        let all: Vec<_> = all
            .iter()
            .map(|function| {
                let driver = function.driver.as_deref().unwrap_or("no driver");
                format!("{} ({driver})", function.address)
            })
            .collect();
        if all.is_empty() {
            "this machine has no NVMe controllers on PCI that the kernel has found".to_owned()
        } else {
            format!("NVMe controllers are {}", all.join(", "))
        }
    }

    /// The functions in `group`.
    pub fn functions_in(&self, group: &Group) -> Vec<Function> {
        let mut functions = self.functions();
        functions.retain(|function| function.group.as_ref() == Some(group));
        functions
    }

    /// Whether the kernel has an IOMMU at work.
    pub fn has_iommu(&self) -> bool {
        !names_in(&self.path("sys/class/iommu")).is_empty()
    }

    /// Processes that have `node` open, as far as this one may see: number and name.
    pub fn holders_of(&self, node: &Path) -> Vec<(u32, String)> {
        let mut holders = Vec::new();
        for pid in names_in(&self.path("proc")) {
            let Ok(number) = pid.parse::<u32>() else {
                continue;
            };
            let dir = self.path("proc").join(&pid);
            let descriptors = dir.join("fd");
            let holds = names_in(&descriptors)
                .iter()
                .any(|name| fs::read_link(descriptors.join(name)).is_ok_and(|open| open == node));
            if holds {
                holders.push((number, text_of(&dir.join("comm")).unwrap_or_default()));
            }
        }
        holders
    }
}

/// What is in a file of one line, without its end.
pub fn text_of(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end().to_owned())
}

/// The last name of what a link leads to.
pub fn link_name(link: &Path) -> Option<String> {
    let target = fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// The names in a folder, in order; none where it cannot be read.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    #[test]
    fn addresses_are_read_in_both_forms_and_written_in_one() {
        for (text, written) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("10000:e1:1F.7", "10000:e1:1f.7"),
            ("ffffffff:ff:1f.7", "ffffffff:ff:1f.7"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "1",
            "01:00",
            "01:00.8",
            "01:20.0",
            "1:00.0",
            "001:00.0",
            "0:01:00.0",
            "0000:01:00.0 ",
            "+0:00.0",
            "0000:01:00.00",
            "100000000:01:00.0",
            "0000:0000:01:00.0",
            "../../etc:00:00.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err();
            assert!(error.contains("0000:01:00.0"), "{error}");
        }
    }

    #[test]
    fn a_function_is_what_sysfs_says() {
        let machine = Machine::new();
        machine.function("0000:01:00.0", 0x010802, Some("nvme"), Some(7));
        machine.function("0000:00:1f.2", 0x010601, None, None);
        let host = machine.host();
        let address = "01:00.0".parse().unwrap();
        let function = host.function(address).unwrap();
        let group = Group {
            number: 7,
            is_made_up: false,
        };
        assert_eq!(
            function,
            Function {
                address,
                class: NVME_CLASS,
                driver: Some("nvme".to_owned()),
                group: Some(group.clone()),
                numa_node: None,
            }
        );
        assert!(function.is_nvme() && !function.is_bound());
        machine.write("sys/bus/pci/devices/0000:01:00.0/numa_node", "1\n");
        assert_eq!(host.function(address).unwrap().numa_node, Some(1));
        machine.write("sys/devices/system/node/node1/cpulist", "2-3,6\n");
        assert_eq!(host.cpus_of_node(1), [2, 3, 6]);
        assert!(host.cpus_of_node(2).is_empty());
        assert_eq!(host.functions_in(&group), [host.function(address).unwrap()]);
        let all = host.functions();
        assert_eq!(all.len(), 2);
        assert!(!all[0].is_nvme() && all[0].group.is_none());
        assert!(host.group_node(&group).ends_with("dev/vfio/7"));
        machine.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
        let group = host.function(address).unwrap().group.unwrap();
        assert!(group.is_made_up && host.group_node(&group).ends_with("dev/vfio/noiommu-7"));
        assert!(host.function("02:00.0".parse().unwrap()).is_err());
    }

    #[test]
    fn whoever_has_a_node_open_is_named() {
        let machine = Machine::new();
        machine.write("proc/31/comm", "qemu\n");
        machine.write("proc/32/comm", "other\n");
        machine.write("proc/self/comm", "not a number\n");
        let node = machine.host().path("dev/vfio/7");
        machine.link("proc/31/fd/4", node.to_str().unwrap());
        machine.link("proc/32/fd/4", "/dev/null");
        assert_eq!(machine.host().holders_of(&node), [(31, "qemu".to_owned())]);
    }
}
