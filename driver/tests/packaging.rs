//! What is shipped for Redox: entries for pcid, the recipe, and the script that puts the driver into an initial file
//! system.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("redox").join(name)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The keys of a file that has one table, `[[drivers]]`, and values on one line: all that entries for pcid need.
fn entry(text: &str) -> BTreeMap<&str, &str> {
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(lines.next(), Some("[[drivers]]"));
    lines
        .map(|line| line.split_once(" = ").unwrap_or_else(|| panic!("{line}")))
        .collect()
}

#[test]
fn an_entry_fits_nvme_controllers_and_names_the_driver() {
    for (name, folder) in [("pcid.d", ""), ("initfs/pcid.d", "/scheme/initfs/lib/drivers/")] {
        let text = text(&shipped(name).join("nvme.toml"));
        let entry = entry(&text);
        let wanted = [
            // PCI Code and ID Assignment: mass storage, non-volatile memory, NVM Express I/O controller.
            ("class", "1"),
            ("subclass", "8"),
            ("interface", "2"),
        ];
        for (key, value) in wanted {
            assert_eq!(entry.get(key), Some(&value), "{name}: {key}");
        }
        let program = Path::new(env!("CARGO_BIN_EXE_nvme-driver")).file_name().unwrap();
        let command = format!("[\"{folder}{}\"]", program.display());
        assert_eq!(entry["command"], command, "{name}");
        let known = ["class", "command", "interface", "name", "subclass"];
        assert!(entry.keys().eq(known.iter()), "{name}: pcid knows no other keys");
    }
}

#[test]
fn the_recipe_installs_what_there_is() {
    let recipe = text(&shipped("recipe.toml"));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut installed = Vec::new();
    for line in recipe.lines().filter_map(|line| line.strip_prefix("cp -v ")) {
        let (from, to) = line.split_once(' ').unwrap();
        let to = to
            .trim_matches('"')
            .strip_prefix("${COOKBOOK_STAGE}")
            .expect("into the package");
        installed.push(to);
        let from = from.trim_matches('"');
        match from.strip_prefix("${COOKBOOK_SOURCE}/") {
            Some(file) => assert!(repository.join(file).is_file(), "{file}"),
            None => {
                let program = from.strip_prefix("target/${TARGET}/${build_type}/").unwrap();
                assert!(recipe.contains(&format!("--package {program} ")), "{program}");
                let manifests =
                    ["driver/Cargo.toml", "nvmectl/Cargo.toml"].map(|path| text(&repository.join(path)));
                let package = format!("name = \"{program}\"");
                assert!(
                    manifests.iter().any(|manifest| manifest.contains(&package)),
                    "{program}"
                );
            }
        }
    }
    // Where pcid looks for what the entry names.
    let entry_file = text(&shipped("pcid.d/nvme.toml"));
    let program = entry(&entry_file)["command"].trim_matches(['[', ']', '"']);
    assert_eq!(
        installed,
        [
            &format!("/usr/lib/drivers/{program}"),
            "/usr/bin/nvmectl",
            "/usr/lib/pcid.d/nvme.toml"
        ]
    );
}

/// A tree such as Redox makes its initial file system of, and a driver to put there.
struct Tree(PathBuf);

/// Redox's own entries, in outline.
const ENTRIES: &str = "\
# ahcid
[[drivers]]
class = 1
subclass = 6
command = [\"/scheme/initfs/lib/drivers/ahcid\"]

# nvmed
[[drivers]]
class = 1
subclass = 8
command = [\"/scheme/initfs/lib/drivers/nvmed\"]
";

impl Tree {
    fn new(name: &str, folder: &str, entries: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("initfs-{name}"));
        drop(fs::remove_dir_all(&root));
        for part in ["lib/drivers", folder] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        fs::write(root.join("lib/drivers/nvmed"), "old").unwrap();
        fs::write(root.join("new-driver"), "new").unwrap();
        let tree = Self(root);
        fs::write(tree.0.join(folder).join("initfs.toml"), entries).unwrap();
        tree
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn put(&self, arguments: &[&str]) -> Output {
        Command::new(shipped("initfs/put"))
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    /// All files and what is in them, but for the driver that is put there.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        let mut todo = vec![self.0.clone()];
        while let Some(folder) = todo.pop() {
            for found in fs::read_dir(folder).unwrap() {
                let path = found.unwrap().path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    files.insert(path.clone(), text(&path));
                }
            }
        }
        files
    }
}

#[test]
fn the_driver_takes_nvmeds_place_in_an_initial_file_system_and_gives_it_back() {
    for folder in ["lib/pcid.d", "etc/pcid.d"] {
        let tree = Tree::new(&folder.replace('/', "-"), folder, ENTRIES);
        let before = tree.files();
        // Twice is as good as once.
        for _ in 0..2 {
            let output = tree.put(&[".", "new-driver"]);
            assert!(output.status.success(), "{output:?}");
            let mut wanted = before.clone();
            let entries = ENTRIES.replace("drivers/nvmed\"", "drivers/nvme-driver\"");
            wanted.insert(tree.path(folder).join("initfs.toml"), entries);
            wanted.insert(tree.path("lib/drivers/nvme-driver"), "new".to_owned());
            assert_eq!(tree.files(), wanted);
        }
        assert!(tree.put(&["--undo", "."]).status.success());
        assert_eq!(tree.files(), before);
    }
}

#[test]
fn a_tree_without_nvmed_gets_an_entry_of_its_own() {
    let tree = Tree::new("none", "lib/pcid.d", "");
    let before = tree.files();
    for _ in 0..2 {
        assert!(tree.put(&[".", "new-driver"]).status.success());
        let entry = tree.path("lib/pcid.d/nvme.toml");
        assert_eq!(text(&entry), text(&shipped("initfs/pcid.d/nvme.toml")));
        assert_eq!(tree.files().len(), before.len() + 2);
    }
    assert!(tree.put(&["--undo", "."]).status.success());
    assert_eq!(tree.files(), before);
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_changed() {
    let tree = Tree::new("refused", "lib/pcid.d", ENTRIES);
    fs::create_dir(tree.path("empty")).unwrap();
    let before = tree.files();
    for (arguments, why) in [
        (&[][..], "usage"),
        (&["."], "usage"),
        (&["empty", "new-driver"], "no tree of an initial file system"),
        (&[".", "missing"], "missing is not there"),
        (&["--undo"], "usage"),
        (&["--undo", ".", "x"], "usage"),
    ] {
        let output = tree.put(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(why), "{arguments:?}: {said}");
        assert_eq!(tree.files(), before, "{arguments:?}");
    }
    fs::remove_file(tree.path("lib/drivers/nvmed")).unwrap();
    let output = tree.put(&["--undo", "."]);
    assert!(!output.status.success(), "there is nothing to go back to");
}
