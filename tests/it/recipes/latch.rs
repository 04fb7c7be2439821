//! The latch: counting once, waiting, invalid counts, and requests per operation.

use std::time::Duration;

use coord_core::Client;
use coord_core::kv::Compact;
use coord_core::recipes::{Latch, LatchError};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use futures_util::future::{join_all, try_join_all};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    SilentWatches, intercepted, keys, newest_revision, nth, secs, separate_client,
};
use crate::while_waiting::{while_waiting, while_waiting_after};

fn store() -> Client {
    Client::new(MemBackend::new())
}

fn latch(client: &Client, count: usize) -> Latch {
    Latch::new(client, "l", count).unwrap()
}

#[tokio::test(start_paused = true)]
async fn waiters_pass_when_all_have_counted_down() {
    let store = store();
    let waiting = (0..5).map(async |_| {
        latch(&separate_client(&store), 10).wait().await.unwrap();
        Instant::now()
    });
    let start = Instant::now();
    let (woken, missing) = while_waiting(join_all(waiting), async {
        let mut missing = Vec::new();
        for n in 0..10 {
            sleep(secs(7)).await;
            let latch = latch(&separate_client(&store), 10);
            missing.push(latch.count_down(n.to_string()).await.unwrap());
        }
        missing
    })
    .await;
    assert_eq!(missing, (0..10).rev().collect::<Vec<_>>());
    assert!(woken.iter().all(|at| (*at - start).as_secs() == 70), "with the last one");
    timeout(secs(1), latch(&store, 10).wait()).await.expect("it stays open").unwrap();
    assert_eq!(latch(&store, 10).count_down("late").await.unwrap(), 0, "without effect");
}

#[tokio::test(start_paused = true)]
async fn concurrent_participants_are_all_counted() {
    let store = store();
    let mut missing = try_join_all(
        (0..100)
            .map(async |n| latch(&separate_client(&store), 100).count_down(n.to_string()).await),
    )
    .await
    .unwrap();
    missing.sort_unstable();
    assert_eq!(missing, (0..100).collect::<Vec<_>>());
}

/// The request or its response is lost or late, so the client cannot know whether its participant
/// was counted.
#[tokio::test(start_paused = true)]
async fn participant_counts_once_after_an_unknown_outcome() {
    for action in [Action::DropRequest, Action::DropResponse, Action::Delay(secs(30))] {
        let store = store();
        let client = intercepted(&store, nth("txn", 1, 1, action));
        assert_eq!(latch(&client, 3).count_down("a").await.unwrap(), 2);
        // The participant starts again.
        assert_eq!(latch(&separate_client(&store), 3).count_down("a").await.unwrap(), 2);
        sleep(secs(60)).await;
        assert_eq!(latch(&store, 3).count_down("b").await.unwrap(), 1);
        let first = store.get("l/a").await.unwrap().unwrap();
        assert_eq!(first.version, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn invalid_and_different_counts_are_typed_errors() {
    let store = store();
    assert!(matches!(Latch::new(&store, "l", 0).unwrap_err(), LatchError::NoCount));
    latch(&store, 2).count_down("a").await.unwrap();
    let revision = newest_revision(&store).await;
    for error in [
        latch(&store, 3).count_down("b").await.unwrap_err(),
        latch(&store, 3).count_down("a").await.unwrap_err(),
        latch(&store, 3).wait().await.unwrap_err(),
    ] {
        let text = "the count 3 was given, but the key l/a has 2: give the same count everywhere, \
                    or use another name";
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(newest_revision(&store).await, revision, "nothing was written");

    // A waiter finds the other count when it is written.
    let wrong = Latch::new(&store, "other", 3).unwrap();
    let right = Latch::new(&store, "other", 2).unwrap();
    let (waited, counted) = while_waiting(wrong.wait(), right.count_down("a")).await;
    assert!(matches!(waited, Err(LatchError::CountsDisagree { given: 3, .. })));
    assert_eq!(counted.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn latches_with_longer_names_are_others() {
    let store = store();
    Latch::new(&store, "last", 1).unwrap().count_down("a").await.unwrap();
    assert!(timeout(secs(99), latch(&store, 1).wait()).await.is_err());
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn latch_waits_on_after_compaction_and_silent_watches() {
    for is_silent in [false, true] {
        let store = store();
        let client = match is_silent {
            true => intercepted(&store, SilentWatches(Recorder::new())),
            false => separate_client(&store),
        };
        let (waited, opened_at) = while_waiting(
            async {
                latch(&client, 2).wait().await.unwrap();
                Instant::now()
            },
            async {
                latch(&store, 2).count_down("a").await.unwrap();
                let revision = store.put("other", "1").await.unwrap().header.revision;
                store.compact(Compact::new(revision)).await.unwrap();
                sleep(secs(70)).await;
                latch(&store, 2).count_down("b").await.unwrap();
                Instant::now()
            },
        )
        .await;
        assert!(waited >= opened_at && waited - opened_at < secs(31));
    }
}

#[tokio::test(start_paused = true)]
async fn latch_operations_cost_one_request_each() {
    let (store, recorder) = (store(), Recorder::new());
    let client = intercepted(&store, recorder.clone());
    for participant in ["a", "b", "b"] {
        latch(&client, 4).count_down(participant).await.unwrap();
        assert_eq!(recorder.take().names(), "txn", "{participant}");
    }
    let short = Duration::from_millis(20);
    let (waited, opened) = while_waiting_after(short, latch(&client, 4).wait(), async {
        latch(&store, 4).count_down("c").await?;
        latch(&store, 4).count_down("d").await
    })
    .await;
    waited.unwrap();
    assert_eq!(opened.unwrap(), 0);
    assert_eq!(recorder.take().names(), "range watch", "a wait");
    latch(&client, 4).wait().await.unwrap();
    assert_eq!(recorder.take().names(), "range", "when it is open");
}
