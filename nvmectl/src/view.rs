//! Text from the same document that is printed as JSON, so that the two cannot differ.
//!
//! A document's keys say what its values are (`capacity_bytes`, `temperature_kelvin`); the text takes the unit from the
//! key and leaves nothing out but `schema` and `version`. The same quantity in two units (`x_celsius` and `x_kelvin`,
//! `x_bytes` and `x_blocks`) shares a row. An object of flags is the list of those that are set, any other object a
//! section, an array of objects a table.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::style::{Align, Style};
use crate::units::{Units, grouped};

/// Units that share a row: the one that leads, and the one that follows in brackets.
const PAIRS: [(&str, &str); 2] = [("_celsius", "_kelvin"), ("_bytes", "_blocks")];

/// Keys that say what the document is, not what the device is.
const ABOUT_THE_DOCUMENT: [&str; 2] = ["schema", "version"];

/// The text of `document`; `hex` are the keys of numbers that people know in hexadecimal.
pub fn render(document: &impl Serialize, hex: &[&str], style: &Style) -> String {
    let value = serde_json::to_value(document).unwrap_or(Value::Null);
    let mut out = String::new();
    let view = View { hex, style };
    match &value {
        Value::Object(map) => view.section(map, 0, &mut out),
        other => {
            out.push_str(&view.scalar("", other));
            out.push('\n');
        }
    }
    out
}

/// One value of a document with its name and its unit, as in a row of [`render`].
pub fn one(key: &str, value: &Value, style: &Style) -> String {
    let view = View { hex: &[], style };
    format!("{} {}", label(key), view.scalar(key, value))
}

struct View<'v> {
    hex: &'v [&'v str],
    style: &'v Style,
}

impl View<'_> {
    /// Scalars first, in one block, then what has a heading of its own.
    fn section(&self, map: &Map<String, Value>, indent: usize, out: &mut String) {
        let mut pairs = self.style.pairs();
        let mut any = false;
        for (key, value) in map
            .iter()
            .filter(|(key, value)| is_one_row(value) && !is_hidden(map, key))
        {
            pairs.row([label(key), self.row(map, key, value)]);
            any = true;
        }
        if any {
            out.push_str(&pairs.lines(indent));
        }
        for (key, value) in map {
            match value {
                Value::Object(inner) if !is_flags(inner) => {
                    self.heading(key, indent, out);
                    self.section(inner, indent + 2, out);
                }
                Value::Array(rows) if is_table(rows) => {
                    self.heading(key, indent, out);
                    self.table(rows, indent + 2, out);
                }
                _ => {}
            }
        }
    }

    fn heading(&self, key: &str, indent: usize, out: &mut String) {
        let heading = self.style.paint(crate::style::Tone::Heading, &label(key));
        out.push_str(&format!("\n{}{heading}\n", " ".repeat(indent)));
    }

    fn table(&self, rows: &[Value], indent: usize, out: &mut String) {
        let rows: Vec<&Map<String, Value>> = rows.iter().filter_map(Value::as_object).collect();
        let Some(first) = rows.first() else { return };
        let keys: Vec<&String> = first.keys().filter(|key| !is_hidden(first, key)).collect();
        let names: Vec<(String, Align)> = keys
            .iter()
            .map(|key| {
                let text = rows
                    .iter()
                    .any(|row| row.get(*key).is_some_and(|value| !is_number(value)));
                (
                    label(key).to_uppercase(),
                    if text { Align::Left } else { Align::Right },
                )
            })
            .collect();
        let columns: Vec<(&str, Align)> = names
            .iter()
            .map(|(name, align)| (name.as_str(), *align))
            .collect();
        let mut grid = self.style.table(&columns);
        for row in rows {
            grid.row(keys.iter().map(|key| match row.get(*key) {
                None | Some(Value::Null) => "-".to_owned(),
                Some(value) => self.short(key, value),
            }));
        }
        out.push_str(&grid.lines(indent));
    }

    /// The text of one value, with that of its other unit.
    fn row(&self, map: &Map<String, Value>, key: &str, value: &Value) -> String {
        let other = PAIRS.iter().find_map(|(leads, follows)| {
            let key = format!("{}{follows}", key.strip_suffix(leads)?);
            map.get(&key)
                .filter(|other| !other.is_null())
                .map(|other| self.scalar(&key, other))
        });
        match other {
            Some(other) => format!("{} ({other})", self.short(key, value)),
            None => self.scalar(key, value),
        }
    }

    /// The text of one value where there is no room for its digits.
    fn short(&self, key: &str, value: &Value) -> String {
        match number(value) {
            Some(number) if unit_of(key) == Some("bytes") => self.style.units.bytes(number),
            _ => self.scalar(key, value),
        }
    }

    fn scalar(&self, key: &str, value: &Value) -> String {
        match value {
            Value::Null => "not reported".to_owned(),
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            Value::String(text) => match text.parse::<u128>() {
                // Numbers beyond 64 bits are strings in JSON; whether one is a quantity, its key tells.
                Ok(number) if unit_of(key).is_some() => self.quantity(key, number),
                _ if text.is_empty() => "none".to_owned(),
                _ => text.clone(),
            },
            Value::Number(number) => match number.as_u64() {
                Some(number) => self.quantity(key, u128::from(number)),
                None => with_unit(number.to_string(), unit_of(key)),
            },
            Value::Array(values) if values.is_empty() => "none".to_owned(),
            Value::Array(values) => values
                .iter()
                .map(|value| self.scalar(key, value))
                .collect::<Vec<_>>()
                .join(", "),
            Value::Object(flags) => {
                let set: Vec<String> = flags
                    .iter()
                    .filter(|(_, set)| **set == Value::Bool(true))
                    .map(|(key, _)| label(key))
                    .collect();
                if set.is_empty() {
                    "none".to_owned()
                } else {
                    set.join(", ")
                }
            }
        }
    }

    fn quantity(&self, key: &str, number: u128) -> String {
        let plain = if self.style.units == Units::Raw {
            number.to_string()
        } else {
            grouped(number)
        };
        match unit_of(key) {
            _ if self.hex.contains(&key) && number <= 0xff => format!("{number:#04x}"),
            _ if self.hex.contains(&key) => format!("{number:#06x}"),
            Some("bytes") => {
                let short = self.style.units.bytes(number);
                if number < 1024 || short == plain {
                    short
                } else {
                    format!("{short} ({plain})")
                }
            }
            Some("ns") if self.style.units != Units::Raw => self.style.units.duration(number as f64),
            unit => with_unit(plain, unit),
        }
    }
}

/// What a key's quantity is counted in.
fn unit_of(key: &str) -> Option<&'static str> {
    const UNITS: [(&str, &str); 14] = [
        ("_bytes", "bytes"),
        ("_blocks", "blocks"),
        ("_kelvin", "K"),
        ("_celsius", "\u{b0}C"),
        ("_percent", "%"),
        ("_minutes", "min"),
        ("_hours", "h"),
        ("_seconds", "s"),
        ("_ms", "ms"),
        ("_us", "us"),
        ("_ns", "ns"),
        ("_watts", "W"),
        ("_pages", "pages"),
        ("_units", "units"),
    ];
    if key.starts_with("bytes_") {
        return Some("bytes");
    }
    UNITS
        .iter()
        .find(|(suffix, _)| key.ends_with(suffix))
        .map(|(_, unit)| *unit)
}

fn with_unit(number: String, unit: Option<&str>) -> String {
    match unit {
        Some("%") => format!("{number}%"),
        Some("blocks") if number == "1" => "1 block".to_owned(),
        Some(unit) => format!("{number} {unit}"),
        None => number,
    }
}

/// A key as people read it: without its unit, which stands beside the value.
fn label(key: &str) -> String {
    let unit_suffix = [
        "_bytes", "_blocks", "_celsius", "_kelvin", "_percent", "_minutes", "_hours", "_seconds", "_ms",
        "_us", "_ns", "_watts",
    ]
    .iter()
    .find_map(|suffix| key.strip_suffix(suffix));
    unit_suffix.unwrap_or(key).replace('_', " ")
}

/// A number in either of its forms.
fn number(value: &Value) -> Option<u128> {
    match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// What the document is about itself, and what is shown beside its other unit.
fn is_hidden(map: &Map<String, Value>, key: &str) -> bool {
    let leads_elsewhere = |(leads, follows): &(&str, &str)| {
        key.strip_suffix(follows)
            .is_some_and(|stem| map.contains_key(&format!("{stem}{leads}")))
    };
    PAIRS.iter().any(leads_elsewhere) || ABOUT_THE_DOCUMENT.contains(&key)
}

fn is_flags(map: &Map<String, Value>) -> bool {
    !map.is_empty() && map.values().all(Value::is_boolean)
}

fn is_table(rows: &[Value]) -> bool {
    !rows.is_empty() && rows.iter().all(Value::is_object)
}

fn is_one_row(value: &Value) -> bool {
    match value {
        Value::Object(map) => is_flags(map),
        Value::Array(rows) => !is_table(rows),
        _ => true,
    }
}

/// A column of these stands to the right.
fn is_number(value: &Value) -> bool {
    match value {
        Value::Number(_) | Value::Null => true,
        _ => number(value).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_shows_every_value_with_its_unit() {
        let document = json!({
            "schema": "x", "version": "1.0",
            "model": "Disk", "vendor_id": 0x1b36, "capacity_bytes": "1073741824", "small_bytes": 512,
            "temperature_kelvin": 310, "temperature_celsius": 37,
            "limit_kelvin": null, "limit_celsius": null,
            "size_bytes": 8192, "size_blocks": 2, "atomic_blocks": 1,
            "wear_percent": 3, "on_hours": "1234567", "shared": false, "serial": "123",
            "commands": {"format": true, "self_test": true, "security": false},
            "sizes_bytes": [512, 4096],
            "power": {"states": [{"state": 0, "max_watts": 9.5, "idle": null}, {"state": 1, "max_watts": 10.5, "idle": "x"}]},
        });
        let text = render(&document, &["vendor_id"], &Style::plain(Units::Iec));
        let expected = "\
model        Disk
vendor id    0x1b36
capacity     1.00GiB (1 073 741 824)
small        512B
temperature  37 \u{b0}C (310 K)
limit        not reported
size         8.00KiB (2 blocks)
atomic       1 block
wear         3%
on           1 234 567 h
shared       no
serial       123
commands     format, self test
sizes        512B, 4.00KiB (4 096)

power

  states
    STATE     MAX  IDLE
        0   9.5 W  -
        1  10.5 W  x
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn raw_units_are_plain_numbers() {
        let text = render(
            &json!({"capacity_bytes": 1_073_741_824u64}),
            &[],
            &Style::plain(Units::Raw),
        );
        assert_eq!(text, "capacity  1073741824\n");
    }

    #[test]
    fn times_are_shown_in_units() {
        let document = json!({"time_ns": "10000000000", "warmup_ns": 1500});
        let shown = |units| render(&document, &[], &Style::plain(units));
        assert_eq!(shown(Units::Iec), "time    10.0s\nwarmup  1.50us\n");
        assert_eq!(shown(Units::Raw), "time    10000000000 ns\nwarmup  1500 ns\n");
    }

    #[test]
    fn nothing_is_an_empty_list() {
        let text = render(
            &json!({"flags": {"a": false}, "list": [], "text": ""}),
            &[],
            &Style::plain(Units::Iec),
        );
        assert_eq!(text, "flags  none\nlist   none\ntext   none\n");
    }
}
