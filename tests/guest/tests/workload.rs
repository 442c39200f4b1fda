//! The program that checks data in guests, on the emulated controller and outside of any: it finds what is wrong, and
//! says nothing against what is right.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nvme-guest-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("models")).expect("made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn workload(folder: &Folder, spec: &str, seed: &str) -> Output {
    let backing = folder.0.join("disk");
    Command::new(env!("CARGO_BIN_EXE_nvme-guest-workload"))
        .arg("--device")
        .arg(format!("emulated:{spec},backing=file:{}", backing.display()))
        .args(["--requests", "500", "--seed", seed, "--models"])
        .arg(folder.0.join("models"))
        .output()
        .expect("it runs")
}

#[test]
fn the_model_is_what_the_disk_holds_and_the_next_run_begins_with_it() {
    let folder = Folder::new("model");
    let disk = folder.0.join("disk");
    let model = folder.0.join("models/1");
    let output = workload(&folder, "size=1MiB,lba=512,queues=2", "7");
    assert!(output.status.success(), "{output:?}");
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("statistics");
    let ops = &stats["namespaces"][0]["ops"];
    for op in [
        "read",
        "write",
        "flush",
        "write_zeroes",
        "dsm",
        "compare",
        "verify",
    ] {
        assert!(ops[op]["count"].as_u64() > Some(0), "no {op} in {ops}");
    }
    let first = fs::read(&model).expect("a model");
    assert!(
        first == fs::read(&disk).expect("a disk"),
        "the model is not the disk"
    );

    let output = workload(&folder, "size=1MiB,lba=512,queues=2", "8");
    assert!(output.status.success(), "{output:?}");
    let second = fs::read(&model).expect("a model");
    assert!(second != first, "nothing was written");
    assert!(
        second == fs::read(&disk).expect("a disk"),
        "the model is not the disk"
    );
}

#[test]
fn one_bit_that_is_not_as_it_was_left_is_found() {
    let folder = Folder::new("bit");
    let disk = folder.0.join("disk");
    assert!(workload(&folder, "size=1MiB,lba=4096", "1").status.success());
    let mut contents = fs::read(&disk).expect("a disk");
    contents[123_456] ^= 4;
    fs::write(&disk, contents).expect("written");
    let output = workload(&folder, "size=1MiB,lba=4096", "1");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("block 30 of namespace 1") && complaint.contains("byte 576"),
        "{complaint}"
    );
}
