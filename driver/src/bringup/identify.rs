//! What the controller says of itself and of its namespaces during the bring-up, and how far it is believed.

use nvme_spec::Status;
use nvme_spec::command::NSID_ALL;
use nvme_spec::identify::{IdentifyController, IdentifyControllerNvm, NamespaceList, Oacs};
use nvme_spec::register;
use zerocopy::FromBytes;

use super::{Bringup, IDENTIFY_BYTES, MAX_NAMESPACES, MAX_TRANSFER_BYTES, Step};
use crate::error::Error;
use crate::namespace::Namespace;

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
        self.wanted_queues = asked.clamp(1, 0xFFFE);
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

    /// A page of the list of active namespaces, which ascend.
    pub(super) fn take_namespace_list(&mut self, after: u32, status: Status, data: &[u8]) -> Step {
        if !status.is_success() {
            // Controllers before NVMe 1.1 do not have the list: any number up to NN may be active.
            let last = self.identity.nn.min(MAX_NAMESPACES as u32);
            log::info!("the controller has no list of active namespaces ({status}); looking at 1 to {last}");
            self.nsids = (1..=last).collect();
            return self.next_namespace(0);
        }
        let before = self.nsids.len();
        if let Ok(list) = NamespaceList::read_from_bytes(data) {
            for nsid in list.iter() {
                // What does not ascend is no list (it would never end), and there is no namespace above NN.
                let last = self.nsids.last().copied().unwrap_or(after);
                let beyond = self.identity.nn != 0 && nsid > self.identity.nn || nsid == NSID_ALL;
                if nsid <= last || beyond || self.nsids.len() == MAX_NAMESPACES {
                    break;
                }
                self.nsids.push(nsid);
            }
        }
        let full_page = self.nsids.len() - before == IDENTIFY_BYTES / 4;
        match self.nsids.last() {
            Some(&last) if full_page && self.nsids.len() < MAX_NAMESPACES => Step::ListNamespaces(last),
            _ => self.next_namespace(0),
        }
    }

    pub(super) fn take_namespace(&mut self, place: usize, status: Status, data: &[u8]) -> Step {
        let nsid = self.nsids.get(place).copied().unwrap_or(0);
        match <Box<[u8; IDENTIFY_BYTES]>>::try_from(data.to_vec().into_boxed_slice()) {
            Ok(bytes) if status.is_success() => {
                // An inactive namespace is zero filled (section 5.17.2.2).
                if bytes.iter().any(|byte| *byte != 0) {
                    self.found
                        .push(Namespace::new(nsid, bytes, self.limits.max_transfer_bytes));
                }
            }
            _ => self.found.push(Namespace::unknown(
                nsid,
                format!("the controller does not identify it: {status}"),
            )),
        }
        if self.identity.has_command_sets {
            return Step::IdentifyDescriptors(place);
        }
        self.next_namespace(place + 1)
    }

    /// Which I/O command set the namespace found last has, if it is the one that was asked for.
    pub(super) fn take_descriptors(&mut self, place: usize, status: Status, data: &[u8]) -> Step {
        let nsid = self.nsids.get(place).copied();
        if let Some(found) = self.found.pop_if(|found| Some(found.nsid) == nsid) {
            self.found.push(if status.is_success() {
                found.of_command_set(data)
            } else {
                found
            });
        }
        self.next_namespace(place + 1)
    }

    fn next_namespace(&mut self, place: usize) -> Step {
        if place < self.nsids.len() {
            return Step::IdentifyNamespace(place);
        }
        self.namespaces = std::mem::take(&mut self.found).into();
        Step::CreateCq(1)
    }
}
