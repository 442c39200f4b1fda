//! What a region of the function is, and what of it can be mapped: a structure, with a chain of capabilities behind it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Command, WireError};

payload! {
    /// Of [`Command::DeviceGetRegionInfo`] and its reply, where capabilities may follow.
    RegionInfo {
        /// Bytes that the reply may have, or would need for all.
        argsz: u32,
        /// [`RegionInfo::READ`] and so on.
        flags: u32,
        /// Which.
        index: u32,
        /// Where in the reply the first capability is, if [`RegionInfo::CAPS`].
        cap_offset: u32,
        /// In bytes; 0 if there is no such region.
        size: u64,
        /// Where in its descriptor it begins.
        offset: u64,
    }
}

impl RegionInfo {
    /// It can be read.
    pub const READ: u32 = 1 << 0;
    /// It can be written.
    pub const WRITE: u32 = 1 << 1;
    /// It can be mapped, all or what the sparse capability says.
    pub const MMAP: u32 = 1 << 2;
    /// Capabilities follow.
    pub const CAPS: u32 = 1 << 3;

    /// A region's information as a payload, with `areas` as its sparse capability unless there are none. Where `argsz`
    /// has no room for that, only the structure, which says what is needed.
    #[must_use]
    pub fn encode(self, areas: &[SparseArea], room_bytes: u32) -> (Vec<u8>, bool) {
        let structure_bytes = size_of::<Self>();
        let sparse_bytes = size_of::<SparseHeader>() + size_of_val(areas);
        let mut info = self;
        if areas.is_empty() {
            info.argsz = structure_bytes as u32;
            return (info.as_bytes().to_vec(), true);
        }
        let needed_bytes = structure_bytes + sparse_bytes;
        info.argsz = u32::try_from(needed_bytes).unwrap_or(u32::MAX);
        if (room_bytes as usize) < needed_bytes {
            return (info.as_bytes().to_vec(), false);
        }
        info.flags |= Self::CAPS;
        info.cap_offset = structure_bytes as u32;
        let header = SparseHeader {
            id: SparseHeader::ID,
            version: 1,
            next: 0,
            nr_areas: u32::try_from(areas.len()).unwrap_or(u32::MAX),
            reserved: 0,
        };
        let mut payload = info.as_bytes().to_vec();
        payload.extend_from_slice(header.as_bytes());
        payload.extend_from_slice(areas.as_bytes());
        (payload, true)
    }

    /// A reply to [`Command::DeviceGetRegionInfo`]: the structure, and what of the region can be mapped by the sparse
    /// capability; `None` if it has none.
    ///
    /// # Errors
    /// A payload that is too short, and capabilities that lie outside of it or go round in circles.
    pub fn decode(payload: &[u8]) -> Result<(Self, Option<Vec<SparseArea>>), WireError> {
        let wrong = WireError::Payload {
            command: Command::DeviceGetRegionInfo,
            bytes: payload.len(),
        };
        let (info, _) = Self::read_from_prefix(payload).map_err(|_| wrong)?;
        if info.flags & Self::CAPS == 0 {
            return Ok((info, None));
        }
        let mut at = info.cap_offset as usize;
        // Each capability is further on than the last: there is an end.
        while at >= size_of::<Self>() {
            let rest = payload.get(at..).ok_or(wrong)?;
            let (cap, _) = CapHeader::read_from_prefix(rest).map_err(|_| wrong)?;
            if cap.id == SparseHeader::ID {
                let (header, areas) = SparseHeader::read_from_prefix(rest).map_err(|_| wrong)?;
                let bytes = (header.nr_areas as usize)
                    .checked_mul(size_of::<SparseArea>())
                    .and_then(|bytes| areas.get(..bytes))
                    .ok_or(wrong)?;
                let areas = bytes
                    .chunks_exact(size_of::<SparseArea>())
                    .filter_map(|area| SparseArea::read_from_bytes(area).ok());
                return Ok((info, Some(areas.collect())));
            }
            let next = cap.next as usize;
            if next != 0 && next <= at {
                return Err(wrong);
            }
            at = next;
        }
        Ok((info, None))
    }
}

payload! {
    /// What each capability of a region begins with.
    CapHeader {
        /// Which.
        id: u16,
        /// Of its layout.
        version: u16,
        /// Where in the reply the next one is; 0: there is none.
        next: u32,
    }
}

payload! {
    /// The capability that says what of a region can be mapped; its [`SparseArea`]s follow.
    SparseHeader {
        /// [`SparseHeader::ID`].
        id: u16,
        /// 1.
        version: u16,
        /// As [`CapHeader::next`].
        next: u32,
        /// How many areas follow.
        nr_areas: u32,
        /// 0.
        reserved: u32,
    }
}

impl SparseHeader {
    /// `VFIO_REGION_INFO_CAP_SPARSE_MMAP`.
    pub const ID: u16 = 1;
}

payload! {
    /// A piece of a region that can be mapped.
    SparseArea {
        /// Where in the region it begins, in bytes.
        offset: u64,
        /// In bytes.
        size: u64,
    }
}
