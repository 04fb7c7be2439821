//! The outcome of a take at most once whose request or response is lost.

use coord_core::error::{LossReason, Outcome, PrimitiveError};
use coord_core::recipes::{MessageQueue, MessageQueueError};
use coord_testkit::Action;
use tokio::time::sleep;

use super::{queue, store};
use crate::support::{intercepted, nth, secs, session, session_on};

#[tokio::test(start_paused = true)]
async fn take_at_most_once_without_a_response_is_unknown() {
    for action in [Action::DropRequest, Action::DropResponse] {
        let store = store();
        queue(&store).await.put("a").await.unwrap();
        // The first request is the read.
        let client = intercepted(&store, nth("txn", 2, 2, action));
        let taker = MessageQueue::new(&session_on(client).await, "q");
        let error = taker.take_at_most_once().await.unwrap_err();
        assert!(matches!(error, MessageQueueError::TakeUnknown(_)), "{error}");
        assert!(!error.is_retryable(), "another call may take another message");
        assert_eq!((error.outcome(), error.loss()), (Outcome::Unknown, None));
        assert_eq!(PrimitiveError::from(error).outcome(), Outcome::Unknown);
    }
}

#[tokio::test(start_paused = true)]
async fn loss_during_a_take_at_most_once_is_unknown() {
    let store = store();
    queue(&store).await.put("a").await.unwrap();
    let session = session_on(intercepted(&store, nth("txn", 2, 2, Action::Hang))).await;
    let taker = MessageQueue::new(&session, "q");
    let close = async {
        sleep(secs(1)).await;
        session.close().await.unwrap();
    };
    let (taken, ()) = tokio::join!(taker.take_at_most_once(), close);
    let error = taken.unwrap_err();
    assert_eq!((error.outcome(), error.loss()), (Outcome::Unknown, Some(LossReason::Closed)));
}

#[tokio::test(start_paused = true)]
async fn take_at_most_once_on_a_lost_session_is_not_sent() {
    let store = store();
    let session = session(&store).await;
    let taker = MessageQueue::new(&session, "q");
    taker.put_all(["a", "b"]).await.unwrap();
    taker.take_at_most_once().await.unwrap();
    session.close().await.unwrap();
    // The next message is known, and needs no read.
    let error = taker.take_at_most_once().await.unwrap_err();
    assert_eq!((error.outcome(), error.loss()), (Outcome::NotApplied, Some(LossReason::Closed)));
}
