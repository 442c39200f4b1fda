//! What a newcomer meets on Linux: a device of another driver's, in use, without permission, without an IOMMU. Each is
//! said with what to do about it, ends with an exit code of its own, and leaves the device where it was.

use std::time::Duration;

use nvme_guest::{Guest, Machine, Shared};

/// With a function for each case, since they run side by side.
static GUEST: Shared = Shared::new(|| {
    let mut machine = Machine::new()
        .cpus(2)
        .memory_mib(1024)
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1", "ext4", "fuse"])
        .programs(&["mkfs.ext4"]);
    for addr in 4..=9 {
        let disk = format!("disk{addr}");
        machine = machine
            .disk(&disk, 64 << 20)
            .device(&format!("nvme,serial=of{addr},drive={disk},addr={addr}"));
    }
    machine
});

static WITHOUT_IOMMU: Shared = Shared::new(|| {
    Machine::new()
        .without_iommu()
        .device("nvme,serial=bare,addr=4")
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1"])
});

/// An IOMMU that does not look at interrupts.
static WITHOUT_REMAPPING: Shared = Shared::new(|| {
    Machine::new()
        .without_iommu()
        .device("intel-iommu,intremap=off,caching-mode=on")
        .kernel_argument("intel_iommu=on")
        .device("nvme,serial=bare,addr=4")
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1"])
});

/// The driver's benchmark on function 0 of device `addr`, as a command.
fn benchmark(addr: u32, options: &str) -> String {
    format!("NVME_BENCHMARK=1 nvme-driver --bench-time 200ms --device vfio:0000:00:{addr:02x}.0{options}")
}

/// That `command` ends with `code`, and says all of `parts`.
#[track_caller]
fn assert_says(guest: &Guest, command: &str, code: i32, parts: &[&str]) {
    let output = guest.run(command).expect("it runs");
    let said = output.text() + &output.complaint();
    assert_eq!(output.status(), Some(code), "{command}: {said}");
    for part in parts {
        assert!(said.contains(part), "{command}: {part:?} is not in: {said}");
    }
}

/// The kernel's name of the controller at `address`.
fn name_of(guest: &Guest, address: &str) -> String {
    // The kernel makes its disks in the background.
    let command = format!(
        "for i in $(seq 600); do ls -d /sys/bus/pci/devices/{address}/nvme/nvme*/nvme*n1 2>/dev/null && break; sleep 0.1; done"
    );
    let listed = guest.check(&command).expect("it has a disk");
    let disk = listed.trim().rsplit('/').next().expect("a name");
    assert!(disk.starts_with("nvme"), "{listed}");
    disk.trim_end_matches("n1").to_owned()
}

/// Waits until the process whose number is in the file `pid` has opened its function.
fn wait_until_opened(guest: &Guest, pid: &str) {
    let command = format!(
        "for i in $(seq 600); do ls -l /proc/$(cat {pid})/fd 2>/dev/null | grep -q vfio-device && exit 0; sleep 0.1; done; exit 1"
    );
    guest.check(&command).expect("it opens it");
}

#[test]
fn what_is_in_use_is_not_taken() {
    let Some(guest) = GUEST.get() else { return };
    let address = "0000:00:04.0";
    let bind = format!("nvmectl bind {address}");
    let name = name_of(guest, address);
    guest
        .check(&format!(
            "mkfs.ext4 -q /dev/{name}n1 && mkdir -p /tmp/mnt && mount -t ext4 /dev/{name}n1 /tmp/mnt"
        ))
        .expect("mounted");
    assert_says(
        guest,
        &bind,
        8,
        &[&format!("{name}n1 is mounted at /tmp/mnt"), "umount /tmp/mnt"],
    );
    guest.check("umount /tmp/mnt").expect("unmounted");

    guest
        .check(&format!("mkswap /dev/{name}n1 && swapon /dev/{name}n1"))
        .expect("swap space");
    assert_says(guest, &bind, 8, &[&format!("{name}n1 is swap space"), "swapoff"]);
    guest.check(&format!("swapoff /dev/{name}n1")).expect("no more");

    let open = format!("exec 3< /dev/{name}n1; {bind}");
    assert_says(guest, &open, 8, &[&format!("has /dev/{name}n1 open")]);

    assert_eq!(
        guest.pci(address).driver().expect("asked").as_deref(),
        Some("nvme")
    );
    assert_says(
        guest,
        &format!("{bind} --dry-run"),
        0,
        &["would write \"vfio-pci\""],
    );
    assert_says(
        guest,
        &bind,
        0,
        &["nvme -> vfio-pci", "nvme-driver --device vfio:0000:00:04.0"],
    );
    assert_says(guest, &bind, 0, &["vfio-pci has it already"]);
    let unbind = format!("nvmectl unbind {address}");
    assert_says(guest, &unbind, 0, &["vfio-pci -> nvme"]);
    assert_says(guest, &unbind, 0, &["nvme has it already"]);
    name_of(guest, address);
}

#[test]
fn a_controller_has_one_driver_at_a_time() {
    let Some(guest) = GUEST.get() else { return };
    let address = "0000:00:05.0";
    assert_says(guest, &format!("nvmectl bind {address}"), 0, &[]);
    let start = || {
        guest
            .start_command(
                "echo $$ > /tmp/first; NVME_BENCHMARK=1 exec nvme-driver --bench-time 100s --device vfio:00:05.0",
                Duration::from_secs(110),
            )
            .expect("it starts")
    };
    let first = start();
    wait_until_opened(guest, "/tmp/first");
    assert_says(
        guest,
        &benchmark(5, ""),
        1,
        &["is in use by nvme-driver (process "],
    );
    assert_says(
        guest,
        &format!("nvmectl unbind {address}"),
        8,
        &["nvme-driver (process "],
    );
    guest.check("kill -9 $(cat /tmp/first)").expect("killed");
    first.wait().expect("it ends");
    // Nothing is left behind by one that was killed.
    assert_says(guest, &benchmark(5, ""), 0, &["read: IOPS="]);
    // The system waits for whoever has it, who ends before the time.
    guest.check("rm /tmp/first").expect("the last one's");
    let second = start();
    wait_until_opened(guest, "/tmp/first");
    guest
        .check(&format!("echo 1 > /sys/bus/pci/devices/{address}/remove"))
        .expect("removed");
    let ended = second.wait().expect("it ends");
    assert_eq!(ended.status(), Some(0), "{}", ended.complaint());
}

#[test]
fn a_user_is_told_what_he_may_not() {
    let Some(guest) = GUEST.get() else { return };
    let address = "0000:00:06.0";
    guest
        .check("mkdir -p /etc && echo 'user:x:1000:1000::/:/bin/sh' > /etc/passwd")
        .expect("a user");
    let as_user =
        |command: &str, limit: &str| format!("ulimit -l {limit}; su user -s /bin/sh -c '{command}'");
    let bind = as_user(&format!("nvmectl bind {address}"), "unlimited");
    assert_says(guest, &bind, 3, &["run it as root"]);
    assert_says(guest, &format!("nvmectl bind {address}"), 0, &[]);
    let run = benchmark(6, "");
    guest.check("chmod 666 /dev/vfio/vfio").expect("as udev has it");
    assert_says(
        guest,
        &as_user(&run, "unlimited"),
        3,
        &["/dev/vfio/", "chown USER /dev/vfio/"],
    );
    guest
        .check(&format!(
            "chown user /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/{address}/iommu_group))"
        ))
        .expect("given");
    for limit_kib in ["64", "8192"] {
        let limit_bytes = (limit_kib.parse::<u32>().expect("a number") * 1024).to_string();
        assert_says(guest, &as_user(&run, limit_kib), 3, &["ulimit -l", &limit_bytes]);
    }
    // As the page on Linux has it: that much for one queue or two.
    assert_says(guest, &as_user(&run, "16384"), 0, &["read: IOPS="]);
}

#[test]
fn what_cannot_be_driven_is_said() {
    let Some(guest) = GUEST.get() else { return };
    assert_says(
        guest,
        &benchmark(7, ""),
        4,
        &["the kernel's driver nvme", "nvmectl bind 0000:00:07.0"],
    );
    assert_says(
        guest,
        "nvme-driver --device vfio:00:1f.2",
        2,
        &["010601h", "0000:00:07.0"],
    );
    assert_says(
        guest,
        "nvme-driver --device vfio:00:1e.0",
        4,
        &["no PCI function 0000:00:1e.0", "0000:00:07.0"],
    );
    assert_says(guest, "nvmectl bind 00:1f.2", 2, &["010601h"]);
    assert_says(guest, &benchmark(7, ",noiommu"), 4, &["leave noiommu out"]);
}

#[test]
fn every_kind_of_interrupt_that_it_has_works() {
    let Some(guest) = GUEST.get() else { return };
    assert_says(guest, "nvmectl bind 00:08.0", 0, &[]);
    for polling in ["false", "adaptive", "true"] {
        for irq in ["msix", "intx"] {
            let run = benchmark(8, &format!(",irq={irq} --bench-jobs 3"));
            let run = format!("NVME_NUM_QUEUES=3 NVME_POLLING_MODE={polling} {run}");
            assert_says(guest, &run, 0, &["read: IOPS="]);
        }
    }
    // QEMU's has no MSI.
    assert_says(
        guest,
        &benchmark(8, ",irq=msi"),
        1,
        &["msi: the function does not have it"],
    );
}

#[test]
fn the_system_gets_it_back_when_it_wants_it() {
    let Some(guest) = GUEST.get() else { return };
    let address = "0000:00:09.0";
    assert_says(guest, &format!("nvmectl bind {address}"), 0, &[]);
    let daemon = guest
        .start_command(
            "nvme-driver --device vfio:00:09.0 --mount /tmp/nine",
            Duration::from_secs(100),
        )
        .expect("it starts");
    guest
        .check("for i in $(seq 600); do [ -e /tmp/nine/1/data ] && exit 0; sleep 0.1; done; exit 1")
        .expect("it serves");
    guest
        .check("dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' x > /tmp/nine.data && dd if=/tmp/nine.data of=/tmp/nine/1/data bs=64k")
        .expect("written");
    let reader = guest
        .start_command(
            "while dd if=/tmp/nine/1/data of=/dev/null bs=64k; do :; done",
            Duration::from_secs(100),
        )
        .expect("it starts");
    // Returns when the driver has let go of it.
    guest
        .check(&format!("echo 1 > /sys/bus/pci/devices/{address}/remove"))
        .expect("removed");
    let ended = daemon.wait().expect("it ends");
    assert_eq!(ended.status(), Some(0), "{}", ended.complaint());
    assert!(
        ended.complaint().contains("the system wants the controller back"),
        "{}",
        ended.complaint()
    );
    reader.wait().expect("it ends");
    // What was written is there for the kernel's driver.
    guest.check("echo 1 > /sys/bus/pci/rescan").expect("found again");
    let name = name_of(guest, address);
    guest
        .check(&format!(
            "dd if=/dev/{name}n1 bs=64k count=16 2>/dev/null | cmp - /tmp/nine.data"
        ))
        .expect("the same data");
}

#[test]
fn without_an_iommu_nothing_is_taken() {
    let Some(guest) = WITHOUT_IOMMU.get() else { return };
    assert_says(
        guest,
        "nvmectl bind 00:04.0",
        4,
        &["there is no IOMMU", "intel_iommu=on"],
    );
    assert_eq!(
        guest.pci("0000:00:04.0").driver().expect("asked").as_deref(),
        Some("nvme")
    );
    assert_says(
        guest,
        &benchmark(4, ""),
        4,
        &["there is no IOMMU", "intel_iommu=on", "noiommu"],
    );
    assert_says(
        guest,
        &benchmark(4, ",noiommu"),
        4,
        &["nvmectl bind 0000:00:04.0"],
    );
}

#[test]
fn an_iommu_that_does_not_remap_interrupts_is_said() {
    let Some(guest) = WITHOUT_REMAPPING.get() else {
        return;
    };
    assert_says(guest, "nvmectl bind 00:04.0", 0, &[]);
    assert_says(
        guest,
        &benchmark(4, ""),
        4,
        &["intremap=on", "allow_unsafe_interrupts=1"],
    );
}
