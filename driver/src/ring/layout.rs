//! What is where in a ring's memory. Numbers are little-endian.
//!
//! Nothing in here is believed before it has been copied: the other side may change it at any time.

use std::num::NonZeroU32;

use crate::driver::{Class, Priority};
use crate::request::Op;

/// The first bytes of the memory, put there by the driver when it has taken the ring.
pub const MAGIC: u64 = u64::from_le_bytes(*b"NVMERING");
/// Of this layout and of [messages](super::message).
pub const VERSION: u32 = 1;

/// Bytes of a submission entry.
pub const ENTRY_BYTES: usize = 64;
/// Bytes of a completion entry.
pub const RESULT_BYTES: usize = 32;
/// The most entries of a submission ring.
pub const MAX_ENTRIES: u32 = 4096;
/// The most entries of a completion ring.
pub const MAX_RESULTS: u32 = 2 * MAX_ENTRIES;
/// Buffers that can be registered, the ring's own memory included, which is number 0.
pub const MAX_BUFFERS: u32 = 64;
const PAGE_BYTES: usize = 4096;

/// Offsets of words in the first page, those of 32 bits but for `MAGIC`. Each that is written often has a cache line.
pub mod word {
    /// [`MAGIC`](super::MAGIC), 64 bits.
    pub const MAGIC: usize = 0;
    /// [`VERSION`](super::VERSION).
    pub const VERSION: usize = 8;
    /// Entries of the submission ring.
    pub const SQ_ENTRIES: usize = 12;
    /// Entries of the completion ring.
    pub const CQ_ENTRIES: usize = 16;
    /// Where the submission ring begins, in bytes.
    pub const SQ_OFFSET: usize = 20;
    /// Where the completion ring begins, in bytes.
    pub const CQ_OFFSET: usize = 24;
    /// Where the data begins, in bytes.
    pub const DATA_OFFSET: usize = 28;
    /// The queue pair that does the ring's requests.
    pub const QID: usize = 32;
    /// Entries that the client has submitted, ever (modulo 2^32); written by the client.
    pub const SQ_TAIL: usize = 64;
    /// Entries that the driver has taken, ever.
    pub const SQ_HEAD: usize = 128;
    /// Results that the driver has put there, ever.
    pub const CQ_TAIL: usize = 192;
    /// Results that the client has taken, ever; written by the client.
    pub const CQ_HEAD: usize = 256;
    /// [`flag`](super::flag)s.
    pub const FLAGS: usize = 320;
    /// Entries that are not taken any more, since the ring is broken or has ended.
    pub const SQ_DROPPED: usize = 324;
    /// How often entries had to wait since the completion ring was full.
    pub const CQ_FULL: usize = 328;
    /// The CPU that the driver's worker was last seen on, plus 1; 0 where that is not known.
    pub const CPU: usize = 332;
    /// How many runs follow at `RUNS`, if the message asked for them; more than there is room for are counted only.
    pub const RUN_COUNT: usize = 384;
    /// Runs of a buffer as the device sees it: its address there and the length in bytes, 64 bits each.
    pub const RUNS: usize = 512;
}

/// Runs that the first page has room for.
pub const MAX_RUNS: usize = (PAGE_BYTES - word::RUNS) / 16;

/// What the driver says in the word [`FLAGS`](word::FLAGS).
pub mod flag {
    /// The worker sleeps: a [`Wake`](crate::ring::message::Message::Wake) or a read of the file wakes it.
    pub const NEED_WAKEUP: u32 = 1;
    /// An index has jumped: nothing is taken and answered any more.
    pub const BROKEN: u32 = 2;
    /// The driver has ended, or has lost its device: nothing is taken any more. What was taken has been answered.
    pub const ENDED: u32 = 4;
}

/// How long a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Entries of the submission ring: a power of two, at most [`MAX_ENTRIES`].
    pub sq_entries: u32,
    /// Entries of the completion ring: a power of two, at least as many, at most [`MAX_RESULTS`].
    pub cq_entries: u32,
}

impl Geometry {
    /// Whether there can be such a ring.
    pub const fn is_valid(self) -> bool {
        let Self {
            sq_entries,
            cq_entries,
        } = self;
        sq_entries.is_power_of_two()
            && cq_entries.is_power_of_two()
            && sq_entries <= MAX_ENTRIES
            && cq_entries >= sq_entries
            && cq_entries <= MAX_RESULTS
    }

    /// Where the submission ring begins.
    pub const fn sq_offset(self) -> usize {
        PAGE_BYTES
    }

    /// Where the completion ring begins.
    pub const fn cq_offset(self) -> usize {
        (self.sq_offset() + self.sq_entries as usize * ENTRY_BYTES).next_multiple_of(PAGE_BYTES)
    }

    /// Where data begins: what is before is not for the device.
    pub const fn data_offset(self) -> usize {
        (self.cq_offset() + self.cq_entries as usize * RESULT_BYTES).next_multiple_of(PAGE_BYTES)
    }

    /// Where submission entry `index` (ever) is.
    pub(crate) const fn entry_at(self, index: u32) -> usize {
        self.sq_offset() + (index & (self.sq_entries - 1)) as usize * ENTRY_BYTES
    }

    /// Where completion entry `index` (ever) is.
    pub(crate) const fn result_at(self, index: u32) -> usize {
        self.cq_offset() + (index & (self.cq_entries - 1)) as usize * RESULT_BYTES
    }
}

/// Opcodes of entries.
pub mod opcode {
    /// Nothing, which succeeds.
    pub const NOP: u8 = 0;
    /// Read blocks.
    pub const READ: u8 = 1;
    /// Write blocks.
    pub const WRITE: u8 = 2;
    /// Put on the medium what was written before; has no blocks.
    pub const FLUSH: u8 = 3;
    /// Make blocks read as zeroes; has no data.
    pub const WRITE_ZEROES: u8 = 4;
    /// Give blocks up; has no data.
    pub const DEALLOCATE: u8 = 5;
    /// Compare blocks with data.
    pub const COMPARE: u8 = 6;
    /// Check that blocks can be read; has no data.
    pub const VERIFY: u8 = 7;
}

/// Flags of entries.
pub mod entry_flag {
    /// The next entry begins when this one has succeeded; if it fails, that one is answered `ECANCELED`.
    pub const LINK: u8 = 1;
    /// Of a write: on the medium when it is answered (force unit access).
    pub const FUA: u8 = 2;
}

/// The class of an entry that does not say one: medium.
pub const DEFAULT_CLASS: u8 = 2;

/// Set in an address: it is the device's own, of memory that was registered through the same handle. For uid 0.
pub const DEVICE_ADDRESS: u64 = 1;

/// Where an entry's data is: in which buffer, at which byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The buffer's number.
    pub buffer: u32,
    /// The byte, a multiple of 4; or the device's address and [`DEVICE_ADDRESS`].
    pub address: u64,
}

/// A submission entry.
///
/// | byte | bits | what |
/// | --- | --- | --- |
/// | 0 | 8 | [`opcode`] |
/// | 1 | 8 | [`entry_flag`] |
/// | 2 | 8 | class: 0 urgent, 1 high, 2 medium, 3 low |
/// | 3 | 8 | 0 |
/// | 4 | 32 | deadline in microseconds, or 0 |
/// | 8 | 64 | first block |
/// | 16 | 32 | blocks |
/// | 20 | 32 | buffer |
/// | 24 | 64 | address |
/// | 32 | 64 | `user_data`, which comes back with the result |
/// | 40 | 3 x 64 | 0 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// What to do.
    pub opcode: u8,
    /// How.
    pub flags: u8,
    /// How urgent it is.
    pub class: u8,
    /// When it should be done, in microseconds from when it is taken; 0 for none.
    pub deadline_us: u32,
    /// The first block.
    pub slba: u64,
    /// Blocks.
    pub blocks: u32,
    /// The data.
    pub place: Place,
    /// The client's own.
    pub user_data: u64,
    /// What has to be 0.
    pub reserved: [u64; 4],
}

impl Entry {
    const fn new(opcode: u8, slba: u64, blocks: u32, place: Place) -> Self {
        Self {
            opcode,
            flags: 0,
            class: DEFAULT_CLASS,
            deadline_us: 0,
            slba,
            blocks,
            place,
            user_data: 0,
            reserved: [0; 4],
        }
    }

    /// Nothing.
    pub const fn nop() -> Self {
        Self::new(
            opcode::NOP,
            0,
            0,
            Place {
                buffer: 0,
                address: 0,
            },
        )
    }

    /// Reads `blocks` from `slba` on to `place`.
    pub const fn read(slba: u64, blocks: u32, place: Place) -> Self {
        Self::new(opcode::READ, slba, blocks, place)
    }

    /// Writes them from there.
    pub const fn write(slba: u64, blocks: u32, place: Place) -> Self {
        Self::new(opcode::WRITE, slba, blocks, place)
    }

    /// Compares them with what is there.
    pub const fn compare(slba: u64, blocks: u32, place: Place) -> Self {
        Self::new(opcode::COMPARE, slba, blocks, place)
    }

    /// Puts on the medium what was written before.
    pub const fn flush() -> Self {
        Self::new(
            opcode::FLUSH,
            0,
            0,
            Place {
                buffer: 0,
                address: 0,
            },
        )
    }

    /// One of those without data: [`opcode::WRITE_ZEROES`], [`opcode::DEALLOCATE`], [`opcode::VERIFY`].
    pub const fn without_data(opcode: u8, slba: u64, blocks: u32) -> Self {
        Self::new(
            opcode,
            slba,
            blocks,
            Place {
                buffer: 0,
                address: 0,
            },
        )
    }

    /// The same; the next entry waits for its success.
    #[must_use]
    pub const fn linked(mut self) -> Self {
        self.flags |= entry_flag::LINK;
        self
    }

    /// The same, on the medium when it is answered.
    #[must_use]
    pub const fn with_fua(mut self) -> Self {
        self.flags |= entry_flag::FUA;
        self
    }

    /// The same with the client's own number.
    #[must_use]
    pub const fn with_user_data(mut self, user_data: u64) -> Self {
        self.user_data = user_data;
        self
    }

    /// The same with another class and deadline.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Self {
        let mut named = (0..).zip(Priority::ALL);
        self.class = named
            .find(|(_, priority)| *priority == class.priority)
            .map_or(DEFAULT_CLASS, |(number, _)| number);
        self.deadline_us = class.deadline_us.map_or(0, NonZeroU32::get);
        self
    }

    /// Its class and deadline; `None` if there is no such class.
    pub(crate) fn class(&self) -> Option<Class> {
        Some(Class {
            priority: *Priority::ALL.get(usize::from(self.class))?,
            deadline_us: NonZeroU32::new(self.deadline_us),
        })
    }

    /// Whether the next one waits for it.
    pub const fn is_linked(&self) -> bool {
        self.flags & entry_flag::LINK != 0
    }

    /// As it is in memory.
    pub const fn encode(&self) -> [u64; 8] {
        let [odd, one, two, three] = self.reserved;
        let head = self.opcode as u64
            | (self.flags as u64) << 8
            | (self.class as u64) << 16
            | (odd & 0xFF) << 24
            | (self.deadline_us as u64) << 32;
        let blocks = self.blocks as u64 | (self.place.buffer as u64) << 32;
        [
            head,
            self.slba,
            blocks,
            self.place.address,
            self.user_data,
            one,
            two,
            three,
        ]
    }

    /// From a copy of what is in memory.
    pub const fn decode(words: [u64; 8]) -> Self {
        let [head, slba, blocks, address, user_data, one, two, three] = words;
        Self {
            opcode: head as u8,
            flags: (head >> 8) as u8,
            class: (head >> 16) as u8,
            deadline_us: (head >> 32) as u32,
            slba,
            blocks: blocks as u32,
            place: Place {
                buffer: (blocks >> 32) as u32,
                address,
            },
            user_data,
            reserved: [(head >> 24) & 0xFF, one, two, three],
        }
    }

    /// What the driver is asked; `None` for nothing ([`opcode::NOP`]).
    ///
    /// # Errors
    /// It cannot be asked of anybody: an unknown opcode, flag or class, or a reserved bit.
    pub(crate) fn op(&self) -> Result<Option<Op>, Malformed> {
        let known = entry_flag::LINK
            | if self.opcode == opcode::WRITE {
                entry_flag::FUA
            } else {
                0
            };
        if self.flags & !known != 0 || self.class().is_none() || self.reserved != [0; 4] {
            return Err(Malformed);
        }
        Ok(Some(match self.opcode {
            opcode::NOP => return Ok(None),
            opcode::READ => Op::Read,
            opcode::WRITE => Op::Write {
                fua: self.flags & entry_flag::FUA != 0,
            },
            opcode::FLUSH => Op::Flush,
            opcode::WRITE_ZEROES => Op::WriteZeroes { deallocate: false },
            opcode::DEALLOCATE => Op::Deallocate,
            opcode::COMPARE => Op::Compare,
            opcode::VERIFY => Op::Verify,
            _ => return Err(Malformed),
        }))
    }
}

/// What an entry or a message must not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A completion entry.
///
/// | byte | bits | what |
/// | --- | --- | --- |
/// | 0 | 64 | `user_data` of the entry |
/// | 8 | 32 | 0, or the error number |
/// | 12 | 16 | the NVMe status with its type, if the controller answered with one |
/// | 14 | 16 | 0 |
/// | 16 | 64 | bytes of data that were moved: all or none |
/// | 24 | 32 | nanoseconds from when it was taken to its doorbell |
/// | 28 | 32 | nanoseconds from there to its completion |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// That of the entry.
    pub user_data: u64,
    /// 0, or the error number.
    pub errno: u32,
    /// The NVMe status (type in bits 8 to 10, code in bits 0 to 7; 0 is success).
    pub status: u16,
    /// Data.
    pub bytes: u64,
    /// From taken to doorbell.
    pub host_ns: u32,
    /// From doorbell to completion.
    pub device_ns: u32,
}

impl Completion {
    /// As it is in memory.
    pub const fn encode(&self) -> [u64; 4] {
        [
            self.user_data,
            self.errno as u64 | (self.status as u64) << 32,
            self.bytes,
            self.host_ns as u64 | (self.device_ns as u64) << 32,
        ]
    }

    /// From a copy of what is in memory.
    pub const fn decode(words: [u64; 4]) -> Self {
        let [user_data, errno, bytes, times] = words;
        Self {
            user_data,
            errno: errno as u32,
            status: (errno >> 32) as u16,
            bytes,
            host_ns: times as u32,
            device_ns: (times >> 32) as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_where_the_table_has_it() {
        let entry = Entry {
            class: 1,
            deadline_us: 0x0403_0201,
            ..Entry::write(
                0x1122_3344_5566_7788,
                0x99AA_BBCC,
                Place {
                    buffer: 3,
                    address: 0x4000,
                },
            )
        };
        let entry = entry.linked().with_fua().with_user_data(0xDDEE);
        let bytes: Vec<u8> = entry.encode().into_iter().flat_map(u64::to_le_bytes).collect();
        let mut wanted = vec![
            2, 3, 1, 0, 1, 2, 3, 4, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        wanted.extend([
            0xCC, 0xBB, 0xAA, 0x99, 3, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xEE, 0xDD,
        ]);
        wanted.resize(ENTRY_BYTES, 0);
        assert_eq!(bytes, wanted);
        let done = Completion {
            user_data: 1,
            errno: 5,
            status: 0x281,
            bytes: 4096,
            host_ns: 7,
            device_ns: 8,
        };
        let bytes: Vec<u8> = done.encode().into_iter().flat_map(u64::to_le_bytes).collect();
        let mut wanted = vec![
            1, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0x81, 2, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
        ];
        wanted.extend([7, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(bytes, wanted);
        assert_eq!(bytes.len(), RESULT_BYTES);
    }

    #[test]
    fn rings_are_powers_of_two_and_results_have_room() {
        let is_valid = |sq_entries, cq_entries| {
            Geometry {
                sq_entries,
                cq_entries,
            }
            .is_valid()
        };
        assert!(is_valid(1, 1) && is_valid(64, 64) && is_valid(4096, 8192));
        for (sq_entries, cq_entries) in [(0, 1), (3, 4), (4, 2), (4, 6), (8192, 8192), (1, 16384), (0, 0)] {
            assert!(!is_valid(sq_entries, cq_entries), "{sq_entries} {cq_entries}");
        }
        let geometry = Geometry {
            sq_entries: 64,
            cq_entries: 256,
        };
        assert_eq!((geometry.cq_offset(), geometry.data_offset()), (8192, 16384));
        assert_eq!(geometry.entry_at(u32::MAX), 4096 + 63 * 64);
        assert_eq!(geometry.result_at(256), 8192);
    }

    proptest! {
        /// Any words are an entry, and no entry is changed by the way through memory.
        #[test]
        fn entries_and_results_come_back_as_they_were(words: [u64; 8], result: [u64; 4]) {
            prop_assert_eq!(Entry::decode(words).encode(), words);
            let known = [result[0], result[1] & 0xFFFF_FFFF_FFFF, result[2], result[3]];
            prop_assert_eq!(Completion::decode(result).encode(), known);
        }
    }
}
