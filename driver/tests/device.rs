//! Device arguments that the program refuses, as a user gives them: what is said, and the exit code.
#![cfg(target_os = "linux")]
#![forbid(unsafe_code)]

use std::process::{Command, Output};

fn started_with(device: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvme-driver"));
    for variable in nvme_driver::config::VARIABLES {
        command.env_remove(variable);
    }
    command
        .env_remove("RUST_LOG")
        .env("NVME_BENCHMARK", "1")
        .args(["--device", device])
        .output()
        .expect("the program starts")
}

#[track_caller]
fn assert_refused(device: &str, code: i32, parts: &[&str]) {
    let output = started_with(device);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{device}: {text}");
    assert_eq!(output.stdout, b"", "{device}");
    for part in parts {
        assert!(text.contains(part), "{device}: {part:?} is not in: {text}");
    }
}

#[test]
fn what_is_no_device_is_a_usage_error() {
    for (device, parts) in [
        ("nvme0", &["\"nvme0\"", "vfio:0000:01:00.0"][..]),
        ("vfio", &["0000:01:00.0"]),
        ("vfio:nvme0", &["\"nvme0\"", "0000:01:00.0 or 01:00.0"]),
        ("vfio:01:00.0,msix", &["\"msix\"", "irq=msix|msi|intx"]),
        ("vfio:01:00.0,irq=none", &["\"none\"", "msix, msi or intx"]),
        ("pcid", &["Redox only"]),
        ("emulated:lba=513", &["513"]),
    ] {
        assert_refused(device, 2, parts);
    }
}

/// No machine has as many buses in its last domain.
#[test]
fn a_function_that_is_not_there_is_not_found() {
    let parts = ["there is no PCI function ffffffff:ff:1f.7", "NVMe controllers"];
    assert_refused("vfio:ffffffff:ff:1f.7", 4, &parts);
    assert_refused("vfio:ffffffff:ff:1f.7,noiommu", 4, &parts);
}
