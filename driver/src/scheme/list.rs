//! What is in a directory.

use std::sync::{Arc, Mutex};

use super::data::Volumes;
use super::partitions::{self, Table};
#[cfg(feature = "nvme-mi")]
use super::path::ManagementPage;
use super::path::{LogPage, Node};
use super::pending::Pending;
use super::service::Namespace;
use super::{Entry, Errno, NodeKind, Reply, lock};

fn entry(name: &str, kind: NodeKind) -> Entry {
    Entry {
        name: name.to_owned(),
        kind,
    }
}

/// The entries of a directory that always has the same.
///
/// # Errors
/// `ENOTDIR`.
pub(crate) fn fixed(node: Node) -> Result<Vec<Entry>, Errno> {
    let entries = match node {
        Node::Controller => vec![
            entry("admin", NodeKind::File),
            entry("events", NodeKind::File),
            entry("identify", NodeKind::File),
            entry("log", NodeKind::Directory),
            #[cfg(feature = "nvme-mi")]
            entry("mi", NodeKind::Directory),
            entry("scheduler", NodeKind::File),
            entry("slow", NodeKind::File),
            entry("stats", NodeKind::File),
        ],
        Node::Logs => LogPage::ALL
            .iter()
            .map(|page| entry(page.name(), NodeKind::File))
            .collect(),
        #[cfg(feature = "nvme-mi")]
        Node::Management => ManagementPage::ALL
            .iter()
            .map(|page| page.name())
            .chain(["request"])
            .map(|name| entry(name, NodeKind::File))
            .collect(),
        Node::Namespace(_) => vec![
            entry("bench", NodeKind::File),
            entry("data", NodeKind::BlockDevice),
            entry("identify", NodeKind::File),
            entry("io", NodeKind::File),
            #[cfg(feature = "io-uring-compat")]
            entry("ring", NodeKind::File),
            entry("stats", NodeKind::File),
        ],
        Node::PartitionDirectory(_) => vec![entry("data", NodeKind::BlockDevice)],
        Node::Root
        | Node::Data(_)
        | Node::Partition(_)
        | Node::Document(_)
        | Node::Admin
        | Node::Events
        | Node::Scheduler
        | Node::Bench(_)
        | Node::Io(_) => return Err(Errno::ENOTDIR),
        #[cfg(feature = "nvme-mi")]
        Node::ManagementRequest => return Err(Errno::ENOTDIR),
        #[cfg(feature = "io-uring-compat")]
        Node::Ring(_) => return Err(Errno::ENOTDIR),
    };
    Ok(entries)
}

/// Answers with the root's entries: `controller`, and each namespace with its partitions.
pub(crate) fn root(namespaces: &[Namespace], volumes: &Volumes, pending: Pending) {
    let then = move |namespaces| pending.answer(entries(namespaces).map(Reply::List));
    with_tables(namespaces, volumes, Box::new(then));
}

/// Each namespace with its table. One that cannot be used has an empty one.
pub(crate) type Tables = Vec<(u32, Result<Arc<Table>, Errno>)>;

/// What is done with them.
type Then = Box<dyn FnOnce(Tables) + Send>;

/// Hands the tables of `namespaces` to `then`, perhaps before this returns. All that are not known are read at once.
pub(crate) fn with_tables(namespaces: &[Namespace], volumes: &Volumes, then: Then) {
    let gathering = Arc::new(Gathering(Mutex::new(Gathered {
        namespaces: namespaces
            .iter()
            .map(|namespace| (namespace.nsid, Ok(Arc::default())))
            .collect(),
        then: Some(then),
        // One for this function: nothing is answered before all are asked.
        missing: namespaces.len() + 1,
    })));
    for (place, namespace) in namespaces.iter().enumerate() {
        match volumes.get(namespace.nsid) {
            Ok(volume) => {
                let gathering = Arc::clone(&gathering);
                partitions::with_table(&volume, Box::new(move |table| gathering.came(Some(place), table)));
            }
            // It cannot be used, or has just gone.
            Err(_) => gathering.came(None, Ok(Arc::default())),
        }
    }
    gathering.came(None, Ok(Arc::default()));
}

/// Tables that come in any order.
struct Gathering(Mutex<Gathered>);

struct Gathered {
    namespaces: Tables,
    missing: usize,
    then: Option<Then>,
}

impl Gathering {
    fn came(&self, place: Option<usize>, table: Result<Arc<Table>, Errno>) {
        let mut gathered = lock(&self.0);
        if let Some((_, known)) = place.and_then(|place| gathered.namespaces.get_mut(place)) {
            *known = table;
        }
        gathered.missing -= 1;
        if gathered.missing > 0 {
            return;
        }
        let namespaces = std::mem::take(&mut gathered.namespaces);
        let then = gathered.then.take();
        drop(gathered);
        if let Some(then) = then {
            then(namespaces);
        }
    }
}

fn entries(namespaces: Tables) -> Result<Vec<Entry>, Errno> {
    let mut entries = vec![entry("controller", NodeKind::Directory)];
    for (nsid, table) in namespaces {
        match table {
            Ok(table) => {
                entries.push(entry(&nsid.to_string(), NodeKind::Directory));
                for partition in &table.partitions {
                    entries.push(entry(
                        &format!("{nsid}p{}", partition.number),
                        NodeKind::Directory,
                    ));
                }
            }
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            // The namespace went while its table was to be read.
            Err(_) => {}
        }
    }
    Ok(entries)
}
