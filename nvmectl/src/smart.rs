//! `smart`: the device's health.

use nvme_spec::log::{CriticalWarning, SmartLog, data_units_to_bytes, kelvin_to_celsius};
use serde::Serialize;
use zerocopy::FromBytes;

use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::style::Tone;
use crate::tree::{Tree, read_document};
use crate::values::{Flags, Wide, reported};
use crate::view;

/// The path of the log.
pub const PATH: &str = "controller/log/smart";
const LOG_BYTES: usize = 512;

/// Prints the SMART / Health Information log.
///
/// # Errors
/// What reading it gives; with `check` a health warning, after the log was printed.
pub fn run(tree: &dyn Tree, check: bool, output: &mut Output) -> Result<(), Error> {
    output.check_format("smart", &[Format::Raw, Format::Hex])?;
    let bytes = read_document(tree, PATH)?;
    let log = decode(&bytes)?;
    let document = SmartDocument::new(tree.scheme(), &log);
    match output.format {
        Format::Raw | Format::Hex => output.bytes(&bytes)?,
        Format::Json => output.json(&document)?,
        _ => {
            let verdict = match document.warnings_in_words() {
                None => output
                    .style
                    .paint(Tone::Good, "healthy: the device gives no warning"),
                Some(warnings) => output.style.paint(Tone::Bad, &format!("warning: {warnings}")),
            };
            let text = view::render(&document, &["critical_warning"], &output.style);
            output.text(&format!("{verdict}\n\n{text}"))?;
        }
    }
    match document.warnings_in_words() {
        Some(warnings) if check => Err(Error::HealthWarning { warnings }),
        _ => Ok(()),
    }
}

/// The warnings by name.
pub fn warning_flags(warning: CriticalWarning) -> Flags {
    Flags(vec![
        ("spare_low", warning.available_spare()),
        ("temperature", warning.temperature()),
        ("reliability_degraded", warning.reliability()),
        ("read_only", warning.read_only()),
        ("memory_backup_failed", warning.memory_backup()),
        ("persistent_memory_unreliable", warning.persistent_memory()),
        ("unknown", u8::from(warning) & 0b1100_0000 != 0),
    ])
}

fn decode(bytes: &[u8]) -> Result<SmartLog, Error> {
    SmartLog::read_from_bytes(bytes).map_err(|_| {
        Error::malformed(
            PATH,
            format!("it has {} bytes instead of {LOG_BYTES}", bytes.len()),
        )
    })
}

/// SMART / Health Information (Base 2.0, section 5.16.1.3), raw and converted. What the device does not report is null.
#[derive(Debug, Serialize)]
pub struct SmartDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    critical_warning: u8,
    warnings: Flags,
    temperature_kelvin: Option<u16>,
    temperature_celsius: Option<i32>,
    available_spare_percent: u8,
    available_spare_threshold_percent: u8,
    /// Of the device's life; may pass 100, 255 stands for more.
    used_percent: u8,
    data_units_read: Wide,
    bytes_read: Wide,
    data_units_written: Wide,
    bytes_written: Wide,
    host_read_commands: Wide,
    host_write_commands: Wide,
    controller_busy_minutes: Wide,
    power_on_hours: Wide,
    power_cycles: Wide,
    unsafe_shutdowns: Wide,
    media_errors: Wide,
    /// Over the device's life: the log itself may have been emptied since.
    error_log_entries: Wide,
    warning_temperature_minutes: u32,
    critical_temperature_minutes: u32,
    thermal_management_1_transitions: u32,
    thermal_management_1_seconds: u32,
    thermal_management_2_transitions: u32,
    thermal_management_2_seconds: u32,
    endurance_group_critical_warning: u8,
    temperature_sensors: Vec<Sensor>,
}

#[derive(Debug, Serialize)]
struct Sensor {
    sensor: usize,
    temperature_kelvin: Option<u16>,
    temperature_celsius: Option<i32>,
}

impl SmartDocument {
    /// The document of `log`, of the controller behind `scheme`.
    pub fn new(scheme: &str, log: &SmartLog) -> Self {
        let kelvin = log.composite_temperature.get();
        let (read, written) = (log.data_units_read.get(), log.data_units_written.get());
        Self {
            schema: "nvmectl-smart",
            version: "1.0",
            device: format!("{scheme}:controller"),
            critical_warning: log.critical_warning,
            warnings: warning_flags(log.critical_warning.into()),
            temperature_kelvin: reported(kelvin),
            temperature_celsius: kelvin_to_celsius(kelvin),
            available_spare_percent: log.available_spare,
            available_spare_threshold_percent: log.available_spare_threshold,
            used_percent: log.percentage_used,
            data_units_read: Wide(read),
            bytes_read: Wide(data_units_to_bytes(read)),
            data_units_written: Wide(written),
            bytes_written: Wide(data_units_to_bytes(written)),
            host_read_commands: Wide(log.host_read_commands.get()),
            host_write_commands: Wide(log.host_write_commands.get()),
            controller_busy_minutes: Wide(log.controller_busy_time.get()),
            power_on_hours: Wide(log.power_on_hours.get()),
            power_cycles: Wide(log.power_cycles.get()),
            unsafe_shutdowns: Wide(log.unsafe_shutdowns.get()),
            media_errors: Wide(log.media_errors.get()),
            error_log_entries: Wide(log.num_err_log_entries.get()),
            warning_temperature_minutes: log.warning_temperature_time.get(),
            critical_temperature_minutes: log.critical_temperature_time.get(),
            thermal_management_1_transitions: log.thermal_temp1_transitions.get(),
            thermal_management_1_seconds: log.thermal_temp1_total_time.get(),
            thermal_management_2_transitions: log.thermal_temp2_transitions.get(),
            thermal_management_2_seconds: log.thermal_temp2_total_time.get(),
            endurance_group_critical_warning: log.endurance_group_critical_warning,
            temperature_sensors: log
                .temperature_sensors
                .iter()
                .enumerate()
                .filter(|(_, kelvin)| kelvin.get() != 0)
                .map(|(index, kelvin)| Sensor {
                    sensor: index + 1,
                    temperature_kelvin: reported(kelvin.get()),
                    temperature_celsius: kelvin_to_celsius(kelvin.get()),
                })
                .collect(),
        }
    }

    /// The names of the warnings that are set, None where there is none.
    pub fn warnings_in_words(&self) -> Option<String> {
        let set: Vec<String> = self
            .warnings
            .0
            .iter()
            .filter(|(_, set)| *set)
            .map(|(name, _)| name.replace('_', " "))
            .collect();
        (!set.is_empty()).then(|| set.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::style::Style;
    use crate::tree::fake::FakeTree;
    use crate::units::Units;

    fn sample() -> SmartLog {
        let mut log = SmartLog {
            available_spare: 100,
            percentage_used: 120,
            ..SmartLog::default()
        };
        log.composite_temperature.set(310);
        log.temperature_sensors[1].set(300);
        log.data_units_read.set(2);
        log.host_read_commands.set(1 << 70);
        log.controller_busy_time.set(5);
        log.thermal_temp1_total_time.set(9);
        log
    }

    fn printed(log: &SmartLog, check: bool, format: Format) -> (Result<(), Error>, Vec<u8>) {
        let tree = FakeTree::new().file(PATH, log.as_bytes());
        let mut out = Vec::new();
        let result = run(
            &tree,
            check,
            &mut Output::new(&mut out, format, Style::plain(Units::Iec)),
        );
        (result, out)
    }

    #[test]
    fn units_are_converted_and_wide_numbers_are_strings() {
        let (result, out) = printed(&sample(), true, Format::Json);
        result.unwrap();
        let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
        for (key, value) in [
            ("temperature_kelvin", json!(310)),
            ("temperature_celsius", json!(37)),
            ("data_units_read", json!("2")),
            ("bytes_read", json!("1024000")),
            ("host_read_commands", json!("1180591620717411303424")),
            ("controller_busy_minutes", json!("5")),
            ("thermal_management_1_seconds", json!(9)),
            ("used_percent", json!(120)),
            ("critical_warning", json!(0)),
        ] {
            assert_eq!(document[key], value, "{key}");
        }
        assert_eq!(
            document["temperature_sensors"],
            json!([{"sensor": 2, "temperature_kelvin": 300, "temperature_celsius": 27}])
        );
    }

    #[test]
    fn no_temperature_is_not_minus_273() {
        let mut log = sample();
        log.composite_temperature.set(0);
        let document = serde_json::to_value(SmartDocument::new("nvme", &log)).unwrap();
        assert_eq!(
            (&document["temperature_kelvin"], &document["temperature_celsius"]),
            (&json!(null), &json!(null))
        );
    }

    #[test]
    fn text_names_its_units() {
        let (result, out) = printed(&sample(), false, Format::Table);
        result.unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "healthy: the device gives no warning\n",
            "temperature ",
            "37 \u{b0}C (310 K)",
            "1000KiB (1 024 000)",
            "5 min",
            "120%",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn check_fails_for_each_warning_and_prints_the_log_first() {
        for bit in 0..8 {
            let log = SmartLog {
                critical_warning: 1 << bit,
                ..sample()
            };
            let (result, out) = printed(&log, true, Format::Table);
            assert_eq!(result.unwrap_err().exit_code(), 9, "bit {bit}");
            assert!(out.starts_with(b"warning: "));
            assert!(printed(&log, false, Format::Table).0.is_ok(), "bit {bit}");
        }
        let log = SmartLog {
            critical_warning: 0b101,
            ..sample()
        };
        let message = printed(&log, true, Format::Json).0.unwrap_err().to_string();
        assert_eq!(message, "the device warns: spare low, reliability degraded");
    }

    #[test]
    fn raw_is_the_log_itself() {
        let (result, out) = printed(&sample(), false, Format::Raw);
        result.unwrap();
        assert_eq!(out, sample().as_bytes());
    }

    #[test]
    fn a_short_log_is_malformed() {
        let tree = FakeTree::new().file(PATH, &[0; 100]);
        let mut out = Vec::new();
        let error = run(
            &tree,
            false,
            &mut Output::new(&mut out, Format::Table, Style::plain(Units::Iec)),
        )
        .unwrap_err();
        assert!(error.to_string().contains("100 bytes instead of 512"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_document(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut bytes = [0u8; 512];
            random.fill(&mut bytes);
            let document = SmartDocument::new("nvme", &decode(&bytes).unwrap());
            let text = view::render(&document, &[], &Style::plain(Units::Iec));
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{}", text);
        }
    }
}
