//! The rig itself: a guest boots, does what it is told, and its end is noticed; and QEMU's controllers are there for the
//! kernel's driver and for vfio-pci.

use std::time::Duration;

use nvme_guest::wire::Ended;
use nvme_guest::{Error, Machine, Shared};
use serde_json::json;

static GUEST: Shared = Shared::new(|| {
    Machine::new()
        .cpus(2)
        .disk("one", 16 << 20)
        .disk("two", 16 << 20)
        .device("nvme,id=one,serial=one,drive=one,addr=4")
        .device("nvme,id=two,serial=two,drive=two,addr=5")
        .root_port("rp8", 8)
        .modules(&["nvme", "vfio-pci", "vfio_iommu_type1"])
});

#[test]
fn commands_end_as_they_do() {
    let Some(guest) = GUEST.get() else { return };
    println!("booted in {:?}", guest.boot_time());
    let output = guest.run("echo out; echo err >&2; exit 3").expect("it runs");
    assert_eq!(output.ended, Ended::Exited(3));
    assert_eq!(
        (output.text().as_str(), output.complaint().as_str()),
        ("out\n", "err\n")
    );
    let output = guest.run("kill -9 $$").expect("it runs");
    assert_eq!(output.ended, Ended::Signalled(9));
    let error = guest
        .check("echo why >&2; false")
        .expect_err("it fails")
        .to_string();
    assert!(error.contains("Exited(1)") && error.contains("why"), "{error}");
    assert_eq!(guest.check("nproc").expect("it runs"), "2\n");
    assert_eq!(
        guest
            .check("nvmectl --version | cut -d' ' -f1")
            .expect("ours runs"),
        "nvmectl\n"
    );
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let Some(guest) = GUEST.get() else { return };
    let running = guest
        .start_command("echo begun; sleep 1234 & sleep 1234", Duration::from_secs(2))
        .expect("it starts");
    // Meanwhile, others run.
    assert_eq!(guest.check("echo also").expect("it runs"), "also\n");
    let output = running.wait().expect("it ends");
    assert_eq!(output.ended, Ended::TimedOut);
    assert_eq!(output.text(), "begun\n");
    let left = guest.run("ps | grep -c '[s]leep 1234'").expect("it runs");
    assert_eq!(left.text(), "0\n");
}

#[test]
fn files_go_in_and_out_whole() {
    let Some(guest) = GUEST.get() else { return };
    let contents: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    guest.put("/tmp/file", 0o600, &contents).expect("written");
    assert_eq!(
        guest.check("stat -c '%a %s' /tmp/file").expect("it runs"),
        "600 300000\n"
    );
    assert!(
        guest.get("/tmp/file").expect("read") == contents,
        "what was read is not what was written"
    );
    let error = guest.get("/tmp/no-such-file").expect_err("not there").to_string();
    assert!(
        error.contains("/tmp/no-such-file") && error.contains("No such file"),
        "{error}"
    );
}

#[test]
fn the_kernels_driver_finds_qemus_controller() {
    let Some(guest) = GUEST.get() else { return };
    let list = guest
        .check("nvme id-ctrl /dev/nvme0 -o json")
        .expect("nvme-cli reads it");
    let controller: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(controller["mn"].as_str().map(str::trim), Some("QEMU NVMe Ctrl"));
    assert_eq!(controller["sn"].as_str().map(str::trim), Some("one"));
    let sectors = guest
        .check("cat /sys/block/nvme0n1/size")
        .expect("it has a namespace");
    assert_eq!(sectors, "32768\n");
}

#[test]
fn a_function_goes_to_vfio_and_back() {
    let Some(guest) = GUEST.get() else { return };
    let function = guest.pci("0000:00:05.0");
    assert_eq!(function.driver().expect("asked").as_deref(), Some("nvme"));
    function.bind("vfio-pci").expect("it is taken");
    assert_eq!(function.driver().expect("asked").as_deref(), Some("vfio-pci"));
    // The IOMMU is on: the function has a group, and the group a node.
    guest
        .check("test -c /dev/vfio/$(basename $(readlink /sys/bus/pci/devices/0000:00:05.0/iommu_group))")
        .expect("a group");
    function.bind("nvme").expect("it goes back");
    assert_eq!(function.driver().expect("asked").as_deref(), Some("nvme"));
}

#[test]
fn a_device_comes_and_goes_while_the_guest_runs() {
    let Some(guest) = GUEST.get() else { return };
    let qmp = guest.qmp();
    qmp.execute(
        "device_add",
        json!({"driver": "nvme", "id": "late", "serial": "late", "bus": "rp8"}),
    )
    .expect("added");
    let wait = |condition: &str| {
        let text = format!("until {condition}; do sleep 0.1; done");
        guest
            .check_for(&text, Duration::from_secs(60))
            .expect("it comes to that");
    };
    wait("grep -q late /sys/class/nvme/*/serial");
    qmp.execute("device_del", json!({"id": "late"}))
        .expect("asked to go");
    qmp.event(
        "DEVICE_DELETED",
        &json!({"device": "late"}),
        Duration::from_secs(60),
    )
    .expect("gone");
    wait("! grep -q late /sys/class/nvme/*/serial");
    let error = qmp
        .execute("device_del", json!({"id": "late"}))
        .expect_err("gone")
        .to_string();
    assert!(error.contains("late"), "{error}");
}

#[test]
fn a_guest_that_panics_says_why() {
    if !Shared::wanted() {
        return;
    }
    let error = Machine::new()
        .kernel_argument("rdinit=/no-such-init")
        .kernel_argument("root=/dev/nothing")
        .boot()
        .expect_err("nothing to start");
    let Error::Boot { reason, .. } = &error else {
        panic!("not {error}");
    };
    assert!(
        reason.contains("Kernel panic") && reason.contains("Unable to mount root fs"),
        "{error}"
    );
}

#[test]
fn a_command_line_that_qemu_refuses_is_said_with_its_words() {
    if !Shared::wanted() {
        return;
    }
    let error = Machine::new()
        .device("no-such-device")
        .boot()
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("no-such-device") && error.contains("exit status: 1"),
        "{error}"
    );
}

#[test]
fn a_guest_that_dies_is_noticed_by_who_waits() {
    if !Shared::wanted() {
        return;
    }
    let guest = Machine::new().boot().expect("it boots");
    let error = guest
        .check("echo c > /proc/sysrq-trigger; sleep 60")
        .expect_err("it panics");
    let Error::Gone { reason, .. } = &error else {
        panic!("not {error}");
    };
    assert!(reason.contains("sysrq triggered crash"), "{error}");
    let again = guest.run("true").expect_err("gone");
    assert!(matches!(again, Error::Gone { .. }), "{again}");
}
