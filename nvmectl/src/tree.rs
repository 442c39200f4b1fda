//! The one way in: file operations on the driver's tree (`1/stats`, `controller/identify`, ...), whoever serves it.
//!
//! [`MountedTree`] reads a tree that a driver's daemon serves, [`Embedded`] one of a driver inside this process. What
//! comes out of a tree is not trusted: how much is read is bounded here, what it says is checked by who decodes it.

use std::io;
use std::path::Path;

use nvme_driver::ring::client::Transport;

use crate::platform;

pub use nvme_driver::scheme::Errno;

mod discovery;
mod embedded;
#[cfg(test)]
pub mod fake;
mod mounted;

pub use discovery::{Discovered, discover};
pub use embedded::Embedded;
pub use mounted::MountedTree;

/// The scheme of a driver that was not told another name.
pub const DEFAULT_SCHEME: &str = "nvme";

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// The driver's paths, relative to the root and without a leading slash.
pub trait Tree {
    /// The name before the colon of this tree's devices, such as `nvme` of `nvme:1`.
    fn scheme(&self) -> &str {
        DEFAULT_SCHEME
    }

    /// Opens the file at `path`. What is closed is closed by dropping the file.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree.
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError>;

    /// The names in the directory at `path`; an empty path is the root. In no particular order.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree.
    fn list(&self, path: &str) -> Result<Vec<String>, TreeError>;

    /// The size in bytes of the file at `path`, which need not be one that this user may open.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree.
    fn size_bytes(&self, path: &str) -> Result<u64, TreeError>;

    /// Opens the file at `path` as the way to a ring.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree; EOPNOTSUPP where there are none.
    fn ring(&self, path: &str) -> Result<Box<dyn Transport>, TreeError> {
        Err(TreeError::new(Operation::Open, path, Errno::EOPNOTSUPP))
    }
}

/// An open file of the tree.
pub trait TreeFile {
    /// Reads at most `into.len()` bytes at `offset_bytes`; 0 means the end.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree.
    fn read_at(&mut self, into: &mut [u8], offset_bytes: u64) -> Result<usize, TreeError>;

    /// Writes at most `from.len()` bytes at `offset_bytes`; returns how many were taken.
    ///
    /// # Errors
    /// [`TreeError`] with the errno of whoever serves the tree.
    fn write_at(&mut self, from: &[u8], offset_bytes: u64) -> Result<usize, TreeError>;
}

/// What was being done when a [`TreeError`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Looking at a file without opening it.
    Stat,
    /// Opening a file.
    Open,
    /// Listing a directory.
    List,
    /// Reading.
    Read,
    /// Writing.
    Write,
}

impl Operation {
    /// The verb for messages.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Stat => "look at",
            Self::Open => "open",
            Self::List => "list",
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A file operation that failed: which, where and with which errno.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {} {}:{path}: {}", operation.verb(), scheme.as_deref().unwrap_or(DEFAULT_SCHEME), describe(*errno))]
pub struct TreeError {
    /// What was being done.
    pub operation: Operation,
    /// In whose tree; None: in the only one, `nvme`.
    pub scheme: Option<String>,
    /// Where, relative to the root.
    pub path: String,
    /// The error number of whoever serves the tree.
    pub errno: Errno,
}

impl TreeError {
    /// An error of `operation` on `path`.
    pub fn new(operation: Operation, path: &str, errno: Errno) -> Self {
        Self {
            operation,
            scheme: None,
            path: path.to_owned(),
            errno,
        }
    }

    /// The same for an [`io::Error`]; one without an errno counts as EIO.
    pub fn of_io(operation: Operation, path: &str, error: &io::Error) -> Self {
        Self::new(operation, path, error.raw_os_error().map_or(Errno::EIO, Errno))
    }
}

/// The driver's words for an errno where it has some, else the operating system's.
fn describe(errno: Errno) -> String {
    match errno.name() {
        Some(_) => errno.to_string(),
        None => io::Error::from_raw_os_error(errno.0).to_string(),
    }
}

/// File too large: more came than a document may have.
const EFBIG: Errno = Errno(27);

/// Most bytes any document of the tree can have: the statistics of 65,535 queues do not come near it.
pub const DOCUMENT_MAX_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 64 << 10;

/// Reads all of the document at `path`.
///
/// # Errors
/// [`TreeError`]; EFBIG when it does not end within 64 MiB.
pub fn read_document(tree: &dyn Tree, path: &str) -> Result<Vec<u8>, TreeError> {
    let mut file = tree.open(path, Access::Read)?;
    let mut document = Vec::new();
    let mut piece = vec![0; PIECE_BYTES];
    while document.len() < DOCUMENT_MAX_BYTES {
        let count = read_some(file.as_mut(), &mut piece, document.len() as u64)?;
        if count == 0 {
            log::debug!("read {} bytes of nvme:{path}", document.len());
            return Ok(document);
        }
        document.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    Err(TreeError::new(Operation::Read, path, EFBIG))
}

/// One read that is tried again when a signal interrupts it. Never reports more than `into` holds.
pub fn read_some(file: &mut dyn TreeFile, into: &mut [u8], offset_bytes: u64) -> Result<usize, TreeError> {
    loop {
        match file.read_at(into, offset_bytes) {
            Err(error) if error.errno == Errno::EINTR => {}
            other => return other.map(|count| count.min(into.len())),
        }
    }
}

/// Writes all of `from` at the start of the file.
///
/// # Errors
/// [`TreeError`]; EIO when the file takes nothing more.
pub fn write_all(file: &mut dyn TreeFile, path: &str, from: &[u8]) -> Result<(), TreeError> {
    let mut written = 0;
    while let Some(rest) = from.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, written as u64) {
            Ok(0) => return Err(TreeError::new(Operation::Write, path, Errno::EIO)),
            Ok(count) => written += count,
            Err(error) if error.errno == Errno::EINTR => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the daemons of drivers serve their trees when nothing else is said: each in a folder with its scheme's name.
pub fn default_root() -> &'static Path {
    Path::new(platform::HERE.default_root)
}

#[cfg(test)]
mod tests {
    use super::fake::FakeTree;
    use super::*;

    #[test]
    fn a_document_is_read_whole_in_whatever_pieces_it_comes() {
        let document: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        for piece_bytes in [1, 4095, PIECE_BYTES, 1 << 20] {
            let tree = FakeTree::new().file("1/stats", &document).pieces_of(piece_bytes);
            assert!(
                read_document(&tree, "1/stats").unwrap() == document,
                "{piece_bytes}"
            );
        }
    }

    #[test]
    fn a_document_without_an_end_is_given_up() {
        let tree = FakeTree::new().endless_file("1/stats");
        assert_eq!(read_document(&tree, "1/stats").unwrap_err().errno, EFBIG);
    }

    #[test]
    fn interrupted_calls_are_tried_again() {
        let tree = FakeTree::new()
            .file("1/stats", b"{}")
            .interrupted_every_other_call();
        assert_eq!(read_document(&tree, "1/stats").unwrap(), b"{}");
        let mut file = tree.open("1/stats", Access::ReadWrite).unwrap();
        write_all(file.as_mut(), "1/stats", &[7; 100]).unwrap();
        assert_eq!(tree.written("1/stats"), vec![7; 100]);
    }

    #[test]
    fn a_file_that_takes_nothing_is_an_error() {
        let tree = FakeTree::new().file("1/bench", b"");
        let mut file = tree.open("1/bench", Access::Read).unwrap();
        assert_eq!(
            write_all(file.as_mut(), "1/bench", b"job").unwrap_err().errno,
            Errno::EIO
        );
    }

    #[test]
    fn errors_say_what_and_why() {
        let error = TreeError::new(Operation::Open, "3/stats", Errno::ENOENT);
        assert_eq!(
            error.to_string(),
            "cannot open nvme:3/stats: no such file or directory (ENOENT)"
        );
        let unknown = TreeError::new(Operation::Read, "1/stats", Errno(38)).to_string();
        assert!(unknown.ends_with("(os error 38)"), "{unknown}");
    }
}
