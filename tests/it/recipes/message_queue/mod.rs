//! The message queue: order, deliveries, dead letters, delays, and typed errors.

mod cost;
mod delay;
mod ends;
mod known_faults;
mod put;
mod reads;
mod release_after;
mod unknown;

use std::num::NonZeroU32;
use std::time::Duration;

use coord_core::Client;
use coord_core::error::{LossReason, PrimitiveError};
use coord_core::kv::{Compare, Put, Txn};
use coord_core::recipes::{Delivery, Message, MessageQueue, MessageQueueError};
use coord_mem::MemBackend;
use coord_testkit::Action;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{intercepted, keys, newest_revision, only, secs, session, session_on, settle};
use crate::while_waiting::while_waiting;

fn store() -> Client {
    Client::new(MemBackend::new())
}

/// The queue `q` on a client and a session of its own.
async fn queue(store: &Client) -> MessageQueue {
    MessageQueue::new(&session(store).await, "q")
}

/// Takes a message that is ready.
async fn take_now(queue: &MessageQueue) -> Delivery {
    queue.try_take().await.unwrap().expect("a message is ready")
}

/// The payload as text.
fn text(payload: &[u8]) -> String {
    payload.escape_ascii().to_string()
}

/// Takes all ready messages at most once, one after the other.
async fn drain(queue: &MessageQueue) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some(message) = queue.try_take_at_most_once().await.unwrap() {
        taken.push(text(&message.payload));
    }
    taken
}

const fn attempts(max: u32) -> NonZeroU32 {
    NonZeroU32::new(max).expect("at least one")
}

#[tokio::test(start_paused = true)]
async fn messages_are_taken_in_the_order_of_their_puts() {
    let store = store();
    let producers = [queue(&store).await, queue(&store).await, queue(&store).await];
    // Several sections: about one put in 64 begins the next one.
    for n in 0..600 {
        producers[n % 3].put(n.to_string()).await.unwrap();
    }
    let section = store.get("q/section").await.unwrap().expect("a section has begun");
    assert!(section.version > 2, "{} sections", section.version);
    let expected: Vec<_> = (0..600).map(|n| n.to_string()).collect();
    assert_eq!(drain(&queue(&store).await).await, expected);
    assert_eq!(keys(&store, "q/messages").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn lower_priority_numbers_are_taken_first() {
    let store = store();
    let (producer, taker) = (queue(&store).await, queue(&store).await);
    let order = [(100, "a"), (7, "b"), (100, "c"), (0, "d"), (7, "e"), (65535, "f")];
    for (priority, payload) in order {
        producer.put(Message::new(payload).priority(priority)).await.unwrap();
    }
    let first = taker.take_at_most_once().await.unwrap();
    assert_eq!((&first.payload[..], first.priority), (&b"d"[..], 0));
    // The taker has read the others before this one is put.
    producer.put(Message::new("urgent").priority(1)).await.unwrap();
    assert_eq!(drain(&taker).await, ["urgent", "b", "e", "a", "c", "f"]);
}

#[tokio::test(start_paused = true)]
async fn batches_are_put_and_taken_in_one_transaction() {
    let store = store();
    let queue = queue(&store).await;
    let revision = queue.put_all(["a", "b", "c"]).await.unwrap();
    assert_eq!(newest_revision(&store).await, revision);
    assert_eq!(queue.counts().await.unwrap().ready, 3);
    let batch = queue.take_batch(2).await.unwrap();
    assert_eq!(batch.iter().map(|d| text(d.payload())).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(newest_revision(&store).await.0, revision.0 + 1);
    assert_eq!(batch[0].fencing_token(), batch[1].fencing_token(), "one transaction");
    let rest = queue.take_batch(usize::MAX).await.unwrap();
    assert_eq!(rest.len(), 1, "it does not wait for more");
    let counts = queue.counts().await.unwrap();
    assert_eq!((counts.ready, counts.claimed, counts.dead), (0, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn released_message_keeps_its_place_and_counts_attempts() {
    let store = store();
    let (one, other) = (queue(&store).await, queue(&store).await);
    one.put_all(["a", "b", "c"]).await.unwrap();
    let first = take_now(&one).await;
    let token = first.fencing_token();
    assert_eq!((&first.payload()[..], first.attempts()), (&b"a"[..], 1));
    first.release().await.unwrap();
    let again = take_now(&one).await;
    assert_eq!((&again.payload()[..], again.attempts()), (&b"a"[..], 2));
    assert!(again.fencing_token() > token);
    drop(again); // released in the background
    settle().await;
    let third = take_now(&other).await;
    assert_eq!((&third.payload()[..], third.attempts()), (&b"a"[..], 3));
    third.acknowledge().await.unwrap();
    assert_eq!(drain(&one).await, ["b", "c"]);
    assert_eq!(keys(&store, "q/messages").await, [""; 0]);
}

/// A taker crashes: its message is ready again when its lease has ended, at its old place.
#[tokio::test(start_paused = true)]
async fn message_of_a_crashed_taker_is_delivered_again() {
    let store = store();
    let crashing = session_on(intercepted(&store, only("lease_keep_alive", Action::Hang))).await;
    let (crashed, taker) = (MessageQueue::new(&crashing, "q"), queue(&store).await);
    taker.put_all(["a", "b"]).await.unwrap();
    let lost = take_now(&crashed).await;
    let b = take_now(&taker).await;
    assert_eq!(text(b.payload()), "b");
    let ((reason, lost_at), (again, taken_at)) =
        tokio::join!(async { (lost.lost().await, Instant::now()) }, async {
            (taker.take().await.unwrap(), Instant::now())
        });
    assert_eq!(reason, LossReason::DeadlineUnconfirmed);
    assert!(taken_at > lost_at, "the former taker is notified first");
    assert_eq!((text(again.payload()), again.attempts()), ("a".into(), 2));
    let error = lost.acknowledge().await.unwrap_err();
    assert_eq!(error.loss(), Some(reason));
    again.acknowledge().await.unwrap();
    b.acknowledge().await.unwrap();
    assert_eq!(keys(&store, "q/messages").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn message_is_a_dead_letter_after_the_last_attempt() {
    let store = store();
    let queue = queue(&store).await.max_attempts(attempts(2));
    queue.put_all([Message::new("poison").priority(3), Message::new("good")]).await.unwrap();
    for attempt in 1..=2 {
        let delivery = take_now(&queue).await;
        assert_eq!((text(delivery.payload()), delivery.attempts()), ("poison".into(), attempt));
        delivery.release().await.unwrap();
    }
    let dead = queue.dead_letters(10).await.unwrap();
    assert_eq!(dead.len(), 1, "the release of the last attempt has moved it");
    assert_eq!((text(&dead[0].payload), dead[0].attempts), ("poison".into(), 2));
    take_now(&queue).await.acknowledge().await.unwrap();
    assert!(queue.try_take().await.unwrap().is_none(), "the other message was not blocked");

    assert!(queue.put_back(&dead[0]).await.unwrap());
    assert!(!queue.put_back(&dead[0]).await.unwrap(), "once");
    assert!(!queue.discard(&dead[0]).await.unwrap());
    let delivery = take_now(&queue).await;
    assert_eq!((text(delivery.payload()), delivery.attempts()), ("poison".into(), 1));
    assert_eq!(delivery.priority(), 3);
    delivery.acknowledge().await.unwrap();
    assert_eq!(keys(&store, "q/dead/").await, [""; 0]);
}

/// A message that crashes its takers is not released by any of them.
#[tokio::test(start_paused = true)]
async fn message_that_crashes_its_takers_is_a_dead_letter() {
    let store = store();
    let taker = queue(&store).await.max_attempts(attempts(2));
    taker.put_all(["poison", "good"]).await.unwrap();
    for _ in 0..2 {
        let crashing = session(&store).await;
        let delivery = take_now(&MessageQueue::new(&crashing, "q")).await;
        assert_eq!(text(delivery.payload()), "poison");
        crashing.close().await.unwrap();
        assert_eq!(delivery.lost().await, LossReason::Closed);
    }
    assert_eq!(text(take_now(&taker).await.payload()), "good");
    let dead = taker.dead_letters(10).await.unwrap();
    assert_eq!((text(&dead[0].payload), dead[0].attempts), ("poison".into(), 2));
    assert!(taker.discard(&dead[0]).await.unwrap());
    assert_eq!(taker.counts().await.unwrap().dead, 0);
}

#[tokio::test(start_paused = true)]
async fn delayed_message_is_taken_after_its_delay() {
    let store = store();
    let (producer, taker) = (queue(&store).await, queue(&store).await);
    let start = Instant::now();
    let late = Message::new("late").delay(secs(60));
    producer.put_all([late, Message::new("now")]).await.unwrap();
    let now = take_now(&taker).await;
    assert_eq!(text(now.payload()), "now");
    now.acknowledge().await.unwrap();
    assert!(taker.try_take().await.unwrap().is_none());
    let delivery = taker.take().await.unwrap();
    assert_eq!((text(delivery.payload()), delivery.attempts()), ("late".into(), 1));
    let waited = start.elapsed();
    assert!(waited >= secs(60) && waited < secs(62), "{waited:?}");
    delivery.acknowledge().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn result_is_stored_with_the_acknowledgement_or_not_at_all() {
    let store = store();
    let queue = queue(&store).await;
    queue.put_all(["a", "b"]).await.unwrap();
    let delivery = take_now(&queue).await;
    delivery.txn(Txn::new().and_then([Put::new("progress", "half")])).await.unwrap();
    let is_held = Txn::new().when([delivery.held_condition()]);
    assert!(store.txn(is_held.clone()).await.unwrap().succeeded);
    delivery.acknowledge_with([Put::new("result", "1")]).await.unwrap();
    assert!(!store.txn(is_held).await.unwrap().succeeded);
    assert_eq!(store.get("result").await.unwrap().unwrap().value, "1");

    let delivery = take_now(&queue).await;
    store.delete("q/messages-claimed/").await.unwrap();
    store.delete_prefix("q/messages-claimed/").await.unwrap();
    let error = delivery.acknowledge_with([Put::new("result", "2")]).await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
    assert_eq!(store.get("result").await.unwrap().unwrap().value, "1", "nothing was applied");
}

#[tokio::test(start_paused = true)]
async fn waiting_taker_receives_the_next_message() {
    let store = store();
    let (producer, taker) = (queue(&store).await, queue(&store).await);
    let (delivery, revision) = while_waiting(taker.take(), producer.put("a")).await;
    let delivery = delivery.unwrap();
    assert_eq!(delivery.put_revision(), revision.unwrap());
    delivery.acknowledge().await.unwrap();
    settle().await;
    assert_eq!(keys(&store, "q/").await.len(), 0, "no taker waits");
    assert!(timeout(secs(600), taker.take()).await.is_err());
}

/// The claims of all takers of one handle are in flight at the same time.
#[tokio::test(start_paused = true)]
async fn takers_of_one_handle_claim_different_messages() {
    let store = store();
    let session = session_on(intercepted(&store, only("txn", Action::Delay(secs(1))))).await;
    let taker = MessageQueue::new(&session, "q");
    queue(&store).await.put_all((0..20).map(|n| n.to_string())).await.unwrap();
    let start = Instant::now();
    let taken = futures_util::future::join_all((0..16).map(|_| taker.take_at_most_once())).await;
    let mut taken: Vec<_> = taken
        .into_iter()
        .map(|message| text(&message.unwrap().payload).parse::<u8>().unwrap())
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..16).collect::<Vec<_>>());
    assert_eq!(start.elapsed(), secs(2), "one read for all, then the claims at the same time");
}

#[tokio::test(start_paused = true)]
async fn invalid_input_is_a_typed_error_before_anything_is_sent() {
    let store = store();
    let queue = queue(&store).await;
    let revision = newest_revision(&store).await;
    for delay in [Duration::ZERO, Duration::from_millis(1500), Duration::MAX] {
        let error = queue.put(Message::new("a").delay(delay)).await.unwrap_err();
        assert!(matches!(error, MessageQueueError::InvalidDelay { delay: d, .. } if d == delay));
    }
    let none: [&str; 0] = [];
    let errors = [
        queue.put_all(none).await.unwrap_err(),
        queue.put_all(vec!["a"; 127]).await.unwrap_err(),
        queue.put_all(vec![Message::new("a").delay(secs(1)); 64]).await.unwrap_err(),
        queue.take_batch(0).await.unwrap_err(),
    ];
    let texts = errors.map(|error| error.to_string());
    let text =
        |count, limit| format!("invalid batch of {count} messages: must have from 1 to {limit}");
    assert_eq!(texts, [text(0, 126), text(127, 126), text(64, 63), text(0, 42)]);
    assert_eq!(newest_revision(&store).await, revision);
    assert_eq!(store.leases().await.unwrap().leases.len(), 1, "only that of the session");
    queue.put_all(vec!["a"; 126]).await.unwrap();
    let mut taken = 0;
    while taken < 126 {
        let batch = queue.take_batch(usize::MAX).await.unwrap();
        assert!(batch.len() <= 42);
        taken += batch.len();
        for delivery in batch {
            delivery.acknowledge().await.unwrap();
        }
    }
    queue.put_all(vec![Message::new("a").delay(secs(1)); 63]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn lost_session_ends_every_call() {
    let store = store();
    let session = session(&store).await;
    let queue = MessageQueue::new(&session, "q");
    queue.put("a").await.unwrap();
    let delivery = take_now(&queue).await;
    let (taken, closed) = while_waiting(queue.take(), session.close()).await;
    closed.unwrap();
    assert_eq!(taken.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(queue.try_take().await.unwrap_err().loss(), Some(LossReason::Closed));
    assert_eq!(queue.put("b").await.unwrap_err().loss(), Some(LossReason::Closed));
    let failed = delivery.txn(Txn::new().when([Compare::absent("x")])).await;
    assert!(matches!(failed, Err(PrimitiveError::Lost(LossReason::Closed))));
    assert_eq!(keys(&store, "q/messages/").await.len(), 1, "the message stays");
    sleep(secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn handles_print_their_names() {
    let store = store();
    let queue = queue(&store).await;
    queue.put("a").await.unwrap();
    assert!(format!("{queue:?}").starts_with("MessageQueue(\"q\" on Session"), "{queue:?}");
    let delivery = take_now(&queue).await;
    assert!(format!("{delivery:?}").contains("attempts: 1, fencing_token"), "{delivery:?}");
}
