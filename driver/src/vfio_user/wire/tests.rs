//! Bytes in, messages out, and back.

use proptest::prelude::*;

use super::*;

#[test]
fn structures_are_as_long_as_the_protocol_says() {
    assert_eq!(size_of::<Header>(), HEADER_BYTES);
    assert_eq!(size_of::<DmaMap>(), 32);
    assert_eq!(size_of::<DmaUnmap>(), 24);
    assert_eq!(size_of::<DeviceInfo>(), 16);
    assert_eq!(size_of::<RegionInfo>(), 32);
    assert_eq!(size_of::<SparseHeader>(), 16);
    assert_eq!(size_of::<SparseArea>(), 16);
    assert_eq!(size_of::<IrqInfo>(), 16);
    assert_eq!(size_of::<SetIrqs>(), 20);
    assert_eq!(size_of::<RegionAccess>(), 16);
    assert_eq!(size_of::<DmaAccess>(), 16);
    assert_eq!(size_of::<SmallWrite>(), 24);
}

#[test]
fn capabilities_that_are_not_there_have_the_protocols_values() {
    assert_eq!(Capabilities::decode(b""), Ok(Capabilities::default()));
    assert_eq!(Capabilities::decode(b"{}\0"), Ok(Capabilities::default()));
    let spdk = br#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"twin_socket":{"supported":false}}}"#;
    let decoded = Capabilities::decode(&[spdk.as_slice(), b"\0"].concat()).unwrap();
    assert_eq!(
        decoded,
        Capabilities {
            max_msg_fds: 8,
            ..Capabilities::default()
        }
    );
    for text in [
        "{}",
        "\0",
        "[\0",
        "{\"capabilities\":{\"max_msg_fds\":\"8\"}}\0",
        "{\"capabilities\":{\"pgsizes\":-1}}\0",
        "{\"capabilities\":{\"write_multiple\":1}}\0",
    ] {
        assert!(
            matches!(
                Capabilities::decode(text.as_bytes()),
                Err(WireError::Capabilities(_))
            ),
            "{text:?}"
        );
    }
}

#[test]
fn sizes_and_types_that_no_message_has_are_refused() {
    let header = Header::command(3, Command::RegionRead, 16);
    assert_eq!(header.payload_bytes(), Ok(16));
    for size in [0, 15, MAX_MESSAGE_BYTES + 1, u32::MAX] {
        let error = Header { size, ..header }.payload_bytes();
        assert_eq!(error, Err(WireError::Size { bytes: size }));
    }
    let error = Header { flags: 2, ..header }.payload_bytes();
    assert_eq!(error, Err(WireError::Type { flags: 2 }));
    let failed = header.error_reply(22);
    assert_eq!((failed.id, failed.size, failed.failure()), (3, 16, Some(22)));
    assert!(failed.is_reply() && header.reply(0).failure().is_none() && !header.is_reply());
}

#[test]
fn what_of_a_region_can_be_mapped_is_told_if_there_is_room() {
    let info = RegionInfo {
        index: 0,
        flags: RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP,
        size: 0x4000,
        ..RegionInfo::default()
    };
    let areas = [
        SparseArea {
            offset: 0x1000,
            size: 0x1000,
        },
        SparseArea {
            offset: 0x3000,
            size: 0x1000,
        },
    ];
    let (payload, whole) = info.encode(&areas, 32);
    assert!(!whole);
    let (told, none) = RegionInfo::decode(&payload).unwrap();
    assert_eq!((told.argsz, payload.len(), none), (32 + 16 + 32, 32, None));
    let (payload, whole) = info.encode(&areas, told.argsz);
    assert!(whole);
    let (told, decoded) = RegionInfo::decode(&payload).unwrap();
    assert_eq!((told.size, decoded.as_deref()), (0x4000, Some(areas.as_slice())));
    // A capability that is not known here comes first.
    let mut bytes = told.as_bytes().to_vec();
    let unknown = CapHeader {
        id: 77,
        version: 1,
        next: 48,
    };
    bytes.extend_from_slice(unknown.as_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&payload[32..]);
    assert_eq!(
        RegionInfo::decode(&bytes).unwrap().1.as_deref(),
        Some(areas.as_slice())
    );
    // One that leads back to itself.
    bytes[36..40].copy_from_slice(&32u32.to_ne_bytes());
    assert!(RegionInfo::decode(&bytes).is_err());
    // Areas that are not there.
    let mut bytes = payload.clone();
    bytes[40..44].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(RegionInfo::decode(&bytes).is_err());
}

fn requests() -> impl Strategy<Value = (u16, Vec<u8>)> {
    // Half of the time a payload of about the right length, so that what is inside is looked at.
    let length = prop_oneof![0usize..80, Just(16usize), Just(20), Just(24), Just(32), Just(56)];
    (0u16..20, length).prop_flat_map(|(command, length)| {
        let byte = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
        (Just(command), proptest::collection::vec(byte, length))
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_request_or_an_error((command, payload) in requests()) {
        if let Ok(request) = Request::decode(command, &payload) {
            let (encoded_command, encoded) = request.encode();
            prop_assert_eq!(encoded_command as u16, command);
            prop_assert_eq!(Request::decode(command, &encoded), Ok(request.clone()));
            if !matches!(request, Request::Version(..)) {
                prop_assert_eq!(&payload[..encoded.len()], &encoded[..]);
            }
        }
        let _ = RegionInfo::decode(&payload);
    }

    #[test]
    fn any_header_says_a_size_within_bounds_or_is_refused(bytes in any::<[u8; HEADER_BYTES]>()) {
        let header = Header::read_from_bytes(&bytes).unwrap();
        if let Ok(payload_bytes) = header.payload_bytes() {
            prop_assert!(payload_bytes + HEADER_BYTES <= MAX_MESSAGE_BYTES as usize);
        }
    }

    #[test]
    fn capabilities_survive_the_wire(
        max_msg_fds in 0usize..300,
        max_data_xfer_bytes in any::<u32>(),
        max_dma_maps in any::<u64>(),
        write_multiple in any::<bool>(),
    ) {
        let capabilities = Capabilities {
            max_msg_fds,
            max_data_xfer_bytes,
            max_dma_maps,
            page_sizes: 0x20_1000,
            write_multiple,
        };
        prop_assert_eq!(Capabilities::decode(&capabilities.encode()), Ok(capabilities));
    }
}
