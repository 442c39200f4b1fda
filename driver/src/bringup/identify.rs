//! What the controller says of itself during the bring-up, and how far it is believed.

use nvme_spec::identify::{IdentifyController, IdentifyControllerNvm, Oacs};
use nvme_spec::register;
use zerocopy::FromBytes;

use super::{Bringup, MAX_TRANSFER_BYTES};
use crate::error::Error;

impl Bringup {
    pub(super) fn take_controller(&mut self, data: &[u8]) -> Result<(), Error> {
        let unsupported = |what: String| Error::Unsupported { what };
        let identify = IdentifyController::read_from_bytes(data)
            .map_err(|_| unsupported("Identify Controller has the wrong length".to_owned()))?;
        let (sqes, cqes) = (identify.sqes, identify.cqes);
        let fits = |sizes: u8, size: u8| (sizes & 0xF) <= size && size <= (sizes >> 4);
        if !fits(sqes, register::IOSQES) || !fits(cqes, register::IOCQES) {
            return Err(unsupported(format!(
                "its queue entries are not 64 and 16 bytes (SQES {sqes:#04x}, CQES {cqes:#04x})"
            )));
        }
        if matches!(identify.cntrltype, 2 | 3) {
            let kind = if identify.cntrltype == 2 {
                "a discovery"
            } else {
                "an administrative"
            };
            return Err(unsupported(format!("it is {kind} controller and does no I/O")));
        }
        // MDTS is a power of two in units of the smallest page; 0 is no limit (section 5.17.2.1).
        let min_page = 4096usize << self.cap.mpsmin();
        if identify.mdts != 0 {
            let limit = min_page
                .checked_shl(u32::from(identify.mdts))
                .filter(|limit| *limit >= min_page);
            self.limits.max_transfer_bytes = limit.unwrap_or(MAX_TRANSFER_BYTES).min(MAX_TRANSFER_BYTES);
        }
        self.identity.has_command_sets = self.cap.css() & register::CAP_CSS_IO_COMMAND_SETS != 0;
        self.identity
            .learn(&identify, data, self.limits.max_transfer_bytes, min_page as u64);
        let asked = if self.config.num_queues == 0 {
            self.cpus
        } else {
            self.config.num_queues
        };
        self.wanted_queues = if cfg!(feature = "multi-queue") {
            asked.clamp(1, 0xFFFE)
        } else {
            if asked > 1 {
                log::info!(
                    "{asked} I/O queue pairs are asked for, and there will be one: this program is built without the cargo \
                     feature multi-queue"
                );
            }
            1
        };
        self.limits.atomic_blocks = u64::from(identify.awupf.get()) + 1;
        self.has_shadow_doorbells = Oacs::from(identify.oacs.get()).doorbell_buffer_config();
        Ok(())
    }

    pub(super) fn take_controller_nvm(&mut self, data: &[u8]) {
        let Ok(identify) = IdentifyControllerNvm::read_from_bytes(data) else {
            return;
        };
        let min_page = 4096u64 << self.cap.mpsmin();
        let limit = |power: u8| match power {
            0 => u64::MAX,
            power => 1u64
                .checked_shl(u32::from(power))
                .map_or(u64::MAX, |pages| pages.saturating_mul(min_page)),
        };
        self.limits.max_verify_bytes = limit(identify.vsl);
        self.limits.max_zeroes_bytes = limit(identify.wzsl);
        if identify.dmrsl.get() != 0 {
            self.limits.max_range_blocks = u64::from(identify.dmrsl.get());
        }
    }
}
