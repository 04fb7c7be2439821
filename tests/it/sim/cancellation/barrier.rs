//! Cancellation cases of barriers and latches.

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{Barrier, BarrierGuard, Latch};
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{Trial, close, session_of};
use super::{Case, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_barrier_and_latch_calls_leave_no_key() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["Barrier::hold"], "it is free", hold),
        Case::new(&["Barrier::wait"], "it is held", wait),
        Case::new(&["BarrierGuard::txn"], "then released", guard_txn),
        Case::new(&["BarrierGuard::lost"], "the key is deleted", guard_lost),
        Case::new(&["BarrierGuard::run_while_held"], "the work takes a second", run_while_held),
        Case::new(&["BarrierGuard::release"], "then another process holds it", release),
        Case::new(&["Latch::count_down"], "then again", count_down),
        Case::new(&["Latch::wait"], "another participant is missing", latch_wait),
    ]
}

async fn hold_now(session: &Session) -> BarrierGuard {
    Barrier::new(session.client(), "b").hold(session).await.unwrap().expect("it is free")
}

/// Holds the barrier as soon as it is free.
async fn hold_soon(session: &Session) -> BarrierGuard {
    loop {
        match Barrier::new(session.client(), "b").hold(session).await.unwrap() {
            Some(held) => return held,
            None => sleep(secs(1) / 20).await,
        }
    }
}

/// The barrier is free for another process, and stays so.
async fn barrier_is_free(t: &Trial, session: &Session) {
    let other = session_of(&t.other).await;
    let held = t.proceeds(hold_soon(&other)).await;
    held.release().await.unwrap();
    other.close().await.unwrap();
    t.messages_arrive().await;
    assert_eq!(keys(t.other.client(), "b").await, [""; 0]);
    close(session).await;
}

/// The cleanup of the dropped call does not delete the key of a later holder of the same session.
async fn hold(t: Trial) {
    let session = t.session().await;
    let barrier = Barrier::new(t.client(), "b");
    drop(t.drop_at_await(barrier.hold(&session)).await);
    let held = t.continues(hold_soon(&session)).await;
    t.messages_arrive().await;
    t.proceeds(held.txn(Txn::new())).await.unwrap();
    held.release().await.unwrap();
    barrier_is_free(&t, &session).await;
}

async fn wait(t: Trial) {
    let holder = session_of(&t.holder).await;
    let held = hold_now(&holder).await;
    let session = t.session().await;
    let released = t.holder.spawn(async move {
        sleep(secs(1)).await;
        held.release().await.unwrap();
    });
    let barrier = Barrier::new(t.client(), "b");
    t.drop_at_await(barrier.wait()).await.transpose().unwrap();
    released.await;
    t.proceeds(barrier.wait()).await.unwrap();
    holder.close().await.unwrap();
    barrier_is_free(&t, &session).await;
}

async fn guard_txn(t: Trial) {
    let session = t.session().await;
    let held = hold_now(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(held.txn(put)).await.transpose().unwrap();
    held.release().await.unwrap();
    barrier_is_free(&t, &session).await;
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
}

async fn guard_lost(t: Trial) {
    let session = t.session().await;
    let held = hold_now(&session).await;
    let deleted = delete_later(&t, held.key());
    t.drop_at_await(held.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(held.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(held);
    barrier_is_free(&t, &session).await;
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let held = hold_now(&session).await;
    t.drop_at_await(held.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.proceeds(held.txn(Txn::new())).await.unwrap();
    held.release().await.unwrap();
    barrier_is_free(&t, &session).await;
}

async fn release(t: Trial) {
    let session = t.session().await;
    let held = hold_now(&session).await;
    t.drop_at_await(held.release()).await.transpose().unwrap();
    barrier_is_free(&t, &session).await;
}

fn latch(client: &coord_core::Client) -> Latch {
    Latch::new(client, "data/l", 2).unwrap()
}

/// The participant counts once, whether its first call was applied or not.
async fn count_down(t: Trial) {
    let session = t.session().await;
    t.drop_at_await(latch(t.client()).count_down("mine")).await.transpose().unwrap();
    let again = t.continues(latch(t.client()).count_down("mine")).await;
    assert_eq!(again.unwrap(), 1);
    t.messages_arrive().await;
    assert_eq!(latch(t.other.client()).count_down("other").await.unwrap(), 0);
    let counted = t.other.client().get("data/l/mine").await.unwrap().unwrap();
    assert_eq!(counted.version, 1);
    close(&session).await;
}

async fn latch_wait(t: Trial) {
    let session = t.session().await;
    let other = t.other.clone();
    let counted = t.other.spawn(async move {
        latch(other.client()).count_down("one").await.unwrap();
        sleep(secs(1)).await;
        latch(other.client()).count_down("two").await.unwrap();
    });
    t.drop_at_await(latch(t.client()).wait()).await.transpose().unwrap();
    counted.await;
    t.proceeds(latch(t.client()).wait()).await.unwrap();
    close(&session).await;
}
