//! What the controller says of its namespaces, checked before it is believed.

pub(crate) mod scan;
pub(crate) mod table;

use nvme_spec::identify::{CSI_NVM, IdentifyNamespace, NamespaceDescriptors, Nidt};
use zerocopy::FromBytes;

/// Whether a namespace can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceState {
    /// Blocks can be read and written.
    Usable,
    /// They cannot; why. Identify and logs are there all the same.
    Unusable(String),
}

/// An active namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its number.
    pub nsid: u32,
    /// Its size in blocks (NSZE); 0 if it is unusable.
    pub blocks: u64,
    /// The base-2 logarithm of a block's bytes.
    pub lba_shift: u32,
    /// Commands that cross a multiple of this many blocks are slow (NOIOB); 0 if that is not so.
    pub boundary_blocks: u64,
    /// Whether it can be used.
    pub state: NamespaceState,
    /// Another number after the controller has said that it came, or that it changed: what was known of its data may not be
    /// true any more.
    pub revision: u64,
    /// The 4096 bytes of Identify Namespace as the controller gave them.
    pub identify: Box<[u8; 4096]>,
}

/// Block sizes that are believed: 512 bytes to 64 KiB.
const LBA_SHIFTS: std::ops::RangeInclusive<u32> = 9..=16;

impl Namespace {
    /// Reads `identify`, whatever it holds, for a controller whose commands move `max_transfer_bytes`.
    pub fn new(nsid: u32, identify: Box<[u8; 4096]>, max_transfer_bytes: usize) -> Self {
        match geometry(&identify, max_transfer_bytes) {
            Ok(Geometry {
                blocks,
                lba_shift,
                boundary_blocks,
            }) => Self {
                nsid,
                blocks,
                lba_shift,
                boundary_blocks,
                state: NamespaceState::Usable,
                revision: 0,
                identify,
            },
            Err(why) => Self {
                identify,
                ..Self::unknown(nsid, why)
            },
        }
    }

    /// A namespace of which the controller does not say what it is.
    pub fn unknown(nsid: u32, why: String) -> Self {
        Self {
            nsid,
            blocks: 0,
            lba_shift: 12,
            boundary_blocks: 0,
            state: NamespaceState::Unusable(why),
            revision: 0,
            identify: Box::new([0; 4096]),
        }
    }

    /// Bytes of a block.
    pub fn lba_bytes(&self) -> u64 {
        1 << self.lba_shift
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blocks << self.lba_shift
    }

    /// The same, if its Namespace Identification Descriptor list says nothing of another I/O command set than NVM (section
    /// 5.17.2.3): it cannot be used otherwise, since its blocks are not what this driver takes them for.
    pub(crate) fn of_command_set(self, descriptors: &[u8]) -> Self {
        let mut sets =
            NamespaceDescriptors::new(descriptors).filter(|descriptor| descriptor.nidt == Nidt::CSI);
        match sets.find_map(|set| set.data.first().copied().filter(|csi| *csi != CSI_NVM)) {
            None => self,
            Some(csi) => {
                let name = match csi {
                    1 => ", key value",
                    2 => ", zoned",
                    _ => "",
                };
                let why = format!(
                    "its I/O command set is number {csi}{name} (CSI), and this driver has only that of NVM (0)"
                );
                Self {
                    identify: self.identify,
                    ..Self::unknown(self.nsid, why)
                }
            }
        }
    }

    /// Whether the controller says the same of both, but for how much of it is in use (NUSE, bytes 23:16 of Identify
    /// Namespace).
    pub(crate) fn is_as(&self, other: &Self) -> bool {
        let said = |of: &Self| {
            of.identify
                .get(..16)
                .zip(of.identify.get(24..))
                .map(|(a, b)| [a, b].concat())
        };
        self.state == other.state && said(self) == said(other)
    }

    /// Whether it can be used.
    pub fn is_usable(&self) -> bool {
        self.state == NamespaceState::Usable
    }
}

struct Geometry {
    blocks: u64,
    lba_shift: u32,
    boundary_blocks: u64,
}

/// Size, block size and boundary, or why the namespace cannot be used.
fn geometry(identify: &[u8; 4096], max_transfer_bytes: usize) -> Result<Geometry, String> {
    let identify = IdentifyNamespace::read_from_bytes(identify.as_slice())
        .map_err(|_| "Identify Namespace has the wrong length".to_owned())?;
    let blocks = identify.nsze.get();
    if blocks == 0 {
        return Err("its size (NSZE) is 0".to_owned());
    }
    let format = identify.current_format().ok_or_else(|| {
        format!(
            "its format number (FLBAS {:#04x}) is not among its formats",
            identify.flbas
        )
    })?;
    let lba_shift = u32::from(format.lbads);
    if !LBA_SHIFTS.contains(&lba_shift) {
        return Err(format!(
            "its block size is 2^{lba_shift} bytes (LBADS), between 2^9 and 2^16 can be used"
        ));
    }
    if 1 << lba_shift > max_transfer_bytes {
        return Err(format!(
            "its blocks of 2^{lba_shift} bytes are larger than a command may move ({max_transfer_bytes} bytes, MDTS)"
        ));
    }
    if format.ms.get() != 0 {
        return Err(format!(
            "its format has {} bytes of metadata a block, which this driver does not transfer; format it without",
            format.ms.get()
        ));
    }
    if identify.dps & 0b111 != 0 {
        return Err("end-to-end protection is enabled (DPS), which this driver does not do".to_owned());
    }
    if blocks > u64::MAX >> lba_shift {
        return Err(format!(
            "its size of {blocks} blocks of 2^{lba_shift} bytes cannot be"
        ));
    }
    Ok(Geometry {
        blocks,
        lba_shift,
        boundary_blocks: u64::from(identify.noiob.get()),
    })
}

#[cfg(test)]
mod tests {
    use nvme_spec::identify::LbaFormat;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn identify(change: impl FnOnce(&mut IdentifyNamespace)) -> Box<[u8; 4096]> {
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.nsze = 1000.into();
        identify.lbaf[0] = LbaFormat {
            ms: 0.into(),
            lbads: 12,
            rp: 0,
        };
        change(&mut identify);
        Box::new(identify.as_bytes().try_into().unwrap())
    }

    #[test]
    fn a_healthy_namespace_is_usable() {
        let namespace = Namespace::new(1, identify(|_| ()), 1 << 20);
        assert!(namespace.is_usable());
        assert_eq!(
            (namespace.blocks, namespace.lba_bytes(), namespace.size_bytes()),
            (1000, 4096, 4_096_000)
        );
    }

    #[test]
    fn a_namespace_of_another_command_set_is_shown_and_not_used() {
        let of =
            |descriptors: &[u8]| Namespace::new(1, identify(|_| ()), 1 << 20).of_command_set(descriptors);
        // NGUID, then the command set.
        let list = |csi: u8| [&[2, 16, 0, 0][..], &[7; 16], &[4, 1, 0, 0, csi], &[0; 8]].concat();
        assert!(of(&[]).is_usable() && of(&[0; 4096]).is_usable() && of(&list(0)).is_usable());
        let zoned = of(&list(2));
        assert_eq!((zoned.nsid, zoned.size_bytes()), (1, 0));
        assert!(matches!(&zoned.state, NamespaceState::Unusable(why) if why.contains("zoned")));
        assert!(!of(&list(9)).is_usable());
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        type Change = fn(&mut IdentifyNamespace);
        let cases: [(Change, &str); 9] = [
            (|i| i.nsze = 0.into(), "NSZE"),
            (|i| i.flbas = 1, "FLBAS"),
            (|i| i.lbaf[0].lbads = 0, "LBADS"),
            (|i| i.lbaf[0].lbads = 255, "LBADS"),
            (|i| i.lbaf[0].lbads = 17, "LBADS"),
            (|i| i.lbaf[0].lbads = 14, "MDTS"),
            (|i| i.lbaf[0].ms = 8.into(), "metadata"),
            (|i| i.dps = 1, "protection"),
            (|i| i.nsze = u64::MAX.into(), "cannot be"),
        ];
        for (change, word) in cases {
            let namespace = Namespace::new(1, identify(change), 8192);
            match &namespace.state {
                NamespaceState::Unusable(why) => assert!(why.contains(word), "{why}"),
                NamespaceState::Usable => panic!("{word}"),
            }
            assert_eq!(namespace.size_bytes(), 0);
        }
    }
}
