//! The path tree: from the text that a client opens to the node it means.

use super::errno::Errno;
use super::query::parse_class;
use super::service::Class;

/// Longest path taken, in bytes.
const MAX_PATH_BYTES: usize = 1024;

/// A place in the tree. Whether the namespace of a node exists is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// `/`
    Root,
    /// `controller/`
    Controller,
    /// `controller/log/`
    Logs,
    /// `N/`
    Namespace(u32),
    /// `N` or `N/data`
    Data(u32),
    /// `NpM/`
    PartitionDirectory(PartitionId),
    /// `NpM` or `NpM/data`
    Partition(PartitionId),
    /// A file that is rendered when it is read.
    Document(DocumentKind),
    /// `controller/admin`
    Admin,
    /// `controller/mi/`
    #[cfg(feature = "nvme-mi")]
    Management,
    /// `controller/mi/request`
    #[cfg(feature = "nvme-mi")]
    ManagementRequest,
    /// `N/bench`
    Bench(u32),
    /// `N/io`
    Io(u32),
    /// `N/ring`
    #[cfg(feature = "io-uring-compat")]
    Ring(u32),
    /// `controller/events`; with `?now` it is a document.
    Events,
    /// `controller/scheduler`
    Scheduler,
}

/// A partition's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PartitionId {
    pub(crate) nsid: u32,
    /// From 1.
    pub(crate) number: u32,
}

/// What a document shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DocumentKind {
    /// `controller/identify`
    IdentifyController,
    /// `N/identify`
    IdentifyNamespace(u32),
    /// `controller/stats` (`nsid` is `None`) and `N/stats`; with `?light` without histograms.
    Stats { nsid: Option<u32>, histograms: bool },
    /// `controller/slow`
    Slow,
    /// `controller/events?now`
    EventsNow,
    /// `controller/log/...`
    Log(LogPage),
    /// `controller/mi/...`
    #[cfg(feature = "nvme-mi")]
    Management(ManagementPage),
}

/// What can be read of the management interface.
#[cfg(feature = "nvme-mi")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ManagementPage {
    Health,
    Controllers,
    Config,
    Vpd,
}

#[cfg(feature = "nvme-mi")]
impl ManagementPage {
    pub(crate) const ALL: [Self; 4] = [Self::Health, Self::Controllers, Self::Config, Self::Vpd];

    /// The file's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Controllers => "controllers",
            Self::Config => "config",
            Self::Vpd => "vpd",
        }
    }
}

/// The log pages that have a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogPage {
    Smart,
    Error,
    Firmware,
    ChangedNamespaces,
    Commands,
    SelfTest,
}

impl LogPage {
    pub(crate) const ALL: [Self; 6] = [
        Self::Smart,
        Self::Error,
        Self::Firmware,
        Self::ChangedNamespaces,
        Self::Commands,
        Self::SelfTest,
    ];

    /// The file's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Error => "error",
            Self::Firmware => "firmware",
            Self::ChangedNamespaces => "changed-namespaces",
            Self::Commands => "commands",
            Self::SelfTest => "self-test",
        }
    }
}

impl Node {
    /// Reads `path`: components parted by `/` (leading, trailing and doubled ones do not matter), then
    /// perhaps a query after `?`, which of a block device is the class of what is done through it. `N` alone is the block device, unless `directory` is set or a `/` follows:
    /// then it is the directory.
    ///
    /// # Errors
    /// `ENOENT` for a path that is none; `EINVAL` for a query that the node does not have; `ENOTDIR` for a
    /// file with `directory` set or with a `/` behind it; `ENAMETOOLONG`.
    pub(crate) fn parse(path: &str, directory: bool) -> Result<(Self, Class), Errno> {
        if path.len() > MAX_PATH_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let directory = directory || path.ends_with('/');
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        // The deepest node has three components; a fourth is one too many.
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let node = match parts {
            [None, ..] => Self::Root,
            [Some("controller"), None, ..] => Self::Controller,
            [Some("controller"), Some("log"), None, _] => Self::Logs,
            [Some("controller"), Some("log"), Some(page), None] => {
                let page = LogPage::ALL.into_iter().find(|known| known.name() == page);
                Self::Document(DocumentKind::Log(page.ok_or(Errno::ENOENT)?))
            }
            [Some("controller"), Some("identify"), None, _] => {
                Self::Document(DocumentKind::IdentifyController)
            }
            [Some("controller"), Some("stats"), None, _] => Self::stats(None, query)?,
            [Some("controller"), Some("events"), None, _] => match query {
                Some("now") => Self::Document(DocumentKind::EventsNow),
                _ => Self::Events,
            },
            [Some("controller"), Some("slow"), None, _] => Self::Document(DocumentKind::Slow),
            [Some("controller"), Some("admin"), None, _] => Self::Admin,
            #[cfg(feature = "nvme-mi")]
            [Some("controller"), Some("mi"), None, _] => Self::Management,
            #[cfg(feature = "nvme-mi")]
            [Some("controller"), Some("mi"), Some("request"), None] => Self::ManagementRequest,
            #[cfg(feature = "nvme-mi")]
            [Some("controller"), Some("mi"), Some(page), None] => {
                let page = ManagementPage::ALL.into_iter().find(|known| known.name() == page);
                Self::Document(DocumentKind::Management(page.ok_or(Errno::ENOENT)?))
            }
            [Some("controller"), Some("scheduler"), None, _] => Self::Scheduler,
            [Some(name), None, ..] => match (parse_partition(name), directory) {
                (Some(id), true) => Self::PartitionDirectory(id),
                (Some(id), false) => Self::Partition(id),
                (None, true) => Self::Namespace(parse_nsid(name)?),
                (None, false) => Self::Data(parse_nsid(name)?),
            },
            [Some(name), Some("data"), None, _] => match parse_partition(name) {
                Some(id) => Self::Partition(id),
                None => Self::Data(parse_nsid(name)?),
            },
            [Some(nsid), Some("identify"), None, _] => {
                Self::Document(DocumentKind::IdentifyNamespace(parse_nsid(nsid)?))
            }
            [Some(nsid), Some("stats"), None, _] => Self::stats(Some(parse_nsid(nsid)?), query)?,
            [Some(nsid), Some("bench"), None, _] => Self::Bench(parse_nsid(nsid)?),
            [Some(nsid), Some("io"), None, _] => Self::Io(parse_nsid(nsid)?),
            #[cfg(feature = "io-uring-compat")]
            [Some(nsid), Some("ring"), None, _] => Self::Ring(parse_nsid(nsid)?),
            _ => return Err(Errno::ENOENT),
        };
        let class = match (node, query) {
            // Read already.
            (_, None) | (Self::Document(DocumentKind::Stats { .. } | DocumentKind::EventsNow), _) => {
                Class::default()
            }
            (Self::Data(_) | Self::Partition(_), Some(query)) => parse_class(query)?,
            (_, Some(_)) => return Err(Errno::EINVAL),
        };
        if directory && !node.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        Ok((node, class))
    }

    fn stats(nsid: Option<u32>, query: Option<&str>) -> Result<Self, Errno> {
        let histograms = match query {
            None => true,
            Some("light") => false,
            Some(_) => return Err(Errno::EINVAL),
        };
        Ok(Self::Document(DocumentKind::Stats { nsid, histograms }))
    }

    /// The namespace that has to exist for the node to exist.
    pub(crate) const fn nsid(self) -> Option<u32> {
        match self {
            Self::Namespace(nsid)
            | Self::Data(nsid)
            | Self::Bench(nsid)
            | Self::Io(nsid)
            | Self::Document(DocumentKind::IdentifyNamespace(nsid)) => Some(nsid),
            #[cfg(feature = "io-uring-compat")]
            Self::Ring(nsid) => Some(nsid),
            Self::PartitionDirectory(id) | Self::Partition(id) => Some(id.nsid),
            Self::Document(DocumentKind::Stats { nsid, .. }) => nsid,
            Self::Root
            | Self::Controller
            | Self::Logs
            | Self::Document(_)
            | Self::Admin
            | Self::Events
            | Self::Scheduler => None,
            #[cfg(feature = "nvme-mi")]
            Self::Management | Self::ManagementRequest => None,
        }
    }

    /// The partition that has to exist for the node to exist.
    pub(crate) const fn partition(self) -> Option<PartitionId> {
        match self {
            Self::PartitionDirectory(id) | Self::Partition(id) => Some(id),
            _ => None,
        }
    }

    /// Whether mode, owner and group decide who may open it, and uid 0 may change them.
    pub(crate) const fn is_block_device(self) -> bool {
        matches!(self, Self::Data(_) | Self::Partition(_))
    }

    /// Whether its reads are answered when something happens, however long that takes.
    pub(crate) const fn waits(self) -> bool {
        matches!(self, Self::Bench(_) | Self::Events) || self.shares()
    }

    /// Whether what is written to it may name memory to be shared.
    pub(crate) const fn shares(self) -> bool {
        #[cfg(feature = "io-uring-compat")]
        if matches!(self, Self::Ring(_)) {
            return true;
        }
        false
    }

    /// The node whose mode, owner and group hold for this one.
    pub(crate) const fn whose_rights(self) -> Self {
        match self {
            #[cfg(feature = "io-uring-compat")]
            Self::Ring(nsid) => Self::Data(nsid),
            node => node,
        }
    }

    pub(crate) const fn is_directory(self) -> bool {
        match self {
            Self::Root | Self::Controller | Self::Logs | Self::Namespace(_) | Self::PartitionDirectory(_) => {
                true
            }
            #[cfg(feature = "nvme-mi")]
            Self::Management => true,
            _ => false,
        }
    }
}

/// `NpM`: a namespace's name, and the partition's number written in the same way.
fn parse_partition(name: &str) -> Option<PartitionId> {
    let (nsid, number) = name.split_once('p')?;
    Some(PartitionId {
        nsid: parse_nsid(nsid).ok()?,
        number: parse_nsid(number).ok()?,
    })
}

/// A namespace's name is its identifier in decimal, in the one way that `list` shows it.
fn parse_nsid(text: &str) -> Result<u32, Errno> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if !plain {
        return Err(Errno::ENOENT);
    }
    text.parse().map_err(|_| Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::service::Priority;
    use super::*;

    fn parse(path: &str, directory: bool) -> Result<Node, Errno> {
        Node::parse(path, directory).map(|(node, _)| node)
    }

    #[test]
    fn every_file_of_the_tree_has_its_node() {
        let part = PartitionId { nsid: 2, number: 15 };
        let stats = |nsid, histograms| Node::Document(DocumentKind::Stats { nsid, histograms });
        for (path, node) in [
            ("", Node::Root),
            ("/", Node::Root),
            ("controller", Node::Controller),
            ("/controller/", Node::Controller),
            ("controller/log", Node::Logs),
            (
                "controller//log/smart",
                Node::Document(DocumentKind::Log(LogPage::Smart)),
            ),
            (
                "controller/log/error",
                Node::Document(DocumentKind::Log(LogPage::Error)),
            ),
            (
                "controller/log/firmware",
                Node::Document(DocumentKind::Log(LogPage::Firmware)),
            ),
            (
                "controller/log/changed-namespaces",
                Node::Document(DocumentKind::Log(LogPage::ChangedNamespaces)),
            ),
            (
                "controller/log/commands",
                Node::Document(DocumentKind::Log(LogPage::Commands)),
            ),
            (
                "controller/log/self-test",
                Node::Document(DocumentKind::Log(LogPage::SelfTest)),
            ),
            (
                "controller/identify",
                Node::Document(DocumentKind::IdentifyController),
            ),
            ("controller/stats", stats(None, true)),
            ("controller/stats?light", stats(None, false)),
            ("controller/events", Node::Events),
            ("controller/scheduler", Node::Scheduler),
            ("controller/events?now", Node::Document(DocumentKind::EventsNow)),
            ("controller/slow", Node::Document(DocumentKind::Slow)),
            ("controller/admin", Node::Admin),
            #[cfg(feature = "nvme-mi")]
            ("controller/mi/", Node::Management),
            #[cfg(feature = "nvme-mi")]
            ("controller/mi/request", Node::ManagementRequest),
            #[cfg(feature = "nvme-mi")]
            (
                "controller/mi/health",
                Node::Document(DocumentKind::Management(ManagementPage::Health)),
            ),
            #[cfg(feature = "nvme-mi")]
            (
                "controller/mi/vpd",
                Node::Document(DocumentKind::Management(ManagementPage::Vpd)),
            ),
            ("1", Node::Data(1)),
            ("1/", Node::Namespace(1)),
            ("4294967295/data", Node::Data(u32::MAX)),
            ("2/identify", Node::Document(DocumentKind::IdentifyNamespace(2))),
            ("2/stats", stats(Some(2), true)),
            ("/2/stats?light", stats(Some(2), false)),
            ("2/bench", Node::Bench(2)),
            ("2/io", Node::Io(2)),
            ("2p15", Node::Partition(part)),
            ("2p15/data", Node::Partition(part)),
            ("2p15/", Node::PartitionDirectory(part)),
        ] {
            assert_eq!(parse(path, false), Ok(node), "{path}");
        }
        assert_eq!(parse("3", true), Ok(Node::Namespace(3)));
    }

    #[test]
    fn what_is_not_in_the_tree_is_refused() {
        for (path, errno) in [
            ("0", Errno::ENOENT),
            ("01", Errno::ENOENT),
            ("+1", Errno::ENOENT),
            ("-1", Errno::ENOENT),
            ("4294967296", Errno::ENOENT),
            ("..", Errno::ENOENT),
            ("1/.", Errno::ENOENT),
            ("1/Data", Errno::ENOENT),
            ("1/data/x", Errno::ENOENT),
            ("controller/log/smart/x", Errno::ENOENT),
            ("controller/log/smart/x/y", Errno::ENOENT),
            ("controller/log/telemetry", Errno::ENOENT),
            ("log/smart", Errno::ENOENT),
            ("controller/mi/admin", Errno::ENOENT),
            ("controller/mi/health/x", Errno::ENOENT),
            ("mi/health", Errno::ENOENT),
            ("p1", Errno::ENOENT),
            ("1p", Errno::ENOENT),
            ("1p0", Errno::ENOENT),
            ("1p01", Errno::ENOENT),
            ("01p1", Errno::ENOENT),
            ("1p1p1", Errno::ENOENT),
            ("1p4294967296", Errno::ENOENT),
            ("1p1/stats", Errno::ENOENT),
            ("1p1/bench", Errno::ENOENT),
            ("1p1/?prio=high", Errno::EINVAL),
            ("1?", Errno::EINVAL),
            ("1?light", Errno::EINVAL),
            ("1/?prio=high", Errno::EINVAL),
            ("1/bench?prio=high", Errno::EINVAL),
            ("1/stats?prio=high", Errno::EINVAL),
            ("1/stats?", Errno::EINVAL),
            ("1/stats?Light", Errno::EINVAL),
            ("1/stats?light&x", Errno::EINVAL),
            ("controller/events?", Errno::EINVAL),
            ("controller/scheduler?", Errno::EINVAL),
            ("controller/scheduler/", Errno::ENOTDIR),
            ("controller/events?later", Errno::EINVAL),
            ("controller/slow?now", Errno::EINVAL),
            ("controller?light", Errno::EINVAL),
            ("1/data/", Errno::ENOTDIR),
            ("controller/admin/", Errno::ENOTDIR),
        ] {
            assert_eq!(parse(path, false), Err(errno), "{path}");
        }
        assert_eq!(parse("1/data", true), Err(Errno::ENOTDIR));
        assert_eq!(parse(&"/".repeat(MAX_PATH_BYTES), false), Ok(Node::Root));
        assert_eq!(
            parse(&"/".repeat(MAX_PATH_BYTES + 1), false),
            Err(Errno::ENAMETOOLONG)
        );
    }

    #[test]
    fn a_block_device_has_a_class() {
        for path in ["3?prio=high", "3/data?prio=high"] {
            let class = Class {
                priority: Priority::High,
                deadline_us: None,
            };
            assert_eq!(Node::parse(path, false), Ok((Node::Data(3), class)), "{path}");
        }
        assert_eq!(Node::parse("3", false), Ok((Node::Data(3), Class::default())));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(path in "[a-z0-9/?.&=\\PC]{0,64}", directory: bool) {
            if let Ok(node) = parse(&path, directory) {
                prop_assert!(!directory || node.is_directory());
                prop_assert_ne!(node.nsid(), Some(0));
            }
        }

        #[test]
        fn a_namespace_has_one_name(nsid in 1_u32..) {
            prop_assert_eq!(parse(&nsid.to_string(), false), Ok(Node::Data(nsid)));
            prop_assert_eq!(parse(&format!("0{nsid}"), false), Err(Errno::ENOENT));
        }
    }
}
