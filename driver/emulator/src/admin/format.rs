//! Format NVM (Base 2.0, section 5.14; NVM Command Set 1.0, section 4.1.3).

use nvme_spec::command::{NSID_ALL, SES_CRYPTOGRAPHIC, SES_USER_DATA};
use nvme_spec::{FormatCdw10, Status, SubmissionEntry};

use super::{Admin, CDW10_BYTE, Failure, Reply, fail_at};
use crate::engine::{Context, Finished};

impl Admin {
    pub(super) fn format_nvm(&mut self, cx: Context<'_>, entry: &SubmissionEntry) -> Reply {
        let cdw10 = FormatCdw10::from(entry.cdw10);
        // There is no encryption whose key could be thrown away: Identify Controller's FNA says so.
        if cdw10.ses() > SES_USER_DATA || cdw10.ses() == SES_CRYPTOGRAPHIC {
            return Err(fail_at(CDW10_BYTE + 1));
        }
        if cdw10.pi() != 0 || cdw10.pil() {
            return Err(Failure {
                status: Status::INVALID_FORMAT,
                location: Some(CDW10_BYTE),
            });
        }
        let nsids: Vec<u32> = if entry.nsid == NSID_ALL {
            cx.device.namespaces.active().collect()
        } else {
            self.active_namespace(cx, entry.nsid)?;
            vec![entry.nsid]
        };
        self.self_tests
            .abort_by_format(self.life.power_on_hours(cx.now_ns));
        // No I/O command is under way while the blocks change their size.
        let _shards: Vec<_> = cx.device.shards.iter().map(|slot| slot.borrow()).collect();
        for nsid in nsids {
            if let Some(namespace) = cx.device.namespaces.get(nsid) {
                namespace.format_nvm(cdw10.format_index())?;
            }
        }
        Ok(Finished::OK)
    }
}
