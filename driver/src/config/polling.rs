//! How completions are noticed, for all queues or for single ones.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::boolean;

/// How a worker learns that a command has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PollingMode {
    /// `false` or `interrupt`: sleep until the interrupt.
    Interrupt,
    /// `true` or `polling`: look at the completion queue every `NVME_POLL_INTERVAL_US` while anything is in flight.
    Polling,
    /// `adaptive`: look for as long as it pays, then sleep until the interrupt.
    #[default]
    Adaptive,
}

/// What `NVME_POLLING_MODE` accepts, in words.
pub(super) const ACCEPTED: &str = "false (or interrupt), true (or polling), adaptive, or a list such as \
                                   1:polling,2:interrupt,adaptive: modes of I/O queues 1 and 2, and of the others";

impl FromStr for PollingMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "polling" => Ok(Self::Polling),
            "interrupt" => Ok(Self::Interrupt),
            _ => boolean(text)
                .map(|polling| if polling { Self::Polling } else { Self::Interrupt })
                .ok_or(()),
        }
    }
}

impl fmt::Display for PollingMode {
    /// The name that `stats` shows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupt",
            Self::Polling => "polling",
            Self::Adaptive => "adaptive",
        })
    }
}

/// The mode of each I/O queue (`NVME_POLLING_MODE`).
///
/// As text it is one mode, which is then all queues', or a list, separated by commas: `N:MODE` for I/O queue N (from 1, as
/// `qid` in `stats`), and one `MODE` without a number, at most, for those that are not named; without it these are
/// `adaptive`. A queue that there is not, since the controller granted fewer, may be named.
///
/// ```
/// use nvme_driver::config::{PollingMode, PollingModes};
///
/// let modes: PollingModes = "1:polling,2:interrupt,adaptive".parse().unwrap();
/// assert_eq!(modes.of(1), PollingMode::Polling);
/// assert_eq!(modes.of(3), PollingMode::Adaptive);
/// assert_eq!(PollingModes::from(PollingMode::Interrupt).of(7), PollingMode::Interrupt);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PollingModes {
    others: PollingMode,
    single: BTreeMap<u16, PollingMode>,
}

impl PollingModes {
    /// The mode of I/O queue `qid`.
    pub fn of(&self, qid: u16) -> PollingMode {
        self.single.get(&qid).copied().unwrap_or(self.others)
    }

    /// The same, with `mode` for I/O queue `qid`.
    #[must_use]
    pub fn with(mut self, qid: u16, mode: PollingMode) -> Self {
        self.single.insert(qid, mode);
        self
    }
}

impl From<PollingMode> for PollingModes {
    /// One for all.
    fn from(others: PollingMode) -> Self {
        Self {
            others,
            single: BTreeMap::new(),
        }
    }
}

impl FromStr for PollingModes {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut others = None;
        let mut single = BTreeMap::new();
        for entry in text.split(',') {
            match entry.trim().split_once(':') {
                None => {
                    let mode = entry.trim().parse()?;
                    if others.replace(mode).is_some() {
                        return Err(());
                    }
                }
                Some((qid, mode)) => {
                    // `parse` would take a plus sign.
                    let digits = qid.bytes().all(|byte| byte.is_ascii_digit());
                    let qid = qid.parse().ok().filter(|qid| digits && *qid > 0).ok_or(())?;
                    if single.insert(qid, mode.trim().parse()?).is_some() {
                        return Err(());
                    }
                }
            }
        }
        Ok(Self {
            others: others.unwrap_or_default(),
            single,
        })
    }
}

impl fmt::Display for PollingModes {
    /// As it is accepted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (qid, mode) in &self.single {
            write!(f, "{qid}:{mode},")?;
        }
        write!(f, "{}", self.others)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_mode_is_for_all_and_a_list_for_single_queues() {
        let modes = |text: &str| text.parse::<PollingModes>();
        for (text, mode) in [
            ("false", PollingMode::Interrupt),
            ("interrupt", PollingMode::Interrupt),
            ("true", PollingMode::Polling),
            ("polling", PollingMode::Polling),
            ("adaptive", PollingMode::Adaptive),
        ] {
            assert_eq!(modes(text), Ok(mode.into()));
            assert_eq!(modes(text).map(|modes| modes.of(65535)), Ok(mode));
        }
        let list = modes("2:interrupt, 1:polling").unwrap();
        let of: Vec<_> = (1..4).map(|qid| list.of(qid)).collect();
        assert_eq!(
            of,
            [
                PollingMode::Polling,
                PollingMode::Interrupt,
                PollingMode::Adaptive
            ]
        );
        assert_eq!(
            modes("false,3:true").map(|modes| (modes.of(3), modes.of(4))),
            Ok((PollingMode::Polling, PollingMode::Interrupt))
        );
        for text in [
            "",
            ",",
            "1:",
            ":polling",
            "0:polling",
            "+1:polling",
            "65536:polling",
            "1:2:polling",
            "1:polling,1:polling",
            "true,false",
            "true,",
            "1:sometimes",
            "x:polling",
        ] {
            assert_eq!(modes(text), Err(()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_accepted(
            others in 0u8..3,
            single in proptest::collection::btree_map(1u16.., 0u8..3, 0..5),
        ) {
            let mode = |number| match number {
                0 => PollingMode::Interrupt,
                1 => PollingMode::Polling,
                _ => PollingMode::Adaptive,
            };
            let modes = single
                .into_iter()
                .fold(PollingModes::from(mode(others)), |modes, (qid, number)| modes.with(qid, mode(number)));
            prop_assert_eq!(modes.to_string().parse(), Ok(modes));
        }
    }
}
