//! Ranges: what comes into them, goes from them or changes in them, what the transaction itself
//! does in them, and how large a transaction can be.

use crate::support::another;
use coord_mem::MemBackend;

use coord_core::stm::StmError;
use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Limits, Put},
    stm::Isolation,
};
use coord_testkit::Recorder;

use super::{LEVELS, OneShot, STRONG_LEVELS, put_all, store_with, stored};
use crate::support::{behind, session};

/// The keys of a range, with their values.
type Found = Vec<(String, String)>;

fn found(range: Vec<(bytes::Bytes, bytes::Bytes)>) -> Found {
    let text = |bytes: &bytes::Bytes| bytes.escape_ascii().to_string();
    range.iter().map(|(key, value)| (text(key), text(value))).collect()
}

/// Writes the sum of a range while another changes the range between the read and the commit, and
/// tells how many attempts it took.
async fn sum_up(level: Isolation, other: impl AsyncFn(&Client)) -> u32 {
    let (store, interfere) = (store_with(&[("p/a", 1), ("p/b", 2), ("q", 4)]).await, OneShot::new());
    let stm = Stm::new(&another(&store)).isolation(level);
    let sum = stm.run(async |tx| {
        let all = tx.range(KeyRange::prefix("p/")).await?;
        if interfere.take() {
            other(&store).await;
        }
        let sum: i64 = found(all).iter().map(|(_, n)| n.parse::<i64>().unwrap()).sum();
        tx.put("sum", sum.to_string());
        Ok::<_, Error>(())
    });
    let attempts = sum.await.unwrap().info.attempts;
    let mut now = 0;
    for kv in store.get_prefix("p/").await.unwrap() {
        now += std::str::from_utf8(&kv.value).unwrap().parse::<i64>().unwrap();
    }
    if STRONG_LEVELS.contains(&level) || attempts > 1 {
        assert_eq!(stored(&store, "sum").await, now, "at {level}");
    }
    attempts
}

#[tokio::test(start_paused = true)]
async fn key_inserted_in_a_range_conflicts_at_the_strong_levels() {
    for (level, attempts) in LEVELS.into_iter().zip([2, 2, 1, 1]) {
        let comes = sum_up(level, async |store| put_all(store, &[("p/c", 8)]).await);
        assert_eq!(comes.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_changed_in_a_range_conflicts_above_read_committed() {
    for (level, attempts) in LEVELS.into_iter().zip([2, 2, 2, 1]) {
        let changes = sum_up(level, async |store| put_all(store, &[("p/b", 8)]).await);
        assert_eq!(changes.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn key_deleted_in_a_range_conflicts_above_read_committed() {
    for (level, attempts) in LEVELS.into_iter().zip([2, 2, 2, 1]) {
        let goes = sum_up(level, async |store| drop(store.delete("p/a").await.unwrap()));
        assert_eq!(goes.await, attempts, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn change_outside_a_range_does_not_conflict() {
    for level in LEVELS {
        let beside = sum_up(level, async |store| put_all(store, &[("q", 8), ("p0", 8)]).await);
        assert_eq!(beside.await, 1, "at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn empty_range_is_protected() {
    for level in STRONG_LEVELS {
        let (store, interfere) = (Client::new(MemBackend::new()), OneShot::new());
        let stm = Stm::new(&another(&store)).isolation(level);
        let claim = stm.run(async |tx| {
            let free = tx.range(KeyRange::prefix("seat/")).await?.is_empty();
            if interfere.take() {
                put_all(&store, &[("seat/1", 1)]).await;
            }
            if free {
                tx.put("seat/2", "2");
            }
            Ok::<_, Error>(free)
        });
        let claim = claim.await.unwrap();
        assert_eq!((claim.value, claim.info.attempts), (false, 2), "at {level}");
        let [conflict] = &claim.info.conflicts[..] else { panic!("{:?}", claim.info) };
        assert_eq!((&conflict.key[..], conflict.seen), (&b"seat/1"[..], None));
    }
}

/// The failed commit reads the range again, so the next attempt does not.
#[tokio::test(start_paused = true)]
async fn conflict_in_a_range_costs_one_request() {
    for level in STRONG_LEVELS {
        let (store, record) = (store_with(&[("p/a", 1)]).await, Recorder::new());
        let (interfere, stm) = (OneShot::new(), Stm::new(&behind(&store, record.clone())).isolation(level));
        let count = stm.run(async |tx| {
            let all = found(tx.range(KeyRange::prefix("p/")).await?);
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
    for level in LEVELS {
        let store = store_with(&[("p/a", 1), ("p/b", 2), ("p/d", 4), ("q", 0)]).await;
        let stm = Stm::new(&another(&store)).isolation(level);
        let run = stm.run(async |tx| {
            tx.put("p/c", "new");
            tx.put("p/a", "other");
            tx.put("o", "beside");
            tx.delete("p/b");
            tx.put_with(Put::new("p/d", "").ignore_value());
            let first = found(tx.range(KeyRange::prefix("p/")).await?);
            let part = found(tx.range(KeyRange::between("p/b", "p/d")).await?);
            tx.put("p/b", "again");
            tx.delete("p/c");
            let again = found(tx.range(KeyRange::prefix("p/")).await?);
            Ok::<_, Error>((first, part, again))
        });
        let (first, part, again) = run.await.unwrap().value;
        let pairs = |pairs: &[(&str, &str)]| -> Found {
            pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
        };
        assert_eq!(first, pairs(&[("p/a", "other"), ("p/c", "new"), ("p/d", "4")]));
        assert_eq!(part, pairs(&[("p/c", "new")]));
        assert_eq!(again, pairs(&[("p/a", "other"), ("p/b", "again"), ("p/d", "4")]));
        let left = store.get_prefix("p/").await.unwrap();
        let left = found(left.into_iter().map(|kv| (kv.key, kv.value)).collect());
        assert_eq!(left, again, "the store has what the transaction saw last, at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn delete_range_returns_the_number_of_deleted_keys() {
    for level in LEVELS {
        let (store, interfere) = (store_with(&[("p/a", 1), ("p/b", 2), ("q", 0)]).await, OneShot::new());
        let stm = Stm::new(&another(&store)).isolation(level);
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
        assert_eq!((left, stored(&store, "q").await), (usize::from(!strong), 0), "at {level}");
    }
}

/// A store that takes eight operations, with the keys r0 to r7.
async fn small_store() -> Client {
    let limits = Limits { max_txn_ops: 8, ..Limits::default() };
    let store = Client::new(MemBackend::builder().limits(limits).build());
    let numbers: Vec<_> = (0..8).map(|n| (format!("r{n}"), n)).collect();
    let numbers: Vec<_> = numbers.iter().map(|(key, n)| (&key[..], *n)).collect();
    put_all(&store, &numbers).await;
    store
}

/// What a transaction costs that reads `reads` keys and, if asked, the empty range `e/`, and puts
/// `unread` other keys; or the count and the limit that it is refused with.
async fn sized(
    level: Isolation,
    (reads, range, unread, marked): (usize, bool, usize, bool),
) -> (String, Option<(usize, usize)>) {
    let (store, record) = (small_store().await, Recorder::new());
    let mut stm = Stm::new(&behind(&store, record.clone())).isolation(level);
    if marked {
        stm = stm.exactly_once(&session(&store).await);
    }
    let run = stm.run(async |tx| {
        tx.get_many((0..reads).map(|n| format!("r{n}"))).await?;
        if range {
            tx.range(KeyRange::prefix("e/")).await?;
        }
        for n in 0..unread {
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
    let [snapshot, serializable, repeatable, committed] = LEVELS;
    let rows = [
        // Writes alone, up to the limit and over it; a idempotency_key is one more.
        (snapshot, (0, false, 8, false), "txn", None),
        (snapshot, (0, false, 9, false), "", Some((9, 8))),
        (snapshot, (0, false, 7, true), "txn", None),
        (snapshot, (0, false, 8, true), "", Some((9, 8))),
        // Reads and ranges are compared.
        (serializable, (7, true, 8, false), "txn range txn", None),
        (serializable, (8, true, 1, false), "txn range", Some((9, 8))),
        (serializable, (7, true, 1, true), "txn range", Some((9, 8))),
        (repeatable, (8, false, 8, false), "txn txn", None),
        // What is written unread is read before the commit, and compared.
        (snapshot, (4, false, 4, false), "txn txn txn", None),
        (snapshot, (5, false, 4, false), "txn", Some((9, 8))),
        (snapshot, (4, true, 4, false), "txn range", Some((9, 8))),
        // Nothing is compared.
        (committed, (8, true, 8, false), "txn range txn", None),
        (committed, (8, true, 9, false), "txn range", Some((9, 8))),
    ];
    for (level, size, requests, refused) in rows {
        let was = sized(level, size).await;
        assert_eq!(was, (requests.to_owned(), refused), "{size:?} at {level}");
    }
}

#[tokio::test(start_paused = true)]
async fn read_only_transactions_have_no_limit_at_the_strong_levels() {
    for level in STRONG_LEVELS {
        let (store, record) = (small_store().await, Recorder::new());
        let stm = Stm::new(&behind(&store, record.clone())).isolation(level);
        let read = stm.run(async |tx| tx.get_many((0..20).map(|n| format!("r{n}"))).await);
        let found = read.await.unwrap().value.into_iter().flatten().count();
        assert_eq!((found, &*record.take().names()), (8, "txn txn txn"), "at {level}");
    }
}
