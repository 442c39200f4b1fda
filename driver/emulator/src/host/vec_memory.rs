//! Plain host memory for tests and examples: one flat, zeroed range.

use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::FromZeros;

use super::{DmaFault, HostMemory};

const WORD_BYTES: usize = 8;

/// A flat range of memory at bus address [`VecMemory::BASE`], all of it mapped for the device.
///
/// Made of atomic 64-bit words, so that the device and its host may touch it from several threads without a lock. Bytes outside the range are refused
/// with a [`DmaFault`].
#[derive(Debug)]
pub struct VecMemory {
    words: Box<[AtomicU64]>,
}

impl VecMemory {
    /// Bus address of the first byte.
    pub const BASE: u64 = 0x1000_0000;

    /// `len_bytes` of zeroes, rounded up to whole words of 8 bytes.
    pub fn new(len_bytes: usize) -> Self {
        // Zeroed by the allocator, so that a large range costs only what is touched. An allocation that fails here would
        // fail anywhere.
        let words = <[AtomicU64]>::new_box_zeroed_with_elems(len_bytes.div_ceil(WORD_BYTES));
        Self {
            words: words.unwrap_or_default(),
        }
    }

    /// Size of the range, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.words.len() * WORD_BYTES
    }

    /// `len_bytes` at `address`, as a fresh vector.
    pub fn read_vec(&self, address: u64, len_bytes: usize) -> Result<Vec<u8>, DmaFault> {
        let mut bytes = vec![0; len_bytes];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// The words that `len_bytes` at `address` touch, and where in the first of them the range begins.
    fn locate(&self, address: u64, len_bytes: usize) -> Result<(&[AtomicU64], usize), DmaFault> {
        let fault = DmaFault {
            address,
            len_bytes: len_bytes as u64,
        };
        let start = address
            .checked_sub(Self::BASE)
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or(fault)?;
        let end = start.checked_add(len_bytes).ok_or(fault)?;
        let words = self
            .words
            .get(start / WORD_BYTES..end.div_ceil(WORD_BYTES))
            .ok_or(fault)?;
        Ok((words, start % WORD_BYTES))
    }

    fn locate_u32(&self, address: u64) -> Result<(&AtomicU64, u32), DmaFault> {
        let (words, skip) = self.locate(address, 4)?;
        match words {
            [word] if skip % 4 == 0 => Ok((word, skip as u32 * 8)),
            _ => Err(DmaFault {
                address,
                len_bytes: 4,
            }),
        }
    }
}

/// How many of `len_bytes` belong to the word that the range begins `skip` bytes into, if it does not begin with one.
fn head_bytes(len_bytes: usize, skip: usize) -> usize {
    if skip == 0 {
        0
    } else {
        (WORD_BYTES - skip).min(len_bytes)
    }
}

fn read_part(word: &AtomicU64, skip: usize, into: &mut [u8]) {
    let bytes = word.load(Ordering::Acquire).to_le_bytes();
    for (to, from) in into.iter_mut().zip(bytes.iter().skip(skip)) {
        *to = *from;
    }
}

fn write_part(word: &AtomicU64, skip: usize, from: &[u8]) {
    // Other bytes of the word may belong to somebody else: they must survive. The closure never refuses.
    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
        let mut bytes = old.to_le_bytes();
        for (to, from) in bytes.iter_mut().skip(skip).zip(from) {
            *to = *from;
        }
        Some(u64::from_le_bytes(bytes))
    });
}

impl HostMemory for VecMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), DmaFault> {
        let (words, skip) = self.locate(address, into.len())?;
        let (head, rest) = into.split_at_mut(head_bytes(into.len(), skip));
        let (whole, tail) = rest.as_chunks_mut::<WORD_BYTES>();
        let (first, words) = words.split_at(usize::from(!head.is_empty()));
        let (words, last) = words.split_at(whole.len());
        first.iter().for_each(|word| read_part(word, skip, head));
        for (to, word) in whole.iter_mut().zip(words) {
            *to = word.load(Ordering::Acquire).to_le_bytes();
        }
        last.iter().for_each(|word| read_part(word, 0, tail));
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), DmaFault> {
        let (words, skip) = self.locate(address, from.len())?;
        let (head, rest) = from.split_at(head_bytes(from.len(), skip));
        let (whole, tail) = rest.as_chunks::<WORD_BYTES>();
        let (first, words) = words.split_at(usize::from(!head.is_empty()));
        let (words, last) = words.split_at(whole.len());
        first.iter().for_each(|word| write_part(word, skip, head));
        for (from, word) in whole.iter().zip(words) {
            word.store(u64::from_le_bytes(*from), Ordering::Release);
        }
        last.iter().for_each(|word| write_part(word, 0, tail));
        Ok(())
    }

    fn load_u32(&self, address: u64) -> Result<u32, DmaFault> {
        let (word, shift) = self.locate_u32(address)?;
        Ok((word.load(Ordering::Acquire) >> shift) as u32)
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), DmaFault> {
        let (word, shift) = self.locate_u32(address)?;
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            Some((old & !(0xffff_ffff << shift)) | (u64::from(value) << shift))
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN_BYTES: usize = 256;

    proptest! {
        #[test]
        fn behaves_as_a_byte_array(
            writes in proptest::collection::vec((0..LEN_BYTES + 16, proptest::collection::vec(any::<u8>(), 0..64)), 0..20),
            from in 0..LEN_BYTES,
            len in 0..LEN_BYTES,
        ) {
            let memory = VecMemory::new(LEN_BYTES);
            let mut model = vec![0u8; LEN_BYTES];
            for (offset, bytes) in &writes {
                let address = VecMemory::BASE + *offset as u64;
                match model.get_mut(*offset..offset + bytes.len()) {
                    Some(range) => {
                        range.copy_from_slice(bytes);
                        prop_assert_eq!(memory.write(address, bytes), Ok(()));
                    }
                    None => prop_assert!(memory.write(address, bytes).is_err()),
                }
            }
            let address = VecMemory::BASE + from as u64;
            match model.get(from..from + len) {
                Some(expected) => prop_assert_eq!(&memory.read_vec(address, len).unwrap()[..], expected),
                None => prop_assert!(memory.read_vec(address, len).is_err()),
            }
        }
    }

    #[test]
    fn words_are_little_endian_and_keep_their_neighbours() {
        let memory = VecMemory::new(16);
        memory.write(VecMemory::BASE, &[0xaa; 16]).unwrap();
        memory.store_u32(VecMemory::BASE + 4, 0x0403_0201).unwrap();
        assert_eq!(memory.load_u32(VecMemory::BASE + 4), Ok(0x0403_0201));
        let mut expected = [0xaa; 16];
        expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
        assert_eq!(memory.read_vec(VecMemory::BASE, 16).unwrap(), expected);
    }

    #[test]
    fn refuses_what_is_not_its_own() {
        let memory = VecMemory::new(64);
        assert!(memory.load_u32(VecMemory::BASE - 4).is_err());
        assert!(memory.load_u32(VecMemory::BASE + 2).is_err());
        assert!(memory.load_u32(VecMemory::BASE + 64).is_err());
        assert!(memory.load_u32(u64::MAX - 3).is_err());
        assert!(memory.read(VecMemory::BASE + 60, &mut [0; 5]).is_err());
    }
}
