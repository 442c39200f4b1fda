//! The kernel's modules: what they depend on is written in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    folder: PathBuf,
    /// By name, with underscores.
    files: BTreeMap<String, PathBuf>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Module {
    /// With underscores.
    pub name: String,
    /// Its file below the folder of the kernel's modules.
    pub path: PathBuf,
    /// What is in the file.
    pub contents: Vec<u8>,
    /// Modules that it cannot be loaded without.
    pub depends: Vec<String>,
    /// Other names, some with wildcards, by which the kernel asks for it.
    pub aliases: Vec<String>,
}

impl Modules {
    /// Finds all below `folder`.
    pub fn of(folder: &Path) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).map_err(Error::file(&next))? {
                let path = entry.map_err(Error::file(&next))?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if let Some(name) = path
                    .file_name()
                    .and_then(|name| name.to_str()?.strip_suffix(".ko"))
                {
                    files.insert(name.replace('-', "_"), path);
                }
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            files,
        })
    }

    /// `names` and all that they depend on, each before what needs it.
    pub fn in_order(&self, names: &[&str]) -> Result<Vec<Module>, Error> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            self.add(name, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<(), Error> {
        let name = name.replace('-', "_");
        if !seen.insert(name.clone()) {
            return Ok(());
        }
        let path = self.files.get(&name).ok_or_else(|| Error::Module(name.clone()))?;
        let contents = fs::read(path).map_err(Error::file(path))?;
        let depends: Vec<String> = fields(&contents, "depends")
            .flat_map(|list| {
                list.split(',')
                    .map(|name| name.replace('-', "_"))
                    .collect::<Vec<_>>()
            })
            .filter(|name| !name.is_empty())
            .collect();
        for needed in &depends {
            self.add(needed, seen, order)?;
        }
        order.push(Module {
            name,
            path: path.strip_prefix(&self.folder).unwrap_or(path).to_owned(),
            aliases: fields(&contents, "alias").collect(),
            contents,
            depends,
        });
        Ok(())
    }
}

/// The values of `key` in a module's section `.modinfo`: strings `key=value`, each ended by a zero.
fn fields<'a>(module: &'a [u8], key: &'a str) -> impl Iterator<Item = String> + 'a {
    module.split(|byte| *byte == 0).filter_map(move |text| {
        let value = text.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
        String::from_utf8(value.to_owned()).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let folder = std::env::temp_dir().join(format!("nvme-guest-modules-{}", std::process::id()));
        let made = [
            ("kernel/fs/top.ko", "\0alias=fs-top\0depends=left,right-one\0"),
            ("kernel/left.ko", "\0depends=base\0"),
            ("kernel/right-one.ko", "\0depends=base\0license=GPL\0"),
            ("kernel/base.ko", "\x7fELF\0depends=\0alias=a\0alias=b\0"),
        ];
        for (name, text) in made {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        let modules = Modules::of(&folder).expect("found");
        let order = modules.in_order(&["top", "base"]).expect("all there");
        let names: Vec<&str> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["base", "left", "right_one", "top"]);
        assert_eq!(order[0].aliases, ["a", "b"]);
        assert_eq!(order[3].path, Path::new("kernel/fs/top.ko"));
        let missing = modules.in_order(&["ext4"]).expect_err("not there");
        assert!(missing.to_string().contains("ext4"), "{missing}");
        fs::remove_dir_all(folder).expect("removed");
    }
}
