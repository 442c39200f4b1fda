//! A function of the guest's bus and the driver that has it, through sysfs.

use crate::{Error, Guest};

/// A function of the bus in a guest.
#[derive(Debug, Clone, Copy)]
pub struct PciFunction<'a> {
    guest: &'a Guest,
    address: &'a str,
}

impl Guest {
    /// The function `address`, such as `0000:00:04.0`.
    #[must_use]
    pub fn pci<'a>(&'a self, address: &'a str) -> PciFunction<'a> {
        PciFunction { guest: self, address }
    }
}

impl PciFunction<'_> {
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
        let address = self.address;
        self.guest.check(&format!(
            "cd /sys/bus/pci/devices/{address} && echo {driver} > driver_override && \
             {{ [ ! -e driver ] || echo {address} > driver/unbind; }} && \
             echo {address} > /sys/bus/pci/drivers_probe && \
             [ \"$(basename \"$(readlink driver)\")\" = {driver} ]"
        ))?;
        Ok(())
    }

    /// Takes it from the driver that has it.
    ///
    /// # Errors
    ///
    /// There is none, or it does not let go.
    pub fn unbind(&self) -> Result<(), Error> {
        let address = self.address;
        self.guest.check(&format!(
            "echo {address} > /sys/bus/pci/devices/{address}/driver/unbind"
        ))?;
        Ok(())
    }
}
