//! The numbers by which the kernel knows the nodes that it has looked up.

use std::collections::HashMap;
use std::sync::Arc;

/// The number of the root, which is there from the start and never forgotten.
pub(super) const ROOT: u64 = 1;

/// What a number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The node's path in the scheme, with its query.
    pub(super) path: Arc<str>,
    /// Whether the kernel was told that it is a directory: a namespace is a directory here, its data is a file in it.
    pub(super) directory: bool,
}

impl Place {
    /// The path in the form that only this place has: `N/` is the directory, `N` the block device.
    pub(super) fn exact_path(&self) -> String {
        let slash = if self.directory { "/" } else { "" };
        format!("{}{slash}", self.path)
    }

    /// The path of what is called `name` in here.
    pub(super) fn child(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        }
    }
}

/// So much room is not worth giving back.
const SMALL: usize = 64;

struct Inode {
    place: Place,
    /// How often the kernel was told of it, less what it has forgotten. Without this, a client that looks up one
    /// query after the other would fill the memory.
    lookups: u64,
}

/// Numbers for places and back. A number is never given twice.
pub(super) struct Inodes {
    by_number: HashMap<u64, Inode>,
    by_path: HashMap<Arc<str>, u64>,
    last: u64,
}

impl Inodes {
    pub(super) fn new() -> Self {
        let place = Place {
            path: Arc::from(""),
            directory: true,
        };
        let root = Inode { place, lookups: 1 };
        Self {
            by_path: HashMap::from([(Arc::clone(&root.place.path), ROOT)]),
            by_number: HashMap::from([(ROOT, root)]),
            last: ROOT,
        }
    }

    pub(super) fn get(&self, number: u64) -> Option<Place> {
        self.by_number.get(&number).map(|inode| inode.place.clone())
    }

    /// The number of a path that the kernel knows.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.by_path.get(path).copied()
    }

    /// The number for a place that the kernel is told of.
    pub(super) fn look_up(&mut self, path: &str, directory: bool) -> u64 {
        if let Some(number) = self.number(path)
            && let Some(inode) = self.by_number.get_mut(&number)
        {
            if inode.place.directory == directory {
                inode.lookups = inode.lookups.saturating_add(1);
                return number;
            }
            // A name has become something else; who still has the old number keeps what it stood for.
            self.by_path.remove(path);
        }
        self.last += 1;
        let place = Place {
            path: Arc::from(path),
            directory,
        };
        self.by_path.insert(Arc::clone(&place.path), self.last);
        self.by_number.insert(self.last, Inode { place, lookups: 1 });
        self.last
    }

    /// The kernel has forgotten `count` lookups of `number`.
    pub(super) fn forget(&mut self, number: u64, count: u64) {
        if number == ROOT {
            return;
        }
        let Some(inode) = self.by_number.get_mut(&number) else {
            return;
        };
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0
            && let Some(inode) = self.by_number.remove(&number)
            && self.number(&inode.place.path) == Some(number)
        {
            self.by_path.remove(&inode.place.path);
        }
        // What a flood of names has taken is given back.
        let enough = 2 * self.by_number.len();
        if self.by_number.capacity() > 2 * enough.max(SMALL) {
            self.by_number.shrink_to(enough);
            self.by_path.shrink_to(enough);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_number_until_it_is_forgotten() {
        let mut inodes = Inodes::new();
        let number = inodes.look_up("1/stats", false);
        assert_eq!(inodes.look_up("1/stats", false), number);
        assert_eq!(
            inodes.get(number),
            Some(Place {
                path: Arc::from("1/stats"),
                directory: false
            })
        );
        inodes.forget(number, 1);
        assert_eq!(inodes.number("1/stats"), Some(number));
        inodes.forget(number, 1);
        assert_eq!((inodes.get(number), inodes.number("1/stats")), (None, None));
        assert_ne!(inodes.look_up("1/stats", false), number);
    }

    #[test]
    fn nothing_is_left_of_what_was_forgotten() {
        let mut inodes = Inodes::new();
        let numbers: Vec<u64> = (0..1000)
            .map(|i| inodes.look_up(&format!("1/data?deadline_us={i}"), false))
            .collect();
        assert_eq!(inodes.by_number.len(), 1001);
        for number in numbers {
            inodes.forget(number, u64::MAX);
            inodes.forget(number, 1);
        }
        assert_eq!((inodes.by_number.len(), inodes.by_path.len()), (1, 1));
        assert!(inodes.by_number.capacity() <= 4 * SMALL && inodes.by_path.capacity() <= 4 * SMALL);
    }

    #[test]
    fn the_root_is_not_forgotten() {
        let mut inodes = Inodes::new();
        inodes.forget(ROOT, u64::MAX);
        assert_eq!(
            inodes.get(ROOT).map(|place| place.child("1")),
            Some("1".to_owned())
        );
    }

    #[test]
    fn a_name_that_becomes_something_else_gets_a_new_number() {
        let mut inodes = Inodes::new();
        let (file, directory) = (inodes.look_up("x", false), inodes.look_up("x", true));
        assert_ne!(file, directory);
        inodes.forget(file, 1);
        assert_eq!(inodes.number("x"), Some(directory));
    }
}
