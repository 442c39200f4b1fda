//! Admin passthrough: `controller/admin`, and in the messages of NVMe-MI `controller/mi/request`.

use std::sync::{Arc, Mutex};

#[cfg(feature = "nvme-mi")]
use nvme_spec::mi::{MiHeader, MiRequest, REQUEST_BYTES};
use nvme_spec::{AdminOpcode, Direction, SubmissionEntry};
use stats_proto::event::Event;
use zerocopy::{FromBytes, IntoBytes};

use super::data::Volumes;
#[cfg(feature = "nvme-mi")]
use super::documents::management::{is_supported, response};
use super::service::{AdminAnswer, AdminData, AdminFinished, AdminRequest, BlockService, IoError};
use super::transaction::Transaction;
use super::{Errno, MAX_ADMIN_DATA_BYTES, Pending, Reply, lock};
use crate::admin::check::{PAGE_BYTES, changes_controller, is_the_drivers, required_bytes, reshapes};

const ENTRY_BYTES: usize = 64;

/// In what a client writes its commands and reads their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Submission entries, and completion entries.
    Commands,
    /// Request messages of NVMe-MI, and response messages.
    #[cfg(feature = "nvme-mi")]
    Messages,
}

/// One open transaction file.
pub(crate) struct AdminFile {
    dialect: Dialect,
    service: Arc<dyn BlockService>,
    /// The user who opened it.
    uid: u32,
    volumes: Arc<Volumes>,
    transaction: Transaction,
}

impl AdminFile {
    pub(crate) fn new(
        service: Arc<dyn BlockService>,
        volumes: Arc<Volumes>,
        uid: u32,
        dialect: Dialect,
    ) -> Arc<Self> {
        Arc::new(Self {
            dialect,
            service,
            uid,
            volumes,
            transaction: Transaction::new(),
        })
    }

    pub(crate) fn read(&self, offset: u64, buffer: Vec<u8>, pending: Pending) {
        self.transaction.read(offset, buffer, pending);
    }

    pub(crate) fn write(self: &Arc<Self>, bytes: Vec<u8>, pending: Pending) {
        let parsed = match self.dialect {
            Dialect::Commands => Command::parse(&bytes),
            #[cfg(feature = "nvme-mi")]
            Dialect::Messages => Command::of_message(&bytes, &*self.service),
        };
        let command = match parsed {
            Ok(command) => command,
            Err(errno) => return self.transaction.refuse(errno, pending),
        };
        if reshapes(&command.entry, &self.service.namespaces()) {
            return self.transaction.refuse(Errno::EOPNOTSUPP, pending);
        }
        if let Err(errno) = self.transaction.begin() {
            return pending.answer(Err(errno));
        }
        let Command {
            entry,
            data,
            expected_bytes,
        } = command;
        let out = Out {
            file: Arc::clone(self),
            entry,
            changes: changes_controller(&entry),
            expected_bytes,
            call: Mutex::new(Some((bytes, pending))),
        };
        self.service.admin(AdminRequest {
            entry,
            data,
            tag: 0,
            sink: Arc::new(out),
        });
    }
}

/// A command that was found fit to be sent.
#[derive(Debug)]
struct Command {
    entry: SubmissionEntry,
    data: AdminData,
    /// Data bytes that the client wants to see of those which the device sent.
    expected_bytes: usize,
}

impl Command {
    /// # Errors
    /// `EINVAL` for anything malformed, `EPERM` for a command that would take from the driver what is its
    /// own.
    fn parse(bytes: &[u8]) -> Result<Self, Errno> {
        let (head, sent) = bytes.split_at_checked(ENTRY_BYTES).ok_or(Errno::EINVAL)?;
        let mut entry = SubmissionEntry::read_from_bytes(head).map_err(|_| Errno::EINVAL)?;
        if is_the_drivers(&entry) {
            return Err(Errno::EPERM);
        }
        let expected_bytes = usize::try_from(entry.prp1).map_err(|_| Errno::EINVAL)?;
        // FUSE and PSDT say how the driver passes the command; addresses are the driver's to fill in.
        let plain = entry.flags == 0 && entry.mptr == 0 && entry.prp2 == 0;
        if !plain || sent.len() > MAX_ADMIN_DATA_BYTES || expected_bytes > MAX_ADMIN_DATA_BYTES {
            return Err(Errno::EINVAL);
        }
        let direction = AdminOpcode(entry.opcode).transfers();
        let moved = match direction {
            Direction::ToDevice => sent.len(),
            _ => expected_bytes,
        };
        if moved < required_bytes(&entry) {
            return Err(Errno::EINVAL);
        }
        let data = match (direction, sent.len(), expected_bytes) {
            (Direction::None | Direction::ToDevice | Direction::FromDevice, 0, 0) => AdminData::None,
            (Direction::ToDevice, _, 0) => {
                let mut data = sent.to_vec();
                data.resize(sent.len().next_multiple_of(PAGE_BYTES), 0);
                AdminData::ToDevice(data)
            }
            (Direction::FromDevice, 0, _) => {
                AdminData::FromDevice(expected_bytes.next_multiple_of(PAGE_BYTES))
            }
            _ => return Err(Errno::EINVAL),
        };
        entry.cid = 0;
        entry.prp1 = 0;
        Ok(Self {
            entry,
            data,
            expected_bytes,
        })
    }

    /// A request message of NVMe-MI as the admin command that carries it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if the controller takes none, and those of [`parse`](Self::parse).
    #[cfg(feature = "nvme-mi")]
    fn of_message(bytes: &[u8], service: &dyn BlockService) -> Result<Self, Errno> {
        let (head, sent) = bytes.split_at_checked(REQUEST_BYTES).ok_or(Errno::EINVAL)?;
        let request = MiRequest::read_from_bytes(head).map_err(|_| Errno::EINVAL)?;
        if request.message_header() != MiHeader::REQUEST {
            return Err(Errno::EINVAL);
        }
        if !is_supported(service) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut entry = request.entry();
        if AdminOpcode(entry.opcode).transfers() == Direction::FromDevice {
            entry.prp1 = request.data_bytes() as u64;
        }
        let mut command = entry.as_bytes().to_vec();
        command.extend_from_slice(sent);
        Self::parse(&command)
    }
}

/// A command that is out, with the client's bytes and whom to answer.
struct Out {
    file: Arc<AdminFile>,
    entry: SubmissionEntry,
    /// It may change the controller.
    changes: bool,
    expected_bytes: usize,
    call: Mutex<Option<(Vec<u8>, Pending)>>,
}

impl Out {
    fn done(&self, result: Result<AdminFinished, IoError>) {
        let Some((bytes, pending)) = lock(&self.call).take() else {
            return;
        };
        // Other errors mean that it was not sent.
        let sent = matches!(result, Ok(_) | Err(IoError::Lost | IoError::Stopped));
        if self.changes && sent {
            let entry = self.entry;
            let status = result.as_ref().ok().map(|finished| finished.completion.status());
            self.file.service.events().push(Event::AdminCommand {
                opcode: entry.opcode,
                opcode_name: AdminOpcode(entry.opcode).name().map(str::to_owned),
                nsid: entry.nsid,
                cdw10: entry.cdw10,
                uid: self.file.uid,
                status: status.map(crate::recorder::shown),
            });
        }
        // It may have erased or formatted a namespace. Not all commands do, but tables are read soon enough.
        self.file.volumes.forget_tables();
        let (text, reply) = match result {
            Ok(finished) => {
                let text = self.text(&finished);
                let len = bytes.len();
                (text, Ok(Reply::Written { buffer: bytes, len }))
            }
            Err(error) => (Vec::new(), Err(error.into())),
        };
        self.file.transaction.end(text);
        pending.answer(reply);
    }
}

impl Out {
    /// What there is to read now.
    fn text(&self, AdminFinished { completion, data }: &AdminFinished) -> Vec<u8> {
        match self.file.dialect {
            Dialect::Commands => {
                let mut text = completion.as_bytes().to_vec();
                text.extend_from_slice(data.get(..self.expected_bytes).unwrap_or(data));
                text
            }
            #[cfg(feature = "nvme-mi")]
            Dialect::Messages => response(&MiRequest::of_entry(&self.entry), completion.dw0, data),
        }
    }
}

impl AdminAnswer for Out {
    fn answer_admin(&self, _tag: u64, result: Result<AdminFinished, IoError>) {
        self.done(result);
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.done(Err(IoError::Stopped));
    }
}

#[cfg(test)]
mod tests {
    use nvme_spec::command::{self, NSID_ALL};
    use nvme_spec::{Cns, FeatureId, LogId};
    use proptest::prelude::*;

    use super::*;

    fn parse(entry: SubmissionEntry, data: &[u8]) -> Result<Command, Errno> {
        let mut bytes = entry.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        Command::parse(&bytes)
    }

    #[test]
    fn what_the_driver_relies_on_is_not_for_clients() {
        for entry in [
            command::create_io_cq(1, 1, 0, None),
            command::create_io_sq(1, 1, 0, 1, 0),
            command::delete_io_cq(1),
            command::delete_io_sq(1),
            command::abort(0, 0),
            command::async_event_request(),
            command::doorbell_buffer_config(0, 0),
            command::set_features(FeatureId::NUMBER_OF_QUEUES, 0, 0, false),
            command::set_features(FeatureId::NUMBER_OF_QUEUES, 0, 0, true),
            command::set_features(FeatureId::HOST_MEMORY_BUFFER, 0, 1, false),
        ] {
            assert_eq!(parse(entry, &[]).err(), Some(Errno::EPERM), "{entry:?}");
        }
        assert!(
            parse(
                command::set_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 300, false),
                &[]
            )
            .is_ok()
        );
    }

    #[test]
    fn a_buffer_smaller_than_what_the_controller_sends_is_refused() {
        let identify = command::identify(Cns::CONTROLLER, 0, 0);
        let with = |entry: SubmissionEntry, prp1| SubmissionEntry { prp1, ..entry };
        assert_eq!(parse(identify, &[]).err(), Some(Errno::EINVAL));
        assert_eq!(parse(with(identify, 4095), &[]).err(), Some(Errno::EINVAL));
        assert!(parse(with(identify, 4096), &[]).is_ok());
        let log = command::get_log_page(LogId::SMART, NSID_ALL, 65536, 0, true);
        assert_eq!(parse(with(log, 65532), &[]).err(), Some(Errno::EINVAL));
        assert!(parse(with(log, 65536), &[]).is_ok());
        let huge = SubmissionEntry {
            cdw10: u32::MAX,
            cdw11: u32::MAX,
            ..with(log, 1 << 20)
        };
        assert_eq!(parse(huge, &[]).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn data_goes_the_way_that_the_opcode_says_and_only_so_far() {
        let entry = |opcode, prp1| SubmissionEntry {
            opcode,
            prp1,
            ..Default::default()
        };
        // Vendor specific C1h: to the device.
        assert!(
            matches!(parse(entry(0xC1, 0), &[7; 9]), Ok(Command { data: AdminData::ToDevice(data), .. })
            if data.len() == 4096 && data[..9] == [7; 9] && data[9..].iter().all(|byte| *byte == 0))
        );
        assert_eq!(
            parse(entry(0xC1, 1), &[7; 9]).err(),
            Some(Errno::EINVAL),
            "both ways"
        );
        assert_eq!(
            parse(entry(0xC1, 0), &vec![0; MAX_ADMIN_DATA_BYTES + 1]).err(),
            Some(Errno::EINVAL)
        );
        // C2h: from the device.
        assert!(matches!(
            parse(entry(0xC2, 5), &[]),
            Ok(Command {
                data: AdminData::FromDevice(4096),
                expected_bytes: 5,
                ..
            })
        ));
        assert_eq!(parse(entry(0xC2, 0), &[1]).err(), Some(Errno::EINVAL));
        assert_eq!(
            parse(entry(0xC2, MAX_ADMIN_DATA_BYTES as u64 + 1), &[]).err(),
            Some(Errno::EINVAL)
        );
        assert_eq!(parse(entry(0xC2, u64::MAX), &[]).err(), Some(Errno::EINVAL));
        // C0h: no data, C3h: both, which no command here is.
        assert!(matches!(
            parse(entry(0xC0, 0), &[]),
            Ok(Command {
                data: AdminData::None,
                ..
            })
        ));
        assert_eq!(parse(entry(0xC0, 4), &[]).err(), Some(Errno::EINVAL));
        assert_eq!(parse(entry(0xC3, 4), &[1]).err(), Some(Errno::EINVAL));
    }

    #[test]
    fn addresses_and_flags_of_the_clients_are_refused() {
        let good = SubmissionEntry {
            opcode: 0xC0,
            ..Default::default()
        };
        for bad in [
            SubmissionEntry { prp2: 1, ..good },
            SubmissionEntry { mptr: 1, ..good },
            SubmissionEntry { flags: 1, ..good },
            SubmissionEntry { flags: 0x40, ..good },
        ] {
            assert_eq!(parse(bad, &[]).err(), Some(Errno::EINVAL));
        }
        assert!(
            matches!(parse(SubmissionEntry { cid: 77, ..good }, &[]), Ok(Command { entry, .. }) if entry == good)
        );
        assert_eq!(Command::parse(&[0; 63]).err(), Some(Errno::EINVAL));
        assert_eq!(Command::parse(&[]).err(), Some(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_bounded_and_carries_no_address(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = bytes;
            if let Some(address) = bytes.get_mut(18..40) {
                // Mostly zero, or almost nothing would pass.
                address.fill(0);
            }
            if let Ok(Command { entry, data, expected_bytes }) = Command::parse(&bytes) {
                prop_assert_eq!((entry.prp1, entry.prp2, entry.mptr, entry.flags), (0, 0, 0, 0));
                let len = match &data {
                    AdminData::None => 0,
                    AdminData::ToDevice(data) => data.len(),
                    AdminData::FromDevice(len) => *len,
                };
                prop_assert!(len <= MAX_ADMIN_DATA_BYTES && len >= expected_bytes && len >= required_bytes(&entry));
                prop_assert!(!is_the_drivers(&entry));
            }
        }
    }
}
