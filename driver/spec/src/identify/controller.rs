//! Identify Controller (CNS 01h), its power states, and the NVM Command Set's addition (CNS 06h).

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::text::AsciiField;
use crate::layout::{layout, zeroed_default};

/// Identify Controller, CNS 01h, 4096 bytes (Base 2.0, section 5.17.2.1). Fields bear the specification's abbreviations;
/// the bit fields have types of the same names (`Oncs::from(id.oncs.get())`).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI Vendor ID.
    pub vid: U16,
    /// PCI Subsystem Vendor ID.
    pub ssvid: U16,
    /// Serial Number, ASCII; see [`serial`](Self::serial).
    pub sn: [u8; 20],
    /// Model Number, ASCII; see [`model`](Self::model).
    pub mn: [u8; 40],
    /// Firmware Revision, ASCII; see [`firmware`](Self::firmware).
    pub fr: [u8; 8],
    /// Recommended Arbitration Burst, 2^n commands.
    pub rab: u8,
    /// IEEE OUI Identifier, least significant byte first.
    pub ieee: [u8; 3],
    /// Controller Multi-Path I/O and Namespace Sharing Capabilities ([`Cmic`](super::Cmic)).
    pub cmic: u8,
    /// Maximum Data Transfer Size, 2^n pages of CAP.MPSMIN, 0 = no limit; see
    /// [`max_transfer_bytes`](Self::max_transfer_bytes).
    pub mdts: u8,
    /// Controller ID.
    pub cntlid: U16,
    /// Version ([`Vs`](crate::Vs)).
    pub ver: U32,
    /// RTD3 Resume Latency in microseconds.
    pub rtd3r: U32,
    /// RTD3 Entry Latency in microseconds.
    pub rtd3e: U32,
    /// Optional Asynchronous Events Supported ([`Oaes`](super::Oaes)).
    pub oaes: U32,
    /// Controller Attributes ([`Ctratt`](super::Ctratt)).
    pub ctratt: U32,
    /// Read Recovery Levels Supported, one bit per level.
    pub rrls: U16,
    #[doc(hidden)]
    pub reserved102: [u8; 9],
    /// Controller Type: 1 = I/O, 2 = discovery, 3 = administrative.
    pub cntrltype: u8,
    /// FRU Globally Unique Identifier.
    pub fguid: [u8; 16],
    /// Command Retry Delay Time 1, in units of 100 ms.
    pub crdt1: U16,
    /// Command Retry Delay Time 2, in units of 100 ms.
    pub crdt2: U16,
    /// Command Retry Delay Time 3, in units of 100 ms.
    pub crdt3: U16,
    #[doc(hidden)]
    pub reserved134: [u8; 119],
    /// NVM Subsystem Report: bit 0 storage device, bit 1 enclosure.
    pub nvmsr: u8,
    /// VPD Write Cycle Information.
    pub vwci: u8,
    /// Management Endpoint Capabilities.
    pub mec: u8,
    /// Optional Admin Command Support ([`Oacs`](super::Oacs)).
    pub oacs: U16,
    /// Abort Command Limit, 0's based.
    pub acl: u8,
    /// Asynchronous Event Request Limit, 0's based.
    pub aerl: u8,
    /// Firmware Updates ([`Frmw`](super::Frmw)).
    pub frmw: u8,
    /// Log Page Attributes ([`Lpa`](super::Lpa)).
    pub lpa: u8,
    /// Error Log Page Entries, 0's based.
    pub elpe: u8,
    /// Number of Power States Support, 0's based.
    pub npss: u8,
    /// Admin Vendor Specific Command Configuration.
    pub avscc: u8,
    /// Autonomous Power State Transition Attributes.
    pub apsta: u8,
    /// Warning Composite Temperature Threshold in Kelvin, 0 = not reported.
    pub wctemp: U16,
    /// Critical Composite Temperature Threshold in Kelvin, 0 = not reported.
    pub cctemp: U16,
    /// Maximum Time for Firmware Activation, in units of 100 ms.
    pub mtfa: U16,
    /// Host Memory Buffer Preferred Size, in units of 4 KiB.
    pub hmpre: U32,
    /// Host Memory Buffer Minimum Size, in units of 4 KiB.
    pub hmmin: U32,
    /// Total NVM Capacity in bytes.
    pub tnvmcap: U128,
    /// Unallocated NVM Capacity in bytes.
    pub unvmcap: U128,
    /// Replay Protected Memory Block Support.
    pub rpmbs: U32,
    /// Extended Device Self-test Time in minutes.
    pub edstt: U16,
    /// Device Self-test Options.
    pub dsto: u8,
    /// Firmware Update Granularity, in units of 4 KiB; 0 = not reported, FFh = none.
    pub fwug: u8,
    /// Keep Alive Support: granularity in units of 100 ms, 0 = not supported.
    pub kas: U16,
    /// Host Controlled Thermal Management Attributes.
    pub hctma: U16,
    /// Minimum Thermal Management Temperature in Kelvin.
    pub mntmt: U16,
    /// Maximum Thermal Management Temperature in Kelvin.
    pub mxtmt: U16,
    /// Sanitize Capabilities.
    pub sanicap: U32,
    /// Host Memory Buffer Minimum Descriptor Entry Size, in units of 4 KiB.
    pub hmminds: U32,
    /// Host Memory Maximum Descriptors Entries.
    pub hmmaxd: U16,
    /// NVM Set Identifier Maximum.
    pub nsetidmax: U16,
    /// Endurance Group Identifier Maximum.
    pub endgidmax: U16,
    /// ANA Transition Time in seconds.
    pub anatt: u8,
    /// Asymmetric Namespace Access Capabilities.
    pub anacap: u8,
    /// ANA Group Identifier Maximum.
    pub anagrpmax: U32,
    /// Number of ANA Group Identifiers.
    pub nanagrpid: U32,
    /// Persistent Event Log Size, in units of 64 KiB.
    pub pels: U32,
    /// Domain Identifier.
    pub domainid: U16,
    #[doc(hidden)]
    pub reserved358: [u8; 10],
    /// Max Endurance Group Capacity in bytes.
    pub megcap: U128,
    #[doc(hidden)]
    pub reserved384: [u8; 128],
    /// Submission Queue Entry Size: minimum in bits 3:0, maximum in bits 7:4, each as 2^n bytes.
    pub sqes: u8,
    /// Completion Queue Entry Size: minimum in bits 3:0, maximum in bits 7:4, each as 2^n bytes.
    pub cqes: u8,
    /// Maximum Outstanding Commands, 0 = not reported.
    pub maxcmd: U16,
    /// Number of Namespaces: the largest NSID.
    pub nn: U32,
    /// Optional NVM Command Support ([`Oncs`](super::Oncs)).
    pub oncs: U16,
    /// Fused Operation Support: bit 0 Compare and Write.
    pub fuses: U16,
    /// Format NVM Attributes ([`Fna`](super::Fna)).
    pub fna: u8,
    /// Volatile Write Cache ([`Vwc`](super::Vwc)).
    pub vwc: u8,
    /// Atomic Write Unit Normal in logical blocks, 0's based.
    pub awun: U16,
    /// Atomic Write Unit Power Fail in logical blocks, 0's based.
    pub awupf: U16,
    /// I/O Command Set Vendor Specific Command Configuration.
    pub icsvscc: u8,
    /// Namespace Write Protection Capabilities.
    pub nwpc: u8,
    /// Atomic Compare and Write Unit in logical blocks, 0's based.
    pub acwu: U16,
    /// Optional Copy Formats Supported, one bit per format.
    pub ocfs: U16,
    /// SGL Support ([`Sgls`](super::Sgls)).
    pub sgls: U32,
    /// Maximum Number of Allowed Namespaces, 0 = as many as NN.
    pub mnan: U32,
    /// Maximum Domain Namespace Attachments.
    pub maxdna: U128,
    /// Maximum I/O Controller Namespace Attachments.
    pub maxcna: U32,
    #[doc(hidden)]
    pub reserved564: [u8; 204],
    /// NVM Subsystem NVMe Qualified Name, NUL terminated; see [`subsystem_nqn`](Self::subsystem_nqn).
    pub subnqn: [u8; 256],
    #[doc(hidden)]
    pub reserved1024: [u8; 768],
    /// I/O Queue Command Capsule Supported Size, in units of 16 bytes (NVMe over Fabrics).
    pub ioccsz: U32,
    /// I/O Queue Response Capsule Supported Size, in units of 16 bytes (NVMe over Fabrics).
    pub iorcsz: U32,
    /// In Capsule Data Offset, in units of 16 bytes (NVMe over Fabrics).
    pub icdoff: U16,
    /// Fabrics Controller Attributes (NVMe over Fabrics).
    pub fcatt: u8,
    /// Maximum SGL Data Block Descriptors (NVMe over Fabrics).
    pub msdbd: u8,
    /// Optional Fabric Commands Support (NVMe over Fabrics).
    pub ofcs: U16,
    #[doc(hidden)]
    pub reserved1806: [u8; 242],
    /// Power State Descriptors, [`npss`](Self::npss) + 1 of which are valid.
    pub psd: [PowerStateDescriptor; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}

layout!(IdentifyController, 4096, {
    vid: 0, ssvid: 2, sn: 4, mn: 24, fr: 64, rab: 72, ieee: 73, cmic: 76, mdts: 77, cntlid: 78, ver: 80,
    rtd3r: 84, rtd3e: 88, oaes: 92, ctratt: 96, rrls: 100, cntrltype: 111, fguid: 112, crdt1: 128, crdt2: 130,
    crdt3: 132, nvmsr: 253, vwci: 254, mec: 255, oacs: 256, acl: 258, aerl: 259, frmw: 260, lpa: 261,
    elpe: 262, npss: 263, avscc: 264, apsta: 265, wctemp: 266, cctemp: 268, mtfa: 270, hmpre: 272, hmmin: 276,
    tnvmcap: 280, unvmcap: 296, rpmbs: 312, edstt: 316, dsto: 318, fwug: 319, kas: 320, hctma: 322, mntmt: 324,
    mxtmt: 326, sanicap: 328, hmminds: 332, hmmaxd: 336, nsetidmax: 338, endgidmax: 340, anatt: 342,
    anacap: 343, anagrpmax: 344, nanagrpid: 348, pels: 352, domainid: 356, megcap: 368, sqes: 512, cqes: 513,
    maxcmd: 514, nn: 516, oncs: 520, fuses: 522, fna: 524, vwc: 525, awun: 526, awupf: 528, icsvscc: 530,
    nwpc: 531, acwu: 532, ocfs: 534, sgls: 536, mnan: 540, maxdna: 544, maxcna: 560, subnqn: 768,
    ioccsz: 1792, iorcsz: 1796, icdoff: 1800, fcatt: 1802, msdbd: 1803, ofcs: 1804, psd: 2048, vs: 3072,
});

impl IdentifyController {
    /// [`sn`](Self::sn) as text.
    pub fn serial(&self) -> AsciiField<20> {
        AsciiField::new(&self.sn)
    }

    /// [`mn`](Self::mn) as text.
    pub fn model(&self) -> AsciiField<40> {
        AsciiField::new(&self.mn)
    }

    /// [`fr`](Self::fr) as text.
    pub fn firmware(&self) -> AsciiField<8> {
        AsciiField::new(&self.fr)
    }

    /// [`subnqn`](Self::subnqn) as text.
    pub fn subsystem_nqn(&self) -> AsciiField<256> {
        AsciiField::until_nul(&self.subnqn)
    }

    /// Largest data transfer of one command in bytes, given the smallest page in bytes
    /// ([`Cap::mpsmin_bytes`](crate::Cap::mpsmin_bytes)). None: no limit, or one that 64 bits cannot express.
    pub const fn max_transfer_bytes(&self, mpsmin_bytes: u64) -> Option<u64> {
        if self.mdts == 0 {
            return None;
        }
        match 1_u64.checked_shl(self.mdts as u32) {
            Some(pages) => mpsmin_bytes.checked_mul(pages),
            None => None,
        }
    }

    /// The valid power states, first is state 0. A number beyond the 32 that the table has is cut.
    pub fn power_states(&self) -> &[PowerStateDescriptor] {
        let count = self.psd.len().min(usize::from(self.npss) + 1);
        self.psd.get(..count).unwrap_or_default()
    }
}

/// Power State Descriptor, 32 bytes (Base 2.0, section 5.17.2.1, "Power State Descriptor Data Structure").
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PowerStateDescriptor {
    /// Maximum Power, in the unit of MXPS; see [`max_power_uw`](Self::max_power_uw).
    pub mp: U16,
    #[doc(hidden)]
    pub reserved2: u8,
    /// Bit 0: Max Power Scale (MXPS), bit 1: Non-Operational State (NOPS).
    pub flags: u8,
    /// Entry Latency in microseconds, 0 = not reported.
    pub enlat: U32,
    /// Exit Latency in microseconds, 0 = not reported.
    pub exlat: U32,
    /// Relative Read Throughput, bits 4:0, lower is better.
    pub rrt: u8,
    /// Relative Read Latency, bits 4:0, lower is better.
    pub rrl: u8,
    /// Relative Write Throughput, bits 4:0, lower is better.
    pub rwt: u8,
    /// Relative Write Latency, bits 4:0, lower is better.
    pub rwl: u8,
    /// Idle Power, in the unit of IPS; see [`idle_power_uw`](Self::idle_power_uw).
    pub idlp: U16,
    /// Bits 7:6: Idle Power Scale (IPS).
    pub ips: u8,
    #[doc(hidden)]
    pub reserved19: u8,
    /// Active Power, in the unit of APS; see [`active_power_uw`](Self::active_power_uw).
    pub actp: U16,
    /// Bits 7:6: Active Power Scale (APS), bits 2:0: Active Power Workload (APW).
    pub apws: u8,
    #[doc(hidden)]
    pub reserved23: [u8; 9],
}

layout!(PowerStateDescriptor, 32, {
    mp: 0, flags: 3, enlat: 4, exlat: 8, rrt: 12, rrl: 13, rwt: 14, rwl: 15, idlp: 16, ips: 18, actp: 20,
    apws: 22,
});

/// A power in microwatts by one of the two-bit scales: 1 = 0.0001 W, 2 = 0.01 W, 0 = not reported.
fn scaled_power_uw(value: u16, scale: u8) -> Option<u32> {
    match scale {
        1 => Some(u32::from(value) * 100),
        2 => Some(u32::from(value) * 10_000),
        _ => None,
    }
}

impl PowerStateDescriptor {
    /// Maximum power in microwatts, None if not reported.
    pub fn max_power_uw(&self) -> Option<u32> {
        let scale = if self.flags & 1 == 0 { 2 } else { 1 };
        if self.mp.get() == 0 {
            None
        } else {
            scaled_power_uw(self.mp.get(), scale)
        }
    }

    /// True if the controller processes no I/O commands in this state.
    pub const fn is_non_operational(&self) -> bool {
        self.flags & 0b10 != 0
    }

    /// Typical power when idle for 30 seconds, in microwatts, None if not reported.
    pub fn idle_power_uw(&self) -> Option<u32> {
        scaled_power_uw(self.idlp.get(), self.ips >> 6)
    }

    /// Largest average power over 10 seconds under the workload APW, in microwatts, None if not reported.
    pub fn active_power_uw(&self) -> Option<u32> {
        scaled_power_uw(self.actp.get(), self.apws >> 6)
    }
}

/// I/O Command Set specific Identify Controller for the NVM Command Set, CNS 06h, CSI 00h, 4096 bytes (NVM Command Set
/// 1.0, section 4.1.5.4).
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IdentifyControllerNvm {
    /// Verify Size Limit, 2^n pages of CAP.MPSMIN, 0 = no limit.
    pub vsl: u8,
    /// Write Zeroes Size Limit, 2^n pages of CAP.MPSMIN, 0 = no limit.
    pub wzsl: u8,
    /// Write Uncorrectable Size Limit, 2^n pages of CAP.MPSMIN, 0 = no limit.
    pub wusl: u8,
    /// Dataset Management Ranges Limit: ranges per command, 0 = no limit.
    pub dmrl: u8,
    /// Dataset Management Range Size Limit: logical blocks per range, 0 = no limit.
    pub dmrsl: U32,
    /// Dataset Management Size Limit: logical blocks per command, 0 = no limit.
    pub dmsl: U64,
    #[doc(hidden)]
    pub reserved16: [u8; 4080],
}

layout!(IdentifyControllerNvm, 4096, { vsl: 0, wzsl: 1, wusl: 2, dmrl: 3, dmrsl: 4, dmsl: 8, reserved16: 16 });

zeroed_default!(IdentifyController, IdentifyControllerNvm);
