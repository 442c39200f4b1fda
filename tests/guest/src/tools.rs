//! What of this machine is used: QEMU, a kernel, programs. `.ci/guest` gets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Tools {
    /// The emulator for x86-64.
    pub qemu: PathBuf,
    /// Its version, such as 11.1.
    pub qemu_version: (u32, u32),
    /// The kernel's image.
    pub kernel: PathBuf,
    /// Its modules: the folder with its version for a name.
    pub modules: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
    /// The folder in which static binaries are built.
    pub build: PathBuf,
}

impl Tools {
    /// Looks for everything: in `guest` of cargo's target folder, then along PATH. Of several kernels it takes the last
    /// by name. `NVME_GUEST_QEMU` names another QEMU.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] for the first that is not there.
    pub fn find() -> Result<Self, Error> {
        let home = home()?;
        let unpacked = home.join("qemu/qemu-system-x86_64");
        let qemu = match std::env::var_os("NVME_GUEST_QEMU") {
            Some(named) => PathBuf::from(named),
            None if unpacked.is_file() => unpacked,
            None => program("qemu-system-x86_64")
                .ok_or_else(|| Error::Missing("qemu-system-x86_64".to_owned()))?,
        };
        let kernel = last(&home.join("kernel/boot"), "vmlinuz-")
            .ok_or_else(|| Error::Missing(format!("a kernel in {}", home.join("kernel").display())))?;
        let modules = last(&home.join("kernel/lib/modules"), "").ok_or_else(|| {
            Error::Missing(format!(
                "the kernel's modules in {}",
                home.join("kernel").display()
            ))
        })?;
        let busybox = [
            home.join("busybox/bin/busybox"),
            home.join("busybox/usr/bin/busybox"),
        ]
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing(format!("a static busybox in {}", home.join("busybox").display())))?;
        for name in ["ldd", "setpriv", "nvme"] {
            program(name).ok_or_else(|| Error::Missing(name.to_owned()))?;
        }
        Ok(Self {
            qemu_version: qemu_version(&qemu)?,
            qemu,
            kernel,
            modules,
            busybox,
            build: home.join("build"),
        })
    }
}

/// A program of this machine, along PATH and where those are that only root uses.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The folder `guest` in cargo's target folder: the one that this program was built in, which has a tag of cargo's.
fn home() -> Result<PathBuf, Error> {
    let here = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    here.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file())
        .map(|target| target.join("guest"))
        .ok_or_else(|| {
            Error::Missing(format!(
                "to run from a target folder of cargo's, which {} is not in",
                here.display()
            ))
        })
}

/// The last by name of the entries of `folder` that start with `prefix`.
fn last(folder: &Path, prefix: &str) -> Option<PathBuf> {
    fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(prefix))
        })
        .max()
}

fn qemu_version(qemu: &Path) -> Result<(u32, u32), Error> {
    let output = Command::new(qemu)
        .arg("--version")
        .output()
        .map_err(Error::file(qemu))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| Error::Missing(format!("a QEMU that says its version, not {text:?}")))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split_once("version ")?
        .1
        .split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_qemu_says_them() {
        let debian = "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright";
        assert_eq!(parse_version(debian), Some((11, 1)));
        assert_eq!(parse_version("QEMU emulator version 7.2.22"), Some((7, 2)));
        assert_eq!(parse_version("qemu-system-x86_64: not found"), None);
    }
}
