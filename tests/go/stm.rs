//! Ported tests of transactions.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;

use coord_core::stm::{StmError, Transaction};
use coord_core::{
    Client, Error, Stm,
    kv::{Put, Txn},
    stm::Isolation,
};
use futures_util::future::join_all;
use tokio::sync::{Barrier, Notify, mpsc};
use tokio::task::JoinSet;

use super::{Store, in_time};

const KEYS: [&str; 5] = ["foo-0", "foo-1", "foo-2", "foo-3", "foo-4"];

async fn number(tx: &mut Transaction, key: &'static str) -> Result<i64, Error> {
    let text = tx.get_as::<String>(key).await?;
    Ok(text.map_or(0, |text| text.parse().unwrap()))
}

/// The current value of a key.
async fn value(kv: &Client, key: &str) -> Option<String> {
    let kv = kv.get(key.to_owned()).await.unwrap()?;
    Some(String::from_utf8_lossy(&kv.value).into_owned())
}

/// Reading no keys returns no values. In Go it returns an empty string, as for an absent key and
/// for an empty value; here the three differ.
pub(super) async fn get(store: Store) {
    let kv = store.client().await;
    kv.put("empty", "").await.unwrap();
    let stm = Stm::new(&kv).isolation(Isolation::Serializable);
    let read = stm.run(async |tx| {
        assert_eq!(tx.get_many::<&str>([]).await?, []);
        assert_eq!(tx.get_many(["none", "empty"]).await?, [None, Some("".into())]);
        Ok::<_, Error>(())
    });
    read.await.unwrap();
}

/// Five concurrent transfers between accounts keep the sum. All of them read before the first
/// transfer commits, so that conflicts are certain.
pub(super) async fn stm_conflict(store: Store) {
    let kv = store.client().await;
    for key in KEYS {
        kv.put(key, "100").await.unwrap();
    }
    let all_have_read = Barrier::new(KEYS.len());
    let transfer = async |n: usize| {
        let stm = Stm::new(&store.client_of(n).await).isolation(Isolation::RepeatableReads);
        let (from, to) = (KEYS[n], KEYS[(n + 1) % KEYS.len()]);
        let mut first = true;
        let transfer = async |tx: &mut Transaction| {
            let (source, target) = (number(tx, from).await?, number(tx, to).await?);
            if std::mem::take(&mut first) {
                all_have_read.wait().await;
            }
            let amount = source / 2;
            tx.put(from, (source - amount).to_string());
            tx.put(to, (target + amount).to_string());
            Ok::<_, Error>(())
        };
        stm.run(transfer).await
    };
    let mut conflicts = 0;
    for committed in in_time(join_all((0..KEYS.len()).map(transfer))).await {
        conflicts += committed.unwrap().info.conflicts.len();
    }
    assert!(conflicts > 0, "of two transfers that share an account, one conflicts");

    let mut sum = 0;
    for key in KEYS {
        sum += value(&kv, key).await.unwrap().parse::<i64>().unwrap();
    }
    assert_eq!(sum, 500);
}

/// A transaction creates an absent key.
pub(super) async fn stm_put_new_key(store: Store) {
    let kv = store.client().await;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let put = stm.run(async |tx| {
        tx.put("foo", "bar");
        Ok::<_, Error>(())
    });
    put.await.unwrap();
    assert_eq!(value(&kv, "foo").await.as_deref(), Some("bar"));
}

/// An aborted transaction writes nothing. In Go its context is cancelled; here its future is
/// dropped, or its closure returns an error.
pub(super) async fn stm_abort(store: Store) {
    let kv = store.client().await;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let begun = Notify::new();
    {
        let mut dropped = pin!(stm.run(async |tx| {
            tx.put("foo", "baz");
            begun.notify_one();
            pending::<()>().await;
            tx.put("foo", "bap");
            Ok::<_, Error>(())
        }));
        tokio::select! {
            biased;
            _ = &mut dropped => panic!("the closure never completes"),
            () = begun.notified() => {}
        }
    }
    assert_eq!(value(&kv, "foo").await, None);

    let aborted = stm.run(async |tx| {
        tx.put("foo", "baz");
        Err::<Infallible, _>(Error::EmptyKey)
    });
    assert!(matches!(aborted.await, Err(StmError::Aborted(Error::EmptyKey))));
    assert_eq!(value(&kv, "foo").await, None);
}

/// Five keys are written together, five times. A concurrent reader never sees values of two
/// different writes.
pub(super) async fn stm_serialize(store: Store) {
    let (updated, mut updates) = mpsc::channel(1);
    let kv = store.client().await;
    let update = async move {
        for n in 0..5 {
            let put = |key| Put::new(key, n.to_string());
            kv.txn(Txn::new().and_then(KEYS.map(put))).await.unwrap();
            updated.send(()).await.unwrap();
        }
    };
    let read = async {
        let mut readers = JoinSet::new();
        for member in 0.. {
            if updates.recv().await.is_none() {
                break;
            }
            let reader =
                Stm::new(&store.client_of(member).await).isolation(Isolation::Serializable);
            readers.spawn(async move {
                let read = reader.run(async |tx| {
                    let mut seen = Vec::new();
                    for key in KEYS {
                        seen.push(tx.get(key).await?);
                        tokio::task::yield_now().await;
                    }
                    assert!(seen.iter().all(|value| *value == seen[0]), "{seen:?}");
                    Ok::<_, Error>(())
                });
                read.await.map(|_| ())
            });
        }
        readers.join_all().await
    };
    let ((), read) = in_time(async { tokio::join!(update, read) }).await;
    assert_eq!(read.len(), 5);
    for read in read {
        read.unwrap();
    }
}

/// Deleting a key that was read, before the commit, costs exactly one more attempt.
pub(super) async fn stm_apply_on_concurrent_deletion(store: Store) {
    let kv = store.client().await;
    let put = kv.put("foo", "bar").await.unwrap();
    let other = store.client().await;
    let mut attempts = 0;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let run = stm.run(async |tx| {
        attempts += 1;
        tx.get("foo").await?;
        if attempts == 1 {
            other.delete("foo").await?;
        }
        tx.put("foo2", "bar2");
        Ok::<_, Error>(())
    });
    let info = run.await.unwrap().info;
    assert_eq!((attempts, info.attempts), (2, 2));
    let conflict = &info.conflicts[0];
    assert_eq!((conflict.read, conflict.found), (Some(put.header.revision), None));
    assert_eq!(value(&kv, "foo2").await.as_deref(), Some("bar2"));
}

/// A blind write of a key that was changed before the transaction started is no conflict, although
/// the key has a later mod revision than the key that the transaction reads.
pub(super) async fn stm_serializable_snapshot_put(store: Store) {
    let kv = store.client().await;
    kv.put("a", "0").await.unwrap();
    let stm = Stm::new(&kv).isolation(Isolation::SerializableSnapshot);
    for _ in 0..2 {
        let committed = stm.run(async |tx| {
            tx.get("a").await?;
            tx.put("b", "1");
            Ok::<_, Error>(())
        });
        assert_eq!(committed.await.unwrap().info.attempts, 1);
    }
    let b = kv.get("b").await.unwrap().unwrap();
    assert_eq!(b.version, 2);
}
