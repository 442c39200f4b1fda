//! `controller/slow`: what failed, was slow or was never answered, with its timeline.

use nvme_emulator::{Action, Fault};
use nvme_spec::identify::Cns;
use nvme_spec::{AdminOpcode, NvmOpcode, Status, command};
use stats_proto::slow::{SlowCommand, SlowKind};

use super::*;

fn start_with(spec: &str, slow_us: u32) -> EmbeddedDriver {
    let config = Config {
        num_queues: 2,
        slow_us,
        ..Config::default()
    };
    embedded::start(spec, &config).expect("the driver comes up")
}

/// The lines, as anybody may read them; each is of the schema.
fn lines(driver: &EmbeddedDriver) -> Vec<SlowCommand> {
    let schema = serde_json::from_str(stats_proto::schema::SLOW).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let text = String::from_utf8(document(&user(driver), "controller/slow").unwrap()).unwrap();
    text.lines()
        .map(|line| {
            let value = serde_json::from_str(line).unwrap();
            assert!(schema.is_valid(&value), "{line}");
            serde_json::from_value(value).unwrap()
        })
        .collect()
}

#[test]
fn a_failed_command_is_kept_with_its_status_and_its_blocks() {
    // With 0 no command is slow, however long this machine takes.
    let driver = start_with("size=16MiB,lba=512,mdts=64KiB", 0);
    let disk = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    let fail = Action::Fail(Status::UNRECOVERED_READ_ERROR.with_dnr(true));
    // The second of the four commands that the read becomes: block 1000 and 128 further on.
    driver
        .device()
        .faults()
        .add(Fault::on_opcode(NvmOpcode::READ, fail).lba(1128));
    assert_eq!(disk.write_at(&[7; 512], 0), Ok(512));
    assert_eq!(disk.read_at(&mut vec![0; 256 << 10], 1000 * 512), Err(Errno::EIO));
    let [failed] = lines(&driver).try_into().unwrap();
    assert_eq!((failed.kind, failed.sequence), (SlowKind::Failed, 0));
    assert_eq!(failed.opcode_name.as_deref(), Some("Read"));
    assert_eq!(
        (failed.nsid, failed.slba, failed.blocks),
        (1, Some(1128), Some(128))
    );
    assert!([1, 2].contains(&failed.qid));
    let status = failed.status.unwrap();
    assert_eq!(
        (status.name.as_deref(), status.dnr),
        (Some("Unrecovered Read Error"), true)
    );
    assert_eq!(
        failed.accepted_monotonic_ns + failed.latency_host_ns,
        failed.doorbell_monotonic_ns
    );
    assert_eq!(
        Some(failed.doorbell_monotonic_ns + failed.latency_device_ns),
        failed.completed_monotonic_ns
    );
    assert!(failed.latency_device_ns > 0);
}

#[test]
fn admin_commands_are_kept_too() {
    let driver = start_with("size=1MiB", 0);
    let admin = root(&driver)
        .open("controller/admin", OpenFlags::READ_WRITE)
        .unwrap();
    let entry = nvme_spec::SubmissionEntry {
        prp1: 4096,
        ..command::identify(Cns(0xEE), 0, 0)
    };
    assert_eq!(admin.write_at(zerocopy::IntoBytes::as_bytes(&entry), 0), Ok(64));
    let all = lines(&driver);
    let failed = all.last().unwrap();
    assert_eq!((failed.qid, failed.opcode), (0, AdminOpcode::IDENTIFY.0));
    assert_eq!(failed.opcode_name.as_deref(), Some("Identify"));
    assert_eq!((failed.slba, failed.blocks), (None, None));
    assert_eq!(
        failed.status.as_ref().and_then(|status| status.name.as_deref()),
        Some("Invalid Field in Command")
    );
}

#[test]
fn a_slow_command_shows_where_its_time_went() {
    let driver = start_with("size=16MiB,latency=20ms,channels=0", 20_000);
    let disk = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    let before = driver.driver().clock().now_ns();
    assert_eq!(disk.read_at(&mut [0; 8192], 4096), Ok(8192));
    disk.sync().unwrap();
    let after = driver.driver().clock().now_ns();
    let all = lines(&driver);
    let slow: Vec<_> = all.iter().filter(|line| line.qid != 0).collect();
    let [read, flush] = slow[..] else {
        panic!("{slow:?}")
    };
    assert_eq!(
        (read.kind, read.slba, read.blocks),
        (SlowKind::Slow, Some(1), Some(2))
    );
    assert_eq!(
        read.status.as_ref().and_then(|status| status.name.as_deref()),
        Some("Successful Completion")
    );
    assert!(read.latency_device_ns >= 20_000_000);
    assert!(read.latency_total_ns >= read.latency_device_ns);
    assert!(before <= read.accepted_monotonic_ns && read.completed_monotonic_ns < Some(after));
    assert_eq!(flush.opcode_name.as_deref(), Some("Flush"));
    assert_eq!((flush.slba, flush.blocks), (None, None));
}

#[test]
fn what_is_never_answered_is_kept_as_lost() {
    let driver = start_with("size=1MiB,latency=600s,channels=0", 0);
    let desk = Desk::new(&driver);
    let disk = root(&driver).open("1", OpenFlags::READ_WRITE).unwrap();
    desk.read(1, disk.id(), 8192, 4096);
    // It is out once the device has fetched it.
    while driver.device().counters().io.is_empty() {
        std::thread::yield_now();
    }
    driver.device().vanish();
    assert_eq!(desk.next(), (1, Err(Errno::ENODEV)));
    let all = lines(&driver);
    let lost = all.iter().find(|line| line.qid != 0).unwrap();
    assert_eq!((lost.kind, lost.slba), (SlowKind::Lost, Some(2)));
    assert_eq!((&lost.status, lost.completed_monotonic_ns), (&None, None));
    assert!(lost.latency_total_ns > 0 && lost.doorbell_monotonic_ns > 0);
}

/// Where every command is slow the memory stays bounded, readers see whole lines in order, and what was
/// overwritten shows.
#[test]
fn many_slow_commands_leave_the_last_ones() {
    let driver = start_with("size=16MiB,latency=2us", 1);
    let client = root(&driver);
    let disk = client.open("1", OpenFlags::READ_WRITE).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let all = lines(&driver);
                assert!(all.len() <= 256);
                assert!(all.is_sorted_by(|a, b| a.sequence < b.sequence));
                let newest = all.last().map_or(0, |line| line.sequence);
                assert!(newest >= last);
                last = newest;
            }
        });
        for number in 0..2000 {
            assert_eq!(disk.read_at(&mut [0; 4096], number % 4096 * 4096), Ok(4096));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
    // A reader in the way costs a command its place. Without one, each of the last ones has its own.
    for number in 0..256 {
        assert_eq!(disk.read_at(&mut [0; 4096], number * 4096), Ok(4096));
    }
    let all = lines(&driver);
    assert_eq!(all.len(), 256);
    let (first, last) = (all.first().unwrap().sequence, all.last().unwrap().sequence);
    assert_eq!(last - first, 255);
    assert!(last >= 2256);
}
