//! What a benchmark that writes would destroy, and whether it may.

use std::io::{BufRead, IsTerminal, Write};

use stats_proto::bench::BenchJob;
use stats_proto::stats::StatsDocument;

use crate::error::Error;
use crate::units::Units;

/// The device and the bytes on it that a job would overwrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    scheme: String,
    nsid: u32,
    model: String,
    serial: String,
    emulated: bool,
    /// First byte and one past the last; the end is None where the namespace's size is not known.
    region: (u64, Option<u64>),
}

/// Somebody who can be asked to type a line.
pub trait Ask {
    /// What was typed after `question`, without the newline; None where nobody can be asked.
    fn line(&mut self, question: &str) -> Option<String>;
}

impl Target {
    /// What `job` would overwrite of namespace `nsid` behind `scheme`, as the driver's statistics describe it.
    pub fn new(scheme: &str, nsid: u32, job: &BenchJob, stats: &StatsDocument) -> Self {
        let namespace = stats.namespaces.iter().find(|namespace| namespace.nsid == nsid);
        let namespace_end =
            namespace.and_then(|namespace| namespace.blocks.checked_mul(u64::from(namespace.lba_bytes)));
        let asked_end = job.size_bytes.and_then(|size| job.offset_bytes.checked_add(size));
        Self {
            scheme: scheme.to_owned(),
            nsid,
            model: stats.controller.model.clone(),
            serial: stats.controller.serial.clone(),
            emulated: stats.controller.backend == "emulated",
            region: (job.offset_bytes, asked_end.or(namespace_end)),
        }
    }

    /// The device's serial number.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Exactly what would be lost.
    pub fn lost(&self, units: Units) -> String {
        let (start, end) = self.region;
        let amount = match end {
            Some(end) => {
                let bytes = units.bytes(u128::from(end.saturating_sub(start)));
                format!("{bytes}, bytes {start} to {},", end.saturating_sub(1))
            }
            None => format!("everything from byte {start}"),
        };
        format!(
            "this would overwrite {amount} of {}:{} ({}, serial number {})",
            self.scheme, self.nsid, self.model, self.serial
        )
    }

    /// Refuses to write where something is already.
    ///
    /// # Errors
    /// Refused, saying what is there.
    pub fn permit_over(&self, existing: Option<&str>, units: Units) -> Result<(), Error> {
        match existing {
            None => Ok(()),
            Some(existing) => Err(Error::Refused {
                lost: format!("{}, which holds {existing}", self.lost(units)),
                hint: "add --over-existing if that is what you want".to_owned(),
            }),
        }
    }

    /// Whether `job` may run here: a job that only reads always may, one that writes needs `--destructive`, and on a
    /// device that is not emulated its serial number, given or typed. Returns the serial number that the driver is to
    /// check again.
    ///
    /// # Errors
    /// Refused, saying what would have been lost.
    pub fn permit(&self, job: &BenchJob, units: Units, ask: &mut dyn Ask) -> Result<Option<String>, Error> {
        if !job.writes() {
            return Ok(job.serial.clone());
        }
        let refused = |hint: String| Error::Refused {
            lost: self.lost(units),
            hint,
        };
        let by_serial = format!("--destructive --yes-destroy={}", self.serial);
        if !job.destructive {
            let options = if self.emulated {
                "--destructive"
            } else {
                by_serial.as_str()
            };
            return Err(refused(format!("add {options} if that is what you want")));
        }
        match &job.serial {
            Some(serial) if *serial == self.serial => Ok(job.serial.clone()),
            Some(serial) => Err(refused(format!(
                "--yes-destroy={serial} is not its serial number"
            ))),
            None if self.emulated => Ok(None),
            None => {
                let question = format!("{}\ntype its serial number to go on: ", self.lost(units));
                match ask.line(&question) {
                    Some(typed) if typed.trim() == self.serial => Ok(Some(self.serial.clone())),
                    Some(_) => Err(refused(
                        "what was typed is not its serial number; nothing was done".to_owned(),
                    )),
                    None => Err(refused(format!("add {by_serial} if that is what you want"))),
                }
            }
        }
    }
}

/// Asks on the terminal, if both standard input and standard error are one.
pub struct Terminal;

impl Ask for Terminal {
    fn line(&mut self, question: &str) -> Option<String> {
        let (input, mut output) = (std::io::stdin(), std::io::stderr());
        if !Self::is_there() {
            return None;
        }
        output
            .write_all(question.as_bytes())
            .and_then(|()| output.flush())
            .ok()?;
        let mut typed = String::new();
        input.lock().read_line(&mut typed).ok()?;
        Some(typed)
    }
}

impl Terminal {
    fn is_there() -> bool {
        std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }
}

/// Types the serial number it was given, unasked, where somebody could have been asked for it.
pub struct Rehearsal<'s>(pub &'s str);

impl Ask for Rehearsal<'_> {
    fn line(&mut self, _question: &str) -> Option<String> {
        Terminal::is_there().then(|| self.0.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use stats_proto::bench::Pattern;

    use super::*;

    /// Types what it was given, or is nobody.
    struct Typist(Option<&'static str>);

    impl Ask for Typist {
        fn line(&mut self, question: &str) -> Option<String> {
            assert!(question.contains("serial number S1"), "{question}");
            self.0.map(str::to_owned)
        }
    }

    fn target(emulated: bool) -> Target {
        Target {
            scheme: "nvme".into(),
            nsid: 1,
            model: "A disk".into(),
            serial: "S1".into(),
            emulated,
            region: (4096, Some(1 << 30)),
        }
    }

    fn job(pattern: Pattern, destructive: bool, serial: Option<&str>) -> BenchJob {
        BenchJob {
            pattern,
            destructive,
            serial: serial.map(str::to_owned),
            ..BenchJob::default()
        }
    }

    #[test]
    fn reading_is_always_permitted() {
        for emulated in [true, false] {
            assert_eq!(
                target(emulated)
                    .permit(&job(Pattern::Read, false, None), Units::Iec, &mut Typist(None))
                    .unwrap(),
                None
            );
        }
        let all_reads = BenchJob {
            read_percent: 100,
            ..job(Pattern::RandRw, false, None)
        };
        assert!(
            target(false)
                .permit(&all_reads, Units::Iec, &mut Typist(None))
                .is_ok()
        );
    }

    #[test]
    fn writing_needs_the_word_and_on_a_real_device_the_serial_number() {
        for (emulated, destructive, serial, typed, wanted) in [
            (true, false, None, None, Err("add --destructive if")),
            (true, true, None, None, Ok(None)),
            (true, true, Some("S1"), None, Ok(Some("S1"))),
            (
                true,
                true,
                Some("S2"),
                None,
                Err("--yes-destroy=S2 is not its serial number"),
            ),
            (
                false,
                false,
                None,
                Some("S1"),
                Err("add --destructive --yes-destroy=S1"),
            ),
            (false, true, None, None, Err("add --destructive --yes-destroy=S1")),
            (false, true, None, Some("S1\n"), Ok(Some("S1"))),
            (
                false,
                true,
                None,
                Some("yes\n"),
                Err("what was typed is not its serial number"),
            ),
            (
                false,
                true,
                None,
                Some(""),
                Err("what was typed is not its serial number"),
            ),
            (false, true, Some("S1"), None, Ok(Some("S1"))),
            (
                false,
                true,
                Some("S2"),
                Some("S1"),
                Err("--yes-destroy=S2 is not its serial number"),
            ),
        ] {
            for pattern in [Pattern::Write, Pattern::RandWrite, Pattern::Rw, Pattern::RandRw] {
                let found = target(emulated).permit(
                    &job(pattern, destructive, serial),
                    Units::Iec,
                    &mut Typist(typed),
                );
                let case = format!("{emulated} {destructive} {serial:?} {typed:?} {pattern:?}");
                match (found, wanted) {
                    (Ok(found), Ok(wanted)) => assert_eq!(found.as_deref(), wanted, "{case}"),
                    (Err(error), Err(part)) => {
                        assert_eq!(error.exit_code(), 8, "{case}");
                        assert!(error.hint().unwrap().contains(part), "{case}: {:?}", error.hint());
                        assert!(
                            error.to_string().contains("bytes 4096 to 1073741823"),
                            "{case}: {error}"
                        );
                    }
                    (found, _) => panic!("{case}: {found:?}"),
                }
            }
        }
    }
}
