//! I/O passthrough, against the device and beside the block device.

use nvme_driver::embedded::Handle;
use nvme_emulator::{Action, Fault};
use nvme_spec::{CompletionEntry, DsmRange, NvmOpcode, Status, SubmissionEntry, command};
use stats_proto::slow::{SlowCommand, SlowKind};
use zerocopy::{FromBytes, IntoBytes};

use super::*;

fn open(client: &Client, path: &str) -> Handle {
    client.open(path, OpenFlags::READ_WRITE).unwrap()
}

/// Sends `entry` with `data`; returns the completion's status and what came back.
fn transact(handle: &Handle, entry: SubmissionEntry, data: &[u8]) -> Result<(Status, Vec<u8>), Errno> {
    let mut bytes = entry.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    assert_eq!(handle.write_at(&bytes, 0)?, bytes.len());
    let mut text = read_all(handle, 8192)?;
    let data = text.split_off(16);
    Ok((CompletionEntry::read_from_bytes(&text).unwrap().status(), data))
}

fn read(slba: u64, blocks: u32) -> SubmissionEntry {
    SubmissionEntry {
        prp1: u64::from(blocks) * 512,
        ..command::read(1, slba, blocks)
    }
}

#[test]
fn commands_and_the_block_device_see_the_same_disk() {
    let driver = start("size=16MiB,lba=512,mdts=64KiB");
    let client = root(&driver);
    let (io, disk) = (open(&client, "1/io"), open(&client, "1"));
    let bytes: Vec<u8> = (0..65536_u32).map(|number| (number % 251) as u8).collect();
    // As much as one command can move.
    assert_eq!(
        transact(&io, command::write(0, 100, 128, true), &bytes),
        Ok((Status::SUCCESS, vec![]))
    );
    let mut back = vec![0; bytes.len()];
    assert_eq!(disk.read_at(&mut back, 100 * 512), Ok(bytes.len()));
    assert!(back == bytes);
    assert!(transact(&io, read(100, 128), &[]).unwrap() == (Status::SUCCESS, bytes.clone()));
    // One block fewer than a page, so that the end of the last page is the driver's.
    let (_, some) = transact(&io, read(101, 15), &[]).unwrap();
    assert!(some == bytes[512..][..15 * 512]);
    let compare = |data: &[u8]| transact(&io, command::compare(1, 100, 2), data).map(|(status, _)| status);
    assert_eq!(compare(&bytes[..1024]), Ok(Status::SUCCESS));
    assert!(compare(&[1; 1024]).unwrap().is(Status::COMPARE_FAILURE));
    assert_eq!(
        transact(&io, command::verify(1, 0, 65536 / 4), &[]).unwrap().0,
        Status::SUCCESS
    );
    assert_eq!(
        transact(&io, command::write_zeroes(1, 100, 1), &[]).unwrap().0,
        Status::SUCCESS
    );
    let ranges = [DsmRange::new(102, 1), DsmRange::new(104, 2)];
    assert_eq!(
        transact(&io, command::dataset_management(1, 2, true), ranges.as_bytes())
            .unwrap()
            .0,
        Status::SUCCESS
    );
    assert_eq!(transact(&io, command::flush(1), &[]).unwrap().0, Status::SUCCESS);
    assert_eq!(disk.read_at(&mut back[..8 * 512], 100 * 512), Ok(8 * 512));
    for (block, now) in back[..8 * 512].chunks(512).enumerate() {
        let zeroed = [0, 2, 4, 5].contains(&block);
        let wanted = if zeroed {
            &[0; 512]
        } else {
            &bytes[block * 512..][..512]
        };
        assert!(now == wanted, "block {block}");
    }
}

#[cfg(feature = "performance-counters")]
#[test]
fn they_are_counted_as_what_they_are() {
    let driver = start("size=16MiB,lba=512");
    let io = open(&root(&driver), "1/io");
    transact(&io, read(0, 4), &[]).unwrap();
    transact(&io, read(u64::MAX, 1), &[]).unwrap();
    transact(&io, command::write(1, 0, 3, false), &[0; 3 * 512]).unwrap();
    transact(&io, command::write_zeroes(1, 0, 8), &[]).unwrap();
    let uncorrectable = SubmissionEntry {
        opcode: NvmOpcode::WRITE_UNCORRECTABLE.0,
        ..command::verify(1, 0, 8)
    };
    assert!(
        transact(&io, uncorrectable, &[])
            .unwrap()
            .0
            .is(Status::INVALID_OPCODE)
    );
    let stats = driver.driver().stats(true);
    stats.check().unwrap();
    let ops = stats.namespaces[0].ops.as_ref().unwrap();
    let of = |name: &str| (ops[name].count, ops[name].bytes, ops[name].errors);
    assert_eq!(of("read"), (2, 2048, 1));
    assert_eq!(of("write"), (1, 3 * 512, 0));
    assert_eq!(of("write_zeroes"), (1, 8 * 512, 0));
    assert_eq!(of("other"), (1, 0, 1));
    let latencies = stats.queues.iter().filter_map(|queue| {
        let read = queue.counters.as_ref()?.ops.get("read")?;
        read.latency_device.as_ref().map(|hist| hist.count())
    });
    assert_eq!(latencies.sum::<u64>(), 2);
}

#[test]
fn what_the_controller_refuses_is_a_status_and_what_the_driver_refuses_never_gets_there() {
    let driver = start("size=1MiB,lba=512,mdts=8KiB");
    let client = root(&driver);
    let io = open(&client, "1/io");
    let (status, data) = transact(&io, read(2048, 1), &[]).unwrap();
    assert!(status.is(Status::LBA_OUT_OF_RANGE));
    assert!(data.is_empty());
    let before = driver.device().counters().io_completed();
    let fused = SubmissionEntry {
        flags: 1,
        ..command::compare(1, 0, 1)
    };
    let copy_from_elsewhere = SubmissionEntry {
        opcode: NvmOpcode::COPY.0,
        cdw12: 0x200,
        ..command::flush(1)
    };
    for (entry, data, errno) in [
        (read(0, 17), vec![], Errno::EINVAL),
        (command::write(1, 0, 1, false), vec![0; 511], Errno::EINVAL),
        (
            SubmissionEntry {
                prp1: 4096,
                ..read(0, 1)
            },
            vec![],
            Errno::EINVAL,
        ),
        (command::flush(2), vec![], Errno::EINVAL),
        (fused, vec![0; 512], Errno::EOPNOTSUPP),
        (copy_from_elsewhere, vec![0; 32], Errno::EOPNOTSUPP),
        (
            SubmissionEntry {
                opcode: NvmOpcode::RESERVATION_REPORT.0,
                prp1: 4096,
                ..Default::default()
            },
            vec![],
            Errno::EOPNOTSUPP,
        ),
    ] {
        assert_eq!(transact(&io, entry, &data), Err(errno), "{entry:?}");
    }
    assert_eq!(driver.device().counters().io_completed(), before);
    for flags in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ_WRITE] {
        assert_eq!(user(&driver).open("1/io", flags).err(), Some(Errno::EACCES));
    }
}

#[test]
fn a_failed_one_shows_in_slow_and_a_lost_one_is_an_error() {
    let driver = start("size=1MiB,lba=512,latency=50us");
    let client = root(&driver);
    let io = open(&client, "1/io");
    let fail = Action::Fail(Status::UNRECOVERED_READ_ERROR.with_dnr(true));
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, fail).once());
    let (status, _) = transact(&io, read(7, 3), &[]).unwrap();
    assert!(status.is(Status::UNRECOVERED_READ_ERROR) && status.dnr());
    let text = String::from_utf8(document(&client, "controller/slow").unwrap()).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<SlowCommand>(line).unwrap());
    let failed: Vec<_> = lines.filter(|line| line.kind == SlowKind::Failed).collect();
    assert_eq!(failed.len(), 1, "{text}");
    assert_eq!(
        (failed[0].opcode, failed[0].slba, failed[0].blocks),
        (2, Some(7), Some(3))
    );
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, Action::Vanish));
    assert_eq!(transact(&io, read(7, 3), &[]), Err(Errno::ENODEV));
    assert_eq!(read_all(&io, 100), Ok(vec![]));
}
