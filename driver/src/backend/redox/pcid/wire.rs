//! What goes over pcid's channel: the encoding of bincode 1, where a variant is a 32-bit number, integers have their width
//! and are little-endian, an option is a byte and perhaps a value, and a list is a 64-bit length and its elements.

use std::fmt;

/// A way to send interrupts, by PCI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Message-signalled interrupts, of which this driver uses one vector.
    Msi,
    /// The same with a table of vectors in a BAR.
    MsiX,
}

impl Feature {
    fn variant(self) -> u32 {
        match self {
            Self::Msi => 0,
            Self::MsiX => 1,
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Msi => "MSI",
            Self::MsiX => "MSI-X",
        })
    }
}

/// What pcid is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What function this is.
    Config,
    /// Which features it has.
    Features,
    /// To turn one on.
    Enable(Feature),
    /// What it says of one.
    Info(Feature),
    /// To set the one vector of MSI.
    SetMsi {
        /// Where the interrupt is written.
        address: u64,
        /// What is written there.
        data: u32,
        /// Whether the mask bits are to be cleared too.
        unmask: bool,
    },
    /// To read 32 bits of configuration space.
    ReadConfig(u16),
    /// To write 32 bits of configuration space.
    WriteConfig(u16, u32),
}

impl Request {
    /// As it is written.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        // EnableDevice is number 0 and RequestVendorCapabilities number 3. pcid-spawner has sent the first already.
        let variant: u32 = match self {
            Self::Config => 1,
            Self::Features => 2,
            Self::Enable(_) => 4,
            Self::Info(_) => 5,
            Self::SetMsi { .. } => 6,
            Self::ReadConfig(_) => 7,
            Self::WriteConfig(..) => 8,
        };
        bytes.extend(variant.to_le_bytes());
        match self {
            Self::Config | Self::Features => {}
            Self::Enable(feature) | Self::Info(feature) => bytes.extend(feature.variant().to_le_bytes()),
            Self::SetMsi {
                address,
                data,
                unmask,
            } => {
                bytes.extend(Feature::Msi.variant().to_le_bytes());
                // Multiple Message Enable: 2^0 vectors.
                bytes.extend([1, 0]);
                bytes.push(1);
                bytes.extend(address.to_le_bytes());
                bytes.extend(data.to_le_bytes());
                bytes.push(u8::from(unmask));
                if unmask {
                    bytes.extend(0_u32.to_le_bytes());
                }
            }
            Self::ReadConfig(offset) => bytes.extend(offset.to_le_bytes()),
            Self::WriteConfig(offset, value) => {
                bytes.extend(offset.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("describe the function"),
            Self::Features => f.write_str("list the function's features"),
            Self::Enable(feature) => write!(f, "enable {feature}"),
            Self::Info(feature) => write!(f, "describe {feature}"),
            Self::SetMsi { address, data, .. } => write!(f, "set MSI to write {data:#x} to {address:#x}"),
            Self::ReadConfig(offset) => write!(f, "read configuration space at {offset:#x}"),
            Self::WriteConfig(offset, value) => {
                write!(f, "write {value:#010x} to configuration space at {offset:#x}")
            }
        }
    }
}

/// What pcid answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The device is enabled: nothing that is asked here.
    EnabledDevice,
    /// The function.
    Config(Function),
    /// The features that it has.
    Features(Vec<Feature>),
    /// Capabilities of the vendor's: nothing that is asked here.
    VendorCapabilities,
    /// A feature is on now.
    Enabled(Feature),
    /// Whether a feature is on: nothing that is asked here.
    Status,
    /// No.
    Refused(Refusal),
    /// What a feature is like.
    Info(Feature, Info),
    /// A feature has been set.
    Set(Feature),
    /// From configuration space.
    ReadConfig(u32),
    /// Configuration space is written.
    WriteConfig,
}

/// Why pcid said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The function does not have it.
    #[error("the function has no {0}")]
    NoFeature(Feature),
    /// Bits that cannot be set.
    #[error("those bits cannot be set so")]
    InvalidBits,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// PCI segment group.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device on it.
    pub device: u8,
    /// Function of it.
    pub function: u8,
    /// Base address registers.
    pub bars: [Bar; 6],
    /// The interrupt line, if the function has a pin.
    pub line: Option<LegacyLine>,
    /// Vendor id.
    pub vendor_id: u16,
    /// Device id.
    pub device_id: u16,
    /// Class, subclass and programming interface: 1, 8, 2 for NVMe.
    pub class: [u8; 3],
    /// Revision.
    pub revision: u8,
}

impl Function {
    /// As the PCI bus writes it: `0000:00:02.0`.
    pub fn address(&self) -> String {
        let Self {
            segment,
            bus,
            device,
            function,
            ..
        } = self;
        format!("{segment:04x}:{bus:02x}:{device:02x}.{function:x}")
    }

    /// As Redox names schemes after it: `pci-0000-00-02.0`.
    pub fn name(&self) -> String {
        format!("pci-{}", self.address().replace(':', "-"))
    }
}

/// A base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// There is none.
    None,
    /// Memory.
    Memory {
        /// Where the bus sees it.
        address: u64,
        /// How long it is.
        len_bytes: u64,
    },
    /// A port of old.
    Port(u16),
}

/// The line that interrupts come by where there are no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyLine {
    /// The kernel's number of it.
    pub irq: u8,
    /// Where the system is described by a device tree: the interrupt controller's handle, the line's address there, and
    /// of how many cells that is.
    pub phandle: Option<(u32, [u32; 3], u64)>,
}

/// What the function says of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Info {
    /// Of MSI.
    Msi(MsiInfo),
    /// Of MSI-X.
    MsiX(MsixInfo),
}

/// MSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiInfo {
    /// As a power of two, how many vectors it could have.
    pub log2_vectors: u8,
    /// Whether the address may have 64 bits.
    pub is_64_bit: bool,
    /// Whether single vectors can be masked.
    pub has_mask: bool,
}

/// MSI-X: where the table of vectors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixInfo {
    /// The BAR that it is in.
    pub table_bar: u8,
    /// Where in it, in bytes.
    pub table_offset: u32,
    /// How many vectors.
    pub table_entries: u16,
    /// The BAR with the bits that say which are pending.
    pub pba_bar: u8,
    /// Where in it, in bytes.
    pub pba_offset: u32,
}

/// How an answer is none to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It answers another request.
    #[error("the answer is another one's: {0}")]
    Other(&'static str),
    /// There is no such kind of answer.
    #[error("the answer is of a kind {0} that is not known")]
    Kind(u32),
    /// It ends in the middle.
    #[error("the answer ends in the middle")]
    Short,
    /// There is more than belongs to it.
    #[error("{0} bytes follow the answer")]
    Long(usize),
    /// Something in it has no meaning.
    #[error("{what} {value} in the answer is not known")]
    Value {
        /// What.
        what: &'static str,
        /// What it is there.
        value: u64,
    },
}

impl Reply {
    /// Its name in the protocol.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EnabledDevice => "EnabledDevice",
            Self::Config(_) => "Config",
            Self::Features(_) => "AllFeatures",
            Self::VendorCapabilities => "VendorCapabilities",
            Self::Enabled(Feature::Msi) => "FeatureEnabled(Msi)",
            Self::Enabled(Feature::MsiX) => "FeatureEnabled(MsiX)",
            Self::Status => "FeatureStatus",
            Self::Refused(_) => "Error",
            Self::Info(..) => "FeatureInfo",
            Self::Set(Feature::Msi) => "SetFeatureInfo(Msi)",
            Self::Set(Feature::MsiX) => "SetFeatureInfo(MsiX)",
            Self::ReadConfig(_) => "ReadConfig",
            Self::WriteConfig => "WriteConfig",
        }
    }

    /// The one answer that is in `bytes`, and nothing else.
    ///
    /// # Errors
    /// There is no answer in them, or more.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut from = Reader(bytes);
        let reply = match from.u32()? {
            0 => Self::EnabledDevice,
            1 => Self::Config(from.function()?),
            2 => Self::Features(from.features()?),
            // What comes with these two is of no use, so it is not looked at.
            3 => return Ok(Self::VendorCapabilities),
            5 => return Ok(Self::Status),
            4 => Self::Enabled(from.feature()?),
            6 => Self::Refused(from.refusal()?),
            7 => Self::Info(from.feature()?, from.info()?),
            8 => Self::Set(from.feature()?),
            9 => Self::ReadConfig(from.u32()?),
            10 => Self::WriteConfig,
            kind => return Err(Malformed::Kind(kind)),
        };
        match from.0.len() {
            0 => Ok(reply),
            left => Err(Malformed::Long(left)),
        }
    }
}

/// Takes values off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_le_bytes)
    }

    fn bool(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(unknown(what, value)),
        }
    }

    fn feature(&mut self) -> Result<Feature, Malformed> {
        match self.u32()? {
            0 => Ok(Feature::Msi),
            1 => Ok(Feature::MsiX),
            value => Err(unknown("feature", value)),
        }
    }

    fn features(&mut self) -> Result<Vec<Feature>, Malformed> {
        let mut features = Vec::new();
        // Each takes bytes that there are, so a length that lies ends this, and nothing is allocated on its word.
        for _ in 0..self.u64()? {
            features.push(self.feature()?);
        }
        Ok(features)
    }

    fn refusal(&mut self) -> Result<Refusal, Malformed> {
        match self.u32()? {
            0 => Ok(Refusal::NoFeature(self.feature()?)),
            1 => Ok(Refusal::InvalidBits),
            value => Err(unknown("refusal", value)),
        }
    }

    fn info(&mut self) -> Result<Info, Malformed> {
        match self.feature()? {
            Feature::Msi => Ok(Info::Msi(MsiInfo {
                log2_vectors: self.u8()?,
                is_64_bit: self.bool("MSI's width")?,
                has_mask: self.bool("MSI's mask")?,
            })),
            Feature::MsiX => Ok(Info::MsiX(MsixInfo {
                table_bar: self.u8()?,
                table_offset: self.u32()?,
                table_entries: self.u16()?,
                pba_bar: self.u8()?,
                pba_offset: self.u32()?,
            })),
        }
    }

    fn bar(&mut self) -> Result<Bar, Malformed> {
        match self.u32()? {
            0 => Ok(Bar::None),
            1 => Ok(Bar::Memory {
                address: self.u32()?.into(),
                len_bytes: self.u32()?.into(),
            }),
            2 => Ok(Bar::Memory {
                address: self.u64()?,
                len_bytes: self.u64()?,
            }),
            3 => Ok(Bar::Port(self.u16()?)),
            value => Err(unknown("kind of BAR", value)),
        }
    }

    fn line(&mut self) -> Result<LegacyLine, Malformed> {
        let irq = self.u8()?;
        let phandle = if self.bool("interrupt controller's handle")? {
            let (handle, address) = (self.u32()?, [self.u32()?, self.u32()?, self.u32()?]);
            Some((handle, address, self.u64()?))
        } else {
            None
        };
        Ok(LegacyLine { irq, phandle })
    }

    fn function(&mut self) -> Result<Function, Malformed> {
        // A literal's fields are evaluated in the order in which they stand here, which is that of the protocol.
        Ok(Function {
            segment: self.u16()?,
            bus: self.u8()?,
            device: self.u8()?,
            function: self.u8()?,
            bars: [
                self.bar()?,
                self.bar()?,
                self.bar()?,
                self.bar()?,
                self.bar()?,
                self.bar()?,
            ],
            line: if self.bool("interrupt line")? {
                Some(self.line()?)
            } else {
                None
            },
            vendor_id: self.u16()?,
            device_id: self.u16()?,
            class: self.take()?,
            revision: self.u8()?,
        })
    }
}

fn unknown(what: &'static str, value: impl Into<u64>) -> Malformed {
    let value = value.into();
    Malformed::Value { what, value }
}
