//! A namespace: its medium, its block format, and how it describes itself.

use std::sync::atomic::{AtomicU64, Ordering};

use nvme_spec::{
    Status,
    identify::{
        CSI_NVM, Dlfeat, Flbas, IDENTIFY_BYTES, IdentifyNamespace, IdentifyNamespaceIndependent,
        IdentifyNamespaceNvm, LbaFormat, NamespaceDescriptor, Nidt,
    },
};

use crate::{
    config::Config,
    storage::{Storage, StorageError},
    transfer::refused,
};

/// LBADS of the formats that every namespace can be formatted to, by their index: 512 and 4096 bytes, no metadata.
const FORMATS_LBADS: [u8; 2] = [9, 12];

/// Organizationally unique identifier for EUI64 and NGUID. Its second bit says that it is locally administered, so no
/// manufacturer has it.
const OUI: [u8; 3] = [0x02, 0x4E, 0x56];

/// A namespace of the device. All methods take `&self`; the block format may change at any time.
#[derive(Debug)]
pub struct Namespace {
    nsid: u32,
    /// Blocks and LBADS in one word, so that no command sees one without the other.
    format: AtomicU64,
    storage: Storage,
    nguid: [u8; 16],
    eui64: [u8; 8],
    uuid: [u8; 16],
}

/// How a namespace is formatted, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Number of logical blocks.
    pub blocks: u64,
    /// A block is `1 << lbads` bytes.
    pub lbads: u8,
}

impl Format {
    const LBADS_BITS: u32 = 6;

    fn pack(self) -> u64 {
        self.blocks << Self::LBADS_BITS | u64::from(self.lbads)
    }

    fn unpack(word: u64) -> Self {
        let lbads_mask = (1 << Self::LBADS_BITS) - 1;
        Self {
            blocks: word >> Self::LBADS_BITS,
            lbads: (word & lbads_mask) as u8,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        1 << self.lbads
    }

    /// Bytes of the namespace.
    #[must_use]
    pub fn size_bytes(self) -> u64 {
        self.blocks << self.lbads
    }

    /// Byte offset and length of `blocks` from `slba`, if they exist.
    #[inline]
    pub fn range_bytes(self, slba: u64, blocks: u64) -> Result<(u64, u64), Status> {
        let end = slba
            .checked_add(blocks)
            .ok_or(refused(Status::LBA_OUT_OF_RANGE))?;
        if end > self.blocks {
            return Err(refused(Status::LBA_OUT_OF_RANGE));
        }
        // No overflow: the whole namespace is below 2^64 bytes, and this is inside.
        Ok((slba << self.lbads, blocks << self.lbads))
    }
}

impl Namespace {
    /// Opens namespace `nsid` (1 and up) of the configuration, with the data its file has, if any.
    pub fn open(config: &Config, nsid: u32) -> Result<Self, StorageError> {
        let index = usize::try_from(nsid).ok().and_then(|nsid| nsid.checked_sub(1));
        let wanted = index
            .and_then(|index| config.namespaces.get(index))
            .copied()
            .unwrap_or_default();
        let lbads = wanted.lba_bytes.checked_ilog2().map_or(12, |log| log as u8);
        let format = Format {
            blocks: wanted.size_bytes >> lbads,
            lbads,
        };
        let mut chance = fastrand::Rng::with_seed(identity_seed(config, nsid));
        let mut draw = |bytes: &mut [u8]| chance.fill(bytes);
        let (mut eui64, mut nguid, mut uuid) = ([0; 8], [0; 16], [0; 16]);
        draw(&mut eui64);
        draw(&mut nguid);
        draw(&mut uuid);
        // EUI64: OUI first. NGUID: OUI in bytes 8 to 10 (Base 2.0, section 4.5.1).
        eui64[..3].copy_from_slice(&OUI);
        nguid[8..11].copy_from_slice(&OUI);
        // Random UUID, version 4 (RFC 9562, section 5.4).
        uuid[6] = uuid[6] & 0x0F | 0x40;
        uuid[8] = uuid[8] & 0x3F | 0x80;
        Ok(Self {
            nsid,
            format: AtomicU64::new(format.pack()),
            storage: Storage::open(config, nsid, format.size_bytes())?,
            nguid,
            eui64,
            uuid,
        })
    }

    /// Namespace identifier.
    #[must_use]
    pub fn nsid(&self) -> u32 {
        self.nsid
    }

    /// How it is formatted now.
    #[inline]
    #[must_use]
    pub fn format(&self) -> Format {
        Format::unpack(self.format.load(Ordering::Acquire))
    }

    /// The medium.
    #[inline]
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Namespace Globally Unique Identifier: the same for the same seed, serial number and NSID, and for no other.
    #[must_use]
    pub fn nguid(&self) -> [u8; 16] {
        self.nguid
    }

    /// IEEE Extended Unique Identifier, unique like the NGUID.
    #[must_use]
    pub fn eui64(&self) -> [u8; 8] {
        self.eui64
    }

    /// Format NVM: erases everything and changes to LBA format `lbaf` (0 = 512, 1 = 4096 bytes). Commands that run at the
    /// same time see one format or the other; the caller keeps them out if it wants them to see none.
    pub fn format_nvm(&self, lbaf: u8) -> Result<(), Status> {
        let lbads = *FORMATS_LBADS
            .get(usize::from(lbaf))
            .ok_or(refused(Status::INVALID_FORMAT))?;
        let old = self.format();
        self.storage.erase(old.size_bytes())?;
        self.storage.flush()?;
        // What does not make up a whole block is left over, and there again after a change back only if it is configured.
        let new = Format {
            blocks: old.size_bytes() >> lbads,
            lbads,
        };
        self.format.store(new.pack(), Ordering::Release);
        Ok(())
    }

    /// Grows or shrinks to `blocks`, as by a command that came to the device another way. What is cut off is lost.
    pub fn resize(&self, blocks: u64) -> Result<(), StorageError> {
        let old = self.format();
        let size_bytes = blocks.saturating_mul(old.block_bytes());
        let new = Format {
            blocks,
            lbads: old.lbads,
        };
        if size_bytes < old.size_bytes() {
            // No new command reaches what is about to go.
            self.format.store(new.pack(), Ordering::Release);
        }
        self.storage.resize(old.size_bytes(), size_bytes)?;
        self.format.store(new.pack(), Ordering::Release);
        Ok(())
    }

    /// Flush: what was written is on the medium when this returns.
    pub fn flush(&self) -> Result<(), Status> {
        Ok(self.storage.flush()?)
    }

    /// Identify Namespace, CNS 00h (and 11h).
    #[must_use]
    pub fn identify(&self) -> IdentifyNamespace {
        let format = self.format();
        let index = FORMATS_LBADS
            .iter()
            .position(|lbads| *lbads == format.lbads)
            .unwrap_or(0);
        let used_blocks = self
            .storage
            .allocated_bytes()
            .div_ceil(format.block_bytes())
            .min(format.blocks);
        let mut identify = IdentifyNamespace {
            nsze: format.blocks.into(),
            ncap: format.blocks.into(),
            nuse: used_blocks.into(),
            nlbaf_z: FORMATS_LBADS.len() as u8 - 1,
            flbas: Flbas::new().with_index_low(index as u8).into(),
            // Format progress is reported, and 0% are left.
            fpi: 1 << 7,
            dlfeat: Dlfeat::new()
                .with_read_value(1)
                .with_write_zeroes_deallocates(true)
                .into(),
            nvmcap: u128::from(format.size_bytes()).into(),
            nguid: self.nguid,
            eui64: self.eui64,
            ..Default::default()
        };
        for (place, lbads) in identify.lbaf.iter_mut().zip(FORMATS_LBADS) {
            *place = LbaFormat::new(lbads, 0);
        }
        identify
    }

    /// Identify Namespace for the NVM Command Set, CNS 05h: nothing beyond the base formats.
    #[must_use]
    pub fn identify_nvm(&self) -> IdentifyNamespaceNvm {
        IdentifyNamespaceNvm::default()
    }

    /// I/O Command Set Independent Identify Namespace, CNS 08h.
    #[must_use]
    pub fn identify_independent(&self) -> IdentifyNamespaceIndependent {
        IdentifyNamespaceIndependent {
            fpi: 1 << 7,
            nstat: 1,
            ..Default::default()
        }
    }

    /// Namespace Identification Descriptor list, CNS 03h.
    #[must_use]
    pub fn identify_descriptors(&self) -> [u8; IDENTIFY_BYTES] {
        let mut list = [0; IDENTIFY_BYTES];
        let mut rest = list.as_mut_slice();
        let descriptors: [(Nidt, &[u8]); 4] = [
            (Nidt::EUI64, &self.eui64),
            (Nidt::NGUID, &self.nguid),
            (Nidt::UUID, &self.uuid),
            (Nidt::CSI, &[CSI_NVM]),
        ];
        for (nidt, data) in descriptors {
            let written = NamespaceDescriptor { nidt, data }.write_to(rest).unwrap_or(0);
            rest = rest.get_mut(written..).unwrap_or_default();
        }
        list
    }
}

/// Mixes seed, serial number and NSID (FNV-1a, 64 bits), so that two devices with one seed still differ.
fn identity_seed(config: &Config, nsid: u32) -> u64 {
    let bytes = config
        .seed
        .to_le_bytes()
        .into_iter()
        .chain(config.serial.bytes())
        .chain(nsid.to_le_bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests;
