//! A container: the IOMMU's table of one group, through which memory is mapped for its devices.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_GROUP_FLAGS_VIABLE, VFIO_NOIOMMU_IOMMU, VFIO_TYPE1v2_IOMMU,
};

use super::chain;
use super::error::VfioError;
use super::host::{Function, Group, Host, PciAddress};
use super::ioctl;
use crate::backend::BackendError;
use crate::backend::linux::memory::{Mapper, Piece};

/// What devices can address where the kernel does not say: as much as the smallest IOMMU translates, without the window of
/// x86's interrupts.
const COMMON_IOVAS: [RangeInclusive<u64>; 2] = [0..=0xFEDF_FFFF, 0xFEF0_0000..=(1 << 39) - 1];

/// A container with one group in it.
#[derive(Debug)]
pub(super) struct Container {
    // In this order, when it goes.
    group: OwnedFd,
    container: OwnedFd,
}

impl Container {
    /// A container of its own for the group of `function`.
    pub(super) fn open(host: &Host, function: &Function, group: &Group) -> Result<Self, VfioError> {
        let address = function.address;
        let node = host.path("dev/vfio/vfio");
        let container = open(host, &node)?;
        let version = ioctl::api_version(&container).map_err(VfioError::of(format!(
            "asking {} for its version",
            node.display()
        )))?;
        let kind = if group.is_made_up {
            VFIO_NOIOMMU_IOMMU
        } else {
            VFIO_TYPE1v2_IOMMU
        };
        if version != VFIO_API_VERSION as i32 || !ioctl::has_extension(&container, kind).unwrap_or(false) {
            return Err(VfioError::Function {
                address,
                what: format!(
                    "the kernel's VFIO (version {version}) does not offer the IOMMU of type {kind}; \
                     modprobe vfio_iommu_type1 may bring it"
                ),
            });
        }
        let node = host.group_node(group);
        let group_file = open(host, &node)?;
        let flags = ioctl::group_flags(&group_file)
            .map_err(VfioError::of(format!("asking {} for its state", node.display())))?;
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(VfioError::SharedGroup {
                address,
                group: group.number,
                others: others_in(host, address, group),
            });
        }
        ioctl::set_container(&group_file, &container).map_err(VfioError::of(format!(
            "putting {} into a container",
            node.display()
        )))?;
        match ioctl::set_iommu(&container, kind) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(VfioError::NoRemapping { address });
            }
            Err(error) => {
                return Err(VfioError::System {
                    what: format!("setting up the IOMMU for {address}"),
                    error,
                });
            }
        }
        Ok(Self {
            group: group_file,
            container,
        })
    }

    /// The function at `address`, which is in the group.
    pub(super) fn device(&self, address: PciAddress) -> Result<OwnedFd, VfioError> {
        ioctl::device(&self.group, &address.to_string())
            .map_err(VfioError::of(format!("opening {address} through its group")))
    }

    /// The addresses that the IOMMU can translate for the group.
    pub(super) fn iovas(&self) -> Vec<RangeInclusive<u64>> {
        let said = ioctl::iommu_info(&self.container);
        let said = said.ok().and_then(|bytes| chain::iova_ranges(&bytes));
        said.unwrap_or_else(|| COMMON_IOVAS.to_vec())
    }
}

// SAFETY: the IOMMU translates what is mapped and nothing else, and what has been unmapped no more; the kernel keeps the
// pages in place meanwhile.
unsafe impl Mapper for Container {
    fn map(&self, piece: &Piece<'_>) -> Result<u64, BackendError> {
        let (address, len) = (piece.address.as_ptr(), piece.len_bytes);
        // SAFETY: the arena's own memory, accessed through regions only, and mapped here until after it has been unmapped
        // there.
        match unsafe { ioctl::map_dma(&self.container, address, len, piece.iova) } {
            Ok(()) => Ok(piece.iova),
            Err(error) => Err(map_error(&error, len)),
        }
    }

    fn unmap(&self, iova: u64, len_bytes: usize) -> bool {
        match ioctl::unmap_dma(&self.container, iova, len_bytes) {
            Ok(unmapped) => unmapped == len_bytes as u64,
            Err(error) => {
                log::error!("unmapping {len_bytes} bytes at {iova:#x} from the IOMMU: {error}");
                false
            }
        }
    }
}

/// Why memory could not be mapped. The kernel counts what is mapped as locked memory.
fn map_error(error: &io::Error, len_bytes: usize) -> BackendError {
    let limit = getrlimit(Resource::Memlock).current;
    match (error.raw_os_error(), limit) {
        (Some(errno), Some(limit_bytes)) if errno == Errno::NOMEM.raw_os_error() => {
            BackendError::NotPermitted(format!(
                "{len_bytes} more bytes of memory cannot be locked for DMA: this process may lock {limit_bytes} bytes in all; \
                 raise that limit (ulimit -l unlimited, LimitMEMLOCK=infinity in a unit of systemd, or memlock in \
                 /etc/security/limits.conf), or lower NVME_NUM_QUEUES"
            ))
        }
        _ => BackendError::System(format!("mapping {len_bytes} bytes of memory for DMA: {error}")),
    }
}

/// Opens a node of VFIO.
fn open(host: &Host, node: &Path) -> Result<OwnedFd, VfioError> {
    let opened = OpenOptions::new().read(true).write(true).open(node);
    opened.map(File::into).map_err(|error| {
        let path = node.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound => VfioError::NoVfio(path),
            io::ErrorKind::PermissionDenied => {
                let mode = node.metadata().map_or_else(
                    |error| error.to_string(),
                    |of| format!("user {}, mode {:o}", of.uid(), of.mode() & 0o7777),
                );
                VfioError::Denied { path, mode }
            }
            io::ErrorKind::ResourceBusy => {
                let holders = host.holders_of(node);
                let holders: Vec<_> = holders
                    .iter()
                    .map(|(pid, name)| format!("{name} (process {pid})"))
                    .collect();
                let by = if holders.is_empty() {
                    " by another process".to_owned()
                } else {
                    format!(" by {}", holders.join(", "))
                };
                VfioError::InUse { path, by }
            }
            _ => VfioError::System {
                what: format!("opening {}", path.display()),
                error,
            },
        }
    })
}

/// The other functions of the group with their drivers, and how to free them.
fn others_in(host: &Host, address: PciAddress, group: &Group) -> String {
    let mut others = host.functions_in(group);
    others.retain(|function| function.address != address && !function.is_bound());
    let listed: Vec<_> = others
        .iter()
        // Bridges stay with their drivers, which the kernel does not mind.
        .filter_map(|function| Some(format!("{} ({})", function.address, function.driver.as_ref()?)))
        .collect();
    if listed.is_empty() {
        return "it does not say which".to_owned();
    }
    format!(
        "{}; those that are NVMe controllers nvmectl bind can take, others their own tools, and a slot of its own puts the \
         device into another group",
        listed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    fn errno(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.raw_os_error())
    }

    #[test]
    fn a_limit_on_locked_memory_is_said_with_what_raises_it() {
        let error = map_error(&errno(Errno::NOMEM), 16 << 20);
        match getrlimit(Resource::Memlock).current {
            Some(limit_bytes) => {
                assert!(matches!(error, BackendError::NotPermitted(_)));
                let text = error.to_string();
                assert!(
                    text.contains("ulimit -l") && text.contains(&limit_bytes.to_string()),
                    "{text}"
                );
            }
            None => assert!(matches!(error, BackendError::System(_))),
        }
        let error = map_error(&errno(Errno::EXIST), 16 << 20);
        assert!(matches!(error, BackendError::System(_)), "{error}");
    }

    #[test]
    fn a_node_that_is_not_there_names_the_module() {
        let machine = Machine::new();
        let host = machine.host();
        let error = open(&host, &host.path("dev/vfio/vfio")).unwrap_err();
        assert!(error.to_string().contains("modprobe vfio-pci"), "{error}");
    }

    #[test]
    fn a_shared_group_names_the_others() {
        let machine = Machine::new();
        machine.function("0000:01:00.0", 0x010802, Some("vfio-pci"), Some(7));
        machine.function("0000:01:00.1", 0x010802, Some("nvme"), Some(7));
        machine.function("0000:01:00.2", 0x0c0330, Some("vfio-pci"), Some(7));
        machine.function("0000:01:00.3", 0x060400, None, Some(7));
        machine.function("0000:02:00.0", 0x010802, Some("nvme"), Some(8));
        let host = machine.host();
        let address = "01:00.0".parse().unwrap();
        let group = host.function(address).unwrap().group.unwrap();
        let others = others_in(&host, address, &group);
        assert!(others.starts_with("0000:01:00.1 (nvme); "), "{others}");
    }
}
