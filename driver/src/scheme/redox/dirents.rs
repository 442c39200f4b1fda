//! A directory's entries as Redox has them.

use syscall::dirent::{DirEntry, DirentBuf, DirentKind};

use super::super::{Entry, Errno, NodeKind};
use crate::dma::Lent;

/// The most bytes that one call gives: a directory here is much shorter.
const MAX_BYTES: usize = 64 << 10;

/// Puts entries from number `first` on into `memory`, as many as fit; says how many bytes that took.
///
/// # Errors
/// `EINVAL` if not even one fits, or for headers that are too short.
pub(super) fn write(
    entries: &[Entry],
    mut memory: Lent,
    header_bytes: u16,
    first: u64,
) -> Result<usize, Errno> {
    let mut bytes = vec![0; memory.len().min(MAX_BYTES)];
    let mut dirents = DirentBuf::new(bytes.as_mut_slice(), header_bytes).ok_or(Errno::EINVAL)?;
    let skipped = usize::try_from(first).unwrap_or(usize::MAX);
    let mut written = false;
    for (number, entry) in entries.iter().enumerate().skip(skipped) {
        let kind = match entry.kind {
            NodeKind::Directory => DirentKind::Directory,
            NodeKind::File => DirentKind::Regular,
            NodeKind::BlockDevice => DirentKind::BlockDev,
        };
        let dirent = DirEntry {
            inode: 0,
            next_opaque_id: number as u64 + 1,
            name: &entry.name,
            kind,
        };
        match dirents.entry(dirent) {
            Ok(()) => written = true,
            // The rest comes with the next call.
            Err(_) if written => break,
            Err(_) => return Err(Errno::EINVAL),
        }
    }
    let len = dirents.finalize();
    Ok(memory.copy_in(0, bytes.get(..len).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use syscall::dirent::DirentIter;

    use super::*;

    const HEADER_BYTES: u16 = size_of::<syscall::dirent::DirentHeader>() as u16;

    fn entries() -> Vec<Entry> {
        ["controller", "1", "1p1", "2"]
            .into_iter()
            .map(|name| Entry {
                name: name.to_owned(),
                kind: NodeKind::Directory,
            })
            .collect()
    }

    fn listed(len: usize, first: u64) -> Result<(Vec<String>, u64), Errno> {
        let (lent, view) = Lent::leaked(vec![0; len]);
        let written = write(&entries(), lent, HEADER_BYTES, first)?;
        let bytes = view.to_vec();
        let mut names = Vec::new();
        let mut next = first;
        for entry in DirentIter::new(&bytes[..written]) {
            let (header, name) = entry.unwrap();
            // Padded to the next header's alignment.
            let name = name.split(|byte| *byte == 0).next().unwrap();
            names.push(String::from_utf8(name.to_vec()).unwrap());
            next = header.next_opaque_id;
        }
        Ok((names, next))
    }

    #[test]
    fn entries_come_in_as_many_calls_as_it_takes() {
        assert_eq!(listed(4096, 0).unwrap().0, ["controller", "1", "1p1", "2"]);
        let mut names = Vec::new();
        let mut first = 0;
        loop {
            let (some, next) = listed(90, first).unwrap();
            if some.is_empty() {
                break;
            }
            assert!(some.len() < 4);
            names.extend(some);
            first = next;
        }
        assert_eq!(names, ["controller", "1", "1p1", "2"]);
        assert_eq!(listed(4096, u64::MAX).unwrap().0, [""; 0]);
    }

    #[test]
    fn no_room_and_odd_headers_are_refused() {
        assert_eq!(listed(10, 0), Err(Errno::EINVAL));
        assert_eq!(listed(0, 0), Err(Errno::EINVAL));
        for header_bytes in [0, 1, u16::MAX] {
            let (lent, _) = Lent::leaked(vec![0; 4096]);
            assert_eq!(
                write(&entries(), lent, header_bytes, 0),
                Err(Errno::EINVAL),
                "{header_bytes}"
            );
        }
    }
}
