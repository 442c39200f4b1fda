//! Standard output: text, JSON, or the device's own bytes.

use std::io::Write;

use serde::Serialize;

use crate::args::Format;
use crate::error::Error;
use crate::style::{Style, printable};

/// Where a command's result goes, and in which form.
pub struct Output<'o> {
    out: &'o mut dyn Write,
    /// The form asked for.
    pub format: Format,
    /// How text looks.
    pub style: Style,
}

impl<'o> Output<'o> {
    /// Output to `out`.
    pub fn new(out: &'o mut dyn Write, format: Format, style: Style) -> Self {
        Self { out, format, style }
    }

    /// Refuses a format that `command` does not have; `accepted` are those it has beside tables and JSON.
    ///
    /// # Errors
    /// Usage.
    pub fn check_format(&self, command: &str, accepted: &[Format]) -> Result<(), Error> {
        if self.format == Format::Raw && accepted.contains(&Format::Raw) && self.style.terminal {
            return Err(Error::usage(
                "the device's bytes are not for a terminal, which would take them for commands",
                "send them to a file or a pipe (> FILE), or use --output hex",
            ));
        }
        if matches!(self.format, Format::Table | Format::Json) || accepted.contains(&self.format) {
            return Ok(());
        }
        let names: Vec<&str> = [Format::Table, Format::Json]
            .iter()
            .chain(accepted)
            .map(|format| format.name())
            .collect();
        Err(Error::usage(
            format!("{command} cannot be printed as {}", self.format.name()),
            format!("--output takes {} here", names.join(", ")),
        ))
    }

    /// Writes text for people, which ends its lines itself.
    ///
    /// # Errors
    /// Those of the output.
    pub fn text(&mut self, text: &str) -> Result<(), Error> {
        let text = printable(text, self.style.color);
        self.write(text.as_bytes())
    }

    /// Writes JSON as its author wrote it, and a newline.
    ///
    /// # Errors
    /// Those of the output.
    pub fn json_text(&mut self, text: &str) -> Result<(), Error> {
        self.write(text.trim_end().as_bytes())?;
        self.write(b"\n")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes)?;
        Ok(self.out.flush()?)
    }

    /// Writes a document for people and programs alike.
    ///
    /// # Errors
    /// Those of the output.
    pub fn json(&mut self, document: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(document).map_err(std::io::Error::from)?;
        self.json_text(&text)
    }

    /// Writes a document in one line, for those that are long or come in numbers.
    ///
    /// # Errors
    /// Those of the output.
    pub fn json_line(&mut self, document: &impl Serialize) -> Result<(), Error> {
        let text = serde_json::to_string(document).map_err(std::io::Error::from)?;
        self.json_text(&text)
    }

    /// Writes the device's bytes, raw or to read.
    ///
    /// # Errors
    /// Those of the output.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.format == Format::Hex {
            return self.hex(bytes);
        }
        self.write(bytes)
    }

    /// Writes bytes to read, whatever the format.
    ///
    /// # Errors
    /// Those of the output.
    pub fn hex(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.text(&hex_dump(bytes))
    }
}

/// Offset, 16 bytes, and what of them is ASCII, per line; runs of zero lines are one `*`.
fn hex_dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut in_run = false;
    let last = bytes.len().saturating_sub(1) / 16;
    for (number, line) in bytes.chunks(16).enumerate() {
        let is_zero = line.iter().all(|byte| *byte == 0);
        if is_zero && in_run && number != last {
            if !out.ends_with("*\n") {
                out.push_str("*\n");
            }
            continue;
        }
        in_run = is_zero;
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let ascii: String = line
            .iter()
            .map(|byte| {
                if byte.is_ascii_graphic() || *byte == b' ' {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        out.push_str(&format!(
            "{:08x}  {:<47}  |{ascii}|\n",
            number * 16,
            hex.join(" ")
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Units;

    #[test]
    fn a_hex_dump_can_be_read() {
        let mut bytes = vec![0u8; 100];
        bytes[..5].copy_from_slice(b"NVMe\x1b");
        assert_eq!(
            hex_dump(&bytes),
            "00000000  4e 56 4d 65 1b 00 00 00 00 00 00 00 00 00 00 00  |NVMe............|\n\
             00000010  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  |................|\n\
             *\n\
             00000060  00 00 00 00                                      |....|\n"
        );
        assert_eq!(hex_dump(&[]), "");
    }

    #[test]
    fn a_format_that_a_command_does_not_have_is_refused() {
        let mut sink = Vec::new();
        let output = Output::new(&mut sink, Format::Hex, Style::plain(Units::Iec));
        assert!(
            output
                .check_format("identify", &[Format::Raw, Format::Hex])
                .is_ok()
        );
        let error = output.check_format("list", &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.text(),
            "error: list cannot be printed as hex\n hint: --output takes table, json here"
        );
    }
}
