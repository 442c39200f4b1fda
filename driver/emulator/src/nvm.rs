//! The commands of the NVM Command Set (NVM Command Set 1.0, section 3).

use nvme_spec::{
    Direction, DsmCdw10, DsmCdw11, DsmRange, NvmOpcode, ReadWriteCdw12, Status, SubmissionEntry,
    entry::FUSE_NONE,
};
use zerocopy::FromBytes;

use crate::{
    host::HostMemory,
    namespace::Namespace,
    transfer::{self, DataPointer, Scratch, refused},
};

/// What the controller allows an I/O command, as it is enabled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Host page size in bytes, from CC.MPS.
    pub page_bytes: u64,
    /// Most data of one command in bytes, from MDTS. `None` = no limit.
    pub mdts_bytes: Option<u64>,
    /// Whether the data pointer may be an SGL.
    pub sgl: bool,
    /// Whether every write is on the medium when it completes (the volatile write cache is off or absent).
    pub write_through: bool,
}

/// How a command went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Goes into the completion.
    pub status: Status,
    /// Dword 0 of the completion.
    pub dw0: u32,
    /// Logical block data that the command dealt with, in bytes, whether or not it crossed the bus: what Read returned,
    /// Write took, Compare compared, Verify verified and Write Zeroes zeroed. 0 for a command that failed.
    pub bytes: u64,
}

/// Does one I/O command on the namespace it names. Flush for all namespaces (NSID FFFFFFFFh) is one call for each.
///
/// The data has been moved when this returns; where it is in host memory is in `scratch` until the next command. A
/// command that fails may have moved part of it.
#[inline]
pub fn execute(
    namespace: &Namespace,
    entry: &SubmissionEntry,
    limits: &Limits,
    memory: &dyn HostMemory,
    scratch: &mut Scratch,
) -> Outcome {
    let command = Command {
        namespace,
        entry,
        limits,
        memory,
    };
    match command.run(scratch) {
        Ok(bytes) => Outcome {
            status: Status::SUCCESS,
            dw0: 0,
            bytes,
        },
        Err(status) => Outcome {
            status,
            dw0: 0,
            bytes: 0,
        },
    }
}

/// A command and all it works with.
struct Command<'a> {
    namespace: &'a Namespace,
    entry: &'a SubmissionEntry,
    limits: &'a Limits,
    memory: &'a dyn HostMemory,
}

impl Command<'_> {
    #[inline]
    fn run(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        // Identify offers no fused operations (FUSES is 0).
        if self.entry.fuse() != FUSE_NONE {
            return Err(refused(Status::INVALID_FIELD));
        }
        match NvmOpcode(self.entry.opcode) {
            NvmOpcode::READ => self.read(scratch),
            NvmOpcode::WRITE => self.write(scratch),
            NvmOpcode::FLUSH => self.namespace.flush().map(|()| 0),
            NvmOpcode::COMPARE => self.compare(scratch),
            NvmOpcode::VERIFY => self.verify(scratch),
            NvmOpcode::WRITE_ZEROES => self.write_zeroes(),
            NvmOpcode::DATASET_MANAGEMENT => self.dataset_management(scratch),
            _ => Err(refused(Status::INVALID_OPCODE)),
        }
    }

    fn read(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        let (offset_bytes, len_bytes) = self.data_range()?;
        self.map(len_bytes, Direction::FromDevice, scratch)?;
        let Scratch { segments, bounce, .. } = scratch;
        let mut host = transfer::Cursor::new(segments);
        self.namespace
            .storage()
            .read(offset_bytes, len_bytes, bounce, |bytes| {
                host.scatter(self.memory, bytes)
            })?;
        Ok(len_bytes)
    }

    fn write(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        // No directives are supported, so none may be named.
        if self.cdw12().dtype() != 0 {
            return Err(refused(Status::INVALID_FIELD));
        }
        let (offset_bytes, len_bytes) = self.data_range()?;
        self.map(len_bytes, Direction::ToDevice, scratch)?;
        let Scratch { segments, bounce, .. } = scratch;
        let mut host = transfer::Cursor::new(segments);
        self.namespace
            .storage()
            .write(offset_bytes, len_bytes, bounce, |bytes| {
                host.gather(self.memory, bytes)
            })?;
        self.settle()?;
        Ok(len_bytes)
    }

    fn compare(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        let (offset_bytes, len_bytes) = self.data_range()?;
        self.map(len_bytes, Direction::ToDevice, scratch)?;
        let Scratch {
            segments,
            bounce,
            other,
            ..
        } = scratch;
        let mut host = transfer::Cursor::new(segments);
        self.namespace
            .storage()
            .read(offset_bytes, len_bytes, bounce, |stored| {
                other.resize(stored.len(), 0);
                host.gather(self.memory, other)?;
                if stored == other.as_slice() {
                    Ok(())
                } else {
                    Err(refused(Status::COMPARE_FAILURE))
                }
            })?;
        Ok(len_bytes)
    }

    /// Reads, and keeps nothing. MDTS is about transfers; the limit for Verify would be VSL (CNS 06h), and there is none.
    fn verify(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        let (offset_bytes, len_bytes) = self.range()?;
        self.namespace
            .storage()
            .read(offset_bytes, len_bytes, &mut scratch.bounce, |_| {
                Ok::<(), Status>(())
            })?;
        Ok(len_bytes)
    }

    /// With DEAC or without: deallocated blocks read as zeroes (Identify says so in DLFEAT), so they are the best place
    /// for zeroes. No limit but NLB (WZSL is 0).
    fn write_zeroes(&self) -> Result<u64, Status> {
        let (offset_bytes, len_bytes) = self.range()?;
        self.namespace.storage().deallocate(offset_bytes, len_bytes)?;
        self.settle()?;
        Ok(len_bytes)
    }

    /// Deallocates if asked to; the other attributes are hints that this medium has no use for. No range is touched
    /// before all are known to be good.
    fn dataset_management(&self, scratch: &mut Scratch) -> Result<u64, Status> {
        const RANGE_BYTES: usize = size_of::<DsmRange>();
        let format = self.namespace.format();
        let ranges = usize::from(DsmCdw10::from(self.entry.cdw10).nr_z()) + 1;
        let len_bytes = ranges * RANGE_BYTES;
        self.map(len_bytes as u64, Direction::ToDevice, scratch)?;
        let Scratch { segments, other, .. } = scratch;
        other.resize(len_bytes, 0);
        transfer::Cursor::new(segments).gather(self.memory, other)?;
        let (ranges, _) = other.as_chunks::<RANGE_BYTES>();
        let in_bytes = |range: &[u8; RANGE_BYTES]| {
            let range = DsmRange::read_from_bytes(range).unwrap_or_default();
            format.range_bytes(range.slba.get(), range.length_blocks.get().into())
        };
        ranges.iter().try_for_each(|range| in_bytes(range).map(|_| ()))?;
        if DsmCdw11::from(self.entry.cdw11).ad() {
            for range in ranges {
                let (offset_bytes, len_bytes) = in_bytes(range)?;
                self.namespace.storage().deallocate(offset_bytes, len_bytes)?;
            }
        }
        Ok(0)
    }

    fn cdw12(&self) -> ReadWriteCdw12 {
        ReadWriteCdw12::from(self.entry.cdw12)
    }

    /// The blocks that the command names: offset and length in bytes.
    #[inline]
    fn range(&self) -> Result<(u64, u64), Status> {
        let blocks = u64::from(self.entry.nlb_z()) + 1;
        self.namespace.format().range_bytes(self.entry.lba(), blocks)
    }

    /// The same for a command that moves them, which MDTS bounds (Base 2.0, section 5.17.2.1).
    #[inline]
    fn data_range(&self) -> Result<(u64, u64), Status> {
        let (offset_bytes, len_bytes) = self.range()?;
        match self.limits.mdts_bytes {
            Some(mdts_bytes) if len_bytes > mdts_bytes => Err(refused(Status::INVALID_FIELD)),
            _ => Ok((offset_bytes, len_bytes)),
        }
    }

    #[inline]
    fn map(&self, len_bytes: u64, direction: Direction, scratch: &mut Scratch) -> Result<(), Status> {
        let pointer = DataPointer {
            page_bytes: self.limits.page_bytes,
            sgl: self.limits.sgl,
        };
        transfer::map(self.entry, len_bytes, direction, pointer, self.memory, scratch)
    }

    /// Puts what was written on the medium, if it must be there already.
    #[inline]
    fn settle(&self) -> Result<(), Status> {
        if self.limits.write_through || self.cdw12().fua() {
            self.namespace.flush()
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
