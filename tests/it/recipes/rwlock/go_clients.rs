//! Clients of Go's recipe `RWMutex` on the same lock.
//!
//! Go's client has one key, `NAME/read/<time>` or `NAME/write/<time>`. It waits for the key with
//! the largest *mod* revision below its own, of the writers or of all, until no such key is left.

use coord_core::kv::{
    EventKind, LeaseGrant, LeaseId, Put, Range, Revision, SortOrder, SortTarget, Watch,
};
use coord_core::recipes::RwLock;
use coord_core::{Client, Result};
use coord_mem::MemBackend;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::rwlock;
use crate::support::{keys, secs, session, settle, timed};
use crate::while_waiting::{while_waiting, while_waiting_after};

/// A client of Go's recipe.
///
/// Source: etcd 3.5 `client/v3/experimental/recipes/rwmutex.go`; the facts, not the text.
struct GoRwMutex {
    kv: Client,
    lease: LeaseId,
    key: String,
}

impl GoRwMutex {
    /// `number` distinguishes the time in its key, in nanoseconds, from other times.
    async fn new(store: &Client, number: u64) -> Self {
        let lease = store.lease_grant(LeaseGrant::new(secs(100_000))).await.unwrap().id;
        let key = (1_700_000_000_000_000_000 + number).to_string();
        Self { kv: store.clone(), lease, key }
    }

    async fn read(&mut self) -> Result<()> {
        self.lock("l/read", "l/write").await
    }

    async fn write(&mut self) -> Result<()> {
        self.lock("l/write", "l/").await
    }

    /// Creates a key below `own`, and waits for the keys below `others`.
    async fn lock(&mut self, own: &str, others: &str) -> Result<()> {
        self.key = format!("{own}/{}", self.key);
        let put = Put::new(&self.key, "").lease(self.lease);
        let created = self.kv.put_with(put).await?.header.revision;
        let last = Range::prefix(others)
            .sorted(SortTarget::ModRevision, SortOrder::Descending)
            .max_mod_revision(Revision(created.0 - 1))
            .limit(1);
        loop {
            let Some(ahead) = self.kv.range(last.clone()).await?.kvs.pop() else { return Ok(()) };
            let mut watch = self.kv.watch(Watch::new(ahead.key).start_at(created)).await?;
            while let Some(batch) = watch.next().await {
                if batch?.events.iter().any(|event| event.kind == EventKind::Delete) {
                    break;
                }
            }
        }
    }

    async fn unlock(self) {
        self.kv.delete(self.key).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn go_writer_and_coord_exclude_each_other() {
    let store = Client::new(MemBackend::new());
    let lock = rwlock(&store).await;
    let mut go = GoRwMutex::new(&store, 1).await;
    go.write().await.unwrap();
    assert!(lock.try_read().await.unwrap().is_none() && lock.try_write().await.unwrap().is_none());
    let unlock = async { go.unlock().await };
    let ((reader, elapsed), ()) = while_waiting_after(secs(5), timed(lock.read()), unlock).await;
    assert_eq!(elapsed, secs(5));
    let reader = reader.unwrap();
    let mut go = GoRwMutex::new(&store, 2).await;
    let unlock = async { reader.unlock().await.unwrap() };
    let ((locked, elapsed), ()) = while_waiting_after(secs(5), timed(go.write()), unlock).await;
    locked.unwrap();
    assert_eq!(elapsed, secs(5));
    let unlock = async { go.unlock().await };
    let ((writer, elapsed), ()) = while_waiting_after(secs(5), timed(lock.write()), unlock).await;
    assert_eq!(elapsed, secs(5));
    let mut go = GoRwMutex::new(&store, 3).await;
    let unlock = async { writer.unwrap().unlock().await.unwrap() };
    let ((locked, elapsed), ()) = while_waiting_after(secs(5), timed(go.read()), unlock).await;
    locked.unwrap();
    assert_eq!(elapsed, secs(5));
    let beside = lock.try_read().await.unwrap().expect("readers share the lock");
    assert!(lock.try_write().await.unwrap().is_none());
    drop(beside);
    go.unlock().await;
}

#[tokio::test(start_paused = true)]
async fn upgrade_waits_for_go_readers_and_is_refused_for_go_writers() {
    let store = Client::new(MemBackend::new());
    let reader = rwlock(&store).await.read().await.unwrap();
    let mut go = GoRwMutex::new(&store, 1).await;
    go.read().await.unwrap();
    let unlock = async { go.unlock().await };
    let ((writer, elapsed), ()) =
        while_waiting_after(secs(5), timed(reader.upgrade()), unlock).await;
    assert_eq!(elapsed, secs(5));
    let reader = writer.unwrap().downgrade().await.unwrap();
    let mut go = GoRwMutex::new(&store, 2).await;
    let (written, ()) = while_waiting(go.write(), async {
        let error = reader.upgrade().await.unwrap_err();
        assert!(error.is_refused(), "{error}");
        error.held.unlock().await.unwrap();
    })
    .await;
    written.unwrap();
    go.unlock().await;
}

/// A Go writer that waits orders keys by their mod revision. A downgrade must not change that of
/// the key that it waits for: with another reader between, the writer would enter beside the
/// downgraded lock.
#[tokio::test(start_paused = true)]
async fn go_writer_waits_for_a_downgraded_lock() {
    for is_upgraded in [false, true] {
        let store = Client::new(MemBackend::new());
        let lock = rwlock(&store).await;
        let writer = match is_upgraded {
            true => lock.read().await.unwrap().upgrade().await.unwrap(),
            false => lock.write().await.unwrap(),
        };
        let (between, mut go) = (rwlock(&store).await, GoRwMutex::new(&store, 1).await);
        let ((), (written, elapsed), ()) = tokio::join!(
            async {
                let reader = between.read().await.unwrap();
                sleep(secs(1)).await;
                reader.unlock().await.unwrap();
            },
            async {
                settle().await;
                timed(go.write()).await
            },
            async {
                sleep(secs(2)).await;
                let reader = writer.downgrade().await.unwrap();
                sleep(secs(3)).await;
                reader.unlock().await.unwrap();
            }
        );
        written.unwrap();
        assert_eq!(elapsed, secs(5) - secs(1) / 5, "when the downgraded lock is unlocked");
        go.unlock().await;
    }
}

#[tokio::test(start_paused = true)]
async fn go_reader_enters_when_the_lock_is_downgraded() {
    let store = Client::new(MemBackend::new());
    let writer = rwlock(&store).await.write().await.unwrap();
    let mut go = GoRwMutex::new(&store, 1).await;
    let downgrade = async { writer.downgrade().await.unwrap() };
    let ((read, elapsed), reader) = while_waiting_after(secs(5), timed(go.read()), downgrade).await;
    read.unwrap();
    assert_eq!(elapsed, secs(5));
    drop(reader);
    go.unlock().await;
}

/// Go's `TestRWMutexMultiNode`, with clients of both: no writer is inside with another contender.
#[tokio::test(start_paused = true)]
async fn random_go_and_coord_clients_exclude_each_other() {
    let store = Client::new(MemBackend::new());
    let inside = std::sync::Arc::new(std::sync::Mutex::new((0_u32, 0_u32)));
    let mut rng = fastrand::Rng::with_seed(7);
    let mut clients = JoinSet::new();
    for number in 0..60 {
        let (is_go, is_writer) = (rng.bool(), rng.u8(..3) == 0);
        let (pause, hold) = (rng.u64(..3_000), rng.u64(..300));
        let (store, inside) = (store.clone(), std::sync::Arc::clone(&inside));
        let lock = RwLock::new(&session(&store).await, "l");
        clients.spawn(async move {
            sleep(std::time::Duration::from_millis(pause)).await;
            let mut go = GoRwMutex::new(&store, number).await;
            let guards = match (is_go, is_writer) {
                (true, true) => (go.write().await.map(|()| None).unwrap(), None),
                (true, false) => (go.read().await.map(|()| None).unwrap(), None),
                (false, true) => (None, Some(lock.write().await.unwrap())),
                (false, false) => (Some(lock.read().await.unwrap()), None),
            };
            {
                let mut inside = inside.lock().unwrap();
                let (readers, writers) = *inside;
                assert!(writers == 0 && (!is_writer || readers == 0), "{number}: {inside:?}");
                *inside = if is_writer { (0, 1) } else { (readers + 1, 0) };
            }
            sleep(std::time::Duration::from_millis(hold)).await;
            {
                let mut inside = inside.lock().unwrap();
                *inside = if is_writer { (0, 0) } else { (inside.0 - 1, 0) };
            }
            match guards {
                (None, None) => go.unlock().await,
                (Some(reader), _) => reader.unlock().await.unwrap(),
                (_, Some(writer)) => writer.unlock().await.unwrap(),
            }
        });
    }
    let started = Instant::now();
    timeout(secs(120), clients.join_all()).await.expect("all enter");
    assert!(started.elapsed() > secs(3));
    assert_eq!(keys(&store, "l/").await, [""; 0]);
}
