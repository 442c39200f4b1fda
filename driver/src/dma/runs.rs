//! Which bytes of a piece of memory are free.

use std::collections::BTreeMap;

/// The free runs of one piece of memory, as offsets and lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    /// Offset to length; neighbours are always merged.
    free: BTreeMap<usize, usize>,
}

impl Runs {
    /// All of `len` bytes are free.
    pub(crate) fn all(len: usize) -> Self {
        Self {
            free: BTreeMap::from([(0, len)]),
        }
    }

    /// Takes `len` bytes in one piece, the first that there are; says where.
    pub(crate) fn take(&mut self, len: usize) -> Option<usize> {
        let (&offset, &free) = self.free.iter().find(|(_, free)| **free >= len)?;
        self.free.remove(&offset);
        if free > len {
            self.free.insert(offset + len, free - len);
        }
        Some(offset)
    }

    /// Gives `len` bytes at `offset` back, which were taken.
    pub(crate) fn give_back(&mut self, mut offset: usize, mut len: usize) {
        if let Some((&before, &before_len)) = self.free.range(..offset).next_back()
            && before + before_len == offset
        {
            self.free.remove(&before);
            offset = before;
            len += before_len;
        }
        if let Some(after_len) = self.free.remove(&(offset + len)) {
            len += after_len;
        }
        self.free.insert(offset, len);
    }
}
