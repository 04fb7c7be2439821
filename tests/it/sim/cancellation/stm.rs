//! Cancellation cases of transactions, and of the reads of one attempt.

use bytes::Bytes;
use coord_core::kv::KeyRange;
use coord_core::stm::{Isolation, StmError, Transaction};
use coord_core::{Client, Error, Result, Stm};
use futures_util::future::BoxFuture;
use tokio::task::yield_now;

use super::trial::{Trial, close};
use super::{Case, Schedule, drop_all};

#[test]
fn dropped_transactions_commit_at_most_once() {
    drop_all(&cases());
}

pub(super) fn cases() -> Vec<Case> {
    let at = |when, isolation| {
        Case::new(&["Stm::run"], when, move |t: Trial| async move {
            let stm = Stm::new(t.client()).isolation(isolation);
            run(&t, stm, 0).await;
        })
    };
    vec![
        at("serializable-snapshot", Isolation::SerializableSnapshot),
        at("serializable", Isolation::Serializable),
        at("repeatable-reads", Isolation::RepeatableReads),
        Case::new(&["Stm::run"], "with a prefetched key", |t: Trial| async move {
            let stm = Stm::new(t.client()).prefetch(["data/n"]);
            run(&t, stm, 0).await;
        }),
        Case::new(&["Stm::run"], "exactly once", exactly_once),
        Case::new(&["Stm::run"], "in a conflict queue", conflict_queue),
        Case::new(&["Stm::run"], "conflicts with another client", conflicts),
        in_attempt(&["Transaction::get"], |tx| {
            Box::pin(async { tx.get("data/n").await.map(drop) })
        }),
        in_attempt(&["Transaction::get_as"], |tx| {
            Box::pin(async { tx.get_as::<String>("data/n").await.map(drop) })
        }),
        in_attempt(&["Transaction::get_many"], |tx| {
            Box::pin(async { tx.get_many(["data/n", "data/0"]).await.map(drop) })
        }),
        in_attempt(&["Transaction::range"], |tx| {
            Box::pin(async { tx.range(KeyRange::prefix("data/")).await.map(drop) })
        }),
        in_attempt(&["Transaction::revision_of"], |tx| {
            Box::pin(async { tx.revision_of("data/n").await.map(drop) })
        }),
        Case::new(&["Transaction::delete_range"], "then the attempt commits", delete_range),
    ]
}

/// Adds one to a counter.
async fn add_one(stm: Stm) -> Result<(), StmError<Error>> {
    let add = async move |tx: &mut Transaction| {
        let n = tx.get_as::<String>("data/n").await?.map_or(0, |n| n.parse::<u32>().unwrap());
        tx.put("data/n", (n + 1).to_string());
        Ok::<_, Error>(())
    };
    stm.run(add).await.map(drop)
}

/// The counter. Each of its changes has added one.
async fn counted(client: &Client) -> u32 {
    let Some(kv) = client.get("data/n").await.unwrap() else { return 0 };
    let n = String::from_utf8(kv.value.to_vec()).unwrap().parse().unwrap();
    assert_eq!(i64::from(n), kv.version, "an addition is lost");
    n
}

/// Drops one addition. Then another client adds one, at once and when all messages have arrived.
/// `others` is how many additions there are besides these three.
async fn run(t: &Trial, stm: Stm, others: u32) {
    t.drop_at_await(add_one(stm)).await.transpose().unwrap();
    for _ in 0..2 {
        t.proceeds(add_one(Stm::new(t.other.client()))).await.unwrap();
        t.messages_arrive().await;
    }
    let n = counted(t.other.client()).await - others;
    assert!(n == 3 || (n == 2 && t.is_dropped()), "counted {n}");
}

/// The idempotency keys are deleted with the session.
async fn exactly_once(t: Trial) {
    let session = t.session().await;
    run(&t, Stm::new(t.client()).exactly_once(&session), 0).await;
    close(&session).await;
}

/// Five tasks of one client add one each, and so wait for each other in a conflict queue. One of
/// them is dropped, and the others proceed.
async fn conflict_queue(t: Trial) {
    let stm = Stm::new(t.client());
    let add = || t.process.spawn(add_one(stm.clone()));
    let others = [(); 4].map(|()| add());
    // The others read first, so that the commit under test conflicts, and then waits in the queue.
    yield_now().await;
    let dropped = t.drop_at_await(add_one(stm.clone())).await;
    let mut committed = u32::from(dropped.transpose().unwrap().is_some());
    for task in others {
        match t.continues(task).await {
            Ok(()) => committed += 1,
            // The commit was in flight at the drop, and arrives after its timeout.
            Err(StmError::OutcomeUnknown(_)) if t.schedule == Schedule::Late => {}
            Err(error) => panic!("{error}"),
        }
    }
    t.proceeds(add_one(Stm::new(t.other.client()))).await.unwrap();
    t.messages_arrive().await;
    let added = counted(t.other.client()).await - 1;
    assert!((committed..=5).contains(&added), "{committed} commits, {added} additions");
}

/// Another client commits during the attempts of the transaction, which is retried.
async fn conflicts(t: Trial) {
    let other = t.other.client().clone();
    let others = t.other.spawn(async move {
        for _ in 0..5 {
            add_one(Stm::new(&other)).await.unwrap();
        }
    });
    yield_now().await;
    run(&t, Stm::new(t.client()), 5).await;
    t.proceeds(others).await;
}

/// A call of one attempt.
type AttemptCall = fn(&mut Transaction) -> BoxFuture<'_, Result<()>>;

/// Drops a read within an attempt, which then reads again and commits.
fn in_attempt(functions: &'static [&'static str], read: AttemptCall) -> Case {
    Case::new(functions, "then the attempt commits", move |t| async move {
        let store = t.other.client();
        for key in ["data/0", "data/n"] {
            store.put(key, "1").await.unwrap();
        }
        let trial = t.clone();
        let stm = Stm::new(t.client());
        let committed = stm.run(async move |tx| {
            tx.get("data/0").await?;
            trial.drop_at_await(read(tx)).await.transpose()?;
            read(tx).await?;
            let n = tx.get("data/n").await?;
            assert_eq!(n, Some(Bytes::from("1")));
            tx.put("data/n", "2");
            Ok::<_, Error>(())
        });
        assert_eq!(committed.await.unwrap().info.attempts, 1);
        t.proceeds(add_one(Stm::new(store))).await.unwrap();
        t.messages_arrive().await;
        assert_eq!(counted(store).await, 3);
    })
}

/// If the call is dropped, the attempt deletes no key of the range.
async fn delete_range(t: Trial) {
    let store = t.other.client();
    for key in ["data/a/1", "data/a/2"] {
        store.put(key, "").await.unwrap();
    }
    let trial = t.clone();
    let stm = Stm::new(t.client());
    let committed = stm.run(async move |tx| {
        let deleted = tx.delete_range(KeyRange::prefix("data/a/"));
        let deleted = trial.drop_at_await(deleted).await.transpose()?;
        assert!(deleted.is_none_or(|deleted| deleted == 2));
        tx.put("data/n", "1");
        Ok::<_, Error>(())
    });
    committed.await.unwrap();
    t.proceeds(add_one(Stm::new(store))).await.unwrap();
    t.messages_arrive().await;
    assert_eq!(counted(store).await, 2);
    let left = store.get_prefix("data/a/").await.unwrap().len();
    assert_eq!(left, if t.is_dropped() { 2 } else { 0 });
}
