//! What was asked of the kernel, counted.

use std::collections::BTreeMap;

/// A call of [`System`](nvme_driver::redox::System).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Operation {
    Open,
    OpenAt,
    Dup,
    Close,
    SetCloseOnExec,
    Read,
    Write,
    Call,
    List,
    Map,
    Unmap,
    CreateScheme,
    RegisterScheme,
    LeaveNamespace,
    PinThread,
}

/// What a call was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// A queue of events.
    Event,
    /// Either end of a pipe.
    Pipe,
    /// A clock and its timers.
    Time,
    /// An interrupt, or the directory of them.
    Irq,
    /// Memory, or the translation of addresses.
    Memory,
    /// `/scheme/sys`.
    Sys,
    /// The socket of a scheme.
    Socket,
    /// The channel to pcid, and the BARs behind it.
    Pcid,
    /// Nothing of these, or nothing that exists.
    Other,
}

/// How many calls there were, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls(BTreeMap<(Operation, What), u64>);

impl Calls {
    pub(crate) fn note(&mut self, operation: Operation, what: What) {
        *self.0.entry((operation, what)).or_default() += 1;
    }

    /// Calls of one kind about one kind of thing.
    #[must_use]
    pub fn count(&self, operation: Operation, what: What) -> u64 {
        self.0.get(&(operation, what)).copied().unwrap_or_default()
    }

    /// Calls of one kind.
    #[must_use]
    pub fn of(&self, operation: Operation) -> u64 {
        self.0
            .iter()
            .filter(|((done, _), _)| *done == operation)
            .map(|(_, count)| count)
            .sum()
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Those that are not in `earlier` yet.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let later = self.0.iter().filter_map(|(kind, count)| {
            let more = count - earlier.0.get(kind).copied().unwrap_or_default();
            (more > 0).then_some((*kind, more))
        });
        Self(later.collect())
    }
}
