//! Cancellation cases of semaphores, and of what the holders of permits do.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{Semaphore, SemaphorePermits};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_semaphore_calls_leave_all_permits_free() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Semaphore::acquire"], "no limit is stored", acquire_first),
        Case::new(&["Semaphore::acquire"], "waiting, before another waiter", acquire_waiting),
        Case::new(&["Semaphore::try_acquire"], "one permit is taken", try_acquire),
        Case::new(&["Semaphore::available", "Semaphore::limit"], "one permit is taken", reads),
        Case::new(&["Semaphore::set_limit"], "a contender waits", set_limit),
        Case::new(&["SemaphorePermits::txn"], "then released", permits_txn),
        Case::new(&["SemaphorePermits::lost"], "the key is deleted", permits_lost),
        Case::new(&["SemaphorePermits::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["SemaphorePermits::release"], "another client waits", release),
    ]
}

/// A semaphore with two permits. Its limit stays in the store, as data of the case.
fn semaphore(session: &Session) -> Semaphore {
    Semaphore::new(session, "data/s", 2)
}

async fn acquire(session: &Session, permits: u32) -> SemaphorePermits {
    semaphore(session).acquire(permits).await.unwrap()
}

/// Checks that another client can acquire all permits: at once, and again when all messages have
/// arrived. Then no key of a holder is left, although the session still lives.
async fn permits_are_free(t: &Trial) {
    let session = session_of(&t.other).await;
    for _ in 0..2 {
        let all = t.proceeds(semaphore(&session).acquire(2)).await.unwrap();
        all.release().await.unwrap();
        t.messages_arrive().await;
        assert_eq!(keys(t.other.client(), "data/s/permits/").await, [""; 0], "keys are left");
    }
    session.close().await.unwrap();
}

/// Another process waits for all permits from half a second on, and releases them.
fn other_waits(t: &Trial) -> ProcessTask<()> {
    let other = t.other.clone();
    t.other.spawn(async move {
        let session = session_of(&other).await;
        sleep(secs(1) / 2).await;
        acquire(&session, 2).await.release().await.unwrap();
        session.close().await.unwrap();
    })
}

async fn acquire_first(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(semaphore(&session).acquire(1)).await);
    permits_are_free(&t).await;
    close(&session).await;
}

async fn acquire_waiting(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = acquire(&holder, 2).await;
    let session = t.session().await;
    let next = other_waits(&t);
    let released = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.release().await.unwrap();
    });
    drop(t.drop_at_await(semaphore(&session).acquire(1)).await);
    released.await;
    t.proceeds(next).await;
    holder.close().await.unwrap();
    permits_are_free(&t).await;
    close(&session).await;
}

async fn try_acquire(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = acquire(&holder, 1).await;
    let session = t.session().await;
    drop(t.drop_at_await(semaphore(&session).try_acquire(1)).await);
    held.release().await.unwrap();
    holder.close().await.unwrap();
    permits_are_free(&t).await;
    close(&session).await;
}

/// A dropped read changes nothing.
async fn reads(t: Trial) {
    let session = t.session().await;
    let held = acquire(&session, 1).await;
    let semaphore = semaphore(&session);
    let both = async {
        let (limit, available) = (semaphore.limit().await?, semaphore.available().await?);
        Ok::<_, coord_core::recipes::SemaphoreError>((limit, available))
    };
    if let Some(both) = t.drop_at_await(both).await {
        assert_eq!(both.unwrap(), (2, 1));
    }
    held.release().await.unwrap();
    permits_are_free(&t).await;
    close(&session).await;
}

/// The limit is the old or the new one, and a second call sets it.
async fn set_limit(t: Trial) {
    let session = t.session().await;
    let _held = acquire(&session, 2).await;
    let other = t.other.clone();
    let waiting = t.other.spawn(async move {
        let session = session_of(&other).await;
        acquire(&session, 1).await.release().await.unwrap();
        session.close().await.unwrap();
    });
    // Longer than a message can be delayed: then the other process is enqueued.
    sleep(secs(3)).await;
    let semaphore = semaphore(&session);
    t.drop_at_await(semaphore.set_limit(3)).await.transpose().unwrap();
    t.messages_arrive().await;
    semaphore.set_limit(3).await.unwrap();
    t.proceeds(waiting).await;
    assert_eq!(semaphore.limit().await.unwrap(), 3);
    close(&session).await;
}

async fn permits_txn(t: Trial) {
    let session = t.session().await;
    let permits = acquire(&session, 1).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(permits.txn(put)).await.transpose().unwrap();
    permits.release().await.unwrap();
    permits_are_free(&t).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
    close(&session).await;
}

async fn permits_lost(t: Trial) {
    let session = t.session().await;
    let permits = acquire(&session, 1).await;
    let deleted = delete_later(&t, permits.key());
    t.drop_at_await(permits.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(permits.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(permits);
    permits_are_free(&t).await;
    close(&session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let permits = acquire(&session, 1).await;
    t.drop_at_await(permits.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(permits.txn(Txn::new())).await.unwrap();
    permits.release().await.unwrap();
    permits_are_free(&t).await;
    close(&session).await;
}

async fn release(t: Trial) {
    let session = t.session().await;
    let permits = acquire(&session, 2).await;
    let next = other_waits(&t);
    sleep(secs(1)).await;
    t.drop_at_await(permits.release()).await.transpose().unwrap();
    t.proceeds(next).await;
    permits_are_free(&t).await;
    close(&session).await;
}
