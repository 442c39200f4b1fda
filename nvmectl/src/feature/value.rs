//! What `feature set` is given, as a value of Set Features.

use clap::Args;
use nvme_spec::feature::{
    Arbitration, ErrorRecovery, InterruptCoalescing, InterruptVectorConfiguration, NonOperationalPowerState,
    PowerManagement, TemperatureThreshold, VolatileWriteCache, WriteAtomicity,
};

use super::known::FeatureName;
use crate::error::Error;
use crate::units::parse_duration_ns;

/// Which value of a feature that has several.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Which {
    /// The interrupt vector, of interrupt-vector-config
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub vector: u16,
    /// The temperature sensor, of temperature-threshold: 1 to 8, or 0 for the composite temperature
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub sensor: u8,
    /// The threshold below which it is too cold, not that above which it is too hot
    #[arg(long)]
    pub under: bool,
}

impl Which {
    /// CDW11 of Get Features.
    pub fn cdw11(self, name: FeatureName) -> u32 {
        match name {
            FeatureName::InterruptVectorConfig => {
                InterruptVectorConfiguration::new().with_iv(self.vector).into()
            }
            FeatureName::TemperatureThreshold => self.threshold().into(),
            _ => 0,
        }
    }

    fn threshold(self) -> TemperatureThreshold {
        TemperatureThreshold::new()
            .with_tmpsel(self.sensor & 0xF)
            .with_thsel(u8::from(self.under))
    }
}

/// The parts of a value. What is not given stays as it is.
#[derive(Clone, Debug, Default, Args)]
pub struct Parts {
    /// interrupt-coalescing: completions for one interrupt, 1 to 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threshold: Option<u16>,
    /// interrupt-coalescing: how long the first of them may wait, in steps of 100us up to 25.5ms; 0 for not at all
    #[arg(long, value_name = "DURATION", value_parser = parse_duration_ns)]
    pub time: Option<u64>,
    /// arbitration: commands of a queue at a time, a power of two from 1 to 64, or none for no limit
    #[arg(long, value_name = "N")]
    pub burst: Option<String>,
    /// arbitration: weight of the high priority class, 1 to 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub high: Option<u16>,
    /// arbitration: weight of the medium priority class, 1 to 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub medium: Option<u16>,
    /// arbitration: weight of the low priority class, 1 to 256
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub low: Option<u16>,
    /// power-management: workload hint, 0 to 7
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=7))]
    pub workload: Option<u8>,
}

impl Parts {
    /// Those that were given, by name, with the feature that has them.
    fn given(&self) -> impl Iterator<Item = (&'static str, FeatureName)> {
        [
            (
                self.threshold.is_some(),
                "--threshold",
                FeatureName::InterruptCoalescing,
            ),
            (self.time.is_some(), "--time", FeatureName::InterruptCoalescing),
            (self.burst.is_some(), "--burst", FeatureName::Arbitration),
            (self.high.is_some(), "--high", FeatureName::Arbitration),
            (self.medium.is_some(), "--medium", FeatureName::Arbitration),
            (self.low.is_some(), "--low", FeatureName::Arbitration),
            (
                self.workload.is_some(),
                "--workload",
                FeatureName::PowerManagement,
            ),
        ]
        .into_iter()
        .filter(|(given, ..)| *given)
        .map(|(_, option, name)| (option, name))
    }
}

/// What `VALUE` is for each feature that takes one.
fn accepted(name: FeatureName) -> &'static str {
    match name {
        FeatureName::Arbitration => "--burst, --high, --medium and --low",
        FeatureName::PowerManagement => "a power state from 0 to 31, and --workload",
        FeatureName::TemperatureThreshold => "a temperature such as 75C or 348K",
        FeatureName::ErrorRecovery => "a time limit in steps of 100ms up to 6553.5s such as 500ms, or none",
        FeatureName::InterruptCoalescing => "--threshold and --time, or off",
        FeatureName::Scheduler => "the name of a scheduler",
        _ => "on or off",
    }
}

/// What to set `name` to, where it is `current` now. Checked as far as it can be without the controller.
///
/// # Errors
/// Usage.
pub fn new_value(
    name: FeatureName,
    value: Option<&str>,
    parts: &Parts,
    which: Which,
    current: u32,
) -> Result<u32, Error> {
    let wrong = |message: String| Error::usage(message, format!("{} takes {}", name.text(), accepted(name)));
    if let Some((option, _)) = parts.given().find(|(_, of)| *of != name) {
        return Err(wrong(format!("{option} is no part of {}", name.text())));
    }
    if value.is_none() && parts.given().next().is_none() {
        return Err(wrong(format!("what to set {} to is not said", name.text())));
    }
    let bad = |text: &str| wrong(format!("{text} is no value of {}", name.text()));
    let on_off = || match value {
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        other => Err(bad(other.unwrap_or_default())),
    };
    let weight = |given: Option<u16>, now_z: u8| given.map_or(now_z, |weight| weight.saturating_sub(1) as u8);
    Ok(match name {
        FeatureName::InterruptCoalescing => {
            let now = match value {
                None => InterruptCoalescing::from(current),
                Some("off") => InterruptCoalescing::new(),
                Some(other) => return Err(bad(other)),
            };
            let time = match parts.time {
                None => now.time(),
                Some(ns) => u8::try_from(ns / 100_000)
                    .ok()
                    .filter(|_| ns.is_multiple_of(100_000))
                    .ok_or_else(|| wrong("--time is in steps of 100us up to 25.5ms".to_owned()))?,
            };
            InterruptCoalescing::new()
                .with_thr_z(weight(parts.threshold, now.thr_z()))
                .with_time(time)
                .into()
        }
        FeatureName::Arbitration => {
            if let Some(other) = value {
                return Err(bad(other));
            }
            let now = Arbitration::from(current);
            let ab = match parts.burst.as_deref() {
                None => now.ab(),
                Some("none") => 7,
                Some(text) => text
                    .parse::<u8>()
                    .ok()
                    .filter(|burst| burst.is_power_of_two() && *burst <= 64)
                    .map(|burst| burst.trailing_zeros() as u8)
                    .ok_or_else(|| {
                        wrong(format!(
                            "--burst {text} is no power of two from 1 to 64, nor none"
                        ))
                    })?,
            };
            now.with_ab(ab)
                .with_hpw_z(weight(parts.high, now.hpw_z()))
                .with_mpw_z(weight(parts.medium, now.mpw_z()))
                .with_lpw_z(weight(parts.low, now.lpw_z()))
                .into()
        }
        FeatureName::PowerManagement => {
            let now = PowerManagement::from(current);
            let ps = match value {
                None => now.ps(),
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|state| *state <= 31)
                    .ok_or_else(|| bad(text))?,
            };
            PowerManagement::new()
                .with_ps(ps)
                .with_wh(parts.workload.unwrap_or(now.wh()) & 7)
                .into()
        }
        FeatureName::TemperatureThreshold => {
            let text = value.unwrap_or_default();
            let kelvin = parse_kelvin(text).ok_or_else(|| bad(text))?;
            which.threshold().with_tmpth(kelvin).into()
        }
        FeatureName::ErrorRecovery => {
            let tler = match value.unwrap_or_default() {
                "none" => 0,
                text => parse_duration_ns(text)
                    .ok()
                    .filter(|ns| ns.is_multiple_of(100_000_000))
                    .and_then(|ns| u16::try_from(ns / 100_000_000).ok())
                    .filter(|steps| *steps > 0)
                    .ok_or_else(|| bad(text))?,
            };
            ErrorRecovery::from(current).with_tler(tler).into()
        }
        FeatureName::VolatileWriteCache => VolatileWriteCache::new().with_wce(on_off()?).into(),
        FeatureName::InterruptVectorConfig => InterruptVectorConfiguration::new()
            .with_iv(which.vector)
            .with_cd(!on_off()?)
            .into(),
        FeatureName::WriteAtomicity => WriteAtomicity::new().with_dn(!on_off()?).into(),
        FeatureName::NonOperationalPowerState => {
            NonOperationalPowerState::new().with_noppme(on_off()?).into()
        }
        _ => return Err(wrong(format!("{} cannot be set", name.text()))),
    })
}

/// `348K` or `75C`, in kelvin.
fn parse_kelvin(text: &str) -> Option<u16> {
    match text.strip_suffix(['K', 'k']) {
        Some(kelvin) => kelvin.parse().ok(),
        None => {
            let celsius: i32 = text.strip_suffix(['C', 'c'])?.parse().ok()?;
            u16::try_from(celsius.checked_add(273)?).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn value(name: FeatureName, text: Option<&str>, parts: &Parts, current: u32) -> Result<u32, String> {
        new_value(name, text, parts, Which::default(), current).map_err(|error| error.text())
    }

    fn parts(edit: impl Fn(&mut Parts)) -> Parts {
        let mut parts = Parts::default();
        edit(&mut parts);
        parts
    }

    #[test]
    fn values_are_in_the_specifications_units() {
        let none = Parts::default();
        let coalescing = FeatureName::InterruptCoalescing;
        for (name, text, parts, current, wanted) in [
            // 8 completions are 7h, 200 us are 2h.
            (
                coalescing,
                None,
                parts(|parts| (parts.threshold, parts.time) = (Some(8), Some(200_000))),
                0,
                0x0207,
            ),
            // What is not given stays.
            (
                coalescing,
                None,
                parts(|parts| parts.threshold = Some(256)),
                0x0900,
                0x09FF,
            ),
            (coalescing, Some("off"), none.clone(), 0x0909, 0),
            (
                FeatureName::Arbitration,
                None,
                parts(|parts| (parts.burst, parts.high) = (Some("8".to_owned()), Some(4))),
                0x0000_2207,
                0x0300_2203,
            ),
            (
                FeatureName::Arbitration,
                None,
                parts(|parts| parts.burst = Some("none".to_owned())),
                0x0102_0300,
                0x0102_0307,
            ),
            (FeatureName::PowerManagement, Some("4"), none.clone(), 0x20, 0x24),
            (
                FeatureName::PowerManagement,
                None,
                parts(|parts| parts.workload = Some(1)),
                0x44,
                0x24,
            ),
            (
                FeatureName::TemperatureThreshold,
                Some("75C"),
                none.clone(),
                0,
                348,
            ),
            (
                FeatureName::TemperatureThreshold,
                Some("300K"),
                none.clone(),
                0,
                300,
            ),
            (
                FeatureName::ErrorRecovery,
                Some("1.5s"),
                none.clone(),
                0x1_0000,
                0x1_000F,
            ),
            (FeatureName::ErrorRecovery, Some("none"), none.clone(), 0x5, 0),
            (FeatureName::VolatileWriteCache, Some("on"), none.clone(), 0, 1),
            (FeatureName::VolatileWriteCache, Some("off"), none.clone(), 1, 0),
            (FeatureName::WriteAtomicity, Some("on"), none.clone(), 1, 0),
            (
                FeatureName::NonOperationalPowerState,
                Some("on"),
                none.clone(),
                0,
                1,
            ),
        ] {
            assert_eq!(
                value(name, text, &parts, current),
                Ok(wanted),
                "{name:?} {text:?}"
            );
        }
        let which = Which {
            vector: 3,
            sensor: 2,
            under: true,
        };
        let with = |name, text| new_value(name, Some(text), &none, which, 0).unwrap();
        assert_eq!(with(FeatureName::InterruptVectorConfig, "off"), 0x1_0003);
        assert_eq!(with(FeatureName::TemperatureThreshold, "10C"), 0x12_011B);
        assert_eq!(which.cdw11(FeatureName::TemperatureThreshold), 0x12_0000);
        assert_eq!(which.cdw11(FeatureName::InterruptVectorConfig), 3);
        assert_eq!(which.cdw11(FeatureName::Arbitration), 0);
    }

    #[test]
    fn what_is_no_value_is_refused_with_what_is() {
        let none = Parts::default();
        for (name, text, parts, words) in [
            (
                FeatureName::InterruptCoalescing,
                None,
                none.clone(),
                "is not said\n hint: interrupt-coalescing takes --threshold and --time, or off",
            ),
            (
                FeatureName::InterruptCoalescing,
                None,
                parts(|parts| parts.time = Some(150_000)),
                "steps of 100us up to 25.5ms",
            ),
            (
                FeatureName::InterruptCoalescing,
                None,
                parts(|parts| parts.time = Some(25_600_000)),
                "steps of 100us up to 25.5ms",
            ),
            (
                FeatureName::InterruptCoalescing,
                Some("8"),
                none.clone(),
                "8 is no value of interrupt-coalescing",
            ),
            (
                FeatureName::VolatileWriteCache,
                Some("on"),
                parts(|parts| parts.threshold = Some(1)),
                "--threshold is no part of volatile-write-cache",
            ),
            (
                FeatureName::VolatileWriteCache,
                Some("1"),
                none.clone(),
                "takes on or off",
            ),
            (
                FeatureName::Arbitration,
                None,
                parts(|parts| parts.burst = Some("3".to_owned())),
                "--burst 3 is no power of two",
            ),
            (
                FeatureName::Arbitration,
                Some("8"),
                none.clone(),
                "8 is no value of",
            ),
            (FeatureName::PowerManagement, Some("32"), none.clone(), "0 to 31"),
            (
                FeatureName::TemperatureThreshold,
                Some("75"),
                none.clone(),
                "such as 75C",
            ),
            (
                FeatureName::TemperatureThreshold,
                Some("-300C"),
                none.clone(),
                "such as 75C",
            ),
            (
                FeatureName::TemperatureThreshold,
                Some("65536K"),
                none.clone(),
                "such as 75C",
            ),
            (
                FeatureName::ErrorRecovery,
                Some("50ms"),
                none.clone(),
                "steps of 100ms",
            ),
            (
                FeatureName::ErrorRecovery,
                Some("6553.6s"),
                none.clone(),
                "steps of 100ms",
            ),
            (FeatureName::ErrorRecovery, Some("0"), none.clone(), "or none"),
        ] {
            let error = value(name, text, &parts, 0).unwrap_err();
            assert!(error.contains(words), "{words}\n{error}");
        }
    }

    #[test]
    fn values_are_said_in_words_of_their_own() {
        for (name, dw0, settings) in [
            (
                FeatureName::InterruptCoalescing,
                0x0207,
                json!({"threshold_completions": 8, "time_us": 200}),
            ),
            (
                FeatureName::Arbitration,
                0x0300_2207,
                json!({"burst_commands": null, "high_weight": 4, "medium_weight": 1, "low_weight": 35}),
            ),
            (
                FeatureName::TemperatureThreshold,
                343,
                json!({"threshold_celsius": 70, "threshold_kelvin": 343}),
            ),
            (
                FeatureName::NumberOfQueues,
                0x003F_0001,
                json!({"submission_queues": 2, "completion_queues": 64}),
            ),
            (
                FeatureName::InterruptVectorConfig,
                0x1_0002,
                json!({"vector": 2, "coalescing": false}),
            ),
            (
                FeatureName::ErrorRecovery,
                15,
                json!({"time_limit_ms": 1500, "error_if_deallocated": false}),
            ),
        ] {
            assert_eq!(json!(name.settings(dw0, &[])), settings, "{name:?}");
        }
        let timestamp = FeatureName::Timestamp.settings(0, &[0xE8, 0x03, 0, 0, 0, 0, 0x02, 0, 9]);
        assert_eq!(
            json!(timestamp),
            json!({"timestamp_ms": 1000, "set_by_host": true, "may_have_stopped": false})
        );
        assert!(FeatureName::Timestamp.settings(0, &[1; 7]).is_empty());
        let events = FeatureName::AsyncEventConfig.settings(0x102, &[]);
        let set: Vec<&String> = events
            .iter()
            .filter(|(_, set)| **set == json!(true))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(set, ["temperature", "namespace_attribute"]);
    }

    proptest! {
        #[test]
        fn any_value_is_said_and_any_text_is_taken_or_refused(
            feature in prop::sample::select(<FeatureName as clap::ValueEnum>::value_variants()),
            dw0: u32, data in prop::collection::vec(any::<u8>(), 0..16), text in "[a-z0-9.CK-]{0,8}|\\PC{0,8}",
        ) {
            let _ = feature.settings(dw0, &data);
            let _ = value(feature, Some(&text), &Parts::default(), dw0);
        }

        #[test]
        fn coalescing_reads_back(threshold in 1_u16..=256, steps in 0_u64..=255, current: u32) {
            let parts = parts(|parts| (parts.threshold, parts.time) = (Some(threshold), Some(steps * 100_000)));
            let dw0 = value(FeatureName::InterruptCoalescing, None, &parts, current).unwrap();
            prop_assert_eq!(
                json!(FeatureName::InterruptCoalescing.settings(dw0, &[])),
                json!({"threshold_completions": threshold, "time_us": steps * 100})
            );
        }
    }
}
