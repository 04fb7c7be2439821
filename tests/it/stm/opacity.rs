//! Opacity: every attempt, committed or not, sees one snapshot, and that snapshot is not older than
//! the begin of its transaction. Another client writes between the steps, and the transactions wait
//! in a conflict queue.
//!
//! Most tests here need a transaction that holds a conflict queue: [`Holder`] conflicts on one key,
//! is admitted for it, and keeps the others waiting for half a second. It then aborts, so that it
//! has nothing to pass on to the next transaction in the queue.

use crate::support::another;
use std::time::Duration;

use coord_core::stm::StmError;
use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Range},
    stm::Isolation,
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{OneShot, STRONG_LEVELS, number, put_all, store_with};
use crate::support::settle;

/// A transaction that is admitted to the conflict queue of one key and keeps the others waiting.
struct Holder {
    task: JoinSet<()>,
}

impl Holder {
    /// Returns when the transaction is in its second attempt.
    async fn start(stm: &Stm, store: &Client, key: &'static str) -> Self {
        let (stm, store, key, mut attempt) = (stm.clone(), store.clone(), key.to_owned(), 0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let run = stm.run(async move |tx| {
                attempt += 1;
                tx.get(key.clone()).await?;
                if attempt == 1 {
                    store.put(key.clone(), "-1").await?;
                } else {
                    sleep(Duration::from_millis(500)).await;
                    return Err(Error::EmptyKey);
                }
                tx.put(key.clone(), "-2");
                Ok::<_, Error>(())
            });
            assert!(matches!(run.await, Err(StmError::Aborted(_))));
        });
        settle().await;
        Self { task }
    }

    async fn ended(self) {
        self.task.join_all().await;
    }
}

/// A range that the answer of a failed commit brought was used after the snapshot had moved on: the
/// transaction saw a key and a range that never existed together.
#[tokio::test(start_paused = true)]
async fn range_of_failed_commit_stays_with_its_snapshot() {
    for level in STRONG_LEVELS {
        for writes in [true, false] {
            let store = store_with(&[("flag", 0), ("n", 0)]).await;
            let (stm, mut attempt) = (Stm::new(&another(&store)).isolation(level), 0);
            let run = stm.run(async |tx| {
                attempt += 1;
                let (flag, mut n) = (number(tx, "flag").await?, 0);
                if flag == 1 {
                    if attempt == 2 {
                        put_all(&store, &[("jobs/a", 1), ("n", 1)]).await;
                    }
                    n = number(tx, "n").await?;
                }
                let jobs = tx.range(KeyRange::prefix("jobs/")).await?.len();
                assert_eq!(jobs, usize::try_from(n).unwrap(), "jobs and their count differ");
                if attempt == 1 {
                    store.put("flag", "1").await?;
                }
                if attempt == 1 || writes {
                    tx.put("count", jobs.to_string());
                }
                Ok::<_, Error>(jobs)
            });
            let committed = run.await.unwrap();
            assert_eq!(committed.value, usize::from(writes), "{level}, writes: {writes}");
        }
    }
}

/// Values of the client's read cache counted as validated after a wait in a conflict queue: the
/// transaction returned data older than a write that was acknowledged before it began.
#[tokio::test(start_paused = true)]
async fn wait_in_conflict_queue_does_not_validate_old_reads() {
    for level in STRONG_LEVELS {
        for aborts in [false, true] {
            let store = store_with(&[("h", 0)]).await;
            let kv = another(&store);
            let stm = Stm::new(&kv).isolation(level);
            let holder = Holder::start(&stm, &store, "h").await;
            let write = stm.run(async |tx| {
                tx.put("x", "old");
                Ok::<_, Error>(())
            });
            write.await.unwrap();
            store.put("x", "new").await.unwrap();

            let mut attempt = 0;
            let run = stm.run(async |tx| {
                attempt += 1;
                let x = tx.get_as::<String>("x").await?;
                assert_eq!(x.as_deref(), Some("new"), "{level}, attempt {attempt}");
                if attempt == 1 {
                    tx.put("h", "7");
                } else if aborts {
                    return Err(Error::EmptyKey);
                }
                Ok(())
            });
            let result = run.await;
            assert_eq!(result.is_err(), aborts, "{level}: {result:?}");
            assert_eq!(attempt, 2, "it waited in the queue once");
            holder.ended().await;
        }
    }
}

/// A blind write is compared as of the first snapshot. The value read for that compare was shown to
/// the attempt after the wait as if it belonged to the newer snapshot.
#[tokio::test(start_paused = true)]
async fn attempt_after_wait_sees_keys_of_one_revision() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("b", 0)]).await;
        let stm = Stm::new(&another(&store)).isolation(level);
        let holder = Holder::start(&stm, &store, "b").await;
        store.delete("b").await.unwrap();

        let mut attempt = 0;
        let run = stm.run(async |tx| {
            attempt += 1;
            tx.get("a").await?;
            if attempt == 1 {
                // Another client puts b first, and c afterwards.
                store.put("b", "1").await?;
                store.put("c", "1").await?;
            }
            let c = tx.get("c").await?.is_some();
            if attempt == 1 {
                tx.delete("b");
                return Ok::<_, Error>((true, c));
            }
            Ok((tx.get("b").await?.is_some(), c))
        });
        let (b, c) = run.await.unwrap().value;
        assert!(b || !c, "{level}: c is there, b is not");
        assert!(attempt > 1, "it waited in the queue");
        holder.ended().await;
    }
}

/// While other transactions conflicted, an attempt began with what the client remembered of earlier
/// commits, which could be older than the transaction.
#[tokio::test(start_paused = true)]
async fn attempt_sees_nothing_older_than_its_transaction() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("h", 0)]).await;
        let stm = Stm::new(&another(&store)).isolation(level);
        let holder = Holder::start(&stm, &store, "h").await;
        let delete = stm.run(async |tx| {
            tx.delete("job");
            Ok::<_, Error>(())
        });
        delete.await.unwrap();
        store.put("job", "5").await.unwrap();

        let run = stm.run(async |tx| {
            let job = number(tx, "job").await?;
            assert_eq!(job, 5, "{level}: the put was acknowledged before the transaction began");
            tx.put("job", "6");
            Ok::<_, Error>(())
        });
        run.await.unwrap();
        holder.ended().await;
    }
}

/// At `RepeatableReads` the reads of an attempt have no revision in common. An attempt that read
/// less after a wait in a conflict queue named a revision at which its key had another value.
#[tokio::test(start_paused = true)]
async fn revision_of_weak_read_after_wait_is_that_of_the_read() {
    let store = store_with(&[("h", 0), ("x", 1)]).await;
    let stm = Stm::new(&another(&store));
    let holder = Holder::start(&stm, &store, "h").await;
    let mut attempt = 0;
    let weak = stm.isolation(Isolation::RepeatableReads);
    let run = weak.run(async |tx| {
        attempt += 1;
        let x = number(tx, "x").await?;
        if attempt == 1 {
            put_all(&store, &[("x", 2)]).await;
            number(tx, "h").await?;
        }
        Ok::<_, Error>(x)
    });
    let committed = run.await.unwrap();
    let x = Range::new("x").at(committed.info.revision);
    let x = store.range(x).await.expect("it is not compacted").kvs.remove(0).value;
    assert_eq!((x, attempt), (committed.value.to_string().into(), 2));
    holder.ended().await;
}

/// The error of an aborted transaction is based on a state that existed after its begin.
#[tokio::test(start_paused = true)]
async fn aborted_attempt_sees_one_current_snapshot() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1)]).await;
        let (stm, interfere) = (Stm::new(&another(&store)).isolation(level), OneShot::new());
        put_all(&store, &[("x", 2), ("y", 2)]).await;
        let run = stm.run(async |tx| {
            let x = number(tx, "x").await?;
            if interfere.take() {
                put_all(&store, &[("x", 3), ("y", 3)]).await;
            }
            let y = number(tx, "y").await?;
            assert_eq!((x, y), (2, 2), "{level}");
            Err::<(), _>(Error::EmptyKey)
        });
        assert!(matches!(run.await, Err(StmError::Aborted(_))));
    }
}
