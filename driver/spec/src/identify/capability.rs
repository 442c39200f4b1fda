//! The bit fields inside Identify Controller and Identify Namespace. Each is `From` and `Into` the field's integer.

use bitfield_struct::bitfield;

/// Controller Multi-Path I/O and Namespace Sharing Capabilities (Base 2.0, section 5.17.2.1, byte 76).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Cmic {
    /// The NVM subsystem may have more than one port.
    pub multiple_ports: bool,
    /// The NVM subsystem may have more than one controller.
    pub multiple_controllers: bool,
    /// The controller is an SR-IOV virtual function.
    pub virtual_function: bool,
    /// Asymmetric Namespace Access reporting is supported.
    pub ana: bool,
    #[bits(4)]
    __: u8,
}

/// Optional Asynchronous Events Supported (Base 2.0, section 5.17.2.1, bytes 95:92).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Oaes {
    #[bits(8)]
    __: u8,
    /// Attached Namespace Attribute Notices.
    pub namespace_attribute: bool,
    /// Firmware Activation Notices.
    pub firmware_activation: bool,
    __: bool,
    /// Asymmetric Namespace Access Change Notices.
    pub ana_change: bool,
    /// Predictable Latency Event Aggregate Log Change Notices.
    pub predictable_latency: bool,
    /// LBA Status Information Alert Notices.
    pub lba_status: bool,
    /// Endurance Group Event Aggregate Log Page Change Notices.
    pub endurance_group: bool,
    /// Normal NVM Subsystem Shutdown event.
    pub normal_shutdown: bool,
    #[bits(11)]
    __: u16,
    /// Zone Descriptor Changed Notices.
    pub zone_descriptor: bool,
    #[bits(3)]
    __: u8,
    /// Discovery Log Page Change Notices.
    pub discovery_log: bool,
}

/// Controller Attributes (Base 2.0, section 5.17.2.1, bytes 99:96).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Ctratt {
    /// 128-bit Host Identifier.
    pub host_id_128: bool,
    /// Non-Operational Power State Permissive Mode.
    pub non_operational_permissive: bool,
    /// NVM Sets.
    pub nvm_sets: bool,
    /// Read Recovery Levels.
    pub read_recovery_levels: bool,
    /// Endurance Groups.
    pub endurance_groups: bool,
    /// Predictable Latency Mode.
    pub predictable_latency_mode: bool,
    /// Traffic Based Keep Alive Support.
    pub traffic_based_keep_alive: bool,
    /// Namespace Granularity.
    pub namespace_granularity: bool,
    /// SQ Associations.
    pub sq_associations: bool,
    /// UUID List.
    pub uuid_list: bool,
    /// Multi-Domain Subsystem.
    pub multi_domain: bool,
    /// Fixed Capacity Management.
    pub fixed_capacity: bool,
    /// Variable Capacity Management.
    pub variable_capacity: bool,
    /// Delete Endurance Group.
    pub delete_endurance_group: bool,
    /// Delete NVM Set.
    pub delete_nvm_set: bool,
    /// Extended LBA Formats Supported.
    pub extended_lba_formats: bool,
    #[bits(16)]
    __: u16,
}

/// Optional Admin Command Support (Base 2.0, section 5.17.2.1, bytes 257:256).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Oacs {
    /// Security Send and Security Receive.
    pub security: bool,
    /// Format NVM.
    pub format_nvm: bool,
    /// Firmware Commit and Firmware Image Download.
    pub firmware: bool,
    /// Namespace Management and Namespace Attachment.
    pub namespace_management: bool,
    /// Device Self-test.
    pub self_test: bool,
    /// Directives.
    pub directives: bool,
    /// NVMe-MI Send and NVMe-MI Receive.
    pub nvme_mi: bool,
    /// Virtualization Management.
    pub virtualization_management: bool,
    /// Doorbell Buffer Config.
    pub doorbell_buffer_config: bool,
    /// Get LBA Status.
    pub get_lba_status: bool,
    /// Command and Feature Lockdown.
    pub lockdown: bool,
    #[bits(5)]
    __: u8,
}

/// Firmware Updates (Base 2.0, section 5.17.2.1, byte 260).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Frmw {
    /// Firmware slot 1 is read only.
    pub slot1_read_only: bool,
    /// Number of firmware slots, 1 to 7.
    #[bits(3)]
    pub slots: u8,
    /// Firmware can be activated without a reset.
    pub activation_without_reset: bool,
    /// Overlapping firmware image ranges are detected (SMUD).
    pub multiple_update_detection: bool,
    #[bits(2)]
    __: u8,
}

/// Log Page Attributes (Base 2.0, section 5.17.2.1, byte 261).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Lpa {
    /// The SMART / Health Information page exists per namespace.
    pub smart_per_namespace: bool,
    /// The Commands Supported and Effects page is supported.
    pub commands_supported: bool,
    /// Extended data: Get Log Page takes an offset and a 32-bit length.
    pub extended_data: bool,
    /// The Telemetry pages are supported.
    pub telemetry: bool,
    /// The Persistent Event page is supported.
    pub persistent_event: bool,
    /// The Supported Log Pages and Feature Identifiers Supported and Effects pages are supported.
    pub supported_pages: bool,
    /// Data Area 4 of the Telemetry pages is supported.
    pub telemetry_area_4: bool,
    __: bool,
}

/// Optional NVM Command Support (Base 2.0, section 5.17.2.1, bytes 521:520).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Oncs {
    /// Compare.
    pub compare: bool,
    /// Write Uncorrectable.
    pub write_uncorrectable: bool,
    /// Dataset Management.
    pub dataset_management: bool,
    /// Write Zeroes.
    pub write_zeroes: bool,
    /// Save in Set Features and Select in Get Features.
    pub save_select: bool,
    /// Reservations.
    pub reservations: bool,
    /// The Timestamp feature.
    pub timestamp: bool,
    /// Verify.
    pub verify: bool,
    /// Copy.
    pub copy: bool,
    #[bits(7)]
    __: u8,
}

/// Format NVM Attributes (Base 2.0, section 5.17.2.1, byte 524).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Fna {
    /// A format applies to all namespaces, whichever was named.
    pub format_all: bool,
    /// A secure erase applies to all namespaces, whichever was named.
    pub erase_all: bool,
    /// Cryptographic erase is supported.
    pub cryptographic_erase: bool,
    /// An NSID of FFFFFFFFh is refused.
    pub no_broadcast: bool,
    #[bits(4)]
    __: u8,
}

/// Volatile Write Cache (Base 2.0, section 5.17.2.1, byte 525).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Vwc {
    /// There is a volatile write cache.
    pub present: bool,
    /// Flush with NSID FFFFFFFFh: 0 = not reported, 2 = not supported, 3 = supported.
    #[bits(2)]
    pub flush_all: u8,
    #[bits(5)]
    __: u8,
}

/// SGL Support (Base 2.0, section 5.17.2.1, bytes 539:536).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Sgls {
    /// 0 = SGLs not supported, 1 = without alignment requirement, 2 = dword aligned.
    #[bits(2)]
    pub supported: u8,
    /// Keyed SGL Data Block descriptor.
    pub keyed: bool,
    #[bits(5)]
    __: u8,
    /// SGL Descriptor Threshold: the recommended most descriptors per command, 0 = not reported.
    #[bits(8)]
    pub threshold: u8,
    /// SGL Bit Bucket descriptor.
    pub bit_bucket: bool,
    /// Metadata in a byte-aligned contiguous buffer.
    pub metadata_byte_aligned: bool,
    /// SGLs longer than the data.
    pub length_may_exceed: bool,
    /// MPTR may point to an SGL segment.
    pub metadata_sgl: bool,
    /// The address may be an offset.
    pub address_offset: bool,
    /// Transport SGL Data Block descriptor.
    pub transport: bool,
    #[bits(10)]
    __: u16,
}

/// Namespace Features (NVM Command Set 1.0, section 4.1.5.1, byte 24).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Nsfeat {
    /// Thin provisioning: NCAP may be below NSZE, NUSE is kept.
    pub thin: bool,
    /// NAWUN, NAWUPF and NACWU are this namespace's own.
    pub atomic_write_units: bool,
    /// Reading a deallocated or unwritten block may fail, if enabled by the Error Recovery feature.
    pub deallocated_error: bool,
    /// NGUID and EUI64 are never reused.
    pub uid_not_reused: bool,
    /// NPWG, NPWA, NPDG, NPDA and NOWS are valid.
    pub optimal_io: bool,
    #[bits(3)]
    __: u8,
}

/// Formatted LBA Size (NVM Command Set 1.0, section 4.1.5.1, byte 26).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Flbas {
    /// Format index, bits 3:0.
    #[bits(4)]
    pub index_low: u8,
    /// Metadata follows each block's data in one buffer (extended LBA).
    pub extended: bool,
    /// Format index, bits 5:4.
    #[bits(2)]
    pub index_high: u8,
    __: bool,
}

impl Flbas {
    /// LBA format index, 0 to 63.
    pub const fn format_index(self) -> u8 {
        self.index_high() << 4 | self.index_low()
    }

    /// The same with the LBA format index (6 bits) as given.
    pub const fn with_format_index(self, index: u8) -> Self {
        self.with_index_low(index & 0xF)
            .with_index_high(index >> 4 & 0b11)
    }
}

/// End-to-end Data Protection Type Settings (NVM Command Set 1.0, section 4.1.5.1, byte 29).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Dps {
    /// Protection information: 0 = none, 1 to 3 = type.
    #[bits(3)]
    pub pi_type: u8,
    /// Protection information is the first bytes of metadata, not the last.
    pub pi_first: bool,
    #[bits(4)]
    __: u8,
}

/// Deallocate Logical Block Features (NVM Command Set 1.0, section 4.1.5.1, byte 33).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct Dlfeat {
    /// What reads from deallocated blocks: 0 = not reported, 1 = all 00h, 2 = all FFh.
    #[bits(3)]
    pub read_value: u8,
    /// Write Zeroes may deallocate (DEAC).
    pub write_zeroes_deallocates: bool,
    /// The guard of deallocated blocks is a valid CRC, not FFFFh.
    pub guard_crc: bool,
    #[bits(3)]
    __: u8,
}
