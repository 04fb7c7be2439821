//! The end of a delivery after a request whose outcome is unknown.

use coord_core::Client;
use coord_core::error::{LossReason, Outcome};
use coord_core::kv::Put;
use coord_core::recipes::{Delivery, MessageQueue};
use coord_testkit::Action;

use super::{queue, store, take_now};
use crate::support::{intercepted, nth, session_on};

/// A delivery whose first request to end it has an unknown outcome.
async fn delivery(store: &Client, action: Action) -> Delivery {
    // The put, the read and the claim are before it.
    let client = intercepted(store, nth("txn", 4, 4, action));
    let taker = MessageQueue::new(&session_on(client).await, "q");
    taker.put("a").await.unwrap();
    take_now(&taker).await
}

async fn delete_claim(store: &Client) {
    store.delete_prefix("q/messages-claimed/").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_after_an_applied_release_is_lost() {
    let store = store();
    let delivery = delivery(&store, Action::DropResponse).await;
    let failed = delivery.release().await.unwrap_err();
    assert_eq!(failed.cause.outcome(), Outcome::Unknown);
    let failed = failed.held.acknowledge_with([Put::new("result", "1")]).await.unwrap_err();
    assert_eq!(failed.loss(), Some(LossReason::KeyDeleted));
    assert!(store.get("result").await.unwrap().is_none());
    assert_eq!(take_now(&queue(&store).await).await.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn acknowledgement_with_other_operations_is_not_confirmed() {
    let store = store();
    let failed = delivery(&store, Action::DropResponse).await.acknowledge().await.unwrap_err();
    let failed = failed.held.acknowledge_with([Put::new("result", "1")]).await.unwrap_err();
    assert_eq!(failed.loss(), Some(LossReason::KeyDeleted), "the result is not stored");
    assert!(store.get("result").await.unwrap().is_none());
}

/// Regression: the error of every guard named a release.
#[tokio::test(start_paused = true)]
async fn failed_acknowledgement_is_not_reported_as_a_release() {
    let store = store();
    let failed = delivery(&store, Action::DropResponse).await.acknowledge().await.unwrap_err();
    assert_eq!(failed.to_string(), format!("the request was not confirmed: {}", failed.cause));
}

/// The request did not arrive, and an operator has deleted the claim.
#[tokio::test(start_paused = true)]
async fn acknowledgement_is_not_confirmed_by_a_missing_claim() {
    let store = store();
    let failed = delivery(&store, Action::DropRequest).await.acknowledge().await.unwrap_err();
    delete_claim(&store).await;
    let failed = failed.held.acknowledge().await.unwrap_err();
    assert_eq!(failed.loss(), Some(LossReason::KeyDeleted), "the message is ready");
    assert_eq!(take_now(&queue(&store).await).await.attempts(), 2);
}

#[tokio::test(start_paused = true)]
async fn same_end_is_confirmed_after_a_lost_response() {
    for action in [Action::DropResponse, Action::DropRequest] {
        let store = store();
        let delivery = delivery(&store, action.clone()).await;
        let result = || [Put::new("result", "1")];
        let failed = delivery.acknowledge_with(result()).await.unwrap_err();
        failed.held.acknowledge_with(result()).await.unwrap();
        assert!(store.get("result").await.unwrap().is_some());
        assert!(queue(&store).await.try_take().await.unwrap().is_none());
    }
    let store = store();
    let failed = delivery(&store, Action::DropResponse).await.release().await.unwrap_err();
    failed.held.release().await.unwrap();
    assert_eq!(take_now(&queue(&store).await).await.attempts(), 2);
}
