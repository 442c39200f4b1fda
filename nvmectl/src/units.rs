//! Quantities as people write and read them: `128KiB` and `500ms` into numbers, numbers into `1.21M` and `81.9us`.
//!
//! Parsing is strict: what is not understood is an error that says what is accepted, never a guess. Printed quantities
//! are one word each, so that a table's cell is one field for `awk`.

use clap::ValueEnum;

/// Why a size or a duration was not understood. The text says what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The text does not start with a digit.
    #[error("it does not start with a number; accepted is {accepted}")]
    NoNumber { accepted: &'static str },
    /// What follows the number is no unit.
    #[error("unknown unit \"{unit}\"; accepted is {accepted}")]
    UnknownUnit { unit: String, accepted: &'static str },
    /// A decimal point where only whole numbers are possible, or more digits than the smallest unit has.
    #[error("it is no whole number of {smallest}; accepted is {accepted}")]
    NotWhole {
        smallest: &'static str,
        accepted: &'static str,
    },
    /// The value does not fit in 64 bits.
    #[error("it is too large; the largest is {largest}")]
    TooLarge { largest: &'static str },
}

const SIZES: &str = "a whole number of bytes, alone (4096) or with k, m, g, t or KiB, MiB, GiB, TiB (powers of 1024) \
                     or kB, MB, GB, TB (powers of 1000)";
const DURATIONS: &str =
    "a number with ns, us, ms, s, m or h (500ms, 1.5s), or of seconds where no unit is given";

/// Bytes from `4096`, `4k`, `128KiB`, `1m`, `2GB`. A bare letter counts in 1024s, as fio's and dd's do.
///
/// # Errors
/// [`UnitError`] when the text is anything else.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text, SIZES)?;
    let scale: u64 = match unit {
        "" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        "t" | "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => {
            return Err(UnitError::UnknownUnit {
                unit: unit.to_owned(),
                accepted: SIZES,
            });
        }
    };
    scaled(number, scale, "bytes", SIZES, "16 EiB")
}

/// Nanoseconds from `80us`, `500ms`, `1.5s`, `2m`, `1h`, or seconds without a unit.
///
/// # Errors
/// [`UnitError`] when the text is anything else.
pub fn parse_duration_ns(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text, DURATIONS)?;
    let scale: u64 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "" | "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => {
            return Err(UnitError::UnknownUnit {
                unit: unit.to_owned(),
                accepted: DURATIONS,
            });
        }
    };
    scaled(number, scale, "nanoseconds", DURATIONS, "584 years")
}

/// The leading number (digits, at most one point between digits) and what follows it.
fn split_number<'t>(text: &'t str, accepted: &'static str) -> Result<(&'t str, &'t str), UnitError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let well_formed = match number.split_once('.') {
        None => !number.is_empty(),
        Some((whole, fraction)) => !whole.is_empty() && !fraction.is_empty() && !fraction.contains('.'),
    };
    if well_formed {
        Ok((number, unit))
    } else {
        Err(UnitError::NoNumber { accepted })
    }
}

/// `number` times `scale`, exactly.
fn scaled(
    number: &str,
    scale: u64,
    smallest: &'static str,
    accepted: &'static str,
    largest: &'static str,
) -> Result<u64, UnitError> {
    let too_large = || UnitError::TooLarge { largest };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut value = u128::from(whole) * u128::from(scale);

    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        // 13 decimals are enough for the finest fraction of the largest unit that is still whole.
        let not_whole = || UnitError::NotWhole { smallest, accepted };
        let digits = u32::try_from(fraction.len())
            .ok()
            .filter(|&digits| digits <= 18)
            .ok_or_else(not_whole)?;
        let numerator: u64 = fraction.parse().map_err(|_| not_whole())?;
        let product = u128::from(numerator) * u128::from(scale);
        let denominator = 10u128.pow(digits);
        if product % denominator != 0 {
            return Err(not_whole());
        }
        value += product / denominator;
    }
    u64::try_from(value).map_err(|_| too_large())
}

/// How quantities are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Units {
    /// Powers of 1024: KiB, MiB, GiB
    #[default]
    Iec,
    /// Powers of 1000: kB, MB, GB
    Si,
    /// Plain numbers: bytes, nanoseconds, counts
    Raw,
}

const IEC: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
const SI: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const COUNT: [&str; 9] = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"];

impl Units {
    /// A number of bytes: `1.00GiB`, `1.07GB`, `1073741824`.
    pub fn bytes(self, bytes: u128) -> String {
        match self {
            Self::Iec => steps(bytes as f64, 1024.0, &IEC),
            Self::Si => steps(bytes as f64, 1000.0, &SI),
            Self::Raw => bytes.to_string(),
        }
    }

    /// A bandwidth: `4.70GiB/s`, `5.05GB/s`, `5046586572` (bytes per second).
    pub fn bytes_per_s(self, bytes_per_s: f64) -> String {
        match self {
            Self::Iec => steps(bytes_per_s, 1024.0, &IEC) + "/s",
            Self::Si => steps(bytes_per_s, 1000.0, &SI) + "/s",
            Self::Raw => format!("{bytes_per_s:.0}"),
        }
    }

    /// A count or a rate of events: `1.21M`, `87`, `0.25`.
    pub fn count(self, count: f64) -> String {
        match self {
            Self::Iec | Self::Si => steps(count, 1000.0, &COUNT),
            Self::Raw if count.fract() == 0.0 => format!("{count:.0}"),
            Self::Raw => format!("{count:.2}"),
        }
    }

    /// A short time: `950ns`, `81.9us`, `1.20ms`, `3.40s`; `Raw`: nanoseconds.
    pub fn duration(self, ns: f64) -> String {
        if self == Self::Raw {
            return format!("{ns:.0}");
        }
        match ns {
            ns if ns < 999.5 => format!("{ns:.0}ns"),
            ns if ns < 999_500.0 => three_digits(ns / 1e3) + "us",
            ns if ns < 999_500_000.0 => three_digits(ns / 1e6) + "ms",
            _ => three_digits(ns / 1e9) + "s",
        }
    }
}

/// A long time in the two units that matter: `59s`, `2m03s`, `1h02m`, `3d04h`.
pub fn span(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// A number with its thousands apart: `1 234 567`.
pub fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `value` in the largest unit that leaves at least 1 of it, with three significant digits.
fn steps(value: f64, base: f64, names: &[&str]) -> String {
    let mut value = value;
    let mut names = names.iter();
    let mut name = names.next().copied().unwrap_or_default();
    let whole = value.fract() == 0.0;
    let mut scaled = false;
    // Half a digit below the base would be printed as the base itself.
    while value.abs() >= base - 0.5 {
        let Some(next) = names.next() else { break };
        value /= base;
        name = next;
        scaled = true;
    }
    if whole && !scaled {
        format!("{value:.0}{name}")
    } else {
        three_digits(value) + name
    }
}

/// Three significant digits, none of them behind the point once the number has three before it.
fn three_digits(value: f64) -> String {
    match value.abs() {
        magnitude if magnitude < 9.995 => format!("{value:.2}"),
        magnitude if magnitude < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests;
