//! `top` on a real terminal: tmux holds it, sends the keys and says what is on the screen.
#![cfg(target_os = "linux")]

mod common;
#[path = "../src/top/screen.rs"]
#[allow(dead_code, reason = "only taking and giving back is tried here")]
mod screen;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::daemon::Daemon;
use common::{Folder, run};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const LOADED: &str = "--emulate=size=16MiB top --load randread:qd=4 --interval 200ms";

/// A terminal of its own, with a shell script in it that runs `nvmectl` and says how that ended.
struct Session {
    socket: String,
    folder: Folder,
}

impl Session {
    /// None where there is no tmux, which is an error where nothing may be left out.
    fn start(name: &str, columns: u16, lines: u16, line: &str) -> Option<Self> {
        let program = format!("{} {line}", env!("CARGO_BIN_EXE_nvmectl"));
        Self::start_program(name, columns, lines, &program)
    }

    fn start_program(name: &str, columns: u16, lines: u16, program: &str) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert!(
                std::env::var_os("NVME_TEST_REQUIRE").is_none_or(|value| value != "all"),
                "tmux is missing"
            );
            println!("left out: there is no tmux");
            return None;
        }
        let folder = Folder::new(&format!("screen-{name}"));
        let path = |name: &str| folder.path().join(name).display().to_string();
        let script = format!(
            "stty -g > {before}\n\
             sh -c 'echo $$ > {pid}; exec {program}'\n\
             echo \"ended with $?.\"\n\
             stty -g > {after}\n\
             touch {done}\n\
             exec cat\n",
            before = path("before"),
            pid = path("pid"),
            after = path("after"),
            done = path("done"),
        );
        let folder = folder.file("script", script.as_bytes());
        let session = Self {
            socket: format!("nvmectl-{name}-{}", std::process::id()),
            folder,
        };
        let script = session.path("script").display().to_string();
        let size = [columns.to_string(), lines.to_string()];
        let mut command = session.command();
        // Whatever its user has set.
        command.args(["-f", "/dev/null"]);
        command.args(["new-session", "-d", "-x", &size[0], "-y", &size[1], "sh", &script]);
        for variable in ["NVME_ROOT", "NO_COLOR", "NVME_SCHEDULER", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let started = command.output().unwrap();
        assert!(started.status.success(), "{started:?}");
        Some(session)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket]);
        command
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let output = self.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.tmux(&["capture-pane", "-p"]).stdout).into_owned()
    }

    fn keys(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    /// Waits until the screen is `as_wished`, and returns it.
    fn wait(&self, what: &str, mut as_wished: impl FnMut(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if as_wished(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what} never came:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_for(&self, words: &str) -> String {
        self.wait(words, |screen| screen.contains(words))
    }

    /// Waits for all of `words`: a screen may be seen while it is being drawn.
    fn wait_for_all(&self, words: &[&str]) -> String {
        self.wait(&words.join(" and "), |screen| {
            words.iter().all(|words| screen.contains(words))
        })
    }

    fn signal(&self, signal: Signal) {
        let text = std::fs::read_to_string(self.path("pid")).unwrap();
        let pid = Pid::from_raw(text.trim().parse().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end and checks that the terminal is as it was found.
    fn ended(&self, code: &str) -> String {
        self.wait_for(&format!("ended with {code}."));
        let deadline = Instant::now() + PATIENCE;
        while !self.path("done").exists() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(20));
        }
        let read = |name: &str| std::fs::read_to_string(self.path(name)).unwrap();
        assert_eq!(read("before"), read("after"), "the terminal's modes");
        let flags = self
            .tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"])
            .stdout;
        assert_eq!(
            String::from_utf8_lossy(&flags).trim(),
            "0 1",
            "its first screen, with a cursor"
        );
        self.screen()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

#[test]
fn keys_do_what_the_help_says() {
    let Some(session) = Session::start("keys", 170, 24, LOADED) else {
        return;
    };
    session.wait_for_all(&[
        "nvme   ready",
        "us ",
        "R MiB/S",
        "HISTORY",
        "sort: DEVICE",
        "+ - interval",
    ]);

    session.keys(&["2"]);
    session.wait_for_all(&["nvmectl top  queues", "QUEUE KIND", "adaptive"]);
    session.keys(&["s"]);
    session.wait_for("sort: QUEUE");
    session.keys(&["r"]);
    session.wait("queues, the last one first", |screen| {
        let qids: Vec<u32> = screen
            .lines()
            .filter(|line| line.starts_with("nvme "))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
            .collect();
        screen.contains("sort: QUEUE reversed")
            && qids.len() >= 2
            && qids.is_sorted_by(|left, right| left > right)
    });

    session.keys(&["1"]);
    session.wait_for("nvmectl top  devices  every 200ms");
    session.keys(&["+"]);
    session.wait_for("every 500ms");
    session.keys(&["-", "-"]);
    session.wait_for("every 100ms");

    session.keys(&["Space"]);
    let mut last = session.wait_for("PAUSED");
    // Until it is all drawn.
    let still = session.wait("a screen that stays", |screen| {
        std::mem::replace(&mut last, screen.to_owned()) == screen
    });
    session.keys(&["?"]);
    session.wait_for("Little's law");
    session.keys(&["?"]);
    session.wait("the screen of the pause", |screen| screen == still);
    session.keys(&["Space"]);
    session.wait("the end of the pause", |screen| !screen.contains("PAUSED"));

    session.tmux(&["resize-window", "-x", "60", "-y", "15"]);
    session.wait("a narrow screen", |screen| {
        screen.contains("W P99")
            && !screen.contains("R MiB/S")
            && screen.contains("q quit")
            && screen.lines().count() <= 15
            && screen.lines().all(|line| line.chars().count() <= 60)
    });
    session.tmux(&["resize-window", "-x", "19", "-y", "4"]);
    session.wait_for("too small");
    session.tmux(&["resize-window", "-x", "100", "-y", "20"]);
    session.wait_for("R MiB/S");

    session.keys(&["q"]);
    let screen = session.ended("0");
    assert!(!screen.contains("nvmectl top"), "nothing of it is left: {screen}");
}

#[test]
fn every_way_to_end_gives_the_terminal_back() {
    for (position, keys) in [["Escape"], ["C-c"], ["q"]].iter().enumerate() {
        let Some(session) = Session::start(&format!("end-{position}"), 80, 24, LOADED) else {
            return;
        };
        session.wait_for("nvme   ready");
        session.keys(keys);
        session.ended("0");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let name = format!("signal-{}", signal.as_raw());
        let Some(session) = Session::start(&name, 80, 24, LOADED) else {
            return;
        };
        session.wait_for("nvme   ready");
        session.signal(signal);
        session.ended("130");
    }
    let line = "--emulate=size=1MiB top --interval 100ms -n 3";
    let Some(session) = Session::start("count", 80, 24, line) else {
        return;
    };
    session.ended("0");
}

#[test]
fn a_terminal_that_is_closed_ends_it() {
    let Some(session) = Session::start("closed", 80, 24, LOADED) else {
        return;
    };
    session.wait_for("nvme   ready");
    let pid = std::fs::read_to_string(session.path("pid")).unwrap();
    session.tmux(&["kill-server"]);
    let process = PathBuf::from(format!("/proc/{}/exe", pid.trim()));
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_link(&process).is_ok() {
        assert!(Instant::now() < deadline, "it runs on without a terminal");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_idle_device_says_how_to_make_it_work() {
    let Some(session) = Session::start("idle", 80, 24, "--emulate=size=1MiB top") else {
        return;
    };
    let screen = session.wait_for("--load randread:qd=8 makes it work");
    assert!(!screen.contains('*'), "{screen}");
    session.keys(&["q"]);
    session.ended("0");
}

#[test]
fn without_colour_there_are_none() {
    let colored = |name: &str, line: &str| {
        let session = Session::start(name, 80, 24, line)?;
        session.wait_for("nvme   ready");
        let cells = session.tmux(&["capture-pane", "-p", "-e"]).stdout;
        let cells = String::from_utf8_lossy(&cells).into_owned();
        session.keys(&["q"]);
        session.ended("0");
        Some(["[32m", "[38;5;2m"].iter().any(|green| cells.contains(green)))
    };
    let Some(by_default) = colored("color", "--emulate=size=1MiB top") else {
        return;
    };
    assert!(by_default);
    assert_eq!(
        colored("no-color", "--emulate=size=1MiB top --color never"),
        Some(false)
    );
}

#[test]
fn a_driver_that_goes_away_and_comes_back() {
    let stats = run("--emulate=size=1MiB stats --json").stdout;
    let tree = Folder::new("tree-that-leaves").file("controller/stats", stats.as_bytes());
    let line = format!("top --interval 100ms --root {}", tree.path().display());
    let Some(session) = Session::start("away", 100, 20, &line) else {
        return;
    };
    session.wait_for("nvme   ready");
    let controller = tree.path().join("controller");
    let away = tree.path().join("away");
    std::fs::rename(&controller, &away).unwrap();
    session.wait_for_all(&["gone, waiting for ", "no driver is running"]);
    session.keys(&["2"]);
    session.wait_for("nvmectl top  queues");
    session.keys(&["1"]);
    std::fs::rename(&away, &controller).unwrap();
    session.wait_for("nvme   ready");
    session.keys(&["q"]);
    session.ended("0");
}

#[test]
fn a_daemon_that_is_killed_and_started_again() {
    let folder = Folder::new("mounts");
    let mount = folder.path().join("nvme");
    let Some(mut daemon) = Daemon::start(&mount, "size=1MiB") else {
        return;
    };
    daemon.wait_until_it_serves();
    let line = format!("top --interval 100ms --root {}", folder.path().display());
    let Some(session) = Session::start("daemon", 120, 20, &line) else {
        return;
    };
    session.wait_for_all(&["nvme   ready", "sort: DEVICE"]);
    daemon.kill();
    session.wait_for_all(&["gone, waiting for ", "has ended"]);
    let program = env!("CARGO_BIN_EXE_nvmectl");
    let smart = Command::new(program)
        .arg("--root")
        .arg(folder.path())
        .arg("smart")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&smart.stderr).into_owned();
    assert_eq!(smart.status.code(), Some(5), "{said}");
    assert!(
        said.contains("the driver that served") && said.contains("start nvme-driver again"),
        "{said}"
    );
    let _successor = Daemon::start(&mount, "size=1MiB");
    session.wait_for("nvme   ready");
    session.keys(&["q"]);
    session.ended("0");
}

#[test]
fn a_read_that_hangs_holds_up_no_key() {
    let tree = Folder::new("tree-that-hangs").file("controller/nothing", b"");
    let pipe = tree.path().join("controller/stats");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let line = format!("top --interval 100ms --root {}", tree.path().display());
    let Some(session) = Session::start("hang", 100, 20, &line) else {
        return;
    };
    session.wait_for("no answer for ");
    session.keys(&["2"]);
    session.wait_for("nvmectl top  queues");
    session.keys(&["q"]);
    session.ended("0");
}

/// Not a test of its own: what [`a_panic_gives_the_terminal_back`] has run in a terminal. The guard is leaked, so that
/// only the hook can give the terminal back, as where a panic aborts.
#[test]
#[ignore = "another test runs it"]
fn panicking_screen() {
    std::mem::forget(screen::Screen::enter(std::io::stdout()).unwrap());
    panic!("a panic on the other screen");
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let own = std::env::current_exe().unwrap();
    let program = format!(
        "env RUST_BACKTRACE=0 {} --ignored --exact --nocapture panicking_screen",
        own.display()
    );
    let Some(session) = Session::start_program("panic", 100, 20, &program) else {
        return;
    };
    let screen = session.ended("101");
    assert!(screen.contains("a panic on the other screen"), "{screen}");
}
