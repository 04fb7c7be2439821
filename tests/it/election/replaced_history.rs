//! Replaced history: the store returns empty, or restored from an older backup.

use std::sync::atomic::{AtomicU32, Ordering};

use coord_core::{
    Client, Election, Error, KvBackend, Mutex,
    election::GapCause,
    error::LossReason,
    kv::{Compact, LeaseGrant, Put, Revision, Txn},
};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use super::{election, observe, some, value_of};
use crate::support::{ReplaceableStore, secs, session_on};
use crate::watch_faults::{UNLIMITED_LIFETIME, WatchFaults};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// A store at revision `writes` + 1.
async fn store_with_writes(writes: usize) -> MemBackend {
    let store = MemBackend::new();
    for n in 0..writes {
        store.put(Put::new("history", n.to_string())).await.expect("the store is available");
    }
    store
}

/// An observer yielded no leader of the new history, although it read the contenders each 55 s.
#[tokio::test(start_paused = true)]
async fn observer_starts_afresh_when_history_was_replaced() {
    // The new history is shorter, or has already grown longer than the old one.
    for (writes, has_leader) in [(0, false), (0, true), (500, false), (500, true)] {
        let store = ReplaceableStore::new(store_with_writes(100).await);
        let owner = session_on(store.client()).await;
        let _old = Election::new(&owner, "e").campaign("old").await.unwrap();
        let mut leaders = Election::observer(&store.client(), "e").observe();
        assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
        assert_eq!(leaders.gap(), None);

        store.replace(store_with_writes(writes).await);
        let new = session_on(store.client()).await;
        let leadership = match has_leader {
            true => Some(Election::new(&new, "e").campaign("new").await.unwrap()),
            false => None,
        };
        let next = timeout(secs(61), leaders.next()).await.expect("within a minute");
        let leader = next.unwrap().unwrap().map(value_of);
        assert_eq!(leader, if has_leader { some("new") } else { None }, "{writes} writes");
        assert_eq!(leaders.gap().expect("a gap").cause, GapCause::HistoryReplaced);
        drop(leadership);

        // The stream continues without a gap.
        let _next = Election::new(&new, "e").campaign("next").await.unwrap();
        while leaders.next().await.unwrap().unwrap().is_none_or(|next| next.value() != "next") {}
        assert_eq!(leaders.gap(), None);
    }
}

/// The new store granted the same lease ids as the old one: the former holder kept the lease of the
/// new holder alive, and both had the same key and fencing token.
#[tokio::test(start_paused = true)]
async fn former_holder_is_lost_when_store_returns_empty() {
    let store = ReplaceableStore::new(MemBackend::new());
    let old = session_on(store.client()).await;
    let former = Mutex::new(&old, "m").lock().await.unwrap();
    store.replace(MemBackend::new());
    let new = session_on(store.client()).await;
    let guard = Mutex::new(&new, "m").lock().await.unwrap();
    assert_ne!(old.lease_id(), new.lease_id());
    assert_ne!(former.key(), guard.key());
    former.txn(Txn::new()).await.unwrap_err();
    let reason = timeout(secs(10), former.lost()).await.expect("at the next keep-alive");
    assert_eq!(reason, LossReason::Revoked);
    assert_eq!(guard.txn(Txn::new()).await.map(|response| response.succeeded).ok(), Some(true));
}

/// In the new history neither the waiter's key nor that of its predecessor exists, and the watch of
/// the old history delivers nothing.
#[tokio::test(start_paused = true)]
async fn waiter_fails_when_replaced_history_lacks_its_key() {
    let store = ReplaceableStore::new(store_with_writes(100).await);
    let (holder, waiter) = (session_on(store.client()).await, session_on(store.client()).await);
    let _guard = Mutex::new(&holder, "m").lock().await.unwrap();
    let mutex = Mutex::new(&waiter, "m");
    let waiting = async { mutex.lock().await.map(drop) };
    let replace = async {
        // A backup from when the waiter's lease existed, but no key of the queue.
        let restored = store_with_writes(10).await;
        let lease = LeaseGrant { id: Some(waiter.lease_id()), ..LeaseGrant::new(secs(10)) };
        restored.lease_grant(lease).await.unwrap();
        store.replace(restored);
    };
    let (waited, ()) = while_waiting(timeout(secs(30), waiting), replace).await;
    let error = waited.expect("fails within 30 s").unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
}

/// The watch of the new history keeps delivering events, which must not hide that the history was
/// replaced: the observer never yielded the new leader.
#[tokio::test(start_paused = true)]
async fn observer_of_busy_replaced_history_starts_afresh() {
    let store = ReplaceableStore::new(MemBackend::new());
    let owner = session_on(store.client()).await;
    let _old = Election::new(&owner, "e").campaign("old").await.unwrap();
    let mut leaders = Election::observer(&store.client(), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap().unwrap().value(), "old");
    store.replace(store_with_writes(1).await);
    let new = session_on(store.client()).await;
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
    assert_eq!(leaders.gap().expect("a gap").cause, GapCause::HistoryReplaced);
}

/// A backend may end the watch with an error because its history was replaced.
#[tokio::test(start_paused = true)]
async fn observer_continues_after_history_replaced_error() {
    let (newest, found) = (Revision(9), Revision(2));
    let store = store_with_writes(1).await;
    let watches = AtomicU32::new(0);
    let lifetimes = move || match watches.fetch_add(1, Ordering::Relaxed) {
        0 => (secs(1), Some(Error::HistoryReplaced { newest, found })),
        _ => UNLIMITED_LIFETIME,
    };
    let backend = WatchFaults::new(store.clone(), lifetimes);
    let mut leaders = Election::observer(&Client::new(backend), "e").observe();
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    sleep(secs(2)).await;
    let election = election(&Client::new(store.clone())).await;
    let (next, leadership) =
        while_waiting_after(secs(5), leaders.next(), election.campaign("a")).await;
    assert_eq!(next.unwrap().unwrap().unwrap().value(), "a");
    assert_eq!(leaders.gap().expect("a gap").cause, GapCause::HistoryReplaced);
    drop(leadership.unwrap());
}

/// Compactions of other keys' history are no gap.
#[tokio::test(start_paused = true)]
async fn idle_observer_has_no_gap_after_compactions() {
    let store = Client::new(MemBackend::new());
    let mut leaders = observe(&store);
    assert_eq!(leaders.next().await.unwrap().unwrap(), None);
    let later = async {
        for n in 0..20 {
            sleep(secs(20)).await;
            let at = store.put("other", n.to_string()).await.unwrap().header.revision;
            store.compact(Compact::new(at)).await.unwrap();
        }
        election(&store).await.campaign("a").await.unwrap()
    };
    let (next, _leadership) = tokio::join!(leaders.next(), later);
    assert_eq!(next.unwrap().unwrap().unwrap().value(), "a");
    assert_eq!(leaders.gap(), None, "its watch delivered every change");
}
