//! Requests by the block at which they begin, for whoever looks for the one that goes on where another ends.
//!
//! A table of chains, which allocates nothing after it was made. Which blocks share a chain is not for a client to choose: the
//! table mixes in a number of its own. Requests for the same block do share one, so nobody looks at more than [`MOST_LOOKS`].

use std::hash::{BuildHasher, RandomState};

/// Requests that are looked at in one search.
pub(super) const MOST_LOOKS: usize = 32;
/// No place.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    older: u32,
    younger: u32,
}

/// Both ends of a chain.
#[derive(Clone, Copy)]
struct Ends {
    oldest: u32,
    youngest: u32,
}

/// See the [module](self).
pub(super) struct Starts {
    chains: Box<[Ends]>,
    /// Of each place, its neighbours in its chain.
    links: Box<[Link]>,
    random: RandomState,
}

impl Starts {
    pub(super) fn new(capacity: usize) -> Self {
        let ends = Ends {
            oldest: NIL,
            youngest: NIL,
        };
        let link = Link {
            older: NIL,
            younger: NIL,
        };
        Self {
            chains: vec![ends; capacity.next_power_of_two()].into(),
            links: vec![link; capacity].into(),
            random: RandomState::new(),
        }
    }

    /// The request in `place` begins at block `slba`.
    pub(super) fn insert(&mut self, place: u32, slba: u64) {
        let chain = self.chain_of(slba);
        let Some(ends) = self.chains.get_mut(chain) else {
            return;
        };
        let older = std::mem::replace(&mut ends.youngest, place);
        match self.links.get_mut(older as usize) {
            Some(link) => link.younger = place,
            None => ends.oldest = place,
        }
        if let Some(link) = self.links.get_mut(place as usize) {
            *link = Link { older, younger: NIL };
        }
    }

    /// It does not any more.
    pub(super) fn remove(&mut self, place: u32, slba: u64) {
        let chain = self.chain_of(slba);
        let Some(Link { older, younger }) = self.links.get(place as usize).copied() else {
            return;
        };
        let Some(ends) = self.chains.get_mut(chain) else {
            return;
        };
        match self.links.get_mut(older as usize) {
            Some(link) => link.younger = younger,
            None => ends.oldest = younger,
        }
        match self.links.get_mut(younger as usize) {
            Some(link) => link.older = older,
            None => ends.youngest = older,
        }
    }

    /// The places of those that begin at `slba`, and perhaps of others, the oldest first.
    pub(super) fn at(&self, slba: u64) -> impl Iterator<Item = u32> {
        let oldest = self.chains.get(self.chain_of(slba)).map(|ends| ends.oldest);
        std::iter::successors(oldest, |place| {
            self.links.get(*place as usize).map(|link| link.younger)
        })
        .take_while(|place| *place != NIL)
        .take(MOST_LOOKS)
    }

    fn chain_of(&self, slba: u64) -> usize {
        self.random.hash_one(slba) as usize & (self.chains.len() - 1)
    }
}
