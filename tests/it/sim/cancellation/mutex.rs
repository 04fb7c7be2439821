//! Cancellation cases of locks, and of what their holders do.

use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::mutex::MutexGuard;
use coord_core::{Mutex, Session};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{TTL, Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_lock_calls_leave_the_lock_free() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Mutex::lock"], "the lock is free", |t| lock_free(t, Duration::ZERO)),
        Case::new(&["Mutex::lock"], "the lock is free, locked again later", |t| {
            // More than a TTL later, and before a late request arrives, which must still be cleaned
            // up.
            lock_free(t, TTL + secs(4))
        }),
        Case::new(&["Mutex::lock"], "waiting, before another waiter", lock_waiting),
        Case::new(&["Mutex::lock"], "waiting for a holder of the same client", lock_of_same_client),
        Case::new(&["Mutex::lock"], "waiting, before a waiter of the same client", lock_before_own),
        Case::new(&["Mutex::try_lock"], "a child name is locked", try_lock),
        Case::new(&["MutexGuard::txn"], "then unlocked", guard_txn),
        Case::new(&["MutexGuard::lost"], "the key is deleted", guard_lost),
        Case::new(&["MutexGuard::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["MutexGuard::unlock"], "another client waits", unlock),
        Case::new(&["MutexGuard::unlock_after"], "after two seconds", unlock_after),
    ]
}

async fn lock(session: &Session) -> MutexGuard {
    Mutex::new(session, "m").lock().await.unwrap()
}

/// The cleanup of the dropped call does not delete the key of a later holder of the same session.
async fn lock_free(t: Trial, pause: Duration) {
    let session = t.session().await;
    drop(t.drop_at_await(Mutex::new(&session, "m").lock()).await);
    t.other_locks("m").await;
    sleep(pause).await;
    let guard = t.continues(Mutex::new(&session, "m").lock()).await.unwrap();
    t.messages_arrive().await;
    t.proceeds(guard.txn(Txn::new())).await.unwrap();
    guard.unlock().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// Another process waits for the lock from half a second on, and releases it once it is acquired.
fn other_waits(t: &Trial) -> ProcessTask<()> {
    let other = t.other.clone();
    t.other.spawn(async move {
        let session = session_of(&other).await;
        sleep(secs(1) / 2).await;
        lock(&session).await.unlock().await.unwrap();
        session.close().await.unwrap();
    })
}

async fn lock_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = lock(&holder).await;
    let session = t.session().await;
    let next = other_waits(&t);
    let unlocked = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(Mutex::new(&session, "m").lock()).await);
    unlocked.await;
    t.proceeds(next).await;
    holder.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// The holder hands the lock over within its client, without a read by the waiter.
async fn lock_of_same_client(t: Trial) {
    let session = t.session().await;
    let held = lock(&session).await;
    let next = other_waits(&t);
    let unlocked = t.process.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(Mutex::new(&session, "m").lock()).await);
    unlocked.await;
    t.proceeds(next).await;
    t.queue_is_free("m").await;
    close(&session).await;
}

/// The dropped waiter must not take the hand-off with it: its successor is in the same client.
async fn lock_before_own(t: Trial) {
    let session = t.session().await;
    let held = lock(&session).await;
    let waiting = session.clone();
    let next = t.process.spawn(async move {
        sleep(secs(1) / 2).await;
        lock(&waiting).await.unlock().await.unwrap();
    });
    let unlocked = t.process.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(Mutex::new(&session, "m").lock()).await);
    unlocked.await;
    t.continues(next).await;
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn try_lock(t: Trial) {
    let holder = session_of(&t.holder).await;
    let child = Mutex::new(&holder, "m/below").lock().await.unwrap();
    let session = t.session().await;
    drop(t.drop_at_await(Mutex::new(&session, "m").try_lock()).await);
    t.other_locks("m").await;
    child.unlock().await.unwrap();
    holder.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// A request that arrives after the unlock is rejected: the next holder's value stays.
async fn guard_txn(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    let put = |value| Txn::new().and_then([Put::new("data/n", value)]);
    t.drop_at_await(guard.txn(put("mine"))).await.transpose().unwrap();
    guard.unlock().await.unwrap();
    let other = session_of(&t.other).await;
    let next = t.proceeds(Mutex::new(&other, "m").lock()).await.unwrap();
    next.txn(put("next")).await.unwrap();
    t.messages_arrive().await;
    let written = other.client().get("data/n").await.unwrap().unwrap();
    assert_eq!(written.value, "next");
    assert!(written.version <= 2, "applied {} times", written.version - 1);
    next.unlock().await.unwrap();
    other.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn guard_lost(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    let deleted = delete_later(&t, guard.key());
    t.drop_at_await(guard.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(guard.lost()).await, LossReason::KeyDeleted, "when called again");
    t.queue_is_free("m").await;
    drop(guard);
    close(&session).await;
}

/// The work is dropped, and the lock is still held.
async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    t.drop_at_await(guard.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    let other = session_of(&t.other).await;
    assert!(t.proceeds(Mutex::new(&other, "m").try_lock()).await.unwrap().is_none(), "still held");
    t.proceeds(guard.txn(Txn::new())).await.unwrap();
    guard.unlock().await.unwrap();
    other.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn unlock(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    let next = other_waits(&t);
    sleep(secs(1)).await;
    t.drop_at_await(guard.unlock()).await.transpose().unwrap();
    t.proceeds(next).await;
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn unlock_after(t: Trial) {
    let session = t.session().await;
    let guard = lock(&session).await;
    t.drop_at_await(guard.unlock_after(secs(2))).await.transpose().unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}
