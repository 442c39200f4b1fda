//! The namespaces as they are now, for all threads of a running driver.
//!
//! Each has a place, and a place is one namespace's for good: what is counted refers to it, and a request that is under
//! way is still counted in the blocks in which it was accepted. A namespace that has gone leaves its place empty, and
//! takes it again when it comes back as it was. One that comes back with blocks of another size gets another place.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Namespace;

/// Places beyond those of the namespaces that were there at first, in which commands are counted one by one. Those of
/// namespaces that come later still are counted for their queue only.
pub(crate) const SPARE_PLACES: usize = 16;
/// A controller whose namespaces change their block size again and again comes to an end here.
const MAX_PLACES: usize = 4096;
/// The number of no namespace (section 3.2.1.1): of an empty place.
const NOBODY: u32 = 0;

/// What has become of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added(u32),
    Changed(u32),
    Removed(u32),
}

/// See the [module](self).
pub(crate) struct NamespaceTable {
    /// Counts the changes.
    version: AtomicU64,
    state: Mutex<State>,
}

struct State {
    places: Arc<[Namespace]>,
    /// Whose each place is, also while it is empty: number and base-2 logarithm of a block's bytes.
    owners: Vec<(u32, u32)>,
    /// Those that are there, in ascending order of their numbers.
    listed: Arc<[Namespace]>,
}

impl NamespaceTable {
    /// A table of `namespaces`, which are in ascending order of their numbers.
    pub(crate) fn new(namespaces: Arc<[Namespace]>) -> Self {
        let owners = namespaces.iter().map(owner).collect();
        let listed = Arc::clone(&namespaces);
        let places = namespaces;
        Self {
            version: AtomicU64::new(0),
            state: Mutex::new(State {
                places,
                owners,
                listed,
            }),
        }
    }

    /// Another number after each change. Whoever has been told of a namespace (by another thread, say) finds a number
    /// with which it is there.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// All places, and the version that they are of.
    pub(crate) fn places(&self) -> (u64, Arc<[Namespace]>) {
        let state = self.lock();
        (self.version(), Arc::clone(&state.places))
    }

    /// The namespaces that are there, in ascending order of their numbers.
    pub(crate) fn listed(&self) -> Arc<[Namespace]> {
        Arc::clone(&self.lock().listed)
    }

    /// The namespaces that are there, in ascending order of their numbers, each with all places that it has ever had.
    pub(crate) fn with_places(&self) -> Vec<(Namespace, Vec<usize>)> {
        let state = self.lock();
        let places_of = |nsid| {
            let places = state.owners.iter().enumerate();
            places
                .filter(move |(_, owner)| owner.0 == nsid)
                .map(|(place, _)| place)
        };
        let listed = state.listed.iter().cloned();
        listed
            .map(|namespace| {
                let places = places_of(namespace.nsid).collect();
                (namespace, places)
            })
            .collect()
    }

    /// From now on there are `found`; says what has changed.
    pub(crate) fn update(&self, found: Vec<Namespace>) -> Vec<Change> {
        let mut state = self.lock();
        let version = self.version() + 1;
        let mut changes = Vec::new();
        let mut places = state.places.to_vec();
        for place in places.iter_mut().filter(|place| place.nsid != NOBODY) {
            let stays = found.iter().any(|found| owner(found) == owner(place));
            if !stays {
                if !found.iter().any(|found| found.nsid == place.nsid) {
                    changes.push(Change::Removed(place.nsid));
                }
                // The block size stays: what is left of a request that is under way is measured by it.
                *place = Namespace {
                    lba_shift: place.lba_shift,
                    ..Namespace::unknown(NOBODY, "it is not there any more".to_owned())
                };
            }
        }
        for mut namespace in found {
            let nsid = namespace.nsid;
            let known = state.listed.iter().find(|known| known.nsid == nsid);
            if let Some(known) = known
                && known.is_as(&namespace)
            {
                continue;
            }
            let change = if known.is_some() {
                Change::Changed(nsid)
            } else {
                Change::Added(nsid)
            };
            namespace.revision = version;
            let place = state
                .owners
                .iter()
                .position(|of_place| *of_place == owner(&namespace));
            let room = places.len() < MAX_PLACES;
            match place.and_then(|place| places.get_mut(place)) {
                Some(place) => *place = namespace,
                None if room => {
                    state.owners.push(owner(&namespace));
                    places.push(namespace);
                }
                None => {
                    log::error!(
                        "namespace {nsid} is not taken: the controller's have changed too often; restart the driver"
                    );
                    // Its old place has been left all the same: its blocks are of another size now.
                    if known.is_some() {
                        changes.push(Change::Removed(nsid));
                    }
                    continue;
                }
            }
            changes.push(change);
        }
        if changes.is_empty() {
            return changes;
        }
        let mut listed: Vec<_> = places
            .iter()
            .filter(|place| place.nsid != NOBODY)
            .cloned()
            .collect();
        listed.sort_by_key(|namespace| namespace.nsid);
        state.listed = listed.into();
        state.places = places.into();
        self.version.store(version, Ordering::Release);
        changes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(namespace: &Namespace) -> (u32, u32) {
    (namespace.nsid, namespace.lba_shift)
}

#[cfg(test)]
mod tests {
    use nvme_spec::identify::{IdentifyNamespace, LbaFormat};
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn namespace(nsid: u32, lbads: u8, blocks: u64) -> Namespace {
        let mut identify = IdentifyNamespace::new_zeroed();
        identify.nsze = blocks.into();
        identify.lbaf[0] = LbaFormat {
            ms: 0.into(),
            lbads,
            rp: 0,
        };
        Namespace::new(nsid, Box::new(identify.as_bytes().try_into().unwrap()), 1 << 20)
    }

    fn shown(namespaces: &[Namespace]) -> Vec<(u32, u32, u64)> {
        namespaces
            .iter()
            .map(|namespace| (namespace.nsid, namespace.lba_shift, namespace.blocks))
            .collect()
    }

    #[test]
    fn what_comes_back_takes_its_place_again_unless_its_blocks_are_others() {
        let table = NamespaceTable::new([namespace(1, 9, 8), namespace(2, 9, 8)].into());
        assert!(
            table
                .update(vec![namespace(1, 9, 8), namespace(2, 9, 8)])
                .is_empty()
        );
        assert_eq!(table.version(), 0);
        assert_eq!(table.update(vec![namespace(2, 9, 8)]), [Change::Removed(1)]);
        assert_eq!(table.listed().len(), 1);
        assert!(!table.places().1[0].is_usable());
        let back = vec![namespace(1, 9, 16), namespace(2, 12, 8)];
        assert_eq!(table.update(back), [Change::Added(1), Change::Changed(2)]);
        assert_eq!(shown(&table.listed()), [(1, 9, 16), (2, 12, 8)]);
        let (version, places) = table.places();
        assert_eq!(version, 2);
        assert_eq!(shown(&places), [(1, 9, 16), (0, 9, 0), (2, 12, 8)]);
        let revisions: Vec<u64> = table.listed().iter().map(|of| of.revision).collect();
        assert_eq!(revisions, [2, 2]);
        let places: Vec<_> = table
            .with_places()
            .into_iter()
            .map(|(of, places)| (of.nsid, places))
            .collect();
        assert_eq!(places, [(1, vec![0]), (2, vec![1, 2])]);
        assert_eq!(table.update(vec![namespace(2, 9, 8)]).len(), 2);
        assert_eq!(shown(&table.places().1)[1..], [(2, 9, 8), (0, 12, 0)]);
    }

    #[test]
    fn a_namespace_for_which_there_is_no_place_any_more_is_gone() {
        // All places are taken, and then one namespace has blocks of another size.
        let all: Vec<_> = (1..=MAX_PLACES as u32)
            .map(|nsid| namespace(nsid, 9, 8))
            .collect();
        let table = NamespaceTable::new(all.into());
        let changed = (1..=MAX_PLACES as u32).map(|nsid| namespace(nsid, if nsid == 7 { 12 } else { 9 }, 8));
        assert_eq!(table.update(changed.collect()), [Change::Removed(7)]);
        assert!(table.listed().iter().all(|namespace| namespace.nsid != 7));
        let (version, places) = table.places();
        assert_eq!(
            (version, places[6].nsid, places[6].is_usable()),
            (1, NOBODY, false)
        );
    }

    proptest! {
        /// The list is what was found last, changes tell the difference, and no place is ever of blocks of another size.
        #[test]
        fn the_list_is_what_was_found(
            rounds in prop::collection::vec(prop::collection::btree_map(1u32..6, (9u8..13, 1u64..4), 0..5), 1..12),
        ) {
            let table = NamespaceTable::new(Arc::new([]));
            let mut owners: Vec<(u32, u32)> = Vec::new();
            for round in rounds {
                let before = shown(&table.listed());
                let found: Vec<_> = round.iter().map(|(nsid, (lbads, blocks))| namespace(*nsid, *lbads, *blocks)).collect();
                let changes = table.update(found.clone());
                prop_assert_eq!(shown(&table.listed()), shown(&found));
                for nsid in 1..6 {
                    let of = |list: &[(u32, u32, u64)]| list.iter().find(|entry| entry.0 == nsid).copied();
                    let wanted = match (of(&before), of(&shown(&found))) {
                        (None, Some(_)) => Some(Change::Added(nsid)),
                        (Some(_), None) => Some(Change::Removed(nsid)),
                        (Some(old), Some(new)) if old != new => Some(Change::Changed(nsid)),
                        _ => None,
                    };
                    prop_assert_eq!(changes.iter().filter(|change| match change {
                        Change::Added(of) | Change::Changed(of) | Change::Removed(of) => *of == nsid,
                    }).cloned().collect::<Vec<_>>(), Vec::from_iter(wanted));
                }
                for (place, namespace) in table.places().1.iter().enumerate() {
                    if place == owners.len() {
                        owners.push(owner(namespace));
                    }
                    prop_assert_eq!(owners[place].1, namespace.lba_shift, "also while it is empty");
                    if namespace.nsid != NOBODY {
                        prop_assert_eq!(owners[place], owner(namespace));
                    }
                }
            }
        }
    }
}
