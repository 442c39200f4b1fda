//! A doorbell as a queue pair rings it: the register, or memory where the controller looks for it.
//!
//! A controller with Doorbell Buffer Config (Base 2.0, section 5.8; usually one that is a program, for which a write to a
//! register is dear) reads doorbells from a page of the host's, and says in another page at which value it wants to be
//! told by the register all the same: it has looked so far, and sleeps.

use std::sync::atomic::{Ordering, fence};

use crate::backend::Doorbell;
use crate::dma::Region;

/// Where all doorbells of a controller are in memory: two pages, each laid out like the doorbell registers.
#[derive(Clone, Debug)]
pub(crate) struct ShadowPages {
    /// Written by the host.
    pub(crate) doorbells: Region,
    /// Event indexes, written by the controller.
    pub(crate) event_indexes: Region,
}

impl ShadowPages {
    /// The doorbell that is `offset` bytes after the first one, if the pages have it.
    pub(crate) fn shadow(&self, offset: usize) -> Option<Shadow> {
        let end = offset.checked_add(4)?;
        let fits = |page: &Region| offset.is_multiple_of(4) && end <= page.len();
        (fits(&self.doorbells) && fits(&self.event_indexes)).then(|| Shadow {
            pages: self.clone(),
            offset,
        })
    }
}

/// One doorbell in memory.
#[derive(Debug)]
pub(crate) struct Shadow {
    pages: ShadowPages,
    offset: usize,
}

/// A doorbell of one queue.
#[derive(Debug)]
pub(crate) struct Bell {
    register: Doorbell,
    shadow: Option<Shadow>,
    /// What was written last.
    value: u32,
}

impl Bell {
    /// The doorbell of a queue that was just made.
    pub(crate) const fn new(register: Doorbell, shadow: Option<Shadow>) -> Self {
        Self {
            register,
            shadow,
            value: 0,
        }
    }

    /// Puts `value` where a controller that is awake sees it; says whether it has to be told by [`Bell::ring`] too. What
    /// was written before is seen first.
    #[inline]
    #[must_use]
    pub(crate) fn publish(&mut self, value: u32) -> bool {
        let old = std::mem::replace(&mut self.value, value);
        let Some(Shadow { pages, offset }) = &self.shadow else {
            return true;
        };
        pages.doorbells.store_u32(*offset, value);
        // The controller does the same the other way round: writes the event index, fences, reads the doorbell. One of the
        // two sees what the other has written.
        fence(Ordering::SeqCst);
        passes(pages.event_indexes.load_u32(*offset), old, value)
    }

    /// Writes the register.
    #[inline]
    pub(crate) fn ring(&self) {
        self.register.ring(self.value);
    }
}

/// Whether a pointer that goes from `old` to `new` leaves `event`. Pointers have 16 bits and begin at 0 again before they
/// are as large as the queue; on that circle it makes no difference how large it is.
const fn passes(event: u32, old: u32, new: u32) -> bool {
    let (event, old, new) = (event as u16, old as u16, new as u16);
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::emulated::EmulatedBackend;

    /// The pointers that are left on the way from `old` to `new` in a queue of `entries`, one by one.
    fn left(entries: u32, old: u32, new: u32) -> Vec<u32> {
        std::iter::successors(Some(old), |at| Some((at + 1) % entries))
            .take_while(|at| *at != new)
            .collect()
    }

    #[test]
    fn an_event_is_passed_exactly_when_the_pointer_leaves_it() {
        for entries in [2, 3, 7, 16] {
            for old in 0..entries {
                for new in 0..entries {
                    for event in 0..entries {
                        let wanted = left(entries, old, new).contains(&event);
                        assert_eq!(
                            passes(event, old, new),
                            wanted,
                            "{event} from {old} to {new} of {entries}"
                        );
                    }
                }
            }
        }
        // Whatever a controller writes there, the answer is one of the two.
        assert!(!passes(u32::MAX, 1, 2));
    }

    #[test]
    fn the_register_is_written_only_when_the_controller_asks_for_it() {
        let backend = EmulatedBackend::stepped("size=1MiB".parse().unwrap()).unwrap();
        let page = || backend.allocate(4096).unwrap();
        let pages = ShadowPages {
            doorbells: page(),
            event_indexes: page(),
        };
        assert!(
            pages.shadow(4096).is_none()
                && pages.shadow(4094).is_none()
                && pages.shadow(usize::MAX).is_none()
        );
        let register = || backend.doorbell(nvme_spec::register::DOORBELLS + 8).unwrap();
        let mut bell = Bell::new(register(), pages.shadow(8));
        assert!(bell.publish(1), "the event index is 0, which was left");
        assert_eq!(pages.doorbells.load_u32(8), 1);
        assert!(!bell.publish(2), "the controller has not asked again");
        pages.event_indexes.store_u32(8, 2);
        assert!(bell.publish(5));
        assert_eq!(pages.doorbells.load_u32(8), 5);
        assert!(Bell::new(register(), None).publish(1));
    }
}
