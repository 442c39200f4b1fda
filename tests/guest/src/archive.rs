//! An archive of the format `newc` of cpio, which the kernel unpacks as its initramfs (Documentation/driver-api/
//! early-userspace/buffer-format.rst there).

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// Writes one. Folders are made as they are needed.
pub struct Archive<W: Write> {
    to: W,
    entries: u32,
    names: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(to: W) -> Self {
        Self {
            to,
            entries: 0,
            names: BTreeSet::new(),
        }
    }

    /// Whether there is something of this name (without a slash at its start).
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    pub fn file(&mut self, name: &str, permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | permissions, contents)
    }

    pub fn link(&mut self, name: &str, target: &str) -> io::Result<()> {
        self.entry(name, LINK | 0o777, target.as_bytes())
    }

    /// The end of the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0)?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) -> io::Result<()> {
        if let Some((folder, _)) = name.rsplit_once('/')
            && !self.contains(folder)
        {
            self.directory(folder)?;
        }
        if !self.names.insert(name.to_owned()) {
            return Err(io::Error::other(format!("{name} is in the archive already")));
        }
        let bytes = u32::try_from(contents.len())
            .map_err(|_| io::Error::other(format!("{name} is too large for this format")))?;
        self.header(name, mode, bytes)?;
        self.to.write_all(contents)?;
        self.pad(contents.len())
    }

    fn header(&mut self, name: &str, mode: u32, bytes: u32) -> io::Result<()> {
        // Inode numbers tell entries apart that are linked to several names, of which there are none.
        self.entries = self.entries.wrapping_add(1);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let name_bytes = u32::try_from(name.len().saturating_add(1)).map_err(io::Error::other)?;
        let owner_group = [0, 0];
        let mtime = 0;
        let device_numbers = [0; 4];
        let checksum = 0;
        let mut header = b"070701".to_vec();
        for field in [self.entries, mode]
            .into_iter()
            .chain(owner_group)
            .chain([links, mtime, bytes])
            .chain(device_numbers)
            .chain([name_bytes, checksum])
        {
            header.extend(format!("{field:08X}").into_bytes());
        }
        header.extend(name.as_bytes());
        header.push(0);
        self.to.write_all(&header)?;
        self.pad(header.len())
    }

    /// Headers and contents start at multiples of four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(4).saturating_sub(written);
        self.to.write_all(&[0; 4][..padding])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// What busybox's or GNU's cpio says is in there; none without one.
    fn listed(archive: &[u8]) -> Option<String> {
        let mut child = Command::new("cpio")
            .args(["--list", "--verbose", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(archive).ok()?;
        let output = child.wait_with_output().expect("cpio ends");
        assert!(output.status.success());
        Some(String::from_utf8(output.stdout).expect("text"))
    }

    #[test]
    fn every_length_of_name_and_contents_is_aligned() {
        let mut archive = Archive::new(Vec::new());
        for length in 0..9 {
            let contents = vec![b'x'; length];
            archive
                .file(&format!("a/{}", "n".repeat(length + 1)), 0o640, &contents)
                .expect("written");
        }
        archive.link("b/c/to", "../../a").expect("written");
        let archive = archive.finish().expect("finished");
        assert_eq!(archive.len() % 4, 0);
        let headers = archive.chunks(4).filter(|word| *word == b"0707").count();
        assert_eq!(
            headers, 14,
            "nine files, three folders, a link and the end, each where a header may start"
        );
        if let Some(list) = listed(&archive) {
            assert_eq!(list.lines().count(), 13, "{list}");
            assert!(list.contains("b/c/to -> ../../a"), "{list}");
            assert!(
                list.lines()
                    .any(|line| line.starts_with("-rw-r-----") && line.contains(" 8 ")),
                "{list}"
            );
        }
    }

    #[test]
    fn a_name_is_there_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("init", 0o755, b"").expect("written");
        archive.file("init", 0o755, b"").expect_err("twice");
    }
}
