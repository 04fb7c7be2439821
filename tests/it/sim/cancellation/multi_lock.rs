//! Cancellation cases of multi-locks, and of what their holders do.

use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{MultiLock, MultiLockGuard};
use coord_core::{Mutex, Session};
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_multi_lock_calls_leave_the_names_free() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["MultiLock::lock"], "the names are free", lock_free),
        Case::new(&["MultiLock::lock"], "the second name is held", lock_waiting),
        Case::new(&["MultiLock::try_lock"], "a child name is locked", try_lock),
        Case::new(&["MultiLockGuard::txn"], "then unlocked", guard_txn),
        Case::new(&["MultiLockGuard::lost"], "the second key is deleted", guard_lost),
        Case::new(&["MultiLockGuard::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["MultiLockGuard::unlock"], "then other clients lock", unlock),
    ]
}

fn both(session: &Session) -> MultiLock {
    MultiLock::new(session, ["m", "n"]).unwrap()
}

async fn lock(session: &Session) -> MultiLockGuard {
    both(session).lock().await.unwrap()
}

/// Both names are free, and no key is left.
async fn names_are_free(t: &Trial, session: &Session) {
    t.queue_is_free("m").await;
    t.queue_is_free("n").await;
    close(session).await;
}

async fn lock_free(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(both(&session).lock()).await);
    t.other_locks("m").await;
    let guard = t.continues(both(&session).lock()).await.unwrap();
    t.messages_arrive().await;
    t.proceeds(guard.txn(Txn::new())).await.unwrap();
    guard.unlock().await.unwrap();
    names_are_free(&t, &session).await;
}

async fn lock_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = Mutex::new(&holder, "n").lock().await.unwrap();
    let session = t.session().await;
    let unlocked = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(both(&session).lock()).await);
    unlocked.await;
    holder.close().await.unwrap();
    names_are_free(&t, &session).await;
}

async fn try_lock(t: Trial) {
    let holder = session_of(&t.holder).await;
    let child = Mutex::new(&holder, "n/below").lock().await.unwrap();
    let session = t.session().await;
    drop(t.drop_at_await(both(&session).try_lock()).await);
    t.other_locks("n").await;
    child.unlock().await.unwrap();
    holder.close().await.unwrap();
    names_are_free(&t, &session).await;
}

/// A request that arrives after the unlock is rejected: the next holder's value stays.
async fn guard_txn(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    let put = |value| Txn::new().and_then([Put::new("data/n", value)]);
    t.drop_at_await(guard.txn(put("mine"))).await.transpose().unwrap();
    guard.unlock().await.unwrap();
    let other = session_of(&t.other).await;
    let next = t.proceeds(both(&other).lock()).await.unwrap();
    next.txn(put("next")).await.unwrap();
    t.messages_arrive().await;
    let written = other.client().get("data/n").await.unwrap().unwrap();
    assert_eq!(written.value, "next");
    assert!(written.version <= 2, "applied {} times", written.version - 1);
    next.unlock().await.unwrap();
    other.close().await.unwrap();
    names_are_free(&t, &session).await;
}

async fn guard_lost(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    let deleted = delete_later(&t, guard.keys().nth(1).unwrap());
    t.drop_at_await(guard.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(guard.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(guard);
    names_are_free(&t, &session).await;
}

/// The work is dropped, and the names are still held.
async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    t.drop_at_await(guard.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    let other = session_of(&t.other).await;
    assert!(t.proceeds(both(&other).try_lock()).await.unwrap().is_none(), "still held");
    t.proceeds(guard.txn(Txn::new())).await.unwrap();
    guard.unlock().await.unwrap();
    other.close().await.unwrap();
    names_are_free(&t, &session).await;
}

async fn unlock(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    t.drop_at_await(guard.unlock()).await.transpose().unwrap();
    names_are_free(&t, &session).await;
}
