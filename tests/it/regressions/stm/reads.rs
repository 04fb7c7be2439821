//! Faults of reads: ranges, missing keys, snapshots, conflicts and the compare of the read set.

use coord_core::{
    Client, Error, Stm,
    kv::{KeyRange, Op, Range},
    stm::Isolation,
};
use coord_mem::MemBackend;
use coord_testkit::{Call, Recorder};

use super::go_stm::GoStm;
use super::{STRONG_LEVELS, put_all, value};
use crate::support::{intercepted, separate_client};

/// Issues 7383 and 9188, and etcd-io/zetcd 93: a transaction cannot read a range. A range that its
/// closure reads by other means is not protected.
#[tokio::test(start_paused = true)]
async fn range_read_conflicts_with_inserts_changes_and_deletes() {
    for isolation in STRONG_LEVELS {
        let store = Client::new(MemBackend::new());
        let mut go = GoStm::new(separate_client(&store), isolation);
        let counted = go.run(async |tx| {
            tx.get(&["total"]).await?;
            let found = store.range(Range::prefix("go/")).await?.kvs.len();
            store.put("go/late", "").await?;
            tx.put("total", &found.to_string());
            Ok(())
        });
        counted.await.unwrap();
        assert_eq!((go.attempts, value(&store, "total").await), (1, "0".to_owned()));

        put_all(&store, &["p/deleted", "p/changed"], "").await;
        for (other, attempts, total) in
            [("p/inserted", 2, "3"), ("p/changed", 2, "3"), ("q", 1, "3")]
        {
            let mut attempt = 0;
            let coord = Stm::new(&separate_client(&store)).isolation(isolation);
            let counted = coord.run(async |tx| {
                attempt += 1;
                let found = tx.range(KeyRange::prefix("p/")).await?.len();
                if attempt == 1 {
                    store.put(other, "changed").await?;
                }
                tx.put("total", found.to_string());
                Ok::<_, Error>(())
            });
            assert_eq!(counted.await.unwrap().info.attempts, attempts, "{other}");
            assert_eq!(value(&store, "total").await, total, "{other}");
        }
        let mut attempt = 0;
        let coord = Stm::new(&separate_client(&store)).isolation(isolation);
        let counted = coord.run(async |tx| {
            attempt += 1;
            let found = tx.range(KeyRange::prefix("p/")).await?.len();
            store.delete("p/deleted").await?;
            tx.put("total", found.to_string());
            Ok::<_, Error>(())
        });
        counted.await.unwrap();
        assert_eq!((attempt, value(&store, "total").await), (2, "2".to_owned()));
    }
}

/// PR 7079: `Get` of several keys returns one value, of a key that was read before if there is one,
/// and does not read the others.
#[tokio::test(start_paused = true)]
async fn get_many_returns_one_value_per_key() {
    let store = Client::new(MemBackend::new());
    store.put("x", "of x").await.unwrap();
    store.put("y", "of y").await.unwrap();
    let mut go = GoStm::new(separate_client(&store), Isolation::Serializable);
    let read = go.run(async |tx| {
        tx.get(&["y"]).await?;
        let one = tx.get(&["x", "y"]).await?;
        // x is not read, so its change is no conflict.
        store.put("x", "changed").await?;
        tx.put("copy", &one);
        Ok(one)
    });
    assert_eq!(read.await.unwrap(), "of y");
    assert_eq!(go.attempts, 1);

    let mut attempts = 0;
    let coord = Stm::new(&separate_client(&store)).isolation(Isolation::Serializable);
    let read = coord.run(async |tx| {
        attempts += 1;
        tx.get("y").await?;
        let both = tx.get_many(["x", "y"]).await?;
        if attempts == 1 {
            store.put("x", "changed again").await?;
        }
        tx.put("copy", both[0].clone().unwrap_or_default());
        Ok::<_, Error>(both)
    });
    let read = read.await.unwrap();
    assert_eq!(read.value, [Some("changed again".into()), Some("of y".into())]);
    assert_eq!(read.info.attempts, 2);
}

/// No issue yet: a missing key, a deleted key and an empty value are read alike.
#[tokio::test(start_paused = true)]
async fn missing_key_differs_from_an_empty_value() {
    let store = Client::new(MemBackend::new());
    store.put("empty", "").await.unwrap();
    let mut go = GoStm::new(separate_client(&store), Isolation::Serializable);
    let read = go.run(async |tx| {
        tx.delete("gone");
        Ok([tx.get(&["none"]).await?, tx.get(&["empty"]).await?, tx.get(&["gone"]).await?])
    });
    assert_eq!(read.await.unwrap(), [""; 3]);

    let coord = Stm::new(&separate_client(&store));
    let read = coord.run(async |tx| {
        tx.delete("gone");
        tx.get_many(["none", "empty", "gone"]).await
    });
    assert_eq!(read.await.unwrap().value, [None, Some("".into()), None]);
}

/// Issue 7184 and PR 8439 fixed the deletion of a key that was read. The deletion of a key that is
/// written blindly is still no conflict, because a missing key counts as older than every snapshot.
#[tokio::test(start_paused = true)]
async fn concurrent_delete_conflicts_with_a_blind_write() {
    let store = Client::new(MemBackend::new());
    put_all(&store, &["read", "go", "k"], "before").await;
    let mut go = GoStm::new(separate_client(&store), Isolation::SerializableSnapshot);
    let written = go.run(async |tx| {
        tx.get(&["read"]).await?;
        store.delete("go").await?;
        tx.put("go", "resurrected");
        Ok(())
    });
    written.await.unwrap();
    assert_eq!(go.attempts, 1, "the deletion was not detected");

    let mut attempts = 0;
    let coord = Stm::new(&separate_client(&store)).isolation(Isolation::SerializableSnapshot);
    let written = coord.run(async |tx| {
        attempts += 1;
        tx.get("read").await?;
        if attempts == 1 {
            store.delete("k").await?;
        }
        tx.put("k", "put after the conflict");
        Ok::<_, Error>(())
    });
    let info = written.await.unwrap().info;
    assert_eq!(info.attempts, 2);
    assert_eq!((info.conflicts[0].key.as_ref(), info.conflicts[0].found), (b"k" as &[u8], None));
}

/// No issue yet: a prefetched key counts as read, so it conflicts even if no attempt uses it.
#[tokio::test(start_paused = true)]
async fn prefetched_key_conflicts_only_if_it_is_read() {
    let store = Client::new(MemBackend::new());
    let mut go = GoStm::new(separate_client(&store), Isolation::Serializable);
    let written = go.run(async |tx| {
        tx.get(&["a", "unused"]).await?; // what `WithPrefetch` does
        if tx.attempts == 1 {
            store.put("unused", "changed").await?;
        }
        let a = tx.get(&["a"]).await?;
        tx.put("b", &a);
        Ok(())
    });
    written.await.unwrap();
    assert_eq!(go.attempts, 2);

    let coord = Stm::new(&separate_client(&store))
        .isolation(Isolation::Serializable)
        .prefetch(["a", "unused"]);
    let written = coord.run(async |tx| {
        store.put("unused", "changed again").await?;
        let a = tx.get("a").await?;
        tx.put("b", a.unwrap_or_default());
        Ok::<_, Error>(())
    });
    assert_eq!(written.await.unwrap().info.attempts, 1);
}

/// No issue: a read-only transaction sends a commit.
#[tokio::test(start_paused = true)]
async fn read_only_transaction_sends_no_commit() {
    for isolation in STRONG_LEVELS {
        let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
        let kv = intercepted(&store, record.clone());
        let mut go = GoStm::new(kv.clone(), isolation);
        go.run(async |tx| tx.get(&["a"]).await).await.unwrap();
        assert_eq!(record.take().names(), "txn txn");

        let coord = Stm::new(&kv).isolation(isolation);
        coord.run(async |tx| tx.get("a").await).await.unwrap();
        assert_eq!(record.take().names(), "range");
    }
}

/// No issue yet: the documentation states "reads return data from the revision of the first read".
/// That is wrong if the first read is `Rev` of a key that the transaction has put.
#[tokio::test(start_paused = true)]
async fn attempt_starting_with_revision_of_sees_one_snapshot() {
    for isolation in STRONG_LEVELS {
        let store = Client::new(MemBackend::new());
        let first = put_all(&store, &["a", "b"], "1").await;
        let mut reads = Vec::new();
        let mut go = GoStm::new(separate_client(&store), isolation);
        let read = go.run(async |tx| {
            tx.put("a", "mine");
            let a = tx.revision_of("a").await?;
            if tx.attempts == 1 {
                put_all(&store, &["a", "b"], "2").await;
            }
            reads.push((a, tx.get(&["b"]).await?));
            Ok(())
        });
        read.await.unwrap();
        assert_eq!(reads[0], (first, "2".to_owned()), "a from before the put, b from after it");

        put_all(&store, &["a", "b"], "1").await;
        let mut attempts = 0;
        let coord = Stm::new(&separate_client(&store)).isolation(isolation);
        let read = coord.run(async |tx| {
            attempts += 1;
            tx.put("a", "mine");
            let a = tx.revision_of("a").await?;
            if attempts == 1 {
                put_all(&store, &["a", "b"], "2").await;
            }
            let b = tx.revision_of("b").await?;
            assert_eq!(a, b, "a and b are always put together");
            Ok::<_, Error>(())
        });
        read.await.unwrap();
        assert_eq!(attempts, 2);
    }
}

/// No issue yet: a retry that starts with another key takes its snapshot revision from it, but
/// other keys from the response of the failed commit, which is older.
#[tokio::test(start_paused = true)]
async fn retry_reading_other_keys_sees_one_snapshot() {
    for isolation in STRONG_LEVELS {
        let store = Client::new(MemBackend::new());
        put_all(&store, &["a", "c"], "1").await;
        let mut reads = Vec::new();
        let mut go = GoStm::new(separate_client(&store), isolation);
        let read = go.run(async |tx| {
            match tx.attempts {
                1 => {
                    tx.get(&["a"]).await?;
                    put_all(&store, &["a", "c"], "2").await;
                }
                attempt => {
                    if attempt == 2 {
                        put_all(&store, &["a", "c"], "3").await;
                    }
                    reads.push((tx.get(&["c"]).await?, tx.get(&["a"]).await?));
                }
            }
            tx.put("sum", "");
            Ok(())
        });
        read.await.unwrap();
        assert_eq!(reads[0], ("3".to_owned(), "2".to_owned()));

        let mut attempts = 0;
        let coord = Stm::new(&separate_client(&store)).isolation(isolation);
        let read = coord.run(async |tx| {
            attempts += 1;
            if attempts == 1 {
                tx.get("a").await?;
                put_all(&store, &["a", "c"], "4").await;
            } else {
                if attempts == 2 {
                    put_all(&store, &["a", "c"], "5").await;
                }
                assert_eq!(
                    tx.get("c").await?,
                    tx.get("a").await?,
                    "a and c are always put together"
                );
            }
            tx.put("sum", "");
            Ok::<_, Error>(())
        });
        read.await.unwrap();
        assert_eq!(attempts, 3);
    }
}

/// No issue yet: an error of the closure is returned even if its reads were inconsistent, which is
/// possible at `RepeatableReads`.
#[tokio::test(start_paused = true)]
async fn error_based_on_inconsistent_reads_is_not_returned() {
    let store = Client::new(MemBackend::new());
    put_all(&store, &["a", "b"], "1").await;
    let mut go = GoStm::new(separate_client(&store), Isolation::RepeatableReads);
    let aborted = go.run(async |tx| {
        let a = tx.get(&["a"]).await?;
        if tx.attempts == 1 {
            put_all(&store, &["a", "b"], "2").await;
        }
        if tx.get(&["b"]).await? == a { Ok(()) } else { Err(Error::EmptyKey) }
    });
    assert!(aborted.await.is_err(), "a and b are always equal");

    let mut attempts = 0;
    let coord = Stm::new(&separate_client(&store)).isolation(Isolation::RepeatableReads);
    let agrees = coord.run(async |tx| {
        attempts += 1;
        let a = tx.get("a").await?;
        if attempts == 1 {
            put_all(&store, &["a", "b"], "3").await;
        }
        if tx.get("b").await? == a { Ok(()) } else { Err(Error::EmptyKey) }
    });
    agrees.await.unwrap();
    assert_eq!(attempts, 2);
}

/// No issue yet: at `RepeatableReads` the compare of a read-only transaction has no operations, so
/// any member evaluates it, even a stale one.
#[tokio::test(start_paused = true)]
async fn compare_of_the_read_set_is_linearizable() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let kv = intercepted(&store, record.clone());
    let is_serializable_txn = |call: &Call| match call {
        Call::Txn(check) => check.failure.iter().all(is_serializable),
        _ => false,
    };
    let mut go = GoStm::new(kv.clone(), Isolation::RepeatableReads);
    let read = go.run(async |tx| Ok((tx.get(&["a"]).await?, tx.get(&["b"]).await?)));
    read.await.unwrap();
    assert!(is_serializable_txn(record.take().0.last().unwrap()));

    let coord = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let read = coord.run(async |tx| Ok::<_, Error>((tx.get("a").await?, tx.get("b").await?)));
    read.await.unwrap();
    let calls = record.take();
    assert_eq!(calls.names(), "range range txn");
    assert!(!is_serializable_txn(calls.0.last().unwrap()));
}

fn is_serializable(op: &Op) -> bool {
    matches!(op, Op::Range(range) if range.serializable)
}

/// No issue yet: the operations of a commit have the order of a hash map.
#[tokio::test(start_paused = true)]
async fn equal_transactions_send_equal_requests() {
    let (store, record) = (Client::new(MemBackend::new()), Recorder::new());
    let coord = Stm::new(&intercepted(&store, record.clone()));
    let mut keys = ["c", "a", "d", "b"];
    let mut sent = Vec::new();
    for _ in 0..2 {
        let put = coord.run(async |tx| {
            keys.iter().for_each(|key| tx.put(*key, "1"));
            Ok::<_, Error>(())
        });
        put.await.unwrap();
        sent.push(record.take());
        keys.reverse();
    }
    assert_eq!(sent[0], sent[1]);
}
