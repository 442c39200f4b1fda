//! From bytes to the blocks that cover them.

use std::ops::Range;

use super::Errno;

/// The shape of a block device: a namespace, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    lba_shift: u32,
    /// Where it begins in the namespace.
    first_block: u64,
    blocks: u64,
    /// The namespace's ([`Namespace::revision`](crate::namespace::Namespace::revision)).
    revision: u64,
}

impl Geometry {
    /// # Errors
    /// `EOPNOTSUPP` for a block size outside 1 byte to 2 GiB, or a size in bytes that 64 bits do not hold: no
    /// offset could reach its end.
    pub(crate) fn new(lba_shift: u32, blocks: u64) -> Result<Self, Errno> {
        let fits = lba_shift < 32 && blocks.checked_mul(1 << lba_shift).is_some();
        if fits {
            Ok(Self {
                lba_shift,
                first_block: 0,
                blocks,
                revision: 0,
            })
        } else {
            Err(Errno::EOPNOTSUPP)
        }
    }

    /// The same, of a namespace of this revision.
    pub(crate) fn of_revision(self, revision: u64) -> Self {
        Self { revision, ..self }
    }

    /// `blocks` from `first_block` on of a namespace, as far as it has them.
    pub(crate) fn part(self, first_block: u64, blocks: u64) -> Self {
        Self {
            lba_shift: self.lba_shift,
            first_block: self.first_block + first_block.min(self.blocks),
            blocks: blocks.min(self.blocks.saturating_sub(first_block)),
            revision: self.revision,
        }
    }

    pub(crate) const fn blocks(self) -> u64 {
        self.blocks
    }

    pub(crate) const fn size_bytes(self) -> u64 {
        self.blocks << self.lba_shift
    }

    pub(crate) const fn block_bytes(self) -> u32 {
        1 << self.lba_shift
    }

    /// The bytes from `offset` on, up to `len_bytes` of them, that are in the device; `None` if there are none.
    pub(crate) fn bytes(self, offset: u64, len_bytes: u64) -> Option<Range<u64>> {
        let left_bytes = self.size_bytes().checked_sub(offset)?;
        let len_bytes = left_bytes.min(len_bytes);
        (len_bytes != 0).then(|| offset..offset + len_bytes)
    }

    /// The namespace's block in which the device's byte at `offset` is.
    pub(crate) const fn block_at(self, offset: u64) -> u64 {
        self.first_block + (offset >> self.lba_shift)
    }

    /// What of `len_bytes` from `offset` is in the device, `None` if nothing is.
    pub(crate) fn span(self, offset: u64, len_bytes: usize) -> Option<Span> {
        let left_bytes = self.size_bytes().checked_sub(offset)?;
        let len_bytes = usize::try_from(left_bytes).map_or(len_bytes, |left_bytes| left_bytes.min(len_bytes));
        (len_bytes != 0).then_some(Span {
            lba_shift: self.lba_shift,
            offset: (self.first_block << self.lba_shift) + offset,
            len_bytes,
        })
    }
}

/// At least one byte of a block device, all of them inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    lba_shift: u32,
    /// From the namespace's start.
    offset: u64,
    len_bytes: usize,
}

impl Span {
    pub(crate) const fn len_bytes(self) -> usize {
        self.len_bytes
    }

    /// The first block touched.
    pub(crate) const fn slba(self) -> u64 {
        self.offset >> self.lba_shift
    }

    /// How many blocks are touched.
    pub(crate) const fn blocks(self) -> u64 {
        // Not more than the namespace has, whose size in bytes fits.
        (self.offset + self.len_bytes as u64).div_ceil(1 << self.lba_shift) - self.slba()
    }

    /// The bytes of all blocks touched, from the namespace's start.
    pub(crate) const fn covered(self) -> Range<u64> {
        let start = self.slba() << self.lba_shift;
        start..start + (self.blocks() << self.lba_shift)
    }

    /// How many bytes that is.
    pub(crate) const fn cover_bytes(self) -> usize {
        (self.blocks() << self.lba_shift) as usize
    }

    /// Where in the cover the bytes are.
    pub(crate) const fn in_cover(self) -> Range<usize> {
        let start = (self.offset - (self.slba() << self.lba_shift)) as usize;
        start..start + self.len_bytes
    }

    /// Whether the bytes are whole blocks.
    pub(crate) const fn is_aligned(self) -> bool {
        self.cover_bytes() == self.len_bytes
    }

    /// The blocks that are touched in part, as ranges of blocks within the cover: what a write has to read
    /// first. At most two ranges; neighbours are one.
    pub(crate) fn edges(self) -> [Option<Range<u64>>; 2] {
        let within = self.in_cover();
        let last = self.blocks() - 1;
        let head = within.start != 0;
        let tail = within.end != self.cover_bytes();
        match (head, tail) {
            (false, false) => [None, None],
            (true, true) if last <= 1 => [Some(0..last + 1), None],
            (true, true) => [Some(0..1), Some(last..last + 1)],
            (true, false) => [Some(0..1), None],
            (false, true) => [Some(last..last + 1), None],
        }
    }

    /// Where in the cover `blocks` of it are, in bytes.
    pub(crate) const fn cover_of(self, blocks: &Range<u64>) -> Range<usize> {
        (blocks.start << self.lba_shift) as usize..(blocks.end << self.lba_shift) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn absurd_shapes_are_refused() {
        assert_eq!(Geometry::new(32, 1), Err(Errno::EOPNOTSUPP));
        assert_eq!(Geometry::new(9, u64::MAX >> 8), Err(Errno::EOPNOTSUPP));
        let largest = Geometry::new(9, u64::MAX >> 9);
        assert_eq!(largest.map(Geometry::size_bytes), Ok(!511));
    }

    #[test]
    fn a_part_never_reaches_beyond_what_it_is_of() {
        let whole = Geometry::new(12, 100).unwrap();
        for (first_block, blocks, wanted) in [
            (10, 20, 20),
            (90, 20, 10),
            (100, 20, 0),
            (101, 20, 0),
            (u64::MAX, u64::MAX, 0),
            (0, u64::MAX, 100),
        ] {
            assert_eq!(whole.part(first_block, blocks).blocks(), wanted);
        }
        let part = whole.part(10, 20);
        assert_eq!(part.span(1, 1).map(Span::covered), Some(40960..45056));
        assert_eq!(part.span(20 * 4096, 1), None);
        let span = part.span(20 * 4096 - 1, 5000).unwrap();
        assert_eq!((span.slba(), span.blocks(), span.len_bytes()), (29, 1, 1));
    }

    proptest! {
        #[test]
        fn a_span_covers_its_bytes_with_no_block_to_spare(
            lba_shift in 9_u32..=16,
            blocks in prop_oneof![0_u64..100, any::<u64>().prop_map(|blocks| blocks >> 16)],
            offset: u64,
            near_the_end in 0_u64..200_000,
            len in 0_usize..300_000,
            wild: bool,
        ) {
            let geometry = Geometry::new(lba_shift, blocks).unwrap();
            let size_bytes = geometry.size_bytes();
            let offset = if wild { offset } else { size_bytes.saturating_sub(near_the_end) };
            let Some(span) = geometry.span(offset, len) else {
                prop_assert!(len == 0 || offset >= size_bytes);
                return Ok(());
            };
            let end = u128::from(offset) + span.len_bytes() as u128;
            prop_assert_eq!(span.len_bytes() as u64, (len as u64).min(size_bytes - offset));
            prop_assert!(end <= u128::from(size_bytes));
            prop_assert!(span.slba() + span.blocks() <= blocks);

            let covered = span.covered();
            let within = span.in_cover();
            prop_assert_eq!(covered.start + within.start as u64, offset);
            prop_assert_eq!(u128::from(covered.start) + within.end as u128, end);
            prop_assert_eq!(covered.end - covered.start, span.cover_bytes() as u64);
            let block_bytes = 1_usize << lba_shift;
            prop_assert!(within.start < block_bytes);
            prop_assert!(span.cover_bytes() - within.end < block_bytes);
            prop_assert_eq!(span.is_aligned(), offset % block_bytes as u64 == 0 && span.len_bytes() % block_bytes == 0);

            // The blocks to read first are those which are not overwritten as a whole, all of them and in
            // order.
            let edges: Vec<u64> = span.edges().into_iter().flatten().flatten().collect();
            let partial = |block: &u64| {
                let bytes = span.cover_of(&(*block..block + 1));
                bytes.start < within.start || bytes.end > within.end
            };
            prop_assert!(edges.iter().all(partial));
            prop_assert!(edges.is_sorted());
            let ends = [0, span.blocks() - 1];
            prop_assert!(ends.iter().all(|block| partial(block) == edges.contains(block)));
        }
    }
}
