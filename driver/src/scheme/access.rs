//! Who may open what.
//!
//! | node | mode | who |
//! | --- | --- | --- |
//! | directories | 0555 | anyone, to list |
//! | `identify`, `stats`, `log/...` | 0444 | anyone, to read: they change nothing and show no data |
//! | `N`, `N/data` | 0600 | uid 0: it is the disk itself |
//! | `controller/admin` | 0600 | uid 0: it can erase the disk |
//! | `N/bench` | 0600 | uid 0: it loads the disk, and may overwrite it |

use super::errno::Errno;
use super::path::Node;

/// What a handle is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenFlags {
    /// To read.
    pub read: bool,
    /// To write.
    pub write: bool,
    /// Only if it is a directory (`O_DIRECTORY`); also makes `N` the directory and not the block device.
    pub directory: bool,
}

impl OpenFlags {
    /// To read only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        directory: false,
    };
    /// To write only.
    pub const WRITE: Self = Self {
        read: false,
        write: true,
        directory: false,
    };
    /// To read and write.
    pub const READ_WRITE: Self = Self {
        read: true,
        write: true,
        directory: false,
    };
    /// To list a directory.
    pub const DIRECTORY: Self = Self {
        read: true,
        write: false,
        directory: true,
    };
}

/// Who opens, as the operating system vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user; 0 may do everything.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
}

/// The permission bits of `node`.
pub(crate) const fn mode(node: Node) -> u16 {
    match node {
        Node::Root | Node::Controller | Node::Logs | Node::Namespace(_) => 0o555,
        Node::Document(_) => 0o444,
        Node::Data(_) | Node::Admin | Node::Bench(_) => 0o600,
    }
}

/// Whether `caller` may open `node` with `flags`.
///
/// # Errors
/// `EISDIR` for a directory to be written, `EACCES` for all else, also for uid 0 where nobody can write.
pub(crate) fn check(node: Node, flags: OpenFlags, caller: Caller) -> Result<(), Errno> {
    if node.is_directory() && flags.write {
        return Err(Errno::EISDIR);
    }
    let mode = mode(node);
    let owner = caller.uid == 0;
    let readable = mode & 0o004 != 0 || owner && mode & 0o400 != 0;
    let writable = owner && mode & 0o200 != 0;
    if flags.read && !readable || flags.write && !writable || !readable && !owner {
        Err(Errno::EACCES)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::DocumentKind;
    use super::*;

    const ROOT: Caller = Caller {
        uid: 0,
        gid: 0,
        pid: 1,
    };
    const USER: Caller = Caller {
        uid: 1000,
        gid: 0,
        pid: 2,
    };
    const STATS: Node = Node::Document(DocumentKind::Stats {
        nsid: None,
        histograms: true,
    });

    #[test]
    fn documents_and_directories_are_for_anyone_to_read() {
        for node in [
            Node::Root,
            Node::Controller,
            Node::Logs,
            Node::Namespace(1),
            STATS,
        ] {
            assert_eq!(check(node, OpenFlags::READ, USER), Ok(()));
        }
        assert_eq!(check(STATS, OpenFlags::READ_WRITE, ROOT), Err(Errno::EACCES));
        assert_eq!(check(Node::Root, OpenFlags::WRITE, ROOT), Err(Errno::EISDIR));
    }

    #[test]
    fn what_touches_the_disk_is_for_uid_0_whatever_the_flags() {
        for node in [Node::Data(1), Node::Admin, Node::Bench(1)] {
            for flags in [
                OpenFlags::READ,
                OpenFlags::WRITE,
                OpenFlags::READ_WRITE,
                OpenFlags::default(),
            ] {
                assert_eq!(check(node, flags, ROOT), Ok(()));
                assert_eq!(check(node, flags, USER), Err(Errno::EACCES), "{node:?} {flags:?}");
            }
        }
    }
}
