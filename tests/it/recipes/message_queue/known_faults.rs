//! Faults of the queues of Go's recipes that this one does not have.
//!
//! - A queue `q` also takes the messages of `q2` and `q/x`.
//! - The end of a watch panics, or is taken for a message.
//! - A waiting taker claims the message of the first event, which need not be the oldest, and every
//!   waiting taker claims it.
//! - A take reads all messages.
//! - The message is deleted before it is processed, and there is no other way.
//! - A put whose response was lost is an error, and putting again duplicates the message.
//!
//! The tests of Go's recipes, `TestQueue…` and `TestPrQueue…`, have their counterparts here.

use coord_core::Client;
use coord_core::kv::Compact;
use coord_core::recipes::{Message, MessageQueue};
use coord_testkit::{Action, Call, Rule as _};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::{drain, queue, store, take_now, text};
use crate::support::{
    SilentWatches, intercepted, keys, newest_revision, secs, session, session_on,
};
use crate::while_waiting::while_waiting;

#[tokio::test(start_paused = true)]
async fn queue_takes_no_message_of_longer_names() {
    let store = store();
    let session = session(&store).await;
    for name in ["q2", "q/x", "q/messages", "q/messages/x", "q-"] {
        MessageQueue::new(&session, name).put("other").await.unwrap();
    }
    let queue = queue(&store).await;
    assert!(queue.try_take().await.unwrap().is_none());
    assert!(timeout(secs(100), queue.take()).await.is_err());
    queue.put("own").await.unwrap();
    assert_eq!(drain(&queue).await, ["own"]);
    assert_eq!(drain(&MessageQueue::new(&session, "q/x")).await, ["other"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_taker_survives_compaction_and_silent_watches() {
    let store = store();
    let recorder = coord_testkit::Recorder::new();
    let silent = intercepted(&store, SilentWatches(recorder.clone()));
    let taker = MessageQueue::new(&session_on(silent).await, "q");
    let producer = queue(&store).await;
    let act = async {
        producer.put("a").await.unwrap();
        let revision = newest_revision(&store).await;
        store.compact(Compact::new(revision)).await.unwrap();
    };
    let (taken, ()) = while_waiting(timeout(secs(31), taker.take_at_most_once()), act).await;
    assert_eq!(taken.expect("within half a minute").unwrap().payload, "a");
}

#[tokio::test(start_paused = true)]
async fn waiting_taker_takes_the_oldest_message() {
    let store = store();
    let (one, other) = (queue(&store).await, queue(&store).await);
    one.put_all(["old", "held"]).await.unwrap();
    let (old, held) = (take_now(&one).await, take_now(&one).await);
    let act = async {
        old.release().await.unwrap();
        one.put("new").await.unwrap();
    };
    let (taken, ()) = while_waiting(other.take_at_most_once(), act).await;
    assert_eq!(taken.unwrap().payload, "old");
    drop(held);
}

/// 600 messages with a delay are before the message that is ready: more than a read returns.
#[tokio::test(start_paused = true)]
async fn claimed_messages_do_not_block_the_head() {
    let store = store();
    let taker = queue(&store).await;
    for _ in 0..10 {
        taker.put_all((0..60).map(|_| Message::new("late").delay(secs(600)))).await.unwrap();
    }
    taker.put("ready").await.unwrap();
    assert_eq!(drain(&taker).await, ["ready"]);
}

/// Go's `Dequeue` makes the store visit all messages.
#[tokio::test(start_paused = true)]
async fn take_reads_a_bounded_number_of_messages() {
    let store = store();
    for _ in 0..20 {
        queue(&store).await.put_all(vec!["m"; 100]).await.unwrap();
    }
    let recorder = coord_testkit::Recorder::new();
    let recording = recorder.clone();
    let client = intercepted(&store, move |call: &Call| {
        recording.action(call);
        Action::Pass
    });
    let taker = MessageQueue::new(&session_on(client).await, "q");
    recorder.take();
    for _ in 0..2_000 {
        taker.take_at_most_once().await.unwrap();
    }
    let requests = recorder.take().names().split(' ').filter(|name| *name == "txn").count();
    assert!(requests < 2_050, "{requests} requests for 2000 messages");
}

async fn reader_writers(readers: usize, writers: usize, priorities: bool) {
    let store = store();
    let write = async |n: usize| {
        let queue = queue(&store).await;
        for item in 0..readers * 4 / writers.min(2) {
            let priority = if priorities { (n + item) as u16 % 3 } else { 100 };
            queue.put(Message::new(format!("{n}/{item}")).priority(priority)).await.unwrap();
        }
    };
    let items = writers * (readers * 4 / writers.min(2));
    let read = async |n: usize| {
        let queue = queue(&store).await;
        let mut taken = Vec::new();
        for _ in 0..items / readers + usize::from(n < items % readers) {
            let delivery = queue.take().await.unwrap();
            taken.push(text(delivery.payload()));
            delivery.acknowledge().await.unwrap();
        }
        taken
    };
    let (taken, _) =
        tokio::join!(join_all((0..readers).map(read)), join_all((0..writers).map(write)));
    let mut taken = taken.concat();
    taken.sort();
    let count = taken.len();
    taken.dedup();
    assert_eq!((taken.len(), count), (items, items), "each message once");
    sleep(secs(1)).await;
    assert_eq!(keys(&store, "q/messages").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn many_readers_and_writers_take_each_message_once() {
    for (readers, writers) in [(1, 1), (3, 1), (1, 3), (3, 3)] {
        for priorities in [false, true] {
            reader_writers(readers, writers, priorities).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_reader_takes_priorities_in_order() {
    let store: Client = store();
    let queue = queue(&store).await;
    for n in 0..9_u16 {
        queue.put(Message::new(n.to_string()).priority((n * 7) % 3)).await.unwrap();
    }
    let mut last = (0, 0.into());
    for _ in 0..9 {
        let message = queue.take_at_most_once().await.unwrap();
        let next = (message.priority, message.put_revision);
        assert!(next > last, "{next:?} after {last:?}");
        last = next;
    }
}
