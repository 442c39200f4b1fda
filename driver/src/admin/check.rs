//! What a client's admin command may be: not one that would take from the driver what it relies on, and not one that
//! lets the device move more data than there is memory for.

use nvme_spec::command::SEL_SUPPORTED_CAPABILITIES;
use nvme_spec::identify::Flbas;
use nvme_spec::mi::{MiOpcode, MiRequest};
use nvme_spec::{
    AdminOpcode, Direction, FeatureId, FormatCdw10, GetFeaturesCdw10, GetLogCdw10, GetLogCdw11,
    SetFeaturesCdw10, SubmissionEntry,
};

use super::AdminData;
use crate::error::IoError;
use crate::namespace::Namespace;

/// Commands whose data has no length that the driver knows get whole pages at least: a controller that moves
/// more than it was asked for within a page (Get Features, for one, has structures up to 4096 bytes) then
/// harms nobody.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Whether `entry` with `data` may be sent.
///
/// # Errors
/// [`IoError::NotAllowed`] if it may not.
pub(crate) fn check(
    entry: &SubmissionEntry,
    data: &AdminData,
    namespaces: &[Namespace],
) -> Result<(), IoError> {
    let direction = AdminOpcode(entry.opcode).transfers();
    let fits = match data {
        AdminData::None => direction != Direction::Bidirectional,
        AdminData::ToDevice(_) => direction == Direction::ToDevice,
        AdminData::FromDevice(_) => direction == Direction::FromDevice,
    };
    let allowed = fits
        && !is_the_drivers(entry)
        && !reshapes(entry, namespaces)
        && data.len().next_multiple_of(PAGE_BYTES) >= required_bytes(entry)
        && (data.len() > 0 || required_bytes(entry) == 0);
    allowed.then_some(()).ok_or(IoError::NotAllowed)
}

/// Whether a command would take from the driver what it relies on: its queues, its events, its commands,
/// memory of the host that the controller keeps, the controller itself.
pub(crate) fn is_the_drivers(entry: &SubmissionEntry) -> bool {
    match AdminOpcode(entry.opcode) {
        AdminOpcode::CREATE_IO_SQ
        | AdminOpcode::CREATE_IO_CQ
        | AdminOpcode::DELETE_IO_SQ
        | AdminOpcode::DELETE_IO_CQ
        | AdminOpcode::ABORT
        | AdminOpcode::ASYNC_EVENT_REQUEST
        | AdminOpcode::DOORBELL_BUFFER_CONFIG
        | AdminOpcode::FABRICS => true,
        AdminOpcode::SET_FEATURES => matches!(
            FeatureId(SetFeaturesCdw10::from(entry.cdw10).fid()),
            FeatureId::NUMBER_OF_QUEUES
                | FeatureId::HOST_MEMORY_BUFFER
                | FeatureId::ASYNC_EVENT_CONFIGURATION
        ),
        // They would reset or shut down the NVM subsystem under the driver's hands (NVMe-MI 1.2, sections 5.8 and 5.10).
        // In Receive they are none of the messages that there are, which a controller may see otherwise.
        AdminOpcode::NVME_MI_SEND | AdminOpcode::NVME_MI_RECEIVE => matches!(
            MiRequest::of_entry(entry).opcode(),
            MiOpcode::RESET | MiOpcode::SHUTDOWN
        ),
        _ => false,
    }
}

/// Whether a command may change the block size of a namespace in use or put another in its place. The driver
/// learns of that by an event, afterwards: until then a transfer, counted in the old blocks, would move more than
/// its buffer holds.
pub(crate) fn reshapes(entry: &SubmissionEntry, namespaces: &[Namespace]) -> bool {
    match AdminOpcode(entry.opcode) {
        AdminOpcode::NAMESPACE_MANAGEMENT
        | AdminOpcode::NAMESPACE_ATTACHMENT
        | AdminOpcode::CAPACITY_MANAGEMENT => true,
        // All namespaces are asked, because a controller may format all of them when told to format one (FNA
        // bit 0).
        AdminOpcode::FORMAT_NVM => {
            let format = FormatCdw10::from(entry.cdw10);
            namespaces
                .iter()
                .filter(|namespace| namespace.is_usable())
                .any(|namespace| {
                    let flbas = namespace.identify.get(FLBAS).copied().unwrap_or(0);
                    let same = Flbas::from(flbas).format_index() == format.format_index();
                    !same || format.pi() != 0
                })
        }
        _ => false,
    }
}

/// Whether a command may change the controller or what is stored: any that is not known to only ask.
pub(crate) fn changes_controller(entry: &SubmissionEntry) -> bool {
    !matches!(
        AdminOpcode(entry.opcode),
        AdminOpcode::GET_LOG_PAGE
            | AdminOpcode::IDENTIFY
            | AdminOpcode::GET_FEATURES
            | AdminOpcode::KEEP_ALIVE
            | AdminOpcode::DIRECTIVE_RECEIVE
            | AdminOpcode::NVME_MI_RECEIVE
            | AdminOpcode::SECURITY_RECEIVE
            | AdminOpcode::GET_LBA_STATUS
    )
}

/// Identify Namespace, Formatted LBA Size (NVM Command Set 1.0, section 4.1.5.1).
const FLBAS: usize = 26;

/// Bytes that the controller moves for this command, where the command says so: the buffer must not be
/// smaller, or the controller would go past its end.
pub(crate) fn required_bytes(entry: &SubmissionEntry) -> usize {
    let dwords_z = |numd_z: u32| (u64::from(numd_z) + 1) * 4;
    let bytes = match AdminOpcode(entry.opcode) {
        AdminOpcode::IDENTIFY => PAGE_BYTES as u64,
        AdminOpcode::GET_LOG_PAGE => {
            GetLogCdw10::from(entry.cdw10).length_bytes(GetLogCdw11::from(entry.cdw11))
        }
        AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD | AdminOpcode::DIRECTIVE_RECEIVE => dwords_z(entry.cdw10),
        // Sent data may be none at all, with no length said.
        AdminOpcode::DIRECTIVE_SEND if entry.cdw10 != 0 => dwords_z(entry.cdw10),
        AdminOpcode::SECURITY_SEND | AdminOpcode::SECURITY_RECEIVE => u64::from(entry.cdw11),
        AdminOpcode::GET_LBA_STATUS => dwords_z(entry.cdw12),
        AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES => {
            let cdw10 = GetFeaturesCdw10::from(entry.cdw10);
            let asks_what_is_supported = AdminOpcode(entry.opcode) == AdminOpcode::GET_FEATURES
                && cdw10.sel() == SEL_SUPPORTED_CAPABILITIES;
            u64::from(has_data(FeatureId(cdw10.fid())) && !asks_what_is_supported)
        }
        AdminOpcode::NVME_MI_SEND | AdminOpcode::NVME_MI_RECEIVE => {
            MiRequest::of_entry(entry).data_bytes() as u64
        }
        _ => 0,
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Whether the value of a feature is in the data buffer (Base 2.0, section 5.27.1). No such value is longer than a page, and
/// pages are what there is: any length will do, but not none, with which the controller would go to address 0.
fn has_data(fid: FeatureId) -> bool {
    matches!(
        fid,
        FeatureId::LBA_RANGE
            | FeatureId::APST
            | FeatureId::HOST_MEMORY_BUFFER
            | FeatureId::TIMESTAMP
            | FeatureId::PREDICTABLE_LATENCY_MODE
            | FeatureId::HOST_BEHAVIOR_SUPPORT
            | FeatureId::ENHANCED_CONTROLLER_METADATA
            | FeatureId::CONTROLLER_METADATA
            | FeatureId::NAMESPACE_METADATA
            | FeatureId::HOST_IDENTIFIER
    )
}

#[cfg(test)]
mod tests {
    use nvme_spec::command::{self, NSID_ALL, SEL_CURRENT};
    use nvme_spec::identify::Cns;
    use nvme_spec::log::LogId;

    use super::*;

    #[test]
    fn the_device_is_never_told_to_move_more_than_there_is() {
        let log = command::get_log_page(LogId::ERROR_INFORMATION, u32::MAX, 8192 + 64, 0, false);
        let identify = command::identify(Cns::CONTROLLER, 0, 0);
        let refused = [
            (log, AdminData::FromDevice(8192)),
            (log, AdminData::ToDevice(vec![0; 16384])),
            (log, AdminData::None),
            (identify, AdminData::None),
            (identify, AdminData::FromDevice(0)),
            (identify, AdminData::ToDevice(vec![0; 4096])),
            (command::create_io_cq(1, 1, 0x1000, None), AdminData::None),
            (command::doorbell_buffer_config(0x1000, 0x2000), AdminData::None),
            (command::async_event_request(), AdminData::None),
            (
                command::set_features(FeatureId::HOST_MEMORY_BUFFER, 0, 1, false),
                AdminData::None,
            ),
            (
                SubmissionEntry {
                    opcode: 0xC3,
                    ..Default::default()
                },
                AdminData::None,
            ),
        ];
        for (entry, data) in refused {
            assert_eq!(
                check(&entry, &data, &[]),
                Err(IoError::NotAllowed),
                "{entry:?} {data:?}"
            );
        }
        assert_eq!(check(&log, &AdminData::FromDevice(8192 + 64), &[]), Ok(()));
        assert_eq!(check(&identify, &AdminData::FromDevice(4096), &[]), Ok(()));
    }

    #[test]
    fn a_feature_that_has_data_has_a_buffer() {
        let get = command::get_features;
        let set = |fid| command::set_features(fid, 0, 0, false);
        let timestamp = FeatureId::TIMESTAMP;
        for (entry, data, allowed) in [
            (get(timestamp, 0, SEL_CURRENT), AdminData::None, false),
            (get(timestamp, 0, SEL_CURRENT), AdminData::FromDevice(8), true),
            (
                get(timestamp, 0, SEL_SUPPORTED_CAPABILITIES),
                AdminData::None,
                true,
            ),
            (get(FeatureId::ARBITRATION, 0, SEL_CURRENT), AdminData::None, true),
            (set(timestamp), AdminData::None, false),
            (set(timestamp), AdminData::ToDevice(vec![0; 8]), true),
            (set(FeatureId::ARBITRATION), AdminData::None, true),
        ] {
            let wanted = allowed.then_some(()).ok_or(IoError::NotAllowed);
            assert_eq!(check(&entry, &data, &[]), wanted, "{entry:?} {data:?}");
        }
    }

    #[test]
    fn a_format_that_keeps_the_blocks_may_pass_and_no_other() {
        let mut namespace = Namespace::unknown(1, String::new());
        namespace.identify[FLBAS] = 0x21;
        namespace.state = crate::namespace::NamespaceState::Usable;
        // Index 17: 4 low bits, then 2 high ones.
        let same = FormatCdw10::new().with_format_index(17);
        for (format, nsid, refused) in [
            (same, 1, false),
            (same.with_ses(1), NSID_ALL, false),
            (same.with_format_index(1), 1, true),
            (same.with_format_index(16), NSID_ALL, true),
            (same.with_format_index(16), 2, true),
            (same.with_pi(1), 1, true),
        ] {
            let entry = command::format_nvm(nsid, format);
            assert_eq!(
                reshapes(&entry, std::slice::from_ref(&namespace)),
                refused,
                "{format:?}"
            );
        }
        let attach = SubmissionEntry {
            opcode: AdminOpcode::NAMESPACE_ATTACHMENT.0,
            ..Default::default()
        };
        assert!(reshapes(&attach, &[]));
        assert!(
            !reshapes(&command::format_nvm(1, same.with_format_index(3)), &[]),
            "nothing is in use"
        );
    }
}
