//! The scheme `nvme`: documents, transactions, who may what, and reads that wait.

use super::rig::{DISKS, Rig, names, open, read_all};
use syscall::error::{EACCES, EAGAIN, EEXIST, EINTR, EISDIR, ENAMETOOLONG, ENOENT, ENOSPC, EPERM};
use syscall::flag::{
    O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL, O_NONBLOCK, O_RDONLY, O_RDWR, O_STAT, O_TRUNC, StdFsCallKind,
};

#[test]
fn anybody_reads_documents_and_only_root_the_rest() {
    let rig = Rig::new("size=1MiB,namespaces=2,serial=S77");
    let user = rig.machine.client(1000, 1000);
    assert_eq!(names(&user, "/scheme/nvme"), ["controller", "1", "2"]);
    assert!(names(&user, "/scheme/nvme/controller/").contains(&"stats".to_owned()));
    assert!(names(&user, "/scheme/nvme/1/").contains(&"identify".to_owned()));
    assert_eq!(read_all(&user, "/scheme/nvme/controller/identify").len(), 4096);
    assert_eq!(read_all(&user, "/scheme/nvme/controller/log/smart").len(), 512);
    assert_eq!(rig.stats().controller.serial.as_str(), "S77");
    for (path, flags) in [
        ("/scheme/nvme/1", O_RDONLY),
        ("/scheme/nvme/1/data", O_RDWR),
        ("/scheme/nvme/controller/admin", O_RDWR),
        ("/scheme/nvme/1/bench", O_RDWR),
        ("/scheme/nvme/1/stats", O_RDWR),
    ] {
        assert_eq!(user.open(path, flags).unwrap_err().errno, EACCES, "{path}");
    }
    let looked_at = user.open("/scheme/nvme/1", O_STAT).unwrap();
    assert_eq!(user.fstat(looked_at).unwrap().st_size, 1 << 20);
    user.close(looked_at).unwrap();
    for path in [
        "/scheme/nvme/3",
        "/scheme/nvme/1/x",
        "/scheme/nvme/controller/log/x",
    ] {
        assert_eq!(user.open(path, O_RDONLY).unwrap_err().errno, ENOENT, "{path}");
    }
    let directory = user.open("/scheme/nvme", O_RDONLY | O_DIRECTORY).unwrap();
    assert_eq!(user.read(directory, &mut [0; 10]).unwrap_err().errno, EISDIR);
    let below = user.openat(directory, "1/stats", O_RDONLY).unwrap();
    user.close(below).unwrap();
    user.close(directory).unwrap();
    rig.check();
}

#[test]
fn root_gives_a_disk_to_a_user() {
    let rig = Rig::new("size=1MiB");
    let (root, user) = (rig.root(), rig.machine.client(1000, 1000));
    let disk = open(&root, "/scheme/nvme/1");
    assert_eq!(
        root.std_fs_call(disk, StdFsCallKind::Fchown, [1000, 1000], &mut []),
        Ok(0)
    );
    let theirs = user.open("/scheme/nvme/1", O_RDWR).unwrap();
    assert_eq!(root.fstat(disk).unwrap().st_uid, 1000);
    let refused = user.std_fs_call(theirs, StdFsCallKind::Fchmod, [0o666, 0], &mut []);
    assert_eq!(refused.unwrap_err().errno, EPERM, "who opened it was not root");
    assert_eq!(
        root.std_fs_call(disk, StdFsCallKind::Fchmod, [0o400, 0], &mut []),
        Ok(0)
    );
    assert_eq!(user.open("/scheme/nvme/1", O_RDWR).unwrap_err().errno, EACCES);
    rig.check();
}

/// A reader that waits is interrupted; another one on the same file goes on waiting.
#[test]
fn one_reader_is_interrupted_and_the_other_is_not() {
    let rig = Rig::new("size=1MiB");
    let (one, other) = (rig.machine.client(1, 1), rig.machine.client(2, 2));
    let readers = [&one, &other];
    let files = readers.map(|client| {
        let file = client.open("/scheme/nvme/controller/events", O_RDONLY).unwrap();
        let mut bytes = vec![0; 65536];
        assert!(
            client.read(file, &mut bytes).unwrap() > 0,
            "what has happened already"
        );
        file
    });
    std::thread::scope(|scope| {
        let interrupted = scope.spawn(|| one.read(files[0], &mut [0; 4096]));
        let waiting = scope.spawn(|| other.read(files[1], &mut [0; 4096]));
        one.wait_until_taken(1);
        other.wait_until_taken(1);
        assert_eq!(one.interrupt(), 1);
        assert_eq!(interrupted.join().unwrap().unwrap_err().errno, EINTR);
        assert_eq!(other.calls_under_way(), (1, 1));
        // The end of the driver is something that happens.
        assert!(rig.daemon.end());
        assert!(waiting.join().unwrap().unwrap() > 0);
    });
    rig.check();
}

#[test]
fn two_threads_on_one_handle_and_one_is_meant() {
    let rig = Rig::new("size=1MiB");
    let (one, other) = (rig.machine.client(1, 1), rig.machine.client(2, 2));
    let file = one.open("/scheme/nvme/controller/events", O_RDONLY).unwrap();
    let len = one.read(file, &mut vec![0; 65536]).unwrap() as u64;
    let number = one.number(file).unwrap() as u64;
    // The other client has the same file, inherited.
    let read = syscall::schemev2::Sqe {
        opcode: syscall::schemev2::Opcode::Read as u8,
        args: [number, 0, 0, len, 0, 0],
        ..Default::default()
    };
    std::thread::scope(|scope| {
        let interrupted = scope.spawn(|| one.pread(file, &mut [0; 4096], len));
        let waiting = scope.spawn(|| other.raw_with("nvme", read, &mut [0; 4096]));
        one.wait_until_taken(1);
        other.wait_until_taken(1);
        assert_eq!(one.interrupt(), 1);
        assert_eq!(interrupted.join().unwrap().unwrap_err().errno, EINTR);
        assert_eq!(other.calls_under_way(), (1, 1));
        assert!(rig.daemon.end());
        assert!(waiting.join().unwrap().unwrap() > 0);
    });
    rig.check();
}

/// Who does not want to wait is told so, and those who wait on the same file go on waiting.
#[test]
fn a_read_that_is_not_to_wait_does_not() {
    let rig = Rig::new("size=1MiB");
    let (client, other) = (rig.root(), rig.root());
    let path = "/scheme/nvme/controller/events";
    let file = client.open(path, O_RDONLY | O_NONBLOCK).unwrap();
    let len = client.read(file, &mut vec![0; 65536]).unwrap() as u64;
    assert!(len > 0, "what has happened already");
    // The other client has the same file, inherited, and waits.
    let read = syscall::schemev2::Sqe {
        opcode: syscall::schemev2::Opcode::Read as u8,
        args: [client.number(file).unwrap() as u64, 0, 0, len, 0, 0],
        ..Default::default()
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.raw_with("nvme", read, &mut [0; 4096]));
        other.wait_until_taken(1);
        for _ in 0..20 {
            assert_eq!(client.read(file, &mut [0; 4096]).unwrap_err().errno, EAGAIN);
        }
        assert_eq!(other.calls_under_way(), (1, 1));
        assert!(rig.daemon.end());
        assert!(waiting.join().unwrap().unwrap() > 0);
    });
    assert!(
        client.read(file, &mut [0; 4096]).unwrap() > 0,
        "there is something"
    );
    rig.check();
}

/// All who wait on one file are interrupted at once, again and again: none of them is forgotten, whoever wakes whom.
#[test]
fn all_readers_of_a_file_are_interrupted_together() {
    let rig = Rig::new("size=1MiB");
    let clients: Vec<_> = (0..8).map(|_| rig.root()).collect();
    let file = clients[0]
        .open("/scheme/nvme/controller/events", O_RDONLY)
        .unwrap();
    let len = clients[0].read(file, &mut vec![0; 65536]).unwrap() as u64;
    let read = syscall::schemev2::Sqe {
        opcode: syscall::schemev2::Opcode::Read as u8,
        args: [clients[0].number(file).unwrap() as u64, 0, 0, len, 0, 0],
        ..Default::default()
    };
    for _ in 0..200 {
        std::thread::scope(|scope| {
            let waiting: Vec<_> = clients
                .iter()
                .map(|client| scope.spawn(|| client.raw_with("nvme", read, &mut [0; 4096])))
                .collect();
            for client in &clients {
                client.wait_until_taken(1);
            }
            for client in &clients {
                scope.spawn(|| assert_eq!(client.interrupt(), 1));
            }
            for read in waiting {
                assert_eq!(read.join().unwrap().unwrap_err().errno, EINTR);
            }
        });
    }
    rig.check();
}

#[test]
fn flags_of_open_are_those_of_a_disk_that_is_there() {
    let rig = Rig::new("size=1MiB");
    let root = rig.root();
    for disk in ["/scheme/nvme/1".to_owned(), format!("{DISKS}/1")] {
        let mut block = [7; 512];
        let flags = O_RDWR | O_CREAT | O_EXCL;
        assert_eq!(root.open(&disk, flags).unwrap_err().errno, EEXIST, "{disk}");
        let missing = format!("{disk}23");
        assert_eq!(root.open(&missing, flags).unwrap_err().errno, ENOENT);
        let appended = root.open(&disk, O_RDWR | O_APPEND).unwrap();
        assert_eq!(root.write(appended, &block).unwrap_err().errno, ENOSPC);
        assert_eq!(root.pwrite(appended, &block, 0).unwrap_err().errno, ENOSPC);
        assert_eq!(root.write(appended, &[]), Ok(0));
        root.close(appended).unwrap();
        let created = root.open(&disk, O_RDWR | O_CREAT | O_TRUNC).unwrap();
        assert_eq!(root.pread(created, &mut block, 0), Ok(512));
        assert_eq!(block, [0; 512], "nothing was written over it");
        assert_eq!(root.fsize(created), Ok(1 << 20));
        root.close(created).unwrap();
    }
    rig.check();
    // What was closed is told without an answer.
    while rig
        .daemon
        .servers()
        .iter()
        .any(|server| server.open_handles() > 0)
    {
        std::thread::yield_now();
    }
}

/// A path grows with each directory that something is opened from.
#[test]
fn paths_do_not_grow_for_ever() {
    let rig = Rig::new("size=1MiB");
    let root = rig.root();
    let slashes = "/".repeat(1000);
    for scheme in ["/scheme/nvme", DISKS] {
        let flags = O_RDONLY | O_DIRECTORY;
        let mut open = vec![root.open(scheme, flags).unwrap()];
        let refused = loop {
            match root.openat(*open.last().unwrap(), &slashes, flags) {
                Ok(directory) => open.push(directory),
                Err(error) => break error.errno,
            }
            assert!(open.len() < 10, "{scheme}");
        };
        assert_eq!(refused, ENAMETOOLONG, "{scheme}");
        for directory in open {
            root.close(directory).unwrap();
        }
    }
    rig.check();
}

/// A benchmark is answered by the worker that takes requests, in a turn of its own.
#[test]
fn a_benchmark_tells_how_far_it_is_and_what_it_found() {
    let rig = Rig::new("size=1MiB,queues=1");
    let root = rig.root();
    let file = root.open("/scheme/nvme/1/bench", O_RDWR).unwrap();
    let job = stats_proto::bench::BenchJob {
        ios: Some(2000),
        time_ns: None,
        ..Default::default()
    };
    root.write(file, &serde_json::to_vec(&job).unwrap()).unwrap();
    let mut text = Vec::new();
    loop {
        let mut piece = vec![0; 4096];
        match root.pread(file, &mut piece, text.len() as u64).unwrap() {
            0 => break,
            len => text.extend_from_slice(&piece[..len]),
        }
    }
    let text = String::from_utf8(text).unwrap();
    let line = stats_proto::bench::BenchLine::parse(text.lines().last().unwrap()).unwrap();
    assert!(
        matches!(line, stats_proto::bench::BenchLine::Result(_)),
        "{line:?}"
    );
    root.close(file).unwrap();
    rig.check();
}
