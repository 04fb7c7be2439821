//! Putting a message exactly once, whatever happens to requests and responses.

use coord_core::error::{LossReason, Outcome};
use coord_core::recipes::{Message, MessageQueue, MessageQueueError};
use coord_testkit::{Action, Call};
use tokio::time::sleep;

use super::{attempts, drain, queue, store, take_now};
use crate::support::{intercepted, nth, secs, session, session_on};

/// The request or its response is lost or late, and a taker waits meanwhile.
#[tokio::test(start_paused = true)]
async fn message_is_put_once_also_after_it_was_taken() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Delay(secs(30)), Action::Hang]
    {
        let store = store();
        let client = intercepted(&store, nth("txn", 1, 1, action.clone()));
        let producer = MessageQueue::new(&session_on(client).await, "q");
        let taker = queue(&store).await;
        let (put, first) = tokio::join!(producer.put("a"), taker.take_at_most_once());
        put.unwrap();
        assert_eq!(first.unwrap().payload, "a");
        sleep(secs(60)).await;
        assert_eq!(drain(&taker).await, [""; 0], "{action:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn section_that_has_ended_is_found_out() {
    let store = store();
    let (one, other) = (queue(&store).await, queue(&store).await);
    one.put("a").await.unwrap();
    for n in 0..300 {
        other.put(n.to_string()).await.unwrap();
    }
    one.put("b").await.unwrap();
    let taken = drain(&other).await;
    assert_eq!(
        (taken.first().map(String::as_str), taken.last().map(String::as_str)),
        (Some("a"), Some("b"))
    );
}

/// No response is received, and then the session is lost.
#[tokio::test(start_paused = true)]
async fn put_reports_an_unknown_outcome() {
    let store = store();
    let is_cut = |call: &Call| match call {
        Call::Txn(_) => Action::Hang,
        _ => Action::Pass,
    };
    let session = session_on(intercepted(&store, is_cut)).await;
    let queue = MessageQueue::new(&session, "q");
    let close = async {
        sleep(secs(3)).await;
        session.close().await.unwrap();
    };
    let (put, ()) = tokio::join!(queue.put("a"), close);
    let error = put.unwrap_err();
    assert!(matches!(error, MessageQueueError::OutcomeUnknown(_)), "{error}");
    assert_eq!((error.outcome(), error.loss()), (Outcome::Unknown, Some(LossReason::Closed)));
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn put_on_a_lost_session_is_not_sent() {
    let store = store();
    let session = session(&store).await;
    let queue = MessageQueue::new(&session, "q");
    session.close().await.unwrap();
    let error = queue.put("a").await.unwrap_err();
    assert_eq!((error.outcome(), error.loss()), (Outcome::NotApplied, Some(LossReason::Closed)));
}

/// The largest payload can be moved to the dead letters, and back, also by a put that reads the
/// next messages. The name of the queue is in many keys of that request.
#[tokio::test(start_paused = true)]
async fn largest_payload_does_not_block_the_head() {
    for name in ["q".to_owned(), "n".repeat(4000)] {
        let store = store();
        let queue = |session| MessageQueue::new(session, name.clone()).max_attempts(attempts(1));
        let (own, crashing) = (session(&store).await, session(&store).await);
        let (queue, other) = (queue(&own), queue(&crashing));
        let payload = |size: usize| vec![b'x'; size];
        let error = queue.put(payload(3 << 19)).await.unwrap_err();
        let MessageQueueError::PayloadTooLarge { size_bytes, limit_bytes } = error else {
            panic!("{error}")
        };
        assert_eq!((size_bytes, error.outcome()), (3 << 19, Outcome::NotApplied));
        assert!(store.get_prefix(name.clone()).await.unwrap().is_empty(), "nothing was sent");
        assert!(queue.put(payload(limit_bytes + 1)).await.is_err());

        for is_released in [true, false] {
            assert!(queue.try_take().await.unwrap().is_none());
            queue.put(payload(limit_bytes)).await.unwrap();
            let delivery = take_now(&other).await;
            if is_released {
                delivery.release().await.unwrap();
            } else {
                crashing.close().await.unwrap();
            }
            assert!(queue.try_take().await.unwrap().is_none());
            let dead = queue.dead_letters(1).await.unwrap().remove(0);
            assert!(queue.put_back(&dead).await.unwrap());
            assert_eq!(queue.take_at_most_once().await.unwrap().payload.len(), limit_bytes);
        }
    }
}

/// The lease of the delay ends before the message is put: the delay starts again.
#[tokio::test(start_paused = true)]
async fn delay_is_kept_if_its_lease_has_ended_before_the_put() {
    let store = store();
    let client = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(8))));
    let producer = MessageQueue::new(&session_on(client).await, "q");
    producer.put(Message::new("a").delay(secs(2))).await.unwrap();
    let taker = queue(&store).await;
    assert!(taker.try_take().await.unwrap().is_none());
    sleep(secs(3)).await;
    assert_eq!(drain(&taker).await, ["a"]);
}
