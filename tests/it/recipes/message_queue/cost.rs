//! The cost of a message queue, in requests and watch events.

use coord_core::Client;
use coord_core::kv::Limits;
use coord_core::recipes::{Message, MessageQueue};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, Recorder, Rule as _};
use tokio::time::sleep;

use super::{queue, store, take_now};
use crate::support::{intercepted, is_keep_alive, secs, session_on, settle};
use crate::while_waiting::while_waiting;

/// The queue `q` on a session whose requests are recorded.
pub(super) async fn recorded(store: &Client, recorder: &Recorder) -> MessageQueue {
    let recording = recorder.clone();
    let rule = move |call: &Call| {
        if !is_keep_alive(call) {
            recording.action(call);
        }
        Action::Pass
    };
    MessageQueue::new(&session_on(intercepted(store, rule)).await, "q")
}

#[tokio::test(start_paused = true)]
async fn put_take_and_acknowledge_cost_one_request_each() {
    let (store, recorder) = (store(), Recorder::new());
    let queue = recorded(&store, &recorder).await;
    recorder.take();
    queue.put("a").await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    queue.put_all(["b", "c", "d", "e"]).await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "a batch");
    queue.put(Message::new("late").delay(secs(5))).await.unwrap();
    assert_eq!(recorder.take().names(), "lease_grant txn", "a delay");

    let delivery = queue.take().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn", "the first take reads");
    delivery.acknowledge().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let delivery = queue.take().await.unwrap();
    assert_eq!(recorder.take().names(), "txn", "the next take does not");
    delivery.release().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    let batch = queue.take_batch(3).await.unwrap();
    assert_eq!((batch.len(), recorder.take().names().as_str()), (3, "txn txn"), "it reads again");
    queue.take_at_most_once().await.unwrap();
    assert_eq!(recorder.take().names(), "txn");
    assert!(queue.try_take().await.unwrap().is_none());
    assert_eq!(recorder.take().names(), "txn", "no message is ready");
    drop(batch);
    settle().await;
    assert_eq!(recorder.take().names(), "txn txn txn", "a dropped delivery costs one");
}

#[tokio::test(start_paused = true)]
async fn window_is_read_again_after_a_second() {
    let (store, recorder) = (store(), Recorder::new());
    let queue = recorded(&store, &recorder).await;
    queue.put_all(["a", "b", "c"]).await.unwrap();
    queue.take_at_most_once().await.unwrap();
    sleep(secs(1)).await;
    recorder.take();
    queue.take_at_most_once().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn");
}

/// The claim that fails reads the next messages in the same transaction.
#[tokio::test(start_paused = true)]
async fn take_after_a_conflict_costs_two_requests() {
    let (store, recorder) = (store(), Recorder::new());
    let (taker, other) = (recorded(&store, &recorder).await, queue(&store).await);
    other.put_all(["a", "b", "c", "d"]).await.unwrap();
    taker.take_at_most_once().await.unwrap();
    let held = take_now(&other).await;
    recorder.take();
    assert_eq!(taker.take_at_most_once().await.unwrap().payload, "c");
    assert_eq!(recorder.take().names(), "txn txn");
    drop(held);
}

/// A taker that waits is woken once. Takers behind it receive no event of a message.
#[tokio::test(start_paused = true)]
async fn put_wakes_one_of_many_waiting_takers() {
    let (store, recorder) = (store(), Recorder::new());
    let first = recorded(&store, &recorder).await;
    recorder.take();
    let behind = Recorder::new();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let queue = recorded(&store, &behind).await;
        waiting.push(queue);
    }
    let producer = queue(&store).await;
    let wait_behind = async {
        settle().await;
        let takers = waiting.iter().map(|queue| queue.take_at_most_once());
        futures_util::future::join_all(takers).await
    };
    let produce = async {
        settle().await;
        settle().await;
        settle().await;
        behind.take();
        recorder.take();
        producer.put("a").await.unwrap();
        settle().await;
        let names = recorder.take().names();
        assert_eq!(names, "txn txn", "the claim, and the end of the wait");
        let others = behind.take().names();
        assert_eq!(others, "range watch txn", "only the next one comes to the front");
        producer.put_all((0..20).map(|n| n.to_string())).await.unwrap();
    };
    let (one, all, ()) = tokio::join!(first.take_at_most_once(), wait_behind, produce);
    assert_eq!(one.unwrap().payload, "a");
    assert_eq!(all.into_iter().filter(Result::is_ok).count(), 20);
}

#[tokio::test(start_paused = true)]
async fn wait_costs_five_requests_with_the_take() {
    let (store, recorder) = (store(), Recorder::new());
    let (taker, producer) = (recorded(&store, &recorder).await, queue(&store).await);
    recorder.take();
    let (taken, put) = while_waiting(taker.take(), producer.put("a")).await;
    put.unwrap();
    settle().await;
    let names = recorder.take().names();
    assert_eq!(names, "txn txn watch txn txn txn", "read, enqueue, watch, read, claim, release");
    drop(taken.unwrap());
}

/// A put into a queue that was empty a short time ago reads the next messages: its own message, and
/// the messages that other clients have put before it.
#[tokio::test(start_paused = true)]
async fn put_into_an_empty_queue_saves_the_read_of_the_next_take() {
    let (store, recorder) = (store(), Recorder::new());
    let (worker, other) = (recorded(&store, &recorder).await, queue(&store).await);
    assert!(worker.try_take_at_most_once().await.unwrap().is_none());
    recorder.take();
    for message in ["a", "b"] {
        worker.put(message).await.unwrap();
        assert_eq!(worker.take_at_most_once().await.unwrap().payload, message);
        assert_eq!(recorder.take().names(), "txn txn", "put, take");
    }

    other.put("c").await.unwrap();
    other.put(Message::new("first").priority(1)).await.unwrap();
    worker.put("d").await.unwrap();
    for message in ["first", "c", "d"] {
        assert_eq!(worker.take_at_most_once().await.unwrap().payload, message);
    }
    assert_eq!(recorder.take().names(), "txn txn txn txn", "one put, three takes");

    sleep(secs(1)).await;
    worker.put("e").await.unwrap();
    worker.take_at_most_once().await.unwrap();
    assert_eq!(recorder.take().names(), "txn txn txn", "put, read, take");
}

/// Regression: with many delayed messages, each put read them for nothing.
#[tokio::test(start_paused = true)]
async fn put_reads_no_messages_behind_many_delayed_ones() {
    let (store, recorder) = (store(), Recorder::new());
    let worker = recorded(&store, &recorder).await;
    let late = || (0..40).map(|_| Message::new("late").delay(secs(600)));
    worker.put_all(late()).await.unwrap();
    assert!(worker.try_take().await.unwrap().is_none());
    recorder.take();
    worker.put("a").await.unwrap();
    let calls = recorder.take();
    assert!(matches!(&calls.0[..], [Call::Txn(put)] if put.success.len() <= 3), "{calls:?}");
    assert_eq!(worker.take_at_most_once().await.unwrap().payload, "a");
}

/// Regression: a put that reads was refused by a backend that permits few operations.
#[tokio::test(start_paused = true)]
async fn put_reads_no_messages_if_the_backend_permits_few_operations() {
    let limits = Limits { max_txn_ops: 3, ..Limits::default() };
    let store = Client::new(MemBackend::builder().limits(limits).build());
    let worker = queue(&store).await;
    for _ in 0..200 {
        assert!(worker.try_take_at_most_once().await.unwrap().is_none());
        worker.put("a").await.unwrap();
        worker.take_at_most_once().await.unwrap();
    }
}
