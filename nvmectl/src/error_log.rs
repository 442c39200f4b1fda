//! `error-log`: the device's last errors.

use nvme_spec::log::{ErrorLogEntry, SmartLog};
use serde::Serialize;
use stats_proto::big_int::big_u64;
use zerocopy::FromBytes;

use crate::args::Format;
use crate::error::Error;
use crate::output::Output;
use crate::style::Align;
use crate::tree::{Tree, read_document};
use crate::values::{Wide, reported};

/// The path of the log.
pub const PATH: &str = "controller/log/error";

/// Prints the Error Information log, newest error first.
///
/// # Errors
/// What reading it gives.
pub fn run(tree: &dyn Tree, output: &mut Output) -> Result<(), Error> {
    output.check_format("error-log", &[Format::Raw, Format::Hex])?;
    let bytes = read_document(tree, PATH)?;
    if matches!(output.format, Format::Raw | Format::Hex) {
        return output.bytes(&bytes);
    }
    let log = <[ErrorLogEntry]>::ref_from_bytes(&bytes).map_err(|_| {
        Error::malformed(
            PATH,
            format!("its {} bytes are no whole number of entries of 64", bytes.len()),
        )
    })?;
    // How many errors there ever were is in another log. It explains an empty one, and may be missing.
    let smart = read_document(tree, "controller/log/smart").ok();
    let ever = smart
        .and_then(|bytes| SmartLog::read_from_bytes(&bytes).ok())
        .map(|log| log.num_err_log_entries.get());
    let document = ErrorLogDocument::new(tree.scheme(), log, ever);
    match output.format {
        Format::Json => output.json(&document),
        _ => {
            let text = document.text(output);
            output.text(&text)
        }
    }
}

/// The Error Information log (Base 2.0, section 5.16.1.2): the entries that hold an error, newest first.
#[derive(Debug, Serialize)]
pub struct ErrorLogDocument {
    schema: &'static str,
    version: &'static str,
    device: String,
    /// How many entries the log has room for.
    capacity_entries: usize,
    /// Errors over the device's life (SMART); null if it does not say.
    errors_ever: Option<Wide>,
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    #[serde(with = "big_u64")]
    error_count: u64,
    /// Null for an error that belongs to no command.
    queue: Option<u16>,
    command_id: Option<u16>,
    status: String,
    status_code_type: u8,
    status_code: u8,
    do_not_retry: bool,
    /// Byte and bit of the command that was wrong; null where none was.
    parameter_byte: Option<u8>,
    parameter_bit: Option<u8>,
    nsid: Option<u32>,
    #[serde(with = "big_u64")]
    lba: u64,
    vendor_log_page: Option<u8>,
    #[serde(with = "big_u64")]
    command_specific: u64,
}

impl ErrorLogDocument {
    /// The document of a log, of the controller behind `scheme`. `ever` is how many errors there were over the device's life.
    pub fn new(scheme: &str, log: &[ErrorLogEntry], ever: Option<u128>) -> Self {
        Self {
            schema: "nvmectl-error-log",
            version: "1.0",
            device: format!("{scheme}:controller"),
            capacity_entries: log.len(),
            errors_ever: ever.map(Wide),
            entries: log
                .iter()
                .filter(|entry| entry.is_used())
                .map(Entry::new)
                .collect(),
        }
    }

    fn text(&self, output: &Output) -> String {
        if self.entries.is_empty() {
            return match self.errors_ever {
                Some(Wide(ever)) if ever > 0 => format!(
                    "no errors in the log; there were {ever} over the device's life, and it keeps none of them\n"
                ),
                _ => "no errors\n".to_owned(),
            };
        }
        let mut table = output.style.table(&[
            ("ERROR", Align::Right),
            ("QUEUE", Align::Right),
            ("CID", Align::Right),
            ("NSID", Align::Right),
            ("LBA", Align::Right),
            ("STATUS", Align::Left),
            ("PARAMETER", Align::Left),
        ]);
        for entry in &self.entries {
            table.row([
                entry.error_count.to_string(),
                or_dash(entry.queue),
                or_dash(entry.command_id),
                or_dash(entry.nsid),
                entry.lba.to_string(),
                entry.status.clone(),
                match (entry.parameter_byte, entry.parameter_bit) {
                    (Some(byte), Some(bit)) => format!("byte {byte} bit {bit}"),
                    _ => "-".to_owned(),
                },
            ]);
        }
        table.lines(0)
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

impl Entry {
    fn new(entry: &ErrorLogEntry) -> Self {
        const NO_COMMAND: u16 = u16::MAX;
        let status = entry.status();
        let location = entry.parameter_error_location.get();
        let parameter = (location != u16::MAX).then_some(location);
        Self {
            error_count: entry.error_count.get(),
            queue: Some(entry.sqid.get()).filter(|sqid| *sqid != NO_COMMAND),
            command_id: Some(entry.cid.get()).filter(|cid| *cid != NO_COMMAND),
            status: status.to_string(),
            status_code_type: status.sct(),
            status_code: status.sc(),
            do_not_retry: status.dnr(),
            parameter_byte: parameter.map(|location| location.to_le_bytes()[0]),
            parameter_bit: parameter.map(|location| location.to_le_bytes()[1] & 0b111),
            nsid: reported(entry.nsid.get()),
            lba: entry.lba.get(),
            vendor_log_page: reported(entry.vendor_log_page),
            command_specific: entry.command_specific.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::Status;
    use proptest::prelude::*;
    use serde_json::json;
    use zerocopy::IntoBytes;

    use super::*;
    use crate::style::Style;
    use crate::tree::fake::FakeTree;
    use crate::units::Units;

    fn sample() -> [ErrorLogEntry; 3] {
        let mut log = [ErrorLogEntry::default(); 3];
        log[0].error_count.set(12);
        log[0].sqid.set(1);
        log[0].cid.set(0x105);
        log[0]
            .status_phase
            .set(Status::LBA_OUT_OF_RANGE.with_dnr(true).0 << 1);
        log[0].parameter_error_location.set(u16::MAX);
        log[0].lba.set(1 << 60);
        log[0].nsid.set(1);
        log[1].error_count.set(11);
        log[1].sqid.set(u16::MAX);
        log[1].cid.set(u16::MAX);
        log[1].status_phase.set(Status::INVALID_FIELD.0 << 1 | 1);
        log[1].parameter_error_location.set(3 << 8 | 40);
        log
    }

    fn printed(tree: &FakeTree, format: Format) -> Result<String, Error> {
        let mut out = Vec::new();
        run(tree, &mut Output::new(&mut out, format, Style::plain(Units::Iec)))?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn entries_are_decoded_and_unused_ones_left_out() {
        let tree = FakeTree::new().file(PATH, sample().as_bytes());
        let document: serde_json::Value =
            serde_json::from_str(&printed(&tree, Format::Json).unwrap()).unwrap();
        assert_eq!(document["capacity_entries"], 3);
        assert_eq!(document["errors_ever"], json!(null));
        assert_eq!(document["entries"].as_array().unwrap().len(), 2);
        assert_eq!(
            document["entries"][0]["status"],
            Status::LBA_OUT_OF_RANGE.with_dnr(true).to_string()
        );
        assert_eq!(document["entries"][0]["lba"], "1152921504606846976");
        assert_eq!(document["entries"][0]["do_not_retry"], true);
        assert_eq!(document["entries"][0]["parameter_byte"], json!(null));
        assert_eq!(document["entries"][1]["queue"], json!(null));
        assert_eq!(document["entries"][1]["parameter_byte"], 40);
        assert_eq!(document["entries"][1]["parameter_bit"], 3);
    }

    #[test]
    fn the_table_has_a_line_per_error() {
        let tree = FakeTree::new().file(PATH, sample().as_bytes());
        let text = printed(&tree, Format::Table).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .contains(&Status::LBA_OUT_OF_RANGE.with_dnr(true).to_string()),
            "{text}"
        );
        assert!(text.lines().nth(2).unwrap().ends_with("byte 40 bit 3"), "{text}");
    }

    #[test]
    fn an_empty_log_of_a_device_with_errors_is_explained() {
        let mut smart = SmartLog::default();
        let tree = |smart: &SmartLog| {
            FakeTree::new()
                .file(PATH, &[0; 128])
                .file("controller/log/smart", smart.as_bytes())
        };
        assert_eq!(printed(&tree(&smart), Format::Table).unwrap(), "no errors\n");
        smart.num_err_log_entries.set(7);
        assert!(
            printed(&tree(&smart), Format::Table)
                .unwrap()
                .contains("there were 7 over the device's life")
        );
    }

    #[test]
    fn part_of_an_entry_is_malformed() {
        let error = printed(&FakeTree::new().file(PATH, &[0; 65]), Format::Table).unwrap_err();
        assert_eq!((error.name(), error.exit_code()), ("malformed", 1));
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_document(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let tree = FakeTree::new().file(PATH, &bytes);
            prop_assert_eq!(printed(&tree, Format::Table).is_ok(), bytes.len() % 64 == 0);
        }
    }
}
