//! Get Log Page (Base 2.0, section 5.16).

use nvme_spec::command::NSID_ALL;
use nvme_spec::feature::{AsyncEventConfiguration, FeatureId};
use nvme_spec::identify::AsciiField;
use nvme_spec::log::{
    ChangedNamespaces, CommandEffects, CommandsSupported, CriticalWarning, FirmwareSlotLog, LogId, SmartLog,
    SupportedLogPages,
};
use nvme_spec::{AdminOpcode, GetLogCdw10, GetLogCdw11, NvmOpcode, Status, SubmissionEntry};
use zerocopy::{FromZeros, IntoBytes};

use super::{Admin, CDW10_BYTE, CDW12_BYTE, CDW14_BYTE, Event, Failure, NSID_BYTE, Reply, fail_at};
use crate::config::{Config, ManagementInterface};
use crate::engine::Context;
use crate::shard::ShardSlot;
use crate::tally::opcode_counters;

/// The pages there are.
const PAGES: [LogId; 7] = [
    LogId::SUPPORTED_LOG_PAGES,
    LogId::ERROR_INFORMATION,
    LogId::SMART,
    LogId::FIRMWARE_SLOT,
    LogId::CHANGED_NAMESPACES,
    LogId::COMMANDS_SUPPORTED,
    LogId::DEVICE_SELF_TEST,
];

/// CDW14 bit 23: the offset is an index, not in bytes. No page here has one.
const OFFSET_IS_INDEX: u32 = 1 << 23;

/// Available Spare Threshold: with less there is a warning.
const SPARE_THRESHOLD_PERCENT: u8 = 10;

const NS_PER_MINUTE: u64 = 60_000_000_000;

impl Admin {
    pub(super) fn get_log_page(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = GetLogCdw10::from(entry.cdw10);
        let lid = LogId(cdw10.lid());
        let page = self.page(cx, lid, entry)?;
        if entry.cdw14 & OFFSET_IS_INDEX != 0 {
            return Err(fail_at(CDW14_BYTE + 2));
        }
        let offset_bytes = u64::from(entry.cdw13) << 32 | u64::from(entry.cdw12);
        if !offset_bytes.is_multiple_of(4) || offset_bytes > page.len() as u64 {
            return Err(fail_at(CDW12_BYTE));
        }
        let wanted_bytes = cdw10.length_bytes(GetLogCdw11::from(entry.cdw11));
        if cx
            .device
            .config
            .mdts_bytes
            .is_some_and(|mdts_bytes| wanted_bytes > mdts_bytes)
        {
            return Err(fail_at(CDW10_BYTE + 2));
        }
        // What lies beyond the page's end is undefined (section 5.16.1); here it is left alone.
        let rest = page.get(offset_bytes as usize..).unwrap_or_default();
        let len_bytes = wanted_bytes.min(rest.len() as u64) as usize;
        let finished = self.reply_with(cx, entry, rest.get(..len_bytes).unwrap_or_default())?;
        if !cdw10.rae() {
            self.events.log_read(lid);
            if lid == LogId::CHANGED_NAMESPACES {
                cx.device.namespaces.changes(true);
            }
        }
        Ok(finished)
    }

    fn page(&self, cx: Context<'_>, lid: LogId, entry: &SubmissionEntry) -> Result<Vec<u8>, Failure> {
        Ok(match lid {
            LogId::SUPPORTED_LOG_PAGES => supported_pages().as_bytes().to_vec(),
            LogId::ERROR_INFORMATION => {
                let log = cx.device.error_log();
                let mut page = vec![0; crate::error_log::ERROR_LOG_ENTRIES * 64];
                for (to, from) in page.chunks_exact_mut(64).zip(log.entries()) {
                    to.copy_from_slice(from.as_bytes());
                }
                page
            }
            LogId::SMART => {
                // LPA says that there is no page per namespace.
                if entry.nsid != 0 && entry.nsid != NSID_ALL {
                    return Err(fail_at(NSID_BYTE));
                }
                self.smart(cx).as_bytes().to_vec()
            }
            LogId::FIRMWARE_SLOT => {
                let mut log = FirmwareSlotLog {
                    afi: 1,
                    ..FirmwareSlotLog::new_zeroed()
                };
                if let Some(first) = log.frs.first_mut() {
                    *first = AsciiField::encode(&cx.device.config.firmware);
                }
                log.as_bytes().to_vec()
            }
            LogId::CHANGED_NAMESPACES => ChangedNamespaces::new(cx.device.namespaces.changes(false))
                .as_bytes()
                .to_vec(),
            LogId::COMMANDS_SUPPORTED => commands_supported(&cx.device.config).as_bytes().to_vec(),
            LogId::DEVICE_SELF_TEST => self.self_tests.log(cx.now_ns).as_bytes().to_vec(),
            _ => {
                return Err(Failure {
                    status: Status::INVALID_LOG_PAGE,
                    location: Some(CDW10_BYTE),
                });
            }
        })
    }

    /// The SMART / Health Information page: real counters of what the device did.
    fn smart(&self, cx: Context<'_>) -> SmartLog {
        let shards = &cx.device.shards;
        let io = opcode_counters(shards.iter().map(|slot| &slot.tally));
        let sum = |opcodes: &[NvmOpcode], value: fn(&crate::OpcodeCounters) -> u64| -> u128 {
            let wanted = |counters: &&crate::OpcodeCounters| opcodes.contains(&NvmOpcode(counters.opcode));
            io.iter()
                .filter(wanted)
                .map(|counters| u128::from(value(counters)))
                .sum()
        };
        // Which commands count is the NVM Command Set's choice (NVM Command Set 1.0, section 1.4.2).
        let reads = [NvmOpcode::READ, NvmOpcode::COMPARE, NvmOpcode::VERIFY];
        let written = [NvmOpcode::WRITE];
        let writes = [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES];
        let units = |bytes: u128| bytes.div_ceil(512_000);
        // Shards work side by side: the busiest one is as close to "any command outstanding" as can be had for free.
        let busy_ns = shards
            .iter()
            .map(|slot: &ShardSlot| slot.tally.busy_ns.get())
            .max()
            .unwrap_or(0);
        let kelvin = cx.device.temperature_kelvin();
        let error_log = cx.device.error_log();
        SmartLog {
            critical_warning: self.critical_warning(cx).into(),
            composite_temperature: kelvin.into(),
            available_spare: cx.device.config.spare_percent,
            available_spare_threshold: SPARE_THRESHOLD_PERCENT,
            percentage_used: cx.device.config.used_percent,
            data_units_read: units(sum(&reads, |counters| counters.bytes)).into(),
            data_units_written: units(sum(&written, |counters| counters.bytes)).into(),
            host_read_commands: sum(&reads, |counters| counters.completed).into(),
            host_write_commands: sum(&writes, |counters| counters.completed).into(),
            controller_busy_time: u128::from(busy_ns / NS_PER_MINUTE).into(),
            power_cycles: u128::from(self.life.power_cycles).into(),
            power_on_hours: u128::from(self.life.power_on_hours(cx.now_ns)).into(),
            unsafe_shutdowns: u128::from(self.life.unsafe_shutdowns).into(),
            media_errors: u128::from(error_log.media_errors()).into(),
            num_err_log_entries: u128::from(error_log.count()).into(),
            ..SmartLog::new_zeroed()
        }
    }

    /// What the device warns of.
    pub(super) fn critical_warning(&self, cx: Context<'_>) -> CriticalWarning {
        CriticalWarning::new()
            .with_available_spare(cx.device.config.spare_percent < SPARE_THRESHOLD_PERCENT)
            .with_temperature(self.is_hot)
    }

    /// Compares the temperature with the thresholds, and reports when it passes one.
    pub(crate) fn check_temperature(&mut self, cx: Context<'_>) {
        let kelvin = cx.device.temperature_kelvin();
        let (over, under) = self.temperature_thresholds(cx);
        // 0 K: there is no sensor.
        let is_hot = kelvin != 0 && (kelvin >= over || kelvin <= under);
        let was_hot = std::mem::replace(&mut self.is_hot, is_hot);
        self.management.temperature_is(kelvin, is_hot != was_hot);
        if is_hot && !was_hot {
            self.notify(cx, Event::TEMPERATURE);
        }
    }

    /// Whether the host has asked to hear of such events (feature 0Bh). Errors are always reported.
    pub(super) fn is_wanted(&self, cx: Context<'_>, event: Event) -> bool {
        let asked = AsyncEventConfiguration::from(self.feature(cx, FeatureId::ASYNC_EVENT_CONFIGURATION, 0));
        match event {
            Event::TEMPERATURE => CriticalWarning::from(asked.smart()).temperature(),
            Event::NAMESPACE_ATTRIBUTE => asked.namespace_attribute(),
            _ => true,
        }
    }
}

fn supported_pages() -> SupportedLogPages {
    let mut log = SupportedLogPages::new_zeroed();
    for lid in PAGES {
        if let Some(page) = log.pages.get_mut(usize::from(lid.0)) {
            page.set(1);
        }
    }
    log
}

fn commands_supported(config: &Config) -> CommandsSupported {
    let mut log = CommandsSupported::new_zeroed();
    let plain = CommandEffects::new().with_csupp(true);
    // Changes blocks; nothing else may run in the namespace meanwhile.
    let format = plain.with_lbcc(true).with_ncc(true).with_cse(1);
    let has_management = config.management != ManagementInterface::Off;
    let admin = [
        (AdminOpcode::DELETE_IO_SQ, plain),
        (AdminOpcode::CREATE_IO_SQ, plain),
        (AdminOpcode::GET_LOG_PAGE, plain),
        (AdminOpcode::DELETE_IO_CQ, plain),
        (AdminOpcode::CREATE_IO_CQ, plain),
        (AdminOpcode::IDENTIFY, plain),
        (AdminOpcode::ABORT, plain),
        (AdminOpcode::SET_FEATURES, plain),
        (AdminOpcode::GET_FEATURES, plain),
        (AdminOpcode::ASYNC_EVENT_REQUEST, plain),
        (AdminOpcode::DEVICE_SELF_TEST, plain),
        (AdminOpcode::NVME_MI_SEND, plain.with_csupp(has_management)),
        (AdminOpcode::NVME_MI_RECEIVE, plain.with_csupp(has_management)),
        (
            AdminOpcode::DOORBELL_BUFFER_CONFIG,
            plain.with_csupp(config.dbbuf),
        ),
        (AdminOpcode::FORMAT_NVM, format),
    ];
    for (opcode, effects) in admin {
        if let Some(place) = log.acs.get_mut(usize::from(opcode.0)) {
            place.set(effects.into());
        }
    }
    let changes = plain.with_lbcc(true);
    let io = [
        (NvmOpcode::FLUSH, plain),
        (NvmOpcode::WRITE, changes),
        (NvmOpcode::READ, plain),
        (NvmOpcode::COMPARE, plain),
        (NvmOpcode::WRITE_ZEROES, changes),
        (NvmOpcode::DATASET_MANAGEMENT, changes),
        (NvmOpcode::VERIFY, plain),
    ];
    for (opcode, effects) in io {
        if let Some(place) = log.iocs.get_mut(usize::from(opcode.0)) {
            place.set(effects.into());
        }
    }
    log
}
