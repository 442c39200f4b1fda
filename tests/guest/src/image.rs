//! The initramfs of a guest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;
use std::process::Command;

use crate::Error;
use crate::archive::Archive;
use crate::modules::{Module, Modules};
use crate::programs;
use crate::tools::Tools;

/// What the agent needs to be reached.
const AGENT_MODULES: [&str; 2] = ["virtio_pci", "virtio_console"];

/// What is there for `modprobe` in every guest.
const MODULES: [&str; 7] = [
    "nvme",
    "vfio-pci",
    "vfio_iommu_type1",
    "fuse",
    "ext4",
    // What ext4 asks the kernel's cryptography for.
    "crc32c_generic",
    "null_blk",
];

/// Folders that things are mounted on or written to.
const FOLDERS: [&str; 7] = ["dev", "proc", "sys", "tmp", "run", "root", "mnt"];

/// Writes the initramfs to the file `path`: `programs` of this machine beside those that are always there, `load` for
/// the modules that the agent loads at its start.
pub fn write(path: &Path, tools: &Tools, programs: &BTreeSet<String>, load: &[String]) -> Result<(), Error> {
    let file = File::create(path).map_err(Error::file(path))?;
    let mut archive = Archive::new(BufWriter::new(file));
    let written = Error::file(path);
    fill(&mut archive, tools, programs, load)?;
    archive.finish().map_err(written)?;
    Ok(())
}

fn fill(
    archive: &mut Archive<BufWriter<File>>,
    tools: &Tools,
    programs: &BTreeSet<String>,
    load: &[String],
) -> Result<(), Error> {
    let made = |error: io::Error| Error::Program(format!("the initramfs: {error}"));
    for folder in FOLDERS {
        archive.directory(folder).map_err(made)?;
    }
    archive.directory("bin").map_err(made)?;
    for (name, target) in [
        ("sbin", "bin"),
        ("usr/bin", "../bin"),
        ("usr/sbin", "../bin"),
        ("usr/lib", "../lib"),
    ] {
        archive.link(name, target).map_err(made)?;
    }

    for (name, file) in programs::ours(tools)? {
        copy(archive, &format!("bin/{name}"), file)?;
    }
    archive.link("init", "bin/nvme-guest-agent").map_err(made)?;
    for name in programs {
        let found = programs::of_this_machine(name)?;
        copy(archive, &format!("bin/{name}"), &found.file)?;
        for library in &found.libraries {
            // Of the two places that are one.
            let name = library
                .strip_prefix("/usr")
                .or_else(|_| library.strip_prefix("/"))
                .unwrap_or(library);
            let name = name.to_string_lossy();
            if !archive.contains(&name) {
                copy(archive, &name, library)?;
            }
        }
    }
    copy(archive, "bin/busybox", &tools.busybox)?;
    for applet in applets(&tools.busybox)? {
        let name = format!("bin/{applet}");
        if !archive.contains(&name) {
            archive.link(&name, "busybox").map_err(made)?;
        }
    }
    fill_modules(archive, tools, load)
}

fn fill_modules(archive: &mut Archive<BufWriter<File>>, tools: &Tools, load: &[String]) -> Result<(), Error> {
    let made = |error: io::Error| Error::Program(format!("the initramfs: {error}"));
    let version = tools.modules.file_name().unwrap_or_default().to_string_lossy();
    let folder = format!("lib/modules/{version}");
    let modules = Modules::of(&tools.modules)?;
    let load: Vec<&str> = AGENT_MODULES
        .into_iter()
        .chain(load.iter().map(String::as_str))
        .collect();
    let all: Vec<&str> = load.iter().copied().chain(MODULES).collect();
    let all = modules.in_order(&all)?;
    for module in &all {
        archive
            .file(
                &format!("{folder}/{}", module.path.display()),
                0o644,
                &module.contents,
            )
            .map_err(made)?;
    }
    let mut depends = String::new();
    let mut aliases = String::new();
    for module in &all {
        let needed: String = transitive(module, &all)
            .iter()
            .map(|needed| format!(" {}", needed.path.display()))
            .collect();
        depends += &format!("{}:{needed}\n", module.path.display());
        for alias in &module.aliases {
            aliases += &format!("alias {alias} {}\n", module.name);
        }
    }
    archive
        .file(&format!("{folder}/modules.dep"), 0o644, depends.as_bytes())
        .map_err(made)?;
    archive
        .file(&format!("{folder}/modules.alias"), 0o644, aliases.as_bytes())
        .map_err(made)?;
    let at_start: String = modules
        .in_order(&load)?
        .iter()
        .map(|module| format!("/{folder}/{}\n", module.path.display()))
        .collect();
    archive
        .file("etc/modules", 0o644, at_start.as_bytes())
        .map_err(made)
}

/// All that `module` cannot be loaded without, what needs others first, as modules.dep wants it.
fn transitive<'a>(module: &Module, all: &'a [Module]) -> Vec<&'a Module> {
    let mut wanted: BTreeSet<&str> = module.depends.iter().map(String::as_str).collect();
    // `all` has each after what it needs, so that one pass from the end finds everything.
    let mut found = Vec::new();
    for other in all.iter().rev() {
        if wanted.contains(other.name.as_str()) {
            wanted.extend(other.depends.iter().map(String::as_str));
            found.push(other);
        }
    }
    found
}

fn copy(archive: &mut Archive<BufWriter<File>>, name: &str, from: &Path) -> Result<(), Error> {
    let contents = fs::read(from).map_err(Error::file(from))?;
    archive
        .file(name, 0o755, &contents)
        .map_err(|error| Error::Program(format!("the initramfs: {name}: {error}")))
}

/// The names by which busybox is called.
fn applets(busybox: &Path) -> Result<Vec<String>, Error> {
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .map_err(Error::file(busybox))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}
