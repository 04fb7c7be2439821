//! Locks on a store that is restored from a backup: what is lost, what is kept, and what returns.

use std::pin::pin;

use coord_core::error::LossReason;
use coord_core::kv::Txn;
use coord_core::{Client, Mutex};
use coord_mem::MemBackend;
use tokio::time::{sleep, timeout};

use crate::support::{keys, secs, session};
use crate::while_waiting::while_waiting_after;

#[tokio::test(start_paused = true)]
async fn lock_acquired_since_the_backup_is_lost() {
    let (mem, store) = store();
    let (old, other) = (session(&store).await, session(&store).await);
    let backup = mem.backup();
    let new = session(&store).await;
    let of_old = Mutex::new(&old, "old").lock().await.unwrap();
    let of_new = Mutex::new(&new, "new").lock().await.unwrap();
    let losses = async { tokio::join!(of_old.lost(), of_new.lost()) };
    let restore = async {
        mem.restore(&backup);
        // The store refuses writes of the former holder at once.
        let late = of_old.txn(Txn::new()).await.unwrap_err();
        assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    };
    let (losses, ()) = while_waiting_after(secs(1), timeout(secs(2), losses), restore).await;
    // The watch of the key reports the first, and the missing lease the second.
    assert_eq!(losses.unwrap(), (LossReason::KeyDeleted, LossReason::Revoked));

    let next = timeout(secs(1), Mutex::new(&other, "old").lock()).await.unwrap().unwrap();
    assert!(next.fencing_token() <= of_old.fencing_token(), "tokens go back");
    next.unlock().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lock_of_the_backup_is_kept_with_its_queue() {
    let (mem, store) = store();
    let (holder, waiter) = (session(&store).await, session(&store).await);
    let guard = Mutex::new(&holder, "m").lock().await.unwrap();
    let mutex = Mutex::new(&waiter, "m");
    let waiting = async { mutex.lock().await.unwrap().fencing_token() };
    let restore = async {
        let backup = mem.backup();
        store.put("since", "1").await.unwrap();
        mem.restore(&backup);
        sleep(secs(30)).await;
        guard.txn(Txn::new()).await.unwrap();
        let token = guard.fencing_token();
        guard.unlock().await.unwrap();
        token
    };
    let (second, first) = while_waiting_after(secs(1), waiting, restore).await;
    assert!(first < second);
}

/// The lock was released, and its key is back. The session keeps the lease of the key alive, and
/// does not detect that the history was replaced: all contenders wait until it ends, its own too.
/// That is a known limit: `docs/semantics.md`.
#[tokio::test(start_paused = true)]
async fn released_lock_is_back_until_its_session_closes() {
    let (mem, store) = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let guard = Mutex::new(&former, "m").lock().await.unwrap();
    let backup = mem.backup();
    guard.unlock().await.unwrap();
    assert!(keys(&store, "m/").await.is_empty());
    mem.restore(&backup);
    assert_eq!(keys(&store, "m/").await.len(), 1);

    let mutex = Mutex::new(&other, "m");
    let mut waiting = pin!(mutex.lock());
    timeout(secs(3_600), waiting.as_mut()).await.unwrap_err();
    timeout(secs(3_600), Mutex::new(&former, "m").lock()).await.unwrap_err();
    former.close().await.unwrap();
    timeout(secs(1), waiting).await.unwrap().unwrap().unlock().await.unwrap();
    assert!(keys(&store, "m/").await.is_empty());
}

/// The lease of a session that was closed since the backup is back, but expires: no process keeps
/// it alive.
#[tokio::test(start_paused = true)]
async fn lock_of_a_closed_session_is_back_for_one_ttl() {
    let (mem, store) = store();
    let (former, other) = (session(&store).await, session(&store).await);
    let guard = Mutex::new(&former, "m").lock().await.unwrap();
    let backup = mem.backup();
    guard.unlock().await.unwrap();
    former.close().await.unwrap();
    mem.restore(&backup);
    let mutex = Mutex::new(&other, "m");
    let mut waiting = pin!(mutex.lock());
    timeout(secs(9), waiting.as_mut()).await.unwrap_err();
    timeout(secs(2), waiting).await.unwrap().unwrap().unlock().await.unwrap();
}

/// A store, and a client of it.
fn store() -> (MemBackend, Client) {
    let store = MemBackend::new();
    (store.clone(), Client::new(store))
}
