//! Why a function cannot be had through VFIO, with what to do about it.

use std::io;
use std::path::PathBuf;

use super::host::PciAddress;
use crate::backend::BackendError;

/// Why a function cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// No such function.
    #[error("there is no PCI function {address}; {others}")]
    NoFunction {
        /// What was asked for.
        address: PciAddress,
        /// Those that could have been.
        others: String,
    },
    /// Not an NVMe I/O controller.
    #[error(
        "the PCI function {address} is not an NVMe controller: its class is {class:06x}h, and theirs 010802h; {others}"
    )]
    NotNvme {
        /// What was asked for.
        address: PciAddress,
        /// What it is.
        class: u32,
        /// Those that could have been.
        others: String,
    },
    /// The machine, or the kernel, has no IOMMU.
    #[error(
        "there is no IOMMU that would keep {address} from reaching all of the machine's memory: {why}. A machine without \
         one can use --device vfio:{address},noiommu, at the price that the driver's documentation says"
    )]
    NoIommu {
        /// What was asked for.
        address: PciAddress,
        /// What to do, or why nothing can be done.
        why: &'static str,
    },
    /// Another driver has it, or none.
    #[error("{address} is bound to {driver}, and has to be to vfio-pci: nvmectl bind {address}")]
    NotBound {
        /// What was asked for.
        address: PciAddress,
        /// Who has it.
        driver: String,
    },
    /// The kernel does not have VFIO.
    #[error("there is no {path:?}: the kernel's modules for VFIO are not there; modprobe vfio-pci loads them", path = .0.display())]
    NoVfio(PathBuf),
    /// This user may not.
    #[error(
        "{path} may not be opened ({mode}): run as root, or as root give it to this user: chown USER {path}",
        path = .path.display()
    )]
    Denied {
        /// What was to be opened.
        path: PathBuf,
        /// Whose it is.
        mode: String,
    },
    /// Somebody else has it.
    #[error("{path} is in use{by}; end that first", path = .path.display())]
    InUse {
        /// The group's node.
        path: PathBuf,
        /// By whom, if it can be seen.
        by: String,
    },
    /// Other functions of the group are in use by the kernel.
    #[error(
        "the IOMMU cannot tell {address} from other functions of its group {group}, so all have to leave their drivers: \
         {others}"
    )]
    SharedGroup {
        /// What was asked for.
        address: PciAddress,
        /// The group.
        group: u32,
        /// The others with their drivers, and what to do.
        others: String,
    },
    /// The IOMMU does not remap interrupts.
    #[error(
        "the kernel does not let a process have {address}, since the IOMMU does not remap interrupts, so that a device could \
         make up any: turn that on in the firmware (for QEMU: -device intel-iommu,intremap=on), or where all devices are \
         trusted, load vfio_iommu_type1 with allow_unsafe_interrupts=1"
    )]
    NoRemapping {
        /// What was asked for.
        address: PciAddress,
    },
    /// The function is not what it has to be.
    #[error("{address} cannot be driven: {what}")]
    Function {
        /// What was asked for.
        address: PciAddress,
        /// What is wrong.
        what: String,
    },
    /// Without an IOMMU it is not possible either.
    #[error("{address} cannot be used without an IOMMU: {why}")]
    Unprotected {
        /// What was asked for.
        address: PciAddress,
        /// Why not.
        why: String,
    },
    /// No memory for DMA.
    #[error(transparent)]
    Memory(#[from] BackendError),
    /// A call that should not fail.
    #[error("{what}: {error}")]
    System {
        /// What was being done.
        what: String,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What kind of trouble it is, for an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The argument cannot be meant.
    Usage,
    /// This user, or this process with its limits, may not.
    Permission,
    /// It is not there, or not in a state in which it can be had.
    NotThere,
    /// Anything else.
    Other,
}

impl VfioError {
    /// What kind of trouble it is.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::NotNvme { .. } => Trouble::Usage,
            Self::Denied { .. } | Self::Memory(BackendError::NotPermitted(_)) => Trouble::Permission,
            Self::NoFunction { .. }
            | Self::NoIommu { .. }
            | Self::NotBound { .. }
            | Self::NoVfio(_)
            | Self::SharedGroup { .. }
            | Self::NoRemapping { .. }
            | Self::Unprotected { .. } => Trouble::NotThere,
            Self::InUse { .. } | Self::Function { .. } | Self::Memory(_) | Self::System { .. } => {
                Trouble::Other
            }
        }
    }

    /// An error of the kernel's that has no words of its own, for `map_err`.
    pub(super) fn of<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::System {
            what,
            error: error.into(),
        }
    }
}
