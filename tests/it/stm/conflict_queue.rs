//! Conflict queues: the order in which conflicting transactions of one client retry on a key.
//!
//! Few attempts conflict, no transaction starves, and the queue advances however its holder ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    stm::{Retry, StmError},
};
use coord_mem::MemBackend;
use coord_testkit::{Action, Call, poll_at_most};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{OneShot, add_one, number, put_all, store_with, stored_number};
use crate::support::{POLLS_MAX, intercepted, secs, separate_client, timed};

#[tokio::test(start_paused = true)]
async fn transactions_on_one_key_lose_no_update_with_few_retries() {
    // Responses are immediate or delayed.
    for action in [Action::Pass, Action::Yield, Action::Delay(Duration::from_millis(3))] {
        let store = Client::new(MemBackend::new());
        let kv = intercepted(&store, move |_: &Call| action.clone());
        let mut tasks = JoinSet::new();
        for _ in 0..64 {
            tasks.spawn(increment_repeatedly(kv.clone(), 5));
        }
        let attempts: Vec<u32> = tasks.join_all().await.concat();
        assert_eq!(stored_number(&store, "n").await, 64 * 5);
        let (sum, most) = (attempts.iter().sum::<u32>(), attempts.iter().max().unwrap());
        assert!(sum <= 64 * 5 * 3, "{sum} attempts for {} commits", 64 * 5);
        assert!(*most <= 10, "a transaction took {most} attempts");
    }
}

/// Increments n several times in sequence. Returns the number of attempts of each increment.
async fn increment_repeatedly(kv: Client, times: usize) -> Vec<u32> {
    let mut attempts = Vec::new();
    for _ in 0..times {
        let added = add_one(kv.clone(), "n").await.unwrap();
        attempts.push(added.info.attempts);
    }
    attempts
}

/// Each transfer conflicts on two of four keys, which form a circle.
#[tokio::test(start_paused = true)]
async fn circular_transfers_keep_the_sum_without_deadlock() {
    let store = store_with(&[("a0", 100), ("a1", 100), ("a2", 100), ("a3", 100)]).await;
    let kv = intercepted(&store, |_: &Call| Action::Yield);
    let mut tasks = JoinSet::new();
    for i in 0..32_usize {
        tasks.spawn(transfer(kv.clone(), i));
    }
    let (attempts, took) = timed(tasks.join_all()).await;
    let mut sum = 0;
    for i in 0..4 {
        sum += stored_number(&store, &format!("a{i}")).await;
    }
    assert_eq!(sum, 400);
    assert!(took < secs(2), "took {took:?}");
    assert!(attempts.iter().sum::<u32>() <= 32 * 5, "{attempts:?}");
}

async fn transfer(kv: Client, i: usize) -> u32 {
    let (from, to) = (format!("a{}", i % 4), format!("a{}", (i + 1) % 4));
    let stm = Stm::new(&kv);
    let run = stm.run(async move |tx| {
        let (source, target) = (number(tx, &from).await?, number(tx, &to).await?);
        tx.put(&from, (source - 1).to_string());
        tx.put(&to, (target + 1).to_string());
        Ok::<_, Error>(())
    });
    run.await.unwrap().info.attempts
}

/// Runs a transaction that holds the conflict queue of n: its first attempt conflicts, and its
/// second ends with `end`.
async fn hold_queue(
    stm: &Stm,
    store: &Client,
    end: impl AsyncFn() -> Result<(), Error>,
) -> Result<(), StmError<Error>> {
    let interfere = OneShot::new();
    let run = stm.run(async |tx| {
        let n = number(tx, "n").await?;
        if interfere.take() {
            put_all(store, &[("n", n + 1)]).await;
        } else {
            end().await?;
        }
        tx.put("n", (n + 1).to_string());
        Ok(())
    });
    run.await.map(drop)
}

/// Asserts that the conflict queue of n on `kv` is free: two conflicting increments commit without
/// a wait.
async fn assert_queue_free(kv: &Client, store: &Client, when: &str) {
    let before = stored_number(store, "n").await;
    let two = async {
        let (a, b) = tokio::join!(add_one(kv.clone(), "n"), add_one(kv.clone(), "n"));
        a.is_ok() && b.is_ok()
    };
    let (done, took) = timed(two).await;
    assert!(done && took < Duration::from_millis(100), "the queue was held {when}: {took:?}");
    assert_eq!(stored_number(store, "n").await, before + 2);
}

#[tokio::test(start_paused = true)]
async fn queue_advances_after_abort_exhaustion_or_lost_response() {
    let store = store_with(&[("n", 0)]).await;
    let kv = separate_client(&store);
    let plain = Stm::new(&kv);
    let aborted = hold_queue(&plain, &store, async || Err(Error::EmptyKey)).await;
    assert!(matches!(aborted, Err(StmError::Aborted(_))));
    assert_queue_free(&kv, &store, "after an abort").await;

    let twice = plain.clone().retry(Retry { attempts_max: Some(2), ..Retry::default() });
    let exhausted = hold_queue(&twice, &store, async || {
        put_all(&store, &[("n", 50)]).await;
        Ok(())
    });
    assert!(matches!(exhausted.await, Err(StmError::RetriesExhausted { attempts: 2, .. })));
    assert_queue_free(&kv, &store, "after the retries were exhausted").await;

    let commits = AtomicU32::new(0);
    let lossy = intercepted(&store, move |call: &Call| match call {
        Call::Txn(_) if commits.fetch_add(1, Ordering::Relaxed) == 1 => Action::DropResponse,
        _ => Action::Pass,
    });
    let unknown = hold_queue(&Stm::new(&lossy), &store, async || Ok(())).await;
    assert!(matches!(unknown, Err(StmError::OutcomeUnknown(_))));
    assert_queue_free(&lossy, &store, "after a lost response").await;
}

#[tokio::test(start_paused = true)]
async fn queue_advances_after_a_panic_of_the_closure() {
    let store = store_with(&[("n", 0)]).await;
    let kv = separate_client(&store);
    let mut tasks = JoinSet::new();
    let (stm, other) = (Stm::new(&kv), store.clone());
    tasks.spawn(async move {
        let mut attempt = 0;
        let run = stm.run(async move |tx| {
            attempt += 1;
            let n = number(tx, "n").await?;
            assert!(attempt == 1, "injected panic");
            put_all(&other, &[("n", n + 1)]).await;
            tx.put("n", "9");
            Ok::<_, Error>(())
        });
        run.await.map(drop)
    });
    // On the same client, so in the same queue.
    let panicked = tasks.join_next().await.unwrap();
    assert!(panicked.unwrap_err().is_panic());
    let two = async { tokio::join!(add_one(kv.clone(), "n"), add_one(kv.clone(), "n")) };
    let ((a, b), took) = timed(two).await;
    assert!(a.is_ok() && b.is_ok() && took < Duration::from_millis(100), "{took:?}");
}

/// Four transactions queue for one key; the second or the third is dropped.
#[tokio::test(start_paused = true)]
async fn transaction_dropped_at_any_await_frees_the_queue() {
    for dropped in [1, 2] {
        for polls in 1..POLLS_MAX {
            let store = store_with(&[("n", 0)]).await;
            let kv = intercepted(&store, |_: &Call| Action::Yield);
            let add = |n: usize| {
                let kv = kv.clone();
                let polls = if n == dropped { polls } else { usize::MAX };
                poll_at_most(polls, add_one(kv, "n"))
            };
            let all = async { tokio::join!(add(0), add(1), add(2), add(3)) };
            let (all, took) = timed(timeout(secs(5), all)).await;
            let (a, b, c, d) = all.expect("a transaction waits forever");
            assert!(took < Duration::from_millis(100), "delayed by {took:?}, {polls} polls");
            let done = [a, b, c, d].map(|added| added.is_some_and(|added| added.is_ok()));
            let n = stored_number(&store, "n").await;
            // The dropped transaction may have committed.
            assert!((3..=4).contains(&n), "{done:?}");
            if done == [true; 4] {
                assert!(polls > 5, "the transaction was never dropped before it completed");
                break;
            }
            assert!(polls < POLLS_MAX - 1, "the transaction never completed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pending_closure_delays_others_by_at_most_one_second() {
    let store = store_with(&[("n", 0)]).await;
    let kv = intercepted(&store, |_: &Call| Action::Yield);
    let stm = Stm::new(&kv);
    let pending = hold_queue(&stm, &store, std::future::pending);
    let other = async {
        sleep(Duration::from_millis(50)).await;
        let two = async { tokio::join!(add_one(kv.clone(), "n"), add_one(kv.clone(), "n")) };
        let ((a, b), took) = timed(two).await;
        assert!(a.is_ok() && b.is_ok());
        took
    };
    tokio::select! {
        biased;
        _ = pending => panic!("the closure returned"),
        took = other => assert!(took <= Duration::from_millis(1_100), "delayed by {took:?}"),
    }
}

/// Regression: each transaction waited a second before it ended the hold.
#[tokio::test(start_paused = true)]
async fn pending_closure_delays_the_queue_only_once() {
    let store = store_with(&[("n", 0)]).await;
    let kv = intercepted(&store, |_: &Call| Action::Yield);
    let stm = Stm::new(&kv);
    let pending = hold_queue(&stm, &store, std::future::pending);
    let others = async {
        sleep(Duration::from_millis(50)).await;
        let mut tasks = JoinSet::new();
        for _ in 0..16 {
            tasks.spawn(increment_repeatedly(kv.clone(), 4));
        }
        timed(tasks.join_all()).await.1
    };
    tokio::select! {
        biased;
        _ = pending => panic!("the closure returned"),
        took = others => assert!(took <= secs(3), "delayed by {took:?}"),
    }
    assert_eq!(stored_number(&store, "n").await, 1 + 64);
}

/// The nested transaction waits for the queue that the outer transaction holds, and ends that hold
/// after a second.
#[tokio::test(start_paused = true)]
async fn nested_transaction_on_the_same_key_does_not_deadlock() {
    let store = store_with(&[("n", 0)]).await;
    let kv = separate_client(&store);
    let (stm, mut attempt) = (Stm::new(&kv), 0);
    let run = stm.run(async |tx| {
        attempt += 1;
        let n = number(tx, "n").await?;
        if attempt < 3 {
            add_one(kv.clone(), "n").await.unwrap();
        }
        tx.put("n", (n + 10).to_string());
        Ok::<_, Error>(())
    });
    let (run, took) = timed(run).await;
    assert_eq!((run.unwrap().info.attempts, stored_number(&store, "n").await), (3, 12));
    assert!(took <= Duration::from_millis(2_500), "took {took:?}");
}

/// The queues belong to a client; the same key of another store has a queue of its own.
#[tokio::test(start_paused = true)]
async fn queues_of_two_backends_are_independent() {
    let (store, other) = (store_with(&[("n", 0)]).await, store_with(&[("n", 0)]).await);
    let stm = Stm::new(&intercepted(&store, |_: &Call| Action::Yield));
    tokio::select! {
        biased;
        _ = hold_queue(&stm, &store, std::future::pending) => panic!("the closure returned"),
        () = async {
            sleep(Duration::from_millis(50)).await;
            assert_queue_free(&separate_client(&other), &other, "on another backend").await;
        } => {}
    }
    assert_eq!(other.get("n").await.unwrap().unwrap().value, "2");
}
