//! NVMe-MI Send and NVMe-MI Receive: the management interface in band (NVMe-MI 1.2, section 4.3).
//!
//! Answered are the two health polls, VPD Read and Configuration Get. What a message has wrong is told in the response that
//! it asked for, and the command that carried it succeeds.

mod vpd;

use nvme_spec::mi::{
    CompositeTemperature, ConfigurationId, ControllerHealth, ControllerHealthPoll, HealthChanges,
    MESSAGE_TYPE_NVME_MI, MiControllerStatus, MiDw0, MiMessageType, MiOpcode, MiRequest, MiStatus,
    SubsystemHealth, SubsystemStatus,
};
use nvme_spec::{AdminOpcode, SubmissionEntry};
use zerocopy::IntoBytes;

use super::identify::CONTROLLER_ID;
use super::{Admin, Reply};
use crate::config::ManagementInterface;
use crate::engine::{Context, Finished};

/// The ports of the out-of-band interface, as Configuration Get numbers them: PCIe, and SMBus.
const PORT_PCIE: u8 = 0;
const PORT_SMBUS: u8 = 1;
/// What the SMBus port is set to: 2h is 400 kHz.
const SMBUS_400_KHZ: u32 = 2;
/// What both ports transfer at a time, in bytes: the least that MCTP allows.
const MCTP_UNIT_BYTES: u32 = 64;

/// Where parameters are in a request message, for Invalid Parameter.
const NMD0_BYTE: u16 = 8;
const NMD1_BYTE: u16 = 12;

/// What has changed since the host or its manager last cleared it: both are told, and each has its own.
#[derive(Debug, Default)]
pub(crate) struct Management {
    /// Composite Controller Status, of the subsystem.
    composite: HealthChanges,
    /// Controller Health Status Changed, of the only controller.
    controller: HealthChanges,
    last_kelvin: Option<u16>,
}

impl Management {
    /// CC.EN was set and CSTS.RDY has followed.
    pub fn enabled(&mut self) {
        self.changed(
            HealthChanges::new()
                .with_enable(true)
                .with_ready(true)
                .with_controller_status(true),
        );
    }

    pub fn namespace_changed(&mut self) {
        self.changed(
            HealthChanges::new()
                .with_namespace_attribute(true)
                .with_controller_status(true),
        );
    }

    /// The temperature as it is now, and whether a warning came or went with it.
    pub fn temperature_is(&mut self, kelvin: u16, warning_changed: bool) {
        let before = self.last_kelvin.replace(kelvin);
        self.changed(
            HealthChanges::new()
                .with_temperature(before.is_some_and(|before| before != kelvin))
                .with_critical_warning(warning_changed),
        );
    }

    fn changed(&mut self, changes: HealthChanges) {
        for kept in [&mut self.composite, &mut self.controller] {
            *kept = (u16::from(*kept) | u16::from(changes)).into();
        }
    }
}

/// A response that is no error.
#[derive(Default)]
struct Response {
    nmresp: u32,
    data: Vec<u8>,
}

type Outcome = Result<Response, MiDw0>;

/// Invalid Parameter, for what begins at `bit` of `byte` of the request.
fn invalid(byte: u16, bit: u8) -> Outcome {
    Err(MiDw0::invalid_parameter(byte, bit))
}

fn invalid_opcode() -> MiDw0 {
    MiDw0::new().with_status(MiStatus::INVALID_COMMAND_OPCODE.0)
}

impl Admin {
    pub(super) fn manage(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let is_sent = AdminOpcode(entry.opcode) == AdminOpcode::NVME_MI_SEND;
        let (dw0, data) = match self.answer(cx, &MiRequest::of_entry(entry), is_sent) {
            Ok(Response { nmresp, data }) => (MiDw0::new().with_nmresp(nmresp), data),
            Err(dw0) => (dw0, Vec::new()),
        };
        let finished = self.reply_with(cx, entry, &data)?;
        Ok(Finished {
            dw0: dw0.into(),
            ..finished
        })
    }

    fn answer(&mut self, cx: Context<'_>, request: &MiRequest, is_sent: bool) -> Outcome {
        let header = request.message_header();
        if header.mt() != MESSAGE_TYPE_NVME_MI || header.ic() {
            return invalid(0, if header.ic() { 7 } else { 0 });
        }
        // In band there are neither command slots nor other types of message, and what comes is a request.
        if header.csi() {
            return invalid(1, 0);
        }
        if header.message_type() != MiMessageType::COMMAND {
            return invalid(1, 3);
        }
        if header.ror() {
            return invalid(1, 7);
        }
        if header.meb() || header.ciap() {
            return invalid(2, if header.meb() { 0 } else { 1 });
        }
        match request.opcode() {
            opcode if opcode.is_sent() != is_sent => Err(invalid_opcode()),
            MiOpcode::SUBSYSTEM_HEALTH_STATUS_POLL => Ok(self.subsystem_health(cx, request)),
            MiOpcode::CONTROLLER_HEALTH_STATUS_POLL => Ok(self.controller_health(cx, request)),
            MiOpcode::CONFIGURATION_GET => configuration(cx.device.config.management, request),
            MiOpcode::VPD_READ => {
                let vpd = vpd::encode(&cx.device.config);
                let offset = usize::from(request.nmd0.get() as u16);
                let Some(rest) = vpd.get(offset..) else {
                    return invalid(NMD0_BYTE, 0);
                };
                match rest.get(..usize::from(request.nmd1.get() as u16)) {
                    Some(data) => Ok(Response {
                        nmresp: 0,
                        data: data.to_vec(),
                    }),
                    None => invalid(NMD1_BYTE, 0),
                }
            }
            _ => Err(invalid_opcode()),
        }
    }

    fn subsystem_health(&mut self, cx: Context<'_>, request: &MiRequest) -> Response {
        let health = SubsystemHealth {
            nss: SubsystemStatus::new()
                .with_drive_functional(true)
                .with_reset_not_required(true)
                .with_port0_link_active(true),
            warnings: self.critical_warning(cx),
            ctemp: CompositeTemperature::of_kelvin(cx.device.temperature_kelvin()),
            pdlu: cx.device.config.used_percent,
            ccs: self.management.composite,
        };
        if request.nmd1.get() >> 31 != 0 {
            self.management.composite = HealthChanges::new();
        }
        Response {
            nmresp: 0,
            data: health.to_data().as_bytes().to_vec(),
        }
    }

    fn controller_health(&mut self, cx: Context<'_>, request: &MiRequest) -> Response {
        let poll = ControllerHealthPoll::of_dwords(request.nmd0.get(), request.nmd1.get());
        // The only controller is a function that has nothing to do with SR-IOV.
        let is_meant = poll.first_controller <= CONTROLLER_ID && poll.functions;
        let changes = self.management.controller;
        if !is_meant || !poll.all && !poll.select.matches(changes) {
            return Response::default();
        }
        let csts = cx.device.registers.csts();
        let health = ControllerHealth {
            ctlid: CONTROLLER_ID,
            csts: MiControllerStatus::new()
                .with_rdy(csts.rdy())
                .with_cfs(csts.cfs())
                .with_shst(csts.shst())
                .with_nssro(csts.nssro())
                .with_ceco(changes.enable())
                .with_nac(changes.namespace_attribute()),
            ctemp: cx.device.temperature_kelvin(),
            pdlu: cx.device.config.used_percent,
            spare: cx.device.config.spare_percent,
            cwarn: self.critical_warning(cx),
            chsc: changes,
        };
        if poll.clear {
            self.management.controller = HealthChanges::new();
        }
        Response {
            // RENT: one entry.
            nmresp: 1 << 16,
            data: health.to_entry().as_bytes().to_vec(),
        }
    }
}

/// Configuration Get (NVMe-MI 1.2, section 5.2).
fn configuration(management: ManagementInterface, request: &MiRequest) -> Outcome {
    let [id, _, _, port] = request.nmd0.get().to_le_bytes();
    let id = ConfigurationId(id);
    let of_a_port = matches!(
        id,
        ConfigurationId::SMBUS_FREQUENCY | ConfigurationId::MCTP_TRANSMISSION_UNIT_SIZE
    );
    if of_a_port && management != ManagementInterface::Full {
        return invalid(NMD0_BYTE, 0);
    }
    let nmresp = match (id, port) {
        (ConfigurationId::HEALTH_STATUS_CHANGE, _) => 0,
        (ConfigurationId::SMBUS_FREQUENCY, PORT_SMBUS) => SMBUS_400_KHZ,
        (ConfigurationId::MCTP_TRANSMISSION_UNIT_SIZE, PORT_PCIE | PORT_SMBUS) => MCTP_UNIT_BYTES,
        _ if of_a_port => return invalid(NMD0_BYTE + 3, 0),
        _ => return invalid(NMD0_BYTE, 0),
    };
    Ok(Response {
        nmresp,
        data: Vec::new(),
    })
}
