use serde::{Deserialize, Serialize};

use crate::big_int::{big_u64, big_u128};

/// A reading of the SMART / Health Information log (Base specification 2.0, section 5.16.1.3), raw values
/// beside converted ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The monotonic clock when the log was read, in ns.
    #[serde(with = "big_u64")]
    pub read_monotonic_ns: u64,
    /// Critical Warning, as its bits.
    pub critical_warning: u8,
    /// The names of the bits that are set, such as `"spare_low"`; bits without a name as `"bit N"`.
    pub critical_warnings: Vec<String>,
    /// Composite Temperature in kelvin; `null` if the controller reports 0, which means that it does not say.
    pub temperature_kelvin: Option<u16>,
    /// The same in degrees Celsius (kelvin - 273).
    pub temperature_celsius: Option<i32>,
    /// Available Spare in percent.
    pub available_spare_percent: u8,
    /// Available Spare Threshold in percent.
    pub available_spare_threshold_percent: u8,
    /// Percentage Used, in percent of the device's life; may pass 100.
    pub percentage_used: u8,
    /// Data Units Read: thousands of 512 bytes, rounded up.
    #[serde(with = "big_u128")]
    pub data_units_read: u128,
    /// The same in bytes (one data unit is 512,000 bytes).
    #[serde(with = "big_u128")]
    pub bytes_read: u128,
    /// Data Units Written: thousands of 512 bytes, rounded up.
    #[serde(with = "big_u128")]
    pub data_units_written: u128,
    /// The same in bytes.
    #[serde(with = "big_u128")]
    pub bytes_written: u128,
    /// Host Read Commands.
    #[serde(with = "big_u128")]
    pub host_read_commands: u128,
    /// Host Write Commands.
    #[serde(with = "big_u128")]
    pub host_write_commands: u128,
    /// Controller Busy Time in minutes.
    #[serde(with = "big_u128")]
    pub controller_busy_minutes: u128,
    /// Power Cycles.
    #[serde(with = "big_u128")]
    pub power_cycles: u128,
    /// Power On Hours.
    #[serde(with = "big_u128")]
    pub power_on_hours: u128,
    /// Unsafe Shutdowns.
    #[serde(with = "big_u128")]
    pub unsafe_shutdowns: u128,
    /// Media and Data Integrity Errors.
    #[serde(with = "big_u128")]
    pub media_errors: u128,
    /// Number of Error Information Log Entries over the controller's life.
    #[serde(with = "big_u128")]
    pub error_log_entries: u128,
    /// Warning Composite Temperature Time in minutes.
    pub warning_temperature_minutes: u32,
    /// Critical Composite Temperature Time in minutes.
    pub critical_temperature_minutes: u32,
    /// Temperature Sensors 1 to 8 in kelvin; `null` for one that is not there.
    pub temperature_sensors_kelvin: [Option<u16>; 8],
}

impl Health {
    /// Bytes in one data unit.
    pub const DATA_UNIT_BYTES: u128 = 512_000;

    /// Data units in bytes; at the end of the range if the device reports nonsense.
    #[must_use]
    pub const fn data_units_to_bytes(units: u128) -> u128 {
        units.saturating_mul(Self::DATA_UNIT_BYTES)
    }
}
