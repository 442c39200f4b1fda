//! A function of the guest's bus and the driver that has it, through sysfs.

use crate::{Error, Guest};

/// A function of the bus in a guest.
#[derive(Debug, Clone)]
pub struct PciFunction<'a> {
    guest: &'a Guest,
    address: String,
}

impl Guest {
    /// The function `address`, such as `0000:00:04.0`.
    #[must_use]
    pub fn pci(&self, address: &str) -> PciFunction<'_> {
        PciFunction {
            guest: self,
            address: address.to_owned(),
        }
    }

    /// The only function in the root port in slot `slot` ([`Machine::root_port`](crate::Machine::root_port)), whose bus the
    /// kernel has numbered.
    ///
    /// # Errors
    ///
    /// There is none within a minute.
    pub fn pci_behind(&self, slot: u8) -> Result<PciFunction<'_>, Error> {
        let address = self.check(&format!(
            "cd /sys/bus/pci/devices/0000:00:{slot:02x}.0
             for i in $(seq 600); do ls -d ????:??:??.? 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
        ))?;
        Ok(self.pci(address.trim()))
    }
}

impl PciFunction<'_> {
    /// Its address, such as `0000:00:04.0`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The driver that has it, if any.
    ///
    /// # Errors
    ///
    /// Those of the guest.
    pub fn driver(&self) -> Result<Option<String>, Error> {
        let name = self.guest.check(&format!(
            "basename \"$(readlink /sys/bus/pci/devices/{}/driver)\"",
            self.address
        ))?;
        let name = name.trim();
        Ok((!name.is_empty()).then(|| name.to_owned()))
    }

    /// Gives it to `driver`, whose module is loaded, and to no other from then on; from the driver that has it.
    ///
    /// # Errors
    ///
    /// The driver does not take it.
    pub fn bind(&self, driver: &str) -> Result<(), Error> {
        let address = &self.address;
        self.guest.check(&format!(
            "cd /sys/bus/pci/devices/{address} && echo {driver} > driver_override && \
             {{ [ \"$(basename \"$(readlink driver)\")\" != {driver} ] || exit 0; }} && \
             {{ [ ! -e driver ] || echo {address} > driver/unbind; }} && \
             echo {address} > /sys/bus/pci/drivers_probe && \
             [ \"$(basename \"$(readlink driver)\")\" = {driver} ]"
        ))?;
        Ok(())
    }

    /// Gives it to the kernel's NVMe driver, and waits until that has found its namespaces: as many as `namespaces`.
    ///
    /// # Errors
    ///
    /// The driver does not take it, or finds less.
    pub fn bind_kernel(&self, namespaces: usize) -> Result<KernelDisk<'_>, Error> {
        self.bind("nvme")?;
        let name = self.guest.check(&format!(
            "cd /sys/bus/pci/devices/{}/nvme && name=$(echo nvme*) && \
             for i in $(seq 600); do [ $(ls /dev | grep -c \"^${{name}}n[0-9]*$\") -ge {namespaces} ] && break; sleep 0.05; done && \
             [ $(ls /dev | grep -c \"^${{name}}n[0-9]*$\") -ge {namespaces} ] && echo $name",
            self.address
        ))?;
        Ok(KernelDisk {
            guest: self.guest,
            controller: format!("/dev/{}", name.trim()),
        })
    }

    /// Takes it from the driver that has it.
    ///
    /// # Errors
    ///
    /// There is none, or it does not let go.
    pub fn unbind(&self) -> Result<(), Error> {
        let address = &self.address;
        self.guest.check(&format!(
            "echo {address} > /sys/bus/pci/devices/{address}/driver/unbind"
        ))?;
        Ok(())
    }
}

/// A controller that the kernel's driver has.
#[derive(Debug, Clone)]
pub struct KernelDisk<'a> {
    guest: &'a Guest,
    controller: String,
}

impl KernelDisk<'_> {
    /// The controller's device, such as `/dev/nvme0`.
    #[must_use]
    pub fn controller(&self) -> &str {
        &self.controller
    }

    /// The block device of a namespace. The kernel numbers those in a way of its own.
    ///
    /// # Errors
    ///
    /// It has none.
    pub fn namespace(&self, nsid: u32) -> Result<String, Error> {
        let name = self.guest.check(&format!(
            "for disk in /sys/block/$(basename {})n*; do \
             [ $(cat $disk/nsid) = {nsid} ] && echo /dev/$(basename $disk) && exit 0; done; exit 1",
            self.controller
        ))?;
        Ok(name.trim().to_owned())
    }
}
