//! A store that comes back with another history: empty, or restored from an older backup.

use crate::support::another;
use coord_core::kv::Put;
use coord_core::layer::Layer;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::election::GapCause;
use coord_core::{
    Client, Election, Error, KvBackend, Mutex, Session,
    error::LossReason,
    kv::{Compact, LeaseGrant, Revision, Txn},
};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use super::some;
use crate::breaking::Breaking;
use crate::support::{secs, settle};

/// An address at which one store takes the place of another. The watches of the old one deliver
/// nothing more.
#[derive(Clone, Debug)]
struct Address(Arc<(MemBackend, OnceLock<MemBackend>)>);

impl Address {
    fn of(store: MemBackend) -> Self {
        Self(Arc::new((store, OnceLock::new())))
    }

    fn replace(&self, store: MemBackend) {
        self.0.1.set(store).expect("the history is replaced once");
    }
}

impl Layer for Address {
    type Inner = MemBackend;

    fn inner(&self) -> &MemBackend {
        let (old, new) = &*self.0;
        new.get().unwrap_or(old)
    }
}

/// A store at revision `writes` + 1.
async fn store(writes: usize) -> MemBackend {
    let store = MemBackend::new();
    for n in 0..writes {
        store.put(Put::new("history", n.to_string())).await.expect("the store is available");
    }
    store
}

async fn session(address: &Address) -> Session {
    let builder = Session::builder(&Client::new(address.clone())).ttl(secs(10));
    builder.open().await.expect("the store is available")
}

/// An observer showed the old leader forever, although it read the election each minute.
#[tokio::test(start_paused = true)]
async fn observer_starts_afresh_when_history_was_replaced() {
    // The new history is shorter, or has already grown longer than the old one.
    for (writes, is_led) in [(0, false), (0, true), (500, false), (500, true)] {
        let address = Address::of(store(100).await);
        let owner = session(&address).await;
        let _old = Election::new(&owner, "e").campaign("old").await.unwrap();
        let mut leaders = Election::observer(&Client::new(address.clone()), "e").observe();
        assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
        assert_eq!(leaders.gap(), None);

        address.replace(store(writes).await);
        let new = session(&address).await;
        let leadership = match is_led {
            true => Some(Election::new(&new, "e").campaign("new").await.unwrap()),
            false => None,
        };
        let next = timeout(secs(61), leaders.next()).await.expect("within a minute");
        let leader = next.unwrap().unwrap().map(|leader| leader.value().escape_ascii().to_string());
        assert_eq!(leader, if is_led { some("new") } else { None }, "{writes} writes");
        assert_eq!(leaders.gap().expect("it says so").cause, GapCause::HistoryReplaced);
        drop(leadership);

        // It continues without a gap.
        let _next = Election::new(&new, "e").campaign("next").await.unwrap();
        while leaders.next().await.unwrap().unwrap().is_none_or(|next| next.value() != "next") {}
        assert_eq!(leaders.gap(), None);
    }
}

/// Lease ids repeated from one life of a store to the next: the former holder kept the lease of the
/// new one alive, and both held the same key with the same fencing token.
#[tokio::test(start_paused = true)]
async fn former_holder_is_lost_when_store_returns_empty() {
    let address = Address::of(MemBackend::new());
    let old = session(&address).await;
    let held = Mutex::new(&old, "m").lock().await.unwrap();
    address.replace(MemBackend::new());
    let new = session(&address).await;
    let guard = Mutex::new(&new, "m").lock().await.unwrap();
    assert_ne!(old.lease_id(), new.lease_id());
    assert_ne!(held.key(), guard.key());
    held.txn(Txn::new()).await.unwrap_err();
    let reason = timeout(secs(10), held.lost()).await.expect("at the next keep-alive");
    assert_eq!(reason, LossReason::Revoked);
    assert_eq!(guard.txn(Txn::new()).await.map(|answer| answer.succeeded).ok(), Some(true));
}

/// A waiter whose predecessor is not there in the new history reads its queue again.
#[tokio::test(start_paused = true)]
async fn waiter_fails_when_replaced_history_lacks_its_key() {
    let address = Address::of(store(100).await);
    let (holder, waiter) = (session(&address).await, session(&address).await);
    let _held = Mutex::new(&holder, "m").lock().await.unwrap();
    let mutex = Mutex::new(&waiter, "m");
    let waiting = async { mutex.lock().await.map(drop) };
    let replace = async {
        settle().await;
        // Restored to when the waiter's lease existed, and no key of the queue.
        let restored = store(10).await;
        let lease = LeaseGrant { id: Some(waiter.lease_id()), ..LeaseGrant::new(secs(10)) };
        restored.lease_grant(lease).await.unwrap();
        address.replace(restored);
    };
    let (waited, ()) = tokio::join!(timeout(secs(30), waiting), replace);
    let error = waited.expect("it does not wait forever").unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
}

/// Whatever the watch of the new history delivered, the old leader was shown forever.
#[tokio::test(start_paused = true)]
async fn observer_of_busy_replaced_history_starts_afresh() {
    let address = Address::of(MemBackend::new());
    let owner = session(&address).await;
    let _old = Election::new(&owner, "e").campaign("old").await.unwrap();
    let mut leaders = Election::observer(&Client::new(address.clone()), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
    address.replace(store(1).await);
    let new = session(&address).await;
    let leadership = Election::new(&new, "e").campaign("new").await.unwrap();
    let busy = async {
        for _ in 0..20 {
            sleep(secs(30)).await;
            leadership.proclaim("new").await.unwrap();
        }
    };
    let (next, ()) = tokio::join!(timeout(secs(61), leaders.next()), busy);
    let leader = next.expect("within a minute").unwrap().unwrap().unwrap();
    assert_eq!(leader.value(), "new");
    assert_eq!(leaders.gap().expect("it says so").cause, GapCause::HistoryReplaced);
}

/// A watch whose store was replaced may end with an error that says so.
#[tokio::test(start_paused = true)]
async fn observer_continues_after_history_replaced_error() {
    let (newest, found) = (Revision(9), Revision(2));
    let store = store(1).await;
    let lives = AtomicU32::new(0);
    let lives = move || match lives.fetch_add(1, Ordering::Relaxed) {
        0 => (secs(1), Some(Error::HistoryReplaced { newest, found })),
        _ => (secs(1_000_000), None),
    };
    let backend = Breaking { inner: store.clone(), lives, lag: 0.into() };
    let mut leaders = Election::observer(&Client::new(backend), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    sleep(secs(2)).await;
    let owner = super::election(&Client::new(store.clone())).await;
    let (next, leadership) = tokio::join!(leaders.next(), async {
        sleep(secs(5)).await;
        owner.campaign("a").await.unwrap()
    });
    assert_eq!(next.unwrap().unwrap().unwrap().value(), "a");
    assert_eq!(leaders.gap().expect("it says so").cause, GapCause::HistoryReplaced);
    drop(leadership);
}

/// No change is missing when nothing but compactions happened.
#[tokio::test(start_paused = true)]
async fn idle_observer_has_no_gap_after_compactions() {
    let store = Client::new(MemBackend::new());
    let mut leaders = Election::observer(&another(&store), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let later = async {
        for n in 0..20 {
            sleep(secs(20)).await;
            let at = store.put("other", n.to_string()).await.unwrap().header.revision;
            store.compact(Compact::new(at)).await.unwrap();
        }
        super::election(&Client::new(store.clone())).await.campaign("a").await.unwrap()
    };
    let (next, _leadership) = tokio::join!(leaders.next(), later);
    assert_eq!(next.unwrap().unwrap().unwrap().value(), "a");
    assert_eq!(leaders.gap(), None, "its watch had seen everything");
}
