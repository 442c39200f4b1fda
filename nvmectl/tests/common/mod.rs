//! Running `nvmectl` as a user does, in an environment without settings of the machine's own.
#![allow(dead_code, reason = "each test file uses its part")]

#[cfg(target_os = "linux")]
pub mod daemon;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nvme_driver::config::VARIABLES;
use serde_json::Value;

/// `nvmectl` with `line` as its arguments, split at blanks.
pub fn nvmectl(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nvmectl"));
    command.stdin(Stdio::null());
    for variable in VARIABLES
        .iter()
        .copied()
        .chain(["NVME_ROOT", "NO_COLOR", "CLICOLOR_FORCE", "RUST_LOG"])
    {
        command.env_remove(variable);
    }
    // Whatever the terminal is that the tests run in.
    command.env("TERM", "xterm");
    // No test finds a driver that happens to run on this machine.
    command.env("NVME_ROOT", "/nonexistent");
    command.args(line.split_whitespace());
    command
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Standard output as one JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON object that is the last line of standard error.
    pub fn json_error(&self) -> Value {
        let line = self.stderr.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `line` to its end.
pub fn run(line: &str) -> Ran {
    nvmectl(line).output().expect("it can be started").into()
}

/// Runs `line`, which has to succeed without a word on standard error.
pub fn succeed(line: &str) -> Ran {
    let ran = run(line);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{line}: {ran:?}");
    ran
}

/// Bad input: it is refused with this exit code and these words, nothing reaches standard output, and with `--json` the
/// same is said as JSON.
pub fn refused(mut command: impl FnMut() -> Command, what: &str, code: i32, words: &[&str]) {
    let ran: Ran = command().output().expect("it can be started").into();
    assert_eq!(ran.code, Some(code), "{what}: {ran:?}");
    assert_eq!(ran.stdout, "", "{what}: {ran:?}");
    // Messages of the parser are wrapped; where is not what matters.
    let said = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in words {
        assert!(
            said.contains(words),
            "{what}: \"{words}\" is not in: {}",
            ran.stderr
        );
    }
    assert!(
        !ran.stderr.contains('\u{1b}'),
        "{what}: escapes where no terminal is: {ran:?}"
    );
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");

    let ran: Ran = command()
        .arg("--json")
        .output()
        .expect("it can be started")
        .into();
    if ran.stderr.contains("cannot be used with") && !said.contains("cannot be used with") {
        return; // --output was given already
    }
    assert_eq!(ran.code, Some(code), "{what}: {ran:?}");
    let error = ran.json_error();
    assert_eq!(error["schema"], "nvmectl-error", "{what}");
    assert_eq!(error["exit_code"], code, "{what}");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty()),
        "{what}"
    );
}

/// A folder of this test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nvmectl-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    /// With a file below it, in folders as they are needed.
    pub fn file(self, path: &str, bytes: &[u8]) -> Self {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        std::fs::write(path, bytes).expect("a file");
        self
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
