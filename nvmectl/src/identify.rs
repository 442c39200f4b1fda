//! `identify`: what a controller or a namespace says about itself.

mod controller;
mod namespace;

use nvme_spec::identify::{IDENTIFY_BYTES, IdentifyController, IdentifyNamespace};
use zerocopy::FromBytes;

pub use controller::ControllerDocument;
pub use namespace::NamespaceDocument;

use crate::args::Format;
use crate::device::{self, DeviceName};
use crate::error::Error;
use crate::output::Output;
use crate::snapshot;
use crate::tree::{Tree, read_document};
use crate::view;

/// What to identify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The controller.
    Controller,
    /// This namespace, or the only one.
    Namespace(Option<DeviceName>),
}

/// Prints what `subject` says about itself.
///
/// # Errors
/// What reading it gives, and usage where the namespace is not clear.
pub fn run(tree: &dyn Tree, subject: Subject, output: &mut Output) -> Result<(), Error> {
    output.check_format("identify", &[Format::Raw, Format::Hex])?;
    match subject {
        Subject::Controller => {
            let path = "controller/identify";
            let bytes = read_document(tree, path)?;
            if matches!(output.format, Format::Raw | Format::Hex) {
                return output.bytes(&bytes);
            }
            let identify: IdentifyController = decode(&bytes, path)?;
            // MDTS counts in pages of a size that only the driver knows; without its word the field stays unknown.
            let mdts_bytes = snapshot::read_light(tree)
                .ok()
                .and_then(|stats| stats.controller.mdts_bytes);
            let document = ControllerDocument::new(tree.scheme(), &identify, mdts_bytes);
            show(&document, controller::HEX, output)
        }
        Subject::Namespace(asked) => {
            let nsid = device::one_namespace(tree, asked, "identify")?;
            let path = format!("{nsid}/identify");
            let bytes = read_document(tree, &path)?;
            if matches!(output.format, Format::Raw | Format::Hex) {
                return output.bytes(&bytes);
            }
            let identify: IdentifyNamespace = decode(&bytes, &path)?;
            show(
                &NamespaceDocument::new(tree.scheme(), nsid, &identify),
                namespace::HEX,
                output,
            )
        }
    }
}

fn show(document: &impl serde::Serialize, hex: &[&str], output: &mut Output) -> Result<(), Error> {
    if output.format == Format::Json {
        return output.json(document);
    }
    let text = view::render(document, hex, &output.style);
    output.text(&text)
}

/// One of the 4096-byte structures of Identify.
///
/// # Errors
/// Malformed, when there are fewer or more bytes.
pub fn decode<T: FromBytes>(bytes: &[u8], path: &str) -> Result<T, Error> {
    T::read_from_bytes(bytes).map_err(|_| {
        Error::malformed(
            path,
            format!("it has {} bytes instead of {IDENTIFY_BYTES}", bytes.len()),
        )
    })
}
