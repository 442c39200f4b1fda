//! The file of the scheduler.

use super::super::service::{BlockService, SchedulerKind};
use super::*;

const PATH: &str = "controller/scheduler";

#[test]
fn its_name_is_read_by_anybody_and_written_by_root() {
    let desk = Desk::new(&[(9, 64)]);
    let user = desk.open_as(PATH, OpenFlags::READ, USER).unwrap();
    assert_eq!(desk.read_now(user, 0, 100).unwrap(), b"cpuaffinity\n");
    assert_eq!(desk.open_as(PATH, OpenFlags::WRITE, USER), Err(Errno::EACCES));
    assert_eq!(
        desk.open_as(PATH, OpenFlags::READ_WRITE, USER),
        Err(Errno::EACCES)
    );
    desk.write(user, 0, b"deadline");
    assert_eq!(written(desk.one().unwrap()), Err(Errno::EBADF));

    let root = desk.open_as(PATH, OpenFlags::READ_WRITE, ROOT).unwrap();
    for kind in SchedulerKind::ALL {
        for text in [format!("{kind}"), format!(" {kind}\n")] {
            desk.fake.set_scheduler(SchedulerKind::None);
            desk.write(root, 0, text.as_bytes());
            assert_eq!(written(desk.one().unwrap()), Ok(text.len()));
            assert_eq!(desk.fake.scheduler(), kind);
            assert_eq!(
                desk.read_now(user, 0, 100).unwrap(),
                format!("{kind}\n").into_bytes()
            );
        }
    }
    assert_eq!(desk.read_now(user, 3, 2).unwrap(), b"dl");
    assert_eq!(desk.read_now(user, 9, 2).unwrap(), b"");
}

#[test]
fn what_is_no_name_changes_nothing() {
    let desk = Desk::new(&[(9, 64)]);
    let root = desk.open_as(PATH, OpenFlags::READ_WRITE, ROOT).unwrap();
    desk.fake.set_scheduler(SchedulerKind::Priority);
    for text in [
        &b""[..],
        b"fifo",
        b"none none",
        b"Deadline",
        b"dead\0line",
        b"\xFF\xFE",
    ] {
        desk.write(root, 0, text);
        assert_eq!(written(desk.one().unwrap()), Err(Errno::EINVAL), "{text:?}");
        assert_eq!(desk.fake.scheduler(), SchedulerKind::Priority);
    }
    desk.call(Call::Sync { handle: root });
    assert_eq!(desk.one(), Some(Err(Errno::EINVAL)));
}
