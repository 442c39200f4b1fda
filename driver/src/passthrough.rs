//! I/O commands that a client writes itself.
//!
//! Only commands whose data has a length that follows from the command are taken, and only with as much data as that:
//! with a length that the driver does not know, the device could go past the end of the memory that it is given.

use nvme_spec::{CompletionEntry, CopyCdw12, Direction, DsmCdw10, DsmRange, NvmOpcode, SubmissionEntry};

/// A command with its data: the [`Buffer`](crate::Buffer) of [`Op::Passthrough`](crate::Op::Passthrough).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passthrough {
    /// The command. Its identifier, data pointers, flags and namespace are the driver's to fill in.
    pub entry: SubmissionEntry,
    /// The data, of exactly the length that the command says: to the device, or room for what comes from it.
    pub data: Vec<u8>,
    /// What the controller answered, whatever its status; `None` if it did not.
    pub completion: Option<CompletionEntry>,
}

impl Passthrough {
    /// A command that has not been sent.
    pub fn new(entry: SubmissionEntry, data: Vec<u8>) -> Self {
        Self {
            entry,
            data,
            completion: None,
        }
    }
}

/// What a command does with how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// First block and number of blocks, where the command itself names them.
    pub(crate) blocks: Option<(u64, u64)>,
    /// Which way its data goes.
    pub(crate) direction: Direction,
    /// How much there is of it.
    pub(crate) data_bytes: u64,
    /// What it is counted with.
    counted_bytes: u64,
    /// Whether blocks may be others afterwards.
    pub(crate) changes_blocks: bool,
}

/// What `entry` does on a namespace of blocks of 2^`lba_shift` bytes; `None` if it is not known, or if it is one half of
/// a fused operation, which is nothing without the other.
pub(crate) fn shape(entry: &SubmissionEntry, lba_shift: u32) -> Option<Shape> {
    if entry.fuse() != 0 {
        return None;
    }
    let opcode = NvmOpcode(entry.opcode);
    let blocks = u64::from(entry.nlb_z()) + 1;
    let block_bytes = blocks << lba_shift;
    let named = Some((entry.lba(), blocks));
    let (blocks, data_bytes, counted_bytes) = match opcode {
        NvmOpcode::FLUSH => (None, 0, 0),
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE => (named, block_bytes, block_bytes),
        NvmOpcode::VERIFY | NvmOpcode::WRITE_ZEROES => (named, 0, block_bytes),
        NvmOpcode::WRITE_UNCORRECTABLE => (named, 0, 0),
        NvmOpcode::DATASET_MANAGEMENT => {
            let ranges = u64::from(DsmCdw10::from(entry.cdw10).nr_z()) + 1;
            (None, ranges * size_of::<DsmRange>() as u64, 0)
        }
        NvmOpcode::COPY => {
            let cdw12 = CopyCdw12::from(entry.cdw12);
            (None, (u64::from(cdw12.nr_z()) + 1) * cdw12.range_bytes()?, 0)
        }
        _ => return None,
    };
    Some(Shape {
        blocks,
        direction: opcode.transfers(),
        data_bytes,
        counted_bytes,
        changes_blocks: !matches!(
            opcode,
            NvmOpcode::FLUSH | NvmOpcode::READ | NvmOpcode::COMPARE | NvmOpcode::VERIFY
        ),
    })
}

/// The bytes that such a command is counted with. Beside the way of the others, which are many.
#[cold]
pub(crate) fn counted_bytes(entry: &SubmissionEntry, lba_shift: u32) -> u64 {
    shape(entry, lba_shift).map_or(0, |shape| shape.counted_bytes)
}

#[cfg(test)]
mod tests {
    use nvme_spec::command;
    use proptest::prelude::*;

    use super::*;

    fn entry(opcode: NvmOpcode, cdw10: u32, cdw12: u32) -> SubmissionEntry {
        SubmissionEntry {
            opcode: opcode.0,
            cdw10,
            cdw12,
            ..Default::default()
        }
    }

    #[test]
    fn the_length_is_what_the_command_says() {
        let of = |entry: SubmissionEntry| shape(&entry, 12).map(|shape| (shape.direction, shape.data_bytes));
        let cases = [
            (command::flush(1), Direction::None, 0),
            (command::read(1, 5, 65536), Direction::FromDevice, 65536 * 4096),
            (command::write(1, 5, 1, true), Direction::ToDevice, 4096),
            (command::compare(1, 5, 2), Direction::ToDevice, 8192),
            (command::verify(1, 5, 9), Direction::None, 0),
            (command::write_zeroes(1, 5, 9), Direction::None, 0),
            (entry(NvmOpcode::WRITE_UNCORRECTABLE, 0, 8), Direction::None, 0),
            (
                command::dataset_management(1, 256, true),
                Direction::ToDevice,
                4096,
            ),
            // Copy: formats 0 and 1 have ranges of 32 and of 40 bytes.
            (entry(NvmOpcode::COPY, 0, 0x0003), Direction::ToDevice, 4 * 32),
            (entry(NvmOpcode::COPY, 0, 0x01FF), Direction::ToDevice, 256 * 40),
        ];
        for (entry, direction, bytes) in cases {
            assert_eq!(of(entry), Some((direction, bytes)), "{entry:?}");
        }
        assert_eq!(
            shape(&command::read(1, 1 << 40, 3), 9).and_then(|shape| shape.blocks),
            Some((1 << 40, 3))
        );
    }

    #[test]
    fn what_has_no_known_length_is_refused() {
        let fused = SubmissionEntry {
            flags: 1,
            ..command::compare(1, 0, 1)
        };
        for refused in [
            fused,
            entry(NvmOpcode::RESERVATION_REPORT, 0, 0),
            entry(NvmOpcode::RESERVATION_REGISTER, 0, 0),
            entry(NvmOpcode(0x80), 0, 0),
            entry(NvmOpcode(0xC1), 0, 0),
            // Formats that name another namespace to copy from, and those that do not exist.
            entry(NvmOpcode::COPY, 0, 0x0200),
            entry(NvmOpcode::COPY, 0, 0x0300),
            entry(NvmOpcode::COPY, 0, 0x0F00),
        ] {
            assert_eq!(shape(&refused, 12), None, "{refused:?}");
        }
    }

    proptest! {
        #[test]
        fn a_command_without_data_has_none_and_one_with_data_has_some(
            opcode: u8, cdw10: u32, cdw12: u32, lba_shift in 9_u32..=16,
        ) {
            if let Some(shape) = shape(&entry(NvmOpcode(opcode), cdw10, cdw12), lba_shift) {
                prop_assert_eq!(shape.data_bytes == 0, shape.direction == Direction::None);
                prop_assert!(shape.data_bytes <= 1 << 32);
            }
        }
    }
}
