//! Partition tables, from the blocks that hold them: GPT (UEFI 2.10, section 5.3) and MBR with logical
//! partitions.
//!
//! [`TableReader`] is a state machine without I/O: it names the blocks that it wants, is given them, and at the
//! end says what it found. What it reads is bounded: at most [`MAX_ENTRIES`] entries of a GPT twice, or
//! [`MAX_EBRS`] links of a chain that only goes up. The bytes come from whoever wrote the disk.

use std::io::Cursor;
use std::ops::Range;

use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, read_header_from_arbitrary_device};
use gpt::partition::file_read_partitions;
use mbrman::{MBRHeader, MBRPartitionEntry};

use super::NEAR_BYTES;

/// The most entries of a GPT that are looked at: eight times what everybody uses. A table that claims more is
/// not believed.
pub(crate) const MAX_ENTRIES: u32 = 1024;

/// Bytes of an entry of a GPT. The specification allows for larger ones; nobody makes them.
const ENTRY_BYTES: u32 = 128;

/// The most extended boot records that are followed, so the most logical partitions.
pub(crate) const MAX_EBRS: usize = 128;

/// Partition numbers of an MBR from which on they are logical.
const FIRST_LOGICAL: u32 = 5;

/// Type of the one partition of a protective MBR.
const PROTECTIVE: u8 = 0xEE;

/// Bytes of a boot record, whatever the block size.
const BOOT_RECORD_BYTES: usize = 512;

/// A partition: one block at least, all of them in the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// From 1: the place in a GPT or in an MBR; logical ones from 5 on.
    pub(crate) number: u32,
    pub(crate) first_block: u64,
    pub(crate) blocks: u64,
}

/// What a namespace's table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// In ascending order of their numbers.
    pub(crate) partitions: Vec<Partition>,
    /// Numbers of the entries of the GPT, or of the four of the MBR, that hold anything, whether a partition could be
    /// made of them or not. In ascending order.
    pub(crate) entries: Vec<u32>,
    /// Blocks far from the namespace's ends that were read for it, whatever was found there: extended boot
    /// records, and the entries of a GPT whose header has them somewhere else than everybody's.
    pub(crate) far_blocks: Vec<Range<u64>>,
}

impl Table {
    pub(crate) fn get(&self, number: u32) -> Option<Partition> {
        let mut partitions = self.partitions.iter();
        partitions.find(|partition| partition.number == number).copied()
    }

    /// The partitions as Redox numbers them: from 0, in the order of the entries. Also entries that no partition could
    /// be made of count, the extended partition among them; logical partitions come after all of these. In ascending
    /// order of the numbers that they have here.
    pub(crate) fn by_position(&self) -> impl Iterator<Item = (u32, Partition)> {
        let mut behind = 0..;
        let entries = self.entries.len() as u64;
        self.partitions.iter().filter_map(move |partition| {
            let position = match self.entries.binary_search(&partition.number) {
                Ok(place) => place as u64,
                Err(_) => entries + behind.next()?,
            };
            Some((u32::try_from(position).ok()?, *partition))
        })
    }

    /// Takes a partition in if it is possible.
    fn add(
        &mut self,
        number: u32,
        first_block: u64,
        last_block: u64,
        allowed: std::ops::RangeInclusive<u64>,
    ) {
        let inside = allowed.contains(&first_block) && allowed.contains(&last_block);
        if inside && first_block <= last_block {
            self.partitions.push(Partition {
                number,
                first_block,
                blocks: last_block - first_block + 1,
            });
        } else {
            log::info!(
                "partition {number}, blocks {first_block} to {last_block}, is left out: only blocks {} to {} can be \
                 in it",
                allowed.start(),
                allowed.end()
            );
        }
    }
}

/// What the reader wants next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// These blocks.
    Read { slba: u64, blocks: u64 },
    /// Nothing more.
    Done(Table),
}

/// Reads one table. See [the module](self).
#[derive(Debug)]
pub(crate) struct TableReader {
    blocks: u64,
    block_bytes: usize,
    /// What [`Table::far_blocks`] will be.
    far_blocks: Vec<Range<u64>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first two blocks.
    Start,
    /// The entries of the GPT whose header was read.
    Entries { header: Header, primary: bool },
    /// The header in the last block.
    BackupHeader,
    /// An extended boot record.
    BootRecord(Chain),
}

/// Extended boot records that are being followed.
#[derive(Debug)]
struct Chain {
    table: Table,
    /// The extended partition.
    first_block: u64,
    last_block: u64,
    /// The record that is being read.
    here: u64,
    /// Records that were read.
    records: usize,
}

impl TableReader {
    /// For a namespace of `blocks` blocks, with what to read first; `None` if there is no room for a table.
    pub(crate) fn new(blocks: u64, block_bytes: u32) -> Option<(Self, Step)> {
        let block_bytes = usize::try_from(block_bytes).ok()?;
        if block_bytes < BOOT_RECORD_BYTES || blocks < 2 {
            return None;
        }
        let reader = Self {
            blocks,
            block_bytes,
            far_blocks: Vec::new(),
            state: State::Start,
        };
        Some((reader, Step::Read { slba: 0, blocks: 2 }))
    }

    /// Goes on with the blocks that were asked for.
    pub(crate) fn turn(self, bytes: &[u8]) -> (Self, Step) {
        let Self {
            blocks,
            block_bytes,
            mut far_blocks,
            state,
        } = self;
        let shape = Shape { blocks, block_bytes };
        let (state, mut step) = match state {
            State::Start => shape.start(bytes),
            State::Entries { header, primary } => match shape.entries(&header, bytes) {
                Some(table) => (State::Start, Step::Done(table)),
                None if primary => shape.backup(),
                None => shape.none("the entries of neither GPT are whole"),
            },
            State::BackupHeader => match shape.header(bytes, blocks - 1) {
                Some(header) => shape.read_entries(header, false),
                None => shape.none("the header of neither GPT is whole"),
            },
            State::BootRecord(chain) => shape.boot_record(chain, bytes),
        };
        match &mut step {
            Step::Read { slba, blocks } => far_blocks.extend(shape.far(*slba..*slba + *blocks)),
            Step::Done(table) => table.far_blocks = std::mem::take(&mut far_blocks),
        }
        let reader = Self {
            blocks,
            block_bytes,
            far_blocks,
            state,
        };
        (reader, step)
    }
}

/// The namespace's shape.
#[derive(Clone, Copy)]
struct Shape {
    blocks: u64,
    block_bytes: usize,
}

impl Shape {
    /// `read`, unless all of it is near an end.
    fn far(self, read: Range<u64>) -> Option<Range<u64>> {
        let bytes = |blocks: u64| blocks.saturating_mul(self.block_bytes as u64);
        let near = bytes(read.end) <= NEAR_BYTES
            || bytes(read.start) >= bytes(self.blocks).saturating_sub(NEAR_BYTES);
        (!near).then_some(read)
    }

    fn none(self, why: &str) -> (State, Step) {
        log::info!("a partition table cannot be read: {why}");
        (State::Start, Step::Done(Table::default()))
    }

    fn start(self, bytes: &[u8]) -> (State, Step) {
        let Some(mbr) = boot_record(bytes) else {
            // Nothing, or a file system of its own.
            return (State::Start, Step::Done(Table::default()));
        };
        if mbr.iter().any(|(_, entry)| entry.sys == PROTECTIVE) {
            let header = bytes.get(self.block_bytes..);
            return match header.and_then(|header| self.header(header, 1)) {
                Some(header) => self.read_entries(header, true),
                None => self.backup(),
            };
        }
        let mut table = Table::default();
        let mut extended = None;
        for (number, entry) in (1..).zip(mbr.iter().map(|(_, entry)| entry)) {
            // What Redox takes for an entry; the type does not matter there. (Boot flags do, but a record with one that
            // is none is not taken for a record here.)
            if entry.sectors > 0 {
                table.entries.push(number);
            }
            if entry.is_extended() {
                // One is enough for everybody, and for us.
                extended = extended.or(extent(entry, 0));
            } else if entry.is_used()
                && let Some((first_block, last_block)) = extent(entry, 0)
            {
                table.add(number, first_block, last_block, 1..=self.blocks - 1);
            }
        }
        match extended {
            Some((first_block, last_block)) if first_block > 0 && last_block < self.blocks => {
                self.follow(Chain {
                    table,
                    first_block,
                    last_block,
                    here: first_block,
                    records: 0,
                })
            }
            Some(_) => {
                log::info!("an extended partition beyond the namespace's end is left out");
                (State::Start, Step::Done(table))
            }
            None => (State::Start, Step::Done(table)),
        }
    }

    /// The header in `bytes`, which are block `here`, if it is whole and possible.
    fn header(self, bytes: &[u8], here: u64) -> Option<Header> {
        // As a disk of two blocks of 512 bytes: the crate knows two block sizes, and reads a header of either
        // in the same way.
        let mut disk = vec![0; BOOT_RECORD_BYTES];
        disk.extend_from_slice(bytes.get(..BOOT_RECORD_BYTES)?);
        let header =
            read_header_from_arbitrary_device(&mut Cursor::new(disk), LogicalBlockSize::Lb512).ok()?;
        let entries = entry_blocks(&header, self.block_bytes);
        let entries_end = header.part_start.checked_add(entries)?;
        let possible = header.current_lba == here
            && header.part_size == ENTRY_BYTES
            && (1..=MAX_ENTRIES).contains(&header.num_parts)
            && header.part_start >= 2
            && entries_end < self.blocks;
        possible.then_some(header)
    }

    fn read_entries(self, header: Header, primary: bool) -> (State, Step) {
        let step = Step::Read {
            slba: header.part_start,
            blocks: entry_blocks(&header, self.block_bytes),
        };
        (State::Entries { header, primary }, step)
    }

    fn backup(self) -> (State, Step) {
        log::info!("the first GPT is not whole, the one at the namespace's end is read");
        let step = Step::Read {
            slba: self.blocks - 1,
            blocks: 1,
        };
        (State::BackupHeader, step)
    }

    /// The table, if the entries are those of `header`.
    fn entries(self, header: &Header, bytes: &[u8]) -> Option<Table> {
        let at_start = Header {
            part_start: 0,
            ..header.clone()
        };
        // Number and size of the entries were bounded when the header was read.
        let entries =
            file_read_partitions(&mut Cursor::new(bytes), &at_start, LogicalBlockSize::Lb512).ok()?;
        // Neither the first two blocks and the last nor the entries may be in a partition, whatever the
        // header says. The other table's entries are kept out by the usable blocks.
        let entries_end = header.part_start + entry_blocks(header, self.block_bytes);
        let (mut first, mut last) = (
            header.first_usable.max(2),
            header.last_usable.min(self.blocks - 2),
        );
        if header.current_lba == 1 {
            first = first.max(entries_end);
        } else {
            last = last.min(header.part_start - 1);
        }
        let mut table = Table::default();
        for (number, entry) in entries {
            table.entries.push(number);
            if !entry.part_type_guid.guid.is_nil() {
                table.add(number, entry.first_lba, entry.last_lba, first..=last);
            }
        }
        Some(table)
    }

    fn follow(self, chain: Chain) -> (State, Step) {
        let step = Step::Read {
            slba: chain.here,
            blocks: 1,
        };
        (State::BootRecord(chain), step)
    }

    fn boot_record(self, mut chain: Chain, bytes: &[u8]) -> (State, Step) {
        let Some(record) = boot_record(bytes) else {
            // An extended partition that nobody has put anything in has no record.
            return (State::Start, Step::Done(chain.table));
        };
        chain.records += 1;
        let mut next = None;
        for (_, entry) in record.iter() {
            if entry.is_extended() {
                // Links count from the beginning of the extended partition, partitions from the record.
                next = next.or(extent(entry, chain.first_block));
            } else if entry.is_used()
                && let Some((first_block, last_block)) = extent(entry, chain.here)
            {
                let number = chain.next_number();
                let allowed = chain.here + 1..=chain.last_block;
                chain.table.add(number, first_block, last_block, allowed);
            }
        }
        match next {
            // Only upwards, so that it ends.
            Some((here, _))
                if (chain.here + 1..=chain.last_block).contains(&here) && chain.records < MAX_EBRS =>
            {
                chain.here = here;
                self.follow(chain)
            }
            Some((here, _)) => {
                log::info!("the chain of logical partitions ends early: its next link is block {here}");
                (State::Start, Step::Done(chain.table))
            }
            None => (State::Start, Step::Done(chain.table)),
        }
    }
}

impl Chain {
    fn next_number(&self) -> u32 {
        let last = self.table.partitions.last().map_or(0, |last| last.number);
        (last + 1).max(FIRST_LOGICAL)
    }
}

/// The boot record at the beginning of `bytes`, if there is one.
fn boot_record(bytes: &[u8]) -> Option<MBRHeader> {
    let record = bytes.get(..BOOT_RECORD_BYTES)?;
    MBRHeader::read_from(&mut Cursor::new(record)).ok()
}

/// First and last block of `entry`, which counts from `base`; `None` if it has none.
fn extent(entry: &MBRPartitionEntry, base: u64) -> Option<(u64, u64)> {
    let first_block = base + u64::from(entry.starting_lba);
    let blocks = u64::from(entry.sectors);
    (blocks > 0).then(|| (first_block, first_block + blocks - 1))
}

/// Blocks that the entries of `header` take.
fn entry_blocks(header: &Header, block_bytes: usize) -> u64 {
    (u64::from(header.num_parts) * u64::from(ENTRY_BYTES)).div_ceil(block_bytes as u64)
}

#[cfg(test)]
mod tests;
