//! The read-write lock: exclusion, the order of contenders, upgrade and downgrade.

mod cancellation;
mod cost;
mod go_clients;
mod loss;

use coord_core::error::LossReason;
use coord_core::kv::{Compare, CompareOp, Put, Txn};
use coord_core::recipes::{RwLock, UpgradeFailure};
use coord_core::{Client, Mutex};
use coord_mem::MemBackend;
use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{keys, newest_revision, secs, session, settle, timed};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// The lock `l` on a client and a session of its own.
async fn rwlock(store: &Client) -> RwLock {
    RwLock::new(&session(store).await, "l")
}

#[tokio::test(start_paused = true)]
async fn readers_share_and_writer_excludes() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (rwlock(&store).await, rwlock(&store).await);
    let readers = [one.read().await.unwrap(), other.read().await.unwrap()];
    let third = one.try_read().await.unwrap().expect("only readers hold it");
    let before = newest_revision(&store).await;
    assert!(other.try_write().await.unwrap().is_none());
    assert_eq!(newest_revision(&store).await, before, "nothing was written");
    drop((readers, third));
    settle().await;
    let writer = other.write().await.unwrap();
    let before = newest_revision(&store).await;
    assert!(one.try_read().await.unwrap().is_none() && one.try_write().await.unwrap().is_none());
    assert_eq!(newest_revision(&store).await, before, "nothing was written");
    assert!(timeout(secs(60), one.read()).await.is_err());
    assert!(timeout(secs(60), one.write()).await.is_err());
    settle().await;
    writer.unlock().await.unwrap();
    assert_eq!(keys(&store, "l/").await, [""; 0]);
    drop(one.try_write().await.unwrap().expect("the lock is free"));
}

/// A key that another owner of the lease has created belongs to that owner.
#[tokio::test(start_paused = true)]
async fn contender_skips_keys_of_another_lease_owner() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let lock = RwLock::new(&session, "l");
    let reader = lock.read().await.unwrap();
    let read_key = reader.key().clone();
    reader.unlock().await.unwrap();
    let writer = lock.write().await.unwrap();
    let write_key = writer.key().clone();
    writer.unlock().await.unwrap();

    // The next contenders would create the same keys again.
    let create = |key| store.put_with(Put::new(key, "").lease(session.lease_id()));
    create(read_key.clone()).await.unwrap();
    let reader = lock.read().await.unwrap();
    assert_ne!(reader.key(), &read_key);
    reader.unlock().await.unwrap();
    assert!(store.get(read_key.clone()).await.unwrap().is_some());

    create(write_key.clone()).await.unwrap();
    let (writer, _) = tokio::join!(lock.write(), async {
        settle().await;
        store.delete(read_key).await.unwrap();
        store.delete(write_key.clone()).await.unwrap()
    });
    let writer = writer.unwrap();
    assert_ne!(writer.key(), &write_key, "it has waited for the other owner's key");
    writer.unlock().await.unwrap();
}

/// No writer starvation: a reader that comes after a waiting writer waits for it.
#[tokio::test(start_paused = true)]
async fn reader_behind_a_waiting_writer_waits() {
    let store = Client::new(MemBackend::new());
    let reader = rwlock(&store).await.read().await.unwrap();
    let (writer, late) = (rwlock(&store).await, rwlock(&store).await);
    let mut waiting = JoinSet::new();
    waiting.spawn(async move {
        let guard = writer.write().await.unwrap();
        tokio::time::sleep(secs(1)).await;
        let revision = guard.header().revision;
        guard.unlock().await.unwrap();
        ("writer", revision)
    });
    settle().await;
    assert!(late.try_read().await.unwrap().is_none(), "a writer waits");
    waiting.spawn(async move { ("reader", late.read().await.unwrap().header().revision) });
    settle().await;
    reader.unlock().await.unwrap();
    let mut order = waiting.join_all().await;
    order.sort_by_key(|(_, revision)| *revision);
    assert_eq!(order.iter().map(|(usage, _)| *usage).collect::<Vec<_>>(), ["writer", "reader"]);
}

#[tokio::test(start_paused = true)]
async fn readers_behind_a_writer_enter_together() {
    let store = Client::new(MemBackend::new());
    let writer = rwlock(&store).await.write().await.unwrap();
    let locks = join_all((0..9).map(|_| rwlock(&store))).await;
    let reading = join_all(locks.iter().map(|lock| timed(lock.read())));
    let unlock = async { writer.unlock().await.unwrap() };
    let (readers, ()) = while_waiting_after(secs(5), reading, unlock).await;
    for (reader, elapsed) in &readers {
        assert_eq!((reader.is_ok(), *elapsed), (true, secs(5)));
    }
}

#[tokio::test(start_paused = true)]
async fn fencing_tokens_of_writers_increase() {
    let store = Client::new(MemBackend::new());
    let lock = rwlock(&store).await;
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let reader = lock.read().await.unwrap();
        let read_with = reader.fencing_token();
        let writer = reader.upgrade().await.unwrap();
        let written_with = writer.fencing_token();
        let reader = writer.downgrade().await.unwrap();
        assert!(read_with < written_with);
        assert_eq!(reader.fencing_token(), written_with, "not that of the first read");
        reader.unlock().await.unwrap();
        let writer = lock.write().await.unwrap();
        tokens.extend([written_with, writer.fencing_token()]);
        writer.unlock().await.unwrap();
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test(start_paused = true)]
async fn upgrade_waits_for_other_readers_and_admits_no_contender() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (rwlock(&store).await, rwlock(&store).await);
    let (reader, beside) = (one.read().await.unwrap(), other.read().await.unwrap());
    let (late_reader, late_writer) = (rwlock(&store).await, rwlock(&store).await);
    let (upgraded, read, written, ()) = tokio::join!(
        async {
            let (writer, elapsed) = timed(reader.upgrade()).await;
            assert_eq!(keys(&store, "l/").await.len(), 2 + 1 + 2, "no other contender has entered");
            writer.unwrap().unlock().await.unwrap();
            elapsed
        },
        async {
            settle().await;
            assert!(late_reader.try_read().await.unwrap().is_none(), "an upgrade waits");
            let (reader, elapsed) = timed(late_reader.read()).await;
            reader.unwrap().unlock().await.unwrap();
            elapsed
        },
        async {
            settle().await;
            settle().await;
            let (writer, elapsed) = timed(late_writer.write()).await;
            writer.unwrap().unlock().await.unwrap();
            elapsed
        },
        async {
            tokio::time::sleep(secs(5)).await;
            beside.unlock().await.unwrap();
        }
    );
    assert_eq!(upgraded, secs(5));
    assert!(secs(4) < read && read < secs(6) && secs(4) < written && written < secs(6));
    settle().await;
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

/// Each of two upgrades would wait for the reader's key of the other.
#[tokio::test(start_paused = true)]
async fn second_upgrade_is_refused_and_returns_its_guard() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (rwlock(&store).await, rwlock(&store).await);
    let (first, second) = (one.read().await.unwrap(), other.read().await.unwrap());
    let (upgraded, ()) = while_waiting(timed(first.upgrade()), async {
        let before = newest_revision(&store).await;
        let error = second.upgrade().await.unwrap_err();
        assert_eq!(newest_revision(&store).await, before, "nothing was written");
        let UpgradeFailure::Refused { writer } = &error.cause else { panic!("{error}") };
        assert!(writer.starts_with(b"l/write/") && error.is_refused());
        let text = format!("{error}");
        assert!(text.contains("unlock, and lock for writing"), "{text}");
        let second = error.held;
        second.txn(Txn::new()).await.unwrap();
        second.unlock().await.unwrap();
    })
    .await;
    let (writer, elapsed) = upgraded;
    writer.unwrap().unlock().await.unwrap();
    assert!(elapsed < secs(1), "{elapsed:?}");
}

/// The writer waits for the reader's key, and the upgrade would wait for the writer's.
#[tokio::test(start_paused = true)]
async fn upgrade_behind_a_waiting_writer_is_refused() {
    let store = Client::new(MemBackend::new());
    let reader = rwlock(&store).await.read().await.unwrap();
    let writer = rwlock(&store).await;
    let (written, ()) = while_waiting(timed(writer.write()), async {
        let error = reader.upgrade().await.unwrap_err();
        assert!(error.is_refused(), "{error}");
        error.held.unlock().await.unwrap();
    })
    .await;
    assert!(written.0.is_ok() && written.1 < secs(1));
}

/// The keys of child names are in the ranges of the keys of readers and writers.
#[tokio::test(start_paused = true)]
async fn locks_of_child_names_do_not_stop_upgrade_or_try() {
    let store = Client::new(MemBackend::new());
    let session = session(&store).await;
    let _below = RwLock::new(&session, "l/write/x").write().await.unwrap();
    let _mutex = Mutex::new(&session, "l/read/x").lock().await.unwrap();
    let lock = rwlock(&store).await;
    let reader = lock.try_read().await.unwrap().expect("the lock is free");
    reader.upgrade().await.unwrap().unlock().await.unwrap();
    lock.try_write().await.unwrap().expect("the lock is free").unlock().await.unwrap();
    let plain = Mutex::new(&session, "l").try_lock().await.unwrap();
    assert!(plain.is_some(), "a mutex of the same name is another lock");
}

#[tokio::test(start_paused = true)]
async fn downgrade_admits_readers_and_no_writer() {
    for is_upgraded in [false, true] {
        let store = Client::new(MemBackend::new());
        let lock = rwlock(&store).await;
        let writer = if is_upgraded {
            lock.read().await.unwrap().upgrade().await.unwrap()
        } else {
            lock.write().await.unwrap()
        };
        let (reader, late) = (rwlock(&store).await, rwlock(&store).await);
        let (read, written, ()) = tokio::join!(
            async {
                let (reader, elapsed) = timed(reader.read()).await;
                reader.unwrap().unlock().await.unwrap();
                elapsed
            },
            async {
                settle().await;
                let (writer, elapsed) = timed(late.write()).await;
                writer.unwrap().unlock().await.unwrap();
                elapsed + secs(1) / 5
            },
            async {
                tokio::time::sleep(secs(2)).await;
                let downgraded = writer.downgrade().await.unwrap();
                tokio::time::sleep(secs(2)).await;
                assert!(lock.try_read().await.unwrap().is_none(), "a writer waits");
                downgraded.txn(Txn::new()).await.unwrap();
                downgraded.unlock().await.unwrap();
            }
        );
        assert_eq!((read, written), (secs(2), secs(4)), "with the downgrade, with the unlock");
        settle().await;
        assert_eq!(keys(&store, "l/").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn downgraded_lock_can_be_upgraded_again() {
    let store = Client::new(MemBackend::new());
    let mut writer = rwlock(&store).await.write().await.unwrap();
    for _ in 0..3 {
        writer = writer.downgrade().await.unwrap().upgrade().await.unwrap();
        assert_eq!(keys(&store, "l/").await.len(), 2);
    }
    writer.unlock().await.unwrap();
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn tokens_of_a_guard_end_with_upgrade_and_downgrade() {
    let store = Client::new(MemBackend::new());
    let reader = rwlock(&store).await.read().await.unwrap();
    let of_reader = reader.cancellation_token();
    let writer = reader.upgrade().await.unwrap();
    let of_writer = writer.cancellation_token();
    settle().await;
    assert!(of_reader.is_cancelled() && !of_writer.is_cancelled());
    let reader = writer.downgrade().await.unwrap();
    assert!(of_writer.is_cancelled());
    let again = reader.cancellation_token();
    let (reason, deleted) = while_waiting(reader.lost(), store.delete(reader.key())).await;
    deleted.unwrap();
    assert_eq!(reason, LossReason::KeyDeleted);
    settle().await;
    assert!(again.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn late_write_of_a_former_writer_is_refused() {
    let store = Client::new(MemBackend::new());
    let (one, other) = (rwlock(&store).await, rwlock(&store).await);
    let old = one.write().await.unwrap();
    let expected = Compare::create_revision(old.key(), CompareOp::Equal, old.fencing_token().0);
    assert_eq!(old.held_condition(), expected);
    store.delete(old.key()).await.unwrap();
    settle().await;
    // The reader's key of the writer is still there, so a writer waits, and a reader enters.
    drop(other.try_read().await.unwrap().expect("no writer is ahead"));
    assert!(other.try_write().await.unwrap().is_none());
    let late = old.txn(Txn::new().and_then([Put::new("a", "late")])).await.unwrap_err();
    assert_eq!(late.loss(), Some(LossReason::KeyDeleted));
    let error = old.downgrade().await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted), "it does not read what another wrote");
    drop(error);
    settle().await;
    other.try_write().await.unwrap().expect("the lock is free").unlock().await.unwrap();
}
