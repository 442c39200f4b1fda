//! Lists that Identify returns: namespaces, controllers, command sets, and the identification descriptors of a namespace.

use core::slice;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::layout::{layout, zeroed_default};
use crate::named::named_u8;

/// Most namespaces in one list; for more, ask again from the last NSID on.
pub const MAX_NAMESPACES_IN_LIST: usize = 1024;

/// Namespace List, 4096 bytes: NSIDs in ascending order, zero ends it early (Base 2.0, "Namespace List Format"). CNS 02h, 07h, 10h, 1Ah.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NamespaceList {
    /// The identifiers; see [`iter`](Self::iter).
    pub nsids: [U32; MAX_NAMESPACES_IN_LIST],
}

layout!(NamespaceList, 4096, { nsids: 0 });

impl NamespaceList {
    /// A list of the first 1024 of `nsids`.
    pub fn new(nsids: impl IntoIterator<Item = u32>) -> Self {
        let mut list = Self::default();
        for (to, nsid) in list.nsids.iter_mut().zip(nsids) {
            to.set(nsid);
        }
        list
    }

    /// The identifiers up to the first zero, at most 1024.
    pub fn iter(&self) -> NamespaceListIter<'_> {
        NamespaceListIter(self.nsids.iter())
    }
}

impl<'a> IntoIterator for &'a NamespaceList {
    type Item = u32;
    type IntoIter = NamespaceListIter<'a>;

    fn into_iter(self) -> NamespaceListIter<'a> {
        self.iter()
    }
}

/// Iterator over the identifiers of a [`NamespaceList`].
#[derive(Clone, Debug)]
pub struct NamespaceListIter<'a>(slice::Iter<'a, U32>);

impl<'a> NamespaceListIter<'a> {
    /// Reads any identifiers, up to the first zero.
    pub fn new(nsids: &'a [U32]) -> Self {
        Self(nsids.iter())
    }
}

impl Iterator for NamespaceListIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let nsid = self.0.next().map_or(0, |nsid| nsid.get());
        if nsid == 0 {
            self.0 = [].iter();
            return None;
        }
        Some(nsid)
    }
}

impl core::iter::FusedIterator for NamespaceListIter<'_> {}

/// Controller List, 4096 bytes (Base 2.0, "Controller List Format"). CNS 12h and 13h.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ControllerList {
    /// Number of Identifiers.
    pub count: U16,
    /// Controller identifiers in ascending order; see [`iter`](Self::iter).
    pub cntlids: [U16; 2047],
}

layout!(ControllerList, 4096, { count: 0, cntlids: 2 });

impl ControllerList {
    /// A list of the first 2047 of `cntlids`.
    pub fn new(cntlids: impl IntoIterator<Item = u16>) -> Self {
        let mut list = Self::default();
        let mut count = 0;
        for (to, cntlid) in list.cntlids.iter_mut().zip(cntlids) {
            to.set(cntlid);
            count += 1;
        }
        list.count.set(count);
        list
    }

    /// The identifiers, at most 2047 whatever the count says.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.cntlids
            .iter()
            .take(usize::from(self.count.get()))
            .map(|cntlid| cntlid.get())
    }
}

/// Identify I/O Command Set, CNS 1Ch, 4096 bytes: the combinations of command sets that can be enabled together (Base 2.0,
/// section 5.17.2.21). In each, bit n is the command set with CSI n; zero ends the list.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IoCommandSetList {
    /// I/O Command Set Combinations.
    pub combinations: [U64; 512],
}

layout!(IoCommandSetList, 4096, { combinations: 0 });

named_u8! {
    /// Namespace Identifier Type (Base 2.0, section 5.17.2.3).
    Nidt, "identifier type" {
        EUI64 = 0x01, "IEEE Extended Unique Identifier";
        NGUID = 0x02, "Namespace Globally Unique Identifier";
        UUID = 0x03, "Namespace UUID";
        CSI = 0x04, "Command Set Identifier";
    }
}

/// One Namespace Identification Descriptor: a 4-byte header (NIDT, NIDL, two reserved) and NIDL bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceDescriptor<'a> {
    /// Namespace Identifier Type.
    pub nidt: Nidt,
    /// Namespace Identifier, not empty. Its length is the device's word: 8 bytes for EUI64, 16 for NGUID and UUID, 1 for CSI.
    pub data: &'a [u8],
}

const DESCRIPTOR_HEADER_BYTES: usize = 4;

impl NamespaceDescriptor<'_> {
    /// Writes the descriptor at the start of `buffer` and returns how many bytes it took, for the next to follow. None,
    /// and nothing written, if it does not fit or if the identifier is empty or longer than 255 bytes.
    pub fn write_to(&self, buffer: &mut [u8]) -> Option<usize> {
        let nidl = u8::try_from(self.data.len()).ok().filter(|nidl| *nidl != 0)?;
        let length = DESCRIPTOR_HEADER_BYTES + self.data.len();
        let (header, data) = buffer.get_mut(..length)?.split_at_mut(DESCRIPTOR_HEADER_BYTES);
        header.copy_from_slice(&[self.nidt.0, nidl, 0, 0]);
        data.copy_from_slice(self.data);
        Some(length)
    }
}

/// Iterator over a Namespace Identification Descriptor list, CNS 03h (Base 2.0, section 5.17.2.3). Takes any bytes: it ends
/// at a length of zero, at the end of the bytes, and at a descriptor that would go beyond it.
#[derive(Clone, Debug)]
pub struct NamespaceDescriptors<'a> {
    rest: &'a [u8],
}

impl<'a> NamespaceDescriptors<'a> {
    /// Reads `bytes`, usually 4096.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn split_first(&self) -> Option<(NamespaceDescriptor<'a>, &'a [u8])> {
        let (&[nidt, nidl, _, _], rest) = self.rest.split_first_chunk::<DESCRIPTOR_HEADER_BYTES>()?;
        let (data, rest) = rest
            .split_at_checked(usize::from(nidl))
            .filter(|(data, _)| !data.is_empty())?;
        Some((
            NamespaceDescriptor {
                nidt: Nidt(nidt),
                data,
            },
            rest,
        ))
    }
}

impl<'a> Iterator for NamespaceDescriptors<'a> {
    type Item = NamespaceDescriptor<'a>;

    fn next(&mut self) -> Option<NamespaceDescriptor<'a>> {
        let next = self.split_first();
        self.rest = next.map_or(&[], |(_, rest)| rest);
        next.map(|(descriptor, _)| descriptor)
    }
}

impl core::iter::FusedIterator for NamespaceDescriptors<'_> {}

zeroed_default!(NamespaceList, ControllerList, IoCommandSetList);
