//! Who has requests in a backlog: how many, and where each stands in the sharing out.

/// Classes in which a client is charged separately.
pub(super) const LANES: usize = 4;
/// Clients are looked for in one of so many sets,
const SETS: usize = 256;
/// which has places for so many.
const WAYS: usize = 8;

/// One client, or, where more have requests waiting than a set has places for, several that are treated as one.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    id: u64,
    /// Requests in the backlog.
    waiting: u32,
    /// When it came last, counted in requests.
    came: u64,
    /// Up to where it has been charged, by class: see [`fair`](super::fair).
    charged: [u64; LANES],
}

/// A table without growth. A client without requests is remembered until its place is needed for another one, and the
/// account of one that was forgotten begins anew: worth one request at most, as it has none waiting.
pub(super) struct Clients {
    table: Box<[Client]>,
    requests: u64,
}

impl Clients {
    pub(super) fn new() -> Self {
        Self {
            table: (0..SETS * WAYS).map(|_| Client::default()).collect(),
            requests: 0,
        }
    }

    /// The place of client `id`.
    #[inline]
    pub(super) fn of(&mut self, id: u64) -> u32 {
        // Fibonacci hashing: the high bits of the product depend on all bits of the number.
        let set = (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as usize * WAYS;
        let ways = self.table.get(set..set + WAYS).unwrap_or_default();
        let known = ways
            .iter()
            .position(|client| client.id == id && client.came > 0)
            .unwrap_or_else(|| self.make_place(set, id));
        (set + known) as u32
    }

    #[cold]
    fn make_place(&mut self, set: usize, id: u64) -> usize {
        let Some(ways) = self.table.get_mut(set..set + WAYS) else {
            return 0;
        };
        // Of those without requests the one that has been away for longest, else one with few of them.
        let oldest = (0..)
            .zip(ways.iter_mut())
            .min_by_key(|(_, client)| (client.waiting, client.came));
        let Some((way, client)) = oldest else { return 0 };
        if client.waiting == 0 {
            *client = Client {
                id,
                came: 1,
                ..Client::default()
            };
        }
        way
    }

    /// Requests of the client at `place` that wait.
    #[inline]
    pub(super) fn waiting(&self, place: u32) -> u32 {
        self.table.get(place as usize).map_or(0, |client| client.waiting)
    }

    /// One more waits.
    #[inline]
    pub(super) fn came(&mut self, place: u32) {
        self.requests += 1;
        if let Some(client) = self.table.get_mut(place as usize) {
            client.waiting += 1;
            client.came = self.requests;
        }
    }

    /// One has had its turn.
    #[inline]
    pub(super) fn went(&mut self, place: u32) {
        if let Some(client) = self.table.get_mut(place as usize) {
            client.waiting = client.waiting.saturating_sub(1);
        }
    }

    /// Up to where the client at `place` has been charged in `lane`.
    #[inline]
    pub(super) fn lane(&mut self, place: u32, lane: usize) -> Option<&mut u64> {
        self.table.get_mut(place as usize)?.charged.get_mut(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_place_and_others_have_their_own() {
        let mut clients = Clients::new();
        let places: Vec<u32> = (0..500).map(|id| clients.of(id)).collect();
        for (id, place) in (0..500).zip(&places) {
            assert_eq!(clients.of(id), *place);
            clients.came(*place);
            assert_eq!(clients.waiting(*place), 1, "client {id} has its place for itself");
        }
    }

    #[test]
    fn whoever_has_requests_is_not_forgotten() {
        let mut clients = Clients::new();
        let busy = clients.of(7);
        clients.came(busy);
        for id in 1000..100_000 {
            let place = clients.of(id);
            assert_ne!(place, busy);
            clients.came(place);
            clients.went(place);
        }
        assert_eq!((clients.of(7), clients.waiting(busy)), (busy, 1));
    }
}
