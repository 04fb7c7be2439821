//! Go's tests of transactions.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;

use coord_core::stm::{StmError, Transaction};
use coord_core::{
    Client, Error, KvBackend, Stm,
    kv::{Put, Revision, Txn},
    stm::Isolation,
};
use futures_util::future::join_all;
use tokio::sync::{Barrier, Notify, mpsc};
use tokio::task::JoinSet;

use super::{Store, THERE, soon};

const KEYS: [&str; 5] = ["foo-0", "foo-1", "foo-2", "foo-3", "foo-4"];

async fn number(tx: &mut Transaction, key: &'static str) -> Result<i64, Error> {
    let text = tx.get_as::<String>(key).await?;
    Ok(text.map_or(0, |text| text.parse().expect("only numbers are put")))
}

/// The value of a key, now.
async fn value(kv: &dyn KvBackend, key: &str) -> Option<String> {
    let kv = kv.get(key.to_owned()).await.expect(THERE)?;
    Some(String::from_utf8_lossy(&kv.value).into_owned())
}

/// To read no keys at all is to be told of none. In Go it gives an empty string, as a key does that
/// is not there, or is empty; here the three are told apart.
pub(super) async fn get(store: Store) {
    let kv = store.client().await;
    kv.put("empty", "").await.expect(THERE);
    let stm = stm(kv).isolation(Isolation::Serializable);
    let read = stm.run(async |tx| {
        assert_eq!(tx.get_many::<&str>([]).await?, []);
        assert_eq!(tx.get_many(["none", "empty"]).await?, [None, Some("".into())]);
        Ok::<_, Error>(())
    });
    read.await.expect(THERE);
}

/// Five at once move money from one account to the next, and all of it is there in the end. Here
/// all have read before the first commits, so that conflicts are certain.
pub(super) async fn stm_conflict(store: Store) {
    let kv = store.client().await;
    for key in KEYS {
        kv.put(key, "100").await.expect(THERE);
    }
    let all_have_read = Barrier::new(KEYS.len());
    let transfer = async |n: usize| {
        let stm = stm(store.client_of(n).await).isolation(Isolation::RepeatableReads);
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
    for committed in soon(join_all((0..KEYS.len()).map(transfer))).await {
        conflicts += committed.expect(THERE).info.conflicts.len();
    }
    assert!(conflicts > 0, "two that share an account cannot both be the first");

    let mut sum = 0;
    for key in KEYS {
        sum += value(&*kv, key).await.expect("put above").parse::<i64>().expect("a number");
    }
    assert_eq!(sum, 500);
}

/// A key that was not there is, after the commit.
pub(super) async fn stm_put_new_key(store: Store) {
    let kv = store.client().await;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let put = stm.run(async |tx| {
        tx.put("foo", "bar");
        Ok::<_, Error>(())
    });
    put.await.expect(THERE);
    assert_eq!(value(&*kv, "foo").await.as_deref(), Some("bar"));
}

/// What is stopped has written nothing. In Go a context is cancelled; here the future is dropped,
/// or the closure gives up.
pub(super) async fn stm_abort(store: Store) {
    let kv = store.client().await;
    let stm = Stm::new(&kv).isolation(Isolation::RepeatableReads);
    let begun = Notify::new();
    {
        let mut stopped = pin!(stm.run(async |tx| {
            tx.put("foo", "baz");
            begun.notify_one();
            pending::<()>().await;
            tx.put("foo", "bap");
            Ok::<_, Error>(())
        }));
        tokio::select! {
            biased;
            _ = &mut stopped => panic!("it is never done"),
            () = begun.notified() => {}
        }
    }
    assert_eq!(value(&*kv, "foo").await, None);

    let gave_up = stm.run(async |tx| {
        tx.put("foo", "baz");
        Err::<Infallible, _>(Error::EmptyKey)
    });
    assert!(matches!(gave_up.await, Err(StmError::Aborted(Error::EmptyKey))));
    assert_eq!(value(&*kv, "foo").await, None);
}

/// Five keys are put together, five times; who reads them meanwhile never sees some of one time
/// and some of another.
pub(super) async fn stm_serialize(store: Store) {
    let (updated, mut updates) = mpsc::channel(1);
    let kv = store.client().await;
    let update = async move {
        for n in 0..5 {
            let put = |key| Put::new(key, n.to_string());
            kv.txn(Txn::new().and_then(KEYS.map(put))).await.expect(THERE);
            updated.send(()).await.expect("somebody reads");
        }
    };
    let read = async {
        let mut readers = JoinSet::new();
        for member in 0.. {
            if updates.recv().await.is_none() {
                break;
            }
            let reader = stm(store.client_of(member).await).isolation(Isolation::Serializable);
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
    let ((), read) = soon(async { tokio::join!(update, read) }).await;
    assert_eq!(read.len(), 5);
    for read in read {
        read.expect(THERE);
    }
}

/// A key that was read is deleted before the commit: there is exactly one more attempt.
pub(super) async fn stm_apply_on_concurrent_deletion(store: Store) {
    let kv = store.client().await;
    let put = kv.put("foo", "bar").await.expect(THERE);
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
    let receipt = run.await.expect(THERE).receipt;
    assert_eq!((attempts, receipt.attempts), (2, 2));
    let conflict = &receipt.conflicts[0];
    assert_eq!((conflict.seen, conflict.found), (put.header.revision, Revision::ZERO));
    assert_eq!(value(&*kv, "foo2").await.as_deref(), Some("bar2"));
}

/// A key that is written unread, and changed after the one that is read, is no conflict.
pub(super) async fn stm_serializable_snapshot_put(store: Store) {
    let kv = store.client().await;
    kv.put("a", "0").await.expect(THERE);
    let stm = Stm::new(&kv).isolation(Isolation::SerializableSnapshot);
    for _ in 0..2 {
        let committed = stm.run(async |tx| {
            tx.get("a").await?;
            tx.put("b", "1");
            Ok::<_, Error>(())
        });
        assert_eq!(committed.await.expect(THERE).info.attempts, 1);
    }
    let b = kv.get("b").await.expect(THERE).expect("put above");
    assert_eq!(b.version, 2);
}
