//! The scheme `nvme`: documents, transactions, who may what, and reads that wait.

use super::rig::{Rig, names, open, read_all};
use syscall::error::{EACCES, EINTR, EISDIR, ENOENT, EPERM};
use syscall::flag::{O_DIRECTORY, O_RDONLY, O_RDWR, O_STAT, StdFsCallKind};

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
