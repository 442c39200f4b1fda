//! Command lines before clap has read them, or where it could not.

use std::ffi::{OsStr, OsString};

use clap::{ColorChoice, ValueEnum};

/// Command lines as people type them, as clap understands them: `--qd32` becomes `--qd=32`. What follows `--` is left
/// alone.
pub fn rewrite(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut literal = false;
    let rewrite_one = |argument: OsString| {
        literal |= argument == "--";
        let depth = argument.to_str().and_then(|text| text.strip_prefix("--qd"));
        match depth {
            Some(depth) if !literal && depth.starts_with(|c: char| c.is_ascii_digit()) => {
                format!("--qd={depth}").into()
            }
            _ => argument,
        }
    };
    arguments.into_iter().map(rewrite_one).collect()
}

/// Whether a command line that clap may have refused asks for JSON; then its errors are JSON too.
pub fn asks_for_json(arguments: &[OsString]) -> bool {
    let mut previous: &OsStr = OsStr::new("");
    for argument in arguments {
        let value_of_output = previous == "-o" || previous == "--output";
        match argument.to_str() {
            Some("--") => return false,
            Some(
                "--json" | "--fio-json" | "-ojson" | "-ojsonl" | "-o=json" | "-o=jsonl" | "--output=json"
                | "--output=jsonl",
            ) => return true,
            Some("json" | "jsonl") if value_of_output => return true,
            _ => previous = argument,
        }
    }
    false
}

/// The colours that a command line asks for before clap has read it: help and refusals are to keep to it too.
pub fn color_of(arguments: &[OsString]) -> ColorChoice {
    let texts = || {
        arguments
            .iter()
            .map(|argument| argument.to_str().unwrap_or_default())
    };
    let mut asked = ColorChoice::Auto;
    for (text, next) in texts().zip(texts().skip(1).chain([""])) {
        let value = match text {
            "--" => break,
            "--color" => Some(next),
            _ => text.strip_prefix("--color="),
        };
        if let Some(choice) = value.and_then(|value| ColorChoice::from_str(value, false).ok()) {
            asked = choice;
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised_even_where_parsing_fails() {
        for (line, json) in [
            ("nvmectl bench --bs x --json", true),
            ("nvmectl -o json bench --bs x", true),
            ("nvmectl -ojson bench --bs x", true),
            ("nvmectl --output=json", true),
            ("nvmectl bench --fio-json --bs x", true),
            ("nvmectl bench --bs x", false),
            ("nvmectl json", false),
            ("nvmectl -- --json", false),
        ] {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(asks_for_json(&arguments), json, "{line}");
        }
    }

    #[test]
    fn colours_are_known_before_the_rest() {
        for (line, wanted) in [
            ("nvmectl --color never --frobnicate", ColorChoice::Never),
            ("nvmectl bench --bs x --color=always", ColorChoice::Always),
            ("nvmectl --color", ColorChoice::Auto),
            ("nvmectl --color sometimes", ColorChoice::Auto),
            ("nvmectl -- --color never", ColorChoice::Auto),
        ] {
            let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
            assert_eq!(color_of(&arguments), wanted, "{line}");
        }
    }
}
