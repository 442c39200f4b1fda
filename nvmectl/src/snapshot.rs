//! Reading the driver's statistics document.

use stats_proto::stats::StatsDocument;

use crate::error::Error;
use crate::tree::{Tree, read_document};

/// The path of the statistics: of namespace `nsid`, or of the whole controller.
pub fn path(nsid: Option<u32>, light: bool) -> String {
    let owner = nsid.map_or_else(|| "controller".to_owned(), |nsid| nsid.to_string());
    format!("{owner}/stats{}", if light { "?light" } else { "" })
}

/// The statistics at `path`, as text and understood.
///
/// # Errors
/// What reading gives, and malformed for a document of another shape.
pub fn read(tree: &dyn Tree, path: &str) -> Result<(String, StatsDocument), Error> {
    let text =
        String::from_utf8(read_document(tree, path)?).map_err(|error| Error::malformed(path, error))?;
    let document = serde_json::from_str(&text).map_err(|error| Error::malformed(path, error))?;
    Ok((text, document))
}

/// The controller's statistics without histograms.
///
/// # Errors
/// As [`read`].
pub fn read_light(tree: &dyn Tree) -> Result<StatsDocument, Error> {
    read(tree, &path(None, true)).map(|(_, document)| document)
}
