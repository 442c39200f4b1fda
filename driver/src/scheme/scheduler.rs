//! The scheduler's file: `controller/scheduler`.

use std::sync::Arc;

use super::pending::Pending;
use super::service::{BlockService, SchedulerKind};
use super::{Errno, Reply};

/// An open `controller/scheduler`: a name and a line feed to be read, a name to be written.
pub(crate) struct SchedulerFile {
    service: Arc<dyn BlockService>,
}

impl SchedulerFile {
    pub(crate) fn new(service: Arc<dyn BlockService>) -> Self {
        Self { service }
    }

    fn text(&self) -> String {
        format!("{}\n", self.service.scheduler())
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.text().len() as u64
    }

    pub(crate) fn read(&self, offset: u64, mut buffer: Vec<u8>, pending: Pending) {
        let len = super::copy_from(self.text().as_bytes(), offset, &mut buffer);
        pending.answer(Ok(Reply::Read { buffer, len }));
    }

    pub(crate) fn write(&self, data: Vec<u8>, pending: Pending) {
        let name = std::str::from_utf8(data.trim_ascii());
        let kind = name.ok().and_then(|name| name.parse::<SchedulerKind>().ok());
        let len = data.len();
        pending.answer(match kind {
            Some(kind) => {
                self.service.set_scheduler(kind);
                Ok(Reply::Written { buffer: data, len })
            }
            None => Err(Errno::EINVAL),
        });
    }
}
