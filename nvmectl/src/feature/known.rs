//! The features that have a name here, and what their values say.

use clap::ValueEnum;
use nvme_spec::FeatureId;
use nvme_spec::feature::{
    Apst, Arbitration, AsyncEventConfiguration, ErrorRecovery, HostControlledThermalManagement,
    HostMemoryBuffer, InterruptCoalescing, InterruptVectorConfiguration, NonOperationalPowerState,
    NumberOfQueues, PowerManagement, TemperatureThreshold, Timestamp, VolatileWriteCache, WriteAtomicity,
};
use nvme_spec::log::{CriticalWarning, kelvin_to_celsius};
use serde_json::{Map, Value, json};

/// A feature of the controller, or of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FeatureName {
    /// How many commands of each queue at a time
    Arbitration,
    /// The power state
    PowerManagement,
    /// When the temperature is a warning
    TemperatureThreshold,
    /// How long a namespace tries to recover an error
    ErrorRecovery,
    /// Whether the write cache is used
    VolatileWriteCache,
    /// I/O queues that the driver was given
    NumberOfQueues,
    /// Completions and time for one interrupt
    InterruptCoalescing,
    /// Whether one vector's interrupts are coalesced
    InterruptVectorConfig,
    /// Whether writes are atomic while power stays
    WriteAtomicity,
    /// What the driver is told of
    AsyncEventConfig,
    /// Power states that the controller changes to by itself
    AutonomousPowerStates,
    /// Memory of the host that the controller uses
    HostMemoryBuffer,
    /// The controller's clock
    Timestamp,
    /// When the controller takes the host for gone
    KeepAlive,
    /// Temperatures from which the controller slows down
    ThermalManagement,
    /// Whether it may use more power than an idle state has
    NonOperationalPowerState,
    /// The driver's I/O scheduler
    Scheduler,
}

/// Who may change a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `feature set`.
    Here,
    /// Nobody but the driver, for this reason.
    Driver(&'static str),
    /// What it takes has no form on a command line.
    NotHere,
}

impl FeatureName {
    /// The name on the command line.
    pub fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Its identifier; None for the scheduler, which is the driver's.
    pub const fn id(self) -> Option<FeatureId> {
        Some(match self {
            Self::Arbitration => FeatureId::ARBITRATION,
            Self::PowerManagement => FeatureId::POWER_MANAGEMENT,
            Self::TemperatureThreshold => FeatureId::TEMPERATURE_THRESHOLD,
            Self::ErrorRecovery => FeatureId::ERROR_RECOVERY,
            Self::VolatileWriteCache => FeatureId::VOLATILE_WRITE_CACHE,
            Self::NumberOfQueues => FeatureId::NUMBER_OF_QUEUES,
            Self::InterruptCoalescing => FeatureId::INTERRUPT_COALESCING,
            Self::InterruptVectorConfig => FeatureId::INTERRUPT_VECTOR_CONFIGURATION,
            Self::WriteAtomicity => FeatureId::WRITE_ATOMICITY,
            Self::AsyncEventConfig => FeatureId::ASYNC_EVENT_CONFIGURATION,
            Self::AutonomousPowerStates => FeatureId::APST,
            Self::HostMemoryBuffer => FeatureId::HOST_MEMORY_BUFFER,
            Self::Timestamp => FeatureId::TIMESTAMP,
            Self::KeepAlive => FeatureId::KEEP_ALIVE,
            Self::ThermalManagement => FeatureId::HOST_CONTROLLED_THERMAL_MANAGEMENT,
            Self::NonOperationalPowerState => FeatureId::NON_OPERATIONAL_POWER_STATE,
            Self::Scheduler => return None,
        })
    }

    /// Who may change it.
    pub const fn setting(self) -> Setting {
        match self {
            Self::NumberOfQueues => Setting::Driver(
                "its queues are those that it was given when it came up; NVME_NUM_QUEUES asks for others",
            ),
            Self::AsyncEventConfig => {
                Setting::Driver("it would not learn of namespaces that change, and of warnings")
            }
            Self::HostMemoryBuffer => Setting::Driver("the memory would be the driver's to give"),
            Self::KeepAlive | Self::AutonomousPowerStates | Self::Timestamp | Self::ThermalManagement => {
                Setting::NotHere
            }
            _ => Setting::Here,
        }
    }

    /// Whether each namespace has its own.
    pub const fn is_of_namespace(self) -> bool {
        matches!(self, Self::ErrorRecovery)
    }

    /// What a value says: dword 0 of the completion of Get Features, and the data. Keys name their units.
    pub fn settings(self, dw0: u32, data: &[u8]) -> Map<String, Value> {
        let value = match self {
            Self::Arbitration => {
                let value = Arbitration::from(dw0);
                // 7: no limit (Base 2.0, section 5.27.1.1).
                let burst = (value.ab() < 7).then(|| 1 << value.ab());
                json!({
                    "burst_commands": burst,
                    "high_weight": u16::from(value.hpw_z()) + 1,
                    "medium_weight": u16::from(value.mpw_z()) + 1,
                    "low_weight": u16::from(value.lpw_z()) + 1,
                })
            }
            Self::PowerManagement => {
                let value = PowerManagement::from(dw0);
                json!({ "power_state": value.ps(), "workload_hint": value.wh() })
            }
            Self::TemperatureThreshold => {
                let kelvin = TemperatureThreshold::from(dw0).tmpth();
                json!({ "threshold_celsius": kelvin_to_celsius(kelvin), "threshold_kelvin": kelvin })
            }
            Self::ErrorRecovery => {
                let value = ErrorRecovery::from(dw0);
                let limit = (value.tler() != 0).then(|| u32::from(value.tler()) * 100);
                json!({ "time_limit_ms": limit, "error_if_deallocated": value.dulbe() })
            }
            Self::VolatileWriteCache => json!({ "enabled": VolatileWriteCache::from(dw0).wce() }),
            Self::NumberOfQueues => {
                let value = NumberOfQueues::from(dw0);
                json!({
                    "submission_queues": u32::from(value.nsqr_z()) + 1,
                    "completion_queues": u32::from(value.ncqr_z()) + 1,
                })
            }
            Self::InterruptCoalescing => {
                let value = InterruptCoalescing::from(dw0);
                json!({
                    "threshold_completions": u16::from(value.thr_z()) + 1,
                    "time_us": u32::from(value.time()) * 100,
                })
            }
            Self::InterruptVectorConfig => {
                let value = InterruptVectorConfiguration::from(dw0);
                json!({ "vector": value.iv(), "coalescing": !value.cd() })
            }
            Self::WriteAtomicity => json!({ "only_for_power_failures": WriteAtomicity::from(dw0).dn() }),
            Self::AsyncEventConfig => events(dw0.into()),
            Self::AutonomousPowerStates => json!({ "enabled": Apst::from(dw0).apste() }),
            Self::HostMemoryBuffer => json!({ "enabled": HostMemoryBuffer::from(dw0).ehm() }),
            Self::Timestamp => match data.first_chunk::<8>() {
                Some(bytes) => {
                    let value = Timestamp::from(u64::from_le_bytes(*bytes));
                    json!({
                        "timestamp_ms": value.milliseconds(),
                        "set_by_host": value.origin() == 1,
                        "may_have_stopped": value.synch(),
                    })
                }
                None => json!({}),
            },
            Self::KeepAlive => json!({ "timeout_ms": (dw0 != 0).then_some(dw0) }),
            Self::ThermalManagement => {
                let value = HostControlledThermalManagement::from(dw0);
                json!({
                    "light_celsius": kelvin_to_celsius(value.tmt1()), "light_kelvin": value.tmt1(),
                    "heavy_celsius": kelvin_to_celsius(value.tmt2()), "heavy_kelvin": value.tmt2(),
                })
            }
            Self::NonOperationalPowerState => {
                json!({ "permissive": NonOperationalPowerState::from(dw0).noppme() })
            }
            Self::Scheduler => json!({}),
        };
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

fn events(value: AsyncEventConfiguration) -> Value {
    let smart = CriticalWarning::from(value.smart());
    json!({
        "spare_low": smart.available_spare(),
        "temperature": smart.temperature(),
        "reliability_degraded": smart.reliability(),
        "read_only": smart.read_only(),
        "memory_backup_failed": smart.memory_backup(),
        "persistent_memory_unreliable": smart.persistent_memory(),
        "namespace_attribute": value.namespace_attribute(),
        "firmware_activation": value.firmware_activation(),
        "telemetry": value.telemetry(),
        "ana_change": value.ana_change(),
        "predictable_latency": value.predictable_latency(),
        "lba_status": value.lba_status(),
        "endurance_group": value.endurance_group(),
        "normal_shutdown": value.normal_shutdown(),
        "zone_descriptor": value.zone_descriptor(),
        "discovery_log": value.discovery_log(),
    })
}
