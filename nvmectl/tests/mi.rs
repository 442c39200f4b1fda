//! `nvmectl mi` on an embedded driver, as a user runs it: what the emulated controller answers, in words and as JSON.

mod common;

use common::{nvmectl, refused, run, succeed};
use nvme_spec::mi::{MiResponse, RESPONSE_HEADER_BYTES, SubsystemHealth};
use serde_json::json;

#[test]
fn health_is_the_devices_own() {
    let spec = "--emulate=size=1MiB,temperature=300K,spare=97%,used=120%";
    let document = succeed(&format!("{spec} mi health --check --json")).json();
    assert_eq!(document["schema"], "nvmectl-mi-health");
    let subsystem = &document["subsystem"];
    assert_eq!(
        [
            &subsystem["drive_functional"],
            &subsystem["temperature_celsius"],
            &subsystem["used_percent"]
        ],
        [&json!(true), &json!(27), &json!(120)]
    );
    let controllers = document["controllers"].as_array().unwrap();
    assert_eq!(controllers.len(), 1);
    for (key, value) in [
        ("controller", json!(1)),
        ("ready", json!(true)),
        ("fatal", json!(false)),
        ("temperature_kelvin", json!(300)),
        ("available_spare_percent", json!(97)),
        ("used_percent", json!(120)),
    ] {
        assert_eq!(controllers[0][key], value, "{key}");
    }
    let text = succeed(&format!("{spec} mi health")).stdout;
    assert!(text.starts_with("healthy: "), "{text}");

    // The messages themselves, which say the same.
    let raw = nvmectl(&format!("{spec} -o raw mi health"))
        .output()
        .unwrap()
        .stdout;
    let message = &raw[..RESPONSE_HEADER_BYTES + SubsystemHealth::BYTES];
    let health = SubsystemHealth::parse(&MiResponse::parse(message).unwrap()).unwrap();
    assert_eq!((health.ctemp.celsius(), health.pdlu), (Some(27), 120));
}

#[test]
fn a_warning_ends_a_check_with_9() {
    let spec = "--emulate=size=1MiB,temperature=350K,spare=3%";
    let ran = run(&format!("{spec} mi health --check"));
    assert_eq!(ran.code, Some(9), "{ran:?}");
    assert!(
        ran.stdout.starts_with("warning: spare low, temperature\n"),
        "{ran:?}"
    );
    assert_eq!(ran.stderr, "error: the device warns: spare low, temperature\n");
    assert_eq!(run(&format!("{spec} mi health")).code, Some(0));
}

#[test]
fn configuration_is_what_the_controller_tells() {
    let on = succeed("--emulate=size=1MiB mi config --json").json();
    assert_eq!(on["health_status_change"], "can be set");
    assert_eq!(on["ports"][1]["smbus_frequency_hz"], json!(null));
    assert_eq!(on["ports"][1]["smbus"], "not told in band: Invalid Parameter");
    let full = succeed("--emulate=size=1MiB,mi=full mi config --json").json();
    assert_eq!(full["ports"][1]["smbus_frequency_hz"], 400_000);
    assert_eq!(full["ports"][0]["mctp_unit_bytes"], 64);
    let text = succeed("--emulate=size=1MiB,mi=full mi config").stdout;
    assert!(text.contains("400 kHz") && text.contains("64B"), "{text}");
}

#[test]
fn vital_product_data_name_the_product() {
    let spec = "--emulate=size=1MiB,serial=S-1,model=Disk,firmware=7.1";
    let document = succeed(&format!("{spec} mi vpd --json")).json();
    assert_eq!(document["size_bytes"], 256);
    for (key, value) in [
        ("manufacturer", "Emulated"),
        ("product_name", "Disk"),
        ("product_version", "7.1"),
        ("serial", "S-1"),
    ] {
        assert_eq!(document["product"][key], value, "{key}");
    }
    let text = succeed(&format!("{spec} mi vpd")).stdout;
    assert!(text.contains("serial           S-1\n"), "{text}");
    let hex = succeed(&format!("{spec} -o hex mi vpd")).stdout;
    assert!(hex.starts_with("00000000  01 00 00 00 01 00 00 fe"), "{hex}");
}

#[test]
fn a_controller_without_it_is_told_so() {
    for command in ["health", "config", "vpd", "health --check"] {
        let line = format!("--emulate=size=1MiB,mi=off mi {command}");
        let words = [
            "the controller has no NVMe-MI in band",
            "OACS bit 6",
            "nvmectl smart",
        ];
        refused(|| nvmectl(&line), &line, 6, &words);
    }
}

#[test]
fn a_dry_run_asks_the_controller_nothing() {
    assert_eq!(
        succeed("--emulate=size=1MiB,mi=off --dry-run mi health").stdout,
        "would read nvme:controller/mi/health, nvme:controller/mi/controllers\n"
    );
}
