//! pcid's side of a driver's channel: a request in one write, an answer in as many reads as are wanted.
//!
//! bincode 1 with fixed widths: the number of a variant in four bytes, numbers little-endian, a byte before what may be
//! missing, eight bytes of length before a list.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use syscall::error::{EINVAL, EIO, Error, Result};

use crate::controller::Controller;

/// What pcid can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PcidRequest {
    EnableDevice,
    RequestConfig,
    RequestFeatures,
    RequestVendorCapabilities,
    EnableFeature,
    FeatureInfo,
    SetFeatureInfo,
    ReadConfig,
    WriteConfig,
}

impl PcidRequest {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::EnableDevice,
        Self::RequestConfig,
        Self::RequestFeatures,
        Self::RequestVendorCapabilities,
        Self::EnableFeature,
        Self::FeatureInfo,
        Self::SetFeatureInfo,
        Self::ReadConfig,
        Self::WriteConfig,
    ];
}

/// How an answer of pcid's is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PcidQuirk {
    /// The answer to another request.
    WrongVariant,
    /// The answer that says that something went wrong.
    ErrorVariant,
    /// A variant that there is not.
    UnknownVariant,
    /// The whole answer comes, but a byte at a time.
    OneByteAtATime,
    /// The length says so, and it is so: the answer lacks its last byte.
    Truncated,
    /// The length is right, but the end comes before it.
    EndsEarly,
    /// There is a byte too many.
    TooLong,
    /// The length is absurd.
    AbsurdLength,
    /// The length is zero.
    NoLength,
    /// Nothing comes: end of file.
    EndOfFile,
    /// The read fails with `EIO`.
    ReadFails,
    /// The write fails with `EIO`.
    WriteFails,
    /// The write takes less than it was given.
    WriteIsShort,
    /// Bytes that mean nothing, as many as the answer would have.
    Garbage,
}

impl PcidQuirk {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::WrongVariant,
        Self::ErrorVariant,
        Self::UnknownVariant,
        Self::OneByteAtATime,
        Self::Truncated,
        Self::EndsEarly,
        Self::TooLong,
        Self::AbsurdLength,
        Self::NoLength,
        Self::EndOfFile,
        Self::ReadFails,
        Self::WriteFails,
        Self::WriteIsShort,
        Self::Garbage,
    ];
}

/// One driver's channel.
#[derive(Default)]
pub(crate) struct Channel {
    answer: VecDeque<u8>,
    awaits_read: bool,
    one_byte_at_a_time: bool,
    read_fails: bool,
    /// Where the answer ends, the file does.
    hangs_up: bool,
    quirks: Vec<(PcidRequest, PcidQuirk)>,
    requests: Vec<PcidRequest>,
}

/// The variants of answers.
mod variant {
    pub const ENABLED_DEVICE: u32 = 0;
    pub const CONFIG: u32 = 1;
    pub const ALL_FEATURES: u32 = 2;
    pub const VENDOR_CAPABILITIES: u32 = 3;
    pub const FEATURE_ENABLED: u32 = 4;
    pub const ERROR: u32 = 6;
    pub const FEATURE_INFO: u32 = 7;
    pub const SET_FEATURE_INFO: u32 = 8;
    pub const READ_CONFIG: u32 = 9;
    pub const WRITE_CONFIG: u32 = 10;
}

const MSI: u32 = 0;
const MSIX: u32 = 1;
const NONEXISTENT_FEATURE: u32 = 0;
const INVALID_BIT_PATTERN: u32 = 1;

/// Takes a request apart.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Error::new(EINVAL))?;
        self.0 = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Error::new(EINVAL)),
        }
    }

    fn bool(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::new(EINVAL)),
        }
    }

    fn feature(&mut self) -> Result<u32> {
        self.u32().and_then(|feature| {
            if feature <= MSIX {
                Ok(feature)
            } else {
                Err(Error::new(EINVAL))
            }
        })
    }
}

/// An answer: its variant, then what belongs to it.
fn answer(variant: u32, rest: &[&[u8]]) -> Vec<u8> {
    [&variant.to_le_bytes()[..], &rest.concat()].concat()
}

fn failure(kind: u32, feature: Option<u32>) -> Vec<u8> {
    let feature = feature.map(u32::to_le_bytes);
    answer(
        variant::ERROR,
        &[
            &kind.to_le_bytes(),
            feature.as_ref().map_or(&[], |bytes| &bytes[..]),
        ],
    )
}

/// The message that MSI is to send, and the rest of what can be set.
struct MsiSettings {
    vectors_log2: Option<u8>,
    message: Option<(u64, u32)>,
    mask: Option<u32>,
}

impl Controller {
    fn channel(&self) -> MutexGuard<'_, Channel> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, pcid's answers to `request` are odd in this way.
    pub fn upset_pcid(&self, request: PcidRequest, quirk: PcidQuirk) {
        self.channel().quirks.push((request, quirk));
    }

    /// pcid is well again.
    pub fn calm_pcid(&self) {
        self.channel().quirks.clear();
    }

    /// What pcid was asked so far.
    #[must_use]
    pub fn pcid_requests(&self) -> Vec<PcidRequest> {
        self.channel().requests.clone()
    }

    pub(crate) fn close_channel(&self) {
        *self.channel() = Channel::default();
    }

    pub(crate) fn write_channel(&self, from: &[u8]) -> Result<usize> {
        let mut channel = self.channel();
        if channel.awaits_read {
            return Err(Error::new(EINVAL));
        }
        let mut reader = Reader(from);
        let number = reader.u32()? as usize;
        let request = *PcidRequest::ALL.get(number).ok_or(Error::new(EINVAL))?;
        let quirk = channel
            .quirks
            .iter()
            .find(|(of, _)| *of == request)
            .map(|(_, quirk)| *quirk);
        if quirk == Some(PcidQuirk::WriteFails) {
            return Err(Error::new(EIO));
        }
        let bytes = self.respond(request, &mut reader)?;
        channel.requests.push(request);
        channel.awaits_read = true;
        channel.set_answer(bytes, quirk);
        Ok(from.len() - usize::from(quirk == Some(PcidQuirk::WriteIsShort)))
    }

    pub(crate) fn read_channel(&self, into: &mut [u8]) -> Result<usize> {
        let mut channel = self.channel();
        if !channel.awaits_read {
            return Err(Error::new(EINVAL));
        }
        if channel.read_fails {
            return Err(Error::new(EIO));
        }
        let limit = if channel.one_byte_at_a_time { 1 } else { into.len() };
        let count = channel.answer.len().min(limit).min(into.len());
        for (to, byte) in into.iter_mut().zip(channel.answer.drain(..count)) {
            *to = byte;
        }
        if channel.answer.is_empty() && !channel.hangs_up {
            channel.awaits_read = false;
        }
        Ok(count)
    }

    fn respond(&self, request: PcidRequest, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        Ok(match request {
            PcidRequest::EnableDevice => {
                self.enable();
                answer(variant::ENABLED_DEVICE, &[])
            }
            PcidRequest::RequestConfig => answer(variant::CONFIG, &[&self.encode_config()]),
            PcidRequest::RequestFeatures => {
                let mut features = Vec::new();
                // Whatever order the capabilities are in.
                features.extend(self.config.msix.map(|_| MSIX));
                features.extend(self.config.msi.then_some(MSI));
                let list: Vec<u8> = features
                    .iter()
                    .flat_map(|feature| feature.to_le_bytes())
                    .collect();
                answer(
                    variant::ALL_FEATURES,
                    &[&(features.len() as u64).to_le_bytes(), &list],
                )
            }
            PcidRequest::RequestVendorCapabilities => {
                answer(variant::VENDOR_CAPABILITIES, &[&0_u64.to_le_bytes()])
            }
            PcidRequest::EnableFeature => self.enable_feature(reader.feature()?),
            PcidRequest::FeatureInfo => self.feature_info(reader.feature()?),
            PcidRequest::SetFeatureInfo => self.set_feature_info(reader)?,
            PcidRequest::ReadConfig => {
                let value = self.read_space(reader.u16()?);
                answer(variant::READ_CONFIG, &[&value.to_le_bytes()])
            }
            PcidRequest::WriteConfig => {
                let (offset, value) = (reader.u16()?, reader.u32()?);
                self.write_space(offset, value);
                answer(variant::WRITE_CONFIG, &[])
            }
        })
    }

    /// Address, six BARs, the line, and what kind of device it is.
    fn encode_config(&self) -> Vec<u8> {
        let (config, ids) = (&self.config, &self.config.ids);
        let mut bytes = Vec::new();
        bytes.extend(config.address.segment.to_le_bytes());
        bytes.extend([config.address.bus, config.address.device, config.address.function]);
        for bar in 0..6 {
            let (len_bytes, address) = (self.bars.len_bytes(bar), 0xFEB0_0000 + 0x10_0000 * bar as u64);
            if len_bytes == 0 {
                bytes.extend(0_u32.to_le_bytes());
            } else if config.bars_64bit {
                bytes.extend(2_u32.to_le_bytes());
                bytes.extend((address | 1 << 36).to_le_bytes());
                bytes.extend(len_bytes.to_le_bytes());
            } else {
                bytes.extend(1_u32.to_le_bytes());
                bytes.extend((address as u32).to_le_bytes());
                bytes.extend((len_bytes as u32).to_le_bytes());
            }
        }
        match config.line {
            // A line without a handle in a device tree.
            Some(line) => bytes.extend([1, line, 0]),
            None => bytes.push(0),
        }
        bytes.extend(ids.vendor.to_le_bytes());
        bytes.extend(ids.device.to_le_bytes());
        bytes.extend([ids.class, ids.subclass, ids.interface, ids.revision]);
        bytes
    }

    fn has_feature(&self, feature: u32) -> bool {
        if feature == MSIX {
            self.config.msix.is_some()
        } else {
            self.config.msi
        }
    }

    fn enable_feature(&self, feature: u32) -> Vec<u8> {
        let is_msix = feature == MSIX;
        let mut space = self.space();
        // The other one is switched off first, even if this one is not there.
        if is_msix {
            space.msi_enabled = false;
        } else {
            space.msix_enabled = false;
        }
        if !self.has_feature(feature) {
            return failure(NONEXISTENT_FEATURE, Some(feature));
        }
        if is_msix {
            space.msix_enabled = true;
        } else {
            space.msi_enabled = true;
        }
        answer(variant::FEATURE_ENABLED, &[&feature.to_le_bytes()])
    }

    fn feature_info(&self, feature: u32) -> Vec<u8> {
        if !self.has_feature(feature) {
            return failure(NONEXISTENT_FEATURE, Some(feature));
        }
        let number = feature.to_le_bytes();
        if feature == MSI {
            // One message, 64 bits of address, no masks.
            return answer(variant::FEATURE_INFO, &[&number, &number, &[0, 1, 0]]);
        }
        let layout = &self.bars.layout;
        answer(
            variant::FEATURE_INFO,
            &[
                &number,
                &number,
                &[layout.table_bar as u8],
                &(layout.table_offset as u32).to_le_bytes(),
                &layout.table_entries.to_le_bytes(),
                &[layout.table_bar as u8],
                &(layout.pending_offset as u32).to_le_bytes(),
            ],
        )
    }

    fn set_feature_info(&self, reader: &mut Reader<'_>) -> Result<Vec<u8>> {
        let feature = reader.feature()?;
        let done = answer(variant::SET_FEATURE_INFO, &[&feature.to_le_bytes()]);
        if feature == MSIX {
            let mask = reader.option(Reader::bool)?;
            if !self.has_feature(MSIX) {
                return Ok(failure(NONEXISTENT_FEATURE, Some(MSIX)));
            }
            if let Some(mask) = mask {
                self.space().msix_masked = mask;
            }
            return Ok(done);
        }
        let settings = MsiSettings {
            vectors_log2: reader.option(Reader::u8)?,
            message: reader.option(|reader| Ok((reader.u64()?, reader.u32()?)))?,
            mask: reader.option(Reader::u32)?,
        };
        if !self.has_feature(MSI) {
            return Ok(failure(NONEXISTENT_FEATURE, Some(MSI)));
        }
        let mut space = self.space();
        if let Some(vectors_log2) = settings.vectors_log2 {
            if vectors_log2 > 0 {
                return Ok(failure(INVALID_BIT_PATTERN, None));
            }
            space.msi_vectors_log2 = vectors_log2;
        }
        if let Some((address, data)) = settings.message {
            let vectors = (1 << space.msi_vectors_log2) - 1;
            if address & 0b11 != 0 || data & vectors != 0 {
                return Ok(failure(INVALID_BIT_PATTERN, None));
            }
            (space.msi_address, space.msi_data) = (address, data);
        }
        if let Some(mask) = settings.mask {
            space.msi_mask = mask;
        }
        Ok(done)
    }
}

impl Channel {
    fn set_answer(&mut self, bytes: Vec<u8>, quirk: Option<PcidQuirk>) {
        let number = |bytes: &[u8]| {
            bytes
                .first_chunk()
                .map_or(0, |number| u32::from_le_bytes(*number))
        };
        let (mut bytes, mut len_bytes) = (bytes.clone(), bytes.len() as u64);
        (self.one_byte_at_a_time, self.read_fails) = (false, false);
        self.hangs_up = matches!(
            quirk,
            Some(PcidQuirk::EndsEarly | PcidQuirk::EndOfFile | PcidQuirk::AbsurdLength)
        );
        match quirk {
            None | Some(PcidQuirk::WriteFails | PcidQuirk::WriteIsShort) => {}
            Some(PcidQuirk::WrongVariant) => {
                bytes = if number(&bytes) == variant::WRITE_CONFIG {
                    answer(variant::READ_CONFIG, &[&[0; 4]])
                } else {
                    answer(variant::WRITE_CONFIG, &[])
                };
                len_bytes = bytes.len() as u64;
            }
            Some(PcidQuirk::ErrorVariant) => {
                bytes = failure(NONEXISTENT_FEATURE, Some(MSI));
                len_bytes = bytes.len() as u64;
            }
            Some(PcidQuirk::UnknownVariant) => {
                bytes = answer(77, &[]);
                len_bytes = bytes.len() as u64;
            }
            Some(PcidQuirk::OneByteAtATime) => self.one_byte_at_a_time = true,
            Some(PcidQuirk::Truncated) => {
                bytes.pop();
                len_bytes -= 1;
            }
            Some(PcidQuirk::EndsEarly) => {
                bytes.pop();
            }
            Some(PcidQuirk::TooLong) => {
                bytes.push(0);
                len_bytes += 1;
            }
            Some(PcidQuirk::AbsurdLength) => len_bytes = u64::MAX / 2,
            Some(PcidQuirk::NoLength) => {
                bytes.clear();
                len_bytes = 0;
            }
            Some(PcidQuirk::EndOfFile) => {
                self.answer.clear();
                return;
            }
            Some(PcidQuirk::ReadFails) => self.read_fails = true,
            Some(PcidQuirk::Garbage) => bytes
                .iter_mut()
                .zip(0_u8..)
                .for_each(|(byte, n)| *byte = 0xE7 ^ n),
        }
        self.answer = len_bytes.to_le_bytes().into_iter().chain(bytes).collect();
    }
}
