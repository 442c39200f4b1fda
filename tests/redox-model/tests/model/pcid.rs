//! pcid's channel: who may speak when, what it says, and how oddly.

use nvme_redox_model::{ControllerConfig, PciAddress, PciIds, PcidQuirk, PcidRequest};
use syscall::error::{EINVAL, EIO};

use crate::bus::Bus;

const REQUEST_CONFIG: [u8; 4] = [1, 0, 0, 0];

fn errno<T>(result: syscall::error::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno)
}

fn bus() -> Bus {
    Bus::new(
        1,
        ControllerConfig {
            address: PciAddress {
                segment: 0x0102,
                bus: 3,
                device: 4,
                function: 5,
            },
            ids: PciIds {
                revision: 9,
                ..PciIds::default()
            },
            bars_64bit: false,
            msix_bar: 2,
            ..ControllerConfig::new("size=16MiB")
        },
    )
}

#[test]
fn the_configuration_is_what_it_is_byte_for_byte() {
    let mut expected = vec![1, 0, 0, 0];
    expected.extend([0x02, 0x01, 3, 4, 5]);
    // Memory32 { addr, size }; None; Memory32; three times None.
    expected.extend([1, 0, 0, 0, 0, 0, 0xB0, 0xFE, 0, 0x40, 0, 0]);
    expected.extend([0; 4]);
    expected.extend([1, 0, 0, 0, 0, 0, 0xD0, 0xFE, 0, 0x40, 0, 0]);
    expected.extend([0; 12]);
    // Some(LegacyInterruptLine { irq: 11, phandled: None }).
    expected.extend([1, 11, 0]);
    expected.extend([0x36, 0x1B, 0x10, 0, 1, 8, 2, 9]);
    assert_eq!(bus().ask(&REQUEST_CONFIG), expected);
}

#[test]
fn one_speaks_after_the_other() {
    let bus = bus();
    let (read, write) = (
        |into: &mut [u8]| bus.system.read(bus.channel, into),
        |from: &[u8]| bus.system.write(bus.channel, from),
    );
    assert_eq!(errno(read(&mut [0; 8])), EINVAL);
    assert_eq!(errno(write(&[1, 0, 0])), EINVAL);
    assert_eq!(errno(write(&[9, 0, 0, 0])), EINVAL);
    assert_eq!(
        errno(write(&[4, 0, 0, 0, 2, 0, 0, 0])),
        EINVAL,
        "there is no such feature"
    );
    assert_eq!(write(&REQUEST_CONFIG), Ok(4));
    assert_eq!(errno(write(&REQUEST_CONFIG)), EINVAL);
    let mut len = [0; 8];
    // In pieces, as the driver likes.
    assert_eq!(read(&mut len[..3]), Ok(3));
    assert_eq!(read(&mut len[3..]), Ok(5));
    let mut rest = vec![0; 100];
    assert_eq!(read(&mut rest), Ok(u64::from_le_bytes(len) as usize));
    assert_eq!(errno(read(&mut rest)), EINVAL);
    assert_eq!(
        bus.machine.controller(0).pcid_requests(),
        [PcidRequest::RequestConfig]
    );
}

/// What comes of an exchange: an error of the write, or what can be read before the end or an error.
#[derive(Debug, PartialEq)]
enum Outcome {
    Unwritten(i32),
    Short,
    Bytes(Vec<u8>, i32),
}

fn exchange(bus: &Bus, request: &[u8]) -> Outcome {
    match bus.system.write(bus.channel, request) {
        Err(error) => return Outcome::Unwritten(error.errno),
        Ok(count) if count < request.len() => return Outcome::Short,
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 64];
        match bus.system.read(bus.channel, &mut some) {
            Ok(0) => return Outcome::Bytes(bytes, 0),
            Ok(count) => bytes.extend_from_slice(&some[..count]),
            Err(error) => return Outcome::Bytes(bytes, error.errno),
        }
    }
}

#[test]
fn every_answer_can_be_odd_in_every_way() {
    let requests: [&[u8]; 9] = [
        &[0; 4],
        &REQUEST_CONFIG,
        &[2, 0, 0, 0],
        &[3, 0, 0, 0],
        &[4, 0, 0, 0, 1, 0, 0, 0],
        &[5, 0, 0, 0, 1, 0, 0, 0],
        &[6, 0, 0, 0, 1, 0, 0, 0, 0],
        &[7, 0, 0, 0, 4, 0],
        &[8, 0, 0, 0, 4, 0, 6, 0, 0, 0],
    ];
    for (request, kind) in requests.into_iter().zip(PcidRequest::ALL) {
        let plain = exchange(&bus(), request);
        let Outcome::Bytes(whole, EINVAL) = &plain else {
            panic!("{kind:?}: {plain:?}");
        };
        assert_eq!(
            u64::from_le_bytes(whole[..8].try_into().unwrap()),
            whole.len() as u64 - 8
        );
        for quirk in PcidQuirk::ALL {
            let bus = bus();
            bus.machine.controller(0).upset_pcid(kind, quirk);
            let odd = exchange(&bus, request);
            match quirk {
                PcidQuirk::OneByteAtATime => assert_eq!(odd, plain),
                PcidQuirk::WriteFails => assert_eq!(odd, Outcome::Unwritten(EIO)),
                PcidQuirk::WriteIsShort => assert_eq!(odd, Outcome::Short),
                PcidQuirk::EndOfFile => assert_eq!(odd, Outcome::Bytes(Vec::new(), 0)),
                PcidQuirk::ReadFails => assert_eq!(odd, Outcome::Bytes(Vec::new(), EIO)),
                PcidQuirk::EndsEarly => {
                    assert_eq!(odd, Outcome::Bytes(whole[..whole.len() - 1].to_vec(), 0));
                }
                _ => assert_ne!(odd, plain, "{kind:?} {quirk:?}"),
            }
            bus.machine.controller(0).calm_pcid();
        }
    }
}
