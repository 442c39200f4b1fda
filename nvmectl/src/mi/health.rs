//! `mi health`.

use nvme_spec::log::kelvin_to_celsius;
use nvme_spec::mi::{
    CompositeTemperature, ControllerHealth, ControllerHealthList, HealthChanges, MiResponse, SubsystemHealth,
};
use serde::Serialize;

use super::{FORMATS, failure, read};
use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::smart::warning_flags;
use crate::style::Tone;
use crate::tree::Tree;
use crate::values::{Flags, flags, reported};
use crate::view;

/// The answer to NVM Subsystem Health Status Poll.
pub const SUBSYSTEM: &str = "controller/mi/health";
/// The answer to Controller Health Status Poll.
pub const CONTROLLERS: &str = "controller/mi/controllers";

/// Prints the health of the subsystem and of its controllers.
///
/// # Errors
/// What reading and decoding them gives; with `check` a health warning, after all was printed.
pub fn run(tree: &dyn Tree, check: bool, output: &mut Output) -> Result<(), Error> {
    output.check_format("mi health", &FORMATS)?;
    let (subsystem, controllers) = (read(tree, SUBSYSTEM)?, read(tree, CONTROLLERS)?);
    if matches!(output.format, Format::Raw | Format::Hex) {
        return output.bytes(&[subsystem, controllers].concat());
    }
    let health = MiResponse::parse(&subsystem)
        .and_then(|response| SubsystemHealth::parse(&response))
        .map_err(|why| failure(SUBSYSTEM, "NVM Subsystem Health Status Poll", why))?;
    let list = MiResponse::parse(&controllers)
        .and_then(|response| ControllerHealthList::parse(&response))
        .map_err(|why| failure(CONTROLLERS, "Controller Health Status Poll", why))?;
    let document = HealthDocument::new(tree.scheme(), &health, list.iter());
    let warnings = document.warnings_in_words();
    if output.format == Format::Json {
        output.json(&document)?;
    } else {
        let verdict = match &warnings {
            None => output
                .style
                .paint(Tone::Good, "healthy: the management interface gives no warning"),
            Some(warnings) => output.style.paint(Tone::Bad, &format!("warning: {warnings}")),
        };
        let text = view::render(&document, &[], &output.style);
        output.text(&format!("{verdict}\n\n{text}"))?;
    }
    match warnings {
        Some(warnings) if check => Err(Error::HealthWarning { warnings }),
        _ => Ok(()),
    }
}

/// Health as the management interface has it (NVMe-MI 1.2, sections 5.3 and 5.6). What is not reported is null; `changed` is
/// what has changed since somebody last cleared it, which this program never does.
#[derive(Debug, Serialize)]
struct HealthDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    subsystem: Subsystem,
    controllers: Vec<Controller>,
}

#[derive(Debug, Serialize)]
struct Subsystem {
    drive_functional: bool,
    reset_required: bool,
    port0_link_active: bool,
    port1_link_active: bool,
    warnings: Flags,
    temperature_celsius: Option<i32>,
    /// `working`, `no data` or `failed`.
    temperature_sensor: &'static str,
    /// Of the device's life; may pass 100, 255 stands for more.
    used_percent: u8,
    changed: Flags,
}

#[derive(Debug, Serialize)]
struct Controller {
    controller: u16,
    ready: bool,
    fatal: bool,
    shutdown: &'static str,
    temperature_celsius: Option<i32>,
    temperature_kelvin: Option<u16>,
    available_spare_percent: u8,
    used_percent: u8,
    warnings: Flags,
    changed: Flags,
}

impl HealthDocument {
    fn new(
        scheme: &str,
        health: &SubsystemHealth,
        controllers: impl Iterator<Item = ControllerHealth>,
    ) -> Self {
        Self {
            schema: "nvmectl-mi-health",
            version: "1.0",
            device: format!("{scheme}:controller"),
            subsystem: Subsystem {
                drive_functional: health.nss.drive_functional(),
                reset_required: !health.nss.reset_not_required(),
                port0_link_active: health.nss.port0_link_active(),
                port1_link_active: health.nss.port1_link_active(),
                warnings: warning_flags(health.warnings),
                temperature_celsius: health.ctemp.celsius(),
                temperature_sensor: match health.ctemp {
                    CompositeTemperature::NO_DATA => "no data",
                    CompositeTemperature::SENSOR_FAILURE => "failed",
                    _ => "working",
                },
                used_percent: health.pdlu,
                changed: changes(health.ccs),
            },
            controllers: controllers.map(Controller::new).collect(),
        }
    }

    /// What is wrong, None where nothing is.
    fn warnings_in_words(&self) -> Option<String> {
        let Subsystem {
            drive_functional,
            reset_required,
            warnings,
            ..
        } = &self.subsystem;
        let of_subsystem = [
            (!drive_functional, "the drive has failed"),
            (*reset_required, "a reset is required"),
            (
                self.subsystem.temperature_sensor == "failed",
                "the temperature sensor has failed",
            ),
        ];
        let mut words: Vec<String> = of_subsystem
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, words)| (*words).to_owned())
            .chain(set_in_words(warnings))
            .collect();
        for controller in &self.controllers {
            let number = controller.controller;
            if controller.fatal {
                words.push(format!("controller {number} has a fatal error"));
            }
            // What the subsystem says already is not said again.
            let news = set_in_words(&controller.warnings);
            words.extend(
                news.filter(|word| !set_in_words(warnings).any(|said| said == *word))
                    .map(|word| format!("{word} (controller {number})"))
                    .collect::<Vec<_>>(),
            );
        }
        (!words.is_empty()).then(|| words.join(", "))
    }
}

fn set_in_words(flags: &Flags) -> impl Iterator<Item = String> {
    flags
        .0
        .iter()
        .filter(|(_, set)| *set)
        .map(|(name, _)| name.replace('_', " "))
}

impl Controller {
    fn new(health: ControllerHealth) -> Self {
        Self {
            controller: health.ctlid,
            ready: health.csts.rdy(),
            fatal: health.csts.cfs(),
            shutdown: match health.csts.shst() {
                0 => "none",
                1 => "in progress",
                _ => "complete",
            },
            temperature_celsius: kelvin_to_celsius(health.ctemp),
            temperature_kelvin: reported(health.ctemp),
            available_spare_percent: health.spare,
            used_percent: health.pdlu,
            warnings: warning_flags(health.cwarn),
            changed: changes(health.chsc),
        }
    }
}

fn changes(changes: HealthChanges) -> Flags {
    flags!(
        changes,
        ready,
        fatal,
        shutdown_status,
        subsystem_reset,
        enable,
        namespace_attribute,
        firmware_activated,
        controller_status,
        temperature,
        used,
        spare,
        critical_warning,
        telemetry,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::MiCommand;
    use super::*;
    use crate::style::Style;
    use crate::tree::Errno;
    use crate::tree::fake::FakeTree;
    use crate::units::Units;

    /// Drive functional, no reset required, port 0 linked; no warning; 50 degrees; 7%; ready, enabled, status, temperature.
    const HEALTHY: [u8; 16] = [
        0x04, 0x88, 0, 0, 0, 0, 0, 0, 0x38, 0xFF, 0x32, 0x07, 0x21, 0x03, 0, 0,
    ];
    /// One controller, number 65: ready and enabled; 323 K; 7% used, 88% spare.
    const CONTROLLER: [u8; 24] = [
        0x04, 0x88, 0, 0, 0, 0, 0, 0x01, 0x41, 0, 0x21, 0, 0x43, 0x01, 0x07, 0x58, 0, 0x21, 0x01, 0, 0, 0, 0,
        0,
    ];

    /// A controller with NVMe-MI Send and Receive.
    fn tree(subsystem: &[u8], controllers: &[u8]) -> FakeTree {
        let mut identify = [0; 4096];
        identify[256] = 1 << 6;
        FakeTree::new()
            .file("controller/identify", &identify)
            .file(SUBSYSTEM, subsystem)
            .file(CONTROLLERS, controllers)
    }

    fn printed(tree: &FakeTree, check: bool, format: Format) -> (Result<(), Error>, String) {
        let mut out = Vec::new();
        let mut output = Output::new(&mut out, format, Style::plain(Units::Iec));
        let result = MiCommand::Health { check }.run(tree, &mut output);
        (result, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn bytes_become_health() {
        let (result, text) = printed(&tree(&HEALTHY, &CONTROLLER), true, Format::Json);
        result.unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let subsystem = &document["subsystem"];
        for (key, value) in [
            ("drive_functional", json!(true)),
            ("reset_required", json!(false)),
            ("port0_link_active", json!(true)),
            ("port1_link_active", json!(false)),
            ("temperature_celsius", json!(50)),
            ("temperature_sensor", json!("working")),
            ("used_percent", json!(7)),
        ] {
            assert_eq!(subsystem[key], value, "{key}");
        }
        assert_eq!(subsystem["changed"]["temperature"], json!(true));
        assert_eq!(subsystem["changed"]["spare"], json!(false));
        let controller = &document["controllers"][0];
        for (key, value) in [
            ("controller", json!(65)),
            ("ready", json!(true)),
            ("fatal", json!(false)),
            ("shutdown", json!("none")),
            ("temperature_kelvin", json!(323)),
            ("temperature_celsius", json!(50)),
            ("available_spare_percent", json!(88)),
            ("used_percent", json!(7)),
        ] {
            assert_eq!(controller[key], value, "{key}");
        }
    }

    #[test]
    fn text_says_it_in_words() {
        let (result, text) = printed(&tree(&HEALTHY, &CONTROLLER), false, Format::Table);
        result.unwrap();
        for part in [
            "healthy: the management interface gives no warning\n",
            "drive functional    yes\n",
            "temperature         50 \u{b0}C\n",
            "used                7%\n",
            "ready, enable, controller status, temperature\n",
            "88%",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn whatever_is_wrong_is_a_warning_with_check() {
        let mut subsystem = HEALTHY;
        // Not functional, a reset required; spare low and read only, inverted; the sensor has failed.
        subsystem[8..11].copy_from_slice(&[0x08, 0xF6, 0x81]);
        let mut controller = CONTROLLER;
        // Fatal; spare low, as the subsystem says, and memory backup.
        controller[10] = 0x02;
        controller[16] = 0b1_0001;
        let tree = tree(&subsystem, &controller);
        let (result, text) = printed(&tree, true, Format::Table);
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 9);
        assert_eq!(
            error.to_string(),
            "the device warns: the drive has failed, a reset is required, the temperature sensor has failed, spare low, \
             read only, controller 65 has a fatal error, memory backup failed (controller 65)"
        );
        assert!(text.starts_with("warning: the drive has failed, "), "{text}");
        assert!(printed(&tree, false, Format::Table).0.is_ok());
    }

    #[test]
    fn malformed_answers_are_refused_in_words() {
        let with = |at: usize, value: u8| {
            let mut changed = HEALTHY;
            changed[at] = value;
            changed.to_vec()
        };
        for (subsystem, words) in [
            (HEALTHY[..5].to_vec(), "the response has 5 bytes instead of 8"),
            (HEALTHY[..15].to_vec(), "has 7 bytes instead of 8"),
            (with(0, 5), "its message type is 5h"),
            (with(1, 0x08), "it is a request and not a response"),
            (with(10, 0x99), "CTEMP is 99h, which is reserved"),
        ] {
            let (result, text) = printed(&tree(&subsystem, &CONTROLLER), false, Format::Table);
            let error = result.unwrap_err();
            assert_eq!((error.exit_code(), text.as_str()), (1, ""), "{words}");
            let error = error.to_string();
            assert!(
                error.starts_with("nvme:controller/mi/health is not understood: ") && error.contains(words),
                "{error}"
            );
        }
        let mut two = CONTROLLER;
        two[7] = 2;
        let error = printed(&tree(&HEALTHY, &two), false, Format::Table)
            .0
            .unwrap_err();
        assert!(
            error.to_string().contains("has 16 bytes instead of 32"),
            "{error}"
        );
    }

    #[test]
    fn what_is_refused_or_missing_is_unsupported() {
        let mut refused = HEALTHY;
        refused[4] = 0x03;
        let cases = [
            (
                tree(&refused[..8], &CONTROLLER),
                6,
                "does not answer NVM Subsystem Health Status Poll in band: Invalid Command Opcode",
            ),
            (
                tree(&[4, 0x88, 0, 0, 2, 0, 0, 0], &CONTROLLER),
                1,
                "refused NVM Subsystem Health Status Poll: Internal Error",
            ),
            (
                FakeTree::new().file("controller/identify", &[0; 4096]),
                6,
                "the controller has no NVMe-MI in band",
            ),
            (
                tree(&HEALTHY, &CONTROLLER).failing_file(SUBSYSTEM, Errno::ENOENT),
                6,
                "the driver was built without NVMe-MI",
            ),
        ];
        for (tree, exit_code, words) in cases {
            let (result, text) = printed(&tree, true, Format::Json);
            let error = result.unwrap_err();
            assert_eq!((error.exit_code(), text.as_str()), (exit_code, ""), "{words}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().is_some() || exit_code == 1);
        }
    }

    #[test]
    fn raw_is_the_messages_themselves() {
        let (result, _) = printed(&tree(&HEALTHY, &CONTROLLER), false, Format::Raw);
        result.unwrap();
        let mut out = Vec::new();
        let mut output = Output::new(&mut out, Format::Raw, Style::plain(Units::Iec));
        run(&tree(&HEALTHY, &CONTROLLER), false, &mut output).unwrap();
        assert_eq!(out, [&HEALTHY[..], &CONTROLLER].concat());
    }
}
