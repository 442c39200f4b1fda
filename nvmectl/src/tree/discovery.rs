//! Finding the trees that drivers serve on this machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{DEFAULT_SCHEME, MountedTree};

/// A place where a driver serves its tree, or did.
#[derive(Debug)]
pub struct Discovered {
    /// The name before the colon of its devices.
    pub scheme: String,
    /// The folder.
    pub root: PathBuf,
    /// The tree, or why it cannot be used, such as ENOTCONN after a driver that was killed.
    pub tree: Result<MountedTree, io::Error>,
}

impl Discovered {
    /// What there is at `root`.
    pub fn at(root: PathBuf, scheme: &str) -> Self {
        Self {
            scheme: scheme.to_owned(),
            tree: MountedTree::new(root.clone(), scheme),
            root,
        }
    }
}

/// The trees of `folder`: itself, if a driver serves it, or else those of its subfolders whose names start with `nvme`,
/// which are the schemes' names. The one that is just called `nvme` comes first, the others by name.
///
/// With `only`, no subfolder but the one of that name is looked at: another driver that hangs is then in nobody's way.
///
/// A subfolder that is no driver's is left out; one that a driver served which is gone, or that may not be looked at, is
/// not.
///
/// # Errors
/// The [`io::Error`] of looking at `folder`; [`io::ErrorKind::NotFound`] when there is no tree in it.
pub fn discover(folder: &Path, only: Option<&str>) -> Result<Vec<Discovered>, io::Error> {
    match MountedTree::new(folder.to_owned(), &scheme_of(folder)) {
        Ok(tree) => {
            return Ok(vec![Discovered {
                scheme: scheme_of(folder),
                root: folder.to_owned(),
                tree: Ok(tree),
            }]);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && error.raw_os_error().is_none() => {}
        Err(error) => return Err(error),
    }
    let mut names: Vec<String> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| match only {
            Some(only) => name == only,
            None => name.starts_with(DEFAULT_SCHEME),
        })
        .collect();
    names.sort_by_key(|name| (name != DEFAULT_SCHEME, name.clone()));
    let is_tree_or_was = |discovered: &Discovered| match &discovered.tree {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    };
    let found: Vec<Discovered> = names
        .iter()
        .map(|name| Discovered::at(folder.join(name), name))
        .filter(is_tree_or_was)
        .collect();
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "it has no entry \"controller\", nor a folder with one",
        ));
    }
    Ok(found)
}

/// The scheme of a tree at `root`: the folder's name where it is one that drivers give, such as `nvme.pci-00-02.0`.
fn scheme_of(root: &Path) -> String {
    root.file_name()
        .and_then(|name| name.to_str())
        .filter(|name| name.starts_with("nvme."))
        .unwrap_or(DEFAULT_SCHEME)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, trees: &[&str]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("nvmectl-discovery-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        for tree in trees {
            fs::create_dir_all(path.join(tree)).unwrap();
        }
        path
    }

    fn schemes(folder: &Path) -> Vec<String> {
        discover(folder, None)
            .unwrap()
            .into_iter()
            .map(|discovered| discovered.scheme)
            .collect()
    }

    #[test]
    fn a_folder_of_trees_and_a_tree_itself() {
        let path = folder(
            "several",
            &[
                "nvme.pci-00-02.0/controller",
                "nvme/controller",
                "nvme-empty",
                "disk.pci-nvme/controller",
            ],
        );
        fs::write(path.join("nvme-file"), b"").unwrap();
        assert_eq!(schemes(&path), ["nvme", "nvme.pci-00-02.0"]);
        assert_eq!(schemes(&path.join("nvme")), ["nvme"]);
        assert_eq!(schemes(&path.join("nvme.pci-00-02.0")), ["nvme.pci-00-02.0"]);
        assert_eq!(schemes(&path.join("disk.pci-nvme")), ["nvme"]);
        for nothing in ["nvme-empty", "nvme-none"] {
            let error = discover(&path.join(nothing), None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{nothing}");
        }
        let only = discover(&path, Some("nvme.pci-00-02.0")).unwrap();
        assert_eq!(only.len(), 1);
        assert_eq!(only[0].root, path.join("nvme.pci-00-02.0"));
        assert!(discover(&path, Some("nvme.other")).is_err());
        fs::remove_dir_all(&path).unwrap();
    }
}
