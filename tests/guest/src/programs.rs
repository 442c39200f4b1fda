//! Programs for the guest: ours, built as static binaries, and those of this machine with their libraries.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::Error;
use crate::tools::{Tools, program};

/// The target that this machine has a C library for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Ours, by package.
const PACKAGES: [(&str, &str); 6] = [
    ("nvme-driver", "nvme-driver"),
    ("nvmectl", "nvmectl"),
    ("nvme-guest", "nvme-guest-agent"),
    ("nvme-guest", "nvme-guest-workload"),
    ("nvme-guest", "nvme-guest-job"),
    ("nvme-guest", "nvme-guest-ring"),
];

/// Where the static binaries are, by name. Built once by a process, which takes minutes the first time and less than a
/// second when nothing has changed.
///
/// Optimised, since benchmarks are run with them, and since the emulated CPU makes everything else take long enough.
pub fn ours(tools: &Tools) -> Result<&'static BTreeMap<&'static str, PathBuf>, Error> {
    static BUILT: OnceLock<Result<BTreeMap<&'static str, PathBuf>, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build(&tools.build))
        .as_ref()
        .map_err(|reason| Error::Program(reason.clone()))
}

fn build(folder: &Path) -> Result<BTreeMap<&'static str, PathBuf>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--locked", "--release", "--target", TARGET])
        .arg("--target-dir")
        .arg(folder)
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"));
    for (package, binary) in PACKAGES {
        command.args(["--package", package, "--bin", binary]);
    }
    let output = command
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Smaller, which counts for what is copied into every guest.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the programs for the guest cannot be built:\n{text}"));
    }
    let built = folder.join(TARGET).join("release");
    Ok(PACKAGES
        .iter()
        .map(|(_, binary)| (*binary, built.join(binary)))
        .collect())
}

/// A program of this machine and the libraries that it is linked with.
#[derive(Debug)]
pub struct Dynamic {
    /// The program's file.
    pub file: PathBuf,
    /// Its libraries, where its linker looks for them.
    pub libraries: Vec<PathBuf>,
}

/// Looks into the program `name`.
pub fn of_this_machine(name: &str) -> Result<Dynamic, Error> {
    let file = program(name).ok_or_else(|| Error::Missing(format!("the program {name}")))?;
    let output = Command::new("ldd")
        .arg(&file)
        .output()
        .map_err(Error::file("ldd"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let libraries = parse_ldd(&text)
        .map_err(|name| Error::Program(format!("{} needs {name}, which is missing", file.display())))?;
    Ok(Dynamic { file, libraries })
}

/// What `ldd` has found, or the name of what it has not. A static program has nothing.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in text.lines() {
        let (name, found) = line.split_once("=>").unwrap_or((line, line));
        let found = found.trim();
        if found.starts_with("not found") {
            return Err(name.trim().to_owned());
        }
        // The kernel's own (linux-vdso.so.1) has no path.
        if let Some(path) = found
            .split_whitespace()
            .next()
            .filter(|path| path.starts_with('/'))
        {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_as_ldd_says_them() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                    \tlibnvme.so.1 => /lib/x86_64-linux-gnu/libnvme.so.1 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = [
            "/lib/x86_64-linux-gnu/libnvme.so.1",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(parse_ldd(text), Ok(expected.map(PathBuf::from).to_vec()));
        assert_eq!(parse_ldd("\tnot a dynamic executable\n"), Ok(Vec::new()));
        assert_eq!(parse_ldd("\tliba.so => not found\n"), Err("liba.so".to_owned()));
    }
}
