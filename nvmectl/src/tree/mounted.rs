//! The tree that a driver's daemon serves: files below a folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nvme_driver::ring::client::Transport;

use super::{Access, Errno, Operation, Tree, TreeError, TreeFile};

/// A driver's tree below a folder: a FUSE mount on Linux, a scheme on Redox.
#[derive(Debug)]
pub struct MountedTree {
    root: PathBuf,
    scheme: String,
}

impl MountedTree {
    /// The tree below `root`, whose devices are called `scheme:N`.
    ///
    /// # Errors
    /// The [`io::Error`] of looking at `root`; [`io::ErrorKind::NotFound`] also when it is a folder without a
    /// controller, such as a mount point that nothing is mounted on.
    pub fn new(root: PathBuf, scheme: &str) -> Result<Self, io::Error> {
        // Looked at and not listed: to list a tree, its driver reads the partition tables, and a device that hangs
        // would then be in the way of everything that is asked about it. The root comes first, so that a driver that
        // has ended is told from one that never was.
        fs::metadata(&root)?;
        let has_controller = match fs::metadata(root.join("controller")) {
            Ok(metadata) => metadata.is_dir(),
            Err(error) if is_not_there(&error) => false,
            Err(error) => return Err(error),
        };
        if !has_controller {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "it has no folder \"controller\"",
            ));
        }
        let scheme = scheme.to_owned();
        Ok(Self { root, scheme })
    }

    /// Paths come from this program's own tables, yet one that leaves the root shall not work.
    fn locate(&self, operation: Operation, path: &str) -> Result<PathBuf, TreeError> {
        if path.split('/').any(|part| part == "..") || path.starts_with('/') {
            return Err(TreeError::new(operation, path, Errno::EINVAL));
        }
        Ok(self.root.join(path))
    }

    fn open_file(&self, path: &str, access: Access) -> Result<File, TreeError> {
        OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(self.locate(Operation::Open, path)?)
            .map_err(|error| TreeError::of_io(Operation::Open, path, &error))
    }
}

/// Whether there is nothing of a name. Redox says ENODEV of a name in `/scheme` that is no scheme's.
fn is_not_there(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV.0)
}

impl Tree for MountedTree {
    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn size_bytes(&self, path: &str) -> Result<u64, TreeError> {
        fs::metadata(self.locate(Operation::Stat, path)?)
            .map(|metadata| metadata.len())
            .map_err(|error| TreeError::of_io(Operation::Stat, path, &error))
    }

    fn ring(&self, path: &str) -> Result<Box<dyn Transport>, TreeError> {
        Ok(Box::new(self.open_file(path, Access::ReadWrite)?))
    }

    fn open(&self, path: &str, access: Access) -> Result<Box<dyn TreeFile>, TreeError> {
        Ok(Box::new(MountedFile {
            file: self.open_file(path, access)?,
            path: path.to_owned(),
        }))
    }

    fn list(&self, path: &str) -> Result<Vec<String>, TreeError> {
        let failed = |error: io::Error| TreeError::of_io(Operation::List, path, &error);
        fs::read_dir(self.locate(Operation::List, path)?)
            .map_err(failed)?
            .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

struct MountedFile {
    file: File,
    path: String,
}

impl TreeFile for MountedFile {
    fn read_at(&mut self, into: &mut [u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.file
            .read_at(into, offset_bytes)
            .map_err(|error| TreeError::of_io(Operation::Read, &self.path, &error))
    }

    fn write_at(&mut self, from: &[u8], offset_bytes: u64) -> Result<usize, TreeError> {
        self.file
            .write_at(from, offset_bytes)
            .map_err(|error| TreeError::of_io(Operation::Write, &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_document;
    use super::*;

    /// A folder that is removed again.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nvmectl-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_and_folders_below_the_root() {
        let folder = Folder::new("mounted");
        fs::create_dir(folder.0.join("controller")).unwrap();
        fs::create_dir(folder.0.join("1")).unwrap();
        fs::write(folder.0.join("1/stats?light"), b"{}").unwrap();
        let tree = MountedTree::new(folder.0.clone(), "nvme").unwrap();

        let mut names = tree.list("").unwrap();
        names.sort();
        assert_eq!(names, ["1", "controller"]);
        assert_eq!(read_document(&tree, "1/stats?light").unwrap(), b"{}");
        let mut file = tree.open("1/stats?light", Access::ReadWrite).unwrap();
        assert_eq!(file.write_at(b"[]", 0).unwrap(), 2);
        assert_eq!(read_document(&tree, "1/stats?light").unwrap(), b"[]");

        let missing = tree.open("2/stats", Access::Read).map(|_| ()).unwrap_err();
        assert_eq!(missing, TreeError::new(Operation::Open, "2/stats", Errno::ENOENT));
        for outside in ["../1", "/etc/passwd", "1/../../x"] {
            assert_eq!(tree.list(outside).unwrap_err().errno, Errno::EINVAL, "{outside}");
        }
        let read_only = tree
            .open("1/stats?light", Access::Read)
            .unwrap()
            .write_at(b"x", 0)
            .unwrap_err();
        assert_eq!(read_only.operation, Operation::Write);
    }

    #[test]
    fn a_folder_without_a_controller_is_no_tree() {
        let folder = Folder::new("empty");
        assert_eq!(
            MountedTree::new(folder.0.clone(), "nvme").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            MountedTree::new(folder.0.join("nothing"), "nvme")
                .unwrap_err()
                .kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn a_name_that_is_nobodys_is_not_there_in_the_words_of_either_system() {
        for (errno, not_there) in [
            (Errno::ENOENT, true),
            (Errno::ENODEV, true),
            (Errno::EACCES, false),
            (Errno::EIO, false),
        ] {
            let error = io::Error::from_raw_os_error(errno.0);
            assert_eq!(is_not_there(&error), not_there, "{errno}");
        }
    }
}
