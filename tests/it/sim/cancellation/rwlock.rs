//! Cancellation cases of read-write locks, and of what their holders do.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{ReadGuard, RwLock, WriteGuard};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_rwlock_calls_leave_the_lock_free() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["RwLock::read"], "the lock is free", read_free),
        Case::new(&["RwLock::read"], "waiting, before another waiter", read_waiting),
        Case::new(&["RwLock::write"], "the lock is free", write_free),
        Case::new(&["RwLock::write"], "waiting, before another waiter", write_waiting),
        Case::new(&["RwLock::try_read"], "a child name is locked", try_read),
        Case::new(&["RwLock::try_write"], "a child name is locked", try_write),
        Case::new(&["ReadGuard::upgrade"], "another reader unlocks later", upgrade),
        Case::new(&["ReadGuard::txn", "ReadGuard::unlock"], "in turn", read_guard),
        Case::new(&["ReadGuard::run_while_held"], "the work takes a second", read_while_held),
        Case::new(&["ReadGuard::lost"], "the key is deleted", read_lost),
        Case::new(&["WriteGuard::downgrade"], "another client waits", downgrade),
        Case::new(&["WriteGuard::txn"], "then unlocked", write_txn),
        Case::new(&["WriteGuard::unlock"], "another client waits", unlock),
        Case::new(&["WriteGuard::run_while_held"], "the work takes a second", write_while_held),
        Case::new(&["WriteGuard::lost"], "the key is deleted", write_lost),
    ]
}

fn rwlock(session: &Session) -> RwLock {
    RwLock::new(session, "m")
}

async fn read(session: &Session) -> ReadGuard {
    rwlock(session).read().await.unwrap()
}

async fn write(session: &Session) -> WriteGuard {
    rwlock(session).write().await.unwrap()
}

/// Checks that another client can lock for writing: at once, and again when all messages have
/// arrived. Then no key is left, although the session still lives.
async fn lock_is_free(t: &Trial) {
    let session = session_of(&t.other).await;
    for _ in 0..2 {
        let writer = t.proceeds(rwlock(&session).write()).await.unwrap();
        writer.unlock().await.unwrap();
        t.messages_arrive().await;
        assert_eq!(keys(t.other.client(), "m/").await, [""; 0], "keys are left");
    }
    session.close().await.unwrap();
}

/// Another process waits to write from half a second on, and unlocks.
fn other_waits(t: &Trial) -> ProcessTask<()> {
    let other = t.other.clone();
    t.other.spawn(async move {
        let session = session_of(&other).await;
        sleep(secs(1) / 2).await;
        write(&session).await.unlock().await.unwrap();
        session.close().await.unwrap();
    })
}

async fn read_free(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(rwlock(&session).read()).await);
    lock_is_free(&t).await;
    close(&session).await;
}

async fn write_free(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(rwlock(&session).write()).await);
    lock_is_free(&t).await;
    close(&session).await;
}

async fn read_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = write(&holder).await;
    let session = t.session().await;
    let next = other_waits(&t);
    let unlocked = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(rwlock(&session).read()).await);
    unlocked.await;
    t.proceeds(next).await;
    holder.close().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn write_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = read(&holder).await;
    let session = t.session().await;
    let next = other_waits(&t);
    let unlocked = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.unlock().await.unwrap();
    });
    drop(t.drop_at_await(rwlock(&session).write()).await);
    unlocked.await;
    t.proceeds(next).await;
    holder.close().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn try_read(t: Trial) {
    let holder = session_of(&t.holder).await;
    let below = RwLock::new(&holder, "m/write/x").write().await.unwrap();
    let session = t.session().await;
    drop(t.drop_at_await(rwlock(&session).try_read()).await);
    below.unlock().await.unwrap();
    holder.close().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn try_write(t: Trial) {
    let holder = session_of(&t.holder).await;
    let below = RwLock::new(&holder, "m/write/x").write().await.unwrap();
    let session = t.session().await;
    drop(t.drop_at_await(rwlock(&session).try_write()).await);
    below.unlock().await.unwrap();
    holder.close().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

/// A dropped upgrade unlocks.
async fn upgrade(t: Trial) {
    let holder = session_of(&t.holder).await;
    let beside = read(&holder).await;
    let session = t.session().await;
    let reader = read(&session).await;
    let unlocked = t.holder.spawn(async move {
        sleep(secs(1)).await;
        beside.unlock().await.unwrap();
    });
    drop(t.drop_at_await(reader.upgrade()).await);
    unlocked.await;
    holder.close().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn read_guard(t: Trial) {
    let session = t.session().await;
    let reader = read(&session).await;
    let both = async {
        reader.txn(Txn::new().and_then([Put::new("data/n", "mine")])).await?;
        reader.unlock().await?;
        Ok::<_, coord_core::error::PrimitiveError>(())
    };
    t.drop_at_await(both).await.transpose().unwrap();
    lock_is_free(&t).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
    close(&session).await;
}

async fn read_while_held(t: Trial) {
    let session = t.session().await;
    let reader = read(&session).await;
    t.drop_at_await(reader.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(reader.txn(Txn::new())).await.unwrap();
    reader.unlock().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn read_lost(t: Trial) {
    let session = t.session().await;
    let reader = read(&session).await;
    let deleted = delete_later(&t, reader.key());
    t.drop_at_await(reader.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(reader.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(reader);
    lock_is_free(&t).await;
    close(&session).await;
}

/// A dropped downgrade unlocks.
async fn downgrade(t: Trial) {
    let session = t.session().await;
    let writer = write(&session).await;
    let next = other_waits(&t);
    sleep(secs(1)).await;
    let downgraded = t.drop_at_await(writer.downgrade()).await.transpose().unwrap();
    if let Some(reader) = downgraded {
        t.proceeds(reader.txn(Txn::new())).await.unwrap();
    }
    t.proceeds(next).await;
    lock_is_free(&t).await;
    close(&session).await;
}

async fn write_txn(t: Trial) {
    let session = t.session().await;
    let writer = write(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(writer.txn(put)).await.transpose().unwrap();
    writer.unlock().await.unwrap();
    lock_is_free(&t).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
    close(&session).await;
}

async fn unlock(t: Trial) {
    let session = t.session().await;
    let writer = write(&session).await;
    let next = other_waits(&t);
    sleep(secs(1)).await;
    t.drop_at_await(writer.unlock()).await.transpose().unwrap();
    t.proceeds(next).await;
    lock_is_free(&t).await;
    close(&session).await;
}

async fn write_while_held(t: Trial) {
    let session = t.session().await;
    let writer = write(&session).await;
    t.drop_at_await(writer.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(writer.txn(Txn::new())).await.unwrap();
    writer.unlock().await.unwrap();
    lock_is_free(&t).await;
    close(&session).await;
}

async fn write_lost(t: Trial) {
    let session = t.session().await;
    let writer = write(&session).await;
    let deleted = delete_later(&t, writer.key());
    t.drop_at_await(writer.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(writer.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(writer);
    lock_is_free(&t).await;
    close(&session).await;
}
