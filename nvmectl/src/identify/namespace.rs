//! Identify Namespace as a document.

use nvme_spec::identify::{Dlfeat, Dps, IdentifyNamespace, LbaFormat, Nsfeat};
use serde::Serialize;
use stats_proto::big_int::{big_u64, big_u64_option};

use crate::values::{Flags, Wide, flags, hex_id, reported};

/// Keys that people know in hexadecimal.
pub const HEX: &[&str] = &[];

/// Identify Namespace of the NVM Command Set (NVM Command Set 1.0, section 4.1.5.1), raw and converted. What the
/// namespace does not report is null.
#[derive(Debug, Serialize)]
pub struct NamespaceDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    nsid: u32,
    /// An inactive namespace is all zero, which is no error.
    active: bool,
    size_bytes: Option<Wide>,
    #[serde(with = "big_u64")]
    size_blocks: u64,
    capacity_bytes: Option<Wide>,
    #[serde(with = "big_u64")]
    capacity_blocks: u64,
    used_bytes: Option<Wide>,
    #[serde(with = "big_u64")]
    used_blocks: u64,
    #[serde(with = "big_u64_option")]
    lba_bytes: Option<u64>,
    metadata_bytes: Option<u16>,
    nguid: Option<String>,
    eui64: Option<String>,
    features: Flags,
    shared: bool,
    write_protected: bool,
    protection_information_type: Option<u8>,
    deallocated_blocks_read: &'static str,
    write_zeroes_deallocates: bool,
    nvm_capacity_bytes: Option<Wide>,
    optimal_io_boundary_blocks: Option<u16>,
    optimal_io: Option<OptimalIo>,
    atomic_writes: Option<AtomicWrites>,
    format_remaining_percent: Option<u8>,
    nvm_set: Option<u16>,
    endurance_group: Option<u16>,
    ana_group: Option<u32>,
    formats: Vec<Format>,
}

#[derive(Debug, Serialize)]
struct OptimalIo {
    write_granularity_blocks: u32,
    write_alignment_blocks: u32,
    write_size_blocks: u32,
    deallocate_granularity_blocks: u32,
    deallocate_alignment_blocks: u32,
}

#[derive(Debug, Serialize)]
struct AtomicWrites {
    normal_blocks: u32,
    power_fail_blocks: u32,
    compare_and_write_blocks: u32,
}

#[derive(Debug, Serialize)]
struct Format {
    format: usize,
    in_use: bool,
    #[serde(with = "big_u64_option")]
    lba_bytes: Option<u64>,
    metadata_bytes: u16,
    performance: &'static str,
}

impl NamespaceDocument {
    /// The document of namespace `nsid` of the controller behind `scheme`.
    pub fn new(scheme: &str, nsid: u32, id: &IdentifyNamespace) -> Self {
        let format = id.current_format().filter(|_| id.nsze.get() != 0);
        let lba_bytes = format.and_then(|format| format.block_bytes());
        let bytes = |blocks: u64| lba_bytes.map(|lba_bytes| Wide(u128::from(blocks) * u128::from(lba_bytes)));
        let nsfeat = Nsfeat::from(id.nsfeat);
        let dlfeat = Dlfeat::from(id.dlfeat);
        Self {
            schema: "nvmectl-identify-namespace",
            version: "1.0",
            device: format!("{scheme}:{nsid}"),
            nsid,
            active: id.nsze.get() != 0,
            size_bytes: bytes(id.nsze.get()),
            size_blocks: id.nsze.get(),
            capacity_bytes: bytes(id.ncap.get()),
            capacity_blocks: id.ncap.get(),
            used_bytes: bytes(id.nuse.get()),
            used_blocks: id.nuse.get(),
            lba_bytes,
            metadata_bytes: format.map(|format| format.ms.get()),
            nguid: hex_id(&id.nguid),
            eui64: hex_id(&id.eui64),
            features: flags!(
                nsfeat,
                thin,
                atomic_write_units,
                deallocated_error,
                uid_not_reused,
                optimal_io
            ),
            shared: id.nmic & 1 != 0,
            write_protected: id.nsattr & 1 != 0,
            protection_information_type: reported(Dps::from(id.dps).pi_type()),
            deallocated_blocks_read: match dlfeat.read_value() {
                0 => "not reported",
                1 => "all 00h",
                2 => "all FFh",
                _ => "unknown",
            },
            write_zeroes_deallocates: dlfeat.write_zeroes_deallocates(),
            nvm_capacity_bytes: Wide::reported(id.nvmcap.get()),
            optimal_io_boundary_blocks: reported(id.noiob.get()),
            optimal_io: nsfeat.optimal_io().then(|| OptimalIo::new(id)),
            atomic_writes: nsfeat.atomic_write_units().then(|| AtomicWrites::new(id)),
            format_remaining_percent: (id.fpi & 0x80 != 0).then_some(id.fpi & 0x7F),
            nvm_set: reported(id.nvmsetid.get()),
            endurance_group: reported(id.endgid.get()),
            ana_group: reported(id.anagrpid.get()),
            formats: formats(id, format),
        }
    }
}

impl OptimalIo {
    fn new(id: &IdentifyNamespace) -> Self {
        Self {
            write_granularity_blocks: u32::from(id.npwg.get()) + 1,
            write_alignment_blocks: u32::from(id.npwa.get()) + 1,
            write_size_blocks: u32::from(id.nows.get()) + 1,
            deallocate_granularity_blocks: u32::from(id.npdg.get()) + 1,
            deallocate_alignment_blocks: u32::from(id.npda.get()) + 1,
        }
    }
}

impl AtomicWrites {
    fn new(id: &IdentifyNamespace) -> Self {
        Self {
            normal_blocks: u32::from(id.nawun.get()) + 1,
            power_fail_blocks: u32::from(id.nawupf.get()) + 1,
            compare_and_write_blocks: u32::from(id.nacwu.get()) + 1,
        }
    }
}

fn formats(id: &IdentifyNamespace, current: Option<LbaFormat>) -> Vec<Format> {
    let in_use = current.map(|_| usize::from(nvme_spec::identify::Flbas::from(id.flbas).format_index()));
    id.formats()
        .iter()
        .enumerate()
        // LBADS 0: a format that is not available (NVM Command Set 1.0, section 4.1.5.1).
        .filter(|(_, format)| format.lbads != 0)
        .map(|(index, format)| Format {
            format: index,
            in_use: in_use == Some(index),
            lba_bytes: format.block_bytes(),
            metadata_bytes: format.ms.get(),
            performance: match format.rp & 0b11 {
                0 => "best",
                1 => "better",
                2 => "good",
                _ => "degraded",
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use zerocopy::FromBytes;

    use super::*;
    use crate::style::Style;
    use crate::units::Units;
    use crate::view;

    fn sample() -> IdentifyNamespace {
        let mut id = IdentifyNamespace {
            nlbaf_z: 1,
            flbas: 1,
            ..IdentifyNamespace::default()
        };
        id.nsze.set(262_144);
        id.ncap.set(262_144);
        id.nuse.set(1);
        id.lbaf[0] = LbaFormat::new(9, 0);
        id.lbaf[1] = LbaFormat::new(12, 0);
        id.nguid[15] = 7;
        id.dlfeat = 0b1001;
        id
    }

    #[test]
    fn blocks_are_also_bytes() {
        let document = serde_json::to_value(NamespaceDocument::new("nvme", 1, &sample())).unwrap();
        for (key, value) in [
            ("active", json!(true)),
            ("size_blocks", json!(262_144)),
            ("size_bytes", json!("1073741824")),
            ("used_bytes", json!("4096")),
            ("lba_bytes", json!(4096)),
            ("nguid", json!("00000000000000000000000000000007")),
            ("eui64", json!(null)),
            ("deallocated_blocks_read", json!("all 00h")),
            ("write_zeroes_deallocates", json!(true)),
            ("optimal_io", json!(null)),
        ] {
            assert_eq!(document[key], value, "{key}");
        }
        assert_eq!(document["formats"][0]["in_use"], false);
        assert_eq!(document["formats"][1]["in_use"], true);
        assert_eq!(document["formats"][1]["lba_bytes"], 4096);
    }

    #[test]
    fn an_inactive_namespace_is_no_error() {
        let document =
            serde_json::to_value(NamespaceDocument::new("nvme", 5, &IdentifyNamespace::default())).unwrap();
        assert_eq!(document["active"], false);
        assert_eq!(document["lba_bytes"], json!(null));
        assert_eq!(document["formats"], json!([]));
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_document(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = [0u8; 4096];
            random.fill(&mut bytes);
            let id = IdentifyNamespace::read_from_bytes(&bytes).unwrap();
            let text = view::render(&NamespaceDocument::new("nvme", 1, &id), HEX, &Style::plain(Units::Iec));
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{}", text);
        }
    }
}
