//! What the rest of Redox relies on of a disk's scheme.

use super::rig::{DISKS, Rig, names, open};
use syscall::error::{EACCES, EBADF, EISDIR, ENOENT, ENOLCK};
use syscall::flag::{MODE_DIR, MODE_FILE, O_DIRECTORY, O_RDONLY, O_RDWR, O_STAT};

#[test]
fn a_disk_is_found_by_listing_and_by_reading_the_directory() {
    let rig = Rig::new("size=1MiB,namespaces=3");
    let client = rig.root();
    assert_eq!(rig.machine.schemes(), ["disk.pci-0000-00-02.0-nvme", "nvme"]);
    assert_eq!(names(&client, DISKS), ["1", "2", "3"]);
    assert_eq!(names(&client.older(), DISKS), ["1", "2", "3"]);
    let directory = client.open(DISKS, O_RDONLY | O_DIRECTORY).unwrap();
    let mut text = [0; 64];
    let len = client.read(directory, &mut text).unwrap();
    assert_eq!(&text[..len], b"1\n2\n3\n");
    assert_eq!(client.read(directory, &mut text), Ok(0));
    assert_eq!(client.pwrite(directory, b"x", 0).unwrap_err().errno, EBADF);
    let stat = client.fstat(directory).unwrap();
    assert_eq!(stat.st_mode & 0xF000, MODE_DIR);
    for flags in [O_RDONLY, O_RDWR] {
        assert_eq!(client.open(DISKS, flags).unwrap_err().errno, EISDIR);
    }
    client.close(client.open(DISKS, O_STAT).unwrap()).unwrap();
    client.close(directory).unwrap();
    rig.check();
}

#[test]
fn a_disk_is_open_once_and_by_root_only() {
    let rig = Rig::new("size=1MiB,namespaces=2");
    let (one, other) = (rig.root(), rig.root());
    let path = format!("{DISKS}/1");
    let disk = open(&one, &path);
    assert_eq!(other.open(&path, O_RDWR).unwrap_err().errno, ENOLCK);
    assert_eq!(one.open(&path, O_RDONLY).unwrap_err().errno, ENOLCK);
    let second = open(&other, &format!("{DISKS}/2"));
    // A duplicate is the same opening: it is free when the last one goes.
    let duplicate = one.dup(disk, b"").unwrap();
    one.close(disk).unwrap();
    assert_eq!(other.open(&path, O_RDWR).unwrap_err().errno, ENOLCK);
    one.close(duplicate).unwrap();
    let again = open(&other, &path);
    let user = rig.machine.client(1000, 1000);
    for path in [DISKS, &path, &format!("{DISKS}/9")] {
        assert_eq!(
            user.open(path, O_RDONLY | O_DIRECTORY).unwrap_err().errno,
            EACCES,
            "{path}"
        );
    }
    for name in ["3", "x", "1p0", "1/data", "controller"] {
        let error = other.open(&format!("{DISKS}/{name}"), O_RDWR).unwrap_err();
        assert_eq!(error.errno, ENOENT, "{name}");
    }
    for disk in [second, again] {
        other.close(disk).unwrap();
    }
    rig.check();
}

#[test]
fn a_killed_client_makes_way() {
    let rig = Rig::new("size=1MiB");
    let client = rig.root();
    open(&client, &format!("{DISKS}/1"));
    client.kill();
    let other = rig.root();
    let disk = open(&other, &format!("{DISKS}/1"));
    let stat = other.fstat(disk).unwrap();
    assert_eq!(stat.st_mode & 0xF000, MODE_FILE);
    assert_eq!((stat.st_size, stat.st_blksize), (1 << 20, 4096));
    assert_eq!(other.older().fstat(disk).unwrap().st_size, 1 << 20);
    let mut path = [0; 64];
    let len = other.fpath(disk, &mut path).unwrap();
    assert_eq!(
        std::str::from_utf8(&path[..len]),
        Ok(format!("{DISKS}/1").as_str())
    );
    other.close(disk).unwrap();
    rig.check();
}
