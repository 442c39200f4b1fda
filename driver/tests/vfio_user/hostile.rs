//! Our server under clients that do not do their part: it answers or sends them away, and serves the next one.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nvme_driver::config::PollingMode;
use nvme_driver::vfio_user::channel::{ChannelError, Others};
use nvme_driver::vfio_user::wire::{
    Capabilities, Command, DmaMap, DmaUnmap, Header, IrqInfo, MAX_DATA_XFER_BYTES, RegionAccess, RegionInfo,
    Request, SetIrqs, SmallWrite, Version,
};
use nvme_spec::{Aqa, Cc, Csts, register};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use crate::rig::{Client, Hand, PATIENCE, Served, memfd};

const INVALID: u32 = 22;

fn is_well(served: &Served) {
    let client = Client::open(&served.socket, PollingMode::Interrupt, 2);
    client.verify(9, 300);
    client.driver.shutdown().unwrap();
}

fn map(address: u64, size: u64) -> DmaMap {
    DmaMap {
        argsz: 32,
        flags: DmaMap::READ | DmaMap::WRITE,
        offset: 0,
        address,
        size,
    }
}

fn access(region: u32, offset: u64, count: u32) -> RegionAccess {
    RegionAccess {
        offset,
        region,
        count,
    }
}

#[test]
fn a_client_by_hand_is_told_what_the_function_is() {
    let served = Served::start("size=1MiB,vectors=5");
    let mut hand = Hand::greeted(&served.socket);
    // First with room for the structure only, as QEMU asks.
    let mut asked = RegionInfo {
        argsz: 32,
        ..RegionInfo::default()
    };
    let answer = hand.ask_all(&Request::DeviceGetRegionInfo(asked), &[]).unwrap();
    let (info, areas) = RegionInfo::decode(&answer.payload).unwrap();
    assert_eq!((answer.descriptors.len(), areas), (0, None));
    asked.argsz = info.argsz;
    let answer = hand.ask_all(&Request::DeviceGetRegionInfo(asked), &[]).unwrap();
    let (_, areas) = RegionInfo::decode(&answer.payload).unwrap();
    assert_eq!(answer.descriptors.len(), 1);
    let area = areas.unwrap()[0];
    assert_eq!((area.offset, area.size), (0x1000, 0x1000));
    for (index, count) in [(0, 0), (1, 0), (2, 5)] {
        let asked = IrqInfo {
            index,
            ..IrqInfo::default()
        };
        let answer = hand.ask(&Request::DeviceGetIrqInfo(asked), &[]).unwrap();
        assert_eq!(IrqInfo::read_from_bytes(&answer).unwrap().count, count);
    }
    let mut vs = hand
        .ask(&Request::RegionRead(access(0, register::VS as u64, 4)), &[])
        .unwrap();
    assert_eq!(vs.split_off(16), [0, 0, 2, 0]);
}

#[test]
fn nothing_of_a_client_is_left_for_the_next_one() {
    let served = Served::start("size=1MiB,vectors=5");
    let file = memfd(1 << 20);
    for _ in 0..3 {
        let mut hand = Hand::greeted(&served.socket);
        let mut config = |offset| {
            let word = hand.ask(&Request::RegionRead(access(7, offset, 2)), &[]).unwrap();
            u16::from_le_bytes(word[16..].try_into().unwrap())
        };
        assert_eq!(
            (config(4), config(0x52)),
            (0, 4),
            "no bus master, no MSI-X, five vectors"
        );
        // What the last one has mapped, and has not unmapped, is free.
        hand.ask(&Request::DmaMap(map(0x10_0000, 1 << 20)), &[file.as_fd()])
            .unwrap();
        hand.ask(&Request::RegionWrite(access(7, 4, 2), &[6, 0]), &[])
            .unwrap();
        hand.ask(&Request::RegionWrite(access(7, 0x52, 2), &[0, 0x80]), &[])
            .unwrap();
    }
}

#[test]
fn without_a_version_first_nothing_goes() {
    let served = Served::start("");
    let mut hand = Hand::connect(&served.socket);
    assert_eq!(hand.ask(&Request::DeviceReset, &[]), Err(INVALID));
    let end = hand.channel.receive(Some(PATIENCE), Others::default());
    assert_eq!(end.unwrap_err(), ChannelError::Closed);
    let mut hand = Hand::connect(&served.socket);
    let version = Request::Version(Version { major: 1, minor: 0 }, Capabilities::default());
    assert_eq!(hand.ask(&version, &[]), Err(INVALID));
    let mut hand = Hand::greeted(&served.socket);
    let again = Request::Version(Version::default(), Capabilities::default());
    assert_eq!(hand.ask(&again, &[]), Err(INVALID));
    drop(hand);
    is_well(&served);
}

#[test]
fn each_wrong_request_is_an_error_reply_and_the_connection_goes_on() {
    let served = Served::start("size=2MiB,vectors=4");
    let mut hand = Hand::greeted(&served.socket);
    let file = memfd(1 << 20);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (fd, eventfd) = (file.as_fd(), event.as_fd());
    let set = |flags, start, count| {
        let index = 2;
        SetIrqs {
            argsz: 20,
            flags,
            index,
            start,
            count,
        }
    };
    const FIRE: u32 = SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER;
    let errno = |errno: Errno| errno.raw_os_error() as u32;
    hand.ask(&Request::DmaMap(map(0x10_0000, 1 << 20)), &[fd])
        .unwrap();
    let small = |count| SmallWrite {
        access: access(0, register::AQA as u64, count),
        data: [0; 8],
    };
    hand.ask(&Request::RegionWriteMulti(vec![small(4), small(4)]), &[])
        .unwrap();
    for (request, files, wanted) in [
        (
            Request::DmaMap(map(0x10_0000, 4096)),
            vec![fd],
            errno(Errno::EXIST),
        ),
        (Request::DmaMap(map(1 << 41, 1 << 40)), vec![fd], INVALID),
        (Request::DmaMap(map(u64::MAX - 4095, 8192)), vec![fd], INVALID),
        (Request::DmaMap(map(2, u64::MAX)), vec![], INVALID),
        (Request::DmaMap(map(0, 4096)), vec![fd, fd], INVALID),
        (Request::DmaMap(map(0, 4096)), vec![eventfd], errno(Errno::PERM)),
        (
            Request::DmaUnmap(DmaUnmap {
                address: 0x10_0000,
                size: 4096,
                ..DmaUnmap::default()
            }),
            vec![],
            INVALID,
        ),
        (
            Request::DeviceGetRegionInfo(RegionInfo {
                index: 9,
                ..RegionInfo::default()
            }),
            vec![],
            INVALID,
        ),
        (
            Request::DeviceGetIrqInfo(IrqInfo {
                index: 3,
                ..IrqInfo::default()
            }),
            vec![],
            INVALID,
        ),
        (
            Request::RegionRead(access(0, 0, MAX_DATA_XFER_BYTES + 1)),
            vec![],
            INVALID,
        ),
        (Request::RegionRead(access(0, 0x1_0000_0000, 4)), vec![], INVALID),
        (Request::RegionRead(access(3, 0, 4)), vec![], INVALID),
        (Request::RegionWrite(access(0, 0x14, 3), &[0; 3]), vec![], INVALID),
        (
            Request::RegionWrite(access(u32::MAX, 0, 4), &[0; 4]),
            vec![],
            INVALID,
        ),
        (
            Request::RegionWriteMulti(vec![small(4), small(3)]),
            vec![],
            INVALID,
        ),
        (
            Request::DeviceSetIrqs(set(FIRE, 0, 2), &[]),
            vec![eventfd],
            INVALID,
        ),
        (
            Request::DeviceSetIrqs(set(FIRE, 4, 1), &[]),
            vec![eventfd],
            INVALID,
        ),
        (
            Request::DeviceSetIrqs(set(FIRE, u32::MAX, 2), &[]),
            vec![eventfd],
            INVALID,
        ),
        (Request::DeviceSetIrqs(set(FIRE, 0, 1), &[]), vec![fd], INVALID),
        (Request::DeviceSetIrqs(set(0, 0, 1), &[]), vec![], INVALID),
        (
            Request::DeviceSetIrqs(
                SetIrqs {
                    index: 0,
                    ..set(FIRE, 0, 1)
                },
                &[],
            ),
            vec![eventfd],
            INVALID,
        ),
    ] {
        assert_eq!(hand.ask(&request, &files), Err(wanted), "{request:?}");
    }
    // Commands that there are not, and payloads that are too short.
    for (command, wanted) in [(14, 95), (99, 95), (2, INVALID), (9, INVALID), (15, INVALID)] {
        let header = Header {
            id: 77,
            command,
            size: 16,
            ..Header::default()
        };
        hand.channel.send(&header, &[], &[]).unwrap();
        let answer = hand.channel.receive(Some(PATIENCE), Others::default()).unwrap();
        assert_eq!((answer.header.id, answer.header.failure()), (77, Some(wanted)));
    }
    // No reply is wanted, and none comes, not even for an error.
    let mut header = Header::command(5, Command::DeviceGetIrqInfo, 16);
    header.flags |= Header::NO_REPLY;
    hand.channel.send(&header, &[0xFF; 16], &[]).unwrap();
    hand.ask(&Request::DeviceReset, &[]).unwrap();
    drop(hand);
    is_well(&served);
}

#[test]
fn what_is_no_message_ends_the_connection_and_nothing_else() {
    let served = Served::start("size=2MiB");
    let good = Header::command(1, Command::DeviceReset, 0);
    for header in [
        Header { size: 3, ..good },
        Header {
            size: u32::MAX,
            ..good
        },
        Header { flags: 9, ..good },
        Header {
            flags: Header::REPLY,
            ..good
        },
    ] {
        let hand = Hand::greeted(&served.socket);
        hand.channel.send(&header, &[], &[]).unwrap();
        let end = hand.channel.receive(Some(PATIENCE), Others::default());
        assert_eq!(end.unwrap_err(), ChannelError::Closed, "{header:?}");
    }
    // Half a message, and the end.
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    stream.write_all(&good.as_bytes()[..9]).unwrap();
    drop(stream);
    is_well(&served);
}

#[test]
fn random_messages_from_many_clients() {
    let served = Served::start("size=2MiB,queues=4,vectors=8");
    let file = memfd(4 << 20);
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    for seed in 0..40u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let hand = Hand::greeted(&served.socket);
        for id in 0..200 {
            let command = random.u16(1..17);
            let interesting = [
                0,
                1,
                2,
                4,
                7,
                8,
                16,
                0x14,
                0x1000,
                0x10_0000,
                1 << 20,
                u64::from(u32::MAX),
                u64::MAX,
            ];
            let mut payload = Vec::new();
            for _ in 0..random.usize(..8) {
                let value = interesting[random.usize(..interesting.len())];
                if random.bool() {
                    payload.extend_from_slice(&value.to_ne_bytes());
                } else {
                    payload.extend_from_slice(&(value as u32).to_ne_bytes());
                }
            }
            let mut header = Header::command(id, Command::DeviceReset, payload.len());
            header.command = command;
            // Nobody reads the answers.
            header.flags |= Header::NO_REPLY;
            let files = [file.as_fd(), event.as_fd(), file.as_fd()];
            let some = random.usize(..=2);
            if hand
                .channel
                .send(&header, &payload, &files[some..some + random.usize(..=3 - some)])
                .is_err()
            {
                break;
            }
        }
    }
    is_well(&served);
}

/// Queues in memory that is not mapped, is mapped for reading only, goes away under the device, or is cut off.
#[test]
fn memory_that_goes_away_under_the_device_is_the_clients_own_loss() {
    let served = Served::start("size=2MiB");
    for seed in 0..20u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut hand = Hand::greeted(&served.socket);
        let file = memfd(1 << 20);
        let mut what = map(0x10_0000, 1 << 20);
        if seed % 4 == 1 {
            what.flags = DmaMap::READ;
        }
        if seed % 4 != 2 {
            hand.ask(&Request::DmaMap(what), &[file.as_fd()]).unwrap();
        }
        hand.ask(&Request::RegionWrite(access(7, 4, 2), &[6, 0]), &[])
            .unwrap();
        let mut write32 = |offset: usize, value: u32| {
            let data = value.to_le_bytes();
            hand.ask(&Request::RegionWrite(access(0, offset as u64, 4), &data), &[])
                .unwrap();
        };
        write32(register::AQA, Aqa::new().with_asqs_z(63).with_acqs_z(63).into());
        write32(register::ASQ, 0x10_0000);
        write32(register::ACQ, 0x10_4000);
        let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
        write32(register::CC, cc.into());
        // Commands of random bytes.
        let mut ring = vec![0; 64 * 64];
        random.fill(&mut ring);
        rustix::io::pwrite(&file, &ring, 0).unwrap();
        loop {
            let answer = hand
                .ask(&Request::RegionRead(access(0, register::CSTS as u64, 4)), &[])
                .unwrap();
            let csts = u32::from_le_bytes(answer[16..20].try_into().unwrap());
            if Csts::from(csts).rdy() {
                break;
            }
        }
        for tail in 1..40u32 {
            let data = tail.to_le_bytes();
            hand.ask(&Request::RegionWrite(access(0, 0x1000, 4), &data), &[])
                .unwrap();
            if tail == 20 && seed % 4 != 2 {
                let unmap = DmaUnmap {
                    argsz: 24,
                    flags: 0,
                    address: what.address,
                    size: what.size,
                };
                let answer = hand.ask(&Request::DmaUnmap(unmap), &[]).unwrap();
                assert_eq!(answer, unmap.as_bytes());
            }
        }
        assert_eq!(
            rustix::fs::ftruncate(&file, 0),
            if seed % 4 == 2 { Ok(()) } else { Err(Errno::PERM) }
        );
    }
    is_well(&served);
}

/// The client has the server itself write to an eventfd that it has filled up.
#[test]
fn a_client_that_holds_the_server_up_is_answered_all_the_same() {
    let served = Served::start("size=2MiB,vectors=2");
    let mut hand = Hand::greeted(&served.socket);
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut set = SetIrqs {
        argsz: 20,
        flags: SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER,
        index: 2,
        start: 1,
        count: 1,
    };
    hand.ask(&Request::DeviceSetIrqs(set, &[]), &[event.as_fd()])
        .unwrap();
    rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    set.flags = SetIrqs::DATA_NONE | SetIrqs::ACTION_TRIGGER;
    assert_eq!(hand.ask(&Request::DeviceSetIrqs(set, &[]), &[]), Ok(Vec::new()));
    drop(hand);
    is_well(&served);
}

/// The device writes to an eventfd that the client has filled up, and waits there; the client leaves.
#[test]
fn a_client_that_holds_the_device_up_is_got_rid_of() {
    let served = Served::start("size=2MiB,vectors=2");
    let mut hand = Hand::greeted(&served.socket);
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let set = SetIrqs {
        argsz: 20,
        flags: SetIrqs::DATA_EVENTFD | SetIrqs::ACTION_TRIGGER,
        index: 2,
        start: 0,
        count: 1,
    };
    hand.ask(&Request::DeviceSetIrqs(set, &[]), &[event.as_fd()])
        .unwrap();
    let file = memfd(1 << 20);
    hand.ask(&Request::DmaMap(map(0x10_0000, 1 << 20)), &[file.as_fd()])
        .unwrap();
    hand.ask(&Request::RegionWrite(access(7, 4, 2), &[6, 0]), &[])
        .unwrap();
    hand.ask(&Request::RegionWrite(access(7, 0x52, 2), &[0, 0x80]), &[])
        .unwrap();
    rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let mut write32 = |offset: usize, value: u32| {
        let data = value.to_le_bytes();
        hand.ask(&Request::RegionWrite(access(0, offset as u64, 4), &data), &[])
            .unwrap();
    };
    write32(register::AQA, Aqa::new().with_asqs_z(63).with_acqs_z(63).into());
    write32(register::ASQ, 0x10_0000);
    write32(register::ACQ, 0x10_4000);
    let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
    write32(register::CC, cc.into());
    loop {
        let answer = hand
            .ask(&Request::RegionRead(access(0, register::CSTS as u64, 4)), &[])
            .unwrap();
        if Csts::from(u32::from_le_bytes(answer[16..20].try_into().unwrap())).rdy() {
            break;
        }
    }
    hand.ask(&Request::RegionWrite(access(0, 0x1000, 4), &[1, 0, 0, 0]), &[])
        .unwrap();
    // The completion is there before the interrupt is raised.
    let mut entry = [0; 16];
    let begin = std::time::Instant::now();
    while entry[14] & 1 == 0 {
        assert!(begin.elapsed() < PATIENCE);
        rustix::io::pread(&file, &mut entry, 0x4000).unwrap();
        std::thread::yield_now();
    }
    drop(hand);
    let begin = std::time::Instant::now();
    loop {
        assert!(begin.elapsed() < PATIENCE, "the server is held up");
        // Sent away as long as the server takes leave of the last one.
        if nvme_driver::backend::vfio_user::VfioUserBackend::connect(&served.socket).is_ok() {
            break;
        }
    }
    is_well(&served);
}
