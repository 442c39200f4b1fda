//! Get Features and Set Features (Base 2.0, sections 5.15 and 5.27).

use std::collections::BTreeMap;

use nvme_spec::command::{
    NSID_ALL, SEL_CURRENT, SEL_DEFAULT, SEL_SAVED, SEL_SUPPORTED_CAPABILITIES, SupportedCapabilities,
};
use nvme_spec::feature::{
    Arbitration, ErrorRecovery, FeatureId, InterruptCoalescing, InterruptVectorConfiguration, NumberOfQueues,
    PowerManagement, TemperatureThreshold, Timestamp, VolatileWriteCache, WriteAtomicity,
};
use nvme_spec::{GetFeaturesCdw10, SetFeaturesCdw10, Status, SubmissionEntry};

use super::{Admin, CDW10_BYTE, CDW11_BYTE, Failure, Reply, fail_at};
use crate::engine::{Context, Finished};

/// `TemperatureThreshold::thsel`: the event is raised at or above the threshold.
const OVER: u8 = 0;
/// `TemperatureThreshold::thsel`: the event is raised at or below the threshold.
const UNDER: u8 = 1;
/// `TemperatureThreshold::tmpsel`: the composite temperature. There are no other sensors.
const COMPOSITE: u8 = 0;
/// `TemperatureThreshold::tmpsel`: all sensors, in Set Features only.
const ALL_SENSORS: u8 = 0xF;

/// Which value of a feature: the vector of feature 09h, the threshold of 04h, the namespace of 05h; 0 for the others.
type Part = u32;

/// What can be done with a feature; None for one that is not there.
fn capabilities(fid: FeatureId, vwc: bool) -> Option<SupportedCapabilities> {
    let changeable = SupportedCapabilities::new().with_changeable(true);
    let saveable = changeable.with_saveable(true);
    Some(match fid {
        FeatureId::ARBITRATION
        | FeatureId::POWER_MANAGEMENT
        | FeatureId::TEMPERATURE_THRESHOLD
        | FeatureId::INTERRUPT_COALESCING
        | FeatureId::WRITE_ATOMICITY
        | FeatureId::ASYNC_EVENT_CONFIGURATION => saveable,
        FeatureId::ERROR_RECOVERY => saveable.with_namespace_specific(true),
        FeatureId::VOLATILE_WRITE_CACHE if vwc => saveable,
        FeatureId::NUMBER_OF_QUEUES | FeatureId::INTERRUPT_VECTOR_CONFIGURATION | FeatureId::TIMESTAMP => {
            changeable
        }
        _ => return None,
    })
}

/// The values in force and the values saved, as far as they differ from the default.
#[derive(Debug, Default)]
pub(crate) struct Features {
    current: BTreeMap<(u8, Part), u32>,
    saved: BTreeMap<(u8, Part), u32>,
    clock: Clock,
}

/// Feature 0Eh: milliseconds since some moment, as the host has it, and when it was told.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    /// None until the host sets it: then it counts from the last reset.
    set_ms: Option<u64>,
    since_ns: u64,
}

impl Features {
    /// A reset: saved values are in force again.
    pub fn reset(&mut self, now_ns: u64) {
        self.current = self.saved.clone();
        self.clock = Clock {
            set_ms: None,
            since_ns: now_ns,
        };
    }

    fn timestamp(&self, now_ns: u64) -> Timestamp {
        let elapsed_ms = now_ns.saturating_sub(self.clock.since_ns) / 1_000_000;
        let milliseconds = self.clock.set_ms.unwrap_or(0).wrapping_add(elapsed_ms) & ((1 << 48) - 1);
        // Origin 1: the host has set it (section 5.27.1.11).
        Timestamp::new()
            .with_milliseconds(milliseconds)
            .with_origin(u8::from(self.clock.set_ms.is_some()))
    }
}

impl Admin {
    pub(super) fn get_features(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = GetFeaturesCdw10::from(entry.cdw10);
        let fid = FeatureId(cdw10.fid());
        let capabilities = capabilities(fid, cx.device.config.vwc).ok_or(fail_at(CDW10_BYTE))?;
        if cdw10.sel() == SEL_SUPPORTED_CAPABILITIES {
            return Ok(Finished {
                dw0: capabilities.into(),
                ..Finished::OK
            });
        }
        let part = match fid {
            FeatureId::TEMPERATURE_THRESHOLD => {
                let asked = TemperatureThreshold::from(entry.cdw11);
                if asked.tmpsel() != COMPOSITE || asked.thsel() > UNDER {
                    return Err(fail_at(CDW11_BYTE));
                }
                u32::from(asked.thsel())
            }
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => self.vector_part(cx, entry)?,
            FeatureId::ERROR_RECOVERY => {
                self.active_namespace(cx, entry.nsid)?;
                entry.nsid
            }
            _ => 0,
        };
        let value = match cdw10.sel() {
            SEL_CURRENT if fid == FeatureId::TIMESTAMP => {
                let value: u64 = self.features.timestamp(cx.now_ns).into();
                return self.reply_with(cx, entry, &value.to_le_bytes());
            }
            SEL_DEFAULT | SEL_SAVED if fid == FeatureId::TIMESTAMP => {
                return self.reply_with(cx, entry, &[0; 8]);
            }
            SEL_CURRENT => self.feature(cx, fid, part),
            SEL_DEFAULT => default_value(cx, fid, part),
            SEL_SAVED => {
                let saved = self.features.saved.get(&(fid.0, part)).copied();
                saved.unwrap_or_else(|| default_value(cx, fid, part))
            }
            _ => return Err(fail_at(CDW10_BYTE + 1)),
        };
        Ok(Finished {
            dw0: value,
            ..Finished::OK
        })
    }

    pub(super) fn set_features(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = SetFeaturesCdw10::from(entry.cdw10);
        let (fid, value) = (FeatureId(cdw10.fid()), entry.cdw11);
        let capabilities = capabilities(fid, cx.device.config.vwc).ok_or(fail_at(CDW10_BYTE))?;
        if cdw10.sv() && !capabilities.saveable() {
            return Err(Status::FEATURE_IDENTIFIER_NOT_SAVEABLE.into());
        }
        if !capabilities.namespace_specific() && entry.nsid != 0 && entry.nsid != NSID_ALL {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.into());
        }
        let parts = match fid {
            FeatureId::NUMBER_OF_QUEUES => return self.set_number_of_queues(cx, value),
            FeatureId::TIMESTAMP => return self.set_timestamp(cx, entry),
            FeatureId::TEMPERATURE_THRESHOLD => {
                let asked = TemperatureThreshold::from(value);
                if ![COMPOSITE, ALL_SENSORS].contains(&asked.tmpsel()) || asked.thsel() > UNDER {
                    return Err(fail_at(CDW11_BYTE));
                }
                vec![u32::from(asked.thsel())]
            }
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => vec![self.vector_part(cx, entry)?],
            FeatureId::ERROR_RECOVERY if entry.nsid == NSID_ALL => cx.device.namespaces.active().collect(),
            FeatureId::ERROR_RECOVERY => {
                self.active_namespace(cx, entry.nsid)?;
                vec![entry.nsid]
            }
            _ => vec![0],
        };
        // Bits that are reserved do not stick; values that mean nothing are refused.
        let value = match fid {
            FeatureId::ARBITRATION => u32::from(Arbitration::from(value)) & 0xFFFF_FF07,
            FeatureId::POWER_MANAGEMENT => {
                // There is one power state.
                let asked = PowerManagement::from(value);
                if asked.ps() > 0 {
                    return Err(fail_at(CDW11_BYTE));
                }
                PowerManagement::new().with_wh(asked.wh()).into()
            }
            FeatureId::TEMPERATURE_THRESHOLD => {
                let asked = TemperatureThreshold::from(value);
                TemperatureThreshold::new().with_tmpth(asked.tmpth()).into()
            }
            FeatureId::ERROR_RECOVERY => {
                let asked = ErrorRecovery::from(value);
                if asked.dulbe() {
                    // Identify Namespace says that deallocated blocks do not report errors.
                    return Err(fail_at(CDW11_BYTE + 2));
                }
                ErrorRecovery::new().with_tler(asked.tler()).into()
            }
            FeatureId::VOLATILE_WRITE_CACHE => value & 1,
            FeatureId::INTERRUPT_COALESCING => value & 0xFFFF,
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => value & 0x1_FFFF,
            FeatureId::WRITE_ATOMICITY => value & 1,
            FeatureId::ASYNC_EVENT_CONFIGURATION => value,
            _ => return Err(fail_at(CDW10_BYTE)),
        };
        for part in parts {
            self.features.current.insert((fid.0, part), value);
            if cdw10.sv() {
                self.features.saved.insert((fid.0, part), value);
            }
        }
        self.apply_features(cx);
        Ok(Finished::OK)
    }

    /// The value in force.
    pub(super) fn feature(&self, cx: Context<'_>, fid: FeatureId, part: Part) -> u32 {
        let current = self.features.current.get(&(fid.0, part)).copied();
        current.unwrap_or_else(|| default_value(cx, fid, part))
    }

    /// Tells the rest of the device what the features say now.
    pub(crate) fn apply_features(&mut self, cx: Context<'_>) {
        let cache = VolatileWriteCache::from(self.feature(cx, FeatureId::VOLATILE_WRITE_CACHE, 0));
        cx.device.set_write_cache(cx.device.config.vwc && cache.wce());
        let arbitration = self.feature(cx, FeatureId::ARBITRATION, 0);
        cx.device.set_arbitration(Arbitration::from(arbitration));
        let coalescing = self.feature(cx, FeatureId::INTERRUPT_COALESCING, 0);
        cx.device.set_coalescing(InterruptCoalescing::from(coalescing));
        for vector in 0..cx.device.config.vectors {
            let value = self.feature(cx, FeatureId::INTERRUPT_VECTOR_CONFIGURATION, vector.into());
            cx.device
                .set_coalescing_disabled(vector, InterruptVectorConfiguration::from(value).cd());
        }
        self.check_temperature(cx);
    }

    /// The temperature at or above which a warning is due, and the one at or below which.
    pub(super) fn temperature_thresholds(&self, cx: Context<'_>) -> (u16, u16) {
        let threshold = |thsel: u8| {
            let value = self.feature(cx, FeatureId::TEMPERATURE_THRESHOLD, thsel.into());
            TemperatureThreshold::from(value).tmpth()
        };
        (threshold(OVER), threshold(UNDER))
    }

    /// I/O submission queues and I/O completion queues that the host was granted.
    pub(super) fn granted_queues(&self, cx: Context<'_>) -> (u16, u16) {
        let granted = NumberOfQueues::from(self.feature(cx, FeatureId::NUMBER_OF_QUEUES, 0));
        (
            granted.nsqr_z().saturating_add(1),
            granted.ncqr_z().saturating_add(1),
        )
    }

    /// Base 2.0, section 5.27.1.5.
    fn set_number_of_queues(&mut self, cx: Context<'_>, value: u32) -> Reply {
        let asked = NumberOfQueues::from(value);
        if self.has_io_queues() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.into());
        }
        if asked.nsqr_z() == u16::MAX || asked.ncqr_z() == u16::MAX {
            return Err(fail_at(CDW11_BYTE));
        }
        let most_z = cx.device.config.queues.saturating_sub(1);
        let granted = NumberOfQueues::new()
            .with_nsqr_z(asked.nsqr_z().min(most_z))
            .with_ncqr_z(asked.ncqr_z().min(most_z));
        self.features
            .current
            .insert((FeatureId::NUMBER_OF_QUEUES.0, 0), granted.into());
        Ok(Finished {
            dw0: granted.into(),
            ..Finished::OK
        })
    }

    fn set_timestamp(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let mut bytes = [0; 8];
        self.read_data(cx, entry, &mut bytes)?;
        let set = Timestamp::from(u64::from_le_bytes(bytes));
        self.features.clock = Clock {
            set_ms: Some(set.milliseconds()),
            since_ns: cx.now_ns,
        };
        Ok(Finished {
            bytes: 8,
            ..Finished::OK
        })
    }

    fn vector_part(&self, cx: Context<'_>, entry: &SubmissionEntry) -> Result<Part, Failure> {
        let vector = InterruptVectorConfiguration::from(entry.cdw11).iv();
        if vector >= cx.device.config.vectors {
            return Err(fail_at(CDW11_BYTE));
        }
        Ok(vector.into())
    }
}

fn default_value(cx: Context<'_>, fid: FeatureId, part: Part) -> u32 {
    match fid {
        // No limit on the burst, and no class is worth more than another.
        FeatureId::ARBITRATION => Arbitration::new().with_ab(0b111).into(),
        FeatureId::TEMPERATURE_THRESHOLD if part == u32::from(OVER) => TemperatureThreshold::new()
            .with_tmpth(super::WARNING_TEMPERATURE_KELVIN)
            .into(),
        FeatureId::VOLATILE_WRITE_CACHE => VolatileWriteCache::new().with_wce(true).into(),
        FeatureId::NUMBER_OF_QUEUES => {
            let most_z = cx.device.config.queues.saturating_sub(1);
            NumberOfQueues::new()
                .with_nsqr_z(most_z)
                .with_ncqr_z(most_z)
                .into()
        }
        FeatureId::INTERRUPT_VECTOR_CONFIGURATION => {
            // The admin queue's vector is never coalesced.
            InterruptVectorConfiguration::new()
                .with_iv(part as u16)
                .with_cd(part == 0)
                .into()
        }
        FeatureId::WRITE_ATOMICITY => WriteAtomicity::new().into(),
        _ => 0,
    }
}
