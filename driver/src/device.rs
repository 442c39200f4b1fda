//! Which controller: the program's argument `--device`, as a library has it too.
//!
//! | argument | controller |
//! | --- | --- |
//! | `emulated`, `emulated:SPEC` | one in this process: [`nvme_emulator::Config`] says what SPEC may be |
//! | `vfio:0000:01:00.0`, `vfio:01:00.0` | on Linux, a function that is bound to vfio-pci; options behind commas: `noiommu`, `irq=msix\|msi\|intx` |
//! | `vfio-user:SOCKET` | on Linux, one that another process serves |
//! | `pcid` | on Redox, the function that pcid hands over |
//!
//! ```
//! use nvme_driver::clock::Clock;
//! use nvme_driver::device::Device;
//!
//! let device: Device = "emulated:size=4MiB".parse()?;
//! let backend = device.open(&Clock::system())?;
//! assert_eq!(backend.name(), "emulated");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
#[cfg(target_os = "linux")]
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::backend::Backend;
use crate::backend::emulated::EmulatedBackend;
#[cfg(target_os = "linux")]
use crate::backend::vfio::{VfioBackend, VfioDevice, error::Trouble, host::Host};
#[cfg(target_os = "linux")]
use crate::backend::vfio_user::{ConnectError, VfioUserBackend};
use crate::clock::Clock;

/// Where a controller is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// In this process.
    Emulated(Box<nvme_emulator::Config>),
    /// On PCI, handed over by the kernel's VFIO.
    #[cfg(target_os = "linux")]
    Vfio(VfioDevice),
    /// Served by another process, at this socket.
    #[cfg(target_os = "linux")]
    VfioUser(PathBuf),
    /// Handed over by pcid, to the process that it starts: whoever is that process connects by
    /// [`RedoxBackend`](crate::backend::redox::RedoxBackend).
    #[cfg(target_os = "redox")]
    Pcid,
}

/// What kind of trouble there was with a [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenErrorKind {
    /// It cannot be meant: not an NVMe controller, say.
    Usage,
    /// This user, or this process with its limits, may not have it.
    Permission,
    /// It is not there, or something else has to be done first: it is bound to another driver, say, or there is no IOMMU.
    NotThere,
    /// Anything else: it is in use, or does not work.
    Other,
}

impl OpenErrorKind {
    /// The exit code of a program that ends for this.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Permission => 3,
            Self::NotThere => 4,
            Self::Other => 1,
        }
    }
}

/// Why a controller could not be opened: what, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct OpenError {
    kind: OpenErrorKind,
    text: String,
}

impl OpenError {
    /// An error of this kind, with its words.
    pub fn new(kind: OpenErrorKind, error: impl fmt::Display) -> Self {
        Self {
            kind,
            text: error.to_string(),
        }
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

#[cfg(target_os = "linux")]
impl From<Trouble> for OpenErrorKind {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Usage => Self::Usage,
            Trouble::Permission => Self::Permission,
            Trouble::NotThere => Self::NotThere,
            Trouble::Other => Self::Other,
        }
    }
}

#[cfg(target_os = "linux")]
impl From<&ConnectError> for OpenErrorKind {
    fn from(error: &ConnectError) -> Self {
        match error {
            ConnectError::NoSocket(_) | ConnectError::NobodyListens(_) => Self::NotThere,
            ConnectError::Permission(_) => Self::Permission,
            ConnectError::NotNvme { .. } => Self::Usage,
            _ => Self::Other,
        }
    }
}

impl Device {
    /// Opens it. Nothing is asked of the controller yet.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub fn open(&self, clock: &Clock) -> Result<Arc<dyn Backend>, OpenError> {
        match self {
            Self::Emulated(config) => {
                let backend = EmulatedBackend::start((**config).clone(), clock.clone());
                let backend = backend.map_err(|error| OpenError::new(OpenErrorKind::Other, error))?;
                Ok(Arc::new(backend))
            }
            #[cfg(target_os = "linux")]
            Self::Vfio(device) => {
                let backend = VfioBackend::open(&Host::default(), device)
                    .map_err(|error| OpenError::new(error.trouble().into(), error))?;
                Ok(Arc::new(backend))
            }
            #[cfg(target_os = "linux")]
            Self::VfioUser(socket) => {
                let backend = VfioUserBackend::connect(socket)
                    .map_err(|error| OpenError::new(OpenErrorKind::from(&error), error))?;
                Ok(backend)
            }
            #[cfg(target_os = "redox")]
            Self::Pcid => Err(OpenError::new(
                OpenErrorKind::Usage,
                "pcid hands a controller over to the process that it starts, which is not this one",
            )),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, spec) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "emulated" => spec
                .parse()
                .map(|config| Self::Emulated(Box::new(config)))
                .map_err(|error| format!("{error}")),
            #[cfg(target_os = "linux")]
            "vfio" => spec.parse().map(Self::Vfio),
            #[cfg(not(target_os = "linux"))]
            "vfio" => Err("the kernel hands functions over by VFIO on Linux only".to_owned()),
            #[cfg(target_os = "linux")]
            "vfio-user" if spec.is_empty() => {
                Err("vfio-user needs the socket of the server: vfio-user:/path/to/socket".to_owned())
            }
            #[cfg(target_os = "linux")]
            "vfio-user" => Ok(Self::VfioUser(spec.into())),
            #[cfg(not(target_os = "linux"))]
            "vfio-user" => Err("controllers of other processes can be had on Linux only".to_owned()),
            #[cfg(target_os = "redox")]
            "pcid" if spec.is_empty() => Ok(Self::Pcid),
            #[cfg(not(target_os = "redox"))]
            "pcid" => Err("pcid hands controllers over on Redox only".to_owned()),
            _ => Err(format!(
                "there is no kind of device \"{kind}\"; use emulated, emulated:SPEC, vfio:ADDRESS, such as \
                 vfio:0000:01:00.0, or vfio-user:SOCKET"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_emulated_with_or_without_a_specification() {
        assert!("emulated".parse::<Device>().is_ok());
        assert!(matches!("emulated:lba=512".parse(), Ok(Device::Emulated(_))));
        let refusal = |text: &str| text.parse::<Device>().unwrap_err();
        assert!(refusal("emulated:lba=513").contains("513"));
        assert!(refusal("pci").contains("\"pci\""));
        assert!(refusal("").contains("vfio:0000:01:00.0"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_function_is_named_by_its_address() {
        let Ok(Device::Vfio(device)) = "vfio:01:00.0,irq=msi".parse() else {
            panic!()
        };
        assert_eq!(device.address.to_string(), "0000:01:00.0");
        assert!("vfio".parse::<Device>().is_err());
        assert!("pcid".parse::<Device>().unwrap_err().contains("Redox"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_server_is_named_by_its_socket() {
        let Ok(Device::VfioUser(socket)) = "vfio-user:/tmp/a:b".parse() else {
            panic!()
        };
        assert_eq!(socket.to_str(), Some("/tmp/a:b"));
        assert!("vfio-user:".parse::<Device>().unwrap_err().contains("/path"));
        let error = Device::VfioUser("/nowhere/socket".into()).open(&Clock::system());
        assert_eq!(error.map(|_| ()).unwrap_err().kind(), OpenErrorKind::NotThere);
    }

    #[test]
    fn what_does_not_open_says_why() {
        let device: Device = "emulated:backing=file:/nowhere/disk,size=1MiB".parse().unwrap();
        let error = device.open(&Clock::system()).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Other);
        assert!(error.to_string().contains("/nowhere/disk"), "{error}");
    }
}
