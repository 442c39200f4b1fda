//! The namespaces of the device: which there are, which are active, and which have changed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::config::Config;
use crate::namespace::Namespace;
use crate::storage::StorageError;

#[derive(Debug)]
struct Slot {
    namespace: Namespace,
    active: AtomicBool,
}

/// Namespaces 1 to NN. One that is inactive keeps its data.
#[derive(Debug)]
pub(crate) struct Namespaces {
    slots: Box<[Slot]>,
    /// Those that the Changed Namespace List will name.
    changed: Mutex<BTreeSet<u32>>,
}

impl Namespaces {
    pub fn open(config: &Config) -> Result<Self, StorageError> {
        let open = |(nsid, _)| {
            Ok(Slot {
                namespace: Namespace::open(config, nsid)?,
                active: AtomicBool::new(true),
            })
        };
        Ok(Self {
            slots: (1..)
                .zip(&config.namespaces)
                .map(open)
                .collect::<Result<_, _>>()?,
            changed: Mutex::default(),
        })
    }

    /// NN: the highest namespace identifier.
    pub fn count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Namespace `nsid`, if there is one and it is active.
    #[inline]
    pub fn get(&self, nsid: u32) -> Option<&Namespace> {
        let slot = self.slot(nsid)?;
        slot.active.load(Ordering::Acquire).then_some(&slot.namespace)
    }

    /// Namespace `nsid`, active or not.
    pub fn get_allocated(&self, nsid: u32) -> Option<&Namespace> {
        self.slot(nsid).map(|slot| &slot.namespace)
    }

    /// All of them, active or not.
    pub fn allocated(&self) -> impl Iterator<Item = &Namespace> + '_ {
        self.slots.iter().map(|slot| &slot.namespace)
    }

    /// The identifiers of the active ones, ascending.
    pub fn active(&self) -> impl Iterator<Item = u32> + '_ {
        (1..=self.count()).filter(|nsid| self.get(*nsid).is_some())
    }

    /// Makes a namespace active or inactive. False if there is no such namespace.
    pub fn set_active(&self, nsid: u32, active: bool) -> bool {
        let slot = self.slot(nsid);
        slot.is_some_and(|slot| {
            slot.active.store(active, Ordering::Release);
            true
        })
    }

    /// Remembers that a namespace has changed.
    pub fn note_change(&self, nsid: u32) {
        self.changed().insert(nsid);
    }

    /// What has changed. With `forget` it has not any more.
    pub fn changes(&self, forget: bool) -> BTreeSet<u32> {
        let mut changed = self.changed();
        if forget {
            std::mem::take(&mut changed)
        } else {
            changed.clone()
        }
    }

    fn slot(&self, nsid: u32) -> Option<&Slot> {
        self.slots.get(nsid.checked_sub(1)? as usize)
    }

    fn changed(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.changed
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
