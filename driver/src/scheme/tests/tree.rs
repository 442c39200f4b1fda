//! Opening, listing, rights and limits.

use proptest::prelude::*;

use super::super::fake::namespace;
use super::*;

pub(super) fn names(desk: &Desk, path: &str) -> Vec<(String, NodeKind)> {
    let handle = desk.open_as(path, OpenFlags::DIRECTORY, USER).expect(path);
    desk.call(Call::List { handle });
    // The root's are there when the partition tables have been read.
    desk.fake.complete_all();
    match desk.one() {
        Some(Ok(Reply::List(entries))) => entries
            .into_iter()
            .map(|entry| (entry.name, entry.kind))
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn whatever_is_listed_can_be_opened() {
    let desk = Desk::new(&[(12, 8), (9, 16)]);
    let mut todo = vec![String::new()];
    let mut files = 0_usize;
    while let Some(directory) = todo.pop() {
        for (name, kind) in names(&desk, &directory) {
            let path = format!("{directory}/{name}");
            match kind {
                NodeKind::Directory => todo.push(path),
                NodeKind::File | NodeKind::BlockDevice => {
                    let handle = desk.open_as(&path, OpenFlags::default(), ROOT).expect(&path);
                    let stat = desk.now(Call::Stat { handle });
                    assert!(
                        matches!(stat, Ok(Reply::Stat(stat)) if stat.kind == kind),
                        "{path}: {stat:?}"
                    );
                    files += 1;
                }
            }
        }
    }
    let of_management = if cfg!(feature = "nvme-mi") { 5 } else { 0 };
    let of_namespace = 5 + usize::from(cfg!(feature = "io-uring-compat"));
    assert_eq!(files, 6 + 6 + of_management + 2 * of_namespace);
}

#[test]
fn namespaces_come_and_go() {
    let desk = Desk::new(&[(12, 8)]);
    let handle = desk.open("1/data");
    assert_eq!(desk.open_as("2", OpenFlags::READ, ROOT), Err(Errno::ENOENT));
    desk.fake.set_namespaces(vec![namespace(7, 12, 8)]);
    assert_eq!(
        names(&desk, "/"),
        [
            ("controller".into(), NodeKind::Directory),
            ("7".into(), NodeKind::Directory)
        ]
    );
    assert_eq!(desk.open_as("1/stats", OpenFlags::READ, ROOT), Err(Errno::ENOENT));
    // Whoever has the old one open is told.
    assert_eq!(desk.read_now(handle, 0, 10), Err(Errno::ENODEV));
    assert_eq!(desk.now(Call::Stat { handle }), Err(Errno::ENODEV));
    assert_eq!(desk.now(Call::Sync { handle }), Err(Errno::ENODEV));
    assert_eq!(
        desk.now(Call::Write {
            handle,
            offset: 0,
            data: vec![1]
        }),
        Err(Errno::ENODEV)
    );
}

#[test]
fn an_unusable_namespace_shows_but_its_data_do_not_open() {
    let desk = Desk::new(&[(12, 0)]);
    for path in ["1", "1/data", "1/bench", "1/io"] {
        assert_eq!(
            desk.open_as(path, OpenFlags::READ, ROOT),
            Err(Errno::EOPNOTSUPP),
            "{path}"
        );
    }
    assert_eq!(
        names(&desk, "1").len(),
        5 + usize::from(cfg!(feature = "io-uring-compat"))
    );
    let identify = desk.open("1/identify");
    assert_eq!(desk.read_now(identify, 0, 8192), Ok(vec![1; 4096]));
    let stats = desk.open("1/stats");
    assert!(
        desk.read_now(stats, 0, 1 << 20)
            .is_ok_and(|text| text.ends_with(b"}\n"))
    );
}

#[test]
fn a_namespace_is_a_block_device_of_its_size() {
    let desk = Desk::new(&[(9, 100)]);
    for path in ["1", "1/data"] {
        let handle = desk.open(path);
        let stat = Stat {
            size_bytes: 51_200,
            block_bytes: 512,
            kind: NodeKind::BlockDevice,
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        assert_eq!(desk.now(Call::Stat { handle }), Ok(Reply::Stat(stat)));
    }
}

#[test]
fn a_user_reads_documents_and_nothing_else() {
    let desk = Desk::new(&[(12, 8)]);
    for path in [
        "1/stats",
        "1/identify",
        "controller/stats?light",
        "controller/log/smart",
    ] {
        assert!(desk.open_as(path, OpenFlags::READ, USER).is_ok(), "{path}");
        assert_eq!(
            desk.open_as(path, OpenFlags::READ_WRITE, USER),
            Err(Errno::EACCES),
            "{path}"
        );
    }
    for path in ["1", "1/data", "1/bench", "1/io", "controller/admin"] {
        for flags in [OpenFlags::READ, OpenFlags::WRITE] {
            assert_eq!(desk.open_as(path, flags, USER), Err(Errno::EACCES), "{path}");
        }
        let handle = desk
            .open_as(path, OpenFlags::default(), USER)
            .expect("to be looked at");
        assert!(desk.now(Call::Stat { handle }).is_ok());
        assert_eq!(desk.now(Call::Sync { handle }), Err(Errno::EBADF), "{path}");
        assert_eq!(desk.read_now(handle, 0, 1), Err(Errno::EBADF), "{path}");
        assert_eq!(desk.now(Call::Close { handle }), Ok(Reply::Done));
    }
}

#[test]
fn a_handle_does_what_it_was_opened_for() {
    let desk = Desk::new(&[(12, 8)]);
    let reader = desk.open_as("1", OpenFlags::READ, ROOT).unwrap();
    let writer = desk.open_as("1", OpenFlags::WRITE, ROOT).unwrap();
    assert_eq!(
        desk.now(Call::Write {
            handle: reader,
            offset: 0,
            data: vec![0; 4096]
        }),
        Err(Errno::EBADF)
    );
    assert_eq!(desk.read_now(writer, 0, 4096), Err(Errno::EBADF));
    let directory = desk.open("/");
    assert_eq!(desk.read_now(directory, 0, 1), Err(Errno::EISDIR));
    assert_eq!(desk.now(Call::List { handle: reader }), Err(Errno::ENOTDIR));
    assert_eq!(desk.now(Call::Sync { handle: directory }), Err(Errno::EINVAL));
}

#[test]
fn a_number_is_given_once() {
    let desk = Desk::new(&[(12, 8)]);
    let first = desk.open("/");
    let all: Vec<_> = (1..100).map(|_| desk.open("1/stats")).collect();
    assert_eq!(desk.now(Call::Close { handle: first }), Ok(Reply::Done));
    assert_eq!(desk.now(Call::Close { handle: first }), Err(Errno::EBADF));
    let again = desk.open("/");
    assert!(again != first && !all.contains(&again));
    assert_eq!(desk.read_now(first, 0, 1), Err(Errno::EBADF));
}

#[derive(Clone, Debug)]
enum Wild {
    Open {
        path: String,
        flags: OpenFlags,
        uid: u32,
    },
    Read {
        which: usize,
        offset: u64,
        len: usize,
    },
    Write {
        which: usize,
        offset: u64,
        data: Vec<u8>,
    },
    Sync {
        which: usize,
    },
    Stat {
        which: usize,
    },
    List {
        which: usize,
    },
    Close {
        which: usize,
    },
    Complete {
        which: usize,
    },
    Fail {
        which: usize,
    },
    Admin {
        status: u16,
    },
}

fn wild() -> impl Strategy<Value = Wild> {
    let path = prop_oneof![
        prop::sample::select(vec![
            "",
            "1",
            "1/",
            "2/data",
            "1/stats",
            "2/stats?light",
            "1/identify",
            "1/bench",
            "2/bench",
            "1/io",
            "controller/events",
            "controller/events?now",
            "controller",
            "controller/admin",
            "controller/admin",
            "controller/mi/vpd",
            "controller/mi/request",
            "controller/identify",
            "controller/log/smart",
            "controller/log/error",
            "3",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9/?]{0,12}",
    ];
    let flags = any::<(bool, bool, bool)>().prop_map(|(read, write, directory)| OpenFlags {
        read,
        write,
        directory: directory && !write,
    });
    let offset = prop_oneof![
        0_u64..70_000,
        any::<u64>(),
        Just(0),
        (0_u64..16).prop_map(|block| block * 4096)
    ];
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0_usize..9000).prop_map(|len| vec![7; len]),
        (any::<u8>(), 0_u64..3).prop_map(|(opcode, pages)| {
            let mut entry = vec![0; 64];
            entry[0] = opcode;
            entry[24..32].copy_from_slice(&(pages * 4096).to_le_bytes());
            entry
        }),
        Just(br#"{"schema":"nvme-bench-job","version":"1.0","pattern":"read","block_bytes":4096,"queue_depth":1,"ios":1}"#.to_vec()),
        Just(b"stop".to_vec()),
    ];
    prop_oneof![
        3 => (path, flags, 0_u32..2).prop_map(|(path, flags, uid)| Wild::Open { path, flags, uid }),
        4 => (0_usize..8, offset.clone(), 0_usize..9000).prop_map(|(which, offset, len)| Wild::Read { which, offset, len }),
        4 => (0_usize..8, offset, data).prop_map(|(which, offset, data)| Wild::Write { which, offset, data }),
        1 => (0_usize..8).prop_map(|which| Wild::Sync { which }),
        1 => (0_usize..8).prop_map(|which| Wild::Stat { which }),
        1 => (0_usize..8).prop_map(|which| Wild::List { which }),
        1 => (0_usize..8).prop_map(|which| Wild::Close { which }),
        3 => any::<usize>().prop_map(|which| Wild::Complete { which }),
        1 => any::<usize>().prop_map(|which| Wild::Fail { which }),
        2 => any::<u16>().prop_map(|status| Wild::Admin { status }),
    ]
}

proptest! {
    /// Whatever a client does and however the device answers: every call is answered once, and a fresh client
    /// finds the driver as it should be.
    #[test]
    fn every_call_is_answered_once(steps in prop::collection::vec(wild(), 1..60)) {
        let desk = Desk::new(&[(12, 16), (9, 64)]);
        let mut handles = vec![HandleId(99)];
        let mut answers = Vec::new();
        for step in steps {
            let pick = |which: usize| handles[which % handles.len()];
            match step {
                Wild::Open { path, flags, uid } => {
                    desk.call(Call::Open { path, flags, caller: Caller::new(uid, 0, 0) });
                }
                Wild::Read { which, offset, len } => {
                    desk.read(pick(which), offset, len);
                }
                Wild::Write { which, offset, data } => {
                    desk.write(pick(which), offset, &data);
                }
                Wild::Sync { which } => {
                    desk.call(Call::Sync { handle: pick(which) });
                }
                Wild::Stat { which } => {
                    desk.call(Call::Stat { handle: pick(which) });
                }
                Wild::List { which } => {
                    desk.call(Call::List { handle: pick(which) });
                }
                Wild::Close { which } => {
                    desk.call(Call::Close { handle: pick(which) });
                }
                Wild::Complete { which } => {
                    desk.fake.complete(which);
                }
                Wild::Fail { which } => {
                    desk.fake.answer(which, Err(super::super::service::IoError::Lost));
                }
                Wild::Admin { status } => {
                    if !desk.fake.admin_out().is_empty() {
                        desk.fake.complete_admin(nvme_spec::Status(status & 0x7FFF), 3);
                    }
                }
            }
            let new = desk.take();
            handles.extend(new.iter().filter_map(|(_, outcome)| match outcome {
                Ok(Reply::Opened(handle)) => Some(*handle),
                _ => None,
            }));
            answers.extend(new);
        }
        desk.fake.complete_all();
        while !desk.fake.admin_out().is_empty() {
            desk.fake.complete_admin(nvme_spec::Status::SUCCESS, 1);
        }
        for handle in handles {
            desk.call(Call::Close { handle });
        }
        answers.extend(desk.take());
        let mut ids: Vec<u64> = answers.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..desk.calls.get()).collect::<Vec<_>>());
        prop_assert_eq!(desk.scheme.open_handles(), 0);

        // No lock was left behind.
        let data = desk.open("1/data");
        desk.write(data, 1, &[5; 60_000]);
        desk.fake.complete_all();
        prop_assert_eq!(desk.one().map(written), Some(Ok(60_000)));
    }
}
