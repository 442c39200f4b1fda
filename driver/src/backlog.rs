//! Requests that wait in the driver for their turn, and the order in which they have it.
//!
//! A worker under a scheduler that orders requests ([`SchedulerKind::RoundRobin`], [`SchedulerKind::Priority`],
//! [`SchedulerKind::Deadline`]) keeps only a window of commands at the device, since what the device has cannot be put in
//! another order any more. The rest waits here. A backlog is handed requests and the kind of order, has no clock and no
//! thread, and allocates nothing after it was made: [`Backlog::push`] and [`Backlog::pop`] take O(log n) steps, and
//! [`Backlog::pop_next`] a bounded number.
//!
//! - `roundrobin` is fair over clients ([`fair`]).
//! - `priority` has four classes: urgent first, the others by weight, nobody for ever ([`priority`]).
//! - `deadline` is earliest deadline first ([`deadline`]).
//!
//! A client may have as many requests waiting as there are places free, but the last ones are kept for clients who have
//! nothing waiting: one client gets half of them at most, and another one finds room. What is beyond is answered with [`IoError::Busy`](crate::IoError::Busy).

mod clients;
mod deadline;
mod fair;
mod priority;
mod starts;

#[cfg(test)]
mod tests;

use crate::config::{SchedulerKind, Weights};
use crate::io_scheduler::{Class, Priority};
use crate::request::{Op, Request};

use clients::Clients;
use deadline::EarliestDeadline;
use fair::Fair;
use priority::Classes;
use starts::Starts;

/// Requests that one backlog holds.
pub(crate) const BACKLOG_REQUESTS: usize = 2048;
/// Places of it that only those get who have nothing waiting.
pub(crate) const KEPT_PLACES: usize = 256;
/// What the smallest request costs its client: a command is work, however little it moves.
pub(crate) const LEAST_COST_BYTES: u64 = 4096;
/// What the largest costs, so that sums stay far from the end of their range.
pub(crate) const MOST_COST_BYTES: u64 = 1 << 30;

/// A request whose buffer is larger goes alone: the device has much to do for it, and little for the command.
pub(crate) const MOST_MERGED_BYTES: usize = 16 * 1024;

/// A request, who made it, and how urgent it is to them.
#[derive(Debug)]
pub(crate) struct Item<T> {
    pub(crate) request: Request<T>,
    pub(crate) client: u64,
    pub(crate) class: Class,
    /// The place of its namespace at the queue; 0 until a worker has taken it.
    pub(crate) place: usize,
}

impl<T> Item<T> {
    /// What a client is charged for it: the bytes that it moves, within bounds.
    fn cost_bytes(&self) -> u64 {
        let Request { op, buffer, .. } = &self.request;
        let bytes = if op.has_data() { buffer.len() as u64 } else { 0 };
        bytes.clamp(LEAST_COST_BYTES, MOST_COST_BYTES)
    }

    /// Whether it is of a kind that goes with others' commands.
    fn may_be_merged(&self) -> bool {
        let Request { op, buffer, .. } = &self.request;
        matches!(op, Op::Read | Op::Write { .. }) && buffer.len() <= MOST_MERGED_BYTES
    }

    fn is_read(&self) -> bool {
        self.request.op == Op::Read
    }

    /// When the client wants it done; `u64::MAX` if it has not said so.
    #[inline]
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.class.deadline_ns(self.request.arrived_ns)
    }
}

/// A request whose turn has come.
#[derive(Debug)]
pub(crate) struct Popped<T> {
    pub(crate) item: Item<T>,
    /// When it is to be done at the latest; `u64::MAX` if that does not matter to anybody.
    pub(crate) deadline_ns: u64,
}

/// What one place holds.
#[derive(Debug)]
struct Waiting<T> {
    item: Item<T>,
    /// The client's place in [`Clients`].
    client: u32,
    deadline_ns: u64,
}

/// Where a request that is wanted begins, and what it may be. See [`Backlog::pop_next`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The place of its namespace.
    pub(crate) place: usize,
    pub(crate) op: Op,
    pub(crate) slba: u64,
    /// It has no more blocks than this.
    pub(crate) most_blocks: u64,
}

enum Order {
    Fair(Fair),
    Priority(Classes),
    Deadline(EarliestDeadline),
}

/// See the [module](self).
pub(crate) struct Backlog<T> {
    places: Box<[Option<Waiting<T>>]>,
    free: Vec<u32>,
    clients: Clients,
    order: Order,
    /// By their first blocks, if anybody asks for that.
    starts: Option<Starts>,
}

impl<T> Backlog<T> {
    /// A backlog for the scheduler `kind`; `None` for one that has no need of it.
    pub(crate) fn new(kind: SchedulerKind, weights: Weights) -> Option<Self> {
        Self::with_capacity(kind, weights, BACKLOG_REQUESTS)
    }

    fn with_capacity(kind: SchedulerKind, weights: Weights, capacity: usize) -> Option<Self> {
        let order = match kind {
            SchedulerKind::None | SchedulerKind::CpuAffinity => return None,
            SchedulerKind::RoundRobin => Order::Fair(Fair::new(capacity)),
            SchedulerKind::Priority => Order::Priority(Classes::new(weights, capacity)),
            SchedulerKind::Deadline => Order::Deadline(EarliestDeadline::new(capacity)),
        };
        Some(Self {
            places: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            clients: Clients::new(),
            order,
            starts: None,
        })
    }

    /// The same, which also finds requests by where they begin, as far as its order lets any have its turn before others. It is
    /// empty.
    pub(crate) fn finding_neighbours(mut self) -> Self {
        self.starts = matches!(self.order, Order::Deadline(_)).then(|| Starts::new(self.places.len()));
        self
    }

    /// Requests that wait.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// The request, if its client has its share of the places already.
    // Boxing the error would allocate on the data path.
    #[allow(clippy::result_large_err)]
    #[inline]
    pub(crate) fn push(&mut self, item: Item<T>) -> Result<(), Item<T>> {
        let client = self.clients.of(item.client);
        let (waiting, free) = (self.clients.waiting(client) as usize, self.free.len());
        if waiting >= free || (waiting > 0 && free <= KEPT_PLACES) {
            return Err(item);
        }
        self.put(item, client)
    }

    #[allow(clippy::result_large_err)]
    fn put(&mut self, item: Item<T>, client: u32) -> Result<(), Item<T>> {
        let Some(place) = self.free.pop() else {
            return Err(item);
        };
        let mut deadline_ns = item.deadline_ns();
        self.clients.came(client);
        match &mut self.order {
            Order::Fair(fair) => fair.push(place, self.clients.lane(client, 0), item.cost_bytes()),
            Order::Priority(classes) => {
                let priority = item.class.priority;
                let lane = self.clients.lane(client, priority as usize);
                classes.push(place, priority, lane, item.cost_bytes());
            }
            Order::Deadline(earliest) => {
                if deadline_ns == u64::MAX {
                    let default_ns = default_deadline_ns(item.class.priority, item.is_read());
                    deadline_ns = item.request.arrived_ns.saturating_add(default_ns);
                }
                earliest.push(place, deadline_ns, item.is_read());
            }
        }
        if let Some(starts) = &mut self.starts
            && item.may_be_merged()
        {
            starts.insert(place, item.request.slba);
        }
        if let Some(waiting) = self.places.get_mut(place as usize) {
            *waiting = Some(Waiting {
                item,
                client,
                deadline_ns,
            });
        }
        Ok(())
    }

    /// The request whose turn it is.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Popped<T>> {
        let place = match &mut self.order {
            Order::Fair(fair) => fair.pop(),
            Order::Priority(classes) => classes.pop(),
            Order::Deadline(earliest) => earliest.pop(),
        }?;
        self.take(place)
    }

    /// A request whose turn it is not, but which goes on where one whose turn it is ends. Only of a backlog that is
    /// [finding neighbours](Backlog::finding_neighbours); of those that begin there and are wanted, the first that came.
    pub(crate) fn pop_next(&mut self, wanted: Wanted) -> Option<Popped<T>> {
        let (starts, Order::Deadline(earliest)) = (self.starts.as_ref()?, &mut self.order) else {
            return None;
        };
        let is_wanted = |place: &u32| {
            let waiting = self.places.get(*place as usize).and_then(Option::as_ref);
            waiting.is_some_and(|Waiting { item, .. }| {
                let Request { op, slba, blocks, .. } = item.request;
                (item.place, op, slba) == (wanted.place, wanted.op, wanted.slba)
                    && blocks <= wanted.most_blocks
            })
        };
        let place = starts.at(wanted.slba).find(is_wanted)?;
        earliest.take(place);
        self.take(place)
    }

    /// Empties a place that is not in the order any more.
    #[inline]
    fn take(&mut self, place: u32) -> Option<Popped<T>> {
        let Waiting {
            item,
            client,
            deadline_ns,
        } = self.places.get_mut(place as usize)?.take()?;
        if let Some(starts) = &mut self.starts
            && item.may_be_merged()
        {
            starts.remove(place, item.request.slba);
        }
        self.free.push(place);
        self.clients.went(client);
        Some(Popped { item, deadline_ns })
    }

    /// Takes over what waits in `other`, in the order in which it would have come from there. `other` is of no more places
    /// than this one, which is empty.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        while let Some(Popped { item, .. }) = other.pop() {
            let client = self.clients.of(item.client);
            // There is room for all of them, whatever each client's share.
            let _ = self.put(item, client);
        }
    }
}

/// By when a request is to be done whose client has not said so, counted from its arrival. Somebody waits for a read as a
/// rule; what is not one may wait eight times as long.
pub(crate) const fn default_deadline_ns(priority: Priority, is_read: bool) -> u64 {
    let of_read_ns = match priority {
        Priority::Urgent => 500_000,
        Priority::High => 2_000_000,
        Priority::Medium => 10_000_000,
        Priority::Low => 50_000_000,
    };
    if is_read { of_read_ns } else { 8 * of_read_ns }
}
