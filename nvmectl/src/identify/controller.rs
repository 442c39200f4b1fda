//! Identify Controller as a document.

use nvme_spec::Vs;
use nvme_spec::identify::{Cmic, Ctratt, Fna, Frmw, IdentifyController, Lpa, Oacs, Oaes, Oncs, Sgls, Vwc};
use nvme_spec::log::kelvin_to_celsius;
use serde::Serialize;

use crate::values::{Flags, Wide, flags, hex_id, reported};

/// Keys that people know in hexadecimal.
pub const HEX: &[&str] = &["vendor_id", "subsystem_vendor_id"];

/// Identify Controller (Base 2.0, section 5.17.2.1), raw and converted. What the controller does not report is null.
#[derive(Debug, Serialize)]
pub struct ControllerDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    model: String,
    serial: String,
    firmware: String,
    vendor_id: u16,
    subsystem_vendor_id: u16,
    ieee_oui: String,
    controller_id: u16,
    controller_type: &'static str,
    nvme_version: Option<String>,
    subsystem_nqn: String,
    fru_guid: Option<String>,
    total_capacity_bytes: Option<Wide>,
    unallocated_capacity_bytes: Option<Wide>,
    /// The largest NSID.
    namespaces_max: u32,
    /// MDTS as it is: 2^n pages of the smallest size, 0 = no limit.
    mdts: u8,
    max_transfer_bytes: Option<u64>,
    outstanding_commands_max: Option<u16>,
    admin_commands: Flags,
    nvm_commands: Flags,
    fused_compare_and_write: bool,
    volatile_write_cache: bool,
    flush_of_all_namespaces: Option<bool>,
    atomic_write_blocks: u32,
    atomic_write_power_fail_blocks: u32,
    atomic_compare_and_write_blocks: u32,
    log_pages: Flags,
    async_events: Flags,
    attributes: Flags,
    multi_path: Flags,
    format: Flags,
    sanitize: Flags,
    sgl: Sgl,
    limits: Limits,
    thermal: Thermal,
    firmware_update: FirmwareUpdate,
    host_memory_buffer: Option<HostMemoryBuffer>,
    power_states: Vec<PowerState>,
}

#[derive(Debug, Serialize)]
struct Sgl {
    supported: &'static str,
    descriptors_recommended: Option<u8>,
    features: Flags,
}

#[derive(Debug, Serialize)]
struct Limits {
    aborts_outstanding: u16,
    async_event_requests: u16,
    error_log_entries: u16,
    submission_entry_min_bytes: u64,
    submission_entry_max_bytes: u64,
    completion_entry_min_bytes: u64,
    completion_entry_max_bytes: u64,
    keep_alive_granularity_ms: Option<u32>,
    extended_self_test_minutes: Option<u16>,
    rtd3_resume_latency_us: Option<u32>,
    rtd3_entry_latency_us: Option<u32>,
    arbitration_burst_commands: u64,
}

#[derive(Debug, Serialize)]
struct Thermal {
    warning_kelvin: Option<u16>,
    warning_celsius: Option<i32>,
    critical_kelvin: Option<u16>,
    critical_celsius: Option<i32>,
    managed_by_host: bool,
    managed_min_kelvin: Option<u16>,
    managed_min_celsius: Option<i32>,
    managed_max_kelvin: Option<u16>,
    managed_max_celsius: Option<i32>,
}

#[derive(Debug, Serialize)]
struct FirmwareUpdate {
    slots: u8,
    slot1_read_only: bool,
    activation_without_reset: bool,
    granularity_bytes: Option<u32>,
    activation_max_ms: Option<u32>,
}

#[derive(Debug, Serialize)]
struct HostMemoryBuffer {
    preferred_bytes: u64,
    min_bytes: u64,
}

#[derive(Debug, Serialize)]
struct PowerState {
    state: usize,
    max_watts: Option<f64>,
    idle_watts: Option<f64>,
    active_watts: Option<f64>,
    operational: bool,
    entry_us: Option<u32>,
    exit_us: Option<u32>,
    /// Relative Read Throughput, and so on: lower is better.
    rrt: u8,
    rrl: u8,
    rwt: u8,
    rwl: u8,
}

impl ControllerDocument {
    /// The document of `id`, of the controller behind `scheme`. `mdts_bytes` is the largest transfer as the driver knows it.
    pub fn new(scheme: &str, id: &IdentifyController, mdts_bytes: Option<u64>) -> Self {
        let vwc = Vwc::from(id.vwc);
        let version = Vs::from(id.ver.get());
        let [oui_low, oui_middle, oui_high] = id.ieee;
        Self {
            schema: "nvmectl-identify-controller",
            version: "1.0",
            device: format!("{scheme}:controller"),
            model: id.model().to_string(),
            serial: id.serial().to_string(),
            firmware: id.firmware().to_string(),
            vendor_id: id.vid.get(),
            subsystem_vendor_id: id.ssvid.get(),
            ieee_oui: format!("{oui_high:02x}{oui_middle:02x}{oui_low:02x}"),
            controller_id: id.cntlid.get(),
            controller_type: match id.cntrltype {
                0 => "not reported",
                1 => "I/O",
                2 => "discovery",
                3 => "administrative",
                _ => "unknown",
            },
            nvme_version: (id.ver.get() != 0).then(|| version.to_string()),
            subsystem_nqn: id.subsystem_nqn().to_string(),
            fru_guid: hex_id(&id.fguid),
            total_capacity_bytes: Wide::reported(id.tnvmcap.get()),
            unallocated_capacity_bytes: Wide::reported(id.tnvmcap.get()).map(|_| Wide(id.unvmcap.get())),
            namespaces_max: id.nn.get(),
            mdts: id.mdts,
            max_transfer_bytes: mdts_bytes,
            outstanding_commands_max: reported(id.maxcmd.get()),
            admin_commands: flags!(
                Oacs::from(id.oacs.get()),
                security,
                format_nvm,
                firmware,
                namespace_management,
                self_test,
                directives,
                nvme_mi,
                virtualization_management,
                doorbell_buffer_config,
                get_lba_status,
                lockdown,
            ),
            nvm_commands: flags!(
                Oncs::from(id.oncs.get()),
                compare,
                write_uncorrectable,
                dataset_management,
                write_zeroes,
                save_select,
                reservations,
                timestamp,
                verify,
                copy,
            ),
            fused_compare_and_write: id.fuses.get() & 1 != 0,
            volatile_write_cache: vwc.present(),
            flush_of_all_namespaces: match vwc.flush_all() {
                2 => Some(false),
                3 => Some(true),
                _ => None,
            },
            atomic_write_blocks: u32::from(id.awun.get()) + 1,
            atomic_write_power_fail_blocks: u32::from(id.awupf.get()) + 1,
            atomic_compare_and_write_blocks: u32::from(id.acwu.get()) + 1,
            log_pages: flags!(
                Lpa::from(id.lpa),
                smart_per_namespace,
                commands_supported,
                extended_data,
                telemetry,
                persistent_event,
                supported_pages,
                telemetry_area_4,
            ),
            async_events: flags!(
                Oaes::from(id.oaes.get()),
                namespace_attribute,
                firmware_activation,
                ana_change,
                predictable_latency,
                lba_status,
                endurance_group,
                normal_shutdown,
                zone_descriptor,
                discovery_log,
            ),
            attributes: flags!(
                Ctratt::from(id.ctratt.get()),
                host_id_128,
                non_operational_permissive,
                nvm_sets,
                read_recovery_levels,
                endurance_groups,
                predictable_latency_mode,
                traffic_based_keep_alive,
                namespace_granularity,
                sq_associations,
                uuid_list,
                multi_domain,
                fixed_capacity,
                variable_capacity,
                delete_endurance_group,
                delete_nvm_set,
                extended_lba_formats,
            ),
            multi_path: flags!(
                Cmic::from(id.cmic),
                multiple_ports,
                multiple_controllers,
                virtual_function,
                ana
            ),
            format: flags!(
                Fna::from(id.fna),
                format_all,
                erase_all,
                cryptographic_erase,
                no_broadcast
            ),
            sanitize: sanitize(id.sanicap.get()),
            sgl: Sgl::new(Sgls::from(id.sgls.get())),
            limits: Limits::new(id),
            thermal: Thermal::new(id),
            firmware_update: FirmwareUpdate::new(id),
            host_memory_buffer: HostMemoryBuffer::new(id),
            power_states: power_states(id),
        }
    }
}

/// Sanitize Capabilities (Base 2.0, section 5.17.2.1, bytes 331:328).
fn sanitize(sanicap: u32) -> Flags {
    Flags(vec![
        ("crypto_erase", sanicap & 1 != 0),
        ("block_erase", sanicap & 1 << 1 != 0),
        ("overwrite", sanicap & 1 << 2 != 0),
    ])
}

impl Sgl {
    fn new(sgls: Sgls) -> Self {
        Self {
            supported: match sgls.supported() {
                0 => "no",
                1 => "any alignment",
                2 => "dword alignment",
                _ => "unknown",
            },
            descriptors_recommended: reported(sgls.threshold()),
            features: flags!(
                sgls,
                keyed,
                bit_bucket,
                metadata_byte_aligned,
                length_may_exceed,
                metadata_sgl,
                address_offset,
                transport,
            ),
        }
    }
}

impl Limits {
    fn new(id: &IdentifyController) -> Self {
        // Entry sizes are powers of two with exponents below 16.
        let low = |field: u8| 1u64 << (field & 0xF);
        let high = |field: u8| 1u64 << (field >> 4);
        Self {
            aborts_outstanding: u16::from(id.acl) + 1,
            async_event_requests: u16::from(id.aerl) + 1,
            error_log_entries: u16::from(id.elpe) + 1,
            submission_entry_min_bytes: low(id.sqes),
            submission_entry_max_bytes: high(id.sqes),
            completion_entry_min_bytes: low(id.cqes),
            completion_entry_max_bytes: high(id.cqes),
            keep_alive_granularity_ms: reported(u32::from(id.kas.get()) * 100),
            extended_self_test_minutes: reported(id.edstt.get()),
            rtd3_resume_latency_us: reported(id.rtd3r.get()),
            rtd3_entry_latency_us: reported(id.rtd3e.get()),
            arbitration_burst_commands: 1 << (id.rab & 0x3F),
        }
    }
}

impl Thermal {
    fn new(id: &IdentifyController) -> Self {
        let [warning, critical] = [id.wctemp.get(), id.cctemp.get()];
        let [managed_min, managed_max] = [id.mntmt.get(), id.mxtmt.get()];
        Self {
            warning_kelvin: reported(warning),
            warning_celsius: kelvin_to_celsius(warning),
            critical_kelvin: reported(critical),
            critical_celsius: kelvin_to_celsius(critical),
            managed_by_host: id.hctma.get() & 1 != 0,
            managed_min_kelvin: reported(managed_min),
            managed_min_celsius: kelvin_to_celsius(managed_min),
            managed_max_kelvin: reported(managed_max),
            managed_max_celsius: kelvin_to_celsius(managed_max),
        }
    }
}

impl FirmwareUpdate {
    fn new(id: &IdentifyController) -> Self {
        let frmw = Frmw::from(id.frmw);
        Self {
            slots: frmw.slots(),
            slot1_read_only: frmw.slot1_read_only(),
            activation_without_reset: frmw.activation_without_reset(),
            // FFh: no restriction at all, which is the one dword that the command counts in.
            granularity_bytes: match id.fwug {
                0 => None,
                u8::MAX => Some(4),
                units => Some(u32::from(units) * 4096),
            },
            activation_max_ms: reported(u32::from(id.mtfa.get()) * 100),
        }
    }
}

impl HostMemoryBuffer {
    fn new(id: &IdentifyController) -> Option<Self> {
        const UNIT_BYTES: u64 = 4096;
        let preferred = u64::from(id.hmpre.get()) * UNIT_BYTES;
        (preferred != 0).then(|| Self {
            preferred_bytes: preferred,
            min_bytes: u64::from(id.hmmin.get()) * UNIT_BYTES,
        })
    }
}

fn power_states(id: &IdentifyController) -> Vec<PowerState> {
    let watts = |microwatts: Option<u32>| microwatts.map(|microwatts| f64::from(microwatts) / 1e6);
    id.power_states()
        .iter()
        .enumerate()
        .map(|(state, descriptor)| PowerState {
            state,
            max_watts: watts(descriptor.max_power_uw()),
            idle_watts: watts(descriptor.idle_power_uw()),
            active_watts: watts(descriptor.active_power_uw()),
            operational: !descriptor.is_non_operational(),
            entry_us: reported(descriptor.enlat.get()),
            exit_us: reported(descriptor.exlat.get()),
            rrt: descriptor.rrt & 0x1F,
            rrl: descriptor.rrl & 0x1F,
            rwt: descriptor.rwt & 0x1F,
            rwl: descriptor.rwl & 0x1F,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use nvme_spec::identify::AsciiField;
    use proptest::prelude::*;
    use serde_json::json;
    use zerocopy::FromBytes;

    use super::*;
    use crate::style::Style;
    use crate::units::Units;
    use crate::view;

    pub fn sample() -> IdentifyController {
        let mut id = IdentifyController {
            mdts: 8,
            elpe: 63,
            wctemp: 343.into(),
            ..IdentifyController::default()
        };
        id.vid.set(0x1b36);
        id.sn = AsciiField::encode("SN1");
        id.mn = AsciiField::encode("A disk");
        id.fr = AsciiField::encode("1.0");
        id.ieee = [0x33, 0x22, 0x11];
        id.ver.set(0x0002_0000);
        id.tnvmcap.set(1 << 40);
        id.oncs.set(0b1000_1101);
        id.sqes = 0x66;
        id.cqes = 0x44;
        id.npss = 1;
        id.psd[0].mp.set(900);
        id.psd[1].mp.set(5000);
        id.psd[1].flags = 0b11;
        id.psd[1].exlat.set(80_000);
        id
    }

    #[test]
    fn fields_are_converted_and_named() {
        let document =
            serde_json::to_value(ControllerDocument::new("nvme", &sample(), Some(1 << 20))).unwrap();
        for (key, value) in [
            ("model", json!("A disk")),
            ("serial", json!("SN1")),
            ("vendor_id", json!(0x1b36)),
            ("ieee_oui", json!("112233")),
            ("nvme_version", json!("2.0.0")),
            ("total_capacity_bytes", json!("1099511627776")),
            ("max_transfer_bytes", json!(1 << 20)),
            ("outstanding_commands_max", json!(null)),
            ("atomic_write_blocks", json!(1)),
        ] {
            assert_eq!(document[key], value, "{key}");
        }
        assert_eq!(document["nvm_commands"]["compare"], true);
        assert_eq!(document["nvm_commands"]["write_uncorrectable"], false);
        assert_eq!(document["nvm_commands"]["verify"], true);
        assert_eq!(document["limits"]["error_log_entries"], 64);
        assert_eq!(document["limits"]["submission_entry_max_bytes"], 64);
        assert_eq!(document["thermal"]["warning_celsius"], 70);
        assert_eq!(document["thermal"]["critical_kelvin"], json!(null));
        assert_eq!(document["power_states"][0]["max_watts"], 9.0);
        assert_eq!(document["power_states"][1]["max_watts"], 0.5);
        assert_eq!(document["power_states"][1]["operational"], false);
        assert_eq!(document["power_states"][1]["exit_us"], 80_000);
        assert_eq!(document["power_states"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn the_text_says_what_people_look_for() {
        let text = view::render(
            &ControllerDocument::new("nvme", &sample(), Some(1 << 20)),
            HEX,
            &Style::plain(Units::Iec),
        );
        for line in [
            "model A disk",
            "vendor id 0x1b36",
            "total capacity 1.00TiB (1 099 511 627 776)",
            "nvm commands compare, dataset management, write zeroes, verify",
            "warning 70 \u{b0}C (343 K)",
        ] {
            let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.lines().any(|found| words(found) == line), "{line}\n{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_document(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = [0u8; 4096];
            random.fill(&mut bytes);
            let id = IdentifyController::read_from_bytes(&bytes).unwrap();
            let text = view::render(&ControllerDocument::new("nvme", &id, None), HEX, &Style::plain(Units::Iec));
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{}", text);
        }
    }
}
