//! The two health polls: of the NVM subsystem, and of its controllers.

use bitfield_struct::bitfield;
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{MalformedMessage, MiResponse};
use crate::layout::layout;
use crate::log::CriticalWarning;

/// NVM Subsystem Health Data Structure, 8 bytes as they travel (NVMe-MI 1.2, section 5.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SubsystemHealthData {
    /// NVM Subsystem Status ([`SubsystemStatus`]).
    pub nss: u8,
    /// SMART Warnings: [`CriticalWarning`], every bit inverted.
    pub sw: u8,
    /// Composite Temperature ([`CompositeTemperature`]).
    pub ctemp: u8,
    /// Percentage Drive Life Used: may pass 100, 255 stands for more.
    pub pdlu: u8,
    /// Composite Controller Status ([`HealthChanges`]).
    pub ccs: U16,
    #[doc(hidden)]
    pub reserved6: [u8; 2],
}

layout!(SubsystemHealthData, 8, { nss: 0, sw: 1, ctemp: 2, pdlu: 3, ccs: 4, reserved6: 6 });

/// NVM Subsystem Status (NVMe-MI 1.2, section 5.6, NSS).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct SubsystemStatus {
    #[bits(2)]
    __: u8,
    /// Port 1 PCIe Link Active.
    pub port1_link_active: bool,
    /// Port 0 PCIe Link Active.
    pub port0_link_active: bool,
    /// Reset Not Required: no reset is needed to go on.
    pub reset_not_required: bool,
    /// Drive Functional: clear after an unrecoverable failure.
    pub drive_functional: bool,
    #[bits(2)]
    __: u8,
}

/// What has changed since it was last cleared: the Composite Controller Status of the subsystem, and the Controller Health
/// Status Changed flags of one controller, which have the same bits (NVMe-MI 1.2, sections 5.3 and 5.6).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct HealthChanges {
    /// Ready: CSTS.RDY has become 1 or 0.
    pub ready: bool,
    /// Controller Fatal Status: CSTS.CFS has become 1.
    pub fatal: bool,
    /// Shutdown Status: CSTS.SHST has changed.
    pub shutdown_status: bool,
    __: bool,
    /// NVM Subsystem Reset Occurred.
    pub subsystem_reset: bool,
    /// Controller Enable Change Occurred: CC.EN has become 1.
    pub enable: bool,
    /// Namespace Attribute Changed.
    pub namespace_attribute: bool,
    /// Firmware Activated.
    pub firmware_activated: bool,
    /// Controller Status Change: any of those above.
    pub controller_status: bool,
    /// Composite Temperature Change.
    pub temperature: bool,
    /// Percentage Used.
    pub used: bool,
    /// Available Spare.
    pub spare: bool,
    /// Critical Warning.
    pub critical_warning: bool,
    /// Telemetry Controller-Initiated Data Available.
    pub telemetry: bool,
    #[bits(2)]
    __: u8,
}

/// A Composite Temperature in one byte (NVMe-MI 1.2, section 5.6, CTEMP).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompositeTemperature(pub u8);

impl CompositeTemperature {
    /// There is none, or it is older than five seconds.
    pub const NO_DATA: Self = Self(0x80);
    /// The sensor has failed.
    pub const SENSOR_FAILURE: Self = Self(0x81);

    /// A temperature in kelvin, 0 = not reported; what is beyond -60 and 127 degrees Celsius is that.
    pub const fn of_kelvin(kelvin: u16) -> Self {
        if kelvin == 0 {
            return Self::NO_DATA;
        }
        match kelvin as i32 - 273 {
            ..-59 => Self(0xC4),
            celsius @ -59..127 => Self(celsius as i8 as u8),
            127.. => Self(0x7F),
        }
    }

    /// In degrees Celsius; None where there is none, the sensor has failed or the value is reserved. 127 is that or more,
    /// -60 that or less.
    pub const fn celsius(self) -> Option<i32> {
        match self.0 {
            0x80..=0xC3 => None,
            value => Some(value as i8 as i32),
        }
    }

    /// Whether the value is reserved.
    pub const fn is_reserved(self) -> bool {
        matches!(self.0, 0x82..=0xC3)
    }
}

/// What the subsystem says of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubsystemHealth {
    /// NVM Subsystem Status.
    pub nss: SubsystemStatus,
    /// SMART Warnings, set where there is one.
    pub warnings: CriticalWarning,
    /// Composite Temperature.
    pub ctemp: CompositeTemperature,
    /// Percentage Drive Life Used: may pass 100, 255 stands for more.
    pub pdlu: u8,
    /// Composite Controller Status.
    pub ccs: HealthChanges,
}

impl SubsystemHealth {
    /// Bytes of response data.
    pub const BYTES: usize = size_of::<SubsystemHealthData>();

    /// Decodes the answer to NVM Subsystem Health Status Poll.
    ///
    /// # Errors
    /// That it was refused, is of another length, or has a temperature that is reserved.
    pub fn parse(response: &MiResponse<'_>) -> Result<Self, MalformedMessage> {
        let data = response.succeeded()?.data;
        let read = SubsystemHealthData::read_from_bytes(data)
            .map_err(|_| length_error("the NVM Subsystem Health Data Structure", Self::BYTES, data.len()))?;
        let ctemp = CompositeTemperature(read.ctemp);
        if ctemp.is_reserved() {
            return Err(MalformedMessage::Reserved {
                field: "CTEMP",
                value: read.ctemp.into(),
            });
        }
        Ok(Self {
            nss: read.nss.into(),
            warnings: (!read.sw).into(),
            ctemp,
            pdlu: read.pdlu,
            ccs: read.ccs.get().into(),
        })
    }

    /// The bytes that say the same.
    pub fn to_data(self) -> SubsystemHealthData {
        SubsystemHealthData {
            nss: self.nss.into(),
            sw: !u8::from(self.warnings),
            ctemp: self.ctemp.0,
            pdlu: self.pdlu,
            ccs: u16::from(self.ccs).into(),
            reserved6: [0; 2],
        }
    }
}

fn length_error(what: &'static str, wanted_bytes: usize, bytes: usize) -> MalformedMessage {
    if bytes < wanted_bytes {
        MalformedMessage::Short {
            what,
            wanted_bytes,
            bytes,
        }
    } else {
        MalformedMessage::Long {
            what,
            wanted_bytes,
            bytes,
        }
    }
}

/// What Controller Health Status Poll asks for (NVMe-MI 1.2, section 5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControllerHealthPoll {
    /// Starting Controller ID: controllers below it are left out.
    pub first_controller: u16,
    /// Maximum Response Entries, 0's based.
    pub max_entries_z: u8,
    /// Include PCI Functions that have nothing to do with SR-IOV.
    pub functions: bool,
    /// Include SR-IOV Physical Functions.
    pub physical_functions: bool,
    /// Include SR-IOV Virtual Functions.
    pub virtual_functions: bool,
    /// Report All: also controllers that have none of the changes in `select`.
    pub all: bool,
    /// Which changes make a controller one to report.
    pub select: ControllerHealthSelect,
    /// Clear Changed Flags of the controllers that are reported.
    pub clear: bool,
}

/// Which changes make a controller one to report (NVMe-MI 1.2, section 5.3, NVMe Management Dword 1).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ControllerHealthSelect {
    /// Controller Status Changes.
    pub controller_status: bool,
    /// Composite Temperature Changes.
    pub temperature: bool,
    /// Percentage Used.
    pub used: bool,
    /// Available Spare.
    pub spare: bool,
    /// Critical Warning.
    pub critical_warning: bool,
    #[bits(3)]
    __: u8,
}

impl ControllerHealthSelect {
    /// Whether one of these is among `changes`.
    pub const fn matches(self, changes: HealthChanges) -> bool {
        self.controller_status() && changes.controller_status()
            || self.temperature() && changes.temperature()
            || self.used() && changes.used()
            || self.spare() && changes.spare()
            || self.critical_warning() && changes.critical_warning()
    }
}

/// NVMe Management Dword 0 of Controller Health Status Poll.
#[bitfield(u32)]
struct PollDword0 {
    #[bits(16)]
    sctlid: u16,
    #[bits(8)]
    maxrent_z: u8,
    incf: bool,
    incpf: bool,
    incvf: bool,
    #[bits(4)]
    __: u8,
    all: bool,
}

/// NVMe Management Dword 1 of Controller Health Status Poll.
#[bitfield(u32)]
struct PollDword1 {
    #[bits(5)]
    select: u8,
    #[bits(26)]
    __: u32,
    ccf: bool,
}

impl ControllerHealthPoll {
    /// All controllers from `first_controller` on, as many as one answer may list (255), leaving their flags as they are.
    pub fn everything(first_controller: u16) -> Self {
        Self {
            first_controller,
            max_entries_z: 254,
            functions: true,
            physical_functions: true,
            virtual_functions: true,
            all: true,
            ..Self::default()
        }
    }

    /// What the two management dwords ask for.
    pub fn of_dwords(nmd0: u32, nmd1: u32) -> Self {
        let (nmd0, nmd1) = (PollDword0::from(nmd0), PollDword1::from(nmd1));
        Self {
            first_controller: nmd0.sctlid(),
            max_entries_z: nmd0.maxrent_z(),
            functions: nmd0.incf(),
            physical_functions: nmd0.incpf(),
            virtual_functions: nmd0.incvf(),
            all: nmd0.all(),
            select: nmd1.select().into(),
            clear: nmd1.ccf(),
        }
    }

    /// The two management dwords.
    pub fn dwords(self) -> (u32, u32) {
        let nmd0 = PollDword0::new()
            .with_sctlid(self.first_controller)
            .with_maxrent_z(self.max_entries_z)
            .with_incf(self.functions)
            .with_incpf(self.physical_functions)
            .with_incvf(self.virtual_functions)
            .with_all(self.all);
        let nmd1 = PollDword1::new()
            .with_select(u8::from(self.select) & 0x1F)
            .with_ccf(self.clear);
        (nmd0.into(), nmd1.into())
    }
}

/// Bytes of one [`ControllerHealthEntry`].
pub const CONTROLLER_HEALTH_BYTES: usize = size_of::<ControllerHealthEntry>();

/// Controller Health Data Structure, 16 bytes as they travel (NVMe-MI 1.2, section 5.3).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ControllerHealthEntry {
    /// Controller Identifier.
    pub ctlid: U16,
    /// Controller Status ([`MiControllerStatus`]).
    pub csts: U16,
    /// Composite Temperature in kelvin.
    pub ctemp: U16,
    /// Percentage Used: may pass 100, 255 stands for more.
    pub pdlu: u8,
    /// Available Spare in percent.
    pub spare: u8,
    /// Critical Warning ([`CriticalWarning`]).
    pub cwarn: u8,
    /// Controller Health Status Changed ([`HealthChanges`]); zero from controllers before NVMe-MI 1.2.
    pub chsc: U16,
    #[doc(hidden)]
    pub reserved11: [u8; 5],
}

layout!(ControllerHealthEntry, 16, {
    ctlid: 0, csts: 2, ctemp: 4, pdlu: 6, spare: 7, cwarn: 8, chsc: 9, reserved11: 11,
});

/// Controller Status (NVMe-MI 1.2, section 5.3, CSTS). The low bits are those of the register CSTS.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct MiControllerStatus {
    /// Ready.
    pub rdy: bool,
    /// Controller Fatal Status.
    pub cfs: bool,
    /// Shutdown Status: 0 = none, 1 = in progress, 2 = complete.
    #[bits(2)]
    pub shst: u8,
    /// NVM Subsystem Reset Occurred.
    pub nssro: bool,
    /// Controller Enable Change Occurred.
    pub ceco: bool,
    /// Namespace Attribute Changed.
    pub nac: bool,
    /// Firmware Activated.
    pub fa: bool,
    /// Telemetry Controller-Initiated Data Available.
    pub tcida: bool,
    #[bits(7)]
    __: u8,
}

/// What one controller says of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerHealth {
    /// Controller Identifier.
    pub ctlid: u16,
    /// Controller Status.
    pub csts: MiControllerStatus,
    /// Composite Temperature in kelvin, 0 = not reported.
    pub ctemp: u16,
    /// Percentage Used: may pass 100, 255 stands for more.
    pub pdlu: u8,
    /// Available Spare in percent.
    pub spare: u8,
    /// Critical Warning.
    pub cwarn: CriticalWarning,
    /// Controller Health Status Changed.
    pub chsc: HealthChanges,
}

impl ControllerHealth {
    fn of_entry(entry: &ControllerHealthEntry) -> Result<Self, MalformedMessage> {
        let csts = MiControllerStatus::from(entry.csts.get());
        if csts.shst() == 3 {
            return Err(MalformedMessage::Reserved {
                field: "CSTS.SHST",
                value: 3,
            });
        }
        if entry.spare > 100 {
            return Err(MalformedMessage::Reserved {
                field: "SPARE",
                value: entry.spare.into(),
            });
        }
        Ok(Self {
            ctlid: entry.ctlid.get(),
            csts,
            ctemp: entry.ctemp.get(),
            pdlu: entry.pdlu,
            spare: entry.spare,
            cwarn: entry.cwarn.into(),
            chsc: entry.chsc.get().into(),
        })
    }

    /// The bytes that say the same.
    pub fn to_entry(self) -> ControllerHealthEntry {
        ControllerHealthEntry {
            ctlid: self.ctlid.into(),
            csts: u16::from(self.csts).into(),
            ctemp: self.ctemp.into(),
            pdlu: self.pdlu,
            spare: self.spare,
            cwarn: self.cwarn.into(),
            chsc: u16::from(self.chsc).into(),
            reserved11: [0; 5],
        }
    }
}

/// The controllers in an answer to Controller Health Status Poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerHealthList<'a>(&'a [ControllerHealthEntry]);

impl<'a> ControllerHealthList<'a> {
    /// Decodes the answer.
    ///
    /// # Errors
    /// That it was refused, that it has another number of controllers than it says (RENT, management response bits 23:16),
    /// or that one of them has a value that is reserved.
    pub fn parse(response: &MiResponse<'a>) -> Result<Self, MalformedMessage> {
        let MiResponse { nmresp, data, .. } = response.succeeded()?;
        let wanted_bytes = usize::from((nmresp >> 16) as u8) * CONTROLLER_HEALTH_BYTES;
        let what = "the list of Controller Health Data Structures";
        let entries = <[ControllerHealthEntry]>::ref_from_bytes(data)
            .ok()
            .filter(|_| data.len() == wanted_bytes)
            .ok_or_else(|| length_error(what, wanted_bytes, data.len()))?;
        for entry in entries {
            ControllerHealth::of_entry(entry)?;
        }
        Ok(Self(entries))
    }

    /// The controllers, in the answer's order.
    pub fn iter(&self) -> impl Iterator<Item = ControllerHealth> + 'a {
        // All were decoded before.
        self.0
            .iter()
            .filter_map(|entry| ControllerHealth::of_entry(entry).ok())
    }
}
