//! What one client may take of a scheme that all share: the table is in [the module's docs](super#quotas).
//!
//! A process can fork, a user cannot: so the client is the user.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use stats_proto::stats::{ClientCounts, SocketStats};

use super::data::MAX_TRANSFER_BYTES;
use super::{Errno, MAX_HANDLES, lock};

/// What may be taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Open handles.
    pub handles: usize,
    /// Calls that have not been answered.
    pub calls: usize,
    /// Bytes of reads and writes that have not been answered.
    pub bytes: usize,
    /// Bytes that handles keep for their readers: snapshots of documents, and events that were not read yet.
    pub kept_bytes: usize,
}

/// Of one user: a load generator with 64 threads of 64 requests of 64 KiB is within it.
pub const USER_QUOTA: Quota = Quota {
    handles: MAX_HANDLES / 4,
    calls: 64 * 64,
    bytes: 256 << 20,
    kept_bytes: 32 << 20,
};

/// Of all users but uid 0 together. A quarter of the handles is uid 0's.
pub const ALL_USERS_QUOTA: Quota = Quota {
    handles: MAX_HANDLES * 3 / 4,
    calls: 4 * USER_QUOTA.calls,
    bytes: 2 * USER_QUOTA.bytes,
    kept_bytes: 2 * USER_QUOTA.kept_bytes,
};

/// Of uid 0: several such load generators, of 256 KiB at 4096 requests or of 1 MiB at 1024. A quarter of the
/// handles is the others'.
pub const ROOT_QUOTA: Quota = Quota {
    handles: MAX_HANDLES * 3 / 4,
    calls: 4 * USER_QUOTA.calls,
    bytes: 1 << 30,
    kept_bytes: 4 * USER_QUOTA.kept_bytes,
};

impl Quota {
    /// What user `uid` may have at most.
    pub const fn of(uid: u32) -> Self {
        if uid == 0 { ROOT_QUOTA } else { USER_QUOTA }
    }
}

/// Of lookups, of which nobody says who asks.
const LOOKUP_QUOTA: Quota = Quota {
    handles: 0,
    bytes: 0,
    kept_bytes: 0,
    ..USER_QUOTA
};

/// What is taken now, and may be.
#[derive(Debug)]
struct Account {
    quota: Quota,
    handles: AtomicUsize,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    kept_bytes: AtomicUsize,
    /// How often one asked for more than its quota or, of all users, than that of all.
    refused: AtomicU64,
}

impl Account {
    const fn new(quota: Quota) -> Self {
        Self {
            quota,
            handles: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            kept_bytes: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    fn counts(&self) -> ClientCounts {
        let now = |taken: &AtomicUsize| taken.load(Ordering::Relaxed) as u64;
        ClientCounts {
            handles: now(&self.handles),
            calls: now(&self.calls),
            bytes: now(&self.bytes),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// Takes `amount` if no more than `most` are taken then.
fn take(taken: &AtomicUsize, amount: usize, most: usize) -> bool {
    let more = |now: usize| now.checked_add(amount).filter(|sum| *sum <= most);
    taken
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

fn give_back(taken: &AtomicUsize, amount: usize) {
    taken.fetch_sub(amount, Ordering::Relaxed);
}

/// Those who use the scheme.
pub(crate) struct Clients {
    users: Arc<Account>,
    root: Arc<Client>,
    lookups: Arc<Client>,
    by_uid: Mutex<ByUid>,
    /// Through which they come, if somebody serves the tree so.
    sockets: OnceLock<Sockets>,
}

/// Says what the sockets of a server have done.
type Sockets = Box<dyn Fn() -> Vec<SocketStats> + Send + Sync>;

#[derive(Debug)]
struct ByUid {
    clients: HashMap<u32, Weak<Client>>,
    /// At so many the table is cleared of those who have gone.
    clear_at: usize,
}

/// The fewest clients for which the table is cleared.
const CLEAR_AT: usize = 64;

/// One client. It is kept by its handles and by its calls.
#[derive(Debug)]
pub(crate) struct Client {
    uid: u32,
    own: Account,
    /// Who share more than one of them has.
    all: Option<Arc<Account>>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let alone = |quota| {
            Arc::new(Client {
                uid: 0,
                own: Account::new(quota),
                all: None,
            })
        };
        Self {
            users: Arc::new(Account::new(ALL_USERS_QUOTA)),
            root: alone(ROOT_QUOTA),
            lookups: alone(LOOKUP_QUOTA),
            by_uid: Mutex::new(ByUid {
                clients: HashMap::new(),
                clear_at: CLEAR_AT,
            }),
            sockets: OnceLock::new(),
        }
    }

    pub(crate) fn of_uid(&self, uid: u32) -> Arc<Client> {
        if uid == 0 {
            return Arc::clone(&self.root);
        }
        let mut by_uid = lock(&self.by_uid);
        if let Some(client) = by_uid.clients.get(&uid).and_then(Weak::upgrade) {
            return client;
        }
        if by_uid.clients.len() >= by_uid.clear_at {
            by_uid.clients.retain(|_, client| client.strong_count() > 0);
            by_uid.clear_at = (2 * by_uid.clients.len()).max(CLEAR_AT);
        }
        let client = Arc::new(Client {
            uid,
            own: Account::new(USER_QUOTA),
            all: Some(Arc::clone(&self.users)),
        });
        by_uid.clients.insert(uid, Arc::downgrade(&client));
        client
    }

    /// Whoever looks something up.
    pub(crate) fn lookups(&self) -> Arc<Client> {
        Arc::clone(&self.lookups)
    }

    /// For the statistics. Lookups are in neither.
    pub(crate) fn counts(&self) -> stats_proto::stats::Clients {
        stats_proto::stats::Clients {
            root: self.root.own.counts(),
            others: self.users.counts(),
        }
    }

    /// From now on documents show what `sockets` says. Only the first who says so is heard.
    pub(crate) fn show_sockets(&self, sockets: Sockets) {
        if self.sockets.set(sockets).is_err() {
            log::warn!("the tree is served twice: the second server's sockets are not shown");
        }
    }

    /// What the sockets have done.
    pub(crate) fn sockets(&self) -> Vec<SocketStats> {
        self.sockets.get().map_or_else(Vec::new, |sockets| sockets())
    }

    /// Calls that have not been answered, of all.
    pub(crate) fn calls(&self) -> usize {
        let accounts = [&self.users, &self.root.own, &self.lookups.own];
        accounts
            .iter()
            .map(|account| account.calls.load(Ordering::Relaxed))
            .sum()
    }

    /// Whether nobody has anything.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn are_idle(&self) -> bool {
        let all = [&*self.users, &self.root.own, &self.lookups.own];
        all.iter().all(|account| {
            [
                &account.handles,
                &account.calls,
                &account.bytes,
                &account.kept_bytes,
            ]
            .iter()
            .all(|taken| taken.load(Ordering::Relaxed) == 0)
        })
    }
}

impl Client {
    pub(crate) const fn uid(&self) -> u32 {
        self.uid
    }

    /// Takes one call that moves `bytes`, until the charge is dropped.
    ///
    /// # Errors
    /// `EAGAIN` if too much is out already.
    pub(crate) fn charge_call(self: &Arc<Self>, bytes: usize) -> Result<CallCharge, Errno> {
        self.try_charge_call(bytes).inspect_err(|_| self.refuse())
    }

    /// Counts it where the documents show it.
    fn refuse(&self) {
        let account = self.all.as_deref().unwrap_or(&self.own);
        account.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn try_charge_call(self: &Arc<Self>, bytes: usize) -> Result<CallCharge, Errno> {
        // More is not moved, and a call must be possible where nothing else is out.
        let bytes = bytes.min(MAX_TRANSFER_BYTES);
        // Each is given back by the drop of what was taken before, if the next one fails.
        let mut charge = CallCharge {
            client: Arc::clone(self),
            own: (0, 0),
            all: (0, 0),
        };
        if !take(&self.own.calls, 1, self.own.quota.calls) {
            return Err(Errno::EAGAIN);
        }
        charge.own.0 = 1;
        if !take(&self.own.bytes, bytes, self.own.quota.bytes) {
            return Err(Errno::EAGAIN);
        }
        charge.own.1 = bytes;
        if let Some(all) = &self.all {
            if !take(&all.calls, 1, all.quota.calls) {
                return Err(Errno::EAGAIN);
            }
            charge.all.0 = 1;
            if !take(&all.bytes, bytes, all.quota.bytes) {
                return Err(Errno::EAGAIN);
            }
            charge.all.1 = bytes;
        }
        Ok(charge)
    }

    /// Takes one handle, until the charge is dropped.
    ///
    /// # Errors
    /// `EMFILE` if the client has too many, `ENFILE` if all together have.
    pub(crate) fn charge_handle(self: &Arc<Self>) -> Result<HandleCharge, Errno> {
        self.try_charge_handle().inspect_err(|_| self.refuse())
    }

    fn try_charge_handle(self: &Arc<Self>) -> Result<HandleCharge, Errno> {
        if !take(&self.own.handles, 1, self.own.quota.handles) {
            return Err(Errno::EMFILE);
        }
        if let Some(all) = &self.all
            && !take(&all.handles, 1, all.quota.handles)
        {
            give_back(&self.own.handles, 1);
            return Err(Errno::ENFILE);
        }
        Ok(HandleCharge(Arc::clone(self)))
    }
}

/// What one handle keeps for its readers.
#[derive(Debug)]
pub(crate) struct Kept {
    client: Arc<Client>,
    bytes: usize,
}

impl Kept {
    /// Nothing yet, at the cost of `client`.
    pub(crate) const fn new(client: Arc<Client>) -> Self {
        Self { client, bytes: 0 }
    }

    /// It is `bytes` now.
    ///
    /// # Errors
    /// `EAGAIN` if that is too much: it is nothing then.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), Errno> {
        self.release();
        let Client { own, all, .. } = &*self.client;
        if !take(&own.kept_bytes, bytes, own.quota.kept_bytes) {
            self.client.refuse();
            return Err(Errno::EAGAIN);
        }
        if let Some(all) = all
            && !take(&all.kept_bytes, bytes, all.quota.kept_bytes)
        {
            give_back(&own.kept_bytes, bytes);
            self.client.refuse();
            return Err(Errno::EAGAIN);
        }
        self.bytes = bytes;
        Ok(())
    }

    fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        give_back(&self.client.own.kept_bytes, bytes);
        if let Some(all) = &self.client.all {
            give_back(&all.kept_bytes, bytes);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.release();
    }
}

/// A call that is out.
#[derive(Debug)]
pub(crate) struct CallCharge {
    client: Arc<Client>,
    /// Calls and bytes.
    own: (usize, usize),
    all: (usize, usize),
}

impl Drop for CallCharge {
    fn drop(&mut self) {
        let Client { own, all, .. } = &*self.client;
        give_back(&own.calls, self.own.0);
        give_back(&own.bytes, self.own.1);
        if let Some(all) = all {
            give_back(&all.calls, self.all.0);
            give_back(&all.bytes, self.all.1);
        }
    }
}

/// A handle that is open.
#[derive(Debug)]
pub(crate) struct HandleCharge(Arc<Client>);

impl Drop for HandleCharge {
    fn drop(&mut self) {
        give_back(&self.0.own.handles, 1);
        if let Some(all) = &self.0.all {
            give_back(&all.handles, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn bytes_are_bounded_for_one_and_for_all_but_never_for_root_by_them() {
        let clients = Clients::new();
        let take_all = |uid, most: usize| {
            let client = clients.of_uid(uid);
            let charges: Vec<_> = (0..most + 1)
                .map_while(|_| client.charge_call(MIB).ok())
                .collect();
            charges
        };
        let first = take_all(1, 1000);
        assert_eq!(first.len(), 256);
        let second = take_all(2, 1000);
        assert_eq!(second.len(), 256);
        assert_eq!(
            clients.of_uid(3).charge_call(1).err(),
            Some(Errno::EAGAIN),
            "nothing is left for the users"
        );
        assert!(
            clients.of_uid(3).charge_call(0).is_ok(),
            "but calls without bytes are"
        );
        let root = take_all(0, 2000);
        assert_eq!(root.len(), 1024);
        drop(first);
        assert!(clients.of_uid(3).charge_call(MAX_TRANSFER_BYTES).is_ok());
        let counts = clients.counts();
        assert_eq!((counts.root.calls, counts.root.bytes), (1024, 1 << 30));
        assert_eq!((counts.others.calls, counts.others.bytes), (256, 256 << 20));
        // Each of the three who took all they could was told once, and the third user besides.
        assert_eq!((counts.root.refused, counts.others.refused), (1, 3));
        drop((second, root));
        assert!(clients.are_idle());
    }

    #[test]
    fn one_call_of_any_length_is_possible() {
        let clients = Clients::new();
        for uid in [0, 1] {
            assert!(clients.of_uid(uid).charge_call(usize::MAX).is_ok());
        }
        assert!(clients.lookups().charge_call(0).is_ok());
    }

    #[test]
    fn clients_who_have_gone_are_forgotten() {
        let clients = Clients::new();
        let kept: Vec<_> = (1..=100).map(|uid| clients.of_uid(uid)).collect();
        for uid in 1000..100_000 {
            drop(clients.of_uid(uid));
        }
        assert!(lock(&clients.by_uid).clients.len() <= 201);
        assert!(Arc::ptr_eq(&kept[5], &clients.of_uid(6)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Call { uid: u32, bytes: usize },
        Handle { uid: u32 },
        Drop { which: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u32..4, 0_usize..40 * MIB).prop_map(|(uid, bytes)| Step::Call { uid, bytes }),
            (0_u32..4).prop_map(|uid| Step::Handle { uid }),
            any::<usize>().prop_map(|which| Step::Drop { which }),
        ]
    }

    proptest! {
        /// Whatever is taken, refused and given back: no more is out than may be, and in the end nothing is.
        #[test]
        fn what_is_taken_is_given_back(steps in prop::collection::vec(step(), 1..300)) {
            let clients = Clients::new();
            let mut calls = Vec::new();
            let mut handles = Vec::new();
            for step in steps {
                match step {
                    Step::Call { uid, bytes } => calls.extend(clients.of_uid(uid).charge_call(bytes)),
                    Step::Handle { uid } => handles.extend(clients.of_uid(uid).charge_handle()),
                    Step::Drop { which } if which.is_multiple_of(2) && !calls.is_empty() => {
                        calls.swap_remove(which % calls.len());
                    }
                    Step::Drop { which } if !handles.is_empty() => {
                        handles.swap_remove(which % handles.len());
                    }
                    Step::Drop { .. } => {}
                }
                prop_assert_eq!(clients.calls(), calls.len());
                let users = clients.users.bytes.load(Ordering::Relaxed);
                prop_assert!(users <= ALL_USERS_QUOTA.bytes);
                prop_assert_eq!(users, calls.iter().map(|charge| charge.all.1).sum::<usize>());
            }
            drop((calls, handles));
            prop_assert!(clients.are_idle());
        }
    }
}
