//! What the device is: every knob, the healthy default, and the text form `size=4GiB,latency=80us`.

mod spec;
mod units;

use std::path::PathBuf;

pub use spec::SPEC_KEYS;

/// Memory page size that MDTS is counted in: 2 ^ (12 + CAP.MPSMIN), and MPSMIN is 0 here.
pub const MIN_PAGE_BYTES: u64 = 4096;

/// Largest namespace, in bytes.
pub const MAX_NAMESPACE_BYTES: u64 = 64 << 40;

/// One namespace, as it is when the device is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// Size in bytes, a multiple of `lba_bytes`.
    pub size_bytes: u64,
    /// Logical block size in bytes: 512 or 4096.
    pub lba_bytes: u32,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            size_bytes: 1 << 30,
            lba_bytes: 4096,
        }
    }
}

/// Where the blocks are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backing {
    /// Sparse memory: only what was written takes room.
    #[default]
    Memory,
    /// Nowhere: reads return zeroes, writes are dropped.
    Null,
    /// A file, made if there is none. With several namespaces, namespace N is `PATH.N`.
    File(PathBuf),
}

/// How long the medium works on a command.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Latency {
    /// No time at all: as fast as the machine.
    #[default]
    None,
    /// The same for every command.
    Fixed {
        /// Time per command, in nanoseconds.
        ns: u64,
    },
    /// Log-normally distributed.
    LogNormal {
        /// Half of the commands are faster, in nanoseconds.
        median_ns: u64,
        /// Standard deviation of the logarithm. 0.3 puts the 99th percentile at twice the median.
        sigma: f64,
    },
}

/// What happens after CC.EN is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ready {
    /// CSTS.RDY follows after [`Config::ready_delay_ns`].
    #[default]
    Normal,
    /// CSTS.RDY never follows.
    Never,
    /// CSTS.CFS follows instead.
    CfsOnEnable,
}

/// What of NVMe-MI the controller answers in band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManagementInterface {
    /// Nothing: it has no NVMe-MI Send and Receive.
    Off,
    /// What NVMe-MI 1.2 lets a controller answer in band.
    #[default]
    On,
    /// Also Configuration Get of what belongs to the ports of the out-of-band interface, which is prohibited in band.
    Full,
}

/// All the knobs of the device. [`Default`] is a healthy controller with one namespace of 1 GiB in memory.
///
/// ```
/// use nvme_emulator::Config;
///
/// let config: Config = "size=4GiB,namespaces=2,lba=512,queues=4,latency=80us,seed=1".parse()?;
/// assert_eq!(config.namespaces.len(), 2);
/// assert_eq!(config.to_string().parse::<Config>()?, config);
/// # Ok::<(), nvme_emulator::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The namespaces, NSID 1 first. 1 to 128.
    pub namespaces: Vec<NamespaceConfig>,
    /// Where their blocks are.
    pub backing: Backing,
    /// I/O queue pairs granted at most, 1 to 4096.
    pub queues: u16,
    /// Entries per queue at most (CAP.MQES + 1), 1 to 65536. One entry breaks the specification, which wants two: for
    /// tests of drivers.
    pub depth_entries: u32,
    /// Most data that one command moves, in bytes: 4 KiB times a power of two, 8 KiB at the least (MDTS 0 means no
    /// limit). `None` = no limit.
    pub mdts_bytes: Option<u64>,
    /// Interrupt vectors, 1 to 2048.
    pub vectors: u16,
    /// Doorbell stride: CAP.DSTRD, 0 to 15.
    pub dstrd: u8,
    /// CAP.TO: worst time from CC.EN to CSTS.RDY, in units of 500 ms.
    pub timeout_500ms: u8,
    /// CAP.MPSMAX, 0 to 15: the largest host page is 4 KiB times two to this power. CAP.MPSMIN is 0.
    pub mpsmax: u8,
    /// CAP.CQR: queues must be physically contiguous.
    pub contiguous_queues: bool,
    /// Threads that run the device, 1 to 64.
    pub threads: u16,
    /// Where all chance comes from: latencies, faults, unique identifiers.
    pub seed: u64,
    /// Serial number, 1 to 20 printable ASCII characters, no comma.
    pub serial: String,
    /// Model number, 1 to 40 of the same.
    pub model: String,
    /// Firmware revision, 1 to 8 of the same.
    pub firmware: String,
    /// Time that the medium takes, for reads and for whatever has no time of its own.
    pub latency: Latency,
    /// Time for commands that write. `None` = as `latency`.
    pub write_latency: Option<Latency>,
    /// Commands that the medium works on at once; 0 = any number.
    pub channels: u32,
    /// Most data that the medium moves, in bytes per second. `None` = no limit.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Whether Doorbell Buffer Config is supported.
    pub dbbuf: bool,
    /// Whether weighted round robin with an urgent priority class is offered (CAP.AMS). A host that selects it finds that
    /// the device takes no more commands at once than keep its channels busy, so that the order in which it takes them
    /// matters.
    pub wrr: bool,
    /// Whether SGLs are supported in I/O commands.
    pub sgl: bool,
    /// Whether there is a volatile write cache.
    pub vwc: bool,
    /// Whether the volatile write cache is one in earnest: what was written and neither flushed, nor forced to the
    /// medium (FUA), nor shut down (CC.SHN) is in this process's memory, and lost when the process is killed, when the
    /// device is dropped and by a power cycle. Write Zeroes and Dataset Management go to the medium at once. Needs a
    /// file as the backing, and `vwc`. Otherwise the cache loses nothing that the operating system does not.
    pub volatile_cache: bool,
    /// Composite temperature in kelvin; 0 = not reported.
    pub temperature_kelvin: u16,
    /// Available spare, 0 to 100 percent. Below 10 it is a warning.
    pub spare_percent: u8,
    /// How much of the device's life is used, in percent; may pass 100, 255 stands for more.
    pub used_percent: u8,
    /// NVMe-MI in band.
    pub management: ManagementInterface,
    /// What follows CC.EN.
    pub ready: Ready,
    /// Time from CC.EN to CSTS.RDY, in nanoseconds.
    pub ready_delay_ns: u64,
    /// Time from CC.SHN to CSTS.SHST = complete, in nanoseconds.
    pub shutdown_delay_ns: u64,
    /// How long an idle device thread looks on before it sleeps, in nanoseconds.
    pub spin_ns: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            namespaces: vec![NamespaceConfig::default()],
            backing: Backing::Memory,
            queues: 64,
            depth_entries: 1024,
            mdts_bytes: Some(1 << 20),
            vectors: 65,
            dstrd: 0,
            timeout_500ms: 4,
            mpsmax: 4,
            contiguous_queues: true,
            threads: 1,
            seed: 0,
            serial: "EMU0000000000001".into(),
            model: "Emulated NVMe Controller".into(),
            firmware: env!("CARGO_PKG_VERSION").chars().take(8).collect(),
            latency: Latency::None,
            write_latency: None,
            channels: 0,
            bandwidth_bytes_per_s: None,
            dbbuf: true,
            wrr: false,
            sgl: true,
            vwc: true,
            volatile_cache: false,
            temperature_kelvin: 310,
            spare_percent: 100,
            used_percent: 0,
            management: ManagementInterface::On,
            ready: Ready::Normal,
            ready_delay_ns: 0,
            shutdown_delay_ns: 0,
            spin_ns: 50_000,
        }
    }
}

impl Config {
    /// CAP.MQES: entries per queue, 0's based.
    #[must_use]
    pub fn mqes_z(&self) -> u16 {
        u16::try_from(self.depth_entries.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    /// Identify Controller's MDTS: the power of two in units of 4 KiB, 0 = no limit.
    #[must_use]
    pub fn mdts(&self) -> u8 {
        let pages = self.mdts_bytes.map_or(1, |bytes| bytes / MIN_PAGE_BYTES);
        pages.checked_ilog2().map_or(0, |log| log as u8)
    }

    /// Whether the device can be built like this; the error names the SPEC key. A SPEC that parses is valid already.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(
            "namespaces",
            self.namespaces.len(),
            (1..=128).contains(&self.namespaces.len()),
        )?;
        for namespace in &self.namespaces {
            let NamespaceConfig {
                size_bytes,
                lba_bytes,
            } = *namespace;
            check("lba", lba_bytes, lba_bytes == 512 || lba_bytes == 4096)?;
            let fits = (1..=MAX_NAMESPACE_BYTES).contains(&size_bytes);
            check(
                "size",
                size_bytes,
                fits && size_bytes.is_multiple_of(u64::from(lba_bytes)),
            )?;
        }
        if let Backing::File(path) = &self.backing {
            check("backing", "file:", !path.as_os_str().is_empty())?;
        }
        let has_cache = self.vwc && matches!(self.backing, Backing::File(_));
        check("cache", "volatile", has_cache || !self.volatile_cache)?;
        check("queues", self.queues, (1..=4096).contains(&self.queues))?;
        check(
            "depth",
            self.depth_entries,
            (1..=65_536).contains(&self.depth_entries),
        )?;
        if let Some(bytes) = self.mdts_bytes {
            let pages = bytes / MIN_PAGE_BYTES;
            check(
                "mdts",
                bytes,
                bytes.is_power_of_two() && (2..=1 << 20).contains(&pages),
            )?;
        }
        check("vectors", self.vectors, (1..=2048).contains(&self.vectors))?;
        check("dstrd", self.dstrd, self.dstrd <= 15)?;
        check("mpsmax", self.mpsmax, self.mpsmax <= 15)?;
        check("threads", self.threads, (1..=64).contains(&self.threads))?;
        check("serial", &self.serial, is_identifier(&self.serial, 20))?;
        check("model", &self.model, is_identifier(&self.model, 40))?;
        check("firmware", &self.firmware, is_identifier(&self.firmware, 8))?;
        for (key, latency) in [
            ("latency", Some(self.latency)),
            ("write-latency", self.write_latency),
        ] {
            let sane = match latency {
                None | Some(Latency::None) => true,
                Some(Latency::Fixed { ns }) => (1..=MAX_DELAY_NS).contains(&ns),
                Some(Latency::LogNormal { median_ns, sigma }) => {
                    (1..=MAX_DELAY_NS).contains(&median_ns) && (0.0..=3.0).contains(&sigma)
                }
            };
            check(key, units::Shown(&latency.unwrap_or_default()), sane)?;
        }
        check("channels", self.channels, self.channels <= 65_536)?;
        check("spare", self.spare_percent, self.spare_percent <= 100)?;
        check("bandwidth", 0, self.bandwidth_bytes_per_s != Some(0))?;
        check(
            "ready-delay",
            self.ready_delay_ns,
            self.ready_delay_ns <= MAX_DELAY_NS,
        )?;
        check(
            "shutdown-delay",
            self.shutdown_delay_ns,
            self.shutdown_delay_ns <= MAX_DELAY_NS,
        )?;
        check("spin", self.spin_ns, self.spin_ns <= MAX_DELAY_NS)
    }
}

/// Longest delay that can be asked for: ten minutes.
const MAX_DELAY_NS: u64 = 600 * 1_000_000_000;

fn check(key: &'static str, value: impl std::fmt::Display, good: bool) -> Result<(), ConfigError> {
    if good {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        key,
        value: value.to_string(),
        accepted: spec::accepted(key),
    })
}

/// What may stand in a serial number and the like (Base 2.0, section 1.8: ASCII 20h to 7Eh), and survives a SPEC.
fn is_identifier(text: &str, max_len: usize) -> bool {
    (1..=max_len).contains(&text.len())
        && text
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b',')
        && text.trim() == text
}

/// Why a SPEC (or a [`Config`]) was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that the key does not take.
    #[error("emulator: bad value `{value}` for `{key}`: {accepted}")]
    BadValue {
        /// The key of the SPEC.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is accepted.
        accepted: &'static str,
    },
    /// A key that does not exist.
    #[error("emulator: unknown key `{key}`{}; keys are {}", did_you_mean(*.nearest), spec::SPEC_KEYS.join(", "))]
    UnknownKey {
        /// What was given.
        key: String,
        /// The key that was meant, perhaps.
        nearest: Option<&'static str>,
    },
    /// A key given twice.
    #[error("emulator: `{key}` is given more than once; keep one")]
    Duplicate {
        /// The key of the SPEC.
        key: &'static str,
    },
    /// Something without `=`.
    #[error("emulator: `{item}` is not of the form key=value; write for example size=4GiB,latency=80us")]
    NotAPair {
        /// What was given.
        item: String,
    },
    /// Lists that do not fit each other.
    #[error(
        "emulator: `{key}` lists {listed} values for {namespaces} namespaces; give one value for all of them, or one each"
    )]
    WrongCount {
        /// The key of the SPEC.
        key: &'static str,
        /// How many values were given.
        listed: usize,
        /// How many namespaces there are.
        namespaces: usize,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|key| format!(", did you mean `{key}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
