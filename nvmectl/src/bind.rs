//! `bind` and `unbind`: which driver of the kernel has a controller on PCI.
//!
//! `bind` takes it from the kernel's own driver and gives it to vfio-pci, from which nvme-driver takes it over; `unbind` gives
//! it back. That a function goes to vfio-pci and to no other is said by its `driver_override`, so that it stays there when
//! drivers come and go, until the machine restarts.
//!
//! Whatever of a controller the system uses would be lost to it without a flush, so that is looked for first ([`users`]), and
//! the disks are held meanwhile so that nobody begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nvme_driver::backend::vfio::host::{Function, Host, PciAddress, VFIO_DRIVER, text_of};
use serde::Serialize;

use crate::args::Format;
use crate::error::Error;
use crate::output::Output;

mod users;

#[cfg(test)]
mod tests;

/// The kernel's own driver.
const KERNELS_DRIVER: &str = "nvme";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// To vfio-pci.
    Vfio,
    /// Back to the kernel's own driver.
    Kernel,
}

/// A command, checked.
#[derive(Clone, Debug)]
pub struct Bind {
    address: PciAddress,
    to: To,
}

/// What `bind` and `unbind` have to say.
#[derive(Debug, Serialize)]
struct BindDocument {
    schema: &'static str,
    version: &'static str,
    address: String,
    driver_before: Option<String>,
    driver: Option<String>,
    /// The node through which a process has the function; its owner may.
    node: Option<PathBuf>,
    changed: bool,
}

/// What they would have done.
#[derive(Debug, Serialize)]
struct DryRun {
    schema: &'static str,
    version: &'static str,
    would_write: Vec<Line>,
}

/// A line for a file of sysfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    path: PathBuf,
    text: String,
}

/// What is asked of the kernel beside reading what it says.
trait System {
    /// Writes a line to a file of sysfs.
    fn write(&self, path: &Path, line: &str) -> io::Result<()>;

    /// Opens a disk so that nobody else has it for themselves while it is open: a mounted file system, swap, a device on top
    /// of it or of one of its partitions, a program that makes a file system.
    fn claim(&self, disk: &Path) -> io::Result<File>;
}

/// The kernel that this process runs on.
struct Kernel;

impl System for Kernel {
    fn write(&self, path: &Path, line: &str) -> io::Result<()> {
        // Not made if it is not there: then it is no file of sysfs.
        let mut file = OpenOptions::new().write(true).open(path)?;
        // In one call, which is how the kernel takes it.
        file.write_all(format!("{line}\n").as_bytes())
    }

    fn claim(&self, disk: &Path) -> io::Result<File> {
        /// `O_EXCL` without `O_CREAT`, which for a block device means what is said above.
        const EXCLUSIVE: i32 = 0o200;
        OpenOptions::new().read(true).custom_flags(EXCLUSIVE).open(disk)
    }
}

impl Bind {
    /// # Errors
    /// Usage: it is not an address.
    pub fn new(address: &str, to: To) -> Result<Self, Error> {
        let address = address
            .parse()
            .map_err(|error: String| Error::usage(error, "nvmectl bind 0000:01:00.0"))?;
        Ok(Self { address, to })
    }

    /// Does it, on this machine, or says what it would do.
    ///
    /// # Errors
    /// Usage for what is not an NVMe controller; not found for what is not there; refused for what is in use; permission.
    pub fn run(&self, dry_run: bool, output: &mut Output) -> Result<(), Error> {
        self.run_on(&Host::default(), &Kernel, dry_run, output)
    }

    fn run_on(
        &self,
        host: &Host,
        system: &dyn System,
        dry_run: bool,
        output: &mut Output,
    ) -> Result<(), Error> {
        let function = self.find(host)?;
        let writes = match self.to {
            To::Vfio => self.to_vfio(host, &function)?,
            To::Kernel => self.to_kernel(host, &function)?,
        };
        let claimed = if writes.is_empty() {
            Vec::new()
        } else {
            users::check(host, &function, system)?
        };
        if dry_run {
            return say_writes(writes, output);
        }
        let done = writes.iter().try_for_each(|write| self.write(system, write));
        drop(claimed);
        if let Err(error) = done {
            self.take_back(host, system, &function);
            return Err(error);
        }
        let now = self.find(host)?;
        if !writes.is_empty() {
            self.check_after(host, system, &function, &now)?;
        }
        self.say(host, &function, &now, !writes.is_empty(), output)
    }

    fn find(&self, host: &Host) -> Result<Function, Error> {
        let address = self.address;
        let function = host.function(address).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => Error::Bind {
                exit_code: 4,
                message: format!("there is no PCI function {address}"),
                hint: host.controllers_in_words(),
            },
            _ => self.system(format!("reading what sysfs says of {address}"), &why),
        })?;
        if !function.is_nvme() {
            return Err(Error::usage(
                format!(
                    "the PCI function {address} is not an NVMe controller: its class is {:06x}h, and theirs 010802h",
                    function.class
                ),
                host.controllers_in_words(),
            ));
        }
        Ok(function)
    }

    /// What is to be written so that vfio-pci has the function.
    fn to_vfio(&self, host: &Host, function: &Function) -> Result<Vec<Line>, Error> {
        if function.is_bound() {
            return Ok(Vec::new());
        }
        let driver_dir = host.path("sys/bus/pci/drivers").join(VFIO_DRIVER);
        if !driver_dir.is_dir() {
            return Err(Error::Bind {
                exit_code: 4,
                message: format!("the kernel's driver {VFIO_DRIVER} is not loaded"),
                hint: format!("modprobe {VFIO_DRIVER}"),
            });
        }
        // Without a group vfio-pci would refuse it, and then nobody would have it.
        if function.group.is_none() && !allows_no_iommu(host) {
            return Err(Error::Bind {
                exit_code: 4,
                message: format!(
                    "there is no IOMMU that would keep {} from reaching all of the machine's memory, and {VFIO_DRIVER} takes no \
                     function without one",
                    self.address
                ),
                hint: "turn it on in the firmware (VT-d, AMD-Vi, SMMU), and on machines of Intel's also by the kernel's \
                       parameter intel_iommu=on; a virtual machine needs a virtual one"
                    .to_owned(),
            });
        }
        let mut writes = vec![self.override_with(host, VFIO_DRIVER)];
        if function.driver.is_some() {
            writes.push(self.unbinding(host));
        }
        writes.push(Line {
            path: driver_dir.join("bind"),
            text: self.address.to_string(),
        });
        Ok(writes)
    }

    /// What is to be written so that the kernel's own driver has the function.
    fn to_kernel(&self, host: &Host, function: &Function) -> Result<Vec<Line>, Error> {
        let is_overridden = text_of(&self.override_path(host)).is_ok_and(|driver| driver == VFIO_DRIVER);
        if !function.is_bound() && !is_overridden && function.driver.is_some() {
            return Ok(Vec::new());
        }
        let mut writes = Vec::new();
        if is_overridden {
            // An empty line: no driver by name.
            writes.push(self.override_with(host, ""));
        }
        if function.is_bound() {
            writes.push(self.unbinding(host));
        }
        if function.is_bound() || function.driver.is_none() {
            writes.push(Line {
                path: host.path("sys/bus/pci/drivers_probe"),
                text: self.address.to_string(),
            });
        }
        Ok(writes)
    }

    fn override_path(&self, host: &Host) -> PathBuf {
        host.function_dir(self.address).join("driver_override")
    }

    fn override_with(&self, host: &Host, driver: &str) -> Line {
        Line {
            path: self.override_path(host),
            text: driver.to_owned(),
        }
    }

    fn unbinding(&self, host: &Host) -> Line {
        Line {
            path: host.function_dir(self.address).join("driver/unbind"),
            text: self.address.to_string(),
        }
    }

    fn write(&self, system: &dyn System, write: &Line) -> Result<(), Error> {
        log::info!("writing {:?} to {}", write.text, write.path.display());
        system.write(&write.path, &write.text).map_err(|why| {
            self.system(
                format!("writing \"{}\" to {}", write.text, write.path.display()),
                &why,
            )
        })
    }

    /// Gives the function back to the driver that it had, after something has failed half way.
    fn take_back(&self, host: &Host, system: &dyn System, before: &Function) {
        if self.to == To::Kernel || before.is_bound() {
            return;
        }
        let mut writes = vec![self.override_with(host, "")];
        if before.driver.is_some() && host.function(self.address).is_ok_and(|now| now.driver.is_none()) {
            writes.push(Line {
                path: host.path("sys/bus/pci/drivers_probe"),
                text: self.address.to_string(),
            });
        }
        for write in writes {
            if let Err(error) = self.write(system, &write) {
                log::warn!("{error}");
            }
        }
    }

    /// That the function is where it was to go.
    fn check_after(
        &self,
        host: &Host,
        system: &dyn System,
        before: &Function,
        now: &Function,
    ) -> Result<(), Error> {
        match (self.to, &now.driver) {
            (To::Vfio, _) if now.is_bound() => Ok(()),
            (To::Vfio, driver) => {
                let driver = driver.as_deref().unwrap_or("no driver").to_owned();
                self.take_back(host, system, before);
                Err(Error::Bind {
                    exit_code: 1,
                    message: format!(
                        "{VFIO_DRIVER} did not take {}, which now has {driver}",
                        self.address
                    ),
                    hint: "the kernel's log says why: dmesg | tail".to_owned(),
                })
            }
            (To::Kernel, Some(_)) => Ok(()),
            (To::Kernel, None) => Err(Error::Bind {
                exit_code: 4,
                message: format!("no driver of the kernel's has taken {}", self.address),
                hint: format!("modprobe {KERNELS_DRIVER}"),
            }),
        }
    }

    fn system(&self, what: String, why: &io::Error) -> Error {
        let denied =
            why.kind() == io::ErrorKind::PermissionDenied || why.kind() == io::ErrorKind::ReadOnlyFilesystem;
        Error::Bind {
            exit_code: if denied { 3 } else { 1 },
            message: format!("{what}: {why}"),
            hint: if denied {
                "only root gives drivers their devices: run it as root".to_owned()
            } else {
                "the kernel's log may say more: dmesg | tail".to_owned()
            },
        }
    }

    fn say(
        &self,
        host: &Host,
        before: &Function,
        now: &Function,
        changed: bool,
        output: &mut Output,
    ) -> Result<(), Error> {
        let address = self.address;
        let group = now.group.as_ref().filter(|_| now.is_bound());
        let node = group.map(|group| host.group_node(group));
        if output.format == Format::Json {
            return output.json(&BindDocument {
                schema: "nvmectl-bind",
                version: "1.0",
                address: address.to_string(),
                driver_before: before.driver.clone(),
                driver: now.driver.clone(),
                node,
                changed,
            });
        }
        let driver = now.driver.as_deref().unwrap_or("no driver");
        let mut text = if changed {
            let before = before.driver.as_deref().unwrap_or("no driver");
            format!("{address}: {before} -> {driver}\n")
        } else {
            format!("{address}: {driver} has it already\n")
        };
        if let (Some(group), Some(node)) = (group, node) {
            text += &format!(
                "its node is {}; drive it with\n  nvme-driver --device vfio:{address}{}\n",
                node.display(),
                if group.is_made_up { ",noiommu" } else { "" }
            );
            let others = host
                .functions_in(group)
                .into_iter()
                .filter(|other| other.address != address && other.driver.is_some() && !other.is_bound());
            for other in others {
                text += &format!(
                    "the IOMMU cannot tell it from {}, which has to leave its driver {} first\n",
                    other.address,
                    other.driver.as_deref().unwrap_or_default()
                );
            }
        }
        output.text(&text)
    }
}

fn say_writes(writes: Vec<Line>, output: &mut Output) -> Result<(), Error> {
    if output.format == Format::Json {
        return output.json(&DryRun {
            schema: "nvmectl-dry-run",
            version: "1.0",
            would_write: writes,
        });
    }
    if writes.is_empty() {
        return output.text("nothing is to be done\n");
    }
    let lines: Vec<_> = writes
        .iter()
        .map(|write| format!("would write \"{}\" to {}\n", write.text, write.path.display()))
        .collect();
    output.text(&lines.concat())
}

/// Whether VFIO has been told to do without an IOMMU.
fn allows_no_iommu(host: &Host) -> bool {
    let parameter = host.path("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
    text_of(&parameter).is_ok_and(|value| value == "Y" || value == "1")
}
