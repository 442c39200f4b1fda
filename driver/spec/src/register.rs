//! Controller registers in BAR0: offsets, bit fields and the values of those fields (Base 2.0, section 3.1.3).

use core::fmt;

use bitfield_struct::bitfield;

/// Controller Capabilities, 64 bits ([`Cap`]).
pub const CAP: usize = 0x00;
/// Version, 32 bits ([`Vs`]).
pub const VS: usize = 0x08;
/// Interrupt Mask Set, 32 bits, write 1 to set.
pub const INTMS: usize = 0x0C;
/// Interrupt Mask Clear, 32 bits, write 1 to clear.
pub const INTMC: usize = 0x10;
/// Controller Configuration, 32 bits ([`Cc`]).
pub const CC: usize = 0x14;
/// Controller Status, 32 bits ([`Csts`]).
pub const CSTS: usize = 0x1C;
/// NVM Subsystem Reset, 32 bits ([`NSSR_RESET`]).
pub const NSSR: usize = 0x20;
/// Admin Queue Attributes, 32 bits ([`Aqa`]).
pub const AQA: usize = 0x24;
/// Admin Submission Queue Base Address, 64 bits.
pub const ASQ: usize = 0x28;
/// Admin Completion Queue Base Address, 64 bits.
pub const ACQ: usize = 0x30;
/// Controller Memory Buffer Location, 32 bits.
pub const CMBLOC: usize = 0x38;
/// Controller Memory Buffer Size, 32 bits.
pub const CMBSZ: usize = 0x3C;
/// Boot Partition Information, 32 bits.
pub const BPINFO: usize = 0x40;
/// Boot Partition Read Select, 32 bits.
pub const BPRSEL: usize = 0x44;
/// Boot Partition Memory Buffer Location, 64 bits.
pub const BPMBL: usize = 0x48;
/// Controller Memory Buffer Memory Space Control, 64 bits.
pub const CMBMSC: usize = 0x50;
/// Controller Memory Buffer Status, 32 bits.
pub const CMBSTS: usize = 0x58;
/// Controller Memory Buffer Elasticity Buffer Size, 32 bits.
pub const CMBEBS: usize = 0x5C;
/// Controller Memory Buffer Sustained Write Throughput, 32 bits.
pub const CMBSWTP: usize = 0x60;
/// NVM Subsystem Shutdown, 32 bits.
pub const NSSD: usize = 0x64;
/// Controller Ready Timeouts, 32 bits ([`Crto`]).
pub const CRTO: usize = 0x68;
/// Persistent Memory Region Capabilities, 32 bits.
pub const PMRCAP: usize = 0xE00;
/// Persistent Memory Region Control, 32 bits.
pub const PMRCTL: usize = 0xE04;
/// Persistent Memory Region Status, 32 bits.
pub const PMRSTS: usize = 0xE08;
/// Persistent Memory Region Elasticity Buffer Size, 32 bits.
pub const PMREBS: usize = 0xE0C;
/// Persistent Memory Region Sustained Write Throughput, 32 bits.
pub const PMRSWTP: usize = 0xE10;
/// Persistent Memory Region Memory Space Control Lower, 32 bits.
pub const PMRMSCL: usize = 0xE14;
/// Persistent Memory Region Memory Space Control Upper, 32 bits.
pub const PMRMSCU: usize = 0xE18;
/// First doorbell: submission queue 0's tail (NVMe over PCIe Transport 1.0, section 3.1.2).
pub const DOORBELLS: usize = 0x1000;

/// What to write to [`NSSR`] to reset the subsystem: "NVMe" in ASCII.
pub const NSSR_RESET: u32 = 0x4E56_4D65;

/// `Cc::shn`: no notification.
pub const SHN_NONE: u8 = 0;
/// `Cc::shn`: normal shutdown.
pub const SHN_NORMAL: u8 = 1;
/// `Cc::shn`: abrupt shutdown.
pub const SHN_ABRUPT: u8 = 2;

/// `Csts::shst`: normal operation, no shutdown asked for.
pub const SHST_NORMAL: u8 = 0;
/// `Csts::shst`: shutdown in progress.
pub const SHST_IN_PROGRESS: u8 = 1;
/// `Csts::shst`: shutdown complete.
pub const SHST_COMPLETE: u8 = 2;

/// `Cap::css` bit: NVM Command Set.
pub const CAP_CSS_NVM: u8 = 1 << 0;
/// `Cap::css` bit: one or more I/O command sets, by Identify CNS 1Ch.
pub const CAP_CSS_IO_COMMAND_SETS: u8 = 1 << 6;
/// `Cap::css` bit: no I/O command set, admin commands only.
pub const CAP_CSS_ADMIN_ONLY: u8 = 1 << 7;

/// `Cc::css`: NVM Command Set.
pub const CC_CSS_NVM: u8 = 0b000;
/// `Cc::css`: all supported I/O command sets.
pub const CC_CSS_ALL: u8 = 0b110;
/// `Cc::css`: admin commands only.
pub const CC_CSS_ADMIN_ONLY: u8 = 0b111;

/// `Cc::ams`: round robin.
pub const AMS_ROUND_ROBIN: u8 = 0b000;
/// `Cc::ams`: weighted round robin with urgent priority class; `Cap::ams` bit 0 says whether it is supported.
pub const AMS_WEIGHTED_ROUND_ROBIN: u8 = 0b001;
/// `Cc::ams`: vendor specific; `Cap::ams` bit 1 says whether it is supported.
pub const AMS_VENDOR: u8 = 0b111;

/// `Cc::iosqes`: a submission entry is 2^6 bytes.
pub const IOSQES: u8 = 6;
/// `Cc::iocqes`: a completion entry is 2^4 bytes.
pub const IOCQES: u8 = 4;

/// Offset in BAR0 of a queue's doorbell: the tail of submission queue `qid`, or with `completion` the head of
/// completion queue `qid`. `dstrd` is [`Cap::dstrd`]; only its low four bits count.
///
/// Saturates at `usize::MAX` where a 32-bit host cannot express the offset.
pub const fn doorbell_offset(qid: u16, completion: bool, dstrd: u8) -> usize {
    let index = 2 * qid as u64 + completion as u64;
    let offset = DOORBELLS as u64 + (index << (2 + (dstrd & 0xF)));
    if offset > usize::MAX as u64 {
        usize::MAX
    } else {
        offset as usize
    }
}

/// Controller Capabilities (CAP).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Maximum Queue Entries Supported, 0's based.
    #[bits(16)]
    pub mqes_z: u16,
    /// Contiguous Queues Required.
    pub cqr: bool,
    /// Arbitration Mechanism Supported: bit 0 weighted round robin with urgent, bit 1 vendor specific.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Timeout for CSTS.RDY to follow CC.EN, in units of 500 ms.
    #[bits(8)]
    pub to: u8,
    /// Doorbell Stride: doorbells are `4 << dstrd` bytes apart.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM Subsystem Reset Supported.
    pub nssrs: bool,
    /// Command Sets Supported (`CAP_CSS_*`).
    #[bits(8)]
    pub css: u8,
    /// Boot Partition Support.
    pub bps: bool,
    /// Controller Power Scope.
    #[bits(2)]
    pub cps: u8,
    /// Memory Page Size Minimum: `4096 << mpsmin` bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Memory Page Size Maximum: `4096 << mpsmax` bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent Memory Region Supported.
    pub pmrs: bool,
    /// Controller Memory Buffer Supported.
    pub cmbs: bool,
    /// NVM Subsystem Shutdown Supported.
    pub nsss: bool,
    /// Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
    #[bits(2)]
    pub crms: u8,
    #[bits(3)]
    __: u8,
}

impl Cap {
    /// [`to`](Self::to) in milliseconds. Zero is a legal value here, though not a sensible one.
    pub const fn timeout_ms(self) -> u64 {
        self.to() as u64 * 500
    }

    /// Smallest memory page in bytes.
    pub const fn mpsmin_bytes(self) -> u64 {
        4096 << self.mpsmin()
    }

    /// Largest memory page in bytes.
    pub const fn mpsmax_bytes(self) -> u64 {
        4096 << self.mpsmax()
    }

    /// Distance from one doorbell to the next in bytes.
    pub const fn doorbell_stride_bytes(self) -> u64 {
        4 << self.dstrd()
    }
}

/// Controller Configuration (CC).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// I/O Command Set Selected (`CC_CSS_*`).
    #[bits(3)]
    pub css: u8,
    /// Memory Page Size: `4096 << mps` bytes.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration Mechanism Selected (`AMS_*`).
    #[bits(3)]
    pub ams: u8,
    /// Shutdown Notification (`SHN_*`).
    #[bits(2)]
    pub shn: u8,
    /// I/O Submission Queue Entry Size: `1 << iosqes` bytes ([`IOSQES`]).
    #[bits(4)]
    pub iosqes: u8,
    /// I/O Completion Queue Entry Size: `1 << iocqes` bytes ([`IOCQES`]).
    #[bits(4)]
    pub iocqes: u8,
    /// Controller Ready Independent of Media Enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

impl Cc {
    /// [`mps`](Self::mps) in bytes.
    pub const fn mps_bytes(self) -> u64 {
        4096 << self.mps()
    }
}

/// Controller Status (CSTS).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// Ready.
    pub rdy: bool,
    /// Controller Fatal Status.
    pub cfs: bool,
    /// Shutdown Status (`SHST_*`).
    #[bits(2)]
    pub shst: u8,
    /// NVM Subsystem Reset Occurred.
    pub nssro: bool,
    /// Processing Paused.
    pub pp: bool,
    /// Shutdown Type: set if the shutdown was of the whole NVM subsystem.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

/// Admin Queue Attributes (AQA).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// Admin Submission Queue Size in entries, 0's based.
    #[bits(12)]
    pub asqs_z: u16,
    #[bits(4)]
    __: u8,
    /// Admin Completion Queue Size in entries, 0's based.
    #[bits(12)]
    pub acqs_z: u16,
    #[bits(4)]
    __: u8,
}

/// Version (VS), also Identify Controller's VER. Displayed as `1.4.0`.
#[bitfield(u32)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Vs {
    /// Tertiary version number.
    #[bits(8)]
    pub tertiary: u8,
    /// Minor version number.
    #[bits(8)]
    pub minor: u8,
    /// Major version number.
    #[bits(16)]
    pub major: u16,
}

impl fmt::Display for Vs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major(), self.minor(), self.tertiary())
    }
}

/// Controller Ready Timeouts (CRTO), valid where [`Cap::crms`] is not zero.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// Controller Ready With Media Timeout, in units of 500 ms.
    #[bits(16)]
    pub crwmt: u16,
    /// Controller Ready Independent of Media Timeout, in units of 500 ms.
    #[bits(16)]
    pub crimt: u16,
}

#[cfg(test)]
mod tests;
