//! A tree of bytes in memory, for tests: what a driver would answer, and what one never should.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Access, Errno, Operation, Tree, TreeError, TreeFile};

#[derive(Clone)]
enum Content {
    Bytes(Vec<u8>),
    Endless,
    Fails(Errno),
}

/// A tree whose files are given to it.
#[derive(Default)]
pub struct FakeTree {
    files: BTreeMap<String, Content>,
    written: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
    piece_bytes: Option<usize>,
    interrupts: bool,
    unlistable: bool,
}

impl FakeTree {
    pub fn new() -> Self {
        Self::default()
    }

    /// A file that holds `bytes`.
    pub fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        self.files.insert(path.to_owned(), Content::Bytes(bytes.to_vec()));
        self
    }

    /// A file that never ends.
    pub fn endless_file(mut self, path: &str) -> Self {
        self.files.insert(path.to_owned(), Content::Endless);
        self
    }

    /// A file that cannot be opened.
    pub fn failing_file(mut self, path: &str, errno: Errno) -> Self {
        self.files.insert(path.to_owned(), Content::Fails(errno));
        self
    }

    /// No read returns more than `piece_bytes`.
    pub fn pieces_of(mut self, piece_bytes: usize) -> Self {
        self.piece_bytes = Some(piece_bytes);
        self
    }

    /// Every other read and write fails with EINTR, the first one too.
    pub fn interrupted_every_other_call(mut self) -> Self {
        self.interrupts = true;
        self
    }

    /// No directory can be listed, as where the driver has to ask a device for it that does not answer.
    pub fn unlistable(mut self) -> Self {
        self.unlistable = true;
        self
    }

    /// What was written to the file at `path`, by all who opened it.
    pub fn written(&self, path: &str) -> Vec<u8> {
        self.written.borrow().get(path).cloned().unwrap_or_default()
    }
}

impl Tree for FakeTree {
    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        match self.files.get(path) {
            None => Err(TreeError::new(Operation::Open, path, Errno::ENOENT)),
            Some(Content::Fails(errno)) => Err(TreeError::new(Operation::Open, path, *errno)),
            Some(content) => Ok(Box::new(FakeFile {
                path: path.to_owned(),
                content: content.clone(),
                written: Rc::clone(&self.written),
                writable: access == Access::ReadWrite,
                piece_bytes: self.piece_bytes.unwrap_or(usize::MAX),
                interrupts: self.interrupts,
                calls: 0,
            })),
        }
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        match self.files.get(path) {
            Some(Content::Bytes(bytes)) => Ok(bytes.len() as u64),
            Some(Content::Endless) => Ok(0),
            Some(Content::Fails(errno)) => Err(TreeError::new(Operation::Stat, path, *errno)),
            None => Err(TreeError::new(Operation::Stat, path, Errno::ENOENT)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        if self.unlistable {
            return Err(TreeError::new(Operation::List, path, Errno::ETIMEDOUT));
        }
        let prefix = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        let mut names: Vec<String> = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix(&prefix)?.split('/').next())
            .map(str::to_owned)
            .collect();
        names.dedup();
        if names.is_empty() && !path.is_empty() {
            return Err(TreeError::new(Operation::List, path, Errno::ENOENT));
        }
        Ok(names)
    }
}

struct FakeFile {
    path: String,
    content: Content,
    written: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
    writable: bool,
    piece_bytes: usize,
    interrupts: bool,
    calls: u64,
}

impl FakeFile {
    fn interrupt(&mut self, operation: Operation) -> Result<(), TreeError> {
        self.calls += 1;
        if self.interrupts && self.calls % 2 == 1 {
            return Err(TreeError::new(operation, &self.path, Errno::EINTR));
        }
        Ok(())
    }
}

impl TreeFile for FakeFile {
    fn read_at(&mut self, into: &mut [u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.interrupt(Operation::Read)?;
        let Content::Bytes(bytes) = &self.content else {
            return Ok(into.len());
        };
        let rest = bytes
            .get(usize::try_from(offset_bytes).unwrap()..)
            .unwrap_or_default();
        let count = rest.len().min(into.len()).min(self.piece_bytes);
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&mut self, from: &[u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.interrupt(Operation::Write)?;
        if !self.writable {
            return Ok(0);
        }
        let mut written = self.written.borrow_mut();
        let file = written.entry(self.path.clone()).or_default();
        // Files of jobs take each write as a message and do not look at its offset.
        assert!(
            offset_bytes == 0 || file.len() as u64 == offset_bytes,
            "written without a gap"
        );
        let count = from.len().min(self.piece_bytes);
        file.extend_from_slice(&from[..count]);
        Ok(count)
    }
}
