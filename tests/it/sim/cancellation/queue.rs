//! Cancellation cases of wait queues, contenders, and what a contender does with its key.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::queue::{Contender, WaitQueue};
use coord_testkit::sim::ProcessTask;
use tokio::time::sleep;

use super::trial::{TTL, Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::secs;

#[test]
fn dropped_queue_calls_leave_the_queue_empty() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["WaitQueue::enqueue"], "the queue is empty", enqueue),
        Case::new(&["WaitQueue::try_enqueue"], "a child name has a contender", try_enqueue),
        Case::new(&["WaitQueue::enqueue_by_lease"], "the key does not exist", enqueue_by_lease),
        Case::new(&["WaitQueue::enqueue_by_lease"], "the key exists", enqueue_by_lease_again),
        Case::new(&["WaitQueue::resume"], "on an adopted lease", resume),
        Case::new(&["Contender::acquired"], "behind a holder", acquired),
        Case::new(&["Contender::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["Contender::release"], "then another client locks", release),
        Case::new(&["Ownership::txn"], "then released", ownership_txn),
        Case::new(&["Ownership::set_value"], "then released", set_value),
        Case::new(&["Ownership::lost"], "the key is deleted", lost),
    ]
}

async fn first(session: &Session) -> Contender {
    let mut contender = WaitQueue::new(session, "m").enqueue("mine").await.unwrap();
    contender.acquired().await.unwrap();
    contender
}

async fn enqueue(t: Trial) {
    let session = t.session().await;
    drop(t.drop_at_await(WaitQueue::new(&session, "m").enqueue("mine")).await);
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn try_enqueue(t: Trial) {
    let holder = session_of(&t.holder).await;
    let child = WaitQueue::new(&holder, "m/below").enqueue("").await.unwrap();
    let session = t.session().await;
    drop(t.drop_at_await(WaitQueue::new(&session, "m").try_enqueue("mine")).await);
    t.other_locks("m").await;
    child.release().await.unwrap();
    holder.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// A dropped call may leave the key, as documented, until another contender of the lease releases
/// it.
async fn enqueue_by_lease(t: Trial) {
    let session = t.session().await;
    let queue = WaitQueue::new(&session, "m");
    drop(t.drop_at_await(queue.enqueue_by_lease("mine")).await);
    t.messages_arrive().await;
    let (contender, _) = t.proceeds(queue.enqueue_by_lease("again")).await.unwrap();
    contender.release().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// A dropped call does not delete the key of the first contender.
async fn enqueue_by_lease_again(t: Trial) {
    let session = t.session().await;
    let queue = WaitQueue::new(&session, "m");
    let (contender, _) = queue.enqueue_by_lease("first").await.unwrap();
    let again = t.drop_at_await(queue.enqueue_by_lease("again")).await;
    if let Some(again) = again {
        let (again, found) = again.unwrap();
        assert_eq!(found.unwrap().value, "first");
        // The release of one contender of a lease releases the key of all of them.
        again.release().await.unwrap();
    } else {
        t.messages_arrive().await;
        t.proceeds(contender.txn(Txn::new())).await.unwrap();
        contender.release().await.unwrap();
    }
    t.queue_is_free("m").await;
    close(&session).await;
}

/// A dropped call changes nothing: the contender can still be resumed.
async fn resume(t: Trial) {
    let former = session_of(&t.holder).await;
    let left = first(&former).await;
    let lease = former.orphan().await.unwrap();
    let adopter = Session::builder(t.client()).ttl(TTL).lease(lease).open().await.unwrap();
    let queue = WaitQueue::new(&adopter, "m");
    let resumed = t.drop_at_await(queue.resume()).await;
    t.messages_arrive().await;
    let resumed = match resumed {
        Some(resumed) => resumed,
        None => t.proceeds(queue.resume()).await,
    };
    let contender = resumed.unwrap().unwrap();
    assert_eq!(contender.fencing_token(), left.fencing_token());
    contender.release().await.unwrap();
    t.queue_is_free("m").await;
    close(&adopter).await;
}

/// A dropped call keeps the position: the contender acquires when it waits again.
async fn acquired(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = first(&holder).await;
    let session = t.session().await;
    let mut contender = WaitQueue::new(&session, "m").enqueue("mine").await.unwrap();
    let released = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.release().await.unwrap();
    });
    t.drop_at_await(contender.acquired()).await.transpose().unwrap();
    released.await;
    t.proceeds(contender.acquired()).await.unwrap();
    contender.release().await.unwrap();
    holder.close().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let contender = first(&session).await;
    t.drop_at_await(contender.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(contender.txn(Txn::new())).await.unwrap();
    contender.release().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn release(t: Trial) {
    let session = t.session().await;
    let contender = first(&session).await;
    t.drop_at_await(contender.release()).await.transpose().unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

async fn ownership_txn(t: Trial) {
    let session = t.session().await;
    let contender = first(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(contender.txn(put)).await.transpose().unwrap();
    contender.release().await.unwrap();
    t.queue_is_free("m").await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
    close(&session).await;
}

/// A late request is rejected after the release, so that it does not create the key again.
async fn set_value(t: Trial) {
    let session = t.session().await;
    let contender = first(&session).await;
    t.drop_at_await(contender.set_value("changed")).await.transpose().unwrap();
    contender.release().await.unwrap();
    t.queue_is_free("m").await;
    close(&session).await;
}

/// Another process deletes a key after a second.
pub(super) fn delete_later(t: &Trial, key: &bytes::Bytes) -> ProcessTask<()> {
    let (other, key) = (t.other.client().clone(), key.clone());
    t.other.spawn(async move {
        sleep(secs(1)).await;
        other.delete(key).await.unwrap();
    })
}

async fn lost(t: Trial) {
    let session = t.session().await;
    let contender = first(&session).await;
    let deleted = delete_later(&t, contender.key());
    t.drop_at_await(contender.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(contender.lost()).await, LossReason::KeyDeleted, "when called again");
    t.queue_is_free("m").await;
    drop(contender);
    close(&session).await;
}
