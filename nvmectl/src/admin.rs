//! One admin command through the driver's `controller/admin`, which is root's.

use nvme_spec::{CompletionEntry, SubmissionEntry};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::Error;
use crate::tree::{Access, Tree, read_some, write_all};

/// The transaction file.
pub const PATH: &str = "controller/admin";
const COMPLETION_BYTES: usize = 16;

/// Sends `entry` with `data`, or has at most `expected_bytes` come back; whatever its status, the completion and what came.
///
/// # Errors
/// The driver's refusal, and an answer that is none.
pub fn send(
    tree: &dyn Tree,
    entry: SubmissionEntry,
    data: &[u8],
    expected_bytes: u16,
) -> Result<(CompletionEntry, Vec<u8>), Error> {
    // In this file PRP1 is how much is expected.
    let entry = SubmissionEntry {
        prp1: expected_bytes.into(),
        ..entry
    };
    let mut file = tree.open(PATH, Access::ReadWrite)?;
    write_all(file.as_mut(), PATH, &[entry.as_bytes(), data].concat())?;
    let mut answer = vec![0; COMPLETION_BYTES + usize::from(expected_bytes)];
    let mut len = 0;
    while let Some(rest) = answer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match read_some(file.as_mut(), rest, len as u64)? {
            0 => break,
            count => len += count,
        }
    }
    answer.truncate(len);
    let (completion, data) = CompletionEntry::read_from_prefix(&answer).map_err(|_| {
        Error::malformed(
            PATH,
            format!("the answer has {len} bytes instead of {COMPLETION_BYTES}"),
        )
    })?;
    Ok((completion, data.to_vec()))
}
