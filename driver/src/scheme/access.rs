//! Who may open what: the table is in [the module's docs](super#access).

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::errno::Errno;
use super::lock;
use super::partitions::Partition;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Effective user; 0 may do everything.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Caller {
    /// A user without supplementary groups.
    pub const fn new(uid: u32, gid: u32, pid: u32) -> Self {
        Self {
            uid,
            gid,
            pid,
            groups: Vec::new(),
        }
    }

    /// uid 0 in group 0, as process `pid`.
    pub const fn root(pid: u32) -> Self {
        Self::new(0, 0, pid)
    }

    fn is_in(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// Mode, owner and group of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// The nine permission bits. Those to execute mean nothing.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Default for Ownership {
    /// 0600 of 0:0: the disk is uid 0's.
    fn default() -> Self {
        Self::fixed(0o600)
    }
}

impl Ownership {
    const fn fixed(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }

    const fn changed(self, change: Permissions) -> Self {
        Self {
            mode: match change.mode {
                Some(mode) => mode & PERMISSION_BITS,
                None => self.mode,
            },
            uid: match change.uid {
                Some(uid) => uid,
                None => self.uid,
            },
            gid: match change.gid {
                Some(gid) => gid,
                None => self.gid,
            },
        }
    }

    /// The bits that hold for `caller`, 0o4 to read and 0o2 to write: the owner's, else the group's, else
    /// those of all others.
    fn bits_for(self, caller: &Caller) -> u16 {
        let shift = if caller.uid == self.uid {
            6
        } else if caller.is_in(self.gid) {
            3
        } else {
            0
        };
        self.mode >> shift & 0o7
    }
}

/// What is kept of a mode.
const PERMISSION_BITS: u16 = 0o777;

/// What to change of a node's mode, owner and group; `None` leaves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The new mode. Bits other than the nine of permission (0o777) are left out.
    pub mode: Option<u16>,
    /// The new owner.
    pub uid: Option<u32>,
    /// The new group.
    pub gid: Option<u32>,
}

/// Whose the block devices are.
pub(crate) struct Owners {
    /// Of a device that nobody has changed.
    initial: Ownership,
    changed: Mutex<BTreeMap<Node, Changed>>,
}

/// What somebody has made of a device's rights.
struct Changed {
    ownership: Ownership,
    /// Of a partition: where it was then. A number that means other blocks now is another device, whose data
    /// may be somebody else's.
    partition: Option<Partition>,
}

impl Owners {
    pub(crate) const fn new(initial: Ownership) -> Self {
        Self {
            initial: initial.changed(Permissions {
                mode: Some(initial.mode),
                uid: None,
                gid: None,
            }),
            changed: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whose `node` is, and what they may do with it. Of a partition, `partition` is where it is.
    pub(crate) fn of(&self, node: Node, partition: Option<Partition>) -> Ownership {
        let node = node.whose_rights();
        match node {
            Node::Root | Node::Controller | Node::Logs | Node::Namespace(_) | Node::PartitionDirectory(_) => {
                Ownership::fixed(0o555)
            }
            #[cfg(feature = "nvme-mi")]
            Node::Management => Ownership::fixed(0o555),
            #[cfg(feature = "nvme-mi")]
            Node::ManagementRequest => Ownership::fixed(0o600),
            Node::Document(_) | Node::Events => Ownership::fixed(0o444),
            Node::Scheduler => Ownership::fixed(0o644),
            Node::Data(_) | Node::Partition(_) => {
                let changed = lock(&self.changed);
                let same = changed
                    .get(&node)
                    .filter(|changed| changed.partition == partition);
                same.map_or(self.initial, |changed| changed.ownership)
            }
            Node::Admin | Node::Bench(_) | Node::Io(_) => Ownership::fixed(0o600),
            // Those of another, as was seen above.
            #[cfg(feature = "io-uring-compat")]
            Node::Ring(_) => Ownership::fixed(0),
        }
    }

    /// Changes whose `node` is, which exists.
    ///
    /// # Errors
    /// `EPERM` for anyone but uid 0, and for what is no block device.
    pub(crate) fn change(
        &self,
        node: Node,
        partition: Option<Partition>,
        caller: &Caller,
        change: Permissions,
    ) -> Result<(), Errno> {
        if caller.uid != 0 || !node.is_block_device() {
            return Err(Errno::EPERM);
        }
        let ownership = self.of(node, partition).changed(change);
        let changed = Changed { ownership, partition };
        lock(&self.changed).insert(node, changed);
        Ok(())
    }

    /// The namespace's table says that `node` is `partition`: what was made of its rights when it was
    /// elsewhere is forgotten for good.
    pub(crate) fn found(&self, node: Node, partition: Partition) {
        lock(&self.changed).retain(|known, changed| *known != node || changed.partition == Some(partition));
    }

    /// Whether `caller` may open `node` with `flags`.
    ///
    /// # Errors
    /// `EISDIR` for a directory to be written, `EACCES` for all else, also for uid 0 where nobody can write.
    pub(crate) fn check(
        &self,
        node: Node,
        partition: Option<Partition>,
        flags: OpenFlags,
        caller: &Caller,
    ) -> Result<(), Errno> {
        if node.is_directory() && flags.write {
            return Err(Errno::EISDIR);
        }
        let bits = match caller.uid {
            0 if node.whose_rights().is_block_device() => 0o6,
            // Fixed, and root's: whoever else is in group 0 has no more rights than others.
            _ => self.of(node, partition).bits_for(caller),
        };
        let (readable, writable) = (bits & 0o4 != 0, bits & 0o2 != 0);
        // To look at a node, as with `Call::Lookup`, everybody may.
        if flags.read && !readable || flags.write && !writable {
            Err(Errno::EACCES)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::DocumentKind;
    use super::*;

    const ROOT: Caller = Caller::root(1);
    const USER: Caller = Caller::new(1000, 0, 2);
    const STATS: Node = Node::Document(DocumentKind::Stats {
        nsid: None,
        histograms: true,
    });

    fn owners() -> Owners {
        Owners::new(Ownership::default())
    }

    #[test]
    fn documents_and_directories_are_for_anyone_to_read() {
        let owners = owners();
        for node in [
            Node::Root,
            Node::Controller,
            Node::Logs,
            Node::Namespace(1),
            STATS,
        ] {
            assert_eq!(owners.check(node, None, OpenFlags::READ, &USER), Ok(()));
        }
        assert_eq!(
            owners.check(STATS, None, OpenFlags::READ_WRITE, &ROOT),
            Err(Errno::EACCES)
        );
        assert_eq!(
            owners.check(Node::Root, None, OpenFlags::WRITE, &ROOT),
            Err(Errno::EISDIR)
        );
    }

    const ALL_FLAGS: [OpenFlags; 4] = [
        OpenFlags::READ,
        OpenFlags::WRITE,
        OpenFlags::READ_WRITE,
        OpenFlags {
            read: false,
            write: false,
            directory: false,
        },
    ];

    #[test]
    fn what_touches_the_disk_is_for_uid_0_whatever_the_flags() {
        let owners = owners();
        for node in [Node::Data(1), Node::Admin, Node::Bench(1)] {
            for flags in ALL_FLAGS {
                assert_eq!(owners.check(node, None, flags, &ROOT), Ok(()));
                let looks = !flags.read && !flags.write;
                assert_eq!(
                    owners.check(node, None, flags, &USER),
                    if looks { Ok(()) } else { Err(Errno::EACCES) },
                    "{node:?} {flags:?}"
                );
            }
        }
    }

    #[test]
    fn a_block_device_is_its_owners_its_groups_or_everybodys() {
        let owners = owners();
        let change = Permissions {
            mode: Some(0o640),
            uid: Some(1000),
            gid: Some(6),
        };
        assert_eq!(owners.change(Node::Data(1), None, &ROOT, change), Ok(()));
        let in_group = Caller {
            groups: vec![5, 6],
            ..Caller::new(1001, 100, 3)
        };
        let can = |caller: &Caller| {
            [OpenFlags::READ, OpenFlags::WRITE]
                .map(|flags| owners.check(Node::Data(1), None, flags, caller).is_ok())
        };
        assert_eq!(can(&USER), [true, true], "the owner");
        assert_eq!(can(&Caller::new(1001, 6, 3)), [true, false], "in its group");
        assert_eq!(can(&in_group), [true, false], "by a supplementary group");
        assert_eq!(can(&Caller::new(1001, 100, 3)), [false, false], "anyone else");
        assert_eq!(can(&ROOT), [true, true]);
        assert_eq!(
            owners.check(Node::Data(2), None, OpenFlags::READ, &USER),
            Err(Errno::EACCES),
            "another device"
        );
        // The owner's bits are the owner's, also where the group has more.
        let change = Permissions {
            mode: Some(0o100_066),
            ..Default::default()
        };
        assert_eq!(owners.change(Node::Data(1), None, &ROOT, change), Ok(()));
        assert_eq!(
            owners.of(Node::Data(1), None),
            Ownership {
                mode: 0o066,
                uid: 1000,
                gid: 6
            }
        );
        assert_eq!(can(&USER), [false, false]);
        assert_eq!(can(&in_group), [true, true]);
        assert_eq!(can(&ROOT), [true, true], "whatever the mode");
    }

    #[test]
    fn only_uid_0_changes_and_only_block_devices() {
        let owners = owners();
        let change = Permissions {
            mode: Some(0o666),
            ..Default::default()
        };
        assert_eq!(
            owners.change(Node::Data(1), None, &USER, change),
            Err(Errno::EPERM)
        );
        for node in [Node::Admin, Node::Bench(1), STATS, Node::Root, Node::Namespace(1)] {
            assert_eq!(
                owners.change(node, None, &ROOT, change),
                Err(Errno::EPERM),
                "{node:?}"
            );
        }
        assert_eq!(owners.of(Node::Data(1), None), Ownership::default());
        assert_eq!(
            Owners::new(Ownership {
                mode: 0o7660,
                uid: 3,
                gid: 4
            })
            .of(Node::Data(9), None),
            Ownership {
                mode: 0o660,
                uid: 3,
                gid: 4
            }
        );
    }
}
