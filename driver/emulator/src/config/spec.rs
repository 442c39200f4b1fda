//! SPEC strings: `key=value` pairs with commas between them, as in `--emulate=size=4GiB,namespaces=2,latency=80us`.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{
    Backing, Config, ConfigError, ManagementInterface, NamespaceConfig, Ready,
    units::{Bytes, Shown, Time, parse_bytes, parse_digits, parse_latency, parse_time},
};

/// One key: what it takes, and its way in and out.
struct Key {
    name: &'static str,
    /// What it takes, as error messages say it.
    accepted: &'static str,
    /// `None` if the text makes no sense. Ranges are left to [`Config::validate`].
    read: fn(&mut Draft, &str) -> Option<()>,
    /// The text that reads back to the same.
    show: fn(&Config) -> String,
}

/// A configuration whose lists have not met each other yet.
struct Draft {
    config: Config,
    sizes_bytes: Vec<u64>,
    lbas_bytes: Vec<u32>,
    namespaces: Option<usize>,
}

const ON_OFF: &str = "on or off";
const DELAY: &str = "a time such as 100ms (ns, us, ms or s), up to 600s";

const KEYS: [Key; 34] = [
    Key {
        name: "size",
        accepted: "bytes per namespace such as 4GiB (KiB, MiB, GiB, TiB or plain), a multiple of the block size, up to \
                   64TiB; or one for each, as in 1GiB/2GiB",
        read: |draft, text| {
            draft.sizes_bytes = text.split('/').map(parse_bytes).collect::<Option<_>>()?;
            Some(())
        },
        show: |config| list(config, |namespace| Bytes(namespace.size_bytes).to_string()),
    },
    Key {
        name: "namespaces",
        accepted: "a number from 1 to 128",
        read: |draft, text| {
            draft.namespaces = Some(number::<u8>(text)?.into());
            Some(())
        },
        show: |config| config.namespaces.len().to_string(),
    },
    Key {
        name: "lba",
        accepted: "512 or 4096; or one for each namespace, as in 512/4096",
        read: |draft, text| {
            draft.lbas_bytes = text.split('/').map(number).collect::<Option<_>>()?;
            Some(())
        },
        show: |config| list(config, |namespace| namespace.lba_bytes.to_string()),
    },
    Key {
        name: "backing",
        accepted: "memory, null or file:PATH",
        read: |draft, text| {
            draft.config.backing = match text {
                "memory" => Backing::Memory,
                "null" => Backing::Null,
                _ => Backing::File(PathBuf::from(text.strip_prefix("file:")?)),
            };
            Some(())
        },
        show: |config| match &config.backing {
            Backing::Memory => "memory".into(),
            Backing::Null => "null".into(),
            Backing::File(path) => format!("file:{}", path.display()),
        },
    },
    Key {
        name: "queues",
        accepted: "a number of I/O queue pairs from 1 to 4096",
        read: |draft, text| number(text).map(|queues| draft.config.queues = queues),
        show: |config| config.queues.to_string(),
    },
    Key {
        name: "depth",
        accepted: "a number of entries from 1 to 65536",
        read: |draft, text| number(text).map(|entries| draft.config.depth_entries = entries),
        show: |config| config.depth_entries.to_string(),
    },
    Key {
        name: "mdts",
        accepted: "a power of two from 8KiB to 4GiB, or none",
        read: |draft, text| {
            draft.config.mdts_bytes = or_none(text, parse_bytes)?;
            Some(())
        },
        show: |config| {
            config
                .mdts_bytes
                .map_or("none".into(), |bytes| Bytes(bytes).to_string())
        },
    },
    Key {
        name: "vectors",
        accepted: "a number from 1 to 2048",
        read: |draft, text| number(text).map(|vectors| draft.config.vectors = vectors),
        show: |config| config.vectors.to_string(),
    },
    Key {
        name: "dstrd",
        accepted: "a number from 0 to 15",
        read: |draft, text| number(text).map(|dstrd| draft.config.dstrd = dstrd),
        show: |config| config.dstrd.to_string(),
    },
    Key {
        name: "timeout",
        accepted: "a multiple of 500ms up to 127500ms",
        read: |draft, text| {
            let ns = parse_time(text).filter(|ns| ns.is_multiple_of(TIMEOUT_UNIT_NS))?;
            draft.config.timeout_500ms = u8::try_from(ns / TIMEOUT_UNIT_NS).ok()?;
            Some(())
        },
        show: |config| Time(u64::from(config.timeout_500ms) * TIMEOUT_UNIT_NS).to_string(),
    },
    Key {
        name: "mpsmax",
        accepted: "a number from 0 to 15",
        read: |draft, text| number(text).map(|mpsmax| draft.config.mpsmax = mpsmax),
        show: |config| config.mpsmax.to_string(),
    },
    Key {
        name: "cqr",
        accepted: ON_OFF,
        read: |draft, text| on_off(text).map(|on| draft.config.contiguous_queues = on),
        show: |config| shown_on_off(config.contiguous_queues),
    },
    Key {
        name: "threads",
        accepted: "a number from 1 to 64",
        read: |draft, text| number(text).map(|threads| draft.config.threads = threads),
        show: |config| config.threads.to_string(),
    },
    Key {
        name: "seed",
        accepted: "a number below 2^64",
        read: |draft, text| number(text).map(|seed| draft.config.seed = seed),
        show: |config| config.seed.to_string(),
    },
    Key {
        name: "serial",
        accepted: "1 to 20 printable ASCII characters without a comma",
        read: |draft, text| {
            draft.config.serial = text.into();
            Some(())
        },
        show: |config| config.serial.clone(),
    },
    Key {
        name: "model",
        accepted: "1 to 40 printable ASCII characters without a comma",
        read: |draft, text| {
            draft.config.model = text.into();
            Some(())
        },
        show: |config| config.model.clone(),
    },
    Key {
        name: "firmware",
        accepted: "1 to 8 printable ASCII characters without a comma",
        read: |draft, text| {
            draft.config.firmware = text.into();
            Some(())
        },
        show: |config| config.firmware.clone(),
    },
    Key {
        name: "latency",
        accepted: "none, a time such as 80us, or lognormal:MEDIAN:SIGMA such as lognormal:80us:0.3 (median up to 600s, \
                   sigma from 0 to 3)",
        read: |draft, text| parse_latency(text).map(|latency| draft.config.latency = latency),
        show: |config| Shown(&config.latency).to_string(),
    },
    Key {
        name: "write-latency",
        accepted: "same (as latency), none, a time such as 80us, or lognormal:MEDIAN:SIGMA (median up to 600s, sigma \
                   from 0 to 3)",
        read: |draft, text| {
            draft.config.write_latency = if text == "same" {
                None
            } else {
                Some(parse_latency(text)?)
            };
            Some(())
        },
        show: |config| {
            config
                .write_latency
                .map_or("same".into(), |latency| Shown(&latency).to_string())
        },
    },
    Key {
        name: "channels",
        accepted: "a number of commands that the medium works on at once up to 65536, 0 for any number",
        read: |draft, text| number(text).map(|channels| draft.config.channels = channels),
        show: |config| config.channels.to_string(),
    },
    Key {
        name: "bandwidth",
        accepted: "bytes per second such as 7GiB/s, or none",
        read: |draft, text| {
            let parse = |text: &str| parse_bytes(text.strip_suffix("/s").unwrap_or(text));
            draft.config.bandwidth_bytes_per_s = or_none(text, parse)?;
            Some(())
        },
        show: |config| {
            config
                .bandwidth_bytes_per_s
                .map_or("none".into(), |bytes| format!("{}/s", Bytes(bytes)))
        },
    },
    Key {
        name: "dbbuf",
        accepted: ON_OFF,
        read: |draft, text| on_off(text).map(|on| draft.config.dbbuf = on),
        show: |config| shown_on_off(config.dbbuf),
    },
    Key {
        name: "wrr",
        accepted: ON_OFF,
        read: |draft, text| on_off(text).map(|on| draft.config.wrr = on),
        show: |config| shown_on_off(config.wrr),
    },
    Key {
        name: "sgl",
        accepted: ON_OFF,
        read: |draft, text| on_off(text).map(|on| draft.config.sgl = on),
        show: |config| shown_on_off(config.sgl),
    },
    Key {
        name: "vwc",
        accepted: ON_OFF,
        read: |draft, text| on_off(text).map(|on| draft.config.vwc = on),
        show: |config| shown_on_off(config.vwc),
    },
    Key {
        name: "cache",
        accepted: "safe, or volatile for a write cache that loses what was not flushed when the process is killed or \
                   power is lost (with backing=file:PATH and vwc=on)",
        read: |draft, text| {
            draft.config.volatile_cache = match text {
                "safe" => false,
                "volatile" => true,
                _ => return None,
            };
            Some(())
        },
        show: |config| {
            if config.volatile_cache {
                "volatile".into()
            } else {
                "safe".into()
            }
        },
    },
    Key {
        name: "temperature",
        accepted: "kelvin such as 310K up to 65535K, 0K for not reported",
        read: |draft, text| {
            draft.config.temperature_kelvin = number(text.strip_suffix('K').unwrap_or(text))?;
            Some(())
        },
        show: |config| format!("{}K", config.temperature_kelvin),
    },
    Key {
        name: "spare",
        accepted: "available spare in percent such as 100%, from 0% to 100%",
        read: |draft, text| percent(text).map(|percent| draft.config.spare_percent = percent),
        show: |config| format!("{}%", config.spare_percent),
    },
    Key {
        name: "used",
        accepted: "how much of the device's life is used, in percent such as 3%, up to 255%",
        read: |draft, text| percent(text).map(|percent| draft.config.used_percent = percent),
        show: |config| format!("{}%", config.used_percent),
    },
    Key {
        name: "mi",
        accepted: "on, off, or full to have NVMe-MI answer in band what it should only answer out of band too",
        read: |draft, text| {
            draft.config.management = match text {
                "on" => ManagementInterface::On,
                "off" => ManagementInterface::Off,
                "full" => ManagementInterface::Full,
                _ => return None,
            };
            Some(())
        },
        show: |config| match config.management {
            ManagementInterface::On => "on".into(),
            ManagementInterface::Off => "off".into(),
            ManagementInterface::Full => "full".into(),
        },
    },
    Key {
        name: "ready",
        accepted: "normal, never or cfs",
        read: |draft, text| {
            draft.config.ready = match text {
                "normal" => Ready::Normal,
                "never" => Ready::Never,
                "cfs" => Ready::CfsOnEnable,
                _ => return None,
            };
            Some(())
        },
        show: |config| match config.ready {
            Ready::Normal => "normal".into(),
            Ready::Never => "never".into(),
            Ready::CfsOnEnable => "cfs".into(),
        },
    },
    Key {
        name: "ready-delay",
        accepted: DELAY,
        read: |draft, text| parse_time(text).map(|ns| draft.config.ready_delay_ns = ns),
        show: |config| Time(config.ready_delay_ns).to_string(),
    },
    Key {
        name: "shutdown-delay",
        accepted: DELAY,
        read: |draft, text| parse_time(text).map(|ns| draft.config.shutdown_delay_ns = ns),
        show: |config| Time(config.shutdown_delay_ns).to_string(),
    },
    Key {
        name: "spin",
        accepted: DELAY,
        read: |draft, text| parse_time(text).map(|ns| draft.config.spin_ns = ns),
        show: |config| Time(config.spin_ns).to_string(),
    },
];

/// Every key a SPEC may have.
pub const SPEC_KEYS: [&str; KEYS.len()] = {
    let mut names = [""; KEYS.len()];
    let mut index = 0;
    while index < KEYS.len() {
        names[index] = KEYS[index].name;
        index += 1;
    }
    names
};

const TIMEOUT_UNIT_NS: u64 = 500_000_000;

/// What `key` takes, for error messages.
pub(super) fn accepted(key: &str) -> &'static str {
    KEYS.iter()
        .find(|known| known.name == key)
        .map_or("no value", |known| known.accepted)
}

impl FromStr for Config {
    type Err = ConfigError;

    /// Reads a SPEC. What it does not mention stays at the default; an empty one is the default.
    fn from_str(spec: &str) -> Result<Self, ConfigError> {
        let mut draft = Draft {
            config: Self::default(),
            sizes_bytes: vec![],
            lbas_bytes: vec![],
            namespaces: None,
        };
        let mut given: Vec<(&'static str, &str)> = Vec::new();
        let items = spec.split(',').map(str::trim);
        for item in items.filter(|item| !item.is_empty() || !spec.trim().is_empty()) {
            let (name, value) = item
                .split_once('=')
                .ok_or_else(|| ConfigError::NotAPair { item: item.into() })?;
            let (name, value) = (name.trim(), value.trim());
            let key = KEYS
                .iter()
                .find(|key| key.name == name)
                .ok_or_else(|| ConfigError::UnknownKey {
                    key: name.into(),
                    nearest: nearest(name),
                })?;
            if given.iter().any(|(other, _)| *other == key.name) {
                return Err(ConfigError::Duplicate { key: key.name });
            }
            (key.read)(&mut draft, value).ok_or_else(|| ConfigError::BadValue {
                key: key.name,
                value: value.into(),
                accepted: key.accepted,
            })?;
            given.push((key.name, value));
        }
        let config = draft.join()?;
        config
            .validate()
            .map_err(|error| in_the_users_words(error, &given))?;
        Ok(config)
    }
}

impl fmt::Display for Config {
    /// The SPEC that reads back to this configuration: what differs from the default. (A path that is not UTF-8, or has a
    /// comma in it, cannot be said in a SPEC.)
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        let mut separator = "";
        for key in &KEYS {
            let value = (key.show)(self);
            if value != (key.show)(&default) {
                write!(f, "{separator}{}={value}", key.name)?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl Draft {
    /// Spreads sizes and block sizes over the namespaces.
    fn join(mut self) -> Result<Config, ConfigError> {
        let default = NamespaceConfig::default();
        let listed = self.sizes_bytes.len().max(self.lbas_bytes.len()).max(1);
        let namespaces = self.namespaces.unwrap_or(listed);
        for (key, listed) in [("size", self.sizes_bytes.len()), ("lba", self.lbas_bytes.len())] {
            if listed > 1 && listed != namespaces {
                return Err(ConfigError::WrongCount {
                    key,
                    listed,
                    namespaces,
                });
            }
        }
        self.config.namespaces = (0..namespaces)
            .map(|index| NamespaceConfig {
                size_bytes: pick(&self.sizes_bytes, index).unwrap_or(default.size_bytes),
                lba_bytes: pick(&self.lbas_bytes, index).unwrap_or(default.lba_bytes),
            })
            .collect();
        Ok(self.config)
    }
}

/// The value for namespace `index`: its own, or the only one there is.
fn pick<T: Copy>(list: &[T], index: usize) -> Option<T> {
    match list {
        [one] => Some(*one),
        many => many.get(index).copied(),
    }
}

/// One value if all namespaces share it, else all of them.
fn list(config: &Config, show: impl Fn(&NamespaceConfig) -> String) -> String {
    let mut values: Vec<String> = config.namespaces.iter().map(show).collect();
    if values.windows(2).all(|pair| pair.first() == pair.last()) {
        values.truncate(1);
    }
    values.join("/")
}

/// Quotes a value as it was written, instead of as it was understood.
fn in_the_users_words(error: ConfigError, given: &[(&'static str, &str)]) -> ConfigError {
    match error {
        ConfigError::BadValue { key, value, accepted } => {
            let written = given
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, text)| (*text).to_owned());
            ConfigError::BadValue {
                key,
                value: written.unwrap_or(value),
                accepted,
            }
        }
        other => other,
    }
}

fn number<T: TryFrom<u64>>(text: &str) -> Option<T> {
    T::try_from(parse_digits(text)?).ok()
}

fn or_none<T>(text: &str, parse: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "none" {
        Some(None)
    } else {
        parse(text).map(Some)
    }
}

fn percent(text: &str) -> Option<u8> {
    number(text.strip_suffix('%').unwrap_or(text))
}

fn on_off(text: &str) -> Option<bool> {
    match text {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

fn shown_on_off(on: bool) -> String {
    if on { "on".into() } else { "off".into() }
}

/// The key that `wrong` was meant to be, if one is at most two edits (and less than half of it) away.
fn nearest(wrong: &str) -> Option<&'static str> {
    let length = wrong.chars().count();
    // Whatever is this long is no typing error, and would only cost time.
    if length > 32 {
        return None;
    }
    SPEC_KEYS
        .into_iter()
        .map(|key| (edits(wrong, key), key))
        .filter(|(edits, key)| *edits <= 2 && *edits * 2 < key.len().max(length))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, key)| key)
}

/// Insertions, deletions and replacements from `a` to `b` (Levenshtein distance), row by row.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.chars().enumerate() {
        let mut left = row + 1;
        let mut current = vec![left];
        for (to, pair) in b.iter().zip(above.windows(2)) {
            if let [diagonal, up] = pair {
                let replaced = diagonal + usize::from(from != *to);
                left = replaced.min(up + 1).min(left + 1);
                current.push(left);
            }
        }
        above = current;
    }
    above.last().copied().unwrap_or(0)
}
