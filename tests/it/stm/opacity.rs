//! Opacity: each attempt, committed or not, sees one snapshot, which is not older than the start of
//! its transaction.
//!
//! Another client writes between the steps, and the transactions wait in a conflict queue. Most
//! tests use a [`QueueHolder`] to make them wait.

use std::time::Duration;

use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Range},
    stm::{Isolation, StmError},
};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{OneShot, STRONG_LEVELS, number, put_all, store_with};
use crate::support::{separate_client, settle};

/// A transaction that holds the conflict queue of one key for half a second.
///
/// It enters the queue after a conflict in its first attempt. It ends by aborting, so that it
/// leaves no post-image to the next transaction in the queue.
struct QueueHolder {
    task: JoinSet<()>,
}

impl QueueHolder {
    /// Returns when the transaction holds the queue, in its second attempt.
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

    /// Waits until the transaction has released the queue.
    async fn wait_until_ended(self) {
        self.task.join_all().await;
    }
}

/// Regression: a range from the response of a failed commit was used after the snapshot had been
/// extended, so an attempt saw a key and a range that never existed together.
#[tokio::test(start_paused = true)]
async fn range_of_failed_commit_stays_with_its_snapshot() {
    for level in STRONG_LEVELS {
        for writes in [true, false] {
            let store = store_with(&[("flag", 0), ("n", 0)]).await;
            let (stm, mut attempt) = (Stm::new(&separate_client(&store)).isolation(level), 0);
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
                assert_eq!(jobs, usize::try_from(n).unwrap(), "the range and the count differ");
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

/// Regression: values of the client's read cache counted as validated after a wait in a conflict
/// queue, so a transaction returned data older than a write acknowledged before its start.
#[tokio::test(start_paused = true)]
async fn wait_in_conflict_queue_does_not_validate_old_reads() {
    for level in STRONG_LEVELS {
        for aborts in [false, true] {
            let store = store_with(&[("h", 0)]).await;
            let kv = separate_client(&store);
            let stm = Stm::new(&kv).isolation(level);
            let holder = QueueHolder::start(&stm, &store, "h").await;
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
            assert_eq!(attempt, 2, "the transaction did not wait in the queue once");
            holder.wait_until_ended().await;
        }
    }
}

/// Regression: the value that was read to compare a blind write, at the first snapshot, was also
/// returned to the attempt after the wait, which has a newer snapshot.
#[tokio::test(start_paused = true)]
async fn attempt_after_wait_sees_keys_of_one_revision() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("b", 0)]).await;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let holder = QueueHolder::start(&stm, &store, "b").await;
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
        assert!(b || !c, "{level}: c exists, but b does not");
        assert!(attempt > 1, "the transaction did not wait in the queue");
        holder.wait_until_ended().await;
    }
}

/// Regression: while other transactions conflicted, an attempt started with values of earlier
/// commits of the client, which could be older than the transaction.
#[tokio::test(start_paused = true)]
async fn attempt_sees_nothing_older_than_its_transaction() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("h", 0)]).await;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let holder = QueueHolder::start(&stm, &store, "h").await;
        let delete = stm.run(async |tx| {
            tx.delete("job");
            Ok::<_, Error>(())
        });
        delete.await.unwrap();
        store.put("job", "5").await.unwrap();

        let run = stm.run(async |tx| {
            let job = number(tx, "job").await?;
            assert_eq!(job, 5, "{level}: an acknowledged put was not read");
            tx.put("job", "6");
            Ok::<_, Error>(())
        });
        run.await.unwrap();
        holder.wait_until_ended().await;
    }
}

/// Regression: at `RepeatableReads` the reads of an attempt share no revision. An attempt that read
/// fewer keys after a wait reported a revision at which its key had another value.
#[tokio::test(start_paused = true)]
async fn revision_of_weak_read_after_wait_is_that_of_the_read() {
    let store = store_with(&[("h", 0), ("x", 1)]).await;
    let stm = Stm::new(&separate_client(&store));
    let holder = QueueHolder::start(&stm, &store, "h").await;
    let mut attempt = 0;
    let stm = stm.isolation(Isolation::RepeatableReads);
    let run = stm.run(async |tx| {
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
    let x = store.range(x).await.unwrap().kvs.remove(0).value;
    assert_eq!((x, attempt), (committed.value.to_string().into(), 2));
    holder.wait_until_ended().await;
}

/// The closure of an aborted transaction sees a state that existed after the transaction started.
#[tokio::test(start_paused = true)]
async fn aborted_attempt_sees_one_current_snapshot() {
    for level in STRONG_LEVELS {
        let store = store_with(&[("x", 1), ("y", 1)]).await;
        let (stm, interfere) =
            (Stm::new(&separate_client(&store)).isolation(level), OneShot::new());
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
