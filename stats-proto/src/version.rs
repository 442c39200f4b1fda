use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The version of a document's shape, written as `"1.0"`.
///
/// A field that is added raises the minor version; anything that would mislead an older reader raises the
/// major one. A reader therefore accepts every minor version of [`Version::MAJOR`] (fields it does not know
/// are skipped) and refuses every other major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The number of additions since 1.0.
    pub minor: u16,
}

/// Why a version string was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Not of the form `MAJOR.MINOR`.
    #[error("version {0:?} is not of the form MAJOR.MINOR, such as \"1.0\"")]
    Malformed(String),
    /// A document of a generation that this crate cannot read.
    #[error("documents of version {0} are not understood here, only 1.x: use a tool as new as the driver")]
    Major(String),
}

impl Version {
    /// The only major version there is.
    pub const MAJOR: u16 = 1;
    /// What this crate writes, but for the statistics and events: 1.1 has the class and deadline of a benchmark's requests,
    /// and the deadlines of slow commands.
    pub const CURRENT: Self = Self { minor: 1 };
    /// Of the statistics that this crate writes: 1.1 has what clients hold, and how many commands were slow;
    /// 1.2 has the sockets of schemes; 1.3 has classes and deadlines; 1.4 has merged requests.
    pub const STATS: Self = Self { minor: 4 };
    /// Of the events that this crate writes: 1.1 has those of the controller, of namespaces that come and go, and of a
    /// controller that is wanted back; 1.2 has the change of the scheduler.
    pub const EVENT: Self = Self { minor: 2 };
}

impl Default for Version {
    fn default() -> Self {
        Self::CURRENT
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", Self::MAJOR, self.minor)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        let malformed = || VersionError::Malformed(text.to_owned());
        let (major, minor) = text.split_once('.').ok_or_else(malformed)?;
        let (major, minor) = number(major).zip(number(minor)).ok_or_else(malformed)?;
        if major == Self::MAJOR {
            Ok(Self { minor })
        } else {
            Err(VersionError::Major(text.to_owned()))
        }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_as_major_dot_minor_and_read_back() {
        assert_eq!(serde_json::to_string(&Version::CURRENT).unwrap(), "\"1.1\"");
        assert_eq!(
            serde_json::from_str::<Version>("\"1.7\"").unwrap(),
            Version { minor: 7 }
        );
    }

    #[test]
    fn another_major_version_is_refused_by_name() {
        let error = serde_json::from_str::<Version>("\"2.0\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("version 2.0") && error.contains("1.x"), "{error}");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "1", "1.", ".0", "1.0.0", "+1.0", "1.-0", "1.99999", "one"] {
            assert_eq!(
                text.parse::<Version>(),
                Err(VersionError::Malformed(text.to_owned()))
            );
        }
    }
}
