//! What a path is, whose it is, and who may change that.

use super::*;

fn lookup(desk: &Desk, path: &str, directory: bool) -> Result<Stat, Errno> {
    stat(desk.now(Call::Lookup {
        path: path.to_owned(),
        directory,
    }))
}

fn permit(desk: &Desk, path: &str, caller: Caller, change: Permissions) -> Result<Stat, Errno> {
    stat(desk.now(Call::Permit {
        path: path.to_owned(),
        caller,
        change,
    }))
}

fn stat(outcome: Outcome) -> Result<Stat, Errno> {
    match outcome? {
        Reply::Stat(stat) => Ok(stat),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lookup_says_what_an_open_handle_would() {
    let desk = Desk::new(&[(12, 8), (9, 100)]);
    for path in [
        "",
        "controller",
        "controller/admin",
        "controller/identify",
        "controller/stats?light",
        "controller/log/smart",
        "controller/log/error",
        "1/",
        "1/bench",
        "2",
        "2/data",
        "2/identify",
        "2/stats",
    ] {
        let looked = lookup(&desk, path, false).expect(path);
        let handle = desk.open_as(path, OpenFlags::default(), ROOT).expect(path);
        assert_eq!(stat(desk.now(Call::Stat { handle })), Ok(looked), "{path}");
    }
    assert_eq!(
        lookup(&desk, "2", false),
        Ok(Stat {
            size_bytes: 51_200,
            block_bytes: 512,
            kind: NodeKind::BlockDevice,
            mode: 0o600,
            uid: 0,
            gid: 0
        })
    );
    assert_eq!(
        lookup(&desk, "2", true).map(|stat| (stat.kind, stat.mode)),
        Ok((NodeKind::Directory, 0o555))
    );
    for (path, errno) in [
        ("3", Errno::ENOENT),
        ("3/stats", Errno::ENOENT),
        ("x", Errno::ENOENT),
        ("1/data/", Errno::ENOTDIR),
        ("1/stats?heavy", Errno::EINVAL),
    ] {
        assert_eq!(lookup(&desk, path, false), Err(errno), "{path}");
    }
    assert_eq!(lookup(&desk, "1/data", true), Err(Errno::ENOTDIR));
}

#[test]
fn what_cannot_be_opened_can_still_be_looked_at() {
    let desk = Desk::new(&[(12, 0)]);
    let looked = lookup(&desk, "1/data", false);
    assert_eq!(
        looked.map(|stat| (stat.kind, stat.size_bytes)),
        Ok((NodeKind::BlockDevice, 0))
    );
}

#[test]
fn root_gives_a_disk_to_a_user_and_takes_it_back() {
    let desk = Desk::new(&[(12, 8), (12, 8)]);
    let open = |path: &str| desk.open_as(path, OpenFlags::READ_WRITE, USER).map(|_| ());
    let owner = |uid| Permissions {
        uid: Some(uid),
        ..Default::default()
    };
    assert_eq!(
        permit(&desk, "1/data", USER, owner(1000)),
        Err(Errno::EPERM),
        "not by himself"
    );
    let held = desk.open("1");
    let given = permit(&desk, "1/data", ROOT, owner(1000)).expect("uid 0 may");
    assert_eq!((given.mode, given.uid, given.gid), (0o600, 1000, 0));
    assert_eq!(
        stat(desk.now(Call::Stat { handle: held })),
        Ok(given),
        "shown by handles too"
    );
    assert_eq!(open("1"), Ok(()), "two names of one device");
    assert_eq!(open("2"), Err(Errno::EACCES));
    assert_eq!(open("1/bench"), Err(Errno::EACCES), "the disk, not the driver");
    let by_group = Permissions {
        mode: Some(0o660),
        uid: Some(0),
        gid: Some(77),
    };
    permit(&desk, "1", ROOT, by_group).expect("uid 0 may");
    assert_eq!(open("1"), Err(Errno::EACCES));
    let member = Caller {
        groups: vec![3, 77],
        ..USER
    };
    assert!(desk.open_as("1", OpenFlags::READ_WRITE, member).is_ok());
}

#[test]
fn the_rights_of_everything_else_are_fixed() {
    let desk = Desk::new(&[(12, 8)]);
    let change = Permissions {
        mode: Some(0o666),
        ..Default::default()
    };
    for path in [
        "",
        "1/",
        "1/bench",
        "1/stats",
        "controller/admin",
        "controller/log/smart",
    ] {
        let before = lookup(&desk, path, false);
        assert_eq!(permit(&desk, path, ROOT, change), Err(Errno::EPERM), "{path}");
        assert_eq!(lookup(&desk, path, false), before);
    }
    assert_eq!(permit(&desk, "2", ROOT, change), Err(Errno::ENOENT));
}

#[test]
fn a_scheme_may_begin_with_other_rights() {
    let fake = Fake::new(&[(12, 8)]);
    let disks = Ownership {
        mode: 0o640,
        uid: 5,
        gid: 1000,
    };
    let desk = Desk {
        scheme: Scheme::with_ownership(Arc::clone(&fake), disks),
        ..Desk::over(fake)
    };
    assert!(desk.open_as("1", OpenFlags::READ, USER).is_ok());
    assert_eq!(desk.open_as("1", OpenFlags::READ_WRITE, USER), Err(Errno::EACCES));
}
