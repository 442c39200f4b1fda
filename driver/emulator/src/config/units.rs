//! Sizes, times and latencies as text.

use std::fmt;

use super::Latency;

const SIZES: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const TIMES: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];

/// A whole number of bytes: plain, or in KiB, MiB, GiB or TiB.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = SIZES
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
        .unwrap_or((text, 1));
    parse_digits(digits)?.checked_mul(unit)
}

/// A whole number of ns, us, ms or s, in nanoseconds. Zero needs no unit.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    // "s" ends all of them, so it comes last in the table.
    let (digits, unit) = TIMES
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    parse_digits(digits)?.checked_mul(unit)
}

/// `none`, a time, or `lognormal:MEDIAN:SIGMA`.
pub(super) fn parse_latency(text: &str) -> Option<Latency> {
    if text == "none" {
        return Some(Latency::None);
    }
    if let Some(parameters) = text.strip_prefix("lognormal:") {
        let (median, sigma) = parameters.split_once(':')?;
        let sigma = sigma
            .parse()
            .ok()
            .filter(|sigma: &f64| sigma.is_finite() && sigma.is_sign_positive())?;
        return Some(Latency::LogNormal {
            median_ns: parse_time(median)?,
            sigma,
        });
    }
    match parse_time(text)? {
        0 => Some(Latency::None),
        ns => Some(Latency::Fixed { ns }),
    }
}

/// Digits only: `str::parse` would take a sign as well.
pub(super) fn parse_digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

/// Bytes in the largest unit that leaves a whole number.
pub(super) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Nanoseconds in the largest unit that leaves a whole number.
pub(super) struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TIMES
            .iter()
            .rev()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit))
        {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => f.write_str("0"),
        }
    }
}

/// A latency as [`parse_latency`] takes it.
pub(super) struct Shown<'a>(pub &'a Latency);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self.0 {
            Latency::None => f.write_str("none"),
            Latency::Fixed { ns } => Time(ns).fmt(f),
            Latency::LogNormal { median_ns, sigma } => write!(f, "lognormal:{}:{sigma}", Time(median_ns)),
        }
    }
}
