use proptest::prelude::*;

use super::*;

#[test]
fn sizes_are_read_in_every_accepted_spelling() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("4k", 4096),
        ("4K", 4096),
        ("4KiB", 4096),
        ("4kB", 4000),
        ("4KB", 4000),
        ("1m", 1 << 20),
        ("1MiB", 1 << 20),
        ("1MB", 1_000_000),
        ("2G", 2 << 30),
        ("2GiB", 2 << 30),
        ("2GB", 2_000_000_000),
        ("3t", 3 << 40),
        ("3TiB", 3 << 40),
        ("3TB", 3_000_000_000_000),
        ("1.5k", 1536),
        ("18446744073709551615", u64::MAX),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
}

#[test]
fn durations_are_read_in_every_accepted_spelling() {
    for (text, ns) in [
        ("10", 10_000_000_000),
        ("10s", 10_000_000_000),
        ("1.5s", 1_500_000_000),
        ("500ms", 500_000_000),
        ("80us", 80_000),
        ("80\u{b5}s", 80_000),
        ("7ns", 7),
        ("2m", 120_000_000_000),
        ("2min", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        ("0.000000001", 1),
        ("0", 0),
    ] {
        assert_eq!(parse_duration_ns(text), Ok(ns), "{text}");
    }
}

#[test]
fn what_is_not_accepted_says_what_is() {
    for (text, part) in [
        ("", "does not start with a number"),
        ("k", "does not start with a number"),
        ("-1", "does not start with a number"),
        ("+1", "does not start with a number"),
        (" 1", "does not start with a number"),
        ("1..5k", "does not start with a number"),
        ("1.", "does not start with a number"),
        (".5k", "does not start with a number"),
        ("4x", "unknown unit \"x\""),
        ("4 k", "unknown unit \" k\""),
        ("4kib", "unknown unit \"kib\""),
        ("1e3", "unknown unit \"e3\""),
        ("0x10", "unknown unit \"x10\""),
        ("1.5", "no whole number of bytes"),
        ("18446744073709551616", "too large"),
        ("99999999t", "too large"),
    ] {
        let message = parse_size(text).expect_err(text).to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
    for (text, part) in [
        ("", "does not start with a number"),
        ("fast", "does not start with a number"),
        ("10 s", "unknown unit"),
        ("10S", "unknown unit \"S\""),
        ("0.5ns", "no whole number of nanoseconds"),
        ("0.0000000000000000000001s", "no whole number of nanoseconds"),
        ("9999999999999h", "too large"),
    ] {
        let message = parse_duration_ns(text).expect_err(text).to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn quantities_have_three_digits_and_a_fitting_unit() {
    assert_eq!(Units::Iec.bytes(0), "0B");
    assert_eq!(Units::Iec.bytes(1023), "1023B");
    assert_eq!(Units::Iec.bytes(1024), "1.00KiB");
    assert_eq!(Units::Iec.bytes(1 << 30), "1.00GiB");
    assert_eq!(Units::Iec.bytes((1 << 30) - 1), "1.00GiB");
    assert_eq!(Units::Si.bytes(1 << 30), "1.07GB");
    assert_eq!(Units::Raw.bytes(1 << 30), "1073741824");
    assert_eq!(Units::Iec.bytes(u128::MAX), "281474976710656YiB");
    assert_eq!(Units::Iec.bytes_per_s(5_046_586_573.0), "4.70GiB/s");
    assert_eq!(Units::Si.bytes_per_s(0.0), "0B/s");
    assert_eq!(Units::Raw.bytes_per_s(1.6), "2");
    assert_eq!(Units::Iec.count(1_214_000.0), "1.21M");
    assert_eq!(Units::Iec.count(87.0), "87");
    assert_eq!(Units::Iec.count(0.25), "0.25");
    assert_eq!(Units::Iec.count(999.7), "1.00k");
    assert_eq!(Units::Raw.count(1_214_000.0), "1214000");
    assert_eq!(Units::Raw.count(0.256), "0.26");
    assert_eq!(Units::Iec.duration(0.0), "0ns");
    assert_eq!(Units::Iec.duration(950.0), "950ns");
    assert_eq!(Units::Iec.duration(999.6), "1.00us");
    assert_eq!(Units::Iec.duration(81_920.0), "81.9us");
    assert_eq!(Units::Iec.duration(1_200_000.0), "1.20ms");
    assert_eq!(Units::Iec.duration(3.4e9), "3.40s");
    assert_eq!(Units::Raw.duration(81_920.4), "81920");
}

#[test]
fn spans_and_groups() {
    assert_eq!(span(59_999_999_999), "59s");
    assert_eq!(span(123_000_000_000), "2m03s");
    assert_eq!(span(3_720_000_000_000), "1h02m");
    assert_eq!(span(100 * 3_600_000_000_000), "4d04h");
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(999), "999");
    assert_eq!(grouped(1_234_567), "1 234 567");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse_size(&text);
        let _ = parse_duration_ns(&text);
    }

    #[test]
    fn whole_numbers_scale_exactly(number in 0u64..1 << 20) {
        prop_assert_eq!(parse_size(&format!("{number}KiB")), Ok(number * 1024));
        prop_assert_eq!(parse_duration_ns(&format!("{number}us")), Ok(number * 1000));
    }

    #[test]
    fn decimals_scale_exactly(ms in 0u64..10_000_000) {
        let text = format!("{}.{:03}s", ms / 1000, ms % 1000);
        prop_assert_eq!(parse_duration_ns(&text), Ok(ms * 1_000_000));
    }

    #[test]
    fn printed_sizes_stay_below_the_next_unit(bytes in any::<u64>()) {
        let printed = Units::Si.bytes(u128::from(bytes));
        let digits: String = printed.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        prop_assert!(digits.parse::<f64>().unwrap() < 1000.0, "{}", printed);
    }
}
