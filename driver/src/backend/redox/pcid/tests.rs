use proptest::prelude::*;
use syscall::error::EIO;

use super::*;
use crate::backend::redox::fake::Fake;

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
    framed.extend(bytes);
    framed
}

/// A channel that answers everything with `answer`.
fn answering(answer: Vec<u8>) -> (Arc<Fake>, Pcid) {
    let fake = Fake::new();
    let pcid = Pcid::new(fake.channel(move |_| Ok(answer.clone())));
    (fake, pcid)
}

/// A function as bincode writes it, byte by byte.
fn config() -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0]; // Config
    bytes.extend([0, 0, 0, 2, 0]); // segment, bus, device, function
    bytes.extend([2, 0, 0, 0]); // Memory64
    bytes.extend(0x80_0000_4000_u64.to_le_bytes());
    bytes.extend(0x4000_u64.to_le_bytes());
    bytes.extend([0, 0, 0, 0]); // None: the upper half of the first
    bytes.extend([1, 0, 0, 0]); // Memory32
    bytes.extend(0xFEBD_1000_u32.to_le_bytes());
    bytes.extend(0x1000_u32.to_le_bytes());
    bytes.extend([3, 0, 0, 0, 0x40, 0xC0]); // Port
    bytes.extend([0; 8]);
    bytes.extend([1, 11, 0]); // a line, 11, without a handle
    bytes.extend([0x36, 0x1B, 0x10, 0x00, 1, 8, 2, 2]);
    bytes
}

#[test]
fn the_function_is_read_as_pcid_writes_it() {
    let (fake, pcid) = answering(framed(&config()));
    let function = pcid.function().unwrap();
    assert_eq!(function.address(), "0000:00:02.0");
    assert_eq!(function.name(), "pci-0000-00-02.0");
    let memory = |address, len_bytes| Bar::Memory { address, len_bytes };
    assert_eq!(
        function.bars,
        [
            memory(0x80_0000_4000, 0x4000),
            Bar::None,
            memory(0xFEBD_1000, 0x1000),
            Bar::Port(0xC040),
            Bar::None,
            Bar::None
        ]
    );
    let line = LegacyLine {
        irq: 11,
        phandle: None,
    };
    assert_eq!(function.line, Some(line));
    assert_eq!((function.vendor_id, function.device_id), (0x1B36, 0x0010));
    assert_eq!((function.class, function.revision), ([1, 8, 2], 2));
    assert_eq!(fake.lock().requests, [vec![1, 0, 0, 0]]);
}

#[test]
fn a_line_of_a_device_tree_is_read() {
    let mut bytes = config();
    let ids = bytes.split_off(bytes.len() - 8);
    bytes.truncate(bytes.len() - 3);
    bytes.extend([1, 7, 1]);
    bytes.extend([9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    bytes.extend(2_u64.to_le_bytes());
    bytes.extend(ids);
    let (_fake, pcid) = answering(framed(&bytes));
    let line = LegacyLine {
        irq: 7,
        phandle: Some((9, [1, 2, 3], 2)),
    };
    assert_eq!(pcid.function().unwrap().line, Some(line));
}

#[test]
fn requests_are_one_write_each_as_pcid_reads_them() {
    let fake = Fake::new();
    let pcid = Pcid::new(fake.channel(|request| {
        Ok(framed(match request[0] {
            2 => &[2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            4 => &[4, 0, 0, 0, 1, 0, 0, 0],
            5 if request[4] == 1 => &[
                7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 4, 0x34, 0x12, 0, 0, 65, 0, 5, 0x78, 0x56, 0, 0,
            ],
            5 => &[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 0],
            6 => &[8, 0, 0, 0, 0, 0, 0, 0],
            7 => &[9, 0, 0, 0, 0x78, 0x56, 0x34, 0x12],
            _ => &[10, 0, 0, 0],
        }))
    }));
    assert_eq!(pcid.features(), Ok(vec![Feature::MsiX, Feature::Msi]));
    assert_eq!(pcid.enable(Feature::MsiX), Ok(()));
    let msix = MsixInfo {
        table_bar: 4,
        table_offset: 0x1234,
        table_entries: 65,
        pba_bar: 5,
        pba_offset: 0x5678,
    };
    assert_eq!(pcid.msix(), Ok(msix));
    let msi = MsiInfo {
        log2_vectors: 3,
        is_64_bit: true,
        has_mask: false,
    };
    assert_eq!(pcid.msi(), Ok(msi));
    assert_eq!(pcid.set_msi(0xFEE0_1000, 0x52, true), Ok(()));
    assert_eq!(pcid.set_msi(0xFEE0_1000, 0x52, false), Ok(()));
    assert_eq!(pcid.read_config(4), Ok(0x1234_5678));
    assert_eq!(pcid.write_config(4, 0x0403), Ok(()));
    let set = [
        &[6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1][..],
        &[0x00, 0x10, 0xE0, 0xFE, 0, 0, 0, 0, 0x52, 0, 0, 0],
    ]
    .concat();
    assert_eq!(
        fake.lock().requests,
        [
            vec![2, 0, 0, 0],
            vec![4, 0, 0, 0, 1, 0, 0, 0],
            vec![5, 0, 0, 0, 1, 0, 0, 0],
            vec![5, 0, 0, 0, 0, 0, 0, 0],
            [&set[..], &[1, 0, 0, 0, 0]].concat(),
            [&set[..], &[0]].concat(),
            vec![7, 0, 0, 0, 4, 0],
            vec![8, 0, 0, 0, 4, 0, 3, 4, 0, 0],
        ]
    );
}

/// A request, and the kind of answer that it wants.
type Asking = (&'static str, fn(&Pcid) -> Result<(), PcidError>);
const ASKING: [Asking; 8] = [
    ("Config", |pcid| pcid.function().map(drop)),
    ("AllFeatures", |pcid| pcid.features().map(drop)),
    ("FeatureEnabled(Msi)", |pcid| pcid.enable(Feature::Msi)),
    ("FeatureEnabled(MsiX)", |pcid| pcid.enable(Feature::MsiX)),
    ("FeatureInfo", |pcid| pcid.msix().map(drop)),
    ("SetFeatureInfo(Msi)", |pcid| pcid.set_msi(0xFEE0_0000, 50, false)),
    ("ReadConfig", |pcid| pcid.read_config(4).map(drop)),
    ("WriteConfig", |pcid| pcid.write_config(4, 0)),
];

#[test]
fn an_answer_to_another_request_is_an_error_and_the_next_is_heard() {
    let replies: [&[u8]; 12] = [
        &[0, 0, 0, 0],
        &config(),
        &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0, 1, 2, 3],
        &[4, 0, 0, 0, 0, 0, 0, 0],
        &[4, 0, 0, 0, 1, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[
            7, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0,
        ],
        &[8, 0, 0, 0, 0, 0, 0, 0],
        &[8, 0, 0, 0, 1, 0, 0, 0],
        &[9, 0, 0, 0, 1, 2, 3, 4],
        &[10, 0, 0, 0],
    ];
    for (wanted, ask) in ASKING {
        let mut fitting = 0;
        for reply in replies {
            let (_fake, pcid) = answering(framed(reply));
            let kind = Reply::read(reply).unwrap().kind();
            // Asked twice: an odd answer does not put the channel out of step.
            for _ in 0..2 {
                match ask(&pcid) {
                    Ok(()) => {
                        fitting += 1;
                        assert_eq!(kind, wanted);
                    }
                    Err(error) => {
                        assert_ne!(kind, wanted);
                        assert_eq!(error.why, Why::Malformed(Malformed::Other(kind)));
                    }
                }
            }
        }
        assert_eq!(fitting, 2, "{wanted}");
    }
}

#[test]
fn what_msi_is_like_is_no_answer_to_what_msi_x_is_like() {
    let of_msi = &[0_u8, 0, 0, 0, 3, 1, 0][..];
    let of_msix = &[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for (feature, info) in [(1, of_msi), (0, of_msix)] {
        let (_fake, pcid) = answering(framed(&[&[7, 0, 0, 0, feature, 0, 0, 0], info].concat()));
        let other = Why::Malformed(Malformed::Other("FeatureInfo"));
        assert_eq!(pcid.msi().unwrap_err().why, other);
        assert_eq!(pcid.msix().unwrap_err().why, other);
    }
}

#[test]
fn a_refusal_is_told() {
    let (_fake, pcid) = answering(framed(&[6, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]));
    for (_, ask) in ASKING {
        let refused = Why::Refused(Refusal::NoFeature(Feature::MsiX));
        assert_eq!(ask(&pcid).unwrap_err().why, refused);
    }
    let (_fake, pcid) = answering(framed(&[6, 0, 0, 0, 1, 0, 0, 0]));
    let error = pcid.set_msi(1, 2, false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "pcid was asked to set MSI to write 0x2 to 0x1: it refused: those bits cannot be set so"
    );
}

#[test]
fn an_answer_comes_in_any_number_of_reads() {
    for chunk in [1, 3, 7] {
        let (fake, pcid) = answering(framed(&config()));
        fake.lock().chunk = chunk;
        assert_eq!(pcid.function().unwrap().name(), "pci-0000-00-02.0");
        assert_eq!(pcid.function().unwrap().name(), "pci-0000-00-02.0");
    }
}

#[test]
fn after_an_answer_that_is_not_whole_nothing_more_is_asked() {
    let whole = framed(&config());
    for len in 0..whole.len() {
        let (fake, pcid) = answering(whole[..len].to_vec());
        assert!(matches!(pcid.function().unwrap_err().why, Why::Ended { .. }));
        assert_eq!(pcid.read_config(4).unwrap_err().why, Why::OutOfStep);
        assert_eq!(fake.lock().requests.len(), 1);
    }
    for len in [MAX_REPLY_BYTES as u64 + 1, u64::MAX] {
        let (_fake, pcid) = answering(len.to_le_bytes().to_vec());
        assert_eq!(pcid.function().unwrap_err().why, Why::TooLong(len));
        assert_eq!(pcid.features().unwrap_err().why, Why::OutOfStep);
    }
}

#[test]
fn an_answer_must_use_up_its_bytes() {
    for (reply, malformed) in [
        ([&config()[..], &[0]].concat(), Malformed::Long(1)),
        (config()[..20].to_vec(), Malformed::Short),
        (vec![], Malformed::Short),
        (vec![11, 0, 0, 0], Malformed::Kind(11)),
    ] {
        let (_fake, pcid) = answering(framed(&reply));
        assert_eq!(pcid.function().unwrap_err().why, Why::Malformed(malformed));
    }
    // A list that says that it is longer than memory.
    let (_fake, pcid) = answering(framed(&[2, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]));
    assert_eq!(pcid.features().unwrap_err().why, Why::Malformed(Malformed::Short));
}

#[test]
fn a_channel_that_fails_is_an_error() {
    let fake = Fake::new();
    let pcid = Pcid::new(fake.channel(|_| Err(Error::new(EIO))));
    for _ in 0..2 {
        assert_eq!(pcid.function().unwrap_err().why, Why::Send(Error::new(EIO)));
    }
}

#[test]
fn a_call_that_is_interrupted_is_made_again_but_not_for_ever() {
    let fake = Fake::new();
    let mut left = 3;
    let pcid = Pcid::new(fake.channel(move |_| {
        left -= 1;
        if left > 0 {
            return Err(Error::new(EINTR));
        }
        Ok(framed(&[9, 0, 0, 0, 7, 0, 0, 0]))
    }));
    assert_eq!(pcid.read_config(0), Ok(7));
    let pcid = Pcid::new(fake.channel(|_| Err(Error::new(EINTR))));
    let why = pcid.read_config(0).unwrap_err().why;
    assert_eq!(why, Why::Send(Error::new(EINTR)));
}

proptest! {
    #[test]
    fn no_answer_does_more_than_fail(kind in 0_u8..12, rest in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Reply::read(&[&[kind, 0, 0, 0], &rest[..]].concat());
    }

    /// Small numbers get further in.
    #[test]
    fn no_answer_of_small_numbers_does_more_than_fail(bytes in prop::collection::vec(0_u8..4, 0..200)) {
        let _ = Reply::read(&bytes);
    }
}
