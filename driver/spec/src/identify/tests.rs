use proptest::collection::vec;
use proptest::prelude::*;
use std::format;
use std::string::ToString;
use std::vec::Vec;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use super::*;
use crate::test_support::assert_bits;

/// A page of Identify data with some bytes put in at their offsets.
fn page(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = std::vec![0; IDENTIFY_BYTES];
    for (offset, part) in parts {
        bytes[*offset..*offset + part.len()].copy_from_slice(part);
    }
    bytes
}

#[test]
fn controller_from_bytes() {
    let bytes = page(&[
        (0, &[0x86, 0x80]),
        (4, b"  SERIAL 01\0\0       "),
        (24, b"Model \x1B[31mred                           "),
        (64, b"1.2.3   "),
        (77, &[5]),
        (78, &[0x02, 0x01]),
        (80, &[0x00, 0x00, 0x02, 0x00]),
        (256, &[0x12, 0x01]),
        (259, &[3]),
        (263, &[1]),
        (280, &[0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (512, &[0x66, 0x44]),
        (516, &[4, 0, 0, 0]),
        (525, &[0x07]),
        (536, &[0x01, 0x00, 0x01, 0x00]),
        (768, b"nqn.2014-08.org.nvmexpress:uuid:x\0junk"),
        (2048, &[0x4C, 0x04, 0, 0, 10, 0, 0, 0, 20]),
        (2080, &[0xE8, 0x03, 0, 0b11]),
        (3072, &[0xEE]),
    ]);
    let id = IdentifyController::ref_from_bytes(&bytes).unwrap();
    assert_eq!(id.vid.get(), 0x8086);
    assert_eq!(id.serial(), "SERIAL 01");
    assert_eq!(id.model(), "Model ?[31mred");
    assert_eq!(id.firmware(), "1.2.3");
    assert_eq!(id.max_transfer_bytes(4096), Some(131_072));
    assert_eq!(id.cntlid.get(), 0x0102);
    assert_eq!(crate::Vs::from(id.ver.get()).to_string(), "2.0.0");
    let oacs = Oacs::from(id.oacs.get());
    assert!(oacs.format_nvm() && oacs.self_test() && oacs.doorbell_buffer_config() && !oacs.security());
    assert_eq!((id.aerl, id.npss), (3, 1));
    assert_eq!(id.tnvmcap.get(), 1 << 64);
    assert_eq!((id.sqes, id.cqes, id.nn.get()), (0x66, 0x44, 4));
    assert!(Vwc::from(id.vwc).present());
    assert_eq!(Vwc::from(id.vwc).flush_all(), 3);
    assert_eq!(Sgls::from(id.sgls.get()).supported(), 1);
    assert!(Sgls::from(id.sgls.get()).bit_bucket());
    assert_eq!(id.subsystem_nqn(), "nqn.2014-08.org.nvmexpress:uuid:x");
    let [full, low] = id.power_states() else {
        panic!("two power states")
    };
    assert_eq!(
        (full.max_power_uw(), full.is_non_operational()),
        (Some(11_000_000), false)
    );
    assert_eq!((full.enlat.get(), full.exlat.get()), (10, 20));
    assert_eq!(
        (low.max_power_uw(), low.is_non_operational()),
        (Some(100_000), true)
    );
    assert_eq!(id.vs[0], 0xEE);
    assert_eq!(id.as_bytes(), bytes);
}

#[test]
fn power_scales() {
    let mut state = PowerStateDescriptor::default();
    assert_eq!(
        (
            state.max_power_uw(),
            state.idle_power_uw(),
            state.active_power_uw()
        ),
        (None, None, None)
    );
    state.idlp = U16::new(7);
    state.actp = U16::new(9);
    state.ips = 0b0100_0000;
    state.apws = 0b1000_0101;
    assert_eq!(
        (state.idle_power_uw(), state.active_power_uw()),
        (Some(700), Some(90_000))
    );
    state.mp = U16::new(u16::MAX);
    assert_eq!(state.max_power_uw(), Some(655_350_000));
}

#[test]
fn transfer_limits() {
    let mut id = IdentifyController::default();
    for (mdts, mpsmin_bytes, limit) in [
        (0, 4096, None),
        (1, 4096, Some(8192)),
        (5, 65_536, Some(2 << 20)),
        (51, 4096, Some(1 << 63)),
        (52, 4096, None),
        (63, 4096, None),
        (64, 4096, None),
        (255, 1 << 27, None),
    ] {
        id.mdts = mdts;
        assert_eq!(id.max_transfer_bytes(mpsmin_bytes), limit, "MDTS {mdts}");
    }
}

#[test]
fn namespace_from_bytes() {
    let bytes = page(&[
        (0, &[0, 0, 0x10, 0, 0, 0, 0, 0]),
        (8, &[0, 0, 0x08, 0, 0, 0, 0, 0]),
        (24, &[0x11, 1, 0x01]),
        (33, &[0x09]),
        (46, &[0, 1]),
        (64, &[7, 0]),
        (104, &[0xAA; 16]),
        (120, &[0xBB; 8]),
        (128, &[0, 0, 9, 2, 8, 0, 12, 0]),
    ]);
    let id = IdentifyNamespace::ref_from_bytes(&bytes).unwrap();
    assert_eq!(
        (id.nsze.get(), id.ncap.get(), id.nuse.get()),
        (1 << 20, 1 << 19, 0)
    );
    assert!(Nsfeat::from(id.nsfeat).thin() && Nsfeat::from(id.nsfeat).optimal_io());
    assert_eq!(Dlfeat::from(id.dlfeat).read_value(), 1);
    assert!(Dlfeat::from(id.dlfeat).write_zeroes_deallocates());
    assert_eq!((id.noiob.get(), id.npwg.get()), (256, 7));
    assert_eq!((id.nguid, id.eui64), ([0xAA; 16], [0xBB; 8]));
    assert_eq!(id.formats().len(), 2);
    assert_eq!(id.formats()[0].block_bytes(), Some(512));
    let format = id.current_format().unwrap();
    assert_eq!((format.block_bytes(), format.ms.get()), (Some(4096), 8));
    assert_eq!(id.as_bytes(), bytes);
}

#[test]
fn format_index_has_six_bits() {
    let mut id = IdentifyNamespace {
        nlbaf_z: 63,
        flbas: 0b0100_0010,
        ..Default::default()
    };
    id.lbaf[34] = LbaFormat::new(12, 16);
    assert_eq!(id.current_format(), Some(LbaFormat::new(12, 16)));
    id.nlbaf_z = 33;
    assert_eq!(id.current_format(), None);
    id.nulbaf = 1;
    assert_eq!(id.current_format(), Some(LbaFormat::new(12, 16)));
}

#[test]
fn block_sizes() {
    for (lbads, bytes) in [
        (0, None),
        (8, None),
        (9, Some(512)),
        (12, Some(4096)),
        (63, Some(1 << 63)),
        (64, None),
        (255, None),
    ] {
        assert_eq!(LbaFormat::new(lbads, 0).block_bytes(), bytes, "LBADS {lbads}");
    }
}

#[test]
fn capability_bits() {
    assert_bits!(Cmic(u8), reserved = 0xF0, {
        with_multiple_ports / multiple_ports = true => 0:0,
        with_multiple_controllers / multiple_controllers = true => 1:1,
        with_virtual_function / virtual_function = true => 2:2, with_ana / ana = true => 3:3,
    });
    assert_bits!(Oaes(u32), reserved = 0x77FF_04FF, {
        with_namespace_attribute / namespace_attribute = true => 8:8,
        with_firmware_activation / firmware_activation = true => 9:9, with_ana_change / ana_change = true => 11:11,
        with_predictable_latency / predictable_latency = true => 12:12, with_lba_status / lba_status = true => 13:13,
        with_endurance_group / endurance_group = true => 14:14, with_normal_shutdown / normal_shutdown = true => 15:15,
        with_zone_descriptor / zone_descriptor = true => 27:27, with_discovery_log / discovery_log = true => 31:31,
    });
    assert_bits!(Ctratt(u32), reserved = 0xFFFF_0000, {
        with_host_id_128 / host_id_128 = true => 0:0,
        with_non_operational_permissive / non_operational_permissive = true => 1:1,
        with_nvm_sets / nvm_sets = true => 2:2, with_read_recovery_levels / read_recovery_levels = true => 3:3,
        with_endurance_groups / endurance_groups = true => 4:4,
        with_predictable_latency_mode / predictable_latency_mode = true => 5:5,
        with_traffic_based_keep_alive / traffic_based_keep_alive = true => 6:6,
        with_namespace_granularity / namespace_granularity = true => 7:7,
        with_sq_associations / sq_associations = true => 8:8, with_uuid_list / uuid_list = true => 9:9,
        with_multi_domain / multi_domain = true => 10:10, with_fixed_capacity / fixed_capacity = true => 11:11,
        with_variable_capacity / variable_capacity = true => 12:12,
        with_delete_endurance_group / delete_endurance_group = true => 13:13,
        with_delete_nvm_set / delete_nvm_set = true => 14:14,
        with_extended_lba_formats / extended_lba_formats = true => 15:15,
    });
    assert_bits!(Oacs(u16), reserved = 0xF800, {
        with_security / security = true => 0:0, with_format_nvm / format_nvm = true => 1:1,
        with_firmware / firmware = true => 2:2, with_namespace_management / namespace_management = true => 3:3,
        with_self_test / self_test = true => 4:4, with_directives / directives = true => 5:5,
        with_nvme_mi / nvme_mi = true => 6:6, with_virtualization_management / virtualization_management = true => 7:7,
        with_doorbell_buffer_config / doorbell_buffer_config = true => 8:8,
        with_get_lba_status / get_lba_status = true => 9:9, with_lockdown / lockdown = true => 10:10,
    });
    assert_bits!(Frmw(u8), reserved = 0xC0, {
        with_slot1_read_only / slot1_read_only = true => 0:0, with_slots / slots = 7 => 3:1,
        with_activation_without_reset / activation_without_reset = true => 4:4,
        with_multiple_update_detection / multiple_update_detection = true => 5:5,
    });
    assert_bits!(Lpa(u8), reserved = 0x80, {
        with_smart_per_namespace / smart_per_namespace = true => 0:0,
        with_commands_supported / commands_supported = true => 1:1, with_extended_data / extended_data = true => 2:2,
        with_telemetry / telemetry = true => 3:3, with_persistent_event / persistent_event = true => 4:4,
        with_supported_pages / supported_pages = true => 5:5, with_telemetry_area_4 / telemetry_area_4 = true => 6:6,
    });
    assert_bits!(Oncs(u16), reserved = 0xFE00, {
        with_compare / compare = true => 0:0, with_write_uncorrectable / write_uncorrectable = true => 1:1,
        with_dataset_management / dataset_management = true => 2:2, with_write_zeroes / write_zeroes = true => 3:3,
        with_save_select / save_select = true => 4:4, with_reservations / reservations = true => 5:5,
        with_timestamp / timestamp = true => 6:6, with_verify / verify = true => 7:7, with_copy / copy = true => 8:8,
    });
    assert_bits!(Fna(u8), reserved = 0xF0, {
        with_format_all / format_all = true => 0:0, with_erase_all / erase_all = true => 1:1,
        with_cryptographic_erase / cryptographic_erase = true => 2:2, with_no_broadcast / no_broadcast = true => 3:3,
    });
    assert_bits!(Vwc(u8), reserved = 0xF8, {
        with_present / present = true => 0:0, with_flush_all / flush_all = 3 => 2:1,
    });
    assert_bits!(Sgls(u32), reserved = 0xFFC0_00F8, {
        with_supported / supported = 3 => 1:0, with_keyed / keyed = true => 2:2, with_threshold / threshold = 255 => 15:8,
        with_bit_bucket / bit_bucket = true => 16:16,
        with_metadata_byte_aligned / metadata_byte_aligned = true => 17:17,
        with_length_may_exceed / length_may_exceed = true => 18:18, with_metadata_sgl / metadata_sgl = true => 19:19,
        with_address_offset / address_offset = true => 20:20, with_transport / transport = true => 21:21,
    });
    assert_bits!(Nsfeat(u8), reserved = 0xE0, {
        with_thin / thin = true => 0:0, with_atomic_write_units / atomic_write_units = true => 1:1,
        with_deallocated_error / deallocated_error = true => 2:2, with_uid_not_reused / uid_not_reused = true => 3:3,
        with_optimal_io / optimal_io = true => 4:4,
    });
    assert_bits!(Flbas(u8), reserved = 0x80, {
        with_index_low / index_low = 15 => 3:0, with_extended / extended = true => 4:4,
        with_index_high / index_high = 3 => 6:5,
    });
    assert_bits!(Dps(u8), reserved = 0xF0, {
        with_pi_type / pi_type = 7 => 2:0, with_pi_first / pi_first = true => 3:3,
    });
    assert_bits!(Dlfeat(u8), reserved = 0xE0, {
        with_read_value / read_value = 7 => 2:0,
        with_write_zeroes_deallocates / write_zeroes_deallocates = true => 3:3, with_guard_crc / guard_crc = true => 4:4,
    });
    assert_bits!(ExtendedLbaFormat(u32), reserved = 0xFFFF_FE00, {
        with_sts / sts = 0x7F => 6:0, with_pif / pif = 3 => 8:7,
    });
}

#[test]
fn namespace_lists_stop_at_zero() {
    let mut list = NamespaceList::new([1, 2, 0xFFFF_FFFE]);
    list.nsids[5] = U32::new(9);
    assert!(list.iter().eq([1, 2, 0xFFFF_FFFE]));
    assert_eq!(
        NamespaceList::new(1..=2000).iter().count(),
        MAX_NAMESPACES_IN_LIST
    );
    let mut ended = list.iter();
    assert_eq!(ended.by_ref().count(), 3);
    assert_eq!(ended.next(), None);
}

#[test]
fn controller_lists_believe_no_count() {
    assert!(ControllerList::new([3, 0, 7]).iter().eq([3, 0, 7]));
    let mut list = ControllerList::new(0..5000);
    assert_eq!(list.iter().count(), 2047);
    list.count.set(u16::MAX);
    assert_eq!(list.iter().count(), 2047);
}

#[test]
fn descriptors_by_hand() {
    let uuid = [0x11; 16];
    let mut bytes = Vec::from([0x01, 8, 0, 0]);
    bytes.extend([0xEE; 8]);
    bytes.extend([0x03, 16, 0, 0]);
    bytes.extend(uuid);
    bytes.extend([0x04, 1, 0, 0, 0x00]);
    bytes.extend([0x77, 2, 0, 0, 5, 6]);
    bytes.extend([0, 0, 0, 0]);
    bytes.extend([0x04, 1, 0, 0, 0x02]);
    let found: Vec<_> = NamespaceDescriptors::new(&bytes).collect();
    assert_eq!(
        found,
        [
            NamespaceDescriptor {
                nidt: Nidt::EUI64,
                data: &[0xEE; 8]
            },
            NamespaceDescriptor {
                nidt: Nidt::UUID,
                data: &uuid
            },
            NamespaceDescriptor {
                nidt: Nidt::CSI,
                data: &[0]
            },
            NamespaceDescriptor {
                nidt: Nidt(0x77),
                data: &[5, 6]
            },
        ]
    );
    assert_eq!(found[3].nidt.to_string(), "identifier type 77h");
}

#[test]
fn a_descriptor_that_goes_beyond_the_end_is_none() {
    assert_eq!(NamespaceDescriptors::new(&[0x02, 16, 0, 0, 1, 2, 3]).next(), None);
    assert_eq!(NamespaceDescriptors::new(&[0x02, 16, 0]).next(), None);
    assert_eq!(NamespaceDescriptors::new(&[]).next(), None);
    let descriptor = NamespaceDescriptor {
        nidt: Nidt::NGUID,
        data: &[1; 16],
    };
    assert_eq!(descriptor.write_to(&mut [0; 19]), None);
    assert_eq!(descriptor.write_to(&mut [0; 20]), Some(20));
    assert_eq!(
        NamespaceDescriptor {
            nidt: Nidt::NGUID,
            data: &[]
        }
        .write_to(&mut [0; 20]),
        None
    );
    assert_eq!(
        NamespaceDescriptor {
            nidt: Nidt::NGUID,
            data: &[0; 256]
        }
        .write_to(&mut [0; 300]),
        None
    );
}

#[test]
fn ascii_fields_pad_like_text() {
    let field = AsciiField::new(b"  ab  ");
    assert_eq!(format!("[{field:>4}]"), "[  ab]");
    assert_eq!(format!("{field:?}"), "\"ab\"");
    assert_eq!(AsciiField::new(&[0; 20]), "");
    assert_eq!(AsciiField::new(b"a\0b   "), "a?b");
    assert_eq!(AsciiField::until_nul(b"a\0b   "), "a");
    assert_eq!(AsciiField::<6>::encode("abc"), *b"abc   ");
    assert_eq!(AsciiField::<4>::encode("a\u{e9}\n345"), *b"a??3");
}

#[test]
fn cns_names() {
    assert_eq!(Cns::CONTROLLER.to_string(), "Identify Controller");
    assert_eq!(Cns(0xC0).to_string(), "CNS C0h");
    assert!(Cns::ALL.is_sorted());
}

proptest! {
    #[test]
    fn ascii_fields_are_printable_and_trimmed(bytes: [u8; 20]) {
        let field = AsciiField::new(&bytes);
        let text = field.as_str();
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert_eq!(text.trim_matches(' '), text);
        let again = AsciiField::<20>::new(&AsciiField::encode(text));
        prop_assert_eq!(again.as_str(), text);
        prop_assert!(AsciiField::until_nul(&bytes).as_str().len() <= 20);
    }

    #[test]
    fn descriptors_of_any_bytes_end_and_stay_inside(bytes in vec(0_u8..20, 0..300)) {
        let used: usize = NamespaceDescriptors::new(&bytes).map(|found| 4 + found.data.len()).sum();
        prop_assert!(used <= bytes.len());
        prop_assert!(NamespaceDescriptors::new(&bytes).all(|found| !found.data.is_empty()));
    }

    #[test]
    fn descriptors_round_trip(descriptors in vec((any::<u8>(), vec(any::<u8>(), 1..256)), 0..8)) {
        let mut bytes = [0; IDENTIFY_BYTES];
        let mut at = 0;
        for (nidt, data) in &descriptors {
            at += NamespaceDescriptor { nidt: Nidt(*nidt), data }.write_to(&mut bytes[at..]).unwrap();
        }
        let found: Vec<_> = NamespaceDescriptors::new(&bytes).map(|found| (found.nidt.0, found.data.to_vec())).collect();
        prop_assert_eq!(found, descriptors);
    }

    /// Any bytes are a structure, come back unchanged, and no accessor minds.
    #[test]
    fn any_bytes_are_legal(bytes in vec(any::<u8>(), IDENTIFY_BYTES)) {
        let controller = IdentifyController::ref_from_bytes(&bytes).unwrap();
        prop_assert_eq!(controller.as_bytes(), &bytes);
        prop_assert!((1..=32).contains(&controller.power_states().len()));
        for state in controller.power_states() {
            let _ = (state.max_power_uw(), state.idle_power_uw(), state.active_power_uw());
        }
        let _ = (controller.serial(), controller.model(), controller.firmware(), controller.subsystem_nqn());
        let namespace = IdentifyNamespace::ref_from_bytes(&bytes).unwrap();
        let index = usize::from(Flbas::from(namespace.flbas).format_index());
        let formats = namespace.formats();
        prop_assert!((1..=64).contains(&formats.len()));
        prop_assert_eq!(namespace.current_format().is_some(), index < formats.len());
        prop_assert!(NamespaceList::ref_from_bytes(&bytes).unwrap().iter().all(|nsid| nsid != 0));
        prop_assert!(ControllerList::ref_from_bytes(&bytes).unwrap().iter().count() <= 2047);
    }

    #[test]
    fn namespace_lists_round_trip(nsids in vec(1_u32.., 0..1100)) {
        let list = NamespaceList::new(nsids.iter().copied());
        prop_assert!(list.iter().eq(nsids.iter().copied().take(MAX_NAMESPACES_IN_LIST)));
    }

    #[test]
    fn flbas_index_round_trip(raw: u8, index in 0_u8..64) {
        let flbas = Flbas::from(raw).with_format_index(index);
        prop_assert_eq!(flbas.format_index(), index);
        prop_assert_eq!((u8::from(flbas) ^ raw) & 0b1001_0000, 0);
    }
}
