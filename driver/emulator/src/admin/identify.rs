//! Identify (Base 2.0, section 5.17; NVM Command Set 1.0, section 4.1.5).

use nvme_spec::command::NSID_ALL;
use nvme_spec::identify::{
    AsciiField, CSI_NVM, Cns, ControllerList, Fna, Frmw, IDENTIFY_BYTES, IdentifyController,
    IdentifyControllerNvm, IoCommandSetList, Lpa, NamespaceList, Oacs, Oaes, Oncs, PowerStateDescriptor,
    Sgls, Vwc,
};
use nvme_spec::register::{IOCQES, IOSQES};
use nvme_spec::{IdentifyCdw10, IdentifyCdw11, Status, SubmissionEntry};
use zerocopy::{FromZeros, IntoBytes};

use super::events::EVENT_REQUESTS;
use super::self_test::EXTENDED_MINUTES;
use super::{
    Admin, CDW10_BYTE, CDW11_BYTE, CRITICAL_TEMPERATURE_KELVIN, Failure, NSID_BYTE, Reply,
    WARNING_TEMPERATURE_KELVIN, fail_at,
};
use crate::config::{Config, ManagementInterface};
use crate::engine::Context;
use crate::error_log::ERROR_LOG_ENTRIES;

/// CNTLID: the only controller of its subsystem.
pub(super) const CONTROLLER_ID: u16 = 1;
/// PCI vendor identifiers: those of no vendor (the PCI-SIG does not give out FFFEh; FFFFh reads as absent).
const VENDOR_ID: u16 = 0xFFFE;
/// IEEE OUI, low byte first: the locally administered one that the namespaces' identifiers use too.
const IEEE_OUI: [u8; 3] = [0x56, 0x4E, 0x02];
/// VWC bits 2:1: Flush for all namespaces (NSID FFFFFFFFh) is supported.
const FLUSH_ALL: u8 = 0b11;
/// CNTRLTYPE: a controller that does I/O.
const TYPE_IO: u8 = 1;
/// NVMSR: part of an NVMe Storage Device.
const STORAGE_DEVICE: u8 = 1;
/// Abort commands at a time, 0's based. They never pile up: each is done when it is fetched.
const ABORT_LIMIT_Z: u8 = 3;
/// SGLS bits 1:0: SGLs without alignment or granularity requirements.
const SGL_SUPPORTED: u8 = 0b01;

impl Admin {
    pub(super) fn identify(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cns = Cns(IdentifyCdw10::from(entry.cdw10).cns());
        let csi = IdentifyCdw11::from(entry.cdw11).csi();
        let namespaces = &cx.device.namespaces;
        let nsid = entry.nsid;
        let is_io_specific = matches!(
            cns,
            Cns::IO_NAMESPACE
                | Cns::IO_CONTROLLER
                | Cns::IO_ACTIVE_NAMESPACES
                | Cns::IO_ALLOCATED_NAMESPACES
                | Cns::IO_ALLOCATED_NAMESPACE
        );
        if is_io_specific && csi != CSI_NVM {
            return Err(fail_at(CDW11_BYTE + 3));
        }
        let zeroes = [0; IDENTIFY_BYTES];
        match cns {
            // An inactive namespace is all zeroes, and no error.
            Cns::NAMESPACE => {
                self.known_nsid(cx, nsid)?;
                match namespaces.get(nsid).map(|namespace| namespace.identify()) {
                    Some(identify) => self.reply_with(cx, entry, identify.as_bytes()),
                    None => self.reply_with(cx, entry, &zeroes),
                }
            }
            Cns::ALLOCATED_NAMESPACE => {
                self.known_nsid(cx, nsid)?;
                match namespaces
                    .get_allocated(nsid)
                    .map(|namespace| namespace.identify())
                {
                    Some(identify) => self.reply_with(cx, entry, identify.as_bytes()),
                    None => self.reply_with(cx, entry, &zeroes),
                }
            }
            Cns::CONTROLLER => {
                let identify = identify_controller(&cx.device.config, namespaces.count());
                self.reply_with(cx, entry, identify.as_bytes())
            }
            Cns::ACTIVE_NAMESPACES | Cns::IO_ACTIVE_NAMESPACES => {
                let list = NamespaceList::new(above(nsid, namespaces.active())?);
                self.reply_with(cx, entry, list.as_bytes())
            }
            Cns::ALLOCATED_NAMESPACES | Cns::IO_ALLOCATED_NAMESPACES => {
                let list = NamespaceList::new(above(nsid, 1..=namespaces.count())?);
                self.reply_with(cx, entry, list.as_bytes())
            }
            Cns::NAMESPACE_DESCRIPTORS => {
                self.active_namespace(cx, nsid)?;
                let list = namespaces
                    .get(nsid)
                    .map_or(zeroes, |namespace| namespace.identify_descriptors());
                self.reply_with(cx, entry, &list)
            }
            Cns::IO_NAMESPACE | Cns::IO_ALLOCATED_NAMESPACE => {
                self.known_nsid(cx, nsid)?;
                match namespaces.get(nsid).map(|namespace| namespace.identify_nvm()) {
                    Some(identify) => self.reply_with(cx, entry, identify.as_bytes()),
                    None => self.reply_with(cx, entry, &zeroes),
                }
            }
            Cns::INDEPENDENT_NAMESPACE => {
                self.known_nsid(cx, nsid)?;
                match namespaces
                    .get(nsid)
                    .map(|namespace| namespace.identify_independent())
                {
                    Some(identify) => self.reply_with(cx, entry, identify.as_bytes()),
                    None => self.reply_with(cx, entry, &zeroes),
                }
            }
            Cns::IO_CONTROLLER => {
                // No limits beyond MDTS and the fields of the commands themselves.
                let identify = IdentifyControllerNvm::default();
                self.reply_with(cx, entry, identify.as_bytes())
            }
            Cns::NAMESPACE_CONTROLLERS | Cns::SUBSYSTEM_CONTROLLERS => {
                if cns == Cns::NAMESPACE_CONTROLLERS {
                    self.known_nsid(cx, nsid)?;
                }
                let from = IdentifyCdw10::from(entry.cdw10).cntid();
                let is_attached = cns == Cns::SUBSYSTEM_CONTROLLERS || namespaces.get(nsid).is_some();
                let list =
                    ControllerList::new((from <= CONTROLLER_ID && is_attached).then_some(CONTROLLER_ID));
                self.reply_with(cx, entry, list.as_bytes())
            }
            Cns::IO_COMMAND_SET => {
                let mut list = IoCommandSetList::new_zeroed();
                if let Some(first) = list.combinations.first_mut() {
                    first.set(1 << CSI_NVM);
                }
                self.reply_with(cx, entry, list.as_bytes())
            }
            _ => Err(fail_at(CDW10_BYTE)),
        }
    }

    /// Checks that a namespace identifier is in the range of those there can be.
    fn known_nsid(&self, cx: Context<'_>, nsid: u32) -> Result<(), Failure> {
        if nsid == 0 || nsid > cx.device.namespaces.count() {
            return Err(Failure {
                status: Status::INVALID_NAMESPACE_OR_FORMAT,
                location: Some(NSID_BYTE),
            });
        }
        Ok(())
    }
}

/// The identifiers of a namespace list that begins above `nsid`.
fn above(nsid: u32, nsids: impl Iterator<Item = u32>) -> Result<impl Iterator<Item = u32>, Failure> {
    if nsid >= NSID_ALL - 1 {
        return Err(Failure {
            status: Status::INVALID_NAMESPACE_OR_FORMAT,
            location: Some(NSID_BYTE),
        });
    }
    Ok(nsids.filter(move |listed| *listed > nsid))
}

fn identify_controller(config: &Config, namespaces: u32) -> IdentifyController {
    let capacity_bytes: u128 = config
        .namespaces
        .iter()
        .map(|namespace| u128::from(namespace.size_bytes))
        .sum();
    let has_management = config.management != ManagementInterface::Off;
    let mut identify = IdentifyController {
        vid: VENDOR_ID.into(),
        ssvid: VENDOR_ID.into(),
        sn: AsciiField::encode(&config.serial),
        mn: AsciiField::encode(&config.model),
        fr: AsciiField::encode(&config.firmware),
        // No limit on the arbitration burst is recommended.
        rab: 0b111,
        ieee: IEEE_OUI,
        mdts: config.mdts(),
        cntlid: CONTROLLER_ID.into(),
        ver: u32::from(crate::device::VERSION).into(),
        // RTD3E: how long a shutdown may take, in microseconds.
        rtd3e: ((config.shutdown_delay_ns / 1000).min(u32::MAX.into()) as u32).into(),
        oaes: u32::from(Oaes::new().with_namespace_attribute(true)).into(),
        cntrltype: TYPE_IO,
        nvmsr: if has_management { STORAGE_DEVICE } else { 0 },
        oacs: u16::from(
            Oacs::new()
                .with_format_nvm(true)
                .with_self_test(true)
                .with_nvme_mi(has_management)
                .with_doorbell_buffer_config(config.dbbuf),
        )
        .into(),
        acl: ABORT_LIMIT_Z,
        aerl: EVENT_REQUESTS as u8 - 1,
        frmw: Frmw::new().with_slot1_read_only(true).with_slots(1).into(),
        lpa: Lpa::new()
            .with_commands_supported(true)
            .with_extended_data(true)
            .with_supported_pages(true)
            .into(),
        elpe: ERROR_LOG_ENTRIES as u8 - 1,
        wctemp: WARNING_TEMPERATURE_KELVIN.into(),
        cctemp: CRITICAL_TEMPERATURE_KELVIN.into(),
        tnvmcap: capacity_bytes.into(),
        edstt: EXTENDED_MINUTES.into(),
        sqes: IOSQES << 4 | IOSQES,
        cqes: IOCQES << 4 | IOCQES,
        nn: namespaces.into(),
        oncs: u16::from(
            Oncs::new()
                .with_compare(true)
                .with_dataset_management(true)
                .with_write_zeroes(true)
                .with_save_select(true)
                .with_timestamp(true)
                .with_verify(true),
        )
        .into(),
        // A format or an erase is of one namespace.
        fna: Fna::new().into(),
        vwc: Vwc::new()
            .with_present(config.vwc)
            .with_flush_all(FLUSH_ALL)
            .into(),
        sgls: u32::from(match config.sgl {
            true => Sgls::new().with_supported(SGL_SUPPORTED).with_bit_bucket(true),
            false => Sgls::new(),
        })
        .into(),
        ..Default::default()
    };
    let nqn = format!("nqn.2014-08.invalid.emulated:nvme:{}", config.serial);
    for (to, from) in identify.subnqn.iter_mut().zip(nqn.bytes()) {
        *to = from;
    }
    if let Some(first) = identify.psd.first_mut() {
        // Units of 10 mW: 10 W.
        *first = PowerStateDescriptor {
            mp: 1000.into(),
            ..Default::default()
        };
    }
    identify
}
