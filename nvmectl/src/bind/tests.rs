//! On machines made up of files, whose kernel does what is written to sysfs.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::style::Style;
use crate::units::Units;

const ADDRESS: &str = "0000:01:00.0";
const NVME: u32 = 0x010802;

/// A machine with one NVMe controller, `nvme0`, and its kernel.
struct Machine {
    root: PathBuf,
    written: RefCell<Vec<(String, String)>>,
    claimed: RefCell<Vec<String>>,
    /// What the kernel answers instead of doing it.
    refuses: Vec<(&'static str, io::ErrorKind)>,
}

impl Machine {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("nvmectl-machine-{}-{number}", std::process::id()));
        let machine = Self {
            root,
            written: RefCell::default(),
            claimed: RefCell::default(),
            refuses: Vec::new(),
        };
        for driver in ["nvme", "vfio-pci"] {
            fs::create_dir_all(machine.root.join("sys/bus/pci/drivers").join(driver)).unwrap();
        }
        machine.file("sys/kernel/iommu_groups/7/type", "DMA");
        machine.file(&machine.of_function("class"), &format!("{NVME:#08x}\n"));
        machine.file(&machine.of_function("driver_override"), "(null)\n");
        machine.link(&machine.of_function("iommu_group"), "sys/kernel/iommu_groups/7");
        machine.link(&machine.of_function("driver"), "sys/bus/pci/drivers/nvme");
        machine.block("nvme0n1", "nvme/nvme0/nvme0n1", "259:0");
        machine.block("nvme0n1p1", "nvme/nvme0/nvme0n1/nvme0n1p1", "259:1");
        machine.file(
            &machine.of_function("nvme/nvme0/nvme0n1/nvme0n1p1/partition"),
            "1\n",
        );
        machine.file("proc/swaps", "Filename Type Size Used Priority\n");
        machine.file("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        machine
    }

    fn of_function(&self, path: &str) -> String {
        format!("sys/bus/pci/devices/{ADDRESS}/{path}")
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.root.join(target), path).unwrap();
    }

    /// A block device of the function, at `place` below it.
    fn block(&self, name: &str, place: &str, number: &str) {
        self.file(&self.of_function(&format!("{place}/dev")), &format!("{number}\n"));
        self.link(&format!("sys/class/block/{name}"), &self.of_function(place));
        self.file(&format!("dev/{name}"), "");
    }

    fn driver(&self) -> Option<String> {
        self.host().function(ADDRESS.parse().unwrap()).unwrap().driver
    }

    fn host(&self) -> Host {
        Host::below(&self.root)
    }

    fn run(&self, to: To, dry_run: bool, format: Format) -> Result<String, Error> {
        let mut text = Vec::new();
        let mut output = Output::new(&mut text, format, Style::plain(Units::Iec));
        Bind::new("01:00.0", to)?.run_on(&self.host(), self, dry_run, &mut output)?;
        Ok(String::from_utf8(text).unwrap())
    }

    fn bind(&self) -> Result<String, Error> {
        self.run(To::Vfio, false, Format::Table)
    }

    fn unbind(&self) -> Result<String, Error> {
        self.run(To::Kernel, false, Format::Table)
    }

    /// What was written, and where, below the root.
    fn written(&self) -> Vec<(String, String)> {
        self.written.take()
    }

    /// That `bind` is refused, for what all of `parts` say.
    #[track_caller]
    fn assert_refused(&self, parts: &[&str]) {
        let error = self.bind().unwrap_err();
        let text = error.text();
        assert_eq!(error.exit_code(), 8, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in: {text}");
        }
        assert_eq!(self.written(), []);
        assert_eq!(self.driver().as_deref(), Some("nvme"));
    }
}

impl System for Machine {
    fn write(&self, path: &Path, line: &str) -> io::Result<()> {
        let path = path
            .strip_prefix(&self.root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        self.written.borrow_mut().push((path.clone(), line.to_owned()));
        if let Some((_, kind)) = self.refuses.iter().find(|(end, _)| path.ends_with(end)) {
            return Err((*kind).into());
        }
        let driver = self.root.join(self.of_function("driver"));
        let wanted = text_of(&self.root.join(self.of_function("driver_override"))).unwrap();
        let take = |name: &str| {
            self.link(
                &self.of_function("driver"),
                &format!("sys/bus/pci/drivers/{name}"),
            )
        };
        match path.rsplit('/').next().unwrap() {
            "driver_override" => self.file(&path, &format!("{line}\n")),
            "unbind" => fs::remove_file(driver).unwrap(),
            "bind" => {
                assert_eq!((line, wanted.as_str()), (ADDRESS, "vfio-pci"));
                take("vfio-pci");
            }
            "drivers_probe" if wanted == "vfio-pci" => take("vfio-pci"),
            "drivers_probe" => take("nvme"),
            other => panic!("nobody writes to {other}"),
        }
        Ok(())
    }

    fn claim(&self, disk: &Path) -> io::Result<File> {
        let name = disk.file_name().unwrap().to_str().unwrap();
        self.claimed.borrow_mut().push(name.to_owned());
        match self.refuses.iter().find(|(end, _)| *end == name) {
            Some((_, kind)) => Err((*kind).into()),
            None => File::open(disk),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

fn line(path: String, text: &str) -> (String, String) {
    (path, text.to_owned())
}

#[test]
fn a_controller_goes_to_vfio_and_back_and_each_can_be_said_twice() {
    let machine = Machine::new();
    let text = machine.bind().unwrap();
    assert!(text.starts_with("0000:01:00.0: nvme -> vfio-pci\n"), "{text}");
    assert!(
        text.contains("dev/vfio/7") && text.contains("nvme-driver --device vfio:0000:01:00.0\n"),
        "{text}"
    );
    assert_eq!(
        machine.written(),
        [
            line(machine.of_function("driver_override"), "vfio-pci"),
            line(machine.of_function("driver/unbind"), ADDRESS),
            line("sys/bus/pci/drivers/vfio-pci/bind".to_owned(), ADDRESS),
        ]
    );
    assert_eq!(machine.claimed.take(), ["nvme0n1"], "partitions are the disk's");
    assert_eq!(machine.driver().as_deref(), Some("vfio-pci"));
    let text = machine.bind().unwrap();
    assert!(
        text.starts_with("0000:01:00.0: vfio-pci has it already\n"),
        "{text}"
    );
    assert_eq!(machine.written(), []);

    let text = machine.unbind().unwrap();
    assert_eq!(text, "0000:01:00.0: vfio-pci -> nvme\n");
    assert_eq!(
        machine.written(),
        [
            line(machine.of_function("driver_override"), ""),
            line(machine.of_function("driver/unbind"), ADDRESS),
            line("sys/bus/pci/drivers_probe".to_owned(), ADDRESS),
        ]
    );
    assert_eq!(machine.unbind().unwrap(), "0000:01:00.0: nvme has it already\n");
    assert_eq!(machine.written(), []);
}

#[test]
fn json_says_the_same() {
    let machine = Machine::new();
    let text = machine.run(To::Vfio, false, Format::Json).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["schema"], "nvmectl-bind");
    assert_eq!(document["address"], ADDRESS);
    assert_eq!(document["driver_before"], "nvme");
    assert_eq!(document["driver"], "vfio-pci");
    assert_eq!(document["changed"], true);
    assert!(document["node"].as_str().unwrap().ends_with("/dev/vfio/7"));
}

#[test]
fn a_dry_run_says_what_it_would_write_and_writes_nothing() {
    let machine = Machine::new();
    let text = machine.run(To::Vfio, true, Format::Table).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("would write \"vfio-pci\" to ") && lines[0].ends_with("/driver_override"));
    assert!(
        lines[1].ends_with("/driver/unbind") && lines[2].ends_with("/vfio-pci/bind"),
        "{text}"
    );
    let text = machine.run(To::Vfio, true, Format::Json).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["would_write"][1]["text"], ADDRESS);
    let text = machine.run(To::Kernel, true, Format::Table).unwrap();
    assert_eq!(text, "nothing is to be done\n");
    assert_eq!(machine.written(), []);
    machine.file("proc/swaps", "Filename\n/dev/nvme0n1 partition 1 0 -2\n");
    assert_eq!(
        machine
            .run(To::Vfio, true, Format::Table)
            .unwrap_err()
            .exit_code(),
        8
    );
}

#[test]
fn what_is_mounted_is_not_taken() {
    let mounted = |line: &str| {
        let machine = Machine::new();
        machine.file("proc/self/mountinfo", line);
        machine
    };
    let machine = mounted("30 22 259:1 / /mnt/data rw - ext4 /dev/nvme0n1p1 rw\n");
    machine.assert_refused(&["nvme0n1p1 is mounted at /mnt/data", "umount /mnt/data"]);
    // File systems over several devices have a number of their own.
    let machine = mounted("30 22 0:45 /sub /mnt/tree rw - btrfs /dev/nvme0n1 rw\n");
    machine.assert_refused(&["nvme0n1 is mounted at /mnt/tree"]);
    let machine = mounted("30 22 0:45 /sub /mnt/tree rw - btrfs /dev/disk/by-uuid/1 rw\n");
    machine.link("dev/disk/by-uuid/1", "dev/nvme0n1p1");
    machine.assert_refused(&["nvme0n1p1 is mounted at /mnt/tree"]);
    // In a container.
    let machine = Machine::new();
    machine.file("proc/31/mountinfo", "30 22 259:0 / / rw - ext4 /dev/root rw\n");
    machine.assert_refused(&["nvme0n1 is mounted at /"]);
    // Another disk's.
    let machine = mounted("30 22 259:10 / /mnt rw - ext4 /dev/nvme1n1 rw\n");
    machine.bind().unwrap();
}

#[test]
fn swap_space_and_what_others_are_made_of_is_not_taken() {
    let machine = Machine::new();
    machine.file(
        "proc/swaps",
        "Filename\n/dev/sdb2 partition 1 0 -2\n/dev/nvme0n1p1 partition 1 0 -3\n",
    );
    machine.assert_refused(&["nvme0n1p1 is swap space", "swapoff /dev/nvme0n1p1"]);
    let machine = Machine::new();
    machine.file(
        &machine.of_function("nvme/nvme0/nvme0n1/nvme0n1p1/holders/dm-3/x"),
        "",
    );
    machine.file("sys/class/block/dm-3/dm/name", "vg-home\n");
    machine.assert_refused(&["dm-3 (vg-home) is made of nvme0n1p1"]);
}

#[test]
fn what_is_open_is_not_taken() {
    let machine = Machine::new();
    machine.file("proc/31/comm", "dd\n");
    machine.link("proc/31/fd/3", "dev/nvme0n1p1");
    machine.assert_refused(&["dd (process 31) has ", "/dev/nvme0n1p1 open"]);
    let machine = Machine::new();
    machine.file("proc/31/comm", "nvme\n");
    machine.link("proc/31/fd/3", "dev/nvme0");
    machine.assert_refused(&["/dev/nvme0 open"]);
    let mut machine = Machine::new();
    machine.refuses = vec![("nvme0n1", io::ErrorKind::ResourceBusy)];
    machine.assert_refused(&["nvme0n1 is somebody's alone", "containers"]);
}

#[test]
fn what_the_kernel_lends_to_others_is_not_taken() {
    let machine = Machine::new();
    machine.file("sys/class/block/loop3/loop/backing_file", "/dev/nvme0n1p1\n");
    machine.assert_refused(&["loop3 is made of nvme0n1p1", "losetup -d"]);
    let machine = Machine::new();
    let namespace = "sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/5";
    machine.file(&format!("{namespace}/device_path"), "/dev/nvme0n1\n");
    machine.file(&format!("{namespace}/enable"), "1\n");
    machine.assert_refused(&["namespace 5 of the exported subsystem nqn.test is made of nvme0n1"]);
    machine.file(&format!("{namespace}/enable"), "0\n");
    machine.bind().unwrap();
}

#[test]
fn a_disk_that_cannot_be_claimed_is_not_taken_unless_it_is_one_of_several_paths() {
    let machine = Machine::new();
    fs::remove_file(machine.root.join("dev/nvme0n1")).unwrap();
    machine.assert_refused(&["nvme0n1", "is not there", "container"]);
    machine.file(&machine.of_function("nvme/nvme0/nvme0n1/hidden"), "0\n");
    machine.assert_refused(&["is not there"]);
    machine.file(&machine.of_function("nvme/nvme0/nvme0n1/hidden"), "1\n");
    machine.bind().unwrap();
}

#[test]
fn a_disk_with_several_paths_is_looked_at_too() {
    let machine = Machine::new();
    let disk = "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n2";
    machine.file(&format!("{disk}/dev"), "259:4\n");
    machine.link("sys/class/block/nvme0n2", disk);
    machine.link(
        "sys/class/nvme-subsystem/nvme-subsys0",
        "sys/devices/virtual/nvme-subsystem/nvme-subsys0",
    );
    machine.link(
        "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0",
        &machine.of_function("nvme/nvme0"),
    );
    machine.file(
        "proc/self/mountinfo",
        "30 22 259:4 / /mnt/two rw - xfs /dev/nvme0n2 rw\n",
    );
    machine.assert_refused(&["nvme0n2 is mounted at /mnt/two"]);
}

#[test]
fn a_controller_that_a_driver_drives_is_not_given_back() {
    let machine = Machine::new();
    machine.bind().unwrap();
    machine.written();
    machine.file("proc/31/comm", "nvme-driver\n");
    machine.link("proc/31/fd/5", "dev/vfio/7");
    let error = machine.unbind().unwrap_err();
    assert_eq!(error.exit_code(), 8);
    assert!(
        error.text().contains("nvme-driver (process 31)"),
        "{}",
        error.text()
    );
    assert_eq!(machine.written(), []);
    fs::remove_file(machine.root.join("proc/31/fd/5")).unwrap();
    machine.file(&machine.of_function("vfio-dev/vfio3/dev"), "511:3\n");
    machine.link("proc/31/fd/6", "dev/vfio/devices/vfio3");
    let error = machine.unbind().unwrap_err();
    assert_eq!(error.exit_code(), 8);
    assert!(error.text().contains("devices/vfio3"), "{}", error.text());
    assert_eq!(machine.written(), []);
    fs::remove_file(machine.root.join("proc/31/fd/6")).unwrap();
    machine.unbind().unwrap();
}

#[test]
fn nobody_is_left_without_a_driver_when_something_fails() {
    let mut machine = Machine::new();
    machine.refuses = vec![("vfio-pci/bind", io::ErrorKind::InvalidInput)];
    let error = machine.bind().unwrap_err();
    assert_eq!(error.exit_code(), 1, "{}", error.text());
    assert_eq!(machine.driver().as_deref(), Some("nvme"));
    let place = machine.root.join(machine.of_function("driver_override"));
    assert_eq!(text_of(&place).unwrap(), "");
}

#[test]
fn a_missing_privilege_is_said() {
    let mut machine = Machine::new();
    machine.refuses = vec![("driver_override", io::ErrorKind::PermissionDenied)];
    let error = machine.bind().unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.text().contains("run it as root"), "{}", error.text());
    let mut machine = Machine::new();
    machine.refuses = vec![("nvme0n1", io::ErrorKind::PermissionDenied)];
    assert_eq!(machine.bind().unwrap_err().exit_code(), 3);
    assert_eq!(machine.driver().as_deref(), Some("nvme"));
}

#[test]
fn what_cannot_be_bound_is_refused_before_anything_is_touched() {
    let machine = Machine::new();
    fs::remove_dir_all(machine.root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    let error = machine.bind().unwrap_err();
    assert_eq!(
        (error.exit_code(), error.hint().as_deref()),
        (4, Some("modprobe vfio-pci"))
    );

    let machine = Machine::new();
    fs::remove_file(machine.root.join(machine.of_function("iommu_group"))).unwrap();
    let error = machine.bind().unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.text().contains("intel_iommu=on"), "{}", error.text());
    machine.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    machine.bind().unwrap();

    let machine = Machine::new();
    machine.file(&machine.of_function("class"), "0x010601\n");
    let error = machine.bind().unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.text().contains("010601h"), "{}", error.text());

    let machine = Machine::new();
    let elsewhere = Bind::new("02:00.0", To::Vfio).unwrap();
    let mut sink = Vec::new();
    let mut output = Output::new(&mut sink, Format::Table, Style::plain(Units::Iec));
    let error = elsewhere
        .run_on(&machine.host(), &machine, false, &mut output)
        .unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(error.text().contains("0000:01:00.0 (nvme)"), "{}", error.text());
    assert_eq!(Bind::new("nvme0", To::Vfio).unwrap_err().exit_code(), 2);
}

#[test]
fn a_controller_without_a_driver_can_go_both_ways() {
    let machine = Machine::new();
    fs::remove_file(machine.root.join(machine.of_function("driver"))).unwrap();
    let text = machine.bind().unwrap();
    assert!(
        text.starts_with("0000:01:00.0: no driver -> vfio-pci\n"),
        "{text}"
    );
    assert_eq!(machine.written().len(), 2);
    fs::remove_file(machine.root.join(machine.of_function("driver"))).unwrap();
    assert_eq!(machine.unbind().unwrap(), "0000:01:00.0: no driver -> nvme\n");
}
