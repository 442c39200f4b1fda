//! Devices that fail, and drivers that stop, under the scheme.

use nvme_emulator::{Action, Fault};
use nvme_spec::register::{self, Cc};
use nvme_spec::{NvmOpcode, Status};
use stats_proto::bench::{BenchJob, BenchLine};

use super::*;

#[test]
fn a_failed_command_is_an_error_and_harms_no_byte() {
    let driver = start("size=1MiB,lba=4096");
    let disk = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    disk.write_at(&[7; 20_000], 0).unwrap();
    for opcode in [NvmOpcode::READ, NvmOpcode::WRITE] {
        let fail = Action::Fail(Status::INTERNAL_ERROR.with_dnr(true));
        driver.device().faults().add(Fault::on_opcode(opcode, fail));
        // A write of parts of blocks reads first: either way it fails as a whole.
        assert_eq!(disk.write_at(&[8; 10_000], 100), Err(Errno::EIO), "{opcode}");
        driver.device().faults().clear();
        let mut back = [0; 20_000];
        assert_eq!(disk.read_at(&mut back, 0), Ok(20_000));
        assert_eq!(back, [7; 20_000], "{opcode}");
    }
    // The blocks are free again.
    assert_eq!(disk.write_at(&[8; 10_000], 100), Ok(10_000));
}

#[test]
fn a_full_or_protected_medium_is_told_by_its_own_error() {
    let driver = start("size=1MiB,lba=4096");
    let disk = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    for (status, errno) in [
        (Status::CAPACITY_EXCEEDED, Errno::ENOSPC),
        (Status::NAMESPACE_WRITE_PROTECTED, Errno::EROFS),
        (Status::ACCESS_DENIED, Errno::EACCES),
    ] {
        let fail = Action::Fail(status.with_dnr(true));
        driver
            .device()
            .faults()
            .add(Fault::on_opcode(NvmOpcode::WRITE, fail));
        assert_eq!(disk.write_at(&[8; 4096], 0), Err(errno), "{status}");
        driver.device().faults().clear();
    }
}

/// A device that vanishes with everything out: all calls are answered, the benchmark says why it ended, and
/// what needs no device can still be read.
#[test]
fn a_device_that_vanishes_leaves_nobody_waiting() {
    let driver = start("size=1MiB,latency=600s,channels=0");
    let (client, desk) = (root(&driver), Desk::new(&driver));
    let disk = client.open("1", OpenFlags::READ_WRITE).unwrap();
    let bench = client.open("1/bench", OpenFlags::READ_WRITE).unwrap();
    let job = BenchJob {
        queue_depth: 4,
        ..Default::default()
    };
    bench.write_at(&serde_json::to_vec(&job).unwrap(), 0).unwrap();
    for id in 0..60 {
        match id % 3 {
            0 => desk.read(id, disk.id(), id * 100, 5000),
            1 => desk.write(id, disk.id(), id * 100, vec![1; 5000]),
            _ => desk.call(id, Call::Sync { handle: disk.id() }),
        }
    }
    driver.device().vanish();
    let mut answered: Vec<u64> = (0..60)
        .map(|_| {
            let (id, outcome) = desk.next();
            assert_eq!(outcome, Err(Errno::ENODEV));
            id
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..60).collect::<Vec<_>>());
    let text = String::from_utf8(read_all(&bench, 4096).unwrap()).unwrap();
    let last = text.lines().last().map(BenchLine::parse);
    assert!(
        matches!(&last, Some(Ok(BenchLine::Error(line))) if line.errno == Errno::ENODEV.0),
        "{last:?}"
    );
    assert_eq!(disk.read_at(&mut [0; 10], 0), Err(Errno::ENODEV));
    assert_eq!(document(&client, "controller/log/smart"), Err(Errno::ENODEV));
    assert_eq!(
        document(&client, "controller/identify").map(|page| page.len()),
        Ok(4096)
    );
    assert!(document(&client, "controller/stats").is_ok_and(|text| text.ends_with(b"}\n")));
}

/// Shutdown in the middle of everything: what is out is finished or refused, a benchmark ends with an error
/// line, and clients that live on are told.
#[test]
fn a_driver_that_shuts_down_leaves_nobody_waiting() {
    let driver = start("size=16MiB,lba=512");
    let (client, desk) = (root(&driver), Desk::new(&driver));
    let disk = client.open("1", OpenFlags::READ_WRITE).unwrap();
    let bench = client.open("1/bench", OpenFlags::READ_WRITE).unwrap();
    let job = BenchJob {
        queue_depth: 16,
        jobs: 2,
        time_ns: Some(u64::MAX / 4),
        ..Default::default()
    };
    bench.write_at(&serde_json::to_vec(&job).unwrap(), 0).unwrap();
    // It runs: there is a first line.
    let mut first = [0; 10];
    bench.read_at(&mut first, 0).unwrap();
    for id in 0..200 {
        desk.write(id, disk.id(), id, vec![1; 3000]);
    }
    driver.shutdown().unwrap();
    for _ in 0..200 {
        let (_, outcome) = desk.next();
        assert!(
            matches!(
                &outcome,
                Ok(Reply::Written { len: 3000, .. }) | Err(Errno::ESHUTDOWN)
            ),
            "{outcome:?}"
        );
    }
    let text = String::from_utf8(read_all(&bench, 4096).unwrap()).unwrap();
    let last = text.lines().last().map(BenchLine::parse);
    assert!(
        matches!(&last, Some(Ok(BenchLine::Error(line))) if line.errno == Errno::ESHUTDOWN.0),
        "{last:?}"
    );
    assert_eq!(disk.write_at(&[1], 0), Err(Errno::ESHUTDOWN));
    assert_eq!(disk.sync(), Err(Errno::ESHUTDOWN));
    assert_eq!(document(&client, "controller/log/smart"), Err(Errno::ESHUTDOWN));
}

/// The last to hold the driver may be the answer to a call: then it is a worker's thread that drops the
/// driver, and has to see it shut down without waiting for itself.
#[test]
fn a_driver_whose_last_owner_is_an_answer_shuts_down_in_order() {
    let rig = nvme_tests::Rig::new(
        "size=1MiB,latency=20ms,channels=0",
        &Config {
            num_queues: 2,
            ..Config::default()
        },
    );
    let nvme_tests::Rig { driver, device } = rig;
    let scheme = Scheme::new(driver.clone());
    let desk = Desk::over(Arc::clone(&scheme));
    desk.call(
        0,
        Call::Open {
            path: "1".into(),
            flags: OpenFlags::READ_WRITE,
            caller: ROOT,
        },
    );
    let (_, Ok(Reply::Opened(disk))) = desk.next() else {
        panic!("it opens")
    };
    for id in 1..=8 {
        desk.write(id, disk, 10_000 * id, vec![1; 100]);
    }
    let Desk {
        answers,
        scheme: desks,
        ..
    } = desk;
    drop((driver, scheme, desks));
    for _ in 1..=8 {
        let (_, outcome) = answers
            .recv_timeout(nvme_tests::PATIENCE)
            .expect("an answer comes");
        assert!(
            matches!(
                &outcome,
                Ok(Reply::Written { len: 100, .. }) | Err(Errno::ESHUTDOWN)
            ),
            "{outcome:?}"
        );
    }
    let deadline = std::time::Instant::now() + nvme_tests::PATIENCE;
    // After the shutdown the controller is disabled.
    while Cc::from(device.registers().read32(register::CC)).en() {
        assert!(
            std::time::Instant::now() < deadline,
            "the controller was not shut down"
        );
        std::thread::yield_now();
    }
}
