//! Everything before the first call of VFIO, on machines that are made up of files; what comes after it is tried in guests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::Trouble;
use super::*;

/// A machine's `/sys`, `/dev` and `/proc`, as files in a folder of its own.
pub(crate) struct Machine(PathBuf);

impl Machine {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("nvme-machine-{}-{number}", std::process::id()));
        fs::create_dir_all(dir.join("sys/bus/pci/devices")).unwrap();
        Self(dir)
    }

    pub(crate) fn host(&self) -> Host {
        Host::below(&self.0)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    pub(crate) fn function(&self, address: &str, class: u32, driver: Option<&str>, group: Option<u32>) {
        let dir = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{dir}/class"), &format!("{class:#08x}\n"));
        self.write(&format!("{dir}/numa_node"), "-1\n");
        if let Some(driver) = driver {
            self.link(&format!("{dir}/driver"), &format!("../../drivers/{driver}"));
        }
        if let Some(group) = group {
            let groups = self.0.join("sys/kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(&groups).unwrap();
            self.link(&format!("{dir}/iommu_group"), groups.to_str().unwrap());
        }
    }

    fn refusal(&self, device: &str) -> VfioError {
        let device: VfioDevice = device.parse().unwrap();
        VfioBackend::open(&self.host(), &device).unwrap_err()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[track_caller]
fn assert_says(error: &VfioError, trouble: Trouble, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.trouble(), trouble, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_argument_is_an_address_with_options() {
    let device: VfioDevice = "01:00.0,irq=intx,noiommu".parse().unwrap();
    assert_eq!(device.address.to_string(), "0000:01:00.0");
    assert!(device.is_unprotected && device.irq_mode == Some(IrqMode::Intx));
    let device: VfioDevice = "0000:01:00.0".parse().unwrap();
    assert!(!device.is_unprotected && device.irq_mode.is_none());
    for (text, part) in [
        ("", "0000:01:00.0"),
        ("nvme0", "\"nvme0\""),
        ("01:00.0,", "noiommu"),
        ("01:00.0,no-iommu", "\"no-iommu\""),
        ("01:00.0,irq=legacy", "\"legacy\""),
        ("01:00.0,noiommu=1", "\"noiommu=1\""),
    ] {
        let error = text.parse::<VfioDevice>().unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_function_that_is_not_there_is_answered_with_those_that_are() {
    let machine = Machine::new();
    let error = machine.refusal("01:00.0");
    assert_says(
        &error,
        Trouble::NotThere,
        &["no PCI function 0000:01:00.0", "no NVMe controllers"],
    );
    machine.function("0000:02:00.0", 0x010802, Some("nvme"), Some(7));
    machine.function("0000:03:00.0", 0x010802, None, Some(8));
    machine.function("0000:04:00.0", 0x020000, Some("e1000e"), Some(9));
    let error = machine.refusal("01:00.0");
    let others = ["0000:02:00.0 (nvme), 0000:03:00.0 (no driver)"];
    assert_says(&error, Trouble::NotThere, &others);
    assert!(!error.to_string().contains("04:00"), "{error}");
    let error = machine.refusal("04:00.0");
    assert_says(
        &error,
        Trouble::Usage,
        &["0000:04:00.0", "020000h", "010802h", "0000:02:00.0 (nvme)"],
    );
}

#[test]
fn without_an_iommu_it_says_how_to_turn_it_on() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", 0x010802, Some("nvme"), None);
    let error = machine.refusal("01:00.0");
    assert_says(
        &error,
        Trouble::NotThere,
        &["0000:01:00.0", "intel_iommu=on", "VT-d", "noiommu"],
    );
    machine.write("sys/class/iommu/dmar0/name", "");
    let error = machine.refusal("01:00.0");
    assert_says(&error, Trouble::NotThere, &["not behind it"]);
    let error = machine.refusal("01:00.0,noiommu");
    assert_says(&error, Trouble::NotThere, &["nvmectl bind 0000:01:00.0"]);
}

#[test]
fn without_an_iommu_and_without_protection_the_kernel_has_to_agree() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", 0x010802, Some("vfio-pci"), None);
    let error = machine.refusal("01:00.0,noiommu");
    assert_says(&error, Trouble::NotThere, &["enable_unsafe_noiommu_mode=1"]);
    machine.function("0000:02:00.0", 0x010802, Some("vfio-pci"), Some(3));
    let error = machine.refusal("02:00.0,noiommu");
    assert_says(&error, Trouble::NotThere, &["leave noiommu out"]);
    machine.write("sys/kernel/iommu_groups/3/name", "vfio-noiommu\n");
    let error = machine.refusal("02:00.0");
    assert_says(&error, Trouble::NotThere, &["vfio:0000:02:00.0,noiommu"]);
    assert!(
        machine
            .refusal("02:00.0,noiommu")
            .to_string()
            .contains("modprobe")
    );
}

#[test]
fn a_function_of_another_driver_is_to_be_bound_first() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", 0x010802, Some("nvme"), Some(7));
    let error = machine.refusal("0000:01:00.0");
    let parts = ["the kernel's driver nvme", "nvmectl bind 0000:01:00.0"];
    assert_says(&error, Trouble::NotThere, &parts);
    machine.function("0000:02:00.0", 0x010802, None, Some(8));
    assert_says(&machine.refusal("02:00.0"), Trouble::NotThere, &["no driver"]);
}

#[test]
fn the_kernel_must_have_vfio_and_let_this_user_have_it() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", 0x010802, Some("vfio-pci"), Some(7));
    let error = machine.refusal("01:00.0");
    assert_says(&error, Trouble::NotThere, &["dev/vfio/vfio", "modprobe vfio-pci"]);
    // A file that answers no call of VFIO.
    machine.write("dev/vfio/vfio", "");
    assert_says(&machine.refusal("01:00.0"), Trouble::Other, &["dev/vfio/vfio"]);
}

#[test]
fn every_trouble_says_what_to_do() {
    let address: PciAddress = "01:00.0".parse().unwrap();
    let path = PathBuf::from("/dev/vfio/7");
    let denied = VfioError::Denied {
        path: path.clone(),
        mode: "user 0, mode 600".to_owned(),
    };
    let parts = ["/dev/vfio/7", "user 0, mode 600", "chown USER /dev/vfio/7"];
    assert_says(&denied, Trouble::Permission, &parts);
    let by = " by qemu (process 31)".to_owned();
    let busy = VfioError::InUse { path, by };
    assert_says(&busy, Trouble::Other, &["in use by qemu (process 31)"]);
    let remapping = VfioError::NoRemapping { address };
    assert_says(&remapping, Trouble::NotThere, &["allow_unsafe_interrupts=1"]);
    let memory = VfioError::Memory(BackendError::NotPermitted("ulimit -l".to_owned()));
    assert_says(&memory, Trouble::Permission, &["ulimit -l"]);
}
