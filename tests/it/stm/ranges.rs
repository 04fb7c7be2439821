//! Ranges in transactions: conflicts within a range, own writes, deletion, and the size limit.

use bytes::Bytes;
use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Limits, Put},
    stm::{Isolation, StmError},
};
use coord_mem::MemBackend;
use coord_testkit::Recorder;

use super::{OneShot, STRONG_LEVELS, put_all, store_with, stored_number};
use crate::support::{intercepted, separate_client, session};

/// Keys and their values.
type Pairs = Vec<(String, String)>;

fn pairs(range: Vec<(Bytes, Bytes)>) -> Pairs {
    let text = |bytes: &Bytes| bytes.escape_ascii().to_string();
    range.iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// Writes the sum of a range while `other` writes between the read and the commit of the first
/// attempt. Returns the number of attempts.
async fn sum_range(level: Isolation, other: impl AsyncFn(&Client)) -> u32 {
    let (store, interfere) =
        (store_with(&[("p/a", 1), ("p/b", 2), ("q", 4)]).await, OneShot::new());
    let stm = Stm::new(&separate_client(&store)).isolation(level);
    let sum = stm.run(async |tx| {
        let all = tx.range(KeyRange::prefix("p/")).await?;
        if interfere.take() {
            other(&store).await;
        }
        let sum: i64 = pairs(all).iter().map(|(_, n)| n.parse::<i64>().unwrap()).sum();
        tx.put("sum", sum.to_string());
        Ok::<_, Error>(())
    });
    let attempts = sum.await.unwrap().info.attempts;
    let mut now = 0;
    for kv in store.get_prefix("p/").await.unwrap() {
        now += std::str::from_utf8(&kv.value).unwrap().parse::<i64>().unwrap();
    }
    if STRONG_LEVELS.contains(&level) || attempts > 1 {
        assert_eq!(stored_number(&store, "sum").await, now, "at {level}");
    }
    attempts
}

#[tokio::test(start_paused = true)]
async fn key_inserted_in_a_range_conflicts_at_the_strong_levels() {
    for (level, attempts) in Isolation::ALL.into_iter().zip([2, 2, 1, 1]) {
        let insert = sum_range(level, async |store| put_all(store, &[("p/c", 8)]).await);
        assert_eq!(insert.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_changed_in_a_range_conflicts_above_read_committed() {
    for (level, attempts) in Isolation::ALL.into_iter().zip([2, 2, 2, 1]) {
        let change = sum_range(level, async |store| put_all(store, &[("p/b", 8)]).await);
        assert_eq!(change.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_deleted_in_a_range_conflicts_above_read_committed() {
    for (level, attempts) in Isolation::ALL.into_iter().zip([2, 2, 2, 1]) {
        let delete = sum_range(level, async |store| drop(store.delete("p/a").await.unwrap()));
        assert_eq!(delete.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn change_outside_a_range_does_not_conflict() {
    for level in Isolation::ALL {
        let outside = sum_range(level, async |store| put_all(store, &[("q", 8), ("p0", 8)]).await);
        assert_eq!(outside.await, 1, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn empty_range_is_protected() {
    for level in STRONG_LEVELS {
        let (store, interfere) = (Client::new(MemBackend::new()), OneShot::new());
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let reserve = stm.run(async |tx| {
            let free = tx.range(KeyRange::prefix("seat/")).await?.is_empty();
            if interfere.take() {
                put_all(&store, &[("seat/1", 1)]).await;
            }
            if free {
                tx.put("seat/2", "2");
            }
            Ok::<_, Error>(free)
        });
        let reserve = reserve.await.unwrap();
        assert_eq!((reserve.value, reserve.info.attempts), (false, 2), "at {level}");
        let [conflict] = &reserve.info.conflicts[..] else { panic!("{:?}", reserve.info) };
        assert_eq!((&conflict.key[..], conflict.read), (&b"seat/1"[..], None));
    }
}

/// The response of the failed commit contains the range, so the next attempt does not read it.
#[tokio::test(start_paused = true)]
async fn conflict_in_a_range_costs_one_request() {
    for level in STRONG_LEVELS {
        let (store, record) = (store_with(&[("p/a", 1)]).await, Recorder::new());
        let (interfere, stm) =
            (OneShot::new(), Stm::new(&intercepted(&store, record.clone())).isolation(level));
        let count = stm.run(async |tx| {
            let all = pairs(tx.range(KeyRange::prefix("p/")).await?);
            if interfere.take() {
                put_all(&store, &[("p/b", 1)]).await;
                store.delete("p/a").await.unwrap();
            }
            tx.put(&all[0].0, "first");
            Ok::<_, Error>(all.len())
        });
        assert_eq!(count.await.unwrap().value, 1);
        assert_eq!(record.take().names(), "range txn txn", "at {level}");
        assert_eq!(store.get("p/b").await.unwrap().unwrap().value, "first");
    }
}

#[tokio::test(start_paused = true)]
async fn range_includes_the_transactions_own_writes() {
    for level in Isolation::ALL {
        let store = store_with(&[("p/a", 1), ("p/b", 2), ("p/d", 4), ("q", 0)]).await;
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("p/c", "new");
            tx.put("p/a", "other");
            tx.put("o", "outside");
            tx.delete("p/b");
            tx.put_with(Put::new("p/d", "").ignore_value());
            let first = pairs(tx.range(KeyRange::prefix("p/")).await?);
            let part = pairs(tx.range(KeyRange::between("p/b", "p/d")).await?);
            tx.put("p/b", "again");
            tx.delete("p/c");
            let last = pairs(tx.range(KeyRange::prefix("p/")).await?);
            Ok::<_, Error>((first, part, last))
        });
        let (first, part, last) = run.await.unwrap().value;
        let expected = |pairs: &[(&str, &str)]| -> Pairs {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        assert_eq!(first, expected(&[("p/a", "other"), ("p/c", "new"), ("p/d", "4")]));
        assert_eq!(part, expected(&[("p/c", "new")]));
        assert_eq!(last, expected(&[("p/a", "other"), ("p/b", "again"), ("p/d", "4")]));
        let left = store.get_prefix("p/").await.unwrap();
        let left = pairs(left.into_iter().map(|kv| (kv.key, kv.value)).collect());
        assert_eq!(left, last, "the commit differs from the last read, at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn delete_range_returns_the_number_of_deleted_keys() {
    for level in Isolation::ALL {
        let (store, interfere) =
            (store_with(&[("p/a", 1), ("p/b", 2), ("q", 0)]).await, OneShot::new());
        let stm = Stm::new(&separate_client(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("p/own", "1");
            let deleted = tx.delete_range(KeyRange::prefix("p/")).await?;
            assert_eq!(tx.delete_range(KeyRange::prefix("p/")).await?, 0);
            if interfere.take() {
                put_all(&store, &[("p/c", 3)]).await;
            }
            Ok::<_, Error>(deleted)
        });
        let strong = STRONG_LEVELS.contains(&level);
        assert_eq!(run.await.unwrap().value, if strong { 4 } else { 3 }, "at {level}");
        let left = store.get_prefix("p/").await.unwrap().len();
        assert_eq!(
            (left, stored_number(&store, "q").await),
            (usize::from(!strong), 0),
            "at {level}"
        );
    }
}

/// A store whose transactions have at most eight operations, with the keys r0 to r7.
async fn small_store() -> Client {
    let limits = Limits { max_txn_ops: 8, ..Limits::default() };
    let store = Client::new(MemBackend::builder().limits(limits).build());
    let numbers: Vec<_> = (0..8).map(|n| (format!("r{n}"), n)).collect();
    let numbers: Vec<_> = numbers.iter().map(|(key, n)| (&key[..], *n)).collect();
    put_all(&store, &numbers).await;
    store
}

/// The contents of a transaction under test.
#[derive(Debug)]
struct Contents {
    /// The number of keys it reads.
    reads: usize,
    /// Whether it also reads an empty range.
    range: bool,
    /// The number of keys it writes without reading them.
    blind_writes: usize,
    exactly_once: bool,
}

/// Runs a transaction with these contents. Returns its requests, and the operation count and the
/// limit if it was refused.
async fn run_with_contents(
    level: Isolation,
    contents: &Contents,
) -> (String, Option<(usize, usize)>) {
    let Contents { reads, range, blind_writes, exactly_once } = *contents;
    let (store, record) = (small_store().await, Recorder::new());
    let mut stm = Stm::new(&intercepted(&store, record.clone())).isolation(level);
    if exactly_once {
        stm = stm.exactly_once(&session(&store).await);
    }
    let run = stm.run(async |tx| {
        tx.get_many((0..reads).map(|n| format!("r{n}"))).await?;
        if range {
            tx.range(KeyRange::prefix("e/")).await?;
        }
        for n in 0..blind_writes {
            tx.put(format!("w{n}"), "1");
        }
        Ok::<_, Error>(())
    });
    let refused = match run.await {
        Ok(_) => None,
        Err(StmError::Backend(Error::TooManyOps { count, limit })) => Some((count, limit)),
        Err(error) => panic!("{error}"),
    };
    (record.take().names(), refused)
}

#[tokio::test(start_paused = true)]
async fn too_large_transaction_is_refused_before_its_commit() {
    let [snapshot, serializable, repeatable, committed] = Isolation::ALL;
    // Level; reads, range, blind writes, exactly once; requests; count and limit.
    let rows = [
        // Only writes. An idempotency key counts as one more.
        (snapshot, (0, false, 8, false), "txn", None),
        (snapshot, (0, false, 9, false), "", Some((9, 8))),
        (snapshot, (0, false, 7, true), "txn", None),
        (snapshot, (0, false, 8, true), "", Some((9, 8))),
        // Reads and ranges are compared.
        (serializable, (7, true, 8, false), "txn range txn", None),
        (serializable, (8, true, 1, false), "txn range", Some((9, 8))),
        (serializable, (7, true, 1, true), "txn range", Some((9, 8))),
        (repeatable, (8, false, 8, false), "txn txn", None),
        // The keys of blind writes are read before the commit, and compared.
        (snapshot, (4, false, 4, false), "txn txn txn", None),
        (snapshot, (5, false, 4, false), "txn", Some((9, 8))),
        (snapshot, (4, true, 4, false), "txn range", Some((9, 8))),
        // Nothing is compared.
        (committed, (8, true, 8, false), "txn range txn", None),
        (committed, (8, true, 9, false), "txn range", Some((9, 8))),
    ];
    for (level, size, requests, refused) in rows {
        let (reads, range, blind_writes, exactly_once) = size;
        let contents = Contents { reads, range, blind_writes, exactly_once };
        let result = run_with_contents(level, &contents).await;
        assert_eq!(result, (requests.to_owned(), refused), "{contents:?} at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn read_only_transactions_have_no_limit_at_the_strong_levels() {
    for level in STRONG_LEVELS {
        let (store, record) = (small_store().await, Recorder::new());
        let stm = Stm::new(&intercepted(&store, record.clone())).isolation(level);
        let read = stm.run(async |tx| tx.get_many((0..20).map(|n| format!("r{n}"))).await);
        let found = read.await.unwrap().value.into_iter().flatten().count();
        assert_eq!((found, &*record.take().names()), (8, "txn txn txn"), "at {level}");
    }
}
