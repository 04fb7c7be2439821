//! Cancellation cases of message queues and deliveries.

use std::num::NonZeroU32;
use std::time::Duration;

use coord_core::Session;
use coord_core::error::LossReason;
use coord_core::kv::{Put, Txn};
use coord_core::recipes::{DeadLetter, Delivery, Message, MessageQueue};
use tokio::time::sleep;

use super::queue::delete_later;
use super::trial::{LATENESS, Trial, close, session_of};
use super::{Case, Schedule, drop_all};
use crate::support::{keys, secs};

#[test]
fn dropped_message_queue_calls_lose_no_message() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(&["MessageQueue::put"], "then taken", put),
        Case::new(&["MessageQueue::put_all"], "one message has a delay", put_all),
        Case::new(&["MessageQueue::take"], "a message is ready", |t| take(t, Take::Wait)),
        Case::new(&["MessageQueue::take"], "waiting", take_waiting),
        Case::new(&["MessageQueue::try_take"], "a message is ready", |t| take(t, Take::Try)),
        Case::new(&["MessageQueue::take_batch"], "two are ready", |t| take(t, Take::Batch)),
        Case::new(&["MessageQueue::take_at_most_once"], "a message is ready", |t| {
            take_at_most_once(t, false)
        }),
        Case::new(&["MessageQueue::try_take_at_most_once"], "a message is ready", |t| {
            take_at_most_once(t, true)
        }),
        Case::new(&["MessageQueue::dead_letters", "MessageQueue::counts"], "one is dead", reads),
        Case::new(&["MessageQueue::put_back"], "then again", put_back),
        Case::new(&["MessageQueue::discard"], "then again", discard),
        Case::new(&["Delivery::acknowledge"], "then taken", |t| acknowledge(t, false)),
        Case::new(&["Delivery::acknowledge_with"], "a result is put", |t| acknowledge(t, true)),
        Case::new(&["Delivery::release"], "then taken", release),
        Case::new(&["Delivery::release_after"], "then taken", release_after),
        Case::new(&["Delivery::txn"], "then acknowledged", delivery_txn),
        Case::new(&["Delivery::lost"], "the claim is deleted", delivery_lost),
        Case::new(&["Delivery::run_while_held"], "the work takes a second", run_while_held),
    ]
}

/// How a message is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    Wait,
    Try,
    Batch,
}

/// The queue. Its messages stay in the store, as data of the case.
fn queue(session: &Session) -> MessageQueue {
    MessageQueue::new(session, "data/q")
}

/// A delivery of a message that was put before.
async fn delivery(session: &Session) -> Delivery {
    let queue = queue(session);
    queue.put("a").await.unwrap();
    queue.take().await.unwrap()
}

/// Another process takes a message at once, and acknowledges it.
async fn other_takes(t: &Trial) -> String {
    let session = session_of(&t.other).await;
    let delivery = t.proceeds(queue(&session).take()).await.unwrap();
    let payload = String::from_utf8_lossy(delivery.payload()).into_owned();
    delivery.acknowledge().await.unwrap();
    session.close().await.unwrap();
    payload
}

/// When all messages of the network have arrived, another process takes what is left. No claim and
/// no waiting taker is left then, although the session still lives.
async fn others_take_all(t: &Trial, session: &Session) -> Vec<String> {
    t.messages_arrive().await;
    let other = session_of(&t.other).await;
    let queue = queue(&other);
    let mut taken = Vec::new();
    while let Some(message) = queue.try_take_at_most_once().await.unwrap() {
        taken.push(String::from_utf8_lossy(&message.payload).into_owned());
    }
    other.close().await.unwrap();
    for prefix in ["data/q/messages", "data/q/takers"] {
        assert_eq!(keys(t.other.client(), prefix).await, [""; 0], "keys are left");
    }
    close(session).await;
    taken
}

async fn put(t: Trial) {
    let session = t.session().await;
    let is_put = t.drop_at_await(queue(&session).put("a")).await.transpose().unwrap().is_some();
    let taken = others_take_all(&t, &session).await;
    assert!(taken == ["a"] || (taken.is_empty() && !is_put), "put once: {taken:?}");
}

async fn put_all(t: Trial) {
    let session = t.session().await;
    let batch = [Message::new("a"), Message::new("b").delay(secs(1))];
    let is_put = t.drop_at_await(queue(&session).put_all(batch)).await.transpose().unwrap();
    let taken = others_take_all(&t, &session).await;
    assert!(taken == ["a", "b"] || (taken.is_empty() && is_put.is_none()), "{taken:?}");
}

async fn take(t: Trial, how: Take) {
    let session = t.session().await;
    let queue = queue(&session);
    queue.put_all(["a", "b"]).await.unwrap();
    match how {
        Take::Wait => drop(t.drop_at_await(queue.take()).await.transpose().unwrap()),
        Take::Try => drop(t.drop_at_await(queue.try_take()).await.transpose().unwrap()),
        Take::Batch => drop(t.drop_at_await(queue.take_batch(2)).await.transpose().unwrap()),
    }
    let first = other_takes(&t).await;
    let mut taken = others_take_all(&t, &session).await;
    taken.push(first);
    taken.sort();
    assert_eq!(taken, ["a", "b"], "each message once");
}

async fn take_waiting(t: Trial) {
    let session = t.session().await;
    let holder = session_of(&t.holder).await;
    let put = t.holder.spawn(async move {
        sleep(secs(1)).await;
        queue(&holder).put("a").await.unwrap();
        holder.close().await.unwrap();
    });
    drop(t.drop_at_await(queue(&session).take()).await);
    put.await;
    assert_eq!(other_takes(&t).await, "a");
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

/// The message is lost, or still in the queue.
async fn take_at_most_once(t: Trial, try_it: bool) {
    let session = t.session().await;
    let queue = queue(&session);
    queue.put("a").await.unwrap();
    let is_taken = if try_it {
        t.drop_at_await(queue.try_take_at_most_once())
            .await
            .transpose()
            .unwrap()
            .flatten()
            .is_some()
    } else {
        t.drop_at_await(queue.take_at_most_once()).await.transpose().unwrap().is_some()
    };
    let taken = others_take_all(&t, &session).await;
    assert!(taken.is_empty() || (taken == ["a"] && !is_taken), "{taken:?}");
}

/// A message that is a dead letter after one attempt.
async fn dead_letter(session: &Session) -> (MessageQueue, DeadLetter) {
    let queue = queue(session).max_attempts(NonZeroU32::MIN);
    queue.put("a").await.unwrap();
    queue.take().await.unwrap().release().await.unwrap();
    let dead = queue.dead_letters(1).await.unwrap().remove(0);
    (queue, dead)
}

async fn reads(t: Trial) {
    let session = t.session().await;
    let (queue, dead) = dead_letter(&session).await;
    let both = async {
        let (letters, counts) = (queue.dead_letters(9).await?, queue.counts().await?);
        Ok::<_, coord_core::recipes::MessageQueueError>((letters, counts.dead))
    };
    if let Some(both) = t.drop_at_await(both).await {
        assert_eq!(both.unwrap(), (vec![dead.clone()], 1));
    }
    t.messages_arrive().await;
    assert!(queue.discard(&dead).await.unwrap());
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

async fn put_back(t: Trial) {
    let session = t.session().await;
    let (queue, dead) = dead_letter(&session).await;
    t.drop_at_await(queue.put_back(&dead)).await.transpose().unwrap();
    t.continues(queue.put_back(&dead)).await.unwrap();
    assert_eq!(others_take_all(&t, &session).await, ["a"], "once");
}

async fn discard(t: Trial) {
    let session = t.session().await;
    let (queue, dead) = dead_letter(&session).await;
    t.drop_at_await(queue.discard(&dead)).await.transpose().unwrap();
    t.continues(queue.discard(&dead)).await.unwrap();
    assert!(queue.dead_letters(9).await.unwrap().is_empty());
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

async fn acknowledge(t: Trial, with_result: bool) {
    let session = t.session().await;
    let delivery = delivery(&session).await;
    let acknowledged = if with_result {
        t.drop_at_await(delivery.acknowledge_with([Put::new("data/n", "1")])).await
    } else {
        t.drop_at_await(delivery.acknowledge()).await
    };
    let is_acknowledged = acknowledged.transpose().unwrap().is_some();
    let taken = others_take_all(&t, &session).await;
    assert!(taken.is_empty() || (taken == ["a"] && !is_acknowledged), "{taken:?}");
    if with_result {
        let is_stored = t.other.client().get("data/n").await.unwrap().is_some();
        assert_eq!(is_stored, taken.is_empty(), "the result is stored with the acknowledgement");
    }
}

async fn release(t: Trial) {
    let session = t.session().await;
    let delivery = delivery(&session).await;
    t.drop_at_await(delivery.release()).await.transpose().unwrap();
    assert_eq!(other_takes(&t).await, "a");
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

/// A dropped release makes the message ready at once, and leaves no lease for the delay, unless the
/// grant arrives after the request that revokes it.
async fn release_after(t: Trial) {
    const DELAY: Duration = secs(60);
    let session = t.session().await;
    let delivery = delivery(&session).await;
    if t.drop_at_await(delivery.release_after(DELAY)).await.transpose().unwrap().is_some() {
        sleep(DELAY / 2).await;
        let counts = queue(&session).counts().await.unwrap();
        assert_eq!((counts.ready, counts.claimed), (0, 1));
        sleep(DELAY / 2).await;
    }
    assert_eq!(other_takes(&t).await, "a");
    if matches!(t.schedule, Schedule::Late | Schedule::OneDelayed) {
        sleep(LATENESS + DELAY).await;
    }
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

async fn delivery_txn(t: Trial) {
    let session = t.session().await;
    let delivery = delivery(&session).await;
    let put = Txn::new().and_then([Put::new("data/n", "mine")]);
    t.drop_at_await(delivery.txn(put)).await.transpose().unwrap();
    t.continues(delivery.acknowledge()).await.unwrap();
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
    let written = t.other.client().get("data/n").await.unwrap();
    assert!(written.is_none_or(|kv| kv.version == 1), "applied at most once");
}

async fn delivery_lost(t: Trial) {
    let session = t.session().await;
    let delivery = delivery(&session).await;
    let deleted = delete_later(&t, delivery.held_condition().keys.start());
    t.drop_at_await(delivery.lost()).await;
    deleted.await;
    assert_eq!(t.proceeds(delivery.lost()).await, LossReason::KeyDeleted, "when called again");
    drop(delivery);
    assert_eq!(other_takes(&t).await, "a");
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}

async fn run_while_held(t: Trial) {
    let session = t.session().await;
    let delivery = delivery(&session).await;
    t.drop_at_await(delivery.run_while_held(sleep(secs(1)))).await.transpose().unwrap();
    t.continues(delivery.acknowledge()).await.unwrap();
    assert_eq!(others_take_all(&t, &session).await, [""; 0]);
}
