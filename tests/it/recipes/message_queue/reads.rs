//! Reads that do not return all messages, and reads that takers of one handle share.

use coord_core::error::LossReason;
use coord_core::recipes::MessageQueue;
use coord_core::{Client, Mutex};
use coord_testkit::Action;
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{store, text};
use crate::support::{intercepted, nth, secs, session, session_on};

/// Puts messages with a number as payload into a section; claimed by another client if `claimed`.
async fn put_raw(store: &Client, section: usize, numbers: std::ops::Range<usize>, claimed: bool) {
    for number in numbers {
        let key = format!("q/messages/00100/{section:016x}/{number:04}");
        store.put(key, number.to_string()).await.unwrap();
        if claimed {
            store.put(format!("q/messages-claimed/{number:04}"), "other").await.unwrap();
        }
    }
}

/// A read returns 256 messages.
#[tokio::test(start_paused = true)]
async fn more_takers_than_a_read_returns_all_take() {
    let store = store();
    put_raw(&store, 0, 0..200, false).await;
    put_raw(&store, 1, 200..400, false).await;
    let taker = MessageQueue::new(&session(&store).await, "q");
    let taken = join_all((0..400).map(|_| taker.try_take_at_most_once())).await;
    let count = taken.into_iter().filter(|taken| taken.as_ref().unwrap().is_some()).count();
    assert_eq!(count, 400);
}

/// 201 messages of the first section, the last of which this handle is claiming, and 100 of the
/// next: a read of 256 messages cuts the next section off.
async fn with_a_claim_in_flight() -> (Client, MessageQueue) {
    let store = store();
    put_raw(&store, 0, 0..200, true).await;
    put_raw(&store, 0, 200..201, false).await;
    put_raw(&store, 1, 201..301, false).await;
    let client = intercepted(&store, nth("txn", 2, 2, Action::Delay(secs(5))));
    (store, MessageQueue::new(&session_on(client).await, "q"))
}

#[tokio::test(start_paused = true)]
async fn ready_messages_behind_a_claim_in_flight_are_found() {
    let (_store, taker) = with_a_claim_in_flight().await;
    let next = async {
        sleep(secs(2)).await;
        taker.try_take_at_most_once().await.unwrap()
    };
    let (first, next) = tokio::join!(taker.take_at_most_once(), next);
    assert_eq!(first.unwrap().payload, "200");
    assert_eq!(next.expect("100 messages are ready").payload, "201");
}

#[tokio::test(start_paused = true)]
async fn waiting_taker_finds_messages_behind_a_claim_in_flight() {
    let (_store, taker) = with_a_claim_in_flight().await;
    let next = async {
        sleep(secs(2)).await;
        timeout(secs(1), taker.take_at_most_once()).await
    };
    let (first, next) = tokio::join!(taker.take_at_most_once(), next);
    assert_eq!(first.unwrap().payload, "200");
    assert_eq!(next.expect("without a wait").unwrap().payload, "201");
}

/// The wait queue names its keys with the smallest suffix of the session that is free.
#[tokio::test(start_paused = true)]
async fn deliveries_use_up_no_key_suffix() {
    let store = store();
    let session = session(&store).await;
    let taker = MessageQueue::new(&session, "q");
    for _ in 0..3 {
        taker.put("a").await.unwrap();
        taker.take().await.unwrap().acknowledge().await.unwrap();
    }
    let guard = Mutex::new(&session, "lock").lock().await.unwrap();
    let suffix = text(guard.key());
    // The handle and its idempotency key have one each.
    assert!(suffix.ends_with("-2"), "{suffix}");
}

/// One task waits for a take or a tick, and does not poll the take while it handles the tick.
#[tokio::test(start_paused = true)]
async fn take_that_is_not_polled_does_not_block_others() {
    let store = store();
    let client = intercepted(&store, nth("txn", 1, 1, Action::Delay(secs(5))));
    let taker = MessageQueue::new(&session_on(client).await, "q");
    put_raw(&store, 0, 0..1, false).await;
    let mut take = Box::pin(taker.take());
    tokio::select! {
        biased;
        _ = &mut take => panic!("its read is delayed"),
        () = sleep(secs(1)) => {}
    }
    let taken = timeout(secs(3), taker.try_take()).await.expect("it reads by itself");
    assert_eq!(taken.unwrap().expect("one is ready").payload(), "0");
    drop(take);
}

#[tokio::test(start_paused = true)]
async fn loss_ends_the_wait_for_a_shared_read() {
    let store = store();
    let session = session_on(intercepted(&store, nth("txn", 1, 1, Action::Hang))).await;
    let taker = MessageQueue::new(&session, "q");
    let mut take = Box::pin(taker.take());
    tokio::select! {
        biased;
        _ = &mut take => panic!("its read hangs"),
        () = sleep(secs(1)) => {}
    }
    session.close().await.unwrap();
    let ended = timeout(secs(1), taker.try_take()).await.expect("it ends at once");
    assert_eq!(ended.unwrap_err().loss(), Some(LossReason::Closed));
    drop(take);
}
