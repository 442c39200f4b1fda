//! Looking at all namespaces of a controller, one Identify after the other: during the bring-up, and again whenever they have
//! changed.

use nvme_spec::command::{self, NSID_ALL};
use nvme_spec::identify::{Cns, NamespaceList};
use nvme_spec::{Status, SubmissionEntry};
use zerocopy::FromBytes;

use super::Namespace;
use crate::controller::Identity;

/// Namespaces that are looked at.
const MAX_NAMESPACES: usize = 1024;
/// Bytes of each structure.
pub(crate) const IDENTIFY_BYTES: usize = 4096;

/// What is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Active namespaces above this one.
    List(u32),
    /// The namespace at this place of the list.
    Identify(usize),
    /// Its identifiers, among them its I/O command set, where there are several.
    Descriptors(usize),
}

impl Look {
    /// The first.
    pub(crate) const FIRST: Self = Self::List(0);

    /// The command's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::List(_) => "Identify, Active Namespace ID list",
            Self::Identify(_) => "Identify Namespace",
            Self::Descriptors(_) => "Identify, Namespace Identification Descriptor list",
        }
    }
}

/// What is known of the controller, which bounds what is believed of its namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// The highest number (NN), 0 if the controller does not say.
    pub(crate) nn: u32,
    pub(crate) max_transfer_bytes: usize,
    /// Namespaces may have other I/O command sets than NVM (CAP.CSS).
    pub(crate) has_command_sets: bool,
}

impl Bounds {
    pub(crate) fn of(identity: &Identity) -> Self {
        Self {
            nn: identity.nn,
            max_transfer_bytes: identity.max_transfer_bytes,
            has_command_sets: identity.has_command_sets,
        }
    }
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    nsids: Vec<u32>,
    found: Vec<Namespace>,
}

impl Scan {
    /// The command for `look`; its data is [`IDENTIFY_BYTES`] from the device.
    pub(crate) fn command(&self, look: Look) -> SubmissionEntry {
        let nsid = |place| self.nsids.get(place).copied().unwrap_or(0);
        match look {
            Look::List(after) => command::identify(Cns::ACTIVE_NAMESPACES, after, 0),
            Look::Identify(place) => command::identify(Cns::NAMESPACE, nsid(place), 0),
            Look::Descriptors(place) => command::identify(Cns::NAMESPACE_DESCRIPTORS, nsid(place), 0),
        }
    }

    /// Takes the answer to `look`; says what is asked next, or nothing when all have been looked at.
    pub(crate) fn take(&mut self, look: Look, status: Status, data: &[u8], bounds: &Bounds) -> Option<Look> {
        match look {
            Look::List(after) => self.take_list(after, status, data, bounds),
            Look::Identify(place) => {
                self.take_namespace(place, status, data, bounds);
                if bounds.has_command_sets {
                    return Some(Look::Descriptors(place));
                }
                self.at(place + 1)
            }
            Look::Descriptors(place) => {
                let nsid = self.nsids.get(place).copied();
                if status.is_success()
                    && let Some(found) = self.found.pop_if(|found| Some(found.nsid) == nsid)
                {
                    self.found.push(found.of_command_set(data));
                }
                self.at(place + 1)
            }
        }
    }

    /// What was found, in ascending order.
    pub(crate) fn finish(self) -> Vec<Namespace> {
        self.found
    }

    fn at(&self, place: usize) -> Option<Look> {
        (place < self.nsids.len()).then_some(Look::Identify(place))
    }

    /// A page of the list of active namespaces, which ascend.
    fn take_list(&mut self, after: u32, status: Status, data: &[u8], bounds: &Bounds) -> Option<Look> {
        if !status.is_success() {
            // Controllers before NVMe 1.1 do not have the list: any number up to NN may be active.
            let last = bounds.nn.min(MAX_NAMESPACES as u32);
            log::info!("the controller has no list of active namespaces ({status}); looking at 1 to {last}");
            self.nsids = (1..=last).collect();
            return self.at(0);
        }
        let before = self.nsids.len();
        if let Ok(list) = NamespaceList::read_from_bytes(data) {
            for nsid in list.iter() {
                // What does not ascend is no list (it would never end), and there is no namespace above NN.
                let last = self.nsids.last().copied().unwrap_or(after);
                let beyond = bounds.nn != 0 && nsid > bounds.nn || nsid == NSID_ALL;
                if nsid <= last || beyond || self.nsids.len() == MAX_NAMESPACES {
                    break;
                }
                self.nsids.push(nsid);
            }
        }
        let full_page = self.nsids.len() - before == IDENTIFY_BYTES / 4;
        match self.nsids.last() {
            Some(&last) if full_page && self.nsids.len() < MAX_NAMESPACES => Some(Look::List(last)),
            _ => self.at(0),
        }
    }

    fn take_namespace(&mut self, place: usize, status: Status, data: &[u8], bounds: &Bounds) {
        let nsid = self.nsids.get(place).copied().unwrap_or(0);
        let identified = status.is_success().then_some(data);
        self.found.push(
            match identified.and_then(|data| <[u8; IDENTIFY_BYTES]>::read_from_bytes(data).ok()) {
                // An inactive namespace is zero filled (section 5.17.2.2): it went after it was listed.
                Some(bytes) if bytes.iter().all(|byte| *byte == 0) => return,
                Some(bytes) => Namespace::new(nsid, Box::new(bytes), bounds.max_transfer_bytes),
                None => Namespace::unknown(nsid, format!("the controller does not identify it: {status}")),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        nn: 10,
        max_transfer_bytes: 1 << 20,
        has_command_sets: true,
    };

    fn list(nsids: &[u32]) -> Vec<u8> {
        let mut page: Vec<u8> = nsids.iter().flat_map(|nsid| nsid.to_le_bytes()).collect();
        page.resize(IDENTIFY_BYTES, 0);
        page
    }

    #[test]
    fn a_list_ends_where_it_cannot_be_one() {
        for (nsids, wanted) in [
            (&[5, 3, 9][..], &[5][..]),
            (&[1, 2, 11], &[1, 2]),
            (&[u32::MAX], &[]),
            (&[4, 4], &[4]),
        ] {
            let mut scan = Scan::default();
            let next = scan.take(Look::FIRST, Status::SUCCESS, &list(nsids), &BOUNDS);
            assert_eq!(scan.nsids, wanted);
            assert_eq!(next.is_some(), !wanted.is_empty());
        }
        assert_eq!(
            Scan::default().take(Look::FIRST, Status::SUCCESS, &[1; 7], &BOUNDS),
            None
        );
    }

    #[test]
    fn a_full_page_has_another_behind_it_and_there_is_an_end() {
        let bounds = Bounds { nn: 0, ..BOUNDS };
        let mut scan = Scan::default();
        let page: Vec<u32> = (1..=1024).collect();
        assert_eq!(
            scan.take(Look::FIRST, Status::SUCCESS, &list(&page), &bounds),
            Some(Look::Identify(0))
        );
        assert_eq!(scan.nsids.len(), MAX_NAMESPACES);
    }

    #[test]
    fn each_namespace_is_looked_at_and_what_is_not_identified_is_shown_as_such() {
        let mut scan = Scan::default();
        let next = scan.take(
            Look::FIRST,
            Status::INVALID_FIELD,
            &[],
            &Bounds { nn: 3, ..BOUNDS },
        );
        assert_eq!(
            (next, scan.nsids.len()),
            (Some(Look::Identify(0)), 3),
            "the numbers that there may be"
        );
        assert_eq!(scan.command(Look::Identify(1)).nsid, 2);
        // The first is inactive, the second refused; then the list of identifiers is not the second's.
        assert_eq!(
            scan.take(Look::Identify(0), Status::SUCCESS, &[0; 4096], &BOUNDS),
            Some(Look::Descriptors(0))
        );
        assert_eq!(
            scan.take(Look::Descriptors(0), Status::SUCCESS, &[4, 1, 0, 0, 2], &BOUNDS),
            Some(Look::Identify(1))
        );
        let no_sets = Bounds {
            has_command_sets: false,
            ..BOUNDS
        };
        assert_eq!(
            scan.take(Look::Identify(1), Status::INVALID_FIELD, &[], &no_sets),
            Some(Look::Identify(2))
        );
        assert_eq!(
            scan.take(Look::Identify(2), Status::SUCCESS, &[1; 17], &no_sets),
            None
        );
        let found = scan.finish();
        assert_eq!(found.iter().map(|found| found.nsid).collect::<Vec<_>>(), [2, 3]);
        assert!(found.iter().all(|found| !found.is_usable()));
    }
}
