//! Features: identifiers and values of Get Features and Set Features.
//!
//! Each bit field here is CDW11 of Set Features and dword 0 of Get Features' completion, unless its text says otherwise. For
//! the Number of Queues see [`NumberOfQueues`].

use bitfield_struct::bitfield;

pub use crate::command::NumberOfQueues;
use crate::named::named_u8;

named_u8! {
    /// Feature identifier (Base 2.0, section 5.27.1, "Feature Identifiers").
    FeatureId, "feature" {
        ARBITRATION = 0x01, "Arbitration";
        POWER_MANAGEMENT = 0x02, "Power Management";
        LBA_RANGE = 0x03, "LBA Range Type";
        TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
        ERROR_RECOVERY = 0x05, "Error Recovery";
        VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
        NUMBER_OF_QUEUES = 0x07, "Number of Queues";
        INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
        INTERRUPT_VECTOR_CONFIGURATION = 0x09, "Interrupt Vector Configuration";
        WRITE_ATOMICITY = 0x0A, "Write Atomicity Normal";
        ASYNC_EVENT_CONFIGURATION = 0x0B, "Asynchronous Event Configuration";
        APST = 0x0C, "Autonomous Power State Transition";
        HOST_MEMORY_BUFFER = 0x0D, "Host Memory Buffer";
        TIMESTAMP = 0x0E, "Timestamp";
        KEEP_ALIVE = 0x0F, "Keep Alive Timer";
        HOST_CONTROLLED_THERMAL_MANAGEMENT = 0x10, "Host Controlled Thermal Management";
        NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
        READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
        PREDICTABLE_LATENCY_MODE = 0x13, "Predictable Latency Mode Config";
        PREDICTABLE_LATENCY_WINDOW = 0x14, "Predictable Latency Mode Window";
        LBA_STATUS_REPORT_INTERVAL = 0x15, "LBA Status Information Report Interval";
        HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
        SANITIZE_CONFIG = 0x17, "Sanitize Config";
        ENDURANCE_GROUP_EVENT_CONFIGURATION = 0x18, "Endurance Group Event Configuration";
        IO_COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
        SPINUP_CONTROL = 0x1A, "Spinup Control";
        ENHANCED_CONTROLLER_METADATA = 0x7D, "Enhanced Controller Metadata";
        CONTROLLER_METADATA = 0x7E, "Controller Metadata";
        NAMESPACE_METADATA = 0x7F, "Namespace Metadata";
        SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
        HOST_IDENTIFIER = 0x81, "Host Identifier";
        RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
        RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
        NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
    }
}

/// Arbitration (Base 2.0, section 5.27.1.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// Arbitration Burst: 2^n commands at a time, 7 = no limit.
    #[bits(3)]
    pub ab: u8,
    #[bits(5)]
    __: u8,
    /// Low Priority Weight in commands, 0's based.
    #[bits(8)]
    pub lpw_z: u8,
    /// Medium Priority Weight in commands, 0's based.
    #[bits(8)]
    pub mpw_z: u8,
    /// High Priority Weight in commands, 0's based.
    #[bits(8)]
    pub hpw_z: u8,
}

/// Power Management (Base 2.0, section 5.27.1.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PowerManagement {
    /// Power State.
    #[bits(5)]
    pub ps: u8,
    /// Workload Hint.
    #[bits(3)]
    pub wh: u8,
    #[bits(24)]
    __: u32,
}

/// Temperature Threshold (Base 2.0, section 5.27.1.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TemperatureThreshold {
    /// Temperature Threshold in Kelvin.
    #[bits(16)]
    pub tmpth: u16,
    /// Threshold Temperature Select: 0 = composite, 1 to 8 = sensor, Fh = all (set only).
    #[bits(4)]
    pub tmpsel: u8,
    /// Threshold Type Select: 0 = over temperature, 1 = under temperature.
    #[bits(2)]
    pub thsel: u8,
    #[bits(10)]
    __: u16,
}

/// Error Recovery, per namespace (NVM Command Set 1.0, section 4.1.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ErrorRecovery {
    /// Time Limited Error Recovery in units of 100 ms, 0 = no limit.
    #[bits(16)]
    pub tler: u16,
    /// Deallocated or Unwritten Logical Block Error Enable.
    pub dulbe: bool,
    #[bits(15)]
    __: u16,
}

/// Volatile Write Cache (Base 2.0, section 5.27.1.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VolatileWriteCache {
    /// Volatile Write Cache Enable.
    pub wce: bool,
    #[bits(31)]
    __: u32,
}

/// Interrupt Coalescing (Base 2.0, section 5.27.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptCoalescing {
    /// Aggregation Threshold in completions, 0's based.
    #[bits(8)]
    pub thr_z: u8,
    /// Aggregation Time in units of 100 us, 0 = no delay.
    #[bits(8)]
    pub time: u8,
    #[bits(16)]
    __: u16,
}

/// Interrupt Vector Configuration (Base 2.0, section 5.27.1.7). Get Features takes IV in CDW11.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptVectorConfiguration {
    /// Interrupt Vector.
    #[bits(16)]
    pub iv: u16,
    /// Coalescing Disable.
    pub cd: bool,
    #[bits(15)]
    __: u16,
}

/// Write Atomicity Normal (NVM Command Set 1.0, section 4.1.3.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteAtomicity {
    /// Disable Normal: AWUN need not hold, AWUPF must.
    pub dn: bool,
    #[bits(31)]
    __: u32,
}

/// Asynchronous Event Configuration: which events are sent (Base 2.0, section 5.27.1.8). The notices are those of
/// [`Oaes`](crate::identify::Oaes), at the same bits.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventConfiguration {
    /// SMART / Health Critical Warnings ([`CriticalWarning`](crate::log::CriticalWarning)).
    #[bits(8)]
    pub smart: u8,
    /// Attached Namespace Attribute Notices.
    pub namespace_attribute: bool,
    /// Firmware Activation Notices.
    pub firmware_activation: bool,
    /// Telemetry Log Notices.
    pub telemetry: bool,
    /// Asymmetric Namespace Access Change Notices.
    pub ana_change: bool,
    /// Predictable Latency Event Aggregate Log Change Notices.
    pub predictable_latency: bool,
    /// LBA Status Information Alert Notices.
    pub lba_status: bool,
    /// Endurance Group Event Aggregate Log Change Notices.
    pub endurance_group: bool,
    /// Normal NVM Subsystem Shutdown event.
    pub normal_shutdown: bool,
    #[bits(11)]
    __: u16,
    /// Zone Descriptor Changed Notices.
    pub zone_descriptor: bool,
    #[bits(3)]
    __: u8,
    /// Discovery Log Page Change Notification.
    pub discovery_log: bool,
}

/// Autonomous Power State Transition (Base 2.0, section 5.27.1.9). The data are 32 [`ApstEntry`]s.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Apst {
    /// Autonomous Power State Transition Enable.
    pub apste: bool,
    #[bits(31)]
    __: u32,
}

/// One of the 32 entries of the Autonomous Power State Transition data, by power state, 8 bytes little endian.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApstEntry {
    #[bits(3)]
    __: u8,
    /// Idle Transition Power State: where to go.
    #[bits(5)]
    pub itps: u8,
    /// Idle Time Prior to Transition in milliseconds, 0 = no transition.
    #[bits(24)]
    pub itpt: u32,
    #[bits(32)]
    __: u32,
}

/// Host Memory Buffer, CDW11 (Base 2.0, section 5.27.1.10). CDW12 is the size in pages of CC.MPS, CDW13 and CDW14 the
/// address of the descriptor list, CDW15 the number of descriptors.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostMemoryBuffer {
    /// Enable Host Memory.
    pub ehm: bool,
    /// Memory Return: the same memory with the same content as before.
    pub mr: bool,
    #[bits(30)]
    __: u32,
}

/// Timestamp: the 8 bytes of data, little endian (Base 2.0, section 5.27.1.11).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Timestamp {
    /// Milliseconds since 1970-01-01 00:00 UTC, or since the reset if never set.
    #[bits(48)]
    pub milliseconds: u64,
    /// Synch: the controller may have stopped counting for a while.
    pub synch: bool,
    /// Timestamp Origin: 0 = cleared by a reset, 1 = set by Set Features.
    #[bits(3)]
    pub origin: u8,
    #[bits(12)]
    __: u16,
}

/// Host Controlled Thermal Management (Base 2.0, section 5.27.1.13). The Keep Alive Timer before it is a plain number of
/// milliseconds.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct HostControlledThermalManagement {
    /// Thermal Management Temperature 2 in Kelvin, 0 = disabled.
    #[bits(16)]
    pub tmt2: u16,
    /// Thermal Management Temperature 1 in Kelvin, 0 = disabled.
    #[bits(16)]
    pub tmt1: u16,
}

/// Non-Operational Power State Config (Base 2.0, section 5.27.1.14).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NonOperationalPowerState {
    /// Non-Operational Power State Permissive Mode Enable.
    pub noppme: bool,
    #[bits(31)]
    __: u32,
}

/// Namespace Write Protection Config (Base 2.0, section 5.27.1.28).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NamespaceWriteProtection {
    /// Write Protection State: 0 = none, 1 = write protect, 2 = until power cycle, 3 = permanent.
    #[bits(3)]
    pub wps: u8,
    #[bits(29)]
    __: u32,
}

#[cfg(test)]
mod tests;
