//! SMART / Health Information (log page 02h).

use bitfield_struct::bitfield;
use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::{layout, zeroed_default};

/// SMART / Health Information log page, 512 bytes (Base 2.0, section 5.16.1.3). Counters are over the life of the
/// controller.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SmartLog {
    /// Critical Warning ([`CriticalWarning`]).
    pub critical_warning: u8,
    /// Composite Temperature in Kelvin.
    pub composite_temperature: U16,
    /// Available Spare in percent.
    pub available_spare: u8,
    /// Available Spare Threshold in percent.
    pub available_spare_threshold: u8,
    /// Percentage Used of the device's life; may pass 100, 255 stands for more.
    pub percentage_used: u8,
    /// Endurance Group Critical Warning Summary.
    pub endurance_group_critical_warning: u8,
    #[doc(hidden)]
    pub reserved7: [u8; 25],
    /// Data Units Read: thousands of 512-byte units, rounded up; see [`data_units_to_bytes`].
    pub data_units_read: U128,
    /// Data Units Written: thousands of 512-byte units, rounded up; see [`data_units_to_bytes`].
    pub data_units_written: U128,
    /// Host Read Commands (Read and Compare).
    pub host_read_commands: U128,
    /// Host Write Commands.
    pub host_write_commands: U128,
    /// Controller Busy Time in minutes: while I/O commands were outstanding.
    pub controller_busy_time: U128,
    /// Power Cycles.
    pub power_cycles: U128,
    /// Power On Hours.
    pub power_on_hours: U128,
    /// Unsafe Shutdowns: power losses without a shutdown notification before.
    pub unsafe_shutdowns: U128,
    /// Media and Data Integrity Errors.
    pub media_errors: U128,
    /// Number of Error Information Log Entries, over the life of the controller.
    pub num_err_log_entries: U128,
    /// Warning Composite Temperature Time in minutes.
    pub warning_temperature_time: U32,
    /// Critical Composite Temperature Time in minutes.
    pub critical_temperature_time: U32,
    /// Temperature Sensors 1 to 8 in Kelvin, 0 = not implemented.
    pub temperature_sensors: [U16; 8],
    /// Thermal Management Temperature 1 Transition Count.
    pub thermal_temp1_transitions: U32,
    /// Thermal Management Temperature 2 Transition Count.
    pub thermal_temp2_transitions: U32,
    /// Total Time For Thermal Management Temperature 1 in seconds.
    pub thermal_temp1_total_time: U32,
    /// Total Time For Thermal Management Temperature 2 in seconds.
    pub thermal_temp2_total_time: U32,
    #[doc(hidden)]
    pub reserved232: [u8; 280],
}

layout!(SmartLog, 512, {
    critical_warning: 0, composite_temperature: 1, available_spare: 3, available_spare_threshold: 4,
    percentage_used: 5, endurance_group_critical_warning: 6, data_units_read: 32, data_units_written: 48,
    host_read_commands: 64, host_write_commands: 80, controller_busy_time: 96, power_cycles: 112,
    power_on_hours: 128, unsafe_shutdowns: 144, media_errors: 160, num_err_log_entries: 176,
    warning_temperature_time: 192, critical_temperature_time: 196, temperature_sensors: 200,
    thermal_temp1_transitions: 216, thermal_temp2_transitions: 220, thermal_temp1_total_time: 224,
    thermal_temp2_total_time: 228, reserved232: 232,
});

/// Critical Warning, also which of them raise an event in the Asynchronous Event Configuration feature (Base 2.0, section
/// 5.16.1.3, byte 0).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct CriticalWarning {
    /// Available spare is below its threshold.
    pub available_spare: bool,
    /// A temperature is beyond a threshold.
    pub temperature: bool,
    /// Reliability is degraded by media or internal errors.
    pub reliability: bool,
    /// The media are read only.
    pub read_only: bool,
    /// The volatile memory backup has failed.
    pub memory_backup: bool,
    /// The Persistent Memory Region is read only or unreliable.
    pub persistent_memory: bool,
    #[bits(2)]
    __: u8,
}

/// SMART data units in bytes: one unit is 1000 times 512 bytes. Saturates.
pub const fn data_units_to_bytes(data_units: u128) -> u128 {
    data_units.saturating_mul(512_000)
}

/// A temperature field in degrees Celsius, the way the specification's own thresholds convert (0 C = 273 K). None for 0 K,
/// which means "not reported".
pub const fn kelvin_to_celsius(kelvin: u16) -> Option<i32> {
    match kelvin {
        0 => None,
        kelvin => Some(kelvin as i32 - 273),
    }
}

zeroed_default!(SmartLog);
