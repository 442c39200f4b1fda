//! Configuration Get (NVMe-MI 1.2, section 5.2): which settings there are, and what the management response says of them.

use core::fmt;

use super::{MalformedMessage, MiResponse};
use crate::named::named_u8;

named_u8! {
    /// Configuration Identifier (NVMe-MI 1.2, section 5.2, "NVMe-MI Configuration Identifiers"). In band only Health Status
    /// Change is not prohibited: the others are of a port of the out-of-band interface.
    ConfigurationId, "configuration" {
        SMBUS_FREQUENCY = 0x01, "SMBus/I2C Frequency";
        HEALTH_STATUS_CHANGE = 0x02, "Health Status Change";
        MCTP_TRANSMISSION_UNIT_SIZE = 0x03, "MCTP Transmission Unit Size";
        ASYNCHRONOUS_EVENT = 0x04, "Asynchronous Event";
    }
}

/// How fast the SMBus port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmbusFrequency {
    /// 0h: the port does not support SMBus, or it is off.
    Disabled,
    /// 1h: 100 kHz.
    KHz100,
    /// 2h: 400 kHz.
    KHz400,
    /// 3h: 1 MHz.
    MHz1,
}

impl SmbusFrequency {
    /// In hertz, None where it is off.
    pub const fn hz(self) -> Option<u32> {
        match self {
            Self::Disabled => None,
            Self::KHz100 => Some(100_000),
            Self::KHz400 => Some(400_000),
            Self::MHz1 => Some(1_000_000),
        }
    }
}

impl fmt::Display for SmbusFrequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Disabled => "disabled",
            Self::KHz100 => "100 kHz",
            Self::KHz400 => "400 kHz",
            Self::MHz1 => "1 MHz",
        })
    }
}

/// The SMBus/I2C Frequency (section 5.2.1): management response bits 3:0.
///
/// # Errors
/// That it was refused, or that the value is reserved.
pub fn smbus_frequency(response: &MiResponse<'_>) -> Result<SmbusFrequency, MalformedMessage> {
    match response.succeeded()?.nmresp & 0xF {
        0 => Ok(SmbusFrequency::Disabled),
        1 => Ok(SmbusFrequency::KHz100),
        2 => Ok(SmbusFrequency::KHz400),
        3 => Ok(SmbusFrequency::MHz1),
        value => Err(MalformedMessage::Reserved {
            field: "SFREQ",
            value,
        }),
    }
}

/// The MCTP Transmission Unit Size in bytes (section 5.2.3): management response bits 15:0. MCTP has none below 64.
///
/// # Errors
/// That it was refused, or that the value is reserved.
pub fn mctp_transmission_unit_bytes(response: &MiResponse<'_>) -> Result<u16, MalformedMessage> {
    match response.succeeded()?.nmresp as u16 {
        value @ 64.. => Ok(value),
        value => Err(MalformedMessage::Reserved {
            field: "MTUS",
            value: value.into(),
        }),
    }
}
