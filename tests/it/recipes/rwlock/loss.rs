//! Loss of a read-write lock, and waits with watches that end or are silent.

use std::time::Duration;

use coord_core::error::LossReason;
use coord_core::kv::Compact;
use coord_core::recipes::RwLock;
use coord_core::{Client, Error};
use coord_mem::MemBackend;
use coord_testkit::{Action, Recorder};
use tokio::time::{Instant, sleep};

use super::rwlock;
use crate::support::{
    SilentWatches, intercepted, keys, only, secs, session, session_on, settle, timed,
};
use crate::watch_faults::WatchFaults;
use crate::while_waiting::{while_waiting, while_waiting_after};

/// A reader's keep-alives stop. A writer must not enter before the reader is notified.
#[tokio::test(start_paused = true)]
async fn reader_loses_lock_before_a_writer_enters() {
    for rate in [1.0, 1.05] {
        let store = Client::new(MemBackend::builder().lease_clock_rate(rate).build());
        let partitioned = intercepted(&store, only("lease_keep_alive", Action::Hang));
        let reader = RwLock::new(&session_on(partitioned).await, "l").read().await.unwrap();
        let writer = rwlock(&store).await;
        let ((reason, lost_at), entered_at) =
            tokio::join!(async { (reader.lost().await, Instant::now()) }, async {
                drop(writer.write().await.unwrap());
                Instant::now()
            });
        assert_eq!(reason, LossReason::DeadlineUnconfirmed);
        assert!(lost_at < entered_at, "clock rate {rate}");
    }
}

/// etcd issue 16221: Go's `RWMutex` succeeds after its lease has ended.
#[tokio::test(start_paused = true)]
async fn rwlock_waiter_fails_at_once_when_its_session_is_lost() {
    for (is_writer, is_revoked) in [(false, false), (true, false), (false, true), (true, true)] {
        let store = Client::new(MemBackend::new());
        let _holder = rwlock(&store).await.write().await.unwrap();
        let waiter_session = session(&store).await;
        let waiter = RwLock::new(&waiter_session, "l");
        let waiting = async {
            match is_writer {
                true => waiter.write().await.map(drop),
                false => waiter.read().await.map(drop),
            }
        };
        let end = async {
            match is_revoked {
                true => drop(store.lease_revoke(waiter_session.lease_id()).await.unwrap()),
                false => waiter_session.close().await.unwrap(),
            }
        };
        let ((result, elapsed), ()) = while_waiting_after(secs(1), timed(waiting), end).await;
        let reason = if is_revoked { LossReason::Revoked } else { LossReason::Closed };
        assert_eq!((result.unwrap_err().loss(), elapsed), (Some(reason), secs(1)));
    }
}

/// A reader has no watch on its own key for its admission, and is notified all the same.
#[tokio::test(start_paused = true)]
async fn evicted_rwlock_waiter_fails_at_once() {
    for is_writer in [false, true] {
        let store = Client::new(MemBackend::new());
        let holder = rwlock(&store).await.write().await.unwrap();
        let waiter = rwlock(&store).await;
        let waiting = async {
            match is_writer {
                true => waiter.write().await.map(drop),
                false => waiter.read().await.map(drop),
            }
        };
        let queue = if is_writer { "l/write/" } else { "l/read/" };
        let evict = async {
            let mut all = store.get_prefix(queue).await.unwrap();
            all.sort_by_key(|kv| kv.create_revision);
            let own = all.pop().expect("the waiter is enqueued").key;
            store.delete(own).await.unwrap();
        };
        let ((result, elapsed), ()) = while_waiting_after(secs(1), timed(waiting), evict).await;
        assert_eq!(result.unwrap_err().loss(), Some(LossReason::KeyDeleted));
        assert_eq!(elapsed, secs(1));
        settle().await;
        holder.unlock().await.unwrap();
        assert_eq!(keys(&store, "l/").await, [""; 0], "also the writer's other key");
    }
}

/// The upgrade fails, and the reader still holds the lock.
#[tokio::test(start_paused = true)]
async fn evicted_upgrade_returns_the_guard_of_the_reader() {
    let store = Client::new(MemBackend::new());
    let (reader, beside) = (rwlock(&store).await, rwlock(&store).await);
    let (reader, beside) = (reader.read().await.unwrap(), beside.read().await.unwrap());
    let (upgraded, ()) = while_waiting(reader.upgrade(), async {
        let own = keys(&store, "l/write/").await.remove(0);
        store.delete(own).await.unwrap();
    })
    .await;
    let error = upgraded.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
    let reader = error.held;
    reader.txn(coord_core::kv::Txn::new()).await.unwrap();
    beside.unlock().await.unwrap();
    let writer = reader.upgrade().await.unwrap();
    writer.unlock().await.unwrap();
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn upgrade_of_a_lost_reader_is_a_loss() {
    let store = Client::new(MemBackend::new());
    let reader = rwlock(&store).await.read().await.unwrap();
    store.delete(reader.key()).await.unwrap();
    let error = reader.upgrade().await.unwrap_err();
    assert_eq!(error.loss(), Some(LossReason::KeyDeleted));
    assert!(!error.is_refused());
}

#[tokio::test(start_paused = true)]
async fn rwlock_waiters_survive_compaction_and_ended_watches() {
    for is_writer in [false, true] {
        let store = Client::new(MemBackend::new());
        let holder = rwlock(&store).await.write().await.unwrap();
        let unavailable = || {
            let (reason, source) = ("no member responds".to_owned(), None);
            Error::Unavailable { outcome: coord_core::error::Outcome::Unknown, reason, source }
        };
        let ending = move || (Duration::from_millis(300), Some(unavailable()));
        let faulty = session_on(Client::new(WatchFaults::new(store.clone(), ending))).await;
        let waiter = RwLock::new(&faulty, "l");
        let waiting = async {
            match is_writer {
                true => waiter.write().await.map(drop),
                false => waiter.read().await.map(drop),
            }
        };
        let ((result, elapsed), ()) = while_waiting(timed(waiting), async {
            sleep(secs(3)).await;
            let revision = store.put("other", "1").await.unwrap().header.revision;
            store.compact(Compact::new(revision)).await.unwrap();
            sleep(secs(2)).await;
            holder.unlock().await.unwrap();
        })
        .await;
        result.unwrap();
        assert!(elapsed < secs(6), "entered after {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rwlock_waiter_with_silent_watch_enters_within_ttl() {
    for is_writer in [false, true] {
        let store = Client::new(MemBackend::new());
        let holder = rwlock(&store).await.write().await.unwrap();
        let silent = session_on(intercepted(&store, SilentWatches(Recorder::new()))).await;
        let waiter = RwLock::new(&silent, "l");
        let waiting = async {
            match is_writer {
                true => waiter.write().await.map(drop),
                false => waiter.read().await.map(drop),
            }
        };
        let unlock = async { holder.unlock().await.unwrap() };
        let ((result, elapsed), ()) = while_waiting_after(secs(25), timed(waiting), unlock).await;
        result.unwrap();
        assert!(elapsed <= secs(31), "entered after {elapsed:?}");
    }
}
