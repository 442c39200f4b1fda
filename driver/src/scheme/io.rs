//! I/O passthrough: `N/io`.

use std::sync::{Arc, Mutex};

use nvme_spec::{Direction, SubmissionEntry};
use zerocopy::{FromBytes, IntoBytes};

use super::data::Volume;
use super::service::{Answer, BlockService, Buffer, Finished, Hint, IoError, Op, Remote, Request};
use super::transaction::Transaction;
use super::{Errno, Pending, Reply, lock};
use crate::passthrough::{Passthrough, Shape, shape};

const ENTRY_BYTES: usize = 64;

/// One open `N/io`.
pub(crate) struct IoFile {
    volume: Arc<Volume>,
    service: Arc<dyn BlockService>,
    hint: Hint,
    transaction: Transaction,
}

impl IoFile {
    pub(crate) fn new(volume: Arc<Volume>, service: Arc<dyn BlockService>, client: u64) -> Arc<Self> {
        Arc::new(Self {
            volume,
            service,
            hint: Hint {
                client,
                ..Hint::default()
            },
            transaction: Transaction::new(),
        })
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        self.transaction.read(offset, buffer, pending);
    }

    pub(crate) fn write(self: &Arc<Self>, bytes: Vec<u8>, pending: Pending) {
        let nsid = self.volume.nsid();
        let lba_shift = self
            .volume
            .geometry()
            .map(|geometry| geometry.block_bytes().ilog2());
        let max_bytes = self.service.identity().max_transfer_bytes;
        let parsed = lba_shift.and_then(|lba_shift| parse(&bytes, nsid, lba_shift, max_bytes));
        let (command, shape) = match parsed {
            Ok(parsed) => parsed,
            Err(errno) => return self.transaction.refuse(errno, pending),
        };
        if let Err(errno) = self.transaction.begin() {
            return pending.answer(Err(errno));
        }
        let (slba, blocks) = shape.blocks.unwrap_or((0, 0));
        let out = Out {
            file: Arc::clone(self),
            from_device: shape.direction == Direction::FromDevice,
            changes_blocks: shape.changes_blocks,
            call: Mutex::new(Some((bytes, pending))),
        };
        let request = Request {
            op: Op::Passthrough,
            nsid,
            slba,
            blocks,
            buffer: Buffer::Passthrough(Box::new(command)),
            arrived_ns: self.service.now_ns(),
            context: Remote {
                sink: Arc::new(out),
                tag: 0,
            },
        };
        let cpu = crate::cpu::current();
        self.service.submit(Hint { cpu, ..self.hint }, request);
    }
}

/// The command in `bytes`, found fit to be sent, with its data or with room for it.
///
/// # Errors
/// `EINVAL` for anything malformed, `EOPNOTSUPP` for a command whose data has no length that follows from it.
fn parse(
    bytes: &[u8],
    nsid: u32,
    lba_shift: u32,
    max_transfer_bytes: usize,
) -> Result<(Passthrough, Shape), Errno> {
    let (head, sent) = bytes.split_at_checked(ENTRY_BYTES).ok_or(Errno::EINVAL)?;
    let mut entry = SubmissionEntry::read_from_bytes(head).map_err(|_| Errno::EINVAL)?;
    let shape = shape(&entry, lba_shift).ok_or(Errno::EOPNOTSUPP)?;
    // PSDT says how the driver passes the data; addresses are the driver's to fill in.
    let plain = entry.flags == 0 && entry.mptr == 0 && entry.prp2 == 0;
    if !plain || ![0, nsid].contains(&entry.nsid) {
        return Err(Errno::EINVAL);
    }
    let expected_bytes = entry.prp1;
    let data_bytes = usize::try_from(shape.data_bytes).map_err(|_| Errno::EINVAL)?;
    let (to_device, from_device) = match shape.direction {
        Direction::FromDevice => (0, shape.data_bytes),
        _ => (data_bytes, 0),
    };
    if data_bytes > max_transfer_bytes || sent.len() != to_device || expected_bytes != from_device {
        return Err(Errno::EINVAL);
    }
    (entry.nsid, entry.cid, entry.prp1) = (nsid, 0, 0);
    let data = match shape.direction {
        Direction::FromDevice => vec![0; data_bytes],
        _ => sent.to_vec(),
    };
    Ok((Passthrough::new(entry, data), shape))
}

/// A command that is out, with the client's bytes and whom to answer.
struct Out {
    file: Arc<IoFile>,
    from_device: bool,
    changes_blocks: bool,
    call: Mutex<Option<(Vec<u8>, Pending)>>,
}

impl Out {
    fn done(&self, result: Result<(), IoError>, buffer: Buffer) {
        let Some((bytes, pending)) = lock(&self.call).take() else {
            return;
        };
        let completed = match buffer {
            Buffer::Passthrough(command) => command.completion.map(|completion| (completion, command.data)),
            _ => None,
        };
        let (text, reply) = match (completed, result) {
            // Whatever its status.
            (Some((completion, data)), _) => {
                let mut text = completion.as_bytes().to_vec();
                if self.from_device && completion.status().is_success() {
                    text.extend_from_slice(&data);
                }
                let len = bytes.len();
                (text, Ok(Reply::Written { buffer: bytes, len }))
            }
            (None, Err(error)) => (Vec::new(), Err(error.into())),
            (None, Ok(())) => (Vec::new(), Err(Errno::EIO)),
        };
        if self.changes_blocks {
            // Wherever it was: few use this, and a table is soon read again.
            self.file.volume.partitions.forget();
        }
        self.file.transaction.end(text);
        pending.answer(reply);
    }
}

impl Answer for Out {
    fn answer(&self, _tag: u64, finished: Finished<()>) {
        self.done(finished.result, finished.buffer);
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.done(Err(IoError::Stopped), Buffer::None);
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::{NvmOpcode, command};
    use proptest::prelude::*;

    use super::*;

    const MAX_BYTES: usize = 8192;

    fn parse(entry: SubmissionEntry, data: &[u8]) -> Result<Passthrough, Errno> {
        let mut bytes = entry.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        super::parse(&bytes, 3, 9, MAX_BYTES).map(|(command, _)| command)
    }

    #[test]
    fn the_data_are_as_long_as_the_command_says() {
        let read = |prp1| SubmissionEntry {
            prp1,
            ..command::read(3, 7, 2)
        };
        let good = parse(read(1024), &[]).unwrap();
        assert_eq!(good, Passthrough::new(command::read(3, 7, 2), vec![0; 1024]));
        for bad in [read(0), read(1023), read(1025), read(u64::MAX)] {
            assert_eq!(parse(bad, &[]), Err(Errno::EINVAL));
        }
        assert_eq!(parse(read(1024), &[1]), Err(Errno::EINVAL));
        let write = command::write(0, 7, 2, true);
        let good = parse(write, &[5; 1024]).unwrap();
        assert_eq!(
            (good.entry.nsid, good.data),
            (3, vec![5; 1024]),
            "its number is filled in"
        );
        for len in [0, 1023, 1025] {
            assert_eq!(parse(write, &vec![5; len]), Err(Errno::EINVAL));
        }
        assert_eq!(
            parse(SubmissionEntry { prp1: 1024, ..write }, &[5; 1024]),
            Err(Errno::EINVAL)
        );
        let dsm = command::dataset_management(3, 2, true);
        assert_eq!(parse(dsm, &[0; 16]), Err(Errno::EINVAL));
        assert!(parse(dsm, &[0; 32]).is_ok());
        assert!(parse(command::flush(3), &[]).is_ok());
        assert_eq!(parse(command::flush(3), &[0; 4]), Err(Errno::EINVAL));
    }

    #[test]
    fn one_command_moves_no_more_than_the_controller_takes() {
        assert!(parse(command::write(3, 0, 16, false), &[0; MAX_BYTES]).is_ok());
        assert_eq!(
            parse(command::write(3, 0, 17, false), &[0; MAX_BYTES + 512]),
            Err(Errno::EINVAL)
        );
        // What moves nothing has no such limit.
        assert!(parse(command::verify(3, 0, 65536), &[]).is_ok());
    }

    #[test]
    fn what_is_not_the_clients_or_not_known_is_refused() {
        let good = command::flush(3);
        for (bad, errno) in [
            (SubmissionEntry { nsid: 4, ..good }, Errno::EINVAL),
            (
                SubmissionEntry {
                    nsid: u32::MAX,
                    ..good
                },
                Errno::EINVAL,
            ),
            (SubmissionEntry { prp2: 1, ..good }, Errno::EINVAL),
            (SubmissionEntry { mptr: 1, ..good }, Errno::EINVAL),
            (SubmissionEntry { flags: 0x40, ..good }, Errno::EINVAL),
            (SubmissionEntry { flags: 4, ..good }, Errno::EINVAL),
            (SubmissionEntry { flags: 1, ..good }, Errno::EOPNOTSUPP),
            (
                SubmissionEntry {
                    opcode: NvmOpcode::RESERVATION_REPORT.0,
                    ..good
                },
                Errno::EOPNOTSUPP,
            ),
            (SubmissionEntry { opcode: 0x93, ..good }, Errno::EOPNOTSUPP),
        ] {
            assert_eq!(parse(bad, &[]), Err(errno), "{bad:?}");
        }
        assert_eq!(
            parse(SubmissionEntry { cid: 77, ..good }, &[]).map(|it| it.entry),
            Ok(good)
        );
        assert!(super::parse(&[0; 63], 3, 9, MAX_BYTES).is_err());
    }

    proptest! {
        #[test]
        fn whatever_passes_is_bounded_and_carries_no_address(
            opcode in 0_u8..0x20, nlb_z in 0_u32..40, len in 0_usize..MAX_BYTES * 2, expected in 0_u64..20_000, aligned: bool,
        ) {
            let (len, expected) = if aligned { (len / 512 * 512, expected / 512 * 512) } else { (len, expected) };
            let entry = SubmissionEntry { opcode, prp1: expected, cdw10: 1, cdw12: nlb_z, ..Default::default() };
            if let Ok(Passthrough { entry, data, .. }) = parse(entry, &vec![0; len]) {
                prop_assert_eq!((entry.prp1, entry.prp2, entry.mptr, entry.flags, entry.nsid), (0, 0, 0, 0, 3));
                prop_assert!(data.len() <= MAX_BYTES);
                prop_assert_eq!(shape(&entry, 9).map(|shape| shape.data_bytes), Some(data.len() as u64));
            }
        }
    }
}
