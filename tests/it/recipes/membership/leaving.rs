//! Leaving: by the guard, by a drop, by the end of the session, and by another client.

use coord_core::error::{LossReason, PrimitiveError};
use coord_core::kv::{Put, Txn};
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::Action;

use super::group;
use crate::support::{intercepted, keys, nth, secs, session, session_on, settle, timed};

#[tokio::test(start_paused = true)]
async fn dropped_guard_leaves_in_the_background() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let member = group(&store).join(&session, &1).await.unwrap();
    assert_eq!(keys(&store, "g").await.len(), 1);
    drop(member);
    settle().await;
    assert_eq!(keys(&store, "g").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn member_of_a_lost_session_is_notified_first() {
    let store = Client::new(MemBackend::new());
    let cut = intercepted(&store, |call: &coord_testkit::Call| match call.name() {
        "lease_keep_alive" => Action::Hang,
        _ => Action::Pass,
    });
    let session = session_on(&cut).await;
    let member = group(&cut).join(&session, &1).await.unwrap();
    let endless = member.run_while_held(std::future::pending::<()>());
    let (lost, after) = timed(endless).await;
    assert!(matches!(lost, Err(LossReason::Expired | LossReason::DeadlineUnconfirmed)), "{lost:?}");
    assert!(after < secs(10), "before the lease ends: {after:?}");
    assert_eq!(keys(&store, "g").await.len(), 1);
    assert!(matches!(member.update(&2).await, Err(PrimitiveError::Lost(_))));
    assert!(matches!(group(&cut).join(&session, &3).await, Err(PrimitiveError::Lost(_))));
    tokio::time::sleep(secs(3)).await;
    assert_eq!(keys(&store, "g").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn member_that_is_removed_by_another_client_is_notified() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let member = group(&store).join(&session, &1).await.unwrap();
    let remove = async {
        settle().await;
        store.delete(member.key()).await.unwrap();
    };
    let (reason, ()) = tokio::join!(member.lost(), remove);
    assert_eq!(reason, LossReason::KeyDeleted);
    let update = member.update(&2).await.unwrap_err();
    assert!(matches!(update, PrimitiveError::Lost(LossReason::KeyDeleted)), "{update}");
    let txn = member.txn(Txn::new().and_then([Put::new("x", "")])).await.unwrap_err();
    assert!(matches!(txn, PrimitiveError::Lost(LossReason::KeyDeleted)), "{txn}");
    assert_eq!(store.get("x").await.unwrap(), None);
    let left = member.leave().await.unwrap_err();
    assert!(matches!(left.cause, PrimitiveError::Lost(LossReason::KeyDeleted)), "{left}");
    assert_eq!(keys(&store, "g").await, [""; 0], "an update does not create the key again");
}

#[tokio::test(start_paused = true)]
async fn guarded_transaction_applies_while_the_member_is_in_the_group() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let member = group(&store).join(&session, &1).await.unwrap();
    assert!(member.txn(Txn::new().and_then([Put::new("x", "1")])).await.unwrap().succeeded);
    let guarded = Txn::new().when([member.held_condition()]).and_then([Put::new("x", "2")]);
    assert!(store.txn(guarded.clone()).await.unwrap().succeeded);
    member.leave().await.unwrap();
    assert!(!store.txn(guarded).await.unwrap().succeeded);
}

/// A leave whose response is lost returns the guard, and the next one is confirmed.
#[tokio::test(start_paused = true)]
async fn leave_with_a_lost_response_can_be_repeated() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = Client::new(MemBackend::new());
        let faulty = intercepted(&store, nth("txn", 2, 2, action));
        let session = session_on(&faulty).await;
        let member = group(&faulty).join(&session, &1).await.unwrap();
        let error = member.leave().await.unwrap_err();
        assert!(matches!(error.cause, PrimitiveError::Backend(Error::Unavailable { .. })));
        error.held.leave().await.unwrap();
        assert_eq!(keys(&store, "g").await, [""; 0]);
    }
}
