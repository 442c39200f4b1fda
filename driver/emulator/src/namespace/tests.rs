use std::collections::HashSet;

use nvme_spec::identify::NamespaceDescriptors;
use proptest::prelude::*;

use super::*;

fn namespaces(spec: &str) -> Vec<Namespace> {
    let config: Config = spec.parse().unwrap();
    (1..)
        .zip(&config.namespaces)
        .map(|(nsid, _)| Namespace::open(&config, nsid).unwrap())
        .collect()
}

#[test]
fn it_describes_what_it_is() {
    let namespaces = namespaces("size=8MiB,lba=512/4096");
    for (namespace, (lbads, index)) in namespaces.iter().zip([(9, 0), (12, 1)]) {
        let identify = namespace.identify();
        assert_eq!(identify.nsze.get(), (8 << 20) >> lbads);
        assert_eq!(identify.ncap, identify.nsze);
        assert_eq!(identify.nuse.get(), 0);
        assert_eq!(identify.nvmcap.get(), 8 << 20);
        assert_eq!(identify.flbas, index);
        assert_eq!(identify.current_format(), Some(LbaFormat::new(lbads, 0)));
        assert_eq!(identify.formats().len(), 2);
        assert_eq!(
            (identify.nguid, identify.eui64),
            (namespace.nguid(), namespace.eui64())
        );
        assert_eq!(namespace.identify_independent().nstat, 1);
    }
    assert_eq!(namespaces.iter().map(Namespace::nsid).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn the_descriptor_list_has_every_identifier() {
    let namespaces = namespaces("");
    let list = namespaces[0].identify_descriptors();
    let found: Vec<(Nidt, usize)> = NamespaceDescriptors::new(&list)
        .map(|descriptor| (descriptor.nidt, descriptor.data.len()))
        .collect();
    assert_eq!(
        found,
        [
            (Nidt::EUI64, 8),
            (Nidt::NGUID, 16),
            (Nidt::UUID, 16),
            (Nidt::CSI, 1)
        ]
    );
    let nguid = NamespaceDescriptors::new(&list)
        .find(|descriptor| descriptor.nidt == Nidt::NGUID)
        .unwrap();
    assert_eq!(nguid.data, namespaces[0].nguid());
}

#[test]
fn identifiers_are_unique_and_come_again() {
    let specs = [
        "namespaces=128,size=4096",
        "namespaces=128,size=4096,seed=1",
        "namespaces=128,size=4096,serial=X",
    ];
    let all: Vec<_> = specs
        .iter()
        .flat_map(|spec| namespaces(spec))
        .map(|namespace| (namespace.nguid(), namespace.eui64()))
        .collect();
    assert_eq!(
        all.iter().map(|(nguid, _)| nguid).collect::<HashSet<_>>().len(),
        all.len()
    );
    assert_eq!(
        all.iter().map(|(_, eui64)| eui64).collect::<HashSet<_>>().len(),
        all.len()
    );
    let again = namespaces(specs[0]);
    assert_eq!((again[127].nguid(), again[127].eui64()), all[127]);
    assert!(
        all.iter()
            .all(|(nguid, eui64)| nguid[8..11] == OUI && eui64[..3] == OUI)
    );
}

#[test]
fn utilization_grows_with_what_is_written() {
    let namespace = &namespaces("size=100KiB,lba=512")[0];
    namespace
        .storage()
        .write(0, 512, &mut Vec::new(), |_| Ok::<(), StorageError>(()))
        .unwrap();
    // Room is taken in larger pieces than this namespace has blocks.
    assert_eq!(namespace.identify().nuse, namespace.identify().nsze);
}

#[test]
fn a_format_erases_and_changes_the_blocks() {
    let namespace = &namespaces("size=1MiB,lba=512")[0];
    let fill = |into: &mut [u8]| {
        into.fill(7);
        Ok::<(), StorageError>(())
    };
    namespace
        .storage()
        .write(0, 1 << 20, &mut Vec::new(), fill)
        .unwrap();
    assert_eq!(
        namespace.format_nvm(2),
        Err(Status::INVALID_FORMAT.with_dnr(true))
    );
    assert_eq!(
        namespace.format(),
        Format {
            blocks: 2048,
            lbads: 9
        }
    );
    assert_eq!(namespace.format_nvm(1), Ok(()));
    assert_eq!(
        namespace.format(),
        Format {
            blocks: 256,
            lbads: 12
        }
    );
    assert_eq!(namespace.identify().flbas, 1);
    assert_eq!(namespace.identify().nuse.get(), 0);
    let zeroes = |bytes: &[u8]| {
        assert!(bytes.iter().all(|byte| *byte == 0));
        Ok::<(), StorageError>(())
    };
    namespace
        .storage()
        .read(0, 1 << 20, &mut Vec::new(), zeroes)
        .unwrap();
}

#[test]
fn it_grows_and_shrinks_within_the_capacity() {
    let namespace = &namespaces("size=1MiB,lba=4096")[0];
    namespace.resize(512).unwrap();
    assert_eq!(
        namespace.format(),
        Format {
            blocks: 512,
            lbads: 12
        }
    );
    namespace.resize(10).unwrap();
    assert_eq!(namespace.identify().nsze.get(), 10);
    assert!(matches!(
        namespace.resize(u64::MAX),
        Err(StorageError::OutOfRange { .. })
    ));
    assert_eq!(
        namespace.format(),
        Format {
            blocks: 10,
            lbads: 12
        }
    );
}

proptest! {
    #[test]
    fn ranges_are_inside_or_refused(slba: u64, blocks in 0u64..=u64::MAX, size in 0u64..1 << 52, small: bool) {
        let format = Format { blocks: size, lbads: if small { 9 } else { 12 } };
        prop_assert_eq!(Format::unpack(format.pack()), format);
        match format.range_bytes(slba, blocks) {
            Ok((offset_bytes, len_bytes)) => {
                prop_assert_eq!(offset_bytes >> format.lbads, slba);
                prop_assert_eq!(len_bytes >> format.lbads, blocks);
                prop_assert!(u128::from(offset_bytes) + u128::from(len_bytes) <= u128::from(format.size_bytes()));
            }
            Err(status) => {
                prop_assert!(status.is(Status::LBA_OUT_OF_RANGE) && status.dnr());
                prop_assert!(u128::from(slba) + u128::from(blocks) > u128::from(size));
            }
        }
    }
}
