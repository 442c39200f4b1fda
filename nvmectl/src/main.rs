//! `nvmectl`: lists, identifies, watches and measures NVMe devices.
//!
//! It has one way in: file operations on the tree that nvme-driver serves ([`tree`]), be it mounted by a daemon or
//! embedded in this process with `--emulate`. Each command reads what it needs, makes one document of it and prints that
//! as text or as JSON ([`view`], [`output`]). What cannot work is refused before anything is opened ([`args`]); what goes
//! wrong is said with its reason, what to do next, and an exit code of its own ([`error`]).
//!
//! Beside that, on Linux, `bind` and `unbind` take controllers from the kernel's driver and give them back.
//!
//! The only commands of its own making that it sends to a device are those that read and set features; it formats nothing
//! and erases nothing but by `bench` with `--destructive`.
#![forbid(unsafe_code)]

mod admin;
mod args;
mod bench;
#[cfg(target_os = "linux")]
mod bind;
mod device;
mod error;
mod error_log;
mod feature;
mod identify;
mod interrupt;
mod list;
mod mi;
mod output;
mod platform;
mod run;
#[cfg(test)]
mod samples;
mod smart;
mod snapshot;
mod stats;
mod style;
mod top;
mod tree;
mod units;
mod values;
mod view;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory, FromArgMatches};

use crate::args::{Cli, Format};
use crate::error::{Error, ErrorDocument};

fn main() -> ExitCode {
    let arguments = args::rewrite(std::env::args_os());
    let parsed = Cli::command()
        .color(help_color(&arguments))
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return answer(&error, &arguments),
    };
    let Err(error) = run::run(&cli) else {
        return ExitCode::SUCCESS;
    };
    // Where standard error is closed there is nobody to tell.
    let mut stderr = std::io::stderr().lock();
    if !error.is_silent() {
        let _ = writeln!(stderr, "{}", error.text());
    }
    // A program has to be told of an interrupt too: the document on standard output is the same with and without.
    let says_something = !error.is_silent() || matches!(error, Error::Interrupted);
    if says_something
        && (matches!(cli.global.format(), Format::Json | Format::Jsonl) || args::asks_for_json(&arguments))
    {
        let _ = writeln!(stderr, "{}", error.json());
    }
    ExitCode::from(error.exit_code())
}

/// What clap has to say: help and versions on standard output, refusals on standard error.
fn answer(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let answers_a_question = !error.use_stderr();
    if let Err(why) = error.print() {
        let error = Error::Output(why);
        if !error.is_silent() {
            let _ = writeln!(std::io::stderr(), "{}", error.text());
        }
        return ExitCode::from(if answers_a_question { error.exit_code() } else { 2 });
    }
    if error.use_stderr() && args::asks_for_json(arguments) {
        let text = error.to_string();
        let message = text
            .split("\n\n")
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ");
        let hint = Some("nvmectl --help".to_owned());
        let document = ErrorDocument::new("usage", message.to_owned(), hint, 2);
        let _ = writeln!(std::io::stderr(), "{}", document.to_line());
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Colour of help and refusals. The parser's own choice would colour a dumb terminal where CI is set.
fn help_color(arguments: &[OsString]) -> ColorChoice {
    match args::color_of(arguments) {
        ColorChoice::Auto if std::env::var_os("TERM").is_some_and(|term| term == "dumb") => {
            ColorChoice::Never
        }
        asked => asked,
    }
}
